import { isDenied, isOver, last } from './entries'
import type { Entry } from './entries'
import { short } from './format'

const STEPS = ['queued', 'batched', 'broadcast', 'included', 'finalized']
const ENDS: Record<string, string> = { reverted: 'Reverted', rejected: 'Rejected', expired: 'Expired', cancelled: 'Cancelled' }

function element(tag: string, className: string, text = ''): HTMLElement {
  const made = document.createElement(tag)
  made.className = className
  made.textContent = text
  return made
}

/** Where it stands, in one word: for people, and for tests. */
export function state(entry: Entry): string {
  if (entry.problem !== undefined) return 'failed'
  return last(entry)?.status ?? 'sending'
}

const CLAIMS: Record<string, string> = { included: 'in a block', finalized: 'final', reverted: 'executed without success' }

function badge(entry: Entry): HTMLElement | undefined {
  const { verdict } = entry
  const claim = CLAIMS[last(entry)?.status ?? ''] ?? 'done'
  switch (verdict?.kind) {
    case 'confirmed':
      return element('span', 'badge good', verdict.isFinal ? 'final, checked at your node' : 'in a block, checked at your node')
    case 'mismatch':
    case 'untrusted_forwarder':
    case 'unknown_forwarder': {
      const alarm = element('p', 'alarm')
      alarm.append(element('strong', '', `The relayer says that this is ${claim}. It is not.`))
      alarm.append(` Your own node says: ${verdict.detail}. Don't rely on this entry, and don't trust this relayer.`)
      return alarm
    }
    case 'pending':
      return element('span', 'badge warn', `the relayer says ${claim}; your node has not seen it`)
    case 'unknown':
      return element('span', 'badge warn', `the relayer says ${claim}; your node can't tell: ${verdict.detail}`)
    case undefined:
      return undefined
  }
}

function show(entry: Entry): HTMLElement {
  const item = element('li', 'entry')
  item.dataset['state'] = state(entry)
  item.dataset['id'] = entry.id
  if (entry.verdict) item.dataset['verdict'] = entry.verdict.kind
  const head = element('div', 'head')
  head.append(element('q', 'message', entry.message), element('time', '', new Date(entry.signedAt).toLocaleTimeString('en', { hour12: false })))
  const track = element('ol', 'track')
  const event = last(entry)
  const reached = STEPS.indexOf(event?.status ?? '')
  STEPS.forEach((step, index) => {
    const isReached = index <= reached
    // What the visitor's node contradicts has not happened, whatever the relayer says.
    const isContradicted = isReached && isDenied(entry.verdict) && step in CLAIMS
    const mark = element('li', isContradicted ? 'denied' : isReached ? 'done' : index === reached + 1 && !isOver(entry) ? 'next' : '', step)
    if (isContradicted) mark.append(element('span', 'unseen', ', contradicted by your node'))
    else if (isReached) mark.append(element('span', 'unseen', ', reached'))
    const first = entry.events.find(({ status }) => status === step)
    if (first && isReached && !isContradicted) mark.append(element('small', '', `+${Math.max(0, (first.atMs - entry.signedAt) / 1_000).toFixed(1)} s`))
    track.append(mark)
  })
  item.append(head, track)
  const foot = element('div', 'foot')
  const end = ENDS[event?.status ?? '']
  if (end) foot.append(element('span', 'badge bad', `${end}: ${event?.reason ?? 'no reason'}`))
  if (entry.problem !== undefined) foot.append(element('span', 'badge bad', entry.problem))
  if (!event && entry.problem === undefined) foot.append(element('span', 'badge', 'on its way to the relayer; safe to close this page'))
  if (event?.blockNumber !== undefined) foot.append(element('span', 'fact', `block ${event.blockNumber.toLocaleString('en')}`))
  if (event?.txHash) {
    const fact = element('span', 'fact', `transaction ${short(event.txHash)}`)
    fact.title = event.txHash
    foot.append(fact)
  }
  const checked = badge(entry)
  if (checked) foot.append(checked)
  item.append(foot)
  return item
}

/** What was said to those who listen instead of looking. */
let said = ''

function say(entry: Entry | undefined): void {
  if (!entry) return
  const word = isDenied(entry.verdict) ? 'contradicted by your node' : state(entry)
  const text = `Entry “${entry.message}”: ${word}`
  const place = document.getElementById('said')
  if (place && text !== said) place.textContent = said = text
}

export function showEntries(entries: Entry[], changed?: Entry): void {
  say(changed)
  document.getElementById('entries')?.replaceChildren(...entries.map(show))
  const open = entries.filter((entry) => !isOver(entry)).length
  const count = document.getElementById('count')
  if (count) count.textContent = entries.length === 0 ? '' : open === 0 ? `${entries.length}, all done` : `${entries.length}, ${open} on the way`
  const empty = document.getElementById('empty')
  if (empty) empty.hidden = entries.length > 0
}
