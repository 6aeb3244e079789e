//! How a local relay behaves. Every limit is here.

use std::time::Duration;

use alloy_primitives::Address;

use crate::{
    chain::{DEFAULT_DEADLINE_SKEW_S, DEFAULT_MAX_TX_BYTES, FinalityRule, Fork, ReplacementRule},
    schedule::RecordRule,
};

/// When a request that can wait goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalTiming {
    /// With the next block.
    Immediate,
    /// When the price ranks low among recent blocks, relaxing as the slack runs out
    /// ([`PercentileOutlook`](crate::schedule::PercentileOutlook)).
    Percentile,
}

/// Limits and pace of a local relay.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalConfig {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Usual time between blocks.
    pub block_time: Duration,
    /// When a block is final.
    pub finality: FinalityRule,
    /// How a pending transaction is replaced.
    pub replacement: ReplacementRule,
    /// Whose gas constants apply.
    pub fork: Fork,
    /// The contract that tells the L1 data fee of a transaction, with the interface of OP Stack's `GasPriceOracle`; `None` where
    /// there is no such fee.
    pub l1_fee_oracle: Option<Address>,
    /// How far the L1 data fee that is reserved lies above the current one, percent.
    pub l1_fee_margin_percent: u32,
    /// Least tip that nodes take, wei per gas.
    pub min_priority_fee_wei_per_gas: u128,
    /// Margin between our clock and block time: a signed deadline counts as this much earlier (I7).
    pub deadline_skew: Duration,
    /// How often the head is looked at while something is under way.
    pub poll_interval: Duration,
    /// Longest pause between looks while the node does not answer.
    pub max_poll_pause: Duration,
    /// Longest wait for one answer; after that it counts as lost (I5).
    pub rpc_timeout: Duration,
    /// Nothing new is sent by a head that was looked at longer ago: the machine may have slept.
    pub stale_after: Duration,
    /// Most requests in one transaction.
    pub max_batch: usize,
    /// Highest gas limit of one transaction.
    pub max_batch_gas: u64,
    /// Most bytes of calldata in one transaction.
    pub max_batch_bytes: usize,
    /// Longest wait for company, from acceptance.
    pub linger: Duration,
    /// What it costs to wait for company through all of a request's slack, percent of what it would cost alone.
    pub waiting_cost_percent: u32,
    /// Most transactions outside blocks.
    pub max_in_flight: usize,
    /// Blocks without inclusion after which an attempt is replaced.
    pub bump_after_blocks: u64,
    /// Blocks without inclusion after which the same bytes are sent again.
    pub rebroadcast_after_blocks: u64,
    /// Most attempts for one nonce.
    pub max_attempts: u32,
    /// Most contents of one nonce that the node refused; then it is cancelled.
    pub max_refused_plans: u32,
    /// How long targets are suspect that surprised, and how many are remembered: in memory, until the page is left.
    pub targets: RecordRule,
    /// No attempt offers more per gas.
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Fixed cost of one forward request inside `executeBatch`, gas.
    pub forward_overhead_gas: u64,
    /// Gas of a transfer to oneself, for cancels.
    pub cancel_gas: u64,
    /// When a request that can wait goes out.
    pub timing: LocalTiming,
    /// Share of recent prices that must be above the current one to send early, percent.
    pub patience_percentile: u8,
    /// Slack below which price does not matter, until inclusions were measured.
    pub urgent_within: Duration,
    /// Wanted chance that a tip is enough within [`Self::tip_within_blocks`].
    pub tip_target: f64,
    /// Blocks within which a tip should be enough.
    pub tip_within_blocks: u32,
    /// No learned tip is higher, wei per gas.
    pub tip_ceiling_wei_per_gas: u128,
    /// Blocks of fee history that prices and tips are learned from.
    pub fee_history_blocks: u64,
    /// Deadline of a request that names none.
    pub default_within: Duration,
    /// Longest slack that is accepted.
    pub max_within: Duration,
    /// Shortest slack that is accepted.
    pub guard: Duration,
    /// Failed simulations after which a request is rejected.
    pub max_simulations: u32,
    /// Transactions that failed as a whole after which a request is rejected.
    pub max_batch_failures: u32,
    /// Most requests that have not ended.
    pub max_open: usize,
    /// How long ended requests are remembered unless they are acknowledged.
    pub keep_ended: Duration,
    /// Largest record that is read back, bytes.
    pub max_record_bytes: usize,
    /// Serve forwarders whose code is not one of the known versions.
    pub allow_unknown_forwarder: bool,
    /// Blocks that are read one by one to find who used a nonce, where the node has no old state.
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

    /// What is wrong with it.
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

/// A number of the configuration is out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is outside {min}..={max}")]
pub struct ConfigError {
    /// Which.
    pub key: &'static str,
    /// As given.
    pub value: u128,
    /// Least.
    pub min: u128,
    /// Most.
    pub max: u128,
}
