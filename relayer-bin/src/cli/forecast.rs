//! `forecast`: expected gas prices, in the terminal.

mod chart;

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};
use slackwater_core::{
    backtest::Trace,
    forecast::{Forecast, ForecastConfig, Forecaster, MAX_STEPS},
    market::{FeePoint, csv::Cadence},
    schedule::timing::{Timing, TimingConfig},
};

use super::{
    backtest::PriorArgs,
    error::CliError,
    headers::{Header, MAX_FEE_HISTORY, NodeArgs, Reader},
    history,
};

/// Steps ahead that are forecast by default.
const HORIZONS: [u32; 10] = [1, 2, 5, 10, 15, 25, 40, 60, 100, 150];
/// Slacks, in seconds, for which the send-now-or-wait decision is shown.
const SLACKS_S: [u64; 5] = [60, 300, 1_800, 7_200, 43_200];
/// Most horizons of one forecast.
const MAX_HORIZONS: usize = 32;
/// Rows of a file that are read into the models: more improve nothing.
const MAX_ROWS: usize = 50_000;
/// Percentile of the tips.
const PERCENTILE: u8 = 50;
/// Blocks that are read again when a head does not follow the one before.
const REREAD: u64 = 64;
/// Shortest and longest interval between polls of the head.
const MIN_POLL: Duration = Duration::from_millis(250);
const MAX_POLL: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub(super) struct ForecastArgs {
    /// A recorded history (`.csv`, `.csv.gz`): forecasts what comes after its last row.
    #[arg(value_name = "FILE", conflicts_with = "rpc", required_unless_present = "rpc")]
    file: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    /// Steps ahead: blocks, or rows of a series.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_STEPS)), value_name = "LIST")]
    horizons: Vec<u32>,
    /// Blocks of history that are read from the node first.
    #[arg(long, value_name = "N", default_value_t = MAX_FEE_HISTORY, value_parser = clap::value_parser!(u64).range(16..=16 * MAX_FEE_HISTORY))]
    blocks: u64,
    #[command(flatten)]
    priors: PriorArgs,
    /// One forecast, instead of one for every new block.
    #[arg(long)]
    once: bool,
    /// Print one JSON object per forecast.
    #[arg(long)]
    json: bool,
}

/// Forecaster and timing of one chain.
struct Outlook {
    chain: String,
    step: Duration,
    unit: &'static str,
    forecaster: Forecaster,
    timing: Timing,
    slacks: Vec<(u64, u32)>,
    recent: Vec<FeePoint>,
}

impl Outlook {
    fn new(chain: String, step: Duration, unit: &'static str, args: &ForecastArgs) -> Result<Self, CliError> {
        let mut horizons = if args.horizons.is_empty() { HORIZONS.to_vec() } else { args.horizons.clone() };
        horizons.sort_unstable();
        horizons.dedup();
        if horizons.len() > MAX_HORIZONS {
            return Err(CliError::usage(format!("{} horizons, limit {MAX_HORIZONS}", horizons.len())));
        }
        let priors = args.priors.load()?;
        let wrong = |error: String| CliError::usage(error);
        let config = ForecastConfig { horizons, step, prior: priors.forecast, ..ForecastConfig::default() };
        let forecaster = Forecaster::new(config).map_err(|error| wrong(error.to_string()))?;
        let steps =
            |seconds: u64| u32::try_from(u128::from(seconds) * 1_000 / step.as_millis().max(1)).unwrap_or(u32::MAX);
        let mut slacks: Vec<(u64, u32)> = SLACKS_S
            .into_iter()
            .map(|seconds| (seconds, steps(seconds)))
            .filter(|(_, s)| (2..100_000).contains(s))
            .collect();
        slacks.dedup_by_key(|(_, steps)| *steps);
        if slacks.is_empty() {
            slacks.push((step.as_secs().saturating_mul(10), 10));
        }
        let timing = Timing::new(TimingConfig {
            step,
            slacks: slacks.iter().map(|(_, steps)| *steps).collect(),
            slip: 0,
            seed: 1,
            prior: priors.timing,
        });
        let timing = timing.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { chain, step, unit, forecaster, timing, slacks, recent: Vec::new() })
    }

    fn observe(&mut self, point: FeePoint) {
        self.forecaster.observe(&point);
        if self.forecaster.refit_due()
            && let Some(job) = self.forecaster.refit_job()
        {
            self.forecaster.install(job.run());
        }
        let next =
            self.forecaster.forecast().filter(|forecast| forecast.next_is_exact).map(|forecast| forecast.next_base_fee);
        self.timing.observe(&FeePoint { next_base_fee: point.next_base_fee.or(next), ..point });
        if self.timing.refit_due() {
            let fitted = self.timing.refit_job().run();
            self.timing.install(fitted);
        }
        self.recent.retain(|seen| seen.number < point.number);
        self.recent.push(point);
        if self.recent.len() > 2 * chart::PAST {
            self.recent.drain(..chart::PAST);
        }
    }

    fn forecast(&self) -> Result<Forecast, CliError> {
        self.forecaster.forecast().ok_or_else(|| CliError::failed("no history to forecast from"))
    }

    fn json(&self, forecast: &Forecast) -> Value {
        let horizons: Vec<Value> = forecast
            .horizons
            .iter()
            .map(|h| {
                json!({
                    "steps": h.steps,
                    "seconds": (self.step * h.steps).as_secs_f64(),
                    "baseFeeWei": h.point.to_string(),
                    "q10Wei": h.q10.to_string(),
                    "q50Wei": h.q50.to_string(),
                    "q90Wei": h.q90.to_string(),
                })
            })
            .collect();
        let send: Map<String, Value> = self
            .slacks
            .iter()
            .map(|(seconds, steps)| {
                let decision = self.timing.decide(*steps, *steps);
                let value = json!({
                    "now": decision.send,
                    "reservationWei": decision.reservation.to_string(),
                    "expectedSavingWei": decision.expected_saving.to_string(),
                    "policy": decision.policy.to_string(),
                });
                (seconds.to_string(), value)
            })
            .collect();
        json!({
            "chain": self.chain,
            "block": forecast.number,
            "stepS": self.step.as_secs_f64(),
            "nextBaseFeeWei": forecast.next_base_fee.to_string(),
            "nextIsExact": forecast.next_is_exact,
            "model": forecast.model.to_string(),
            "horizons": horizons,
            "send": send,
        })
    }

    fn show(&self, args: &ForecastArgs, should_clear: bool) -> Result<(), CliError> {
        let forecast = self.forecast()?;
        if args.json {
            println!("{}", self.json(&forecast));
            return Ok(());
        }
        if should_clear && std::io::stdout().is_terminal() {
            print!("\x1b[H\x1b[2J");
        }
        let exact = if forecast.next_is_exact { "computed" } else { "estimated" };
        println!(
            "{} after {} {}: next base fee {} ({exact}), a {} takes {:.1} s\n",
            self.chain,
            self.unit,
            forecast.number,
            chart::fee(forecast.next_base_fee),
            self.unit,
            self.step.as_secs_f64()
        );
        let past: Vec<u128> = self.recent.iter().map(|point| point.base_fee).collect();
        println!("{}", chart::draw(&past, &forecast, std::io::stdout().is_terminal()));
        println!("{}", chart::table(&forecast, self.step));
        for (seconds, steps) in &self.slacks {
            let decision = self.timing.decide(*steps, *steps);
            let what = if decision.send {
                "send now".to_owned()
            } else {
                format!("wait for {} or less", chart::fee(decision.reservation))
            };
            println!("with {:>6} to spare: {what}", chart::time(*seconds));
        }
        Ok(())
    }
}

pub(super) async fn run(args: ForecastArgs) -> Result<(), CliError> {
    match &args.file {
        Some(path) => {
            let table =
                history::read(path, None).map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
            let unit = if matches!(table.cadence, Cadence::Blocks) { "block" } else { "row" };
            let chain = table.chain.clone().unwrap_or_else(|| history::short_name(path));
            let trace = Trace::new(table, None);
            let mut outlook = Outlook::new(chain, trace.step(), unit, &args)?;
            let skipped = trace.rows().saturating_sub(MAX_ROWS);
            tokio::task::block_in_place(|| trace.skip(skipped).for_each(|point| outlook.observe(point)));
            outlook.show(&args, false)
        }
        None => live(&args).await,
    }
}

/// Reads blocks `from` to `to` from the fee history; gas and time of the last one come from its header.
async fn catch_up(reader: &Reader, outlook: &mut Outlook, from: u64, head: &Header) -> Result<(), CliError> {
    let to = head.number();
    let mut next = from;
    while next <= to {
        let until = to.min(next + MAX_FEE_HISTORY - 1);
        let points = reader.fee_history(next, until, PERCENTILE).await?;
        for mut point in points {
            if point.number == to {
                let known = head.point()?;
                if known.base_fee != point.base_fee {
                    // Another block has this height by now: the next round follows it.
                    return Ok(());
                }
                (point.timestamp, point.utilisation) = (known.timestamp, known.utilisation);
            }
            tokio::task::block_in_place(|| outlook.observe(point));
        }
        next = until + 1;
    }
    Ok(())
}

async fn live(args: &ForecastArgs) -> Result<(), CliError> {
    let reader = Reader::connect(&args.node).await?;
    let mut head = reader.header(reader.head().await?).await?;
    // Before EIP-1559 there is nothing to forecast.
    head.point()?;
    let first = head.number().saturating_sub(args.blocks - 1);
    let oldest = reader.header(first).await?;
    let ms = head.timestamp().0.saturating_sub(oldest.timestamp().0) * 1_000 / (head.number() - first).max(1);
    let step = Duration::from_millis(if ms == 0 { 1_000 } else { ms });
    let mut outlook = Outlook::new(reader.chain.clone(), step, "block", args)?;
    catch_up(&reader, &mut outlook, first, &head).await?;
    outlook.show(args, false)?;
    if args.once {
        return Ok(());
    }
    let poll = (step / 4).clamp(MIN_POLL, MAX_POLL);
    loop {
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let newest = reader.head().await?;
        if newest == head.number() {
            continue;
        }
        let header = reader.header(newest).await?;
        let follows = header.number() == head.number() + 1 && header.parent_hash == head.hash;
        let from = if follows {
            newest
        } else {
            // Blocks were missed or replaced: observing a height again replaces its old value.
            head.number().min(newest).saturating_sub(REREAD)
        };
        let is_ahead = follows || newest > head.number();
        let from = if !follows && is_ahead && reader.header(head.number()).await?.hash == head.hash {
            head.number() + 1
        } else {
            from
        };
        catch_up(&reader, &mut outlook, from, &header).await?;
        head = header;
        outlook.show(args, true)?;
    }
}
