//! One block, as far as fees go.

use crate::BlockTimestamp;

/// How full a block was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Utilisation {
    /// From the header. `used` is what the chain's base fee rule meters (gas, or the DA footprint where that is larger).
    Gas {
        /// Metered gas.
        used: u64,
        /// Gas limit of the block.
        limit: u64,
    },
    /// Metered gas over gas limit, as `eth_feeHistory` reports it; within 0 and 1 on an honest node.
    Ratio(f64),
}

impl Utilisation {
    /// Metered gas over gas limit; `None` if the limit is 0 or the ratio is not a finite number in 0..=1.
    pub fn ratio(self) -> Option<f64> {
        let ratio = match self {
            Self::Gas { limit: 0, .. } => return None,
            #[expect(clippy::cast_precision_loss, reason = "gas limits are far below 2^52")]
            Self::Gas { used, limit } => used as f64 / limit as f64,
            Self::Ratio(ratio) => ratio,
        };
        (ratio.is_finite() && (0.0..=1.0).contains(&ratio)).then_some(ratio)
    }
}

/// Effective priority fees of one block, wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tips {
    /// Smallest that was included.
    pub min: Option<u128>,
    /// A typical one: the median, or what the source calls its reward percentile.
    pub typical: Option<u128>,
    /// Mean over transactions.
    pub mean: Option<u128>,
    /// Largest.
    pub max: Option<u128>,
}

/// What one block says about fees; for a sub-sampled series, what one of its rows says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeePoint {
    /// Height.
    pub number: u64,
    /// Block time, where the source has it.
    pub timestamp: Option<BlockTimestamp>,
    /// Base fee of this block, wei per gas.
    pub base_fee: u128,
    /// How full the block was.
    pub utilisation: Option<Utilisation>,
    /// What was paid on top.
    pub tips: Tips,
    /// Base fee of the next block, where this block already determines it (EIP-1559 and its kin); wei per gas.
    pub next_base_fee: Option<u128>,
}

impl FeePoint {
    /// Price of a transaction that is submitted right after this block: the next block's base fee where it is determined,
    /// else this block's; wei per gas.
    pub fn price(&self) -> u128 {
        self.next_base_fee.unwrap_or(self.base_fee)
    }
}
