//! Record of a target's on-chain behaviour, shared by all instances through the ledger.

use alloy_primitives::{Address, B256};

use crate::time::Timestamp;

/// Record of one target on one chain, from final blocks and majorities of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRecord {
    /// The contract.
    pub target: Address,
    /// Number of clean final transactions with requests to it, while their tenant's policy did not name it.
    pub clean_runs: u64,
    /// Number of times that a request to it surprised alone, while its tenant's policy named it.
    pub surprises: u32,
    /// End of its suspicion; 0 if it was never suspect.
    pub suspect_until: Timestamp,
    /// Hash of the transaction with the newest surprise, which counts once and can be taken back; `None` if there is
    /// none.
    pub shown_by: Option<B256>,
    /// Time of the last activity: the oldest record is evicted first.
    pub seen_at: Timestamp,
}

impl TargetRecord {
    /// Empty record of a new target.
    pub const fn new(target: Address, seen_at: Timestamp) -> Self {
        Self { target, clean_runs: 0, surprises: 0, suspect_until: Timestamp(0), shown_by: None, seen_at }
    }

    /// True if it carries no more information than no record: such a record is not stored.
    pub const fn is_empty(&self) -> bool {
        self.clean_runs == 0 && self.surprises == 0
    }
}
