//! The HTTP API: the router, its state, and shared parts of the handlers.

mod admin;
pub mod auth;
mod body;
mod connection;
pub mod dto;
mod events;
mod memory;
mod metrics;
mod models;
mod openapi;
mod operations;
mod pace;
pub mod page;
pub mod peer;
pub mod problem;
pub mod reload;
mod requests;
pub mod scopes;
mod server;
pub mod web;

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::Body as _;
use serde::{Deserialize, Serialize};
use slackwater::{Relay, TenantHandle};
use slackwater_core::tuning::{choice, keys};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use body::parse as parse_body;
pub use openapi::document as openapi_document;
pub use server::{ServeError, Server};

use auth::{Access, Caller, Scope};
use connection::Crowd;
use memory::{Held, Memory, Share};
use pace::{Pace, PaceTable};
use page::{PageBook, PageLimits};
use peer::{Cidr, Network, Peer};
use problem::Problem;
use scopes::Need;
use web::{Asked, Origins, WebRules};

/// Readers of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsAccess {
    /// Everybody who reaches the port.
    Open,
    /// Operators' API keys.
    Operator,
    /// Nobody.
    Off,
}

choice!(MetricsAccess: Open "open", Operator "operator", Off "off");

keys! {
    /// Limits and rules of the HTTP side, keys of `server`.
    pub struct HttpLimits;

    /// Largest body of a single request.
    max_body_bytes: usize [1_024..=67_108_864] = 1 << 20;
    /// Largest body of a batch.
    max_batch_body_bytes: usize [1_024..=268_435_456] = 4 << 20;
    /// Most requests in a batch.
    max_batch_items: usize [1..=10_000] = 1_000;
    /// Largest body of an import of models.
    max_import_body_bytes: usize [1_024..=268_435_456] = 16 << 20;
    /// Longest time that a body may take to arrive.
    body_timeout "body_timeout_ms": Duration [100..=600_000] = Duration::from_secs(15);
    /// Longest time that a call's headers may take to arrive.
    header_timeout "header_timeout_ms": Duration [100..=600_000] = Duration::from_secs(10);
    /// Longest start line and headers of a call, bytes; `431` beyond.
    max_header_bytes: usize [4_096..=1_048_576] = 16_384;
    /// Longest time that a caller may read nothing while an answer or event waits for it; its connection is closed then.
    write_timeout "write_timeout_ms": Duration [100..=600_000] = Duration::from_secs(15);
    /// Most connections at a time; further ones wait. Probes are answered all the same.
    max_connections: usize [1..=1_000_000] = 1_024;
    /// Most connections from one address (IPv6: from one /64); further ones are refused. Of a trusted proxy, most calls at a
    /// time for one of its clients.
    max_connections_per_ip: usize [1..=1_000_000] = 256;
    /// Most connections that wait for a place. Beyond, the one that has waited longest is refused, of the address with most
    /// of them.
    max_waiting_connections: usize [16..=100_000] = 512;
    /// Most memory for bodies of all calls together, and as much for large answers until they are sent; `503 overloaded` beyond.
    /// One tenant holds at most three times what stays free, its page keys a third of what stays free, or one body. Bodies and answers up to
    /// 16 KiB are not counted. Answers of `/metrics` have a sixteenth of it for themselves, at least 4 MiB.
    max_body_memory_bytes: usize [1_048_576..=68_719_476_736] = 64 << 20;
    /// Most event streams at a time; `429 too_many_streams` beyond.
    max_streams: usize [0..=1_000_000] = 512;
    /// Longest silence of an event stream: a comment is sent then. Clients take a stream that is silent for 60 s for lost.
    keep_alive "keep_alive_ms": Duration [100..=600_000] = Duration::from_secs(15);
    /// Longest wait for calls in progress at shutdown.
    shutdown_grace "shutdown_grace_ms": Duration [0..=600_000] = Duration::from_secs(10);
    /// Most calls per second from one address (IPv6: from one /64) without a valid API key; 0 is unlimited. Calls with a key
    /// count for `tenant.rate_per_s` instead. Programs on this machine are exempt unless they pass calls on.
    rate_per_ip_per_s: Option<u32> [0..=1_000_000] = Some(100);
    /// Readers of `/metrics`: `open` (everybody), `operator` (by API key) or `off`.
    metrics: MetricsAccess = MetricsAccess::Open;
    beside {
        /// Address where probes are answered besides; `None` is only on `listen` (`probe_listen`).
        probe_listen: Option<SocketAddr> = None;
        /// Proxies whose word about their clients counts (`trusted_proxies`).
        trusted_proxies: Vec<Cidr> = Vec::new();
        /// Web origins that may call; none means that browsers of other origins can't (`cors_origins`).
        cors_origins: Origins = Origins::default();
        /// Names that the relayer answers to, besides addresses and `localhost` (`hosts`).
        hosts: Vec<String> = Vec::new();
        /// Caps of keys that stand in web pages (`page_key`).
        page_key: PageLimits = PageLimits::default();
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

/// State shared by all handlers.
#[derive(Debug)]
pub struct App {
    relay: Relay,
    access: RwLock<Arc<Access>>,
    limits: HttpLimits,
    streams: Arc<Semaphore>,
    /// Event streams by tenant: of all its keys, and of its page keys alone.
    listeners: Arc<Crowd<Group>>,
    /// Connections by address, and calls through trusted proxies by the client's address.
    crowd: Arc<Crowd<Network>>,
    /// Memory held by bodies of calls.
    bodies: Arc<Memory<Group>>,
    /// Memory held by large answers, until they are sent.
    answers: Arc<Memory<Group>>,
    /// Memory held by answers of `/metrics`, by the client's network: they may need no key.
    metrics_answers: Arc<Memory<Network>>,
    closing: CancellationToken,
    exporter: Option<metrics_exporter_prometheus::PrometheusHandle>,
    rendered: operations::Rendered,
    routes: metrics::Routes,
    by_ip: Option<PaceTable>,
    /// Rates of calls with page keys, by address.
    by_page_ip: PaceTable,
    /// Usage of page keys.
    pages: PageBook,
    /// Event streams of page keys, by key and address.
    page_listeners: Arc<Crowd<events::PageClient>>,
    born: Instant,
    has_warned: AtomicBool,
    reloader: Option<reload::Reloader>,
}

/// A tenant, and true for its page keys, which are one group.
pub(crate) type Group = (Arc<str>, bool);

/// Least memory for answers of `/metrics`, bytes; otherwise a sixteenth of that for other answers.
const MIN_METRICS_MEMORY_BYTES: usize = 4 << 20;

/// The state of the router.
pub(crate) type Shared = Arc<App>;

/// Address of the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection(pub(crate) IpAddr);

impl App {
    /// The relay for the caller's tenant.
    fn tenant(&self, caller: &auth::Caller) -> TenantHandle {
        self.relay.tenant(Arc::clone(&caller.tenant)).submitted_by(Arc::clone(&caller.key))
    }

    /// The API over `relay`. `exporter` renders `/metrics`.
    pub fn new(
        relay: Relay,
        access: Access,
        limits: HttpLimits,
        exporter: Option<metrics_exporter_prometheus::PrometheusHandle>,
    ) -> Self {
        let by_ip =
            limits.rate_per_ip_per_s.and_then(NonZeroU32::new).map(|rate| PaceTable::new(Pace::new(rate, rate)));
        let page = &limits.page_key;
        let by_page_ip = PaceTable::new(Pace::new(page.rate_per_ip_per_s, page.burst_per_ip));
        Self {
            streams: Arc::new(Semaphore::new(limits.max_streams.min(Semaphore::MAX_PERMITS))),
            listeners: Arc::default(),
            crowd: Arc::default(),
            bodies: Memory::new(limits.max_body_memory_bytes),
            answers: Memory::new(limits.max_body_memory_bytes),
            metrics_answers: Memory::new((limits.max_body_memory_bytes / 16).max(MIN_METRICS_MEMORY_BYTES)),
            relay,
            access: RwLock::new(Arc::new(access)),
            limits,
            closing: CancellationToken::new(),
            exporter,
            rendered: operations::Rendered::default(),
            routes: metrics::Routes::new(),
            by_ip,
            by_page_ip,
            pages: PageBook::default(),
            page_listeners: Arc::default(),
            born: Instant::now(),
            has_warned: AtomicBool::new(false),
            reloader: None,
        }
    }

    /// Makes the configuration reloadable.
    #[must_use]
    pub fn with_reloader(mut self, reloader: reload::Reloader) -> Self {
        self.reloader = Some(reloader);
        self
    }

    /// The relay that it serves.
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Ends event streams and waiting calls, between two messages.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Replaces the API keys. Streams that began before end.
    fn set_access(&self, access: Access) {
        let mut held = self.access.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, Arc::new(access)).end();
    }

    /// True if no API key is needed.
    pub fn is_open(&self) -> bool {
        self.access().is_open()
    }

    /// `problem`, counted as a refusal by the API. The relay counts its own refusals itself.
    fn counted(&self, caller: &Caller, problem: Problem) -> Problem {
        self.relay.record_refusal(Some(Arc::clone(&caller.key)), Arc::clone(&caller.tenant), problem.code());
        problem
    }

    /// Memory accounting for a body of `caller`.
    fn hold_body(&self, caller: &Caller) -> Held<Group> {
        let (group, share) = share_of(Some(caller));
        self.bodies.hold(group, share)
    }

    /// Memory accounting for an answer to `caller`.
    fn hold_answer(&self, caller: Option<&Caller>) -> Held<Group> {
        let (group, share) = share_of(caller);
        self.answers.hold(group, share)
    }

    /// The API keys in force.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The group whose memory `caller` uses, and its share. A call without a key counts like one with a page key.
fn share_of(caller: Option<&Caller>) -> (Group, Share) {
    match caller {
        Some(caller) if !caller.is_page => ((Arc::clone(&caller.tenant), false), Share::Large),
        Some(caller) => ((Arc::clone(&caller.tenant), true), Share::Small),
        None => (("".into(), true), Share::Small),
    }
}

/// Every route of the API.
pub fn router(app: Arc<App>) -> Router {
    let cors = cors(&app);
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
        .route("/v1/log/head", get(operations::log_head))
        .route("/v1/admin/pauses", get(admin::pauses))
        .route("/v1/admin/pause", post(admin::pause))
        .route("/v1/admin/resume", post(admin::resume))
        .route("/v1/admin/reload", post(admin::reload))
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .route("/metrics", get(operations::metrics))
        .route("/openapi.json", get(operations::openapi))
        .route("/docs", get(operations::docs))
        .route("/", get(operations::dashboard))
        // Not `not_found`: that means that a request, or another thing that was asked for, does not exist.
        .fallback(async || Problem::new("unknown_path", "no such path; see /docs"))
        .method_not_allowed_fallback(async || {
            Problem::new("method_not_allowed", "the path exists, but not with this method")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), door));
    let router = match cors {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.with_state(app)
}

/// The router for the probes alone.
fn probes(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(operations::readyz))
        .fallback(async || Problem::new("unknown_path", "only /healthz and /readyz are answered here"))
        .with_state(app)
}

/// CORS for pages of the configured origins, and of the origins of page keys, which may change.
fn cors(app: &Shared) -> Option<CorsLayer> {
    let origins = &app.limits.cors_origins;
    if origins.is_empty() && app.is_open() {
        return None;
    }
    let origins = if origins.has_all() {
        AllowOrigin::any()
    } else {
        let app = Arc::clone(app);
        AllowOrigin::predicate(move |origin: &HeaderValue, _: &Parts| {
            let origin = origin.as_bytes();
            app.limits.cors_origins.allow(origin) || app.access().has_page_of(origin)
        })
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

/// The checks before a handler runs: caller, rate limit, scope. Counts the answer afterwards.
async fn door(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = metrics::Route::of(&request);
    let access = app.access();
    let caller = access.authenticate(request.headers());
    let response = match admit(&app, &access, &caller, &mut request, route) {
        Ok(presence) => {
            let caller = caller.ok();
            if let Some(caller) = &caller {
                request.extensions_mut().insert(caller.clone());
            }
            let is_get = request.method() == Method::GET;
            let network = request.extensions().get().map(Peer::network);
            let response = bound(&app, caller.as_ref(), network, is_get, next.run(request).await);
            match presence {
                // Counted until the answer is sent: a stream occupies its place as long as a connection.
                Some(presence) => escorted(response, presence),
                None => response,
            }
        }
        Err(problem) => match &caller {
            Ok(caller) => app.counted(caller, problem),
            Err(_) => {
                app.relay.record_refusal(None, "".into(), problem.code());
                problem
            }
        }
        .into_response(),
    };
    app.routes.observe(route, response.status(), started.elapsed());
    response
}

/// Admits a call, and adds its [`Peer`] to the request.
fn admit(
    app: &App,
    access: &Access,
    caller: &Result<Caller, Problem>,
    request: &mut Request,
    route: metrics::Route,
) -> Result<Option<connection::Presence<Network>>, Problem> {
    let Connection(connection) =
        request.extensions().get().copied().unwrap_or_else(|| unreachable!("the server tells every call's connection"));
    let limits = &app.limits;
    let peer = Peer::of(connection, request.headers(), &limits.trusted_proxies);
    let rules = WebRules { is_open: access.is_open(), hosts: &limits.hosts, origins: &limits.cors_origins };
    rules.check(
        &peer,
        &Asked {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            is_probe: route == metrics::Route::Probe,
            is_page: route == metrics::Route::Page,
        },
    )?;
    let is_page = caller.as_ref().is_ok_and(|caller| caller.is_page);
    let known = caller.as_ref().ok().filter(|caller| caller.is_known);
    if route.is_limited() {
        let now = app.born.elapsed();
        let too_fast = |wait: Duration, what: String| Err(Problem::new("rate_limited", what).retry_after(wait));
        match (known, &app.by_ip) {
            _ if is_page => {
                if let Err(wait) = app.by_page_ip.take(peer.network(), now) {
                    return too_fast(
                        wait,
                        "too many calls of this address with a page key (`page_key.rate_per_ip_per_s`)".to_owned(),
                    );
                }
            }
            (Some(caller), _) => {
                if let Err(wait) = access.take_call(caller, now) {
                    return too_fast(wait, format!("too many calls of tenant {} (`tenant.rate_per_s`)", caller.tenant));
                }
            }
            (None, Some(table)) if !peer.is_local() => {
                warn_of_proxy(app, &peer);
                if let Err(wait) = table.take(peer.network(), now) {
                    return too_fast(wait, "too many calls from this address (`server.rate_per_ip_per_s`)".to_owned());
                }
            }
            _ => {}
        }
    }
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let (need, is_for_pages) = scopes::need(request.method(), path);
    match need {
        Need::Nothing => {}
        Need::OneOf(_) if is_page && is_for_pages => {}
        Need::Metrics if limits.metrics != MetricsAccess::Operator => {}
        Need::Metrics => check_scope(caller, &[Scope::Metrics].into_iter().collect())?,
        Need::OneOf(scopes) => check_scope(caller, &scopes)?,
    }
    let presence = match peer.is_proxied && peer.ip != peer.connection {
        true => Some(app.crowd.enter(peer.network(), limits.max_connections_per_ip).ok_or_else(|| {
            let limit = limits.max_connections_per_ip;
            let detail =
                format!("{limit} calls of this address are open, limit {limit} (`server.max_connections_per_ip`)");
            Problem::new("rate_limited", detail).retry_after(Duration::from_secs(1))
        })?),
        false => None,
    };
    request.extensions_mut().insert(peer);
    Ok(presence)
}

/// Runs an operator's action together with its record, both to their end even if the caller disconnects in between.
async fn recorded<T: Send + 'static>(
    act: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(act).await.unwrap_or_else(|_| Err(Problem::shutting_down()))
}

fn check_scope(caller: &Result<Caller, Problem>, needed: &auth::Scopes) -> Result<(), Problem> {
    let caller = caller.as_ref().map_err(Clone::clone)?;
    if caller.scopes.has_any(*needed) {
        return Ok(());
    }
    let code = if *needed == auth::Scopes::of(&[Scope::Operate]) { "operator_only" } else { "scope_missing" };
    if caller.is_page {
        let detail = format!("`{}` is a page key: it may not do this, use a secret key on your server", caller.key);
        return Err(Problem::new("scope_missing", detail));
    }
    let has = if caller.scopes == auth::Scopes::NONE { "none".to_owned() } else { caller.scopes.to_string() };
    Err(Problem::new(code, format!("this needs a key with {needed}; `{}` has {has} (`tenant.keys`)", caller.key)))
}

/// Warns of a proxy that is not configured: all its clients count as one address.
fn warn_of_proxy(app: &App, peer: &Peer) {
    if peer.connection.is_loopback() && !peer.is_proxied && !app.has_warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            proxy = %peer.connection,
            "a proxy passes calls on, and all its clients count as one address: name it in `server.trusted_proxies`"
        );
    }
}

/// Accounting of an answer's memory, unless it goes by size and caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// Not counted: its body is shared with all other recipients, not copied.
    Shared,
    /// Counted already, before it was built.
    Done,
    /// Counted like an answer of `/metrics`.
    Metrics,
}

/// Counts a large answer until it is sent; refuses it if there is no room. The answer to a change is sent regardless.
fn bound(app: &App, caller: Option<&Caller>, network: Option<Network>, is_get: bool, response: Response) -> Response {
    let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let Some(size) = size.filter(|size| *size > memory::UNCOUNTED_BYTES) else { return response };
    match (response.extensions().get(), network) {
        (Some(Counting::Shared | Counting::Done), _) => response,
        (Some(Counting::Metrics), Some(network)) => {
            let mut held = app.metrics_answers.hold(network, Share::Large);
            match held.grow_to(size) {
                true => escorted(response, held),
                false => {
                    let detail = "answers with metrics that nobody reads leave no room for another: read them, or let only \
                                  operators have them (`server.metrics`)";
                    Problem::new("overloaded", detail).retry_after(Duration::from_secs(1)).into_response()
                }
            }
        }
        _ => {
            let mut held = app.hold_answer(caller);
            if !is_get {
                held.set(size);
            } else if !held.grow_to(size) {
                return overloaded(app).into_response();
            }
            escorted(response, held)
        }
    }
}

/// `response`, with a value that is kept until it is sent or abandoned.
fn escorted<T: Send + Sync + 'static>(response: Response, escort: T) -> Response {
    response.map(|body| Body::new(connection::Escorted::new(body, escort)))
}

/// The problem that bodies or answers take too much memory, of all callers together or of this one.
fn overloaded(app: &App) -> Problem {
    let limit = app.limits.max_body_memory_bytes;
    let detail = format!(
        "bodies or answers that are under way leave no room for this one: {limit} bytes are for all, and for each tenant \
         a share of what others leave (`server.max_body_memory_bytes`); have fewer at a time, and read the answers"
    );
    Problem::new("overloaded", detail).retry_after(Duration::from_secs(1))
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        match parts.extensions.get::<Self>() {
            Some(caller) => Ok(caller.clone()),
            None => app.access().authenticate(&parts.headers),
        }
    }
}
