//! The forecaster: state over a stream of blocks.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Explanation, FEATURE_NAMES, FEATURES, Fitted, Forecast, ForecastConfig, ForecastError, HorizonForecast, ModelId,
    Prior, ProtocolRule, Refit, RefitJob, Tuning,
    combine::Mixture,
    drift::PageHinkley,
    features::{
        AT_CLOCK, AT_FULL, AT_LEVEL, AT_PAUSE, AT_USE, FeatureRow, FeatureState, LOOK_BACK, Step, TAUS, in_unit,
        in_units, log_fee, usual_step,
    },
    interval::{Intervals, Made},
    linear::OnlineRidge,
    model::Regressor,
    protocol::Recogniser,
};
use crate::market::FeePoint;

/// Steps whose features can be restored after a reorg; least length of the memory.
const MEMORY: usize = 256;
/// Cap on a gap, steps: wider than any horizon, and small enough that places never overflow.
const WIDEST_GAP: u64 = 1 << 20;
/// Columns of the narrow linear expert.
const NARROW: [usize; 6] = [0, AT_LEVEL, AT_LEVEL + 1, AT_LEVEL + 3, AT_LEVEL + 5, AT_USE];
/// Columns of the wide linear expert.
const WIDE: [usize; 18] = [
    0,
    1,
    2,
    3,
    4,
    AT_LEVEL,
    AT_LEVEL + 1,
    AT_LEVEL + 2,
    AT_LEVEL + 3,
    AT_LEVEL + 4,
    AT_LEVEL + 5,
    AT_LEVEL + 6,
    AT_USE,
    AT_USE + 1,
    AT_USE + 2,
    AT_FULL,
    AT_FULL + 1,
    AT_PAUSE,
];

/// Experts of each horizon: persistence of the next fee; return to each moving average; three online ridges; fitted
/// ridge, fitted boosting; the prior's boosting, its line, and its boosting with the correction of an online ridge.
const AT_WIDE: usize = 1 + TAUS.len();
const AT_FITTED: usize = AT_WIDE + 3;
const AT_PRIOR: usize = AT_FITTED + 2;
pub(super) const EXPERTS: usize = AT_PRIOR + 3;
/// Names of the experts, in order.
pub const EXPERT_NAMES: [&str; EXPERTS] = [
    "next fee",
    "towards level 4",
    "towards level 10",
    "towards level 25",
    "towards level 60",
    "towards level 150",
    "towards level 400",
    "towards level 1000",
    "towards level 3000",
    "online ridge",
    "online ridge, narrow",
    "online ridge, narrow and quick",
    "ridge",
    "boosting",
    "prior boosting",
    "prior line",
    "prior, corrected",
];

/// Forgetting factor of the share of unchanged fees: about fifty outcomes.
const STILL_KEEP: f64 = 0.98;

/// Pull of one price towards one level: a regression with one coefficient.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    start: f64,
    /// Weight of the start, in examples.
    trust: f64,
    examples: f64,
    square: f64,
    product: f64,
}

impl Pull {
    /// Share of the distance to the level that is expected to close.
    fn share(self) -> f64 {
        let square = self.trust * self.square / self.examples.max(1.0);
        ((self.product + self.start * square) / (self.square + square).max(1e-12)).clamp(0.0, 1.2)
    }
}

/// A forecast awaiting its outcome.
#[derive(Debug, Clone)]
struct Open {
    place: u64,
    /// Features of the step of the forecast, for learning.
    row: FeatureRow,
    price: f64,
    experts: [f64; EXPERTS],
    mixed: f64,
    made: Made,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Horizon {
    pub(super) steps: u32,
    pulls: [Pull; TAUS.len()],
    wide: OnlineRidge,
    narrow: OnlineRidge,
    quick: OnlineRidge,
    correction: OnlineRidge,
    wide_columns: Vec<usize>,
    mixture: Mixture,
    intervals: Intervals,
    error: f64,
    /// Share of recent outcomes equal to the price, to the wei: high for a chain at its floor.
    still: f64,
    #[serde(skip)]
    open: VecDeque<Open>,
    drift: PageHinkley,
}

/// Base of the corrected prior: its trees' prediction if it has trees, else its line's.
fn corrected(experts: &[f64; EXPERTS]) -> f64 {
    if experts[AT_PRIOR].is_nan() { experts[AT_PRIOR + 1] } else { experts[AT_PRIOR] }
}

fn pick(row: &FeatureRow, columns: &[usize]) -> Vec<f64> {
    columns.iter().map(|column| row[*column]).collect()
}

impl Horizon {
    fn new(steps: u32, config: &ForecastConfig) -> Self {
        let tuning = &config.tuning;
        let h = f64::from(steps);
        // Rows of a series are further apart: fewer outcomes of a horizon overlap, and there is a daily cycle to learn.
        let is_series = config.step >= Duration::from_secs(60);
        let trust = if is_series { tuning.series_trust } else { 1.0 };
        let mut wide_columns = WIDE.to_vec();
        if is_series {
            wide_columns.extend(AT_CLOCK..AT_CLOCK + 4);
        }
        let ridge = |columns: usize, keep: f64, pull: f64| {
            let pull = pull * trust;
            OnlineRidge::by_examples(vec![0.0; columns], keep, pull * libm::pow(h, tuning.pull_power))
        };
        let pulls = TAUS.map(|tau| {
            let start = 1.0 - libm::exp(-h / (2.0 * tau));
            Pull { start, trust: trust * tuning.pull_ou * h, examples: 0.0, square: 0.0, product: 0.0 }
        });
        let mut weights = vec![1.0; EXPERTS];
        weights[0] = 4.0;
        // Within h steps, prices return to levels of about this time constant.
        let usual = 12.0 * h.sqrt();
        for (weight, tau) in weights[1..AT_WIDE].iter_mut().zip(TAUS) {
            let off = libm::log(tau / usual);
            *weight = 1.0 + 5.0 * libm::exp(-off * off);
        }
        weights[AT_WIDE..].copy_from_slice(&[4.0, 4.0, 2.0, 2.0, 4.0, 12.0, 8.0, 12.0]);
        Self {
            steps,
            pulls,
            wide: ridge(wide_columns.len(), tuning.wide_keep, tuning.pull_wide),
            narrow: ridge(NARROW.len(), tuning.narrow_keep, tuning.pull_narrow),
            quick: ridge(NARROW.len(), tuning.quick_keep, tuning.pull_narrow),
            correction: ridge(wide_columns.len(), tuning.correction_keep, tuning.pull_correction),
            wide_columns,
            // Outcomes of long horizons overlap: the effective number is smaller.
            mixture: Mixture::new(weights, tuning.mix_keep, tuning.mix_boldness / libm::pow(h, tuning.mix_power)),
            intervals: Intervals::new(h, tuning),
            error: 0.0,
            still: 0.0,
            open: VecDeque::new(),
            drift: PageHinkley::default(),
        }
    }

    /// The learned state, without open forecasts.
    pub(super) fn without_open(&self) -> Self {
        let mut learned = self.clone();
        learned.open.clear();
        learned
    }

    /// Predictions of all experts, as log moves from the price.
    fn experts(&self, row: &FeatureRow, fitted: Option<&Fitted>, prior: Option<&Prior>) -> [f64; EXPERTS] {
        let mut out = [f64::NAN; EXPERTS];
        let unit = usual_step(row);
        let scaled = in_units(row, unit);
        out[0] = 0.0;
        for (k, pull) in self.pulls.iter().enumerate() {
            out[1 + k] = pull.share() * row[AT_LEVEL + k];
        }
        let wide = || self.wide_columns.iter().map(|column| scaled[*column]);
        let narrow = || NARROW.iter().map(|column| scaled[*column]);
        out[AT_WIDE] = unit * self.wide.predict(wide());
        out[AT_WIDE + 1] = unit * self.narrow.predict(narrow());
        out[AT_WIDE + 2] = unit * self.quick.predict(narrow());
        if let Some(models) = fitted.and_then(|fitted| fitted.models(self.steps)) {
            out[AT_FITTED] = unit * models.ridge.predict(&scaled);
            if let Some(boosted) = &models.boosted {
                out[AT_FITTED + 1] = unit * boosted.predict(&scaled);
            }
        }
        if let Some(prior) = prior {
            out[AT_PRIOR] = unit * prior.predict(self.steps, &scaled);
            out[AT_PRIOR + 1] = unit * prior.predict_line(self.steps, &scaled);
            out[AT_PRIOR + 2] = corrected(&out) + unit * self.correction.predict(wide());
        }
        // No expert may diverge: a fee moves by less than e⁴ within the supported horizons.
        for value in &mut out {
            if !value.is_nan() {
                *value = value.clamp(-4.0, 4.0);
            }
        }
        out
    }

    fn settle(&mut self, open: &Open, outcome: f64, tuning: &Tuning, should_solve: bool) -> bool {
        let y = outcome - open.price;
        let slope = (open.mixed - y).signum() * f64::from(u8::from(open.mixed != y));
        self.mixture.learn(&open.experts, open.mixed, slope);
        let unit = usual_step(&open.row);
        for (k, pull) in self.pulls.iter_mut().enumerate() {
            let (x, y) = (in_unit(open.row[AT_LEVEL + k], unit), in_unit(y, unit));
            pull.square = tuning.ou_keep * pull.square + x * x;
            pull.product = tuning.ou_keep * pull.product + x * y;
            pull.examples = tuning.ou_keep * pull.examples + 1.0;
        }
        self.still = STILL_KEEP * self.still + (1.0 - STILL_KEEP) * f64::from(u8::from(y == 0.0));
        let miss = (open.mixed - y).abs() / unit;
        if self.error == 0.0 {
            self.error = miss;
        }
        self.error += 0.01 * (miss - self.error);
        // Half least squares, half least absolute deviations: the intended centre is the median.
        let weigh = |prediction: f64| {
            let miss = (prediction - y).abs() / unit;
            if miss > self.error { self.error / miss } else { 1.0 }
        };
        let scaled = in_units(&open.row, unit);
        let wide = pick(&scaled, &self.wide_columns);
        self.wide.learn(&wide, in_unit(y, unit), weigh(open.experts[AT_WIDE]));
        let narrow = pick(&scaled, &NARROW);
        let (slow, quick) = (weigh(open.experts[AT_WIDE + 1]), weigh(open.experts[AT_WIDE + 2]));
        self.narrow.learn(&narrow, in_unit(y, unit), slow);
        self.quick.learn(&narrow, in_unit(y, unit), quick);
        let given = corrected(&open.experts);
        if !given.is_nan() {
            self.correction.learn(&wide, in_unit(y - given, unit), weigh(open.experts[AT_PRIOR + 2]));
        }
        if should_solve {
            self.wide.solve();
            self.narrow.solve();
            self.quick.solve();
            self.correction.solve();
        }
        self.intervals.learn(&open.made, outcome, should_solve);
        self.drift.observe(miss / self.error.max(1e-9))
    }
}

/// Forecasts the fees of one chain from its blocks, one at a time. Deterministic; reads no clock.
#[derive(Debug, Clone)]
pub struct Forecaster {
    config: ForecastConfig,
    steps: VecDeque<Step>,
    stride: u64,
    stride_votes: u32,
    learnt_to: Option<u64>,
    pub(super) observed: u64,
    pub(super) horizons: Vec<Horizon>,
    recogniser: Recogniser,
    fitted: Option<Fitted>,
    pub(super) base_id: ModelId,
    model: ModelId,
    pub(super) last_refit: u64,
    pub(super) is_drifting: bool,
}

impl Forecaster {
    /// A forecaster without observations.
    ///
    /// # Errors
    /// [`ForecastError`] if the configuration has no horizon, a horizon of 0 or a duplicate, too many or too long ones,
    /// a step of zero duration, or a window out of range.
    pub fn new(config: ForecastConfig) -> Result<Self, ForecastError> {
        config.validate()?;
        let base_id = config.base_id();
        Ok(Self {
            base_id,
            model: base_id,
            horizons: config.horizons.iter().map(|steps| Horizon::new(*steps, &config)).collect(),
            recogniser: Recogniser::new(config.rule),
            config,
            steps: VecDeque::new(),
            stride: 1,
            stride_votes: 0,
            learnt_to: None,
            observed: 0,
            fitted: None,
            last_refit: 0,
            is_drifting: false,
        })
    }

    /// Observes the next block (or row). A number at or below the last one replaces the tail of the history.
    pub fn observe(&mut self, point: &FeePoint) {
        self.take_in(point, true);
    }

    /// As [`Self::observe`], for a block already learned by an imported state: it enters the history, but is not
    /// learned again.
    pub fn observe_known(&mut self, point: &FeePoint) {
        self.take_in(point, false);
    }

    fn take_in(&mut self, point: &FeePoint, is_new: bool) {
        while self.steps.back().is_some_and(|last| last.number >= point.number) {
            self.steps.pop_back();
        }
        let delta = self.steps.back().map(|last| point.number - last.number);
        if let Some(delta) = delta {
            self.vote_stride(delta);
        }
        let place = match (self.steps.back(), delta) {
            (Some(last), Some(delta)) => {
                last.place + (delta.saturating_add(self.stride / 2) / self.stride).clamp(1, WIDEST_GAP)
            }
            // Everything was replaced, or nothing was observed yet: start above the learned places.
            _ => self.learnt_to.map_or(0, |place| place + 2),
        };
        for horizon in &mut self.horizons {
            while horizon.open.back().is_some_and(|open| open.place >= place) {
                horizon.open.pop_back();
            }
        }
        let fee = log_fee(point.base_fee);
        let mut implied = None;
        if let Some(last) = self.steps.back()
            && last.place + 1 == place
            && self.stride == 1
        {
            self.recogniser.observe(&last.point, point.base_fee);
        }
        let next = point.next_base_fee.or_else(|| self.recogniser.next(point).map(|(fee, _)| fee));
        let (price, is_next) = next.map_or((fee, false), |next| (log_fee(next), true));
        if is_next && point.utilisation.is_none() {
            implied = self.recogniser.implied_use(price - fee);
        }
        let mut state = self.steps.back().map_or_else(|| FeatureState::new(price), |last| last.state.clone());
        state.push(point, price, implied, self.recogniser.target(), self.config.step.as_secs_f64());
        let row = state.row(self.steps.iter().rev().take(LOOK_BACK).map(|step| step.price));

        // Outcomes: this block's fee, and the next one's if it is determined.
        self.settle(place, fee, is_new);
        if is_next {
            self.settle(place + 1, price, is_new);
        }
        // A prior is about blocks: without a rule between consecutive fees it does not apply.
        let has_rule = self.recogniser.unit().is_some() && self.stride == 1;
        let (fitted, prior) = (self.fitted.as_ref(), self.config.prior.as_ref().filter(|_| has_rule));
        for horizon in &mut self.horizons {
            if is_next && horizon.steps == 1 {
                continue;
            }
            let experts = horizon.experts(&row, fitted, prior);
            // If most outcomes equal the price, so does their median.
            let mixed = if horizon.still > 0.5 { 0.0 } else { horizon.mixture.mix(&experts) };
            let made = horizon.intervals.make(price + mixed, &row);
            horizon.open.push_back(Open { place, row, price, experts, mixed, made });
        }
        self.steps.push_back(Step { number: point.number, place, point: *point, fee, price, is_next, row, state });
        let keep = self.config.window.max(MEMORY) + self.config.longest();
        if self.steps.len() > keep {
            self.steps.pop_front();
        }
        self.observed += u64::from(is_new);
    }

    /// Estimates the stride of the chain's numbering by majority vote.
    fn vote_stride(&mut self, delta: u64) {
        if delta == self.stride {
            self.stride_votes = (self.stride_votes + 1).min(64);
        } else if self.stride_votes == 0 {
            self.stride = delta;
            self.stride_votes = 1;
        } else {
            self.stride_votes -= 1;
        }
    }

    fn settle(&mut self, place: u64, outcome: f64, is_new: bool) {
        if self.learnt_to.is_some_and(|learnt| place <= learnt) {
            return;
        }
        self.learnt_to = Some(place);
        let every = self.config.solve_every();
        for (index, horizon) in self.horizons.iter_mut().enumerate() {
            while horizon.open.front().is_some_and(|open| open.place + u64::from(horizon.steps) < place) {
                horizon.open.pop_front();
            }
            let is_due = horizon.open.front().is_some_and(|open| open.place + u64::from(horizon.steps) == place);
            if !is_due {
                continue;
            }
            if let Some(open) = horizon.open.pop_front().filter(|_| is_new) {
                let should_solve = (self.observed + index as u64).is_multiple_of(every) || self.observed < 200;
                self.is_drifting |= horizon.settle(&open, outcome, &self.config.tuning, should_solve);
            }
        }
    }

    /// The current forecast; `None` before the first observation.
    pub fn forecast(&self) -> Option<Forecast> {
        let last = self.steps.back()?;
        let given = last.point.next_base_fee.map(|fee| (fee, true)).or_else(|| self.recogniser.next(&last.point));
        let (next_base_fee, next_is_exact) = given.unwrap_or((last.point.base_fee, false));
        let bounds = self.recogniser.bounds().filter(|_| self.stride == 1);
        let horizons = self
            .horizons
            .iter()
            .map(|horizon| {
                let open = horizon.open.back().filter(|open| open.place == last.place);
                match open {
                    Some(open) => {
                        let mut knots = horizon.intervals.knots(&open.made);
                        let ahead = f64::from(horizon.steps) - f64::from(u8::from(last.is_next));
                        let mut point = open.made.centre;
                        if let Some((down, up)) = bounds {
                            let (least, most) = (last.price + down * ahead, last.price + up * ahead);
                            knots = knots.map(|knot| knot.clamp(least, most));
                            point = point.clamp(least, most);
                        }
                        HorizonForecast::new(horizon.steps, point, knots)
                    }
                    None => HorizonForecast::certain(horizon.steps, last.price, next_base_fee),
                }
            })
            .collect();
        Some(Forecast { number: last.number, next_base_fee, next_is_exact, model: self.model(), horizons })
    }

    /// Identity of the active models: configuration, prior, and the last fit.
    pub const fn model(&self) -> ModelId {
        self.model
    }

    /// The EIP-1559 rule of the chain; `None` unless configured or recognised.
    pub fn protocol_rule(&self) -> Option<ProtocolRule> {
        self.recogniser.rule()
    }

    /// True if a refit is due: the fitted models are old or missing, or the losses have drifted.
    pub fn refit_due(&self) -> bool {
        let age = self.observed - self.last_refit;
        let enough = self.steps.len() >= self.config.least_rows();
        let every = if self.fitted.is_none() { 0 } else { self.config.refit_every };
        enough && age >= every.min(if self.is_drifting { self.config.refit_every / 4 } else { every })
    }

    /// Data for a refit, to be run elsewhere; `None` if the history is too short.
    pub fn refit_job(&self) -> Option<RefitJob> {
        (self.steps.len() >= self.config.least_rows())
            .then(|| RefitJob::new(&self.config, self.recogniser.unit().is_some(), self.steps.iter()))
    }

    /// As [`Self::refit_job`], for any non-empty history: for training a [`Prior`] on several chains.
    pub fn training_job(&self) -> Option<RefitJob> {
        (!self.steps.is_empty())
            .then(|| RefitJob::new(&self.config, self.recogniser.unit().is_some(), self.steps.iter()))
    }

    /// Activates fitted models from the next observation on. An earlier version is reactivated the same way.
    pub fn install(&mut self, refit: Refit) {
        self.model = ModelId::of(&serde_json::json!({ "base": self.base_id, "fitted": refit.fitted.id }));
        self.fitted = Some(refit.fitted);
        self.last_refit = self.observed;
        self.is_drifting = false;
    }

    /// The active fitted models; `None` before the first refit.
    pub const fn fitted(&self) -> Option<&Fitted> {
        self.fitted.as_ref()
    }

    /// Attribution of the forecast at a configured horizon; `None` for another horizon, before the first observation,
    /// and for a determined fee.
    pub fn explain(&self, steps: u32) -> Option<Explanation> {
        let last = self.steps.back()?;
        let horizon = self.horizons.iter().find(|horizon| horizon.steps == steps)?;
        let open = horizon.open.back().filter(|open| open.place == last.place)?;
        let mut experts: Vec<(usize, f64)> = (0..EXPERTS)
            .filter(|index| !open.experts[*index].is_nan())
            .map(|index| (index, horizon.mixture.weights()[index]))
            .collect();
        let total: f64 = experts.iter().map(|(_, weight)| weight).sum();
        let mut parts = [0.0; FEATURES];
        for (index, weight) in &mut experts {
            *weight /= total;
            let part = self.contributions(horizon, *index, &open.row);
            for (sum, x) in parts.iter_mut().zip(part) {
                *sum += *weight * x;
            }
        }
        experts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut contributions: Vec<(&'static str, f64)> =
            FEATURE_NAMES.iter().copied().zip(parts).filter(|(_, part)| *part != 0.0).collect();
        contributions.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        Some(Explanation {
            steps,
            log_price: last.price,
            log_point: open.made.centre,
            constant: open.mixed - parts.iter().sum::<f64>(),
            contributions,
            experts: experts
                .into_iter()
                .map(|(index, weight)| (EXPERT_NAMES[index], weight, open.experts[index]))
                .collect(),
        })
    }

    fn contributions(&self, horizon: &Horizon, expert: usize, row: &FeatureRow) -> FeatureRow {
        let mut out = [0.0; FEATURES];
        if expert == 0 {
            return out;
        }
        if expert < AT_WIDE {
            out[AT_LEVEL + expert - 1] = horizon.pulls[expert - 1].share() * row[AT_LEVEL + expert - 1];
            return out;
        }
        let unit = usual_step(row);
        let scaled = in_units(row, unit);
        let linear = |columns: &[usize], ridge: &OnlineRidge| {
            let mut out = [0.0; FEATURES];
            for (column, coefficient) in columns.iter().zip(ridge.coefficients()) {
                out[*column] = coefficient * scaled[*column];
            }
            out
        };
        let fitted = self.fitted.as_ref().and_then(|fitted| fitted.models(horizon.steps));
        let prior = self.config.prior.as_ref();
        out = match expert {
            AT_WIDE => linear(&horizon.wide_columns, &horizon.wide),
            _ if expert == AT_WIDE + 1 => linear(&NARROW, &horizon.narrow),
            _ if expert == AT_WIDE + 2 => linear(&NARROW, &horizon.quick),
            AT_FITTED => fitted.map_or(out, |models| models.ridge.contributions(&scaled)),
            _ if expert == AT_FITTED + 1 => {
                fitted.and_then(|models| models.boosted.as_ref()).map_or(out, |trees| trees.contributions(&scaled))
            }
            AT_PRIOR => prior.map_or(out, |prior| prior.contributions(horizon.steps, &scaled)),
            _ => {
                let mut parts = prior.map_or(out, |prior| {
                    if expert == AT_PRIOR + 1 || prior.predict(horizon.steps, &scaled).is_nan() {
                        prior.line_contributions(horizon.steps, &scaled)
                    } else {
                        prior.contributions(horizon.steps, &scaled)
                    }
                });
                if expert == AT_PRIOR + 2 {
                    for (sum, x) in parts.iter_mut().zip(linear(&horizon.wide_columns, &horizon.correction)) {
                        *sum += x;
                    }
                }
                parts
            }
        };
        out.map(|part| unit * part)
    }

    /// Weights of the experts at a horizon, by name; `None` for a horizon that is not configured.
    pub fn weights(&self, steps: u32) -> Option<Vec<(&'static str, f64)>> {
        let horizon = self.horizons.iter().find(|horizon| horizon.steps == steps)?;
        Some(EXPERT_NAMES.iter().copied().zip(horizon.mixture.weights().iter().copied()).collect())
    }
}
