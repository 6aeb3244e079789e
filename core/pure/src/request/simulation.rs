//! Simulation of a batch before it is sent, and the result for each member (invariant I11).

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, Keccak256, Log, U64, U128, U256};
use alloy_sol_types::SolValue;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    VerifiedRequest,
    gate::Word,
    outcome::MemberOutcome,
    vehicle::{Payload, VehicleKey, VehicleParams, decode},
};
use crate::{protection::Protection, table::Table};

/// Longest revert data kept for error messages, bytes.
const MAX_DETAIL_BYTES: usize = 256;

/// Result of a simulation.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Each member, in order.
    Members(Vec<MemberSimulation>),
    /// The transaction as a whole would fail; revert data in readable form, bounded.
    Whole(String),
    /// No result (no endpoint, unsupported method): send, and let the receipt tell.
    Unknown,
}

/// One member, simulated as a transaction of its own after those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSimulation {
    /// Its outcome.
    pub outcome: MemberOutcome,
    /// Gas of that transaction, base gas included; `None` if no node measured it.
    pub gas_used: Option<u64>,
    /// Revert data in readable form, bounded; `None` unless the transaction failed.
    pub detail: Option<String>,
}

/// Block environment of a simulation: that of the block expected to include the batch, so that a target which reads it
/// finds the on-chain values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Environment {
    /// Base fee of that block, wei per gas.
    pub base_fee_per_gas: u128,
    /// Offered priority fee, wei per gas.
    pub priority_fee_per_gas: u128,
    /// Balance of the sender, wei; `None` if unknown. The lane checks that it suffices; a simulation must not fail for
    /// it.
    pub balance_wei: Option<U256>,
    /// Number of the parent block, on whose state it runs; `None`: the node's newest.
    pub parent: Option<u64>,
    /// Number of that block; `None` if unknown.
    pub number: Option<u64>,
    /// Time of that block, Unix seconds; `None` if unknown.
    pub timestamp_s: Option<u64>,
    /// Expected proposer, taken from the newest block. Without it nodes simulate with the zero address, which no block
    /// has.
    pub fee_recipient: Option<Address>,
}

impl Environment {
    /// Number, time and proposer as a node's block overrides; empty if none is known.
    ///
    /// `feeRecipient` is accepted by `eth_simulateV1`, and by `eth_call` of geth since 1.14.9, reth, Nethermind and
    /// anvil. An older geth, which expects `coinbase`, ignores it and calls with the block's own; some nodes refuse
    /// both names at once.
    fn block_overrides(&self) -> serde_json::Map<String, Value> {
        let mut block = serde_json::Map::new();
        if !Protection::Surroundings.is_on() {
            return block;
        }
        if let Some(number) = self.number {
            block.insert("number".to_owned(), json!(U64::from(number)));
        }
        if let Some(time) = self.timestamp_s {
            block.insert("time".to_owned(), json!(U64::from(time)));
        }
        if let Some(proposer) = self.fee_recipient {
            block.insert("feeRecipient".to_owned(), json!(proposer));
        }
        block
    }

    /// True if an `eth_call` can be given any field of the block.
    pub const fn names_block(&self) -> bool {
        self.number.is_some() || self.timestamp_s.is_some() || self.fee_recipient.is_some()
    }
}

/// Answer of `eth_simulateV1`, one for each block.
#[derive(Debug, Deserialize)]
pub struct SimulatedBlock {
    calls: Vec<SimulatedCall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SimulatedCall {
    status: U64,
    #[serde(default)]
    gas_used: Option<U64>,
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

/// `payload` from `sender` as the call object of `eth_call` and `eth_simulateV1`.
pub fn call(sender: Address, payload: &Payload) -> Value {
    json!({
        "from": sender, "to": payload.to, "value": payload.value, "input": payload.data,
        "gas": U64::from(payload.gas_limit),
    })
}

/// Forwarder nonces of signers, by forwarder and signer.
pub type Ahead = Table<(Address, Address), u64>;

/// Parameters of `eth_simulateV1`: each of `members` as a transaction of its own, one after the other.
///
/// Simulated alone, a member meets its own gas limit: gas that its target burns beyond that shows here, and the gas it
/// used is its share of the cost (invariant I13). `ahead` holds forwarder nonces of members whose predecessors are in
/// flight: they are assumed to have executed. That requires the forwarder's storage layout, hence only known code.
pub fn params(
    vehicle: &VehicleParams,
    key: VehicleKey,
    members: &[Arc<VerifiedRequest>],
    ahead: &Ahead,
    environment: &Environment,
) -> Value {
    let mut overrides = serde_json::Map::new();
    if let Some((contract, state)) = key.assumed(ahead) {
        overrides.insert(contract.to_string(), state);
    }
    let Environment { balance_wei, parent, .. } = *environment;
    let (base, tip) = if Protection::Surroundings.is_on() {
        (environment.base_fee_per_gas, environment.priority_fee_per_gas)
    } else {
        (0, 0)
    };
    let price = base.saturating_add(tip);
    let mut needed_wei = U256::ZERO;
    let mut randao = Keccak256::new();
    let calls: Vec<Value> = members
        .iter()
        .map(|member| {
            let payload = vehicle.payload(key, std::slice::from_ref(member));
            let gas_wei = U256::from(payload.gas_limit).saturating_mul(U256::from(price));
            needed_wei = needed_wei.saturating_add(gas_wei).saturating_add(payload.value);
            randao.update(member.id().0);
            let mut call = call(vehicle.sender, &payload);
            // Without a price a target would see `tx.gasprice` 0, and recognise the simulation. The same goes for
            // an impossible balance, and for a `prevrandao` of 0.
            call["maxFeePerGas"] = json!(U128::from(price));
            call["maxPriorityFeePerGas"] = json!(U128::from(tip));
            call
        })
        .collect();
    let balance = balance_wei.unwrap_or_default().max(needed_wei);
    overrides.insert(vehicle.sender.to_string(), json!({ "balance": balance }));
    let mut block = environment.block_overrides();
    block.insert("baseFeePerGas".to_owned(), json!(U128::from(base)));
    block.insert("prevRandao".to_owned(), json!(randao.finalize()));
    let parent = parent.map_or_else(|| json!("latest"), |number| json!(U64::from(number)));
    json!([{ "blockStateCalls": [{ "blockOverrides": block, "stateOverrides": overrides, "calls": calls }] }, parent])
}

/// `member` as a call of its own, as its target will see it: a forward comes from its forwarder, with the user's
/// address behind the data and the gas that the user signed; a call from `sender`, or from Multicall3. For nodes
/// without batch simulation.
///
/// The caller is given the value that it passes on; a node without such overrides refuses the call, which tells nothing
/// about the member. The known fields of `environment` are included, for nodes that accept them.
pub fn member_params(
    sender: Address,
    key: VehicleKey,
    params: &VehicleParams,
    member: &VerifiedRequest,
    block: &Value,
    environment: &Environment,
) -> Value {
    let (from, data) = key.seen_by_target(sender, params, member);
    // A call pays for its own calldata, which the forwarder's call does not.
    let own = params.schedule.intrinsic_gas(&data).saturating_add(member.gas());
    let gas = own.max(params.schedule.floor_gas(&data));
    let call = json!({
        "from": from, "to": member.target(), "value": member.value(), "input": Bytes::from(data), "gas": U64::from(gas),
    });
    let mut params = vec![call, block.clone()];
    let surroundings = environment.block_overrides();
    if !member.value().is_zero() {
        params.push(json!({ (from.to_string()): { "balance": U256::MAX >> 8 } }));
    } else if !surroundings.is_empty() {
        params.push(json!({}));
    }
    if !surroundings.is_empty() {
        params.push(surroundings.into());
    }
    params.into()
}

/// A node's word for each member by its verdict, the gas that each uses in a transaction of its own, and the error of the
/// transaction as a whole.
pub fn heard(verdict: Verdict, members: &[Arc<VerifiedRequest>]) -> (Vec<Word>, Vec<Option<u64>>, Option<String>) {
    let count = members.len();
    match verdict {
        Verdict::Members(simulated) => {
            let used = simulated.iter().map(|member| member.gas_used).collect();
            let word = |(simulated, member): (MemberSimulation, &Arc<VerifiedRequest>)| match simulated.outcome {
                // A failing call without order failed in its target.
                MemberOutcome::Untouched if member.sequence().is_none() => Word::Reverts(simulated.detail),
                outcome => Word::of(outcome),
            };
            (simulated.into_iter().zip(members).map(word).collect(), used, None)
        }
        Verdict::Whole(text) if count == 1 => (vec![Word::Reverts(Some(text))], Vec::new(), None),
        Verdict::Whole(text) => (vec![Word::Unknown; count], Vec::new(), Some(text)),
        Verdict::Unknown => (vec![Word::Unknown; count], Vec::new(), None),
    }
}

/// Interprets the answer to [`params`].
pub fn verdict(blocks: Vec<SimulatedBlock>, key: VehicleKey, members: &[Arc<VerifiedRequest>]) -> Verdict {
    let calls = blocks.into_iter().next().map(|block| block.calls).unwrap_or_default();
    if calls.len() != members.len() {
        return Verdict::Unknown;
    }
    let simulated = calls.into_iter().zip(members).map(|(call, member)| {
        let gas_used = call.gas_used.map(|gas| gas.to());
        let is_success = call.status == U64::from(1);
        let detail = (!is_success).then(|| revert_text(&call.return_data));
        let logs: Vec<Log> =
            call.logs.into_iter().filter_map(|log| Log::new(log.address, log.topics, log.data)).collect();
        let outcome = decode(key, std::slice::from_ref(member), is_success, &logs).pop();
        MemberSimulation { outcome: outcome.unwrap_or(MemberOutcome::Untouched), gas_used, detail }
    });
    Verdict::Members(simulated.collect())
}

/// Indices of the members that `verify` can judge without a simulation: a signer's first one, unless a predecessor is
/// in flight, since only that is valid in the current state.
pub fn verifiable(members: &[Arc<VerifiedRequest>], ahead: &Ahead) -> Vec<usize> {
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

/// Readable text of an `eth_call` revert: the contract's reason, else the node's message.
pub fn call_revert_text(message: &str, data: Option<&str>) -> String {
    let data = data.and_then(|data| alloy_primitives::hex::decode(data.trim_matches('"')).ok());
    match data {
        Some(data) if !data.is_empty() => revert_text(&data),
        _ => message.chars().take(MAX_DETAIL_BYTES).collect(),
    }
}

/// Readable revert data: `Error(string)` decoded, anything else in bounded hex.
fn revert_text(data: &[u8]) -> String {
    // `Error(string)`.
    if let Some(rest) = data.strip_prefix(&[0x08, 0xc3, 0x79, 0xa0])
        && let Ok(text) = String::abi_decode(rest)
    {
        return text.chars().take(MAX_DETAIL_BYTES).collect();
    }
    alloy_primitives::hex::encode_prefixed(&data[..data.len().min(MAX_DETAIL_BYTES)])
}
