//! Copies of a SQLite ledger: consistent while a relayer writes it, checked, and marked as copies.
//!
//! A relayer that starts on a copy must know that it is one: transactions sent after the copy was made are on the
//! chain, but not in it. So the copy carries a mark ([`MARK_KEY`]), whichever way it is put in place; see
//! `relay::restore` for the effect of the mark.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    FaultKind, LedgerError, SqliteConfig, SqliteLedger, StorageFault,
    rows::storage_error,
    sqlite::{HeldLock, check_origin, take_lock},
};

/// Key of a small value in a restored copy that has not been started since: time of the copy, Unix ms. Empty once a
/// relayer has noticed it.
pub const MARK_KEY: &str = "backup";

/// Key of a small value: requests up to this number may have been sent by an earlier run of the ledger that it does not
/// remember.
pub const UNCERTAIN_KEY: &str = "uncertain_through";

/// Lock of a ledger's file: no relayer starts on it meanwhile.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "released when dropped")] HeldLock);

impl SqliteLedger {
    /// Copies the ledger of `config` as of one moment into the file `into`, which must be absent or empty, and marks
    /// the copy with `taken_at_ms`. A relayer may run on it meanwhile. The copy is not synced yet.
    ///
    /// # Errors
    /// As [`Self::open`], and [`LedgerError::Storage`] if the copy can't be written.
    pub async fn copy_into(config: &SqliteConfig, into: &Path, taken_at_ms: u64) -> Result<(), LedgerError> {
        check_origin(config, config.options().read_only(true)).await?;
        let failed = |error: sqlx::Error| at(&config.path, storage_error(&error));
        let mut source = config.options().read_only(true).connect().await.map_err(failed)?;
        let target = into.to_str().ok_or_else(|| {
            let detail = format!("{}: SQLite takes only names that are UTF-8", into.display());
            LedgerError::Storage(detail.into())
        })?;
        sqlx::query("VACUUM INTO ?").bind(target.to_owned()).execute(&mut source).await.map_err(failed)?;
        source.close().await.map_err(failed)?;
        let failed = |error: sqlx::Error| at(into, storage_error(&error));
        let mut copy = SqliteConfig::new(into).options().connect().await.map_err(failed)?;
        sqlx::query(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(MARK_KEY)
        .bind(taken_at_ms.to_string())
        .execute(&mut copy)
        .await
        .map_err(failed)?;
        copy.close().await.map_err(failed)
    }

    /// Reads a whole ledger file and checks its consistency: pages, indexes, constraints.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`], or as [`Self::open`].
    pub async fn check_file(path: &Path) -> Result<(), LedgerError> {
        let config = SqliteConfig::new(path);
        check_origin(&config, config.options().read_only(true)).await?;
        run_check(path, config.options().read_only(true), "PRAGMA integrity_check(1)").await
    }

    /// Acquires the lock of a ledger's file, as a relayer does.
    ///
    /// # Errors
    /// [`LedgerError::InUse`].
    pub fn hold(config: &SqliteConfig) -> Result<FileLock, LedgerError> {
        take_lock(config).map(FileLock)
    }

    /// Copies the write-ahead log into the file, so that the file alone is the ledger. Requires its lock
    /// ([`hold`](Self::hold)).
    ///
    /// # Errors
    /// [`LedgerError::Storage`] or [`LedgerError::Corrupt`].
    pub async fn flush(config: &SqliteConfig) -> Result<(), LedgerError> {
        let failed = |error: sqlx::Error| at(&config.path, storage_error(&error));
        let mut connection = config.options().connect().await.map_err(failed)?;
        checkpoint(&mut connection).await.map_err(|error| at(&config.path, error))?;
        connection.close().await.map_err(failed)
    }
}

/// A faster check than the full one: skips only the agreement of indexes with their tables.
pub(super) async fn quick_check(path: &Path, options: SqliteConnectOptions) -> Result<(), LedgerError> {
    let started = tokio::time::Instant::now();
    run_check(path, options, "PRAGMA quick_check(1)").await?;
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(path = %path.display(), millis, "the ledger's file holds together");
    Ok(())
}

async fn run_check(path: &Path, options: SqliteConnectOptions, pragma: &'static str) -> Result<(), LedgerError> {
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
pub(super) async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), LedgerError> {
    let row = connection.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await.map_err(|error| storage_error(&error))?;
    match sqlx::Row::try_get::<i64, _>(&row, 0) {
        Ok(0) => Ok(()),
        _ => Err(LedgerError::Storage(StorageFault::new(FaultKind::Busy, "the log is in use"))),
    }
}

/// Adds the file's name to an error, and advice if the file itself is damaged.
pub(super) fn at(path: &Path, error: LedgerError) -> LedgerError {
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
pub(super) fn io_error(path: &Path, error: &std::io::Error) -> LedgerError {
    use std::io::ErrorKind;
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FaultKind::Full,
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => FaultKind::ReadOnly,
        ErrorKind::NotFound | ErrorKind::NotADirectory => FaultKind::Unreachable,
        _ => FaultKind::Io,
    };
    LedgerError::Storage(StorageFault::new(kind, format!("{}: {error}", path.display())))
}
