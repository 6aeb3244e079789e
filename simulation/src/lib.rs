//! A deterministic world around the shipped relay.
//!
//! A run starts [`slackwater::Relay`] on tokio's paused clock, with nodes, chain, ledger and callers driven by
//! a seed, kills and restarts it, and compares its reports with the chain. The same seed repeats the run, bit by bit.
//! `docs/simulation.md` describes the simulated world.
#![cfg(feature = "world")]

mod blocks;
mod chain;
mod check;
mod hostile;
mod ledger;
mod node;
mod page;
mod payments;
mod plan;
mod rng;
mod run;
mod scenario;
mod signer;
mod world;

pub use hostile::{HostileSigner, HostileTarget, Hostility, Lie};
pub use page::run_page;
pub use plan::{DataFee, Faults, Happening, Plan};
pub use run::{Report, run, run_scenario, run_without};
pub use scenario::Scenario;
pub use slackwater_core::protection::Protection;
pub use world::Counts;
