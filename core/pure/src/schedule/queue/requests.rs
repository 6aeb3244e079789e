//! Requests that enter, leave and return.

use std::sync::Arc;

use alloy_primitives::{Address, U256};

use super::{
    entry::QueuedRequest,
    limits::WHOLE,
    line::Head,
    state::{Flying, IS_SHARED, Queue},
};
use crate::{
    request::{LaneId, RequestId, vehicle::VehicleKey},
    schedule::company::ArrivalModel,
    time::Timestamp,
};

impl Queue {
    /// Adds a durable request. Idempotent.
    pub fn push(&mut self, entry: QueuedRequest) {
        let id = entry.request.id();
        if self.entries.contains_key(&id) {
            return;
        }
        let sequence = entry.request.sequence();
        self.arrivals
            .get_or_insert_with(VehicleKey::of(&entry.request, self.contracts).group(), ArrivalModel::default)
            .arrived(entry.accepted_at);
        self.unripe.extend(self.unripe_until(&entry).map(|after| (after, id)));
        self.keep(Box::new(entry));
        self.enter(id, sequence);
    }

    /// Block timestamp, seconds, that the chain must pass before it executes the request; `None` if it has.
    pub(super) fn unripe_until(&self, entry: &QueuedRequest) -> Option<u64> {
        entry.request.waits_for_s().filter(|after| *after >= self.chain_time_s)
    }

    /// Lets requests go that wait for a block's time: the newest block has the timestamp `time_s`, seconds.
    pub fn ripen(&mut self, time_s: u64) {
        self.chain_time_s = self.chain_time_s.max(time_s);
        while let Some(&(after, id)) = self.unripe.first().filter(|(after, _)| *after < self.chain_time_s) {
            self.unripe.remove(&(after, id));
            self.place(Head::Request(id));
        }
    }

    /// Adds requests that a restart finds in one pending transaction. They occupy the lane as if composed: one slot
    /// together, or, if larger and once a block's gas is known, their share of it.
    pub fn push_in_flight(&mut self, members: Vec<impl Into<Box<QueuedRequest>>>, lane: LaneId, base_gas: u64) {
        self.transactions += 1;
        let number = self.transactions;
        let base = base_gas / (members.len() as u64).max(1);
        let mut gas_of = Vec::with_capacity(members.len());
        for entry in members {
            let entry = entry.into();
            let id = entry.request.id();
            self.fly(&entry, lane);
            self.watch_due(&entry);
            gas_of.push((id, entry.gas.saturating_add(base)));
            self.occupy(id, entry.tenant.clone(), Flying { lane, part: 0, number });
            self.keep(entry);
        }
        if IS_SHARED {
            self.weigh(number, &gas_of, |_| WHOLE);
            self.unsized_gas.push((number, gas_of));
        }
    }

    /// Adds a request that a restart finds in a block. Its promise was kept or missed before.
    pub fn push_in_block(&mut self, entry: Box<QueuedRequest>, lane: LaneId) {
        self.fly(&entry, lane);
        self.keep(entry);
    }

    /// Orders the signer's next requests behind it, on the same lane.
    pub(super) fn fly(&mut self, entry: &QueuedRequest, lane: LaneId) {
        if let Some((forwarder, signer, nonce)) = entry.request.sequence() {
            let state = self.signer((forwarder, signer));
            state.fly(nonce, entry.request.id());
            state.lane = Some(lane);
        }
    }

    fn enter(&mut self, id: RequestId, sequence: Option<(Address, Address, u64)>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if IS_SHARED && self.max_payload_bytes.is_some_and(|most| self.payload_bytes > most) {
            self.payload_bytes = self.payload_bytes.saturating_sub(entry.payload_bytes());
            if !entry.request.is_outline() {
                entry.request = Arc::new(entry.request.outline());
            }
        }
        let (due, is_late) = (entry.due, entry.is_late);
        self.valid.insert((entry.request.valid_until(), id));
        if !is_late {
            self.tenants.get_or_insert_with(entry.tenant.clone(), Box::default).fresh.add(due);
        }
        if !is_late || due < entry.request.valid_until() {
            self.dues.insert((due, id));
        }
        match sequence {
            Some((forwarder, signer, nonce)) => {
                self.signer((forwarder, signer)).wait(nonce, id, due, is_late);
                self.refresh((forwarder, signer));
            }
            None => self.place(Head::Request(id)),
        }
    }

    /// Updates the counts for a request that no longer waits.
    pub(super) fn leave(&mut self, tenant: &Arc<str>, due: Timestamp, is_late: bool) {
        if !is_late && let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.fresh.take(due);
        }
    }

    /// Updates a request's spending after a charge or refund: `spent_wei` of its reservation, and the gas price that
    /// the rest covers.
    pub fn reprice(&mut self, id: RequestId, spent_wei: U256, ceiling_wei_per_gas: u128) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.spent_wei, entry.ceiling_wei_per_gas) = (spent_wei, ceiling_wei_per_gas);
        // It may have to enter or leave the priced-out set.
        match entry.request.sequence() {
            Some((forwarder, signer, _)) => self.place(Head::Signer((forwarder, signer))),
            None => self.place(Head::Request(id)),
        }
    }

    /// Removes a request that has ended, waiting or in flight.
    ///
    /// `consumed`: its nonce at the forwarder is used up, so the signer continues with the next.
    pub fn remove(&mut self, id: RequestId, consumed: bool) -> Option<QueuedRequest> {
        let entry = self.entries.remove(&id)?;
        self.payload_bytes = self.payload_bytes.saturating_sub(entry.payload_bytes());
        if self.valid.remove(&(entry.request.valid_until(), id)) {
            self.leave(&entry.tenant, entry.due, entry.is_late);
        }
        self.dues.remove(&(entry.due, id));
        if let Some(after) = entry.request.waits_for_s() {
            self.unripe.remove(&(after, id));
        }
        self.vacate(id, &entry.tenant);
        match entry.request.sequence() {
            Some((forwarder, signer, nonce)) => {
                if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                    state.leave(nonce, id, entry.due, entry.is_late);
                    if consumed {
                        let after = nonce.saturating_add(1);
                        state.set_chain(state.chain_next().unwrap_or(0).max(after));
                        state.consumed = state.consumed.max(after);
                    }
                    state.land(nonce, id);
                    self.refresh((forwarder, signer));
                }
            }
            None => self.place(Head::Request(id)),
        }
        Some(*entry)
    }

    /// The request is in a block: its promise was kept or missed before, and its transaction's place on the lane is
    /// free.
    pub fn landed(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (due, tenant) = (entry.due, entry.tenant.clone());
        self.dues.remove(&(due, id));
        self.vacate(id, &tenant);
    }

    /// Its transaction is in a block but did not execute it: the place on the lane is free, its promise is still open.
    pub fn passed_over(&mut self, id: RequestId) {
        if let Some(tenant) = self.entries.get(&id).map(|entry| entry.tenant.clone()) {
            self.vacate(id, &tenant);
        }
    }

    /// Returns a member of a transaction that was not sent to the waiting requests.
    pub fn put_back(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        if self.valid.contains(&(entry.request.valid_until(), id)) {
            return;
        }
        let (sequence, tenant) = (entry.request.sequence(), entry.tenant.clone());
        self.vacate(id, &tenant);
        // Enter it before it leaves the requests in flight: so the end of its signer's run stays known.
        self.enter(id, sequence);
        if let Some((forwarder, signer, nonce)) = sequence
            && let Some(state) = self.signers.get_mut(&(forwarder, signer))
        {
            state.land(nonce, id);
            self.refresh((forwarder, signer));
        }
    }

    /// Takes a waiting request out of the queue's order, until it is [put back](Self::put_back) or
    /// [removed](Self::remove).
    pub fn set_aside(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (due, is_late, tenant) = (entry.due, entry.is_late, entry.tenant.clone());
        let sequence = entry.request.sequence();
        if !self.valid.remove(&(entry.request.valid_until(), id)) {
            return;
        }
        self.leave(&tenant, due, is_late);
        match sequence {
            Some((forwarder, signer, nonce)) => {
                if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                    // In this order the end of its signer's run stays known.
                    state.fly(nonce, id);
                    state.leave(nonce, id, due, is_late);
                }
                self.refresh((forwarder, signer));
            }
            None => self.place(Head::Request(id)),
        }
    }
}
