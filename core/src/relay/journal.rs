//! What chain services decide goes to the ledger in order, together with the decision log.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::clock;
use crate::{
    ledger::{DecisionRow, GroupCommit, Ledger, LedgerError, Tracked, Write},
    provenance::{Decision, Entry, Head},
};

/// Writes that belong together, the decision behind them, and who waits.
#[derive(Debug)]
pub(super) struct JournalEntry {
    pub(super) writes: Vec<Write>,
    pub(super) decisions: Vec<Decision>,
    pub(super) done: oneshot::Sender<Vec<Tracked>>,
}

/// Entries that may wait.
pub(super) const JOURNAL_LEN: usize = 4_096;

/// Most entries in one commit.
const MAX_ENTRIES: usize = 256;

/// One task for all chains: the decision log is one chain of hashes.
#[derive(Debug)]
pub(super) struct Journal {
    group: GroupCommit,
    head: Head,
    entries: mpsc::Receiver<JournalEntry>,
}

impl Journal {
    /// Continues the log where the ledger left it.
    pub(super) async fn open(
        ledger: &Arc<dyn Ledger>,
        group: GroupCommit,
        owner: &str,
    ) -> Result<(Self, mpsc::Sender<JournalEntry>), LedgerError> {
        let head = match ledger.last_decision().await? {
            Some(row) => Head { seq: row.seq, hash: row.hash },
            None => Head::genesis(owner),
        };
        let (sender, entries) = mpsc::channel(JOURNAL_LEN);
        Ok((Self { group, head, entries }, sender))
    }

    /// Works until every sender is gone, or until the ledger can't be trusted any more.
    ///
    /// A storage error is retried until it works: nothing that a lane has decided may be lost, and the lane waits.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), LedgerError> {
        let mut batch = Vec::with_capacity(MAX_ENTRIES);
        while self.entries.recv_many(&mut batch, MAX_ENTRIES).await > 0 {
            let mut writes = Vec::new();
            let mut counts = Vec::with_capacity(batch.len());
            let mut head = self.head;
            let at_ms = clock::now().0;
            for entry in &mut batch {
                let before = writes.len();
                writes.append(&mut entry.writes);
                counts.push(writes.len() - before);
                for decision in &entry.decisions {
                    let entry = Entry::append(&head, at_ms, decision);
                    head = entry.head();
                    writes.push(Write::Decision(DecisionRow {
                        seq: entry.seq,
                        at_ms: entry.at_ms,
                        prev: entry.prev,
                        hash: entry.hash,
                        body: entry.body,
                    }));
                }
            }
            let decided: Vec<usize> = batch.iter().map(|entry| entry.decisions.len()).collect();
            let mut outcomes = self.commit(writes, &stop).await?.into_iter();
            self.head = head;
            for ((entry, count), decided) in batch.drain(..).zip(counts).zip(decided) {
                let mine: Vec<Tracked> = outcomes.by_ref().take(count).collect();
                outcomes.by_ref().take(decided).for_each(drop);
                // Nobody waits for a report at shutdown.
                let _ = entry.done.send(mine);
            }
        }
        Ok(())
    }

    async fn commit(&self, writes: Vec<Write>, stop: &CancellationToken) -> Result<Vec<Tracked>, LedgerError> {
        let mut delay = Duration::from_millis(100);
        loop {
            match self.group.submit_tracked(writes.clone()).await {
                Err(error @ LedgerError::Storage(_)) if !stop.is_cancelled() => {
                    tracing::error!(%error, retry_ms = delay.as_millis(), "ledger does not take what the lanes decided; nothing is sent until it does");
                    metrics::counter!("slackwater_journal_retries_total").increment(1);
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
                other => return other,
            }
        }
    }
}
