//! Places of heads in the ready lists.

use super::{
    line::{Group, Head, Place, Ready, list_of},
    state::{IS_SHARED, Queue, head_of},
};
use crate::{request::vehicle::VehicleKey, table::Table};

impl Queue {
    /// Proper place of a head now; `None` if it belongs nowhere.
    fn wanted(&self, head: Head) -> Option<Place> {
        let (entry, (is_late, due), lane) = match head {
            Head::Request(id) => {
                let entry = self.entries.get(&id).filter(|_| self.is_waiting(id))?;
                if self.unripe_until(entry).is_some() {
                    return None;
                }
                (entry, (entry.is_late, entry.due), None)
            }
            Head::Signer(signer) => {
                let state = self.signers.get(&signer)?;
                let entry = self.entries.get(state.waiting.get(&state.next()?)?)?;
                (entry, state.urgency()?, state.bound())
            }
        };
        Some(Place {
            key: VehicleKey::of(&entry.request, self.contracts).group(),
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
    pub(super) fn place(&mut self, head: Head) {
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
    pub(super) fn sort_out(&mut self, next_base_fee: u128, priced_out: Vec<Head>) {
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
}
