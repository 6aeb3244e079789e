//! The embedded ledger: SQLite in WAL mode with `synchronous=FULL`, one writing connection, several reading ones.

mod sql;
mod store;

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Executor, Sqlite, SqliteConnection, SqlitePool,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    Durable, FaultKind, Health, LedgerError, StorageFault, Write, WriteOutcome,
    apply::{Cursor, Needs},
    backup, migrations,
    rows::storage_error,
    sql::{Query, SqlStore, impl_sql},
};
use crate::private;
use store::SpentCache;

/// Pauses between checks of a commit in doubt.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOK_PAUSE_MOST: Duration = Duration::from_secs(1);

/// `PRAGMA application_id` of our files: "SLKW".
const APPLICATION_ID: u32 = 0x534c_4b57;

/// Location and options of the embedded ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The database file, created if absent (`ledger.path`). Beside it: `-wal`, `-shm`, and `.lock`.
    pub path: PathBuf,
    /// Time limit for a lock that another program holds on the file, such as a backup (`ledger.busy_timeout_ms`).
    pub busy_timeout_ms: u64,
    /// Number of read connections (`ledger.read_connections`), at least 1.
    pub read_connections: u32,
    /// Page cache of the writing connection, KiB (`ledger.cache_kib`). The random indexes (ids, sequences, keys) should
    /// fit: about 150 bytes per stored request.
    pub cache_kib: u32,
    /// Size of the write-ahead log that triggers a checkpoint, pages of 4 KiB (`ledger.checkpoint_pages`). The commit
    /// that reaches it waits for the copy; a larger log copies less in total.
    pub checkpoint_pages: u32,
    /// True to read the whole file at start and refuse an inconsistent one (`ledger.check_at_start`).
    pub check_at_start: bool,
}

impl SqliteConfig {
    /// The default options for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            busy_timeout_ms: 5_000,
            read_connections: 4,
            cache_kib: 16 * 1_024,
            checkpoint_pages: 4_096,
            check_at_start: true,
        }
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    pub(super) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(Duration::from_millis(self.busy_timeout_ms))
            .disable_statement_logging()
    }

    fn writing(&self) -> SqliteConnectOptions {
        self.options()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // macOS: a plain fsync leaves the data in the drive's cache. Elsewhere without effect.
            .pragma("fullfsync", "1")
            .pragma("checkpoint_fullfsync", "1")
            .pragma("cache_size", format!("-{}", self.cache_kib))
            .pragma("wal_autocheckpoint", self.checkpoint_pages.to_string())
            .pragma("journal_size_limit", (u64::from(self.checkpoint_pages) * 2 * 4_096).to_string())
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(128)
            .row_buffer_size(1_024)
    }

    fn reading(&self) -> SqlitePool {
        SqlitePoolOptions::new()
            .max_connections(self.read_connections.max(1))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(self.options().read_only(true).row_buffer_size(1_024))
    }
}

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
            backup::quick_check(&config.path, config.options()).await?;
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
        let writer = opened.await.map_err(|error| backup::at(&config.path, error))?;
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
            backup::checkpoint(&mut writer.connection).await?;
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

/// Wait of an opening for a relay of this process that is shutting down.
const OWN_LOCK_WAIT: Duration = Duration::from_secs(3);

/// Pause between two attempts to lock.
const OWN_LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Lock files held by this process: a lock itself does not identify its holder.
static HELD: std::sync::Mutex<BTreeSet<PathBuf>> = std::sync::Mutex::new(BTreeSet::new());

/// A lock held by this process for the lifetime of the value.
#[derive(Debug)]
pub(super) struct HeldLock {
    path: PathBuf,
    _file: File,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.path);
    }
}

/// As [`take_lock`], but waits for a relay of this process that is shutting down.
async fn wait_for_lock(config: &SqliteConfig) -> Result<HeldLock, LedgerError> {
    let since = tokio::time::Instant::now();
    let mut was_own = false;
    loop {
        match take_lock(config) {
            Err(LedgerError::InUseHere { .. }) if since.elapsed() < OWN_LOCK_WAIT => was_own = true,
            // Released by us a moment ago, but not yet visible.
            Err(LedgerError::InUse { .. }) if std::mem::take(&mut was_own) => {}
            taken => return taken,
        }
        tokio::time::sleep(OWN_LOCK_PAUSE).await;
    }
}

pub(super) fn take_lock(config: &SqliteConfig) -> Result<HeldLock, LedgerError> {
    let path = config.lock_path();
    let failed = |error: std::io::Error| backup::io_error(&path, &error);
    let file = private::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(path.clone());
            Ok(HeldLock { path, _file: file })
        }
        Err(TryLockError::WouldBlock) => {
            let held = path.canonicalize().unwrap_or_else(|_| path.clone());
            let is_ours = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&held);
            let path = config.path.display().to_string();
            Err(if is_ours { LedgerError::InUseHere { path } } else { LedgerError::InUse { path } })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Restricts the file to its owner before anything is in it. SQLite gives its log and its index the same mode; files
/// left by a crash are restricted too.
fn keep_private(config: &SqliteConfig) -> Result<(), LedgerError> {
    if !exists(&config.path)? {
        // A failure is reported when the file is opened.
        let _ = private::options().create_new(true).append(true).open(&config.path);
    }
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut path = config.path.clone().into_os_string();
        path.push(suffix);
        if let Err(error) = private::tighten(path.as_ref()) {
            let path = path.display();
            tracing::warn!(%path, %error, "others may read the ledger, and its mode can't be changed");
        }
    }
    Ok(())
}

/// Checks that an existing file is ours and not from a newer version, before anything in it is changed.
pub(super) async fn check_origin(config: &SqliteConfig, options: SqliteConnectOptions) -> Result<(), LedgerError> {
    if !exists(&config.path)? {
        return Ok(());
    }
    let path = || config.path.display().to_string();
    let failed = |error: sqlx::Error| backup::at(&config.path, storage_error(&error));
    let mut connection = options.connect().await.map_err(failed)?;
    let found: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await.map_err(failed)?;
    // The pragma is a signed 32-bit number.
    let found = u32::try_from(found & 0xffff_ffff).unwrap_or_default();
    if found != APPLICATION_ID {
        // The migration that marks the file and creates the tables is one transaction, but the empty table of
        // migrations comes before it: a crash in between leaves only that table.
        let unfinished = found == 0 && tables > 0 && only_migrations(&mut connection).await.map_err(failed)?;
        if found != 0 || (tables > 0 && !unfinished) {
            return Err(LedgerError::Foreign { path: path(), found, expected: APPLICATION_ID });
        }
        return connection.close().await.map_err(failed);
    }
    let version: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    let supported = migrations::newest(&migrations::SQLITE);
    match version {
        Some(found) if found > supported => Err(LedgerError::Newer { path: path(), found, supported }),
        _ => connection.close().await.map_err(failed),
    }
}

async fn only_migrations(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let others: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE tbl_name <> '_sqlx_migrations'")
        .fetch_one(connection)
        .await?;
    Ok(others == 0)
}

fn exists(path: &Path) -> Result<bool, LedgerError> {
    path.try_exists().map_err(|error| backup::io_error(path, &error))
}

async fn connect(config: &SqliteConfig) -> Result<Writer, LedgerError> {
    let connection = config.writing().connect().await.map_err(|error| storage_error(&error))?;
    Ok(Writer { connection, cursor: None, spent: SpentCache::new() })
}

impl_sql!(SqliteRow, Sqlite, SqliteArguments);

/// Error of a failed `COMMIT`.
///
/// Busy: it did not begin. Full, or a failed write: the last page of the transaction, whose header makes it a commit,
/// is written after all others, and its checksum covers all of it; so the commit is not there as a whole. After any
/// other failure, such as a failed sync, the commit may or may not be found in the log at its next recovery.
fn commit_error(error: &sqlx::Error) -> LedgerError {
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    const IOERR_WRITE: i32 = 778;
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    match code {
        Some(IOERR_WRITE) => storage_error(error),
        Some(code) if matches!(code & 0xff, BUSY | FULL) => storage_error(error),
        _ => LedgerError::InDoubt(error.to_string()),
    }
}

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
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::ledger::Ledger;

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
