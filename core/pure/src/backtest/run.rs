//! Backtests: runs the shipped forecaster and timing over a recorded history, and scores them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Baseline, BaselineKind, DeadlineReport, HorizonKey, HorizonReport, SendPolicy, Trace,
    score::{ForecastScore, log_fee, lowest_within, random_total},
};
use crate::{
    forecast::{Forecast, ForecastConfig, ForecastError, Forecaster, MAX_STEPS, Prior},
    market::FeePoint,
    schedule::timing::{Timing, TimingConfig, TimingError, TimingPrior},
};

/// Rows before forecasts are scored; a relayer reads more than that at its start.
pub const WARM_UP: usize = 50;
/// Limit on deadlines per backtest.
pub const MAX_DEADLINES: usize = 16;
/// Rows between two calls of `watch` without an event.
const WATCH_EVERY: usize = 64;
/// Longest deadline in steps.
const MAX_SLACK: u32 = 100_000;

/// Default horizons and deadlines, in seconds or blocks.
const BLOCK_HORIZONS: [u32; 7] = [1, 2, 5, 10, 25, 50, 150];
const SERIES_HORIZONS_S: [u64; 6] = [600, 3_600, 7_200, 21_600, 43_200, 86_400];
const BLOCK_DEADLINES_S: [u64; 4] = [60, 300, 1_800, 7_200];
const SERIES_DEADLINES_S: [u64; 3] = [7_200, 43_200, 86_400];

/// Reason why a history can't be scored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BacktestError {
    /// The history is too short.
    #[error("{rows} rows, at least {least} are needed")]
    TooShort {
        /// Rows in the file.
        rows: usize,
        /// Required rows.
        least: usize,
    },
    /// Too many deadlines.
    #[error("{count} deadlines, limit {MAX_DEADLINES}")]
    Deadlines {
        /// Number of requested deadlines.
        count: usize,
    },
    /// The forecaster rejected its configuration.
    #[error("forecast: {0}")]
    Forecast(#[from] ForecastError),
    /// The timing rejected its configuration.
    #[error("timing: {0}")]
    Timing(#[from] TimingError),
}

/// Horizons of one file: as reported, and in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizons(Vec<(HorizonKey, u32)>);

impl Horizons {
    /// Default horizons: 1 to 150 blocks, or 10 minutes to a day.
    pub fn usual(trace: &Trace) -> Self {
        if trace.is_blocks() {
            Self::of(trace, &BLOCK_HORIZONS.map(HorizonKey::Blocks))
        } else {
            Self::of(trace, &SERIES_HORIZONS_S.map(HorizonKey::Seconds))
        }
    }

    /// Those of `keys` that suit the trace: blocks only if rows are blocks, times of at least three quarters of a step,
    /// and within the forecaster's limit; duplicates in steps are dropped after the first.
    pub fn of(trace: &Trace, keys: &[HorizonKey]) -> Self {
        let mut found: Vec<(HorizonKey, u32)> = Vec::new();
        for key in keys {
            let steps = match *key {
                HorizonKey::Blocks(blocks) if trace.is_blocks() => blocks,
                HorizonKey::Blocks(_) => continue,
                HorizonKey::Seconds(seconds) => {
                    let ahead = Duration::from_secs(seconds);
                    if ahead.saturating_mul(4) < trace.step().saturating_mul(3) {
                        continue;
                    }
                    trace.steps_near(ahead)
                }
            };
            if (1..=MAX_STEPS).contains(&steps) && !found.iter().any(|(_, seen)| *seen == steps) {
                found.push((*key, steps));
            }
        }
        Self(found)
    }

    /// Each horizon with its steps.
    pub fn iter(&self) -> impl Iterator<Item = (HorizonKey, u32)> + '_ {
        self.0.iter().copied()
    }
}

/// Deadlines of one file: seconds, and whole steps within them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadlines(Vec<(u64, u32)>);

impl Deadlines {
    /// Default deadlines: a minute to two hours for blocks, two hours to a day for series.
    pub fn usual(trace: &Trace) -> Self {
        if trace.is_blocks() { Self::of(trace, &BLOCK_DEADLINES_S) } else { Self::of(trace, &SERIES_DEADLINES_S) }
    }

    /// Those of `seconds` that allow at least two steps and fit at least once into the trace, ascending.
    pub fn of(trace: &Trace, seconds: &[u64]) -> Self {
        let mut found: Vec<(u64, u32)> = seconds
            .iter()
            .map(|seconds| (*seconds, trace.steps_within(Duration::from_secs(*seconds))))
            .filter(|(_, steps)| (2..=MAX_SLACK).contains(steps) && (*steps as usize) + 2 < trace.rows())
            .collect();
        found.sort_unstable();
        found.dedup_by_key(|(_, steps)| *steps);
        Self(found)
    }

    /// Each deadline with its steps.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0.iter().copied()
    }
}

/// Parameters of [`score_forecasts`].
#[derive(Debug, Clone)]
pub struct ForecastRun {
    /// Horizons to forecast.
    pub horizons: Horizons,
    /// Prior to start with; `None`: cold start.
    pub prior: Option<Prior>,
    /// Random seed.
    pub seed: u64,
}

/// Scores the shipped forecaster: one forecast after every row from row [`WARM_UP`], each scored when its row arrives.
///
/// Horizon 1 of a chain whose next base fee is mostly computed counts only forecasts with a known rule. Missing rows
/// are no outcomes. Refits run synchronously, between two rows. `watch` receives every forecast, with its row.
///
/// # Errors
/// [`BacktestError`].
pub fn score_forecasts(
    trace: Trace,
    run: &ForecastRun,
    mut watch: impl FnMut(usize, &FeePoint, &Forecast),
) -> Result<BTreeMap<HorizonKey, HorizonReport>, BacktestError> {
    check_length(&trace)?;
    if run.horizons.0.is_empty() {
        return Ok(BTreeMap::new());
    }
    let config = ForecastConfig {
        horizons: run.horizons.iter().map(|(_, steps)| steps).collect(),
        step: trace.step(),
        seed: run.seed,
        prior: run.prior.clone(),
        ..ForecastConfig::default()
    };
    let mut forecaster = Forecaster::new(config)?;
    let history = trace.history().to_vec();
    let (stride, is_blocks) = (trace.stride(), trace.is_blocks());
    let mut scores = vec![ForecastScore::default(); run.horizons.0.len()];
    // Forecasts of the next block that were not computed.
    let mut guesses = ForecastScore::default();
    for (row, point) in trace.enumerate() {
        forecaster.observe(&point);
        if forecaster.refit_due()
            && let Some(job) = forecaster.refit_job()
        {
            forecaster.install(job.run());
        }
        let Some(forecast) = forecaster.forecast() else { continue };
        watch(row, &point, &forecast);
        if row < WARM_UP {
            continue;
        }
        // From here on the scoring side: the future is known.
        let price = log_fee(paid(&history, row, is_blocks).unwrap_or(point.base_fee));
        for (score, made) in scores.iter_mut().zip(&forecast.horizons) {
            let number = point.number.saturating_add(u64::from(made.steps).saturating_mul(stride));
            let Some(outcome) = row_of(&history, row, made.steps, number) else { continue };
            let is_guess = is_blocks && made.steps == 1 && !(forecast.next_is_exact || made.q10 == made.q90);
            (if is_guess { &mut guesses } else { score }).add(made, price, log_fee(outcome.base_fee));
        }
    }
    let next = run.horizons.iter().position(|(_, steps)| steps == 1);
    if let Some(score) = next.and_then(|at| scores.get_mut(at))
        && guesses.count() > score.count()
    {
        score.merge(&guesses);
    }
    Ok(run.horizons.iter().zip(scores).filter_map(|((key, _), score)| Some((key, score.report()?))).collect())
}

/// The row with this number, at most `steps` rows after `row`.
fn row_of(history: &[FeePoint], row: usize, steps: u32, number: u64) -> Option<&FeePoint> {
    let end = (row + 1 + steps as usize).min(history.len());
    let later = history.get(row + 1..end)?;
    let at = later.partition_point(|point| point.number < number);
    later.get(at).filter(|point| point.number == number)
}

/// Price of a transaction sent after `row`: the next block's base fee; in a series, and before a gap, the row's own.
/// `None` for the last block, whose successor is not in the file.
fn paid(history: &[FeePoint], row: usize, is_blocks: bool) -> Option<u128> {
    let point = history.get(row)?;
    if !is_blocks {
        return Some(point.base_fee);
    }
    let next = history.get(row + 1)?;
    Some(if next.number == point.number + 1 { next.base_fee } else { point.base_fee })
}

fn check_length(trace: &Trace) -> Result<(), BacktestError> {
    let (rows, least) = (trace.rows(), 4);
    if rows < least { Err(BacktestError::TooShort { rows, least }) } else { Ok(()) }
}

/// Parameters of [`score_timing`].
#[derive(Debug, Clone)]
pub struct TimingRun {
    /// Deadlines of the submissions.
    pub deadlines: Deadlines,
    /// Prior to start with; `None`: cold start.
    pub prior: Option<TimingPrior>,
    /// Random seed.
    pub seed: u64,
    /// Inclusion delay beyond the next block, steps: 0 or 1.
    pub slip: u32,
}

/// Submissions of one deadline that were sent after one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentAt {
    /// Row after which they were sent.
    pub row: usize,
    /// Their deadline, seconds.
    pub deadline_s: u64,
    /// Their number; they are the oldest open ones.
    pub count: u32,
}

/// The shipped timing, with synchronous refits.
struct Shipped {
    timing: Timing,
    next_fee: NextFee,
}

impl SendPolicy for Shipped {
    fn observe(&mut self, point: &FeePoint) {
        self.timing.observe(&self.next_fee.complete(point));
        if self.timing.refit_due() {
            let fitted = self.timing.refit_job().run();
            self.timing.install(fitted);
        }
    }

    fn sends(&self, total: u32, remaining: u32) -> bool {
        self.timing.decide(total, remaining).send
    }
}

/// Computes the next base fee by the chain's recognised rule, as the running relayer does from headers.
struct NextFee(Option<Forecaster>);

impl NextFee {
    fn new(trace: &Trace) -> Result<Self, BacktestError> {
        if !trace.is_blocks() {
            return Ok(Self(None));
        }
        let config = ForecastConfig { horizons: vec![1], step: trace.step(), trees: 0, ..ForecastConfig::default() };
        Ok(Self(Some(Forecaster::new(config)?)))
    }

    fn complete(&mut self, point: &FeePoint) -> FeePoint {
        let mut point = *point;
        let Some(forecaster) = &mut self.0 else { return point };
        forecaster.observe(&point);
        if point.next_base_fee.is_none()
            && let Some(forecast) = forecaster.forecast()
            && forecast.horizons.first().is_some_and(|next| next.q10 == next.q90)
        {
            point.next_base_fee = Some(forecast.next_base_fee);
        }
        point
    }
}

/// Submissions of one deadline under one policy.
#[derive(Debug, Clone, Copy, Default)]
struct Ledger {
    /// Oldest unsent submission.
    oldest: usize,
    paid: f64,
    missed: u64,
}

/// Scores the shipped timing: one submission after every row and for every deadline, as long as the deadline lies
/// within the history. A submission after row i may be sent after rows i to i + steps and pays the next block's base
/// fee (`slip` blocks later with slip); one that the policy has not sent by then is sent anyway and counts as missed.
///
/// The baselines run, and are reported, only without slip. In the result `captured` is that of this run's slip; the
/// caller fills in `captured_slip1` and `missed_slip1` from a second run.
///
/// `watch` receives the submissions sent by the shipped timing.
///
/// # Errors
/// [`BacktestError`].
pub fn score_timing(
    trace: Trace,
    run: &TimingRun,
    mut watch: impl FnMut(usize, Option<SentAt>),
) -> Result<BTreeMap<u64, DeadlineReport>, BacktestError> {
    check_length(&trace)?;
    let deadlines: Vec<(u64, u32)> = run.deadlines.iter().filter(|(_, steps)| *steps > run.slip).collect();
    if deadlines.is_empty() {
        return Ok(BTreeMap::new());
    }
    if deadlines.len() > MAX_DEADLINES {
        return Err(BacktestError::Deadlines { count: deadlines.len() });
    }
    let timing = Timing::new(TimingConfig {
        step: trace.step(),
        slacks: deadlines.iter().map(|(_, steps)| *steps).collect(),
        slip: run.slip,
        seed: run.seed,
        prior: run.prior.clone(),
    })?;
    let mut policies: Vec<(&'static str, Box<dyn SendPolicy>)> =
        vec![("", Box::new(Shipped { timing, next_fee: NextFee::new(&trace)? }))];
    // The baselines see the computed price as well.
    let mut next_fee = NextFee::new(&trace)?;
    if run.slip == 0 {
        for kind in BaselineKind::ALL {
            policies.push((kind.as_str(), Box::new(Baseline::new(kind, trace.step()))));
        }
    }
    let (slip, is_blocks) = (run.slip as usize, trace.is_blocks());
    #[expect(clippy::cast_precision_loss, reason = "sums of money for shares")]
    let prices: Vec<f64> =
        (0..trace.rows()).map_while(|row| paid(trace.history(), row, is_blocks)).map(|p| p as f64).collect();
    let mut ledgers = vec![vec![Ledger::default(); deadlines.len()]; policies.len()];
    for (row, point) in trace.enumerate().take(prices.len()) {
        let completed = next_fee.complete(&point);
        for ((name, policy), ledgers) in policies.iter_mut().zip(&mut ledgers) {
            policy.observe(if name.is_empty() { &point } else { &completed });
            for ((deadline_s, total), ledger) in deadlines.iter().zip(ledgers) {
                let before = ledger.oldest;
                // Submissions whose deadline is within the history.
                let end = (row + 1).min(prices.len() - *total as usize);
                while ledger.oldest < end {
                    let remaining = ledger.oldest + *total as usize - row;
                    if !policy.sends(*total, u32::try_from(remaining).unwrap_or(u32::MAX)) {
                        if remaining > slip {
                            break;
                        }
                        ledger.missed += 1;
                    }
                    ledger.paid += prices[(row + slip).min(prices.len() - 1)];
                    ledger.oldest += 1;
                }
                if name.is_empty() && ledger.oldest > before {
                    let count = u32::try_from(ledger.oldest - before).unwrap_or(u32::MAX);
                    watch(row, Some(SentAt { row, deadline_s: *deadline_s, count }));
                }
            }
        }
        if row % WATCH_EVERY == 0 {
            watch(row, None);
        }
    }
    Ok(judge(&deadlines, &prices, &policies, &ledgers, slip))
}

fn judge(
    deadlines: &[(u64, u32)],
    prices: &[f64],
    policies: &[(&'static str, Box<dyn SendPolicy>)],
    ledgers: &[Vec<Ledger>],
    slip: usize,
) -> BTreeMap<u64, DeadlineReport> {
    let mut reports = BTreeMap::new();
    for (index, (seconds, steps)) in deadlines.iter().enumerate() {
        let lowest = lowest_within(prices, *steps as usize);
        let (at_once, clairvoyant): (f64, f64) = (prices[..lowest.len()].iter().sum(), lowest.iter().sum());
        let available = at_once - clairvoyant;
        let share = |paid: f64| (available > 0.0).then(|| (at_once - paid) / available);
        let mut baselines = BTreeMap::new();
        if slip == 0 {
            let others = policies.iter().zip(ledgers).skip(1);
            baselines.extend(others.filter_map(|((name, _), ledgers)| Some((*name, share(ledgers[index].paid)?))));
            baselines.extend(share(random_total(prices, *steps as usize)).map(|captured| ("random", captured)));
        }
        let ours = &ledgers[0][index];
        let report = DeadlineReport {
            steps: *steps,
            n: lowest.len() as u64,
            available: if at_once > 0.0 { available / at_once } else { 0.0 },
            captured: share(ours.paid),
            captured_slip1: None,
            missed: ours.missed,
            missed_slip1: 0,
            baselines,
        };
        reports.insert(*seconds, report);
    }
    reports
}
