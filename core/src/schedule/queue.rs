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

/// A request on its way, with what the composer needs to know of it.
#[derive(Debug, Clone)]
pub struct QueuedRequest {
    /// The request.
    pub request: Arc<VerifiedRequest>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Order of acceptance.
    pub seq: u64,
    /// When it was accepted: how long it has waited, and how much slack it had.
    pub accepted_at: Timestamp,
    /// Gas it adds to a transaction, at most.
    pub gas: u64,
    /// Bytes it adds to a transaction.
    pub bytes: usize,
    /// Highest price of gas that its reservation covers. It falls with what was spent on transactions that did not end it.
    pub ceiling_wei_per_gas: u128,
    /// The same before anything was spent.
    pub first_ceiling_wei_per_gas: u128,
    /// What it may cost, wei: what was reserved for it, without a mark-up.
    pub reserved_wei: U256,
    /// What of that went into final transactions, wei.
    pub spent_wei: U256,
    /// What its tenant is charged, percent of its cost.
    pub price_percent: u32,
    /// With whom it may share a transaction.
    pub company: Company,
    /// Simulations that it failed.
    pub simulations: u32,
    /// Transactions with it that failed as a whole: it travels in ever smaller company.
    pub batch_failures: u32,
    /// When it should be in a block: promised by, or, since that was missed, planned anew.
    pub due: Timestamp,
    /// Its promise was missed. It goes on until [`VerifiedRequest::valid_until`].
    pub is_late: bool,
    /// What nodes said of transactions with it.
    pub refusals: Refusals,
}

impl QueuedRequest {
    /// What its tenant's budget holds for it, wei.
    pub fn budget_wei(&self) -> U256 {
        with_price(self.reserved_wei, self.price_percent)
    }

    /// What its tenant's budget counts if it costs `cost_wei` in the end: the larger of cost and price, wei.
    pub fn counted_wei(&self, cost_wei: U256) -> U256 {
        price_of(cost_wei, self.price_percent, self.budget_wei()).max(cost_wei)
    }
}

/// What came of transactions with a request that every node refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Most members of a transaction with it; `None`: as many as fit.
    pub company: Option<u32>,
    /// Times that it was refused while it had a transaction for itself.
    pub alone: u32,
}

/// What a transaction may hold, and what it would offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComposeLimits {
    /// Most members.
    pub max_batch: usize,
    /// Most gas, base included.
    pub max_gas: u64,
    /// Most bytes.
    pub max_bytes: usize,
    /// Gas of an empty transaction that may be shared ([`VehicleParams::base_gas`](crate::request::vehicle::VehicleParams::base_gas)).
    pub base_gas: u64,
    /// What a transaction is expected to cost before its first member, wei: its gas at the price of the next block, and its
    /// envelope's L1 data. Who joins saves that. 0: company saves nothing and is not waited for.
    pub setup_wei: u128,
    /// What gas is expected to cost in the next block, wei per gas.
    pub price_wei_per_gas: u128,
    /// What one more byte is expected to cost beyond gas, wei.
    pub data_wei_per_byte: u128,
    /// What it costs to wait for company through all of a request's slack, percent of what it would cost alone. 0: waiting
    /// costs nothing and lasts [`Self::linger`].
    pub waiting_cost_percent: u32,
    /// Longest wait for company since acceptance, however much it would save; never more than a quarter of a request's slack.
    pub linger: Duration,
    /// Slack below which nothing waits for price or fairness. Company is still waited for: a chain whose requests are all
    /// urgent would never batch without it.
    pub urgent: Duration,
    /// What the next block charges at least, wei per gas.
    pub next_base_fee: u128,
    /// What an attempt would offer at most, wei per gas.
    pub quote_max_fee: u128,
    /// Transactions that the lane may have in flight: what tenants share.
    pub slots: usize,
    /// What inclusion in the next block costs at the least, tip included, wei per gas.
    pub next_price: u128,
    /// Nodes refuse a transaction whose gas limit × fee cap is above this, wei; `None` if nothing is known.
    pub fee_cap_wei: Option<u128>,
    /// What the lane has beside everything in flight, wei; `None` if it is not known.
    pub available_wei: Option<U256>,
    /// Gas of a block, which tenants share like slots; `None` if it is not known.
    pub block_gas: Option<u64>,
}

/// Bumps of a tenth each for which a batch leaves room under the nodes' fee cap, as a factor: 121 %.
const BUMP_ROOM_PERCENT: u128 = 121;

/// Data that is not cheaper than expected: the balance must hold this many times its expected cost.
const DATA_ROOM: u128 = 4;

impl ComposeLimits {
    /// Most that a transaction under `ceiling` may offer, bumps included, wei per gas.
    pub(super) fn bumped_fee(&self, ceiling: u128) -> u128 {
        (self.quote_max_fee.saturating_mul(BUMP_ROOM_PERCENT) / 100).max(self.next_price).min(ceiling)
    }

    /// What a transaction takes of what tenants share, in millionths of one: a slot, or its part of the gas that is beside all
    /// slots if that is more.
    fn size(&self, gas: u64) -> u64 {
        let Some(block_gas) = self.block_gas.filter(|gas| *gas > 0) else { return WHOLE };
        // Twice a block's: one block fills while the next is sent.
        let part = u128::from(gas) * u128::from(WHOLE) * (self.slots as u128) / (2 * u128::from(block_gas));
        u64::try_from(part).unwrap_or(u64::MAX).max(WHOLE)
    }

    /// Whether `gas` can't be offered what the next block costs under the nodes' fee cap.
    pub fn is_too_dear(&self, gas: u64) -> bool {
        self.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(self.next_price) > cap)
    }

    /// Whether the lane's balance does not cover a transaction that needs so much, wei.
    fn is_short(&self, needed_wei: U256) -> bool {
        self.available_wei.is_some_and(|available| needed_wei > available)
    }

    /// What of the balance `entry` lacks by itself, if that is all.
    fn short_of(&self, entry: &QueuedRequest) -> Option<Short> {
        let ceiling = entry.ceiling_wei_per_gas;
        let gas = self.base_gas.saturating_add(entry.gas);
        let needed_wei = self.worst_wei(gas, entry.bytes, entry.request.value(), ceiling);
        let is_short = ceiling >= self.next_base_fee && self.is_short(needed_wei);
        is_short.then(|| Short { needed_wei, until: entry.request.valid_until() })
    }

    /// Whether price and balance let `entry` go in a transaction of its own.
    fn can_go_alone(&self, entry: &QueuedRequest) -> bool {
        entry.ceiling_wei_per_gas >= self.next_base_fee
            && !self.is_too_dear(self.base_gas.saturating_add(entry.gas))
            && self.short_of(entry).is_none()
    }

    /// What the balance must hold for a transaction, wei.
    pub(super) fn worst_wei(&self, gas: u64, bytes: usize, value: U256, ceiling: u128) -> U256 {
        let price = U256::from(self.quote_max_fee.min(ceiling));
        let data = self.data_wei_per_byte.saturating_mul(bytes as u128).saturating_mul(DATA_ROOM);
        U256::from(gas).saturating_mul(price).saturating_add(value).saturating_add(U256::from(data))
    }

    /// What a request is expected to cost besides its transaction's setup, wei.
    pub(super) fn own_wei(&self, entry: &QueuedRequest) -> u128 {
        let gas = u128::from(entry.gas).saturating_mul(self.price_wei_per_gas);
        gas.saturating_add((entry.bytes as u128).saturating_mul(self.data_wei_per_byte))
    }
}

/// Why a batch was sent when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// No more fits.
    Full,
    /// A member's slack ran out.
    Deadline,
    /// The price was right, and no further company was worth the wait.
    Company,
    /// The price was right and the longest wait for company over.
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

/// What the composer chose. The members are taken from the queue; give them back with [`Queue::put_back`].
#[derive(Debug, Clone)]
pub struct Selection {
    /// How they travel.
    pub key: VehicleKey,
    /// In execution order: each signer's nonces are contiguous and ascending.
    pub members: Vec<RequestId>,
    /// Why now.
    pub trigger: Trigger,
    /// When the first of them is due.
    pub deadline: Timestamp,
    /// Until when all of them are valid.
    pub valid_until: Timestamp,
    /// Lowest ceiling.
    pub ceiling_wei_per_gas: u128,
}

/// Where a request stands in line. Requests that travel alone share one line, or a hundred thousand of them would be as
/// many groups to look at.
fn group_key(request: &VerifiedRequest, has_multicall: bool) -> VehicleKey {
    match VehicleKey::of(request, has_multicall) {
        VehicleKey::Single(_) => VehicleKey::Single(RequestId(B256::ZERO)),
        shared => shared,
    }
}

/// Whose calls each sender account makes: a contract that trusts the account for one tenant must not be called by another.
pub type Callers = BTreeMap<Address, BTreeSet<Arc<str>>>;

/// (forwarder, user).
type Signer = (Address, Address);

/// What stands in a ready list: a signer with a run of executable nonces, or a request without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Head {
    Signer(Signer),
    Request(RequestId),
}

/// Before every other one.
const FIRST_HEAD: Head = Head::Signer((Address::ZERO, Address::ZERO));

/// Place in a line: when it is due, then order of acceptance.
type Rank = (Timestamp, u64, Head);

/// Who could be sent, in order.
#[derive(Debug, Default)]
struct Ready {
    /// Whose promise can still be kept.
    fresh: BTreeSet<Rank>,
    /// Whose promise was missed.
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

/// What one tenant has in one line.
#[derive(Debug, Default)]
struct TenantLine {
    /// For any lane.
    free: Ready,
    /// Behind what a lane carries: for that lane only.
    bound: Table<LaneId, Ready>,
    /// Lanes that could carry nobody when they last looked, until somebody who could go comes, or anybody leaves.
    stuck: Table<LaneId, Stuck>,
}

/// Whether this is the queue of many tenants and requests. A page has one tenant, whom nobody pauses and who owes nothing, one
/// lane and few requests: it remembers nothing of what lanes found, and downloads less.
const IS_SHARED: bool = cfg!(feature = "relay");

/// What a lane found that could carry nobody, for lack of money or since the nodes' fee cap is too low.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    limits: ComposeLimits,
    /// Those that are due until then were looked at.
    until: Timestamp,
    short: Option<Short>,
}

impl Stuck {
    /// Whether it could not carry `entry` either.
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

    /// When the first that `lane` could carry is due.
    fn first_for(&self, lane: LaneId) -> Option<Timestamp> {
        let bound = self.bound.get(&lane).and_then(Ready::first);
        self.free.first().into_iter().chain(bound).min()
    }

    fn lists(&self) -> impl Iterator<Item = &Ready> {
        std::iter::once(&self.free).chain(self.bound.values())
    }

    /// Those that `lane` could carry and that are due after `since`, until `cutoff`.
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
    /// Boxed, as the queue's own: one table's code for both, and little to move.
    tenants: Table<Arc<str>, Box<TenantLine>>,
    /// Until when company is waited for, as far as it was looked at since the last change.
    held_until: Option<Timestamp>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.tenants.values().all(|line| line.is_empty())
    }
}

/// Where a head stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    key: VehicleKey,
    tenant: Arc<str>,
    due: Timestamp,
    seq: u64,
    is_late: bool,
    /// The lane that it is bound to.
    lane: Option<LaneId>,
    ceiling: u128,
    /// Its ceiling is below the base fee: it stands aside until that falls.
    is_asleep: bool,
}

/// What a request in flight occupies.
#[derive(Debug, Clone, Copy)]
struct Flying {
    lane: LaneId,
    /// Its part of its transaction's size, millionths.
    part: u64,
    /// The transaction, by number.
    number: u64,
}

/// What one tenant has in flight on one lane.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Sizes of its transactions, millionths.
    slots: u64,
    /// Transactions that carry something of it.
    transactions: u64,
}

/// One transaction, in millionths of which its members have parts.
const WHOLE: u64 = 1_000_000;

/// Of so many of a tenant's places one goes to its oldest late request, if there is one.
const LATE_SHARE: u32 = 8;

/// Entries that can't join a transaction are passed over, but not more of them than this.
const MAX_PASSED: usize = 1_024;

/// A tenant among the others.
#[derive(Debug)]
struct TenantState {
    weight: u64,
    /// What it was served, by the sizes of transactions and divided by its weight: who has the least goes first.
    virtual_time: u64,
    /// Heads of it that are ready.
    ready: usize,
    /// Places that it got since the last one of a late request.
    since_late: u32,
    /// Waiting ones whose promise can be kept.
    fresh: DueCounts,
    /// Those that left since that was last asked.
    left: u64,
}

impl Default for TenantState {
    fn default() -> Self {
        Self { weight: 1, virtual_time: 0, ready: 0, since_late: 0, fresh: DueCounts::default(), left: 0 }
    }
}

/// Everything accepted that is not settled.
///
/// **Invariant:** a signer's requests leave in nonce order, and while some are in flight their successors only follow on
/// the same lane.
///
/// **Invariant I14:** tenants are served by weight, whatever their deadlines, counted in transactions or in a block's gas, whichever
/// is more. While others could be sent, a tenant holds at most its share of a lane's transactions, but always one. Within a tenant
/// those whose promise can still be kept go first, by when they are due; one place in eight, and all that is left, goes to those
/// that are late, the oldest first. One signer fills a transaction only with what the others leave.
///
/// Work is proportional to what changed: who can't be sent, since it is bound to another lane or its ceiling is below the base fee,
/// is not in the lists that a composition walks.
#[derive(Debug, Default)]
pub struct Queue {
    /// Boxed: a map of what is large holds twice as much.
    entries: HashMap<RequestId, Box<QueuedRequest>>,
    signers: HashMap<Signer, Box<SignerState>>,
    /// Signers whose forwarder nonce nobody has looked at.
    unknown: Unknown,
    /// Signers with requests behind a nonce that nobody has.
    gapped: BTreeSet<Signer>,
    groups: Table<VehicleKey, Group>,
    habits: Table<VehicleKey, Habit>,
    places: HashMap<Head, Place>,
    /// Heads that stand aside, by ceiling.
    asleep: BTreeSet<(u128, Head)>,
    /// The waiting ones by when they end.
    valid: BTreeSet<(Timestamp, RequestId)>,
    /// Those with a promise that may be missed, or was, by when they are due.
    dues: BTreeSet<(Timestamp, RequestId)>,
    flying: HashMap<RequestId, Flying>,
    held: Table<LaneId, Table<Arc<str>, Held>>,
    /// Members in flight by transaction and tenant.
    members: HashMap<(u64, Arc<str>), usize>,
    tenants: Table<Arc<str>, Box<TenantState>>,
    transactions: u64,
    /// Transactions that a restart found, by number, with the gas of each member: sized when a block's gas is known.
    unsized_gas: Vec<(u64, Vec<(RequestId, u64)>)>,
    /// What targets showed on chain.
    targets: TargetRecords,
    /// Tenants whose requests are left out.
    paused: BTreeSet<Arc<str>>,
    /// Tenants that have spent more than their budget: one transaction at a time.
    debtors: BTreeSet<Arc<str>>,
    /// Tenants that go after all others, and until when.
    last: BTreeMap<Arc<str>, Timestamp>,
    has_multicall: bool,
    callers: Option<Table<Address, BTreeSet<Arc<str>>>>,
    waiting: usize,
    short: Option<Short>,
}

/// What the last look for something to send left behind for lack of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// The least that one of them needs, wei.
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

    /// Says that Multicall3 is there: calls that any sender may make share transactions. Before anything is pushed.
    pub const fn set_multicall(&mut self, has_multicall: bool) {
        self.has_multicall = has_multicall;
    }

    /// Binds lanes to the tenants whose calls they make; a lane that is not named makes nobody's. Without it every lane makes
    /// everybody's. Forward requests go on any lane: their target sees the user.
    pub fn bind_calls(&mut self, callers: Callers) {
        let mut bound = Table::new();
        for (sender, tenants) in callers {
            bound.insert(sender, tenants);
        }
        self.callers = Some(bound);
    }

    /// Whether `lane` may send what travels by `key` for `tenant`.
    fn may_send(&self, lane: LaneId, key: VehicleKey, tenant: &str) -> bool {
        match (key, &self.callers) {
            (VehicleKey::Forwarder(_), _) | (_, None) => true,
            (VehicleKey::Multicall | VehicleKey::Single(_), Some(callers)) => {
                callers.get(&lane.sender).is_some_and(|tenants| tenants.contains(tenant))
            }
        }
    }

    /// Sets a tenant's share of the capacity; 1 without.
    pub fn set_weight(&mut self, tenant: &str, weight: u32) {
        self.tenants.get_or_insert_with(tenant.into(), Box::default).weight = u64::from(weight.max(1));
    }

    /// Starts from what targets have shown before.
    pub fn recall_targets(&mut self, rule: RecordRule, records: Vec<TargetRecord>) {
        self.targets = TargetRecords::recalled(rule, records);
    }

    /// What a transaction in a block, with these requests and outcomes, shows of its targets. Nothing is noted yet.
    pub fn showing(&self, members: &[RequestId], outcomes: &[MemberOutcome], is_success: bool) -> Showing {
        let known = |id: &RequestId| {
            let entry = self.entries.get(id)?;
            Some((entry.request.target(), entry.company))
        };
        targets::showing(&members.iter().map(known).collect::<Vec<_>>(), outcomes, is_success)
    }

    /// A transaction that is clean for these targets is in a block: each earns company.
    pub fn ran(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.ran(*target, now));
    }

    /// A reorg took back what [`Self::ran`] counted for these targets.
    pub fn unran(&mut self, targets: &[Address]) {
        targets.iter().for_each(|target| self.targets.unran(*target));
    }

    /// What [`Self::ran`] counted for these targets is final.
    pub fn ran_for_good(&mut self, targets: &[Address], now: Timestamp) {
        targets.iter().for_each(|target| self.targets.settled(*target, now));
    }

    /// The target surprised in a transaction of its own: one that no policy names loses its clean runs; one that is named is
    /// suspect. Until when, if that is news; repeating it for the transaction with this hash changes nothing.
    pub fn surprised(&mut self, accused: Accused, hash: B256, now: Timestamp) -> Option<Timestamp> {
        if accused.is_named {
            return self.targets.surprised(accused.target, hash, now);
        }
        self.targets.lost(accused.target);
        None
    }

    /// A reorg took back what [`Self::surprised`] noted of a named target for the transaction with this hash.
    pub fn unsurprised(&mut self, target: Address, hash: B256) {
        self.targets.unsurprised(target, hash);
    }

    /// Whether requests to `target` may share a transaction with the same signer's only, because it surprised.
    pub fn is_suspect(&self, target: Address, now: Timestamp) -> bool {
        self.targets.is_suspect(target, now)
    }

    /// Signers beyond the first with whom requests to `target` may share a transaction where no policy names it.
    pub fn further_signers(&self, target: Address) -> usize {
        self.targets.further_signers(target)
    }

    /// Records of targets that have changed since this was last asked, to be kept. An [empty](TargetRecord::is_empty) one is to be
    /// forgotten.
    pub fn take_target_changes(&mut self) -> Vec<TargetRecord> {
        self.targets.take_changes()
    }

    /// Requests that wait.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Requests in transactions that are not settled.
    pub fn in_flight(&self) -> usize {
        self.entries.len() - self.waiting
    }

    /// A request, if it is still here.
    pub fn get(&self, id: RequestId) -> Option<&QueuedRequest> {
        self.entries.get(&id).map(|entry| &**entry)
    }

    /// A request, to count failures.
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut QueuedRequest> {
        self.entries.get_mut(&id).map(|entry| &mut **entry)
    }

    /// Keeps this of the request: an [outline](VerifiedRequest::outline) while it is in a block, or the whole one again.
    pub fn replace(&mut self, request: Arc<VerifiedRequest>) {
        if let Some(entry) = self.entries.get_mut(&request.id()) {
            entry.request = request;
        }
    }

    /// Something was taken from what a request may spend, or given back: `spent_wei` of its reservation, and the price of gas that
    /// the rest covers.
    pub fn reprice(&mut self, id: RequestId, spent_wei: U256, ceiling_wei_per_gas: u128) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.spent_wei, entry.ceiling_wei_per_gas) = (spent_wei, ceiling_wei_per_gas);
        // It may have stood aside, or may have to.
        match entry.request.sequence() {
            Some((forwarder, signer, _)) => self.place(Head::Signer((forwarder, signer))),
            None => self.place(Head::Request(id)),
        }
    }

    /// Whether the request waits (and is not in a transaction).
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.entries.get(&id).is_some_and(|entry| self.valid.contains(&(entry.request.valid_until(), id)))
    }

    /// Requests of these tenants, and only of these, stay where they are: [`Self::compose`] leaves them out.
    pub fn set_paused<T>(&mut self, tenants: &BTreeMap<String, T>) {
        if !(self.paused.is_empty() && tenants.is_empty()) {
            self.paused = tenants.keys().map(|tenant| tenant.as_str().into()).collect();
        }
    }

    /// These tenants have spent more than their budgets: each has one transaction in flight at most, until the next call.
    pub fn set_debtors(&mut self, debtors: BTreeSet<Arc<str>>) {
        self.debtors = debtors;
    }

    /// A transaction of `tenant` kept a lane from going on: until `until` its requests go where no other tenant's could be sent, so
    /// that those who waited go first.
    pub fn go_last(&mut self, tenant: Arc<str>, now: Timestamp, until: Timestamp) {
        self.last.retain(|_, until| now < *until);
        self.last.insert(tenant, until);
    }

    fn goes_last(&self, tenant: &str, now: Timestamp) -> bool {
        IS_SHARED && Protection::IgnoredGoesLast.is_on() && self.last.get(tenant).is_some_and(|until| now < *until)
    }

    /// Whether `tenant` owes what a further transaction might cost.
    fn is_in_debt(&self, tenant: &Arc<str>) -> bool {
        self.debtors.contains(tenant) && self.held.values().any(|held| held.contains_key(tenant))
    }

    /// Takes a durable request. Repeating it changes nothing.
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

    /// Takes requests that one transaction carries already: what a restart finds. They hold their places on the lane as if they
    /// had been composed: one slot together, or their part of a block's gas, once that is known, where it is more.
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

    /// Takes a request that is in a block already: what a restart finds. Its promise was kept, or missed, before.
    pub fn push_in_block(&mut self, entry: Box<QueuedRequest>, lane: LaneId) {
        self.fly(&entry, lane);
        self.entries.insert(entry.request.id(), entry);
    }

    /// Its signer's next requests come after it, on the same lane.
    fn fly(&mut self, entry: &QueuedRequest, lane: LaneId) {
        if let Some((forwarder, signer, nonce)) = entry.request.sequence() {
            let state = self.signer((forwarder, signer));
            state.fly(nonce, entry.request.id());
            state.lane = Some(lane);
        }
    }

    /// Gives the members in flight of one transaction their parts of its size.
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

    /// A request takes its place on a lane.
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

    /// A request waits no more.
    fn leave(&mut self, tenant: &Arc<str>, due: Timestamp, is_late: bool) {
        self.waiting -= 1;
        if !is_late && let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.fresh.take(due);
        }
    }

    /// Of each tenant: how many of its requests left since this was last asked, and those that wait whose promise can be kept.
    pub fn paces(&mut self) -> impl Iterator<Item = (&Arc<str>, u64, &DueCounts)> {
        self.tenants.iter_mut().map(|(name, tenant)| (&*name, std::mem::take(&mut tenant.left), &tenant.fresh))
    }

    /// A reorg took it out of its block: its promise may be missed yet.
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

    /// Where a head should stand now, if anywhere.
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

    /// Puts a head where it belongs after anything about it changed.
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
        // The new place first: a tenant that has nothing for a moment would lose what it waits for.
        match wanted {
            Some(place) => {
                self.stand(head, &place);
                if let Some(old) = self.places.insert(head, place.clone()) {
                    // What is the same in both stands there once.
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
            // A tenant that comes back does not get credit for its absence.
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

    /// `is_same`: it stands there again by now, counted twice.
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

    /// Those whose ceiling is below the base fee stand aside; who stood aside and can pay it comes back.
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

    /// Puts a signer where it belongs after anything about it changed.
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
    /// `consumed`: its nonce at the forwarder is used up, so the signer goes on with the next.
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

    /// It is in a block: its promise was kept, or missed before, and its transaction's place on the lane is free.
    pub fn landed(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (due, tenant) = (entry.due, entry.tenant.clone());
        self.dues.remove(&(due, id));
        self.vacate(id, &tenant);
    }

    /// Its transaction is in a block, which did nothing for it: the place on the lane is free, its promise is still to be kept.
    pub fn passed_over(&mut self, id: RequestId) {
        if let Some(tenant) = self.entries.get(&id).map(|entry| entry.tenant.clone()) {
            self.vacate(id, &tenant);
        }
    }

    /// Gives back what a request occupied of its lane.
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
        // Whoever stood back for others may go now.
        self.groups.values_mut().for_each(|group| group.held_until = None);
    }

    /// Gives members of a transaction that did not happen back to the waiting ones.
    pub fn put_back(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        if self.valid.contains(&(entry.request.valid_until(), id)) {
            return;
        }
        let (sequence, tenant) = (entry.request.sequence(), entry.tenant.clone());
        self.vacate(id, &tenant);
        // It waits before it leaves the ones in flight: so the end of its signer's run stays known.
        self.enter(id, sequence);
        if let Some((forwarder, signer, nonce)) = sequence
            && let Some(state) = self.signers.get_mut(&(forwarder, signer))
        {
            state.land(nonce, id);
            self.refresh((forwarder, signer));
        }
    }

    /// Takes a waiting request out of line, until it is [put back](Self::put_back) or [removed](Self::remove).
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
                    // In this order the end of its run stays known.
                    state.fly(nonce, id);
                    state.leave(nonce, id, due, is_late);
                }
                self.refresh((forwarder, signer));
            }
            None => self.place(Head::Request(id)),
        }
    }

    /// Waiting requests that are not valid any more.
    pub fn expired(&self, now: Timestamp) -> Vec<RequestId> {
        self.valid.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// Plans those anew, with `within` from now, whose time is over but not their validity, waiting or in flight. Returns those
    /// whose promise is missed by that: each once. Also those in flight that are not valid any more: they may be executed until
    /// their transaction's nonce is final. (Those that wait [expire](Self::expired).)
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
            // Always later than now, so that this ends.
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

    /// When to ask [`Self::compose`] again if it has just chosen nothing and nothing else happens until then: before that it
    /// would choose nothing either. Always later than `now`.
    pub fn next_due(&self, now: Timestamp, limits: &ComposeLimits, outlook: &impl FeeOutlook) -> Option<Timestamp> {
        let window = outlook.send_within().max(limits.urgent);
        let later = |than: Timestamp| Timestamp(than.0.saturating_add(1));
        let cutoff = now.saturating_add(window);
        let held = self.groups.values().filter_map(|group| {
            let first = group.tenants.values().flat_map(|line| line.lists()).filter_map(Ready::first).min()?;
            // What changed since it was looked at may be due at once.
            (first <= cutoff).then(|| group.held_until.unwrap_or_else(|| later(now)))
        });
        // Whose slack falls next into the window in which it may be sent.
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

    /// Chooses what `lane` should send at `now`, if anything, and takes it from the waiting ones.
    ///
    /// A request is eligible when its slack is within [`FeeOutlook::send_within`] or `limits.urgent`. A batch of eligible ones
    /// goes when no more fits, when no further company is worth its members' wait (the module's documentation has the rule),
    /// or when a member has waited for company as long as it may. Others join it if what they save by that makes now the
    /// better moment for them too ([`FeeOutlook::send_within_saving`]). Who comes first, the invariants of [`Queue`] say.
    pub fn compose(
        &mut self,
        now: Timestamp,
        lane: LaneId,
        limits: &ComposeLimits,
        outlook: &impl FeeOutlook,
    ) -> Option<Selection> {
        self.short = None;
        // Until when each group waits, as far as any lane or tenant has seen: putting others aside must not forget it.
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
        // The tenant that was served least comes first, then the most urgent one. Whoever waits for company holds up nobody.
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
        // What another lane has to send waits for that lane, not for the clock.
        for key in barred {
            if let Some(group) = self.groups.get_mut(&key) {
                group.held_until.get_or_insert(Timestamp(u64::MAX));
            }
        }
        None
    }

    /// What `lane` found in this line, if it would find the same again.
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

    /// Nothing of this group goes before `until`, or before what another tenant or lane waits for.
    fn hold(&mut self, waits: &mut Table<VehicleKey, Timestamp>, key: VehicleKey, until: Timestamp) {
        let wait = waits.get_or_insert_with(key, || until);
        *wait = until.min(*wait);
        if let Some(group) = self.groups.get_mut(&key) {
            group.held_until = Some(*wait);
        }
    }

    /// Tenants that have their share of the lane's transactions in flight, while others that have not could be sent.
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
            // What it usually has of one more.
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

    /// What [`Self::compose`] left behind for lack of money when it last chose nothing.
    pub const fn short(&self) -> Option<Short> {
        self.short
    }

    /// Why these go now, or until when they wait for company.
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

    /// The request that stands first there.
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
                        // In this order the end of its run stays known.
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

/// What a member with this gas has of a transaction's size.
fn part_of(own: u64, gas: u64, size: u64) -> u64 {
    u64::try_from(u128::from(own) * u128::from(size) / u128::from(gas.max(1))).unwrap_or(u64::MAX)
}

/// The list that a head stands in, and its place there.
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

    /// A million requests that are in a block fit into a gigabyte: each is remembered by these, in the sizes in which allocators give
    /// memory.
    #[test]
    fn what_is_remembered_of_a_request_is_small() {
        assert!(size_of::<VerifiedRequest>() + 2 * size_of::<usize>() <= 384, "{}", size_of::<VerifiedRequest>());
        assert!(size_of::<QueuedRequest>() <= 192, "{}", size_of::<QueuedRequest>());
    }
}
