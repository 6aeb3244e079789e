//! The shared ledger: PostgreSQL, written by several instances.
//!
//! Commits happen one after the other: each holds the row of `numbers` from its first statement to its end, so numbers
//! have no gaps, and events become visible in their order. Group commit makes up for it: what waits in an instance shares
//! one transaction.
//!
//! **When the answer to a `COMMIT` is lost**, the ledger does not guess: every commit writes its writer's count into
//! `writers`, and who lost the answer locks `numbers` (which the lost transaction holds until it has ended) and looks.

mod lease;
mod sql;
mod store;

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
};
use tokio_util::sync::CancellationToken;

use super::{
    AttemptRecord, BatchRecord, DecisionRow, Durable, EventFilter, EventRecord, Leases, Ledger, LedgerError,
    RequestFilter, RequestRecord, SpentRow, Write, WriteOutcome,
    apply::{Cursor, HOUR_MS, Needs},
    rows::{Cells, batch_columns, impl_row, payload_columns, request_columns, storage_error},
};
use crate::request::{BatchId, LaneId, RequestId, Status};
use store::StoreError;

/// Tries of a commit that the database refuses because of others' (only distributed databases do).
const CONFLICT_TRIES: u32 = 10;
/// Connections for leases.
const LEASE_CONNECTIONS: u32 = 2;
/// Pauses between looks at what became of a commit.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LOOK_PAUSE_MOST: Duration = Duration::from_secs(1);
/// Writers that have not been seen for so long are forgotten.
const FORGET_WRITERS: &str = "DELETE FROM writers WHERE seen_at < clock_timestamp() - INTERVAL '30 days'";

/// Where the shared ledger lives, and how it is reached. `Debug` hides the URL, which may hold a password.
#[derive(Clone)]
pub struct PostgresConfig {
    options: PgConnectOptions,
    /// The schema that holds the tables, created if absent (`ledger.schema`): a-z, 0-9 and `_`.
    pub schema: String,
    /// Connections for reading (`ledger.read_connections`), at least 1. One more writes, and two keep leases.
    pub read_connections: u32,
    /// Longest wait for a connection (`ledger.connect_timeout_ms`).
    pub connect_timeout: Duration,
    /// Longest time that a statement may take (`ledger.statement_timeout_ms`).
    pub statement_timeout: Duration,
    /// The database ends a transaction whose writer is silent for so long (`ledger.idle_timeout_ms`): an instance that
    /// stands still in the middle of a commit must not hold up the others. Well below a lease period.
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
    /// The defaults, for the database at `url`: `postgres://user:password@host:port/database?sslmode=verify-full`.
    ///
    /// # Errors
    /// [`LedgerError::Storage`] if it is no such URL; never shows it.
    pub fn new(url: &str) -> Result<Self, LedgerError> {
        let is_postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let options = PgConnectOptions::from_str(url).ok().filter(|_| is_postgres);
        let Some(options) = options else {
            return Err(LedgerError::Storage("`ledger.url` is not a postgres:// URL".to_owned()));
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

    /// Whether the way to the database is encrypted and its certificate checked, or does not leave this machine.
    pub fn is_private(&self) -> bool {
        let host = self.options.get_host();
        let is_local = self.options.get_socket().is_some()
            || host == "localhost"
            || host.starts_with('/')
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        is_local || matches!(self.options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
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
            return Err(LedgerError::Storage(format!("`ledger.schema` = {:?} is not a-z, 0-9 and _", self.schema)));
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
            Ok(Err(error)) => Err(LedgerError::Storage(format!("{}: {error}", self.place()))),
            Err(_) => {
                let limit = self.connect_timeout.as_millis();
                Err(LedgerError::Storage(format!(
                    "{}: no connection within {limit} ms (`ledger.connect_timeout_ms`)",
                    self.place()
                )))
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

/// [`Ledger`] in a PostgreSQL database that several instances share.
///
/// **Invariant I2:** a [`Durable`] value leaves [`Ledger::commit`] only after `COMMIT` was answered, or was found done,
/// with `synchronous_commit` on.
#[derive(Debug)]
pub struct PostgresLedger {
    config: PostgresConfig,
    /// Names this writer in `writers`.
    id: [u8; 16],
    /// `None` after a failed or abandoned commit: the next one connects anew.
    writer: tokio::sync::Mutex<Slot>,
    readers: PgPool,
    /// Of their own, so that no crowd of readers keeps a lease from being renewed.
    leasing: PgPool,
    /// The last commit or look failed for want of a database.
    is_away: AtomicBool,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<PgConnection>,
    /// Commits tried so far.
    count: i64,
}

/// How a try to commit failed.
enum Failed {
    /// Nothing of it is durable, for this reason.
    Not(LedgerError),
    /// The database asks for another try.
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

/// Serialization failure or deadlock: rolled back, and worth another try.
fn is_conflict(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
}

impl_row!(PgRow);

impl PostgresLedger {
    /// Opens the ledger, and creates or migrates its schema.
    ///
    /// # Errors
    /// [`LedgerError::Newer`] before anything is changed; [`LedgerError::Storage`] if the database can't be reached, does
    /// not keep what it commits (`fsync = off`), or can't be migrated.
    pub async fn open(config: PostgresConfig) -> Result<Self, LedgerError> {
        config.check_schema()?;
        let mut connection = config.connect().await?;
        migrate(&config, &mut connection).await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| LedgerError::Storage(format!("no randomness: {error}")))?;
        connection.execute(FORGET_WRITERS).await.map_err(|error| storage_error(&error))?;
        Ok(Self {
            readers: config.pool(config.read_connections),
            leasing: config.pool(LEASE_CONNECTIONS),
            config,
            id,
            writer: tokio::sync::Mutex::new(Slot { connection: Some(connection), count: 0 }),
            is_away: AtomicBool::new(false),
            closed: CancellationToken::new(),
        })
    }

    async fn read(&self, query: sqlx::query::Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, LedgerError> {
        self.read_on(&self.readers, query).await
    }

    async fn read_on(
        &self,
        pool: &PgPool,
        query: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, LedgerError> {
        let result = query.fetch_all(pool).await.map_err(|error| storage_error(&error));
        // A commit in doubt looks by itself; the rest is as good as the newest word.
        self.found(matches!(result, Err(LedgerError::Storage(_))));
        result
    }

    /// One try. The connection is put back only after a clean end: if this future is dropped, so is the transaction.
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

    /// Whether this writer's commit number `count` is durable. Asks until there is an answer, or the ledger is closed.
    async fn look(&self, slot: &mut Slot, count: i64) -> Option<bool> {
        let mut pause = LOOK_PAUSE;
        loop {
            match self.look_once(slot).await {
                Ok(done) => return Some(done >= count),
                Err(error) => tracing::warn!(%error, "can't tell yet what became of a commit; nothing is acknowledged"),
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
        // Waits until the lost transaction has ended, one way or the other.
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

    fn found(&self, is_away: bool) {
        if self.is_away.swap(is_away, Ordering::AcqRel) != is_away {
            match is_away {
                true => {
                    tracing::error!(database = %self.config.place(), "the ledger's database is away: nothing is accepted and nothing is sent until it is back")
                }
                false => tracing::info!(database = %self.config.place(), "the ledger's database is back"),
            }
            metrics::gauge!("slackwater_ledger_available").set(if is_away { 0.0 } else { 1.0 });
        }
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

/// Checks that the database keeps what it commits and is not from the future, and brings its tables up to date.
async fn migrate(config: &PostgresConfig, connection: &mut PgConnection) -> Result<(), LedgerError> {
    let failed = |error: sqlx::Error| storage_error(&error);
    let version: String = sqlx::query_scalar("SELECT version()").fetch_one(&mut *connection).await.map_err(failed)?;
    let fsync: Result<String, _> = sqlx::query_scalar("SHOW fsync").fetch_one(&mut *connection).await;
    if fsync.is_ok_and(|fsync| fsync == "off") {
        let place = config.place();
        return Err(LedgerError::Storage(format!("{place} runs with fsync = off and would lose what was accepted")));
    }
    let mut migrator = sqlx::migrate!("migrations/postgres");
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
        let supported = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
        if let Some(found) = found.filter(|found| *found > supported) {
            return Err(LedgerError::Newer { path: config.place(), found, supported });
        }
    }
    // Wire-compatible distributed databases have no advisory locks: start their first instance alone.
    migrator.set_locking(!version.contains("CockroachDB") && !version.contains("-YB-"));
    migrator.create_schema(config.schema.clone());
    migrator.run(&mut *connection).await.map_err(|error| LedgerError::Storage(format!("{}: {error}", config.place())))
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
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
                Err(Failed::Not(error)) => {
                    self.found(matches!(error, LedgerError::Storage(_)));
                    return Err(error);
                }
                Err(Failed::InDoubt(error, outcomes)) => {
                    self.found(true);
                    tracing::warn!(error, "the answer to a commit is missing; looking whether it is durable");
                    metrics::counter!("slackwater_ledger_doubts_total").increment(1);
                    let count = slot.count;
                    match self.look(&mut slot, count).await {
                        Some(true) => break outcomes,
                        // Nothing of it is there, so it can be tried again.
                        Some(false) => {}
                        None => return Err(LedgerError::InDoubt(error)),
                    }
                }
            }
        };
        self.found(false);
        Ok(outcomes.into_iter().map(Durable::committed).collect())
    }

    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE r.id = $1"
        ));
        self.read(query.bind(id.0.to_vec())).await?.first().map(whole_request).transpose()
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
        self.read(query.build()).await?.iter().map(whole_request).collect()
    }

    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq \
             WHERE r.open = 1 AND r.chain_id = $1 AND r.seq > $2 ORDER BY r.seq LIMIT $3"
        ))
        .bind(chain_id.cast_signed())
        .bind(limit_of(after))
        .bind(limit_of(limit as u64));
        self.read(query).await?.iter().map(whole_request).collect()
    }

    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<RequestId>)>, LedgerError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batches AS b WHERE b.chain_id = $1 AND b.sender = $2 AND b.nonce = $3"
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
            " FROM batches AS b WHERE b.state < 3 AND b.chain_id = $1 AND b.sender = $2 ORDER BY b.nonce"
        ))
        .bind(lane.chain_id.cast_signed())
        .bind(lane.sender.to_vec());
        self.whole_batches(query).await
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        let query = sqlx::query("SELECT max(nonce) + 1 FROM batches WHERE chain_id = $1 AND sender = $2")
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
            "SELECT tenant, chain_id, reserved_wei, spent_wei FROM spent WHERE hour >= $1 \
             ORDER BY tenant COLLATE \"C\", chain_id",
        )
        .bind((since_ms / HOUR_MS).cast_signed());
        super::rows::sum_spent(self.read(query).await?.iter().map(|row| row as &dyn super::rows::Row))
    }

    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        let query =
            sqlx::query("SELECT seq, at_ms, prev, hash, body FROM decisions WHERE seq > $1 ORDER BY seq LIMIT $2")
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
        let rows = self.read(sqlx::query("SELECT value FROM meta WHERE key = $1").bind(key.to_owned())).await?;
        rows.first().map(|row| Cells::of("meta value", row).text()).transpose()
    }

    async fn close(&self) {
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

    fn available(&self) -> Result<(), LedgerError> {
        match self.is_away.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(LedgerError::Storage(format!("{} is away", self.config.place()))),
        }
    }

    fn leases(&self) -> Option<&dyn Leases> {
        Some(self)
    }
}

impl PostgresLedger {
    /// The batches of `query` with attempts and members, all as of one moment.
    async fn whole_batches(
        &self,
        query: sqlx::query::Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<RequestId>)>, LedgerError> {
        let failed = |error: sqlx::Error| storage_error(&error);
        let mut snapshot = self.readers.begin().await.map_err(failed)?;
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
        let mut found = Vec::new();
        for row in query.fetch_all(&mut *snapshot).await.map_err(failed)? {
            let (seq, record) = Cells::of("batch", &row).batch()?;
            let attempts = sqlx::query(
                "SELECT idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, created_at_ms \
                 FROM attempts WHERE batch = $1 ORDER BY idx",
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
                 WHERE m.batch = $1 ORDER BY m.position",
            )
            .bind(seq.cast_signed())
            .fetch_all(&mut *snapshot)
            .await
            .map_err(failed)?;
            let members = members.iter().map(|row| Cells::of("batch member", row).request_id());
            found.push((record, attempts, members.collect::<Result<_, _>>()?));
        }
        snapshot.commit().await.map_err(failed)?;
        Ok(found)
    }
}

/// The request's record, payload included.
fn whole_request(row: &PgRow) -> Result<RequestRecord, LedgerError> {
    let mut cells = Cells::of("request", row);
    let (mut record, _) = cells.request()?;
    cells.payload(&mut record)?;
    Ok(record)
}

/// A number used as a bound: beyond the largest signed one is as good as that.
fn limit_of(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
