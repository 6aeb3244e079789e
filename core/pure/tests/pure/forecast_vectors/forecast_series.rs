//! A synthetic series of blocks, and its forecasts: native, and by `wasm/check` in WASM.

use serde_json::{Value, json};
use slackwater_core::{
    BlockTimestamp,
    chain::{BaseFeeParams, FeeHeader, next_base_fee},
    forecast::{ForecastConfig, Forecaster},
    market::{FeePoint, Tips, Utilisation},
};

const BLOCKS: u64 = 700;
const LIMIT: u64 = 30_000_000;

/// Integers only: a linear congruential generator fills the blocks, expensive ones less.
fn series() -> Vec<FeePoint> {
    let (mut state, mut base) = (1_u64, 20_000_000_000_u128);
    (0..BLOCKS)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (state >> 33) % LIMIT;
            let used = if base > 20_000_000_000 { chance / 2 + 4_000_000 } else { chance / 2 + 12_000_000 };
            let header = FeeHeader {
                number: i,
                timestamp: 0,
                base_fee_per_gas: base,
                gas_used: used,
                gas_limit: LIMIT,
                blob_gas_used: None,
                excess_blob_gas: None,
            };
            let next = next_base_fee(&header, &BaseFeeParams::ETHEREUM).unwrap();
            let point = FeePoint {
                number: i,
                timestamp: Some(BlockTimestamp(1_700_000_000 + 12 * i)),
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

/// Forecasts of the series, with refits in between.
pub(crate) fn run() -> Value {
    let config = ForecastConfig { window: 400, trees: 6, refit_every: 300, seed: 7, ..ForecastConfig::default() };
    let mut forecaster = Forecaster::new(config).unwrap();
    let mut made = Vec::new();
    for (i, point) in series().iter().enumerate() {
        forecaster.observe(point);
        if forecaster.refit_due() {
            forecaster.install(forecaster.refit_job().unwrap().run());
        }
        if i % 100 == 99 {
            let forecast = forecaster.forecast().unwrap();
            let horizons: Vec<Value> = forecast
                .horizons
                .iter()
                .map(|h| {
                    json!({
                        "steps": h.steps, "point": h.point.to_string(), "q10": h.q10.to_string(),
                        "q50": h.q50.to_string(), "q90": h.q90.to_string(), "q999": h.quantile(0.999).to_string(),
                        "log_point_bits": format!("{:#018x}", h.log_point.to_bits()),
                    })
                })
                .collect();
            made.push(json!({
                "number": forecast.number, "next_base_fee": forecast.next_base_fee.to_string(),
                "next_is_exact": forecast.next_is_exact, "model": forecast.model, "horizons": horizons,
            }));
        }
    }
    json!({ "source": "computed by this project; the series is defined in core/pure/tests/pure/forecast_vectors/forecast_series.rs", "forecasts": made })
}
