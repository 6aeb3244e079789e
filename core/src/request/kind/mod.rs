//! The kinds of request: one file each, and here the only places that choose between them.

mod authorization;
mod call;
mod forward;
mod vehicle;

use alloy_primitives::{Address, Bytes, ChainId, U256};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};

pub use authorization::{Authorization, TokenDomain};
pub use call::Call;
pub use forward::{Forward, ForwarderDomain};
pub(crate) use forward::{executed, verify_input};
#[cfg(feature = "relay")]
pub(super) use vehicle::Part;
pub use vehicle::VehicleKey;

use super::{RequestId, VerifyContext, VerifyError, vehicle::VehicleParams};
use crate::time::Timestamp;

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
}

/// Name of a request kind in policies, API, ledger and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KindName {
    /// ERC-2771 requests.
    Forward,
    /// The tenant's own calls, made by the relayer's account.
    Call,
}

/// Numbers of a request in the types used internally, and the end of its signature's validity.
pub(super) struct Bounds {
    pub(super) gas: u64,
    /// Position in its sequence; 0 for kinds without order.
    pub(super) nonce: u64,
    /// Latest inclusion that the chain permits, less the skew margin.
    pub(super) until: Timestamp,
}

/// The call that a request ends in.
struct Inner<'a> {
    target: Address,
    value: U256,
    gas: U256,
    data: &'a Bytes,
}

/// Everything that decisions need to know about a kind. Defaults are those of a kind without order and signature.
trait Kind: Sized {
    const NAME: KindName;

    /// The call that it ends in.
    fn inner(&self) -> Inner<'_>;

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

    /// Vehicle of the request `id`; `has_multicall` if Multicall3's code was seen.
    fn vehicle(&self, id: RequestId, has_multicall: bool) -> VehicleKey;

    /// Gas beyond its own that it adds to a transaction, and ABI bytes around its calldata.
    fn overhead(&self, params: &VehicleParams) -> (u64, usize);

    /// (contract, user, nonce) if the chain executes a user's requests in the order of their nonces.
    fn sequence(&self) -> Option<(Address, Address, U256)> {
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

/// Evaluates `$then` with `$kind` bound to the content of `$of`, of whichever kind.
macro_rules! each {
    ($of:expr, $kind:ident => $then:expr) => {
        match $of {
            RequestKind::Forward($kind) => $then,
            RequestKind::Call($kind) => $then,
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
            Self::Call(_) => None,
        }
    }

    /// The relayer's call; `None` for another kind.
    pub const fn as_call(&self) -> Option<&Call> {
        match self {
            Self::Call(call) => Some(call),
            Self::Forward(_) => None,
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

    /// Gas given to the target, as submitted.
    pub fn gas(&self) -> U256 {
        each!(self, kind => kind.inner().gas)
    }

    /// Calldata for the target.
    pub fn data(&self) -> &Bytes {
        each!(self, kind => kind.inner().data)
    }

    /// The sequence that it claims a place in, as submitted: (contract that counts the nonces, user, nonce). `None` for
    /// kinds without order.
    pub fn sequence(&self) -> Option<(Address, Address, U256)> {
        each!(self, kind => kind.sequence())
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
    #[cfg_attr(not(feature = "relay"), allow(dead_code, reason = "only a relayer compares bodies"))]
    pub(crate) fn write_body(&self, bytes: &mut Vec<u8>) {
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

    fn vehicle(&self, id: RequestId, has_multicall: bool) -> VehicleKey {
        each!(self, kind => kind.vehicle(id, has_multicall))
    }
}

/// Member `kind` and the member of that name, as a client writes them. In a fixed order: keys are derived from these bytes,
/// on every platform.
pub(crate) struct Content<'a>(pub(crate) &'a RequestKind);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.0.name().as_str();
        let mut members = serializer.serialize_map(Some(2))?;
        members.serialize_entry("kind", name)?;
        each!(self.0, kind => members.serialize_entry(name, &kind.body()))?;
        members.end()
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

impl KindName {
    /// The text, as in configuration, API, ledger and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Call => "call",
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
fn narrow_gas(gas: U256) -> Result<u64, VerifyError> {
    match u64::try_from(gas) {
        Ok(0) => Err(VerifyError::ZeroGas),
        Ok(gas) => Ok(gas),
        Err(_) => Err(VerifyError::GasOutOfRange(gas)),
    }
}
