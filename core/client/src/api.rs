//! Every call of version 1 of the API, as values: nothing is sent here.

use std::time::Duration;

use alloy_primitives::B256;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Event, Open, Problem, RequestDetail,
    error::{ClientError, bounded},
    http::{ApiCall, HttpAnswer, HttpCall, excerpt, parsed},
    submit::Submit,
};
use crate::{
    json,
    request::{BatchId, Reason, RequestId, Status},
    time::{Timestamp, millis},
    wire::{
        Accepted, Batch, BatchResults as Results, ChainFees, ChainForecast, Chains, Count, Promise, Quote,
        QuoteRequest, RequestPage, RequestSummary, Span,
    },
};

/// Path of single submissions.
pub(super) const SUBMIT_PATH: &str = "/v1/requests";
/// Path of batches.
pub(super) const BATCH_PATH: &str = "/v1/requests/batch";

/// `POST /v1/requests`: accepts one request.
pub fn submit(submit: &Submit) -> ApiCall<Accepted> {
    ApiCall::new(HttpCall::post(SUBMIT_PATH, submit.body()), parsed)
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
    let results: Results<'static> = parsed(answer)?;
    Ok(results
        .results
        .into_iter()
        .map(|item| match (item.accepted, item.problem) {
            (Some(accepted), _) => Ok(accepted),
            (None, Some(problem)) => {
                Err(ClientError::Problem(Box::new(Problem { status: item.status, ..bounded(problem) })))
            }
            (None, None) => Err(ClientError::Status { status: item.status, retry_after_ms: None }),
        })
        .collect())
}

/// `POST /v1/quotes`: what a request with this gas would cost now and, if it may wait, what waiting is worth.
pub fn quote(chain_id: u64, gas: u64, within: Option<Duration>) -> ApiCall<Quote> {
    any(quote_http(chain_id, gas, within))
}

// What is sent, without its answer's reader: that would come with every call of `by_name`.
fn quote_http(chain_id: u64, gas: u64, within: Option<Duration>) -> HttpCall {
    let within = within.map(|within| Span(millis(within)));
    let body = serde_json::to_string(&QuoteRequest { chain_id: Count(chain_id), gas: Count(gas), within });
    HttpCall::post("/v1/quotes", body.unwrap_or_else(|error| unreachable!("a question is always JSON: {error}")))
}

/// `GET /v1/requests/{id}`: all about one request.
pub fn request(id: RequestId) -> ApiCall<RequestDetail> {
    any(request_http(id))
}

fn request_http(id: RequestId) -> HttpCall {
    HttpCall::get(format!("/v1/requests/{id}"))
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
    any(request_http(id))
}

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    ApiCall::new(HttpCall::get(format!("/v1/requests{query}")), parsed)
}

/// `DELETE /v1/requests/{id}`: withdraws a request that is still queued.
pub fn cancel(id: RequestId) -> ApiCall<RequestSummary> {
    any(cancel_http(id))
}

fn cancel_http(id: RequestId) -> HttpCall {
    HttpCall::delete(format!("/v1/requests/{id}"))
}

/// `GET /v1/chains`: the chains that are served.
pub fn chains() -> ApiCall<Chains> {
    any(chains_http())
}

fn chains_http() -> HttpCall {
    HttpCall::get("/v1/chains".to_owned())
}

/// `GET /v1/chains/{id}/fees`: prices now.
pub fn fees(chain_id: u64) -> ApiCall<ChainFees> {
    any(fees_http(chain_id))
}

fn fees_http(chain_id: u64) -> HttpCall {
    HttpCall::get(format!("/v1/chains/{chain_id}/fees"))
}

/// `GET /v1/chains/{id}/forecast`: the expected base fee; with `horizon`, only at the nearest one.
pub fn forecast(chain_id: u64, horizon: Option<Duration>) -> ApiCall<ChainForecast> {
    any(forecast_http(chain_id, horizon))
}

fn forecast_http(chain_id: u64, horizon: Option<Duration>) -> HttpCall {
    let query = horizon.map(|horizon| format!("?horizon={}", span(horizon))).unwrap_or_default();
    HttpCall::get(format!("/v1/chains/{chain_id}/forecast{query}"))
}

/// `GET /v1/batches/{id}`: one batch.
pub fn batch(id: BatchId) -> ApiCall<Batch> {
    ApiCall::new(HttpCall::get(format!("/v1/batches/{id}")), parsed)
}

/// Any call, with its answer read as JSON.
pub fn any<T: DeserializeOwned>(http: HttpCall) -> ApiCall<T> {
    ApiCall::new(http, parsed)
}

/// Arguments of a call in [`by_name`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arguments {
    #[serde(default)]
    id: String,
    chain_id: Option<Count>,
    gas: Option<Count>,
    within_ms: Option<f64>,
    horizon_ms: Option<f64>,
}

/// Makes a call from its name and its arguments in JSON, for other languages: `quote` of `chainId`, `gas` and `withinMs`; `request`
/// and `cancel` of `id`; `chains`; `fees` of `chainId`; `forecast` of `chainId` and `horizonMs`.
///
/// # Errors
/// [`ClientError::Invalid`] names the argument that is missing or wrong.
pub fn by_name(name: &str, arguments: &str) -> Result<HttpCall, ClientError> {
    let given: Arguments = json::read(arguments.as_bytes())
        .map_err(|error| ClientError::invalid("arguments", excerpt(&error.to_string())))?;
    let number = |field, count: Option<Count>| match count {
        Some(count) => Ok(count.0),
        None => Err(ClientError::invalid(field, "missing")),
    };
    let id = || given.id.parse().map_err(|_| ClientError::invalid("id", "not the id of a request"));
    let chain_id = || number("chainId", given.chain_id);
    Ok(match name {
        "quote" => quote_http(chain_id()?, number("gas", given.gas)?, span_of("withinMs", given.within_ms)?),
        "request" => request_http(id()?),
        "cancel" => cancel_http(id()?),
        "chains" => chains_http(),
        "fees" => fees_http(chain_id()?),
        "forecast" => forecast_http(chain_id()?, span_of("horizonMs", given.horizon_ms)?),
        _ => return Err(ClientError::invalid("name", "no call has it")),
    })
}

/// A span of time as JavaScript counts it.
fn span_of(field: &'static str, ms: Option<f64>) -> Result<Option<Duration>, ClientError> {
    match ms {
        Some(ms) if ms >= 0.0 => Ok(Some(Duration::from_millis(ms as u64))),
        Some(_) => Err(ClientError::invalid(field, "not a span of time")),
        None => Ok(None),
    }
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
