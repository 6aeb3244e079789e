//! Callers in open loop: a call is due at a fixed time, whatever the outcome of those before it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use tokio::{
    sync::{Notify, oneshot},
    task::{JoinHandle, JoinSet},
};

use crate::{
    client::{RelayerClient, Submitted},
    error::{BenchError, Result},
    report::Latencies,
    wallet::{Crowd, SignedRequest},
};

/// Time limit for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Pause before a retry with the same bytes.
const PAUSE: Duration = Duration::from_millis(100);

/// Deadline of requests in runs in which none is to expire.
pub(super) const WITHIN: &str = "30m";

/// Outcome of all calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Every request that was signed and submitted, in the order in which they were due.
    pub(super) requests: Vec<SignedRequest>,
    /// Time from a call's due time to its acceptance.
    pub(super) latencies: Latencies,
    /// Calls without an answer, or answered with 429 or 503; each was repeated with the same bytes.
    pub(super) repeated: u64,
    /// Requests whose acceptance was lost and whose repeated call was answered as a duplicate.
    pub(super) recognised: u64,
    /// Requests refused for good, with the code.
    pub(super) refused: Vec<(B256, String)>,
    /// Time from the first call to the end of the calls.
    pub(super) took: Duration,
    /// Number of requests due before the end of the last outage.
    pub(super) before: usize,
}

/// Callers at work.
#[derive(Debug)]
pub(super) struct Callers {
    stop: Arc<Notify>,
    task: JoinHandle<Result<Calls>>,
}

impl Callers {
    /// Starts calls at `rate_per_s` to `targets` in turn. A caller without an answer retries at the next relayer, for
    /// as long as `patience`. `within` is the deadline of each request; with `None` it is the relayer's default, and
    /// each user sends one request after the other.
    pub(super) fn start(
        targets: Vec<RelayerClient>,
        crowd: Crowd,
        within: Option<&'static str>,
        rate_per_s: u32,
        patience: Duration,
    ) -> Self {
        let targets: Arc<[RelayerClient]> =
            targets.into_iter().map(|client| client.with_timeout(ANSWER_WITHIN)).collect();
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(drive(targets, crowd, within, rate_per_s, patience, Arc::clone(&stop)));
        Self { stop, task }
    }

    /// Stops making calls; waits for the answers to those that were made.
    pub(super) async fn stop(self) -> Result<Calls> {
        self.stop.notify_one();
        self.task.await.map_err(|error| BenchError::unexpected("a caller", error))?
    }
}

async fn drive(
    targets: Arc<[RelayerClient]>,
    mut crowd: Crowd,
    within: Option<&'static str>,
    rate_per_s: u32,
    patience: Duration,
    stop: Arc<Notify>,
) -> Result<Calls> {
    let interval = Duration::from_secs(1) / rate_per_s.max(1);
    let started = Instant::now();
    let mut calls = Calls::default();
    let mut open: JoinSet<Result<Answer>> = JoinSet::new();
    let mut due = started;
    let mut last: Vec<Option<oneshot::Receiver<()>>> = crowd.users.iter().map(|_| None).collect();
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let index = calls.requests.len();
        let user = index % crowd.users.len().max(1);
        let request = match within {
            Some(within) => crowd.mark_within(user, within),
            None => crowd.mark(user),
        };
        calls.requests.push(request.clone());
        let (done, turn) = match within {
            Some(_) => (None, None),
            None => {
                let (done, next) = oneshot::channel();
                (Some(done), last.get_mut(user).and_then(|last| last.replace(next)))
            }
        };
        let targets = Arc::clone(&targets);
        open.spawn(async move {
            if let Some(turn) = turn {
                let _ = turn.await;
            }
            let answer = call(targets, index, request, due, patience).await;
            drop(done);
            answer
        });
        due += interval;
        while let Some(done) = open.try_join_next() {
            calls.add(done)?;
        }
    }
    calls.took = started.elapsed();
    while let Some(done) = open.join_next().await {
        calls.add(done)?;
    }
    Ok(calls)
}

impl Calls {
    fn add(&mut self, done: Result<Result<Answer>, tokio::task::JoinError>) -> Result<()> {
        let answer = done.map_err(|error| BenchError::unexpected("a caller", error))??;
        self.repeated += answer.repeated;
        match answer.outcome {
            Ok(is_duplicate) => {
                self.latencies.record(answer.after);
                self.recognised += u64::from(is_duplicate);
            }
            Err(refused) => self.refused.push(refused),
        }
        Ok(())
    }
}

struct Answer {
    after: Duration,
    repeated: u64,
    outcome: Result<bool, (B256, String)>,
}

/// Submits the same bytes again and again until there is a definite answer.
async fn call(
    targets: Arc<[RelayerClient]>,
    first: usize,
    request: SignedRequest,
    due: Instant,
    patience: Duration,
) -> Result<Answer> {
    for (client, repeated) in targets.iter().cycle().skip(first % targets.len().max(1)).zip(0..) {
        let outcome = match client.submit(&request.body).await {
            Ok(Submitted::Accepted(accepted)) if accepted.id.0 == request.id => Some(Ok(accepted.duplicate)),
            Ok(Submitted::Accepted(accepted)) => {
                return Err(BenchError::unexpected("the id of a request", accepted.id));
            }
            Ok(Submitted::Refused(problem)) if matches!(problem.status, 429 | 503) => None,
            Ok(Submitted::Refused(problem)) => Some(Err((request.id, problem.code.into()))),
            Err(error) if error.is_ambiguous() => None,
            Err(error) => return Err(error),
        };
        if let Some(outcome) = outcome {
            return Ok(Answer { after: due.elapsed(), repeated, outcome });
        }
        if due.elapsed() > patience {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(BenchError::Timeout { what: format!("an answer to the submission of {}", request.id), after: patience })
}
