//! Keys of lane senders, and of the identity that signs promises: in memory, or elsewhere.

use std::{error::Error, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use async_trait::async_trait;
use futures_util::FutureExt as _;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey, ecdsa::RecoveryId};
use secrecy::{ExposeSecret, SecretBox, zeroize::Zeroizing};

use crate::{lane::TxToSign, request::recover};

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
        let unsigned = unsigned(tx);
        let signature = self.sign(unsigned.signature_hash());
        encoded(unsigned, signature)
    }

    /// Signs `digest`. Deterministic (RFC 6979), with low s (EIP-2).
    pub fn sign(&self, digest: B256) -> Signature {
        let (parity, bytes) = self.sign_digest(digest);
        Signature::new(U256::from_be_slice(&bytes[..32]), U256::from_be_slice(&bytes[32..]), parity == 1)
    }
}

fn unsigned(tx: &TxToSign) -> TxEip1559 {
    TxEip1559 {
        chain_id: tx.chain_id,
        nonce: tx.nonce,
        gas_limit: tx.payload.gas_limit,
        max_fee_per_gas: tx.fees.max_fee_per_gas,
        max_priority_fee_per_gas: tx.fees.max_priority_fee_per_gas,
        to: TxKind::Call(tx.payload.to),
        value: tx.payload.value,
        access_list: alloy_eips::eip2930::AccessList::default(),
        input: tx.payload.data.clone(),
    }
}

/// Hash and EIP-2718 bytes.
fn encoded(unsigned: TxEip1559, signature: Signature) -> (B256, Bytes) {
    let signed = unsigned.into_signed(signature);
    (*signed.hash(), signed.encoded_2718().into())
}

/// A key that is kept elsewhere: in a KMS, a hardware module, another process. [`LocalSigner`] is one in memory.
///
/// Its answers are checked before they are used: a signature of another key, a panic or a silence beyond
/// [`AccountKey::within`] is a failure. After one nothing was sent: the requests wait, and are signed for anew. A second
/// call may begin before the first has ended. [`conformance::signer`](crate::conformance::signer) tests an implementation.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync + 'static {
    /// The account's address. Always the same.
    fn address(&self) -> Address;

    /// ECDSA signature (secp256k1) of the 32 bytes `digest`, without any prefix; s may be high.
    ///
    /// # Errors
    /// Its text is logged: it must hold no secret.
    async fn sign(&self, digest: B256) -> Result<Signature, Box<dyn Error + Send + Sync>>;
}

#[async_trait]
impl Signer for LocalSigner {
    fn address(&self) -> Address {
        self.address
    }

    async fn sign(&self, digest: B256) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        Ok(Self::sign(self, digest))
    }
}

/// A [`Signer`] gave no signature that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignFault {
    /// It said so.
    #[error("{0}")]
    Failed(String),
    /// No answer in time.
    #[error("no answer within {limit_ms} ms (`AccountKey::within`)")]
    TimedOut {
        /// The limit, ms.
        limit_ms: u64,
    },
    /// The signature is another key's, or of another digest.
    #[error("the signature is not the account's")]
    WrongKey,
    /// It panicked.
    #[error("the signer panicked")]
    Panicked,
}

/// Time within which a [`Signer`] must answer, by default.
const SIGN_WITHIN: Duration = Duration::from_secs(5);

/// Key of a lane's account, or of the identity: made from a [`LocalSigner`], or by [`Self::asking`] a [`Signer`].
#[derive(Debug, Clone)]
pub struct AccountKey(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Here(LocalSigner),
    Elsewhere { signer: Arc<dyn Signer>, within: Duration },
}

impl AccountKey {
    /// A key that is kept elsewhere.
    pub fn asking(signer: impl Signer) -> Self {
        Self(Kept::Elsewhere { signer: Arc::new(signer), within: SIGN_WITHIN })
    }

    /// Time within which it must answer; 5 s by default. No effect on a key in memory.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        if let Kept::Elsewhere { within, .. } = &mut self.0 {
            *within = limit;
        }
        self
    }

    /// The account's address.
    pub fn address(&self) -> Address {
        match &self.0 {
            Kept::Here(signer) => signer.address,
            Kept::Elsewhere { signer, .. } => signer.address(),
        }
    }

    /// Longest time until it answers.
    pub(in crate::relay) const fn time_limit(&self) -> Duration {
        match &self.0 {
            Kept::Here(_) => Duration::ZERO,
            Kept::Elsewhere { within, .. } => *within,
        }
    }

    /// The key, if it is in memory.
    pub(in crate::relay) const fn local(&self) -> Option<&LocalSigner> {
        match &self.0 {
            Kept::Here(signer) => Some(signer),
            Kept::Elsewhere { .. } => None,
        }
    }

    /// Signs `digest`; the signature has low s (EIP-2) and is this account's.
    pub(in crate::relay) async fn sign(&self, digest: B256) -> Result<Signature, SignFault> {
        let (signer, within) = match &self.0 {
            Kept::Here(signer) => return Ok(signer.sign(digest)),
            Kept::Elsewhere { signer, within } => (signer, *within),
        };
        let asked = AssertUnwindSafe(async { signer.sign(digest).await }).catch_unwind();
        let signature = match tokio::time::timeout(within, asked).await {
            Ok(Ok(Ok(signature))) => signature,
            Ok(Ok(Err(error))) => return Err(SignFault::Failed(error.to_string())),
            Ok(Err(_)) => return Err(SignFault::Panicked),
            Err(_) => return Err(SignFault::TimedOut { limit_ms: crate::time::millis(within) }),
        };
        checked(signer.address(), digest, signature)
    }

    /// Signs an EIP-1559 transaction; returns its hash and its EIP-2718 bytes.
    pub(in crate::relay) async fn sign_transaction(&self, tx: &TxToSign) -> Result<(B256, Bytes), SignFault> {
        let unsigned = unsigned(tx);
        let signature = self.sign(unsigned.signature_hash()).await?;
        Ok(encoded(unsigned, signature))
    }
}

/// The signature with low s (EIP-2), if it is the account's.
pub(crate) fn checked(address: Address, digest: B256, signature: Signature) -> Result<Signature, SignFault> {
    let signature = signature.normalize_s().unwrap_or(signature);
    match recover(digest, &signature.as_bytes()) {
        Ok(found) if found == address => Ok(signature),
        _ => Err(SignFault::WrongKey),
    }
}

impl From<LocalSigner> for AccountKey {
    fn from(signer: LocalSigner) -> Self {
        Self(Kept::Here(signer))
    }
}

impl From<IdentityKey> for AccountKey {
    fn from(IdentityKey(signer): IdentityKey) -> Self {
        signer.into()
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
        self.0.sign(digest).as_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    /// A key elsewhere with a fault.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        HighS,
        Error,
        Silence,
        OtherKey,
        OtherDigest,
        Panic,
    }

    #[derive(Debug)]
    struct Elsewhere(LocalSigner, Fault);

    #[async_trait]
    impl Signer for Elsewhere {
        fn address(&self) -> Address {
            self.0.address
        }

        async fn sign(&self, digest: B256) -> Result<Signature, Box<dyn Error + Send + Sync>> {
            let signature = self.0.sign(digest);
            let order = U256::from_str_radix("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", 16)?;
            match self.1 {
                Fault::None => Ok(signature),
                Fault::HighS => Ok(Signature::new(signature.r(), order - signature.s(), !signature.v())),
                Fault::Error => Err("no session".into()),
                Fault::Silence => std::future::pending().await,
                Fault::OtherKey => Ok(LocalSigner::from_bytes(&[9; 32])?.sign(digest)),
                Fault::OtherDigest => Ok(self.0.sign(!digest)),
                Fault::Panic => panic!("the module is gone"),
            }
        }
    }

    fn elsewhere(fault: Fault) -> Elsewhere {
        Elsewhere(LocalSigner::from_hex(KEY).unwrap(), fault)
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_signature_of_the_account_comes_back_from_elsewhere() {
        let digest = keccak256(b"slack water");
        let here = LocalSigner::from_hex(KEY).unwrap().sign(digest);
        let asked =
            async |fault| AccountKey::asking(elsewhere(fault)).within(Duration::from_secs(3)).sign(digest).await;
        assert_eq!(asked(Fault::None).await, Ok(here));
        assert_eq!(asked(Fault::HighS).await, Ok(here), "EIP-2");
        assert_eq!(asked(Fault::Error).await, Err(SignFault::Failed("no session".to_owned())));
        assert_eq!(asked(Fault::Silence).await, Err(SignFault::TimedOut { limit_ms: 3_000 }));
        assert_eq!(asked(Fault::OtherKey).await, Err(SignFault::WrongKey));
        assert_eq!(asked(Fault::OtherDigest).await, Err(SignFault::WrongKey));
        assert_eq!(asked(Fault::Panic).await, Err(SignFault::Panicked));
    }

    #[tokio::test]
    async fn the_conformance_test_tells_good_signers_from_bad_ones() {
        conformance::signer(&LocalSigner::from_hex(KEY).unwrap()).await.unwrap();
        conformance::signer(&elsewhere(Fault::HighS)).await.unwrap();
        for fault in [Fault::Error, Fault::OtherKey, Fault::OtherDigest] {
            conformance::signer(&elsewhere(fault)).await.unwrap_err();
        }
    }

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
