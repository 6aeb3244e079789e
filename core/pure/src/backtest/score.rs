//! Scores of forecasts, and reference costs for policies.

use std::collections::VecDeque;

use super::report::HorizonReport;
use crate::forecast::HorizonForecast;

/// Tolerance of a comparison with a bound, for determined fees: rounding of a logarithm, and of ratios to six digits.
const ROUNDING: f64 = 1e-7;

/// Natural logarithm of a fee; 0 wei counts as 1.
#[expect(clippy::cast_precision_loss, reason = "a logarithm")]
pub(super) fn log_fee(fee: u128) -> f64 {
    libm::log(fee.max(1) as f64)
}

/// Loss of a quantile forecast at `level`.
fn pinball(outcome: f64, quantile: f64, level: f64) -> f64 {
    let miss = outcome - quantile;
    (level * miss).max((level - 1.0) * miss)
}

/// Sums over the forecasts for one horizon.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ForecastScore {
    n: u64,
    error: f64,
    stays: f64,
    pinball: [f64; 3],
    inside: u64,
    width: f64,
    /// Outcomes within twice the price at the time, the default cap of geth and alloy.
    under_twice: u64,
}

impl ForecastScore {
    /// Adds a forecast made at a log price, with its outcome as log fee.
    pub(super) fn add(&mut self, made: &HorizonForecast, price: f64, outcome: f64) {
        let quantiles = [0.1, 0.5, 0.9].map(|level| made.log_quantile(level));
        self.n += 1;
        self.error += (made.log_point - outcome).abs();
        self.stays += (price - outcome).abs();
        for ((sum, quantile), level) in self.pinball.iter_mut().zip(quantiles).zip([0.1, 0.5, 0.9]) {
            *sum += pinball(outcome, quantile, level);
        }
        let is_inside = quantiles[0] <= outcome + ROUNDING && outcome <= quantiles[2] + ROUNDING;
        self.inside += u64::from(is_inside);
        self.width += quantiles[2] - quantiles[0];
        self.under_twice += u64::from(outcome <= price + core::f64::consts::LN_2);
    }

    /// Number of forecasts so far.
    pub(super) const fn count(&self) -> u64 {
        self.n
    }

    /// Adds the sums of another score.
    pub(super) fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.error += other.error;
        self.stays += other.stays;
        for (mine, theirs) in self.pinball.iter_mut().zip(other.pinball) {
            *mine += theirs;
        }
        self.inside += other.inside;
        self.width += other.width;
        self.under_twice += other.under_twice;
    }

    /// Means; `None` without a forecast.
    #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
    pub(super) fn report(&self) -> Option<HorizonReport> {
        let n = self.n as f64;
        (self.n > 0).then(|| HorizonReport {
            n: self.n,
            mae: self.error / n,
            mae_persistence: self.stays / n,
            pinball10: self.pinball[0] / n,
            pinball50: self.pinball[1] / n,
            pinball90: self.pinball[2] / n,
            coverage80: self.inside as f64 / n,
            width80: self.width / n,
            cap_twice: self.under_twice as f64 / n,
        })
    }
}

/// Lowest price within `slack` steps of each submission whose window is complete.
pub(super) fn lowest_within(prices: &[f64], slack: usize) -> Vec<f64> {
    let mut lowest = Vec::with_capacity(prices.len().saturating_sub(slack));
    let mut ascending: VecDeque<usize> = VecDeque::new();
    for (now, price) in prices.iter().enumerate() {
        while ascending.back().is_some_and(|at| prices[*at] >= *price) {
            ascending.pop_back();
        }
        ascending.push_back(now);
        if now >= slack {
            while ascending.front().is_some_and(|at| *at < now - slack) {
                ascending.pop_front();
            }
            lowest.push(ascending.front().map_or(*price, |at| prices[*at]));
        }
    }
    lowest
}

/// Sum over submissions of the mean price within their slack: the expected cost of sending at a random moment.
#[expect(clippy::cast_precision_loss, reason = "counts of rows")]
pub(super) fn random_total(prices: &[f64], slack: usize) -> f64 {
    let mut window = 0.0;
    let mut total = 0.0;
    for (now, price) in prices.iter().enumerate() {
        window += price;
        if now >= slack {
            total += window / (slack + 1) as f64;
            window -= prices[now - slack];
        }
    }
    total
}
