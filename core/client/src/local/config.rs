//! Configuration of a local relay, with every limit.

use std::time::Duration;

use alloy_primitives::Address;

use crate::{
    chain::{
        BaseFeeParams, BaseFeeRule, ChainFamily, ChainSpec, DEFAULT_DEADLINE_SKEW_S, DEFAULT_MAX_TX_BYTES,
        FinalityRule, Fork, ReplacementRule,
    },
    lane::LaneConfig,
    ordered::{Map, Set},
    request::{LaneId, Unsimulated, vehicle::VehicleParams},
    schedule::{PercentileOutlook, RecordRule},
    sender::{ChainFacts, tuning::ChainTuning},
    time::millis,
    tuning::{BatchTuning, FeeTuning, Group, LaneTuning, Range, check},
};

/// Slack at and above which the percentile gate is strictest.
const PATIENCE_HORIZON: Duration = Duration::from_secs(3_600);

/// Bytes of a transaction besides its calldata, at most.
const ENVELOPE_BYTES: u64 = 1_024;

/// Send policy for requests with slack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalTiming {
    /// Send with the next block.
    Immediate,
    /// Send when the price ranks low among recent blocks, relaxing as the slack runs out
    /// ([`PercentileOutlook`](crate::schedule::PercentileOutlook)).
    Percentile,
}

/// Limits and timing of a local relay.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalConfig {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Usual time between blocks.
    pub block_time: Duration,
    /// Finality rule of the chain.
    pub finality: FinalityRule,
    /// Rule for replacing a pending transaction.
    pub replacement: ReplacementRule,
    /// Fork that determines the gas schedule.
    pub fork: Fork,
    /// Contract that quotes a transaction's L1 data fee, with the interface of OP Stack's `GasPriceOracle`; `None` on
    /// chains without such a fee.
    pub l1_fee_oracle: Option<Address>,
    /// Offers per gas.
    pub fees: FeeTuning,
    /// Least tip that nodes take, wei per gas.
    pub min_priority_fee_wei_per_gas: u128,
    /// Margin between our clock and block time: a signed deadline counts as this much earlier (I7).
    pub deadline_skew: Duration,
    /// Poll interval of the head while something is under way.
    pub poll_interval: Duration,
    /// Longest pause between polls while the node does not answer.
    pub max_poll_pause: Duration,
    /// Time limit for one answer; after that it counts as lost (I5).
    pub rpc_timeout: Duration,
    /// Maximum age of the last head poll for sending anything new: the device may have slept.
    pub stale_after: Duration,
    /// Size of transactions.
    pub batch: BatchTuning,
    /// Most bytes of calldata in one transaction.
    pub max_batch_bytes: usize,
    /// Transactions outside blocks.
    pub lane: LaneTuning,
    /// Suspicion of targets, which are remembered until the page is left.
    pub targets: RecordRule,
    /// When a request that can wait goes out.
    pub timing: LocalTiming,
    /// Share of recent prices that must be above the current one to send early, percent.
    pub patience_percentile: u8,
    /// Slack below which price does not matter, until inclusion delays were measured.
    pub urgent_within: Duration,
    /// Deadline of a request that names none.
    pub default_within: Duration,
    /// Longest accepted slack.
    pub max_within: Duration,
    /// Shortest slack that is accepted.
    pub min_slack: Duration,
    /// Failed simulations after which a request is rejected.
    pub max_simulations: u32,
    /// Most open requests.
    pub max_open: usize,
    /// Retention of ended requests that are not acknowledged.
    pub keep_ended: Duration,
    /// Largest record accepted when read back, bytes.
    pub max_record_bytes: usize,
    /// Serve forwarders whose code is not one of the known versions.
    pub allow_unknown_forwarder: bool,
}

impl LocalConfig {
    /// Defaults for a chain with this time between blocks.
    pub fn new(chain_id: u64, block_time: Duration) -> Self {
        let poll_interval = (block_time / 2).clamp(Duration::from_millis(500), Duration::from_secs(4));
        let urgent_within = block_time * 15;
        Self {
            chain_id,
            block_time,
            finality: FinalityRule::FinalizedTag { fallback_depth: 64 },
            replacement: ReplacementRule::SAFE_EVERYWHERE,
            fork: Fork::Osaka,
            l1_fee_oracle: None,
            fees: FeeTuning {
                max_fee_ceiling_wei_per_gas: 1_000_000_000_000,
                tip_target_permille: 900,
                tip_within_blocks: 3,
                tip_ceiling_wei_per_gas: 20_000_000_000,
                l1_fee_margin_percent: 300,
                fee_history_blocks: 100,
            },
            min_priority_fee_wei_per_gas: 1,
            deadline_skew: Duration::from_secs(DEFAULT_DEADLINE_SKEW_S),
            poll_interval,
            max_poll_pause: Duration::from_secs(30),
            rpc_timeout: Duration::from_secs(15),
            stale_after: (block_time * 4).max(Duration::from_secs(30)),
            batch: BatchTuning {
                max_batch: 20,
                max_batch_gas: 8_000_000,
                linger: block_time.clamp(Duration::from_millis(50), Duration::from_secs(2)),
                waiting_cost_percent: 100,
                forward_overhead_gas: 45_000,
            },
            max_batch_bytes: usize::try_from(DEFAULT_MAX_TX_BYTES).unwrap_or(usize::MAX) / 2,
            lane: LaneTuning {
                max_in_flight: 4,
                bump_after_blocks: 3,
                rebroadcast_after_blocks: 2,
                max_attempts: 16,
                max_refused_plans: 8,
                cancel_gas: 21_000,
                spender_scan_blocks: 128,
            },
            targets: RecordRule::default().with(|it| it.max_records = 1_000),
            timing: LocalTiming::Percentile,
            patience_percentile: 40,
            urgent_within,
            default_within: Duration::from_secs(600),
            max_within: Duration::from_secs(24 * 3_600),
            min_slack: block_time * 2,
            max_simulations: 3,
            max_open: 1_000,
            keep_ended: Duration::from_secs(24 * 3_600),
            max_record_bytes: 4 << 20,
            allow_unknown_forwarder: false,
        }
    }

    /// Checks the ranges of its numbers.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut first = None;
        let mut fail = |key, value, range| _ = first.get_or_insert(ConfigError { key, value, range });
        for (key, value, max) in [
            ("chain_id", self.chain_id, u64::MAX),
            ("block_time_ms", millis(self.block_time), 600_000),
            ("max_open", self.max_open as u64, 10_000),
        ] {
            check(key, &value, Some((1..=max).into()), &mut fail);
        }
        check("poll_interval_ms", &self.poll_interval, Some((10..=600_000).into()), &mut fail);
        check("rpc_timeout_ms", &self.rpc_timeout, Some((100..=600_000).into()), &mut fail);
        self.batch.check(&mut fail);
        self.lane.check(&mut fail);
        self.fees.check(&mut fail);
        self.targets.check(&mut fail);
        first.map_or(Ok(()), Err)
    }
}

impl LocalConfig {
    /// The chain and its limits, as the sender knows them.
    pub(super) fn facts(&self, sender: Address) -> ChainFacts {
        let spec = self.spec();
        let mut tuning = ChainTuning::for_spec(&spec);
        (tuning.batch, tuning.lane, tuning.fees, tuning.targets) = (self.batch, self.lane, self.fees, self.targets);
        tuning.timing.urgent_within = self.urgent_within;
        tuning.market.tip_window_blocks = usize::try_from(self.fees.fee_history_blocks).unwrap_or(usize::MAX);
        tuning.retry.max_refusals = self.max_simulations;
        tuning.simulation.max_simulations = self.max_simulations;
        // A node that can't simulate can't hold a request back: its receipt will show the outcome.
        tuning.simulation.unsimulated = Unsimulated::Send;
        let params = VehicleParams {
            sender,
            // Every call is a transaction of its own here, because no Multicall3 code was checked.
            multicall3: None,
            has_capped_calls: false,
            schedule: *self.fork.gas_schedule(),
            forward_overhead_gas: self.batch.forward_overhead_gas,
        };
        ChainFacts {
            spec,
            tuning,
            forwarders: Map::new(),
            tokens: Map::new(),
            known_forwarders: Set::new(),
            params,
            default_within: self.default_within,
        }
    }

    fn spec(&self) -> ChainSpec {
        ChainSpec {
            chain_id: self.chain_id,
            name: String::new(),
            family: if self.l1_fee_oracle.is_some() { ChainFamily::OpStack } else { ChainFamily::Ethereum },
            block_time_ms: millis(self.block_time),
            fork: self.fork,
            // The fastest rise of the chains in use.
            base_fee: BaseFeeRule::Eip1559(BaseFeeParams::ETHEREUM),
            replacement: self.replacement,
            finality: self.finality,
            tx_gas_cap_override: None,
            max_tx_bytes: (self.max_batch_bytes as u64).saturating_add(ENVELOPE_BYTES),
            min_priority_fee_wei_per_gas: self.min_priority_fee_wei_per_gas,
            rpc_tx_fee_cap_wei: None,
            tip_ceiling_wei_per_gas: self.fees.tip_ceiling_wei_per_gas,
            max_fee_ceiling_wei_per_gas: self.fees.max_fee_ceiling_wei_per_gas,
            replan_after_blocks: 0,
            multicall3: None,
            has_mempool: self.replacement.is_supported(),
            deadline_skew_s: self.deadline_skew.as_secs(),
            explorer: None,
        }
    }

    /// The gate of requests that wait for a price.
    pub(super) fn gate(&self) -> PercentileOutlook {
        let window = usize::try_from(self.fees.fee_history_blocks).unwrap_or(usize::MAX);
        PercentileOutlook::new(window, self.patience_percentile, self.urgent_within, PATIENCE_HORIZON)
    }
}

pub(super) fn lane_config(config: &LocalConfig, sender: Address) -> LaneConfig {
    LaneConfig {
        id: LaneId { chain_id: config.chain_id, sender },
        max_in_flight: config.lane.max_in_flight,
        replacement: config.replacement,
        bump_after_blocks: config.lane.bump_after_blocks,
        rebroadcast_after_blocks: config.lane.rebroadcast_after_blocks,
        // Nobody else waits behind a page's own requests.
        abandon_after_blocks: 0,
        max_attempts: config.lane.max_attempts,
        max_refused_plans: config.lane.max_refused_plans,
        max_fee_ceiling_wei_per_gas: config.fees.max_fee_ceiling_wei_per_gas,
        cancel_gas: config.lane.cancel_gas,
    }
}

/// A configuration value outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is not {range}")]
pub struct ConfigError {
    /// Its key.
    pub key: &'static str,
    /// The number, as given.
    pub value: u128,
    /// Allowed numbers.
    pub range: Range,
}
