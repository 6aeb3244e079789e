//! Following one request over HTTP.

use std::time::Duration;

use super::transport::{HttpTransport, RelayerClient, entropy, now, transport_error};
use crate::{
    Change, ClientError, Event, Follow, FollowStep, HttpAnswer, RetryPolicy, SseError, SseParser, Transport,
    TransportError, Until, api, check, request::RequestId,
};

/// Time limit for a silent stream; relayers send a comment every `server.keep_alive_ms` (15 s).
const SILENCE: Duration = Duration::from_secs(60);

/// Follower of one request, change by change.
#[derive(Debug)]
pub struct Following {
    transport: HttpTransport,
    follow: Follow,
    stream: Option<reqwest::Response>,
}

impl RelayerClient {
    /// Follows a request from its first event, through broken connections.
    pub fn follow(&self, id: RequestId, until: Until) -> Following {
        self.follow_with(Follow::new(id).until(until))
    }

    /// Follows a request with the settings of `follow`.
    pub fn follow_with(&self, follow: Follow) -> Following {
        Following { transport: self.transport().clone(), follow, stream: None }
    }

    /// Opens the stream of all events after `after`, or from now on; `None` if nothing comes any more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, after: Option<u64>) -> Result<Option<Events>, ClientError> {
        let response = self.transport().open(&api::events(after)).await?;
        if response.status() == reqwest::StatusCode::OK {
            return Ok(Some(Events { response, parser: SseParser::default() }));
        }
        check(&self.transport().read(response).await?).map(|()| None)
    }
}

/// The stream of all events that the caller may see.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    parser: SseParser,
}

impl Events {
    /// The next event; `None` when the stream has ended or broke: open it again after the last one. Delivery is at least once.
    ///
    /// # Errors
    /// [`SseError`] if it can't be read on.
    pub async fn next(&mut self) -> Result<Option<Event>, SseError> {
        loop {
            while let Some(message) = self.parser.next_message() {
                // Anything else is of a newer relayer, or noise.
                if let Ok(event) = serde_json::from_str(&message.data) {
                    return Ok(Some(event));
                }
            }
            match tokio::time::timeout(SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.parser.push(&chunk)?,
                _ => return Ok(None),
            }
        }
    }
}

impl Following {
    /// From now on it gives up as `policy` says.
    pub const fn retry(&mut self, policy: RetryPolicy) {
        self.follow.set_retry(policy);
    }

    /// The next step; `None` when it is done. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// [`ClientError`] if following is pointless, such as `not_found`.
    pub async fn next(&mut self) -> Result<Option<Change>, ClientError> {
        loop {
            if let Some(change) = self.follow.next_change() {
                return Ok(Some(change));
            }
            match self.follow.step(now()) {
                FollowStep::Done => {
                    self.stream = None;
                    return self.follow.failure().map_or(Ok(None), |error| Err(error.clone()));
                }
                FollowStep::Wait(until) => tokio::time::sleep(until.since(now())).await,
                FollowStep::Look(call) => {
                    let answer = self.transport.send(&call).await;
                    self.follow.looked(now(), answer, entropy());
                }
                FollowStep::Open(call) => {
                    let opened = self.transport.open(&call).await;
                    let answer = self.keep(opened).await;
                    self.follow.opened(now(), answer, entropy());
                }
                FollowStep::Read => self.read().await,
            }
        }
    }

    /// Keeps a stream; reads any other answer.
    async fn keep(&mut self, opened: Result<reqwest::Response, TransportError>) -> Result<HttpAnswer, TransportError> {
        let response = opened?;
        if response.status() == reqwest::StatusCode::OK {
            self.stream = Some(response);
            return Ok(HttpAnswer { status: 200, ..HttpAnswer::default() });
        }
        self.transport.read(response).await
    }

    async fn read(&mut self) {
        let chunk = match &mut self.stream {
            Some(stream) => match tokio::time::timeout(SILENCE, stream.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| transport_error(&error)).ok().flatten(),
                Err(_) => None,
            },
            None => None,
        };
        let is_readable = chunk.is_some_and(|chunk| self.follow.bytes(&chunk).is_ok());
        if !is_readable {
            self.stream = None;
            self.follow.closed(now(), entropy());
        }
    }

    /// The underlying state machine: the request's state, and contradictions of the relayer.
    pub const fn machine(&self) -> &Follow {
        &self.follow
    }
}
