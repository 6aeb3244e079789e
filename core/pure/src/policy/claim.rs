//! Claims of requests on limits and budgets.

use std::sync::Arc;

use alloy_primitives::{Address, U256};

use crate::request::{RequestId, VerifiedRequest};

/// Properties of a request that limits and budgets use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Tenant of the request.
    pub tenant: Arc<str>,
    /// Id of the request.
    pub id: RequestId,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Forwarder, signer and nonce; `None` for kinds without an order.
    pub sequence: Option<(Address, Address, u64)>,
    /// The account that signed it; `None` for kinds that users don't sign.
    pub signer: Option<Address>,
    /// Contract that is finally called.
    pub target: Address,
    /// Size of the calldata, bytes.
    pub bytes: u64,
    /// Worst-case cost, wei.
    pub wei: U256,
}

impl Claim {
    /// The claim of a request with a worst-case cost of `wei`.
    pub fn of(tenant: &Arc<str>, request: &VerifiedRequest, wei: U256) -> Self {
        Self {
            tenant: tenant.clone(),
            id: request.id(),
            chain_id: request.chain_id(),
            sequence: request.sequence(),
            signer: request.signer(),
            target: request.target(),
            bytes: request.data().len() as u64,
            wei,
        }
    }

    pub(super) fn line(&self) -> Option<(LineKey, u64)> {
        self.sequence.map(|(forwarder, signer, nonce)| ((self.chain_id, forwarder, signer), nonce))
    }
}

/// (chain, forwarder, signer).
pub type LineKey = (u64, Address, Address);

/// `percent` of `wei`, rounded down.
pub(super) fn percent_of(wei: U256, percent: u32) -> U256 {
    if percent >= 100 {
        return wei;
    }
    // Divide first if the product would not fit.
    let percent = U256::from(percent);
    wei.checked_mul(percent).map_or_else(|| wei / U256::from(100) * percent, |product| product / U256::from(100))
}
