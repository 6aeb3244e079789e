//! On-chain behaviour of targets.

use alloy_primitives::{Address, B256};

use super::state::Queue;
use crate::{
    request::{RequestId, TargetRecord, outcome::MemberOutcome},
    schedule::targets::{self, Accused, RecordRule, Showing, TargetRecords},
    time::Timestamp,
};

impl Queue {
    /// Restores persisted target records.
    pub fn recall_targets(&mut self, rule: RecordRule, records: Vec<TargetRecord>) {
        self.targets = TargetRecords::recalled(rule, records);
    }

    /// Evidence about targets from a transaction in a block with these requests and outcomes. Records nothing.
    pub fn showing(&self, members: &[RequestId], outcomes: &[MemberOutcome], is_success: bool) -> Showing {
        let known = |id: &RequestId| {
            let entry = self.entries.get(id)?;
            Some((entry.request.target(), entry.company))
        };
        targets::showing(&members.iter().map(known).collect::<Vec<_>>(), outcomes, is_success)
    }

    /// Records a block's transaction that is clean for these targets: each earns company.
    pub fn ran(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.ran(*target, now));
    }

    /// Takes back the effect of [`Self::ran`] for these targets after a reorg.
    pub fn unran(&mut self, targets: &[Address]) {
        targets.iter().for_each(|target| self.targets.unran(*target));
    }

    /// Finalises the effect of [`Self::ran`] for these targets.
    pub fn ran_for_good(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.settled(*target, now));
    }

    /// Records that the target surprised in a transaction of its own: an unnamed target loses its clean runs, a named
    /// one becomes suspect. Returns the end of the suspicion if it is news. Idempotent per transaction hash.
    pub fn surprised(&mut self, accused: Accused, hash: B256, now: Timestamp) -> Option<Timestamp> {
        if accused.is_named {
            return self.targets.surprised(accused.target, hash, now);
        }
        self.targets.lost(accused.target);
        None
    }

    /// Takes back [`Self::surprised`] of a named target for the transaction with this hash after a reorg.
    pub fn unsurprised(&mut self, target: Address, hash: B256) {
        self.targets.unsurprised(target, hash);
    }

    /// True if requests to `target` may share a transaction only with the same signer's, because it surprised.
    pub fn is_suspect(&self, target: Address, now: Timestamp) -> bool {
        self.targets.is_suspect(target, now)
    }

    /// Signers beyond the first with whom requests to an unnamed `target` may share a transaction.
    pub fn further_signers(&self, target: Address) -> usize {
        self.targets.further_signers(target)
    }

    /// Target records changed since the last call, to be persisted. An [empty](TargetRecord::is_empty) one is to be
    /// deleted.
    pub fn take_target_changes(&mut self) -> Vec<TargetRecord> {
        self.targets.take_changes()
    }
}
