//! OP Stack L1 data fee, Ecotone: calldata gas over 16 as a crude compressed size, priced by base fee and blob base fee.

use alloy_primitives::U256;

use super::{OpL1Params, TxSize, calldata_gas};

/// 16 gas per byte, and six decimals of the scalars.
const DIVISOR: u64 = 16_000_000;

/// L1 gas of the bytes: `4 × zeros + 16 × nonzeros`.
///
/// Source: op-geth `core/types/rollup_cost.go`. Vectors: `tests/vectors/fees.json`.
#[must_use]
pub const fn ecotone_data_gas(size: &TxSize) -> u64 {
    calldata_gas(size)
}

/// `data gas × (16 × l1_base_fee × base_fee_scalar + blob_base_fee × blob_base_fee_scalar) / 16·10^6`, rounded down.
pub(super) fn data_fee(params: &OpL1Params, size: &TxSize) -> U256 {
    U256::from(ecotone_data_gas(size)).saturating_mul(params.price_per_byte_e6()) / U256::from(DIVISOR)
}
