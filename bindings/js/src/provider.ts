import { SlackwaterError } from '../wasm/interop.js'

/**
 * What wallets and nodes have in common (EIP-1193). `never` because libraries type their methods one by one: whatever has a
 * `request` fits.
 */
export interface Eip1193Provider {
  request(args: never): Promise<unknown>
}

/** A provider that takes any method. */
export interface RpcProvider {
  request(args: { method: string; params?: readonly unknown[] }): Promise<unknown>
}

/** @internal */
export function ask(provider: Eip1193Provider, method: string, params: readonly unknown[] = []): Promise<unknown> {
  return (provider as RpcProvider).request({ method, params })
}

/** A node at an address, as a provider. */
export function httpProvider(url: string | URL, options: { fetch?: typeof fetch; timeoutMs?: number } = {}): RpcProvider {
  const send = options.fetch ?? fetch
  let id = 0
  return {
    async request({ method, params = [] }) {
      const answer = await send(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ jsonrpc: '2.0', id: ++id, method, params }),
        signal: AbortSignal.timeout(options.timeoutMs ?? 20_000),
      })
      const reply = (await answer.json()) as { result?: unknown; error?: { code: number; message: string } }
      if (reply.error) throw Object.assign(new SlackwaterError('node_error', reply.error.message), { rpcCode: reply.error.code })
      return reply.result
    },
  }
}
