import type { HttpCall } from '../wasm/slackwater.js'
import { SlackwaterError } from '../wasm/interop.js'

/** Largest answer that is read; the core refuses more. */
const MAX_ANSWER_BYTES = 8 << 20

/** How the relayer is reached. */
export interface TransportOptions {
  /** Base address of the relayer. */
  url: string | URL
  /** Sent as `Authorization: Bearer …`. Never put an operator's key into a page. */
  apiKey?: string
  /** Instead of the global `fetch`. */
  fetch?: typeof fetch
  /** Time for one attempt, default 20 000. */
  timeoutMs?: number
}

/** @internal As the core's machines take it. */
export type Answer = readonly [status: number, retryAfter: string | undefined, body: Uint8Array]
/** @internal Likewise. */
export type Lost = readonly [kind: 'unreachable' | 'timeout' | 'broken', detail: string]
/** @internal */
export type SendResult = { answer: Answer } | { lost: Lost }

/** @internal Moves the core's calls. */
export class Transport {
  /** The relayer's address, as every page of this origin writes it. */
  readonly base: string
  readonly #options: TransportOptions

  constructor(options: TransportOptions) {
    try {
      this.base = new URL(options.url, globalThis.location?.href).href.replace(/\/+$/, '')
    } catch {
      throw new SlackwaterError('invalid_argument', `url: ${String(options.url)} is no address`)
    }
    this.#options = options
  }

  open(call: HttpCall, signal: AbortSignal): Promise<Response> {
    const { apiKey, fetch: send = fetch } = this.#options
    const headers = new Headers(call.headers)
    if (apiKey !== undefined) headers.set('authorization', `Bearer ${apiKey}`)
    return send(this.base + call.path, {
      method: call.method,
      headers,
      signal,
      redirect: 'error',
      credentials: 'omit',
      cache: 'no-store',
      ...(call.body === undefined ? {} : { body: call.body }),
    })
  }

  async send(call: HttpCall, signal?: AbortSignal): Promise<SendResult> {
    const limit = AbortSignal.timeout(this.#options.timeoutMs ?? 20_000)
    try {
      const response = await this.open(call, signal ? AbortSignal.any([signal, limit]) : limit)
      return { answer: await read(response) }
    } catch (error) {
      return { lost: lost(error, limit.aborted) }
    }
  }
}

/** @internal */
export async function read(response: Response): Promise<Answer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for (const reader = response.body?.getReader(); reader; ) {
    const { done, value } = await reader.read()
    if (done) break
    chunks.push(value)
    size += value.length
    if (size > MAX_ANSWER_BYTES) {
      await reader.cancel()
      break
    }
  }
  const body = new Uint8Array(size)
  let at = 0
  for (const chunk of chunks) {
    body.set(chunk, at)
    at += chunk.length
  }
  return [response.status, response.headers.get('retry-after') ?? undefined, body]
}

/** @internal `fetch` does not say how far a call got: only offline it is certain that it stayed here. */
export function lost(error: unknown, isLate: boolean): Lost {
  const detail = error instanceof Error ? error.message : String(error)
  if (isLate) return ['timeout', detail]
  const isOffline = typeof navigator !== 'undefined' && navigator.onLine === false
  return [isOffline ? 'unreachable' : 'broken', detail]
}

/** @internal Waits until an instant, or until the machine is online again, or the signal. */
export function until(instant: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason as Error)
    const stop = () => {
      clearTimeout(timer)
      reject(signal?.reason as Error)
    }
    const timer = setTimeout(
      () => {
        signal?.removeEventListener('abort', stop)
        resolve()
      },
      Math.min(Math.max(0, instant - Date.now()), 0x7fffffff),
    )
    signal?.addEventListener('abort', stop, { once: true })
  })
}
