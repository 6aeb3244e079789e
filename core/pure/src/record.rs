//! Records of requests, batches and attempts, and the closed set of writes that change them. The ledger keeps them.
//!
//! **Invariant I2 (durable first):** an answer to a caller and a broadcast to a node both need a [`Durable`] value, and only the
//! ledger makes one, after a commit with an fsync (or when reading back what was committed before).

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};

pub use crate::lane::AttemptKind;
use crate::{
    chain::Fees,
    provenance::Decision,
    request::{
        BatchId, Reason, RequestId, Status, TargetRecord, VerifiedRequest,
        settlement::{CostAccount, price_of},
    },
    time::Timestamp,
};

/// Proof that a value is committed. Only the ledger makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// The committed value.
    pub const fn get(&self) -> &T {
        &self.0
    }

    /// The committed value, leaving the proof behind.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// For ledgers only, after a commit with an fsync, or when reading back what was committed. A test of this
    /// repository finds it nowhere else.
    #[doc(hidden)]
    pub const fn committed(value: T) -> Self {
        Self(value)
    }

    /// The proof for a value reduced by `reduce`, which is covered by the same commit.
    pub fn reduced(mut self, reduce: impl FnOnce(&mut T)) -> Self {
        reduce(&mut self.0);
        self
    }
}

/// Outcome of a write, with the attempt stored by it, if any.
pub type Tracked = (Durable<WriteOutcome>, Option<Durable<AttemptRecord>>);

/// Everything that a write can do. Applied in order, in one transaction with its neighbours.
#[derive(Debug, Clone)]
pub enum Write {
    /// Accept a new request. Outcome: [`WriteOutcome::Accept`].
    ///
    /// Checked in this order: the idempotency key (same body: the first answer, other body: conflict), the id (for any
    /// outcome of that request: the same signed bytes are never executed again; but one that ended without ever being
    /// in a transaction makes way for the same signed request of another tenant), the sequence. A key that comes with
    /// the id of a known request of its tenant belongs to that request from then on. A refused request leaves no key
    /// behind, nor does one that made way: its keys are free.
    Accept(Box<NewRequest>),
    /// Bind queued requests to a (lane, nonce) and store the first signed attempt (index 0). Every member must be
    /// `queued`, once in the list, and of the lane's chain; the nonce must be above the lane's highest (invariant I4;
    /// it may skip nonces consumed by foreign transactions, and a batch without members may fill a gap below); the
    /// attempt's hash must be new. Otherwise nothing of this write is applied, and the outcome is
    /// [`WriteOutcome::Refused`], or [`WriteOutcome::MembersEnded`] if nothing else is wrong. A batch without members
    /// is allowed: it fills a gap.
    ///
    /// A batch whose payload every node refused, and whose members ([`PlannedBatch::left`]) have all left it, gets new
    /// content by a plan with the next attempt's index: no node can hold the old one.
    Plan(Box<PlannedBatch>),
    /// Store a further signed attempt (replacement or cancel) of a batch that is not final, with an index above the
    /// newest. Idempotent for the same hash.
    Attempt(Box<AttemptRecord>),
    /// Change a batch and its members. Refused if the batch is unknown or [`BatchState::can_become`] does not allow the
    /// state; a final batch keeps its facts. Idempotent.
    ///
    /// A change is applied only if the request is currently in this batch and its status allows it; others are skipped
    /// with a warning, and have no event in the outcome. A change to the current status produces no event, but its
    /// facts (transaction, block, gas) replace the stored ones while the request is open. A request that returns to
    /// `queued` leaves the batch.
    ///
    /// Finalising a batch is refused unless its members' charges and the accounts of `bill` add up to `cost_wei` plus
    /// the value transferred, to the wei (invariant I12). A repetition charges nothing again.
    Batch {
        /// The batch.
        id: BatchId,
        /// Its new state.
        state: BatchState,
        /// Hash of the included attempt; `None` if none is in a block.
        included_hash: Option<B256>,
        /// Number and hash of the including block.
        block: Option<(u64, B256)>,
        /// Gas used by the included transaction.
        gas_used: Option<u64>,
        /// Cost of the included transaction, wei, L1 data fee included.
        cost_wei: Option<U256>,
        /// Changes of the members.
        changes: Vec<RequestChange>,
        /// Division of the cost, once the batch is final.
        bill: Option<Box<Bill>>,
        /// Time of the change.
        at: Timestamp,
    },
    /// Change requests outside any batch: rejected, expired, cancelled while queued. A request that has since entered a
    /// batch is skipped with a warning, and has no event in the outcome. A cancellation is also skipped if the request
    /// was in a batch that is not final: that may yet execute it.
    Requests {
        /// The changes.
        changes: Vec<RequestChange>,
        /// Time of the change.
        at: Timestamp,
    },
    /// Record in `owner`'s decision log the requests accepted and ended by this commit so far.
    Summary {
        /// Owner of the log.
        owner: std::sync::Arc<str>,
        /// Time of the entry.
        at: Timestamp,
    },
    /// Record missed promises; the requests remain open. Requests that have ended, are in a block or were late before
    /// are skipped. Each of the others gets an event with its current status and [`Reason::PromiseMissed`].
    Late {
        /// The late requests.
        requests: Vec<RequestId>,
        /// Time of the record.
        at: Timestamp,
    },
    /// Append to the decision log. `entry.seq` must be one above the newest.
    Decision(DecisionRow),
    /// Append a decision to the log, linked to its newest entry within the commit: several instances may write one log.
    Decide {
        /// Owner of the log, used for its first entry.
        owner: Arc<str>,
        /// Unix ms.
        at_ms: u64,
        /// The decision.
        decision: Box<Decision>,
    },
    /// A write under a lease: applied only while the lease on the chain's lanes has this token and has not expired by
    /// the database's clock, checked in the same transaction. Otherwise the outcome is [`WriteOutcome::Fenced`]. A
    /// ledger without leases always refuses it.
    Fenced(Fence, Box<Self>),
    /// Replace the records of a chain's targets. An empty record is deleted.
    Targets {
        /// EIP-155 chain id.
        chain_id: u64,
        /// The new records.
        records: Vec<TargetRecord>,
    },
    /// Set a meta value.
    Meta {
        /// Name.
        key: String,
        /// Value.
        value: String,
    },
}

impl Write {
    /// The attempt that it stores, if it stores one.
    pub fn attempt(&self) -> Option<AttemptRecord> {
        match self {
            Self::Plan(planned) => Some(planned.attempt.clone()),
            Self::Attempt(attempt) => Some(attempt.as_ref().clone()),
            Self::Fenced(_, write) => write.attempt(),
            _ => None,
        }
    }
}

/// Result of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteOutcome {
    /// Result of [`Write::Accept`].
    Accept(AcceptOutcome),
    /// The write was applied and produced these events.
    Applied(Vec<EventRecord>),
    /// The write's precondition did not hold; nothing of it was applied.
    Refused(String),
    /// These members of a plan ended without execution, for example by withdrawal; nothing of it was applied.
    MembersEnded(Vec<RequestId>),
    /// The write's lease is no longer in force; nothing of it was applied.
    Fenced {
        /// The writer's token.
        token: u64,
        /// The token in force; `None` if no lease is.
        in_force: Option<u64>,
    },
}

/// The lease on a chain's lanes for a write: its token grows with every change of owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The fencing token.
    pub token: u64,
}

/// A tenant's budget, checked in the accepting transaction (invariant I8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimit {
    /// Limit on reserved plus spent wei, on the request's chain.
    pub limit_wei: U256,
    /// Start of the period; counted in whole hours, so that it may count up to an hour more, never less.
    pub since: Timestamp,
}

/// Result of submitting a new request.
#[derive(Debug, Clone, PartialEq)]
pub enum AcceptOutcome {
    /// New, and now durable.
    Accepted {
        /// Order of acceptance.
        seq: u64,
        /// The `queued` event.
        event: EventRecord,
    },
    /// The very same request (same id), or the same idempotency key with the same body, was accepted before; here is
    /// its record.
    Duplicate(Box<RequestRecord>),
    /// The idempotency key was already used with another body.
    IdempotencyConflict {
        /// Id of the request with this key.
        existing: RequestId,
    },
    /// Another live (or executed) request holds this (forwarder, signer, nonce).
    NonceConflict {
        /// Id of the holding request.
        existing: RequestId,
    },
    /// [`NewRequest::budget`] does not cover the request.
    BudgetExhausted {
        /// Amount to reserve, wei.
        needed_wei: U256,
        /// Remaining budget, wei.
        available_wei: U256,
        /// Total budget, wei.
        limit_wei: U256,
    },
}

/// A caller's idempotency key with the hash of its body. Scoped to the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key, at most 255 bytes.
    pub key: String,
    /// keccak256 of the canonical body.
    pub body_hash: B256,
}

/// A verified request to be stored.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Content-derived identity.
    pub id: RequestId,
    /// Tenant whose budget pays.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Request kind: `forward`, `call`.
    pub kind: &'static str,
    /// (forwarder, signer, nonce); `None` for unordered kinds. Unique among requests that are live or have consumed it.
    pub sequence: Option<(Address, Address, u64)>,
    /// Contract finally called.
    pub target: Address,
    /// Promised time of inclusion.
    pub deadline: Timestamp,
    /// Latest acceptable inclusion.
    pub valid_until: Timestamp,
    /// Time of arrival.
    pub accepted_at: Timestamp,
    /// Worst case reserved from the budget, wei: the larger of cost and price.
    pub reserved_wei: U256,
    /// Price charged to its tenant, percent of its cost.
    pub price_percent: u32,
    /// Highest gas price covered by the reservation, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// Encoded by [`crate::request::VerifiedRequest::to_stored`].
    pub payload: Vec<u8>,
    /// Signature over the inclusion promise.
    pub promise_signature: Bytes,
    /// The quote given to the caller, as JSON, so that a repeated submission gets the first answer.
    pub quote: String,
    /// The caller's idempotency key, if given.
    pub idempotency: Option<Idempotency>,
    /// Id of the submitting API key; `None` without one.
    pub submitted_by: Option<String>,
    /// Budget that must cover it, if several instances spend it; a single instance checks before it writes.
    pub budget: Option<BudgetLimit>,
    /// True if it may replace another tenant's request with the same content that ended untried. Only for the sole
    /// instance that drives the lanes: another one may not know yet that it ended.
    pub takes_over: bool,
}

/// A stored request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRecord {
    /// Order of acceptance.
    pub seq: u64,
    /// Identity.
    pub id: RequestId,
    /// Tenant whose budget pays.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Request kind: `forward`, `call`.
    pub kind: String,
    /// (forwarder, signer, nonce); `None` for unordered kinds.
    pub sequence: Option<(Address, Address, u64)>,
    /// Contract finally called.
    pub target: Address,
    /// Current status.
    pub status: Status,
    /// Reason of its end, or of its return to the queue; `None` otherwise.
    pub reason: Option<Reason>,
    /// Promised time of inclusion.
    pub deadline: Timestamp,
    /// Latest acceptable inclusion.
    pub valid_until: Timestamp,
    /// Time at which its promise was recorded as missed; `None` if it was not.
    pub late_at: Option<Timestamp>,
    /// Time of acceptance.
    pub accepted_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
    /// Current or final batch; `None` while it is queued.
    pub batch: Option<BatchId>,
    /// Worst case reserved from the budget, wei: the larger of cost and price.
    pub reserved_wei: U256,
    /// Price charged to its tenant, percent of its cost ([`Self::price_wei`]).
    pub price_percent: u32,
    /// Highest gas price covered by the reservation, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// Its share of the cost of final transactions, wei, including those that did not execute it.
    pub cost_wei: Option<U256>,
    /// Its share of the gas used; `None` until included.
    pub gas_used: Option<u64>,
    /// Hash of the executing transaction; `None` until included.
    pub tx_hash: Option<B256>,
    /// Number of the executing block; `None` until included.
    pub block_number: Option<u64>,
    /// Encoded by [`crate::request::VerifiedRequest::to_stored`].
    pub payload: Vec<u8>,
    /// Signature over the inclusion promise.
    pub promise_signature: Bytes,
    /// The quote given to the caller, JSON.
    pub quote: String,
    /// Number of failed transactions (as a whole) that carried it.
    pub batch_failures: u32,
    /// Id of the submitting API key; `None` without one.
    pub submitted_by: Option<String>,
}

impl RequestRecord {
    /// Charge to its tenant for its cost so far, wei (invariant I12); `None` without cost.
    pub fn price_wei(&self) -> Option<U256> {
        self.cost_wei.map(|cost| price_of(cost, self.price_percent, self.reserved_wei))
    }

    /// The price, where it is not the cost.
    pub fn other_price_wei(&self) -> Option<U256> {
        self.price_wei().filter(|price| Some(*price) != self.cost_wei)
    }

    /// Amount counted by budgets after its end, wei: the larger of cost and price.
    pub fn counted_wei(&self) -> U256 {
        self.counted_of(self.cost_wei)
    }

    /// The same, if it had cost so much.
    pub fn counted_of(&self, cost_wei: Option<U256>) -> U256 {
        let cost = cost_wei.unwrap_or_default();
        price_of(cost, self.price_percent, self.reserved_wei).max(cost)
    }

    /// Time until which a holder of the signature can still execute an ended request: its signed deadline, Unix
    /// seconds. `None` while it is open, if it was executed, if its nonce is used, for unsigned kinds, and if it ended
    /// at its deadline.
    ///
    /// The user's next request takes the same nonce; the first of the two to be executed invalidates the other.
    pub fn executable_until_s(&self) -> Option<u64> {
        let is_unused = matches!(self.status, Status::Rejected | Status::Expired | Status::Cancelled)
            && self.reason != Some(Reason::NonceUsedElsewhere);
        self.sequence.filter(|_| is_unused)?;
        let deadline_s = VerifiedRequest::from_stored(&self.payload).ok()?.chain_deadline_s()?;
        (self.updated_at < Timestamp::from_secs(deadline_s)).then_some(deadline_s)
    }
}

/// A change of one request. Applied only if the request's status allows it ([`Status::can_become`]).
#[derive(Debug, Clone, PartialEq)]
pub struct RequestChange {
    /// The request.
    pub id: RequestId,
    /// New status.
    pub to: Status,
    /// Reason for the change, if any.
    pub reason: Option<Reason>,
    /// Free text for people, such as decoded revert data. Bounded by its writer.
    pub detail: Option<String>,
    /// Hash of the executing transaction.
    pub tx_hash: Option<B256>,
    /// Number of the executing block.
    pub block_number: Option<u64>,
    /// Its share of the gas used.
    pub gas_used: Option<u64>,
    /// Addition to its cost, wei: its share of a newly final transaction.
    pub charged_wei: U256,
    /// Counts a failure of the whole transaction against it.
    pub batch_failed: bool,
    /// Required place of the request.
    pub reach: Reach,
}

/// Required place of a request for a batch's change to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// In that batch.
    #[default]
    Batch,
    /// Anywhere: it left the batch early, but was executed by it nevertheless.
    Anywhere,
    /// Anywhere, and only its cost is added: it left the batch early.
    Cost,
}

impl RequestChange {
    /// A change to `to` with no other facts.
    pub const fn to(id: RequestId, to: Status) -> Self {
        Self {
            id,
            to,
            reason: None,
            detail: None,
            tx_hash: None,
            block_number: None,
            gas_used: None,
            charged_wei: U256::ZERO,
            batch_failed: false,
            reach: Reach::Batch,
        }
    }

    /// The same change with a reason.
    #[must_use]
    pub const fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}

/// The part of a final transaction's cost beyond its members' shares, and its bearers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bill {
    /// Value transferred to targets, wei.
    pub value_wei: U256,
    /// Amounts borne by accounts; each account of a tenant at most once.
    pub accounts: Vec<AccountEntry>,
}

/// A part of a final transaction's cost not borne by a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEntry {
    /// The account.
    pub account: CostAccount,
    /// Tenant whose budget it counts against; `None`: the operator.
    pub tenant: Option<String>,
    /// Amount, wei.
    pub wei: U256,
}

/// Total of an account since the ledger began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The account.
    pub account: CostAccount,
    /// The tenant; `None`: the operator.
    pub tenant: Option<String>,
    /// Total borne, wei.
    pub wei: U256,
}

/// Differences between prices and costs of a tenant's requests since the ledger began. Not part of the wei that left
/// the lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarginRow {
    /// The tenant.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Account `margin`: charges above cost, wei.
    pub margin_wei: U256,
    /// Account `rebate`: part of the cost borne by the operator, wei.
    pub rebate_wei: U256,
}

/// Life-cycle state of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum BatchState {
    /// First attempt durable, not yet known to be sent.
    Signed = 0,
    /// A node may hold an attempt.
    Broadcast = 1,
    /// An attempt is in a block.
    Included = 2,
    /// An attempt with the payload is final.
    Finalized = 3,
    /// The nonce was consumed by a cancel of ours.
    Cancelled = 4,
    /// The nonce was consumed by a foreign transaction.
    Lost = 5,
}

impl BatchState {
    /// Every state, in order of its code.
    pub const ALL: [Self; 6] =
        [Self::Signed, Self::Broadcast, Self::Included, Self::Finalized, Self::Cancelled, Self::Lost];

    /// True if no further change is possible.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Finalized | Self::Cancelled | Self::Lost)
    }

    /// True if a batch in this state may change to `next`. A broadcast is never revoked (invariant I5); an inclusion
    /// may be (invariant I9).
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            Self::Signed => !matches!(next, Self::Signed),
            Self::Broadcast => !matches!(next, Self::Signed | Self::Broadcast),
            Self::Included => !matches!(next, Self::Signed | Self::Included),
            Self::Finalized | Self::Cancelled | Self::Lost => false,
        }
    }

    /// The state with this code (the ledger's representation); `None` for an unknown code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A stored batch: the content common to all its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// Lane and nonce.
    pub id: BatchId,
    /// Current state.
    pub state: BatchState,
    /// Transaction recipient: forwarder, Multicall3 or target.
    pub to: Address,
    /// Transaction value, wei.
    pub value: U256,
    /// Gas limit of the payload.
    pub gas_limit: u64,
    /// Earliest deadline of its members; the payload is never sent after it.
    pub deadline: Timestamp,
    /// Highest fee cap of any attempt, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// The composer's reason to send it (`full`, `deadline`, `linger` …).
    pub trigger: String,
    /// Time of planning.
    pub created_at: Timestamp,
    /// Hash of the included attempt; `None` if none is in a block.
    pub included_hash: Option<B256>,
    /// Number and hash of the including block.
    pub block: Option<(u64, B256)>,
    /// Gas used; `None` until included.
    pub gas_used: Option<u64>,
    /// Cost, wei; `None` until included.
    pub cost_wei: Option<U256>,
}

/// One signed transaction for a batch's nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The batch.
    pub batch: BatchId,
    /// Index of the attempt, from 0.
    pub index: u32,
    /// Payload or cancel.
    pub kind: AttemptKind,
    /// Fee caps.
    pub fees: Fees,
    /// Transaction hash.
    pub hash: B256,
    /// EIP-2718 bytes as sent.
    pub raw: Bytes,
    /// Time of signing.
    pub created_at: Timestamp,
}

/// A request's membership in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMember {
    /// The request.
    pub id: RequestId,
    /// Its own gas, as simulated, or as declared if not simulated; the batch's cost is divided by it. `None` for plans
    /// made before the ledger stored it.
    pub own_gas: Option<u64>,
}

impl From<RequestId> for BatchMember {
    /// A member with unknown gas.
    fn from(id: RequestId) -> Self {
        Self { id, own_gas: None }
    }
}

/// A batch with its members and first attempt.
#[derive(Debug, Clone)]
pub struct PlannedBatch {
    /// The batch, in state `Signed`.
    pub batch: BatchRecord,
    /// Members in execution order.
    pub members: Vec<BatchMember>,
    /// The first attempt with this content: index 0, or the next one of a batch whose content it replaces.
    pub attempt: AttemptRecord,
    /// Members of the replaced content; none of them may be in the batch any more.
    pub left: Vec<RequestId>,
    /// Time of planning.
    pub at: Timestamp,
}

/// One event of one request (invariant I10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// Global sequence number, without gaps, from 1.
    pub seq: u64,
    /// Id of the request.
    pub request_id: RequestId,
    /// Sequence number within the request, from 1.
    pub request_seq: u32,
    /// Tenant of the request.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// New status.
    pub status: Status,
    /// Reason for the status, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<Reason>,
    /// Free text for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// The batch concerned, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batch: Option<BatchId>,
    /// Hash of the executing transaction.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tx_hash: Option<B256>,
    /// Number of the executing block.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_number: Option<u64>,
    /// Time of the event, Unix ms.
    pub at_ms: u64,
}

/// Filter for requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this status.
    pub status: Option<Status>,
    /// Only this chain.
    pub chain_id: Option<u64>,
    /// Only with `seq` below this (the pagination cursor).
    pub before: Option<u64>,
    /// Only with `seq` of at least this; older ones are not scanned ([`Self::beyond`]).
    pub from: Option<u64>,
    /// Number of newest matches to skip.
    pub skip: usize,
    /// Limit on results.
    pub limit: usize,
}

impl RequestFilter {
    /// Filter that finds the first request beyond a scan of `rows` requests: of the tenant's own, else of those with
    /// the status, else of all. A page of this filter that begins after it ([`Self::from`]) takes no longer than that,
    /// however few match; the next page continues there. `None` if everything scanned matches.
    pub fn beyond(&self, rows: usize) -> Option<Self> {
        let is_looked_through = self.chain_id.is_some() || self.tenant.is_some() && self.status.is_some();
        is_looked_through.then(|| Self {
            tenant: self.tenant.clone(),
            status: self.status.filter(|_| self.tenant.is_none()),
            before: self.before,
            skip: rows,
            limit: 1,
            ..Self::default()
        })
    }
}

/// Filter for events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only with a greater `seq`.
    pub after: u64,
    /// Only those of the request with this acceptance number ([`RequestRecord::seq`]). Not by id: that may have become
    /// another tenant's ([`NewRequest::takes_over`]).
    pub request: Option<u64>,
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Limit on results.
    pub limit: usize,
}

/// Requests submitted with some API keys of one tenant, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// Open requests, regardless of acceptance time.
    pub open: Vec<OpenByKey>,
    /// Ended requests, counted.
    pub ended: Vec<EndedByKey>,
}

/// An open request with its submitting key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenByKey {
    /// Id of the key.
    pub key: String,
    /// The request.
    pub id: RequestId,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Time of acceptance.
    pub accepted_at: Timestamp,
    /// Worst case reserved from the budget, wei.
    pub reserved_wei: U256,
}

/// Totals of one key's ended requests on one chain, for those accepted since each of two instants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedByKey {
    /// Id of the key.
    pub key: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Their number, and the wei counted by budgets, per instant.
    pub since: [(u64, U256); 2],
}

impl EndedByKey {
    /// Adds requests, which lie after the instants that `is_after` names.
    pub fn add(&mut self, is_after: [bool; 2], requests: u64, counted_wei: U256) {
        for ((count, sum), _) in self.since.iter_mut().zip(is_after).filter(|(_, is_after)| *is_after) {
            *count = count.saturating_add(requests);
            *sum = sum.saturating_add(counted_wei);
        }
    }
}

/// Total reserved and spent by a tenant's requests on a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentRow {
    /// The tenant.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Reserved by live requests, wei.
    pub reserved_wei: U256,
    /// Counted for ended requests (the larger of cost and price), plus amounts borne by accounts, wei.
    pub spent_wei: U256,
}

/// Amount counted by budgets for a request, with its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// Order of acceptance.
    pub seq: u64,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The signer; `None` for kinds without user signature.
    pub signer: Option<Address>,
    /// Contract finally called.
    pub target: Address,
    /// The larger of its cost and its price, wei.
    pub counted_wei: U256,
}

/// A stored entry of the hash-chained decision log. See [`crate::provenance`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRow {
    /// Sequence number, from 1, without gaps.
    pub seq: u64,
    /// Unix ms.
    pub at_ms: u64,
    /// Hash of the previous entry.
    pub prev: B256,
    /// Hash of this entry.
    pub hash: B256,
    /// Canonical text of the decision.
    pub body: String,
}
