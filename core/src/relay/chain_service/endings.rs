//! Requests that end without a transaction: withdrawn, expired, impossible.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{super::error::CancelError, ChainService, Done, count_ended};
use crate::{
    ledger::{RequestChange, Tracked, Write},
    request::{Reason, RequestId, Status},
    time::Timestamp,
};

impl ChainService {
    pub(super) fn cancel(&mut self, now: Timestamp, id: RequestId, reply: oneshot::Sender<Result<(), CancelError>>) {
        if !self.queue.is_waiting(id) {
            let status = if self.queue.get(id).is_some() { Status::Batched } else { Status::Finalized };
            let _ = reply.send(Err(CancelError::TooLate { id, status }));
            return;
        }
        let successors = self.queue.successors(id);
        let written = self.end(now, &[(id, Reason::CancelledByOwner)], Status::Cancelled, None);
        // Without a durable end there is no answer: the caller learns that the relay stopped.
        self.tasks.spawn(async move { if written.await { Done::Cancelled { id, reply } } else { Done::Noted } });
        self.end_waiting(now, &successors, Status::Rejected, Reason::PredecessorFailed, None);
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        // What is held for the next block ends with its time, not with that block.
        let is_over = |id: &RequestId| self.queue.get(*id).is_some_and(|entry| entry.request.deadline() <= now);
        let (over, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().partition(is_over);
        self.held = held;
        over.into_iter().for_each(|id| self.queue.put_back(id));
        let expired = self.queue.expired(now);
        if expired.is_empty() {
            return;
        }
        let successors: Vec<RequestId> =
            expired.iter().flat_map(|id| self.queue.successors(*id)).filter(|id| !expired.contains(id)).collect();
        let limits = self.limits(now);
        let is_too_dear = |id: &RequestId| {
            let gas = self.queue.get(*id).map_or(0, |entry| entry.gas.saturating_add(self.shared.params.base_gas()));
            limits.as_ref().is_some_and(|limits| limits.is_too_dear(gas))
        };
        let (dear, late): (Vec<_>, Vec<_>) = expired.into_iter().partition(is_too_dear);
        self.end_waiting(now, &dear, Status::Expired, Reason::AboveNodeFeeCap, None);
        self.end_waiting(now, &late, Status::Expired, Reason::DeadlinePassed, None);
        self.end_waiting(now, &successors, Status::Rejected, Reason::PredecessorFailed, None);
    }

    /// Ends waiting requests for a reason; the write is retried until it is durable.
    pub(in crate::relay) fn end_waiting(
        &mut self,
        now: Timestamp,
        ids: &[RequestId],
        to: Status,
        reason: Reason,
        detail: Option<&str>,
    ) {
        if ids.is_empty() {
            return;
        }
        let ended: Vec<_> = ids.iter().map(|id| (*id, reason)).collect();
        let written = self.end(now, &ended, to, detail);
        self.tasks.spawn(async move {
            written.await;
            Done::Noted
        });
    }

    /// Ends waiting requests; says when that is durable, or that it never will be.
    fn end(
        &mut self,
        now: Timestamp,
        ended: &[(RequestId, Reason)],
        to: Status,
        detail: Option<&str>,
    ) -> impl Future<Output = bool> + Send + use<> {
        let mut changes = Vec::with_capacity(ended.len());
        let mut costs = Vec::with_capacity(ended.len());
        for (id, reason) in ended {
            let Some(entry) = self.queue.remove(*id, false) else { continue };
            costs.push((entry.tenant, *id, entry.spent_wei));
            count_ended(to, Some(*reason), 1);
            let mut change = RequestChange::to(*id, to).because(*reason);
            change.detail = detail.map(str::to_owned);
            changes.push(change);
        }
        let written = self.write(vec![Write::Requests { changes, at: now }], Vec::new());
        self.settled(written, costs)
    }

    /// Gives budgets back what ended requests did not spend, once their end is durable and not before: after a crash in
    /// between they would be open again.
    pub(in crate::relay) fn settled(
        &self,
        written: oneshot::Receiver<Vec<Tracked>>,
        costs: Vec<(Arc<str>, RequestId, alloy_primitives::U256)>,
    ) -> impl Future<Output = bool> + Send + use<> {
        let tenants = self.tenants.clone();
        async move {
            let is_durable = written.await.is_ok();
            for (tenant, id, cost_wei) in costs.into_iter().filter(|_| is_durable) {
                tenants.settled(&tenant, id, cost_wei);
            }
            is_durable
        }
    }
}
