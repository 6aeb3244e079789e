//! The transactions that carry requests: which of them, and what is in each.

use std::sync::Arc;

use alloy_primitives::{Address, Log};
use serde_json::Value;
use slackwater_contracts::capped_calls;

use super::{
    RequestKind, authorization, call, forward,
    key::{Contracts, VehicleKey},
};
use crate::request::trace::{Part, TracedCall};
use crate::{
    request::{
        VerifiedRequest,
        outcome::MemberOutcome,
        params::{BATCH_MARGIN_GAS, VehicleParams},
    },
    table::Table,
};

/// False in a module for browsers, which has no tokens and so never more than one payment: the code is left out.
const IS_SHARED: bool = cfg!(not(target_arch = "wasm32"));

impl VehicleKey {
    /// Vehicle of `request`. It shares a transaction only through a contract whose code was seen (`contracts`): a
    /// transaction to an address without code succeeds and does nothing, and the value is lost.
    pub fn of(request: &VerifiedRequest, contracts: Contracts) -> Self {
        request.kind().vehicle(request.id(), contracts)
    }

    /// Vehicle of the transaction that carries `members`.
    pub fn of_members(members: &[Arc<VerifiedRequest>], contracts: Contracts) -> Self {
        members.first().map_or(Self::ALONE, |first| Self::of(first, contracts))
    }

    /// Gas that the contract needs per member.
    const fn overhead_gas(self, params: &VehicleParams) -> u64 {
        match self {
            Self::Forwarder(_) => params.forward_overhead_gas,
            Self::Multicall => call::MULTICALL_OVERHEAD_GAS,
            Self::Single(_) | Self::Payment(_) | Self::Payments => 0,
        }
    }

    /// Gas beside the intrinsic one that gives every member its own, at any position.
    pub(in crate::request) fn execution_gas(self, params: &VehicleParams, members: &[Arc<VerifiedRequest>]) -> u64 {
        if IS_SHARED && self.caps_members() && members.len() > 1 {
            return capped_calls::gas_limit(members.iter().map(|member| (member.gas(), member.data().len() as u64)));
        }
        let overhead = self.overhead_gas(params);
        let inner = members.iter().fold(0u64, |sum, member| sum.saturating_add(member.gas()).saturating_add(overhead));
        if self.caps_members() {
            // As much as in company: what runs out of gas there must do so in simulation.
            return inner;
        }
        let reserve = members.iter().map(|member| member.gas()).max().unwrap_or(0).div_ceil(63);
        let margin = if self.is_lone() { 0 } else { BATCH_MARGIN_GAS };
        inner.saturating_add(reserve).saturating_add(margin)
    }

    /// Gas that a member with this many bytes of data may use among `count` beside what it uses in a transaction of its own:
    /// one payment alone does without the contract.
    pub(in crate::request) const fn company_gas(self, params: &VehicleParams, count: usize, bytes: u64) -> u64 {
        if !IS_SHARED || !self.caps_members() || count < 2 {
            return 0;
        }
        let envelope = params.schedule.nonzero_byte_gas.saturating_mul(authorization::CALL_ENVELOPE_BYTES as u64);
        capped_calls::USED_PER_CALL_GAS.saturating_add(bytes).saturating_add(envelope)
    }

    /// Recipient and calldata of the transaction that carries `members`.
    pub(in crate::request) fn content(
        self,
        params: &VehicleParams,
        members: &[Arc<VerifiedRequest>],
    ) -> (Address, Vec<u8>) {
        debug_assert!(members.iter().all(|member| !member.is_outline()), "their bytes are not here");
        let kinds = members.iter().map(|member| member.kind());
        match self {
            Self::Forwarder(forwarder) => {
                (forwarder, forward::batch(kinds.filter_map(RequestKind::as_forward), params.sender))
            }
            Self::Multicall => {
                let Some(multicall3) = params.multicall3 else { unreachable!("chosen only where its code was seen") };
                (multicall3, call::batch(kinds.filter_map(RequestKind::as_call)))
            }
            Self::Payments if IS_SHARED && members.len() > 1 => {
                let calls = members.iter().map(|member| (member.target(), member.gas(), member.data()));
                (capped_calls::ADDRESS, authorization::batch(calls))
            }
            Self::Single(_) | Self::Payment(_) | Self::Payments => match members.first() {
                Some(member) => (member.target(), member.data().to_vec()),
                None => (params.sender, Vec::new()),
            },
        }
    }

    /// Caller and calldata that `member`'s target sees, in a transaction from `sender`.
    pub(in crate::request) fn seen_by_target(
        self,
        sender: Address,
        params: &VehicleParams,
        member: &VerifiedRequest,
    ) -> (Address, Vec<u8>) {
        match self {
            Self::Forwarder(forwarder) => {
                let user = member.sequence().map_or(Address::ZERO, |(_, user, _)| user);
                (forwarder, [&member.data()[..], user.as_slice()].concat())
            }
            Self::Multicall => (params.multicall3.unwrap_or(sender), member.data().to_vec()),
            Self::Single(_) | Self::Payment(_) | Self::Payments => (sender, member.data().to_vec()),
        }
    }

    /// State override under which the users' next nonces are those of `ahead`; `None` if there is nothing to assume.
    pub(in crate::request) fn assumed(self, ahead: &Table<(Address, Address), u64>) -> Option<(Address, Value)> {
        let contract = self.nonce_contract().filter(|_| !ahead.is_empty())?;
        Some((contract, forward::assumed_nonces(ahead)))
    }

    /// Outcomes of `members`, in order, of a transaction that ended with `is_success` and `logs`.
    pub(in crate::request) fn outcomes(
        self,
        members: &[Arc<VerifiedRequest>],
        is_success: bool,
        logs: &[Log],
    ) -> Vec<MemberOutcome> {
        match self {
            // It carried only this call: its status is the call's outcome.
            Self::Single(_) if !is_success => vec![MemberOutcome::Failed; members.len()],
            _ if !is_success => vec![MemberOutcome::Untouched; members.len()],
            Self::Multicall | Self::Single(_) => vec![MemberOutcome::Executed; members.len()],
            Self::Forwarder(forwarder) => {
                forward::outcomes(forwarder, members.iter().map(|member| member.sequence()), logs)
            }
            Self::Payment(_) | Self::Payments => {
                let payments: Vec<_> = members.iter().map(|member| member.payment()).collect();
                authorization::outcomes(&payments, logs)
            }
        }
    }

    /// Part that the nested call `call` is; `None` if it is no member's. `is_to_current`: it goes to the target of the
    /// member that began last.
    pub(in crate::request) fn part(self, call: &TracedCall, is_to_current: bool) -> Option<Part> {
        match self {
            Self::Forwarder(_) => forward::part(call, is_to_current),
            Self::Multicall | Self::Payments => call.executes().then_some(Part::First),
            Self::Single(_) | Self::Payment(_) => None,
        }
    }
}

/// Calldata of the question whether its forwarder would execute `member` now; `None` for another kind.
pub fn verify_input(member: &VerifiedRequest) -> Option<Vec<u8>> {
    member.kind().as_forward().map(forward::verify_input)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{U64, hex};
    use alloy_sol_types::SolCall as _;
    use serde_json::json;
    use slackwater_contracts::forwarder::isTrustedForwarderCall;

    use super::*;
    use crate::request::trace::{Trace, gas_of_members};

    const FORWARDER: Address = Address::repeat_byte(0xf0);

    fn call(kind: &str, to: u8, gas: u64, input: &[u8]) -> Value {
        let (to, gas) = (Address::repeat_byte(to), U64::from(gas));
        json!({ "type": kind, "from": FORWARDER, "to": to, "gas": "0xffffff", "gasUsed": gas, "input": hex::encode_prefixed(input) })
    }

    fn asks(to: u8, gas: u64) -> Value {
        call("STATICCALL", to, gas, &isTrustedForwarderCall { forwarder: FORWARDER }.abi_encode())
    }

    #[track_caller]
    fn check(key: VehicleKey, calls: Vec<Value>, targets: &[u8], used: Option<&[u64]>) {
        let targets: Vec<Address> = targets.iter().map(|target| Address::repeat_byte(*target)).collect();
        let whole = json!({ "type": "CALL", "to": FORWARDER, "gasUsed": "0x1", "calls": calls });
        let trace: Trace = serde_json::from_value(whole).unwrap();
        assert_eq!(gas_of_members(&trace, key, FORWARDER, &targets).as_deref(), used);
        assert_eq!(gas_of_members(&trace, key, Address::ZERO, &targets), None);
    }

    #[test]
    fn a_forwarders_calls_are_told_apart_by_its_questions() {
        let key = VehicleKey::Forwarder(FORWARDER);
        let digest = [&isTrustedForwarderCall::SELECTOR[..], &[0; 124]].concat();
        let recover = || call("STATICCALL", 0x01, 3_000, &digest);
        let calls = vec![
            recover(),
            asks(0xa1, 400),
            call("CALL", 0xa1, 20_000, &[1]),
            recover(),
            // A skipped member.
            asks(0xa2, 900_000),
            recover(),
            asks(0xa1, 400),
            call("CALL", 0xa1, 30_000, &[]),
            // Refund of unspent value.
            call("CALL", 0xee, 0, &[]),
        ];
        check(key, calls, &[0xa1, 0xa2, 0xa1], Some(&[20_400, 900_000, 30_400]));
        // It ran out of gas in the second one.
        let calls = vec![asks(0xa1, 400), call("CALL", 0xa1, 20_000, &[]), asks(0xa2, 900_000)];
        check(key, calls, &[0xa1, 0xa2, 0xa3], Some(&[20_400, 900_000, 0]));
        check(key, Vec::new(), &[0xa1], None);
        // Another contract, or another transaction.
        check(key, vec![asks(0xa2, 400)], &[0xa1], None);
        check(key, vec![asks(0xa1, 1), asks(0xa1, 1)], &[0xa1], None);
    }

    #[test]
    fn multicalls_calls_come_in_order() {
        let calls = vec![call("CALL", 0xa1, 5, &[]), call("CALL", 0xa1, 7, &[])];
        check(VehicleKey::Multicall, calls, &[0xa1, 0xa1], Some(&[5, 7]));
        check(VehicleKey::Multicall, vec![call("CALL", 0xa2, 5, &[])], &[0xa1], None);
    }
}
