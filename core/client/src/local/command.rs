//! Commands of a local relay to its caller, and the answers to its calls.

use alloy_primitives::{Address, Bytes, U256};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    chain::{RpcErrorClass, classify},
    json,
    request::RequestId,
};

/// A command for the caller to execute.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalCommand {
    /// Put `record` under `key`, in place of what is there. `Store` and `Remove` must reach storage in order.
    Store {
        /// Storage key.
        key: String,
        /// Revision to report back.
        revision: u64,
        /// The record, JSON.
        record: String,
    },
    /// Remove the record under `key`.
    Remove {
        /// Storage key.
        key: String,
    },
    /// Call the node once, immediately. Never retry: the machine does.
    Call {
        /// Call id to report back.
        call: u64,
        /// JSON-RPC method.
        method: &'static str,
        /// JSON-RPC parameters.
        params: Value,
    },
    /// A request changed; read it with [`LocalRelay::request`](super::LocalRelay::request).
    Changed {
        /// Id of the request.
        id: RequestId,
    },
    /// A condition to report to the user or operator.
    Alert {
        /// Stable code.
        code: &'static str,
        /// Human-readable detail.
        detail: String,
    },
}

/// Summary of the records found in storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalReport {
    /// Number of open requests.
    pub open: usize,
    /// Number of ended requests that were not acknowledged.
    pub ended: usize,
    /// Keys of request records that can't be read. The records stay in storage.
    pub damaged: Vec<String>,
}

/// Result of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallAnswer {
    /// The node's `result`, as JSON.
    Result(String),
    /// The node's `error`.
    Error {
        /// JSON-RPC code.
        code: i64,
        /// The node's error message.
        message: String,
    },
    /// No answer. The node may have got the call (I5).
    Lost,
}

impl CallAnswer {
    /// The parsed result; `None` for an error, a lost answer, or an unreadable one.
    pub(super) fn read<T: DeserializeOwned>(self) -> Option<T> {
        match self {
            Self::Result(text) => parse(&text),
            Self::Error { .. } | Self::Lost => None,
        }
    }

    /// Class of the node's error; `None` if it did not answer with an error.
    pub(super) fn class(&self) -> Option<RpcErrorClass> {
        match self {
            Self::Error { code, message } => Some(classify(*code, message, None)),
            Self::Result(_) | Self::Lost => None,
        }
    }

    /// The node's error message; empty if it did not answer with an error.
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Error { message, .. } => message,
            Self::Result(_) | Self::Lost => "",
        }
    }
}

/// Reads a node's answer.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    json::read(text.as_bytes()).ok()
}

/// A block height as a JSON-RPC quantity.
pub(super) fn height(number: u64) -> Value {
    format!("{number:#x}").into()
}

/// Parameters of `eth_call`.
pub(super) fn eth_call(to: Address, data: Vec<u8>, block: Value) -> Value {
    json!([{ "to": to, "data": Bytes::from(data) }, block])
}

/// The number in a returned 32-byte word; `None` if it is short or above `u64`.
pub(super) fn word(data: &[u8]) -> Option<u64> {
    let word = data.get(..32)?;
    u64::try_from(U256::from_be_slice(word)).ok()
}
