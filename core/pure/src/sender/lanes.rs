//! Carries out what a lane commands.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes, U256};

use super::{
    flight::{Content, Flight, Mined, attempts_of},
    host::{Books, Host},
    input::{Command, Notice},
    settlement::Settlement,
    state::{Sender, batch_hash},
};
#[cfg(feature = "simulation")]
use crate::protection::Protection;
use crate::{
    chain::RpcErrorClass,
    lane::{AttemptKey, AttemptKind, Command as LaneCommand, Event, LaneAlert, TxToSign},
    ordered::Map,
    policy::Claim,
    provenance::Decision,
    record::{
        AttemptRecord, BatchMember, BatchRecord, BatchState, Durable, PlannedBatch, RequestChange, Tracked, Write,
        WriteOutcome,
    },
    request::{
        Reason, RequestId, Status, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
        vehicle::VehicleKey,
    },
    time::Timestamp,
};

/// End reason of a request that nodes refuse with `class`; `None` if the class says nothing about the request.
const fn reason_of(class: RpcErrorClass) -> Option<Reason> {
    match class {
        RpcErrorClass::Underpriced => Some(Reason::BelowNodeMinimum),
        RpcErrorClass::InvalidFees => Some(Reason::AboveNodeFeeCap),
        class if class.is_permanent() => Some(Reason::RefusedByNodes),
        _ => None,
    }
}

/// A key that does not sign is spared for at most 2 to this power heads.
const MAX_REST_DOUBLINGS: u32 = 6;

impl<H: Host> Sender<H> {
    /// Executes the lane's commands until there are none left.
    pub fn drain(&mut self, index: usize) {
        while let Some(command) = self.lanes.get_mut(index).and_then(|lane| lane.machine.poll_command()) {
            self.obey(index, command);
        }
    }

    /// Turns a command of lane `index` into commands of the sender.
    pub fn obey(&mut self, index: usize, command: LaneCommand) {
        let now = self.now;
        let Some(command) = self.wait_for_bytes(index, command) else { return };
        match command {
            LaneCommand::Sign { key, tx } => {
                if self.lanes[index].has_signer {
                    self.command(Command::Sign { lane: index, key, tx: Box::new(tx) });
                } else {
                    self.abandon(now, index, key, Vec::new(), false);
                }
            }
            LaneCommand::Persist { key } => self.persist(now, index, key),
            LaneCommand::Broadcast { key } => {
                let Some(attempt) = self.lanes[index].durable.get(&key).cloned() else {
                    unreachable!("the machine broadcasts only what was persisted");
                };
                if self.is_stopping {
                    return;
                }
                if let Some(head) = self.head {
                    let judged = self.pricing.sent(index, key, attempt.get(), head.number, now);
                    judged.into_iter().for_each(|notice| self.notice(notice));
                }
                let until = self.lanes[index].flights.get(&key.nonce).map(|flight| flight.record.deadline);
                let until = until.filter(|_| attempt.get().kind == AttemptKind::Payload);
                let gas_limit = self.gas_limit(index, key, attempt.get().kind);
                self.command(Command::Broadcast { lane: index, key, attempt, gas_limit, until });
            }
            LaneCommand::Poll { nonce, hashes, purpose } => {
                let at_block = self.head.map_or(0, |head| head.number);
                let final_block = self.head.and_then(|head| head.final_block);
                self.command(Command::FindReceipts { lane: index, nonce, hashes, purpose, at_block, final_block });
            }
            LaneCommand::ReportBroadcast { nonce } => {
                self.report(now, index, nonce, BatchState::Broadcast, Status::Broadcast)
            }
            LaneCommand::ReportUnincluded { nonce } => {
                self.unincluded(now, index, nonce);
            }
            LaneCommand::ReportIncluded { nonce, kind, receipt } => {
                let outcomes = self.lanes[index].outcomes(nonce, kind, &receipt);
                self.included(now, index, nonce, kind, *receipt, outcomes);
                self.stow(index, nonce);
            }
            LaneCommand::ReportFinal { nonce, kind, receipt } => {
                let outcomes = self.lanes[index].outcomes(nonce, kind, &receipt);
                let id = self.lanes[index].batch_id(nonce);
                let mined = self.lanes[index].index_of(nonce, receipt.hash);
                let flight = self.lanes[index].flights.get(&nonce);
                let carried = flight.zip(mined).and_then(|(flight, mined)| flight.content_before(mined));
                let is_present = kind == AttemptKind::Payload && carried.is_none();
                self.show_final(now, index, nonce, is_present, &receipt, &outcomes);
                self.lanes[index].forget(nonce);
                self.command(Command::NonceClosed { lane: index, nonce });
                self.pricing.forget(index, nonce);
                if let Some(flight) = self.lanes[index].flights.remove(&nonce) {
                    // A filler in a vacant nonce belongs to the content for which it was sent, else to the last one.
                    let is_vacant = kind == AttemptKind::Cancel && flight.members.is_empty();
                    let last = flight.filled_for.or_else(|| flight.earlier.len().checked_sub(1));
                    let earlier = carried.filter(|_| kind == AttemptKind::Payload).or(last.filter(|_| is_vacant));
                    if kind == AttemptKind::Payload && earlier.is_none() {
                        self.judge_witnesses(&flight.members, &outcomes);
                    }
                    let (kind, receipt) = (Some(kind), Some(receipt));
                    let culprit = None;
                    self.settle(now, Settlement { id, flight, kind, receipt, outcomes, culprit, earlier });
                }
            }
            LaneCommand::ReportLost { nonce } => {
                let id = self.lanes[index].batch_id(nonce);
                self.notice(Notice::NonceLost(id));
                self.take_back(index, nonce);
                self.lanes[index].forget(nonce);
                self.command(Command::NonceClosed { lane: index, nonce });
                self.pricing.forget(index, nonce);
                if let Some(flight) = self.lanes[index].flights.remove(&nonce) {
                    if let Some((stranger, _)) = &flight.stranger {
                        self.tell_stranger(id, stranger);
                    }
                    let outcomes = vec![MemberOutcome::Untouched; flight.members.len()];
                    let (kind, receipt, culprit, earlier) = (None, None, None, None);
                    self.settle(now, Settlement { id, flight, kind, receipt, outcomes, culprit, earlier });
                }
            }
            LaneCommand::ReportRefused { nonce, class } => self.refused(now, index, nonce, class),
            LaneCommand::Alert(alert) => self.alert(index, alert),
        }
    }

    /// The lane's key signed an attempt, or can't.
    pub fn on_signed(
        &mut self,
        now: Timestamp,
        index: usize,
        key: AttemptKey,
        tx: TxToSign,
        signed: Option<(B256, Bytes)>,
    ) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        if !lane.machine.holds(key.nonce) {
            // Its nonce is final already.
            return;
        }
        let Some((hash, raw)) = signed else { return self.on_unsigned(now, index, key) };
        (lane.unsigned, lane.rests_until) = (0, None);
        let record = AttemptRecord {
            batch: lane.batch_id(key.nonce),
            index: key.index,
            kind: tx.kind,
            fees: tx.fees,
            hash,
            raw,
            created_at: now,
        };
        lane.signed.insert(key, record);
        self.lane_event(now, index, Event::Signed { key, hash });
    }

    /// The lane's key did not sign. It is spared for a head, then for two, four and so on, while other lanes send what it was to
    /// send (invariant I14).
    fn on_unsigned(&mut self, now: Timestamp, index: usize, key: AttemptKey) {
        let head = self.head.map(|head| head.number);
        let lane = &mut self.lanes[index];
        lane.unsigned = lane.unsigned.saturating_add(1);
        let heads = 1 << (lane.unsigned - 1).min(MAX_REST_DOUBLINGS);
        lane.rests_until = head.map(|head| head.saturating_add(heads));
        let has_other = self.lanes.iter().any(|lane| lane.has_signer && !lane.is_resting(head));
        self.abandon(now, index, key, Vec::new(), has_other);
        self.dispatch(now);
    }

    /// An attempt was not signed, or not committed: nothing of it is durable. Members in `ended` had ended before. `at_once`:
    /// the others need not wait for the next block.
    fn abandon(&mut self, now: Timestamp, index: usize, key: AttemptKey, ended: Vec<RequestId>, at_once: bool) {
        self.is_loosened = true;
        let lane = &mut self.lanes[index];
        lane.machine.handle_event(now, Event::Abandoned { key });
        if lane.flights.get(&key.nonce).is_some_and(|flight| !flight.is_planned)
            && let Some(flight) = lane.flights.remove(&key.nonce)
        {
            if lane.machine.holds(key.nonce) {
                // The nonce is as vacant as before.
                lane.flights.insert(key.nonce, flight.vacated());
            }
            // Nothing of it is durable, so its members are free again. If some had ended, the others go on at
            // once without them; otherwise they wait for the next block, or a lasting refusal would be retried
            // in a loop.
            let goes_on = at_once || !ended.is_empty();
            ended.into_iter().for_each(|id| self.forget_withdrawn(id));
            for id in flight.ids() {
                match goes_on {
                    true => self.put_back(id),
                    false => self.held.push(id),
                }
            }
        }
    }

    /// Records the evidence of a final transaction, unless its inclusion recorded it before. `is_present`: true if it
    /// carries the nonce's present members.
    fn show_final(
        &mut self,
        now: Timestamp,
        index: usize,
        nonce: u64,
        is_present: bool,
        receipt: &TxReceipt,
        outcomes: &[MemberOutcome],
    ) {
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        if !is_present {
            self.take_back(index, nonce);
        } else if flight.shown.hash != receipt.hash {
            self.show(now, index, nonce, outcomes, receipt);
        }
    }

    fn gas_limit(&self, index: usize, key: AttemptKey, kind: AttemptKind) -> u64 {
        let flight = self.lanes[index].flights.get(&key.nonce);
        match kind {
            AttemptKind::Payload => flight.map_or(0, |flight| flight.record.gas_limit),
            AttemptKind::Cancel => self.facts.tuning.lane.cancel_gas,
        }
    }

    fn persist(&mut self, now: Timestamp, index: usize, key: AttemptKey) {
        let next_base_fee = self.price.map_or(0, |price| price.next_base_fee);
        let lane = &mut self.lanes[index];
        let Some(attempt) = lane.signed.get(&key).cloned() else { return };
        let id = lane.batch_id(key.nonce);
        let sender = lane.machine.id().sender;
        let flight = lane.flights.entry(key.nonce).or_insert_with(|| {
            let record = BatchRecord {
                id,
                state: BatchState::Signed,
                to: sender,
                value: U256::ZERO,
                gas_limit: 21_000,
                deadline: Timestamp(i64::MAX as u64),
                ceiling_wei_per_gas: attempt.fees.max_fee_per_gas,
                trigger: "filler".to_owned(),
                created_at: now,
                included_hash: None,
                block: None,
                gas_used: None,
                cost_wei: None,
            };
            // A filler for a nonce gap: a batch without members.
            Flight::new(VehicleKey::ALONE, Vec::new(), Vec::new(), record)
        });
        let (write, decisions) = if !flight.is_planned {
            let forecast_ref = flight.forecast_ref;
            let sent = || Decision::Sent { batch: batch_hash(id), attempt: attempt.hash };
            let planned = || Decision::Planned {
                batch: batch_hash(id),
                chain_id: id.lane.chain_id,
                sender: id.lane.sender,
                nonce: id.nonce,
                members: flight.ids().map(|id| id.0).collect(),
                reason: flight.record.trigger.clone(),
                base_fee_wei_per_gas: next_base_fee,
                threshold_wei_per_gas: forecast_ref.map(|forecast_ref| forecast_ref.threshold),
                max_fee_wei_per_gas: attempt.fees.max_fee_per_gas,
                max_priority_fee_wei_per_gas: attempt.fees.max_priority_fee_per_gas,
                gas_limit_gas: flight.record.gas_limit,
                model: forecast_ref.map(|forecast_ref| forecast_ref.model),
                inputs: forecast_ref.map(|forecast_ref| forecast_ref.inputs),
            };
            let decisions = Self::logged(|| [planned(), sent()]);
            let with_gas = |(index, id)| BatchMember { id, own_gas: flight.weights.get(index).copied() };
            let members = flight.ids().enumerate().map(with_gas).collect();
            let (batch, left) = (flight.record.clone(), flight.left.clone());
            let content = PlannedBatch { batch, members, attempt, left, at: now };
            (Write::Plan(Box::new(content)), decisions)
        } else {
            let before = AttemptKey { nonce: key.nonce, index: key.index - 1 };
            let replaced = lane.durable.get(&before).map(|attempt| (attempt.get().hash, attempt.get().fees));
            let is_priced_out = replaced.is_some_and(|(_, fees)| fees.max_fee_per_gas < next_base_fee);
            let replaced = replaced.map_or(attempt.hash, |(hash, _)| hash);
            let decision = || match attempt.kind {
                AttemptKind::Payload => Decision::Bumped {
                    batch: batch_hash(id),
                    replaced,
                    attempt: attempt.hash,
                    reason: if is_priced_out { "base_fee" } else { "stuck" }.to_owned(),
                    max_fee_wei_per_gas: attempt.fees.max_fee_per_gas,
                    max_priority_fee_wei_per_gas: attempt.fees.max_priority_fee_per_gas,
                },
                AttemptKind::Cancel => {
                    let reason = match flight.record.deadline <= now {
                        true => "deadline",
                        false if flight.members.is_empty() => "vacant",
                        false if next_base_fee > flight.record.ceiling_wei_per_gas => "priced_out",
                        false => "refused",
                    };
                    Decision::Cancelling { batch: batch_hash(id), attempt: attempt.hash, reason: reason.to_owned() }
                }
            };
            let decisions = Self::logged(|| [decision()]);
            self.notice(Notice::replacing(id, &attempt));
            (Write::Attempt(Box::new(attempt)), decisions)
        };
        #[cfg(feature = "simulation")]
        self.pretend_persisted(now, index, key);
        if let Some(id) = self.write(vec![write], decisions, Vec::new()) {
            self.committing.insert(id, (index, key));
        }
    }

    /// Without [`Protection::PersistFirst`], treats the attempt as persisted before it is.
    #[cfg(feature = "simulation")]
    fn pretend_persisted(&mut self, now: Timestamp, index: usize, key: AttemptKey) {
        let lane = &mut self.lanes[index];
        if !Protection::PersistFirst.is_on()
            && let Some(attempt) = lane.signed.get(&key).cloned()
        {
            lane.durable.insert(key, Durable::committed(attempt));
            lane.machine.handle_event(now, Event::Persisted { key });
        }
    }

    pub(crate) fn on_persisted(
        &mut self,
        now: Timestamp,
        index: usize,
        key: AttemptKey,
        outcomes: Option<Vec<Tracked>>,
    ) {
        let Some(outcomes) = outcomes else {
            // The journal is gone, so the relay is shutting down: whether the write is durable is unknown, and nothing
            // is sent.
            return;
        };
        let (outcome, durable) = outcomes.into_iter().next().unzip();
        let durable = durable.flatten();
        let ended = match outcome.map(Durable::into_inner) {
            // Withdrawn through another instance before this one learned of it.
            Some(WriteOutcome::MembersEnded(ended)) => ended,
            outcome => {
                if durable.is_none() {
                    let batch = self.lanes[index].batch_id(key.nonce);
                    self.notice(Notice::AttemptRefused { batch, outcome });
                }
                Vec::new()
            }
        };
        let lane = &mut self.lanes[index];
        lane.signed.remove(&key);
        match durable {
            Some(attempt) => {
                lane.durable.insert(key, attempt);
                if let Some(flight) = lane.flights.get_mut(&key.nonce) {
                    flight.is_planned = true;
                }
                lane.machine.handle_event(now, Event::Persisted { key });
            }
            None => self.abandon(now, index, key, ended, false),
        }
        self.drain(index);
        self.dispatch(now);
    }

    /// Writes a batch's new state and moves all its members to `status`.
    fn report(&mut self, now: Timestamp, index: usize, nonce: u64, state: BatchState, status: Status) {
        let lane = &mut self.lanes[index];
        let id = lane.batch_id(nonce);
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        flight.record.state = state;
        let changes = flight.still_in().map(|member| RequestChange::to(member.id(), status)).collect();
        let write = Write::Batch {
            id,
            state,
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: None,
            changes,
            bill: None,
            at: now,
        };
        self.note(vec![write], Vec::new());
    }

    /// Handles a nonce whose attempts every node refused, or whose attempts were never sent: its members are free at
    /// once. If the batch's size may be the cause, they return in batches of at most half that size; a request that is
    /// permanently refused while alone ends.
    fn refused(&mut self, now: Timestamp, index: usize, nonce: u64, class: Option<RpcErrorClass>) {
        self.pricing.forget(index, nonce);
        self.is_loosened = true;
        let max_refusals = self.facts.tuning.retry.max_refusals;
        let lane = &mut self.lanes[index];
        let id = lane.batch_id(nonce);
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        let members = std::mem::take(&mut flight.members);
        let (weights, sizes) = (std::mem::take(&mut flight.weights), std::mem::take(&mut flight.sizes));
        if flight.is_planned {
            let until = lane.durable.keys().filter(|key| key.nonce == nonce).map(|key| key.index + 1).max();
            let (key, members, tenant) = (flight.key, members.clone(), flight.tenant.take());
            let (until, elsewhere) = (until.unwrap_or(0), std::mem::take(&mut flight.elsewhere));
            flight.earlier.push(Content { until, key, members, weights, sizes, tenant, elsewhere });
        }
        let (gone, drawn) = (std::mem::take(&mut flight.gone), std::mem::take(&mut flight.drawn));
        flight.left = members.iter().map(|member| member.id()).collect();
        let (state, company) = (flight.record.state, members.len().div_ceil(2));
        let is_alone = members.len() == 1;
        self.notice(Notice::NobodyTook { batch: id, class, members: members.len() });
        let (mut changes, mut decisions, mut ended, mut orphaned) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for member in members.iter().filter(|member| !gone.contains(&member.id())) {
            let request = member.id();
            let refusals = self.queue.get_mut(request).map(|entry| {
                if class.is_some_and(RpcErrorClass::is_about_size) {
                    entry.refusals.company = u32::try_from(company).ok();
                    entry.refusals.alone += u32::from(is_alone);
                }
                entry.refusals
            });
            let is_for_good = refusals.is_some_and(|refusals| refusals.alone >= max_refusals)
                && class.is_some_and(RpcErrorClass::is_permanent);
            let end = match class.and_then(reason_of) {
                reason if member.valid_until() <= now => {
                    Some((Status::Expired, reason.unwrap_or(Reason::DeadlinePassed)))
                }
                Some(reason) if is_for_good => Some((Status::Rejected, reason)),
                _ => None,
            };
            let Some((status, reason)) = end else {
                let reason = Reason::RefusedByNodes;
                changes.push(RequestChange::to(request, Status::Queued).because(reason));
                let (batch, reason) = (batch_hash(id), reason.as_str());
                decisions.extend(Self::logged(|| {
                    [Decision::Requeued { request: request.0, batch, reason: reason.to_owned() }]
                }));
                // A request that was alone would be refused again at once.
                if is_alone || !class.is_some_and(RpcErrorClass::is_about_size) {
                    self.held.push(request);
                } else {
                    self.put_back(request);
                }
                continue;
            };
            let mut change = RequestChange::to(request, status).because(reason);
            change.detail = class.map(|class| format!("nodes answer: {class}"));
            changes.push(change);
            self.count_ended(status, Some(reason), 1);
            if status == Status::Rejected {
                orphaned.extend(self.queue.successors(request));
            }
            if let Some(entry) = self.queue.remove(request, false) {
                let counted_wei = entry.counted_wei(entry.spent_wei);
                ended.push((entry.tenant, request, counted_wei));
            }
        }
        let write = Write::Batch {
            id,
            state,
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: None,
            bill: None,
            changes,
            at: now,
        };
        self.write(vec![write], decisions, ended);
        for (request, drawn_wei) in drawn {
            self.draw(request, drawn_wei, U256::ZERO);
        }
        self.end_waiting(now, &orphaned, Status::Rejected, Reason::PredecessorFailed, None);
    }

    fn unincluded(&mut self, now: Timestamp, index: usize, nonce: u64) {
        let lane = &mut self.lanes[index];
        let id = lane.batch_id(nonce);
        self.notice(Notice::TakenBack(id));
        let lane = &mut self.lanes[index];
        let mut drawn = Map::new();
        if let Some(flight) = lane.flights.get_mut(&nonce) {
            flight.mined = None;
            flight.pending.take().iter().for_each(|pending| self.books.unpend(pending));
            flight.ids().for_each(|id| self.queue.note_in_block(id, false));
            drawn = std::mem::take(&mut flight.drawn);
        }
        // Members that left it owe nothing for it any more.
        for (request, drawn_wei) in drawn {
            self.draw(request, drawn_wei, U256::ZERO);
        }
        self.take_back(index, nonce);
        if let Some(write) = self.target_changes() {
            self.note(vec![write], Vec::new());
        }
        let lane = &mut self.lanes[index];
        let gone =
            lane.flights.get_mut(&nonce).map(|flight| (flight.record.included_hash.take(), flight.record.block.take()));
        if let Some((Some(attempt), Some((block_number, block_hash)))) = gone {
            let decision = || [Decision::Reorged { batch: batch_hash(id), attempt, block_number, block_hash }];
            self.note(Vec::new(), Self::logged(decision));
        }
        self.report(now, index, nonce, BatchState::Broadcast, Status::Broadcast);
        // The members count as open again; their reservations were never released.
        let flight = self.lanes[index].flights.get(&nonce);
        let members = flight.map_or_else(Vec::new, |flight| flight.still_in().cloned().collect());
        let claims: Vec<_> = members
            .iter()
            .filter_map(|member| Some(Claim::of(&self.queue.get(member.id())?.tenant, member, U256::ZERO)))
            .collect();
        self.books.reopened(claims);
        members.iter().for_each(|member| self.queue.taken_back(member.id()));
    }

    fn included(
        &mut self,
        now: Timestamp,
        index: usize,
        nonce: u64,
        kind: AttemptKind,
        mut receipt: TxReceipt,
        outcomes: Vec<MemberOutcome>,
    ) {
        let logs = std::mem::take(&mut receipt.logs);
        let lane = &mut self.lanes[index];
        let id = lane.batch_id(nonce);
        let mut attempts = lane.durable.range(attempts_of(nonce));
        let attempt = attempts.find(|(_, attempt)| attempt.get().hash == receipt.hash);
        if let Some((key, tip)) = attempt.map(|(key, attempt)| (*key, attempt.get().fees.max_priority_fee_per_gas)) {
            let is_payload = kind == AttemptKind::Payload;
            let judged =
                self.pricing.included(&self.facts.tuning, index, key, receipt.block_number, is_payload, tip, now);
            judged.into_iter().for_each(|notice| self.notice(notice));
        }
        let lane = &mut self.lanes[index];
        let mined = lane.index_of(nonce, receipt.hash);
        let Some(flight) = lane.flights.get_mut(&nonce) else { return };
        // Inclusions read back at a restart are not written again: there may be a million requests in blocks.
        let known = flight.known(&receipt);
        flight.record.state = BatchState::Included;
        flight.record.included_hash = Some(receipt.hash);
        flight.record.block = Some((receipt.block_number, receipt.block_hash));
        let is_earlier = mined.is_some_and(|mined| flight.content_before(mined).is_some());
        flight.mined = (!is_earlier).then(|| Mined {
            kind,
            receipt: TxReceipt { logs, ..receipt.clone() },
            outcomes: outcomes.clone(),
            ask_at: Some(
                receipt.block_number.saturating_add(self.facts.tuning.retry.replan_after_blocks.saturating_sub(1)),
            ),
        });
        if is_earlier {
            self.notice(Notice::KeptInSpite(id));
        }
        self.unpend(index, nonce);
        self.draw_for_gone(now, index, nonce);
        self.pend(now, index, nonce);
        if kind == AttemptKind::Payload && !is_earlier {
            self.show(now, index, nonce, &outcomes, &receipt);
            self.prove(index, nonce);
        } else {
            self.take_back(index, nonce);
        }
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        let gone = flight.gone.clone();
        let changes: Vec<RequestChange> = flight
            .ids()
            .zip(&outcomes)
            .filter(|(id, outcome)| **outcome != MemberOutcome::Untouched && !gone.contains(id))
            .filter(|(id, _)| known.as_ref().is_none_or(|known| !known.contains(id)))
            .map(|(id, outcome)| {
                let mut change = RequestChange::to(id, Status::Included);
                change.tx_hash = Some(receipt.hash);
                change.block_number = Some(receipt.block_number);
                if *outcome == MemberOutcome::Failed {
                    change.reason = Some(Reason::TargetReverted);
                }
                change
            })
            .collect();
        let untouched = flight.ids().zip(&outcomes).filter(|(_, outcome)| **outcome == MemberOutcome::Untouched);
        let passed_over: Vec<RequestId> = untouched.map(|(id, _)| id).filter(|id| !gone.contains(id)).collect();
        let executed =
            flight.members.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != MemberOutcome::Untouched);
        let executed = executed.filter(|(member, _)| !gone.contains(&member.id()));
        let executed: Vec<Arc<VerifiedRequest>> = executed.map(|(member, _)| member.clone()).collect();
        // If a simulation can assume these nonces, the users' next requests need not follow on this lane.
        if flight.key.nonce_contract().is_some_and(|contract| self.facts.known_forwarders.contains(&contract)) {
            let executed = flight.ids().zip(&outcomes).filter(|(_, outcome)| **outcome != MemberOutcome::Untouched);
            executed.for_each(|(id, _)| self.queue.note_in_block(id, true));
        }
        let waited = now.since(flight.record.created_at);
        if kind == AttemptKind::Payload && !is_earlier {
            self.note_surprise(&outcomes);
        }
        self.notice(Notice::Included { batch: id, block: receipt.block_number, members: outcomes.len(), waited });
        let decision = || Decision::Included {
            batch: batch_hash(id),
            attempt: receipt.hash,
            block_number: receipt.block_number,
            block_hash: receipt.block_hash,
        };
        let is_new = known.is_none() || !changes.is_empty();
        let write = Write::Batch {
            id,
            state: BatchState::Included,
            included_hash: Some(receipt.hash),
            block: Some((receipt.block_number, receipt.block_hash)),
            gas_used: Some(receipt.gas_used),
            cost_wei: Some(receipt.cost_wei()),
            changes,
            bill: None,
            at: now,
        };
        let decisions = if is_new { Self::logged(|| [decision()]) } else { Vec::new() };
        let writes: Vec<Write> = is_new.then_some(write).into_iter().chain(self.target_changes()).collect();
        if !writes.is_empty() {
            self.note(writes, decisions);
        }
        let open =
            executed.iter().filter_map(|member| Some((self.queue.get(member.id())?.tenant.clone(), member.id())));
        self.books.included(open.collect());
        executed.iter().for_each(|member| self.queue.landed(member.id()));
        passed_over.iter().for_each(|id| self.queue.passed_over(*id));
        self.remember_nonces(&executed);
    }

    /// Handles a transaction that blocks pass over: its members continue in batches of at most half its size, and a
    /// request that was alone has one try less. For as many blocks as the transaction kept others waiting, its tenant
    /// is served last.
    fn part_company(&mut self, index: usize, nonce: u64, blocks: u64) {
        let Some(flight) = self.lanes[index].flights.get(&nonce) else { return };
        if let Some(tenant) = flight.tenant.clone() {
            let now = self.now;
            let wait = self.facts.spec.block_time().saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX));
            self.queue.go_last(tenant, now, now.saturating_add(wait));
        }
        let ids: Vec<RequestId> = flight.still_in().map(|member| member.id()).collect();
        let (company, is_alone) = (u32::try_from(ids.len().div_ceil(2)).ok(), ids.len() == 1);
        for id in ids {
            let Some(entry) = self.queue.get_mut(id) else { continue };
            entry.refusals.company = company;
            entry.refusals.alone += u32::from(is_alone);
        }
    }

    /// True if nodes or blocks have refused the request alone as often as `max_refusals` allows.
    pub fn is_refused_for_good(&self, id: RequestId) -> bool {
        let most = self.facts.tuning.retry.max_refusals;
        self.queue.get(id).is_some_and(|entry| entry.refusals.alone >= most)
    }

    fn alert(&mut self, index: usize, alert: LaneAlert) {
        let lane = self.lanes[index].machine.id();
        if let LaneAlert::Ignored { nonce, blocks } = &alert {
            self.part_company(index, *nonce, *blocks);
        }
        let decisions = Self::logged(|| {
            let (code, detail) = (alert.name().to_owned(), format!("{alert:?}"));
            [Decision::Alert { code, subject: lane.to_string(), detail }]
        });
        self.notice(Notice::LaneAlert { lane, alert });
        self.note(Vec::new(), decisions);
    }
}
