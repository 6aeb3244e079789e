//! Cost of one iteration of the relay's loop with 10³ to 10⁶ queued requests of which none changed: it must not grow
//! with the queue.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U256, keccak256};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use slackwater_core::{
    Timestamp,
    request::{LaneId, VerifiedRequest, vehicle::Company},
    schedule::{ComposeLimits, PercentileOutlook, Queue, QueuedRequest},
};

const FORWARDER: Address = Address::repeat_byte(0xf0);
const LANE: LaneId = LaneId { chain_id: 1, sender: Address::repeat_byte(0x5e) };
const NOW: Timestamp = Timestamp(1_000_000);
/// `SLACKWATER_BENCH_QUEUE_MAX` raises or lowers it.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

fn sizes() -> impl Iterator<Item = usize> {
    let most = std::env::var("SLACKWATER_BENCH_QUEUE_MAX").ok().and_then(|most| most.parse().ok()).unwrap_or(100_000);
    SIZES.into_iter().filter(move |size| *size <= most)
}

fn forward(user: usize, nonce: u64, ceiling: u128) -> QueuedRequest {
    let from = Address::from_word(B256::from(U256::from(0x1_0000 + user)));
    let id = keccak256([user.to_be_bytes(), nonce.to_be_bytes()].concat());
    let (to, deadline) = (Address::repeat_byte(0x70), NOW.0 + 600_000 + nonce);
    let stored = format!(
        r#"{{"id":"{id}","chainId":1,"gas":50000,"nonce":{nonce},"deadline":{deadline},"chainDeadlineS":null,"maxCostWei":null,"kind":{{"forward":{{"forwarder":"{FORWARDER}","from":"{from}","to":"{to}","value":"0x0","gas":"0xc350","nonce":"{nonce:#x}","deadline":1000000,"data":"0x","signature":"0x"}}}}}}"#
    );
    let request = VerifiedRequest::from_stored(stored.as_bytes()).expect("a stored request");
    QueuedRequest {
        due: request.deadline(),
        is_late: false,
        request: Arc::new(request),
        tenant: "default".into(),
        seq: user as u64,
        accepted_at: NOW,
        gas: 100_000,
        bytes: 500,
        ceiling_wei_per_gas: ceiling,
        first_ceiling_wei_per_gas: ceiling,
        reserved_wei: U256::MAX,
        spent_wei: U256::ZERO,
        price_percent: 100,
        company: Company::Named,
        simulations: 0,
        batch_failures: 0,
        refusals: Default::default(),
    }
}

fn users(count: usize, ceiling: u128) -> Queue {
    let mut queue = Queue::new();
    for user in 0..count {
        let entry = forward(user, 0, ceiling);
        let sequence = entry.request.sequence();
        queue.push(entry);
        if let Some((forwarder, signer, _)) = sequence {
            queue.set_chain_nonce(forwarder, signer, 0);
        }
    }
    queue
}

fn benches(criterion: &mut Criterion) {
    let limits = ComposeLimits {
        max_batch: 100,
        max_gas: 16_777_216,
        max_bytes: 131_072,
        base_gas: 50_000,
        setup_wei: 21_000,
        price_wei_per_gas: 1,
        data_wei_per_byte: 0,
        waiting_cost_percent: 0,
        linger: Duration::ZERO,
        urgent: Duration::from_secs(900),
        next_base_fee: 1_000,
        quote_max_fee: 2_000,
        next_price: 1,
        fee_cap_wei: None,
        available_wei: None,
        block_gas: None,
        slots: 16,
    };
    let outlook = PercentileOutlook::new(100, 40, Duration::from_secs(15), Duration::from_secs(3_600));

    let mut group = criterion.benchmark_group("turn/ceilings_below_the_fee");
    for size in sizes() {
        let mut queue = users(size, 10);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| assert!(queue.compose(NOW, LANE, &limits, &outlook).is_none()));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("turn/known_signers");
    for size in sizes() {
        let mut queue = users(size, 10_000);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                assert!(queue.unknown_signers().next().is_none() && queue.gapped_signers(None, 200).is_empty());
                assert!(queue.overdue(NOW, Duration::from_secs(60)).is_empty() && queue.expired(NOW).is_empty());
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("turn/one_signer_in_flight");
    for size in sizes() {
        let mut queue = Queue::new();
        for nonce in 0..size as u64 {
            queue.push_in_flight(vec![forward(0, nonce, 10_000)], LANE, 0);
        }
        let next = forward(0, size as u64, 10_000);
        let Some((forwarder, signer, _)) = next.request.sequence() else { unreachable!("a forward has an order") };
        queue.set_chain_nonce(forwarder, signer, 0);
        let id = next.request.id();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                queue.push(next.clone());
                assert!(queue.remove(id, false).is_some());
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("turn/batch_of_100");
    group.sample_size(20);
    for size in sizes() {
        let mut queue = users(size, 10_000);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let chosen = queue.compose(NOW, LANE, &limits, &outlook).expect("a batch");
                chosen.members.into_iter().for_each(|id| queue.put_back(id));
            });
        });
    }
    group.finish();
}

criterion_group!(queue, benches);
criterion_main!(queue);
