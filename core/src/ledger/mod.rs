//! What survives a crash? The [`Ledger`] trait, its records, and its implementations: SQLite in one file, owned by one
//! process, and (feature `postgres`) PostgreSQL, shared by several.
//!
//! **Invariant I2 (durable first):** an answer to a caller and a broadcast to a node both need a [`Durable`] value, and
//! only this room makes one, after a commit with an fsync (or when reading back what was committed before).
//!
//! Writes are group-committed: one task owns the writing connection, drains its queue, applies everything in one
//! transaction and commits once; many acceptances share that fsync.

mod apply;
mod backup;
mod group;
mod health;
mod lease;
#[cfg(feature = "simulation")]
mod memory;
mod migrations;
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
pub use lease::{LeaseOutcome, LeaseRecord, Leases, MemberRecord};
#[cfg(feature = "simulation")]
pub use memory::{MemoryLedger, MemoryStore};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresConfig, PostgresLedger};
pub use sqlite::{SqliteConfig, SqliteLedger};

use crate::{
    request::{BatchId, LaneId, RequestId, TargetRecord},
    time::Timestamp,
};

/// Why the ledger could not do something.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The storage failed; the transaction was rolled back and nothing of it is durable. Storage's fault.
    #[error("storage failed, nothing was committed: {0}")]
    Storage(StorageFault),
    /// The commit itself failed or was cut off: it may or may not be durable. Restart and reconcile.
    #[error("commit is in doubt: {0}")]
    InDoubt(String),
    /// A row could not be read back. Storage's fault, or a newer version wrote it.
    #[error("stored {what} is damaged: {detail}")]
    Damaged {
        /// Which record.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The write queue is full (`ledger.queue_len`); retry after a moment.
    #[error("ledger queue holds {len} writes, limit {limit} (`ledger.queue_len`)")]
    Full {
        /// Waiting writes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The ledger was closed.
    #[error("ledger is closed")]
    Closed,
    /// Another process holds the ledger; two relayers on one ledger would sign the same nonces. Operator's fault.
    #[error("ledger {path} is in use by another process")]
    InUse {
        /// Its file.
        path: String,
    },
    /// This process itself still holds the ledger: a relay that is being stopped, or one that runs. Caller's fault.
    #[error("ledger {path} is still open in this process; wait for `shutdown()` of the relay that has it")]
    InUseHere {
        /// Its file.
        path: String,
    },
    /// The file is a database of another application. Configuration's fault (`ledger.path`).
    #[error("{path} is not a ledger: application id {found:#010x}, expected {expected:#010x}")]
    Foreign {
        /// The file.
        path: String,
        /// Its `application_id`.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The file does not hold together any more: the device, or somebody else, changed it. Nothing was changed by us.
    #[error(
        "ledger {path} is corrupt: {detail}. Keep the file; put a backup in its place (`slackwater restore BACKUP`), or \
         save what can be read with `sqlite3 {path} .recover`. The relayer reconciles with the chain at the next start"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What was found first.
        detail: String,
    },
    /// A newer version of this program wrote the ledger; it cannot be taken back. Operator's fault.
    #[error("ledger {path} has schema version {found}, this program knows up to {supported}")]
    Newer {
        /// The file.
        path: String,
        /// Its schema version.
        found: i64,
        /// The newest that we know.
        supported: i64,
    },
}

impl LedgerError {
    /// Whether the same write may be tried again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Full { .. })
    }

    /// Whether the write may have become durable after all.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::InDoubt(_))
    }
}

/// Storage of everything that must survive a crash. One conformance suite runs against every implementation.
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

    /// Requests that match, newest first, at most `filter.limit`.
    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError>;

    /// Non-terminal requests of a chain in order of acceptance, with their payloads: what a restart loads. Starts after
    /// `after` (a request's `seq`), at most `limit`.
    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError>;

    /// One batch with its attempts (without raw bytes' proof) and members.
    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError>;

    /// Batches of a lane that are not final, from nonce `from` on, at most `limit`, with all their attempts and members: what a
    /// restart must watch.
    async fn open_batches(
        &self,
        lane: LaneId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>)>, LedgerError>;

    /// What a batch carried before every node refused it, oldest first: index of the first attempt with other content, and its
    /// members.
    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError>;

    /// One above the highest nonce that a batch of this lane was ever bound to; `None` for a lane without batches.
    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError>;

    /// Events after `filter.after`, in order, at most `filter.limit`.
    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError>;

    /// Highest event sequence number that is committed; 0 if none.
    async fn last_event_seq(&self) -> Result<u64, LedgerError>;

    /// Wei reserved and spent per tenant and chain since `since_ms` (acceptance time): what the budgets start from.
    ///
    /// Counted in whole hours: `since_ms` is rounded down to the hour, so the sums may hold up to an hour more, never
    /// less (invariant I8). They come from running sums, not from the requests. Without zeros.
    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError>;

    /// What accounts have borne of final transactions, by chain, account and tenant: with the costs of the requests it adds
    /// up to what left the lanes (invariant I12).
    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError>;

    /// By how much prices differ from costs, of those requests where they do, by tenant and chain, in that order: accounts
    /// `margin` and `rebate`. They are no part of what [`Self::accounts`] adds up to. Reads every request: not for each call.
    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError>;

    /// What budgets count of a tenant's ended requests that were accepted since `since`, after number `after`, in order, at most
    /// `limit`.
    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError>;

    /// What requests of `tenant` come to that were submitted with `keys`, as of one moment: the open ones, by chain and number, and
    /// the ended ones accepted since each of two instants, by key and chain.
    ///
    /// Counted in the database, which reads what was accepted since the earlier instant and no more. For that, times of acceptance
    /// are taken to follow the numbers to within an hour.
    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError>;

    /// Nonces of a signer at a forwarder that open requests have, ascending.
    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError>;

    /// Decision-log entries after `after`, in order, at most `limit`.
    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError>;

    /// The newest decision-log entry.
    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError>;

    /// Number of requests by (chain, status), without zeros. From running numbers: cheap enough to poll.
    async fn counts(&self) -> Result<Vec<(u64, crate::request::Status, u64)>, LedgerError>;

    /// What targets of a chain have shown, by [`Write::Targets`]; the oldest first.
    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError>;

    /// A small value kept with the ledger, such as the identity's address.
    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError>;

    /// Flushes and closes; later calls fail with [`LedgerError::Closed`].
    async fn close(&self);

    /// Where the ledger itself tells that its storage is away; else only [`GroupCommit`] knows.
    fn health(&self) -> Option<Arc<Health>> {
        None
    }

    /// Who drives which lanes, where several instances share this ledger; `None` where one process owns it.
    fn leases(&self) -> Option<&dyn Leases> {
        None
    }
}

impl GroupCommit {
    /// [`Self::submit_all`], handing back each write's attempt as [`Durable`]: what a broadcast needs (invariant I2).
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
