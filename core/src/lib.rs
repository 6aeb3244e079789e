//! A gas-aware relayer as a library: it takes signed requests, promises inclusion by a deadline, batches them, and
//! drives every transaction to finality, executing each request at most once.
//!
#![cfg_attr(feature = "relay", doc = "```no_run")]
#![cfg_attr(not(feature = "relay"), doc = "```ignore")]
//! use std::time::Duration;
//!
//! use slackwater::{
//!     chain::ChainSpec,
//!     relay::{ChainSetup, LocalSigner, Relay, SubmitItem, WaitFor},
//!     request::{Forward, Submission},
//! };
//!
//! # async fn example(forward: Forward, key: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let chain = ChainSetup::new(ChainSpec::preset("anvil")?)
//!     .rpc("http://127.0.0.1:8545")
//!     .signer(LocalSigner::from_hex(key)?)
//!     .forwarder(forward.forwarder);
//! let relay = Relay::builder().chain(chain).database("ledger.db").start().await?;
//!
//! // `forward` is signed by a user's wallet (EIP-712).
//! let submission = Submission::forward(31_337, forward).within(Duration::from_secs(30));
//! // Durable and promised when this returns; no chain was waited for.
//! let accepted = relay.submit("default", SubmitItem { submission, idempotency_key: None, submitted_by: None }).await?;
//! let done = relay.wait(accepted.record.id, WaitFor::Terminal).await?;
//! println!("{} in {:?}", done.status, done.tx_hash);
//! relay.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A complete program is in `examples/embed.rs`.
//!
//! # Modules
//! Pure, without clock, socket or randomness, also for `wasm32-unknown-unknown` (`--no-default-features`): [`chain`],
//! [`request`], [`market`], [`forecast`], [`schedule`], [`policy`], [`lane`], [`provenance`], [`backtest`],
//! [`tuning`], [`wire`], [`client`]. With feature `client-http`: `client_http`. With feature `relay` (the default): `ledger` and
//! `relay`, which do the work.

// `keys!` names this crate, here and elsewhere.
extern crate self as slackwater;

pub use slackwater_contracts as contracts;

pub mod backtest;
pub mod chain;
pub mod client;
#[cfg(feature = "client-http")]
pub mod client_http;
pub mod forecast;
mod json;
pub mod lane;
pub mod market;
mod ordered;
pub mod policy;
#[cfg(any(feature = "client-http", feature = "relay"))]
mod private;
#[cfg(not(feature = "simulation"))]
#[cfg_attr(not(feature = "relay"), allow(dead_code, reason = "the pure rooms keep some of them"))]
#[expect(unreachable_pub, reason = "the simulator sees it")]
mod protection;
#[cfg(feature = "simulation")]
pub mod protection;
pub mod provenance;
#[cfg_attr(not(feature = "relay"), allow(dead_code, reason = "the ledger uses some of it"))]
pub mod record;
pub mod request;
pub mod schedule;
#[cfg_attr(
    not(feature = "relay"),
    allow(dead_code, unused_imports, unreachable_pub, reason = "a page's relay uses less of it")
)]
mod sender;
mod table;
mod time;
pub mod tuning;
pub mod wire;

#[cfg(feature = "relay")]
pub mod ledger;
#[cfg(feature = "relay")]
pub mod relay;

pub use time::{BlockTimestamp, Timestamp};
