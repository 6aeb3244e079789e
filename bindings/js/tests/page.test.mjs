// The packed package's page relay in Node, against a real chain: no relayer anywhere.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, test } from 'node:test'
import 'fake-indexeddb/auto'
import { encodeFunctionData, parseAbi } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { PageRelay, SlackwaterError, fromViem, httpProvider, memoryStorage, sessionKey } from 'slackwater/page'
import { eventually, startContracts } from './world.mjs'

let world
before(async () => (world = await startContracts()))
after(() => world?.stop())

const ETHER = 10n ** 18n
const chain = (extra = {}) => ({
  chainId: world.chainId,
  blockTimeMs: 1_000,
  finality: { kind: 'depth', blocks: 2 },
  timing: 'immediate',
  pollIntervalMs: 100,
  lingerMs: 400,
  ...extra,
})
const key = () => `0x${randomBytes(32).toString('hex')}`
const user = () => fromViem(privateKeyToAccount(generatePrivateKey()))
const sign = (word = 'hello') => encodeFunctionData({ abi: parseAbi(['function sign(string message)']), functionName: 'sign', args: [word] })
const ask = (extra = {}) => ({ forwarder: world.forwarder, to: world.guestbook, data: sign(), gas: 120_000, withinMs: 60_000, ...extra })

async function open({ funds = ETHER, ...options } = {}) {
  const relay = await PageRelay.open({ provider: httpProvider(world.url), chain: chain(), key: key(), storage: memoryStorage(), ...options })
  if (funds) await world.rpc('anvil_setBalance', [relay.address, `0x${funds.toString(16)}`])
  return relay
}

/** A provider that does something else first: answers, throws, or nothing. */
const spoiled = (spoil, inner = httpProvider(world.url)) => ({
  async request(args) {
    const answer = await spoil(args)
    return answer === undefined ? inner.request(args) : answer.result
  },
})
const blockTxs = async (number) => (await world.rpc('eth_getBlockByNumber', [`0x${number.toString(16)}`, true])).transactions

test('several users travel in one transaction, each once', async () => {
  // Long enough for the nonces of all of them to be read on a busy machine.
  const relay = await open({ chain: chain({ lingerMs: 3_000 }) })
  const users = [user(), user(), user()]
  const signed = await Promise.all(users.map(async (wallet) => relay.sign(wallet, await relay.prepare(await wallet.address(), ask()))))
  const requests = await Promise.all(signed.map((each) => relay.submit(each)))
  // And the second of one of them, behind its first.
  requests.push(await relay.send(users[0], ask()))
  const ends = await Promise.all(requests.map(({ id }) => relay.settled(id)))
  assert.deepEqual(ends.map(({ status }) => status), Array(4).fill('finalized'))
  const counts = await Promise.all(users.map(async (wallet) => world.count(await wallet.address())))
  assert.deepEqual(counts, [2, 1, 1])
  const hashes = new Set(ends.slice(0, 3).map(({ txHash }) => txHash))
  assert.equal(hashes.size, 1, 'one transaction')
  assert.ok(ends.every(({ costWei }) => BigInt(costWei) > 0n))
  const spent = ETHER - (await relay.balance())
  assert.equal(ends.reduce((sum, { costWei }) => sum + BigInt(costWei), 0n), spent, 'costs are shared to the wei')
  await relay.close()
})

test('one user, six requests at once from two pages: each has its own nonce', async () => {
  const [storage, own] = [memoryStorage(), key()]
  const pages = [await open({ storage, key: own }), await open({ storage, key: own, funds: 0n })]
  const wallet = user()
  const slow = { address: wallet.address, signTypedData: async (typed) => (await new Promise((resolve) => setTimeout(resolve, 300 * Math.random())), wallet.signTypedData(typed)) }
  // What is declined, invalid or refused takes none.
  const declining = { address: wallet.address, signTypedData: () => Promise.reject(new Error('no')) }
  const failing = [[declining, {}], [wallet, { gas: 0 }], [wallet, { maxCost: 1 }], [wallet, { withinMs: 0 }], [wallet, { data: '0x1' }]]
  for (const [signer, wrong] of failing) await assert.rejects(pages[0].send(signer, ask(wrong)))
  const sent = await Promise.all([0, 1, 2, 3, 4, 5].map((index) => pages[index % 2].send(slow, ask({ withinMs: 120_000 }))))
  assert.deepEqual(sent.map(({ place }) => place.nonce).sort(), ['0', '1', '2', '3', '4', '5'])
  const ends = await Promise.all(sent.map(({ id }, index) => pages[index % 2].settled(id)))
  assert.deepEqual(ends.map(({ status }) => status), Array(6).fill('finalized'))
  assert.equal(await world.count(await wallet.address()), 6)
  for (const page of pages) await page.close()
})

test('a poison item harms only itself', async () => {
  const relay = await open()
  const [good, bad] = [user(), user()]
  const requests = await Promise.all([relay.send(good, ask()), relay.send(bad, ask({ data: '0xdeadbeef' })), relay.send(user(), ask())])
  const ends = await Promise.all(requests.map(({ id }) => relay.settled(id)))
  assert.deepEqual(ends.map(({ status, reason }) => [status, reason]), [['finalized', undefined], ['rejected', 'simulation_reverted'], ['finalized', undefined]])
  assert.equal(await world.count(await bad.address()), 0)
  await relay.close()
})

test('a node without eth_simulateV1: what is not valid stays behind', async () => {
  const spoil = ({ method }) => {
    if (method === 'eth_simulateV1') throw Object.assign(new Error('the method eth_simulateV1 does not exist'), { code: -32601 })
  }
  const relay = await open({ provider: spoiled(spoil) })
  const [good, late] = [user(), user()]
  const signed = await relay.sign(late, await relay.prepare(await late.address(), ask()))
  // Its nonce is used by another relay in between.
  const other = await open()
  await other.settled((await other.submit(signed)).id)
  const requests = [await relay.send(good, ask()), await relay.submit(signed)]
  const ends = await Promise.all(requests.map(({ id }) => relay.settled(id)))
  assert.deepEqual(ends.map(({ status, reason }) => [status, reason]), [['finalized', undefined], ['rejected', 'nonce_used_elsewhere']])
  assert.equal(await world.count(await late.address()), 1, 'once')
  await relay.close()
  await other.close()
})

test('a call of the session key, a ceiling, a cancel, a withdrawal', async () => {
  const relay = await open()
  const target = privateKeyToAccount(generatePrivateKey()).address
  const called = await relay.call({ to: target, value: 5n, gas: 30_000 })
  assert.equal((await relay.settled(called.id)).status, 'finalized')
  assert.equal(BigInt(await world.rpc('eth_getBalance', [target, 'latest'])), 5n)
  await assert.rejects(relay.call({ to: target, maxCost: 5n }), (error) => error instanceof SlackwaterError && error.code === 'ceiling_too_low')
  // What it may cost does not pay for any block that comes: it waits, and is taken back.
  const poor = await relay.call({ to: target, gas: 30_000, maxCost: 110_000n })
  assert.equal(relay.request(poor.id).status, 'queued')
  await assert.rejects(relay.withdraw(target), { code: 'busy' })
  await relay.cancel(poor.id)
  assert.equal((await relay.settled(poor.id)).status, 'cancelled')
  await assert.rejects(relay.cancel(called.id), { code: 'too_late' })
  await relay.acknowledge(poor.id)
  assert.equal(relay.request(poor.id), undefined)
  const withdrawn = await relay.withdraw(target)
  assert.equal((await relay.settled(withdrawn.id)).status, 'finalized')
  assert.ok(BigInt(await world.rpc('eth_getBalance', [target, 'latest'])) > (ETHER * 99n) / 100n)
  await relay.close()
})

test('a spike: the replacement is taken by the node', async () => {
  const relay = await open()
  await world.rpc('evm_setAutomine', [false])
  await world.rpc('evm_setIntervalMining', [0])
  try {
    const request = await relay.send(user(), ask())
    await eventually('broadcast', () => relay.request(request.id).status === 'broadcast')
    const before = await eventually('pooled', async () => Object.values(Object.values((await world.rpc('txpool_content')).pending)[0] ?? {})[0])
    const spike = BigInt(before.maxFeePerGas) * 3n
    // Blocks that the first attempt can't pay, until the replacement is in one.
    const included = await eventually('included', async () => {
      await world.rpc('anvil_setNextBlockBaseFeePerGas', [`0x${spike.toString(16)}`])
      await world.rpc('evm_mine')
      return relay.request(request.id).status === 'included' && relay.request(request.id)
    })
    assert.notEqual(included.txHash, before.hash)
    const mined = await world.rpc('eth_getTransactionByHash', [included.txHash])
    assert.equal(mined.nonce, before.nonce)
    assert.ok(BigInt(mined.maxFeePerGas) >= spike)
  } finally {
    await world.rpc('evm_setIntervalMining', [1])
  }
  const [request] = relay.requests()
  assert.equal((await relay.settled(request.id)).status, 'finalized')
  await relay.close()
  await eventually('a usual price', async () => {
    await world.rpc('anvil_setNextBlockBaseFeePerGas', ['0x3b9aca00'])
    await world.rpc('evm_mine')
    return true
  })
})

test('a reload in mid-flight: sent once, followed to the end', async () => {
  const [storage, own] = [memoryStorage(), key()]
  let sends = 0
  // The answer never comes: the page does not know what became of it (I5).
  const silent = spoiled(async ({ method, params }) => {
    if (method !== 'eth_sendRawTransaction') return undefined
    sends++
    await httpProvider(world.url).request({ method, params })
    return new Promise(() => undefined)
  })
  const first = await open({ storage, key: own, provider: silent })
  const wallet = user()
  const request = await first.send(wallet, ask())
  await eventually('sent', () => sends > 0)
  await first.close()
  const again = await open({ storage, key: own, funds: 0n })
  assert.equal(again.request(request.id).status, 'broadcast')
  assert.equal((await again.settled(request.id)).status, 'finalized')
  assert.equal(await world.count(await wallet.address()), 1)
  await eventually('nothing but the end is kept', async () => (await storage.load()).every(([name]) => !name.startsWith('a:')))
  await again.close()
})

test('a page that goes away before it sends', async () => {
  const [storage, own] = [memoryStorage(), key()]
  const first = await open({ storage, key: own, provider: spoiled(({ method }) => (method.startsWith('eth_send') ? new Promise(() => undefined) : undefined)) })
  const wallet = user()
  const request = await first.send(wallet, ask())
  await eventually('signed', async () => (await storage.load()).some(([name]) => name.startsWith('a:')))
  await first.close()
  const again = await open({ storage, key: own, funds: 0n })
  assert.equal((await again.settled(request.id)).status, 'finalized')
  assert.equal(await world.count(await wallet.address()), 1)
  await again.close()
})

test('a provider that loses, refuses and repeats', async () => {
  let calls = 0
  const flaky = spoiled(async ({ method, params }) => {
    calls++
    if (calls % 7 === 0) throw new TypeError('Failed to fetch')
    if (calls % 11 === 0) throw Object.assign(new Error('Too Many Requests'), { code: 429 })
    if (method === 'eth_sendRawTransaction' && calls % 2 === 0) {
      await httpProvider(world.url).request({ method, params })
      throw new TypeError('Failed to fetch')
    }
  })
  const relay = await open({ chain: chain({ rpcTimeoutMs: 500 }) })
  await relay.close()
  const own = key()
  await world.rpc('anvil_setBalance', [privateKeyToAccount(own).address, '0xde0b6b3a7640000'])
  // Opening asks once; then the trouble begins.
  calls = 0
  const troubled = await open({ provider: flaky, key: own, funds: 0n, chain: chain({ rpcTimeoutMs: 500 }) })
  const wallets = Array.from({ length: 6 }, user)
  const domainOf = await open()
  const signed = []
  for (const wallet of wallets) signed.push(await domainOf.sign(wallet, await domainOf.prepare(await wallet.address(), ask())))
  const requests = []
  for (const each of signed) {
    requests.push(await troubled.submit(each))
    await new Promise((resolve) => setTimeout(resolve, 300))
  }
  const ends = await Promise.all(requests.map(({ id }) => troubled.settled(id)))
  assert.deepEqual(ends.map(({ status }) => status), Array(6).fill('finalized'))
  for (const wallet of wallets) assert.equal(await world.count(await wallet.address()), 1)
  await troubled.close()
  await domainOf.close()
})

test('a reorg takes the inclusion back, and it lands again', async () => {
  const relay = await open({ chain: chain({ finality: { kind: 'depth', blocks: 8 } }) })
  const wallet = user()
  const request = await relay.send(wallet, ask())
  const seen = []
  for await (const { status, blockNumber } of relay.follow(request.id)) {
    seen.push(status)
    if (status === 'included' && seen.filter((each) => each === 'included').length === 1) {
      const head = Number(await world.rpc('eth_blockNumber'))
      await world.rpc('anvil_reorg', [head - blockNumber + 1, []])
    }
  }
  assert.equal(seen.at(-1), 'finalized')
  const first = seen.indexOf('included')
  assert.ok(seen.indexOf('broadcast', first) > first, `taken back: ${seen}`)
  assert.equal(await world.count(await wallet.address()), 1)
  await relay.close()
})

test('no funds: it waits for a top-up', async () => {
  const alerts = []
  const relay = await open({ funds: 0n, onAlert: ({ code }) => alerts.push(code) })
  const request = await relay.send(user(), ask())
  await eventually('an alert', () => alerts.includes('underfunded'))
  assert.equal(relay.account().isUnderfunded, true)
  await world.rpc('anvil_setBalance', [relay.address, '0xde0b6b3a7640000'])
  assert.equal((await relay.settled(request.id)).status, 'finalized')
  await relay.close()
})

test('two pages with one key: one drives, both see, and the other takes over', async () => {
  const [storage, own] = [memoryStorage(), key()]
  const first = await open({ storage, key: own })
  const second = await open({ storage, key: own, funds: 0n })
  assert.deepEqual([first.isDriving, second.isDriving], [true, false])
  const wallets = [user(), user(), user()]
  const [one, two] = [await first.send(wallets[0], ask()), await second.send(wallets[1], ask())]
  assert.equal((await second.settled(one.id)).status, 'finalized')
  assert.equal((await first.settled(two.id)).status, 'finalized')
  // Cancelled through the one that drives.
  const poor = await second.call({ to: second.address, gas: 30_000, maxCost: 110_000n })
  await second.cancel(poor.id)
  assert.equal((await first.settled(poor.id)).status, 'cancelled')
  await assert.rejects(second.cancel(one.id), { code: 'too_late' })
  const three = await second.send(wallets[2], ask())
  await first.close()
  await eventually('it takes over', () => second.isDriving)
  assert.equal((await second.settled(three.id)).status, 'finalized')
  for (const wallet of wallets) assert.equal(await world.count(await wallet.address()), 1)
  await second.close()
})

test('a wallet that changes its chain: nothing is taken from it, nothing sent, until it is back', async () => {
  // Of the other chain everything is different: its account is used, and it takes whatever comes.
  let isAway = false
  const [alerts, sent] = [[], []]
  const provider = spoiled(({ method, params }) => {
    if (!isAway) return undefined
    if (method === 'eth_chainId') return { result: '0x539' }
    if (method === 'eth_getTransactionCount') return { result: '0x7' }
    if (method === 'eth_sendRawTransaction') sent.push(params[0])
    return undefined
  })
  const relay = await open({ provider, chain: chain({ rpcTimeoutMs: 500 }), onAlert: ({ code }) => alerts.push(code) })
  const target = privateKeyToAccount(generatePrivateKey()).address
  const call = { to: target, value: 1n, gas: 30_000, withinMs: 60_000 }
  assert.equal((await relay.settled((await relay.call(call)).id)).status, 'finalized')
  isAway = true
  const waiting = await relay.call(call)
  await eventually('it pauses', () => alerts.includes('wrong_chain'))
  await new Promise((resolve) => setTimeout(resolve, 3_000))
  assert.equal(alerts.filter((code) => code === 'wrong_chain').length, 1, 'told once')
  assert.deepEqual(sent, [])
  assert.ok(!alerts.includes('foreign_nonce'), alerts.join())
  isAway = false
  assert.equal((await relay.settled(waiting.id)).status, 'finalized')
  assert.equal(BigInt(await world.rpc('eth_getBalance', [target, 'latest'])), 2n)
  await relay.close()
})

test('what has ended does not come back', async () => {
  const [storage, own] = [memoryStorage(), key()]
  const [first, second] = [await open({ storage, key: own }), await open({ storage, key: own, funds: 0n })]
  const target = privateKeyToAccount(generatePrivateKey()).address
  const call = { to: target, value: 3n, gas: 30_000, salt: 'once', withinMs: 60_000 }
  const asked = await second.call(call)
  assert.equal((await second.settled(asked.id)).status, 'finalized')
  // The same again, from both pages, is the same request.
  assert.deepEqual((await Promise.all([first.call(call), second.call(call)])).map(({ id, status }) => [id, status]), Array(2).fill([asked.id, 'finalized']))
  // And a page that only takes over afterwards does not run what it once added.
  await first.acknowledge(asked.id)
  await eventually('forgotten', () => second.request(asked.id) === undefined)
  await first.close()
  await eventually('it takes over', () => second.isDriving)
  const next = await second.call({ ...call, salt: 'again' })
  assert.equal((await second.settled(next.id)).status, 'finalized')
  assert.equal(BigInt(await world.rpc('eth_getBalance', [target, 'latest'])), 6n)
  await second.close()
})

test('errors, and the session key', async () => {
  const provider = httpProvider(world.url)
  await assert.rejects(PageRelay.open({ provider, chain: chain({ chainId: 1 }), key: key() }), { code: 'wrong_chain' })
  await assert.rejects(PageRelay.open({ provider, chain: { chainId: world.chainId }, key: key() }), { code: 'invalid_argument' })
  await assert.rejects(PageRelay.open({ provider, chain: chain(), key: '0x12' }), (error) => error.code === 'invalid_argument' && !error.message.includes('0x12'))
  const [one, two] = await Promise.all([sessionKey(), sessionKey()])
  assert.equal(one, two)
  assert.match(one, /^0x[0-9a-f]{64}$/)
  assert.notEqual(await sessionKey('other'), one)
  const relay = await PageRelay.open({ provider, chain: chain() })
  assert.equal(relay.address, privateKeyToAccount(one).address)
  await assert.rejects(relay.settled(`0x${'00'.repeat(32)}`), { code: 'not_found' })
  const damaged = memoryStorage()
  await damaged.put('a:0:0', '{}')
  await assert.rejects(PageRelay.open({ provider, chain: chain(), key: key(), storage: damaged }), { code: 'storage_damaged' })
  await relay.close()
  await assert.rejects(relay.call({ to: relay.address }), { code: 'closed' })
})
