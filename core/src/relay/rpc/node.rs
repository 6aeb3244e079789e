//! One node: rate limit, chain id check, calls, and the health derived from its answers.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::U64;
use futures_util::FutureExt as _;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::{
    MAX_ERROR_BYTES,
    backoff::{Pause, PauseRule},
    bounded, discreet,
    endpoint::{MAX_REPLY_BYTES, RpcEndpoint, RpcReply, RpcTransport},
    error::RpcError,
    hedge::Latency,
    report::LearnedCap,
    standing::{OwnHead, Place},
};
use crate::{
    chain::{RpcErrorClass, Taken, TransportFailure, classify, classify_http},
    protection::Protection,
    relay::{clock, handle::status::EndpointStatus},
    time::{Timestamp, millis},
};

/// Consecutive failures after which an endpoint is ranked last.
const UNHEALTHY_AFTER: u64 = 3;

/// Pause for a method that a node does not have.
const MISSING_METHOD_PAUSE: Duration = Duration::from_secs(600);

/// Consecutive useless answers to a method after which this node is not asked for it for [`USELESS_METHOD_PAUSE`].
const USELESS_AFTER: u32 = 3;

/// Pause for a method with useless answers.
const USELESS_METHOD_PAUSE: Duration = Duration::from_secs(30);

/// A node's newest block, as reported by any answer.
#[derive(Debug, Clone, Copy)]
struct ToldHead {
    number: u64,
    timestamp_s: Option<u64>,
    rose_at: Instant,
}

/// Record of a method that a node appears not to serve.
#[derive(Debug, Clone, Copy, Default)]
struct Lack {
    useless: u32,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(in crate::relay) struct Health {
    head: Option<ToldHead>,
    /// Position of its head relative to the others', at the last check.
    place: Place,
    /// Number of its simulations contradicted by a receipt.
    pub(in crate::relay) false_simulations: u64,
    lacks: BTreeMap<&'static str, Lack>,
    /// Newest block final for this node, by its own last report.
    pub(in crate::relay) final_block: Option<u64>,
    pub(in crate::relay) last_error: Option<String>,
    failures_in_a_row: u64,
    /// Answer time for ranking against other nodes; also raised by calls given up before it answered.
    latency: Duration,
    /// Answer times by method.
    by_method: BTreeMap<&'static str, Latency>,
    pause: Pause,
}

/// Tokio's clock for the rate limiter: it can be paused, which keeps a simulated run deterministic.
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
    /// Time between two turns.
    interval: Duration,
    /// Number of sends waiting for a turn.
    senders: AtomicUsize,
}

impl Limiter {
    fn new(calls_per_s: NonZeroU32) -> Self {
        let clock = TokioClock { start: Instant::now() };
        let limiter = RateLimiter::direct_with_clock(Quota::per_second(calls_per_s), clock.clone());
        let interval = Duration::from_secs(1) / calls_per_s.get();
        Self { clock, limiter, interval, senders: AtomicUsize::new(0) }
    }

    fn try_turn(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    /// Waits for a turn. Sends go before reads: see [`Self::turn_to_send`].
    async fn turn(&self) {
        loop {
            let wait = match self.senders.load(Ordering::Relaxed) {
                0 => match self.try_turn() {
                    Ok(()) => return,
                    Err(wait) => wait,
                },
                _ => self.interval,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits for a turn ahead of all reads: a transaction must not wait behind them.
    async fn turn_to_send(&self) {
        let _waiting = Waiting::one_more(&self.senders);
        while let Err(wait) = self.try_turn() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Counts a waiter until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn one_more(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(in crate::relay) struct Node {
    pub(in crate::relay) endpoint: RpcEndpoint,
    transport: Arc<dyn RpcTransport>,
    /// URL secrets to redact from its answers.
    hidden: Vec<SecretString>,
    limiter: Option<Limiter>,
    pause_rule: PauseRule,
    ids: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    health: Mutex<Health>,
    /// Learned limit on gas limit × fee cap.
    fee_cap: Mutex<LearnedCap>,
    /// Required chain id; 0 while unknown.
    chain_id: AtomicU64,
    /// True if it confirmed that chain and has not been unavailable since.
    is_verified: AtomicBool,
    /// True while its head subscription is up.
    pub(in crate::relay) is_subscribed: AtomicBool,
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
pub(in crate::relay) struct ReplyError {
    #[serde(default)]
    pub(in crate::relay) code: i64,
    #[serde(default)]
    pub(in crate::relay) message: String,
    #[serde(default)]
    pub(in crate::relay) data: Option<Value>,
}

/// A call in flight. If it is dropped, because another node was faster or no caller waits any more, that does not count
/// as a failure; but the elapsed time is a lower bound of the answer time, and the ranking uses it.
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
    pub(in crate::relay) fn new(endpoint: RpcEndpoint, timeout: Duration, pause_rule: PauseRule) -> Self {
        Self {
            limiter: endpoint.limit().map(Limiter::new),
            transport: endpoint.transport(timeout),
            hidden: endpoint.hidden_parts(),
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

    pub(in crate::relay) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Highest accepted gas limit × fee cap, learned from its refusals.
    pub(in crate::relay) fn fee_cap(&self) -> MutexGuard<'_, LearnedCap> {
        self.fee_cap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on its chain id is verified before any other call, and another chain is refused.
    pub(in crate::relay) fn expect_chain(&self, chain_id: u64) {
        self.chain_id.store(chain_id, Ordering::Relaxed);
    }

    /// Required chain id; 0 while unknown.
    pub(in crate::relay) fn expected_chain(&self) -> u64 {
        self.chain_id.load(Ordering::Relaxed)
    }

    /// Rank among the nodes, lowest asked first. `place` is its head's position relative to the others'.
    pub(in crate::relay) fn rank(&self, now: Instant, place: Place) -> impl Ord + use<> {
        let health = self.health();
        let is_bad = health.failures_in_a_row >= UNHEALTHY_AFTER;
        (health.pause.left(now), is_bad, place != Place::With, health.latency)
    }

    /// Its newest block, as it reported it; `None` before that.
    pub(in crate::relay) fn own_head(&self, now: Instant) -> Option<OwnHead> {
        self.health().head.map(|head| OwnHead {
            number: head.number,
            timestamp_s: head.timestamp_s,
            since_rise: now.saturating_duration_since(head.rose_at),
        })
    }

    /// Records its head's position relative to the others'. Returns the previous one if it changed.
    pub(in crate::relay) fn put(&self, place: Place) -> Option<Place> {
        let was = std::mem::replace(&mut self.health().place, place);
        (was != place).then_some(was)
    }

    /// Records its newest block.
    pub(in crate::relay) fn note_head(&self, number: u64, timestamp_s: Option<u64>) {
        let now = Instant::now();
        let mut health = self.health();
        health.head = Some(match health.head {
            Some(known) if known.number == number => {
                ToldHead { timestamp_s: timestamp_s.or(known.timestamp_s), ..known }
            }
            Some(known) if known.number > number => ToldHead { number, timestamp_s, ..known },
            _ => ToldHead { number, timestamp_s, rose_at: now },
        });
    }

    /// True unless it is known to lack `method`.
    pub(in crate::relay) fn may_have(&self, method: &str) -> bool {
        let until = self.health().lacks.get(method).and_then(|lack| lack.until);
        until.is_none_or(|until| until <= Instant::now())
    }

    /// Records whether an answer to `method` was usable. A missing method is not tried again for a while, nor one with
    /// useless answers, such as one that crashes or is not in the provider's plan. This does not count as a failure of
    /// the node.
    pub(in crate::relay) fn note_use(&self, method: &'static str, is_of_use: bool) {
        let mut health = self.health();
        if is_of_use {
            health.lacks.remove(method);
            return;
        }
        let lack = health.lacks.entry(method).or_default();
        lack.useless += 1;
        if lack.useless >= USELESS_AFTER {
            lack.until = Some(Instant::now() + USELESS_METHOD_PAUSE);
        }
    }

    /// True if it is healthy and not backed off.
    pub(in crate::relay) fn is_usable(&self, now: Instant) -> bool {
        let health = self.health();
        health.failures_in_a_row < UNHEALTHY_AFTER && health.pause.left(now).is_none()
    }

    /// True if so many consecutive calls failed that it is ranked last.
    pub(in crate::relay) fn is_failing(&self) -> bool {
        self.health().failures_in_a_row >= UNHEALTHY_AFTER
    }

    /// Records that its answer to `method` was given up after taking longer than usual: the next wait is longer, so
    /// that a node that became slower is heard again, and a hanging one fails by timeout in the end.
    pub(in crate::relay) fn given_up(&self, method: &'static str, waited: Duration) -> RpcError {
        self.health()
            .by_method
            .entry(method)
            .and_modify(|latency| latency.measured(waited))
            .or_insert_with(|| Latency::first(waited));
        let text = format!("no answer in {} ms, and the others have answered", waited.as_millis());
        self.error(method, RpcErrorClass::Timeout, Taken::No, text)
    }

    /// Answer time record of `method`; `None` if it was never measured.
    pub(in crate::relay) fn latency_of(&self, method: &'static str) -> Option<Latency> {
        self.health().by_method.get(method).copied()
    }

    pub(in crate::relay) fn status(&self) -> EndpointStatus {
        let health = self.health();
        EndpointStatus {
            name: self.endpoint.name().to_owned(),
            is_healthy: health.failures_in_a_row < UNHEALTHY_AFTER,
            head: health.head.map(|head| head.number),
            place: health.place.as_str().to_owned(),
            false_simulations: health.false_simulations,
            calls: self.calls.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latency_ms: millis(health.latency),
            last_error: health.last_error.clone(),
            is_subscribed: self.endpoint.has_heads().then(|| self.is_subscribed.load(Ordering::Relaxed)),
        }
    }

    /// A text of the node with URL secrets redacted.
    fn discreet(&self, text: &str) -> String {
        discreet::cut(text, self.hidden.iter().map(ExposeSecret::expose_secret))
    }

    fn error(&self, method: &'static str, class: RpcErrorClass, taken: Taken, message: impl Into<String>) -> RpcError {
        let endpoint = self.endpoint.name().to_owned();
        let message = bounded(self.discreet(&message.into()));
        RpcError { endpoint, method, class, taken, message, code: None, data: None }
    }

    /// One call with its own deadline. Failures count towards the node's health unless the node answered. A node that
    /// is backed off is not asked.
    pub(in crate::relay) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
    ) -> Result<T, RpcError> {
        self.check_pause(method)?;
        self.turn().await;
        // The wait for a turn may have been long.
        self.check_pause(method)?;
        self.ask(method, params, timeout, None).await
    }

    /// As [`Self::call`], but nothing is sent at or after `until`, since the wait for a turn may be long. A transaction
    /// also goes to a node that is backed off.
    pub(in crate::relay) async fn call_before<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
        until: Option<Timestamp>,
    ) -> Result<T, RpcError> {
        if let Some(limiter) = &self.limiter {
            limiter.turn_to_send().await;
        }
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

    /// Takes a turn if one is free now.
    pub(in crate::relay) fn try_turn(&self) -> bool {
        let is_free = |limiter: &Limiter| limiter.senders.load(Ordering::Relaxed) == 0 && limiter.try_turn().is_ok();
        self.limiter.as_ref().is_none_or(is_free)
    }

    /// One call with its turn already taken.
    pub(in crate::relay) async fn ask<T: DeserializeOwned>(
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
                health.lacks.remove(method);
                health.failures_in_a_row = 0;
                health.latency = if health.latency.is_zero() { took } else { (health.latency * 7 + took) / 8 };
                health
                    .by_method
                    .entry(method)
                    .and_modify(|latency| latency.measured(took))
                    .or_insert_with(|| Latency::first(took));
            }
            // It answers but lacks the method: not a failure, and remembered for a while.
            Err(error) if error.is_missing_method() => {
                health.failures_in_a_row = 0;
                let lack = health.lacks.entry(method).or_default();
                lack.until = Some(Instant::now() + MISSING_METHOD_PAUSE);
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
                    // A rate-limited node was not unavailable.
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

    /// Verifies the chain id before any other call, and again after every outage.
    async fn verify(&self) -> Result<(), RpcError> {
        let expected = self.expected_chain();
        if expected == 0 || self.is_verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        let method = "eth_chainId";
        // On any error here, nothing was sent.
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
        // A transport is the embedder's code: a panic in it only fails the call, which may have been delivered.
        let exchanged = AssertUnwindSafe(self.transport.exchange(body)).catch_unwind().await;
        let reply = exchanged.unwrap_or_else(|_| {
            tracing::error!(
                endpoint = self.endpoint.name(),
                method,
                "the transport panicked; the call counts as interrupted"
            );
            metrics::counter!("slackwater_rpc_panics_total", "endpoint" => self.endpoint.name().to_owned())
                .increment(1);
            Err(TransportFailure::Interrupted)
        });
        let reply = reply.map_err(|failure| self.transport_error(method, failure))?;
        let result = self.read(method, params, id, &reply);
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

    fn read<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        id: u64,
        reply: &RpcReply,
    ) -> Result<T, RpcError> {
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
            failure.code = Some(error.code);
            // Revert data is hex; anything else is the node's own text.
            failure.data = data.map(|data| if data.starts_with("0x") { data } else { self.discreet(&data) });
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
        let read = serde_json::from_str(result).map_err(|_| nonsense("result has an unexpected form"))?;
        if let Some((number, timestamp_s)) = told_head(method, params, result) {
            self.note_head(number, timestamp_s);
        }
        Ok(read)
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

/// The node's newest block, with its time in seconds if known, from the answer `result`; `None` if the answer does not
/// show it.
fn told_head(method: &str, params: &Value, result: &str) -> Option<(u64, Option<u64>)> {
    #[derive(Deserialize)]
    struct Block {
        number: U64,
        timestamp: U64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct History {
        oldest_block: U64,
        base_fee_per_gas: Vec<IgnoredAny>,
    }
    match method {
        "eth_blockNumber" => serde_json::from_str::<U64>(result).ok().map(|number| (number.to(), None)),
        "eth_getBlockByNumber" if params[0] == "latest" => {
            let block: Block = serde_json::from_str(result).ok()?;
            Some((block.number.to(), Some(block.timestamp.to())))
        }
        "eth_feeHistory" if params[1] == "latest" => {
            let history: History = serde_json::from_str(result).ok()?;
            // The last fee is the next block's.
            let blocks = u64::try_from(history.base_fee_per_gas.len()).ok()?.checked_sub(2)?;
            Some((history.oldest_block.to::<u64>().saturating_add(blocks), None))
        }
        _ => None,
    }
}
