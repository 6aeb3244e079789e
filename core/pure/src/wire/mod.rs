//! Requests and answers of the HTTP API, as JSON: one definition for the relayer, its clients and its tests.
//!
//! Requests are read strictly. Of answers, members that this build does not know are skipped, and members that older relayers do
//! not write have defaults. With feature `openapi` every type has its schema.

mod macros;
mod number;
mod open;
mod operations;
mod requests;
#[cfg(feature = "openapi")]
pub mod schema;
mod story;

pub use number::{Account, Count, Excerpt, HexBytes, Instant, Price, Span, Uint};
pub use open::{Named, Open, OpenReason, OpenStatus};
pub use operations::{
    Chain, ChainFees, ChainForecast, Chains, Change, CountRow, Counts, Endpoint, Forwarder, Horizon, Lane, Lanes,
    LogHead, Model, ModelScores, Models, Pause, Pauses, Probe, Readiness, Reload, Slack, Source, Sources, Token,
};
pub use requests::{
    Authorization, Call, Forward, Kind, ModelVersion, PauseBody, QuoteRequest, Submit, SubmitBatch, WithdrawalBody,
};
pub use story::{
    Accepted, Attempt, Batch, BatchResult, BatchResults, Event, Fees, Problem, Promise, Quote, Request, RequestPage,
    RequestSummary, Wait,
};
