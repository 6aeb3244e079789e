// The packed package in Node against the real relayer and a real chain.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { after, before, test } from 'node:test'
import { Wallet } from 'ethers'
import { createWalletClient, custom, encodeFunctionData, parseAbi } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { Forecaster, Slackwater, SlackwaterError, fromEthers, fromProvider, fromViem, httpProvider, memoryStorage } from 'slackwater'
import { World, eventually } from './world.mjs'

const DEPTH = { kind: 'depth', blocks: 1 }
let world
before(async () => (world = await World.start()))
after(() => world?.stop())

const open = (options = {}) => Slackwater.open({ url: world.ready.url, provider: httpProvider(world.chain.url), ...options })
const ask = (word = 'hello') => ({
  chainId: world.ready.chainId,
  to: world.ready.guestbook,
  data: encodeFunctionData({ abi: parseAbi(['function sign(string message)']), functionName: 'sign', args: [word] }),
  gas: 120_000,
  withinMs: 30_000,
})

/** The nonce that a request would get now. */
async function nextNonce(slackwater, wallet) {
  const signed = await slackwater.sign(wallet, await slackwater.prepare(await wallet.address(), ask()))
  slackwater.discard(signed)
  return signed.request.nonce
}

test('a payment that its payer signed is handed over, and why it is refused is told', async () => {
  const slackwater = await open({ relayer: world.ready.relayer })
  const payer = privateKeyToAccount(generatePrivateKey())
  const message = { from: payer.address, to: world.ready.guestbook, value: 5n, validAfter: 0n, validBefore: 1_999_999_999n }
  const nonce = generatePrivateKey()
  const [token, chainId] = [world.ready.guestbook, Number(world.ready.chainId)]
  const fields = ['address from', 'address to', 'uint256 value', 'uint256 validAfter', 'uint256 validBefore', 'bytes32 nonce']
  const types = { TransferWithAuthorization: fields.map((field) => field.split(' ')).map(([type, name]) => ({ name, type })) }
  const domain = { name: 'Token', version: '1', chainId, verifyingContract: token }
  const signature = await payer.signTypedData({ domain, types, primaryType: 'TransferWithAuthorization', message: { ...message, nonce } })
  // The development relayer lists no token.
  const paid = slackwater.pay(chainId, { token, ...message, nonce, signature }, { withinMs: 30_000 })
  await assert.rejects(paid, (error) => error instanceof SlackwaterError && error.code === 'unknown_token' && !error.isAmbiguous)
  const wrong = slackwater.pay(chainId, { token, ...message, nonce: '0x12', signature })
  await assert.rejects(wrong, (error) => error instanceof SlackwaterError && error.code === 'invalid_argument')
  assert.deepEqual(slackwater.pending(), [])
  slackwater.close()
})

/** The least that an injected wallet does: answers two methods. */
function injected(key) {
  const account = privateKeyToAccount(key)
  return {
    async request({ method, params }) {
      if (method === 'eth_requestAccounts') return [account.address]
      if (method !== 'eth_signTypedData_v4') throw new Error(`no ${method}`)
      assert.equal(params[0], account.address)
      const { domain, types, primaryType, message } = JSON.parse(params[1])
      return account.signTypedData({ domain, types, primaryType, message })
    },
  }
}

const wallets = {
  'viem account': (key) => fromViem(privateKeyToAccount(key)),
  'viem client': (key) => fromViem(createWalletClient({ account: privateKeyToAccount(key), transport: custom(httpProvider(world.chain.url)) })),
  ethers: (key) => fromEthers(new Wallet(key)),
  injected: (key) => fromProvider(injected(key)),
}

for (const [name, make] of Object.entries(wallets)) {
  test(`${name} signs, the relayer executes, the chain agrees`, async () => {
    const slackwater = await open({ relayer: world.ready.relayer })
    const wallet = make(generatePrivateKey())
    const { signed, accepted } = await slackwater.send(wallet, ask())
    assert.equal(accepted.id, signed.id)
    const seen = []
    for await (const { event } of slackwater.follow(accepted.id)) seen.push(event)
    assert.equal(seen.at(-1).status, 'finalized')
    assert.equal(seen[0].status, 'queued')
    assert.equal(await world.count(await wallet.address()), 1)
    const verdict = await eventually('final at the node', async () => {
      const verdict = await slackwater.verify(signed, seen.at(-1), DEPTH)
      return verdict.kind === 'confirmed' && verdict.isFinal && verdict
    })
    assert.equal(verdict.binding, 'content')
    assert.equal(verdict.isSuccess, true)
    assert.deepEqual(slackwater.pending(), [])
    slackwater.close()
  })
}

test('prices, forecasts and chains are told', async () => {
  const slackwater = await open()
  const { relayer, chains } = await slackwater.chains()
  assert.equal(relayer.toLowerCase(), world.ready.relayer.toLowerCase())
  assert.equal(chains[0].forwarders[0].address.toLowerCase(), world.ready.forwarder.toLowerCase())
  const quote = await slackwater.quote({ chainId: world.ready.chainId, gas: 120_000n, withinMs: 60_000 })
  assert.ok(BigInt(quote.maxCostWei) >= BigInt(quote.expectedCostWei))
  assert.equal((await slackwater.fees(world.ready.chainId)).chainId, world.ready.chainId)
  const forecaster = new Forecaster({ blockTimeMs: 1_000 })
  const provider = httpProvider(world.chain.url)
  assert.ok((await forecaster.update(provider)) > 0)
  const forecast = forecaster.forecast()
  assert.equal(forecast.horizons.length, 7)
  const block = await world.rpc('eth_getBlockByNumber', [`0x${(forecast.number + 1).toString(16)}`, false])
  if (block) assert.equal(BigInt(block.baseFeePerGas), BigInt(forecast.nextBaseFee))
  slackwater.close()
})

test('one user, three requests in order', async () => {
  const slackwater = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const sent = []
  for (const word of ['one', 'two', 'three']) sent.push(await slackwater.send(wallet, ask(word)))
  assert.deepEqual(sent.map(({ signed }) => signed.request.nonce), ['0', '1', '2'])
  const ends = await Promise.all(sent.map(({ accepted }) => slackwater.settled(accepted.id)))
  assert.deepEqual(ends.map(({ status }) => status), ['finalized', 'finalized', 'finalized'])
  assert.equal(await world.count(await wallet.address()), 3)
  slackwater.close()
})

test('what is accepted and not yet mined holds its nonce over a reload', async () => {
  const storage = memoryStorage()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const from = await wallet.address()
  const first = await open({ storage })
  // No block comes in between.
  await world.rpc('evm_setIntervalMining', [0])
  try {
    const sent = await first.send(wallet, ask('first'))
    first.close()
    const again = await open({ storage })
    const signed = await again.sign(wallet, await again.prepare(from, ask('second')))
    assert.equal(signed.request.nonce, '1')
    const second = await again.submit(signed)
    await world.rpc('evm_setIntervalMining', [1])
    const ends = await Promise.all([sent.accepted, second].map(({ id }) => again.settled(id)))
    assert.deepEqual(ends.map(({ status }) => status), ['finalized', 'finalized'])
    assert.equal(await world.count(from), 2)
    assert.deepEqual(await storage.load(), [], 'what has ended holds nothing')
    assert.equal(await nextNonce(again, wallet), '2')
    again.close()
  } finally {
    await world.rpc('evm_setIntervalMining', [1])
  }
})

test('what is waiting in the outbox holds its nonce over a reload', async () => {
  const storage = memoryStorage()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const from = await wallet.address()
  const nowhere = { storage, fetch: (url, init) => (init.method === 'POST' ? Promise.reject(new TypeError('no network')) : fetch(url, init)) }
  const first = await open(nowhere)
  for (const word of ['one', 'two']) first.enqueue(await first.sign(wallet, await first.prepare(from, ask(word))))
  await eventually('attempts', () => first.pending().every(({ attempts }) => attempts > 0))
  assert.deepEqual(first.pending().map(({ place }) => [place.user.from.toLowerCase(), place.nonce]), ['0', '1'].map((nonce) => [from.toLowerCase(), nonce]))
  first.close()
  const again = await open({ storage })
  assert.equal(again.resumed.length, 2)
  const { signed, accepted } = await again.send(wallet, ask('three'))
  assert.equal(signed.request.nonce, '2')
  for (const { outcome } of again.resumed) assert.equal((await outcome).kind, 'accepted')
  assert.equal((await again.settled(accepted.id)).status, 'finalized')
  assert.equal(await world.count(from), 3)
  again.close()
})

test('of two devices one is refused, and signs with the next nonce', async () => {
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const devices = [await open(), await open()]
  await world.rpc('evm_setIntervalMining', [0])
  try {
    const first = await devices[0].send(wallet, ask('one'))
    // It does not see the other's outbox, and the chain does not know yet.
    const unsigned = await devices[1].prepare(await wallet.address(), ask('other'))
    const late = await devices[1].sign(wallet, unsigned)
    assert.deepEqual([first.signed.request.nonce, late.request.nonce], ['0', '0'])
    await assert.rejects(devices[1].submit(late), { code: 'nonce_conflict' })
    const again = await devices[1].sign(wallet, unsigned)
    assert.equal(again.request.nonce, '1')
    const second = await devices[1].submit(again)
    await world.rpc('evm_setIntervalMining', [1])
    const ends = await Promise.all([devices[0].settled(first.accepted.id), devices[1].settled(second.id)])
    assert.deepEqual(ends.map(({ status }) => status), ['finalized', 'finalized'])
  } finally {
    await world.rpc('evm_setIntervalMining', [1])
    for (const device of devices) device.close()
  }
})

test('a nonce that was not used is free again', async () => {
  const slackwater = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const from = await wallet.address()
  const declining = { address: wallet.address, signTypedData: () => Promise.reject(new Error('no, thank you')) }
  await assert.rejects(slackwater.send(declining, ask()), { message: 'no, thank you' })
  // Refused: nobody relays that for one wei.
  await assert.rejects(slackwater.send(wallet, { ...ask(), maxCost: 1 }), (error) => error instanceof SlackwaterError && !error.isAmbiguous)
  // Never sent.
  const { key } = slackwater.enqueue(await slackwater.sign(wallet, await slackwater.prepare(from, ask('withdrawn'))))
  assert.equal(slackwater.withdraw(key), true)
  const { signed, accepted } = await slackwater.send(wallet, ask('used'))
  assert.equal(signed.request.nonce, '0')
  assert.deepEqual([await nextNonce(slackwater, wallet), await nextNonce(slackwater, wallet)], ['1', '1'])
  assert.equal((await slackwater.settled(accepted.id)).status, 'finalized')
  slackwater.close()
})

test('a quote of this page agrees with the relayer about now', async () => {
  const slackwater = await open()
  const provider = httpProvider(world.chain.url)
  const forecaster = new Forecaster({ blockTimeMs: 1_000 })
  await forecaster.update(provider)
  const own = forecaster.quote({ gas: 100_000, withinMs: 30_000 })
  const theirs = await slackwater.quote({ chainId: world.ready.chainId, gas: 100_000, withinMs: 30_000 })
  assert.ok(BigInt(own.nowWei) > 0n && BigInt(own.maxWei) >= BigInt(own.expectedWei), JSON.stringify(own))
  // Both know the next base fee exactly, perhaps of two blocks in a row.
  const [here, there] = [BigInt(own.nowWei) / 100_000n - BigInt(own.priorityFeeWeiPerGas), BigInt(theirs.baseFeeWeiPerGas)]
  assert.ok(here * 8n >= there * 6n && there * 8n >= here * 6n, `${here} and ${there}`)
  slackwater.close()
})

/** The real relayer through a proxy, which may change answers and counts what is posted. */
async function proxy(change = (body) => body) {
  const made = { posts: [] }
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    if (request.method === 'POST') made.posts.push(text)
    const { authorization = '' } = request.headers
    const answer = await fetch(world.ready.url + request.url, {
      method: request.method,
      ...(text ? { body: text, headers: { 'content-type': 'application/json', authorization } } : {}),
    })
    const body = change(await answer.text(), request)
    response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'text/plain' }).end(body)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  made.url = `http://127.0.0.1:${server.address().port}`
  made.close = () => (server.closeAllConnections(), server.close())
  return made
}

const STRANGER = `0x${'12'.repeat(20)}`

test('a relayer that is not the one that is pinned: nobody is asked to sign', async () => {
  const { url, close, posts } = await proxy()
  const account = fromViem(privateKeyToAccount(generatePrivateKey()))
  let prompts = 0
  const wallet = { address: account.address, signTypedData: (typed) => (prompts++, account.signTypedData(typed)) }
  const slackwater = await open({ url, relayer: STRANGER })
  for (const forwarder of [undefined, world.ready.forwarder]) {
    const wrong = { ...ask(), ...(forwarder ? { forwarder } : {}) }
    for (let i = 0; i < 2; i++) await assert.rejects(slackwater.send(wallet, wrong), { code: 'wrong_relayer' })
  }
  slackwater.close()
  const other = await open({ url, relayer: world.ready.relayer.toLowerCase() })
  await assert.rejects(other.send(wallet, { ...ask(), chainId: 1 }), { code: 'wrong_chain' })
  await assert.rejects(other.send(wallet, { ...ask(), forwarder: STRANGER }), { code: 'unknown_forwarder' })
  await assert.rejects(other.send(wallet, { ...ask(), to: STRANGER }), { code: 'untrusted_forwarder' })
  await assert.rejects(other.send(wallet, { ...ask(), withinMs: 1 }), { code: 'deadline_unreachable' })
  assert.deepEqual([prompts, posts.length, await world.count(await wallet.address())], [0, 0, 0])
  // While it is rotated, old and new are pinned.
  const rotating = await open({ url, relayer: [STRANGER, world.ready.relayer] })
  const { accepted } = await rotating.send(wallet, { ...ask(), forwarder: world.ready.forwarder })
  assert.equal((await rotating.settled(accepted.id)).status, 'finalized')
  assert.equal(prompts, 1)
  for (const relayer of ['foo', [], ['0x12'], [world.ready.relayer, 'foo']]) await assert.rejects(open({ url, relayer }), { code: 'invalid_argument' })
  for (const each of [other, rotating]) each.close()
  close()
})

test('a promise of a stranger is ambiguous, and holds its nonce', async () => {
  // It takes requests for the pinned relayer, and promises in another name.
  const { url, close } = await proxy((body, { method }) => (method === 'POST' ? body.replaceAll(new RegExp(world.ready.relayer, 'gi'), STRANGER) : body))
  const storage = memoryStorage()
  const slackwater = await open({ url, relayer: world.ready.relayer, storage })
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const from = await wallet.address()
  await world.rpc('evm_setIntervalMining', [0])
  try {
    await assert.rejects(slackwater.send(wallet, ask()), (error) => error.code === 'bad_promise' && error.isAmbiguous === true && /0x1212/i.test(error.message))
    assert.equal(await nextNonce(slackwater, wallet), '1', 'it may be executed')
    slackwater.close()
    // Neither after a reload, until the chain takes it no more.
    const again = await open({ url, relayer: world.ready.relayer, storage })
    assert.equal(await nextNonce(again, wallet), '1')
    again.close()
  } finally {
    await world.rpc('evm_setIntervalMining', [1])
  }
  await eventually('executed all the same', async () => (await world.count(from)) === 1)
  close()
})

test('what is resumed after a reload is checked against the pin, too', async () => {
  const storage = memoryStorage()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const offline = { storage, fetch: (url, init) => (init.method === 'POST' ? Promise.reject(new TypeError('no network')) : fetch(url, init)) }
  const first = await open({ ...offline, relayer: world.ready.relayer })
  const signed = await first.sign(wallet, await first.prepare(await wallet.address(), ask()))
  first.enqueue(signed)
  await eventually('attempts', () => first.pending().every(({ attempts }) => attempts > 0))
  first.close()
  const { url, close } = await proxy((body, { method }) => (method === 'POST' ? body.replaceAll(new RegExp(world.ready.relayer, 'gi'), STRANGER) : body))
  const again = await open({ url, relayer: world.ready.relayer, storage })
  assert.equal(again.resumed.length, 1, 'the relayer is known by its identity, wherever it is')
  const outcome = await again.resumed[0].outcome
  assert.deepEqual([outcome.kind, outcome.code, outcome.mayBeAccepted], ['refused', 'bad_promise', true])
  assert.throws(() => again.accepted(outcome, signed), { code: 'bad_promise', isAmbiguous: true })
  again.close()
  close()
})

test('what waits for one relayer is never sent to another', async () => {
  const storage = memoryStorage()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const nowhere = 'http://127.0.0.1:9'
  const first = await open({ url: nowhere, storage })
  const { forwarder } = world.ready
  const { key } = first.enqueue(await first.sign(wallet, await first.prepare(await wallet.address(), { ...ask(), forwarder })))
  await eventually('stored', () => first.pending().every(({ attempts }) => attempts > 0))
  first.close()
  const { url, close, posts } = await proxy()
  const other = await open({ url, storage })
  assert.deepEqual([other.resumed.length, other.pending().length], [0, 0])
  const sent = await other.send(wallet, { ...ask('another'), nonce: 0 })
  assert.equal((await other.settled(sent.accepted.id)).status, 'finalized')
  assert.equal(posts.length, 1, 'and that was its own')
  other.close()
  const back = await open({ url: `${nowhere}/`, storage })
  assert.deepEqual(back.resumed.map(({ key }) => key), [key])
  back.close()
  close()
})

test('a forwarder of the relayer’s own confirms nothing', async () => {
  const fake = await world.fakeForwarder()
  const flatterer = await world.flatterer()
  const { forwarder } = world.ready
  const { url, close } = await proxy((body) => body.replaceAll(new RegExp(forwarder, 'gi'), fake))
  const slackwater = await open({ url })
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  await assert.rejects(slackwater.send(wallet, ask()), { code: 'untrusted_forwarder' })
  await assert.rejects(slackwater.send(wallet, { ...ask(), to: flatterer }), { code: 'unknown_forwarder' })
  await assert.rejects(slackwater.send(wallet, { ...ask(), forwarder }), { code: 'unknown_forwarder' })
  const pinned = await slackwater.prepare(await wallet.address(), { ...ask(), to: flatterer, forwarder: fake })
  assert.equal(pinned.isForwarderPinned, true)
  slackwater.close()
  close()
})

test('errors of the relayer and of the wallet keep their codes', async () => {
  const slackwater = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  await assert.rejects(slackwater.request(`0x${'00'.repeat(32)}`), (error) => error instanceof SlackwaterError && error.code === 'not_found' && error.problem.status === 404)
  const other = fromViem(privateKeyToAccount(generatePrivateKey()))
  const liar = { address: wallet.address, signTypedData: other.signTypedData }
  await assert.rejects(slackwater.send(liar, ask()), { code: 'invalid_argument' })
  slackwater.close()
})

test('a relayer that is killed loses nothing, and gets it once', async () => {
  const storage = memoryStorage()
  const slackwater = await open({ storage })
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const signed = await slackwater.sign(wallet, await slackwater.prepare(await wallet.address(), ask()))
  await world.killRelayer()
  const first = slackwater.enqueue(signed)
  await eventually('an attempt', () => slackwater.pending().some(({ attempts }) => attempts > 0))
  // The page goes away in between; its storage stays.
  slackwater.close()
  const again = await open({ storage })
  assert.deepEqual(again.resumed.map(({ key }) => key), [first.key])
  await world.startRelayer()
  const outcome = await again.resumed[0].outcome
  assert.equal(outcome.kind, 'accepted')
  assert.equal((await again.settled(signed.id)).status, 'finalized')
  assert.equal(await world.count(await wallet.address()), 1)
  assert.deepEqual(await storage.load(), [])
  again.close()
})

test('a follower survives the relayer', async () => {
  const slackwater = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const { accepted } = await slackwater.send(wallet, ask())
  const seen = []
  for await (const { event } of slackwater.follow(accepted.id)) {
    seen.push(event.requestSeq)
    if (seen.length === 1) {
      await world.killRelayer()
      await world.startRelayer()
    }
  }
  assert.deepEqual(seen, seen.map((_, index) => index + 1), 'no event is missing, none comes twice')
  assert.equal(await world.count(await wallet.address()), 1)
  slackwater.close()
})

test('a stream that falls silent, or never opens, is closed and opened again', async (t) => {
  const real = globalThis.setTimeout
  globalThis.setTimeout = (act, ms, ...rest) => real(act, ms === 60_000 ? 200 : ms, ...rest)
  t.after(() => (globalThis.setTimeout = real))
  const id = `0x${'11'.repeat(32)}`
  const event = { seq: 1, requestId: id, requestSeq: 1, chainId: 1, status: 'finalized', atMs: 1 }
  const target = `0x${'00'.repeat(20)}`
  const promise = { requestHash: id, chainId: 1, deadline: 1, relayer: target, signature: '0x' }
  // In between it looks at the request, and finds nothing new.
  const look = { id, chainId: 1, kind: 'forward', status: 'queued', target, deadlineAtMs: 1, acceptedAtMs: 1, updatedAtMs: 1, promise, timeline: [] }
  let opened = 0
  const silent = createServer((request, response) => {
    if (!request.url.endsWith('/events')) return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(look))
    opened += 1
    if (opened === 1) return
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    if (opened === 2) return response.write(': hello\n\n')
    response.end(`id: 1\ndata: ${JSON.stringify(event)}\n\n`)
  })
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const slackwater = await open({ url: `http://127.0.0.1:${silent.address().port}` })
  assert.equal((await slackwater.settled(id)).status, 'finalized')
  assert.equal(opened, 3)
  slackwater.close()
  silent.closeAllConnections()
  silent.close()
})

test('what is left in the storage is named', async () => {
  const storage = memoryStorage()
  const nowhere = { storage, fetch: () => Promise.reject(new TypeError('no network')) }
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const first = await open({ storage, fetch: (url, init) => (init.method === 'POST' ? Promise.reject(new TypeError('no network')) : fetch(url, init)) })
  first.enqueue(await first.sign(wallet, await first.prepare(await wallet.address(), ask())))
  await eventually('stored', async () => (await storage.load()).length > 0)
  first.close()
  await storage.put('sw1-damaged', '{')
  const other = await open({ ...nowhere, url: 'http://127.0.0.1:9' })
  assert.deepEqual([other.resumed.length, other.damaged, other.foreign], [0, ['sw1-damaged'], [world.ready.url.replace(/\/+$/, '')]])
  other.close()
  const again = await open(nowhere)
  assert.deepEqual([again.resumed.length, again.damaged, again.foreign], [1, ['sw1-damaged'], []])
  again.close()
})

test('a relayer that lies about inclusion is caught', async () => {
  const honest = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const first = await honest.send(wallet, ask('first'))
  const claim = await honest.settled(first.accepted.id)
  // The second is claimed to be in the first one's transaction, by a relayer that is asked through a proxy.
  const second = await honest.send(wallet, ask('second'))
  const liar = createServer((request, response) => {
    if (!request.url.endsWith('/events')) return response.writeHead(404).end('{}')
    const event = { ...claim, requestId: second.signed.id, requestSeq: 1 }
    response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`id: 1\ndata: ${JSON.stringify(event)}\n\n`)
  })
  await new Promise((resolve) => liar.listen(0, '127.0.0.1', resolve))
  const slackwater = await open({ url: `http://127.0.0.1:${liar.address().port}` })
  const told = await slackwater.settled(second.signed.id)
  assert.equal(told.status, 'finalized')
  const verdict = await slackwater.verify(second.signed, told, DEPTH)
  assert.equal(verdict.kind, 'mismatch', JSON.stringify(verdict))
  slackwater.close()
  honest.close()
  liar.closeAllConnections()
  liar.close()
})
