//! Requests that end without a transaction: withdrawn, expired, or impossible to execute.

use super::{
    flight::Content,
    host::{Books, Host},
    input::{Notice, WriteId},
    state::{Gap, Sender},
};
use crate::{
    lane::Event,
    ordered::{Map, Set},
    protection::Protection,
    record::{RequestChange, Write},
    request::{Reason, RequestId, Status},
    time::Timestamp,
};

/// Most missed promises, or ended requests, in one write: the ledger loads them together.
const MAX_AT_ONCE: usize = 1_000;

/// Reason why a request is not withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelRefusal {
    /// No such request of this tenant.
    Unknown,
    /// It is in a transaction already, or has ended.
    TooLate(Status),
}

impl<H: Host> Sender<H> {
    /// Ends a waiting request at its tenant's wish, once the returned write is durable. Drain [`Self::poll_command`] afterwards.
    ///
    /// # Errors
    /// [`CancelRefusal`].
    pub fn cancel(&mut self, now: Timestamp, tenant: &str, id: RequestId) -> Result<WriteId, CancelRefusal> {
        self.now = now;
        // The tenant's request may have ended since the lookup, and the same signed request may now be another
        // tenant's.
        if self.queue.get(id).is_some_and(|entry| *entry.tenant != *tenant) {
            return Err(CancelRefusal::Unknown);
        }
        if !self.queue.is_waiting(id) {
            let status = if self.queue.get(id).is_some() { Status::Batched } else { Status::Finalized };
            return Err(CancelRefusal::TooLate(status));
        }
        if self.is_entangled(id) {
            return Err(CancelRefusal::TooLate(Status::Broadcast));
        }
        self.end(now, &[(id, Reason::CancelledByOwner)], Status::Cancelled, None).ok_or(CancelRefusal::Unknown)
    }

    /// Ends waiting requests that are no longer valid at `now`.
    pub fn expire(&mut self, now: Timestamp) {
        // Held requests expire at their time, not at the next block, unless their outcome is unknown.
        let is_over = |id: &RequestId| self.queue.get(*id).is_some_and(|entry| entry.request.valid_until() <= now);
        let (mut over, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(is_over);
        self.held = held;
        if std::mem::take(&mut self.is_loosened) {
            for id in std::mem::take(&mut self.undecided) {
                // Nothing else would release its signer's next requests.
                match self.withdrawn.contains(&id) {
                    true => self.forget_withdrawn(id),
                    false => over.extend(self.queue.get(id).map(|_| id)),
                }
            }
        }
        for id in self.set_aside_undecided(now, over) {
            self.put_back(id);
        }
        let missed = self.queue.overdue(now, self.facts.default_within);
        if !missed.is_empty() {
            self.notice(Notice::PromisesMissed(missed.len()));
        }
        for missed in missed.chunks(MAX_AT_ONCE) {
            self.note(vec![Write::Late { requests: missed.to_vec(), at: now }], Vec::new());
        }
        let expired = self.queue.expired(now);
        let expired = self.set_aside_undecided(now, expired);
        if expired.is_empty() {
            return;
        }
        let limits = self.limits(now);
        let is_too_dear = |id: &RequestId| {
            let gas = self.queue.get(*id).map_or(0, |entry| entry.gas.saturating_add(self.facts.params.base_gas()));
            limits.as_ref().is_some_and(|limits| limits.is_too_dear(gas))
        };
        let (dear, late): (Vec<_>, Vec<_>) = expired.into_iter().partition(is_too_dear);
        self.end_waiting(now, &dear, Status::Expired, Reason::AboveNodeFeeCap, None);
        self.end_waiting(now, &late, Status::Expired, Reason::DeadlinePassed, None);
    }

    /// Sets aside those of the expired `ids` whose outcome depends on another transaction of ours, and returns the
    /// others. They are checked again only when a transaction is settled or has left its nonce.
    fn set_aside_undecided(&mut self, now: Timestamp, ids: Vec<RequestId>) -> Vec<RequestId> {
        let entangled = self.entangled_among(&ids);
        let (undecided, free): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| entangled.contains(id));
        undecided.iter().for_each(|id| self.queue.set_aside(*id));
        self.use_up(now, &undecided);
        self.undecided.extend(undecided);
        free
    }

    /// Ends requests that have waited behind a missing nonce for longer than the tenant's gap timeout, for whatever
    /// reason it is missing. Time counts only while heads arrive, and the timeout applies only after the nonce was
    /// looked up again.
    pub fn end_gapped(&mut self, now: Timestamp) {
        let mut gaps = Map::new();
        for (user, missing) in self.queue.gaps() {
            let known = self.gaps.get(&user).copied().filter(|gap| gap.missing == missing);
            let gap = known.unwrap_or(Gap { missing, since: self.healthy, is_seen: false });
            gaps.insert(user, gap);
            if !gap.is_seen {
                continue;
            }
            let waited = self.healthy.saturating_sub(gap.since);
            let (forwarder, signer) = user;
            let mut behind = self.queue.waiting_from(forwarder, signer, missing);
            behind.retain(|id| {
                let Some(entry) = self.queue.get(*id) else { return false };
                let timeout = self.books.gap_timeout(&entry.tenant);
                waited.min(now.since(entry.accepted_at)) >= timeout
            });
            let detail = format!("nonce {missing} is missing (`tenant.gap_timeout_ms`)");
            self.end_waiting(now, &behind, Status::Rejected, Reason::PredecessorFailed, Some(&detail));
        }
        self.gaps = gaps;
    }

    /// Ends waiting requests, and those selected for a transaction that is not planned yet, for a reason; the write is
    /// retried until it is durable.
    pub fn end_waiting(&mut self, now: Timestamp, ids: &[RequestId], to: Status, reason: Reason, detail: Option<&str>) {
        if ids.is_empty() {
            return;
        }
        let entangled = self.entangled_among(ids);
        let (entangled, free): (Vec<_>, Vec<_>) = ids.iter().partition(|id| entangled.contains(*id));
        // Checked again with each block until their outcome is known.
        let is_taken = |id: &RequestId| !self.queue.is_waiting(*id) && Protection::HoldEntangled.is_on();
        self.held.extend(entangled.iter().copied().filter(is_taken));
        self.use_up(now, &entangled);
        let free = self.set_payments_aside(free, to, reason, detail);
        let ended: Vec<_> = free.into_iter().map(|id| (id, reason)).collect();
        for ended in ended.chunks(MAX_AT_ONCE) {
            self.end(now, ended, to, detail);
        }
    }

    /// Fills the vacant nonces under which every node refused these requests. A node may have kept a transaction that
    /// it refused, so only a final transaction at that nonce settles the requests' outcome.
    fn use_up(&mut self, now: Timestamp, ids: &[RequestId]) {
        if ids.is_empty() {
            return;
        }
        let ids: Set<RequestId> = ids.iter().copied().collect();
        let holds = |content: &Content| content.members.iter().any(|member| ids.contains(&member.id()));
        for lane in &mut self.lanes {
            let vacant = lane.flights.iter_mut().filter(|(_, flight)| flight.members.is_empty());
            for (nonce, flight) in vacant {
                // The waiting request pays for the filler.
                let Some(content) = flight.earlier.iter().position(holds) else { continue };
                flight.filled_for.get_or_insert(content);
                lane.machine.handle_event(now, Event::Fill { nonce: *nonce });
            }
        }
    }

    /// Ends waiting requests; resolves to true once that is durable, false if it never will be.
    pub fn end(
        &mut self,
        now: Timestamp,
        ended: &[(RequestId, Reason)],
        to: Status,
        detail: Option<&str>,
    ) -> Option<WriteId> {
        let change = |(id, reason): &(RequestId, Reason)| {
            let change = RequestChange::to(*id, to).because(*reason);
            RequestChange { detail: detail.map(str::to_owned), ..change }
        };
        self.end_as(now, ended.iter().map(change).collect())
    }

    /// Ends waiting requests by these changes, as [`Self::end`].
    pub fn end_as(&mut self, now: Timestamp, mut changes: Vec<RequestChange>) -> Option<WriteId> {
        let mut costs = Vec::with_capacity(changes.len());
        changes.retain(|change| {
            let Some(entry) = self.queue.remove(change.id, false) else { return false };
            let counted_wei = entry.counted_wei(entry.spent_wei);
            costs.push((entry.tenant, change.id, counted_wei));
            true
        });
        for change in &changes {
            self.count_ended(change.to, change.reason, 1);
        }
        self.write(vec![Write::Requests { changes, at: now }], Vec::new(), costs)
    }
}
