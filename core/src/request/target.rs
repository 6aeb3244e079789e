//! What a target has shown on chain, as the ledger keeps it for every instance.

use alloy_primitives::{Address, B256};

use crate::time::Timestamp;

/// What final blocks, and majorities of the nodes, have shown of one target on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRecord {
    /// The contract.
    pub target: Address,
    /// Clean final transactions with requests to it, while their tenant's policy did not name it.
    pub clean_runs: u64,
    /// Times that a request to it surprised alone, while its tenant's policy named it.
    pub surprises: u32,
    /// Until when it is suspect; 0 if it never was.
    pub suspect_until: Timestamp,
    /// Hash of the transaction that showed the newest surprise: it counts once, and can be taken back.
    pub shown_by: Option<B256>,
    /// When something of it was last seen: whose record is the oldest is forgotten first.
    pub seen_at: Timestamp,
}

impl TargetRecord {
    /// Of a target of which nothing was seen before.
    pub const fn new(target: Address, seen_at: Timestamp) -> Self {
        Self { target, clean_runs: 0, surprises: 0, suspect_until: Timestamp(0), shown_by: None, seen_at }
    }

    /// Whether it says no more than no record would: such a one is not kept.
    pub const fn is_empty(&self) -> bool {
        self.clean_runs == 0 && self.surprises == 0
    }
}
