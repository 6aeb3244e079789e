//! The state machine's transitions.

mod funds;
mod gaps;
mod replace;

use std::collections::VecDeque;

use alloy_primitives::{Address, B256, Bytes, U256};

use funds::Shortage;
use replace::Urge;

use super::{
    event::{
        AttemptKey, AttemptKind, Blockage, Command, Event, HeadInfo, LaneAlert, LaneConfig, LaneError, NodeTerms, Plan,
        PollPurpose, RestoredSlot, SendOutcome, Trouble, TxToSign,
    },
    slot::{Attempt, CancelCost, Held, MinedIn, Phase, Slot, worst_case_wei},
};
use crate::{
    chain::{Fees, ReplacementRule, RpcErrorClass},
    protection::Protection,
    request::{BatchId, LaneId, outcome::TxReceipt, vehicle::Payload},
    table::Table,
    time::Timestamp,
};

/// Tolerated lead of a node over the followed head, blocks. A receipt in a later block is not believed.
const MAX_AHEAD_BLOCKS: u64 = 16;

/// State machine of one sender's transactions on one chain; the module has a table of its states.
#[derive(Debug)]
pub struct Lane {
    config: LaneConfig,
    next_nonce: u64,
    is_reconciled: bool,
    /// Boxed: there may be thousands in blocks, and the first ones leave.
    slots: Table<u64, Box<Slot>>,
    head: Option<HeadInfo>,
    balance: Option<U256>,
    /// Current cost of a cancel beyond gas, wei.
    cancel_extra_wei: U256,
    /// Acceptance limits of the nodes.
    terms: NodeTerms,
    shortage: Option<Shortage>,
    chain_nonce: u64,
    /// One more than the highest nonce ever used by us.
    own_next: u64,
    /// One more than the highest final nonce.
    settled_next: u64,
    /// Head number since which the chain's nonce stands below one that no slot explains.
    behind_since: Option<u64>,
    /// True once the operator was told about the gap.
    is_gap_alerted: bool,
    commands: VecDeque<Command>,
}

impl Lane {
    /// A lane restored from the ledger: the next nonce it would use (if it ever sent) and its open slots.
    ///
    /// It refuses plans until the chain's nonce is known ([`Event::AccountNonce`]).
    pub fn restore(config: LaneConfig, next_nonce: Option<u64>, slots: Vec<RestoredSlot>) -> Self {
        let mut open = Table::new();
        for restored in slots {
            let attempts = restored.attempts.into_iter();
            let attempts: Vec<Attempt> =
                attempts.map(|(kind, fees, hash)| Attempt::restored(kind, fees, hash)).collect();
            // An abandoned payload stays abandoned (I7), whatever the reason.
            let is_abandoned = attempts.iter().any(|attempt| attempt.kind == AttemptKind::Cancel);
            let slot = Slot {
                was_broadcast: restored.was_broadcast,
                is_reported_included: restored.was_included,
                is_abandoned,
                ..Slot::new(restored.plan, attempts)
            };
            open.insert(restored.nonce, Box::new(slot));
        }
        let above = open.keys().next_back().map_or(0, |nonce| nonce + 1);
        let own_next = next_nonce.unwrap_or(0).max(above);
        Self {
            config,
            next_nonce: own_next,
            is_reconciled: !Protection::Reconcile.is_on(),
            slots: open,
            head: None,
            balance: None,
            cancel_extra_wei: U256::ZERO,
            terms: NodeTerms::default(),
            shortage: None,
            chain_nonce: 0,
            own_next,
            settled_next: 0,
            behind_since: None,
            is_gap_alerted: false,
            commands: VecDeque::new(),
        }
    }

    /// The lane's sender and chain.
    pub const fn id(&self) -> LaneId {
        self.config.id
    }

    /// Nonce of the next batch; `None` until reconciled.
    pub const fn next_nonce(&self) -> Option<u64> {
        if self.is_reconciled { Some(self.next_nonce) } else { None }
    }

    /// Number of transactions outside blocks.
    pub fn in_flight(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_in_flight()).count()
    }

    /// Number of transactions in blocks that are not final.
    pub fn unfinal(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_included()).count()
    }

    /// Blocks since the newest attempt of the lowest open nonce.
    pub fn waiting_blocks(&self) -> u64 {
        let waits = self.slots.values().find(|slot| slot.is_in_flight() && slot.was_broadcast);
        let since = waits.and_then(|slot| slot.attempted_at);
        self.head.zip(since).map_or(0, |(head, since)| head.number.saturating_sub(since))
    }

    /// The lowest open nonce and its trouble, if any is known; all younger nonces wait for it.
    pub fn blockage(&self) -> Option<Blockage> {
        let (nonce, slot) = self.slots.iter().find(|(_, slot)| slot.is_in_flight())?;
        Some(Blockage { nonce: *nonce, trouble: slot.trouble? })
    }

    /// Last known balance, wei; `None` until the first reading.
    pub const fn balance(&self) -> Option<U256> {
        self.balance
    }

    /// True while a waiting plan or an in-flight transaction needs a top-up. Other plans are still accepted as far as
    /// the balance reaches.
    pub const fn is_underfunded(&self) -> bool {
        self.shortage.is_some()
    }

    /// True while the transaction with this nonce is tracked.
    pub fn holds(&self, nonce: u64) -> bool {
        self.slots.contains_key(&nonce)
    }

    /// True if the payload of `nonce` may not be sent any more: its deadline has passed (I7), or it is abandoned.
    pub fn is_too_late(&self, now: Timestamp, nonce: u64) -> bool {
        let slot = self.slots.get(&nonce).zip(self.head);
        slot.is_some_and(|(slot, head)| slot.is_abandoned || is_past(now, head, slot.plan.deadline))
    }

    /// Drops the calldata of `nonce`, which is in a block. It must be [given back](Self::give_calldata) before another
    /// attempt is signed.
    pub fn forget_calldata(&mut self, nonce: u64) {
        self.give_calldata(nonce, Bytes::new());
    }

    /// Restores the calldata of `nonce`.
    pub fn give_calldata(&mut self, nonce: u64, data: Bytes) {
        if let Some(slot) = self.slots.get_mut(&nonce) {
            slot.plan.payload.data = data;
        }
    }

    /// Number of attempts made for `nonce`.
    pub fn attempts(&self, nonce: u64) -> usize {
        self.slots.get(&nonce).map_or(0, |slot| slot.attempts.len())
    }

    /// Checks that a plan would be accepted now, apart from its own cost.
    ///
    /// # Errors
    /// [`LaneError::NotReconciled`], [`LaneError::Busy`], [`LaneError::Full`] or [`LaneError::Underfunded`].
    pub fn ready(&self) -> Result<(), LaneError> {
        if !self.is_reconciled || self.head.is_none() || self.behind_since.is_some() {
            return Err(LaneError::NotReconciled);
        }
        if let Some((nonce, _)) = self.slots.iter().find(|(_, slot)| slot.is_signing()) {
            return Err(LaneError::Busy { nonce: *nonce });
        }
        let in_flight = self.in_flight();
        if in_flight >= self.config.max_in_flight {
            return Err(LaneError::Full { in_flight, limit: self.config.max_in_flight });
        }
        if let Some(Shortage::Refused { needed_wei, .. }) = self.shortage {
            return Err(LaneError::Underfunded { needed_wei, available_wei: self.available_wei() });
        }
        Ok(())
    }

    /// Accepts a plan and allocates the next nonce for it, or a lower vacant one; `Sign` follows.
    ///
    /// # Errors
    /// [`LaneError`]; no nonce is allocated then. A plan that the balance does not cover raises an alert; other plans
    /// are still accepted.
    pub fn submit(&mut self, now: Timestamp, plan: Plan) -> Result<BatchId, LaneError> {
        self.submit_offering(now, plan, None)
    }

    /// As [`Self::submit`], with `offer` for the first attempt instead of the head's quote. The plan's ceiling still
    /// caps it, and replacements follow the quote and the chain's rule as usual.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_offering(&mut self, now: Timestamp, plan: Plan, offer: Option<Fees>) -> Result<BatchId, LaneError> {
        self.ready()?;
        let Some(head) = self.head else { return Err(LaneError::NotReconciled) };
        if is_past(now, head, plan.deadline) {
            return Err(LaneError::DeadlinePassed);
        }
        let ceiling = self.ceiling_of(&plan);
        let offer = with_tip(offer.unwrap_or(head.quote), self.least_tip());
        let fees = first_offer(offer, ceiling, self.config.replacement, head);
        // A cap below the next base fee can't be included: not worth a nonce.
        if fees.max_fee_per_gas < head.next_base_fee {
            return Err(LaneError::AboveCeiling {
                quote_wei_per_gas: head.next_base_fee,
                ceiling_wei_per_gas: ceiling,
            });
        }
        let needed_wei = worst_case_wei(&plan, fees.max_fee_per_gas);
        let available_wei = self.available_wei();
        if self.balance.is_some() && available_wei < needed_wei {
            self.short(needed_wei, plan.deadline);
            return Err(LaneError::Underfunded { needed_wei, available_wei });
        }
        let nonce = self.take_nonce(plan);
        self.sign(nonce, AttemptKind::Payload, fees);
        Ok(BatchId { lane: self.config.id, nonce })
    }

    /// Places `plan` in the lowest vacant nonce, else the next one; returns the nonce.
    fn take_nonce(&mut self, plan: Plan) -> u64 {
        let chain_nonce = self.chain_nonce;
        let vacant = self.slots.iter_mut().find(|(nonce, slot)| slot.is_vacant && *nonce >= chain_nonce);
        if let Some((nonce, slot)) = vacant {
            let attempts = std::mem::take(&mut slot.attempts);
            // A plan whose commit failed was not refused.
            let was_refused = attempts.len() > slot.plan_from;
            let refused_plans = slot.refused_plans.saturating_add(was_refused.into());
            let plan_from = attempts.len();
            **slot = Slot { plan_from, refused_plans, is_polling: slot.is_polling, ..Slot::new(plan, attempts) };
            return *nonce;
        }
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.own_next = self.own_next.max(self.next_nonce);
        self.slots.insert(nonce, Box::new(Slot::new(plan, Vec::new())));
        nonce
    }

    /// Highest fee cap permitted by the plan and the nodes, wei per gas.
    fn ceiling_of(&self, plan: &Plan) -> u128 {
        plan.ceiling_wei_per_gas.min(self.most_for(plan.payload.gas_limit))
    }

    /// Highest fee cap that nodes accept for this gas limit, wei per gas.
    fn most_for(&self, gas_limit: u64) -> u128 {
        self.terms.fee_cap_wei.map_or(u128::MAX, |cap| cap / u128::from(gas_limit.max(1)))
    }

    /// Lowest tip that nodes are known to accept, within the permitted bound, wei per gas.
    fn least_tip(&self) -> u128 {
        self.terms.least_tip_wei_per_gas.min(self.terms.tip_bound_wei_per_gas)
    }

    /// Applies `event`, which happened at `now`. Drain [`Self::poll_command`] afterwards.
    ///
    /// Events about unknown nonces or attempts are late answers and are ignored.
    pub fn handle_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::AccountNonce { latest, finalized } => self.on_account_nonce(latest, finalized),
            Event::Signed { key, hash } => {
                // Idempotent: a committed attempt keeps its hash.
                if let Some(attempt) = self.attempt_mut(key).filter(|attempt| attempt.hash.is_none()) {
                    attempt.hash = Some(hash);
                    self.commands.push_back(Command::Persist { key });
                }
            }
            Event::Persisted { key } => self.on_persisted(now, key),
            Event::Abandoned { key } => self.on_abandoned(key),
            Event::Sent { key, outcome } => self.on_sent(now, key, outcome),
            Event::Receipts { nonce, purpose, found, is_complete, at_block } => {
                self.on_receipts(nonce, purpose, found, is_complete, at_block);
            }
            Event::CancelExtra(wei) => self.cancel_extra_wei = wei,
            Event::Terms(terms) => self.terms = terms,
            Event::Fill { nonce } => {
                if let Some(slot) = self.slots.get_mut(&nonce).filter(|slot| slot.is_vacant) {
                    slot.fill();
                }
            }
            Event::Short { needed_wei, until } => self.short(needed_wei, until),
            Event::Head(head) => self.on_head(now, head),
            Event::Canonical { number, hash } => self.on_canonical(number, hash),
            Event::Balance(wei) => self.on_balance(now, wei),
        }
    }

    /// The next command to carry out, if any.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn attempt_mut(&mut self, key: AttemptKey) -> Option<&mut Attempt> {
        self.slots.get_mut(&key.nonce)?.attempts.get_mut(key.index as usize)
    }

    const fn cancel_cost(&self) -> CancelCost {
        CancelCost { gas: self.config.cancel_gas, extra_wei: self.cancel_extra_wei }
    }

    fn sign(&mut self, nonce: u64, kind: AttemptKind, fees: Fees) {
        let sender = self.config.id.sender;
        let (chain_id, cancel_gas) = (self.config.id.chain_id, self.config.cancel_gas);
        let head = self.head.map(|head| head.number);
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let key = AttemptKey { nonce, index: u32::try_from(slot.attempts.len()).unwrap_or(u32::MAX) };
        slot.attempts.push(Attempt::new(kind, fees));
        slot.attempted_at = head;
        let payload = match kind {
            AttemptKind::Payload => slot.plan.payload.clone(),
            AttemptKind::Cancel => cancel_payload(sender, cancel_gas),
        };
        self.commands.push_back(Command::Sign { key, tx: TxToSign { chain_id, nonce, kind, payload, fees } });
    }

    fn look_up(&mut self, nonce: u64) {
        if self.slots.get(&nonce).is_some_and(|slot| !slot.is_polling && !slot.is_included()) {
            self.poll(nonce, PollPurpose::Inclusion);
        }
    }

    fn poll(&mut self, nonce: u64, purpose: PollPurpose) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let hashes = slot.hashes();
        slot.is_polling = true;
        self.commands.push_back(Command::Poll { nonce, hashes, purpose });
    }

    fn on_persisted(&mut self, now: Timestamp, key: AttemptKey) {
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let is_included = slot.is_included();
        let Some(attempt) = slot.attempts.get_mut(key.index as usize) else { return };
        if attempt.is_durable {
            return;
        }
        attempt.is_durable = true;
        if !is_included {
            self.broadcast(now, key.nonce);
        }
    }

    fn on_abandoned(&mut self, key: AttemptKey) {
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let index = key.index as usize;
        if index + 1 != slot.attempts.len() || slot.attempts[index].is_durable {
            return;
        }
        slot.attempts.pop();
        if slot.plan_from > 0 && slot.attempts.len() == slot.plan_from {
            // Nothing of the new plan left the process: the slot is as vacant as before.
            (slot.is_vacant, slot.is_abandoned) = (true, false);
        } else if slot.attempts.is_empty() && !slot.is_abandoned {
            // Nothing of this nonce ever left the process: it is free again. It is the newest one (I4).
            self.slots.remove(&key.nonce);
            if self.next_nonce == key.nonce + 1 {
                self.next_nonce = key.nonce;
            }
            if self.own_next == key.nonce + 1 {
                self.own_next = key.nonce;
            }
        }
    }

    /// Sends the best attempt of `nonce`, unless a send is under way. All bytes leave through here.
    fn broadcast(&mut self, now: Timestamp, nonce: u64) {
        let Some(head) = self.head else { return };
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        // I7, for every caller.
        slot.is_abandoned |= is_past(now, head, slot.plan.deadline);
        let Some(index) = slot.best() else { return };
        let attempt = &mut slot.attempts[index];
        if attempt.is_sending {
            return;
        }
        slot.is_vacant = false;
        attempt.is_sending = true;
        attempt.sent_at = Some(head.number);
        attempt.held_before = attempt.held;
        // From here on a node may hold it, whatever the answer, or without one.
        attempt.held = attempt.held.max(Held::Maybe);
        let key = AttemptKey { nonce, index: u32::try_from(index).unwrap_or(u32::MAX) };
        if slot.is_reported_included {
            // Restored as included, but the chain's nonce says otherwise.
            slot.is_reported_included = false;
            self.commands.push_back(Command::ReportUnincluded { nonce });
        } else if !slot.was_broadcast {
            self.commands.push_back(Command::ReportBroadcast { nonce });
        }
        slot.was_broadcast = true;
        self.commands.push_back(Command::Broadcast { key });
    }

    fn on_sent(&mut self, now: Timestamp, key: AttemptKey, outcome: SendOutcome) {
        let cancel = self.cancel_cost();
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let is_included = slot.is_included();
        let needed_wei = slot.worst_case_wei(cancel);
        let Some(attempt) = slot.attempts.get_mut(key.index as usize) else { return };
        attempt.is_sending = false;
        match outcome {
            SendOutcome::Taken => {
                (attempt.held, attempt.refused) = (Held::Yes, None);
                if matches!(slot.trouble, Some(Trouble::Refused(_))) {
                    slot.trouble = None;
                }
                if matches!(self.shortage, Some(Shortage::Refused { .. })) {
                    self.resume();
                }
            }
            SendOutcome::Maybe(_) if !Protection::AmbiguityIsHeld.is_on() => {
                attempt.held = attempt.held_before.max(Held::Refused);
            }
            SendOutcome::Maybe(RpcErrorClass::NonceTooLow) => self.look_up(key.nonce),
            SendOutcome::Maybe(_) => {}
            SendOutcome::Refused(class) => {
                // A definite refusal raises nothing (I6), but does not revert the possible effect of an earlier send.
                if attempt.held == Held::Maybe {
                    attempt.held = attempt.held_before.max(Held::Refused);
                }
                attempt.refused = Some(class);
                if is_included {
                    return;
                }
                let is_held_by_nobody = slot.is_held_by_nobody();
                if is_held_by_nobody {
                    slot.trouble = Some(Trouble::Refused(class));
                }
                match class {
                    RpcErrorClass::InsufficientFunds => self.refused_for_funds(needed_wei),
                    RpcErrorClass::NonceTooLow => {
                        // One of our attempts, or a foreign transaction, used the nonce: the receipts decide.
                        if let Some(attempt) = self.attempt_mut(key) {
                            attempt.held = attempt.held.max(Held::Maybe);
                        }
                        self.look_up(key.nonce);
                    }
                    RpcErrorClass::ReplacementUnderpriced => {
                        // If we believe that no node holds an attempt, we are wrong: price against all the others.
                        if let Some(slot) = self.slots.get_mut(&key.nonce)
                            && slot.held_fees().is_none()
                        {
                            for (index, attempt) in slot.attempts.iter_mut().enumerate() {
                                if index != key.index as usize && attempt.is_durable {
                                    attempt.held = attempt.held.max(Held::Maybe);
                                }
                            }
                        }
                    }
                    RpcErrorClass::NonceGap => {
                        let lower: Vec<u64> =
                            self.slots.keys().copied().take_while(|nonce| *nonce < key.nonce).collect();
                        for nonce in lower {
                            if self.slots.get(&nonce).is_some_and(|slot| slot.is_in_flight() && !slot.is_busy()) {
                                self.broadcast(now, nonce);
                            }
                        }
                    }
                    RpcErrorClass::Underpriced => self.on_underpriced(key),
                    RpcErrorClass::InvalidFees if is_held_by_nobody => self.on_too_dear(key.nonce),
                    class if class.is_permanent() && is_held_by_nobody => self.on_refused(key.nonce, class),
                    _ => {}
                }
                if self.slots.get(&key.nonce).is_some_and(|slot| slot.is_abandoned) {
                    self.vacate(key.nonce);
                }
            }
        }
    }

    /// Handles a permanent refusal of the payload by every node, when none can hold it.
    fn on_refused(&mut self, nonce: u64, class: RpcErrorClass) {
        self.commands.push_back(Command::Alert(LaneAlert::Refused { nonce, class }));
        if let Some(slot) = self.slots.get_mut(&nonce) {
            slot.is_abandoned = true;
        }
        if !self.vacate(nonce) {
            self.replace(nonce, Urge::Price);
        }
    }

    /// Frees the nonce for the next plan if no node can hold any attempt of it: no cancel is paid for a transaction
    /// that no node accepted, unless too many plans were refused. A plan without replay guard on chain waits for the
    /// nonce to be used (I3), whatever the nodes said.
    fn vacate(&mut self, nonce: u64) -> bool {
        let Some(slot) = self.slots.get_mut(&nonce) else { return false };
        let may = slot.plan.is_guarded && slot.is_in_flight() && !slot.is_filler && nonce >= self.chain_nonce;
        let is_over = slot.refused_plans.saturating_add(1) >= self.config.max_refused_plans;
        if !may || is_over || !slot.is_held_by_nobody() || slot.attempts.len() <= slot.plan_from {
            return false;
        }
        (slot.is_vacant, slot.is_abandoned, slot.trouble, slot.vacant_since) = (true, false, None, None);
        let class = slot.refused();
        self.commands.push_back(Command::ReportRefused { nonce, class });
        true
    }

    fn on_receipts(
        &mut self,
        nonce: u64,
        purpose: PollPurpose,
        found: Option<Box<TxReceipt>>,
        is_complete: bool,
        at_block: u64,
    ) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        slot.is_polling = false;
        if let Phase::Included { is_confirming, .. } = &mut slot.phase {
            *is_confirming = false;
        }
        match found {
            Some(receipt) => {
                let Some(index) = slot.attempts.iter().position(|attempt| attempt.hash == Some(receipt.hash)) else {
                    return;
                };
                let kind = slot.attempts[index].kind;
                slot.attempts[index].held = Held::Yes;
                let is_new = match &slot.phase {
                    Phase::Included { block, .. } => *block != MinedIn::of(&receipt),
                    Phase::Pending => true,
                };
                let highest = self.head.map_or(u64::MAX, |head| head.number.saturating_add(MAX_AHEAD_BLOCKS));
                if purpose == PollPurpose::Finality && self.is_final(receipt.block_number) && is_complete {
                    self.slots.remove(&nonce);
                    self.settled_next = self.settled_next.max(nonce + 1);
                    self.commands.push_back(Command::ReportFinal { nonce, kind, receipt });
                } else if nonce >= self.chain_nonce || receipt.block_number > highest {
                    // I9: a majority does not count the nonce as used, or there is no such block: one node's word is
                    // not enough. Polled again at the next head.
                } else if is_new {
                    let Some(slot) = self.slots.get_mut(&nonce) else { return };
                    slot.phase = Phase::Included { block: MinedIn::of(&receipt), is_confirming: false };
                    slot.could = None;
                    (slot.is_reported_included, slot.is_vacant, slot.trouble) = (true, false, None);
                    self.commands.push_back(Command::ReportIncluded { nonce, kind, receipt });
                }
            }
            None if !is_complete => {}
            None => {
                if slot.is_included() {
                    if !Protection::ReorgFallback.is_on() {
                        return;
                    }
                    // The block that included it is gone.
                    slot.phase = Phase::Pending;
                    slot.is_reported_included = false;
                    slot.attempted_at = Some(at_block);
                    self.commands.push_back(Command::ReportUnincluded { nonce });
                } else if purpose == PollPurpose::Finality && slot.consumed_from.is_some_and(|from| at_block >= from) {
                    // I3: consumed at finality before the poll, and by quorum none of our hashes did it.
                    self.slots.remove(&nonce);
                    self.settled_next = self.settled_next.max(nonce + 1);
                    self.commands.push_back(Command::ReportLost { nonce });
                }
            }
        }
    }

    fn is_final(&self, block: u64) -> bool {
        if !Protection::SettleAtFinality.is_on() {
            return true;
        }
        self.head.and_then(|head| head.final_block).is_some_and(|last| block <= last)
    }

    fn on_canonical(&mut self, number: u64, hash: B256) {
        if !Protection::ReorgFallback.is_on() {
            return;
        }
        let head = self.head.map_or(0, |head| head.number);
        let orphaned: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, slot)| match &slot.phase {
                Phase::Included { block, .. } => block.number == number && block.block_hash != hash,
                Phase::Pending => false,
            })
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in orphaned {
            if let Some(slot) = self.slots.get_mut(&nonce) {
                slot.phase = Phase::Pending;
                slot.is_reported_included = false;
                slot.is_polling = false;
                // The same bytes get a chance in the other branch before any bump.
                slot.attempted_at = Some(head.max(number));
                self.commands.push_back(Command::ReportUnincluded { nonce });
                // It may already be in the other branch.
                self.poll(nonce, PollPurpose::Inclusion);
            }
        }
    }

    fn on_head(&mut self, now: Timestamp, head: HeadInfo) {
        self.head = Some(head);
        if !self.is_reconciled {
            return;
        }
        if let Some(Shortage::Plan { until, .. }) = self.shortage
            && is_past(now, head, until)
        {
            // The shortage has lapsed.
            self.resume();
        }
        self.close_gaps(head);
        let nonces: Vec<u64> = self.slots.keys().copied().collect();
        let mut is_oldest = true;
        for nonce in nonces {
            let Some(slot) = self.slots.get_mut(&nonce) else { continue };
            match &mut slot.phase {
                Phase::Included { block, is_confirming } => {
                    // Once its nonce is used at finality it is final, in whatever block one node saw it.
                    let is_final =
                        slot.consumed_from.is_some() || head.final_block.is_some_and(|last| block.number <= last);
                    if !*is_confirming && (is_final || !Protection::SettleAtFinality.is_on()) {
                        *is_confirming = true;
                        self.poll(nonce, PollPurpose::Finality);
                    }
                }
                Phase::Pending => {
                    self.advance_pending(now, head, nonce, is_oldest);
                    is_oldest = false;
                }
            }
        }
    }
}

/// True if the deadline has passed by the wall clock or the chain's clock (I7).
fn is_past(now: Timestamp, head: HeadInfo, deadline: Timestamp) -> bool {
    if !Protection::Deadline.is_on() {
        return false;
    }
    now >= deadline || Timestamp::from_secs(head.timestamp_s) >= deadline
}

/// `fees` with both caps limited to `ceiling`.
fn clamp(fees: Fees, ceiling: u128) -> Fees {
    let max_fee_per_gas = fees.max_fee_per_gas.min(ceiling);
    Fees { max_fee_per_gas, max_priority_fee_per_gas: fees.max_priority_fee_per_gas.min(max_fee_per_gas) }
}

/// `fees` with at least this tip; the fee cap rises by the same amount.
fn with_tip(fees: Fees, tip: u128) -> Fees {
    let more = tip.saturating_sub(fees.max_priority_fee_per_gas);
    Fees::new(fees.max_fee_per_gas.saturating_add(more), fees.max_priority_fee_per_gas.saturating_add(more))
}

/// Fees of a first attempt under `ceiling`. If the ceiling cuts the offer, room for one bump is left, as long as the
/// next block accepts the remainder.
fn first_offer(offer: Fees, ceiling: u128, rule: ReplacementRule, head: HeadInfo) -> Fees {
    let fees = clamp(offer, ceiling);
    let is_bumpable = |fees: Fees| {
        let bumped = rule.min_replacement(fees, head.next_base_fee);
        bumped.is_none_or(|bumped| bumped.max_fee_per_gas <= ceiling)
    };
    if is_bumpable(fees) {
        return fees;
    }
    // A bump of a tenth needs less than an eighth.
    let lower = clamp(fees, ceiling - ceiling / 8);
    let takes = lower.max_fee_per_gas >= head.next_base_fee.saturating_add(lower.max_priority_fee_per_gas);
    if takes && is_bumpable(lower) { lower } else { fees }
}

/// An empty transfer to the sender itself.
fn cancel_payload(sender: Address, gas_limit: u64) -> Payload {
    Payload { to: sender, value: U256::ZERO, data: Bytes::new(), gas_limit }
}
