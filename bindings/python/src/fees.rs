//! Base fee of the next blocks, and classification of a node's refusals.

use pyo3::prelude::*;
use slackwater_core::chain::{self, BaseFeeParams, FeeHeader, GasTarget, Metering};

use crate::{error::failure, value::Uint};

pub(crate) fn rule(
    denominator: Option<Uint<u64>>,
    elasticity: Option<Uint<u64>>,
    min_base_fee: Option<Uint<u128>>,
    counts_da_footprint: bool,
) -> BaseFeeParams {
    let default = BaseFeeParams::ETHEREUM;
    BaseFeeParams {
        denominator: denominator.map_or(default.denominator, |value| value.0),
        target: elasticity.map_or(default.target, |value| GasTarget::Elasticity(value.0)),
        min_base_fee: min_base_fee.map_or(default.min_base_fee, |value| value.0),
        metering: if counts_da_footprint { Metering::GasOrDaFootprint } else { Metering::Gas },
    }
}

/// Base fee of the next block, wei per gas.
#[pyfunction]
#[pyo3(signature = (base_fee, gas_used, gas_limit, *, blob_gas_used=None, denominator=None, elasticity=None,
    min_base_fee=None, counts_da_footprint=false))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
pub(crate) fn next_base_fee(
    base_fee: Uint<u128>,
    gas_used: Uint<u64>,
    gas_limit: Uint<u64>,
    blob_gas_used: Option<Uint<u64>>,
    denominator: Option<Uint<u64>>,
    elasticity: Option<Uint<u64>>,
    min_base_fee: Option<Uint<u128>>,
    counts_da_footprint: bool,
) -> PyResult<u128> {
    let header = FeeHeader {
        base_fee_per_gas: base_fee.0,
        gas_used: gas_used.0,
        gas_limit: gas_limit.0,
        blob_gas_used: blob_gas_used.map(|gas| gas.0),
        ..FeeHeader::default()
    };
    let rule = rule(denominator, elasticity, min_base_fee, counts_da_footprint);
    chain::next_base_fee(&header, &rule).map_err(|error| failure("invalid_header", error))
}

/// Highest base fee that this number of full blocks can lead to, wei per gas.
#[pyfunction]
#[pyo3(signature = (base_fee, blocks, *, denominator=None, elasticity=None, min_base_fee=None))]
pub(crate) fn max_base_fee_after(
    base_fee: Uint<u128>,
    blocks: Uint<u32>,
    denominator: Option<Uint<u64>>,
    elasticity: Option<Uint<u64>>,
    min_base_fee: Option<Uint<u128>>,
) -> u128 {
    let rule = rule(denominator, elasticity, min_base_fee, false);
    chain::max_base_fee_after(base_fee.0, u64::from(blocks.0), &rule)
}

/// Classifies a node's error answer to `eth_sendRawTransaction`: class, true if the transaction may have arrived, true
/// if sending again makes sense.
#[pyfunction]
#[pyo3(signature = (code, message, data=None))]
pub(crate) fn classify_rpc_error(code: i64, message: &str, data: Option<&str>) -> (&'static str, bool, bool) {
    let class = chain::classify(code, message, data);
    (class.as_str(), class.is_ambiguous(), class.is_retryable())
}
