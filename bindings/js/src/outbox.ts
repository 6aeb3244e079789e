import { Outbox as Machine } from '../wasm/slackwater.js'
import type { Hex, OutboxEntry, Outcome } from '../wasm/slackwater.js'
import { IN_DOUBT_MS, Nonces } from './nonces.js'
import type { Place } from './nonces.js'
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

/** How long after the relayer's deadline for it a request may still be executed, ms. */
const MINED_LATE_MS = 60_000
/** @internal What the signed deadline leaves beyond the wanted one, seconds: the relayer keeps a margin for the chain's clock. */
export const DEADLINE_MARGIN_S = 300

/** @internal Does what the core's outbox says, in storage, on the network and with the clock. */
export class Outbox {
  readonly nonces = new Nonces(
    (key, record) => this.#write(() => this.#storage.put(key, record)),
    (key) => this.#write(() => this.#storage.remove(key)),
  )
  /** What entries hold, and until when the chain takes it, Unix ms. */
  readonly #places = new Map<string, { place: Place; until: number; id: string }>()
  readonly #machine: Machine
  readonly #storage: OutboxStorage
  readonly #transport: Transport
  readonly #ended = new Map<string, { promise: Promise<Outcome>; resolve(outcome: Outcome): void }>()
  readonly #closed = new AbortController()
  #writing: Promise<unknown> = Promise.resolve()
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(storage: OutboxStorage, transport: Transport, relayers: readonly string[]) {
    this.#storage = storage
    this.#transport = transport
    this.#machine = new Machine(transport.base, relayers)
  }

  /** What earlier pages have left. */
  async load(): Promise<Found> {
    const records = this.nonces.load(Date.now(), await this.#storage.load())
    const others = this.#machine.load(Date.now(), JSON.stringify(records))
    const resumed = this.#machine.entries().map(({ key, place, expiresAt }) => {
      this.#hold(key, place, expiresAt + DEADLINE_MARGIN_S * 1_000)
      return this.submission(key)
    })
    this.#drain()
    return { resumed, ...others }
  }

  enqueue(submission: string, place: Place, until: number, id: Hex): Submission {
    const key = this.#machine.enqueue(Date.now(), submission, undefined, id)
    this.#hold(key, place, until, id)
    const taken = this.submission(key)
    this.#drain()
    return taken
  }

  entries(): OutboxEntry[] {
    return this.#machine.entries()
  }

  withdraw(key: string): boolean {
    const isGone = this.#machine.withdraw(Date.now(), key)
    const held = this.#places.get(key)
    if (isGone && held) this.nonces.free(held.place)
    this.#drain()
    return isGone
  }

  /** An entry holds its nonce until it has ended. */
  #hold(key: string, place: Place | undefined, until: number, id = key): void {
    if (!place) return
    this.#places.set(key, { place, until, id })
    this.nonces.hold(place, Infinity)
  }

  /** Who holds the nonce now. Stored before the entry is forgotten. */
  #settle(key: string, outcome: Outcome): void {
    const held = this.#places.get(key)
    if (!held) return
    const { place, until, id } = held
    this.#places.delete(key)
    if (outcome.kind === 'accepted') {
      const { deadlineAtMs, validUntilMs = deadlineAtMs, id, status } = outcome.accepted
      this.nonces.keep(place, validUntilMs + MINED_LATE_MS, id)
      this.nonces.told(id, status, Date.now())
    } else if (outcome.mayBeAccepted) {
      // Whoever has it can have it executed until the chain refuses it.
      this.nonces.keep(place, until + MINED_LATE_MS, id)
    } else if (outcome.kind === 'refused' && /^nonce_(conflict|used)$/.test(outcome.code)) {
      this.nonces.hold(place, Date.now() + IN_DOUBT_MS)
    } else this.nonces.free(place)
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
        this.#settle(key, outcome)
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
