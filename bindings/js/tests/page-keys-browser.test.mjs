// A page with a key of its own in Chromium, before a relayer that serves nobody without a key.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { encodeFunctionData, parseAbi, toFunctionSelector } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { PACKAGE, ROOT, end, eventually, freePort, serve, startContracts } from './world.mjs'

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const PAGE_KEY = `sw_shop_page${'a'.repeat(40)}`
const OWN_KEY = `sw_shop_own${'b'.repeat(40)}`
const abi = parseAbi(['function sign(string message)'])
const account = privateKeyToAccount(generatePrivateKey())
const stranger = privateKeyToAccount(generatePrivateKey())
let world, folder, relayer, url, pages, elsewhere, context

const hash = (key) => `sha256:${createHash('sha256').update(key).digest('hex')}`

before(async () => {
  world = await startContracts()
  const folders = { '/package/': PACKAGE, '/tests/': join(ROOT, 'bindings/js/tests') }
  ;[pages, elsewhere] = [await serve(folders), await serve(folders)]
  folder = mkdtempSync(join(tmpdir(), 'slackwater-page-keys-'))
  const port = await freePort()
  url = `http://127.0.0.1:${port}`
  const config = `
[server]
listen = "127.0.0.1:${port}"
[ledger]
path = "${folder}/ledger.db"
[[chain]]
preset = "anvil"
rpc = [{ url = "${world.url}" }]
signers = ["env:LANE"]
forwarders = [{ address = "${world.forwarder}" }]
[[tenant]]
id = "shop"
api_keys = ["${hash(OWN_KEY)}"]
budget = { limit_wei = "1000000000000000000" }
targets.${world.chainId} = { "${world.guestbook}" = ["${toFunctionSelector(abi[0])}"] }
[[tenant.keys]]
id = "web"
hash = "${hash(PAGE_KEY)}"
origins = ["${pages.url}"]
`
  writeFileSync(join(folder, 'slackwater.toml'), config)
  // An account that the chain has given money to.
  const lane = generatePrivateKey()
  await world.rpc('anvil_setBalance', [privateKeyToAccount(lane).address, '0xde0b6b3a7640000'])
  const env = { PATH: process.env.PATH, HOME: folder, LANE: lane }
  relayer = spawn(process.env.SLACKWATER_BIN, ['serve', '--config', join(folder, 'slackwater.toml')], { stdio: ['ignore', 'ignore', 'inherit'], env })
  await eventually('a relayer', async () => {
    assert.equal(relayer.exitCode, null, 'it has ended')
    return (await fetch(`${url}/readyz`).catch(() => undefined))?.ok
  })
  context = await chromium.launchPersistentContext(join(folder, 'profile'), {
    executablePath: process.env.SLACKWATER_CHROMIUM ?? '/usr/bin/chromium',
    args: FLAGS,
    headless: true,
  })
})
after(async () => {
  await context?.close()
  if (relayer) await end(relayer, 'SIGTERM')
  pages?.close()
  elsewhere?.close()
  await world?.stop()
  if (folder) rmSync(folder, { recursive: true, force: true })
})

/** A page of `site`, with a client that has the page's key and asks the visitor's own node. */
async function open(site, visitor) {
  const page = await context.newPage()
  page.problems = []
  page.on('pageerror', (error) => page.problems.push(String(error)))
  await page.exposeFunction('signTyped', (text) => visitor.signTypedData(JSON.parse(text)))
  await page.goto(`${site.url}/tests/page/`)
  await page.waitForSelector('html[data-ready]', { state: 'attached' })
  await page.evaluate(
    async ({ url, apiKey, node, address }) => {
      const { Slackwater, httpProvider } = window.slackwater
      window.client = await Slackwater.open({ url, apiKey, provider: httpProvider(node) })
      window.wallet = { address: async () => address, signTypedData: (typed) => window.signTyped(JSON.stringify(typed)) }
      /** Any call with the key: status and body; or what the browser says instead. */
      window.call = async (method, path, body) => {
        const headers = { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' }
        try {
          const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
          return [answer.status, (await answer.json()).code]
        } catch (error) {
          return [0, error.name]
        }
      }
    },
    { url, apiKey: PAGE_KEY, node: world.url, address: visitor.address },
  )
  return page
}

const wanted = (message, more = {}) => ({
  chainId: world.chainId,
  to: world.guestbook,
  data: encodeFunctionData({ abi, functionName: 'sign', args: [message] }),
  gas: 150_000,
  withinMs: 60_000,
  ...more,
})
const send = (page, ask) => page.evaluate(async (ask) => (await window.client.send(window.wallet, ask)).accepted.id, ask)
const failure = (page, act, ...args) =>
  page.evaluate(
    async ([act, args]) => {
      try {
        await window.client[act](...args)
        return 'nothing'
      } catch (error) {
        return error.code ?? String(error)
      }
    },
    [act, args],
  )
const call = (page, ...args) => page.evaluate((args) => window.call(...args), args)
/** What the tenant's own server sees. */
const own = async (path) => (await fetch(url + path, { headers: { authorization: `Bearer ${OWN_KEY}` } })).json()

const withdrawal = (signer, requestHash) =>
  signer.signTypedData({
    domain: { name: 'Slackwater', version: '1' },
    types: { Withdrawal: [{ name: 'requestHash', type: 'bytes32' }, { name: 'chainId', type: 'uint256' }] },
    primaryType: 'Withdrawal',
    message: { requestHash, chainId: BigInt(world.chainId) },
  })

test('from its origin a page key submits and follows, and sees no lists', async () => {
  const page = await open(pages, account)
  const id = await send(page, wanted('With a key that everybody may read.'))
  const told = await page.evaluate(async (id) => {
    const told = []
    for await (const { event } of window.client.follow(id)) told.push(event.status)
    return told
  }, id)
  assert.equal(told.at(-1), 'finalized')
  assert.equal(await world.count(account.address), 1)
  assert.equal((await page.evaluate((id) => window.client.request(id), id)).status, 'finalized')
  assert.equal((await own(`/v1/requests/${id}`)).submittedBy, 'web')
  for (const path of ['/v1/requests', '/v1/events?after=0', '/v1/lanes', '/v1/counts', '/v1/admin/pauses']) {
    assert.deepEqual(await call(page, 'GET', path), [403, 'scope_missing'], path)
  }
  assert.deepEqual(page.problems, [])
  await page.close()
})

test('nobody but its user takes a request back', async () => {
  const page = await open(pages, account)
  // Behind a nonce that nobody has, so that it waits.
  const nonce = (await world.count(account.address)) + 1
  const id = await send(page, wanted('Held back.', { nonce }))
  const visitor = await open(pages, stranger)
  assert.equal(await failure(visitor, 'cancel', id), 'signature_needed')
  const path = `/v1/requests/${id}`
  assert.deepEqual(await call(visitor, 'DELETE', path, { signature: await withdrawal(stranger, id) }), [422, 'invalid_signature'])
  assert.equal((await own(path)).status, 'queued')
  assert.equal((await call(visitor, 'DELETE', path, { signature: await withdrawal(account, id) }))[0], 200)
  assert.equal((await own(path)).status, 'cancelled')
  await visitor.close()
  await page.close()
})

test('from another origin the browser gets nothing, and nothing is accepted', async () => {
  const page = await open(elsewhere, stranger)
  const before = (await own('/v1/requests')).requests.length
  // No answer that a page of this origin may read.
  for (const path of ['/v1/chains', '/v1/requests', `/v1/events?after=0`]) {
    assert.deepEqual(await call(page, 'GET', path), [0, 'TypeError'], path)
  }
  assert.deepEqual(await call(page, 'POST', '/v1/requests', {}), [0, 'TypeError'])
  assert.equal(await failure(page, 'chains'), 'connection_broken')
  // Nor is it the browser alone that keeps it apart.
  const refused = await fetch(`${url}/v1/chains`, { headers: { authorization: `Bearer ${PAGE_KEY}`, origin: elsewhere.url } })
  assert.deepEqual([refused.status, (await refused.json()).code], [403, 'origin_refused'])
  assert.equal((await own('/v1/requests')).requests.length, before)
  await page.close()
})
