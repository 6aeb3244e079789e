//! What the ledger holds: requests, batches, events, costs and decisions.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{api::Relay, status::BatchView};
use crate::{
    ledger::{
        AccountRow, DecisionRow, EventFilter, EventRecord, KeyUse, Ledger, LedgerError, MarginRow, RequestFilter,
        RequestRecord,
    },
    provenance::Head,
    request::{BatchId, Status},
    time::Timestamp,
};

/// Most events read from the ledger at a time.
const PAGE: usize = 256;

/// Wait after the ledger could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// What the ledger holds: made by [`Relay::history`].
#[derive(Debug, Clone)]
pub struct History {
    relay: Relay,
}

impl Relay {
    /// What the ledger holds.
    pub fn history(&self) -> History {
        History { relay: self.clone() }
    }
}

impl History {
    /// Matching requests, newest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn requests(&self, filter: &RequestFilter) -> Result<Vec<RequestRecord>, LedgerError> {
        self.relay.ledger().requests(filter).await
    }

    /// Totals of `tenant`'s requests submitted with `keys`: the open ones, and sums of the ended ones accepted since
    /// each of two instants.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn used_by_keys(
        &self,
        tenant: &str,
        keys: &BTreeSet<Arc<str>>,
        since: [Timestamp; 2],
    ) -> Result<KeyUse, LedgerError> {
        self.relay.ledger().used_by_keys(tenant, keys, since).await
    }

    /// A batch with its attempts and members.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn batch(&self, id: BatchId) -> Result<Option<BatchView>, LedgerError> {
        let found = self.relay.ledger().batch(id).await?;
        Ok(found.map(|(batch, attempts, members)| {
            let members = members.into_iter().map(|member| member.id).collect();
            BatchView { batch, attempts, members }
        }))
    }

    /// Committed events in order.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn events(&self, filter: &EventFilter) -> Result<Vec<EventRecord>, LedgerError> {
        self.relay.ledger().events(filter).await
    }

    /// Sequence number of the newest committed event; 0 if there is none.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn last_event_seq(&self) -> Result<u64, LedgerError> {
        self.relay.ledger().last_event_seq().await
    }

    /// All events after sequence number `after`, in order and without gaps (invariant I10): first from the ledger, then
    /// as they are committed. Ends when the relay has stopped, after the last event; it does not keep the relay running.
    pub fn follow(&self, after: u64) -> EventStream {
        let feed = Feed {
            ledger: Arc::clone(self.relay.ledger()),
            live: self.relay.subscribe(),
            ended: self.relay.ended(),
            seen: after,
            ready: VecDeque::new(),
            is_behind: true,
            is_over: false,
        };
        EventStream(Box::pin(futures_util::stream::unfold(feed, Feed::next)))
    }

    /// Costs of final transactions borne by accounts, by chain, account and tenant, wei. Together with the costs of the
    /// requests they add up to the lanes' total outflow (invariant I12).
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn accounts(&self) -> Result<Vec<AccountRow>, LedgerError> {
        self.relay.ledger().accounts().await
    }

    /// Differences between the prices of tenants' requests and their costs, by tenant and chain
    /// (`tenant.price_percent`), wei.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn margins(&self) -> Result<Vec<MarginRow>, LedgerError> {
        self.relay.ledger().margins().await
    }

    /// Number of requests by chain and status.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn counts(&self) -> Result<Vec<(u64, Status, u64)>, LedgerError> {
        self.relay.ledger().counts().await
    }

    /// At most `limit` entries of the decision log after sequence number `after`.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn decisions(&self, after: u64, limit: usize) -> Result<Vec<DecisionRow>, LedgerError> {
        self.relay.ledger().decisions(after, limit).await
    }

    /// Head of the decision log: its newest entry, linked to all entries before it; `None` while the log is empty. At
    /// most a second old: however often this is called, the ledger is read once per second.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn log_head(&self) -> Result<Option<Head>, LedgerError> {
        self.relay.log_head().await
    }
}

/// Events in order and without gaps: made by [`History::follow`]. An item is an error if the ledger could not be read, a
/// second after that; the next one tries again from the same place. [`LedgerError::Closed`] is the last item: the relay stopped before everything
/// was read.
pub struct EventStream(Pin<Box<dyn Stream<Item = Result<EventRecord, LedgerError>> + Send>>);

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    /// The next event; `None` once the relay has stopped and its last event was given.
    pub async fn next(&mut self) -> Option<Result<EventRecord, LedgerError>> {
        self.0.next().await
    }
}

impl Stream for EventStream {
    type Item = Result<EventRecord, LedgerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

struct Feed {
    ledger: Arc<dyn Ledger>,
    live: broadcast::Receiver<Arc<[EventRecord]>>,
    ended: CancellationToken,
    /// Sequence number of the last event that was given.
    seen: u64,
    /// Events to give, in order.
    ready: VecDeque<EventRecord>,
    /// True while events may have been missed, so that the ledger is read.
    is_behind: bool,
    /// True once the ledger was closed with events left to read.
    is_over: bool,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<EventRecord, LedgerError>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.seen = event.seq;
                return Some((Ok(event), self));
            }
            if self.is_over {
                return None;
            }
            if self.is_behind {
                let filter = EventFilter { after: self.seen, limit: PAGE, ..EventFilter::default() };
                match self.ledger.events(&filter).await {
                    Ok(page) => {
                        self.is_behind = page.len() == PAGE;
                        self.ready.extend(page);
                    }
                    Err(error) => {
                        self.is_over = matches!(error, LedgerError::Closed);
                        if !self.is_over {
                            tokio::time::sleep(RETRY).await;
                        }
                        return Some((Err(error), self));
                    }
                }
                continue;
            }
            let received = tokio::select! {
                biased;
                received = self.live.recv() => received,
                () = self.ended.cancelled() => return None,
            };
            match received {
                Ok(group) => {
                    let new = group.iter().filter(|event| event.seq > self.seen);
                    let is_whole = new.clone().next().is_none_or(|first| first.seq == self.seen + 1);
                    self.is_behind = !is_whole;
                    self.ready.extend(new.filter(|_| is_whole).cloned());
                }
                Err(RecvError::Lagged(_)) => self.is_behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
