//! HTTP exchanges as values: requests, answers and transport errors.

use std::{fmt, marker::PhantomData};

use super::error::{ClientError, parse_problem};
use crate::json;

/// Largest accepted answer, bytes. A batch of 1 000 acceptances has about 1 MB.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Longest excerpt of an external text in an error, characters.
const MAX_DETAIL_CHARS: usize = 300;

/// HTTP methods of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
}

impl Method {
    /// Name of the method in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An HTTP request without credentials: its sender adds `Authorization: Bearer …`, so that an API key is never part of
/// stored, compared or displayed data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// Method.
    pub method: Method,
    /// Path and query, relative to the relayer's base URL.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// JSON body; `None` without one.
    pub body: Option<String>,
}

impl HttpCall {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::Get, path, headers: vec![("accept", "application/json".to_owned())], body: None }
    }

    pub(super) fn delete(path: String) -> Self {
        Self { method: Method::Delete, ..Self::get(path) }
    }

    pub(super) fn post(path: &str, body: String) -> Self {
        let mut call = Self { method: Method::Post, ..Self::get(path.to_owned()) };
        call.headers.push(("content-type", "application/json".to_owned()));
        call.body = Some(body);
        call
    }

    pub(super) fn stream(path: String, after: Option<u64>) -> Self {
        let mut headers = vec![("accept", "text/event-stream".to_owned())];
        headers.extend(after.map(|after| ("last-event-id", after.to_string())));
        Self { method: Method::Get, path, headers, body: None }
    }
}

/// An HTTP answer. Read at most [`MAX_ANSWER_BYTES`] of a body; larger ones are refused by [`ApiCall::parse`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// Headers; only `retry-after` is used.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The first header with this name, case-insensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// True for any success status (2xx).
    pub const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }
}

/// Progress of a call without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportErrorKind {
    /// No connection: the relayer has received nothing.
    Unreachable,
    /// No answer in time: the relayer may have executed it.
    Timeout,
    /// The connection broke: the relayer may have executed it. The default in case of doubt.
    Broken,
}

/// A call without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", match .kind {
    TransportErrorKind::Unreachable => "the relayer can't be reached",
    TransportErrorKind::Timeout => "the relayer did not answer in time",
    TransportErrorKind::Broken => "the connection to the relayer broke",
})]
pub struct TransportError {
    /// Progress of the call.
    pub kind: TransportErrorKind,
    /// For people; without URL and credentials.
    pub detail: String,
}

impl TransportError {
    /// An error with a bounded detail.
    pub fn new(kind: TransportErrorKind, detail: impl AsRef<str>) -> Self {
        Self { kind, detail: excerpt(detail.as_ref()) }
    }
}

/// A call of the API, with its answer's parser.
pub struct ApiCall<T> {
    http: HttpCall,
    read: fn(&HttpAnswer) -> Result<T, ClientError>,
    answer: PhantomData<fn() -> T>,
}

impl<T> ApiCall<T> {
    pub(super) const fn new(http: HttpCall, read: fn(&HttpAnswer) -> Result<T, ClientError>) -> Self {
        Self { http, read, answer: PhantomData }
    }

    /// The HTTP request.
    pub const fn http(&self) -> &HttpCall {
        &self.http
    }

    /// Whether sending it again after a lost answer does no harm.
    ///
    /// True for all calls of this API: a submission always carries an idempotency key, and a repeated cancellation is
    /// refused with `too_late` if the first one succeeded, which an [`Exchange`](super::Exchange) then looks up.
    pub const fn is_safe_to_repeat(&self) -> bool {
        true
    }

    /// Parses the answer.
    ///
    /// # Errors
    /// [`ClientError::Problem`] and [`ClientError::Status`] if the relayer, or a proxy before it, refused;
    /// [`ClientError::TooLarge`] and [`ClientError::Unreadable`] if the answer can't be used.
    pub fn parse(&self, answer: &HttpAnswer) -> Result<T, ClientError> {
        check(answer)?;
        (self.read)(answer)
    }
}

impl<T> Clone for ApiCall<T> {
    fn clone(&self) -> Self {
        Self { http: self.http.clone(), read: self.read, answer: PhantomData }
    }
}

impl<T> fmt::Debug for ApiCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiCall").field("http", &self.http).finish_non_exhaustive()
    }
}

/// Refuses what is too large or no success.
pub(crate) fn check(answer: &HttpAnswer) -> Result<(), ClientError> {
    if answer.body.len() > MAX_ANSWER_BYTES {
        return Err(ClientError::TooLarge { bytes: answer.body.len(), limit: MAX_ANSWER_BYTES });
    }
    if answer.is_success() {
        return Ok(());
    }
    let header = answer.header("retry-after");
    Err(match parse_problem(&answer.body) {
        Some(mut problem) => {
            problem.status = answer.status;
            problem.retry_after_ms = problem.retry_after_ms.or_else(|| super::retry::retry_after_ms(header?));
            ClientError::Problem(Box::new(problem))
        }
        None => {
            ClientError::Status { status: answer.status, retry_after_ms: header.and_then(super::retry::retry_after_ms) }
        }
    })
}

/// Parses a JSON body.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(answer: &HttpAnswer) -> Result<T, ClientError> {
    json::read(&answer.body)
        .map_err(|error| ClientError::Unreadable { status: answer.status, detail: excerpt(&error.to_string()) })
}

/// The beginning of an external text, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL_CHARS).collect()
}
