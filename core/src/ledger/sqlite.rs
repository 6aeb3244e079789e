//! The embedded ledger: SQLite in WAL mode with `synchronous=FULL`, one writing connection, several reading ones.

mod sql;
mod store;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Connection, Executor, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use super::{
    AttemptRecord, BatchRecord, DecisionRow, Durable, EventFilter, EventRecord, Ledger, LedgerError, RequestFilter,
    RequestRecord, SpentRow, Write, WriteOutcome,
    apply::{Cursor, HOUR_MS, Needs},
    rows::{Cells, Row, batch_columns, impl_row, payload_columns, request_columns, storage_error, sum_spent},
};
use crate::request::{BatchId, LaneId, RequestId, Status};
use store::SpentCache;

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// `PRAGMA application_id` of our files: "SLKW".
const APPLICATION_ID: u32 = 0x534c_4b57;

/// Where the embedded ledger lives, and how it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The database file, created if absent (`ledger.path`). Beside it: `-wal`, `-shm`, and `.lock`.
    pub path: PathBuf,
    /// How long to wait for a lock that another program holds on the file, such as a backup
    /// (`ledger.busy_timeout_ms`).
    pub busy_timeout_ms: u64,
    /// Connections for reading (`ledger.read_connections`), at least 1.
    pub read_connections: u32,
    /// Page cache of the writing connection (`ledger.cache_kib`). The random indexes (ids, sequences, keys) should fit:
    /// about 150 bytes per stored request.
    pub cache_kib: u32,
    /// The log is copied into the database when it holds so many pages of 4 KiB (`ledger.checkpoint_pages`). The commit
    /// that reaches it waits for the copy; a larger log copies less in sum.
    pub checkpoint_pages: u32,
}

impl SqliteConfig {
    /// The defaults, for the file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            busy_timeout_ms: 5_000,
            read_connections: 4,
            cache_kib: 16 * 1_024,
            checkpoint_pages: 4_096,
        }
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        name.into()
    }

    fn options(&self) -> SqliteConnectOptions {
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

/// [`Ledger`] in one SQLite file, owned by one process.
///
/// **Invariant I2:** a [`Durable`] value leaves [`Ledger::commit`] only after `COMMIT` returned, and with
/// `synchronous=FULL` that means after the write-ahead log was synced.
#[derive(Debug)]
pub struct SqliteLedger {
    config: SqliteConfig,
    /// `None` after a failed or abandoned commit: the next one connects anew and reads where things stand.
    writer: tokio::sync::Mutex<Option<Writer>>,
    readers: SqlitePool,
    closed: AtomicBool,
    /// Kept open for its lock; released at close.
    lock: std::sync::Mutex<Option<File>>,
}

/// The writing connection and what it remembers about the committed state.
#[derive(Debug)]
struct Writer {
    connection: SqliteConnection,
    cursor: Option<Cursor>,
    spent: SpentCache,
}

impl SqliteLedger {
    /// Opens the ledger, creates or migrates its schema, and takes its lock.
    ///
    /// # Errors
    /// [`LedgerError::InUse`], [`LedgerError::Foreign`] and [`LedgerError::Newer`] before anything is changed;
    /// [`LedgerError::Storage`] if the file cannot be opened or migrated.
    pub async fn open(config: SqliteConfig) -> Result<Self, LedgerError> {
        let lock = take_lock(&config)?;
        check_origin(&config).await?;
        let mut writer = connect(&config).await?;
        MIGRATOR.run(&mut writer.connection).await.map_err(|error| LedgerError::Storage(error.to_string()))?;
        writer.cursor = Some(store::load_cursor(&mut writer.connection).await?);
        Ok(Self {
            readers: config.reading(),
            config,
            writer: tokio::sync::Mutex::new(Some(writer)),
            closed: AtomicBool::new(false),
            lock: std::sync::Mutex::new(Some(lock)),
        })
    }

    /// Rows of a query on a reading connection.
    async fn read<'q>(
        &self,
        query: sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, LedgerError> {
        query.fetch_all(&self.readers).await.map_err(|error| storage_error(&error))
    }
}

fn take_lock(config: &SqliteConfig) -> Result<File, LedgerError> {
    let path = config.lock_path();
    let failed = |error: std::io::Error| LedgerError::Storage(format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse { path: config.path.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Checks that the file, if there is one, is ours and not from the future, before anything in it is changed.
async fn check_origin(config: &SqliteConfig) -> Result<(), LedgerError> {
    if !exists(&config.path)? {
        return Ok(());
    }
    let path = || config.path.display().to_string();
    let failed = |error: sqlx::Error| LedgerError::Storage(format!("{}: {error}", path()));
    let mut connection = config.options().connect().await.map_err(failed)?;
    let found: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await.map_err(failed)?;
    // The pragma is a signed 32-bit number.
    let found = u32::try_from(found & 0xffff_ffff).unwrap_or_default();
    if found != APPLICATION_ID {
        // The migration that marks the file and creates the tables is one transaction, but the empty table of
        // migrations comes before it: a crash in between leaves that alone.
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
    let supported = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
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
    path.try_exists().map_err(|error| LedgerError::Storage(format!("{}: {error}", path.display())))
}

async fn connect(config: &SqliteConfig) -> Result<Writer, LedgerError> {
    let connection = config.writing().connect().await.map_err(|error| storage_error(&error))?;
    Ok(Writer { connection, cursor: None, spent: SpentCache::new() })
}

impl Writer {
    async fn transact(&mut self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        let mut set = store::load(&mut self.connection, &Needs::of(&writes), self.cursor).await?;
        let outcomes: Vec<WriteOutcome> = writes.into_iter().map(|write| set.apply(write)).collect();
        self.cursor = Some(set.cursor);
        store::store(&mut self.connection, set, &mut self.spent).await?;
        Ok(outcomes.into_iter().map(Durable::committed).collect())
    }
}

impl_row!(SqliteRow);

/// What a failed `COMMIT` means.
///
/// Busy: it did not begin. Full: the last page of the transaction, whose header makes it a commit, did not fit. After
/// anything else, such as a failed sync, the commit may or may not be found in the log when it is next recovered.
fn commit_error(error: &sqlx::Error) -> LedgerError {
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        Some(BUSY | FULL) => LedgerError::Storage(error.to_string()),
        _ => LedgerError::InDoubt(error.to_string()),
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let mut slot = self.writer.lock().await;
        if self.closed.load(Ordering::Acquire) {
            return Err(LedgerError::Closed);
        }
        // Taken out: if the commit fails, or the caller drops this future, the connection is dropped with its transaction
        // and with what it remembers.
        let mut writer = match slot.take() {
            Some(writer) => writer,
            None => connect(&self.config).await?,
        };
        let outcomes = writer.transact(writes).await?;
        *slot = Some(writer);
        Ok(outcomes)
    }

    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE r.id = ?"
        ));
        self.read(query.bind(id.0.as_slice())).await?.first().map(store::whole_request).transpose()
    }

    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        let mut query = sqlx::QueryBuilder::new(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE r.seq < "
        ));
        query.push_bind(filter.before.map_or(i64::MAX, limit_of));
        if let Some(tenant) = &filter.tenant {
            query.push(" AND r.tenant = ").push_bind(tenant.clone());
        }
        if let Some(status) = filter.status {
            query.push(" AND r.status = ").push_bind(status as i64);
        }
        if let Some(chain_id) = filter.chain_id {
            query.push(" AND r.chain_id = ").push_bind(chain_id.cast_signed());
        }
        query.push(" ORDER BY r.seq DESC LIMIT ").push_bind(limit_of(filter.limit as u64));
        self.read(query.build()).await?.iter().map(store::whole_request).collect()
    }

    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq \
             WHERE r.open = 1 AND r.chain_id = ? AND r.seq > ? ORDER BY r.seq LIMIT ?"
        ))
        .bind(chain_id.cast_signed())
        .bind(limit_of(after))
        .bind(limit_of(limit as u64));
        self.read(query).await?.iter().map(store::whole_request).collect()
    }

    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<RequestId>)>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batches AS b WHERE b.chain_id = ? AND b.sender = ? AND b.nonce = ?"
        ))
        .bind(id.lane.chain_id.cast_signed())
        .bind(id.lane.sender.to_vec())
        .bind(id.nonce.cast_signed());
        let found = self.whole_batches(query).await?.pop();
        Ok(found.map(|(batch, attempts, members)| {
            (batch, attempts.into_iter().map(Durable::into_inner).collect(), members)
        }))
    }

    async fn open_batches(
        &self,
        lane: LaneId,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<RequestId>)>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batches AS b WHERE b.state < 3 AND b.chain_id = ? AND b.sender = ? ORDER BY b.nonce"
        ))
        .bind(lane.chain_id.cast_signed())
        .bind(lane.sender.to_vec());
        self.whole_batches(query).await
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        let query = sqlx::query("SELECT max(nonce) + 1 FROM batches WHERE chain_id = ? AND sender = ?")
            .bind(lane.chain_id.cast_signed())
            .bind(lane.sender.to_vec());
        match self.read(query).await?.first() {
            Some(row) => Cells::of("lane", row).optional_u64(),
            None => Ok(None),
        }
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        let mut query = sqlx::QueryBuilder::new(
            "SELECT seq, request_seq, request_id, tenant, chain_id, status, reason, detail, batch_sender, batch_nonce, \
             tx_hash, block_number, at_ms FROM events WHERE seq > ",
        );
        query.push_bind(limit_of(filter.after));
        if let Some(request) = filter.request {
            query.push(" AND request = (SELECT seq FROM requests WHERE id = ").push_bind(request.0.to_vec()).push(")");
        }
        if let Some(tenant) = &filter.tenant {
            query.push(" AND tenant = ").push_bind(tenant.clone());
        }
        query.push(" ORDER BY seq LIMIT ").push_bind(limit_of(filter.limit as u64));
        self.read(query.build()).await?.iter().map(|row| Cells::of("event", row).event()).collect()
    }

    async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        match self.read(sqlx::query("SELECT coalesce(max(seq), 0) FROM events")).await?.first() {
            Some(row) => Cells::of("event", row).u64(),
            None => Ok(0),
        }
    }

    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError> {
        let query = sqlx::query(
            "SELECT tenant, chain_id, reserved_wei, spent_wei FROM spent WHERE hour >= ? ORDER BY tenant, chain_id",
        )
        .bind((since_ms / HOUR_MS).cast_signed());
        sum_spent(self.read(query).await?.iter().map(|row| row as &dyn Row))
    }

    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        let query =
            sqlx::query("SELECT seq, at_ms, prev, hash, body FROM decisions WHERE seq > ? ORDER BY seq LIMIT ?")
                .bind(limit_of(after))
                .bind(limit_of(limit as u64));
        self.read(query).await?.iter().map(|row| Cells::of("decision", row).decision()).collect()
    }

    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError> {
        let query = sqlx::query("SELECT seq, at_ms, prev, hash, body FROM decisions ORDER BY seq DESC LIMIT 1");
        self.read(query).await?.first().map(|row| Cells::of("decision", row).decision()).transpose()
    }

    async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        let query = sqlx::query(
            "SELECT chain_id, status, requests FROM request_counts WHERE requests <> 0 ORDER BY chain_id, status",
        );
        let rows = self.read(query).await?;
        rows.iter()
            .map(|row| {
                let mut cells = Cells::of("count of requests", row);
                Ok((cells.u64()?, cells.status()?, cells.u64()?))
            })
            .collect()
    }

    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        let rows = self.read(sqlx::query("SELECT value FROM meta WHERE key = ?").bind(key.to_owned())).await?;
        rows.first().map(|row| Cells::of("meta value", row).text()).transpose()
    }

    async fn close(&self) {
        let mut slot = self.writer.lock().await;
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.readers.close().await;
        if let Some(mut writer) = slot.take() {
            // Everything is durable already: a failure here costs the next start some time, nothing else.
            if let Err(error) = writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
                tracing::warn!(%error, "log not copied into the database at close");
            }
            if let Err(error) = writer.connection.close().await {
                tracing::warn!(%error, "ledger not closed cleanly");
            }
        }
        self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

impl SqliteLedger {
    /// The batches of `query` with attempts and members, all as of one moment.
    async fn whole_batches<'q>(
        &self,
        query: sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<RequestId>)>, LedgerError> {
        let failed = |error: sqlx::Error| storage_error(&error);
        let mut snapshot = self.readers.begin().await.map_err(failed)?;
        let mut found = Vec::new();
        for row in query.fetch_all(&mut *snapshot).await.map_err(failed)? {
            let (seq, record) = Cells::of("batch", &row).batch()?;
            let attempts = sqlx::query(
                "SELECT idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, created_at_ms \
                 FROM attempts WHERE batch = ? ORDER BY idx",
            )
            .bind(seq.cast_signed())
            .fetch_all(&mut *snapshot)
            .await
            .map_err(failed)?
            .iter()
            .map(|row| Cells::of("attempt", row).attempt(record.id).map(Durable::committed))
            .collect::<Result<_, _>>()?;
            let members = sqlx::query(
                "SELECT r.id FROM batch_members AS m JOIN requests AS r ON r.seq = m.request \
                 WHERE m.batch = ? ORDER BY m.position",
            )
            .bind(seq.cast_signed())
            .fetch_all(&mut *snapshot)
            .await
            .map_err(failed)?;
            found.push((record, attempts, store::request_ids(&members)?));
        }
        snapshot.commit().await.map_err(failed)?;
        Ok(found)
    }
}

/// A number used as a bound: beyond the largest signed one is as good as that.
fn limit_of(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
