//! The session key: it signs the transactions, and pays.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};

use crate::{ClientError, KeySigner, SignDigest as _, lane::TxToSign};

/// A key that pays for transactions. `Debug` shows only the address; the key is zeroed when dropped.
#[derive(Debug, Clone)]
pub struct SessionKey(KeySigner);

impl SessionKey {
    /// Creates a key from 32 bytes.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] unless they are a secp256k1 secret. The error does not show them.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ClientError> {
        KeySigner::from_bytes(bytes).map(Self)
    }

    /// Creates a key from 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`]. The error does not show the text.
    pub fn from_hex(text: &str) -> Result<Self, ClientError> {
        KeySigner::from_hex(text).map(Self)
    }

    /// The key's account address.
    pub const fn address(&self) -> Address {
        self.0.address()
    }

    /// Signs an EIP-1559 transaction; returns its hash and its EIP-2718 bytes. Deterministic (RFC 6979). `None` if the
    /// key can't sign the digest; no such digest is known.
    ///
    /// Source: EIP-1559, EIP-2718; Yellow Paper, appendix B (RLP).
    pub fn sign_transaction(&self, tx: &TxToSign) -> Option<(B256, Bytes)> {
        let signature = self.0.sign_digest(keccak256(encode(tx, None))).ok()?;
        let raw = encode(tx, Some(&signature));
        Some((keccak256(&raw), raw.into()))
    }
}

/// `0x02 ‖ rlp([…])`, with y parity, r and s if there is a `signature`.
fn encode(tx: &TxToSign, signature: Option<&[u8; 65]>) -> Vec<u8> {
    let mut fields = Vec::with_capacity(tx.payload.data.len() + 256);
    put_uint(&mut fields, &tx.chain_id.to_be_bytes());
    put_uint(&mut fields, &tx.nonce.to_be_bytes());
    put_uint(&mut fields, &tx.fees.max_priority_fee_per_gas.to_be_bytes());
    put_uint(&mut fields, &tx.fees.max_fee_per_gas.to_be_bytes());
    put_uint(&mut fields, &tx.payload.gas_limit.to_be_bytes());
    put_bytes(&mut fields, tx.payload.to.as_slice());
    put_uint(&mut fields, &U256::to_be_bytes::<32>(&tx.payload.value));
    put_bytes(&mut fields, &tx.payload.data);
    // The access list, empty.
    put_head(&mut fields, 0xc0, 0);
    if let Some(signature) = signature {
        put_uint(&mut fields, &[signature[64] - 27]);
        put_uint(&mut fields, &signature[..32]);
        put_uint(&mut fields, &signature[32..64]);
    }
    let mut out = Vec::with_capacity(fields.len() + 10);
    out.push(2);
    put_head(&mut out, 0xc0, fields.len());
    out.extend_from_slice(&fields);
    out
}

/// Writes an RLP header: `base` is 0x80 for bytes and 0xc0 for a list of `length` bytes.
fn put_head(out: &mut Vec<u8>, base: u8, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 56 => out.push(base + short),
        _ => {
            let bytes = (length as u64).to_be_bytes();
            let digits = &bytes[(length as u64).leading_zeros() as usize / 8..];
            #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
            out.push(base + 55 + digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if let [byte] = bytes
        && *byte < 0x80
    {
        out.push(*byte);
        return;
    }
    put_head(out, 0x80, bytes.len());
    out.extend_from_slice(bytes);
}

/// Writes a big-endian number without its leading zeros.
fn put_uint(out: &mut Vec<u8>, bytes: &[u8]) {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    put_bytes(out, &bytes[zeros..]);
}
