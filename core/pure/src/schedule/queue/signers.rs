//! Signers: their nonces at the forwarder.

use std::ops::Bound;

use alloy_primitives::Address;

use super::{
    line::{Head, Signer},
    signer::SignerState,
    state::Queue,
};
use crate::{ordered::Set, protection::Protection, request::RequestId, table::Table, time::Timestamp};

impl Queue {
    pub(super) fn signer(&mut self, signer: Signer) -> &mut SignerState {
        self.signers.entry(signer).or_insert_with(|| {
            self.unknown.signers.insert(signer);
            Box::default()
        })
    }

    /// Updates a signer's sets and place after a change.
    pub(super) fn refresh(&mut self, signer: Signer) {
        let Some(state) = self.signers.get(&signer) else { return };
        let (is_empty, is_gapped, is_unknown) = (state.is_empty(), state.is_gapped(), state.chain_next().is_none());
        if is_empty {
            self.signers.remove(&signer);
        }
        let keep = |set: &mut Set<Signer>, keep: bool| {
            if keep {
                set.insert(signer)
            } else {
                set.remove(&signer)
            };
        };
        keep(&mut self.gapped, is_gapped && !is_empty);
        keep(&mut self.unknown.signers, is_unknown && !is_empty);
        self.place(Head::Signer(signer));
    }

    /// Records whether a request in flight is in a block: while all of a signer's are, the next one may take any lane.
    /// For requests whose nonce a simulation can assume.
    pub fn note_in_block(&mut self, id: RequestId, is_in_block: bool) {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return;
        };
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.in_flight().get(&nonce) != Some(&id) {
            return;
        }
        if is_in_block {
            state.in_block.insert(nonce, ());
        } else {
            state.in_block.remove(&nonce);
        }
        self.refresh((forwarder, signer));
    }

    /// Records a signer's nonce at the forwarder. A lower value than before is ignored.
    pub fn set_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return };
        if state.chain_next().is_none_or(|known| known < nonce) {
            state.set_chain(nonce);
            self.refresh((forwarder, signer));
        }
    }

    /// Lowers a signer's nonce at the forwarder to `nonce` after a reorg: requests waiting from there on may be sent
    /// again. Never below the nonces consumed for good. Returns true if it was lowered.
    pub fn lower_chain_nonce(&mut self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        let Some(state) = self.signers.get_mut(&(forwarder, signer)) else { return false };
        let nonce = nonce.max(state.consumed);
        if !Protection::LowerUserNonce.is_on() || state.chain_next().is_none_or(|known| known <= nonce) {
            return false;
        }
        state.set_chain(nonce);
        self.refresh((forwarder, signer));
        true
    }

    /// True if an earlier nonce of the signer is in an unsettled transaction.
    pub fn has_unsettled_before(&self, forwarder: Address, signer: Address, nonce: u64) -> bool {
        self.signers.get(&(forwarder, signer)).is_some_and(|state| state.in_flight().range(..nonce).next().is_some())
    }

    /// Signers after `after` with requests behind a missing nonce, which may have been used outside the relayer.
    pub fn gapped_signers(&self, after: Option<(Address, Address)>, limit: usize) -> Vec<(Address, Address)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.gapped.range((from, Bound::Unbounded)).copied().take(limit).collect()
    }

    /// Signers with requests behind a missing nonce, with the first such nonce.
    pub fn gaps(&self) -> Vec<((Address, Address), u64)> {
        let missing = |signer: &(Address, Address)| Some((*signer, self.signers.get(signer)?.missing()?));
        self.gapped.iter().filter_map(missing).collect()
    }

    /// Waiting requests of a signer from `nonce` on.
    pub fn waiting_from(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        let state = self.signers.get(&(forwarder, signer));
        state.map_or_else(Vec::new, |state| state.waiting.range(nonce..).map(|(_, id)| *id).collect())
    }

    /// Waiting requests of a signer below its known forwarder nonce: they can't execute, unless a reorg lowers that
    /// nonce.
    pub fn stale(&self, forwarder: Address, signer: Address) -> Vec<RequestId> {
        let next = self.signers.get(&(forwarder, signer)).and_then(|state| state.chain_next());
        next.map_or_else(Vec::new, |next| self.waiting_below(forwarder, signer, next))
    }

    /// Waiting requests of a signer with a nonce below `nonce`.
    pub fn waiting_below(&self, forwarder: Address, signer: Address, nonce: u64) -> Vec<RequestId> {
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(..nonce).map(|(_, id)| *id).collect())
    }

    /// Waiting requests of the same signer with a higher nonce: they can't execute once this one is dropped.
    pub fn successors(&self, id: RequestId) -> Vec<RequestId> {
        let Some((forwarder, signer, nonce)) = self.entries.get(&id).and_then(|entry| entry.request.sequence()) else {
            return Vec::new();
        };
        self.signers
            .get(&(forwarder, signer))
            .map_or_else(Vec::new, |state| state.waiting.range(nonce.saturating_add(1)..).map(|(_, id)| *id).collect())
    }

    /// Signers whose forwarder nonce was never looked up.
    pub fn unknown_signers(&self) -> impl Iterator<Item = Signer> + '_ {
        self.unknown.signers.iter().copied()
    }

    /// Signers to look up now: in turn, so that no signer starves others, and none of a paused forwarder. Report the
    /// outcome with [`Self::note_lookup`].
    pub fn next_unknown(&mut self, now: Timestamp, limit: usize) -> Vec<Signer> {
        self.unknown.next(now, limit)
    }

    /// Records a lookup of the nonces of `asked`, whose answers have been entered. A forwarder without any answer
    /// pauses, longer each time; one with a partial answer pauses briefly.
    pub fn note_lookup(&mut self, now: Timestamp, asked: &[Signer]) {
        let mut forwarders: Table<Address, (bool, bool)> = Table::new();
        for signer in asked {
            let (known, unknown) = forwarders.get_or_insert_with(signer.0, Default::default);
            let is_unknown = self.unknown.signers.contains(signer);
            *unknown |= is_unknown;
            *known |= !is_unknown;
        }
        for (forwarder, (known, unknown)) in forwarders {
            if unknown {
                self.unknown.note(now, forwarder, known);
            } else {
                self.unknown.pauses.remove(&forwarder);
            }
        }
    }
}
