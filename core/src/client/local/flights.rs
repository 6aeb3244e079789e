//! Executes the lane's commands, and settles final nonces.

use std::sync::Arc;

use alloy_primitives::{B256, U256};
use serde_json::json;

use super::{
    calls::{CallAnswer, Purpose},
    machine::{Closing, Kept, LocalCommand, LocalRelay},
    record::{AttemptRecord, BatchForm, End, LANE_KEY, LaneRecord, RequestRecord, attempt_key, request_key},
};
use crate::{
    chain::RpcErrorClass,
    lane::{AttemptKey, AttemptKind, Command, Event, LaneAlert, Plan, PollPurpose, TxToSign},
    request::{
        Reason, RequestId, Status, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt, decode, shares},
        receipt::RpcReceipt,
        vehicle::VehicleKey,
    },
    time::Timestamp,
};

/// Content of a nonce, beyond the lane's own data.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: VehicleKey,
    pub(super) members: Vec<Arc<VerifiedRequest>>,
    /// Gas of each member, for sharing the cost.
    pub(super) weights: Vec<u64>,
    /// Gas of members that had already ended when the batch was read back; `None` if there were none.
    pub(super) absent_weight: Option<u64>,
    pub(super) plan: Plan,
    /// A block that was final at planning time: the nonce was still free there.
    pub(super) planned_block: u64,
    /// True once its content is in storage, or on its way there.
    pub(super) is_stored: bool,
}

impl Flight {
    fn ids(&self) -> Vec<RequestId> {
        self.members.iter().map(|member| member.id()).collect()
    }
}

/// A receipt poll under way.
#[derive(Debug)]
pub(super) struct PollRun {
    pub(super) nonce: u64,
    pub(super) purpose: PollPurpose,
    pub(super) hashes: Vec<B256>,
    pub(super) is_complete: bool,
    pub(super) found: Option<Box<TxReceipt>>,
    pub(super) at_block: u64,
    pub(super) waits: usize,
}

impl LocalRelay {
    /// Executes the lane's commands until there are none.
    pub(super) fn drain(&mut self, now: Timestamp) {
        while let Some(command) = self.lane.poll_command() {
            self.obey(now, command);
        }
    }

    fn obey(&mut self, now: Timestamp, command: Command) {
        match command {
            Command::Sign { key, tx } => self.sign(now, key, tx),
            Command::Persist { key } => {
                if let Some(record) = self.signed.get(&key) {
                    let text = record.encode();
                    self.store(attempt_key(key), text, Kept::Attempt(key));
                }
            }
            Command::Broadcast { key } => self.broadcast(now, key),
            Command::Poll { nonce, hashes, purpose } => {
                self.next_id += 1;
                let poll = self.next_id;
                let at_block = self.head.map_or(0, |head| head.number);
                let waits = hashes.len();
                let run =
                    PollRun { nonce, purpose, hashes: hashes.clone(), is_complete: true, found: None, at_block, waits };
                if hashes.is_empty() {
                    self.tell_poll(now, run);
                    return;
                }
                self.polls.insert(poll, run);
                for hash in hashes {
                    let params = json!([hash]);
                    self.call(now, Purpose::Receipt { poll, hash }, "eth_getTransactionReceipt", params);
                }
            }
            Command::ReportBroadcast { nonce } | Command::ReportUnincluded { nonce } => {
                for id in self.members(nonce) {
                    self.set_status(id, Status::Broadcast, None);
                }
            }
            Command::ReportIncluded { nonce, kind, receipt } => self.included(now, nonce, kind, &receipt),
            Command::ReportFinal { nonce, kind, receipt } => self.settle(now, nonce, Some((kind, receipt))),
            Command::ReportLost { nonce } => {
                let detail =
                    format!("nonce {nonce} was used by a transaction that is not ours: somebody else has the key");
                self.command(LocalCommand::Alert { code: "nonce_lost", detail });
                self.settle(now, nonce, None);
            }
            Command::ReportRefused { nonce, class } => self.refused(now, nonce, class),
            Command::Alert(alert) => self.alert(&alert),
        }
    }

    /// No node can hold what was signed for this nonce: its members return to the queue at once, for batches of half
    /// the size.
    fn refused(&mut self, now: Timestamp, nonce: u64, class: Option<RpcErrorClass>) {
        self.pricing.forget(nonce);
        let Some(flight) = self.flights.get_mut(&nonce) else { return };
        let members = std::mem::take(&mut flight.members);
        (flight.weights, flight.absent_weight) = (Vec::new(), None);
        let (company, is_alone) = (members.len().div_ceil(2), members.len() == 1);
        let is_about_size = class.is_some_and(RpcErrorClass::is_about_size);
        for member in &members {
            let id = member.id();
            let mut alone = 0;
            if let Some(queued) = self.queue.get_mut(id).filter(|_| is_about_size) {
                queued.refusals.company = u32::try_from(company).ok();
                queued.refusals.alone += u32::from(is_alone);
                alone = queued.refusals.alone;
            }
            let end = match class {
                Some(class) if class.is_permanent() && alone >= self.config.max_simulations => {
                    Some((Status::Rejected, Reason::RefusedByNodes))
                }
                _ if member.deadline() > now => None,
                Some(RpcErrorClass::Underpriced) => Some((Status::Expired, Reason::BelowNodeMinimum)),
                Some(RpcErrorClass::InvalidFees) => Some((Status::Expired, Reason::AboveNodeFeeCap)),
                _ => Some((Status::Expired, Reason::DeadlinePassed)),
            };
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.is_bound = false;
            }
            match end {
                Some((status, reason)) => {
                    self.queue.put_back(id);
                    self.end_with_successors(now, id, End::new(status, Some(reason), now));
                }
                None => {
                    self.set_status(id, Status::Queued, Some(Reason::RefusedByNodes));
                    if is_alone || !is_about_size {
                        self.held.push(id);
                    } else {
                        self.queue.put_back(id);
                    }
                }
            }
        }
    }

    fn members(&self, nonce: u64) -> Vec<RequestId> {
        self.flights.get(&nonce).map(Flight::ids).unwrap_or_default()
    }

    fn alert(&mut self, alert: &LaneAlert) {
        self.command(LocalCommand::Alert { code: alert.name(), detail: format!("{alert:?}") });
    }

    fn sign(&mut self, now: Timestamp, key: AttemptKey, tx: TxToSign) {
        let Some((hash, raw)) = self.key.sign_transaction(&tx) else {
            self.lane.handle_event(now, Event::Abandoned { key });
            return;
        };
        let is_new = self.flights.get(&key.nonce).is_none_or(|flight| !flight.is_stored);
        let batch = is_new.then(|| self.batch_form(key.nonce, &tx));
        self.signed.insert(key, AttemptRecord::new(tx.kind, tx.fees, hash, raw, batch));
        self.lane.handle_event(now, Event::Signed { key, hash });
    }

    /// The stored form of a nonce's batch. A filled gap is a batch without members.
    fn batch_form(&mut self, nonce: u64, tx: &TxToSign) -> BatchForm {
        let settled = self.heads.nonce_floor;
        if let Some(flight) = self.flights.get_mut(&nonce) {
            flight.is_stored = true;
            let flight = &*flight;
            return BatchForm::new(flight.ids(), flight.weights.clone(), &flight.plan, flight.planned_block);
        }
        let filler = Plan {
            payload: tx.payload.clone(),
            deadline: Timestamp(u64::MAX),
            ceiling_wei_per_gas: self.config.fees.max_fee_ceiling_wei_per_gas,
            extra_wei: U256::ZERO,
            is_guarded: false,
            is_alone: true,
        };
        let form = BatchForm::new(Vec::new(), Vec::new(), &filler, settled);
        let key = VehicleKey::Single(RequestId(B256::ZERO));
        let flight = Flight {
            key,
            members: Vec::new(),
            weights: Vec::new(),
            absent_weight: None,
            plan: filler,
            planned_block: settled,
            is_stored: true,
        };
        self.flights.insert(nonce, flight);
        form
    }

    pub(super) fn attempt_stored(&mut self, now: Timestamp, key: AttemptKey) {
        let Some(record) = self.signed.remove(&key) else { return };
        let is_new = record.batch.is_some();
        self.durable.insert(key, record);
        if is_new {
            for id in self.members(key.nonce) {
                self.set_status(id, Status::Batched, None);
            }
        }
        self.lane_event(now, Event::Persisted { key });
    }

    fn broadcast(&mut self, now: Timestamp, key: AttemptKey) {
        // I2: only durable attempts are in `durable`.
        let Some(attempt) = self.durable.get(&key) else { return };
        let (fees, params) = (attempt.fees(), json!([attempt.raw]));
        if let Some(head) = self.head {
            self.pricing.sent(key, fees, head.number, now);
        }
        self.call(now, Purpose::Send(key), "eth_sendRawTransaction", params);
    }

    // ---- receipts ----

    pub(super) fn on_receipt(&mut self, now: Timestamp, poll: u64, hash: B256, answer: CallAnswer) {
        let Some(run) = self.polls.get_mut(&poll) else { return };
        run.waits = run.waits.saturating_sub(1);
        match answer.read::<Option<RpcReceipt>>() {
            Some(Some(receipt)) if receipt.transaction_hash == hash => {
                // A pre-confirmation without a block is no inclusion.
                if let Some(receipt) = receipt.into_receipt() {
                    run.found = Some(Box::new(receipt));
                }
            }
            Some(None) => {}
            Some(Some(_)) | None => run.is_complete = false,
        }
        if run.waits > 0 {
            return;
        }
        let Some(mut run) = self.polls.remove(&poll) else { return };
        let last = self.head.and_then(|head| head.final_block);
        if let Some(found) = &run.found {
            // A found receipt counts, whatever else was not answered.
            run.is_complete = true;
            if last.is_none_or(|last| found.block_number > last) {
                run.purpose = PollPurpose::Inclusion;
            }
            // I9: a receipt from a block known not to be canonical belongs to another branch.
            if self.heads.is_other(found.block_number, found.block_hash) {
                run.found = None;
                run.is_complete = false;
            }
        }
        if run.found.is_none() && run.is_complete && run.purpose == PollPurpose::Finality {
            self.find_spender(now, poll, run);
        } else {
            self.tell_poll(now, run);
        }
    }

    pub(super) fn tell_poll(&mut self, now: Timestamp, run: PollRun) {
        let PollRun { nonce, purpose, found, is_complete, at_block, .. } = run;
        self.lane_event(now, Event::Receipts { nonce, purpose, found, is_complete, at_block });
    }

    fn included(&mut self, now: Timestamp, nonce: u64, kind: AttemptKind, receipt: &TxReceipt) {
        let attempt = self.durable.iter().find(|(key, attempt)| key.nonce == nonce && attempt.hash == receipt.hash);
        if let Some(key) = attempt.map(|(key, _)| *key) {
            self.pricing.included(key, receipt.block_number, kind == AttemptKind::Payload, now);
        }
        let Some(flight) = self.flights.get(&nonce) else { return };
        let outcomes = outcomes(flight, Some((kind, receipt)));
        for (id, outcome) in flight.ids().into_iter().zip(outcomes) {
            let reason = match outcome {
                MemberOutcome::Untouched => continue,
                MemberOutcome::Executed => None,
                MemberOutcome::Failed => Some(Reason::TargetReverted),
            };
            if self.entries.get(&id).is_some_and(|entry| entry.status == Status::Included) {
                // The transaction moved from one block to another.
                self.set_status(id, Status::Broadcast, None);
            }
            self.set_status(id, Status::Included, reason);
            if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.status == Status::Included) {
                entry.tx_hash = Some(receipt.hash);
                entry.block_number = Some(receipt.block_number);
            }
        }
    }

    // ---- the end of a nonce ----

    /// Settles a final nonce, used by one of our attempts or (`None`) by a foreign transaction.
    fn settle(&mut self, now: Timestamp, nonce: u64, mined: Option<(AttemptKind, Box<TxReceipt>)>) {
        self.pricing.forget(nonce);
        self.spenders.forget(nonce);
        // Durable attempts come before the others.
        let attempts: Vec<AttemptKey> =
            self.durable.keys().chain(self.signed.keys()).filter(|key| key.nonce == nonce).copied().collect();
        self.durable.retain(|(key, _)| key.nonce != nonce);
        self.signed.retain(|(key, _)| key.nonce != nonce);
        let mut closing = Closing { waits: Vec::new(), attempts };
        if let Some(flight) = self.flights.remove(&nonce) {
            self.conclude(now, &flight, mined, &mut closing);
        }
        self.final_next = self.final_next.max(nonce.saturating_add(1));
        self.store(LANE_KEY.to_owned(), LaneRecord::new(self.final_next).encode(), Kept::Other);
        closing.waits.push(LANE_KEY.to_owned());
        self.closing.insert(nonce, closing);
    }

    fn conclude(
        &mut self,
        now: Timestamp,
        flight: &Flight,
        mined: Option<(AttemptKind, Box<TxReceipt>)>,
        closing: &mut Closing,
    ) {
        let mined = mined.as_ref().map(|(kind, receipt)| (*kind, &**receipt));
        let outcomes = outcomes(flight, mined);
        let is_touched = |outcome: &MemberOutcome| *outcome != MemberOutcome::Untouched;
        // Each member pays its own share only (I8), a skipped one too.
        let cost = mined.map_or(U256::ZERO, |(_, receipt)| receipt.cost_wei());
        let weights: Vec<u64> = flight.weights.iter().copied().chain(flight.absent_weight).collect();
        let costs = shares(cost, &weights);
        let has_failed = mined.is_some_and(|(_, receipt)| !receipt.is_success);
        let is_payload = mined.is_some_and(|(kind, _)| kind == AttemptKind::Payload);
        if let Some((AttemptKind::Payload, receipt)) = mined {
            let accused = self.queue.showing(&flight.ids(), &outcomes, receipt.is_success).accused;
            // The accused target belongs to the only member: all targets of a page are named.
            if let Some((accused, member)) = accused.zip(flight.members.first())
                && (accused.has_failed || member.deadline() > now)
                && flight.absent_weight.is_none()
            {
                self.accuse(now, member, accused, receipt.hash);
            }
        }
        for ((member, outcome), cost) in flight.members.iter().zip(&outcomes).zip(costs) {
            let id = member.id();
            let end = match outcome {
                MemberOutcome::Executed => Some(End::new(Status::Finalized, None, now)),
                MemberOutcome::Failed => Some(End::new(Status::Reverted, Some(Reason::TargetReverted), now)),
                MemberOutcome::Untouched => self.unexecuted(now, member, is_payload),
            };
            if let Some(mut end) = end {
                if let Some((_, receipt)) = mined.filter(|_| is_touched(outcome)) {
                    let value = if *outcome == MemberOutcome::Executed { member.value() } else { U256::ZERO };
                    end.tx_hash = Some(receipt.hash);
                    end.block_number = Some(receipt.block_number);
                    end.cost_wei = Some(cost.saturating_add(value));
                }
                if is_touched(outcome) {
                    self.end(id, end, true);
                } else {
                    self.queue.put_back(id);
                    self.end_with_successors(now, id, end);
                }
                if self.is_writing(&request_key(id)) {
                    closing.waits.push(request_key(id));
                }
                continue;
            }
            let reason = match (mined.map(|(kind, _)| kind), has_failed) {
                (Some(AttemptKind::Payload), true) => Reason::BatchFailed,
                (Some(AttemptKind::Payload), false) => Reason::SkippedByForwarder,
                (Some(AttemptKind::Cancel), _) => Reason::BatchCancelled,
                (None, _) => Reason::LaneNonceTaken,
            };
            self.give_back(id, reason, is_payload, closing);
            if let Some((forwarder, signer, _)) = member.sequence() {
                // Its nonce may have been used elsewhere.
                self.recheck_user(now, (forwarder, signer));
            }
        }
    }

    /// End of a member that its transaction did not execute; `None` if it may be sent again.
    fn unexecuted(&self, now: Timestamp, member: &VerifiedRequest, is_payload: bool) -> Option<End> {
        if member.deadline() <= now {
            return Some(End::new(Status::Expired, Some(Reason::DeadlinePassed), now));
        }
        let failures = self.queue.get(member.id()).map_or(0, |queued| queued.batch_failures);
        let is_given_up = is_payload && failures + 1 >= self.config.max_batch_failures;
        is_given_up.then(|| End::new(Status::Rejected, Some(Reason::BatchFailed), now))
    }

    /// Puts a member back into the queue.
    fn give_back(&mut self, id: RequestId, reason: Reason, has_failed: bool, closing: &mut Closing) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.is_bound = false;
        }
        self.set_status(id, Status::Queued, Some(reason));
        if has_failed && let Some(queued) = self.queue.get_mut(id) {
            queued.batch_failures += 1;
            let failures = queued.batch_failures;
            if let Some(entry) = self.entries.get(&id) {
                let (accepted_at, ceiling) = (entry.accepted_at, entry.ceiling_wei_per_gas);
                let record = RequestRecord::encode(&entry.request, accepted_at, ceiling, failures, None);
                self.store(request_key(id), record, Kept::Other);
                closing.waits.push(request_key(id));
            }
        }
        self.queue.put_back(id);
    }
}

/// A transaction's outcome for each member. A call alone in its transaction fails with it; members of a batch that
/// fails as a whole are untouched.
fn outcomes(flight: &Flight, mined: Option<(AttemptKind, &TxReceipt)>) -> Vec<MemberOutcome> {
    let Some((AttemptKind::Payload, receipt)) = mined else {
        return vec![MemberOutcome::Untouched; flight.members.len()];
    };
    match flight.key {
        VehicleKey::Single(_) if !receipt.is_success => vec![MemberOutcome::Failed; flight.members.len()],
        key => decode(key, &flight.members, receipt.is_success, &receipt.logs),
    }
}
