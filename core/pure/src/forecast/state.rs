//! Saved state of a forecaster, for the next start.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Forecaster, ModelId, forecaster::Horizon};

/// Online-learned state of a [`Forecaster`]: weights of the experts, coefficients of the online ones, quantiles of
/// errors. Excludes the fitted models (kept by a [`super::ModelRegistry`]) and the recent blocks, which are read again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecasterState {
    /// Identity of the configuration and prior it was learned with; invalid with any other.
    base: ModelId,
    observed: u64,
    last_refit: u64,
    is_drifting: bool,
    horizons: Vec<Horizon>,
}

/// Refusal to import a state. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Learned with another configuration, prior or version.
    #[error("learned with another configuration: {found}, here {here}")]
    Foreign {
        /// Configuration of the state.
        found: ModelId,
        /// Configuration of the forecaster.
        here: ModelId,
    },
    /// Numbers are missing, or there are too many.
    #[error("malformed")]
    Malformed,
}

impl Forecaster {
    /// The state learned so far.
    pub fn export_state(&self) -> ForecasterState {
        ForecasterState {
            base: self.base_id,
            observed: self.observed,
            last_refit: self.last_refit,
            is_drifting: self.is_drifting,
            horizons: self.horizons.iter().map(Horizon::without_open).collect(),
        }
    }

    /// Resumes from a saved state, in a forecaster without observations. Blocks it was learned from must then be given
    /// to [`Self::observe_known`].
    ///
    /// # Errors
    /// [`StateError`]; nothing is changed then.
    pub fn import_state(&mut self, state: ForecasterState) -> Result<(), StateError> {
        if state.base != self.base_id {
            return Err(StateError::Foreign { found: state.base, here: self.base_id });
        }
        let shape = |horizons: &[Horizon]| serde_json::to_value(horizons).map(|value| Shape::of(&value));
        match (shape(&state.horizons), shape(&self.horizons)) {
            (Ok(given), Ok(expected)) if given == expected => {}
            _ => return Err(StateError::Malformed),
        }
        let steps = |horizons: &[Horizon]| horizons.iter().map(|horizon| horizon.steps).collect::<Vec<_>>();
        if steps(&state.horizons) != steps(&self.horizons) || state.last_refit > state.observed {
            return Err(StateError::Malformed);
        }
        self.horizons = state.horizons;
        (self.observed, self.last_refit, self.is_drifting) = (state.observed, state.last_refit, state.is_drifting);
        Ok(())
    }
}

/// Structure of a JSON value, ignoring its numbers. Non-finite numbers (NaN becomes `null`) give another shape.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Number,
    Other,
    List(Vec<Self>),
    Members(Vec<(String, Self)>),
}

impl Shape {
    fn of(value: &Value) -> Self {
        match value {
            Value::Number(_) => Self::Number,
            Value::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Object(members) => {
                Self::Members(members.iter().map(|(name, value)| (name.clone(), Self::of(value))).collect())
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forecast::ForecastConfig,
        market::{FeePoint, Tips, Utilisation},
    };

    fn chain(blocks: u64) -> Vec<FeePoint> {
        let (mut base_fee, mut state) = (20_000_000_000_u128, 11_u64);
        (0..blocks)
            .map(|number| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let used = if base_fee > 30_000_000_000 { 9_000_000 } else { (state >> 39) % 30_000_000 };
                let moved = base_fee * u128::from(used.abs_diff(15_000_000)) / 15_000_000 / 8;
                let next = if used > 15_000_000 { base_fee + moved } else { base_fee - moved };
                FeePoint {
                    number: 100 + number,
                    timestamp: None,
                    base_fee: core::mem::replace(&mut base_fee, next),
                    utilisation: Some(Utilisation::Gas { used, limit: 30_000_000 }),
                    tips: Tips::default(),
                    next_base_fee: Some(next),
                }
            })
            .collect()
    }

    fn fresh() -> Forecaster {
        Forecaster::new(ForecastConfig { horizons: vec![1, 2, 5, 25], ..ForecastConfig::default() }).unwrap()
    }

    /// A restart that rereads the last blocks resumes with the same weights, learns nothing twice, and is not due for a
    /// refit because of the restart.
    #[test]
    fn a_restart_goes_on_where_it_was() {
        let points = chain(1_400);
        let (before, after) = points.split_at(1_300);
        let mut unbroken = fresh();
        before.iter().for_each(|point| unbroken.observe(point));
        unbroken.install(unbroken.refit_job().unwrap().run());
        let text = serde_json::to_string(&unbroken.export_state()).unwrap();
        assert!(text.len() < 60_000, "{} bytes", text.len());
        let fitted = unbroken.fitted().cloned().unwrap();

        let mut restarted = fresh();
        restarted.install(crate::forecast::Refit { fitted });
        restarted.import_state(serde_json::from_str(&text).unwrap()).unwrap();
        before[600..].iter().for_each(|point| restarted.observe_known(point));
        assert_eq!(restarted.model(), unbroken.model());
        for steps in [2, 5, 25] {
            assert_eq!(restarted.weights(steps), unbroken.weights(steps), "{steps} blocks ahead");
            assert_ne!(restarted.weights(steps), fresh().weights(steps));
        }
        assert!(!restarted.refit_due() && !unbroken.refit_due());
        for point in after {
            unbroken.observe(point);
            restarted.observe(point);
        }
        let (one, other) = (unbroken.forecast().unwrap(), restarted.forecast().unwrap());
        for (one, other) in one.horizons.iter().zip(&other.horizons) {
            // The slowest levels remember more blocks than are reread: a tenth of the interval is allowed for that.
            let off = (one.log_point - other.log_point).abs();
            let width = one.log_quantile(0.9) - one.log_quantile(0.1);
            assert!(off <= 0.1 * width, "{} blocks ahead: {off} of {width}", one.steps);
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut learned = fresh();
        chain(500).iter().for_each(|point| learned.observe(point));
        let state = serde_json::to_value(learned.export_state()).unwrap();
        let other = ForecastConfig { horizons: vec![1, 3], ..ForecastConfig::default() };
        let mut other = Forecaster::new(other).unwrap();
        let read = |state: &Value| serde_json::from_value::<ForecasterState>(state.clone());
        assert!(matches!(other.import_state(read(&state).unwrap()), Err(StateError::Foreign { .. })));
        let mut short = state.clone();
        short["horizons"][0]["wide"]["gram"].as_array_mut().unwrap().pop();
        assert_eq!(fresh().import_state(read(&short).unwrap()), Err(StateError::Malformed));
        let mut fewer = state.clone();
        fewer["horizons"].as_array_mut().unwrap().pop();
        assert_eq!(fresh().import_state(read(&fewer).unwrap()), Err(StateError::Malformed));
        let mut none = state.clone();
        none["horizons"][0]["mixture"]["weights"][0] = Value::Null;
        assert!(read(&none).is_err());
        let mut extra = state;
        extra["more"] = Value::Null;
        assert!(read(&extra).is_err());
    }
}
