//! Tests specific to the ledger on PostgreSQL.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use slackwater_core::{provenance, request::Status};
use slackwater_ledger::{
    AcceptOutcome, BudgetLimit, EventFilter, Fence, GroupCommit, GroupCommitConfig, LeaseOutcome, Ledger, LedgerError,
    NewRequest, PostgresConfig, PostgresLedger, RequestChange, Write, WriteOutcome,
};
use sqlx::{Connection, Executor, PgConnection};

use crate::ledger::{
    Store,
    conformance::snapshot,
    sample::*,
    server::{PostgresServer, URL_VAR},
};

/// The server that the tests share: the one that is configured, else one for this process.
fn url() -> &'static str {
    static SERVER: OnceLock<(Option<PostgresServer>, String)> = OnceLock::new();
    let (_, url) = SERVER.get_or_init(|| match std::env::var(URL_VAR) {
        Ok(url) if !url.is_empty() => (None, url),
        _ => {
            let server = PostgresServer::start().unwrap_or_else(|missing| panic!("{missing}"));
            let url = server.url();
            (Some(server), url)
        }
    });
    url
}

/// A schema for one test.
#[derive(Debug)]
pub(crate) struct TempSchema {
    url: String,
    schema: String,
}

impl TempSchema {
    pub(crate) fn new() -> Self {
        Self::on(url())
    }

    fn on(url: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let schema = format!("t_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { url: url.to_owned(), schema }
    }

    fn config(&self) -> PostgresConfig {
        let mut config = PostgresConfig::new(&self.url).expect("a URL");
        config.schema.clone_from(&self.schema);
        config
    }

    async fn ledger(&self) -> Arc<PostgresLedger> {
        Arc::new(PostgresLedger::open(self.config()).await.expect("opens"))
    }

    async fn raw(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.url).await.expect("connects");
        self.execute(&mut connection, &format!("SET search_path = {}", self.schema)).await;
        connection
    }

    async fn execute(&self, connection: &mut PgConnection, sql: &str) {
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))).await.expect("runs");
    }
}

impl Store for TempSchema {
    async fn open(&self) -> Arc<dyn Ledger> {
        self.ledger().await
    }
}

#[tokio::test]
async fn no_password_is_shown() {
    let config = PostgresConfig::new("postgres://me:hunter2@127.0.0.1:1/none?sslmode=disable").unwrap();
    let error = PostgresLedger::open(config.clone()).await.expect_err("nobody listens there");
    let shown = format!("{config:?} {error} {error:?} {}", config.place());
    assert!(shown.contains("127.0.0.1:1/none"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains("me:"), "{shown}");
    for bad in ["mysql://me:hunter2@host/db", "hunter2", "postgres://me:hunter2@host:99999999/db"] {
        let error = PostgresConfig::new(bad).expect_err("no such URL");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let store = TempSchema::new();
    store.open().await.close().await;
    let mut raw = store.raw().await;
    store.execute(&mut raw, "UPDATE _sqlx_migrations SET version = 999 WHERE version = 1").await;
    match PostgresLedger::open(store.config()).await {
        Err(LedgerError::Newer { found: 999, supported, .. }) => assert!(supported < 999),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn schema_names_are_checked() {
    for bad in ["", "a b", "a\"; DROP SCHEMA public; --", "A"] {
        let mut config = TempSchema::new().config();
        config.schema = bad.to_owned();
        assert!(matches!(PostgresLedger::open(config).await, Err(LedgerError::Storage(_))), "{bad}");
    }
}

#[tokio::test]
async fn several_open_an_empty_database_at_once() {
    let store = TempSchema::new();
    let open = || async { PostgresLedger::open(store.config()).await };
    let (a, b, c) = tokio::join!(open(), open(), open());
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    accept_all(&a, 1..=2).await;
    accept_all(&b, 3..=4).await;
    assert_eq!(snapshot(&c).await, snapshot(&a).await);
    assert_eq!(c.last_event_seq().await.unwrap(), 4);
}

#[tokio::test]
async fn writers_share_one_sequence() {
    let store = TempSchema::new();
    let ledgers = [store.ledger().await, store.ledger().await, store.ledger().await];
    let tasks: Vec<_> = (0..)
        .zip(&ledgers)
        .map(|(writer, ledger)| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for round in 0..20_u64 {
                    let first = writer * 1_000 + round * 10;
                    let writes = (first..first + 5).map(|n| accept(new(n))).chain([Write::Decide {
                        owner: "us".into(),
                        at_ms: round,
                        decision: Box::new(provenance::Decision::Alert {
                            code: "test".to_owned(),
                            subject: format!("{writer}"),
                            detail: String::new(),
                        }),
                    }]);
                    commit(&*ledger, writes.collect()).await;
                }
            })
        })
        .collect();
    // A reader never sees a number before those below it.
    let mut seen = 0;
    let started = tokio::time::Instant::now();
    while seen < 300 {
        assert!(started.elapsed() < Duration::from_secs(60), "{seen} events");
        let events = ledgers[0].events(&EventFilter { after: seen, limit: 50, ..Default::default() }).await.unwrap();
        for event in &events {
            assert_eq!(event.seq, seen + 1);
            seen = event.seq;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let decisions = ledgers[1].decisions(0, 100).await.unwrap();
    assert_eq!(decisions.len(), 60);
    let entries = decisions.into_iter().map(|row| provenance::Entry {
        seq: row.seq,
        at_ms: row.at_ms,
        prev: row.prev,
        hash: row.hash,
        body: row.body,
    });
    provenance::verify_chain_from(provenance::Head::genesis("us"), entries.collect::<Vec<_>>()).expect("one chain");
}

#[tokio::test]
async fn one_key_one_nonce_one_request_whoever_asks() {
    let store = TempSchema::new();
    let (a, b) = (store.ledger().await, store.ledger().await);
    for n in 0..20 {
        let ours = NewRequest { sequence: with_sequence(0, 1, n).sequence, ..with_key(n, &format!("k{n}"), 1) };
        let theirs = NewRequest { id: id(1_000 + n), ..ours.clone() };
        let other = NewRequest { idempotency: None, id: id(2_000 + n), ..ours.clone() };
        let (first, second) =
            tokio::join!(commit(&*a, vec![accept(ours)]), commit(&*b, vec![accept(theirs), accept(other)]));
        let accepts = |outcome: &WriteOutcome| matches!(outcome, WriteOutcome::Accept(AcceptOutcome::Accepted { .. }));
        let all: Vec<_> = first.into_iter().chain(second).collect();
        assert_eq!(all.iter().filter(|outcome| accepts(outcome)).count(), 1, "{all:?}");
    }
}

#[tokio::test]
async fn a_budget_is_never_overspent_by_two() {
    let store = TempSchema::new();
    let (a, b) = (store.ledger().await, store.ledger().await);
    let limit = BudgetLimit { limit_wei: alloy_primitives::U256::from(10_500), since: NOW };
    let writes = |from: u64| (from..from + 20).map(|n| accept(NewRequest { budget: Some(limit), ..new(n) }));
    let (first, second) = tokio::join!(
        async {
            let mut all = Vec::new();
            for write in writes(0) {
                all.push(one(&*a, write).await);
            }
            all
        },
        commit(&*b, writes(100).collect())
    );
    let all: Vec<_> = first.into_iter().chain(second).collect();
    let accepted = |outcome: &&WriteOutcome| matches!(outcome, WriteOutcome::Accept(AcceptOutcome::Accepted { .. }));
    assert_eq!(all.iter().filter(accepted).count(), 10, "{all:?}");
    assert!(all.iter().any(|outcome| matches!(
        outcome,
        WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { available_wei, .. }) if *available_wei == alloy_primitives::U256::from(500)
    )));
    // A request that ends without cost frees its reservation; a past hour does not count.
    let n = (0..200).find(|n| [0..20, 100..120].iter().any(|range| range.contains(n))).unwrap();
    let open = a.open_requests(CHAIN, 0, 1).await.unwrap();
    let end = Write::Requests { changes: vec![RequestChange::to(open[0].id, Status::Expired)], at: NOW };
    applied(&one(&*a, end).await);
    let again = NewRequest { budget: Some(limit), ..new(n + 500) };
    accepted_once(&one(&*b, accept(again)).await);
    let later = slackwater_core::Timestamp(NOW.0 + 2 * HOUR_MS);
    let fresh = NewRequest { budget: Some(BudgetLimit { since: later, ..limit }), accepted_at: later, ..new(900) };
    accepted_once(&one(&*b, accept(fresh)).await);
}

#[tokio::test]
async fn a_budget_without_a_period_reads_one_total_and_not_every_hour() {
    let store = TempSchema::new();
    let ledger = store.ledger().await;
    // A ledger of the previous version, with two years of hours.
    let mut raw = store.raw().await;
    let old = "DROP TRIGGER spent_totals ON spent; DROP FUNCTION add_to_spent_totals; DROP TABLE spent_totals; \
               DELETE FROM _sqlx_migrations WHERE version = 21; \
               INSERT INTO spent SELECT 'acme', 1, h, '7', '3' FROM generate_series(1, 17520) AS h";
    drop(ledger);
    store.execute(&mut raw, &old.replace("'acme', 1", &format!("'{}', {CHAIN}", new(0).tenant))).await;
    let (a, b) = (store.ledger().await, store.ledger().await);
    let used = 17_520 * 10;
    let limit =
        BudgetLimit { limit_wei: alloy_primitives::U256::from(used + 2_000), since: slackwater_core::Timestamp(0) };
    let within = |n: u64| accept(NewRequest { budget: Some(limit), ..new(n) });
    accepted_once(&one(&*a, within(0)).await);
    accepted_once(&one(&*b, within(1)).await);
    let refused = one(&*a, within(2)).await;
    let WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { available_wei, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(available_wei.is_zero(), "{available_wei}");
    // A request that ends without cost frees its reservation, and writes of an older version are counted.
    let open = a.open_requests(CHAIN, 0, 1).await.unwrap();
    let end = Write::Requests { changes: vec![RequestChange::to(open[0].id, Status::Expired)], at: NOW };
    applied(&one(&*a, end).await);
    accepted_once(&one(&*b, within(2)).await);
    store.execute(&mut raw, "UPDATE spent SET reserved_wei = '0' WHERE hour <= 100").await;
    let refused = one(&*a, within(3)).await;
    assert!(
        matches!(&refused, WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { available_wei, .. }) if *available_wei == alloy_primitives::U256::from(700)),
        "{refused:?}"
    );
    let sums = "SELECT count(*) FROM spent_totals AS t WHERE (reserved_wei, spent_wei) <> (SELECT \
                sum(reserved_wei::NUMERIC), sum(spent_wei::NUMERIC) FROM spent AS s WHERE s.tenant = t.tenant AND s.chain_id = t.chain_id)";
    let wrong: i64 = sqlx::query_scalar(sums).fetch_one(&mut raw).await.unwrap();
    assert_eq!(wrong, 0);
}

#[track_caller]
fn accepted_once(outcome: &WriteOutcome) {
    accepted(outcome);
}

fn under(fence: Fence, write: Write) -> Write {
    Write::Fenced(fence, Box::new(write))
}

async fn acquire(ledger: &dyn Ledger, owner: &str, period: Duration) -> LeaseOutcome {
    ledger.leases().expect("is shared").acquire(CHAIN, owner, period).await.expect("answers")
}

#[track_caller]
fn taken(outcome: LeaseOutcome) -> Fence {
    match outcome {
        LeaseOutcome::Taken(fence) => fence,
        LeaseOutcome::Held(by) => panic!("held by {by:?}"),
    }
}

#[tokio::test]
async fn a_lease_has_one_owner_and_its_token_grows() {
    const LONG: Duration = Duration::from_secs(60);
    let store = TempSchema::new();
    let (a, b) = (store.ledger().await, store.ledger().await);
    let first = taken(acquire(&*a, "a", LONG).await);
    match acquire(&*b, "b", LONG).await {
        LeaseOutcome::Held(by) => {
            assert_eq!((by.fence, by.owner.as_str()), (first, "a"));
            assert!(by.remaining > LONG / 2 && by.remaining <= LONG);
        }
        other => panic!("{other:?}"),
    }
    // Not even its owner acquires it twice: a restarted instance of the same name is a different one.
    assert!(matches!(acquire(&*a, "a", LONG).await, LeaseOutcome::Held(_)));
    assert!(a.leases().unwrap().renew(first, LONG).await.unwrap());
    a.leases().unwrap().release(first).await.unwrap();
    let second = taken(acquire(&*b, "b", Duration::from_millis(1)).await);
    assert!(second.token > first.token);
    assert!(!a.leases().unwrap().renew(first, LONG).await.unwrap(), "another took it");
    a.leases().unwrap().release(first).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let third = taken(acquire(&*a, "a", LONG).await);
    assert!(third.token > second.token);
    assert_eq!(b.leases().unwrap().leases().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stale_owner_writes_nothing() {
    const LONG: Duration = Duration::from_secs(60);
    let store = TempSchema::new();
    let (a, b) = (store.ledger().await, store.ledger().await);
    accept_all(&*a, 1..=4).await;
    let nobody = Fence { chain_id: CHAIN, token: 1 };
    let outcome = one(&*a, under(nobody, plan(0, &[1]))).await;
    assert_eq!(outcome, WriteOutcome::Fenced { token: 1, in_force: None });
    let first = taken(acquire(&*a, "a", Duration::from_millis(300)).await);
    applied(&one(&*a, under(first, plan(0, &[1]))).await);
    tokio::time::sleep(Duration::from_millis(400)).await;
    // Expired, though no other instance has acquired it.
    let outcome = one(&*a, under(first, plan(1, &[2]))).await;
    assert_eq!(outcome, WriteOutcome::Fenced { token: first.token, in_force: None });
    let second = taken(acquire(&*b, "b", LONG).await);
    let late = vec![
        under(first, plan(1, &[2])),
        under(first, Write::Attempt(Box::new(attempt(0, 1)))),
        under(first, ended(&[3], Status::Expired)),
        under(first, Write::Meta { key: "k".to_owned(), value: "v".to_owned() }),
        // Neighbouring writes are not affected.
        accept(new(5)),
        under(second, plan(1, &[2])),
    ];
    let outcomes = commit(&*a, late).await;
    for outcome in &outcomes[..4] {
        assert_eq!(*outcome, WriteOutcome::Fenced { token: first.token, in_force: Some(second.token) });
    }
    accepted(&outcomes[4]);
    assert_eq!(statuses(&outcomes[5]), [Status::Batched]);
    assert_eq!(b.meta("k").await.unwrap(), None);
    assert_eq!(request(&*b, 3).await.status, Status::Queued);
    assert_eq!(b.batch(batch_id(0)).await.unwrap().unwrap().1.len(), 1);
}

#[tokio::test]
async fn a_change_of_owner_waits_for_commits_under_the_old_lease() {
    let store = TempSchema::new();
    let a = store.ledger().await;
    accept_all(&*a, 1..=1).await;
    let fence = taken(acquire(&*a, "a", Duration::from_millis(200)).await);
    // A commit that has checked the lease and is still in progress.
    let mut slow = store.raw().await;
    let check = format!("BEGIN; SELECT 1 FROM leases WHERE token = {} FOR SHARE", fence.token);
    store.execute(&mut slow, &check).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let b = store.ledger().await;
    let mut next = Box::pin(acquire(&*b, "b", Duration::from_secs(60)));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut next).await.is_err(), "must wait");
    store.execute(&mut slow, "COMMIT").await;
    assert!(taken(next.await).token > fence.token);
}

#[tokio::test]
async fn open_requests_are_counted_as_of_an_event() {
    let store = TempSchema::new();
    let ledger = store.ledger().await;
    assert_eq!(ledger.leases().unwrap().open_by_tenant().await.unwrap(), (0, Vec::new()));
    accept_all(&*ledger, 1..=3).await;
    applied(&one(&*ledger, ended(&[1], Status::Expired)).await);
    let counted = ledger.leases().unwrap().open_by_tenant().await.unwrap();
    assert_eq!(counted, (4, vec![("acme".to_owned(), 2)]));
}

#[tokio::test]
async fn text_that_postgresql_cannot_hold_is_stored_all_the_same() {
    let store = TempSchema::new();
    let ledger = store.ledger().await;
    accept_all(&*ledger, 1..=1).await;
    let mut change = RequestChange::to(id(1), Status::Rejected);
    change.detail = Some("reverted: \0\0oh".to_owned());
    applied(&one(&*ledger, Write::Requests { changes: vec![change], at: NOW }).await);
    let events = ledger.events(&EventFilter { after: 1, limit: 1, ..Default::default() }).await.unwrap();
    assert_eq!(events[0].detail.as_deref(), Some("reverted: \u{fffd}\u{fffd}oh"));
}

#[tokio::test]
async fn abandoned_commit_is_all_or_nothing() {
    let store = TempSchema::new();
    let ledger = store.ledger().await;
    accept_all(&*ledger, 0..1).await;
    let mut seen = 1;
    for round in 1..=20_u64 {
        let writes = (0..10).map(|n| accept(new(round * 100 + n))).collect();
        let mut commit = Box::pin(ledger.commit(writes));
        let within = Duration::from_micros(round * 300);
        if tokio::time::timeout(within, &mut commit).await.is_err() {
            assert!((&mut commit).now_or_never().is_none_or(|done| done.is_ok()));
        }
        drop(commit);
        accepted(&one(&*ledger, accept(new(round * 100 + 50))).await);
        let last = ledger.last_event_seq().await.unwrap();
        assert!(last == seen + 1 || last == seen + 11, "{last} events after {seen}");
        seen = last;
    }
}

#[tokio::test]
async fn a_writer_that_stands_still_holds_nobody_up() {
    let store = TempSchema::new();
    let ledger = store.ledger().await;
    let mut frozen = store.raw().await;
    store.execute(&mut frozen, "SET idle_in_transaction_session_timeout = 500").await;
    store.execute(&mut frozen, "BEGIN; SELECT 1 FROM numbers FOR UPDATE").await;
    let started = tokio::time::Instant::now();
    accept_all(&*ledger, 1..=1).await;
    assert!(started.elapsed() > Duration::from_millis(300), "it did hold the lock");
    assert!(frozen.execute("SELECT 1").await.is_err(), "its session was ended");
}

/// Cuts every connection of the schema's ledgers, again and again, so that some lose the answer to their `COMMIT`.
#[tokio::test]
async fn cut_connections_lose_and_double_nothing() {
    let store = TempSchema::new();
    let mut config = store.config();
    config.statement_timeout = Duration::from_secs(5);
    let ledger = Arc::new(PostgresLedger::open(config).await.unwrap());
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    let mut cutter = PgConnection::connect(&store.url).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let cutting = tokio::spawn({
        let (stop, schema) = (stop.clone(), store.schema.clone());
        async move {
            let mut cuts = 0;
            while !stop.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(7)).await;
                // Only sessions that work in our schema: other tests share the server.
                let cut = sqlx::query(
                    "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a JOIN pg_locks AS l ON l.pid = a.pid \
                     WHERE l.relation = to_regclass($1) AND a.pid <> pg_backend_pid() AND l.mode = 'RowExclusiveLock'",
                )
                .bind(format!("{schema}.numbers"));
                cuts += cutter.fetch_all(cut).await.map_or(0, |rows| rows.len());
            }
            cuts
        }
    });
    let mut acknowledged = 0;
    for n in 0..300 {
        loop {
            match group.submit(accept(new(n))).await {
                Ok(outcome) => {
                    // A retry after an error that said "nothing was committed" must not find the request committed.
                    accepted(outcome.get());
                    acknowledged += 1;
                    break;
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    }
    stop.cancel();
    let cuts = cutting.await.unwrap();
    eprintln!("{cuts} connections cut");
    assert!(cuts > 0);
    assert_eq!(acknowledged, 300);
    let events = ledger.events(&EventFilter { limit: 1_000, ..Default::default() }).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=300));
}

#[tokio::test]
async fn a_restart_of_the_server_loses_and_doubles_nothing() {
    let Ok(mut server) = PostgresServer::start() else { panic!("a server of its own") };
    let store = TempSchema::on(&server.url());
    let ledger = store.ledger().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    let writing = tokio::spawn(async move {
        let (mut refused, mut n) = (0, 0);
        while n < 400 {
            match group.submit(accept(new(n))).await {
                Ok(outcome) => {
                    accepted(outcome.get());
                    n += 1;
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        refused
    });
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        if round % 2 == 0 { server.stop() } else { server.crash() }.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.launch().unwrap();
    }
    let refused = writing.await.unwrap();
    eprintln!("{refused} commits refused while it was away");
    let events = ledger.events(&EventFilter { limit: 1_000, ..Default::default() }).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=400));
    assert_eq!(ledger.health().and_then(|health| health.fault()), None);
}
