//! Recorded fees of real chains: parsed, and the next base fee predicted. The files are outside the repository: in the
//! folder that `SLACKWATER_FEE_DATA` names, else in `../shared/data/fees` beside it. Without them these tests say so
//! and pass.

#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::{
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use slackwater_core::{
    backtest::{ForecastRun, HorizonKey, Horizons, Trace, score_forecasts},
    market::csv::{Cadence, CsvError, CsvOptions, FeeTable, parse},
};

fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/fees");
    let folder = env::var_os("SLACKWATER_FEE_DATA").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("SKIPPED: no recorded fees in {}; set SLACKWATER_FEE_DATA", folder.display());
    None
}

fn read(path: &Path) -> Result<FeeTable, CsvError> {
    let mut text = String::new();
    MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    parse(&text, &CsvOptions::default())
}

#[test]
fn every_file_is_read_or_refused_for_its_reason() {
    let Some(folder) = folder() else { return };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "gz"));
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let table = match read(&path) {
            Ok(table) => table,
            Err(CsvError::NoPrices { .. }) if name.contains("gas_only") => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        println!("{name}: {:?} of {}, {} rows", table.cadence, table.price_column, table.points.len());
        assert_eq!(table.is_blocks(), !name.starts_with("series"), "{name}");
        let every = name.split("every").nth(1).and_then(|rest| rest.split("block").next()?.parse().ok());
        if let Some(every) = every {
            assert_eq!(table.cadence, Cadence::EveryBlocks(every), "{name}");
        }
        if name.contains("hourly") {
            let Cadence::Every(step) = table.cadence else { panic!("{name}") };
            assert!(step.abs_diff(Duration::from_secs(3_600)) < Duration::from_secs(60), "{name}: {step:?}");
        }
        assert!(Trace::new(table, None).step() >= Duration::from_secs(2), "{name}");
    }
}

/// Ethereum from header gas, Polygon's own constants from reported ratios: from a cold start, without being told the
/// rule.
#[test]
fn the_next_base_fee_is_computed() {
    let Some(folder) = folder() else { return };
    for (name, worst) in [
        ("eth_l1_2022-09-28_blocks_fixture", 0.0),
        ("eth_l1_2026-01_blocks_tips", 0.0),
        // The source rounds ratios to six digits.
        ("polygon_2026-02_blocks", 1e-7),
    ] {
        let path = folder.join(format!("{name}.csv.gz"));
        if !path.is_file() {
            println!("SKIPPED: {name} is not there");
            continue;
        }
        let trace = Trace::new(read(&path).unwrap(), None);
        let rows = trace.rows() as u64;
        let run = ForecastRun { horizons: Horizons::of(&trace, &[HorizonKey::Blocks(1)]), prior: None, seed: 1 };
        let next = score_forecasts(trace, &run, |_, _, _| {}).unwrap()[&HorizonKey::Blocks(1)];
        println!(
            "{name}: {} of {rows} rows, mean error {:e}, of the fee staying {:.4}",
            next.n, next.mae, next.mae_persistence
        );
        assert!(next.mae <= worst, "{name}: {next:?}");
        assert_eq!(next.n, rows - 51, "{name}: known from row 50 on");
    }
}
