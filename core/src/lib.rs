//! A gas-aware relayer as a library: it takes signed requests, promises inclusion by a deadline, batches them, and
//! drives every transaction to finality, executing each request at most once.
//!
//! ```no_run
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

pub use slackwater_contracts as contracts;
pub use slackwater_core::{BlockTimestamp, Timestamp};

// Modules of the decisions and the ledger, under the same paths as there.
use slackwater_core::{
    chain, forecast, lane, market, policy, protection, provenance, record, request, schedule, sender, time, tuning,
};
use slackwater_ledger as ledger;

pub mod relay;
