//! 65-byte, low-s ECDSA signatures over secp256k1, the only form OpenZeppelin's forwarder accepts.

use alloy_primitives::{Address, B256, U256, keccak256, uint};

/// Half the order of secp256k1; a larger `s` is malleable (EIP-2).
const HALF_ORDER: U256 = uint!(0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0_U256);

/// Errors of a signature. Always the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Only `r ‖ s ‖ v` is accepted; EIP-2098 compact signatures (64 bytes) fail in the forwarder.
    #[error("signature has {0} bytes, expected 65")]
    Length(usize),
    /// `v` must be 27 or 28; some wallets give 0 or 1, which OpenZeppelin refuses: add 27.
    #[error("signature has v = {0}, expected 27 or 28")]
    RecoveryId(u8),
    /// `s` lies in the upper half of the curve order, which OpenZeppelin refuses: use `n − s` and flip `v`.
    #[error("signature has a high s value")]
    HighS,
    /// No public key satisfies it.
    #[error("no address can be recovered from the signature")]
    Unrecoverable,
}

/// The address whose key signed `digest`.
///
/// # Errors
/// [`SignatureError`] on anything that OpenZeppelin's `ECDSA.recover(bytes32, bytes)` would refuse.
pub fn recover(digest: B256, signature: &[u8]) -> Result<Address, SignatureError> {
    let bytes: &[u8; 65] = signature.try_into().map_err(|_| SignatureError::Length(signature.len()))?;
    let parity = match bytes[64] {
        27 => 0,
        28 => 1,
        v => return Err(SignatureError::RecoveryId(v)),
    };
    if U256::from_be_slice(&bytes[32..64]) > HALF_ORDER {
        return Err(SignatureError::HighS);
    }
    let point = recover_point(digest, bytes, parity).ok_or(SignatureError::Unrecoverable)?;
    Ok(Address::from_slice(&keccak256(point)[12..]))
}

/// Uncompressed public key without its `0x04` prefix.
#[cfg(feature = "libsecp256k1")]
fn recover_point(digest: B256, bytes: &[u8; 65], parity: u8) -> Option<[u8; 64]> {
    use secp256k1::{
        Message, SECP256K1,
        ecdsa::{RecoverableSignature, RecoveryId},
    };
    let id = if parity == 0 { RecoveryId::Zero } else { RecoveryId::One };
    let signature = RecoverableSignature::from_compact(&bytes[..64], id).ok()?;
    let key = SECP256K1.recover_ecdsa(Message::from_digest(digest.0), &signature).ok()?;
    key.serialize_uncompressed()[1..].try_into().ok()
}

/// Uncompressed public key without its `0x04` prefix.
#[cfg(not(feature = "libsecp256k1"))]
fn recover_point(digest: B256, bytes: &[u8; 65], parity: u8) -> Option<[u8; 64]> {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    let signature = Signature::from_slice(&bytes[..64]).ok()?;
    let id = RecoveryId::from_byte(parity)?;
    let key = VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, id).ok()?;
    key.to_encoded_point(false).as_bytes()[1..].try_into().ok()
}
