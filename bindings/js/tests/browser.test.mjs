// The packed package and the example in Chromium, against the real relayer and a real chain.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { PACKAGE, ROOT, World, eventually, serve, vectors } from './world.mjs'

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const SHOTS = join(ROOT, 'target/js/screenshots')
let world, pages, profile, context

before(async () => {
  mkdirSync(SHOTS, { recursive: true })
  world = await World.start()
  pages = await serve({
    '/package/': PACKAGE,
    '/tests/': join(ROOT, 'bindings/js/tests'),
    '/app/': join(ROOT, 'target/js/sponsored'),
  })
  profile = mkdtempSync(join(tmpdir(), 'slackwater-chromium-'))
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.SLACKWATER_CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
    headless: true,
    viewport: { width: 1200, height: 1040 },
  })
})
after(async () => {
  await context?.close()
  await world?.stop()
  pages?.close()
  if (profile) rmSync(profile, { recursive: true, force: true })
})

async function plainPage() {
  const page = await context.newPage()
  await page.goto(`${pages.url}/tests/page/`)
  await page.waitForSelector('html[data-ready]', { state: 'attached' })
  return page
}

test('vectors, to the bit, without a bundler', async () => {
  const page = await plainPage()
  const counts = await page.evaluate(async (vectors) => {
    await window.slackwater.init()
    return window.checkVectors(window.slackwater, vectors)
  }, vectors())
  assert.equal(counts.eip712, 56)
  assert.equal(counts.signatures, 56)
  assert.ok(counts.merkle > 90 && counts.forecasts > 300, JSON.stringify(counts))
  await page.close()
})

test('works in a web worker', async () => {
  const page = await plainPage()
  const answer = await page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const worker = new Worker('/tests/page/worker.js', { type: 'module' })
        worker.onmessage = ({ data }) => resolve(data)
        worker.onerror = (error) => reject(new Error(error.message))
      }),
  )
  assert.deepEqual(answer, ['1265625000', true])
  await page.close()
})

const appUrl = (extra = {}) => {
  const { url, guestbook, chainId } = world.ready
  return `${pages.url}/app/?${new URLSearchParams({ relayer: url, rpc: world.chain.url, guestbook, chain: chainId, depth: 1, ...extra })}`
}

async function openApp() {
  const page = await context.newPage()
  page.problems = []
  page.on('pageerror', (error) => page.problems.push(String(error)))
  await page.goto(appUrl())
  await page.waitForSelector('#send:enabled')
  return page
}

async function write(page, message, within = '15000') {
  await page.fill('#message', message)
  await page.check(`input[name=within][value="${within}"]`, { force: true })
  await page.click('#send')
  return page.locator('.entry', { hasText: message })
}

const inState = (entry, ...states) =>
  eventually(`state ${states}`, async () => states.includes(await entry.getAttribute('data-state').catch(() => '')))
const user = (page) =>
  page.evaluate(() => JSON.parse(localStorage.getItem('tidebook.entries'))[0].signed.request.from)

test('the example: a visitor without ETH writes, watches, and verifies', async () => {
  const page = await openApp()
  await page.waitForSelector('#fan polygon', { state: 'attached' })
  await eventually('a quote', async () => /ETH|wei/.test(await page.textContent('#cost')))
  await page.screenshot({ path: join(SHOTS, '1-start.png'), fullPage: true })
  const entry = await write(page, 'Signed without owning a single wei.')
  await inState(entry, 'queued', 'batched', 'broadcast', 'included', 'finalized')
  await page.screenshot({ path: join(SHOTS, '2-on-the-way.png'), fullPage: true })
  await inState(entry, 'finalized')
  await entry.locator('.badge.good', { hasText: 'final, checked at your node' }).waitFor({ timeout: 60_000 })
  await page.screenshot({ path: join(SHOTS, '3-final.png'), fullPage: true })
  assert.equal(await world.count(await user(page)), 1)
  assert.equal(BigInt(await world.rpc('eth_getBalance', [await user(page), 'latest'])), 0n)
  assert.deepEqual(page.problems, [])
  await page.close()
})

test('offline in the middle of submitting, then online', async () => {
  const page = await openApp()
  // Nonce and domain are read while there is a network; what is submitted meets none.
  await page.route(`${world.ready.url}/v1/requests**`, (route) => route.abort('internetdisconnected'))
  const entry = await write(page, 'Written in a tunnel.')
  await inState(entry, 'sending')
  await context.setOffline(true)
  await page.unroute(`${world.ready.url}/v1/requests**`)
  await page.screenshot({ path: join(SHOTS, '4-offline.png'), fullPage: true })
  assert.equal(await entry.getAttribute('data-state'), 'sending')
  await context.setOffline(false)
  await inState(entry, 'finalized')
  const before = await world.count(await user(page))
  assert.equal(before, 2, 'once')
  await page.close()
})

test('reload in mid-flight: the outbox goes on', async () => {
  const page = await openApp()
  await page.route(`${world.ready.url}/v1/requests**`, (route) => route.abort('connectionreset'))
  const entry = await write(page, 'Reloaded before it arrived.')
  await inState(entry, 'sending')
  const stored = () =>
    page.evaluate(
      () =>
        new Promise((resolve, reject) => {
          const request = indexedDB.open('slackwater')
          request.onerror = () => reject(request.error)
          request.onsuccess = () => {
            const all = request.result.transaction('outbox').objectStore('outbox').count()
            all.onsuccess = () => (request.result.close(), resolve(all.result))
          }
        }),
    )
  await eventually('a record in IndexedDB', async () => (await stored()) === 1)
  await page.unroute(`${world.ready.url}/v1/requests**`)
  await page.reload()
  const again = page.locator('.entry', { hasText: 'Reloaded before it arrived.' })
  await inState(again, 'finalized')
  await eventually('an empty outbox', async () => (await stored()) === 0)
  assert.equal(await world.count(await user(page)), 3, 'once')
  // And in the middle of following.
  const next = await write(page, 'Reloaded while it was followed.')
  await inState(next, 'queued', 'batched', 'broadcast', 'included')
  await page.reload()
  await inState(page.locator('.entry', { hasText: 'Reloaded while it was followed.' }), 'finalized')
  assert.equal(await world.count(await user(page)), 4)
  await page.close()
})

test('the relayer is killed and comes back', async () => {
  const page = await openApp()
  const entry = await write(page, 'The relayer fell over.', '60000')
  await inState(entry, 'queued', 'batched', 'broadcast', 'included')
  await world.killRelayer()
  await page.waitForSelector('#net[data-state=bad]', { timeout: 60_000 })
  await page.screenshot({ path: join(SHOTS, '5-relayer-gone.png'), fullPage: true })
  await world.startRelayer()
  await inState(entry, 'finalized')
  assert.equal(await world.count(await user(page)), 5)
  await page.close()
})

test('an injected wallet signs in the example', async () => {
  const key = `0x${'4b'.repeat(32)}`
  const { privateKeyToAccount } = await import('viem/accounts')
  const account = privateKeyToAccount(key)
  const page = await context.newPage()
  await page.exposeFunction('signWithKey', (text) => account.signTypedData(JSON.parse(text)))
  await page.addInitScript((address) => {
    window.ethereum = {
      request: async ({ method, params }) => (method === 'eth_requestAccounts' ? [address] : window.signWithKey(params[1])),
    }
  }, account.address)
  await page.goto(appUrl())
  await page.click('#wallet')
  await page.locator('#account', { hasText: 'Wallet 0x' }).waitFor()
  await inState(await write(page, 'By a wallet of my own.'), 'finalized')
  assert.equal(await world.count(account.address), 1)
  await page.close()
})

test('what it takes', async () => {
  const page = await plainPage()
  const figures = await page.evaluate(async () => {
    const { slackwater } = window
    const start = performance.now()
    await slackwater.init()
    const loaded = performance.now() - start
    const fee = (i) => `0x${Math.round(20e9 + 5e9 * Math.sin(i * 1.3)).toString(16)}`
    const history = { oldestBlock: '0x1', baseFeePerGas: Array.from({ length: 257 }, (_, i) => fee(i)), gasUsedRatio: Array(256).fill(0.5) }
    const forecaster = new slackwater.Forecaster()
    const first = performance.now()
    forecaster.observeHistory(history)
    forecaster.forecast()
    const firstForecast = performance.now() - first
    const per = (count, act) => {
      for (let i = 0; i < count; i++) act(i)
      const start = performance.now()
      for (let i = 0; i < count; i++) act(i)
      return ((performance.now() - start) * 1_000) / count
    }
    const domain = { name: 'x', chainId: 1, verifyingContract: `0x${'11'.repeat(20)}` }
    const request = { from: domain.verifyingContract, to: domain.verifyingContract, gas: 1, nonce: 1, deadline: 1, data: '0x1234' }
    return {
      'load and compile, ms': loaded,
      'first forecast from 256 blocks, ms': firstForecast,
      'quantile (predict), µs': per(2_000, () => forecaster.quantile(5, 0.9)),
      'whole forecast with fan, µs': per(1_000, () => forecaster.forecast()),
      'EIP-712 digest, µs': per(2_000, () => slackwater.forwardDigest(domain, request)),
    }
  })
  for (const [what, value] of Object.entries(figures)) console.log(`${what.padEnd(38)} ${value.toFixed(1)}`)
  await page.close()
})
