//! The transitions.

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::{Address, B256, Bytes, U256};

use super::{
    event::{
        AttemptKey, AttemptKind, Command, Event, HeadInfo, LaneAlert, LaneConfig, LaneError, Plan, PollPurpose,
        RestoredSlot, SendOutcome, TxToSign,
    },
    slot::{Attempt, Held, Phase, Slot, worst_case_wei},
};
use crate::{
    chain::{Fees, RpcErrorClass},
    request::{BatchId, LaneId, outcome::TxReceipt, vehicle::Payload},
    time::Timestamp,
};

/// One sender's transactions on one chain. See the module's table of states.
#[derive(Debug)]
pub struct Lane {
    config: LaneConfig,
    next_nonce: u64,
    is_reconciled: bool,
    slots: BTreeMap<u64, Slot>,
    head: Option<HeadInfo>,
    balance: Option<U256>,
    /// Needed before the lane sends again.
    underfunded: Option<U256>,
    chain_nonce: u64,
    commands: VecDeque<Command>,
}

impl Lane {
    /// A lane as the ledger remembers it: the next nonce it would use (if it ever sent) and its open slots.
    ///
    /// It refuses plans until the chain's nonce is known ([`Event::AccountNonce`]).
    pub fn restore(config: LaneConfig, next_nonce: Option<u64>, slots: Vec<RestoredSlot>) -> Self {
        let slots = slots
            .into_iter()
            .map(|slot| {
                let attempts = slot
                    .attempts
                    .into_iter()
                    .map(|(kind, fees, hash)| Attempt {
                        kind,
                        fees,
                        hash: Some(hash),
                        is_durable: true,
                        // Committed, so it may have been sent before the crash.
                        held: Held::Maybe,
                        sent_at: None,
                        is_sending: false,
                    })
                    .collect();
                let restored = Slot {
                    plan: slot.plan,
                    attempts,
                    phase: Phase::Pending,
                    was_broadcast: slot.was_broadcast,
                    is_reported_included: slot.was_included,
                    is_abandoned: false,
                    attempted_at: 0,
                    is_polling: false,
                    is_alerted: false,
                };
                (slot.nonce, restored)
            })
            .collect();
        Self {
            config,
            next_nonce: next_nonce.unwrap_or(0),
            is_reconciled: false,
            slots,
            head: None,
            balance: None,
            underfunded: None,
            chain_nonce: 0,
            commands: VecDeque::new(),
        }
    }

    /// Which lane.
    pub const fn id(&self) -> LaneId {
        self.config.id
    }

    /// Nonce of the next batch, once reconciled.
    pub const fn next_nonce(&self) -> Option<u64> {
        if self.is_reconciled { Some(self.next_nonce) } else { None }
    }

    /// Transactions outside blocks.
    pub fn in_flight(&self) -> usize {
        self.slots.values().filter(|slot| !slot.is_included()).count()
    }

    /// Transactions in blocks that are not final.
    pub fn unfinal(&self) -> usize {
        self.slots.len() - self.in_flight()
    }

    /// Balance when last read, wei.
    pub const fn balance(&self) -> Option<U256> {
        self.balance
    }

    /// The lane waits for a top-up.
    pub const fn is_underfunded(&self) -> bool {
        self.underfunded.is_some()
    }

    /// Whether some transaction with this batch id is still tracked.
    pub fn holds(&self, nonce: u64) -> bool {
        self.slots.contains_key(&nonce)
    }

    /// Number of attempts that were made for `nonce`.
    pub fn attempts(&self, nonce: u64) -> usize {
        self.slots.get(&nonce).map_or(0, |slot| slot.attempts.len())
    }

    /// Whether a plan would be taken now, apart from its own cost.
    ///
    /// # Errors
    /// [`LaneError::NotReconciled`], [`LaneError::Busy`], [`LaneError::Full`] or [`LaneError::Underfunded`].
    pub fn ready(&self) -> Result<(), LaneError> {
        if !self.is_reconciled || self.head.is_none() {
            return Err(LaneError::NotReconciled);
        }
        if let Some((nonce, _)) = self.slots.iter().find(|(_, slot)| slot.is_signing()) {
            return Err(LaneError::Busy { nonce: *nonce });
        }
        let in_flight = self.in_flight();
        if in_flight >= self.config.max_in_flight {
            return Err(LaneError::Full { in_flight, limit: self.config.max_in_flight });
        }
        if let Some(needed_wei) = self.underfunded {
            return Err(LaneError::Underfunded { needed_wei, available_wei: self.available_wei() });
        }
        Ok(())
    }

    /// Takes a plan and allocates the next nonce for it; `Sign` follows.
    ///
    /// # Errors
    /// [`LaneError`]; no nonce is allocated then. An underfunded lane also raises an alert and resumes by itself.
    pub fn submit(&mut self, now: Timestamp, plan: Plan) -> Result<BatchId, LaneError> {
        self.ready()?;
        let Some(head) = self.head else { return Err(LaneError::NotReconciled) };
        if is_past(now, head, plan.deadline) {
            return Err(LaneError::DeadlinePassed);
        }
        let fees = clamp(head.quote, plan.ceiling_wei_per_gas);
        // A cap below the next base fee can't be included: not worth a nonce.
        if fees.max_fee_per_gas < head.next_base_fee {
            return Err(LaneError::AboveCeiling {
                quote_wei_per_gas: head.next_base_fee,
                ceiling_wei_per_gas: plan.ceiling_wei_per_gas,
            });
        }
        let needed_wei = worst_case_wei(&plan, fees.max_fee_per_gas);
        let available_wei = self.available_wei();
        if self.balance.is_some() && available_wei < needed_wei {
            self.pause(needed_wei);
            return Err(LaneError::Underfunded { needed_wei, available_wei });
        }
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.slots.insert(
            nonce,
            Slot {
                plan,
                attempts: Vec::new(),
                phase: Phase::Pending,
                was_broadcast: false,
                is_reported_included: false,
                is_abandoned: false,
                attempted_at: head.number,
                is_polling: false,
                is_alerted: false,
            },
        );
        self.sign(nonce, AttemptKind::Payload, fees);
        Ok(BatchId { lane: self.config.id, nonce })
    }

    /// Applies `event`, which happened at `now`. Drain [`Self::poll_command`] afterwards.
    ///
    /// Events about unknown nonces or attempts are ignored: they are late answers.
    pub fn handle_event(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::AccountNonce { latest, finalized } => self.on_account_nonce(latest, finalized),
            Event::Signed { key, hash } => {
                if let Some(attempt) = self.attempt_mut(key) {
                    attempt.hash = Some(hash);
                    self.commands.push_back(Command::Persist { key });
                }
            }
            Event::Persisted { key } => self.on_persisted(now, key),
            Event::Abandoned { key } => self.on_abandoned(key),
            Event::Sent { key, outcome } => self.on_sent(key, outcome),
            Event::Receipts { nonce, purpose, found, is_complete, at_block } => {
                self.on_receipts(nonce, purpose, found, is_complete, at_block);
            }
            Event::Head(head) => self.on_head(now, head),
            Event::Canonical { number, hash } => self.on_canonical(number, hash),
            Event::Balance(wei) => self.on_balance(wei),
        }
    }

    /// The next thing to do, if any.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn attempt_mut(&mut self, key: AttemptKey) -> Option<&mut Attempt> {
        self.slots.get_mut(&key.nonce)?.attempts.get_mut(key.index as usize)
    }

    /// Balance minus the worst case of everything that is not settled.
    fn available_wei(&self) -> U256 {
        let committed = self
            .slots
            .values()
            .filter(|slot| !slot.is_included())
            .fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei()));
        self.balance.unwrap_or(U256::MAX).saturating_sub(committed)
    }

    fn pause(&mut self, needed_wei: U256) {
        if self.underfunded.is_none() {
            let balance_wei = self.balance.unwrap_or(U256::ZERO);
            self.commands.push_back(Command::Alert(LaneAlert::Underfunded { needed_wei, balance_wei }));
        }
        self.underfunded = Some(needed_wei);
    }

    fn sign(&mut self, nonce: u64, kind: AttemptKind, fees: Fees) {
        let sender = self.config.id.sender;
        let (chain_id, cancel_gas) = (self.config.id.chain_id, self.config.cancel_gas);
        let head = self.head.map_or(0, |head| head.number);
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let key = AttemptKey { nonce, index: u32::try_from(slot.attempts.len()).unwrap_or(u32::MAX) };
        slot.attempts.push(Attempt {
            kind,
            fees,
            hash: None,
            is_durable: false,
            held: Held::Unsent,
            sent_at: None,
            is_sending: false,
        });
        slot.attempted_at = head;
        let payload = match kind {
            AttemptKind::Payload => slot.plan.payload.clone(),
            AttemptKind::Cancel => cancel_payload(sender, cancel_gas),
        };
        self.commands.push_back(Command::Sign { key, tx: TxToSign { chain_id, nonce, kind, payload, fees } });
    }

    fn on_account_nonce(&mut self, latest: u64, finalized: Option<u64>) {
        // Views lag and disagree; an account nonce never falls except by a reorg, which the receipts tell.
        self.chain_nonce = latest;
        if !self.is_reconciled {
            self.reconcile(latest);
        } else if latest > self.next_nonce {
            // Somebody else spends this key. Our own slots are judged by their receipts.
            self.commands.push_back(Command::Alert(LaneAlert::ForeignNonce { ours: self.next_nonce, chain: latest }));
            self.next_nonce = latest;
        }
        let polls: Vec<(u64, PollPurpose)> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.is_included() && !slot.is_signing() && !slot.is_polling)
            .filter(|(nonce, _)| **nonce < latest)
            .map(|(nonce, _)| {
                let is_final = finalized.is_some_and(|finalized| *nonce < finalized);
                (*nonce, if is_final { PollPurpose::Finality } else { PollPurpose::Inclusion })
            })
            .collect();
        for (nonce, purpose) in polls {
            self.poll(nonce, purpose);
        }
    }

    /// First look at the chain after a start (invariant I4): the chain may be ahead, behind, or have holes.
    fn reconcile(&mut self, latest: u64) {
        let above = self.slots.keys().next_back().map_or(0, |nonce| nonce + 1);
        let known = self.next_nonce.max(above);
        if latest > known && known > 0 {
            self.commands.push_back(Command::Alert(LaneAlert::ForeignNonce { ours: known, chain: latest }));
        }
        self.next_nonce = known.max(latest);
        self.is_reconciled = true;
        // Nonces between the chain's and ours that no slot explains (a restored backup, a store that was reset) would block
        // everything behind them: fill them with cancels.
        let holes: Vec<u64> = (latest..self.next_nonce).filter(|nonce| !self.slots.contains_key(nonce)).collect();
        for nonce in holes {
            let plan = Plan {
                payload: cancel_payload(self.config.id.sender, self.config.cancel_gas),
                deadline: Timestamp(u64::MAX),
                ceiling_wei_per_gas: self.config.max_fee_ceiling_wei_per_gas,
                extra_wei: U256::ZERO,
            };
            self.slots.insert(
                nonce,
                Slot {
                    plan,
                    attempts: Vec::new(),
                    phase: Phase::Pending,
                    was_broadcast: false,
                    is_reported_included: false,
                    is_abandoned: true,
                    attempted_at: 0,
                    is_polling: false,
                    is_alerted: false,
                },
            );
        }
    }

    fn poll(&mut self, nonce: u64, purpose: PollPurpose) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let hashes = slot.hashes();
        slot.is_polling = true;
        self.commands.push_back(Command::Poll { nonce, hashes, purpose });
    }

    fn on_persisted(&mut self, now: Timestamp, key: AttemptKey) {
        let head = self.head;
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let is_included = slot.is_included();
        let deadline = slot.plan.deadline;
        let Some(attempt) = slot.attempts.get_mut(key.index as usize) else { return };
        if attempt.is_durable {
            return;
        }
        attempt.is_durable = true;
        let is_payload = attempt.kind == AttemptKind::Payload;
        if is_payload && head.is_some_and(|head| is_past(now, head, deadline)) {
            slot.is_abandoned = true;
        }
        if !is_included {
            self.broadcast(key.nonce);
        }
    }

    fn on_abandoned(&mut self, key: AttemptKey) {
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let index = key.index as usize;
        if index + 1 != slot.attempts.len() || slot.attempts[index].is_durable {
            return;
        }
        slot.attempts.pop();
        if slot.attempts.is_empty() && !slot.is_abandoned {
            // Nothing of this nonce ever left the process: it is free again. It is the newest one (I4).
            self.slots.remove(&key.nonce);
            if self.next_nonce == key.nonce + 1 {
                self.next_nonce = key.nonce;
            }
        }
    }

    /// Sends the best attempt of `nonce`, unless it is on its way already.
    fn broadcast(&mut self, nonce: u64) {
        let head = self.head.map_or(0, |head| head.number);
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let Some(index) = slot.best() else { return };
        let attempt = &mut slot.attempts[index];
        if attempt.is_sending {
            return;
        }
        attempt.is_sending = true;
        attempt.sent_at = Some(head);
        // From here on somebody may hold it, whatever the answer says (or whether one comes at all).
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

    fn on_sent(&mut self, key: AttemptKey, outcome: SendOutcome) {
        let Some(slot) = self.slots.get_mut(&key.nonce) else { return };
        let is_first = slot.attempts.len() == 1;
        let needed_wei = slot.worst_case_wei();
        let Some(attempt) = slot.attempts.get_mut(key.index as usize) else { return };
        attempt.is_sending = false;
        let was_held = attempt.held == Held::Yes;
        match outcome {
            SendOutcome::Taken => attempt.held = Held::Yes,
            SendOutcome::Maybe(_) => {}
            SendOutcome::Refused(class) => {
                // A definite refusal raises nothing (I6), but an earlier acceptance is not taken back by it.
                if !was_held {
                    attempt.held = Held::Refused;
                }
                match class {
                    RpcErrorClass::InsufficientFunds => self.pause(needed_wei),
                    RpcErrorClass::NonceTooLow => {
                        // One of our attempts, or a stranger, used the nonce: the receipts tell.
                        if let Some(attempt) = self.attempt_mut(key) {
                            attempt.held = attempt.held.max(Held::Maybe);
                        }
                        if self.slots.get(&key.nonce).is_some_and(|slot| !slot.is_polling && !slot.is_included()) {
                            self.poll(key.nonce, PollPurpose::Inclusion);
                        }
                    }
                    RpcErrorClass::ReplacementUnderpriced => {
                        // The node holds something of ours that we believed refused: what we price against includes it.
                        if let Some(slot) = self.slots.get_mut(&key.nonce) {
                            for (index, attempt) in slot.attempts.iter_mut().enumerate() {
                                if index != key.index as usize && attempt.is_durable {
                                    attempt.held = attempt.held.max(Held::Maybe);
                                }
                            }
                        }
                    }
                    RpcErrorClass::NonceGap => {
                        let lower: Vec<u64> = self.slots.range(..key.nonce).map(|(nonce, _)| *nonce).collect();
                        for nonce in lower {
                            if self.slots.get(&nonce).is_some_and(|slot| !slot.is_included() && !slot.is_busy()) {
                                self.broadcast(nonce);
                            }
                        }
                    }
                    class if is_permanent(class) && is_first => {
                        let may_be_held = self
                            .slots
                            .get(&key.nonce)
                            .is_some_and(|slot| slot.attempts.iter().any(|attempt| attempt.held >= Held::Maybe));
                        if !may_be_held {
                            self.commands.push_back(Command::Alert(LaneAlert::Refused { nonce: key.nonce, class }));
                            if let Some(slot) = self.slots.get_mut(&key.nonce) {
                                slot.is_abandoned = true;
                            }
                            self.replace(key.nonce);
                        }
                    }
                    _ => {}
                }
            }
        }
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
                    Phase::Included { receipt: known, .. } => {
                        known.hash != receipt.hash || known.block_hash != receipt.block_hash
                    }
                    Phase::Pending => true,
                };
                if purpose == PollPurpose::Finality && self.is_final(receipt.block_number) && is_complete {
                    self.slots.remove(&nonce);
                    self.commands.push_back(Command::ReportFinal { nonce, kind, receipt });
                } else if is_new {
                    let Some(slot) = self.slots.get_mut(&nonce) else { return };
                    slot.phase = Phase::Included { receipt: receipt.clone(), is_confirming: false };
                    slot.is_reported_included = true;
                    self.commands.push_back(Command::ReportIncluded { nonce, kind, receipt });
                }
            }
            None if !is_complete => {}
            None => {
                if slot.is_included() {
                    // The block we saw it in is gone.
                    slot.phase = Phase::Pending;
                    slot.is_reported_included = false;
                    slot.attempted_at = at_block;
                    self.commands.push_back(Command::ReportUnincluded { nonce });
                } else if purpose == PollPurpose::Finality {
                    // I3: consumed at finality, and by quorum none of our hashes did it.
                    self.slots.remove(&nonce);
                    self.commands.push_back(Command::ReportLost { nonce });
                }
            }
        }
    }

    fn is_final(&self, block: u64) -> bool {
        self.head.and_then(|head| head.final_block).is_some_and(|last| block <= last)
    }

    fn on_canonical(&mut self, number: u64, hash: B256) {
        let orphaned: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, slot)| match &slot.phase {
                Phase::Included { receipt, .. } => receipt.block_number == number && receipt.block_hash != hash,
                Phase::Pending => false,
            })
            .map(|(nonce, _)| *nonce)
            .collect();
        for nonce in orphaned {
            if let Some(slot) = self.slots.get_mut(&nonce) {
                slot.phase = Phase::Pending;
                slot.is_reported_included = false;
                slot.is_polling = false;
                slot.attempted_at = number;
                self.commands.push_back(Command::ReportUnincluded { nonce });
                // It may already be in the other branch.
                self.poll(nonce, PollPurpose::Inclusion);
            }
        }
    }

    fn on_balance(&mut self, wei: U256) {
        self.balance = Some(wei);
        let Some(needed_wei) = self.underfunded else { return };
        // What is refused for lack of funds is itself in flight: compare with the whole balance.
        let refused: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.is_included() && !slot.is_busy())
            .map(|(nonce, _)| *nonce)
            .collect();
        let needed_wei = if refused.is_empty() {
            needed_wei
        } else {
            refused
                .iter()
                .filter_map(|nonce| self.slots.get(nonce))
                .fold(U256::ZERO, |sum, slot| sum.saturating_add(slot.worst_case_wei()))
        };
        if wei >= needed_wei {
            self.underfunded = None;
            self.commands.push_back(Command::Alert(LaneAlert::Resumed));
            for nonce in refused {
                self.broadcast(nonce);
            }
        }
    }

    fn on_head(&mut self, now: Timestamp, head: HeadInfo) {
        self.head = Some(head);
        if !self.is_reconciled {
            return;
        }
        let nonces: Vec<u64> = self.slots.keys().copied().collect();
        let mut is_oldest = true;
        for nonce in nonces {
            let Some(slot) = self.slots.get_mut(&nonce) else { continue };
            match &mut slot.phase {
                Phase::Included { receipt, is_confirming, .. } => {
                    let block = receipt.block_number;
                    if !*is_confirming && head.final_block.is_some_and(|last| block <= last) {
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

    /// What a pending slot needs at a new head: a cancel, a bump, the same bytes again, or patience.
    fn advance_pending(&mut self, now: Timestamp, head: HeadInfo, nonce: u64, is_oldest: bool) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        if slot.is_busy() {
            return;
        }
        if !slot.is_abandoned && is_past(now, head, slot.plan.deadline) {
            slot.is_abandoned = true;
        }
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
        let is_stuck = is_oldest && head.number.saturating_sub(slot.attempted_at) >= self.config.bump_after_blocks;
        let is_refused = attempt.held == Held::Refused;
        let is_stale =
            attempt.sent_at.is_none_or(|sent| head.number.saturating_sub(sent) >= self.config.rebroadcast_after_blocks);
        if self.underfunded.is_some() {
            // No new price while the balance can't cover the old one: failed sends must not ratchet (S9).
            return;
        }
        if is_priced_out || is_stuck {
            if !self.replace(nonce) && is_stale {
                self.broadcast(nonce);
            }
        } else if is_refused || is_stale {
            self.broadcast(nonce);
        }
    }

    /// Makes a replacement (a cancel once the payload is abandoned). Returns whether one was made.
    fn replace(&mut self, nonce: u64) -> bool {
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
        let fees = match slot.held_fees() {
            Some(held) => {
                if !config.replacement.is_supported() && !is_first_cancel {
                    return false;
                }
                let least = config.replacement.min_replacement(held, head.next_base_fee).unwrap_or(held);
                least.max_of_each(head.quote)
            }
            None => head.quote,
        };
        if fees.max_fee_per_gas > ceiling {
            // Everything may fit under the ceiling with a lower quote, as long as the replacement rule is kept.
            let least = slot
                .held_fees()
                .map_or(Some(head.quote), |held| config.replacement.min_replacement(held, head.next_base_fee));
            match least {
                Some(least) if least.max_fee_per_gas <= ceiling && ceiling >= head.next_base_fee => {
                    let fees = clamp(fees, ceiling).max_of_each(least);
                    self.sign(nonce, kind, fees);
                    return true;
                }
                _ => {
                    if !slot.is_alerted {
                        slot.is_alerted = true;
                        self.commands.push_back(Command::Alert(LaneAlert::CeilingReached {
                            nonce,
                            needed_wei_per_gas: fees.max_fee_per_gas,
                            ceiling_wei_per_gas: ceiling,
                        }));
                    }
                    return false;
                }
            }
        }
        self.sign(nonce, kind, fees);
        true
    }
}

/// Answers that will be the same next time, whatever is paid.
const fn is_permanent(class: RpcErrorClass) -> bool {
    matches!(
        class,
        RpcErrorClass::GasTooLow
            | RpcErrorClass::GasTooHigh
            | RpcErrorClass::BadTransaction
            | RpcErrorClass::Reverted
            | RpcErrorClass::ConditionNotMet
    )
}

/// I7: past by the wall clock or by the chain's.
fn is_past(now: Timestamp, head: HeadInfo, deadline: Timestamp) -> bool {
    now >= deadline || Timestamp::from_secs(head.timestamp_s) >= deadline
}

/// Both caps brought down to `ceiling`.
fn clamp(fees: Fees, ceiling: u128) -> Fees {
    let max_fee_per_gas = fees.max_fee_per_gas.min(ceiling);
    Fees { max_fee_per_gas, max_priority_fee_per_gas: fees.max_priority_fee_per_gas.min(max_fee_per_gas) }
}

/// A transfer of nothing to oneself.
fn cancel_payload(sender: Address, gas_limit: u64) -> Payload {
    Payload { to: sender, value: U256::ZERO, data: Bytes::new(), gas_limit }
}
