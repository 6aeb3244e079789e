//! OP Stack L1 data fee, Bedrock and Regolith: calldata gas times the L1 base fee.

use alloy_primitives::U256;

use super::{NONZERO_BYTE_GAS, OpFork, OpL1Params, TxSize, calldata_gas};

/// Non-zero bytes that Bedrock added for the signature, though the encoding already includes it; Regolith dropped them.
const BEDROCK_SIGNATURE_BYTES: u64 = 68;
/// The scalar has six decimals.
const SCALAR_DECIMALS: u64 = 1_000_000;

/// L1 gas of the bytes: `4 × zeros + 16 × nonzeros`, with 68 more non-zero bytes before Regolith.
///
/// Source: op-geth `core/types/rollup_cost.go`. Vectors: `tests/vectors/fees.json`.
#[must_use]
pub fn bedrock_data_gas(size: &TxSize, fork: OpFork) -> u64 {
    let signature = if fork >= OpFork::Regolith { 0 } else { BEDROCK_SIGNATURE_BYTES * NONZERO_BYTE_GAS };
    calldata_gas(size).saturating_add(signature)
}

/// `(data gas + overhead) × l1_base_fee × scalar / 10^6`, rounded down as the chain does.
pub(super) fn data_fee(params: &OpL1Params, fork: OpFork, size: &TxSize) -> U256 {
    U256::from(bedrock_data_gas(size, fork))
        .saturating_add(params.overhead)
        .saturating_mul(params.l1_base_fee)
        .saturating_mul(params.scalar)
        / U256::from(SCALAR_DECIMALS)
}
