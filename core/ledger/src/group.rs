//! Group commit: one task owns writing, and all queued writes share the next fsync.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, TryAcquireError, broadcast, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    AcceptOutcome, Durable, EventFilter, EventRecord, Health, Ledger, LedgerError, StorageFault, Write, WriteOutcome,
};
use crate::{protection::Protection, time::Timestamp, tuning::keys};

/// Limit on events read at once by [`GroupCommit::follow`].
const FOLLOW_PAGE: usize = 1_000;

/// First and longest pause between probes of a storage that is away.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
const PROBE_PAUSE_MOST: Duration = Duration::from_secs(1);
/// Key of the small value written to probe whether the storage accepts writes again.
const PROBE_KEY: &str = "storage_probe";
/// Size of the probe value: the possible need of a group, so that a disk with room for one page does not count as
/// recovered.
const PROBE_BYTES: usize = 64 * 1_024;

type Outcomes = Vec<Durable<WriteOutcome>>;

keys! {
    /// Limits of the writing task.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct GroupCommitConfig;

    /// Most writes that wait; beyond, callers wait or get `storage_unavailable`.
    queue_len: usize [1..=1_000_000] = 16_384;
    /// Most writes that share one commit.
    max_group: usize [1..=100_000] = 1_024;
    /// Committed groups that a slow event stream may lag behind before it reads from the database again.
    event_backlog: usize [1..=1_000_000] = 128;
    /// How often the head of the decision log is told in a log line and a metric.
    log_head_interval "log_head_interval_ms": Duration [1_000..=604_800_000] = Duration::from_secs(3_600);
    /// Most sums of refusals of one minute that name key and tenant in the decision log; further ones name the code alone.
    max_refusal_sums: usize [1..=1_000_000] = 1_000;
}

/// Handle to the writing task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupCommit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: GroupCommitConfig,
    ledger: Arc<dyn Ledger>,
    /// One permit per queued write. The queue below has as many places, so a submission with permits fits.
    room: Semaphore,
    queue: mpsc::Sender<Submission>,
    events: broadcast::Sender<Arc<[EventRecord]>>,
    in_doubt: AtomicBool,
    health: Arc<Health>,
    /// Signals a commit, so that readers of the shared ledger's events need not wait for the next poll.
    committed: Notify,
    closing: CancellationToken,
    ended: CancellationToken,
    /// Owner of the decision log that records each commit's accepted and ended requests; `None` without a log.
    log: Option<Arc<str>>,
}

#[derive(Debug)]
struct Submission {
    writes: Vec<Write>,
    answer: oneshot::Sender<Result<Outcomes, LedgerError>>,
}

impl GroupCommit {
    /// Starts the writing task on the current tokio runtime. The caller must watch the [`JoinHandle`]: the task ends
    /// with `Ok` after [`Self::close`], and with the error if a commit is in doubt; nothing can be written after
    /// either.
    pub fn spawn(ledger: Arc<dyn Ledger>, config: GroupCommitConfig) -> (Self, JoinHandle<Result<(), LedgerError>>) {
        Self::start(ledger, config, None)
    }

    /// As [`Self::spawn`]. Each commit records its accepted and ended requests in `owner`'s decision log.
    pub fn spawn_logging(
        ledger: Arc<dyn Ledger>,
        config: GroupCommitConfig,
        owner: Arc<str>,
    ) -> (Self, JoinHandle<Result<(), LedgerError>>) {
        Self::start(ledger, config, Some(owner))
    }

    fn start(
        ledger: Arc<dyn Ledger>,
        config: GroupCommitConfig,
        log: Option<Arc<str>>,
    ) -> (Self, JoinHandle<Result<(), LedgerError>>) {
        // Tokio's channels refuse a capacity of 0, and a semaphore holds at most `MAX_PERMITS`.
        let queue_len = config.queue_len.clamp(1, Semaphore::MAX_PERMITS);
        let config = GroupCommitConfig { queue_len, max_group: config.max_group.max(1), ..config };
        let (queue, waiting) = mpsc::channel(config.queue_len);
        let (events, _) = broadcast::channel(config.event_backlog.max(1));
        let ended = CancellationToken::new();
        let shared = Arc::new(Shared {
            config,
            ledger: Arc::clone(&ledger),
            room: Semaphore::new(config.queue_len),
            queue,
            events,
            in_doubt: AtomicBool::new(false),
            health: ledger.health().unwrap_or_default(),
            committed: Notify::new(),
            closing: CancellationToken::new(),
            ended: ended.clone(),
            log,
        });
        let task = WritingTask {
            ledger,
            shared: Arc::clone(&shared),
            waiting,
            carried: None,
            closing: false,
            probe_pause: PROBE_PAUSE,
            probe_at: None,
            probes: 0,
            _ended: ended.drop_guard(),
        };
        metrics::gauge!("slackwater_ledger_available").set(1.0);
        (Self { shared }, tokio::spawn(task.run()))
    }

    /// Commits `write` with the other queued writes. Waits for room in the queue.
    ///
    /// # Errors
    /// As [`Ledger::commit`]; [`LedgerError::Closed`] after [`Self::close`]; [`LedgerError::InDoubt`] from the first
    /// commit in doubt on, until restart.
    pub async fn submit(&self, write: Write) -> Result<Durable<WriteOutcome>, LedgerError> {
        self.submit_all(vec![write]).await.map(only)
    }

    /// Commits `writes`, in order and in one transaction, with the other queued writes. Waits for room in the queue.
    ///
    /// # Errors
    /// As [`Self::submit`]; [`LedgerError::Full`] if there are more writes than the queue can ever hold.
    pub async fn submit_all(&self, writes: Vec<Write>) -> Result<Outcomes, LedgerError> {
        let count = self.count(&writes)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let permits = self.shared.room.acquire_many(count).await.map_err(|_| self.gone())?;
        permits.forget();
        self.enqueue(writes)?.await.unwrap_or_else(|_| Err(writer_died()))
    }

    /// As [`Self::submit`], but fails immediately: with [`LedgerError::Full`] instead of waiting for room, and with
    /// [`LedgerError::Storage`] while the storage is away.
    ///
    /// # Errors
    /// As [`Self::submit`], and [`LedgerError::Full`].
    pub async fn try_submit(&self, write: Write) -> Result<Durable<WriteOutcome>, LedgerError> {
        self.try_submit_all(vec![write]).await.map(only)
    }

    /// As [`Self::submit_all`], but fails immediately, with [`LedgerError::Full`], instead of waiting for room.
    ///
    /// # Errors
    /// As [`Self::submit_all`].
    pub async fn try_submit_all(&self, writes: Vec<Write>) -> Result<Outcomes, LedgerError> {
        let count = self.count(&writes)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.shared.in_doubt.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        if let Some(fault) = self.fault() {
            return Err(LedgerError::Storage(fault));
        }
        match self.shared.room.try_acquire_many(count) {
            Ok(permits) => permits.forget(),
            Err(TryAcquireError::Closed) => return Err(self.gone()),
            Err(TryAcquireError::NoPermits) => {
                metrics::counter!("slackwater_ledger_queue_full_total").increment(1);
                return Err(LedgerError::Full { len: self.waiting(), limit: self.shared.config.queue_len });
            }
        }
        self.enqueue(writes)?.await.unwrap_or_else(|_| Err(writer_died()))
    }

    /// Current fault of the storage; `None` if the last write succeeded.
    pub fn fault(&self) -> Option<StorageFault> {
        self.shared.health.fault()
    }

    /// Events of every group, in order of their `seq`, each strictly after its commit. A subscriber that lags more than
    /// [`GroupCommitConfig::event_backlog`] groups is notified, and reads the missing ones from [`Ledger::events`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[EventRecord]>> {
        self.shared.events.subscribe()
    }

    /// Forwards the events of a shared ledger to this instance's subscribers, whichever instance committed them, in
    /// order and starting after `after`. Polls after every commit of its own, and every `interval` for those of others.
    /// Runs until `stop`.
    pub async fn follow(&self, after: u64, interval: Duration, stop: CancellationToken) {
        let mut filter = EventFilter { after, limit: FOLLOW_PAGE, ..EventFilter::default() };
        loop {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = self.shared.ledger.events(&filter) => found,
            };
            match found {
                Ok(events) if !events.is_empty() => {
                    filter.after = events.last().map_or(filter.after, |event| event.seq);
                    let is_full = events.len() == FOLLOW_PAGE;
                    // Fails only without subscribers.
                    let _ = self.shared.events.send(events.into());
                    if is_full {
                        continue;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "can't read new events; asking again");
                    self.shared.health.suspect();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.committed.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Number of writes queued or being committed.
    pub fn waiting(&self) -> usize {
        self.shared.config.queue_len.saturating_sub(self.shared.room.available_permits())
    }

    /// Refuses further writes, commits the queued ones, and returns when the writing task has ended. The ledger stays
    /// open. Idempotent.
    pub async fn close(&self) {
        self.shared.room.close();
        self.shared.closing.cancel();
        self.shared.ended.cancelled().await;
    }

    fn count(&self, writes: &[Write]) -> Result<u32, LedgerError> {
        let limit = self.shared.config.queue_len;
        match u32::try_from(writes.len()) {
            Ok(count) if writes.len() <= limit => Ok(count),
            _ => Err(LedgerError::Full { len: writes.len(), limit }),
        }
    }

    fn enqueue(&self, writes: Vec<Write>) -> Result<oneshot::Receiver<Result<Outcomes, LedgerError>>, LedgerError> {
        let (answer, answered) = oneshot::channel();
        match self.shared.queue.try_send(Submission { writes, answer }) {
            Ok(()) => Ok(answered),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.gone()),
            Err(mpsc::error::TrySendError::Full(_)) => unreachable!("every place in the queue has a permit"),
        }
    }

    /// Error for writes after the end of the writing task.
    fn gone(&self) -> LedgerError {
        match self.shared.in_doubt.load(Ordering::Acquire) {
            true => LedgerError::InDoubt("an earlier commit is in doubt; restart to reconcile".to_owned()),
            false => LedgerError::Closed,
        }
    }
}

/// Time stated by a write that may accept or end requests; `None` for others.
fn time_of(write: &Write) -> Option<Timestamp> {
    match write {
        Write::Accept(new) => Some(new.accepted_at),
        Write::Batch { at, .. } | Write::Requests { at, .. } => Some(*at),
        Write::Fenced(_, write) => time_of(write),
        _ => None,
    }
}

fn only(mut outcomes: Outcomes) -> Durable<WriteOutcome> {
    match (outcomes.pop(), outcomes.is_empty()) {
        (Some(outcome), true) => outcome,
        _ => unreachable!("a ledger answers every write once"),
    }
}

/// Error for a submission without an answer. A queued submission is always answered, unless the writing task panicked
/// or was aborted: perhaps after the commit.
fn writer_died() -> LedgerError {
    LedgerError::InDoubt("the writing task ended without an answer".to_owned())
}

struct WritingTask {
    ledger: Arc<dyn Ledger>,
    shared: Arc<Shared>,
    waiting: mpsc::Receiver<Submission>,
    /// Taken from the queue, but too large for the current group.
    carried: Option<Submission>,
    closing: bool,
    probe_pause: Duration,
    /// Time of the next probe, while the storage is away.
    probe_at: Option<Instant>,
    /// Number of probes so far.
    probes: u64,
    _ended: DropGuard,
}

/// Next action of the writing task.
enum Next {
    Group(Vec<Submission>),
    /// Probe whether the storage accepts writes.
    Probe,
    /// Closed and drained.
    End,
}

impl WritingTask {
    async fn run(mut self) -> Result<(), LedgerError> {
        loop {
            let result = match self.next().await {
                Next::Group(group) => self.commit_group(group).await,
                Next::Probe => self.probe().await,
                Next::End => return Ok(()),
            };
            if let Err(error) = result {
                tracing::error!(%error, "a commit is in doubt; nothing more will be written");
                self.refuse_all(&error);
                return Err(error);
            }
        }
    }

    /// The queued submissions, up to `max_group` writes; waits for the first.
    async fn next(&mut self) -> Next {
        let first = match self.carried.take() {
            Some(carried) => carried,
            None if self.is_probe_due() => return Next::Probe,
            None => match self.next_submission().await {
                Next::Group(mut first) => match first.pop() {
                    Some(first) => first,
                    None => unreachable!("a submission is one"),
                },
                other => return other,
            },
        };
        let mut count = first.writes.len();
        let mut group = vec![first];
        while count < self.shared.config.max_group
            && let Ok(next) = self.waiting.try_recv()
        {
            if count + next.writes.len() > self.shared.config.max_group {
                self.carried = Some(next);
                break;
            }
            count += next.writes.len();
            group.push(next);
        }
        Next::Group(group)
    }

    async fn next_submission(&mut self) -> Next {
        let of = |next: Option<Submission>| next.map_or(Next::End, |next| Next::Group(vec![next]));
        if !self.closing {
            let (health, pause) = (self.shared.health.clone(), self.probe_pause);
            let probe_at = &mut self.probe_at;
            let is_due = async {
                if !health.trouble().await {
                    // Kept across submissions that arrive meanwhile: they must not postpone it forever.
                    let at = *probe_at.get_or_insert_with(|| Instant::now() + pause);
                    tokio::time::sleep_until(at).await;
                }
            };
            tokio::select! {
                biased;
                next = self.waiting.recv() => return of(next),
                () = self.shared.closing.cancelled() => {}
                () = is_due => return Next::Probe,
            }
            self.closing = true;
            self.waiting.close();
        }
        of(self.waiting.recv().await)
    }

    fn is_probe_due(&self) -> bool {
        !self.closing && self.shared.health.is_away() && self.probe_at.is_some_and(|at| at <= Instant::now())
    }

    /// Writes a small value: callers are refused immediately, so perhaps nobody else writes. Fails only if the commit
    /// is in doubt.
    async fn probe(&mut self) -> Result<(), LedgerError> {
        // A different value each time: SQLite skips pages whose content would not change.
        self.probes += 1;
        let newest = self.ledger.meta(PROBE_KEY).await.ok().flatten().unwrap_or_default();
        let known = newest.get(..16).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default();
        self.probes = self.probes.max(known.wrapping_add(1));
        let value = format!("{:016x}", self.probes).repeat(PROBE_BYTES / 16);
        let write = Write::Meta { key: PROBE_KEY.to_owned(), value };
        let result = self.commit(vec![write]).await;
        self.probe_at = None;
        self.probe_pause = match &result {
            Ok(_) => {
                self.shared.health.works();
                PROBE_PAUSE
            }
            Err(_) => (self.probe_pause * 2).min(PROBE_PAUSE_MOST),
        };
        match result {
            Err(error) if error.is_ambiguous() => Err(error),
            _ => Ok(()),
        }
    }

    /// Commits `group` and answers its submitters. Fails only if the commit is in doubt.
    async fn commit_group(&self, group: Vec<Submission>) -> Result<(), LedgerError> {
        let (writes, submitters): (Vec<_>, Vec<_>) =
            group.into_iter().map(|Submission { writes, answer }| (writes, answer)).unzip();
        let sizes: Vec<usize> = writes.iter().map(Vec::len).collect();
        // A damaged row needed by one write must not fail the others: then each submission gets its own transaction.
        let spare = (writes.len() > 1).then(|| writes.clone());
        let result = self.commit(writes.into_iter().flatten().collect()).await;
        match (result, spare) {
            (Ok(outcomes), _) => {
                let mut outcomes = outcomes.into_iter();
                for (size, submitter) in sizes.into_iter().zip(submitters) {
                    self.answer(submitter, size, Ok(outcomes.by_ref().take(size).collect()));
                }
                Ok(())
            }
            (Err(LedgerError::Damaged { what, detail }), Some(spare)) => {
                tracing::error!(what, detail, "a group met damage; committing its submissions one by one");
                let mut pending = spare.into_iter().zip(submitters);
                while let Some((writes, submitter)) = pending.next() {
                    let size = writes.len();
                    let result = self.commit(writes).await;
                    let doubt = result.as_ref().err().filter(|error| error.is_ambiguous()).cloned();
                    self.answer(submitter, size, result);
                    if let Some(error) = doubt {
                        for (writes, submitter) in pending {
                            self.answer(submitter, writes.len(), Err(error.clone()));
                        }
                        return Err(error);
                    }
                }
                Ok(())
            }
            (Err(error), _) => {
                for (size, submitter) in sizes.into_iter().zip(submitters) {
                    self.answer(submitter, size, Err(error.clone()));
                }
                if error.is_ambiguous() { Err(error) } else { Ok(()) }
            }
        }
    }

    /// Commits one transaction and publishes its events.
    async fn commit(&self, mut writes: Vec<Write>) -> Result<Outcomes, LedgerError> {
        let count = writes.len();
        if let Some(owner) = &self.shared.log
            && let Some(at) = writes.iter().filter_map(time_of).max()
        {
            writes.push(Write::Summary { owner: Arc::clone(owner), at });
        }
        let started = Instant::now();
        let mut result = self.ledger.commit(writes).await;
        if let Ok(outcomes) = &mut result {
            outcomes.truncate(count);
        }
        if let (Err(LedgerError::InDoubt(detail)), false) = (&result, Protection::StopInDoubt.is_on()) {
            result = Err(LedgerError::Storage(detail.clone().into()));
        }
        metrics::histogram!("slackwater_ledger_commit_seconds").record(started.elapsed());
        metrics::histogram!("slackwater_ledger_group_writes").record(u32::try_from(count).unwrap_or(u32::MAX));
        match &result {
            // A small write that finds room does not prove recovery: the probe does.
            Ok(outcomes) => self.publish(outcomes),
            Err(error) => {
                if let LedgerError::Storage(fault) = error {
                    self.shared.health.failed(fault);
                }
                // Marked before any answer, so that a retry is refused.
                if error.is_ambiguous() {
                    self.shared.in_doubt.store(true, Ordering::Release);
                    self.shared.room.close();
                }
                metrics::counter!("slackwater_ledger_commit_failures_total").increment(1);
            }
        }
        result
    }

    fn publish(&self, outcomes: &[Durable<WriteOutcome>]) {
        if self.ledger.leases().is_some() {
            self.shared.committed.notify_one();
            return;
        }
        if self.shared.events.receiver_count() == 0 {
            return;
        }
        let events: Arc<[EventRecord]> = outcomes
            .iter()
            .flat_map(|outcome| match outcome.get() {
                WriteOutcome::Accept(AcceptOutcome::Accepted { event, .. }) => std::slice::from_ref(event),
                WriteOutcome::Applied(events) => events.as_slice(),
                WriteOutcome::Accept(_)
                | WriteOutcome::Refused(_)
                | WriteOutcome::MembersEnded(_)
                | WriteOutcome::Fenced { .. } => &[],
            })
            .cloned()
            .collect();
        if !events.is_empty() {
            // Fails only if the last subscriber has just left.
            let _ = self.shared.events.send(events);
        }
    }

    fn answer(
        &self,
        submitter: oneshot::Sender<Result<Outcomes, LedgerError>>,
        size: usize,
        result: Result<Outcomes, LedgerError>,
    ) {
        self.shared.room.add_permits(size);
        let waiting = self.shared.config.queue_len.saturating_sub(self.shared.room.available_permits());
        metrics::gauge!("slackwater_ledger_queue_writes").set(u32::try_from(waiting).unwrap_or(u32::MAX));
        // The commit stands even if its submitter has gone away.
        let _ = submitter.send(result);
    }

    /// Fails all queued submissions.
    fn refuse_all(&mut self, error: &LedgerError) {
        self.waiting.close();
        while let Some(Submission { writes, answer }) = self.carried.take().or_else(|| self.waiting.try_recv().ok()) {
            self.answer(answer, writes.len(), Err(error.clone()));
        }
    }
}
