//! From the composer's choice to a plan that a lane takes.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, U256};

use super::{
    candidate::{Candidate, DataQuote},
    flight::{Flight, SenderLane},
    host::{Books, FeeView, Host},
    input::{Command, Notice, Simulation},
    state::Sender,
};
use crate::{
    chain::{
        BaseFeeRule,
        data_fee::{TxSize, with_margin},
    },
    lane::{Event, LaneError, Plan},
    ordered::{Map, Set},
    policy::Pauses,
    protection::Protection,
    record::{BatchRecord, BatchState},
    request::{
        LaneId, Reason, RequestId, Status, VerifiedRequest,
        gate::{self, RejectRule, SECOND_OPINION_EVERY, Unsure, Word},
        outcome::{MemberOutcome, shares},
        settlement::covers_data,
        simulation::{Ahead, Environment},
    },
    schedule::{ComposeLimits, Selection, Short},
    time::Timestamp,
};

/// Number of whole-transaction failures after which a request is given up.
pub(crate) const MAX_BATCH_FAILURES: u32 = 6;

/// Most batches that a lane skips in one dispatch because no member can be sent, for instance because no reservation
/// covers the current data fee.
const MAX_UNCOVERED: usize = 64;

impl<H: Host> Sender<H> {
    /// Composes what may be sent now; false if nothing changed since the last time. Drain [`Self::poll_command`] after it, and
    /// call it again until it is false.
    pub fn go_on(&mut self) -> bool {
        let Some(now) = self.dispatch_at.take() else { return false };
        self.now = self.now.max(now);
        self.dispatch_now(now);
        true
    }

    /// Requests a dispatch at the end of this turn; several requests in one turn are merged.
    pub const fn dispatch(&mut self, now: Timestamp) {
        self.dispatch_at = Some(now);
    }

    /// Lets every lane that can send select a batch.
    pub fn dispatch_now(&mut self, now: Timestamp) {
        if self.is_stopping || !self.around.may_send {
            return;
        }
        if H::HAS_LEDGER {
            self.forget_waiting_withdrawn();
            self.end_uncertain(now);
        }
        let pauses = self.around.pauses.clone();
        if H::HAS_TENANTS {
            if pauses.stops_chain(self.chain_id()) {
                return;
            }
            self.queue.set_paused(pauses.tenants.keys());
        }
        let Some(limits) = self.limits(now) else { return };
        let head = self.head.map(|head| head.number);
        let has_turns = H::HAS_TENANTS && self.facts.tuning.simulation.simulate;
        if has_turns {
            let lanes = self.lanes.iter().filter(|lane| lane.has_signer).count();
            let (tuning, books) = (&self.facts.tuning, &self.books);
            let patience = (self.facts.spec.block_time() * 4).max(Duration::from_secs(1));
            self.turns.at(now, head, patience, tuning.simulations_at_head(lanes), || books.weights());
        }
        for index in 0..self.lanes.len() {
            let lane = &self.lanes[index];
            if lane.is_composing || !lane.has_signer || lane.is_resting(head) || lane.machine.ready().is_err() {
                continue;
            }
            // No node could simulate its selection at this head; one may at the next.
            if head.is_some() && self.lanes[index].blind_at == head {
                continue;
            }
            if has_turns && self.turns.is_over() {
                if self.queue.waiting() > 0 && self.turns.tell() {
                    self.notice(Notice::SimulationsUsedUp);
                }
                return;
            }
            let lane = self.lanes[index].machine.id();
            let available_wei = self.lanes[index].machine.available_wei();
            let available_wei = Protection::BalanceAware.is_on().then_some(available_wei);
            let limits = ComposeLimits { available_wei, ..limits };
            // A selection that is expired, or not covered at the current data fee, does not cost the lane its turn.
            let mut candidate = None;
            for _ in 0..MAX_UNCOVERED {
                let Some(selection) = self.select(now, lane, &limits, &pauses) else {
                    if let Some(Short { needed_wei, until }) = self.queue.short() {
                        self.lanes[index].machine.handle_event(now, Event::Short { needed_wei, until });
                        self.drain(index);
                    }
                    break;
                };
                let missing = if H::HAS_LEDGER { self.queue.without_payload(&selection.members) } else { Vec::new() };
                if !missing.is_empty() {
                    self.lanes[index].is_composing = true;
                    self.command(Command::Load { lane: index, selection: Box::new(selection), missing });
                    break;
                }
                candidate = self.valid_candidate(now, index, selection);
                if candidate.is_some() {
                    break;
                }
            }
            if let Some(candidate) = candidate {
                self.simulate_or_launch(now, index, candidate);
            }
        }
    }

    /// The candidate for `selection`, whose payloads are in memory, unless a member can't be sent now.
    fn valid_candidate(&mut self, now: Timestamp, index: usize, selection: Selection) -> Option<Candidate> {
        let chosen = self.candidate(now, index, selection);
        self.keep_valid(now, chosen).and_then(|chosen| self.keep_covered(index, chosen))
    }

    fn simulate_or_launch(&mut self, now: Timestamp, index: usize, candidate: Candidate) {
        match self.facts.tuning.simulation.simulate {
            true => self.simulate(index, candidate),
            false => self.launch(now, index, candidate),
        }
    }

    /// Goes on with a selection whose payloads were read. Members whose payload is damaged wait for the next block, and
    /// the others for a new selection.
    pub(crate) fn on_loaded(
        &mut self,
        now: Timestamp,
        index: usize,
        selection: Selection,
        found: Option<Vec<Arc<VerifiedRequest>>>,
    ) {
        let head = self.head.map(|head| head.number);
        let Some(lane) = self.lanes.get_mut(index) else { return };
        lane.is_composing = false;
        let is_read = found.is_some();
        if !is_read {
            // The ledger may be read again by the next head.
            lane.blind_at = head;
        }
        self.dispatch(now);
        found.into_iter().flatten().for_each(|request| self.queue.replace(request));
        let missing = self.queue.without_payload(&selection.members);
        let is_whole = missing.is_empty() && selection.members.iter().all(|id| self.queue.get(*id).is_some());
        if is_whole && !self.is_stopping && self.around.may_send {
            if let Some(candidate) = self.valid_candidate(now, index, selection) {
                self.simulate_or_launch(now, index, candidate);
            }
            return;
        }
        for id in selection.members {
            match is_read && missing.contains(&id) {
                true => self.held.push(id),
                false => self.put_back(id),
            }
        }
    }

    /// Selects a batch for a lane: first from tenants below their share of this head's simulations, else from all.
    fn select(&mut self, now: Timestamp, lane: LaneId, limits: &ComposeLimits, pauses: &Pauses) -> Option<Selection> {
        let satisfied = || self.turns.satisfied(|tenant| self.books.weight(tenant));
        let satisfied = if H::HAS_TENANTS { satisfied() } else { Vec::new() };
        if !satisfied.is_empty() {
            self.queue.set_paused(satisfied.iter().chain(pauses.tenants.keys()));
            let found = self.queue.compose(now, lane, limits, self.fees.outlook());
            self.queue.set_paused(pauses.tenants.keys());
            if found.is_some() {
                return found;
            }
        }
        self.queue.compose(now, lane, limits, self.fees.outlook())
    }

    /// Ends calls that may have been executed without the ledger's knowledge as soon as they are not in flight.
    fn end_uncertain(&mut self, now: Timestamp) {
        if self.uncertain.is_empty() {
            return;
        }
        let waiting: Vec<RequestId> = self.uncertain.iter().copied().filter(|id| self.queue.is_waiting(*id)).collect();
        self.end_waiting(now, &waiting, Status::Rejected, Reason::OutcomeUnknown, None);
        self.uncertain.retain(|id| self.queue.get(*id).is_some());
    }

    /// The candidate for `selection` on lane `index`.
    pub fn candidate(&self, now: Timestamp, index: usize, selection: Selection) -> Candidate {
        let members: Vec<Arc<VerifiedRequest>> =
            selection.members.iter().filter_map(|id| self.queue.get(*id)).map(|entry| entry.request.clone()).collect();
        let mut ahead = Ahead::new();
        let mut seen = Set::new();
        for member in &members {
            if let Some((forwarder, signer, nonce)) = member.sequence()
                && seen.insert((forwarder, signer))
                && self.queue.has_unsettled_before(forwarder, signer, nonce)
            {
                ahead.insert((forwarder, signer), nonce);
            }
        }
        let payload = self.lanes[index].params.payload(selection.key, &members);
        let forecast_ref = self.forecast_ref(now, selection.deadline);
        Candidate {
            selection,
            members,
            payload,
            ahead,
            data_quote: DataQuote::default(),
            forecast_ref,
            used: Vec::new(),
        }
    }

    fn simulate(&mut self, index: usize, candidate: Candidate) {
        self.lanes[index].is_composing = true;
        if H::HAS_TENANTS {
            let entries = candidate.members.iter().filter_map(|member| self.queue.get(member.id()));
            let tenants: Set<Arc<str>> = entries.map(|entry| Arc::clone(&entry.tenant)).collect();
            tenants.iter().for_each(|tenant| self.turns.take(tenant));
        }
        let environment = self.environment(self.now, index, candidate.selection.deadline);
        let model = self.data_fee().unwrap_or_default();
        let block = self.head.map_or(0, |head| head.number);
        let is_wary = gate::needs_second_opinion(self.simulated, self.wary);
        self.simulated = self.simulated.wrapping_add(1);
        self.wary = self.wary.saturating_sub(1);
        let candidate = Box::new(candidate);
        self.command(Command::Simulate { lane: index, candidate, environment, model, block, is_wary });
    }

    /// The expected block environment of a batch with this deadline, as far as it is known.
    fn environment(&self, now: Timestamp, index: usize, deadline: Timestamp) -> Environment {
        let base_fee_per_gas = self.price.map_or(0, |price| price.next_base_fee);
        let priority_fee_per_gas = self.offer(now, deadline).map_or(0, |offer| offer.max_priority_fee_per_gas);
        let balance_wei = self.lanes[index].machine.balance();
        let spec = &self.facts.spec;
        // At least one second later: nodes accept no block whose timestamp is not after its parent's. Arbitrum's
        // contracts see L1's block number.
        let step_s = spec.block_time().as_secs().max(1);
        let sees_number = !matches!(spec.base_fee, BaseFeeRule::Backlog { .. });
        Environment {
            base_fee_per_gas,
            priority_fee_per_gas,
            balance_wei,
            // The simulation sets the parent block.
            parent: None,
            number: self.head.map(|head| head.number.saturating_add(1)).filter(|_| sees_number),
            timestamp_s: self.head.map(|head| head.timestamp_s.saturating_add(step_s)),
            fee_recipient: self.proposer,
        }
    }

    /// Takes a batch back whose simulation was broken off.
    pub fn give_up(&mut self, index: usize, candidate: &Candidate) {
        self.lanes[index].is_composing = false;
        candidate.members.iter().for_each(|member| self.put_back(member.id()));
    }

    /// Takes these requests back that wait for the next block.
    pub fn release(&mut self, ids: &[RequestId]) {
        let (released, held) = std::mem::take(&mut self.held).into_iter().partition(|id| ids.contains(id));
        self.held = held;
        let released: Vec<RequestId> = released;
        released.into_iter().for_each(|id| self.put_back(id));
    }

    /// Earliest time after `now` at which composing may select something; `None` if nothing can be sent before another input.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let is_ready = |lane: &SenderLane| lane.has_signer && !lane.is_composing && lane.machine.ready().is_ok();
        let may_send = self.around.may_send && self.lanes.iter().any(is_ready);
        let limits = self.limits(now).filter(|_| may_send)?;
        self.queue.next_due(now, &limits, self.fees.outlook())
    }

    /// True while something under way needs the chain.
    pub fn is_busy(&self) -> bool {
        let is_busy = |lane: &SenderLane| {
            lane.is_composing || !lane.flights.is_empty() || lane.machine.in_flight() + lane.machine.unfinal() > 0
        };
        self.queue.waiting() > 0
            || !self.held.is_empty()
            || !self.undecided.is_empty()
            || !self.settlements.is_empty()
            || self.lanes.iter().any(is_busy)
    }

    pub(crate) fn on_simulated(&mut self, now: Timestamp, index: usize, candidate: Candidate, found: Simulation) {
        self.lanes[index].is_composing = false;
        for (id, yes, no) in &found.contradicted {
            self.contradicted.insert(*id, (*yes, *no));
        }
        match found.whole {
            Some(_) => {
                // The failing member is not known: the members are retried in smaller batches, down to one.
                self.notice(Notice::SimulationFailed);
                let is_sure = gate::fails_as_a_whole(found.whole_words, self.around.nodes);
                let company = candidate.members.len().div_ceil(2);
                for member in &candidate.members {
                    let id = member.id();
                    if let Some(entry) = self.queue.get_mut(id) {
                        match is_sure {
                            true => entry.batch_failures += 1,
                            // It may be the node's fault, so it counts against no request.
                            false => entry.refusals.company = u32::try_from(company).ok(),
                        }
                    }
                    self.put_back(id);
                }
            }
            None => self.sift(now, index, candidate, &found),
        }
        self.dispatch(now);
    }

    /// Sends the members that would succeed; the others wait for another block, or end.
    fn sift(&mut self, now: Timestamp, index: usize, mut candidate: Candidate, found: &Simulation) {
        if found.words.iter().all(|word| *word == Word::Executes) {
            candidate.used = found.used.clone();
            self.launch_covered(now, index, candidate);
            return;
        }
        let Candidate { mut selection, members, ahead, data_quote, forecast_ref, .. } = candidate;
        let mut used = Vec::with_capacity(members.len());
        let mut broken: Set<(Address, Address)> = Set::new();
        let mut good = Vec::with_capacity(members.len());
        let mut failed = Vec::new();
        let mut unsure = Vec::new();
        for (place, member) in members.into_iter().enumerate() {
            let sequence = member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            if sequence.is_some_and(|sequence| broken.contains(&sequence)) {
                // Its predecessor stays behind, so its own outcome says nothing.
                self.held.push(member.id());
                continue;
            }
            let (reason, detail) = match found.words.get(place) {
                Some(Word::Executes) => {
                    good.push(member);
                    used.push(found.used.get(place).copied().flatten());
                    continue;
                }
                Some(Word::Reverts(detail)) => (Reason::SimulationReverted, detail.clone()),
                Some(Word::Skipped(detail)) => (Reason::InvalidOnChain, detail.clone()),
                Some(Word::Unknown) | None => {
                    broken.extend(sequence);
                    unsure.push(member);
                    continue;
                }
            };
            broken.extend(sequence);
            let against = found.against.get(place).cloned().unwrap_or_default();
            failed.push((member.id(), sequence, reason, detail, against));
        }
        if !failed.is_empty() {
            self.notice(Notice::SimulationFailed);
        }
        if good.is_empty() && failed.is_empty() {
            self.lanes[index].blind_at = self.head.map(|head| head.number);
        }
        for (id, sequence, reason, detail, against) in failed {
            if reason == Reason::InvalidOnChain
                && let Some(signer) = sequence
            {
                // The nonce may have been used elsewhere: read it again before judging.
                self.command(Command::RecheckNonce(signer));
            }
            self.failed_simulation(now, id, &ahead, reason, detail.as_deref(), &against, found.block);
        }
        if let Some(alone) = self.unsimulated(now, unsure) {
            // No later block can take it: it goes alone, before those that still have time.
            good.into_iter().for_each(|member| self.put_back(member.id()));
            good = vec![alone];
            used = vec![None];
        }
        if good.is_empty() {
            return;
        }
        selection.members = good.iter().map(|member| member.id()).collect();
        let payload = self.lanes[index].params.payload(selection.key, &good);
        // A data fee quoted for the larger batch covers the smaller one.
        self.launch_covered(
            now,
            index,
            Candidate { selection, members: good, payload, ahead, data_quote, forecast_ref, used },
        );
    }

    /// Handles members that no node could simulate: they wait until no later block can take them, then end or, if so
    /// configured (`chain.unsimulated`), are sent alone. Returns the one to send alone now.
    fn unsimulated(&mut self, now: Timestamp, unsure: Vec<Arc<VerifiedRequest>>) -> Option<Arc<VerifiedRequest>> {
        let (block, then) = (self.facts.spec.block_time(), self.facts.tuning.simulation.unsimulated);
        let mut alone = None;
        for member in unsure {
            let id = member.id();
            match gate::unsure(now, member.valid_until(), block, then) {
                Unsure::Wait => self.held.push(id),
                Unsure::Send if alone.is_none() => alone = Some(member),
                Unsure::Send => self.put_back(id),
                // Another transaction decides its outcome.
                Unsure::End if self.is_entangled(id) => self.held.push(id),
                Unsure::End => {
                    let successors = self.queue.successors(id);
                    let detail = "no node could simulate it (`chain.unsimulated` is `hold`)";
                    self.end_waiting(now, &[id], Status::Rejected, Reason::NotSimulated, Some(detail));
                    self.end_waiting(now, &successors, Status::Rejected, Reason::PredecessorFailed, None);
                }
            }
        }
        alone
    }

    /// Demotes the node whose simulation a final receipt contradicts.
    pub fn judge_witnesses(&mut self, members: &[Arc<VerifiedRequest>], outcomes: &[MemberOutcome]) {
        if !H::HAS_MAJORITY {
            return;
        }
        for (member, outcome) in members.iter().zip(outcomes) {
            let Some((yes, no)) = self.contradicted.remove(&member.id()) else { continue };
            match outcome {
                MemberOutcome::Executed => self.command(Command::Demote(no)),
                MemberOutcome::Failed => self.command(Command::Demote(yes)),
                // Another transaction may have used the nonce first: that says nothing about either node.
                MemberOutcome::Untouched => {}
            }
        }
        let queue = &self.queue;
        self.contradicted.retain(|id, _| queue.get(*id).is_some());
    }

    /// After a transaction with another outcome than simulated, the next batches are simulated on two nodes.
    pub fn note_surprise(&mut self, outcomes: &[MemberOutcome]) {
        if outcomes.iter().any(|outcome| *outcome != MemberOutcome::Executed) {
            self.wary = SECOND_OPINION_EVERY;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what was asked, and what each node said")]
    fn failed_simulation(
        &mut self,
        now: Timestamp,
        id: RequestId,
        ahead: &Ahead,
        reason: Reason,
        detail: Option<&str>,
        against: &[usize],
        block: u64,
    ) {
        let tuning = &self.facts.tuning;
        let (heads, after) = (tuning.simulation.max_simulations, tuning.simulation.reject_after);
        let rule = RejectRule { nodes: self.around.nodes, heads, after };
        let Some(entry) = self.queue.get_mut(id) else { return };
        let depends =
            entry.request.sequence().is_some_and(|(forwarder, signer, _)| ahead.contains_key(&(forwarder, signer)));
        let mut is_rejected = false;
        if !depends {
            // With predecessors in flight, the state at execution is not the state it was simulated on.
            entry.simulations += 1;
            is_rejected = self.doubts.entry(id).or_default().refused(against, block, now, &rule);
        }
        if is_rejected {
            self.doubts.remove(&id);
            // Held requests of the same user have lost their predecessor, like the waiting ones.
            let signer = entry.request.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            let is_behind = |held: &RequestId| {
                let sequence = self.queue.get(*held).and_then(|entry| entry.request.sequence());
                signer.is_some() && sequence.map(|(forwarder, signer, _)| (forwarder, signer)) == signer
            };
            let (behind, held) = std::mem::take(&mut self.held).into_iter().partition(is_behind);
            self.held = held;
            for held in behind {
                self.put_back(held);
            }
            self.end_waiting(now, &[id], Status::Rejected, reason, detail);
        } else {
            self.held.push(id);
        }
    }

    /// Holds back expired members: they wait only for the outcome of another transaction of ours that may have executed
    /// them. Also holds back members behind these, or behind requests already held or undecided: their predecessor is
    /// in no transaction, so the forwarder would skip them. If any is held back, the others return to the queue for a
    /// new selection.
    pub fn keep_valid(&mut self, now: Timestamp, candidate: Candidate) -> Option<Candidate> {
        let is_over = |member: &VerifiedRequest| member.valid_until() <= now && Protection::Deadline.is_on();
        // The lowest nonce of each signer that is not sent now.
        let mut first: Map<(Address, Address), u64> = Map::new();
        let held = self.held.iter().chain(&self.undecided);
        let held = held.filter_map(|id| self.queue.get(*id)?.request.sequence());
        let over = candidate.members.iter().filter(|member| is_over(member)).filter_map(|member| member.sequence());
        for (forwarder, signer, nonce) in held.chain(over) {
            let first = first.entry((forwarder, signer)).or_insert(nonce);
            *first = nonce.min(*first);
        }
        let stays = |member: &VerifiedRequest| {
            let is_behind = |(forwarder, signer, nonce)| first.get(&(forwarder, signer)).is_some_and(|at| *at < nonce);
            is_over(member) || member.sequence().is_some_and(is_behind)
        };
        if !candidate.members.iter().any(|member| stays(member)) {
            return Some(candidate);
        }
        for member in &candidate.members {
            match stays(member) {
                true => self.held.push(member.id()),
                false => self.put_back(member.id()),
            }
        }
        None
    }

    /// Holds back members whose reservations would not cover their share of the L1 data fee if it rose before the batch
    /// is posted (see [`covers_data`]).
    fn keep_covered(&mut self, index: usize, mut candidate: Candidate) -> Option<Candidate> {
        let model = self.data_fee().unwrap_or_default();
        let data_quote = candidate.data_quote.data_fee;
        let fee_wei = data_quote.unwrap_or_else(|| model.data_fee_bound(&TxSize::of_unsigned(&candidate.payload.data)));
        if fee_wei.is_zero() {
            return Some(candidate);
        }
        let params = &self.lanes[index].params;
        let margin = self.facts.tuning.fees.l1_fee_margin_percent;
        let key = candidate.selection.key;
        let sizes: Vec<TxSize> = candidate.members.iter().map(|member| params.size_alone(key, member)).collect();
        let parts = shares(fee_wei, &sizes.iter().map(|size| size.flz).collect::<Vec<_>>());
        let price = self.price.map_or(0, |price| price.quote.effective_gas_price(price.next_base_fee));
        // The ceiling per gas at which the reservation pays for this part; `None` if it is not covered.
        let ceiling = |member: &VerifiedRequest, size: &TxSize, part: U256| {
            let Some(entry) = self.queue.get(member.id()) else { return Some(u128::MAX) };
            let poster = model.poster_gas(size).padded;
            let gas = self.facts.reserved_gas(entry.gas).saturating_add(poster);
            let left_wei = entry.reserved_wei.saturating_sub(entry.spent_wei);
            if !H::HAS_RESERVATIONS {
                let gas_wei = left_wei.saturating_sub(member.value()).saturating_sub(with_margin(part, margin));
                let ceiling = u128::try_from(gas_wei / U256::from(gas.max(1))).unwrap_or(u128::MAX);
                return (ceiling >= price).then_some(ceiling);
            }
            let gas_wei = U256::from(gas).saturating_mul(U256::from(entry.ceiling_wei_per_gas));
            covers_data(left_wei, gas_wei, member.value(), part, margin).then_some(entry.ceiling_wei_per_gas)
        };
        let mut broken: Set<(Address, Address)> = Set::new();
        let mut kept: Vec<usize> = Vec::new();
        let mut lowest = candidate.selection.ceiling_wei_per_gas;
        for (place, (member, (size, part))) in candidate.members.iter().zip(sizes.iter().zip(parts)).enumerate() {
            let signer = member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            match ceiling(member, size, part).filter(|_| !signer.is_some_and(|signer| broken.contains(&signer))) {
                Some(ceiling) => {
                    lowest = lowest.min(ceiling);
                    kept.push(place);
                }
                None => broken.extend(signer),
            }
        }
        if !H::HAS_RESERVATIONS {
            candidate.selection.ceiling_wei_per_gas = lowest;
        }
        if kept.len() == candidate.members.len() {
            return Some(candidate);
        }
        let waits = candidate.members.len() - kept.len();
        self.notice(Notice::DataFeeWaits(waits as u64));
        self.keep_only(index, candidate, &kept)
    }

    /// Drops members that were withdrawn during the simulation, because the ledger would refuse the whole batch.
    /// Members behind them have lost a predecessor and are held.
    fn keep_unwithdrawn(&mut self, index: usize, candidate: Candidate) -> Option<Candidate> {
        let withdrawn: Vec<RequestId> =
            candidate.selection.members.iter().copied().filter(|id| self.withdrawn.contains(id)).collect();
        if withdrawn.is_empty() {
            return Some(candidate);
        }
        let mut broken: Set<(Address, Address)> = Set::new();
        let mut kept: Vec<usize> = Vec::new();
        for (place, member) in candidate.members.iter().enumerate() {
            let signer = member.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
            if signer.is_some_and(|signer| broken.contains(&signer)) || withdrawn.contains(&member.id()) {
                broken.extend(signer);
            } else {
                kept.push(place);
            }
        }
        withdrawn.into_iter().for_each(|id| self.forget_withdrawn(id));
        self.keep_only(index, candidate, &kept)
    }

    /// The candidate reduced to the members at the ascending indices `kept`. The others wait for the next block.
    fn keep_only(&mut self, index: usize, candidate: Candidate, kept: &[usize]) -> Option<Candidate> {
        let Candidate { mut selection, members, ahead, data_quote, forecast_ref, used, .. } = candidate;
        let mut good = Vec::with_capacity(kept.len());
        let mut gas = Vec::with_capacity(kept.len());
        for (place, member) in members.into_iter().enumerate() {
            if kept.binary_search(&place).is_ok() {
                gas.push(used.get(place).copied().flatten());
                good.push(member);
            } else if self.queue.get(member.id()).is_some() {
                self.held.push(member.id());
            }
        }
        if good.is_empty() {
            return None;
        }
        selection.members = good.iter().map(|member| member.id()).collect();
        let payload = self.lanes[index].params.payload(selection.key, &good);
        Some(Candidate { selection, members: good, payload, ahead, data_quote, forecast_ref, used: gas })
    }

    /// Like [`Self::launch`], after a check with the chain's own data fee.
    fn launch_covered(&mut self, now: Timestamp, index: usize, candidate: Candidate) {
        if let Some(candidate) = self.keep_covered(index, candidate) {
            self.launch(now, index, candidate);
        }
    }

    /// Submits the plan to the lane; if the lane refuses it, the members wait for the next block.
    fn launch(&mut self, now: Timestamp, index: usize, candidate: Candidate) {
        let candidate = if H::HAS_LEDGER { self.keep_unwithdrawn(index, candidate) } else { Some(candidate) };
        let Some(candidate) = candidate else { return };
        let pauses = self.around.pauses.clone();
        let is_paused = |member: &Arc<VerifiedRequest>| {
            self.queue.get(member.id()).is_some_and(|entry| pauses.tenants.contains_key(&*entry.tenant))
        };
        if H::HAS_TENANTS && (pauses.stops_chain(self.chain_id()) || candidate.members.iter().any(is_paused)) {
            // Paused while it was simulated: nothing new starts.
            candidate.members.iter().for_each(|member| self.put_back(member.id()));
            return;
        }
        let Candidate { selection, members, mut payload, data_quote, forecast_ref, used, .. } = candidate;
        for member in &members {
            self.doubts.remove(&member.id());
        }
        let extra_wei = self.charge_data(&mut payload, data_quote);
        let params = &self.lanes[index].params;
        let base_gas = params.schedule.tx_base_gas;
        let weights = members
            .iter()
            .enumerate()
            .map(|(index, member)| match used.get(index).copied().flatten() {
                Some(gas) => {
                    let company_gas = params.company_gas(selection.key, member, members.len());
                    gas.saturating_sub(base_gas).saturating_add(company_gas)
                }
                None => params.member_gas(member),
            })
            .collect();
        let plan = Plan {
            payload: payload.clone(),
            deadline: selection.valid_until,
            ceiling_wei_per_gas: selection.ceiling_wei_per_gas,
            extra_wei,
            is_guarded: members.iter().all(|member| member.is_guarded()),
            is_alone: members.len() == 1,
        };
        let offer = self.offer(now, selection.deadline);
        let tenant = self.tenant_of(&members);
        let lane = &mut self.lanes[index];
        let notice = match lane.machine.submit_offering(now, plan, offer) {
            Ok(id) => {
                let (trigger, count) = (selection.trigger.as_str(), members.len());
                let record = BatchRecord {
                    id,
                    state: BatchState::Signed,
                    to: payload.to,
                    value: payload.value,
                    gas_limit: payload.gas_limit,
                    deadline: selection.valid_until,
                    ceiling_wei_per_gas: selection.ceiling_wei_per_gas,
                    trigger: selection.trigger.as_str().to_owned(),
                    created_at: now,
                    included_hash: None,
                    block: None,
                    gas_used: None,
                    cost_wei: None,
                };
                let before = lane.flights.remove(&id.nonce);
                let (left, earlier) = before.map_or_else(Default::default, |before| (before.left, before.earlier));
                let flight = Flight::new(selection.key, members, weights, record);
                let flight = Flight { forecast_ref, left, earlier, tenant, ..flight };
                lane.flights.insert(id.nonce, flight);
                Some(Notice::Planned { trigger, members: count })
            }
            Err(error) => {
                // Not before the next block: a lane that refuses now will refuse at once again.
                self.held.extend(members.iter().map(|member| member.id()));
                let is_usual = matches!(error, LaneError::Full { .. } | LaneError::Busy { .. });
                (!is_usual).then(|| Notice::NotTaken { lane: lane.machine.id(), error: error.to_string() })
            }
        };
        if let Some(notice) = notice {
            self.notice(notice);
        }
        self.drain(index);
    }
}
