//! Requests that leave a transaction before it is final.
//!
//! A request that a transaction skipped, or a cancel left out, need not wait for finality: the forward's nonce guards
//! it on chain. Once a majority confirms the block, `replan_after_blocks` deep, and the user's nonce is unused, the
//! request may enter a second transaction (the exception in invariant I3). After a reorg still only one of the two
//! executes the request, and that one ends it.

use alloy_primitives::Address;

use super::{
    dispatch::MAX_BATCH_FAILURES,
    evidence::is_surprise,
    flight::{Flight, Stowed},
    host::Host,
    input::{Command, LeftOut, Notice},
    state::{Sender, batch_hash},
};
use crate::{
    lane::AttemptKind,
    ordered::Set,
    provenance::Decision,
    record::{BatchState, RequestChange, Write},
    request::{Reason, RequestId, Status, outcome::MemberOutcome},
    time::Timestamp,
};

impl<H: Host> Sender<H> {
    /// Queries the nodes about transactions that are deep enough and left members out.
    pub fn look_at_left_out(&mut self, now: Timestamp) {
        let Some(head) = self.head.map(|head| head.number) else { return };
        if self.is_stopping || !H::HAS_MAJORITY {
            return;
        }
        let mut asked = Vec::new();
        for index in 0..self.lanes.len() {
            for (nonce, flight) in &mut self.lanes[index].flights {
                let Some(mined) = &mut flight.mined else { continue };
                if mined.ask_at.is_none_or(|at| head < at) {
                    continue;
                }
                mined.ask_at = None;
                let left_out = flight.members.iter().zip(&mined.outcomes).filter(|(member, outcome)| {
                    // A member that left before is checked again only if evidence against a target is open.
                    **outcome == MemberOutcome::Untouched
                        && member.valid_until() > now
                        && (flight.shown.open().is_some() || !flight.gone.contains(&member.id()))
                });
                let users: Vec<(Address, Address)> = left_out
                    .filter_map(|(member, _)| member.sequence())
                    .map(|(forwarder, signer, _)| (forwarder, signer))
                    .collect();
                if users.is_empty() {
                    continue;
                }
                let deep = mined
                    .receipt
                    .block_number
                    .saturating_add(self.facts.tuning.retry.replan_after_blocks.saturating_sub(1));
                let believed = mined.receipt.clone();
                asked.push(Command::ShowLeftOut { lane: index, nonce: *nonce, believed, deep, users });
            }
        }
        asked.into_iter().for_each(|command| self.command(command));
    }

    /// Releases the members that a transaction left out; each one's share of the cost is drawn from its reservation.
    pub fn on_left_out(&mut self, now: Timestamp, left_out: &LeftOut) {
        let LeftOut { lane: index, nonce, block_hash, is_shown, unused } = left_out;
        let Some(flight) = self.lanes.get_mut(*index).and_then(|lane| lane.flights.get_mut(nonce)) else { return };
        // The lane knows already that the block is gone; only the stowed attempt's bytes are awaited.
        if flight.stowed.as_ref().is_some_and(Stowed::has_commands) {
            return;
        }
        let Some(mined) = flight.mined.as_mut().filter(|mined| mined.receipt.block_hash == *block_hash) else { return };
        if !is_shown {
            // Asked again at the next head.
            mined.ask_at = Some(0);
            return;
        }
        // A nonce without a majority may get one later. Each pause is twice the one before, so few queries run before
        // finality.
        let is_told = |user| unused.iter().any(|(told, _)| *told == user);
        let mut left_out =
            flight.members.iter().zip(&mined.outcomes).filter(|(member, outcome)| {
                **outcome == MemberOutcome::Untouched && !flight.gone.contains(&member.id())
            });
        let is_open = left_out
            .any(|(member, _)| member.sequence().is_some_and(|(forwarder, signer, _)| !is_told((forwarder, signer))));
        if let Some(head) = self.head.map(|head| head.number).filter(|_| is_open) {
            let depth = head.saturating_sub(mined.receipt.block_number).saturating_add(1);
            mined.ask_at = Some(head.saturating_add(depth));
        }
        let (mined, drawn, gone) = (mined.clone(), flight.drawn.clone(), flight.gone.clone());
        let (content, id) = (flight.content(), flight.record.id);
        let shown = flight.shown.clone();
        if let Some(accused) = shown.open() {
            let members = content.members.iter().map(|member| &**member).zip(mined.outcomes.iter().copied());
            let next =
                |forwarder, signer| unused.iter().find(|(user, _)| *user == (forwarder, signer)).map(|(_, next)| *next);
            if accused.has_failed || is_surprise(members, next) {
                self.accuse(now, accused, shown.hash);
                if let Some(flight) = self.lanes[*index].flights.get_mut(nonce) {
                    flight.shown.is_noted = true;
                }
            }
        }
        let kind = mined.kind;
        self.unpend(*index, *nonce);
        let (parts, _) = self.attribute(now, id, &content, &drawn, Some(mined.spent()));
        let reason = match kind {
            AttemptKind::Payload if !mined.receipt.is_success => Reason::BatchFailed,
            AttemptKind::Payload => Reason::SkippedByForwarder,
            AttemptKind::Cancel => Reason::BatchCancelled,
        };
        let is_payload = kind == AttemptKind::Payload;
        let (mut changes, mut decisions, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for ((member, outcome), part) in content.members.iter().zip(&mined.outcomes).zip(parts) {
            let Some((forwarder, signer, own)) = member.sequence() else { continue };
            let request = member.id();
            // A member that left is elsewhere by now, though its user is queried because of another request.
            if gone.contains(&request) {
                continue;
            }
            let is_unused = unused.iter().any(|(user, next)| *user == (forwarder, signer) && *next <= own);
            let failures = self.queue.get(request).map(|entry| entry.batch_failures);
            let may = failures.is_some_and(|failures| match is_payload {
                true => failures + 1 < MAX_BATCH_FAILURES,
                false => !self.is_refused_for_good(request),
            });
            if *outcome != MemberOutcome::Untouched || !is_unused || !may || member.valid_until() <= now {
                continue;
            }
            let drawn_wei = drawn.get(&request).copied().unwrap_or_default();
            let pays_another = self.draw(request, drawn_wei, part);
            back.push((request, part, pays_another));
            if !pays_another {
                continue;
            }
            let mut change = RequestChange::to(request, Status::Queued).because(reason);
            change.batch_failed = is_payload;
            changes.push(change);
            decisions.extend(Self::logged(|| {
                let (batch, reason) = (batch_hash(id), reason.as_str().to_owned());
                [Decision::Requeued { request: request.0, batch, reason }]
            }));
        }
        let targets = self.target_changes();
        if back.is_empty() {
            self.pend(now, *index, *nonce);
            if let Some(write) = targets {
                self.note(vec![write], Vec::new());
            }
            return;
        }
        let lane = &mut self.lanes[*index];
        if let Some(flight) = lane.flights.get_mut(nonce) {
            for (request, part, pays_another) in &back {
                flight.drawn.insert(*request, *part);
                if *pays_another {
                    flight.gone.insert(*request);
                }
            }
        }
        self.pend(now, *index, *nonce);
        for (request, _, _) in back.into_iter().filter(|(_, _, pays_another)| *pays_another) {
            if is_payload && let Some(entry) = self.queue.get_mut(request) {
                entry.batch_failures += 1;
            }
            self.put_back(request);
        }
        self.notice(Notice::Replanned(changes.len()));
        let write = Write::Batch {
            id,
            state: BatchState::Included,
            included_hash: Some(mined.receipt.hash),
            block: Some((mined.receipt.block_number, mined.receipt.block_hash)),
            gas_used: Some(mined.receipt.gas_used),
            cost_wei: Some(mined.receipt.cost_wei()),
            changes,
            bill: None,
            at: now,
        };
        self.note(std::iter::once(write).chain(targets).collect(), decisions);
        self.dispatch(now);
    }

    /// Recomputes and draws the shares of members that left a transaction, which may have moved to another block.
    pub fn draw_for_gone(&mut self, now: Timestamp, index: usize, nonce: u64) {
        if !H::HAS_MAJORITY {
            return;
        }
        let Some(flight) = self.lanes.get(index).and_then(|lane| lane.flights.get(&nonce)) else { return };
        let Some(mined) = flight.mined.clone().filter(|_| !flight.gone.is_empty()) else { return };
        let (content, id, gone) = (flight.content(), flight.record.id, flight.gone.clone());
        let drawn = flight.drawn.clone();
        let (parts, _) = self.attribute(now, id, &content, &drawn, Some(mined.spent()));
        for (request, part) in content.members.iter().map(|member| member.id()).zip(parts) {
            if !gone.contains(&request) || self.queue.get(request).is_none() {
                continue;
            }
            self.draw(request, drawn.get(&request).copied().unwrap_or_default(), part);
            if let Some(flight) = self.lanes[index].flights.get_mut(&nonce) {
                flight.drawn.insert(request, part);
            }
        }
    }

    /// True if another unsettled transaction of ours may have executed the request, or may yet: one that a node kept
    /// although all refused it, or one that a reorg may bring back. The request's outcome is known when that one is
    /// settled.
    pub fn is_entangled(&self, id: RequestId) -> bool {
        self.unsettled()
            .any(|flight| flight.gone.contains(&id) || flight.earlier.iter().any(|content| content.holds(id)))
    }

    /// The subset of `ids` that [is entangled](Self::is_entangled), in one pass over all transactions.
    pub fn entangled_among(&self, ids: &[RequestId]) -> Set<RequestId> {
        if ids.is_empty() {
            return Set::new();
        }
        let asked: Set<RequestId> = ids.iter().copied().collect();
        self.unsettled().flat_map(Flight::bound).filter(|id| asked.contains(id)).collect()
    }

    /// Our unsettled transactions.
    fn unsettled(&self) -> impl Iterator<Item = &Flight> {
        let settling = self.settlements.values().map(|waiting| &waiting.settlement.flight);
        self.lanes.iter().flat_map(|lane| lane.flights.values()).chain(settling)
    }
}
