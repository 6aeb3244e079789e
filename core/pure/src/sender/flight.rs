//! One nonce of a lane with all that it carries, and the lane with its flights and attempts.

use std::{ops::RangeInclusive, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, U256};

use super::{
    foreign::ForeignTransaction,
    host::{ForecastRef, Pending},
};
use crate::{
    lane::{AttemptKey, AttemptKind, Command, Lane},
    ordered::{Map, Set},
    record::{AttemptRecord, BatchRecord, BatchState, Durable},
    request::{
        BatchId, RequestId, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt},
        settlement::Culprit,
        vehicle::{VehicleKey, VehicleParams, decode},
    },
    schedule::Accused,
    time::Timestamp,
};

/// Present content of a nonce, beyond what the lane's state machine needs.
#[derive(Debug)]
pub struct Flight {
    /// Kind of transaction.
    pub key: VehicleKey,
    /// Requests in the order of the calldata.
    pub members: Vec<Arc<VerifiedRequest>>,
    /// Each member's own gas: as simulated, less the gas of an empty transaction; as declared if it was not simulated.
    pub weights: Vec<u64>,
    /// Each member's size, filled before its bytes may leave memory; else empty.
    pub sizes: Vec<MemberSize>,
    /// Set while its bytes are in the ledger only; `None` while they are in memory.
    pub stowed: Option<Stowed>,
    /// Tenant of all members; `None` if they belong to several tenants, or to none.
    pub tenant: Option<Arc<str>>,
    /// Row of the ledger.
    pub record: BatchRecord,
    /// The forecast by which it was composed.
    pub forecast_ref: Option<ForecastRef>,
    /// Evidence about its members' targets from its block.
    pub shown: Evidence,
    /// True once its content is in the ledger.
    pub is_planned: bool,
    /// Members of the nonce's previous content, which every node refused.
    pub left: Vec<RequestId>,
    /// Earlier contents of the nonce, oldest first. A node may have kept one although it refused it.
    pub earlier: Vec<Content>,
    /// Index in `earlier` of the content for which a filler uses the vacant nonce; `None` if there is no such filler.
    pub filled_for: Option<usize>,
    /// Believed content of its block, until that is final; `None` if it is not included.
    pub mined: Option<Mined>,
    /// Amount held in its tenant's budget for the part of its cost that no member bears.
    pub pending: Option<Pending>,
    /// Members that left before it is final: they wait again, or are in another transaction.
    pub gone: Set<RequestId>,
    /// Amount already drawn for it from the reservation of each member in `gone`, wei.
    pub drawn: Map<RequestId, U256>,
    /// Members that another transaction of ours executed earlier on chain: the operator bears the cost of skipping
    /// them.
    pub elsewhere: Set<RequestId>,
    /// Members that had ended before this instance read the batch back, with their tenant's price in percent of their
    /// cost: no budget in memory counts them.
    pub uncounted: Map<RequestId, u32>,
    /// The foreign transaction that took the nonce, as last reported, and the time of the first report.
    pub stranger: Option<(ForeignTransaction, Timestamp)>,
}

/// Content of a nonce: an earlier one, which every node refused, or a copy of the present one.
#[derive(Debug, Clone)]
pub struct Content {
    /// Index of the first attempt that carries something else.
    pub until: u32,
    /// Kind of transaction.
    pub key: VehicleKey,
    /// Requests in the order of the calldata.
    pub members: Vec<Arc<VerifiedRequest>>,
    /// As in [`Flight`].
    pub weights: Vec<u64>,
    /// As in [`Flight`].
    pub sizes: Vec<MemberSize>,
    /// Tenant of all members; `None` if they belong to several tenants, or to none.
    pub tenant: Option<Arc<str>>,
    /// As in [`Flight`].
    pub elsewhere: Set<RequestId>,
}

impl Content {
    pub(crate) fn holds(&self, id: RequestId) -> bool {
        self.members.iter().any(|member| member.id() == id)
    }
}

impl Flight {
    /// A copy of the present content.
    pub fn content(&self) -> Content {
        let (members, weights, tenant) = (self.members.clone(), self.weights.clone(), self.tenant.clone());
        let (sizes, elsewhere) = (self.sizes.clone(), self.elsewhere.clone());
        Content { until: 0, key: self.key, members, weights, sizes, tenant, elsewhere }
    }

    /// Sort key by planning time: a request that left one transaction can only be in one planned later.
    pub const fn order(&self) -> (Timestamp, BatchId) {
        (self.record.created_at, self.record.id)
    }

    pub(crate) fn holds(&self, id: RequestId) -> bool {
        self.members.iter().any(|member| member.id() == id)
    }

    /// Ids of the present members.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.members.iter().map(|member| member.id())
    }

    /// Requests that are no longer members but that it may have executed, or may yet execute.
    pub fn bound(&self) -> impl Iterator<Item = RequestId> {
        let earlier = self.earlier.iter().flat_map(|content| &content.members);
        self.gone.iter().copied().chain(earlier.map(|member| member.id()))
    }

    /// Members that the ledger, as read back at a restart, records as executed by this transaction in this block;
    /// `None` if it does not record the transaction in this block.
    pub fn known(&self, receipt: &TxReceipt) -> Option<Set<RequestId>> {
        let BatchRecord { state: BatchState::Included, included_hash, block, gas_used: Some(_), .. } = self.record
        else {
            return None;
        };
        let is_it = included_hash == Some(receipt.hash) && block == Some((receipt.block_number, receipt.block_hash));
        is_it.then(|| self.members.iter().filter(|member| member.is_outline()).map(|member| member.id()).collect())
    }

    /// Members that did not leave.
    pub fn still_in(&self) -> impl Iterator<Item = &Arc<VerifiedRequest>> {
        self.members.iter().filter(|member| !self.gone.contains(&member.id()))
    }

    /// New content of a nonce.
    pub const fn new(
        key: VehicleKey,
        members: Vec<Arc<VerifiedRequest>>,
        weights: Vec<u64>,
        record: BatchRecord,
    ) -> Self {
        Self {
            key,
            members,
            weights,
            sizes: Vec::new(),
            stowed: None,
            tenant: None,
            record,
            forecast_ref: None,
            shown: Evidence::NOTHING,
            is_planned: false,
            left: Vec::new(),
            earlier: Vec::new(),
            filled_for: None,
            mined: None,
            pending: None,
            gone: Set::new(),
            drawn: Map::new(),
            elsewhere: Set::new(),
            uncounted: Map::new(),
            stranger: None,
        }
    }

    /// The same nonce without members.
    pub fn vacated(&self) -> Self {
        let (left, earlier) = (self.left.clone(), self.earlier.clone());
        let empty = Self::new(self.key, Vec::new(), Vec::new(), self.record.clone());
        Self { is_planned: true, left, earlier, ..empty }
    }

    /// Index in `earlier` of the content that the attempt with this index carries; `None` if it carries the present
    /// one.
    pub fn content_before(&self, index: u32) -> Option<usize> {
        self.earlier.iter().position(|content| index < content.until)
    }
}

/// All attempts of a nonce.
pub(crate) const fn attempts_of(nonce: u64) -> RangeInclusive<AttemptKey> {
    AttemptKey { nonce, index: 0 }..=AttemptKey { nonce, index: u32::MAX }
}

/// A lane's state machine with its key, flights and attempts.
#[derive(Debug)]
pub struct SenderLane {
    /// State machine of its nonces.
    pub machine: Lane,
    /// False if the key is no longer configured: sent transactions are watched until they are final.
    pub has_signer: bool,
    /// Parameters of the transactions it sends.
    pub params: VehicleParams,
    /// Transactions that are not settled, by nonce.
    pub flights: Map<u64, Flight>,
    /// Attempts that are signed but not yet committed.
    pub signed: Map<AttemptKey, AttemptRecord>,
    /// Committed attempts, which may be broadcast.
    pub durable: Map<AttemptKey, Durable<AttemptRecord>>,
    /// True while payloads of a batch are read, or it is simulated.
    pub is_composing: bool,
    /// Head at which no node could simulate any member of the lane's selection, or the ledger could not be read; `None` if there was
    /// none.
    pub blind_at: Option<u64>,
    /// Times in a row that its key did not sign a new transaction.
    pub unsigned: u32,
    /// Head number until which its key is spared after that; `None` if it signs.
    pub rests_until: Option<u64>,
}

impl SenderLane {
    /// A lane as it was restored.
    pub const fn new(
        machine: Lane,
        has_signer: bool,
        params: VehicleParams,
        flights: Map<u64, Flight>,
        durable: Map<AttemptKey, Durable<AttemptRecord>>,
    ) -> Self {
        let signed = Map::new();
        Self {
            machine,
            has_signer,
            params,
            flights,
            signed,
            durable,
            is_composing: false,
            blind_at: None,
            unsigned: 0,
            rests_until: None,
        }
    }

    /// True while its key is spared.
    pub fn is_resting(&self, head: Option<u64>) -> bool {
        self.rests_until.is_some_and(|until| head.is_none_or(|head| head < until))
    }

    /// Outcomes of a mined transaction for the present members of its nonce. Members of an earlier content learn theirs
    /// when the transaction is final.
    pub fn outcomes(&self, nonce: u64, kind: AttemptKind, receipt: &TxReceipt) -> Vec<MemberOutcome> {
        let Some(flight) = self.flights.get(&nonce) else { return Vec::new() };
        let mined = self.index_of(nonce, receipt.hash);
        let is_earlier = mined.is_some_and(|mined| flight.content_before(mined).is_some());
        match kind {
            AttemptKind::Payload if !is_earlier => {
                decode(flight.key, &flight.members, receipt.is_success, &receipt.logs)
            }
            AttemptKind::Payload | AttemptKind::Cancel => vec![MemberOutcome::Untouched; flight.members.len()],
        }
    }

    pub(crate) const fn batch_id(&self, nonce: u64) -> BatchId {
        BatchId { lane: self.machine.id(), nonce }
    }

    /// Index of the nonce's attempt with this hash; `None` if no committed attempt has it.
    pub fn index_of(&self, nonce: u64, hash: B256) -> Option<u32> {
        let mut attempts = self.durable.range(attempts_of(nonce));
        attempts.find(|(_, attempt)| attempt.get().hash == hash).map(|(key, _)| key.index)
    }

    pub(crate) fn forget(&mut self, nonce: u64) {
        let keys: Vec<AttemptKey> = self.durable.range(attempts_of(nonce)).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| drop(self.durable.remove(key)));
        self.signed.retain(|key, _| key.nonce != nonce);
    }

    /// Drops the bytes of a nonce's committed attempts.
    pub fn reduce_attempts(&mut self, nonce: u64) {
        let keys: Vec<AttemptKey> = self.durable.range(attempts_of(nonce)).map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(attempt) = self.durable.remove(&key) {
                self.durable.insert(key, without_bytes(attempt));
            }
        }
    }
}

/// Inputs of a member's cost share that depend on its bytes.
#[derive(Debug, Clone, Copy)]
pub struct MemberSize {
    /// Gas used if the forwarder skips it.
    pub skip_gas: u64,
    /// Compressed length in bytes of a transaction that carries it alone; 1 on chains without a data fee.
    pub data_bytes: u64,
}

/// State of a transaction whose bytes (members, calldata, attempts) are in the ledger only.
#[derive(Debug, Default)]
pub struct Stowed {
    pub(crate) is_fetching: bool,
    /// The lane's commands that wait for the bytes, in order.
    pub commands: Vec<Command>,
}

impl Stowed {
    /// True if commands wait for the bytes: the transaction has left its block, or had another outcome there.
    pub const fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }
}

/// Recorded evidence of one transaction in a block.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Hash of the transaction; zero if none is in a block.
    pub hash: B256,
    /// Unnamed targets for which it counts as a clean run.
    pub clean: Vec<Address>,
    /// Unnamed targets for which it counts as one once the nodes confirm that they are contracts.
    pub unproven: Vec<Address>,
    pub accused: Option<Accused>,
    /// True once the accusation was handled: it counts once, however many others of the same target there are
    /// meanwhile.
    pub is_noted: bool,
}

impl Evidence {
    pub const NOTHING: Self =
        Self { hash: B256::ZERO, clean: Vec::new(), unproven: Vec::new(), accused: None, is_noted: false };

    /// The accusation not handled yet.
    pub fn open(&self) -> Option<Accused> {
        self.accused.filter(|_| !self.is_noted)
    }
}

/// The presumed mined content of a nonce before finality.
#[derive(Debug, Clone)]
pub struct Mined {
    /// Kind of the mined attempt.
    pub kind: AttemptKind,
    /// Receipt of the mined attempt.
    pub receipt: TxReceipt,
    /// Outcomes of the present members, in their order.
    pub outcomes: Vec<MemberOutcome>,
    /// Head number from which the nodes are asked about it; `None` while a query runs and when none is needed.
    pub ask_at: Option<u64>,
}

impl Mined {
    /// Its cost as known before finality.
    pub fn spent(&self) -> Spent<'_> {
        Spent { kind: self.kind, receipt: &self.receipt, outcomes: &self.outcomes, culprit: None }
    }
}

/// Cost-related facts of one of our transactions in a block.
#[derive(Debug, Clone, Copy)]
pub struct Spent<'a> {
    pub kind: AttemptKind,
    pub receipt: &'a TxReceipt,
    /// Outcome for each member, in order.
    pub outcomes: &'a [MemberOutcome],
    /// As in [`Settlement`].
    pub culprit: Option<Culprit>,
}

/// An attempt without its bytes, which can't be sent.
pub fn without_bytes(attempt: Durable<AttemptRecord>) -> Durable<AttemptRecord> {
    attempt.reduced(|attempt| attempt.raw = Bytes::new())
}
