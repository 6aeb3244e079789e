//! Missed promises and the end of validity.

use std::time::Duration;

use super::{entry::QueuedRequest, line::Head, state::Queue};
use crate::{request::RequestId, time::Timestamp};

impl Queue {
    /// A reorg removed its block: its promise may still be missed.
    pub fn taken_back(&mut self, id: RequestId) {
        if let Some(entry) = self.entries.get(&id)
            && (!entry.is_late || entry.due < entry.request.valid_until())
        {
            self.dues.insert((entry.due, id));
        }
    }

    pub(super) fn watch_due(&mut self, entry: &QueuedRequest) {
        if !entry.is_late || entry.due < entry.request.valid_until() {
            self.dues.insert((entry.due, entry.request.id()));
        }
    }

    /// Waiting requests that are no longer valid.
    pub fn expired(&self, now: Timestamp) -> Vec<RequestId> {
        self.valid.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// Plans a new due time, `within` from now, for every overdue request that is still valid, waiting or in flight.
    /// Returns the requests whose promise is thereby missed, each once; also those in flight that are no longer valid:
    /// they may execute until their transaction's nonce is final. (Waiting ones [expire](Self::expired).)
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
            // Always later than now, so that the loop ends.
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
}
