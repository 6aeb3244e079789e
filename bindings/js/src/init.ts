import start from '../wasm/slackwater.js'
import { once } from './module.js'
import type { ModuleSource } from './module.js'
export type { ModuleSource } from './module.js'

const started = /* @__PURE__ */ once(start, () => new URL('../wasm/slackwater_bg.wasm', import.meta.url))

/**
 * Loads the WebAssembly module; needed once before anything is computed. Without an argument it is the file that comes with
 * the package, in browsers, workers and Node alike. Calling it again does nothing, unless it failed.
 */
export function init(source?: ModuleSource | Promise<ModuleSource>): Promise<void> {
  return started(source)
}
