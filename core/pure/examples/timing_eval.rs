//! Captured share of the timing policies on recorded fee files, and the maker of the shipped prior.
//!
//! ```text
//! timing_eval [--cold | --prior FILE | --leave-one-out | --split] [--slip N] [--policies] FILE…
//! timing_eval --train OUT FILE…
//! ```
//! Files are CSV or gzip CSV as `slackwater fees record` writes them. `--leave-one-out` trains on all files but the one it
//! judges; `--split` trains on the first 60 % of all files and judges the rest.
//! `--shares FILE` takes the expected shares from a prior; with `NOFIT` in the environment nothing is refitted on the way.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]
#![allow(clippy::disallowed_methods, reason = "it times itself")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a report")]

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use slackwater_core::{
    BlockTimestamp,
    market::{FeePoint, Tips, Utilisation},
    schedule::timing::{PRIOR_VERSION, PriorKind, Timing, TimingConfig, TimingPrior, TrainingFile, train},
};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Steps above this many seconds make a series.
const SERIES_FROM: f64 = 30.0;
const BLOCK_DEADLINES: [u64; 4] = [60, 300, 1_800, 7_200];
const SERIES_DEADLINES: [u64; 3] = [7_200, 43_200, 86_400];
/// Slacks at which a prior knows the policies' shares, in units of time.
const PRIOR_SLACKS: [u32; 10] = [2, 5, 10, 25, 50, 100, 150, 300, 430, 600];

struct Recorded {
    name: String,
    step: Duration,
    points: Vec<FeePoint>,
}

impl Recorded {
    fn is_series(&self) -> bool {
        self.step.as_secs_f64() > SERIES_FROM
    }

    fn deadlines(&self) -> &'static [u64] {
        if self.is_series() { &SERIES_DEADLINES } else { &BLOCK_DEADLINES }
    }

    fn steps(&self, seconds: u64) -> u32 {
        (seconds as f64 / self.step.as_secs_f64() + 1e-6) as u32
    }
}

fn read(path: &Path) -> Fallible<Recorded> {
    let mut text = String::new();
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(File::open(path)?).read_to_string(&mut text)?;
    } else {
        File::open(path)?.read_to_string(&mut text)?;
    }
    let name =
        path.file_name().map(|n| n.to_string_lossy().split('.').next().unwrap_or("").to_owned()).unwrap_or_default();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().ok_or("empty file")?.split(',').collect();
    let column = |names: &[&str]| names.iter().find_map(|name| header.iter().position(|h| h == name));
    let (number, time) = (column(&["block_number"]), column(&["timestamp"]));
    let fee = column(&["base_fee_wei", "min_gas_price_wei", "close_gwei"]).ok_or("no fee column")?;
    let (used, limit, ratio) = (column(&["gas_used"]), column(&["gas_limit"]), column(&["gas_used_ratio"]));
    let chain = column(&["chain"]);
    let mut points: Vec<FeePoint> = Vec::new();
    let mut is_polygon = false;
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |at: Option<usize>| at.and_then(|at| cells.get(at)).copied().filter(|cell| !cell.is_empty());
        is_polygon |= cell(chain) == Some("polygon");
        let Some(base_fee) = cell(Some(fee)).and_then(|c| c.parse::<f64>().ok()) else { continue };
        let gas = cell(used).and_then(|c| c.parse().ok()).zip(cell(limit).and_then(|c| c.parse().ok()));
        let ratio = cell(ratio).and_then(|c| c.parse().ok()).map(Utilisation::Ratio);
        let in_gwei = header[fee].ends_with("_gwei");
        let exact = cell(Some(fee)).and_then(|c| c.parse::<u128>().ok()).filter(|_| !in_gwei);
        let base_fee = exact.unwrap_or((base_fee * if in_gwei { 1e9 } else { 1.0 }) as u128);
        points.push(FeePoint {
            number: cell(number).and_then(|c| c.parse().ok()).unwrap_or(points.len() as u64),
            timestamp: cell(time).and_then(|c| c.parse::<f64>().ok()).map(|t| BlockTimestamp(t as u64)),
            base_fee,
            utilisation: gas.map(|(used, limit)| Utilisation::Gas { used, limit }).or(ratio),
            tips: Tips::default(),
            next_base_fee: None,
        });
    }
    let is_series = name.contains("series");
    let mut gaps: Vec<u64> =
        points.windows(2).filter_map(|pair| Some(pair[1].timestamp?.0.saturating_sub(pair[0].timestamp?.0))).collect();
    gaps.sort_unstable();
    let step = match gaps.get(gaps.len() / 2) {
        Some(gap) if is_series => *gap as f64,
        _ if is_polygon => 2.0,
        _ if points.first().is_some_and(|p| p.number / 1_000_000 == 14 && p.timestamp.is_none()) => 13.3,
        _ => 12.0,
    };
    if !is_series {
        for at in 0..points.len().saturating_sub(1) {
            if points[at + 1].number == points[at].number + 1 {
                points[at].next_base_fee = Some(points[at + 1].base_fee);
            }
        }
        // The price after the last block is not in the file.
        points.pop();
    }
    Ok(Recorded { name, step: Duration::from_secs_f64(step), points })
}

/// What came of all submissions with one slack.
#[derive(Debug, Clone, Default)]
struct Outcome {
    n: u64,
    at_once: f64,
    paid: f64,
    lowest: f64,
    missed: u64,
    policies: Vec<(String, f64)>,
}

impl Outcome {
    fn captured(&self) -> f64 {
        (self.at_once - self.paid) / (self.at_once - self.lowest).max(1e-9)
    }
}

fn simulate(
    file: &Recorded,
    points: &[FeePoint],
    slacks: &[u32],
    slip: u32,
    prior: Option<TimingPrior>,
    judge_from: usize,
) -> Fallible<(Vec<Outcome>, f64)> {
    let slacks: Vec<u32> =
        slacks.iter().copied().filter(|slack| *slack > slip && (*slack as usize) < points.len()).collect();
    if slacks.is_empty() {
        return Ok((Vec::new(), 0.0));
    }
    let mut timing = Timing::new(TimingConfig { step: file.step, slacks: slacks.clone(), slip, seed: 7, prior })?;
    let mut open: Vec<VecDeque<usize>> = vec![VecDeque::new(); slacks.len()];
    let mut outcomes = vec![Outcome::default(); slacks.len()];
    let prices: Vec<f64> = points.iter().map(|point| point.price() as f64).collect();
    let mut longest_fit = 0.0_f64;
    for (now, point) in points.iter().enumerate() {
        timing.observe(point);
        if timing.refit_due() && std::env::var_os("NOFIT").is_none() {
            let start = Instant::now();
            let fitted = timing.refit_job().run();
            longest_fit = longest_fit.max(start.elapsed().as_secs_f64());
            timing.install(fitted);
        }
        for ((slack, open), outcome) in slacks.iter().zip(&mut open).zip(&mut outcomes) {
            let span = *slack as usize;
            if now + span < points.len() && now >= judge_from {
                open.push_back(now);
            }
            while let Some(first) = open.front().copied() {
                let remaining = (first + span - now) as u32;
                if !timing.decide(*slack, remaining).send {
                    outcome.missed += u64::from(remaining <= slip);
                    break;
                }
                open.pop_front();
                outcome.n += 1;
                outcome.at_once += prices[first];
                outcome.paid += prices[now + slip as usize];
                outcome.lowest += prices[first..=first + span].iter().copied().fold(f64::INFINITY, f64::min);
            }
        }
    }
    for (slack, outcome) in slacks.iter().zip(&mut outcomes) {
        outcome.policies = timing.captured(*slack).into_iter().map(|(p, c)| (p.to_string(), c)).collect();
    }
    Ok((outcomes, longest_fit))
}

fn training(files: &[&Recorded], share: f64) -> Vec<TrainingFile> {
    files
        .iter()
        .filter(|file| file.step.as_secs_f64() >= 11.9 && !file.name.contains("taiko"))
        .map(|file| {
            let end = (file.points.len() as f64 * share) as usize;
            TrainingFile { step: file.step, points: file.points[..end].to_vec() }
        })
        .collect()
}

/// A prior from `files`, without shares.
fn fit_kind(files: &[&Recorded], slip: u32, share: f64) -> Option<PriorKind> {
    let max_step_seconds = if files.first()?.is_series() { 1_000_000 } else { SERIES_FROM as u64 };
    let model = train(&training(files, share), slip, 1)?;
    Some(PriorKind { max_step_seconds, slip, model, shares: BTreeMap::new() })
}

/// Captured share per policy and slack of models that have not seen the file they are judged on.
fn shares(files: &[&Recorded], slip: u32) -> Fallible<BTreeMap<String, Vec<(f64, f64)>>> {
    let mut sums: BTreeMap<String, BTreeMap<u32, (f64, f64)>> = BTreeMap::new();
    for file in files {
        let others: Vec<&Recorded> = files.iter().copied().filter(|other| other.name != file.name).collect();
        let kinds = fit_kind(&others, slip, 1.0).into_iter().collect();
        let prior = TimingPrior { version: PRIOR_VERSION, provenance: String::new(), kinds };
        let (outcomes, _) = simulate(file, &file.points, &PRIOR_SLACKS.map(|s| s + slip), slip, Some(prior), 0)?;
        for (slack, outcome) in PRIOR_SLACKS.iter().zip(outcomes) {
            // Long slacks overlap: what counts is how many fit into a file.
            if outcome.n < u64::from(*slack) {
                continue;
            }
            let weight = outcome.n as f64;
            for (policy, captured) in outcome.policies {
                let sum = sums.entry(policy).or_default().entry(*slack).or_default();
                *sum = (sum.0 + weight * captured, sum.1 + weight);
            }
        }
    }
    let average = |(slack, (sum, weight)): (u32, (f64, f64))| (f64::from(slack), (sum / weight * 1e4).round() / 1e4);
    Ok(sums.into_iter().map(|(policy, points)| (policy, points.into_iter().map(average).collect())).collect())
}

fn prior_of(files: &[&Recorded], slips: &[u32], share: f64, with_shares: bool) -> Fallible<TimingPrior> {
    let mut kinds = Vec::new();
    for is_series in [false, true] {
        let group: Vec<&Recorded> = files
            .iter()
            .copied()
            .filter(|file| {
                file.is_series() == is_series && file.step.as_secs_f64() >= 11.9 && !file.name.contains("taiko")
            })
            .collect();
        // With slip the same policies lead, only with less to gain.
        let shared = if with_shares { shares(&group, 0)? } else { BTreeMap::new() };
        for slip in slips {
            let Some(mut kind) = fit_kind(&group, *slip, share) else { continue };
            kind.shares = shared.clone();
            kinds.push(kind);
        }
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    Ok(TimingPrior { version: PRIOR_VERSION, provenance: format!("timing_eval --train; {}", names.join(", ")), kinds })
}

fn main() -> Fallible<()> {
    let (mut mode, mut slip, mut detail, mut paths) = (String::from("--cold"), 0_u32, false, Vec::new());
    let (mut out, mut prior_path, mut shares_path) = (None, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cold" | "--leave-one-out" | "--split" => mode = argument,
            "--train" => out = arguments.next(),
            "--shares" => shares_path = arguments.next(),
            "--prior" => {
                mode = argument;
                prior_path = arguments.next();
            }
            "--slip" => slip = arguments.next().ok_or("--slip needs a number")?.parse()?,
            "--policies" => detail = true,
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let files: Vec<Recorded> = paths
        .iter()
        .filter_map(|path| read(path).map_err(|e| eprintln!("{}: {e}", path.display())).ok())
        .filter(|f| f.points.len() > 300)
        .collect();
    let all: Vec<&Recorded> = files.iter().collect();
    if let Some(out) = out {
        let prior = prior_of(&all, &[0, 1], 1.0, true)?;
        std::fs::write(out, serde_json::to_string(&prior)? + "\n")?;
        return Ok(());
    }
    let shipped = prior_path
        .or(shares_path)
        .map(|path| -> Fallible<_> { Ok(TimingPrior::from_json(&std::fs::read_to_string(path)?)?) })
        .transpose()?;
    let with_shares = |mut prior: TimingPrior| {
        if let Some(shipped) = &shipped {
            for kind in &mut prior.kinds {
                if let Some(other) =
                    shipped.kinds.iter().find(|k| k.slip == kind.slip && k.max_step_seconds == kind.max_step_seconds)
                {
                    kind.shares = other.shares.clone();
                }
            }
        }
        prior
    };
    let split = if mode == "--split" { Some(with_shares(prior_of(&all, &[slip], 0.6, false)?)) } else { None };
    let mut pooled: BTreeMap<(bool, u64), (f64, f64)> = BTreeMap::new();
    let mut by_policy: BTreeMap<(bool, u64), BTreeMap<String, (f64, f64)>> = BTreeMap::new();
    for file in &files {
        let prior = match mode.as_str() {
            "--prior" => shipped.clone(),
            "--split" => split.clone(),
            "--leave-one-out" => {
                let others: Vec<&Recorded> = files.iter().filter(|other| other.name != file.name).collect();
                Some(with_shares(prior_of(&others, &[slip], 1.0, false)?))
            }
            _ => None,
        };
        let judge_from = if mode == "--split" { file.points.len() * 6 / 10 } else { 0 };
        let slacks: Vec<u32> = file.deadlines().iter().map(|d| file.steps(*d)).collect();
        let start = Instant::now();
        let (outcomes, fit) = simulate(file, &file.points, &slacks, slip, prior, judge_from)?;
        let mut line = format!("{:45}", file.name);
        for (deadline, outcome) in file.deadlines().iter().zip(&outcomes) {
            line += &format!(" {:.3} ({:.0}%)", outcome.captured(), 100.0 * (1.0 - outcome.lowest / outcome.at_once));
            assert_eq!(outcome.missed, 0, "missed deadlines");
            if file.name.contains("taiko") {
                continue;
            }
            let weight = outcome.n as f64;
            let sum = pooled.entry((file.is_series(), *deadline)).or_default();
            *sum = (sum.0 + weight * outcome.captured(), sum.1 + weight);
            for (policy, captured) in &outcome.policies {
                let sum =
                    by_policy.entry((file.is_series(), *deadline)).or_default().entry(policy.clone()).or_default();
                *sum = (sum.0 + weight * captured, sum.1 + weight);
            }
        }
        println!("{line}   {:.1} s, fit {fit:.2} s", start.elapsed().as_secs_f64());
        if detail {
            for at in 0..outcomes.first().map_or(0, |o| o.policies.len()) {
                let shares: Vec<String> = outcomes.iter().map(|o| format!("{:6.3}", o.policies[at].1)).collect();
                println!("    {:18} {}", outcomes[0].policies[at].0, shares.join(" "));
            }
        }
    }
    for is_series in [false, true] {
        let of = |sums: &(f64, f64)| format!("{:6.3}", sums.0 / sums.1.max(1e-9));
        let line: Vec<String> =
            pooled.range((is_series, 0)..=(is_series, u64::MAX)).map(|(_, sums)| of(sums)).collect();
        println!("pooled {:12} {}", if is_series { "series" } else { "blocks" }, line.join(" "));
        let columns: Vec<_> = by_policy.range((is_series, 0)..=(is_series, u64::MAX)).collect();
        if let Some((_, first)) = columns.first() {
            for policy in first.keys() {
                let line: Vec<String> =
                    columns.iter().map(|(_, c)| c.get(policy).map_or_else(String::new, of)).collect();
                println!("    {policy:18} {}", line.join(" "));
            }
        }
    }
    Ok(())
}
