//! Backtests on recorded fee histories.
//!
//! [`score_forecasts`] runs the shipped forecaster over a recorded fee history, [`score_timing`] the shipped timing
//! next to common baselines; they report forecast errors and prices paid.
//!
//! **Invariant:** no look-ahead. A [`Trace`] hands out one block at a time; the deciding side holds nothing else. Only
//! the scoring side sees the history itself, after a decision was made.

mod baseline;
mod fault;
mod report;
mod run;
mod score;
#[cfg(test)]
mod tests;
mod trace;

pub use baseline::{Baseline, BaselineKind, SendPolicy};
pub use fault::SourceFault;
pub use report::{DeadlineReport, FileReport, HorizonKey, HorizonReport, pool};
pub use run::{
    BacktestError, Deadlines, ForecastRun, Horizons, MAX_DEADLINES, SentAt, TimingRun, WARM_UP, score_forecasts,
    score_timing,
};
pub use trace::{Trace, nominal_block_time};
