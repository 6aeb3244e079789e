//! Baselines: the policies in common use, for comparison.

use std::{collections::VecDeque, time::Duration};

use crate::market::FeePoint;

/// A send policy: decides, step by step, which submissions are sent.
///
/// **Invariant:** a submission that is sent with some steps left is also sent with fewer left, so that submissions
/// leave in order.
pub trait SendPolicy {
    /// Observes the next block (or row).
    fn observe(&mut self, point: &FeePoint);

    /// True if a submission with `total` steps of slack, of which `remaining` are left, is sent now.
    fn sends(&self, total: u32, remaining: u32) -> bool;
}

/// Rows among which the threshold and the gate rank a price.
const RANK_ROWS: usize = 300;
/// Rows per independent price: with r steps left a threshold waits for the lowest 1 / (1 + r / 4).
const PACE: f64 = 4.0;
/// Initial rank of the gate: the lowest tenth.
const GATE_START: f64 = 0.1;
/// Rows of the short and the long moving average.
const SHORT_ROWS: usize = 25;
const LONG_ROWS: usize = 300;
/// Share of the long average at which a submission is sent: when new, and at its deadline.
const FRESH_SHARE: f64 = 0.9;
const LATE_SHARE: f64 = 1.2;
/// Buckets of a day, and the weight of a day in the table.
const BUCKETS: usize = 24;
const DAY_S: u64 = 86_400;
const TABLE_RATE: f64 = 0.2;

/// Kind of baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BaselineKind {
    /// Below a rolling quantile that rises as time runs out.
    Threshold,
    /// Scroll: below a percentile that relaxes linearly to the deadline.
    Scroll,
    /// Fuel: short moving average against the long one, with a premium that grows with lateness.
    Fuel,
    /// Linea: a table of typical fees by time of day.
    Linea,
}

impl BaselineKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Threshold, Self::Scroll, Self::Fuel, Self::Linea];

    /// Name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Scroll => "scroll",
            Self::Fuel => "fuel",
            Self::Linea => "linea",
        }
    }
}

/// A running baseline.
#[derive(Debug, Clone)]
pub struct Baseline {
    kind: BaselineKind,
    step: Duration,
    rows: u64,
    price: u128,
    /// The last rows in order, and sorted.
    recent: VecDeque<u128>,
    sorted: Vec<u128>,
    /// Typical log price of each part of a day relative to its day, and the current day's sums.
    table: [Option<f64>; BUCKETS],
    day: [(f64, u32); BUCKETS],
    bucket: usize,
    day_number: Option<u64>,
}

impl Baseline {
    /// A baseline without observations; `step` is the time between rows.
    pub fn new(kind: BaselineKind, step: Duration) -> Self {
        Self {
            kind,
            step,
            rows: 0,
            price: 0,
            recent: VecDeque::new(),
            sorted: Vec::new(),
            table: [None; BUCKETS],
            day: [(0.0, 0); BUCKETS],
            bucket: 0,
            day_number: None,
        }
    }

    /// Share of the recent rows that were cheaper.
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    fn rank(&self) -> f64 {
        self.sorted.partition_point(|price| *price < self.price) as f64 / self.sorted.len().max(1) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "an average")]
    fn mean(&self, rows: usize) -> f64 {
        let rows = rows.min(self.recent.len()).max(1);
        self.recent.iter().rev().take(rows).map(|price| *price as f64).sum::<f64>() / rows as f64
    }

    /// Records the price under its time of day; without timestamps the day starts with the file.
    fn see_time(&mut self, point: &FeePoint) {
        let seconds = point.timestamp.map_or_else(|| self.step.as_secs().saturating_mul(self.rows), |at| at.0);
        let (day, second) = (seconds / DAY_S, seconds % DAY_S);
        if self.day_number.is_some_and(|seen| seen != day) {
            self.close_day();
        }
        self.day_number = Some(day);
        self.bucket = usize::try_from(second / (DAY_S / BUCKETS as u64)).unwrap_or(0).min(BUCKETS - 1);
        #[expect(clippy::cast_precision_loss, reason = "an average")]
        let log = libm::log(point.price().max(1) as f64);
        let (sum, count) = &mut self.day[self.bucket];
        *sum += log;
        *count += 1;
    }

    fn close_day(&mut self) {
        let (sum, count) = self.day.iter().fold((0.0, 0), |(sum, count), bucket| (sum + bucket.0, count + bucket.1));
        let level = sum / f64::from(count.max(1));
        for (usual, (sum, count)) in self.table.iter_mut().zip(self.day) {
            if count > 0 {
                let seen = sum / f64::from(count) - level;
                *usual = Some(usual.map_or(seen, |usual| usual + TABLE_RATE * (seen - usual)));
            }
        }
        self.day = [(0.0, 0); BUCKETS];
    }

    /// True if no later part of the day within `remaining` steps is typically cheaper.
    fn is_cheapest_hour(&self, remaining: u32) -> bool {
        let Some(now) = self.table[self.bucket] else { return true };
        let seconds = u64::from(remaining).saturating_mul(self.step.as_millis().try_into().unwrap_or(u64::MAX)) / 1_000;
        let ahead = usize::try_from(seconds / (DAY_S / BUCKETS as u64)).unwrap_or(BUCKETS).min(BUCKETS - 1);
        (1..=ahead).all(|later| self.table[(self.bucket + later) % BUCKETS].is_none_or(|usual| usual >= now))
    }
}

impl SendPolicy for Baseline {
    fn observe(&mut self, point: &FeePoint) {
        self.price = point.price();
        if self.kind == BaselineKind::Linea {
            self.see_time(point);
        } else {
            if self.recent.len() == RANK_ROWS.max(LONG_ROWS)
                && let Some(oldest) = self.recent.pop_front()
            {
                let at = self.sorted.partition_point(|price| *price < oldest);
                self.sorted.remove(at);
            }
            self.recent.push_back(self.price);
            let at = self.sorted.partition_point(|price| *price < self.price);
            self.sorted.insert(at, self.price);
        }
        self.rows += 1;
    }

    fn sends(&self, total: u32, remaining: u32) -> bool {
        if remaining == 0 {
            return true;
        }
        let left = f64::from(remaining) / f64::from(total.max(1));
        match self.kind {
            BaselineKind::Threshold => self.rank() <= 1.0 / (1.0 + f64::from(remaining) / PACE),
            BaselineKind::Scroll => self.rank() <= GATE_START + (1.0 - GATE_START) * (1.0 - left),
            BaselineKind::Fuel => {
                self.mean(SHORT_ROWS) <= self.mean(LONG_ROWS) * (LATE_SHARE + (FRESH_SHARE - LATE_SHARE) * left)
            }
            BaselineKind::Linea => self.is_cheapest_hour(remaining),
        }
    }
}
