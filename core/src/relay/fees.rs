//! Price of the next attempt, from a block's header and the fee history.

use alloy_primitives::{Address, B256, Bytes, U64, U128};
use serde::Deserialize;

use crate::{
    chain::{BaseFeeRule, ChainSpec, FeeHeader, Fees},
    market::{FeePoint, Utilisation},
    schedule::PercentileOutlook,
};

/// Full blocks that the fee cap must survive: the wait of a transaction until a bump reaches the nodes.
const CAP_HORIZON_BLOCKS: u64 = 6;

/// Fee cap as a multiple of the base fee where the base fee follows a backlog (Arbitrum), which doubles it in some
/// twenty seconds at worst.
const BACKLOG_CAP_TIMES: u128 = 3;

/// A block header, reduced to the fields used here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub(super) number: U64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    pub(super) timestamp: U64,
    pub(super) gas_used: U64,
    pub(super) gas_limit: U64,
    #[serde(default)]
    pub(super) base_fee_per_gas: Option<U128>,
    #[serde(default)]
    pub(super) blob_gas_used: Option<U64>,
    #[serde(default)]
    pub(super) excess_blob_gas: Option<U64>,
    #[serde(default)]
    pub(super) extra_data: Bytes,
    /// Proposer of the block.
    #[serde(default)]
    pub(super) miner: Option<Address>,
}

impl Header {
    pub(super) fn number(&self) -> u64 {
        self.number.to()
    }

    /// Base fee, wei per gas; 0 before EIP-1559.
    pub(super) fn base_fee(&self) -> u128 {
        self.base_fee_per_gas.map_or(0, |fee| fee.to())
    }

    /// Utilisation by gas used; `None` if the gas limit is 0.
    pub(super) fn utilisation(&self) -> Option<Utilisation> {
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

/// Base fee of the next block, wei per gas, and the fees to offer for inclusion soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Price {
    pub(super) next_base_fee: u128,
    pub(super) quote: Fees,
}

/// Next base fee by the chain's rule, wei per gas; the header's own base fee if the rule can't read the header.
pub(super) fn next_base_fee(spec: &ChainSpec, header: &Header) -> u128 {
    let parent = header.fee_header();
    match spec.base_fee.next(&parent, &header.extra_data) {
        Ok(next) => next.value(),
        Err(error) => {
            tracing::warn!(chain_id = spec.chain_id, block = parent.number, %error, "base fee rule does not fit the header");
            parent.base_fee_per_gas
        }
    }
}

/// Fees to offer when the next block charges `next_base_fee`: `tip` as priority fee, and a fee cap that survives
/// [`CAP_HORIZON_BLOCKS`] full blocks. Reservations follow this cap, with or without a forecast.
pub(super) fn price_at(spec: &ChainSpec, next_base_fee: u128, tip: u128, extra_data: &[u8]) -> Price {
    let bound = spec.base_fee.max_after(next_base_fee, CAP_HORIZON_BLOCKS, extra_data);
    let cap = match spec.base_fee {
        // Such a chain has no mempool, so the cap has to hold for seconds only; the curve's end is hundreds of times
        // the price.
        BaseFeeRule::Backlog { .. } => {
            bound.unwrap_or(u128::MAX).min(next_base_fee.saturating_mul(BACKLOG_CAP_TIMES)).max(next_base_fee)
        }
        _ => bound.unwrap_or_else(|| next_base_fee.saturating_mul(2)),
    };
    Price { next_base_fee, quote: Fees::new(cap.saturating_add(tip), tip) }
}

/// Fills the outlook with known blocks, each with today's usual `tip`.
pub(super) fn prime<'a>(outlook: &mut PercentileOutlook, blocks: impl Iterator<Item = &'a FeePoint>, tip: u128) {
    blocks.for_each(|point| outlook.record(point.base_fee.saturating_add(tip)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_waits_in_a_pool_the_cap_holds_for_seconds() {
        let spec = ChainSpec::preset("arbitrum-one").unwrap();
        let floor = 20_000_000;
        let price = price_at(&spec, floor, 0, &[]);
        assert_eq!(price.quote.max_fee_per_gas, 3 * floor, "a reservation is four times that: below 20 prices");
        let highest = spec.base_fee.max_after(floor, 6, &[]).unwrap();
        assert_eq!(price_at(&spec, highest, 0, &[]).quote.max_fee_per_gas, highest, "never above the curve");
        let ethereum = ChainSpec::preset("ethereum").unwrap();
        assert!(price_at(&ethereum, 1_000_000_000, 0, &[]).quote.max_fee_per_gas > 2_000_000_000);
    }
}
