//! Gas use of members, from a node's trace of their transaction.
//!
//! The trace is that of geth's `callTracer`, which reth, Nethermind, Erigon and anvil serve as well: the nested calls
//! of a transaction, each with the gas that it used.

use alloy_primitives::{Address, B256, Bytes, U64};
use alloy_sol_types::SolCall as _;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_contracts::forwarder::isTrustedForwarderCall;

use super::vehicle::VehicleKey;

/// Time limit for a node's work on a trace.
const TIMEOUT: &str = "2s";

/// Answer to `debug_traceTransaction`, reduced to the calls of the transaction's own contract.
#[derive(Debug, Deserialize)]
pub(crate) struct Trace {
    /// Contract that the transaction called.
    to: Address,
    #[serde(default)]
    calls: Vec<TracedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TracedCall {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    to: Option<Address>,
    #[serde(default)]
    gas_used: U64,
    #[serde(default)]
    input: Bytes,
}

/// Parameters of `debug_traceTransaction`.
pub(crate) fn params(hash: B256) -> Value {
    json!([hash, { "tracer": "callTracer", "timeout": TIMEOUT }])
}

/// Gas used by each member of a transaction in its target; `targets`: the targets in order. `None` if the calls are not
/// those of `contract`, which the transaction called.
///
/// The forwarder asks each target whether it trusts it, whatever the request's outcome, and calls those that pass.
/// Multicall3 calls one after the other. If the transaction ran out of gas, the later members are missing: they used
/// none.
pub(crate) fn gas_of_members(
    trace: &Trace,
    key: VehicleKey,
    contract: Address,
    targets: &[Address],
) -> Option<Vec<u64>> {
    if trace.to != contract {
        return None;
    }
    let mut used = vec![0_u64; targets.len()];
    let mut begun = 0;
    for call in &trace.calls {
        // A selector and a word: the digest that is recovered may begin like a selector.
        let is_question = call.input.len() == 36 && call.input.starts_with(&isTrustedForwarderCall::SELECTOR);
        let asks = call.kind == "STATICCALL" && is_question;
        let executes = call.kind == "CALL";
        match key {
            VehicleKey::Forwarder(_) if asks => begun += 1,
            // Unspent value is refunded at the end, to an address that is no member's target.
            VehicleKey::Forwarder(_) if executes && begun > 0 && call.to == targets.get(begun - 1).copied() => {}
            VehicleKey::Multicall if executes => begun += 1,
            _ => continue,
        }
        let place = begun.checked_sub(1)?;
        if call.to != Some(*targets.get(place)?) {
            return None;
        }
        used[place] = used[place].saturating_add(call.gas_used.to());
    }
    // Another tracer's answer, or a contract behind a proxy.
    (begun > 0).then_some(used)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::hex;

    use super::*;

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
