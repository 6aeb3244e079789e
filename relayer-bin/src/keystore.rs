//! Encrypted key files (Web3 Secret Storage, version 3): scrypt, AES-128-CTR, Keccak-256.

use aes::cipher::{KeyIvInit, StreamCipher};
use alloy_primitives::{Address, hex, keccak256};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Cost of one guess at the password: 128 MiB and about half a second. Same as ethers and viem; geth takes twice that.
const SCRYPT_LOG_N: u8 = 17;
/// Scrypt's block size.
const SCRYPT_R: u32 = 8;
/// Scrypt's parallelism.
const SCRYPT_P: u32 = 1;

/// Failure to encrypt or decrypt a key. Never contains the key or the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The operating system provides no randomness.
    #[error("no randomness: {0}")]
    Randomness(String),
    /// Wrong password or damaged file.
    #[error("{0}")]
    Open(String),
}

/// The document of a key file for `key`, the key of `address`.
///
/// # Errors
/// [`KeystoreError::Randomness`].
pub fn encrypt(key: &[u8; 32], address: Address, password: &str) -> Result<Value, KeystoreError> {
    let mut random = [0u8; 32 + 16 + 16];
    getrandom::fill(&mut random).map_err(|error| KeystoreError::Randomness(error.to_string()))?;
    let (salt, rest) = random.split_at(32);
    let (iv, id) = rest.split_at(16);
    let params = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P)
        .unwrap_or_else(|error| unreachable!("constant parameters: {error}"));
    let mut derived = Zeroizing::new([0u8; 32]);
    scrypt::scrypt(password.as_bytes(), salt, &params, derived.as_mut_slice())
        .unwrap_or_else(|error| unreachable!("32 bytes can be derived: {error}"));
    let mut ciphertext = *key;
    ctr::Ctr128BE::<aes::Aes128>::new_from_slices(&derived[..16], iv)
        .unwrap_or_else(|error| unreachable!("16 bytes each: {error}"))
        .apply_keystream(&mut ciphertext);
    let mac = keccak256(Zeroizing::new([&derived[16..], &ciphertext].concat()).as_slice());
    Ok(json!({
        "version": 3,
        "id": uuid(id),
        "address": format!("{address:x}"),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": hex::encode(iv) },
            "ciphertext": hex::encode(ciphertext),
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32, "n": 1u32 << SCRYPT_LOG_N, "r": SCRYPT_R, "p": SCRYPT_P, "salt": hex::encode(salt),
            },
            "mac": hex::encode(mac),
        },
    }))
}

/// The key in the file at `path`, written by this or any other program.
///
/// # Errors
/// [`KeystoreError::Open`].
pub fn open(path: &std::path::Path, password: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    eth_keystore::decrypt_key(path, password)
        .map(Zeroizing::new)
        .map_err(|error| KeystoreError::Open(error.to_string()))
}

/// A random UUID (version 4) from 16 random bytes.
fn uuid(random: &[u8]) -> String {
    let mut bytes = random.to_vec();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_implementation_opens_it() {
        let document = encrypt(&[7; 32], Address::repeat_byte(1), "correct horse").unwrap();
        assert_eq!(document["address"], "01".repeat(20));
        assert!(!document.to_string().contains(&"07".repeat(8)));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, document.to_string()).unwrap();
        assert_eq!(open(&path, "correct horse").unwrap().as_slice(), [7; 32]);
        assert!(open(&path, "wrong").is_err());
    }
}
