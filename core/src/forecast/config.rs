//! Configuration and output of a forecaster.

use std::{fmt, time::Duration};

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use super::{
    Prior,
    features::{fee_of, log_fee},
    forecaster::Forecaster,
    interval::{AT_10, AT_50, AT_90, LEVELS},
};
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
            "algorithm": super::ALGORITHM,
            "horizons": self.horizons,
            "step_ms": u64::try_from(self.step.as_millis()).unwrap_or(u64::MAX),
            "seed": self.seed,
            "tuning": self.tuning,
            "prior": prior,
        }))
    }
}

/// Content hash of a model: Keccak-256 of its canonical JSON (keys sorted, floats in their shortest exact form).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub B256);

impl ModelId {
    pub(super) fn of(value: &serde_json::Value) -> Self {
        Self(keccak256(value.to_string()))
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Forecast of the base fee at all horizons.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Block after which it was made.
    pub number: u64,
    /// Base fee of the next block, wei per gas.
    pub next_base_fee: u128,
    /// True if the protocol fixes `next_base_fee`; else it is an estimate.
    pub next_is_exact: bool,
    /// Identity of the active models.
    pub model: ModelId,
    /// One for each configured horizon, in the configured order.
    pub horizons: Vec<HorizonForecast>,
}

/// The base fee some steps ahead.
#[derive(Debug, Clone, PartialEq)]
pub struct HorizonForecast {
    /// Steps ahead; 1 is the next block.
    pub steps: u32,
    /// Point forecast, wei per gas.
    pub point: u128,
    /// 10 % quantile, wei per gas.
    pub q10: u128,
    /// Median, wei per gas.
    pub q50: u128,
    /// 90 % quantile, wei per gas.
    pub q90: u128,
    /// Natural logarithm of `point` before rounding.
    pub log_point: f64,
    knots: [f64; LEVELS.len()],
}

impl HorizonForecast {
    pub(super) fn new(steps: u32, log_point: f64, knots: [f64; LEVELS.len()]) -> Self {
        Self {
            steps,
            point: fee_of(log_point),
            q10: fee_of(knots[AT_10]),
            q50: fee_of(knots[AT_50]),
            q90: fee_of(knots[AT_90]),
            log_point,
            knots,
        }
    }

    /// A forecast of a determined fee.
    pub(super) fn certain(steps: u32, log: f64, fee: u128) -> Self {
        Self { steps, point: fee, q10: fee, q50: fee, q90: fee, log_point: log, knots: [log; LEVELS.len()] }
    }

    /// Quantile of the log fee at probability `p`: linear between the tracked levels in `ln(p / (1 − p))`. Beyond .001
    /// and .999, and for NaN, the outermost.
    pub fn log_quantile(&self, p: f64) -> f64 {
        let (first, last) = (LEVELS[0], LEVELS[LEVELS.len() - 1]);
        if p <= first {
            return self.knots[0];
        }
        // NaN maps to the cautious end.
        if p.is_nan() || p >= last {
            return self.knots[LEVELS.len() - 1];
        }
        let logit = |p: f64| libm::log(p / (1.0 - p));
        let above = LEVELS.iter().position(|level| *level >= p).unwrap_or(LEVELS.len() - 1).max(1);
        let (low, high) = (logit(LEVELS[above - 1]), logit(LEVELS[above]));
        let share = (logit(p) - low) / (high - low);
        self.knots[above - 1] + share * (self.knots[above] - self.knots[above - 1])
    }

    /// Quantile of the fee at probability `p`, wei per gas; see [`Self::log_quantile`].
    pub fn quantile(&self, p: f64) -> u128 {
        if self.knots[0] == self.knots[LEVELS.len() - 1] && self.q10 == self.q90 {
            return self.q50;
        }
        fee_of(self.log_quantile(p))
    }

    /// Probability that the fee will be at most `fee`, from .001 to .999; 0 or 1 for a determined fee.
    pub fn probability_below(&self, fee: u128) -> f64 {
        let log = log_fee(fee);
        let last = LEVELS.len() - 1;
        if log < self.knots[0] {
            return if self.q10 == self.q90 { 0.0 } else { LEVELS[0] };
        }
        if log >= self.knots[last] {
            return if self.q10 == self.q90 { 1.0 } else { LEVELS[last] };
        }
        let above = self.knots.iter().position(|knot| *knot > log).unwrap_or(last).max(1);
        let logit = |p: f64| libm::log(p / (1.0 - p));
        let (low, high) = (logit(LEVELS[above - 1]), logit(LEVELS[above]));
        let share = (log - self.knots[above - 1]) / (self.knots[above] - self.knots[above - 1]);
        let odds = libm::exp(low + share * (high - low));
        odds / (1.0 + odds)
    }

    /// Tracked levels with their log fees: the points of a fan chart.
    pub fn knots(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        Forecaster::levels().iter().copied().zip(self.knots)
    }
}
