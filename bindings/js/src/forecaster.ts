import { Forecaster as Machine } from '../wasm/slackwater.js'
import type { FeeHistory } from '../wasm/slackwater.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'

/** Most blocks of one `eth_feeHistory`: what geth and its kin allow. */
const MAX_BLOCKS = 1_024
/** Blocks that are asked for once the history is known: enough for a reorganisation and some missed rounds. */
const RECENT_BLOCKS = 32
/** What a patient, a usual and a hurried sender paid. */
const PERCENTILES = [20, 50, 90]

/** Forecasts a chain's base fee from what a node says about recent blocks. Call {@link init} first. */
export class Forecaster extends Machine {
  #head = -1

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
