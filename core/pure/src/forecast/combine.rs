//! Weights of the experts, learnt from their losses.

use serde::{Deserialize, Serialize};

/// Bernstein online aggregation (Wintenberger 2017, arXiv:1404.1356) with forgetting.
///
/// With the absolute loss linearised at the mixture, the mixture's average loss exceeds that of the best fixed mixture
/// of experts by `O(√(ln K / n))`, without tuning to the scale of the losses. Feedback may be delayed: each example
/// carries its own predictions. An expert without a prediction is left unchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mixture {
    prior: Vec<f64>,
    keep: f64,
    regret: Vec<f64>,
    energy: Vec<f64>,
    largest: f64,
    boldness: f64,
    weights: Vec<f64>,
}

impl Mixture {
    pub(super) fn new(prior: Vec<f64>, keep: f64, boldness: f64) -> Self {
        let total: f64 = prior.iter().sum();
        let prior: Vec<f64> = prior.iter().map(|weight| weight / total).collect();
        let zeros = vec![0.0; prior.len()];
        Self {
            weights: prior.clone(),
            prior,
            keep,
            regret: zeros.clone(),
            energy: zeros.clone(),
            largest: 0.0,
            boldness,
        }
    }

    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Weighted mean of the predictions; NaN marks an expert that has none.
    pub(super) fn mix(&self, predictions: &[f64]) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (weight, prediction) in self.weights.iter().zip(predictions) {
            if !prediction.is_nan() {
                sum += weight * prediction;
                total += weight;
            }
        }
        if total > 0.0 { sum / total } else { 0.0 }
    }

    /// Learns from an outcome; `slope` is the derivative of the loss at the mixture `mixed`.
    pub(super) fn learn(&mut self, predictions: &[f64], mixed: f64, slope: f64) {
        for (j, prediction) in predictions.iter().enumerate() {
            if prediction.is_nan() {
                continue;
            }
            let gained = slope * (mixed - prediction);
            self.largest = self.largest.max(gained.abs());
            self.energy[j] = self.keep * self.energy[j] + gained * gained;
            let rate = self.rate();
            self.regret[j] = self.keep * self.regret[j] + gained - rate * gained * gained;
        }
        let mut top = f64::NEG_INFINITY;
        for j in 0..self.weights.len() {
            let rate = self.rate();
            self.weights[j] = libm::log(self.prior[j].max(1e-12) * rate) + rate * self.regret[j];
            top = top.max(self.weights[j]);
        }
        let mut total = 0.0;
        for weight in &mut self.weights {
            *weight = libm::exp(*weight - top);
            total += *weight;
        }
        for weight in &mut self.weights {
            *weight /= total;
        }
    }

    fn rate(&self) -> f64 {
        let most = 0.5 / self.largest.max(1e-9);
        // One rate for all: an expert that was inactive has no record yet, and must not start with a bolder one.
        let energy = self.energy.iter().fold(0.0, |most: f64, energy| most.max(*energy));
        let settled = self.boldness * (libm::log(self.prior.len() as f64) / energy.max(1e-18)).sqrt();
        most.min(settled).max(1e-6)
    }
}
