//! A withdrawal: signed by a user to take back a request that has not been sent.

use alloy_primitives::{Address, B256, ChainId, keccak256};
use serde::{Deserialize, Serialize};

use super::{RequestId, SignatureError, promise::typed_digest, recover};

const TYPE: &[u8] = b"Withdrawal(bytes32 requestHash,uint256 chainId)";

/// A user's instruction not to execute one of their requests.
///
/// EIP-712, domain `{name: "Slackwater", version: "1"}`, type `Withdrawal(bytes32 requestHash,uint256 chainId)`, signed by
/// the account that signed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// The request's id.
    pub request_hash: RequestId,
    /// EIP-155 id of its chain.
    pub chain_id: ChainId,
}

impl Withdrawal {
    /// The digest that the user signs.
    pub fn digest(&self) -> B256 {
        let mut words = [0u8; 3 * 32];
        words[..32].copy_from_slice(keccak256(TYPE).as_slice());
        words[32..64].copy_from_slice(self.request_hash.0.as_slice());
        words[64 + 24..].copy_from_slice(&self.chain_id.to_be_bytes());
        typed_digest(&words)
    }

    /// True if `signature` (65 bytes) over this withdrawal was made by `user`.
    ///
    /// # Errors
    /// [`SignatureError`] if the signature is malformed or no key can be recovered.
    pub fn is_signed_by(&self, user: Address, signature: &[u8]) -> Result<bool, SignatureError> {
        Ok(recover(self.digest(), signature)? == user)
    }
}
