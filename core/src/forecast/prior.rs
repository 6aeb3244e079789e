//! Models trained elsewhere, to start with.

use serde::{Deserialize, Serialize};

use super::{Boosted, ModelId, Regressor as _, features::{FeatureRow, in_units}};

/// Pooled models of a chain's first hours, before it has taught us its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// Where it comes from: training data and how it was made.
    pub provenance: String,
    /// Boosted trees of some horizons, ascending.
    pub horizons: Vec<PriorHorizon>,
}

/// Trees of one horizon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorHorizon {
    /// Steps ahead.
    pub steps: u32,
    /// The trees.
    pub boosted: Boosted,
}

impl Prior {
    /// Content hash.
    pub fn id(&self) -> ModelId {
        ModelId::of(&serde_json::json!(self))
    }

    /// Log move after `steps` on a chain whose largest step is `unit` times Ethereum's: between two known horizons linear in `ln steps`, below them the nearest, above them NaN: pooled trees know no other
    /// market's level hours ahead.
    pub(super) fn predict(&self, steps: u32, row: &FeatureRow, unit: f64) -> f64 {
        unit * self.predict_in_units(steps, &in_units(row, unit))
    }

    fn predict_in_units(&self, steps: u32, row: &FeatureRow) -> f64 {
        let above = self.horizons.iter().position(|horizon| horizon.steps >= steps);
        let at = |index: usize| self.horizons[index].boosted.predict(row);
        match above {
            None => f64::NAN,
            Some(0) => at(0),
            Some(index) if self.horizons[index].steps == steps => at(index),
            Some(index) => {
                let log = |steps: u32| libm::log(f64::from(steps));
                let (low, high) = (log(self.horizons[index - 1].steps), log(self.horizons[index].steps));
                let share = (log(steps) - low) / (high - low);
                at(index - 1) * (1.0 - share) + at(index) * share
            }
        }
    }
}
