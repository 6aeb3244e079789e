//! Memory of bodies: counted over all connections, so that callers together can't take more than the machine has.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

/// A body up to this size is not counted: what connections can hold by it is bounded by their number, and so a small
/// submission gets through however much others hold.
pub(crate) const UNCOUNTED_BYTES: usize = 16 << 10;

/// Bytes that are held, and the most that may be.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    limit: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// A hold of nothing.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        Held { memory: Arc::clone(self), bytes: 0 }
    }
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    /// Holds what `size` bytes count, unless that is too much for all together.
    #[must_use]
    pub(crate) fn grow_to(&mut self, size: usize) -> bool {
        let wanted = if size <= UNCOUNTED_BYTES { 0 } else { size };
        let more = wanted.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let Memory { used, limit } = &*self.memory;
        let add = |used: usize| used.checked_add(more).filter(|sum| sum <= limit);
        let is_taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if is_taken {
            self.bytes += more;
        }
        is_taken
    }

    /// `body`, which holds this until it is sent or given up.
    pub(crate) fn until_sent(self, body: Body) -> Body {
        Body::new(HeldBody { body, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct HeldBody {
    body: Body,
    _held: Held,
}

impl hyper::body::Body for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_always_fit_and_large_ones_within_the_limit() {
        let memory = Memory::new(100_000);
        let (mut a, mut b, mut small) = (memory.hold(), memory.hold(), memory.hold());
        assert!(a.grow_to(60_000));
        assert!(!b.grow_to(50_000));
        assert!(b.grow_to(40_000) && b.grow_to(40_000) && b.grow_to(1));
        assert!(small.grow_to(UNCOUNTED_BYTES) && !small.grow_to(UNCOUNTED_BYTES + 1));
        drop(a);
        assert!(small.grow_to(UNCOUNTED_BYTES + 1));
        drop((b, small));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        let mut huge = memory.hold();
        assert!(!huge.grow_to(usize::MAX));
    }
}
