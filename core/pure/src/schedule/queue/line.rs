//! The ready lists: each tenant's heads in each group.

use std::sync::Arc;

use alloy_primitives::Address;

use super::{
    entry::QueuedRequest,
    limits::{ComposeLimits, Short},
};
use crate::{
    ordered::Set,
    request::{LaneId, RequestId, vehicle::VehicleKey},
    table::Table,
    time::Timestamp,
};

/// (forwarder, user).
pub(super) type Signer = (Address, Address);

/// Entry of a ready list: a signer with a run of executable nonces, or a request without order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Head {
    Signer(Signer),
    Request(RequestId),
}

/// Lower bound of all heads.
pub(super) const FIRST_HEAD: Head = Head::Signer((Address::ZERO, Address::ZERO));

/// Place in a line: due time, then order of acceptance.
pub(super) type Rank = (Timestamp, u64, Head);

/// Heads that could be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Heads whose promise can still be kept.
    pub(super) fresh: Set<Rank>,
    /// Heads whose promise was missed.
    pub(super) late: Set<Rank>,
}

impl Ready {
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.late.is_empty()
    }

    pub(super) const fn of(&mut self, is_late: bool) -> &mut Set<Rank> {
        if is_late { &mut self.late } else { &mut self.fresh }
    }

    pub(super) fn first(&self) -> Option<Timestamp> {
        let due = |set: &Set<Rank>| set.first().map(|(due, ..)| *due);
        due(&self.fresh).into_iter().chain(due(&self.late)).min()
    }
}

/// One tenant's heads in one group.
#[derive(Debug, Default)]
pub(super) struct TenantLine {
    /// For any lane.
    pub(super) free: Ready,
    /// Heads that follow a transaction in flight on a lane: for that lane only.
    pub(super) bound: Table<LaneId, Ready>,
    /// Lanes that found nothing they could carry, with their findings. Cleared when a head enters that could go, or any
    /// head leaves.
    pub(super) stuck: Table<LaneId, Stuck>,
}

impl TenantLine {
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty() && self.bound.is_empty()
    }

    /// Earliest due time of a head that `lane` could carry.
    pub(super) fn first_for(&self, lane: LaneId) -> Option<Timestamp> {
        let bound = self.bound.get(&lane).and_then(Ready::first);
        self.free.first().into_iter().chain(bound).min()
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = &Ready> {
        std::iter::once(&self.free).chain(self.bound.values())
    }

    /// Heads that `lane` could carry and that are due after `since`, until `cutoff`.
    pub(super) fn due_between(&self, lane: LaneId, since: Timestamp, cutoff: Timestamp) -> impl Iterator<Item = Head> {
        let first = |due: Timestamp| (Timestamp(due.0.saturating_add(1)), 0, FIRST_HEAD);
        let range = first(since.min(cutoff))..first(cutoff);
        let ready = std::iter::once(&self.free).chain(self.bound.get(&lane));
        ready
            .flat_map(|ready| [&ready.fresh, &ready.late])
            .flat_map(move |set| set.range(range.clone()))
            .map(|rank| rank.2)
    }
}

/// Finding of a lane that could carry nothing, for lack of money or because the nodes' fee cap is too low.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stuck {
    pub(super) limits: ComposeLimits,
    /// Heads due until then were examined.
    pub(super) until: Timestamp,
    pub(super) short: Option<Short>,
}

impl Stuck {
    /// True if it could not carry `entry` either.
    pub(super) fn holds(&mut self, entry: &QueuedRequest) -> bool {
        let is_held = !self.limits.can_go_alone(entry);
        if is_held && let Some(short) = self.limits.short_of(entry) {
            self.short = Some(self.short.map_or(short, |other| other.and(short)));
        }
        is_held
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    /// Boxed like the queue's own tables: one instance of the table's code for both, and cheap moves.
    pub(super) tenants: Table<Arc<str>, Box<TenantLine>>,
    /// End of the wait for company, as computed since the last change; `None` if not computed since.
    pub(super) held_until: Option<Timestamp>,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.values().all(|line| line.is_empty())
    }
}

/// Place of a head in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: VehicleKey,
    pub(super) tenant: Arc<str>,
    pub(super) due: Timestamp,
    pub(super) seq: u64,
    pub(super) is_late: bool,
    /// The lane to which it is bound; `None` if any.
    pub(super) lane: Option<LaneId>,
    pub(super) ceiling: u128,
    /// True while its ceiling is below the base fee: it is in no ready list until the base fee falls.
    pub(super) is_asleep: bool,
}

/// The list of a head, and its place there.
pub(super) const fn list_of(place: &Place) -> (&VehicleKey, &Arc<str>, Option<LaneId>, bool, Timestamp, u64) {
    (&place.key, &place.tenant, place.lane, place.is_late, place.due, place.seq)
}
