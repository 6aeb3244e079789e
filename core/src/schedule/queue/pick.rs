//! Who travels in one transaction.

use super::{ComposeLimits, Group, Head, Queue, QueuedRequest, group_key};
use crate::{
    request::{LaneId, RequestId, vehicle::VehicleKey},
    schedule::{FeeOutlook, company::Habit},
    time::Timestamp,
};

type Ready<'a> = std::iter::Peekable<std::collections::btree_set::Iter<'a, (Timestamp, u64, Head)>>;

/// A tenant's requests, as far as they were looked at.
struct Cursor<'a> {
    virtual_time: u64,
    weight: u64,
    ready: Ready<'a>,
}

/// Puts one transaction together.
pub(super) struct Picker<'a> {
    queue: &'a Queue,
    key: VehicleKey,
    lane: LaneId,
    limits: &'a ComposeLimits,
    cursors: Vec<Cursor<'a>>,
    pub(super) room: Room,
}

impl<'a> Picker<'a> {
    pub(super) fn new(
        queue: &'a Queue,
        key: VehicleKey,
        group: &'a Group,
        lane: LaneId,
        limits: &'a ComposeLimits,
    ) -> Self {
        let cursors = group
            .tenants
            .iter()
            .filter(|(_, share)| !share.ready.is_empty())
            .map(|(tenant, share)| Cursor {
                virtual_time: share.virtual_time,
                weight: u64::from(queue.weights.get(tenant).copied().unwrap_or(1)),
                ready: share.ready.iter().peekable(),
            })
            .collect();
        let mut room = Room::new(limits);
        if matches!(key, VehicleKey::Single(_)) {
            room.max_members = 1;
        }
        Self { queue, key, lane, limits, cursors, room }
    }

    /// Those with deadlines until `cutoff`: the ones until `urgent` first, by deadline; then of the tenant that was served least.
    pub(super) fn fill(&mut self, cutoff: Timestamp, urgent: Timestamp) {
        while !self.room.is_full {
            let Some((_, _, _, index)) = self.next(|deadline, _, time| {
                (deadline <= cutoff).then(|| if deadline <= urgent { (0, deadline.0) } else { (1, time) })
            }) else {
                break;
            };
            self.advance(index);
        }
    }

    /// Those who are not yet eligible, but save so much by joining these that now is the better moment for them too.
    pub(super) fn join(&mut self, now: Timestamp, outlook: &impl FeeOutlook, habit: Option<&Habit>) {
        let (Some(habit), limits) = (habit, self.limits) else { return };
        if limits.setup_wei == 0 {
            return;
        }
        while !self.room.is_full {
            let Some((_, _, _, index)) = self.next(|deadline, entry, time| {
                let saving = habit.saving_permille(limits.setup_wei, limits.own_wei(entry?));
                (deadline <= now.saturating_add(outlook.send_within_saving(saving))).then_some((1, time))
            }) else {
                break;
            };
            self.advance(index);
        }
    }

    /// The tenant whose first request comes next, by the rank that is given to it; without a rank it does not come.
    fn next(
        &mut self,
        rank: impl Fn(Timestamp, Option<&QueuedRequest>, u64) -> Option<(u8, u64)>,
    ) -> Option<((u8, u64), Timestamp, u64, usize)> {
        let queue = self.queue;
        let ranked = self.cursors.iter_mut().enumerate().filter_map(|(index, cursor)| {
            let (deadline, seq, head) = **cursor.ready.peek()?;
            Some((rank(deadline, queue.head(head), cursor.virtual_time)?, deadline, seq, index))
        });
        ranked.min()
    }

    /// Takes the tenant's first request, with all that follow it in order, as far as they fit.
    fn advance(&mut self, index: usize) {
        let Some((_, _, head)) = self.cursors[index].ready.next() else { return };
        let before = self.room.gas;
        match head {
            Head::Request(id) => {
                if let Some(entry) = self.queue.entries.get(id) {
                    self.room.add(entry, self.limits);
                }
            }
            Head::Signer(signer) => {
                let Some(state) = self.queue.signers.get(signer) else { return };
                if state.lane.is_some_and(|bound| bound != self.lane) {
                    return;
                }
                let Some(mut nonce) = state.next() else { return };
                while let Some(entry) = state.waiting.get(&nonce).and_then(|(id, _)| self.queue.entries.get(id)) {
                    if group_key(&entry.request) != self.key || !self.room.add(entry, self.limits) {
                        break;
                    }
                    let Some(after) = nonce.checked_add(1) else { break };
                    nonce = after;
                }
            }
        }
        let cursor = &mut self.cursors[index];
        cursor.virtual_time = cursor.virtual_time.saturating_add((self.room.gas - before) / cursor.weight);
    }
}

/// What still fits.
pub(super) struct Room {
    pub(super) members: Vec<RequestId>,
    gas: u64,
    bytes: usize,
    max_members: usize,
    least_ceiling: Option<u128>,
    pub(super) is_full: bool,
}

impl Room {
    const fn new(limits: &ComposeLimits) -> Self {
        Self {
            members: Vec::new(),
            gas: limits.base_gas,
            bytes: 0,
            max_members: limits.max_batch,
            least_ceiling: None,
            is_full: false,
        }
    }

    /// Adds `entry` if it fits; `false` if it can't join this transaction.
    fn add(&mut self, entry: &QueuedRequest, limits: &ComposeLimits) -> bool {
        if entry.ceiling_wei_per_gas < limits.next_base_fee {
            return false;
        }
        // A member with a low ceiling would hold the others' fee cap down.
        let least = *self.least_ceiling.get_or_insert_with(|| entry.ceiling_wei_per_gas.min(limits.quote_max_fee));
        if entry.ceiling_wei_per_gas < least {
            return false;
        }
        // After failures as a whole: a quarter, a sixteenth, alone.
        let company = match entry.batch_failures {
            0 => limits.max_batch,
            1 => limits.max_batch.div_ceil(4),
            2 => limits.max_batch.div_ceil(16),
            _ => 1,
        };
        if self.members.len() >= company {
            return false;
        }
        let (gas, bytes) = (self.gas.saturating_add(entry.gas), self.bytes + entry.bytes);
        // The first always fits: what is too large alone was refused at admission.
        if !self.members.is_empty() && (gas > limits.max_gas || bytes > limits.max_bytes) {
            self.is_full = true;
            return false;
        }
        self.max_members = self.max_members.min(company);
        (self.gas, self.bytes) = (gas, bytes);
        self.members.push(entry.request.id());
        if self.members.len() >= self.max_members {
            self.is_full = true;
        }
        !self.is_full
    }
}
