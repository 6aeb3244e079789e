//! `authorization`: a token payment that the payer authorized by a signature (EIP-3009).

use alloy_primitives::{Address, B256, Bytes, ChainId, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolCall, SolStruct};
use serde::{Deserialize, Serialize};
use slackwater_contracts::eip3009::{IERC3009, IERC3009Bytes, TransferWithAuthorization};

use crate::request::{RequestId, SignatureError, recover};

/// A payment as authorized by its payer, with the signature. Not yet verified.
///
/// Source: EIP-3009; Circle's `FiatTokenV2_2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The token contract; part of the EIP-712 domain.
    pub token: Address,
    /// The payer, who signed.
    pub from: Address,
    /// The payee.
    pub to: Address,
    /// Amount, in the token's smallest unit.
    pub value: U256,
    /// Unix seconds; valid in blocks with a later timestamp.
    pub valid_after: U256,
    /// Unix seconds; valid in blocks with an earlier timestamp.
    pub valid_before: U256,
    /// 32 bytes that the payer uses once with this token.
    pub nonce: B256,
    /// 65 bytes `r ‖ s ‖ v`; of a payer with code, whatever that code accepts.
    pub signature: Bytes,
}

impl Authorization {
    /// True if the token executes it in a block with this timestamp, Unix seconds. Both bounds are exclusive.
    pub fn is_valid_at(&self, block_timestamp_s: u64) -> bool {
        let now = U256::from(block_timestamp_s);
        self.valid_after < now && now < self.valid_before
    }

    /// Calldata of the form that every token with EIP-3009 has; `None` if the signature has not 65 bytes.
    pub fn calldata(&self) -> Option<Vec<u8>> {
        let bytes: &[u8; 65] = self.signature.as_ref().try_into().ok()?;
        let call = IERC3009::transferWithAuthorizationCall {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            v: bytes[64],
            r: B256::from_slice(&bytes[..32]),
            s: B256::from_slice(&bytes[32..64]),
        };
        Some(call.abi_encode())
    }

    /// Calldata of the form with the signature as bytes, which not every token has: the only one for a payer with code
    /// whose signature has not 65 bytes.
    pub fn calldata_with_bytes(&self) -> Vec<u8> {
        let call = IERC3009Bytes::transferWithAuthorizationCall {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            signature: self.signature.clone(),
        };
        call.abi_encode()
    }

    fn struct_hash(&self) -> B256 {
        let message = TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
        };
        message.eip712_hash_struct()
    }
}

/// The EIP-712 domain of one token, with its separator computed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDomain {
    chain_id: ChainId,
    token: Address,
    separator: B256,
}

impl TokenDomain {
    /// Domain of the token at `token` on `chain_id`. Bridged tokens differ in name, version and fields from those that they
    /// stand for: compare [`Self::separator`] with `DOMAIN_SEPARATOR()`, don't guess.
    pub fn new(name: &str, version: &str, chain_id: ChainId, token: Address) -> Self {
        let domain = Eip712Domain::new(
            Some(name.to_owned().into()),
            Some(version.to_owned().into()),
            Some(U256::from(chain_id)),
            Some(token),
            None,
        );
        Self::with_separator(domain.separator(), chain_id, token)
    }

    /// Domain of the token at `token` on `chain_id` with the separator that the token itself names.
    pub const fn with_separator(separator: B256, chain_id: ChainId, token: Address) -> Self {
        Self { chain_id, token, separator }
    }

    /// The chain this domain is bound to.
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The token's address.
    pub const fn token(&self) -> Address {
        self.token
    }

    /// EIP-712 domain separator.
    pub const fn separator(&self) -> B256 {
        self.separator
    }

    /// The digest that the payer signs: `keccak256(0x1901 ‖ separator ‖ structHash)` (EIP-712).
    pub fn digest(&self, authorization: &Authorization) -> B256 {
        let struct_hash = authorization.struct_hash();
        keccak256([&[0x19, 0x01], self.separator.as_slice(), struct_hash.as_slice()].concat())
    }

    /// Identity of the request: the digest. Chain, token, payer and nonce are part of it, the signature is not.
    pub fn id(&self, authorization: &Authorization) -> RequestId {
        RequestId(self.digest(authorization))
    }

    /// The address whose key signed `authorization`: its payer's, if the signature is right. A token does not look at it
    /// where the payer has code.
    ///
    /// # Errors
    /// [`SignatureError`] on anything that Circle's or OpenZeppelin's token would refuse.
    pub fn recover(&self, authorization: &Authorization) -> Result<Address, SignatureError> {
        recover(self.digest(authorization), &authorization.signature)
    }
}
