// The packed package in Node: vectors, junk, workers, storage.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import 'fake-indexeddb/auto'
import * as slackwater from 'slackwater'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { checkVectors } from './vectors.mjs'
import { PACKAGE, eventually, vectors } from './world.mjs'

await slackwater.init()

const EXPECTED = { eip712: 56, signatures: 56, 'base fees': 40, merkle: 96 }

test('vectors, to the bit', () => {
  const counts = checkVectors(slackwater, vectors())
  for (const [kind, count] of Object.entries(EXPECTED)) assert.equal(counts[kind], count, kind)
  assert.ok(counts.forecasts > 300, JSON.stringify(counts))
})

test('works in a worker', async () => {
  const url = import.meta.resolve('slackwater')
  const code = `
    const { parentPort } = require('node:worker_threads')
    import(${JSON.stringify(url)}).then(async (slackwater) => {
      await slackwater.init()
      parentPort.postMessage(slackwater.maxBaseFeeAfter(1_000_000_000n, 2))
    })`
  const worker = new Worker(code, { eval: true })
  const answer = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  assert.equal(answer, '1265625000')
  await worker.terminate()
})

test('errors have codes and are errors', () => {
  const { SlackwaterError } = slackwater
  const code = (code) => (error) => error instanceof SlackwaterError && error instanceof Error && error.code === code
  const header = { baseFee: 1, gasUsed: 1, gasLimit: 1 }
  assert.throws(() => slackwater.nextBaseFee({ ...header, gasUsed: 2 }), code('invalid_header'))
  assert.throws(() => slackwater.nextBaseFee({ ...header, baseFee: 2 ** 53 }), code('invalid_argument'))
  assert.throws(() => slackwater.nextBaseFee({ ...header, extra: 1 }), code('invalid_argument'))
  assert.throws(() => slackwater.recoverSigner(`0x${'11'.repeat(32)}`, '0x00'), code('invalid_signature'))
  const forecaster = new slackwater.Forecaster()
  assert.throws(() => forecaster.quantile(2, 0.5), code('not_ready'))
  assert.equal(forecaster.forecast(), undefined)
  assert.throws(() => new slackwater.Forecaster({ prior: '{}' }), code('invalid_model'))
  assert.throws(() => new slackwater.Forecaster({ horizons: [0] }), code('invalid_argument'))
})

/** A pseudo-random stream that is the same every time. */
function dice(seed) {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

test('junk is refused, and nothing traps', () => {
  const roll = dice(7)
  const circle = {}
  circle.self = circle
  const deep = JSON.parse('['.repeat(400) + ']'.repeat(400))
  const atoms = [undefined, null, true, -1, 0, 1.5, 2 ** 53, NaN, Infinity, 10n ** 90n, -1n, '', '0x', '0x1', 'é', '\ud800', 'x'.repeat(5_000)]
  atoms.push(Symbol('s'), () => 1, circle, deep, [], {}, new Uint8Array(3), `0x${'ff'.repeat(32)}`, `0x${'11'.repeat(65)}`, '9'.repeat(100))
  const names = ['baseFee', 'gasUsed', 'gasLimit', 'name', 'chainId', 'verifyingContract', 'from', 'to', 'gas', 'nonce', 'deadline', 'data', 'value']
  names.push('horizons', 'window', 'trees', 'seed', 'rule', 'number', 'oldestBlock', 'baseFeePerGas', 'gasUsedRatio', 'reward', 'toJSON', 'kind')
  const junk = (depth = 0) => {
    if (depth > 2 || roll(3) === 0) return atoms[roll(atoms.length)]
    if (roll(4) === 0) return Array.from({ length: roll(4) }, () => junk(depth + 1))
    return Object.fromEntries(Array.from({ length: roll(7) }, () => [names[roll(names.length)], junk(depth + 1)]))
  }
  const forecaster = new slackwater.Forecaster()
  const calls = [
    () => slackwater.nextBaseFee(junk(), junk()),
    () => slackwater.maxBaseFeeAfter(junk(), roll(1_000_000), junk()),
    () => slackwater.forwardDigest(junk(), junk()),
    () => slackwater.forwardTypedData(junk(), junk()),
    () => slackwater.checkedSignature(junk(), junk(), String(junk())),
    () => slackwater.recoverSigner(String(junk()), String(junk())),
    () => slackwater.verifyPromise(junk(), String(junk())),
    () => slackwater.verifyMerkleProof(String(junk()), junk(), String(junk())),
    () => new slackwater.Forecaster(junk()).free(),
    () => forecaster.observe(junk()),
    () => forecaster.observe({ number: roll(50), baseFee: String(roll(9)) + '0'.repeat(roll(38)), nextBaseFee: roll(3) ? undefined : 0 }),
    () => forecaster.observeHistory(junk()),
    () => forecaster.quantile(roll(200), Math.random() * 3 - 1),
    () => forecaster.probabilityBelow(roll(5), junk()),
    () => forecaster.refitDue && forecaster.refit(),
    () => forecaster.forecast(),
  ]
  let refused = 0
  for (let i = 0; i < 20_000; i++) {
    try {
      calls[roll(calls.length)]()
    } catch (error) {
      // A trap is a RuntimeError, and a TypeError of the caller's own (a symbol as a string) never comes in.
      if (error instanceof TypeError && /Symbol|string/.test(error.message)) continue
      assert.ok(error instanceof slackwater.SlackwaterError, `${error}`)
      assert.match(error.code, /^[a-z_]+$/)
      refused++
    }
  }
  assert.ok(refused > 5_000, `${refused} refused`)
  // It still works.
  assert.equal(slackwater.nextBaseFee({ baseFee: 7n, gasUsed: 1, gasLimit: 2 }), '7')
})

test('overlapping histories teach nothing twice', () => {
  const history = (oldest, count) => {
    const fee = (i) => `0x${(20_000_000_000 + 1_000_000_000 * Math.round(10 * Math.sin(i * 1.7))).toString(16)}`
    const baseFeePerGas = Array.from({ length: count + 1 }, (_, i) => fee(oldest + i))
    return { oldestBlock: `0x${oldest.toString(16)}`, baseFeePerGas, gasUsedRatio: Array(count).fill(0.5) }
  }
  const [first, second] = [new slackwater.Forecaster(), new slackwater.Forecaster()]
  assert.equal(first.observeHistory(history(1, 300)), 300)
  assert.equal(first.observeHistory(history(200, 150)), 49, 'only what is new')
  assert.ok(first.forecast().horizons.every(({ q10, q90 }) => BigInt(q10) <= BigInt(q90)))
  second.observeHistory(history(1, 349))
  assert.deepEqual(first.forecast(), second.forecast())
})

test('a quote without a relayer', () => {
  const forecaster = new slackwater.Forecaster({ blockTimeMs: 2_000, horizons: [5, 1, 25] })
  assert.throws(() => forecaster.quote({ gas: 21_000 }), { code: 'not_ready' })
  const fee = (wei) => `0x${wei.toString(16)}`
  const tips = [3, 1, 2, 900, 0].map((gwei) => [fee(1), fee(gwei * 1e9), fee(1e12)])
  forecaster.observeHistory({ oldestBlock: '0x64', baseFeePerGas: Array(6).fill(fee(20e9)), gasUsedRatio: Array(5).fill(0.5), reward: tips })
  const now = forecaster.quote({ gas: 100_000n })
  assert.equal(now.priorityFeeWeiPerGas, '2000000000', 'the median of the middle percentile')
  assert.equal(now.nowWei, String(100_000n * 22_000_000_000n))
  assert.deepEqual([now.steps, now.p], [1, 0.95])
  for (const [withinMs, steps] of [[2_000, 1], [2_001, 5], [10_000, 5], [11_000, 25], [1e9, 25]]) {
    const quote = forecaster.quote({ gas: 1, withinMs, p: 0.99, priorityFee: 1n })
    assert.equal(quote.steps, steps)
    assert.equal(quote.maxFeeWeiPerGas, String(BigInt(forecaster.quantile(steps, 0.99)) + 1n))
    assert.ok(BigInt(quote.expectedWei) <= BigInt(quote.maxWei))
  }
  for (const wrong of [{ gas: 1.5 }, { gas: -1 }, { gas: 'many' }, { gas: 1, priorityFee: {} }, { gas: 1, p: 2 }])
    assert.throws(() => forecaster.quote(wrong), { code: 'invalid_argument' }, JSON.stringify(wrong))
})

test('the shipped prior forecasts where the protocol ties one fee to the next', () => {
  const text = readFileSync(new URL(import.meta.resolve('slackwater/prior.json')), 'utf8')
  const forecasts = (options, next) => {
    const forecaster = new slackwater.Forecaster(options)
    let baseFee = 20_000_000_000n
    for (let i = 0; i < 120; i++) {
      const block = { baseFee, gasUsed: 15_000_000 + Math.round(9_000_000 * Math.sin(i * 1.7)), gasLimit: 30_000_000 }
      forecaster.observe({ number: i, timestamp: 1_700_000_000 + 12 * i, ...block })
      baseFee = next(block, i)
    }
    return forecaster.forecast()
  }
  const byRule = (block) => BigInt(slackwater.nextBaseFee(block))
  const [warm, cold] = [forecasts({ prior: text }, byRule), forecasts({}, byRule)]
  assert.notEqual(warm.model, cold.model, 'other models are in force')
  assert.equal(warm.nextBaseFee, cold.nextBaseFee, 'what is computed is not learned')
  assert.ok(warm.horizons.slice(1).some(({ point }, at) => point !== cold.horizons[at + 1].point), 'and they say something else')
  // Where fees follow no rule it has nothing to say.
  const free = (_, i) => BigInt(Math.round(20e9 * (1 + 0.4 * Math.sin(i / 3))))
  assert.deepEqual(forecasts({ prior: text }, free).horizons, forecasts({}, free).horizons)
  // Half of it is none.
  assert.throws(() => new slackwater.Forecaster({ prior: text.slice(0, text.length / 2) }), { code: 'invalid_model' })
})

test('nonces: each request has its own from its signature on, and the first free one is next', async () => {
  const account = privateKeyToAccount(generatePrivateKey())
  const from = account.address
  const domain = { name: 'Slackwater', chainId: 31_337, verifyingContract: `0x${'f0'.repeat(20)}` }
  const provider = { request: async () => `0x${'00'.repeat(32)}` }
  const make = (storage = slackwater.memoryStorage()) => slackwater.Slackwater.open({ url: 'http://127.0.0.1:9', provider, storage })
  const unsigned = (extra = {}) => ({ domain, request: { from, to: domain.verifyingContract, gas: 50_000, deadline: Math.floor(Date.now() / 1_000) + 600, ...extra } })
  const wallet = (answer = () => undefined) => ({ address: async () => from, signTypedData: async (typed) => (await answer()) ?? slackwater.fromViem(account).signTypedData(typed) })
  const nonces = (signed) => signed.map(({ request }) => request.nonce)
  const storage = slackwater.memoryStorage()
  const [one, two] = [await make(storage), await make(storage)]
  const next = async (client) => {
    const signed = await client.sign(wallet(), unsigned())
    client.discard(signed)
    return signed.request.nonce
  }
  // Six clicks at once, at two clients of the page, with a wallet that takes its time.
  const slow = wallet(() => new Promise((resolve) => setTimeout(resolve, 50 * Math.random())))
  const signed = await Promise.all([0, 1, 2, 3, 4, 5].map((index) => (index % 2 ? one : two).sign(slow, unsigned())))
  assert.deepEqual(nonces(signed).sort(), ['0', '1', '2', '3', '4', '5'])
  assert.equal(new Set(signed.map(({ id }) => id)).size, 6)
  const place = (nonce) => signed.find(({ request }) => request.nonce === nonce)
  const own = (nonce) => (signed.indexOf(place(nonce)) % 2 ? one : two)
  own('2').discard(place('2'))
  assert.deepEqual([await next(one), await next(two)], ['2', '2'], 'the one in the middle')
  // What fails gives its nonce back.
  const declining = wallet(() => Promise.reject(new Error('no, thank you')))
  await assert.rejects(one.sign(declining, unsigned()), { message: 'no, thank you' })
  for (const wrong of [{ to: 'vitalik.eth' }, { gas: 0 }, { value: -1 }, { data: '0x1' }, { deadline: 2 ** 49 }]) {
    await assert.rejects(one.sign(wallet(), unsigned(wrong)), { code: 'invalid_argument' })
  }
  for (const [limits, code] of [[{ withinMs: 0 }, 'outbox_refused'], [{ maxCost: '1 gwei' }, 'invalid_argument']]) {
    assert.throws(() => one.enqueue({ ...place('2'), ...limits }), { code })
    const refused = await one.sign(wallet(), { ...unsigned(), ...limits })
    assert.equal(refused.request.nonce, '2')
    assert.throws(() => one.enqueue(refused), { code })
  }
  assert.equal(await next(one), '2')
  // Of two prompts the first is declined: the second was not behind it.
  let decline
  const asked = one.sign(wallet(() => new Promise((_, reject) => (decline = () => reject(new Error('declined'))))), unsigned())
  await eventually('it is asked', () => decline)
  const second = await two.sign(wallet(), unsigned())
  decline()
  await assert.rejects(asked, { message: 'declined' })
  assert.deepEqual([second.request.nonce, await next(one)], ['6', '2'])
  // One that never answers is not waited for longer than the chain would take its request: it does not any more.
  const silent = wallet(() => new Promise(() => undefined))
  await assert.rejects(one.sign(silent, unsigned({ deadline: Math.floor(Date.now() / 1_000) - 60 })), { code: 'no_signature' })
  await assert.rejects(one.sign({ signTypedData: () => assert.fail('at once') }, unsigned()), { message: 'at once' })
  // A named nonce is taken as it is, even from another: in one client, and in two.
  for (const client of [own('4'), own('4') === one ? two : one]) {
    const named = await client.sign(wallet(), unsigned({ nonce: 4, data: '0x01' }))
    assert.equal(named.request.nonce, '4')
    client.discard(named)
  }
  assert.equal(await next(one), '2')
  // What waits in storage holds its nonce for others, and over a reload; what was only signed goes with its page.
  const { key } = own('0').enqueue(place('0'))
  await eventually('stored', async () => (await storage.load()).length === 1)
  const pending = one.sign(silent, unsigned())
  const refused = assert.rejects(pending, { code: 'closed' })
  for (const client of [one, two]) client.close()
  await refused
  await assert.rejects(one.sign(wallet(() => assert.fail('asked')), unsigned()), { code: 'closed' })
  const [again, other] = [await make(storage), await make()]
  assert.equal(again.resumed[0].key, key)
  assert.deepEqual([await next(again), await next(other)], ['1', '0'], 'another storage knows nothing of it')
  for (const client of [again, other]) client.close()
})

for (const [name, make] of [
  ['memory', () => slackwater.memoryStorage()],
  ['IndexedDB', () => slackwater.indexedDbStorage('test')],
]) {
  test(`storage: ${name}`, async () => {
    const storage = make()
    assert.deepEqual(await storage.load(), [])
    await Promise.all([storage.put('a', '1'), storage.put('b', '2')])
    await storage.put('a', '3')
    assert.deepEqual((await storage.load()).sort(), [['a', '3'], ['b', '2']])
    await storage.remove('a')
    assert.deepEqual(await storage.load(), [['b', '2']])
  })
}
