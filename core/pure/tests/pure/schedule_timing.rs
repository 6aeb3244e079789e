//! Timing of submissions: promises that must hold on any price path.

use std::time::Duration;

use proptest::prelude::*;
use slackwater_core::{
    BlockTimestamp,
    market::{FeePoint, Tips},
    schedule::FeeOutlook,
    schedule::timing::{
        PRIOR_VERSION, Policy, Timing, TimingConfig, TimingError, TimingPrior, TrainingFile, policies, train,
    },
};

const SLOT: Duration = Duration::from_secs(12);

fn config(slacks: &[u32], slip: u32) -> TimingConfig {
    TimingConfig { step: SLOT, slacks: slacks.to_vec(), slip, seed: 1, prior: None }
}

fn point(number: u64, price: u128) -> FeePoint {
    FeePoint {
        number,
        timestamp: Some(BlockTimestamp(1_700_000_000 + 12 * number)),
        base_fee: price,
        utilisation: None,
        tips: Tips::default(),
        next_base_fee: None,
    }
}

/// SplitMix64, as a number in 0..1.
#[expect(clippy::cast_precision_loss, reason = "chance for a test")]
fn chance(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A mean-reverting path around 20 gwei: blocks are fuller when the price is low.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a price")]
fn reverting(steps: u64, seed: u64) -> Vec<u128> {
    let mut log = 0.0_f64;
    (0..steps)
        .map(|step| {
            let fullness = (0.5 - log * 0.4 + (chance(seed ^ (step << 8)) - 0.5)).clamp(0.0, 1.0);
            log += (fullness - 0.5) / 4.0;
            (20e9 * log.exp()) as u128
        })
        .collect()
}

/// Sends every submission by the rules; returns (sent at, remaining steps then) per submission.
fn run(prices: &[u128], slack: u32, slip: u32, fits: bool) -> Vec<(usize, u32)> {
    let mut timing = Timing::new(config(&[slack], slip)).unwrap();
    let mut open: Vec<usize> = Vec::new();
    let mut sent = vec![(usize::MAX, u32::MAX); prices.len()];
    for (now, price) in prices.iter().enumerate() {
        timing.observe(&point(now as u64, *price));
        if fits && timing.refit_due() {
            let fitted = timing.refit_job().run();
            timing.install(fitted);
        }
        open.push(now);
        open.retain(|submission| {
            let remaining = u32::try_from(submission + slack as usize - now).unwrap();
            let decision = timing.decide(slack, remaining);
            assert_eq!(decision.price, *price);
            if decision.send {
                assert!(decision.reservation >= decision.price && decision.expected_saving == 0);
                sent[*submission] = (now, remaining);
            } else {
                assert!(decision.reservation < decision.price && decision.expected_saving <= decision.price);
            }
            !decision.send
        });
    }
    sent
}

fn walk() -> impl Strategy<Value = Vec<u128>> {
    (prop::collection::vec(-300_i128..300, 30..200), 0_u32..100).prop_map(|(moves, shift)| {
        let mut price = 10_000_i128;
        moves
            .into_iter()
            .map(|change| {
                price = (price + price * change / 1_000).max(0);
                u128::try_from(price).unwrap() << shift
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// On any price path, a submission is sent while its deadline can still be kept.
    #[test]
    fn deadlines_are_kept(prices in walk(), slack in 4_u32..40, slip in 0_u32..4) {
        for (submission, (at, remaining)) in run(&prices, slack, slip, false).into_iter().enumerate() {
            if submission + (slack as usize) < prices.len() {
                prop_assert!(at <= submission + (slack - slip) as usize);
                prop_assert!(remaining >= slip);
            }
        }
    }

    /// Later prices change no earlier decision.
    #[test]
    fn the_future_changes_no_decision(prices in walk(), cut in 10_usize..30, factor in 2_u128..50) {
        let mut other = prices.clone();
        other[cut..].iter_mut().for_each(|price| *price = price.saturating_mul(factor));
        let (one, two) = (run(&prices, 12, 0, false), run(&other, 12, 0, false));
        for ((a, _), (b, _)) in one.iter().zip(&two) {
            prop_assert!(a == b || (*a >= cut && *b >= cut));
        }
    }
}

#[test]
fn the_future_changes_no_fitted_decision() {
    let prices = reverting(1_000, 3);
    let mut other = prices.clone();
    other[900..].iter_mut().for_each(|price| *price *= 3);
    for ((a, _), (b, _)) in run(&prices, 25, 0, true).iter().zip(&run(&other, 25, 0, true)) {
        assert!(a == b || (*a >= 900 && *b >= 900));
    }
}

#[test]
fn waiting_pays_where_prices_revert() {
    let prices = reverting(1_500, 5);
    let mut paid = [0_u128; 3];
    for (submission, (at, _)) in run(&prices, 25, 0, true).into_iter().enumerate().take(1_470) {
        let lowest = prices[submission..=submission + 25].iter().min().unwrap();
        paid = [paid[0] + prices[submission], paid[1] + prices[at], paid[2] + lowest];
    }
    let [at_once, ours, lowest] = paid;
    assert!(ours > lowest && (at_once - ours) * 100 > (at_once - lowest) * 40, "{paid:?}");
}

#[test]
fn odd_prices_do_no_harm() {
    for price in [0, 1, 1_u128 << 64, u128::MAX] {
        for (submission, (at, _)) in run(&vec![price; 800], 20, 0, price == 0).into_iter().enumerate() {
            assert_eq!(submission, at, "a price of {price} that never moves is not waited for");
        }
    }
    let jumps: Vec<u128> = (0..300).map(|step| [0, u128::MAX, 1, 1 << 70][step % 4]).collect();
    run(&jumps, 9, 1, false);
}

#[test]
fn a_chain_at_its_floor_sends_at_the_floor() {
    let prices: Vec<u128> = (0..600).map(|step| if step % 50 < 5 { 90 + step as u128 % 7 } else { 7 }).collect();
    for (submission, (at, remaining)) in run(&prices, 30, 0, false).into_iter().enumerate().skip(60).take(500) {
        assert!(prices[at] == 7 || remaining == 0, "sent at {} with {remaining} steps left", prices[at]);
        assert!(prices[submission] != 7 || at == submission, "waited at the floor");
    }
}

#[test]
fn weights_are_shares() {
    let mut timing = Timing::new(config(&[5, 25], 0)).unwrap();
    for (number, price) in reverting(300, 9).into_iter().enumerate() {
        timing.observe(&point(number as u64, price));
    }
    for slack in [5, 25] {
        let weights = timing.weights(slack);
        assert_eq!(weights.len(), policies().len());
        assert!((weights.iter().map(|(_, weight)| weight).sum::<f64>() - 1.0).abs() < 1e-9);
        let now = weights.iter().find(|(policy, _)| *policy == Policy::Now).unwrap().1;
        assert!(now < 0.01, "prices revert, so sending at once is not trusted: {now}");
    }
    let captured = timing.captured(5);
    assert_eq!(captured[0], (Policy::Now, 0.0));
    assert!(captured.iter().any(|(_, share)| *share > 0.2));
}

#[test]
fn configuration_is_checked() {
    let error = |config| Timing::new(config).unwrap_err();
    assert_eq!(error(TimingConfig { step: Duration::ZERO, ..config(&[5], 0) }), TimingError::Step(Duration::ZERO));
    assert!(matches!(error(config(&[], 0)), TimingError::Slacks { .. }));
    assert!(matches!(error(config(&[5, 5], 0)), TimingError::Slacks { .. }));
    assert!(matches!(error(config(&[0], 0)), TimingError::Slacks { .. }));
    assert!(matches!(error(config(&[5], 1_000)), TimingError::Slip { got: 1_000, .. }));
}

#[test]
fn a_prior_survives_json_and_starts_warm() {
    let points = reverting(3_000, 11).into_iter().enumerate().map(|(at, price)| point(at as u64, price)).collect();
    let model = train(&[TrainingFile { step: SLOT, points }], 0, 1).unwrap();
    let prior = TimingPrior::of(model, 30, "a reverting path");
    let text = serde_json::to_string(&prior).unwrap();
    assert_eq!(TimingPrior::from_json(&text).unwrap(), prior);
    assert!(matches!(
        TimingPrior::from_json(&text.replacen(&format!("\"version\":{PRIOR_VERSION}"), "\"version\":1", 1)),
        Err(TimingError::Prior(_))
    ));
    assert!(TimingPrior::from_json("{}").is_err());

    let mut timing = Timing::new(TimingConfig { prior: Some(prior), ..config(&[5], 0) }).unwrap();
    for (number, price) in reverting(1_000, 12).into_iter().enumerate() {
        timing.observe(&point(number as u64, price));
    }
    let shares: Vec<f64> = timing
        .captured(5)
        .into_iter()
        .filter(|(policy, _)| [Policy::Ridge, Policy::Trees, Policy::Fitted].contains(policy))
        .map(|(_, share)| share)
        .collect();
    assert!(shares.len() == 3 && shares.iter().all(|share| *share > 0.2), "{shares:?}");
}

#[test]
fn the_queue_can_ask_for_slacks() {
    let mut timing = Timing::new(config(&[5, 25, 150], 0)).unwrap();
    assert_eq!(timing.send_within(), Duration::MAX, "nothing seen, nothing to wait for");
    for (number, price) in reverting(400, 21).into_iter().enumerate() {
        timing.observe(&point(number as u64, price));
    }
    timing.observe(&point(400, 200_000_000_000));
    assert_eq!(timing.send_within(), Duration::ZERO, "a spike of ten times: only what must");
    timing.observe(&point(401, 1_000_000_000));
    assert_eq!(timing.send_within(), Duration::MAX, "a twentieth: everybody");
}
