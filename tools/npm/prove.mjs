// Proves on a real chain what the artifacts claim:
//
//   node prove.mjs ANVIL [FIXTURE_DIR]
//
// Starts its own anvil on a free local port and ends it. With FIXTURE_DIR, also writes the code of
// the deployed forwarders there. `cargo xtask contracts --prove` runs this.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  createTestClient,
  decodeEventLog,
  encodeAbiParameters,
  encodeFunctionData,
  http,
  keccak256,
  parseEther,
  publicActions,
  stringToHex,
  walletActions,
  zeroAddress,
} from 'viem'
import { mnemonicToAccount } from 'viem/accounts'
import { foundry } from 'viem/chains'
import { signForwardRequest } from './forward_request.mjs'

const HERE = dirname(fileURLToPath(import.meta.url))
const ARTIFACTS = join(HERE, '..', '..', 'bindings', 'contracts', 'artifacts')
const MNEMONIC = 'test test test test test test test test test test test junk'
const NAME = 'Slackwater'

const [anvil, fixtures] = process.argv.slice(2)
if (!anvil) throw new Error('usage: node prove.mjs ANVIL [FIXTURE_DIR]')

const relayer = mnemonicToAccount(MNEMONIC, { addressIndex: 0 })
const user = mnemonicToAccount(MNEMONIC, { addressIndex: 1 })
const userKey = `0x${Buffer.from(user.getHdKey().privateKey).toString('hex')}`
const forwarderAbi = description('ERC2771Forwarder').abi

const chain = await startAnvil()
try {
  const transport = http(chain.url)
  const client = createTestClient({ mode: 'anvil', chain: foundry, transport, account: relayer, pollingInterval: 20 })
    .extend(publicActions)
    .extend(walletActions)
  // By default tips go to the zero address, whose balance is looked at below.
  await client.setCoinbase({ address: relayer.address })
  await proveMulticall3(client)
  for (const build of publishedForwarders()) await proveForwarder(client, build)
} finally {
  chain.process.kill()
}

async function proveMulticall3(client) {
  const code = await client.getCode({ address: await deploy(client, hex('Multicall3.creation')) })
  assert.equal(keccak256(code), '0xd5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891')
  console.log('Multicall3: runtime code is the canonical one')
}

async function proveForwarder(client, { release, creation, runtime, fixture }) {
  const argument = encodeAbiParameters([{ type: 'string' }], [NAME])
  const forwarder = await deploy(client, creation + argument.slice(2))
  const code = await client.getCode({ address: forwarder })
  assertSameButImmutables(code, runtime)
  if (fixtures && fixture) {
    mkdirSync(fixtures, { recursive: true })
    writeFileSync(join(fixtures, `forwarder-${release}.deployed.hex`), `${code.slice(2)}\n`)
  }

  const forwarderArgument = encodeAbiParameters([{ type: 'address' }], [forwarder]).slice(2)
  const guestbook = await deploy(client, hex('Guestbook.creation') + forwarderArgument)
  const nasty = await deploy(client, hex('Nasty.creation') + forwarderArgument)
  const [, name, version, chainId, verifyingContract] = await client.readContract({
    address: forwarder,
    abi: forwarderAbi,
    functionName: 'eip712Domain',
  })
  assert.equal(name, NAME)
  const domain = { name, version, chainId, verifyingContract }
  let nonce = 0n
  const request = async (contract, to, functionName, args, value = 0n) => {
    const data = encodeFunctionData({ abi: description(contract).abi, functionName, args })
    const { timestamp } = await client.getBlock()
    const message = { from: user.address, to, value, gas: 200_000n, nonce: nonce++, deadline: timestamp + 600n, data }
    const { signature } = await signForwardRequest({ wallet: 'viem', privateKey: userKey, domain, message })
    return { ...message, deadline: Number(message.deadline), signature }
  }
  const executeBatch = async (requests, refundReceiver) => {
    const hash = await client.writeContract({
      address: forwarder,
      abi: forwarderAbi,
      functionName: 'executeBatch',
      args: [requests, refundReceiver],
      value: requests.reduce((sum, r) => sum + r.value, 0n),
      gas: 3_000_000n,
    })
    return client.waitForTransactionReceipt({ hash })
  }
  const executed = (receipt) =>
    receipt.logs
      .filter((log) => log.address === forwarder.toLowerCase())
      .map((log) => decodeEventLog({ abi: forwarderAbi, ...log }).args)

  // The target sees the user; a failing neighbour has its own event and harms nobody.
  const tag = keccak256(stringToHex(release))
  const receipt = await executeBatch(
    [
      await request('Guestbook', guestbook, 'mark', [tag]),
      await request('Nasty', nasty, 'revertAlways', ['no']),
      await request('Nasty', nasty, 'requireSender', [user.address]),
    ],
    relayer.address,
  )
  assert.equal(receipt.status, 'success')
  assert.deepEqual(
    executed(receipt),
    [true, false, true].map((success, i) => ({ signer: user.address, nonce: BigInt(i), success })),
  )
  const read = (functionName) =>
    client.readContract({ address: guestbook, abi: description('Guestbook').abi, functionName, args: [tag] })
  assert.equal(await read('marks'), 1n)
  assert.equal(await read('lastSender'), user.address)

  // A strict batch whose call with value fails: reverts from 5.7 on; before, the value is burned.
  const before = await client.getBalance({ address: zeroAddress })
  const strict = await executeBatch([await request('Nasty', nasty, 'pay', [tag], parseEther('1')).then(unpayable)], zeroAddress)
  const burned = (await client.getBalance({ address: zeroAddress })) - before
  const reverts = release === '5.7.0'
  assert.equal(strict.status, reverts ? 'reverted' : 'success')
  assert.equal(burned, reverts ? 0n : parseEther('1'))
  console.log(`ERC2771Forwarder ${release}: batch executed, target saw the user; strict batch with failed value ${reverts ? 'reverts' : 'burns it'}`)

  async function unpayable(r) {
    const data = encodeFunctionData({ abi: description('Nasty').abi, functionName: 'burn' })
    const message = { ...r, data }
    const { signature } = await signForwardRequest({ wallet: 'viem', privateKey: userKey, domain, message })
    return { ...message, signature }
  }
}

/** The distinct forwarders that npm has; the last is the one we ship. */
function publishedForwarders() {
  const releases = ['5.0.2', '5.1.0', '5.3.0', '5.4.0', '5.5.0', '5.6.1']
  const older = releases.map((release) => {
    const { bytecode, deployedBytecode } = JSON.parse(
      readFileSync(join(HERE, 'node_modules', `oz-${release}`, 'build/contracts/ERC2771Forwarder.json'), 'utf8'),
    )
    return { release, creation: bytecode, runtime: deployedBytecode, fixture: release === '5.6.1' }
  })
  const creation = hex('ERC2771Forwarder.creation')
  return [...older, { release: '5.7.0', creation, runtime: hex('ERC2771Forwarder.runtime'), fixture: true }]
}

/** Every byte that differs from the artifact is zero there and inside the operand of a `PUSH32 0`. */
function assertSameButImmutables(code, artifact) {
  const actual = Buffer.from(code.slice(2), 'hex')
  const expected = Buffer.from(artifact.slice(2), 'hex')
  assert.equal(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) {
    const op = expected[i]
    if (op === 0x7f && expected.subarray(i + 1, i + 33).every((b) => b === 0)) {
      assert(actual.subarray(i + 1, i + 33).some((b) => b !== 0), `immutable at ${i + 1} is set`)
      actual.fill(0, i + 1, i + 33)
    }
    if (op >= 0x60 && op <= 0x7f) i += op - 0x5f
  }
  assert(actual.equals(expected))
}

async function deploy(client, data) {
  const hash = await client.sendTransaction({ data })
  const { contractAddress, status } = await client.waitForTransactionReceipt({ hash })
  assert.equal(status, 'success')
  return contractAddress
}

function hex(name) {
  return `0x${readFileSync(join(ARTIFACTS, `${name}.hex`), 'utf8').trim()}`
}

function description(name) {
  return JSON.parse(readFileSync(join(ARTIFACTS, `${name}.json`), 'utf8'))
}

function startAnvil() {
  const process = spawn(anvil, ['--host', '127.0.0.1', '--port', '0'], { stdio: ['ignore', 'pipe', 'inherit'] })
  return new Promise((resolve, reject) => {
    let output = ''
    process.on('error', reject)
    process.on('exit', (code) => reject(new Error(`anvil ended with ${code}:\n${output}`)))
    process.stdout.on('data', (chunk) => {
      output += chunk
      const address = output.match(/Listening on (\S+)/)
      if (address) resolve({ process, url: `http://${address[1]}` })
    })
  })
}
