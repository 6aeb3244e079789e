//! Outbox: requests that must be neither lost nor sent twice, through crashes, reloads and broken connections.
//!
//! | state | meaning | transitions |
//! |---|---|---|
//! | storing | its record is being written to storage; nothing was sent | `stored`; withdrawal |
//! | waiting | stored; to be sent, or looked up, later | a free call; its expiry |
//! | calling | part of a call without an answer yet | `answered` |
//! | ending | its outcome is being written to storage | `stored` |
//! | ended | the outcome is stored and reported | `acknowledge` |
//!
//! **Invariant:** no request is sent before its record is stored, and no outcome is reported before it is stored. So a
//! crash at any point leads back to *waiting* with the same key and the same bytes, or to the same outcome.
//!
//! **Invariant:** of one user's requests at one forwarder, a later nonce is sent in the same call as the earlier ones
//! and after them, or after the earlier ones have ended.
//!
//! **Invariant:** an entry is sent only to the relayer that it was enqueued for ([`Addressee`]).

mod index;
mod machine;
mod record;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Problem,
    http::HttpCall,
    retry::RetryPolicy,
    submit::{IdempotencyKey, MAX_SUBMIT_BYTES},
};
use crate::{request::RequestId, time::Timestamp, wire::Accepted};

pub use machine::Outbox;
pub use record::{Addressee, Place, User};

/// Limits and timing of an [`Outbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Back-off between attempts, and between retries of storage writes. `max_attempts` is ignored: an entry ends by an
    /// answer or its expiry. A longer `Retry-After` than `max_retry_after` is cut to it.
    pub retry: RetryPolicy,
    /// Limit on entries that are not acknowledged. Default 10 000.
    pub max_entries: usize,
    /// Limit on requests in one call; halved when the relayer finds a batch too large. Default 250, the relayer's limit
    /// is `server.max_batch_items`.
    pub max_batch_items: usize,
    /// Limit on bytes in one call with several requests. Default 1 MiB, the relayer's limit is
    /// `server.max_batch_body_bytes`.
    pub max_batch_bytes: usize,
    /// Limit on concurrent calls. Default 4.
    pub max_calls: usize,
    /// Time for which a request waits for others to share a call. Default 5 ms.
    pub linger: Duration,
    /// Lifetime of an entry without any other expiry. Default 1 h.
    pub default_expiry: Duration,
    /// Period after its expiry in which an entry's acceptance is still looked up. Default 10 min.
    pub lookup_grace: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            retry: RetryPolicy { cap: Duration::from_secs(10), ..RetryPolicy::default() },
            max_entries: 10_000,
            max_batch_items: 250,
            max_batch_bytes: MAX_SUBMIT_BYTES,
            max_calls: 4,
            linger: Duration::from_millis(5),
            default_expiry: Duration::from_secs(3_600),
            lookup_grace: Duration::from_secs(600),
        }
    }
}

/// Options of an entry, beyond its request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enqueue {
    /// Time from which it is not sent any more; `None` for no limit beyond the request's own deadline, which always
    /// counts.
    pub expires_at: Option<Timestamp>,
    /// Id of the request at the relayer ([`UnsignedForward::id`](super::UnsignedForward::id)); `None` if unknown. With
    /// it, a request with a lost answer can be looked up when it can't be sent again, and an acceptance of another
    /// request is not mistaken for its own.
    pub request_id: Option<RequestId>,
}

/// Reason why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Too many entries; acknowledge some, or raise [`OutboxConfig::max_entries`].
    #[error("the outbox holds {entries} entries, limit {limit}")]
    Full {
        /// Number of entries.
        entries: usize,
        /// Configured limit.
        limit: usize,
    },
    /// The key belongs to an entry with another body.
    #[error("idempotency key {0} belongs to another request")]
    KeyConflict(IdempotencyKey),
    /// The body exceeds a relayer's size limit.
    #[error("the request has {bytes} bytes, limit {limit}")]
    TooLarge {
        /// Size of the body, bytes.
        bytes: usize,
        /// Size limit, bytes.
        limit: usize,
    },
    /// The storage holds an entry with this key for another relayer.
    #[error("idempotency key {0} belongs to an entry for another relayer; give each relayer a storage of its own")]
    OtherRelayer(IdempotencyKey),
    /// The request has expired.
    #[error("the request expired at {expired_at}")]
    Expired {
        /// Time of expiry.
        expired_at: Timestamp,
    },
}

/// Outcome of an entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", try_from = "OutcomeJson")]
pub enum Outcome {
    /// The relayer has accepted and promised it. In an outbox with identities ([`Outbox::addressed_to`]) the promise is
    /// already checked; otherwise check it with [`verify_accepted`](super::verify::verify_accepted).
    Accepted {
        /// The relayer's answer, or the result of a look-up.
        accepted: Box<Accepted>,
    },
    /// The relayer refused it; or, with the code `bad_promise`, an identity that is not pinned promised it, and may
    /// execute it nevertheless.
    Refused {
        /// Stable code.
        code: String,
        /// The relayer's explanation, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Box<Problem>>,
        /// True if an attempt may have been accepted but could not be looked up, or another tenant's was accepted
        /// (`already_submitted`).
        may_be_accepted: bool,
    },
    /// It expired before it was accepted.
    Expired {
        /// True if an attempt may have been accepted but could not be looked up.
        may_be_accepted: bool,
    },
}

/// As it is read: an enumeration with a tag would keep it in memory in a form of its own first, which takes a tenth of a WASM module.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeJson {
    kind: String,
    accepted: Option<Box<Accepted>>,
    code: Option<String>,
    problem: Option<Box<Problem>>,
    may_be_accepted: Option<bool>,
}

impl TryFrom<OutcomeJson> for Outcome {
    type Error = &'static str;

    fn try_from(json: OutcomeJson) -> Result<Self, Self::Error> {
        match (json.kind.as_str(), json.accepted, json.code, json.may_be_accepted) {
            ("accepted", Some(accepted), _, _) => Ok(Self::Accepted { accepted }),
            ("refused", _, Some(code), Some(may_be_accepted)) => {
                Ok(Self::Refused { code, problem: json.problem, may_be_accepted })
            }
            ("expired", _, _, Some(may_be_accepted)) => Ok(Self::Expired { may_be_accepted }),
            _ => Err("no outcome of a submission"),
        }
    }
}

/// What the outbox wants done. Every command is safe to repeat.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Store `record` under `key`, replacing any earlier one; durable before [`Outbox::stored`] is called. Commands of
    /// one key must reach storage in order.
    Store {
        /// Storage key.
        key: IdempotencyKey,
        /// Revision, for the report.
        revision: u64,
        /// Record to store: JSON, without credentials.
        record: String,
    },
    /// Remove the record. If that fails, the outcome is reported once more after a reload.
    Remove {
        /// Storage key.
        key: IdempotencyKey,
    },
    /// Send `http` once, with a time limit, and call [`Outbox::answered`] in any case.
    Send {
        /// Number of the call, for the report.
        send: u64,
        /// The HTTP request.
        http: HttpCall,
    },
    /// An entry has ended. Reported again after every load until [`Outbox::acknowledge`].
    Report {
        /// Key of the entry.
        key: IdempotencyKey,
        /// Its outcome.
        outcome: Outcome,
    },
}

/// State of an entry; see the table in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EntryState {
    /// Its record is being written to storage.
    Storing,
    /// To be sent, or looked up.
    Waiting,
    /// Part of a call in progress.
    Calling,
    /// Its outcome is being written to storage.
    Ending,
    /// Its outcome is reported, but not acknowledged.
    Ended,
}

/// An entry, for display.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView {
    /// Idempotency key.
    pub key: IdempotencyKey,
    /// Current state.
    pub state: EntryState,
    /// Attempts since the outbox was created or loaded.
    pub attempts: u32,
    /// Code of the last attempt's error; `None` without one.
    pub last_error_code: Option<String>,
    /// Time of expiry, Unix ms.
    pub expires_at: Timestamp,
    /// True if an attempt has, or may have, reached the relayer.
    pub may_be_accepted: bool,
    /// User and nonce of a forward request; `None` for other kinds. Another request must not use that nonce while this
    /// entry lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// Result of loading from storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of entries that were resumed, or are reported again.
    pub loaded: usize,
    /// Keys of unreadable records. They are left untouched, for inspection.
    pub damaged: Vec<String>,
    /// Addresses of other relayers, one for each entry addressed to one. The entries are left untouched, and resume
    /// when the storage is opened for that relayer.
    pub foreign: Vec<String>,
}
