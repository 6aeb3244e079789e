//! Allocation of simulations among tenants at a head.

use std::{sync::Arc, time::Duration};

use crate::{ordered::Map, time::Timestamp};

/// Batch simulations at one head: limited by `chain.simulations_per_head`, with a share by weight for each tenant.
/// Unused shares are redistributed.
#[derive(Debug, Default)]
pub struct SimulationTurns {
    head: Option<u64>,
    began: Timestamp,
    limit: u32,
    /// Sum of all tenants' weights.
    weights: u64,
    used: Map<Arc<str>, u32>,
    sum: u32,
    /// True once exhaustion was reported.
    is_told: bool,
}

impl SimulationTurns {
    /// Resets at a new head, or after `patience` without one, since a chain with blocks on demand has none while
    /// nothing is sent; takes the current sum of all tenants' weights.
    pub fn at(
        &mut self,
        now: Timestamp,
        head: Option<u64>,
        patience: Duration,
        limit: u32,
        weights: impl FnOnce() -> u64,
    ) {
        if self.head != head || self.weights == 0 || now.since(self.began) >= patience {
            *self = Self { head, began: now, limit, weights: weights().max(1), ..Self::default() };
        }
    }

    /// True if none is left until the next head.
    pub const fn is_over(&self) -> bool {
        self.sum >= self.limit
    }

    /// True if exhaustion is to be reported: once at each head.
    pub const fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.is_told, true)
    }

    /// Counts a simulation of this tenant.
    pub fn take(&mut self, tenant: &Arc<str>) {
        *self.used.entry(Arc::clone(tenant)).or_default() += 1;
        self.sum = self.sum.saturating_add(1);
    }

    /// Tenants that have used up their share by weight: others go first. A share is at least one.
    pub fn satisfied(&self, weight: impl Fn(&str) -> u32) -> Vec<String> {
        let has_its_share = |tenant: &str, used: u32| {
            let share = u64::from(self.limit).saturating_mul(u64::from(weight(tenant))) / self.weights.max(1);
            u64::from(used) >= share.max(1)
        };
        let satisfied = self.used.iter().filter(|(tenant, used)| has_its_share(tenant, **used));
        satisfied.map(|(tenant, _)| tenant.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn names(turns: &SimulationTurns) -> Vec<String> {
        turns.satisfied(|tenant| if tenant == "large" { 3 } else { 1 })
    }

    #[test]
    fn each_has_its_share_and_the_rest_goes_round() {
        let mut turns = SimulationTurns::default();
        let [large, small]: [Arc<str>; 2] = ["large".into(), "small".into()];
        turns.at(Timestamp(0), Some(1), PATIENCE, 8, || 4);
        for _ in 0..2 {
            turns.take(&small);
        }
        assert_eq!(names(&turns), ["small"], "two of eight are its quarter");
        for _ in 0..5 {
            turns.take(&large);
        }
        assert_eq!((names(&turns), turns.is_over()), (vec!["small".to_owned()], false));
        turns.take(&large);
        assert_eq!((names(&turns).len(), turns.is_over()), (2, true));
        turns.at(Timestamp(0), Some(1), PATIENCE, 8, || 4);
        assert!(turns.is_over(), "until the next head");
        assert!(turns.tell() && !turns.tell(), "once");
        turns.at(Timestamp(0), Some(2), PATIENCE, 8, || 4);
        assert!(turns.tell());
        assert_eq!((names(&turns).len(), turns.is_over()), (0, false));
        // No other tenant needs any: the rest goes to whoever asks.
        for _ in 0..8 {
            assert!(!turns.is_over());
            turns.take(&small);
        }
        assert!(turns.is_over());
    }

    /// With blocks on demand, a tenant that used all simulations of a head would otherwise stop the chain.
    #[test]
    fn without_a_new_head_they_begin_anew_after_a_while() {
        let mut turns = SimulationTurns::default();
        turns.at(Timestamp(1_000), Some(1), PATIENCE, 1, || 1);
        turns.take(&"a".into());
        turns.at(Timestamp(2_999), Some(1), PATIENCE, 1, || 1);
        assert!(turns.is_over());
        turns.at(Timestamp(3_000), Some(1), PATIENCE, 1, || 1);
        assert!(!turns.is_over());
    }

    #[test]
    fn more_tenants_than_turns_have_one_each() {
        let mut turns = SimulationTurns::default();
        turns.at(Timestamp(0), None, PATIENCE, 2, || 1_000);
        turns.take(&"a".into());
        assert_eq!((names(&turns), turns.is_over()), (vec!["a".to_owned()], false));
        turns.take(&"b".into());
        assert!(turns.is_over());
    }
}
