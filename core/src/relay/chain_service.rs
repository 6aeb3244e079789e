//! The actor of one chain: owns the queue and the lanes, turns their commands into I/O and the results into events.
//!
//! It awaits nothing but its inboxes: signing is local, and slow work runs in a task of its [`JoinSet`], whose result
//! arrives as a [`Done`].

mod endings;
mod nonces;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, keccak256};
use futures_util::FutureExt as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use endings::Gap;
use nonces::Confirmed;

use super::{
    admission::ChainShared,
    clock,
    cluster::{Membership, News, Reign},
    data_fee::{DataFeeFault, Told},
    dispatch::Candidate,
    error::CancelError,
    fees::Price,
    foresight::{ForecastView, Foresight, Outlook, Refitted},
    journal::JournalEntry,
    lane_shell::LaneShell,
    learned::{ModelCommand, ModelError, ModelReply, Written},
    market::ChainMarket,
    pricing::Pricing,
    receipts,
    replan::Shown,
    rpc::SendReport,
    settle::Waiting,
    simulate::Simulation,
    start::final_block_key,
    status::ChainHealth,
    stow::Fetched,
    stranger::Stranger,
    tenants::Tenants,
    tuning::TimingMode,
    turns::SimulationTurns,
    watcher::HeadUpdate,
};
use crate::{
    chain::data_fee::DataFeeModel,
    lane::{AttemptKey, Event, HeadInfo, PollPurpose},
    ledger::{Ledger, Tracked, Write},
    market::FeePoint,
    protection::Protection,
    provenance::Decision,
    request::{BatchId, Reason, RequestId, Status, gate::Doubt, outcome::TxReceipt, settlement::Culprit},
    schedule::{Backlog, PercentileOutlook, Queue, QueuedRequest, TenantPace},
    time::Timestamp,
};

/// Capacity of the service's inbox.
pub(super) const INBOX_LEN: usize = 8_192;

/// Block times after a head for which the chain still counts as healthy.
const LATE_BLOCKS: u32 = 4;

/// Most canonical block hashes remembered when finality does not advance.
const MAX_CANONICAL_BLOCKS: u64 = 16_384;

/// Interval between checks of deadlines and linger times.
const TICK: Duration = Duration::from_millis(25);

/// Ticks between refreshes of the published view when nothing else refreshes it.
const VIEW_EVERY_TICKS: u32 = 8;

/// Lookups of which at most one of a kind runs at a time: true while its task runs. The task's result clears the flag.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) nonces: bool,
    pub(super) gaps: bool,
    pub(super) suspects: bool,
    pub(super) tip: bool,
}

/// Messages to the service.
#[derive(Debug)]
pub(super) enum Message {
    /// Accepted requests, already durable.
    Accepted(Vec<QueuedRequest>),
    /// Withdraw a waiting request.
    Cancel { tenant: String, id: RequestId, reply: oneshot::Sender<Result<(), CancelError>> },
    /// An operator's command on the forecast models.
    Models { command: ModelCommand, reply: ModelReply },
    /// This instance has acquired the lease on the lanes.
    Reign(Box<Reign>),
    /// Actions of other instances while this one holds the lease.
    News(Box<News>),
}

/// Result of a background task.
#[derive(Debug)]
pub(super) enum Done {
    Persisted {
        lane: usize,
        key: AttemptKey,
        outcomes: Option<Vec<Tracked>>,
    },
    Sent {
        lane: usize,
        key: AttemptKey,
        report: SendReport,
    },
    /// Priority fee suggested by a majority of the nodes, wei per gas; `None` if too few answered.
    Suggested(Option<u128>),
    Receipts {
        lane: usize,
        nonce: u64,
        purpose: PollPurpose,
        found: Option<Box<TxReceipt>>,
        is_complete: bool,
        at_block: u64,
        /// The foreign transaction that took the nonce, if one did.
        stranger: Option<Stranger>,
    },
    /// The majority's receipt of a transaction for which one node returned an implausible one.
    Agreed {
        lane: usize,
        nonce: u64,
        at_block: u64,
        found: Option<Box<TxReceipt>>,
    },
    Simulated {
        lane: usize,
        candidate: Box<Candidate>,
        simulation: Simulation,
        told: Told,
    },
    /// Forwarder nonces of the members that a transaction left untouched, read for its settlement.
    Inspected {
        order: (Timestamp, BatchId),
        nonces: BTreeMap<(Address, Address), u64>,
        /// The contracts among its unnamed targets not classified before.
        contracts: Vec<Address>,
        /// The member that caused a cost no simulation had shown.
        culprit: Option<Culprit>,
    },
    /// The inspection failed; it is repeated with the next block.
    InspectionLost((Timestamp, BatchId)),
    /// The contracts among the targets of a clean transaction.
    Contracts {
        lane: usize,
        nonce: u64,
        hash: B256,
        contracts: Vec<Address>,
    },
    /// The majority's view of a transaction that left out some members.
    Shown(Shown),
    /// The bytes of a transaction, read back from the ledger.
    Fetched(Fetched),
    Nonces {
        /// (forwarder, signer) pairs that were asked about; empty if no node was reachable.
        asked: Vec<(Address, Address)>,
        found: Vec<((Address, Address), u64)>,
    },
    /// One user's forwarder nonce, read again.
    Rechecked {
        found: Vec<((Address, Address), u64)>,
    },
    /// Forwarder nonces of suspects.
    Confirmed {
        found: Vec<Confirmed>,
    },
    /// Forwarder nonces of users with a gap, read again.
    Gaps {
        found: Vec<((Address, Address), u64)>,
    },
    /// Models fitted in the background; `None` if fitting failed.
    Refitted(Option<Box<Refitted>>),
    /// Serialised models or learned state, ready to be stored.
    Written(Box<Written>),
    /// A task without a result has ended.
    Noted,
    Cancelled {
        id: RequestId,
        reply: oneshot::Sender<Result<(), CancelError>>,
    },
}

/// One chain's actor.
#[derive(Debug)]
pub(super) struct ChainService {
    pub(super) shared: Arc<ChainShared>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) tenants: Arc<Tenants>,
    /// Policy change count last applied to the queue; `None` for a new queue.
    pub(super) policy_changes: Option<u64>,
    pub(super) journal: mpsc::Sender<JournalEntry>,
    /// Entries that did not fit into the journal's channel yet, in order.
    pub(super) backlog: VecDeque<JournalEntry>,
    pub(super) queue: Queue,
    /// Slack up to which the current price is good enough to send.
    pub(super) outlook: Outlook,
    pub(super) gate: PercentileOutlook,
    pub(super) market: ChainMarket,
    /// Newest block in `market`, for the readers of fee histories.
    pub(super) believed: Arc<AtomicU64>,
    /// Fee offers, and the guard time before a deadline.
    pub(super) pricing: Pricing,
    /// `None` if the tuning disables forecasts.
    pub(super) foresight: Option<Foresight>,
    /// Hashes by number of the known canonical blocks that are not final.
    pub(super) canonical: BTreeMap<u64, B256>,
    pub(super) lanes: Vec<LaneShell>,
    /// Final transactions not settled yet, in the order in which they were planned.
    pub(super) settlements: BTreeMap<(Timestamp, BatchId), Waiting>,
    pub(super) head: Option<HeadInfo>,
    /// Proposer of the newest believed block.
    pub(super) proposer: Option<Address>,
    pub(super) price: Option<Price>,
    pub(super) forecast: Option<Arc<ForecastView>>,
    /// L1 fee parameters as last read; `None` before the first successful read.
    pub(super) data_fee: Option<DataFeeModel>,
    /// Fault of the last read of `data_fee`; `None` if it succeeded.
    pub(super) data_fee_fault: Option<DataFeeFault>,
    pub(super) head_at: Timestamp,
    /// Newest head's timestamp minus our clock at its arrival, ms; negative if the head is behind.
    pub(super) clock_skew_ms: i64,
    /// Time when the final block was last persisted; `None` if not yet since the start.
    pub(super) final_kept_at: Option<Timestamp>,
    /// Health last logged.
    pub(super) told_health: ChainHealth,
    /// Time when learned state was last saved.
    pub(super) kept_at: Timestamp,
    pub(super) tasks: JoinSet<Done>,
    /// Lookups among `tasks`.
    pub(super) under_way: UnderWay,
    /// Permits for concurrent receipt polls.
    pub(super) polls: Arc<Semaphore>,
    /// Permits for concurrent reads of transactions' bytes.
    pub(super) reads: Arc<Semaphore>,
    /// Permits for concurrent searches for a transaction's culprit: few, because each may be large.
    pub(super) searches: Arc<Semaphore>,
    /// Requests that wait for the next block, mostly after a failed simulation.
    pub(super) held: Vec<RequestId>,
    /// Expired requests whose outcome depends on another transaction of ours that is not settled.
    pub(super) undecided: BTreeSet<RequestId>,
    /// True if a transaction was settled, or left its nonce, since `undecided` was last checked.
    pub(super) is_loosened: bool,
    /// Simulation refusals by node, per request, since the request last passed a simulation.
    pub(super) doubts: BTreeMap<RequestId, Doubt>,
    /// Requests on whose simulation two nodes disagree: index of the node that accepts, index of the node that refuses.
    pub(super) contradicted: BTreeMap<RequestId, (usize, usize)>,
    /// Simulations used at this head, by tenant.
    pub(super) turns: SimulationTurns,
    /// Number of batches simulated.
    pub(super) simulated: u64,
    /// Number of further batches to simulate on two nodes, after a surprise.
    pub(super) wary: u64,
    /// Users with waiting requests below their forwarder nonce, until that nonce is final.
    pub(super) suspects: BTreeSet<(Address, Address)>,
    /// Calls that may have been executed without the ledger's knowledge: watched while in flight, never sent (again).
    pub(super) uncertain: BTreeSet<RequestId>,
    /// Last user of the previous gap lookup; the next one continues after it.
    pub(super) gaps_after: Option<(Address, Address)>,
    /// Users with a nonce gap: no request has the nonce that their waiting requests need first.
    pub(super) gaps: BTreeMap<(Address, Address), Gap>,
    /// Accumulated healthy time of the chain: the time between heads, at most `LATE_BLOCKS` block times per head.
    pub(super) healthy: Duration,
    /// Rate at which each tenant's requests leave the queue.
    pub(super) paces: BTreeMap<Arc<str>, TenantPace>,
    pub(super) backlogs: Arc<BTreeMap<Arc<str>, Backlog>>,
    /// Time of the last change in this loop iteration that may let something be sent; `None` if there was none.
    pub(super) dispatch_at: Option<Timestamp>,
    pub(super) is_stopping: bool,
    /// `None` if no other instance shares the ledger.
    pub(super) membership: Option<Membership>,
}

impl ChainService {
    pub(super) fn chain_id(&self) -> u64 {
        self.shared.spec.chain_id
    }

    /// Runs until cancelled, then commits pending decisions and ends.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut heads: mpsc::Receiver<Arc<HeadUpdate>>,
        stop: CancellationToken,
    ) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut messages = Vec::with_capacity(64);
        let mut ticks = 0u32;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(update) = heads.recv() => {
                    self.on_head(&update);
                    self.publish();
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.on_done(done),
                    Err(error) => {
                        // A task panicked whose result is not awaited.
                        tracing::error!(chain_id = self.chain_id(), %error, "a task of the chain service died");
                        metrics::counter!("slackwater_task_panics_total", "chain_id" => self.chain_id().to_string()).increment(1);
                    }
                },
                count = inbox.recv_many(&mut messages, 64) => {
                    if count == 0 {
                        break;
                    }
                    for message in messages.drain(..) {
                        self.on_message(message);
                    }
                }
                _ = timer.tick() => {
                    ticks = ticks.wrapping_add(1);
                    self.on_tick();
                    if ticks.is_multiple_of(VIEW_EVERY_TICKS) {
                        self.publish();
                    }
                }
            }
            // A dispatch may cause another one.
            while let Some(now) = self.dispatch_at.take() {
                self.dispatch_now(now);
            }
            self.flush();
        }
        self.stop(&mut inbox).await;
    }

    /// Drains the inbox, then waits until all decisions are in the ledger. Nothing new is sent.
    async fn stop(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        self.is_stopping = true;
        inbox.close();
        while let Some(message) = inbox.recv().await {
            match message {
                Message::Cancel { reply, .. } => drop(reply.send(Err(CancelError::ShuttingDown))),
                Message::Models { reply, .. } => drop(reply.send(Err(ModelError::ShuttingDown))),
                Message::Accepted(_) | Message::Reign(_) | Message::News(_) => {}
            }
            // Accepted requests are durable: the next start reads them.
        }
        self.keep_at_stop();
        while !self.backlog.is_empty() {
            let Some(entry) = self.backlog.pop_front() else { break };
            if self.journal.send(entry).await.is_err() {
                break;
            }
        }
        // The journal answers at once; nodes may take as long as the RPC timeout, and their answers are not needed.
        let drain = async {
            while let Some(done) = self.tasks.join_next().await {
                if let Ok(done @ (Done::Persisted { .. } | Done::Cancelled { .. })) = done {
                    self.on_done(done);
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
        self.tasks.abort_all();
    }

    fn on_message(&mut self, message: Message) {
        let now = clock::now();
        match message {
            Message::Accepted(entries) => {
                entries.into_iter().for_each(|entry| self.welcome(entry));
                // A full batch goes at once; a smaller one waits for the next tick anyway.
                if self.queue.waiting() >= self.shared.tuning.batch.max_batch {
                    self.look_up_nonces();
                    self.dispatch(now);
                }
            }
            Message::Cancel { tenant, id, reply } => self.cancel(now, &tenant, id, reply),
            Message::Models { command, reply } => {
                self.on_models(command, reply);
                self.publish();
            }
            Message::Reign(reign) => {
                self.reign(*reign);
                self.publish();
            }
            Message::News(news) => self.on_news(*news),
        }
    }

    fn on_tick(&mut self) {
        let now = clock::now();
        self.watch_lease();
        self.expire(now);
        self.look_up_nonces();
        self.keep_learned_if_due(now);
        self.dispatch(now);
    }

    fn on_head(&mut self, update: &HeadUpdate) {
        let now = clock::now();
        let header = &update.header;
        let rule = &self.shared.spec.base_fee;
        let word = self.market.on_head(now, &update.histories, header, update.next_base_fee, rule);
        self.believed.store(self.market.book().newest().map_or(0, |point| point.number), Ordering::Relaxed);
        let points = word.points;
        for point in &points {
            self.pricing.block(point);
        }
        let extra_data = if word.is_header_believed {
            self.proposer = header.miner;
            // A single node's answer changes no fee rule.
            if word.is_voted { header.extra_data.clone() } else { self.pricing.extra_data() }
        } else {
            tracing::warn!(
                chain_id = self.chain_id(),
                block = header.number(),
                believed = word.next_base_fee,
                told = update.next_base_fee,
                "a node tells another head than the others"
            );
            metrics::counter!("slackwater_heads_disbelieved_total", "chain_id" => self.chain_id().to_string())
                .increment(1);
            alloy_primitives::Bytes::new()
        };
        let (spec, tuning) = (&self.shared.spec, &self.shared.tuning);
        self.pricing.refresh_tips(now);
        let price = self.pricing.quote(spec, tuning, word.next_base_fee, extra_data);
        let info = HeadInfo {
            number: header.number(),
            timestamp_s: header.timestamp.to(),
            next_base_fee: price.next_base_fee,
            quote: price.quote,
            final_block: update.final_block,
        };
        let tip = price.quote.max_priority_fee_per_gas;
        for point in &points {
            self.gate.record(point.base_fee.saturating_add(tip));
        }
        self.gate.set_price(price.next_base_fee.saturating_add(tip));
        self.foresee(info.number, &points);
        if self.head.is_some() {
            self.healthy += now.since(self.head_at).min(self.shared.spec.block_time() * LATE_BLOCKS);
        }
        self.head = Some(info);
        self.price = Some(price);
        self.head_at = now;
        self.note_clock(now, info.timestamp_s);
        self.learn_data_fee(&update.data_fee);
        self.keep_final(now, update.final_block.zip(update.final_hash));
        self.keep_canonical(update);
        // Held requests are tried again on the new block.
        for id in std::mem::take(&mut self.held) {
            if self.is_withdrawn(id) {
                self.forget_withdrawn(id);
                continue;
            }
            // Not selected again until its outcome is known.
            let is_over = self.queue.get(id).is_some_and(|entry| entry.request.valid_until() <= now);
            if is_over && Protection::Deadline.is_on() {
                self.held.push(id);
                continue;
            }
            self.queue.put_back(id);
            // A lookup may have shown its nonce as used while it was held.
            let sequence = self.queue.get(id).and_then(|entry| entry.request.sequence());
            if let Some((forwarder, signer, _)) = sequence
                && !self.queue.stale(forwarder, signer).is_empty()
            {
                self.suspects.insert((forwarder, signer));
            }
        }
        let queue = &self.queue;
        self.doubts.retain(|id, _| queue.get(*id).is_some());
        if word.is_header_believed && word.is_voted {
            self.pricing.block_gas_limit(header.gas_limit.to());
        }
        self.ask_suggested_tip();
        let cancel_extra_wei = self.cancel_extra_wei();
        let terms = self.terms(now);
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let sender = lane.machine.id().sender;
            if let Some(wei) = cancel_extra_wei {
                lane.machine.handle_event(now, Event::CancelExtra(wei));
            }
            lane.machine.handle_event(now, Event::Terms(terms));
            for (number, hash) in &update.canonical {
                lane.machine.handle_event(now, Event::Canonical { number: *number, hash: *hash });
            }
            if let Some(account) = update.accounts.iter().find(|account| account.sender == sender) {
                if let Some(latest) = account.latest_nonce {
                    let finalized = account.final_nonce;
                    lane.machine.handle_event(now, Event::AccountNonce { latest, finalized });
                }
                if let Some(balance) = account.balance {
                    lane.machine.handle_event(now, Event::Balance(balance));
                }
            }
            lane.machine.handle_event(now, Event::Head(info));
            self.drain(index);
        }
        self.queue.set_debtors(self.tenants.debtors(self.chain_id(), now));
        self.weigh_tenants();
        self.settle_in_order(now);
        self.look_at_left_out(now);
        self.fetch_again();
        self.confirm_suspects();
        self.measure_paces(now);
        self.end_gapped(now);
        self.look_at_gaps();
        self.expire(now);
        self.dispatch(now);
    }

    /// Adds an accepted request to the queue; if its nonce seems used already, its user becomes a suspect.
    pub(super) fn welcome(&mut self, entry: QueuedRequest) {
        let sequence = entry.request.sequence();
        self.queue.push(entry);
        if let Some((forwarder, signer, _)) = sequence
            && !self.queue.stale(forwarder, signer).is_empty()
        {
            self.suspects.insert((forwarder, signer));
        }
    }

    /// Applies the tenants' current weights to the queue.
    pub(super) fn weigh_tenants(&mut self) {
        let changes = self.tenants.changes();
        if self.policy_changes.replace(changes) != Some(changes) {
            for tenant in self.tenants.iter() {
                self.queue.set_weight(&tenant.name, tenant.policy.weight);
            }
        }
    }

    /// At a new block, counts how many of each tenant's requests left the queue since the last one, and updates the
    /// backlogs.
    fn measure_paces(&mut self, now: Timestamp) {
        let Some(limits) = self.limits(now) else { return };
        let near = now.saturating_add(limits.urgent);
        let mut backlogs = BTreeMap::new();
        for (tenant, left, fresh) in self.queue.paces() {
            let pace = self.paces.entry(tenant.clone()).or_default();
            pace.block(left, fresh.until(near));
            if let Some(backlog) = Backlog::of(pace, fresh) {
                backlogs.insert(tenant.clone(), backlog);
            }
        }
        self.backlogs = Arc::new(backlogs);
    }

    /// Remembers canonical block hashes until they are final.
    fn keep_canonical(&mut self, update: &HeadUpdate) {
        self.canonical.extend(update.canonical.iter().copied());
        let head = update.header.number();
        self.canonical.split_off(&head.saturating_add(1));
        let from = update.final_block.unwrap_or(0).max(head.saturating_sub(MAX_CANONICAL_BLOCKS));
        self.canonical = self.canonical.split_off(&from);
    }

    /// True if a different block is known to be canonical at the receipt's block number.
    fn is_on_other_branch(&self, receipt: &TxReceipt) -> bool {
        self.canonical.get(&receipt.block_number).is_some_and(|known| *known != receipt.block_hash)
    }

    /// True if an inclusion receipt contradicts the known chain: its block is beyond the head, already final, or not
    /// the canonical one.
    fn is_odd(&self, receipt: &TxReceipt) -> bool {
        let Some(head) = self.head else { return false };
        let highest = head.number.saturating_add(self.shared.pool.head_rule().tolerance());
        receipt.block_number > highest
            || Some(receipt.block_number) <= head.final_block
            || self.is_on_other_branch(receipt)
    }

    /// Asks all nodes for a receipt after one returned an implausible one. Without a majority it is polled again at the
    /// next head.
    fn ask_all(&mut self, lane: usize, nonce: u64, at_block: u64, hash: B256) {
        let pool = self.shared.pool.clone();
        let work = async move {
            let found = receipts::find_agreed(&pool, hash).await.map(Box::new);
            Done::Agreed { lane, nonce, at_block, found }
        };
        self.start(work, move || Done::Agreed { lane, nonce, at_block, found: None });
    }

    /// Persists the final block now and then: a start on a chain with another block at that height is refused.
    fn keep_final(&mut self, now: Timestamp, found: Option<(u64, B256)>) {
        let Some((number, hash)) = found else { return };
        let is_due = self.final_kept_at.is_none_or(|at| now.since(at) >= self.shared.tuning.forecast.learned_save);
        if !is_due || self.is_following() {
            return;
        }
        self.final_kept_at = Some(now);
        let key = final_block_key(self.chain_id());
        self.note(vec![Write::Meta { key, value: format!("{number} {hash}") }], Vec::new());
    }

    /// Updates the forecast and the value of waiting, and starts refits that are due.
    pub(super) fn foresee(&mut self, head: u64, points: &[FeePoint]) {
        if let Some(foresight) = &mut self.foresight {
            foresight.observe(head, points);
            if let Some(refit) = foresight.refit() {
                self.tasks.spawn(async move {
                    let fitted = clock::run_blocking(move || refit.run()).await;
                    Done::Refitted(fitted.ok().map(Box::new))
                });
            }
            self.forecast = foresight.view().map(Arc::new);
        }
        self.outlook = match (self.shared.tuning.timing.mode, &self.foresight) {
            (TimingMode::Forecast, Some(foresight)) => foresight.outlook(),
            (TimingMode::Forecast | TimingMode::Percentile, _) => Outlook::of(&self.gate),
            (TimingMode::Immediate, _) => Outlook::NOW,
        };
    }

    pub(super) fn on_done(&mut self, done: Done) {
        let now = clock::now();
        match done {
            Done::Persisted { lane, key, outcomes } => self.on_persisted(now, lane, key, outcomes),
            Done::Sent { lane, key, report } => self.on_sent(now, lane, key, report),
            Done::Suggested(tip) => self.on_suggested_tip(now, tip),
            Done::Receipts { lane, nonce, purpose, found, mut is_complete, at_block, stranger } => {
                if let Some(found) =
                    found.as_ref().filter(|found| purpose == PollPurpose::Inclusion && self.is_odd(found))
                {
                    self.ask_all(lane, nonce, at_block, found.hash);
                    return;
                }
                if let Some(stranger) = stranger {
                    is_complete &= self.meet(now, lane, nonce, stranger);
                }
                self.lane_event(now, lane, Event::Receipts { nonce, purpose, found, is_complete, at_block });
                self.dispatch(now);
            }
            Done::Agreed { lane, nonce, at_block, found } => {
                let found = found.filter(|found| !self.is_on_other_branch(found));
                let (purpose, is_complete) = (PollPurpose::Inclusion, found.is_some());
                self.lane_event(now, lane, Event::Receipts { nonce, purpose, found, is_complete, at_block });
                self.dispatch(now);
            }
            Done::Simulated { lane, mut candidate, simulation, told } => {
                candidate.told = told;
                self.on_simulated(now, lane, *candidate, simulation);
            }
            Done::Shown(shown) => self.on_shown(now, &shown),
            Done::Fetched(fetched) => self.on_fetched(fetched),
            Done::Inspected { order, nonces, contracts, culprit } => {
                self.on_inspected(now, order, &nonces, &contracts, culprit);
            }
            Done::InspectionLost(order) => {
                if let Some(waiting) = self.settlements.get_mut(&order) {
                    waiting.is_asked = false;
                }
            }
            Done::Contracts { lane, nonce, hash, contracts } => self.on_contracts(now, lane, nonce, hash, &contracts),
            Done::Nonces { asked, found } => {
                self.under_way.nonces = false;
                for ((forwarder, signer), nonce) in found {
                    self.learn_nonce(forwarder, signer, nonce);
                }
                self.queue.note_lookup(now, &asked);
                self.dispatch(now);
            }
            Done::Rechecked { found } => {
                for ((forwarder, signer), nonce) in found {
                    self.learn_nonce(forwarder, signer, nonce);
                }
            }
            Done::Confirmed { found } => self.on_confirmed(now, found),
            Done::Gaps { found } => {
                self.under_way.gaps = false;
                for ((forwarder, signer), nonce) in found {
                    if let Some(gap) = self.gaps.get_mut(&(forwarder, signer)) {
                        gap.is_seen = true;
                    }
                    self.learn_nonce(forwarder, signer, nonce);
                }
                self.dispatch(now);
            }
            Done::Refitted(fitted) => {
                if let Some(foresight) = &mut self.foresight {
                    let (before, count) =
                        (foresight.active_model(), foresight.registry().list().last().map(|last| last.version));
                    foresight.install(fitted.map(|fitted| *fitted));
                    let is_new = foresight.registry().list().last().map(|last| last.version) != count;
                    self.note_promotion(before);
                    // Published at once: the next head may be far.
                    self.forecast = self.foresight.as_ref().and_then(Foresight::view).map(Arc::new);
                    if is_new {
                        self.keep_models();
                    }
                }
            }
            Done::Written(written) => self.on_written(*written),
            Done::Noted => {}
            Done::Cancelled { id, reply } => {
                tracing::info!(chain_id = self.chain_id(), %id, "request cancelled");
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Starts a task. A panic is logged as an error and `lost` gives the result instead, so that nothing waits for it
    /// for ever.
    pub(super) fn start(
        &mut self,
        work: impl Future<Output = Done> + Send + 'static,
        lost: impl FnOnce() -> Done + Send + 'static,
    ) {
        let chain_id = self.chain_id();
        self.tasks.spawn(async move {
            AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(chain_id, "a task of the chain service panicked; its call counts as failed");
                metrics::counter!("slackwater_task_panics_total", "chain_id" => chain_id.to_string()).increment(1);
                lost()
            })
        });
    }

    /// Aborts all tasks and clears the flags that wait for their results.
    pub(super) fn drop_tasks(&mut self) {
        self.tasks = JoinSet::new();
        self.under_way = UnderWay::default();
        if let Some(foresight) = &mut self.foresight {
            foresight.install(None);
        }
    }

    pub(super) fn lane_event(&mut self, now: Timestamp, lane: usize, event: Event) {
        if let Some(shell) = self.lanes.get_mut(lane) {
            shell.machine.handle_event(now, event);
        }
        self.drain(lane);
    }

    /// Hands writes to the journal, in order, without waiting.
    pub(super) fn write(&mut self, writes: Vec<Write>, decisions: Vec<Decision>) -> oneshot::Receiver<Vec<Tracked>> {
        let (done, receiver) = oneshot::channel();
        if self.is_following() {
            // Only the leader writes; the dropped sender tells the caller that this write will not happen.
            return receiver;
        }
        let lease = self.lease();
        self.backlog.push_back(JournalEntry { writes, decisions, done, lease });
        self.flush();
        receiver
    }

    /// Like [`Self::write`], for writes whose outcome is not awaited.
    pub(super) fn note(&mut self, writes: Vec<Write>, decisions: Vec<Decision>) {
        let written = self.write(writes, decisions);
        self.tasks.spawn(async move {
            let _ = written.await;
            Done::Noted
        });
    }

    fn flush(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            match self.journal.try_send(entry) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) => {
                    self.backlog.push_front(entry);
                    return;
                }
            }
        }
    }
}

/// Counts terminal requests by status and reason.
pub(super) fn count_ended(status: Status, reason: Option<Reason>, count: u64) {
    let reason = reason.map_or("", Reason::as_str);
    metrics::counter!("slackwater_requests_ended_total", "status" => status.as_str(), "reason" => reason)
        .increment(count);
}

/// A batch's identifier in the decision log.
pub(super) fn batch_hash(id: BatchId) -> B256 {
    keccak256(id.to_string())
}
