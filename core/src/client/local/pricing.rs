//! Fees offered by a batch, its composition limits, and its send timing.

use std::time::Duration;

use super::{
    config::{LocalConfig, LocalTiming},
    machine::LocalRelay,
};
use crate::{
    chain::{Fees, RpcErrorClass, least_price, refused_fee_cap},
    lane::{AttemptKey, Event, NodeTerms, SendOutcome},
    market::{FeePoint, Utilisation},
    schedule::{
        ComposeLimits, FeeOutlook, GuardTime, Judged, LeastTip, OfferLog, PercentileOutlook, TipEstimator, tip_bound,
        urgency_blocks,
    },
    time::Timestamp,
};

/// Slack at and above which the percentile gate is strictest.
const PATIENCE_HORIZON: Duration = Duration::from_secs(3_600);

/// Full blocks that a fee cap must survive: the possible wait before a bump takes effect. A full block raises the base
/// fee by an eighth at most (EIP-1559; other chains by less).
const CAP_HORIZON_BLOCKS: u32 = 6;

/// Send timing: at once, or gated by price.
#[derive(Debug)]
pub(super) enum Outlook {
    Now,
    Gate(PercentileOutlook),
}

impl FeeOutlook for Outlook {
    fn send_within(&self) -> Duration {
        match self {
            Self::Now => Duration::MAX,
            Self::Gate(gate) => gate.send_within(),
        }
    }

    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        match self {
            Self::Now => Duration::MAX,
            Self::Gate(gate) => gate.send_within_saving(saving_permille),
        }
    }
}

/// Prices and delays learned from blocks and our own transactions.
#[derive(Debug)]
pub(super) struct Pricing {
    tips: TipEstimator,
    offers: OfferLog<()>,
    delays: GuardTime,
    pub(super) least_tip: LeastTip,
    /// Highest gas limit × fee cap accepted by the node, wei, learned from its refusals; `None` if none was refused.
    pub(super) fee_cap_wei: Option<u128>,
    /// Highest gas limit accepted by the node and its blocks; `None` if unknown.
    pub(super) most_gas: Option<u64>,
    pub(super) outlook: Outlook,
}

impl Pricing {
    pub(super) fn new(config: &LocalConfig) -> Self {
        let window = usize::try_from(config.fees.fee_history_blocks).unwrap_or(usize::MAX);
        let bump_blocks = u32::try_from(config.lane.bump_after_blocks.saturating_add(1)).unwrap_or(u32::MAX);
        // The estimate adds the bump; what is configured is the whole.
        let start = config.urgent_within.saturating_sub(config.block_time.saturating_mul(bump_blocks));
        let gate =
            || PercentileOutlook::new(window, config.patience_percentile, config.urgent_within, PATIENCE_HORIZON);
        Self {
            tips: TipEstimator::new(window),
            offers: OfferLog::new(config.fees.tip_within_blocks),
            delays: GuardTime::new(start, config.block_time, bump_blocks),
            least_tip: LeastTip::default(),
            fee_cap_wei: None,
            most_gas: None,
            outlook: match config.timing {
                LocalTiming::Immediate => Outlook::Now,
                LocalTiming::Percentile => Outlook::Gate(gate()),
            },
        }
    }

    /// Records a new block.
    pub(super) fn block(&mut self, point: &FeePoint, tip: u128) {
        self.offers.block(point.number, point.base_fee);
        // An empty block says nothing about the tip it would have required.
        let is_empty = point.utilisation.and_then(Utilisation::ratio) == Some(0.0);
        if let Some(tip) = point.tips.min.filter(|_| !is_empty) {
            self.tips.record_block(tip);
        }
        if let Outlook::Gate(gate) = &mut self.outlook {
            gate.record(point.base_fee.saturating_add(tip));
        }
    }

    pub(super) fn set_price(&mut self, wei_per_gas: u128) {
        if let Outlook::Gate(gate) = &mut self.outlook {
            gate.set_price(wei_per_gas);
        }
    }

    /// The smallest tip with the wanted chance of inclusion within `blocks`, wei per gas.
    pub(super) fn tip(&self, config: &LocalConfig, blocks: u32) -> u128 {
        let learned = self.tips.tip(config.fees.tip_target(), blocks).unwrap_or(0);
        // One node tells the tips: it must not set the price. Where the chain takes no less, there is room above that.
        let ceiling = tip_bound(config.min_priority_fee_wei_per_gas, config.fees.tip_ceiling_wei_per_gas, None);
        learned.min(ceiling).max(config.min_priority_fee_wei_per_gas).max(1)
    }

    /// The usual offer when the next block charges `next_base_fee`, wei per gas.
    pub(super) fn quote(&self, config: &LocalConfig, next_base_fee: u128) -> Fees {
        self.fees(config, next_base_fee, config.fees.tip_within_blocks)
    }

    fn fees(&self, config: &LocalConfig, next_base_fee: u128, blocks: u32) -> Fees {
        let tip = self.tip(config, blocks);
        Fees::new(after_full_blocks(next_base_fee).saturating_add(tip), tip)
    }

    pub(super) fn sent(&mut self, key: AttemptKey, fees: Fees, head: u64, now: Timestamp) {
        let judged = self.offers.sent((), key.nonce, key.index, fees, head, now);
        self.judge(judged);
    }

    pub(super) fn refused(&mut self, key: AttemptKey) {
        self.offers.refused((), key.nonce, key.index);
    }

    pub(super) fn included(&mut self, key: AttemptKey, number: u64, is_payload: bool, now: Timestamp) {
        let inclusion = self.offers.included((), key.nonce, key.index, number, now);
        self.judge(inclusion.offer);
        if let Some(delay) = inclusion.delay.filter(|_| is_payload) {
            self.delays.record(delay);
        }
    }

    pub(super) fn forget(&mut self, nonce: u64) {
        self.offers.forget((), nonce);
    }

    fn judge(&mut self, judged: Option<Judged>) {
        if let Some(Judged { tip, was_included }) = judged {
            self.tips.record_offer(tip, was_included);
        }
    }
}

/// The base fee after six full blocks, rounded up each time.
fn after_full_blocks(base_fee: u128) -> u128 {
    (0..CAP_HORIZON_BLOCKS).fold(base_fee, |fee, _| fee.saturating_add((fee / 8).max(1)))
}

impl LocalRelay {
    /// First offer of a batch with this deadline: the tighter the deadline, the higher the tip.
    pub(super) fn offer(&self, now: Timestamp, deadline: Timestamp) -> Option<Fees> {
        let head = self.head?;
        let config = &self.config;
        let spare = config.lane.bump_after_blocks.saturating_add(1);
        let blocks = urgency_blocks(deadline.since(now), config.block_time, spare, config.fees.tip_within_blocks);
        Some(self.pricing.fees(config, head.next_base_fee, blocks))
    }

    /// The node's terms (fee cap, least tip), as far as its answers show them.
    pub(super) fn terms(&self, now: Timestamp) -> NodeTerms {
        let (least, ceiling) = (self.config.min_priority_fee_wei_per_gas, self.config.fees.tip_ceiling_wei_per_gas);
        NodeTerms {
            fee_cap_wei: self.pricing.fee_cap_wei,
            least_tip_wei_per_gas: self.pricing.least_tip.demanded(now),
            suggested_tip_wei_per_gas: 0,
            tip_bound_wei_per_gas: tip_bound(least, ceiling, None),
        }
    }

    /// Learns from the result of a send: the node's price and size limits go to the lane before the result itself.
    pub(super) fn learn_terms(&mut self, now: Timestamp, key: AttemptKey, outcome: SendOutcome, message: &str) {
        let fees = self.durable.get(&key).map(|attempt| attempt.fees()).unwrap_or_default();
        let gas = self.flights.get(&key.nonce).map_or(0, |flight| flight.plan.payload.gas_limit);
        let tip = fees.max_priority_fee_per_gas;
        match outcome {
            SendOutcome::Taken => self.pricing.least_tip.taken(now, tip),
            SendOutcome::Refused(RpcErrorClass::Underpriced) => {
                self.pricing.least_tip.refused(now, tip, least_price(message, tip));
            }
            SendOutcome::Refused(RpcErrorClass::InvalidFees) => {
                if let Some(named) = refused_fee_cap(message) {
                    let below = u128::from(gas).saturating_mul(fees.max_fee_per_gas).saturating_sub(1);
                    self.pricing.fee_cap_wei = Some(named.unwrap_or(below).min(below));
                }
            }
            SendOutcome::Refused(RpcErrorClass::GasTooHigh) => self.pricing.most_gas = Some(gas / 2),
            SendOutcome::Refused(_) | SendOutcome::Maybe(_) => {}
        }
        let terms = self.terms(now);
        self.lane.handle_event(now, Event::Terms(terms));
    }

    /// Composition limits of a transaction now; `None` while no price is known.
    pub(super) fn limits(&self) -> Option<ComposeLimits> {
        let head = self.head?;
        let config = &self.config;
        let price = head.next_base_fee.saturating_add(head.quote.max_priority_fee_per_gas);
        Some(ComposeLimits {
            max_batch: config.batch.max_batch,
            max_gas: config.batch.max_batch_gas.min(self.pricing.most_gas.unwrap_or(u64::MAX)),
            max_bytes: config.max_batch_bytes,
            base_gas: self.params.base_gas(),
            setup_wei: price.saturating_mul(u128::from(self.params.schedule.tx_base_gas)),
            price_wei_per_gas: price,
            data_wei_per_byte: 0,
            waiting_cost_percent: config.batch.waiting_cost_percent,
            linger: config.batch.linger,
            urgent: self.guard_time().saturating_add(config.batch.linger.min(config.block_time)),
            next_base_fee: head.next_base_fee,
            slots: config.lane.max_in_flight,
            quote_max_fee: head.quote.max_fee_per_gas,
            next_price: price,
            fee_cap_wei: self.pricing.fee_cap_wei,
            available_wei: Some(self.lane.available_wei()),
            block_gas: None,
        })
    }

    /// Guard time: with less slack than this, nothing waits for a better price.
    pub(super) fn guard_time(&self) -> Duration {
        let (floor, ceiling) = (self.config.block_time * 2, self.config.block_time * 60);
        self.pricing.delays.estimate().clamp(floor, ceiling.max(Duration::from_secs(60)))
    }
}
