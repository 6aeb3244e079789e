//! The kinds of request: one file each, and here the only places that choose between them.

mod authorization;
mod call;
mod form;
mod forward;
mod key;
mod vehicle;

use alloy_primitives::{Address, Bytes, ChainId, U256};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};

pub use authorization::Authorization;
pub use call::Call;
pub(super) use form::Bounds;
use form::Kind;
pub use form::KindName;
pub use forward::Forward;
pub use forward::executed;
pub use key::{Contracts, VehicleKey};
pub use vehicle::verify_input;

use super::{Payment, RequestId, Submission, VerifyContext, VerifyError, params::VehicleParams};

/// Most ABI bytes around one member's calldata, over all kinds.
pub(super) const MOST_ENVELOPE_BYTES: usize = forward::ENVELOPE_BYTES;

/// A kind of request with its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RequestKind {
    /// ERC-2771.
    Forward(Forward),
    /// A trusted backend's own call.
    Call(Call),
    /// EIP-3009.
    Authorization(Authorization),
}

/// Evaluates `$then` with `$kind` bound to the content of `$of`, of whichever kind.
macro_rules! each {
    ($of:expr, $kind:ident => $then:expr) => {
        match $of {
            RequestKind::Forward($kind) => $then,
            RequestKind::Call($kind) => $then,
            RequestKind::Authorization($kind) => $then,
        }
    };
}

impl RequestKind {
    /// Name of the kind.
    pub fn name(&self) -> KindName {
        const fn of<K: Kind>(_: &K) -> KindName {
            K::NAME
        }
        each!(self, kind => of(kind))
    }

    /// The ERC-2771 request; `None` for another kind.
    pub const fn as_forward(&self) -> Option<&Forward> {
        match self {
            Self::Forward(forward) => Some(forward),
            Self::Call(_) | Self::Authorization(_) => None,
        }
    }

    /// The relayer's call; `None` for another kind.
    pub const fn as_call(&self) -> Option<&Call> {
        match self {
            Self::Call(call) => Some(call),
            Self::Forward(_) | Self::Authorization(_) => None,
        }
    }

    /// The authorized payment with its signature; `None` for another kind.
    pub const fn as_authorization(&self) -> Option<&Authorization> {
        match self {
            Self::Authorization(authorization) => Some(authorization),
            Self::Forward(_) | Self::Call(_) => None,
        }
    }

    /// Contract that is finally called.
    pub fn target(&self) -> Address {
        each!(self, kind => kind.inner().target)
    }

    /// Wei sent along to the target.
    pub fn value(&self) -> U256 {
        each!(self, kind => kind.inner().value)
    }

    /// Gas given to the target, as submitted; 0 for an authorization, whose token's bound applies.
    pub fn gas(&self) -> U256 {
        each!(self, kind => kind.inner().gas)
    }

    /// Calldata for the target.
    pub fn data(&self) -> Bytes {
        each!(self, kind => kind.data())
    }

    /// The sequence that it claims a place in, as submitted: (contract that counts the nonces, user, nonce). `None` for
    /// kinds without order.
    pub fn sequence(&self) -> Option<(Address, Address, U256)> {
        each!(self, kind => kind.sequence())
    }

    /// True if its signature can be checked without the chain.
    pub(super) fn is_proven(&self) -> bool {
        self.sequence().is_some() || self.slot().is_some()
    }

    pub(super) fn slot(&self) -> Option<(Address, Address, u64)> {
        each!(self, kind => kind.slot())
    }

    /// The token payment that it makes; `None` for kinds that make none.
    pub fn payment(&self) -> Option<Payment> {
        each!(self, kind => kind.payment())
    }

    /// Block timestamp, seconds, that the chain must have passed before it executes; `None` if the kind has none.
    pub fn waits_for_s(&self) -> Option<u64> {
        each!(self, kind => kind.waits_for_s())
    }

    /// Deadline that the chain enforces, in block-timestamp seconds; `None` if the kind has none.
    pub fn chain_deadline_s(&self) -> Option<u64> {
        each!(self, kind => kind.chain_deadline_s())
    }

    /// Text that distinguishes it from another request with equal content; `None` if the kind has no salt.
    pub fn salt(&mut self) -> Option<&mut String> {
        each!(self, kind => kind.salt())
    }

    /// Appends all content as submitted: equal bytes are the same body of an idempotency key.
    pub fn write_body(&self, bytes: &mut Vec<u8>) {
        each!(self, kind => kind.write_body(bytes));
    }

    pub(super) fn bounds(&self, context: &VerifyContext<'_>) -> Result<Bounds, VerifyError> {
        each!(self, kind => kind.bounds(context))
    }

    pub(super) fn identify(&self, chain_id: ChainId, context: &VerifyContext<'_>) -> Option<RequestId> {
        each!(self, kind => kind.identify(chain_id, context))
    }

    pub(super) fn prove(&self, context: &VerifyContext<'_>) -> Result<RequestId, VerifyError> {
        each!(self, kind => kind.prove(context))
    }

    pub(super) fn outline(&self) -> Self {
        let mut outline = self.clone();
        each!(&mut outline, kind => kind.strip());
        outline
    }

    pub(super) fn overhead(&self, params: &VehicleParams) -> (u64, usize) {
        each!(self, kind => kind.overhead(params))
    }

    fn vehicle(&self, id: RequestId, contracts: Contracts) -> VehicleKey {
        each!(self, kind => kind.vehicle(id, contracts))
    }
}

/// Member `kind` and the member of that name, as a client writes them. In a fixed order: keys are derived from these bytes,
/// on every platform.
#[derive(Debug)]
pub struct Content<'a>(pub &'a RequestKind);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.0.name().as_str();
        let mut members = serializer.serialize_map(Some(2))?;
        members.serialize_entry("kind", name)?;
        each!(self.0, kind => members.serialize_entry(name, &kind.body()))?;
        members.end()
    }
}

impl Submission {
    /// A request that a user signed (ERC-2771).
    pub const fn forward(chain_id: ChainId, forward: Forward) -> Self {
        Self::new(chain_id, RequestKind::Forward(forward))
    }

    /// A trusted tenant's own call, made by the relayer's account.
    pub const fn call(chain_id: ChainId, call: Call) -> Self {
        Self::new(chain_id, RequestKind::Call(call))
    }

    /// A token payment that the payer authorized (EIP-3009).
    pub const fn authorization(chain_id: ChainId, authorization: Authorization) -> Self {
        Self::new(chain_id, RequestKind::Authorization(authorization))
    }
}

impl From<Forward> for RequestKind {
    fn from(forward: Forward) -> Self {
        Self::Forward(forward)
    }
}

impl From<Call> for RequestKind {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

impl From<Authorization> for RequestKind {
    fn from(authorization: Authorization) -> Self {
        Self::Authorization(authorization)
    }
}
