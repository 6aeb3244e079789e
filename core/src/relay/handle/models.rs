//! An operator's commands on a chain's models, and their export as one JSON.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::forecast::{ModelRegistry, RegistryError};
use crate::relay::market::forecast::ModelInfo;

/// Format of an export.
const FORMAT: u32 = 1;

/// An operator's command about a chain's models.
#[derive(Debug)]
pub(in crate::relay) enum ModelCommand {
    Promote(u32),
    Pin(u32),
    Unpin,
    RollBack,
    Import(Box<ModelRegistry>),
    Export,
}

/// Result of a model command.
#[derive(Debug)]
pub(in crate::relay) enum ModelAnswer {
    Models(Vec<ModelInfo>),
    Registry(Box<ModelRegistry>),
}

pub(in crate::relay) type ModelReply = oneshot::Sender<Result<ModelAnswer, ModelError>>;

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
pub(in crate::relay) fn export(chain_id: u64, registry: &ModelRegistry) -> Result<String, ModelError> {
    let registry = serde_json::value::RawValue::from_string(registry.export()?).map_err(RegistryError::from)?;
    Ok(serde_json::to_string(&ModelExport { format: FORMAT, chain_id, registry }).map_err(RegistryError::from)?)
}

/// Reads an [`export`], and checks every model against its content hash.
pub(in crate::relay) fn import(chain_id: u64, text: &str) -> Result<ModelRegistry, ModelError> {
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
pub(in crate::relay) struct Pending {
    pub(in crate::relay) reply: ModelReply,
    pub(in crate::relay) models: Vec<ModelInfo>,
}

impl Pending {
    /// Answers once it is known whether the models are durable.
    pub(in crate::relay) fn tell(self, is_durable: bool) {
        let answer = Ok(ModelAnswer::Models(self.models));
        let _ = self.reply.send(if is_durable { answer } else { Err(ModelError::ShuttingDown) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
