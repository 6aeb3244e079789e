//! How far each fee source is believed.

use std::time::Duration;

use crate::Timestamp;

/// Full reputation, in thousandths.
const FULL: u32 = 1_000;

/// What the reputation follows: the share of good blocks over about so many of the last ones.
const MEMORY_BLOCKS: u32 = 16;

/// Reputation below which a source is benched, in thousandths: some seven bad blocks in a row, or every other one.
const BENCH_BELOW: u32 = 600;

/// Why a source's block did not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// It did not answer, or not in time, or nonsense.
    Error,
    /// It is further behind the others than allowed.
    Lag,
    /// Its block differs from what the others agree on.
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

/// Where a source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its word counts.
    Active,
    /// Its word is compared with the others' and does not count, until so many good blocks in a row.
    Probation {
        /// Good blocks that are still missing.
        missing: u32,
    },
    /// Its word does not count.
    Benched {
        /// When its probation begins.
        until: Timestamp,
    },
}

/// What is known of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceStatus {
    /// Where it stands.
    pub standing: Standing,
    /// Share of good blocks among the last, in thousandths; recent blocks weigh more.
    pub reputation_permille: u32,
    /// Newest block that it reported.
    pub head: Option<u64>,
    /// Smoothed time that an answer takes.
    pub latency: Duration,
    /// Good blocks.
    pub good: u64,
    /// Blocks that it failed to report.
    pub errors: u64,
    /// Blocks at which it was too far behind.
    pub lags: u64,
    /// Blocks at which it differed from the others.
    pub deviations: u64,
    /// How often it was benched.
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

/// How benched sources come back.
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
    /// Its word counts.
    pub const fn is_active(&self) -> bool {
        matches!(self.standing, Standing::Active)
    }

    /// Weight of its word: its reputation while it is active, else 0.
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
                // Enough to count, little enough that the old fault benches it soon.
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
