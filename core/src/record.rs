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

    /// Made by the ledger after a commit with an fsync, or when reading back what was committed.
    pub(crate) const fn committed(value: T) -> Self {
        Self(value)
    }

    /// As true as before of a value with less in it.
    pub(crate) fn reduced(mut self, reduce: impl FnOnce(&mut T)) -> Self {
        reduce(&mut self.0);
        self
    }

    /// A false proof, for tests, and for the simulator's check that it is noticed.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) const fn pretended(value: T) -> Self {
        Self(value)
    }
}

/// An outcome, and with it the attempt that the write stored, if it stored one.
pub type Tracked = (Durable<WriteOutcome>, Option<Durable<AttemptRecord>>);

/// Everything that a write can do. Applied in order, in one transaction with its neighbours.
#[derive(Debug, Clone)]
pub enum Write {
    /// Take a new request. Outcome: [`WriteOutcome::Accept`].
    ///
    /// Checked in this order: the idempotency key (same body: the first answer, other body: conflict), the id (however
    /// the request ended: the same signed bytes are never executed again; but one that ended without having been in a
    /// transaction makes way for the same signed request of another tenant), the sequence. A key that comes with the id of
    /// a known request of its tenant belongs to that request from then on. A refused request leaves no key behind, nor does
    /// one that made way: its keys are free.
    Accept(Box<NewRequest>),
    /// Bind queued requests to a (lane, nonce) and store the first signed attempt (index 0). Every member must be
    /// `queued`, once in the list, and of the lane's chain; the nonce must be above the lane's highest (invariant I4; it may
    /// skip nonces that a stranger consumed, and a batch without members may fill a hole below); the attempt's hash must be
    /// new. Otherwise the outcome is [`WriteOutcome::Refused`], or [`WriteOutcome::MembersEnded`] where nothing else is wrong,
    /// and nothing of this write is applied. A batch without members is allowed: it fills a hole.
    ///
    /// A batch whose payload every node refused, and whose members ([`PlannedBatch::left`]) have all left it, gets new content
    /// by a plan with the next attempt's index: nobody can hold the old one.
    Plan(Box<PlannedBatch>),
    /// Store a further signed attempt (replacement or cancel) of a batch that is not final, with an index above the
    /// newest. The same hash again is applied without effect.
    Attempt(Box<AttemptRecord>),
    /// A batch changed, and with it its members. Refused if the batch is unknown or [`BatchState::can_become`] does not
    /// allow the state; a final batch keeps its facts. Safe to repeat.
    ///
    /// A change is applied only if the request is in this batch now and its status allows it; others are skipped with a
    /// warning, and have no event in the outcome. A change to the status that the request already has produces no
    /// event, but its facts (transaction, block, gas) replace the stored ones while the request is open. A request
    /// that goes back to `queued` leaves the batch.
    ///
    /// A batch that becomes final is refused unless what its members are charged and what the accounts of `bill` bear add
    /// up to `cost_wei` and the value that moved, to the wei (invariant I12). Repeated, nothing is charged again.
    Batch {
        /// Which one.
        id: BatchId,
        /// Its new state.
        state: BatchState,
        /// The attempt that is in a block, if any.
        included_hash: Option<B256>,
        /// Number and hash of that block.
        block: Option<(u64, B256)>,
        /// Gas used by that transaction.
        gas_used: Option<u64>,
        /// What that transaction cost in wei, L1 data fee included.
        cost_wei: Option<U256>,
        /// Changes of the members.
        changes: Vec<RequestChange>,
        /// Who bears the cost, once the batch is final.
        bill: Option<Box<Bill>>,
        /// When.
        at: Timestamp,
    },
    /// Changes of requests outside any batch: rejected, expired, cancelled while queued. A request that is in a batch by
    /// now is skipped with a warning, and has no event in the outcome. So is one to be cancelled that was in a batch which is
    /// not final: that may yet execute it.
    Requests {
        /// The changes.
        changes: Vec<RequestChange>,
        /// When.
        at: Timestamp,
    },
    /// Enter in `owner`'s decision log what this commit has accepted and ended so far.
    Summary {
        /// Whose log.
        owner: std::sync::Arc<str>,
        /// When.
        at: Timestamp,
    },
    /// The promises of these requests were missed; they go on. Those that have ended, are in a block or were late before are
    /// skipped. Each of the others gets an event with its present status and [`Reason::PromiseMissed`].
    Late {
        /// Which ones.
        requests: Vec<RequestId>,
        /// When.
        at: Timestamp,
    },
    /// Append to the decision log. `entry.seq` must be one above the newest.
    Decision(DecisionRow),
    /// Append a decision to the log, linked to its newest entry inside the commit: several instances may write one log.
    Decide {
        /// Whose log it is, where it is the first entry.
        owner: Arc<str>,
        /// Unix ms.
        at_ms: u64,
        /// What was decided.
        decision: Box<Decision>,
    },
    /// A write under a lease: applied only while the lease on the chain's lanes has this token and has not run out by the
    /// database's clock, checked in the same transaction. Otherwise the outcome is [`WriteOutcome::Fenced`]. A ledger
    /// without leases refuses it always.
    Fenced(Fence, Box<Self>),
    /// Keep what targets of a chain have shown, in the place of what was kept of them. An empty record is forgotten.
    Targets {
        /// Where.
        chain_id: u64,
        /// What.
        records: Vec<TargetRecord>,
    },
    /// Set a [`super::Ledger::meta`] value.
    Meta {
        /// Name.
        key: String,
        /// Value.
        value: String,
    },
}

impl Write {
    /// The attempt that it stores, if it stores one.
    pub(crate) fn attempt(&self) -> Option<AttemptRecord> {
        match self {
            Self::Plan(planned) => Some(planned.attempt.clone()),
            Self::Attempt(attempt) => Some(attempt.as_ref().clone()),
            Self::Fenced(_, write) => write.attempt(),
            _ => None,
        }
    }
}

/// What a write did.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteOutcome {
    /// Of [`Write::Accept`].
    Accept(AcceptOutcome),
    /// The write was applied and produced these events.
    Applied(Vec<EventRecord>),
    /// The write's precondition did not hold; nothing of it was applied.
    Refused(String),
    /// These members of a plan ended without being executed, such as by a withdrawal; nothing of it was applied.
    MembersEnded(Vec<RequestId>),
    /// The lease under which it was written is not in force any more; nothing of it was applied.
    Fenced {
        /// The writer's token.
        token: u64,
        /// The token in force; `None` if no lease is.
        in_force: Option<u64>,
    },
}

/// The lease under which a chain's lanes are written: a token that grows with every change of owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The fencing token.
    pub token: u64,
}

/// A tenant's budget, checked in the transaction that accepts (invariant I8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimit {
    /// Most that may be reserved and spent, wei, on the request's chain.
    pub limit_wei: U256,
    /// Since when; counted in whole hours, so that it may count up to an hour more, never less.
    pub since: Timestamp,
}

/// What became of a new request.
#[derive(Debug, Clone, PartialEq)]
pub enum AcceptOutcome {
    /// New, and now durable.
    Accepted {
        /// Order of acceptance.
        seq: u64,
        /// The `queued` event.
        event: EventRecord,
    },
    /// The very same request (same id), or the same idempotency key with the same body, was accepted before: here it is.
    Duplicate(Box<RequestRecord>),
    /// The idempotency key was used with another body.
    IdempotencyConflict {
        /// The request it belongs to.
        existing: RequestId,
    },
    /// Another live (or executed) request holds this (forwarder, signer, nonce).
    NonceConflict {
        /// The request that holds it.
        existing: RequestId,
    },
    /// [`NewRequest::budget`] does not cover it.
    BudgetExhausted {
        /// What it reserves, wei.
        needed_wei: U256,
        /// What is left, wei.
        available_wei: U256,
        /// The whole limit, wei.
        limit_wei: U256,
    },
}

/// A caller's idempotency key with a hash of the body it came with. Scoped to the tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// At most 255 bytes.
    pub key: String,
    /// keccak256 of the canonical body.
    pub body_hash: B256,
}

/// A verified request on its way into the ledger.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Content-derived identity.
    pub id: RequestId,
    /// Whose budget pays.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `forward`, `call`.
    pub kind: &'static str,
    /// (forwarder, signer, nonce) for kinds with an order. Unique among requests that are live or have consumed it.
    pub sequence: Option<(Address, Address, u64)>,
    /// Contract called in the end.
    pub target: Address,
    /// When its inclusion is promised by.
    pub deadline: Timestamp,
    /// Latest acceptable inclusion.
    pub valid_until: Timestamp,
    /// When it arrived.
    pub accepted_at: Timestamp,
    /// Worst case taken from the budget, wei: the larger of cost and price.
    pub reserved_wei: U256,
    /// What its tenant is charged, percent of its cost.
    pub price_percent: u32,
    /// Highest price of gas that the reservation covers, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// [`crate::request::VerifiedRequest::to_stored`].
    pub payload: Vec<u8>,
    /// The signature over the inclusion promise.
    pub promise_signature: Bytes,
    /// The quote that was answered, as JSON, so that a repeated submission gets the first answer.
    pub quote: String,
    /// The caller's idempotency key.
    pub idempotency: Option<Idempotency>,
    /// Who submitted it: the id of an API key.
    pub submitted_by: Option<String>,
    /// The budget that must cover it, where several instances spend it; one alone checks before it writes.
    pub budget: Option<BudgetLimit>,
    /// Whether it may take the place of another tenant's request with the same content that ended untried. Only where this
    /// instance alone drives the lanes: another one may not know yet that it ended.
    pub takes_over: bool,
}

/// A request as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRecord {
    /// Order of acceptance.
    pub seq: u64,
    /// Identity.
    pub id: RequestId,
    /// Whose budget pays.
    pub tenant: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// `forward`, `call`.
    pub kind: String,
    /// (forwarder, signer, nonce) for kinds with an order.
    pub sequence: Option<(Address, Address, u64)>,
    /// Contract called in the end.
    pub target: Address,
    /// Where it stands.
    pub status: Status,
    /// Why it ended, or went back to the queue.
    pub reason: Option<Reason>,
    /// When its inclusion was promised by.
    pub deadline: Timestamp,
    /// Latest acceptable inclusion.
    pub valid_until: Timestamp,
    /// When its promise was missed, if it was.
    pub late_at: Option<Timestamp>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The batch it is in, or ended in; none while it is queued.
    pub batch: Option<BatchId>,
    /// Worst case taken from the budget, wei: the larger of cost and price.
    pub reserved_wei: U256,
    /// What its tenant is charged, percent of its cost ([`Self::price_wei`]).
    pub price_percent: u32,
    /// Highest price of gas that the reservation covers, wei per gas.
    pub ceiling_wei_per_gas: u128,
    /// Its share of what final transactions cost, wei: also of those that did not execute it.
    pub cost_wei: Option<U256>,
    /// Its share of the gas used, once included.
    pub gas_used: Option<u64>,
    /// Hash of the transaction that executed it.
    pub tx_hash: Option<B256>,
    /// Number of the block that executed it.
    pub block_number: Option<u64>,
    /// [`crate::request::VerifiedRequest::to_stored`].
    pub payload: Vec<u8>,
    /// The signature over the inclusion promise.
    pub promise_signature: Bytes,
    /// The quote that was answered, JSON.
    pub quote: String,
    /// How many transactions that carried it failed as a whole.
    pub batch_failures: u32,
    /// Who submitted it: the id of an API key.
    pub submitted_by: Option<String>,
}

impl RequestRecord {
    /// What its tenant is charged for its cost until now, wei (invariant I12).
    pub fn price_wei(&self) -> Option<U256> {
        self.cost_wei.map(|cost| price_of(cost, self.price_percent, self.reserved_wei))
    }

    /// The price, where it is not the cost.
    pub(crate) fn other_price_wei(&self) -> Option<U256> {
        self.price_wei().filter(|price| Some(*price) != self.cost_wei)
    }

    /// What budgets count of it once it has ended, wei: the larger of cost and price.
    pub fn counted_wei(&self) -> U256 {
        self.counted_of(self.cost_wei)
    }

    /// The same, if it had cost so much.
    pub(crate) fn counted_of(&self, cost_wei: Option<U256>) -> U256 {
        let cost = cost_wei.unwrap_or_default();
        price_of(cost, self.price_percent, self.reserved_wei).max(cost)
    }

    /// Until when whoever has the signature of a request that ended can still use it: its signed deadline, Unix seconds. `None`
    /// while it is open, if it was executed, if its nonce is used, for kinds that nobody signs, and if it ended at its deadline.
    ///
    /// The user's next request takes the same nonce; the first of the two to be executed makes the other one void.
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
    /// Which request.
    pub id: RequestId,
    /// New status.
    pub to: Status,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
    /// Free text for people, such as decoded revert data. Bounded by the writer of the change.
    pub detail: Option<String>,
    /// Transaction that executed it.
    pub tx_hash: Option<B256>,
    /// Block that executed it.
    pub block_number: Option<u64>,
    /// Its share of the gas.
    pub gas_used: Option<u64>,
    /// Added to its cost, wei: its share of a transaction that became final.
    pub charged_wei: U256,
    /// Count a failure of the whole transaction against it.
    pub batch_failed: bool,
    /// Where the request must be for this to apply.
    pub reach: Reach,
}

/// Where a request must be for a change by a batch to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// In that batch.
    #[default]
    Batch,
    /// Anywhere: it left the batch early, and was executed by it all the same.
    Anywhere,
    /// Anywhere, and only its cost is added: it left the batch early.
    Cost,
}

impl RequestChange {
    /// A change to `to` with nothing else to say.
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

/// What a final transaction took beyond its members' shares, and who bears it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bill {
    /// Value that moved to targets, wei.
    pub value_wei: U256,
    /// What accounts bear; each account of a tenant at most once.
    pub accounts: Vec<AccountEntry>,
}

/// A part of a final transaction's cost that no request bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountEntry {
    /// Which account.
    pub account: CostAccount,
    /// Whose: it counts against this tenant's budget. `None`: the operator's.
    pub tenant: Option<String>,
    /// How much, wei.
    pub wei: U256,
}

/// Sum of an account since the ledger began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// The chain.
    pub chain_id: u64,
    /// Which account.
    pub account: CostAccount,
    /// Whose; `None`: the operator's.
    pub tenant: Option<String>,
    /// Wei that it bore.
    pub wei: U256,
}

/// By how much the prices of a tenant's requests differ from their costs, since the ledger began. None of it is part of what left
/// the lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarginRow {
    /// The tenant.
    pub tenant: String,
    /// The chain.
    pub chain_id: u64,
    /// Account `margin`: what it is charged above cost, wei.
    pub margin_wei: U256,
    /// Account `rebate`: what the operator bears of the cost, wei.
    pub rebate_wei: U256,
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum BatchState {
    /// First attempt durable, not yet known to be sent.
    Signed = 0,
    /// Some node may hold an attempt.
    Broadcast = 1,
    /// An attempt is in a block.
    Included = 2,
    /// An attempt that carries the payload is final.
    Finalized = 3,
    /// Its nonce went to a cancel of ours.
    Cancelled = 4,
    /// Its nonce went to a transaction that is not ours.
    Lost = 5,
}

impl BatchState {
    /// Every state, in order of its code.
    pub const ALL: [Self; 6] =
        [Self::Signed, Self::Broadcast, Self::Included, Self::Finalized, Self::Cancelled, Self::Lost];

    /// No further change is possible.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Finalized | Self::Cancelled | Self::Lost)
    }

    /// Whether a batch in this state may change to `next`. What was sent is never unsent (invariant I5); an inclusion
    /// may be taken back (invariant I9).
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            Self::Signed => !matches!(next, Self::Signed),
            Self::Broadcast => !matches!(next, Self::Signed | Self::Broadcast),
            Self::Included => !matches!(next, Self::Signed | Self::Included),
            Self::Finalized | Self::Cancelled | Self::Lost => false,
        }
    }

    /// The state with this code (the ledger's representation).
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// A batch as stored: what every attempt of it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// (lane, nonce).
    pub id: BatchId,
    /// Where it stands.
    pub state: BatchState,
    /// Transaction recipient: forwarder, Multicall3 or target.
    pub to: Address,
    /// Transaction value, wei.
    pub value: U256,
    /// Gas limit of the payload.
    pub gas_limit: u64,
    /// Earliest deadline of its members: no payload is sent after it.
    pub deadline: Timestamp,
    /// No attempt may offer more than this per gas.
    pub ceiling_wei_per_gas: u128,
    /// Why the composer sent it then (`full`, `deadline`, `linger` …).
    pub trigger: String,
    /// When it was planned.
    pub created_at: Timestamp,
    /// The attempt that is in a block.
    pub included_hash: Option<B256>,
    /// Number and hash of that block.
    pub block: Option<(u64, B256)>,
    /// Gas used.
    pub gas_used: Option<u64>,
    /// Cost in wei.
    pub cost_wei: Option<U256>,
}

/// One signed transaction for a batch's nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The batch.
    pub batch: BatchId,
    /// 0 for the first, then counted up.
    pub index: u32,
    /// Payload or cancel.
    pub kind: AttemptKind,
    /// Fee caps.
    pub fees: Fees,
    /// Transaction hash.
    pub hash: B256,
    /// EIP-2718 bytes as sent.
    pub raw: Bytes,
    /// When it was signed.
    pub created_at: Timestamp,
}

/// A request's place in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMember {
    /// The request.
    pub id: RequestId,
    /// Gas that it uses by itself, as simulated, or as declared where no simulation told it: by it the batch's cost is shared. `None` in
    /// what was planned before the ledger kept it.
    pub own_gas: Option<u64>,
}

impl From<RequestId> for BatchMember {
    /// One of which nothing more is known.
    fn from(id: RequestId) -> Self {
        Self { id, own_gas: None }
    }
}

/// A batch with its members and first attempt.
#[derive(Debug, Clone)]
pub struct PlannedBatch {
    /// The batch; its state is `Signed`.
    pub batch: BatchRecord,
    /// Members in execution order.
    pub members: Vec<BatchMember>,
    /// The first attempt that carries it: index 0, or the next one of a batch whose content it replaces.
    pub attempt: AttemptRecord,
    /// Who was in the content that it replaces: none of them may be in the batch any more.
    pub left: Vec<RequestId>,
    /// When.
    pub at: Timestamp,
}

/// One thing that happened to one request (invariant I10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// Global sequence number, without gaps, from 1.
    pub seq: u64,
    /// The request.
    pub request_id: RequestId,
    /// Sequence number within the request, from 1.
    pub request_seq: u32,
    /// Whose request it is.
    pub tenant: String,
    /// Its chain.
    pub chain_id: u64,
    /// New status.
    pub status: Status,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<Reason>,
    /// Free text for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// The batch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batch: Option<BatchId>,
    /// Transaction hash.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tx_hash: Option<B256>,
    /// Block number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_number: Option<u64>,
    /// Unix ms.
    pub at_ms: u64,
}

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this status.
    pub status: Option<Status>,
    /// Only this chain.
    pub chain_id: Option<u64>,
    /// Only with `seq` below this (the cursor).
    pub before: Option<u64>,
    /// Only with `seq` of at least this: no older ones are looked at ([`Self::beyond`]).
    pub from: Option<u64>,
    /// Without the newest so many of those that match.
    pub skip: usize,
    /// At most so many.
    pub limit: usize,
}

impl RequestFilter {
    /// What finds the first request that is not looked at, if `rows` are: of the tenant's own, else of those with the status,
    /// else of all. A page of this filter that begins after it ([`Self::from`]) takes no longer than that, however few match;
    /// the next one goes on there. `None` where all that is looked at matches.
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

/// Which events to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only with a greater `seq`.
    pub after: u64,
    /// Only those of the request that was accepted with this number ([`RequestRecord::seq`]). Not by id: that may have become
    /// another tenant's ([`NewRequest::takes_over`]).
    pub request: Option<u64>,
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Requests that were submitted with some API keys of one tenant, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// Those that have not ended, whenever they were accepted.
    pub open: Vec<OpenByKey>,
    /// Those that have ended, counted.
    pub ended: Vec<EndedByKey>,
}

/// An open request, and the key that submitted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenByKey {
    /// The key's id.
    pub key: String,
    /// The request.
    pub id: RequestId,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Worst case taken from the budget, wei.
    pub reserved_wei: U256,
}

/// What one key's ended requests on one chain come to, of those accepted since each of two instants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedByKey {
    /// The key's id.
    pub key: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Their number, and what budgets count of them, wei.
    pub since: [(u64, U256); 2],
}

impl EndedByKey {
    /// Adds requests, which lie after the instants that `is_after` names.
    pub(crate) fn add(&mut self, is_after: [bool; 2], requests: u64, counted_wei: U256) {
        for ((count, sum), _) in self.since.iter_mut().zip(is_after).filter(|(_, is_after)| *is_after) {
            *count = count.saturating_add(requests);
            *sum = sum.saturating_add(counted_wei);
        }
    }
}

/// Sum of what a tenant's requests hold or cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentRow {
    /// The tenant.
    pub tenant: String,
    /// The chain.
    pub chain_id: u64,
    /// Reserved by live requests, wei.
    pub reserved_wei: U256,
    /// What ended requests count, the larger of cost and price, and what accounts bear, wei.
    pub spent_wei: U256,
}

/// What budgets count of a request, and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CostRow {
    /// Order of acceptance.
    pub seq: u64,
    /// The chain.
    pub chain_id: u64,
    /// Who signed it, for kinds that users sign.
    pub signer: Option<Address>,
    /// Contract called in the end.
    pub target: Address,
    /// The larger of its cost and its price, wei.
    pub counted_wei: U256,
}

/// An entry of the hash-chained decision log, as stored. See [`crate::provenance`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRow {
    /// From 1, without gaps.
    pub seq: u64,
    /// Unix ms.
    pub at_ms: u64,
    /// Hash of the entry before.
    pub prev: B256,
    /// Hash of this entry.
    pub hash: B256,
    /// Canonical text of the decision.
    pub body: String,
}
