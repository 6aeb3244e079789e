//! Health of the storage.
//!
//! A failed write makes the storage *away*; a failed read only triggers a check, since a full or read-only database
//! still answers reads. While it is away, callers are refused immediately, the writing task periodically tries a write
//! of its own, and when that is committed the storage is *back* and operation resumes. Only that write counts: a
//! smaller one may find room where the next does not.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

/// Kind of storage fault. Its code is public, the detail is only logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// No space: disk, quota.
    Full,
    /// Read-only.
    ReadOnly,
    /// Another program holds its lock for longer than our timeout.
    Busy,
    /// The device or file system fails.
    Io,
    /// It can't be opened or reached.
    Unreachable,
    /// Its content is damaged.
    Corrupt,
    /// A commit without an answer is being resolved.
    InDoubt,
    /// Any other fault.
    Other,
}

impl FaultKind {
    /// Stable code for probes and metrics.
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

    /// Advice to the operator.
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

/// A fault of the storage. `Display` shows the detail, which may contain local paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFault {
    /// Its kind.
    pub kind: FaultKind,
    /// The storage's own message.
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

/// Current health of the storage.
#[derive(Debug, Default)]
pub struct Health {
    is_away: AtomicBool,
    is_suspect: AtomicBool,
    away: Mutex<Option<Away>>,
    /// Wakes the task that probes the storage.
    changed: Notify,
}

#[derive(Debug)]
struct Away {
    fault: StorageFault,
    since: Instant,
    /// Fault kinds already reported in this outage: each is reported once.
    told: BTreeSet<FaultKind>,
}

impl Health {
    /// Current fault; `None` if the last write succeeded. While there is one, nothing is accepted or sent.
    pub fn fault(&self) -> Option<StorageFault> {
        if !self.is_away() {
            return None;
        }
        self.lock().as_ref().map(|away| away.fault.clone())
    }

    /// True if the last write failed.
    pub fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Acquire)
    }

    /// Records a failed write. Alerts once for each kind of fault in an outage.
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

    /// Records that the writing task's own write was committed.
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

    /// Records a failed read, which triggers a check.
    pub(crate) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits for a reason to check the storage: `true` if it is only a suspicion.
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
        // The newest fault counts, and each kind is reported once.
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
