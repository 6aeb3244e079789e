//! Head subscriptions over a node's WebSocket (`eth_subscribe`, `newHeads`).
//!
//! A reported head is only a hint for poll timing: the watcher then reads from all nodes as usual, and a majority
//! decides. So a lying or faulty subscription can at worst cause a useless poll, or delay one until
//! `subscribed_poll_interval_ms`.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use alloy_primitives::{B256, U64};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, Upgraded, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error, Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::{RpcEndpoint, failure},
    feed::HeadFeed,
    node::{Node, ReplyError},
};
use crate::chain::{RpcErrorClass, TransportFailure, classify};

/// Longest accepted message, bytes; a header has some two thousand.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// First wait before a lost subscription is retried; doubled with every consecutive failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Consecutive failures between two warnings.
const WARN_EVERY: u32 = 120;

/// Failure of a subscription, by configuration, node or network. Never contains the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The URL does not begin with `ws://` or `wss://`.
    #[error("the URL is not ws:// or wss://")]
    NotAWebSocket,
    /// The connection failed (refused, DNS, TLS).
    #[error("connection failed")]
    NotConnected,
    /// An HTTP status instead of a WebSocket.
    #[error("HTTP {0} instead of a WebSocket")]
    Refused(u16),
    /// It serves another chain.
    #[error("serves chain {served}, not {expected}")]
    WrongChain {
        /// Chain id it serves.
        served: u64,
        /// Required chain id.
        expected: u64,
    },
    /// It refuses a call, for instance because it has no subscriptions.
    #[error("{method} is refused: {class}")]
    Call {
        /// The JSON-RPC method.
        method: &'static str,
        /// Class of the refusal.
        class: RpcErrorClass,
    },
    /// The answer is not JSON-RPC, or not an answer to the call.
    #[error("an answer that is not understood")]
    Nonsense,
    /// The message exceeds the accepted length, in bytes.
    #[error("a message longer than {0} bytes")]
    TooLong(usize),
    /// Connecting and subscribing exceeded the time limit, ms.
    #[error("not subscribed within {0} ms")]
    TimedOut(u64),
    /// The connection ended.
    #[error("connection ended")]
    Ended,
    /// No head came within the time limit, ms.
    #[error("no head for {0} ms")]
    Silent(u64),
}

/// A connection with an active head subscription.
pub(in crate::relay) struct Subscribed {
    socket: WebSocketStream<Upgraded>,
    id: String,
}

#[derive(Deserialize)]
struct Incoming {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<ReplyError>,
    #[serde(default)]
    params: Option<Notice>,
}

#[derive(Deserialize)]
struct Notice {
    subscription: String,
    result: Value,
}

#[derive(Deserialize)]
struct HeadReport {
    number: U64,
    hash: B256,
}

/// The head in `message` for subscription `id`; `None` for any other message.
fn head_in(message: &[u8], id: &str) -> Result<Option<(u64, B256)>, SubscriptionError> {
    let Ok(incoming) = serde_json::from_slice::<Incoming>(message) else { return Err(SubscriptionError::Nonsense) };
    match incoming.params {
        Some(notice) if notice.subscription == id => {
            let told: HeadReport = serde_json::from_value(notice.result).map_err(|_| SubscriptionError::Nonsense)?;
            Ok(Some((told.number.to(), told.hash)))
        }
        _ => Ok(None),
    }
}

/// True if `message` contains a head; for fuzzing.
#[cfg(feature = "fuzzing")]
pub(in crate::relay) fn is_understood(message: &[u8]) -> bool {
    head_in(message, "0x1").is_ok_and(|head| head.is_some())
}

fn client(timeout: Duration) -> reqwest::Client {
    reqwest::Client::builder()
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        // The handshake is HTTP/1.1 (RFC 6455 §4.1).
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap_or_default()
}

/// Connects to the WebSocket at `url`, checks its chain and subscribes, all within `timeout`.
pub(in crate::relay) async fn subscribe(
    url: &SecretString,
    chain_id: u64,
    timeout: Duration,
) -> Result<Subscribed, SubscriptionError> {
    subscribe_with(&client(timeout), url, chain_id, timeout).await
}

async fn subscribe_with(
    client: &reqwest::Client,
    url: &SecretString,
    chain_id: u64,
    timeout: Duration,
) -> Result<Subscribed, SubscriptionError> {
    let subscribe = async {
        let mut socket = connect(client, url).await?;
        let served: U64 = ask(&mut socket, 1, "eth_chainId", json!([])).await?;
        let served = served.to();
        if served != chain_id {
            return Err(SubscriptionError::WrongChain { served, expected: chain_id });
        }
        let id: String = ask(&mut socket, 2, "eth_subscribe", json!(["newHeads"])).await?;
        Ok(Subscribed { socket, id })
    };
    let too_long = SubscriptionError::TimedOut(crate::time::millis(timeout));
    tokio::time::timeout(timeout, subscribe).await.unwrap_or(Err(too_long))
}

/// The handshake, by the same client as all other calls, so that TLS, trust and proxies are the same too.
async fn connect(client: &reqwest::Client, url: &SecretString) -> Result<WebSocketStream<Upgraded>, SubscriptionError> {
    let url = url.expose_secret();
    let http = match (url.strip_prefix("wss://"), url.strip_prefix("ws://")) {
        (Some(rest), _) => format!("https://{rest}"),
        (_, Some(rest)) => format!("http://{rest}"),
        _ => return Err(SubscriptionError::NotAWebSocket),
    };
    let broken = |error: reqwest::Error| match failure(&error) {
        TransportFailure::NotConnected => SubscriptionError::NotConnected,
        _ => SubscriptionError::Ended,
    };
    let key = generate_key();
    let request = client
        .get(http)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key);
    let response = request.send().await.map_err(broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(SubscriptionError::Refused(response.status().as_u16()));
    }
    let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accepted| accepted.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(SubscriptionError::Nonsense);
    }
    let upgraded = response.upgrade().await.map_err(broken)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
}

/// The next message with content. The library answers pings meanwhile.
async fn next(socket: &mut WebSocketStream<Upgraded>) -> Result<Bytes, SubscriptionError> {
    loop {
        match socket.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Ok(message.into_data()),
            Some(Ok(Message::Close(_))) | None => return Err(SubscriptionError::Ended),
            Some(Ok(_)) => {}
            Some(Err(Error::Capacity(_))) => return Err(SubscriptionError::TooLong(MAX_MESSAGE_BYTES)),
            Some(Err(_)) => return Err(SubscriptionError::Ended),
        }
    }
}

async fn ask<T: serde::de::DeserializeOwned>(
    socket: &mut WebSocketStream<Upgraded>,
    id: u64,
    method: &'static str,
    params: Value,
) -> Result<T, SubscriptionError> {
    let call = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    socket.send(Message::text(call.to_string())).await.map_err(|_| SubscriptionError::Ended)?;
    loop {
        let message = next(socket).await?;
        let incoming: Incoming = serde_json::from_slice(&message).map_err(|_| SubscriptionError::Nonsense)?;
        if incoming.id.as_ref().and_then(Value::as_u64) != Some(id) {
            continue;
        }
        if let Some(error) = incoming.error {
            let data = error.data.map(|data| data.to_string());
            let class = classify(error.code, &error.message, data.as_deref());
            return Err(SubscriptionError::Call { method, class });
        }
        return serde_json::from_value(incoming.result.unwrap_or_default()).map_err(|_| SubscriptionError::Nonsense);
    }
}

/// Wait before the next try after `failures` consecutive failures, counted from 1.
pub(in crate::relay) fn wait_after(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

/// Keeps one endpoint's subscription up.
pub(in crate::relay) struct HeadSubscription {
    pub(in crate::relay) nodes: Arc<Vec<Node>>,
    pub(in crate::relay) place: usize,
    pub(in crate::relay) feed: Arc<watch::Sender<HeadFeed>>,
    pub(in crate::relay) chain_id: u64,
    pub(in crate::relay) timeout: Duration,
    /// Time without a head after which it is closed and renewed.
    pub(in crate::relay) longest_silence: Duration,
}

impl HeadSubscription {
    /// Subscribes, passes on heads, and resubscribes when the connection ends, until cancelled.
    pub(in crate::relay) async fn run(self, stop: CancellationToken) {
        let Some(url) = self.nodes[self.place].endpoint.heads_url() else { return stop.cancelled().await };
        let client = client(self.timeout);
        let mut failures = 0_u32;
        self.show(false);
        loop {
            let mut heads = 0;
            let error = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = self.session(&client, url, &mut heads) => match ended {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
            };
            self.show(false);
            self.feed.send_if_modified(|feed| feed.end(self.place));
            failures = if heads > 0 { 1 } else { failures.saturating_add(1) };
            let wait = wait_after(failures);
            let (chain_id, endpoint) = (self.chain_id, self.name());
            if failures == 1 || failures.is_multiple_of(WARN_EVERY) {
                tracing::warn!(chain_id, endpoint, heads, failures, %error, "no subscription to heads; they are polled");
            } else {
                tracing::debug!(chain_id, endpoint, failures, %error, "no subscription to heads");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            metrics::counter!("slackwater_head_subscription_reconnects_total", "chain_id" => chain_id.to_string(), "endpoint" => endpoint.to_owned())
                .increment(1);
        }
    }

    fn name(&self) -> &str {
        self.nodes[self.place].endpoint.name()
    }

    fn show(&self, is_up: bool) {
        self.nodes[self.place].is_subscribed.store(is_up, Ordering::Relaxed);
        metrics::gauge!("slackwater_head_subscription_up", "chain_id" => self.chain_id.to_string(), "endpoint" => self.name().to_owned())
            .set(f64::from(u8::from(is_up)));
    }

    /// One connection, from its beginning to its end.
    async fn session(
        &self,
        client: &reqwest::Client,
        url: &SecretString,
        heads: &mut u64,
    ) -> Result<Infallible, SubscriptionError> {
        let Subscribed { mut socket, id } = subscribe_with(client, url, self.chain_id, self.timeout).await?;
        self.show(true);
        tracing::info!(chain_id = self.chain_id, endpoint = self.name(), "subscribed to heads");
        let mut heard = Instant::now();
        let mut last = None;
        loop {
            let Ok(message) = tokio::time::timeout_at(heard + self.longest_silence, next(&mut socket)).await else {
                return Err(SubscriptionError::Silent(crate::time::millis(self.longest_silence)));
            };
            let Some((number, hash)) = head_in(&message?, &id)? else { continue };
            // A repeated head is ignored.
            if last.replace((number, hash)) == Some((number, hash)) {
                continue;
            }
            heard = Instant::now();
            *heads += 1;
            metrics::counter!("slackwater_heads_told_total", "chain_id" => self.chain_id.to_string(), "endpoint" => self.name().to_owned())
                .increment(1);
            self.feed.send_if_modified(|feed| feed.tell(self.place, number, hash, heard));
        }
    }
}

impl RpcEndpoint {
    /// Tests its WebSocket: subscribes to heads on `chain_id`, then disconnects. `None` if it has no WebSocket.
    ///
    /// # Errors
    /// The failure. Never shows the URL.
    pub async fn try_heads(&self, chain_id: u64, timeout: Duration) -> Option<Result<(), SubscriptionError>> {
        let url = self.heads_url()?;
        Some(subscribe(url, chain_id, timeout).await.map(drop))
    }
}
