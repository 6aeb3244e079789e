//! `call`: a trusted backend's own call, sent from the relayer's account.

use alloy_primitives::{Address, Bytes, ChainId, U256, keccak256};
use serde::{Deserialize, Serialize};

use super::RequestId;

/// A call that the relayer makes in its own name for a trusted tenant.
///
/// The target sees the lane's sender, or Multicall3 when `any_sender` allows sharing a transaction. There is no
/// on-chain replay protection: it executes once because its batch is bound to one nonce for ever (invariant I3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// The called contract or account.
    pub to: Address,
    /// Wei sent along, paid by the relayer.
    pub value: U256,
    /// Gas given to the call.
    pub gas: U256,
    /// Calldata.
    pub data: Bytes,
    /// True if the target ignores `msg.sender`, so that the call may share a transaction through Multicall3.
    pub any_sender: bool,
    /// Distinguishes two equal calls: the caller's idempotency key, or a random value made at the edge.
    pub salt: String,
}

impl Call {
    /// Identity over tenant, chain, salt and content.
    pub(super) fn id(&self, tenant: &str, chain_id: ChainId) -> RequestId {
        let mut bytes = Vec::with_capacity(256 + self.data.len());
        bytes.extend_from_slice(b"slackwater/call/v1\0");
        for text in [tenant, self.salt.as_str()] {
            // Length-prefixed, so that no two (tenant, salt) pairs run together.
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&chain_id.to_be_bytes());
        bytes.extend_from_slice(self.to.as_slice());
        bytes.extend_from_slice(&self.value.to_be_bytes::<32>());
        bytes.extend_from_slice(&self.gas.to_be_bytes::<32>());
        bytes.push(u8::from(self.any_sender));
        bytes.extend_from_slice(&self.data);
        RequestId(keccak256(bytes))
    }
}
