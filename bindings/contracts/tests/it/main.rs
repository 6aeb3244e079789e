//! What the crate promises about ABI, code and known builds.

mod abi;
mod code;
mod vectors;
