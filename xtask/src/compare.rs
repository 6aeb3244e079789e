//! `cargo xtask bench --compare`: two relayer programs under the same load, in turns.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::demo::build;
use crate::steps::say;
use crate::test::program;
use crate::tools::{ANVIL_VAR, anvil, repo_root};

/// Environment variable with the path of the relayer that the load generator starts.
const BINARY_VAR: &str = "SLACKWATER_BIN";

/// A number of the load generator's report.
struct Figure {
    name: &'static str,
    unit: &'static str,
    /// JSON pointer into the report.
    pointer: &'static str,
}

const fn figure(name: &'static str, unit: &'static str, pointer: &'static str) -> Figure {
    Figure { name, unit, pointer }
}

/// A load and the figures read from its report.
struct Load {
    title: &'static str,
    /// Arguments without the number of requests.
    arguments: &'static str,
    requests: u64,
    figures: &'static [Figure],
}

const LOADS: [Load; 2] = [
    Load {
        title: "accept one by one, 64 connections, held",
        arguments: "--hold --connections 64 --users 2000",
        requests: 30_000,
        figures: &[
            figure("accepted", "per second", "/accepted_per_second"),
            figure("processor time per accepted request", "µs", "/relayer_cpu_us_per_request"),
            figure("call p50", "µs", "/latency/p50_us"),
            figure("call p99", "µs", "/latency/p99_us"),
        ],
    },
    Load {
        title: "accept in batches of 100 and settle, 4 senders",
        arguments: "--settle --senders 4 --call sign --connections 8 --batch 100 --users 1000",
        requests: 15_000,
        figures: &[
            figure("settled", "per second", "/settled/per_second"),
            figure("processor time per settled request", "µs", "/settled/relayer_cpu_us_per_request"),
            figure("gas per request", "gas", "/settled/gas_per_request"),
            figure("requests per transaction", "", "/settled/requests_per_transaction"),
        ],
    },
];

/// Runs all loads in `pairs` pairs of `before` and the release build of this tree, in alternating order.
///
/// `scale_percent` of the usual requests.
pub(crate) fn run(before: &Path, pairs: u64, scale_percent: u64) -> Result<()> {
    let before = before.canonicalize().with_context(|| format!("no relayer at {}", before.display()))?;
    ensure!(before.is_file(), "{} is not a program", before.display());
    let anvil = anvil()?;
    build("release")?;
    let after = program("release", "slackwater")?;
    for load in &LOADS {
        let requests = (load.requests * scale_percent / 100).max(1);
        say(&format!("\n=== {}: {requests} requests, {pairs} pairs", load.title))?;
        let mut told: Vec<(Vec<f64>, Vec<f64>)> = vec![(Vec::new(), Vec::new()); load.figures.len()];
        for pair in 0..pairs {
            // The order alternates from pair to pair, so that warming up and filling up affect both equally.
            let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
            for is_before in turns {
                let binary = if is_before { &before } else { &after };
                let report = measure(load, requests, binary, &anvil)?;
                for (figure, (olds, news)) in load.figures.iter().zip(&mut told) {
                    let of = if is_before { olds } else { news };
                    of.push(read(&report, figure)?);
                }
            }
            say(&format!("pair {} of {pairs} done", pair + 1))?;
        }
        for (figure, (olds, news)) in load.figures.iter().zip(&told) {
            say(&row(figure, olds, news)?)?;
        }
    }
    Ok(())
}

fn measure(load: &Load, requests: u64, binary: &Path, anvil: &Path) -> Result<Value> {
    let mut command = Command::new(program("release", "slackwater-load")?);
    command.args(load.arguments.split_whitespace()).args(["--requests", &requests.to_string(), "--json"]);
    let output = command.env(ANVIL_VAR, anvil).env(BINARY_VAR, binary).current_dir(repo_root()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("the load on {} failed: {}\n{text}\n{words}", binary.display(), output.status);
    }
    serde_json::from_str(&text).with_context(|| format!("the load generator's report: {text}"))
}

fn read(report: &Value, figure: &Figure) -> Result<f64> {
    let value = report.pointer(figure.pointer).and_then(Value::as_f64);
    value.with_context(|| format!("the load generator tells no `{}` here", figure.pointer))
}

fn row(figure: &Figure, olds: &[f64], news: &[f64]) -> Result<String> {
    let ratio = Ratio::of(olds, news).with_context(|| format!("`{}` was 0 before", figure.name))?;
    let (old, new) = (median(olds).unwrap_or_default(), median(news).unwrap_or_default());
    let Figure { name, unit, .. } = figure;
    Ok(format!("{name:<38} {:>10} → {:>10} {unit:<10} {ratio}", amount(old), amount(new)))
}

/// Formats with at least three significant digits, or as a whole number.
fn amount(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Ratio of new to old over all pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ratio {
    median: f64,
    least: f64,
    most: f64,
}

impl Ratio {
    /// `None` without pairs, or if an old value is not above 0.
    fn of(olds: &[f64], news: &[f64]) -> Option<Self> {
        if olds.len() != news.len() || olds.iter().any(|old| *old <= 0.0) {
            return None;
        }
        let ratios: Vec<f64> = news.iter().zip(olds).map(|(new, old)| new / old).collect();
        let least = ratios.iter().copied().reduce(f64::min)?;
        let most = ratios.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(&ratios)?, least, most })
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "× {:.3} ({:.3} to {:.3})", self.median, self.least, self.most)
    }
}

/// The median; `None` of an empty slice.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[middle - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    /// A slow phase of the machine affects both runs of a pair: the ratio of each pair counts, not that of the
    /// medians.
    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let (olds, news) = ([100.0, 200.0, 400.0], [110.0, 200.0, 420.0]);
        let ratio = Ratio::of(&olds, &news).expect("three pairs");
        assert_eq!((ratio.median, ratio.least, ratio.most), (1.05, 1.0, 1.1));
        assert_eq!(ratio.to_string(), "× 1.050 (1.000 to 1.100)");
    }

    #[test]
    fn what_has_no_ratio_is_not_guessed() {
        assert_eq!(Ratio::of(&[], &[]), None);
        assert_eq!(Ratio::of(&[0.0], &[1.0]), None);
        assert_eq!(Ratio::of(&[1.0, 2.0], &[1.0]), None);
    }

    #[test]
    fn every_figure_is_in_the_report() {
        let report = serde_json::json!({
            "accepted_per_second": 1, "relayer_cpu_us_per_request": 2, "latency": { "p50_us": 3, "p99_us": 4 },
            "settled": {
                "per_second": 5, "relayer_cpu_us_per_request": 6.5, "gas_per_request": 7, "requests_per_transaction": 8.25,
            },
        });
        for figure in LOADS.iter().flat_map(|load| load.figures) {
            assert!(read(&report, figure).is_ok(), "{}", figure.name);
        }
        assert!(read(&serde_json::json!({ "settled": null }), &LOADS[1].figures[0]).is_err());
    }
}
