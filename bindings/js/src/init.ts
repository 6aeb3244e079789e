import start from '../wasm/slackwater.js'

/** Where the WebAssembly module comes from: an address, an answer of `fetch`, bytes, or a compiled module. */
export type ModuleSource = string | URL | Response | BufferSource | WebAssembly.Module

let started: Promise<void> | undefined

/**
 * Loads the WebAssembly module; needed once before anything is computed. Without an argument it is the file that comes with
 * the package, in browsers, workers and Node alike. Calling it again does nothing, unless it failed.
 */
export function init(source?: ModuleSource | Promise<ModuleSource>): Promise<void> {
  started ??= load(source).catch((error: unknown) => {
    started = undefined
    throw error
  })
  return started
}

async function load(given: ModuleSource | Promise<ModuleSource> | undefined): Promise<void> {
  let source = (await given) ?? new URL('../wasm/slackwater_bg.wasm', import.meta.url)
  // Node's fetch reads no files. The name is kept from bundlers: a page never comes here.
  if (source instanceof URL && source.protocol === 'file:') {
    const files = 'node:fs/promises'
    const { readFile } = (await import(/* @vite-ignore */ /* webpackIgnore: true */ files)) as {
      readFile(file: URL): Promise<Uint8Array<ArrayBuffer>>
    }
    source = await readFile(source)
  }
  await start({ module_or_path: source })
}
