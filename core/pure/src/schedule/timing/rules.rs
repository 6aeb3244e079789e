//! Policies without a fit: thresholds, levels, the floor.

use super::{
    features::{Features, WINDOWS},
    stopping::{Ladder, RUNGS},
};

/// Windows of the threshold rules (indices of the sorted windows).
pub(super) const RULE_WINDOWS: [usize; 5] = [1, 2, 3, 4, 5];
/// Units per independent price: with slack r the threshold is the quantile 1 / (1 + r / this).
pub(super) const RULE_PACES: [f64; 3] = [1.5, 4.0, 12.0];
/// Moving averages of the level rules (indices of the means).
pub(super) const LEVEL_MEANS: [usize; 3] = [3, 4, 5];
/// Prices this close (log) count as equal.
pub(super) const EQUAL: f64 = 1e-3;
/// Share of steps at the minimum that makes a floor.
const FLOOR_SHARE: f64 = 0.3;

/// Length of a rule's window, in units.
pub(super) fn window_units(index: usize) -> f64 {
    WINDOWS[RULE_WINDOWS[index]]
}

/// Sends at or below the quantile of a window that leaves one chance per `pace` units of slack.
pub(super) fn threshold(features: &Features, window: usize, pace: f64, log_price: f64) -> Ladder {
    let window = &features.windows[RULE_WINDOWS[window]];
    RUNGS.map(|units| window.quantile(1.0 / (1.0 + units / pace)) + EQUAL - log_price)
}

/// Sends below a moving average, by the distance that independent draws of the recent spread would give.
pub(super) fn level(features: &Features, mean: usize, log_price: f64) -> Ladder {
    let spread = 2.0 * features.volatility;
    let mean = features.means[LEVEL_MEANS[mean]];
    RUNGS.map(|units| mean - spread * libm::log(1.0 + units / 4.0) / 2.0 + EQUAL - log_price)
}

/// On a chain at its minimum: send at the minimum, wait above it. `None` elsewhere.
pub(super) fn floor(features: &Features, log_price: f64) -> Option<Ladder> {
    let window = &features.windows[5];
    (window.share_near_minimum(EQUAL) >= FLOOR_SHARE).then(|| [window.minimum() + EQUAL - log_price; RUNGS.len()])
}

/// `a`·(1 − share) + `b`·share.
pub(super) fn blend(a: &Ladder, b: &Ladder, share: f64) -> Ladder {
    core::array::from_fn(|index| a[index] * (1.0 - share) + b[index] * share)
}
