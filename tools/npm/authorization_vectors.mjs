// Writes vectors of EIP-3009 authorizations: digest, signature and calldata.
//
//   node authorization_vectors.mjs OUT_FILE
//
// Keys and signatures (RFC 6979) are deterministic, so the file is the same on every run.
// `cargo xtask contracts` runs this for `core/pure/tests/vectors/eip3009.json`.

import { Interface, TypedDataEncoder, Wallet } from 'ethers'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { encodeFunctionData, hashDomain, hashTypedData, keccak256, parseAbi, parseSignature, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { sources } from './forward_request.mjs'

const out = process.argv[2]
if (!out) throw new Error('usage: node authorization_vectors.mjs OUT_FILE')

const MESSAGE = 'address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce'
const PARTS = `function transferWithAuthorization(${MESSAGE}, uint8 v, bytes32 r, bytes32 s)`
const BYTES = `function transferWithAuthorization(${MESSAGE}, bytes signature)`
const types = { TransferWithAuthorization: MESSAGE.split(', ').map((field) => field.split(' ')).map(([type, name]) => ({ name, type })) }
const domainFields = [
  { name: 'name', type: 'string' },
  { name: 'version', type: 'string' },
  { name: 'chainId', type: 'uint256' },
  { name: 'verifyingContract', type: 'address' },
]
const MAX_UINT256 = ((1n << 256n) - 1n).toString()

const base = {
  name: 'USD Coin',
  version: '2',
  chainId: '8453',
  verifyingContract: '0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913',
  to: '0x209693Bc6afc0C5328bA36FaF03C514EF312287C',
  value: '10000',
  validAfter: '1740672089',
  validBefore: '1740672154',
  nonce: keccak256(stringToHex('nonce')),
}

/** What is special about each case, and what differs from `base`. */
const cases = [
  ['USDC on Base', {}],
  ['USDC on Base Sepolia, named otherwise', { name: 'USDC', chainId: '84532', verifyingContract: '0x036CbD53842c5426634e7929541eC2318f3dCF7e' }],
  ['version 1', { version: '1' }],
  ['empty name and version', { name: '', version: '' }],
  ['nothing', { value: '0', validAfter: '0', validBefore: '0', nonce: `0x${'00'.repeat(32)}` }],
  ['everything', { value: MAX_UINT256, validAfter: MAX_UINT256, validBefore: MAX_UINT256, nonce: `0x${'ff'.repeat(32)}` }],
  ['chain id beyond 2^53', { chainId: '9007199254740993' }],
]

const rows = []
for (const [index, [title, change]] of cases.entries()) {
  const { name, version, chainId, verifyingContract, ...rest } = { ...base, ...change }
  const privateKey = keccak256(stringToHex(`slackwater eip3009 vector ${index}`))
  const account = privateKeyToAccount(privateKey)
  const domain = { name, version, chainId, verifyingContract }
  const message = { from: account.address, ...rest }
  const exactDomain = { ...domain, chainId: BigInt(chainId) }
  const exact = { ...message }
  for (const field of ['value', 'validAfter', 'validBefore']) exact[field] = BigInt(message[field])

  const typedData = { domain: exactDomain, types, primaryType: 'TransferWithAuthorization', message: exact }
  const signature = await account.signTypedData(typedData)
  const { r, s, v } = parseSignature(signature)
  const fields = Object.values(exact)
  const viem = {
    separator: hashDomain({ domain: exactDomain, types: { EIP712Domain: domainFields } }),
    digest: hashTypedData(typedData),
    signature,
    calldata: encodeFunctionData({ abi: parseAbi([PARTS]), args: [...fields, Number(v), r, s] }),
    calldataWithBytes: encodeFunctionData({ abi: parseAbi([BYTES]), args: [...fields, signature] }),
  }
  const ethers = {
    separator: TypedDataEncoder.hashDomain(exactDomain),
    digest: TypedDataEncoder.hash(exactDomain, types, exact),
    signature: await new Wallet(privateKey).signTypedData(exactDomain, types, exact),
    calldata: new Interface([PARTS]).encodeFunctionData('transferWithAuthorization', [...fields, v, r, s]),
    calldataWithBytes: new Interface([BYTES]).encodeFunctionData('transferWithAuthorization', [...fields, signature]),
  }
  if (JSON.stringify(viem) !== JSON.stringify(ethers)) throw new Error(`${title}: the wallets disagree`)
  rows.push({ title, source: `${sources.viem}, ${sources.ethers}`, domain, message, ...viem })
}

mkdirSync(dirname(out), { recursive: true })
writeFileSync(out, `${JSON.stringify(rows, null, 2)}\n`)
