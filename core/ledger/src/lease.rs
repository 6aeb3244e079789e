//! Leases on the lanes of a chain, for ledgers shared by several instances.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fence, LedgerError};
use crate::request::LaneId;

/// A lease on a chain's lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The chain and the token.
    pub fence: Fence,
    /// Name of the owning instance.
    pub owner: String,
    /// Remaining time by the database's clock; zero if expired.
    pub remaining: Duration,
}

/// Self-reported status of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Name of the instance.
    pub instance: String,
    /// Its status text.
    pub text: String,
    /// Age of the status, by the database's clock.
    pub age: Duration,
}

/// Result of a lease request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Ours until the requested period after the moment of the *request*, with a token of its own.
    Taken(Fence),
    /// Held by another instance.
    Held(LeaseRecord),
}

/// Ownership of the lanes of a chain. All times are measured by the database's clock; holders measure the expiry by a
/// clock of their own, from before the request, and so never believe in a lease longer than the database does.
///
/// **A stale owner can't write:** [`super::Write::Fenced`] is checked in the applying transaction, against the row that
/// a change of owner must lock.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Acquires the lease on a chain's lanes if it is free, with a token above all earlier ones.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; it may have been acquired nevertheless, and then expires.
    async fn acquire(&self, chain_id: u64, owner: &str, period: Duration) -> Result<LeaseOutcome, LedgerError>;

    /// Extends a lease to `period` from now; `false` if another owner has acquired it since.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; it may have been renewed nevertheless.
    async fn renew(&self, fence: Fence, period: Duration) -> Result<bool, LedgerError>;

    /// Releases a lease, so that others need not wait for its expiry; without effect if another owner holds it.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; the lease then expires by itself.
    async fn release(&self, fence: Fence) -> Result<(), LedgerError>;

    /// All leases, by chain.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn leases(&self) -> Result<Vec<LeaseRecord>, LedgerError>;

    /// Number of requests by tenant that have not ended and are not in a block, as of the event with this number.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn open_by_tenant(&self) -> Result<(u64, Vec<(String, u64)>), LedgerError>;

    /// Lanes with batches that are not final, and the number of those batches.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn open_lanes(&self) -> Result<Vec<(LaneId, u64)>, LedgerError>;

    /// Self-reported statuses of the instances, by name, with their age by the database's clock.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn members(&self) -> Result<Vec<InstanceRecord>, LedgerError>;

    /// Publishes this instance's status to the others; an empty text deletes it.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn tell(&self, instance: &str, text: &str) -> Result<(), LedgerError>;
}
