//! What a submission or a question about costs is answered with.

use alloy_primitives::{B256, U256};
use serde::Serialize;
use slackwater::{
    relay::{Acceptance, Quote, WaitQuote},
    request::{Promise, Status},
};
use utoipa::ToSchema;

use crate::{
    http::problem::Problem,
    scalar::{Account, HexBytes, Uint},
};

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
    pub(super) fn new(promise: &Promise, signature: &alloy_primitives::Bytes) -> Self {
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
    /// When its inclusion is promised by, Unix ms.
    deadline_at_ms: u64,
    /// Latest acceptable inclusion, Unix ms: if the promise is missed it goes on until then.
    valid_until_ms: u64,
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
            valid_until_ms: record.valid_until.0,
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
    #[schema(value_type = Option<crate::http::problem::ProblemBody<'static>>)]
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
