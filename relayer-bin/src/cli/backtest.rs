//! `backtest`: the value that forecasts and timing would have had on recorded fees.

mod output;
mod svg;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use slackwater_core::{
    backtest::{
        Deadlines, FileReport, ForecastRun, HorizonKey, Horizons, MAX_DEADLINES, SourceFault, TimingRun, Trace, pool,
        score_forecasts, score_timing,
    },
    forecast::Prior,
    schedule::timing::TimingPrior,
};

use super::{error::CliError, history};

/// Most threads.
const MAX_JOBS: usize = 64;
/// Most horizons that may be asked for.
const MAX_HORIZONS: usize = 32;
/// Longest deadline, seconds: a week.
const MAX_DEADLINE_S: u64 = 604_800;
/// Rows of the plot of one file, and rows between two fans in it.
const PLOT_ROWS: usize = 600;
const FAN_EVERY: usize = 150;
/// Bars of progress are drawn in rows of one pass; each file takes three.
const PASSES: usize = 3;

#[derive(Debug, Args)]
#[command(after_help = "\
Files are CSV with a header line, as `slackwater fees record` writes them; docs/cli.md names the columns. A file that can't
be read is told and left out: the others still run, and the exit code is 1.

Every forecast and decision uses only the rows up to it. A submission after each row, for each deadline, pays the next
block's base fee (in a series the row's own). `captured` is (at once − policy) / (at once − clairvoyant).")]
pub(super) struct BacktestArgs {
    /// `.csv` and `.csv.gz` files, folders of them, or patterns such as `data/eth*.csv.gz`.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Horizons: blocks (`10`) for per-block files, seconds (`3600s`) for series.
    #[arg(long, value_delimiter = ',', value_parser = parse_horizon, value_name = "LIST")]
    horizons: Vec<HorizonKey>,
    /// Deadlines in seconds.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=MAX_DEADLINE_S), value_name = "LIST")]
    deadlines: Vec<u64>,
    /// Column that is the price; otherwise `base_fee_wei` or what comes closest to it.
    #[arg(long, value_name = "COLUMN")]
    price: Option<String>,
    /// Time between blocks in ms, where neither chain nor timestamps tell it.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    block_time_ms: Option<u64>,
    /// Let one of three fee sources be bad, or ten blocks be missing: hardly a figure may change.
    #[arg(long, value_name = "FAULT")]
    source_fault: Option<FaultArg>,
    #[command(flatten)]
    priors: PriorArgs,
    /// Seed of what chance there is in fitting.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads; as many as there are processors by default.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=MAX_JOBS as i64))]
    jobs: Option<u16>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Also write all figures as CSV.
    #[arg(long, value_name = "OUT")]
    csv: Option<PathBuf>,
    /// Also draw them.
    #[arg(long, value_name = "OUT")]
    svg: Option<PathBuf>,
}

/// A fault to inject into the fee sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FaultArg {
    /// One of three reports fees a hundred times too high.
    Liar,
    /// One of three reports the right base fees, with false gas, tips and next base fees.
    HalfTruth,
    /// One of three is 20 blocks behind.
    Lag,
    /// Ten blocks in the middle are missing from all sources.
    Gap,
}

impl From<FaultArg> for SourceFault {
    fn from(fault: FaultArg) -> Self {
        match fault {
            FaultArg::Liar => Self::Liar,
            FaultArg::HalfTruth => Self::HalfTruth,
            FaultArg::Lag => Self::Lag,
            FaultArg::Gap => Self::Gap,
        }
    }
}

/// Prior models to start with.
#[derive(Debug, Clone, Args)]
pub(super) struct PriorArgs {
    /// Start cold, without what was learnt on other chains.
    #[arg(long)]
    no_prior: bool,
    /// Forecast models to start with, as JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "no_prior")]
    forecast_prior: Option<PathBuf>,
    /// Timing models to start with, as JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "no_prior")]
    timing_prior: Option<PathBuf>,
}

/// Models that every chain starts with.
#[derive(Debug, Clone, Default)]
pub(super) struct Priors {
    pub(super) forecast: Option<Prior>,
    pub(super) timing: Option<TimingPrior>,
}

impl PriorArgs {
    pub(super) fn load(&self) -> Result<Priors, CliError> {
        let text = |path: &Path| {
            let text = history::read_text(path);
            text.map_err(|error| CliError::usage(format!("can't read {}: {error}", path.display())))
        };
        let wrong = |path: &Path, error: String| CliError::usage(format!("{}: {error}", path.display()));
        let mut priors = match self.no_prior {
            true => Priors::default(),
            false => Priors {
                forecast: Prior::shipped(),
                timing: Some(TimingPrior::shipped().map_err(|error| CliError::usage(error.to_string()))?),
            },
        };
        if let Some(path) = &self.forecast_prior {
            let prior = serde_json::from_str(&text(path)?).map_err(|error| wrong(path, error.to_string()))?;
            priors.forecast = Some(prior);
        }
        if let Some(path) = &self.timing_prior {
            let prior = TimingPrior::from_json(&text(path)?).map_err(|error| wrong(path, error.to_string()))?;
            priors.timing = Some(prior);
        }
        Ok(priors)
    }
}

pub(super) fn parse_horizon(text: &str) -> Result<HorizonKey, String> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
    match text.strip_suffix('s') {
        Some(seconds) => number(seconds).filter(|s| *s <= MAX_DEADLINE_S).map(HorizonKey::Seconds),
        None => number(text).and_then(|blocks| u32::try_from(blocks).ok()).map(HorizonKey::Blocks),
    }
    .ok_or_else(|| format!("write blocks, as in 10, or seconds up to {MAX_DEADLINE_S}, as in 3600s"))
}

/// One forecast for the plot: row of its origin, and per horizon the steps and the log quantiles .1, .5, .9.
#[derive(Debug, Clone)]
struct Fan {
    row: usize,
    levels: Vec<(u32, [f64; 3])>,
}

/// One file and its results.
#[derive(Debug)]
struct Tested {
    name: String,
    chain: String,
    price_column: String,
    trace: Trace,
    horizons: Horizons,
    deadlines: Deadlines,
    report: FileReport,
    /// Wei, for the plot.
    prices: Vec<u128>,
    window: std::ops::Range<usize>,
    fans: Vec<Fan>,
}

/// A file that was skipped, and the error.
#[derive(Debug)]
struct Failed {
    name: String,
    error: String,
}

/// A part of the work on one file.
#[derive(Debug, Clone, Copy)]
enum Pass {
    Forecasts,
    Timing { slip: u32 },
}

/// Result of a pass.
enum Outcome {
    Forecasts(BTreeMap<HorizonKey, slackwater_core::backtest::HorizonReport>, Vec<Fan>),
    Timing(u32, BTreeMap<u64, slackwater_core::backtest::DeadlineReport>),
}

pub(super) async fn run(args: BacktestArgs) -> Result<(), CliError> {
    tokio::task::block_in_place(|| test(&args))
}

fn test(args: &BacktestArgs) -> Result<(), CliError> {
    if args.horizons.len() > MAX_HORIZONS {
        return Err(CliError::usage(format!("{} horizons, limit {MAX_HORIZONS}", args.horizons.len())));
    }
    if args.deadlines.len() > MAX_DEADLINES {
        return Err(CliError::usage(format!("{} deadlines, limit {MAX_DEADLINES}", args.deadlines.len())));
    }
    let priors = args.priors.load()?;
    let (mut files, mut failed) = (Vec::new(), Vec::new());
    for path in history::find(&args.files)? {
        match open(&path, args) {
            Ok(file) => files.push(file),
            Err(error) => failed.push(Failed { name: path.display().to_string(), error }),
        }
    }
    let errors = work(&mut files, args, &priors);
    for (index, error) in errors.into_iter().rev() {
        let file = files.remove(index);
        failed.push(Failed { name: file.name, error });
    }
    for Failed { name, error } in &failed {
        eprintln!("slackwater: {name}: {error}");
    }
    let pooled = pool(files.iter().map(|file| &file.report));
    if args.json {
        println!("{}", output::json(&files, &pooled, &failed, &priors));
    } else if !files.is_empty() {
        output::tables(&files, &pooled);
    }
    for (path, text) in [
        (&args.csv, args.csv.as_ref().map(|_| output::csv(&files, &pooled))),
        (&args.svg, args.svg.as_ref().map(|_| svg::draw(&files, &pooled))),
    ] {
        if let (Some(path), Some(text)) = (path, text) {
            fs::write(path, text).map_err(|e| CliError::failed(format!("can't write {}: {e}", path.display())))?;
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::failed(format!("{} of {} files left out", failed.len(), failed.len() + files.len())))
    }
}

fn open(path: &Path, args: &BacktestArgs) -> Result<Tested, String> {
    let mut table = history::read(path, args.price.as_deref())?;
    if let Some(fault) = args.source_fault {
        table.points = SourceFault::from(fault).apply(&table.points);
    }
    let (chain, price_column) = (table.chain.clone().unwrap_or_default(), table.price_column.clone());
    let prices = table.points.iter().map(|point| point.base_fee).collect::<Vec<_>>();
    let trace = Trace::new(table, args.block_time_ms.map(Duration::from_millis));
    let horizons =
        if args.horizons.is_empty() { Horizons::usual(&trace) } else { Horizons::of(&trace, &args.horizons) };
    let deadlines =
        if args.deadlines.is_empty() { Deadlines::usual(&trace) } else { Deadlines::of(&trace, &args.deadlines) };
    let start = (prices.len().saturating_sub(PLOT_ROWS)) / 2;
    let window = start..(start + PLOT_ROWS).min(prices.len());
    let (name, report, fans) = (history::short_name(path), FileReport::default(), Vec::new());
    Ok(Tested { name, chain, price_column, trace, horizons, deadlines, report, prices, window, fans })
}

/// Runs all passes over all files on several threads, the longest files first. Returns the files that failed, by index.
fn work(files: &mut [Tested], args: &BacktestArgs, priors: &Priors) -> Vec<(usize, String)> {
    let mut passes: Vec<(usize, Pass)> = (0..files.len())
        .flat_map(|file| [Pass::Timing { slip: 0 }, Pass::Timing { slip: 1 }, Pass::Forecasts].map(|pass| (file, pass)))
        .collect();
    passes.sort_by_key(|(file, _)| std::cmp::Reverse(files[*file].trace.rows()));
    let bar = ProgressBar::new((files.iter().map(|file| file.trace.rows()).sum::<usize>() * PASSES) as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %  {eta:>4}  {msg}") {
        bar.set_style(style);
    }
    let threads = args
        .jobs
        .map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get), usize::from);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(passes.len()).min(MAX_JOBS) {
            scope.spawn(|| {
                while let Some((file, pass)) = passes.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let tested = &files[file];
                    bar.set_message(tested.name.clone());
                    let outcome = perform(tested, pass, args.seed, priors, &bar);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((file, outcome));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut outcomes = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(file, _)| *file);
    let mut errors = BTreeMap::new();
    let mut slipped = Vec::new();
    for (index, outcome) in outcomes {
        let file = &mut files[index];
        match outcome {
            Ok(Outcome::Forecasts(horizons, fans)) => (file.report.horizons, file.fans) = (horizons, fans),
            Ok(Outcome::Timing(0, deadlines)) => file.report.deadlines = deadlines,
            Ok(Outcome::Timing(_, deadlines)) => slipped.push((index, deadlines)),
            Err(error) => _ = errors.insert(index, error),
        }
    }
    for (index, deadlines) in slipped {
        for (seconds, slipped) in deadlines {
            if let Some(report) = files[index].report.deadlines.get_mut(&seconds) {
                (report.captured_slip1, report.missed_slip1) = (slipped.captured, slipped.missed);
            }
        }
    }
    errors.into_iter().collect()
}

fn perform(file: &Tested, pass: Pass, seed: u64, priors: &Priors, bar: &ProgressBar) -> Result<Outcome, String> {
    let trace = file.trace.clone();
    let rows = trace.rows() as u64;
    match pass {
        Pass::Forecasts => {
            let run = ForecastRun { horizons: file.horizons.clone(), prior: priors.forecast.clone(), seed };
            let mut fans = Vec::new();
            let horizons = score_forecasts(trace, &run, |row, _, forecast| {
                bar.inc(1);
                if file.window.contains(&row) && (row - file.window.start) % FAN_EVERY == FAN_EVERY / 3 {
                    let levels =
                        forecast.horizons.iter().map(|h| (h.steps, [0.1, 0.5, 0.9].map(|p| h.log_quantile(p))));
                    fans.push(Fan { row, levels: levels.collect() });
                }
            });
            horizons.map(|horizons| Outcome::Forecasts(horizons, fans)).map_err(|error| error.to_string())
        }
        Pass::Timing { slip } => {
            let run = TimingRun { deadlines: file.deadlines.clone(), prior: priors.timing.clone(), seed, slip };
            let mut told = 0;
            let deadlines = score_timing(trace, &run, |row, sent| {
                if sent.is_none() {
                    bar.inc(row as u64 - told);
                    told = row as u64;
                }
            });
            bar.inc(rows - told);
            deadlines.map(|deadlines| Outcome::Timing(slip, deadlines)).map_err(|error| error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn horizons_are_blocks_or_seconds() {
        assert_eq!(parse_horizon("10"), Ok(HorizonKey::Blocks(10)));
        assert_eq!(parse_horizon("3600s"), Ok(HorizonKey::Seconds(3_600)));
        for bad in ["", "0", "-1", "s", "1h", "99999999999s", "4294967296"] {
            assert!(parse_horizon(bad).is_err(), "{bad}");
        }
    }
}
