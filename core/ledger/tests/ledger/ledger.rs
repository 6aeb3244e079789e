//! The ledger's conformance suite: requirements on every implementation of `Ledger`, run against SQLite and (feature
//! `postgres`) PostgreSQL; and tests specific to each, and to group commit.

mod conformance;
mod group;
#[cfg(feature = "postgres")]
mod postgres;
mod random;
mod sample;
#[cfg(feature = "postgres")]
#[path = "../../../../benches/src/postgres.rs"]
#[allow(unreachable_pub, dead_code, clippy::disallowed_methods, reason = "belongs to another crate")]
mod server;
mod sqlite;

use std::sync::Arc;

use slackwater_ledger::Ledger;

/// Storage that outlives the ledgers opened on it, one after the other.
trait Store {
    /// Opens a ledger on this storage.
    async fn open(&self) -> Arc<dyn Ledger>;
}

/// Storage in memory, as the simulator uses it.
#[cfg(feature = "simulation")]
struct MemoryKept(slackwater_ledger::MemoryStore);

#[cfg(feature = "simulation")]
impl MemoryKept {
    fn new() -> Self {
        Self(slackwater_ledger::MemoryStore::new())
    }
}

#[cfg(feature = "simulation")]
impl Store for MemoryKept {
    async fn open(&self) -> Arc<dyn Ledger> {
        Arc::new(slackwater_ledger::MemoryLedger::open(self.0.clone()))
    }
}
