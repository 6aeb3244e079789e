//! Pauses at run time: stored in the ledger, in force on every instance, logged with their author.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    ledger::{GroupCommit, Ledger, LedgerError, Write},
    policy::{PauseNote, PauseScope, Pauses},
    provenance::Decision,
    relay::clock,
};

/// Ledger key of the pauses.
const META_KEY: &str = "pauses";

/// Failure to set or end a pause: the caller's or the storage's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// The chain is not served here.
    #[error("chain {0} is not served here")]
    UnknownChain(u64),
    /// The tenant is not configured.
    #[error("tenant `{0}` is not known")]
    UnknownTenant(String),
    /// The storage failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The pauses in force, as this instance knows them.
#[derive(Debug, Default)]
pub(in crate::relay) struct PauseBoard {
    pauses: RwLock<Arc<Pauses>>,
    /// Serializes changes: each begins with the stored pauses.
    changing: tokio::sync::Mutex<()>,
}

impl PauseBoard {
    /// Reads the pauses from the ledger.
    pub(in crate::relay) async fn restore(ledger: &Arc<dyn Ledger>) -> Result<Arc<Self>, LedgerError> {
        let board = Self::default();
        board.refresh(ledger).await?;
        let pauses = board.current();
        if *pauses != Pauses::default() {
            let (chains, tenants) = (pauses.chains.len(), pauses.tenants.len());
            tracing::warn!(
                all = pauses.all.is_some(),
                chains,
                tenants,
                "paused: what is in scope takes no new requests"
            );
        }
        Ok(Arc::new(board))
    }

    /// The pauses in force.
    pub(in crate::relay) fn current(&self) -> Arc<Pauses> {
        Arc::clone(&self.pauses.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, pauses: Pauses) {
        *self.pauses.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pauses);
    }

    async fn refresh(&self, ledger: &Arc<dyn Ledger>) -> Result<(), LedgerError> {
        let stored = match ledger.meta(META_KEY).await? {
            None => Pauses::default(),
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| LedgerError::Damaged { what: "pauses", detail: error.to_string() })?,
        };
        if stored != *self.current() {
            self.put(stored);
        }
        Ok(())
    }

    /// Pauses `scope`, or ends its pause, durably. The decision log records the author.
    pub(in crate::relay) async fn change(
        &self,
        (ledger, group, owner): (&Arc<dyn Ledger>, &GroupCommit, Arc<str>),
        scope: &PauseScope,
        by: &str,
        is_paused: bool,
    ) -> Result<Arc<Pauses>, LedgerError> {
        let _changing = self.changing.lock().await;
        self.refresh(ledger).await?;
        let at_ms = clock::now().0;
        let mut pauses = Pauses::clone(&self.current());
        if pauses.set(scope, is_paused.then(|| PauseNote { by: by.to_owned(), at_ms })) {
            let value =
                serde_json::to_string(&pauses).unwrap_or_else(|error| unreachable!("pauses are always JSON: {error}"));
            let action = if is_paused { "pause" } else { "resume" };
            let decision =
                Decision::Administered { key: by.to_owned(), action: action.to_owned(), subject: scope.to_string() };
            let decide = Write::Decide { owner, at_ms, decision: Box::new(decision) };
            group.try_submit_all(vec![Write::Meta { key: META_KEY.to_owned(), value }, decide]).await?;
            tracing::warn!(%scope, by, action, "administrative action");
            self.put(pauses);
        }
        Ok(self.current())
    }
}

/// Picks up other instances' pauses.
pub(in crate::relay) async fn follow(
    board: Arc<PauseBoard>,
    ledger: Arc<dyn Ledger>,
    interval: Duration,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(error) = board.refresh(&ledger).await {
            tracing::debug!(%error, "pauses can't be read; asking again");
        }
    }
}
