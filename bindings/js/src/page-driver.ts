import { isEnd } from '../wasm/page.js'
import type { Admitted, Hex, LocalRelay, PageAccount, PageRequest } from '../wasm/page.js'
import { SlackwaterError } from '../wasm/interop.js'
import { locked } from './locks.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'
import { nonceKey } from './signing.js'
import type { OutboxStorage } from './storage.js'

/** What somebody should know: `underfunded`, `ceiling_reached`, `foreign_nonce`, `wrong_chain`, `storage_failed`, a node's refusal, … */
export interface PageAlert {
  code: string
  detail: string
}

/** What pages with one session key tell each other. */
type Message =
  | { type: 'added'; key: string; view: PageRequest }
  | { type: 'tell'; ask: string; what: Wish; id: string }
  | { type: 'told'; ask: string; error?: { code: string; message: string } }
  | { type: 'hello' }
  | { type: 'views'; views: PageRequest[]; account: PageAccount }
  | { type: 'view'; view: PageRequest; account: PageAccount }
  | { type: 'gone'; id: Hex }

type Wish = 'cancel' | 'acknowledge'

/** How long a page waits for the one that drives. */
const ANSWER_MS = 10_000
/** How long it waits to hear which chain the node is of. */
const LOOK_MS = 5_000

/** @internal Does what the machine says, in storage, at the node and with the clock; in one page of all at a time. */
export class PageDriver {
  readonly views = new Map<Hex, PageRequest>()
  isDriving = false
  readonly #make: () => LocalRelay
  readonly #name: string
  readonly #storage: OutboxStorage
  readonly #provider: Eip1193Provider
  readonly #chainId: bigint
  readonly #onAlert: ((alert: PageAlert) => void) | undefined
  readonly #closed = new AbortController()
  readonly #channel: BroadcastChannel | undefined
  readonly #waiting = new Map<string, (message: Message & { type: 'told' }) => void>()
  readonly #listeners = new Set<() => void>()
  /** Keys of what pages added, and this one has not taken. */
  #added: string[] = []
  #machine: LocalRelay
  #account: PageAccount | undefined
  #writing: Promise<unknown> = Promise.resolve()
  #timer: ReturnType<typeof setTimeout> | undefined
  #leading: Promise<void> | undefined
  #hasLed = false
  /** The node was of another chain when it was asked last: nothing else is asked of it, and nothing sent. */
  #isAway = false
  #looking: Promise<boolean> | undefined

  constructor(
    make: () => LocalRelay,
    name: string,
    storage: OutboxStorage,
    provider: Eip1193Provider,
    chainId: bigint,
    onAlert?: (alert: PageAlert) => void,
  ) {
    this.#chainId = chainId
    this.#make = make
    this.#name = name
    this.#storage = storage
    this.#provider = provider
    this.#onAlert = onAlert
    this.#machine = make()
    if (typeof BroadcastChannel !== 'undefined') {
      this.#channel = new BroadcastChannel(name)
      this.#channel.onmessage = ({ data }: { data: Message }) => this.#hear(data)
      // Node waits for open channels.
      ;(this.#channel as { unref?: () => void }).unref?.()
    }
  }

  /** Drives if nobody does; else as soon as the one that does is gone. */
  async start(): Promise<void> {
    // Reading is free: what is seen at once, even if another page drives.
    this.#see(await this.#load(this.#make()))
    const isOver = new Promise<void>((resolve) => this.#closed.signal.addEventListener('abort', () => resolve(), { once: true }))
    let isFirst!: () => void
    let hasFailed!: (error: unknown) => void
    const first = new Promise<void>((resolve, reject) => ((isFirst = resolve), (hasFailed = reject)))
    this.#leading = locked(
      this.#name,
      async () => {
        try {
          await this.#lead()
          isFirst()
        } catch (error) {
          hasFailed(error)
          return
        }
        await isOver
        // Nothing of ours may be under way when the next page begins.
        await this.#writing
      },
      this.#closed.signal,
    ).catch((error: unknown) => {
      if (!this.#closed.signal.aborted) hasFailed(error)
    })
    this.#post({ type: 'hello' })
    // A page that drives answers at once; so does the lock if it is free.
    const other = new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, 500)
      void first.finally(() => clearTimeout(timer)).catch(() => undefined)
    })
    await Promise.race([first, other])
    first.catch((error: unknown) => this.#alert('storage_damaged', String(error)))
  }

  async close(): Promise<void> {
    this.isDriving = false
    clearTimeout(this.#timer)
    await this.#writing
    this.#closed.abort()
    // Who never drove still waits for the lock.
    if (this.#hasLed) await this.#leading
    this.#channel?.close()
    this.#notify()
  }

  account(): PageAccount | undefined {
    return this.isDriving ? this.#machine.account() : this.#account
  }

  /** What the machine says to a request beside those that are open. */
  admit<T>(act: (machine: LocalRelay, open: number) => T): T {
    if (this.#closed.signal.aborted) throw new SlackwaterError('closed', 'this relay was closed')
    return act(this.#machine, [...this.views.values()].filter(({ status }) => !isEnd(status)).length)
  }

  /** Names of the nonces that requests of all pages hold, one per line. */
  async nonces(): Promise<string> {
    const machine = this.#make()
    const requests = await this.#load(machine)
    machine.free()
    const open = requests.filter(({ status }) => !isEnd(status))
    return open.map(({ place }) => place && nonceKey(this.#chainId, place.forwarder, place.from, place.nonce)).join('\n')
  }

  /** Makes a request durable, and hands it to the page that drives. */
  async enqueue({ id, key, record }: Admitted): Promise<PageRequest> {
    const known = this.views.get(id)
    if (known) return known
    // What is stored under this key already is this request, perhaps with its end: it must stay.
    const isNew = await locked(`${this.#name}-add`, async () => {
      if ((await this.#storage.load()).some(([stored]) => stored === key)) return false
      await this.#storage.put(key, record)
      return true
    })
    if (isNew && this.isDriving) {
      this.#take(key, record)
      const view = this.views.get(id)
      if (view) return view
    }
    const view = queued(id, record)
    if (!this.views.has(id)) this.#see([view])
    this.#added.push(key)
    this.#post({ type: 'added', key, view })
    if (this.isDriving) await this.#takeAdded()
    return this.views.get(id) ?? view
  }

  /** Has the page that drives do something about a request. */
  async tell(what: Wish, id: string): Promise<void> {
    if (this.isDriving) return this.#wish(what, id)
    const ask = crypto.randomUUID()
    const answer = await new Promise<Message & { type: 'told' }>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(ask)
        reject(new SlackwaterError('no_driver', 'the page that drives does not answer'))
      }, ANSWER_MS)
      this.#waiting.set(ask, (message) => (clearTimeout(timer), resolve(message)))
      this.#post({ type: 'tell', ask, what, id })
    })
    if (answer.error) throw new SlackwaterError(answer.error.code, answer.error.message)
  }

  /** A promise of the next change, counted from now. */
  changed(): (signal?: AbortSignal) => Promise<void> {
    let listener!: () => void
    const change = new Promise<void>((resolve) => this.#listeners.add((listener = resolve)))
    return async (signal) => {
      if (this.#closed.signal.aborted) throw new SlackwaterError('closed', 'this relay was closed')
      let stop!: () => void
      const stopped = new Promise<void>((resolve) => {
        stop = () => resolve()
        signal?.addEventListener('abort', stop, { once: true })
      })
      await Promise.race([change, stopped])
      signal?.removeEventListener('abort', stop)
      this.#listeners.delete(listener)
    }
  }

  // ---- pages ----

  async #load(machine: LocalRelay): Promise<PageRequest[]> {
    machine.load(Date.now(), JSON.stringify(await this.#storage.load()))
    return machine.requests()
  }

  async #lead(): Promise<void> {
    const machine = this.#make()
    const found = await this.#load(machine)
    if (this.#closed.signal.aborted) return
    this.#machine = machine
    this.isDriving = this.#hasLed = true
    this.views.clear()
    this.#see(found)
    await this.#takeAdded()
    this.#tellAll()
    this.#drain()
  }

  /** Takes what pages added, as it is in storage now: what has ended and was forgotten since must not come back. */
  async #takeAdded(): Promise<void> {
    while (this.#added.length > 0) {
      const keys = this.#added.splice(0)
      const stored = new Map(await this.#storage.load())
      if (!this.isDriving) return
      for (const key of keys) {
        const record = stored.get(key)
        if (record !== undefined) this.#take(key, record)
      }
    }
  }

  #tellAll(): void {
    this.#account = this.#machine.account()
    this.#post({ type: 'views', views: this.#machine.requests(), account: this.#account })
  }

  #hear(message: Message): void {
    if (message.type === 'added') {
      // Perhaps this page drives next, and has read the storage already.
      this.#added.push(message.key)
      if (this.isDriving) void this.#takeAdded().catch((error: unknown) => this.#alert('storage_failed', String(error)))
      else if (!this.views.has(message.view.id)) this.#see([message.view])
    } else if (message.type === 'tell') {
      if (!this.isDriving) return
      const told: Message = { type: 'told', ask: message.ask }
      try {
        this.#wish(message.what, message.id)
      } catch (error) {
        const { code, message: text } = error as SlackwaterError
        told.error = { code, message: text }
      }
      this.#post(told)
    } else if (message.type === 'hello') {
      if (this.isDriving) this.#tellAll()
    } else if (this.isDriving) return
    else if (message.type === 'told') {
      this.#waiting.get(message.ask)?.(message)
      this.#waiting.delete(message.ask)
    } else if (message.type === 'gone') {
      this.views.delete(message.id)
      this.#notify()
    } else {
      this.#account = message.account
      // Who drives knows all that was added.
      if (message.type === 'views') this.#added = this.#added.filter((key) => !message.views.some(({ id }) => key === `r:${id}`))
      this.#see(message.type === 'views' ? message.views : [message.view])
    }
  }

  #post(message: Message): void {
    if (!this.#closed.signal.aborted) this.#channel?.postMessage(message)
  }

  #see(views: PageRequest[]): void {
    for (const view of views) this.views.set(view.id, view)
    this.#notify()
  }

  #notify(): void {
    const listeners = [...this.#listeners]
    this.#listeners.clear()
    for (const listener of listeners) listener()
  }

  #take(key: string, record: string): void {
    this.#machine.take(Date.now(), key, record)
    this.#drain()
  }

  #wish(what: Wish, id: string): void {
    if (what === 'cancel') this.#machine.cancel(Date.now(), id)
    else if (!this.#machine.acknowledge(id)) throw new SlackwaterError('too_early', `request ${id} has not ended`)
    else {
      this.views.delete(id as Hex)
      this.#post({ type: 'gone', id: id as Hex })
    }
    this.#drain()
  }

  #alert(code: string, detail: string): void {
    this.#onAlert?.({ code, detail })
  }

  // ---- the machine ----

  /** In order: writes must not overtake each other. */
  #write(act: () => Promise<void>, then: (isStored: boolean) => void): void {
    this.#writing = this.#writing.then(act).then(
      () => then(true),
      () => then(false),
    )
  }

  #drain(): void {
    const machine = this.#machine
    if (!this.isDriving) return
    for (let command; (command = machine.nextCommand()); ) {
      if ('store' in command) {
        const { key, revision, record } = command.store
        this.#write(
          () => this.#storage.put(key, record),
          (isStored) => {
            if (!this.isDriving) return
            if (isStored) machine.stored(Date.now(), key, revision)
            else machine.storeFailed(Date.now(), key, revision)
            this.#drain()
          },
        )
      } else if ('remove' in command) {
        const { key } = command.remove
        this.#write(
          () => this.#storage.remove(key),
          () => undefined,
        )
      } else if ('call' in command) {
        const { id, method, params } = command.call
        void this.#call(machine, id, method, params)
      } else if ('changed' in command) {
        const view = machine.request(command.changed.id)
        if (!view) continue
        this.#account = machine.account()
        this.#see([view])
        this.#post({ type: 'view', view, account: this.#account })
      } else this.#alert(command.alert.code, command.alert.detail)
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

  /** Whether the node is of the chain that this relay is for, now. Answers that come together share a question. */
  #isOurs(): Promise<boolean> {
    return (this.#looking ??= this.#look().finally(() => (this.#looking = undefined)))
  }

  async #look(): Promise<boolean> {
    let timer: ReturnType<typeof setTimeout> | undefined
    // A wallet that never answers must not keep the next look from being taken.
    const silence = new Promise<undefined>((give) => (timer = setTimeout(() => give(undefined), LOOK_MS)))
    const asked = ask(this.#provider, 'eth_chainId').then((id) => BigInt(id as string), () => undefined)
    const told = await Promise.race([asked, silence])
    clearTimeout(timer)
    if (told === undefined) return false
    const isAway = told !== this.#chainId
    if (isAway && !this.#isAway) {
      this.#alert('wrong_chain', `the node is of chain ${told}, not ${this.#chainId}: paused`)
    }
    this.#isAway = isAway
    return !isAway
  }

  async #call(machine: LocalRelay, id: number, method: string, params: unknown[]): Promise<void> {
    let report: () => void
    // A wallet may change its chain. Asked after blocks, nonces, receipts and code, and before anything leaves. Without an answer what was
    // asked is lost, and asked again.
    const lost = () => machine.lost(Date.now(), id)
    try {
      const before = this.#isAway || method === 'eth_sendRawTransaction'
      const isSent = !before || (await this.#isOurs())
      const result = isSent && (await ask(this.#provider, method, params))
      const after = this.#isAway || /^eth_get(Block|Code|Transaction)/.test(method)
      report = !isSent || (after && !(await this.#isOurs())) ? lost : () => machine.answered(Date.now(), id, result)
    } catch (error) {
      const refusal = refused(error)
      report = refusal ? () => machine.refused(Date.now(), id, ...refusal) : lost
    }
    if (!this.isDriving) return
    report()
    this.#drain()
  }
}

/** How a record that was just admitted shows until the page that drives tells of it. */
function queued(id: Hex, record: string): PageRequest {
  const { acceptedAt, request } = JSON.parse(record) as {
    acceptedAt: number
    request: { deadline: number; nonce: number; kind: { forward?: { forwarder: Hex; from: Hex } } }
  }
  const { forward } = request.kind
  const rest = { status: 'queued', acceptedAt, deadlineAt: request.deadline }
  if (!forward) return { id, kind: 'call', ...rest }
  const { forwarder, from } = forward
  return { id, kind: 'forward', place: { forwarder, from, nonce: String(request.nonce) }, ...rest }
}

/** A node's own error: its code and its words. Anything else may have got through. */
function refused(error: unknown): [code: number, message: string] | undefined {
  // A DOMException has a number too.
  if (typeof error !== 'object' || error === null || (typeof DOMException !== 'undefined' && error instanceof DOMException)) return undefined
  const { code, rpcCode, message, details, data } = error as Record<string, unknown>
  const number = typeof rpcCode === 'number' ? rpcCode : code
  if (typeof number !== 'number') return undefined
  // Wallets and libraries wrap what the node said.
  const inner = typeof data === 'object' && data !== null ? (data as Record<string, unknown>)['message'] : undefined
  const words = [details, inner, message].filter((text): text is string => typeof text === 'string')
  return [number, words.join(': ')]
}
