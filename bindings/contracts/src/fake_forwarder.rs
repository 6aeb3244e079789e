//! `FakeForwarder`: looks like a forwarder and reports success without running anything. For tests only.

use alloc::vec::Vec;

use alloy_sol_types::SolValue;

use crate::code::{code_bytes, decode_code};

/// Creation code, without constructor arguments. Needs a chain with Cancun.
#[must_use]
pub const fn creation_code() -> &'static [u8] {
    &CREATION_CODE
}

/// Init code that deploys one whose EIP-712 domain is called `name`.
#[must_use]
pub fn deploy_code(name: &str) -> Vec<u8> {
    [creation_code(), &(name,).abi_encode_params()].concat()
}

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/FakeForwarder.creation.hex");
