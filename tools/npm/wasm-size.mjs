// Optimises the module NAME in MADE, puts it into OUT, and compares its size with that of NAME in BUDGET:
//
//   node wasm-size.mjs NAME MADE_DIR OUT_DIR BUDGET.json
//
// Exits with 1 if it is larger than allowed.

import { execFileSync } from 'node:child_process'
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'

const [name, made, out, budgetFile] = process.argv.slice(2)
const MODULE = `${name}_bg.wasm`
const FEATURES = ['bulk-memory', 'multivalue', 'mutable-globals', 'nontrapping-float-to-int', 'reference-types', 'sign-ext']

for (const file of readdirSync(made)) if (file !== MODULE && !file.endsWith('_bg.wasm.d.ts')) copyFileSync(join(made, file), join(out, file))
const opt = fileURLToPath(new URL('node_modules/binaryen/bin/wasm-opt', import.meta.url))
// Raw exports are nobody's business: no `any` in the types. `Symbol.dispose` is not in everybody's library yet.
const types = readFileSync(join(out, `${name}.d.ts`), 'utf8')
const [surface, raw] = types.split('export interface InitOutput {')
if (raw === undefined) throw new Error('the types have no InitOutput')
const opaque = raw.replace(/^[^}]*/, '\n    readonly memory: WebAssembly.Memory;\n')
const typed = `${surface}export interface InitOutput {${opaque}`.replace(/^\s*\[Symbol\.dispose\]\(\): void;\n/gm, '')
writeFileSync(join(out, `${name}.d.ts`), typed)

// Rust has nothing below address 1 024 but the last bytes of its stack, and the module's memory is its own, so zero at first.
const assumed = ['--low-memory-unused', '--zero-filled-memory']
// A function inlined into its only caller costs the compressed module more than its call did.
const inlined = ['--one-caller-inline-max-function-size=20', '--always-inline-max-function-size=4']
// Sorted by name, copies of one generic function stand side by side, where compression sees that they are alike.
const flags = ['-Oz', '--gufa', '-Oz', ...inlined, ...assumed, '--reorder-functions-by-name', '--strip-debug', '--strip-producers', '--strip-target-features', ...FEATURES.map((f) => `--enable-${f}`)]
execFileSync(process.execPath, [opt, join(made, MODULE), ...flags, '-o', join(out, MODULE)], { stdio: 'inherit' })

const bytes = readFileSync(join(out, MODULE))
const brotli = brotliCompressSync(bytes, {
  params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
}).length
const { maxBrotliBytes: limit } = JSON.parse(readFileSync(budgetFile, 'utf8')).modules[name]
console.log(`module ${name}: ${bytes.length} bytes, gzip ${gzipSync(bytes, { level: 9 }).length}, brotli ${brotli} of ${limit}`)
if (!(brotli <= limit)) {
  console.error(`the module ${name} has ${brotli} bytes (brotli), allowed are ${limit}: see wasm/budget.json`)
  process.exit(1)
}
