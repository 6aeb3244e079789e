import {
  Exchange,
  Follow,
  ForwarderCheck,
  InclusionCheck,
  checkedSignature,
  forwardDigest,
  forwardTypedData,
  nonceCall,
  verifyAccepted,
} from '../wasm/slackwater.js'
import type {
  Accepted,
  ChainFees,
  Chains,
  Change,
  Finality,
  ForwarderDomain,
  Hex,
  OutboxEntry,
  Quantity,
  Quote,
  RelayerForecast,
  RequestDetail,
  RequestEvent,
  RequestSummary,
  Verdict,
} from '../wasm/slackwater.js'
import { SlackwaterError } from '../wasm/interop.js'
import { init } from './init.js'
import type { ModuleSource } from './init.js'
import { Outbox } from './outbox.js'
import type { Found, Submission } from './outbox.js'
import { ask as askNode } from './provider.js'
import type { Eip1193Provider } from './provider.js'
import { Signing, unsigned } from './signing.js'
import type { ForwardAsk, Signed, Unsigned } from './signing.js'
import { indexedDbStorage, memoryStorage } from './storage.js'
import type { OutboxStorage } from './storage.js'
import { Transport, lost, read, until } from './transport.js'
import type { TransportOptions } from './transport.js'
import type { Wallet } from './wallet.js'

/** What {@link Slackwater.open} is told. */
export interface SlackwaterOptions extends TransportOptions {
  /** The user's own node, not the relayer's: nonces, domains and verification come from it. */
  provider?: Eip1193Provider
  /**
   * The relayer's identity, known from elsewhere: then no promise of anybody else is accepted, and nobody is asked to sign for
   * a relayer that calls itself otherwise. Several while an identity is rotated: the old and the new one.
   */
  relayer?: string | readonly string[]
  /**
   * Where submissions wait. Default: IndexedDB where there is one, under a name with the relayer's address, else memory. What
   * waits for another relayer is left alone.
   */
  storage?: OutboxStorage
  /** The WebAssembly module, if it is not beside this file. */
  module?: ModuleSource | Promise<ModuleSource>
}

/** What a user wants done. */
export interface Ask extends ForwardAsk {
  chainId: Quantity
  /**
   * The forwarder, known from elsewhere than the relayer: pinned. Where absent, the first that the relayer names, if its code
   * is a known one. In both cases the target must trust it.
   */
  forwarder?: string
}

/** A request that a user can sign. */
export interface UnsignedRequest extends Unsigned {
  /** The caller named the forwarder. Otherwise its code is compared with the known ones, here and in `verify`. */
  isForwarderPinned?: boolean
}
/** A request that a user has signed. */
export type SignedRequest = UnsignedRequest & Signed

/** A token payment that its payer authorized (EIP-3009; the payment of x402). */
export interface Payment {
  /** The token; one of the chain's `tokens`. */
  token: string
  /** The payer, who signed. */
  from: string
  /** The payee. */
  to: string
  /** Amount, in the token's smallest unit. */
  value: Quantity
  /** Unix seconds; until then it waits. Default 0. */
  validAfter?: Quantity
  /** Unix seconds; the token takes it before. */
  validBefore: Quantity
  /** 32 bytes that the payer uses once with this token. */
  nonce: string
  /** 65 bytes over the EIP-712 hash; of another length: of a payer with code (EIP-1271). */
  signature: string
}

/** When to stop following. */
export interface FollowOptions {
  /** At the first inclusion, which may be taken back, instead of the end. */
  toInclusion?: boolean
  signal?: AbortSignal
}

/** How long a relayer is waited for that is only asked whether it is the right one, ms. */
const PATIENCE_MS = 5_000
/** Longest silence of an event stream, ms: relayers say something every few seconds, and a broken connection says nothing. */
const SILENCE_MS = 60_000

const isSame = (one: string, other: string) => one.toLowerCase() === other.toLowerCase()

/** A client of one relayer. */
export class Slackwater {
  /** Submissions that earlier pages have left. They go on by themselves. */
  declare readonly resumed: readonly Submission[]
  /** Keys of records in the storage that can't be read. They stay where they are: somebody should look. */
  declare readonly damaged: readonly string[]
  /**
   * Addresses of other relayers, one for each submission in the storage that is for one. They stay where they are, and go on
   * when the storage is opened for that relayer.
   */
  declare readonly foreign: readonly string[]
  readonly #options: SlackwaterOptions
  readonly #relayers: readonly string[]
  readonly #transport: Transport
  readonly #outbox: Outbox
  readonly #signing: Signing

  private constructor(options: SlackwaterOptions, relayers: readonly string[], transport: Transport, outbox: Outbox, found: Found) {
    this.#options = options
    this.#relayers = relayers
    this.#transport = transport
    this.#outbox = outbox
    const core = { forwardDigest, forwardTypedData, checkedSignature, nonceCall }
    this.#signing = new Signing(outbox, core, () => this.#node())
    Object.assign(this, found)
  }

  /** Loads the WebAssembly module and what earlier pages have left to submit to this relayer. */
  static async open(options: SlackwaterOptions): Promise<Slackwater> {
    await init(options.module)
    const { relayer } = options
    const relayers = relayer === undefined ? [] : typeof relayer === 'string' ? [relayer] : [...relayer]
    // None would be anybody.
    if (relayer !== undefined && relayers.length === 0) throw new SlackwaterError('invalid_argument', 'relayer: no identity is given')
    const transport = new Transport(options)
    const name = `slackwater-outbox-${transport.base}`
    const storage = options.storage ?? (typeof indexedDB === 'undefined' ? memoryStorage() : indexedDbStorage(name))
    const outbox = new Outbox(storage, transport, relayers)
    return new Slackwater(options, relayers, transport, outbox, await outbox.load())
  }

  /** Stops everything. What was not acknowledged goes on with the next {@link open} on the same storage. */
  close(): void {
    this.#signing.close()
    this.#outbox.close()
  }

  /** The chains that are served, and the address that signs promises. */
  chains(): Promise<Chains> {
    return this.#call('chains')
  }

  /** Prices of a chain now. */
  fees(chainId: Quantity): Promise<ChainFees> {
    return this.#call('fees', { chainId })
  }

  /** What the relayer expects the base fee to be. */
  forecast(chainId: Quantity, horizonMs?: number): Promise<RelayerForecast> {
    return this.#call('forecast', { chainId, horizonMs })
  }

  /** What a request with this gas would cost now, and what waiting is worth. */
  quote(ask: { chainId: Quantity; gas: Quantity; withinMs?: number }): Promise<Quote> {
    return this.#call('quote', ask)
  }

  /** All about one request. */
  request(id: string): Promise<RequestDetail> {
    return this.#call('request', { id })
  }

  /** Withdraws a request that is still queued; `too_late` once it is in a transaction. */
  async cancel(id: string): Promise<RequestSummary> {
    const request = await this.#call<RequestSummary>('cancel', { id })
    this.#outbox.told(id, request.status)
    return request
  }

  /**
   * Prepares a request for its user's signature. Asks the relayer whether it is the one that is pinned, and serves this; asks
   * the user's node whether the forwarder is one, and for what is not given. `wrong_relayer`, `wrong_chain`,
   * `unknown_forwarder`, `untrusted_forwarder`, `deadline_unreachable`: nothing was signed, and nothing sent.
   */
  async prepare(from: string, ask: Ask): Promise<UnsignedRequest> {
    const isPinned = ask.forwarder !== undefined
    const served = this.#served(ask)
    const forwarder = ask.forwarder ?? (await served)
    const known = this.#domain(ask, forwarder, isPinned)
    // The relayer's refusal comes first, if there is one.
    await Promise.allSettled([known, served])
    await served
    return { ...unsigned(await known, from, ask), isForwarderPinned: isPinned }
  }

  /**
   * Lets a wallet sign a request, and checks that it did. The request gets its nonce now, unless it has one: the first that
   * no other request holds, by the user's node, the storage, and what pages of this origin have signed. It is free again if
   * the wallet declines, or has not answered after ten minutes (`no_signature`).
   */
  sign(wallet: Wallet, unsigned: UnsignedRequest): Promise<SignedRequest> {
    return this.#signing.sign(wallet, unsigned)
  }

  /** Frees the nonce of a signed request that will not be submitted. */
  discard({ id }: SignedRequest): void {
    this.#signing.discard(id)
  }

  /**
   * Hands a signed request to the outbox, which submits it until the relayer has it: through lost connections and, with a
   * lasting storage, through reloads. Resolves when the relayer has promised; rejects with the relayer's code, or
   * `expired`.
   */
  async submit(signed: SignedRequest): Promise<Accepted> {
    const { outcome } = this.enqueue(signed)
    return this.accepted(await outcome, signed)
  }

  /** As {@link submit}, without waiting. */
  enqueue(signed: SignedRequest): Submission {
    const { id } = signed
    try {
      const submission = this.#outbox.enqueue(signed)
      // From then on storage shows who has the nonce.
      void this.#outbox.written().then((isStored) => isStored && this.#signing.release(id))
      return submission
    } catch (error) {
      this.#signing.discard(id)
      throw error
    }
  }

  /**
   * Hands a payment that its payer signed to the outbox, and resolves as {@link submit}. The promise of a pinned relayer is
   * checked for the id that the relayer names: the payment's own is a digest with the token's domain, which is not read here.
   */
  async pay(
    chainId: Quantity,
    payment: Payment,
    { withinMs, maxCost }: { withinMs?: number; maxCost?: Quantity } = {},
  ): Promise<Accepted> {
    const number = (value: Quantity) => BigInt(value).toString()
    const { value, validAfter = 0, validBefore, ...rest } = payment
    const authorization = { ...rest, value: number(value), validAfter: number(validAfter), validBefore: number(validBefore) }
    const body = {
      chainId: number(chainId),
      kind: 'authorization',
      authorization,
      within: withinMs === undefined ? undefined : `${Math.ceil(withinMs)}ms`,
      maxCost: maxCost === undefined ? undefined : number(maxCost),
    }
    const outcome = await this.#outbox.enqueueText(JSON.stringify(body)).outcome
    return this.accepted(outcome, { id: outcome.kind === 'accepted' ? outcome.accepted.id : '0x', domain: { chainId } })
  }

  /**
   * The acceptance in an outcome; throws for every other outcome. With a pinned relayer, no outcome is `accepted` whose promise
   * is not its word: it is `refused` with `bad_promise`, and ambiguous, because whoever took the request can have it executed.
   */
  accepted(outcome: Awaited<Submission['outcome']>, request: { id: Hex; domain: Pick<ForwarderDomain, 'chainId'> }): Accepted {
    if (outcome.kind === 'accepted') {
      const { accepted } = outcome
      if (this.#relayers.length > 0) verifyAccepted(JSON.stringify(accepted), request.id, request.domain.chainId, this.#relayers)
      return accepted
    }
    const isAmbiguous = outcome.mayBeAccepted
    const error =
      outcome.kind === 'expired'
        ? new SlackwaterError('expired', 'the relayer could not be reached in time')
        : new SlackwaterError(outcome.code, outcome.problem?.detail || outcome.problem?.title || outcome.code)
    throw Object.assign(error, { isAmbiguous }, outcome.kind === 'refused' ? { problem: outcome.problem } : undefined)
  }

  /** Prepares, signs and submits. */
  async send(wallet: Wallet, ask: Ask): Promise<{ signed: SignedRequest; accepted: Accepted }> {
    const signed = await this.sign(wallet, await this.prepare(await wallet.address(), ask))
    return { signed, accepted: await this.submit(signed) }
  }

  /** Submissions that have not been acknowledged. */
  pending(): OutboxEntry[] {
    return this.#outbox.entries()
  }

  /** Takes back a submission that was certainly never sent. False if it may have been: then {@link cancel} it. */
  withdraw(key: string): boolean {
    return this.#outbox.withdraw(key)
  }

  /**
   * What becomes of a request, from its first event on. Reads the relayer's event stream, resumes it where it broke, and
   * ends with the request.
   */
  async *follow(id: string, { toInclusion = false, signal }: FollowOptions = {}): AsyncGenerator<Change, void, undefined> {
    const machine = new Follow(id, toInclusion)
    const connection = new AbortController()
    const stop = () => connection.abort(signal?.reason)
    if (signal?.aborted) stop()
    signal?.addEventListener('abort', stop, { once: true })
    let stream: ReadableStreamDefaultReader<Uint8Array> | undefined
    let line = connection
    /** What comes of it; the line is cut if nothing does for too long. */
    const heard = <T>(coming: Promise<T>): Promise<T> => {
      const timer = setTimeout(() => line.abort(), SILENCE_MS)
      return coming.finally(() => clearTimeout(timer))
    }
    try {
      for (;;) {
        for (let change; (change = machine.nextChange()); ) {
          this.#outbox.told(id, change.event.status)
          yield change
        }
        connection.signal.throwIfAborted()
        const step = machine.step(Date.now())
        if (step === 'done') return machine.check()
        if (step === 'read') {
          const chunk = stream && (await heard(stream.read()).catch(() => undefined))
          if (chunk && !chunk.done && machine.bytes(chunk.value)) continue
          void stream?.cancel().catch(() => undefined)
          machine.closed(Date.now(), Math.random())
        } else if ('open' in step) {
          line = new AbortController()
          try {
            const response = await heard(this.#transport.open(step.open, AbortSignal.any([connection.signal, line.signal])))
            const isStream = response.status === 200
            const answer = isStream ? ([200, undefined, new Uint8Array()] as const) : await heard(read(response))
            stream = isStream ? response.body?.getReader() : undefined
            machine.opened(Date.now(), ...answer, Math.random())
          } catch (error) {
            machine.failed(Date.now(), ...lost(error, false), Math.random())
          }
        } else if ('look' in step) {
          const sent = await this.#transport.send(step.look, connection.signal)
          if ('answer' in sent) machine.looked(Date.now(), ...sent.answer, Math.random())
          else machine.failed(Date.now(), ...sent.lost, Math.random())
        } else await until(step.wait, connection.signal)
      }
    } finally {
      signal?.removeEventListener('abort', stop)
      connection.abort()
      machine.free()
    }
  }

  /** Follows a request and returns its last event. */
  async settled(id: string, options?: FollowOptions): Promise<RequestEvent> {
    let last: RequestEvent | undefined
    for await (const { event } of this.follow(id, options)) last = event
    if (!last) throw new SlackwaterError('no_event', 'the relayer has told nothing')
    return last
  }

  /**
   * Checks at the user's own node what an event of the relayer claims: `included`, `finalized` or `reverted`. Nothing is
   * `confirmed` whose forwarder the target does not trust, or that is neither pinned (`Ask.forwarder`) nor of known code.
   */
  async verify(signed: SignedRequest, event: RequestEvent, finality?: Finality): Promise<Verdict> {
    const isPinned = signed.isForwarderPinned === true
    const check = new InclusionCheck(signed.domain, signed.request, signed.signature, event, finality, isPinned)
    const node = this.#node()
    try {
      for (let body; (body = check.nextBody()) !== undefined; ) check.answer(await answerTo(node, body))
      return check.verdict() ?? { kind: 'unknown', detail: 'no verdict' }
    } finally {
      check.free()
    }
  }

  #node(): Eip1193Provider {
    const { provider } = this.#options
    if (!provider) throw new SlackwaterError('no_provider', "the user's own node is needed: `provider`")
    return provider
  }

  /** The domain of a forwarder that is one, by the user's node. */
  async #domain({ chainId, to }: Ask, forwarder: string, isPinned: boolean): Promise<ForwarderDomain> {
    const check = new ForwarderCheck(chainId, forwarder, to, isPinned)
    const node = this.#node()
    try {
      return check.judge(await Promise.all(check.bodies().map((body) => answerTo(node, body))))
    } finally {
      check.free()
    }
  }

  /**
   * The forwarder, by what the relayer says of itself: before a user is asked to sign what it would not take, or somebody else
   * would. Where the caller has named the forwarder, a relayer that can't be reached is none of the user's business: what is
   * signed waits for it, and its promise is checked then.
   */
  async #served({ chainId, forwarder, withinMs, deadline }: Ask): Promise<string> {
    let told: Chains
    try {
      told = await this.#call('chains', {}, forwarder !== undefined)
    } catch (error) {
      const { problem } = error as { problem?: { status?: number } }
      if (forwarder === undefined || problem?.status === 401) throw error
      return forwarder
    }
    if (this.#relayers.length > 0 && !this.#relayers.some((relayer) => isSame(relayer, told.relayer))) {
      throw new SlackwaterError('wrong_relayer', `the relayer calls itself ${told.relayer}, not ${this.#relayers.join(' or ')}`)
    }
    const chain = told.chains.find((chain) => BigInt(chain.chainId) === BigInt(chainId))
    if (!chain) throw new SlackwaterError('wrong_chain', `the relayer does not serve chain ${chainId}`)
    const found = chain.forwarders.find(({ address }) => forwarder === undefined || isSame(address, forwarder))
    if (!found) throw new SlackwaterError('unknown_forwarder', `the relayer does not serve ${forwarder ?? 'any forwarder'} on chain ${chainId}`)
    const left = Math.min(withinMs ?? Infinity, deadline === undefined ? Infinity : deadline * 1_000 - Date.now())
    if (left < chain.guardMs) {
      throw new SlackwaterError('deadline_unreachable', `${Math.floor(left)} ms are left, and the relayer needs ${chain.guardMs}`)
    }
    return forwarder ?? found.address
  }

  /** Makes a call, with repetitions unless one attempt has to do. */
  async #call<T>(name: string, args: object = {}, isOnce = false): Promise<T> {
    const exchange = Exchange.call(name, args)
    try {
      for (;;) {
        const step = exchange.step(Date.now())
        if ('wait' in step) {
          await until(step.wait)
          continue
        }
        const sent = await this.#transport.send(step.send, isOnce ? AbortSignal.timeout(PATIENCE_MS) : undefined)
        const result = 'answer' in sent
          ? exchange.answered(Date.now(), ...sent.answer, Math.random())
          : exchange.failed(Date.now(), ...sent.lost, Math.random())
        if (result !== undefined) return result as T
        if (isOnce) throw new SlackwaterError('unreachable', 'the relayer does not answer now')
      }
    } finally {
      exchange.free()
    }
  }
}

/** What a node answers to a JSON-RPC body, as a body. */
async function answerTo(node: Eip1193Provider, body: string): Promise<string> {
  const { method, params } = JSON.parse(body) as { method: string; params: unknown[] }
  const reply = await askNode(node, method, params).then(
    (result) => ({ result }),
    (error: unknown) => ({ error: { code: codeOf(error), message: error instanceof Error ? error.message : String(error) } }),
  )
  return JSON.stringify({ jsonrpc: '2.0', id: 1, ...reply })
}

/** The code of a node's error: `httpProvider` has it beside its own, wallets and libraries have it there or within. */
function codeOf(error: unknown): number {
  for (let each = error as { rpcCode?: unknown; code?: unknown; cause?: unknown } | undefined; each; each = each.cause as typeof each) {
    for (const code of [each.rpcCode, each.code]) if (Number.isSafeInteger(code)) return code as number
  }
  return -32_000
}
