/** `0x` and hex digits. */
export type Hex = `0x${string}`
/** A whole number: decimal digits, `0x` hex, a bigint, or a safe integer. */
export type Quantity = string | bigint | number

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

/** What EIP-1193 calls `RequestArguments`. */
export interface RpcRequest {
  method: string
  params: unknown[]
}
/** When a block counts as final. */
export type Finality =
  | { kind: 'depth'; blocks: number }
  | { kind: 'safe' }
  | { kind: 'finalized'; fallbackDepth?: number }
/** Where a request stands; a newer relayer may have more names. */
export type Status =
  | 'queued'
  | 'batched'
  | 'broadcast'
  | 'included'
  | 'finalized'
  | 'reverted'
  | 'rejected'
  | 'expired'
  | 'cancelled'
  | (string & {})
