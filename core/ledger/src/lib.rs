//! Durable state: the [`Ledger`] trait, its records, and its implementations: SQLite in one file, owned by one process,
//! and (feature `postgres`) PostgreSQL, shared by several.
//!
//! The trait is *not* open to other implementations: whether a request runs once depends on details that a trait can't
//! state. It may change in any version; a relay of the crate `slackwater` takes none but these two.
//!
//! **Invariant I2 (durable first):** an answer to a caller and a broadcast to a node both need a [`Durable`] value, and
//! only ledgers make one, after a commit with an fsync (or when reading back committed data).
//!
//! Writes are group-committed: one task owns the writing connection, drains its queue, applies everything in one
//! transaction and commits once; many acceptances share that fsync.

// Modules of the decisions, under the same paths as there.
use slackwater_core::{chain, private, protection, provenance, record, request, time, tuning};

mod apply;
mod backup;
mod bind;
mod changes;
mod group;
mod health;
mod lease;
mod load;
#[cfg(feature = "simulation")]
mod memory;
mod migrations;
mod needs;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
mod sql;
mod sqlite;

use std::{collections::BTreeSet, sync::Arc};

use alloy_primitives::Address;
use async_trait::async_trait;

pub use crate::record::{
    AcceptOutcome, AccountEntry, AccountRow, AttemptKind, AttemptRecord, BatchMember, BatchRecord, BatchState, Bill,
    BudgetLimit, CostRow, DecisionRow, Durable, EndedByKey, EventFilter, EventRecord, Fence, Idempotency, KeyUse,
    MarginRow, NewRequest, OpenByKey, PlannedBatch, Reach, RequestChange, RequestFilter, RequestRecord, SpentRow,
    Tracked, Write, WriteOutcome,
};
pub use backup::{FileLock, MARK_KEY, UNCERTAIN_KEY};
pub use group::{GroupCommit, GroupCommitConfig};
pub use health::{FaultKind, Health, StorageFault};
pub use lease::{InstanceRecord, LeaseOutcome, LeaseRecord, Leases};
#[cfg(feature = "simulation")]
pub use memory::{MemoryLedger, MemoryStore};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresConfig, PostgresLedger};
pub use sqlite::{SqliteConfig, SqliteLedger};

use crate::{
    request::{BatchId, LaneId, RequestId, TargetRecord},
    time::Timestamp,
};

/// Failure of a ledger operation.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The storage failed; the transaction was rolled back and nothing of it is durable. Cause: storage.
    #[error("storage failed, nothing was committed: {0}")]
    Storage(StorageFault),
    /// The commit itself failed or was interrupted: it may or may not be durable. Restart and reconcile.
    #[error("commit is in doubt: {0}")]
    InDoubt(String),
    /// A row could not be read back. Cause: storage, or a newer version wrote it.
    #[error("stored {what} is damaged: {detail}")]
    Damaged {
        /// Kind of the damaged record.
        what: &'static str,
        /// Description of the damage.
        detail: String,
    },
    /// The write queue is full (`ledger.queue_len`); retry after a moment.
    #[error("ledger queue holds {len} writes, limit {limit} (`ledger.queue_len`)")]
    Full {
        /// Queued writes.
        len: usize,
        /// Configured limit.
        limit: usize,
    },
    /// The ledger was closed.
    #[error("ledger is closed")]
    Closed,
    /// Another process holds the ledger; two relayers on one ledger would sign the same nonces. Cause: operator.
    #[error("ledger {path} is in use by another process")]
    InUse {
        /// Path of the ledger.
        path: String,
    },
    /// This process itself still holds the ledger: a relay that is running or shutting down. Cause: caller.
    #[error("ledger {path} is still open in this process; wait for `shutdown()` of the relay that has it")]
    InUseHere {
        /// Path of the ledger.
        path: String,
    },
    /// The file is a database of another application. Cause: configuration (`ledger.path`).
    #[error("{path} is not a ledger: application id {found:#010x}, expected {expected:#010x}")]
    Foreign {
        /// Path of the file.
        path: String,
        /// Its `application_id`.
        found: u32,
        /// Our `application_id`.
        expected: u32,
    },
    /// The file is no longer consistent: the device, or another program, changed it. We changed nothing.
    #[error(
        "ledger {path} is corrupt: {detail}. Keep the file; put a backup in its place (`slackwater restore BACKUP`), or \
         save what can be read with `sqlite3 {path} .recover`. The relayer reconciles with the chain at the next start"
    )]
    Corrupt {
        /// Path of the ledger.
        path: String,
        /// First inconsistency found.
        detail: String,
    },
    /// A newer version of this program wrote the ledger; it can't be downgraded. Cause: operator.
    #[error("ledger {path} has schema version {found}, this program knows up to {supported}")]
    Newer {
        /// Path of the ledger.
        path: String,
        /// Its schema version.
        found: i64,
        /// Newest supported schema version.
        supported: i64,
    },
}

impl LedgerError {
    /// True if the same write may be retried.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Full { .. })
    }

    /// True if the write may be durable nevertheless.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::InDoubt(_))
    }
}

/// Storage of all state that must survive a crash. One conformance suite runs against every implementation.
#[async_trait]
pub trait Ledger: Send + Sync + std::fmt::Debug + 'static {
    /// Applies `writes` in order in **one** transaction and commits it with an fsync.
    ///
    /// Each write has its own outcome (a duplicate is an outcome, not an error) together with the events it produced,
    /// already numbered.
    ///
    /// # Errors
    /// [`LedgerError::Storage`] if nothing was committed, [`LedgerError::InDoubt`] if that is unknown.
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError>;

    /// One request, by id.
    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError>;

    /// These requests, in any order; those that it does not know are left out.
    async fn requests_by_id(&self, ids: &[RequestId]) -> Result<Vec<RequestRecord>, LedgerError>;

    /// Matching requests, newest first, at most `filter.limit`.
    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError>;

    /// Non-terminal requests of a chain in order of acceptance, with their payloads, for a restart. Starts after
    /// `after` (a request's `seq`), at most `limit`.
    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError>;

    /// One batch with its attempts (without a durability proof) and members.
    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError>;

    /// Batches of a lane that are not final, from nonce `from` on, at most `limit`, with all their attempts and
    /// members, for a restart.
    async fn open_batches(
        &self,
        lane: LaneId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>)>, LedgerError>;

    /// Earlier contents of a batch, which every node refused, oldest first: index of the first attempt with other
    /// content, and the members.
    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError>;

    /// One above the highest nonce that a batch of this lane was ever bound to; `None` for a lane without batches.
    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError>;

    /// Events after `filter.after`, in order, at most `filter.limit`.
    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError>;

    /// Highest event sequence number that is committed; 0 if none.
    async fn last_event_seq(&self) -> Result<u64, LedgerError>;

    /// Wei reserved and spent per tenant and chain since `since_ms` (acceptance time): the initial state of the
    /// budgets.
    ///
    /// Counted in whole hours: `since_ms` is rounded down to the hour, so the sums may hold up to an hour more, never
    /// less (invariant I8). Read from running sums, not from the requests. Without zeros.
    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError>;

    /// Shares of final transactions borne by accounts, by chain, account and tenant: with the costs of the requests
    /// they add up to the wei that left the lanes (invariant I12).
    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError>;

    /// Differences between prices and costs, of those requests that have one, by tenant and chain, in that order:
    /// accounts `margin` and `rebate`. Not part of the sums of [`Self::accounts`]. Reads every request: not for each
    /// call.
    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError>;

    /// Amounts counted by budgets for a tenant's ended requests that were accepted since `since`, after number `after`,
    /// in order, at most `limit`.
    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError>;

    /// Use of a tenant's budgets by requests submitted with `keys`, as of one moment: the open ones, by chain and
    /// number, and sums of the ended ones accepted since each of two instants, by key and chain.
    ///
    /// Counted in the database, which reads only requests accepted since the earlier instant. For that, times of
    /// acceptance are assumed to follow the numbers to within an hour.
    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError>;

    /// Nonces of a signer at a forwarder held by open requests, ascending.
    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError>;

    /// Decision-log entries after `after`, in order, at most `limit`.
    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError>;

    /// The newest decision-log entry; `None` if the log is empty.
    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError>;

    /// Number of requests by (chain, status), without zeros. From running counters: cheap enough to poll.
    async fn counts(&self) -> Result<Vec<(u64, crate::request::Status, u64)>, LedgerError>;

    /// Records of a chain's targets, from [`Write::Targets`]; the oldest first.
    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError>;

    /// A small value stored with the ledger, such as the identity's address.
    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError>;

    /// Flushes and closes; later calls fail with [`LedgerError::Closed`].
    async fn close(&self);

    /// Health of the storage, if the ledger itself tracks it; `None` if only [`GroupCommit`] does.
    fn health(&self) -> Option<Arc<Health>> {
        None
    }

    /// Leases on lanes, if several instances share this ledger; `None` if one process owns it.
    fn leases(&self) -> Option<&dyn Leases> {
        None
    }
}

impl GroupCommit {
    /// [`Self::submit_all`], returning each write's attempt as [`Durable`], as required for a broadcast (invariant I2).
    ///
    /// # Errors
    /// As [`Self::submit_all`].
    pub async fn submit_tracked(&self, writes: Vec<Write>) -> Result<Vec<Tracked>, LedgerError> {
        let attempts: Vec<Option<AttemptRecord>> = writes.iter().map(Write::attempt).collect();
        let outcomes = self.submit_all(writes).await?;
        let track = |(outcome, attempt): (Durable<WriteOutcome>, Option<AttemptRecord>)| {
            let is_applied = matches!(outcome.get(), WriteOutcome::Applied(_));
            (outcome, attempt.filter(|_| is_applied).map(Durable::committed))
        };
        Ok(outcomes.into_iter().zip(attempts).map(track).collect())
    }
}
