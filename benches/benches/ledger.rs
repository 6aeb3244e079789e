//! Making acceptances durable: one transaction and one fsync for 1, 64 and 1 000 of them. On SQLite, and on a
//! PostgreSQL server of its own by one instance and by three at once.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::{sync::Arc, time::Instant};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slackwater_benches::postgres::PostgresServer;
use slackwater_core::{Timestamp, request::RequestId};
use slackwater_ledger::{Ledger as _, NewRequest, PostgresConfig, PostgresLedger, SqliteConfig, SqliteLedger, Write};
use tokio::{runtime::Runtime, task::JoinSet};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn acceptance(n: u64) -> Write {
    let hash = keccak256(n.to_be_bytes());
    Write::Accept(Box::new(NewRequest {
        id: RequestId(hash),
        tenant: "default".to_owned(),
        chain_id: 31_337,
        kind: "forward",
        sequence: Some((Address::repeat_byte(0xf0), Address::from_word(hash), 0)),
        target: Address::repeat_byte(0x9b),
        deadline: Timestamp(NOW.0 + 600_000),
        valid_until: Timestamp(NOW.0 + 600_000),
        accepted_at: NOW,
        reserved_wei: U256::from(10_u64.pow(15)),
        price_percent: 100,
        ceiling_wei_per_gas: 8_000_000_000,
        // As large as a stored request that marks a tag.
        payload: B256::repeat_byte(0xaa).repeat(18),
        promise_signature: Bytes::from(vec![0xbb; 65]),
        quote: r#"{"baseFeeWeiPerGas":1000000000,"priorityFeeWeiPerGas":1,"gas":170000,"expectedCostWei":"0x1","maxCostWei":"0x2"}"#
            .to_owned(),
        idempotency: None,
        budget: None,
        takes_over: true,
        submitted_by: None,
    }))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn on_sqlite(criterion: &mut Criterion) {
    let runtime = runtime();
    // On a disk, not in memory: the benchmark measures the fsync.
    let dir = tempfile::TempDir::with_prefix_in("slackwater-bench-", env!("CARGO_TARGET_TMPDIR"))
        .expect("a temporary directory");
    let ledger =
        runtime.block_on(SqliteLedger::open(SqliteConfig::new(dir.path().join("ledger.db")))).expect("a ledger");
    let mut number = 0;
    let mut group = criterion.benchmark_group("ledger commit");
    for size in [1_u64, 64, 1_000] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter_batched(
                || {
                    number += size;
                    (number - size..number).map(acceptance).collect::<Vec<_>>()
                },
                |writes| runtime.block_on(ledger.commit(writes)).expect("committed").len(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
    runtime.block_on(ledger.close());
}

/// Throughput counts the acceptances of all writers.
fn on_postgres(criterion: &mut Criterion) {
    let server = PostgresServer::start().expect("a PostgreSQL server");
    let runtime = runtime();
    let mut number = 0;
    let mut group = criterion.benchmark_group("ledger commit on PostgreSQL");
    for writers in [1_u64, 3] {
        let open = || async { PostgresLedger::open(PostgresConfig::new(&server.url()).expect("a URL")).await };
        let ledgers: Vec<_> = (0..writers).map(|_| Arc::new(runtime.block_on(open()).expect("a ledger"))).collect();
        for size in [1_u64, 64, 1_000] {
            group.throughput(Throughput::Elements(writers * size));
            group.bench_function(BenchmarkId::new(format!("{writers} writers"), size), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut tasks = JoinSet::new();
                    let mut work: Vec<Vec<Vec<Write>>> = Vec::new();
                    for _ in &ledgers {
                        let commits = (0..rounds).map(|_| {
                            number += size;
                            (number - size..number).map(acceptance).collect()
                        });
                        work.push(commits.collect());
                    }
                    let started = Instant::now();
                    for (ledger, commits) in ledgers.iter().cloned().zip(work) {
                        let commit_all = async move {
                            for writes in commits {
                                ledger.commit(writes).await.expect("committed");
                            }
                        };
                        tasks.spawn_on(commit_all, runtime.handle());
                    }
                    runtime.block_on(tasks.join_all());
                    started.elapsed()
                });
            });
        }
        for ledger in ledgers {
            runtime.block_on(ledger.close());
        }
    }
    group.finish();
}

criterion_group! {
    name = ledger_benches;
    config = Criterion::default().sample_size(20);
    targets = on_sqlite, on_postgres
}
criterion_main!(ledger_benches);
