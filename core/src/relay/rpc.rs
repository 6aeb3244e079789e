//! The RPC pool: one HTTP client per node for its life, classification of every failure, sends to all, reads from the
//! healthiest, quorum where a decision depends on the answer.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, Bytes};
use async_trait::async_trait;
use futures_util::future::join_all;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::{api::EndpointStatus, clock};
use crate::{
    chain::{RpcErrorClass, Taken, TransportFailure, classify, classify_http},
    lane::SendOutcome,
    ledger::{AttemptRecord, Durable},
    protection::Protection,
    time::Timestamp,
};

/// Longest answer that is read from a node, bytes: a block's receipts fit, an endless stream does not.
const MAX_REPLY_BYTES: usize = 32 * 1024 * 1024;

/// Longest error text that is kept, bytes.
const MAX_ERROR_BYTES: usize = 300;

/// Consecutive failures after which an endpoint is asked last.
const UNHEALTHY_AFTER: u64 = 3;

/// What a node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcReply {
    /// HTTP status; 200 where the transport has none.
    pub status: u16,
    /// The body: one JSON-RPC answer.
    pub body: Vec<u8>,
}

/// Carries one JSON-RPC call to a node and its answer back. HTTP unless an embedder brings another.
#[async_trait]
pub trait RpcTransport: Send + Sync + fmt::Debug + 'static {
    /// Sends `body` and waits for the answer. The caller bounds the time: a future that is dropped may have been delivered.
    ///
    /// # Errors
    /// How it failed; this decides whether a transaction counts as perhaps delivered (invariant I5).
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure>;
}

/// One RPC endpoint. Its URL may hold a secret and is never shown.
#[derive(Clone)]
pub struct RpcEndpoint {
    name: String,
    route: Route,
    rate_limit_per_s: Option<NonZeroU32>,
}

#[derive(Clone)]
enum Route {
    Http(SecretString),
    Own(Arc<dyn RpcTransport>),
}

impl RpcEndpoint {
    /// An HTTP(S) endpoint.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self { name: name.into(), route: Route::Http(SecretString::from(url.into())), rate_limit_per_s: None }
    }

    /// An endpoint behind a transport of the caller's own.
    pub fn over(name: impl Into<String>, transport: Arc<dyn RpcTransport>) -> Self {
        Self { name: name.into(), route: Route::Own(transport), rate_limit_per_s: None }
    }

    /// Calls per second that it may be asked; 0 means no limit.
    #[must_use]
    pub fn rate_limit_per_s(mut self, calls: u32) -> Self {
        self.rate_limit_per_s = NonZeroU32::new(calls);
        self
    }

    /// Its name in logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for RpcEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcEndpoint")
            .field("name", &self.name)
            .field("rate_limit_per_s", &self.rate_limit_per_s)
            .finish_non_exhaustive()
    }
}

/// Why a call failed, at one node or at all.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} at {endpoint}: {class:?}: {message}")]
pub struct RpcError {
    /// The node's configured name.
    pub endpoint: String,
    /// The JSON-RPC method.
    pub method: &'static str,
    /// What it means.
    pub class: RpcErrorClass,
    /// Whether the node may have taken a transaction.
    pub taken: Taken,
    /// Bounded text without secrets.
    pub message: String,
    /// `data` of a JSON-RPC error: revert data, for instance.
    pub data: Option<String>,
}

impl RpcError {
    /// The same call may succeed later, or elsewhere.
    pub const fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }

    /// The call reached a node that answered: other nodes would answer the same.
    const fn is_answer(&self) -> bool {
        matches!(
            self.class,
            RpcErrorClass::Reverted
                | RpcErrorClass::BadTransaction
                | RpcErrorClass::GasTooHigh
                | RpcErrorClass::InsufficientFunds
        )
    }
}

#[derive(Debug, Default)]
struct Health {
    head: Option<u64>,
    /// Newest block that is final for this node, by its own last word.
    final_block: Option<u64>,
    last_error: Option<String>,
    failures_in_a_row: u64,
    latency_us: u64,
}

/// One HTTP client for the endpoint's life.
struct Http {
    client: reqwest::Client,
    url: SecretString,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl Http {
    fn new(url: SecretString, connect_timeout: Duration) -> Self {
        let client = reqwest::Client::builder()
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap_or_default();
        Self { client, url }
    }
}

/// The transport's own text may contain the URL, hence secrets: only the kind is kept.
fn failure(error: &reqwest::Error) -> TransportFailure {
    if error.is_connect() {
        TransportFailure::NotConnected
    } else if error.is_timeout() {
        TransportFailure::TimedOut
    } else {
        TransportFailure::Interrupted
    }
}

#[async_trait]
impl RpcTransport for Http {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let sent = self
            .client
            .post(self.url.expose_secret())
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await;
        let mut response = sent.map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        loop {
            match response.chunk().await.map_err(|error| failure(&error))? {
                Some(chunk) if body.len() + chunk.len() > MAX_REPLY_BYTES => return Err(TransportFailure::Nonsense),
                Some(chunk) => body.extend_from_slice(&chunk),
                None => return Ok(RpcReply { status, body }),
            }
        }
    }
}

struct Node {
    endpoint: RpcEndpoint,
    transport: Arc<dyn RpcTransport>,
    limiter: Option<DefaultDirectRateLimiter>,
    ids: AtomicU64,
    calls: AtomicU64,
    failures: AtomicU64,
    health: Mutex<Health>,
    /// The chain that it must serve; 0 while nobody said.
    chain_id: AtomicU64,
    /// It has said so, and was not away since.
    is_verified: AtomicBool,
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
struct ReplyError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Option<Value>,
}

impl Node {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, method: &'static str, class: RpcErrorClass, taken: Taken, message: impl Into<String>) -> RpcError {
        let mut message: String = message.into();
        if message.len() > MAX_ERROR_BYTES {
            let mut end = MAX_ERROR_BYTES;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        RpcError { endpoint: self.endpoint.name.clone(), method, class, taken, message, data: None }
    }

    /// One call with its own deadline. Failures count towards the node's health unless the node answered.
    async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
    ) -> Result<T, RpcError> {
        self.call_before(method, params, timeout, None).await
    }

    /// As [`Self::call`], but nothing is asked from `until` on: waiting for our turn may have taken long.
    async fn call_before<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        timeout: Duration,
        until: Option<Timestamp>,
    ) -> Result<T, RpcError> {
        if let Some(limiter) = &self.limiter {
            limiter.until_ready().await;
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
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
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut health = self.health();
        match &result {
            Ok(_) => {
                health.failures_in_a_row = 0;
                health.latency_us = if health.latency_us == 0 { micros } else { (health.latency_us * 7 + micros) / 8 };
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
                    self.is_verified.store(false, Ordering::Relaxed);
                    health.failures_in_a_row += 1;
                    health.last_error = Some(error.message.clone());
                    metrics::counter!("slackwater_rpc_failures_total", "endpoint" => self.endpoint.name.clone(), "class" => error.class.as_str())
                        .increment(1);
                }
            }
        }
        drop(health);
        result
    }

    /// Before anything else is asked, and again after every absence: is this still our chain?
    async fn verify(&self) -> Result<(), RpcError> {
        let expected = self.chain_id.load(Ordering::Relaxed);
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
        let reply = self.transport.exchange(body).await.map_err(|failure| self.transport_error(method, failure))?;
        let RpcReply { status, body: bytes } = reply;
        let Ok(reply) = serde_json::from_slice::<Reply<'_>>(&bytes) else {
            if (200..300).contains(&status) {
                let failure = TransportFailure::Nonsense;
                return Err(self.error(method, failure.class(), failure.taken(), "answer is not JSON-RPC"));
            }
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ERROR_BYTES)]).into_owned();
            let class = classify_http(status, &text);
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

/// All endpoints of one chain.
#[derive(Debug, Clone)]
pub struct RpcPool {
    nodes: Arc<Vec<Node>>,
    timeout: Duration,
}

impl RpcPool {
    /// A pool; every answer is awaited for at most `timeout`.
    pub fn new(endpoints: Vec<RpcEndpoint>, timeout: Duration) -> Self {
        let nodes = endpoints
            .into_iter()
            .map(|endpoint| Node {
                limiter: endpoint.rate_limit_per_s.map(|calls| RateLimiter::direct(Quota::per_second(calls))),
                transport: match &endpoint.route {
                    Route::Http(url) => Arc::new(Http::new(url.clone(), timeout)),
                    Route::Own(transport) => transport.clone(),
                },
                ids: AtomicU64::new(1),
                calls: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                health: Mutex::default(),
                chain_id: AtomicU64::new(0),
                is_verified: AtomicBool::new(false),
                endpoint,
            })
            .collect();
        Self { nodes: Arc::new(nodes), timeout }
    }

    /// From now on every node is asked for its chain id before anything else, and refused if it is another.
    pub(super) fn expect_chain(&self, chain_id: u64) {
        for node in self.nodes.iter() {
            node.chain_id.store(chain_id, Ordering::Relaxed);
        }
    }

    /// Number of endpoints.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// There is no endpoint.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Endpoints, the healthiest and fastest first.
    fn ranked(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let health = node.health();
                let is_bad = health.failures_in_a_row >= UNHEALTHY_AFTER;
                ((is_bad, std::cmp::Reverse(health.head.unwrap_or(0)), health.latency_us), node)
            })
            .collect();
        nodes.sort_by_key(|(rank, _)| *rank);
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    /// Asks one node after the other until one answers.
    ///
    /// # Errors
    /// The last [`RpcError`]; a revert is an answer and is not asked for elsewhere.
    pub async fn call<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, RpcError> {
        let mut last = None;
        for node in self.ranked() {
            match node.call(method, &params, self.timeout).await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_answer() => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| RpcError {
            endpoint: "none".to_owned(),
            method,
            class: RpcErrorClass::EndpointUnusable,
            taken: Taken::No,
            message: "no endpoint is configured".to_owned(),
            data: None,
        }))
    }

    /// Asks every node at once.
    pub async fn call_all<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Vec<Result<T, RpcError>> {
        join_all(self.nodes.iter().map(|node| node.call(method, &params, self.timeout))).await
    }

    /// Asks every node at once, and measures how long each took.
    pub(super) async fn call_all_timed<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Vec<(Result<T, RpcError>, Duration)> {
        let ask = async |node: &Node| {
            let start = Instant::now();
            (node.call(method, &params, self.timeout).await, start.elapsed())
        };
        join_all(self.nodes.iter().map(ask)).await
    }

    /// Configured names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.name.clone()).collect()
    }

    /// Asks the nodes for which `block` is final, by their own last word ([`Self::note_final`]), and returns what they answer.
    ///
    /// **Invariant I9:** what another node says about that block may belong to a branch that a reorg has replaced, however
    /// many others have it as final.
    pub(super) async fn call_settled<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
        block: u64,
    ) -> Vec<T> {
        if !Protection::ReadQuorum.is_on() {
            return self.call(method, params).await.ok().into_iter().collect();
        }
        let is_settled = |node: &&Node| {
            node.health().final_block.is_some_and(|last| last >= block) || !Protection::OwnFinality.is_on()
        };
        let nodes = self.nodes.iter().filter(is_settled);
        let answers = join_all(nodes.map(|node| node.call(method, &params, self.timeout))).await;
        answers.into_iter().flatten().collect()
    }

    /// Whether so many nodes are a majority.
    pub(super) fn is_majority(&self, count: usize) -> bool {
        let all = if Protection::ReadQuorum.is_on() { self.nodes.len() } else { 1 };
        count * 2 > all
    }

    /// What is final for each node, in the order of the endpoints, as it said just now. `None` where it said nothing: its last
    /// word stands, since what is final stays so.
    pub(super) fn note_final(&self, told: impl IntoIterator<Item = Option<u64>>) {
        for (node, told) in self.nodes.iter().zip(told) {
            if told.is_some() {
                node.health().final_block = told;
            }
        }
    }

    /// The highest value that a majority of the nodes reaches, `None` if fewer answered: one node alone raises it not.
    pub(super) fn reached<T: Ord + Copy>(&self, mut answers: Vec<T>) -> Option<T> {
        answers.sort_unstable();
        let place = if Protection::ReadQuorum.is_on() { self.nodes.len() / 2 } else { 0 };
        answers.into_iter().rev().nth(place)
    }

    /// Names and chain ids of all endpoints that answer.
    pub async fn chain_ids(&self) -> Vec<(String, Result<u64, RpcError>)> {
        let answers = join_all(self.nodes.iter().map(|node| async {
            let id = node.call::<alloy_primitives::U64>("eth_chainId", &json!([]), self.timeout).await;
            (node.endpoint.name.clone(), id.map(|id| id.to::<u64>()))
        }));
        answers.await
    }

    /// Sends a committed attempt to every node.
    ///
    /// **Invariant I2:** only a [`Durable`] attempt can be sent.
    /// **Invariant I7:** nothing leaves from `until` on.
    pub(super) async fn broadcast(&self, attempt: &Durable<AttemptRecord>, until: Option<Timestamp>) -> SendOutcome {
        let params = json!([attempt.get().raw]);
        let hash = attempt.get().hash;
        let send = |node| Node::call_before::<B256>(node, "eth_sendRawTransaction", &params, self.timeout, until);
        let answers = join_all(self.nodes.iter().map(send)).await;
        let outcomes = answers.into_iter().zip(self.nodes.iter()).map(|(answer, node)| match answer {
            Ok(answered) if answered == hash => SendOutcome::Taken,
            // A node that names another hash is broken; what it did with the bytes is unknown.
            Ok(_) => {
                node.health().last_error = Some("returned another transaction hash".to_owned());
                SendOutcome::Maybe(RpcErrorClass::NodeUnavailable)
            }
            Err(error) => {
                tracing::debug!(endpoint = %error.endpoint, class = error.class.as_str(), message = %error.message, %hash, "broadcast answer");
                metrics::counter!("slackwater_broadcast_errors_total", "class" => error.class.as_str()).increment(1);
                match error.taken {
                    Taken::Yes => SendOutcome::Taken,
                    Taken::Maybe => SendOutcome::Maybe(error.class),
                    Taken::No => SendOutcome::Refused(error.class),
                }
            }
        });
        outcomes.reduce(merge).unwrap_or(SendOutcome::Refused(RpcErrorClass::EndpointUnusable))
    }

    /// Newest head that a node told.
    pub(super) fn note_head(&self, head: u64) {
        for node in self.nodes.iter() {
            let mut health = node.health();
            if health.failures_in_a_row == 0 {
                health.head = Some(head);
            }
        }
    }

    /// Condition of every endpoint.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.nodes
            .iter()
            .map(|node| {
                let health = node.health();
                EndpointStatus {
                    name: node.endpoint.name.clone(),
                    is_healthy: health.failures_in_a_row < UNHEALTHY_AFTER,
                    head: health.head,
                    calls: node.calls.load(Ordering::Relaxed),
                    failures: node.failures.load(Ordering::Relaxed),
                    latency_ms: health.latency_us / 1_000,
                    last_error: health.last_error.clone(),
                }
            })
            .collect()
    }

    /// Runtime code of a contract.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn code(&self, address: alloy_primitives::Address) -> Result<Bytes, RpcError> {
        self.call("eth_getCode", json!([address, "latest"])).await
    }
}

/// What the nodes said together: taken beats maybe beats refused; of two refusals the one that says more.
fn merge(a: SendOutcome, b: SendOutcome) -> SendOutcome {
    use SendOutcome::{Maybe, Refused, Taken};
    match (a, b) {
        (Taken, _) | (_, Taken) => Taken,
        (Maybe(class), _) | (_, Maybe(class)) => Maybe(class),
        (Refused(a), Refused(b)) => {
            // A node that is out of order says nothing about the transaction.
            let is_vague = matches!(
                a,
                RpcErrorClass::RateLimited | RpcErrorClass::EndpointUnusable | RpcErrorClass::NodeUnavailable
            );
            Refused(if is_vague { b } else { a })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_url_in_debug() {
        let endpoint = RpcEndpoint::new("main", "https://node.example/v2/s3cr3t");
        let pool = RpcPool::new(vec![endpoint.clone()], Duration::from_secs(1));
        for shown in [format!("{endpoint:?}"), format!("{pool:?}")] {
            assert!(!shown.contains("s3cr3t"), "{shown}");
        }
    }

    #[test]
    fn one_node_that_took_it_is_enough() {
        use SendOutcome::{Maybe, Refused, Taken};
        let refused = Refused(RpcErrorClass::Underpriced);
        assert_eq!(merge(refused, Taken), Taken);
        assert_eq!(merge(refused, Maybe(RpcErrorClass::Timeout)), Maybe(RpcErrorClass::Timeout));
        assert_eq!(merge(Refused(RpcErrorClass::RateLimited), refused), refused);
    }
}
