//! How a page talks to a relayer: the machines of `slackwater::client`, driven from JavaScript.

mod exchange;
mod follow;
mod node;
mod outbox;

use serde::Serialize;
use slackwater::{
    Timestamp,
    client::{ClientError, HttpAnswer, HttpCall, Problem, TransportError, TransportErrorKind},
    request::RequestId,
};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::interop::Failure;

pub use exchange::Exchange;
pub use follow::Follow;
pub use node::{
    InclusionCheck, checked_signature, forwarder_domain_call, nonce_call, read_forwarder_domain, read_nonce,
    verify_accepted,
};
pub use outbox::Outbox;

#[wasm_bindgen]
extern "C" {
    /// Whatever the types of the package make of it.
    #[wasm_bindgen(typescript_type = "unknown")]
    #[derive(Debug)]
    pub type JsUnknown;
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Details<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            problem: Option<&'a Problem>,
            is_retryable: bool,
            is_ambiguous: bool,
        }
        let details = Details {
            problem: error.problem(),
            is_retryable: error.is_retryable(),
            is_ambiguous: error.is_ambiguous(),
        };
        let details = serde_json::to_string(&details).ok();
        Self { code: error.code().to_owned().into(), message: error.to_string(), details }
    }
}

/// A call as JavaScript sends it.
#[derive(Debug, Serialize)]
struct HttpView<'a> {
    method: &'static str,
    path: &'a str,
    headers: Vec<(&'static str, &'a str)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
}

impl<'a> From<&'a HttpCall> for HttpView<'a> {
    fn from(call: &'a HttpCall) -> Self {
        Self {
            method: call.method.as_str(),
            path: &call.path,
            headers: call.headers.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            body: call.body.as_deref(),
        }
    }
}

/// An answer as JavaScript has it.
fn answer(status: u16, retry_after: Option<String>, body: &[u8]) -> HttpAnswer {
    let headers = retry_after.map(|value| ("retry-after".to_owned(), value)).into_iter().collect();
    HttpAnswer { status, headers, body: body.to_vec() }
}

/// `fetch` does not say how far a call got, so what is not known to have stayed here counts as sent.
fn transport_error(kind: &str, detail: &str) -> TransportError {
    let kind = match kind {
        "unreachable" => TransportErrorKind::Unreachable,
        "timeout" => TransportErrorKind::Timeout,
        _ => TransportErrorKind::Broken,
    };
    TransportError::new(kind, detail)
}

/// An instant of `Date.now()`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; no clock is near the ends")]
const fn instant(now_ms: f64) -> Timestamp {
    Timestamp(now_ms as u64)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of our time are below 2^53")]
const fn number(at: Timestamp) -> f64 {
    at.0 as f64
}

/// All bits of a number that `Math.random()` gave.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn entropy(random: f64) -> u64 {
    (random * 18_446_744_073_709_551_616.0) as u64
}

fn request_id(text: &str) -> Result<RequestId, Failure> {
    text.parse().map_err(|_| Failure::argument("id: not the id of a request"))
}
