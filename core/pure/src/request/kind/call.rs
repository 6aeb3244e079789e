//! `call`: a trusted backend's own call, sent from the relayer's account.

use alloy_primitives::{Address, Bytes, ChainId, U256, keccak256};
use alloy_sol_types::SolCall as _;
use serde::{Deserialize, Serialize};
use slackwater_contracts::multicall3;

use super::{
    form::{Bounds, Inner, Kind, KindName, narrow_gas},
    key::{Contracts, VehicleKey},
};
use crate::{
    chain::decimal,
    request::{RequestId, VerifyContext, VerifyError, params::VehicleParams},
    time::Timestamp,
};

/// Overhead of Multicall3 per call, gas: cold account access, value transfer, memory.
pub(super) const MULTICALL_OVERHEAD_GAS: u64 = 20_000;

/// ABI words around one member's calldata in Multicall3's.
const MULTICALL_ENVELOPE_BYTES: usize = 6 * 32;

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
    fn id(&self, tenant: &str, chain_id: ChainId) -> RequestId {
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

impl Kind for Call {
    const NAME: KindName = KindName::Call;

    fn inner(&self) -> Inner {
        Inner { target: self.to, value: self.value, gas: self.gas }
    }

    fn data(&self) -> Bytes {
        self.data.clone()
    }

    fn bounds(&self, _: &VerifyContext<'_>) -> Result<Bounds, VerifyError> {
        Ok(Bounds { gas: narrow_gas(self.gas)?, nonce: 0, from: Timestamp(0), until: Timestamp(u64::MAX) })
    }

    fn identify(&self, chain_id: ChainId, context: &VerifyContext<'_>) -> Option<RequestId> {
        Some(self.id(context.tenant, chain_id))
    }

    fn prove(&self, context: &VerifyContext<'_>) -> Result<RequestId, VerifyError> {
        Ok(self.id(context.tenant, context.chain_id))
    }

    fn body(&self) -> impl Serialize + '_ {
        Body { to: self.to, value: self.value, gas: self.gas, data: &self.data, any_sender: self.any_sender }
    }

    fn write_body(&self, bytes: &mut Vec<u8>) {
        bytes.push(1);
        bytes.extend_from_slice(self.to.as_slice());
        bytes.extend_from_slice(&self.value.to_be_bytes::<32>());
        bytes.extend_from_slice(&self.gas.to_be_bytes::<32>());
        bytes.push(u8::from(self.any_sender));
        bytes.extend_from_slice(&self.data);
    }

    fn strip(&mut self) {
        self.data = Bytes::new();
    }

    fn vehicle(&self, id: RequestId, contracts: Contracts) -> VehicleKey {
        if self.any_sender && contracts.multicall3 { VehicleKey::Multicall } else { VehicleKey::Single(id) }
    }

    fn overhead(&self, _: &VehicleParams) -> (u64, usize) {
        if self.any_sender { (MULTICALL_OVERHEAD_GAS, MULTICALL_ENVELOPE_BYTES) } else { (0, 0) }
    }

    fn salt(&mut self) -> Option<&mut String> {
        Some(&mut self.salt)
    }
}

/// Content as a client writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    to: Address,
    #[serde(with = "decimal")]
    value: U256,
    #[serde(with = "decimal")]
    gas: U256,
    data: &'a Bytes,
    any_sender: bool,
}

/// Calldata of the transaction that carries `members` through Multicall3, which calls one after the other.
pub(super) fn batch<'a>(members: impl Iterator<Item = &'a Call>) -> Vec<u8> {
    let calls = members
        .map(|call| multicall3::Call3Value {
            target: call.to,
            allowFailure: false,
            value: call.value,
            callData: call.data.clone(),
        })
        .collect();
    multicall3::aggregate3ValueCall { calls }.abi_encode()
}
