//! What a node is asked before a batch is sent, and what its answers mean for each member (invariant I11).

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, Log, U64, U256, keccak256};
use alloy_sol_types::SolValue;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    VerifiedRequest,
    outcome::{MemberOutcome, decode},
    vehicle::{Payload, VehicleKey},
};

/// Storage slot of `_nonces` in every published `ERC2771Forwarder` 5.x: after the two fallback strings of `EIP712`.
const NONCES_SLOT: u64 = 2;

/// Longest revert data that is kept for people, bytes.
const MAX_DETAIL_BYTES: usize = 256;

/// What the simulation says.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Outcome of each member, in order.
    Members(Vec<MemberOutcome>),
    /// The transaction as a whole would fail; bounded revert data for people.
    Whole(String),
    /// Nothing could be learned (no endpoint, unsupported method): send, and let the receipt tell.
    Unknown,
}

/// Answer of `eth_simulateV1`, one for each block.
#[derive(Debug, Deserialize)]
pub(crate) struct SimulatedBlock {
    calls: Vec<SimulatedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimulatedCall {
    status: U64,
    #[serde(default)]
    return_data: Bytes,
    #[serde(default)]
    logs: Vec<SimulatedLog>,
}

#[derive(Debug, Deserialize)]
struct SimulatedLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

/// `payload` from `sender` as a call: what `eth_call` and `eth_simulateV1` take.
pub(crate) fn call(sender: Address, payload: &Payload) -> Value {
    json!({
        "from": sender, "to": payload.to, "value": payload.value, "input": payload.data,
        "gas": U64::from(payload.gas_limit),
    })
}

/// Parameters of `eth_simulateV1` for `payload` from `sender` on the newest block.
///
/// `ahead` holds forwarder nonces of members whose predecessors are in flight: they are assumed to have executed. That
/// needs to know where the forwarder stores them, hence only known code.
pub(crate) fn params(
    sender: Address,
    payload: &Payload,
    key: VehicleKey,
    ahead: &BTreeMap<(Address, Address), u64>,
) -> Value {
    let mut overrides = serde_json::Map::new();
    if let VehicleKey::Forwarder(forwarder) = key
        && !ahead.is_empty()
    {
        let slots: serde_json::Map<String, Value> = ahead
            .iter()
            .map(|((_, signer), nonce)| {
                let slot = keccak256((*signer, U256::from(NONCES_SLOT)).abi_encode());
                (slot.to_string(), json!(B256::from(U256::from(*nonce))))
            })
            .collect();
        overrides.insert(forwarder.to_string(), json!({ "stateDiff": slots }));
    }
    // The sender's balance is the lane's concern, and value is checked there.
    overrides.insert(sender.to_string(), json!({ "balance": U256::MAX >> 8 }));
    json!([{ "blockStateCalls": [{ "stateOverrides": overrides, "calls": [call(sender, payload)] }] }, "latest"])
}

/// What the answer to [`params`] means.
pub(crate) fn verdict(blocks: Vec<SimulatedBlock>, key: VehicleKey, members: &[Arc<VerifiedRequest>]) -> Verdict {
    let Some(call) = blocks.into_iter().next().and_then(|block| block.calls.into_iter().next()) else {
        return Verdict::Unknown;
    };
    if call.status != U64::from(1) {
        return Verdict::Whole(revert_text(&call.return_data));
    }
    let logs: Vec<Log> = call.logs.into_iter().filter_map(|log| Log::new(log.address, log.topics, log.data)).collect();
    Verdict::Members(decode(key, members, true, &logs))
}

/// Places of the members that `verify` can tell about without a simulation: a signer's first one, unless a predecessor is in
/// flight, since only that is valid in the current state.
pub(crate) fn verifiable(members: &[Arc<VerifiedRequest>], ahead: &BTreeMap<(Address, Address), u64>) -> Vec<usize> {
    let signer = |member: &VerifiedRequest| member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
    members
        .iter()
        .enumerate()
        .filter(|(index, member)| {
            signer(member).is_some_and(|own| {
                !ahead.contains_key(&own) && !members[..*index].iter().any(|other| signer(other) == Some(own))
            })
        })
        .map(|(index, _)| index)
        .collect()
}

/// Revert data as people read it: `Error(string)` decoded, anything else in bounded hex.
fn revert_text(data: &[u8]) -> String {
    // `Error(string)`.
    if let Some(rest) = data.strip_prefix(&[0x08, 0xc3, 0x79, 0xa0])
        && let Ok(text) = String::abi_decode(rest)
    {
        return text.chars().take(MAX_DETAIL_BYTES).collect();
    }
    alloy_primitives::hex::encode_prefixed(&data[..data.len().min(MAX_DETAIL_BYTES)])
}
