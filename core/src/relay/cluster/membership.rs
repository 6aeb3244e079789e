//! A chain service's part in its cluster.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::Address;

use super::lease::Lease;

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

/// Settings of a relay that shares its ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// This instance's human-readable name (`ledger.instance`).
    pub instance: String,
    /// Duration of a lease (`ledger.lease_ms`). It is renewed every third of this; a takeover happens after it expires,
    /// at the earliest.
    pub lease: Duration,
    /// Interval at which an instance polls for the others' commits (`ledger.follow_interval_ms`).
    pub follow_interval: Duration,
    /// Longest wait of a caller for the commit of a submission (`ledger.accept_timeout_ms`); after that the answer is
    /// that the commit is in doubt.
    pub accept_timeout: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            instance: format!("pid-{}", std::process::id()),
            lease: Duration::from_secs(5),
            follow_interval: Duration::from_millis(100),
            accept_timeout: Duration::from_secs(5),
        }
    }
}
