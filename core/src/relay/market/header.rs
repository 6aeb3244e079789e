//! Price of the next attempt, from a block's header and the fee history.

use alloy_primitives::{Address, B256, Bytes, U64, U128};
use serde::Deserialize;

use crate::{
    chain::{ChainSpec, FeeHeader},
    market::{FeePoint, Utilisation},
    schedule::PercentileOutlook,
};

/// A block header, reduced to the fields used here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::relay) struct Header {
    pub(in crate::relay) number: U64,
    pub(in crate::relay) hash: B256,
    pub(in crate::relay) parent_hash: B256,
    pub(in crate::relay) timestamp: U64,
    pub(in crate::relay) gas_used: U64,
    pub(in crate::relay) gas_limit: U64,
    #[serde(default)]
    pub(in crate::relay) base_fee_per_gas: Option<U128>,
    #[serde(default)]
    pub(in crate::relay) blob_gas_used: Option<U64>,
    #[serde(default)]
    pub(in crate::relay) excess_blob_gas: Option<U64>,
    #[serde(default)]
    pub(in crate::relay) extra_data: Bytes,
    /// Proposer of the block.
    #[serde(default)]
    pub(in crate::relay) miner: Option<Address>,
}

impl Header {
    pub(in crate::relay) fn number(&self) -> u64 {
        self.number.to()
    }

    /// Base fee, wei per gas; 0 before EIP-1559.
    pub(in crate::relay) fn base_fee(&self) -> u128 {
        self.base_fee_per_gas.map_or(0, |fee| fee.to())
    }

    /// Utilisation by gas used; `None` if the gas limit is 0.
    pub(in crate::relay) fn utilisation(&self) -> Option<Utilisation> {
        let (used, limit) = (self.gas_used.to::<u64>(), self.gas_limit.to::<u64>());
        (limit > 0).then_some(Utilisation::Gas { used, limit })
    }

    fn fee_header(&self) -> FeeHeader {
        FeeHeader {
            number: self.number.to(),
            timestamp: self.timestamp.to(),
            base_fee_per_gas: self.base_fee_per_gas.map_or(0, |fee| fee.to()),
            gas_used: self.gas_used.to(),
            gas_limit: self.gas_limit.to(),
            blob_gas_used: self.blob_gas_used.map(|gas| gas.to()),
            excess_blob_gas: self.excess_blob_gas.map(|gas| gas.to()),
        }
    }
}

/// Next base fee by the chain's rule, wei per gas; the header's own base fee if the rule can't read the header.
pub(in crate::relay) fn next_base_fee(spec: &ChainSpec, header: &Header) -> u128 {
    let parent = header.fee_header();
    match spec.base_fee.next(&parent, &header.extra_data) {
        Ok(next) => next.value(),
        Err(error) => {
            tracing::warn!(chain_id = spec.chain_id, block = parent.number, %error, "base fee rule does not fit the header");
            parent.base_fee_per_gas
        }
    }
}

/// Fills the outlook with known blocks, each with today's usual `tip`.
pub(in crate::relay) fn prime<'a>(
    outlook: &mut PercentileOutlook,
    blocks: impl Iterator<Item = &'a FeePoint>,
    tip: u128,
) {
    blocks.for_each(|point| outlook.record(point.base_fee.saturating_add(tip)));
}
