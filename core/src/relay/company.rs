//! Evidence about call targets from mined transactions: recorded at inclusion, revoked by a reorg of the block,
//! persisted with its cause.
//!
//! Clean runs are persisted when they are final; after a restart the lanes report the others again. A surprise is
//! persisted as soon as a majority of the nodes has confirmed it, together with its transaction's hash, so that it
//! counts once and a reorg can revoke it.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes};
use serde_json::json;

use super::{
    admission::ChainShared,
    chain_service::{ChainService, Done},
};
use crate::{
    ledger::Write,
    request::{
        VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
    },
    schedule::{Accused, Showing},
    time::Timestamp,
};

/// Prefix of the code of an account with a delegation (EIP-7702).
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

/// Recorded evidence of one transaction in a block.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// Hash of the transaction; zero if none is in a block.
    pub(super) hash: B256,
    /// Unnamed targets for which it counts as a clean run.
    pub(super) clean: Vec<Address>,
    /// Unnamed targets for which it counts as one once the nodes confirm that they are contracts.
    pub(super) unproven: Vec<Address>,
    pub(super) accused: Option<Accused>,
    /// True once the accusation was handled: it counts once, however many others of the same target there are
    /// meanwhile.
    pub(super) is_noted: bool,
}

impl Shown {
    pub(super) const NOTHING: Self =
        Self { hash: B256::ZERO, clean: Vec::new(), unproven: Vec::new(), accused: None, is_noted: false };

    /// The accusation not handled yet.
    pub(super) fn open(&self) -> Option<Accused> {
        self.accused.filter(|_| !self.is_noted)
    }
}

/// True if a member that a transaction left out had the user's next nonce, so that nothing explains the skip. `next`:
/// users' next nonces in the block; `None` if unknown.
pub(super) fn is_surprise<'a>(
    members: impl IntoIterator<Item = (&'a VerifiedRequest, MemberOutcome)>,
    next: impl Fn(Address, Address) -> Option<u64>,
) -> bool {
    let is_skipped = |(member, outcome): (&VerifiedRequest, MemberOutcome)| {
        outcome == MemberOutcome::Untouched
            && member.sequence().is_some_and(|(forwarder, signer, nonce)| next(forwarder, signer) == Some(nonce))
    };
    members.into_iter().any(is_skipped)
}

/// The targets that are contracts with fixed code (no EIP-7702 delegation), according to a majority of the nodes.
/// Targets without a majority are left out.
pub(super) async fn contracts_among(shared: &ChainShared, targets: &[Address]) -> Vec<Address> {
    let mut contracts = Vec::new();
    for target in targets {
        let mut is_contract = shared.contracts.get(target).await;
        if is_contract.is_none() {
            let told = shared.pool.call_all::<Bytes>("eth_getCode", json!([target, "latest"])).await;
            let told: Vec<bool> =
                told.into_iter().flatten().map(|code| !code.is_empty() && !code.starts_with(&DELEGATION)).collect();
            let agrees = |word: bool| shared.pool.is_majority(told.iter().filter(|told| **told == word).count());
            is_contract = [true, false].into_iter().find(|word| agrees(*word));
            if let Some(word) = is_contract {
                shared.contracts.insert(*target, word).await;
            }
        }
        contracts.extend(is_contract.filter(|is_contract| *is_contract).map(|_| *target));
    }
    contracts
}

impl ChainService {
    /// Records the evidence of a transaction in a block, replacing the previous evidence of its nonce.
    pub(super) fn show(
        &mut self,
        now: Timestamp,
        index: usize,
        nonce: u64,
        outcomes: &[MemberOutcome],
        receipt: &TxReceipt,
    ) {
        self.take_back(index, nonce);
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        let ids: Vec<_> = flight.ids().collect();
        let Showing { clean, accused } = self.queue.showing(&ids, outcomes, receipt.is_success);
        // In a late block a member may have been skipped because of its deadline.
        let is_in_time = flight.members.iter().all(|member| member.valid_until() > now);
        let accused = accused.filter(|accused| accused.has_failed || is_in_time);
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
            flight.shown = Shown { hash: receipt.hash, clean, unproven, accused, is_noted: false };
        }
    }

    /// Asks the nodes whether the unproven targets of the nonce's transaction are contracts.
    pub(super) fn prove(&mut self, index: usize, nonce: u64) {
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        let (hash, targets) = (flight.shown.hash, flight.shown.unproven.clone());
        if targets.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            Done::Contracts { lane: index, nonce, hash, contracts: contracts_among(&shared, &targets).await }
        });
    }

    pub(super) fn on_contracts(&mut self, now: Timestamp, index: usize, nonce: u64, hash: B256, contracts: &[Address]) {
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
    pub(super) fn take_back(&mut self, index: usize, nonce: u64) {
        let Some(flight) = self.lanes[index].flights.get_mut(&nonce) else { return };
        let shown = std::mem::replace(&mut flight.shown, Shown::NOTHING);
        self.queue.unran(&shown.clean);
        if let Some(accused) = shown.accused.filter(|accused| accused.is_named) {
            self.queue.unsurprised(accused.target, shown.hash);
        }
    }

    /// Records a surprise by the target of a transaction that called no other target.
    pub(super) fn accuse(&mut self, now: Timestamp, accused: Accused, hash: B256) {
        let Some(until) = self.queue.surprised(accused, hash, now) else { return };
        let chain_id = self.chain_id();
        tracing::warn!(
            chain_id,
            target = %accused.target,
            %hash,
            until_ms = until.0,
            "a target that a policy names did on chain what no simulation showed: until then its requests share transactions \
             with the same signer's only (`chain.suspect_ms`)"
        );
        metrics::counter!("slackwater_target_surprises_total", "chain_id" => chain_id.to_string()).increment(1);
    }

    /// Makes the evidence of a final transaction permanent. `nonces`: users' next nonces; `contracts`: the contracts
    /// among the unproven targets.
    pub(super) fn show_for_good(
        &mut self,
        now: Timestamp,
        shown: Shown,
        members: &[std::sync::Arc<VerifiedRequest>],
        outcomes: &[MemberOutcome],
        nonces: &BTreeMap<(Address, Address), u64>,
        contracts: &[Address],
    ) {
        let accused = shown.open();
        let Shown { hash, mut clean, unproven, .. } = shown;
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
    pub(super) fn target_changes(&mut self) -> Option<Write> {
        let records = self.queue.take_target_changes();
        let chain_id = self.chain_id();
        (!records.is_empty()).then_some(Write::Targets { chain_id, records })
    }
}
