//! The shared ledger: PostgreSQL, written by several instances.
//!
//! Commits are serial: each holds the row of `numbers` from its first statement to its end, so numbers have no gaps,
//! and events become visible in their order. Group commit compensates: the queued writes of an instance share one
//! transaction.
//!
//! **If the answer to a `COMMIT` is lost**, the ledger does not guess: every commit writes its writer's count into
//! `writers`, and the writer that lost the answer locks `numbers` (which the lost transaction holds until it has ended)
//! and checks.

mod lease;
mod sql;
mod store;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
};
use tokio_util::sync::CancellationToken;

use super::{
    Durable, FaultKind, Health, Leases, LedgerError, StorageFault, Write, WriteOutcome,
    apply::Cursor,
    migrations,
    needs::Needs,
    rows::{Cells, storage_error},
    sql::{Query, SqlStore, impl_sql},
};
use store::StoreError;

/// Attempts at a commit that the database refuses because of concurrent ones (only distributed databases do).
const CONFLICT_TRIES: u32 = 10;
/// Number of connections for leases.
const LEASE_CONNECTIONS: u32 = 2;
/// Pauses between checks of a commit in doubt.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOK_PAUSE_MOST: Duration = Duration::from_secs(1);
/// Deletes writers not seen for 30 days.
const FORGET_WRITERS: &str = "DELETE FROM writers WHERE seen_at < clock_timestamp() - INTERVAL '30 days'";

/// Location and options of the shared ledger. `Debug` hides the URL, which may hold a password.
#[derive(Clone)]
pub struct PostgresConfig {
    options: PgConnectOptions,
    /// Schema of the tables, created if absent (`ledger.schema`): a-z, 0-9 and `_`.
    pub schema: String,
    /// Number of read connections (`ledger.read_connections`), at least 1. One more writes, and two maintain leases.
    pub read_connections: u32,
    /// Time limit for a connection (`ledger.connect_timeout_ms`).
    pub connect_timeout: Duration,
    /// Time limit for a statement (`ledger.statement_timeout_ms`).
    pub statement_timeout: Duration,
    /// Idle time after which the database ends a writer's transaction (`ledger.idle_timeout_ms`): an instance that
    /// hangs in the middle of a commit must not block the others. Well below a lease period.
    pub idle_timeout: Duration,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("place", &self.place())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PartialEq for PostgresConfig {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place() && self.schema == other.schema
    }
}

impl PostgresConfig {
    /// The default options for the database at `url`:
    /// `postgres://user:password@host:port/database?sslmode=verify-full`.
    ///
    /// # Errors
    /// [`LedgerError::Storage`] if it is not such a URL; never shows it.
    pub fn new(url: &str) -> Result<Self, LedgerError> {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_postgres);
        let Some(options) = options else {
            return Err(LedgerError::Storage("`ledger.url` is not a postgres:// URL".to_owned().into()));
        };
        Ok(Self {
            options: options.application_name("slackwater").disable_statement_logging(),
            schema: "slackwater".to_owned(),
            read_connections: 4,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(2),
        })
    }

    /// Host, port and database, without user and password.
    pub fn place(&self) -> String {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        format!("postgres://{host}:{port}/{}", self.options.get_database().unwrap_or_default())
    }

    /// True if the connection is encrypted with a verified certificate, or does not leave this machine.
    pub fn is_private(&self) -> bool {
        let host = self.options.get_host();
        let is_local = self.options.get_socket().is_some()
            || host == "localhost"
            || host.starts_with('/')
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        is_local || matches!(self.options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
    }

    /// The error, with the location of the database.
    fn at(&self, error: &sqlx::Error) -> LedgerError {
        match storage_error(error) {
            LedgerError::Storage(fault) => {
                LedgerError::Storage(StorageFault::new(fault.kind, format!("{}: {fault}", self.place())))
            }
            other => other,
        }
    }

    fn settings(&self) -> String {
        format!(
            "SET search_path = \"{}\"; SET synchronous_commit = on; SET statement_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}",
            self.schema,
            self.statement_timeout.as_millis(),
            self.idle_timeout.as_millis()
        )
    }

    fn check_schema(&self) -> Result<(), LedgerError> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.schema.is_empty() || self.schema.len() > 63 || !self.schema.chars().all(is_name) {
            let detail = format!("`ledger.schema` = {:?} is not a-z, 0-9 and _", self.schema);
            return Err(LedgerError::Storage(detail.into()));
        }
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection, LedgerError> {
        let connected = tokio::time::timeout(self.connect_timeout, async {
            let mut connection = self.options.connect().await?;
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(self.settings()))).await?;
            Ok::<_, sqlx::Error>(connection)
        });
        match connected.await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.at(&error)),
            Err(_) => {
                let limit = self.connect_timeout.as_millis();
                let detail = format!("{}: no connection within {limit} ms (`ledger.connect_timeout_ms`)", self.place());
                Err(LedgerError::Storage(StorageFault::new(FaultKind::Unreachable, detail)))
            }
        }
    }

    fn pool(&self, connections: u32) -> PgPool {
        let settings = self.settings();
        PgPoolOptions::new()
            .max_connections(connections.max(1))
            .acquire_timeout(self.connect_timeout)
            .after_connect(move |connection, _| {
                let settings = settings.clone();
                Box::pin(
                    async move { connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings))).await.map(drop) },
                )
            })
            .connect_lazy_with(self.options.clone())
    }
}

/// [`Ledger`](super::Ledger) in a PostgreSQL database shared by several instances.
///
/// **Invariant I2:** a [`Durable`] value leaves [`Ledger::commit`](super::Ledger::commit) only after `COMMIT` was
/// answered, or was found done, with `synchronous_commit` on.
#[derive(Debug)]
pub struct PostgresLedger {
    config: PostgresConfig,
    /// Id of this writer in `writers`.
    id: [u8; 16],
    /// `None` after a failed or abandoned commit: the next one reconnects.
    writer: tokio::sync::Mutex<Slot>,
    readers: PgPool,
    /// Separate connections, so that many readers can't keep a lease from being renewed.
    leasing: PgPool,
    health: Arc<Health>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<PgConnection>,
    /// Number of commit attempts so far.
    count: i64,
}

/// Failure of a commit attempt.
enum Failed {
    /// Nothing of it is durable.
    Not(LedgerError),
    /// The database requests a retry.
    Conflict(LedgerError),
    /// The answer to `COMMIT` is missing.
    InDoubt(String, Vec<WriteOutcome>),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sql(error) if is_conflict(&error) => Self::Conflict(storage_error(&error)),
            StoreError::Sql(error) => Self::Not(storage_error(&error)),
            StoreError::Ledger(error) => Self::Not(error),
        }
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Sql(error).into()
    }
}

/// True for a serialization failure or deadlock: rolled back, and retryable.
fn is_conflict(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

impl_sql!(PgRow, Postgres, PgArguments);

impl PostgresLedger {
    /// Opens the ledger, and creates or migrates its schema.
    ///
    /// # Errors
    /// [`LedgerError::Newer`] before anything is changed; [`LedgerError::Storage`] if the database can't be reached,
    /// does not guarantee durability (`fsync = off`), or can't be migrated.
    pub async fn open(config: PostgresConfig) -> Result<Self, LedgerError> {
        config.check_schema()?;
        let mut connection = config.connect().await?;
        migrate(&config, &mut connection).await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| LedgerError::Storage(format!("no randomness: {error}").into()))?;
        connection.execute(FORGET_WRITERS).await.map_err(|error| storage_error(&error))?;
        Ok(Self {
            readers: config.pool(config.read_connections),
            leasing: config.pool(LEASE_CONNECTIONS),
            config,
            id,
            writer: tokio::sync::Mutex::new(Slot { connection: Some(connection), count: 0 }),
            health: Arc::default(),
            closed: CancellationToken::new(),
        })
    }

    async fn read_on(
        &self,
        pool: &PgPool,
        query: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, LedgerError> {
        let result = query.fetch_all(pool).await.map_err(|error| storage_error(&error));
        if let Err(LedgerError::Storage(_)) = &result {
            self.health.suspect();
        }
        result
    }

    /// One attempt. The connection is put back only after a clean end: if this future is dropped, so is the
    /// transaction.
    async fn attempt(&self, slot: &mut Slot, writes: Vec<Write>) -> Result<Vec<WriteOutcome>, Failed> {
        let mut connection = match slot.connection.take() {
            Some(connection) => connection,
            None => self.config.connect().await.map_err(Failed::Not)?,
        };
        slot.count += 1;
        connection.execute("BEGIN").await?;
        let row = connection
            .fetch_one(sqlx::query(
                "SELECT request, batch, event, decision, decision_hash FROM numbers WHERE one = 1 FOR UPDATE",
            ))
            .await?;
        let cursor = cursor_of(&row).map_err(Failed::Not)?;
        let mut set = store::load(&mut connection, &Needs::of(&writes), cursor).await?;
        let outcomes: Vec<WriteOutcome> = writes.into_iter().map(|write| set.apply(write)).collect();
        let cursor = set.cursor;
        store::store(&mut connection, set).await?;
        let numbered = sqlx::query(
            "WITH writer AS (INSERT INTO writers AS w (id, commits, seen_at) VALUES ($1, $2, clock_timestamp()) \
             ON CONFLICT (id) DO UPDATE SET commits = excluded.commits, seen_at = excluded.seen_at RETURNING w.id) \
             UPDATE numbers SET request = $3, batch = $4, event = $5, decision = $6, decision_hash = $7 \
             WHERE one = 1",
        )
        .bind(self.id.as_slice())
        .bind(slot.count)
        .bind(cursor.request.cast_signed())
        .bind(cursor.batch.cast_signed())
        .bind(cursor.event.cast_signed())
        .bind(cursor.decision.cast_signed())
        .bind(cursor.decision_hash.to_vec());
        connection.execute(numbered).await?;
        match connection.execute("COMMIT").await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => return Err(Failed::Conflict(storage_error(&error))),
            Err(error) => return Err(Failed::InDoubt(error.to_string(), outcomes)),
        }
        slot.connection = Some(connection);
        Ok(outcomes)
    }

    /// Checks whether this writer's commit number `count` is durable. Retries until there is an answer; `None` if the
    /// ledger is closed first.
    async fn look(&self, slot: &mut Slot, count: i64) -> Option<bool> {
        let mut pause = LOOK_PAUSE;
        loop {
            match self.look_once(slot).await {
                Ok(done) => return Some(done >= count),
                Err(error) => {
                    tracing::debug!(%error, "can't tell yet what became of a commit; nothing is acknowledged")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.closed.cancelled() => return None,
            }
            pause = (pause * 2).min(LOOK_PAUSE_MOST);
        }
    }

    async fn look_once(&self, slot: &mut Slot) -> Result<i64, LedgerError> {
        let mut connection = self.config.connect().await?;
        let failed = |error: sqlx::Error| storage_error(&error);
        connection.execute("BEGIN").await.map_err(failed)?;
        // Waits until the lost transaction has ended, either way.
        connection.execute("SELECT request FROM numbers WHERE one = 1 FOR UPDATE").await.map_err(failed)?;
        let done: Option<i64> = sqlx::query_scalar("SELECT commits FROM writers WHERE id = $1")
            .bind(self.id.as_slice())
            .fetch_optional(&mut connection)
            .await
            .map_err(failed)?;
        connection.execute("ROLLBACK").await.map_err(failed)?;
        slot.connection = Some(connection);
        Ok(done.unwrap_or(0))
    }
}

fn cursor_of(row: &PgRow) -> Result<Cursor, LedgerError> {
    let mut cells = Cells::of("numbers", row);
    Ok(Cursor {
        request: cells.u64()?,
        batch: cells.u64()?,
        event: cells.u64()?,
        decision: cells.u64()?,
        decision_hash: cells.fixed()?,
    })
}

/// Checks that the database is durable and not from a newer version, and migrates its tables.
async fn migrate(config: &PostgresConfig, connection: &mut PgConnection) -> Result<(), LedgerError> {
    let failed = |error: sqlx::Error| storage_error(&error);
    let version: String = sqlx::query_scalar("SELECT version()").fetch_one(&mut *connection).await.map_err(failed)?;
    let fsync: Result<String, _> = sqlx::query_scalar("SHOW fsync").fetch_one(&mut *connection).await;
    if fsync.is_ok_and(|fsync| fsync == "off") {
        let place = config.place();
        let detail = format!("{place} runs with fsync = off and would lose what was accepted");
        return Err(LedgerError::Storage(detail.into()));
    }
    let mut migrator = migrations::migrator(&migrations::POSTGRES);
    let table = format!("\"{}\"._sqlx_migrations", config.schema);
    let is_there: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::TEXT")
        .bind(&table)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if is_there.is_some() {
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let supported = migrations::newest(&migrations::POSTGRES);
        if let Some(found) = found.filter(|found| *found > supported) {
            return Err(LedgerError::Newer { path: config.place(), found, supported });
        }
    }
    // Wire-compatible distributed databases have no advisory locks: start their first instance alone.
    migrator.set_locking(!version.contains("CockroachDB") && !version.contains("-YB-"));
    migrator.create_schema(config.schema.clone());
    migrator.run(&mut *connection).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(error) => config.at(&error),
        error => LedgerError::Storage(format!("{}: {error}", config.place()).into()),
    })
}

impl SqlStore for PostgresLedger {
    type Row = PgRow;
    type Snapshot = sqlx::Transaction<'static, Postgres>;

    async fn fetch(&self, query: Query) -> Result<Vec<PgRow>, LedgerError> {
        self.read_on(&self.readers, prepared(query)).await
    }

    async fn snapshot(&self) -> Result<Self::Snapshot, LedgerError> {
        let failed = |error: sqlx::Error| storage_error(&error);
        let mut snapshot = self.readers.begin().await.map_err(failed)?;
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
        Ok(snapshot)
    }

    async fn fetch_in(snapshot: &mut Self::Snapshot, query: Query) -> Result<Vec<PgRow>, LedgerError> {
        prepared(query).fetch_all(&mut **snapshot).await.map_err(|error| storage_error(&error))
    }

    async fn end(snapshot: Self::Snapshot) -> Result<(), LedgerError> {
        snapshot.commit().await.map_err(|error| storage_error(&error))
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        let mut slot = self.writer.lock().await;
        let mut tries = 0;
        let outcomes = loop {
            if self.closed.is_cancelled() {
                return Err(LedgerError::Closed);
            }
            tries += 1;
            match self.attempt(&mut slot, writes.clone()).await {
                Ok(outcomes) => break outcomes,
                Err(Failed::Conflict(error)) if tries >= CONFLICT_TRIES => return Err(error),
                Err(Failed::Conflict(_)) => metrics::counter!("slackwater_ledger_conflicts_total").increment(1),
                Err(Failed::Not(error)) => return Err(error),
                Err(Failed::InDoubt(error, outcomes)) => {
                    self.health.failed(&StorageFault::new(FaultKind::InDoubt, error.clone()));
                    tracing::warn!(error, "the answer to a commit is missing; looking whether it is durable");
                    metrics::counter!("slackwater_ledger_doubts_total").increment(1);
                    let count = slot.count;
                    match self.look(&mut slot, count).await {
                        Some(true) => break outcomes,
                        // Nothing of it is there, so it can be retried.
                        Some(false) => {}
                        None => return Err(LedgerError::InDoubt(error)),
                    }
                }
            }
        };
        Ok(outcomes.into_iter().map(Durable::committed).collect())
    }

    async fn shut(&self) {
        // Before the lock: a commit in doubt must not wait for a database that never comes back.
        self.closed.cancel();
        let mut slot = self.writer.lock().await;
        self.readers.close().await;
        self.leasing.close().await;
        if let Some(connection) = slot.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "ledger not closed cleanly");
        }
    }

    fn state(&self) -> Arc<Health> {
        self.health.clone()
    }

    fn shared(&self) -> Option<&dyn Leases> {
        Some(self)
    }
}
