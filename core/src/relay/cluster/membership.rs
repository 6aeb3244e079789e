//! A chain service's part in its cluster.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::Address;

use super::lease::Lease;
use slackwater_core::tuning::keys;

/// A chain service's view of its cluster.
#[derive(Debug)]
pub(in crate::relay) struct Membership {
    /// Held while this instance drives the lanes; else `None`.
    pub(in crate::relay) lease: Option<Lease>,
    /// Name of the leader, as last seen.
    pub(in crate::relay) holder: Arc<Mutex<String>>,
    pub(in crate::relay) senders: Vec<Address>,
}

impl Membership {
    pub(in crate::relay) fn new(holder: Arc<Mutex<String>>, senders: Vec<Address>) -> Self {
        Self { lease: None, holder, senders }
    }

    pub(in crate::relay) fn holder(&self) -> String {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

keys! {
    /// Pace of an instance among several.
    #[non_exhaustive]
    pub struct ClusterConfig;

    /// Time that the lease on a chain's lanes lasts. Another instance takes over after it, at the earliest. With `url`.
    lease "lease_ms": Duration [500..=600_000] = Duration::from_secs(5);
    /// Time between an instance's looks for what others have committed. With `url`.
    follow_interval "follow_interval_ms": Duration [10..=10_000] = Duration::from_millis(100);
    /// Longest wait of a caller for the commit of what it submits; then it gets `storage_unavailable`. With `url`, and
    /// while the storage is away.
    accept_timeout "accept_timeout_ms": Duration [100..=600_000] = Duration::from_secs(5);
    beside {
        /// This instance's name for people (`ledger.instance`).
        instance: String = format!("pid-{}", std::process::id());
    }
}
