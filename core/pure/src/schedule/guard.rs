//! The guard time before a deadline, fee cap and tip, from measured inclusion.

use std::{collections::VecDeque, time::Duration};

/// Guard time: the latest point before a deadline at which a request must be sent, from measured inclusion delays.
///
/// With n delays the estimate of p99.9 is the largest of them until n = 1 000; because a small sample has hardly seen
/// the tail, it is stretched by 1 + 10 / √n and never below the configured start until 100 were measured. The blocks
/// that one bump needs are added. Example: 400 delays, the largest 30 s, blocks of 12 s and 2 blocks for a bump: 30 ·
/// (1 + 10 / 20) + 24 = 69 s.
#[derive(Debug, Clone)]
pub struct GuardTime {
    delays: VecDeque<Duration>,
    start: Duration,
    block_time: Duration,
    bump_blocks: u32,
}

impl GuardTime {
    /// Delays kept: enough for a p99.9 that forgets last month.
    const CAPACITY: usize = 10_000;
    /// Number of delays below which the configured start still counts.
    const TRUSTED: usize = 100;

    /// `start` is the lower bound until enough delays are measured; a bump is noticed and included within
    /// `bump_blocks`.
    pub const fn new(start: Duration, block_time: Duration, bump_blocks: u32) -> Self {
        Self { delays: VecDeque::new(), start, block_time, bump_blocks }
    }

    /// Records the delay of one inclusion.
    pub fn record(&mut self, delay: Duration) {
        if self.delays.len() == Self::CAPACITY {
            self.delays.pop_front();
        }
        self.delays.push_back(delay);
    }

    /// Measured delays, oldest first; at most the last 10 000.
    pub fn delays(&self) -> impl ExactSizeIterator<Item = Duration> + '_ {
        self.delays.iter().copied()
    }

    /// The guard time.
    pub fn estimate(&self) -> Duration {
        let bump = self.block_time.saturating_mul(self.bump_blocks);
        let count = self.delays.len();
        if count == 0 {
            return self.start.saturating_add(bump);
        }
        let mut sorted: Vec<Duration> = self.delays.iter().copied().collect();
        sorted.sort_unstable();
        // Delay exceeded by one in a thousand: with 10 000, the tenth largest.
        let tail = sorted[count - 1 - (count / 1_000).min(count - 1).saturating_sub(usize::from(count >= 1_000))];
        #[expect(clippy::cast_precision_loss, reason = "at most 10 000")]
        let stretch = 1.0 + 10.0 / libm::sqrt(count as f64);
        let seconds = (tail.as_secs_f64() * stretch).min(1e9);
        let tail = Duration::from_secs_f64(seconds);
        let tail = if count < Self::TRUSTED { tail.max(self.start) } else { tail };
        tail.saturating_add(bump)
    }
}

/// The smallest fee cap that keeps P(included by the deadline) at or above `target`; wei per gas.
///
/// `upper(q)` is the quantile q of the base fee at the deadline, `bound` the highest base fee that the protocol allows
/// by then (EIP-1559: a factor 1.125 per block). The tip is added. Never above `ceiling`; `None` if `ceiling` is below
/// the next block's `base_fee`.
pub fn fee_cap(
    target: f64,
    upper: impl Fn(f64) -> u128,
    bound: u128,
    base_fee: u128,
    tip: u128,
    ceiling: u128,
) -> Option<u128> {
    let quantile = if target.is_finite() { upper(target.clamp(0.0, 1.0)) } else { bound };
    let wanted = quantile.min(bound).max(base_fee).saturating_add(tip);
    (ceiling >= base_fee).then(|| wanted.min(ceiling))
}

/// Smallest tip with the wanted chance of inclusion within a number of blocks.
///
/// Two records count: the smallest included tips of blocks (a tip at or above that would have been included), and the
/// outcomes of our own offers. The tip starts at the quantile of the first and is raised by a quarter for as long as
/// our own offers at or above it did worse than wanted.
#[derive(Debug, Clone)]
pub struct TipEstimator {
    included: VecDeque<u128>,
    own: VecDeque<(u128, bool)>,
    capacity: usize,
}

impl TipEstimator {
    /// Remembers `capacity` blocks and as many of our own offers.
    pub const fn new(capacity: usize) -> Self {
        let capacity = if capacity == 0 { 1 } else { capacity };
        Self { included: VecDeque::new(), own: VecDeque::new(), capacity }
    }

    /// Records the smallest tip (or lowest reward percentile) of a block.
    pub fn record_block(&mut self, smallest_tip: u128) {
        if self.included.len() == self.capacity {
            self.included.pop_front();
        }
        self.included.push_back(smallest_tip);
    }

    /// Records one of our offers; `was_included`: within the wanted number of blocks.
    pub fn record_offer(&mut self, tip: u128, was_included: bool) {
        if self.own.len() == self.capacity {
            self.own.pop_front();
        }
        self.own.push_back((tip, was_included));
    }

    /// The tip for a chance `wanted` of inclusion within `blocks` blocks; `None` before the first block.
    ///
    /// If one block includes a tip with chance p, k blocks include it with 1 − (1 − p)^k: so per block 1 − (1 −
    /// wanted)^(1/k) is enough. Example: 99 % within 2 blocks needs 90 % per block.
    pub fn tip(&self, wanted: f64, blocks: u32) -> Option<u128> {
        let wanted = if wanted.is_finite() { wanted.clamp(0.0, 1.0) } else { 1.0 };
        let per_block = 1.0 - libm::pow(1.0 - wanted, 1.0 / f64::from(blocks.max(1)));
        let mut sorted: Vec<u128> = self.included.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        #[expect(clippy::cast_precision_loss, reason = "windows are short")]
        let rank = libm::ceil(per_block * sorted.len() as f64 - 1e-9);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the window")]
        let mut tip = sorted[(rank as usize).saturating_sub(1).min(last)];
        // Own record, with one prior success and one prior failure: a handful of outcomes decides nothing.
        let highest = self.own.iter().map(|(offered, _)| *offered).max().unwrap_or(0);
        while tip <= highest {
            let same = self.own.iter().filter(|(offered, _)| *offered >= tip && *offered / 5 <= tip / 4);
            let (n, ok) = same.fold((0_u32, 0_u32), |(n, ok), (_, was)| (n + 1, ok + u32::from(*was)));
            if n < 20 || f64::from(ok + 1) / f64::from(n + 2) >= wanted.min(0.95) {
                break;
            }
            tip = tip.saturating_add((tip / 4).max(1));
        }
        Some(tip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn guard_time_is_careful_with_small_samples() {
        let mut guard = GuardTime::new(60 * SECOND, 12 * SECOND, 2);
        assert_eq!(guard.estimate(), 84 * SECOND);
        guard.record(SECOND);
        assert_eq!(guard.estimate(), 84 * SECOND, "one fast inclusion proves nothing");
        (0..398).for_each(|_| guard.record(12 * SECOND));
        guard.record(30 * SECOND);
        assert_eq!(guard.estimate(), 69 * SECOND, "the documented example");
        (0..9_600).for_each(|_| guard.record(12 * SECOND));
        assert_eq!(guard.estimate().as_millis(), 12_000 * 11 / 10 + 24_000, "one of 10 000 is beyond p99.9");
    }

    #[test]
    fn fee_cap_follows_the_quantile_within_its_bounds() {
        let upper = |q: f64| if q > 0.99 { 300 } else { 150 };
        assert_eq!(fee_cap(0.9, upper, 1_000, 100, 2, 10_000), Some(152));
        assert_eq!(fee_cap(0.999, upper, 1_000, 100, 2, 10_000), Some(302));
        assert_eq!(fee_cap(0.999, upper, 200, 100, 2, 10_000), Some(202), "no more than the protocol allows");
        assert_eq!(fee_cap(0.9, |_| 50, 1_000, 100, 2, 10_000), Some(102), "the next block is known");
        assert_eq!(fee_cap(0.9, upper, 1_000, 100, 2, 120), Some(120));
        assert_eq!(fee_cap(0.9, upper, 1_000, 100, 2, 99), None);
        assert_eq!(fee_cap(f64::NAN, upper, u128::MAX, 100, 2, u128::MAX), Some(u128::MAX));
    }

    #[test]
    fn tips_follow_blocks_and_our_own_record() {
        let mut tips = TipEstimator::new(100);
        assert_eq!(tips.tip(0.9, 1), None);
        (1..=100).for_each(|tip| tips.record_block(tip));
        assert_eq!(tips.tip(0.9, 1), Some(90));
        assert_eq!(tips.tip(0.99, 2), Some(90), "90 % per block are 99 % within two");
        assert_eq!(tips.tip(0.99, 1), Some(99));
        assert_eq!(tips.tip(0.0, 1), Some(1));
        (0..40).for_each(|at| tips.record_offer(90, at % 2 == 0));
        assert_eq!(tips.tip(0.9, 1), Some(112), "half of our offers at 90 were left out");
        (0..100).for_each(|_| tips.record_offer(90, true));
        assert_eq!(tips.tip(0.9, 1), Some(90));
    }

    #[test]
    fn free_blocks_need_no_tip() {
        let mut tips = TipEstimator::new(10);
        (0..30).for_each(|_| tips.record_block(0));
        assert_eq!(tips.tip(0.99, 1), Some(0));
        (0..30).for_each(|_| tips.record_offer(u128::MAX, false));
        assert!(tips.tip(1.0, 0).is_some());
    }
}
