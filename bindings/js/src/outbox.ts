import { Outbox as Machine } from '../wasm/slackwater.js'
import type { Hex, OutboxEntry, Outcome } from '../wasm/slackwater.js'
import type { OutboxStorage } from './storage.js'
import type { Transport } from './transport.js'

/** A submission on its way, perhaps of an earlier page. */
export interface Submission {
  /** Its idempotency key. */
  readonly key: string
  /** What becomes of it. It is forgotten by the outbox once this was waited for. */
  readonly outcome: Promise<Outcome>
}

/** @internal Does what the core's outbox says, in storage, on the network and with the clock. */
export class Outbox {
  readonly #machine = new Machine()
  readonly #storage: OutboxStorage
  readonly #transport: Transport
  readonly #ended = new Map<string, { promise: Promise<Outcome>; resolve(outcome: Outcome): void }>()
  readonly #closed = new AbortController()
  #writing: Promise<unknown> = Promise.resolve()
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(storage: OutboxStorage, transport: Transport) {
    this.#storage = storage
    this.#transport = transport
  }

  /** What earlier pages have left. */
  async load(): Promise<Submission[]> {
    this.#machine.load(Date.now(), JSON.stringify(await this.#storage.load()))
    const left = this.#machine.entries().map(({ key }) => this.submission(key))
    this.#drain()
    return left
  }

  enqueue(submission: string, expiresAtMs?: number, id?: Hex): Submission {
    const key = this.#machine.enqueue(Date.now(), submission, expiresAtMs, id)
    const taken = this.submission(key)
    this.#drain()
    return taken
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
  #write(act: () => Promise<void>, then: (isStored: boolean) => void): void {
    this.#writing = this.#writing.then(act).then(
      () => then(true),
      () => then(false),
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
        this.#write(
          () => this.#storage.remove(key),
          () => undefined,
        )
      } else if ('send' in command) {
        const { id, http } = command.send
        void this.#transport.send(http, this.#closed.signal).then((sent) => {
          if (this.#closed.signal.aborted) return
          if ('answer' in sent) {
            const { status, retryAfter, body } = sent.answer
            machine.answered(Date.now(), id, status, retryAfter, body, Math.random())
          } else machine.failed(Date.now(), id, sent.kind, sent.detail, Math.random())
          this.#drain()
        })
      } else this.#waiter(command.report.key).resolve(command.report.outcome)
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
