//! Calibrated intervals: quantiles of scaled errors, adjusted after each hit and miss.

use serde::{Deserialize, Serialize};

use super::{features::FeatureRow, linear::OnlineRidge};
use crate::forecast::features::{AT_SPREAD, AT_STEP};

/// Tracked levels.
pub(super) const LEVELS: [f64; 13] = [0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.999];
/// Indices of .1, .5 and .9 in [`LEVELS`].
pub(super) const AT_10: usize = 4;
pub(super) const AT_50: usize = 6;
pub(super) const AT_90: usize = 8;

/// Initial quantiles of scaled errors: about those of recorded base fees.
const START: [f64; LEVELS.len()] = [-9.0, -5.5, -4.2, -3.3, -2.3, -1.0, 0.0, 1.0, 2.3, 3.3, 4.2, 5.5, 9.0];
/// Inputs of the local scale: a constant and the logs of mean steps and spreads.
const SCALE_INPUTS: usize = 5;
/// Floor of an error, as log fee: one part in ten million.
const TINY: f64 = 1e-7;

/// Tracks the error quantiles of one horizon (adaptive conformal inference by quantile tracking: Gibbs & Candès 2021;
/// Angelopoulos, Candès & Tibshirani 2023): after each outcome the level `p` moves by `η·p` up or `η·(1 − p)` down, so
/// that the long-run coverage is right for any sequence of errors. Errors are measured in units of a local scale,
/// itself a regression of log errors on volatilities.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Intervals {
    scale: OnlineRidge,
    typical: f64,
    seen: f64,
    rate: f64,
    quantiles: [f64; LEVELS.len()],
}

/// An interval as made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) centre: f64,
    pub(super) scale: f64,
    inputs: [f64; SCALE_INPUTS],
    /// Quantiles at the time it was made: hits are counted against these, not against later ones.
    quantiles: [f64; LEVELS.len()],
}

impl Intervals {
    pub(super) fn new(steps: f64, tuning: &super::Tuning) -> Self {
        Self {
            scale: OnlineRidge::new(vec![0.0, 0.2, 0.4, 0.2, 0.2], tuning.scale_keep, 3.0 + steps.sqrt()),
            typical: -4.5 + 0.4 * libm::log(steps),
            seen: 0.0,
            rate: tuning.track_rate / libm::pow(steps, tuning.track_power),
            quantiles: START,
        }
    }

    /// The interval around `centre` for a step with the features `row`.
    pub(super) fn make(&self, centre: f64, row: &FeatureRow) -> Made {
        let inputs = [1.0, row[AT_STEP], row[AT_STEP + 1], row[AT_STEP + 2], row[AT_SPREAD]];
        // The inputs of a calm market reach ln 1e-4; around -4 they are centred.
        let inputs = [inputs[0], inputs[1] + 4.0, inputs[2] + 4.0, inputs[3] + 4.0, inputs[4] + 2.5];
        let log = self.scale.predict(inputs.into_iter()) + self.typical;
        Made { centre, scale: libm::exp(log.clamp(-16.0, 4.0)), inputs, quantiles: self.quantiles }
    }

    /// Log price at each level.
    pub(super) fn knots(&self, made: &Made) -> [f64; LEVELS.len()] {
        let mut knots = self.quantiles.map(|quantile| made.centre + made.scale * quantile);
        knots.sort_by(f64::total_cmp);
        knots
    }

    pub(super) fn learn(&mut self, made: &Made, outcome: f64, should_solve: bool) {
        let error = outcome - made.centre;
        let score = error / made.scale;
        // The first outcomes move further: the initial quantiles are not specific to the chain.
        self.seen += 1.0;
        let rate = self.rate * (1.0 + 4.0 / (1.0 + self.seen / 25.0));
        for ((quantile, promised), level) in self.quantiles.iter_mut().zip(made.quantiles).zip(LEVELS) {
            // Rare levels move in smaller steps, or they would swing.
            let stride = rate * 2.0 * (level * (1.0 - level)).sqrt().max(0.05) / 0.6;
            *quantile += stride * if score <= promised { level - 1.0 } else { level };
        }
        let log = libm::log(error.abs().max(made.scale * 0.05).max(TINY));
        let fast = (1.0 / (20.0 + self.seen)).max(0.002);
        self.typical += fast * (log - self.typical);
        self.scale.learn(&made.inputs, (log - self.typical).clamp(-4.0, 4.0), 1.0);
        if should_solve {
            self.scale.solve();
        }
    }
}
