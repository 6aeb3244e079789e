//! Detection of concept drift.

use serde::{Deserialize, Serialize};

/// Page–Hinkley test on scaled losses: fires after a sustained rise of their mean.
///
/// Losses come in units of their recent mean, so 1 is usual. With a tolerance of a quarter and a threshold of 25, a
/// doubled loss is detected after about 35 steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageHinkley {
    mean: f64,
    seen: f64,
    sum: f64,
    least: f64,
}

const TOLERANCE: f64 = 0.25;
const THRESHOLD: f64 = 25.0;
/// Cap on a single loss.
const MOST: f64 = 6.0;

impl Default for PageHinkley {
    fn default() -> Self {
        Self { mean: 1.0, seen: 0.0, sum: 0.0, least: 0.0 }
    }
}

impl PageHinkley {
    /// Adds a loss; true when drift is detected, after which the test restarts.
    pub(super) fn observe(&mut self, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        let loss = loss.min(MOST);
        self.seen += 1.0;
        self.mean += (loss - self.mean) / self.seen.min(500.0);
        self.sum += loss - self.mean - TOLERANCE;
        self.least = self.least.min(self.sum);
        if self.sum - self.least > THRESHOLD {
            *self = Self::default();
            return true;
        }
        false
    }
}
