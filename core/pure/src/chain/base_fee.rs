//! The base fee of the next block (EIP-1559 and its dialects).

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use super::arbitrum;
use super::decimal;
use super::op_extra_data::{OpBaseFeeParams, OpExtraDataError};

/// Basis points in a whole.
const WHOLE_BPS: u64 = 10_000;

/// Longest horizon that [`max_base_fee_after`] follows step by step; beyond it the bound is useless anyway.
pub const MAX_BOUND_BLOCKS: u64 = 100_000;

/// Fields of a block header used in fee computations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct FeeHeader {
    /// Block number.
    pub number: u64,
    /// Block time, Unix seconds.
    pub timestamp: u64,
    /// Base fee, wei per gas.
    #[serde(with = "decimal")]
    pub base_fee_per_gas: u128,
    /// Gas used by the block's transactions.
    pub gas_used: u64,
    /// Gas limit of the block.
    pub gas_limit: u64,
    /// Blob gas used (EIP-4844); on the OP Stack from Jovian the block's DA footprint. `None` before the fork.
    #[serde(default)]
    pub blob_gas_used: Option<u64>,
    /// Excess blob gas (EIP-4844). `None` before the fork.
    #[serde(default)]
    pub excess_blob_gas: Option<u64>,
}

/// Gas measure that drives the base fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metering {
    /// `gas_used`.
    #[default]
    Gas,
    /// `max(gas_used, blob_gas_used)`: OP Stack from Jovian, where `blob_gas_used` holds the DA footprint.
    GasOrDaFootprint,
}

/// Gas target: the share of a block's gas limit at which the base fee stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GasTarget {
    /// `gas_limit / elasticity`: Ethereum 2, OP Mainnet 6 before Holocene.
    Elasticity(u64),
    /// `gas_limit × bps / 10000`: Polygon PoS 6500.
    Bps(u32),
}

impl GasTarget {
    /// The target in gas, rounded down.
    ///
    /// # Errors
    /// [`FeeError::ZeroTarget`] if it is 0.
    pub fn of(self, gas_limit: u64) -> Result<u64, FeeError> {
        let target = match self {
            Self::Elasticity(elasticity) => gas_limit.checked_div(elasticity).unwrap_or(0),
            // The product fits u128, and the quotient u64 unless the share is above the whole.
            Self::Bps(bps) => {
                u64::try_from(u128::from(gas_limit) * u128::from(bps) / u128::from(WHOLE_BPS)).unwrap_or(u64::MAX)
            }
        };
        if target == 0 { Err(FeeError::ZeroTarget { gas_limit }) } else { Ok(target) }
    }
}

/// Constants of an EIP-1559 recursion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseFeeParams {
    /// `BASE_FEE_MAX_CHANGE_DENOMINATOR`: a full block moves the fee by `(limit/target − 1) / denominator`.
    pub denominator: u64,
    /// Gas target.
    pub target: GasTarget,
    /// Lower bound of the fee, wei per gas; 0 for none.
    #[serde(default, rename = "min_base_fee_wei_per_gas", with = "decimal")]
    pub min_base_fee: u128,
    /// Gas measure that counts.
    #[serde(default)]
    pub metering: Metering,
}

impl BaseFeeParams {
    /// Ethereum: target half of the limit, 12.5 % per full block.
    pub const ETHEREUM: Self = Self::new(8, 2);

    /// Plain EIP-1559 with these constants and no floor.
    #[must_use]
    pub const fn new(denominator: u64, elasticity: u64) -> Self {
        Self { denominator, target: GasTarget::Elasticity(elasticity), min_base_fee: 0, metering: Metering::Gas }
    }

    /// Gas of `header` that counts against the target.
    #[must_use]
    pub fn metered_gas(&self, header: &FeeHeader) -> u64 {
        match self.metering {
            Metering::Gas => header.gas_used,
            Metering::GasOrDaFootprint => header.gas_used.max(header.blob_gas_used.unwrap_or(0)),
        }
    }
}

impl OpBaseFeeParams {
    /// Base fee recursion with these parameters. From Jovian (a minimum base fee is present) the DA footprint counts as
    /// gas.
    #[must_use]
    pub fn base_fee_params(&self) -> BaseFeeParams {
        BaseFeeParams {
            denominator: u64::from(self.denominator),
            target: GasTarget::Elasticity(u64::from(self.elasticity)),
            min_base_fee: u128::from(self.min_base_fee.unwrap_or(0)),
            metering: if self.min_base_fee.is_some() { Metering::GasOrDaFootprint } else { Metering::Gas },
        }
    }
}

/// Errors of computing a fee from a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeeError {
    /// The gas target is 0: a malformed header (or parameters that [`super::ChainSpec::validate`] refuses), not a quiet
    /// chain.
    #[error("gas target is 0 at gas limit {gas_limit}")]
    ZeroTarget {
        /// The header's gas limit.
        gas_limit: u64,
    },
    /// The change denominator is 0. A fault of the configuration or of the header's extra data.
    #[error("base fee change denominator is 0")]
    ZeroDenominator,
    /// More gas metered than the block may hold: the node's answer is false or the header malformed.
    #[error("metered gas {metered} is above the block gas limit {gas_limit}")]
    GasAboveLimit {
        /// Metered gas.
        metered: u64,
        /// The header's gas limit.
        gas_limit: u64,
    },
    /// The fee does not fit 128 bits. No real chain is near it: the node's answer is false.
    #[error("next base fee after {base_fee} wei per gas overflows 128 bits")]
    Overflow {
        /// The parent's base fee.
        base_fee: u128,
    },
    /// A header after EIP-4844 lacks its blob fields. The node's fault, or the wrong fork in the preset.
    #[error("block {number} has no blob gas fields")]
    MissingBlobFields {
        /// Number of the block.
        number: u64,
    },
    /// The OP Stack parameters in the header's extra data cannot be read. Keep the last known values and raise an alert.
    #[error(transparent)]
    ExtraData(#[from] OpExtraDataError),
}

/// Base fee of the block after `parent`, in wei per gas.
///
/// `d = base × |metered − target| // target // denominator`; above target `base + max(1, d)`, below it `base − d`; never
/// less than `params.min_base_fee`. `metered` is the gas used, or the DA footprint where that is larger (OP Stack, from
/// Jovian). Without a floor a base fee below the denominator never falls: 7 wei on Ethereum.
///
/// Source: EIP-1559; OP Stack specs, Holocene and Jovian `exec-engine`. Vectors: `tests/vectors/fees.json`.
///
/// # Errors
/// [`FeeError::ZeroTarget`], [`FeeError::ZeroDenominator`], [`FeeError::GasAboveLimit`] for a malformed header,
/// [`FeeError::Overflow`] for an absurd one.
pub fn next_base_fee(parent: &FeeHeader, params: &BaseFeeParams) -> Result<u128, FeeError> {
    let target = params.target.of(parent.gas_limit)?;
    if params.denominator == 0 {
        return Err(FeeError::ZeroDenominator);
    }
    let metered = params.metered_gas(parent);
    if metered > parent.gas_limit {
        return Err(FeeError::GasAboveLimit { metered, gas_limit: parent.gas_limit });
    }
    let base = parent.base_fee_per_gas;
    let overflow = FeeError::Overflow { base_fee: base };
    // Both divisions round down, in this order: folding them into one gives other values.
    let delta = U256::from(base) * U256::from(metered.abs_diff(target)) / U256::from(target);
    let delta = u128::try_from(delta / U256::from(params.denominator)).map_err(|_| overflow)?;
    let next = match metered.cmp(&target) {
        std::cmp::Ordering::Equal => base,
        std::cmp::Ordering::Greater => base.checked_add(delta.max(1)).ok_or(overflow)?,
        // Saturating as the specification's max(0, …): elasticity below 2 with a tiny denominator could pass 0.
        std::cmp::Ordering::Less => base.saturating_sub(delta),
    };
    Ok(next.max(params.min_base_fee))
}

/// Highest base fee after `blocks` full blocks that follow one with `base_fee`, in wei per gas.
///
/// The exact recursion of [`next_base_fee`] with every block full, step by step: with Ethereum's constants 1 gwei gives
/// 1_125_000_000 after one block and 1_265_625_000 after two. Saturates at `u128::MAX`; with a target or denominator of
/// 0 (refused by [`super::ChainSpec::validate`]) and beyond [`MAX_BOUND_BLOCKS`] it returns `u128::MAX`: no bound.
///
/// The target is taken as an exact fraction of the limit. Where the limit is no multiple of the elasticity, `target` is
/// rounded down and a real full block may exceed this by `(elasticity − 1) / target`, less than one part in a million;
/// compute the very next block with [`next_base_fee`].
#[must_use]
pub fn max_base_fee_after(base_fee: u128, blocks: u64, params: &BaseFeeParams) -> u128 {
    // (limit − target) / target as a fraction.
    let (over, target) = match params.target {
        GasTarget::Elasticity(elasticity) => (elasticity.saturating_sub(1), u64::from(elasticity != 0)),
        GasTarget::Bps(bps) => (WHOLE_BPS.saturating_sub(u64::from(bps)), u64::from(bps)),
    };
    if target == 0 || params.denominator == 0 || blocks > MAX_BOUND_BLOCKS {
        return u128::MAX;
    }
    let mut base = base_fee.max(params.min_base_fee);
    if over == 0 {
        return base;
    }
    for _ in 0..blocks {
        let delta = U256::from(base) * U256::from(over) / U256::from(target) / U256::from(params.denominator);
        base = match u128::try_from(delta).ok().and_then(|delta| base.checked_add(delta.max(1))) {
            Some(next) => next,
            None => return u128::MAX,
        };
    }
    base
}

/// Base fee rule of a chain. Data of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BaseFeeRule {
    /// Fixed by the parent header and these constants.
    Eip1559(BaseFeeParams),
    /// Fixed by the parent header, whose extra data holds the constants (from Holocene).
    OpStack {
        /// Constants to use until the first readable header. Never assume them: operators change theirs.
        fallback: BaseFeeParams,
    },
    /// Chosen by the block producer within a bound on each step; `estimate` is what producers usually follow
    /// (Polygon PoS from Lisovo: 5 %).
    Bounded {
        /// Largest change per block, basis points of the parent's fee (and at least 1 wei).
        max_change_bps: u32,
        /// The customary recursion.
        estimate: BaseFeeParams,
    },
    /// Arbitrum: a price of the backlog, decaying in seconds, not a function of the header. The last fee is the estimate;
    /// the bound is the pricing curve's own cap.
    Backlog {
        /// Lower bound of the base fee, wei per gas.
        #[serde(with = "decimal")]
        min_base_fee_wei_per_gas: u128,
    },
    /// Set by the operator outside the header (ZK Stack, Scroll, Linea): the last fee is the estimate, and the only
    /// bound on the next one is `min_base_fee_wei_per_gas` from below.
    Operator {
        /// Lower bound of the base fee, wei per gas.
        #[serde(with = "decimal")]
        min_base_fee_wei_per_gas: u128,
    },
}

/// A base fee of a block that does not exist yet, in wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextBaseFee {
    /// Fixed by the protocol.
    Exact(u128),
    /// Not fixed; the best value known from the header alone.
    Estimate(u128),
}

impl NextBaseFee {
    /// The value, fixed or not.
    #[must_use]
    pub const fn value(self) -> u128 {
        match self {
            Self::Exact(v) | Self::Estimate(v) => v,
        }
    }
}

impl BaseFeeRule {
    /// The recursion's constants for the block after one with `extra_data`; `None` where no recursion is customary.
    ///
    /// # Errors
    /// [`FeeError::ExtraData`] on the OP Stack if the header's extra data is not understood. An empty `extra_data` (before
    /// Holocene, or a node that hides it) gives the fallback.
    pub fn params(&self, extra_data: &[u8]) -> Result<Option<BaseFeeParams>, FeeError> {
        match *self {
            Self::Eip1559(params) | Self::Bounded { estimate: params, .. } => Ok(Some(params)),
            Self::OpStack { fallback } if extra_data.is_empty() => Ok(Some(fallback)),
            Self::OpStack { .. } => Ok(Some(OpBaseFeeParams::parse(extra_data)?.base_fee_params())),
            Self::Backlog { .. } | Self::Operator { .. } => Ok(None),
        }
    }

    /// Base fee of the block after `parent`: exact if the protocol fixes it, otherwise an estimate.
    ///
    /// # Errors
    /// As [`next_base_fee`] and [`Self::params`].
    pub fn next(&self, parent: &FeeHeader, extra_data: &[u8]) -> Result<NextBaseFee, FeeError> {
        let computed = match self.params(extra_data)? {
            Some(params) => next_base_fee(parent, &params)?,
            None => parent.base_fee_per_gas,
        };
        Ok(match *self {
            Self::Eip1559(_) | Self::OpStack { .. } => NextBaseFee::Exact(computed),
            Self::Bounded { max_change_bps, .. } => {
                let base = parent.base_fee_per_gas;
                let most = step(base, max_change_bps);
                NextBaseFee::Estimate(computed.clamp(base.saturating_sub(most), base.saturating_add(most)))
            }
            Self::Backlog { min_base_fee_wei_per_gas } | Self::Operator { min_base_fee_wei_per_gas } => {
                NextBaseFee::Estimate(computed.max(min_base_fee_wei_per_gas))
            }
        })
    }

    /// Highest possible base fee `blocks` blocks after one with `base_fee` and `extra_data`; `None` if the protocol
    /// sets no bound (or the constants cannot be read), so that only a forecast can tell.
    #[must_use]
    pub fn max_after(&self, base_fee: u128, blocks: u64, extra_data: &[u8]) -> Option<u128> {
        match *self {
            Self::Eip1559(_) | Self::OpStack { .. } => {
                let params = self.params(extra_data).ok()??;
                Some(max_base_fee_after(base_fee, blocks, &params))
            }
            Self::Bounded { max_change_bps, .. } => {
                if blocks > MAX_BOUND_BLOCKS {
                    return Some(u128::MAX);
                }
                let mut base = base_fee;
                for _ in 0..blocks {
                    base = base.saturating_add(step(base, max_change_bps));
                }
                Some(base)
            }
            // The curve's cap holds for the configured floor; the chain may run a higher one.
            Self::Backlog { min_base_fee_wei_per_gas } => {
                Some(arbitrum::max_base_fee(min_base_fee_wei_per_gas).max(base_fee))
            }
            Self::Operator { .. } => None,
        }
    }

    /// Lower bound of this chain's base fee, wei per gas; 0 if none is known.
    #[must_use]
    pub const fn floor(&self) -> u128 {
        match *self {
            Self::Eip1559(params) | Self::OpStack { fallback: params } | Self::Bounded { estimate: params, .. } => {
                params.min_base_fee
            }
            Self::Backlog { min_base_fee_wei_per_gas } | Self::Operator { min_base_fee_wei_per_gas } => {
                min_base_fee_wei_per_gas
            }
        }
    }
}

/// Largest change of a bounded base fee: `base × bps // 10000`, at least 1 wei.
fn step(base: u128, max_change_bps: u32) -> u128 {
    let change = U256::from(base) * U256::from(max_change_bps) / U256::from(WHOLE_BPS);
    u128::try_from(change).unwrap_or(u128::MAX).max(1)
}

#[cfg(test)]
mod tests;
