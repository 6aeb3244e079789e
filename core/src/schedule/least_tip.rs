//! The tip that nodes demand, and how far a tip may be raised.

use std::{collections::VecDeque, time::Duration};

use crate::time::Timestamp;

/// How long what nodes demanded, and what we paid, counts.
const DEMAND_LASTS: Duration = Duration::from_secs(3_600);
const PAID_LASTS: Duration = Duration::from_secs(24 * 3_600);
/// Payments that are remembered, and so many that their median means something.
const PAID_LEN: usize = 1_000;
const PAID_ENOUGH: usize = 50;
/// A learned tip stays below this many times what is usual.
const MOST_TIMES: u128 = 10;
/// The ceiling is never below this many times the chain's least tip.
const CEILING_TIMES: u128 = 4;

/// What nodes demand at the least, and what we paid. Pure: answers and time in, prices out.
///
/// Histories do not show a node's least tip, and builders may ask for more than pools do: refusals, and what was taken after
/// them, do. What is learned here is one node's claim, or a guess that worked; so it is bounded by [`Self::bound`], and
/// forgotten after an hour.
#[derive(Debug, Clone, Default)]
pub struct LeastTip {
    demanded: Option<(u128, Timestamp)>,
    /// Highest tip that was refused, and when.
    refused: Option<(u128, Timestamp)>,
    paid: VecDeque<(Timestamp, u128)>,
}

impl LeastTip {
    /// Nodes refused `tip`; `hint` is what they want, if they say so.
    pub fn refused(&mut self, now: Timestamp, tip: u128, hint: Option<u128>) {
        let before = self.refused.filter(|(_, at)| now.since(*at) < DEMAND_LASTS);
        self.refused = Some((before.map_or(tip, |(before, _)| before.max(tip)), now));
        if let Some(wanted) = hint.filter(|wanted| *wanted > tip) {
            self.demanded = Some((wanted, now));
        }
    }

    /// A node took `tip`: if lower ones were refused, that is what is demanded.
    pub fn taken(&mut self, now: Timestamp, tip: u128) {
        match self.refused {
            Some((refused, _)) if refused < tip => {
                self.refused = None;
                self.demand(now, tip);
            }
            // It is not refused any more.
            Some(_) => (self.refused, self.demanded) = (None, None),
            None => {}
        }
    }

    /// A block took `tip`, and lower ones were left out.
    pub fn demand(&mut self, now: Timestamp, tip: u128) {
        self.demanded = Some((tip, now));
    }

    /// A transaction of ours was included with this tip.
    pub fn paid(&mut self, now: Timestamp, tip: u128) {
        if self.paid.len() == PAID_LEN {
            self.paid.pop_front();
        }
        self.paid.push_back((now, tip));
    }

    /// What nodes demand, wei per gas; 0 if nothing is known.
    pub fn demanded(&self, now: Timestamp) -> u128 {
        self.demanded.filter(|(_, at)| now.since(*at) < DEMAND_LASTS).map_or(0, |(tip, _)| tip)
    }

    /// Most that a learned or demanded tip may be, wei per gas: the `ceiling`, or four times the chain's `least` tip if that is
    /// more; and ten times the larger of `least` and the median of the last day's payments, once there are 50.
    pub fn bound(&self, now: Timestamp, least: u128, ceiling: u128) -> u128 {
        let ceiling = ceiling.max(least.saturating_mul(CEILING_TIMES));
        let mut paid: Vec<u128> =
            self.paid.iter().filter(|(at, _)| now.since(*at) < PAID_LASTS).map(|(_, tip)| *tip).collect();
        if paid.len() < PAID_ENOUGH {
            return ceiling;
        }
        let middle = paid.len() / 2;
        let (_, median, _) = paid.select_nth_unstable(middle);
        ceiling.min((*median).max(least).max(1).saturating_mul(MOST_TIMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn what_is_taken_after_a_refusal_is_demanded_for_an_hour() {
        let mut tips = LeastTip::default();
        let at = Timestamp::from_secs;
        tips.taken(at(1), 5);
        assert_eq!(tips.demanded(at(1)), 0, "nothing was refused");
        tips.refused(at(2), 5, None);
        tips.refused(at(3), 10, None);
        assert_eq!(tips.demanded(at(3)), 0, "nobody said what they want");
        tips.taken(at(4), 20);
        assert_eq!((tips.demanded(at(4)), tips.demanded(at(3_603)), tips.demanded(at(3_604))), (20, 20, 0));
        tips.refused(at(5_000), 1, Some(3 * GWEI));
        assert_eq!(tips.demanded(at(5_000)), 3 * GWEI, "they said so");
        tips.refused(at(5_001), 4 * GWEI, Some(3 * GWEI));
        assert_eq!(tips.demanded(at(5_001)), 3 * GWEI, "a hint below what was refused says nothing");
        tips.taken(at(5_002), 1);
        assert_eq!(tips.demanded(at(5_002)), 0, "less is taken again");
    }

    #[test]
    fn a_tip_is_bounded_by_what_is_usual() {
        let mut tips = LeastTip::default();
        let now = Timestamp::from_secs(100_000);
        assert_eq!(tips.bound(now, 0, 20 * GWEI), 20 * GWEI);
        assert_eq!(tips.bound(now, 25 * GWEI, 20 * GWEI), 100 * GWEI, "never below four times what the chain asks for");
        (0..49).for_each(|_| tips.paid(now, GWEI));
        assert_eq!(tips.bound(now, 0, 20 * GWEI), 20 * GWEI, "a handful proves nothing");
        tips.paid(now, GWEI);
        assert_eq!(tips.bound(now, 0, 20 * GWEI), 10 * GWEI);
        assert_eq!(tips.bound(now, 3 * GWEI, 200 * GWEI), 30 * GWEI);
        assert_eq!(tips.bound(now.saturating_add(PAID_LASTS), 0, 20 * GWEI), 20 * GWEI, "yesterday's");
    }
}
