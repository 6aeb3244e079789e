//! Ridge regression, shrunk towards a given start.

use serde::{Deserialize, Serialize};

use super::features::{FEATURES, Row, UNIT};

/// Mean and spread of each feature, stored with a linear model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Scaling {
    mean: Vec<f64>,
    spread: Vec<f64>,
}

impl Scaling {
    /// From weighted rows.
    pub(super) fn of(rows: &[Row]) -> Self {
        let total = count(rows.len().max(1));
        let mut mean = vec![0.0; FEATURES];
        for row in rows {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += value / total;
            }
        }
        let mut spread = vec![0.0; FEATURES];
        for row in rows {
            for ((sum, value), mean) in spread.iter_mut().zip(row).zip(&mean) {
                *sum += (value - mean) * (value - mean) / total;
            }
        }
        for value in &mut spread {
            *value = libm::sqrt(*value);
        }
        // The unit is no feature.
        spread[UNIT] = 0.0;
        Self { mean, spread }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.mean.len() == FEATURES
            && self.spread.len() == FEATURES
            && self.mean.iter().chain(&self.spread).all(|value| value.is_finite())
    }

    /// Standardised row; a feature without spread is 0, and nothing is further than 6 spreads from its mean.
    pub(super) fn apply(&self, row: &Row) -> Row {
        let mut scaled = [0.0; FEATURES];
        for (index, value) in scaled.iter_mut().enumerate() {
            if self.spread[index] > 1e-9 {
                *value = ((row[index] - self.mean[index]) / self.spread[index]).clamp(-6.0, 6.0);
            }
        }
        scaled
    }

    pub(super) fn round(&mut self) {
        for value in self.mean.iter_mut().chain(&mut self.spread) {
            *value = six_digits(*value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn count(n: usize) -> f64 {
    n as f64
}

/// Rounds to about six significant digits, the precision of stored models.
pub(super) fn six_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = libm::pow(10.0, 5.0 - libm::floor(libm::log10(value.abs())));
    let rounded = libm::round(value * scale) / scale;
    if rounded.is_finite() { rounded } else { 0.0 }
}

/// Intercept first.
pub(super) type Coefficients = Vec<f64>;

pub(super) fn predict(coefficients: &[f64], scaled: &Row) -> f64 {
    coefficients[0] + coefficients[1..].iter().zip(scaled).map(|(c, x)| c * x).sum::<f64>()
}

/// Weighted normal equations of one regression; the rows are standardised.
#[derive(Debug, Clone)]
pub(super) struct Normal {
    gram: Vec<f64>,
    moment: Vec<f64>,
    rows: f64,
}

const SIZE: usize = FEATURES + 1;

impl Normal {
    pub(super) fn new() -> Self {
        Self { gram: vec![0.0; SIZE * SIZE], moment: vec![0.0; SIZE], rows: 0.0 }
    }

    /// Adds a row. `y` is the target.
    pub(super) fn add(&mut self, scaled: &Row, y: f64) {
        let mut extended = [1.0; SIZE];
        extended[1..].copy_from_slice(scaled);
        for (i, value) in extended.iter().enumerate() {
            self.moment[i] += value * y;
            for (sum, other) in self.gram[i * SIZE..=i * SIZE + i].iter_mut().zip(&extended) {
                *sum += value * other;
            }
        }
        self.rows += 1.0;
    }

    /// Minimises squared error + `share`·rows·|b|² + `fixed`·|b|², intercept shrunk by `fixed` only.
    /// `None` if the system is singular.
    pub(super) fn solve(&self, share: f64, fixed: f64) -> Option<Coefficients> {
        let mut a = self.gram.clone();
        for i in 0..SIZE {
            let ridge = if i == 0 { fixed } else { share * self.rows + fixed };
            a[i * SIZE + i] += ridge + 1e-12;
        }
        // Cholesky, in place, lower triangle.
        for i in 0..SIZE {
            for j in 0..=i {
                let mut sum = a[i * SIZE + j];
                for k in 0..j {
                    sum -= a[i * SIZE + k] * a[j * SIZE + k];
                }
                if i == j {
                    if sum <= 0.0 || !sum.is_finite() {
                        return None;
                    }
                    a[i * SIZE + i] = libm::sqrt(sum);
                } else {
                    a[i * SIZE + j] = sum / a[j * SIZE + j];
                }
            }
        }
        let mut b = self.moment.clone();
        for i in 0..SIZE {
            for k in 0..i {
                b[i] -= a[i * SIZE + k] * b[k];
            }
            b[i] /= a[i * SIZE + i];
        }
        for i in (0..SIZE).rev() {
            for k in i + 1..SIZE {
                b[i] -= a[k * SIZE + i] * b[k];
            }
            b[i] /= a[i * SIZE + i];
        }
        b.iter().all(|value| value.is_finite()).then_some(b)
    }
}
