import type { RequestEvent, SignedRequest, Verdict } from 'slackwater'

/** What the visitor signed, and what is known about it. Kept in the browser. */
export interface Entry {
  id: string
  message: string
  signedAt: number
  signed: SignedRequest
  /** From the relayer, in order. */
  events: RequestEvent[]
  /** Why it ended without being executed, or could not be submitted. */
  problem?: string
  /** What the visitor's own node says about the last claim. */
  verdict?: Verdict
}

const KEY = 'tidebook.entries'
export const ENDS = ['finalized', 'reverted', 'rejected', 'expired', 'cancelled']

export function loadEntries(): Entry[] {
  try {
    const entries: unknown = JSON.parse(localStorage.getItem(KEY) ?? '[]')
    return Array.isArray(entries) ? (entries as Entry[]) : []
  } catch {
    return []
  }
}

export function saveEntries(entries: Entry[]): void {
  localStorage.setItem(KEY, JSON.stringify(entries.slice(0, 50), (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value)))
}

/** Whether the visitor's node denies what the relayer says. */
export const isDenied = (verdict: Verdict | undefined): boolean =>
  verdict?.kind === 'mismatch' || verdict?.kind === 'untrusted_forwarder' || verdict?.kind === 'unknown_forwarder'

export const last = (entry: Entry): RequestEvent | undefined => entry.events.at(-1)
export const isOver = (entry: Entry): boolean => entry.problem !== undefined || ENDS.includes(last(entry)?.status ?? '')
