import {
  LocalRelay,
  checkedSignature,
  forwardDigest,
  forwardTypedData,
  forwarderDomainCall,
  nonceCall,
  readForwarderDomain,
  readNonce,
} from '../wasm/page.js'
import type {
  Admitted,
  ForwardRequest,
  ForwardTypedData,
  ForwarderDomain,
  Hex,
  PageAccount,
  PageChain,
  PageRequest,
  Quantity,
} from '../wasm/page.js'
import { SlackwaterError } from '../wasm/interop.js'
import type { ModuleSource } from './module.js'
import { PageDriver } from './page-driver.js'
import type { PageAlert } from './page-driver.js'
import { init } from './page-init.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'
import { sessionKey } from './session.js'
import { indexedDbStorage, memoryStorage } from './storage.js'
import type { OutboxStorage } from './storage.js'
import type { Wallet } from './wallet.js'

export type { PageAlert } from './page-driver.js'

/** What {@link PageRelay.open} is told. */
export interface PageOptions {
  /** The user's own node. It is believed: there is no second one to compare with. */
  provider: Eip1193Provider
  chain: PageChain
  /** The key that pays, 32 bytes of hex. Default: this origin's own ({@link sessionKey}). */
  key?: string
  /** Where requests and signed transactions are kept. Pages with the same key must share it. Default: IndexedDB, else memory. */
  storage?: OutboxStorage
  /** What somebody should know, such as `underfunded`. */
  onAlert?: (alert: PageAlert) => void
  /** The WebAssembly module, if it is not beside this file. */
  module?: ModuleSource | Promise<ModuleSource>
}

/** What a user wants done through a forwarder. */
export interface PageAsk {
  /** The ERC-2771 forwarder that the target trusts. */
  forwarder: string
  to: string
  data?: string
  /** Gas given to the target, default 200 000. */
  gas?: Quantity
  /** Wei, paid by the session key. Default 0. */
  value?: Quantity
  /** The user's nonce at the forwarder; read from the node, and from what is queued, where absent. */
  nonce?: Quantity
  /** How long it may take, ms; default ten minutes. The longer, the cheaper. */
  withinMs?: number
  /** Last block time at which it may run, Unix seconds. Default: `withinMs` and five minutes from now. */
  deadline?: number
  /** The most that it may cost the session key, wei. */
  maxCost?: Quantity
}

/** What the session key calls itself. */
export interface PageCallAsk {
  to: string
  data?: string
  /** Gas given to the call, default 200 000. */
  gas?: Quantity
  value?: Quantity
  withinMs?: number
  maxCost?: Quantity
  /** The same call with the same salt is the same request. Default: random. */
  salt?: string
}

/** A request that a user can sign. */
export interface PageUnsigned {
  id: Hex
  domain: ForwarderDomain
  request: ForwardRequest
  typedData: ForwardTypedData
  withinMs?: number
  maxCost?: Quantity
}
/** A request that a user has signed. */
export interface PageSigned extends PageUnsigned {
  signature: Hex
}

/** When to stop following. */
export interface PageFollowOptions {
  /** At the first inclusion, which may be taken back, instead of the end. */
  toInclusion?: boolean
  signal?: AbortSignal
}

const DEFAULT_GAS = 200_000
const DEFAULT_WITHIN_MS = 600_000
/** What the signed deadline leaves beyond the wanted one, for the chain's clock. */
const DEADLINE_MARGIN_S = 300
/** Gas for whoever receives what is withdrawn. */
const WITHDRAW_GAS = 9_000
/** What stays behind for the L1 data fee, wei, where there is one. */
const L1_RESERVE = 20_000_000_000_000n

const isEnd = ({ status }: PageRequest) => ['finalized', 'reverted', 'rejected', 'expired', 'cancelled'].includes(status)

/**
 * A relay in the page, for where there is no relayer: it queues, batches and sends what users signed, and calls of its own,
 * from a session key that pays, through one node. Of all pages with the same key one drives; the others submit and see.
 */
export class PageRelay {
  /** The session key's address: top it up here. */
  readonly address: Hex
  readonly #options: PageOptions
  readonly #driver: PageDriver
  /** Next nonces by forwarder and user, where requests of this page are being signed. */
  readonly #nonces = new Map<string, bigint>()

  private constructor(options: PageOptions, driver: PageDriver, address: Hex) {
    this.#options = options
    this.#driver = driver
    this.address = address
  }

  /** Loads the module and what earlier pages have left, and drives it unless another page does. */
  static async open(options: PageOptions): Promise<PageRelay> {
    await init(options.module)
    const { provider, chain } = options
    const key = options.key ?? (await sessionKey())
    const machine = new LocalRelay(chain, key)
    const { address } = machine.account()
    machine.free()
    const told = await ask(provider, 'eth_chainId')
    if (BigInt(told as string) !== BigInt(chain.chainId)) {
      throw new SlackwaterError('wrong_chain', `the node is of chain ${BigInt(told as string)}, not ${chain.chainId}`)
    }
    const name = `slackwater-page-${BigInt(chain.chainId)}-${address.toLowerCase()}`
    const storage = options.storage ?? (typeof indexedDB === 'undefined' ? memoryStorage() : indexedDbStorage(name))
    const driver = new PageDriver(() => new LocalRelay(chain, key), name, storage, provider, BigInt(chain.chainId), options.onAlert)
    await driver.start()
    return new PageRelay(options, driver, address)
  }

  /** Stops. What has not ended goes on with the next {@link open} on the same storage, or in another page that is open. */
  close(): Promise<void> {
    return this.#driver.close()
  }

  /** Whether this page drives. */
  get isDriving(): boolean {
    return this.#driver.isDriving
  }

  /** What the session key owns now, wei. */
  async balance(): Promise<bigint> {
    return BigInt((await this.#ask('eth_getBalance', [this.address, 'latest'])) as string)
  }

  /** The session key's account as the driving page sees it. */
  account(): PageAccount | undefined {
    return this.#driver.account()
  }

  /** Prepares a request for its user's signature. Asks the node for what is not given. */
  async prepare(from: string, wanted: PageAsk): Promise<PageUnsigned> {
    const { forwarder, to, data = '0x', gas = DEFAULT_GAS, value = 0, withinMs, maxCost } = wanted
    const domain = readForwarderDomain(await this.#asked(forwarderDomainCall(forwarder)))
    const { chainId } = this.#options.chain
    if (BigInt(domain.chainId) !== BigInt(chainId) || domain.verifyingContract.toLowerCase() !== forwarder.toLowerCase()) {
      throw new SlackwaterError('wrong_chain', `the forwarder says that it is of chain ${domain.chainId}, not ${chainId}`)
    }
    const place = `${forwarder}:${from}`.toLowerCase()
    let nonce = wanted.nonce
    if (nonce === undefined) {
      const nonces = [BigInt(readNonce(await this.#asked(nonceCall(forwarder, from)))), this.#nonces.get(place) ?? 0n]
      for (const request of this.requests()) {
        const own = request.place
        if (own && !isEnd(request) && `${own.forwarder}:${own.from}`.toLowerCase() === place) nonces.push(BigInt(own.nonce) + 1n)
      }
      nonce = nonces.reduce((most, next) => (next > most ? next : most))
    }
    this.#nonces.set(place, BigInt(nonce) + 1n)
    const end = Math.floor((Date.now() + (withinMs ?? DEFAULT_WITHIN_MS)) / 1_000) + DEADLINE_MARGIN_S
    const request: ForwardRequest = { from, to, value, gas, nonce: String(nonce), deadline: wanted.deadline ?? end, data }
    return {
      id: forwardDigest(domain, request),
      domain,
      request,
      typedData: forwardTypedData(domain, request),
      ...(withinMs === undefined ? {} : { withinMs }),
      ...(maxCost === undefined ? {} : { maxCost }),
    }
  }

  /** Lets a wallet sign a request, and checks that it did. A user who declines leaves the nonce free. */
  async sign(wallet: Wallet, unsigned: PageUnsigned): Promise<PageSigned> {
    try {
      const signature = await wallet.signTypedData(unsigned.typedData)
      return { ...unsigned, signature: checkedSignature(unsigned.domain, unsigned.request, signature) }
    } catch (error) {
      this.#release(unsigned)
      throw error
    }
  }

  /** Queues a signed request. Resolves when it is durable; {@link follow} it from there. */
  async submit({ domain, request, signature, withinMs, maxCost }: PageSigned): Promise<PageRequest> {
    const admitted = this.#driver.admit((machine, open) =>
      machine.admitForward(Date.now(), domain, request, signature, limits(open, withinMs, maxCost)),
    )
    const taken = await this.#driver.enqueue(admitted)
    // From here on the queue knows the nonce.
    this.#release({ domain, request })
    return taken
  }

  /** Prepares, signs and queues. */
  async send(wallet: Wallet, wanted: PageAsk): Promise<PageRequest> {
    return this.submit(await this.sign(wallet, await this.prepare(await wallet.address(), wanted)))
  }

  /** Queues a call of the session key itself, which travels alone: the target sees the session key's address. */
  async call({ to, data = '0x', gas = DEFAULT_GAS, value = 0, withinMs, maxCost, salt }: PageCallAsk): Promise<PageRequest> {
    const call = { to, data, gas, value, salt: salt ?? crypto.randomUUID() }
    const admitted: Admitted = this.#driver.admit((machine, open) =>
      machine.admitCall(Date.now(), call, limits(open, withinMs, maxCost)),
    )
    return this.#driver.enqueue(admitted)
  }

  /**
   * Sends what the session key owns to `to`, but for what the transaction may cost; some of that stays behind. Refused with
   * `busy` while requests have not ended. `leave` stays behind in any case.
   */
  async withdraw(to: string, { leave, withinMs }: { leave?: Quantity; withinMs?: number } = {}): Promise<PageRequest> {
    if (this.requests().some((request) => !isEnd(request))) {
      throw new SlackwaterError('busy', 'requests have not ended; they may need what would be withdrawn')
    }
    const block = (await this.#ask('eth_getBlockByNumber', ['latest', false])) as { baseFeePerGas?: string } | null
    const tip = await this.#ask('eth_maxPriorityFeePerGas').then((fee) => BigInt(fee as string), () => 1_000_000_000n)
    const maxFee = BigInt(block?.baseFeePerGas ?? 0) * 3n + tip
    // As a transaction with this call is built: intrinsic gas, the call's, and what EIP-150 keeps back.
    const gasLimit = 21_000n + BigInt(WITHDRAW_GAS) + BigInt(Math.ceil(WITHDRAW_GAS / 63))
    const kept = BigInt(leave ?? (this.#options.chain.l1FeeOracle ? L1_RESERVE : 0n))
    const balance = await this.balance()
    const value = balance - kept - maxFee * gasLimit
    if (value <= 0n) throw new SlackwaterError('nothing_to_withdraw', `${balance} wei do not pay for the transaction`)
    return this.call({ to, value, gas: WITHDRAW_GAS, maxCost: balance, ...(withinMs === undefined ? {} : { withinMs }) })
  }

  /** A request; `undefined` for one that is not known (any more). */
  request(id: string): PageRequest | undefined {
    return this.#driver.views.get(id as Hex)
  }

  /** All requests of this session key that are known, in order of arrival. */
  requests(): PageRequest[] {
    return [...this.#driver.views.values()].sort((a, b) => a.acceptedAt - b.acceptedAt)
  }

  /** Withdraws a request that is in no transaction; `too_late` otherwise. It ends as `cancelled`. */
  cancel(id: string): Promise<void> {
    return this.#driver.tell('cancel', id)
  }

  /** Forgets a request that has ended. Without it, it is forgotten after a day. */
  acknowledge(id: string): Promise<void> {
    return this.#driver.tell('acknowledge', id)
  }

  /** What becomes of a request, from now to its end. */
  async *follow(id: string, { toInclusion = false, signal }: PageFollowOptions = {}): AsyncGenerator<PageRequest, void, undefined> {
    let told = ''
    for (;;) {
      signal?.throwIfAborted()
      const next = this.#driver.changed()
      const request = this.request(id)
      if (!request) throw new SlackwaterError('not_found', `request ${id} is not known`)
      const now = JSON.stringify(request)
      if (now !== told) {
        told = now
        yield request
      }
      if (isEnd(request) || (toInclusion && request.status === 'included')) return
      // A change during the pause of `yield` has settled it already.
      await next(signal)
    }
  }

  /** Follows a request and returns it as it ended. */
  async settled(id: string, options?: PageFollowOptions): Promise<PageRequest> {
    let last: PageRequest | undefined
    for await (const request of this.follow(id, options)) last = request
    if (!last) throw new SlackwaterError('not_found', `request ${id} is not known`)
    return last
  }

  #release({ domain, request }: { domain: ForwarderDomain; request: ForwardRequest }): void {
    this.#nonces.delete(`${domain.verifyingContract}:${request.from}`.toLowerCase())
  }

  #ask(method: string, params: readonly unknown[] = []): Promise<unknown> {
    return ask(this.#options.provider, method, params)
  }

  #asked({ method, params }: { method: string; params: unknown[] }): Promise<unknown> {
    return this.#ask(method, params)
  }
}

const limits = (open: number, withinMs?: number, maxCost?: Quantity) => ({
  open,
  ...(withinMs === undefined ? {} : { withinMs }),
  ...(maxCost === undefined ? {} : { maxCost }),
})
