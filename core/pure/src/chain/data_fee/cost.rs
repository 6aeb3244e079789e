//! Total cost of a transaction: execution, data, operator.

use alloy_primitives::U256;

use super::{DataFeeModel, TxSize};
use crate::chain::Fees;

/// An expected amount and the amount to reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CostRange {
    /// At current prices, wei.
    pub expected: U256,
    /// Worst case, wei.
    pub max: U256,
}

/// Cost of one transaction by component. Its parts never wrap; sums saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransactionCost {
    /// `gas used × effective price`; at most `gas limit × fee cap`. Arbitrum's poster gas is in the gas.
    pub execution: CostRange,
    /// L1 data fee; at most with the margin.
    pub data: CostRange,
    /// Operator fee on the gas used; at most on the gas limit.
    pub operator: CostRange,
    /// Value sent along: leaves the balance, too.
    pub value: U256,
}

/// Properties of a transaction that determine its cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxShape<'a> {
    /// Expected gas use, without the poster's gas.
    pub gas_used: u64,
    /// Gas limit, without the poster's gas.
    pub gas_limit: u64,
    /// Its sizes.
    pub size: &'a TxSize,
    /// Value in wei.
    pub value: U256,
}

impl TransactionCost {
    /// Cost at `fees` in a block with `base_fee`, with `margin_percent` more L1 data fee in the worst case (rounded
    /// up): no signed field caps that fee, and it follows L1 from block to block.
    #[must_use]
    pub fn of(shape: &TxShape<'_>, fees: Fees, base_fee: u128, model: &DataFeeModel, margin_percent: u32) -> Self {
        let poster = model.poster_gas(shape.size);
        let gas_used = shape.gas_used.saturating_add(poster.expected);
        let gas_limit = shape.gas_limit.saturating_add(poster.padded);
        let price = fees.effective_gas_price(base_fee);
        Self {
            execution: CostRange {
                expected: U256::from(gas_used).saturating_mul(U256::from(price)),
                max: U256::from(gas_limit).saturating_mul(U256::from(fees.max_fee_per_gas)),
            },
            data: CostRange {
                expected: model.data_fee(shape.size),
                max: with_margin(model.data_fee_bound(shape.size), margin_percent),
            },
            operator: CostRange {
                expected: model.operator_fee(shape.gas_used),
                max: model.operator_fee(shape.gas_limit),
            },
            value: shape.value,
        }
    }

    /// Expected total charge to the balance, wei.
    #[must_use]
    pub fn total_expected(&self) -> U256 {
        self.execution.expected.saturating_add(self.beyond_gas().expected).saturating_add(self.value)
    }

    /// Highest possible charge to the balance, wei: the amount to reserve, and the balance needed.
    #[must_use]
    pub fn total_max(&self) -> U256 {
        self.execution.max.saturating_add(self.beyond_gas().max).saturating_add(self.value)
    }

    /// Data and operator fee together: the cost beyond gas, wei.
    #[must_use]
    pub fn beyond_gas(&self) -> CostRange {
        CostRange {
            expected: self.data.expected.saturating_add(self.operator.expected),
            max: self.data.max.saturating_add(self.operator.max),
        }
    }
}

/// `wei × (100 + percent) / 100`, rounded up. Saturates.
#[must_use]
pub fn with_margin(wei: U256, percent: u32) -> U256 {
    wei.saturating_mul(U256::from(100 + u64::from(percent))).div_ceil(U256::from(100))
}
