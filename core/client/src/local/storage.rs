//! Records: what the sender has written, and what a caller reads back.

use std::sync::Arc;

use super::{
    command::{LocalCommand, LocalReport},
    config::lane_config,
    parts::{Closing, Entry, Kept, OpenNonce},
    record::{
        AttemptForm, BatchForm, End, LANE_KEY, LaneRecord, RequestRecord, attempt_key, parse_attempt_key, request_key,
    },
    requests::LocalError,
    state::{LANE, LocalRelay},
};
use crate::{
    lane::{AttemptKey, AttemptKind, Lane, RestoredSlot},
    ordered::{Map, Set},
    record::{AttemptRecord, Durable, Reach, RequestChange, Write, WriteOutcome},
    request::{
        BatchId, Reason, RequestId, Status, VerifiedRequest,
        vehicle::{Contracts, VehicleKey, VehicleParams},
    },
    schedule::{Queue, QueuedRequest},
    sender::{Content, Flight, Input, Open, SenderLane, WriteId},
    table::Table,
    time::Timestamp,
};

/// Longest detail kept for display, characters.
const MAX_DETAIL_CHARS: usize = 256;

/// Open requests by id, on their way into the queue or into a transaction.
type Unplaced = Table<RequestId, QueuedRequest>;

impl LocalRelay {
    // ---- writes ----

    /// Has the sender's writes stored, and shows them.
    pub(super) fn commit(&mut self, now: Timestamp, id: WriteId, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Plan(planned) => {
                    let open = self.nonces.get_or_insert_with(planned.batch.id.nonce, OpenNonce::default);
                    open.planned_block = self.heads.nonce_floor;
                    let payload = open.payload.take().unwrap_or_else(|| unreachable!("it was signed just now"));
                    let form = BatchForm::new(&planned, payload, open.planned_block, self.data_fee_bound());
                    self.store_attempt(id, planned.attempt, Some(form));
                }
                Write::Attempt(attempt) => self.store_attempt(id, *attempt, None),
                Write::Batch { id: batch, state, changes, .. } => {
                    let mut waits = Vec::new();
                    changes.into_iter().for_each(|change| waits.extend(self.change(now, change)));
                    if state.is_final() {
                        self.settled(batch.nonce, waits);
                    }
                }
                Write::Requests { changes, .. } => {
                    changes.into_iter().for_each(|change| drop(self.change(now, change)))
                }
                // A page has no decision log, and ends a request at its deadline.
                _ => {}
            }
        }
    }

    fn store_attempt(&mut self, id: WriteId, attempt: AttemptRecord, batch: Option<BatchForm>) {
        let key = AttemptKey { nonce: attempt.batch.nonce, index: attempt.index };
        let open = self.nonces.get_or_insert_with(key.nonce, OpenNonce::default);
        open.attempts = open.attempts.max(key.index + 1);
        let is_first = batch.is_some();
        let text = AttemptForm::new(&attempt, batch).encode();
        self.store(attempt_key(key), text, Kept::Attempt(id, Box::new(attempt), is_first));
    }

    /// Applies a change to a request. Returns the storage key of the record that makes it durable; `None` if it needs none.
    fn change(&mut self, now: Timestamp, change: RequestChange) -> Option<String> {
        let RequestChange { id, to, reason, detail, tx_hash, block_number, charged_wei, batch_failed, reach, .. } =
            change;
        let entry = self.entries.get_mut(&id).filter(|entry| entry.is_open())?;
        entry.spent_wei = entry.spent_wei.saturating_add(charged_wei);
        let is_changed = batch_failed || !charged_wei.is_zero();
        entry.batch_failures += u32::from(batch_failed);
        if to.is_terminal() {
            let cost_wei = (tx_hash.is_some() || !entry.spent_wei.is_zero()).then_some(entry.spent_wei);
            let detail = detail.map(|detail| detail.chars().take(MAX_DETAIL_CHARS).collect());
            let end = End { status: to, reason, detail, tx_hash, block_number, cost_wei, at: now };
            let record = entry.record(Some(&end));
            entry.ending = Some(end);
            self.store(request_key(id), record, Kept::End(id));
            // Otherwise its nonce is used.
            if tx_hash.is_none() && reason != Some(Reason::NonceUsedElsewhere) {
                self.end_behind(now, id);
            }
            return Some(request_key(id));
        }
        if reach != Reach::Cost && (entry.status.can_become(to) || entry.status == to) {
            (entry.status, entry.reason) = (to, reason);
            (entry.tx_hash, entry.block_number) = (tx_hash, block_number);
            self.changed(id);
        }
        let entry = self.entries.get(&id).filter(|_| is_changed)?;
        let record = entry.record(None);
        self.store(request_key(id), record, Kept::Other);
        Some(request_key(id))
    }

    /// Forgets a final nonce once everything about its requests is durable.
    fn settled(&mut self, nonce: u64, mut waits: Vec<String>) {
        let attempts = self.nonces.remove(&nonce).map_or(0, |open| open.attempts);
        let attempts = (0..attempts).map(|index| AttemptKey { nonce, index }).collect();
        self.final_next = self.final_next.max(nonce.saturating_add(1));
        self.store(LANE_KEY.to_owned(), LaneRecord::new(self.final_next).encode(), Kept::Other);
        waits.push(LANE_KEY.to_owned());
        self.closing.insert(nonce, Closing { waits, attempts });
    }

    /// Reports that the record of this revision is durable.
    pub fn stored(&mut self, now: Timestamp, key: &str, revision: u64) {
        if self.writing.get(key).is_none_or(|writing| writing.revision != revision) {
            return;
        }
        let Some(writing) = self.writing.remove(key) else { return };
        match writing.kept {
            Kept::Attempt(id, attempt, is_first) => self.attempt_stored(now, id, *attempt, is_first),
            Kept::End(id) => self.end_stored(id),
            Kept::Other => {}
        }
        let mut done = Vec::new();
        for (nonce, closing) in self.closing.iter_mut() {
            closing.waits.retain(|waited| waited != key);
            if closing.waits.is_empty() {
                done.push(*nonce);
            }
        }
        done.into_iter().for_each(|nonce| self.close(nonce));
        self.go_on(now);
    }

    fn attempt_stored(&mut self, now: Timestamp, id: WriteId, attempt: AttemptRecord, is_first: bool) {
        let nonce = attempt.batch.nonce;
        let lane = self.sender.lane(LANE);
        let is_payload = is_first && attempt.kind == AttemptKind::Payload;
        if is_payload && lane.is_some_and(|lane| lane.machine.is_too_late(now, nonce)) {
            // It was never sent and will not be. As a record it would cost a cancel after the next start.
            if let Some(open) = self.nonces.get_mut(&nonce) {
                open.attempts = attempt.index;
            }
            self.command(LocalCommand::Remove { key: attempt_key(AttemptKey { nonce, index: attempt.index }) });
            let outcome = (Durable::committed(WriteOutcome::Applied(Vec::new())), None);
            return self.tell(now, Input::Committed { id, outcomes: Some(vec![outcome]) });
        }
        if is_first {
            let flight = lane.and_then(|lane| lane.flights.get(&nonce));
            let members: Vec<RequestId> = flight.map(|flight| flight.ids().collect()).unwrap_or_default();
            for id in members {
                self.change(now, RequestChange::to(id, Status::Batched));
            }
        }
        let outcome = (Durable::committed(WriteOutcome::Applied(Vec::new())), Some(Durable::committed(attempt)));
        self.tell(now, Input::Committed { id, outcomes: Some(vec![outcome]) });
    }

    fn end_stored(&mut self, id: RequestId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Some(end) = entry.ending.take()
        {
            entry.apply(end);
            self.changed(id);
        }
    }

    /// Reports that the record of this revision could not be stored. The write is retried; dependent steps wait for it.
    pub fn store_failed(&mut self, now: Timestamp, key: &str, revision: u64) {
        let Some(writing) = self.writing.get_mut(key).filter(|writing| writing.revision == revision) else { return };
        writing.failed(now);
        if writing.failures == 1 {
            let detail = format!("record {key} could not be stored; nothing that depends on it is sent");
            self.alert("storage_failed", detail);
        }
    }

    pub(super) fn store_again(&mut self, now: Timestamp) {
        for (key, writing) in self.writing.iter_mut() {
            if writing.retry_at.is_some_and(|at| at <= now) {
                writing.retry_at = None;
                let (revision, record) = (writing.revision, writing.record.clone());
                self.commands.push_back(LocalCommand::Store { key: key.clone(), revision, record });
            }
        }
    }

    /// Deletes the attempts of a settled nonce, whose newest record is durable. The first attempt, which names the
    /// batch, goes last.
    fn close(&mut self, nonce: u64) {
        let Some(closing) = self.closing.remove(&nonce) else { return };
        for key in closing.attempts.into_iter().rev() {
            self.writing.remove(&attempt_key(key));
            self.command(LocalCommand::Remove { key: attempt_key(key) });
        }
    }

    // ---- reading back ----

    /// Loads the stored records: once, before anything else.
    ///
    /// # Errors
    /// [`LocalError::Damaged`] if a record of an attempt or of the lane can't be read: the transactions that may be on
    /// chain are then unknown, and nothing can be sent safely.
    pub fn load(
        &mut self,
        now: Timestamp,
        records: impl IntoIterator<Item = (String, String)>,
    ) -> Result<LocalReport, LocalError> {
        let mut report = LocalReport::default();
        let mut requests = Table::new();
        let mut attempts: Table<AttemptKey, AttemptForm> = Table::new();
        let mut next_nonce = None;
        for (key, text) in records {
            let is_short = text.len() <= self.config.max_record_bytes;
            let damaged = |key: String| LocalError::Damaged { key };
            if key == LANE_KEY {
                next_nonce = Some(LaneRecord::decode(&text).ok_or_else(|| damaged(key))?.next_nonce);
            } else if key.starts_with("a:") {
                let parsed = parse_attempt_key(&key).zip(AttemptForm::decode(&text));
                let (key, record) = parsed.ok_or_else(|| damaged(key))?;
                attempts.insert(key, record);
            } else if key.starts_with("r:") {
                match is_short.then(|| RequestRecord::decode(&key, &text)).flatten() {
                    Some(record) if record.request.chain_id() == self.config.chain_id => {
                        requests.insert((record.accepted_at, record.request.id()), record);
                    }
                    _ => report.damaged.push(key),
                }
            }
        }
        let mut open = Unplaced::new();
        for (_, record) in requests {
            let id = record.request.id();
            let entry = Entry::new(record);
            match entry.is_open() {
                true => {
                    report.open += 1;
                    open.insert(id, self.queued(&entry));
                }
                false => report.ended += 1,
            }
            self.entries.insert(id, entry);
        }
        self.restore_lane(now, next_nonce, attempts, open)?;
        self.wake(now);
        Ok(report)
    }

    fn restore_lane(
        &mut self,
        now: Timestamp,
        next_nonce: Option<u64>,
        attempts: Table<AttemptKey, AttemptForm>,
        mut open: Unplaced,
    ) -> Result<(), LocalError> {
        let sender = self.key.address();
        let config = lane_config(&self.config, sender);
        let (lane, params) = (config.id, self.sender.facts.params);
        let mut nonces: Vec<(u64, Vec<AttemptForm>)> = Vec::new();
        for (key, record) in attempts {
            if nonces.last().is_none_or(|(nonce, _)| *nonce != key.nonce) {
                nonces.push((key.nonce, Vec::new()));
            }
            let Some((_, of_nonce)) = nonces.last_mut() else { continue };
            // Attempt indices have no gaps, and the first attempt holds the batch.
            if key.index as usize != of_nonce.len() || (key.index == 0 && record.batch.is_none()) {
                return Err(LocalError::Damaged { key: attempt_key(key) });
            }
            of_nonce.push(record);
        }
        let mut queue = self.queue();
        let (mut slots, mut flights, mut durable) = (Vec::new(), Map::new(), Map::new());
        // A request returned by an older batch belongs to the newest one that names it.
        for (nonce, records) in nonces.into_iter().rev() {
            let id = BatchId { lane, nonce };
            let forms = records.iter().enumerate().filter_map(|(index, record)| Some((index, record.batch.as_ref()?)));
            let mut forms: Vec<(usize, &BatchForm)> = forms.collect();
            let Some((_, form)) = forms.pop() else { continue };
            let mut earlier = Vec::new();
            // The newest content replaced those that every node had refused.
            let mut until = records.iter().skip(1).enumerate().filter(|(_, record)| record.batch.is_some());
            for (_, form) in forms {
                let until = until.next().and_then(|(index, _)| u32::try_from(index + 1).ok()).unwrap_or(0);
                let (members, weights) = self.members(&params, form);
                let (key, sizes, elsewhere) =
                    (VehicleKey::of_members(&members, Contracts::all(false)), Vec::new(), Set::new());
                earlier.push(Content { until, key, members, weights, sizes, tenant: Some("".into()), elsewhere });
            }
            let (members, weights) = self.members(&params, form);
            let (mut flying, mut gone) = (Vec::new(), Set::new());
            for member in &members {
                match open.remove(&member.id()) {
                    Some(queued) => flying.push(queued),
                    // It has ended, or is in a later transaction.
                    None => _ = gone.insert(member.id()),
                }
            }
            for queued in &flying {
                if let Some(entry) = self.entries.get_mut(&queued.request.id()) {
                    entry.status = Status::Broadcast;
                }
            }
            queue.push_in_flight(flying, lane, params.base_gas());
            slots.push(RestoredSlot {
                nonce,
                plan: form.plan(),
                attempts: records.iter().map(|record| (record.kind, record.fees(), record.hash)).collect(),
                refused_plans: 0,
                was_broadcast: true,
                was_included: false,
            });
            let flight =
                Flight::new(VehicleKey::of_members(&members, Contracts::all(false)), members, weights, form.record(id));
            flights.insert(nonce, Flight { is_planned: true, earlier, gone, tenant: Some("".into()), ..flight });
            let attempts = u32::try_from(records.len()).unwrap_or(u32::MAX);
            let planned_block = form.planned_block;
            self.nonces.insert(nonce, OpenNonce { attempts, planned_block, payload: None });
            for (index, record) in (0..).zip(&records) {
                durable.insert(AttemptKey { nonce, index }, Durable::committed(record.attempt(id, index)));
            }
        }
        slots.reverse();
        let mut rest = Table::new();
        for (_, queued) in open {
            rest.insert(queued.seq, queued);
        }
        rest.into_iter().for_each(|(_, queued)| queue.push(queued));
        self.final_next = next_nonce.unwrap_or(0);
        let machine = Lane::restore(config, next_nonce, slots);
        let lanes = vec![SenderLane::new(machine, true, params, flights, durable)];
        self.sender.now = now;
        self.sender.take_over(Open { queue, lanes, uncertain: Set::new() });
        Ok(())
    }

    /// The known members of a stored batch, with their weights.
    fn members(&self, params: &VehicleParams, form: &BatchForm) -> (Vec<Arc<VerifiedRequest>>, Vec<u64>) {
        let known = form.members.iter().enumerate().filter_map(|(place, id)| {
            let request = self.entries.get(id)?.request.clone();
            let weight = form.weights.get(place).copied().unwrap_or_else(|| params.member_gas(&request));
            Some((request, weight))
        });
        known.unzip()
    }

    /// An empty queue.
    pub(super) fn queue(&self) -> Queue {
        let mut queue = Queue::new();
        queue.recall_targets(self.config.targets, Vec::new());
        queue
    }
}
