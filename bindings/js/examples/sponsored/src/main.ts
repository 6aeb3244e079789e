import { Forecaster, Slackwater, SlackwaterError, fromProvider, fromViem, httpProvider } from 'slackwater'
import type { Chains, Eip1193Provider, Wallet } from 'slackwater'
import { encodeFunctionData, parseAbi } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { isDenied, isOver, last, loadEntries, saveEntries } from './entries'
import type { Entry } from './entries'
import { drawFan } from './fan'
import { ether, perGas, short, span } from './format'
import { linked, settings } from './settings'
import { showEntries } from './show'

const ABI = parseAbi(['function sign(string message)', 'function total() view returns (uint256)'])
const GAS = 120_000
const at = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T

const node = httpProvider(settings.rpc)
const entries = loadEntries()
let slackwater: Slackwater
let wallet: Wallet
/** Draws the last forecast. */
let draw = () => {}

let forecaster: Forecaster

const show = (changed?: Entry) => {
  saveEntries(entries)
  showEntries(entries, changed)
}

function complain(error: unknown): void {
  at('problem').textContent = words(error)
  at('problem').hidden = false
}

/**
 * A key of this browser only: enough for somebody who has no wallet, and owns nothing. It lies in the storage as it is, where
 * every script of this origin can read it: sign nothing with it that is worth anything, and use a wallet in a page of your own.
 */
function burner(): Wallet {
  const key = localStorage.getItem('tidebook.key') ?? generatePrivateKey()
  localStorage.setItem('tidebook.key', key)
  return fromViem(privateKeyToAccount(key as `0x${string}`))
}

async function useWallet(chosen: Wallet, name: string): Promise<void> {
  wallet = chosen
  at('account').textContent = `${name} ${short(await wallet.address())}`
}

/** What happens to visitors, for people. */
const WORDS: Record<string, string> = {
  bad_promise: 'Whoever took the entry is not the relayer that this page knows, and may have it executed or not',
  wrong_relayer: 'This is not the relayer that this page knows; nothing was signed',
  untrusted_forwarder: 'The relayer would use a contract that the guest book does not trust; nothing was signed',
  unknown_forwarder: 'The relayer would use a contract that this page does not know; nothing was signed',
  expired: 'The relayer could not be reached in time',
}

/** The words of an error, for people. */
function words(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  if (!(error instanceof SlackwaterError)) return text
  const detail = text.replace(/0x[0-9a-f]{40,}/gi, short)
  return error.code in WORDS ? `${WORDS[error.code]}: ${detail} (${error.code})` : `${detail} (${error.code})`
}

/** Follows an entry to its end, and checks each claim at the visitor's own node. */
async function follow(entry: Entry): Promise<void> {
  try {
    for await (const { event } of slackwater.follow(entry.id)) {
      if (entry.events.some((known) => known.requestSeq === event.requestSeq)) continue
      entry.events.push(event)
      delete entry.verdict
      show(entry)
      if (CLAIMS.includes(event.status)) void check(entry)
    }
  } catch (error) {
    entry.problem = words(error)
  }
  show(entry)
}

/** What a relayer says of the chain, and can be asked of a node. */
const CLAIMS = ['included', 'finalized', 'reverted']

/** Whether the visitor's node has said all that there is to say about the last claim. */
function isSettled({ verdict, events }: Entry): boolean {
  return isDenied(verdict) || (verdict?.kind === 'confirmed' && (verdict.isFinal || events.at(-1)?.status === 'included'))
}

async function check(entry: Entry): Promise<void> {
  const event = last(entry)
  if (!event) return
  for (let left = 20; left > 0 && last(entry) === event; left--) {
    const verdict = await slackwater.verify(entry.signed, event, { kind: 'depth', blocks: settings.depth })
    if (last(entry) !== event) return
    entry.verdict = verdict
    show(entry)
    if (isSettled(entry)) return
    await new Promise((resolve) => setTimeout(resolve, 1_000))
  }
}

/** Brings an entry to the relayer, however long that takes, and follows it. */
async function deliver(entry: Entry): Promise<void> {
  try {
    // The same request again is the same submission: of an earlier page's it only waits for the outcome.
    await slackwater.submit(entry.signed)
  } catch (error) {
    entry.problem = words(error)
    show(entry)
    return
  }
  await follow(entry)
}

async function send(event: SubmitEvent): Promise<void> {
  event.preventDefault()
  const message = at<HTMLTextAreaElement>('message').value.trim()
  const [button, problem] = [at<HTMLButtonElement>('send'), at('problem')]
  problem.hidden = true
  button.disabled = true
  button.textContent = 'Waiting for your signature…'
  try {
    const data = encodeFunctionData({ abi: ABI, functionName: 'sign', args: [message] })
    const { chainId, guestbook: to, forwarder } = settings
    const unsigned = await slackwater.prepare(await wallet.address(), { chainId, forwarder, to, data, gas: GAS, withinMs: within() })
    const signed = await slackwater.sign(wallet, unsigned)
    const entry: Entry = { id: signed.id, message, signedAt: Date.now(), signed, events: [] }
    entries.unshift(entry)
    show(entry)
    at<HTMLTextAreaElement>('message').value = ''
    count()
    void deliver(entry)
  } catch (error) {
    complain(error)
  } finally {
    button.disabled = false
    button.textContent = 'Sign and send'
  }
}

const within = () => Number(document.querySelector<HTMLInputElement>('input[name=within]:checked')?.value ?? 60_000)

/** What it costs: by the relayer, and while that can't be reached by this page's own forecast. */
async function quote(): Promise<void> {
  try {
    const quote = await slackwater.quote({ chainId: settings.chainId, gas: GAS, withinMs: within() })
    at('cost').textContent = ether(quote.wait?.expectedCostWei ?? quote.expectedCostWei)
    at('max').textContent = ether(quote.maxCostWei)
    at('when').textContent = !quote.wait || quote.wait.sendNow ? 'now' : span(quote.wait.expectedSendInMs)
    at('by').textContent = 'Quoted by the relayer.'
  } catch {
    try {
      const { expectedWei, maxWei } = forecaster.quote({ gas: GAS, withinMs: within() })
      at('cost').textContent = ether(expectedWei)
      at('max').textContent = ether(maxWei)
      at('when').textContent = 'once the relayer is back'
      at('by').textContent = 'Estimated in this page: the relayer does not answer.'
    } catch {
      for (const id of ['cost', 'max', 'when']) at(id).textContent = '…'
    }
  }
}

/** How much room is left in the message. */
function count(): void {
  const { value, maxLength } = at<HTMLTextAreaElement>('message')
  at('left').textContent = `${value.length}/${maxLength}`
}

async function chain(): Promise<void> {
  const pill = at('net')
  try {
    const served: Chains = await slackwater.chains()
    const found = served.chains.find(({ chainId }) => chainId === settings.chainId)
    pill.dataset['state'] = found?.health === 'healthy' ? 'good' : 'bad'
    pill.textContent = found ? `${found.name} · ${found.health}` : `chain ${settings.chainId} is not served`
    at('relayer').textContent = short(served.relayer)
  } catch {
    pill.dataset['state'] = 'bad'
    pill.textContent = navigator.onLine ? 'relayer unreachable' : 'offline'
  }
}

async function forecast(): Promise<void> {
  if ((await forecaster.update(node)) === 0) return
  const started = performance.now()
  const made = forecaster.forecast()
  const took = performance.now() - started
  if (!made) return
  const history = (await node.request({ method: 'eth_feeHistory', params: ['0x28', 'latest', []] })) as { baseFeePerGas: string[] }
  const seen = history.baseFeePerGas.map(Number)
  draw = () => drawFan(at<SVGElement>('fan'), seen, made, settings.blockTimeMs)
  draw()
  at('model').textContent = `${perGas(Number(made.nextBaseFee))} next`
  at('timing').textContent = `Block ${made.number.toLocaleString('en')}, ${Math.max(1, Math.round(took * 1_000)).toLocaleString('en')} µs.`
  const params = [{ to: settings.guestbook, data: encodeFunctionData({ abi: ABI, functionName: 'total' }) }, 'latest']
  const total = BigInt((await node.request({ method: 'eth_call', params })) as string)
  at('total').textContent = `${total} ${total === 1n ? 'entry' : 'entries'} in the book`
}

/** Again and again, whatever happens, while somebody looks. */
function repeat(act: () => Promise<void>, everyMs: number): void {
  const run = async () => {
    if (!document.hidden) await act().catch(() => undefined)
    setTimeout(() => void run(), everyMs)
  }
  void run()
}

/** What a visitor should know before trusting this page. */
function warn(): void {
  const notes = []
  if (linked.length > 0) notes.push(`The link to this page has chosen what it trusts (${linked.join(', ')}): believe it as far as you believe whoever made the link.`)
  if (settings.identity === undefined) notes.push('No identity of the relayer is known: its promises are not checked.')
  at('notice').textContent = notes.join(' ')
  at('notice').hidden = notes.length === 0
}

async function main(): Promise<void> {
  warn()
  const { relayer: url, identity } = settings
  slackwater = await Slackwater.open({ url, provider: node, ...(identity === undefined ? {} : { relayer: identity }) })
  at('book').textContent = short(settings.guestbook)
  await useWallet(burner(), 'Guest')
  const injected = (window as { ethereum?: Eip1193Provider }).ethereum
  const choose = at<HTMLButtonElement>('wallet')
  if (injected) {
    choose.onclick = () =>
      void useWallet(fromProvider(injected), 'Wallet').catch(complain)
    choose.hidden = false
  }
  at<HTMLFormElement>('form').onsubmit = (event) => void send(event)
  document.querySelectorAll('input[name=within]').forEach((input) => input.addEventListener('change', () => void quote()))
  at<HTMLButtonElement>('send').disabled = false
  show()
  for (const entry of entries) {
    if (!isOver(entry)) void (entry.events.length > 0 ? follow(entry) : deliver(entry))
    // A page that was closed in between has not seen its node's word about the end.
    else if (CLAIMS.includes(last(entry)?.status ?? '') && !isSettled(entry)) void check(entry)
  }
  at('message').oninput = count
  forecaster = new Forecaster({ blockTimeMs: settings.blockTimeMs })
  repeat(forecast, settings.blockTimeMs)
  repeat(quote, 4_000)
  repeat(chain, 4_000)
  window.addEventListener('resize', () => draw())
  window.addEventListener('online', () => void chain())
  window.addEventListener('offline', () => void chain())
}

void main().catch(complain)
