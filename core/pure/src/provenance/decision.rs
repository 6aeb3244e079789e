//! A log of decisions in which every entry commits to all entries before it.
//!
//! ```text
//! hash = keccak256("slackwater.decision.v1" ‖ 0x00 ‖ prev ‖ seq as u64 BE ‖ at_ms as u64 BE ‖ body)
//! ```
//! `body` is canonical JSON (RFC 8785): one object, keys ascending, no white space, integers as decimal strings, hashes and
//! addresses as lower-case `0x` hex, absent options left out. Only the body has a variable length and it comes last, so no
//! two entries share a preimage. Anyone with the published head can find a changed, removed or inserted entry; a log cut
//! off at its end is found by comparing heads.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Keccak256, keccak256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::decimal;

/// Separates these hashes from every other use of keccak256; carries the format's version.
const DOMAIN: &[u8] = b"slackwater.decision.v1\0";

/// One request of [`Decision::Accepted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// Request id.
    pub request: B256,
    /// The tenant that pays.
    pub tenant: String,
    /// Id of the API key that submitted it; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// EIP-155 chain id.
    #[serde(with = "decimal")]
    pub chain_id: u64,
    /// Latest block time that was promised, Unix seconds.
    #[serde(with = "decimal")]
    pub deadline_s: u64,
    /// Amount reserved for it, wei.
    #[serde(with = "decimal")]
    pub reserved_wei: u128,
}

/// One request of [`Decision::Settled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    /// Request id.
    pub request: B256,
    /// Terminal status.
    pub status: String,
    /// Hash of the transaction that executed it; `None` if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<B256>,
    /// Number of that transaction's block.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// Cost of the request so far, wei, L1 data fee included.
    #[serde(with = "decimal")]
    pub cost_wei: u128,
    /// Price charged to its tenant, wei; `None` if it equals the cost.
    #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
    pub price_wei: Option<u128>,
    /// Stable reason code; `None` if the status alone is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A decision or observation of the relayer, with its numeric inputs.
///
/// Bodies outlive payloads, so no variant holds calldata, signatures or secrets; texts are short and stable codes where
/// possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decision {
    /// Requests were committed and promised, in one commit.
    Accepted {
        /// The requests, in order.
        requests: Vec<Acceptance>,
    },
    /// Requests were refused on submission within a minute, for the same reason.
    Refused {
        /// Id of the submitting API key; `None` if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Name of the tenant.
        tenant: String,
        /// Stable error code.
        code: String,
        /// Number of refusals.
        #[serde(with = "decimal")]
        count: u64,
    },
    /// Requests were bound to one nonce.
    Planned {
        /// Batch id.
        batch: B256,
        /// EIP-155 chain id.
        #[serde(with = "decimal")]
        chain_id: u64,
        /// Signer account that sends it.
        sender: Address,
        /// Account nonce of the batch.
        #[serde(with = "decimal")]
        nonce: u64,
        /// Request ids, in order of execution.
        members: Vec<B256>,
        /// Reason for sending now: `full`, `deadline`, `company`, `linger` or `filler`.
        reason: String,
        /// Base fee at the decision, wei per gas.
        #[serde(with = "decimal")]
        base_fee_wei_per_gas: u128,
        /// Expected cost of the best continuation at the decision, wei per gas; `None` unless a forecast was used.
        #[serde(default, with = "decimal::option", skip_serializing_if = "Option::is_none")]
        threshold_wei_per_gas: Option<u128>,
        /// Chosen fee cap, wei per gas.
        #[serde(with = "decimal")]
        max_fee_wei_per_gas: u128,
        /// Chosen tip, wei per gas.
        #[serde(with = "decimal")]
        max_priority_fee_wei_per_gas: u128,
        /// Chosen gas limit.
        #[serde(with = "decimal")]
        gas_limit_gas: u64,
        /// Content hash of the forecast model used; `None` if none was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<B256>,
        /// Content hash of the forecast on which the decision is based; `None` if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inputs: Option<B256>,
    },
    /// The first attempt was committed for broadcast, with the plan: this is the entry after [`Self::Planned`].
    Sent {
        /// Batch id.
        batch: B256,
        /// Transaction hash.
        attempt: B256,
    },
    /// A replacement was committed for broadcast.
    Bumped {
        /// Batch id.
        batch: B256,
        /// Hash of the attempt with the highest fees until now.
        replaced: B256,
        /// Hash of the new attempt.
        attempt: B256,
        /// Reason: `stuck`, `underpriced`, `base_fee`, …
        reason: String,
        /// New fee cap, wei per gas.
        #[serde(with = "decimal")]
        max_fee_wei_per_gas: u128,
        /// New tip, wei per gas.
        #[serde(with = "decimal")]
        max_priority_fee_wei_per_gas: u128,
    },
    /// A no-op replacement was committed to free the nonce. Success is only claimed once it is final.
    Cancelling {
        /// Batch id.
        batch: B256,
        /// Hash of the no-op.
        attempt: B256,
        /// Reason: `deadline`, `user`, …
        reason: String,
    },
    /// An attempt is in a block; a reorg may take it back.
    Included {
        /// Batch id.
        batch: B256,
        /// Transaction hash.
        attempt: B256,
        /// Block number.
        #[serde(with = "decimal")]
        block_number: u64,
        /// Block hash.
        block_hash: B256,
    },
    /// A block that held an attempt was replaced.
    Reorged {
        /// Batch id.
        batch: B256,
        /// Transaction hash.
        attempt: B256,
        /// Number of the removed block.
        #[serde(with = "decimal")]
        block_number: u64,
        /// Hash of the removed block.
        block_hash: B256,
    },
    /// Requests ended, in one commit; or had ended before, and their cost has risen. The newest entry of a request
    /// counts.
    Settled {
        /// The requests.
        requests: Vec<Ending>,
    },
    /// A request went back to the queue, its batch's nonce having been used by a known transaction.
    Requeued {
        /// Request id.
        request: B256,
        /// Id of the batch that it leaves.
        batch: B256,
        /// Reason code.
        reason: String,
    },
    /// An operator should investigate.
    Alert {
        /// Stable code.
        code: String,
        /// Subject: a lane, a source, a tenant.
        subject: String,
        /// Detail for the operator.
        detail: String,
    },
    /// The relayer started with, or switched to, a configuration.
    Configured {
        /// Hash of the effective configuration, secrets left out.
        config: B256,
        /// Version of the program.
        version: String,
    },
    /// An administrator changed the relayer's operation: paused, reloaded, chose models, withdrew a request for others.
    Administered {
        /// Id of the API key.
        key: String,
        /// Stable code: `pause`, `resume`, `reload`, …
        action: String,
        /// Subject of the action.
        subject: String,
    },
    /// Another forecast model took over.
    ModelPromoted {
        /// EIP-155 chain id.
        #[serde(with = "decimal")]
        chain_id: u64,
        /// Content hash of the model.
        model: B256,
        /// Content hash of the previous model; `None` if there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<B256>,
    },
}

/// Errors of decoding a body: a foreign log, a newer version, or a forged entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not JSON, or no decision that this build knows.
    #[error("not a decision: {message}")]
    Unreadable {
        /// The parser's message.
        message: String,
    },
    /// A non-canonical encoding of a decision: it did not come from [`Decision::encode`].
    #[error("body is not canonical")]
    NotCanonical,
}

impl Decision {
    /// True if it reports an attempt that is committed together with it.
    pub const fn is_of_new_attempt(&self) -> bool {
        matches!(self, Self::Planned { .. } | Self::Sent { .. } | Self::Bumped { .. } | Self::Cancelling { .. })
    }

    /// The canonical body. Equal decisions have equal bodies.
    #[must_use]
    pub fn encode(&self) -> String {
        match serde_json::to_value(self) {
            Ok(value) => {
                let mut body = String::new();
                write_canonical(&value, &mut body);
                body
            }
            Err(e) => unreachable!("a decision holds only texts, hashes and lists: {e}"),
        }
    }

    /// Parses a canonical body.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Self::encode`] does not produce.
    pub fn decode(body: &str) -> Result<Self, DecodeError> {
        let decision: Self =
            serde_json::from_str(body).map_err(|e| DecodeError::Unreadable { message: e.to_string() })?;
        if decision.encode() == body { Ok(decision) } else { Err(DecodeError::NotCanonical) }
    }
}

/// Writes `value` with ascending keys and no white space, whatever map `serde_json` was built with.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            out.push('{');
            for (i, (key, member)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write_canonical(member, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::String(text) => write_text(text, out),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// A JSON string; serde_json escapes as RFC 8785 demands.
fn write_text(text: &str, out: &mut String) {
    out.push_str(&Value::from(text).to_string());
}

/// Head of a log: the base of the next entry, and the value to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Number of the last entry; 0 before the first.
    pub seq: u64,
    /// Hash of the last entry.
    pub hash: B256,
}

impl Head {
    /// Head of an empty log.
    pub const GENESIS: Self = Self { seq: 0, hash: B256::ZERO };

    /// Head of an empty log that belongs to `owner` (such as a relayer's identity), so that entries of another log
    /// cannot be passed off as this one's.
    #[must_use]
    pub fn genesis(owner: &str) -> Self {
        Self { seq: 0, hash: keccak256([DOMAIN, owner.as_bytes()].concat()) }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Number, from 1 without gaps.
    pub seq: u64,
    /// Time of the entry, Unix ms, by the relayer's clock; not guaranteed to ascend.
    pub at_ms: u64,
    /// Hash of the previous entry.
    pub prev: B256,
    /// Hash of this entry.
    pub hash: B256,
    /// Content: a canonical body.
    pub body: String,
}

impl Entry {
    /// The entry that follows `prev`. The caller stores it before acting on it, and continues from [`Self::head`].
    #[must_use]
    pub fn append(prev: &Head, at_ms: u64, decision: &Decision) -> Self {
        // Saturating: 2^64 entries are never written, and a forged head fails verification.
        let seq = prev.seq.saturating_add(1);
        let body = decision.encode();
        Self { seq, at_ms, prev: prev.hash, hash: entry_hash(prev.hash, seq, at_ms, &body), body }
    }

    /// The log's head after this entry.
    #[must_use]
    pub const fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }

    /// The decision in the body. The chain guarantees the body only after [`verify_chain`].
    ///
    /// # Errors
    /// [`DecodeError`] if the body is not a canonical decision.
    pub fn decision(&self) -> Result<Decision, DecodeError> {
        Decision::decode(&self.body)
    }
}

fn entry_hash(prev: B256, seq: u64, at_ms: u64, body: &str) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(DOMAIN);
    hasher.update(prev);
    hasher.update(seq.to_be_bytes());
    hasher.update(at_ms.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Fault of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainFault {
    /// Another number than expected: entries are missing, repeated or out of order.
    #[error("has sequence number {found}")]
    Sequence {
        /// Number found.
        found: u64,
    },
    /// Its `prev` is not the hash of the previous entry.
    #[error("follows {found}, not {expected}")]
    Previous {
        /// Hash of the previous entry.
        expected: B256,
        /// Hash found.
        found: B256,
    },
    /// Its time or body was changed.
    #[error("has hash {found}, its content {computed}")]
    Hash {
        /// Hash of the content.
        computed: B256,
        /// Hash found.
        found: B256,
    },
}

/// The first fault of a log; everything before it is intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("decision log breaks at entry {seq}, which {fault}")]
pub struct ChainBreak {
    /// Expected number of the entry.
    pub seq: u64,
    /// The fault.
    pub fault: ChainFault,
}

/// Checks a whole log from [`Head::GENESIS`] and returns its head, to be compared with a published one.
///
/// # Errors
/// [`ChainBreak`] at the first broken entry.
pub fn verify_chain<E: Borrow<Entry>>(entries: impl IntoIterator<Item = E>) -> Result<Head, ChainBreak> {
    verify_chain_from(Head::GENESIS, entries)
}

/// Checks the part of a log after `head`: page by page, from an owner's genesis, or after a retained checkpoint.
///
/// # Errors
/// [`ChainBreak`] at the first broken entry.
pub fn verify_chain_from<E: Borrow<Entry>>(
    mut head: Head,
    entries: impl IntoIterator<Item = E>,
) -> Result<Head, ChainBreak> {
    for entry in entries {
        let entry = entry.borrow();
        let seq = head.seq.saturating_add(1);
        let broken = |fault| Err(ChainBreak { seq, fault });
        if entry.seq != seq {
            return broken(ChainFault::Sequence { found: entry.seq });
        }
        if entry.prev != head.hash {
            return broken(ChainFault::Previous { expected: head.hash, found: entry.prev });
        }
        let computed = entry_hash(entry.prev, entry.seq, entry.at_ms, &entry.body);
        if entry.hash != computed {
            return broken(ChainFault::Hash { computed, found: entry.hash });
        }
        head = entry.head();
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
