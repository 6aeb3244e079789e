/** Locks of this process, for where there are no Web Locks (Node before 24). */
const held = new Map<string, Promise<void>>()

/**
 * @internal Runs `act` while nobody else of this origin has the lock, with whether it was free at once. Whoever waits is next
 * when the holder's promise settles, or its page is gone.
 */
export async function locked<T>(name: string, act: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const locks = typeof navigator === 'undefined' ? undefined : (navigator as { locks?: LockManager }).locks
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
