// Optimises the module in MADE, puts it into OUT, and compares its size with BUDGET:
//
//   node wasm-size.mjs MADE_DIR OUT_DIR BUDGET.json
//
// Exits with 1 if it is larger than allowed.

import { execFileSync } from 'node:child_process'
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'

const [made, out, budgetFile] = process.argv.slice(2)
const MODULE = 'slackwater_bg.wasm'
const FEATURES = ['bulk-memory', 'multivalue', 'mutable-globals', 'nontrapping-float-to-int', 'reference-types', 'sign-ext']

for (const name of readdirSync(made)) if (name !== MODULE && !name.endsWith('_bg.wasm.d.ts')) copyFileSync(join(made, name), join(out, name))
const opt = fileURLToPath(new URL('node_modules/binaryen/bin/wasm-opt', import.meta.url))
// Raw exports are nobody's business: no `any` in the types. `Symbol.dispose` is not in everybody's library yet.
const types = readFileSync(join(out, 'slackwater.d.ts'), 'utf8')
const [surface, raw] = types.split('export interface InitOutput {')
if (raw === undefined) throw new Error('the types have no InitOutput')
const opaque = raw.replace(/^[^}]*/, '\n    readonly memory: WebAssembly.Memory;\n')
const typed = `${surface}export interface InitOutput {${opaque}`.replace(/^\s*\[Symbol\.dispose\]\(\): void;\n/gm, '')
writeFileSync(join(out, 'slackwater.d.ts'), typed)

const flags = ['-Oz', '--gufa', '-Oz', '--strip-debug', '--strip-producers', '--strip-target-features', ...FEATURES.map((f) => `--enable-${f}`)]
execFileSync(process.execPath, [opt, join(made, MODULE), ...flags, '-o', join(out, MODULE)], { stdio: 'inherit' })

const bytes = readFileSync(join(out, MODULE))
const brotli = brotliCompressSync(bytes, {
  params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
}).length
const { maxModuleBrotliBytes: limit } = JSON.parse(readFileSync(budgetFile, 'utf8'))
console.log(`module: ${bytes.length} bytes, gzip ${gzipSync(bytes, { level: 9 }).length}, brotli ${brotli} of ${limit}`)
if (!(brotli <= limit)) {
  console.error(`the module has ${brotli} bytes (brotli), allowed are ${limit}: see wasm/budget.json`)
  process.exit(1)
}
