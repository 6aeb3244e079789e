//! The shell around one chain's sender: carries out its commands and brings back their results.
//!
//! It waits for nothing but its inboxes. Slow work runs in tasks of its [`JoinSet`] and comes back as a [`Done`].

use std::{
    collections::{BTreeMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    host::RelayHost,
    journal::JournalEntry,
    keys::LaneKey,
    message::Message,
    notices,
    shared::ChainShared,
    work::{self, Poll, Turns},
};
use crate::{
    chain::RpcErrorClass,
    lane::{AttemptKey, SendOutcome, TxToSign},
    ledger::Ledger,
    provenance::Decision,
    record::Write,
    relay::{
        admission::tenants::Tenants,
        clock,
        cluster::membership::Membership,
        handle::{
            error::CancelError,
            models::{self, ModelError},
            status::ChainHealth,
        },
        market::{
            forecast::{ForecastService, Refitted},
            saved::Written,
            sources::ChainMarket,
            watcher::HeadUpdate,
        },
        nodes::{data_fee::DataFeeFault, receipts},
        signer::AccountKey,
        start::assemble::final_block_key,
    },
    request::RequestId,
    sender::{CancelRefusal, Command, HeadFacts, Input, SendReport, Sender, Surroundings, WriteId},
    time::Timestamp,
};

/// Capacity of the service's inbox.
pub(in crate::relay) const INBOX_LEN: usize = 8_192;

/// Interval between checks of deadlines and linger times.
const TICK: Duration = Duration::from_millis(25);

/// Ticks between refreshes of the published view when nothing else refreshes it.
const VIEW_EVERY_TICKS: u32 = 8;

/// Result of a background task.
#[derive(Debug)]
pub(in crate::relay) enum Done {
    /// The answer to a command of the sender.
    Input(Input),
    /// Models fitted in the background; `None` if fitting failed.
    Refitted(Option<Box<Refitted>>),
    /// Serialised models or learned state, ready to be stored.
    Written(Box<Written>),
    /// A task without a result has ended.
    Noted,
}

/// A caller that waits until a write is durable.
#[derive(Debug)]
pub(in crate::relay) enum Waiter {
    /// For a withdrawal.
    Cancel { id: RequestId, reply: oneshot::Sender<Result<(), CancelError>> },
    /// For stored models.
    Models(models::Pending),
}

/// One chain's actor.
#[derive(Debug)]
pub(in crate::relay) struct ChainService {
    pub(in crate::relay) shared: Arc<ChainShared>,
    pub(in crate::relay) sender: Sender<RelayHost>,
    /// In the order of the sender's lanes.
    pub(in crate::relay) keys: Vec<LaneKey>,
    pub(in crate::relay) ledger: Arc<dyn Ledger>,
    pub(in crate::relay) tenants: Arc<Tenants>,
    pub(in crate::relay) journal: mpsc::Sender<JournalEntry>,
    /// Entries that did not fit into the journal's channel yet, in order.
    pub(in crate::relay) backlog: VecDeque<JournalEntry>,
    pub(in crate::relay) market: ChainMarket,
    /// Newest block in `market`, for the readers of fee histories.
    pub(in crate::relay) agreed: Arc<AtomicU64>,
    /// Fault of the last read of L1 fee parameters; `None` if it succeeded.
    pub(in crate::relay) data_fee_fault: Option<DataFeeFault>,
    /// Newest head's timestamp minus our clock at its arrival, ms; negative if the head is behind.
    pub(in crate::relay) clock_skew_ms: i64,
    /// Time when the final block was last persisted; `None` if not yet since the start.
    pub(in crate::relay) final_kept_at: Option<Timestamp>,
    /// Health last logged.
    pub(in crate::relay) told_health: ChainHealth,
    /// Time when learned state was last saved.
    pub(in crate::relay) kept_at: Timestamp,
    pub(in crate::relay) tasks: JoinSet<Done>,
    pub(in crate::relay) turns: Turns,
    pub(in crate::relay) waiters: BTreeMap<WriteId, Waiter>,
    /// `None` if no other instance shares the ledger.
    pub(in crate::relay) membership: Option<Membership>,
}

impl ChainService {
    pub(in crate::relay) fn chain_id(&self) -> u64 {
        self.shared.spec.chain_id
    }

    /// Works until cancelled, then commits pending decisions and ends.
    pub(in crate::relay) async fn run(
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
            self.go_on();
        }
        self.stop(&mut inbox).await;
    }

    /// Ends a turn: what may be sent is composed, and what was decided goes to the journal.
    pub(in crate::relay) fn go_on(&mut self) {
        // What was decided may decide more.
        loop {
            self.refresh();
            if !self.sender.go_on() {
                break;
            }
            self.drain();
        }
        self.flush();
    }

    /// Drains the inbox, then waits until all decisions are in the ledger. Nothing new is sent.
    async fn stop(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        self.sender.stop();
        inbox.close();
        while let Some(message) = inbox.recv().await {
            match message {
                Message::Cancel { reply, .. } => drop(reply.send(Err(CancelError::ShuttingDown))),
                Message::Models { reply, .. } => drop(reply.send(Err(ModelError::ShuttingDown))),
                Message::Accepted(_) | Message::Takeover(_) | Message::PeerUpdates(_) => {}
            }
            // Accepted requests are durable: the next start reads them.
        }
        self.keep_at_stop();
        while let Some(entry) = self.backlog.pop_front() {
            if self.journal.send(entry).await.is_err() {
                break;
            }
        }
        // The journal answers at once; nodes may take as long as the RPC timeout, and their answers are not needed.
        let drain = async {
            while let Some(done) = self.tasks.join_next().await {
                if let Ok(done @ Done::Input(Input::Committed { .. })) = done {
                    self.on_done(done);
                    self.flush();
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
        self.tasks.abort_all();
    }

    fn on_message(&mut self, message: Message) {
        let now = clock::now();
        match message {
            Message::Accepted(entries) => self.handle(now, Input::Accepted(entries)),
            Message::Cancel { tenant, id, reply } => self.cancel(now, &tenant, id, reply),
            Message::Models { command, reply } => {
                self.on_models(command, reply);
                self.publish();
            }
            Message::Takeover(takeover) => {
                self.take_over(*takeover);
                self.publish();
            }
            Message::PeerUpdates(updates) => self.on_peer_updates(now, *updates),
        }
    }

    pub(in crate::relay) fn cancel(
        &mut self,
        now: Timestamp,
        tenant: &str,
        id: RequestId,
        reply: oneshot::Sender<Result<(), CancelError>>,
    ) {
        match self.sender.cancel(now, tenant, id) {
            // If the end does not become durable, the reply is dropped and the caller sees a shutdown.
            Ok(write) => {
                self.waiters.insert(write, Waiter::Cancel { id, reply });
            }
            Err(CancelRefusal::Unknown) => drop(reply.send(Err(CancelError::Unknown(id)))),
            Err(CancelRefusal::TooLate(status)) => drop(reply.send(Err(CancelError::TooLate { id, status }))),
        }
        self.drain();
    }

    fn on_tick(&mut self) {
        let now = clock::now();
        self.watch_lease();
        self.handle(now, Input::Tick);
        self.keep_learned_if_due(now);
    }

    fn on_head(&mut self, update: &HeadUpdate) {
        let now = clock::now();
        let header = &update.header;
        let rule = &self.shared.spec.base_fee;
        let word = self.market.on_head(now, &update.histories, header, update.next_base_fee, rule);
        self.agreed.store(self.market.book().newest().map_or(0, |point| point.number), Ordering::Relaxed);
        let is_agreed = word.is_header_agreed;
        let is_voted = is_agreed && word.is_voted;
        if !is_agreed {
            tracing::warn!(
                chain_id = self.chain_id(),
                block = header.number(),
                believed = word.next_base_fee,
                told = update.next_base_fee,
                "a node tells another head than the others"
            );
            metrics::counter!("slackwater_heads_disbelieved_total", "chain_id" => self.chain_id().to_string())
                .increment(1);
        }
        let facts = HeadFacts {
            number: header.number(),
            timestamp_s: header.timestamp.to(),
            next_base_fee: word.next_base_fee,
            points: word.points,
            // One node's word alone changes no rule.
            extra_data: match is_agreed {
                true => is_voted.then(|| header.extra_data.clone()),
                false => Some(alloy_primitives::Bytes::new()),
            },
            is_agreed,
            proposer: header.miner,
            gas_limit: is_voted.then(|| header.gas_limit.to()),
            final_block: update.final_block,
            canonical: update.canonical.clone(),
            accounts: update.accounts.iter().map(|account| account.facts()).collect(),
            data_fee: self.learn_data_fee(&update.data_fee),
        };
        self.handle(now, Input::Head(Box::new(facts)));
        self.note_clock(now, header.timestamp.to());
        self.keep_final(now, update.final_block.zip(update.final_hash));
        if let Some(refit) = self.sender.fees.forecasts.as_mut().and_then(ForecastService::refit) {
            self.tasks.spawn(async move {
                let fitted = clock::run_blocking(move || refit.run()).await;
                Done::Refitted(fitted.ok().map(Box::new))
            });
        }
    }

    /// Persists the final block now and then: a start on a chain with another block at that height is refused.
    fn keep_final(&mut self, now: Timestamp, found: Option<(u64, alloy_primitives::B256)>) {
        let Some((number, hash)) = found else { return };
        let is_due = self.final_kept_at.is_none_or(|at| now.since(at) >= self.shared.tuning.forecast.learned_save);
        if !is_due || self.is_following() {
            return;
        }
        self.final_kept_at = Some(now);
        let key = final_block_key(self.chain_id());
        self.note(vec![Write::Meta { key, value: format!("{number} {hash}") }], Vec::new());
    }

    pub(in crate::relay) fn on_done(&mut self, done: Done) {
        match done {
            Done::Input(Input::Committed { id, outcomes }) => {
                if let Some(waiter) = self.waiters.remove(&id) {
                    self.tell_waiter(waiter, outcomes.is_some());
                }
                self.handle(clock::now(), Input::Committed { id, outcomes });
            }
            Done::Input(input) => self.handle(clock::now(), input),
            Done::Refitted(fitted) => self.on_refitted(fitted),
            Done::Written(written) => self.on_written(*written),
            Done::Noted => {}
        }
    }

    fn tell_waiter(&self, waiter: Waiter, is_durable: bool) {
        match waiter {
            Waiter::Cancel { id, reply } if is_durable => {
                tracing::info!(chain_id = self.chain_id(), %id, "request cancelled");
                let _ = reply.send(Ok(()));
            }
            Waiter::Cancel { .. } => {}
            Waiter::Models(pending) => pending.tell(is_durable),
        }
    }

    /// Gives an input to the sender and carries out what it wants.
    pub(in crate::relay) fn handle(&mut self, now: Timestamp, input: Input) {
        let around = self.surroundings();
        self.sender.handle(now, around, input);
        self.drain();
    }

    fn surroundings(&self) -> Surroundings {
        let shared = &self.shared;
        Surroundings {
            nodes: shared.pool.len(),
            head_tolerance: shared.pool.head_rule().tolerance(),
            fee_cap_wei: shared.pool.fee_cap(shared.spec.rpc_tx_fee_cap_wei),
            may_send: self.may_send(),
            is_following: self.is_following(),
            pauses: shared.pauses.current(),
        }
    }

    /// Has the sender do something, and carries out what it wants.
    #[cfg(test)]
    pub(in crate::relay) fn act<T>(&mut self, act: impl FnOnce(&mut Sender<RelayHost>) -> T) -> T {
        self.refresh();
        self.sender.now = clock::now();
        let result = act(&mut self.sender);
        self.drain();
        result
    }

    fn refresh(&mut self) {
        self.sender.around = self.surroundings();
    }

    /// Carries out what the sender wants.
    pub(in crate::relay) fn drain(&mut self) {
        while let Some(command) = self.sender.poll_command() {
            #[cfg(feature = "simulation")]
            clock::simulated::step();
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Commit { id, writes, decisions, settled } => {
                let (done, written) = oneshot::channel();
                let lease = self.lease();
                self.backlog.push_back(JournalEntry { writes, decisions, done, lease });
                self.flush();
                let tenants = (!settled.is_empty()).then(|| self.tenants.clone());
                self.tasks.spawn(async move {
                    let outcomes = written.await.ok();
                    if let Some(tenants) = tenants.filter(|_| outcomes.is_some()) {
                        settled.iter().for_each(|(tenant, id, wei)| tenants.settled(tenant, *id, *wei));
                    }
                    Done::Input(Input::Committed { id, outcomes })
                });
            }
            Command::Sign { lane, key, tx } => {
                let signer = self.keys.get(lane).and_then(|key| key.signer.clone());
                match signer {
                    Some(signer) if signer.local().is_none() => self.ask_signer(signer, lane, key, tx),
                    signer => {
                        let signed = signer.as_ref().and_then(AccountKey::local).map(|key| key.sign_transaction(&tx));
                        self.handle(clock::now(), Input::Signed { lane, key, tx, signed });
                    }
                }
            }
            Command::Broadcast { lane, key, attempt, gas_limit, until } => {
                let (pool, lease) = (self.shared.pool.clone(), self.lease());
                let (taken, told) = oneshot::channel();
                self.tasks.spawn(async move {
                    match lease {
                        None => pool.broadcast(&attempt, gas_limit, until, taken).await,
                        Some(lease) => drop(lease.guard(pool.broadcast(&attempt, gas_limit, until, taken)).await),
                    }
                    Done::Noted
                });
                self.tasks.spawn(async move {
                    // If the lease ends, no report comes, and another instance may be sending it now.
                    let unknown = || SendReport::of(SendOutcome::Maybe(RpcErrorClass::NodeUnavailable));
                    Done::Input(Input::Sent { lane, key, report: told.await.unwrap_or_else(|_| unknown()) })
                });
            }
            Command::FindReceipts { lane, nonce, hashes, purpose, at_block, final_block } => {
                let Some(scans) = self.keys.get(lane).map(|key| key.scans.clone()) else { return };
                let Some(sender) = self.sender.lane(lane).map(|lane| lane.machine.id().sender) else { return };
                let poll = Poll { lane, sender, nonce, hashes, purpose, at_block, final_block, scans };
                let turns = self.turns.clone();
                self.ask(
                    async move |shared| work::find_receipts(&shared, turns, poll).await,
                    move || Poll::lost(lane, nonce, purpose, at_block),
                );
            }
            Command::AgreeOnReceipt { lane, nonce, at_block, hash } => self.ask(
                async move |shared| {
                    let found = receipts::find_agreed(&shared.pool, hash).await.map(Box::new);
                    Input::Agreed { lane, nonce, at_block, found }
                },
                move || Input::Agreed { lane, nonce, at_block, found: None },
            ),
            Command::Load { lane, selection, missing } => {
                let (ledger, turns) = (self.ledger.clone(), self.turns.clone());
                let lost = selection.clone();
                self.ask(
                    async move |_| work::load(&*ledger, turns, lane, selection, missing).await,
                    move || Input::Loaded { lane, selection: lost, found: None },
                );
            }
            Command::Simulate { lane, candidate, environment, model, block, is_wary } => {
                let Some(params) = self.sender.lane(lane).map(|lane| lane.params) else { return };
                let lost = candidate.clone();
                self.ask(
                    async move |shared| {
                        let at = (lane, params);
                        work::simulate_batch(&shared, at, candidate, environment, model, block, is_wary).await
                    },
                    move || work::unsimulated(lane, lost),
                );
            }
            Command::SuggestTip => {
                self.ask(async move |shared| work::suggested_tip(&shared).await, || Input::Suggested(None));
            }
            Command::ShowLeftOut { lane, nonce, believed, deep, users } => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move {
                    Done::Input(work::left_out(&shared, lane, nonce, believed, deep, users).await)
                });
            }
            Command::ProveContracts { lane, nonce, hash, targets } => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move {
                    let contracts = crate::relay::nodes::contracts::contracts_among(&shared, &targets).await;
                    Done::Input(Input::Contracts { lane, nonce, hash, contracts })
                });
            }
            Command::Inspect { order, users, targets, case, final_block } => {
                let (ledger, turns) = (self.ledger.clone(), self.turns.clone());
                self.ask(
                    async move |shared| {
                        work::inspect(&shared, (&*ledger, turns), order, users, targets, case, final_block).await
                    },
                    move || Input::Inspected { order, found: None },
                );
            }
            Command::Fetch { lane, nonce, id } => {
                let (ledger, turns) = (self.ledger.clone(), self.turns.clone());
                self.ask(
                    async move |_| work::fetch(&*ledger, turns, (lane, nonce), id).await,
                    move || Input::Fetched { lane, nonce, found: None },
                );
            }
            Command::LookUpNonces(users) => self.ask(
                async move |shared| work::look_up(&shared, users).await,
                || Input::Nonces { asked: Vec::new(), found: Vec::new() },
            ),
            Command::RecheckNonce(user) => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move { Done::Input(work::recheck(&shared, user).await) });
            }
            Command::ConfirmNonces { users, final_block } => self.ask(
                async move |shared| work::confirm(&shared, users, final_block).await,
                || Input::Confirmed(Vec::new()),
            ),
            Command::FindPayments { payments, final_block } => self.ask(
                async move |shared| work::find_payments(&shared, payments, final_block).await,
                || Input::Payments(Vec::new()),
            ),
            Command::LookAtGaps(users) => {
                self.ask(async move |shared| work::look_at_gaps(&shared, users).await, || Input::Gaps(Vec::new()));
            }
            Command::NoncesRaised(nonces) => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move {
                    work::raise_nonces(&shared, nonces).await;
                    Done::Noted
                });
            }
            Command::NonceLowered(user, nonce) => {
                let shared = self.shared.clone();
                self.tasks.spawn(async move {
                    shared.nonces.insert(user, nonce).await;
                    Done::Noted
                });
            }
            Command::NonceClosed { lane, nonce } => {
                if let Some(key) = self.keys.get(lane) {
                    key.scans.forget(nonce);
                }
            }
            Command::Demote(place) => self.shared.pool.demote(place),
            Command::Notice(notice) => notices::tell(self.chain_id(), notice),
        }
    }

    /// Has a transaction signed by a key that is not in memory. After a failure its requests go to another
    /// lane, or wait for the next block.
    fn ask_signer(&mut self, signer: AccountKey, lane: usize, key: AttemptKey, tx: Box<TxToSign>) {
        let chain_id = self.chain_id();
        let lost = {
            let tx = tx.clone();
            move || Input::Signed { lane, key, tx, signed: None }
        };
        let work = async move |_| {
            let signed = match signer.sign_transaction(&tx).await {
                Ok(signed) => Some(signed),
                Err(error) => {
                    tracing::warn!(chain_id, sender = %signer.address(), %error, "a transaction was not signed: tried again");
                    metrics::counter!("slackwater_sign_failures_total", "chain_id" => chain_id.to_string())
                        .increment(1);
                    None
                }
            };
            Input::Signed { lane, key, tx, signed }
        };
        self.ask(work, lost);
    }

    /// Starts a task. If it panics, which is logged as an error, `lost` stands for its answer: nothing waits for it for ever.
    pub(in crate::relay) fn ask<F: Future<Output = Input> + Send + 'static>(
        &mut self,
        work: impl FnOnce(Arc<ChainShared>) -> F,
        lost: impl FnOnce() -> Input + Send + 'static,
    ) {
        let chain_id = self.chain_id();
        let work = work(self.shared.clone());
        self.tasks.spawn(async move {
            Done::Input(AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!(chain_id, "a task of the chain service panicked; its call counts as failed");
                metrics::counter!("slackwater_task_panics_total", "chain_id" => chain_id.to_string()).increment(1);
                lost()
            }))
        });
    }

    /// Cancels all tasks, and drops callers that wait for their results.
    pub(in crate::relay) fn drop_tasks(&mut self) {
        self.tasks = JoinSet::new();
        self.waiters.clear();
        if let Some(forecasts) = &mut self.sender.fees.forecasts {
            forecasts.install(None);
        }
    }

    /// Has something written for which `waiter` waits.
    pub(in crate::relay) fn write(&mut self, writes: Vec<Write>, decisions: Vec<Decision>, waiter: Option<Waiter>) {
        self.refresh();
        match (self.sender.write(writes, decisions, Vec::new()), waiter) {
            (Some(id), Some(waiter)) => {
                self.waiters.insert(id, waiter);
            }
            (None, Some(waiter)) => self.tell_waiter(waiter, false),
            (_, None) => {}
        }
        self.drain();
    }

    /// Has something written that nobody waits for.
    pub(in crate::relay) fn note(&mut self, writes: Vec<Write>, decisions: Vec<Decision>) {
        self.write(writes, decisions, None);
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

#[cfg(test)]
mod tests;
