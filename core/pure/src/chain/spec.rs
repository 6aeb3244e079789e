//! Specification of one chain, as data.

use std::time::Duration;

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use super::base_fee::{BaseFeeParams, BaseFeeRule, GasTarget};
use super::decimal;
use super::family::ChainFamily;
use super::finality::FinalityRule;
use super::gas_schedule::{Fork, GasSchedule};
use super::replacement::ReplacementRule;

/// Default of [`ChainSpec::max_tx_bytes`]: geth's `txMaxSize`, 128 KiB.
pub const DEFAULT_MAX_TX_BYTES: u64 = 131_072;
/// Default of [`ChainSpec::tip_ceiling_wei_per_gas`]: 1 gwei, as on rollups.
pub const DEFAULT_TIP_CEILING: u128 = 1_000_000_000;
/// Default of [`ChainSpec::replan_after_blocks`].
pub const DEFAULT_REPLAN_AFTER_BLOCKS: u64 = 3;
/// Default of [`ChainSpec::max_fee_ceiling_wei_per_gas`]: 1 000 gwei.
pub const DEFAULT_FEE_CEILING: u128 = 1_000_000_000_000;
/// A tip ceiling is at least this multiple of the least tip.
const LEAST_TIPS: u128 = 4;
/// Default of [`ChainSpec::deadline_skew_s`].
pub const DEFAULT_DEADLINE_SKEW_S: u64 = 15;
/// Least bump that [`ChainSpec::validate`] allows: every known client demands 10 % (invariant I6).
pub const MIN_BUMP_BPS: u32 = 1_000;
/// Longest block time that [`ChainSpec::validate`] allows: ten minutes.
const MAX_BLOCK_TIME_MS: u64 = 600_000;
/// Largest deadline margin that [`ChainSpec::validate`] allows: an hour.
const MAX_DEADLINE_SKEW_S: u64 = 3_600;
/// Largest bump that [`ChainSpec::validate`] allows: ten times the price. More is a typing error.
const MAX_BUMP_BPS: u32 = 100_000;

/// Specification of one chain: ids, timing, fee rules, limits, finality. Comes from a preset, the operator's file, or
/// both.
///
/// A spec describes the chain's protocol and nodes; the operator's choices (fee ceilings, budgets) are configuration.
/// `config check` compares it with the live chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainSpec {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Name for people and logs, and the preset's name.
    pub name: String,
    /// Chain family, which determines the fee components.
    pub family: ChainFamily,
    /// Usual time between blocks, ms.
    pub block_time_ms: u64,
    /// Execution-layer fork whose gas constants apply.
    pub fork: Fork,
    /// Base fee rule.
    pub base_fee: BaseFeeRule,
    /// Replacement rule.
    pub replacement: ReplacementRule,
    /// Finality rule.
    pub finality: FinalityRule,
    /// Highest gas limit of one transaction if the chain differs from its fork; `None` otherwise. Read
    /// [`Self::tx_gas_cap`].
    #[serde(default, rename = "tx_gas_cap_gas", skip_serializing_if = "Option::is_none")]
    pub tx_gas_cap_override: Option<u64>,
    /// Largest raw transaction that nodes accept, bytes.
    #[serde(default = "default_max_tx_bytes")]
    pub max_tx_bytes: u64,
    /// Least tip that nodes accept, wei per gas.
    #[serde(default, with = "decimal")]
    pub min_priority_fee_wei_per_gas: u128,
    /// Highest `gas_limit × max_fee` that nodes accept, wei (geth `--rpc.txfeecap`, 1 ETH); `None` if they set no
    /// limit.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub rpc_tx_fee_cap_wei: Option<u128>,
    /// Default ceiling of a learned tip, wei per gas: one dishonest node must not set the price. At least four times
    /// the least tip.
    #[serde(default = "default_tip_ceiling", with = "decimal")]
    pub tip_ceiling_wei_per_gas: u128,
    /// Default ceiling of a transaction's fee cap, wei per gas. Not below the highest recorded base fee.
    #[serde(default = "default_fee_ceiling", with = "decimal")]
    pub max_fee_ceiling_wei_per_gas: u128,
    /// Default depth, in blocks, of a transaction before forwards that it left out enter another one: usual reorgs are
    /// shorter.
    #[serde(default = "default_replan_after_blocks")]
    pub replan_after_blocks: u64,
    /// Address of Multicall3; `None` if it is not deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicall3: Option<Address>,
    /// True if a sent transaction can wait in a pool. Without a pool it is executed, refused, or lost, at once.
    pub has_mempool: bool,
    /// Margin between the relayer's clock and block time, seconds: an on-chain deadline is treated as this much earlier
    /// (invariant I7).
    #[serde(default = "default_deadline_skew_s")]
    pub deadline_skew_s: u64,
    /// Block explorer, for links; no trailing slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explorer: Option<String>,
}

const fn default_max_tx_bytes() -> u64 {
    DEFAULT_MAX_TX_BYTES
}

const fn default_tip_ceiling() -> u128 {
    DEFAULT_TIP_CEILING
}

const fn default_fee_ceiling() -> u128 {
    DEFAULT_FEE_CEILING
}

const fn default_replan_after_blocks() -> u64 {
    DEFAULT_REPLAN_AFTER_BLOCKS
}

const fn default_deadline_skew_s() -> u64 {
    DEFAULT_DEADLINE_SKEW_S
}

/// Errors in a [`ChainSpec`], by the preset or the operator; each names the key to correct.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A number is outside its range.
    #[error("{key} = {value} is outside {min}..={max}")]
    OutOfRange {
        /// Configuration key.
        key: &'static str,
        /// Configured value.
        value: u128,
        /// Least allowed value.
        min: u128,
        /// Highest allowed value.
        max: u128,
    },
    /// A text is empty or has the wrong form.
    #[error("{key} = {value:?} must be {expected}")]
    Malformed {
        /// Configuration key.
        key: &'static str,
        /// Configured value.
        value: String,
        /// Expected form.
        expected: &'static str,
    },
    /// Two keys contradict each other.
    #[error("{key} contradicts {other}: {fix}")]
    Contradiction {
        /// Configuration key.
        key: &'static str,
        /// The other key.
        other: &'static str,
        /// Suggested correction.
        fix: &'static str,
    },
}

impl ChainSpec {
    /// Gas constants of the chain's fork.
    #[must_use]
    pub const fn gas_schedule(&self) -> &'static GasSchedule {
        self.fork.gas_schedule()
    }

    /// Highest gas limit of one transaction: the chain's own, else its fork's (2^24 from Osaka), `None` if only the block
    /// limits it.
    #[must_use]
    pub const fn tx_gas_cap(&self) -> Option<u64> {
        match self.tx_gas_cap_override {
            Some(cap) => Some(cap),
            None => self.gas_schedule().tx_gas_cap,
        }
    }

    /// Usual time between blocks.
    #[must_use]
    pub const fn block_time(&self) -> Duration {
        Duration::from_millis(self.block_time_ms)
    }

    /// Checks every field and their agreement.
    ///
    /// # Errors
    /// All errors, not only the first.
    pub fn validate(&self) -> Result<(), Vec<SpecError>> {
        let mut errors = Vec::new();
        let mut range = |key, value: u128, min: u128, max: u128| {
            if !(min..=max).contains(&value) {
                errors.push(SpecError::OutOfRange { key, value, min, max });
            }
        };
        range("chain_id", self.chain_id.into(), 1, u64::MAX.into());
        range("block_time_ms", self.block_time_ms.into(), 1, MAX_BLOCK_TIME_MS.into());
        range("max_tx_bytes", self.max_tx_bytes.into(), 1_024, 16 * 1_024 * 1_024);
        range("deadline_skew_s", self.deadline_skew_s.into(), 0, MAX_DEADLINE_SKEW_S.into());
        let least = self.min_priority_fee_wei_per_gas.saturating_mul(LEAST_TIPS);
        range("tip_ceiling_wei_per_gas", self.tip_ceiling_wei_per_gas, least.max(1), u128::MAX);
        range("replan_after_blocks", self.replan_after_blocks.into(), 1, 100_000);
        range("max_fee_ceiling_wei_per_gas", self.max_fee_ceiling_wei_per_gas, self.tip_ceiling_wei_per_gas, u128::MAX);
        if let Some(cap) = self.tx_gas_cap_override {
            range("tx_gas_cap_gas", cap.into(), self.gas_schedule().tx_base_gas.into(), u64::MAX.into());
        }
        if let Some(cap) = self.rpc_tx_fee_cap_wei {
            range("rpc_tx_fee_cap_wei", cap, 1, u128::MAX);
        }
        if let FinalityRule::Depth { blocks } = self.finality {
            range("finality.blocks", blocks.into(), 1, 1_000_000);
        }
        if let ReplacementRule::Bump { bump_bps, blob_bump_bps, .. } = self.replacement {
            range("replacement.bump_bps", bump_bps.into(), MIN_BUMP_BPS.into(), MAX_BUMP_BPS.into());
            range("replacement.blob_bump_bps", blob_bump_bps.into(), bump_bps.into(), MAX_BUMP_BPS.into());
        }
        match self.base_fee {
            BaseFeeRule::Eip1559(params) | BaseFeeRule::OpStack { fallback: params } => {
                check_params(&params, &mut range);
            }
            BaseFeeRule::Bounded { max_change_bps, estimate } => {
                range("base_fee.max_change_bps", max_change_bps.into(), 1, 10_000);
                check_params(&estimate, &mut range);
            }
            BaseFeeRule::Backlog { .. } | BaseFeeRule::Operator { .. } => {}
        }
        self.check_texts(&mut errors);
        self.check_agreement(&mut errors);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check_texts(&self, errors: &mut Vec<SpecError>) {
        let mut malformed = |key, value: String, expected| errors.push(SpecError::Malformed { key, value, expected });
        let is_name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_name_byte) {
            malformed("name", self.name.clone(), "1 to 64 of a-z, 0-9 and '-'");
        }
        if let Some(url) = &self.explorer
            && (!url.starts_with("https://") || url.ends_with('/'))
        {
            malformed("explorer", url.clone(), "an https:// address without trailing slash");
        }
        if self.multicall3 == Some(Address::ZERO) {
            malformed("multicall3", Address::ZERO.to_string(), "a contract's address, or absent");
        }
    }

    fn check_agreement(&self, errors: &mut Vec<SpecError>) {
        let mut contradiction = |key, other, fix| errors.push(SpecError::Contradiction { key, other, fix });
        if !self.has_mempool && self.replacement.is_supported() {
            contradiction("replacement", "has_mempool", "without a pool use kind = \"no_pool\"");
        }
        if self.has_mempool && self.replacement == ReplacementRule::NoPool {
            contradiction("replacement", "has_mempool", "kind = \"no_pool\" needs has_mempool = false");
        }
        let is_op_rule = matches!(self.base_fee, BaseFeeRule::OpStack { .. });
        if is_op_rule != (self.family == ChainFamily::OpStack) {
            contradiction("base_fee", "family", "kind = \"op_stack\" and family = \"op_stack\" go together");
        }
        let is_backlog = matches!(self.base_fee, BaseFeeRule::Backlog { .. });
        if is_backlog != (self.family == ChainFamily::Arbitrum) {
            contradiction("base_fee", "family", "kind = \"backlog\" and family = \"arbitrum\" go together");
        }
    }
}

fn check_params(params: &BaseFeeParams, mut range: impl FnMut(&'static str, u128, u128, u128)) {
    range("base_fee.denominator", params.denominator.into(), 1, u64::MAX.into());
    match params.target {
        GasTarget::Elasticity(elasticity) => range("base_fee.target.elasticity", elasticity.into(), 1, 1_000),
        GasTarget::Bps(bps) => range("base_fee.target.bps", bps.into(), 1, 10_000),
    }
}

#[cfg(test)]
mod tests;
