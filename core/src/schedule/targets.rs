//! What targets that no policy names have shown on chain: how much company their requests get.
//!
//! A contract can behave in every simulation and burn all gas on chain, so its past says little about its next transaction. It
//! bounds what is risked: after `n` clean transactions its requests travel with those of `n` more signers, all of one tenant,
//! whose budget pays.

use std::collections::{HashMap, VecDeque};

use alloy_primitives::Address;

/// Targets that are remembered. One that is forgotten is new again.
const MAX_TARGETS: usize = 10_000;

/// Clean transactions by target.
#[derive(Debug, Default)]
pub(super) struct TargetRecords {
    clean: HashMap<Address, usize>,
    /// Oldest first, for forgetting.
    order: VecDeque<Address>,
}

impl TargetRecords {
    pub(super) fn ran(&mut self, target: Address, is_clean: bool) {
        if !is_clean {
            if let Some(runs) = self.clean.get_mut(&target) {
                *runs = 0;
            }
            return;
        }
        if let Some(runs) = self.clean.get_mut(&target) {
            *runs = runs.saturating_add(1);
            return;
        }
        if self.order.len() >= MAX_TARGETS
            && let Some(oldest) = self.order.pop_front()
        {
            self.clean.remove(&oldest);
        }
        self.order.push_back(target);
        self.clean.insert(target, 1);
    }

    pub(super) fn unran(&mut self, target: Address) {
        if let Some(runs) = self.clean.get_mut(&target) {
            *runs = runs.saturating_sub(1);
        }
    }

    /// Signers beyond the first with whom requests to `target` may share a transaction.
    pub(super) fn further_signers(&self, target: Address) -> usize {
        self.clean.get(&target).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn company_grows_with_clean_runs_and_ends_with_a_surprise() {
        let (target, mut records) = (Address::repeat_byte(1), TargetRecords::default());
        assert_eq!(records.further_signers(target), 0);
        for _ in 0..3 {
            records.ran(target, true);
        }
        assert_eq!(records.further_signers(target), 3);
        records.unran(target);
        assert_eq!(records.further_signers(target), 2);
        records.ran(target, false);
        assert_eq!(records.further_signers(target), 0);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut records = TargetRecords::default();
        let target = |n: usize| Address::from_word(alloy_primitives::U256::from(n).into());
        for n in 0..=MAX_TARGETS {
            records.ran(target(n), true);
        }
        assert_eq!((records.further_signers(target(0)), records.further_signers(target(1))), (0, 1));
        assert_eq!((records.clean.len(), records.order.len()), (MAX_TARGETS, MAX_TARGETS));
    }
}
