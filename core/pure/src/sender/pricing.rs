//! Fees offered by a batch (learned tip, fee cap from the forecast) and the guard time before its deadline.

use std::{collections::VecDeque, time::Duration};

use alloy_primitives::Bytes;

use super::{
    input::Notice,
    price::{Price, price_at},
};
use crate::{
    chain::ChainSpec,
    lane::AttemptKey,
    market::{DayFees, FeePoint, Utilisation},
    protection::Protection,
    record::AttemptRecord,
    schedule::{GuardTime, Judged, LeastTip, OfferLog, PaidTips, TipEstimator, tip_bound},
    sender::tuning::ChainTuning,
    time::Timestamp,
};

/// Known limits that every transaction must meet, for admission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DoorLimits {
    /// Gas limit of a transaction, as a share of the block gas limit (`max_block_share_percent`); `None` while no block
    /// is known.
    pub block_gas: Option<u64>,
    /// Limit of gas limit × fee cap above which nodes refuse, wei; `None` if unknown.
    pub fee_cap_wei: Option<u128>,
    /// Median base fee of the last day, wei per gas.
    pub usual_base_fee: Option<u128>,
}

/// Prices and delays learned from one chain's blocks and our own transactions.
#[derive(Debug)]
pub struct Pricing {
    pub(crate) tips: TipEstimator,
    pub(crate) paid: PaidTips,
    pub(crate) offers: OfferLog<usize>,
    delays: GuardTime,
    guard: Duration,
    /// Extra data of the newest header; some chains encode their base fee rule in it.
    pub extra_data: Bytes,
    pub(crate) least_tip: LeastTip,
    /// Least tip demanded by nodes, as of the newest head, wei per gas.
    demanded: u128,
    /// Tip suggested by nodes, wei per gas, and the head number at that time.
    pub suggested: Option<(u128, u64)>,
    day: DayFees,
    /// Gas limits of the newest blocks; the highest counts, so one outlier bounds nothing.
    block_gas_limits: VecDeque<u64>,
    /// Gas limit above which nodes recently refused a transaction, and the time of the refusal.
    pub refused_gas: Option<(u64, Timestamp)>,
}

/// A tip included after lower ones were left out counts as demanded if it is at least this multiple of the reported
/// block tips.
const HIDDEN_TIMES: u128 = 8;
/// Number of newest blocks with a remembered gas limit.
const GAS_LIMITS_LEN: usize = 8;
/// Validity of the nodes' suggested tip, in blocks.
pub(crate) const SUGGESTION_LASTS_BLOCKS: u64 = 10;
/// Retention of a gas limit that nodes refused.
const REFUSED_GAS_LASTS: Duration = Duration::from_secs(3_600);

/// Blocks needed by one bump: to detect the need, and for inclusion.
pub(crate) const fn bump_blocks(tuning: &ChainTuning) -> u64 {
    tuning.lane.bump_after_blocks.saturating_add(1)
}

impl Pricing {
    /// Pricing without observations.
    pub fn new(spec: &ChainSpec, tuning: &ChainTuning) -> Self {
        let bump_blocks = u32::try_from(bump_blocks(tuning)).unwrap_or(u32::MAX);
        let block_time = spec.block_time();
        // The estimate adds the bump; the configured time includes it.
        let start = tuning.timing.urgent_within.saturating_sub(block_time.saturating_mul(bump_blocks));
        let mut pricing = Self {
            tips: TipEstimator::new(tuning.market.tip_window_blocks),
            paid: PaidTips::default(),
            offers: OfferLog::new(tuning.fees.tip_within_blocks),
            delays: GuardTime::new(start, block_time, bump_blocks),
            guard: Duration::ZERO,
            extra_data: Bytes::new(),
            least_tip: LeastTip::default(),
            demanded: 0,
            suggested: None,
            day: DayFees::default(),
            block_gas_limits: VecDeque::new(),
            refused_gas: None,
        };
        pricing.refresh_guard(tuning);
        pricing
    }

    pub(crate) fn refresh_guard(&mut self, tuning: &ChainTuning) {
        let ceiling = tuning.timing.guard_time_ceiling.max(tuning.timing.guard_time_floor);
        self.guard = self.delays.estimate().clamp(tuning.timing.guard_time_floor, ceiling);
    }

    /// Guard time: with less slack than this, nothing waits for a better price.
    pub const fn guard(&self) -> Duration {
        self.guard
    }

    /// Measured inclusion delays, oldest first, ms.
    pub fn delays_ms(&self) -> Vec<u64> {
        self.delays.delays().map(crate::time::millis).collect()
    }

    /// Restores delays measured before the start.
    pub fn restore(&mut self, tuning: &ChainTuning, delays: impl Iterator<Item = Duration>) {
        delays.for_each(|delay| self.delays.record(delay));
        self.refresh_guard(tuning);
    }

    /// Number of measured delays.
    pub fn measured(&self) -> usize {
        self.delays.delays().len()
    }

    /// Records an accepted block.
    pub fn block(&mut self, point: &FeePoint) {
        self.offers.block(point.number, point.base_fee);
        if let Some(at) = point.timestamp {
            self.paid.forget(Timestamp::from_secs(at.0));
            self.day.record(at, point.base_fee);
        }
        // An empty block says nothing about the tip it would have required.
        let is_empty = point.utilisation.and_then(Utilisation::ratio) == Some(0.0);
        if let Some(tip) = point.tips.min.filter(|_| !is_empty) {
            self.tips.record_block(tip);
        }
    }

    /// Refreshes the least tip demanded, as of `now`.
    pub fn refresh_tips(&mut self, now: Timestamp) {
        self.demanded = self.least_tip.demanded(now);
    }

    /// Records the block gas limit of an accepted header.
    pub fn block_gas_limit(&mut self, gas: u64) {
        if self.block_gas_limits.len() == GAS_LIMITS_LEN {
            self.block_gas_limits.pop_front();
        }
        self.block_gas_limits.push_back(gas);
    }

    /// Gas limit of one transaction by its allowed share of a block; `None` while no block is known.
    pub fn block_gas(&self, tuning: &ChainTuning) -> Option<u64> {
        let most = self.block_gas_limits.iter().copied().max()?;
        Some(most / 100 * u64::from(tuning.admission.max_block_share_percent.min(100)))
    }

    /// Limits applied by admission.
    pub fn door(&self, tuning: &ChainTuning, fee_cap_wei: Option<u128>) -> DoorLimits {
        DoorLimits { block_gas: self.block_gas(tuning), fee_cap_wei, usual_base_fee: self.day.median() }
    }

    /// Highest gas limit accepted by nodes and blocks.
    pub fn most_gas(&self, tuning: &ChainTuning, now: Timestamp) -> u64 {
        let refused = self.refused_gas.filter(|(_, at)| now.since(*at) < REFUSED_GAS_LASTS).map(|(gas, _)| gas);
        if !Protection::NodeLimits.is_on() {
            return u64::MAX;
        }
        refused.into_iter().chain(self.block_gas(tuning)).min().unwrap_or(u64::MAX)
    }

    /// Upper bound of a learned, demanded or tried tip, wei per gas.
    pub fn tip_bound(&self, spec: &ChainSpec, tuning: &ChainTuning) -> u128 {
        let least = spec.min_priority_fee_wei_per_gas;
        tip_bound(least, tuning.fees.tip_ceiling_wei_per_gas, self.paid.bound(least))
    }

    /// The smallest tip with the wanted chance of inclusion within `blocks`, wei per gas.
    pub fn tip(&self, spec: &ChainSpec, tuning: &ChainTuning, blocks: u32) -> u128 {
        let learned = self.tips.tip(tuning.fees.tip_target(), blocks).unwrap_or(0);
        // A node that reports block tips must not set the price.
        let bound = self.tip_bound(spec, tuning);
        let demanded = if Protection::DemandedTip.is_on() { self.demanded } else { 0 };
        let learned = learned.min(tuning.fees.tip_ceiling_wei_per_gas).min(bound);
        learned.max(demanded.min(bound)).max(spec.min_priority_fee_wei_per_gas).max(1)
    }

    /// Extra data of the newest accepted header.
    pub fn extra_data(&self) -> Bytes {
        self.extra_data.clone()
    }

    /// Price without regard to a deadline: the usual tip, and a cap by the fixed rule.
    pub fn quote(&mut self, spec: &ChainSpec, tuning: &ChainTuning, next_base_fee: u128, extra_data: Bytes) -> Price {
        self.extra_data = extra_data;
        let tip = self.tip(spec, tuning, tuning.fees.tip_within_blocks);
        price_at(spec, next_base_fee, tip, &self.extra_data)
    }

    fn judge(&mut self, judged: Option<Judged>) -> Option<Notice> {
        let Judged { tip, was_included } = judged?;
        self.tips.record_offer(tip, was_included);
        Some(Notice::TipJudged { was_included })
    }

    /// Records an attempt on its way out.
    #[must_use]
    pub fn sent(
        &mut self,
        lane: usize,
        key: AttemptKey,
        attempt: &AttemptRecord,
        head: u64,
        now: Timestamp,
    ) -> Option<Notice> {
        let judged = self.offers.sent(lane, key.nonce, key.index, attempt.fees, head, now);
        self.judge(judged)
    }

    /// Records that every node refused the attempt.
    pub fn refused(&mut self, lane: usize, key: AttemptKey) {
        self.offers.refused(lane, key.nonce, key.index);
    }

    /// Records an attempt's inclusion in block `number`. Only a payload's delay counts; a cancel's differs.
    #[expect(clippy::too_many_arguments, reason = "facts of one inclusion")]
    #[must_use]
    pub fn included(
        &mut self,
        tuning: &ChainTuning,
        lane: usize,
        key: AttemptKey,
        number: u64,
        is_payload: bool,
        tip: u128,
        now: Timestamp,
    ) -> Option<Notice> {
        self.paid.record(now, tip);
        let inclusion = self.offers.included(lane, key.nonce, key.index, number, now);
        let notice = self.judge(inclusion.offer);
        // Fee histories far below this tip did not show the tip that blocks require.
        let usual = self.tips.tip(0.5, 1).unwrap_or(0);
        if key.index > 0 && usual < tip / HIDDEN_TIMES {
            self.least_tip.demand(now, tip);
        }
        if let Some(delay) = inclusion.delay.filter(|_| is_payload) {
            self.delays.record(delay);
            self.refresh_guard(tuning);
        }
        notice
    }

    /// Forgets the offers of a settled nonce.
    pub fn forget(&mut self, lane: usize, nonce: u64) {
        self.offers.forget(lane, nonce);
    }
}
