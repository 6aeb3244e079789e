//! Verification of a promise: issued by the relayer, about this request.

use std::time::Duration;

use alloy_primitives::Address;

use crate::{
    request::{RequestId, SignatureError},
    time::Timestamp,
    wire::{Accepted, Promise},
};

/// Tolerated difference between the caller's clock and the relayer's when a promise's time is checked.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(3_600);

/// Expected content of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedPromise {
    /// The request's id, computed by the caller from what the user signed: [`super::super::UnsignedForward::id`].
    pub request: RequestId,
    /// Requested chain id.
    pub chain_id: u64,
    /// The relayer's identity, from a source other than the checked answer.
    pub relayer: Address,
    /// The latest requested deadline ([`Submit::promised_by`](crate::Submit::promised_by)); a later one does
    /// not fulfil the request. `None` skips the check.
    pub not_after: Option<Timestamp>,
}

/// Reason why a promise is worthless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromiseFault {
    /// It is about another request.
    #[error("the promise is about request {found}, not {expected}")]
    OtherRequest {
        /// Requested id.
        expected: RequestId,
        /// Promised id.
        found: RequestId,
    },
    /// It is about another chain.
    #[error("the promise is about chain {found}, not {expected}")]
    OtherChain {
        /// Requested chain id.
        expected: u64,
        /// Promised chain id.
        found: u64,
    },
    /// It names another relayer.
    #[error("the promise is by {found}, not by {expected}")]
    OtherRelayer {
        /// Pinned identity.
        expected: Address,
        /// Identity in the promise.
        found: Address,
    },
    /// It is for later than requested, or was past at the time of the request.
    #[error("the promise is for {promised_s} s, asked was {asked_s} s")]
    TooLate {
        /// Promised time, Unix seconds.
        promised_s: u64,
        /// Requested time, Unix seconds.
        asked_s: u64,
    },
    /// It is about a request that belongs to another submission.
    #[error("request {0} is another submission's")]
    Taken(RequestId),
    /// The signature is malformed.
    #[error("the promise's signature: {0}")]
    Signature(#[from] SignatureError),
    /// The signature is by another key, or over other content.
    #[error("the promise is not signed by {0}")]
    NotSigned(Address),
    /// The answer around it contradicts it.
    #[error("the answer says {answer}, the promise {promise}")]
    Contradiction {
        /// Value in the answer.
        answer: String,
        /// Value in the promise.
        promise: String,
    },
}

/// The pinned identity to check a promise against: the one that it names or, if it names none of them, the first.
/// `None` if none is pinned. While an identity is rotated, old and new are pinned together.
pub fn pin_for(relayers: &[Address], promise: &Promise) -> Option<Address> {
    relayers.iter().copied().find(|relayer| *relayer == promise.relayer.0).or_else(|| relayers.first().copied())
}

/// Checks that `signed` is a promise by `expected.relayer` about this request, chain and deadline.
///
/// # Errors
/// [`PromiseFault`]: don't rely on it.
pub fn verify_promise(signed: &Promise, expected: &ExpectedPromise) -> Result<(), PromiseFault> {
    let promise = signed.words();
    if promise.request_hash != expected.request {
        return Err(PromiseFault::OtherRequest { expected: expected.request, found: promise.request_hash });
    }
    if promise.chain_id != expected.chain_id {
        return Err(PromiseFault::OtherChain { expected: expected.chain_id, found: promise.chain_id });
    }
    if promise.relayer != expected.relayer {
        return Err(PromiseFault::OtherRelayer { expected: expected.relayer, found: promise.relayer });
    }
    if let Some(not_after) = expected.not_after
        && promise.deadline > not_after.as_secs()
    {
        return Err(PromiseFault::TooLate { promised_s: promise.deadline, asked_s: not_after.as_secs() });
    }
    if promise.is_signed_by_relayer(&signed.signature.0)? {
        Ok(())
    } else {
        Err(PromiseFault::NotSigned(expected.relayer))
    }
}

/// Checks an acceptance as a whole: its promise, and its consistency with the rest.
///
/// # Errors
/// [`PromiseFault`].
pub fn verify_accepted(accepted: &Accepted, expected: &ExpectedPromise) -> Result<(), PromiseFault> {
    verify_promise(&accepted.promise, expected)?;
    let promise = &accepted.promise;
    let contradiction = |answer: String, promise: String| Err(PromiseFault::Contradiction { answer, promise });
    if accepted.id != promise.request_hash {
        return contradiction(accepted.id.to_string(), promise.request_hash.to_string());
    }
    if accepted.chain_id != promise.chain_id {
        return contradiction(format!("chain {}", accepted.chain_id), format!("chain {}", promise.chain_id));
    }
    if accepted.deadline_at_ms.as_secs() != promise.deadline {
        return contradiction(accepted.deadline_at_ms.to_string(), format!("{} s", promise.deadline));
    }
    Ok(())
}
