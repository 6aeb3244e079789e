//! The wait for company: how long a batch waits for more members.
//!
//! A transaction has a setup cost before its first member: 21 000 gas, and the L1 data of its envelope. Each member
//! that joins saves one setup; waiting for it uses up the slack of the others. Both are measured in *setups*, the cost
//! of an empty transaction, so that only the ratio of gas price and data price matters.
//!
//! A member with slack s that would cost c setups alone pays `waiting_cost · c / s` per millisecond. A batch goes when
//! - the waiting cost of its members reaches one setup. This rule needs no forecast of arrivals, and costs at most
//!   twice the optimum under perfect forecasts (Dooly, Goldman and Scott, "On-line analysis of the TCP acknowledgment
//!   delay problem", JACM 2001). With regular arrivals it is the optimum (the economic order quantity); or
//! - the next arrival is not expected in time: by the gaps between past arrivals, no further wait saves more than it
//!   costs.
//!
//! # A worked example
//! A setup is 21 000 gas, a member 35 000, its slack 60 s, the waiting cost 100 %: alone it costs 56 000 gas or 2.67
//! setups, so it pays 2.67 / 60 = 0.044 setups per second. With five arrivals per second, the n-th member has waited
//! (N − n) / 5 s when the N-th comes: together N (N − 1) / 10 s, which is worth a setup before the 16th comes, after
//! 2.9 s. With arrivals a minute apart, the next is not expected before 60 · 0.044 = 2.7 setups are gone: the member is
//! sent at once.

use super::queue::{ComposeLimits, QueuedRequest};
use crate::time::Timestamp;

/// One setup, in the integer unit of waiting costs.
const SETUP: u128 = 1 << 40;
/// Divisor of the slack: the wait for company takes at most a quarter of it, whatever waiting costs.
const SLACK_PART: u32 = 4;
/// Buckets for gaps between arrivals, by bit length: 0, 1, 2 to 3, 4 to 7 ms and so on; the last holds all from 70
/// minutes.
const GAPS: usize = 24;
/// Decay of older gaps per new gap: about thirty gaps count.
const GAP_KEEP: f64 = 0.97;
/// Decay of older batch sizes per new batch.
const SIZE_KEEP: f64 = 0.9;

/// Past arrivals and batch sizes of one kind of requests (those that may share a transaction).
#[derive(Debug, Clone)]
pub(super) struct ArrivalModel {
    /// Weighted count of gaps between arrivals by length; older gaps count less. Starts with one gap of any length.
    gaps: [f64; GAPS],
    last: Option<Timestamp>,
    /// Mean number of members in a batch.
    size: f64,
}

impl Default for ArrivalModel {
    fn default() -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a small constant")]
        let each = 1.0 / GAPS as f64;
        Self { gaps: [each; GAPS], last: None, size: 1.0 }
    }
}

impl ArrivalModel {
    /// Records an arrival. Arrivals out of order, after a restart, are ignored.
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

    /// Records the size of a batch that was sent.
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    pub(super) fn left(&mut self, members: usize) {
        self.size = SIZE_KEEP * self.size + (1.0 - SIZE_KEEP) * members as f64;
    }

    /// Saving, in thousandths of its later cost, of a request that joins a transaction that goes anyway; its later cost
    /// is `own_wei` plus its part of a setup.
    #[expect(clippy::cast_precision_loss, reason = "a ratio is wanted")]
    pub(super) fn saving_permille(&self, setup_wei: u128, own_wei: u128) -> u32 {
        let part = setup_wei as f64 / self.size.max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 1000")]
        let saving = (1_000.0 * part / (own_wei as f64 + part)) as u32;
        saving
    }

    /// Weight of the gaps longer than `ms`; gaps within a bucket are taken as uniformly spread.
    fn longer(&self, ms: f64) -> f64 {
        let mut sum = 0.0;
        for (bucket, count) in self.gaps.iter().enumerate() {
            let (start, end) = (edge(bucket), edge(bucket + 1));
            sum += count * ((end - ms) / (end - start)).clamp(0.0, 1.0);
        }
        sum
    }

    /// Further wait for the next arrival, ms, at most `longest`, if waiting costs `rate` setups per ms; 0 if it does
    /// not pay. A batch still without company after this wait does not start another.
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
            // Mean wait of the arrivals within the bucket, and of the later ones.
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

/// Waiting cost of a batch's members: the sum so far, and the rate per ms.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WaitBudget {
    paid: u128,
    rate: u128,
    latest: Option<Timestamp>,
}

impl WaitBudget {
    /// Adds a member.
    pub(super) fn add(&mut self, limits: &ComposeLimits, now: Timestamp, entry: &QueuedRequest) {
        let (since, setup) = (entry.accepted_at, limits.setup_wei.max(1));
        // Thousandths of a setup. Beyond a million setups no wait pays anyway; the bound keeps the products small.
        let alone = setup.saturating_add(limits.own_wei(entry)).saturating_mul(1_000) / setup;
        let per_setup = SETUP * u128::from(limits.waiting_cost_percent) / 100_000;
        let slack = entry.due.since(since);
        let rate = per_setup * alone.min(1_000_000_000) / slack.as_millis().max(1);
        self.rate = self.rate.saturating_add(rate);
        self.paid = self.paid.saturating_add(rate.saturating_mul(now.since(since).as_millis()));
        let latest = since.saturating_add(limits.linger.min(slack / SLACK_PART));
        self.latest = Some(self.latest.map_or(latest, |before| before.min(latest)));
    }

    /// End of the members' longest permitted wait.
    pub(super) const fn latest(&self) -> Option<Timestamp> {
        self.latest
    }

    /// End of the batch's wait for company; not after `now` if it does not wait.
    pub(super) fn until(&self, limits: &ComposeLimits, now: Timestamp, arrival: &ArrivalModel) -> Timestamp {
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
        Timestamp(now.0.saturating_add(arrival.worth(now, rate, last.0.saturating_sub(now.0))))
    }
}
