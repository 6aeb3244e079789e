import { Forecaster as Machine } from '../wasm/slackwater.js'
import type { FeeHistory, ForecasterOptions, Quantity } from '../wasm/slackwater.js'
import { SlackwaterError } from '../wasm/interop.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'

/** Most blocks of one `eth_feeHistory`: what geth and its kin allow. */
const MAX_BLOCKS = 1_024
/** Blocks that are asked for once the history is known: enough for a reorganisation and some missed rounds. */
const RECENT_BLOCKS = 32
/** What a patient, a usual and a hurried sender paid. */
const PERCENTILES = [20, 50, 90]

/** Blocks whose tips are looked at. */
const TIP_BLOCKS = 20

/** What is to be priced. */
export interface LocalAsk {
  /** Gas of the transaction. */
  gas: Quantity
  /** How long it may wait, ms. Default 0: the next block. */
  withinMs?: number
  /** Probability with which `maxFeeWeiPerGas` holds at the end of the wait. Default 0.95. */
  p?: number
  /** Tip, wei per gas. Default: the median of what usual senders paid in recent blocks, by `eth_feeHistory`. */
  priorityFee?: Quantity
}
/**
 * What gas costs, by this forecaster alone. Amounts are wei in decimal digits. A rollup's fee for its L1 data is not in it,
 * nor is what a relayer's batch saves or adds.
 */
export interface LocalQuote {
  gas: string
  priorityFeeWeiPerGas: string
  /** In the next block. */
  nowWei: string
  /** At the end of the wait, as expected. */
  expectedWei: string
  /** At the end of the wait, with probability `p` not more. */
  maxWei: string
  /** The fee cap to that: the base fee's quantile and the tip. */
  maxFeeWeiPerGas: string
  p: number
  /** Blocks ahead that the forecast is for: the first horizon that is not before the end of the wait, or the last one. */
  steps: number
}

function whole(value: Quantity): bigint {
  try {
    const number = value === '' ? -1n : BigInt(value)
    if (number >= 0n) return number
  } catch {
    // Said below.
  }
  throw new SlackwaterError('invalid_argument', `${value} is no whole number`)
}

/** Forecasts a chain's base fee from what a node says about recent blocks. Call {@link init} first. */
export class Forecaster extends Machine {
  #head = -1
  #tips: bigint[] = []
  readonly #blockTimeMs: number

  constructor(options?: ForecasterOptions) {
    super(options)
    this.#blockTimeMs = options?.blockTimeMs ?? 12_000
  }

  override observeHistory(history: FeeHistory): number {
    const news = super.observeHistory(history)
    const rewards = Array.isArray(history.reward) ? history.reward.slice(-TIP_BLOCKS) : []
    const tips = rewards.flatMap((block) => {
      try {
        return [whole(block[block.length >> 1] ?? '')]
      } catch {
        return []
      }
    })
    if (tips.length) this.#tips = tips.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
    return news
  }

  /** Prices gas without a relayer: now, and at the end of a wait. `not_ready` before the first block. */
  quote({ gas, withinMs = 0, p = 0.95, priorityFee }: LocalAsk): LocalQuote {
    const made = this.forecast()
    const horizons = made?.horizons.sort((a, b) => a.steps - b.steps)
    const horizon = horizons?.find(({ steps }) => steps * this.#blockTimeMs >= withinMs) ?? horizons?.at(-1)
    if (!made || !horizon) throw new SlackwaterError('not_ready', 'no block has been seen')
    const { steps, point } = horizon
    const [amount, tip] = [whole(gas), whole(priorityFee ?? this.#tips[this.#tips.length >> 1] ?? 0)]
    const cap = BigInt(this.quantile(steps, p)) + tip
    const cost = (perGas: bigint) => String(amount * perGas)
    return {
      gas: String(amount),
      priorityFeeWeiPerGas: String(tip),
      nowWei: cost(BigInt(made.nextBaseFee) + tip),
      expectedWei: cost(BigInt(point) + tip),
      maxWei: cost(cap),
      maxFeeWeiPerGas: String(cap),
      p,
      steps,
    }
  }

  /** Asks a node for the blocks that are new. Returns how many there were. */
  async update(provider: Eip1193Provider): Promise<number> {
    const history = async (blocks: number) => {
      const params = [`0x${blocks.toString(16)}`, 'latest', PERCENTILES]
      return (await ask(provider, 'eth_feeHistory', params)) as FeeHistory
    }
    const head = Number(await ask(provider, 'eth_blockNumber'))
    const missed = this.#head < 0 ? MAX_BLOCKS : head - this.#head + RECENT_BLOCKS
    let blocks = Math.max(1, Math.min(missed, MAX_BLOCKS))
    for (;;) {
      try {
        const news = this.observeHistory(await history(blocks))
        this.#head = head
        return news
      } catch (error) {
        // Some nodes allow less than they should.
        if (blocks <= RECENT_BLOCKS) throw error
        blocks >>= 2
      }
    }
  }
}
