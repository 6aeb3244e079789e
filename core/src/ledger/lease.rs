//! Leases on the lanes of a chain, for ledgers that several instances share.

use std::time::Duration;

use async_trait::async_trait;

use super::{Fence, LedgerError};
use crate::request::LaneId;

/// Somebody drives a chain's lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The chain and the token.
    pub fence: Fence,
    /// Which instance.
    pub owner: String,
    /// How long it lasts by the database's clock; zero if it has run out.
    pub remaining: Duration,
}

/// What an instance told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its name.
    pub instance: String,
    /// What it told.
    pub text: String,
    /// How long ago, by the database's clock.
    pub age: Duration,
}

/// What became of a wish for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Ours until the wished-for time after the moment at which it was *asked for*, with a token of its own.
    Taken(Fence),
    /// Another's.
    Held(LeaseRecord),
}

/// Who drives the lanes of a chain. All times are measured by the database's clock; holders measure the end of what they
/// hold by a clock of their own, from before they asked, and so never believe in it longer than the database does.
///
/// **A stale owner can't write:** [`super::Write::Fenced`] is checked in the transaction that would apply it, against the
/// row that a change of owner must lock.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease on a chain's lanes if nobody holds it, with a token above all before.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; it may be taken all the same, and runs out then.
    async fn acquire(&self, chain_id: u64, owner: &str, period: Duration) -> Result<LeaseOutcome, LedgerError>;

    /// Makes a lease last for `period` from now; `false` if another owner has taken it since.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; it may be renewed all the same.
    async fn renew(&self, fence: Fence, period: Duration) -> Result<bool, LedgerError>;

    /// Ends a lease now, so that others need not wait; without effect if it is another's.
    ///
    /// # Errors
    /// [`LedgerError::Storage`]; it runs out by itself then.
    async fn release(&self, fence: Fence) -> Result<(), LedgerError>;

    /// All leases, by chain.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn leases(&self) -> Result<Vec<LeaseRecord>, LedgerError>;

    /// Number of requests by tenant that are not in a block and have not ended, as of the event with this number.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn open_by_tenant(&self) -> Result<(u64, Vec<(String, u64)>), LedgerError>;

    /// Lanes with batches that are not final, and how many each has.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn open_lanes(&self) -> Result<Vec<(LaneId, u64)>, LedgerError>;

    /// What the instances told about themselves, by name, with the time since then by the database's clock.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn members(&self) -> Result<Vec<MemberRecord>, LedgerError>;

    /// Tells something about this instance to the others; an empty text makes it forgotten.
    ///
    /// # Errors
    /// [`LedgerError::Storage`].
    async fn tell(&self, instance: &str, text: &str) -> Result<(), LedgerError>;
}
