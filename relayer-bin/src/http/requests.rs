//! Requests: submit, get, list, cancel, quote.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, Response, StatusCode},
};
use hyper::body::Body as _;
use serde::Deserialize;
use slackwater::Submission;
use slackwater_core::{
    request::{Promise, RequestId, Status, Withdrawal},
    wire::{self, Accepted, BatchResults, Quote, QuoteRequest, RequestPage, RequestSummary, WithdrawalBody},
};
use slackwater_ledger::{EventFilter, RequestFilter, RequestRecord};
use utoipa::IntoParams;

use super::{
    Counting, Shared,
    auth::Caller,
    body, dto, escorted, overloaded, page,
    peer::{Network, Peer},
    problem::Problem,
    recorded,
};

/// Default number of requests on a page.
const DEFAULT_PAGE: usize = 50;
/// Most requests on a page.
const MAX_PAGE: usize = 500;
/// Most requests that are scanned for a page, where few may match: of the tenant's own, of those with the status, or of
/// all.
const MAX_LOOKED_AT: usize = 20_000;
/// Approximate size of one request's result in the answer to a batch, bytes.
const ANSWER_BYTES: usize = 1_024;
/// Most events in the answer about one request; `/events` has all.
const MAX_TIMELINE: usize = 1_000;

type Answer = Result<Response<Body>, Problem>;

/// The `Idempotency-Key` header.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::new("invalid_header", "Idempotency-Key must be visible ASCII"))
}

/// Reads an id from a path.
pub(super) fn parse_id(text: &str) -> Result<RequestId, Problem> {
    text.parse().map_err(|_| Problem::new("malformed_id", "a request's id is 0x and 64 hexadecimal digits"))
}

/// The query string; `invalid_query` if it can't be parsed.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(value)| value).map_err(|rejection| Problem::new("invalid_query", rejection.body_text()))
}

/// The request with this id, if the caller may see it.
pub(super) async fn find(app: &Shared, caller: &Caller, id: RequestId) -> Result<RequestRecord, Problem> {
    let record = app.relay.request(id).await?;
    record
        .filter(|record| caller.sees(&record.tenant))
        .ok_or_else(|| Problem::new("not_found", format!("request {id} is not known")))
}

/// Accepts one request.
///
/// Answered when the request is durable, with a signed promise. Submitting the same signed bytes again is safe: it is
/// the same request.
#[utoipa::path(
    post, path = "/v1/requests", tag = "requests",
    params(("Idempotency-Key" = Option<String>, Header,
        description = "Same key and same body: the first answer. Same key and another body: 409.")),
    request_body = wire::Submit<'static>,
    responses(
        (status = 202, description = "Accepted", body = Accepted),
        (status = "4XX", description = "Refused; nothing is kept", body = wire::Problem<'static>, content_type = "application/problem+json"),
        (status = 503, description = "Come back after `Retry-After`", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn submit(
    State(app): State<Shared>,
    caller: Caller,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let counted = |problem| app.counted(&caller, problem);
    let body::Read { bytes, held } =
        body::read(&app, &caller, &parts.headers, body, app.limits.single()).await.map_err(counted)?;
    let key = idempotency_key(&parts.headers).map_err(counted)?;
    let item = body::parse(&bytes).and_then(|body| dto::submission(body, key));
    drop(bytes);
    let acceptance = submit_items(&app, &caller, peer.network(), vec![item]).await.pop();
    let acceptance = acceptance.unwrap_or_else(|| unreachable!("one item has one result"))?;
    drop(held);
    Ok(body::json_sized(StatusCode::ACCEPTED, &dto::accepted(&acceptance), 1_024))
}

/// Accepts many requests, each on its own.
///
/// One result for each, in order. A refused or malformed request affects no other.
#[utoipa::path(
    post, path = "/v1/requests/batch", tag = "requests",
    request_body = wire::SubmitBatch<'static>,
    responses(
        (status = 207, description = "One result for each request, in order", body = BatchResults<'static>),
        (status = "4XX", description = "The batch as a whole was refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn submit_batch(
    State(app): State<Shared>,
    caller: Caller,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Answer {
    let (parts, body) = request.into_parts();
    let limits = &app.limits;
    let counted = |problem| app.counted(&caller, problem);
    let body::Read { bytes, held } =
        body::read(&app, &caller, &parts.headers, body, limits.batch()).await.map_err(counted)?;
    if parts.headers.contains_key("idempotency-key") {
        return Err(counted(Problem::new(
            "invalid_header",
            "a batch has an `idempotencyKey` in each request instead of the Idempotency-Key header",
        )));
    }
    let parsed = dto::parse_batch(&bytes, limits.max_batch_items).map_err(counted)?;
    let items: Vec<_> = parsed.into_iter().map(|body| body.and_then(|body| dto::submission(body, None))).collect();
    drop(bytes);
    let total = items.len();
    // Before anything is submitted: accepted requests must be answered.
    let mut answer = app.hold_answer(Some(&caller));
    if !answer.grow_to(64 + total * ANSWER_BYTES) {
        return Err(counted(overloaded(&app)));
    }
    let results = submit_items(&app, &caller, peer.network(), items).await;
    let results = results.iter().map(dto::batch_result).collect();
    drop(held);
    let mut response = body::json_sized(StatusCode::MULTI_STATUS, &BatchResults { results }, 64 + total * ANSWER_BYTES);
    answer.set(usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX));
    response.extensions_mut().insert(Counting::Done);
    Ok(escorted(response, answer))
}

/// Submits the valid items, and returns one result for each item, in order.
async fn submit_items(
    app: &Shared,
    caller: &Caller,
    network: Network,
    items: Vec<Result<Submission, Problem>>,
) -> Vec<Result<slackwater::Accepted, Problem>> {
    if caller.is_page {
        return page::submit(app, caller, network, items).await;
    }
    let items = items.into_iter().map(|item| item.map_err(|problem| app.counted(caller, problem))).collect();
    submit_admitted(app, caller, items).await
}

/// Submits the items without an error so far, and returns one result for each item, in order.
pub(super) async fn submit_admitted(
    app: &Shared,
    caller: &Caller,
    items: Vec<Result<Submission, Problem>>,
) -> Vec<Result<slackwater::Accepted, Problem>> {
    let mut good = Vec::with_capacity(items.len());
    let refused: Vec<Option<Problem>> = items.into_iter().map(|item| item.map(|item| good.push(item)).err()).collect();
    let mut answers = app.tenant(caller).submit_many(good).await.into_iter();
    let answer = |refused: Option<Problem>| match refused {
        Some(problem) => Err(problem),
        None => match answers.next() {
            Some(answer) => answer.map_err(Problem::from),
            None => unreachable!("the relay answers every item"),
        },
    };
    refused.into_iter().map(answer).collect()
}

/// Filter and page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only this status.
    #[param(value_type = Option<String>)]
    status: Option<Status>,
    /// Only this chain.
    chain_id: Option<u64>,
    /// Only this tenant; for operators.
    tenant: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<u64>,
    /// Requests on the page, 1 to 500; default 50.
    limit: Option<usize>,
}

/// Lists requests, newest first.
///
/// If few match, a page may have fewer than `limit`, or none, and still a `nextCursor`: the number of requests scanned
/// for a page is limited. The list ends where there is none.
#[utoipa::path(
    get, path = "/v1/requests", tag = "requests", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = RequestPage),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(app): State<Shared>,
    caller: Caller,
    params: Result<Query<ListQuery>, QueryRejection>,
) -> Answer {
    let ListQuery { status, chain_id, tenant, cursor, limit } = query(params)?;
    let tenant = match (caller.scope(), tenant) {
        (Some(own), Some(asked)) if own != asked => {
            return Err(Problem::new("operator_only", "only operators see other tenants' requests"));
        }
        (Some(own), _) => Some(own),
        (None, asked) => asked,
    };
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new("invalid_query", format!("limit {limit} is not between 1 and {MAX_PAGE}")));
    }
    // One more than asked for tells whether there is a next page.
    let mut filter =
        RequestFilter { tenant, status, chain_id, before: cursor, limit: limit + 1, ..RequestFilter::default() };
    if let Some(beyond) = filter.beyond(MAX_LOOKED_AT) {
        filter.from = app.relay.history().requests(&beyond).await?.first().map(|record| record.seq + 1);
    }
    let mut records = app.relay.history().requests(&filter).await?;
    let has_more = records.len() > limit;
    records.truncate(limit);
    let next = if has_more { records.last().map(|record| record.seq) } else { filter.from };
    let next_cursor = next.map(|seq| seq.to_string());
    let page = RequestPage { requests: records.iter().map(dto::summary).collect(), next_cursor };
    Ok(body::json_sized(StatusCode::OK, &page, 64 + page.requests.len() * 512))
}

/// Details of one request: content, promise, attempts, timeline.
#[utoipa::path(
    get, path = "/v1/requests/{id}", tag = "requests", params(("id" = String, Path, description = "The request's id")),
    responses(
        (status = 200, description = "The request", body = wire::Request<'static>),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer {
    let id = parse_id(&id)?;
    let mut record = find(&app, &caller, id).await?;
    if caller.is_page {
        record.submitted_by = None;
    }
    let batch = match record.batch {
        Some(batch) => app.relay.history().batch(batch).await?,
        None => None,
    };
    let filter = EventFilter { after: 0, request: Some(record.seq), tenant: None, limit: MAX_TIMELINE };
    let timeline = app.relay.history().events(&filter).await?;
    let promise = promise_of(&app, &record);
    let attempts = batch.map(|view| view.attempts).unwrap_or_default();
    Ok(body::json_sized(StatusCode::OK, &dto::request(&record, &promise, &attempts, &timeline), 4_096))
}

/// The promise that was signed at acceptance: a function of the record.
fn promise_of(app: &Shared, record: &RequestRecord) -> Promise {
    Promise {
        request_hash: record.id,
        chain_id: record.chain_id,
        deadline: record.deadline.as_secs(),
        relayer: app.relay.identity(),
    }
}

/// Withdraws a request that is still queued.
///
/// Without a body: withdraws a request of the tenant, by a key with the scope `cancel`. With a body: a request of any
/// tenant, by the user who signed it; a page key needs that.
#[utoipa::path(
    delete, path = "/v1/requests/{id}", tag = "requests", params(("id" = String, Path, description = "The request's id")),
    request_body = Option<WithdrawalBody>,
    responses(
        (status = 200, description = "Cancelled", body = RequestSummary),
        (status = 409, description = "It is in a transaction, or has ended", body = wire::Problem<'static>, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let id = parse_id(&id)?;
    let (parts, body) = request.into_parts();
    let record = if body.is_end_stream() {
        if caller.is_page {
            let detail = "with a page key a request is withdrawn by its user: send a signed withdrawal";
            return Err(Problem::new("signature_needed", detail));
        }
        find(&app, &caller, id).await?
    } else {
        let body::Read { bytes, .. } = body::read(&app, &caller, &parts.headers, body, app.limits.single()).await?;
        let WithdrawalBody { signature } = body::parse(&bytes)?;
        let not_found = || Problem::new("not_found", format!("request {id} is not known"));
        let record = app.relay.request(id).await?.ok_or_else(not_found)?;
        let (_, signer, _) = record.sequence.ok_or_else(not_found)?;
        let withdrawal = Withdrawal { request_hash: id, chain_id: record.chain_id };
        let is_signed = withdrawal.is_signed_by(signer, &signature);
        if !is_signed.map_err(|error| Problem::new("invalid_signature", error.to_string()))? {
            let detail = format!("the withdrawal is not signed by {signer}, who signed the request");
            return Err(Problem::new("invalid_signature", detail));
        }
        record
    };
    let by = (*record.tenant != *caller.tenant && caller.is_operator()).then(|| caller.name());
    let acting = Arc::clone(&app);
    let mut cancelled = recorded(async move {
        let cancelled = acting.relay.tenant(record.tenant.as_str()).cancel(id).await?;
        if let Some(by) = by {
            acting.relay.record_action(&by, "cancel", &id.to_string()).await?;
        }
        Ok(cancelled)
    })
    .await?;
    if caller.is_page || !caller.sees(&cancelled.tenant) {
        cancelled.submitted_by = None;
    }
    Ok(body::json(StatusCode::OK, &dto::summary(&cancelled)))
}

/// Estimated cost of a request with this gas if it were sent now, and the expected savings of waiting.
#[utoipa::path(
    post, path = "/v1/quotes", tag = "requests", request_body = QuoteRequest,
    responses(
        (status = 200, description = "The price", body = Quote),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
        (status = 503, description = "No price is known yet", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn quote(State(app): State<Shared>, caller: Caller, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let body::Read { bytes, .. } = body::read(&app, &caller, &parts.headers, body, app.limits.single()).await?;
    let asked: QuoteRequest = body::parse(&bytes)?;
    let quote = app.tenant(&caller).quote(asked.chain_id.0, asked.gas.0)?;
    let wait = match asked.within {
        Some(within) => app.relay.quote_wait(asked.chain_id.0, Duration::from_millis(within.0))?,
        None => None,
    };
    let wait = wait.map(|wait| dto::wait(&quote, &wait));
    Ok(body::json(StatusCode::OK, &Quote { wait, ..dto::quote(&quote) }))
}
