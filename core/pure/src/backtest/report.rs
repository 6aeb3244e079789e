//! Metrics of a backtest.

use std::{collections::BTreeMap, fmt};

/// Metrics of the forecasts for one horizon. Errors are of the natural logarithm of the fee.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HorizonReport {
    /// Number of forecasts with an outcome.
    pub n: u64,
    /// Mean absolute error.
    pub mae: f64,
    /// Mean absolute error of persistence of the next fee.
    pub mae_persistence: f64,
    /// Mean pinball loss of the 10 % quantile.
    pub pinball10: f64,
    /// Mean pinball loss of the median.
    pub pinball50: f64,
    /// Mean pinball loss of the 90 % quantile.
    pub pinball90: f64,
    /// Share of outcomes within the 80 % interval.
    pub coverage80: f64,
    /// Mean width of the 80 % interval.
    pub width80: f64,
    /// Share of outcomes up to twice the next fee, the default cap of geth and alloy.
    pub cap_twice: f64,
}

/// Savings of the shipped timing for one deadline.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeadlineReport {
    /// Deadline, steps.
    pub steps: u32,
    /// Number of submissions.
    pub n: u64,
    /// Saving of the clairvoyant policy, as a share of the cost of sending at once.
    pub available: f64,
    /// Captured share of the available saving; `None` if nothing was available.
    pub captured: Option<f64>,
    /// Captured share with inclusion one step after the next one; `None` if nothing was available or not run.
    pub captured_slip1: Option<f64>,
    /// Submissions not sent by the policy before the deadline.
    pub missed: u64,
    /// Missed submissions with slip.
    pub missed_slip1: u64,
    /// Captured share of each baseline, by name.
    pub baselines: BTreeMap<&'static str, f64>,
}

/// Reported horizon: blocks if rows are blocks, time in series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HorizonKey {
    /// Blocks ahead; the next one is 1.
    Blocks(u32),
    /// Seconds ahead.
    Seconds(u64),
}

impl fmt::Display for HorizonKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(blocks) => write!(f, "{blocks}"),
            Self::Seconds(seconds) => write!(f, "{seconds}s"),
        }
    }
}

/// Results of one file, or of several.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FileReport {
    /// Forecast metrics by horizon.
    pub horizons: BTreeMap<HorizonKey, HorizonReport>,
    /// Timing results by deadline, seconds.
    pub deadlines: BTreeMap<u64, DeadlineReport>,
}

/// Weighted mean of values; `None` without weight.
fn mean(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (sum, weight) = values.fold((0.0, 0.0), |(sum, all), (value, weight)| (sum + value * weight, all + weight));
    (weight > 0.0).then(|| sum / weight)
}

/// Pools all files: means weighted by `n`.
#[expect(clippy::cast_precision_loss, reason = "counts of rows")]
pub fn pool<'a>(files: impl IntoIterator<Item = &'a FileReport>) -> FileReport {
    let mut horizons: BTreeMap<HorizonKey, Vec<HorizonReport>> = BTreeMap::new();
    let mut deadlines: BTreeMap<u64, Vec<&DeadlineReport>> = BTreeMap::new();
    for file in files {
        for (key, report) in &file.horizons {
            horizons.entry(*key).or_default().push(*report);
        }
        for (seconds, report) in &file.deadlines {
            deadlines.entry(*seconds).or_default().push(report);
        }
    }
    let horizons = horizons.into_iter().map(|(key, reports)| {
        let of = |value: fn(&HorizonReport) -> f64| {
            mean(reports.iter().map(|report| (value(report), report.n as f64))).unwrap_or_default()
        };
        let pooled = HorizonReport {
            n: reports.iter().map(|report| report.n).sum(),
            mae: of(|report| report.mae),
            mae_persistence: of(|report| report.mae_persistence),
            pinball10: of(|report| report.pinball10),
            pinball50: of(|report| report.pinball50),
            pinball90: of(|report| report.pinball90),
            coverage80: of(|report| report.coverage80),
            width80: of(|report| report.width80),
            cap_twice: of(|report| report.cap_twice),
        };
        (key, pooled)
    });
    let deadlines = deadlines.into_iter().map(|(seconds, reports)| {
        let known = |value: fn(&DeadlineReport) -> Option<f64>| {
            mean(reports.iter().filter_map(|report| Some((value(report)?, report.n as f64))))
        };
        let names: Vec<&'static str> = reports.iter().flat_map(|report| report.baselines.keys().copied()).collect();
        let baseline = |name: &'static str| {
            let of = |report: &&DeadlineReport| Some((*report.baselines.get(name)?, report.n as f64));
            Some((name, mean(reports.iter().filter_map(of))?))
        };
        let pooled = DeadlineReport {
            // Steps differ between files.
            steps: 0,
            n: reports.iter().map(|report| report.n).sum(),
            available: known(|report| Some(report.available)).unwrap_or_default(),
            captured: known(|report| report.captured),
            captured_slip1: known(|report| report.captured_slip1),
            missed: reports.iter().map(|report| report.missed).sum(),
            missed_slip1: reports.iter().map(|report| report.missed_slip1).sum(),
            baselines: names.into_iter().filter_map(baseline).collect(),
        };
        (seconds, pooled)
    });
    FileReport { horizons: horizons.collect(), deadlines: deadlines.collect() }
}
