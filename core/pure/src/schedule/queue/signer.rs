//! Queue state of one signer.

use crate::{
    ordered::{Map, Set},
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
    pub(super) waiting: Map<u64, RequestId>,
    /// Waiting requests by due time: a later nonce may have less slack, and pulls the earlier ones forward. Late
    /// requests are kept apart.
    fresh: Set<(Timestamp, u64)>,
    late: Set<(Timestamp, u64)>,
    in_flight: Map<u64, RequestId>,
    /// First nonce from the forwarder's on that is not in flight: the next one to batch.
    next: u64,
    /// First nonce from there on without a waiting request: requests behind it can't execute yet.
    run_end: u64,
    /// Nonces in flight that are in a block: successors need not follow them on their lane.
    pub(super) in_block: Table<u64, ()>,
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

    pub(super) const fn in_flight(&self) -> &Map<u64, RequestId> {
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

    const fn by_due(&mut self, is_late: bool) -> &mut Set<(Timestamp, u64)> {
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
        let first = |set: &Set<(Timestamp, u64)>| set.iter().find(|(_, nonce)| run.contains(nonce)).copied();
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
