//! Gas use of members, from a node's trace of their transaction.
//!
//! The trace is that of geth's `callTracer`, which reth, Nethermind, Erigon and anvil serve as well: the nested calls
//! of a transaction, each with the gas that it used.

use alloy_primitives::{Address, B256, Bytes, U64};
use serde::Deserialize;
use serde_json::{Value, json};

use super::kind::VehicleKey;

/// Time limit for a node's work on a trace.
const TIMEOUT: &str = "2s";

/// Answer to `debug_traceTransaction`, reduced to the calls of the transaction's own contract.
#[derive(Debug, Deserialize)]
pub struct Trace {
    /// Contract that the transaction called.
    to: Address,
    #[serde(default)]
    calls: Vec<TracedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TracedCall {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    to: Option<Address>,
    #[serde(default)]
    gas_used: U64,
    #[serde(default)]
    pub(super) input: Bytes,
}

/// Part of a member's execution that a nested call is.
pub(super) enum Part {
    /// The first one: the next member begins.
    First,
    /// Another one of the same member.
    Further,
}

impl TracedCall {
    /// True if it may change state in its target.
    pub(super) fn executes(&self) -> bool {
        self.kind == "CALL"
    }
}

/// Parameters of `debug_traceTransaction`.
pub fn params(hash: B256) -> Value {
    json!([hash, { "tracer": "callTracer", "timeout": TIMEOUT }])
}

/// Gas used by each member of a transaction in its target; `targets`: the targets in order. `None` if the calls are not
/// those of `contract`, which the transaction called.
///
/// If the transaction ran out of gas, the later members are missing: they used none.
pub fn gas_of_members(trace: &Trace, key: VehicleKey, contract: Address, targets: &[Address]) -> Option<Vec<u64>> {
    if trace.to != contract {
        return None;
    }
    let mut used = vec![0_u64; targets.len()];
    let mut begun = 0;
    for call in &trace.calls {
        let is_to_current = begun > 0 && call.to == targets.get(begun - 1).copied();
        match key.part(call, is_to_current) {
            Some(Part::First) => begun += 1,
            Some(Part::Further) => {}
            None => continue,
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
