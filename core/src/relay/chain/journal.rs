//! Journal: commits the chain services' writes to the ledger in order, together with the decision log.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{GroupCommit, LedgerError, Tracked, Write, WriteOutcome},
    provenance::Decision,
    relay::{clock, cluster::lease::Lease},
};

/// Writes that belong together, the decisions behind them, and the channel for their outcomes.
#[derive(Debug)]
pub(in crate::relay) struct JournalEntry {
    pub(in crate::relay) writes: Vec<Write>,
    pub(in crate::relay) decisions: Vec<Decision>,
    pub(in crate::relay) done: oneshot::Sender<Vec<Tracked>>,
    /// The lease under which they are written; `None` if the ledger is not shared.
    pub(in crate::relay) lease: Option<Lease>,
}

/// Capacity of the journal's channel, in entries.
pub(in crate::relay) const JOURNAL_LEN: usize = 4_096;

/// First and longest pause before a failed commit is retried.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// Most entries in one commit.
const MAX_ENTRIES: usize = 256;

/// The journal's state. One task serves all chains, because the decision log is one hash chain.
#[derive(Debug)]
pub(in crate::relay) struct Journal {
    group: GroupCommit,
    owner: Arc<str>,
    entries: mpsc::Receiver<JournalEntry>,
}

impl Journal {
    /// A journal for the decision log of `owner`, and its sender. The ledger links the log's entries.
    pub(in crate::relay) fn open(group: GroupCommit, owner: &str) -> (Self, mpsc::Sender<JournalEntry>) {
        let (sender, entries) = mpsc::channel(JOURNAL_LEN);
        (Self { group, owner: owner.into(), entries }, sender)
    }

    /// Runs until every sender is gone, or until the ledger can't be trusted any more.
    ///
    /// A storage error is retried until the commit succeeds: no decision of a lane may be lost, and the lane waits.
    pub(in crate::relay) async fn run(mut self, stop: CancellationToken) -> Result<(), LedgerError> {
        let mut batch = Vec::with_capacity(MAX_ENTRIES);
        while self.entries.recv_many(&mut batch, MAX_ENTRIES).await > 0 {
            let mut writes = Vec::new();
            let mut counts = Vec::with_capacity(batch.len());
            let mut decisions = Vec::with_capacity(batch.len());
            let at_ms = clock::now().0;
            for entry in &mut batch {
                let before = writes.len();
                let under = |write: Write| match &entry.lease {
                    Some(lease) => Write::Fenced(lease.fence(), Box::new(write)),
                    None => write,
                };
                writes.extend(std::mem::take(&mut entry.writes).into_iter().map(under));
                counts.push(writes.len() - before);
                let decided = std::mem::take(&mut entry.decisions);
                decisions.push(decided.len());
                for decision in decided {
                    let owner = self.owner.clone();
                    writes.push(under(Write::Decide { owner, at_ms, decision: Box::new(decision) }));
                }
            }
            let mut outcomes = self.commit(writes, &stop).await?.into_iter();
            for ((entry, count), decided) in batch.drain(..).zip(counts).zip(decisions) {
                let mine: Vec<Tracked> = outcomes.by_ref().take(count).collect();
                let logged: Vec<Tracked> = outcomes.by_ref().take(decided).collect();
                let is_fenced = |(outcome, _): &Tracked| matches!(outcome.get(), WriteOutcome::Fenced { .. });
                if let Some(lease) = entry.lease.filter(|_| mine.iter().chain(&logged).any(is_fenced)) {
                    lease.revoke();
                }
                // At shutdown the receiver may be gone.
                let _ = entry.done.send(mine);
            }
        }
        Ok(())
    }

    async fn commit(&self, writes: Vec<Write>, stop: &CancellationToken) -> Result<Vec<Tracked>, LedgerError> {
        let mut delay = RETRY_FIRST;
        loop {
            match self.group.submit_tracked(writes.clone()).await {
                Err(error @ LedgerError::Storage(_)) if !stop.is_cancelled() => {
                    // The ledger's health alerts, once.
                    tracing::debug!(%error, retry_ms = delay.as_millis(), "ledger does not take what the lanes decided; nothing is sent until it does");
                    metrics::counter!("slackwater_journal_retries_total").increment(1);
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MOST);
                }
                other => return other,
            }
        }
    }
}
