//! Data fees of transactions: what they reserve, and what they take from a lane beyond gas.

use std::sync::LazyLock;

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use slackwater_contracts::forwarder;

use super::{candidate::DataQuote, host::Host, state::Sender};
use crate::{
    chain::data_fee::{DataFeeModel, TxSize, with_margin},
    request::vehicle::Payload,
};

impl<H: Host> Sender<H> {
    /// The data fee model in use; `None` while the chain's model is unknown.
    pub fn data_fee(&self) -> Option<DataFeeModel> {
        if self.facts.spec.family.has_data_fee() { self.data_fee } else { Some(DataFeeModel::None) }
    }

    /// Adds the poster gas to the payload's gas limit, and returns the balance needed beyond gas and value, wei.
    pub fn charge_data(&self, payload: &mut Payload, quote: DataQuote) -> U256 {
        let model = self.data_fee().unwrap_or_default();
        if model == DataFeeModel::None {
            return U256::ZERO;
        }
        let size = TxSize::of_unsigned(&payload.data);
        let poster = quote.poster_gas.unwrap_or_else(|| model.poster_gas(&size).padded);
        payload.gas_limit = payload.gas_limit.saturating_add(poster);
        let margin = self.facts.tuning.fees.l1_fee_margin_percent;
        beyond_gas(&model, &size, payload.gas_limit, quote.data_fee, margin)
    }

    /// Balance needed for a cancel beyond its gas, wei; `None` while the L1 parameters are unknown.
    pub fn cancel_extra_wei(&self) -> Option<U256> {
        let (model, tuning) = (self.data_fee()?, &self.facts.tuning);
        Some(beyond_gas(&model, &empty_tx(), tuning.lane.cancel_gas, None, tuning.fees.l1_fee_margin_percent))
    }
}

/// Upper bound of a transaction's cost beyond gas and value, wei.
pub fn beyond_gas(
    model: &DataFeeModel,
    size: &TxSize,
    gas_limit: u64,
    told: Option<U256>,
    margin_percent: u32,
) -> U256 {
    let data = told.unwrap_or_else(|| model.data_fee_bound(size));
    with_margin(data, margin_percent).saturating_add(model.operator_fee(gas_limit))
}

/// Sizes of a typical forward request in a transaction of its own, for a quote without a request. Measured once, since
/// every quote uses it.
pub fn usual_forward() -> TxSize {
    static SIZE: LazyLock<TxSize> = LazyLock::new(measure_usual_forward);
    *SIZE
}

/// Sizes of an empty transaction.
pub(crate) fn empty_tx() -> TxSize {
    static SIZE: LazyLock<TxSize> = LazyLock::new(|| TxSize::of_unsigned(&[]));
    *SIZE
}

fn measure_usual_forward() -> TxSize {
    let filled = |byte: u8| Address::from(std::array::from_fn(|index| byte.wrapping_mul(index as u8 * 2 + 1)));
    let request = forwarder::ForwardRequestData {
        from: filled(0x9D),
        to: filled(0x6B),
        gas: U256::from(200_000),
        deadline: alloy_primitives::aliases::U48::from(1_800_000_000_u64),
        // A transfer, or anything with two arguments.
        data: (0..68_u8).map(|index| if (4..16).contains(&index) { 0 } else { index.wrapping_mul(0x35) }).collect(),
        signature: (0..65_u8).map(|index| index.wrapping_mul(0x67).wrapping_add(0x1F)).collect(),
        ..Default::default()
    };
    let call = forwarder::executeBatchCall { requests: vec![request], refundReceiver: filled(0x2F) };
    TxSize::of_unsigned(&call.abi_encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_forward_has_a_usual_size() {
        let size = usual_forward();
        assert!((700..1_200).contains(&size.bytes) && (400..700).contains(&size.flz), "{size:?}");
    }
}
