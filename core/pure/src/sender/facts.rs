//! Facts about a chain that do not change while its sender runs.

use std::{sync::Arc, time::Duration};

use alloy_primitives::Address;

use super::flight::MemberSize;
use crate::{
    chain::ChainSpec,
    ordered::{Map, Set},
    request::{
        ForwarderDomain, Token, VerifiedRequest,
        vehicle::{VehicleKey, VehicleParams},
    },
    sender::tuning::ChainTuning,
};

/// Facts about a chain that do not change while its sender runs.
#[derive(Debug)]
pub struct ChainFacts {
    /// The chain.
    pub spec: ChainSpec,
    /// Limits and pace.
    pub tuning: ChainTuning,
    /// Signing domains of the forwarders.
    pub forwarders: Map<Address, ForwarderDomain>,
    /// Tokens whose payments are made.
    pub tokens: Map<Address, Token>,
    /// Forwarders with a known storage layout.
    pub known_forwarders: Set<Address>,
    /// Gas and size arithmetic; its sender is the first lane's, which changes neither.
    pub params: VehicleParams,
    /// Time to inclusion of a request without a deadline of its own, and again after a missed promise.
    pub default_within: Duration,
}

impl ChainFacts {
    /// EIP-155 chain id.
    pub const fn chain_id(&self) -> u64 {
        self.spec.chain_id
    }

    /// Address of Multicall3; `None` where it is not deployed.
    pub const fn multicall3(&self) -> Option<Address> {
        self.params.multicall3
    }

    /// Gas reserved for a request: its own transaction, and a cancel of that.
    pub fn reserved_gas(&self, member_gas: u64) -> u64 {
        self.params.reserved_gas(member_gas)
    }

    /// Room for calldata in a transaction, bytes: the node's limit without envelope and signature.
    pub fn max_payload_bytes(&self) -> usize {
        usize::try_from(self.spec.max_tx_bytes).unwrap_or(usize::MAX).saturating_sub(1_024)
    }

    /// Size of a member whose bytes are in memory.
    pub fn size_of(&self, key: VehicleKey, member: &Arc<VerifiedRequest>, is_data_charged: bool) -> MemberSize {
        let data_bytes = if is_data_charged { self.params.size_alone(key, member).flz } else { 1 };
        MemberSize { skip_gas: self.params.skip_gas(member), data_bytes }
    }
}
