//! The ledger's conformance suite: what every implementation of `Ledger` must do, run against SQLite here, and what is
//! peculiar to SQLite and to group commit.
#![cfg(feature = "relay")]

#[path = "ledger/conformance.rs"]
mod conformance;
#[path = "ledger/group.rs"]
mod group;
#[path = "ledger/random.rs"]
mod random;
#[path = "ledger/sample.rs"]
mod sample;
#[path = "ledger/sqlite.rs"]
mod sqlite;

use std::sync::Arc;

use slackwater::ledger::Ledger;

/// Storage that outlives the ledgers opened on it, one after the other.
trait Store {
    /// Opens what is stored.
    async fn open(&self) -> Arc<dyn Ledger>;
}
