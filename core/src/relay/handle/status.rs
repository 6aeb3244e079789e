//! Public inputs and views of the relay: submissions and their answers, status of chains, endpoints and lanes.

use alloy_primitives::{Address, Bytes, U256};
use serde::{Deserialize, Serialize};

use crate::{
    chain::Fees,
    ledger::{AttemptRecord, BatchRecord, RequestRecord},
    market::SourceStatus,
    request::{Promise, RequestId},
};

/// Quote of cost and price, given at acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Quote {
    /// Base fee of the next block, wei per gas.
    pub base_fee_wei_per_gas: u128,
    /// Priority fee offered, wei per gas.
    pub priority_fee_wei_per_gas: u128,
    /// Gas this request adds to a batch, execution and its share of overhead.
    pub gas: u64,
    /// L1 data fee in `expected_cost_wei`, wei: for its bytes in a transaction alone; a batch shares it.
    #[serde(default)]
    pub l1_data_fee_wei: U256,
    /// Operator fee in `expected_cost_wei`, wei.
    #[serde(default)]
    pub operator_fee_wei: U256,
    /// Expected cost if sent now, wei.
    pub expected_cost_wei: U256,
    /// Reserved worst case, wei: the larger of cost and price.
    pub max_cost_wei: U256,
}

/// An accepted request: durable, with a signed promise.
#[derive(Debug, Clone)]
pub(in crate::relay) struct Acceptance {
    /// The request as stored.
    pub record: Box<RequestRecord>,
    /// The promise.
    pub promise: Promise,
    /// 65 bytes `r ‖ s ‖ v` over [`Promise::digest`].
    pub promise_signature: Bytes,
    /// The quote.
    pub quote: Quote,
    /// True if it had been accepted before; this repeats the first answer.
    pub is_duplicate: bool,
}

/// Condition of a chain as the relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainHealth {
    /// Started, not reconciled yet.
    Starting,
    /// Heads arrive and at least one lane can send.
    Healthy,
    /// Heads arrive, but a fault exists: no lane can send (unfunded, for instance), nothing becomes final, the clock is
    /// off, the newest block is late.
    Impaired,
    /// No endpoint answers, or the head is older than `chain.max_head_age_ms`: nothing is accepted.
    Unavailable,
}

/// One RPC endpoint as the relay sees it. Never shows the URL, which may hold a secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Configured name.
    pub name: String,
    /// True while it is usable.
    pub is_healthy: bool,
    /// Newest block number it reported.
    pub head: Option<u64>,
    /// Position relative to the other endpoints' heads: `with_the_others`, `behind`, `frozen` or `ahead`. In the last
    /// three cases it is asked last.
    pub place: String,
    /// Number of its simulations contradicted by a receipt.
    pub false_simulations: u64,
    /// Calls made.
    pub calls: u64,
    /// Calls that failed in transport or with an endpoint-level error.
    pub failures: u64,
    /// Moving average of answer time, ms.
    pub latency_ms: u64,
    /// Last error, without secrets.
    pub last_error: Option<String>,
    /// True while its head subscription is up; `None` if it has no WebSocket.
    pub is_subscribed: Option<bool>,
}

/// A chain as the relay sees it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ChainStatus {
    /// EIP-155 id.
    pub chain_id: u64,
    /// Preset or configured name.
    pub name: String,
    /// Condition of the chain.
    pub health: ChainHealth,
    /// Reason for not being healthy; `None` while healthy.
    pub detail: Option<String>,
    /// Head block number.
    pub head: Option<u64>,
    /// Head block timestamp, Unix seconds.
    pub head_timestamp_s: Option<u64>,
    /// Newest block that counts as final.
    pub final_block: Option<u64>,
    /// Base fee of the next block, wei per gas.
    pub next_base_fee_wei_per_gas: Option<u128>,
    /// Fees of an attempt sent now; `None` while no price is known.
    pub quote: Option<Fees>,
    /// Requests waiting in memory.
    pub queued: u64,
    /// Requests in transactions that are not final.
    pub in_flight: u64,
    /// Shortest accepted deadline, ms.
    pub guard_ms: u64,
    /// Guard time before a deadline, at which a request is sent at any price, ms; learned from inclusions.
    pub guard_time_ms: u64,
    /// Number of measured inclusion delays; the last 10 000 count.
    pub inclusions_measured: u64,
    /// Forwarders served.
    pub forwarders: Vec<Address>,
    /// Forwarder names (EIP-712 domain), same order.
    pub forwarder_names: Vec<String>,
    /// Tokens whose payments are made.
    pub tokens: Vec<TokenStatus>,
    /// Start of the period without a majority on the final block, Unix ms; nothing becomes final meanwhile. `None`
    /// while there is one.
    pub finality_stalled_since_ms: Option<u64>,
    /// Warnings about the configuration, such as the risk of few endpoints.
    pub warnings: Vec<String>,
    /// RPC endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// A token whose payments are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TokenStatus {
    /// The contract.
    pub address: Address,
    /// Name of its EIP-712 domain; empty until the chain is reached.
    pub name: String,
    /// Version of its EIP-712 domain; empty until the chain is reached.
    pub version: String,
    /// Gas that one payment may use, without the transaction's own.
    pub transfer_gas: u64,
}

/// One endpoint as a source of fees.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeeSource {
    /// Chain id.
    pub chain_id: u64,
    /// Configured name.
    pub endpoint: String,
    /// Trust in this source.
    pub status: SourceStatus,
}

/// A lane as the relay sees it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LaneStatus {
    /// Chain id.
    pub chain_id: u64,
    /// Sender account.
    pub sender: Address,
    /// Nonce of the next batch; `None` before reconciliation.
    pub next_nonce: Option<u64>,
    /// Number of transactions not yet in a block.
    pub in_flight: usize,
    /// Number of transactions in a block, not yet final.
    pub unfinal: usize,
    /// Limit on `in_flight`.
    pub max_in_flight: usize,
    /// Balance at the last read, wei; `None` before the first.
    pub balance_wei: Option<U256>,
    /// Reason for not sending (`underfunded`, `storage`, …); `None` while it sends.
    pub paused: Option<String>,
}

/// A batch with attempts and members.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BatchView {
    /// The batch.
    pub batch: BatchRecord,
    /// Its attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// Its members in execution order.
    pub members: Vec<RequestId>,
}
