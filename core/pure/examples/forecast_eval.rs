//! How good are the forecasts on recorded fees?
//!
//! `cargo run --release -p slackwater-core --example forecast_eval -- [--prior FILE | --no-prior]
//! [--trees N] [--no-refit] [--set NAME=VALUE]… FILE…`
//!
//! Each file is walked once from its first row, cold; every forecast is made before its outcome is shown. Forecasts count
//! from row 50. Prints the mean absolute error of log fee next to that of the next fee staying, coverage and width of the
//! 80 % interval, and times.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for a terminal, which measures itself")]
#![allow(clippy::cast_precision_loss, reason = "statistics")]

#[path = "fee_files/mod.rs"]
mod fee_files;

use std::{error::Error, path::PathBuf, time::Instant};

use fee_files::read;
use slackwater_core::forecast::{ForecastConfig, Forecaster, Prior, Tuning};

const WARM_UP: usize = 50;
const HORIZONS: [u32; 8] = [1, 2, 5, 10, 25, 50, 150, 24];

#[derive(Default, Clone, Copy)]
struct Score {
    n: f64,
    error: f64,
    stays: f64,
    inside: f64,
    width: f64,
    pinball: [f64; 3],
}

impl Score {
    fn add(&mut self, other: &Self) {
        self.n += other.n;
        self.error += other.error;
        self.stays += other.stays;
        self.inside += other.inside;
        self.width += other.width;
        for (mine, theirs) in self.pinball.iter_mut().zip(other.pinball) {
            *mine += theirs;
        }
    }

    fn line(&self) -> String {
        let of = |sum: f64| sum / self.n.max(1.0);
        format!(
            "{:.4}/{:.4}{} {:.3} {:.3}",
            of(self.error),
            of(self.stays),
            if self.error > 1.03 * self.stays { "!" } else { " " },
            of(self.inside),
            of(self.width)
        )
    }
}

fn pinball(outcome: f64, quantile: f64, level: f64) -> f64 {
    let miss = outcome - quantile;
    (level * miss).max((level - 1.0) * miss)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut files, mut trees, mut refit, mut prior, mut weights) = (Vec::new(), None, true, None, false);
    let mut tuning = serde_json::to_value(Tuning::default())?;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or("an option lacks its value");
        match arg.as_str() {
            "--trees" => trees = Some(value()?.parse::<usize>()?),
            "--no-refit" => refit = false,
            "--no-prior" => prior = None,
            "--weights" => weights = true,
            "--prior" => prior = Some(value()?),
            "--set" => {
                let pair = value()?;
                let (name, number) = pair.split_once('=').ok_or("--set NAME=VALUE")?;
                tuning[name] = number.parse::<f64>()?.into();
            }
            _ => files.push(PathBuf::from(arg)),
        }
    }
    let tuning: Tuning = serde_json::from_value(tuning)?;
    let mut pooled = [Score::default(); HORIZONS.len()];
    let mut off = [0.0; HORIZONS.len()];
    let mut blocks = 0.0;
    for path in &files {
        let series = read(path)?;
        let prior: Option<Prior> = match &prior {
            Some(file) => {
                let file = file.replace("{}", &series.name);
                Some(serde_json::from_str(&std::fs::read_to_string(file)?)?)
            }
            None => None,
        };
        let mut config = ForecastConfig {
            horizons: HORIZONS.to_vec(),
            step: series.step,
            prior,
            tuning: tuning.clone(),
            ..ForecastConfig::default()
        };
        if let Some(trees) = trees {
            config.trees = trees;
        }
        let mut forecaster = Forecaster::new(config)?;
        let points = &series.points;
        let mut scores = [Score::default(); HORIZONS.len()];
        let (mut exact, mut next) = (0, 0);
        let (mut observing, mut forecasting, mut fitting, mut fits) = (0.0, 0.0, 0.0, 0);
        for (i, point) in points.iter().enumerate() {
            let start = Instant::now();
            forecaster.observe(point);
            observing += start.elapsed().as_secs_f64();
            if refit
                && forecaster.refit_due()
                && let Some(job) = forecaster.refit_job()
            {
                let start = Instant::now();
                forecaster.install(job.run());
                fitting += start.elapsed().as_secs_f64();
                fits += 1;
            }
            let start = Instant::now();
            let forecast = forecaster.forecast().ok_or("no forecast")?;
            forecasting += start.elapsed().as_secs_f64();
            if i < WARM_UP || (series.is_blocks && point.next_base_fee.is_none()) {
                continue;
            }
            let log = |fee: u128| (fee.max(1) as f64).ln();
            for (k, made) in forecast.horizons.iter().enumerate() {
                let Some(later) = points.get(i + made.steps as usize) else { continue };
                if later.number - point.number != u64::from(made.steps) * series.stride {
                    continue;
                }
                if series.is_blocks && made.steps == 1 {
                    next += 1;
                    exact += u32::from(made.point == later.base_fee);
                }
                let y = log(later.base_fee);
                let score = &mut scores[k];
                score.n += 1.0;
                score.error += (made.log_point - y).abs();
                score.stays += (log(point.price()) - y).abs();
                let (low, high) = (made.log_quantile(0.1), made.log_quantile(0.9));
                score.inside += f64::from(u8::from(low <= y + 1e-12 && y <= high + 1e-12));
                score.width += high - low;
                for (sum, level) in score.pinball.iter_mut().zip([0.1, 0.5, 0.9]) {
                    *sum += pinball(y, made.log_quantile(level), level);
                }
            }
        }
        println!("{} ({} rows, step {} s)", series.name, points.len(), series.step.as_secs());
        for (k, steps) in HORIZONS.iter().enumerate() {
            if scores[k].n > 0.0 {
                println!("  h {steps:>3}  {}", scores[k].line());
                pooled[k].add(&scores[k]);
                off[k] += (scores[k].inside / scores[k].n - 0.8).abs() / files.len() as f64;
                if weights {
                    let mut named = forecaster.weights(*steps).unwrap_or_default();
                    named.sort_by(|a, b| b.1.total_cmp(&a.1));
                    let top: Vec<String> = named.iter().take(5).map(|(n, w)| format!("{n} {w:.2}")).collect();
                    println!("        {}", top.join(", "));
                }
            }
        }
        blocks += points.len() as f64;
        println!(
            "  h=1 exact {exact} of {next}; observe {:.1} us, forecast {:.1} us, {fits} refits of {:.2} s; rule {:?}",
            1e6 * observing / points.len() as f64,
            1e6 * forecasting / points.len() as f64,
            fitting / f64::from(fits.max(1)),
            forecaster.protocol_rule().map(|rule| (rule.params.denominator, rule.params.target, rule.pairs)),
        );
    }
    println!("pooled over {blocks} rows: MAE/stays, coverage, width; mean |coverage - .8| per file");
    for (k, steps) in HORIZONS.iter().enumerate() {
        println!("  h {steps:>3}  {}  {:.4}  {:.3}", pooled[k].line(), off[k], pooled[k].error / pooled[k].stays);
    }
    Ok(())
}
