//! HTTP, time and randomness for [`Client`].

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::header::RETRY_AFTER;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    Client, ClientError, HttpAnswer, HttpCall, MAX_ANSWER_BYTES, Method, Transport, TransportError, TransportErrorKind,
    time::Timestamp,
};

/// Time limit for a whole answer, unless [`HttpTransport::timeout`] sets another.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A typed client of one relayer over HTTP.
///
/// ```no_run
/// use std::time::Duration;
///
/// use slackwater_client::{Forward, RelayerClient, Submission, Until};
///
/// # async fn example(forward: Forward) -> Result<(), slackwater_client::ClientError> {
/// let client = RelayerClient::new("https://relayer.example")?.api_key("sw_shop_…");
/// let accepted = client.submit(Submission::forward(8453, forward).within(Duration::from_secs(30))).await?;
/// let mut following = client.follow(accepted.id, Until::Terminal);
/// while let Some(change) = following.next().await? {
///     println!("{} {:?}", change.event.status, change.event.tx_hash);
/// }
/// # Ok(())
/// # }
/// ```
pub type RelayerClient = Client<HttpTransport>;

/// HTTP transport by `reqwest`. `Debug` shows neither URL nor key.
#[derive(Clone)]
pub struct HttpTransport {
    http: reqwest::Client,
    base: String,
    key: Option<SecretString>,
    timeout: Duration,
    max_answer_bytes: usize,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl HttpTransport {
    /// A transport to `url`, which may have a path.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it is not an HTTP URL, or TLS can't be set up.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let invalid = |detail: &str| ClientError::Invalid { field: "url", detail: detail.to_owned() };
        let parsed = reqwest::Url::parse(url).map_err(|_| invalid("not a URL"))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(invalid("not an http or https URL without query"));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would carry the API key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| invalid("no HTTP client can be set up"))?;
        Ok(Self {
            http,
            base: url.trim_end_matches('/').to_owned(),
            key: None,
            timeout: TIMEOUT,
            max_answer_bytes: MAX_ANSWER_BYTES,
        })
    }

    /// The relayer's base URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Sets the API key to send.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(SecretString::from(key.into()));
        self
    }

    /// Sets the time limit for a whole answer. Default 30 s.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes of an answer after which no more is read. Default [`MAX_ANSWER_BYTES`], more than which [`Client`] refuses.
    #[must_use]
    pub const fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.max_answer_bytes = bytes;
        self
    }

    fn request(&self, call: &HttpCall) -> reqwest::RequestBuilder {
        let method = match call.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Delete => reqwest::Method::DELETE,
        };
        let mut request = self.http.request(method, format!("{}{}", self.base, call.path));
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    /// Sends `call` and returns when the headers have arrived.
    pub(super) async fn open(&self, call: &HttpCall) -> Result<reqwest::Response, TransportError> {
        match tokio::time::timeout(self.timeout, self.request(call).send()).await {
            Ok(sent) => sent.map_err(|error| transport_error(&error)),
            Err(_) => Err(TransportError::new(TransportErrorKind::Timeout, "no answer")),
        }
    }

    /// Reads a whole answer.
    pub(super) async fn read(&self, mut response: reqwest::Response) -> Result<HttpAnswer, TransportError> {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let mut answer = HttpAnswer {
            status: response.status().as_u16(),
            headers: retry_after.map(|value| vec![("retry-after".to_owned(), value.to_owned())]).unwrap_or_default(),
            body: Vec::new(),
        };
        while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(&error))? {
            answer.body.extend_from_slice(&chunk);
            if answer.body.len() > self.max_answer_bytes {
                break;
            }
        }
        Ok(answer)
    }
}

/// Classified transport error, without the URL.
pub(super) fn transport_error(error: &reqwest::Error) -> TransportError {
    if error.is_connect() {
        TransportError::new(TransportErrorKind::Unreachable, "no connection")
    } else if error.is_timeout() {
        TransportError::new(TransportErrorKind::Timeout, "no answer")
    } else {
        TransportError::new(TransportErrorKind::Broken, "the connection ended early")
    }
}

/// The system time.
pub(super) fn now() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "the client's shell is where time comes from")]
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// A random number; 0 without a source of randomness: then retries are not spread, and nothing else changes.
pub(super) fn entropy() -> u64 {
    getrandom::u64().unwrap_or(0)
}

impl Transport for HttpTransport {
    async fn send(&self, call: &HttpCall) -> Result<HttpAnswer, TransportError> {
        let exchange = async {
            let response = self.request(call).send().await.map_err(|error| transport_error(&error))?;
            self.read(response).await
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(TransportError::new(TransportErrorKind::Timeout, "no answer")),
        }
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }

    fn now(&self) -> Timestamp {
        now()
    }

    fn entropy(&self) -> u64 {
        entropy()
    }
}

impl Client<HttpTransport> {
    /// A client of the relayer at `url`.
    ///
    /// # Errors
    /// As [`HttpTransport::new`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        HttpTransport::new(url).map(Self::over)
    }

    /// Sets the API key to send.
    #[must_use]
    pub fn api_key(self, key: impl Into<String>) -> Self {
        self.map_transport(|transport| transport.api_key(key))
    }

    /// Sets the time limit for a whole answer. Default 30 s.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.map_transport(|transport| transport.timeout(timeout))
    }
}
