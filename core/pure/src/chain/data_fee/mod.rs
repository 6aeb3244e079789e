//! L1 data fees: a rollup's charge for posting a transaction's bytes. One file per model.
//!
//! [`DataFeeModel`] is the chain's current model with its current parameters; everything else is arithmetic.

mod arbitrum_poster;
mod bedrock;
mod cost;
mod ecotone;
mod fjord;
mod model;
mod op_data_fee;
mod op_params;
mod operator_fee;
mod scroll;
mod size;

pub use arbitrum_poster::{ArbitrumPoster, PosterGas};
pub use bedrock::bedrock_data_gas;
pub use cost::{CostRange, TransactionCost, TxShape, with_margin};
pub use ecotone::ecotone_data_gas;
pub use fjord::{DEFAULT_DA_FOOTPRINT_GAS_SCALAR, da_footprint_gas, da_usage_bytes, fjord_data_gas};
pub use model::DataFeeModel;
pub use op_params::{L1AttributesError, L1BlockSlots, OpFork, OpL1Params};
pub use scroll::{ScrollFork, ScrollL1Params};
pub use size::{TxSize, flz_bound};

/// Gas of a non-zero calldata byte on L1 (EIP-2028); part of the OP Stack's, Arbitrum's and Scroll's formulas, whatever
/// the current price on L1.
const NONZERO_BYTE_GAS: u64 = 16;
/// Gas of a zero calldata byte on L1 (EIP-2028).
const ZERO_BYTE_GAS: u64 = 4;

/// `4 × zeros + 16 × nonzeros`.
const fn calldata_gas(size: &TxSize) -> u64 {
    let nonzero = size.bytes.saturating_sub(size.zeros);
    size.zeros.saturating_mul(ZERO_BYTE_GAS).saturating_add(nonzero.saturating_mul(NONZERO_BYTE_GAS))
}
