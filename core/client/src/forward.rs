//! Building and signing of ERC-2771 requests.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use k256::ecdsa::SigningKey;
use serde_json::json;

use super::{error::ClientError, outbox::User};
use crate::{
    request::{Forward, ForwarderDomain, RequestId, recover},
    time::Timestamp,
};

/// Default gas for the target; see [`ForwardBuilder::gas`].
pub const DEFAULT_FORWARD_GAS: u64 = 200_000;

/// Largest value of Solidity's `uint48`.
const MAX_UINT48: u64 = (1 << 48) - 1;

/// Builds a forward request field by field.
///
/// ```
/// use alloy_primitives::{Address, U256, address};
/// use slackwater_client::{ForwardBuilder, KeySigner};
/// use slackwater_core::request::ForwarderDomain;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let signer = KeySigner::from_hex("0x1c00ce94b96ffd8a5dc35453e915c3e6dc9a2815b0ab85946340c5d970337915")?;
/// let domain = ForwarderDomain::new("Slackwater", 8453, address!("5FbDB2315678afecb367f032d93F642f64180aa3"));
/// let forward = ForwardBuilder::new(domain, signer.address(), Address::repeat_byte(7))
///     .nonce(U256::ZERO) // read it with `rpc::nonces` at your own node
///     .deadline_s(1_790_000_000)
///     .build()?
///     .sign(&signer)?;
/// assert_eq!(forward.signature.len(), 65);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ForwardBuilder {
    domain: ForwarderDomain,
    from: Address,
    to: Address,
    value: U256,
    gas: U256,
    nonce: Option<U256>,
    deadline_s: Option<u64>,
    data: Bytes,
}

impl ForwardBuilder {
    /// A builder for a request of `from` to call `to` through the forwarder of `domain`.
    pub fn new(domain: ForwarderDomain, from: Address, to: Address) -> Self {
        Self {
            domain,
            from,
            to,
            value: U256::ZERO,
            gas: U256::from(DEFAULT_FORWARD_GAS),
            nonce: None,
            deadline_s: None,
            data: Bytes::new(),
        }
    }

    /// Calldata for the target. Default empty.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = data.into();
        self
    }

    /// Wei passed along, paid by the relayer. Default 0.
    #[must_use]
    pub const fn value(mut self, wei: U256) -> Self {
        self.value = wei;
        self
    }

    /// Gas given to the target. Default [`DEFAULT_FORWARD_GAS`].
    #[must_use]
    pub fn gas(mut self, gas: u64) -> Self {
        self.gas = U256::from(gas);
        self
    }

    /// The user's next nonce at the forwarder. Required.
    #[must_use]
    pub const fn nonce(mut self, nonce: U256) -> Self {
        self.nonce = Some(nonce);
        self
    }

    /// Last valid block timestamp, Unix seconds. Required, and enforced by the chain: the request can't be executed
    /// later.
    #[must_use]
    pub const fn deadline_s(mut self, deadline_s: u64) -> Self {
        self.deadline_s = Some(deadline_s);
        self
    }

    /// As [`Self::deadline_s`], for an instant, rounded down to whole seconds.
    #[must_use]
    pub const fn deadline(self, at: Timestamp) -> Self {
        self.deadline_s(at.as_secs())
    }

    pub(super) const fn has_nonce(&self) -> bool {
        self.nonce.is_some()
    }

    /// The user whose request it is.
    pub const fn user(&self) -> User {
        User { chain_id: self.domain.chain_id(), forwarder: self.domain.forwarder(), from: self.from }
    }

    /// The request, ready to be signed.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if nonce or deadline is missing, or a value is out of range.
    pub fn build(self) -> Result<UnsignedForward, ClientError> {
        let nonce = self.nonce.ok_or_else(|| ClientError::invalid("nonce", "missing: read `nonces(from)`"))?;
        let deadline =
            self.deadline_s.ok_or_else(|| ClientError::invalid("deadline", "missing: Unix seconds are needed"))?;
        if deadline > MAX_UINT48 {
            return Err(ClientError::invalid("deadline", format!("{deadline} does not fit uint48; milliseconds?")));
        }
        if self.gas.is_zero() {
            return Err(ClientError::invalid("gas", "0: the target needs gas"));
        }
        let forward = Forward {
            forwarder: self.domain.forwarder(),
            from: self.from,
            to: self.to,
            value: self.value,
            gas: self.gas,
            nonce,
            deadline,
            data: self.data,
            signature: Bytes::new(),
        };
        Ok(UnsignedForward { domain: self.domain, forward })
    }
}

/// A forward request without its user's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedForward {
    domain: ForwarderDomain,
    forward: Forward,
}

impl UnsignedForward {
    /// The EIP-712 digest to sign.
    pub fn digest(&self) -> B256 {
        self.domain.digest(&self.forward)
    }

    /// The request's id at the relayer: the digest.
    pub fn id(&self) -> RequestId {
        RequestId(self.digest())
    }

    /// The request, without signature.
    pub const fn forward(&self) -> &Forward {
        &self.forward
    }

    /// The forwarder's domain.
    pub const fn domain(&self) -> &ForwarderDomain {
        &self.domain
    }

    /// JSON for a wallet's `eth_signTypedData_v4`, second parameter. Numbers above 2^53 are strings.
    pub fn typed_data(&self) -> String {
        let field = |name: &str, kind: &str| json!({ "name": name, "type": kind });
        let forward = &self.forward;
        json!({
            "types": {
                "EIP712Domain": [
                    field("name", "string"), field("version", "string"), field("chainId", "uint256"),
                    field("verifyingContract", "address"),
                ],
                "ForwardRequest": [
                    field("from", "address"), field("to", "address"), field("value", "uint256"),
                    field("gas", "uint256"), field("nonce", "uint256"), field("deadline", "uint48"),
                    field("data", "bytes"),
                ],
            },
            "primaryType": "ForwardRequest",
            "domain": {
                "name": self.domain.name(),
                "version": "1",
                "chainId": self.domain.chain_id().to_string(),
                "verifyingContract": forward.forwarder,
            },
            "message": {
                "from": forward.from,
                "to": forward.to,
                "value": forward.value.to_string(),
                "gas": forward.gas.to_string(),
                "nonce": forward.nonce.to_string(),
                "deadline": forward.deadline.to_string(),
                "data": forward.data,
            },
        })
        .to_string()
    }

    /// Adds `signature`, which must be its user's. `v` may be 0 or 1, as from some wallets.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if it is malformed, or another account's. Contract wallets (ERC-1271) are refused by
    /// OpenZeppelin's forwarder, and therefore also here.
    pub fn with_signature(mut self, signature: &[u8]) -> Result<Forward, ClientError> {
        let mut bytes = signature.to_vec();
        if let Some(v) = bytes.get_mut(64).filter(|v| **v < 2) {
            *v += 27;
        }
        let signer =
            recover(self.digest(), &bytes).map_err(|error| ClientError::invalid("signature", error.to_string()))?;
        if signer != self.forward.from {
            let from = self.forward.from;
            return Err(ClientError::invalid("signature", format!("made by {signer}, not by {from}")));
        }
        self.forward.signature = bytes.into();
        Ok(self.forward)
    }

    /// Signs the request.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if `signer` fails, or has another account's key.
    pub fn sign(self, signer: &impl SignDigest) -> Result<Forward, ClientError> {
        let signature =
            signer.sign_digest(self.digest()).map_err(|SignError(why)| ClientError::invalid("signature", why))?;
        self.with_signature(&signature)
    }
}

/// Failure to sign a digest. The text must contain no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub String);

/// A signer of 32-byte digests: a key in memory, a wallet, a device, a callable of another language.
pub trait SignDigest {
    /// 65 bytes `r ‖ s ‖ v` over `digest`, low s.
    ///
    /// # Errors
    /// [`SignError`] if it can't sign, or its owner declines.
    fn sign_digest(&self, digest: B256) -> Result<[u8; 65], SignError>;
}

/// A user's key in memory. `Debug` shows only the address; the key is zeroed when dropped.
#[derive(Clone)]
pub struct KeySigner {
    key: SigningKey,
    address: Address,
}

impl KeySigner {
    /// A signer from 32 bytes.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] unless they are a secp256k1 secret. The error does not show them.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ClientError> {
        let key =
            SigningKey::from_slice(bytes).map_err(|_| ClientError::invalid("key", "not a valid secp256k1 secret"))?;
        let point = key.verifying_key().to_encoded_point(false);
        let address = Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..]);
        Ok(Self { key, address })
    }

    /// A signer from 64 hex digits, with or without `0x`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`]. The error does not show the text.
    pub fn from_hex(text: &str) -> Result<Self, ClientError> {
        let bytes: B256 = text.trim().parse().map_err(|_| ClientError::invalid("key", "not 32 bytes of hex"))?;
        Self::from_bytes(&bytes.0)
    }

    /// The account of the key.
    pub const fn address(&self) -> Address {
        self.address
    }
}

impl SignDigest for KeySigner {
    /// Deterministic (RFC 6979).
    fn sign_digest(&self, digest: B256) -> Result<[u8; 65], SignError> {
        let (signature, id) = self
            .key
            .sign_prehash_recoverable(digest.as_slice())
            .map_err(|_| SignError("the key can't sign this digest".to_owned()))?;
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + u8::from(id.is_y_odd());
        Ok(bytes)
    }
}

impl std::fmt::Debug for KeySigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySigner").field("address", &self.address).finish_non_exhaustive()
    }
}
