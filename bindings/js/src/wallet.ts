import type { ForwardTypedData, Hex } from '../wasm/slackwater.js'
import { SlackwaterError } from '../wasm/interop.js'
import { ask } from './provider.js'
import type { Eip1193Provider } from './provider.js'

/** What signs requests. Make one with {@link fromProvider}, {@link fromViem} or {@link fromEthers}, or write your own. */
export interface Wallet {
  address(): Promise<string>
  signTypedData(typedData: ForwardTypedData): Promise<string>
}

/** An injected wallet, or any other EIP-1193 provider with `eth_signTypedData_v4`. Asks for an account unless one is given. */
export function fromProvider(provider: Eip1193Provider, account?: string): Wallet {
  const address = async () => {
    if (account !== undefined) return account
    const accounts = await ask(provider, 'eth_requestAccounts')
    const first: unknown = Array.isArray(accounts) ? accounts[0] : undefined
    if (typeof first !== 'string') throw new SlackwaterError('no_account', 'the wallet gives no account')
    account = first
    return first
  }
  return {
    address,
    async signTypedData(typedData) {
      const params = [await address(), JSON.stringify(typedData)]
      return text(await ask(provider, 'eth_signTypedData_v4', params))
    },
  }
}

/** Typed data as viem's types have them. */
export interface ViemTypedData {
  domain: { name: string; version: string; chainId: bigint; verifyingContract: Hex }
  types: Record<string, { name: string; type: string }[]>
  primaryType: string
  message: Record<string, unknown>
}
/** viem's `LocalAccount`. */
export interface ViemAccount {
  address: string
  signTypedData(typedData: ViemTypedData): Promise<string>
}
/** viem's `WalletClient` with an account. */
export interface ViemClient {
  account?: { address: string } | undefined
  signTypedData(typedData: ViemTypedData & { account: never }): Promise<string>
}

/** viem's `LocalAccount`, or a `WalletClient` that has an account. */
export function fromViem(signer: ViemAccount | ViemClient): Wallet {
  const account = 'address' in signer ? undefined : signer.account
  const address = 'address' in signer ? signer.address : account?.address
  if (address === undefined) throw new SlackwaterError('no_account', 'the wallet client has no account')
  return {
    address: async () => address,
    signTypedData: async ({ domain, types: { ForwardRequest }, primaryType, message }) =>
      signer.signTypedData({
        account: account as never,
        domain: { ...domain, chainId: BigInt(domain.chainId) },
        types: { ForwardRequest },
        primaryType,
        // viem wants bigints, and numbers up to uint48.
        message: {
          ...message,
          value: BigInt(message.value),
          gas: BigInt(message.gas),
          nonce: BigInt(message.nonce),
          deadline: Number(message.deadline),
        },
      }),
  }
}

/** ethers' `Signer` (version 6). */
export interface EthersSigner {
  getAddress(): Promise<string>
  signTypedData(domain: object, types: Record<string, { name: string; type: string }[]>, value: Record<string, unknown>): Promise<string>
}

/** ethers' `Signer` (version 6). */
export function fromEthers(signer: EthersSigner): Wallet {
  return {
    address: () => signer.getAddress(),
    signTypedData: ({ domain, types: { ForwardRequest }, message }) => signer.signTypedData(domain, { ForwardRequest }, message),
  }
}

function text(value: unknown): string {
  if (typeof value !== 'string') throw new SlackwaterError('no_signature', 'the wallet gives no signature')
  return value
}
