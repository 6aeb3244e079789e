//! Arbitrum's poster cost, charged as L2 gas: part of `gasUsed`, and the gas limit must cover it.

use alloy_primitives::U256;

use super::{NONZERO_BYTE_GAS, TxSize};

/// Bytes that estimation adds for the unknown parts of the signed transaction.
const PADDING_BYTES: u64 = 16;
/// Units above the estimate, basis points: 1.01.
const UNITS_BPS: u64 = 10_100;
/// Cost above the estimate, basis points: 1.10.
const COST_BPS: u64 = 11_000;
/// One in basis points.
const WHOLE_BPS: u64 = 10_000;

/// Prices that determine the poster's gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ArbitrumPoster {
    /// Price of an L1 data unit, wei: `l1BaseFeeEstimate` of `NodeInterface`.
    pub l1_price_per_unit: U256,
    /// L2 base fee, wei per gas.
    pub l2_base_fee: u128,
    /// Floor of the L2 base fee, wei per gas.
    pub min_base_fee: u128,
}

/// Gas for the poster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PosterGas {
    /// Gas charged at these prices.
    pub expected: u64,
    /// Gas that the limit must include, with Nitro's padding.
    pub padded: u64,
}

impl ArbitrumPoster {
    /// Gas for a transaction of `compressed_bytes` (brotli, at ArbOS' level).
    ///
    /// `units = 16 × bytes`, `cost = units × price`, `gas = cost / l2_base_fee`. Padded as `eth_estimateGas` pads:
    /// `(units + 16 × 16) × 1.01`, `cost × 1.10`, over `max(7/8 × l2_base_fee, min_base_fee)`. Expected rounds down as the
    /// chain does, padded up. Saturates; 0 without a base fee.
    ///
    /// Source: OffchainLabs/nitro `arbos/l1pricing`, `execution/gethexec`.
    #[must_use]
    pub fn gas(&self, compressed_bytes: u64) -> PosterGas {
        if self.l2_base_fee == 0 {
            return PosterGas::default();
        }
        let units = U256::from(compressed_bytes) * U256::from(NONZERO_BYTE_GAS);
        let expected = units.saturating_mul(self.l1_price_per_unit) / U256::from(self.l2_base_fee);
        let padded_units = ((units + U256::from(PADDING_BYTES * NONZERO_BYTE_GAS)) * U256::from(UNITS_BPS))
            .div_ceil(U256::from(WHOLE_BPS));
        let padded_cost = padded_units
            .saturating_mul(self.l1_price_per_unit)
            .saturating_mul(U256::from(COST_BPS))
            .div_ceil(U256::from(WHOLE_BPS));
        PosterGas {
            expected: u64::try_from(expected).unwrap_or(u64::MAX),
            padded: u64::try_from(padded_cost.div_ceil(self.divisor())).unwrap_or(u64::MAX),
        }
    }

    /// Gas for a transaction without a known compressed size: FastLZ as the guess (brotli is seldom worse), all
    /// literals as the bound. Ask `NodeInterface` before anything is signed.
    #[must_use]
    pub fn gas_guess(&self, size: &TxSize) -> PosterGas {
        PosterGas { expected: self.gas(size.flz).expected, padded: self.gas(size.bytes.max(size.flz)).padded }
    }

    /// Gas that the limit must include, given `gas_for_l1` from `gasEstimateL1Component`: that has Nitro's padding of
    /// units and cost but was divided by the whole base fee, so it is scaled by 8/7 or to the floor, whichever is less.
    /// Rounded up.
    #[must_use]
    pub fn pad_l1_component(&self, gas_for_l1: u64) -> u64 {
        let cost = U256::from(gas_for_l1) * U256::from(self.l2_base_fee);
        u64::try_from(cost.div_ceil(self.divisor())).unwrap_or(u64::MAX)
    }

    /// `max(7/8 × l2_base_fee, min_base_fee)`, not 0.
    fn divisor(&self) -> U256 {
        let discounted = self.l2_base_fee / 8 * 7 + self.l2_base_fee % 8 * 7 / 8;
        U256::from(discounted.max(self.min_base_fee).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let poster =
            ArbitrumPoster { l1_price_per_unit: U256::from(1_000_000_000), l2_base_fee: 20_000_000, min_base_fee: 0 };
        // 100 bytes: 1 600 units, 1.6e12 wei, 80 000 gas. Padded: 1 856 × 1.01 = 1 874.56 → 1 875 units, 2.0625e12 wei,
        // over 17.5e6: 117 857.14 → 117 858.
        assert_eq!(poster.gas(100), PosterGas { expected: 80_000, padded: 117_858 });
        // At its floor the base fee is not discounted: 2.0625e12 / 2e7 = 103 125.
        let floor = ArbitrumPoster { min_base_fee: 20_000_000, ..poster };
        assert_eq!(floor.gas(100), PosterGas { expected: 80_000, padded: 103_125 });
        assert_eq!(poster.pad_l1_component(7), 8);
        assert_eq!(floor.pad_l1_component(7), 7);
    }

    #[test]
    fn extremes_saturate() {
        assert_eq!(ArbitrumPoster::default().gas(100), PosterGas::default());
        let dear = ArbitrumPoster { l1_price_per_unit: U256::MAX, l2_base_fee: 1, min_base_fee: 0 };
        assert_eq!(dear.gas(u64::MAX), PosterGas { expected: u64::MAX, padded: u64::MAX });
        let wide = ArbitrumPoster { l1_price_per_unit: U256::from(1), l2_base_fee: u128::MAX, min_base_fee: u128::MAX };
        assert_eq!(wide.gas(1), PosterGas { expected: 0, padded: 1 });
    }
}
