//! Keys of the lanes.

use std::sync::Arc;

use super::{signer::LocalSigner, spender::Scans};

/// A lane's key, and the progress of searches for transactions that used its nonces.
#[derive(Debug)]
pub(super) struct LaneKey {
    /// `None` if it is no longer configured.
    pub(super) signer: Option<LocalSigner>,
    pub(super) scans: Arc<Scans>,
}

impl LaneKey {
    pub(super) fn new(signer: Option<LocalSigner>) -> Self {
        Self { signer, scans: Arc::default() }
    }
}
