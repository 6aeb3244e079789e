//! Tests specific to the SQLite ledger: its file, its lock, and its state after a crash.

use std::{path::Path, sync::Arc};

use futures_util::FutureExt;
use slackwater_ledger::{Ledger, LedgerError, SqliteConfig, SqliteLedger};
use sqlx::{Connection, Executor, SqliteConnection};
use tempfile::TempDir;

use crate::ledger::{Store, conformance::snapshot, sample::*};

/// A database in a directory that is deleted with it.
#[derive(Debug)]
pub(crate) struct TempStore(TempDir);

impl TempStore {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.0.path().join("ledger.db"))
    }

    async fn raw(&self) -> SqliteConnection {
        SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", self.config().path.display())).await.unwrap()
    }
}

impl Store for TempStore {
    async fn open(&self) -> Arc<dyn Ledger> {
        Arc::new(SqliteLedger::open(self.config()).await.expect("opens"))
    }
}

#[tokio::test]
async fn two_owners_are_refused() {
    let store = TempStore::new();
    let first = store.open().await;
    let second = SqliteLedger::open(store.config()).await;
    assert!(matches!(second, Err(LedgerError::InUseHere { path }) if path.ends_with("ledger.db")));
    first.close().await;
    store.open().await;
}

#[tokio::test]
async fn foreign_database_is_left_alone() {
    for mark in ["PRAGMA application_id = 7", "CREATE TABLE theirs (x)"] {
        let store = TempStore::new();
        let mut theirs = store.raw().await;
        theirs.execute(sqlx::raw_sql(mark)).await.unwrap();
        theirs.execute("CREATE TABLE more (x)").await.unwrap();
        theirs.close().await.unwrap();
        let before = std::fs::read(store.config().path).unwrap();
        assert!(matches!(SqliteLedger::open(store.config()).await, Err(LedgerError::Foreign { .. })), "{mark}");
        assert_eq!(std::fs::read(store.config().path).unwrap(), before, "{mark}");
    }
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let store = TempStore::new();
    store.open().await.close().await;
    let mut raw = store.raw().await;
    raw.execute(
        "UPDATE _sqlx_migrations SET version = 999 WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .await
    .unwrap();
    raw.close().await.unwrap();
    match SqliteLedger::open(store.config()).await {
        Err(LedgerError::Newer { found: 999, supported, .. }) => assert!(supported < 999),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unusable_path_is_an_error() {
    let store = TempStore::new();
    let nowhere = SqliteConfig::new(store.0.path().join("missing/ledger.db"));
    assert!(matches!(SqliteLedger::open(nowhere).await, Err(LedgerError::Storage(_))));
    std::fs::write(store.config().path, b"this is not a database, however long one looks at it").unwrap();
    assert!(matches!(SqliteLedger::open(store.config()).await, Err(LedgerError::Corrupt { .. })));
}

#[tokio::test]
async fn empty_file_becomes_a_ledger() {
    let store = TempStore::new();
    std::fs::write(store.config().path, b"").unwrap();
    accept_all(&*store.open().await, 1..=1).await;
}

#[tokio::test]
async fn damaged_rows_are_named() {
    let store = TempStore::new();
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=6).await;
    one(&*ledger, plan(0, &[6])).await;
    let mut raw = store.raw().await;
    for damage in [
        "UPDATE requests SET status = 77, open = 0, holds_nonce = 0 WHERE seq = 1",
        "UPDATE requests SET reason = 'bad_hair_day' WHERE seq = 2",
        "UPDATE requests SET reserved_wei = '-1' WHERE seq = 3",
        "UPDATE requests SET target = x'00' WHERE seq = 4",
        "UPDATE batches SET state = 9",
        "UPDATE attempts SET kind = 2",
    ] {
        raw.execute(damage).await.unwrap();
    }
    for n in 1..=4 {
        let read = ledger.request(id(n)).await;
        assert!(matches!(read, Err(LedgerError::Damaged { what: "request", .. })), "{n}: {read:?}");
        let commit = ledger.commit(vec![accept(new(n))]).await;
        assert!(matches!(commit, Err(LedgerError::Damaged { what: "request", .. })), "{n}: {commit:?}");
    }
    assert!(matches!(ledger.batch(batch_id(0)).await, Err(LedgerError::Damaged { what: "batch", .. })));
    raw.execute("UPDATE batches SET state = 0").await.unwrap();
    assert!(matches!(ledger.batch(batch_id(0)).await, Err(LedgerError::Damaged { what: "attempt", .. })));
    // The failed commits left nothing behind, and the ledger works on.
    assert_eq!(accepted(&one(&*ledger, accept(new(7))).await).seq, 8);
}

/// Copies the database with its log, as a crash at this moment would leave them.
fn crash(from: &TempStore) -> TempStore {
    let into = TempStore::new();
    let copy = |suffix: &str| {
        let name = format!("ledger.db{suffix}");
        std::fs::copy(from.0.path().join(&name), into.0.path().join(&name)).expect("copies");
    };
    copy("");
    copy("-wal");
    into
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("exists").len()
}

#[tokio::test]
async fn committed_survives_a_crash() {
    let store = TempStore::new();
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=5).await;
    one(&*ledger, plan(0, &[1, 2])).await;
    let crashed = crash(&store);
    let reopened = crashed.open().await;
    assert_eq!(snapshot(&*reopened).await, snapshot(&*ledger).await);
}

#[tokio::test]
async fn uncommitted_is_absent_after_a_crash() {
    let store = TempStore::new();
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=5).await;
    let wal = store.0.path().join("ledger.db-wal");
    let before = size(&wal);
    // A transaction too large for the cache writes to the log before it commits.
    let mut raw = store.raw().await;
    for statement in [
        "PRAGMA cache_size = 2",
        "BEGIN IMMEDIATE",
        "DELETE FROM events",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO meta SELECT printf('%09d', i), hex(randomblob(200)) FROM n",
    ] {
        raw.execute(statement).await.unwrap();
    }
    assert!(size(&wal) > before, "nothing of the transaction is in the log yet");
    let crashed = crash(&store);
    raw.execute("ROLLBACK").await.unwrap();
    let reopened = crashed.open().await;
    assert_eq!(snapshot(&*reopened).await, snapshot(&*ledger).await);
    assert_eq!(reopened.meta("000000001").await.unwrap(), None);
}

#[tokio::test]
async fn abandoned_commit_is_all_or_nothing() {
    let store = TempStore::new();
    let ledger = store.open().await;
    accept_all(&*ledger, 0..1).await;
    let mut seen = 1;
    for round in 1..=20 {
        // Polled a few times, then dropped, at an arbitrary point.
        let writes = (0..10).map(|n| accept(new(round * 100 + n))).collect();
        let mut commit = ledger.commit(writes);
        for _ in 0..round {
            if (&mut commit).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(commit);
        accepted(&one(&*ledger, accept(new(round * 100 + 50))).await);
        let last = ledger.last_event_seq().await.unwrap();
        assert!(last == seen + 1 || last == seen + 11, "{last} events after {seen}");
        seen = last;
    }
    let events = ledger.events(&slackwater_ledger::EventFilter { limit: 1_000, ..Default::default() }).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=seen));
}
