//! Entries of the outbox, indexed by due time.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::U256;

use super::{
    EntryState, EntryView, Outcome,
    record::{Record, User},
};
use crate::{request::RequestId, submit::IdempotencyKey, time::Timestamp};

/// Position of an entry in its life cycle.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    Storing,
    Waiting(Timestamp),
    Calling,
    Ending,
    Ended,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) state: State,
    pub(super) revision: u64,
    /// Time of the next attempt at a failed write; `None` without one.
    pub(super) store_again_at: Option<Timestamp>,
    pub(super) store_failures: u32,
    pub(super) attempts: u32,
    pub(super) may_be_accepted: bool,
    /// To be sent alone: as part of a batch it was refused together with the others.
    pub(super) is_solo: bool,
    /// To be looked up instead of sent; holds the outcome in case the relayer does not know it.
    pub(super) lookup: Option<Outcome>,
    pub(super) last_error_code: Option<String>,
}

impl Entry {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            state: State::Storing,
            revision: 0,
            store_again_at: None,
            store_failures: 0,
            attempts: 0,
            may_be_accepted: false,
            is_solo: false,
            lookup: None,
            last_error_code: None,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Ending | State::Ended)
    }

    /// True if it has this id, given by its signer or in its acceptance.
    pub(super) fn holds(&self, id: RequestId) -> bool {
        let accepted = match &self.record.outcome {
            Some(Outcome::Accepted { accepted }) => Some(accepted.id),
            _ => None,
        };
        self.record.request_id.or(accepted) == Some(id)
    }

    pub(super) fn view(&self) -> EntryView {
        EntryView {
            key: self.record.key.clone(),
            state: match self.state {
                State::Storing => EntryState::Storing,
                State::Waiting(_) => EntryState::Waiting,
                State::Calling => EntryState::Calling,
                State::Ending => EntryState::Ending,
                State::Ended => EntryState::Ended,
            },
            attempts: self.attempts,
            last_error_code: self.last_error_code.clone(),
            expires_at: self.record.expires_at,
            may_be_accepted: self.may_be_accepted,
            place: self.record.place,
        }
    }
}

/// All entries by order of arrival, with indexes for the next due ones.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<u64, Entry>,
    keys: BTreeMap<IdempotencyKey, u64>,
    /// Open entries of each user, in order of their nonces.
    users: BTreeMap<User, BTreeSet<(U256, u64)>>,
    /// Waiting entries that are not blocked by an earlier nonce.
    due: BTreeSet<(Timestamp, u64)>,
    /// Waiting entries, by expiry.
    expiries: BTreeSet<(Timestamp, u64)>,
    /// Failed writes, by time of the next attempt.
    rewrites: BTreeSet<(Timestamp, u64)>,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn order_of(&self, key: &IdempotencyKey) -> Option<u64> {
        self.keys.get(key).copied()
    }

    pub(super) fn last_order(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(order, _)| *order)
    }

    pub(super) fn get(&self, order: u64) -> Option<&Entry> {
        self.entries.get(&order)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn insert(&mut self, order: u64, entry: Entry) {
        self.keys.insert(entry.record.key.clone(), order);
        self.entries.insert(order, entry);
        self.update(order, |_| {});
    }

    pub(super) fn remove(&mut self, order: u64) -> Option<Entry> {
        self.update(order, |entry| (entry.state, entry.store_again_at) = (State::Ended, None));
        let entry = self.entries.remove(&order)?;
        self.keys.remove(&entry.record.key);
        Some(entry)
    }

    /// Changes an entry and updates all indexes. The only way to change one.
    pub(super) fn update<R>(&mut self, order: u64, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let entry = self.entries.get_mut(&order)?;
        self.expiries.remove(&(entry.record.expires_at, order));
        if let Some(at) = entry.store_again_at {
            self.rewrites.remove(&(at, order));
        }
        if let State::Waiting(at) = entry.state {
            self.due.remove(&(at, order));
        }
        let result = change(entry);
        let (is_open, place) = (entry.is_open(), entry.record.place);
        if let Some(at) = entry.store_again_at {
            self.rewrites.insert((at, order));
        }
        if let State::Waiting(at) = entry.state {
            if entry.lookup.is_none() {
                self.expiries.insert((entry.record.expires_at, order));
            }
            if place.is_none() {
                self.due.insert((at, order));
            }
        }
        if let Some(place) = place {
            let line = self.users.entry(place.user).or_default();
            let former = line.first().copied();
            if is_open {
                line.insert((place.nonce, order));
            } else {
                line.remove(&(place.nonce, order));
            }
            let first = line.first().copied();
            if line.is_empty() {
                self.users.remove(&place.user);
            }
            if former != first
                && let Some((_, former)) = former
                && let Some(State::Waiting(at)) = self.entries.get(&former).map(|entry| &entry.state)
            {
                self.due.remove(&(*at, former));
            }
            if let Some((_, first)) = first
                && let Some(State::Waiting(at)) = self.entries.get(&first).map(|entry| &entry.state)
            {
                self.due.insert((*at, first));
            }
        }
        Some(result)
    }

    /// The first due entry among the waiting ones, with its due time.
    pub(super) fn next_due(&self) -> Option<(Timestamp, u64)> {
        self.due.first().copied()
    }

    /// Entries due at `now`, in order of their due times.
    pub(super) fn due_at(&self, now: Timestamp) -> impl Iterator<Item = u64> {
        self.due.range(..=(now, u64::MAX)).map(|(_, order)| *order)
    }

    /// `order` and its successors in its user's nonce sequence, as far as they are due too.
    pub(super) fn line_from(&self, order: u64, now: Timestamp) -> Vec<u64> {
        let Some(place) = self.entries.get(&order).and_then(|entry| entry.record.place) else { return vec![order] };
        let Some(line) = self.users.get(&place.user) else { return vec![order] };
        line.range((place.nonce, order)..)
            .map(|(_, order)| *order)
            .take_while(|order| {
                self.entries.get(order).is_some_and(|entry| matches!(entry.state, State::Waiting(at) if at <= now))
            })
            .collect()
    }

    pub(super) fn next_expiry(&self) -> Option<(Timestamp, u64)> {
        self.expiries.first().copied()
    }

    pub(super) fn next_rewrite(&self) -> Option<(Timestamp, u64)> {
        self.rewrites.first().copied()
    }
}
