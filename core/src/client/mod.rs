//! Client side of the HTTP API: calls and answers as values, retries, an outbox, event streams, and verification of the
//! relayer's statements.
//!
//! Nothing here opens a socket, reads a clock or draws a random number: bytes, time and entropy are arguments, so that
//! a browser, a Python program and a Rust service share it. With feature `client-http`, `client_http` does the I/O.

#![deny(clippy::float_arithmetic)]

mod answer;
pub mod api;
mod error;
mod exchange;
mod flat;
mod follow;
mod forward;
mod http;
pub mod local;
mod open;
mod outbox;
mod retry;
pub mod rpc;
mod sse;
mod submit;
pub mod verify;

pub use answer::{
    Accepted, Attempt, Batch, Chain, ChainFees, Chains, Event, Forecast, Forwarder, Horizon, OfferedFees, Quote,
    RequestDetail, RequestPage, RequestSummary, SignedPromise, Slack, Wait,
};
pub use error::{ClientError, Problem};
pub use exchange::{Client, Exchange, Step, Transport};
pub use follow::{Change, DEFAULT_POLL, Follow, FollowStep, Until};
pub use forward::{DEFAULT_FORWARD_GAS, ForwardBuilder, KeySigner, SignDigest, SignError, UnsignedForward};
pub use http::{ApiCall, HttpAnswer, HttpCall, MAX_ANSWER_BYTES, Method, TransportError, TransportErrorKind};
pub use open::{Named, Open};
pub use outbox::{
    Addressee, Command, Enqueue, EntryState, EntryView, LoadReport, Outbox, OutboxConfig, OutboxError, Outcome, Place,
    User,
};
pub use retry::{GiveUp, Retry, RetryPolicy};
pub use sse::{MAX_MESSAGE_BYTES, SseError, SseMessage, SseParser};
pub use submit::{CallAsk, IdempotencyKey, MAX_IDEMPOTENCY_KEY_BYTES, MAX_SUBMIT_BYTES, Submit, SubmitKind};

#[cfg(test)]
mod tests;
