//! Bodies: bounded before they are read, parsed straight from bytes, refused with the place of the error.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// Bound of a body, and the configuration key that changes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: usize,
    pub(crate) key: &'static str,
}

/// Reads a JSON body of at most `limit` bytes.
///
/// # Errors
/// `unsupported_media_type`, `body_too_large`, `body_timeout` or `malformed_body`.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: Limit, timeout: Duration) -> Result<Bytes, Problem> {
    let Limit { bytes: limit, key } = limit;
    if let Some(value) = headers.get(header::CONTENT_TYPE) {
        check_content_type(value)?;
    }
    let too_large = |size: u64| {
        Problem::new(
            "body_too_large",
            format!(
                "the body has {size} bytes or more, limit {limit} (`{key}`); keep large data off chain \
                 and relay its hash"
            ),
        )
    };
    if let Some(size) = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        && size > limit as u64
    {
        return Err(too_large(size));
    }
    let collect = http_body_util::Limited::new(body, limit).collect();
    match tokio::time::timeout(timeout, collect).await {
        Err(_) => {
            Err(Problem::new("body_timeout", format!("the body did not arrive within {} ms", timeout.as_millis())))
        }
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit as u64 + 1)),
        Ok(Err(_)) => Err(Problem::new("malformed_body", "the body ended early")),
    }
}

fn check_content_type(value: &HeaderValue) -> Result<(), Problem> {
    // The exact bytes of nearly every caller first.
    if value.as_bytes() == b"application/json" {
        return Ok(());
    }
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json") {
        return Ok(());
    }
    Err(Problem::new(
        "unsupported_media_type",
        format!("{} is not JSON: send `Content-Type: application/json`", crate::scalar::Excerpt(essence)),
    ))
}

/// Parses `bytes`. Only a body that fails is parsed a second time, to find the path of the field at fault.
///
/// # Errors
/// `malformed_json` with line and column, or `invalid_field` with the field's path.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, error))
}

fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], first: serde_json::Error) -> Problem {
    let malformed = |error: &serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        Problem::new("malformed_json", without_position(&error.to_string())).position(line, column)
    };
    if !first.is_data() {
        return malformed(&first);
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
            // A field that is not there has no path of its own.
            let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            let field = match (path.as_str(), missing) {
                (".", missing) => missing.map(str::to_owned),
                (path, Some(missing)) => Some(format!("{path}.{missing}")),
                (path, None) => Some(path.to_owned()),
            };
            let problem = Problem::new("invalid_field", message).position(line, column);
            match field {
                Some(field) => problem.field(field),
                None => problem,
            }
        }
    }
}

/// serde_json adds ` at line 1 column 2`, which has its own members here.
fn without_position(message: &str) -> String {
    message.rfind(" at line ").map_or(message, |at| &message[..at]).to_owned()
}

/// `value` as a JSON answer.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    json_sized(status, value, 512)
}

/// `value` as a JSON answer of about `size` bytes.
pub(crate) fn json_sized<T: Serialize>(status: StatusCode, value: &T, size: usize) -> Response<Body> {
    let mut bytes = Vec::with_capacity(size);
    serde_json::to_writer(&mut bytes, value).unwrap_or_else(|error| unreachable!("answers are always JSON: {error}"));
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
