//! The one place in the relay's runtime that asks for randomness.

/// A value that no other call gets, on however many instances: 128 random bits, hexadecimal.
pub(super) fn salt() -> Result<String, getrandom::Error> {
    #[cfg(feature = "simulation")]
    if let Some(salt) = super::clock::simulated::next_salt() {
        return Ok(salt);
    }
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    Ok(alloy_primitives::hex::encode(salt))
}
