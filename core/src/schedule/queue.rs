//! The queue and the batch composer.

mod pick;
mod signer;
mod unknown;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};

use pick::{Picker, Room};
use signer::SignerState;
use unknown::Unknown;

use super::{
    FeeOutlook,
    company::{Habit, Patience},
    pace::DueCounts,
    targets::{self, Accused, RecordRule, Showing, TargetRecords},
};
use crate::{
    protection::Protection,
    request::{
        LaneId, RequestId, TargetRecord, VerifiedRequest,
        outcome::MemberOutcome,
        settlement::{price_of, with_price},
        vehicle::{Company, VehicleKey},
    },
    table::Table,
    time::Timestamp,
};

/// An accepted request, with the data that the composer needs.
#[derive(Debug, Clone)]
pub struct QueuedRequest {
    /// The request.
    pub request: Arc<VerifiedRequest>,
    /// Tenant of the request.
    pub tenant: Arc<str>,
    /// Order of acceptance.
    pub seq: u64,
    /// Time of acceptance; age and original slack are measured from it.
    pub accepted_at: Timestamp,
    /// Gas it adds to a transaction, upper bound.
    pub gas: u64,
    /// Bytes it adds to a transaction.
    pub bytes: usize,
    /// Highest gas price covered by its reservation, wei per gas. It falls with the amount spent on transactions that
    /// did not complete it.
    pub ceiling_wei_per_gas: u128,
    /// The ceiling before anything was spent, wei per gas.
    pub first_ceiling_wei_per_gas: u128,
    /// Reserved maximum cost, wei, without mark-up.
    pub reserved_wei: U256,
    /// Part of the reservation spent in final transactions, wei.
    pub spent_wei: U256,
    /// Price charged to its tenant, percent of its cost.
    pub price_percent: u32,
    /// Rule for sharing a transaction with other requests.
    pub company: Company,
    /// Number of simulations that it failed.
    pub simulations: u32,
    /// Number of transactions with it that failed as a whole; each one makes its next batch smaller.
    pub batch_failures: u32,
    /// Time by which it should be in a block: the promised time, or, once that was missed, a newly planned one.
    pub due: Timestamp,
    /// True once its promise was missed. It stays in the queue until [`VerifiedRequest::valid_until`].
    pub is_late: bool,
    /// Refusals, by the nodes, of transactions with it.
    pub refusals: Refusals,
}

impl QueuedRequest {
    /// Amount that its tenant's budget holds for it, wei.
    pub fn budget_wei(&self) -> U256 {
        with_price(self.reserved_wei, self.price_percent)
    }

    /// Amount that its tenant's budget counts if the final cost is `cost_wei`: the larger of cost and price, wei.
    pub fn counted_wei(&self, cost_wei: U256) -> U256 {
        price_of(cost_wei, self.price_percent, self.budget_wei()).max(cost_wei)
    }
}

/// Record of a request's transactions that every node refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Most members of a transaction with it; `None`: no limit of its own.
    pub company: Option<u32>,
    /// Number of refusals of a transaction with this request alone.
    pub alone: u32,
}

/// Limits of a transaction, and the prices that it would offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComposeLimits {
    /// Most members of a batch.
    pub max_batch: usize,
    /// Most gas, base gas included.
    pub max_gas: u64,
    /// Most bytes.
    pub max_bytes: usize,
    /// Gas of an empty transaction that may be shared ([`VehicleParams::base_gas`](crate::request::vehicle::VehicleParams::base_gas)).
    pub base_gas: u64,
    /// Expected cost of a transaction before its first member, wei: its base gas at the next block's price, and its
    /// envelope's L1 data. Each request that joins saves it. 0: company saves nothing and is not waited for.
    pub setup_wei: u128,
    /// Expected gas price in the next block, wei per gas.
    pub price_wei_per_gas: u128,
    /// Expected cost of one more byte beyond gas, wei.
    pub data_wei_per_byte: u128,
    /// Cost of waiting for company through all of a request's slack, percent of its cost alone. 0: waiting costs
    /// nothing and lasts [`Self::linger`].
    pub waiting_cost_percent: u32,
    /// Longest wait for company since acceptance, whatever the saving; never more than a quarter of a request's slack.
    pub linger: Duration,
    /// Slack below which no request waits for price or fairness. It still waits for company: a chain whose requests are
    /// all urgent would never batch otherwise.
    pub urgent: Duration,
    /// Base fee of the next block, lower bound, wei per gas.
    pub next_base_fee: u128,
    /// Highest fee that an attempt would offer, wei per gas.
    pub quote_max_fee: u128,
    /// Most transactions of the lane in flight: the capacity shared by tenants.
    pub slots: usize,
    /// Lowest price of inclusion in the next block, tip included, wei per gas.
    pub next_price: u128,
    /// Most gas limit × fee cap that nodes accept, wei; `None` if unknown.
    pub fee_cap_wei: Option<u128>,
    /// Balance of the lane less everything in flight, wei; `None` if unknown.
    pub available_wei: Option<U256>,
    /// Gas of a block, which tenants share like slots; `None` if unknown.
    pub block_gas: Option<u64>,
}

/// Room for two bumps of a tenth each that a batch leaves under the nodes' fee cap, as a factor: 121 %.
const BUMP_ROOM_PERCENT: u128 = 121;

/// Safety factor for data costs: the balance must hold this multiple of the expected cost.
const DATA_ROOM: u128 = 4;

impl ComposeLimits {
    /// Highest fee that a transaction under `ceiling` may offer, bumps included, wei per gas.
    pub(super) fn bumped_fee(&self, ceiling: u128) -> u128 {
        (self.quote_max_fee.saturating_mul(BUMP_ROOM_PERCENT) / 100).max(self.next_price).min(ceiling)
    }

    /// Size of a transaction in millionths of a slot: one slot, or, if larger, its share of the gas available to all
    /// slots together.
    fn size(&self, gas: u64) -> u64 {
        let Some(block_gas) = self.block_gas.filter(|gas| *gas > 0) else { return WHOLE };
        // Twice a block's gas: one block fills while the next is sent.
        let part = u128::from(gas) * u128::from(WHOLE) * (self.slots as u128) / (2 * u128::from(block_gas));
        u64::try_from(part).unwrap_or(u64::MAX).max(WHOLE)
    }

    /// True if `gas` at the next block's price exceeds the nodes' fee cap.
    pub fn is_too_dear(&self, gas: u64) -> bool {
        self.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(self.next_price) > cap)
    }

    /// True if the lane's balance does not cover `needed_wei`.
    fn is_short(&self, needed_wei: U256) -> bool {
        self.available_wei.is_some_and(|available| needed_wei > available)
    }

    /// Shortfall of the balance for `entry` alone; `None` if the balance covers it or the base fee exceeds its ceiling.
    fn short_of(&self, entry: &QueuedRequest) -> Option<Short> {
        let ceiling = entry.ceiling_wei_per_gas;
        let gas = self.base_gas.saturating_add(entry.gas);
        let needed_wei = self.worst_wei(gas, entry.bytes, entry.request.value(), ceiling);
        let is_short = ceiling >= self.next_base_fee && self.is_short(needed_wei);
        is_short.then(|| Short { needed_wei, until: entry.request.valid_until() })
    }

    /// True if price and balance let `entry` go in a transaction of its own.
    fn can_go_alone(&self, entry: &QueuedRequest) -> bool {
        entry.ceiling_wei_per_gas >= self.next_base_fee
            && !self.is_too_dear(self.base_gas.saturating_add(entry.gas))
            && self.short_of(entry).is_none()
    }

    /// Balance needed for a transaction, wei.
    pub(super) fn worst_wei(&self, gas: u64, bytes: usize, value: U256, ceiling: u128) -> U256 {
        let price = U256::from(self.quote_max_fee.min(ceiling));
        let data = self.data_wei_per_byte.saturating_mul(bytes as u128).saturating_mul(DATA_ROOM);
        U256::from(gas).saturating_mul(price).saturating_add(value).saturating_add(U256::from(data))
    }

    /// Expected cost of a request besides its transaction's setup, wei.
    pub(super) fn own_wei(&self, entry: &QueuedRequest) -> u128 {
        let gas = u128::from(entry.gas).saturating_mul(self.price_wei_per_gas);
        gas.saturating_add((entry.bytes as u128).saturating_mul(self.data_wei_per_byte))
    }
}

/// Reason for the time at which a batch was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The batch was full.
    Full,
    /// A member's slack ran out.
    Deadline,
    /// The price was acceptable, and waiting for more company did not pay.
    Company,
    /// The price was acceptable and the longest wait for company over.
    Linger,
}

impl Trigger {
    /// Name in logs, metrics and the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Deadline => "deadline",
            Self::Company => "company",
            Self::Linger => "linger",
        }
    }
}

/// The composer's choice. The members are taken from the queue; return them with [`Queue::put_back`].
#[derive(Debug, Clone)]
pub struct Selection {
    /// Kind of transaction that carries them.
    pub key: VehicleKey,
    /// In execution order: each signer's nonces are contiguous and ascending.
    pub members: Vec<RequestId>,
    /// Reason for sending now.
    pub trigger: Trigger,
    /// Earliest due time of a member.
    pub deadline: Timestamp,
    /// Time until which every member is valid.
    pub valid_until: Timestamp,
    /// Lowest ceiling of a member, wei per gas.
    pub ceiling_wei_per_gas: u128,
}

/// Group of a request in the queue. Requests that travel alone share one group; otherwise a hundred thousand of them
/// would be as many groups to visit.
fn group_key(request: &VerifiedRequest, has_multicall: bool) -> VehicleKey {
    match VehicleKey::of(request, has_multicall) {
        VehicleKey::Single(_) => VehicleKey::Single(RequestId(B256::ZERO)),
        shared => shared,
    }
}

/// Tenants whose calls each sender account makes: a contract that trusts the account for one tenant must not be called
/// by another.
pub type Callers = BTreeMap<Address, BTreeSet<Arc<str>>>;

/// (forwarder, user).
type Signer = (Address, Address);

/// Entry of a ready list: a signer with a run of executable nonces, or a request without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Head {
    Signer(Signer),
    Request(RequestId),
}

/// Lower bound of all heads.
const FIRST_HEAD: Head = Head::Signer((Address::ZERO, Address::ZERO));

/// Place in a line: due time, then order of acceptance.
type Rank = (Timestamp, u64, Head);

/// Heads that could be sent, in order.
#[derive(Debug, Default)]
struct Ready {
    /// Heads whose promise can still be kept.
    fresh: BTreeSet<Rank>,
    /// Heads whose promise was missed.
    late: BTreeSet<Rank>,
}

impl Ready {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.late.is_empty()
    }

    const fn of(&mut self, is_late: bool) -> &mut BTreeSet<Rank> {
        if is_late { &mut self.late } else { &mut self.fresh }
    }

    fn first(&self) -> Option<Timestamp> {
        let due = |set: &BTreeSet<Rank>| set.first().map(|(due, ..)| *due);
        due(&self.fresh).into_iter().chain(due(&self.late)).min()
    }
}

/// One tenant's heads in one group.
#[derive(Debug, Default)]
struct TenantLine {
    /// For any lane.
    free: Ready,
    /// Heads that follow a transaction in flight on a lane: for that lane only.
    bound: Table<LaneId, Ready>,
    /// Lanes that found nothing they could carry, with their findings. Cleared when a head enters that could go, or any
    /// head leaves.
    stuck: Table<LaneId, Stuck>,
}

/// True for the queue of many tenants and requests. A page has one tenant, never paused and never in debt, one lane and
/// few requests: it does not cache the findings of lanes, which makes its download smaller.
const IS_SHARED: bool = cfg!(feature = "relay");

/// Finding of a lane that could carry nothing, for lack of money or because the nodes' fee cap is too low.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    limits: ComposeLimits,
    /// Heads due until then were examined.
    until: Timestamp,
    short: Option<Short>,
}

impl Stuck {
    /// True if it could not carry `entry` either.
    fn holds(&mut self, entry: &QueuedRequest) -> bool {
        let is_held = !self.limits.can_go_alone(entry);
        if is_held && let Some(short) = self.limits.short_of(entry) {
            self.short = Some(self.short.map_or(short, |other| other.and(short)));
        }
        is_held
    }
}

impl TenantLine {
    fn is_empty(&self) -> bool {
        self.free.is_empty() && self.bound.is_empty()
    }

    /// Earliest due time of a head that `lane` could carry.
    fn first_for(&self, lane: LaneId) -> Option<Timestamp> {
        let bound = self.bound.get(&lane).and_then(Ready::first);
        self.free.first().into_iter().chain(bound).min()
    }

    fn lists(&self) -> impl Iterator<Item = &Ready> {
        std::iter::once(&self.free).chain(self.bound.values())
    }

    /// Heads that `lane` could carry and that are due after `since`, until `cutoff`.
    fn due_between(&self, lane: LaneId, since: Timestamp, cutoff: Timestamp) -> impl Iterator<Item = Head> {
        let first = |due: Timestamp| (Timestamp(due.0.saturating_add(1)), 0, FIRST_HEAD);
        let range = first(since.min(cutoff))..first(cutoff);
        let ready = std::iter::once(&self.free).chain(self.bound.get(&lane));
        ready
            .flat_map(|ready| [&ready.fresh, &ready.late])
            .flat_map(move |set| set.range(range.clone()))
            .map(|rank| rank.2)
    }
}

#[derive(Debug, Default)]
struct Group {
    /// Boxed like the queue's own tables: one instance of the table's code for both, and cheap moves.
    tenants: Table<Arc<str>, Box<TenantLine>>,
    /// End of the wait for company, as computed since the last change; `None` if not computed since.
    held_until: Option<Timestamp>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.tenants.values().all(|line| line.is_empty())
    }
}

/// Place of a head in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    key: VehicleKey,
    tenant: Arc<str>,
    due: Timestamp,
    seq: u64,
    is_late: bool,
    /// The lane to which it is bound; `None` if any.
    lane: Option<LaneId>,
    ceiling: u128,
    /// True while its ceiling is below the base fee: it is in no ready list until the base fee falls.
    is_asleep: bool,
}

/// Capacity occupied by a request in flight.
#[derive(Debug, Clone, Copy)]
struct Flying {
    lane: LaneId,
    /// Its part of its transaction's size, millionths of a slot.
    part: u64,
    /// Number of the transaction.
    number: u64,
}

/// One tenant's capacity in flight on one lane.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Total size of its transactions, millionths of a slot.
    slots: u64,
    /// Number of transactions with a request of the tenant.
    transactions: u64,
}

/// Size of one whole transaction; its members have parts of it.
const WHOLE: u64 = 1_000_000;

/// One in this many of a tenant's places goes to its oldest late request, if there is one.
const LATE_SHARE: u32 = 8;

/// Most entries that can't join a transaction and are passed over.
const MAX_PASSED: usize = 1_024;

/// Scheduling state of a tenant.
#[derive(Debug)]
struct TenantState {
    weight: u64,
    /// Service received so far, by transaction sizes, divided by the weight: the tenant with the least goes first.
    virtual_time: u64,
    /// Number of its ready heads.
    ready: usize,
    /// Places given to it since the last one for a late request.
    since_late: u32,
    /// Waiting requests whose promise can still be kept.
    fresh: DueCounts,
    /// Requests that left since the count was last taken.
    left: u64,
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
    entries: HashMap<RequestId, Box<QueuedRequest>>,
    signers: HashMap<Signer, Box<SignerState>>,
    /// Signers whose forwarder nonce was never looked up.
    unknown: Unknown,
    /// Signers with requests behind a missing nonce.
    gapped: BTreeSet<Signer>,
    groups: Table<VehicleKey, Group>,
    habits: Table<VehicleKey, Habit>,
    places: HashMap<Head, Place>,
    /// Heads whose ceiling is below the base fee, by ceiling.
    asleep: BTreeSet<(u128, Head)>,
    /// Waiting requests by end of validity.
    valid: BTreeSet<(Timestamp, RequestId)>,
    /// Requests with a due time still to be watched, by due time.
    dues: BTreeSet<(Timestamp, RequestId)>,
    flying: HashMap<RequestId, Flying>,
    held: Table<LaneId, Table<Arc<str>, Held>>,
    /// Number of members in flight by transaction and tenant.
    members: HashMap<(u64, Arc<str>), usize>,
    tenants: Table<Arc<str>, Box<TenantState>>,
    transactions: u64,
    /// Transactions restored after a restart, by number, with the gas of each member: sized once a block's gas is
    /// known.
    unsized_gas: Vec<(u64, Vec<(RequestId, u64)>)>,
    /// On-chain behaviour of targets.
    targets: TargetRecords,
    /// Paused tenants: their requests are left out.
    paused: BTreeSet<Arc<str>>,
    /// Tenants over budget: one transaction in flight at a time.
    debtors: BTreeSet<Arc<str>>,
    /// Tenants that go after all others, with the end of that time.
    last: BTreeMap<Arc<str>, Timestamp>,
    has_multicall: bool,
    callers: Option<Table<Address, BTreeSet<Arc<str>>>>,
    waiting: usize,
    short: Option<Short>,
}

/// Shortage of money found by the last composition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Smallest balance that one of the requests needs, wei.
    pub needed_wei: U256,
    /// Latest of their deadlines.
    pub until: Timestamp,
}

impl Short {
    fn and(self, other: Self) -> Self {
        Self { needed_wei: self.needed_wei.min(other.needed_wei), until: self.until.max(other.until) }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares whether Multicall3 is deployed: calls that any sender may make then share transactions. Call before the
    /// first push.
    pub const fn set_multicall(&mut self, has_multicall: bool) {
        self.has_multicall = has_multicall;
    }

    /// Binds lanes to the tenants whose calls they make; an unlisted lane makes no calls. Without a binding every lane
    /// makes the calls of all tenants. Forward requests go on any lane: their target sees the user.
    pub fn bind_calls(&mut self, callers: Callers) {
        let mut bound = Table::new();
        for (sender, tenants) in callers {
            bound.insert(sender, tenants);
        }
        self.callers = Some(bound);
    }

    /// True if `lane` may send transactions of kind `key` for `tenant`.
    fn may_send(&self, lane: LaneId, key: VehicleKey, tenant: &str) -> bool {
        match (key, &self.callers) {
            (VehicleKey::Forwarder(_), _) | (_, None) => true,
            (VehicleKey::Multicall | VehicleKey::Single(_), Some(callers)) => {
                callers.get(&lane.sender).is_some_and(|tenants| tenants.contains(tenant))
            }
        }
    }

    /// Sets a tenant's share of the capacity; the default is 1.
    pub fn set_weight(&mut self, tenant: &str, weight: u32) {
        self.tenants.get_or_insert_with(tenant.into(), Box::default).weight = u64::from(weight.max(1));
    }

    /// Restores persisted target records.
    pub fn recall_targets(&mut self, rule: RecordRule, records: Vec<TargetRecord>) {
        self.targets = TargetRecords::recalled(rule, records);
    }

    /// Evidence about targets from a transaction in a block with these requests and outcomes. Records nothing.
    pub fn showing(&self, members: &[RequestId], outcomes: &[MemberOutcome], is_success: bool) -> Showing {
        let known = |id: &RequestId| {
            let entry = self.entries.get(id)?;
            Some((entry.request.target(), entry.company))
        };
        targets::showing(&members.iter().map(known).collect::<Vec<_>>(), outcomes, is_success)
    }

    /// Records a block's transaction that is clean for these targets: each earns company.
    pub fn ran(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.ran(*target, now));
    }

    /// Takes back the effect of [`Self::ran`] for these targets after a reorg.
    pub fn unran(&mut self, targets: &[Address]) {
        targets.iter().for_each(|target| self.targets.unran(*target));
    }

    /// Finalises the effect of [`Self::ran`] for these targets.
    pub fn ran_for_good(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.settled(*target, now));
    }

    /// Records that the target surprised in a transaction of its own: an unnamed target loses its clean runs, a named
    /// one becomes suspect. Returns the end of the suspicion if it is news. Idempotent per transaction hash.
    pub fn surprised(&mut self, accused: Accused, hash: B256, now: Timestamp) -> Option<Timestamp> {
        if accused.is_named {
            return self.targets.surprised(accused.target, hash, now);
        }
        self.targets.lost(accused.target);
        None
    }

    /// Takes back [`Self::surprised`] of a named target for the transaction with this hash after a reorg.
    pub fn unsurprised(&mut self, target: Address, hash: B256) {
        self.targets.unsurprised(target, hash);
    }

    /// True if requests to `target` may share a transaction only with the same signer's, because it surprised.
    pub fn is_suspect(&self, target: Address, now: Timestamp) -> bool {
        self.targets.is_suspect(target, now)
    }

    /// Signers beyond the first with whom requests to an unnamed `target` may share a transaction.
    pub fn further_signers(&self, target: Address) -> usize {
        self.targets.further_signers(target)
    }

    /// Target records changed since the last call, to be persisted. An [empty](TargetRecord::is_empty) one is to be
    /// deleted.
    pub fn take_target_changes(&mut self) -> Vec<TargetRecord> {
        self.targets.take_changes()
    }

    /// Number of waiting requests.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Number of requests in transactions that are not settled.
    pub fn in_flight(&self) -> usize {
        self.entries.len() - self.waiting
    }

    /// The request; `None` if it is no longer in the queue.
    pub fn get(&self, id: RequestId) -> Option<&QueuedRequest> {
        self.entries.get(&id).map(|entry| &**entry)
    }

    /// The request, to count failures; `None` if it is no longer in the queue.
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut QueuedRequest> {
        self.entries.get_mut(&id).map(|entry| &mut **entry)
    }

    /// Replaces the stored request: by an [outline](VerifiedRequest::outline) while it is in a block, or by the full
    /// one again.
    pub fn replace(&mut self, request: Arc<VerifiedRequest>) {
        if let Some(entry) = self.entries.get_mut(&request.id()) {
            entry.request = request;
        }
    }

    /// Updates a request's spending after a charge or refund: `spent_wei` of its reservation, and the gas price that
    /// the rest covers.
    pub fn reprice(&mut self, id: RequestId, spent_wei: U256, ceiling_wei_per_gas: u128) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.spent_wei, entry.ceiling_wei_per_gas) = (spent_wei, ceiling_wei_per_gas);
        // It may have to enter or leave the priced-out set.
        match entry.request.sequence() {
            Some((forwarder, signer, _)) => self.place(Head::Signer((forwarder, signer))),
            None => self.place(Head::Request(id)),
        }
    }

    /// True if the request waits (is not in a transaction).
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.entries.get(&id).is_some_and(|entry| self.valid.contains(&(entry.request.valid_until(), id)))
    }

    /// Pauses these tenants, and only these: [`Self::compose`] leaves out their requests.
    pub fn set_paused<T>(&mut self, tenants: &BTreeMap<String, T>) {
        if !(self.paused.is_empty() && tenants.is_empty()) {
            self.paused = tenants.keys().map(|tenant| tenant.as_str().into()).collect();
        }
    }

    /// Marks these tenants as over budget: each has at most one transaction in flight, until the next call.
    pub fn set_debtors(&mut self, debtors: BTreeSet<Arc<str>>) {
        self.debtors = debtors;
    }

    /// Puts `tenant`, whose transaction held up a lane, last until `until`: its requests go only where no other
    /// tenant's could be sent, so that the requests held up go first.
    pub fn go_last(&mut self, tenant: Arc<str>, now: Timestamp, until: Timestamp) {
        self.last.retain(|_, until| now < *until);
        self.last.insert(tenant, until);
    }

    fn goes_last(&self, tenant: &str, now: Timestamp) -> bool {
        IS_SHARED && Protection::IgnoredGoesLast.is_on() && self.last.get(tenant).is_some_and(|until| now < *until)
    }

    /// True if `tenant` is over budget and has a transaction in flight.
    fn is_in_debt(&self, tenant: &Arc<str>) -> bool {
        self.debtors.contains(tenant) && self.held.values().any(|held| held.contains_key(tenant))
    }

    /// Adds a durable request. Idempotent.
    pub fn push(&mut self, entry: QueuedRequest) {
        let id = entry.request.id();
        if self.entries.contains_key(&id) {
            return;
        }
        let sequence = entry.request.sequence();
        self.habits
            .get_or_insert_with(group_key(&entry.request, self.has_multicall), Habit::default)
            .arrived(entry.accepted_at);
        self.entries.insert(id, Box::new(entry));
        self.enter(id, sequence);
    }

    /// Adds requests that a restart finds in one pending transaction. They occupy the lane as if composed: one slot
    /// together, or, if larger and once a block's gas is known, their share of it.
    pub fn push_in_flight(&mut self, members: Vec<impl Into<Box<QueuedRequest>>>, lane: LaneId, base_gas: u64) {
        self.transactions += 1;
        let number = self.transactions;
        let base = base_gas / (members.len() as u64).max(1);
        let mut gas_of = Vec::with_capacity(members.len());
        for entry in members {
            let entry = entry.into();
            let id = entry.request.id();
            self.fly(&entry, lane);
            self.watch_due(&entry);
            gas_of.push((id, entry.gas.saturating_add(base)));
            self.occupy(id, entry.tenant.clone(), Flying { lane, part: 0, number });
            self.entries.insert(id, entry);
        }
        if IS_SHARED {
            self.weigh(number, &gas_of, |_| WHOLE);
            self.unsized_gas.push((number, gas_of));
        }
    }

    /// Adds a request that a restart finds in a block. Its promise was kept or missed before.
    pub fn push_in_block(&mut self, entry: Box<QueuedRequest>, lane: LaneId) {
        self.fly(&entry, lane);
        self.entries.insert(entry.request.id(), entry);
    }

    /// Orders the signer's next requests behind it, on the same lane.
    fn fly(&mut self, entry: &QueuedRequest, lane: LaneId) {
        if let Some((forwarder, signer, nonce)) = entry.request.sequence() {
            let state = self.signer((forwarder, signer));
            state.fly(nonce, entry.request.id());
            state.lane = Some(lane);
        }
    }

    /// Assigns the members of one transaction in flight their parts of its size.
    fn weigh(&mut self, number: u64, gas_of: &[(RequestId, u64)], size: impl Fn(u64) -> u64) {
        let gas = gas_of.iter().fold(0_u64, |sum, (_, gas)| sum.saturating_add(*gas));
        let size = size(gas);
        for (id, own) in gas_of {
            let Some(flying) = self.flying.get_mut(id).filter(|flying| flying.number == number) else { continue };
            let part = part_of(*own, gas, size);
            let before = std::mem::replace(&mut flying.part, part);
            let held = self.held.get_mut(&flying.lane);
            if let Some(held) = held.zip(self.entries.get(id)).and_then(|(held, entry)| held.get_mut(&entry.tenant)) {
                held.slots = held.slots.saturating_sub(before).saturating_add(part);
            }
        }
    }

    /// Records a request's place on a lane.
    fn occupy(&mut self, id: RequestId, tenant: Arc<str>, flying: Flying) {
        if !IS_SHARED {
            return;
        }
        let Flying { lane, part, number } = flying;
        self.flying.insert(id, flying);
        let members = self.members.entry((number, tenant.clone())).or_default();
        *members += 1;
        let is_first = *members == 1;
        let held = self.held.get_or_insert_with(lane, Table::new).get_or_insert_with(tenant, Held::default);
        held.slots = held.slots.saturating_add(part);
        held.transactions += u64::from(is_first);
    }

    fn signer(&mut self, signer: Signer) -> &mut SignerState {
        self.signers.entry(signer).or_insert_with(|| {
            self.unknown.signers.insert(signer);
            Box::default()
        })
    }

    /// Updates the counts for a request that no longer waits.
    fn leave(&mut self, tenant: &Arc<str>, due: Timestamp, is_late: bool) {
        self.waiting -= 1;
        if !is_late && let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.fresh.take(due);
        }
    }

    /// Per tenant: number of its requests that left since the last call, and its waiting requests whose promise can be
    /// kept.
    pub fn paces(&mut self) -> impl Iterator<Item = (&Arc<str>, u64, &DueCounts)> {
        self.tenants.iter_mut().map(|(name, tenant)| (&*name, std::mem::take(&mut tenant.left), &tenant.fresh))
    }

    /// A reorg removed its block: its promise may still be missed.
    pub fn taken_back(&mut self, id: RequestId) {
        if let Some(entry) = self.entries.get(&id)
            && (!entry.is_late || entry.due < entry.request.valid_until())
        {
            self.dues.insert((entry.due, id));
        }
    }

    fn watch_due(&mut self, entry: &QueuedRequest) {
        if !entry.is_late || entry.due < entry.request.valid_until() {
            self.dues.insert((entry.due, entry.request.id()));
        }
    }

    fn enter(&mut self, id: RequestId, sequence: Option<(Address, Address, u64)>) {
        let Some(entry) = self.entries.get(&id) else { return };
        self.waiting += 1;
        let (due, is_late) = (entry.due, entry.is_late);
        self.valid.insert((entry.request.valid_until(), id));
        if !is_late {
            self.tenants.get_or_insert_with(entry.tenant.clone(), Box::default).fresh.add(due);
        }
        if !is_late || due < entry.request.valid_until() {
            self.dues.insert((due, id));
        }
        match sequence {
            Some((forwarder, signer, nonce)) => {
                self.signer((forwarder, signer)).wait(nonce, id, due, is_late);
                self.refresh((forwarder, signer));
            }
            None => self.place(Head::Request(id)),
        }
    }

    /// Proper place of a head now; `None` if it belongs nowhere.
    fn wanted(&self, head: Head) -> Option<Place> {
        let (entry, (is_late, due), lane) = match head {
            Head::Request(id) => {
                let entry = self.entries.get(&id).filter(|_| self.is_waiting(id))?;
                (entry, (entry.is_late, entry.due), None)
            }
            Head::Signer(signer) => {
                let state = self.signers.get(&signer)?;
                let entry = self.entries.get(state.waiting.get(&state.next()?)?)?;
                (entry, state.urgency()?, state.bound())
            }
        };
        Some(Place {
            key: group_key(&entry.request, self.has_multicall),
            tenant: entry.tenant.clone(),
            due,
            seq: entry.seq,
            is_late,
            lane,
            ceiling: entry.ceiling_wei_per_gas,
            is_asleep: false,
        })
    }

    /// Moves a head to its proper place after a change.
    fn place(&mut self, head: Head) {
        let mut wanted = self.wanted(head);
        let old = self.places.get(&head).cloned();
        if let (Some(wanted), Some(old)) = (&mut wanted, &old) {
            // Until the base fee falls, a new ceiling that is no higher changes nothing.
            wanted.is_asleep = old.is_asleep && wanted.ceiling <= old.ceiling;
        }
        if wanted == old {
            return;
        }
        // Add the new place first: a tenant that is empty for a moment would lose its state.
        match wanted {
            Some(place) => {
                self.stand(head, &place);
                if let Some(old) = self.places.insert(head, place.clone()) {
                    // Entries equal in both places exist once.
                    let is_same = old.is_asleep == place.is_asleep
                        && (old.is_asleep && old.ceiling == place.ceiling
                            || !old.is_asleep && list_of(&old) == list_of(&place));
                    self.unstand(head, &old, is_same);
                }
            }
            None => {
                if let Some(old) = self.places.remove(&head) {
                    self.unstand(head, &old, false);
                }
            }
        }
    }

    fn stand(&mut self, head: Head, place: &Place) {
        if place.is_asleep {
            self.asleep.insert((place.ceiling, head));
            return;
        }
        let least = self.tenants.values().filter(|tenant| tenant.ready > 0).map(|tenant| tenant.virtual_time).min();
        let tenant = self.tenants.get_or_insert_with(place.tenant.clone(), Box::default);
        if tenant.ready == 0 {
            // A returning tenant gets no credit for its absence.
            tenant.virtual_time = tenant.virtual_time.max(least.unwrap_or(0));
        }
        tenant.ready += 1;
        let entry = if IS_SHARED { head_of(&self.entries, &self.signers, head) } else { None };
        let group = self.groups.get_or_insert_with(place.key, Group::default);
        group.held_until = None;
        let line = group.tenants.get_or_insert_with(place.tenant.clone(), Box::default);
        if IS_SHARED {
            line.stuck.retain_mut(|(lane, stuck)| {
                place.due > stuck.until
                    || place.lane.is_some_and(|other| other != *lane)
                    || entry.is_some_and(|entry| stuck.holds(entry))
            });
        }
        let ready = match place.lane {
            None => &mut line.free,
            Some(lane) => line.bound.get_or_insert_with(lane, Ready::default),
        };
        ready.of(place.is_late).insert((place.due, place.seq, head));
    }

    /// `is_same`: the head already stands there again and is counted twice.
    fn unstand(&mut self, head: Head, place: &Place, is_same: bool) {
        if place.is_asleep {
            if !is_same {
                self.asleep.remove(&(place.ceiling, head));
            }
            return;
        }
        if let Some(tenant) = self.tenants.get_mut(&place.tenant) {
            tenant.ready = tenant.ready.saturating_sub(1);
        }
        let Some(group) = self.groups.get_mut(&place.key) else { return };
        group.held_until = None;
        if is_same {
            return;
        }
        if let Some(line) = group.tenants.get_mut(&place.tenant) {
            line.stuck = Table::new();
            let rank = (place.due, place.seq, head);
            match place.lane {
                None => {
                    line.free.of(place.is_late).remove(&rank);
                }
                Some(lane) => {
                    if let Some(ready) = line.bound.get_mut(&lane) {
                        ready.of(place.is_late).remove(&rank);
                        if ready.is_empty() {
                            line.bound.remove(&lane);
                        }
                    }
                }
            }
            if line.is_empty() {
                group.tenants.remove(&place.tenant);
            }
        }
        if group.is_empty() {
            self.groups.remove(&place.key);
        }
    }

    /// Sets aside heads whose ceiling is below the base fee; brings back those that can pay it again.
    fn sort_out(&mut self, next_base_fee: u128, priced_out: Vec<Head>) {
        for head in priced_out {
            if let Some(place) = self.places.get_mut(&head).filter(|place| !place.is_asleep) {
                let old = place.clone();
                place.is_asleep = true;
                let ceiling = place.ceiling;
                self.asleep.insert((ceiling, head));
                self.unstand(head, &old, false);
            }
        }
        while let Some(&(ceiling, head)) = self.asleep.last().filter(|(ceiling, _)| *ceiling >= next_base_fee) {
            self.asleep.remove(&(ceiling, head));
            if let Some(place) = self.places.get_mut(&head) {
                place.is_asleep = false;
                let place = place.clone();
                self.stand(head, &place);
            }
        }
    }

    /// Updates a signer's sets and place after a change.
    fn refresh(&mut self, signer: Signer) {
        let Some(state) = self.signers.get(&signer) else { return };
        let (is_empty, is_gapped, is_unknown) = (state.is_empty(), state.is_gapped(), state.chain_next().is_none());
        if is_empty {
            self.signers.remove(&signer);
        }
        let keep = |set: &mut BTreeSet<Signer>, keep: bool| {
            if keep {
                set.insert(signer)
            } else {
                set.remove(&signer)
            };
        };
        keep(&mut self.gapped, is_gapped && !is_empty);
        keep(&mut self.unknown.signers, is_unknown && !is_empty);
        self.place(Head::Signer(signer));
    }

    /// Removes a request that has ended, waiting or in flight.
    ///
    /// `consumed`: its nonce at the forwarder is used up, so the signer continues with the next.
    pub fn remove(&mut self, id: RequestId, consumed: bool) -> Option<QueuedRequest> {
        let entry = self.entries.remove(&id)?;
        if self.valid.remove(&(entry.request.valid_until(), id)) {
            self.leave(&entry.tenant, entry.due, entry.is_late);
        }
        self.dues.remove(&(entry.due, id));
        self.vacate(id, &entry.tenant);
        match entry.request.sequence() {
            Some((forwarder, signer, nonce)) => {
                if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                    state.leave(nonce, id, entry.due, entry.is_late);
                    if consumed {
                        let after = nonce.saturating_add(1);
                        state.set_chain(state.chain_next().unwrap_or(0).max(after));
                        state.consumed = state.consumed.max(after);
                    }
                    state.land(nonce, id);
                    self.refresh((forwarder, signer));
                }
            }
            None => self.place(Head::Request(id)),
        }
        Some(*entry)
    }

    /// The request is in a block: its promise was kept or missed before, and its transaction's place on the lane is
    /// free.
    pub fn landed(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (due, tenant) = (entry.due, entry.tenant.clone());
        self.dues.remove(&(due, id));
        self.vacate(id, &tenant);
    }

    /// Its transaction is in a block but did not execute it: the place on the lane is free, its promise is still open.
    pub fn passed_over(&mut self, id: RequestId) {
        if let Some(tenant) = self.entries.get(&id).map(|entry| entry.tenant.clone()) {
            self.vacate(id, &tenant);
        }
    }

    /// Releases a request's place on its lane.
    fn vacate(&mut self, id: RequestId, tenant: &Arc<str>) {
        if !IS_SHARED {
            return;
        }
        let Some(Flying { lane, part, number }) = self.flying.remove(&id) else { return };
        let key = (number, tenant.clone());
        let is_last = self.members.get_mut(&key).is_none_or(|members| {
            *members = members.saturating_sub(1);
            *members == 0
        });
        if is_last {
            self.members.remove(&key);
        }
        if let Some(tenants) = self.held.get_mut(&lane) {
            if let Some(held) = tenants.get_mut(tenant) {
                held.slots = held.slots.saturating_sub(part);
                if is_last {
                    held.transactions = held.transactions.saturating_sub(1);
                    if held.transactions == 0 {
                        tenants.remove(tenant);
                    }
                }
            }
            if tenants.is_empty() {
                self.held.remove(&lane);
            }
        }
        // Tenants that gave way to others may go now.
        self.groups.values_mut().for_each(|group| group.held_until = None);
    }

    /// Returns a member of a transaction that was not sent to the waiting requests.
    pub fn put_back(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        if self.valid.contains(&(entry.request.valid_until(), id)) {
            return;
        }
        let (sequence, tenant) = (entry.request.sequence(), entry.tenant.clone());
        self.vacate(id, &tenant);
        // Enter it before it leaves the requests in flight: so the end of its signer's run stays known.
        self.enter(id, sequence);
        if let Some((forwarder, signer, nonce)) = sequence
            && let Some(state) = self.signers.get_mut(&(forwarder, signer))
        {
            state.land(nonce, id);
            self.refresh((forwarder, signer));
        }
    }

    /// Takes a waiting request out of the queue's order, until it is [put back](Self::put_back) or
    /// [removed](Self::remove).
    pub fn set_aside(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (due, is_late, tenant) = (entry.due, entry.is_late, entry.tenant.clone());
        let sequence = entry.request.sequence();
        if !self.valid.remove(&(entry.request.valid_until(), id)) {
            return;
        }
        self.leave(&tenant, due, is_late);
        match sequence {
            Some((forwarder, signer, nonce)) => {
                if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                    // In this order the end of its signer's run stays known.
                    state.fly(nonce, id);
                    state.leave(nonce, id, due, is_late);
                }
                self.refresh((forwarder, signer));
            }
            None => self.place(Head::Request(id)),
        }
    }

    /// Waiting requests that are no longer valid.
    pub fn expired(&self, now: Timestamp) -> Vec<RequestId> {
        self.valid.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// Plans a new due time, `within` from now, for every overdue request that is still valid, waiting or in flight.
    /// Returns the requests whose promise is thereby missed, each once; also those in flight that are no longer valid:
    /// they may execute until their transaction's nonce is final. (Waiting ones [expire](Self::expired).)
    pub fn overdue(&mut self, now: Timestamp, within: Duration) -> Vec<RequestId> {
        let mut missed = Vec::new();
        while let Some(&(due, id)) = self.dues.first().filter(|(due, _)| *due <= now) {
            self.dues.remove(&(due, id));
            let is_waiting = self.is_waiting(id);
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let before = (entry.due, entry.is_late);
            if entry.request.valid_until() <= now {
                if !is_waiting && !entry.is_late {
                    entry.is_late = true;
                    missed.push(id);
                }
                continue;
            }
            if !entry.is_late {
                missed.push(id);
            }
            // Always later than now, so that the loop ends.
            let next = now.saturating_add(within.max(Duration::from_millis(1)));
            entry.due = next.min(entry.request.valid_until());
            entry.is_late = true;
            let (after, sequence) = ((entry.due, true), entry.request.sequence());
            if is_waiting
                && !before.1
                && let Some(tenant) = self.tenants.get_mut(&entry.tenant)
            {
                tenant.fresh.take(before.0);
            }
            if entry.due < entry.request.valid_until() {
                self.dues.insert((entry.due, id));
            }
            if !is_waiting {
                continue;
            }
            match sequence {
                Some((forwarder, signer, nonce)) => {
                    if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                        state.postpone(nonce, before, after);
                    }
                    self.refresh((forwarder, signer));
                }
                None => self.place(Head::Request(id)),
            }
        }
        missed
    }

    /// Time of the next useful call of [`Self::compose`] if the last one chose nothing and nothing else happens: an
    /// earlier call would choose nothing either. Always later than `now`.
    pub fn next_due(&self, now: Timestamp, limits: &ComposeLimits, outlook: &impl FeeOutlook) -> Option<Timestamp> {
        let window = outlook.send_within().max(limits.urgent);
        let later = |than: Timestamp| Timestamp(than.0.saturating_add(1));
        let cutoff = now.saturating_add(window);
        let held = self.groups.values().filter_map(|group| {
            let first = group.tenants.values().flat_map(|line| line.lists()).filter_map(Ready::first).min()?;
            // After a change a member may be due at once.
            (first <= cutoff).then(|| group.held_until.unwrap_or_else(|| later(now)))
        });
        // Earliest time at which another head's slack enters the window for sending.
        let eligible = self
            .groups
            .values()
            .flat_map(|group| group.tenants.values())
            .flat_map(|line| line.lists())
            .flat_map(|ready| [&ready.fresh, &ready.late])
            .filter_map(|set| set.range((later(cutoff), 0, FIRST_HEAD)..).next())
            .map(|(due, ..)| due.saturating_sub(window))
            .min();
        held.min().into_iter().chain(eligible).filter(|due| *due > now).min()
    }

    /// Chooses the batch that `lane` should send at `now`, if any, and takes its members from the waiting requests.
    ///
    /// A request is eligible when its slack is within [`FeeOutlook::send_within`] or `limits.urgent`. A batch of
    /// eligible requests goes when it is full, when no further company is worth its members' wait (see the module's
    /// documentation for the rule), or when a member has waited for company as long as it may. Other requests join it
    /// if their saving makes now the better moment for them too ([`FeeOutlook::send_within_saving`]). For the order see
    /// the invariants of [`Queue`].
    pub fn compose(
        &mut self,
        now: Timestamp,
        lane: LaneId,
        limits: &ComposeLimits,
        outlook: &impl FeeOutlook,
    ) -> Option<Selection> {
        self.short = None;
        // End of each group's wait, as computed by any lane or tenant: setting heads aside must not lose it.
        let mut waits: Table<VehicleKey, Timestamp> = Table::new();
        for (key, group) in self.groups.iter() {
            if let Some(held) = group.held_until.filter(|held| *held > now) {
                waits.insert(*key, held);
            }
        }
        self.sort_out(limits.next_base_fee, Vec::new());
        if IS_SHARED && limits.block_gas.is_some() {
            for (number, gas_of) in std::mem::take(&mut self.unsized_gas) {
                self.weigh(number, &gas_of, |gas| limits.size(gas));
            }
        }
        let cutoff = now.saturating_add(outlook.send_within().max(limits.urgent));
        let full = if IS_SHARED { self.full(now, lane, limits, cutoff) } else { Table::new() };
        // The least-served tenant comes first, then the most urgent line. A tenant that waits for company blocks none.
        let mut lines: Vec<(bool, u64, Timestamp, VehicleKey, Arc<str>)> = Vec::new();
        let mut barred = Vec::new();
        for (key, group) in self.groups.iter() {
            let may_go = |tenant: &Arc<str>| {
                !IS_SHARED || !full.contains_key(tenant) && !self.paused.contains(tenant) && !self.is_in_debt(tenant)
            };
            for (tenant, line) in group.tenants.iter().filter(|(tenant, _)| may_go(tenant)) {
                if !self.may_send(lane, *key, tenant) {
                    barred.push(*key);
                    continue;
                }
                if let Some(due) = line.first_for(lane).filter(|due| *due <= cutoff) {
                    let served = self.tenants.get(tenant).filter(|_| Protection::TenantShares.is_on());
                    let time = served.map_or(0, |tenant| tenant.virtual_time);
                    lines.push((self.goes_last(tenant, now), time, due, *key, tenant.clone()));
                }
            }
        }
        lines.sort_unstable();
        for (_, _, _, key, tenant) in lines {
            let Some(line) = self.groups.get(&key).and_then(|group| group.tenants.get(&tenant)) else { continue };
            let limits = &limits.of_vehicle(key);
            if IS_SHARED && let Some(stuck) = self.still_stuck(line, lane, limits, cutoff) {
                self.note_short(stuck.short);
                self.hold(&mut waits, key, Timestamp(u64::MAX));
                self.set_stuck(key, &tenant, lane, stuck);
                continue;
            }
            let mut picker = Picker::new(self, key, line, lane, limits, now, &tenant);
            picker.fill(cutoff);
            let decided = self.trigger(now, key, &picker.room, limits);
            if decided.is_ok() {
                picker.join(now, outlook, self.habits.get(&key));
            }
            let has_passed = picker.has_passed();
            let (members, priced_out, short) = (picker.room.members, picker.priced_out, picker.room.short);
            self.sort_out(limits.next_base_fee, priced_out);
            let trigger = match decided {
                Ok(trigger) => trigger,
                Err(until) => {
                    if members.is_empty() {
                        self.note_short(short);
                        if IS_SHARED && has_passed {
                            self.set_stuck(key, &tenant, lane, Stuck { limits: *limits, until: cutoff, short });
                        }
                    }
                    self.hold(&mut waits, key, until);
                    continue;
                }
            };
            let Some(first) = members.first().and_then(|id| self.entries.get(id)) else { continue };
            let vehicle = VehicleKey::of(&first.request, self.has_multicall);
            let (mut deadline, mut valid_until, mut ceiling) = (Timestamp(u64::MAX), Timestamp(u64::MAX), u128::MAX);
            for entry in members.iter().filter_map(|id| self.entries.get(id)) {
                deadline = deadline.min(entry.due);
                valid_until = valid_until.min(entry.request.valid_until());
                ceiling = ceiling.min(entry.ceiling_wei_per_gas);
            }
            self.take(key, lane, &members, limits);
            return Some(Selection {
                key: vehicle,
                members,
                trigger,
                deadline,
                valid_until,
                ceiling_wei_per_gas: ceiling,
            });
        }
        // Requests for another lane wait for that lane, not for the clock.
        for key in barred {
            if let Some(group) = self.groups.get_mut(&key) {
                group.held_until.get_or_insert(Timestamp(u64::MAX));
            }
        }
        None
    }

    /// Cached finding of `lane` for this line, if it still holds.
    fn still_stuck(&self, line: &TenantLine, lane: LaneId, limits: &ComposeLimits, cutoff: Timestamp) -> Option<Stuck> {
        let mut stuck = *line.stuck.get(&lane).filter(|stuck| stuck.limits == *limits && stuck.until <= cutoff)?;
        let mut since = line.due_between(lane, stuck.until, cutoff).filter_map(|head| self.head(head));
        since.all(|entry| stuck.holds(entry)).then_some(Stuck { until: cutoff, ..stuck })
    }

    fn set_stuck(&mut self, key: VehicleKey, tenant: &Arc<str>, lane: LaneId, stuck: Stuck) {
        if let Some(line) = self.groups.get_mut(&key).and_then(|group| group.tenants.get_mut(tenant)) {
            line.stuck.insert(lane, stuck);
        }
    }

    /// Records that nothing of this group goes before `until`, or before an earlier end of another tenant's or lane's
    /// wait.
    fn hold(&mut self, waits: &mut Table<VehicleKey, Timestamp>, key: VehicleKey, until: Timestamp) {
        let wait = waits.get_or_insert_with(key, || until);
        *wait = until.min(*wait);
        if let Some(group) = self.groups.get_mut(&key) {
            group.held_until = Some(*wait);
        }
    }

    /// Tenants that hold their share of the lane's transactions, while others below their share could be sent.
    fn full(&self, now: Timestamp, lane: LaneId, limits: &ComposeLimits, cutoff: Timestamp) -> Table<Arc<str>, ()> {
        let Some(held) = self.held.get(&lane).filter(|_| Protection::TenantShares.is_on()) else {
            return Table::new();
        };
        let gives_way =
            |tenant: &Arc<str>| self.paused.contains(tenant) || self.is_in_debt(tenant) || self.goes_last(tenant, now);
        let mut able: Table<Arc<str>, ()> = Table::new();
        for (key, group) in self.groups.iter() {
            let ready = group.tenants.iter().filter(|(tenant, line)| {
                self.may_send(lane, *key, tenant)
                    && !gives_way(tenant)
                    && line.first_for(lane).is_some_and(|due| due <= cutoff)
                    && !(IS_SHARED && self.still_stuck(line, lane, &limits.of_vehicle(*key), cutoff).is_some())
            });
            for (tenant, _) in ready {
                able.insert(tenant.clone(), ());
            }
        }
        let weight = |tenant: &Arc<str>| self.tenants.get(tenant).map_or(1, |tenant| tenant.weight);
        let competing = able.keys().chain(held.keys().filter(|tenant| !able.contains_key(*tenant)));
        let weights = competing.map(weight).fold(0_u64, u64::saturating_add).max(1);
        let whole = (limits.slots as u64).saturating_mul(WHOLE);
        let has_its_share = |tenant: &Arc<str>| {
            let Some(held) = held.get(tenant) else { return false };
            let share = u128::from(whole) * u128::from(weight(tenant)) / u128::from(weights);
            let share = u64::try_from(share).unwrap_or(u64::MAX).max(WHOLE);
            // Its average transaction, added once more.
            held.slots.saturating_add(held.slots / held.transactions.max(1)) > share
        };
        let competitors = able.len();
        able.retain(|(tenant, ())| has_its_share(tenant));
        if able.len() == competitors { Table::new() } else { able }
    }

    fn note_short(&mut self, found: Option<Short>) {
        self.short = match (self.short, found) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }

    /// Shortage of money found by the last [`Self::compose`] that chose nothing.
    pub const fn short(&self) -> Option<Short> {
        self.short
    }

    /// Reason for sending these members now, or the end of their wait for company.
    fn trigger(
        &self,
        now: Timestamp,
        key: VehicleKey,
        room: &Room,
        limits: &ComposeLimits,
    ) -> Result<Trigger, Timestamp> {
        if room.members.is_empty() {
            return Err(Timestamp(u64::MAX));
        }
        if room.is_full {
            return Ok(Trigger::Full);
        }
        let mut patience = Patience::default();
        let mut deadline = Timestamp(u64::MAX);
        for entry in room.members.iter().filter_map(|id| self.entries.get(id)) {
            deadline = deadline.min(entry.due);
            patience.add(limits, now, entry);
        }
        let none = Habit::default();
        let until = patience.until(limits, now, self.habits.get(&key).unwrap_or(&none));
        if until > now {
            return Err(until);
        }
        let is_urgent = deadline <= now.saturating_add(limits.urgent);
        Ok(match patience.latest() {
            _ if is_urgent => Trigger::Deadline,
            Some(latest) if latest <= now => Trigger::Linger,
            _ => Trigger::Company,
        })
    }

    /// The first request of a head.
    fn head(&self, head: Head) -> Option<&QueuedRequest> {
        head_of(&self.entries, &self.signers, head)
    }

    fn take(&mut self, key: VehicleKey, lane: LaneId, members: &[RequestId], limits: &ComposeLimits) {
        self.transactions += 1;
        let number = self.transactions;
        // Base gas included: each member has an equal part of it.
        let base = limits.base_gas / (members.len() as u64).max(1);
        let gas_of = |entry: &QueuedRequest| entry.gas.saturating_add(base);
        let gas = members.iter().filter_map(|id| self.get(*id)).map(gas_of).fold(0, u64::saturating_add);
        let size = limits.size(gas);
        let mut touched = BTreeSet::new();
        for id in members {
            let Some(entry) = self.entries.get(id) else { continue };
            let (due, is_late, tenant) = (entry.due, entry.is_late, entry.tenant.clone());
            let (sequence, valid_until) = (entry.request.sequence(), entry.request.valid_until());
            let part = part_of(gas_of(entry), gas, size);
            if self.valid.remove(&(valid_until, *id)) {
                self.leave(&tenant, due, is_late);
            }
            let state = self.tenants.get_or_insert_with(tenant.clone(), Box::default);
            state.left += 1;
            state.virtual_time = state.virtual_time.saturating_add(part / state.weight.max(1));
            state.since_late = if is_late { 0 } else { state.since_late.saturating_add(1) };
            self.occupy(*id, tenant, Flying { lane, part, number });
            match sequence {
                Some((forwarder, signer, nonce)) => {
                    if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                        // In this order the end of its signer's run stays known.
                        state.fly(nonce, *id);
                        state.leave(nonce, *id, due, is_late);
                        state.lane = Some(lane);
                    }
                    touched.insert((forwarder, signer));
                }
                None => self.place(Head::Request(*id)),
            }
        }
        for signer in touched {
            self.refresh(signer);
        }
        self.habits.get_or_insert_with(key, Habit::default).left(members.len());
    }
}

/// Part of a transaction's size for a member with gas `own`.
fn part_of(own: u64, gas: u64, size: u64) -> u64 {
    u64::try_from(u128::from(own) * u128::from(size) / u128::from(gas.max(1))).unwrap_or(u64::MAX)
}

/// The list of a head, and its place there.
const fn list_of(place: &Place) -> (&VehicleKey, &Arc<str>, Option<LaneId>, bool, Timestamp, u64) {
    (&place.key, &place.tenant, place.lane, place.is_late, place.due, place.seq)
}

fn head_of<'a>(
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A million requests in blocks fit into a gigabyte: each is stored in these types, rounded up to the allocator's
    /// size classes.
    #[test]
    fn what_is_remembered_of_a_request_is_small() {
        assert!(size_of::<VerifiedRequest>() + 2 * size_of::<usize>() <= 384, "{}", size_of::<VerifiedRequest>());
        assert!(size_of::<QueuedRequest>() <= 192, "{}", size_of::<QueuedRequest>());
    }
}
