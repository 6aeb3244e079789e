//! The HTTP API: one router, its state, and what all handlers share.

pub mod auth;
mod body;
pub mod dto;
mod events;
mod metrics;
mod models;
mod openapi;
mod operations;
pub mod problem;
mod requests;
mod server;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    http::{HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use governor::{DefaultKeyedRateLimiter, clock::Clock};
use slackwater::relay::Relay;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use body::parse as parse_body;
pub use openapi::document as openapi_document;
pub use server::{ServeError, Server};

use auth::{Caller, Keys};
use problem::Problem;

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsAccess {
    /// Everybody who reaches the port.
    #[default]
    Open,
    /// Operators' API keys.
    Operator,
    /// Nobody.
    Off,
}

/// Limits and rules of the HTTP side. Every field is a configuration key `server.<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest body of a single request (`max_body_bytes`).
    pub max_body_bytes: usize,
    /// Largest body of a batch (`max_batch_body_bytes`).
    pub max_batch_body_bytes: usize,
    /// Most requests in a batch (`max_batch_items`).
    pub max_batch_items: usize,
    /// Largest body of an import of models (`max_import_body_bytes`).
    pub max_import_body_bytes: usize,
    /// Longest time that a body may take to arrive (`body_timeout_ms`).
    pub body_timeout: Duration,
    /// Longest time that a request's headers may take to arrive (`header_timeout_ms`).
    pub header_timeout: Duration,
    /// Most connections at a time (`max_connections`).
    pub max_connections: usize,
    /// Most event streams at a time (`max_streams`).
    pub max_streams: usize,
    /// Longest silence of an event stream (`keep_alive_ms`).
    pub keep_alive: Duration,
    /// Longest wait for requests in progress at shutdown (`shutdown_grace_ms`).
    pub shutdown_grace: Duration,
    /// Most requests per second from one address; `None` is unlimited (`rate_per_ip_per_s`).
    pub rate_per_ip_per_s: Option<u32>,
    /// Web origins that may call; none means that browsers of other origins can't (`cors_origins`).
    pub cors_origins: Vec<String>,
    /// Who may read `/metrics` (`metrics`).
    pub metrics: MetricsAccess,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 1 << 20,
            max_batch_body_bytes: 4 << 20,
            max_batch_items: 1_000,
            max_import_body_bytes: 16 << 20,
            body_timeout: Duration::from_secs(15),
            header_timeout: Duration::from_secs(10),
            max_connections: 10_000,
            max_streams: 1_000,
            keep_alive: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(10),
            rate_per_ip_per_s: None,
            cors_origins: Vec::new(),
            metrics: MetricsAccess::Open,
        }
    }
}

impl HttpLimits {
    const fn single(&self) -> body::Limit {
        body::Limit { bytes: self.max_body_bytes, key: "server.max_body_bytes" }
    }

    const fn import(&self) -> body::Limit {
        body::Limit { bytes: self.max_import_body_bytes, key: "server.max_import_body_bytes" }
    }

    const fn batch(&self) -> body::Limit {
        body::Limit { bytes: self.max_batch_body_bytes, key: "server.max_batch_body_bytes" }
    }
}

/// What every handler sees.
#[derive(Debug)]
pub struct App {
    relay: Relay,
    keys: Keys,
    limits: HttpLimits,
    streams: Arc<Semaphore>,
    closing: CancellationToken,
    exporter: Option<metrics_exporter_prometheus::PrometheusHandle>,
    routes: metrics::Routes,
    by_ip: Option<DefaultKeyedRateLimiter<IpAddr>>,
}

/// The state of the router.
pub(crate) type Shared = Arc<App>;

/// Address of the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl App {
    /// The API over `relay`. `exporter` renders `/metrics`.
    pub fn new(
        relay: Relay,
        keys: Keys,
        limits: HttpLimits,
        exporter: Option<metrics_exporter_prometheus::PrometheusHandle>,
    ) -> Self {
        let by_ip = limits
            .rate_per_ip_per_s
            .and_then(std::num::NonZeroU32::new)
            .map(|rate| DefaultKeyedRateLimiter::keyed(governor::Quota::per_second(rate)));
        Self {
            streams: Arc::new(Semaphore::new(limits.max_streams.min(Semaphore::MAX_PERMITS))),
            relay,
            keys,
            limits,
            closing: CancellationToken::new(),
            exporter,
            routes: metrics::Routes::new(),
            by_ip,
        }
    }

    /// The relay behind it.
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Ends event streams and waiting calls; they are cut off at a message's end.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Forgets addresses that were quiet; called now and then by the server.
    fn sweep(&self) {
        if let Some(limiter) = &self.by_ip {
            limiter.retain_recent();
        }
    }
}

/// Every route of the API.
pub fn router(app: Arc<App>) -> Router {
    let cors = cors(&app.limits.cors_origins);
    let router = Router::new()
        .route("/v1/requests", post(requests::submit).get(requests::list))
        .route("/v1/requests/batch", post(requests::submit_batch))
        .route("/v1/requests/{id}", get(requests::show).delete(requests::cancel))
        .route("/v1/requests/{id}/events", get(events::of_request))
        .route("/v1/events", get(events::all))
        .route("/v1/quotes", post(requests::quote))
        .route("/v1/chains", get(operations::chains))
        .route("/v1/chains/{id}/fees", get(operations::fees))
        .route("/v1/chains/{id}/forecast", get(operations::forecast))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}/promote", post(models::promote))
        .route("/v1/models/{id}/pin", post(models::pin))
        .route("/v1/models/{id}/unpin", post(models::unpin))
        .route("/v1/models/{id}/rollback", post(models::roll_back))
        .route("/v1/models/{id}/export", get(models::export))
        .route("/v1/models/{id}/import", post(models::import))
        .route("/v1/sources", get(operations::sources))
        .route("/v1/lanes", get(operations::lanes))
        .route("/v1/counts", get(operations::counts))
        .route("/v1/batches/{id}", get(operations::batch))
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .route("/openapi.json", get(operations::openapi))
        .route("/docs", get(operations::docs))
        .route("/", get(operations::dashboard))
        .fallback(async || Problem::new("not_found", "no such path; see /docs"))
        .method_not_allowed_fallback(async || {
            Problem::new("method_not_allowed", "the path exists, but not with this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), limit_and_count));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.with_state(app)
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("last-event-id"),
    ];
    Some(
        CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers(headers)
            .expose_headers([header::RETRY_AFTER])
            .max_age(Duration::from_secs(3_600)),
    )
}

/// Per-address limit before anything else is done, and the counters after.
async fn limit_and_count(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let route = metrics::Route::of(&request);
    if let (Some(limiter), Some(Peer(ip))) = (&app.by_ip, request.extensions().get::<Peer>())
        && route.is_limited()
        && let Err(not_until) = limiter.check_key(ip)
    {
        let wait = not_until.wait_time_from(governor::clock::DefaultClock::default().now());
        let problem = Problem::new("rate_limited", "too many calls from this address (`server.rate_per_ip_per_s`)");
        let response = problem.retry_after(wait).into_response();
        app.routes.observe(route, response.status(), started.elapsed());
        return response;
    }
    let response = next.run(request).await;
    app.routes.observe(route, response.status(), started.elapsed());
    response
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        app.keys.authenticate(&parts.headers)
    }
}
