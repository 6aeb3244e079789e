//! Tests of ABI, code and known builds.

mod abi;
mod code;
mod vectors;
