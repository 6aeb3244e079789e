//! Fee data of one block.

use crate::BlockTimestamp;

/// Utilisation of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Utilisation {
    /// From the header. `used` is the gas metered by the chain's base fee rule (gas, or the DA footprint if that is
    /// larger).
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
    /// Smallest included tip.
    pub min: Option<u128>,
    /// A typical tip: the median, or the source's reward percentile.
    pub typical: Option<u128>,
    /// Mean over transactions.
    pub mean: Option<u128>,
    /// Largest included tip.
    pub max: Option<u128>,
}

/// Fee data of one block; for a sub-sampled series, of one of its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeePoint {
    /// Height.
    pub number: u64,
    /// Block time; `None` if the source lacks it.
    pub timestamp: Option<BlockTimestamp>,
    /// Base fee of this block, wei per gas.
    pub base_fee: u128,
    /// Utilisation of the block; `None` if unknown.
    pub utilisation: Option<Utilisation>,
    /// Tips paid above the base fee.
    pub tips: Tips,
    /// Base fee of the next block, wei per gas; `None` unless this block already determines it (EIP-1559 and its
    /// variants).
    pub next_base_fee: Option<u128>,
}

impl FeePoint {
    /// Price of a transaction submitted right after this block: the next block's base fee if it is determined, else
    /// this block's; wei per gas.
    pub fn price(&self) -> u128 {
        self.next_base_fee.unwrap_or(self.base_fee)
    }
}
