//! Slackwater.

#[cfg(not(feature = "libsecp256k1"))]
use k256 as _;

pub mod chain;
pub mod lane;
pub mod policy;
pub mod provenance;
pub mod request;
pub mod schedule;
mod time;

#[cfg(feature = "relay")]
pub mod ledger;
#[cfg(feature = "relay")]
pub mod relay;

pub use time::{BlockTimestamp, Timestamp};
