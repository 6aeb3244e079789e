//! Output of a forecaster.

use super::{
    ModelId,
    features::{fee_of, log_fee},
    interval::{AT_10, AT_50, AT_90, LEVELS},
};

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
        LEVELS.iter().copied().zip(self.knots)
    }
}
