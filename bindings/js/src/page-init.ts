import start from '../wasm/page.js'
import { once } from './module.js'
import type { ModuleSource } from './module.js'

const started = /* @__PURE__ */ once(start, () => new URL('../wasm/page_bg.wasm', import.meta.url))

/** Loads the WebAssembly module of `slackwater/page`, which is another one than that of `slackwater`. */
export function init(source?: ModuleSource | Promise<ModuleSource>): Promise<void> {
  return started(source)
}
