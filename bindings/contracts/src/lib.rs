//! Contracts that Slackwater relays through: ABI types, creation code and known runtime codes.
//!
//! Pure data and pure functions; builds for `wasm32-unknown-unknown`.

mod code;
pub mod forwarder;
pub mod guestbook;
pub mod multicall3;
pub mod nasty;
