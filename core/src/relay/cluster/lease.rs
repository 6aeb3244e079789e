//! A lease as measured by its holder: with two clocks of its own, from before the request for it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use crate::{ledger::Fence, relay::clock, time::Timestamp};

/// Longest pause between checks whether the lease still holds, during a broadcast under it.
const OVER_PAUSE: Duration = Duration::from_millis(100);

/// A lease as its holder sees it. Clones share state.
#[derive(Debug, Clone)]
pub(in crate::relay) struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    fence: Fence,
    /// Time of expiry by two clocks: a monotonic one, and the wall clock, which goes on while the machine is suspended.
    until: Mutex<(Instant, Timestamp)>,
    is_revoked: AtomicBool,
}

/// A point in time by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Moment(pub(in crate::relay) Instant, Timestamp);

impl Moment {
    pub(in crate::relay) fn now() -> Self {
        Self(Instant::now(), clock::now())
    }

    fn plus(self, period: Duration) -> (Instant, Timestamp) {
        (self.0 + period, Timestamp(self.1.0.saturating_add(crate::time::millis(period))))
    }
}

impl Lease {
    pub(in crate::relay) fn new(fence: Fence, asked: Moment, period: Duration) -> Self {
        let until = Mutex::new(asked.plus(period));
        Self(Arc::new(Held { fence, until, is_revoked: AtomicBool::new(false) }))
    }

    pub(in crate::relay) fn fence(&self) -> Fence {
        self.0.fence
    }

    /// True if the lease is certainly in force, so that work which needs it may be done now.
    pub(in crate::relay) fn holds(&self) -> bool {
        let (until, wall) = *self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_revoked() && Instant::now() < until && clock::now() < wall
    }

    /// Waits until the lease no longer holds, renewals included.
    async fn over(&self) {
        while self.holds() {
            let (until, _) = *self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
            tokio::time::sleep_until(until.min(Instant::now() + OVER_PAUSE)).await;
        }
    }

    /// Runs `work` while the lease holds; `None` if the lease ended first. The clock is checked before each poll of
    /// `work`: after a suspension of the process, ready tasks run before any timer fires.
    pub(in crate::relay) async fn guard<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut over = std::pin::pin!(self.over());
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if !self.holds() || over.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    pub(in crate::relay) fn extend(&self, asked: Moment, period: Duration) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = asked.plus(period);
    }

    /// Ends the lease because the database reports it as lost.
    pub(in crate::relay) fn revoke(&self) {
        if !self.0.is_revoked.swap(true, Ordering::AcqRel) {
            let Fence { chain_id, token } = self.fence();
            tracing::warn!(chain_id, token, "the lease on the chain's lanes is lost; whoever has it now goes on");
            metrics::counter!("slackwater_leases_lost_total", "chain_id" => chain_id.to_string()).increment(1);
        }
    }

    pub(in crate::relay) fn is_revoked(&self) -> bool {
        self.0.is_revoked.load(Ordering::Acquire)
    }

    pub(in crate::relay) fn is_let_go(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was suspended continues with ready tasks before any timer fires.
    #[tokio::test]
    async fn work_does_not_go_on_after_the_lease_although_no_timer_fired() {
        const PERIOD: Duration = Duration::from_secs(3_600);
        let lease = Lease::new(Fence { chain_id: 1, token: 1 }, Moment::now(), PERIOD);
        let polls = std::cell::Cell::new(0);
        let mut guarded = std::pin::pin!(lease.guard(std::future::poll_fn(|context| {
            polls.set(polls.get() + 1);
            // Ready again at once.
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        let step = std::future::poll_fn(|context| Poll::Ready(guarded.as_mut().poll(context)));
        assert_eq!(step.await, Poll::Pending, "it works while the lease holds");
        // The lease expired during a suspension: by the wall clock it was requested long ago.
        lease.extend(Moment(Instant::now(), Timestamp(0)), PERIOD);
        let step = std::future::poll_fn(|context| Poll::Ready(guarded.as_mut().poll(context)));
        assert_eq!(step.await, Poll::Ready(None));
        assert_eq!(polls.get(), 1, "it went on after the lease");
    }
}
