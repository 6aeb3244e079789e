//! Contract code, decoded from the hexadecimal artifacts at compile time.

use alloy_primitives::hex::const_decode_to_array;

/// Size of the code that `hex` (with or without a newline at the end) encodes.
pub(crate) const fn code_bytes(hex: &[u8]) -> usize {
    hex.len() / 2
}

/// Decodes an artifact. Fails the build if it is damaged.
pub(crate) const fn decode_code<const N: usize>(hex: &[u8]) -> [u8; N] {
    match const_decode_to_array(hex.split_at(2 * N).0) {
        Ok(code) => code,
        Err(_) => panic!("an artifact is not hexadecimal"),
    }
}
