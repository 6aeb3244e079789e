import {
  LocalRelay,
  Nonces,
  checkedSignature,
  forwardDigest,
  forwardTypedData,
  forwarderDomainCall,
  isEnd,
  nonceCall,
  readForwarderDomain,
} from '../wasm/page.js'
import type { Hex, PageAccount, PageChain, PageRequest, Quantity } from '../wasm/page.js'
import { SlackwaterError } from '../wasm/interop.js'
import type { ModuleSource } from './module.js'
import { PageDriver } from './page-driver.js'
import type { PageAlert } from './page-driver.js'
import { init } from './page-init.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'
import { sessionKey } from './session.js'
import { Signing, unsigned } from './signing.js'
import type { ForwardAsk, Numbers, Signed, Unsigned } from './signing.js'
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
export interface PageAsk extends ForwardAsk {
  /** The ERC-2771 forwarder that the target trusts. */
  forwarder: string
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
export type PageUnsigned = Unsigned
/** A request that a user has signed. */
export type PageSigned = Signed

/** When to stop following. */
export interface PageFollowOptions {
  /** At the first inclusion, which may be taken back, instead of the end. */
  toInclusion?: boolean
  signal?: AbortSignal
}

/** Gas given to a call. */
const DEFAULT_GAS = 200_000

/**
 * A relay in the page, for where there is no relayer: it queues, batches and sends what users signed, and calls of its own,
 * from a session key that pays, through one node. Of all pages with the same key one drives; the others submit and see.
 */
export class PageRelay {
  /** The session key's address: top it up here. */
  readonly address: Hex
  readonly #options: PageOptions
  readonly #driver: PageDriver
  readonly #signing: Signing

  private constructor(options: PageOptions, driver: PageDriver, address: Hex) {
    this.#options = options
    this.#driver = driver
    this.address = address
    const nonces = new Nonces()
    const numbers: Numbers = {
      assign: async (domain, request, answer, held) =>
        nonces.assign(Date.now(), domain, request, answer, `${held}\n${await driver.nonces()}`),
      signBy: (id) => nonces.signBy(Date.now(), id),
      signed: (id, isSigned) => nonces.signed(Date.now(), id, isSigned),
    }
    const core = { forwardDigest, forwardTypedData, checkedSignature, nonceCall }
    this.#signing = new Signing(numbers, core, () => options.provider)
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
    this.#signing.close()
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
    const { forwarder } = wanted
    const domain = readForwarderDomain(await this.#asked(forwarderDomainCall(forwarder)))
    const { chainId } = this.#options.chain
    if (BigInt(domain.chainId) !== BigInt(chainId) || domain.verifyingContract.toLowerCase() !== forwarder.toLowerCase()) {
      throw new SlackwaterError('wrong_chain', `the forwarder says that it is of chain ${domain.chainId}, not ${chainId}`)
    }
    return unsigned(domain, from, wanted)
  }

  /**
   * Lets a wallet sign a request, and checks that it did. The request gets its nonce now, unless it has one: the first that
   * no other request holds, by the node, and by all pages of this origin. It is free again if the wallet declines, or has not
   * answered after ten minutes (`no_signature`).
   */
  sign(wallet: Wallet, unsigned: PageUnsigned): Promise<PageSigned> {
    return this.#signing.sign(wallet, unsigned)
  }

  /** Frees the nonce of a signed request that will not be submitted. */
  discard({ id }: PageSigned): void {
    this.#signing.discard(id)
  }

  /** Queues a signed request. Resolves when it is durable; {@link follow} it from there. */
  async submit({ id, domain, request, signature, withinMs, maxCost }: PageSigned): Promise<PageRequest> {
    try {
      const limits = { withinMs, maxCost }
      const admitted = this.#driver.admit((machine, open) =>
        machine.admitForward(Date.now(), domain, request, signature, { ...limits, open }),
      )
      return await this.#driver.enqueue(admitted)
    } finally {
      // Storage shows that it has the nonce, or it has none.
      this.#signing.discard(id)
    }
  }

  /** Prepares, signs and queues. */
  async send(wallet: Wallet, wanted: PageAsk): Promise<PageRequest> {
    return this.submit(await this.sign(wallet, await this.prepare(await wallet.address(), wanted)))
  }

  /** Queues a call of the session key itself, which travels alone: the target sees the session key's address. */
  async call({ to, data = '0x', gas = DEFAULT_GAS, value = 0, withinMs, maxCost, salt }: PageCallAsk): Promise<PageRequest> {
    const call = { to, data, gas, value, salt: salt ?? crypto.randomUUID() }
    const admitted = this.#driver.admit((machine, open) => machine.admitCall(Date.now(), call, { withinMs, maxCost, open }))
    return this.#driver.enqueue(admitted)
  }

  /**
   * Sends what the session key owns to `to`, but for what the transaction may cost; some of that stays behind. Refused with
   * `busy` while requests have not ended. `leave` stays behind in any case.
   */
  async withdraw(to: string, { leave, withinMs }: { leave?: Quantity; withinMs?: number } = {}): Promise<PageRequest> {
    const [block, tip, balance] = await Promise.all([
      this.#ask('eth_getBlockByNumber', ['latest', false]) as Promise<{ baseFeePerGas?: string } | null>,
      this.#ask('eth_maxPriorityFeePerGas').catch(() => undefined) as Promise<string | undefined>,
      this.balance(),
    ])
    const found = this.#driver.admit((machine, open) =>
      machine.withdrawal({ balance, leave, baseFee: block?.baseFeePerGas, tip, open }),
    )
    return this.call({ to, ...found, ...(withinMs === undefined ? {} : { withinMs }) })
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
      if (isEnd(request.status) || (toInclusion && request.status === 'included')) return
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

  #ask(method: string, params: readonly unknown[] = []): Promise<unknown> {
    return ask(this.#options.provider, method, params)
  }

  #asked({ method, params }: { method: string; params: unknown[] }): Promise<unknown> {
    return this.#ask(method, params)
  }
}
