//! Fees and finality of a chain: fee arithmetic, replacement rules, gas constants, finality, and the classification of
//! a node's refusals. One file per EIP or fee rule; numbers come from [`ChainSpec`], never from code.
//!
//! **Invariant:** integers only; every rounding states its direction.

#![deny(clippy::float_arithmetic)]

pub mod arbitrum;
mod base_fee;
mod blob;
pub mod data_fee;
pub mod decimal;
mod family;
mod fees;
mod finality;
mod gas_schedule;
mod linea;
mod op_extra_data;
#[cfg(feature = "presets")]
mod presets;
mod replacement;
mod rpc_error;
mod spec;

pub use base_fee::{
    BaseFeeParams, BaseFeeRule, FeeError, FeeHeader, GasTarget, MAX_BOUND_BLOCKS, Metering, NextBaseFee,
    max_base_fee_after, next_base_fee,
};
pub use blob::{BlobParams, BlobSchedule, GAS_PER_BLOB, blob_base_fee, fake_exponential, next_excess_blob_gas};
pub use family::ChainFamily;
pub use fees::{BlobFees, Fees, effective_gas_price};
pub use finality::FinalityRule;
pub use gas_schedule::{Fork, GasSchedule, TxExtras};
pub use linea::{LineaExtraDataError, LineaPricing};
pub use op_extra_data::{OpBaseFeeParams, OpExtraDataError};
#[cfg(feature = "presets")]
pub use presets::{PresetError, preset_for_chain_id, preset_names, preset_toml};
pub use replacement::{ClientRule, PriceComparison, ReplacementError, ReplacementRule};
pub use rpc_error::{
    Hint, MAX_MATCHED_BYTES, RpcErrorClass, Taken, TransportFailure, classify, classify_http, hint,
    is_execution_failure, is_unknown_block, least_price, refused_fee_cap,
};
pub use spec::{
    ChainSpec, DEFAULT_DEADLINE_SKEW_S, DEFAULT_FEE_CEILING, DEFAULT_MAX_TX_BYTES, DEFAULT_REPLAN_AFTER_BLOCKS,
    DEFAULT_TIP_CEILING, MIN_BUMP_BPS, SpecError,
};
