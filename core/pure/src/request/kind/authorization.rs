//! `authorization`: a token payment that the payer authorized by a signature (EIP-3009).

use alloy_primitives::{Address, B256, Bytes, ChainId, Log, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolStruct};
use serde::{Deserialize, Serialize};
use slackwater_contracts::{
    capped_calls::{self, Executed, OVERHEAD_PER_CALL_GAS, executeCall},
    eip3009::{IERC3009, IERC3009Bytes, ReceiveWithAuthorization, TransferWithAuthorization},
};

use super::{
    form::{Bounds, Inner, Kind, KindName},
    key::{Contracts, VehicleKey},
};
use crate::{
    chain::decimal,
    request::{
        Payment, RequestId, SignatureError, Token, TokenDomain, VerifyContext, VerifyError, outcome::MemberOutcome,
        params::VehicleParams, recover,
    },
    time::Timestamp,
};

/// Bytes of a payment's place in `execute` beside its data: offsets, target, gas, length.
pub(super) const CALL_ENVELOPE_BYTES: usize = 160;

/// Last second that is counted with: as far as a forward's deadline goes.
const LAST_SECOND: u64 = (1 << 48) - 1;

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

    const fn message(&self) -> TransferWithAuthorization {
        TransferWithAuthorization {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
        }
    }

    fn struct_hash(&self) -> B256 {
        self.message().eip712_hash_struct()
    }

    /// Hash of the message with the same members that only the payee may submit.
    fn receive_struct_hash(&self) -> B256 {
        let name = keccak256(ReceiveWithAuthorization::eip712_root_type().as_bytes());
        keccak256([name.as_slice(), &self.message().eip712_encode_data()].concat())
    }

    /// True if only the chain can check the signature: a payer's with code (EIP-1271), which has not 65 bytes.
    fn is_for_code(&self) -> bool {
        self.signature.len() != 65
    }

    fn token<'a>(&self, context: &VerifyContext<'a>) -> Result<&'a Token, VerifyError> {
        context.tokens.get(&self.token).ok_or(VerifyError::UnknownToken(self.token))
    }

    /// Last second in which the token executes it.
    fn last_second(&self) -> u64 {
        let last = self.valid_before.saturating_sub(U256::from(1));
        last.saturating_to::<u64>().min(LAST_SECOND)
    }
}

impl Kind for Authorization {
    const NAME: KindName = KindName::Authorization;

    fn inner(&self) -> Inner {
        Inner { target: self.token, value: U256::ZERO, gas: U256::ZERO }
    }

    fn data(&self) -> Bytes {
        self.calldata().unwrap_or_else(|| self.calldata_with_bytes()).into()
    }

    fn bounds(&self, context: &VerifyContext<'_>) -> Result<Bounds, VerifyError> {
        let gas = self.token(context)?.gas;
        let first = self.valid_after.saturating_to::<u64>().saturating_add(1);
        let until = Timestamp::from_secs(self.last_second()).saturating_sub(context.skew);
        Ok(Bounds { gas, nonce: 0, from: Timestamp::from_secs(first), until })
    }

    fn identify(&self, _: ChainId, context: &VerifyContext<'_>) -> Option<RequestId> {
        self.token(context).ok().map(|token| token.domain.id(self))
    }

    fn prove(&self, context: &VerifyContext<'_>) -> Result<RequestId, VerifyError> {
        let domain = self.token(context)?.domain;
        if !self.is_for_code() {
            let recovered = domain.recover(self)?;
            if recovered != self.from {
                let received = recover(domain.digest_of(self.receive_struct_hash()), &self.signature);
                return Err(match received {
                    Ok(received) if received == self.from => VerifyError::ReceiveAuthorization,
                    _ => VerifyError::WrongSigner { from: self.from, recovered },
                });
            }
        }
        Ok(domain.id(self))
    }

    fn body(&self) -> impl Serialize + '_ {
        Body {
            token: self.token,
            from: self.from,
            to: self.to,
            value: self.value,
            valid_after: self.valid_after,
            valid_before: self.valid_before,
            nonce: self.nonce,
            signature: &self.signature,
        }
    }

    fn write_body(&self, bytes: &mut Vec<u8>) {
        bytes.push(2);
        bytes.extend_from_slice(self.token.as_slice());
        bytes.extend_from_slice(self.struct_hash().as_slice());
        bytes.extend_from_slice(&self.signature);
    }

    fn strip(&mut self) {
        self.signature = Bytes::new();
    }

    fn vehicle(&self, id: RequestId, contracts: Contracts) -> VehicleKey {
        if contracts.capped_calls { VehicleKey::Payments } else { VehicleKey::Payment(id) }
    }

    fn overhead(&self, params: &VehicleParams) -> (u64, usize) {
        // Copying its data costs a gas per byte.
        let copied = self.data().len() as u64;
        if params.has_capped_calls { (OVERHEAD_PER_CALL_GAS + copied, CALL_ENVELOPE_BYTES) } else { (0, 0) }
    }

    fn slot(&self) -> Option<(Address, Address, u64)> {
        // Whoever has seen a nonce could hold its place with a signature that nobody checks.
        if self.is_for_code() {
            return None;
        }
        let hash = keccak256(self.nonce);
        let mut number = [0; 8];
        number.copy_from_slice(&hash[..8]);
        Some((self.token, self.from, u64::from_be_bytes(number) >> 1))
    }

    fn payment(&self) -> Option<Payment> {
        let Self { token, from, to, value, nonce, .. } = *self;
        Some(Payment { token, from, to, value, nonce })
    }

    fn waits_for_s(&self) -> Option<u64> {
        Some(self.valid_after.saturating_to())
    }

    fn chain_deadline_s(&self) -> Option<u64> {
        Some(self.last_second())
    }
}

/// Content as a client writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    token: Address,
    from: Address,
    to: Address,
    #[serde(with = "decimal")]
    value: U256,
    #[serde(with = "decimal")]
    valid_after: U256,
    #[serde(with = "decimal")]
    valid_before: U256,
    nonce: B256,
    signature: &'a Bytes,
}

/// Calldata of the transaction that makes several payments through `CappedCalls`, each with its own gas.
/// `calls`: token, gas and calldata of each.
pub(super) fn batch(calls: impl Iterator<Item = (Address, u64, Bytes)>) -> Vec<u8> {
    let call = |(target, gas, data)| capped_calls::Call { target, gas: U256::from(gas), data };
    executeCall { calls: calls.map(call).collect() }.abi_encode()
}

/// Outcomes of payments in one transaction that succeeded: by the token's events, since a contract may succeed and do nothing.
///
/// `CappedCalls` ends each call with an event of its own. The transaction's caller is that of the last one: what a token
/// or a payer with code has executed from within ends before.
pub(super) fn outcomes(payments: &[Option<Payment>], logs: &[Log]) -> Vec<MemberOutcome> {
    let outcome = |payment: &Option<Payment>, logs: &[Log]| match payment {
        Some(payment) if logs.iter().any(|log| payment.is_used_by(log)) => MemberOutcome::Executed,
        _ => MemberOutcome::Untouched,
    };
    if let [alone] = payments {
        return vec![outcome(alone, logs)];
    }
    if cfg!(target_arch = "wasm32") {
        // A page has no tokens.
        return vec![MemberOutcome::Untouched; payments.len()];
    }
    let ended = |log: &Log| Executed::decode_log(log).ok().filter(|_| log.address == capped_calls::ADDRESS);
    let caller = logs.iter().rev().find_map(ended).map(|last| last.caller);
    let mut rest = logs;
    let mut next = || {
        let is_end = |log: &Log| ended(log).filter(|end| Some(end.caller) == caller);
        let (place, end) = rest.iter().enumerate().find_map(|(place, log)| Some((place, is_end(log)?)))?;
        let own;
        (own, rest) = (&rest[..place], &rest[place + 1..]);
        end.success.then_some(own)
    };
    payments.iter().map(|payment| outcome(payment, next().unwrap_or_default())).collect()
}

impl TokenDomain {
    /// The digest that the payer signs: `keccak256(0x1901 ‖ separator ‖ structHash)` (EIP-712).
    pub fn digest(&self, authorization: &Authorization) -> B256 {
        self.digest_of(authorization.struct_hash())
    }

    fn digest_of(&self, struct_hash: B256) -> B256 {
        keccak256([&[0x19, 0x01], self.separator().as_slice(), struct_hash.as_slice()].concat())
    }

    /// Identity of the request: the digest, of which chain, token, payer and nonce are part. A signature that only the chain
    /// can check is part of the identity too: nobody takes a payment's place with one that is wrong.
    pub fn id(&self, authorization: &Authorization) -> RequestId {
        let digest = self.digest(authorization);
        if authorization.is_for_code() {
            return RequestId(keccak256([digest.as_slice(), &authorization.signature].concat()));
        }
        RequestId(digest)
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
