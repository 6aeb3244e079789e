//! The current market price of gas: fee sources, their voting, and fee history.

mod book;
pub mod csv;
mod day;
mod history;
mod point;
mod source;

pub use book::{BookConfig, FeeBook, PENDING_BLOCKS, Report, Settled, SourceId, UTILISATION_TOLERANCE};
pub use day::DayFees;
pub use history::{FeeHistory, HistoryFeed, MAX_HISTORY_BLOCKS, REWARD_PERCENTILES};
pub use point::{FeePoint, Tips, Utilisation};
pub use source::{BenchRule, Fault, SourceStatus, Standing};
