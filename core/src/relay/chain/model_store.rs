//! Activates, saves and restores models and learned state of a running chain.

use alloy_primitives::B256;

use super::service::{ChainService, Done, Waiter};
use crate::{
    provenance::Decision,
    record::Write,
    relay::{
        clock,
        handle::models::{ModelAnswer, ModelCommand, ModelError, ModelReply, Pending},
        market::{
            forecast::{ForecastService, Refitted},
            saved::{What, Written, seal},
        },
    },
    time::Timestamp,
};

impl ChainService {
    /// Activates models fitted in the background.
    pub(in crate::relay) fn on_refitted(&mut self, fitted: Option<Box<Refitted>>) {
        let Some(forecasts) = &mut self.sender.fees.forecasts else { return };
        let newest = |forecasts: &ForecastService| forecasts.registry().list().last().map(|last| last.version);
        let (before, count) = (forecasts.active_model(), newest(forecasts));
        forecasts.install(fitted.map(|fitted| *fitted));
        let is_new = newest(forecasts) != count;
        self.note_promotion(before);
        // Shown at once: the next head may be far.
        self.sender.fees.refresh_view();
        if is_new {
            self.keep_models();
        }
    }

    /// Executes an operator's command; the answer follows once it is durable.
    pub(in crate::relay) fn on_models(&mut self, command: ModelCommand, reply: ModelReply) {
        let chain_id = self.chain_id();
        if let Some(membership) = self.membership.as_ref().filter(|_| self.is_following()) {
            let holder = membership.holder();
            let _ = reply.send(Err(ModelError::Elsewhere { chain_id, holder }));
            return;
        }
        let Some(forecasts) = &mut self.sender.fees.forecasts else {
            let _ = reply.send(Err(ModelError::NoModels(chain_id)));
            return;
        };
        if matches!(command, ModelCommand::Export) {
            let _ = reply.send(Ok(ModelAnswer::Registry(Box::new(forecasts.registry().clone()))));
            return;
        }
        let before = forecasts.active_model();
        if let Err(error) = forecasts.command(command) {
            let _ = reply.send(Err(error.into()));
            return;
        }
        let models = forecasts.models();
        self.note_promotion(before);
        self.sender.fees.refresh_view();
        self.keep(What::Models, Some(Pending { reply, models }));
    }

    /// Records a model promotion in the decision log if the active model is no longer `before`.
    pub(in crate::relay) fn note_promotion(&mut self, before: Option<B256>) {
        let Some(model) = self.sender.fees.forecasts.as_ref().and_then(ForecastService::active_model) else { return };
        if before != Some(model) {
            self.note(Vec::new(), vec![Decision::ModelPromoted { chain_id: self.chain_id(), model, previous: before }]);
        }
    }

    /// Stores the changed models.
    pub(in crate::relay) fn keep_models(&mut self) {
        self.keep(What::Models, None);
    }

    /// Stores the state learned online, every `learned_save_ms`.
    pub(in crate::relay) fn keep_learned_if_due(&mut self, now: Timestamp) {
        if now.since(self.kept_at) >= self.shared.tuning.forecast.learned_save && self.sender.head.is_some() {
            self.kept_at = now;
            self.keep(What::Learned, None);
        }
    }

    fn keep(&mut self, what: What, pending: Option<Pending>) {
        let Some(writing) = self.writing(what) else { return };
        self.tasks.spawn(async move {
            let text = clock::run_blocking(writing).await;
            let text = text.unwrap_or_else(|error| Err(serde::ser::Error::custom(error)));
            Done::Written(Box::new(Written { what, text, pending }))
        });
    }

    /// A closure that serializes a copy of the value, to run off the service's task.
    fn writing(&self, what: What) -> Option<impl FnOnce() -> Result<String, serde_json::Error> + Send + use<>> {
        let models = match what {
            What::Models => Some(self.sender.fees.forecasts.as_ref()?.registry().clone()),
            What::Learned => None,
        };
        let mut learned = self.sender.fees.forecasts.as_ref().map(ForecastService::learned).unwrap_or_default();
        learned.delays_ms = self.sender.pricing.delays_ms();
        Some(move || match models {
            Some(models) => seal(serde_json::to_string(&models)?),
            None => seal(serde_json::to_string(&learned)?),
        })
    }

    /// Writes a serialized value to the ledger.
    pub(in crate::relay) fn on_written(&mut self, written: Written) {
        let Written { what, text, pending } = written;
        let key = what.key(self.chain_id());
        let limit = self.shared.tuning.forecast.learned_max_bytes;
        let refused = match text {
            Ok(value) if value.len() <= limit => {
                self.write(vec![Write::Meta { key, value }], Vec::new(), pending.map(Waiter::Models));
                return;
            }
            Ok(value) => ModelError::TooLarge { bytes: value.len(), limit },
            Err(error) => ModelError::Registry(error.into()),
        };
        tracing::warn!(chain_id = self.chain_id(), key, error = %refused, "what was learned is not kept");
        metrics::counter!("slackwater_learned_unkept_total").increment(1);
        if let Some(Pending { reply, .. }) = pending {
            let _ = reply.send(Err(refused));
        }
    }

    /// Stores everything at shutdown.
    pub(in crate::relay) fn keep_at_stop(&mut self) {
        if self.sender.head.is_none() {
            return;
        }
        for what in [What::Models, What::Learned] {
            let Some(text) = self.writing(what).map(|writing| writing()) else { continue };
            self.on_written(Written { what, text, pending: None });
        }
    }
}
