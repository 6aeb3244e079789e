/** What an EIP-1559 base fee follows from. */
export interface BlockFees {
  /** Base fee of the block, wei per gas. */
  baseFee: Quantity
  gasUsed: Quantity
  gasLimit: Quantity
  /** OP Stack from Jovian: the block's DA footprint. */
  blobGasUsed?: Quantity
}
/** Constants of a chain's base fee rule; Ethereum's where absent. */
export interface BaseFeeRule {
  /** Default 8. */
  denominator?: Quantity
  /** Gas limit over gas target, default 2. Not together with `targetBps`. */
  elasticity?: Quantity
  /** Gas target in basis points of the limit, for instance 6500 on Polygon. */
  targetBps?: number
  /** The fee never falls below this, wei per gas. Default 0. */
  minBaseFee?: Quantity
  /** Whether the larger of gas and DA footprint counts (OP Stack from Jovian). Default false. */
  countsDaFootprint?: boolean
}

/** Answer of `eth_feeHistory`, as the node gives it. Ask with the percentiles 20, 50 and 90. */
export interface FeeHistory {
  oldestBlock: Hex
  baseFeePerGas: Hex[]
  gasUsedRatio?: (number | null)[]
  reward?: Hex[][] | null
}
/** One block, for chains whose headers are at hand. */
export interface FeePoint {
  number: Quantity
  /** Unix seconds. */
  timestamp?: Quantity
  /** Base fee of this block, wei per gas. */
  baseFee: Quantity
  gasUsed?: Quantity
  gasLimit?: Quantity
  /** Base fee of the next block where it is determined, wei per gas. */
  nextBaseFee?: Quantity
}
/** What a forecaster is told. */
export interface ForecasterOptions {
  /** Blocks ahead; default 1, 2, 5, 10, 25, 50 and 150. */
  horizons?: number[]
  /** Time between blocks, default 12 000. */
  blockTimeMs?: number
  /** Models to start with: the content of `prior.json`. */
  prior?: string
  /** Seed of what chance there is in fitting trees. Default 0. */
  seed?: number
  /** The chain's rule; recognised from the blocks where absent. */
  rule?: BaseFeeRule
  /** Blocks that a refit learns from, default 2 000. */
  window?: number
  /** Blocks between two refits, default 1 000. */
  refitEvery?: number
  /** Trees per horizon in a refit, default 24; 0 for none. */
  trees?: number
}
/** A point of the fan: the base fee is at most `fee` with probability `p`. */
export interface Quantile {
  p: number
  /** Wei per gas, decimal digits. */
  fee: string
}
/** The base fee some blocks ahead, wei per gas as decimal digits. */
export interface HorizonForecast {
  steps: number
  /** Best single guess. */
  point: string
  q10: string
  q50: string
  q90: string
  /** Natural logarithm of `point` before rounding. */
  logPoint: number
  /** The fan, ascending in `p`. */
  quantiles: Quantile[]
}
/** What the fees will be. */
export interface Forecast {
  /** The block after which it was made. */
  number: number
  /** Base fee of the next block, wei per gas. */
  nextBaseFee: string
  /** Whether the protocol fixes `nextBaseFee`. */
  nextIsExact: boolean
  /** Content hash of the models in force. */
  model: Hex
  horizons: HorizonForecast[]
}

/** The relayer's word. */
export interface InclusionPromise {
  /** The request's id. */
  requestHash: string
  chainId: Quantity
  /** Unix seconds. */
  deadline: Quantity
  /** Address of the relayer's identity key. */
  relayer: string
}

/** A call to send: `path` goes behind the relayer's base URL. Credentials are the sender's business. */
export interface HttpCall {
  method: 'GET' | 'POST' | 'DELETE'
  path: string
  headers: [string, string][]
  body?: string
}
/** What an exchange wants done; `wait` is an instant, Unix ms. */
export type ExchangeStep = { send: HttpCall } | { wait: number }
/** What a follower wants done; `wait` is an instant, Unix ms. */
export type FollowStep = { open: HttpCall } | { look: HttpCall } | { wait: number } | 'read' | 'done'
/** What an outbox found in storage and left there: keys of records that can't be read, and addresses of other relayers. */
export interface OutboxLoad {
  damaged: string[]
  foreign: string[]
}
/** What an outbox wants done. */
export type OutboxCommand =
  | { store: { key: string; revision: number; record: string } }
  | { remove: { key: string } }
  | { send: { id: number; http: HttpCall } }
  | { report: { key: string; outcome: Outcome } }

/** A step of a request. */
export interface Change {
  from?: Status
  event: RequestEvent
  /** It went back, such as from `included` to `broadcast` in a reorganisation. */
  isFallback: boolean
}
/** What became of a submission. */
export type Outcome =
  | { kind: 'accepted'; accepted: Accepted }
  | {
      kind: 'refused'
      code: string
      problem?: Problem
      /** An attempt may have been accepted, and it could not be looked up; or another tenant's was (`already_submitted`). */
      mayBeAccepted: boolean
    }
  | { kind: 'expired'; mayBeAccepted: boolean }
/** A submission that has not been acknowledged yet. */
export interface OutboxEntry {
  key: string
  state: 'storing' | 'waiting' | 'calling' | 'ending' | 'ended'
  /** Since the page was loaded. */
  attempts: number
  lastErrorCode: string | null
  /** When it is given up, Unix ms. */
  expiresAt: number
  mayBeAccepted: boolean
  /** Whose request it is, and the nonce that it holds at the forwarder. */
  place?: { user: { chainId: number; forwarder: Hex; from: Hex }; nonce: string }
}

/** What the user's node says about the relayer's claim. */
export type Verdict =
  | {
      kind: 'confirmed'
      isFinal: boolean
      isSuccess: boolean
      blockNumber: number
      blockHash: Hex
      /** `content`: the transaction ran this very request. `nonce`: only signer and nonce bind it. */
      binding: 'content' | 'nonce'
    }
  | { kind: 'pending' }
  | { kind: 'mismatch'; detail: string }
  /** The target does not trust the forwarder: whatever that says, nothing happened there in the user's name. */
  | { kind: 'untrusted_forwarder'; detail: string }
  /** The forwarder's code is no known one, and it is not pinned: it may say that it ran what it did not run. */
  | { kind: 'unknown_forwarder'; detail: string }
  | { kind: 'unknown'; detail: string }
