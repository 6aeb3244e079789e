export { init } from './page-init.js'
export type { ModuleSource } from './module.js'
export { PageRelay } from './page-relay.js'
export type {
  PageAlert,
  PageAsk,
  PageCallAsk,
  PageFollowOptions,
  PageOptions,
  PageSigned,
  PageUnsigned,
} from './page-relay.js'
export { forgetSessionKey, sessionKey } from './session.js'
export { httpProvider } from './provider.js'
export type { Eip1193Provider, RpcProvider } from './provider.js'
export { indexedDbStorage, memoryStorage } from './storage.js'
export type { OutboxStorage } from './storage.js'
export { fromEthers, fromProvider, fromViem } from './wallet.js'
export type { EthersSigner, ViemAccount, ViemClient, ViemTypedData, Wallet } from './wallet.js'
export { SlackwaterError } from '../wasm/interop.js'
export type {
  Finality,
  ForwardRequest,
  ForwardTypedData,
  ForwarderDomain,
  Hex,
  PageAccount,
  PageChain,
  PageRequest,
  Quantity,
  Status,
} from '../wasm/page.js'
