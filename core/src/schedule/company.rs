//! Is company worth the wait?
//!
//! A transaction costs something before its first member: 21 000 gas, and what its envelope pays for L1 data. Who joins
//! saves that once more; waiting for it uses up the members' slack. Both are weighed in *setups*, the cost of an empty
//! transaction, so that prices of gas and data count only by their ratio.
//!
//! A member with slack s that would cost c setups alone pays `waiting_cost · c / s` per millisecond. A batch goes when
//! - what its members have paid by waiting reaches one setup. This needs no guess of who will come, and costs at most twice
//!   what perfect foresight would (Dooly, Goldman and Scott, "On-line analysis of the TCP acknowledgment delay problem",
//!   JACM 2001). With regular arrivals it is the optimum (the economic order quantity); or
//! - the next one is not expected in time: from the gaps between arrivals in the past, no further wait saves more than it
//!   costs.
//!
//! # A worked example
//! A setup is 21 000 gas, a member 35 000, its slack 60 s, the waiting cost 100 %: alone it costs 56 000 gas or 2.67
//! setups, so it pays 2.67 / 60 = 0.044 setups per second. With five per second, the n-th member has waited (N − n) / 5 s when
//! the N-th comes: together N (N − 1) / 10 s, which is worth a setup before the 16th comes, after 2.9 s. Where they come a
//! minute apart, the next is not expected before 60 · 0.044 = 2.7 setups are gone: it is sent at once.

use super::queue::{ComposeLimits, QueuedRequest};
use crate::time::Timestamp;

/// One setup, in the integers that waiting is counted in.
const SETUP: u128 = 1 << 40;
/// Nobody waits for company through more than a quarter of its slack, whatever waiting costs.
const SLACK_PART: u32 = 4;
/// Gaps between arrivals are counted by their bits: 0, 1, 2 to 3, 4 to 7 ms and so on; the last holds all from 70 minutes.
const GAPS: usize = 24;
/// Weight of an older gap against the next one: about thirty count.
const GAP_KEEP: f64 = 0.97;
/// Weight of an older batch's size against the next one.
const SIZE_KEEP: f64 = 0.9;

/// What one kind of requests, those that may share a transaction, did in the past.
#[derive(Debug, Clone)]
pub(super) struct Habit {
    /// Gaps between arrivals by length, older ones count less. Starts with one gap of any length.
    gaps: [f64; GAPS],
    last: Option<Timestamp>,
    /// Members of a batch, mean.
    size: f64,
}

impl Default for Habit {
    fn default() -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a small constant")]
        let each = 1.0 / GAPS as f64;
        Self { gaps: [each; GAPS], last: None, size: 1.0 }
    }
}

impl Habit {
    /// Somebody came. What comes out of order, after a restart, teaches nothing.
    pub(super) fn arrived(&mut self, at: Timestamp) {
        let Some(last) = self.last.filter(|last| *last <= at) else {
            self.last = self.last.max(Some(at));
            return;
        };
        let gap = at.0 - last.0;
        let bucket = (u64::BITS - gap.leading_zeros()) as usize;
        self.gaps.iter_mut().for_each(|count| *count *= GAP_KEEP);
        self.gaps[bucket.min(GAPS - 1)] += 1.0;
        self.last = Some(at);
    }

    /// A batch left.
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    pub(super) fn left(&mut self, members: usize) {
        self.size = SIZE_KEEP * self.size + (1.0 - SIZE_KEEP) * members as f64;
    }

    /// What a request that costs `own` besides its transaction saves by travelling with others who go anyway, thousandths of
    /// what it would pay later: that, and its part of a setup.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is wanted")]
    pub(super) fn saving_permille(&self, setup_wei: u128, own_wei: u128) -> u32 {
        let part = setup_wei as f64 / self.size.max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 1000")]
        let saving = (1_000.0 * part / (own_wei as f64 + part)) as u32;
        saving
    }

    /// Gaps longer than `ms`, by weight. Within a bucket they are spread evenly.
    fn longer(&self, ms: f64) -> f64 {
        let mut sum = 0.0;
        for (bucket, count) in self.gaps.iter().enumerate() {
            let (start, end) = (edge(bucket), edge(bucket + 1));
            sum += count * ((end - ms) / (end - start)).clamp(0.0, 1.0);
        }
        sum
    }

    /// How much longer to wait for the next one, at most `longest` ms, if waiting costs `rate` setups per ms; 0 if it is not
    /// worth it. Whoever waits so long and is still without company would not begin to wait then.
    fn worth(&self, now: Timestamp, rate: f64, longest: u64) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a wait")]
        let (quiet, most) = (self.last.map_or(0, |last| now.since(last).as_millis()) as f64, longest as f64);
        let still = self.longer(quiet);
        if still <= 0.0 {
            return 0;
        }
        let (mut best, mut best_at, mut cost) = (0.0, 0.0, 0.0);
        let (mut from, mut before) = (quiet, still);
        for bucket in 1..=GAPS {
            let end = edge(bucket).min(quiet + most);
            if end <= from {
                continue;
            }
            let after = self.longer(end);
            // Mean wait of those who come in between, and of those who don't.
            cost += rate * (before + after) / 2.0 * (end - from) / still;
            let gain = (still - after) / still - cost;
            if gain > best {
                (best, best_at) = (gain, end - quiet);
            }
            (from, before) = (end, after);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `longest`")]
        let wait = best_at.ceil() as u64;
        wait
    }
}

/// Start of a bucket, ms.
fn edge(bucket: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let edge = (1_u64 << bucket) as f64;
    if bucket == 0 { 0.0 } else { edge / 2.0 }
}

/// What the members of a batch have paid by waiting, and pay per ms.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    paid: u128,
    rate: u128,
    latest: Option<Timestamp>,
}

impl Patience {
    /// One more member.
    pub(super) fn add(&mut self, limits: &ComposeLimits, now: Timestamp, entry: &QueuedRequest) {
        let (since, setup) = (entry.accepted_at, limits.setup_wei.max(1));
        // Thousandths of a setup. Beyond a million setups nobody waits anyway; it keeps the products small.
        let alone = setup.saturating_add(limits.own_wei(entry)).saturating_mul(1_000) / setup;
        let per_setup = SETUP * u128::from(limits.waiting_cost_percent) / 100_000;
        let slack = entry.due.since(since);
        let rate = per_setup * alone.min(1_000_000_000) / slack.as_millis().max(1);
        self.rate = self.rate.saturating_add(rate);
        self.paid = self.paid.saturating_add(rate.saturating_mul(now.since(since).as_millis()));
        let latest = since.saturating_add(limits.linger.min(slack / SLACK_PART));
        self.latest = Some(self.latest.map_or(latest, |before| before.min(latest)));
    }

    /// When the longest wait of any of them ends.
    pub(super) const fn latest(&self) -> Option<Timestamp> {
        self.latest
    }

    /// Until when they wait for company; not after `now` if they don't.
    pub(super) fn until(&self, limits: &ComposeLimits, now: Timestamp, habit: &Habit) -> Timestamp {
        let last = self.latest.unwrap_or(now);
        if limits.setup_wei == 0 || last <= now {
            return last.min(now);
        }
        if self.rate == 0 {
            return last;
        }
        let left = SETUP.saturating_sub(self.paid).div_ceil(self.rate);
        let spent = Timestamp(now.0.saturating_add(u64::try_from(left).unwrap_or(u64::MAX)));
        let last = last.min(spent);
        #[expect(clippy::cast_precision_loss, reason = "a ratio of two of them is wanted")]
        let rate = self.rate as f64 / SETUP as f64;
        Timestamp(now.0.saturating_add(habit.worth(now, rate, last.0.saturating_sub(now.0))))
    }
}
