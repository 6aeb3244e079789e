//! Tenants: their shares of a lane's capacity, pauses, debts and senders.

use std::sync::Arc;

use super::{
    limits::{ComposeLimits, WHOLE},
    state::{Callers, Flying, Held, IS_SHARED, Queue},
};
use crate::{
    ordered::Set,
    protection::Protection,
    request::{LaneId, RequestId, vehicle::VehicleKey},
    schedule::pace::DueCounts,
    table::Table,
    time::Timestamp,
};

impl Queue {
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
    pub(super) fn may_send(&self, lane: LaneId, key: VehicleKey, tenant: &str) -> bool {
        let Some(callers) = self.callers.as_ref().filter(|_| key.is_bound_to_callers()) else { return true };
        callers.get(&lane.sender).is_some_and(|tenants| tenants.contains(tenant))
    }

    /// Sets a tenant's share of the capacity; the default is 1.
    pub fn set_weight(&mut self, tenant: &str, weight: u32) {
        self.tenants.get_or_insert_with(tenant.into(), Box::default).weight = u64::from(weight.max(1));
    }

    /// Pauses these tenants, and only these: [`Self::compose`] leaves out their requests.
    pub fn set_paused<'a>(&mut self, tenants: impl IntoIterator<Item = &'a String>) {
        self.paused.clear();
        self.paused.extend(tenants.into_iter().map(|tenant| Arc::from(tenant.as_str())));
    }

    /// Marks these tenants as over budget: each has at most one transaction in flight, until the next call.
    pub fn set_debtors(&mut self, debtors: Set<Arc<str>>) {
        self.debtors = debtors;
    }

    /// Puts `tenant`, whose transaction held up a lane, last until `until`: its requests go only where no other
    /// tenant's could be sent, so that the requests held up go first.
    pub fn go_last(&mut self, tenant: Arc<str>, now: Timestamp, until: Timestamp) {
        self.last.retain(|_, until| now < *until);
        self.last.insert(tenant, until);
    }

    pub(super) fn goes_last(&self, tenant: &str, now: Timestamp) -> bool {
        IS_SHARED && Protection::IgnoredGoesLast.is_on() && self.last.get(tenant).is_some_and(|until| now < *until)
    }

    /// True if `tenant` is over budget and has a transaction in flight.
    pub(super) fn is_in_debt(&self, tenant: &Arc<str>) -> bool {
        self.debtors.contains(tenant) && self.held.values().any(|held| held.contains_key(tenant))
    }

    /// Per tenant: number of its requests that left since the last call, and its waiting requests whose promise can be
    /// kept.
    pub fn paces(&mut self) -> impl Iterator<Item = (&Arc<str>, u64, &DueCounts)> {
        self.tenants.iter_mut().map(|(name, tenant)| (&*name, std::mem::take(&mut tenant.left), &tenant.fresh))
    }

    /// Tenants that hold their share of the lane's transactions, while others below their share could be sent.
    pub(super) fn full(
        &self,
        now: Timestamp,
        lane: LaneId,
        limits: &ComposeLimits,
        cutoff: Timestamp,
    ) -> Table<Arc<str>, ()> {
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

    /// Assigns the members of one transaction in flight their parts of its size.
    pub(super) fn weigh(&mut self, number: u64, gas_of: &[(RequestId, u64)], size: impl Fn(u64) -> u64) {
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
    pub(super) fn occupy(&mut self, id: RequestId, tenant: Arc<str>, flying: Flying) {
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

    /// Releases a request's place on its lane.
    pub(super) fn vacate(&mut self, id: RequestId, tenant: &Arc<str>) {
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
}

/// Part of a transaction's size for a member with gas `own`.
pub(super) fn part_of(own: u64, gas: u64, size: u64) -> u64 {
    u64::try_from(u128::from(own) * u128::from(size) / u128::from(gas.max(1))).unwrap_or(u64::MAX)
}
