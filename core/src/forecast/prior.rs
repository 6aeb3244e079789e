//! Models trained elsewhere, to start with.

use serde::{Deserialize, Serialize};

use super::{
    Boosted, ModelId, Regressor as _,
    features::{FEATURES, FeatureRow, in_units},
};

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
    /// The prior that comes with this version, from recorded base fees of Ethereum and Polygon; its provenance says which.
    /// `None` never, unless this build is broken.
    pub fn shipped() -> Option<Self> {
        Self::from_json(include_str!("prior.json")).ok()
    }

    /// Content hash.
    pub fn id(&self) -> ModelId {
        ModelId::of(&serde_json::json!(self))
    }

    /// Log move after `steps` on a chain whose largest step is `unit` times Ethereum's: between two known horizons linear in `ln steps`, below them the nearest, above them NaN: pooled trees know no other
    /// market's level hours ahead.
    pub(super) fn predict(&self, steps: u32, row: &FeatureRow, unit: f64) -> f64 {
        unit * self.predict_in_units(steps, &in_units(row, unit))
    }

    /// What each feature contributes to [`Self::predict`].
    pub(super) fn contributions(&self, steps: u32, row: &FeatureRow, unit: f64) -> FeatureRow {
        let row = in_units(row, unit);
        let mut out = [0.0; FEATURES];
        for (index, share) in self.shares(steps) {
            let part = self.horizons[index].boosted.contributions(&row);
            for (sum, x) in out.iter_mut().zip(part) {
                *sum += unit * share * x;
            }
        }
        out
    }

    fn predict_in_units(&self, steps: u32, row: &FeatureRow) -> f64 {
        let shares = self.shares(steps);
        if shares.iter().all(|(_, share)| *share == 0.0) {
            return f64::NAN;
        }
        shares
            .into_iter()
            .filter(|(_, share)| *share != 0.0)
            .map(|(index, share)| share * self.horizons[index].boosted.predict(row))
            .sum()
    }

    /// Horizons to use for `steps`, with their shares; none beyond the last.
    fn shares(&self, steps: u32) -> [(usize, f64); 2] {
        let log = |steps: u32| libm::log(f64::from(steps));
        match self.horizons.iter().position(|horizon| horizon.steps >= steps) {
            None => [(0, 0.0); 2],
            Some(index) if index == 0 || self.horizons[index].steps == steps => [(index, 1.0), (index, 0.0)],
            Some(index) => {
                let (low, high) = (log(self.horizons[index - 1].steps), log(self.horizons[index].steps));
                let share = (log(steps) - low) / (high - low);
                [(index - 1, 1.0 - share), (index, share)]
            }
        }
    }

    /// Reads a prior from its JSON.
    ///
    /// # Errors
    /// [`PriorError`] if the text is no prior, or one that cannot be evaluated.
    pub fn from_json(text: &str) -> Result<Self, PriorError> {
        let prior: Self = serde_json::from_str(text)?;
        let is_sound = prior.horizons.iter().all(|horizon| horizon.boosted.is_sound())
            && prior.horizons.is_sorted_by(|a, b| a.steps < b.steps);
        if is_sound { Ok(prior) } else { Err(PriorError::Malformed) }
    }
}

/// Why a prior could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriorError {
    /// No prior.
    #[error("no prior: {0}")]
    Json(#[from] serde_json::Error),
    /// Trees that lead nowhere or in circles, or horizons out of order.
    #[error("malformed prior")]
    Malformed,
}
