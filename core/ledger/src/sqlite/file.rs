//! The file of a SQLite ledger: options, lock, origin and checks.

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Executor, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{FaultKind, LedgerError, StorageFault, migrations, private, rows::storage_error, tuning::keys};

/// `PRAGMA application_id` of our files: "SLKW".
const APPLICATION_ID: u32 = 0x534c_4b57;

keys! {
    /// A database file, and how it is used.
    #[non_exhaustive]
    pub struct SqliteConfig;

    /// Longest wait for a lock that another program holds on the file, such as a backup.
    busy_timeout "busy_timeout_ms": Duration [0..=600_000] = Duration::from_secs(5);
    /// Connections for reading.
    read_connections: u32 [1..=256] = 4;
    /// Page cache of the writing connection, KiB.
    cache_kib: u32 [64..=16_777_216] = 16 * 1_024;
    /// Pages of 4 KiB in the write-ahead log after which it is copied into the database.
    checkpoint_pages: u32 [100..=1_000_000] = 4_096;
    /// Read the whole file at start, and refuse to start on one that does not hold together. The time grows with its size.
    check_at_start: bool = true;
    beside {
        /// The file, created if absent. Beside it: `-wal`, `-shm`, and `.lock`.
        path: PathBuf = PathBuf::new();
    }
}

impl SqliteConfig {
    /// The default options for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    pub(crate) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new().filename(&self.path).busy_timeout(self.busy_timeout).disable_statement_logging()
    }

    pub(super) fn writing(&self) -> SqliteConnectOptions {
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

    pub(super) fn reading(&self) -> SqlitePool {
        SqlitePoolOptions::new()
            .max_connections(self.read_connections.max(1))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(self.options().read_only(true).row_buffer_size(1_024))
    }
}

/// Wait of an opening for a relay of this process that is shutting down.
const OWN_LOCK_WAIT: Duration = Duration::from_secs(3);

/// Pause between two attempts to lock.
const OWN_LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Lock files held by this process: a lock itself does not identify its holder.
static HELD: std::sync::Mutex<BTreeSet<PathBuf>> = std::sync::Mutex::new(BTreeSet::new());

/// A lock held by this process for the lifetime of the value.
#[derive(Debug)]
pub(crate) struct HeldLock {
    path: PathBuf,
    _file: File,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&self.path);
    }
}

/// As [`take_lock`], but waits for a relay of this process that is shutting down.
pub(super) async fn wait_for_lock(config: &SqliteConfig) -> Result<HeldLock, LedgerError> {
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

pub(crate) fn take_lock(config: &SqliteConfig) -> Result<HeldLock, LedgerError> {
    let path = config.lock_path();
    let failed = |error: std::io::Error| io_error(&path, &error);
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
pub(super) fn keep_private(config: &SqliteConfig) -> Result<(), LedgerError> {
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
pub(crate) async fn check_origin(config: &SqliteConfig, options: SqliteConnectOptions) -> Result<(), LedgerError> {
    if !exists(&config.path)? {
        return Ok(());
    }
    let path = || config.path.display().to_string();
    let failed = |error: sqlx::Error| at(&config.path, storage_error(&error));
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

pub(super) fn exists(path: &Path) -> Result<bool, LedgerError> {
    path.try_exists().map_err(|error| io_error(path, &error))
}

/// A faster check than the full one: skips only the agreement of indexes with their tables.
pub(super) async fn quick_check(path: &Path, options: SqliteConnectOptions) -> Result<(), LedgerError> {
    let started = tokio::time::Instant::now();
    run_check(path, options, "PRAGMA quick_check(1)").await?;
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(path = %path.display(), millis, "the ledger's file holds together");
    Ok(())
}

pub(crate) async fn run_check(
    path: &Path,
    options: SqliteConnectOptions,
    pragma: &'static str,
) -> Result<(), LedgerError> {
    let failed = |error: sqlx::Error| at(path, storage_error(&error));
    let mut connection = options.connect().await.map_err(failed)?;
    let found: String = sqlx::query_scalar(pragma).fetch_one(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(LedgerError::Corrupt { path: path.display().to_string(), detail: found.replace('\n', " ") }),
    }
}

/// Copies the whole write-ahead log into the database, and syncs both.
pub(crate) async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let row = connection.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await.map_err(|error| storage_error(&error))?;
    match sqlx::Row::try_get::<i64, _>(&row, 0) {
        Ok(0) => Ok(()),
        _ => Err(LedgerError::Storage(StorageFault::new(FaultKind::Busy, "the log is in use"))),
    }
}

/// Adds the file's name to an error, and advice if the file itself is damaged.
pub(crate) fn at(path: &Path, error: LedgerError) -> LedgerError {
    match error {
        LedgerError::Storage(fault) if fault.kind == FaultKind::Corrupt => {
            LedgerError::Corrupt { path: path.display().to_string(), detail: fault.detail }
        }
        LedgerError::Storage(fault) => {
            LedgerError::Storage(StorageFault::new(fault.kind, format!("{}: {fault}", path.display())))
        }
        other => other,
    }
}

/// Error of a file system operation.
fn io_error(path: &Path, error: &std::io::Error) -> LedgerError {
    use std::io::ErrorKind;
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FaultKind::Full,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => FaultKind::ReadOnly,
        ErrorKind::NotFound | ErrorKind::NotADirectory => FaultKind::Unreachable,
        _ => FaultKind::Io,
    };
    LedgerError::Storage(StorageFault::new(kind, format!("{}: {error}", path.display())))
}
