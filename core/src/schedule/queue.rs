//! The queue and the batch composer.

mod pick;
mod signer;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, U256};

use pick::{Picker, Room};
use signer::SignerState;

use super::{
    FeeOutlook,
    company::{Habit, Patience},
    targets::TargetRecords,
};
use crate::{
    request::{
        LaneId, RequestId, VerifiedRequest,
        vehicle::{Company, VehicleKey},
    },
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
    /// What was reserved for it, wei.
    pub reserved_wei: U256,
    /// What of that went into final transactions, wei.
    pub spent_wei: U256,
    /// With whom it may share a transaction.
    pub company: Company,
    /// Simulations that it failed.
    pub simulations: u32,
    /// Transactions with it that failed as a whole: it travels in ever smaller company.
    pub batch_failures: u32,
    /// What nodes said of transactions with it.
    pub refusals: Refusals,
}

/// What came of transactions with a request that every node refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Most members of a transaction with it; `None`: as many as fit.
    pub company: Option<usize>,
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
    /// Gas of an empty transaction.
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
    /// What inclusion in the next block costs at the least, tip included, wei per gas.
    pub next_price: u128,
    /// Nodes refuse a transaction whose gas limit × fee cap is above this, wei; `None` if nothing is known.
    pub fee_cap_wei: Option<u128>,
    /// What the lane has beside everything in flight, wei; `None` if it is not known.
    pub available_wei: Option<U256>,
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

    /// Whether `gas` can't be offered what the next block costs under the nodes' fee cap.
    pub fn is_too_dear(&self, gas: u64) -> bool {
        self.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(self.next_price) > cap)
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
    /// Earliest deadline.
    pub deadline: Timestamp,
    /// Lowest ceiling.
    pub ceiling_wei_per_gas: u128,
}

/// Where a request stands in line. Requests that travel alone share one line, or a hundred thousand of them would be as
/// many groups to look at.
fn group_key(request: &VerifiedRequest) -> VehicleKey {
    match VehicleKey::of(request) {
        VehicleKey::Single(_) => VehicleKey::Single(RequestId(B256::ZERO)),
        shared => shared,
    }
}

/// (forwarder, user).
type Signer = (Address, Address);

/// What stands in a ready list: a signer with a run of executable nonces, or a request without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Head {
    Signer(Signer),
    Request(RequestId),
}

#[derive(Debug, Default)]
struct TenantShare {
    /// Gas served, divided by the weight: who has the least goes first.
    virtual_time: u64,
    ready: BTreeSet<(Timestamp, u64, Head)>,
}

#[derive(Debug, Default)]
struct Group {
    tenants: BTreeMap<Arc<str>, TenantShare>,
    /// Until when company is waited for, as far as it was looked at since the last change.
    held_until: Option<Timestamp>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.tenants.values().all(|share| share.ready.is_empty())
    }
}

/// Everything accepted that is not settled.
///
/// **Invariant:** a signer's requests leave in nonce order, and while some are in flight their successors only follow on
/// the same lane.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<RequestId, QueuedRequest>,
    signers: BTreeMap<Signer, SignerState>,
    groups: BTreeMap<VehicleKey, Group>,
    habits: BTreeMap<VehicleKey, Habit>,
    deadlines: BTreeSet<(Timestamp, RequestId)>,
    /// What unnamed targets showed on chain.
    targets: TargetRecords,
    weights: BTreeMap<Arc<str>, u32>,
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

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a tenant's share of the capacity; 1 without.
    pub fn set_weight(&mut self, tenant: &str, weight: u32) {
        self.weights.insert(tenant.into(), weight.max(1));
    }

    /// A transaction with these requests was included. A clean one (nothing failed as a whole, nobody was skipped) earns its
    /// unnamed targets company; gives those for which it counts. One that failed as a whole, with requests to one target
    /// only, costs that target what it has earned.
    pub fn ran(
        &mut self,
        members: impl Iterator<Item = RequestId>,
        is_success: bool,
        has_skipped: bool,
    ) -> Vec<Address> {
        let entries = members.filter_map(|id| self.entries.get(&id));
        let unnamed = entries.filter(|entry| entry.company == Company::Unnamed);
        let mut targets: Vec<Address> = unnamed.map(|entry| entry.request.target()).collect();
        targets.sort_unstable();
        targets.dedup();
        match (is_success, has_skipped, targets.as_slice()) {
            (true, false, _) => targets.iter().for_each(|target| self.targets.ran(*target, true)),
            (false, _, [target]) => {
                self.targets.ran(*target, false);
                targets.clear();
            }
            _ => targets.clear(),
        }
        targets
    }

    /// A reorg took back what [`Self::ran`] counted for these targets.
    pub fn unran(&mut self, targets: &[Address]) {
        targets.iter().for_each(|target| self.targets.unran(*target));
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
        self.entries.get(&id)
    }

    /// A request, to count failures.
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut QueuedRequest> {
        self.entries.get_mut(&id)
    }

    /// Whether the request waits (and is not in a transaction).
    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.entries.get(&id).is_some_and(|entry| self.deadlines.contains(&(entry.request.deadline(), id)))
    }

    /// Takes a durable request. Repeating it changes nothing.
    pub fn push(&mut self, entry: QueuedRequest) {
        let id = entry.request.id();
        if self.entries.contains_key(&id) {
            return;
        }
        let sequence = entry.request.sequence();
        self.habits.entry(group_key(&entry.request)).or_default().arrived(entry.accepted_at);
        self.entries.insert(id, entry);
        self.enter(id, sequence);
    }

    /// Takes a request that is in a transaction already: what a restart finds.
    pub fn push_in_flight(&mut self, entry: QueuedRequest, lane: LaneId) {
        let id = entry.request.id();
        if let Some((forwarder, signer, nonce)) = entry.request.sequence() {
            let state = self.signers.entry((forwarder, signer)).or_default();
            state.in_flight.insert(nonce, id);
            state.lane = Some(lane);
        }
        self.entries.insert(id, entry);
    }

    fn enter(&mut self, id: RequestId, sequence: Option<(Address, Address, u64)>) {
        let Some(entry) = self.entries.get(&id) else { return };
        self.waiting += 1;
        self.deadlines.insert((entry.request.deadline(), id));
        match sequence {
            Some((forwarder, signer, nonce)) => {
                let deadline = entry.request.deadline();
                self.signers.entry((forwarder, signer)).or_default().wait(nonce, id, deadline);
                self.refresh((forwarder, signer));
            }
            None => {
                let key = group_key(&entry.request);
                let (tenant, place) = (entry.tenant.clone(), (entry.request.deadline(), entry.seq, Head::Request(id)));
                self.ready(key, tenant, place);
            }
        }
    }

    fn ready(&mut self, key: VehicleKey, tenant: Arc<str>, place: (Timestamp, u64, Head)) {
        let group = self.groups.entry(key).or_default();
        group.held_until = None;
        // A tenant that comes back does not get credit for its absence.
        let least = group
            .tenants
            .values()
            .filter(|share| !share.ready.is_empty())
            .map(|share| share.virtual_time)
            .min()
            .unwrap_or(0);
        let share = group.tenants.entry(tenant).or_default();
        if share.ready.is_empty() {
            share.virtual_time = share.virtual_time.max(least);
        }
        share.ready.insert(place);
    }

    fn unready(&mut self, key: VehicleKey, tenant: &Arc<str>, place: (Timestamp, u64, Head)) {
        if let Some(group) = self.groups.get_mut(&key) {
            if let Some(share) = group.tenants.get_mut(tenant) {
                share.ready.remove(&place);
            }
            group.held_until = None;
            if group.is_empty() {
                self.groups.remove(&key);
            }
        }
    }

    /// Puts a signer where it belongs in the ready list after anything about it changed.
    fn refresh(&mut self, signer: Signer) {
        let Some(state) = self.signers.get(&signer) else { return };
        let wanted = state.next().and_then(|next| state.waiting.get(&next)).and_then(|(id, _)| {
            let entry = self.entries.get(id)?;
            // A later nonce may have less time: it can't overtake, so it pulls the whole run forward.
            let (deadline, _) = *state.deadlines.first()?;
            Some((group_key(&entry.request), entry.tenant.clone(), deadline, entry.seq))
        });
        if wanted == state.ready {
            return;
        }
        let old = state.ready.clone();
        if state.waiting.is_empty() && state.in_flight.is_empty() {
            self.signers.remove(&signer);
        } else if let Some(state) = self.signers.get_mut(&signer) {
            state.ready = wanted.clone();
        }
        // The new place first: a group that is empty for a moment would forget whom it served.
        if let Some((key, tenant, deadline, seq)) = wanted {
            self.ready(key, tenant, (deadline, seq, Head::Signer(signer)));
        }
        if let Some((key, tenant, deadline, seq)) = old {
            self.unready(key, &tenant, (deadline, seq, Head::Signer(signer)));
        }
    }

    /// Removes a request that has ended, waiting or in flight.
    ///
    /// `consumed`: its nonce at the forwarder is used up, so the signer goes on with the next.
    pub fn remove(&mut self, id: RequestId, consumed: bool) -> Option<QueuedRequest> {
        let entry = self.entries.remove(&id)?;
        let place = (entry.request.deadline(), id);
        let was_waiting = self.deadlines.remove(&place);
        if was_waiting {
            self.waiting -= 1;
        }
        match entry.request.sequence() {
            Some((forwarder, signer, nonce)) => {
                if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                    state.leave(nonce, id);
                    state.land(nonce, id);
                    if consumed {
                        state.chain_next = Some(state.chain_next.unwrap_or(0).max(nonce.saturating_add(1)));
                        state.consumed = state.consumed.max(nonce.saturating_add(1));
                    }
                    if state.in_flight.is_empty() {
                        state.lane = None;
                    }
                    if state.waiting.is_empty() && state.in_flight.is_empty() && state.ready.is_none() {
                        self.signers.remove(&(forwarder, signer));
                    } else {
                        self.refresh((forwarder, signer));
                    }
                }
            }
            None if was_waiting => {
                let key = group_key(&entry.request);
                self.unready(key, &entry.tenant, (place.0, entry.seq, Head::Request(id)));
            }
            None => {}
        }
        Some(entry)
    }

    /// Gives members of a transaction that did not happen back to the waiting ones.
    pub fn put_back(&mut self, id: RequestId) {
        let Some(entry) = self.entries.get(&id) else { return };
        if self.deadlines.contains(&(entry.request.deadline(), id)) {
            return;
        }
        let sequence = entry.request.sequence();
        if let Some((forwarder, signer, nonce)) = sequence
            && let Some(state) = self.signers.get_mut(&(forwarder, signer))
        {
            state.land(nonce, id);
            if state.in_flight.is_empty() {
                state.lane = None;
            }
        }
        self.enter(id, sequence);
    }

    /// Waiting requests whose deadline has passed.
    pub fn expired(&self, now: Timestamp) -> Vec<RequestId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    /// When to ask [`Self::compose`] again if it has just chosen nothing and nothing else happens until then: before that it
    /// would choose nothing either. Always later than `now`.
    pub fn next_due(&self, now: Timestamp, limits: &ComposeLimits, outlook: &impl FeeOutlook) -> Option<Timestamp> {
        let window = outlook.send_within().max(limits.urgent);
        let later = |than: Timestamp| Timestamp(than.0.saturating_add(1));
        let cutoff = now.saturating_add(window);
        let held = self.groups.values().filter_map(|group| {
            let first = group.tenants.values().filter_map(|share| share.ready.first()).min()?;
            // What changed since it was looked at may be due at once.
            (first.0 <= cutoff).then(|| group.held_until.unwrap_or_else(|| later(now)))
        });
        // Whose slack falls next into the window in which it may be sent.
        let first = Head::Signer((Address::ZERO, Address::ZERO));
        let eligible = self
            .groups
            .values()
            .flat_map(|group| group.tenants.values())
            .filter_map(|share| share.ready.range((later(cutoff), 0, first)..).next())
            .map(|(deadline, _, _)| deadline.saturating_sub(window))
            .min();
        held.min().into_iter().chain(eligible).filter(|due| *due > now).min()
    }

    /// Chooses what `lane` should send at `now`, if anything, and takes it from the waiting ones.
    ///
    /// A request is eligible when its slack is within [`FeeOutlook::send_within`] or `limits.urgent`. A batch of eligible ones
    /// goes when no more fits, when no further company is worth its members' wait (the module's documentation has the rule),
    /// or when a member has waited for company as long as it may. Others join it if what they save by that makes now the
    /// better moment for them too ([`FeeOutlook::send_within_saving`]). Urgent requests come first, by deadline; the rest
    /// by weighted fair share of the tenants, by deadline within a tenant.
    pub fn compose(
        &mut self,
        now: Timestamp,
        lane: LaneId,
        limits: &ComposeLimits,
        outlook: &impl FeeOutlook,
    ) -> Option<Selection> {
        self.short = None;
        let cutoff = now.saturating_add(outlook.send_within().max(limits.urgent));
        // The most urgent group first.
        let mut keys: Vec<(Timestamp, VehicleKey)> = self
            .groups
            .iter()
            .filter_map(|(key, group)| {
                let first = group.tenants.values().filter_map(|share| share.ready.first()).min()?;
                Some((first.0, *key))
            })
            .filter(|(deadline, _)| *deadline <= cutoff)
            .collect();
        keys.sort_unstable();
        for (_, key) in keys {
            let Some(group) = self.groups.get(&key) else { continue };
            let mut picker = Picker::new(self, key, group, lane, limits, now);
            picker.fill(cutoff, now.saturating_add(limits.urgent));
            let trigger = match self.trigger(now, key, &picker.room, limits) {
                Ok(trigger) => trigger,
                Err(until) => {
                    let short = picker.room.short.filter(|_| picker.room.members.is_empty());
                    self.note_short(short);
                    if let Some(group) = self.groups.get_mut(&key) {
                        // Another lane may have seen others.
                        let held = group.held_until.filter(|held| *held > now);
                        group.held_until = Some(held.map_or(until, |held| held.min(until)));
                    }
                    continue;
                }
            };
            picker.join(now, outlook, self.habits.get(&key));
            let members = picker.room.members;
            let Some(first) = members.first().and_then(|id| self.entries.get(id)) else { continue };
            let vehicle = VehicleKey::of(&first.request);
            let (mut deadline, mut ceiling) = (Timestamp(u64::MAX), u128::MAX);
            for entry in members.iter().filter_map(|id| self.entries.get(id)) {
                deadline = deadline.min(entry.request.deadline());
                ceiling = ceiling.min(entry.ceiling_wei_per_gas);
            }
            self.take(key, lane, &members);
            return Some(Selection { key: vehicle, members, trigger, deadline, ceiling_wei_per_gas: ceiling });
        }
        None
    }

    fn note_short(&mut self, found: Option<Short>) {
        self.short = match (self.short, found) {
            (Some(a), Some(b)) => {
                Some(Short { needed_wei: a.needed_wei.min(b.needed_wei), until: a.until.max(b.until) })
            }
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
            deadline = deadline.min(entry.request.deadline());
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
        match head {
            Head::Request(id) => self.entries.get(&id),
            Head::Signer(signer) => {
                let state = self.signers.get(&signer)?;
                self.entries.get(&state.waiting.get(&state.next()?)?.0)
            }
        }
    }

    fn take(&mut self, key: VehicleKey, lane: LaneId, members: &[RequestId]) {
        let mut touched = BTreeSet::new();
        for id in members {
            let Some(entry) = self.entries.get(id) else { continue };
            let (deadline, seq, gas, tenant) = (entry.request.deadline(), entry.seq, entry.gas, entry.tenant.clone());
            let sequence = entry.request.sequence();
            if self.deadlines.remove(&(deadline, *id)) {
                self.waiting -= 1;
            }
            let weight = u64::from(self.weights.get(&tenant).copied().unwrap_or(1));
            if let Some(share) = self.groups.get_mut(&key).and_then(|group| group.tenants.get_mut(&tenant)) {
                share.virtual_time = share.virtual_time.saturating_add(gas / weight);
            }
            match sequence {
                Some((forwarder, signer, nonce)) => {
                    if let Some(state) = self.signers.get_mut(&(forwarder, signer)) {
                        state.leave(nonce, *id);
                        state.in_flight.insert(nonce, *id);
                        state.lane = Some(lane);
                    }
                    touched.insert((forwarder, signer));
                }
                None => self.unready(key, &tenant, (deadline, seq, Head::Request(*id))),
            }
        }
        for signer in touched {
            self.refresh(signer);
        }
        self.habits.entry(key).or_default().left(members.len());
    }
}
