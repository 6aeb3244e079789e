//! Configuration of a forecaster.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ModelId, Prior, model::ALGORITHM};
use crate::chain::BaseFeeParams;

/// Limit on horizons per forecaster.
pub const MAX_HORIZONS: usize = 64;
/// Longest horizon, steps.
pub const MAX_STEPS: u32 = 1_000;

/// Learning rates and regularisation of the parts. The defaults were chosen on recorded base fees, one file left out at
/// a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "named after what they tune")]
pub struct Tuning {
    pub wide_keep: f64,
    pub narrow_keep: f64,
    pub quick_keep: f64,
    pub pull_wide: f64,
    pub pull_narrow: f64,
    pub pull_power: f64,
    pub pull_ou: f64,
    pub ou_keep: f64,
    pub mix_keep: f64,
    pub mix_boldness: f64,
    pub mix_power: f64,
    pub correction_keep: f64,
    pub pull_correction: f64,
    pub series_trust: f64,
    pub scale_keep: f64,
    pub track_rate: f64,
    pub track_power: f64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            wide_keep: 0.9995,
            narrow_keep: 0.9998,
            quick_keep: 0.998,
            pull_wide: 100.0,
            pull_narrow: 100.0,
            pull_power: 1.0,
            pull_ou: 10.0,
            ou_keep: 0.9998,
            mix_keep: 0.9998,
            mix_boldness: 4.0,
            mix_power: 0.85,
            correction_keep: 0.999,
            pull_correction: 100.0,
            series_trust: 0.02,
            scale_keep: 0.999,
            track_rate: 0.06,
            track_power: 0.7,
        }
    }
}

/// Configuration of a forecaster.
#[derive(Debug, Clone)]
pub struct ForecastConfig {
    /// Horizons in steps; 1 is the next block, which the protocol may already determine.
    pub horizons: Vec<u32>,
    /// Nominal time of a step.
    pub step: Duration,
    /// Seed of the randomness in tree fitting.
    pub seed: u64,
    /// Pre-trained models to start with; `None` for a cold start.
    pub prior: Option<Prior>,
    /// The chain's presumed base fee rule; `None` if unknown. It is checked against the blocks, and recognised anew if
    /// it does not fit.
    pub rule: Option<BaseFeeParams>,
    /// Training window of a refit, in steps.
    pub window: usize,
    /// Steps between two refits.
    pub refit_every: u64,
    /// Trees per horizon in a refit; 0 for none.
    pub trees: usize,
    /// Learning rates and regularisation.
    pub tuning: Tuning,
}

impl Default for ForecastConfig {
    fn default() -> Self {
        Self {
            horizons: vec![1, 2, 5, 10, 25, 50, 150],
            step: Duration::from_secs(12),
            seed: 0,
            prior: None,
            rule: None,
            window: 2_000,
            refit_every: 1_000,
            trees: 24,
            tuning: Tuning::default(),
        }
    }
}

/// Configuration error that prevents a forecaster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForecastError {
    /// Too few or too many horizons.
    #[error("{count} horizons, must be 1 to {MAX_HORIZONS}")]
    Horizons {
        /// Number of configured horizons.
        count: usize,
    },
    /// A horizon out of range, or configured twice.
    #[error("horizon {steps} is out of 1 to {MAX_STEPS} steps, or named twice")]
    Horizon {
        /// The horizon.
        steps: u32,
    },
    /// A step of zero duration.
    #[error("a step must take some time")]
    ZeroStep,
    /// A training window too short or too long.
    #[error("window of {window} steps, must be 200 to 20000")]
    Window {
        /// Configured window, in steps.
        window: usize,
    },
}

impl ForecastConfig {
    pub(super) fn validate(&self) -> Result<(), ForecastError> {
        if self.horizons.is_empty() || self.horizons.len() > MAX_HORIZONS {
            return Err(ForecastError::Horizons { count: self.horizons.len() });
        }
        for (index, steps) in self.horizons.iter().enumerate() {
            if !(1..=MAX_STEPS).contains(steps) || self.horizons[..index].contains(steps) {
                return Err(ForecastError::Horizon { steps: *steps });
            }
        }
        if self.step.is_zero() {
            return Err(ForecastError::ZeroStep);
        }
        if !(200..=20_000).contains(&self.window) {
            return Err(ForecastError::Window { window: self.window });
        }
        Ok(())
    }

    pub(super) fn longest(&self) -> usize {
        self.horizons.iter().copied().max().unwrap_or(1) as usize
    }

    /// Least number of rows for a first refit.
    pub(super) fn least_rows(&self) -> usize {
        (self.window / 4).max(200)
    }

    /// Steps between two solutions of a horizon's ridges; bounds the total cost.
    pub(super) fn solve_every(&self) -> u64 {
        (self.horizons.len() as u64).max(4)
    }

    /// Identity of a forecaster without fitted models.
    pub(super) fn base_id(&self) -> ModelId {
        let prior = self.prior.as_ref().map(Prior::id);
        ModelId::of(&serde_json::json!({
            "algorithm": ALGORITHM,
            "horizons": self.horizons,
            "step_ms": u64::try_from(self.step.as_millis()).unwrap_or(u64::MAX),
            "seed": self.seed,
            "tuning": self.tuning,
            "prior": prior,
        }))
    }
}
