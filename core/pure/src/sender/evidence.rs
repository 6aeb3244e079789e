//! Evidence about call targets from mined transactions: recorded at inclusion, revoked by a reorg of the block,
//! persisted with its cause.
//!
//! Clean runs are persisted when they are final; after a restart the lanes report the others again. A surprise is
//! persisted as soon as a majority of the nodes has confirmed it, together with its transaction's hash, so that it
//! counts once and a reorg can revoke it.

use alloy_primitives::{Address, B256};

use super::{
    flight::Evidence,
    host::Host,
    input::{Command, Notice},
    state::Sender,
};
use crate::{
    ordered::Map,
    record::Write,
    request::{
        VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
    },
    schedule::{Accused, Showing},
    time::Timestamp,
};

/// True if a member that a transaction left out had the user's next nonce, so that nothing explains the skip. `next`:
/// users' next nonces in the block; `None` if unknown.
pub(crate) fn is_surprise<'a>(
    members: impl IntoIterator<Item = (&'a VerifiedRequest, MemberOutcome)>,
    next: impl Fn(Address, Address) -> Option<u64>,
) -> bool {
    let is_skipped = |(member, outcome): (&VerifiedRequest, MemberOutcome)| {
        outcome == MemberOutcome::Untouched
            && member.sequence().is_some_and(|(forwarder, signer, nonce)| next(forwarder, signer) == Some(nonce))
    };
    members.into_iter().any(is_skipped)
}

impl<H: Host> Sender<H> {
    /// Records the evidence of a transaction in a block, replacing the previous evidence of its nonce.
    pub fn show(&mut self, now: Timestamp, index: usize, nonce: u64, outcomes: &[MemberOutcome], receipt: &TxReceipt) {
        self.take_back(index, nonce);
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        let ids: Vec<_> = flight.ids().collect();
        let Showing { clean, accused } = self.queue.showing(&ids, outcomes, receipt.is_success);
        // In a late block a member may have been skipped because of its deadline.
        let is_in_time = flight.members.iter().all(|member| member.valid_until() > now);
        // A payment that fails reached nobody's gas: its payer has changed something, or another made it first.
        let harms_none = flight.key.is_lone() || flight.key.caps_members();
        let accused = accused.filter(|accused| !harms_none && (accused.has_failed || is_in_time));
        // A target that has earned company before is known to be a contract.
        let (clean, unproven): (Vec<_>, Vec<_>) =
            clean.into_iter().partition(|target| self.queue.further_signers(*target) > 0);
        self.queue.ran(&clean, now);
        // Earned company is lost at once and only once, without waiting for a possible reorg.
        let (lost, accused) = match accused {
            Some(accused) if accused.has_failed && !accused.is_named => (Some(accused), None),
            accused => (None, accused),
        };
        if let Some(accused) = lost {
            self.accuse(now, accused, receipt.hash);
        }
        if let Some(flight) = self.lanes[index].flights.get_mut(&nonce) {
            flight.shown = Evidence { hash: receipt.hash, clean, unproven, accused, is_noted: false };
        }
    }

    /// Asks the nodes whether the unproven targets of the nonce's transaction are contracts.
    pub fn prove(&mut self, index: usize, nonce: u64) {
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        let (hash, targets) = (flight.shown.hash, flight.shown.unproven.clone());
        if targets.is_empty() || !H::HAS_MAJORITY {
            return;
        }
        self.command(Command::ProveContracts { lane: index, nonce, hash, targets });
    }

    pub(crate) fn on_contracts(&mut self, now: Timestamp, index: usize, nonce: u64, hash: B256, contracts: &[Address]) {
        let Some(flight) = self.lanes.get_mut(index).and_then(|lane| lane.flights.get_mut(&nonce)) else { return };
        if flight.shown.hash != hash {
            return;
        }
        let (proved, unproven) =
            std::mem::take(&mut flight.shown.unproven).into_iter().partition(|target| contracts.contains(target));
        flight.shown.unproven = unproven;
        self.queue.ran(&proved, now);
        flight.shown.clean.extend::<Vec<_>>(proved);
    }

    /// Revokes the evidence of the nonce's transaction.
    pub fn take_back(&mut self, index: usize, nonce: u64) {
        let Some(flight) = self.lanes[index].flights.get_mut(&nonce) else { return };
        let shown = std::mem::replace(&mut flight.shown, Evidence::NOTHING);
        self.queue.unran(&shown.clean);
        if let Some(accused) = shown.accused.filter(|accused| accused.is_named) {
            self.queue.unsurprised(accused.target, shown.hash);
        }
    }

    /// Records a surprise by the target of a transaction that called no other target.
    pub fn accuse(&mut self, now: Timestamp, accused: Accused, hash: B256) {
        let Some(until) = self.queue.surprised(accused, hash, now) else { return };
        self.notice(Notice::Surprise { target: accused.target, hash, until });
    }

    /// Makes the evidence of a final transaction permanent. `nonces`: users' next nonces; `contracts`: the contracts
    /// among the unproven targets.
    pub fn show_for_good(
        &mut self,
        now: Timestamp,
        shown: Evidence,
        members: &[std::sync::Arc<VerifiedRequest>],
        outcomes: &[MemberOutcome],
        nonces: &Map<(Address, Address), u64>,
        contracts: &[Address],
    ) {
        let accused = shown.open();
        let Evidence { hash, mut clean, unproven, .. } = shown;
        let proved: Vec<Address> = unproven.into_iter().filter(|target| contracts.contains(target)).collect();
        self.queue.ran(&proved, now);
        clean.extend(proved);
        self.queue.ran_for_good(&clean, now);
        if let Some(accused) = accused {
            let members = members.iter().map(|member| &**member).zip(outcomes.iter().copied());
            let next = |forwarder, signer| nonces.get(&(forwarder, signer)).copied();
            if accused.has_failed || is_surprise(members, next) {
                self.accuse(now, accused, hash);
            }
        }
    }

    /// Target records changed since the last call, to be persisted; `None` if there are none.
    pub fn target_changes(&mut self) -> Option<Write> {
        let records = self.queue.take_target_changes();
        let chain_id = self.chain_id();
        (!records.is_empty()).then_some(Write::Targets { chain_id, records })
    }
}
