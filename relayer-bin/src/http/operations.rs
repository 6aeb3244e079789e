//! Chains, lanes, batches, probes and pages.

use std::{sync::LazyLock, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde::{Deserialize, Serialize};
use slackwater::{
    relay::{ChainHealth, ChainStatus},
    request::{BatchId, RequestId},
};
use utoipa::{IntoParams, ToSchema};

use super::{
    MetricsAccess, Shared,
    auth::Caller,
    body,
    dto::{
        BatchBody, ChainFeesView, ChainView, ChainsView, CountView, CountsView, ForecastBody, LaneView, LanesView,
        SourceView, SourcesView,
    },
    openapi,
    problem::{Problem, ProblemBody},
    requests::query,
};
use crate::scalar::{Account, Span};

type Answer = Result<Response<Body>, Problem>;

/// The chains that are served, with their condition.
#[utoipa::path(
    get, path = "/v1/chains", tag = "operations",
    responses((status = 200, description = "The chains", body = ChainsView))
)]
pub(super) async fn chains(State(app): State<Shared>, caller: Caller) -> Response<Body> {
    let chains = app.relay.chains().into_iter().map(|status| ChainView::new(status, caller.is_operator)).collect();
    body::json(StatusCode::OK, &ChainsView { relayer: Account(app.relay.identity()), chains })
}

/// Fees of one chain now.
#[utoipa::path(
    get, path = "/v1/chains/{id}/fees", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    responses(
        (status = 200, description = "The fees", body = ChainFeesView),
        (status = 404, description = "Not served", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn fees(State(app): State<Shared>, _caller: Caller, Path(id): Path<String>) -> Answer {
    let chain_id: u64 = id.parse().map_err(|_| Problem::new("malformed_id", "a chain's id is a decimal integer"))?;
    let chain = app.relay.chains().into_iter().find(|chain| chain.chain_id == chain_id);
    let chain = chain.ok_or_else(|| Problem::new("not_found", format!("chain {chain_id} is not served here")))?;
    Ok(body::json(StatusCode::OK, &ChainFeesView::from(&chain)))
}

/// The lanes: sender accounts with their nonces and balances.
#[utoipa::path(
    get, path = "/v1/lanes", tag = "operations",
    responses((status = 200, description = "The lanes", body = LanesView))
)]
pub(super) async fn lanes(State(app): State<Shared>, _caller: Caller) -> Response<Body> {
    let lanes = app.relay.lanes().into_iter().map(LaneView::from).collect();
    body::json(StatusCode::OK, &LanesView { lanes })
}

/// Which horizon.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForecastQuery {
    /// Only the horizon nearest to this time, such as `5m`.
    horizon: Option<String>,
}

/// What a chain's base fee is expected to be, with intervals, and what that means for requests that can wait.
#[utoipa::path(
    get, path = "/v1/chains/{id}/forecast", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id"), ForecastQuery),
    responses(
        (status = 200, description = "The forecast", body = ForecastBody),
        (status = 404, description = "Not served, or not forecast", body = ProblemBody<'static>, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn forecast(
    State(app): State<Shared>,
    _caller: Caller,
    Path(id): Path<String>,
    params: Result<Query<ForecastQuery>, QueryRejection>,
) -> Answer {
    let ForecastQuery { horizon } = query(params)?;
    let chain_id: u64 = id.parse().map_err(|_| Problem::new("malformed_id", "a chain's id is a decimal integer"))?;
    let horizon = match horizon {
        Some(text) => {
            let span =
                Span::parse(&text).map_err(|problem| Problem::new("invalid_query", format!("horizon: {problem}")))?;
            Some(Duration::from_millis(span.0))
        }
        None => None,
    };
    let view = app.relay.forecast(chain_id).ok_or_else(|| {
        Problem::new("not_found", format!("chain {chain_id} is not served here, has no blocks yet, or sends at once"))
    })?;
    Ok(body::json(StatusCode::OK, &ForecastBody::new(chain_id, &view, horizon)))
}

/// The fee sources: how far each RPC endpoint is believed, and why.
#[utoipa::path(
    get, path = "/v1/sources", tag = "operations",
    responses((status = 200, description = "The sources", body = SourcesView))
)]
pub(super) async fn sources(State(app): State<Shared>, _caller: Caller) -> Response<Body> {
    let sources = app.relay.fee_sources().into_iter().map(SourceView::from).collect();
    body::json(StatusCode::OK, &SourcesView { sources })
}

/// Numbers of requests by chain and status. Operators only.
#[utoipa::path(
    get, path = "/v1/counts", tag = "operations",
    responses(
        (status = 200, description = "The numbers", body = CountsView),
        (status = 403, description = "Not an operator", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn counts(State(app): State<Shared>, caller: Caller) -> Answer {
    if !caller.is_operator {
        return Err(Problem::new("operator_only", "these numbers are over all tenants"));
    }
    let counts = app.relay.counts().await?;
    let counts = counts.into_iter().map(|(chain_id, status, count)| CountView { chain_id, status, count }).collect();
    let last_event_seq = app.relay.last_event_seq().await?;
    Ok(body::json(StatusCode::OK, &CountsView { counts, last_event_seq }))
}

/// One batch: its attempts, its cost, and those of its requests that the caller may see.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "operations",
    params(("id" = String, Path, description = "`chainId:sender:nonce`")),
    responses(
        (status = 200, description = "The batch", body = BatchBody),
        (status = "4XX", description = "Refused", body = ProblemBody<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn batch(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer {
    let id: BatchId = id.parse().map_err(|_| Problem::new("malformed_id", "a batch's id is chainId:sender:nonce"))?;
    let not_found = || Problem::new("not_found", format!("batch {id} is not known"));
    let view = app.relay.batch(id).await?.ok_or_else(not_found)?;
    let members = if caller.is_operator {
        view.members.clone()
    } else {
        let members = visible(&app, &caller, &view.members).await?;
        if members.is_empty() {
            return Err(not_found());
        }
        members
    };
    Ok(body::json(StatusCode::OK, &BatchBody::new(&view, members)))
}

async fn visible(app: &Shared, caller: &Caller, members: &[RequestId]) -> Result<Vec<RequestId>, Problem> {
    let mut seen = Vec::with_capacity(members.len());
    for &id in members {
        if app.relay.request(id).await?.is_some_and(|record| caller.sees(&record.tenant)) {
            seen.push(id);
        }
    }
    Ok(seen)
}

/// Condition of one chain, for probes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Readiness {
    /// EIP-155 chain id.
    chain_id: u64,
    /// `starting`, `healthy`, `impaired` or `unavailable`.
    #[schema(value_type = String)]
    health: ChainHealth,
}

/// What a probe is told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    /// `ok`, `not_ready` or `stopped`.
    status: &'static str,
    /// Version of the relayer.
    version: &'static str,
    /// The chains; only in `/readyz`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chains: Vec<Readiness>,
    /// Why the storage takes no writes now, so that nothing is accepted: `full`, `read_only`, `busy`, `io_error`,
    /// `unreachable`, `corrupt`, `in_doubt` or `other`; only in `/readyz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<&'static str>,
}

/// Liveness: the process works. Restart it if not.
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "Alive", body = Probe), (status = 503, description = "Stopped", body = Probe))
)]
pub(super) async fn healthz(State(app): State<Shared>) -> Response<Body> {
    let is_running = app.relay.is_running();
    let (code, status) = if is_running { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "stopped") };
    body::json(code, &Probe { status, version: env!("CARGO_PKG_VERSION"), chains: Vec::new(), storage: None })
}

/// Readiness: the storage takes writes, at least one chain takes requests, and none is still starting. Send traffic then.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses((status = 200, description = "Ready", body = Probe), (status = 503, description = "Not ready", body = Probe))
)]
pub(super) async fn readyz(State(app): State<Shared>) -> Response<Body> {
    let chains = app.relay.chains();
    let takes = |chain: &ChainStatus| matches!(chain.health, ChainHealth::Healthy | ChainHealth::Impaired);
    // Only its kind: the detail may name paths of this machine.
    let storage = app.relay.storage_fault().map(|fault| fault.kind.as_str());
    let is_ready = app.relay.is_running()
        && storage.is_none()
        && !app.closing.is_cancelled()
        && chains.iter().any(takes)
        && chains.iter().all(|chain| chain.health != ChainHealth::Starting);
    let (code, status) = if is_ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    let chains = chains.into_iter().map(|chain| Readiness { chain_id: chain.chain_id, health: chain.health }).collect();
    body::json(code, &Probe { status, version: env!("CARGO_PKG_VERSION"), chains, storage })
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "probes", security(()),
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<Shared>, headers: HeaderMap) -> Answer {
    let not_found = || Problem::new("not_found", "metrics are off (`server.metrics`)");
    match app.limits.metrics {
        MetricsAccess::Open => {}
        MetricsAccess::Operator if app.keys.authenticate(&headers)?.is_operator => {}
        MetricsAccess::Operator => return Err(Problem::new("operator_only", "`server.metrics` is `operator`")),
        MetricsAccess::Off => return Err(not_found()),
    }
    let exporter = app.exporter.as_ref().ok_or_else(not_found)?;
    Ok(page(exporter.render(), "text/plain; version=0.0.4; charset=utf-8"))
}

/// This API as OpenAPI 3.1.
#[utoipa::path(
    get, path = "/openapi.json", tag = "pages", security(()),
    responses((status = 200, description = "OpenAPI 3.1 document", content_type = "application/json"))
)]
pub(super) async fn openapi() -> Response<Body> {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi::document().into());
    page(DOCUMENT.clone(), "application/json")
}

/// This API for people.
pub(super) async fn docs() -> Response<Body> {
    html(include_str!("pages/docs.html"))
}

/// What the relayer is doing, for people.
pub(super) async fn dashboard() -> Response<Body> {
    html(include_str!("pages/dashboard.html"))
}

fn page(content: impl Into<Body>, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(content.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A page that can load nothing from elsewhere, be framed by nobody, and talk to this origin only.
fn html(content: &'static str) -> Response<Body> {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let mut response = page(content, "text/html; charset=utf-8");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
