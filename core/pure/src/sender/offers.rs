//! What a batch offers, what a transaction may hold, and what nodes' answers teach about it.

use std::time::Duration;

use alloy_primitives::U256;

use super::{
    data_fee::{empty_tx, usual_forward},
    host::{FeeView, ForecastRef, Host},
    input::{Command, SendReport},
    price::Price,
    pricing::{SUGGESTION_LASTS_BLOCKS, bump_blocks},
    state::Sender,
};
use crate::{
    chain::{
        ChainSpec, Fees, RpcErrorClass,
        data_fee::{DataFeeModel, TxSize},
    },
    forecast::Forecast,
    lane::{AttemptKey, Event, NodeTerms, SendOutcome},
    protection::Protection,
    schedule::{ComposeLimits, fee_cap, urgency_blocks},
    sender::tuning::ChainTuning,
    time::Timestamp,
};

impl<H: Host> Sender<H> {
    /// First offer of a batch with this deadline: the tighter the deadline, the higher the tip. The cap is the base fee
    /// not exceeded until then with the target probability, or follows the fixed rule without a forecast.
    pub fn offer(&self, now: Timestamp, deadline: Timestamp) -> Option<Fees> {
        let price = self.price?;
        let (spec, tuning) = (&self.facts.spec, &self.facts.tuning);
        let slack = deadline.since(now);
        let blocks = urgency_blocks(slack, spec.block_time(), bump_blocks(tuning), tuning.fees.tip_within_blocks);
        let tip = self.pricing.tip(spec, tuning, blocks);
        let fixed = price.quote.max_fee_per_gas.saturating_sub(price.quote.max_priority_fee_per_gas);
        // A forecast that lacks the newest head is worse than the fixed rule.
        let head = self.head?.number;
        let forecast = self.fees.forecast().filter(|forecast| forecast.number == head);
        let cap = forecast
            .and_then(|forecast| forecast_cap(spec, tuning, forecast, price, slack, tip, &self.pricing.extra_data))
            .unwrap_or_else(|| fixed.saturating_add(tip));
        // Without replacement the first offer must suffice.
        let cap = if spec.replacement.is_supported() { cap } else { cap.max(fixed.saturating_add(tip)) };
        Some(Fees::new(cap.max(tip), tip))
    }

    /// The forecast now in force, applied to a batch with this deadline.
    pub fn forecast_ref(&self, now: Timestamp, deadline: Timestamp) -> Option<ForecastRef> {
        self.fees.forecast_ref(deadline.since(now))
    }

    /// The nodes' terms (fee cap, least tip), as far as their answers show them.
    pub fn terms(&self, now: Timestamp) -> NodeTerms {
        let (spec, tuning) = (&self.facts.spec, &self.facts.tuning);
        let head = self.head.map_or(0, |head| head.number);
        let suggested = self.pricing.suggested.filter(|(_, at)| head.saturating_sub(*at) <= SUGGESTION_LASTS_BLOCKS);
        NodeTerms {
            fee_cap_wei: self.around.fee_cap_wei,
            least_tip_wei_per_gas: self.pricing.least_tip.demanded(now),
            suggested_tip_wei_per_gas: suggested.map_or(0, |(tip, _)| tip),
            tip_bound_wei_per_gas: if Protection::DemandedTip.is_on() {
                self.pricing.tip_bound(spec, tuning)
            } else {
                0
            },
        }
    }

    /// Handles a broadcast's result: the price and size limits it reveals go to the lane before the result itself.
    pub fn on_sent(&mut self, now: Timestamp, lane: usize, key: AttemptKey, report: SendReport) {
        let SendReport { outcome, least_tip, most_gas } = report;
        let shell = self.lanes.get(lane);
        let tip = shell.and_then(|shell| shell.durable.get(&key));
        let tip = tip.map_or(0, |attempt| attempt.get().fees.max_priority_fee_per_gas);
        let gas = shell.and_then(|shell| shell.flights.get(&key.nonce)).map_or(0, |flight| flight.record.gas_limit);
        match outcome {
            SendOutcome::Taken => self.pricing.least_tip.taken(now, tip),
            SendOutcome::Refused(class) => {
                self.pricing.refused(lane, key);
                if class == RpcErrorClass::Underpriced {
                    self.pricing.least_tip.refused(now, tip, least_tip);
                    self.ask_tip();
                }
                if class == RpcErrorClass::GasTooHigh {
                    // The nodes named no limit: assume half.
                    let most = most_gas.filter(|most| *most < gas).unwrap_or(gas / 2);
                    self.pricing.refused_gas = Some((most, now));
                }
            }
            SendOutcome::Maybe(_) => {}
        }
        let terms = self.terms(now);
        self.lane_event(now, lane, Event::Terms(terms));
        self.lane_event(now, lane, Event::Sent { key, outcome });
    }

    /// Asks nodes for a suggested tip if some transaction waits although its price should suffice.
    pub fn ask_suggested_tip(&mut self) {
        let patience = self.facts.tuning.lane.bump_after_blocks.saturating_sub(1).max(1);
        if self.lanes.iter().any(|lane| lane.machine.waiting_blocks() >= patience) {
            self.ask_tip();
        }
    }

    /// Asks the nodes for a tip, unless that is under way or of no use on this chain.
    pub fn ask_tip(&mut self) {
        let is_useful = self.facts.spec.replacement.is_supported() || self.facts.spec.has_mempool;
        if !is_useful || self.under_way.tip || self.is_stopping {
            return;
        }
        self.under_way.tip = true;
        self.command(Command::SuggestTip);
    }

    pub(crate) fn on_suggested_tip(&mut self, now: Timestamp, tip: Option<u128>) {
        self.under_way.tip = false;
        let head = self.head.map_or(0, |head| head.number);
        if let Some(tip) = tip {
            self.pricing.suggested = Some((tip, head));
        }
        let terms = self.terms(now);
        for index in 0..self.lanes.len() {
            self.lane_event(now, index, Event::Terms(terms));
        }
    }

    /// Composition limits of a transaction now; `None` while no price is known.
    pub fn limits(&self, now: Timestamp) -> Option<ComposeLimits> {
        let price = self.price?;
        let model = self.data_fee()?;
        let tuning = &self.facts.tuning;
        let expected = Expected::of(&model, &self.facts.spec, price);
        Some(ComposeLimits {
            max_batch: tuning.batch.max_batch,
            max_gas: tuning.batch.max_batch_gas.min(self.pricing.most_gas(tuning, now)),
            max_bytes: self.facts.max_payload_bytes(),
            base_gas: self.facts.params.base_gas(),
            setup_wei: expected.setup_wei,
            price_wei_per_gas: expected.wei_per_gas,
            data_wei_per_byte: expected.wei_per_byte,
            waiting_cost_percent: tuning.batch.waiting_cost_percent,
            linger: tuning.batch.linger,
            // Lingering for further members may follow, and the guard time must remain after it. A linger time beyond
            // one block is a deliberate preference for fuller batches over time.
            urgent: self.pricing.guard().saturating_add(tuning.batch.linger.min(self.facts.spec.block_time())),
            next_base_fee: price.next_base_fee,
            quote_max_fee: price.quote.max_fee_per_gas,
            slots: tuning.lane.max_in_flight,
            next_price: price.next_base_fee.saturating_add(price.quote.max_priority_fee_per_gas),
            fee_cap_wei: self.around.fee_cap_wei.filter(|_| Protection::NodeLimits.is_on()),
            available_wei: None,
            block_gas: self.pricing.block_gas(tuning),
        })
    }
}

/// Expected cost of a transaction in the next block, by component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    /// Fixed cost before the first member, wei.
    setup_wei: u128,
    /// Cost per gas, wei.
    wei_per_gas: u128,
    /// Data cost per byte of calldata, besides its gas, wei.
    wei_per_byte: u128,
}

/// Gas amount at which the operator fee's slope per gas is sampled.
const MUCH_GAS: u64 = 1_000_000;

impl Expected {
    fn of(model: &DataFeeModel, spec: &ChainSpec, price: Price) -> Self {
        let wei = |amount: U256| u128::try_from(amount).unwrap_or(u128::MAX);
        let gas_price = price.next_base_fee.saturating_add(price.quote.max_priority_fee_per_gas);
        let data = |size: &TxSize| {
            let poster = u128::from(model.poster_gas(size).expected).saturating_mul(gas_price);
            wei(model.data_fee(size)).saturating_add(poster)
        };
        let (empty, usual) = (empty_tx(), usual_forward());
        let constant = wei(model.operator_fee(0));
        let per_gas = wei(model.operator_fee(MUCH_GAS)).saturating_sub(constant) / u128::from(MUCH_GAS);
        let wei_per_gas = gas_price.saturating_add(per_gas);
        let setup_gas = u128::from(spec.gas_schedule().tx_base_gas);
        let bytes = u128::from(usual.bytes.saturating_sub(empty.bytes)).max(1);
        Self {
            setup_wei: setup_gas.saturating_mul(wei_per_gas).saturating_add(data(&empty)).saturating_add(constant),
            wei_per_gas,
            wei_per_byte: data(&usual).saturating_sub(data(&empty)) / bytes,
        }
    }
}

/// The smallest fee cap that no block until the deadline exceeds with the target probability, within the forecast's
/// horizon; never above the protocol's bound by then or the chain's ceiling. Wei per gas.
fn forecast_cap(
    spec: &ChainSpec,
    tuning: &ChainTuning,
    forecast: &Forecast,
    price: Price,
    slack: Duration,
    tip: u128,
    extra_data: &[u8],
) -> Option<u128> {
    let left = u64::try_from(slack.as_millis() / spec.block_time().as_millis().max(1)).unwrap_or(u64::MAX).max(1);
    let reach = forecast.horizons.iter().map(|horizon| u64::from(horizon.steps)).max()?;
    // Every block until then counts: inclusion may come before the last one.
    let upper = |p: f64| {
        let within = forecast.horizons.iter().filter(|horizon| u64::from(horizon.steps) <= left);
        let highest = within.map(|horizon| horizon.quantile(p)).max();
        let nearest = || forecast.horizons.iter().min_by_key(|horizon| horizon.steps).map(|near| near.quantile(p));
        highest.or_else(nearest).unwrap_or(price.next_base_fee)
    };
    let target = f64::from(tuning.forecast.cap_target_permille) / 1_000.0;
    let bound = spec.base_fee.max_after(price.next_base_fee, left.min(reach), extra_data).unwrap_or(u128::MAX);
    fee_cap(target, upper, bound, price.next_base_fee, tip, tuning.fees.max_fee_ceiling_wei_per_gas)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, Bytes};

    use super::*;
    use crate::{
        forecast::{ForecastConfig, Forecaster},
        market::{FeePoint, Tips, Utilisation},
        record::AttemptRecord,
        sender::{price::price_at, pricing::Pricing},
    };

    const GWEI: u128 = 1_000_000_000;

    fn point(number: u64, base_fee: u128, used: u64, tip: u128) -> FeePoint {
        FeePoint {
            number,
            timestamp: None,
            base_fee,
            utilisation: Some(Utilisation::Gas { used, limit: 30_000_000 }),
            tips: Tips { min: Some(tip), ..Tips::default() },
            next_base_fee: None,
        }
    }

    fn ethereum() -> (ChainSpec, ChainTuning) {
        let spec = ChainSpec::preset("ethereum").unwrap();
        let tuning = ChainTuning::for_spec(&spec);
        (spec, tuning)
    }

    fn with(change: impl FnOnce(&mut ChainTuning)) -> ChainTuning {
        let (_, mut tuning) = ethereum();
        change(&mut tuning);
        tuning
    }

    /// A chain by the rule whose blocks are now full, now empty.
    fn forecast(spec: &ChainSpec, tuning: &ChainTuning) -> Forecast {
        let horizons = tuning.forecast_steps(spec.block_time());
        let mut forecaster = Forecaster::new(ForecastConfig { horizons, ..ForecastConfig::default() }).unwrap();
        let mut base_fee = 20 * GWEI;
        let mut state = 7_u64;
        for number in 0..600 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let used = if base_fee > 40 * GWEI { 0 } else { (state >> 38) % 30_000_000 };
            let block = point(number, base_fee, used, GWEI);
            let next = crate::chain::BaseFeeParams::ETHEREUM;
            let header = crate::chain::FeeHeader {
                number,
                base_fee_per_gas: base_fee,
                gas_used: used,
                gas_limit: 30_000_000,
                ..Default::default()
            };
            base_fee = crate::chain::next_base_fee(&header, &next).unwrap();
            forecaster.observe(&FeePoint { next_base_fee: Some(base_fee), ..block });
        }
        forecaster.forecast().unwrap()
    }

    #[test]
    fn the_cap_covers_every_block_until_the_deadline_with_the_wanted_probability() {
        let (spec, tuning) = ethereum();
        let forecast = forecast(&spec, &tuning);
        let price = price_at(&spec, forecast.next_base_fee, GWEI, &[]);
        let cap = |slack: u64, tuning: &ChainTuning| {
            forecast_cap(&spec, tuning, &forecast, price, Duration::from_secs(slack), GWEI, &[]).unwrap()
        };
        assert_eq!(cap(0, &tuning), forecast.next_base_fee + GWEI, "the next block's fee is known");
        assert_eq!(cap(12, &tuning), forecast.next_base_fee + GWEI);
        let caps = [12, 24, 60, 600, 3_600, 86_400].map(|slack| cap(slack, &tuning));
        assert!(caps.is_sorted() && caps[0] < caps[3], "{caps:?}");
        for horizon in forecast.horizons.iter().filter(|horizon| horizon.steps <= 50 && horizon.steps > 1) {
            let chance = horizon.probability_below(caps[3] - GWEI);
            assert!(chance >= 0.985, "{} blocks ahead: {chance}", horizon.steps);
        }
        let bound = spec.base_fee.max_after(forecast.next_base_fee, 2, &[]).unwrap();
        assert!(caps[1] <= bound + GWEI, "no more than the protocol allows");
        let bold = with(|tuning| tuning.forecast.cap_target_permille = 600);
        assert!(cap(600, &bold) < caps[3]);
        let least = forecast.next_base_fee + 1;
        let low = with(|tuning| tuning.fees.max_fee_ceiling_wei_per_gas = least);
        assert_eq!(cap(600, &low), least);
        let none = with(|tuning| tuning.fees.max_fee_ceiling_wei_per_gas = 1);
        assert_eq!(forecast_cap(&spec, &none, &forecast, price, Duration::from_secs(600), GWEI, &[]), None);
    }

    #[test]
    fn a_transaction_is_taken_apart_into_setup_gas_and_bytes() {
        use crate::chain::data_fee::{ArbitrumPoster, OpFork, OpL1Params};
        let (spec, _) = ethereum();
        let price = price_at(&spec, 9 * GWEI, GWEI, &[]);
        let plain = Expected::of(&DataFeeModel::None, &spec, price);
        assert_eq!(plain, Expected { setup_wei: 210_000 * GWEI, wei_per_gas: 10 * GWEI, wei_per_byte: 0 });
        // As OP Mainnet in 2024: data costs more than gas.
        let params = OpL1Params {
            l1_base_fee: U256::from(30 * GWEI),
            base_fee_scalar: 1_368,
            blob_base_fee: U256::from(1_u8),
            blob_base_fee_scalar: 810_949,
            operator_fee_scalar: 2_000_000,
            operator_fee_constant: 7,
            ..OpL1Params::default()
        };
        let cheap = price_at(&spec, 1_000_000, 0, &[]);
        let rollup = Expected::of(&DataFeeModel::OpStack(OpFork::Isthmus, params), &spec, cheap);
        let model = DataFeeModel::OpStack(OpFork::Isthmus, params);
        let envelope: u128 = model.data_fee(&TxSize::of_unsigned(&[])).to();
        assert_eq!(rollup.wei_per_gas, 1_000_000 + 2, "price and operator fee");
        assert_eq!(rollup.setup_wei, 21_000 * rollup.wei_per_gas + envelope + 7);
        let all: u128 = model.data_fee(&usual_forward()).to();
        let bytes = u128::from(usual_forward().bytes - TxSize::of_unsigned(&[]).bytes);
        assert!(rollup.wei_per_byte > 0 && (all - envelope).abs_diff(rollup.wei_per_byte * bytes) < bytes);
        // Arbitrum's poster is paid in gas.
        let poster =
            ArbitrumPoster { l1_price_per_unit: U256::from(GWEI), l2_base_fee: 100_000_000, min_base_fee: 100_000_000 };
        let nitro = Expected::of(&DataFeeModel::Arbitrum(poster), &spec, price_at(&spec, 100_000_000, 0, &[]));
        assert!(nitro.setup_wei > 21_000 * nitro.wei_per_gas && nitro.wei_per_byte > 0, "{nitro:?}");
    }

    #[test]
    fn tips_are_learned_between_floor_and_ceiling() {
        let (spec, tuning) = ethereum();
        let spec = ChainSpec { min_priority_fee_wei_per_gas: 5, ..spec };
        let mut pricing = Pricing::new(&spec, &tuning);
        let tuning = with(|tuning| tuning.fees.tip_ceiling_wei_per_gas = 200 * GWEI);
        assert_eq!(pricing.tip(&spec, &tuning, 3), 5, "nothing is known");
        (1..=100_u32).for_each(|block| pricing.block(&point(block.into(), GWEI, 15_000_000, u128::from(block) * GWEI)));
        // Empty blocks would have taken anything: they say nothing.
        (101..=199_u32).for_each(|block| pricing.block(&point(block.into(), GWEI, 0, 0)));
        assert_eq!(pricing.tip(&spec, &tuning, 1), 90 * GWEI, "90 % in the next block");
        assert_eq!(pricing.tip(&spec, &tuning, 3), 54 * GWEI, "90 % within three: 53.6 % each");
        let capped = with(|tuning| tuning.fees.tip_ceiling_wei_per_gas = 60 * GWEI);
        assert_eq!(pricing.tip(&spec, &capped, 1), 60 * GWEI);
        let dear = ChainSpec { min_priority_fee_wei_per_gas: 99 * GWEI, ..spec.clone() };
        assert_eq!(pricing.tip(&dear, &capped, 1), 99 * GWEI, "what the chain asks for is paid");
        let quote = pricing.quote(&spec, &tuning, GWEI, Bytes::new()).quote;
        assert_eq!(quote.max_priority_fee_per_gas, 54 * GWEI);
        // What we paid bounds what blocks seem to ask for.
        (0..50).for_each(|_| pricing.paid.record(Timestamp(1), 2 * GWEI));
        assert_eq!(pricing.tip(&spec, &tuning, 1), 20 * GWEI);
        let mut free = Pricing::new(&spec, &tuning);
        (1..=100).for_each(|block| free.block(&point(block, GWEI, 15_000_000, 0)));
        assert_eq!(free.tip(&spec, &tuning, 1), 5);
    }

    #[test]
    fn what_we_offered_in_vain_raises_the_tip_and_what_was_measured_moves_the_guard_time() {
        let (spec, tuning) = ethereum();
        let mut pricing = Pricing::new(&spec, &tuning);
        (1..=100).for_each(|block| pricing.block(&point(block, GWEI, 15_000_000, GWEI)));
        let usual = pricing.tip(&spec, &tuning, 3);
        assert_eq!((usual, pricing.guard()), (GWEI, tuning.timing.urgent_within), "15 block times at the start");
        let attempt = |tip| AttemptRecord {
            batch: crate::request::BatchId {
                lane: crate::request::LaneId { chain_id: 1, sender: alloy_primitives::Address::ZERO },
                nonce: 0,
            },
            index: 0,
            kind: crate::lane::AttemptKind::Payload,
            fees: Fees::new(90 * GWEI, tip),
            hash: B256::ZERO,
            raw: Bytes::new(),
            created_at: Timestamp(0),
        };
        let mut head = 100;
        let mut round = |pricing: &mut Pricing, blocks: u64| {
            let key = AttemptKey { nonce: head, index: 0 };
            let sent = Timestamp(head * 12_000);
            let _ = pricing.sent(0, key, &attempt(GWEI), head, sent);
            (1..=blocks).for_each(|ahead| pricing.block(&point(head + ahead, GWEI, 15_000_000, GWEI)));
            head += blocks;
            let _ = pricing.included(&tuning, 0, key, head, true, usual, Timestamp(head * 12_000));
        };
        (0..30).for_each(|_| round(&mut pricing, 5));
        assert!(pricing.tip(&spec, &tuning, 3) > usual, "thirty of ours waited five blocks");
        (0..400).for_each(|_| round(&mut pricing, 1));
        assert_eq!(pricing.tip(&spec, &tuning, 3), usual, "and then none did");
        assert_eq!(pricing.measured(), 430);
        // The longest of 430, a minute, stretched by 1 + 10 / √430; and four blocks for a bump.
        assert_eq!(pricing.guard().as_secs(), 136, "{:?}", pricing.guard());
        let tight = with(|tuning| tuning.timing.guard_time_ceiling = Duration::from_secs(70));
        pricing.refresh_guard(&tight);
        assert_eq!(pricing.guard().as_secs(), 70);
        let wide = with(|tuning| tuning.timing.guard_time_floor = Duration::from_secs(500));
        pricing.refresh_guard(&wide);
        assert_eq!(pricing.guard().as_secs(), 500);
    }
}
