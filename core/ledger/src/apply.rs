//! Decides the writes of one commit. Pure: the storage loads the affected rows ([`Needs`](super::needs::Needs)) into a [`WorkingSet`],
//! [`WorkingSet::apply`] decides every write in order, and the storage writes the changed rows back in a few
//! statements.
//!
//! Because every precondition is checked here, on loaded state that already includes the preceding writes, a refused
//! write leaves nothing behind and can't affect its neighbours.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy_primitives::{Address, B256, U256};

use super::needs::{BudgetKey, HOUR_MS, Key, Sequence, budget_key, sequence_of};
use crate::record::{
    AcceptOutcome, AccountEntry, AttemptRecord, BatchRecord, BatchState, Bill, DecisionRow, EventRecord, NewRequest,
    PlannedBatch, Reach, RequestChange, RequestRecord, Write, WriteOutcome,
};
use crate::{
    protection::Protection,
    provenance::{Acceptance, Decision, Ending, Entry, Head},
    request::{BatchId, LaneId, Reason, RequestId, Status, TargetRecord},
    time::Timestamp,
};

/// Longest idempotency key, bytes.
const MAX_KEY_BYTES: usize = 255;

/// Positions reserved for the members of one content of a batch; the newest content has the highest.
pub(super) const MEMBERS_OF_CONTENT: u64 = 1 << 20;

/// The highest numbers assigned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) request: u64,
    pub(super) batch: u64,
    pub(super) event: u64,
    pub(super) decision: u64,
    /// Hash of the newest decision; zero without any.
    pub(super) decision_hash: B256,
}

/// True while a request reserves its (forwarder, signer, nonce): it is live, or was executed.
pub(super) const fn holds_nonce(status: Status) -> bool {
    !matches!(status, Status::Rejected | Status::Expired | Status::Cancelled)
}

/// A request in the working set.
#[derive(Debug)]
pub(super) struct RequestEntry {
    /// The record; payload, promise and quote are empty unless it was loaded as an answer or is new.
    pub(super) record: RequestRecord,
    /// Number of its events.
    pub(super) events: u32,
    /// Stored state before this commit; `None` if this commit accepted it.
    pub(super) stored: Option<Stored>,
    pub(super) changed: bool,
    /// True if another tenant has submitted the same signed request since it ended: its row makes way.
    pub(super) is_replaced: bool,
}

impl RequestEntry {
    /// True if it ended without ever being in a transaction, so that it owes nothing and its signer's next try may be
    /// another tenant's: it was accepted, perhaps late, and ended, without any other event.
    fn is_untried(&self) -> bool {
        let RequestRecord { status, sequence, late_at, cost_wei, .. } = &self.record;
        let told = 2 + u32::from(late_at.is_some());
        !holds_nonce(*status)
            && sequence.is_some()
            && cost_wei.is_none_or(|cost| cost.is_zero())
            && self.events == told
            && self.stored.is_some()
            && !self.changed
    }
}

/// Stored facts of a request for the running counters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) status: Status,
    pub(super) cost_wei: Option<U256>,
}

/// A batch in the working set.
#[derive(Debug)]
pub(super) struct BatchEntry {
    pub(super) record: BatchRecord,
    /// Its row number in storage.
    pub(super) seq: u64,
    /// Index of its newest attempt.
    pub(super) last_attempt: u32,
    pub(super) is_new: bool,
    pub(super) changed: bool,
}

/// A new idempotency key.
#[derive(Debug)]
pub(super) struct NewKey {
    pub(super) key: Key,
    pub(super) body_hash: B256,
    pub(super) request_seq: u64,
}

/// A request's membership in a batch, with row numbers of the storage.
#[derive(Debug, Clone)]
pub(super) struct NewMember {
    pub(super) batch: u64,
    pub(super) position: u64,
    pub(super) request: u64,
    pub(super) own_gas: Option<u64>,
}

/// An account's share of a batch.
#[derive(Debug, Clone)]
pub(super) struct NewAccount {
    /// The batch's row number in storage.
    pub(super) batch: u64,
    pub(super) chain_id: u64,
    pub(super) at: Timestamp,
    pub(super) entry: AccountEntry,
}

/// All rows affected by a commit: as stored, then as changed by its writes.
#[derive(Debug, Default)]
pub(super) struct WorkingSet {
    pub(super) cursor: Cursor,
    pub(super) requests: Vec<RequestEntry>,
    by_id: HashMap<RequestId, usize>,
    keys: HashMap<Key, (B256, RequestId)>,
    holders: HashMap<Sequence, RequestId>,
    highest_nonces: HashMap<LaneId, u64>,
    pub(super) batches: Vec<BatchEntry>,
    by_batch: HashMap<BatchId, usize>,
    /// Batches that were not final when loaded, by requests of [`Needs::cancelled`] that were in them.
    bound: HashMap<RequestId, Vec<BatchId>>,
    attempt_owners: HashMap<B256, BatchId>,
    fences: HashMap<u64, u64>,
    budgets: HashMap<BudgetKey, U256>,
    /// True if the last attempt was refused.
    is_refused: bool,

    /// New rows, in order. Every event with its request's number.
    pub(super) new_keys: Vec<NewKey>,
    pub(super) new_members: Vec<NewMember>,
    pub(super) new_attempts: Vec<(u64, AttemptRecord)>,
    pub(super) new_events: Vec<(u64, EventRecord)>,
    pub(super) new_decisions: Vec<DecisionRow>,
    pub(super) new_meta: BTreeMap<String, String>,
    pub(super) new_targets: BTreeMap<(u64, Address), TargetRecord>,
    pub(super) new_accounts: Vec<NewAccount>,
}

impl WorkingSet {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self { cursor, ..Self::default() }
    }

    pub(super) fn holds_request(&self, id: RequestId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn load_request(&mut self, record: RequestRecord, events: u32) {
        let stored = Stored { status: record.status, cost_wei: record.cost_wei };
        self.by_id.insert(record.id, self.requests.len());
        self.requests.push(RequestEntry { record, events, stored: Some(stored), changed: false, is_replaced: false });
    }

    pub(super) fn load_key(&mut self, key: Key, body_hash: B256, request: RequestId) {
        self.keys.insert(key, (body_hash, request));
    }

    /// Requests of loaded keys that are not loaded themselves.
    pub(super) fn missing_answers(&self) -> Vec<RequestId> {
        self.keys.values().map(|(_, request)| *request).filter(|request| !self.holds_request(*request)).collect()
    }

    pub(super) fn load_holder(&mut self, sequence: Sequence, request: RequestId) {
        self.holders.insert(sequence, request);
    }

    pub(super) fn load_highest_nonce(&mut self, lane: LaneId, nonce: u64) {
        self.highest_nonces.insert(lane, nonce);
    }

    pub(super) fn load_batch(&mut self, record: BatchRecord, seq: u64, last_attempt: u32) {
        self.by_batch.insert(record.id, self.batches.len());
        self.batches.push(BatchEntry { record, seq, last_attempt, is_new: false, changed: false });
    }

    /// Records that `request` is or was in this batch, which is not final.
    pub(super) fn load_bound(&mut self, request: RequestId, batch: BatchId) {
        self.bound.entry(request).or_default().push(batch);
    }

    pub(super) fn holds_batch(&self, id: BatchId) -> bool {
        self.by_batch.contains_key(&id)
    }

    pub(super) fn load_attempt(&mut self, hash: B256, batch: BatchId) {
        self.attempt_owners.insert(hash, batch);
    }

    /// Records the token of the lease in force on a chain's lanes.
    #[cfg(feature = "postgres")]
    pub(super) fn load_fence(&mut self, chain_id: u64, token: u64) {
        self.fences.insert(chain_id, token);
    }

    /// Adds to the wei reserved and spent since the key's hour.
    pub(super) fn load_budget(&mut self, key: BudgetKey, used_wei: U256) {
        let sum = self.budgets.entry(key).or_default();
        *sum = sum.saturating_add(used_wei);
    }

    /// Decides `write` on top of all preceding writes.
    pub(super) fn apply(&mut self, write: Write) -> WriteOutcome {
        match write {
            Write::Fenced(fence, write) => match self.fences.get(&fence.chain_id) {
                Some(token) if *token == fence.token => self.apply(*write),
                in_force => WriteOutcome::Fenced { token: fence.token, in_force: in_force.copied() },
            },
            // A transaction refused by the ledger is never sent, so it is not logged.
            Write::Decide { decision, .. } if self.is_refused && decision.is_of_new_attempt() => {
                WriteOutcome::Applied(Vec::new())
            }
            Write::Decide { owner, at_ms, decision } => self.decide(&owner, at_ms, &decision),
            Write::Summary { owner, at } => self.summarise(&owner, at),
            Write::Accept(new) => self.accept(*new),
            Write::Plan(plan) => {
                let outcome = self.plan(*plan);
                self.noted(outcome)
            }
            Write::Attempt(attempt) => {
                let outcome = self.attempt(*attempt);
                self.noted(outcome)
            }
            Write::Batch { id, state, included_hash, block, gas_used, cost_wei, changes, bill, at } => {
                let facts = BatchFacts { state, included_hash, block, gas_used, cost_wei };
                self.batch(id, facts, changes, bill.map(|bill| *bill).unwrap_or_default(), at)
            }
            Write::Requests { changes, at } => WriteOutcome::Applied(self.change_all(changes, None, at)),
            Write::Late { requests, at } => WriteOutcome::Applied(self.late(&requests, at)),
            Write::Decision(row) => self.decision(row),
            Write::Targets { chain_id, records } => {
                self.new_targets.extend(records.into_iter().map(|record| ((chain_id, record.target), record)));
                WriteOutcome::Applied(Vec::new())
            }
            Write::Meta { key, value } => {
                self.new_meta.insert(key, value);
                WriteOutcome::Applied(Vec::new())
            }
        }
    }

    /// Records whether an attempt was refused, for the subsequent decisions.
    fn noted(&mut self, outcome: WriteOutcome) -> WriteOutcome {
        self.is_refused = matches!(outcome, WriteOutcome::Refused(_) | WriteOutcome::MembersEnded(_));
        outcome
    }

    fn accept(&mut self, mut new: NewRequest) -> WriteOutcome {
        let key =
            new.idempotency.take().map(|idempotency| ((new.tenant.clone(), idempotency.key), idempotency.body_hash));
        if let Some((key, body_hash)) = &key {
            if key.1.len() > MAX_KEY_BYTES {
                let len = key.1.len();
                return WriteOutcome::Refused(format!("idempotency key has {len} bytes, limit {MAX_KEY_BYTES}"));
            }
            match self.keys.get(key).filter(|_| Protection::Idempotency.is_on()) {
                Some((known, existing)) if known != body_hash => {
                    return WriteOutcome::Accept(AcceptOutcome::IdempotencyConflict { existing: *existing });
                }
                Some((_, existing)) => return self.duplicate(*existing),
                None => {}
            }
        }
        let known = self.by_id.get(&new.id).copied();
        let is_free = |at: &usize| self.requests[*at].record.tenant != new.tenant && self.requests[*at].is_untried();
        let replaced = known.filter(|_| new.takes_over).filter(is_free);
        if let Some(at) = known.filter(|_| replaced.is_none()) {
            // The same content under a new key: the key belongs to it from now on, unless the request is another
            // tenant's.
            if let Some((key, body_hash)) = key.filter(|_| self.requests[at].record.tenant == new.tenant) {
                self.remember_key(key, body_hash, at);
            }
            return self.duplicate(new.id);
        }
        let sequence = sequence_of(new.chain_id, new.sequence);
        if let Some(&existing) = sequence.and_then(|sequence| self.holders.get(&sequence)) {
            return WriteOutcome::Accept(AcceptOutcome::NonceConflict { existing });
        }
        if let Some(budget) = &new.budget {
            let used = self.budgets.entry(budget_key(&new, budget)).or_default();
            let available_wei = budget.limit_wei.saturating_sub(*used);
            if new.reserved_wei > available_wei {
                let (needed_wei, limit_wei) = (new.reserved_wei, budget.limit_wei);
                return WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { needed_wei, available_wei, limit_wei });
            }
        }
        // Counted in every budget period that covers the request, including those of neighbours in this commit.
        let hour = new.accepted_at.0 / HOUR_MS;
        for ((tenant, chain_id, since), used) in &mut self.budgets {
            if *tenant == new.tenant && *chain_id == new.chain_id && *since <= hour {
                *used = used.saturating_add(new.reserved_wei);
            }
        }
        if let Some(sequence) = sequence {
            self.holders.insert(sequence, new.id);
        }

        if let Some(replaced) = replaced {
            self.requests[replaced].is_replaced = true;
            // Its keys are free now.
            let seq = self.requests[replaced].record.seq;
            self.keys.retain(|_, (_, request)| *request != new.id);
            self.new_keys.retain(|known| known.request_seq != seq);
        }

        self.cursor.request += 1;
        let at = self.requests.len();
        self.by_id.insert(new.id, at);
        self.requests.push(RequestEntry {
            record: RequestRecord {
                seq: self.cursor.request,
                id: new.id,
                tenant: new.tenant,
                chain_id: new.chain_id,
                kind: new.kind.to_owned(),
                sequence: new.sequence,
                target: new.target,
                status: Status::Queued,
                reason: None,
                deadline: new.deadline,
                valid_until: new.valid_until,
                late_at: None,
                accepted_at: new.accepted_at,
                updated_at: new.accepted_at,
                batch: None,
                reserved_wei: new.reserved_wei,
                price_percent: new.price_percent,
                ceiling_wei_per_gas: new.ceiling_wei_per_gas,
                cost_wei: None,
                gas_used: None,
                tx_hash: None,
                block_number: None,
                payload: new.payload,
                promise_signature: new.promise_signature,
                quote: new.quote,
                batch_failures: 0,
                submitted_by: new.submitted_by,
            },
            events: 0,
            stored: None,
            changed: true,
            is_replaced: false,
        });
        if let Some((key, body_hash)) = key {
            self.remember_key(key, body_hash, at);
        }
        let event = self.emit(at, None, None);
        WriteOutcome::Accept(AcceptOutcome::Accepted { seq: self.cursor.request, event })
    }

    fn remember_key(&mut self, key: Key, body_hash: B256, at: usize) {
        let RequestRecord { id, seq, .. } = self.requests[at].record;
        self.keys.insert(key.clone(), (body_hash, id));
        self.new_keys.push(NewKey { key, body_hash, request_seq: seq });
    }

    fn duplicate(&self, id: RequestId) -> WriteOutcome {
        let Some(&at) = self.by_id.get(&id) else { unreachable!("answers are loaded with their payloads") };
        WriteOutcome::Accept(AcceptOutcome::Duplicate(Box::new(self.requests[at].record.clone())))
    }

    fn plan(&mut self, plan: PlannedBatch) -> WriteOutcome {
        if let Some(why) = self.refusal_of_plan(&plan) {
            return WriteOutcome::Refused(why);
        }
        let has_ended = |id: &&RequestId| !holds_nonce(self.requests[self.by_id[*id]].record.status);
        let ended: Vec<RequestId> = plan.members.iter().map(|member| &member.id).filter(has_ended).copied().collect();
        if !ended.is_empty() {
            return WriteOutcome::MembersEnded(ended);
        }
        let PlannedBatch { batch, members, attempt, at, .. } = plan;
        let id = batch.id;
        let first_position = u64::from(attempt.index) * MEMBERS_OF_CONTENT;
        let seq = match self.by_batch.get(&id) {
            Some(&known) => {
                let entry = &mut self.batches[known];
                (entry.record, entry.last_attempt, entry.changed) = (batch, attempt.index, true);
                entry.seq
            }
            None => {
                self.cursor.batch += 1;
                let seq = self.cursor.batch;
                let highest = self.highest_nonces.entry(id.lane).or_insert(id.nonce);
                *highest = (*highest).max(id.nonce);
                self.by_batch.insert(id, self.batches.len());
                let last_attempt = attempt.index;
                self.batches.push(BatchEntry { record: batch, seq, last_attempt, is_new: true, changed: false });
                seq
            }
        };
        self.attempt_owners.insert(attempt.hash, id);
        self.new_attempts.push((seq, attempt));
        let mut events = Vec::with_capacity(members.len());
        for (position, member) in members.into_iter().enumerate() {
            let index = self.by_id[&member.id];
            self.new_members.push(NewMember {
                batch: seq,
                position: first_position + position as u64,
                request: self.requests[index].record.seq,
                own_gas: member.own_gas,
            });
            self.set(index, RequestChange::to(member.id, Status::Batched), Some(id), at);
            events.push(self.emit(index, None, Some(id)));
        }
        WriteOutcome::Applied(events)
    }

    fn refusal_of_plan(&self, plan: &PlannedBatch) -> Option<String> {
        let PlannedBatch { batch, members, attempt, left, .. } = plan;
        let id = batch.id;
        let known = self.by_batch.get(&id).map(|&at| &self.batches[at]);
        let next_attempt = known.map_or(0, |known| known.last_attempt.saturating_add(1));
        let is_open = |known: &BatchEntry| matches!(known.record.state, BatchState::Signed | BatchState::Broadcast);
        let replaces = attempt.index > 0 && attempt.index == next_attempt && known.is_some_and(is_open);
        if batch.state != BatchState::Signed {
            return Some(format!("batch {id} is planned as {:?}, expected Signed", batch.state));
        }
        if attempt.batch != id || (attempt.index != 0 && !replaces) {
            let AttemptRecord { batch: other, index, .. } = attempt;
            return Some(format!("first attempt of batch {id} says batch {other}, index {index}"));
        }
        if known.is_some() && !replaces {
            return Some(format!("batch {id} exists"));
        }
        // A member that has ended need not have left.
        let stays = |member: &&RequestId| {
            let record = self.by_id.get(*member).map(|&at| &self.requests[at].record);
            record.is_some_and(|record| record.batch == Some(id) && !record.status.is_terminal())
        };
        if let Some(member) = left.iter().find(stays) {
            return Some(format!("batch {id} exists, and request {member} is in it"));
        }
        if i64::try_from(id.nonce).is_err() {
            return Some(format!("nonce {} is above the limit {}", id.nonce, i64::MAX));
        }
        // Upwards only, but not always by one: nonces consumed by foreign transactions of the lane's key are skipped,
        // and gaps left by a restored backup are filled from below with empty batches.
        if let Some(&highest) = self.highest_nonces.get(&id.lane)
            && id.nonce <= highest
            && !members.is_empty()
            && !replaces
        {
            return Some(format!("nonce {} of lane {} is not above {highest} (I4)", id.nonce, id.lane));
        }
        if let Some(owner) = self.attempt_owners.get(&attempt.hash) {
            return Some(format!("attempt {} belongs to batch {owner}", attempt.hash));
        }
        let mut seen = HashSet::with_capacity(members.len());
        members.iter().map(|member| &member.id).find_map(|member| {
            let Some(&at) = self.by_id.get(member) else { return Some(format!("request {member} is unknown")) };
            let record = &self.requests[at].record;
            // Ended members are named in the outcome instead.
            if record.status != Status::Queued && holds_nonce(record.status) {
                return Some(format!("request {member} is {}, not queued", record.status));
            }
            if record.chain_id != id.lane.chain_id {
                return Some(format!(
                    "request {member} is for chain {}, lane for {}",
                    record.chain_id, id.lane.chain_id
                ));
            }
            (!seen.insert(member)).then(|| format!("request {member} is a member twice"))
        })
    }

    fn attempt(&mut self, attempt: AttemptRecord) -> WriteOutcome {
        let Some(&at) = self.by_batch.get(&attempt.batch) else {
            return WriteOutcome::Refused(format!("batch {} is unknown", attempt.batch));
        };
        match self.attempt_owners.get(&attempt.hash) {
            Some(owner) if *owner == attempt.batch => return WriteOutcome::Applied(Vec::new()),
            Some(owner) => {
                return WriteOutcome::Refused(format!("attempt {} belongs to batch {owner}", attempt.hash));
            }
            None => {}
        }
        let batch = &mut self.batches[at];
        if batch.record.state.is_final() {
            return WriteOutcome::Refused(format!("batch {} is final: {:?}", attempt.batch, batch.record.state));
        }
        if attempt.index <= batch.last_attempt {
            return WriteOutcome::Refused(format!(
                "attempt index {} of batch {} is not above {}",
                attempt.index, attempt.batch, batch.last_attempt
            ));
        }
        batch.last_attempt = attempt.index;
        self.attempt_owners.insert(attempt.hash, attempt.batch);
        self.new_attempts.push((batch.seq, attempt));
        WriteOutcome::Applied(Vec::new())
    }

    fn batch(
        &mut self,
        id: BatchId,
        facts: BatchFacts,
        changes: Vec<RequestChange>,
        bill: Bill,
        at: Timestamp,
    ) -> WriteOutcome {
        let Some(&index) = self.by_batch.get(&id) else {
            return WriteOutcome::Refused(format!("batch {id} is unknown"));
        };
        let batch = &mut self.batches[index];
        let state = batch.record.state;
        if state != facts.state && !state.can_become(facts.state) {
            return WriteOutcome::Refused(format!("batch {id} is {state:?}, which cannot become {:?}", facts.state));
        }
        if !state.is_final() && facts.state.is_final() {
            if let Some(why) = imbalance(facts.cost_wei, &changes, &bill) {
                return WriteOutcome::Refused(format!("batch {id}: {why}"));
            }
            self.charge(id, index, &changes, bill, at);
        }
        let batch = &mut self.batches[index];
        if !state.is_final() {
            let BatchFacts { state, included_hash, block, gas_used, cost_wei } = facts;
            batch.record = BatchRecord { state, included_hash, block, gas_used, cost_wei, ..batch.record.clone() };
            batch.changed = true;
        }
        WriteOutcome::Applied(self.change_all(changes, Some(id), at))
    }

    /// Books the cost of a newly final batch: on its members, whatever their later fate, and on accounts.
    fn charge(&mut self, id: BatchId, index: usize, changes: &[RequestChange], bill: Bill, at: Timestamp) {
        for change in changes.iter().filter(|change| !change.charged_wei.is_zero()) {
            if let Some(&place) = self.by_id.get(&change.id) {
                let entry = &mut self.requests[place];
                let cost = entry.record.cost_wei.unwrap_or_default();
                entry.record.cost_wei = Some(cost.saturating_add(change.charged_wei));
                entry.changed = true;
            }
        }
        let seq = self.batches[index].seq;
        let chain_id = id.lane.chain_id;
        let entries = bill.accounts.into_iter().filter(|entry| !entry.wei.is_zero());
        self.new_accounts.extend(entries.map(|entry| NewAccount { batch: seq, chain_id, at, entry }));
    }

    fn change_all(&mut self, changes: Vec<RequestChange>, batch: Option<BatchId>, at: Timestamp) -> Vec<EventRecord> {
        changes.into_iter().filter_map(|change| self.change(change, batch, at)).collect()
    }

    /// Applies `change` on behalf of `batch` (or of no batch), if the request's status allows it and the request is in
    /// exactly that batch. Without the second condition a repeated write about an old batch could pull the request out
    /// of its new one, and an expiry that raced with the composer could end a request that is already signed (I1).
    fn change(&mut self, mut change: RequestChange, batch: Option<BatchId>, at: Timestamp) -> Option<EventRecord> {
        let (request, to) = (change.id, change.to);
        let Some(&index) = self.by_id.get(&request) else {
            tracing::warn!(%request, %to, "change of an unknown request skipped");
            return None;
        };
        let entry = &mut self.requests[index];
        let from = entry.record.status;
        if change.reach == Reach::Cost {
            return None;
        }
        if from == to {
            // A repetition, or another block for the same inclusion: no event, but the facts are kept.
            if batch.is_some() && entry.record.batch == batch && !from.is_terminal() {
                change.batch_failed = false;
                change.reason = change.reason.or(entry.record.reason);
                self.set(index, change, batch, at);
            }
            return None;
        }
        let is_anywhere = change.reach == Reach::Anywhere && batch.is_some() && to.is_terminal();
        let is_its_own = entry.record.batch == batch || is_anywhere;
        // A queued request can't have been executed, unless it left a transaction early, or by somebody else's.
        let is_foreign = to == Status::Finalized && change.reason == Some(Reason::ExecutedElsewhere);
        let may = from.can_become(to)
            && (from != Status::Queued
                || is_anywhere
                || is_foreign
                || !matches!(to, Status::Finalized | Status::Reverted));
        if !is_its_own || to == Status::Batched || !may {
            let holder = entry.record.batch;
            tracing::warn!(%request, %from, %to, ?holder, by = ?batch, "change of a request skipped");
            return None;
        }
        if to == Status::Cancelled && batch.is_none() && self.is_bound(index) {
            tracing::debug!(%request, "a transaction that is not final may yet execute it: not cancelled");
            return None;
        }
        let detail = change.detail.take();
        self.set(index, change, (to != Status::Queued).then_some(batch).flatten(), at);
        Some(self.emit(index, detail, batch))
    }

    /// True if the request, though queued, was in a batch that is not final and may yet execute it: after a reorg, or
    /// because a node kept a transaction that it refused.
    fn is_bound(&self, index: usize) -> bool {
        let record = &self.requests[index].record;
        let loaded = self.bound.get(&record.id).into_iter().flatten().copied();
        // An event names its batch.
        let of_it = self.new_events.iter().filter(|(request, _)| *request == record.seq);
        let is_open = |id: BatchId| self.by_batch.get(&id).is_none_or(|&at| !self.batches[at].record.state.is_final());
        loaded.chain(of_it.filter_map(|(_, event)| event.batch)).any(is_open)
    }

    /// Writes `change` into the record, unconditionally.
    fn set(&mut self, index: usize, change: RequestChange, batch: Option<BatchId>, at: Timestamp) {
        let entry = &mut self.requests[index];
        let record = &mut entry.record;
        let was_holding = holds_nonce(record.status);
        record.status = change.to;
        record.reason = change.reason;
        record.updated_at = at;
        record.batch = batch;
        record.batch_failures = record.batch_failures.saturating_add(u32::from(change.batch_failed));
        // Executed statuses may omit known facts; all others clear the facts undone by a reorg.
        let executed = matches!(change.to, Status::Included | Status::Finalized | Status::Reverted);
        record.tx_hash = change.tx_hash.or(record.tx_hash.filter(|_| executed));
        record.block_number = change.block_number.or(record.block_number.filter(|_| executed));
        record.gas_used = change.gas_used.or(record.gas_used.filter(|_| executed));
        entry.changed = true;
        if was_holding
            && !holds_nonce(record.status)
            && let Some(sequence) = sequence_of(record.chain_id, record.sequence)
            && self.holders.get(&sequence) == Some(&record.id)
        {
            self.holders.remove(&sequence);
        }
    }

    fn late(&mut self, requests: &[RequestId], at: Timestamp) -> Vec<EventRecord> {
        let mut events = Vec::with_capacity(requests.len());
        for id in requests {
            let Some(&index) = self.by_id.get(id) else { continue };
            let entry = &mut self.requests[index];
            let record = &mut entry.record;
            let is_open = matches!(record.status, Status::Queued | Status::Batched | Status::Broadcast);
            if !is_open || record.late_at.is_some() {
                continue;
            }
            (record.late_at, record.updated_at, entry.changed) = (Some(at), at, true);
            let batch = record.batch;
            events.push(self.emit_because(index, Some(Reason::PromiseMissed), None, batch));
        }
        events
    }

    /// Emits the event of the request's current status.
    fn emit(&mut self, index: usize, detail: Option<String>, batch: Option<BatchId>) -> EventRecord {
        let reason = self.requests[index].record.reason;
        self.emit_because(index, reason, detail, batch)
    }

    fn emit_because(
        &mut self,
        index: usize,
        reason: Option<Reason>,
        detail: Option<String>,
        batch: Option<BatchId>,
    ) -> EventRecord {
        self.cursor.event += 1;
        let entry = &mut self.requests[index];
        entry.events += 1;
        let record = &entry.record;
        let event = EventRecord {
            seq: self.cursor.event,
            request_id: record.id,
            request_seq: entry.events,
            tenant: record.tenant.clone(),
            chain_id: record.chain_id,
            status: record.status,
            reason,
            detail,
            batch,
            tx_hash: record.tx_hash,
            block_number: record.block_number,
            at_ms: record.updated_at.0,
        };
        self.new_events.push((record.seq, event.clone()));
        event
    }

    fn decision(&mut self, row: DecisionRow) -> WriteOutcome {
        let next = self.cursor.decision + 1;
        if row.seq != next {
            return WriteOutcome::Refused(format!("decision {} is not the next one, {next}", row.seq));
        }
        self.cursor.decision = next;
        self.cursor.decision_hash = row.hash;
        self.new_decisions.push(row);
        WriteOutcome::Applied(Vec::new())
    }

    /// Logs the requests accepted and ended by this commit, and earlier ended ones whose cost changed.
    fn summarise(&mut self, owner: &str, at: Timestamp) -> WriteOutcome {
        let narrow = |wei: U256| u128::try_from(wei).unwrap_or(u128::MAX);
        let accepted =
            self.requests.iter().filter(|entry| entry.stored.is_none()).map(|RequestEntry { record, .. }| Acceptance {
                request: record.id.0,
                tenant: record.tenant.clone(),
                key: record.submitted_by.clone(),
                chain_id: record.chain_id,
                deadline_s: record.deadline.0 / 1_000,
                reserved_wei: narrow(record.reserved_wei),
            });
        let accepted: Vec<_> = accepted.collect();
        let has_ended = |RequestEntry { record, stored, .. }: &&RequestEntry| {
            let is_known = stored.is_some_and(|was| was.status.is_terminal() && was.cost_wei == record.cost_wei);
            record.status.is_terminal() && !is_known
        };
        let ended = self.requests.iter().filter(has_ended).map(|RequestEntry { record, .. }| Ending {
            request: record.id.0,
            status: record.status.as_str().to_owned(),
            attempt: record.tx_hash,
            block_number: record.block_number,
            cost_wei: narrow(record.cost_wei.unwrap_or_default()),
            price_wei: record.other_price_wei().map(narrow),
            reason: record.reason.map(|reason| reason.as_str().to_owned()),
        });
        let ended: Vec<_> = ended.collect();
        if !accepted.is_empty() {
            self.decide(owner, at.0, &Decision::Accepted { requests: accepted });
        }
        if !ended.is_empty() {
            self.decide(owner, at.0, &Decision::Settled { requests: ended });
        }
        WriteOutcome::Applied(Vec::new())
    }

    /// Appends `decision` to the newest entry, whoever wrote that.
    fn decide(&mut self, owner: &str, at_ms: u64, decision: &Decision) -> WriteOutcome {
        let head = match self.cursor.decision {
            0 => Head::genesis(owner),
            seq => Head { seq, hash: self.cursor.decision_hash },
        };
        let Entry { seq, at_ms, prev, hash, body } = Entry::append(&head, at_ms, decision);
        self.decision(DecisionRow { seq, at_ms, prev, hash, body })
    }
}

/// Description of an imbalance of a bill (invariant I12); `None` if it balances.
fn imbalance(cost_wei: Option<U256>, changes: &[RequestChange], bill: &Bill) -> Option<String> {
    let charged = changes.iter().fold(U256::ZERO, |sum, change| sum.saturating_add(change.charged_wei));
    let borne = bill.accounts.iter().fold(charged, |sum, entry| sum.saturating_add(entry.wei));
    let taken = cost_wei.unwrap_or_default().saturating_add(bill.value_wei);
    (borne != taken).then(|| format!("requests and accounts bear {borne} wei of {taken} wei"))
}

/// Facts of a [`Write::Batch`] about the batch itself.
struct BatchFacts {
    state: BatchState,
    included_hash: Option<B256>,
    block: Option<(u64, B256)>,
    gas_used: Option<u64>,
    cost_wei: Option<U256>,
}
