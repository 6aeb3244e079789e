//! The relay's handle, called by embedders and the HTTP API.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256};
use tokio::{
    sync::{broadcast, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    error::{CancelError, PolicyError, SubmitError, WaitError},
    status::{Acceptance, ChainHealth, ChainStatus, FeeSource, LaneStatus},
};
use crate::{
    ledger::{
        EventRecord, GroupCommit, Ledger, LedgerError, RequestChange, RequestFilter, RequestRecord, StorageFault,
        Write, WriteOutcome,
    },
    policy::{PauseScope, Pauses, TenantPolicy},
    provenance::{Decision, Head},
    relay::{
        admission::{
            acceptance,
            admit::Admission,
            log::{self, KnownHead},
            pause::PauseError,
        },
        chain::{message::Message, notices::count_ended, shared::ChainShared},
        clock,
        market::forecast::{ForecastView, WaitQuote},
    },
    request::{Reason, RequestId, Status, Submission},
};

/// State to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// In a block (which a reorg may still take back), or terminal.
    Included,
    /// Terminal: final on chain, or ended without inclusion.
    Terminal,
}

/// A running relay. Cheap to clone; the last clone that is dropped stops the tasks (see [`Relay::shutdown`]).
#[derive(Debug, Clone)]
pub struct Relay {
    pub(in crate::relay) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(in crate::relay) struct Inner {
    pub(super) admission: Arc<Admission>,
    group: GroupCommit,
    ledger: Arc<dyn Ledger>,
    stop: CancellationToken,
    failed: CancellationToken,
    ended: CancellationToken,
    supervisor: JoinHandle<()>,
    log_head: KnownHead,
}

impl Inner {
    pub(in crate::relay) fn new(
        admission: Arc<Admission>,
        group: GroupCommit,
        ledger: Arc<dyn Ledger>,
        stop: CancellationToken,
        failed: CancellationToken,
        ended: CancellationToken,
        supervisor: JoinHandle<()>,
    ) -> Self {
        Self { admission, group, ledger, stop, failed, ended, supervisor, log_head: KnownHead::default() }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The tasks finish their commits, then end by themselves.
        self.stop.cancel();
        if self.failed.is_cancelled() {
            self.supervisor.abort();
        }
    }
}

/// Id of the tenant of a relay that was configured without tenants.
pub(super) const DEFAULT_TENANT: &str = "default";

/// Longest wait of a start for the first heads, after which it returns anyway.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

impl Relay {
    pub(in crate::relay) async fn wait_for_first_heads(&self) {
        let all = async {
            while self.chains().iter().any(|chain| chain.health == ChainHealth::Starting) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(FIRST_HEAD_TIMEOUT, all).await;
    }

    /// Submits requests of one tenant, and counts those that are refused.
    pub(super) async fn accept(
        &self,
        tenant: &Arc<str>,
        submissions: Vec<Submission>,
        submitted_by: Option<Arc<str>>,
    ) -> Vec<Result<Acceptance, SubmitError>> {
        if self.inner.stop.is_cancelled() {
            return submissions.iter().map(|_| Err(SubmitError::ShuttingDown)).collect();
        }
        let answers = self.take(tenant, submissions, submitted_by.clone()).await;
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            self.record_refusal(submitted_by.clone(), Arc::clone(tenant), error.code());
        }
        answers
    }

    /// The relay's parts, unless it is shutting down.
    pub(super) fn running(&self) -> Result<&Inner, SubmitError> {
        if self.inner.stop.is_cancelled() { Err(SubmitError::ShuttingDown) } else { Ok(&self.inner) }
    }

    pub(super) fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.inner.ledger
    }

    pub(super) fn chain(&self, chain_id: u64) -> Option<Arc<ChainShared>> {
        self.inner.admission.chains.get(chain_id)
    }

    pub(super) fn ended(&self) -> CancellationToken {
        self.inner.ended.clone()
    }

    pub(super) async fn log_head(&self) -> Result<Option<Head>, LedgerError> {
        self.inner.log_head.get(|| log::head(&*self.inner.ledger)).await
    }

    /// Counts a refusal in the metrics and, in sums per minute, in the decision log. Submissions count their own
    /// refusals; this is for refusals before it: a wrong key, an exceeded rate limit, a malformed body. `key` is the id
    /// of the caller's API key, if any; `tenant` is empty if unknown.
    pub fn record_refusal(&self, key: Option<Arc<str>>, tenant: Arc<str>, code: &'static str) {
        metrics::counter!("slackwater_refusals_total", "code" => code).increment(1);
        self.inner.admission.refusals.add((key, tenant, code), 1);
    }

    async fn take(
        &self,
        tenant: &str,
        items: Vec<Submission>,
        submitted_by: Option<Arc<str>>,
    ) -> Vec<Result<Acceptance, SubmitError>> {
        let pauses = self.pauses();
        if *pauses == Pauses::default() {
            return self.inner.admission.clone().submit(tenant, items, submitted_by).await;
        }
        let refused: Vec<_> = items.iter().map(|item| pauses.of(tenant, item.chain_id)).collect();
        let others =
            items.into_iter().zip(&refused).filter(|(_, scope)| scope.is_none()).map(|(item, _)| item).collect();
        let mut answers = self.inner.admission.clone().submit(tenant, others, submitted_by).await.into_iter();
        let answer = |scope| match scope {
            Some(scope) => Err(SubmitError::Paused(scope)),
            None => answers.next().unwrap_or(Err(SubmitError::ShuttingDown)),
        };
        refused.into_iter().map(answer).collect()
    }

    /// The pauses in force.
    pub fn pauses(&self) -> Arc<Pauses> {
        self.inner.admission.pauses.current()
    }

    /// Stops acceptance and new batches in `scope`, until [`Self::resume`]. Transactions in flight are bumped,
    /// cancelled and settled as usual; waiting requests may miss their deadlines. Durable when this returns, and
    /// effective on every instance within `ledger.follow_interval_ms`. `by` names the caller in the decision log.
    ///
    /// # Errors
    /// [`PauseError`]; nothing is changed in that case.
    pub async fn pause(&self, scope: &PauseScope, by: &str) -> Result<Arc<Pauses>, PauseError> {
        match scope {
            PauseScope::All => {}
            PauseScope::Chain(id) if self.inner.admission.chains.is_served(*id) => {}
            PauseScope::Tenant(id) if self.inner.admission.tenants.get(id).is_some() => {}
            PauseScope::Chain(id) => return Err(PauseError::UnknownChain(*id)),
            PauseScope::Tenant(id) => return Err(PauseError::UnknownTenant(id.clone())),
        }
        self.change_pause(scope, by, true).await
    }

    /// Ends the pause of exactly this scope. Pauses of wider scopes stay in force.
    ///
    /// # Errors
    /// [`PauseError`]; nothing is changed in that case.
    pub async fn resume(&self, scope: &PauseScope, by: &str) -> Result<Arc<Pauses>, PauseError> {
        self.change_pause(scope, by, false).await
    }

    async fn change_pause(&self, scope: &PauseScope, by: &str, is_paused: bool) -> Result<Arc<Pauses>, PauseError> {
        let Inner { admission, group, ledger, .. } = &*self.inner;
        let place = (ledger, group, self.identity().to_string().into());
        Ok(admission.pauses.change(place, scope, by, is_paused).await?)
    }

    /// Replaces tenant policies (permissions, limits of open requests, rate limits), all of them or none. Accepted
    /// requests stay accepted. New tenants are allowed if they make no calls and no other tenant makes calls from
    /// accounts that are not bound to it: the binding of accounts to tenants is fixed at start.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing is changed in that case.
    pub async fn set_policies(&self, policies: Vec<TenantPolicy>) -> Result<(), PolicyError> {
        let tenants = &self.inner.admission.tenants;
        for policy in &policies {
            let id = || policy.id.clone();
            match tenants.get(&policy.id).map(|known| known.policy.needs_restart(policy)) {
                Some(Some(key)) => return Err(PolicyError::NeedsRestart { tenant: id(), key }),
                Some(None) => {}
                None if !tenants.is_shared() && self.has_requests_of(id()).await? => {
                    return Err(PolicyError::Returns(id()));
                }
                None => {
                    if let Some(tenant) = tenants.unbound_beside(&policies) {
                        return Err(PolicyError::UnboundCalls(tenant));
                    }
                }
            }
            if let Some((key, detail, _)) = policy.problems().into_iter().next() {
                return Err(PolicyError::Invalid { tenant: id(), key, detail });
            }
        }
        tenants.set_policies(policies);
        Ok(())
    }

    async fn has_requests_of(&self, tenant: String) -> Result<bool, LedgerError> {
        let filter = RequestFilter { tenant: Some(tenant), limit: 1, ..RequestFilter::default() };
        Ok(!self.inner.ledger.requests(&filter).await?.is_empty())
    }

    /// Records the relay's configuration in the decision log: `config` is a hash of all effective settings, without
    /// secrets.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn record_configuration(&self, config: B256, version: &str) -> Result<(), LedgerError> {
        self.record(Decision::Configured { config, version: version.to_owned() }).await
    }

    /// Records an administrative action in the decision log: `key` is the id of an API key, `action` a stable code.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn record_action(&self, key: &str, action: &str, subject: &str) -> Result<(), LedgerError> {
        let decision =
            Decision::Administered { key: key.to_owned(), action: action.to_owned(), subject: subject.to_owned() };
        tracing::warn!(key, action, subject, "administrative action");
        self.record(decision).await
    }

    async fn record(&self, decision: Decision) -> Result<(), LedgerError> {
        let owner = self.identity().to_string().into();
        let write = Write::Decide { owner, at_ms: clock::now().0, decision: Box::new(decision) };
        self.inner.group.try_submit(write).await.map(drop)
    }

    /// A stored request, of any tenant.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn request(&self, id: RequestId) -> Result<Option<RequestRecord>, LedgerError> {
        self.inner.ledger.request(id).await
    }

    /// Events as they are committed, in groups.
    #[doc(hidden)]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<[EventRecord]>> {
        self.inner.group.subscribe()
    }

    pub(super) async fn cancel(&self, tenant: &str, id: RequestId) -> Result<RequestRecord, CancelError> {
        let Some(record) = self.inner.ledger.request(id).await?.filter(|record| record.tenant == tenant) else {
            return Err(CancelError::Unknown(id));
        };
        if record.status != Status::Queued {
            return Err(CancelError::TooLate { id, status: record.status });
        }
        let Some(chain) = self.inner.admission.chains.get(record.chain_id) else {
            return Err(CancelError::Unknown(id));
        };
        if self.inner.ledger.leases().is_some() {
            return self.cancel_in_ledger(record).await;
        }
        let (reply, answer) = oneshot::channel();
        let message = Message::Cancel { tenant: tenant.to_owned(), id, reply };
        chain.inbox.send(message).await.map_err(|_| CancelError::ShuttingDown)?;
        let answer = answer.await.map_err(|_| CancelError::ShuttingDown)?;
        let record = acceptance::now(&*self.inner.ledger, record).await?.ok_or(CancelError::Unknown(id))?;
        match answer {
            Ok(()) => Ok(record),
            Err(_) if record.status.is_terminal() => Err(CancelError::TooLate { id, status: record.status }),
            Err(error) => Err(error),
        }
    }

    /// Cancels in a shared ledger, which decides between this write and a plan of the leader; the leader learns of the
    /// cancellation from its event.
    async fn cancel_in_ledger(&self, record: RequestRecord) -> Result<RequestRecord, CancelError> {
        let id = record.id;
        let change = RequestChange::to(id, Status::Cancelled).because(Reason::CancelledByOwner);
        let write = Write::Requests { changes: vec![change], at: clock::now() };
        let outcome = self.inner.group.try_submit(write).await?.into_inner();
        let record = acceptance::now(&*self.inner.ledger, record).await?.ok_or(CancelError::Unknown(id))?;
        match outcome {
            WriteOutcome::Applied(events) if !events.is_empty() => {
                count_ended(Status::Cancelled, Some(Reason::CancelledByOwner), 1);
                Ok(record)
            }
            // A transaction that the request left may yet execute it.
            _ if record.status == Status::Queued => Err(CancelError::TooLate { id, status: Status::Broadcast }),
            _ => Err(CancelError::TooLate { id, status: record.status }),
        }
    }

    /// Waits until a request is in a block, or has ended. This is the request with this id when the call begins: if it
    /// ends without having been in a transaction and another tenant then submits the same signed request, that one is
    /// neither waited for nor shown.
    ///
    /// # Errors
    /// [`WaitError`]. There is no timeout; wrap this in one. A waiting request ends when its validity expires. A
    /// request in a transaction at that time may still be executed by it: it ends when the transaction, or the cancel
    /// that replaces it, is final. A missed promise is reported at once
    /// ([`Reason::PromiseMissed`](crate::request::Reason::PromiseMissed)).
    pub async fn wait(&self, id: RequestId, until: WaitFor) -> Result<RequestRecord, WaitError> {
        let record = self.inner.ledger.request(id).await?.ok_or(WaitError::Unknown(id))?;
        self.wait_for(record, until).await
    }

    /// As [`Self::wait`], for the request of this record, whoever has its id by now.
    pub(super) async fn wait_for(&self, record: RequestRecord, until: WaitFor) -> Result<RequestRecord, WaitError> {
        let mut events = self.subscribe();
        let (ledger, id) = (&*self.inner.ledger, record.id);
        let mut record = acceptance::now(ledger, record).await?.ok_or(WaitError::Unknown(id))?;
        loop {
            let is_there =
                record.status.is_terminal() || (until == WaitFor::Included && record.status == Status::Included);
            if is_there {
                return Ok(record);
            }
            loop {
                let received = tokio::select! {
                    biased;
                    received = events.recv() => received,
                    () = self.inner.ended.cancelled() => return Err(WaitError::ShuttingDown),
                };
                match received {
                    Ok(group) if group.iter().any(|event| event.request_id == id) => break,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Err(WaitError::ShuttingDown),
                }
            }
            record = acceptance::now(ledger, record).await?.ok_or(WaitError::Unknown(id))?;
        }
    }

    /// Status of every chain.
    pub fn chains(&self) -> Vec<ChainStatus> {
        let mut chains = self.inner.admission.chains.statuses();
        if self.inner.stop.is_cancelled() {
            for chain in &mut chains {
                chain.health = ChainHealth::Unavailable;
                chain.detail = Some("the relay has stopped".to_owned());
            }
        }
        chains
    }

    /// Fee sources of every chain, with their weights and the reasons for these.
    pub fn fee_sources(&self) -> Vec<FeeSource> {
        let of_chain = |chain: Arc<ChainShared>| {
            let chain_id = chain.spec.chain_id;
            chain.view().sources.into_iter().map(move |(endpoint, status)| FeeSource { chain_id, endpoint, status })
        };
        self.inner.admission.chains.all().into_iter().flat_map(of_chain).collect()
    }

    /// The newest forecast of a chain; `None` if the chain is not served, has seen no block yet, or does not use
    /// forecasts.
    pub fn forecast(&self, chain_id: u64) -> Option<Arc<ForecastView>> {
        self.inner.admission.chains.get(chain_id)?.view().forecast
    }

    /// Status of every lane.
    pub fn lanes(&self) -> Vec<LaneStatus> {
        let mut lanes: Vec<LaneStatus> =
            self.inner.admission.chains.all().iter().flat_map(|chain| chain.view().lanes).collect();
        if self.storage_fault().is_some() {
            for lane in &mut lanes {
                lane.paused = Some("storage".to_owned());
            }
        }
        lanes
    }

    /// Fault of the storage while it takes no writes, so that nothing is accepted and nothing new is sent; `None` if it
    /// works.
    pub fn storage_fault(&self) -> Option<StorageFault> {
        self.inner.group.fault()
    }

    /// Value of waiting up to `slack` on a chain; `None` if there is no forecast.
    ///
    /// # Errors
    /// [`SubmitError::UnknownChain`] or [`SubmitError::ChainUnavailable`].
    pub fn quote_wait(&self, chain_id: u64, slack: Duration) -> Result<Option<WaitQuote>, SubmitError> {
        self.inner.admission.quote_wait(chain_id, slack)
    }

    /// Address of the identity key that signs promises.
    pub fn identity(&self) -> Address {
        self.inner.admission.identity.address()
    }

    /// True while the relay runs: it is not shutting down, and no task has ended early.
    pub fn is_running(&self) -> bool {
        !self.inner.stop.is_cancelled()
    }

    /// Resolves when the relay has stopped: after [`Self::shutdown`], or because a task ended early.
    pub async fn stopped(&self) {
        self.inner.ended.cancelled().await;
    }

    /// True if a task ended early: the process should exit with an error; a restart resumes from the ledger.
    pub fn has_failed(&self) -> bool {
        self.inner.failed.is_cancelled()
    }

    /// Stops the relay: accepts nothing more, commits pending decisions, sends nothing new, closes the ledger. Accepted
    /// requests resume at the next start.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.ended.cancelled().await;
    }
}
