import type { Hex } from '../wasm/page.js'
import { SlackwaterError } from '../wasm/interop.js'
import { locked } from './locks.js'
import { indexedDbStorage } from './storage.js'
import type { OutboxStorage } from './storage.js'

const LOCK = 'slackwater-session'
const keys = () => indexedDbStorage('slackwater-session')

/**
 * The session key of this origin, made by the browser's random numbers when it is first asked for. It lies in the storage as
 * it is: whoever can read the page's storage, every script of the origin included, has the key and what its account holds.
 * Keep little there. It is gone when the user clears the site's data.
 */
export function sessionKey(name = 'default', storage: OutboxStorage = keys()): Promise<Hex> {
  return locked(LOCK, async () => {
    const found = (await storage.load()).find(([key]) => key === name)
    if (found) return found[1] as Hex
    // All but one in 2^128 of these are keys; the module refuses the rest.
    const bytes = crypto.getRandomValues(new Uint8Array(32))
    const key: Hex = `0x${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`
    await storage.put(name, key)
    const kept = (await storage.load()).find(([key]) => key === name)?.[1]
    if (kept !== key) throw new SlackwaterError('storage_failed', 'the session key could not be kept')
    return key
  })
}

/** Forgets a session key. What its account holds is lost: `withdraw` first. */
export function forgetSessionKey(name = 'default', storage: OutboxStorage = keys()): Promise<void> {
  return locked(LOCK, () => storage.remove(name))
}
