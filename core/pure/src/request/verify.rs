//! Parse, don't validate: only [`verify`] makes a [`VerifiedRequest`].

use std::time::Duration;

use alloy_primitives::{Address, Bytes, ChainId, U256};

use super::{Payment, RequestId, RequestKind, VerifyContext, VerifyError, kind::Bounds};
use crate::time::Timestamp;

/// An unverified submission: a request of some kind with its deadline and ceiling.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submission {
    /// EIP-155 chain id.
    pub chain_id: ChainId,
    /// Kind and content of the request.
    pub kind: RequestKind,
    /// Latest acceptable inclusion; `None` takes [`VerifyContext::default_within`].
    pub deadline: Option<Deadline>,
    /// Ceiling on the total cost, wei; `None` leaves it to budget and policy.
    pub max_cost_wei: Option<U256>,
    /// Name of this submission, 1 to [`MAX_IDEMPOTENCY_KEY_BYTES`] bytes: the same key with the same body gets the first
    /// answer, with another body a refusal. `None`: a signed request is recognised by its content, each call is a new one.
    pub idempotency_key: Option<String>,
}

/// Longest idempotency key, bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

impl Submission {
    /// A request of any kind, without deadline and ceiling.
    pub const fn new(chain_id: ChainId, kind: RequestKind) -> Self {
        Self { chain_id, kind, deadline: None, max_cost_wei: None, idempotency_key: None }
    }

    /// How long it may take, from its arrival on.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.deadline = Some(Deadline::Within(within));
        self
    }

    /// Latest acceptable inclusion.
    #[must_use]
    pub const fn deadline(mut self, at: Timestamp) -> Self {
        self.deadline = Some(Deadline::At(at));
        self
    }

    /// The most that it may cost in total.
    #[must_use]
    pub const fn max_cost_wei(mut self, wei: U256) -> Self {
        self.max_cost_wei = Some(wei);
        self
    }

    /// Name of this submission, 1 to [`MAX_IDEMPOTENCY_KEY_BYTES`] bytes.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// Form of a caller's deadline. Kept as given, so that a repeated submission is recognised as the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// An instant.
    At(Timestamp),
    /// A duration from arrival on.
    Within(Duration),
}

/// A request with verified form, signature and deadline. Its fields are private: it can only be made by [`verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRequest {
    id: RequestId,
    chain_id: ChainId,
    kind: RequestKind,
    gas: u64,
    nonce: u64,
    deadline: Timestamp,
    valid_until: Timestamp,
    max_cost_wei: Option<U256>,
    is_outline: bool,
    is_proven: bool,
}

impl VerifiedRequest {
    /// The same request without calldata and signature: the form kept in memory while its bytes are in the ledger only.
    /// No transaction can carry it.
    #[must_use]
    pub fn outline(&self) -> Self {
        Self { kind: self.kind.outline(), is_outline: true, ..*self }
    }

    /// True if it is an [`Self::outline`].
    pub const fn is_outline(&self) -> bool {
        self.is_outline
    }

    /// True if its signature was checked here; false if only the chain can check it, and for kinds without one.
    pub const fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Content-derived identity.
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// The chain it runs on.
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// Kind and content.
    pub const fn kind(&self) -> &RequestKind {
        &self.kind
    }

    /// Name of the kind, as in the API.
    pub fn kind_name(&self) -> &'static str {
        self.kind.name().as_str()
    }

    /// Gas that the inner call may use.
    pub const fn gas(&self) -> u64 {
        self.gas
    }

    /// Promised time of inclusion. Never later than [`Self::valid_until`].
    pub const fn deadline(&self) -> Timestamp {
        self.deadline
    }

    /// Latest acceptable inclusion (invariant I7): the promised time if the caller named it, else the end of the
    /// signature's validity, at most [`VerifyContext::default_expiry`]. Never later than the on-chain deadline minus
    /// the skew margin.
    pub const fn valid_until(&self) -> Timestamp {
        self.valid_until
    }

    /// The same request with a later promised time, but not later than its end of validity.
    #[must_use]
    pub fn promised_by(mut self, deadline: Timestamp) -> Self {
        self.deadline = deadline.min(self.valid_until);
        self
    }

    /// Deadline that the chain enforces, in block-timestamp seconds; `None` if the kind has none.
    pub fn chain_deadline_s(&self) -> Option<u64> {
        self.kind.chain_deadline_s()
    }

    /// The caller's ceiling on total cost, wei; `None` if there is none.
    pub const fn max_cost_wei(&self) -> Option<U256> {
        self.max_cost_wei
    }

    /// Contract that is finally called.
    pub fn target(&self) -> Address {
        self.kind.target()
    }

    /// Wei sent along to the target.
    pub fn value(&self) -> U256 {
        self.kind.value()
    }

    /// Calldata for the target; empty if it is an [`Self::outline`].
    pub fn data(&self) -> Bytes {
        if self.is_outline { Bytes::new() } else { self.kind.data() }
    }

    /// First four bytes of the calldata; `None` if it is shorter.
    pub fn selector(&self) -> Option<[u8; 4]> {
        self.data().get(..4)?.try_into().ok()
    }

    /// The sequence this request belongs to: (forwarder, user) and the nonce in it. `None` for kinds without order.
    pub fn sequence(&self) -> Option<(Address, Address, u64)> {
        self.kind.sequence().map(|(contract, user, _)| (contract, user, self.nonce))
    }

    /// Place that only one live request may hold: its [`Self::sequence`], or the token, the payer, and 63 bits derived from the
    /// payment's nonce. `None` for kinds without such a place, and for a payment whose signature only the chain can check.
    pub fn slot(&self) -> Option<(Address, Address, u64)> {
        debug_assert!(!self.is_outline, "its signature is not here");
        self.sequence().or_else(|| self.kind.slot())
    }

    /// The account that signed it; `None` for kinds that users don't sign.
    pub fn signer(&self) -> Option<Address> {
        self.sequence().map(|(_, user, _)| user).or_else(|| self.payment().map(|payment| payment.from))
    }

    /// The token payment that it makes; `None` for kinds that make none.
    pub fn payment(&self) -> Option<Payment> {
        self.kind.payment()
    }

    /// Block timestamp, seconds, that the chain must have passed before it executes; `None` if the kind has none.
    pub fn waits_for_s(&self) -> Option<u64> {
        self.kind.waits_for_s()
    }

    /// True if the chain executes it once at most, in whatever transaction.
    pub fn is_guarded(&self) -> bool {
        self.sequence().is_some() || self.payment().is_some()
    }
}

/// Checks form, ranges, deadline and signature of `submission` at `now`; cheap checks first.
///
/// Promised and latest inclusion are not later than the on-chain deadline minus [`VerifyContext::skew`].
///
/// # Errors
/// [`VerifyError`]; nothing is kept of a refused submission.
pub fn verify(
    submission: Submission,
    context: &VerifyContext<'_>,
    now: Timestamp,
) -> Result<VerifiedRequest, VerifyError> {
    let Submission { chain_id, kind, deadline, max_cost_wei, idempotency_key: _ } = submission;
    if chain_id != context.chain_id {
        return Err(VerifyError::WrongChain { requested: chain_id, served: context.chain_id });
    }
    let Bounds { gas, nonce, from, until } = kind.bounds(context)?;
    let (wanted, valid) = match deadline {
        Some(deadline) => {
            let deadline = match deadline {
                Deadline::At(at) => at,
                Deadline::Within(within) => now.saturating_add(within),
            };
            check_far(deadline, context, now)?;
            (deadline, deadline)
        }
        None => {
            let start = now.max(from);
            check_far(start, context, now)?;
            let promised = start.saturating_add(context.default_within);
            (promised, start.saturating_add(context.default_expiry).max(promised))
        }
    };
    let deadline = wanted.min(until);
    check_near(deadline, context, now)?;
    if from > now && from.saturating_add(context.guard) > deadline {
        return Err(VerifyError::NotValidInTime {
            from_ms: from.0,
            deadline_at_ms: deadline.0,
            guard_ms: crate::time::millis(context.guard),
        });
    }
    let id = kind.prove(context)?;
    let valid_until = valid.min(until);
    let is_proven = kind.is_proven();
    let is_outline = false;
    Ok(VerifiedRequest { id, chain_id, kind, gas, nonce, deadline, valid_until, max_cost_wei, is_outline, is_proven })
}

/// Id of a submission, without any other check; `None` if it can't be determined.
///
/// The signer is not checked, so it only finds requests accepted before.
pub fn identify(submission: &Submission, context: &VerifyContext<'_>) -> Option<RequestId> {
    submission.kind.identify(submission.chain_id, context)
}

fn check_far(deadline: Timestamp, context: &VerifyContext<'_>, now: Timestamp) -> Result<(), VerifyError> {
    let slack = deadline.since(now);
    if slack > context.max_within {
        return Err(VerifyError::DeadlineTooFar {
            slack_ms: crate::time::millis(slack),
            limit_ms: crate::time::millis(context.max_within),
        });
    }
    Ok(())
}

fn check_near(deadline: Timestamp, context: &VerifyContext<'_>, now: Timestamp) -> Result<(), VerifyError> {
    if deadline <= now {
        return Err(VerifyError::DeadlineExpired { deadline_at_ms: deadline.0, now_ms: now.0 });
    }
    let slack = deadline.since(now);
    if slack < context.guard {
        return Err(VerifyError::DeadlineUnreachable {
            slack_ms: crate::time::millis(slack),
            guard_ms: crate::time::millis(context.guard),
        });
    }
    Ok(())
}

/// Durable form of a verified request: stored by the ledger and read back on a restart.
///
/// Reading it back does not repeat the signature check: it was made before the commit.
mod stored {
    use std::borrow::Cow;

    use serde::{Deserialize, Serialize};

    use super::{RequestId, RequestKind, Timestamp, U256, VerifiedRequest};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Stored<'a> {
        id: RequestId,
        chain_id: u64,
        gas: u64,
        nonce: u64,
        deadline: Timestamp,
        /// Absent if it was stored before requests could outlive their promise.
        #[serde(default)]
        valid_until: Option<Timestamp>,
        /// For older versions on the same ledger: it is the forward's own.
        chain_deadline_s: Option<u64>,
        max_cost_wei: Option<U256>,
        kind: Cow<'a, RequestKind>,
    }

    impl VerifiedRequest {
        /// Serialised form for the ledger (JSON).
        pub fn to_stored(&self) -> Vec<u8> {
            let stored = Stored {
                id: self.id,
                chain_id: self.chain_id,
                gas: self.gas,
                nonce: self.nonce,
                deadline: self.deadline,
                valid_until: Some(self.valid_until),
                chain_deadline_s: self.chain_deadline_s(),
                max_cost_wei: self.max_cost_wei,
                kind: Cow::Borrowed(&self.kind),
            };
            serde_json::to_vec(&stored).unwrap_or_else(|error| unreachable!("a request is always JSON: {error}"))
        }

        /// Reads [`Self::to_stored`] bytes back, from our own ledger.
        ///
        /// # Errors
        /// The JSON error if the bytes were damaged.
        pub fn from_stored(bytes: &[u8]) -> Result<Self, serde_json::Error> {
            serde_json::from_slice(bytes).map(Self::restored)
        }

        /// As [`Self::from_stored`].
        pub fn from_stored_value(value: serde_json::Value) -> Option<Self> {
            crate::json::of(value).map(Self::restored).ok()
        }

        fn restored(stored: Stored<'_>) -> Self {
            let kind = stored.kind.into_owned();
            Self {
                id: stored.id,
                chain_id: stored.chain_id,
                is_proven: kind.is_proven(),
                kind,
                gas: stored.gas,
                nonce: stored.nonce,
                deadline: stored.deadline,
                valid_until: stored.valid_until.unwrap_or(stored.deadline),
                max_cost_wei: stored.max_cost_wei,
                is_outline: false,
            }
        }
    }
}
