//! One signer's place in line.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use alloy_primitives::Address;

use super::Queue;
use crate::{
    protection::Protection,
    request::{LaneId, RequestId, vehicle::VehicleKey},
    time::Timestamp,
};

#[derive(Debug, Default)]
pub(super) struct SignerState {
    /// The forwarder's nonce, final as far as we know; `None` until somebody looked.
    pub(super) chain_next: Option<u64>,
    /// Nonces below were consumed by what we settled.
    pub(super) consumed: u64,
    pub(super) waiting: BTreeMap<u64, (RequestId, Timestamp)>,
    /// Deadlines of the waiting ones: a later nonce may have less time, and pulls the earlier ones forward.
    pub(super) deadlines: BTreeSet<(Timestamp, u64)>,
    pub(super) in_flight: BTreeMap<u64, RequestId>,
    /// Those in flight that are in a block: whoever comes next need not follow them on their lane.
    pub(super) in_block: BTreeSet<u64>,
    /// The lane that carries the newest ones in flight: successors must follow them there.
    pub(super) lane: Option<LaneId>,
    /// Where it stands in the ready list.
    pub(super) ready: Option<(VehicleKey, Arc<str>, Timestamp, u64)>,
}

impl SignerState {
    /// The nonce that may be batched next.
    pub(super) fn next(&self) -> Option<u64> {
        let mut next = self.chain_next?;
        while self.in_flight.contains_key(&next) {
            next = next.checked_add(1)?;
        }
        Some(next)
    }

    /// The lane that its next request must take, if any.
    pub(super) fn bound(&self) -> Option<LaneId> {
        self.lane.filter(|_| self.in_flight.keys().any(|nonce| !self.in_block.contains(nonce)))
    }

    /// Not in flight any more.
    pub(super) fn land(&mut self, nonce: u64, id: RequestId) {
        if self.in_flight.get(&nonce) == Some(&id) {
            self.in_flight.remove(&nonce);
            self.in_block.remove(&nonce);
        }
    }

    pub(super) fn wait(&mut self, nonce: u64, id: RequestId, deadline: Timestamp) {
        if let Some((_, replaced)) = self.waiting.insert(nonce, (id, deadline)) {
            self.deadlines.remove(&(replaced, nonce));
        }
        self.deadlines.insert((deadline, nonce));
    }

    pub(super) fn leave(&mut self, nonce: u64, id: RequestId) {
        if let Some((_, deadline)) = self.waiting.get(&nonce).filter(|(waiting, _)| *waiting == id) {
            self.deadlines.remove(&(*deadline, nonce));
            self.waiting.remove(&nonce);
        }
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
            state.in_block.insert(nonce);
        } else {
            state.in_block.remove(&nonce);
        }
    }

    /// The forwarder's nonce of a signer became known (or advanced). A lower value than before is ignored.
    pub fn set_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.chain_next.is_none_or(|known| known < nonce) {
            state.chain_next = Some(nonce);
            self.refresh((forwarder, signer));
        }
    }

    /// A reorg took the forwarder's nonce of a signer back to `nonce`: what waits from there on may be sent again. Never below
    /// what was consumed for good. Returns whether it is lower now.
    pub fn lower_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return false };
        let nonce = nonce.max(state.consumed);
        if !Protection::LowerUserNonce.is_on() || state.chain_next.is_none_or(|known| known <= nonce) {
            return false;
        }
        state.chain_next = Some(nonce);
        self.refresh((forwarder, signer));
        true
    }

    /// Whether an earlier nonce of the signer is in a transaction that is not settled.
    pub fn has_unsettled_before(&self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        self.signers.get(&(forwarder, signer)).is_some_and(|state| state.in_flight.range(..nonce).next().is_some())
    }

    /// Signers whose forwarder nonce nobody has looked at.
    pub fn unknown_signers(&self, limit: usize) -> Vec<(Address, Address)> {
        self.signers
            .iter()
            .filter(|(_, state)| state.chain_next.is_none())
            .map(|(signer, _)| *signer)
            .take(limit)
            .collect()
    }

    /// Signers after `after` who wait for a nonce that nobody brought, with nothing in flight: perhaps it was used without us.
    pub fn gapped_signers(&self, after: Option<(Address, Address)>, limit: usize) -> Vec<(Address, Address)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.signers
            .range((from, Bound::Unbounded))
            .filter(|(_, state)| state.chain_next.is_some() && state.ready.is_none() && state.in_flight.is_empty())
            .map(|(signer, _)| *signer)
            .take(limit)
            .collect()
    }

    /// Waiting requests of a signer with a nonce below its forwarder nonce as known: they can't execute, unless a reorg takes
    /// that nonce back.
    pub fn stale(&self, forwarder: Address, signer: Address) -> Vec<RequestId> {
        let next = self.signers.get(&(forwarder, signer)).and_then(|state| state.chain_next);
        next.map_or_else(Vec::new, |next| self.waiting_below(forwarder, signer, next))
    }

    /// Waiting requests of a signer with a nonce below `nonce`.
    pub fn waiting_below(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(..nonce).map(|(_, (id, _))| *id).collect())
    }

    /// Waiting requests of a signer that can't execute because a request with this nonce has ended which never was here: those
    /// with a higher nonce, unless another request has the nonce, or it is used.
    pub fn stranded_behind(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        let Some(state) = self.signers.get(&(forwarder, signer)) else { return Vec::new() };
        let is_held = state.waiting.contains_key(&nonce) || state.in_flight.contains_key(&nonce);
        if is_held || state.chain_next.is_some_and(|next| next > nonce) {
            return Vec::new();
        }
        state.waiting.range(nonce.saturating_add(1)..).map(|(_, (id, _))| *id).collect()
    }

    /// Waiting requests of the same signer with a higher nonce: they can't execute once this one is gone.
    pub fn successors(&self, id: RequestId) -> Vec<RequestId> {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return Vec::new();
        };
        self.signers.get(&(forwarder, signer)).map_or_else(Vec::new, |state| {
            state.waiting.range(nonce.saturating_add(1)..).map(|(_, (id, _))| *id).collect()
        })
    }
}
