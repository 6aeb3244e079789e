//! Interface to JavaScript: JSON both ways, errors with codes.

use std::{borrow::Cow, fmt};

use serde::{Serialize, de::DeserializeOwned};
use slackwater_client::{ClientError, read_json};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

/// Longest accepted input, bytes of JSON: far more than the longest fee history or model.
pub(crate) const MAX_INPUT_BYTES: usize = 4 << 20;

// `cargo xtask wasm` puts this file beside the generated one.
#[wasm_bindgen(raw_module = "./interop.js")]
extern "C" {
    #[wasm_bindgen(catch)]
    fn encode(value: &JsValue) -> Result<Option<String>, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) fn decode(text: &str) -> Result<JsValue, JsValue>;
    fn failure(code: &str, message: &str, details: Option<&str>) -> JsValue;
}

/// Reason of a failed call; in JavaScript a `SlackwaterError` with this code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code.
    pub code: Cow<'static, str>,
    /// Explanation for people.
    pub message: String,
    /// Further members of the error, as JSON.
    pub details: Option<String>,
}

impl Failure {
    /// A failure.
    pub fn new(code: &'static str, message: impl fmt::Display) -> Self {
        Self { code: Cow::Borrowed(code), message: message.to_string(), details: None }
    }

    /// An invalid argument.
    pub fn argument(message: impl fmt::Display) -> Self {
        Self::new("invalid_argument", message)
    }
}

impl From<Failure> for JsValue {
    fn from(error: Failure) -> Self {
        failure(&error.code, &error.message, error.details.as_deref())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { code: error.code().to_owned().into(), message: error.to_string(), details: details(&error) }
    }
}

#[cfg(feature = "client")]
fn details(error: &ClientError) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Details<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        problem: Option<&'a slackwater_client::Problem>,
        is_retryable: bool,
        is_ambiguous: bool,
    }
    let (problem, is_retryable, is_ambiguous) = (error.problem(), error.is_retryable(), error.is_ambiguous());
    serde_json::to_string(&Details { problem, is_retryable, is_ambiguous }).ok()
}

/// Without a relayer there are no details of a call.
#[cfg(not(feature = "client"))]
const fn details(_: &ClientError) -> Option<String> {
    None
}

/// Reads an argument; errors name it `what`.
pub(crate) fn read<T: DeserializeOwned>(what: &str, value: &JsValue) -> Result<T, Failure> {
    parse(what, &text(what, value)?)
}

/// An argument as JSON, called `what` in errors.
pub(crate) fn text(what: &str, value: &JsValue) -> Result<String, Failure> {
    let text = encode(value).map_err(|_| Failure::argument(format_args!("{what}: can't be written as JSON")))?;
    text.ok_or_else(|| Failure::argument(format_args!("{what}: missing")))
}

/// A value as JSON; `None` if it has no JSON form.
#[cfg(feature = "page")]
pub(crate) fn encoded(value: &JsValue) -> Option<String> {
    encode(value).ok().flatten()
}

/// Parses JSON; errors name it `what`.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Failure> {
    check_size(what, text)?;
    read_json(text.as_bytes()).map_err(|error| Failure::argument(format_args!("{what}: {error}")))
}

/// Refuses inputs above [`MAX_INPUT_BYTES`].
pub(crate) fn check_size(what: &str, text: &str) -> Result<(), Failure> {
    if text.len() > MAX_INPUT_BYTES {
        let size = text.len();
        return Err(Failure::argument(format_args!("{what}: {size} bytes, limit {MAX_INPUT_BYTES}")));
    }
    Ok(())
}

/// Converts a result to a JavaScript value.
pub(crate) fn write<T: Serialize, Js: From<JsValue>>(value: &T) -> Result<Js, Failure> {
    let internal = || Failure::new("internal", "the answer can't be written as JSON");
    let text = serde_json::to_string(value).map_err(|_| internal())?;
    decode(&text).map(Js::from).map_err(|_| internal())
}
