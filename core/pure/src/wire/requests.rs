//! The bodies that callers send.

use std::borrow::Cow;

use alloy_primitives::{B256, Bytes};
use serde::Serialize;

use super::{
    macros::{from_text, wire},
    number::{Account, Count, Excerpt, HexBytes, Instant, Span, Uint},
};
use crate::request;

wire! {
    /// An ERC-2771 request: the content that the user signed for OpenZeppelin's `ERC2771Forwarder`.
    #[derive(Eq)]
    #[serde(deny_unknown_fields, expecting = "a forward object")]
    pub struct Forward {
        /// The forwarder contract; one of the chain's `forwarders`.
        pub forwarder: Account,
        /// The user who signed, and whom the target sees as sender.
        pub from: Account,
        /// The target contract.
        pub to: Account,
        /// Wei passed along, paid by the relayer. Default 0.
        #[serde(default)]
        pub value: Uint,
        /// Gas given to the target.
        pub gas: Uint,
        /// The user's nonce at the forwarder: `nonces(from)`.
        pub nonce: Uint,
        /// Last valid block timestamp, Unix seconds (`uint48`).
        pub deadline: Count,
        /// Calldata. Default empty.
        #[serde(default)]
        pub data: HexBytes,
        /// 65 bytes `r ‖ s ‖ v` over the EIP-712 hash.
        pub signature: HexBytes,
    }

    /// A trusted backend's own call, made by the relayer's account. Needs `call` in the tenant's `kinds`.
    #[derive(Eq)]
    #[serde(deny_unknown_fields, expecting = "a call object")]
    pub struct Call {
        /// The called contract or account.
        pub to: Account,
        /// Wei sent along, paid by the relayer. Default 0.
        #[serde(default)]
        pub value: Uint,
        /// Gas given to the call.
        pub gas: Uint,
        /// Calldata. Default empty.
        #[serde(default)]
        pub data: HexBytes,
        /// The target does not look at `msg.sender`, so that the call may share a transaction through Multicall3.
        #[serde(default)]
        pub any_sender: bool,
    }

    /// A token payment that the payer authorized (EIP-3009 `transferWithAuthorization`; the payment of x402). Needs
    /// `authorization` in the tenant's `kinds`.
    #[derive(Eq)]
    #[serde(deny_unknown_fields, expecting = "an authorization object")]
    pub struct Authorization {
        /// The token; one of the chain's `tokens`.
        pub token: Account,
        /// The payer, who signed.
        pub from: Account,
        /// The payee.
        pub to: Account,
        /// Amount, in the token's smallest unit.
        pub value: Uint,
        /// Unix seconds; valid in blocks with a later timestamp. Until then it waits. Default 0.
        #[serde(default)]
        pub valid_after: Uint,
        /// Unix seconds; valid in blocks with an earlier timestamp.
        pub valid_before: Uint,
        /// 32 bytes that the payer uses once with this token.
        #[cfg_attr(feature = "openapi", schema(value_type = super::schema::Hash))]
        pub nonce: B256,
        /// 65 bytes `r ‖ s ‖ v` over the EIP-712 hash. Of another length: the signature of a payer with code (EIP-1271), which
        /// only a simulation can check.
        pub signature: HexBytes,
    }

    /// One request to be relayed.
    #[derive(Eq)]
    #[serde(deny_unknown_fields, expecting = "a request object")]
    pub struct Submit<'a> {
        /// EIP-155 chain id.
        pub chain_id: Count,
        /// Kind of request.
        pub kind: Kind,
        /// For kind `forward`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub forward: Option<Forward>,
        /// For kind `call`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub call: Option<Call>,
        /// For kind `authorization`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub authorization: Option<Authorization>,
        /// Longest time it may take, from now. Not together with `deadline`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub within: Option<Span>,
        /// Latest acceptable inclusion. Not together with `within`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub deadline: Option<Instant>,
        /// The most that it may cost in total, wei.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_cost: Option<Uint>,
        /// Same key with the same body gets the first answer. At most 255 bytes. Use it in batches; the header
        /// `Idempotency-Key` does the same for a single request.
        #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
        pub idempotency_key: Option<Cow<'a, str>>,
    }

    /// Several requests, each on its own: one that is refused harms no other.
    #[derive(Eq)]
    #[serde(deny_unknown_fields)]
    pub struct SubmitBatch<'a> {
        /// The requests; answered in the same order.
        #[serde(borrow)]
        pub requests: Vec<Submit<'a>>,
    }

    /// A price question.
    #[derive(Eq)]
    #[serde(deny_unknown_fields, expecting = "a quote object")]
    pub struct QuoteRequest {
        /// EIP-155 chain id.
        pub chain_id: Count,
        /// Gas given to the target.
        pub gas: Count,
        /// Longest wait, such as `5m`: then `wait` in the answer says what that is worth.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub within: Option<Span>,
    }

    /// A withdrawal that the user has signed.
    #[derive(Eq)]
    #[serde(deny_unknown_fields)]
    pub struct WithdrawalBody {
        /// Signature of the account that signed the request over EIP-712 `Withdrawal(bytes32 requestHash,uint256 chainId)`, domain
        /// `{name: "Slackwater", version: "1"}`: 65 bytes.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub signature: Bytes,
    }

    /// A version of the models.
    #[derive(Copy, Eq)]
    #[serde(deny_unknown_fields)]
    pub struct ModelVersion {
        /// As listed.
        pub version: u32,
    }

    /// The scope of a pause: one of the members.
    #[derive(Default, Eq)]
    #[serde(deny_unknown_fields)]
    pub struct PauseBody {
        /// Everything.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub all: Option<bool>,
        /// One chain.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
        pub chain_id: Option<Count>,
        /// One tenant.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tenant: Option<String>,
    }
}

/// Kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(rename_all = "camelCase"))]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// ERC-2771; the content is in `forward`.
    Forward,
    /// A trusted backend's own call; the content is in `call`.
    Call,
    /// A token payment that the payer authorized; the content is in `authorization`.
    Authorization,
}

// By hand: serde_json calls a number in an enum's place a syntax error.
from_text! {
    Kind, "`forward`, `call` or `authorization`", |name| match name {
        "forward" => Ok(Kind::Forward),
        "call" => Ok(Kind::Call),
        "authorization" => Ok(Kind::Authorization),
        other => Err(E::custom(format_args!("{}: expected {}", Excerpt(other), Self::EXPECTED))),
    }
}

impl From<Forward> for request::Forward {
    fn from(body: Forward) -> Self {
        Self {
            forwarder: body.forwarder.0,
            from: body.from.0,
            to: body.to.0,
            value: body.value.0,
            gas: body.gas.0,
            nonce: body.nonce.0,
            deadline: body.deadline.0,
            data: body.data.0,
            signature: body.signature.0,
        }
    }
}

impl From<Call> for request::Call {
    /// Without a salt.
    fn from(body: Call) -> Self {
        let (to, value, gas, data) = (body.to.0, body.value.0, body.gas.0, body.data.0);
        Self { to, value, gas, data, any_sender: body.any_sender, salt: String::new() }
    }
}

impl From<Authorization> for request::Authorization {
    fn from(body: Authorization) -> Self {
        Self {
            token: body.token.0,
            from: body.from.0,
            to: body.to.0,
            value: body.value.0,
            valid_after: body.valid_after.0,
            valid_before: body.valid_before.0,
            nonce: body.nonce,
            signature: body.signature.0,
        }
    }
}

impl From<request::Authorization> for Authorization {
    fn from(authorization: request::Authorization) -> Self {
        Self {
            token: Account(authorization.token),
            from: Account(authorization.from),
            to: Account(authorization.to),
            value: Uint(authorization.value),
            valid_after: Uint(authorization.valid_after),
            valid_before: Uint(authorization.valid_before),
            nonce: authorization.nonce,
            signature: HexBytes(authorization.signature),
        }
    }
}

impl From<request::Call> for Call {
    fn from(call: request::Call) -> Self {
        let (to, value, gas) = (Account(call.to), Uint(call.value), Uint(call.gas));
        Self { to, value, gas, data: HexBytes(call.data), any_sender: call.any_sender }
    }
}

impl From<request::Forward> for Forward {
    fn from(forward: request::Forward) -> Self {
        Self {
            forwarder: Account(forward.forwarder),
            from: Account(forward.from),
            to: Account(forward.to),
            value: Uint(forward.value),
            gas: Uint(forward.gas),
            nonce: Uint(forward.nonce),
            deadline: Count(forward.deadline),
            data: HexBytes(forward.data),
            signature: HexBytes(forward.signature),
        }
    }
}
