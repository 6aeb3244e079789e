//! Persistence of a chain's learned state: fitted models with their pin, weights, measured delays.
//!
//! Two values in the ledger per chain: `models.<id>` (written when a model is activated) and `learned.<id>` (written
//! periodically, and at shutdown). Each carries its format and a hash of its content; a value that is damaged, of
//! another version or too large is discarded with a warning, and relearned from the chain's fee history.

use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    chain_service::{ChainService, Done},
    foresight::{Foresight, ModelInfo},
};
use crate::{
    forecast::{ForecasterState, ModelRegistry, RegistryError},
    ledger::{Ledger, LedgerError, Write},
    provenance::Decision,
    schedule::timing::TimingState,
    time::Timestamp,
};

/// Format version of the stored values.
const FORMAT: u32 = 1;

/// Maximum distance, in blocks, of the head behind the newest learned block: a reorg. A larger one means another chain.
const REORG_BLOCKS: u64 = 64;

/// A stored text with its format version and hash.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: u32,
    hash: B256,
    body: String,
}

/// Reason for discarding a stored value.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnsealError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("format {0}, understood is {FORMAT}")]
    Format(u32),
    #[error("its hash differs")]
    Hash,
    #[error("{bytes} bytes, limit {limit} (`learned_max_bytes`)")]
    TooLarge { bytes: usize, limit: usize },
}

fn seal(body: String) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Sealed { format: FORMAT, hash: keccak256(&body), body })
}

fn unseal(text: &str, limit: usize) -> Result<String, UnsealError> {
    if text.len() > limit {
        return Err(UnsealError::TooLarge { bytes: text.len(), limit });
    }
    let sealed: Sealed = serde_json::from_str(text)?;
    if sealed.format != FORMAT {
        return Err(UnsealError::Format(sealed.format));
    }
    if sealed.hash != keccak256(&sealed.body) {
        return Err(UnsealError::Hash);
    }
    Ok(sealed.body)
}

/// State learned online.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Learned {
    /// Newest block it was learned from; `None` before the first.
    pub(super) newest: Option<u64>,
    pub(super) forecast: Option<ForecasterState>,
    pub(super) timing: Option<TimingState>,
    /// Delays between send and inclusion, oldest first.
    pub(super) delays_ms: Vec<u64>,
}

/// A chain's learned state as read from the ledger.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) models: Option<ModelRegistry>,
    pub(super) learned: Option<Learned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Models,
    Learned,
}

impl What {
    fn key(self, chain_id: u64) -> String {
        match self {
            Self::Models => format!("models.{chain_id}"),
            Self::Learned => format!("learned.{chain_id}"),
        }
    }
}

impl Kept {
    /// Reads the stored values, discarding unreadable ones. Only the storage itself can fail.
    pub(super) async fn read(ledger: &dyn Ledger, chain_id: u64, limit: usize) -> Result<Self, LedgerError> {
        let mut kept = Self::default();
        for what in [What::Models, What::Learned] {
            let key = what.key(chain_id);
            let Some(text) = ledger.meta(&key).await? else { continue };
            let result = unseal(&text, limit).map_err(|error| error.to_string()).and_then(|body| {
                match what {
                    What::Models => {
                        kept.models = Some(ModelRegistry::import(&body).map_err(|error| error.to_string())?)
                    }
                    What::Learned => {
                        kept.learned = Some(serde_json::from_str(&body).map_err(|error| error.to_string())?)
                    }
                }
                Ok(())
            });
            if let Err(problem) = result {
                tracing::warn!(chain_id, key, problem, "what was kept is left aside, and learned anew");
                metrics::counter!("slackwater_learned_discarded_total").increment(1);
            }
        }
        Ok(kept)
    }
}

impl Learned {
    /// True if the chain with newest block `head` can contain the blocks it was learned from.
    pub(super) fn is_of(&self, head: u64) -> bool {
        self.newest.is_none_or(|learned_to| learned_to <= head.saturating_add(REORG_BLOCKS))
    }
}

/// An operator's command about a chain's models.
#[derive(Debug)]
pub(super) enum ModelCommand {
    Promote(u32),
    Pin(u32),
    Unpin,
    RollBack,
    Import(Box<ModelRegistry>),
    Export,
}

/// Result of a model command.
#[derive(Debug)]
pub(super) enum ModelAnswer {
    Models(Vec<ModelInfo>),
    Registry(Box<ModelRegistry>),
}

pub(super) type ModelReply = oneshot::Sender<Result<ModelAnswer, ModelError>>;

/// Failure of a model command; it changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The chain is not served here.
    #[error("chain {0} is not served here")]
    UnknownChain(u64),
    /// The chain sends at once, so no model is fitted.
    #[error("chain {0} has no models: it sends at once (`chain.timing`)")]
    NoModels(u64),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The import is not an export of a relayer.
    #[error("not an export of models: {0}")]
    Import(String),
    /// The import is of another chain.
    #[error("the models are of chain {found}, not {chain_id}")]
    OtherChain {
        /// Chain id in the import.
        found: u64,
        /// Chain id expected.
        chain_id: u64,
    },
    /// The models exceed the size limit of the ledger.
    #[error("{bytes} bytes of models, limit {limit} (`chain.learned_max_bytes`)")]
    TooLarge {
        /// Size of the models, bytes.
        bytes: usize,
        /// Limit, bytes.
        limit: usize,
    },
    /// Another instance drives the chain and owns its models.
    #[error("instance `{holder}` drives chain {chain_id}: ask it")]
    Elsewhere {
        /// Chain id.
        chain_id: u64,
        /// Name of that instance.
        holder: String,
    },
    /// The relay is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

/// Models of a chain as one JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ModelExport {
    format: u32,
    chain_id: u64,
    registry: Box<serde_json::value::RawValue>,
}

/// One JSON with all models of a chain, their scores and the pin.
pub(super) fn export(chain_id: u64, registry: &ModelRegistry) -> Result<String, ModelError> {
    let registry = serde_json::value::RawValue::from_string(registry.export()?).map_err(RegistryError::from)?;
    Ok(serde_json::to_string(&ModelExport { format: FORMAT, chain_id, registry }).map_err(RegistryError::from)?)
}

/// Reads an [`export`], and checks every model against its content hash.
pub(super) fn import(chain_id: u64, text: &str) -> Result<ModelRegistry, ModelError> {
    let export: ModelExport = serde_json::from_str(text).map_err(|error| ModelError::Import(error.to_string()))?;
    if export.format != FORMAT {
        return Err(ModelError::Import(format!("format {}, understood is {FORMAT}", export.format)));
    }
    if export.chain_id != chain_id {
        return Err(ModelError::OtherChain { found: export.chain_id, chain_id });
    }
    Ok(ModelRegistry::import(export.registry.get())?)
}

/// A reply withheld until its content is durable.
#[derive(Debug)]
pub(super) struct Pending {
    reply: ModelReply,
    models: Vec<ModelInfo>,
}

/// A serialized value on its way to the ledger.
#[derive(Debug)]
pub(super) struct Written {
    what: What,
    text: Result<String, serde_json::Error>,
    pending: Option<Pending>,
}

impl ChainService {
    /// Executes an operator's command; the answer follows once it is durable.
    pub(super) fn on_models(&mut self, command: ModelCommand, reply: ModelReply) {
        let chain_id = self.chain_id();
        if let Some(membership) = self.membership.as_ref().filter(|_| self.is_following()) {
            let holder = membership.holder();
            let _ = reply.send(Err(ModelError::Elsewhere { chain_id, holder }));
            return;
        }
        let Some(foresight) = &mut self.foresight else {
            let _ = reply.send(Err(ModelError::NoModels(chain_id)));
            return;
        };
        if matches!(command, ModelCommand::Export) {
            let _ = reply.send(Ok(ModelAnswer::Registry(Box::new(foresight.registry().clone()))));
            return;
        }
        let before = foresight.active_model();
        if let Err(error) = foresight.command(command) {
            let _ = reply.send(Err(error.into()));
            return;
        }
        let models = foresight.models();
        self.note_promotion(before);
        self.forecast = self.foresight.as_ref().and_then(Foresight::view).map(std::sync::Arc::new);
        self.keep(What::Models, Some(Pending { reply, models }));
    }

    /// Records a model promotion in the decision log if the active model is no longer `before`.
    pub(super) fn note_promotion(&mut self, before: Option<B256>) {
        let Some(model) = self.foresight.as_ref().and_then(Foresight::active_model) else { return };
        if before != Some(model) {
            self.note(Vec::new(), vec![Decision::ModelPromoted { chain_id: self.chain_id(), model, previous: before }]);
        }
    }

    /// Stores the changed models.
    pub(super) fn keep_models(&mut self) {
        self.keep(What::Models, None);
    }

    /// Stores the state learned online, every `learned_save_ms`.
    pub(super) fn keep_learned_if_due(&mut self, now: Timestamp) {
        if now.since(self.kept_at) >= self.shared.tuning.forecast.learned_save && self.head.is_some() {
            self.kept_at = now;
            self.keep(What::Learned, None);
        }
    }

    fn keep(&mut self, what: What, pending: Option<Pending>) {
        let Some(writing) = self.writing(what) else { return };
        self.tasks.spawn(async move {
            let text = super::clock::run_blocking(writing).await;
            let text = text.unwrap_or_else(|error| Err(serde::ser::Error::custom(error)));
            Done::Written(Box::new(Written { what, text, pending }))
        });
    }

    /// A closure that serializes a copy of the value, to run off the service's task.
    fn writing(&self, what: What) -> Option<impl FnOnce() -> Result<String, serde_json::Error> + Send + use<>> {
        let models = match what {
            What::Models => Some(self.foresight.as_ref()?.registry().clone()),
            What::Learned => None,
        };
        let mut learned = self.foresight.as_ref().map(Foresight::learned).unwrap_or_default();
        learned.delays_ms = self.pricing.delays_ms();
        Some(move || match models {
            Some(models) => seal(serde_json::to_string(&models)?),
            None => seal(serde_json::to_string(&learned)?),
        })
    }

    /// Writes a serialized value to the ledger.
    pub(super) fn on_written(&mut self, written: Written) {
        let Written { what, text, pending } = written;
        let key = what.key(self.chain_id());
        let limit = self.shared.tuning.forecast.learned_max_bytes;
        let refused = match text {
            Ok(value) if value.len() <= limit => {
                let durable = self.write(vec![Write::Meta { key, value }], Vec::new());
                self.tasks.spawn(async move {
                    let is_durable = durable.await.is_ok();
                    if let Some(Pending { reply, models }) = pending {
                        let answer = Ok(ModelAnswer::Models(models));
                        let _ = reply.send(if is_durable { answer } else { Err(ModelError::ShuttingDown) });
                    }
                    Done::Noted
                });
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
    pub(super) fn keep_at_stop(&mut self) {
        if self.head.is_none() {
            return;
        }
        for what in [What::Models, What::Learned] {
            let Some(text) = self.writing(what).map(|writing| writing()) else { continue };
            self.on_written(Written { what, text, pending: None });
        }
    }
}

/// The stored inclusion delays.
pub(super) fn delays(learned: &Learned) -> impl Iterator<Item = Duration> + '_ {
    learned.delays_ms.iter().copied().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_found() {
        let text = seal("{\"a\":1}".to_owned()).unwrap();
        assert_eq!(unseal(&text, 1_000).unwrap(), "{\"a\":1}");
        assert!(matches!(unseal(&text, 10), Err(UnsealError::TooLarge { limit: 10, .. })));
        assert!(matches!(unseal(&text.replace("a\\\"", "b\\\""), 1_000), Err(UnsealError::Hash)));
        assert!(matches!(unseal(&text.replace("\"format\":1", "\"format\":2"), 1_000), Err(UnsealError::Format(2))));
        for cut in 0..text.len() {
            assert!(unseal(&text[..cut], 1_000).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_export_is_of_one_chain() {
        let registry = ModelRegistry::new();
        let text = export(5, &registry).unwrap();
        assert_eq!(import(5, &text).unwrap(), registry);
        assert!(matches!(import(6, &text), Err(ModelError::OtherChain { found: 5, chain_id: 6 })));
        assert!(matches!(import(5, "{}"), Err(ModelError::Import(_))));
        assert!(matches!(
            import(5, &text.replace("{\"format\":1,\"c", "{\"format\":9,\"c")),
            Err(ModelError::Import(_))
        ));
    }

    #[test]
    fn what_was_learned_on_another_chain_is_left_aside() {
        let learned = Learned { newest: Some(1_000), ..Learned::default() };
        assert!(learned.is_of(940), "a reorg");
        assert!(learned.is_of(2_000));
        assert!(!learned.is_of(900));
    }
}
