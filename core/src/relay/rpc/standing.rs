//! Selection of the followed head: the height that most of the advancing nodes have reached. Pure.

use std::time::Duration;

use crate::protection::Protection;

/// Least tolerance, in blocks, for a node behind or ahead of the others.
const LEAST_TOLERANCE_BLOCKS: u64 = 3;

/// Tolerance, in time, for a node behind or ahead of the others on chains with short blocks.
const TOLERANCE: Duration = Duration::from_secs(3);

/// Block times without a new head after which a node counts as stalled while others advance; never before
/// [`TOLERANCE`].
const FROZEN_BLOCKS: u32 = 4;

/// Plausible lead of a head's timestamp over our clock, seconds.
const CLOCK_TOLERANCE_S: u64 = 15;

/// A node's newest block, as it reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct OwnHead {
    /// Height.
    pub(in crate::relay) number: u64,
    /// Its timestamp, seconds; `None` if the node did not report it.
    pub(in crate::relay) timestamp_s: Option<u64>,
    /// Time since its last increase.
    pub(in crate::relay) since_rise: Duration,
}

/// Position of a node's head relative to the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::relay) enum Place {
    /// With the others, or unknown.
    #[default]
    With,
    /// Far behind, and advancing.
    Behind,
    /// Far behind, and stalled.
    Frozen,
    /// Ahead of the others by more than the tolerance.
    Ahead,
}

impl Place {
    /// Name in logs, metrics and the API.
    pub(in crate::relay) const fn as_str(self) -> &'static str {
        match self {
            Self::With => "with_the_others",
            Self::Behind => "behind",
            Self::Frozen => "frozen",
            Self::Ahead => "ahead",
        }
    }
}

/// Tolerance between heads on a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct HeadRule {
    block: Duration,
    tolerance: u64,
    frozen_after: Duration,
}

impl HeadRule {
    /// The rule of a chain with this time between blocks.
    pub(in crate::relay) fn new(block: Duration) -> Self {
        let block = block.max(Duration::from_millis(1));
        let blocks = TOLERANCE.as_millis().div_ceil(block.as_millis());
        Self {
            block,
            tolerance: u64::try_from(blocks).unwrap_or(u64::MAX).max(LEAST_TOLERANCE_BLOCKS),
            frozen_after: (block * FROZEN_BLOCKS).max(TOLERANCE),
        }
    }

    /// Tolerated distance of a head from the others', blocks.
    pub(in crate::relay) const fn tolerance(&self) -> u64 {
        self.tolerance
    }

    /// The height that most of the advancing nodes have reached; all nodes count while none advances. With an even
    /// number it is the higher of the two middle heights, if plausible, because nodes lag more often than they lie.
    pub(in crate::relay) fn reference(&self, heads: &[OwnHead], now_s: u64) -> Option<u64> {
        if !Protection::OthersHeads.is_on() {
            return heads.iter().map(|head| head.number).max();
        }
        let moving = heads.iter().filter(|head| head.since_rise <= self.frozen_after);
        let mut counted: Vec<OwnHead> = moving.copied().collect();
        if counted.is_empty() {
            counted = heads.to_vec();
        }
        counted.sort_unstable_by_key(|head| std::cmp::Reverse(head.number));
        let lower = counted.get(counted.len() / 2)?;
        let higher = counted.len().is_multiple_of(2).then(|| counted[counted.len() / 2 - 1]);
        let higher = higher.filter(|higher| self.is_plausible(higher, lower, now_s));
        Some(higher.map_or(lower.number, |higher| higher.number))
    }

    /// True if a chain at `lower` can have reached `higher`: its blocks take their time, and none comes from the
    /// future.
    fn is_plausible(&self, higher: &OwnHead, lower: &OwnHead, now_s: u64) -> bool {
        let blocks = higher.number - lower.number;
        if blocks <= self.tolerance {
            return true;
        }
        let (Some(later), Some(earlier)) = (higher.timestamp_s, lower.timestamp_s) else { return false };
        let took_ms = u128::from(later.saturating_sub(earlier)) * 1_000;
        // Blocks may come faster than their block time, but on average at most four times as fast.
        let needed_ms = self.block.as_millis() * u128::from(blocks) / 4;
        took_ms >= needed_ms && later <= now_s.saturating_add(CLOCK_TOLERANCE_S)
    }

    /// Position of a node's head relative to `reference`.
    pub(in crate::relay) fn place(&self, head: &OwnHead, reference: u64) -> Place {
        if head.number > reference.saturating_add(self.tolerance) {
            Place::Ahead
        } else if head.number < reference && head.since_rise > self.frozen_after {
            Place::Frozen
        } else if head.number.saturating_add(self.tolerance) < reference {
            Place::Behind
        } else {
            Place::With
        }
    }

    /// Latest possible time of the block at `number` for a node with newest block `head` (number, time), seconds: that
    /// block's own time, or an extrapolation from it if `number` is higher.
    pub(in crate::relay) fn latest_time_s(&self, head: (u64, u64), number: u64) -> u64 {
        let (own, time_s) = head;
        match number.checked_sub(own) {
            None | Some(0) => time_s,
            // One more block time, since a slot may be missed.
            Some(blocks) => {
                let ms = self.block.as_millis().saturating_mul(u128::from(blocks.saturating_add(1)));
                time_s.saturating_add(u64::try_from(ms.div_ceil(1_000)).unwrap_or(u64::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: HeadRule =
        HeadRule { block: Duration::from_secs(1), tolerance: 3, frozen_after: Duration::from_secs(4) };
    const NOW_S: u64 = 1_800_000_000;

    /// A node at `number`, with the timestamp due if the chain is at 1 000 now, that last advanced `rose_s` seconds
    /// ago.
    fn head(number: u64, rose_s: u64) -> OwnHead {
        let timestamp_s = Some((NOW_S + number).saturating_sub(1_000));
        OwnHead { number, timestamp_s, since_rise: Duration::from_secs(rose_s) }
    }

    fn check(heads: &[OwnHead], reference: u64, places: &[Place]) {
        assert_eq!(SECOND.reference(heads, NOW_S), Some(reference), "{heads:?}");
        let found: Vec<Place> = heads.iter().map(|head| SECOND.place(head, reference)).collect();
        assert_eq!(found, places, "{heads:?}");
    }

    #[test]
    fn a_node_that_stands_still_decides_nothing() {
        use Place::{Behind, Frozen, With};
        check(&[head(900, 100), head(1_000, 0)], 1_000, &[Frozen, With]);
        check(&[head(999, 3), head(1_000, 0)], 1_000, &[With, With]);
        check(&[head(900, 100), head(900, 100), head(1_000, 0)], 1_000, &[Frozen, Frozen, With]);
        check(&[head(700, 0), head(1_000, 0)], 1_000, &[Behind, With]);
        check(&[head(700, 0), head(999, 0), head(1_000, 0)], 999, &[Behind, With, With]);
        // On a stalled chain no node counts as stalled.
        check(&[head(1_000, 100), head(1_000, 90)], 1_000, &[With, With]);
        check(&[head(1_000, 100)], 1_000, &[With]);
    }

    #[test]
    fn a_node_that_runs_ahead_decides_nothing() {
        use Place::{Ahead, With};
        check(&[head(5_000, 0), head(1_000, 0), head(1_000, 0)], 1_000, &[Ahead, With, With]);
        // With two nodes: blocks more than four times too fast, or from the future.
        let hurried = OwnHead { timestamp_s: Some(NOW_S), ..head(5_000, 0) };
        check(&[hurried, head(1_000, 0)], 1_000, &[Ahead, With]);
        check(&[head(1_100, 0), head(1_000, 0)], 1_000, &[Ahead, With]);
        let timeless = OwnHead { timestamp_s: None, ..head(1_000, 0) };
        check(&[timeless, head(900, 0)], 900, &[Ahead, With]);
    }

    #[test]
    fn a_quick_chain_is_given_time_not_blocks() {
        let quick = HeadRule::new(Duration::from_millis(250));
        assert_eq!((quick.tolerance, quick.frozen_after), (12, Duration::from_secs(3)));
        let slow = HeadRule::new(Duration::from_secs(12));
        assert_eq!((slow.tolerance, slow.frozen_after), (3, Duration::from_secs(48)));
    }

    #[test]
    fn a_block_is_no_later_than_a_node_behind_can_say() {
        assert_eq!(SECOND.latest_time_s((100, 5_000), 100), 5_000);
        assert_eq!(SECOND.latest_time_s((101, 5_001), 100), 5_001);
        assert_eq!(SECOND.latest_time_s((98, 4_998), 100), 5_001);
    }
}
