//! The scheduler: policies side by side, weighted by their outcomes.

use std::{collections::VecDeque, time::Duration};

use super::{
    Policy, TimingError, TimingPrior, boost,
    experts::SlackClass,
    features::{Features, Row, unit_seconds},
    policies,
    policy::{BLENDS, SWITCHES, cold_share},
    ridge::count,
    rules,
    stopping::{self, Ladder, RUNGS, Stopping, at_slack, send_within},
};
use crate::{market::FeePoint, schedule::FeeOutlook};

/// Most steps between decision and inclusion.
const MAX_SLIP: u32 = 64;
/// Longest slack class, in steps.
pub const MAX_SLACK: u32 = 200_000;

/// Timing configuration for one chain.
#[derive(Debug, Clone)]
pub struct TimingConfig {
    /// Time between two observed points.
    pub step: Duration,
    /// Slack classes for which policies are weighed, in steps, ascending. A request uses the nearest.
    pub slacks: Vec<u32>,
    /// Steps between a decision and the price that it pays: 0 if the next block includes it.
    pub slip: u32,
    /// Seed of the boosted trees.
    pub seed: u64,
    /// The prior to start from; `None`: cold start.
    pub prior: Option<TimingPrior>,
}

/// Weight of the trees against the ridge in a fit with little slack; with much it is a half.
const TREES_SHARE: f64 = 0.7;
/// Threshold between little and much slack, in units.
const TREES_UNTIL: f64 = 30.0;
/// The threshold windows whose mean the blends, the switches and the cold start use.
const STEADY: [usize; 2] = [3, 4];

/// Decision about a request now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimingDecision {
    /// True: send now.
    pub send: bool,
    /// Current price, wei per gas.
    pub price: u128,
    /// Highest price at which the request would be sent now, wei per gas.
    pub reservation: u128,
    /// Expected saving from waiting against sending now, wei per gas; 0 if it is sent.
    pub expected_saving: u128,
    /// The policy with the largest weight.
    pub policy: Policy,
}

/// A slack class with its precomputed decisions.
#[derive(Debug, Clone)]
pub(super) struct ClassState {
    pub(super) experts: SlackClass,
    /// Requests with at most this many steps left are sent.
    within: usize,
    /// Log of reservation price over price, per rung.
    reservation: Ladder,
    winner: usize,
}

/// Decay of `Timing::still` per step: a memory of about two hundred steps.
const STILL_KEEP: f64 = 0.995;

/// Scheduler that decides, step by step, whether a request with slack is sent now.
#[derive(Debug, Clone)]
pub struct Timing {
    pub(super) config: TimingConfig,
    pub(super) policies: Vec<Policy>,
    steps_per_unit: f64,
    features: Features,
    pub(super) now: u64,
    price: u128,
    /// Share of recent steps at which the price did not move.
    still: f64,
    pub(super) model: Option<Stopping>,
    pub(super) classes: Vec<ClassState>,
    /// Fitted value of waiting now.
    fitted: Option<Ladder>,
    history: VecDeque<(f64, Row)>,
    pub(super) next_fit: u64,
}

/// Usual possible saving with slack r, as a share of the price, divided by ln(1 + r).
const USUAL_SAVING: f64 = 0.05;
/// Rows kept for a refit.
const HISTORY: usize = 6_000;
/// Units before the first fit.
const FIRST_FIT: f64 = 600.0;
/// Units between fits.
const BETWEEN_FITS: f64 = 600.0;

/// A refit that may run on another thread: owned, pure, about a second of work.
#[derive(Debug, Clone)]
pub struct RefitJob {
    episode: stopping::Episode,
    start: Option<Stopping>,
    plan: stopping::FitPlan,
}

/// A fitted model, to be given to [`Timing::install`].
#[derive(Debug, Clone)]
pub struct FittedTiming(Option<Stopping>);

impl RefitJob {
    /// Fits the model.
    pub fn run(self) -> FittedTiming {
        FittedTiming(stopping::fit(core::slice::from_ref(&self.episode), self.start.as_ref(), self.plan))
    }
}

impl Timing {
    /// A scheduler without observations.
    ///
    /// # Errors
    /// [`TimingError`] if the configuration is not usable.
    pub fn new(config: TimingConfig) -> Result<Self, TimingError> {
        if config.step.is_zero() {
            return Err(TimingError::Step(config.step));
        }
        if config.slip > MAX_SLIP {
            return Err(TimingError::Slip { got: config.slip, limit: MAX_SLIP });
        }
        let is_valid = config.slacks.is_sorted_by(|a, b| a < b)
            && config.slacks.first().is_some_and(|slack| *slack > 0)
            && config.slacks.last().is_some_and(|slack| *slack <= MAX_SLACK);
        if !is_valid {
            return Err(TimingError::Slacks { got: config.slacks, limit: MAX_SLACK });
        }
        if let Some(prior) = &config.prior {
            prior.check()?;
        }
        let steps_per_unit = unit_seconds(config.step) / config.step.as_secs_f64();
        let policies = policies();
        let kind = config.prior.as_ref().and_then(|prior| prior.kind(config.step.as_secs_f64(), config.slip));
        // A prior learned at an L1 slot says little of a chain with shorter blocks: its fits compete there without a
        // start.
        let shares = kind.filter(|kind| steps_per_unit < 1.5 && !kind.shares.is_empty());
        let classes = config
            .slacks
            .iter()
            .map(|slack| {
                let units = f64::from(*slack) / steps_per_unit;
                let expected = policies
                    .iter()
                    .map(|policy| match shares {
                        Some(kind) => kind.share(&policy.to_string(), units).unwrap_or(-0.5),
                        None => cold_share(*policy),
                    })
                    .collect();
                let slack = *slack as usize;
                let trust = if shares.is_some() { 6.0 } else { 2.0 };
                let start = trust * (count(slack) + 100.0) * USUAL_SAVING * libm::log(1.0 + units);
                // Few independent outcomes with long slack: weigh broadly there.
                let temperature = (0.0003 * units).clamp(0.02, 0.05);
                let memory = 12.0 * count(slack) + 2_000.0 * steps_per_unit;
                ClassState {
                    experts: SlackClass::new(slack, config.slip as usize, expected, start, memory, temperature),
                    within: usize::MAX,
                    reservation: [0.0; RUNGS.len()],
                    winner: 0,
                }
            })
            .collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let next_fit = (FIRST_FIT * steps_per_unit) as u64;
        Ok(Self {
            features: Features::new(config.step),
            model: kind.map(|kind| kind.model.clone()),
            policies,
            steps_per_unit,
            now: 0,
            price: 0,
            still: 0.0,
            classes,
            fitted: None,
            history: VecDeque::new(),
            next_fit,
            config,
        })
    }

    /// Records the newest point: a block, or a row of a series. Every call is one step.
    pub fn observe(&mut self, point: &FeePoint) {
        self.take_in(point, true);
    }

    /// As [`Self::observe`], for a point from which an imported state was learned: it enters the history, but is not
    /// scored a second time.
    pub fn observe_known(&mut self, point: &FeePoint) {
        self.take_in(point, false);
        // The time until the next fit counts new points only.
        self.next_fit = self.next_fit.saturating_add(1);
    }

    fn take_in(&mut self, point: &FeePoint, is_new: bool) {
        let before = core::mem::replace(&mut self.price, point.price());
        let is_still = self.now > 0 && before == self.price;
        self.still = STILL_KEEP * self.still + (1.0 - STILL_KEEP) * f64::from(u8::from(is_still));
        #[expect(clippy::cast_precision_loss, reason = "a float values waiting; amounts stay integers")]
        let price = self.price as f64;
        let log_price = libm::log(price.max(1e-3));
        let row = self.features.push(log_price, point.timestamp.map(|at| at.0));
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((price, row));
        let ladders = self.ladders(log_price, &row);
        // Longest slack at which each policy sends, from the advantages.
        let within: Vec<usize> = ladders
            .iter()
            .map(|ladder| {
                let steps = send_within(ladder) * self.steps_per_unit;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
                let steps = (steps + 1e-9) as usize;
                steps.saturating_add(self.config.slip as usize)
            })
            .collect();
        for class in &mut self.classes {
            class.experts.step(self.now, price, &within, is_new);
            class.decide(&ladders, &within);
            // At a floor the past teaches nothing but the floor.
            if self.still > 0.5
                && let Some(floor) = self.policies.iter().position(|policy| *policy == Policy::Floor)
            {
                class.winner = floor;
                class.within = within[floor];
                class.reservation = ladders[floor];
            }
        }
        self.now += 1;
    }

    /// Advantage of waiting, per policy.
    fn ladders(&mut self, log_price: f64, row: &Row) -> Vec<Ladder> {
        let features = &self.features;
        let mut ladders = Vec::with_capacity(self.policies.len());
        ladders.push([f64::INFINITY; RUNGS.len()]);
        for window in 0..rules::RULE_WINDOWS.len() {
            for pace in rules::RULE_PACES {
                ladders.push(rules::threshold(features, window, pace, log_price));
            }
        }
        let paces = rules::RULE_PACES.len();
        let steady: [Ladder; 3] = core::array::from_fn(|pace| {
            let [first, second] = STEADY.map(|window| ladders[1 + window * paces + pace]);
            rules::blend(&first, &second, 0.5)
        });
        let calm = steady[1];
        for mean in 0..rules::LEVEL_MEANS.len() {
            ladders.push(rules::level(features, mean, log_price));
        }
        for mean in &features.means[..3] {
            ladders.push([log_price - mean; RUNGS.len()]);
        }
        ladders.push(rules::floor(features, log_price).unwrap_or(calm));
        let (linear, boosted) = self.model.as_ref().map_or((calm, calm), |model| model.ladders(row));
        let fitted: Ladder = core::array::from_fn(|rung| {
            let trees = if RUNGS[rung] <= TREES_UNTIL { TREES_SHARE } else { 0.5 };
            (1.0 - trees) * linear[rung] + trees * boosted[rung]
        });
        self.fitted = self.model.is_some().then_some(fitted);
        ladders.extend([linear, boosted, fitted]);
        for percent in BLENDS {
            ladders.push(rules::blend(&fitted, &calm, f64::from(percent) / 100.0));
        }
        for rungs in SWITCHES {
            for steady in &steady {
                let mut ladder = *steady;
                ladder[..rungs].copy_from_slice(&fitted[..rungs]);
                ladders.push(ladder);
            }
        }
        ladders
    }

    /// True if [`Self::refit_job`] is worth running.
    pub fn refit_due(&self) -> bool {
        self.now >= self.next_fit
    }

    /// Prepares a refit; run it on any thread and give the result to [`Self::install`].
    pub fn refit_job(&mut self) -> RefitJob {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let wait = (BETWEEN_FITS * self.steps_per_unit) as u64;
        self.next_fit = self.now + wait.max(self.now / 8);
        let mut episode = stopping::Episode::default();
        for (price, row) in &self.history {
            episode.prices.push(*price);
            episode.rows.push(*row);
        }
        let start = self
            .config
            .prior
            .as_ref()
            .and_then(|prior| prior.kind(self.config.step.as_secs_f64(), self.config.slip))
            .map(|kind| kind.model.clone());
        let plan = stopping::FitPlan {
            steps_per_unit: self.steps_per_unit,
            slip: self.config.slip as usize,
            rungs: RUNGS.len(),
            share: 0.03,
            start_rows: 600.0,
            boosting: boost::Boosting {
                trees: if start.is_some() { 30 } else { 40 },
                rate: 0.08,
                shrink: 0.01,
                seed: self.config.seed,
            },
        };
        RefitJob { episode, start, plan }
    }

    /// Installs a refit's result. A failed fit changes nothing.
    pub fn install(&mut self, fitted: FittedTiming) {
        if let Some(model) = fitted.0 {
            self.model = Some(model);
        }
    }

    /// Decision now about a request accepted with `total_steps` of slack and `remaining_steps` left.
    ///
    /// With no more than the configured slip left it is sent whatever the price.
    pub fn decide(&self, total_steps: u32, remaining_steps: u32) -> TimingDecision {
        let class = &self.classes[self.class_of(total_steps)];
        let send = self.price == 0 || remaining_steps <= self.config.slip || remaining_steps as usize <= class.within;
        let units = f64::from(remaining_steps.saturating_sub(self.config.slip)) / self.steps_per_unit;
        #[expect(clippy::cast_precision_loss, reason = "a float values waiting; amounts stay integers")]
        let price = self.price as f64;
        // Float to integer saturates, as intended.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
        let reserved = (price * libm::exp(at_slack(&class.reservation, units.max(1e-9)).min(80.0))) as u128;
        let (reservation, expected_saving) = if send {
            (reserved.max(self.price), 0)
        } else {
            let fitted = self.fitted.as_ref().map_or(0.0, |ladder| at_slack(ladder, units.max(1e-9)));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative")]
            let saving = (price * (-fitted).clamp(0.0, 1.0)) as u128;
            (reserved.min(self.price.saturating_sub(1)), saving.min(self.price))
        };
        TimingDecision { send, price: self.price, reservation, expected_saving, policy: self.policies[class.winner] }
    }

    /// Longest remaining slack, in steps, at which a class sends a request that would save `saving_permille` by it.
    fn within_saving(&self, class: &ClassState, saving_permille: u32) -> usize {
        if saving_permille == 0 {
            return class.within;
        }
        let saving = libm::log1p(-f64::from(saving_permille.min(999)) / 1_000.0);
        let steps = send_within(&class.reservation.map(|reservation| reservation - saving)) * self.steps_per_unit;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let steps = (steps + 1e-9) as usize;
        class.within.max(steps.saturating_add(self.config.slip as usize))
    }

    /// Weights of the policies for a slack; they add up to 1.
    pub fn weights(&self, total_steps: u32) -> Vec<(Policy, f64)> {
        let class = &self.classes[self.class_of(total_steps)];
        self.policies.iter().copied().zip(class.experts.weights.iter().copied()).collect()
    }

    /// Per policy, the share of the possible saving captured so far at the nearest slack class.
    pub fn captured(&self, total_steps: u32) -> Vec<(Policy, f64)> {
        let (gains, available, _) = &self.classes[self.class_of(total_steps)].experts.totals;
        let share = |gain: &f64| if *available > 0.0 { gain / available } else { 0.0 };
        self.policies.iter().copied().zip(gains.iter().map(share)).collect()
    }

    /// The class nearest in ratio.
    fn class_of(&self, total_steps: u32) -> usize {
        let above = self.config.slacks.partition_point(|slack| *slack < total_steps);
        if above == 0 {
            return 0;
        }
        let Some(high) = self.config.slacks.get(above) else { return above - 1 };
        let low = u64::from(self.config.slacks[above - 1]);
        let square = u64::from(total_steps) * u64::from(total_steps);
        if square < low * u64::from(*high) { above - 1 } else { above }
    }
}

impl FeeOutlook for Timing {
    fn send_within(&self) -> Duration {
        self.send_within_saving(0)
    }

    /// For a request of which only the remaining slack is known: each slack is judged by its nearest class.
    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        if self.now == 0 || self.price == 0 {
            return Duration::MAX;
        }
        let mut reached = 0;
        for (at, class) in self.classes.iter().enumerate() {
            let slack = class.experts.slack;
            let within = self.within_saving(class, saving_permille);
            let end = match self.classes.get(at + 1) {
                Some(next) => count(slack) * count(next.experts.slack),
                None => f64::INFINITY,
            };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            let end = libm::sqrt(end) as usize;
            if within < end {
                reached = within.max(reached);
                let steps = u32::try_from(reached).unwrap_or(u32::MAX);
                return self.config.step.saturating_mul(steps);
            }
            reached = end;
        }
        Duration::MAX
    }
}

impl ClassState {
    /// Weighted medians over the policies.
    fn decide(&mut self, ladders: &[Ladder], within: &[usize]) {
        let weights = &self.experts.weights;
        let mut order: Vec<(usize, f64)> = within.iter().copied().zip(weights.iter().copied()).collect();
        order.sort_by_key(|(within, _)| *within);
        self.within = median(&order, 0);
        let mut values: Vec<(f64, f64)> = Vec::with_capacity(ladders.len());
        for rung in 0..RUNGS.len() {
            values.clear();
            values.extend(ladders.iter().zip(weights).map(|(ladder, weight)| (ladder[rung], *weight)));
            values.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.reservation[rung] = median(&values, 0.0);
        }
        self.winner = (0..weights.len()).max_by(|a, b| weights[*a].total_cmp(&weights[*b])).unwrap_or(0);
    }
}

/// Weighted median of ascending values.
fn median<T: Copy>(ascending: &[(T, f64)], none: T) -> T {
    let mut sum = 0.0;
    for (value, weight) in ascending {
        sum += weight;
        if sum >= 0.5 {
            return *value;
        }
    }
    ascending.last().map_or(none, |(value, _)| *value)
}
