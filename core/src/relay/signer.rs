//! Keys in memory: lane senders and the identity that signs promises.

use std::fmt;

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa::RecoveryId};
use secrecy::{ExposeSecret, SecretBox, zeroize::Zeroizing};

use crate::lane::TxToSign;

/// A key could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// Not 32 bytes of hex, with or without `0x`.
    #[error("key is not 32 bytes of hex")]
    Malformed,
    /// Zero, or not below the order of secp256k1.
    #[error("key is not a valid secp256k1 secret")]
    OutOfRange,
}

/// A sender account whose key is held in memory. `Debug` shows only the address; the key is zeroed when dropped.
pub struct LocalSigner {
    key: SecretBox<[u8; 32]>,
    address: Address,
}

impl LocalSigner {
    /// Creates a signer from 32 bytes.
    ///
    /// # Errors
    /// [`SignerError::OutOfRange`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SignerError> {
        let mut secret = SecretKey::from_byte_array(*bytes).map_err(|_| SignerError::OutOfRange)?;
        let point = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        secret.non_secure_erase();
        let address = Address::from_slice(&keccak256(&point[1..])[12..]);
        Ok(Self { key: SecretBox::new(Box::new(*bytes)), address })
    }

    /// Creates a signer from 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn from_hex(text: &str) -> Result<Self, SignerError> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0u8; 32]);
        alloy_primitives::hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), bytes.as_mut_slice())
            .map_err(|_| SignerError::Malformed)?;
        Self::from_bytes(&bytes)
    }

    /// The account's address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The same key, as identity.
    pub fn identity(&self) -> IdentityKey {
        IdentityKey(self.clone())
    }

    fn sign_digest(&self, digest: B256) -> (u8, [u8; 64]) {
        let mut secret = SecretKey::from_byte_array(*self.key.expose_secret())
            .unwrap_or_else(|_| unreachable!("the key was checked when the signer was made"));
        // RFC 6979, low s; the context was blinded with system randomness when it was first used.
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(digest.0), &secret);
        secret.non_secure_erase();
        let (id, bytes) = signature.serialize_compact();
        (u8::from(matches!(id, RecoveryId::One | RecoveryId::Three)), bytes)
    }

    /// Signs an EIP-1559 transaction; returns its hash and its EIP-2718 bytes. Deterministic (RFC 6979).
    pub fn sign_transaction(&self, tx: &TxToSign) -> (B256, Bytes) {
        let unsigned = TxEip1559 {
            chain_id: tx.chain_id,
            nonce: tx.nonce,
            gas_limit: tx.payload.gas_limit,
            max_fee_per_gas: tx.fees.max_fee_per_gas,
            max_priority_fee_per_gas: tx.fees.max_priority_fee_per_gas,
            to: TxKind::Call(tx.payload.to),
            value: tx.payload.value,
            access_list: alloy_eips::eip2930::AccessList::default(),
            input: tx.payload.data.clone(),
        };
        let (parity, bytes) = self.sign_digest(unsigned.signature_hash());
        let signature =
            Signature::new(U256::from_be_slice(&bytes[..32]), U256::from_be_slice(&bytes[32..]), parity == 1);
        let signed = unsigned.into_signed(signature);
        (*signed.hash(), signed.encoded_2718().into())
    }
}

impl Clone for LocalSigner {
    fn clone(&self) -> Self {
        Self { key: SecretBox::new(Box::new(*self.key.expose_secret())), address: self.address }
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalSigner").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The key that signs inclusion promises.
#[derive(Debug, Clone)]
pub struct IdentityKey(LocalSigner);

impl IdentityKey {
    /// Creates an identity from 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn from_hex(text: &str) -> Result<Self, SignerError> {
        LocalSigner::from_hex(text).map(Self)
    }

    /// The identity's address.
    pub const fn address(&self) -> Address {
        self.0.address
    }

    /// Signs `digest`: 65 bytes `r ‖ s ‖ v`, `v` 27 or 28.
    pub fn sign(&self, digest: B256) -> Bytes {
        let (parity, bytes) = self.0.sign_digest(digest);
        let mut out = Vec::with_capacity(65);
        out.extend_from_slice(&bytes);
        out.push(27 + parity);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first account of every test node.
    const KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn address_and_signature_agree() {
        let signer = LocalSigner::from_hex(KEY).unwrap();
        assert_eq!(signer.address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let digest = keccak256(b"slack water");
        let signature = signer.identity().sign(digest);
        assert_eq!(crate::request::recover(digest, &signature).unwrap(), signer.address());
    }

    #[test]
    fn debug_hides_the_key() {
        let shown = format!("{:?}", LocalSigner::from_hex(KEY).unwrap());
        assert!(shown.contains("0xf39F") || shown.contains("0xf39f"));
        assert!(!shown.contains("ac0974"));
        assert_eq!(LocalSigner::from_hex("0x00").unwrap_err(), SignerError::Malformed);
        assert_eq!(LocalSigner::from_bytes(&[0; 32]).unwrap_err(), SignerError::OutOfRange);
    }
}
