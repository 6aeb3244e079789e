//! The prior: starting point of a chain without history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{TimingError, stopping::Stopping};

/// Version of the prior's layout and of the features behind it.
pub const PRIOR_VERSION: u32 = 2;

/// Fitted policies and expected captured shares, learned on recorded chains. Plain JSON that names its own provenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingPrior {
    /// Must be [`PRIOR_VERSION`].
    pub version: u32,
    /// Files, ranges and command from which it was made.
    pub provenance: String,
    /// One per kind of history and slip.
    pub kinds: Vec<PriorKind>,
}

/// A prior for chains seen block by block, or for sub-sampled series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PriorKind {
    /// Longest step served, seconds.
    pub max_step_seconds: u64,
    /// Steps between decision and inclusion.
    pub slip: u32,
    /// Start of the fitted policies.
    pub model: Stopping,
    /// Per policy: (slack in units, captured share), ascending.
    pub shares: BTreeMap<String, Vec<(f64, f64)>>,
}

impl TimingPrior {
    /// A prior of one model, without expectations of the policies.
    pub fn of(model: Stopping, max_step_seconds: u64, provenance: &str) -> Self {
        let kind = PriorKind { max_step_seconds, slip: 0, model, shares: BTreeMap::new() };
        Self { version: PRIOR_VERSION, provenance: provenance.to_owned(), kinds: vec![kind] }
    }

    /// The bundled prior, trained on recorded Ethereum history.
    ///
    /// # Errors
    /// [`TimingError::Prior`] if this build carries a broken one.
    #[cfg(feature = "presets")]
    pub fn shipped() -> Result<Self, TimingError> {
        Self::from_json(include_str!("../../../presets/timing-prior.json"))
    }

    /// Parses and checks a prior.
    ///
    /// # Errors
    /// [`TimingError::Prior`] if it is no prior, of another version, or contains invalid numbers.
    pub fn from_json(text: &str) -> Result<Self, TimingError> {
        let prior: Self = serde_json::from_str(text).map_err(|error| TimingError::Prior(error.to_string()))?;
        prior.check()?;
        Ok(prior)
    }

    pub(super) fn check(&self) -> Result<(), TimingError> {
        if self.version != PRIOR_VERSION {
            return Err(TimingError::Prior(format!("version {} instead of {PRIOR_VERSION}", self.version)));
        }
        let is_valid = |kind: &PriorKind| {
            kind.model.is_valid()
                && kind.shares.values().flatten().all(|(slack, share)| *slack > 0.0 && share.is_finite())
        };
        if !self.kinds.iter().all(is_valid) {
            return Err(TimingError::Prior("a number or a size is off".to_owned()));
        }
        Ok(())
    }

    /// The kind for a step: the nearest slip, then the tightest limit.
    pub(super) fn kind(&self, step_seconds: f64, slip: u32) -> Option<&PriorKind> {
        #[expect(clippy::cast_precision_loss, reason = "seconds")]
        let fits = |kind: &&PriorKind| step_seconds <= kind.max_step_seconds as f64;
        self.kinds.iter().filter(fits).min_by_key(|kind| (kind.slip.abs_diff(slip), kind.max_step_seconds))
    }
}

impl PriorKind {
    /// Expected captured share of a policy at a slack.
    pub(super) fn share(&self, policy: &str, units: f64) -> Option<f64> {
        let points = self.shares.get(policy)?;
        let above = points.partition_point(|(slack, _)| *slack <= units);
        if above == 0 {
            return points.first().map(|point| point.1);
        }
        let (low, share) = points[above - 1];
        let Some((high, next)) = points.get(above) else { return Some(share) };
        Some(share + (next - share) * libm::log(units / low) / libm::log(high / low))
    }
}
