//! Whether the storage takes what is written, and what stands in its way.
//!
//! A write that fails makes the storage *away*; reads only give reason to look, since a full or read-only database still
//! answers them. While it is away, callers are refused at the door, the writing task tries a write of its own from time to
//! time, and when that is committed the storage is *back* and everything goes on. Only that write counts: a smaller one
//! may find room where the next does not.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

/// What kind of fault a storage has. Its code is shown to everyone, the detail only to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// No room: disk, quota.
    Full,
    /// It may only be read.
    ReadOnly,
    /// Another program holds its lock for longer than we wait.
    Busy,
    /// The device or file system fails.
    Io,
    /// It can't be opened or reached.
    Unreachable,
    /// What it holds is damaged.
    Corrupt,
    /// A commit without an answer is being looked into.
    InDoubt,
    /// Anything else.
    Other,
}

impl FaultKind {
    /// The stable code that probes and metrics show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::Io => "io_error",
            Self::Unreachable => "unreachable",
            Self::Corrupt => "corrupt",
            Self::InDoubt => "in_doubt",
            Self::Other => "other",
        }
    }

    /// What an operator can do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Full => "make room; the relayer goes on by itself",
            Self::ReadOnly => "make the ledger writable; the relayer goes on by itself",
            Self::Busy => "find the program that holds the ledger's lock; the relayer goes on by itself",
            Self::Io => "look at the file system and its limits; the relayer goes on by itself",
            Self::Unreachable => "bring the database back; the relayer goes on by itself",
            Self::Corrupt => "stop the relayer, keep the file, and restore a backup",
            Self::InDoubt | Self::Other => "see the detail; the relayer goes on by itself when a write succeeds",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A fault of the storage. `Display` shows the detail, which may name paths of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFault {
    /// Its kind.
    pub kind: FaultKind,
    /// What the storage said.
    pub detail: String,
}

impl StorageFault {
    /// A fault of this kind.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

impl fmt::Display for StorageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl From<String> for StorageFault {
    fn from(detail: String) -> Self {
        Self::new(FaultKind::Other, detail)
    }
}

/// What is known about the storage.
#[derive(Debug, Default)]
pub struct Health {
    is_away: AtomicBool,
    is_suspect: AtomicBool,
    away: Mutex<Option<Away>>,
    /// For the one task that looks whether it is back.
    changed: Notify,
}

#[derive(Debug)]
struct Away {
    fault: StorageFault,
    since: Instant,
    /// Kinds that were told in this outage: each is told once.
    told: BTreeSet<FaultKind>,
}

impl Health {
    /// Why nothing is accepted or sent now; `None` if the last write worked.
    pub fn fault(&self) -> Option<StorageFault> {
        if !self.is_away() {
            return None;
        }
        self.lock().as_ref().map(|away| away.fault.clone())
    }

    /// Whether the last write failed.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// A write failed. Alerts once for each kind of fault in an outage.
    pub(crate) fn failed(&self, fault: &StorageFault) {
        let mut slot = self.lock();
        let away =
            slot.get_or_insert_with(|| Away { fault: fault.clone(), since: Instant::now(), told: BTreeSet::new() });
        away.fault = fault.clone();
        if away.told.insert(fault.kind) {
            let StorageFault { kind, detail } = fault;
            tracing::error!(%kind, detail, remedy = kind.remedy(), "the ledger takes no writes: nothing is accepted and nothing new is sent");
            metrics::counter!("slackwater_ledger_faults_total", "kind" => kind.as_str()).increment(1);
        }
        metrics::gauge!("slackwater_ledger_available").set(0.0);
        self.is_away.store(true, Ordering::Release);
        drop(slot);
        self.changed.notify_one();
    }

    /// The writing task's own write was committed.
    pub(crate) fn works(&self) {
        if !self.is_away() {
            return;
        }
        let mut slot = self.lock();
        if let Some(away) = slot.take() {
            let away_ms = u64::try_from(away.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(kind = %away.fault.kind, away_ms, "the ledger takes writes again: going on");
        }
        metrics::gauge!("slackwater_ledger_available").set(1.0);
        self.is_away.store(false, Ordering::Release);
    }

    /// A read failed: worth a look.
    pub(crate) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until there is reason for a look: `true` if only a suspicion.
    pub(crate) async fn trouble(&self) -> bool {
        loop {
            if self.is_away() {
                self.is_suspect.store(false, Ordering::Release);
                return false;
            }
            if self.is_suspect.swap(false, Ordering::AcqRel) {
                return true;
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Away>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn away_and_back() {
        let health = Health::default();
        assert_eq!(health.fault(), None);
        health.works();
        let full = StorageFault::new(FaultKind::Full, "no room");
        health.failed(&full);
        health.failed(&full);
        assert_eq!(health.fault(), Some(full));
        assert!(!health.trouble().await);
        // The newest reason counts, and each kind is told once.
        let busy = StorageFault::new(FaultKind::Busy, "locked");
        health.failed(&busy);
        assert_eq!(health.fault(), Some(busy));
        assert_eq!(health.lock().as_ref().map(|away| away.told.len()), Some(2));
        health.works();
        assert_eq!(health.fault(), None);
    }

    #[tokio::test]
    async fn a_suspicion_is_no_fault() {
        let health = Health::default();
        health.suspect();
        assert_eq!(health.fault(), None);
        assert!(health.trouble().await);
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(20), health.trouble()).await;
        assert!(quiet.is_err(), "one look for one suspicion");
    }
}
