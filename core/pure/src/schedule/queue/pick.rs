//! Selection of a transaction's members.

use std::{iter::Peekable, sync::Arc, time::Duration};

use alloy_primitives::{Address, U256};

use super::{
    entry::QueuedRequest,
    limits::{ComposeLimits, Short},
    line::{Head, Rank, Ready, TenantLine},
    state::Queue,
};
use crate::{
    ordered::{Set, SetIter},
    protection::Protection,
    request::{
        LaneId, RequestId,
        vehicle::{Company, VehicleKey},
    },
    schedule::{FeeOutlook, company::ArrivalModel, targets::TargetRecords},
    table::Table,
    time::Timestamp,
};

/// Merged view of two lists: heads for any lane, and heads bound to this one.
struct Merged<'a> {
    free: Peekable<SetIter<'a, Rank>>,
    bound: Option<Peekable<SetIter<'a, Rank>>>,
}

impl<'a> Merged<'a> {
    fn new(line: &'a TenantLine, lane: LaneId, list: impl Fn(&'a Ready) -> &'a Set<Rank>) -> Self {
        let bound = line.bound.get(&lane).map(|ready| list(ready).iter().peekable());
        Self { free: list(&line.free).iter().peekable(), bound }
    }

    fn peek(&mut self) -> Option<&'a Rank> {
        let (free, bound) = (self.free.peek().copied(), self.bound.as_mut().and_then(|bound| bound.peek().copied()));
        free.into_iter().chain(bound).min()
    }

    fn pass(&mut self) {
        let Some(first) = self.peek() else { return };
        if self.free.next_if(|rank| *rank == first).is_none()
            && let Some(bound) = &mut self.bound
        {
            bound.next();
        }
    }
}

/// Source of a tenant's next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Fresh,
    Late,
    /// A signer that had its turn and has more.
    Again,
}

/// Position in a tenant's lists.
struct Cursor<'a> {
    since_late: u32,
    fresh: Merged<'a>,
    late: Merged<'a>,
    /// Signers with more to send, by number of turns so far.
    again: Table<(u32, Rank, u64), ()>,
}

impl Cursor<'_> {
    /// Next source of a head that `may` go.
    fn next(&mut self, may: &impl Fn(Timestamp, Head) -> bool) -> Option<Source> {
        let allowed = |rank: &&Rank| may(rank.0, rank.2);
        let (fresh, late) = (self.fresh.peek().filter(allowed), self.late.peek().filter(allowed));
        let is_lates_turn = self.since_late + 1 >= LATE_SHARE;
        match (fresh, late) {
            (Some(_), Some(_)) if is_lates_turn => Some(Source::Late),
            (Some(_), _) => Some(Source::Fresh),
            (None, Some(_)) => Some(Source::Late),
            (None, None) => (!self.again.is_empty()).then_some(Source::Again),
        }
    }
}

/// Composes one transaction of one tenant, which pays for it.
pub(super) struct Picker<'a> {
    queue: &'a Queue,
    key: VehicleKey,
    lane: LaneId,
    limits: &'a ComposeLimits,
    cursor: Cursor<'a>,
    pub(super) room: Room,
    /// Heads found with a ceiling below the base fee.
    pub(super) priced_out: Vec<Head>,
    /// Most nonces of one signer per turn.
    turn: usize,
    passed: usize,
}

impl<'a> Picker<'a> {
    pub(super) fn new(
        queue: &'a Queue,
        key: VehicleKey,
        line: &'a TenantLine,
        lane: LaneId,
        limits: &'a ComposeLimits,
        now: Timestamp,
        tenant: &Arc<str>,
    ) -> Self {
        let cursor = Cursor {
            since_late: queue.tenants.get(tenant).map_or(0, |state| state.since_late),
            fresh: Merged::new(line, lane, |ready| &ready.fresh),
            late: Merged::new(line, lane, |ready| &ready.late),
            again: Table::new(),
        };
        let mut room = Room::new(limits, now);
        if key.is_lone() {
            room.max_members = 1;
        }
        let turn = limits.max_batch.div_ceil(8).max(1);
        Self { queue, key, lane, limits, cursor, room, priced_out: Vec::new(), turn, passed: 0 }
    }

    /// True if a head was examined that did not fit.
    pub(super) const fn has_passed(&self) -> bool {
        self.passed > 0
    }

    /// Adds heads due until `cutoff`.
    pub(super) fn fill(&mut self, cutoff: Timestamp) {
        self.take_while(|due, _| due <= cutoff);
        self.room.close_if_alone(&self.queue.targets);
    }

    /// Adds heads that are not yet eligible, but save so much by joining that now is the better moment for them too.
    pub(super) fn join(&mut self, now: Timestamp, outlook: &impl FeeOutlook, arrival: Option<&ArrivalModel>) {
        let (Some(arrival), limits, queue) = (arrival, self.limits, self.queue) else { return };
        if limits.setup_wei == 0 {
            return;
        }
        self.take_while(|due, head| {
            let Some(entry) = queue.head(head) else { return false };
            let saving = arrival.saving_permille(limits.setup_wei, limits.own_wei(entry));
            due <= now.saturating_add(outlook.send_within_saving(saving))
        });
    }

    fn take_while(&mut self, may: impl Fn(Timestamp, Head) -> bool) {
        while !self.room.is_closed() && self.passed < MAX_PASSED {
            let Some(from) = self.cursor.next(&may) else { break };
            self.advance(from);
        }
    }

    /// Takes the next head's request, and its signer's following ones in order, as far as they fit.
    fn advance(&mut self, from: Source) {
        let cursor = &mut self.cursor;
        let (turns, rank, start) = match from {
            Source::Again => {
                let Some(((turns, rank, nonce), ())) = cursor.again.pop_first() else { return };
                (turns, rank, Some(nonce))
            }
            Source::Fresh | Source::Late => {
                let list = if from == Source::Late { &mut cursor.late } else { &mut cursor.fresh };
                let Some(rank) = list.peek().copied() else { return };
                list.pass();
                (0, rank, None)
            }
        };
        let members = self.room.members.len();
        match rank.2 {
            Head::Request(id) => {
                if let Some(entry) = self.queue.entries.get(&id) {
                    if entry.ceiling_wei_per_gas < self.limits.next_base_fee {
                        self.priced_out.push(rank.2);
                        return;
                    }
                    self.room.add(entry, self.limits, &self.queue.targets);
                }
            }
            Head::Signer(signer) => {
                let Some(state) = self.queue.signers.get(&signer) else { return };
                if state.bound().is_some_and(|bound| bound != self.lane) {
                    return;
                }
                let Some(mut nonce) = start.or_else(|| state.next()) else { return };
                let mut left = self.turn;
                while let Some(entry) = state.waiting.get(&nonce).and_then(|id| self.queue.entries.get(id)) {
                    if start.is_none() && left == self.turn && entry.ceiling_wei_per_gas < self.limits.next_base_fee {
                        self.priced_out.push(rank.2);
                        return;
                    }
                    if left == 0 {
                        self.cursor.again.insert((turns + 1, rank, nonce), ());
                        break;
                    }
                    left -= 1;
                    if VehicleKey::of(&entry.request, self.queue.contracts).group() != self.key
                        || !self.room.add(entry, self.limits, &self.queue.targets)
                    {
                        break;
                    }
                    let Some(after) = nonce.checked_add(1) else { break };
                    nonce = after;
                }
            }
        }
        let taken = &self.room.members[members..];
        self.passed += usize::from(taken.is_empty());
        if !taken.is_empty() {
            let is_late = taken.iter().any(|id| self.queue.entries.get(id).is_some_and(|entry| entry.is_late));
            let count = u32::try_from(taken.len()).unwrap_or(u32::MAX);
            self.cursor.since_late = if is_late { 0 } else { self.cursor.since_late.saturating_add(count) };
        }
    }
}

fn signer_of(entry: &QueuedRequest) -> Option<Address> {
    entry.request.sequence().map(|(_, signer, _)| signer)
}
/// One in this many of a tenant's places goes to its oldest late request, if there is one.
const LATE_SHARE: u32 = 8;
/// Most entries that can't join a transaction and are passed over.
const MAX_PASSED: usize = 1_024;
/// Number of requests that did not fit, after which the transaction is closed.
const MAX_MISFITS: u32 = 64;

/// Remaining room in a transaction, with its members.
pub(super) struct Room {
    pub(super) members: Vec<RequestId>,
    gas: u64,
    bytes: usize,
    value: U256,
    max_members: usize,
    least_ceiling: Option<u128>,
    /// Signers of its requests; `None` for a tenant's own calls.
    signers: Vec<Option<Address>>,
    /// The common target of all members; `None` if there is none.
    target: Option<Address>,
    has_unnamed: bool,
    has_suspect: bool,
    /// Number of requests refused because of the members' company.
    misses: usize,
    /// Lowest of the members' ceilings.
    ceiling: u128,
    /// Least and most remaining slack of a member.
    slacks: Option<(Duration, Duration)>,
    now: Timestamp,
    misfits: u32,
    /// Shortage for requests that the lane's balance does not cover even alone.
    pub(super) short: Option<Short>,
    pub(super) is_full: bool,
}

/// Number of requests that can't join a transaction's company, after which no more are examined.
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
            signers: Vec::new(),
            target: None,
            has_unnamed: false,
            has_suspect: false,
            misses: 0,
            ceiling: u128::MAX,
            slacks: None,
            now,
            misfits: 0,
            short: None,
            is_full: false,
        }
    }

    /// True if `entry` may share with the members: with a suspect target among them only one signer; with an unnamed
    /// target only one signer, or one target with as many signers as its record allows.
    fn may_share(&self, entry: &QueuedRequest, targets: &TargetRecords) -> bool {
        let target = entry.request.target();
        let has_suspect = self.has_suspect || targets.is_suspect(target, self.now);
        let is_named = (!self.has_unnamed && entry.company == Company::Named) || !Protection::NamedCompany.is_on();
        if self.members.is_empty() || (is_named && !has_suspect) {
            return true;
        }
        let signer = signer_of(entry);
        let signers = self.signers.len() + usize::from(!self.signers.contains(&signer));
        let is_known = !has_suspect && self.target == Some(target);
        signers == 1 || (is_known && signers <= 1 + targets.further_signers(target))
    }

    /// Closes the transaction if no other signer may join, because the target has no record or is suspect: there is no
    /// company to wait for.
    fn close_if_alone(&mut self, targets: &TargetRecords) {
        let further = self.target.map_or(0, |target| targets.further_signers(target));
        self.is_full |= self.has_suspect || (self.has_unnamed && further == 0 && Protection::NamedCompany.is_on());
    }

    /// Adds `entry` if it fits; `false` if the walk along its signer's nonces ends here.
    fn add(&mut self, entry: &QueuedRequest, limits: &ComposeLimits, targets: &TargetRecords) -> bool {
        if !self.may_share(entry, targets) {
            self.misses += 1;
            // A tenant may queue any number behind it.
            self.is_full = self.misses >= MAX_MISSES;
            return false;
        }
        if entry.ceiling_wei_per_gas < limits.next_base_fee {
            return false;
        }
        // A member with a low ceiling would limit the others' fee cap.
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
        let company = company.min(entry.refusals.company.map_or(usize::MAX, |company| company as usize)).max(1);
        if self.members.len() >= company {
            return false;
        }
        let (gas, bytes) = (self.gas.saturating_add(entry.gas), self.bytes + entry.bytes);
        let value = self.value.saturating_add(entry.request.value());
        let is_first = self.members.is_empty();
        // A request too large alone was refused at admission, or is refused by the nodes. One that is too dear waits
        // for a lower price.
        let is_too_large = !is_first && (gas > limits.max_gas || bytes > limits.max_bytes);
        let price = if is_first { limits.next_price } else { limits.bumped_fee(ceiling) };
        let is_too_dear = limits.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(price) > cap);
        let needed_wei = limits.worst_wei(gas, bytes, value, ceiling);
        let is_short = limits.is_short(needed_wei);
        if is_too_large || is_too_dear || is_short {
            if is_first && is_short {
                let until = entry.request.valid_until();
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
        self.has_unnamed |= entry.company == Company::Unnamed;
        self.has_suspect |= targets.is_suspect(target, self.now);
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

    /// Least and most remaining slack with `entry` included; `None` if it must not share: a request likely to miss its
    /// deadline would take others down with it whose deadlines are much later.
    fn shared_slacks(&self, entry: &QueuedRequest, limits: &ComposeLimits) -> Option<(Duration, Duration)> {
        let slack = entry.due.since(self.now);
        let (least, most) = self.slacks.map_or((slack, slack), |(least, most)| (least.min(slack), most.max(slack)));
        (least >= limits.urgent || least.saturating_mul(2) >= most).then_some((least, most))
    }

    /// Counts a request that did not fit. Smaller ones may still fit: the transaction is full only if little room is
    /// left.
    fn misfit(&mut self, limits: &ComposeLimits) {
        if self.members.is_empty() {
            // A request that fits nowhere must not keep others out.
            return;
        }
        self.misfits += 1;
        let (gas, bytes) = (limits.max_gas - limits.max_gas / 4, limits.max_bytes - limits.max_bytes / 4);
        self.is_full |= self.gas >= gas || self.bytes >= bytes;
    }

    /// True if no more requests are tried.
    const fn is_closed(&self) -> bool {
        self.is_full || self.misfits >= MAX_MISFITS
    }
}
