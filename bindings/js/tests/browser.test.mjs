// The packed package and the example in Chromium, against the real relayer and a real chain.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { chromium } from 'playwright-core'
import { forwardDigest, init } from 'slackwater'
import { PACKAGE, ROOT, World, end, eventually, firstLine, serve, vectors } from './world.mjs'

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
// A name that is not this machine's, for a server that is.
FLAGS.push('--host-resolver-rules=MAP tidebook.test 127.0.0.1')
const OUT = process.env.SLACKWATER_JS_OUT ?? join(ROOT, 'target/js')
const SHOTS = join(OUT, 'screenshots')
let world, pages, profile, context

before(async () => {
  mkdirSync(SHOTS, { recursive: true })
  world = await World.start()
  pages = await serve({
    '/package/': PACKAGE,
    '/tests/': join(ROOT, 'bindings/js/tests'),
    '/app/': join(OUT, 'sponsored'),
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

test('two tabs: each sees what the other holds, and what a closed one held is free', async () => {
  const { generatePrivateKey, privateKeyToAccount } = await import('viem/accounts')
  const account = privateKeyToAccount(generatePrivateKey())
  const open = async () => {
    const page = await plainPage()
    await page.exposeFunction('signWithKey', (typed) => account.signTypedData(typed))
    await page.evaluate(async (from) => {
      const { Slackwater } = window.slackwater
      const provider = { request: async () => `0x${'00'.repeat(32)}` }
      const client = await Slackwater.open({ url: 'http://127.0.0.1:9', provider })
      const domain = { name: 'Slackwater', chainId: 31_337, verifyingContract: `0x${'f0'.repeat(20)}` }
      const signTypedData = ({ domain, types: { ForwardRequest }, ...rest }) => window.signWithKey({ domain, types: { ForwardRequest }, ...rest })
      const deadline = Math.floor(Date.now() / 1_000) + 600
      const sign = (answer) => client.sign({ signTypedData: answer ?? signTypedData }, { domain, request: { from, to: from, gas: 50_000, deadline } })
      Object.assign(window, { client, sign })
    }, account.address)
    return page
  }
  const sign = (page) => page.evaluate(async () => (await window.sign()).request.nonce)
  const [one, two] = [await open(), await open()]
  const nonces = await Promise.all([one, two, one, two].map(sign))
  assert.deepEqual(nonces.sort(), ['0', '1', '2', '3'])
  // A prompt that is open, and a request that is in the outbox: that one stays when the tab is gone.
  await one.evaluate(() => new Promise((asked) => void window.sign(() => (asked(), new Promise(() => undefined))).catch(() => undefined)))
  const waiting = await two.evaluate(async () => {
    const signed = await window.sign()
    window.client.enqueue(signed)
    return signed.request.nonce
  })
  assert.equal(waiting, '5')
  await two.evaluate(async () => {
    const stored = async () => (await navigator.locks.query()).held.every(({ name }) => !name.endsWith(':5'))
    while (!(await stored())) await new Promise((resolve) => setTimeout(resolve, 10))
  })
  await two.close()
  await one.close()
  const three = await open()
  const later = []
  for (let index = 0; index < 6; index++) later.push(await sign(three))
  assert.deepEqual(later, ['0', '1', '2', '3', '4', '6'])
  await three.close()
})

const appUrl = (extra = {}) => {
  const { url, guestbook, chainId, forwarder } = world.ready
  return `${pages.url}/app/?${new URLSearchParams({ relayer: url, rpc: world.chain.url, forwarder, guestbook, chain: chainId, depth: 1, identity: world.ready.relayer, ...extra })}`
}

async function openApp(extra) {
  const page = await context.newPage()
  page.problems = []
  page.on('pageerror', (error) => page.problems.push(String(error)))
  await page.goto(appUrl(extra))
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
      (name) =>
        new Promise((resolve, reject) => {
          const request = indexedDB.open(name)
          request.onerror = () => reject(request.error)
          request.onsuccess = () => {
            const all = request.result.transaction('outbox').objectStore('outbox').count()
            all.onsuccess = () => (request.result.close(), resolve(all.result))
          }
        }),
      `slackwater-outbox-${world.ready.url}`,
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

test('two entries around a reload take two nonces', async () => {
  const page = await openApp()
  const before = await world.count(await user(page))
  await page.route(`${world.ready.url}/v1/requests**`, (route) => route.abort('connectionreset'))
  await inState(await write(page, 'Before the reload.'), 'sending')
  await page.reload()
  await page.waitForSelector('#send:enabled')
  await inState(await write(page, 'After the reload.'), 'sending')
  await page.unroute(`${world.ready.url}/v1/requests**`)
  for (const text of ['Before the reload.', 'After the reload.']) await inState(page.locator('.entry', { hasText: text }), 'finalized')
  const nonces = await page.evaluate(() =>
    JSON.parse(localStorage.getItem('tidebook.entries')).slice(0, 2).map(({ signed }) => Number(signed.request.nonce)),
  )
  assert.deepEqual(nonces, [before + 1, before])
  assert.equal(await world.count(await user(page)), before + 2)
  await page.close()
})

test('the relayer is killed and comes back', async () => {
  const page = await openApp()
  const entry = await write(page, 'The relayer fell over.', '60000')
  await inState(entry, 'queued', 'batched', 'broadcast', 'included')
  await world.killRelayer()
  await page.waitForSelector('#net[data-state=bad]', { timeout: 60_000 })
  await page.locator('#by', { hasText: 'Estimated in this page' }).waitFor()
  assert.match(await page.textContent('#cost'), /ETH|wei/)
  await page.screenshot({ path: join(SHOTS, '5-relayer-gone.png'), fullPage: true })
  await world.startRelayer()
  await inState(entry, 'finalized')
  assert.equal(await world.count(await user(page)), 7)
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

/**
 * A relayer that takes requests, does nothing with them (or what `take` does), and says whatever `events` says, also as a
 * function of the request. It names the real relayer's chains, or `forwarder` instead of the real one.
 */
async function liar(events, { fake, take } = {}) {
  const { chainId, forwarder, forwarderName } = world.ready
  const domain = { name: fake ? 'Looks Fine' : forwarderName, chainId, verifyingContract: fake ?? forwarder }
  const claims = new Map()
  const open = { 'access-control-allow-origin': '*', 'access-control-allow-headers': '*', 'access-control-allow-methods': '*' }
  const server = createServer(async (request, response) => {
    const say = (status, body, type = 'application/json') =>
      response.writeHead(status, { ...open, 'content-type': type }).end(typeof body === 'string' ? body : JSON.stringify(body))
    if (request.method === 'OPTIONS') return say(204, '')
    let text = ''
    for await (const chunk of request) text += chunk
    if (request.method === 'POST' && request.url === '/v1/requests') {
      const { from, to, value, gas, nonce, deadline, data } = JSON.parse(text).forward
      const id = forwardDigest(domain, { from, to, value, gas, nonce, deadline, data })
      claims.set(id, take ? events(await take(JSON.parse(text).forward)) : events)
      const promise = { requestHash: id, chainId, deadline: Number(deadline), relayer: `0x${'66'.repeat(20)}`, signature: `0x${'11'.repeat(65)}` }
      const now = Date.now()
      return say(202, { id, status: 'queued', chainId, deadlineAtMs: now + 15_000, acceptedAtMs: now, promise, duplicate: false })
    }
    const [, id] = /^\/v1\/requests\/(0x[0-9a-f]{64})\/events/.exec(request.url) ?? []
    if (id) {
      const told = claims.get(id).map((event, at) => ({ ...event, seq: at + 1, requestId: id, requestSeq: at + 1, chainId, atMs: Date.now() }))
      return say(200, told.map((event) => `id: ${event.requestSeq}\ndata: ${JSON.stringify(event)}\n\n`).join(''), 'text/event-stream')
    }
    // Everything else is the real relayer's.
    const answer = await fetch(world.ready.url + request.url, { method: request.method, ...(text ? { body: text, headers: { 'content-type': 'application/json' } } : {}) })
    const body = await answer.text()
    say(answer.status, fake ? body.replaceAll(new RegExp(forwarder, 'gi'), fake).replaceAll(forwarderName, 'Looks Fine') : body)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => (server.closeAllConnections(), server.close()) }
}

test('a relayer that lies is caught in the page', async () => {
  await init()
  const honest = await openApp()
  const truth = await honest.evaluate(() => JSON.parse(localStorage.getItem('tidebook.entries'))[0].events.at(-1))
  await honest.close()
  assert.equal(truth.status, 'finalized')
  const claims = ({ txHash, blockNumber }) => ['queued', 'batched', 'broadcast', 'included', 'finalized'].map((status) =>
    ['included', 'finalized'].includes(status) ? { status, txHash, blockNumber } : { status })

  // The claim: it is in a transaction, which is somebody else's.
  const borrowed = await liar(claims(truth))
  // A visitor who does not know the relayer's identity takes its promise, and still not its word about the chain.
  const page = await openApp({ relayer: borrowed.url, identity: '' })
  const guest = await page.evaluate(() => JSON.parse(localStorage.getItem('tidebook.entries')).at(-1).signed.request.from)
  const before = await world.count(guest)
  const entry = await write(page, 'Said to be in the book.')
  await inState(entry, 'finalized')
  await entry.locator('.alarm', { hasText: 'The relayer says that this is final. It is not.' }).waitFor()
  assert.equal(await entry.getAttribute('data-verdict'), 'mismatch')
  assert.equal(await entry.locator('.badge.good').count(), 0)
  assert.equal(await entry.locator('.track .denied').count(), 2)
  await page.screenshot({ path: join(SHOTS, '6-relayer-lies.png'), fullPage: true })
  await page.close()
  borrowed.close()

  // The claim: it is in a transaction that nobody knows.
  const invented = await liar(claims({ ...truth, txHash: `0x${'ab'.repeat(32)}` }))
  const other = await openApp({ relayer: invented.url, identity: '' })
  const unseen = await write(other, 'In a transaction that nobody has seen.')
  await inState(unseen, 'finalized')
  // By the chain's rule the claimed block is final, and the nonce is not used there: more than "not seen".
  await unseen.locator('.alarm, .badge.warn').first().waitFor()
  assert.equal(await unseen.locator('.badge.good').count(), 0)

  // With the identity pinned it does not come that far.
  const pinned = await openApp({ relayer: invented.url })
  const refused = await write(pinned, 'Promised by a stranger.')
  await inState(refused, 'failed')
  assert.match(await refused.textContent(), /bad_promise/)
  await pinned.screenshot({ path: join(SHOTS, '7-promise-of-a-stranger.png'), fullPage: true })
  assert.equal(await user(pinned), guest)
  assert.equal(await world.count(guest), before, 'nothing was executed')
  for (const each of [other, pinned]) {
    assert.deepEqual(each.problems, [])
    await each.close()
  }
  invented.close()
})

test('a relayer that names a forwarder of its own is caught, before the signature and after', async () => {
  const { encodeFunctionData, parseAbi } = await import('viem')
  const { generatePrivateKey, privateKeyToAccount } = await import('viem/accounts')
  const abi = parseAbi([
    'struct Request { address from; address to; uint256 value; uint256 gas; uint48 deadline; bytes data; bytes signature; }',
    'function executeBatch(Request[] requests, address refundReceiver) payable',
  ])
  const fake = await world.fakeForwarder()
  const execute = ({ from, to, value, gas, deadline, data, signature }) => {
    const request = { from, to, value: BigInt(value), gas: BigInt(gas), deadline, data, signature }
    return world.transact({ to: fake, data: encodeFunctionData({ abi, functionName: 'executeBatch', args: [[request], `0x${'00'.repeat(20)}`] }) })
  }
  const claims = ({ transactionHash: txHash, blockNumber }) =>
    ['queued', 'included', 'finalized'].map((status) => (status === 'queued' ? { status } : { status, txHash, blockNumber: Number(blockNumber) }))
  const mine = await liar(claims, { fake, take: execute })
  const account = privateKeyToAccount(generatePrivateKey())
  const page = await context.newPage()
  await page.exposeFunction('signWithKey', (typed) => account.signTypedData(typed))
  await page.goto(`${pages.url}/tests/page/`)
  await page.waitForSelector('html[data-ready]', { state: 'attached' })
  const targets = { book: world.ready.guestbook, flatterer: await world.flatterer() }
  const told = await page.evaluate(
    async ({ url, rpc, chainId, from, fake, targets }) => {
      const { Slackwater, httpProvider, forwardDigest, forwardTypedData, memoryStorage } = window.slackwater
      const slackwater = await Slackwater.open({ url, provider: httpProvider(rpc), storage: memoryStorage() })
      const prepared = (ask) => slackwater.prepare(from, { chainId, ...ask }).then(() => 'prepared', ({ code }) => code)
      const { book, flatterer } = targets
      const before = [await prepared({ to: book }), await prepared({ to: book, forwarder: fake }), await prepared({ to: flatterer }), await prepared({ to: flatterer, forwarder: fake })]
      const verdicts = []
      // Signed all the same, "executed", and said to be final.
      for (const [nonce, to, isForwarderPinned] of [[0, book, false], [1, book, true], [2, flatterer, false], [3, flatterer, true]]) {
        const domain = { name: 'Looks Fine', chainId, verifyingContract: fake }
        const request = { from, to, gas: 120_000, nonce, deadline: Math.floor(Date.now() / 1_000) + 600, data: '0xd09de08a' }
        const typedData = forwardTypedData(domain, request)
        const { domain: _, types: { ForwardRequest }, ...rest } = typedData
        const signature = await window.signWithKey({ domain: typedData.domain, types: { ForwardRequest }, ...rest })
        const signed = { id: forwardDigest(domain, request), domain, request, typedData, signature, isForwarderPinned }
        await slackwater.submit(signed)
        const event = await slackwater.settled(signed.id)
        verdicts.push({ status: event.status, ...(await slackwater.verify(signed, event, { kind: 'depth', blocks: 0 })) })
      }
      slackwater.close()
      return { before, verdicts }
    },
    { url: mine.url, rpc: world.chain.url, chainId: world.ready.chainId, from: account.address, fake, targets },
  )
  assert.deepEqual(told.before, ['untrusted_forwarder', 'untrusted_forwarder', 'unknown_forwarder', 'prepared'])
  assert.deepEqual(told.verdicts.map(({ status }) => status), Array(4).fill('finalized'), 'that is what the relayer says')
  assert.deepEqual(told.verdicts.map(({ kind }) => kind), ['untrusted_forwarder', 'untrusted_forwarder', 'unknown_forwarder', 'confirmed'])
  assert.equal(told.verdicts[3].binding, 'content', 'pinned: the caller knows better')
  assert.equal(await world.count(account.address), 0, 'nothing happened')
  await page.close()

  // The example pins the forwarder: a relayer that serves another one gets no signature; nor does a link that names it.
  for (const [extra, code] of [[{}, 'unknown_forwarder'], [{ forwarder: fake }, 'untrusted_forwarder']]) {
    const app = await openApp({ relayer: mine.url, ...extra })
    await app.fill('#message', 'Not through that one.')
    await app.click('#send')
    await app.locator('#problem', { hasText: code }).waitFor()
    assert.equal(await app.locator('.entry', { hasText: 'Not through that one.' }).count(), 0)
    await app.close()
  }
  mine.close()
})

test('a link chooses nothing, but on this machine, and then it is said', async () => {
  const linked = await openApp()
  assert.match(await linked.textContent('#notice'), /link .* has chosen .*relayer.*rpc/)
  const policy = await linked.getAttribute('meta[http-equiv=Content-Security-Policy]', 'content')
  assert.match(policy, /default-src 'none'/)
  assert.doesNotMatch(policy, /unsafe-inline|unsafe-eval(?<!wasm-unsafe-eval)/)
  await linked.evaluate(() => {
    window.violations = []
    document.addEventListener('securitypolicyviolation', ({ violatedDirective }) => window.violations.push(violatedDirective))
    document.head.append(Object.assign(document.createElement('script'), { textContent: 'window.injected = true' }))
    void fetch('http://elsewhere.test/').catch(() => undefined)
  })
  await eventually('both are refused', async () => {
    const seen = await linked.evaluate(() => [...window.violations, window.injected ?? 'nothing'])
    return ['connect-src', 'nothing', 'script-src-elem'].every((what) => seen.includes(what))
  })
  await linked.close()

  const page = await context.newPage()
  const asked = []
  page.on('request', (request) => asked.push(request.url()))
  await page.goto(appUrl({ relayer: 'http://127.0.0.1:9', rpc: 'http://127.0.0.1:9' }).replace('127.0.0.1', 'tidebook.test'))
  await page.waitForSelector('#send:enabled')
  await page.waitForSelector('#net[data-state=bad]')
  assert.doesNotMatch(await page.textContent('#notice'), /chosen/)
  const elsewhere = asked.filter((url) => !url.startsWith('http://tidebook.test') && !url.startsWith('data:'))
  assert.ok(elsewhere.length > 0 && elsewhere.every((url) => /^http:\/\/127\.0\.0\.1:(7700|8545)\//.test(url)), elsewhere.join(' '))
  await page.close()
})

test('on a phone, in the dark, by keyboard', async () => {
  const page = await openApp()
  await page.setViewportSize({ width: 390, height: 844 })
  await page.emulateMedia({ colorScheme: 'dark' })
  await page.waitForSelector('#fan polygon', { state: 'attached' })
  const wide = await page.evaluate(() =>
    [...document.querySelectorAll('body *')].filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5).map((each) => each.outerHTML.slice(0, 120)),
  )
  assert.deepEqual(wide, [], 'nothing sticks out')
  await page.focus('#message')
  await page.keyboard.type('By keyboard alone.')
  assert.equal(await page.textContent('#left'), '18/140')
  await page.keyboard.press('Tab')
  await page.keyboard.press('ArrowLeft')
  assert.equal(await page.evaluate(() => document.querySelector('input[name=within]:checked').value), '15000')
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement.id), 'send')
  await page.keyboard.press('Enter')
  const entry = page.locator('.entry', { hasText: 'By keyboard alone.' })
  await inState(entry, 'finalized')
  await eventually('it is said', async () => /By keyboard alone.*finalized/.test(await page.textContent('#said')))
  // Every control has a name that assistive software can say.
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, textarea, input, [role=img]')].filter(
      (each) => !(each.labels?.length || each.textContent.trim() || each.getAttribute('aria-label')),
    ).map((each) => each.outerHTML),
  )
  assert.deepEqual(nameless, [])
  await page.screenshot({ path: join(SHOTS, '8-narrow-dark.png'), fullPage: true })
  await page.emulateMedia({ colorScheme: 'light' })
  await page.screenshot({ path: join(SHOTS, '9-narrow.png'), fullPage: true })
  await page.setViewportSize({ width: 1200, height: 1040 })
  await page.emulateMedia({ colorScheme: 'dark' })
  await page.screenshot({ path: join(SHOTS, '10-dark.png'), fullPage: true })
  await page.close()
})

test('the demonstration serves the example, and everything fits together', async () => {
  const { SLACKWATER_DEMO: demo, SLACKWATER_BIN, SLACKWATER_ANVIL, PATH, HOME } = process.env
  const args = ['--requests', '6', '--users', '3', '--keep', '--page', join(OUT, 'sponsored')]
  const child = spawn(demo, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { SLACKWATER_BIN, SLACKWATER_ANVIL, PATH, HOME } })
  try {
    const address = await firstLine(child, /example dApp +http/)
    const page = await context.newPage()
    const problems = []
    page.on('pageerror', (error) => problems.push(String(error)))
    await page.goto(address.split(/ +/).at(-1))
    await page.waitForSelector('#net[data-state=good]')
    await page.locator('#by', { hasText: 'Quoted by the relayer' }).waitFor()
    const entry = await write(page, 'Found in the demonstration.')
    await inState(entry, 'finalized')
    await entry.locator('.badge.good', { hasText: 'final, checked at your node' }).waitFor({ timeout: 60_000 })
    await page.screenshot({ path: join(SHOTS, '11-demonstration.png'), fullPage: true })
    assert.deepEqual(problems, [])
    await page.close()
  } finally {
    await end(child, 'SIGTERM')
  }
  assert.equal(child.exitCode, 0)
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
