//! A chain service in a cluster: drives the lanes while it holds the lease, and follows otherwise.

use super::message::{PeerUpdates, Takeover};
use super::service::ChainService;
use crate::{relay::cluster::lease::Lease, sender::Input, time::Timestamp};

impl ChainService {
    /// True if transactions may be prepared and sent now.
    pub(in crate::relay) fn may_send(&self) -> bool {
        match &self.membership {
            None => true,
            Some(membership) => membership.lease.as_ref().is_some_and(Lease::holds),
        }
    }

    /// True while another instance drives the lanes.
    pub(in crate::relay) fn is_following(&self) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.lease.is_none())
    }

    pub(in crate::relay) fn lease(&self) -> Option<Lease> {
        self.membership.as_ref().and_then(|membership| membership.lease.clone())
    }

    /// Takes the lanes over.
    pub(in crate::relay) fn take_over(&mut self, takeover: Takeover) {
        self.step_down();
        let Takeover { lease, restored, asked } = takeover;
        metrics::histogram!("slackwater_lease_takeover_seconds").record(asked.elapsed().as_secs_f64());
        let queue = &restored.open.queue;
        let (waiting, in_flight) = (queue.waiting(), queue.in_flight());
        tracing::info!(chain_id = self.chain_id(), waiting, in_flight, "driving the chain's lanes");
        self.sender.take_over(restored.open);
        self.keys = restored.keys;
        if let Some(membership) = &mut self.membership {
            membership.lease = Some(lease);
        }
    }

    /// Steps down if the lease was lost.
    pub(in crate::relay) fn watch_lease(&mut self) {
        if self.lease().is_some_and(|lease| lease.is_revoked()) {
            self.step_down();
        }
    }

    /// Discards all lane state: the ledger has it, and another instance drives the lanes.
    fn step_down(&mut self) {
        let Some(membership) = &mut self.membership else { return };
        if membership.lease.take().is_none() {
            return;
        }
        self.sender.step_down();
        self.keys.clear();
        self.backlog.clear();
        // Their results would be about lanes that are no longer ours.
        self.drop_tasks();
        tracing::warn!(chain_id = self.chain_id(), "not driving the chain's lanes any more");
    }

    /// Applies other instances' acceptances and withdrawals.
    pub(in crate::relay) fn on_peer_updates(&mut self, now: Timestamp, updates: PeerUpdates) {
        if self.lease().is_none_or(|lease| lease.fence().token != updates.token) {
            return;
        }
        self.handle(now, Input::Accepted(updates.accepted));
        self.handle(now, Input::Withdrawn(updates.withdrawn));
    }
}
