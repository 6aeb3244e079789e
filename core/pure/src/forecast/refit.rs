//! Batch fitting on a window, outside the stream.

use serde::{Deserialize, Serialize};

use super::{
    Boosted, FitError, ForecastConfig, ModelId, Prior, PriorHorizon, Ridge, RidgeParams,
    features::{
        AT_CLOCK, AT_EXTREME, AT_FULL, AT_LEVEL, AT_MEDIAN, AT_QUARTILE, AT_USE, FEATURES, FeatureRow, Step, in_unit,
        in_units, usual_step,
    },
    linear::OnlineRidge,
    model::{ALGORITHM, BoostParams, Regressor},
};

/// Fitted models of one horizon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HorizonModels {
    /// Steps ahead.
    pub steps: u32,
    /// Ridge regression.
    pub ridge: Ridge,
    /// Boosted trees; `None` if not fitted.
    pub boosted: Option<Boosted>,
    /// Number of training examples.
    pub examples: usize,
    /// Mean absolute errors on the last fifth of the window, of models fitted on the rest: ridge and persistence.
    pub scores: Scores,
}

/// Mean absolute errors of the log fee on the last fifth of a window, of models fitted on the rest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Error of the ridge.
    pub ridge: f64,
    /// Error of persistence of the next fee.
    pub persistence: f64,
}

/// Fitted models of all horizons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// Content hash of the other fields.
    pub(super) id: ModelId,
    /// First and last block of the training window.
    pub(super) range: (u64, u64),
    pub(super) horizons: Vec<HorizonModels>,
}

impl Fitted {
    fn new(range: (u64, u64), horizons: Vec<HorizonModels>) -> Self {
        let mut fitted = Self { id: ModelId(Default::default()), range, horizons };
        fitted.id = fitted.content_id();
        fitted
    }

    pub(super) fn content_id(&self) -> ModelId {
        ModelId::of(&serde_json::json!({
            "algorithm": ALGORITHM, "range": self.range, "horizons": self.horizons,
        }))
    }

    /// True if the models match their hash and can be evaluated.
    pub(super) fn is_sound(&self) -> bool {
        self.id == self.content_id()
            && self
                .horizons
                .iter()
                .all(|models| models.ridge.is_sound() && models.boosted.as_ref().is_none_or(Boosted::is_sound))
    }

    /// Content hash.
    pub const fn id(&self) -> ModelId {
        self.id
    }

    /// First and last block of the training window.
    pub const fn range(&self) -> (u64, u64) {
        self.range
    }

    /// The models of each horizon.
    pub fn horizons(&self) -> &[HorizonModels] {
        &self.horizons
    }

    pub(super) fn models(&self, steps: u32) -> Option<&HorizonModels> {
        self.horizons.iter().find(|models| models.steps == steps)
    }
}

/// Result of a refit.
#[derive(Debug, Clone, PartialEq)]
pub struct Refit {
    /// The fitted models.
    pub fitted: Fitted,
}

/// A refit that can run elsewhere: it owns its data.
#[derive(Debug, Clone)]
pub struct RefitJob {
    horizons: Vec<u32>,
    trees: usize,
    seed: u64,
    has_clock: bool,
    range: (u64, u64),
    /// True if a rule links consecutive fees.
    has_rule: bool,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    place: u64,
    fee: f64,
    price: f64,
    is_next: bool,
    row: FeatureRow,
}

/// Limit on horizons with trees; more would take too long to fit.
const BOOSTED_HORIZONS: usize = 5;

impl RefitJob {
    pub(super) fn new<'a>(config: &ForecastConfig, has_rule: bool, steps: impl Iterator<Item = &'a Step>) -> Self {
        let mut range = None;
        let rows: Vec<Row> = steps
            .map(|step| {
                range = Some(range.map_or((step.number, step.number), |(first, _)| (first, step.number)));
                Row { place: step.place, fee: step.fee, price: step.price, is_next: step.is_next, row: step.row }
            })
            .collect();
        Self {
            horizons: config.horizons.clone(),
            trees: config.trees,
            seed: config.seed,
            has_clock: config.step.as_secs() >= 60,
            range: range.unwrap_or_default(),
            has_rule,
            rows,
        }
    }

    /// Rows, subsequent log moves (both in units of the typical step), and the typical steps.
    fn examples(&self, steps: u32) -> (Vec<FeatureRow>, Vec<f64>, Vec<f64>) {
        let (mut rows, mut moves, mut units) = (Vec::new(), Vec::new(), Vec::new());
        let mut ahead = 0;
        for row in &self.rows {
            let target = row.place + u64::from(steps);
            while self.rows.get(ahead).is_some_and(|later| later.place < target) {
                ahead += 1;
            }
            match self.rows.get(ahead) {
                Some(later) if later.place == target => {
                    let unit = usual_step(&row.row);
                    rows.push(in_units(&row.row, unit));
                    moves.push(in_unit(later.fee - row.price, unit));
                    units.push(unit);
                }
                _ => {}
            }
        }
        (rows, moves, units)
    }

    /// Runs the fit. Pure: the same job gives the same models.
    pub fn run(self) -> Refit {
        let mut columns: Vec<usize> = (0..AT_MEDIAN).filter(|column| *column != 5).chain(AT_USE..AT_FULL).collect();
        if self.has_clock {
            columns.extend(AT_CLOCK..FEATURES);
        }
        let is_determined = self.rows.iter().filter(|row| row.is_next).count() * 2 > self.rows.len();
        let mut boosted_so_far = 0;
        let mut fitted = Vec::new();
        for steps in &self.horizons {
            if *steps == 1 && is_determined {
                continue;
            }
            let (rows, mut y, units) = self.examples(*steps);
            clip(&mut y);
            let params = RidgeParams { columns: columns.clone(), alpha: 10.0 * f64::from(*steps) };
            let Ok(ridge) = Ridge::fit(&rows, &y, &params) else { continue };
            let cut = rows.len() * 4 / 5;
            let learnt = cut.saturating_sub(*steps as usize);
            let scores = Ridge::fit(&rows[..learnt], &y[..learnt], &params).map_or(
                Scores { ridge: f64::MAX, persistence: f64::MAX },
                |early| {
                    let n = (rows.len() - cut).max(1) as f64;
                    let cases = || rows[cut..].iter().zip(&y[cut..]).zip(&units[cut..]);
                    Scores {
                        ridge: cases().map(|((row, y), unit)| unit * (early.predict(row) - y).abs()).sum::<f64>() / n,
                        persistence: cases().map(|((_, y), unit)| unit * y.abs()).sum::<f64>() / n,
                    }
                },
            );
            let mut boosted = None;
            if self.trees > 0 && boosted_so_far < BOOSTED_HORIZONS {
                boosted_so_far += 1;
                let params = BoostParams {
                    trees: self.trees,
                    depth: 3,
                    rate: 0.15,
                    sample: 0.5,
                    least_leaf: 20 + *steps as usize / 2,
                    seed: self.seed ^ u64::from(*steps),
                };
                boosted = Boosted::fit(&rows, &y, &params).ok();
            }
            fitted.push(HorizonModels { steps: *steps, ridge, boosted, examples: rows.len(), scores });
        }
        Refit { fitted: Fitted::new(self.range, fitted) }
    }
}

/// Trains a prior on windows of several chains and times: a line for every horizon, trees up to `trees_to` steps.
/// Windows of chains without a recognised rule are skipped.
///
/// # Errors
/// [`FitError`] if a horizon has too few examples.
pub fn train_prior(
    jobs: &[RefitJob],
    horizons: &[u32],
    trees_to: u32,
    params: &BoostParams,
    provenance: String,
) -> Result<Prior, FitError> {
    let mut trained = Vec::new();
    for steps in horizons {
        let (mut rows, mut y) = (Vec::new(), Vec::new());
        for job in jobs.iter().filter(|job| job.has_rule) {
            let (job_rows, moves, _) = job.examples(*steps);
            rows.extend(job_rows);
            y.extend(moves);
        }
        let line = line(&rows, &y);
        clip(&mut y);
        for row in &mut rows {
            for column in NOT_POOLED {
                row[column] = 0.0;
            }
            row[AT_CLOCK..].fill(0.0);
        }
        let boosted = if *steps <= trees_to { Some(Boosted::fit(&rows, &y, params)?) } else { None };
        trained.push(PriorHorizon { steps: *steps, boosted, line });
    }
    trained.sort_by_key(|horizon| horizon.steps);
    Ok(Prior { provenance, horizons: trained })
}

/// Columns excluded from pooled trees, besides the clock: levels of other markets, and features that differ between
/// proof of work and proof of stake.
const NOT_POOLED: [usize; 9] = [
    AT_LEVEL + 6,
    AT_LEVEL + 7,
    AT_MEDIAN + 3,
    AT_EXTREME + 2,
    AT_EXTREME + 3,
    AT_QUARTILE,
    AT_QUARTILE + 1,
    AT_FULL,
    AT_FULL + 1,
];
/// Columns of a pooled line.
fn line_columns() -> impl Iterator<Item = usize> {
    (0..4).chain(AT_LEVEL..AT_LEVEL + 7).chain(AT_MEDIAN..AT_USE)
}

/// A line of least absolute deviations through the origin, ridge-damped; by iterated weights.
fn line(rows: &[FeatureRow], y: &[f64]) -> Vec<f64> {
    let columns: Vec<usize> = line_columns().collect();
    let n = rows.len().max(1) as f64;
    let sizes: Vec<f64> = columns
        .iter()
        .map(|column| (rows.iter().map(|row| row[*column] * row[*column]).sum::<f64>() / n).sqrt().max(1e-9))
        .collect();
    let scaled: Vec<Vec<f64>> =
        rows.iter().map(|row| columns.iter().zip(&sizes).map(|(column, size)| row[*column] / size).collect()).collect();
    let mut misses: Vec<f64> = vec![1.0; rows.len()];
    let mut found = vec![0.0; columns.len()];
    for _ in 0..15 {
        let mut sorted = misses.clone();
        sorted.sort_by(f64::total_cmp);
        let least = 0.3 * sorted.get(sorted.len() / 2).copied().unwrap_or(1.0).max(1e-9);
        let weights: Vec<f64> = misses.iter().map(|miss| 1.0 / miss.max(least)).collect();
        let mut ridge = OnlineRidge::new(vec![0.0; columns.len()], 1.0, 0.03 * weights.iter().sum::<f64>());
        for ((row, y), weight) in scaled.iter().zip(y).zip(&weights) {
            ridge.learn(row, *y, *weight);
        }
        ridge.solve();
        found = ridge.coefficients().to_vec();
        for ((miss, row), y) in misses.iter_mut().zip(&scaled).zip(y) {
            *miss = (ridge.predict(row.iter().copied()) - y).abs();
        }
    }
    let mut out = vec![0.0; FEATURES];
    for ((column, size), coefficient) in columns.iter().zip(&sizes).zip(found) {
        out[*column] = coefficient / size;
    }
    out
}

/// Clips moves to six mean absolute ones, so that one spike can't bend a line.
fn clip(y: &mut [f64]) {
    let mean = y.iter().map(|y| y.abs()).sum::<f64>() / (y.len().max(1) as f64);
    for y in y {
        *y = y.clamp(-6.0 * mean, 6.0 * mean);
    }
}
