//! Everything that a gas-aware relayer decides: fees, forecasts, schedules, policies, nonces, settlement.
//!
//! Pure: no clock, socket, file, thread or randomness. Time and chance come in as arguments, so that the crate builds for
//! `wasm32-unknown-unknown` and every decision can be tested by simulation. The crate `slackwater` is the relayer made of
//! it, `slackwater-client` the client; both export what their users need. Use this crate directly for parts of the
//! decisions: its items may change in each minor version.
//!
//! # Modules
//! A module uses those before it: [`chain`], [`market`], [`tuning`], [`request`], [`forecast`], [`schedule`], [`policy`],
//! [`lane`], [`provenance`], [`record`], [`sender`], [`backtest`], [`wire`].

// `keys!` names this crate, here and elsewhere.
extern crate self as slackwater_core;

pub use slackwater_contracts as contracts;

pub mod backtest;
pub mod chain;
pub mod forecast;
#[doc(hidden)]
pub mod json;
pub mod lane;
pub mod market;
#[doc(hidden)]
pub mod ordered;
pub mod policy;
#[cfg(feature = "files")]
#[doc(hidden)]
pub mod private;
#[doc(hidden)]
pub mod protection;
pub mod provenance;
pub mod record;
pub mod request;
pub mod schedule;
pub mod sender;
#[doc(hidden)]
pub mod table;
pub mod time;
pub mod tuning;
pub mod wire;

pub use time::{BlockTimestamp, Timestamp};
