//! One chain's live forecast and timing: fed with believed blocks, refitted in the background, read by the dispatcher,
//! quotes and the API.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use alloy_primitives::{B256, Keccak256};
use serde::{Deserialize, Serialize};

use crate::{
    chain::ChainSpec,
    forecast::{
        self, Forecast, ForecastConfig, ForecastError, Forecaster, ForecasterState, HorizonForecast, ModelId,
        ModelRegistry, ModelVersion, Prior, RegistryError, Scores,
    },
    market::FeePoint,
    relay::handle::models::ModelCommand,
    schedule::{
        FeeOutlook, less,
        timing::{self, Timing, TimingConfig, TimingDecision, TimingError, TimingPrior, TimingState},
    },
    sender::tuning::ChainTuning,
};

/// Forecast of one chain's base fee, and its consequences for requests that can wait.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ForecastView {
    /// Base fee forecast.
    pub forecast: Forecast,
    /// Duration of one step: the block time.
    pub step: Duration,
    /// Weights of the experts by horizon in blocks.
    pub experts: BTreeMap<u32, Vec<(String, f64)>>,
    /// Timing decision by slack in blocks: whether a request is sent now, and its reservation price.
    pub waits: Vec<(u32, TimingDecision)>,
    /// Weights of the timing policies by slack in blocks.
    pub policies: BTreeMap<u32, Vec<(String, f64)>>,
    /// Content hash of the forecast: models, newest block and all predicted values.
    pub inputs: B256,
    /// Fitted models, oldest first.
    pub models: Vec<ModelInfo>,
}

/// One fitted set of models.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Version number, from 1, never reused.
    pub version: u32,
    /// Content hash of the models.
    pub id: ModelId,
    /// True if this version is active.
    pub is_active: bool,
    /// True if this version stays active until an operator unpins it; later versions are kept but not activated.
    pub is_pinned: bool,
    /// First and last block of the training data.
    pub blocks: (u64, u64),
    /// Mean absolute error of the log fee on held-back data, by horizon in blocks.
    pub scores: BTreeMap<u32, Scores>,
}

/// Value of waiting for a given slack.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct WaitQuote {
    /// True if the request would be sent at once.
    pub send_now: bool,
    /// Highest price at which it would be sent now, wei per gas.
    pub reservation_wei_per_gas: u128,
    /// Base fee that the best continuation is expected to pay, wei per gas.
    pub expected_base_fee_wei_per_gas: u128,
    /// 10 % and 90 % quantile of the base fee at the forecast horizon nearest to the deadline, wei per gas.
    pub interval_wei_per_gas: (u128, u128),
    /// Time from now until the median forecast first meets the reservation price; the whole slack if it never does.
    pub expected_send_in: Duration,
    /// Probability that the base fee at that horizon is at or below the fee cap that would be offered now.
    pub cap_covers: f64,
}

impl ForecastView {
    /// Quote for a request with `slack` left and a fee cap of `fee_cap` wei per gas.
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

    /// Timing decision for a request with `slack` left: that of the slack class at or below it, or of the shortest.
    pub fn wait(&self, slack: Duration) -> Option<&TimingDecision> {
        let steps = slack.as_millis() / self.step.as_millis().max(1);
        let at = self.waits.partition_point(|(class, _)| u128::from(*class) <= steps);
        self.waits.get(at.saturating_sub(1)).map(|(_, decision)| decision)
    }
}

/// Blocks that must have been observed since the start before the timing is fitted: by the restored state a fit may be
/// due before the fee history is read.
const LEAST_FIT_BLOCKS: u64 = 500;

/// A prediction for a future block, kept until the block arrives and it is scored.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pending {
    block: u64,
    log_point: f64,
    q10: u128,
    q90: u128,
}

/// Forecaster and timing of one chain.
#[derive(Debug)]
pub(in crate::relay) struct ForecastService {
    forecaster: Forecaster,
    timing: Timing,
    step: Duration,
    slacks: Vec<u32>,
    latest: Option<Forecast>,
    pending: BTreeMap<u32, VecDeque<Pending>>,
    is_refitting: bool,
    registry: ModelRegistry,
    /// Newest observed block.
    newest: Option<u64>,
    /// Number of blocks observed since the start.
    seen: u64,
    /// Newest block that the restored state has learned from; `None` if nothing was restored.
    known_to: Option<u64>,
    /// Saved state, until the first head shows whether it belongs to this chain.
    kept: Option<Learned>,
    label: String,
}

/// A refit, as a job for a blocking thread.
#[derive(Debug)]
pub(in crate::relay) struct Refit {
    forecast: Option<forecast::RefitJob>,
    timing: Option<timing::RefitJob>,
}

/// Result of a [`Refit`].
#[derive(Debug)]
pub(in crate::relay) struct Refitted {
    forecast: Option<forecast::Refit>,
    timing: Option<timing::FittedTiming>,
}

impl Refit {
    /// Runs the refit, for up to several seconds on one core.
    pub(in crate::relay) fn run(self) -> Refitted {
        Refitted {
            forecast: self.forecast.map(forecast::RefitJob::run),
            timing: self.timing.map(timing::RefitJob::run),
        }
    }
}

/// Error that leaves a chain without a forecast, caused by its block time.
#[derive(Debug, thiserror::Error)]
pub(in crate::relay) enum ForesightError {
    #[error(transparent)]
    Forecast(#[from] ForecastError),
    #[error(transparent)]
    Timing(#[from] TimingError),
}

impl ForecastService {
    pub(in crate::relay) fn new(spec: &ChainSpec, tuning: &ChainTuning) -> Result<Self, ForesightError> {
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

    /// Learns from believed blocks, oldest first, of a chain whose newest block is `head`; the fee history may lag
    /// behind `head` or not be read yet.
    pub(in crate::relay) fn observe(&mut self, head: u64, points: &[FeePoint]) {
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
                // A prediction for a block that was replaced is replaced, too.
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

    /// Scores earlier predictions against the observed blocks: coverage and error by horizon, as metrics.
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

    /// Restores saved state: the models at once, the learned state with the first head. To be called before any block
    /// is observed.
    pub(in crate::relay) fn restore(&mut self, models: Option<ModelRegistry>, learned: Option<Learned>) {
        if let Some(models) = models {
            self.registry = models;
            self.put_in_force();
        }
        self.kept = learned;
    }

    /// Resumes from saved state; discards state that belongs to other blocks or no longer fits the configuration.
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
        // Restoring only one of the two would count blocks twice, or not at all.
        let (Some(forecast), Some(timing)) = (forecast, timing) else { return };
        let (forecaster_before, timing_before) = (self.forecaster.clone(), self.timing.clone());
        let taken = self.forecaster.import_state(forecast).map_err(|error| error.to_string());
        let taken = taken.and_then(|()| self.timing.import_state(timing).map_err(|error| error.to_string()));
        match taken {
            // Later blocks are new, even those of another branch.
            Ok(()) => self.known_to = learned_to.map(|learned_to| learned_to.min(head)),
            Err(problem) => {
                (self.forecaster, self.timing) = (forecaster_before, timing_before);
                tracing::warn!(chain_id = self.label, problem, "what was learned is left aside, and learned anew");
            }
        }
    }

    /// State to save.
    pub(in crate::relay) fn learned(&self) -> Learned {
        Learned {
            // Blocks that the state has learned from may not have been read again yet.
            newest: self.newest.max(self.known_to),
            forecast: Some(self.forecaster.export_state()),
            timing: Some(self.timing.export_state()),
            delays_ms: Vec::new(),
        }
    }

    pub(in crate::relay) const fn registry(&self) -> &ModelRegistry {
        &self.registry
    }

    /// Content hash of the active fitted models; `None` before the first fit.
    pub(in crate::relay) fn active_model(&self) -> Option<B256> {
        self.registry.active().map(|version| version.fitted.id().0)
    }

    /// Installs the registry's active version in the forecaster.
    fn put_in_force(&mut self) {
        if let Some(active) = self.registry.active() {
            self.forecaster.install(forecast::Refit { fitted: active.fitted.clone() });
        }
    }

    /// Executes an operator's command.
    pub(in crate::relay) fn command(&mut self, command: ModelCommand) -> Result<(), RegistryError> {
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

    /// All fitted versions, oldest first.
    pub(in crate::relay) fn models(&self) -> Vec<ModelInfo> {
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

    /// Published view; `None` while there is no forecast.
    pub(in crate::relay) fn view(&self) -> Option<ForecastView> {
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

    /// Slack up to which the current price is good enough to send.
    pub(in crate::relay) fn outlook(&self) -> Outlook {
        Outlook::of(self)
    }
}

impl FeeOutlook for ForecastService {
    fn send_within(&self) -> Duration {
        self.send_within_saving(0)
    }

    /// Slack up to which every request is sent now, refined below the first slack class for which waiting is better.
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
            // Bisection for the longest slack below this class that is still sent.
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

impl ForecastService {
    /// Content hash of the current forecast: its models, newest block and predicted values. `None` while there is no
    /// forecast.
    pub(in crate::relay) fn inputs(&self) -> Option<B256> {
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

    /// Refits that are due; `None` if there are none, or if one is running.
    pub(in crate::relay) fn refit(&mut self) -> Option<Refit> {
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

    /// Installs refitted models, unless a pinned version stays active; `None` ends a refit that failed.
    pub(in crate::relay) fn install(&mut self, refitted: Option<Refitted>) {
        self.is_refitting = false;
        let Some(refitted) = refitted else { return };
        if let Some(refit) = refitted.forecast {
            let version = self.registry.add(refit.fitted.clone());
            tracing::info!(chain_id = self.label, version, model = %refit.fitted.id(), "forecast models refitted");
            // A pinned version stays active and counts as fitted now, so that the next fit is not due earlier than
            // otherwise.
            let fitted = self.registry.active().map_or(refit.fitted, |active| active.fitted.clone());
            self.forecaster.install(forecast::Refit { fitted });
            metrics::counter!("slackwater_forecast_refits_total", "chain_id" => self.label.clone()).increment(1);
        }
        if let Some(fitted) = refitted.timing {
            self.timing.install(fitted);
        }
    }
}

/// Savings for which an [`Outlook`] holds a value, in thousandths; other savings use the next lower one.
const SAVINGS: [u32; 9] = [0, 25, 50, 100, 150, 200, 300, 400, 500];

/// Fee outlook for the dispatcher, computed once per block: longest slack to send now, by entry of [`SAVINGS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct Outlook([Duration; SAVINGS.len()]);

impl Outlook {
    /// The price is good enough for every request.
    pub(in crate::relay) const NOW: Self = Self([Duration::MAX; SAVINGS.len()]);

    /// Snapshot of `outlook`.
    pub(in crate::relay) fn of(outlook: &impl FeeOutlook) -> Self {
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

/// Maximum distance, in blocks, of the head behind the newest learned block: a reorg. A larger one means another chain.
const REORG_BLOCKS: u64 = 64;

/// State learned online.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::relay) struct Learned {
    /// Newest block it was learned from; `None` before the first.
    pub(in crate::relay) newest: Option<u64>,
    pub(in crate::relay) forecast: Option<ForecasterState>,
    pub(in crate::relay) timing: Option<TimingState>,
    /// Delays between send and inclusion, oldest first.
    pub(in crate::relay) delays_ms: Vec<u64>,
}

impl Learned {
    /// True if the chain with newest block `head` can contain the blocks it was learned from.
    pub(in crate::relay) fn is_of(&self, head: u64) -> bool {
        self.newest.is_none_or(|learned_to| learned_to <= head.saturating_add(REORG_BLOCKS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Tips;

    fn fresh() -> ForecastService {
        let spec = ChainSpec::preset("ethereum").unwrap();
        ForecastService::new(&spec, &ChainTuning::for_spec(&spec)).unwrap()
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

    fn learned(forecasts: &ForecastService) -> Learned {
        serde_json::from_str(&serde_json::to_string(&forecasts.learned()).unwrap()).unwrap()
    }

    fn weights(forecasts: &ForecastService) -> serde_json::Value {
        serde_json::to_value(forecasts.learned()).unwrap()
    }

    /// No block is learned twice, whether the fee history is available at the start, arrives in pieces or with a later
    /// head; learned state is not forgotten while it is missing.
    #[test]
    fn a_history_that_comes_late_is_as_good() {
        let mut before = fresh();
        before.observe(700, &chain(1..=700));
        let restarted = || {
            let mut forecasts = fresh();
            forecasts.restore(None, Some(learned(&before)));
            forecasts
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
