//! One tenant's requests.

use std::sync::{Arc, Weak};

use alloy_primitives::Bytes;

use super::{
    api::{DEFAULT_TENANT, Inner, Relay, WaitFor},
    error::{CancelError, SubmitError, WaitError},
    status::{Acceptance, Quote},
};
use crate::{
    ledger::RequestRecord,
    request::{Promise, RequestId, Submission},
};

/// The relay for one tenant: made by [`Relay::tenant`], cheap to clone.
#[derive(Debug, Clone)]
pub struct TenantHandle {
    relay: Relay,
    id: Arc<str>,
    submitted_by: Option<Arc<str>>,
}

impl TenantHandle {
    /// The tenant's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same handle with the id of the API key, or the user, that submits: for the records.
    #[must_use]
    pub fn submitted_by(mut self, key: impl Into<Arc<str>>) -> Self {
        self.submitted_by = Some(key.into());
        self
    }

    /// Submits one request. Once this returns `Ok`, the request is durable and its inclusion promised.
    ///
    /// # Errors
    /// [`SubmitError`]; see [`SubmitError::is_retryable`] and [`SubmitError::is_ambiguous`]. Submitting the same signed
    /// bytes again is always safe.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        self.submit_many(vec![submission]).await.pop().unwrap_or(Err(SubmitError::ShuttingDown))
    }

    /// Submits many requests in one commit; results in order. A refused request does not affect the others.
    pub async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, SubmitError>> {
        let answers = self.relay.accept(&self.id, submissions, self.submitted_by.clone()).await;
        let accepted = |acceptance| Accepted { acceptance, relay: Arc::downgrade(&self.relay.inner) };
        answers.into_iter().map(|answer| answer.map(accepted)).collect()
    }

    /// The id that `submission` would have, and its quote, whose `max_cost_wei` is the amount a budget would reserve.
    /// Runs every check of [`Self::submit`] that needs neither ledger nor nodes. Nothing is accepted or stored.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn assess(&self, submission: Submission) -> Result<(RequestId, Quote), SubmitError> {
        self.relay.running()?.admission.assess(&self.id, submission)
    }

    /// Current cost of a forward request with `gas` inner gas and typical calldata. If the tenant has a budget, the
    /// maximum cost is the amount that the budget would reserve.
    ///
    /// # Errors
    /// [`SubmitError::UnknownTenant`], [`SubmitError::UnknownChain`] or [`SubmitError::ChainUnavailable`].
    pub fn quote(&self, chain_id: u64, gas: u64) -> Result<Quote, SubmitError> {
        self.relay.running()?.admission.quote(&self.id, chain_id, gas)
    }

    /// Withdraws a request of the tenant that is not in a transaction yet. The same user's requests with later nonces
    /// end with it. Another tenant's request is never touched or shown, even if it is the same signed request.
    ///
    /// # Errors
    /// [`CancelError::TooLate`] once the request has ended or is batched, since a signed transaction may be mined in
    /// any case; also while it waits again and a transaction that it left is not final.
    pub async fn cancel(&self, id: RequestId) -> Result<RequestRecord, CancelError> {
        self.relay.cancel(&self.id, id).await
    }
}

impl Relay {
    /// The relay for one tenant.
    pub fn tenant(&self, id: impl Into<Arc<str>>) -> TenantHandle {
        TenantHandle { relay: self.clone(), id: id.into(), submitted_by: None }
    }

    /// Submits a request of tenant `default`, the only one where none was configured: [`TenantHandle::submit`].
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        self.tenant(DEFAULT_TENANT).submit(submission).await
    }
}

/// An accepted request: durable, with a signed promise. Does not keep the relay running.
#[derive(Debug, Clone)]
pub struct Accepted {
    acceptance: Acceptance,
    relay: Weak<Inner>,
}

impl Accepted {
    /// Content-derived identity of the request.
    pub fn id(&self) -> RequestId {
        self.acceptance.record.id
    }

    /// The promise of inclusion.
    pub const fn promise(&self) -> &Promise {
        &self.acceptance.promise
    }

    /// Signature of the relay's identity: 65 bytes `r ‖ s ‖ v` over [`Promise::digest`].
    pub const fn promise_signature(&self) -> &Bytes {
        &self.acceptance.promise_signature
    }

    /// Cost and price as quoted at acceptance.
    pub const fn quote(&self) -> &Quote {
        &self.acceptance.quote
    }

    /// The request as stored at acceptance.
    pub fn record(&self) -> &RequestRecord {
        &self.acceptance.record
    }

    /// True if it had been accepted before; this repeats the first answer.
    pub const fn is_duplicate(&self) -> bool {
        self.acceptance.is_duplicate
    }

    /// Waits until the request is in a block, or has ended: [`Relay::wait`]. It is this request even if another tenant has
    /// submitted the same signed one since. The relay runs at least as long as the wait.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn wait(&self, until: WaitFor) -> Result<RequestRecord, WaitError> {
        let inner = self.relay.upgrade().ok_or(WaitError::ShuttingDown)?;
        Relay { inner }.wait_for(self.record().clone(), until).await
    }
}
