//! Cost of forecasting and timing per block, and of their background refits.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use slackwater_core::{
    BlockTimestamp,
    chain::{BaseFeeParams, FeeHeader, next_base_fee},
    forecast::{ForecastConfig, Forecaster, Prior},
    market::{FeePoint, Tips, Utilisation},
    schedule::timing::{Timing, TimingConfig, TimingPrior},
};

const LIMIT: u64 = 30_000_000;
/// Blocks that a refit learns from, as in a relay.
const WINDOW: u64 = 2_000;
const SLOT: Duration = Duration::from_secs(12);
/// Slack of the classes: 1, 5, 30 minutes, 2 hours.
const SLACKS: [u32; 4] = [5, 25, 150, 600];

/// Blocks whose demand falls with the price and has moods: a linear congruence fills them.
fn chain(count: u64) -> Vec<FeePoint> {
    let (mut state, mut base, mut mood) = (7_u64, 20_000_000_000_u128, 0_i64);
    (0..count)
        .map(|number| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = i64::try_from(state >> 40).expect("24 bits");
            mood = mood * 15 / 16 + (chance - (1 << 23)) / 16;
            let dear = i64::try_from(base / 1_000_000_000).expect("gwei") - 20;
            let used = (15_000_000 + mood + chance / 2 - (1 << 22) - dear * 300_000).clamp(0, 30_000_000);
            let used = u64::try_from(used).expect("clamped");
            let header = FeeHeader {
                number,
                timestamp: 0,
                base_fee_per_gas: base,
                gas_used: used,
                gas_limit: LIMIT,
                blob_gas_used: None,
                excess_blob_gas: None,
            };
            let next = next_base_fee(&header, &BaseFeeParams::ETHEREUM).expect("a sound header");
            let point = FeePoint {
                number,
                timestamp: Some(BlockTimestamp(1_700_000_000 + 12 * number)),
                base_fee: base,
                utilisation: Some(Utilisation::Gas { used, limit: LIMIT }),
                tips: Tips::default(),
                next_base_fee: Some(next),
            };
            base = next;
            point
        })
        .collect()
}

fn forecaster(points: &[FeePoint], config: ForecastConfig) -> Forecaster {
    let mut forecaster = Forecaster::new(config).expect("a sound configuration");
    points.iter().for_each(|point| forecaster.observe(point));
    forecaster
}

fn forecasting(criterion: &mut Criterion) {
    let points = chain(WINDOW + 1);
    let (last, seen) = points.split_last().expect("some blocks");
    let mut group = criterion.benchmark_group("forecast");

    let config = || ForecastConfig { prior: Prior::shipped(), ..ForecastConfig::default() };
    let mut ready = forecaster(seen, config());
    ready.install(ready.refit_job().expect("enough blocks").run());
    group.bench_function("a block taken in, all horizons", |bencher| {
        bencher.iter_batched(|| ready.clone(), |mut forecaster| forecaster.observe(last), BatchSize::LargeInput);
    });
    ready.observe(last);
    group.bench_function("forecast of all horizons", |bencher| bencher.iter(|| black_box(&ready).forecast()));

    let one = forecaster(seen, ForecastConfig { horizons: vec![10], trees: 0, ..ForecastConfig::default() });
    let job = one.refit_job().expect("enough blocks");
    group.sample_size(10);
    group.bench_function("ridge fitted on 2 000 blocks, twice to score it", |bencher| {
        bencher.iter_batched(|| job.clone(), |job| job.run(), BatchSize::LargeInput);
    });
    let job = forecaster(seen, config()).refit_job().expect("enough blocks");
    group.bench_function("refit of all horizons: ridges and trees", |bencher| {
        bencher.iter_batched(|| job.clone(), |job| job.run(), BatchSize::LargeInput);
    });
    group.finish();
}

fn timing(criterion: &mut Criterion) {
    let points = chain(6_001);
    let (last, seen) = points.split_last().expect("some blocks");
    let prior = TimingPrior::shipped().expect("a sound build");
    let config = TimingConfig { step: SLOT, slacks: SLACKS.to_vec(), slip: 0, seed: 1, prior: Some(prior) };
    let mut ready = Timing::new(config).expect("a sound configuration");
    seen.iter().for_each(|point| ready.observe(point));
    let mut group = criterion.benchmark_group("timing");
    group.bench_function("a block taken in, all policies", |bencher| {
        bencher.iter_batched(|| ready.clone(), |mut timing| timing.observe(last), BatchSize::LargeInput);
    });
    ready.observe(last);
    let requests: Vec<(u32, u32)> = (0..10_000_u32).map(|i| (1 + i % 600, 1 + (i % 600) * (i % 7) / 7)).collect();
    group.bench_function("decisions for 10 000 requests", |bencher| {
        bencher.iter(|| requests.iter().filter(|(total, left)| ready.decide(*total, *left).send).count());
    });
    let job = ready.refit_job();
    group.sample_size(10);
    group.bench_function("refit of the stopping values on 6 000 blocks", |bencher| {
        bencher.iter_batched(|| job.clone(), |job| job.run(), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group! {
    name = forecast_benches;
    config = Criterion::default().sample_size(30);
    targets = forecasting, timing
}
criterion_main!(forecast_benches);
