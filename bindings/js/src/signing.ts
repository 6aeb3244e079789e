import type { ForwardRequest, ForwarderDomain, Hex, Quantity } from '../wasm/slackwater.js'
import { SlackwaterError } from '../wasm/interop.js'
import { heldLocks, hold, locked } from './locks.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'
import type { Wallet } from './wallet.js'

/** What a user wants done through a forwarder. */
export interface ForwardAsk {
  to: string
  data?: string
  /** Gas given to the target, default 200 000. */
  gas?: Quantity
  /** Wei, paid by whoever relays it. Default 0. */
  value?: Quantity
  /** The user's nonce at the forwarder. Default: the first free one at the time of signing. */
  nonce?: Quantity
  /** How long it may take, ms; default ten minutes. The longer, the cheaper. */
  withinMs?: number
  /** Last block time at which it may run, Unix seconds. Default: `withinMs` and five minutes from now. */
  deadline?: number
  /** The most that it may cost whoever relays it, wei. */
  maxCost?: Quantity
}

/** A request that a user can sign. */
export interface Unsigned {
  domain: ForwarderDomain
  /** It gets its nonce when it is signed, unless the caller has named one. */
  request: Omit<ForwardRequest, 'nonce'> & { nonce?: Quantity | undefined }
  withinMs?: number | undefined
  maxCost?: Quantity | undefined
}
/** A request that a user has signed. */
export interface Signed extends Unsigned {
  /** What it will be known by. */
  id: Hex
  request: ForwardRequest
  signature: Hex
}

const DEFAULT_GAS = 200_000
const DEFAULT_WITHIN_MS = 600_000
/** What the signed deadline leaves beyond the wanted one, seconds: a relayer keeps a margin for the chain's clock. */
const DEADLINE_MARGIN_S = 300

/** @internal */
export function unsigned(domain: ForwarderDomain, from: string, ask: ForwardAsk): Unsigned {
  const { to, data = '0x', gas = DEFAULT_GAS, value = 0, nonce, withinMs, maxCost } = ask
  const end = Math.floor((Date.now() + (withinMs ?? DEFAULT_WITHIN_MS)) / 1_000) + DEADLINE_MARGIN_S
  return { domain, request: { from, to, value, gas, nonce, deadline: ask.deadline ?? end, data }, withinMs, maxCost }
}

/** @internal The core's machine that assigns nonces. */
export interface Numbers {
  /** A nonce that `request` holds from now on: its own, or by the `answer` of the user's node. `held` names locked ones, one per line. */
  assign(domain: ForwarderDomain, request: ForwardRequest, answer: unknown, held: string): Promise<string>
  /** When a request that was assigned just now must be signed, Unix ms. */
  signBy(id: Hex): number
  /** It was signed, or will not be submitted. False if it was and does not hold its nonce. */
  signed(id: Hex, isSigned: boolean): boolean
}

/** @internal Functions of either module. */
export type Functions = Pick<
  typeof import('../wasm/slackwater.js'),
  'forwardDigest' | 'forwardTypedData' | 'checkedSignature' | 'nonceCall'
>

/** @internal Name of a nonce in storage, and of the lock on it. */
export const nonceKey = (chainId: Quantity, forwarder: string, from: string, nonce: Quantity) =>
  `nonce:${BigInt(chainId)}:${forwarder}:${from}:${nonce}`.toLowerCase()

/**
 * @internal Has requests signed. Each holds its nonce from then on: against other requests of this client in the core's
 * machine, against those of other clients and tabs of this origin by a lock, which falls with its page.
 */
export class Signing {
  readonly #numbers: Numbers
  readonly #core: Functions
  readonly #node: () => Eip1193Provider
  readonly #locks = new Map<Hex, () => void>()
  readonly #closed = new AbortController()

  constructor(numbers: Numbers, core: Functions, node: () => Eip1193Provider) {
    this.#numbers = numbers
    this.#core = core
    this.#node = node
  }

  async sign<T extends Unsigned>(wallet: Wallet, unsigned: T): Promise<T & Signed> {
    const { domain } = unsigned
    const { forwardDigest, forwardTypedData, checkedSignature, nonceCall } = this.#core
    const { from, nonce: named, deadline } = unsigned.request
    const call = nonceCall(domain.verifyingContract, from)
    const answer = named === undefined ? await ask(this.#node(), call.method, call.params) : undefined
    // One at a time: each must see what the others hold.
    const { id, request } = await locked('slackwater-nonces', async () => {
      const wanted = { ...unsigned.request, nonce: named ?? 0 }
      const request = { ...wanted, nonce: await this.#numbers.assign(domain, wanted, answer, await heldLocks()) }
      const id = forwardDigest(domain, request)
      const key = nonceKey(domain.chainId, domain.verifyingContract, from, request.nonce)
      this.release(id)
      this.#locks.set(id, await hold(key, Number(deadline) * 1_000))
      return { id, request }
    })
    try {
      const end = this.#numbers.signBy(id)
      const asking = async () => wallet.signTypedData(forwardTypedData(domain, request))
      const signature = checkedSignature(domain, request, await inTime(asking, end, this.#closed.signal))
      // One that the caller has named may be another's, too.
      if (!this.#numbers.signed(id, true) && named === undefined) throw new SlackwaterError('nonce_conflict', 'another request has taken the nonce')
      return { ...unsigned, id, request, signature }
    } catch (error) {
      this.discard(id)
      throw error
    }
  }

  /** The request will not be submitted: its nonce is free. */
  discard(id: Hex): void {
    this.#numbers.signed(id, false)
    this.release(id)
  }

  /** Its nonce needs no lock any more: it is free, or storage shows who has it. */
  release(id: Hex): void {
    this.#locks.get(id)?.()
    this.#locks.delete(id)
  }

  close(): void {
    this.#closed.abort(new SlackwaterError('closed', 'the client was closed before the wallet has answered'))
    for (const id of this.#locks.keys()) this.discard(id)
  }
}

/** What a wallet gives, unless it has not answered at `end`, or when all is over. */
async function inTime<T>(asking: () => Promise<T>, end: number, over: AbortSignal): Promise<T> {
  over.throwIfAborted()
  let stop!: () => void
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    const give = () => reject(new SlackwaterError('no_signature', 'the wallet has not answered in time'))
    timer = setTimeout(give, Math.max(0, end - Date.now()))
    over.addEventListener('abort', (stop = () => reject(over.reason as Error)))
  })
  return Promise.race([asking(), late]).finally(() => {
    clearTimeout(timer)
    over.removeEventListener('abort', stop)
  })
}
