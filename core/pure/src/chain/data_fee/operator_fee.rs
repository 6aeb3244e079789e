//! OP Stack operator fee (Isthmus, Jovian): wei for gas, beyond the gas price.

use alloy_primitives::U256;

use super::{OpFork, OpL1Params};

/// Isthmus: the scalar has six decimals.
const ISTHMUS_DECIMALS: u64 = 1_000_000;
/// Jovian: the scalar counts in hundreds of wei per gas.
const JOVIAN_MULTIPLIER: u64 = 100;

impl OpL1Params {
    /// Operator fee in wei for `gas`. Charged on the gas limit and refunded down to the gas used; the constant is not
    /// refunded.
    ///
    /// Isthmus `gas × scalar / 10^6 + constant`, rounded down; Jovian `gas × scalar × 100 + constant`; 0 before.
    ///
    /// Source: OP Stack specs, Isthmus and Jovian `exec-engine`. Vectors: `tests/vectors/fees.json`.
    #[must_use]
    pub fn operator_fee(&self, fork: OpFork, gas: u64) -> U256 {
        // At most 2^64 × 2^32 × 100 + 2^64: no overflow.
        let product = U256::from(gas) * U256::from(self.operator_fee_scalar);
        let variable = match fork {
            OpFork::Bedrock | OpFork::Regolith | OpFork::Ecotone | OpFork::Fjord => return U256::ZERO,
            OpFork::Isthmus => product / U256::from(ISTHMUS_DECIMALS),
            OpFork::Jovian => product * U256::from(JOVIAN_MULTIPLIER),
        };
        variable + U256::from(self.operator_fee_constant)
    }
}
