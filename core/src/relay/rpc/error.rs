//! Why a call failed.

use crate::chain::{RpcErrorClass, Taken, is_unknown_block};

/// Why a call failed, at one node or at all.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} at {endpoint}: {class:?}: {message}")]
pub struct RpcError {
    /// The node's configured name.
    pub endpoint: String,
    /// The JSON-RPC method.
    pub method: &'static str,
    /// What it means.
    pub class: RpcErrorClass,
    /// Whether the node may have taken a transaction.
    pub taken: Taken,
    /// Bounded text without secrets.
    pub message: String,
    /// The JSON-RPC error's code; `None` where the node answered none.
    pub code: Option<i64>,
    /// `data` of a JSON-RPC error: revert data, for instance.
    pub data: Option<String>,
}

impl RpcError {
    /// There is nobody to ask.
    pub(super) fn no_endpoint(method: &'static str) -> Self {
        Self {
            endpoint: "none".to_owned(),
            method,
            class: RpcErrorClass::EndpointUnusable,
            taken: Taken::No,
            message: "no endpoint is configured".to_owned(),
            code: None,
            data: None,
        }
    }

    /// An answer that gives no use: it is understood, and says nothing.
    pub(in crate::relay) fn useless(method: &'static str) -> Self {
        Self {
            class: RpcErrorClass::Unknown,
            message: "the answer says nothing".to_owned(),
            ..Self::no_endpoint(method)
        }
    }

    /// The nodes that answered say different things.
    pub(super) fn no_majority(method: &'static str, answered: usize) -> Self {
        Self {
            endpoint: "all".to_owned(),
            method,
            class: RpcErrorClass::NodeUnavailable,
            taken: Taken::No,
            message: format!("{answered} nodes answered, and no answer has more than half of them"),
            code: None,
            data: None,
        }
    }

    /// The same call may succeed later, or elsewhere.
    pub const fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }

    /// The node answered that it does not have this method.
    pub(in crate::relay) fn is_missing_method(&self) -> bool {
        self.class == RpcErrorClass::EndpointUnusable && self.code.is_some()
    }

    /// The node answered that it does not have the block that was asked for: it has no such tag, does not know it yet, or has
    /// no state of it any more.
    pub(in crate::relay) fn is_unknown_block(&self) -> bool {
        self.code.is_some_and(|code| is_unknown_block(code, &self.message))
    }

    /// The node does not take the parameters in this form.
    pub(in crate::relay) fn is_invalid_params(&self) -> bool {
        self.code == Some(-32_602)
    }

    /// The call reached a node that answered: other nodes would answer the same.
    pub(super) const fn is_answer(&self) -> bool {
        matches!(
            self.class,
            RpcErrorClass::Reverted
                | RpcErrorClass::BadTransaction
                | RpcErrorClass::GasTooHigh
                | RpcErrorClass::InsufficientFunds
        )
    }
}
