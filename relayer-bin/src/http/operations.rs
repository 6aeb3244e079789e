//! Chains, lanes, batches, probes and pages.

use std::{
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderValue, Response, StatusCode, header},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use slackwater::{ChainHealth, ChainStatus};
use slackwater_core::{
    request::{BatchId, RequestId},
    wire::{
        self, Account, Batch, ChainFees, ChainForecast, Chains, CountRow, Counts, Lanes, LogHead, Probe, Readiness,
        Sources, Span,
    },
};
use utoipa::IntoParams;

use super::{Counting, MetricsAccess, Shared, auth::Caller, body, dto, openapi, problem::Problem, requests::query};

type Answer = Result<Response<Body>, Problem>;

/// The chains that are served, with their condition.
#[utoipa::path(
    get, path = "/v1/chains", tag = "operations",
    responses((status = 200, description = "The chains", body = Chains))
)]
pub(super) async fn chains(State(app): State<Shared>, caller: Caller) -> Response<Body> {
    let chains = app.relay.chains().into_iter().map(|status| dto::chain(status, caller.is_operator())).collect();
    body::json(StatusCode::OK, &Chains { relayer: Account(app.relay.identity()), chains })
}

/// Fees of one chain now.
#[utoipa::path(
    get, path = "/v1/chains/{id}/fees", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id")),
    responses(
        (status = 200, description = "The fees", body = ChainFees),
        (status = 404, description = "Not served", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn fees(State(app): State<Shared>, Path(id): Path<String>) -> Answer {
    let chain_id: u64 = id.parse().map_err(|_| Problem::new("malformed_id", "a chain's id is a decimal integer"))?;
    let chain = app.relay.chains().into_iter().find(|chain| chain.chain_id == chain_id);
    let chain = chain.ok_or_else(|| Problem::new("not_found", format!("chain {chain_id} is not served here")))?;
    Ok(body::json(StatusCode::OK, &dto::fees(&chain)))
}

/// The lanes: sender accounts with their nonces and balances.
#[utoipa::path(
    get, path = "/v1/lanes", tag = "operations",
    responses((status = 200, description = "The lanes", body = Lanes))
)]
pub(super) async fn lanes(State(app): State<Shared>) -> Response<Body> {
    let lanes = app.relay.lanes().into_iter().map(dto::lane).collect();
    body::json(StatusCode::OK, &Lanes { lanes })
}

/// The head of the decision log, at most a second old: a kept copy reveals later changes of anything before it.
#[utoipa::path(
    get, path = "/v1/log/head", tag = "operations", security(()),
    responses(
        (status = 200, description = "Number and hash of the newest entry; number 0 before the first", body = LogHead),
        (status = 503, description = "The storage is away", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn log_head(State(app): State<Shared>) -> Answer {
    let head = app.relay.history().log_head().await.map_err(Problem::from)?;
    let head = head.unwrap_or_else(|| slackwater_core::provenance::Head::genesis(&app.relay.identity().to_string()));
    Ok(body::json(StatusCode::OK, &LogHead { seq: head.seq, hash: head.hash }))
}

/// Selection of a horizon.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ForecastQuery {
    /// Only the horizon nearest to this time, such as `5m`.
    horizon: Option<String>,
}

/// The expected base fee of a chain, with intervals, and its meaning for requests that can wait.
#[utoipa::path(
    get, path = "/v1/chains/{id}/forecast", tag = "operations",
    params(("id" = u64, Path, description = "EIP-155 chain id"), ForecastQuery),
    responses(
        (status = 200, description = "The forecast", body = ChainForecast),
        (status = 404, description = "Not served, or not forecast", body = wire::Problem<'static>, content_type = "application/problem+json"),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn forecast(
    State(app): State<Shared>,
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
    Ok(body::json(StatusCode::OK, &dto::forecast(chain_id, &view, horizon)))
}

/// The fee sources: trust in each RPC endpoint, with the reasons. Their names are for operators.
#[utoipa::path(
    get, path = "/v1/sources", tag = "operations",
    responses((status = 200, description = "The sources", body = Sources))
)]
pub(super) async fn sources(State(app): State<Shared>, caller: Caller) -> Response<Body> {
    let is_operator = caller.is_operator();
    let view = |source| dto::source(source, is_operator);
    let sources = app.relay.fee_sources().into_iter().map(view).collect();
    body::json(StatusCode::OK, &Sources { sources })
}

/// Number of requests by chain and status. Operators only.
#[utoipa::path(
    get, path = "/v1/counts", tag = "operations",
    responses(
        (status = 200, description = "The numbers", body = Counts),
        (status = 403, description = "Not an operator", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn counts(State(app): State<Shared>) -> Answer {
    let counts = app.relay.history().counts().await?;
    let counts = counts
        .into_iter()
        .map(|(chain_id, status, count)| CountRow { chain_id, status: status.into(), count })
        .collect();
    let last_event_seq = app.relay.history().last_event_seq().await?;
    Ok(body::json(StatusCode::OK, &Counts { counts, last_event_seq }))
}

/// One batch: its attempts, its cost, and those of its requests that the caller may see.
#[utoipa::path(
    get, path = "/v1/batches/{id}", tag = "operations",
    params(("id" = String, Path, description = "`chainId:sender:nonce`")),
    responses(
        (status = 200, description = "The batch", body = Batch),
        (status = "4XX", description = "Refused", body = wire::Problem<'static>, content_type = "application/problem+json"),
    )
)]
pub(super) async fn batch(State(app): State<Shared>, caller: Caller, Path(id): Path<String>) -> Answer {
    let id: BatchId = id.parse().map_err(|_| Problem::new("malformed_id", "a batch's id is chainId:sender:nonce"))?;
    let not_found = || Problem::new("not_found", format!("batch {id} is not known"));
    let view = app.relay.history().batch(id).await?.ok_or_else(not_found)?;
    let members = if caller.is_operator() {
        view.members.clone()
    } else {
        let members = visible(&app, &caller, &view.members).await?;
        if members.is_empty() {
            return Err(not_found());
        }
        members
    };
    Ok(body::json(StatusCode::OK, &dto::batch(&view, members)))
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

fn probe(status: &'static str, chains: Vec<Readiness>, storage: Option<&'static str>) -> Probe {
    Probe { status: status.into(), version: env!("CARGO_PKG_VERSION").into(), chains, storage: storage.map(Into::into) }
}

/// Liveness: the process works. Restart it if not.
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "Alive", body = Probe), (status = 503, description = "Stopped", body = Probe))
)]
pub(super) async fn healthz(State(app): State<Shared>) -> Response<Body> {
    let is_running = app.relay.is_running();
    let (code, status) = if is_running { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "stopped") };
    body::json(code, &probe(status, Vec::new(), None))
}

/// Readiness: the storage takes writes, at least one chain takes requests, and none is still starting. Send traffic then.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses((status = 200, description = "Ready", body = Probe), (status = 503, description = "Not ready", body = Probe))
)]
pub(super) async fn readyz(State(app): State<Shared>) -> Response<Body> {
    let chains = app.relay.chains();
    let takes = |chain: &ChainStatus| matches!(chain.health, ChainHealth::Healthy | ChainHealth::Impaired);
    // Only its kind: the detail may contain paths of this machine.
    let storage = app.relay.storage_fault().map(|fault| fault.kind.as_str());
    let is_ready = app.relay.is_running()
        && storage.is_none()
        && !app.closing.is_cancelled()
        && chains.iter().any(takes)
        && chains.iter().all(|chain| chain.health != ChainHealth::Starting);
    let (code, status) = if is_ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    let chains = chains
        .into_iter()
        .map(|chain| Readiness { chain_id: chain.chain_id, health: dto::name(chain.health) })
        .collect();
    body::json(code, &probe(status, chains, storage))
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "probes", security(()),
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<Shared>) -> Answer {
    let exporter = app.exporter.as_ref().filter(|_| app.limits.metrics != MetricsAccess::Off);
    let exporter = exporter.ok_or_else(|| Problem::new("not_found", "metrics are off (`server.metrics`)"))?;
    let mut response = page(app.rendered.get(exporter), "text/plain; version=0.0.4; charset=utf-8");
    // A rendering that slow readers still hold is counted: newer callers no longer share it.
    response.extensions_mut().insert(Counting::Metrics);
    Ok(response)
}

/// Time for which one rendering of the metrics is shared by all callers.
const RENDERED_FOR: Duration = Duration::from_millis(50);

/// The last rendering of the metrics: many callers, perhaps ones that don't read, share few copies.
#[derive(Debug, Default)]
pub(super) struct Rendered(Mutex<Option<(Instant, Bytes)>>);

impl Rendered {
    fn get(&self, exporter: &PrometheusHandle) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, text)) if at.elapsed() < RENDERED_FOR => text.clone(),
            _ => {
                let text = Bytes::from(exporter.render());
                *last = Some((Instant::now(), text.clone()));
                text
            }
        }
    }
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

/// The API's documentation as a web page.
pub(super) async fn docs() -> Response<Body> {
    static PAGE: LazyLock<Page> = LazyLock::new(|| Page::new(include_str!("pages/docs.html")));
    PAGE.answer()
}

/// The dashboard as a web page.
pub(super) async fn dashboard() -> Response<Body> {
    static PAGE: LazyLock<Page> = LazyLock::new(|| Page::new(include_str!("pages/dashboard.html")));
    PAGE.answer()
}

fn page(content: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(content));
    response.extensions_mut().insert(Counting::Shared);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A web page that can load nothing from elsewhere, can't be framed, connects to this origin only, and runs only its
/// own scripts.
struct Page {
    content: &'static str,
    policy: HeaderValue,
}

impl Page {
    fn new(content: &'static str) -> Self {
        let (scripts, styles) = (hashes(content, "script"), hashes(content, "style"));
        let policy = format!(
            "default-src 'none'; script-src{scripts}; style-src{styles}; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::try_from(policy).unwrap_or_else(|_| unreachable!("a policy is made of ASCII"));
        Self { content, policy }
    }

    fn answer(&self) -> Response<Body> {
        let mut response = page(Bytes::from_static(self.content.as_bytes()), "text/html; charset=utf-8");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// ` 'sha256-…'` for the content of each element `name` of `content`.
fn hashes(content: &str, name: &str) -> String {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let inner = content.split(&start).skip(1).filter_map(|rest| rest.split_once(&end).map(|(inner, _)| inner));
    inner.map(|inner| format!(" 'sha256-{}'", base64(&Sha256::digest(inner)))).collect()
}

/// Base64 (RFC 4648) with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let digit = char::from(DIGITS[bits >> (18 - 6 * at) & 63]);
            text.push(if at > group.len() { '=' } else { digit });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_page_runs_its_own_script_and_no_other() {
        let page = Page::new("<style>a</style><script>alert('Hello, world.');</script>");
        let policy = page.policy.to_str().unwrap();
        assert!(policy.contains("script-src 'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        // Every script and style must be in an element that has a hash: no attributes that hold scripts or styles.
        for content in [include_str!("pages/docs.html"), include_str!("pages/dashboard.html")] {
            let markup = content.split("<script>").next().unwrap();
            assert_eq!((content.matches("<script").count(), content.matches("<style").count()), (1, 1));
            for attribute in [" style=", " onclick=", " onload=", " onerror=", " onsubmit=", "javascript:"] {
                assert!(!markup.contains(attribute), "{attribute} would need more than a hash");
            }
        }
    }
}
