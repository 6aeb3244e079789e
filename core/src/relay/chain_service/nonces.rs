//! Users' forwarder nonces on chain: lookup, suspicion, confirmation.

use alloy_primitives::Address;

use super::{
    super::{
        clock,
        simulate::{AgreedNonce, At, agreed_nonces, forwarder_nonces},
    },
    ChainService, Done,
};
use crate::{
    request::{Reason, Status},
    time::Timestamp,
};

/// Most signers whose nonces are looked up in one call.
const NONCE_LOOKUP_LEN: usize = 200;

/// A user, the nonce that a majority reaches at the final block, and the nonce that a majority does not exceed at the
/// head; each `None` without a majority.
pub(in crate::relay) type Confirmed = ((Address, Address), Option<u64>, Option<u64>);

impl ChainService {
    /// Records a user's forwarder nonce just read at the head. Requests below it are suspect until the nonce is final.
    pub(in crate::relay) fn learn_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        self.queue.set_chain_nonce(forwarder, signer, nonce);
        if !self.queue.stale(forwarder, signer).is_empty() {
            self.suspects.insert((forwarder, signer));
        }
    }

    /// Asks for the suspects' nonces at the newest final block: only a nonce used there is used for good (invariant
    /// I9).
    pub(super) fn confirm_suspects(&mut self) {
        let Some(block) = self.head.and_then(|head| head.final_block) else { return };
        if self.suspects.is_empty() || self.under_way.suspects || self.is_stopping {
            return;
        }
        self.under_way.suspects = true;
        let signers: Vec<_> = self.suspects.iter().copied().take(NONCE_LOOKUP_LEN).collect();
        let shared = self.shared.clone();
        let work = async move {
            let (pool, multicall3) = (&shared.pool, shared.multicall3());
            let settled = agreed_nonces(pool, &signers, multicall3, At::Final(block));
            let latest = agreed_nonces(pool, &signers, multicall3, At::Head);
            let (settled, latest) = tokio::join!(settled, latest);
            let found = signers.into_iter().zip(settled.into_iter().zip(latest)).map(|(signer, (settled, latest))| {
                (signer, settled.map(|nonce| nonce.at_least), latest.map(|nonce| nonce.at_most))
            });
            Done::Confirmed { found: found.collect() }
        };
        self.start(work, || Done::Confirmed { found: Vec::new() });
    }

    pub(super) fn on_confirmed(&mut self, now: Timestamp, found: Vec<Confirmed>) {
        self.under_way.suspects = false;
        for ((forwarder, signer), settled, latest) in found {
            if let Some(nonce) = settled {
                let used = self.queue.waiting_below(forwarder, signer, nonce);
                self.end_waiting(now, &used, Status::Rejected, Reason::NonceUsedElsewhere, None);
            }
            if let Some(nonce) = latest
                && self.queue.lower_chain_nonce(forwarder, signer, nonce.max(settled.unwrap_or(0)))
            {
                // A reorg took the nonce back: admission must know too.
                let cache = self.shared.nonces.clone();
                self.tasks.spawn(async move {
                    cache.insert((forwarder, signer), nonce).await;
                    Done::Noted
                });
            }
            if self.queue.stale(forwarder, signer).is_empty() {
                self.suspects.remove(&(forwarder, signer));
            }
        }
    }

    pub(super) fn look_up_nonces(&mut self) {
        if self.under_way.nonces || self.is_stopping {
            return;
        }
        let signers = self.queue.next_unknown(clock::now(), NONCE_LOOKUP_LEN);
        if signers.is_empty() {
            return;
        }
        self.under_way.nonces = true;
        let shared = self.shared.clone();
        let work = async move {
            let mut asked = signers.clone();
            let mut found = Vec::with_capacity(signers.len());
            let mut missing = Vec::new();
            for signer in signers {
                match shared.nonces.get(&signer).await {
                    Some(nonce) => found.push((signer, nonce)),
                    None => missing.push(signer),
                }
            }
            if !missing.is_empty() {
                let block = serde_json::json!("latest");
                match forwarder_nonces(&shared.pool, &missing, shared.multicall3(), &block).await {
                    Ok(nonces) => {
                        for (signer, nonce) in missing.into_iter().zip(nonces) {
                            if let Some(nonce) = nonce {
                                shared.nonces.insert(signer, nonce).await;
                                found.push((signer, nonce));
                            }
                        }
                    }
                    Err(_) => {
                        // No node is reachable: that says nothing about any forwarder.
                        asked.clear();
                        tokio::time::sleep(shared.tuning.heads.poll_interval).await;
                    }
                }
            }
            Done::Nonces { asked, found }
        };
        self.start(work, || Done::Nonces { asked: Vec::new(), found: Vec::new() });
    }

    /// Reads the nonces of users with a gap: they may have used the missing nonce elsewhere, and a remembered value
    /// would keep their later requests waiting for ever. A limited number at each head, in turn. A majority decides
    /// (invariant I15), since requests end on this answer.
    pub(super) fn look_at_gaps(&mut self) {
        if self.under_way.gaps || self.is_stopping {
            return;
        }
        let signers = self.queue.gapped_signers(self.gaps_after, NONCE_LOOKUP_LEN);
        self.gaps_after = signers.last().copied();
        if signers.is_empty() {
            return;
        }
        self.under_way.gaps = true;
        let shared = self.shared.clone();
        let work = async move {
            let nonces = agreed_nonces(&shared.pool, &signers, shared.multicall3(), At::Head).await;
            let mut found = Vec::new();
            for (signer, nonce) in signers.into_iter().zip(nonces) {
                if let Some(AgreedNonce { at_least: nonce, .. }) = nonce {
                    // A lagging node must not lower a known nonce.
                    if shared.nonces.get(&signer).await.is_none_or(|known| known < nonce) {
                        shared.nonces.insert(signer, nonce).await;
                    }
                    found.push((signer, nonce));
                }
            }
            Done::Gaps { found }
        };
        self.start(work, || Done::Gaps { found: Vec::new() });
    }
}
