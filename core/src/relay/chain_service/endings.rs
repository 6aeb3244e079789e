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
        let expired = self.queue.expired(now);
        if expired.is_empty() {
            return;
        }
        let successors: Vec<RequestId> =
            expired.iter().flat_map(|id| self.queue.successors(*id)).filter(|id| !expired.contains(id)).collect();
        self.end_waiting(now, &expired, Status::Expired, Reason::DeadlinePassed, None);
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
