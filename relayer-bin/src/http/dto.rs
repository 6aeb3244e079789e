//! What goes over the wire, and how it becomes (and comes from) what the relay understands.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use alloy_primitives::{B256, U256};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slackwater::{
    chain::Fees,
    ledger::{AttemptKind, AttemptRecord, BatchState, EventRecord, RequestRecord},
    market::Standing,
    relay::{
        Acceptance, BatchView, ChainHealth, ChainStatus, EndpointStatus, FeeSource, ForecastView, LaneStatus,
        ModelInfo, Quote, SubmitItem, WaitQuote,
    },
    request::{
        BatchId, Call, Deadline, Forward, Promise, Reason, RequestId, RequestKind, Status, Submission, SubmissionKind,
        VerifiedRequest,
    },
};
use utoipa::ToSchema;

use super::{body, problem::Problem};
use crate::scalar::{Account, Count, Excerpt, HexBytes, Instant, Span, Uint};

/// Longest idempotency key, bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// An ERC-2771 request: what the user signed for OpenZeppelin's `ERC2771Forwarder`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a forward object")]
#[schema(as = Forward)]
pub struct ForwardBody {
    /// The forwarder contract; one of the chain's `forwarders`.
    pub forwarder: Account,
    /// The user who signed, and whom the target sees as sender.
    pub from: Account,
    /// The target contract.
    pub to: Account,
    /// Wei passed along, paid by the relayer. Default 0.
    #[serde(default)]
    pub value: Uint,
    /// Gas given to the target.
    pub gas: Uint,
    /// The user's nonce at the forwarder: `nonces(from)`.
    pub nonce: Uint,
    /// Last valid block timestamp, Unix seconds (`uint48`).
    pub deadline: Count,
    /// Calldata. Default empty.
    #[serde(default)]
    pub data: HexBytes,
    /// 65 bytes `r ‖ s ‖ v` over the EIP-712 hash.
    pub signature: HexBytes,
}

impl From<ForwardBody> for Forward {
    fn from(body: ForwardBody) -> Self {
        Self {
            forwarder: body.forwarder.0,
            from: body.from.0,
            to: body.to.0,
            value: body.value.0,
            gas: body.gas.0,
            nonce: body.nonce.0,
            deadline: body.deadline.0,
            data: body.data.0,
            signature: body.signature.0,
        }
    }
}

impl From<Forward> for ForwardBody {
    fn from(forward: Forward) -> Self {
        Self {
            forwarder: Account(forward.forwarder),
            from: Account(forward.from),
            to: Account(forward.to),
            value: Uint(forward.value),
            gas: Uint(forward.gas),
            nonce: Uint(forward.nonce),
            deadline: Count(forward.deadline),
            data: HexBytes(forward.data),
            signature: HexBytes(forward.signature),
        }
    }
}

/// A trusted backend's own call, made by the relayer's account. Needs `call` in the tenant's `kinds`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a call object")]
#[schema(as = Call)]
pub struct CallBody {
    /// The called contract or account.
    pub to: Account,
    /// Wei sent along, paid by the relayer. Default 0.
    #[serde(default)]
    pub value: Uint,
    /// Gas given to the call.
    pub gas: Uint,
    /// Calldata. Default empty.
    #[serde(default)]
    pub data: HexBytes,
    /// The target does not look at `msg.sender`, so that the call may share a transaction through Multicall3.
    #[serde(default)]
    pub any_sender: bool,
}

/// Which of the kinds a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = Kind, rename_all = "camelCase")]
pub enum KindBody {
    /// ERC-2771; the content is in `forward`.
    Forward,
    /// A trusted backend's own call; the content is in `call`.
    Call,
}

impl<'de> Deserialize<'de> for KindBody {
    /// By hand: serde_json calls a number in an enum's place a syntax error.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = KindBody;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`forward` or `call`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<KindBody, E> {
                match name {
                    "forward" => Ok(KindBody::Forward),
                    "call" => Ok(KindBody::Call),
                    other => Err(E::custom(format_args!("{}: expected `forward` or `call`", Excerpt(other)))),
                }
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// One request to be relayed.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a request object")]
#[schema(as = Submit)]
pub struct SubmitBody<'a> {
    /// EIP-155 chain id.
    pub chain_id: Count,
    /// Kind of request.
    pub kind: KindBody,
    /// For kind `forward`.
    #[serde(default)]
    pub forward: Option<ForwardBody>,
    /// For kind `call`.
    #[serde(default)]
    pub call: Option<CallBody>,
    /// How long it may take, from now. Not together with `deadline`.
    #[serde(default)]
    pub within: Option<Span>,
    /// Latest acceptable inclusion. Not together with `within`.
    #[serde(default)]
    pub deadline: Option<Instant>,
    /// The most that it may cost in total, wei.
    #[serde(default)]
    pub max_cost: Option<Uint>,
    /// Same key with the same body gets the first answer. At most 255 bytes. Use it in batches; the header
    /// `Idempotency-Key` does the same for a single request.
    #[serde(default, borrow)]
    pub idempotency_key: Option<Cow<'a, str>>,
}

impl SubmitBody<'_> {
    /// The domain's form of this body.
    ///
    /// # Errors
    /// `invalid_field` where members contradict each other, `internal` if there is no randomness for a salt.
    pub fn into_item(self, header_key: Option<&str>) -> Result<SubmitItem, Problem> {
        let field = |path: &'static str, detail: &'static str| Problem::new("invalid_field", detail).field(path);
        let idempotency_key = match (self.idempotency_key, header_key) {
            (Some(member), Some(header)) if member != header => {
                return Err(field("idempotencyKey", "differs from the Idempotency-Key header"));
            }
            (Some(key), _) => Some(key.into_owned()),
            (None, key) => key.map(str::to_owned),
        };
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES) {
            return Err(field("idempotencyKey", "must have 1 to 255 bytes"));
        }
        let deadline = match (self.within, self.deadline) {
            (Some(_), Some(_)) => return Err(field("within", "`within` and `deadline` exclude each other")),
            (Some(Span(within_ms)), None) => Some(Deadline::Within(Duration::from_millis(within_ms))),
            (None, deadline) => deadline.map(|instant| Deadline::At(instant.0)),
        };
        let kind = match (self.kind, self.forward, self.call) {
            (KindBody::Forward, Some(forward), None) => SubmissionKind::Forward(forward.into()),
            (KindBody::Call, None, Some(call)) => {
                let salt = match &idempotency_key {
                    Some(key) => key.clone(),
                    None => random_salt().map_err(|_| Problem::new("internal", "no randomness for the call's salt"))?,
                };
                SubmissionKind::Call(Call {
                    to: call.to.0,
                    value: call.value.0,
                    gas: call.gas.0,
                    data: call.data.0,
                    any_sender: call.any_sender,
                    salt,
                })
            }
            (KindBody::Forward, None, _) => return Err(field("forward", "missing: kind is `forward`")),
            (KindBody::Forward, _, Some(_)) => return Err(field("call", "must be absent: kind is `forward`")),
            (KindBody::Call, _, None) => return Err(field("call", "missing: kind is `call`")),
            (KindBody::Call, Some(_), _) => return Err(field("forward", "must be absent: kind is `call`")),
        };
        Ok(SubmitItem {
            submission: Submission {
                chain_id: self.chain_id.0,
                kind,
                deadline,
                max_cost_wei: self.max_cost.map(|wei| wei.0),
            },
            idempotency_key,
        })
    }
}

fn random_salt() -> Result<String, getrandom::Error> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    Ok(alloy_primitives::hex::encode(salt))
}

/// Several requests, each on its own: one that is refused harms no other.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = SubmitBatch)]
pub struct SubmitBatchBody<'a> {
    /// The requests; answered in the same order.
    #[serde(borrow)]
    pub requests: Vec<SubmitBody<'a>>,
}

/// The same, with the requests left unparsed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with `requests`")]
struct RawBatchBody<'a> {
    #[serde(borrow)]
    requests: Vec<&'a RawValue>,
}

/// Parses a batch. Only if it does not parse as a whole, every request is looked at alone, so that a wrong one has its
/// own problem and the others go on.
///
/// # Errors
/// If the body is not JSON, is not of the form `{"requests": […]}`, or has more than `max_items` requests.
pub fn parse_batch(bytes: &[u8], max_items: usize) -> Result<Vec<Result<SubmitBody<'_>, Problem>>, Problem> {
    let check = |len: usize| {
        if len > max_items {
            let detail = format!("the batch has {len} requests, limit {max_items} (`server.max_batch_items`)");
            return Err(Problem::new("batch_too_large", detail));
        }
        Ok(())
    };
    if let Ok(batch) = serde_json::from_slice::<SubmitBatchBody<'_>>(bytes) {
        check(batch.requests.len())?;
        return Ok(batch.requests.into_iter().map(Ok).collect());
    }
    let batch: RawBatchBody<'_> = body::parse(bytes)?;
    check(batch.requests.len())?;
    Ok(batch.requests.into_iter().map(|raw| body::parse(raw.get().as_bytes())).collect())
}

/// A price question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a quote object")]
#[schema(as = QuoteRequest)]
pub struct QuoteBody {
    /// EIP-155 chain id.
    pub chain_id: Count,
    /// Gas given to the target.
    pub gas: Count,
    /// How long it may wait, such as `5m`: then `wait` in the answer says what that is worth.
    pub within: Option<Span>,
}

/// What it costs to send now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Quote)]
pub struct QuoteView {
    /// Base fee of the next block.
    base_fee_wei_per_gas: Uint,
    /// Priority fee offered.
    priority_fee_wei_per_gas: Uint,
    /// Gas that the request adds to a batch, with its share of overhead.
    gas: u64,
    /// L1 data fee in the expected cost (OP Stack, Scroll).
    l1_data_fee_wei: Uint,
    /// Operator fee in the expected cost (OP Stack).
    operator_fee_wei: Uint,
    /// Expected cost if sent now.
    expected_cost_wei: Uint,
    /// Worst case, which is reserved.
    max_cost_wei: Uint,
    /// What waiting is worth; absent unless `within` was asked for and the chain is forecast.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<WaitView>,
}

/// What a deadline is worth.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Wait)]
pub struct WaitView {
    /// It would be sent at once.
    send_now: bool,
    /// Expected cost by the deadline, with the best continuation.
    expected_cost_wei: Uint,
    /// Base fee up to which it would be sent now.
    reservation_wei_per_gas: Uint,
    /// 10 % quantile of the base fee near the deadline.
    q10_wei_per_gas: Uint,
    /// 90 % quantile of the base fee near the deadline.
    q90_wei_per_gas: Uint,
    /// When it is expected to be sent, from now, ms.
    expected_send_in_ms: u64,
    /// Probability that the fee cap offered now covers the base fee near the deadline.
    cap_covers: f64,
}

impl QuoteView {
    /// With what waiting is worth.
    pub fn with_wait(mut self, quote: &Quote, wait: Option<WaitQuote>) -> Self {
        let wei = |wei: u128| Uint(U256::from(wei));
        self.wait = wait.map(|wait| {
            let per_gas = wait.expected_base_fee_wei_per_gas.saturating_add(quote.priority_fee_wei_per_gas);
            WaitView {
                send_now: wait.send_now,
                expected_cost_wei: Uint(U256::from(per_gas).saturating_mul(U256::from(quote.gas))),
                reservation_wei_per_gas: wei(wait.reservation_wei_per_gas),
                q10_wei_per_gas: wei(wait.interval_wei_per_gas.0),
                q90_wei_per_gas: wei(wait.interval_wei_per_gas.1),
                expected_send_in_ms: u64::try_from(wait.expected_send_in.as_millis()).unwrap_or(u64::MAX),
                cap_covers: wait.cap_covers,
            }
        });
        self
    }
}

impl From<&Quote> for QuoteView {
    fn from(quote: &Quote) -> Self {
        Self {
            base_fee_wei_per_gas: Uint(U256::from(quote.base_fee_wei_per_gas)),
            priority_fee_wei_per_gas: Uint(U256::from(quote.priority_fee_wei_per_gas)),
            gas: quote.gas,
            l1_data_fee_wei: Uint(quote.l1_data_fee_wei),
            operator_fee_wei: Uint(quote.operator_fee_wei),
            expected_cost_wei: Uint(quote.expected_cost_wei),
            max_cost_wei: Uint(quote.max_cost_wei),
            wait: None,
        }
    }
}

/// The relayer's word: on chain by the deadline, or ended with a reason.
///
/// EIP-712, domain `{name: "Slackwater", version: "1"}`, type
/// `InclusionPromise(bytes32 requestHash,uint256 chainId,uint64 deadline,address relayer)`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Promise)]
pub struct PromiseView {
    /// The request's id.
    #[schema(value_type = String)]
    request_hash: B256,
    /// EIP-155 chain id.
    chain_id: u64,
    /// Unix seconds.
    deadline: u64,
    /// Address of the relayer's identity key.
    relayer: Account,
    /// 65 bytes `r ‖ s ‖ v`.
    signature: HexBytes,
}

impl PromiseView {
    fn new(promise: &Promise, signature: &alloy_primitives::Bytes) -> Self {
        Self {
            request_hash: promise.request_hash.0,
            chain_id: promise.chain_id,
            deadline: promise.deadline,
            relayer: Account(promise.relayer),
            signature: HexBytes(signature.clone()),
        }
    }
}

/// A request was accepted: it is durable, and promised.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Accepted)]
pub struct AcceptedView {
    /// The request's id: for `forward` the EIP-712 digest that the user signed.
    #[schema(value_type = String)]
    id: B256,
    /// Where it stands.
    #[schema(value_type = String, example = "queued")]
    status: Status,
    /// EIP-155 chain id.
    chain_id: u64,
    /// Latest acceptable inclusion, Unix ms.
    deadline_at_ms: u64,
    /// When it was accepted, Unix ms.
    accepted_at_ms: u64,
    /// The promise.
    promise: PromiseView,
    /// The quote at acceptance.
    quote: QuoteView,
    /// It had been accepted before; this is the first answer again.
    duplicate: bool,
}

impl From<Acceptance> for AcceptedView {
    fn from(acceptance: Acceptance) -> Self {
        let Acceptance { record, promise, promise_signature, quote, is_duplicate } = acceptance;
        Self {
            id: record.id.0,
            status: record.status,
            chain_id: record.chain_id,
            deadline_at_ms: record.deadline.0,
            accepted_at_ms: record.accepted_at.0,
            promise: PromiseView::new(&promise, &promise_signature),
            quote: QuoteView::from(&quote),
            duplicate: is_duplicate,
        }
    }
}

/// What became of one request of a batch: `accepted` or `problem`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BatchResult)]
pub struct ItemResult {
    /// The HTTP status that the request alone would have got.
    status: u16,
    /// The acceptance, if the status is 202.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<AcceptedView>,
    /// Why it was refused, otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::problem::ProblemBody<'static>>)]
    problem: Option<Problem>,
}

impl<E: Into<Problem>> From<Result<Acceptance, E>> for ItemResult {
    fn from(result: Result<Acceptance, E>) -> Self {
        match result {
            Ok(acceptance) => Self { status: 202, accepted: Some(acceptance.into()), problem: None },
            Err(error) => {
                let problem = error.into();
                Self { status: problem.status().as_u16(), accepted: None, problem: Some(problem) }
            }
        }
    }
}

/// One result for each request of a batch, in order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BatchResults)]
pub struct BatchResults {
    /// The results.
    pub results: Vec<ItemResult>,
}

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
    /// Latest acceptable inclusion, Unix ms.
    deadline_at_ms: u64,
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
    /// Worst case taken from the budget.
    reserved_wei: Uint,
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
            accepted_at_ms: record.accepted_at.0,
            updated_at_ms: record.updated_at.0,
            batch: record.batch,
            tx_hash: record.tx_hash,
            block_number: record.block_number,
            gas_used: record.gas_used,
            cost_wei: record.cost_wei.map(Uint),
            reserved_wei: Uint(record.reserved_wei),
        }
    }
}

/// A page of requests, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RequestPage)]
pub struct RequestPage {
    /// The requests.
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

/// A forwarder that is served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Forwarder)]
pub struct ForwarderView {
    /// The contract.
    address: Account,
    /// `name` of its EIP-712 domain; the version is `1`.
    name: String,
}

/// An RPC endpoint. Operators only.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Endpoint)]
pub struct EndpointView {
    /// Configured name.
    name: String,
    /// Usable now.
    healthy: bool,
    /// Newest block that it told.
    head: Option<u64>,
    /// Calls made.
    calls: u64,
    /// Calls that failed.
    failures: u64,
    /// Moving average of the answer time.
    latency_ms: u64,
    /// Last error.
    last_error: Option<String>,
    /// Its subscription to heads is up; `null` without `ws_url`.
    subscribed: Option<bool>,
}

impl From<EndpointStatus> for EndpointView {
    fn from(status: EndpointStatus) -> Self {
        Self {
            name: status.name,
            healthy: status.is_healthy,
            head: status.head,
            calls: status.calls,
            failures: status.failures,
            latency_ms: status.latency_ms,
            last_error: status.last_error,
            subscribed: status.is_subscribed,
        }
    }
}

/// A chain that is served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Chain)]
pub struct ChainView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Name of the preset, or the configured one.
    name: String,
    /// `starting`, `healthy`, `impaired` or `unavailable`.
    #[schema(value_type = String)]
    health: ChainHealth,
    /// Why it is not healthy.
    detail: Option<String>,
    /// Head block number.
    head: Option<u64>,
    /// Head block timestamp, Unix seconds.
    head_timestamp_s: Option<u64>,
    /// Newest block that counts as final.
    final_block: Option<u64>,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Option<Uint>,
    /// What a transaction would offer now.
    fees: Option<FeesView>,
    /// Requests that wait.
    queued: u64,
    /// Requests in transactions that are not final.
    in_flight: u64,
    /// Shortest deadline that is accepted.
    guard_ms: u64,
    /// Time before a deadline at which a request is sent whatever the price: learned from how long transactions take.
    guard_time_ms: u64,
    /// Inclusions whose delay was measured; the last 10 000 count.
    inclusions_measured: u64,
    /// Forwarders that are served.
    forwarders: Vec<ForwarderView>,
    /// RPC endpoints; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<EndpointView>>,
}

impl ChainView {
    /// `status` as an operator or another tenant may see it.
    pub fn new(status: ChainStatus, is_operator: bool) -> Self {
        let forwarders = status
            .forwarders
            .into_iter()
            .zip(status.forwarder_names)
            .map(|(address, name)| ForwarderView { address: Account(address), name })
            .collect();
        Self {
            chain_id: status.chain_id,
            name: status.name,
            health: status.health,
            detail: status.detail,
            head: status.head,
            head_timestamp_s: status.head_timestamp_s,
            final_block: status.final_block,
            next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(|wei| Uint(U256::from(wei))),
            fees: status.quote.map(FeesView::from),
            queued: status.queued,
            in_flight: status.in_flight,
            guard_ms: status.guard_ms,
            guard_time_ms: status.guard_time_ms,
            inclusions_measured: status.inclusions_measured,
            forwarders,
            endpoints: is_operator.then(|| status.endpoints.into_iter().map(EndpointView::from).collect()),
        }
    }
}

/// The chains that are served.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Chains)]
pub struct ChainsView {
    /// Address of the identity key that signs promises.
    pub relayer: Account,
    /// The chains.
    pub chains: Vec<ChainView>,
}

/// Fees of a chain now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChainFees)]
pub struct ChainFeesView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Head block number that the fees follow.
    head: Option<u64>,
    /// Head block timestamp, Unix seconds.
    head_timestamp_s: Option<u64>,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Option<Uint>,
    /// What a transaction would offer now.
    #[serde(flatten)]
    fees: Option<FeesView>,
}

impl From<&ChainStatus> for ChainFeesView {
    fn from(status: &ChainStatus) -> Self {
        Self {
            chain_id: status.chain_id,
            head: status.head,
            head_timestamp_s: status.head_timestamp_s,
            next_base_fee_wei_per_gas: status.next_base_fee_wei_per_gas.map(|wei| Uint(U256::from(wei))),
            fees: status.quote.map(FeesView::from),
        }
    }
}

/// One sender account on one chain.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Lane)]
pub struct LaneView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// The account.
    sender: Account,
    /// Nonce of the next batch; absent before reconciliation.
    next_nonce: Option<u64>,
    /// Transactions that are not in a block.
    in_flight: usize,
    /// Transactions in a block that is not final.
    unfinal: usize,
    /// Limit on `inFlight`.
    max_in_flight: usize,
    /// Balance, when last read.
    balance_wei: Option<Uint>,
    /// Why it does not send.
    paused: Option<String>,
}

impl From<LaneStatus> for LaneView {
    fn from(lane: LaneStatus) -> Self {
        Self {
            chain_id: lane.chain_id,
            sender: Account(lane.sender),
            next_nonce: lane.next_nonce,
            in_flight: lane.in_flight,
            unfinal: lane.unfinal,
            max_in_flight: lane.max_in_flight,
            balance_wei: lane.balance_wei.map(Uint),
            paused: lane.paused,
        }
    }
}

/// The lanes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lanes)]
pub struct LanesView {
    /// The lanes.
    pub lanes: Vec<LaneView>,
}

/// The base fee so many blocks ahead.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Horizon)]
pub struct HorizonView {
    /// Blocks ahead; 1 is the next block.
    blocks: u32,
    /// About so long from now, ms.
    ahead_ms: u64,
    /// Best single guess.
    point_wei_per_gas: Uint,
    /// 10 % quantile.
    q10_wei_per_gas: Uint,
    /// Median.
    q50_wei_per_gas: Uint,
    /// 90 % quantile.
    q90_wei_per_gas: Uint,
    /// Weights of the experts behind it; they add up to 1.
    experts: BTreeMap<String, f64>,
}

/// What is done with a request that may wait so long.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Slack)]
pub struct SlackView {
    /// Time left, in blocks.
    blocks: u32,
    /// Time left, ms.
    slack_ms: u64,
    /// It is sent now.
    send_now: bool,
    /// Base fee up to which it would be sent now.
    reservation_wei_per_gas: Uint,
    /// What waiting is expected to save.
    expected_saving_wei_per_gas: Uint,
    /// The timing policy with the largest weight.
    policy: String,
    /// Weights of the timing policies above 1 %.
    policies: BTreeMap<String, f64>,
}

/// One fitted set of models.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model)]
pub struct ModelView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Counts up from 1, never given twice.
    version: u32,
    /// Content hash.
    #[schema(value_type = String)]
    id: B256,
    /// In force.
    is_active: bool,
    /// In force until it is unpinned: later fits wait.
    is_pinned: bool,
    /// First block of the training data.
    first_block: u64,
    /// Last block of the training data.
    last_block: u64,
    /// By horizon in blocks.
    scores: BTreeMap<u32, ScoresView>,
}

/// Mean absolute errors of log fee on held-back data.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ModelScores)]
pub struct ScoresView {
    /// Of the ridge regression.
    ridge: f64,
    /// Of the next base fee, taken to stay.
    persistence: f64,
}

impl ModelView {
    /// The models of a chain.
    pub fn of(chain_id: u64, models: &[ModelInfo]) -> Vec<Self> {
        let model = |model: &ModelInfo| Self {
            chain_id,
            version: model.version,
            id: model.id.0,
            is_active: model.is_active,
            is_pinned: model.is_pinned,
            first_block: model.blocks.0,
            last_block: model.blocks.1,
            scores: model
                .scores
                .iter()
                .map(|(steps, scores)| (*steps, ScoresView { ridge: scores.ridge, persistence: scores.persistence }))
                .collect(),
        };
        models.iter().map(model).collect()
    }
}

/// Which version of the models.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelVersion)]
pub struct VersionBody {
    /// As listed.
    pub version: u32,
}

/// The fitted models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Models)]
pub struct ModelsView {
    /// The models.
    pub models: Vec<ModelView>,
}

/// What a chain's base fee is expected to be.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChainForecast)]
pub struct ForecastBody {
    /// EIP-155 chain id.
    chain_id: u64,
    /// The block after which it was made.
    head: u64,
    /// Base fee of the next block.
    next_base_fee_wei_per_gas: Uint,
    /// The protocol fixes `nextBaseFeeWeiPerGas`.
    next_is_exact: bool,
    /// Content hash of the models in force.
    #[schema(value_type = String)]
    model: B256,
    /// Content hash of this forecast; decisions that used it name it.
    #[schema(value_type = String)]
    inputs: B256,
    /// By horizon.
    horizons: Vec<HorizonView>,
    /// By slack.
    slacks: Vec<SlackView>,
}

impl ForecastBody {
    /// A forecast; only the horizon nearest to `horizon`, if one is asked for.
    pub fn new(chain_id: u64, view: &ForecastView, horizon: Option<Duration>) -> Self {
        let wei = |wei: u128| Uint(U256::from(wei));
        let ms = |blocks: u32| u64::try_from((view.step * blocks).as_millis()).unwrap_or(u64::MAX);
        let forecast = &view.forecast;
        let nearest = horizon.and_then(|asked| {
            let asked = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
            forecast.horizons.iter().map(|horizon| horizon.steps).min_by_key(|steps| ms(*steps).abs_diff(asked))
        });
        let horizons = forecast.horizons.iter().filter(|horizon| nearest.is_none_or(|steps| steps == horizon.steps));
        let horizons = horizons.map(|horizon| HorizonView {
            blocks: horizon.steps,
            ahead_ms: ms(horizon.steps),
            point_wei_per_gas: wei(horizon.point),
            q10_wei_per_gas: wei(horizon.q10),
            q50_wei_per_gas: wei(horizon.q50),
            q90_wei_per_gas: wei(horizon.q90),
            experts: view.experts.get(&horizon.steps).into_iter().flatten().cloned().collect(),
        });
        let slacks = view.waits.iter().map(|(blocks, decision)| SlackView {
            blocks: *blocks,
            slack_ms: ms(*blocks),
            send_now: decision.send,
            reservation_wei_per_gas: wei(decision.reservation),
            expected_saving_wei_per_gas: wei(decision.expected_saving),
            policy: decision.policy.to_string(),
            policies: view.policies.get(blocks).into_iter().flatten().filter(|(_, w)| *w > 0.01).cloned().collect(),
        });
        Self {
            chain_id,
            head: forecast.number,
            next_base_fee_wei_per_gas: wei(forecast.next_base_fee),
            next_is_exact: forecast.next_is_exact,
            model: forecast.model.0,
            inputs: view.inputs,
            horizons: horizons.collect(),
            slacks: slacks.collect(),
        }
    }
}

/// One endpoint as a source of fees.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Source)]
pub struct SourceView {
    /// EIP-155 chain id.
    chain_id: u64,
    /// Configured name.
    endpoint: String,
    /// `active`: its word counts. `probation`: it is compared with the others and does not count. `benched`: it does not
    /// count.
    standing: &'static str,
    /// When its probation begins, Unix ms.
    benched_until_ms: Option<u64>,
    /// Share of good blocks among the last, thousandths.
    reputation_permille: u32,
    /// Newest block that it reported.
    head: Option<u64>,
    /// Smoothed time that an answer takes, ms.
    latency_ms: u64,
    /// Good blocks.
    good: u64,
    /// Times that it did not answer.
    errors: u64,
    /// Blocks at which it was too far behind.
    lags: u64,
    /// Blocks at which it differed from the others.
    deviations: u64,
}

impl From<FeeSource> for SourceView {
    fn from(source: FeeSource) -> Self {
        let status = source.status;
        let (standing, benched_until_ms) = match status.standing {
            Standing::Active => ("active", None),
            Standing::Probation { .. } => ("probation", None),
            Standing::Benched { until } => ("benched", Some(until.0)),
        };
        Self {
            chain_id: source.chain_id,
            endpoint: source.endpoint,
            standing,
            benched_until_ms,
            reputation_permille: status.reputation_permille,
            head: status.head,
            latency_ms: u64::try_from(status.latency.as_millis()).unwrap_or(u64::MAX),
            good: status.good,
            errors: status.errors,
            lags: status.lags,
            deviations: status.deviations,
        }
    }
}

/// The fee sources.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sources)]
pub struct SourcesView {
    /// The sources.
    pub sources: Vec<SourceView>,
}

/// How many requests stand where.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CountRow)]
pub struct CountView {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Status.
    #[schema(value_type = String)]
    pub status: Status,
    /// Number of requests.
    pub count: u64,
}

/// Numbers of requests by chain and status, of all tenants.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counts)]
pub struct CountsView {
    /// The numbers.
    pub counts: Vec<CountView>,
    /// Newest event's sequence number.
    pub last_event_seq: u64,
}
