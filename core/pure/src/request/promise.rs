//! The inclusion promise, signed by the relayer on acceptance.

use alloy_primitives::{Address, B256, ChainId, keccak256};
use serde::{Deserialize, Serialize};

use super::{RequestId, SignatureError, recover};

const TYPE: &[u8] = b"InclusionPromise(bytes32 requestHash,uint256 chainId,uint64 deadline,address relayer)";
const DOMAIN_TYPE: &[u8] = b"EIP712Domain(string name,string version)";

/// The relayer's promise that a request is on chain by a deadline, or ends with a reason.
///
/// EIP-712, domain `{name: "Slackwater", version: "1"}`, type
/// `InclusionPromise(bytes32 requestHash,uint256 chainId,uint64 deadline,address relayer)`, signed by the relayer's
/// identity key (not by a lane's sender).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    /// The request's id.
    pub request_hash: RequestId,
    /// The chain it will be executed on.
    pub chain_id: ChainId,
    /// Promised time of inclusion, Unix seconds.
    pub deadline: u64,
    /// Address of the identity key.
    pub relayer: Address,
}

impl Promise {
    /// The digest that the identity key signs.
    pub fn digest(&self) -> B256 {
        let mut words = [0u8; 5 * 32];
        words[..32].copy_from_slice(keccak256(TYPE).as_slice());
        words[32..64].copy_from_slice(self.request_hash.0.as_slice());
        words[64 + 24..96].copy_from_slice(&self.chain_id.to_be_bytes());
        words[96 + 24..128].copy_from_slice(&self.deadline.to_be_bytes());
        words[128 + 12..].copy_from_slice(self.relayer.as_slice());
        typed_digest(&words)
    }

    /// True if `signature` (65 bytes) over this promise was made by [`Self::relayer`].
    ///
    /// # Errors
    /// [`SignatureError`] if the signature is malformed or no key can be recovered.
    pub fn is_signed_by_relayer(&self, signature: &[u8]) -> Result<bool, SignatureError> {
        Ok(recover(self.digest(), signature)? == self.relayer)
    }
}

/// EIP-712 digest of a struct, encoded as `words`, in our domain.
pub(super) fn typed_digest(words: &[u8]) -> B256 {
    let mut domain = [0u8; 96];
    domain[..32].copy_from_slice(keccak256(DOMAIN_TYPE).as_slice());
    domain[32..64].copy_from_slice(keccak256(b"Slackwater").as_slice());
    domain[64..].copy_from_slice(keccak256(b"1").as_slice());
    let mut bytes = [0u8; 66];
    bytes[0] = 0x19;
    bytes[1] = 0x01;
    bytes[2..34].copy_from_slice(keccak256(domain).as_slice());
    bytes[34..].copy_from_slice(keccak256(words).as_slice());
    keccak256(bytes)
}
