//! The embedded ledger: SQLite in WAL mode with `synchronous=FULL`, one writing connection, several reading ones.

pub(super) mod file;
mod sql;
mod store;

use std::{sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection, Executor, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{SqliteArguments, SqliteRow},
};
use tokio_util::sync::CancellationToken;

use super::{
    Durable, FaultKind, Health, LedgerError, StorageFault, Write, WriteOutcome,
    apply::Cursor,
    migrations,
    needs::Needs,
    rows::storage_error,
    sql::{Query, SqlStore, impl_sql},
};
pub use file::SqliteConfig;
use file::{HeldLock, check_origin, exists, keep_private, wait_for_lock};
use store::SpentCache;

/// Pauses between checks of a commit in doubt.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOK_PAUSE_MOST: Duration = Duration::from_secs(1);

/// [`Ledger`](super::Ledger) in one SQLite file, owned by one process.
///
/// **Invariant I2:** a [`Durable`] value leaves [`Ledger::commit`](super::Ledger::commit) only after `COMMIT` returned,
/// and with `synchronous=FULL` that means after the write-ahead log was synced.
#[derive(Debug)]
pub struct SqliteLedger {
    config: SqliteConfig,
    /// `None` after a failed or abandoned commit: the next one reconnects and reads the committed state.
    writer: tokio::sync::Mutex<Option<Writer>>,
    readers: SqlitePool,
    closed: CancellationToken,
    health: Arc<Health>,
    /// True for read-only use: no lock is held, and nothing is written.
    is_read_only: bool,
    /// Kept open for its lock; released at close.
    lock: std::sync::Mutex<Option<HeldLock>>,
}

/// The writing connection with its cache of the committed state.
#[derive(Debug)]
struct Writer {
    connection: SqliteConnection,
    cursor: Option<Cursor>,
    spent: SpentCache,
}

impl SqliteLedger {
    /// Opens the ledger, creates or migrates its schema, and acquires its lock.
    ///
    /// # Errors
    /// [`LedgerError::InUse`], [`LedgerError::Foreign`], [`LedgerError::Corrupt`] and [`LedgerError::Newer`] before
    /// anything is changed; [`LedgerError::Storage`] if the file cannot be opened or migrated.
    pub async fn open(config: SqliteConfig) -> Result<Self, LedgerError> {
        // Runs to completion, even if the caller drops this future: a started statement continues, and only the lock
        // keeps the next opener from meeting it in the middle of its migrations.
        let opened = tokio::spawn(Self::open_to_the_end(config)).await;
        opened.unwrap_or_else(|error| Err(LedgerError::Storage(error.to_string().into())))
    }

    async fn open_to_the_end(config: SqliteConfig) -> Result<Self, LedgerError> {
        let lock = wait_for_lock(&config).await?;
        check_origin(&config, config.options()).await?;
        if config.check_at_start && exists(&config.path)? {
            file::quick_check(&config.path, config.options()).await?;
        }
        keep_private(&config)?;
        let opened = async {
            let mut writer = connect(&config).await?;
            // Same as `run`, whose future the compiler does not know to be `Send`.
            let migrator = migrations::migrator(&migrations::SQLITE);
            migrator.run_direct(None, &mut writer.connection, false).await.map_err(|error| match error {
                sqlx::migrate::MigrateError::Execute(error) => storage_error(&error),
                error => LedgerError::Storage(error.to_string().into()),
            })?;
            writer.cursor = Some(store::load_cursor(&mut writer.connection).await?);
            Ok(writer)
        };
        let writer = opened.await.map_err(|error| file::at(&config.path, error))?;
        Ok(Self { lock: std::sync::Mutex::new(Some(lock)), ..Self::assemble(config, Some(writer), false) })
    }

    /// Opens a ledger read-only, possibly beside its relayer: for copies and checks.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_read_only(config: SqliteConfig) -> Result<Self, LedgerError> {
        check_origin(&config, config.options().read_only(true)).await?;
        Ok(Self::assemble(config, None, true))
    }

    fn assemble(config: SqliteConfig, writer: Option<Writer>, is_read_only: bool) -> Self {
        Self {
            readers: config.reading(),
            config,
            writer: tokio::sync::Mutex::new(writer),
            closed: CancellationToken::new(),
            health: Arc::default(),
            is_read_only,
            lock: std::sync::Mutex::new(None),
        }
    }

    /// One attempt; an error in doubt includes the cursor before and after.
    async fn attempt(&self, slot: &mut Option<Writer>, writes: Vec<Write>) -> Result<Vec<WriteOutcome>, Failed> {
        // Taken out: if the commit fails, or the caller drops this future, the connection is dropped with its
        // transaction and its cache.
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => connect(&self.config).await?,
        };
        let mut set = store::load(&mut writer.connection, &Needs::of(&writes), writer.cursor).await?;
        let before = set.cursor;
        let outcomes: Vec<WriteOutcome> = writes.into_iter().map(|write| set.apply(write)).collect();
        let after = set.cursor;
        writer.cursor = Some(after);
        match store::store(&mut writer.connection, set, &mut writer.spent).await {
            Ok(()) => {
                *slot = Some(writer);
                Ok(outcomes)
            }
            Err(LedgerError::InDoubt(detail)) => Err(Failed::InDoubt(Doubt { detail, before, after, outcomes })),
            Err(error) => Err(Failed::Not(error)),
        }
    }

    /// Checks whether the lost commit is in the log, and if so, makes it durable. `false`: the next commit overwrites
    /// its possible remains in the log.
    async fn look(&self, slot: &mut Option<Writer>, doubt: &Doubt) -> Result<bool, LedgerError> {
        let mut writer = connect(&self.config).await?;
        let cursor = store::load_cursor(&mut writer.connection).await?;
        // A commit that moves no number (an attempt, a small value) may be written twice without harm.
        let is_there = cursor == doubt.after && doubt.after != doubt.before;
        if is_there {
            // A failed sync may have marked pages of the log as clean that never reached the disk; a checkpoint copies
            // them into the database, which writes and syncs them again.
            file::checkpoint(&mut writer.connection).await?;
        }
        writer.cursor = Some(cursor);
        *slot = Some(writer);
        Ok(is_there)
    }

    /// Waits before the next check; `false` if the ledger is closed.
    async fn pause(&self, pause: &mut Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(*pause) => {}
            () = self.closed.cancelled() => return false,
        }
        *pause = (*pause * 2).min(LOOK_PAUSE_MOST);
        true
    }
}

/// Failure of a commit attempt.
enum Failed {
    /// Nothing of it is durable.
    Not(LedgerError),
    /// It may be in the log.
    InDoubt(Doubt),
}

impl From<LedgerError> for Failed {
    fn from(error: LedgerError) -> Self {
        Self::Not(error)
    }
}

/// A commit that may or may not be in the log.
struct Doubt {
    detail: String,
    before: Cursor,
    after: Cursor,
    outcomes: Vec<WriteOutcome>,
}

async fn connect(config: &SqliteConfig) -> Result<Writer, LedgerError> {
    let connection = config.writing().connect().await.map_err(|error| storage_error(&error))?;
    Ok(Writer { connection, cursor: None, spent: SpentCache::new() })
}

impl_sql!(SqliteRow, Sqlite, SqliteArguments);

impl SqlStore for SqliteLedger {
    type Row = SqliteRow;
    type Snapshot = sqlx::Transaction<'static, Sqlite>;

    async fn fetch(&self, query: Query) -> Result<Vec<SqliteRow>, LedgerError> {
        prepared(query).fetch_all(&self.readers).await.map_err(|error| storage_error(&error))
    }

    async fn snapshot(&self) -> Result<Self::Snapshot, LedgerError> {
        self.readers.begin().await.map_err(|error| storage_error(&error))
    }

    async fn fetch_in(snapshot: &mut Self::Snapshot, query: Query) -> Result<Vec<SqliteRow>, LedgerError> {
        prepared(query).fetch_all(&mut **snapshot).await.map_err(|error| storage_error(&error))
    }

    async fn end(snapshot: Self::Snapshot) -> Result<(), LedgerError> {
        snapshot.commit().await.map_err(|error| storage_error(&error))
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        if self.is_read_only {
            return Err(LedgerError::Storage(StorageFault::new(FaultKind::ReadOnly, "opened only for reading")));
        }
        let mut slot = self.writer.lock().await;
        // While a commit is in doubt, no answer is given until its outcome is certain.
        let mut doubt: Option<Doubt> = None;
        let mut pause = LOOK_PAUSE;
        loop {
            if self.closed.is_cancelled() {
                return Err(doubt.map_or(LedgerError::Closed, |doubt| LedgerError::InDoubt(doubt.detail)));
            }
            if let Some(lost) = &doubt {
                match self.look(&mut slot, lost).await {
                    Ok(true) => {
                        let outcomes = doubt.map(|doubt| doubt.outcomes).unwrap_or_default();
                        return Ok(outcomes.into_iter().map(Durable::committed).collect());
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(%error, "can't tell yet what became of a commit; nothing is acknowledged");
                        let _ = self.pause(&mut pause).await;
                        continue;
                    }
                }
            }
            match self.attempt(&mut slot, writes.clone()).await {
                Ok(outcomes) => return Ok(outcomes.into_iter().map(Durable::committed).collect()),
                Err(Failed::Not(error)) if doubt.is_none() => return Err(error),
                Err(Failed::Not(LedgerError::Storage(fault))) => {
                    tracing::debug!(%fault, "a commit in doubt can't be repeated yet; nothing is acknowledged");
                    let _ = self.pause(&mut pause).await;
                }
                Err(Failed::Not(error)) => return Err(error),
                Err(Failed::InDoubt(lost)) => {
                    if doubt.is_none() {
                        metrics::counter!("slackwater_ledger_doubts_total").increment(1);
                    }
                    self.health.failed(&StorageFault::new(FaultKind::InDoubt, lost.detail.clone()));
                    doubt = Some(lost);
                    let _ = self.pause(&mut pause).await;
                }
            }
        }
    }

    async fn shut(&self) {
        // Before the lock: a commit in doubt must not wait for a disk that never recovers.
        self.closed.cancel();
        let mut slot = self.writer.lock().await;
        let Some(_lock) = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() else {
            return self.readers.close().await;
        };
        self.readers.close().await;
        if let Some(mut writer) = slot.take() {
            // Everything is durable already: a failure here only slows the next start.
            if let Err(error) = writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
                tracing::warn!(%error, "log not copied into the database at close");
            }
            if let Err(error) = writer.connection.close().await {
                tracing::warn!(%error, "ledger not closed cleanly");
            }
        }
    }

    fn state(&self) -> Arc<Health> {
        self.health.clone()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;
    use crate::Ledger;

    fn modes(directory: &Path) -> Vec<(String, u32)> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let mode = |entry: fs::DirEntry| {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            (entry.file_name().into_string().unwrap(), mode)
        };
        entries.map(mode).collect()
    }

    #[tokio::test]
    async fn a_ledger_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let config = SqliteConfig::new(directory.path().join("ledger.db"));
        for _ in 0..2 {
            let ledger = SqliteLedger::open(config.clone()).await.unwrap();
            let found = modes(directory.path());
            assert!(found.len() >= 3 && found.iter().all(|(_, mode)| *mode == 0o600), "{found:?}");
            ledger.close().await;
            // The second file was made by an older version, or restored from a backup.
            fs::set_permissions(&config.path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}
