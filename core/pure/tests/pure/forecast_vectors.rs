//! Forecasts of a synthetic series, to the bit: native and WASM (`wasm/check`) must agree with `vectors/forecast.json`.
//!
//! `SLACKWATER_WRITE_VECTORS=1 cargo test --test pure forecast` rewrites the file, after an intended change of the
//! arithmetic.

mod forecast_series;

use std::{fs, path::Path};

use forecast_series::run;
use serde_json::Value;

#[test]
fn forecasts_are_the_same_to_the_bit() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/forecast.json");
    let made = run();
    if std::env::var_os("SLACKWATER_WRITE_VECTORS").is_some() {
        fs::write(&path, format!("{made:#}\n")).unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(made["forecasts"].as_array().unwrap().len(), 7);
    assert_eq!(made, expected);
}
