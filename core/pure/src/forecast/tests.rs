use std::time::Duration;

use super::*;
use crate::{
    BlockTimestamp,
    chain::{BaseFeeParams, FeeHeader, GasTarget, Metering, next_base_fee},
    market::{FeePoint, Tips, Utilisation},
};

const LIMIT: u64 = 30_000_000;
const POLYGON: BaseFeeParams =
    BaseFeeParams { denominator: 64, target: GasTarget::Bps(6_500), min_base_fee: 0, metering: Metering::Gas };

fn config() -> ForecastConfig {
    ForecastConfig { window: 400, trees: 4, refit_every: 200, ..ForecastConfig::default() }
}

fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

fn header(base_fee_per_gas: u128, gas_used: u64) -> FeeHeader {
    FeeHeader {
        number: 0,
        timestamp: 0,
        base_fee_per_gas,
        gas_used,
        gas_limit: LIMIT,
        blob_gas_used: None,
        excess_blob_gas: None,
    }
}

fn plain(number: u64, base_fee: u128) -> FeePoint {
    FeePoint { number, timestamp: None, base_fee, utilisation: None, tips: Tips::default(), next_base_fee: None }
}

/// Blocks whose fullness falls with the price, as demand does; the next base fee is not given.
fn blocks(count: u64, params: &BaseFeeParams, seed: u64) -> Vec<FeePoint> {
    let mut base: u128 = 20_000_000_000;
    let still = params.target.of(LIMIT).unwrap();
    (0..count)
        .map(|i| {
            let noise = mix(i ^ seed) % u64::from(LIMIT as u32);
            let dear = base > 20_000_000_000;
            let used = if dear { noise.min(still + still / 4) } else { noise.max(still / 2) };
            let point = FeePoint {
                timestamp: Some(BlockTimestamp(1_700_000_000 + 12 * i)),
                utilisation: Some(Utilisation::Gas { used, limit: LIMIT }),
                ..plain(1_000 + i, base)
            };
            base = next_base_fee(&header(base, used), params).unwrap();
            point
        })
        .collect()
}

fn check(forecaster: &Forecaster) {
    let Some(forecast) = forecaster.forecast() else { return };
    for made in &forecast.horizons {
        assert!(made.log_point.is_finite(), "{made:?}");
        assert!(made.q10 <= made.q50 && made.q50 <= made.q90, "{made:?}");
        let mut last = 0;
        for p in [0.0, 0.001, 0.05, 0.3, 0.5, 0.77, 0.9, 0.999, 1.0, f64::NAN] {
            let fee = made.quantile(p);
            assert!(fee >= last, "{p}: {made:?}");
            last = fee;
        }
        assert!((0.0..=1.0).contains(&made.probability_below(made.q50)));
    }
}

#[track_caller]
fn recognises(params: BaseFeeParams) {
    let mut forecaster = Forecaster::new(config()).unwrap();
    let points = blocks(80, &params, 3);
    let mut exact = 0;
    for pair in points.windows(2) {
        forecaster.observe(&pair[0]);
        let forecast = forecaster.forecast().unwrap();
        if forecast.next_is_exact {
            assert_eq!(forecast.next_base_fee, pair[1].base_fee);
            assert_eq!(forecast.horizons[0].point, pair[1].base_fee);
            exact += 1;
        }
    }
    let rule = forecaster.protocol_rule().unwrap();
    assert_eq!((rule.params, rule.fit_error, rule.is_alarm), (params, 0.0, false));
    assert!(exact >= 60, "{exact}");
}

#[test]
fn constants_are_recognised_and_the_next_fee_is_exact() {
    recognises(BaseFeeParams::ETHEREUM);
    recognises(POLYGON);
    recognises(BaseFeeParams::new(250, 6));
    recognises(BaseFeeParams::new(50, 10));
}

#[test]
fn a_change_of_constants_raises_an_alarm_and_is_learnt() {
    let mut forecaster = Forecaster::new(ForecastConfig { rule: Some(BaseFeeParams::ETHEREUM), ..config() }).unwrap();
    let mut alarms = 0;
    for point in blocks(60, &POLYGON, 1) {
        forecaster.observe(&point);
        alarms += u32::from(forecaster.protocol_rule().unwrap().is_alarm);
    }
    let rule = forecaster.protocol_rule().unwrap();
    assert!(alarms > 0 && !rule.is_alarm);
    assert_eq!(rule.params, POLYGON);
}

#[test]
fn a_ratio_gives_an_estimate() {
    let mut forecaster = Forecaster::new(config()).unwrap();
    for point in blocks(40, &POLYGON, 9) {
        let ratio = point.utilisation.and_then(Utilisation::ratio).unwrap();
        forecaster.observe(&FeePoint { utilisation: Some(Utilisation::Ratio(ratio)), ..point });
    }
    assert_eq!(forecaster.protocol_rule().unwrap().params, POLYGON);
    assert!(!forecaster.forecast().unwrap().next_is_exact);
}

#[test]
fn absurd_input_is_survived() {
    let fees = [0, 1, 7, u128::from(u64::MAX), 1 << 64, u128::MAX, 3, 0, 0, u128::MAX - 1];
    let uses = [
        None,
        Some(Utilisation::Ratio(f64::NAN)),
        Some(Utilisation::Ratio(-3.0)),
        Some(Utilisation::Ratio(f64::INFINITY)),
        Some(Utilisation::Gas { used: 5, limit: 0 }),
        Some(Utilisation::Gas { used: u64::MAX, limit: 1 }),
        Some(Utilisation::Gas { used: 1, limit: u64::MAX }),
    ];
    let mut forecaster = Forecaster::new(config()).unwrap();
    let mut number = 0_u64;
    for i in 0..700_u64 {
        let dice = mix(i);
        number = match dice % 11 {
            0 => number.saturating_sub(3),
            1 => number.saturating_add(17),
            2 if i > 600 => u64::MAX - dice % 9,
            _ => number.saturating_add(1),
        };
        let point = FeePoint {
            timestamp: (!dice.is_multiple_of(5)).then_some(BlockTimestamp(dice)),
            utilisation: uses[(dice % 7) as usize],
            next_base_fee: dice.is_multiple_of(3).then_some(fees[(dice % 10) as usize]),
            ..plain(number, fees[(dice / 16 % 10) as usize])
        };
        forecaster.observe(&point);
        check(&forecaster);
        if i % 250 == 249
            && let Some(job) = forecaster.refit_job()
        {
            forecaster.install(job.run());
        }
    }
}

#[test]
fn short_and_constant_histories() {
    for fee in [0, 1, 50, 1_000_000_000, 1 << 64] {
        let mut forecaster = Forecaster::new(config()).unwrap();
        assert!(forecaster.forecast().is_none() && forecaster.refit_job().is_none() && forecaster.explain(2).is_none());
        for i in 0..500 {
            forecaster.observe(&plain(i, fee));
            if i < 3 || i.is_multiple_of(50) {
                check(&forecaster);
            }
        }
        assert!(forecaster.refit_due());
        forecaster.install(forecaster.refit_job().unwrap().run());
        forecaster.observe(&plain(500, fee));
        let forecast = forecaster.forecast().unwrap();
        for made in &forecast.horizons {
            let slack = (fee.max(1) / 1_000).max(1);
            assert!(made.point.abs_diff(fee.max(1)) <= slack, "{fee}: {made:?}");
            assert!(made.q90 - made.q10 <= slack, "{fee}: {made:?}");
        }
    }
}

#[test]
fn a_reorg_replaces_the_tail() {
    let points = blocks(300, &BaseFeeParams::ETHEREUM, 2);
    let (mut straight, mut forked) = (Forecaster::new(config()).unwrap(), Forecaster::new(config()).unwrap());
    for point in &points {
        straight.observe(point);
    }
    for (i, point) in points.iter().enumerate() {
        forked.observe(point);
        if i == 290 {
            // The same blocks again, as from a node that replays its head.
            for again in &points[286..=290] {
                forked.observe(again);
            }
        }
    }
    let (a, b) = (straight.forecast().unwrap(), forked.forecast().unwrap());
    assert_eq!(a.number, b.number);
    assert_eq!(a.next_base_fee, b.next_base_fee);
    for (a, b) in a.horizons.iter().zip(&b.horizons) {
        assert!((a.log_point - b.log_point).abs() < 0.02, "{a:?} {b:?}");
    }
    // A number older than the memory restarts the features.
    forked.observe(&plain(5, 77));
    check(&forked);
    assert_eq!(forked.forecast().unwrap().number, 5);
}

#[test]
fn the_future_changes_no_past_forecast() {
    let points = blocks(400, &BaseFeeParams::ETHEREUM, 4);
    let run = |upto: usize, bend: bool| {
        let mut forecaster = Forecaster::new(config()).unwrap();
        let mut made = Vec::new();
        for (i, point) in points.iter().enumerate() {
            let mut point = *point;
            if bend && i >= upto {
                point.base_fee *= 3;
            }
            forecaster.observe(&point);
            if i < upto {
                made.push(forecaster.forecast().unwrap());
            }
        }
        made
    };
    assert_eq!(run(250, false), run(250, true));
}

#[test]
fn quantiles_stay_within_what_the_protocol_allows() {
    let mut forecaster = Forecaster::new(config()).unwrap();
    for point in blocks(200, &BaseFeeParams::ETHEREUM, 5) {
        forecaster.observe(&point);
    }
    let forecast = forecaster.forecast().unwrap();
    for made in &forecast.horizons {
        let most = crate::chain::max_base_fee_after(
            forecast.next_base_fee,
            u64::from(made.steps) - 1,
            &BaseFeeParams::ETHEREUM,
        );
        assert!(made.quantile(1.0) <= most + most / 1_000_000, "{made:?}");
    }
}

#[test]
fn an_explanation_adds_up() {
    let mut forecaster = Forecaster::new(config()).unwrap();
    for point in blocks(450, &BaseFeeParams::ETHEREUM, 6) {
        forecaster.observe(&point);
        if forecaster.refit_due() {
            forecaster.install(forecaster.refit_job().unwrap().run());
        }
    }
    let told = forecaster.explain(10).unwrap();
    let sum = told.contributions.iter().map(|(_, part)| part).sum::<f64>() + told.constant;
    assert!((told.log_price + sum - told.log_point).abs() < 1e-9);
    assert!((told.experts.iter().map(|(_, weight, _)| weight).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(told.experts.iter().any(|(name, _, _)| *name == "boosting"));
    assert!(forecaster.explain(7).is_none());
}

#[test]
fn a_refit_is_reproducible_and_the_registry_keeps_it() {
    let mut forecaster = Forecaster::new(config()).unwrap();
    for point in blocks(450, &BaseFeeParams::ETHEREUM, 7) {
        forecaster.observe(&point);
    }
    let before = forecaster.model();
    let job = forecaster.refit_job().unwrap();
    let (first, again) = (job.clone().run(), job.run());
    assert_eq!(first, again);
    let mut registry = ModelRegistry::new();
    assert_eq!(registry.add(first.fitted.clone()), 1);
    for point in blocks(40, &BaseFeeParams::ETHEREUM, 8) {
        forecaster.observe(&FeePoint { number: point.number + 450, ..point });
    }
    registry.add(forecaster.refit_job().unwrap().run().fitted);
    assert_eq!(registry.active().unwrap().version, 2);
    assert_eq!(registry.roll_back().unwrap().version, 1);
    assert!(matches!(registry.roll_back(), Err(RegistryError::NoEarlier)));
    registry.pin(1).unwrap();
    assert_eq!(registry.add(first.fitted.clone()), 3);
    assert_eq!(registry.active().unwrap().version, 1);
    assert!(matches!(registry.promote(9), Err(RegistryError::Unknown { version: 9 })));

    let text = registry.export().unwrap();
    assert_eq!(ModelRegistry::import(&text).unwrap(), registry);
    let examples = first.fitted.horizons()[0].examples;
    let bent = text.replacen(&format!("\"examples\":{examples}"), "\"examples\":1", 1);
    assert!(matches!(ModelRegistry::import(&bent), Err(RegistryError::Damaged { version: 1 })));

    forecaster.install(Refit { fitted: registry.active().unwrap().fitted.clone() });
    assert_ne!(forecaster.model(), before);
}

#[test]
fn a_pinned_registry_never_outgrows_its_limit() {
    let mut forecaster = Forecaster::new(ForecastConfig { trees: 0, ..config() }).unwrap();
    for point in blocks(300, &BaseFeeParams::ETHEREUM, 7) {
        forecaster.observe(&point);
    }
    let fitted = forecaster.refit_job().unwrap().run().fitted;
    let mut registry = ModelRegistry::new();
    let first = registry.add(fitted.clone());
    registry.pin(first).unwrap();
    for _ in 0..40 {
        registry.add(fitted.clone());
    }
    assert_eq!(registry.list().len(), 17);
    assert_eq!(registry.active().unwrap().version, first);
}

#[test]
fn a_configuration_is_checked() {
    let refuse = |config: ForecastConfig| Forecaster::new(config).unwrap_err();
    let with = |horizons: Vec<u32>| ForecastConfig { horizons, ..config() };
    assert_eq!(refuse(with(vec![])), ForecastError::Horizons { count: 0 });
    assert_eq!(refuse(with(vec![2, 0])), ForecastError::Horizon { steps: 0 });
    assert_eq!(refuse(with(vec![2, 2])), ForecastError::Horizon { steps: 2 });
    assert_eq!(refuse(with(vec![2_000])), ForecastError::Horizon { steps: 2_000 });
    assert_eq!(refuse(ForecastConfig { step: Duration::ZERO, ..config() }), ForecastError::ZeroStep);
}

#[test]
fn the_shipped_prior_is_sound_and_speaks() {
    let prior = Prior::shipped().unwrap();
    assert!(!prior.provenance.is_empty() && !prior.horizons.is_empty());
    assert_eq!(Prior::from_json(&serde_json::to_string(&prior).unwrap()).unwrap(), prior);
    let mut forecaster = Forecaster::new(ForecastConfig { prior: Some(prior), ..config() }).unwrap();
    for point in blocks(60, &BaseFeeParams::ETHEREUM, 11) {
        forecaster.observe(&point);
        check(&forecaster);
    }
    let told = forecaster.explain(7).or_else(|| forecaster.explain(5)).unwrap();
    assert!(told.experts.iter().any(|(name, weight, _)| *name == "prior boosting" && *weight > 0.0));
    let spoilt = |part: &str, other: serde_json::Value| {
        let mut json = serde_json::json!(Prior::shipped().unwrap());
        *json.pointer_mut(part).unwrap() = other;
        matches!(Prior::from_json(&json.to_string()), Err(PriorError::Malformed))
    };
    // A looping tree, a line of too few coefficients, horizons out of order, none at all.
    assert!(spoilt("/horizons/0/boosted/trees/0", serde_json::json!([[0, 0.0, 0, 0, 0.0], [0, 0.0, 1, 1, 0.0]])));
    assert!(spoilt("/horizons/0/line", serde_json::json!([1.0])));
    assert!(spoilt("/horizons/0/steps", serde_json::json!(100)));
    assert!(spoilt("/horizons", serde_json::json!([])));
}
