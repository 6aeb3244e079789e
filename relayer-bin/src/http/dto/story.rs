//! What became of requests: events, states, batches.

use alloy_primitives::{B256, U256};
use serde::Serialize;
use slackwater::{
    chain::Fees,
    ledger::{AttemptKind, AttemptRecord, BatchState, EventRecord, RequestRecord},
    relay::{BatchView, Quote},
    request::{BatchId, Call, Promise, Reason, RequestId, RequestKind, Status, VerifiedRequest},
};
use utoipa::ToSchema;

use super::{
    answer::{PromiseView, QuoteView},
    submit::{CallBody, ForwardBody},
};
use crate::scalar::{Account, HexBytes, Uint};

/// One thing that happened to a request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub struct EventView<'a> {
    /// Global sequence number; resume after it.
    seq: u64,
    /// The request.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// Sequence number within the request, from 1.
    request_seq: u32,
    /// Whose request it is.
    tenant: &'a str,
    /// EIP-155 chain id.
    chain_id: u64,
    /// New status.
    #[schema(value_type = String)]
    status: Status,
    /// Stable code of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reason: Option<Reason>,
    /// Text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// `chainId:sender:nonce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    batch: Option<BatchId>,
    /// Transaction hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tx_hash: Option<B256>,
    /// Block number.
    #[serde(skip_serializing_if = "Option::is_none")]
    block_number: Option<u64>,
    /// When, Unix ms.
    at_ms: u64,
}

impl<'a> From<&'a EventRecord> for EventView<'a> {
    fn from(event: &'a EventRecord) -> Self {
        Self {
            seq: event.seq,
            request_id: event.request_id,
            request_seq: event.request_seq,
            tenant: &event.tenant,
            chain_id: event.chain_id,
            status: event.status,
            reason: event.reason,
            detail: event.detail.as_deref(),
            batch: event.batch,
            tx_hash: event.tx_hash,
            block_number: event.block_number,
            at_ms: event.at_ms,
        }
    }
}

/// A request without its content.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RequestSummary)]
pub struct SummaryView {
    /// The request's id.
    #[schema(value_type = String)]
    id: RequestId,
    /// Order of acceptance; the cursor of lists.
    seq: u64,
    /// Whose request it is.
    tenant: String,
    /// EIP-155 chain id.
    chain_id: u64,
    /// `forward` or `call`.
    kind: String,
    /// Where it stands.
    #[schema(value_type = String)]
    status: Status,
    /// Stable code of why it ended or went back to the queue.
    #[schema(value_type = Option<String>)]
    reason: Option<Reason>,
    /// Contract called in the end.
    target: Account,
    /// When its inclusion was promised by, Unix ms.
    deadline_at_ms: u64,
    /// Latest acceptable inclusion, Unix ms.
    valid_until_ms: u64,
    /// When its promise was missed, Unix ms, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_at_ms: Option<u64>,
    /// It ended without being executed, before the deadline that its user signed: until then, Unix seconds as
    /// `forward.deadline`, whoever has the signature can still use it. The user's next request takes the same nonce.
    #[serde(skip_serializing_if = "Option::is_none")]
    executable_until: Option<u64>,
    /// When it was accepted, Unix ms.
    accepted_at_ms: u64,
    /// When it last changed, Unix ms.
    updated_at_ms: u64,
    /// The batch it is, or was last, in: `chainId:sender:nonce`.
    #[schema(value_type = Option<String>)]
    batch: Option<BatchId>,
    /// Hash of the transaction that executed it.
    #[schema(value_type = Option<String>)]
    tx_hash: Option<B256>,
    /// Number of the block that executed it.
    block_number: Option<u64>,
    /// Its share of the gas used.
    gas_used: Option<u64>,
    /// Its share of the cost, once final.
    cost_wei: Option<Uint>,
    /// What its tenant is charged for that (`tenant.price_percent`); the cost itself, unless the operator chose otherwise.
    price_wei: Option<Uint>,
    /// Worst case taken from the budget: the larger of cost and price.
    reserved_wei: Uint,
    /// The id of the API key that submitted it. Page keys do not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_by: Option<String>,
}

impl From<&RequestRecord> for SummaryView {
    fn from(record: &RequestRecord) -> Self {
        Self {
            id: record.id,
            seq: record.seq,
            tenant: record.tenant.clone(),
            chain_id: record.chain_id,
            kind: record.kind.clone(),
            status: record.status,
            reason: record.reason,
            target: Account(record.target),
            deadline_at_ms: record.deadline.0,
            valid_until_ms: record.valid_until.0,
            late_at_ms: record.late_at.map(|at| at.0),
            executable_until: record.executable_until_s(),
            accepted_at_ms: record.accepted_at.0,
            updated_at_ms: record.updated_at.0,
            batch: record.batch,
            tx_hash: record.tx_hash,
            block_number: record.block_number,
            gas_used: record.gas_used,
            cost_wei: record.cost_wei.map(Uint),
            price_wei: record.price_wei().map(Uint),
            reserved_wei: Uint(record.reserved_wei),
            submitted_by: record.submitted_by.clone(),
        }
    }
}

/// A page of requests, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RequestPage)]
pub struct RequestPage {
    /// The requests; perhaps fewer than `limit`, or none, on any page.
    pub requests: Vec<SummaryView>,
    /// Give it as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A request with all that is known about it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Request)]
pub struct RequestView<'a> {
    #[serde(flatten)]
    summary: SummaryView,
    /// What there is to say about `reason`, for people: a target's revert text, for instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// The content, for kind `forward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<ForwardBody>,
    /// The content, for kind `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<CallBody>,
    /// The caller's ceiling.
    max_cost_wei: Option<Uint>,
    /// Highest price of gas that the reservation covers.
    ceiling_wei_per_gas: Uint,
    /// The promise.
    promise: PromiseView,
    /// The quote at acceptance.
    quote: Option<QuoteView>,
    /// How many transactions that carried it failed as a whole.
    batch_failures: u32,
    /// Transactions signed for its current (or last) batch, oldest first.
    attempts: Vec<AttemptView>,
    /// What happened to it, oldest first.
    timeline: Vec<EventView<'a>>,
}

impl<'a> RequestView<'a> {
    /// All about `record`.
    pub fn new(
        record: &RequestRecord,
        promise: &Promise,
        attempts: &[AttemptRecord],
        timeline: &'a [EventRecord],
    ) -> Self {
        let stored = VerifiedRequest::from_stored(&record.payload).ok();
        let max_cost_wei = stored.as_ref().and_then(VerifiedRequest::max_cost_wei).map(Uint);
        let (forward, call) = match stored.as_ref().map(VerifiedRequest::kind) {
            Some(RequestKind::Forward(forward)) => (Some(forward.clone().into()), None),
            Some(RequestKind::Call(call)) => (None, Some(call_body(call))),
            _ => (None, None),
        };
        let quote: Option<Quote> = serde_json::from_str(&record.quote).ok();
        Self {
            summary: SummaryView::from(record),
            detail: timeline
                .last()
                .filter(|event| event.status == record.status && event.reason == record.reason)
                .and_then(|event| event.detail.as_deref()),
            forward,
            call,
            max_cost_wei,
            ceiling_wei_per_gas: Uint(U256::from(record.ceiling_wei_per_gas)),
            promise: PromiseView::new(promise, &record.promise_signature),
            quote: quote.as_ref().map(QuoteView::from),
            batch_failures: record.batch_failures,
            attempts: attempts.iter().map(AttemptView::from).collect(),
            timeline: timeline.iter().map(EventView::from).collect(),
        }
    }
}

fn call_body(call: &Call) -> CallBody {
    CallBody {
        to: Account(call.to),
        value: Uint(call.value),
        gas: Uint(call.gas),
        data: HexBytes(call.data.clone()),
        any_sender: call.any_sender,
    }
}

/// The two prices that a transaction signs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Fees)]
pub struct FeesView {
    /// Fee cap.
    max_fee_wei_per_gas: Uint,
    /// Priority fee.
    priority_fee_wei_per_gas: Uint,
}

impl From<Fees> for FeesView {
    fn from(fees: Fees) -> Self {
        Self {
            max_fee_wei_per_gas: Uint(U256::from(fees.max_fee_per_gas)),
            priority_fee_wei_per_gas: Uint(U256::from(fees.max_priority_fee_per_gas)),
        }
    }
}

/// One signed transaction for a batch's nonce.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
pub struct AttemptView {
    /// 0 for the first.
    index: u32,
    /// `payload` or `cancel`.
    #[schema(value_type = String)]
    kind: AttemptKind,
    #[serde(flatten)]
    fees: FeesView,
    /// Transaction hash.
    #[schema(value_type = String)]
    tx_hash: B256,
    /// When it was signed, Unix ms.
    created_at_ms: u64,
}

impl From<&AttemptRecord> for AttemptView {
    fn from(attempt: &AttemptRecord) -> Self {
        Self {
            index: attempt.index,
            kind: attempt.kind,
            fees: attempt.fees.into(),
            tx_hash: attempt.hash,
            created_at_ms: attempt.created_at.0,
        }
    }
}

/// A batch: what shares one (sender, nonce).
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Batch)]
pub struct BatchBody {
    /// `chainId:sender:nonce`.
    #[schema(value_type = String)]
    id: BatchId,
    /// EIP-155 chain id.
    chain_id: u64,
    /// Account that sends.
    sender: Account,
    /// Its nonce.
    nonce: u64,
    /// `signed`, `broadcast`, `included`, `finalized`, `cancelled` or `lost`.
    #[schema(value_type = String)]
    state: BatchState,
    /// Transaction recipient.
    to: Account,
    /// Transaction value.
    value_wei: Uint,
    /// Gas limit.
    gas_limit: u64,
    /// Earliest deadline of its members, Unix ms.
    deadline_at_ms: u64,
    /// No attempt offers more.
    ceiling_wei_per_gas: Uint,
    /// Why it was sent then.
    trigger: String,
    /// When it was planned, Unix ms.
    created_at_ms: u64,
    /// Transaction in a block.
    #[schema(value_type = Option<String>)]
    included_hash: Option<B256>,
    /// That block's number.
    block_number: Option<u64>,
    /// That block's hash.
    #[schema(value_type = Option<String>)]
    block_hash: Option<B256>,
    /// Gas used.
    gas_used: Option<u64>,
    /// What it cost.
    cost_wei: Option<Uint>,
    /// Signed transactions, oldest first.
    attempts: Vec<AttemptView>,
    /// How many requests it carries.
    member_count: usize,
    /// Those that the caller may see, in execution order.
    #[schema(value_type = Vec<String>)]
    members: Vec<RequestId>,
}

impl BatchBody {
    /// All about `view`, with the members that may be seen.
    pub fn new(view: &BatchView, members: Vec<RequestId>) -> Self {
        let batch = &view.batch;
        Self {
            id: batch.id,
            chain_id: batch.id.lane.chain_id,
            sender: Account(batch.id.lane.sender),
            nonce: batch.id.nonce,
            state: batch.state,
            to: Account(batch.to),
            value_wei: Uint(batch.value),
            gas_limit: batch.gas_limit,
            deadline_at_ms: batch.deadline.0,
            ceiling_wei_per_gas: Uint(U256::from(batch.ceiling_wei_per_gas)),
            trigger: batch.trigger.clone(),
            created_at_ms: batch.created_at.0,
            included_hash: batch.included_hash,
            block_number: batch.block.map(|(number, _)| number),
            block_hash: batch.block.map(|(_, hash)| hash),
            gas_used: batch.gas_used,
            cost_wei: batch.cost_wei.map(Uint),
            attempts: view.attempts.iter().map(AttemptView::from).collect(),
            member_count: view.members.len(),
            members,
        }
    }
}
