//! Throughput of a tenant with a backlog, and the delay it implies for a new promise.

use std::{collections::VecDeque, time::Duration};

use crate::{ordered::Map, time::Timestamp};

/// Blocks over which throughput is measured.
const BLOCKS: usize = 20;

/// Resolution of due-time counts, ms.
const STEP_MS: u64 = 1_000;

/// Number of a tenant's requests that left in each of the last blocks with a backlog: blocks after which urgent
/// requests, which could not wait for a better price, were still waiting.
#[derive(Debug, Clone, Default)]
pub struct TenantPace {
    left: VecDeque<u64>,
}

impl TenantPace {
    /// Records a block: `left` requests left since the previous one, `waiting` urgent requests are still queued. A
    /// block without a backlog (`waiting` 0) is not counted: requests that wait for a better price are no backlog.
    pub fn block(&mut self, left: u64, waiting: u64) {
        if waiting == 0 {
            return;
        }
        if self.left.len() == BLOCKS {
            self.left.pop_front();
        }
        self.left.push_back(left);
    }

    /// Requests that left in 20 blocks; `None` until 20 blocks were measured.
    fn measured(&self) -> Option<u64> {
        (self.left.len() == BLOCKS).then(|| self.left.iter().sum())
    }
}

/// Count of requests whose promise can still be kept, by due time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueCounts(Map<u64, u64>);

impl DueCounts {
    pub(super) fn add(&mut self, due: Timestamp) {
        *self.0.entry(due.0 / STEP_MS).or_default() += 1;
    }

    pub(super) fn take(&mut self, due: Timestamp) {
        let step = due.0 / STEP_MS;
        if let Some(count) = self.0.get_mut(&step) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&step);
            }
        }
    }

    /// Number of requests due until `due`.
    pub fn until(&self, due: Timestamp) -> u64 {
        self.0.range(..=due.0 / STEP_MS).map(|(_, count)| count).sum()
    }
}

/// A tenant's waiting requests and its throughput.
#[derive(Debug, Clone)]
pub struct Backlog {
    left: u64,
    waiting: DueCounts,
}

impl Backlog {
    /// `None` until the throughput is measured.
    pub fn of(pace: &TenantPace, waiting: &DueCounts) -> Option<Self> {
        Some(Self { left: pace.measured()?, waiting: waiting.clone() })
    }

    /// Expected wait of a request due at `due` for the requests of its tenant that are due before it.
    pub fn wait(&self, due: Timestamp, block_time: Duration) -> Duration {
        let ahead = u128::from(self.waiting.until(due));
        let blocks = (ahead * BLOCKS as u128).div_ceil(u128::from(self.left.max(1)));
        block_time.saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_what_is_due_before_at_the_measured_pace() {
        let (mut pace, mut counts) = (TenantPace::default(), DueCounts::default());
        for due in 0..100 {
            counts.add(Timestamp(due * 1_000));
        }
        for block in 0..BLOCKS as u64 {
            assert!(Backlog::of(&pace, &counts).is_none());
            pace.block(block % 2 * 10, 1);
            // Nothing waits: the block is not counted.
            pace.block(1_000, 0);
        }
        let backlog = Backlog::of(&pace, &counts).unwrap();
        let wait = |due_s| backlog.wait(Timestamp::from_secs(due_s), Duration::from_secs(12)).as_secs();
        // Five in each block.
        assert_eq!((wait(0), wait(9), wait(99), wait(1_000)), (12, 24, 240, 240));
        counts.take(Timestamp(5_000));
        assert_eq!(
            Backlog::of(&pace, &counts).unwrap().wait(Timestamp(1_000_000), Duration::from_secs(12)).as_secs(),
            240
        );
    }
}
