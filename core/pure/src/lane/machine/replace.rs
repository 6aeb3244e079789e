//! Replacements: bumps, cancels, rebroadcasts (invariant I6).

use alloy_primitives::U256;

use super::{
    super::event::{AttemptKey, AttemptKind, Command, HeadInfo, LaneAlert, Trouble},
    super::slot::{Attempt, Held},
    Lane, clamp,
    funds::Shortage,
    is_past, with_tip,
};
use crate::{
    chain::{Fees, RpcErrorClass},
    protection::Protection,
    time::Timestamp,
};

/// Reason for a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urge {
    /// The next block costs more than the offer, or the payload is abandoned.
    Price,
    /// No block includes it, although its price is sufficient.
    Patience,
    /// Every node refuses it for its tip.
    Refusal,
}

/// An insufficient tip is doubled, starting at this fraction of the bound: ten steps lead from nothing to the bound.
const FIRST_STEP: u128 = 1_024;

/// A payload is abandoned once a cancel would cost this share of its members' remaining budget, percent.
const CANCEL_SHARE_PERCENT: u64 = 75;

/// True if a higher price may cure the refusal.
const fn is_about_price(refused: Option<RpcErrorClass>) -> bool {
    matches!(refused, Some(RpcErrorClass::Underpriced | RpcErrorClass::FeeCapBelowBaseFee))
}

impl Lane {
    /// Advances a pending slot at a new head: a cancel, a bump, a rebroadcast, or nothing.
    pub(super) fn advance_pending(&mut self, now: Timestamp, head: HeadInfo, nonce: u64, is_oldest: bool) {
        let has_younger = self.has_younger(nonce);
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        if slot.is_busy() {
            return;
        }
        if slot.is_vacant {
            // The next plan gets it, but younger nonces must not wait for that forever.
            if !has_younger {
                slot.vacant_since = None;
                return;
            }
            let since = *slot.vacant_since.get_or_insert(head.number);
            if nonce < self.chain_nonce || head.number.saturating_sub(since) < self.config.bump_after_blocks {
                return;
            }
            slot.fill();
        }
        if !slot.is_abandoned && is_past(now, head, slot.plan.deadline) {
            slot.is_abandoned = true;
        }
        let attempted_at = *slot.attempted_at.get_or_insert(head.number);
        // The chain's nonce has passed: one of our attempts, or a foreign transaction, is in a block. Polling decides,
        // not money.
        if nonce < self.chain_nonce {
            slot.could = None;
            return;
        }
        if slot.is_abandoned && self.vacate(nonce) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let Some(index) = slot.best() else {
            // Only payloads that may not be sent any more, or a gap: free the nonce.
            self.replace(nonce, Urge::Price);
            return;
        };
        let attempt = &slot.attempts[index];
        if attempt.is_sending {
            return;
        }
        let is_priced_out = attempt.fees.max_fee_per_gas < head.next_base_fee;
        let is_stuck = is_oldest && head.number.saturating_sub(attempted_at) >= self.config.bump_after_blocks;
        let (is_refused, refused, is_abandoned) = (attempt.held == Held::Refused, attempt.refused, slot.is_abandoned);
        // The replacement is refused, as above a node's limit of cost, and blocks can't take what nodes hold.
        let is_stranded = is_refused && slot.held_fees().is_some_and(|held| held.max_fee_per_gas < head.next_base_fee);
        let is_stale =
            attempt.sent_at.is_none_or(|sent| head.number.saturating_sub(sent) >= self.config.rebroadcast_after_blocks);
        if matches!(self.shortage, Some(Shortage::Refused { .. })) {
            // No new price while the balance can't cover the old one: failed sends must not ratchet (S9).
            slot.could = None;
            return;
        }
        let could = is_oldest && !is_abandoned && !is_priced_out && !is_refused;
        // Blocks that were not observed, as in an outage, count only in part: possibly no node held it then.
        let step = (self.config.abandon_after_blocks / 4).max(1);
        let counted = |(blocks, at): (u64, u64)| blocks.saturating_add(head.number.saturating_sub(at).min(step));
        let could_blocks = slot.could.filter(|_| could).map_or(0, counted);
        slot.could = could.then_some((could_blocks, head.number));
        let may_yield = !is_abandoned && Protection::PricedOutYields.is_on();
        let is_replaced = if could && self.is_left_out(nonce, could_blocks) {
            self.abandon(nonce, LaneAlert::Ignored { nonce, blocks: could_blocks })
        } else if (is_priced_out || is_stranded) && may_yield && self.gives_up(head, nonce) {
            true
        } else if is_priced_out {
            self.replace(nonce, Urge::Price)
        } else if is_refused && is_about_price(refused) {
            self.replace(nonce, Urge::Refusal)
        } else if is_stuck {
            // A refused transaction was not passed over.
            self.replace(nonce, if is_refused { Urge::Price } else { Urge::Patience })
        } else {
            false
        };
        if !is_replaced && (is_refused || is_stale) {
            self.broadcast(now, nonce);
        }
    }

    fn has_younger(&self, nonce: u64) -> bool {
        let mut younger = self.slots.iter().rev().take_while(|(other, _)| *other > nonce);
        younger.any(|(_, slot)| slot.is_in_flight() && !slot.is_filler)
    }

    /// Abandons a payload that its ceiling keeps out of the next block, if younger nonces wait behind it, or if its
    /// members' remaining budget would soon no longer cover a cancel.
    fn gives_up(&mut self, head: HeadInfo, nonce: u64) -> bool {
        let Some(slot) = self.slots.get(&nonce) else { return false };
        let ceiling = self.ceiling_of(&slot.plan);
        let needed = match slot.held_fees() {
            Some(held) if self.config.replacement.is_supported() => {
                self.config.replacement.min_replacement(held, head.next_base_fee).map(|least| least.max_fee_per_gas)
            }
            _ => Some(head.next_base_fee),
        };
        if needed.is_some_and(|needed| needed.max(head.next_base_fee) <= ceiling) {
            return false;
        }
        let price = head.next_base_fee.saturating_add(head.quote.max_priority_fee_per_gas);
        let wei = |gas: u64, price: u128| U256::from(gas).saturating_mul(U256::from(price));
        let cancel = wei(self.config.cancel_gas, price).saturating_add(self.cancel_extra_wei);
        let left = wei(slot.plan.payload.gas_limit, slot.plan.ceiling_wei_per_gas).saturating_add(slot.plan.extra_wei);
        let is_last_chance =
            cancel.saturating_mul(U256::from(100)) >= left.saturating_mul(U256::from(CANCEL_SHARE_PERCENT));
        if !is_last_chance && !self.has_younger(nonce) {
            return false;
        }
        self.abandon(nonce, LaneAlert::PricedOut { nonce, ceiling_wei_per_gas: ceiling })
    }

    /// True if blocks have passed it over for `abandon_after_blocks` while younger nonces wait, and a cancel is
    /// affordable (I14).
    fn is_left_out(&self, nonce: u64, blocks: u64) -> bool {
        let most = self.config.abandon_after_blocks;
        let is_long = most > 0 && blocks >= most && Protection::IgnoredYields.is_on();
        is_long && self.has_younger(nonce) && self.pays_cancel(nonce)
    }

    /// True if the cancel ceiling suffices to outbid the attempts that nodes may hold.
    fn pays_cancel(&self, nonce: u64) -> bool {
        let most = self.config.max_fee_ceiling_wei_per_gas.min(self.most_for(self.config.cancel_gas));
        let (Some(head), Some(slot)) = (self.head, self.slots.get(&nonce)) else { return false };
        let least = slot.held_fees().map(|held| self.config.replacement.min_replacement(held, head.next_base_fee));
        least.is_none_or(|least| least.is_some_and(|least| least.max_fee_per_gas <= most))
    }

    /// Stops sending the payload. Returns true if the nonce became free or a cancel is under way.
    fn abandon(&mut self, nonce: u64, why: LaneAlert) -> bool {
        let Some(slot) = self.slots.get_mut(&nonce) else { return false };
        slot.is_abandoned = true;
        self.commands.push_back(Command::Alert(why));
        self.vacate(nonce) || self.replace(nonce, Urge::Price)
    }

    /// Handles a node's demand for a higher tip than the attempt offers.
    pub(super) fn on_underpriced(&mut self, key: AttemptKey) {
        let Some(slot) = self.slots.get(&key.nonce) else { return };
        // An attempt that a node may hold is outbid by the rule, after its waiting time.
        if slot.is_held_by_nobody() && key.index as usize + 1 == slot.attempts.len() && !slot.is_vacant {
            self.replace(key.nonce, Urge::Refusal);
        }
    }

    /// Handles a refusal of the maximum cost when no node can hold it: a single request offers less, a batch is made
    /// smaller.
    pub(super) fn on_too_dear(&mut self, nonce: u64) {
        let Some(slot) = self.slots.get(&nonce) else { return };
        let is_guarded = slot.plan.is_guarded;
        let is_batch = is_guarded && !slot.plan.is_alone && !slot.is_abandoned;
        if !is_batch && self.replace(nonce, Urge::Price) {
            return;
        }
        if is_guarded {
            self.commands.push_back(Command::Alert(LaneAlert::Refused { nonce, class: RpcErrorClass::InvalidFees }));
            self.vacate(nonce);
        }
    }

    /// The tip to follow an insufficient one: the known accepted tip, else twice as much, within the bound.
    fn next_tip(&self, tip: u128) -> u128 {
        let bound = self.terms.tip_bound_wei_per_gas;
        let known = self.least_tip().max(self.terms.suggested_tip_wei_per_gas.min(bound));
        if known > tip {
            return known;
        }
        tip.saturating_mul(2).max(bound / FIRST_STEP).max(tip.saturating_add(1)).min(bound)
    }

    /// Makes a replacement (a cancel once the payload is abandoned). Returns true if one was made.
    pub(super) fn replace(&mut self, nonce: u64, urge: Urge) -> bool {
        let Some(head) = self.head else { return false };
        let (cancel_ceiling, least_tip) = (self.most_for(self.config.cancel_gas), self.least_tip());
        let Some(slot) = self.slots.get(&nonce) else { return false };
        let plan_ceiling = self.ceiling_of(&slot.plan);
        let last = slot.best().map(|best| &slot.attempts[best]);
        let refused = last.and_then(|attempt| attempt.refused).filter(|_| urge == Urge::Refusal);
        let last = last.map_or_else(Fees::default, |attempt| attempt.fees);
        let floor = match urge {
            // Only an attempt at an otherwise sufficient price says anything about its tip.
            Urge::Patience => slot.tip_floor.max(self.next_tip(last.max_priority_fee_per_gas)),
            Urge::Refusal if refused == Some(RpcErrorClass::Underpriced) => {
                slot.tip_floor.max(self.next_tip(last.max_priority_fee_per_gas))
            }
            Urge::Price | Urge::Refusal => slot.tip_floor,
        };
        let config = &self.config;
        let Some(slot) = self.slots.get_mut(&nonce) else { return false };
        let (kind, ceiling) = if slot.is_abandoned {
            (AttemptKind::Cancel, config.max_fee_ceiling_wei_per_gas.min(cancel_ceiling))
        } else {
            (AttemptKind::Payload, plan_ceiling)
        };
        let has_cancel = slot.attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
        let is_first_cancel = kind == AttemptKind::Cancel && !has_cancel;
        let quiet = slot.attempted_at.map_or(0, |at| head.number.saturating_sub(at));
        // Attempts that no node holds cost nothing. When the others are used up, replacements continue slowly: nothing
        // else frees the nonce.
        if slot.held_attempts() >= config.max_attempts as usize && !is_first_cancel {
            if !matches!(slot.trouble, Some(Trouble::AttemptsExhausted)) {
                slot.trouble = Some(Trouble::AttemptsExhausted);
                self.commands.push_back(Command::Alert(LaneAlert::AttemptsExhausted { nonce }));
            }
            if quiet < config.bump_after_blocks.saturating_mul(2) {
                return false;
            }
        }
        // The lowest sufficient fees: outbid every attempt that a node may hold, and be acceptable to the next block.
        let needed = match slot.held_fees() {
            Some(_) if !config.replacement.is_supported() && !is_first_cancel => return false,
            Some(held) if !config.replacement.is_supported() => Some(held),
            // No replacement is possible for a price near 2^128.
            Some(held) => {
                let least = |base_fee| config.replacement.min_replacement(held, base_fee);
                // Some pools compare prices at the base fee of their current block, which may be an eighth above the
                // next one's.
                let is_too_low = slot.refused() == Some(RpcErrorClass::ReplacementUnderpriced);
                let now = head.next_base_fee.saturating_add(head.next_base_fee / 7);
                let more = least(now).filter(|more| is_too_low && more.max_fee_per_gas <= ceiling);
                least(head.next_base_fee).map(|least| more.map_or(least, |more| least.max_of_each(more)))
            }
            None => Some(Fees::new(head.next_base_fee, 0)),
        };
        let least = needed.filter(|least| least.max_fee_per_gas <= ceiling);
        // A payload that may not be sent any more, can't be outbid under the ceiling and is not mined although it could
        // pay is most likely held by no node. A cancel then frees the nonce, and may be refused if a node does hold it:
        // it outbids pools that compare caps where the ceiling allows, and else offers the market's price.
        let is_forgotten = is_first_cancel
            && slot.held_fees().is_some_and(|held| held.max_fee_per_gas >= head.next_base_fee)
            && slot.quiet_blocks(head.number) >= config.bump_after_blocks.saturating_mul(2);
        let by_caps = |held: Fees| config.replacement.by_caps().min_replacement(held, head.next_base_fee);
        let outbids = slot.held_fees().and_then(by_caps).filter(|least| least.max_fee_per_gas <= ceiling);
        let market = Fees::new(head.next_base_fee, 0);
        let least = least.or_else(|| is_forgotten.then(|| outbids.map_or(market, |least| least.max_of_each(market))));
        let Some(least) = least.filter(|_| head.next_base_fee <= ceiling) else {
            if slot.trouble.is_none() {
                slot.trouble = Some(Trouble::AboveCeiling);
                self.commands.push_back(Command::Alert(LaneAlert::CeilingReached {
                    nonce,
                    needed_wei_per_gas: needed.map_or(u128::MAX, |least| least.max_fee_per_gas.max(head.next_base_fee)),
                    ceiling_wei_per_gas: ceiling,
                }));
            }
            return false;
        };
        // A quote above the ceiling is cut to it; the replacement rule is kept. A tip only counts if the cap covers it
        // on top of the next block's base fee.
        let mut wanted = with_tip(least.max_of_each(head.quote), floor.max(least_tip));
        let holds_tip = head.next_base_fee.saturating_add(wanted.max_priority_fee_per_gas);
        wanted.max_fee_per_gas = wanted.max_fee_per_gas.max(holds_tip);
        let fees = clamp(wanted, ceiling).max_of_each(least);
        // All cancels of a nonce are identical; a payload may differ from the one before.
        let is_same = |(index, attempt): (usize, &Attempt)| {
            (attempt.kind, attempt.fees) == (kind, fees) && (kind == AttemptKind::Cancel || index >= slot.plan_from)
        };
        let is_known = slot.attempts.iter().enumerate().any(is_same);
        // Identical bytes are rebroadcast instead, and so are those refused for a price that can't rise.
        let is_in_vain = match refused {
            Some(RpcErrorClass::Underpriced) => fees.max_priority_fee_per_gas <= last.max_priority_fee_per_gas,
            Some(RpcErrorClass::FeeCapBelowBaseFee) => fees.max_fee_per_gas <= last.max_fee_per_gas,
            Some(_) | None => false,
        };
        // A passed-over attempt is not raised so far that no cancel could outbid it.
        let most = config.max_fee_ceiling_wei_per_gas.min(cancel_ceiling);
        let outbid = config.replacement.min_replacement(fees, head.next_base_fee);
        let leaves_no_cancel = urge == Urge::Patience
            && kind == AttemptKind::Payload
            && config.replacement.is_supported()
            && outbid.is_none_or(|outbid| outbid.max_fee_per_gas > most);
        if is_in_vain || is_known || leaves_no_cancel {
            if refused == Some(RpcErrorClass::Underpriced) {
                self.tip_is_refused(nonce, last.max_priority_fee_per_gas);
            }
            return false;
        }
        slot.tip_floor = slot.tip_floor.max(floor.min(fees.max_priority_fee_per_gas));
        if matches!(slot.trouble, Some(Trouble::AboveCeiling)) {
            slot.trouble = None;
        }
        self.sign(nonce, kind, fees);
        true
    }

    /// Reports, once, that no higher tip is permitted.
    fn tip_is_refused(&mut self, nonce: u64, tip_wei_per_gas: u128) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        if !slot.is_tip_told {
            slot.is_tip_told = true;
            self.commands.push_back(Command::Alert(LaneAlert::TipRefused { nonce, tip_wei_per_gas }));
        }
    }
}
