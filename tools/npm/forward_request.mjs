// Signing of ERC-2771 forward requests with the reference wallets. Shared by the other scripts.

import { TypedDataEncoder, Wallet, version as ethersVersion } from 'ethers'
import { createRequire } from 'node:module'
import { hashTypedData, recoverTypedDataAddress } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

const viemVersion = createRequire(import.meta.url)('viem/package.json').version

/** The signed struct of OpenZeppelin's `ERC2771Forwarder`. */
export const types = {
  ForwardRequest: [
    { name: 'from', type: 'address' },
    { name: 'to', type: 'address' },
    { name: 'value', type: 'uint256' },
    { name: 'gas', type: 'uint256' },
    { name: 'nonce', type: 'uint256' },
    { name: 'deadline', type: 'uint48' },
    { name: 'data', type: 'bytes' },
  ],
}

/** The library and version behind each wallet name. */
export const sources = { viem: `viem ${viemVersion}`, ethers: `ethers ${ethersVersion}` }

/**
 * Signs one request. Numbers may be decimal strings, which is how JSON carries them.
 * Returns the EIP-712 digest, the 65-byte signature and the signer's address.
 */
export async function signForwardRequest({ wallet, privateKey, domain, message }) {
  const exactDomain = { ...domain, chainId: BigInt(domain.chainId) }
  const exactMessage = { ...message }
  for (const field of ['value', 'gas', 'nonce', 'deadline']) exactMessage[field] = BigInt(message[field])
  switch (wallet) {
    case 'viem': {
      const account = privateKeyToAccount(privateKey)
      // viem reads a uint48 as a number, and every uint48 is a safe one.
      const typedData = {
        domain: exactDomain,
        types,
        primaryType: 'ForwardRequest',
        message: { ...exactMessage, deadline: Number(exactMessage.deadline) },
      }
      const digest = hashTypedData(typedData)
      const signature = await account.signTypedData(typedData)
      const recovered = await recoverTypedDataAddress({ ...typedData, signature })
      if (recovered !== account.address) throw new Error(`signature recovers to ${recovered}, not ${account.address}`)
      return { digest, signature, signer: account.address }
    }
    case 'ethers': {
      const account = new Wallet(privateKey)
      const digest = TypedDataEncoder.hash(exactDomain, types, exactMessage)
      const signature = await account.signTypedData(exactDomain, types, exactMessage)
      return { digest, signature, signer: account.address }
    }
    default:
      throw new Error(`wallet is ${JSON.stringify(wallet)}, expected "viem" or "ethers"`)
  }
}
