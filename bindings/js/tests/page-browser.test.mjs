// The packed package's page relay in Chromium, against a real chain: a page without any relayer.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { encodeFunctionData, parseAbi } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { PACKAGE, ROOT, eventually, serve, startContracts } from './world.mjs'

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
let world, pages, profile, context

before(async () => {
  world = await startContracts()
  pages = await serve({ '/package/': PACKAGE, '/tests/': join(ROOT, 'bindings/js/tests') })
  profile = mkdtempSync(join(tmpdir(), 'slackwater-page-'))
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.SLACKWATER_CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
    headless: true,
  })
})
after(async () => {
  await context?.close()
  pages?.close()
  await world?.stop()
  if (profile) rmSync(profile, { recursive: true, force: true })
})

const data = encodeFunctionData({ abi: parseAbi(['function sign(string message)']), functionName: 'sign', args: ['by myself'] })

/** A tab whose relay is open, with the session key of the origin. */
async function openTab(account) {
  const page = await context.newPage()
  page.problems = []
  page.on('pageerror', (error) => page.problems.push(String(error)))
  await page.exposeFunction('signTyped', (text) => account.signTypedData(JSON.parse(text)))
  await start(page)
  return page
}

async function start(page) {
  await page.goto(`${pages.url}/tests/page/relay.html`)
  await page.waitForSelector('html[data-ready]', { state: 'attached' })
  return page.evaluate(
    async ({ url, chainId }) => {
      const chain = { chainId, blockTimeMs: 1_000, finality: { kind: 'depth', blocks: 2 }, timing: 'immediate', pollIntervalMs: 100 }
      window.relay = await window.page.PageRelay.open({ provider: window.page.httpProvider(url), chain })
      return window.relay.address
    },
    { url: world.url, chainId: world.chainId },
  )
}

/** Signs and queues; returns the id. */
const send = (page, account) =>
  page.evaluate(
    async ({ address, ask }) => {
      const wallet = { address: async () => address, signTypedData: (typed) => window.signTyped(JSON.stringify(typed)) }
      return (await window.relay.send(wallet, ask)).id
    },
    { address: account.address, ask: { forwarder: world.forwarder, to: world.guestbook, data, gas: 120_000, withinMs: 60_000 } },
  )
const status = (page, id) => page.evaluate((id) => window.relay.request(id)?.status, id)
const settled = (page, id) => page.evaluate(async (id) => (await window.relay.settled(id)).status, id)
const address = (page) => page.evaluate(() => window.relay.address)

test('a page without a relayer: queued, sent, final', async () => {
  const account = privateKeyToAccount(generatePrivateKey())
  const page = await openTab(account)
  await world.rpc('anvil_setBalance', [await address(page), '0xde0b6b3a7640000'])
  const id = await send(page, account)
  assert.equal(await settled(page, id), 'finalized')
  assert.equal(await world.count(account.address), 1)
  assert.deepEqual(page.problems, [])
  await page.close()
})

test('reloads in mid-flight lose nothing and send nothing twice', async () => {
  const account = privateKeyToAccount(generatePrivateKey())
  const page = await openTab(account)
  const before = await address(page)
  const ids = []
  for (let round = 0; round < 3; round++) {
    ids.push(await send(page, account))
    // Once at once, once when it is signed or sent, once when it may be in a block.
    if (round > 0) await eventually('on its way', async () => (await status(page, ids.at(-1))) !== 'queued')
    if (round > 1) await eventually('included', async () => ['included', 'finalized'].includes(await status(page, ids.at(-1))))
    assert.equal(await start(page), before, 'the session key is the same')
  }
  for (const id of ids) assert.equal(await settled(page, id), 'finalized')
  assert.equal(await world.count(account.address), 3)
  assert.deepEqual(page.problems, [])
  await page.close()
})

test('two tabs: one drives, both submit and see; closing it hands over', async () => {
  // Of one user: the tabs share nonces, too.
  const account = privateKeyToAccount(generatePrivateKey())
  const tabs = [await openTab(account), await openTab(account)]
  const driving = () => Promise.all(tabs.map((tab) => tab.evaluate(() => window.relay.isDriving)))
  assert.deepEqual(await driving(), [true, false])
  const [first, second] = await Promise.all(tabs.map((tab) => send(tab, account)))
  // Each sees the other's.
  assert.equal(await settled(tabs[1], first), 'finalized')
  assert.equal(await settled(tabs[0], second), 'finalized')
  const third = await send(tabs[1], account)
  await tabs[0].close()
  await eventually('it takes over', () => tabs[1].evaluate(() => window.relay.isDriving))
  assert.equal(await settled(tabs[1], third), 'finalized')
  assert.equal(await world.count(account.address), 3)
  assert.deepEqual(tabs[1].problems, [])
  await tabs[1].close()
})
