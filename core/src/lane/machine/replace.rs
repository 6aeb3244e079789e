//! Replacements: bumps, cancels, the same bytes again (invariant I6).

use super::{
    super::event::{AttemptKind, Command, HeadInfo, LaneAlert},
    super::slot::Held,
    Lane, clamp,
    funds::Shortage,
    is_past,
};
use crate::{chain::Fees, time::Timestamp};

impl Lane {
    /// What a pending slot needs at a new head: a cancel, a bump, the same bytes again, or patience.
    pub(super) fn advance_pending(&mut self, now: Timestamp, head: HeadInfo, nonce: u64, is_oldest: bool) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        if slot.is_busy() {
            return;
        }
        if !slot.is_abandoned && is_past(now, head, slot.plan.deadline) {
            slot.is_abandoned = true;
        }
        let attempted_at = *slot.attempted_at.get_or_insert(head.number);
        // The chain's nonce has passed: something of ours, or a stranger, is in a block. Polling decides, not money.
        if nonce < self.chain_nonce {
            return;
        }
        let Some(index) = slot.best() else {
            // Only payloads that may not be sent any more, or a hole: free the nonce.
            self.replace(nonce);
            return;
        };
        let attempt = &slot.attempts[index];
        if attempt.is_sending {
            return;
        }
        let is_priced_out = attempt.fees.max_fee_per_gas < head.next_base_fee;
        let is_stuck = is_oldest && head.number.saturating_sub(attempted_at) >= self.config.bump_after_blocks;
        let is_refused = attempt.held == Held::Refused;
        let is_stale =
            attempt.sent_at.is_none_or(|sent| head.number.saturating_sub(sent) >= self.config.rebroadcast_after_blocks);
        if matches!(self.shortage, Some(Shortage::Refused { .. })) {
            // No new price while the balance can't cover the old one: failed sends must not ratchet (S9).
            return;
        }
        if is_priced_out || is_stuck {
            if !self.replace(nonce) && (is_refused || is_stale) {
                self.broadcast(now, nonce);
            }
        } else if is_refused || is_stale {
            self.broadcast(now, nonce);
        }
    }

    /// Makes a replacement (a cancel once the payload is abandoned). Returns whether one was made.
    pub(super) fn replace(&mut self, nonce: u64) -> bool {
        let Some(head) = self.head else { return false };
        let config = &self.config;
        let Some(slot) = self.slots.get_mut(&nonce) else { return false };
        let (kind, ceiling) = if slot.is_abandoned {
            (AttemptKind::Cancel, config.max_fee_ceiling_wei_per_gas)
        } else {
            (AttemptKind::Payload, slot.plan.ceiling_wei_per_gas)
        };
        let has_cancel = slot.attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
        let is_first_cancel = kind == AttemptKind::Cancel && !has_cancel;
        if slot.attempts.len() >= config.max_attempts as usize && !is_first_cancel {
            if !slot.is_alerted {
                slot.is_alerted = true;
                self.commands.push_back(Command::Alert(LaneAlert::AttemptsExhausted { nonce }));
            }
            return false;
        }
        // The least that works: what a node may hold must be outbid, and the next block must take it.
        let needed = match slot.held_fees() {
            Some(_) if !config.replacement.is_supported() && !is_first_cancel => return false,
            Some(held) if !config.replacement.is_supported() => Some(held),
            // Nothing outbids a price near 2^128.
            Some(held) => config.replacement.min_replacement(held, head.next_base_fee),
            None => Some(Fees::new(head.next_base_fee, 0)),
        };
        let least = needed.filter(|least| least.max_fee_per_gas <= ceiling);
        // A payload that may not be sent any more, can't be outbid under the ceiling and is not mined although it could
        // pay: most likely nobody holds it. A cancel at the market's price frees the nonce then, and is refused if not.
        let is_forgotten = is_first_cancel
            && slot.held_fees().is_some_and(|held| held.max_fee_per_gas >= head.next_base_fee)
            && slot.quiet_blocks(head.number) >= config.bump_after_blocks.saturating_mul(2);
        let least = least.or_else(|| is_forgotten.then(|| Fees::new(head.next_base_fee, 0)));
        let Some(least) = least.filter(|_| head.next_base_fee <= ceiling) else {
            if !slot.is_alerted {
                slot.is_alerted = true;
                self.commands.push_back(Command::Alert(LaneAlert::CeilingReached {
                    nonce,
                    needed_wei_per_gas: needed.map_or(u128::MAX, |least| least.max_fee_per_gas.max(head.next_base_fee)),
                    ceiling_wei_per_gas: ceiling,
                }));
            }
            return false;
        };
        // A quote above the ceiling is cut to it; the replacement rule is kept.
        let fees = clamp(least.max_of_each(head.quote), ceiling).max_of_each(least);
        if slot.attempts.iter().any(|attempt| (attempt.kind, attempt.fees) == (kind, fees)) {
            // The very same bytes: send them again instead.
            return false;
        }
        self.sign(nonce, kind, fees);
        true
    }
}
