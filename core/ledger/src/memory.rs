//! A ledger in memory, for the simulator: the decisions of [`super::apply`] over plain maps. Nothing survives the
//! process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use alloy_primitives::{Address, B256, U256};
use async_trait::async_trait;

use super::{
    AccountRow, AttemptRecord, BatchMember, BatchRecord, CostRow, DecisionRow, Durable, EndedByKey, EventFilter,
    EventRecord, KeyUse, Ledger, LedgerError, MarginRow, OpenByKey, RequestFilter, RequestRecord, SpentRow, Write,
    WriteOutcome,
    apply::{Cursor, MEMBERS_OF_CONTENT, NewAccount, NewMember, WorkingSet, holds_nonce},
    needs::{HOUR_MS, Key, Needs, Sequence},
    rows::Margins,
};
use crate::{
    provenance::Decision,
    request::{BatchId, LaneId, RequestId, Status, TargetRecord, settlement::CostAccount},
    time::Timestamp,
};

#[derive(Debug, Clone)]
struct Batch {
    record: BatchRecord,
    attempts: Vec<AttemptRecord>,
    members: Vec<BatchMember>,
    earlier: Vec<(u32, Vec<BatchMember>)>,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    cursor: Cursor,
    /// By order of acceptance, with the number of events of each.
    requests: BTreeMap<u64, (RequestRecord, u32)>,
    ids: HashMap<RequestId, u64>,
    keys: HashMap<Key, (B256, RequestId)>,
    holders: HashMap<Sequence, RequestId>,
    batches: BTreeMap<u64, Batch>,
    /// By (chain, sender, nonce).
    batch_ids: BTreeMap<BatchId, u64>,
    attempts: HashMap<B256, BatchId>,
    /// With the number of the request.
    events: Vec<(u64, EventRecord)>,
    accounts: Vec<NewAccount>,
    decisions: Vec<DecisionRow>,
    meta: BTreeMap<String, String>,
    targets: BTreeMap<(u64, Address), TargetRecord>,
}

/// Storage that outlives the [`MemoryLedger`]s opened on it, one after the other.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of the current state: a backup.
    pub fn snapshot(&self) -> Self {
        Self(Arc::new(Mutex::new(self.tables().clone())))
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batch of the committed attempt with this hash; `None` if there is none.
    pub fn attempt(&self, hash: B256) -> Option<BatchId> {
        self.tables().attempts.get(&hash).copied()
    }

    /// A batch with its members; `None` if unknown.
    pub fn batch(&self, id: BatchId) -> Option<(BatchRecord, Vec<BatchMember>)> {
        let tables = self.tables();
        let batch = &tables.batches[tables.batch_ids.get(&id)?];
        Some((batch.record.clone(), batch.members.clone()))
    }

    /// Every batch.
    pub fn batches(&self) -> Vec<BatchRecord> {
        self.tables().batches.values().map(|batch| batch.record.clone()).collect()
    }

    /// A request; `None` if unknown.
    pub fn request(&self, id: RequestId) -> Option<RequestRecord> {
        let tables = self.tables();
        Some(tables.requests[tables.ids.get(&id)?].0.clone())
    }

    /// Every request, in order of acceptance.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.tables().requests.values().map(|(record, _)| record.clone()).collect()
    }

    /// Totals borne by accounts.
    pub fn accounts(&self) -> Vec<AccountRow> {
        self.tables().accounts()
    }

    /// True if the decision log has an alert with this code.
    pub fn has_alert(&self, code: &str) -> bool {
        let is_it = |row: &DecisionRow| matches!(Decision::decode(&row.body), Ok(Decision::Alert { code: told, .. }) if told == code);
        self.tables().decisions.iter().any(is_it)
    }

    /// Events from position `place` on, counted from 0.
    pub fn events_from(&self, place: usize) -> Vec<EventRecord> {
        let tables = self.tables();
        tables.events.iter().skip(place).map(|(_, event)| event.clone()).collect()
    }
}

/// [`Ledger`] over a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryLedger {
    store: MemoryStore,
    is_closed: AtomicBool,
}

impl MemoryLedger {
    /// Opens `store`.
    pub const fn open(store: MemoryStore) -> Self {
        Self { store, is_closed: AtomicBool::new(false) }
    }

    fn tables(&self) -> Result<MutexGuard<'_, Tables>, LedgerError> {
        if self.is_closed.load(Ordering::Acquire) { Err(LedgerError::Closed) } else { Ok(self.store.tables()) }
    }
}

impl Tables {
    fn load(&self, needs: &Needs) -> WorkingSet {
        let mut set = WorkingSet::new(self.cursor);
        let mut wanted: Vec<RequestId> = needs.answers.iter().chain(&needs.requests).copied().collect();
        for key in &needs.keys {
            if let Some((body_hash, request)) = self.keys.get(key) {
                set.load_key(key.clone(), *body_hash, *request);
                wanted.push(*request);
            }
        }
        for id in wanted {
            if !set.holds_request(id)
                && let Some((record, events)) = self.ids.get(&id).and_then(|seq| self.requests.get(seq))
            {
                set.load_request(record.clone(), *events);
            }
        }
        for batch in self.batches.values().filter(|batch| !batch.record.state.is_final() && !needs.cancelled.is_empty())
        {
            let members = batch.earlier.iter().flat_map(|(_, members)| members).chain(&batch.members);
            for id in members.map(|member| &member.id).filter(|id| needs.cancelled.contains(id)) {
                set.load_bound(*id, batch.record.id);
            }
        }
        for sequence in &needs.sequences {
            if let Some(holder) = self.holders.get(sequence) {
                set.load_holder(*sequence, *holder);
            }
        }
        for lane in &needs.lanes {
            if let Some(nonce) = self.highest_nonce(*lane) {
                set.load_highest_nonce(*lane, nonce);
            }
        }
        for id in &needs.batches {
            if !set.holds_batch(*id)
                && let Some(seq) = self.batch_ids.get(id)
            {
                let batch = &self.batches[seq];
                let last = batch.attempts.last().map_or(0, |attempt| attempt.index);
                set.load_batch(batch.record.clone(), *seq, last);
            }
        }
        for hash in &needs.attempts {
            if let Some(batch) = self.attempts.get(hash) {
                set.load_attempt(*hash, *batch);
            }
        }
        for key in &needs.budgets {
            let (tenant, chain_id, hour) = key;
            for (record, _) in self.requests.values() {
                let counts =
                    record.tenant == *tenant && record.chain_id == *chain_id && record.accepted_at.0 / HOUR_MS >= *hour;
                if counts {
                    let is_open = !record.status.is_terminal();
                    let used = if is_open { record.reserved_wei } else { record.counted_wei() };
                    set.load_budget(key.clone(), used);
                }
            }
            for account in &self.accounts {
                let counts = account.entry.tenant.as_ref() == Some(tenant)
                    && account.chain_id == *chain_id
                    && account.at.0 / HOUR_MS >= *hour;
                if counts {
                    set.load_budget(key.clone(), account.entry.wei);
                }
            }
        }
        set
    }

    fn accounts(&self) -> Vec<AccountRow> {
        let mut sums: BTreeMap<(u64, CostAccount, Option<String>), U256> = BTreeMap::new();
        for NewAccount { chain_id, entry, .. } in &self.accounts {
            let sum = sums.entry((*chain_id, entry.account, entry.tenant.clone())).or_default();
            *sum = sum.saturating_add(entry.wei);
        }
        let row = |((chain_id, account, tenant), wei)| AccountRow { chain_id, account, tenant, wei };
        sums.into_iter().map(row).collect()
    }

    fn highest_nonce(&self, lane: LaneId) -> Option<u64> {
        let all = BatchId { lane, nonce: 0 }..=BatchId { lane, nonce: u64::MAX };
        self.batch_ids.range(all).next_back().map(|(id, _)| id.nonce)
    }

    fn store(&mut self, set: WorkingSet) {
        self.cursor = set.cursor;
        for entry in set.requests.iter().filter(|entry| entry.is_replaced) {
            self.requests.remove(&entry.record.seq);
            self.keys.retain(|_, (_, request)| *request != entry.record.id);
        }
        for entry in set.requests.into_iter().filter(|entry| entry.changed) {
            let record = entry.record;
            if let Some((forwarder, signer, nonce)) = record.sequence {
                let sequence = (record.chain_id, forwarder, signer, nonce);
                if holds_nonce(record.status) {
                    self.holders.insert(sequence, record.id);
                } else if self.holders.get(&sequence) == Some(&record.id) {
                    self.holders.remove(&sequence);
                }
            }
            self.ids.insert(record.id, record.seq);
            self.requests.insert(record.seq, (record, entry.events));
        }
        for entry in set.batches.into_iter().filter(|entry| entry.is_new || entry.changed) {
            self.batch_ids.insert(entry.record.id, entry.seq);
            match self.batches.get_mut(&entry.seq) {
                Some(batch) => batch.record = entry.record,
                None => {
                    let (attempts, members, earlier) = Default::default();
                    let batch = Batch { record: entry.record, attempts, members, earlier };
                    self.batches.insert(entry.seq, batch);
                }
            }
        }
        for NewMember { batch, position, request, own_gas } in set.new_members {
            let id = self.requests[&request].0.id;
            if let Some(batch) = self.batches.get_mut(&batch) {
                if position.is_multiple_of(MEMBERS_OF_CONTENT) && position > 0 {
                    let until = u32::try_from(position / MEMBERS_OF_CONTENT).unwrap_or(u32::MAX);
                    batch.earlier.push((until, std::mem::take(&mut batch.members)));
                }
                batch.members.push(BatchMember { id, own_gas });
            }
        }
        for (batch, attempt) in set.new_attempts {
            self.attempts.insert(attempt.hash, attempt.batch);
            if let Some(batch) = self.batches.get_mut(&batch) {
                batch.attempts.push(attempt);
            }
        }
        for new in set.new_keys {
            let id = self.requests[&new.request_seq].0.id;
            self.keys.insert(new.key, (new.body_hash, id));
        }
        self.events.extend(set.new_events);
        self.accounts.extend(set.new_accounts);
        self.decisions.extend(set.new_decisions);
        self.meta.extend(set.new_meta);
        self.targets.extend(set.new_targets);
        self.targets.retain(|_, record| !record.is_empty());
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        let mut tables = self.tables()?;
        let mut set = tables.load(&Needs::of(&writes));
        let outcomes: Vec<WriteOutcome> = writes.into_iter().map(|write| set.apply(write)).collect();
        tables.store(set);
        Ok(outcomes.into_iter().map(Durable::committed).collect())
    }

    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        let tables = self.tables()?;
        Ok(tables.ids.get(&id).map(|seq| tables.requests[seq].0.clone()))
    }

    async fn requests_by_id(&self, ids: &[RequestId]) -> Result<Vec<RequestRecord>, LedgerError> {
        let tables = self.tables()?;
        let seqs = ids.iter().filter_map(|id| tables.ids.get(id));
        Ok(seqs.map(|seq| tables.requests[seq].0.clone()).collect())
    }

    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        let tables = self.tables()?;
        let found = tables.requests.range(..filter.before.unwrap_or(u64::MAX)).rev().map(|(_, (record, _))| record);
        Ok(found
            .filter(|record| filter.tenant.as_ref().is_none_or(|tenant| *tenant == record.tenant))
            .filter(|record| filter.status.is_none_or(|status| status == record.status))
            .filter(|record| filter.chain_id.is_none_or(|chain_id| chain_id == record.chain_id))
            .filter(|record| filter.from.is_none_or(|from| from <= record.seq))
            .skip(filter.skip)
            .take(filter.limit)
            .cloned()
            .collect())
    }

    async fn open_requests(&self, chain_id: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        let tables = self.tables()?;
        let found = tables.requests.range(after.saturating_add(1)..).map(|(_, (record, _))| record);
        let is_open = |record: &&RequestRecord| record.chain_id == chain_id && !record.status.is_terminal();
        Ok(found.filter(is_open).take(limit).cloned().collect())
    }

    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError> {
        let tables = self.tables()?;
        Ok(tables.batch_ids.get(&id).map(|seq| {
            let batch = tables.batches[seq].clone();
            (batch.record, batch.attempts, batch.members)
        }))
    }

    async fn open_batches(
        &self,
        lane: LaneId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>)>, LedgerError> {
        let tables = self.tables()?;
        let all = BatchId { lane, nonce: from }..=BatchId { lane, nonce: u64::MAX };
        let open = tables.batch_ids.range(all).map(|(_, seq)| tables.batches[seq].clone());
        Ok(open
            .filter(|batch| !batch.record.state.is_final())
            .take(limit)
            .map(|batch| {
                let attempts = batch.attempts.into_iter().map(Durable::committed).collect();
                (batch.record, attempts, batch.members)
            })
            .collect())
    }

    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError> {
        let tables = self.tables()?;
        let batch = tables.batch_ids.get(&id).map(|seq| &tables.batches[seq]);
        Ok(batch.map(|batch| batch.earlier.clone()).unwrap_or_default())
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        Ok(self.tables()?.highest_nonce(lane).map(|nonce| nonce + 1))
    }

    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        let tables = self.tables()?;
        let place = usize::try_from(filter.after).unwrap_or(usize::MAX).min(tables.events.len());
        Ok(tables.events[place..]
            .iter()
            .filter(|(request, _)| filter.request.is_none_or(|wanted| wanted == *request))
            .map(|(_, event)| event)
            .filter(|event| filter.tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant))
            .take(filter.limit)
            .cloned()
            .collect())
    }

    async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        Ok(self.tables()?.cursor.event)
    }

    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError> {
        let tables = self.tables()?;
        let mut sums: BTreeMap<(String, u64), (U256, U256)> = BTreeMap::new();
        for (record, _) in tables.requests.values() {
            if record.accepted_at.0 / HOUR_MS < since_ms / HOUR_MS {
                continue;
            }
            let sum = sums.entry((record.tenant.clone(), record.chain_id)).or_default();
            if record.status.is_terminal() {
                sum.1 = sum.1.saturating_add(record.counted_wei());
            } else {
                sum.0 = sum.0.saturating_add(record.reserved_wei);
            }
        }
        for account in &tables.accounts {
            if let Some(tenant) = &account.entry.tenant
                && account.at.0 / HOUR_MS >= since_ms / HOUR_MS
            {
                let sum = sums.entry((tenant.clone(), account.chain_id)).or_default();
                sum.1 = sum.1.saturating_add(account.entry.wei);
            }
        }
        sums.retain(|_, (reserved, spent)| !(reserved.is_zero() && spent.is_zero()));
        let row =
            |((tenant, chain_id), (reserved_wei, spent_wei))| SpentRow { tenant, chain_id, reserved_wei, spent_wei };
        Ok(sums.into_iter().map(row).collect())
    }

    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError> {
        Ok(self.tables()?.accounts())
    }

    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError> {
        let tables = self.tables()?;
        let mut sums = Margins::default();
        for (record, _) in tables.requests.values() {
            if let Some((cost, price)) = record.cost_wei.zip(record.other_price_wei()) {
                sums.add(record.tenant.clone(), record.chain_id, cost, price);
            }
        }
        Ok(sums.rows())
    }

    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError> {
        let tables = self.tables()?;
        let records = tables.requests.range(after.saturating_add(1)..).map(|(_, (record, _))| record);
        let ended = records.filter(|record| record.status.is_terminal() && record.accepted_at >= since);
        let costs = ended.filter(|record| record.tenant == tenant).filter_map(|record| {
            record.cost_wei?;
            let (signer, counted_wei) = (record.sequence.map(|(_, signer, _)| signer), record.counted_wei());
            Some(CostRow { seq: record.seq, chain_id: record.chain_id, signer, target: record.target, counted_wei })
        });
        Ok(costs.take(limit).collect())
    }

    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError> {
        let tables = self.tables()?;
        let (mut open, mut ended) = (Vec::new(), BTreeMap::new());
        for (record, _) in tables.requests.values().filter(|(record, _)| record.tenant == tenant) {
            let Some(key) = record.submitted_by.clone().filter(|key| keys.contains(key.as_str())) else { continue };
            let RequestRecord { id, chain_id, accepted_at, reserved_wei, .. } = *record;
            if !record.status.is_terminal() {
                open.push(OpenByKey { key, id, chain_id, accepted_at, reserved_wei });
                continue;
            }
            let is_after = since.map(|since| accepted_at >= since);
            if is_after.contains(&true) {
                let sums = EndedByKey { key: key.clone(), chain_id, since: Default::default() };
                let sums = ended.entry((key, chain_id)).or_insert(sums);
                sums.add(is_after, 1, record.counted_wei());
            }
        }
        Ok(KeyUse { open, ended: ended.into_values().collect() })
    }

    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError> {
        let tables = self.tables()?;
        let records = tables.requests.values().map(|(record, _)| record);
        let open = records.filter(|record| record.chain_id == chain_id && !record.status.is_terminal());
        let mut nonces: Vec<u64> = open
            .filter_map(|record| record.sequence)
            .filter(|(at, from, _)| (*at, *from) == (forwarder, signer))
            .map(|(_, _, nonce)| nonce)
            .collect();
        nonces.sort_unstable();
        Ok(nonces)
    }

    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        let tables = self.tables()?;
        Ok(tables.decisions.iter().filter(|row| row.seq > after).take(limit).cloned().collect())
    }

    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError> {
        Ok(self.tables()?.decisions.last().cloned())
    }

    async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        let tables = self.tables()?;
        let mut counts: BTreeMap<(u64, u8), (Status, u64)> = BTreeMap::new();
        for (record, _) in tables.requests.values() {
            counts.entry((record.chain_id, record.status as u8)).or_insert((record.status, 0)).1 += 1;
        }
        Ok(counts.into_iter().map(|((chain_id, _), (status, count))| (chain_id, status, count)).collect())
    }

    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError> {
        let tables = self.tables()?;
        let here = tables.targets.iter().filter(|((chain, _), _)| *chain == chain_id);
        let mut found: Vec<TargetRecord> = here.map(|(_, record)| *record).collect();
        found.sort_by_key(|record| (record.seen_at, record.target));
        Ok(found)
    }

    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        Ok(self.tables()?.meta.get(key).cloned())
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }
}
