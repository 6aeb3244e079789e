//! The tips that we paid: the usual tip of the last day bounds the tip that a node can make us offer.

use std::{collections::VecDeque, time::Duration};

use crate::time::Timestamp;

/// Lifetime of a payment.
const WINDOW: Duration = Duration::from_secs(24 * 3_600);
/// Payments needed before a usual tip is known.
const LEAST: usize = 50;
/// Most payments remembered: the newest of the day.
const MOST: usize = 2_048;
/// A learned tip is at most this multiple of the usual tip.
const FACTOR: u128 = 10;

/// Tips of our transactions that were included in the last day, wei per gas.
#[derive(Debug, Clone, Default)]
pub struct PaidTips {
    paid: VecDeque<(Timestamp, u128)>,
}

impl PaidTips {
    /// Records the tip of an included transaction of ours.
    pub fn record(&mut self, now: Timestamp, tip: u128) {
        if self.paid.len() == MOST {
            self.paid.pop_front();
        }
        self.paid.push_back((now, tip));
        self.forget(now);
    }

    /// Discards payments older than a day.
    pub fn forget(&mut self, now: Timestamp) {
        while self.paid.front().is_some_and(|(at, _)| now.since(*at) > WINDOW) {
            self.paid.pop_front();
        }
    }

    /// Upper bound of a learned tip: ten times the larger of the median and `least_tip`. `None` while fewer than 50
    /// payments are known: at 49 there is no bound, at 50 payments of 1 gwei it is 10 gwei.
    pub fn bound(&self, least_tip: u128) -> Option<u128> {
        if self.paid.len() < LEAST {
            return None;
        }
        let mut tips: Vec<u128> = self.paid.iter().map(|(_, tip)| *tip).collect();
        let middle = tips.len() / 2;
        let (_, median, _) = tips.select_nth_unstable(middle);
        Some((*median).max(least_tip).max(1).saturating_mul(FACTOR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn a_learned_tip_stays_near_what_was_paid() {
        let mut paid = PaidTips::default();
        let at = |second: u64| Timestamp(second * 1_000);
        for second in 0..49 {
            paid.record(at(second), GWEI);
        }
        assert_eq!(paid.bound(1), None, "nothing is usual yet");
        paid.record(at(49), 500 * GWEI);
        assert_eq!(paid.bound(1), Some(10 * GWEI), "one dear one changes nothing");
        assert_eq!(paid.bound(3 * GWEI), Some(30 * GWEI), "the chain's least tip counts where it is larger");
        paid.forget(at(24 * 3_600 + 1));
        assert_eq!(paid.bound(1), None, "the day is over");
    }

    #[test]
    fn memory_is_bounded() {
        let mut paid = PaidTips::default();
        for tip in 0..10_000 {
            paid.record(Timestamp(1), tip);
        }
        assert_eq!(paid.paid.len(), MOST);
    }
}
