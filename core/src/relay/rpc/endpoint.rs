//! One endpoint: name, transport, rate limit.

use std::{
    fmt,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};

use super::discreet;
use crate::{
    chain::TransportFailure,
    relay::{
        clock,
        rpc::url::{UrlFault, check_http_url, check_ws_url},
    },
    time::{Timestamp, millis},
};

/// Longest accepted answer from a node, bytes: a block's receipts fit, an endless stream does not.
pub(in crate::relay) const MAX_REPLY_BYTES: usize = 32 * 1024 * 1024;

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcReply {
    /// HTTP status; 200 where the transport has none.
    pub status: u16,
    /// The body: one JSON-RPC answer.
    pub body: Vec<u8>,
    /// Back-off time requested by the node (`Retry-After`); `None` if it named none.
    pub retry_after: Option<Duration>,
}

impl RpcReply {
    /// An answer with this HTTP status, without `Retry-After`.
    pub const fn new(status: u16, body: Vec<u8>) -> Self {
        Self { status, body, retry_after: None }
    }
}

/// Carries one JSON-RPC call to a node and its answer back. HTTP unless an embedder supplies another.
#[async_trait]
pub trait RpcTransport: Send + Sync + fmt::Debug + 'static {
    /// Sends `body` and waits for the answer. The caller bounds the time: a future that is dropped may have been
    /// delivered.
    ///
    /// # Errors
    /// The kind of failure, which decides whether a transaction counts as possibly delivered (invariant I5).
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure>;
}

/// One RPC endpoint. Its URLs may hold a secret and are never shown.
#[derive(Clone)]
#[non_exhaustive]
pub struct RpcEndpoint {
    name: String,
    route: Route,
    heads: Option<SecretString>,
    rate_limit_per_s: Option<NonZeroU32>,
    /// True if clear text to another machine is allowed.
    is_insecure: bool,
}

#[derive(Clone)]
enum Route {
    Http(SecretString),
    Own(Arc<dyn RpcTransport>),
}

impl RpcEndpoint {
    /// Creates an HTTP(S) endpoint.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        Self::by(name.into(), Route::Http(SecretString::from(url.into())))
    }

    /// Creates an endpoint over the caller's own transport.
    pub fn over(name: impl Into<String>, transport: Arc<dyn RpcTransport>) -> Self {
        Self::by(name.into(), Route::Own(transport))
    }

    const fn by(name: String, route: Route) -> Self {
        Self { name, route, heads: None, rate_limit_per_s: None, is_insecure: false }
    }

    /// Sets the WebSocket (`ws://` or `wss://`) for new heads. These are only hints for poll timing; all evidence is
    /// still read from the nodes as usual.
    #[must_use]
    pub fn heads(mut self, url: impl Into<String>) -> Self {
        self.heads = Some(SecretString::from(url.into()));
        self
    }

    /// Sets the rate limit, calls per second; 0 means no limit.
    #[must_use]
    pub fn rate_limit_per_s(mut self, calls: u32) -> Self {
        self.rate_limit_per_s = NonZeroU32::new(calls);
        self
    }

    /// Allows `http://` and `ws://` to other machines. Anyone in between can then read the access key and forge the
    /// node's answers.
    #[must_use]
    pub const fn insecure(mut self, is_insecure: bool) -> Self {
        self.is_insecure = is_insecure;
        self
    }

    /// Faults of its URL and of its heads' URL.
    pub(in crate::relay) fn url_faults(&self) -> (Option<UrlFault>, Option<UrlFault>) {
        let relevant = |fault: &UrlFault| !(self.is_insecure && *fault == UrlFault::ClearText);
        let http = match &self.route {
            Route::Http(url) => check_http_url(url.expose_secret()).err(),
            Route::Own(_) => None,
        };
        let heads = self.heads.as_ref().and_then(|url| check_ws_url(url.expose_secret()).err());
        (http.filter(relevant), heads.filter(relevant))
    }

    /// Its name in logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if it has a WebSocket for heads.
    pub const fn has_heads(&self) -> bool {
        self.heads.is_some()
    }

    pub(in crate::relay) const fn heads_url(&self) -> Option<&SecretString> {
        self.heads.as_ref()
    }

    pub(in crate::relay) const fn limit(&self) -> Option<NonZeroU32> {
        self.rate_limit_per_s
    }

    /// Parts of its URLs to redact from its answers.
    pub(in crate::relay) fn hidden_parts(&self) -> Vec<SecretString> {
        let http = match &self.route {
            Route::Http(url) => Some(url),
            Route::Own(_) => None,
        };
        let urls = http.into_iter().chain(&self.heads);
        urls.flat_map(|url| discreet::parts(url.expose_secret())).map(SecretString::from).collect()
    }

    /// The transport for calls to it.
    pub(in crate::relay) fn transport(&self, connect_timeout: Duration) -> Arc<dyn RpcTransport> {
        match &self.route {
            Route::Http(url) => Arc::new(Http::new(url.clone(), connect_timeout)),
            Route::Own(transport) => transport.clone(),
        }
    }
}

impl fmt::Debug for RpcEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcEndpoint")
            .field("name", &self.name)
            .field("has_heads", &self.has_heads())
            .field("rate_limit_per_s", &self.rate_limit_per_s)
            .finish_non_exhaustive()
    }
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

/// Classifies a transport error. Its text may contain the URL, hence secrets, so only the kind is kept.
pub(in crate::relay) fn failure(error: &reqwest::Error) -> TransportFailure {
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
        let told = response.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = told.and_then(|text| retry_after(text, clock::now()));
        let mut body = Vec::new();
        loop {
            match response.chunk().await.map_err(|error| failure(&error))? {
                Some(chunk) if body.len() + chunk.len() > MAX_REPLY_BYTES => return Err(TransportFailure::Nonsense),
                Some(chunk) => body.extend_from_slice(&chunk),
                None => return Ok(RpcReply { status, body, retry_after }),
            }
        }
    }
}

/// Parses a `Retry-After` header: seconds, or an HTTP date (RFC 9110 §10.2.3). A past date gives zero; `None` if
/// unreadable.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_millis(millis(at).saturating_sub(now.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp(784_111_777_000);
        assert_eq!(retry_after(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:30 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }
}
