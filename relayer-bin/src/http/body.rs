//! Request bodies: bounded before they are read, parsed straight from bytes, errors reported with their position.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::{
    App, Group,
    auth::Caller,
    memory::{self, Held},
    overloaded,
    problem::Problem,
};

/// Largest refused body that is read to its end, bytes.
const MAX_DRAINED_BYTES: usize = 16 << 20;
/// Time limit for reading the rest of a refused body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest detail and path in an answer, bytes: both may repeat the input.
const MAX_TOLD_BYTES: usize = 300;

/// Size limit of a body, and the configuration key that sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: usize,
    pub(crate) key: &'static str,
}

/// A body, and the memory counted for it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// To be kept until everything made from the bytes is dropped too.
    pub(crate) held: Held<Group>,
}

/// Reads a JSON body of `caller`, of at most `limit` bytes.
///
/// # Errors
/// `unsupported_media_type`, `body_too_large`, `overloaded`, `body_timeout` or `malformed_body`.
pub(crate) async fn read(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    limit: Limit,
) -> Result<Read, Problem> {
    let Limit { bytes: limit, key } = limit;
    check_content_type(headers)?;
    let too_large = |size: u64| {
        Problem::new(
            "body_too_large",
            format!(
                "the body has {size} bytes or more, limit {limit} (`{key}`); keep large data off chain and relay its hash"
            ),
        )
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(size) = announced.filter(|size| *size > limit as u64) {
        // A client that waits for `100 Continue` sends nothing more; any other must be able to read the answer.
        if !headers.contains_key(header::EXPECT) && size <= MAX_DRAINED_BYTES as u64 {
            drain(body).await;
        }
        return Err(too_large(size));
    }
    let timeout = app.limits.body_timeout;
    let mut held = app.hold_body(caller);
    match tokio::time::timeout(timeout, collect(body, limit, &mut held)).await {
        Ok(Ok(bytes)) => Ok(Read { bytes, held }),
        Ok(Err(Interruption::TooLarge(rest))) => {
            drain(rest).await;
            Err(too_large(limit as u64 + 1))
        }
        Ok(Err(Interruption::NoRoom(rest))) => {
            drop(held);
            drain(rest).await;
            Err(overloaded(app))
        }
        Ok(Err(Interruption::Broken)) => Err(Problem::new("malformed_body", "the body ended early")),
        Err(_) => {
            let detail =
                format!("the body did not arrive within {} ms (`server.body_timeout_ms`)", timeout.as_millis());
            Err(Problem::new("body_timeout", detail))
        }
    }
}

enum Interruption {
    TooLarge(Body),
    NoRoom(Body),
    Broken,
}

/// The whole body, without a copy if it came in one piece. Memory is counted as data arrives: a length that is only
/// announced counts nothing.
async fn collect(mut body: Body, limit: usize, held: &mut Held<Group>) -> Result<Bytes, Interruption> {
    let mut whole = Bytes::new();
    let mut pieces: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Interruption::Broken)?.into_data() else { continue };
        if data.len() > limit.saturating_sub(whole.len() + pieces.len()) {
            return Err(Interruption::TooLarge(body));
        }
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
        } else {
            if pieces.is_empty() {
                pieces.extend_from_slice(&std::mem::take(&mut whole));
            }
            // Doubles the capacity, so that long bodies are not copied piece by piece.
            if pieces.capacity() - pieces.len() < data.len() {
                let wanted = (pieces.len() + data.len()).max((2 * pieces.len()).min(limit));
                if !held.grow_to(wanted) {
                    return Err(Interruption::NoRoom(body));
                }
                pieces.reserve_exact(wanted - pieces.len());
            }
            pieces.extend_from_slice(&data);
        }
    }
    Ok(if pieces.is_empty() { whole } else { pieces.into() })
}

/// Reads and discards the rest of a body, within limits: a connection that is closed in the middle of a body loses the
/// answer too.
async fn drain(mut body: Body) {
    let discard = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > MAX_DRAINED_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, discard).await;
}

/// Refuses other types: a page of another origin can send them, or none, without a preflight.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        let detail = "the body has no type: send `Content-Type: application/json`";
        return Err(Problem::new("unsupported_media_type", detail));
    };
    // Fast path: the exact bytes that nearly every caller sends.
    if value.as_bytes() == b"application/json" {
        return Ok(());
    }
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        "unsupported_media_type",
        format!("{} is not JSON: send `Content-Type: application/json`", slackwater_core::wire::Excerpt(essence)),
    ))
}

/// Parses `bytes`. Only a body that fails is parsed a second time, to find the path of the field at fault.
///
/// # Errors
/// `malformed_json` with line and column, or `invalid_field` with the field's path.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, error))
}

/// The problem with `bytes`, which failed to parse as a `T` with the error `first`.
pub(crate) fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], first: serde_json::Error) -> Problem {
    let malformed = |error: &serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        Problem::new("malformed_json", without_position(&error.to_string())).position(line, column)
    };
    if !first.is_data() {
        return malformed(&first);
    }
    // A wrong type may come before a syntax error that makes the whole invalid JSON.
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        return malformed(&error);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        // Anything after a valid value is a syntax error, which `first` would have been.
        Ok(_) => malformed(&first),
        Err(error) => {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let (line, column) = (inner.line(), inner.column());
            let message = without_position(&inner.to_string());
            // A missing or duplicate field has no path of its own.
            let named = ["missing field `", "duplicate field `"]
                .iter()
                .find_map(|start| message.strip_prefix(start)?.strip_suffix('`'));
            let field = match (path.as_str(), named) {
                (".", named) => named.map(str::to_owned),
                (path, Some(named)) => Some(format!("{path}.{named}")),
                (path, None) => Some(path.to_owned()),
            };
            let problem = Problem::new("invalid_field", message).position(line, column);
            match field {
                Some(field) => problem.field(told(&field)),
                None => problem,
            }
        }
    }
}

/// Cuts the ` at line 1 column 2` that serde_json adds; the problem has its own members for the position.
fn without_position(message: &str) -> String {
    told(message.rfind(" at line ").map_or(message, |at| &message[..at]))
}

/// At most [`MAX_TOLD_BYTES`] of `text`.
fn told(text: &str) -> String {
    if text.len() <= MAX_TOLD_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TOLD_BYTES)])
}

/// `value` as a JSON answer.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    json_sized(status, value, 512)
}

/// `value` as a JSON answer of about `size` bytes.
pub(crate) fn json_sized<T: Serialize>(status: StatusCode, value: &T, size: usize) -> Response<Body> {
    let mut bytes = Vec::with_capacity(size);
    serde_json::to_writer(&mut bytes, value).unwrap_or_else(|error| unreachable!("answers are always JSON: {error}"));
    if bytes.len() > memory::UNCOUNTED_BYTES {
        // The capacity, not the length, takes memory.
        bytes.shrink_to_fit();
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
