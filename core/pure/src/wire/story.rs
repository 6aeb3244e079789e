//! One request: acceptance, price, events, state, batch, refusal.

use std::borrow::Cow;

use alloy_primitives::B256;

use super::{
    macros::wire,
    number::{Account, HexBytes, Price, Uint},
    open::{OpenReason, OpenStatus},
    requests::{Authorization, Call, Forward},
};
use crate::{
    chain,
    request::{self, BatchId, RequestId},
    time::Timestamp,
};

wire! {
    /// The relayer's signed word: on chain by the deadline, or ended with a reason.
    ///
    /// EIP-712, domain `{name: "Slackwater", version: "1"}`, type
    /// `InclusionPromise(bytes32 requestHash,uint256 chainId,uint64 deadline,address relayer)`.
    #[derive(Eq)]
    pub struct Promise {
        /// The request's id.
        pub request_hash: RequestId,
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Deadline, Unix seconds.
        pub deadline: u64,
        /// Address of the relayer's identity key.
        pub relayer: Account,
        /// 65 bytes `r ‖ s ‖ v`.
        pub signature: HexBytes,
    }

    /// A request was accepted: it is durable, and promised.
    pub struct Accepted {
        /// The request's id: for `forward` the EIP-712 digest that the user signed.
        pub id: RequestId,
        /// Status.
        pub status: OpenStatus,
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Promised deadline of its inclusion, Unix ms.
        pub deadline_at_ms: Timestamp,
        /// Latest acceptable inclusion, Unix ms: if the promise is missed it goes on until then.
        #[cfg_attr(feature = "openapi", schema(value_type = u64))]
        pub valid_until_ms: Option<Timestamp> = required,
        /// Time of acceptance, Unix ms.
        pub accepted_at_ms: Timestamp,
        /// The promise.
        pub promise: Promise,
        /// The quote at acceptance.
        #[cfg_attr(feature = "openapi", schema(value_type = Quote))]
        pub quote: Option<Quote> = required,
        /// It had been accepted before; this is the first answer again.
        #[serde(default)]
        pub duplicate: bool = required,
    }

    /// Price of sending a request now.
    pub struct Quote {
        /// Base fee of the next block.
        pub base_fee_wei_per_gas: Price,
        /// Priority fee offered.
        pub priority_fee_wei_per_gas: Price,
        /// Gas that the request adds to a batch, with its share of overhead.
        pub gas: u64,
        /// L1 data fee in the expected cost (OP Stack, Scroll).
        pub l1_data_fee_wei: Uint,
        /// Operator fee in the expected cost (OP Stack).
        pub operator_fee_wei: Uint,
        /// Expected cost if sent now.
        pub expected_cost_wei: Uint,
        /// Worst case, which is reserved.
        pub max_cost_wei: Uint,
        /// The worth of waiting; absent unless `within` was asked for and the chain is forecast.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub wait: Option<Wait>,
    }

    /// The worth of a deadline.
    pub struct Wait {
        /// It would be sent at once.
        pub send_now: bool,
        /// Expected cost by the deadline, with the best continuation.
        pub expected_cost_wei: Uint,
        /// Base fee up to which it would be sent now.
        pub reservation_wei_per_gas: Price,
        /// 10 % quantile of the base fee near the deadline.
        pub q10_wei_per_gas: Price,
        /// 90 % quantile of the base fee near the deadline.
        pub q90_wei_per_gas: Price,
        /// Expected time until it is sent, ms.
        pub expected_send_in_ms: u64,
        /// Probability that the fee cap offered now covers the base fee near the deadline.
        pub cap_covers: f64,
    }

    /// Result of one request of a batch: `accepted` or `problem`.
    pub struct BatchResult<'a> {
        /// The HTTP status that the request alone would have got.
        #[serde(default)]
        pub status: u16 = required,
        /// The acceptance, if the status is 202.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub accepted: Option<Accepted>,
        /// The reason of the refusal, otherwise.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub problem: Option<Problem<'a>>,
    }

    /// One result for each request of a batch, in order.
    pub struct BatchResults<'a> {
        /// The results.
        pub results: Vec<BatchResult<'a>>,
    }

    /// An error answer (RFC 9457). Switch on `code`; `title` and `detail` are for people.
    #[derive(Default, Eq)]
    pub struct Problem<'a> {
        /// `urn:slackwater:problem:<code>`.
        #[serde(default, rename = "type")]
        #[cfg_attr(feature = "openapi", schema(example = "urn:slackwater:problem:invalid_signature"))]
        pub kind: Cow<'a, str> = required,
        /// Short text for people.
        #[serde(default)]
        pub title: Cow<'a, str> = required,
        /// HTTP status.
        #[serde(default)]
        pub status: u16 = required,
        /// This occurrence, for people.
        #[serde(default)]
        pub detail: Cow<'a, str> = required,
        /// Stable code to switch on.
        pub code: Cow<'a, str>,
        /// Time until the next attempt, ms.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub retry_after_ms: Option<u64>,
        /// Path of the field at fault, such as `requests[3].forward.gas`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub field: Option<Cow<'a, str>>,
        /// Line of the error in the body, from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub line: Option<usize>,
        /// Column of the error in the line, from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub column: Option<usize>,
        /// The request that is in the way.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub existing: Option<RequestId>,
        /// The nonce that nobody has brought, behind which the request would wait.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub missing: Option<u64>,
        /// The value that would have been right, such as the signer's next nonce.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub expected: Option<u64>,
        /// The same submission may succeed later, unchanged.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub retryable: bool,
        /// It may have been accepted all the same; submitting the same bytes again is safe.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub ambiguous: bool,
    }

    /// An event of a request.
    #[derive(Eq)]
    pub struct Event<'a> {
        /// Global sequence number; resume after it.
        pub seq: u64,
        /// The request's id.
        pub request_id: RequestId,
        /// Sequence number within the request, from 1.
        pub request_seq: u32,
        /// The request's tenant.
        #[serde(default)]
        pub tenant: Cow<'a, str> = required,
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// New status.
        pub status: OpenStatus,
        /// Stable code of the reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reason: Option<OpenReason>,
        /// Text for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub detail: Option<Cow<'a, str>>,
        /// The batch: `chainId:sender:nonce`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub batch: Option<BatchId>,
        /// Transaction hash.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<super::schema::Hash>))]
        pub tx_hash: Option<B256>,
        /// Block number.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub block_number: Option<u64>,
        /// Time, Unix ms.
        pub at_ms: Timestamp,
    }

    /// A request without its content.
    #[derive(Eq)]
    pub struct RequestSummary {
        /// The request's id.
        pub id: RequestId,
        /// Order of acceptance; the cursor of lists.
        #[serde(default)]
        pub seq: u64 = required,
        /// Its tenant.
        #[serde(default)]
        pub tenant: String = required,
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// `forward`, `call` or `authorization`.
        pub kind: String,
        /// Status.
        pub status: OpenStatus,
        /// Stable code of the reason why it ended or went back to the queue.
        pub reason: Option<OpenReason> = required,
        /// Contract called in the end.
        pub target: Account,
        /// Promised deadline of its inclusion, Unix ms.
        pub deadline_at_ms: Timestamp,
        /// Latest acceptable inclusion, Unix ms.
        #[cfg_attr(feature = "openapi", schema(value_type = u64))]
        pub valid_until_ms: Option<Timestamp> = required,
        /// Time at which its promise was missed, Unix ms, if it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub late_at_ms: Option<Timestamp>,
        /// It ended without being executed, before the deadline that its user signed: until then, Unix seconds as
        /// `forward.deadline`, whoever has the signature can still use it. The user's next request takes the same nonce.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub executable_until: Option<u64>,
        /// Time of acceptance, Unix ms.
        pub accepted_at_ms: Timestamp,
        /// Time of the last change, Unix ms.
        pub updated_at_ms: Timestamp,
        /// The batch it is, or was last, in: `chainId:sender:nonce`.
        pub batch: Option<BatchId> = required,
        /// Hash of the transaction that executed it.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<super::schema::Hash>))]
        pub tx_hash: Option<B256> = required,
        /// Number of the block that executed it.
        pub block_number: Option<u64> = required,
        /// Its share of the gas used.
        pub gas_used: Option<u64> = required,
        /// Its share of the cost, once final.
        pub cost_wei: Option<Uint> = required,
        /// Its tenant's charge for that (`tenant.price_percent`); the cost itself, unless the operator chose otherwise.
        pub price_wei: Option<Uint> = required,
        /// Worst case taken from the budget: the larger of cost and price.
        #[cfg_attr(feature = "openapi", schema(value_type = Uint))]
        pub reserved_wei: Option<Uint> = required,
        /// The id of the API key that submitted it. Page keys do not see it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub submitted_by: Option<String>,
    }

    /// A page of requests, newest first.
    #[derive(Eq)]
    pub struct RequestPage {
        /// The requests; perhaps fewer than `limit`, or none, on any page.
        pub requests: Vec<RequestSummary>,
        /// Give it as `cursor` to get the next page; absent on the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub next_cursor: Option<String>,
    }

    /// A request with all that is known about it.
    pub struct Request<'a> {
        /// Its state.
        #[serde(flatten)]
        pub summary: RequestSummary,
        /// More about `reason`, for people: a target's revert text, for instance.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub detail: Option<Cow<'a, str>>,
        /// The content, for kind `forward`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub forward: Option<Forward>,
        /// The content, for kind `call`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub call: Option<Call>,
        /// The content, for kind `authorization`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub authorization: Option<Authorization>,
        /// The caller's ceiling.
        pub max_cost_wei: Option<Uint> = required,
        /// Highest price of gas that the reservation covers.
        #[serde(default)]
        pub ceiling_wei_per_gas: Price = required,
        /// The promise.
        pub promise: Promise,
        /// The quote at acceptance.
        pub quote: Option<Quote> = required,
        /// Number of transactions that carried it and failed as a whole.
        #[serde(default)]
        pub batch_failures: u32 = required,
        /// Transactions signed for its current (or last) batch, oldest first.
        #[serde(default)]
        pub attempts: Vec<Attempt> = required,
        /// Its events, oldest first; the beginning of them, if there are very many.
        #[serde(default)]
        pub timeline: Vec<Event<'a>> = required,
    }

    /// The two prices that a transaction signs.
    #[derive(Copy, Eq)]
    pub struct Fees {
        /// Fee cap.
        pub max_fee_wei_per_gas: Price,
        /// Priority fee.
        pub priority_fee_wei_per_gas: Price,
    }

    /// One signed transaction for a batch's nonce.
    #[derive(Eq)]
    pub struct Attempt {
        /// 0 for the first.
        pub index: u32,
        /// `payload` or `cancel`.
        pub kind: Cow<'static, str>,
        /// Prices.
        #[serde(flatten)]
        pub fees: Fees,
        /// Transaction hash.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub tx_hash: B256,
        /// Time of signing, Unix ms.
        pub created_at_ms: Timestamp,
    }

    /// A batch: the requests that share one (sender, nonce).
    #[derive(Eq)]
    pub struct Batch {
        /// `chainId:sender:nonce`.
        pub id: BatchId,
        /// EIP-155 chain id.
        pub chain_id: u64,
        /// Account that sends.
        pub sender: Account,
        /// Its nonce.
        pub nonce: u64,
        /// `signed`, `broadcast`, `included`, `finalized`, `cancelled` or `lost`.
        pub state: Cow<'static, str>,
        /// Transaction recipient.
        pub to: Account,
        /// Transaction value.
        pub value_wei: Uint,
        /// Gas limit.
        pub gas_limit: u64,
        /// Earliest deadline of its members, Unix ms.
        pub deadline_at_ms: Timestamp,
        /// Highest price of gas of any attempt.
        pub ceiling_wei_per_gas: Price,
        /// The reason for sending it then.
        pub trigger: String,
        /// Time of planning, Unix ms.
        pub created_at_ms: Timestamp,
        /// Transaction in a block.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<super::schema::Hash>))]
        pub included_hash: Option<B256> = required,
        /// That block's number.
        pub block_number: Option<u64> = required,
        /// That block's hash.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<super::schema::Hash>))]
        pub block_hash: Option<B256> = required,
        /// Gas used.
        pub gas_used: Option<u64> = required,
        /// Its cost.
        pub cost_wei: Option<Uint> = required,
        /// Signed transactions, oldest first.
        pub attempts: Vec<Attempt>,
        /// Number of requests that it carries.
        pub member_count: usize,
        /// Those that the caller may see, in execution order.
        pub members: Vec<RequestId>,
    }
}

impl Promise {
    /// The signed words.
    pub const fn words(&self) -> request::Promise {
        request::Promise {
            request_hash: self.request_hash,
            chain_id: self.chain_id,
            deadline: self.deadline,
            relayer: self.relayer.0,
        }
    }
}

impl From<chain::Fees> for Fees {
    fn from(fees: chain::Fees) -> Self {
        Self {
            max_fee_wei_per_gas: Uint(fees.max_fee_per_gas),
            priority_fee_wei_per_gas: Uint(fees.max_priority_fee_per_gas),
        }
    }
}
