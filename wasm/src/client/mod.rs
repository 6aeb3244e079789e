//! Communication of a page with a relayer: the state machines of `slackwater_client`, driven from JavaScript.

mod exchange;
mod follow;
mod node;
mod outbox;

use serde::Serialize;
use slackwater_client::{HttpAnswer, HttpCall, TransportError, TransportErrorKind};

pub use exchange::Exchange;
pub use follow::Follow;
pub use node::{ForwarderCheck, InclusionCheck, verify_accepted};
pub use outbox::Outbox;

/// A call for JavaScript to send.
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

/// An answer as passed in by JavaScript.
fn answer(status: u16, retry_after: Option<String>, body: &[u8]) -> HttpAnswer {
    let headers = retry_after.map(|value| ("retry-after".to_owned(), value)).into_iter().collect();
    HttpAnswer { status, headers, body: body.to_vec() }
}

/// `fetch` does not report how far a call got, so a call counts as sent unless it is known not to have been.
fn transport_error(kind: &str, detail: &str) -> TransportError {
    let kind = match kind {
        "unreachable" => TransportErrorKind::Unreachable,
        "timeout" => TransportErrorKind::Timeout,
        _ => TransportErrorKind::Broken,
    };
    TransportError::new(kind, detail)
}

/// 64 bits from a value of `Math.random()`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn entropy(random: f64) -> u64 {
    (random * 18_446_744_073_709_551_616.0) as u64
}
