//! The minimum tip of the nodes, and the upper bound of a tip.

use std::time::Duration;

use crate::time::Timestamp;

/// Lifetime of a learned minimum.
const DEMAND_LASTS: Duration = Duration::from_secs(3_600);
/// The ceiling is at least this multiple of the chain's minimum tip.
const CEILING_TIMES: u128 = 4;

/// Minimum tip that nodes accept. Pure: answers and time in, prices out.
///
/// Fee history does not show a node's minimum tip, and builders may ask for more than pools do; refusals, and the tips
/// accepted after them, do show it. A learned minimum is one node's claim or a guess that worked; so it is bounded by
/// [`tip_bound`] and expires after an hour.
#[derive(Debug, Clone, Default)]
pub struct LeastTip {
    demanded: Option<(u128, Timestamp)>,
    /// Highest refused tip and the time of the last refusal.
    refused: Option<(u128, Timestamp)>,
}

impl LeastTip {
    /// Nodes refused `tip`; `hint` is the minimum they named, if any.
    pub fn refused(&mut self, now: Timestamp, tip: u128, hint: Option<u128>) {
        let before = self.refused.filter(|(_, at)| now.since(*at) < DEMAND_LASTS);
        self.refused = Some((before.map_or(tip, |(before, _)| before.max(tip)), now));
        if let Some(wanted) = hint.filter(|wanted| *wanted > tip) {
            self.demanded = Some((wanted, now));
        }
    }

    /// A node accepted `tip`: if lower tips were refused, `tip` becomes the minimum.
    pub fn taken(&mut self, now: Timestamp, tip: u128) {
        match self.refused {
            Some((refused, _)) if refused < tip => {
                self.refused = None;
                self.demand(now, tip);
            }
            // A tip refused earlier is accepted again.
            Some(_) => (self.refused, self.demanded) = (None, None),
            None => {}
        }
    }

    /// A block included `tip` and left out lower tips.
    pub fn demand(&mut self, now: Timestamp, tip: u128) {
        self.demanded = Some((tip, now));
    }

    /// Learned minimum tip, wei per gas; 0 if none is known.
    pub fn demanded(&self, now: Timestamp) -> u128 {
        self.demanded.filter(|(_, at)| now.since(*at) < DEMAND_LASTS).map_or(0, |(tip, _)| tip)
    }
}

/// Upper bound of a learned or demanded tip, wei per gas: the larger of `ceiling` and four times the chain's `least`
/// tip, but at most `usual` ([`PaidTips::bound`](super::PaidTips::bound)), once that is known.
#[must_use]
pub fn tip_bound(least: u128, ceiling: u128, usual: Option<u128>) -> u128 {
    ceiling.max(least.saturating_mul(CEILING_TIMES)).min(usual.unwrap_or(u128::MAX))
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
        assert_eq!(tip_bound(0, 20 * GWEI, None), 20 * GWEI);
        assert_eq!(tip_bound(25 * GWEI, 20 * GWEI, None), 100 * GWEI, "never below four times what the chain asks for");
        assert_eq!(tip_bound(0, 20 * GWEI, Some(10 * GWEI)), 10 * GWEI);
        assert_eq!(tip_bound(3 * GWEI, 200 * GWEI, Some(30 * GWEI)), 30 * GWEI);
    }
}
