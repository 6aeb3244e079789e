//! A thin client of the relayer's HTTP API for tests and load generators; it hides no error.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use slackwater_client::SseParser;
use slackwater_core::wire::{self, Accepted, BatchResult, BatchResults, Counts, Lanes};

use crate::{
    error::{BenchError, Result},
    http::{Answer, Http, get, post_json},
};

/// A client of one relayer. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct RelayerClient {
    http: Http,
    authorization: Option<HeaderValue>,
}

/// The answer to one submission.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "looked at, and dropped")]
pub enum Submitted {
    /// Accepted: durable, and promised.
    Accepted(Accepted),
    /// Refused; nothing is kept.
    Refused(Problem),
}

impl Submitted {
    /// The acceptance.
    ///
    /// # Errors
    /// [`BenchError::Problem`] if it was refused.
    pub fn accepted(self) -> Result<Accepted> {
        match self {
            Self::Accepted(accepted) => Ok(accepted),
            Self::Refused(problem) => Err(problem.into()),
        }
    }

    /// The stable code of the refusal; `None` if it was accepted.
    pub fn refused_with(&self) -> Option<&str> {
        match self {
            Self::Accepted(_) => None,
            Self::Refused(problem) => Some(&problem.code),
        }
    }
}

/// A problem.
pub type Problem = wire::Problem<'static>;

impl From<Problem> for BenchError {
    fn from(problem: Problem) -> Self {
        Self::Problem { status: problem.status, code: problem.code.into(), detail: problem.detail.into() }
    }
}

/// An event of a request.
pub type Event = wire::Event<'static>;

/// A request as `GET /v1/requests/{id}` shows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestState {
    /// Its id.
    pub id: B256,
    /// Current status.
    pub status: String,
    /// Stable code of the reason why it ended or returned to the queue.
    pub reason: Option<String>,
    /// Batch, as `chainId:sender:nonce`.
    pub batch: Option<String>,
    /// Transaction that executed it.
    pub tx_hash: Option<B256>,
    /// Block that executed it.
    pub block_number: Option<u64>,
    /// Its share of the gas.
    pub gas_used: Option<u64>,
    /// Its share of the cost, wei, as a decimal string.
    pub cost_wei: Option<String>,
    /// Time of acceptance, Unix ms.
    pub accepted_at_ms: u64,
    /// Signed transactions of its batch, oldest first.
    #[serde(default)]
    pub attempts: Vec<Value>,
    /// Its events, oldest first.
    #[serde(default)]
    pub timeline: Vec<Event>,
}

impl RequestState {
    /// True if it has ended.
    pub fn is_terminal(&self) -> bool {
        is_terminal(&self.status)
    }
}

/// True if a request with this status has ended.
pub fn is_terminal(status: &str) -> bool {
    slackwater_core::request::Status::from_name(status).is_some_and(slackwater_core::request::Status::is_terminal)
}

impl RelayerClient {
    /// A client of the relayer at `url`, on this machine.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self { http: Http::new(url)?, authorization: None })
    }

    /// The same, with an API key.
    ///
    /// # Panics
    /// If the key holds characters that are invalid in a header.
    #[must_use]
    pub fn with_key(mut self, key: &str) -> Self {
        self.authorization = Some(format!("Bearer {key}").parse().expect("an API key is visible ASCII"));
        self
    }

    /// The same, with another timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.http = self.http.with_timeout(timeout);
        self
    }

    /// Any call, with the key added.
    ///
    /// # Errors
    /// If no answer comes. An error status is an answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        self.http.send(self.signed(request)).await
    }

    /// Submits one request.
    ///
    /// # Errors
    /// If no valid answer comes; a refusal is an answer.
    pub async fn submit(&self, body: &Bytes) -> Result<Submitted> {
        let answer = self.send(post_json("/v1/requests", body.clone())).await?;
        submitted(&answer)
    }

    /// As [`Self::submit`], with an idempotency key.
    ///
    /// # Errors
    /// As [`Self::submit`].
    ///
    /// # Panics
    /// If the key is not visible ASCII.
    pub async fn submit_once(&self, body: &Bytes, key: &str) -> Result<Submitted> {
        let mut request = post_json("/v1/requests", body.clone());
        request.headers_mut().insert("idempotency-key", key.parse().expect("visible ASCII"));
        submitted(&self.send(request).await?)
    }

    /// Submits a batch of already encoded requests; the answers are in the same order.
    ///
    /// # Errors
    /// If no valid answer comes, or the batch is refused as a whole.
    pub async fn submit_batch(&self, body: Bytes) -> Result<Vec<Submitted>> {
        let answer = self.send(post_json("/v1/requests/batch", body)).await?;
        if answer.status != 207 {
            return Err(problem(&answer)?.into());
        }
        let results: BatchResults<'static> = json(&answer)?;
        let result = |item: BatchResult<'static>| match item {
            BatchResult { accepted: Some(accepted), .. } => Ok(Submitted::Accepted(accepted)),
            BatchResult { problem: Some(problem), .. } => Ok(Submitted::Refused(problem)),
            BatchResult { .. } => Err(BenchError::unexpected("batch result", "neither accepted nor a problem")),
        };
        results.results.into_iter().map(result).collect()
    }

    /// One request.
    ///
    /// # Errors
    /// [`BenchError::Problem`] `not_found` if it is not known.
    pub async fn request(&self, id: B256) -> Result<RequestState> {
        self.get_json(&format!("/v1/requests/{id}")).await
    }

    /// Polls until a request has ended.
    ///
    /// # Errors
    /// [`BenchError::Timeout`] after `within`. Calls without an answer are repeated: the relayer may be restarting.
    pub async fn wait_terminal(&self, id: B256, within: Duration) -> Result<RequestState> {
        let poll = async {
            loop {
                match self.request(id).await {
                    Ok(state) if state.is_terminal() => return Ok(state),
                    Ok(_) => {}
                    Err(error) if error.is_ambiguous() => {}
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let timeout = |_| Err(BenchError::Timeout { what: format!("the end of request {id}"), after: within });
        tokio::time::timeout(within, poll).await.unwrap_or_else(timeout)
    }

    /// Number of requests by status, over all chains.
    ///
    /// # Errors
    /// If the key is not an operator's.
    pub async fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let counts: Counts = self.get_json("/v1/counts").await?;
        let mut by_status = BTreeMap::new();
        for row in counts.counts {
            *by_status.entry(row.status.as_str().to_owned()).or_default() += row.count;
        }
        Ok(by_status)
    }

    /// The chains.
    ///
    /// # Errors
    /// If no valid answer comes.
    pub async fn chains(&self) -> Result<Value> {
        self.get_json("/v1/chains").await
    }

    /// Senders of the relayer's transactions.
    ///
    /// # Errors
    /// If no valid answer comes.
    pub async fn senders(&self) -> Result<Vec<Address>> {
        let lanes: Lanes = self.get_json("/v1/lanes").await?;
        Ok(lanes.lanes.into_iter().map(|lane| lane.sender.0).collect())
    }

    /// The lanes, as the API shows them.
    ///
    /// # Errors
    /// If no valid answer comes.
    pub async fn lanes(&self) -> Result<Value> {
        self.get_json("/v1/lanes").await
    }

    /// True if it is ready for requests; false without an answer.
    pub async fn is_ready(&self) -> bool {
        matches!(self.send(get("/readyz")).await, Ok(answer) if answer.status == 200)
    }

    /// The metrics as `name{labels}` and value.
    ///
    /// # Errors
    /// If they are not served.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let answer = self.send(get("/metrics")).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(k, v)| Some((k.into(), v.parse().ok()?)))
            .collect())
    }

    /// Streams the events of all requests after sequence number `after`.
    ///
    /// # Errors
    /// If the stream is not served.
    pub async fn events(&self, after: u64) -> Result<EventStream> {
        let mut request = get(&format!("/v1/events?after={after}"));
        request.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
        let response = self.http.stream(self.signed(request)).await?;
        if response.status().as_u16() != 200 {
            return Err(BenchError::unexpected("GET /v1/events", response.status()));
        }
        Ok(EventStream { body: response.into_body(), parser: SseParser::default(), last: after })
    }

    /// Any JSON that is read with `GET`.
    ///
    /// # Errors
    /// [`BenchError::Problem`] for an error answer.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let answer = self.send(get(path)).await?;
        if answer.status == 200 { json(&answer) } else { Err(problem(&answer)?.into()) }
    }

    /// A quote for the request or estimate in `body`.
    ///
    /// # Errors
    /// [`BenchError::Problem`] for an error answer.
    pub async fn quote<T: DeserializeOwned>(&self, body: &Value) -> Result<T> {
        let answer = self.send(post_json("/v1/quotes", body.to_string())).await?;
        if answer.status == 200 { json(&answer) } else { Err(problem(&answer)?.into()) }
    }

    fn signed(&self, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

fn submitted(answer: &Answer) -> Result<Submitted> {
    match answer.status {
        202 => json(answer).map(Submitted::Accepted),
        _ => problem(answer).map(Submitted::Refused),
    }
}

/// Reads the problem from an error answer.
///
/// # Errors
/// If the answer is not a problem document.
pub fn problem(answer: &Answer) -> Result<Problem> {
    let media_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.starts_with("application/problem+json") {
        let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
        return Err(BenchError::unexpected(format!("answer {} ({media_type})", answer.status), body));
    }
    json(answer)
}

fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
        BenchError::unexpected(format!("answer {}", answer.status), format!("{error}: {body}"))
    })
}

/// Server-sent events.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    parser: SseParser,
    last: u64,
}

impl EventStream {
    /// The next event; `None` when the relayer ends the stream.
    ///
    /// # Errors
    /// If the connection breaks or an event is not JSON.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(message) = self.parser.next_message() {
                let event: Event =
                    serde_json::from_str(&message.data).map_err(|error| BenchError::unexpected("event", error))?;
                self.last = event.seq;
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.push(&data).map_err(|error| BenchError::unexpected("event", error))?;
                    }
                }
                Some(Err(error)) => {
                    return Err(BenchError::Http { what: "GET /v1/events".to_owned(), detail: error.to_string() });
                }
            }
        }
    }

    /// Sequence number of the last event that [`Self::next`] returned.
    pub const fn last(&self) -> u64 {
        self.last
    }
}
