export { init } from './init.js'
export type { ModuleSource } from './init.js'
export { Slackwater } from './client.js'
export type { Ask, FollowOptions, Payment, SignedRequest, SlackwaterOptions, UnsignedRequest } from './client.js'
export type { Submission } from './outbox.js'
export { Forecaster } from './forecaster.js'
export type { LocalAsk, LocalQuote } from './forecaster.js'
export { httpProvider } from './provider.js'
export type { Eip1193Provider, RpcProvider } from './provider.js'
export { indexedDbStorage, memoryStorage } from './storage.js'
export type { OutboxStorage } from './storage.js'
export type { TransportOptions } from './transport.js'
export { fromEthers, fromProvider, fromViem } from './wallet.js'
export type { EthersSigner, ViemAccount, ViemClient, ViemTypedData, Wallet } from './wallet.js'
export { SlackwaterError } from '../wasm/interop.js'
export {
  checkedSignature,
  forwardDigest,
  forwardTypedData,
  maxBaseFeeAfter,
  merkleLeaf,
  nextBaseFee,
  recoverSigner,
  verifyMerkleProof,
  verifyPromise,
  version,
} from '../wasm/slackwater.js'
export type {
  Accepted,
  BaseFeeRule,
  BlockFees,
  Chain,
  ChainFees,
  Chains,
  Change,
  FeeHistory,
  FeePoint,
  Finality,
  Forecast,
  ForecasterOptions,
  ForwardRequest,
  ForwardTypedData,
  ForwarderDomain,
  Hex,
  HorizonForecast,
  InclusionPromise,
  OfferedFees,
  OutboxEntry,
  Outcome,
  Problem,
  Quantile,
  Quantity,
  Quote,
  RelayerForecast,
  RequestDetail,
  RequestEvent,
  RequestSummary,
  SignedForwardRequest,
  SignedPromise,
  Status,
  Verdict,
} from '../wasm/slackwater.js'
