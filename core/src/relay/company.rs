//! What transactions show of their targets: noted when they are in a block, taken back with the block, kept with what causes it.
//!
//! Clean runs are kept when they are final; a restart hears of the others again, from the lanes. A surprise is kept as soon as a
//! majority of the nodes has shown it, and its transaction's hash with it: so it counts once, and a reorg can take it back.

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

/// What the code of an account that has delegated it begins with (EIP-7702).
const DELEGATION: [u8; 3] = [0xef, 0x01, 0x00];

/// What one transaction in a block showed, as far as it is noted.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// The transaction; zero: none is in a block.
    pub(super) hash: B256,
    /// Unnamed targets for which it counts as a clean run.
    pub(super) clean: Vec<Address>,
    /// Those for which it does once nodes have told that they are contracts.
    pub(super) unproven: Vec<Address>,
    pub(super) accused: Option<Accused>,
    /// The accusation was heard: it counts once, however many others there are of the same target meanwhile.
    pub(super) is_noted: bool,
}

impl Shown {
    pub(super) const NOTHING: Self =
        Self { hash: B256::ZERO, clean: Vec::new(), unproven: Vec::new(), accused: None, is_noted: false };

    /// Who is accused and was not heard yet.
    pub(super) fn open(&self) -> Option<Accused> {
        self.accused.filter(|_| !self.is_noted)
    }
}

/// Whether somebody of those that a transaction left out had an unused nonce, with none missing before it. `next`: users' next
/// nonces in the block, as far as they are known.
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

/// Which of these are contracts whose code can't become another's, by a majority of the nodes. Where fewer answer, none is.
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
    /// Notes what a transaction in a block shows, in the place of what its nonce showed before.
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
        // Whom a late block left out, its deadline may have.
        let is_in_time = flight.members.iter().all(|member| member.valid_until() > now);
        let accused = accused.filter(|accused| accused.has_failed || is_in_time);
        // Who has earned company before is a contract.
        let (clean, unproven): (Vec<_>, Vec<_>) =
            clean.into_iter().partition(|target| self.queue.further_signers(*target) > 0);
        self.queue.ran(&clean, now);
        // What is earned is lost at once, and once: what a reorg makes of it is not waited for.
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

    /// Asks whether those for which the nonce's transaction would be a clean run are contracts.
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

    /// The nonce's block is gone, and with it what it showed.
    pub(super) fn take_back(&mut self, index: usize, nonce: u64) {
        let Some(flight) = self.lanes[index].flights.get_mut(&nonce) else { return };
        let shown = std::mem::replace(&mut flight.shown, Shown::NOTHING);
        self.queue.unran(&shown.clean);
        if let Some(accused) = shown.accused.filter(|accused| accused.is_named) {
            self.queue.unsurprised(accused.target, shown.hash);
        }
    }

    /// A target surprised in a transaction of its own.
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

    /// What a final transaction showed stands. `nonces`: users' next nonces; `contracts`: who of those that were not known is one.
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

    /// What is to be kept of targets since this was last asked.
    pub(super) fn target_changes(&mut self) -> Option<Write> {
        let records = self.queue.take_target_changes();
        let chain_id = self.chain_id();
        (!records.is_empty()).then_some(Write::Targets { chain_id, records })
    }
}
