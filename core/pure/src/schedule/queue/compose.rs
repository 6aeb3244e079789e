//! The composer: the batch to send now.

use std::sync::Arc;

use super::{
    entry::QueuedRequest,
    limits::{ComposeLimits, Short},
    line::{FIRST_HEAD, Head, Ready, Stuck, TenantLine},
    pick::{Picker, Room},
    state::{Flying, IS_SHARED, Queue},
    tenants::part_of,
};
use crate::{
    ordered::Set,
    protection::Protection,
    request::{LaneId, RequestId, vehicle::VehicleKey},
    schedule::{
        FeeOutlook,
        company::{ArrivalModel, WaitBudget},
    },
    table::Table,
    time::Timestamp,
};

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

impl Queue {
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
                picker.join(now, outlook, self.arrivals.get(&key));
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
            let vehicle = VehicleKey::of(&first.request, self.contracts);
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

    /// Cached finding of `lane` for this line, if it still holds.
    pub(super) fn still_stuck(
        &self,
        line: &TenantLine,
        lane: LaneId,
        limits: &ComposeLimits,
        cutoff: Timestamp,
    ) -> Option<Stuck> {
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
        let mut patience = WaitBudget::default();
        let mut deadline = Timestamp(u64::MAX);
        for entry in room.members.iter().filter_map(|id| self.entries.get(id)) {
            deadline = deadline.min(entry.due);
            patience.add(limits, now, entry);
        }
        let none = ArrivalModel::default();
        let until = patience.until(limits, now, self.arrivals.get(&key).unwrap_or(&none));
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

    fn take(&mut self, key: VehicleKey, lane: LaneId, members: &[RequestId], limits: &ComposeLimits) {
        self.transactions += 1;
        let number = self.transactions;
        // Base gas included: each member has an equal part of it.
        let base = limits.base_gas / (members.len() as u64).max(1);
        let gas_of = |entry: &QueuedRequest| entry.gas.saturating_add(base);
        let gas = members.iter().filter_map(|id| self.get(*id)).map(gas_of).fold(0, u64::saturating_add);
        let size = limits.size(gas);
        let mut touched = Set::new();
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
        self.arrivals.get_or_insert_with(key, ArrivalModel::default).left(members.len());
    }
}
