/** The chain, and how the page relays on it. What is not given has a default that fits the block time. */
export interface PageChain {
  chainId: Quantity
  /** Usual time between blocks, ms. */
  blockTimeMs: number
  /** When a block counts as final. Default: the node's `finalized` tag, or 64 blocks where it has none. */
  finality?: Finality
  /** `bump`: a pending transaction is replaced by a dearer one (default). `none`: the chain has no pool, or no such rule. */
  replacement?: 'bump' | 'none'
  /** Where an L1 data fee is charged: the contract that tells it, such as OP Stack's `0x420000000000000000000000000000000000000F`. */
  l1FeeOracle?: string
  /** `percentile` waits for a low price while there is time (default); `immediate` does not. */
  timing?: 'immediate' | 'percentile'
  /** No transaction offers more, wei per gas. Default 1 000 gwei. */
  maxFeePerGas?: Quantity
  /** Least tip, wei per gas. Default 1. */
  minPriorityFeePerGas?: Quantity
  /** Gas of a transfer to oneself, for cancels. Default 21 000. */
  cancelGas?: number
  /** How often the head is looked at while something is under way, ms. Default: half a block, 500 to 4 000. */
  pollIntervalMs?: number
  /** Longest wait for an answer, ms. Default 15 000. */
  rpcTimeoutMs?: number
  /** Most requests in one transaction. Default 20. */
  maxBatch?: number
  /** Longest wait for company, ms. Default: a block, 50 to 2 000. */
  lingerMs?: number
  /** Blocks without inclusion after which a transaction is replaced. Default 3. */
  bumpAfterBlocks?: number
  /** Longest slack that is accepted, ms. Default a day. */
  maxWithinMs?: number
  /** Most requests that have not ended. Default 1 000. */
  maxOpen?: number
  /** How long ended requests are remembered unless they are acknowledged, ms. Default a day. */
  keepEndedMs?: number
  /** Serve forwarders whose code is none of OpenZeppelin's. Default no. */
  allowUnknownForwarder?: boolean
}
/** A call of the session key itself: the target sees the session key's address. */
export interface PageCall {
  to: string
  /** Wei sent along. Default 0. */
  value?: Quantity
  /** Gas given to the call. */
  gas: Quantity
  data?: string
  /** Tells two equal calls apart. */
  salt: string
}
/** What a request may take. */
export interface PageLimits {
  /** How long it may take, ms; default ten minutes. */
  withinMs?: number | undefined
  /** The most that it may cost the session key, wei. */
  maxCost?: Quantity | undefined
  /** How many requests are known not to have ended. */
  open: number
}
/** What a withdrawal depends on. */
export interface PageWithdrawAsk {
  balance: Quantity
  /** What stays behind, wei. Default: enough for the L1 data fee, where there is one. */
  leave?: Quantity | undefined
  /** Of the newest block, wei per gas. Default 0. */
  baseFee?: Quantity | undefined
  /** The node's suggestion, wei per gas. Default 1 gwei. */
  tip?: Quantity | undefined
  /** How many requests are known not to have ended. */
  open: number
}
/** A call that withdraws. */
export interface PageWithdrawal {
  value: string
  gas: number
  maxCost: string
}
/** A request that was checked: store it, then take it. */
export interface Admitted {
  id: Hex
  key: string
  record: string
}
/** A request of this page, or of another one on the same storage. */
export interface PageRequest {
  id: Hex
  kind: 'forward' | 'call'
  /** A forward's place in its user's sequence. */
  place?: { forwarder: Hex; from: Hex; nonce: string }
  status: Status
  /** Why it ended otherwise than `finalized`; a stable code. */
  reason?: string
  detail?: string
  txHash?: Hex
  blockNumber?: number
  /** Its share of what the transaction cost, value included, once it has ended. Wei. */
  costWei?: string
  acceptedAt: number
  deadlineAt: number
}
/** The session key's account. */
export interface PageAccount {
  address: Hex
  /** When it was last read, wei. */
  balanceWei?: string
  /** Transactions outside blocks. */
  inFlight: number
  /** Transactions in blocks that are not final. */
  unfinal: number
  /** Requests in no transaction. */
  waiting: number
  /** It waits for a top-up. */
  isUnderfunded: boolean
}
/** What was found in storage. */
export interface PageReport {
  open: number
  ended: number
  damaged: string[]
}
/** What the machine wants done. */
export type PageCommand =
  | { store: { key: string; revision: number; record: string } }
  | { remove: { key: string } }
  | { call: { id: number; method: string; params: unknown[] } }
  | { changed: { id: Hex } }
  | { alert: { code: string; detail: string } }
