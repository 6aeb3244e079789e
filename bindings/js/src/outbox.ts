import { Outbox as Machine } from '../wasm/slackwater.js'
import type { ForwardRequest, ForwarderDomain, Hex, OutboxEntry, Outcome, Quantity } from '../wasm/slackwater.js'
import type { Numbers, Signed } from './signing.js'
import type { OutboxStorage } from './storage.js'
import type { Transport } from './transport.js'

/** A submission on its way, perhaps of an earlier page. */
export interface Submission {
  /** Its idempotency key. */
  readonly key: string
  /** What becomes of it. It is forgotten by the outbox once this was waited for. */
  readonly outcome: Promise<Outcome>
}

/** @internal What the storage held. */
export interface Found {
  resumed: Submission[]
  damaged: string[]
  foreign: string[]
}

/** @internal Does what the core's outbox says, in storage, on the network and with the clock. */
export class Outbox implements Numbers {
  readonly #machine: Machine
  readonly #storage: OutboxStorage
  readonly #transport: Transport
  readonly #ended = new Map<string, { promise: Promise<Outcome>; resolve(outcome: Outcome): void }>()
  readonly #closed = new AbortController()
  #writing: Promise<boolean> = Promise.resolve(true)
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(storage: OutboxStorage, transport: Transport, relayers: readonly string[]) {
    this.#storage = storage
    this.#transport = transport
    this.#machine = new Machine(transport.base, relayers)
  }

  /** What earlier pages have left. */
  async load(): Promise<Found> {
    const others = this.#machine.load(Date.now(), JSON.stringify(await this.#storage.load()))
    const resumed = this.#machine.entries().map(({ key }) => this.submission(key))
    this.#drain()
    return { resumed, ...others }
  }

  async assign(domain: ForwarderDomain, request: ForwardRequest, answer: unknown, held: string): Promise<string> {
    let [records, writing]: [[string, string][], unknown] = [[], undefined]
    // With all that this page has written, and what others have.
    while (writing !== this.#writing) {
      await (writing = this.#writing)
      records = await this.#storage.load()
    }
    const nonce = this.#machine.assign(Date.now(), domain, request, answer, held, JSON.stringify(records))
    this.#drain()
    return nonce
  }

  signBy(id: Hex): number {
    return this.#machine.signBy(Date.now(), id)
  }

  signed(id: Hex, isSigned: boolean): boolean {
    return this.#machine.signed(Date.now(), id, isSigned)
  }

  /** Where an accepted request stands. */
  told(id: string, status: string): void {
    this.#machine.told(Date.now(), id, status)
    this.#drain()
  }

  enqueue({ domain, request, signature, withinMs, maxCost }: Signed): Submission {
    return this.#taken(this.#machine.enqueue(Date.now(), domain, request, signature, withinMs, maxCost as Quantity))
  }

  /** Adds a submission that is written as the API's JSON. */
  enqueueText(submission: string): Submission {
    return this.#taken(this.#machine.enqueueText(Date.now(), submission))
  }

  #taken(key: string): Submission {
    const taken = this.submission(key)
    this.#drain()
    return taken
  }

  /** Resolves when all was tried that is to be written now, with whether the last of it is. */
  written(): Promise<boolean> {
    return this.#writing
  }

  entries(): OutboxEntry[] {
    return this.#machine.entries()
  }

  withdraw(key: string): boolean {
    const isGone = this.#machine.withdraw(Date.now(), key)
    this.#drain()
    return isGone
  }

  close(): void {
    this.#closed.abort()
    clearTimeout(this.#timer)
  }

  submission(key: string): Submission {
    const take = () => {
      if (this.#closed.signal.aborted) return
      this.#machine.acknowledge(key)
      this.#ended.delete(key)
      this.#drain()
    }
    const { promise } = this.#waiter(key)
    let outcome: Promise<Outcome> | undefined
    return {
      key,
      get outcome() {
        return (outcome ??= promise.then((result) => {
          take()
          return result
        }))
      },
    }
  }

  #waiter(key: string) {
    let waiter = this.#ended.get(key)
    if (!waiter) {
      let resolve!: (outcome: Outcome) => void
      const promise = new Promise<Outcome>((done) => (resolve = done))
      this.#ended.set(key, (waiter = { promise, resolve }))
    }
    return waiter
  }

  /** In order: two writes under one key must not overtake each other. */
  #write(act: () => Promise<void>, then: (isStored: boolean) => void = () => undefined): void {
    this.#writing = this.#writing.then(act).then(
      () => (then(true), true),
      () => (then(false), false),
    )
  }

  #drain(): void {
    const machine = this.#machine
    if (this.#closed.signal.aborted) return
    for (let command; (command = machine.nextCommand()); ) {
      if ('store' in command) {
        const { key, revision, record } = command.store
        this.#write(
          () => this.#storage.put(key, record),
          (isStored) => {
            if (isStored) machine.stored(Date.now(), key, revision)
            else machine.storeFailed(Date.now(), key, revision, Math.random())
            this.#drain()
          },
        )
      } else if ('remove' in command) {
        const { key } = command.remove
        this.#write(() => this.#storage.remove(key))
      } else if ('send' in command) {
        const { id, http } = command.send
        void this.#transport.send(http, this.#closed.signal).then((sent) => {
          if (this.#closed.signal.aborted) return
          if ('answer' in sent) machine.answered(Date.now(), id, ...sent.answer, Math.random())
          else machine.failed(Date.now(), id, ...sent.lost, Math.random())
          this.#drain()
        })
      } else {
        const { key, outcome } = command.report
        this.#waiter(key).resolve(outcome)
      }
    }
    clearTimeout(this.#timer)
    const next = machine.nextTimeout()
    if (next === undefined) return
    // Longer waits than a timer can hold are taken in pieces.
    const wait = Math.min(Math.max(0, next - Date.now()), 0x7fffffff)
    this.#timer = setTimeout(() => {
      machine.timeout(Date.now())
      this.#drain()
    }, wait)
  }
}
