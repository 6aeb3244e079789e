/** Where an outbox keeps what has not been acknowledged. Write your own for other places; records are opaque. */
export interface OutboxStorage {
  /** All records, with their keys. */
  load(): Promise<[key: string, record: string][]>
  /** Keeps a record, durably when the promise resolves; replaces the one with this key. */
  put(key: string, record: string): Promise<void>
  /** Forgets a record. */
  remove(key: string): Promise<void>
}

/** A storage that forgets everything with the page or process. */
export function memoryStorage(): OutboxStorage {
  const records = new Map<string, string>()
  return {
    load: async () => [...records],
    put: async (key, record) => void records.set(key, record),
    remove: async (key) => void records.delete(key),
  }
}

const STORE = 'outbox'

/**
 * The browser's database: survives a reload, a crash of the page and a restart of the browser. Give each relayer a name of its
 * own; `Slackwater.open` does so by itself. Earlier versions had one database, `slackwater`, for all: what they left there is
 * not touched, and goes on with `Slackwater.open({ storage: indexedDbStorage('slackwater'), … })`.
 */
export function indexedDbStorage(name = 'slackwater'): OutboxStorage {
  let opened: Promise<IDBDatabase> | undefined
  const open = () =>
    (opened ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name, 1)
      request.onupgradeneeded = () => request.result.createObjectStore(STORE)
      request.onsuccess = () => {
        // Another tab may want to delete or upgrade it.
        request.result.onversionchange = () => {
          request.result.close()
          opened = undefined
        }
        resolve(request.result)
      }
      request.onerror = () => reject(request.error)
    }).catch((error: unknown) => {
      opened = undefined
      throw error
    }))
  const run = async (mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest[]): Promise<unknown[]> => {
    const transaction = (await open()).transaction(STORE, mode, { durability: 'strict' })
    const requests = act(transaction.objectStore(STORE))
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(requests.map((request): unknown => request.result))
      transaction.onabort = transaction.onerror = () => reject(transaction.error)
    })
  }
  return {
    async load() {
      // Both lists are in the order of keys, and of one transaction.
      const [keys, records] = await run('readonly', (store) => [store.getAllKeys(), store.getAll()])
      return (keys as string[]).map((key, index) => [key, (records as string[])[index] ?? ''])
    },
    put: async (key, record) => void (await run('readwrite', (store) => [store.put(record, key)])),
    remove: async (key) => void (await run('readwrite', (store) => [store.delete(key)])),
  }
}
