//! Queue state of one signer.

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
    /// The forwarder's nonce, final as far as known; `None` until it was looked up.
    chain_next: Option<u64>,
    /// Lower bound of the nonce: all below were consumed by settled transactions.
    pub(super) consumed: u64,
    pub(super) waiting: BTreeMap<u64, RequestId>,
    /// Waiting requests by due time: a later nonce may have less slack, and pulls the earlier ones forward. Late
    /// requests are kept apart.
    fresh: BTreeSet<(Timestamp, u64)>,
    late: BTreeSet<(Timestamp, u64)>,
    in_flight: BTreeMap<u64, RequestId>,
    /// First nonce from the forwarder's on that is not in flight: the next one to batch.
    next: u64,
    /// First nonce from there on without a waiting request: requests behind it can't execute yet.
    run_end: u64,
    /// Nonces in flight that are in a block: successors need not follow them on their lane.
    in_block: Table<u64, ()>,
    /// The lane of the newest requests in flight: successors must follow them there.
    pub(super) lane: Option<LaneId>,
}

impl SignerState {
    pub(super) const fn chain_next(&self) -> Option<u64> {
        self.chain_next
    }

    /// The next nonce to batch; `None` while the forwarder's nonce is unknown.
    pub(super) fn next(&self) -> Option<u64> {
        self.chain_next.map(|_| self.next)
    }

    pub(super) const fn in_flight(&self) -> &BTreeMap<u64, RequestId> {
        &self.in_flight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Sets the forwarder's nonce.
    pub(super) fn set_chain(&mut self, nonce: u64) {
        let known = self.chain_next.replace(nonce);
        // From there to `next` everything is in flight, as before.
        if known.is_none_or(|known| nonce < known || nonce > self.next) {
            self.move_next(nonce);
        }
    }

    /// Searches the next nonce again, from `from` on.
    fn move_next(&mut self, from: u64) {
        let mut next = from;
        while self.in_flight.contains_key(&next) {
            let Some(after) = next.checked_add(1) else { break };
            next = after;
        }
        let before = std::mem::replace(&mut self.next, next);
        // A move to the nonce right before the run, or inside it, does not change the run's end.
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

    /// Removes a waiting request; `due` and `is_late` as entered.
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

    /// Changes a waiting request's due time.
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

    /// Removes a request from those in flight.
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

    /// The lane that its next request must take; `None` if any.
    pub(super) fn bound(&self) -> Option<LaneId> {
        self.lane.filter(|_| self.in_block.len() < self.in_flight.len())
    }

    /// (late, earliest due time) of the executable run. Requests behind a gap pull nothing forward.
    pub(super) fn urgency(&self) -> Option<(bool, Timestamp)> {
        let run = self.next..self.run_end;
        let first = |set: &BTreeSet<(Timestamp, u64)>| set.iter().find(|(_, nonce)| run.contains(nonce)).copied();
        first(&self.fresh).map(|(due, _)| (false, due)).or_else(|| first(&self.late).map(|(due, _)| (true, due)))
    }

    /// True if a request waits behind a missing nonce, neither waiting nor in flight.
    pub(super) fn is_gapped(&self) -> bool {
        self.chain_next.is_some()
            && self.waiting.range(self.run_end..).next().is_some()
            && !self.in_flight.contains_key(&self.run_end)
    }

    /// The first missing nonce.
    pub(super) fn missing(&self) -> Option<u64> {
        let mut missing = self.chain_next?;
        while self.in_flight.contains_key(&missing) || self.waiting.contains_key(&missing) {
            missing = missing.checked_add(1)?;
        }
        Some(missing)
    }
}

impl Queue {
    /// Records whether a request in flight is in a block: while all of a signer's are, the next one may take any lane.
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

    /// Records a signer's nonce at the forwarder. A lower value than before is ignored.
    pub fn set_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.chain_next().is_none_or(|known| known < nonce) {
            state.set_chain(nonce);
            self.refresh((forwarder, signer));
        }
    }

    /// Lowers a signer's nonce at the forwarder to `nonce` after a reorg: requests waiting from there on may be sent
    /// again. Never below the nonces consumed for good. Returns true if it was lowered.
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

    /// True if an earlier nonce of the signer is in an unsettled transaction.
    pub fn has_unsettled_before(&self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        self.signers.get(&(forwarder, signer)).is_some_and(|state| state.in_flight().range(..nonce).next().is_some())
    }

    /// Signers after `after` with requests behind a missing nonce, which may have been used outside the relayer.
    pub fn gapped_signers(&self, after: Option<(Address, Address)>, limit: usize) -> Vec<(Address, Address)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.gapped.range((from, Bound::Unbounded)).copied().take(limit).collect()
    }

    /// Signers with requests behind a missing nonce, with the first such nonce.
    pub fn gaps(&self) -> Vec<((Address, Address), u64)> {
        let missing = |signer: &(Address, Address)| Some((*signer, self.signers.get(signer)?.missing()?));
        self.gapped.iter().filter_map(missing).collect()
    }

    /// Waiting requests of a signer from `nonce` on.
    pub fn waiting_from(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        let state = self.signers.get(&(forwarder, signer));
        state.map_or_else(Vec::new, |state| state.waiting.range(nonce..).map(|(_, id)| *id).collect())
    }

    /// Waiting requests of a signer below its known forwarder nonce: they can't execute, unless a reorg lowers that
    /// nonce.
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

    /// Waiting requests of the same signer with a higher nonce: they can't execute once this one is dropped.
    pub fn successors(&self, id: RequestId) -> Vec<RequestId> {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return Vec::new();
        };
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(nonce.saturating_add(1)..).map(|(_, id)| *id).collect())
    }
}
