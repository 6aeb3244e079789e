//! Requests: kinds, EIP-712 hashing and signature checks, identity, status.
//!
//! A [`Submission`] is the unverified input; [`verify()`] turns it into a [`VerifiedRequest`], the only form that the
//! other modules accept. [`vehicle`] puts a request into a transaction, [`outcome`] reads its outcome from the receipt.

mod context;
mod domain;
pub mod gate;
mod id;
mod kind;
pub mod outcome;
mod params;
mod promise;
pub mod receipt;
pub mod settlement;
mod signature;
pub mod simulation;
mod status;
mod target;
mod token;
pub mod trace;
pub mod vehicle;
mod verify;
mod withdrawal;

pub use context::{VerifyContext, VerifyError};
pub use domain::ForwarderDomain;
pub use gate::Unsimulated;
pub use id::{BatchId, LaneId, ParseIdError, RequestId};
pub use kind::{Authorization, Call, Forward, KindName, RequestKind};
pub use kind::{Content, executed, verify_input};
pub use promise::Promise;
pub use signature::{SignatureError, recover};
pub use status::{Reason, Status};
pub use target::TargetRecord;
pub use token::{Payment, Token, TokenDomain};
pub use verify::{Deadline, MAX_IDEMPOTENCY_KEY_BYTES, Submission, VerifiedRequest, identify, verify};
pub use withdrawal::Withdrawal;
