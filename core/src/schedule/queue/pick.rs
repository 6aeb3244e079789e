//! Who travels in one transaction.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, U256};

use super::{ComposeLimits, Group, Head, Queue, QueuedRequest, Short, group_key};
use crate::{
    request::{
        LaneId, RequestId,
        vehicle::{Company, VehicleKey},
    },
    schedule::{FeeOutlook, company::Habit, targets::TargetRecords},
    time::Timestamp,
};

type Ready<'a> = std::iter::Peekable<std::collections::btree_set::Iter<'a, (Timestamp, u64, Head)>>;

/// A tenant's requests, as far as they were looked at.
struct Cursor<'a> {
    tenant: &'a Arc<str>,
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
        now: Timestamp,
    ) -> Self {
        let cursors = group
            .tenants
            .iter()
            .filter(|(_, share)| !share.ready.is_empty())
            .map(|(tenant, share)| Cursor {
                tenant,
                virtual_time: share.virtual_time,
                weight: u64::from(queue.weights.get(tenant).copied().unwrap_or(1)),
                ready: share.ready.iter().peekable(),
            })
            .collect();
        let mut room = Room::new(limits, now);
        if matches!(key, VehicleKey::Single(_)) {
            room.max_members = 1;
        }
        Self { queue, key, lane, limits, cursors, room }
    }

    /// Those with deadlines until `cutoff`: the ones until `urgent` first, by deadline; then of the tenant that was served least.
    pub(super) fn fill(&mut self, cutoff: Timestamp, urgent: Timestamp) {
        while !self.room.is_closed() {
            let Some((_, _, _, index)) = self.next(|deadline, _, time| {
                (deadline <= cutoff).then(|| if deadline <= urgent { (0, deadline.0) } else { (1, time) })
            }) else {
                break;
            };
            self.advance(index);
        }
        self.room.close_if_alone(&self.queue.targets);
    }

    /// Those who are not yet eligible, but save so much by joining these that now is the better moment for them too.
    pub(super) fn join(&mut self, now: Timestamp, outlook: &impl FeeOutlook, habit: Option<&Habit>) {
        let (Some(habit), limits) = (habit, self.limits) else { return };
        if limits.setup_wei == 0 {
            return;
        }
        while !self.room.is_closed() {
            let Some((_, _, _, index)) = self.next(|deadline, entry, time| {
                let saving = habit.saving_permille(limits.setup_wei, limits.own_wei(entry?));
                (deadline <= now.saturating_add(outlook.send_within_saving(saving))).then_some((1, time))
            }) else {
                break;
            };
            self.advance(index);
        }
    }

    /// The tenant whose first request comes next, by the rank that is given to it; without a rank it does not come. Once a
    /// tenant has something in the room, only its own: every transaction has one tenant that pays.
    fn next(
        &mut self,
        rank: impl Fn(Timestamp, Option<&QueuedRequest>, u64) -> Option<(u8, u64)>,
    ) -> Option<((u8, u64), Timestamp, u64, usize)> {
        let queue = self.queue;
        let owner = self.room.tenant.clone();
        let ranked = self.cursors.iter_mut().enumerate().filter_map(|(index, cursor)| {
            if owner.as_ref().is_some_and(|owner| owner != cursor.tenant) {
                return None;
            }
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
                    self.room.add(entry, self.limits, &self.queue.targets);
                }
            }
            Head::Signer(signer) => {
                let Some(state) = self.queue.signers.get(signer) else { return };
                if state.bound().is_some_and(|bound| bound != self.lane) {
                    return;
                }
                let Some(mut nonce) = state.next() else { return };
                while let Some(entry) = state.waiting.get(&nonce).and_then(|(id, _)| self.queue.entries.get(id)) {
                    if group_key(&entry.request) != self.key || !self.room.add(entry, self.limits, &self.queue.targets)
                    {
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

fn signer_of(entry: &QueuedRequest) -> Option<Address> {
    entry.request.sequence().map(|(_, signer, _)| signer)
}
/// Requests that did not fit, after which nothing more is tried for the same transaction.
const MAX_MISFITS: u32 = 64;

/// What still fits.
pub(super) struct Room {
    pub(super) members: Vec<RequestId>,
    gas: u64,
    bytes: usize,
    value: U256,
    max_members: usize,
    least_ceiling: Option<u128>,
    /// Who pays.
    tenant: Option<Arc<str>>,
    /// Whose requests are in it; `None` for a tenant's own calls.
    signers: Vec<Option<Address>>,
    /// The target of all of them, while it is one.
    target: Option<Address>,
    has_unnamed: bool,
    /// Looks at requests that can't join because of their company.
    misses: usize,
    /// Lowest of the members' ceilings.
    ceiling: u128,
    /// Time left of the member with the least, and of the one with the most.
    slacks: Option<(Duration, Duration)>,
    now: Timestamp,
    misfits: u32,
    /// What did not fit although nothing else was there, because the lane's balance does not cover it.
    pub(super) short: Option<Short>,
    pub(super) is_full: bool,
}

/// Requests in a row that may not join a transaction's company, after which no more are looked at.
const MAX_MISSES: usize = 256;

impl Room {
    fn new(limits: &ComposeLimits, now: Timestamp) -> Self {
        Self {
            members: Vec::new(),
            gas: limits.base_gas,
            bytes: 0,
            value: U256::ZERO,
            max_members: limits.max_batch,
            least_ceiling: None,
            tenant: None,
            signers: Vec::new(),
            target: None,
            has_unnamed: false,
            misses: 0,
            ceiling: u128::MAX,
            slacks: None,
            now,
            misfits: 0,
            short: None,
            is_full: false,
        }
    }

    /// Whether `entry` may share with those that are in: with an unnamed target among them there is one signer, or one target,
    /// of as many signers as its record allows.
    fn may_share(&self, entry: &QueuedRequest, targets: &TargetRecords) -> bool {
        if self.members.is_empty() || (!self.has_unnamed && entry.company == Company::Named) {
            return true;
        }
        let signer = signer_of(entry);
        let signers = self.signers.len() + usize::from(!self.signers.contains(&signer));
        let target = entry.request.target();
        signers == 1 || (self.target == Some(target) && signers <= 1 + targets.further_signers(target))
    }

    /// Nobody else may join a signer whose target has no record: there is no company to wait for.
    fn close_if_alone(&mut self, targets: &TargetRecords) {
        let further = self.target.map_or(0, |target| targets.further_signers(target));
        self.is_full |= self.has_unnamed && further == 0;
    }

    /// Adds `entry` if it fits; `false` if it can't join this transaction.
    fn add(&mut self, entry: &QueuedRequest, limits: &ComposeLimits, targets: &TargetRecords) -> bool {
        if !self.may_share(entry, targets) {
            self.misses += 1;
            // Those behind it are as many as the tenant likes to queue.
            self.is_full = self.misses >= MAX_MISSES;
            return false;
        }
        if entry.ceiling_wei_per_gas < limits.next_base_fee {
            return false;
        }
        // A member with a low ceiling would hold the others' fee cap down.
        let least = self.least_ceiling.unwrap_or_else(|| entry.ceiling_wei_per_gas.min(limits.quote_max_fee));
        if entry.ceiling_wei_per_gas < least {
            return false;
        }
        let ceiling = self.ceiling.min(entry.ceiling_wei_per_gas);
        let Some(slacks) = self.shared_slacks(entry, limits) else { return false };
        // After failures as a whole: a quarter, a sixteenth, alone.
        let company = match entry.batch_failures {
            0 => limits.max_batch,
            1 => limits.max_batch.div_ceil(4),
            2 => limits.max_batch.div_ceil(16),
            _ => 1,
        };
        let company = company.min(entry.refusals.company.unwrap_or(usize::MAX)).max(1);
        if self.members.len() >= company {
            return false;
        }
        let (gas, bytes) = (self.gas.saturating_add(entry.gas), self.bytes + entry.bytes);
        let value = self.value.saturating_add(entry.request.value());
        let is_first = self.members.is_empty();
        // What is too large alone was refused at admission, or is refused by the nodes. What is too dear waits for a lower price.
        let is_too_large = !is_first && (gas > limits.max_gas || bytes > limits.max_bytes);
        let price = if is_first { limits.next_price } else { limits.bumped_fee(ceiling) };
        let is_too_dear = limits.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(price) > cap);
        let needed_wei = limits.worst_wei(gas, bytes, value, ceiling);
        let is_short = limits.available_wei.is_some_and(|available| needed_wei > available);
        if is_too_large || is_too_dear || is_short {
            if is_first && is_short {
                let until = entry.request.deadline();
                let (least, last) = self.short.map_or((needed_wei, until), |short| (short.needed_wei, short.until));
                self.short = Some(Short { needed_wei: needed_wei.min(least), until: until.max(last) });
            }
            self.misfit(limits);
            return false;
        }
        self.max_members = self.max_members.min(company);
        (self.gas, self.bytes, self.value) = (gas, bytes, value);
        (self.least_ceiling, self.ceiling, self.slacks) = (Some(least), ceiling, Some(slacks));
        let target = entry.request.target();
        self.target = (self.members.is_empty() || self.target == Some(target)).then_some(target);
        self.tenant.get_or_insert_with(|| entry.tenant.clone());
        self.has_unnamed |= entry.company == Company::Unnamed;
        let signer = signer_of(entry);
        if !self.signers.contains(&signer) {
            self.signers.push(signer);
        }
        self.members.push(entry.request.id());
        if self.members.len() >= self.max_members {
            self.is_full = true;
        }
        !self.is_full
    }

    /// The least and the most time left with `entry` in it; `None` if it must not share: whoever has so little time left that it
    /// may well miss its deadline would take others down with it, if their own are much later.
    fn shared_slacks(&self, entry: &QueuedRequest, limits: &ComposeLimits) -> Option<(Duration, Duration)> {
        let slack = entry.request.deadline().since(self.now);
        let (least, most) = self.slacks.map_or((slack, slack), |(least, most)| (least.min(slack), most.max(slack)));
        (least >= limits.urgent || least.saturating_mul(2) >= most).then_some((least, most))
    }

    /// Something did not fit. Smaller ones may: it is full only if not much room is left.
    fn misfit(&mut self, limits: &ComposeLimits) {
        if self.members.is_empty() {
            // Whoever fits nowhere keeps nobody else out.
            return;
        }
        self.misfits += 1;
        let (gas, bytes) = (limits.max_gas - limits.max_gas / 4, limits.max_bytes - limits.max_bytes / 4);
        self.is_full |= self.gas >= gas || self.bytes >= bytes;
    }

    /// Nothing more is tried.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_full || self.misfits >= MAX_MISFITS
    }
}
