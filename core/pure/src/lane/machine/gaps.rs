//! Reconciliation of the chain's nonce with ours (invariant I4).

use alloy_primitives::U256;

use super::{
    super::{
        event::{Command, HeadInfo, LaneAlert, Plan, PollPurpose},
        slot::Slot,
    },
    Lane, cancel_payload,
};
use crate::{protection::Protection, time::Timestamp};

/// Limit on gaps filled without the operator. A node that reports a nonce far too high at the wrong moment must not
/// make us pay for a million cancels.
const MAX_GAP: usize = 1_000;

impl Lane {
    pub(super) fn on_account_nonce(&mut self, latest: u64, finalized: Option<u64>) {
        // Views lag and disagree; an account nonce never falls except by a reorg, which the receipts reveal.
        self.chain_nonce = latest;
        if !self.is_reconciled {
            self.reconcile(latest);
        } else if latest > self.next_nonce && Protection::Reconcile.is_on() {
            // The key is used elsewhere. Our own slots are judged by their receipts.
            self.commands.push_back(Command::Alert(LaneAlert::ForeignNonce { ours: self.next_nonce, chain: latest }));
            self.next_nonce = latest;
        }
        let finalized = if Protection::LostAtFinality.is_on() { finalized } else { Some(latest) };
        let next_head = self.head.map_or(0, |head| head.number.saturating_add(1));
        let below = finalized.unwrap_or(0);
        for (_, slot) in self.slots.iter_mut().take_while(|(nonce, _)| *nonce < below) {
            slot.consumed_from.get_or_insert(next_head);
        }
        // A filler that was never signed, for a nonce that was used after all.
        self.slots.retain(|(nonce, slot)| !(slot.is_filler && slot.attempts.is_empty() && *nonce < latest));
        let polls: Vec<(u64, PollPurpose)> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.is_included() && !slot.is_signing() && !slot.is_polling)
            .filter(|(nonce, _)| *nonce < latest)
            .map(|(nonce, _)| {
                let is_final = finalized.is_some_and(|finalized| *nonce < finalized);
                (*nonce, if is_final { PollPurpose::Finality } else { PollPurpose::Inclusion })
            })
            .collect();
        for (nonce, purpose) in polls {
            self.poll(nonce, purpose);
        }
    }

    /// First reconciliation with the chain after a start (invariant I4): the chain may be ahead, behind, or have gaps.
    pub(super) fn reconcile(&mut self, latest: u64) {
        if latest > self.next_nonce && self.next_nonce > 0 {
            self.commands.push_back(Command::Alert(LaneAlert::ForeignNonce { ours: self.next_nonce, chain: latest }));
        }
        self.next_nonce = self.next_nonce.max(latest);
        self.is_reconciled = true;
    }

    /// Closes gaps: nonces between the chain's and ours that no slot explains would block all younger ones. Causes: a
    /// restored backup, a chain reset, a foreign transaction removed by a reorg, a node that reported a nonce too high.
    ///
    /// Views lag, so a gap must last for `bump_after_blocks` before it is believed. Then nonces that were never ours
    /// are given back, and the others are filled with cancels.
    pub(super) fn close_gaps(&mut self, head: HeadInfo) {
        let above = self.slots.keys().next_back().map_or(0, |nonce| nonce + 1);
        let settled = self.chain_nonce.max(self.settled_next);
        let lowest = settled.max(self.own_next).max(above);
        let holes: Vec<u64> =
            (settled..lowest).filter(|nonce| !self.slots.contains_key(nonce)).take(MAX_GAP + 1).collect();
        if holes.is_empty() && lowest >= self.next_nonce {
            self.behind_since = None;
            self.is_gap_alerted = false;
            return;
        }
        let since = *self.behind_since.get_or_insert(head.number);
        if head.number.saturating_sub(since) < self.config.bump_after_blocks {
            return;
        }
        self.next_nonce = self.next_nonce.min(lowest);
        let is_filled = holes.len() <= MAX_GAP;
        if let Some(lowest) = holes.first().copied()
            && !self.is_gap_alerted
        {
            self.is_gap_alerted = true;
            let count = holes.len() as u64;
            self.commands.push_back(Command::Alert(LaneAlert::NonceGap { lowest, count, is_filled }));
        }
        if !is_filled {
            return;
        }
        let fillers = self.slots.values().filter(|slot| slot.is_filler && !slot.is_included()).count();
        let room = self.config.max_in_flight.max(1).saturating_sub(fillers);
        if holes.len() <= room {
            self.behind_since = None;
        }
        for nonce in holes.into_iter().take(room) {
            let plan = Plan {
                payload: cancel_payload(self.config.id.sender, self.config.cancel_gas),
                deadline: Timestamp(u64::MAX),
                ceiling_wei_per_gas: self.config.max_fee_ceiling_wei_per_gas,
                // Counted with every cancel, at the current rate.
                extra_wei: U256::ZERO,
                is_guarded: false,
                is_alone: true,
            };
            let slot = Slot { is_abandoned: true, is_filler: true, ..Slot::new(plan, Vec::new()) };
            self.slots.insert(nonce, Box::new(slot));
        }
    }
}
