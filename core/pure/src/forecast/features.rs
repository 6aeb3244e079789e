//! Features of a step: a fixed row of numbers, all relative to the price of the next block.

use crate::{
    BlockTimestamp,
    market::{FeePoint, Utilisation},
};

/// Lags of the price differences, steps.
const LAGS: [usize; 6] = [1, 2, 3, 5, 10, 20];
/// Time constants of the moving averages, steps.
pub(super) const TAUS: [f64; 8] = [4.0, 10.0, 25.0, 60.0, 150.0, 400.0, 1000.0, 3000.0];
/// Windows of the medians, extremes (lowest, highest) and first quartiles of recent prices, steps.
const MEDIANS: [usize; 4] = [20, 60, 200, 600];
const EXTREMES: [usize; 2] = [20, 200];
const QUARTILES: [usize; 2] = [60, 200];
/// Number of recent prices behind a row.
pub(super) const LOOK_BACK: usize = MEDIANS[MEDIANS.len() - 1];
/// Time constants of the mean absolute step, steps.
const STEP_TAUS: [f64; 3] = [10.0, 50.0, 200.0];
/// Indices of the moving averages with a mean absolute distance.
const SPREAD_OF: [usize; 2] = [3, 5];
/// Time constants of the share of full blocks, steps.
const FULL_TAUS: [f64; 2] = [5.0, 20.0];
/// Least utilisation of a full block.
const FULL: f64 = 0.97;
/// Seconds per day.
const DAY: u64 = 86_400;

/// First column of each feature group.
pub(super) const AT_LEVEL: usize = LAGS.len();
pub(super) const AT_MEDIAN: usize = AT_LEVEL + TAUS.len();
pub(super) const AT_EXTREME: usize = AT_MEDIAN + MEDIANS.len();
pub(super) const AT_QUARTILE: usize = AT_EXTREME + 2 * EXTREMES.len();
pub(super) const AT_USE: usize = AT_QUARTILE + QUARTILES.len();
pub(super) const AT_FULL: usize = AT_USE + 3;
pub(super) const AT_STEP: usize = AT_FULL + FULL_TAUS.len();
pub(super) const AT_SPREAD: usize = AT_STEP + STEP_TAUS.len();
pub(super) const AT_PAUSE: usize = AT_SPREAD + SPREAD_OF.len();
pub(super) const AT_CLOCK: usize = AT_PAUSE + 1;
/// Number of features.
pub const FEATURES: usize = AT_CLOCK + 4;

/// Names of the features, in order.
pub const FEATURE_NAMES: [&str; FEATURES] = [
    "lag 1",
    "lag 2",
    "lag 3",
    "lag 5",
    "lag 10",
    "lag 20",
    "level 4",
    "level 10",
    "level 25",
    "level 60",
    "level 150",
    "level 400",
    "level 1000",
    "level 3000",
    "median 20",
    "median 60",
    "median 200",
    "median 600",
    "lowest 20",
    "highest 20",
    "lowest 200",
    "highest 200",
    "quartile 60",
    "quartile 200",
    "use",
    "use 1 ago",
    "use 2 ago",
    "full share 5",
    "full share 20",
    "mean step 10",
    "mean step 50",
    "mean step 200",
    "spread 60",
    "spread 400",
    "pause",
    "day cos",
    "day sin",
    "half-day cos",
    "half-day sin",
];

/// One row of features.
pub type FeatureRow = [f64; FEATURES];

/// Natural logarithm of a fee; 0 wei counts as 1.
pub(super) fn log_fee(fee: u128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a logarithm of 53 bits is enough")]
    libm::log(fee.max(1) as f64)
}

/// The fee with this logarithm, rounded; saturating.
pub(super) fn fee_of(log: f64) -> u128 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and NaN gives 0"
    )]
    let fee = libm::round(libm::exp(log)) as u128;
    fee
}

/// Running state of the features: constant size and cheap to copy, so that a reorg can restore an earlier one.
#[derive(Debug, Clone)]
pub(super) struct FeatureState {
    seen: f64,
    /// Log prices, newest first.
    recent: [f64; LAGS[LAGS.len() - 1] + 1],
    levels: [f64; TAUS.len()],
    steps: [f64; STEP_TAUS.len()],
    spreads: [f64; SPREAD_OF.len()],
    uses: [f64; 3],
    fulls: [f64; FULL_TAUS.len()],
    last_time: Option<u64>,
    pause: f64,
    clock: [f64; 4],
}

impl FeatureState {
    pub(super) fn new(price: f64) -> Self {
        Self {
            seen: 0.0,
            recent: [price; LAGS[LAGS.len() - 1] + 1],
            levels: [price; TAUS.len()],
            steps: [0.0; STEP_TAUS.len()],
            spreads: [0.0; SPREAD_OF.len()],
            uses: [0.0; 3],
            fulls: [0.0; FULL_TAUS.len()],
            last_time: None,
            pause: 0.0,
            clock: [0.0; 4],
        }
    }

    /// Adds one step: `price` is the log price after it, `target` the share of the gas limit at which the fee stays
    /// constant, `step_s` the nominal seconds per step.
    pub(super) fn push(&mut self, point: &FeePoint, price: f64, implied_use: Option<f64>, target: f64, step_s: f64) {
        let gain = |tau: f64, seen: f64| (1.0 / tau).max(1.0 / (seen + 1.0));
        let step = (price - self.recent[0]).abs();
        self.recent.rotate_right(1);
        self.recent[0] = price;
        for (level, tau) in self.levels.iter_mut().zip(TAUS) {
            *level += gain(tau, self.seen) * (price - *level);
        }
        if self.seen > 0.0 {
            for (mean, tau) in self.steps.iter_mut().zip(STEP_TAUS) {
                *mean += gain(tau, self.seen - 1.0) * (step - *mean);
            }
        }
        for (mean, of) in self.spreads.iter_mut().zip(SPREAD_OF) {
            *mean += gain(TAUS[of], self.seen) * ((price - self.levels[of]).abs() - *mean);
        }
        let used = point.utilisation.and_then(Utilisation::ratio).or(implied_use);
        self.uses.rotate_right(1);
        self.uses[0] = used.map_or(0.0, |used| used - target);
        if let Some(used) = used {
            for (mean, tau) in self.fulls.iter_mut().zip(FULL_TAUS) {
                *mean += gain(tau, self.seen) * (f64::from(u8::from(used > FULL)) - *mean);
            }
        }
        if let Some(BlockTimestamp(time)) = point.timestamp {
            #[expect(clippy::cast_precision_loss, reason = "seconds of a day, and pauses capped by the clamp")]
            {
                let paused = self.last_time.map_or(step_s, |last| time.saturating_sub(last) as f64);
                self.pause = (paused / step_s - 1.0).clamp(-1.0, 4.0);
                let angle = (time % DAY) as f64 / DAY as f64 * std::f64::consts::TAU;
                self.clock = [libm::cos(angle), libm::sin(angle), libm::cos(2.0 * angle), libm::sin(2.0 * angle)];
            }
            self.last_time = Some(time);
        } else {
            self.pause = 0.0;
            self.clock = [0.0; 4];
        }
        self.seen += 1.0;
    }

    /// The row after the last step; `earlier` are the log prices before it, newest first.
    pub(super) fn row(&self, earlier: impl Iterator<Item = f64>) -> FeatureRow {
        let price = self.recent[0];
        let mut row = [0.0; FEATURES];
        let mut prices = [0.0; LOOK_BACK];
        let mut count = 0;
        for (cell, price) in prices.iter_mut().zip(core::iter::once(price).chain(earlier)) {
            *cell = price;
            count += 1;
        }
        let mut scratch = [0.0; LOOK_BACK];
        let mut quantile = |window: usize, parts: (usize, usize)| {
            let window = window.min(count);
            let values = &mut scratch[..window];
            values.copy_from_slice(&prices[..window]);
            let at = (values.len() - 1) * parts.0 / parts.1;
            *values.select_nth_unstable_by(at, f64::total_cmp).1 - price
        };
        for (cell, window) in row[AT_MEDIAN..].iter_mut().zip(MEDIANS) {
            *cell = quantile(window, (1, 2));
        }
        for (cells, window) in row[AT_EXTREME..].chunks_exact_mut(2).zip(EXTREMES) {
            cells[0] = quantile(window, (0, 1));
            cells[1] = quantile(window, (1, 1));
        }
        for (cell, window) in row[AT_QUARTILE..].iter_mut().zip(QUARTILES) {
            *cell = quantile(window, (1, 4));
        }
        for (cell, lag) in row.iter_mut().zip(LAGS) {
            *cell = self.recent[lag] - price;
        }
        for (cell, level) in row[AT_LEVEL..].iter_mut().zip(self.levels) {
            *cell = level - price;
        }
        row[AT_USE..AT_FULL].copy_from_slice(&self.uses);
        row[AT_FULL..AT_STEP].copy_from_slice(&self.fulls);
        for (cell, mean) in row[AT_STEP..].iter_mut().zip(self.steps.into_iter().chain(self.spreads)) {
            *cell = libm::log(mean + 1e-4);
        }
        row[AT_PAUSE] = self.pause;
        row[AT_CLOCK..].copy_from_slice(&self.clock);
        row
    }
}

/// Current typical log step: geometric mean of the mean absolute steps over 50 and 200.
pub(super) fn usual_step(row: &FeatureRow) -> f64 {
    libm::exp(0.5 * (row[AT_STEP + 1] + row[AT_STEP + 2]))
}

/// Cap on log moves, in typical ones: a price that stood still has no scale for a jump.
const MOST: f64 = 300.0;

/// A log move in units of the typical one.
pub(super) fn in_unit(log_move: f64, unit: f64) -> f64 {
    (log_move / unit).clamp(-MOST, MOST)
}

/// The row in units of the typical step, so that calm and rough markets, and chains whose fees move in larger and
/// smaller steps, look alike.
pub(super) fn in_units(row: &FeatureRow, unit: f64) -> FeatureRow {
    let mut out = *row;
    for cell in &mut out[..AT_USE] {
        *cell = in_unit(*cell, unit);
    }
    let log = libm::log(unit);
    for cell in &mut out[AT_STEP..AT_PAUSE] {
        *cell -= log;
    }
    out
}

/// One observed step.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) number: u64,
    /// Place on the chain in steps, gaps counted.
    pub(super) place: u64,
    /// The point as received.
    pub(super) point: FeePoint,
    /// Log of the base fee.
    pub(super) fee: f64,
    /// Log price of the next transaction; `is_next` is true if it is the next block's fee.
    pub(super) price: f64,
    pub(super) is_next: bool,
    pub(super) row: FeatureRow,
    pub(super) state: FeatureState,
}
