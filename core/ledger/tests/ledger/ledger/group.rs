//! Group commit, on a ledger whose commits can be held back and made to fail.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use alloy_primitives::{Address, U256};
use async_trait::async_trait;
use slackwater_core::{
    Timestamp,
    provenance::Decision,
    request::{BatchId, LaneId, Reason, RequestId, Status, TargetRecord},
};
use slackwater_ledger::{
    AccountRow, AttemptRecord, BatchMember, BatchRecord, BatchState, CostRow, DecisionRow, Durable, EventFilter,
    EventRecord, GroupCommit, GroupCommitConfig, KeyUse, Ledger, LedgerError, MarginRow, Reach, RequestChange,
    RequestFilter, RequestRecord, SpentRow, Write, WriteOutcome,
};
use tokio::sync::Semaphore;

use crate::ledger::{Store, sample::*, sqlite::TempStore};

/// A ledger that commits when permitted, records the sizes of its commits, and fails on demand.
#[derive(Debug)]
struct Staged {
    inner: Arc<dyn Ledger>,
    /// One permit per commit.
    gate: Semaphore,
    sizes: Mutex<Vec<usize>>,
    failures: Mutex<VecDeque<Option<LedgerError>>>,
    _store: TempStore,
}

impl Staged {
    async fn new() -> Arc<Self> {
        let store = TempStore::new();
        let inner = store.open().await;
        let (sizes, failures) = (Mutex::default(), Mutex::default());
        Arc::new(Self { inner, gate: Semaphore::new(0), sizes, failures, _store: store })
    }

    fn allow(&self, commits: usize) {
        self.gate.add_permits(commits);
    }

    /// Results of the next commits: `None` succeeds.
    fn then(&self, results: impl IntoIterator<Item = Option<LedgerError>>) {
        self.failures.lock().unwrap().extend(results);
    }

    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }
}

#[async_trait]
impl Ledger for Staged {
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Durable<WriteOutcome>>, LedgerError> {
        self.sizes.lock().unwrap().push(writes.len());
        self.gate.acquire().await.unwrap().forget();
        let failure = self.failures.lock().unwrap().pop_front().flatten();
        match failure {
            Some(error) => Err(error),
            None => self.inner.commit(writes).await,
        }
    }
    async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        self.inner.request(id).await
    }
    async fn requests_by_id(&self, ids: &[RequestId]) -> Result<Vec<RequestRecord>, LedgerError> {
        self.inner.requests_by_id(ids).await
    }

    async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        self.inner.requests(filter).await
    }
    async fn open_requests(&self, chain: u64, after: u64, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        self.inner.open_requests(chain, after, limit).await
    }
    async fn batch(
        &self,
        id: BatchId,
    ) -> Result<Option<(BatchRecord, Vec<AttemptRecord>, Vec<BatchMember>)>, LedgerError> {
        self.inner.batch(id).await
    }
    async fn open_batches(
        &self,
        lane: LaneId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(BatchRecord, Vec<Durable<AttemptRecord>>, Vec<BatchMember>)>, LedgerError> {
        self.inner.open_batches(lane, from, limit).await
    }
    async fn earlier_members(&self, id: BatchId) -> Result<Vec<(u32, Vec<BatchMember>)>, LedgerError> {
        self.inner.earlier_members(id).await
    }

    async fn next_nonce(&self, lane: LaneId) -> Result<Option<u64>, LedgerError> {
        self.inner.next_nonce(lane).await
    }
    async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        self.inner.events(filter).await
    }
    async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        self.inner.last_event_seq().await
    }
    async fn spent(&self, since_ms: u64) -> Result<Vec<SpentRow>, LedgerError> {
        self.inner.spent(since_ms).await
    }
    async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError> {
        self.inner.accounts().await
    }

    async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError> {
        self.inner.margins().await
    }
    async fn costs_of(
        &self,
        tenant: &str,
        since: Timestamp,
        after: u64,
        limit: usize,
    ) -> Result<Vec<CostRow>, LedgerError> {
        self.inner.costs_of(tenant, since, after, limit).await
    }
    async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError> {
        self.inner.used_by_keys(tenant, keys, since).await
    }
    async fn nonces_of(&self, chain_id: u64, forwarder: Address, signer: Address) -> Result<Vec<u64>, LedgerError> {
        self.inner.nonces_of(chain_id, forwarder, signer).await
    }
    async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        self.inner.decisions(after, limit).await
    }
    async fn last_decision(&self) -> Result<Option<DecisionRow>, LedgerError> {
        self.inner.last_decision().await
    }
    async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        self.inner.counts().await
    }
    async fn targets(&self, chain_id: u64) -> Result<Vec<TargetRecord>, LedgerError> {
        self.inner.targets(chain_id).await
    }
    async fn meta(&self, key: &str) -> Result<Option<String>, LedgerError> {
        self.inner.meta(key).await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

type Answer = Result<Vec<Durable<WriteOutcome>>, LedgerError>;

/// Submits requests with these numbers as one submission, and returns once they are in the queue.
async fn submit(group: &GroupCommit, numbers: impl IntoIterator<Item = u64>) -> tokio::task::JoinHandle<Answer> {
    let writes: Vec<Write> = numbers.into_iter().map(|n| accept(new(n))).collect();
    let waiting = group.waiting() + writes.len();
    let handle = group.clone();
    let task = tokio::spawn(async move { handle.submit_all(writes).await });
    while group.waiting() < waiting {
        tokio::task::yield_now().await;
    }
    task
}

/// Waits until so many commits have begun.
async fn begun(ledger: &Staged, commits: usize) {
    while ledger.sizes().len() < commits {
        tokio::task::yield_now().await;
    }
}

fn outcomes(answer: Answer) -> Vec<WriteOutcome> {
    answer.expect("commits").into_iter().map(Durable::into_inner).collect()
}

fn storage() -> LedgerError {
    LedgerError::Storage("disk on fire".to_owned().into())
}

#[tokio::test]
async fn waiting_writes_share_a_commit() {
    let ledger = Staged::new().await;
    let config = GroupCommitConfig::default().with(|it| it.max_group = 5);
    let (group, task) = GroupCommit::spawn(ledger.clone(), config);
    let mut events = group.subscribe();
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    let rest = [submit(&group, [2, 3]).await, submit(&group, [4, 5]).await, submit(&group, [6, 7]).await];
    // Larger than any group, but never split.
    let large = submit(&group, 10..18).await;
    assert!(events.try_recv().is_err(), "no event before its commit");
    ledger.allow(4);
    accepted(&outcomes(first.await.unwrap())[0]);
    for submission in rest {
        let outcomes = outcomes(submission.await.unwrap());
        assert_eq!(outcomes.len(), 2);
        for outcome in &outcomes {
            accepted(outcome);
        }
    }
    assert_eq!(outcomes(large.await.unwrap()).len(), 8);
    assert_eq!(ledger.sizes(), [1, 4, 2, 8]);
    let mut seen = Vec::new();
    while let Ok(published) = events.try_recv() {
        seen.extend(published.iter().map(|event| event.seq));
    }
    assert_eq!(seen, (1..=15).collect::<Vec<_>>());
    assert_eq!(group.waiting(), 0);
    group.close().await;
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn full_queue_pushes_back() {
    let ledger = Staged::new().await;
    let config = GroupCommitConfig::default().with(|it| it.queue_len = 4);
    let (group, _task) = GroupCommit::spawn(ledger.clone(), config);
    let first = submit(&group, [1, 2]).await;
    begun(&ledger, 1).await;
    let second = submit(&group, [3, 4]).await;
    assert!(matches!(group.try_submit(accept(new(5))).await, Err(LedgerError::Full { len: 4, limit: 4 })));
    let huge = (0..5).map(|n| accept(new(n))).collect();
    assert!(matches!(group.submit_all(huge).await, Err(LedgerError::Full { len: 5, limit: 4 })));
    // `submit` waits for room instead.
    let patient = tokio::spawn({
        let group = group.clone();
        async move { group.submit(accept(new(5))).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(group.waiting(), 4);
    ledger.allow(3);
    accepted(patient.await.unwrap().unwrap().get());
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert!(group.submit_all(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn storage_failure_reaches_every_submitter_and_passes() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    ledger.then([None, Some(storage())]);
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    let doomed = [submit(&group, [2]).await, submit(&group, [3]).await];
    ledger.allow(3);
    first.await.unwrap().unwrap();
    for submission in doomed {
        assert!(matches!(submission.await.unwrap(), Err(LedgerError::Storage(_))));
    }
    assert_eq!(accepted(group.submit(accept(new(2))).await.unwrap().get()).seq, 2);
}

#[tokio::test]
async fn damage_fails_only_who_needs_it() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    let damage = LedgerError::Damaged { what: "request", detail: "unreadable".to_owned() };
    // The group meets damage; alone, the second submission meets it again.
    ledger.then([None, Some(damage.clone()), None, Some(damage), None]);
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    let [before, bad, after] = [submit(&group, [2]).await, submit(&group, [3]).await, submit(&group, [4]).await];
    ledger.allow(5);
    first.await.unwrap().unwrap();
    assert_eq!(accepted(&outcomes(before.await.unwrap())[0]).seq, 2);
    assert!(matches!(bad.await.unwrap(), Err(LedgerError::Damaged { .. })));
    assert_eq!(accepted(&outcomes(after.await.unwrap())[0]).seq, 3);
    assert_eq!(ledger.sizes(), [1, 3, 1, 1, 1]);
}

#[tokio::test]
async fn doubt_is_sticky() {
    let ledger = Staged::new().await;
    let config = GroupCommitConfig::default().with(|it| it.max_group = 1);
    let (group, task) = GroupCommit::spawn(ledger.clone(), config);
    ledger.then([Some(LedgerError::InDoubt("sync failed".to_owned()))]);
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    let queued = [submit(&group, [2]).await, submit(&group, [3]).await];
    ledger.allow(9);
    assert!(matches!(first.await.unwrap(), Err(LedgerError::InDoubt(_))));
    for submission in queued {
        assert!(matches!(submission.await.unwrap(), Err(LedgerError::InDoubt(_))));
    }
    assert!(matches!(group.submit(accept(new(4))).await, Err(LedgerError::InDoubt(_))));
    assert!(matches!(group.try_submit(accept(new(4))).await, Err(LedgerError::InDoubt(_))));
    // The task ends, which its owner notices.
    assert!(matches!(task.await.unwrap(), Err(LedgerError::InDoubt(_))));
    assert_eq!(ledger.sizes(), [1]);
    group.close().await;
}

#[tokio::test]
async fn close_commits_what_waits() {
    let ledger = Staged::new().await;
    let config = GroupCommitConfig::default().with(|it| it.max_group = 2);
    let (group, task) = GroupCommit::spawn(ledger.clone(), config);
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    let queued = [submit(&group, [2, 3]).await, submit(&group, [4]).await, submit(&group, [5]).await];
    let closing = tokio::spawn({
        let group = group.clone();
        async move { group.close().await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(group.submit(accept(new(6))).await, Err(LedgerError::Closed)));
    ledger.allow(9);
    closing.await.unwrap();
    task.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    for submission in queued {
        submission.await.unwrap().unwrap();
    }
    assert_eq!(ledger.last_event_seq().await.unwrap(), 5);
    group.close().await;
}

#[tokio::test]
async fn aborted_writer_leaves_doubt() {
    let ledger = Staged::new().await;
    let (group, task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    task.abort();
    assert!(matches!(first.await.unwrap(), Err(LedgerError::InDoubt(_))));
    assert!(group.submit(accept(new(2))).await.is_err());
    group.close().await;
}

#[tokio::test]
async fn vanished_submitter_takes_nothing_back() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    let first = submit(&group, [1]).await;
    begun(&ledger, 1).await;
    first.abort();
    ledger.allow(2);
    duplicate(group.submit(accept(new(1))).await.unwrap().get());
}

#[tokio::test]
async fn callers_are_refused_until_a_look_succeeds() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    // A write fails; then the first check of the storage does, and the second succeeds.
    ledger.then([Some(storage()), Some(storage()), None]);
    ledger.allow(1);
    assert!(matches!(group.try_submit(accept(new(1))).await, Err(LedgerError::Storage(_))));
    assert!(group.fault().is_some());
    // Meanwhile no caller's write reaches the storage.
    let before = ledger.sizes().len();
    assert!(matches!(group.try_submit(accept(new(1))).await, Err(LedgerError::Storage(_))));
    assert!(ledger.sizes().len() <= before + 1, "only the look");
    begun(&ledger, 2).await;
    ledger.allow(1);
    begun(&ledger, 3).await;
    assert!(group.fault().is_some(), "the first look failed");
    ledger.allow(1);
    while group.fault().is_some() {
        tokio::task::yield_now().await;
    }
    ledger.allow(1);
    assert_eq!(accepted(group.try_submit(accept(new(1))).await.unwrap().get()).seq, 1);
}

#[tokio::test]
async fn a_write_that_slips_through_is_no_recovery() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn(ledger.clone(), GroupCommitConfig::default());
    ledger.then([Some(storage()), None]);
    ledger.allow(2);
    assert!(group.submit(accept(new(1))).await.is_err());
    // A lane's decision is retried again and again, and succeeds.
    group.submit(accept(new(1))).await.unwrap();
    assert!(group.fault().is_some());
    ledger.allow(1);
    while group.fault().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_commit_logs_what_it_accepted_and_ended() {
    let ledger = Staged::new().await;
    let config = GroupCommitConfig::default();
    let (group, _task) = GroupCommit::spawn_logging(ledger.clone(), config, "relay".into());
    ledger.allow(4);
    let outcomes = group.submit_all(vec![accept(new(1)), accept(new(2)), accept(new(1))]).await.unwrap();
    assert_eq!(outcomes.len(), 3, "the log's own write is nobody's");
    let change = RequestChange::to(new(2).id, Status::Expired).because(Reason::DeadlinePassed);
    group.submit(Write::Requests { changes: vec![change], at: Timestamp(7_000) }).await.unwrap();
    // No change: nothing is logged.
    group.submit(accept(new(1))).await.unwrap();
    group.submit(Write::Meta { key: "a".to_owned(), value: "b".to_owned() }).await.unwrap();
    let rows = ledger.decisions(0, 10).await.unwrap();
    let decisions: Vec<_> = rows.iter().map(|row| Decision::decode(&row.body).unwrap()).collect();
    let [Decision::Accepted { requests: accepted }, Decision::Settled { requests: ended }] = &decisions[..] else {
        panic!("{decisions:?}");
    };
    assert_eq!(accepted.iter().map(|entry| entry.request).collect::<Vec<_>>(), [new(1).id.0, new(2).id.0]);
    assert_eq!((&accepted[0].tenant, accepted[0].reserved_wei), (&new(1).tenant, new(1).reserved_wei.to::<u128>()));
    assert_eq!((ended.len(), ended[0].request, ended[0].status.as_str()), (1, new(2).id.0, "expired"));
    assert_eq!((ended[0].reason.as_deref(), ended[0].cost_wei), (Some("deadline_passed"), 0));
    assert_eq!(rows[1].at_ms, 7_000);
}

/// The cost of an ended request rises when an earlier transaction with it becomes final later.
#[tokio::test]
async fn a_cost_that_comes_after_the_end_is_logged_too() {
    let ledger = Staged::new().await;
    let (group, _task) = GroupCommit::spawn_logging(ledger.clone(), GroupCommitConfig::default(), "relay".into());
    ledger.allow(4);
    group.submit_all(vec![accept(new(1)), plan(0, &[1])]).await.unwrap();
    group.submit(moved(0, BatchState::Included, &[1], Status::Queued)).await.unwrap();
    group.submit(ended(&[1], Status::Expired)).await.unwrap();
    let mut change = RequestChange::to(new(1).id, Status::Queued);
    (change.charged_wei, change.reach) = (U256::from(700), Reach::Cost);
    let mut last = moved(0, BatchState::Finalized, &[], Status::Queued);
    if let Write::Batch { cost_wei, changes, .. } = &mut last {
        (*cost_wei, *changes) = (Some(U256::from(700)), vec![change]);
    }
    applied(group.submit(last).await.unwrap().get());
    assert_eq!(request(&*ledger, 1).await.cost_wei, Some(U256::from(700)));
    let rows = ledger.decisions(0, 10).await.unwrap();
    let ended = rows.iter().filter_map(|row| match Decision::decode(&row.body).unwrap() {
        Decision::Settled { requests } => Some(requests),
        _ => None,
    });
    let ended: Vec<_> = ended.flatten().map(|ended| (ended.request, ended.status, ended.cost_wei)).collect();
    let told = |cost| (new(1).id.0, "expired".to_owned(), cost);
    assert_eq!(ended, [told(0), told(700)]);
}
