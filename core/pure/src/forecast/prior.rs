//! Pre-trained models.

use serde::{Deserialize, Serialize};

use super::{
    Boosted, ModelId, Regressor as _,
    features::{FEATURES, FeatureRow},
};

/// Pooled models for a chain's first hours, before its own are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// Provenance: training data and method.
    pub provenance: String,
    /// Models per horizon, in ascending order.
    pub horizons: Vec<PriorHorizon>,
}

/// Models of one horizon, for rows and moves in units of the typical step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorHorizon {
    /// Steps ahead.
    pub steps: u32,
    /// Boosted trees; `None` for long horizons, where pooled trees don't know another market's level.
    pub boosted: Option<Boosted>,
    /// Coefficients of a linear model, one for each feature.
    pub line: Vec<f64>,
}

impl Prior {
    /// The prior shipped with this version, from recorded base fees of Ethereum and Polygon; its provenance gives
    /// details. Never `None`, unless this build is broken.
    pub fn shipped() -> Option<Self> {
        Self::from_json(include_str!("prior.json")).ok()
    }

    /// Content hash.
    pub fn id(&self) -> ModelId {
        ModelId::of(&serde_json::json!(self))
    }

    /// Log move after `steps` in units of the typical step, by the trees: linear in `ln steps` between two known
    /// horizons, the nearest one below them, NaN above the last one with trees.
    pub(super) fn predict(&self, steps: u32, scaled: &FeatureRow) -> f64 {
        let mut sum = 0.0;
        for (horizon, share) in self.shares(steps) {
            match &horizon.boosted {
                Some(boosted) => sum += share * boosted.predict(scaled),
                None => return f64::NAN,
            }
        }
        sum
    }

    /// As [`Self::predict`], by the line; the nearest horizon above the last one.
    pub(super) fn predict_line(&self, steps: u32, scaled: &FeatureRow) -> f64 {
        self.line_contributions(steps, scaled).iter().sum()
    }

    /// Contribution of each feature to [`Self::predict`].
    pub(super) fn contributions(&self, steps: u32, scaled: &FeatureRow) -> FeatureRow {
        let mut out = [0.0; FEATURES];
        for (horizon, share) in self.shares(steps) {
            let part = horizon.boosted.as_ref().map_or([0.0; FEATURES], |boosted| boosted.contributions(scaled));
            for (sum, x) in out.iter_mut().zip(part) {
                *sum += share * x;
            }
        }
        out
    }

    /// Contribution of each feature to [`Self::predict_line`].
    pub(super) fn line_contributions(&self, steps: u32, scaled: &FeatureRow) -> FeatureRow {
        let mut out = [0.0; FEATURES];
        for (horizon, share) in self.shares(steps) {
            for ((sum, coefficient), x) in out.iter_mut().zip(&horizon.line).zip(scaled) {
                *sum += share * coefficient * x;
            }
        }
        out
    }

    /// Horizons to interpolate for `steps`, with their shares.
    fn shares(&self, steps: u32) -> impl Iterator<Item = (&PriorHorizon, f64)> {
        let log = |steps: u32| libm::log(f64::from(steps));
        let above = self.horizons.iter().position(|horizon| horizon.steps >= steps);
        let pair = match above {
            None => [self.horizons.last().map(|last| (last, 1.0)), None],
            Some(index) if index == 0 || self.horizons[index].steps == steps => {
                [Some((&self.horizons[index], 1.0)), None]
            }
            Some(index) => {
                let (below, above) = (&self.horizons[index - 1], &self.horizons[index]);
                let share = (log(steps) - log(below.steps)) / (log(above.steps) - log(below.steps));
                [Some((below, 1.0 - share)), Some((above, share))]
            }
        };
        pair.into_iter().flatten()
    }

    /// Parses a prior from JSON.
    ///
    /// # Errors
    /// [`PriorError`] if the text is not a prior, or cannot be evaluated.
    pub fn from_json(text: &str) -> Result<Self, PriorError> {
        let prior: Self = serde_json::from_slice(text.as_bytes())?;
        let is_sound = !prior.horizons.is_empty()
            && prior.horizons.iter().all(|horizon| {
                horizon.boosted.as_ref().is_none_or(Boosted::is_sound)
                    && horizon.line.len() == FEATURES
                    && horizon.line.iter().all(|coefficient| coefficient.is_finite())
            })
            && prior.horizons.is_sorted_by(|a, b| a.steps < b.steps);
        if is_sound { Ok(prior) } else { Err(PriorError::Malformed) }
    }
}

/// Failure to read a prior.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriorError {
    /// Not a prior.
    #[error("no prior: {0}")]
    Json(#[from] serde_json::Error),
    /// Trees with broken or circular links, bad coefficients, or horizons missing or out of order.
    #[error("malformed prior")]
    Malformed,
}
