//! Requests that must neither be lost nor sent twice, through crashes, reloads and broken connections.
//!
//! | state | what holds | leaves it by |
//! |---|---|---|
//! | storing | its record is on its way to storage; nothing was sent | `stored`; withdrawal |
//! | waiting | stored; to be sent, or looked up, at some time | a free call; its expiry |
//! | calling | part of a call without an answer yet | `answered` |
//! | ending | its outcome is on its way to storage | `stored` |
//! | ended | the outcome is stored and reported | `acknowledge` |
//!
//! **Invariant:** nothing is sent whose record is not stored, and nothing is reported whose outcome is not stored. So a
//! crash at any point leads back to *waiting* with the same key and the same bytes, or to the same outcome.
//!
//! **Invariant:** of one user's requests at one forwarder, a later nonce is sent in the same call as the earlier ones and
//! behind them, or after the earlier ones have ended.
//!
//! **Invariant:** an entry is sent to the relayer that it was enqueued for ([`Addressee`]), and to no other.

mod index;
mod machine;
mod record;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    answer::Accepted,
    error::Problem,
    http::HttpCall,
    retry::RetryPolicy,
    submit::{IdempotencyKey, MAX_SUBMIT_BYTES},
};
use crate::{request::RequestId, time::Timestamp};

pub use machine::Outbox;
pub use record::{Addressee, Place, User};

/// Limits and rhythm of an [`Outbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Back-off between attempts, and of repeated writes to storage. `max_attempts` does not count: an entry ends by an
    /// answer or its expiry. A longer `Retry-After` than `max_retry_after` is cut to it.
    pub retry: RetryPolicy,
    /// Most entries that have not been acknowledged. Default 10 000.
    pub max_entries: usize,
    /// Most requests in one call; halved when the relayer finds a batch too large. Default 250, its limit is
    /// `server.max_batch_items`.
    pub max_batch_items: usize,
    /// Most bytes in one call with several requests. Default 1 MiB, its limit is `server.max_batch_body_bytes`.
    pub max_batch_bytes: usize,
    /// Calls without an answer at a time. Default 4.
    pub max_calls: usize,
    /// How long a request waits for others to share a call. Default 5 ms.
    pub linger: Duration,
    /// Life of an entry for which nothing else sets an end. Default 1 h.
    pub default_expiry: Duration,
    /// How long after its expiry it is looked up whether an entry was accepted after all. Default 10 min.
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

/// What an entry may say beyond its request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enqueue {
    /// Don't send it at or after this. The request's own deadline counts as well.
    pub expires_at: Option<Timestamp>,
    /// The id that the relayer will know it by ([`UnsignedForward::id`](super::UnsignedForward::id)). With it, a request
    /// whose answer was lost can be looked up where it can't be sent again, and an acceptance of another request is not
    /// taken for this one's.
    pub request_id: Option<RequestId>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Too many entries; acknowledge some, or raise [`OutboxConfig::max_entries`].
    #[error("the outbox holds {entries} entries, limit {limit}")]
    Full {
        /// Entries.
        entries: usize,
        /// The limit.
        limit: usize,
    },
    /// The key belongs to an entry with another body.
    #[error("idempotency key {0} belongs to another request")]
    KeyConflict(IdempotencyKey),
    /// The body is larger than what a relayer takes.
    #[error("the request has {bytes} bytes, limit {limit}")]
    TooLarge {
        /// Bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The storage holds an entry with this key for another relayer.
    #[error("idempotency key {0} belongs to an entry for another relayer; give each relayer a storage of its own")]
    OtherRelayer(IdempotencyKey),
    /// Its time is over.
    #[error("the request expired at {expired_at}")]
    Expired {
        /// When.
        expired_at: Timestamp,
    },
}

/// How an entry ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", try_from = "super::flat::OutcomeJson")]
pub enum Outcome {
    /// The relayer has it, and has promised. Of an outbox with identities ([`Outbox::addressed_to`]) the promise is checked;
    /// otherwise check it with [`verify_accepted`](super::verify::verify_accepted).
    Accepted {
        /// Its answer, or what a look-up found.
        accepted: Box<Accepted>,
    },
    /// The relayer does not want it; or, with the code `bad_promise`, whoever took it has promised in a name that is not
    /// pinned, and may execute it all the same.
    Refused {
        /// Stable code.
        code: String,
        /// Its explanation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Box<Problem>>,
        /// An attempt may have been accepted, and it could not be looked up; or another tenant's was (`already_submitted`).
        may_be_accepted: bool,
    },
    /// Its time was over before it was accepted.
    Expired {
        /// An attempt may have been accepted, and it could not be looked up.
        may_be_accepted: bool,
    },
}

/// What the outbox wants done. Every command is safe to repeat.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Put `record` under `key`, in place of what is there; durable before [`Outbox::stored`] is called. Commands of one
    /// key must reach storage in order.
    Store {
        /// Where.
        key: IdempotencyKey,
        /// To be given back.
        revision: u64,
        /// What: JSON, without credentials.
        record: String,
    },
    /// Remove the record. If that fails, the outcome is reported once more after a reload.
    Remove {
        /// Which.
        key: IdempotencyKey,
    },
    /// Send `http` once, within some time limit, and call [`Outbox::answered`] whatever happens.
    Send {
        /// To be given back.
        send: u64,
        /// What.
        http: HttpCall,
    },
    /// An entry has ended. Reported again after every load until [`Outbox::acknowledge`].
    Report {
        /// Which.
        key: IdempotencyKey,
        /// How.
        outcome: Outcome,
    },
}

/// Where an entry is; see the table in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EntryState {
    /// Its record is on its way to storage.
    Storing,
    /// To be sent, or looked up.
    Waiting,
    /// Part of a call.
    Calling,
    /// Its outcome is on its way to storage.
    Ending,
    /// Its outcome is reported, and not acknowledged.
    Ended,
}

/// An entry, for showing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryView {
    /// Its key.
    pub key: IdempotencyKey,
    /// Where it is.
    pub state: EntryState,
    /// Attempts since the outbox was made or loaded.
    pub attempts: u32,
    /// Code of the last attempt's error.
    pub last_error_code: Option<String>,
    /// When it is given up, Unix ms.
    pub expires_at: Timestamp,
    /// An attempt has, or may have, reached the relayer.
    pub may_be_accepted: bool,
    /// Of a forward request: whose, and its nonce. Another request must not take that nonce while this entry lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

/// What was found in storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Entries that go on, or are reported again.
    pub loaded: usize,
    /// Keys of records that can't be read. They stay where they are: somebody should look.
    pub damaged: Vec<String>,
    /// Addresses of other relayers, one for each entry that is for one. The entries stay where they are, and go on when the
    /// storage is opened for that relayer.
    pub foreign: Vec<String>,
}
