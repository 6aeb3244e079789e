//! What the relayer answers. Members that this build does not know are skipped; amounts are integers in wei, written as
//! decimal strings.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};

use super::{error::ClientError, http, open::Open};
use crate::{
    Timestamp,
    chain::decimal,
    request::{BatchId, Promise, Reason, RequestId, Status},
};

/// The relayer's signed word: on chain by the deadline, or ended with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "super::flat::SignedPromiseJson")]
pub struct SignedPromise {
    /// What was promised.
    #[serde(flatten)]
    pub promise: Promise,
    /// 65 bytes `r ‖ s ‖ v`. Not checked yet: see [`super::verify::verify_promise`].
    pub signature: Bytes,
}

/// A request was accepted: it is durable, and promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The request's id: for `forward` the EIP-712 digest that the user signed.
    pub id: RequestId,
    /// Where it stands.
    pub status: Open<Status>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// When its inclusion is promised by, Unix ms.
    pub deadline_at_ms: Timestamp,
    /// Latest acceptable inclusion, Unix ms: if the promise is missed it goes on until then. Older relayers don't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_ms: Option<Timestamp>,
    /// When it was accepted, Unix ms.
    pub accepted_at_ms: Timestamp,
    /// The promise.
    pub promise: SignedPromise,
    /// The quote at acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// It had been accepted before; this is the first answer again.
    #[serde(default)]
    pub duplicate: bool,
}

/// What it costs to send now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// Base fee of the next block.
    #[serde(with = "decimal")]
    pub base_fee_wei_per_gas: u128,
    /// Priority fee offered.
    #[serde(with = "decimal")]
    pub priority_fee_wei_per_gas: u128,
    /// Gas that the request adds to a batch, with its share of overhead.
    pub gas: u64,
    /// L1 data fee in the expected cost.
    #[serde(with = "decimal")]
    pub l1_data_fee_wei: U256,
    /// Operator fee in the expected cost.
    #[serde(with = "decimal")]
    pub operator_fee_wei: U256,
    /// Expected cost if sent now.
    #[serde(with = "decimal")]
    pub expected_cost_wei: U256,
    /// Worst case, which is reserved.
    #[serde(with = "decimal")]
    pub max_cost_wei: U256,
    /// What waiting is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// What a deadline is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// It would be sent at once.
    pub send_now: bool,
    /// Expected cost by the deadline, with the best continuation.
    #[serde(with = "decimal")]
    pub expected_cost_wei: U256,
    /// Base fee up to which it would be sent now.
    #[serde(with = "decimal")]
    pub reservation_wei_per_gas: u128,
    /// 10 % quantile of the base fee near the deadline.
    #[serde(with = "decimal")]
    pub q10_wei_per_gas: u128,
    /// 90 % quantile of the base fee near the deadline.
    #[serde(with = "decimal")]
    pub q90_wei_per_gas: u128,
    /// When it is expected to be sent, from now, ms.
    pub expected_send_in_ms: u64,
    /// Probability that the fee cap offered now covers the base fee near the deadline.
    pub cap_covers: f64,
}

/// One thing that happened to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Global sequence number; resume after it.
    pub seq: u64,
    /// The request.
    pub request_id: RequestId,
    /// Sequence number within the request, from 1.
    pub request_seq: u32,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// New status.
    pub status: Open<Status>,
    /// Stable code of the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Open<Reason>>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `chainId:sender:nonce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchId>,
    /// Transaction hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<B256>,
    /// Block number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// When, Unix ms.
    pub at_ms: Timestamp,
}

impl Event {
    /// Reads the data of a message of an event stream.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`].
    pub fn parse(data: &str) -> Result<Self, ClientError> {
        serde_json::from_slice(data.as_bytes())
            .map_err(|error| ClientError::Unreadable { status: 200, detail: http::excerpt(&error.to_string()) })
    }
}

/// A request without its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestSummary {
    /// The request's id.
    pub id: RequestId,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `forward` or `call`.
    pub kind: String,
    /// Where it stands.
    pub status: Open<Status>,
    /// Why it ended or went back to the queue.
    #[serde(default)]
    pub reason: Option<Open<Reason>>,
    /// Contract called in the end.
    pub target: Address,
    /// When its inclusion was promised by, Unix ms.
    pub deadline_at_ms: Timestamp,
    /// Latest acceptable inclusion, Unix ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_ms: Option<Timestamp>,
    /// When its promise was missed, Unix ms, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_at_ms: Option<Timestamp>,
    /// It ended without being executed, before the deadline that its user signed: until then, Unix seconds, whoever has the
    /// signature can still use it. The user's next request takes the same nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable_until: Option<u64>,
    /// When it was accepted, Unix ms.
    pub accepted_at_ms: Timestamp,
    /// When it last changed, Unix ms.
    pub updated_at_ms: Timestamp,
    /// The batch it is, or was last, in.
    #[serde(default)]
    pub batch: Option<BatchId>,
    /// Hash of the transaction that executed it.
    #[serde(default)]
    pub tx_hash: Option<B256>,
    /// Number of the block that executed it.
    #[serde(default)]
    pub block_number: Option<u64>,
    /// Its share of the gas used.
    #[serde(default)]
    pub gas_used: Option<u64>,
    /// Its share of the cost, once final.
    #[serde(default, with = "decimal::option")]
    pub cost_wei: Option<U256>,
    /// What its tenant is charged for that; the cost itself, unless the operator chose otherwise. `None` from a relayer that does
    /// not say.
    #[serde(default, with = "decimal::option")]
    pub price_wei: Option<U256>,
    /// Worst case taken from the budget.
    #[serde(default, with = "decimal::option")]
    pub reserved_wei: Option<U256>,
    /// The id of the API key that submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
}

/// A request with what is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "super::flat::RequestDetailJson")]
pub struct RequestDetail {
    /// Where it stands.
    #[serde(flatten)]
    pub summary: RequestSummary,
    /// The promise.
    pub promise: SignedPromise,
    /// The quote at acceptance.
    #[serde(default)]
    pub quote: Option<Quote>,
    /// Transactions signed for its current (or last) batch, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What happened to it, oldest first; the beginning of it, if it is very long.
    #[serde(default)]
    pub timeline: Vec<Event>,
}

impl RequestDetail {
    /// The acceptance, as a repeated submission would get it.
    pub fn accepted(&self) -> Accepted {
        Accepted {
            id: self.summary.id,
            status: self.summary.status.clone(),
            chain_id: self.summary.chain_id,
            deadline_at_ms: self.summary.deadline_at_ms,
            valid_until_ms: self.summary.valid_until_ms,
            accepted_at_ms: self.summary.accepted_at_ms,
            promise: self.promise.clone(),
            quote: self.quote.clone(),
            duplicate: true,
        }
    }
}

/// A page of requests, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestPage {
    /// The requests.
    pub requests: Vec<RequestSummary>,
    /// Give it as `cursor` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One signed transaction for a batch's nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "super::flat::AttemptJson")]
pub struct Attempt {
    /// 0 for the first.
    pub index: u32,
    /// `payload` or `cancel`.
    pub kind: String,
    /// Prices.
    #[serde(flatten)]
    pub fees: OfferedFees,
    /// Transaction hash.
    pub tx_hash: B256,
    /// When it was signed, Unix ms.
    pub created_at_ms: Timestamp,
}

/// The two prices that a transaction signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OfferedFees {
    /// Fee cap.
    #[serde(with = "decimal")]
    pub max_fee_wei_per_gas: u128,
    /// Priority fee.
    #[serde(with = "decimal")]
    pub priority_fee_wei_per_gas: u128,
}

/// What shares one (sender, nonce).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// `chainId:sender:nonce`.
    pub id: BatchId,
    /// `signed`, `broadcast`, `included`, `finalized`, `cancelled` or `lost`.
    pub state: String,
    /// Transaction recipient.
    pub to: Address,
    /// Why it was sent then.
    #[serde(default)]
    pub trigger: String,
    /// Transaction in a block.
    #[serde(default)]
    pub included_hash: Option<B256>,
    /// That block's number.
    #[serde(default)]
    pub block_number: Option<u64>,
    /// That block's hash.
    #[serde(default)]
    pub block_hash: Option<B256>,
    /// Gas used.
    #[serde(default)]
    pub gas_used: Option<u64>,
    /// What it cost.
    #[serde(default, with = "decimal::option")]
    pub cost_wei: Option<U256>,
    /// Signed transactions, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// How many requests it carries.
    #[serde(default)]
    pub member_count: usize,
    /// Those that the caller may see, in execution order.
    #[serde(default)]
    pub members: Vec<RequestId>,
}

/// A forwarder that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forwarder {
    /// The contract.
    pub address: Address,
    /// `name` of its EIP-712 domain; the version is `1`. What the relayer says: a wallet that does not trust it reads
    /// `eip712Domain()` at its own node.
    pub name: String,
}

/// A chain that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Name of the preset, or the configured one.
    pub name: String,
    /// `starting`, `healthy`, `impaired` or `unavailable`.
    pub health: String,
    /// Why it is not healthy.
    #[serde(default)]
    pub detail: Option<String>,
    /// Head block number.
    #[serde(default)]
    pub head: Option<u64>,
    /// Newest block that counts as final.
    #[serde(default)]
    pub final_block: Option<u64>,
    /// Base fee of the next block.
    #[serde(default, with = "decimal::option")]
    pub next_base_fee_wei_per_gas: Option<u128>,
    /// What a transaction would offer now.
    #[serde(default)]
    pub fees: Option<OfferedFees>,
    /// Shortest deadline that is accepted.
    #[serde(default)]
    pub guard_ms: u64,
    /// Forwarders that are served.
    #[serde(default)]
    pub forwarders: Vec<Forwarder>,
}

/// The chains that are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chains {
    /// Address of the identity key that signs promises. Pin it: a promise proves nothing against an address that came
    /// with it.
    pub relayer: Address,
    /// The chains.
    pub chains: Vec<Chain>,
}

/// Fees of a chain now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainFees {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Head block number that the fees follow.
    #[serde(default)]
    pub head: Option<u64>,
    /// Base fee of the next block.
    #[serde(default, with = "decimal::option")]
    pub next_base_fee_wei_per_gas: Option<u128>,
    /// Fee cap.
    #[serde(default, with = "decimal::option")]
    pub max_fee_wei_per_gas: Option<u128>,
    /// Priority fee.
    #[serde(default, with = "decimal::option")]
    pub priority_fee_wei_per_gas: Option<u128>,
}

/// What a chain's base fee is expected to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The block after which it was made.
    pub head: u64,
    /// Base fee of the next block.
    #[serde(with = "decimal")]
    pub next_base_fee_wei_per_gas: u128,
    /// The protocol fixes `nextBaseFeeWeiPerGas`.
    #[serde(default)]
    pub next_is_exact: bool,
    /// Content hash of the models in force.
    pub model: B256,
    /// Content hash of this forecast.
    pub inputs: B256,
    /// By horizon.
    pub horizons: Vec<Horizon>,
    /// By slack.
    #[serde(default)]
    pub slacks: Vec<Slack>,
}

/// The base fee so many blocks ahead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Horizon {
    /// Blocks ahead; 1 is the next block.
    pub blocks: u32,
    /// About so long from now, ms.
    pub ahead_ms: u64,
    /// Best single guess.
    #[serde(with = "decimal")]
    pub point_wei_per_gas: u128,
    /// 10 % quantile.
    #[serde(with = "decimal")]
    pub q10_wei_per_gas: u128,
    /// Median.
    #[serde(with = "decimal")]
    pub q50_wei_per_gas: u128,
    /// 90 % quantile.
    #[serde(with = "decimal")]
    pub q90_wei_per_gas: u128,
    /// Weights of the experts behind it.
    #[serde(default)]
    pub experts: BTreeMap<String, f64>,
}

/// What is done with a request that may wait so long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// Time left, in blocks.
    pub blocks: u32,
    /// Time left, ms.
    pub slack_ms: u64,
    /// It is sent now.
    pub send_now: bool,
    /// Base fee up to which it would be sent now.
    #[serde(with = "decimal")]
    pub reservation_wei_per_gas: u128,
    /// What waiting is expected to save.
    #[serde(with = "decimal")]
    pub expected_saving_wei_per_gas: u128,
    /// The timing policy with the largest weight.
    #[serde(default)]
    pub policy: String,
}
