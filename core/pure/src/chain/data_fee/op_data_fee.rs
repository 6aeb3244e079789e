//! OP Stack L1 data fee, by fork.

use alloy_primitives::U256;

use super::{OpFork, OpL1Params, TxSize, bedrock, ecotone, fjord};

impl OpL1Params {
    /// L1 data fee of a transaction, wei, rounded down as the chain does; 0 for deposits. Saturates.
    ///
    /// The chain charges by the parameters of the block that includes the transaction, and no signed field caps the
    /// fee: reserve with a margin.
    ///
    /// Source: op-geth `core/types/rollup_cost.go`. Vectors: `tests/vectors/fees.json`.
    #[must_use]
    pub fn l1_data_fee(&self, fork: OpFork, size: &TxSize) -> U256 {
        if size.is_exempt {
            return U256::ZERO;
        }
        match fork {
            OpFork::Bedrock | OpFork::Regolith => bedrock::data_fee(self, fork, size),
            // The fork's first block still has the old parameters.
            OpFork::Ecotone if self.base_fee_scalar == 0 && self.blob_base_fee_scalar == 0 => {
                bedrock::data_fee(self, fork, size)
            }
            OpFork::Ecotone => ecotone::data_fee(self, size),
            OpFork::Fjord | OpFork::Isthmus | OpFork::Jovian => fjord::data_fee(self, size),
        }
    }
}
