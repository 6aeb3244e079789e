//! Outcomes of our own offers, and the urgency of an offer.

use std::time::Duration;

use crate::{chain::Fees, table::Table, time::Timestamp};

/// An offer with its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// Offered tip, wei per gas.
    pub tip: u128,
    /// True if it was included within the wanted number of blocks.
    pub was_included: bool,
}

/// Information from an inclusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inclusion {
    /// Verdict on the tip; `None` unless the tip was decisive.
    pub offer: Option<Judged>,
    /// Time from the nonce's first broadcast until it was seen in a block; `None` if the nonce is not followed.
    pub delay: Option<Duration>,
}

/// The newest offer for one nonce.
#[derive(Debug, Clone, Copy)]
struct Offered {
    index: u32,
    fees: Fees,
    /// Head block number at the broadcast: the next block is its first chance.
    head: u64,
    first_sent: Timestamp,
    missed: u32,
    /// Block at which its missed blocks reached the allowed number; `None` before.
    failed_at: Option<u64>,
}

/// Follows our own attempts from broadcast to inclusion. Pure: blocks and time in, verdicts out.
///
/// A missed block counts against a tip only if the tip was decisive: only for the lowest open nonce of a lane (higher
/// nonces wait for it, whatever they offer) and only if the cap covers that block's base fee with the whole tip. An
/// attempt replaced before it had its chances gives no verdict. Attempts broadcast before a restart are not followed:
/// downtime of the process is no delay of the chain.
///
/// # A worked example
/// Allowed: 2 blocks. Sent at head 100 with cap 50 and tip 2. Block 101 has base fee 49: the tip is cut to 1, no
/// verdict. Blocks 102 and 103 have base fee 40 and do not hold it: failed at 103. Later it is seen in block 103 after
/// all: it missed only one block before that one, so it is no failure, and no success within 2 blocks either: no
/// verdict.
#[derive(Debug, Clone)]
pub struct OfferLog<L> {
    open: Table<(L, u64), Offered>,
    within: u32,
}

impl<L: Ord + Copy> OfferLog<L> {
    /// Offers should be included within `within` blocks; 0 counts as 1.
    pub const fn new(within: u32) -> Self {
        Self { open: Table::new(), within: if within == 0 { 1 } else { within } }
    }

    /// Records that attempt `index` for `nonce` is broadcast at head `head`. Returns the verdict on the attempt that it
    /// replaces. Idempotent for the same attempt.
    pub fn sent(&mut self, lane: L, nonce: u64, index: u32, fees: Fees, head: u64, now: Timestamp) -> Option<Judged> {
        let before = self.open.get(&(lane, nonce)).copied();
        // A later attempt of a nonce that is not followed: its first broadcast time is unknown.
        if before.map_or(index > 0, |before| before.index >= index) {
            return None;
        }
        let first_sent = before.map_or(now, |before| before.first_sent);
        self.open.insert((lane, nonce), Offered { index, fees, head, first_sent, missed: 0, failed_at: None });
        before.filter(|before| before.failed_at.is_some()).map(|before| failure(&before))
    }

    /// Every node refused the attempt: it does not count as an offer. The delay keeps running if an earlier attempt may
    /// be pending.
    pub fn refused(&mut self, lane: L, nonce: u64, index: u32) {
        if index == 0 && self.open.get(&(lane, nonce)).is_some_and(|offered| offered.index == 0) {
            self.open.remove(&(lane, nonce));
        }
    }

    /// Records a block: offers that could have been in it have missed it, unless [`Self::included`] reports otherwise.
    pub fn block(&mut self, number: u64, base_fee: u128) {
        let within = self.within;
        let mut lane = None;
        for ((of, _), offered) in self.open.iter_mut() {
            if lane == Some(*of) {
                continue;
            }
            lane = Some(*of);
            let is_whole = offered.fees.effective_tip(base_fee) == offered.fees.max_priority_fee_per_gas
                && offered.fees.is_includable(base_fee);
            if number > offered.head && is_whole && offered.failed_at.is_none() {
                offered.missed += 1;
                offered.failed_at = (offered.missed >= within).then_some(number);
            }
        }
    }

    /// Records that attempt `index` for `nonce` is in block `number`.
    pub fn included(&mut self, lane: L, nonce: u64, index: u32, number: u64, now: Timestamp) -> Inclusion {
        let Some(offered) = self.open.remove(&(lane, nonce)) else { return Inclusion::default() };
        let delay = Some(now.since(offered.first_sent));
        // An earlier attempt was mined: the newer offer was not decisive.
        if offered.index != index {
            return Inclusion { offer: None, delay };
        }
        let took = number.saturating_sub(offered.head);
        let offer = if took <= u64::from(self.within) {
            Some(Judged { tip: offered.fees.max_priority_fee_per_gas, was_included: true })
        } else {
            offered.failed_at.filter(|at| *at < number).map(|_| failure(&offered))
        };
        Inclusion { offer, delay }
    }

    /// Stops following a settled nonce, whatever its outcome.
    pub fn forget(&mut self, lane: L, nonce: u64) {
        self.open.remove(&(lane, nonce));
    }
}

const fn failure(offered: &Offered) -> Judged {
    Judged { tip: offered.fees.max_priority_fee_per_gas, was_included: false }
}

/// Number of blocks within which an offer should be included: `usual`, or fewer if the deadline leaves fewer besides
/// the `spare` blocks that one bump needs; at least 1.
///
/// Example: blocks of 12 s, `usual` 3, `spare` 4. With 90 s left (7 blocks) it is 3; with 72 s 2; with a minute or less 1.
pub fn urgency_blocks(slack: Duration, block_time: Duration, spare: u64, usual: u32) -> u32 {
    let left = slack.as_millis() / block_time.as_millis().max(1);
    let free = left.saturating_sub(u128::from(spare));
    u32::try_from(free).unwrap_or(u32::MAX).min(usual).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: u8 = 0;

    fn log() -> OfferLog<u8> {
        let mut log = OfferLog::new(2);
        assert_eq!(log.sent(LANE, 7, 0, Fees::new(50, 2), 100, Timestamp(1_000)), None);
        log
    }

    fn verdict(tip: u128, was_included: bool) -> Option<Judged> {
        Some(Judged { tip, was_included })
    }

    #[test]
    fn what_is_in_time_is_a_success() {
        for number in [101, 102] {
            let mut log = log();
            log.block(101, 40);
            log.block(102, 40);
            let seen = log.included(LANE, 7, 0, number, Timestamp(25_000));
            assert_eq!(seen, Inclusion { offer: verdict(2, true), delay: Some(Duration::from_secs(24)) });
            assert_eq!(log.included(LANE, 7, 0, number, Timestamp(26_000)), Inclusion::default(), "once");
        }
    }

    #[test]
    fn what_had_its_chances_is_a_failure_when_it_comes_late_or_is_replaced() {
        let mut late = log();
        (101..=104).for_each(|number| late.block(number, 40));
        assert_eq!(late.included(LANE, 7, 0, 105, Timestamp(2_000)).offer, verdict(2, false));
        let mut replaced = log();
        (101..=102).for_each(|number| replaced.block(number, 40));
        assert_eq!(replaced.sent(LANE, 7, 1, Fees::new(60, 3), 102, Timestamp(2_000)), verdict(2, false));
        assert_eq!(replaced.sent(LANE, 7, 1, Fees::new(60, 3), 103, Timestamp(3_000)), None, "the same bytes again");
        let seen = replaced.included(LANE, 7, 1, 103, Timestamp(4_000));
        assert_eq!(seen, Inclusion { offer: verdict(3, true), delay: Some(Duration::from_secs(3)) });
    }

    #[test]
    fn what_the_tip_did_not_decide_says_nothing() {
        // The worked example.
        let mut example = log();
        example.block(101, 49);
        example.block(102, 40);
        example.block(103, 40);
        assert_eq!(example.included(LANE, 7, 0, 103, Timestamp(2_000)).offer, None);
        // Priced out.
        let mut dear = log();
        (101..110).for_each(|number| dear.block(number, 51));
        assert_eq!(dear.sent(LANE, 7, 1, Fees::new(90, 3), 109, Timestamp(2_000)), None);
        // Behind another nonce, and on another lane.
        let mut behind = log();
        behind.sent(LANE, 8, 0, Fees::new(50, 2), 100, Timestamp(1_000));
        behind.sent(1, 3, 0, Fees::new(50, 2), 100, Timestamp(1_000));
        (101..110).for_each(|number| behind.block(number, 40));
        assert_eq!(behind.included(LANE, 8, 0, 111, Timestamp(2_000)).offer, None);
        assert_eq!(behind.included(1, 3, 0, 111, Timestamp(2_000)).offer, verdict(2, false));
        // An older attempt was mined.
        let mut older = log();
        older.sent(LANE, 7, 1, Fees::new(90, 3), 100, Timestamp(2_000));
        let seen = older.included(LANE, 7, 0, 101, Timestamp(3_000));
        assert_eq!(seen, Inclusion { offer: None, delay: Some(Duration::from_secs(2)) });
        // Refused, or settled otherwise.
        let mut gone = log();
        gone.refused(LANE, 7, 0);
        gone.sent(LANE, 9, 0, Fees::new(50, 2), 100, Timestamp(1_000));
        gone.forget(LANE, 9);
        assert_eq!(gone.included(LANE, 7, 0, 101, Timestamp(2_000)), Inclusion::default());
        assert_eq!(gone.included(LANE, 9, 0, 101, Timestamp(2_000)), Inclusion::default());
    }

    #[test]
    fn a_tight_deadline_leaves_fewer_blocks() {
        let slot = Duration::from_secs(12);
        let at = |seconds| urgency_blocks(Duration::from_secs(seconds), slot, 4, 3);
        assert_eq!([at(0), at(60), at(71), at(72), at(84), at(90), at(86_400)], [1, 1, 1, 2, 3, 3, 3]);
        assert_eq!(urgency_blocks(Duration::MAX, Duration::ZERO, 0, 0), 1);
    }
}
