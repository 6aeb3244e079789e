//! Making acceptances durable: one transaction and one fsync for 1, 64 and 1 000 of them.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use slackwater::{
    Timestamp,
    ledger::{Ledger as _, NewRequest, SqliteConfig, SqliteLedger, Write},
    request::RequestId,
};

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
        accepted_at: NOW,
        reserved_wei: U256::from(10_u64.pow(15)),
        ceiling_wei_per_gas: 8_000_000_000,
        // As large as a stored request that marks a tag.
        payload: B256::repeat_byte(0xaa).repeat(18),
        promise_signature: Bytes::from(vec![0xbb; 65]),
        quote: r#"{"baseFeeWeiPerGas":1000000000,"priorityFeeWeiPerGas":1,"gas":170000,"expectedCostWei":"0x1","maxCostWei":"0x2"}"#
            .to_owned(),
        idempotency: None,
        budget: None,
    }))
}

fn benches(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    // On a disk, not in memory: the fsync is what is measured.
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

criterion_group! {
    name = ledger_benches;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(ledger_benches);
