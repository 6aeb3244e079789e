//! Keys of the lanes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::relay::signer::AccountKey;

/// A lane's key, and the progress of searches for transactions that used its nonces.
#[derive(Debug)]
pub(in crate::relay) struct LaneKey {
    /// `None` if it is no longer configured.
    pub(in crate::relay) signer: Option<AccountKey>,
    pub(in crate::relay) scans: Arc<Scans>,
}

impl LaneKey {
    pub(in crate::relay) fn new(signer: Option<AccountKey>) -> Self {
        Self { signer, scans: Arc::default() }
    }
}

/// By nonce of one sender: the block at which a block-by-block search resumes. Blocks above were read, and are final.
#[derive(Debug, Default)]
pub(in crate::relay) struct Scans(Mutex<BTreeMap<u64, u64>>);

impl Scans {
    pub(in crate::relay) fn next(&self, nonce: u64) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&nonce).copied()
    }

    pub(in crate::relay) fn set(&self, nonce: u64, next: Option<u64>) {
        let mut scans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match next {
            Some(next) => scans.insert(nonce, next),
            None => scans.remove(&nonce),
        };
    }

    /// Forgets a settled nonce.
    pub(in crate::relay) fn forget(&self, nonce: u64) {
        self.set(nonce, None);
    }
}
