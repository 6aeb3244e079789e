//! Vehicles: the kinds of transaction that carry requests, their content and their gas.

use std::sync::Arc;

use alloy_primitives::{Address, Bytes, Log, U256};

pub use super::params::BATCH_MARGIN_GAS;
use super::{VerifiedRequest, kind::MOST_ENVELOPE_BYTES, outcome::MemberOutcome};
pub use super::{
    kind::{Contracts, VehicleKey},
    params::VehicleParams,
};
use crate::{chain::data_fee::TxSize, protection::Protection};

/// Rule for sharing a transaction. The trust check of an `executeBatch` may use all remaining gas, at any member's
/// position, and a target can behave otherwise on chain than in every simulation: so sharing depends on whose money is
/// at risk. Requests of different tenants never share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Company {
    /// Shares with all of its tenant's requests whose targets the tenant's policy names; while its target is suspect,
    /// only with the same signer's.
    Named,
    /// Shares only with the same signer's requests, or with the same target's as far as that target's record allows.
    Unnamed,
}

/// Content of a transaction, without its fees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Recipient.
    pub to: Address,
    /// Value in wei: the sum of the members'.
    pub value: U256,
    /// Calldata.
    pub data: Bytes,
    /// Gas limit: enough for every member's full gas, at any position.
    pub gas_limit: u64,
}

impl VehicleParams {
    /// Contracts for shared transactions that this chain has.
    pub const fn contracts(&self) -> Contracts {
        Contracts { multicall3: self.multicall3.is_some(), capped_calls: self.has_capped_calls }
    }

    /// Vehicle of `request` on this chain.
    pub fn vehicle(&self, request: &VerifiedRequest) -> VehicleKey {
        VehicleKey::of(request, self.contracts())
    }

    /// Upper bound of the gas that `request` adds to a transaction, calldata included. The composer sums it up.
    pub fn member_gas(&self, request: &VerifiedRequest) -> u64 {
        let data = request.data().len();
        let (overhead, envelope) = request.kind().overhead(self);
        let bytes = (data.div_ceil(32) * 32 + envelope) as u64;
        let calldata = bytes.saturating_mul(self.schedule.nonzero_byte_gas);
        let execution =
            request.gas().saturating_add(request.gas() / 63 + 1).saturating_add(overhead).saturating_add(calldata);
        // The floor of EIP-7623 applies instead of all that, for the transaction as a whole. A sum of the larger of
        // both is never below the larger of both sums, whatever the other members are.
        let floor = bytes
            .saturating_mul(self.schedule.tokens_per_nonzero_byte)
            .saturating_mul(self.schedule.floor_gas_per_token.unwrap_or(0));
        execution.max(floor)
    }

    /// Gas that `request` may use among `count` members beside what it used when it was simulated in a transaction of its own.
    pub fn company_gas(&self, key: VehicleKey, request: &VerifiedRequest, count: usize) -> u64 {
        key.company_gas(self, count, request.data().len() as u64)
    }

    /// Upper bound of the gas of a member that the forwarder skips: all but the call to its target.
    pub fn skip_gas(&self, request: &VerifiedRequest) -> u64 {
        self.member_gas(request).saturating_sub(request.gas().saturating_add(request.gas() / 63))
    }

    /// Bytes that `request` adds to a transaction.
    pub fn member_bytes(&self, request: &VerifiedRequest) -> usize {
        request.data().len().div_ceil(32) * 32 + MOST_ENVELOPE_BYTES
    }

    /// Sizes of the transaction that carries only `member`: members share a data fee by its compressed length.
    pub fn size_alone(&self, key: VehicleKey, member: &Arc<VerifiedRequest>) -> TxSize {
        TxSize::of_unsigned(&self.payload(key, std::slice::from_ref(member)).data)
    }

    /// The transaction that carries `members`, which must all have the key `key` and be in execution order.
    pub fn payload(&self, key: VehicleKey, members: &[Arc<VerifiedRequest>]) -> Payload {
        let value = members.iter().fold(U256::ZERO, |sum, member| sum.saturating_add(member.value()));
        let (to, data) = key.content(self, members);
        let gas_limit = self.gas_limit(key, members, &data);
        Payload { to, value, data: data.into(), gas_limit }
    }

    /// `intrinsic + Σ (overhead + gas) + ⌈max gas / 63⌉ + margin`, and never below the calldata floor. Through `CappedCalls`
    /// instead `intrinsic + Σ (gas + ⌊gas / 63⌋ + bytes + overhead) + base`.
    ///
    /// The forwarder burns everything if less than `gas / 63` is left after a call (OpenZeppelin `_checkForwardedGas`),
    /// so every member's gas is reserved in full even if its call uses less.
    fn gas_limit(&self, key: VehicleKey, members: &[Arc<VerifiedRequest>], data: &[u8]) -> u64 {
        let execution = self.schedule.intrinsic_gas(data).saturating_add(key.execution_gas(self, members));
        execution.max(self.schedule.floor_gas(data))
    }
}

/// Outcomes of `members`, in order, of a transaction with key `key` that ended with `is_success` and `logs`.
pub fn decode(key: VehicleKey, members: &[Arc<VerifiedRequest>], is_success: bool, logs: &[Log]) -> Vec<MemberOutcome> {
    if !Protection::OutcomeByEvent.is_on() {
        return vec![MemberOutcome::Executed; members.len()];
    }
    key.outcomes(members, is_success, logs)
}
