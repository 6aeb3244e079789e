//! Memory of bodies and answers: limited over all connections, so that callers together can't exhaust the machine, and
//! per group, so that nobody takes all of it.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bodies up to this size are not counted, bytes: the number of connections bounds them, and so a small submission gets
/// through however much others hold.
pub(crate) const UNCOUNTED_BYTES: usize = 16 << 10;

/// Limit of one group relative to the memory that stays free. Some is always left for the next caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Three times the free memory: three quarters of all, if nobody else holds anything.
    Large,
    /// A third of the free memory: a quarter of all, if nobody else holds anything.
    Small,
}

impl Share {
    const fn allows(self, held: usize, free: usize) -> bool {
        match self {
            Self::Large => held <= free.saturating_mul(3),
            Self::Small => held <= free / 3,
        }
    }
}

/// Bytes held by groups `G`, and their limit.
#[derive(Debug)]
pub(crate) struct Memory<G: Eq + Hash> {
    limit: usize,
    held: Mutex<Sums<G>>,
}

#[derive(Debug)]
struct Sums<G> {
    all: usize,
    /// Bytes by group; groups that hold nothing have no entry.
    groups: HashMap<G, usize>,
}

impl<G: Eq + Hash + Clone> Memory<G> {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: Mutex::new(Sums { all: 0, groups: HashMap::new() }) })
    }

    /// An empty hold of `group`.
    pub(crate) fn hold(self: &Arc<Self>, group: G, share: Share) -> Held<G> {
        Held { memory: Arc::clone(self), group, share, bytes: 0 }
    }
}

impl<G: Eq + Hash> Memory<G> {
    fn sums(&self) -> MutexGuard<'_, Sums<G>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are released when this is dropped.
#[derive(Debug)]
pub(crate) struct Held<G: Eq + Hash + Clone> {
    memory: Arc<Memory<G>>,
    group: G,
    share: Share,
    bytes: usize,
}

/// Bytes counted for `size` bytes.
const fn counted(size: usize) -> usize {
    if size <= UNCOUNTED_BYTES { 0 } else { size }
}

impl<G: Eq + Hash + Clone> Held<G> {
    /// Grows to hold `size` bytes. `false`, and no change, if that exceeds the limit of all groups or of this one.
    #[must_use]
    pub(crate) fn grow_to(&mut self, size: usize) -> bool {
        let more = counted(size).saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut sums = self.memory.sums();
        let Some(free) = sums.all.checked_add(more).and_then(|all| self.memory.limit.checked_sub(all)) else {
            return false;
        };
        let of_group = sums.groups.get(&self.group).copied().unwrap_or(0) + more;
        // The only hold of a group may take all that is free: it would not fit later either.
        let is_only = of_group == self.bytes + more;
        if !is_only && !self.share.allows(of_group, free) {
            return false;
        }
        sums.all += more;
        sums.groups.insert(self.group.clone(), of_group);
        drop(sums);
        self.bytes += more;
        true
    }

    /// Holds `size` bytes regardless of limits: they are allocated already.
    pub(crate) fn set(&mut self, size: usize) {
        let wanted = counted(size);
        if wanted == self.bytes {
            return;
        }
        let mut sums = self.memory.sums();
        sums.all = sums.all - self.bytes + wanted;
        let of_group = sums.groups.get(&self.group).copied().unwrap_or(0) - self.bytes + wanted;
        if of_group == 0 {
            sums.groups.remove(&self.group);
        } else {
            sums.groups.insert(self.group.clone(), of_group);
        }
        drop(sums);
        self.bytes = wanted;
    }
}

impl<G: Eq + Hash + Clone> Drop for Held<G> {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn memory() -> Arc<Memory<&'static str>> {
        Memory::new(1_024 * KIB)
    }

    #[test]
    fn small_bodies_always_fit_and_large_ones_within_the_limit() {
        let memory = memory();
        let [mut a, mut b, mut small] = ["a", "b", "c"].map(|group| memory.hold(group, Share::Large));
        assert!(a.grow_to(600 * KIB) && b.grow_to(300 * KIB));
        assert!(!b.grow_to(425 * KIB), "there is no more");
        assert!(!memory.hold("b", Share::Large).grow_to(100 * KIB), "too little would be left");
        assert!(b.grow_to(300 * KIB) && b.grow_to(1));
        assert!(small.grow_to(UNCOUNTED_BYTES) && !small.grow_to(125 * KIB));
        drop(a);
        assert!(small.grow_to(124 * KIB));
        drop((b, small));
        let sums = memory.sums();
        assert!(sums.all == 0 && sums.groups.is_empty(), "nothing is kept of who has given back: {sums:?}");
        drop(sums);
        assert!(!memory.hold("a", Share::Large).grow_to(usize::MAX));
    }

    /// However many bodies one group has in progress, the next caller of another finds room.
    #[test]
    fn no_group_takes_what_others_need() {
        let memory = memory();
        let fill = |group, share| {
            let mut held = Vec::new();
            loop {
                let mut hold = memory.hold(group, share);
                if !hold.grow_to(17 * KIB) {
                    let sum = memory.sums().groups.get(group).copied().unwrap_or(0);
                    return (held, sum / KIB);
                }
                held.push(hold);
            }
        };
        let (page, by_page) = fill("a page of shop", Share::Small);
        assert!((238..=256).contains(&by_page), "a quarter: {by_page}");
        let (_shop, by_shop) = fill("shop", Share::Large);
        assert!((555..=600).contains(&by_shop), "three quarters of the rest: {by_shop}");
        let (_bank, by_bank) = fill("bank", Share::Large);
        assert!((120..=160).contains(&by_bank), "three quarters of that: {by_bank}");
        assert!(fill("another's page", Share::Small).1 <= 17);
        drop(page);
        assert!(fill("another's page", Share::Small).1 >= 51);
    }

    #[test]
    fn what_is_there_counts_even_beyond_the_limit() {
        let memory = memory();
        let mut held = memory.hold("a", Share::Small);
        held.set(2_000 * KIB);
        assert!(!memory.hold("b", Share::Large).grow_to(17 * KIB));
        held.set(20 * KIB);
        assert_eq!(memory.sums().all, 20 * KIB);
        assert_eq!(memory.sums().groups["a"], 20 * KIB);
        held.set(KIB);
        assert!(memory.sums().groups.is_empty());
    }
}
