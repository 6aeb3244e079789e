//! The Slackwater core for browsers, workers and Node.
//!
//! An interface without logic: all results are computed by the crates `slackwater-core` and `slackwater-client`,
//! natively and in WASM to the same bit. Values cross as JSON (`interop`), typed for TypeScript in the `types.*.d.ts`.
//! Whole numbers that may exceed 2⁵³ are accepted as decimal digits, `0x` hex, bigints or safe integers, and returned
//! as decimal digits.
//!
//! It is built twice: with the feature `client` for pages with a relayer, with `page` for pages without one, so that
//! neither downloads the other's part.
//!
//! **Invariant:** a panic never crosses. Every fallible function returns a [`interop::Failure`], which JavaScript sees
//! as an `Error` with a stable `code`.

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod fees;
#[cfg(feature = "client")]
mod forecaster;
mod interop;
mod node;
mod nonces;
#[cfg(feature = "page")]
mod page;
#[cfg(feature = "client")]
mod proof;
mod request;
mod scalar;

use wasm_bindgen::prelude::wasm_bindgen;

#[cfg(feature = "client")]
pub use client::{Exchange, Follow, ForwarderCheck, InclusionCheck, Outbox, verify_accepted};
#[cfg(feature = "client")]
pub use fees::{max_base_fee_after, next_base_fee};
#[cfg(feature = "client")]
pub use forecaster::Forecaster;
pub use interop::Failure;
pub use node::{checked_signature, nonce_call};
#[cfg(feature = "page")]
pub use node::{forwarder_domain_call, read_forwarder_domain};
#[cfg(feature = "page")]
pub use nonces::Nonces;
#[cfg(feature = "page")]
pub use page::{LocalRelay, is_end};
#[cfg(feature = "client")]
pub use proof::{merkle_leaf, verify_merkle_proof, verify_promise};
#[cfg(feature = "client")]
pub use request::recover_signer;
pub use request::{forward_digest, forward_typed_data};

#[wasm_bindgen(typescript_custom_section)]
const SHARED: &str = include_str!("types.shared.d.ts");
#[cfg(feature = "client")]
#[wasm_bindgen(typescript_custom_section)]
const API: &str = include_str!("types.api.d.ts");
#[cfg(feature = "client")]
#[wasm_bindgen(typescript_custom_section)]
const CLIENT: &str = include_str!("types.d.ts");
#[cfg(feature = "page")]
#[wasm_bindgen(typescript_custom_section)]
const PAGE: &str = include_str!("types.page.d.ts");

/// Version of the package.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
