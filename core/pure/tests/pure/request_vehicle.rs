//! Payload of verified requests in one transaction, and the outcome of each according to the receipt.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, Log, U256};
use alloy_sol_types::{SolCall, SolEvent};
use proptest::prelude::*;
use serde_json::json;
use slackwater_core::{
    chain::GasSchedule,
    contracts::{
        forwarder::{ExecutedForwardRequest, executeBatchCall},
        multicall3::aggregate3ValueCall,
    },
    request::{
        Call, Forward, RequestId, VerifiedRequest,
        outcome::{MemberOutcome, shares},
        vehicle::{Contracts, VehicleKey, VehicleParams, decode},
    },
};

const FORWARDER: Address = Address::repeat_byte(0xf0);
const SENDER: Address = Address::repeat_byte(0x5e);
const MULTICALL: Address = Address::repeat_byte(0xca);

/// A request as read back from the ledger: verified before.
fn stored(id: B256, gas: u64, nonce: u64, kind: serde_json::Value) -> Arc<VerifiedRequest> {
    let json = json!({
        "id": id, "chainId": 1, "gas": gas, "nonce": nonce, "deadline": 5_000_000u64,
        "chainDeadlineS": 5_000u64, "maxCostWei": null, "kind": kind,
    });
    Arc::new(VerifiedRequest::from_stored(json.to_string().as_bytes()).unwrap())
}

fn forward(from: u8, nonce: u64, gas: u64, value: U256, data: Vec<u8>) -> Arc<VerifiedRequest> {
    let forward = Forward {
        forwarder: FORWARDER,
        from: Address::repeat_byte(from),
        to: Address::repeat_byte(0x70),
        value,
        gas: U256::from(gas),
        nonce: U256::from(nonce),
        deadline: 5_000,
        data: data.into(),
        signature: Bytes::from(vec![0xff; 65]),
    };
    let id = alloy_primitives::keccak256([&[from][..], &nonce.to_be_bytes()].concat());
    stored(id, gas, nonce, json!({ "forward": forward }))
}

fn call(salt: u64, gas: u64, value: U256, data: Vec<u8>, any_sender: bool) -> Arc<VerifiedRequest> {
    let call = Call {
        to: Address::repeat_byte(0x70),
        value,
        gas: U256::from(gas),
        data: data.into(),
        any_sender,
        salt: salt.to_string(),
    };
    stored(B256::from(U256::from(salt)), gas, 0, json!({ "call": call }))
}

const fn params(schedule: GasSchedule, forward_overhead_gas: u64) -> VehicleParams {
    VehicleParams {
        sender: SENDER,
        multicall3: Some(MULTICALL),
        has_capped_calls: true,
        schedule,
        forward_overhead_gas,
    }
}

fn schedules() -> impl Strategy<Value = GasSchedule> {
    prop_oneof![Just(GasSchedule::SHANGHAI), Just(GasSchedule::PRAGUE), Just(GasSchedule::OSAKA)]
}

/// Calldata of very different cost: empty, zeros, dense, a mixture.
fn calldata() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0usize..3_000).prop_map(|len| vec![0; len]),
        (0usize..20_000).prop_map(|len| vec![0xff; len]),
        proptest::collection::vec(any::<u8>(), 0..400),
    ]
}

fn gas() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..2_000_000, 1u64..3, Just(u64::MAX), u64::MAX - 70_000..u64::MAX]
}

type Specs = Vec<(u8, u64, u128, Vec<u8>)>;

fn specs() -> impl Strategy<Value = Specs> {
    proptest::collection::vec((1u8..5, gas(), any::<u128>(), calldata()), 1..25)
}

fn forwards(specs: Specs) -> Vec<Arc<VerifiedRequest>> {
    let mut next = [0u64; 5];
    specs
        .into_iter()
        .map(|(from, gas, value, data)| {
            let nonce = next[usize::from(from)];
            next[usize::from(from)] += 1;
            forward(from, nonce, gas, U256::from(value), data)
        })
        .collect()
}

/// Asserts that the composer's sum is never below the gas limit of the resulting transaction.
fn assert_bound(params: &VehicleParams, key: VehicleKey, members: &[Arc<VerifiedRequest>]) {
    let payload = params.payload(key, members);
    let sum = members.iter().fold(params.base_gas(), |sum, member| sum.saturating_add(params.member_gas(member)));
    assert!(sum >= payload.gas_limit, "{sum} < {} for {} members", payload.gas_limit, members.len());
    // Enough for all members, and never refused for too low a gas limit.
    let wanted =
        members.iter().fold(params.schedule.intrinsic_gas(&payload.data), |sum, m| sum.saturating_add(m.gas()));
    assert!(payload.gas_limit >= wanted);
    assert!(payload.gas_limit >= params.schedule.floor_gas(&payload.data));
    assert!(payload.gas_limit >= params.schedule.min_gas_limit(&payload.data));
}

/// The forwarder's checks along the batch: enough is left for each call, and `gas / 63` after it.
fn assert_runs(params: &VehicleParams, key: VehicleKey, members: &[Arc<VerifiedRequest>]) {
    let payload = params.payload(key, members);
    if payload.gas_limit == u64::MAX {
        return;
    }
    let mut left = payload.gas_limit - params.schedule.intrinsic_gas(&payload.data);
    for member in members {
        left = left.checked_sub(params.forward_overhead_gas).expect("overhead is covered");
        assert!(left - left / 64 >= member.gas(), "the call gets all the gas that was signed");
        left -= member.gas();
        assert!(left >= member.gas() / 63, "_checkForwardedGas holds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn batches_decode_back_in_order(specs in specs(), schedule in schedules(), overhead in 0u64..200_000) {
        let members = forwards(specs);
        let params = params(schedule, overhead);
        let key = VehicleKey::Forwarder(FORWARDER);
        prop_assert!(members.iter().all(|member| VehicleKey::of(member, Contracts::all(true)) == key));
        let payload = params.payload(key, &members);
        prop_assert_eq!(payload.to, FORWARDER);
        prop_assert_eq!(payload.value, members.iter().map(|member| member.value()).sum::<U256>());
        let call = executeBatchCall::abi_decode(&payload.data).unwrap();
        prop_assert_eq!(call.refundReceiver, SENDER, "never zero: that is the atomic mode");
        prop_assert_eq!(call.requests.len(), members.len());
        for (sent, member) in call.requests.iter().zip(&members) {
            let signed = member.kind().as_forward().unwrap();
            prop_assert_eq!(
                (sent.from, sent.to, sent.value, sent.gas, sent.deadline.to::<u64>(), &sent.data, &sent.signature),
                (signed.from, signed.to, signed.value, signed.gas, signed.deadline, &signed.data, &signed.signature)
            );
        }
        assert_bound(&params, key, &members);
        assert_runs(&params, key, &members);
    }

    #[test]
    fn multicalls_decode_back_in_order(specs in specs(), schedule in schedules()) {
        let members: Vec<_> = specs.into_iter().enumerate()
            .map(|(salt, (_, gas, value, data))| call(salt as u64, gas, U256::from(value), data, true)).collect();
        let params = params(schedule, 50_000);
        prop_assert!(members.iter().all(|member| VehicleKey::of(member, Contracts::all(true)) == VehicleKey::Multicall));
        let payload = params.payload(VehicleKey::Multicall, &members);
        prop_assert_eq!(payload.to, MULTICALL);
        let decoded = aggregate3ValueCall::abi_decode(&payload.data).unwrap();
        prop_assert_eq!(decoded.calls.len(), members.len());
        for (sent, member) in decoded.calls.iter().zip(&members) {
            prop_assert!(!sent.allowFailure, "the receipt's status must speak for every member");
            prop_assert_eq!(
                (sent.target, sent.value, sent.callData.clone()), (member.target(), member.value(), member.data())
            );
        }
        assert_bound(&params, VehicleKey::Multicall, &members);
    }

    #[test]
    fn single_calls_are_themselves(gas in gas(), value: u128, data in calldata(), schedule in schedules()) {
        let member = call(1, gas, U256::from(value), data.clone(), false);
        let key = VehicleKey::of(&member, Contracts::all(true));
        prop_assert_eq!(key, VehicleKey::Single(member.id()));
        let params = params(schedule, 50_000);
        let payload = params.payload(key, std::slice::from_ref(&member));
        prop_assert_eq!((payload.to, payload.value), (member.target(), member.value()));
        prop_assert_eq!(payload.data.as_ref(), data.as_slice());
        assert_bound(&params, key, &[member]);
    }

    #[test]
    fn bytes_are_an_upper_bound(specs in specs()) {
        let members = forwards(specs);
        let params = params(GasSchedule::OSAKA, 50_000);
        let payload = params.payload(VehicleKey::Forwarder(FORWARDER), &members);
        let sum: usize = members.iter().map(|member| params.member_bytes(member)).sum();
        // Selector, offset, refund receiver and count come before the first member.
        prop_assert!(payload.data.len() <= sum + 4 + 3 * 32);
    }

    #[test]
    fn stored_form_round_trips(
        specs in specs(), chain_id: u64, deadline: u64, max_cost in proptest::option::of(any::<[u8; 32]>()),
        any_sender: bool, salt in ".{0,20}",
    ) {
        for (index, member) in forwards(specs).into_iter().enumerate() {
            let mut json: serde_json::Value = serde_json::from_slice(&member.to_stored()).unwrap();
            json["chainId"] = chain_id.into();
            json["deadline"] = deadline.into();
            json["maxCostWei"] = serde_json::to_value(max_cost.map(U256::from_be_bytes)).unwrap();
            if index % 2 == 1 {
                let call = Call {
                    to: member.target(), value: member.value(), gas: U256::from(member.gas()),
                    data: member.data().clone(), any_sender, salt: salt.clone(),
                };
                json["kind"] = json!({ "call": call });
                json["chainDeadlineS"] = serde_json::Value::Null;
            }
            let request = VerifiedRequest::from_stored(json.to_string().as_bytes()).unwrap();
            prop_assert_eq!(request.deadline().0, deadline);
            prop_assert_eq!(&VerifiedRequest::from_stored(&request.to_stored()).unwrap(), &request);
        }
    }

    #[test]
    fn damaged_bytes_do_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let _ = VerifiedRequest::from_stored(&bytes);
        let mut stored = forward(1, 2, 3, U256::from(4), vec![5; 6]).to_stored();
        for (at, byte) in edits {
            let at = at.index(stored.len());
            stored[at] = byte;
        }
        if let Ok(request) = VerifiedRequest::from_stored(&stored) {
            // Any stored bytes that can be read give a request that can be sent or refused, not a panic.
            let request = Arc::new(request);
            let params = params(GasSchedule::OSAKA, 1);
            let _ = params.payload(VehicleKey::of(&request, Contracts::all(true)), std::slice::from_ref(&request));
            let _ = params.member_gas(&request);
        }
    }

    #[test]
    fn shares_add_up_and_follow_the_weights(
        total: u128, weights in proptest::collection::vec(any::<u64>(), 1..200),
    ) {
        let total = U256::from(total);
        let parts = shares(total, &weights);
        prop_assert_eq!(parts.len(), weights.len());
        prop_assert_eq!(parts.iter().copied().sum::<U256>(), total);
        let sum: U256 = weights.iter().map(|weight| U256::from((*weight).max(1))).sum();
        for (index, (part, weight)) in parts.iter().zip(&weights).enumerate() {
            let exact = total * U256::from((*weight).max(1)) / sum;
            prop_assert!(*part >= exact);
            prop_assert!(index == 0 || *part == exact, "only the first takes the remainder");
        }
    }
}

#[test]
fn shares_of_the_largest_total_add_up() {
    let parts = shares(U256::MAX, &[u64::MAX, 1, 0, 7]);
    assert_eq!(parts.into_iter().sum::<U256>(), U256::MAX);
}

/// Found by the bound above: with much calldata and little gas the EIP-7623 floor applies.
#[test]
fn the_floor_counts_in_what_the_composer_adds_up() {
    let params = params(GasSchedule::OSAKA, 60_000);
    let members: Vec<_> = (0..40).map(|nonce| forward(1, nonce, 30_000, U256::ZERO, vec![0xff; 16_384])).collect();
    let key = VehicleKey::Forwarder(FORWARDER);
    let payload = params.payload(key, &members);
    assert!(payload.gas_limit == params.schedule.floor_gas(&payload.data), "the floor decides here");
    assert_bound(&params, key, &members);
}

#[test]
fn no_members_no_panic() {
    let params = params(GasSchedule::OSAKA, 60_000);
    for key in [VehicleKey::Forwarder(FORWARDER), VehicleKey::Multicall, VehicleKey::Single(RequestId(B256::ZERO))] {
        let payload = params.payload(key, &[]);
        assert_eq!(payload.value, U256::ZERO);
        assert!(decode(key, &[], true, &[]).is_empty());
    }
}

fn event(emitter: Address, signer: u8, nonce: u64, success: bool) -> Log {
    let event = ExecutedForwardRequest { signer: Address::repeat_byte(signer), nonce: U256::from(nonce), success };
    Log { address: emitter, data: event.encode_log_data() }
}

#[track_caller]
fn check(members: &[Arc<VerifiedRequest>], is_success: bool, logs: &[Log], expect: &[MemberOutcome]) {
    assert_eq!(decode(VehicleKey::Forwarder(FORWARDER), members, is_success, logs), expect);
}

#[test]
fn outcomes_come_from_the_forwarders_events_only() {
    use MemberOutcome::{Executed, Failed, Untouched};
    let members: Vec<_> = [(1, 0), (1, 1), (2, 7)].map(|(from, n)| forward(from, n, 9, U256::ZERO, vec![])).to_vec();
    let stranger = Address::repeat_byte(0xbad_u16.to_be_bytes()[1]);

    check(&members, true, &[], &[Untouched; 3]);
    let all = [event(FORWARDER, 1, 0, true), event(FORWARDER, 1, 1, false), event(FORWARDER, 2, 7, true)];
    check(&members, true, &all, &[Executed, Failed, Executed]);
    // In any order.
    check(&members, true, &[all[2].clone(), all[0].clone(), all[1].clone()], &[Executed, Failed, Executed]);
    // A reverted transaction has no events; any that are reported don't count.
    check(&members, false, &all, &[Untouched; 3]);
    // The target may emit an identical event from its own address.
    check(
        &members,
        true,
        &[event(stranger, 1, 0, true), event(Address::repeat_byte(0x70), 1, 1, true)],
        &[Untouched; 3],
    );
    check(
        &members,
        true,
        &[event(stranger, 1, 0, true), event(FORWARDER, 1, 0, false)],
        &[Failed, Untouched, Untouched],
    );
    // Right signer, other nonce; right nonce, other signer.
    check(&members, true, &[event(FORWARDER, 1, 7, true), event(FORWARDER, 2, 0, true)], &[Untouched; 3]);
    // Reported twice, it still happened once.
    let twice = [all[0].clone(), all[0].clone()];
    check(&members, true, &twice, &[Executed, Untouched, Untouched]);
    // A nonce beyond 64 bits matches no request, even if its low bits do.
    let mut far = ExecutedForwardRequest { signer: Address::repeat_byte(1), nonce: U256::from(1) << 64, success: true };
    far.nonce |= U256::from(1);
    let far = Log { address: FORWARDER, data: far.encode_log_data() };
    check(&members, true, &[far], &[Untouched; 3]);
    // Malformed data with the right topic.
    let mut short = all[0].clone();
    short.data = alloy_primitives::LogData::new_unchecked(short.data.topics().to_vec(), Bytes::from_static(&[1; 31]));
    check(&members, true, &[short], &[Untouched; 3]);
    let mut bare = all[0].clone();
    bare.data = alloy_primitives::LogData::new_unchecked(vec![], bare.data.data.clone());
    check(&members, true, &[bare], &[Untouched; 3]);
}

#[test]
fn another_forwarders_batch_says_nothing_about_us() {
    let member = forward(1, 0, 9, U256::ZERO, vec![]);
    let other = Address::repeat_byte(0xf1);
    let logs = [event(FORWARDER, 1, 0, true)];
    let outcome = decode(VehicleKey::Forwarder(other), std::slice::from_ref(&member), true, &logs);
    assert_eq!(outcome, [MemberOutcome::Untouched]);
    // Not even if the other forwarder reports it: the request was signed for its own.
    let logs = [event(other, 1, 0, true)];
    let outcome = decode(VehicleKey::Forwarder(other), &[member], true, &logs);
    assert_eq!(outcome, [MemberOutcome::Untouched]);
}

#[test]
fn calls_follow_the_status() {
    let members = [call(1, 9, U256::ZERO, vec![], true), call(2, 9, U256::ZERO, vec![], true)];
    assert_eq!(decode(VehicleKey::Multicall, &members, true, &[]), [MemberOutcome::Executed; 2]);
    assert_eq!(decode(VehicleKey::Multicall, &members, false, &[]), [MemberOutcome::Untouched; 2]);
}
