//! Contracts that Slackwater relays through: ABI types, creation code and known runtime codes.
//!
//! Pure data and pure functions, without `std`: builds for `wasm32-unknown-unknown`.
//!
//! ```
//! use alloy_sol_types::SolCall;
//! use slackwater_contracts::forwarder::{self, ForwardRequestData, executeBatchCall};
//!
//! let init_code = forwarder::deploy_code("Slackwater");
//! assert!(init_code.starts_with(forwarder::creation_code()));
//!
//! let batch = executeBatchCall {
//!     requests: vec![ForwardRequestData::default()],
//!     refundReceiver: Default::default(),
//! };
//! assert_eq!(batch.abi_encode()[..4], executeBatchCall::SELECTOR);
//! ```

#![no_std]

extern crate alloc;

pub mod capped_calls;
mod code;
pub mod eip3009;
pub mod fake_forwarder;
pub mod fiat_token;
pub mod forwarder;
pub mod guestbook;
pub mod multicall3;
pub mod nasty;
pub mod rollup;
