//! Failures of calls.

use crate::chain::{RpcErrorClass, Taken, is_unknown_block};

/// Failure of a call, at one node or at all of them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} at {endpoint}: {class:?}: {message}")]
pub struct RpcError {
    /// The node's configured name.
    pub endpoint: String,
    /// The JSON-RPC method.
    pub method: &'static str,
    /// Class of the failure.
    pub class: RpcErrorClass,
    /// Acceptance of a transaction by the node: yes, maybe or no.
    pub taken: Taken,
    /// Bounded text without secrets.
    pub message: String,
    /// The JSON-RPC error's code; `None` if the node returned none.
    pub code: Option<i64>,
    /// `data` of a JSON-RPC error: revert data, for instance.
    pub data: Option<String>,
}

impl RpcError {
    /// The pool has no endpoint.
    pub(in crate::relay) fn no_endpoint(method: &'static str) -> Self {
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

    /// A useless answer: well-formed, but without information.
    pub(in crate::relay) fn useless(method: &'static str) -> Self {
        Self {
            class: RpcErrorClass::Unknown,
            message: "the answer says nothing".to_owned(),
            ..Self::no_endpoint(method)
        }
    }

    /// The nodes that answered disagree.
    pub(in crate::relay) fn no_majority(method: &'static str, answered: usize) -> Self {
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

    /// True if the same call may succeed later, or elsewhere.
    pub const fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }

    /// True if the node answered that it does not have this method.
    pub(in crate::relay) fn is_missing_method(&self) -> bool {
        self.class == RpcErrorClass::EndpointUnusable && self.code.is_some()
    }

    /// True if the node answered that it lacks the requested block: it has no such tag, does not know the block yet, or
    /// has no state of it any more.
    pub(in crate::relay) fn is_unknown_block(&self) -> bool {
        self.code.is_some_and(|code| is_unknown_block(code, &self.message))
    }

    /// True if the node does not accept the parameters in this form.
    pub(in crate::relay) fn is_invalid_params(&self) -> bool {
        self.code == Some(-32_602)
    }

    /// True if the failure is a node's answer that other nodes would repeat.
    pub(in crate::relay) const fn is_answer(&self) -> bool {
        matches!(
            self.class,
            RpcErrorClass::Reverted
                | RpcErrorClass::BadTransaction
                | RpcErrorClass::GasTooHigh
                | RpcErrorClass::InsufficientFunds
        )
    }
}
