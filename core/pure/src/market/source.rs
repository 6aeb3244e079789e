//! Reputation of each fee source.

use std::time::Duration;

use crate::Timestamp;

/// Full reputation, in thousandths.
const FULL: u32 = 1_000;

/// Memory of the reputation: it is the share of good blocks over about this many of the last ones.
const MEMORY_BLOCKS: u32 = 16;

/// Reputation below which a source is benched, in thousandths: some seven bad blocks in a row, or every other one.
const BENCH_BELOW: u32 = 600;

/// Reason why a source's block did not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// No answer, a late one, or an invalid one.
    Error,
    /// It lags behind the others by more than allowed.
    Lag,
    /// Its block differs from the majority's.
    Deviation,
}

impl Fault {
    /// Name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Lag => "lag",
            Self::Deviation => "deviation",
        }
    }
}

/// Standing of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its vote counts.
    Active,
    /// Its reports are compared with the others' but have no vote, until enough good blocks in a row.
    Probation {
        /// Number of good blocks still missing.
        missing: u32,
    },
    /// It has no vote.
    Benched {
        /// Start of its probation.
        until: Timestamp,
    },
}

/// Status of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStatus {
    /// Current standing.
    pub standing: Standing,
    /// Share of good blocks among the last, in thousandths; recent blocks weigh more.
    pub reputation_permille: u32,
    /// Number of the newest block that it reported; `None` before the first.
    pub head: Option<u64>,
    /// Smoothed response time.
    pub latency: Duration,
    /// Number of good blocks.
    pub good: u64,
    /// Number of blocks that it failed to report.
    pub errors: u64,
    /// Number of blocks at which it lagged too far.
    pub lags: u64,
    /// Number of blocks at which it differed from the others.
    pub deviations: u64,
    /// Number of times that it was benched.
    pub benchings: u32,
}

impl Default for SourceStatus {
    fn default() -> Self {
        Self {
            standing: Standing::Active,
            reputation_permille: FULL,
            head: None,
            latency: Duration::ZERO,
            good: 0,
            errors: 0,
            lags: 0,
            deviations: 0,
            benchings: 0,
        }
    }
}

/// Rules for the return of benched sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchRule {
    /// First time on the bench; every further one lasts twice as long, up to [`Self::longest`].
    pub first: Duration,
    /// Longest time on the bench.
    pub longest: Duration,
    /// Good blocks in a row that end a probation.
    pub probation_blocks: u32,
}

impl SourceStatus {
    /// True if its vote counts.
    pub const fn is_active(&self) -> bool {
        matches!(self.standing, Standing::Active)
    }

    /// Weight of its vote: its reputation while it is active, else 0.
    pub const fn weight(&self) -> u64 {
        if self.is_active() { self.reputation_permille as u64 } else { 0 }
    }

    pub(super) fn answered(&mut self, head: u64, latency: Duration) {
        self.head = Some(head);
        self.latency = if self.latency.is_zero() { latency } else { (self.latency * 7 + latency) / 8 };
    }

    pub(super) fn wake(&mut self, now: Timestamp, rule: &BenchRule) {
        if let Standing::Benched { until } = self.standing
            && now >= until
        {
            self.standing = Standing::Probation { missing: rule.probation_blocks.max(1) };
        }
    }

    pub(super) fn praise(&mut self) {
        self.good += 1;
        self.reputation_permille = blend(self.reputation_permille, FULL);
        if let Standing::Probation { missing } = &mut self.standing {
            *missing = missing.saturating_sub(1);
            if *missing == 0 {
                self.standing = Standing::Active;
                // Enough to count, low enough that the old fault benches it soon.
                self.reputation_permille = self.reputation_permille.max((FULL + BENCH_BELOW) / 2);
            }
        }
    }

    pub(super) fn blame(&mut self, now: Timestamp, fault: Fault, rule: &BenchRule) {
        match fault {
            Fault::Error => self.errors += 1,
            Fault::Lag => self.lags += 1,
            Fault::Deviation => self.deviations += 1,
        }
        self.reputation_permille = blend(self.reputation_permille, 0);
        let is_benched = match self.standing {
            Standing::Active => self.reputation_permille < BENCH_BELOW,
            Standing::Probation { .. } => true,
            Standing::Benched { .. } => false,
        };
        if is_benched {
            let doublings = self.benchings.min(20);
            let time = rule.first.saturating_mul(1 << doublings).min(rule.longest);
            self.standing = Standing::Benched { until: now.saturating_add(time) };
            self.benchings += 1;
        }
    }
}

/// Exponentially weighted mean with [`MEMORY_BLOCKS`] of memory.
const fn blend(old: u32, new: u32) -> u32 {
    (old * (MEMORY_BLOCKS - 1) + new) / MEMORY_BLOCKS
}
