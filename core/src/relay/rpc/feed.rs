//! Latest heads reported by subscriptions: hints for poll timing, never evidence.

use std::collections::BTreeMap;

use alloy_primitives::B256;
use tokio::time::Instant;

/// Heads reported by the open subscriptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::relay) struct HeadFeed {
    told: Option<(u64, B256)>,
    voices: BTreeMap<usize, Voice>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Voice {
    at: Instant,
    number: u64,
}

impl HeadFeed {
    /// The last reported head, from any subscription; `None` before the first.
    pub(in crate::relay) const fn told(&self) -> Option<(u64, B256)> {
        self.told
    }

    /// Time of the last head from a subscription that is still open; `None` without one.
    pub(in crate::relay) fn heard(&self) -> Option<Instant> {
        self.voices.values().map(|voice| voice.at).max()
    }

    /// The highest of the open subscriptions' last heads; `None` without one.
    pub(in crate::relay) fn highest(&self) -> Option<u64> {
        self.voices.values().map(|voice| voice.number).max()
    }

    /// Records a head from the subscription at node `place`. Returns false if it repeats the last reported head.
    pub(in crate::relay) fn tell(&mut self, place: usize, number: u64, hash: B256, now: Instant) -> bool {
        self.voices.insert(place, Voice { at: now, number });
        let is_new = self.told != Some((number, hash));
        self.told = Some((number, hash));
        is_new
    }

    /// Records the end of the subscription at node `place`. Returns true if it had reported a head.
    pub(in crate::relay) fn end(&mut self, place: usize) -> bool {
        self.voices.remove(&place).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_head_that_all_tell_wakes_once() {
        let (mut feed, now) = (HeadFeed::default(), Instant::now());
        let hash = B256::repeat_byte;
        assert!(feed.heard().is_none() && feed.highest().is_none());
        assert!(feed.tell(0, 7, hash(7), now));
        assert!(!feed.tell(1, 7, hash(7), now + Duration::from_secs(1)));
        assert_eq!(feed.heard(), Some(now + Duration::from_secs(1)));
        assert!(feed.tell(0, 7, hash(8), now), "another block of the same height is news");
        assert!(feed.tell(1, 9, hash(9), now));
        assert_eq!((feed.highest(), feed.told()), (Some(9), Some((9, hash(9)))));
        // A closed subscription no longer counts.
        assert!(feed.end(1) && !feed.end(1));
        assert_eq!((feed.highest(), feed.heard()), (Some(7), Some(now)));
        assert!(feed.end(0) && feed.heard().is_none());
    }
}
