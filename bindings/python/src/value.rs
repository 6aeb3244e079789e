//! Conversion of numbers, names and bytes from and to Python.

use std::{fmt::Display, str::FromStr, time::Duration};

use alloy_primitives::{B256, U256};
use pyo3::{Borrowed, prelude::*, types::PyBool};
use serde::{Serialize, de::DeserializeOwned};
use slackwater_client::{HttpAnswer, HttpCall, TransportError, TransportErrorKind};
use slackwater_core::Timestamp;

use crate::error::{argument, internal};

/// Longest accepted time span, seconds: a year.
const MAX_SPAN_S: f64 = 31_536_000.0;

/// A whole number: any object with `__index__`, such as an `int` or an integer of numpy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Uint<T>(pub(crate) T);

impl<'py, T: TryFrom<U256>> FromPyObject<'_, 'py> for Uint<T> {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let kind = || obj.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        if obj.is_instance_of::<PyBool>() {
            return Err(argument("a whole number is needed, not bool"));
        }
        let number = obj
            .call_method0("__index__")
            .map_err(|_| argument(format_args!("a whole number is needed, not {}", kind())))?;
        let out_of_range = || argument("a number is negative or too large");
        let bytes: Vec<u8> = number.call_method1("to_bytes", (32, "big")).map_err(|_| out_of_range())?.extract()?;
        T::try_from(U256::from_be_slice(&bytes)).map(Self).map_err(|_| out_of_range())
    }
}

/// A number as Python's `int`.
pub(crate) fn int(py: Python<'_>, value: U256) -> PyResult<Bound<'_, PyAny>> {
    let bytes = pyo3::types::PyBytes::new(py, &value.to_be_bytes::<32>());
    py.get_type::<pyo3::types::PyInt>().call_method1("from_bytes", (bytes, "big"))
}

/// Parses a value from its text form.
pub(crate) fn text<T: FromStr>(what: &str, text: &str) -> PyResult<T> {
    text.parse().map_err(|_| argument(format_args!("{what}: can't be read")))
}

pub(crate) fn hash(what: &str, bytes: &[u8]) -> PyResult<B256> {
    B256::try_from(bytes).map_err(|_| argument(format_args!("{what}: {} bytes instead of 32", bytes.len())))
}

/// A span in seconds.
pub(crate) fn span(what: &str, seconds: Option<f64>) -> PyResult<Option<Duration>> {
    seconds
        .map(|seconds| {
            if (0.0..=MAX_SPAN_S).contains(&seconds) {
                Ok(Duration::from_secs_f64(seconds))
            } else {
                Err(argument(format_args!("{what}: {seconds} s is not between 0 and {MAX_SPAN_S}")))
            }
        })
        .transpose()
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, json: &str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| argument(format_args!("{what}: {error}")))
}

pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> PyResult<String> {
    serde_json::to_string(value).map_err(internal)
}

/// An HTTP call for Python to send: method, path, headers, body.
pub(crate) type Call = (&'static str, String, Vec<(&'static str, String)>, Option<String>);

pub(crate) fn call(call: &HttpCall) -> Call {
    (call.method.as_str(), call.path.clone(), call.headers.clone(), call.body.clone())
}

/// Outcome of a call: status, `Retry-After` and body of the answer, or kind and detail of the failure.
#[derive(FromPyObject)]
pub(crate) enum Came {
    Answer(u16, Option<String>, Vec<u8>),
    Failure(String, String),
}

impl Came {
    pub(crate) fn result(self) -> Result<HttpAnswer, TransportError> {
        match self {
            Self::Answer(status, retry_after, body) => {
                let headers = retry_after.map(|value| ("retry-after".to_owned(), value)).into_iter().collect();
                Ok(HttpAnswer { status, headers, body })
            }
            Self::Failure(kind, detail) => {
                let kind = match kind.as_str() {
                    "unreachable" => TransportErrorKind::Unreachable,
                    "timeout" => TransportErrorKind::Timeout,
                    _ => TransportErrorKind::Broken,
                };
                Err(TransportError::new(kind, detail))
            }
        }
    }
}

pub(crate) const fn instant(ms: u64) -> Timestamp {
    Timestamp(ms)
}

/// Shows a value in `repr`, which holds no secret.
pub(crate) fn repr(class: &str, what: impl Display) -> String {
    format!("{class}({what})")
}
