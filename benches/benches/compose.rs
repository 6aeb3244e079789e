//! Choosing a batch from a hundred thousand queued requests, and writing its transaction.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, U256};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use slackwater_benches::{
    World,
    wallet::{Crowd, unix_seconds},
};
use slackwater_core::{
    Timestamp,
    chain::ChainSpec,
    request::{
        LaneId, Submission, VerifiedRequest, VerifyContext,
        vehicle::{Company, VehicleKey, VehicleParams},
        verify,
    },
    schedule::{ComposeLimits, PercentileOutlook, Queue, QueuedRequest},
};

const QUEUED: usize = 100_000;
const USERS: usize = 5_000;
const FORWARDER: Address = Address::repeat_byte(0xf0);

fn requests(count: usize, users: usize, now: Timestamp) -> Vec<Arc<VerifiedRequest>> {
    let world = World::at(31_337, "Bench", FORWARDER, Address::repeat_byte(0x9b));
    let forwarders = BTreeMap::from([(world.forwarder, world.domain())]);
    let context = VerifyContext {
        tenant: "default",
        chain_id: world.chain_id,
        forwarders: &forwarders,
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(86_400),
        guard: Duration::from_secs(2),
        skew: Duration::from_secs(2),
    };
    let mut crowd = Crowd::new(&world, users);
    let verified = (0..count).map(|i| {
        let request = crowd.mark(i % users);
        let within = Duration::from_secs(30 + i as u64 % 600);
        let submission = Submission::forward(world.chain_id, request.forward).within(within);
        Arc::new(verify(submission, &context, now).expect("a good request"))
    });
    verified.collect()
}

fn params(spec: &ChainSpec) -> VehicleParams {
    VehicleParams {
        sender: Address::repeat_byte(0x5e),
        multicall3: Some(Address::repeat_byte(0xca)),
        has_capped_calls: false,
        schedule: *spec.gas_schedule(),
        forward_overhead_gas: 45_000,
    }
}

fn entry(params: &VehicleParams, seq: usize, request: &Arc<VerifiedRequest>, now: Timestamp) -> QueuedRequest {
    QueuedRequest {
        request: Arc::clone(request),
        tenant: "default".into(),
        seq: seq as u64,
        accepted_at: now,
        gas: params.member_gas(request),
        bytes: params.member_bytes(request),
        ceiling_wei_per_gas: 1_000_000_000_000,
        first_ceiling_wei_per_gas: 1_000_000_000_000,
        reserved_wei: U256::MAX,
        spent_wei: U256::ZERO,
        price_percent: 100,
        company: Company::Named,
        simulations: 0,
        batch_failures: 0,
        due: request.deadline(),
        is_late: false,
        refusals: Default::default(),
    }
}

fn benches(criterion: &mut Criterion) {
    let spec = ChainSpec::preset("anvil").expect("a preset");
    let params = params(&spec);
    let now = Timestamp::from_secs(unix_seconds());
    let requests = requests(QUEUED, USERS, now);
    let mut queue = Queue::new();
    for (seq, request) in requests.iter().enumerate() {
        queue.push(entry(&params, seq, request, now));
    }
    for request in &requests {
        if let Some((forwarder, signer, 0)) = request.sequence() {
            queue.set_chain_nonce(forwarder, signer, 0);
        }
    }
    let limits = ComposeLimits {
        max_batch: 100,
        max_gas: 16_777_216,
        max_bytes: 131_072,
        base_gas: params.base_gas(),
        setup_wei: 21_000 * 1_000_000_000,
        price_wei_per_gas: 1_000_000_000,
        data_wei_per_byte: 0,
        waiting_cost_percent: 400,
        linger: Duration::from_millis(250),
        urgent: Duration::from_secs(15),
        next_base_fee: 1_000_000_000,
        quote_max_fee: 2_000_000_000,
        slots: 16,
        next_price: 1,
        fee_cap_wei: None,
        available_wei: None,
        block_gas: None,
    };
    let outlook = PercentileOutlook::new(100, 40, Duration::from_secs(15), Duration::from_secs(3_600));
    let lane = LaneId { chain_id: 31_337, sender: params.sender };
    let later = now.saturating_add(Duration::from_secs(1));

    let mut group = criterion.benchmark_group("compose");
    group.bench_function("batch of 100 from 100 000 queued, and back", |bencher| {
        bencher.iter(|| {
            let selection = queue.compose(later, lane, &limits, &outlook).expect("a full batch");
            assert!(selection.members.len() > 20, "{}", selection.members.len());
            // Newest first, as a batch that could not be sent is given back.
            for id in selection.members.iter().rev() {
                queue.put_back(*id);
            }
        });
    });
    let members = &requests[..100];
    group.bench_function("transaction of 100 members", |bencher| {
        bencher.iter(|| params.payload(VehicleKey::Forwarder(FORWARDER), members));
    });
    group.bench_function("push one more", |bencher| {
        let extra = entry(&params, QUEUED, &requests[QUEUED - 1], now);
        let id = extra.request.id();
        bencher.iter_batched(
            || extra.clone(),
            |extra| {
                queue.remove(id, false);
                queue.push(extra);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = compose_benches;
    config = Criterion::default().sample_size(30);
    targets = benches
}
criterion_main!(compose_benches);
