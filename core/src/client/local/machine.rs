//! The state machine: its parts, its storage, and the processing of one input.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, U256};
use serde_json::Value;

use super::{
    calls::Pending,
    config::{ConfigError, LocalConfig},
    dispatch::Candidate,
    flights::{Flight, PollRun},
    heads::{Heads, Look},
    key::SessionKey,
    nonces::Users,
    pricing::Pricing,
    record::{AttemptRecord, End, LANE_KEY, LaneRecord, RequestRecord, attempt_key, parse_attempt_key, request_key},
    requests::{Entry, LocalError},
    spender::Spenders,
};
use crate::{
    lane::{AttemptKey, Event, HeadInfo, Lane, LaneConfig, RestoredSlot},
    request::{
        LaneId, RequestId, Status, VerifiedRequest,
        vehicle::{Company, VehicleKey, VehicleParams},
    },
    schedule::{Queue, QueuedRequest, Refusals},
    table::Table,
    time::Timestamp,
};

/// First pause after a failed write; each further one is twice as long.
const FIRST_STORE_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a failed write.
const MAX_STORE_PAUSE: Duration = Duration::from_secs(30);

/// A command for the caller to execute.
#[derive(Debug, Clone, PartialEq)]
pub enum LocalCommand {
    /// Put `record` under `key`, in place of what is there. `Store` and `Remove` must reach storage in order.
    Store {
        /// Storage key.
        key: String,
        /// Revision to report back.
        revision: u64,
        /// The record, JSON.
        record: String,
    },
    /// Remove the record under `key`.
    Remove {
        /// Storage key.
        key: String,
    },
    /// Call the node once, immediately. Never retry: the machine does.
    Call {
        /// Call id to report back.
        call: u64,
        /// JSON-RPC method.
        method: &'static str,
        /// JSON-RPC parameters.
        params: Value,
    },
    /// A request changed; read it with [`LocalRelay::request`].
    Changed {
        /// Id of the request.
        id: RequestId,
    },
    /// A condition to report to the user or operator.
    Alert {
        /// Stable code.
        code: &'static str,
        /// Human-readable detail.
        detail: String,
    },
}

/// Summary of the records found in storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalReport {
    /// Number of open requests.
    pub open: usize,
    /// Number of ended requests that were not acknowledged.
    pub ended: usize,
    /// Keys of request records that can't be read. The records stay in storage.
    pub damaged: Vec<String>,
}

/// Purpose of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Attempt(AttemptKey),
    End(RequestId),
    Other,
}

/// A record on its way to storage.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) revision: u64,
    pub(super) record: String,
    pub(super) kept: Kept,
    failures: u32,
    retry_at: Option<Timestamp>,
}

/// A settled nonce: once all these records are durable, its attempts are deleted.
#[derive(Debug, Default)]
pub(super) struct Closing {
    pub(super) waits: Vec<String>,
    pub(super) attempts: Vec<AttemptKey>,
}

/// A relay of one chain and one session key.
#[derive(Debug)]
pub struct LocalRelay {
    pub(super) config: LocalConfig,
    pub(super) key: SessionKey,
    pub(super) params: VehicleParams,
    pub(super) lane: Lane,
    pub(super) queue: Queue,
    pub(super) pricing: Pricing,
    pub(super) entries: Table<RequestId, Entry>,
    pub(super) flights: Table<u64, Flight>,
    /// Signed attempts, not yet durable.
    pub(super) signed: Table<AttemptKey, AttemptRecord>,
    /// Durable attempts, which may be sent.
    pub(super) durable: Table<AttemptKey, AttemptRecord>,
    pub(super) closing: Table<u64, Closing>,
    /// One more than the highest final nonce.
    pub(super) final_next: u64,
    pub(super) candidate: Option<Candidate>,
    /// Consecutive inconclusive simulations.
    pub(super) silent_simulations: u32,
    /// True if the node has no `eth_simulateV1`.
    pub(super) lacks_simulate: bool,
    /// Requests that wait for the next block: they failed a simulation, or the lane refused them.
    pub(super) held: Vec<RequestId>,
    pub(super) head: Option<HeadInfo>,
    pub(super) heads: Heads,
    pub(super) look: Option<Look>,
    pub(super) polls: Table<u64, PollRun>,
    pub(super) users: Users,
    pub(super) spenders: Spenders,
    /// Checked forwarders; true if the code is a known version.
    pub(super) forwarders: Table<Address, bool>,
    pub(super) calls: Table<u64, Pending>,
    pub(super) next_id: u64,
    pub(super) seq: u64,
    /// Time at which composing may select something, if nothing else happens before.
    pub(super) due: Option<Timestamp>,
    writing: Table<String, Writing>,
    commands: VecDeque<LocalCommand>,
}

impl LocalRelay {
    /// A relay with empty state; [`Self::load`] the stored records before anything else.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: LocalConfig, key: SessionKey) -> Result<Self, ConfigError> {
        config.validate()?;
        let sender = key.address();
        let params = VehicleParams {
            sender,
            // Every call is a transaction of its own here, because no Multicall3 code was checked.
            multicall3: None,
            schedule: *config.fork.gas_schedule(),
            forward_overhead_gas: config.batch.forward_overhead_gas,
        };
        let mut queue = Queue::new();
        queue.recall_targets(config.targets, Vec::new());
        Ok(Self {
            lane: Lane::restore(lane_config(&config, sender), None, Vec::new()),
            pricing: Pricing::new(&config),
            config,
            key,
            params,
            queue,
            entries: Table::new(),
            flights: Table::new(),
            signed: Table::new(),
            durable: Table::new(),
            closing: Table::new(),
            final_next: 0,
            candidate: None,
            silent_simulations: 0,
            lacks_simulate: false,
            held: Vec::new(),
            head: None,
            heads: Heads::default(),
            look: None,
            polls: Table::new(),
            users: Users::default(),
            spenders: Spenders::default(),
            forwarders: Table::new(),
            calls: Table::new(),
            next_id: 0,
            seq: 0,
            due: None,
            writing: Table::new(),
            commands: VecDeque::new(),
        })
    }

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
        let mut attempts: Table<AttemptKey, AttemptRecord> = Table::new();
        let mut next_nonce = None;
        for (key, text) in records {
            let is_short = text.len() <= self.config.max_record_bytes;
            let damaged = |key: String| LocalError::Damaged { key };
            if key == LANE_KEY {
                next_nonce = Some(LaneRecord::decode(&text).ok_or_else(|| damaged(key))?.next_nonce);
            } else if key.starts_with("a:") {
                let parsed = parse_attempt_key(&key).zip(AttemptRecord::decode(&text));
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
        let mut open = Table::new();
        for (_, record) in requests {
            match record.end.clone() {
                None => {
                    report.open += 1;
                    open.insert(record.request.id(), self.enter(record));
                }
                Some(end) => {
                    report.ended += 1;
                    let (id, entry) = (record.request.id(), Entry::ended(record, end));
                    self.entries.insert(id, entry);
                }
            }
        }
        self.restore_lane(next_nonce, attempts, &mut open)?;
        let mut rest = Table::new();
        for (_, queued) in open {
            rest.insert(queued.seq, queued);
        }
        for (_, queued) in rest {
            self.queue.push(queued);
        }
        self.wake(now);
        Ok(report)
    }

    /// Registers an open request and returns its queue entry.
    pub(super) fn enter(&mut self, record: RequestRecord) -> QueuedRequest {
        self.seq += 1;
        let request = Arc::new(record.request);
        let queued = QueuedRequest {
            tenant: "".into(),
            seq: self.seq,
            accepted_at: record.accepted_at,
            gas: self.params.member_gas(&request),
            bytes: self.params.member_bytes(&request),
            ceiling_wei_per_gas: record.ceiling_wei_per_gas,
            first_ceiling_wei_per_gas: record.ceiling_wei_per_gas,
            // One session key pays for all requests, so none has a reservation of its own.
            reserved_wei: U256::MAX,
            spent_wei: U256::ZERO,
            price_percent: 100,
            company: Company::Named,
            simulations: 0,
            batch_failures: record.batch_failures,
            due: request.deadline(),
            is_late: false,
            refusals: Refusals::default(),
            request: request.clone(),
        };
        self.entries.insert(request.id(), Entry::open(request, record.accepted_at, record.ceiling_wei_per_gas));
        queued
    }

    fn restore_lane(
        &mut self,
        next_nonce: Option<u64>,
        attempts: Table<AttemptKey, AttemptRecord>,
        open: &mut Table<RequestId, QueuedRequest>,
    ) -> Result<(), LocalError> {
        // Ascending, as the attempts are.
        let mut nonces: Vec<(u64, Vec<AttemptRecord>)> = Vec::new();
        for (key, record) in attempts.iter() {
            if nonces.last().is_none_or(|(nonce, _)| *nonce != key.nonce) {
                nonces.push((key.nonce, Vec::new()));
            }
            let Some((_, of_nonce)) = nonces.last_mut() else { continue };
            // Attempt indices have no gaps, and the first attempt holds the batch.
            if key.index as usize != of_nonce.len() || (key.index == 0 && record.batch.is_none()) {
                return Err(LocalError::Damaged { key: attempt_key(*key) });
            }
            of_nonce.push(record.clone());
        }
        let lane = self.lane.id();
        let mut slots = Vec::new();
        // A request returned by an older batch belongs to the newest one that names it.
        for (nonce, records) in nonces.into_iter().rev() {
            // The newest batch replaced those that every node had refused.
            let Some(batch) = records.iter().rev().find_map(|record| record.batch.clone()) else { continue };
            let mut members: Vec<Arc<VerifiedRequest>> = Vec::new();
            let (mut weights, mut absent_weight, mut flying) = (Vec::new(), None, Vec::new());
            for (id, weight) in batch.members.iter().zip(&batch.weights) {
                // A request that has already ended (a crash between two writes) stays ended.
                let Some(queued) = open.remove(id) else {
                    absent_weight = Some(absent_weight.unwrap_or(0_u64).saturating_add(*weight));
                    continue;
                };
                weights.push(*weight);
                members.push(queued.request.clone());
                flying.push(queued);
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.status = Status::Broadcast;
                    entry.is_bound = true;
                }
            }
            self.queue.push_in_flight(flying, lane, self.params.base_gas());
            let key =
                members.first().map_or(VehicleKey::Single(RequestId(B256::ZERO)), |first| VehicleKey::of(first, false));
            slots.push(RestoredSlot {
                nonce,
                plan: batch.plan(),
                attempts: records.iter().map(|record| (record.kind, record.fees(), record.hash)).collect(),
                refused_plans: 0,
                was_broadcast: true,
                was_included: false,
            });
            self.flights.insert(
                nonce,
                Flight {
                    key,
                    members,
                    weights,
                    absent_weight,
                    plan: batch.plan(),
                    planned_block: batch.planned_block,
                    is_stored: true,
                },
            );
        }
        slots.reverse();
        self.durable = attempts;
        self.final_next = next_nonce.unwrap_or(0);
        self.lane = Lane::restore(lane_config(&self.config, self.key.address()), next_nonce, slots);
        Ok(())
    }

    // ---- commands ----

    /// The next command; `None` if there is none.
    pub fn next_command(&mut self) -> Option<LocalCommand> {
        self.commands.pop_front()
    }

    pub(super) fn command(&mut self, command: LocalCommand) {
        self.commands.push_back(command);
    }

    pub(super) fn changed(&mut self, id: RequestId) {
        if self.commands.back() != Some(&LocalCommand::Changed { id }) {
            self.commands.push_back(LocalCommand::Changed { id });
        }
    }

    // ---- storage ----

    pub(super) fn store(&mut self, key: String, record: String, kept: Kept) {
        self.next_id += 1;
        let revision = self.next_id;
        self.commands.push_back(LocalCommand::Store { key: key.clone(), revision, record: record.clone() });
        self.writing.insert(key, Writing { revision, record, kept, failures: 0, retry_at: None });
    }

    pub(super) fn store_end(&mut self, id: RequestId, end: &End) {
        let Some(entry) = self.entries.get(&id) else { return };
        let failures = self.queue.get(id).map_or(0, |queued| queued.batch_failures);
        let (request, accepted_at, ceiling) = (entry.request.clone(), entry.accepted_at, entry.ceiling_wei_per_gas);
        let record = RequestRecord::encode(&request, accepted_at, ceiling, failures, Some(end));
        self.store(request_key(id), record, Kept::End(id));
    }

    pub(super) fn is_writing(&self, key: &str) -> bool {
        self.writing.contains_key(key)
    }

    /// Reports that the record of this revision is durable.
    pub fn stored(&mut self, now: Timestamp, key: &str, revision: u64) {
        if self.writing.get(key).is_none_or(|writing| writing.revision != revision) {
            return;
        }
        let Some(writing) = self.writing.remove(key) else { return };
        match writing.kept {
            Kept::Attempt(attempt) => self.attempt_stored(now, attempt),
            Kept::End(id) => self.end_stored(id),
            Kept::Other => {}
        }
        let done: Vec<u64> = self
            .closing
            .iter_mut()
            .filter_map(|(nonce, closing)| {
                closing.waits.retain(|waited| waited != key);
                closing.waits.is_empty().then_some(*nonce)
            })
            .collect();
        done.into_iter().for_each(|nonce| self.close(nonce));
        self.go_on(now);
    }

    /// Reports that the record of this revision could not be stored. The write is retried; dependent steps wait for it.
    pub fn store_failed(&mut self, now: Timestamp, key: &str, revision: u64) {
        let Some(writing) = self.writing.get_mut(key).filter(|writing| writing.revision == revision) else { return };
        let pause = FIRST_STORE_PAUSE.saturating_mul(1 << writing.failures.min(10)).min(MAX_STORE_PAUSE);
        writing.failures += 1;
        writing.retry_at = Some(now.saturating_add(pause));
        if writing.failures == 1 {
            let detail = format!("record {key} could not be stored; nothing that depends on it is sent");
            self.command(LocalCommand::Alert { code: "storage_failed", detail });
        }
    }

    fn store_again(&mut self, now: Timestamp) {
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
    pub(super) fn close(&mut self, nonce: u64) {
        let Some(closing) = self.closing.remove(&nonce) else { return };
        for key in closing.attempts.into_iter().rev() {
            self.writing.remove(&attempt_key(key));
            self.command(LocalCommand::Remove { key: attempt_key(key) });
        }
    }

    // ---- time ----

    /// Latest time to call [`Self::timeout`]; `None` while nothing is under way.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let writes = self.writing.values().filter_map(|writing| writing.retry_at);
        let calls = self.calls.values().map(|pending| pending.until);
        let deadlines = self.entries.values().filter(|entry| entry.is_waiting()).map(|entry| entry.request.deadline());
        let kept = self.entries.values().filter_map(|entry| entry.ended_at);
        let kept = kept.map(|at| at.saturating_add(self.config.keep_ended));
        let poll = self.heads.next_poll.filter(|_| self.look.is_none());
        let due = self.due.into_iter();
        writes.chain(calls).chain(deadlines).chain(kept).chain(poll).chain(due).min()
    }

    /// Processes everything due at `now`.
    pub fn timeout(&mut self, now: Timestamp) {
        self.store_again(now);
        self.forget_old(now);
        self.expire_calls(now);
        self.go_on(now);
    }

    /// True while something under way needs the chain.
    pub(super) fn is_active(&self) -> bool {
        self.queue.waiting() > 0
            || self.candidate.is_some()
            || !self.held.is_empty()
            || !self.flights.is_empty()
            || self.lane.in_flight() > 0
            || self.lane.unfinal() > 0
    }

    /// Schedules a poll of the head at once, if something is under way.
    pub(super) fn wake(&mut self, now: Timestamp) {
        if self.is_active() && self.heads.next_poll.is_none_or(|at| at > now) {
            self.heads.next_poll = Some(now);
        }
    }

    /// Does all work due now; runs after every input.
    pub(super) fn go_on(&mut self, now: Timestamp) {
        self.drain(now);
        self.expire(now);
        self.look_up_users(now);
        self.dispatch(now);
        self.drain(now);
        self.poll_head(now);
        self.due = self.next_due(now);
    }

    pub(super) fn lane_event(&mut self, now: Timestamp, event: Event) {
        self.lane.handle_event(now, event);
        self.drain(now);
    }
}

fn lane_config(config: &LocalConfig, sender: Address) -> LaneConfig {
    LaneConfig {
        id: LaneId { chain_id: config.chain_id, sender },
        max_in_flight: config.lane.max_in_flight,
        replacement: config.replacement,
        bump_after_blocks: config.lane.bump_after_blocks,
        rebroadcast_after_blocks: config.lane.rebroadcast_after_blocks,
        // Nobody else waits behind a page's own requests.
        abandon_after_blocks: 0,
        max_attempts: config.lane.max_attempts,
        max_refused_plans: config.lane.max_refused_plans,
        max_fee_ceiling_wei_per_gas: config.fees.max_fee_ceiling_wei_per_gas,
        cancel_gas: config.lane.cancel_gas,
    }
}
