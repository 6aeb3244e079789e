//! One chain's forecast and timing at work: fed with believed blocks, refitted in the background, read by the dispatcher,
//! quotes and the API.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use alloy_primitives::{B256, Keccak256};

use super::{
    learned::{Learned, ModelCommand},
    tuning::ChainTuning,
};
use crate::{
    chain::ChainSpec,
    forecast::{
        self, Forecast, ForecastConfig, ForecastError, Forecaster, HorizonForecast, ModelId, ModelRegistry,
        ModelVersion, Prior, RegistryError, Scores,
    },
    market::FeePoint,
    schedule::{
        FeeOutlook, less,
        timing::{self, Timing, TimingConfig, TimingDecision, TimingError, TimingPrior},
    },
};

/// What one chain's prices are expected to be, and what that means for those who can wait.
#[derive(Debug, Clone)]
pub struct ForecastView {
    /// Prices.
    pub forecast: Forecast,
    /// Time between two blocks, as it is counted here.
    pub step: Duration,
    /// Weights of the experts by horizon in blocks.
    pub experts: BTreeMap<u32, Vec<(String, f64)>>,
    /// By slack in blocks: is it sent now, and up to which price would it be?
    pub waits: Vec<(u32, TimingDecision)>,
    /// Weights of the timing policies by slack in blocks.
    pub policies: BTreeMap<u32, Vec<(String, f64)>>,
    /// Content hash of the forecast: models, newest block, every number.
    pub inputs: B256,
    /// Fitted models, oldest first.
    pub models: Vec<ModelInfo>,
}

/// One fitted set of models.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Counts up from 1, never given twice.
    pub version: u32,
    /// Content hash.
    pub id: ModelId,
    /// In force.
    pub is_active: bool,
    /// In force until an operator lets it go: later fits wait.
    pub is_pinned: bool,
    /// First and last block of the training data.
    pub blocks: (u64, u64),
    /// By horizon in blocks: mean absolute error of log fee on held-back data.
    pub scores: BTreeMap<u32, Scores>,
}

/// What a deadline is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaitQuote {
    /// It would be sent at once.
    pub send_now: bool,
    /// Price up to which it would be sent now, wei per gas.
    pub reservation_wei_per_gas: u128,
    /// Base fee that the best continuation is expected to pay, wei per gas.
    pub expected_base_fee_wei_per_gas: u128,
    /// 10 % and 90 % quantile of the base fee at the forecast horizon nearest to the deadline, wei per gas.
    pub interval_wei_per_gas: (u128, u128),
    /// When the median forecast first meets the reservation price, from now; the whole slack if it never does.
    pub expected_send_in: Duration,
    /// Probability that the base fee at that horizon is at or below the fee cap that would be offered now.
    pub cap_covers: f64,
}

impl ForecastView {
    /// What to expect of a request with `slack` left, if `fee_cap` wei per gas are offered.
    pub fn quote(&self, slack: Duration, fee_cap: u128) -> Option<WaitQuote> {
        let decision = self.wait(slack)?;
        let steps = slack.as_millis() / self.step.as_millis().max(1);
        let within = |horizon: &&HorizonForecast| u128::from(horizon.steps) <= steps;
        let mut horizons: Vec<&HorizonForecast> = self.forecast.horizons.iter().collect();
        horizons.sort_unstable_by_key(|horizon| horizon.steps);
        let last = horizons.iter().copied().rfind(within).or_else(|| horizons.first().copied())?;
        let meets = horizons.iter().copied().filter(within).find(|horizon| horizon.q50 <= decision.reservation);
        let expected_send_in = match (decision.send, meets) {
            (true, _) => Duration::ZERO,
            (false, Some(horizon)) => self.step.saturating_mul(horizon.steps.saturating_sub(1)),
            (false, None) => slack,
        };
        Some(WaitQuote {
            send_now: decision.send,
            reservation_wei_per_gas: decision.reservation,
            expected_base_fee_wei_per_gas: decision.price.saturating_sub(decision.expected_saving),
            interval_wei_per_gas: (last.q10, last.q90),
            expected_send_in,
            cap_covers: last.probability_below(fee_cap),
        })
    }

    /// What to expect of a request with `slack` left: the class at or below it, or the shortest.
    pub fn wait(&self, slack: Duration) -> Option<&TimingDecision> {
        let steps = slack.as_millis() / self.step.as_millis().max(1);
        let at = self.waits.partition_point(|(class, _)| u128::from(*class) <= steps);
        self.waits.get(at.saturating_sub(1)).map(|(_, decision)| decision)
    }
}

/// Blocks that must have been seen since the start before the timing is fitted: what was kept may say that a fit is due while the
/// fee history is not read yet.
const LEAST_FIT_BLOCKS: u64 = 500;

/// How a forecast fared: what was said about a block that has come since.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pending {
    block: u64,
    log_point: f64,
    q10: u128,
    q90: u128,
}

/// Forecaster and timing of one chain.
#[derive(Debug)]
pub(super) struct Foresight {
    forecaster: Forecaster,
    timing: Timing,
    step: Duration,
    slacks: Vec<u32>,
    latest: Option<Forecast>,
    pending: BTreeMap<u32, VecDeque<Pending>>,
    is_refitting: bool,
    registry: ModelRegistry,
    /// Newest block that was observed.
    newest: Option<u64>,
    /// Blocks that were observed since the start.
    seen: u64,
    /// Newest block that what was taken over was learned from.
    known_to: Option<u64>,
    /// What was kept, until a head tells whether it is of this chain.
    kept: Option<Learned>,
    label: String,
}

/// Heavy work for a blocking thread.
#[derive(Debug)]
pub(super) struct Refit {
    forecast: Option<forecast::RefitJob>,
    timing: Option<timing::RefitJob>,
}

/// Its result.
#[derive(Debug)]
pub(super) struct Refitted {
    forecast: Option<forecast::Refit>,
    timing: Option<timing::FittedTiming>,
}

impl Refit {
    /// Runs for up to seconds on one core.
    pub(super) fn run(self) -> Refitted {
        Refitted {
            forecast: self.forecast.map(forecast::RefitJob::run),
            timing: self.timing.map(timing::RefitJob::run),
        }
    }
}

/// Why there is no forecast for a chain: a fault of the chain's block time.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForesightError {
    #[error(transparent)]
    Forecast(#[from] ForecastError),
    #[error(transparent)]
    Timing(#[from] TimingError),
}

impl Foresight {
    pub(super) fn new(spec: &ChainSpec, tuning: &ChainTuning) -> Result<Self, ForesightError> {
        let step = spec.block_time().max(Duration::from_millis(1));
        let horizons = tuning.forecast_steps(step);
        let slacks = tuning.slack_steps(step);
        let seed = spec.chain_id;
        let forecaster = Forecaster::new(ForecastConfig {
            horizons,
            step,
            seed,
            prior: Prior::shipped(),
            ..ForecastConfig::default()
        })?;
        let timing = Timing::new(TimingConfig {
            step,
            slacks: slacks.clone(),
            slip: 0,
            seed,
            prior: Some(TimingPrior::shipped()?),
        })?;
        Ok(Self {
            forecaster,
            timing,
            step,
            slacks,
            latest: None,
            pending: BTreeMap::new(),
            is_refitting: false,
            registry: ModelRegistry::new(),
            newest: None,
            seen: 0,
            known_to: None,
            kept: None,
            label: spec.chain_id.to_string(),
        })
    }

    /// Takes in believed blocks, oldest first, of a chain whose newest block is `head`: the fee history may be behind it, or
    /// not be read yet.
    pub(super) fn observe(&mut self, head: u64, points: &[FeePoint]) {
        if let Some(learned) = self.kept.take() {
            self.take_over(learned, head.max(points.last().map_or(0, |newest| newest.number)));
        }
        for point in points {
            if self.known_to.is_some_and(|known| point.number <= known) {
                self.forecaster.observe_known(point);
                self.timing.observe_known(point);
            } else {
                self.forecaster.observe(point);
                self.timing.observe(point);
            }
        }
        self.seen = self.seen.saturating_add(points.len() as u64);
        let Some(newest) = points.last() else { return };
        self.newest = Some(newest.number);
        self.score(points);
        self.latest = self.forecaster.forecast();
        if let Some(forecast) = &self.latest {
            for horizon in &forecast.horizons {
                let pending = self.pending.entry(horizon.steps).or_default();
                // A replaced block is forecast anew.
                while pending.back().is_some_and(|last| last.block >= newest.number + u64::from(horizon.steps)) {
                    pending.pop_back();
                }
                pending.push_back(Pending {
                    block: newest.number + u64::from(horizon.steps),
                    log_point: horizon.log_point,
                    q10: horizon.q10,
                    q90: horizon.q90,
                });
            }
        }
    }

    /// Compares what was said with what came: coverage and error by horizon are metrics.
    fn score(&mut self, points: &[FeePoint]) {
        for point in points {
            for (steps, pending) in &mut self.pending {
                while pending.front().is_some_and(|said| said.block < point.number) {
                    pending.pop_front();
                }
                let Some(said) = pending.front().copied().filter(|said| said.block == point.number) else { continue };
                pending.pop_front();
                let labels = [("chain_id", self.label.clone()), ("steps", steps.to_string())];
                metrics::counter!("slackwater_forecasts_scored_total", &labels).increment(1);
                if (said.q10..=said.q90).contains(&point.base_fee) {
                    metrics::counter!("slackwater_forecasts_covered_total", &labels).increment(1);
                }
                let error = (point.base_fee.max(1) as f64).ln() - said.log_point;
                metrics::histogram!("slackwater_forecast_log_error_ratio", &labels).record(error.abs());
            }
        }
    }

    /// Takes over what was kept: the models at once, what was learned with the first head. To be called before anything is
    /// observed.
    pub(super) fn restore(&mut self, models: Option<ModelRegistry>, learned: Option<Learned>) {
        if let Some(models) = models {
            self.registry = models;
            self.put_in_force();
        }
        self.kept = learned;
    }

    /// Goes on from what was learned; what is of other blocks or does not fit the configuration any more is learned anew.
    fn take_over(&mut self, learned: Learned, head: u64) {
        if !learned.is_of(head) {
            let learned_to = learned.newest;
            tracing::warn!(
                chain_id = self.label,
                learned_to,
                head,
                "what was learned is of blocks that the chain does not have"
            );
            return;
        }
        let Learned { newest: learned_to, forecast, timing, .. } = learned;
        // One of the two without the other would count blocks twice, or not at all.
        let (Some(forecast), Some(timing)) = (forecast, timing) else { return };
        let (forecaster_before, timing_before) = (self.forecaster.clone(), self.timing.clone());
        let taken = self.forecaster.import_state(forecast).map_err(|error| error.to_string());
        let taken = taken.and_then(|()| self.timing.import_state(timing).map_err(|error| error.to_string()));
        match taken {
            // Blocks that come later are new, also those of another branch.
            Ok(()) => self.known_to = learned_to.map(|learned_to| learned_to.min(head)),
            Err(problem) => {
                (self.forecaster, self.timing) = (forecaster_before, timing_before);
                tracing::warn!(chain_id = self.label, problem, "what was learned is left aside, and learned anew");
            }
        }
    }

    /// What is kept of it.
    pub(super) fn learned(&self) -> Learned {
        Learned {
            // Blocks that it was learned from may not have been read again yet.
            newest: self.newest.max(self.known_to),
            forecast: Some(self.forecaster.export_state()),
            timing: Some(self.timing.export_state()),
            delays_ms: Vec::new(),
        }
    }

    pub(super) const fn registry(&self) -> &ModelRegistry {
        &self.registry
    }

    /// Content hash of the fitted models in force.
    pub(super) fn active_model(&self) -> Option<B256> {
        self.registry.active().map(|version| version.fitted.id().0)
    }

    /// The forecaster uses what the registry says.
    fn put_in_force(&mut self) {
        if let Some(active) = self.registry.active() {
            self.forecaster.install(forecast::Refit { fitted: active.fitted.clone() });
        }
    }

    /// Carries out an operator's wish.
    pub(super) fn command(&mut self, command: ModelCommand) -> Result<(), RegistryError> {
        match command {
            ModelCommand::Promote(version) => drop(self.registry.promote(version)?),
            ModelCommand::Pin(version) => drop(self.registry.pin(version)?),
            ModelCommand::Unpin => self.registry.unpin(),
            ModelCommand::RollBack => drop(self.registry.roll_back()?),
            ModelCommand::Import(registry) => self.registry = *registry,
            ModelCommand::Export => return Ok(()),
        }
        if self.active_model() != self.forecaster.fitted().map(|fitted| fitted.id().0) {
            self.put_in_force();
        }
        Ok(())
    }

    /// All versions.
    pub(super) fn models(&self) -> Vec<ModelInfo> {
        let active = self.registry.active().map(|version| version.version);
        let info = |kept: &ModelVersion| ModelInfo {
            version: kept.version,
            id: kept.fitted.id(),
            is_active: active == Some(kept.version),
            is_pinned: active == Some(kept.version) && self.registry.is_pinned(),
            blocks: kept.fitted.range(),
            scores: kept.fitted.horizons().iter().map(|models| (models.steps, models.scores)).collect(),
        };
        self.registry.list().iter().map(info).collect()
    }

    /// What is shown to others.
    pub(super) fn view(&self) -> Option<ForecastView> {
        let forecast = self.latest.clone()?;
        let experts = forecast.horizons.iter().filter_map(|horizon| {
            let weights = self.forecaster.weights(horizon.steps)?;
            Some((horizon.steps, weights.into_iter().map(|(name, weight)| (name.to_owned(), weight)).collect()))
        });
        let experts = experts.collect();
        let waits = self.slacks.iter().map(|slack| (*slack, self.timing.decide(*slack, *slack))).collect();
        let policies = self
            .slacks
            .iter()
            .map(|slack| {
                let weights = self.timing.weights(*slack);
                (*slack, weights.into_iter().map(|(policy, weight)| (policy.to_string(), weight)).collect())
            })
            .collect();
        let inputs = self.inputs()?;
        let models = self.models();
        Some(ForecastView { forecast, step: self.step, experts, waits, policies, inputs, models })
    }

    /// For how much slack the price is right.
    pub(super) fn outlook(&self) -> Outlook {
        Outlook::of(self)
    }
}

impl FeeOutlook for Foresight {
    fn send_within(&self) -> Duration {
        self.send_within_saving(0)
    }

    /// The longest class up to which every shorter one sends.
    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        let sends = |steps: u32| {
            let decision = self.timing.decide(steps, steps);
            decision.send || less(decision.price, saving_permille) <= decision.reservation
        };
        let mut low = 0;
        for slack in &self.slacks {
            if sends(*slack) {
                low = *slack;
                continue;
            }
            // The longest below this class that is still sent.
            let mut high = *slack;
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if sends(middle) { low = middle } else { high = middle }
            }
            return if sends(low) { self.step * (low + 1) } else { Duration::ZERO };
        }
        Duration::MAX
    }
}

impl Foresight {
    /// Content hash of what decides now: the forecast's models and what the forecast was made from.
    pub(super) fn inputs(&self) -> Option<B256> {
        let forecast = self.latest.as_ref()?;
        let mut hash = Keccak256::new();
        hash.update(b"slackwater.forecast.v1\0");
        hash.update(forecast.model.0);
        hash.update(forecast.number.to_be_bytes());
        hash.update(forecast.next_base_fee.to_be_bytes());
        for horizon in &forecast.horizons {
            hash.update(horizon.steps.to_be_bytes());
            for fee in [horizon.point, horizon.q10, horizon.q50, horizon.q90] {
                hash.update(fee.to_be_bytes());
            }
        }
        Some(hash.finalize())
    }

    /// Refits that are due, unless some are running.
    pub(super) fn refit(&mut self) -> Option<Refit> {
        if self.is_refitting {
            return None;
        }
        let forecast = self.forecaster.refit_due().then(|| self.forecaster.refit_job()).flatten();
        let has_rows = self.seen >= LEAST_FIT_BLOCKS;
        let timing = (has_rows && self.timing.refit_due()).then(|| self.timing.refit_job());
        if forecast.is_none() && timing.is_none() {
            return None;
        }
        self.is_refitting = true;
        Some(Refit { forecast, timing })
    }

    /// Puts refitted models in force.
    pub(super) fn install(&mut self, refitted: Option<Refitted>) {
        self.is_refitting = false;
        let Some(refitted) = refitted else { return };
        if let Some(refit) = refitted.forecast {
            let version = self.registry.add(refit.fitted.clone());
            tracing::info!(chain_id = self.label, version, model = %refit.fitted.id(), "forecast models refitted");
            // A pinned version stays in force, and counts as fitted now: the next fit is due as late as otherwise.
            let fitted = self.registry.active().map_or(refit.fitted, |active| active.fitted.clone());
            self.forecaster.install(forecast::Refit { fitted });
            metrics::counter!("slackwater_forecast_refits_total", "chain_id" => self.label.clone()).increment(1);
        }
        if let Some(fitted) = refitted.timing {
            self.timing.install(fitted);
        }
    }
}

/// Savings for which the dispatcher is answered, thousandths; in between, the next lower one counts.
const SAVINGS: [u32; 9] = [0, 25, 50, 100, 150, 200, 300, 400, 500];

/// What the dispatcher asks, answered once per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outlook([Duration; SAVINGS.len()]);

impl Outlook {
    /// The price is right for everybody.
    pub(super) const NOW: Self = Self([Duration::MAX; SAVINGS.len()]);

    /// What `outlook` says now.
    pub(super) fn of(outlook: &impl FeeOutlook) -> Self {
        Self(SAVINGS.map(|saving| outlook.send_within_saving(saving)))
    }
}

impl FeeOutlook for Outlook {
    fn send_within(&self) -> Duration {
        self.0[0]
    }

    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        let above = SAVINGS.partition_point(|saving| *saving <= saving_permille);
        self.0[above.saturating_sub(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Tips;

    fn fresh() -> Foresight {
        let spec = ChainSpec::preset("ethereum").unwrap();
        Foresight::new(&spec, &ChainTuning::for_spec(&spec)).unwrap()
    }

    fn chain(blocks: std::ops::RangeInclusive<u64>) -> Vec<FeePoint> {
        let point = |number: u64| FeePoint {
            number,
            timestamp: None,
            base_fee: 1_000_000_000 + u128::from(number * 7_919 % 100_000_000),
            utilisation: None,
            tips: Tips::default(),
            next_base_fee: None,
        };
        blocks.map(point).collect()
    }

    fn learned(foresight: &Foresight) -> Learned {
        serde_json::from_str(&serde_json::to_string(&foresight.learned()).unwrap()).unwrap()
    }

    fn weights(foresight: &Foresight) -> serde_json::Value {
        serde_json::to_value(foresight.learned()).unwrap()
    }

    /// Whether the fee history is there at the start, comes in pieces or with a later head: it teaches nothing twice, and what
    /// was learned is not forgotten while it is away.
    #[test]
    fn a_history_that_comes_late_is_as_good() {
        let mut before = fresh();
        before.observe(700, &chain(1..=700));
        let restarted = || {
            let mut foresight = fresh();
            foresight.restore(None, Some(learned(&before)));
            foresight
        };
        let mut at_once = restarted();
        at_once.observe(700, &chain(1..=700));
        assert_eq!(weights(&at_once), weights(&before));
        let mut in_pieces = restarted();
        in_pieces.observe(700, &chain(1..=90));
        assert_eq!(in_pieces.learned().newest, Some(700), "what was learned is of all of them");
        in_pieces.observe(700, &chain(91..=700));
        assert_eq!(weights(&in_pieces), weights(&before));
        let mut late = restarted();
        late.observe(700, &[]);
        assert_eq!(weights(&late), weights(&before), "kept again as it was");
        assert!(late.refit().is_none(), "there is nothing to fit");
        late.observe(701, &chain(1..=701));
        at_once.observe(701, &chain(701..=701));
        assert_eq!(weights(&late), weights(&at_once));
        assert!(late.refit().is_some());
        let mut of_another = restarted();
        of_another.observe(100, &chain(1..=100));
        assert_eq!(of_another.learned().newest, Some(100));
    }
}
