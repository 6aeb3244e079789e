//! The only source of randomness in the relay's runtime.

/// A value that is unique across calls and instances: 128 random bits, hexadecimal.
pub(in crate::relay) fn salt() -> Result<String, getrandom::Error> {
    #[cfg(feature = "simulation")]
    if let Some(salt) = crate::relay::clock::simulated::next_salt() {
        return Ok(salt);
    }
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    Ok(alloy_primitives::hex::encode(salt))
}
