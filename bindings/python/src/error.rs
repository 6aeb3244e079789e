//! Exceptions with a stable code.

use std::fmt::Display;

use pyo3::prelude::*;
use slackwater_client::ClientError;

/// Builds the exception of `slackwater._errors` for a code.
fn build(
    code: &str,
    message: &str,
    is_retryable: bool,
    is_ambiguous: bool,
    retry_after: Option<f64>,
    problem: Option<String>,
) -> PyErr {
    Python::attach(|py| {
        let made = py.import("slackwater._errors").and_then(|module| {
            module.call_method1("build", (code, message, is_retryable, is_ambiguous, retry_after, problem))
        });
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

/// An error that a retry would not resolve.
pub(crate) fn failure(code: &str, message: impl Display) -> PyErr {
    build(code, &message.to_string(), false, false, None, None)
}

/// An invalid argument of the caller.
pub(crate) fn argument(message: impl Display) -> PyErr {
    failure("invalid_argument", message)
}

/// A bug of this package.
pub(crate) fn internal(message: impl Display) -> PyErr {
    failure("internal", message)
}

/// An error of the client.
pub(crate) fn client(error: &ClientError) -> PyErr {
    build(
        error.code(),
        &error.to_string(),
        error.is_retryable(),
        error.is_ambiguous(),
        error.retry_after().map(|wait| wait.as_secs_f64()),
        error.problem().and_then(|problem| serde_json::to_string(problem).ok()),
    )
}
