//! Copies of a SQLite ledger: consistent while a relayer writes it, checked, and marked as copies.
//!
//! A relayer that starts on a copy must know that it is one: transactions sent after the copy was made are on the
//! chain, but not in it. So the copy carries a mark ([`MARK_KEY`]), whichever way it is put in place; see
//! `relay::restore` for the effect of the mark.

use std::path::Path;

use sqlx::{ConnectOptions, Connection};

use super::{
    LedgerError, SqliteConfig, SqliteLedger,
    rows::storage_error,
    sqlite::file::{HeldLock, at, check_origin, checkpoint, run_check, take_lock},
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
