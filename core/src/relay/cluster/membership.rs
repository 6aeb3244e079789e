//! A chain service's part in its cluster.

use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::Address;

use super::Lease;

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
