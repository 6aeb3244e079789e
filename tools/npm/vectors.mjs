// Writes the EIP-712 vectors of forward requests:
//
//   node vectors.mjs OUT_FILE
//
// Keys and signatures (RFC 6979) are deterministic, so the file is the same on every run.
// `cargo xtask contracts` runs this for `core/pure/tests/vectors/eip712.json`.

import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { concat, keccak256, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { signForwardRequest, sources } from './forward_request.mjs'

const out = process.argv[2]
if (!out) throw new Error('usage: node vectors.mjs OUT_FILE')

const MAX_UINT48 = '281474976710655'
const MAX_UINT256 = ((1n << 256n) - 1n).toString()
const FORWARDER = '0x5FbDB2315678afecb367f032d93F642f64180aa3'
const TARGET = '0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512'
/** Calldata of `Guestbook.mark`. */
const MARK = `0xee02438e${'11'.repeat(32)}`

const base = {
  name: 'Slackwater',
  chainId: '31337',
  verifyingContract: FORWARDER,
  to: TARGET,
  value: '0',
  gas: '120000',
  nonce: '0',
  deadline: '1790000000',
  data: MARK,
}

/** What is special about each case, and what differs from `base`. */
const cases = [
  ['plain request', {}],
  ['empty data', { data: '0x' }],
  ['one byte of data', { data: '0x00' }],
  ['31 bytes of data', { data: bytes(31) }],
  ['32 bytes of data', { data: bytes(32) }],
  ['33 bytes of data', { data: bytes(33) }],
  ['1000 bytes of data', { data: bytes(1000) }],
  ['zero deadline', { deadline: '0' }],
  ['largest deadline', { deadline: MAX_UINT48 }],
  ['deadline beyond 32 bits', { deadline: '4294967296' }],
  ['one wei', { value: '1' }],
  ['value beyond 64 bits', { value: '340282366920938463463374607431768211456' }],
  ['largest value, gas and nonce', { value: MAX_UINT256, gas: MAX_UINT256, nonce: MAX_UINT256 }],
  ['nonce beyond 53 bits', { nonce: '9007199254740993' }],
  ['zero gas', { gas: '0' }],
  ['mainnet', { chainId: '1', name: 'ERC2771Forwarder' }],
  ['Base', { chainId: '8453' }],
  ['chain id 2^53 - 1', { chainId: '9007199254740991' }],
  ['chain id beyond 2^53', { chainId: '9007199254740993' }],
  ['empty name', { name: '' }],
  ['name of 31 bytes: the longest short string', { name: 'abcdefghijklmnopqrstuvwxyz01234' }],
  ['name of 32 bytes: stored apart', { name: 'abcdefghijklmnopqrstuvwxyz012345' }],
  ['accented name', { name: 'Étale – relais' }],
  ['name in another script', { name: '憩潮フォワーダー' }],
  ['name with an emoji of several code points', { name: 'tide 🌊 👩🏽‍🚀' }],
  ['zero target', { to: '0x0000000000000000000000000000000000000000' }],
  ['target is the forwarder', { to: FORWARDER }],
  ['highest addresses', { to: `0x${'f'.repeat(40)}`, verifyingContract: `0x${'f'.repeat(40)}` }],
]

const rows = []
for (const [index, [title, change]] of cases.entries()) {
  const { name, chainId, verifyingContract, ...message } = { ...base, ...change }
  const privateKey = keccak256(stringToHex(`slackwater eip712 vector ${index}`))
  const domain = { name, version: '1', chainId, verifyingContract }
  const from = privateKeyToAccount(privateKey).address
  for (const wallet of ['viem', 'ethers']) {
    const signed = await signForwardRequest({ wallet, privateKey, domain, message: { from, ...message } })
    rows.push({ title, source: sources[wallet], wallet, privateKey, domain, message: { from, ...message }, ...signed })
  }
  const [a, b] = rows.slice(-2)
  if (a.digest !== b.digest || a.signature !== b.signature) throw new Error(`${title}: the wallets disagree`)
}

mkdirSync(dirname(out), { recursive: true })
writeFileSync(out, `${JSON.stringify(rows, null, 2)}\n`)

/** `length` bytes that look random and are not. */
function bytes(length) {
  const chunks = []
  for (let i = 0; i * 32 < length; i++) chunks.push(keccak256(stringToHex(`bytes ${length} ${i}`)))
  return concat(chunks).slice(0, 2 + 2 * length)
}
