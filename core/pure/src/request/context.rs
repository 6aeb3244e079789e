//! Context and errors of the verification.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, ChainId, U256};

use super::{ForwarderDomain, SignatureError, Token};

/// Data about the chain and the caller that [`verify()`](super::verify()) needs.
#[derive(Debug, Clone, Copy)]
pub struct VerifyContext<'a> {
    /// Name of the submitting tenant.
    pub tenant: &'a str,
    /// The chain served here.
    pub chain_id: ChainId,
    /// Forwarders whose code is known on this chain.
    pub forwarders: &'a BTreeMap<Address, ForwarderDomain>,
    /// Tokens whose payments are made on this chain.
    pub tokens: &'a BTreeMap<Address, Token>,
    /// Time to the promised inclusion if the caller names none (`request.default_within_ms`).
    pub default_within: Duration,
    /// Validity of a request without a time from the caller, as far as the signature allows
    /// (`request.default_expiry_ms`).
    pub default_expiry: Duration,
    /// Longest accepted slack (`request.max_within_ms`).
    pub max_within: Duration,
    /// Shortest feasible slack: the chain's guard time.
    pub guard: Duration,
    /// Margin between wall clock and block timestamps (`chain.deadline_skew_s`).
    pub skew: Duration,
}

/// Errors of a submission. Always the caller's fault, except [`Self::UnknownForwarder`], which may be configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// This relay (or chain service) serves another chain.
    #[error("request is for chain {requested}, this is chain {served}")]
    WrongChain {
        /// Chain of the request.
        requested: ChainId,
        /// Chain served here.
        served: ChainId,
    },
    /// Not one of the configured forwarders (`chain.forwarders`).
    #[error("forwarder {0} is not served on this chain; add it to `forwarders` in the chain's configuration")]
    UnknownForwarder(Address),
    /// Not one of the configured tokens (`chain.tokens`).
    #[error("token {0} is not served on this chain; add it to `tokens` in the chain's configuration")]
    UnknownToken(Address),
    /// The payer signed `ReceiveWithAuthorization`, which a token takes from the payee only.
    #[error(
        "the payer signed ReceiveWithAuthorization, which the token takes from the payee only; a relayer needs \
         TransferWithAuthorization"
    )]
    ReceiveAuthorization,
    /// The time from which on the chain executes it leaves too little until its deadline.
    #[error(
        "it is valid from {from_ms} ms on, deadline {deadline_at_ms} ms, at least {guard_ms} ms are needed in between"
    )]
    NotValidInTime {
        /// Earliest inclusion, Unix ms.
        from_ms: u64,
        /// The deadline that counts, Unix ms.
        deadline_at_ms: u64,
        /// The chain's guard time.
        guard_ms: u64,
    },
    /// The signature is malformed.
    #[error("invalid signature: {0}")]
    Signature(#[from] SignatureError),
    /// Signed by another account, or over other content (domain name, nonce, data …).
    #[error("signature was made by {recovered}, not by `from` {from}; check domain name, version, chain id and nonce")]
    WrongSigner {
        /// `from` of the request.
        from: Address,
        /// Address recovered from the signature.
        recovered: Address,
    },
    /// Gas above 2^64 − 1 (policy and chain set lower limits).
    #[error("gas {0} is out of range")]
    GasOutOfRange(U256),
    /// `gas` is 0.
    #[error("gas is 0: the call could not run")]
    ZeroGas,
    /// Nonce above 2^64 − 2: the forwarder counts from 0, and the nonce after it must exist.
    #[error("nonce {0} is out of range")]
    NonceOutOfRange(U256),
    /// The on-chain deadline does not fit `uint48`; seconds, not milliseconds, are expected.
    #[error("deadline {0} does not fit uint48; it is in seconds")]
    DeadlineOutOfRange(u64),
    /// The deadline is in the past.
    #[error("deadline {deadline_at_ms} ms has passed, it is {now_ms} ms now")]
    DeadlineExpired {
        /// The deadline that counts, Unix ms.
        deadline_at_ms: u64,
        /// Now, Unix ms.
        now_ms: u64,
    },
    /// Too little time for a transaction to be included.
    #[error("deadline leaves {slack_ms} ms, at least {guard_ms} ms are needed to be included")]
    DeadlineUnreachable {
        /// Time left.
        slack_ms: u64,
        /// The chain's guard time.
        guard_ms: u64,
    },
    /// Further away than `request.max_within_ms`.
    #[error("deadline is {slack_ms} ms away, limit {limit_ms} ms (`request.max_within_ms`)")]
    DeadlineTooFar {
        /// Time until the deadline.
        slack_ms: u64,
        /// The limit.
        limit_ms: u64,
    },
}

impl VerifyError {
    /// The stable code that SDKs switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongChain { .. } => "wrong_chain",
            Self::UnknownForwarder(_) => "unknown_forwarder",
            Self::UnknownToken(_) => "unknown_token",
            Self::Signature(_) | Self::WrongSigner { .. } | Self::ReceiveAuthorization => "invalid_signature",
            Self::NotValidInTime { .. } => "not_valid_in_time",
            Self::GasOutOfRange(_) | Self::ZeroGas => "gas_out_of_range",
            Self::NonceOutOfRange(_) => "nonce_out_of_range",
            Self::DeadlineOutOfRange(_) => "deadline_out_of_range",
            Self::DeadlineExpired { .. } => "deadline_expired",
            Self::DeadlineUnreachable { .. } => "deadline_unreachable",
            Self::DeadlineTooFar { .. } => "deadline_too_far",
        }
    }
}
