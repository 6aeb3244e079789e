//! The Slackwater core for browsers, workers and Node.
//!
//! A surface, no logic: what is computed here is computed by the crate `slackwater`, natively and in WASM to the same bit.
//! Values cross as JSON (`interop`), typed for TypeScript in `types.d.ts`. Whole numbers that may exceed 2⁵³ come in as
//! decimal digits, `0x` hex, bigints or safe integers, and go out as decimal digits.
//!
//! **Invariant:** a panic never crosses. Everything that can fail returns a [`interop::Failure`], which JavaScript sees as an
//! `Error` with a stable `code`.

mod client;
mod fees;
mod forecaster;
mod interop;
mod proof;
mod request;
mod scalar;

use wasm_bindgen::prelude::wasm_bindgen;

pub use client::{
    Exchange, Follow, InclusionCheck, Outbox, checked_signature, forwarder_domain_call, nonce_call,
    read_forwarder_domain, read_nonce, verify_accepted,
};
pub use fees::{max_base_fee_after, next_base_fee};
pub use forecaster::Forecaster;
pub use interop::Failure;
pub use proof::{merkle_leaf, verify_merkle_proof, verify_promise};
pub use request::{forward_digest, forward_typed_data, recover_signer};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.d.ts");

/// Version of the package.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
