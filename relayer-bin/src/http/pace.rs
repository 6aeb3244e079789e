//! Rate limits in constant memory: a generic cell rate per caller, and a fixed table of them for callers that can be
//! made up at will, such as addresses.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Cells of a table. Two addresses that hash to the same cell share its rate; an attacker can't choose which, because
/// the hash has a random key. 128 KiB.
const CELLS: usize = 1 << 14;

/// A rate limit with bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    interval_ns: u64,
    burst_ns: u64,
}

impl Pace {
    /// `per_s` calls per second, up to `burst` at once.
    pub(crate) fn new(per_s: NonZeroU32, burst: NonZeroU32) -> Self {
        let interval_ns = 1_000_000_000 / u64::from(per_s.get());
        Self { interval_ns, burst_ns: interval_ns * u64::from(burst.get()) }
    }

    /// Counts one call at `now` (time since any fixed instant). The error is the time to wait.
    pub(crate) fn take(&self, cell: &Cell, now: Duration) -> Result<(), Duration> {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let limit = now.saturating_add(self.burst_ns);
        let mut due = cell.0.load(Ordering::Relaxed);
        loop {
            let next = due.max(now).saturating_add(self.interval_ns);
            if next > limit {
                return Err(Duration::from_nanos(next - limit));
            }
            match cell.0.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

/// Time up to which a caller's calls so far use up its rate, nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

/// Rates by address, in constant memory regardless of the number of callers.
#[derive(Debug)]
pub(crate) struct PaceTable {
    pace: Pace,
    cells: Box<[Cell]>,
    hasher: RandomState,
}

impl PaceTable {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, cells: (0..CELLS).map(|_| Cell::default()).collect(), hasher: RandomState::new() }
    }

    /// As [`Pace::take`], for `caller`.
    pub(crate) fn take(&self, caller: impl Hash, now: Duration) -> Result<(), Duration> {
        let cell = self.hasher.hash_one(caller) as usize % self.cells.len();
        self.pace.take(&self.cells[cell], now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(per_s: u32, burst: u32) -> Pace {
        Pace::new(NonZeroU32::new(per_s).unwrap(), NonZeroU32::new(burst).unwrap())
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (pace, cell) = (pace(10, 5), Cell::default());
        let ms = Duration::from_millis;
        for _ in 0..5 {
            assert_eq!(pace.take(&cell, ms(1_000)), Ok(()));
        }
        assert_eq!(pace.take(&cell, ms(1_000)), Err(ms(100)));
        assert_eq!(pace.take(&cell, ms(1_099)), Err(ms(1)));
        assert_eq!(pace.take(&cell, ms(1_100)), Ok(()));
        assert_eq!(pace.take(&cell, ms(1_100)), Err(ms(100)));
        // Idle time restores the burst, and no more.
        for _ in 0..5 {
            assert_eq!(pace.take(&cell, ms(60_000)), Ok(()));
        }
        assert!(pace.take(&cell, ms(60_000)).is_err());
    }

    #[test]
    fn callers_of_a_table_are_apart() {
        let table = PaceTable::new(pace(1, 2));
        assert_eq!(table.take("a", Duration::ZERO), Ok(()));
        assert_eq!(table.take("a", Duration::ZERO), Ok(()));
        assert!(table.take("a", Duration::ZERO).is_err());
        let others = (0..100).filter(|other: &u32| table.take(other, Duration::ZERO).is_ok()).count();
        assert!(others > 90, "{others}");
    }
}
