//! Client of the Slackwater relayer: calls and answers as values, retries, an outbox, event streams, and verification of
//! the relayer's statements.
//!
//! With feature `http` (the default) [`RelayerClient`] speaks HTTP, and [`DurableOutbox`] keeps requests in a file. All
//! else opens no socket, reads no clock and draws no random number: bytes, time and entropy are arguments, so that a
//! browser, a Python program and a Rust service share it.

#![deny(clippy::float_arithmetic)]

#[cfg(feature = "http")]
use slackwater_core::private;
// Modules of the decisions, under the same paths as there.
use slackwater_core::{
    chain, forecast, json, lane, market, ordered, policy, protection, provenance, record, request, schedule, sender,
    table, time, tuning, wire,
};

pub mod api;
mod error;
mod exchange;
mod follow;
mod forward;
mod http;
pub mod local;
mod nonces;
mod outbox;
mod retry;
pub mod rpc;
#[cfg(feature = "http")]
mod shell;
mod sse;
mod submit;
pub mod verify;

pub use crate::json::read as read_json;
pub use crate::request::{Authorization, Forward, Submission};
pub use error::ClientError;
pub use exchange::{Client, Exchange, Step, Transport};
pub use follow::{Change, DEFAULT_POLL, Follow, FollowStep, Until};
pub use forward::{DEFAULT_FORWARD_GAS, ForwardBuilder, KeySigner, SignDigest, SignError, UnsignedForward};
#[cfg(feature = "http")]
pub(crate) use http::check;
pub use http::{ApiCall, HttpAnswer, HttpCall, MAX_ANSWER_BYTES, Method, TransportError, TransportErrorKind};
pub use nonces::{NonceChange, Nonces};
pub use outbox::{
    Addressee, Command, Enqueue, EntryState, EntryView, LoadReport, Outbox, OutboxConfig, OutboxError, Outcome, Place,
    User,
};
pub use retry::{GiveUp, Retry, RetryPolicy};
#[cfg(feature = "http")]
pub use shell::{
    DurableOutbox, DurableOutboxError, Events, FileStorage, Following, HttpTransport, Outcomes, RelayerClient,
    StorageError,
};
pub use sse::{MAX_MESSAGE_BYTES, SseError, SseMessage, SseParser};
pub use submit::{CallAsk, IdempotencyKey, MAX_SUBMIT_BYTES, Submit};

pub use crate::wire::{
    Accepted, Attempt, Batch, Chain, ChainFees, ChainForecast as Forecast, Chains, Fees as OfferedFees, Forwarder,
    Horizon, Named, Open, Promise as SignedPromise, Quote, RequestPage, RequestSummary, Slack, Token, Wait,
};

/// An event of a request, as it was read.
pub type Event = crate::wire::Event<'static>;
/// A problem, as it was read.
pub type Problem = crate::wire::Problem<'static>;
/// A request, as it was read.
pub type RequestDetail = crate::wire::Request<'static>;

#[cfg(test)]
mod tests;
