//! Trains the models that a forecaster may start with.
//!
//! `cargo run --release -p slackwater-core --example forecast_prior -- OUT.json FILE…`

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

#[path = "fee_files/mod.rs"]
mod fee_files;

use std::{error::Error, path::Path};

use slackwater_core::forecast::{BoostParams, ForecastConfig, Forecaster, train_prior};

const HORIZONS: [u32; 8] = [2, 3, 5, 10, 25, 50, 150, 300];
/// Beyond these pooled trees are worse than a line.
const TREES_TO: u32 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let out = args.next().ok_or("name the file to write")?;
    let (mut jobs, mut names) = (Vec::new(), Vec::new());
    for file in args {
        let series = fee_files::read(Path::new(&file))?;
        let config = ForecastConfig {
            horizons: HORIZONS.to_vec(),
            step: series.step,
            window: 20_000,
            ..ForecastConfig::default()
        };
        let mut forecaster = Forecaster::new(config)?;
        for point in &series.points {
            forecaster.observe(point);
        }
        if series.is_blocks && forecaster.protocol_rule().is_some() {
            names.push(format!("{} ({} blocks)", series.name, series.points.len()));
            jobs.extend(forecaster.training_job());
        }
    }
    let params = BoostParams { trees: 80, depth: 2, rate: 0.1, sample: 0.3, least_leaf: 100, seed: 1 };
    let provenance = format!("lines, and up to {TREES_TO} steps LAD boosting ({params:?}), on {}", names.join(", "));
    let prior = train_prior(&jobs, &HORIZONS, TREES_TO, &params, provenance)?;
    std::fs::write(&out, serde_json::to_string(&prior)?)?;
    println!("{out}: {}", prior.id());
    Ok(())
}
