//! State of the queue.

use std::sync::Arc;

use alloy_primitives::Address;

use super::{
    entry::QueuedRequest,
    limits::Short,
    line::{Group, Head, Place, Signer},
    signer::SignerState,
    unknown::Unknown,
};
use crate::{
    ordered::{HashMap, Map, Set},
    request::{
        LaneId, RequestId, VerifiedRequest,
        vehicle::{Contracts, VehicleKey},
    },
    schedule::{company::ArrivalModel, pace::DueCounts, targets::TargetRecords},
    table::Table,
    time::Timestamp,
};

/// Tenants whose calls each sender account makes: a contract that trusts the account for one tenant must not be called
/// by another.
pub type Callers = Map<Address, Set<Arc<str>>>;

/// True for the queue of many tenants and requests. A page has one tenant, never paused and never in debt, one lane and
/// few requests: it does not cache the findings of lanes, which makes its download smaller.
pub(super) const IS_SHARED: bool = cfg!(not(target_arch = "wasm32"));

/// Capacity occupied by a request in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flying {
    pub(super) lane: LaneId,
    /// Its part of its transaction's size, millionths of a slot.
    pub(super) part: u64,
    /// Number of the transaction.
    pub(super) number: u64,
}

/// One tenant's capacity in flight on one lane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// Total size of its transactions, millionths of a slot.
    pub(super) slots: u64,
    /// Number of transactions with a request of the tenant.
    pub(super) transactions: u64,
}

/// Scheduling state of a tenant.
#[derive(Debug)]
pub(super) struct TenantState {
    pub(super) weight: u64,
    /// Service received so far, by transaction sizes, divided by the weight: the tenant with the least goes first.
    pub(super) virtual_time: u64,
    /// Number of its ready heads.
    pub(super) ready: usize,
    /// Places given to it since the last one for a late request.
    pub(super) since_late: u32,
    /// Waiting requests whose promise can still be kept.
    pub(super) fresh: DueCounts,
    /// Requests that left since the count was last taken.
    pub(super) left: u64,
}

impl Default for TenantState {
    fn default() -> Self {
        Self { weight: 1, virtual_time: 0, ready: 0, since_late: 0, fresh: DueCounts::default(), left: 0 }
    }
}

/// All accepted requests that are not settled.
///
/// **Invariant:** a signer's requests leave in nonce order, and while some are in flight their successors only follow on
/// the same lane.
///
/// **Invariant I14:** tenants are served by weight, whatever their deadlines, counted in transactions or in a block's
/// gas, whichever is more. While others could be sent, a tenant holds at most its share of a lane's transactions, but
/// always one. Within a tenant, requests whose promise can still be kept go first, by due time; one place in eight, and
/// all that is left, goes to late requests, the oldest first. One signer fills a transaction only with the room that
/// the others leave.
///
/// Work is proportional to change: heads that can't be sent, because they are bound to another lane or their ceiling is
/// below the base fee, are not in the lists that a composition walks.
#[derive(Debug, Default)]
pub struct Queue {
    /// Boxed: a map of large values takes twice as much memory.
    pub(super) entries: HashMap<RequestId, Box<QueuedRequest>>,
    pub(super) signers: HashMap<Signer, Box<SignerState>>,
    /// Signers whose forwarder nonce was never looked up.
    pub(super) unknown: Unknown,
    /// Signers with requests behind a missing nonce.
    pub(super) gapped: Set<Signer>,
    pub(super) groups: Table<VehicleKey, Group>,
    pub(super) arrivals: Table<VehicleKey, ArrivalModel>,
    pub(super) places: HashMap<Head, Place>,
    /// Heads whose ceiling is below the base fee, by ceiling.
    pub(super) asleep: Set<(u128, Head)>,
    /// Waiting requests by end of validity.
    pub(super) valid: Set<(Timestamp, RequestId)>,
    /// Requests that the chain does not execute yet, by the block timestamp that it must pass, seconds.
    pub(super) unripe: Set<(u64, RequestId)>,
    /// Timestamp of the newest block, seconds.
    pub(super) chain_time_s: u64,
    /// Requests with a due time still to be watched, by due time.
    pub(super) dues: Set<(Timestamp, RequestId)>,
    pub(super) flying: HashMap<RequestId, Flying>,
    pub(super) held: Table<LaneId, Table<Arc<str>, Held>>,
    /// Number of members in flight by transaction and tenant.
    pub(super) members: HashMap<(u64, Arc<str>), usize>,
    pub(super) tenants: Table<Arc<str>, Box<TenantState>>,
    pub(super) transactions: u64,
    /// Transactions restored after a restart, by number, with the gas of each member: sized once a block's gas is
    /// known.
    pub(super) unsized_gas: Vec<(u64, Vec<(RequestId, u64)>)>,
    /// On-chain behaviour of targets.
    pub(super) targets: TargetRecords,
    /// Paused tenants: their requests are left out.
    pub(super) paused: Set<Arc<str>>,
    /// Tenants over budget: one transaction in flight at a time.
    pub(super) debtors: Set<Arc<str>>,
    /// Tenants that go after all others, with the end of that time.
    pub(super) last: Map<Arc<str>, Timestamp>,
    /// Bytes of the requests whose payload is in memory.
    pub(super) payload_bytes: usize,
    /// Bytes of payloads from which on waiting requests are kept without; `None` for no limit.
    pub(super) max_payload_bytes: Option<usize>,
    pub(super) contracts: Contracts,
    pub(super) callers: Option<Table<Address, Set<Arc<str>>>>,
    pub(super) short: Option<Short>,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares the contracts through which requests share transactions. Call before the first push.
    pub const fn set_contracts(&mut self, contracts: Contracts) {
        self.contracts = contracts;
    }

    /// Limits the memory for payloads (calldata and signatures): beyond `bytes`, a request that begins to wait is kept as
    /// an [outline](VerifiedRequest::outline). Call before the first push. Without a limit all payloads stay.
    pub const fn set_payload_memory(&mut self, bytes: usize) {
        self.max_payload_bytes = Some(bytes);
    }

    /// Bytes of the payloads in memory, as they count in a transaction.
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Those of `ids` whose payload is not in memory.
    pub fn without_payload(&self, ids: &[RequestId]) -> Vec<RequestId> {
        let is_outline = |id: &RequestId| self.get(*id).is_some_and(|entry| entry.request.is_outline());
        ids.iter().copied().filter(is_outline).collect()
    }

    /// Number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.valid.len()
    }

    /// Number of requests in transactions that are not settled.
    pub fn in_flight(&self) -> usize {
        self.entries.len() - self.valid.len()
    }

    /// The request; `None` if it is no longer in the queue.
    pub fn get(&self, id: RequestId) -> Option<&QueuedRequest> {
        self.entries.get(&id).map(|entry| &**entry)
    }

    /// The request, to count failures; `None` if it is no longer in the queue.
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut QueuedRequest> {
        self.entries.get_mut(&id).map(|entry| &mut **entry)
    }

    /// Replaces the stored request: by an [outline](VerifiedRequest::outline) while its bytes are not needed, or by the
    /// full one again.
    pub fn replace(&mut self, request: Arc<VerifiedRequest>) {
        if let Some(entry) = self.entries.get_mut(&request.id()) {
            self.payload_bytes = self.payload_bytes.saturating_sub(entry.payload_bytes());
            entry.request = request;
            self.payload_bytes = self.payload_bytes.saturating_add(entry.payload_bytes());
        }
    }

    /// Stores an entry.
    pub(super) fn keep(&mut self, entry: Box<QueuedRequest>) {
        self.payload_bytes = self.payload_bytes.saturating_add(entry.payload_bytes());
        self.entries.insert(entry.request.id(), entry);
    }

    /// True if the request waits (is not in a transaction).
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.entries.get(&id).is_some_and(|entry| self.valid.contains(&(entry.request.valid_until(), id)))
    }

    /// The first request of a head.
    pub(super) fn head(&self, head: Head) -> Option<&QueuedRequest> {
        head_of(&self.entries, &self.signers, head)
    }
}

pub(super) fn head_of<'a>(
    entries: &'a HashMap<RequestId, Box<QueuedRequest>>,
    signers: &HashMap<Signer, Box<SignerState>>,
    head: Head,
) -> Option<&'a QueuedRequest> {
    let id = match head {
        Head::Request(id) => id,
        Head::Signer(signer) => {
            let state = signers.get(&signer)?;
            *state.waiting.get(&state.next()?)?
        }
    };
    entries.get(&id).map(|entry| &**entry)
}
