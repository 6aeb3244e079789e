//! Proofs about the decision log: membership of an entry, and consistency with a published head.

use alloy_primitives::B256;
use serde::{Deserialize, Serialize};

use crate::provenance::{ChainBreak, Decision, DecodeError, Entry, Head, verify, verify_chain_from};

/// Proof that an entry is under an anchored root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogProof {
    /// The entry.
    pub entry: Entry,
    /// Sibling hashes from the entry's leaf up to the root.
    pub siblings: Vec<B256>,
}

/// Difference between an entry, or a log, and the published one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault {
    /// The log was changed.
    #[error(transparent)]
    Break(#[from] ChainBreak),
    /// The log differs from the published head's: another one, truncated, or continued differently.
    #[error("the log's head is {}:{}, published was {}:{}", found.seq, found.hash, expected.seq, expected.hash)]
    OtherHead {
        /// Published head.
        expected: Head,
        /// Computed head.
        found: Head,
    },
    /// The proof does not lead to the root.
    #[error("the proof does not lead to root {0}")]
    NotIncluded(B256),
    /// The entry's hash is not that of its content.
    #[error("the entry's hash is not that of its content")]
    Content,
    /// The body is not a decision.
    #[error(transparent)]
    Body(#[from] DecodeError),
}

impl LogProof {
    /// The decision, if it is under `root`: the root of a [`MerkleTree`](crate::provenance::MerkleTree) over hashes of
    /// entries, from an anchor that the relayer can't change.
    ///
    /// # Errors
    /// [`LogFault`].
    pub fn verify(&self, root: B256) -> Result<Decision, LogFault> {
        let before = Head { seq: self.entry.seq.wrapping_sub(1), hash: self.entry.prev };
        verify_chain_from(before, [&self.entry]).map_err(|_| LogFault::Content)?;
        if !verify(self.entry.hash, &self.siblings, root) {
            return Err(LogFault::NotIncluded(root));
        }
        Ok(self.entry.decision()?)
    }
}

/// Checks a part of a log after `head`; returns the head after it.
///
/// # Errors
/// [`LogFault::Break`] at the first broken entry.
pub fn verify_log_page(head: Head, entries: &[Entry]) -> Result<Head, LogFault> {
    Ok(verify_chain_from(head, entries)?)
}

/// Checks the part of a log between two heads known from another source.
///
/// # Errors
/// [`LogFault`].
pub fn verify_log(from: Head, entries: &[Entry], published: Head) -> Result<(), LogFault> {
    let found = verify_log_page(from, entries)?;
    if found == published { Ok(()) } else { Err(LogFault::OtherHead { expected: published, found }) }
}
