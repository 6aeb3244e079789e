/** Locks of this process, for where there are no Web Locks (Node before 24). */
const held = new Map<string, Promise<void>>()
const webLocks = () => {
  // A page without an origin (a sandboxed frame) has locks that refuse everything.
  if (typeof navigator === 'undefined' || (globalThis as { origin?: string }).origin === 'null') return undefined
  return (navigator as { locks?: LockManager }).locks
}

/**
 * @internal Runs `act` while nobody else of this origin has the lock, with whether it was free at once. Whoever waits is next
 * when the holder's promise settles, or its page is gone.
 */
export async function locked<T>(name: string, act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const locks = webLocks()
  if (locks) return locks.request(name, signal ? { signal } : {}, act) as Promise<T>
  const before = held.get(name) ?? Promise.resolve()
  let free!: () => void
  const done = new Promise<void>((resolve) => (free = resolve))
  const queue = before.then(() => done)
  held.set(name, queue)
  await before
  try {
    signal?.throwIfAborted()
    return await act()
  } finally {
    free()
    if (held.get(name) === queue) held.delete(name)
  }
}

/** Nonces that this process holds, for where there are no Web Locks. */
const kept = new Set<{ name?: string }>()

/** @internal Names of all locks that are held, one per line. */
export async function heldLocks(): Promise<string> {
  return ((await webLocks()?.query())?.held ?? [...kept]).map(({ name }) => name).join('\n')
}

/** @internal Takes a lock if it is free, and returns what frees it. It is free in any case at `end`, and with its page. */
export function hold(name: string, end: number): Promise<() => void> {
  return new Promise((taken) => {
    const keep = () =>
      new Promise<void>((free) => {
        const timer = setTimeout(free, Math.min(Math.max(0, end - Date.now()), 0x7fffffff))
        // Node waits for timers.
        ;(timer as { unref?: () => void }).unref?.()
        taken(() => (clearTimeout(timer), free()))
      })
    const [locks, own] = [webLocks(), { name }]
    if (locks) void locks.request(name, { ifAvailable: true }, keep)
    else {
      kept.add(own)
      void keep().then(() => kept.delete(own))
    }
  })
}
