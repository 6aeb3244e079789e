//! Several instances on one ledger: the lease on a chain's lanes, and following the other instances' work.
//!
//! Every instance accepts requests. The holder of a chain's lease (the leader) drives the chain's queue and lanes, so a
//! user's requests stay in order in one queue, and all requests can share batches. It learns from the ledger's events
//! which requests others have accepted or withdrawn. A takeover starts like a restart after a crash: from the ledger
//! and the chain.
//!
//! **A stale leader can't write**, because every write of a lane carries the lease's token, which the database checks
//! in the transaction; **and does not send**, because it measures the lease by its own clocks from before the request
//! for it, and checks them before and during every broadcast. A transaction already on its way to a node when a process
//! was stopped can't be called back; it is durable, so the next leader watches it like its own (invariants I2, I3).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::Address;
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    lease::{Lease, Moment},
    membership::ClusterConfig,
};
use crate::{
    ledger::{EventFilter, EventRecord, Fence, GroupCommit, LeaseOutcome, Ledger, LedgerError, RequestRecord},
    relay::{
        admission::tenants::Tenants,
        chain::{
            message::{Message, PeerUpdates, Takeover},
            shared::ChainShared,
        },
        signer::AccountKey,
        start::restore,
    },
    request::{Status, VerifiedRequest},
    schedule::QueuedRequest,
};

/// Most events, or requests, read at a time.
const PAGE: usize = 1_000;

/// Interval between checks whether a stopping service has let go of its lease.
const LET_GO_PAUSE: Duration = Duration::from_millis(20);

/// Acquires, renews and releases the lease of one chain.
#[derive(Debug)]
pub(in crate::relay) struct LeaseKeeper {
    pub(in crate::relay) ledger: Arc<dyn Ledger>,
    pub(in crate::relay) group: GroupCommit,
    pub(in crate::relay) config: ClusterConfig,
    pub(in crate::relay) chain: Arc<ChainShared>,
    pub(in crate::relay) tenants: Arc<Tenants>,
    pub(in crate::relay) signers: Vec<AccountKey>,
    pub(in crate::relay) holder: Arc<Mutex<String>>,
}

impl LeaseKeeper {
    /// Runs until `stop`, then until the service has let go of the lease.
    pub(in crate::relay) async fn run(self, stop: CancellationToken) {
        let mut declined = BTreeSet::new();
        while !stop.is_cancelled() {
            let asked = Moment::now();
            let pause = match self.acquire().await {
                Ok(LeaseOutcome::Taken(fence)) => match self.foreign_sender().await {
                    Ok(None) => {
                        self.reign(Lease::new(fence, asked, self.config.lease), asked, &stop).await;
                        continue;
                    }
                    Ok(Some(sender)) => {
                        self.decline(fence, sender, declined.insert(sender)).await;
                        // The other instances ask four times as often.
                        self.config.lease
                    }
                    Err(error) => {
                        tracing::debug!(chain_id = self.chain_id(), %error, "can't read what is open; asking again");
                        self.give_back(fence).await;
                        self.config.lease / 4
                    }
                },
                Ok(LeaseOutcome::Held(by)) => {
                    *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = by.owner;
                    by.remaining.clamp(Duration::from_millis(10), self.config.lease / 4)
                }
                Err(error) => {
                    tracing::debug!(chain_id = self.chain_id(), %error, "can't ask for the lease; asking again");
                    self.config.lease / 4
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn chain_id(&self) -> u64 {
        self.chain.spec.chain_id
    }

    async fn acquire(&self) -> Result<LeaseOutcome, LedgerError> {
        match self.ledger.leases() {
            Some(leases) => leases.acquire(self.chain_id(), &self.config.instance, self.config.lease).await,
            None => unreachable!("a keeper is for a shared ledger"),
        }
    }

    /// A sender with open batches on the chain whose key this instance lacks, so that it could never finish them.
    async fn foreign_sender(&self) -> Result<Option<Address>, LedgerError> {
        let Some(leases) = self.ledger.leases() else { return Ok(None) };
        let open = leases.open_lanes().await?;
        let is_foreign = |sender: &Address| self.signers.iter().all(|signer| signer.address() != *sender);
        let ours = open.into_iter().filter(|(lane, _)| lane.chain_id == self.chain_id());
        Ok(ours.map(|(lane, _)| lane.sender).find(is_foreign))
    }

    /// Releases the lease for an instance that has the key of `sender`.
    async fn decline(&self, fence: Fence, sender: Address, is_news: bool) {
        let chain_id = self.chain_id();
        metrics::counter!("slackwater_leases_declined_total", "chain_id" => chain_id.to_string()).increment(1);
        if is_news {
            tracing::error!(
                chain_id, %sender,
                "this instance lacks the key of a sender with open batches and leaves the chain's lanes to others; add the \
                 signer to `chain.signers`"
            );
        }
        self.give_back(fence).await;
    }

    async fn give_back(&self, fence: Fence) {
        if let Some(leases) = self.ledger.leases()
            && let Err(error) = leases.release(fence).await
        {
            tracing::debug!(chain_id = fence.chain_id, %error, "lease not given back; it runs out by itself");
        }
    }

    /// Leads from the acquisition of the lease until it is lost or released.
    async fn reign(&self, lease: Lease, asked: Moment, stop: &CancellationToken) {
        let Fence { chain_id, token } = lease.fence();
        let label = chain_id.to_string();
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = self.config.instance.clone();
        tracing::info!(chain_id, token, instance = self.config.instance, "took the lease on the chain's lanes");
        metrics::counter!("slackwater_leases_taken_total", "chain_id" => label.clone()).increment(1);
        metrics::gauge!("slackwater_lease_held", "chain_id" => label.clone()).set(1.0);
        // Reading back may take longer than the lease lasts, so the lease is renewed meanwhile.
        tokio::select! {
            () = self.renew(&lease) => {}
            fed = self.feed(&lease, asked) => if let Err(error) = fed {
                tracing::error!(chain_id, %error, "can't read back what is open; giving the lease away");
                lease.revoke();
                // An immediate retry would fail the same way.
                tokio::time::sleep(self.config.lease / 2).await;
            },
            () = stop.cancelled() => self.let_go(&lease).await,
        }
        metrics::gauge!("slackwater_lease_held", "chain_id" => label).set(0.0);
        self.give_back(lease.fence()).await;
    }

    /// Renews until the lease is lost.
    async fn renew(&self, lease: &Lease) {
        let Some(leases) = self.ledger.leases() else { return };
        while !lease.is_revoked() {
            tokio::time::sleep(self.config.lease / 3).await;
            let asked = Moment::now();
            let renewed = leases.renew(lease.fence(), self.config.lease);
            match tokio::time::timeout(self.config.lease / 2, renewed).await {
                Ok(Ok(true)) => lease.extend(asked, self.config.lease),
                Ok(Ok(false)) => lease.revoke(),
                // The lease stays ours until another instance takes it; nothing is sent while that is uncertain.
                Ok(Err(error)) => self.missed(&error.to_string()),
                Err(_) => self.missed("no answer"),
            }
        }
    }

    /// Logs a missed renewal; at debug level if the unreachable database has been alerted about already.
    fn missed(&self, error: &str) {
        let chain_id = self.chain_id();
        match self.group.fault() {
            None => tracing::warn!(chain_id, error, "lease not renewed; trying again"),
            Some(_) => tracing::debug!(chain_id, error, "lease not renewed; trying again"),
        }
    }

    /// At shutdown, keeps the lease until all decisions made under it are committed.
    async fn let_go(&self, lease: &Lease) {
        let gone = async {
            while !lease.is_let_go() && !lease.is_revoked() {
                tokio::time::sleep(LET_GO_PAUSE).await;
            }
        };
        tokio::select! {
            () = gone => {}
            () = self.renew(lease) => {}
            () = tokio::time::sleep(self.config.lease * 2) => {}
        }
    }

    /// Reads back the open requests and batches and hands them to the service, then follows the other instances'
    /// acceptances and withdrawals. Runs until the service is gone.
    async fn feed(&self, lease: &Lease, asked: Moment) -> Result<(), LedgerError> {
        let chain_id = self.chain_id();
        // Subscribed before reading: a commit meanwhile is seen twice rather than never.
        let mut events = self.group.subscribe();
        let mut seen = self.ledger.last_event_seq().await?;
        let data_fee = self.chain.view().data_fee;
        let signers = self.signers.clone();
        let restored = restore::restore(&self.ledger, &self.chain, &self.tenants, signers, data_fee, false).await?;
        let mut newest = restored.newest;
        let takeover = Takeover { lease: lease.clone(), restored, asked: asked.0 };
        if self.chain.inbox.send(Message::Takeover(Box::new(takeover))).await.is_err() {
            return Ok(());
        }
        loop {
            let group: Arc<[EventRecord]> = match events.recv().await {
                // Events are in order and without gaps, so nothing before this group is missing.
                Ok(group) if group.first().is_none_or(|event| event.seq <= seen + 1) => group,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up(seen).await.into(),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            };
            let news: Vec<&EventRecord> =
                group.iter().filter(|event| event.seq > seen && event.chain_id == chain_id).collect();
            let cancelled = news.iter().filter(|event| event.status == Status::Cancelled);
            let withdrawn = cancelled.map(|event| event.request_id).collect();
            let has_new = news.iter().any(|event| event.status == Status::Queued && event.request_seq == 1);
            seen = seen.max(group.last().map_or(0, |event| event.seq));
            let mut accepted = Vec::new();
            if has_new {
                for record in self.open_after(newest).await {
                    newest = record.seq;
                    if record.status == Status::Queued {
                        accepted.push(queued(&self.chain, &self.tenants, record)?);
                    }
                }
            }
            let updates = PeerUpdates { token: lease.fence().token, accepted, withdrawn };
            let is_empty = updates.accepted.is_empty() && updates.withdrawn.is_empty();
            if !is_empty && self.chain.inbox.send(Message::PeerUpdates(Box::new(updates))).await.is_err() {
                return Ok(());
            }
        }
    }

    /// All open requests with a sequence number above `newest`.
    async fn open_after(&self, mut newest: u64) -> Vec<RequestRecord> {
        let mut all = Vec::new();
        loop {
            let page = self.insist(|| self.ledger.open_requests(self.chain_id(), newest, PAGE)).await;
            newest = page.last().map_or(newest, |last| last.seq);
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return all;
            }
        }
    }

    /// All events after `seen`.
    async fn catch_up(&self, mut seen: u64) -> Vec<EventRecord> {
        let mut all = Vec::new();
        loop {
            let filter = EventFilter { after: seen, limit: PAGE, ..EventFilter::default() };
            let page = self.insist(|| self.ledger.events(&filter)).await;
            seen = page.last().map_or(seen, |event| event.seq);
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return all;
            }
        }
    }

    /// Retries until there is an answer.
    async fn insist<T, F: Future<Output = Result<Vec<T>, LedgerError>>>(&self, ask: impl Fn() -> F) -> Vec<T> {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::debug!(chain_id = self.chain_id(), %error, "can't read the others' work; asking again");
                    tokio::time::sleep(self.config.follow_interval).await;
                }
            }
        }
    }
}

/// Converts a stored request to a queue entry.
fn queued(chain: &ChainShared, tenants: &Tenants, record: RequestRecord) -> Result<QueuedRequest, LedgerError> {
    let request = VerifiedRequest::from_stored(&record.payload)
        .map_err(|error| LedgerError::Damaged { what: "request payload", detail: error.to_string() })?;
    let tenant =
        tenants.get(&record.tenant).map_or_else(|| record.tenant.as_str().into(), |tenant| tenant.name.clone());
    Ok(restore::queued(&chain.params, tenants, tenant, &record, request))
}

/// Interval between recounts of open requests in a shared ledger.
const RECOUNT: Duration = Duration::from_secs(1);

/// `None` if a request with this status counts as open; otherwise true if it has used its nonce.
const fn is_closed(status: Status) -> Option<bool> {
    match status {
        Status::Included | Status::Finalized | Status::Reverted => Some(true),
        Status::Rejected | Status::Expired | Status::Cancelled => Some(false),
        Status::Queued | Status::Batched | Status::Broadcast => None,
    }
}

fn tell_closed(tenants: &Tenants, events: &[EventRecord]) {
    for event in events {
        if let Some(is_consumed) = is_closed(event.status) {
            tenants.told_closed(&event.tenant, event.request_id, is_consumed);
        }
    }
}

/// Looks up the requests whose events may have been missed. They count as open until their status is read.
async fn look_for_closed(ledger: &dyn Ledger, tenants: &Tenants) -> Result<(), LedgerError> {
    for (tenant, id) in tenants.counted() {
        let record = ledger.request(id).await?.filter(|record| *record.tenant == *tenant);
        // A request that is gone has been replaced by another tenant's.
        if let Some(is_consumed) = record.map_or(Some(false), |record| is_closed(record.status)) {
            tenants.told_closed(&tenant, id, is_consumed);
        }
    }
    Ok(())
}

/// Maintains the number of open requests per tenant over all instances. Runs until `stop`.
pub(in crate::relay) async fn count_open(
    ledger: Arc<dyn Ledger>,
    group: GroupCommit,
    tenants: Arc<Tenants>,
    pause: Duration,
    stop: CancellationToken,
) {
    let Some(leases) = ledger.leases() else { return };
    let events = group.subscribe();
    let counting = follow_open(&*ledger, &tenants, events, pause, || leases.open_by_tenant());
    tokio::select! {
        () = counting => {}
        () = stop.cancelled() => {}
    }
}

/// Recounts open requests periodically and updates the counts from events in between. One subscription throughout: a
/// request whose end is missed would stay open for ever.
async fn follow_open<F: Future<Output = Result<(u64, Vec<(String, u64)>), LedgerError>>>(
    ledger: &dyn Ledger,
    tenants: &Tenants,
    mut events: broadcast::Receiver<Arc<[EventRecord]>>,
    pause: Duration,
    count: impl Fn() -> F,
) {
    let mut has_gap = false;
    loop {
        // After a gap in the events all requests are looked up again, retried until it succeeds. Events are received
        // meanwhile, or a long lookup would cause the next gap.
        if has_gap {
            let look = look_for_closed(ledger, tenants);
            tokio::pin!(look);
            let mut has_missed = false;
            has_gap = loop {
                tokio::select! {
                    looked = &mut look => break has_missed || looked.is_err(),
                    received = events.recv() => match received {
                        Ok(group) => tell_closed(tenants, &group),
                        Err(broadcast::error::RecvError::Lagged(_)) => has_missed = true,
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                }
            };
        }
        if let Ok((newest, open)) = count().await {
            tenants.set_open(&open);
            let until = Instant::now() + RECOUNT;
            // Inclusions are covered by the recount: an event does not carry the previous status.
            while let Ok(received) = tokio::time::timeout_at(until, events.recv()).await {
                let group = match received {
                    Ok(group) => group,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        has_gap = true;
                        break;
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                for event in group.iter().filter(|event| event.seq > newest) {
                    if event.status == Status::Queued && event.request_seq == 1 {
                        tenants.count_open(&event.tenant);
                    }
                }
                tell_closed(tenants, &group);
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
