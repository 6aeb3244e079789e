//! Configuration of a local relay, with every limit.

use std::time::Duration;

use alloy_primitives::Address;

use crate::{
    chain::{DEFAULT_DEADLINE_SKEW_S, DEFAULT_MAX_TX_BYTES, FinalityRule, Fork, ReplacementRule},
    schedule::RecordRule,
};

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
    /// Margin of the reserved L1 data fee above the current one, percent.
    pub l1_fee_margin_percent: u32,
    /// Least tip accepted by nodes, wei per gas.
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
    /// Most requests in one transaction.
    pub max_batch: usize,
    /// Highest gas limit of one transaction.
    pub max_batch_gas: u64,
    /// Most bytes of calldata in one transaction.
    pub max_batch_bytes: usize,
    /// Longest wait for further batch members, from acceptance.
    pub linger: Duration,
    /// Assumed cost of waiting for further members through all of a request's slack, percent of its cost alone.
    pub waiting_cost_percent: u32,
    /// Most transactions in flight.
    pub max_in_flight: usize,
    /// Blocks without inclusion after which an attempt is replaced.
    pub bump_after_blocks: u64,
    /// Blocks without inclusion after which the same bytes are sent again.
    pub rebroadcast_after_blocks: u64,
    /// Most attempts for one nonce.
    pub max_attempts: u32,
    /// Most refused plans of one nonce; after that it is cancelled.
    pub max_refused_plans: u32,
    /// Retention and number of suspect targets, whose behaviour differed from simulation; in memory, until the page is
    /// left.
    pub targets: RecordRule,
    /// Ceiling of an attempt's fee cap, wei per gas.
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Fixed cost of one forward request inside `executeBatch`, gas.
    pub forward_overhead_gas: u64,
    /// Gas of a transfer to oneself, for cancels.
    pub cancel_gas: u64,
    /// Send policy for requests with slack.
    pub timing: LocalTiming,
    /// Share of recent prices that must be above the current one to send early, percent.
    pub patience_percentile: u8,
    /// Slack below which price does not matter, until inclusion delays were measured.
    pub urgent_within: Duration,
    /// Target probability that a tip suffices within [`Self::tip_within_blocks`], 0 to 1.
    pub tip_target: f64,
    /// Blocks within which a tip should suffice.
    pub tip_within_blocks: u32,
    /// Ceiling of a learned tip, wei per gas.
    pub tip_ceiling_wei_per_gas: u128,
    /// Blocks of fee history used to learn prices and tips.
    pub fee_history_blocks: u64,
    /// Slack of a request that names no deadline.
    pub default_within: Duration,
    /// Longest accepted slack.
    pub max_within: Duration,
    /// Shortest accepted slack.
    pub guard: Duration,
    /// Failed simulations after which a request is rejected.
    pub max_simulations: u32,
    /// Batch failures after which a request is rejected.
    pub max_batch_failures: u32,
    /// Most open requests.
    pub max_open: usize,
    /// Retention of ended requests that are not acknowledged.
    pub keep_ended: Duration,
    /// Largest record accepted when read back, bytes.
    pub max_record_bytes: usize,
    /// Serve forwarders whose code is not one of the known versions.
    pub allow_unknown_forwarder: bool,
    /// Blocks read one by one to find the transaction that used a nonce, if the node has no old state.
    pub spender_scan_blocks: u64,
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
            l1_fee_margin_percent: 300,
            min_priority_fee_wei_per_gas: 1,
            deadline_skew: Duration::from_secs(DEFAULT_DEADLINE_SKEW_S),
            poll_interval,
            max_poll_pause: Duration::from_secs(30),
            rpc_timeout: Duration::from_secs(15),
            stale_after: (block_time * 4).max(Duration::from_secs(30)),
            max_batch: 20,
            max_batch_gas: 8_000_000,
            max_batch_bytes: usize::try_from(DEFAULT_MAX_TX_BYTES).unwrap_or(usize::MAX) / 2,
            linger: block_time.clamp(Duration::from_millis(50), Duration::from_secs(2)),
            waiting_cost_percent: 100,
            max_in_flight: 4,
            bump_after_blocks: 3,
            rebroadcast_after_blocks: 2,
            max_attempts: 16,
            max_refused_plans: 8,
            targets: RecordRule { max_records: 1_000, ..RecordRule::default() },
            max_fee_ceiling_wei_per_gas: 1_000_000_000_000,
            forward_overhead_gas: 45_000,
            cancel_gas: 21_000,
            timing: LocalTiming::Percentile,
            patience_percentile: 40,
            urgent_within,
            tip_target: 0.9,
            tip_within_blocks: 3,
            tip_ceiling_wei_per_gas: 20_000_000_000,
            fee_history_blocks: 100,
            default_within: Duration::from_secs(600),
            max_within: Duration::from_secs(24 * 3_600),
            guard: block_time * 2,
            max_simulations: 3,
            max_batch_failures: 4,
            max_open: 1_000,
            keep_ended: Duration::from_secs(24 * 3_600),
            max_record_bytes: 4 << 20,
            allow_unknown_forwarder: false,
            spender_scan_blocks: 128,
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ms = |time: Duration| u128::from(crate::time::millis(time));
        let ranges: [(&'static str, u128, u128, u128); 17] = [
            ("chain_id", self.chain_id.into(), 1, u64::MAX.into()),
            ("block_time_ms", ms(self.block_time), 1, 600_000),
            ("poll_interval_ms", ms(self.poll_interval), 10, 600_000),
            ("rpc_timeout_ms", ms(self.rpc_timeout), 100, 600_000),
            ("max_batch", self.max_batch as u128, 1, 1_000),
            ("max_batch_gas", self.max_batch_gas.into(), 100_000, 1 << 40),
            ("max_in_flight", self.max_in_flight as u128, 1, 16),
            ("bump_after_blocks", self.bump_after_blocks.into(), 1, 1_000),
            ("rebroadcast_after_blocks", self.rebroadcast_after_blocks.into(), 1, 1_000),
            ("max_attempts", self.max_attempts.into(), 2, 100),
            ("max_refused_plans", self.max_refused_plans.into(), 1, 100),
            ("suspect_ms", ms(self.targets.suspect), 1, 31_536_000_000),
            ("max_target_records", self.targets.max_records as u128, 1, 1_000_000),
            ("fee_history_blocks", self.fee_history_blocks.into(), 1, 1_024),
            ("tip_within_blocks", self.tip_within_blocks.into(), 1, 100),
            ("max_open", self.max_open as u128, 1, 10_000),
            ("cancel_gas", self.cancel_gas.into(), 21_000, 10_000_000),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ConfigError { key, value, min, max });
            }
        }
        Ok(())
    }
}

/// A configuration value outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is outside {min}..={max}")]
pub struct ConfigError {
    /// Name of the setting.
    pub key: &'static str,
    /// The rejected value.
    pub value: u128,
    /// Least valid value.
    pub min: u128,
    /// Highest valid value.
    pub max: u128,
}
