//! Keys of vehicles.

use alloy_primitives::{Address, B256};

use crate::request::{RequestId, params::VehicleParams};

/// Kind of transaction. Requests with the same key may share a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VehicleKey {
    /// `executeBatch` of this forwarder, non-atomic: members fail one by one.
    Forwarder(Address),
    /// Multicall3 `aggregate3Value` without `allowFailure`: all or nothing, so that the receipt's status holds for
    /// every member.
    Multicall,
    /// A transaction of its own, whose target sees the relayer.
    Single(RequestId),
    /// A payment in a transaction of its own, where there is no `CappedCalls`. Payers do not share: a token asks a payer with
    /// code whether the signature is valid, with all gas that is left.
    Payment(RequestId),
    /// Payments through `CappedCalls`, which gives each its own gas, whatever a payer with code does. One alone calls the
    /// token itself.
    Payments,
}

/// Contracts for shared transactions whose code was seen on the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contracts {
    /// Multicall3, for calls that any sender may make.
    pub multicall3: bool,
    /// `CappedCalls`, for payments.
    pub capped_calls: bool,
}

impl Contracts {
    /// Both, or none.
    pub const fn all(are_there: bool) -> Self {
        Self { multicall3: are_there, capped_calls: are_there }
    }
}

impl VehicleKey {
    /// Vehicle of transactions without members, and group of all that travel alone.
    pub const ALONE: Self = Self::Single(RequestId(B256::ZERO));

    /// Group in the queue. Requests that travel alone share one; otherwise a hundred thousand of them would be as many
    /// groups to visit.
    pub const fn group(self) -> Self {
        match self {
            Self::Single(_) => Self::ALONE,
            Self::Payment(_) => Self::Payment(RequestId(B256::ZERO)),
            shared => shared,
        }
    }

    /// True if it carries one request only, as the transaction's own call.
    pub const fn is_lone(self) -> bool {
        matches!(self, Self::Single(_) | Self::Payment(_))
    }

    /// True if its contract caps each member's gas: none can reach another's.
    pub const fn caps_members(self) -> bool {
        matches!(self, Self::Payments)
    }

    /// True if its targets see the relayer, so that only lanes of the tenant's own may send it.
    pub const fn is_bound_to_callers(self) -> bool {
        matches!(self, Self::Multicall | Self::Single(_))
    }

    /// Contract that counts the nonces of the members' users, and skips a member that is out of order; its state can be
    /// assumed only if its code is known. `None` if the members have no order.
    pub const fn nonce_contract(self) -> Option<Address> {
        match self {
            Self::Forwarder(forwarder) => Some(forwarder),
            Self::Multicall | Self::Single(_) | Self::Payment(_) | Self::Payments => None,
        }
    }

    /// True if its contract's code was not seen on the chain.
    pub const fn lacks_contract(self, params: &VehicleParams) -> bool {
        match self {
            Self::Multicall => params.multicall3.is_none(),
            Self::Payments => !params.has_capped_calls,
            Self::Forwarder(_) | Self::Single(_) | Self::Payment(_) => false,
        }
    }
}
