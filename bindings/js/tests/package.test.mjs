// Form of the packed package: what publint and are-the-types-wrong say, types in a strict consumer, sizes, no side effects.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { brotliCompressSync, constants } from 'node:zlib'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { build } from 'esbuild'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { PACKAGE, ROOT } from './world.mjs'

const budget = JSON.parse(readFileSync(join(ROOT, 'wasm/budget.json'), 'utf8'))
const modules = join(ROOT, 'bindings/js/node_modules')

test('publint has nothing to say', async () => {
  const { messages, pkg } = await publint({ pkgDir: PACKAGE, strict: true })
  assert.deepEqual(messages.map((message) => formatMessage(message, pkg)), [])
})

test('the types are right for ESM consumers', async () => {
  const tarball = process.env.SLACKWATER_TARBALL
  const { problems } = await checkPackage(createPackageFromTarballData(readFileSync(tarball)))
  // The module itself has no types. ESM only, so a CommonJS `require` is refused on purpose, and resolution without `exports` finds nothing.
  const others = problems.filter(({ kind, resolutionKind, entrypoint }) => kind !== 'CJSResolvesToESM' && resolutionKind !== 'node10' && !entrypoint?.endsWith('.wasm'))
  assert.deepEqual(others, [])
})

test('no `any` in the types, and a strict consumer compiles', () => {
  for (const folder of ['dist', 'wasm']) {
    for (const name of readdirSync(join(PACKAGE, folder)).filter((name) => name.endsWith('.d.ts'))) {
      const code = readFileSync(join(PACKAGE, folder, name), 'utf8').replace(/\/\*[^]*?\*\/|\/\/.*/g, '')
      assert.doesNotMatch(code, /\bany\b/, `${folder}/${name}`)
    }
  }
  const dir = join(ROOT, 'target/js/consumer')
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
  symlinkSync(modules, join(dir, 'node_modules'))
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }')
  writeFileSync(
    join(dir, 'main.ts'),
    `import { Forecaster, Slackwater, SlackwaterError, fromEthers, fromProvider, fromViem, httpProvider } from 'slackwater'
     import { PageRelay } from 'slackwater/page'
     import { createWalletClient, custom, http } from 'viem'
     import { privateKeyToAccount } from 'viem/accounts'
     import { Wallet } from 'ethers'
     const provider = httpProvider('http://localhost')
     const account = privateKeyToAccount('0x01')
     const client = createWalletClient({ account, transport: custom(provider) })
     export const wallets = [fromViem(account), fromViem(client), fromEthers(new Wallet('0x01')), fromProvider(client), fromProvider(provider)]
     export const slackwater = await Slackwater.open({ url: 'http://localhost', provider, relayer: '0x' })
     export async function use(): Promise<string> {
       const { signed, accepted } = await slackwater.send(wallets[0]!, { chainId: 1n, to: '0x', withinMs: 5 })
       for await (const { event } of slackwater.follow(accepted.id)) {
         const verdict = await slackwater.verify(signed, event, { kind: 'depth', blocks: 2 })
         if (verdict.kind === 'confirmed' && verdict.isFinal) return verdict.blockHash
       }
       const forecaster = new Forecaster({ horizons: [2] })
       await forecaster.update(provider)
       throw new SlackwaterError('x', forecaster.forecast()?.horizons[0]?.q90 ?? '')
     }
     void http
     const page: PageRelay = await PageRelay.open({ provider, chain: { chainId: 1n, blockTimeMs: 12_000, finality: { kind: 'safe' } } })
     export async function relay(): Promise<bigint> {
       const request = await page.send(wallets[0]!, { forwarder: '0x', to: '0x', withinMs: 5, maxCost: 7n })
       for await (const { status, txHash } of page.follow(request.id, { toInclusion: true })) if (status === 'included') void txHash
       await page.call({ to: '0x', value: 1n })
       await page.withdraw('0x')
       return page.balance()
     }
     // @ts-expect-error no such chain
     void PageRelay.open({ provider, chain: { chainId: 1 } })
     // @ts-expect-error a number is no address
     void slackwater.send(wallets[0]!, { chainId: 1, to: 7 })
`,
  )
  const compilerOptions = { strict: true, noEmit: true, module: 'nodenext', target: 'es2022', lib: ['es2022', 'dom'], skipLibCheck: false, types: [] }
  // viem and ethers are not ours to check.
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions: { ...compilerOptions, skipLibCheck: true }, files: ['main.ts'] }))
  const tsc = join(modules, 'typescript/bin/tsc')
  execFileSync(process.execPath, [tsc, '-p', dir], { stdio: 'inherit' })
  // Ours alone, declarations checked.
  writeFileSync(join(dir, 'own.ts'), `export * from 'slackwater'\nexport * as page from 'slackwater/page'\n`)
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['own.ts'] }))
  execFileSync(process.execPath, [tsc, '-p', dir], { stdio: 'inherit' })
})

const bundle = async (code) => {
  const { outputFiles } = await build({
    stdin: { contents: code, resolveDir: join(ROOT, 'bindings/js/tests') },
    bundle: true,
    minify: true,
    write: false,
    format: 'esm',
    target: 'es2022',
    platform: 'browser',
    legalComments: 'none',
  })
  return outputFiles[0].contents
}
const brotli = (bytes) =>
  brotliCompressSync(bytes, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_LGWIN]: 24, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
  }).length

test('the wrapper is small, and what is not used falls away', async () => {
  const length = async (code) => (await bundle(code)).length
  const all = await length(`export * from 'slackwater'`)
  const glue = await length(`export * from '${join(PACKAGE, 'wasm/slackwater.js')}'; export { default } from '${join(PACKAGE, 'wasm/slackwater.js')}'`)
  const one = await length(`export { httpProvider } from 'slackwater'`)
  const nothing = await length(`import 'slackwater'; import 'slackwater/page'`)
  console.log(`minified: wrapper ${all - glue} bytes of ${budget.maxScriptBytes}, with the generated glue ${all}, httpProvider alone ${one}`)
  assert.ok(all - glue <= budget.maxScriptBytes, `${all - glue} bytes, allowed are ${budget.maxScriptBytes}`)
  assert.ok(one < 1_500, `httpProvider alone has ${one} bytes`)
  assert.equal(nothing, 0, 'no side effects')
  const page = await length(`export * from 'slackwater/page'`)
  const pageGlue = await length(`export * from '${join(PACKAGE, 'wasm/page.js')}'; export { default } from '${join(PACKAGE, 'wasm/page.js')}'`)
  console.log(`minified: page ${page - pageGlue} bytes of ${budget.maxPageScriptBytes}, with the generated glue ${page}`)
  assert.ok(page - pageGlue <= budget.maxPageScriptBytes, `${page - pageGlue} bytes, allowed are ${budget.maxPageScriptBytes}`)
})

// The table in docs/browser.md is what this prints.
test('what it weighs, beside viem and ethers for a part of the job', async () => {
  const { version: viem } = JSON.parse(readFileSync(join(modules, 'viem/package.json'), 'utf8'))
  const { version: ethers } = JSON.parse(readFileSync(join(modules, 'ethers/package.json'), 'utf8'))
  const scripts = {
    'scripts of this package': `export * from 'slackwater'`,
    [`viem ${viem}`]: `export { createPublicClient, http, hashTypedData, recoverTypedDataAddress } from 'viem'`,
    [`ethers ${ethers}`]: `export { JsonRpcProvider, TypedDataEncoder, verifyTypedData, Contract } from 'ethers'`,
  }
  const module = readFileSync(join(PACKAGE, 'wasm/slackwater_bg.wasm'))
  const rows = [['module', module.length, brotli(module)]]
  for (const [name, code] of Object.entries(scripts)) {
    const bytes = await bundle(code)
    rows.push([name, bytes.length, brotli(bytes)])
  }
  for (const [name, bytes, compressed] of rows) console.log(`${name.padEnd(26)} ${String(bytes).padStart(8)} bytes, brotli ${String(compressed).padStart(7)}`)
  assert.ok(rows[0][2] <= budget.modules.slackwater.maxBrotliBytes, `${rows[0][2]} bytes, allowed are ${budget.modules.slackwater.maxBrotliBytes}`)
})
