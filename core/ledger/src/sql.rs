//! The reading side of every SQL ledger. Only query execution and the writing side differ between databases.

use std::{borrow::Cow, collections::BTreeSet, fmt, future::Future, sync::Arc};

use alloy_primitives::Address;
use async_trait::async_trait;

use super::{
    AccountRow, AttemptRecord, BatchMember, BatchRecord, CostRow, DecisionRow, Durable, EndedByKey, EventFilter,
    EventRecord, Health, KeyUse, Leases, Ledger, LedgerError, MarginRow, RequestFilter, RequestRecord, SpentRow, Write,
    WriteOutcome,
    needs::HOUR_MS,
    rows::{
        Cells, Row, batch_columns, counted_wei, padded_wei, payload_columns, request_columns, sum_accounts,
        sum_margins, sum_spent, wei_sums,
    },
};
use crate::{
    request::{BatchId, LaneId, RequestId, Status, TargetRecord},
    time::Timestamp,
};

/// A value in a query.
#[derive(Debug)]
pub(super) enum Value {
    /// A number; unsigned ones as the signed ones with the same bits.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A query with its values: `$1`, `$2`, …, a syntax supported by every database here.
#[derive(Debug)]
pub struct Query {
    /// Consists of literals and placeholders only.
    pub(super) text: Cow<'static, str>,
    pub(super) values: Vec<Value>,
}

impl Query {
    pub(super) const fn new(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), values: Vec::new() }
    }

    fn push(&mut self, text: &str) {
        self.text.to_mut().push_str(text);
    }

    /// Adds `text` and a placeholder for `value`.
    fn push_bind(&mut self, text: &str, value: Value) {
        self.values.push(value);
        let number = self.values.len();
        self.push(&format!("{text}${number}"));
    }

    /// Adds a condition: `column` is one of `values`.
    fn push_one_of(&mut self, column: &str, values: impl IntoIterator<Item = Value>) {
        self.push(column);
        let mut before = " IN (";
        for value in values {
            self.push_bind(before, value);
            before = ", ";
        }
        self.push(")");
    }

    /// Binds the next placeholder of the text.
    pub(super) fn int(mut self, value: i64) -> Self {
        self.values.push(Value::Int(value));
        self
    }

    pub(super) fn text(mut self, value: &str) -> Self {
        self.values.push(Value::Text(value.to_owned()));
        self
    }

    pub(super) fn blob(mut self, value: &[u8]) -> Self {
        self.values.push(Value::Blob(value.to_vec()));
        self
    }

    fn address(self, value: &Address) -> Self {
        self.blob(value.as_slice())
    }
}

/// Most ids in one query.
const MAX_IDS: usize = 1_000;

type WholeBatch = (BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>);

/// A database's query execution, and its specific operations.
pub trait SqlStore: Send + Sync + fmt::Debug + 'static {
    /// Type of its rows.
    type Row: Row + Send + Sync;
    /// A read transaction with a consistent view.
    type Snapshot: Send;

    /// Rows of a query.
    fn fetch(&self, query: Query) -> impl Future<Output = Result<Vec<Self::Row>, LedgerError>> + Send;
    /// Begins a read transaction.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Snapshot, LedgerError>> + Send;
    /// Rows of a query in a read transaction.
    fn fetch_in(
        snapshot: &mut Self::Snapshot,
        query: Query,
    ) -> impl Future<Output = Result<Vec<Self::Row>, LedgerError>> + Send;
    /// Ends a read transaction.
    fn end(snapshot: Self::Snapshot) -> impl Future<Output = Result<(), LedgerError>> + Send;
    /// [`Ledger::commit`].
    fn write(&self, writes: Vec<Write>)
    -> impl Future<Output = Result<Vec<Durable<WriteOutcome>>, LedgerError>> + Send;
    /// [`Ledger::close`].
    fn shut(&self) -> impl Future<Output = ()> + Send;
    /// [`Ledger::health`].
    fn state(&self) -> Arc<Health>;
    /// [`Ledger::leases`].
    fn shared(&self) -> Option<&dyn Leases> {
        None
    }
}

/// The query of [`Ledger::requests`].
fn listed(filter: &RequestFilter) -> Query {
    let mut query = Query::new(concat!(
        "SELECT ",
        request_columns!(),
        ", ",
        payload_columns!(),
        " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE "
    ));
    if filter.skip > 0 {
        // Skipped in an index alone, without the rows.
        query.push("r.seq <= (SELECT s.seq FROM requests AS s WHERE ");
        push_conditions(&mut query, "s", filter);
        query.push_bind(" ORDER BY s.seq DESC LIMIT 1 OFFSET ", Value::Int(limit_of(filter.skip as u64)));
        query.push(") AND ");
    }
    push_conditions(&mut query, "r", filter);
    query.push_bind(" ORDER BY r.seq DESC LIMIT ", Value::Int(limit_of(filter.limit as u64)));
    query
}

/// Adds the conditions of `filter`. A `+` before a column disables its index: a tenant's own requests are scanned,
/// however few others have a status.
fn push_conditions(query: &mut Query, table: &str, filter: &RequestFilter) {
    query.push_bind(&format!("{table}.seq < "), Value::Int(filter.before.map_or(i64::MAX, limit_of)));
    if let Some(from) = filter.from {
        query.push_bind(&format!(" AND {table}.seq >= "), Value::Int(limit_of(from)));
    }
    if let Some(tenant) = &filter.tenant {
        query.push_bind(&format!(" AND {table}.tenant = "), Value::Text(tenant.clone()));
    }
    if let Some(status) = filter.status {
        let looked_at = if filter.tenant.is_some() { "+" } else { "" };
        query.push_bind(&format!(" AND {looked_at}{table}.status = "), Value::Int(status as i64));
    }
    if let Some(chain_id) = filter.chain_id {
        query.push_bind(&format!(" AND +{table}.chain_id = "), Value::Int(chain_id.cast_signed()));
    }
}

#[async_trait]
impl<S: SqlStore> Ledger for S {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        self.write(writes).await
    }

    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        let query = Query::new(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE r.id = $1"
        ));
        self.fetch(query.blob(id.0.as_slice())).await?.first().map(whole_request).transpose()
    }

    async fn requests_by_id(&self, ids: &[RequestId]) -> Result<Vec<RequestRecord>, LedgerError> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let mut query = Query::new(concat!(
                "SELECT ",
                request_columns!(),
                ", ",
                payload_columns!(),
                " FROM requests AS r JOIN payloads AS p ON p.request = r.seq WHERE "
            ));
            query.push_one_of("r.id", ids.iter().map(|id| Value::Blob(id.0.to_vec())));
            for row in self.fetch(query).await? {
                found.push(whole_request(&row)?);
            }
        }
        Ok(found)
    }

    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        self.fetch(listed(filter)).await?.iter().map(whole_request).collect()
    }

    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        let query = Query::new(concat!(
            "SELECT ",
            request_columns!(),
            ", ",
            payload_columns!(),
            " FROM requests AS r JOIN payloads AS p ON p.request = r.seq \
             WHERE r.open = 1 AND r.chain_id = $1 AND r.seq > $2 ORDER BY r.seq LIMIT $3"
        ))
        .int(chain_id.cast_signed())
        .int(limit_of(after))
        .int(limit_of(limit as u64));
        self.fetch(query).await?.iter().map(whole_request).collect()
    }

    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError> {
        let query = Query::new(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batches AS b WHERE b.chain_id = $1 AND b.sender = $2 AND b.nonce = $3"
        ))
        .int(id.lane.chain_id.cast_signed())
        .address(&id.lane.sender)
        .int(id.nonce.cast_signed());
        let found = whole_batches(self, query).await?.pop();
        Ok(found.map(|(batch, attempts, members)| {
            (batch, attempts.into_iter().map(Durable::into_inner).collect(), members)
        }))
    }

    async fn open_batches(&self, lane: LaneId, from: u64, limit: usize) -> Result<Vec<WholeBatch>, LedgerError> {
        let query = Query::new(concat!(
            "SELECT ",
            batch_columns!(),
            " FROM batches AS b WHERE b.state < 3 AND b.chain_id = $1 AND b.sender = $2 AND b.nonce >= $3 \
             ORDER BY b.nonce LIMIT $4"
        ))
        .int(lane.chain_id.cast_signed())
        .address(&lane.sender)
        .int(limit_of(from))
        .int(limit_of(limit as u64));
        whole_batches(self, query).await
    }

    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError> {
        let query = Query::new(
            "SELECT m.position / 1048576, r.id, m.own_gas FROM batch_members AS m JOIN requests AS r ON r.seq = m.request \
             JOIN batches AS b ON b.seq = m.batch WHERE b.chain_id = $1 AND b.sender = $2 AND b.nonce = $3 \
             ORDER BY m.position",
        )
        .int(id.lane.chain_id.cast_signed())
        .address(&id.lane.sender)
        .int(id.nonce.cast_signed());
        let mut contents: Vec<(u32, Vec<BatchMember>)> = Vec::new();
        for row in self.fetch(query).await? {
            let mut cells = Cells::of("batch member", &row);
            let (first, member) = (cells.u32()?, cells.batch_member()?);
            match contents.last_mut().filter(|(known, _)| *known == first) {
                Some((_, members)) => members.push(member),
                None => contents.push((first, vec![member])),
            }
        }
        // Each content ends where the next one begins.
        let ends: Vec<u32> = contents.iter().skip(1).map(|(first, _)| *first).collect();
        Ok(contents.into_iter().zip(ends).map(|((_, members), until)| (until, members)).collect())
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        let query = Query::new("SELECT max(nonce) + 1 FROM batches WHERE chain_id = $1 AND sender = $2")
            .int(lane.chain_id.cast_signed())
            .address(&lane.sender);
        match self.fetch(query).await?.first() {
            Some(row) => Cells::of("lane", row).optional_u64(),
            None => Ok(None),
        }
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        let mut query = Query::new(
            "SELECT seq, request_seq, request_id, tenant, chain_id, status, reason, detail, batch_sender, batch_nonce, \
             tx_hash, block_number, at_ms FROM events",
        );
        query.push_bind(" WHERE seq > ", Value::Int(limit_of(filter.after)));
        if let Some(request) = filter.request {
            query.push_bind(" AND request = ", Value::Int(limit_of(request)));
        }
        if let Some(tenant) = &filter.tenant {
            query.push_bind(" AND tenant = ", Value::Text(tenant.clone()));
        }
        query.push_bind(" ORDER BY seq LIMIT ", Value::Int(limit_of(filter.limit as u64)));
        self.fetch(query).await?.iter().map(|row| Cells::of("event", row).event()).collect()
    }

    async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        match self.fetch(Query::new("SELECT coalesce(max(seq), 0) FROM events")).await?.first() {
            Some(row) => Cells::of("event", row).u64(),
            None => Ok(0),
        }
    }

    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError> {
        let query = Query::new("SELECT tenant, chain_id, reserved_wei, spent_wei FROM spent WHERE hour >= $1");
        sum_spent(self.fetch(query.int((since_ms / HOUR_MS).cast_signed())).await?.iter().map(|row| row as &dyn Row))
    }

    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError> {
        let rows = self.fetch(Query::new("SELECT chain_id, account, tenant, wei FROM batch_accounts")).await?;
        sum_accounts(rows.iter().map(|row| row as &dyn Row))
    }

    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError> {
        let query = Query::new(concat!(
            "SELECT t.tenant, t.chain_id",
            wei_sums!("t.cost"),
            wei_sums!("t.price"),
            " FROM (SELECT r.tenant, r.chain_id, ",
            padded_wei!("r.cost_wei"),
            " AS cost, ",
            padded_wei!("r.price_wei"),
            " AS price FROM requests AS r WHERE r.price_wei IS NOT NULL) AS t \
             GROUP BY t.tenant, t.chain_id, CASE WHEN t.price > t.cost THEN 1 ELSE 0 END"
        ));
        sum_margins(self.fetch(query).await?.iter().map(|row| row as &dyn Row))
    }

    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError> {
        let query = Query::new(
            "SELECT seq, chain_id, signer, target, cost_wei, price_wei FROM requests \
             WHERE tenant = $1 AND seq > $2 AND accepted_at_ms >= $3 AND open = 0 AND cost_wei IS NOT NULL \
             ORDER BY seq LIMIT $4",
        )
        .text(tenant)
        .int(limit_of(after))
        .int(limit_of(since.0))
        .int(limit_of(limit as u64));
        self.fetch(query).await?.iter().map(|row| Cells::of("request", row).cost()).collect()
    }

    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError> {
        if keys.is_empty() {
            return Ok(KeyUse::default());
        }
        // The index by tenant and number covers all of a tenant's past requests, so the open ones are found by chain.
        let mut open = Query::new(
            "SELECT r.submitted_by, r.id, r.chain_id, r.accepted_at_ms, r.reserved_wei FROM requests AS r \
             WHERE r.open = 1 AND r.chain_id IN (SELECT chain_id FROM request_counts) AND r.tenant || '' = $1",
        )
        .text(tenant);
        let text = |key: &Arc<str>| Value::Text(key.to_string());
        open.push_one_of(" AND r.submitted_by", keys.iter().map(text));
        open.push(" ORDER BY r.chain_id, r.seq");
        let mut ended = Query::new(concat!(
            "SELECT t.submitted_by, t.chain_id, t.is_after, count(*)",
            wei_sums!("t.wei"),
            " FROM (SELECT r.submitted_by, r.chain_id, ",
            counted_wei!(),
            " AS wei, CAST(CASE WHEN r.accepted_at_ms >= $2 THEN 1 ELSE 0 END + \
             CASE WHEN r.accepted_at_ms >= $3 THEN 2 ELSE 0 END AS BIGINT) AS is_after \
             FROM requests AS r WHERE r.tenant = $1 AND r.open = 0 AND r.accepted_at_ms >= $4 AND r.seq > \
             coalesce((SELECT o.seq FROM requests AS o WHERE o.tenant = $1 AND o.accepted_at_ms < $5 \
             ORDER BY o.seq DESC LIMIT 1), 0)"
        ))
        .text(tenant);
        let earliest = since[0].min(since[1]).0;
        for at in [since[0].0, since[1].0, earliest, earliest.saturating_sub(HOUR_MS)] {
            ended = ended.int(limit_of(at));
        }
        ended.push_one_of(" AND r.submitted_by", keys.iter().map(text));
        ended.push(") AS t GROUP BY t.submitted_by, t.chain_id, t.is_after ORDER BY t.submitted_by, t.chain_id");

        let mut snapshot = self.snapshot().await?;
        let open = S::fetch_in(&mut snapshot, open).await?;
        let ended = S::fetch_in(&mut snapshot, ended).await?;
        S::end(snapshot).await?;
        let open = open.iter().map(|row| Cells::of("request", row).open_by_key()).collect::<Result<_, _>>()?;
        let mut sums: Vec<EndedByKey> = Vec::new();
        for row in &ended {
            let mut cells = Cells::of("sum of requests", row);
            let (key, chain_id) = (cells.text()?, cells.u64()?);
            let (is_after, requests, counted_wei) = (cells.u64()?, cells.u64()?, cells.wei_sum()?);
            if sums.last().is_none_or(|last| (&last.key, last.chain_id) != (&key, chain_id)) {
                sums.push(EndedByKey { key, chain_id, since: Default::default() });
            }
            if let Some(sum) = sums.last_mut() {
                sum.add([is_after & 1 != 0, is_after & 2 != 0], requests, counted_wei);
            }
        }
        Ok(KeyUse { open, ended: sums })
    }

    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError> {
        let query = Query::new(
            "SELECT signer_nonce FROM requests WHERE chain_id = $1 AND forwarder = $2 AND signer = $3 \
             AND holds_nonce = 1 AND signer_nonce IS NOT NULL AND open = 1",
        )
        .int(chain_id.cast_signed())
        .address(&forwarder)
        .address(&signer);
        let mut nonces: Vec<u64> =
            self.fetch(query).await?.iter().map(|row| Cells::of("request", row).u64()).collect::<Result<_, _>>()?;
        nonces.sort_unstable();
        Ok(nonces)
    }

    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        let query =
            Query::new("SELECT seq, at_ms, prev, hash, body FROM decisions WHERE seq > $1 ORDER BY seq LIMIT $2")
                .int(limit_of(after))
                .int(limit_of(limit as u64));
        self.fetch(query).await?.iter().map(|row| Cells::of("decision", row).decision()).collect()
    }

    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError> {
        let query = Query::new("SELECT seq, at_ms, prev, hash, body FROM decisions ORDER BY seq DESC LIMIT 1");
        self.fetch(query).await?.first().map(|row| Cells::of("decision", row).decision()).transpose()
    }

    async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        let query = Query::new(
            "SELECT chain_id, status, requests FROM request_counts WHERE requests <> 0 ORDER BY chain_id, status",
        );
        let rows = self.fetch(query).await?;
        let count = |row: &S::Row| {
            let mut cells = Cells::of("count of requests", row);
            Ok((cells.u64()?, cells.status()?, cells.u64()?))
        };
        rows.iter().map(count).collect()
    }

    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError> {
        let query = Query::new(
            "SELECT target, clean_runs, surprises, suspect_until_ms, shown_by, seen_at_ms FROM targets \
             WHERE chain_id = $1 ORDER BY seen_at_ms, target",
        );
        let rows = self.fetch(query.int(chain_id.cast_signed())).await?;
        rows.iter().map(|row| Cells::of("target", row).target()).collect()
    }

    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        let rows = self.fetch(Query::new("SELECT value FROM meta WHERE key = $1").text(key)).await?;
        rows.first().map(|row| Cells::of("meta value", row).text()).transpose()
    }

    async fn close(&self) {
        self.shut().await;
    }

    fn health(&self) -> Option<Arc<Health>> {
        Some(self.state())
    }

    fn leases(&self) -> Option<&dyn Leases> {
        self.shared()
    }
}

/// The batches of `query` with attempts and members, in one consistent view.
async fn whole_batches<S: SqlStore>(store: &S, query: Query) -> Result<Vec<WholeBatch>, LedgerError> {
    let mut snapshot = store.snapshot().await?;
    let mut found = Vec::new();
    for row in S::fetch_in(&mut snapshot, query).await? {
        let (seq, record) = Cells::of("batch", &row).batch()?;
        let attempts = Query::new(
            "SELECT idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, created_at_ms \
             FROM attempts WHERE batch = $1 ORDER BY idx",
        );
        let attempts = S::fetch_in(&mut snapshot, attempts.int(seq.cast_signed()))
            .await?
            .iter()
            .map(|row| Cells::of("attempt", row).attempt(record.id).map(Durable::committed))
            .collect::<Result<_, _>>()?;
        let members = Query::new(
            "SELECT r.id, m.own_gas FROM batch_members AS m JOIN requests AS r ON r.seq = m.request \
             WHERE m.batch = $1 AND m.position >= \
             (SELECT max(position) / 1048576 * 1048576 FROM batch_members WHERE batch = $1) ORDER BY m.position",
        );
        let members = S::fetch_in(&mut snapshot, members.int(seq.cast_signed())).await?;
        let members = members.iter().map(|row| Cells::of("batch member", row).batch_member());
        found.push((record, attempts, members.collect::<Result<_, _>>()?));
    }
    S::end(snapshot).await?;
    Ok(found)
}

/// The request's record, including its payload.
fn whole_request<R: Row>(row: &R) -> Result<RequestRecord, LedgerError> {
    let mut cells = Cells::of("request", row);
    let (mut record, _) = cells.request()?;
    cells.payload(&mut record)?;
    Ok(record)
}

/// A number used as a bound, saturating at the largest signed one.
fn limit_of(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Implements [`Row`] for the rows of a database, and the preparation of its queries.
macro_rules! impl_sql {
    ($row:ty, $database:ty, $arguments:ty) => {
        impl $crate::rows::Row for $row {
            fn int(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }

            fn text(&self, column: usize) -> Result<Option<&str>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }

            fn blob(&self, column: usize) -> Result<Option<&[u8]>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
        }

        fn prepared(query: $crate::sql::Query) -> sqlx::query::Query<'static, $database, $arguments> {
            use $crate::sql::Value;
            let text = sqlx::AssertSqlSafe(query.text.into_owned());
            query.values.into_iter().fold(sqlx::query(text), |prepared, value| match value {
                Value::Int(value) => prepared.bind(value),
                Value::Text(value) => prepared.bind(value),
                Value::Blob(value) => prepared.bind(value),
            })
        }
    };
}
pub(super) use impl_sql;

#[cfg(test)]
mod tests {
    use sqlx::Row as _;

    use super::*;
    use crate::{SqliteConfig, SqliteLedger};

    /// SQLite's query plan for `query`, without the payloads.
    async fn plan(ledger: &SqliteLedger, mut query: Query) -> Vec<String> {
        query.text = format!("EXPLAIN QUERY PLAN {}", query.text).into();
        let rows = ledger.fetch(query).await.unwrap();
        let steps = rows.iter().map(|row| row.get::<String, _>("detail"));
        steps.filter(|step| !step.contains("SEARCH p ") && !step.contains("SCALAR SUBQUERY")).collect()
    }

    /// A list uses a single index, newest first, and sorts nothing: the rows scanned are bounded by its end.
    #[tokio::test]
    async fn lists_go_through_the_index_that_fits() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = SqliteLedger::open(SqliteConfig::new(dir.path().join("ledger.db"))).await.unwrap();
        let (tenant, status, chain_id) = (Some("acme".to_owned()), Some(Status::Rejected), Some(1));
        let base = RequestFilter { before: Some(9), from: Some(5), limit: 50, ..RequestFilter::default() };
        let of_tenant = RequestFilter { tenant, ..base.clone() };
        for (filter, step) in [
            (base.clone(), "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (RequestFilter { chain_id, ..base.clone() }, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (RequestFilter { status, ..base.clone() }, "INDEX requests_status (status=? AND seq>? AND seq<?)"),
            (
                RequestFilter { status, chain_id, ..base.clone() },
                "INDEX requests_status (status=? AND seq>? AND seq<?)",
            ),
            (of_tenant.clone(), "INDEX requests_tenant (tenant=? AND seq>? AND seq<?)"),
            (RequestFilter { status, ..of_tenant.clone() }, "INDEX requests_tenant (tenant=? AND seq>? AND seq<?)"),
            (
                RequestFilter { status, chain_id, ..of_tenant.clone() },
                "INDEX requests_tenant (tenant=? AND seq>? AND seq<?)",
            ),
        ] {
            assert_eq!(plan(&ledger, listed(&filter)).await, [format!("SEARCH r USING {step}")], "{filter:?}");
            let unbounded = RequestFilter { from: None, ..filter };
            if let Some(beyond) = unbounded.beyond(20_000) {
                let steps = plan(&ledger, listed(&beyond)).await;
                assert!(steps.iter().any(|step| step.starts_with("SEARCH s USING ")), "{steps:?}");
                let is_in_index = |step: &String| step.contains("COVERING INDEX") || step.contains("PRIMARY KEY");
                assert!(steps.iter().filter(|step| step.contains(" s ")).all(is_in_index), "{steps:?}");
                assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
            }
        }
    }
}
