//! Errors of the relay's public interface.

use std::time::Duration;

use crate::{
    ledger::LedgerError,
    policy::{BudgetError, OpenError, PauseScope, PolicyDenial},
    request::{RequestId, Status, VerifyError},
};

/// Retry interval suggested during a pause.
const PAUSED_RETRY: Duration = Duration::from_secs(10);

/// Reason why a submission was not accepted. Nothing of it is stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The chain is not served here. Caller or configuration.
    #[error("chain {0} is not served here")]
    UnknownChain(u64),
    /// The tenant is not configured.
    #[error("tenant `{0}` is not known")]
    UnknownTenant(String),
    /// Malformed, wrongly signed, or with an impossible deadline. Caller.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// More gas than a transaction can carry on this chain. Caller.
    #[error(
        "gas {gas} plus overhead does not fit a transaction, limit {limit} (`chain.max_batch_gas`, and `chain.max_block_share_percent` of a block)"
    )]
    GasTooHigh {
        /// Gas of a transaction with only this request.
        gas: u64,
        /// Greatest allowed gas.
        limit: u64,
    },
    /// Larger than a transaction may be on this chain. Caller.
    #[error("a transaction with it would have {bytes} bytes, limit {limit} (`chain.max_tx_bytes`)")]
    TooLarge {
        /// Estimated size of the transaction, bytes.
        bytes: usize,
        /// Greatest allowed size, bytes.
        limit: usize,
    },
    /// Denied by the tenant's policy. Tenant or operator.
    #[error(transparent)]
    Policy(#[from] PolicyDenial),
    /// Not covered by the tenant's budget. Tenant or operator.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The caller's `maxCost` is below the current worst-case cost.
    #[error("worst-case cost is {needed_wei} wei, maxCost is {max_cost_wei} wei")]
    CeilingTooLow {
        /// Worst-case cost at the current quote, wei.
        needed_wei: alloy_primitives::U256,
        /// The caller's `maxCost`, wei.
        max_cost_wei: alloy_primitives::U256,
    },
    /// An operator has paused acceptance. Nothing is lost: try again later.
    #[error("{0} is paused: nothing new is accepted for now (`slackwater resume`)")]
    Paused(PauseScope),
    /// Nodes would refuse it for its maximum cost: gas limit × the fee cap that the next block needs, both at the
    /// current price and at the last day's median. Caller, or the nodes' operator (geth's `--rpc.txfeecap`).
    #[error(
        "gas limit × fee cap is {needed_wei} wei even at the usual price, nodes take {cap_wei} wei (`chain.rpc_tx_fee_cap_wei`, or what they say)"
    )]
    AboveNodeFeeCap {
        /// Maximum cost at the lower of both prices, wei.
        needed_wei: u128,
        /// The nodes' limit, wei.
        cap_wei: u128,
    },
    /// The value exceeds every lane's balance. Operator.
    #[error("value is {value_wei} wei, no lane has more than {balance_wei} wei: fund one (`chain.signers`)")]
    AboveLaneBalance {
        /// The request's value, wei.
        value_wei: alloy_primitives::U256,
        /// The richest lane's balance, wei.
        balance_wei: alloy_primitives::U256,
    },
    /// The idempotency key is empty or too long. Caller.
    #[error("idempotency key has {bytes} bytes, 1 to {limit} are allowed")]
    IdempotencyKey {
        /// Length of the given key, bytes.
        bytes: usize,
        /// Greatest allowed length, bytes.
        limit: usize,
    },
    /// The idempotency key was used before with another body. Caller.
    #[error("idempotency key was used with another body, for request {existing}")]
    IdempotencyConflict {
        /// The request submitted with the key.
        existing: RequestId,
    },
    /// Another request of this signer holds the nonce. Caller.
    #[error("nonce is held by request {existing}")]
    NonceConflict {
        /// The request that holds it.
        existing: RequestId,
    },
    /// The forwarder has already consumed this nonce. Caller.
    #[error("nonce {nonce} is used, the signer's next nonce is {expected}")]
    NonceUsed {
        /// The request's nonce.
        nonce: u64,
        /// The forwarder's next nonce for the signer.
        expected: u64,
    },
    /// The nonce is further ahead of the signer's next nonce than `chain.max_nonce_gap`. Caller.
    #[error("nonce {nonce} is too far ahead of {expected}, limit {limit} (`chain.max_nonce_gap`)")]
    NonceTooFar {
        /// The request's nonce.
        nonce: u64,
        /// The signer's next nonce.
        expected: u64,
        /// Greatest allowed distance, nonces.
        limit: u64,
    },
    /// A limit of open requests is reached: of all tenants, of the tenant, of the signer, or behind a missing nonce.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another tenant has submitted the same signed request. Caller.
    #[error("request {id} was submitted through another tenant, and has not ended")]
    AlreadySubmitted {
        /// The request's id.
        id: RequestId,
    },
    /// The operating system has no randomness for a call's salt.
    #[error("no randomness: {0}")]
    Randomness(String),
    /// The tenant exceeds its rate limit (`tenant.rate_per_s`).
    #[error("{what}; retry in {} ms", retry_after.as_millis())]
    RateLimited {
        /// The exceeded limit, with its configuration key.
        what: String,
        /// Suggested delay before a retry.
        retry_after: Duration,
    },
    /// The chain can't be served now: no endpoint, or no fee quote yet. Chain, node or operator.
    #[error("chain {chain_id} is not available: {detail}")]
    ChainUnavailable {
        /// EIP-155 chain id.
        chain_id: u64,
        /// The reason.
        detail: String,
        /// Suggested delay before a retry.
        retry_after: Duration,
    },
    /// The chain's clock is so far ahead of the relayer's that the deadline passes there before a transaction can be
    /// included. Operator or chain.
    #[error(
        "deadline {deadline_ms} ms can't be kept: the clock of chain {chain_id} is {ahead_ms} ms ahead of the relayer's"
    )]
    ChainClockAhead {
        /// EIP-155 chain id.
        chain_id: u64,
        /// The request's deadline, Unix ms.
        deadline_ms: u64,
        /// Lead of the chain's clock, ms.
        ahead_ms: u64,
    },
    /// The ledger's storage failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The embedder's [`AdmissionHook`](crate::AdmissionHook) refused it.
    #[error("{reason}")]
    Denied {
        /// The hook's reason.
        reason: String,
    },
    /// The embedder's [`AdmissionHook`](crate::AdmissionHook) gave no answer.
    #[error("the admission hook is not available: {detail}")]
    HookUnavailable {
        /// The problem.
        detail: String,
    },
    /// The identity's [`Signer`](crate::Signer) did not sign the promise; its reason is in the log.
    #[error("the promise could not be signed")]
    Unsigned,
    /// The relay is shutting down.
    #[error("relay is shutting down")]
    ShuttingDown,
}

impl SubmitError {
    /// True if the same submission may succeed later, unchanged.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Open(_)
            | Self::ChainUnavailable { .. }
            | Self::ShuttingDown
            | Self::HookUnavailable { .. }
            | Self::Unsigned
            | Self::Paused(_)
            | Self::Budget(_) => true,
            Self::Ledger(error) => error.is_retryable() || error.is_ambiguous(),
            _ => false,
        }
    }

    /// True if the request may have been accepted nonetheless: query it by id, or submit the same bytes again (which is
    /// safe).
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ledger(error) if error.is_ambiguous())
    }

    /// Suggested delay before a retry; `None` if unknown.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ChainUnavailable { retry_after, .. } => Some(*retry_after),
            Self::Ledger(_) | Self::ShuttingDown | Self::Open(_) | Self::HookUnavailable { .. } | Self::Unsigned => {
                Some(Duration::from_secs(1))
            }
            Self::Paused(_) => Some(PAUSED_RETRY),
            _ => None,
        }
    }

    /// The stable code that SDKs switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownChain(_) => "wrong_chain",
            Self::UnknownTenant(_) => "unknown_tenant",
            Self::Invalid(error) => error.code(),
            Self::GasTooHigh { .. } => "gas_out_of_range",
            Self::TooLarge { .. } => "request_too_large",
            Self::Policy(_) => "policy_denied",
            Self::Budget(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::AlreadySubmitted { .. } => "already_submitted",
            Self::Randomness(_) => "internal",
            Self::CeilingTooLow { .. } => "max_cost_too_low",
            Self::Paused(_) => "paused",
            Self::AboveNodeFeeCap { .. } => "above_node_fee_cap",
            Self::AboveLaneBalance { .. } => "above_lane_balance",
            Self::IdempotencyKey { .. } => "invalid_idempotency_key",
            Self::IdempotencyConflict { .. } => "idempotency_conflict",
            Self::NonceConflict { .. } => "nonce_conflict",
            Self::NonceUsed { .. } => "nonce_used",
            Self::NonceTooFar { .. } => "nonce_too_far",
            Self::RateLimited { .. } => "rate_limited",
            Self::ChainUnavailable { .. } => "chain_unavailable",
            Self::ChainClockAhead { .. } => "deadline_unreachable",
            Self::Ledger(_) => "storage_unavailable",
            Self::Denied { .. } => "denied_by_hook",
            Self::HookUnavailable { .. } => "hook_unavailable",
            Self::Unsigned => "identity_unavailable",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// Reason why a request could not be cancelled.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// No such request of this tenant.
    #[error("request {0} is not known")]
    Unknown(RequestId),
    /// The request is in a transaction already, or has ended.
    #[error("request {id} is {status} and can't be cancelled any more")]
    TooLate {
        /// The request's id.
        id: RequestId,
        /// Its current status.
        status: Status,
    },
    /// The ledger's storage failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The relay is shutting down.
    #[error("relay is shutting down")]
    ShuttingDown,
}

/// Reason why no policy was changed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The ledger has requests of this tenant, which is new to the running relay: their reservations and costs are
    /// counted only at a start.
    #[error("tenant `{0}` was here before: what its requests hold and cost is counted at a restart")]
    Returns(String),
    /// This tenant makes calls but no account is bound to it: only a single tenant may make calls from all accounts.
    /// Accounts are bound to tenants only at a start.
    #[error("tenant `{0}` makes calls and no signer is bound to it: bind one (`signers`), and restart")]
    UnboundCalls(String),
    /// The ledger could not be read, so it is unknown whether the tenant had requests before.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// This setting can't change while the relay runs.
    #[error("`tenant.{key}` of `{tenant}` can only be changed by a restart")]
    NeedsRestart {
        /// The tenant's id.
        tenant: String,
        /// The configuration key.
        key: &'static str,
    },
    /// The new policy is invalid.
    #[error("`tenant.{key}` of `{tenant}` {detail}")]
    Invalid {
        /// The tenant's id.
        tenant: String,
        /// The configuration key.
        key: &'static str,
        /// The problem.
        detail: &'static str,
    },
}

/// Reason why waiting for a request ended without an answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// There is no such request.
    #[error("request {0} is not known")]
    Unknown(RequestId),
    /// The ledger's storage failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The relay shut down; the request stays in the ledger.
    #[error("relay shut down while waiting; the request is durable and goes on at the next start")]
    ShuttingDown,
}

/// Reason why a relay could not be built or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No chain is configured.
    #[error("no chain is configured")]
    NoChain,
    /// Two setups for one chain.
    #[error("chain {0} is configured twice")]
    DuplicateChain(u64),
    /// A chain without endpoint or signer.
    #[error("chain {chain_id} has no {what}")]
    Missing {
        /// EIP-155 chain id.
        chain_id: u64,
        /// `rpc` or `signer`.
        what: &'static str,
    },
    /// A value is out of range, or two contradict each other.
    #[error("{key}: {detail}")]
    Config {
        /// The configuration key.
        key: String,
        /// The problem, and its fix.
        detail: String,
    },
    /// The chain could not be reached, or differs from its configuration.
    #[error("chain {chain_id}: {detail}")]
    Chain {
        /// EIP-155 chain id.
        chain_id: u64,
        /// The problem.
        detail: String,
    },
    /// The ledger's storage failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
