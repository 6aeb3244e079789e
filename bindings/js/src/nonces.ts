import type { Quantity } from '../wasm/slackwater.js'

/** @internal A nonce of a user at a forwarder. */
export interface Place {
  user: { chainId: Quantity; forwarder: string; from: string }
  nonce: Quantity
}

interface Hold {
  /** When it is free again, Unix ms. */
  until: number
  /** The request that the relayer has accepted; only such are stored. */
  id?: string
}

/** @internal How long a nonce is left alone that may be in use without being seen, ms. */
export const IN_DOUBT_MS = 600_000

/** How requests end that have used their nonce, and how those that have not. */
const USED = /^(finalized|reverted)$/
const UNUSED = /^(rejected|expired|cancelled)$/

/** What storage has the accepted ones under. */
const KEY = /^nonce:(\d+:0x[0-9a-f]{40}:0x[0-9a-f]{40}):(\d+)$/
const key = (user: string, nonce: bigint) => `nonce:${user}:${nonce}`
const line = ({ chainId, forwarder, from }: Place['user']) => `${BigInt(chainId)}:${forwarder}:${from}`.toLowerCase()

/**
 * @internal Nonces that requests on their way hold, so that the next request takes the first free one, after a reload too.
 * Those in the outbox are held by their entries; those that the relayer has accepted have a record each.
 */
export class Nonces {
  readonly #held = new Map<string, Map<bigint, Hold>>()
  readonly #put: (key: string, record: string) => void
  readonly #remove: (key: string) => void

  constructor(put: (key: string, record: string) => void, remove: (key: string) => void) {
    this.#put = put
    this.#remove = remove
  }

  /** Takes what is its own of what storage holds, and returns the rest. */
  load(now: number, records: [key: string, record: string][]): [key: string, record: string][] {
    return records.filter(([name, record]) => {
      const [, user = '', nonce] = KEY.exec(name) ?? []
      if (nonce === undefined) return true
      const [until, id] = record.split(' ')
      if (id && Number(until) > now) this.#user(user).set(BigInt(nonce), { until: Number(until), id })
      else this.#remove(name)
      return false
    })
  }

  /** The user's first free nonce, which is `onChain` or above. */
  next(user: Place['user'], onChain: bigint, now: number): bigint {
    const name = line(user)
    const held = this.#user(name)
    for (const [nonce, { until }] of held) if (nonce < onChain || until <= now) this.#drop(name, nonce)
    while (held.has(onChain)) onChain++
    return onChain
  }

  hold({ user, nonce }: Place, until: number): void {
    const [held, number] = [this.#user(line(user)), BigInt(nonce)]
    if (!held.get(number)?.id) held.set(number, { until })
  }

  /** The relayer has accepted the request: it holds its nonce beyond this page. */
  keep({ user, nonce }: Place, until: number, id: string): void {
    const name = line(user)
    this.#user(name).set(BigInt(nonce), { until, id })
    this.#put(key(name, BigInt(nonce)), `${until} ${id}`)
  }

  /** Nothing was sent, or nothing was accepted. What the relayer has accepted stays. */
  free({ user, nonce }: Place): void {
    const [held, number] = [this.#user(line(user)), BigInt(nonce)]
    if (!held.get(number)?.id) held.delete(number)
  }

  /** Where an accepted request stands. One that has ended holds nothing beyond this page, and nothing at all if it is unused. */
  told(id: string, status: string, now: number): void {
    if (!USED.test(status) && !UNUSED.test(status)) return
    for (const [name, held] of this.#held) {
      for (const [nonce, hold] of held) {
        if (hold.id !== id) continue
        this.#drop(name, nonce)
        // The user's node may hear of it later than the relayer.
        if (USED.test(status)) held.set(nonce, { until: now + IN_DOUBT_MS })
      }
    }
  }

  #drop(name: string, nonce: bigint): void {
    const held = this.#user(name)
    if (held.get(nonce)?.id) this.#remove(key(name, nonce))
    held.delete(nonce)
  }

  #user(name: string): Map<bigint, Hold> {
    let held = this.#held.get(name)
    if (!held) this.#held.set(name, (held = new Map()))
    return held
  }
}
