//! Every call of version 1 of the API, as values: nothing is sent here.

use std::time::Duration;

use alloy_primitives::B256;
use serde::Deserialize;
use serde_json::json;

use super::{
    Event, Open, Problem, RequestDetail,
    error::ClientError,
    http::{ApiCall, HttpAnswer, HttpCall, json},
    submit::Submit,
};
use crate::{
    request::{BatchId, Reason, RequestId, Status},
    time::{Timestamp, millis},
    wire::{
        Accepted, Batch, BatchResults as Results, ChainFees, ChainForecast, Chains, Promise, Quote, RequestPage,
        RequestSummary,
    },
};

/// Path of single submissions.
pub(super) const SUBMIT_PATH: &str = "/v1/requests";
/// Path of batches.
pub(super) const BATCH_PATH: &str = "/v1/requests/batch";

/// `POST /v1/requests`: accepts one request.
pub fn submit(submit: &Submit) -> ApiCall<Accepted> {
    ApiCall::new(HttpCall::post(SUBMIT_PATH, submit.body()), json)
}

/// One result for each request of a batch, in order.
pub type BatchResults = Vec<Result<Accepted, ClientError>>;

/// `POST /v1/requests/batch`: accepts many requests, each on its own. Results come in the same order; make sure that
/// there are as many of them.
pub fn submit_batch(submits: &[Submit]) -> ApiCall<BatchResults> {
    let bodies: Vec<String> = submits.iter().map(Submit::body).collect();
    submit_bodies(bodies.iter().map(String::as_str))
}

pub(super) fn submit_bodies<'a>(bodies: impl Iterator<Item = &'a str>) -> ApiCall<BatchResults> {
    let mut body = String::from("{\"requests\":[");
    for (index, item) in bodies.enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(item);
    }
    body.push_str("]}");
    ApiCall::new(HttpCall::post(BATCH_PATH, body), batch_results)
}

fn batch_results(answer: &HttpAnswer) -> Result<BatchResults, ClientError> {
    let results: Results<'static> = json(answer)?;
    Ok(results
        .results
        .into_iter()
        .map(|item| match (item.accepted, item.problem) {
            (Some(accepted), _) => Ok(accepted),
            (None, Some(problem)) => {
                Err(ClientError::Problem(Box::new(Problem { status: item.status, ..problem.bounded() })))
            }
            (None, None) => Err(ClientError::Status { status: item.status, retry_after_ms: None }),
        })
        .collect())
}

/// `POST /v1/quotes`: what a request with this gas would cost now and, if it may wait, what waiting is worth.
#[inline]
pub fn quote(chain_id: u64, gas: u64, within: Option<Duration>) -> ApiCall<Quote> {
    let mut body = json!({ "chainId": chain_id, "gas": gas.to_string() });
    if let Some(within) = within {
        body["within"] = span(within).into();
    }
    ApiCall::new(HttpCall::post("/v1/quotes", body.to_string()), json)
}

/// `GET /v1/requests/{id}`: all about one request.
#[inline]
pub fn request(id: RequestId) -> ApiCall<RequestDetail> {
    ApiCall::new(HttpCall::get(format!("/v1/requests/{id}")), json)
}

/// The members of a request's state that the machines of this room look at, without `serde(flatten)`: that, and members that
/// nobody looks at, would take a tenth of a WASM module.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Look {
    pub(super) id: RequestId,
    pub(super) chain_id: u64,
    pub(super) status: Open<Status>,
    pub(super) reason: Option<Open<Reason>>,
    deadline_at_ms: Timestamp,
    valid_until_ms: Option<Timestamp>,
    accepted_at_ms: Timestamp,
    pub(super) updated_at_ms: Timestamp,
    pub(super) batch: Option<BatchId>,
    pub(super) tx_hash: Option<B256>,
    pub(super) block_number: Option<u64>,
    promise: Promise,
    quote: Option<Quote>,
    #[serde(default)]
    pub(super) timeline: Vec<Event>,
}

impl Look {
    /// The acceptance, as a repeated submission would get it.
    pub(super) fn accepted(self) -> Accepted {
        let Self { id, chain_id, status, deadline_at_ms, valid_until_ms, accepted_at_ms, promise, quote, .. } = self;
        Accepted {
            id,
            status,
            chain_id,
            deadline_at_ms,
            valid_until_ms,
            accepted_at_ms,
            promise,
            quote,
            duplicate: true,
        }
    }
}

/// As [`request`].
pub(super) fn look(id: RequestId) -> ApiCall<Look> {
    ApiCall::new(request(id).http().clone(), json)
}

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Only this status.
    pub status: Option<Status>,
    /// Only this chain.
    pub chain_id: Option<u64>,
    /// [`RequestPage::next_cursor`] of the page before.
    pub cursor: Option<String>,
    /// Requests on the page, 1 to 500.
    pub limit: Option<u16>,
}

/// `GET /v1/requests`: a page of requests, newest first.
pub fn requests(filter: &ListFilter) -> ApiCall<RequestPage> {
    let mut query = Vec::new();
    query.extend(filter.status.map(|status| format!("status={status}")));
    query.extend(filter.chain_id.map(|chain_id| format!("chainId={chain_id}")));
    // A cursor is decimal digits today; whatever else it becomes must not escape its place.
    let cursor = filter.cursor.as_ref().map(|cursor| cursor.chars().filter(char::is_ascii_alphanumeric).collect());
    query.extend(cursor.map(|cursor: String| format!("cursor={cursor}")));
    query.extend(filter.limit.map(|limit| format!("limit={limit}")));
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    ApiCall::new(HttpCall::get(format!("/v1/requests{query}")), json)
}

/// `DELETE /v1/requests/{id}`: withdraws a request that is still queued.
#[inline]
pub fn cancel(id: RequestId) -> ApiCall<RequestSummary> {
    ApiCall::new(HttpCall::delete(format!("/v1/requests/{id}")), json)
}

/// `GET /v1/chains`: the chains that are served.
#[inline]
pub fn chains() -> ApiCall<Chains> {
    ApiCall::new(HttpCall::get("/v1/chains".to_owned()), json)
}

/// `GET /v1/chains/{id}/fees`: prices now.
#[inline]
pub fn fees(chain_id: u64) -> ApiCall<ChainFees> {
    ApiCall::new(HttpCall::get(format!("/v1/chains/{chain_id}/fees")), json)
}

/// `GET /v1/chains/{id}/forecast`: the expected base fee; with `horizon`, only at the nearest one.
#[inline]
pub fn forecast(chain_id: u64, horizon: Option<Duration>) -> ApiCall<ChainForecast> {
    let query = horizon.map(|horizon| format!("?horizon={}", span(horizon))).unwrap_or_default();
    ApiCall::new(HttpCall::get(format!("/v1/chains/{chain_id}/forecast{query}")), json)
}

/// `GET /v1/batches/{id}`: one batch.
pub fn batch(id: BatchId) -> ApiCall<Batch> {
    ApiCall::new(HttpCall::get(format!("/v1/batches/{id}")), json)
}

/// `GET /v1/events`: opens the stream of all the tenant's events after `after`, or from now on.
pub fn events(after: Option<u64>) -> HttpCall {
    HttpCall::stream("/v1/events".to_owned(), after)
}

/// `GET /v1/requests/{id}/events`: opens the stream of one request's events after `after`, or from the first on.
pub fn events_of(id: RequestId, after: Option<u64>) -> HttpCall {
    HttpCall::stream(format!("/v1/requests/{id}/events"), after)
}

/// A span of time as the API reads it.
pub(super) fn span(span: Duration) -> String {
    format!("{}ms", millis(span))
}
