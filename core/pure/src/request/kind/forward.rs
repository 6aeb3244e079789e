//! `forward`: an ERC-2771 request for OpenZeppelin's `ERC2771Forwarder`.

use alloy_primitives::{Address, B256, Bytes, ChainId, Log, U256, aliases::U48, b256, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent as _, SolValue as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slackwater_contracts::forwarder::{self, ExecutedForwardRequest};

use super::{
    form::{Bounds, Inner, Kind, KindName, narrow_gas},
    key::{Contracts, VehicleKey},
};
use crate::request::trace::{Part, TracedCall};
use crate::{
    chain::decimal,
    request::{
        ForwarderDomain, RequestId, VerifyContext, VerifyError, outcome::MemberOutcome, params::VehicleParams, recover,
    },
    table::Table,
    time::Timestamp,
};

/// Largest value of Solidity's `uint48`.
const MAX_UINT48: u64 = (1 << 48) - 1;

/// ABI words around one member's calldata: seven fields, three offsets and lengths, a padded signature.
pub(super) const ENVELOPE_BYTES: usize = 15 * 32;

/// Storage slot of `_nonces` in every published `ERC2771Forwarder` 5.x: after the two fallback strings of `EIP712`.
const NONCES_SLOT: u64 = 2;

/// `keccak256("ForwardRequest(address from,address to,uint256 value,uint256 gas,uint256 nonce,uint48 deadline,bytes data)")`.
const FORWARD_REQUEST_TYPEHASH: B256 = b256!("7f96328b83274ebc7c1cf4f7a3abda602b51a78b7fa1d86a2ce353d75e587cac");

/// An ERC-2771 request as signed by a user, with the signature. Not yet verified.
///
/// Source: OpenZeppelin Contracts 5.x, `metatx/ERC2771Forwarder.sol`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// The forwarder contract; part of the EIP-712 domain.
    pub forwarder: Address,
    /// The user: the sender that the target sees.
    pub from: Address,
    /// The target contract.
    pub to: Address,
    /// Wei passed along to the target, paid by the relayer.
    pub value: U256,
    /// Gas given to the target.
    pub gas: U256,
    /// The user's nonce at the forwarder; sequential per user.
    pub nonce: U256,
    /// Last block timestamp (seconds, inclusive) at which the forwarder accepts it; `uint48`.
    pub deadline: u64,
    /// Calldata for the target.
    pub data: Bytes,
    /// 65 bytes `r ‖ s ‖ v`.
    pub signature: Bytes,
}

impl Forward {
    /// EIP-712 struct hash of the signed part. `deadline` must fit `uint48`; [`verify()`](crate::request::verify()) checks it.
    pub fn struct_hash(&self) -> B256 {
        let mut words = [0u8; 8 * 32];
        words[..32].copy_from_slice(FORWARD_REQUEST_TYPEHASH.as_slice());
        words[32 + 12..64].copy_from_slice(self.from.as_slice());
        words[64 + 12..96].copy_from_slice(self.to.as_slice());
        words[96..128].copy_from_slice(&self.value.to_be_bytes::<32>());
        words[128..160].copy_from_slice(&self.gas.to_be_bytes::<32>());
        words[160..192].copy_from_slice(&self.nonce.to_be_bytes::<32>());
        words[192 + 24..224].copy_from_slice(&self.deadline.to_be_bytes());
        words[224..].copy_from_slice(keccak256(&self.data).as_slice());
        keccak256(words)
    }

    fn domain<'a>(&self, context: &VerifyContext<'a>) -> Result<&'a ForwarderDomain, VerifyError> {
        context.forwarders.get(&self.forwarder).ok_or(VerifyError::UnknownForwarder(self.forwarder))
    }
}

impl ForwarderDomain {
    /// The digest that the user signs: `keccak256(0x1901 ‖ separator ‖ structHash)` (EIP-712).
    pub fn digest(&self, forward: &Forward) -> B256 {
        let mut bytes = [0u8; 2 + 64];
        bytes[0] = 0x19;
        bytes[1] = 0x01;
        bytes[2..34].copy_from_slice(self.separator().as_slice());
        bytes[34..].copy_from_slice(forward.struct_hash().as_slice());
        keccak256(bytes)
    }
}

impl Kind for Forward {
    const NAME: KindName = KindName::Forward;

    fn inner(&self) -> Inner {
        Inner { target: self.to, value: self.value, gas: self.gas }
    }

    fn data(&self) -> Bytes {
        self.data.clone()
    }

    fn bounds(&self, context: &VerifyContext<'_>) -> Result<Bounds, VerifyError> {
        self.domain(context)?;
        let gas = narrow_gas(self.gas)?;
        let nonce = u64::try_from(self.nonce).ok().filter(|nonce| *nonce < u64::MAX);
        let nonce = nonce.ok_or(VerifyError::NonceOutOfRange(self.nonce))?;
        if self.deadline > MAX_UINT48 {
            return Err(VerifyError::DeadlineOutOfRange(self.deadline));
        }
        let until = Timestamp::from_secs(self.deadline).saturating_sub(context.skew);
        Ok(Bounds { gas, nonce, from: Timestamp(0), until })
    }

    fn identify(&self, _: ChainId, context: &VerifyContext<'_>) -> Option<RequestId> {
        self.domain(context).ok().map(|domain| RequestId(domain.digest(self)))
    }

    fn prove(&self, context: &VerifyContext<'_>) -> Result<RequestId, VerifyError> {
        let digest = self.domain(context)?.digest(self);
        let recovered = recover(digest, &self.signature)?;
        if recovered != self.from {
            return Err(VerifyError::WrongSigner { from: self.from, recovered });
        }
        Ok(RequestId(digest))
    }

    fn body(&self) -> impl Serialize + '_ {
        Body {
            forwarder: self.forwarder,
            from: self.from,
            to: self.to,
            value: self.value,
            gas: self.gas,
            nonce: self.nonce,
            deadline: self.deadline,
            data: &self.data,
            signature: &self.signature,
        }
    }

    fn write_body(&self, bytes: &mut Vec<u8>) {
        bytes.push(0);
        bytes.extend_from_slice(self.forwarder.as_slice());
        bytes.extend_from_slice(self.struct_hash().as_slice());
        bytes.extend_from_slice(&self.signature);
    }

    fn strip(&mut self) {
        (self.data, self.signature) = (Bytes::new(), Bytes::new());
    }

    fn vehicle(&self, _: RequestId, _: Contracts) -> VehicleKey {
        VehicleKey::Forwarder(self.forwarder)
    }

    fn overhead(&self, params: &VehicleParams) -> (u64, usize) {
        (params.forward_overhead_gas, ENVELOPE_BYTES)
    }

    fn sequence(&self) -> Option<(Address, Address, U256)> {
        Some((self.forwarder, self.from, self.nonce))
    }

    fn chain_deadline_s(&self) -> Option<u64> {
        Some(self.deadline)
    }
}

/// Content as a client writes it.
#[derive(Serialize)]
struct Body<'a> {
    forwarder: Address,
    from: Address,
    to: Address,
    #[serde(with = "decimal")]
    value: U256,
    #[serde(with = "decimal")]
    gas: U256,
    #[serde(with = "decimal")]
    nonce: U256,
    #[serde(serialize_with = "decimal::number")]
    deadline: u64,
    data: &'a Bytes,
    signature: &'a Bytes,
}

/// The forwarder's calldata struct.
fn data(forward: &Forward) -> forwarder::ForwardRequestData {
    forwarder::ForwardRequestData {
        from: forward.from,
        to: forward.to,
        value: forward.value,
        gas: forward.gas,
        deadline: U48::saturating_from(forward.deadline),
        data: forward.data.clone(),
        signature: forward.signature.clone(),
    }
}

/// Calldata of the transaction that carries `members`. `refund_receiver` is never zero: that is the atomic mode.
pub(super) fn batch<'a>(members: impl Iterator<Item = &'a Forward>, refund_receiver: Address) -> Vec<u8> {
    forwarder::executeBatchCall { requests: members.map(data).collect(), refundReceiver: refund_receiver }.abi_encode()
}

/// Calldata of the question whether the forwarder would execute `forward` now.
pub(super) fn verify_input(forward: &Forward) -> Vec<u8> {
    forwarder::verifyCall { request: data(forward) }.abi_encode()
}

/// State override of the forwarder: the next nonces of users.
pub(super) fn assumed_nonces(ahead: &Table<(Address, Address), u64>) -> Value {
    let slots: serde_json::Map<String, Value> = ahead
        .iter()
        .map(|((_, signer), nonce)| {
            let slot = keccak256((*signer, U256::from(NONCES_SLOT)).abi_encode());
            (slot.to_string(), json!(B256::from(U256::from(*nonce))))
        })
        .collect();
    json!({ "stateDiff": slots })
}

/// Outcomes by event, matched by emitting address, signer **and** nonce; no event means that the forwarder skipped it.
/// `members`: the [`Kind::sequence`] of each.
pub(super) fn outcomes(
    forwarder: Address,
    members: impl Iterator<Item = Option<(Address, Address, u64)>>,
    logs: &[Log],
) -> Vec<MemberOutcome> {
    let events = executed(forwarder, logs);
    let outcome = |(_, signer, nonce)| {
        let event = events.iter().find(|event| (event.0, event.1) == (signer, nonce));
        event.map(|event| if event.2 { MemberOutcome::Executed } else { MemberOutcome::Failed })
    };
    members
        .map(|member| {
            member.filter(|(own, ..)| *own == forwarder).and_then(outcome).unwrap_or(MemberOutcome::Untouched)
        })
        .collect()
}

/// `(signer, nonce, success)` of every `ExecutedForwardRequest` that `forwarder` emitted.
pub fn executed(forwarder: Address, logs: &[Log]) -> Vec<(Address, u64, bool)> {
    logs.iter()
        .filter(|log| log.address == forwarder)
        .filter_map(|log| ExecutedForwardRequest::decode_log(log).ok())
        .filter_map(|log| Some((log.signer, u64::try_from(log.nonce).ok()?, log.success)))
        .collect()
}

/// The forwarder asks each target whether it trusts it, whatever the request's outcome, and calls those that pass.
/// Unspent value is refunded at the end, to an address that is no member's target.
pub(super) fn part(call: &TracedCall, is_to_current: bool) -> Option<Part> {
    // A selector and a word: the digest that is recovered may begin like a selector.
    let is_question = call.input.len() == 36 && call.input.starts_with(&forwarder::isTrustedForwarderCall::SELECTOR);
    if call.kind == "STATICCALL" && is_question {
        return Some(Part::First);
    }
    (call.executes() && is_to_current).then_some(Part::Further)
}
