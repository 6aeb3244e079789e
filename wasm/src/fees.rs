//! Base fee of the next blocks.

use serde::Deserialize;
use slackwater_core::chain::{self, BaseFeeParams, FeeHeader, GasTarget, Metering};
use wasm_bindgen::prelude::{JsValue, wasm_bindgen};

use crate::{
    interop::{Failure, read},
    scalar::Quantity,
};

#[wasm_bindgen]
extern "C" {
    /// `BlockFees` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "BlockFees")]
    #[derive(Debug)]
    pub type JsBlockFees;
    /// `BaseFeeRule` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "BaseFeeRule | undefined")]
    #[derive(Debug)]
    pub type JsRule;
    /// `Quantity` of `types.d.ts`.
    #[wasm_bindgen(typescript_type = "Quantity")]
    #[derive(Debug)]
    pub type JsQuantity;
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BlockFees {
    base_fee: Quantity<u128>,
    gas_used: Quantity<u64>,
    gas_limit: Quantity<u64>,
    #[serde(default)]
    blob_gas_used: Option<Quantity<u64>>,
}

/// Constants of a base fee rule, under their JavaScript names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Rule {
    denominator: Option<Quantity<u64>>,
    elasticity: Option<Quantity<u64>>,
    target_bps: Option<u32>,
    min_base_fee: Quantity<u128>,
    counts_da_footprint: bool,
}

impl Rule {
    pub(crate) fn params(&self) -> Result<BaseFeeParams, Failure> {
        let default = BaseFeeParams::ETHEREUM;
        let target = match (self.elasticity, self.target_bps) {
            (Some(_), Some(_)) => {
                return Err(Failure::argument("rule: `elasticity` and `targetBps` exclude each other"));
            }
            (Some(elasticity), None) => GasTarget::Elasticity(elasticity.0),
            (None, Some(bps)) => GasTarget::Bps(bps),
            (None, None) => default.target,
        };
        Ok(BaseFeeParams {
            denominator: self.denominator.map_or(default.denominator, |denominator| denominator.0),
            target,
            min_base_fee: self.min_base_fee.0,
            metering: if self.counts_da_footprint { Metering::GasOrDaFootprint } else { Metering::Gas },
        })
    }
}

fn read_rule(rule: &JsValue) -> Result<BaseFeeParams, Failure> {
    if rule.is_undefined() { Ok(BaseFeeParams::ETHEREUM) } else { read::<Rule>("rule", rule)?.params() }
}

/// Base fee of the block after `parent`, wei per gas in decimal digits.
///
/// # Errors
/// `invalid_argument`; `invalid_header` for an impossible block.
#[wasm_bindgen(js_name = nextBaseFee)]
pub fn next_base_fee(parent: &JsBlockFees, rule: &JsRule) -> Result<String, Failure> {
    let block: BlockFees = read("parent", parent)?;
    let header = FeeHeader {
        base_fee_per_gas: block.base_fee.0,
        gas_used: block.gas_used.0,
        gas_limit: block.gas_limit.0,
        blob_gas_used: block.blob_gas_used.map(|gas| gas.0),
        ..FeeHeader::default()
    };
    let next = chain::next_base_fee(&header, &read_rule(rule)?);
    next.map(|fee| fee.to_string()).map_err(|error| Failure::new("invalid_header", error))
}

/// Highest base fee that `blocks` full blocks can lead to, wei per gas in decimal digits: a fee cap that suffices in
/// any case.
///
/// # Errors
/// `invalid_argument`.
#[wasm_bindgen(js_name = maxBaseFeeAfter)]
pub fn max_base_fee_after(base_fee: &JsQuantity, blocks: u32, rule: &JsRule) -> Result<String, Failure> {
    let base_fee: Quantity<u128> = read("baseFee", base_fee)?;
    Ok(chain::max_base_fee_after(base_fee.0, u64::from(blocks), &read_rule(rule)?).to_string())
}
