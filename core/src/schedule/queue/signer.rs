//! One signer's place in line.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use alloy_primitives::Address;

use super::Queue;
use crate::{
    protection::Protection,
    request::{LaneId, RequestId},
    table::Table,
    time::Timestamp,
};

#[derive(Debug, Default)]
pub(super) struct SignerState {
    /// The forwarder's nonce, final as far as we know; `None` until somebody looked.
    chain_next: Option<u64>,
    /// Nonces below were consumed by what we settled.
    pub(super) consumed: u64,
    pub(super) waiting: BTreeMap<u64, RequestId>,
    /// The waiting ones by when they are due: a later nonce may have less time, and pulls the earlier ones forward. Those that
    /// are late stand apart.
    fresh: BTreeSet<(Timestamp, u64)>,
    late: BTreeSet<(Timestamp, u64)>,
    in_flight: BTreeMap<u64, RequestId>,
    /// First nonce from the forwarder's on that is not in flight: what may be batched next.
    next: u64,
    /// First nonce from there on that does not wait: what waits behind it can't execute yet.
    run_end: u64,
    /// Those in flight that are in a block: whoever comes next need not follow them on their lane.
    in_block: Table<u64, ()>,
    /// The lane that carries the newest ones in flight: successors must follow them there.
    pub(super) lane: Option<LaneId>,
}

impl SignerState {
    pub(super) const fn chain_next(&self) -> Option<u64> {
        self.chain_next
    }

    /// The nonce that may be batched next.
    pub(super) fn next(&self) -> Option<u64> {
        self.chain_next.map(|_| self.next)
    }

    pub(super) const fn in_flight(&self) -> &BTreeMap<u64, RequestId> {
        &self.in_flight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// The forwarder's nonce is `nonce` now.
    pub(super) fn set_chain(&mut self, nonce: u64) {
        let known = self.chain_next.replace(nonce);
        // From there to the next one everything is in flight, as before.
        if known.is_none_or(|known| nonce < known || nonce > self.next) {
            self.move_next(nonce);
        }
    }

    /// Finds the next nonce anew, from `from` on.
    fn move_next(&mut self, from: u64) {
        let mut next = from;
        while self.in_flight.contains_key(&next) {
            let Some(after) = next.checked_add(1) else { break };
            next = after;
        }
        let before = std::mem::replace(&mut self.next, next);
        // In front of the run, or inside it, changes nothing about its end.
        let extends = next.checked_add(1) == Some(before) && self.waiting.contains_key(&next) && self.run_end >= before;
        if (!extends && !(before..=self.run_end).contains(&next)) || self.run_end == next {
            self.run_end = self.end_of_run(next);
        }
    }

    fn end_of_run(&self, from: u64) -> u64 {
        let mut end = from;
        while self.waiting.contains_key(&end) {
            let Some(after) = end.checked_add(1) else { break };
            end = after;
        }
        end
    }

    pub(super) fn wait(&mut self, nonce: u64, id: RequestId, due: Timestamp, is_late: bool) {
        self.waiting.insert(nonce, id);
        self.by_due(is_late).insert((due, nonce));
        if nonce == self.run_end {
            self.run_end = self.end_of_run(nonce);
        }
    }

    /// A waiting request goes: `due` and `is_late` as it was entered.
    pub(super) fn leave(&mut self, nonce: u64, id: RequestId, due: Timestamp, is_late: bool) {
        if self.waiting.get(&nonce) != Some(&id) {
            return;
        }
        self.waiting.remove(&nonce);
        self.by_due(is_late).remove(&(due, nonce));
        if (self.next..self.run_end).contains(&nonce) {
            self.run_end = nonce;
        }
    }

    /// A waiting request is due at another time.
    pub(super) fn postpone(&mut self, nonce: u64, from: (Timestamp, bool), to: (Timestamp, bool)) {
        if self.by_due(from.1).remove(&(from.0, nonce)) {
            self.by_due(to.1).insert((to.0, nonce));
        }
    }

    const fn by_due(&mut self, is_late: bool) -> &mut BTreeSet<(Timestamp, u64)> {
        if is_late { &mut self.late } else { &mut self.fresh }
    }

    pub(super) fn fly(&mut self, nonce: u64, id: RequestId) {
        self.in_flight.insert(nonce, id);
        if self.chain_next.is_some() && nonce == self.next {
            self.move_next(nonce);
        }
    }

    /// A request is in flight no more.
    pub(super) fn land(&mut self, nonce: u64, id: RequestId) {
        if self.in_flight.get(&nonce) != Some(&id) {
            return;
        }
        self.in_flight.remove(&nonce);
        self.in_block.remove(&nonce);
        if self.in_flight.is_empty() {
            self.lane = None;
        }
        if self.chain_next.is_some_and(|chain| chain <= nonce) && nonce < self.next {
            self.move_next(nonce);
        }
    }

    /// The lane that its next request must take, if any.
    pub(super) fn bound(&self) -> Option<LaneId> {
        self.lane.filter(|_| self.in_block.len() < self.in_flight.len())
    }

    /// Whether the executable run is late, and when its most urgent member is due. What waits behind a gap pulls nobody.
    pub(super) fn urgency(&self) -> Option<(bool, Timestamp)> {
        let run = self.next..self.run_end;
        let first = |set: &BTreeSet<(Timestamp, u64)>| set.iter().find(|(_, nonce)| run.contains(nonce)).copied();
        first(&self.fresh).map(|(due, _)| (false, due)).or_else(|| first(&self.late).map(|(due, _)| (true, due)))
    }

    /// Whether something waits behind a nonce that neither waits nor is in flight.
    pub(super) fn is_gapped(&self) -> bool {
        self.chain_next.is_some()
            && self.waiting.range(self.run_end..).next().is_some()
            && !self.in_flight.contains_key(&self.run_end)
    }

    /// The first nonce that nobody has.
    pub(super) fn missing(&self) -> Option<u64> {
        let mut missing = self.chain_next?;
        while self.in_flight.contains_key(&missing) || self.waiting.contains_key(&missing) {
            missing = missing.checked_add(1)?;
        }
        Some(missing)
    }
}

impl Queue {
    /// A request in flight is in a block (or is not any more): while all of a signer's are, the next one may take any lane.
    /// For requests whose nonce a simulation can assume.
    pub fn note_in_block(&mut self, id: RequestId, is_in_block: bool) {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return;
        };
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.in_flight.get(&nonce) != Some(&id) {
            return;
        }
        if is_in_block {
            state.in_block.insert(nonce, ());
        } else {
            state.in_block.remove(&nonce);
        }
        self.refresh((forwarder, signer));
    }

    /// The forwarder's nonce of a signer became known (or advanced). A lower value than before is ignored.
    pub fn set_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.chain_next().is_none_or(|known| known < nonce) {
            state.set_chain(nonce);
            self.refresh((forwarder, signer));
        }
    }

    /// A reorg took the forwarder's nonce of a signer back to `nonce`: what waits from there on may be sent again. Never below
    /// what was consumed for good. Returns whether it is lower now.
    pub fn lower_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return false };
        let nonce = nonce.max(state.consumed);
        if !Protection::LowerUserNonce.is_on() || state.chain_next().is_none_or(|known| known <= nonce) {
            return false;
        }
        state.set_chain(nonce);
        self.refresh((forwarder, signer));
        true
    }

    /// Whether an earlier nonce of the signer is in a transaction that is not settled.
    pub fn has_unsettled_before(&self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        self.signers.get(&(forwarder, signer)).is_some_and(|state| state.in_flight().range(..nonce).next().is_some())
    }

    /// Signers after `after` with requests behind a nonce that nobody has: perhaps it was used without us.
    pub fn gapped_signers(&self, after: Option<(Address, Address)>, limit: usize) -> Vec<(Address, Address)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.gapped.range((from, Bound::Unbounded)).copied().take(limit).collect()
    }

    /// Signers with a nonce that nobody has, and requests waiting behind it, with the first such nonce.
    pub fn gaps(&self) -> Vec<((Address, Address), u64)> {
        let missing = |signer: &(Address, Address)| Some((*signer, self.signers.get(signer)?.missing()?));
        self.gapped.iter().filter_map(missing).collect()
    }

    /// Waiting requests of a signer from `nonce` on.
    pub fn waiting_from(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        let state = self.signers.get(&(forwarder, signer));
        state.map_or_else(Vec::new, |state| state.waiting.range(nonce..).map(|(_, id)| *id).collect())
    }

    /// Waiting requests of a signer with a nonce below its forwarder nonce as known: they can't execute, unless a reorg takes
    /// that nonce back.
    pub fn stale(&self, forwarder: Address, signer: Address) -> Vec<RequestId> {
        let next = self.signers.get(&(forwarder, signer)).and_then(|state| state.chain_next());
        next.map_or_else(Vec::new, |next| self.waiting_below(forwarder, signer, next))
    }

    /// Waiting requests of a signer with a nonce below `nonce`.
    pub fn waiting_below(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(..nonce).map(|(_, id)| *id).collect())
    }

    /// Waiting requests of the same signer with a higher nonce: they can't execute once this one is gone.
    pub fn successors(&self, id: RequestId) -> Vec<RequestId> {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return Vec::new();
        };
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(nonce.saturating_add(1)..).map(|(_, id)| *id).collect())
    }
}
