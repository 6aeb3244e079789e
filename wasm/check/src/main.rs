//! Exits with success if the forecasts computed here equal those of `core/pure/tests/vectors/forecast.json`, to the bit;
//! else panics, which is a trap in WASM. `tools/npm/wasm-check.mjs` runs it in Node.

#[path = "../../../core/pure/tests/pure/forecast_vectors/forecast_series.rs"]
mod forecast_series;

use serde_json::Value;

fn main() {
    let expected: Value =
        serde_json::from_str(include_str!("../../../core/pure/tests/vectors/forecast.json")).expect("vectors are JSON");
    let made = forecast_series::run();
    assert_eq!(made["forecasts"].as_array().map(Vec::len), Some(7));
    assert_eq!(made, expected);
}
