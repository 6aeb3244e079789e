//! Users' forwarder nonces on chain: lookup, suspicion, confirmation.

use alloy_primitives::Address;

use super::{
    host::Host,
    input::{Command, Confirmed},
    state::Sender,
};
use crate::{
    request::{Reason, Status},
    time::Timestamp,
};

impl<H: Host> Sender<H> {
    /// Records a user's forwarder nonce just read at the head. Requests below it are suspect until the nonce is final.
    pub fn learn_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        self.queue.set_chain_nonce(forwarder, signer, nonce);
        if !self.queue.stale(forwarder, signer).is_empty() {
            self.suspects.insert((forwarder, signer));
        }
    }

    /// Asks for the suspects' nonces at the newest final block: only a nonce used there is used for good (invariant
    /// I9).
    pub fn confirm_suspects(&mut self) {
        let Some(block) = self.head.and_then(|head| head.final_block) else { return };
        if self.suspects.is_empty() || self.under_way.suspects || self.is_stopping {
            return;
        }
        self.under_way.suspects = true;
        let signers: Vec<_> = self.suspects.iter().copied().take(H::NONCES_AT_ONCE).collect();
        self.command(Command::ConfirmNonces { users: signers, final_block: block });
    }

    pub(crate) fn on_confirmed(&mut self, now: Timestamp, found: Vec<Confirmed>) {
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
                self.command(Command::NonceLowered((forwarder, signer), nonce));
            }
            if self.queue.stale(forwarder, signer).is_empty() {
                self.suspects.remove(&(forwarder, signer));
            }
        }
    }

    pub(crate) fn look_up_nonces(&mut self) {
        if self.under_way.nonces || self.is_stopping {
            return;
        }
        let signers = self.queue.next_unknown(self.now, H::NONCES_AT_ONCE);
        if signers.is_empty() {
            return;
        }
        self.under_way.nonces = true;
        self.command(Command::LookUpNonces(signers));
    }

    /// Reads the nonces of users with a gap: they may have used the missing nonce elsewhere, and a remembered value
    /// would keep their later requests waiting for ever. A limited number at each head, in turn. A majority decides
    /// (invariant I15), since requests end on this answer.
    pub fn look_at_gaps(&mut self) {
        if self.under_way.gaps || self.is_stopping {
            return;
        }
        let signers = self.queue.gapped_signers(self.gaps_after, H::NONCES_AT_ONCE);
        self.gaps_after = signers.last().copied();
        if signers.is_empty() {
            return;
        }
        self.under_way.gaps = true;
        self.command(Command::LookAtGaps(signers));
    }
}
