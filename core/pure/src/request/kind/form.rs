//! What every kind tells of itself.

use alloy_primitives::{Address, Bytes, ChainId, U256};
use serde::{Deserialize, Serialize};

use super::key::{Contracts, VehicleKey};
use crate::{
    request::{Payment, RequestId, VerifyContext, VerifyError, params::VehicleParams},
    time::Timestamp,
};

/// Name of a request kind in policies, API, ledger and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KindName {
    /// ERC-2771 requests.
    Forward,
    /// The tenant's own calls, made by the relayer's account.
    Call,
    /// Token payments that payers authorized (EIP-3009).
    Authorization,
}

/// Numbers of a request in the types used internally, and the end of its signature's validity.
pub(crate) struct Bounds {
    pub gas: u64,
    /// Position in its sequence; 0 for kinds without order.
    pub nonce: u64,
    /// Earliest inclusion that the chain permits.
    pub from: Timestamp,
    /// Latest inclusion that the chain permits, less the skew margin.
    pub until: Timestamp,
}

/// The call that a request ends in, without its calldata.
pub(super) struct Inner {
    pub(super) target: Address,
    pub(super) value: U256,
    pub(super) gas: U256,
}

/// Everything that decisions need to know about a kind. Defaults are those of a kind without order and signature.
pub(super) trait Kind: Sized {
    const NAME: KindName;

    /// The call that it ends in.
    fn inner(&self) -> Inner;

    /// Calldata of that call.
    fn data(&self) -> Bytes;

    /// Checks of form and ranges, without the signature.
    fn bounds(&self, context: &VerifyContext<'_>) -> Result<Bounds, VerifyError>;

    /// Identity, without any check; `None` if it can't be determined.
    fn identify(&self, chain_id: ChainId, context: &VerifyContext<'_>) -> Option<RequestId>;

    /// Identity, after the check of the signature.
    fn prove(&self, context: &VerifyContext<'_>) -> Result<RequestId, VerifyError>;

    /// Content as a client writes it, members in a fixed order.
    fn body(&self) -> impl Serialize + '_;

    /// Appends all content as submitted: equal bytes are the same body of an idempotency key.
    fn write_body(&self, bytes: &mut Vec<u8>);

    /// Drops calldata and signature.
    fn strip(&mut self);

    /// Vehicle of the request `id` on a chain with these contracts.
    fn vehicle(&self, id: RequestId, contracts: Contracts) -> VehicleKey;

    /// Gas beyond its own that it adds to a transaction, and ABI bytes around its calldata.
    fn overhead(&self, params: &VehicleParams) -> (u64, usize);

    /// (contract, user, nonce) if the chain executes a user's requests in the order of their nonces.
    fn sequence(&self) -> Option<(Address, Address, U256)> {
        None
    }

    /// Place beside the sequences that only one live request may hold: (contract, user, number).
    fn slot(&self) -> Option<(Address, Address, u64)> {
        None
    }

    /// The token payment that it makes.
    fn payment(&self) -> Option<Payment> {
        None
    }

    /// Block timestamp, seconds, that the chain must have passed before it executes.
    fn waits_for_s(&self) -> Option<u64> {
        None
    }

    /// Deadline that the chain enforces, in block-timestamp seconds.
    fn chain_deadline_s(&self) -> Option<u64> {
        None
    }

    /// Distinguishes equal content, if the kind has such a thing.
    fn salt(&mut self) -> Option<&mut String> {
        None
    }
}

impl KindName {
    /// The text, as in configuration, API, ledger and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Call => "call",
            Self::Authorization => "authorization",
        }
    }

    /// True if the target sees an account of the relayer's as its caller: a trusted tenant's only, to targets that its
    /// policy names, and from the tenant's own signers.
    pub const fn acts_as_relayer(self) -> bool {
        matches!(self, Self::Call)
    }

    /// True if the target reads its sender from the end of the calldata (ERC-2771).
    pub const fn appends_user(self) -> bool {
        matches!(self, Self::Forward)
    }
}

/// `gas` if it can be used.
pub(super) fn narrow_gas(gas: U256) -> Result<u64, VerifyError> {
    match u64::try_from(gas) {
        Ok(0) => Err(VerifyError::ZeroGas),
        Ok(gas) => Ok(gas),
        Err(_) => Err(VerifyError::GasOutOfRange(gas)),
    }
}
