//! Online ridge regression, shrunk towards given coefficients.

use serde::{Deserialize, Serialize};

/// Normal equations with forgetting: `(Σ γᵗ w x xᵀ + λ I) β = Σ γᵗ w x y + λ β₀`.
///
/// With `by_examples`, λ counts examples: each coefficient is pulled by λ times the mean square of its input, whatever
/// the unit.
///
/// Unlike in recursive least squares, the pull towards `β₀` never fades, so that a long calm leaves nothing singular.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlineRidge {
    size: usize,
    keep: f64,
    pull: f64,
    by_examples: bool,
    /// Sum of the weights.
    mass: f64,
    /// Lower triangle, row by row.
    gram: Vec<f64>,
    moment: Vec<f64>,
    start: Vec<f64>,
    coefficients: Vec<f64>,
    #[serde(skip)]
    scratch: Vec<f64>,
}

impl OnlineRidge {
    pub(super) fn new(start: Vec<f64>, keep: f64, pull: f64) -> Self {
        let size = start.len();
        let cells = size * (size + 1) / 2;
        Self {
            size,
            keep,
            pull,
            by_examples: false,
            mass: 0.0,
            gram: vec![0.0; cells],
            moment: vec![0.0; size],
            coefficients: start.clone(),
            start,
            scratch: vec![0.0; cells],
        }
    }

    /// As [`Self::new`]; `pull` counts examples.
    pub(super) fn by_examples(start: Vec<f64>, keep: f64, pull: f64) -> Self {
        Self { by_examples: true, ..Self::new(start, keep, pull) }
    }

    fn pull(&self, i: usize) -> f64 {
        if self.by_examples {
            self.pull * (self.gram[i * (i + 1) / 2 + i] / self.mass.max(1e-9)).max(1e-9)
        } else {
            self.pull
        }
    }

    pub(super) fn coefficients(&self) -> &[f64] {
        &self.coefficients
    }

    pub(super) fn predict(&self, row: impl Iterator<Item = f64>) -> f64 {
        self.coefficients.iter().zip(row).map(|(coefficient, x)| coefficient * x).sum()
    }

    /// Adds one example. The coefficients follow with [`Self::solve`].
    pub(super) fn learn(&mut self, row: &[f64], y: f64, weight: f64) {
        self.mass = self.keep * self.mass + weight;
        let mut cells = self.gram.iter_mut();
        for (i, xi) in row.iter().enumerate().take(self.size) {
            let scaled = weight * xi;
            self.moment[i] = self.keep * self.moment[i] + scaled * y;
            for (xj, cell) in row[..=i].iter().zip(&mut cells) {
                *cell = self.keep * *cell + scaled * xj;
            }
        }
    }

    /// Solves by Cholesky; keeps the old coefficients if the matrix is not positive definite in floating point.
    pub(super) fn solve(&mut self) {
        let at = |i: usize| i * (i + 1) / 2;
        let pulls: Vec<f64> = (0..self.size).map(|i| self.pull(i)).collect();
        let l = &mut self.scratch;
        l.clear();
        l.extend_from_slice(&self.gram);
        let mut right: Vec<f64> = self
            .moment
            .iter()
            .zip(&self.start)
            .zip(&pulls)
            .map(|((moment, start), pull)| moment + pull * start)
            .collect();
        for i in 0..self.size {
            l[at(i) + i] += pulls[i];
            for j in 0..=i {
                let mut sum = l[at(i) + j];
                for k in 0..j {
                    sum -= l[at(i) + k] * l[at(j) + k];
                }
                if i == j {
                    if !(sum > 1e-12 && sum.is_finite()) {
                        return;
                    }
                    l[at(i) + i] = sum.sqrt();
                } else {
                    l[at(i) + j] = sum / l[at(j) + j];
                }
            }
            for k in 0..i {
                right[i] -= l[at(i) + k] * right[k];
            }
            right[i] /= l[at(i) + i];
        }
        for i in (0..self.size).rev() {
            for k in i + 1..self.size {
                right[i] -= l[at(k) + i] * right[k];
            }
            right[i] /= l[at(i) + i];
        }
        if right.iter().all(|coefficient| coefficient.is_finite()) {
            self.coefficients = right;
        }
    }
}
