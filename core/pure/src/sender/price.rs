//! The price of the next block.

use crate::chain::{BaseFeeRule, ChainSpec, Fees};

/// Full blocks that the fee cap must survive: the wait of a transaction until a bump reaches the nodes.
const CAP_HORIZON_BLOCKS: u64 = 6;

/// Fee cap as a multiple of the base fee where the base fee follows a backlog (Arbitrum), which doubles it in some
/// twenty seconds at worst.
const BACKLOG_CAP_TIMES: u128 = 3;

/// Base fee of the next block, wei per gas, and the fees to offer for inclusion soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Base fee of the next block, wei per gas.
    pub next_base_fee: u128,
    /// Fees to offer.
    pub quote: Fees,
}

/// Fees to offer when the next block charges `next_base_fee`: `tip` as priority fee, and a fee cap that survives
/// [`CAP_HORIZON_BLOCKS`] full blocks. Reservations follow this cap, with or without a forecast.
pub(crate) fn price_at(spec: &ChainSpec, next_base_fee: u128, tip: u128, extra_data: &[u8]) -> Price {
    let bound = spec.base_fee.max_after(next_base_fee, CAP_HORIZON_BLOCKS, extra_data);
    let cap = match spec.base_fee {
        // Such a chain has no mempool, so the cap has to hold for seconds only; the curve's end is hundreds of times
        // the price.
        BaseFeeRule::Backlog { .. } => {
            bound.unwrap_or(u128::MAX).min(next_base_fee.saturating_mul(BACKLOG_CAP_TIMES)).max(next_base_fee)
        }
        _ => bound.unwrap_or_else(|| next_base_fee.saturating_mul(2)),
    };
    Price { next_base_fee, quote: Fees::new(cap.saturating_add(tip), tip) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_waits_in_a_pool_the_cap_holds_for_seconds() {
        let spec = ChainSpec::preset("arbitrum-one").unwrap();
        let floor = 20_000_000;
        let price = price_at(&spec, floor, 0, &[]);
        assert_eq!(price.quote.max_fee_per_gas, 3 * floor, "a reservation is four times that: below 20 prices");
        let highest = spec.base_fee.max_after(floor, 6, &[]).unwrap();
        assert_eq!(price_at(&spec, highest, 0, &[]).quote.max_fee_per_gas, highest, "never above the curve");
        let ethereum = ChainSpec::preset("ethereum").unwrap();
        assert!(price_at(&ethereum, 1_000_000_000, 0, &[]).quote.max_fee_per_gas > 2_000_000_000);
    }
}
