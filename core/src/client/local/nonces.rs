//! Users' forwarder nonces on chain: lookup, doubt, confirmation.

use alloy_primitives::B256;

use super::{calls::User, machine::LocalRelay, record::End};
use crate::{
    request::{Reason, RequestId, Status, VerifiedRequest},
    schedule::Accused,
    table::Table,
    time::Timestamp,
};

/// Concurrent nonce lookups.
const LOOKUPS: usize = 20;

/// Users' nonces: lookups under way, and open doubts.
#[derive(Debug, Default)]
pub(super) struct Users {
    asking: Table<User, ()>,
    /// Users with waiting requests below their nonce, until that nonce is final.
    suspects: Table<User, ()>,
    /// A suspect's nonce, with the block at which it was read.
    read_at: Table<User, (u64, B256, u64)>,
    /// Users left out by a transaction of their own: their nonce, the target accused of it, and the transaction's hash.
    accusing: Table<User, (u64, Accused, B256)>,
    /// The last user checked for a nonce gap, where the next check continues.
    gaps_after: Option<User>,
}

impl LocalRelay {
    /// Looks up the nonces of users that were not looked up yet.
    pub(super) fn look_up_users(&mut self, now: Timestamp) {
        let room = LOOKUPS.saturating_sub(self.users.asking.len());
        if room == 0 {
            return;
        }
        for user in self.queue.next_unknown(now, room) {
            self.ask_user(now, user, None);
        }
    }

    fn ask_user(&mut self, now: Timestamp, user: User, at: Option<(u64, B256)>) {
        if self.users.asking.insert(user, ()) {
            self.ask_user_nonce(now, user, at);
        }
    }

    /// Reads a user's nonce again, after a simulation or a transaction skipped its request.
    pub(super) fn recheck_user(&mut self, now: Timestamp, user: User) {
        self.ask_user(now, user, None);
    }

    /// Accuses the target of a lone request that its final transaction left out, unless the user's nonce was used
    /// elsewhere.
    pub(super) fn accuse(&mut self, now: Timestamp, member: &VerifiedRequest, accused: Accused, hash: B256) {
        match member.sequence() {
            _ if accused.has_failed => {
                self.queue.surprised(accused, hash, now);
            }
            Some((forwarder, signer, nonce)) if self.users.accusing.len() < self.config.max_open => {
                self.users.accusing.insert((forwarder, signer), (nonce, accused, hash));
            }
            _ => {}
        }
        // Target records are not kept beyond the page.
        self.queue.take_target_changes();
    }

    pub(super) fn on_user_nonce(&mut self, now: Timestamp, user: User, at: Option<(u64, B256)>, nonce: Option<u64>) {
        self.users.asking.remove(&user);
        let Some(nonce) = nonce else { return };
        if let Some((own, accused, hash)) = self.users.accusing.remove(&user)
            && own == nonce
        {
            self.queue.surprised(accused, hash, now);
            self.queue.take_target_changes();
        }
        let (forwarder, signer) = user;
        if let Some((number, hash)) = at
            && self.users.suspects.contains_key(&user)
        {
            // A reorg may have lowered the nonce.
            self.queue.lower_chain_nonce(forwarder, signer, nonce);
            let read = self.users.read_at.get(&user).copied();
            let is_gone = read.is_none_or(|(number, hash, _)| !self.heads.is_canonical(number, hash));
            if is_gone {
                self.users.read_at.insert(user, (number, hash, nonce));
            }
        }
        self.queue.set_chain_nonce(forwarder, signer, nonce);
        if !self.queue.stale(forwarder, signer).is_empty() {
            self.users.suspects.insert(user, ());
        }
    }

    /// At a new head: rejects requests whose nonce was finally used elsewhere, and rereads the nonces of suspects and
    /// of users with a gap.
    pub(super) fn confirm_users(&mut self, now: Timestamp, number: u64, hash: B256, final_block: Option<u64>) {
        for (user, ()) in self.users.suspects.clone() {
            let (forwarder, signer) = user;
            if let Some((at, block_hash, nonce)) = self.users.read_at.get(&user).copied()
                && final_block.is_some_and(|last| at <= last)
            {
                self.users.read_at.remove(&user);
                if self.heads.is_canonical(at, block_hash) {
                    let used: Vec<RequestId> = self.queue.waiting_below(forwarder, signer, nonce);
                    for id in used {
                        self.end(id, End::new(Status::Rejected, Some(Reason::NonceUsedElsewhere), now), false);
                    }
                }
            }
            if self.queue.stale(forwarder, signer).is_empty() {
                self.users.suspects.remove(&user);
                self.users.read_at.remove(&user);
            } else {
                self.ask_user(now, user, Some((number, hash)));
            }
        }
        let gapped = self.queue.gapped_signers(self.users.gaps_after, LOOKUPS);
        self.users.gaps_after = gapped.last().copied();
        for user in gapped {
            self.ask_user(now, user, Some((number, hash)));
        }
    }
}
