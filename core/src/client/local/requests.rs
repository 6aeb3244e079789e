//! Requests: admission, cancellation, expiry, end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{B256, U256};

use super::{
    config::LocalConfig,
    machine::{LocalCommand, LocalRelay},
    record::{End, RequestRecord, request_key},
};
use crate::{
    request::{
        Call, Deadline, Forward, ForwarderDomain, Reason, RequestId, Status, Submission, SubmissionKind,
        VerifiedRequest, VerifyContext, VerifyError, vehicle::VehicleKey, verify,
    },
    time::Timestamp,
    tuning::BatchTuning,
};

/// A request's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAsk {
    /// A user's signed request for an ERC-2771 forwarder.
    Forward {
        /// The request with its signature.
        forward: Forward,
        /// The forwarder's EIP-712 domain.
        domain: ForwarderDomain,
    },
    /// A call by the session key itself, in a transaction of its own. `any_sender` is ignored.
    Call(Call),
}

/// A checked request. Once its record is durable, [`LocalRelay::take`] it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Id of the request.
    pub id: RequestId,
    /// Storage key of the record.
    pub key: String,
    /// The record, JSON.
    pub record: String,
}

/// Refusals of a local relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The request's form, signature or deadline is invalid: a caller error.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// More gas or bytes than one transaction may hold (`max_batch_gas`, `max_batch_bytes`).
    #[error("needs {needed} {unit}, limit {limit}")]
    TooLarge {
        /// Amount the request needs in a transaction alone.
        needed: u64,
        /// The limit, in the same unit.
        limit: u64,
        /// The unit: `gas` or `bytes`.
        unit: &'static str,
    },
    /// The maximum cost does not pay for a transaction at one wei per gas.
    #[error("{max_cost_wei} wei do not pay for {gas} gas and a value of {value_wei} wei")]
    CeilingTooLow {
        /// Maximum cost, wei.
        max_cost_wei: U256,
        /// Gas the request needs in a transaction alone.
        gas: u64,
        /// Value sent with the call, wei.
        value_wei: U256,
    },
    /// Too many open requests (`max_open`).
    #[error("{open} requests have not ended, limit {limit}")]
    Full {
        /// Current number of open requests.
        open: usize,
        /// The limit.
        limit: usize,
    },
    /// A record can't be read.
    #[error("record {key:?} can't be read")]
    Damaged {
        /// Storage key of the record.
        key: String,
    },
    /// There is no such request.
    #[error("request {0} is not known")]
    NotFound(RequestId),
    /// It is in a transaction already, or has ended.
    #[error("request {id} is {status}: only one that is queued can be cancelled")]
    TooLate {
        /// Id of the request.
        id: RequestId,
        /// Current status.
        status: Status,
    },
}

impl LocalError {
    /// The stable code that callers switch on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.code(),
            Self::TooLarge { .. } => "request_too_large",
            Self::CeilingTooLow { .. } => "ceiling_too_low",
            Self::Full { .. } => "queue_full",
            Self::Damaged { .. } => "storage_damaged",
            Self::NotFound(_) => "not_found",
            Self::TooLate { .. } => "too_late",
        }
    }
}

/// A known request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: Arc<VerifiedRequest>,
    pub(super) accepted_at: Timestamp,
    pub(super) ceiling_wei_per_gas: u128,
    pub(super) status: Status,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<String>,
    pub(super) tx_hash: Option<B256>,
    pub(super) block_number: Option<u64>,
    pub(super) cost_wei: Option<U256>,
    pub(super) ended_at: Option<Timestamp>,
    /// True once its transaction has a nonce: it can't be cancelled any more.
    pub(super) is_bound: bool,
    /// Its end, on the way to storage; reported once durable.
    pub(super) ending: Option<End>,
}

impl Entry {
    pub(super) const fn open(request: Arc<VerifiedRequest>, accepted_at: Timestamp, ceiling_wei_per_gas: u128) -> Self {
        Self {
            request,
            accepted_at,
            ceiling_wei_per_gas,
            status: Status::Queued,
            reason: None,
            detail: None,
            tx_hash: None,
            block_number: None,
            cost_wei: None,
            ended_at: None,
            is_bound: false,
            ending: None,
        }
    }

    pub(super) fn ended(record: RequestRecord, end: End) -> Self {
        let mut entry = Self::open(Arc::new(record.request), record.accepted_at, record.ceiling_wei_per_gas);
        entry.apply(end);
        entry
    }

    fn apply(&mut self, end: End) {
        self.status = end.status;
        self.reason = end.reason;
        self.detail = end.detail;
        self.tx_hash = end.tx_hash;
        self.block_number = end.block_number;
        self.cost_wei = end.cost_wei;
        self.ended_at = Some(end.at);
    }

    /// True if it is in no transaction and not about to end.
    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.status, Status::Queued) && !self.is_bound && self.ending.is_none()
    }
}

impl LocalRelay {
    /// Checks a request at `now`, and returns the record that makes it durable. No state changes: the instance that
    /// takes the request may be another one, in another tab. `open` is the number of open requests known to the caller.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn admit(
        &self,
        now: Timestamp,
        ask: LocalAsk,
        within: Option<Duration>,
        max_cost_wei: Option<U256>,
        open: usize,
    ) -> Result<Admitted, LocalError> {
        let config = &self.config;
        if open >= config.max_open {
            return Err(LocalError::Full { open, limit: config.max_open });
        }
        let mut forwarders = BTreeMap::new();
        let kind = match ask {
            LocalAsk::Forward { forward, domain } => {
                if domain.chain_id() != config.chain_id {
                    let (requested, served) = (domain.chain_id(), config.chain_id);
                    return Err(VerifyError::WrongChain { requested, served }.into());
                }
                forwarders.insert(domain.forwarder(), domain);
                SubmissionKind::Forward(forward)
            }
            LocalAsk::Call(call) => SubmissionKind::Call(Call { any_sender: false, ..call }),
        };
        let submission =
            Submission { chain_id: config.chain_id, kind, deadline: within.map(Deadline::Within), max_cost_wei };
        let context = VerifyContext {
            tenant: "",
            chain_id: config.chain_id,
            forwarders: &forwarders,
            default_within: config.default_within,
            // In a page a request expires at its deadline.
            default_expiry: config.default_within,
            max_within: config.max_within,
            guard: config.min_slack,
            skew: config.deadline_skew,
        };
        let request = verify(submission, &context, now)?;
        self.check_size(&request)?;
        let ceiling = self.ceiling(&request, U256::ZERO);
        if ceiling == 0 {
            let gas = self.gas_alone(&request);
            let max_cost_wei = max_cost_wei.unwrap_or_default();
            return Err(LocalError::CeilingTooLow { max_cost_wei, gas, value_wei: request.value() });
        }
        let record = RequestRecord::encode(&request, now, ceiling, 0, None);
        Ok(Admitted { id: request.id(), key: request_key(request.id()), record })
    }

    fn check_size(&self, request: &VerifiedRequest) -> Result<(), LocalError> {
        let LocalConfig { batch: BatchTuning { max_batch_gas, .. }, max_batch_bytes, .. } = self.config;
        let gas = self.gas_alone(request);
        if gas > max_batch_gas {
            return Err(LocalError::TooLarge { needed: gas, limit: max_batch_gas, unit: "gas" });
        }
        let bytes = self.params.member_bytes(request);
        if bytes > max_batch_bytes {
            let (needed, limit) = (bytes as u64, max_batch_bytes as u64);
            return Err(LocalError::TooLarge { needed, limit, unit: "bytes" });
        }
        Ok(())
    }

    /// Upper bound of the gas a request can be charged for, alone or in a batch: its own and an empty transaction's.
    pub(super) fn gas_alone(&self, request: &VerifiedRequest) -> u64 {
        self.params.member_gas(request).saturating_add(self.params.base_gas())
    }

    /// Highest gas price at which a request may be sent, with `extra_wei` beyond gas (I8); rounded down, wei per gas.
    pub(super) fn ceiling(&self, request: &VerifiedRequest, extra_wei: U256) -> u128 {
        let most = self.config.fees.max_fee_ceiling_wei_per_gas;
        let Some(max_cost_wei) = request.max_cost_wei() else { return most };
        let fixed = request.value().saturating_add(extra_wei);
        let gas = match VehicleKey::of(request, false) {
            // It pays for its transaction alone, and nothing else is in it.
            key @ VehicleKey::Single(_) => self.params.payload(key, &[Arc::new(request.clone())]).gas_limit,
            _ => self.gas_alone(request),
        };
        let affordable = max_cost_wei.saturating_sub(fixed) / U256::from(gas.max(1));
        u128::try_from(affordable).unwrap_or(u128::MAX).min(most)
    }

    /// Takes a request whose record is durable. Idempotent.
    ///
    /// # Errors
    /// [`LocalError::Damaged`] if `record` is not a record of a request of this chain.
    pub fn take(&mut self, now: Timestamp, key: &str, record: &str) -> Result<RequestId, LocalError> {
        let damaged = || LocalError::Damaged { key: key.chars().take(80).collect() };
        let is_short = record.len() <= self.config.max_record_bytes;
        let record = is_short.then(|| RequestRecord::decode(key, record)).flatten().ok_or_else(damaged)?;
        let id = record.request.id();
        if record.request.chain_id() != self.config.chain_id {
            return Err(damaged());
        }
        if self.entries.contains_key(&id) {
            return Ok(id);
        }
        if let Some(end) = record.end.clone() {
            self.entries.insert(id, Entry::ended(record, end));
            self.changed(id);
            return Ok(id);
        }
        let queued = self.enter(record);
        self.queue.push(queued);
        self.changed(id);
        self.wake(now);
        self.go_on(now);
        Ok(id)
    }

    /// Cancels a request that is in no transaction. It ends as `cancelled` once that is durable; later requests of the
    /// same user can't execute and end too.
    ///
    /// # Errors
    /// [`LocalError::NotFound`], [`LocalError::TooLate`].
    pub fn cancel(&mut self, now: Timestamp, id: RequestId) -> Result<(), LocalError> {
        let entry = self.entries.get(&id).ok_or(LocalError::NotFound(id))?;
        if !entry.is_waiting() {
            let status = match &entry.ending {
                Some(end) => end.status,
                None if entry.status == Status::Queued => Status::Batched,
                None => entry.status,
            };
            return Err(LocalError::TooLate { id, status });
        }
        self.release(&[id]);
        self.end_with_successors(now, id, End::new(Status::Cancelled, Some(Reason::CancelledByOwner), now));
        self.go_on(now);
        Ok(())
    }

    /// Forgets an ended request. False if it has not ended.
    pub fn acknowledge(&mut self, id: RequestId) -> bool {
        if self.entries.get(&id).is_none_or(|entry| entry.ended_at.is_none()) {
            return false;
        }
        self.entries.remove(&id);
        self.command(LocalCommand::Remove { key: request_key(id) });
        true
    }

    pub(super) fn forget_old(&mut self, now: Timestamp) {
        let keep = self.config.keep_ended;
        let is_old = |entry: &Entry| entry.ended_at.is_some_and(|at| at.saturating_add(keep) <= now);
        let old: Vec<RequestId> = self.entries.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| *id).collect();
        for id in old {
            self.acknowledge(id);
        }
    }

    /// Returns requests from a simulation, or from the held ones, to the queue.
    pub(super) fn release(&mut self, ids: &[RequestId]) {
        let is_in = |candidate: &super::dispatch::Candidate| ids.iter().any(|id| candidate.holds(*id));
        if self.candidate.as_ref().is_some_and(is_in)
            && let Some(candidate) = self.candidate.take()
        {
            for member in &candidate.members {
                self.queue.put_back(member.id());
            }
        }
        let (released, held) = std::mem::take(&mut self.held).into_iter().partition(|id| ids.contains(id));
        self.held = held;
        let released: Vec<RequestId> = released;
        released.into_iter().for_each(|id| self.queue.put_back(id));
    }

    /// Ends waiting requests whose deadline has passed.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let late = |entry: &&Entry| entry.is_waiting() && entry.request.deadline() <= now;
        let expired: Vec<RequestId> = self.entries.values().filter(late).map(|entry| entry.request.id()).collect();
        if expired.is_empty() {
            return;
        }
        self.release(&expired);
        for id in expired {
            self.end_with_successors(now, id, End::new(Status::Expired, Some(Reason::DeadlinePassed), now));
        }
    }

    /// Ends a waiting request, and later ones of its user that can't execute without it.
    pub(super) fn end_with_successors(&mut self, now: Timestamp, id: RequestId, end: End) {
        // Successors that are held or in a simulation lose their predecessor too.
        let sequence = self.entries.get(&id).and_then(|entry| entry.request.sequence());
        if let Some((forwarder, signer, nonce)) = sequence {
            let later: Vec<RequestId> = self
                .entries
                .values()
                .filter(|entry| entry.is_waiting())
                .filter(|entry| {
                    entry.request.sequence().is_some_and(|(f, s, n)| (f, s) == (forwarder, signer) && n > nonce)
                })
                .map(|entry| entry.request.id())
                .collect();
            self.release(&later);
        }
        let successors = self.queue.successors(id);
        self.end(id, end, false);
        for successor in successors {
            self.end(successor, End::new(Status::Rejected, Some(Reason::PredecessorFailed), now), false);
        }
    }

    /// Ends a request; its status changes once that is durable. `is_consumed`: its user's nonce is used.
    pub(super) fn end(&mut self, id: RequestId, end: End, is_consumed: bool) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.ending.is_none() && entry.ended_at.is_none())
        else {
            return;
        };
        entry.ending = Some(end.clone());
        self.store_end(id, &end);
        self.queue.remove(id, is_consumed);
    }

    pub(super) fn end_stored(&mut self, id: RequestId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Some(end) = entry.ending.take()
        {
            entry.apply(end);
            self.changed(id);
        }
    }

    /// Moves an open request to `status`, if the transition is allowed.
    pub(super) fn set_status(&mut self, id: RequestId, status: Status, reason: Option<Reason>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.status.can_become(status) || entry.ending.is_some() {
            return;
        }
        entry.status = status;
        entry.reason = reason;
        if status != Status::Included {
            entry.tx_hash = None;
            entry.block_number = None;
        }
        self.changed(id);
    }
}
