//! The decision log apart from single decisions: summed refusals, and the log's head.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{GroupCommit, Ledger, LedgerError, Write},
    provenance::{Decision, Head},
    relay::clock,
};

/// Interval of refusal sums: with a row per refusal, any key holder could fill the disk.
const SUM_INTERVAL: Duration = Duration::from_secs(60);

/// Cache time of the log's head, which anyone may read without a key.
const HEAD_AGE: Duration = Duration::from_secs(1);

/// (key, tenant, code).
type Refusal = (Option<Arc<str>>, Arc<str>, &'static str);

/// Refusals of the current minute.
#[derive(Debug)]
pub(in crate::relay) struct RefusalSums {
    sums: Mutex<BTreeMap<Refusal, u64>>,
    /// Limit of sums that name key and tenant (`ledger.max_refusal_sums`); further ones name the code alone. An
    /// embedder may pass untrusted names.
    most: usize,
}

impl RefusalSums {
    pub(in crate::relay) const fn new(most: usize) -> Self {
        Self { sums: Mutex::new(BTreeMap::new()), most }
    }

    pub(in crate::relay) fn add(&self, refusal: Refusal, count: u64) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let is_named = sums.len() < self.most || sums.contains_key(&refusal);
        let refusal = if is_named { refusal } else { (None, "".into(), refusal.2) };
        *sums.entry(refusal).or_default() += count;
    }

    fn take(&self) -> BTreeMap<Refusal, u64> {
        std::mem::take(&mut self.sums.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Background task of the decision log: writes refusal sums and reports the head.
#[derive(Debug)]
pub(in crate::relay) struct LogKeeper {
    pub(in crate::relay) refusals: Arc<RefusalSums>,
    pub(in crate::relay) group: GroupCommit,
    pub(in crate::relay) ledger: Arc<dyn Ledger>,
    pub(in crate::relay) owner: Arc<str>,
    pub(in crate::relay) head_interval: Duration,
}

impl LogKeeper {
    /// Runs until `stop`: writes refusal sums each minute, and logs the head every `head_interval`.
    pub(in crate::relay) async fn run(self, stop: CancellationToken) {
        let mut sums = tokio::time::interval(SUM_INTERVAL);
        let mut heads = tokio::time::interval(self.head_interval);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = sums.tick() => self.sum_up().await,
                _ = heads.tick() => self.tell_head().await,
            }
        }
        // The writing task runs until the last of its callers is gone.
        self.sum_up().await;
    }

    async fn sum_up(&self) {
        let taken = self.refusals.take();
        if taken.is_empty() {
            return;
        }
        let at_ms = clock::now().0;
        let write = |((key, tenant, code), count): (&Refusal, &u64)| {
            let (key, tenant, code) = (key.as_deref().map(str::to_owned), tenant.to_string(), (*code).to_owned());
            let decision = Box::new(Decision::Refused { key, tenant, code, count: *count });
            Write::Decide { owner: Arc::clone(&self.owner), at_ms, decision }
        };
        if let Err(error) = self.group.try_submit_all(taken.iter().map(write).collect()).await {
            tracing::debug!(%error, "refusals can't be written now; they are counted on");
            if !error.is_ambiguous() {
                taken.into_iter().for_each(|(refusal, count)| self.refusals.add(refusal, count));
            }
        }
    }

    async fn tell_head(&self) {
        match head(&*self.ledger).await {
            Ok(Some(head)) => {
                metrics::gauge!("slackwater_log_entries").set(head.seq as f64);
                tracing::info!(seq = head.seq, hash = %head.hash, "head of the decision log: keep it where nobody who can write the ledger can write");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the head of the decision log can't be read"),
        }
    }
}

/// The newest entry of the log; `None` before the first.
pub(in crate::relay) async fn head(ledger: &dyn Ledger) -> Result<Option<Head>, LedgerError> {
    Ok(ledger.last_decision().await?.map(|row| Head { seq: row.seq, hash: row.hash }))
}

/// (time of the read, the ledger's answer).
type ReadHead = (Instant, Result<Option<Head>, LedgerError>);

/// Cache of the log's head; failures are cached too.
#[derive(Debug, Default)]
pub(in crate::relay) struct KnownHead(AsyncMutex<Option<ReadHead>>);

impl KnownHead {
    /// The cached head if at most [`HEAD_AGE`] old, else the result of `read`. Of concurrent callers, one reads.
    pub(in crate::relay) async fn get<F: Future<Output = Result<Option<Head>, LedgerError>>>(
        &self,
        read: impl FnOnce() -> F,
    ) -> Result<Option<Head>, LedgerError> {
        let mut known = self.0.lock().await;
        if let Some((at, head)) = &*known
            && at.elapsed() <= HEAD_AGE
        {
            return head.clone();
        }
        let head = read().await;
        *known = Some((Instant::now(), head.clone()));
        head
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use alloy_primitives::B256;
    use futures_util::future::join_all;

    use super::*;
    use crate::ledger::{FaultKind, StorageFault};

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_for_the_head_the_ledger_is_read_once_in_a_second() {
        let (known, reads) = (KnownHead::default(), AtomicU64::new(0));
        let read = async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let seq = reads.fetch_add(1, Ordering::Relaxed) + 1;
            match seq {
                3 => Err(LedgerError::Storage(StorageFault::new(FaultKind::Other, "away".to_owned()))),
                _ => Ok(Some(Head { seq, hash: B256::ZERO })),
            }
        };
        let ask = async || {
            let told = join_all((0..1_000).map(|_| known.get(&read))).await;
            let mut told: Vec<_> = told.into_iter().map(|head| head.ok().flatten().map(|head| head.seq)).collect();
            told.dedup();
            told
        };
        assert_eq!(ask().await, [Some(1)]);
        tokio::time::sleep(HEAD_AGE).await;
        assert_eq!(ask().await, [Some(1)]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(ask().await, [Some(2)]);
        // Failing storage is backed off for the same time.
        tokio::time::sleep(HEAD_AGE * 2).await;
        assert_eq!(ask().await, [None]);
        tokio::time::sleep(HEAD_AGE * 2).await;
        assert_eq!(ask().await, [Some(4)]);
        assert_eq!(reads.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn names_from_outside_make_a_bounded_number_of_sums() {
        const MOST: usize = 1_000;
        let sums = RefusalSums::new(MOST);
        for index in 0..3 * MOST {
            sums.add((None, format!("tenant {index}").into(), "unknown_tenant"), 1);
        }
        sums.add((None, "tenant 7".into(), "unknown_tenant"), 1);
        let taken = sums.take();
        assert_eq!((taken.len(), taken.values().sum::<u64>()), (MOST + 1, 3 * MOST as u64 + 1));
        assert_eq!(taken[&(None, "tenant 7".into(), "unknown_tenant")], 2);
    }
}
