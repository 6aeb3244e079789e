//! One node: its turn, its chain id, its answers, and what they say about its health.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::{
    MAX_ERROR_BYTES,
    backoff::{Pause, PauseRule},
    bounded,
    endpoint::{MAX_REPLY_BYTES, RpcEndpoint, RpcReply, RpcTransport},
    error::RpcError,
    hedge::Latency,
    report::LearnedCap,
};
use crate::{
    chain::{RpcErrorClass, Taken, TransportFailure, classify, classify_http},
    protection::Protection,
    relay::{clock, status::EndpointStatus},
    time::{Timestamp, millis},
};

/// Consecutive failures after which an endpoint is asked last.
const UNHEALTHY_AFTER: u64 = 3;

#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) head: Option<u64>,
    /// Newest block that is final for this node, by its own last word.
    pub(super) final_block: Option<u64>,
    pub(super) last_error: Option<String>,
    failures_in_a_row: u64,
    /// How fast it is compared with others: also raised by calls that were given up before it answered.
    latency: Duration,
    /// What each method's answers took.
    by_method: BTreeMap<&'static str, Latency>,
    pause: Pause,
}

/// Tokio's clock for the rate limiter: it can be paused, so that a simulated run depends on nothing else.
#[derive(Debug, Clone)]
struct TokioClock {
    start: Instant,
}

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.start.elapsed().into()
    }
}

/// A node's rate limit.
struct Limiter {
    clock: TokioClock,
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Nanos>>,
}

impl Limiter {
    fn new(calls_per_s: NonZeroU32) -> Self {
        let clock = TokioClock { start: Instant::now() };
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(calls_per_s), clock.clone());
        Self { clock, limiter }
    }

    fn try_turn(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    async fn turn(&self) {
        while let Err(wait) = self.try_turn() {
            tokio::time::sleep(wait).await;
        }
    }
}

pub(super) struct Node {
    pub(super) endpoint: RpcEndpoint,
    transport: Arc<dyn RpcTransport>,
    limiter: Option<Limiter>,
    pause_rule: PauseRule,
    ids: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    health: Mutex<Health>,
    /// Most that it takes as gas limit × fee cap.
    fee_cap: Mutex<LearnedCap>,
    /// The chain that it must serve; 0 while nobody said.
    chain_id: AtomicU64,
    /// It has said so, and was not away since.
    is_verified: AtomicBool,
    /// Its subscription to heads is up.
    pub(super) is_subscribed: AtomicBool,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    id: Option<Value>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<ReplyError>,
}

#[derive(Deserialize)]
pub(super) struct ReplyError {
    #[serde(default)]
    pub(super) code: i64,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) data: Option<Value>,
}

/// A call on its way. If it is dropped there, because another node was faster or nobody waits any more, that is no failure of
/// the node; but it took at least so long, and whoever is asked first is chosen by that.
struct UnderWay<'a> {
    node: &'a Node,
    started: Instant,
    has_ended: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            let waited = self.started.elapsed();
            let mut health = self.node.health();
            health.latency = health.latency.max(waited);
        }
    }
}

impl Node {
    pub(super) fn new(endpoint: RpcEndpoint, timeout: Duration, pause_rule: PauseRule) -> Self {
        Self {
            limiter: endpoint.limit().map(Limiter::new),
            transport: endpoint.transport(timeout),
            pause_rule,
            ids: AtomicU64::new(1),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            health: Mutex::default(),
            fee_cap: Mutex::default(),
            chain_id: AtomicU64::new(0),
            is_verified: AtomicBool::new(false),
            is_subscribed: AtomicBool::new(false),
            endpoint,
        }
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most that it takes as gas limit × fee cap, as its refusals tell.
    pub(super) fn fee_cap(&self) -> MutexGuard<'_, LearnedCap> {
        self.fee_cap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is asked for its chain id before anything else, and refused if that is another.
    pub(super) fn expect_chain(&self, chain_id: u64) {
        self.chain_id.store(chain_id, Ordering::Relaxed);
    }

    /// The chain that it must serve; 0 while nobody said.
    pub(super) fn expected_chain(&self) -> u64 {
        self.chain_id.load(Ordering::Relaxed)
    }

    /// The lower, the sooner it is asked.
    pub(super) fn rank(&self, now: Instant) -> impl Ord + use<> {
        let health = self.health();
        let is_bad = health.failures_in_a_row >= UNHEALTHY_AFTER;
        (health.pause.left(now), is_bad, std::cmp::Reverse(health.head.unwrap_or(0)), health.latency)
    }

    /// It answers, as far as is known, and has not asked to be left alone.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        let health = self.health();
        health.failures_in_a_row < UNHEALTHY_AFTER && health.pause.left(now).is_none()
    }

    /// So many calls in a row failed that it is asked last.
    pub(super) fn is_failing(&self) -> bool {
        self.health().failures_in_a_row >= UNHEALTHY_AFTER
    }

    /// Nobody waits any more for its answer to `method`, which takes longer than usual: it is waited for longer the next time, so
    /// that one that became slow is heard again, and one that hangs fails by its timeout in the end.
    pub(super) fn given_up(&self, method: &'static str, waited: Duration) -> RpcError {
        self.health()
            .by_method
            .entry(method)
            .and_modify(|latency| latency.measured(waited))
            .or_insert_with(|| Latency::first(waited));
        let text = format!("no answer in {} ms, and the others have answered", waited.as_millis());
        self.error(method, RpcErrorClass::Timeout, Taken::No, text)
    }

    /// What its answers to `method` took.
    pub(super) fn latency_of(&self, method: &'static str) -> Option<Latency> {
        self.health().by_method.get(method).copied()
    }

    pub(super) fn note_head(&self, head: u64) {
        let mut health = self.health();
        if health.failures_in_a_row == 0 {
            health.head = Some(head);
        }
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let health = self.health();
        EndpointStatus {
            name: self.endpoint.name().to_owned(),
            is_healthy: health.failures_in_a_row < UNHEALTHY_AFTER,
            head: health.head,
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latency_ms: millis(health.latency),
            last_error: health.last_error.clone(),
            is_subscribed: self.endpoint.has_heads().then(|| self.is_subscribed.load(Ordering::Relaxed)),
        }
    }

    fn error(&self, method: &'static str, class: RpcErrorClass, taken: Taken, message: impl Into<String>) -> RpcError {
        let endpoint = self.endpoint.name().to_owned();
        RpcError { endpoint, method, class, taken, message: bounded(message), data: None }
    }

    /// One call with its own deadline. Failures count towards the node's health unless the node answered. A node that asked to
    /// be left alone is not asked.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
    ) -> Result<T, RpcError> {
        self.check_pause(method)?;
        self.turn().await;
        // The wait for our turn may have been long.
        self.check_pause(method)?;
        self.ask(method, params, timeout, None).await
    }

    /// As [`Self::call`], but nothing is asked from `until` on: waiting for our turn may have taken long. A transaction goes
    /// also to a node that wants to be left alone.
    pub(super) async fn call_before<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
        until: Option<Timestamp>,
    ) -> Result<T, RpcError> {
        self.turn().await;
        self.ask(method, params, timeout, until).await
    }

    fn check_pause(&self, method: &'static str) -> Result<(), RpcError> {
        let Some(left) = self.health().pause.left(Instant::now()) else { return Ok(()) };
        let text = format!("asked too often; left alone for {} ms more", left.as_millis());
        Err(self.error(method, RpcErrorClass::RateLimited, Taken::No, text))
    }

    async fn turn(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.turn().await;
        }
    }

    /// Takes a turn if that needs no waiting.
    pub(super) fn try_turn(&self) -> bool {
        self.limiter.as_ref().is_none_or(|limiter| limiter.try_turn().is_ok())
    }

    /// One call whose turn it is.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
        until: Option<Timestamp>,
    ) -> Result<T, RpcError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut under_way = UnderWay { node: self, started: Instant::now(), has_ended: false };
        let exchange = async {
            self.verify().await?;
            if until.is_some_and(|until| clock::now() >= until) && Protection::Deadline.is_on() {
                return Err(self.error(
                    method,
                    RpcErrorClass::Unknown,
                    Taken::No,
                    "the deadline passed before it was sent",
                ));
            }
            self.exchange(method, params).await
        };
        let result = match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result,
            Err(_) => {
                let failure = TransportFailure::TimedOut;
                let text = format!("no answer in {} ms", timeout.as_millis());
                Err(self.error(method, failure.class(), failure.taken(), text))
            }
        };
        under_way.has_ended = true;
        let took = under_way.started.elapsed();
        let mut health = self.health();
        match &result {
            Ok(_) => {
                health.failures_in_a_row = 0;
                health.latency = if health.latency.is_zero() { took } else { (health.latency * 7 + took) / 8 };
                health
                    .by_method
                    .entry(method)
                    .and_modify(|latency| latency.measured(took))
                    .or_insert_with(|| Latency::first(took));
            }
            Err(error) => {
                if matches!(
                    error.class,
                    RpcErrorClass::NodeUnavailable
                        | RpcErrorClass::Timeout
                        | RpcErrorClass::RateLimited
                        | RpcErrorClass::EndpointUnusable
                ) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    // A node that has too much to do was not away.
                    if error.class != RpcErrorClass::RateLimited {
                        self.is_verified.store(false, Ordering::Relaxed);
                    }
                    health.failures_in_a_row += 1;
                    health.last_error = Some(error.message.clone());
                    metrics::counter!("slackwater_rpc_failures_total", "endpoint" => self.endpoint.name().to_owned(), "class" => error.class.as_str())
                        .increment(1);
                }
            }
        }
        drop(health);
        result
    }

    /// Before anything else is asked, and again after every absence: is this still our chain?
    async fn verify(&self) -> Result<(), RpcError> {
        let expected = self.expected_chain();
        if expected == 0 || self.is_verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let method = "eth_chainId";
        // Whatever goes wrong here, nothing was sent.
        let served: alloy_primitives::U64 =
            self.exchange(method, &json!([])).await.map_err(|error| RpcError { taken: Taken::No, ..error })?;
        if served.to::<u64>() != expected {
            let text = format!("serves chain {served}, not {expected}");
            return Err(self.error(method, RpcErrorClass::EndpointUnusable, Taken::No, text));
        }
        self.is_verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn exchange<T: DeserializeOwned>(&self, method: &'static str, params: &Value) -> Result<T, RpcError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let asked = Instant::now();
        let reply = self.transport.exchange(body).await.map_err(|failure| self.transport_error(method, failure))?;
        let result = self.read(method, id, &reply);
        let is_refused = reply.status == 429
            || (reply.status == 503 && reply.retry_after.is_some())
            || result.as_ref().is_err_and(|error| error.class == RpcErrorClass::RateLimited);
        let mut health = self.health();
        if is_refused {
            health.pause.refused(asked, Instant::now(), reply.retry_after, self.pause_rule);
            metrics::counter!("slackwater_rpc_pauses_total", "endpoint" => self.endpoint.name().to_owned())
                .increment(1);
        } else {
            health.pause.answered(asked);
        }
        drop(health);
        result
    }

    fn read<T: DeserializeOwned>(&self, method: &'static str, id: u64, reply: &RpcReply) -> Result<T, RpcError> {
        let RpcReply { status, body: bytes, .. } = reply;
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(bytes) else {
            if (200..300).contains(status) {
                let failure = TransportFailure::Nonsense;
                return Err(self.error(method, failure.class(), failure.taken(), "answer is not JSON-RPC"));
            }
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ERROR_BYTES)]).into_owned();
            let class = classify_http(*status, &text);
            return Err(self.error(method, class, class.taken(), format!("HTTP {status}")));
        };
        if let Some(error) = reply.error {
            let data = error.data.map(|data| match data {
                Value::String(text) => text,
                other => other.to_string(),
            });
            let class = classify(error.code, &error.message, data.as_deref());
            let mut failure = self.error(method, class, class.taken(), error.message);
            failure.data = data;
            return Err(failure);
        }
        let nonsense = |what: &str| {
            let failure = TransportFailure::Nonsense;
            self.error(method, failure.class(), failure.taken(), what)
        };
        if reply.id.and_then(|id| id.as_u64()) != Some(id) {
            return Err(nonsense("answer carries another id"));
        }
        let result = reply.result.map_or("null", RawValue::get);
        serde_json::from_str(result).map_err(|_| nonsense("result has an unexpected form"))
    }

    fn transport_error(&self, method: &'static str, failure: TransportFailure) -> RpcError {
        let text = match failure {
            TransportFailure::NotConnected => "connection failed".to_owned(),
            TransportFailure::TimedOut => "timed out".to_owned(),
            TransportFailure::Nonsense => format!("no answer, or one longer than {MAX_REPLY_BYTES} bytes"),
            _ => "connection broke".to_owned(),
        };
        self.error(method, failure.class(), failure.taken(), text)
    }
}
