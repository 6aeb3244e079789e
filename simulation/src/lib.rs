//! A deterministic world around the shipped relay.
//!
//! A run starts [`slackwater::relay::Relay`] on tokio's paused clock, with nodes, chain, ledger and callers that a seed
//! decides about, kills and restarts it, and compares what it says with what the chain did. The same seed is the same run,
//! bit by bit. `docs/simulation.md` says what is simulated.
#![cfg(feature = "world")]

mod blocks;
mod chain;
mod check;
mod hostile;
mod ledger;
mod node;
mod plan;
mod rng;
mod run;
mod scenario;
mod world;

pub use hostile::{HostileSigner, HostileTarget, Hostility, Lie};
pub use plan::{DataFee, Faults, Happening, Plan};
pub use run::{Report, run, run_scenario, run_without};
pub use scenario::Scenario;
pub use slackwater::protection::Protection;
pub use world::Counts;
