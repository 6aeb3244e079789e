// What the tests stand on: the relayer's binary with its own chain, and a server for pages.

import { spawn } from 'node:child_process'
import { createReadStream, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createSocket } from 'node:net'
import { tmpdir } from 'node:os'
import { extname, join, normalize } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
export const PACKAGE = join(ROOT, 'bindings/js/node_modules/slackwater')

const json = (path) => JSON.parse(readFileSync(join(ROOT, 'core/pure/tests/vectors', path), 'utf8'))
export const vectors = () => ({
  eip712: json('eip712.json'),
  fees: json('fees.json'),
  forecast: json('forecast.json'),
  merkle: json('merkle.json'),
})

export const freePort = () =>
  new Promise((resolve, reject) => {
    const socket = createSocket()
    socket.once('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = socket.address()
      socket.close(() => resolve(port))
    })
  })

/** `slackwater dev` on free ports, which can be killed and come back with the same chain and database. */
export class World {
  static async start() {
    const world = new World()
    world.data = mkdtempSync(join(tmpdir(), 'slackwater-js-'))
    world.port = await freePort()
    world.chain = await startChain()
    await world.startRelayer()
    return world
  }

  async startRelayer() {
    const binary = process.env.SLACKWATER_BIN
    // The relayer takes every variable of that prefix for configuration.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SLACKWATER_')))
    if (!binary) throw new Error('SLACKWATER_BIN must name the relayer')
    const args = ['dev', '--json', '--rpc', this.chain.url, '--listen', `127.0.0.1:${this.port}`, '--data', this.data]
    this.relayer = spawn(binary, args, { stdio: ['ignore', 'pipe', 'inherit'], env })
    const line = await firstLine(this.relayer, /^\{/)
    this.ready = JSON.parse(line)
  }

  async killRelayer() {
    await end(this.relayer, 'SIGKILL')
  }

  async stop() {
    await end(this.relayer, 'SIGTERM')
    await end(this.chain.process, 'SIGTERM')
    rmSync(this.data, { recursive: true, force: true })
  }

  rpc(method, params = []) {
    return rpc(this.chain.url, method, params)
  }

  /** Sends a transaction of an account that the relayer does not use, and returns its receipt. */
  async transact(transaction) {
    const from = (await this.rpc('eth_accounts')).at(-1)
    return mined((method, params) => this.rpc(method, params), { from, gas: '0x500000', ...transaction })
  }

  /** A contract that has a domain and nonces, runs nothing, and says that it did: what a lying relayer would name. */
  async fakeForwarder() {
    return (await this.transact({ data: `${creation('FakeForwarder')}${textParam('Looks Fine')}` })).contractAddress
  }

  /** A contract that answers 1 to everything, so that it trusts every forwarder. */
  async flatterer() {
    return (await this.transact({ data: '0x69600160005260206000f3600052600a6016f3' })).contractAddress
  }

  /** Entries of a user in the guest book, by the chain. */
  count(user) {
    return count(this.chain.url, this.ready.guestbook, user)
  }
}

async function rpc(url, method, params) {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
  const answer = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  const { result, error } = await answer.json()
  if (error) throw new Error(error.message)
  return result
}

async function count(url, guestbook, user) {
  const data = `0x05d85eda${user.slice(2).toLowerCase().padStart(64, '0')}`
  return Number(await rpc(url, 'eth_call', [{ to: guestbook, data }, 'latest']))
}

const word = (hex) => hex.slice(2).toLowerCase().padStart(64, '0')
const creation = (artifact) => `0x${readFileSync(join(ROOT, `bindings/contracts/artifacts/${artifact}.creation.hex`), 'utf8').trim()}`

function textParam(text) {
  const bytes = Buffer.from(text)
  return `${word('0x20')}${word(`0x${bytes.length.toString(16)}`)}${bytes.toString('hex').padEnd(64, '0')}`
}

async function deployed(ask, from, data) {
  return (await mined(ask, { from, data, gas: '0x500000' })).contractAddress
}

async function mined(ask, transaction) {
  const hash = await ask('eth_sendTransaction', [transaction])
  return eventually('a receipt', () => ask('eth_getTransactionReceipt', [hash]))
}

/** A chain with a forwarder and a guest book, and no relayer. */
export async function startContracts() {
  const chain = await startChain()
  const ask = (method, params = []) => rpc(chain.url, method, params)
  const [from] = await ask('eth_accounts')
  const deploy = (artifact, params) => deployed(ask, from, `${creation(artifact)}${params}`)
  const forwarder = await deploy('ERC2771Forwarder', textParam('Slackwater'))
  const guestbook = await deploy('Guestbook', word(forwarder))
  return {
    url: chain.url,
    chainId: Number(await ask('eth_chainId')),
    forwarder,
    guestbook,
    rpc: ask,
    count: (user) => count(chain.url, guestbook, user),
    stop: () => end(chain.process, 'SIGTERM'),
  }
}

async function startChain() {
  const binary = process.env.SLACKWATER_ANVIL
  if (!binary) throw new Error('SLACKWATER_ANVIL must name the chain')
  const args = ['--host', '127.0.0.1', '--port', '0', '--block-time', '1', '--order', 'fees']
  const child = spawn(binary, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  const line = await firstLine(child, /^Listening on /)
  return { process: child, url: `http://${line.slice('Listening on '.length)}` }
}

/** The first line of a program's output that fits; it fails with the program. */
export function firstLine(child, pattern) {
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: child.stdout })
    lines.on('line', (line) => pattern.test(line) && resolve(line))
    child.once('exit', (code) => reject(new Error(`${child.spawnfile} ended with ${code}`)))
  })
}

/** Waits until a program has ended. */
export function end(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise((resolve) => {
    child.once('exit', resolve)
    child.kill(signal)
  })
}

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
}

/** Serves folders by prefix, as any web server would. */
export async function serve(folders) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://host').pathname)
    const [prefix, folder] = Object.entries(folders).find(([prefix]) => path.startsWith(prefix)) ?? []
    const file = folder && join(folder, normalize(path.slice(prefix.length)) || 'index.html')
    const found = file && (existsSync(file) && statSync(file).isDirectory() ? join(file, 'index.html') : file)
    if (!found || !existsSync(found)) return response.writeHead(404).end()
    response.writeHead(200, { 'content-type': TYPES[extname(found)] ?? 'application/octet-stream' })
    createReadStream(found).pipe(response)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => (server.closeAllConnections(), server.close()) }
}

/** Waits for a condition; a test never sleeps instead. */
export async function eventually(what, check, ms = 60_000) {
  for (const end = Date.now() + ms; ; ) {
    const found = await check()
    if (found) return found
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
