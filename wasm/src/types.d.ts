/** `0x` and hex digits. */
export type Hex = `0x${string}`
/** A whole number: decimal digits, `0x` hex, a bigint, or a safe integer. */
export type Quantity = string | bigint | number

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
/** How a forecast came about. */
export interface Explanation {
  steps: number
  logPrice: number
  logPoint: number
  constant: number
  /** What each feature adds to the log fee, largest first. */
  contributions: { feature: string; value: number }[]
  /** Experts with weight and the log move each predicts, heaviest first. */
  experts: { name: string; weight: number; move: number }[]
}

/** The EIP-712 domain of an ERC-2771 forwarder. */
export interface ForwarderDomain {
  /** Always `"1"`. */
  version?: string
  /** The name given to the forwarder's constructor: read it with `eip712Domain()`. */
  name: string
  chainId: Quantity
  verifyingContract: string
}
/** What a user signs for a forwarder. */
export interface ForwardRequest {
  from: string
  to: string
  /** Wei, paid by the relayer. Default 0. */
  value?: Quantity
  /** Gas given to the target. */
  gas: Quantity
  /** The forwarder's `nonces(from)`. */
  nonce: Quantity
  /** Last block time at which it may run, Unix seconds. */
  deadline: Quantity
  /** Calldata. Default empty. */
  data?: string
}
/** A signed request. */
export interface SignedForwardRequest extends ForwardRequest {
  /** 65 bytes `r ‖ s ‖ v`. */
  signature: string
}
/** What `eth_signTypedData_v4` takes; numbers are decimal digits. */
export interface ForwardTypedData {
  domain: { name: string; version: string; chainId: number | string; verifyingContract: Hex }
  types: {
    EIP712Domain: { name: string; type: string }[]
    ForwardRequest: { name: string; type: string }[]
  }
  primaryType: 'ForwardRequest'
  message: { from: Hex; to: Hex; value: string; gas: string; nonce: string; deadline: string; data: Hex }
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

/** What a node's refusal means. */
export interface RpcErrorMeaning {
  /** Stable name, such as `nonce_too_low`. */
  class: string
  /** Whether the node may hold the transaction in spite of the error. */
  isAmbiguous: boolean
  /** Whether the same bytes can still succeed. */
  isRetryable: boolean
}
