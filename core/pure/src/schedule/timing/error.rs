//! Errors of the timing.

use std::time::Duration;

/// Errors of [`Timing`](super::Timing): unusable configuration, prior or state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// Configuration: the step is zero.
    #[error("a step of {0:?} is not positive")]
    Step(Duration),
    /// Configuration: slack classes are missing, not ascending, or out of range.
    #[error("slack classes must ascend within 1..={limit} steps, got {got:?}")]
    Slacks {
        /// Configured slack classes, steps.
        got: Vec<u32>,
        /// Longest possible slack class, steps.
        limit: u32,
    },
    /// Configuration: too many steps between decision and inclusion.
    #[error("slip of {got} steps, limit {limit}")]
    Slip {
        /// Configured slip, steps.
        got: u32,
        /// Longest possible slip, steps.
        limit: u32,
    },
    /// The prior is not usable.
    #[error("timing prior: {0}")]
    Prior(String),
    /// A state learned by another version or with another configuration, or malformed.
    #[error("timing state: {0}")]
    State(&'static str),
}
