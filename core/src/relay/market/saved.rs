//! Persistence of a chain's learned state: fitted models with their pin, weights, measured delays.
//!
//! Two values in the ledger per chain: `models.<id>` (written when a model is activated) and `learned.<id>` (written
//! periodically, and at shutdown). Each carries its format and a hash of its content; a value that is damaged, of
//! another version or too large is discarded with a warning, and relearned from the chain's fee history.

use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use super::forecast::Learned;
use crate::{
    forecast::ModelRegistry,
    ledger::{Ledger, LedgerError},
    relay::handle::models::Pending,
};

/// Format version of the stored values.
const FORMAT: u32 = 1;

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
pub(in crate::relay) enum UnsealError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("format {0}, understood is {FORMAT}")]
    Format(u32),
    #[error("its hash differs")]
    Hash,
    #[error("{bytes} bytes, limit {limit} (`learned_max_bytes`)")]
    TooLarge { bytes: usize, limit: usize },
}

pub(in crate::relay) fn seal(body: String) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Sealed { format: FORMAT, hash: keccak256(&body), body })
}

pub(in crate::relay) fn unseal(text: &str, limit: usize) -> Result<String, UnsealError> {
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

/// A chain's learned state as read from the ledger.
#[derive(Debug, Default)]
pub(in crate::relay) struct Kept {
    pub(in crate::relay) models: Option<ModelRegistry>,
    pub(in crate::relay) learned: Option<Learned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum What {
    Models,
    Learned,
}

impl What {
    pub(in crate::relay) fn key(self, chain_id: u64) -> String {
        match self {
            Self::Models => format!("models.{chain_id}"),
            Self::Learned => format!("learned.{chain_id}"),
        }
    }
}

impl Kept {
    /// Reads the stored values, discarding unreadable ones. Only the storage itself can fail.
    pub(in crate::relay) async fn read(ledger: &dyn Ledger, chain_id: u64, limit: usize) -> Result<Self, LedgerError> {
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

/// A serialized value on its way to the ledger.
#[derive(Debug)]
pub(in crate::relay) struct Written {
    pub(in crate::relay) what: What,
    pub(in crate::relay) text: Result<String, serde_json::Error>,
    pub(in crate::relay) pending: Option<Pending>,
}

/// The stored inclusion delays.
pub(in crate::relay) fn delays(learned: &Learned) -> impl Iterator<Item = Duration> + '_ {
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
    fn what_was_learned_on_another_chain_is_left_aside() {
        let learned = Learned { newest: Some(1_000), ..Learned::default() };
        assert!(learned.is_of(940), "a reorg");
        assert!(learned.is_of(2_000));
        assert!(!learned.is_of(900));
    }
}
