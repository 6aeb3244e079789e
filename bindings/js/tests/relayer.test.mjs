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
    const unsigned = await again.prepare(from, ask('second'))
    assert.equal(unsigned.request.nonce, '1')
    const second = await again.submit(await again.sign(wallet, unsigned))
    await world.rpc('evm_setIntervalMining', [1])
    const ends = await Promise.all([sent.accepted, second].map(({ id }) => again.settled(id)))
    assert.deepEqual(ends.map(({ status }) => status), ['finalized', 'finalized'])
    assert.equal(await world.count(from), 2)
    assert.deepEqual(await storage.load(), [], 'what has ended holds nothing')
    assert.equal((await again.prepare(from, ask('third'))).request.nonce, '2')
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

test('a nonce that was not used is free again', async () => {
  const slackwater = await open()
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  const from = await wallet.address()
  const next = async () => (await slackwater.prepare(from, ask())).request.nonce
  const declining = { address: wallet.address, signTypedData: () => Promise.reject(new Error('no, thank you')) }
  await assert.rejects(slackwater.send(declining, ask()), { message: 'no, thank you' })
  // Refused: nobody relays that for one wei.
  await assert.rejects(slackwater.send(wallet, { ...ask(), maxCost: 1 }), (error) => error instanceof SlackwaterError && !error.isAmbiguous)
  // Never sent.
  const { key } = slackwater.enqueue(await slackwater.sign(wallet, await slackwater.prepare(from, ask('withdrawn'))))
  assert.equal(slackwater.withdraw(key), true)
  const { signed, accepted } = await slackwater.send(wallet, ask('used'))
  assert.equal(signed.request.nonce, '0')
  assert.deepEqual([await next(), await next()], ['1', '2'], 'those that are prepared are held')
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

test('errors of the relayer and of the wallet keep their codes', async () => {
  const slackwater = await open({ relayer: `0x${'12'.repeat(20)}` })
  const wallet = fromViem(privateKeyToAccount(generatePrivateKey()))
  await assert.rejects(slackwater.send(wallet, ask()), { code: 'bad_promise' })
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
