//! Tables, JSON and CSV of a backtest.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value, json};
use slackwater_core::backtest::{DeadlineReport, FileReport, HorizonKey, HorizonReport, WARM_UP};

use super::{Failed, Priors, Tested};

/// Version of the JSON form.
const VERSION: u32 = 1;
/// Baselines in the order of the table.
const BASELINES: [&str; 5] = ["threshold", "scroll", "fuel", "linea", "random"];

/// Six significant digits: enough for every comparison, and readable.
fn round(value: f64) -> Value {
    if !value.is_finite() {
        return Value::Null;
    }
    format!("{value:.5e}").parse::<f64>().map_or(Value::Null, Value::from)
}

fn horizon(report: &HorizonReport) -> Value {
    json!({
        "n": report.n,
        "mae": round(report.mae),
        "mae_persistence": round(report.mae_persistence),
        "pinball10": round(report.pinball10),
        "pinball50": round(report.pinball50),
        "pinball90": round(report.pinball90),
        "coverage80": round(report.coverage80),
        "width80": round(report.width80),
        "cap_twice": round(report.cap_twice),
    })
}

fn deadline(report: &DeadlineReport) -> Value {
    let baselines: Map<String, Value> =
        report.baselines.iter().map(|(name, captured)| ((*name).to_owned(), round(*captured))).collect();
    let mut value = json!({
        "n": report.n,
        "available": round(report.available),
        "captured": report.captured.map(round),
        "captured_slip1": report.captured_slip1.map(round),
        "missed": report.missed,
        "missed_slip1": report.missed_slip1,
        "baselines": baselines,
    });
    // Steps of different files can't be added.
    if report.steps > 0 {
        value["steps"] = report.steps.into();
    }
    value
}

fn report(report: &FileReport) -> Map<String, Value> {
    let horizons: Map<String, Value> = report.horizons.iter().map(|(key, of)| (key.to_string(), horizon(of))).collect();
    let deadlines: Map<String, Value> =
        report.deadlines.iter().map(|(key, of)| (key.to_string(), deadline(of))).collect();
    Map::from_iter([("horizons".to_owned(), horizons.into()), ("deadlines".to_owned(), deadlines.into())])
}

/// All results as one object.
pub(super) fn json(files: &[Tested], pooled: &FileReport, failed: &[Failed], priors: &Priors) -> Value {
    let files: Vec<Value> = files
        .iter()
        .map(|file| {
            let mut value = json!({
                "file": file.name,
                "chain": file.chain,
                "rows": file.trace.rows(),
                "step_s": file.trace.step().as_secs_f64(),
                "kind": if file.trace.is_blocks() { "blocks" } else { "series" },
                "price": file.price_column,
            });
            if let Some(object) = value.as_object_mut() {
                object.extend(report(&file.report));
            }
            value
        })
        .collect();
    let errors: Vec<Value> =
        failed.iter().map(|failed| json!({ "file": failed.name, "error": failed.error })).collect();
    json!({
        "version": VERSION,
        "slackwater": env!("CARGO_PKG_VERSION"),
        "prior": { "forecast": priors.forecast.is_some(), "timing": priors.timing.is_some() },
        "warm_up_rows": WARM_UP,
        "files": files,
        "pooled": report(pooled),
        "errors": errors,
    })
}

fn named<'a>(files: &'a [Tested], pooled: &'a FileReport) -> impl Iterator<Item = (&'a str, &'a FileReport)> {
    let all = (files.len() > 1).then_some(("pooled", pooled));
    files.iter().map(|file| (file.name.as_str(), &file.report)).chain(all)
}

/// One line per file and horizon or deadline: `file,kind,key,n,measure,value`.
pub(super) fn csv(files: &[Tested], pooled: &FileReport) -> String {
    let mut out = "file,kind,key,measure,value\n".to_owned();
    let mut all = |file: &str, kind: &str, key: &str, of: &Value, prefix: &str| {
        for (measure, value) in of.as_object().into_iter().flatten() {
            if !value.is_object() {
                let value = if value.is_null() { String::new() } else { value.to_string() };
                // A comma in a file's name would move the columns. Writing to a String does not fail.
                let _ = writeln!(out, "{},{kind},{key},{prefix}{measure},{value}", file.replace([',', '"', '\n'], "_"));
            }
        }
    };
    for (name, report) in named(files, pooled) {
        for (key, of) in &report.horizons {
            all(name, "horizon", &key.to_string(), &horizon(of), "");
        }
        for (key, of) in &report.deadlines {
            let of = deadline(of);
            all(name, "deadline", &key.to_string(), &of, "");
            all(name, "deadline", &key.to_string(), &of["baselines"], "captured_");
        }
    }
    out
}

fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A time in readable form.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        _ if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        _ => format!("{:.1} h", f64::from(u32::try_from(seconds).unwrap_or(u32::MAX)) / 3_600.0),
    }
}

/// A horizon in readable form.
pub(super) fn ahead(key: HorizonKey) -> String {
    match key {
        HorizonKey::Blocks(1) => "1 block".to_owned(),
        HorizonKey::Blocks(blocks) => format!("{blocks} blocks"),
        HorizonKey::Seconds(seconds) => time(seconds),
    }
}

pub(super) fn tables(files: &[Tested], pooled: &FileReport) {
    let header = ["file", "ahead", "n", "MAE", "stays", "gain", "pinball .1/.5/.9", "80 % holds", "width", "under 2×"];
    let mut forecasts = table(header.map(str::to_owned).to_vec());
    for (name, report) in named(files, pooled) {
        for (index, (key, of)) in report.horizons.iter().enumerate() {
            let gain = if of.mae_persistence > 0.0 {
                format!("{:+.1} %", 100.0 * (1.0 - of.mae / of.mae_persistence))
            } else {
                "-".to_owned()
            };
            forecasts.add_row(vec![
                if index == 0 { name.to_owned() } else { String::new() },
                ahead(*key),
                of.n.to_string(),
                format!("{:.4}", of.mae),
                format!("{:.4}", of.mae_persistence),
                gain,
                format!("{:.4} {:.4} {:.4}", of.pinball10, of.pinball50, of.pinball90),
                format!("{:.1} %", 100.0 * of.coverage80),
                format!("{:.3}", of.width80),
                format!("{:.1} %", 100.0 * of.cap_twice),
            ]);
        }
    }
    println!("Forecasts: error of log base fee; `stays` takes the next block's fee to stay\n{forecasts}");
    let mut header: Vec<String> =
        ["file", "deadline", "n", "available", "slackwater", "one late"].map(str::to_owned).to_vec();
    header.extend(BASELINES.map(str::to_owned));
    header.push("missed".to_owned());
    let mut timings = table(header);
    let share = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    for (name, report) in named(files, pooled) {
        for (index, (seconds, of)) in report.deadlines.iter().enumerate() {
            let mut row = vec![
                if index == 0 { name.to_owned() } else { String::new() },
                time(*seconds),
                of.n.to_string(),
                format!("{:.1} %", 100.0 * of.available),
                share(of.captured),
                share(of.captured_slip1),
            ];
            row.extend(BASELINES.map(|baseline| share(of.baselines.get(baseline).copied())));
            row.push((of.missed + of.missed_slip1).to_string());
            timings.add_row(row);
        }
    }
    println!("Timing: share of the available saving that was captured (send at once 0, clairvoyant 1)\n{timings}");
}
