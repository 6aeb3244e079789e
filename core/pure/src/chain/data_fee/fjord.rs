//! OP Stack L1 data fee from Fjord (also Granite, Holocene, Isthmus, Jovian), and Jovian's DA footprint: a linear
//! estimate of the brotli-compressed size from the FastLZ length.

use alloy_primitives::U256;

use super::{NONZERO_BYTE_GAS, OpL1Params, TxSize};

/// Bytes per FastLZ byte, millionths.
const FLZ_COEFFICIENT: u64 = 836_500;
/// Constant subtracted, millionths of a byte.
const FLZ_INTERCEPT: u64 = 42_585_600;
/// Least size, millionths of a byte.
const MIN_SIZE: u64 = 100_000_000;
/// Millionths.
const MILLION: u64 = 1_000_000;
/// Decimals of size and scalars together.
const FEE_DIVISOR: u64 = 1_000_000_000_000;

/// Jovian's scalar if the attributes give 0.
pub const DEFAULT_DA_FOOTPRINT_GAS_SCALAR: u16 = 400;

/// Estimated compressed size in millionths of a byte: `max(100, 0.8365 × flz − 42.5856)`.
const fn estimated_size_e6(flz: u64) -> u64 {
    let size = flz.saturating_mul(FLZ_COEFFICIENT).saturating_sub(FLZ_INTERCEPT);
    if size > MIN_SIZE { size } else { MIN_SIZE }
}

/// L1 gas of the estimated size, 16 per byte: receipts' `l1GasUsed`, deprecated.
///
/// Source: op-geth `core/types/rollup_cost.go`. Vectors: `tests/vectors/fees.json`.
#[must_use]
pub const fn fjord_data_gas(flz: u64) -> u64 {
    estimated_size_e6(flz).saturating_mul(NONZERO_BYTE_GAS) / MILLION
}

/// Bytes of a transaction that count in a block's DA footprint (Jovian), rounded down; deposits count for none.
///
/// Source: OP Stack specs, Jovian `exec-engine`.
#[must_use]
pub const fn da_usage_bytes(size: &TxSize) -> u64 {
    if size.is_exempt { 0 } else { estimated_size_e6(size.flz) / MILLION }
}

/// Gas of a transaction's DA footprint: a block's sum stays below its gas limit, and drives the base fee when it is
/// above the gas used. A scalar of 0 means [`DEFAULT_DA_FOOTPRINT_GAS_SCALAR`].
#[must_use]
pub fn da_footprint_gas(size: &TxSize, scalar: u16) -> u64 {
    let scalar = if scalar == 0 { DEFAULT_DA_FOOTPRINT_GAS_SCALAR } else { scalar };
    da_usage_bytes(size).saturating_mul(u64::from(scalar))
}

/// `size × (16 × l1_base_fee × base_fee_scalar + blob_base_fee × blob_base_fee_scalar) / 10^12`, rounded down.
pub(super) fn data_fee(params: &OpL1Params, size: &TxSize) -> U256 {
    U256::from(estimated_size_e6(size.flz)).saturating_mul(params.price_per_byte_e6()) / U256::from(FEE_DIVISOR)
}
