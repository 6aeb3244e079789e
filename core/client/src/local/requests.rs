//! Requests: admission, cancellation, expiry, end.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::U256;

use super::{
    command::LocalCommand,
    config::LocalConfig,
    parts::{Asked, Entry},
    record::{RequestRecord, request_key},
    state::{LANE, LocalRelay},
};
use crate::{
    request::{
        Call, Deadline, Forward, ForwarderDomain, Reason, RequestId, RequestKind, Status, Submission, VerifiedRequest,
        VerifyContext, VerifyError, settlement::ceiling_left, vehicle::Company, verify,
    },
    schedule::{QueuedRequest, Refusals},
    sender::Input,
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
                RequestKind::from(forward)
            }
            LocalAsk::Call(call) => Call { any_sender: false, ..call }.into(),
        };
        let mut submission = Submission::new(config.chain_id, kind);
        (submission.deadline, submission.max_cost_wei) = (within.map(Deadline::Within), max_cost_wei);
        let context = VerifyContext {
            tenant: "",
            chain_id: config.chain_id,
            forwarders: &forwarders,
            tokens: &BTreeMap::new(),
            default_within: config.default_within,
            // In a page a request expires at its deadline.
            default_expiry: config.default_within,
            max_within: config.max_within,
            guard: config.min_slack,
            skew: config.deadline_skew,
        };
        let request = verify(submission, &context, now)?;
        self.check_size(&request)?;
        let gas = self.gas_reserved(&request);
        let ceiling = self.ceiling(&request, gas);
        if ceiling == 0 {
            let max_cost_wei = max_cost_wei.unwrap_or_default();
            return Err(LocalError::CeilingTooLow { max_cost_wei, gas, value_wei: request.value() });
        }
        let record = RequestRecord::encode(&request, now, ceiling, 0, U256::ZERO, None);
        Ok(Admitted { id: request.id(), key: request_key(request.id()), record })
    }

    fn check_size(&self, request: &VerifiedRequest) -> Result<(), LocalError> {
        let LocalConfig { batch: BatchTuning { max_batch_gas, .. }, max_batch_bytes, .. } = self.config;
        let gas = self.gas_alone(request);
        if gas > max_batch_gas {
            return Err(LocalError::TooLarge { needed: gas, limit: max_batch_gas, unit: "gas" });
        }
        let bytes = self.sender.facts.params.member_bytes(request);
        if bytes > max_batch_bytes {
            let (needed, limit) = (bytes as u64, max_batch_bytes as u64);
            return Err(LocalError::TooLarge { needed, limit, unit: "bytes" });
        }
        Ok(())
    }

    /// Gas of a request in a transaction alone: its own, and an empty transaction's.
    fn gas_alone(&self, request: &VerifiedRequest) -> u64 {
        let params = &self.sender.facts.params;
        params.member_gas(request).saturating_add(params.base_gas())
    }

    /// Gas that a request can be charged for: its own transaction, and one that may have to cancel it.
    fn gas_reserved(&self, request: &VerifiedRequest) -> u64 {
        let params = &self.sender.facts.params;
        params.reserved_gas(params.member_gas(request))
    }

    /// Highest gas price at which a request of this gas may be sent (I8); rounded down, wei per gas.
    fn ceiling(&self, request: &VerifiedRequest, gas: u64) -> u128 {
        let most = self.config.fees.max_fee_ceiling_wei_per_gas;
        let Some(max_cost_wei) = request.max_cost_wei() else { return most };
        let affordable = max_cost_wei.saturating_sub(request.value()) / U256::from(gas.max(1));
        u128::try_from(affordable).unwrap_or(u128::MAX).min(most)
    }

    /// The queue's entry for an open request.
    pub(super) fn queued(&mut self, entry: &Entry) -> QueuedRequest {
        self.seq += 1;
        let params = &self.sender.facts.params;
        let request = entry.request.clone();
        let gas = params.member_gas(&request);
        let first = entry.ceiling_wei_per_gas;
        QueuedRequest {
            tenant: "".into(),
            seq: self.seq,
            accepted_at: entry.accepted_at,
            gas,
            bytes: params.member_bytes(&request),
            ceiling_wei_per_gas: ceiling_left(first, params.reserved_gas(gas), entry.spent_wei),
            first_ceiling_wei_per_gas: first,
            // One session key pays for all requests: one without a maximum may cost anything.
            reserved_wei: request.max_cost_wei().unwrap_or(U256::MAX),
            spent_wei: entry.spent_wei,
            price_percent: 100,
            company: Company::Named,
            simulations: 0,
            batch_failures: entry.batch_failures,
            due: request.deadline(),
            is_late: false,
            refusals: Refusals::default(),
            request,
        }
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
        let entry = Entry::new(record);
        let queued = entry.is_open().then(|| self.queued(&entry));
        self.entries.insert(id, entry);
        self.changed(id);
        if let Some(queued) = queued {
            self.tell(now, Input::Accepted(vec![queued]));
            self.wake(now);
            self.go_on(now);
        }
        Ok(id)
    }

    /// Cancels a request that is in no transaction. It ends as `cancelled` once that is durable; later requests of the
    /// same user can't execute and end too.
    ///
    /// # Errors
    /// [`LocalError::NotFound`], [`LocalError::TooLate`].
    pub fn cancel(&mut self, now: Timestamp, id: RequestId) -> Result<(), LocalError> {
        let entry = self.entries.get(&id).ok_or(LocalError::NotFound(id))?;
        let status = entry.ending.as_ref().map_or(entry.status, |end| end.status);
        if entry.is_open() {
            self.release(&[id]);
        }
        match self.sender.cancel(now, "", id) {
            Ok(_) => self.obey(now),
            Err(_) if status == Status::Queued => return Err(LocalError::TooLate { id, status: Status::Batched }),
            Err(_) => return Err(LocalError::TooLate { id, status }),
        }
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
    fn release(&mut self, ids: &[RequestId]) {
        let is_in = |asked: &mut Asked| asked.candidate.members.iter().any(|member| ids.contains(&member.id()));
        if let Some(asked) = self.asked.take_if(is_in) {
            self.sender.give_up(LANE, &asked.candidate);
        }
        self.sender.release(ids);
    }

    /// Ends later requests of the same user, which can't execute without this one.
    pub(super) fn end_behind(&mut self, now: Timestamp, id: RequestId) {
        let sequence = self.entries.get(&id).and_then(|entry| entry.request.sequence());
        let Some((forwarder, signer, nonce)) = sequence else { return };
        let is_later = |entry: &&Entry| {
            entry.is_open()
                && entry.status == Status::Queued
                && entry.request.sequence().is_some_and(|(f, s, n)| (f, s) == (forwarder, signer) && n > nonce)
        };
        let later: Vec<RequestId> = self.entries.values().filter(is_later).map(|entry| entry.request.id()).collect();
        self.release(&later);
        let behind = self.sender.queue.waiting_from(forwarder, signer, nonce);
        self.sender.end_waiting(now, &behind, Status::Rejected, Reason::PredecessorFailed, None);
    }
}
