//! Persisted state of the timing.

use serde::{Deserialize, Serialize};

use super::{Stopping, Timing, TimingError, machine::ClassState};

/// Version of the format and of the meaning of its fields.
const FORMAT: u32 = 1;

/// Learned state of a [`Timing`]: outcomes of the policies by slack class, and the fitted value of waiting. Excludes
/// the recent points, which are read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingState {
    format: u32,
    step_ms: u64,
    slip: u32,
    policies: Vec<String>,
    /// New points until the next fit.
    until_fit: u64,
    model: Option<Stopping>,
    classes: Vec<ClassOutcomes>,
}

/// Outcomes of one slack class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassOutcomes {
    slack: usize,
    gains: Vec<f64>,
    available: f64,
    total_gains: Vec<f64>,
    total_available: f64,
    complete: u64,
}

impl Timing {
    fn step_ms(&self) -> u64 {
        u64::try_from(self.config.step.as_millis()).unwrap_or(u64::MAX)
    }

    fn policy_names(&self) -> Vec<String> {
        self.policies.iter().map(ToString::to_string).collect()
    }

    /// Learned state so far.
    pub fn export_state(&self) -> TimingState {
        let outcomes = |class: &ClassState| ClassOutcomes {
            slack: class.experts.slack,
            gains: class.experts.gains.clone(),
            available: class.experts.available,
            total_gains: class.experts.totals.0.clone(),
            total_available: class.experts.totals.1,
            complete: class.experts.totals.2,
        };
        TimingState {
            format: FORMAT,
            step_ms: self.step_ms(),
            slip: self.config.slip,
            policies: self.policy_names(),
            until_fit: self.next_fit.saturating_sub(self.now),
            model: self.model.clone(),
            classes: self.classes.iter().map(outcomes).collect(),
        }
    }

    /// Resumes from saved state, in a timing without observations. Give the points from which it was learned to
    /// [`Self::observe_known`] afterwards. Slack classes that are no longer configured are discarded, new ones start
    /// from the prior.
    ///
    /// # Errors
    /// [`TimingError::State`]; nothing is changed then.
    pub fn import_state(&mut self, state: TimingState) -> Result<(), TimingError> {
        if state.format != FORMAT {
            return Err(TimingError::State("another format"));
        }
        if (state.step_ms, state.slip) != (self.step_ms(), self.config.slip) {
            return Err(TimingError::State("learned with another step or slip"));
        }
        if state.policies != self.policy_names() {
            return Err(TimingError::State("other policies"));
        }
        let policies = self.policies.len();
        let is_whole = |class: &ClassOutcomes| {
            class.gains.len() == policies && class.total_gains.len() == policies && class.available >= 0.0
        };
        if !state.classes.iter().all(is_whole) || state.model.as_ref().is_some_and(|model| !model.is_valid()) {
            return Err(TimingError::State("malformed"));
        }
        for learned in state.classes {
            let Some(class) = self.classes.iter_mut().find(|class| class.experts.slack == learned.slack) else {
                continue;
            };
            class.experts.gains = learned.gains;
            class.experts.available = learned.available;
            class.experts.totals = (learned.total_gains, learned.total_available, learned.complete);
            class.experts.reweigh();
        }
        if state.model.is_some() {
            self.model = state.model;
        }
        self.next_fit = self.now.saturating_add(state.until_fit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        market::{FeePoint, Tips},
        schedule::timing::TimingConfig,
    };

    fn fresh(slacks: &[u32]) -> Timing {
        let step = Duration::from_secs(12);
        Timing::new(TimingConfig { step, slacks: slacks.to_vec(), slip: 0, seed: 1, prior: None }).unwrap()
    }

    fn chain(points: u64) -> Vec<FeePoint> {
        let mut state = 5_u64;
        (0..points)
            .map(|number| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let wave = if number / 60 % 2 == 0 { 20 } else { 30 };
                let base_fee = 1_000_000 * u128::from(wave * 100 + (state >> 33) % 900);
                FeePoint {
                    number,
                    timestamp: None,
                    base_fee,
                    utilisation: None,
                    tips: Tips::default(),
                    next_base_fee: None,
                }
            })
            .collect()
    }

    #[test]
    fn a_restart_goes_on_with_the_same_weights() {
        let points = chain(1_500);
        let (before, after) = points.split_at(1_400);
        let mut unbroken = fresh(&[5, 25, 150]);
        before.iter().for_each(|point| unbroken.observe(point));
        let fitted = unbroken.refit_job().run();
        unbroken.install(fitted);
        let text = serde_json::to_string(&unbroken.export_state()).unwrap();
        let mut restarted = fresh(&[5, 25, 150]);
        restarted.import_state(serde_json::from_str(&text).unwrap()).unwrap();
        before[400..].iter().for_each(|point| restarted.observe_known(point));
        for slack in [5, 25, 150] {
            assert_eq!(restarted.weights(slack), unbroken.weights(slack), "slack {slack}");
            assert_eq!(restarted.captured(slack), unbroken.captured(slack), "slack {slack}");
            assert_ne!(restarted.weights(slack), fresh(&[5, 25, 150]).weights(slack));
        }
        assert_eq!(restarted.refit_due(), unbroken.refit_due());
        for point in after {
            unbroken.observe(point);
            restarted.observe(point);
        }
        for slack in [5, 25, 150] {
            let pairs = restarted.weights(slack).into_iter().zip(unbroken.weights(slack));
            for ((policy, one), (_, other)) in pairs {
                assert!((one - other).abs() < 0.05, "slack {slack}, {policy}: {one} {other}");
            }
        }
    }

    #[test]
    fn classes_may_change_and_what_does_not_fit_changes_nothing() {
        let mut learned = fresh(&[5, 25]);
        chain(600).iter().for_each(|point| learned.observe(point));
        let state = learned.export_state();
        let mut other = fresh(&[25, 50]);
        other.import_state(state.clone()).unwrap();
        assert_eq!(other.weights(25), learned.weights(25));
        assert_eq!(other.weights(50), fresh(&[25, 50]).weights(50));
        let refuses = |state: TimingState| {
            let mut timing = fresh(&[5, 25]);
            let refused = timing.import_state(state).is_err();
            assert_eq!(timing.weights(5), fresh(&[5, 25]).weights(5));
            refused
        };
        assert!(refuses(TimingState { format: 2, ..state.clone() }));
        assert!(refuses(TimingState { step_ms: 1, ..state.clone() }));
        assert!(refuses(TimingState { policies: vec!["now".to_owned()], ..state.clone() }));
        let mut short = state;
        short.classes[0].gains.pop();
        assert!(refuses(short));
    }
}
