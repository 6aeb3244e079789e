//! The sender's way through each input.

use alloy_primitives::B256;

use super::{
    flight::SenderLane,
    host::{Books, FeeView, Host, Surroundings},
    input::{Command, HeadFacts, Input, User},
    state::{Open, Sender, UnderWay},
};
use crate::{
    lane::{Event, HeadInfo, PollPurpose},
    ordered::Map,
    protection::Protection,
    request::{RequestId, outcome::TxReceipt},
    schedule::{Backlog, Queue, QueuedRequest},
    time::Timestamp,
};

/// Blocks without a head after which the chain does not count as healthy.
const LATE_BLOCKS: u32 = 4;

/// Limit of remembered canonical blocks where nothing becomes final.
const MAX_CANONICAL_BLOCKS: u64 = 16_384;

impl<H: Host> Sender<H> {
    /// Applies `input`, which came at `now` in these surroundings. Drain [`Self::poll_command`] afterwards.
    pub fn handle(&mut self, now: Timestamp, around: Surroundings, input: Input) {
        self.now = now;
        self.around = around;
        match input {
            Input::Accepted(entries) => {
                entries.into_iter().for_each(|entry| self.welcome(entry));
                // A full batch goes at once; a smaller one waits for the next tick anyway.
                if self.queue.waiting() >= self.facts.tuning.batch.max_batch {
                    self.look_up_nonces();
                    self.dispatch(now);
                }
            }
            Input::Withdrawn(ids) if H::HAS_LEDGER => self.on_withdrawn(&ids),
            Input::Head(facts) => self.on_head(now, *facts),
            Input::Tick => {
                self.expire(now);
                self.look_up_nonces();
                self.dispatch(now);
            }
            Input::Signed { lane, key, tx, signed } => {
                // What follows comes before what was wanted after the signature.
                let later = self.suspend_commands();
                self.on_signed(now, lane, key, *tx, signed);
                self.resume_commands(later);
            }
            Input::Committed { id, outcomes } => {
                if let Some((lane, key)) = self.committing.remove(&id) {
                    self.on_persisted(now, lane, key, outcomes);
                }
            }
            Input::Sent { lane, key, report } => self.on_sent(now, lane, key, report),
            Input::Suggested(tip) if H::HAS_MAJORITY => self.on_suggested_tip(now, tip),
            Input::Receipts { lane, nonce, purpose, found, mut is_complete, at_block, stranger } => {
                if let Some(found) =
                    found.as_ref().filter(|found| purpose == PollPurpose::Inclusion && self.is_odd(found))
                {
                    // One node's odd word: all are asked. Without a majority the next head asks again.
                    self.command(Command::AgreeOnReceipt { lane, nonce, at_block, hash: found.hash });
                    return;
                }
                if let Some(stranger) = stranger.filter(|_| H::HAS_MAJORITY) {
                    is_complete &= self.meet(now, lane, nonce, stranger);
                }
                self.lane_event(now, lane, Event::Receipts { nonce, purpose, found, is_complete, at_block });
                self.dispatch(now);
            }
            Input::Agreed { lane, nonce, at_block, found } => {
                let found = found.filter(|found| !self.is_on_other_branch(found));
                let (purpose, is_complete) = (PollPurpose::Inclusion, found.is_some());
                self.lane_event(now, lane, Event::Receipts { nonce, purpose, found, is_complete, at_block });
                self.dispatch(now);
            }
            Input::Simulated { lane, mut candidate, simulation, data_quote } => {
                candidate.data_quote = data_quote;
                self.on_simulated(now, lane, *candidate, simulation);
            }
            Input::Inspected { order, found: Some(found) } => self.on_inspected(now, order, found),
            Input::Inspected { order, found: None } => {
                if let Some(waiting) = self.settlements.get_mut(&order) {
                    waiting.is_asked = false;
                }
            }
            Input::Contracts { lane, nonce, hash, contracts } if H::HAS_MAJORITY => {
                self.on_contracts(now, lane, nonce, hash, &contracts)
            }
            Input::LeftOut(left_out) if H::HAS_MAJORITY => self.on_left_out(now, &left_out),
            Input::Fetched { lane, nonce, found } if H::HAS_LEDGER => self.on_fetched(lane, nonce, found),
            Input::Loaded { lane, selection, found } if H::HAS_LEDGER => {
                self.on_loaded(now, lane, *selection, found);
            }
            Input::Nonces { asked, found } => {
                self.under_way.nonces = false;
                self.learn_nonces(found);
                self.queue.note_lookup(now, &asked);
                self.dispatch(now);
            }
            Input::Rechecked(found) => self.learn_nonces(found),
            Input::Confirmed(found) => self.on_confirmed(now, found),
            Input::Payments(found) if H::HAS_LEDGER => self.on_payments(now, found),
            Input::Gaps(found) => {
                self.under_way.gaps = false;
                for (user, _) in &found {
                    if let Some(gap) = self.gaps.get_mut(user) {
                        gap.is_seen = true;
                    }
                }
                self.learn_nonces(found);
                self.dispatch(now);
            }
            // Answers to questions that this host does not ask.
            Input::Withdrawn(_)
            | Input::Suggested(_)
            | Input::Contracts { .. }
            | Input::LeftOut(_)
            | Input::Fetched { .. }
            | Input::Loaded { .. }
            | Input::Payments(_) => {}
        }
    }

    fn learn_nonces(&mut self, found: Vec<(User, u64)>) {
        for ((forwarder, signer), nonce) in found {
            self.learn_nonce(forwarder, signer, nonce);
        }
    }

    fn on_head(&mut self, now: Timestamp, facts: HeadFacts) {
        for point in &facts.points {
            self.pricing.block(point);
        }
        if facts.is_agreed {
            self.proposer = facts.proposer;
        }
        let extra_data = facts.extra_data.unwrap_or_else(|| self.pricing.extra_data());
        self.pricing.refresh_tips(now);
        let shared = self.facts.clone();
        let price = self.pricing.quote(&shared.spec, &shared.tuning, facts.next_base_fee, extra_data);
        let info = HeadInfo {
            number: facts.number,
            timestamp_s: facts.timestamp_s,
            next_base_fee: price.next_base_fee,
            quote: price.quote,
            final_block: facts.final_block,
        };
        self.fees.observe(info.number, &facts.points, price);
        if self.head.is_some() {
            self.healthy += now.since(self.head_at).min(shared.spec.block_time() * LATE_BLOCKS);
        }
        self.head = Some(info);
        self.price = Some(price);
        self.head_at = now;
        if facts.data_fee.is_some() {
            self.data_fee = facts.data_fee;
        }
        self.keep_canonical(facts.number, facts.final_block, &facts.canonical);
        self.release_held(now);
        self.queue.ripen(facts.timestamp_s);
        if let Some(gas) = facts.gas_limit {
            self.pricing.block_gas_limit(gas);
        }
        self.ask_suggested_tip();
        let cancel_extra_wei = self.cancel_extra_wei();
        let terms = self.terms(now);
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let sender = lane.machine.id().sender;
            if let Some(wei) = cancel_extra_wei {
                lane.machine.handle_event(now, Event::CancelExtra(wei));
            }
            lane.machine.handle_event(now, Event::Terms(terms));
            for (number, hash) in &facts.canonical {
                lane.machine.handle_event(now, Event::Canonical { number: *number, hash: *hash });
            }
            if let Some(account) = facts.accounts.iter().find(|account| account.sender == sender) {
                if let Some(latest) = account.latest_nonce {
                    let finalized = account.final_nonce;
                    lane.machine.handle_event(now, Event::AccountNonce { latest, finalized });
                }
                if let Some(balance) = account.balance {
                    lane.machine.handle_event(now, Event::Balance(balance));
                }
            }
            lane.machine.handle_event(now, Event::Head(info));
            self.drain(index);
        }
        if H::HAS_TENANTS {
            self.queue.set_debtors(self.books.debtors(self.chain_id(), now));
            self.weigh_tenants();
        }
        self.settle_in_order(now);
        self.look_at_left_out(now);
        self.fetch_again();
        self.confirm_suspects();
        self.look_at_payments();
        if H::HAS_TENANTS {
            self.measure_paces(now);
        }
        self.end_gapped(now);
        self.look_at_gaps();
        self.expire(now);
        self.dispatch(now);
    }

    /// Gives what failed in simulation another block to try.
    fn release_held(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.held) {
            if self.withdrawn.contains(&id) {
                self.forget_withdrawn(id);
                continue;
            }
            // Not chosen again until its outcome is known.
            let is_over = self.queue.get(id).is_some_and(|entry| entry.request.valid_until() <= now);
            if is_over && Protection::Deadline.is_on() {
                self.held.push(id);
                continue;
            }
            self.put_back(id);
        }
        let queue = &self.queue;
        self.doubts.retain(|id, _| queue.get(*id).is_some());
    }

    /// Lets a request wait again. Its nonce may have been found used meanwhile: then its user becomes a suspect.
    pub(crate) fn put_back(&mut self, id: RequestId) {
        self.queue.put_back(id);
        self.suspect_if_stale(id);
    }

    fn suspect_if_stale(&mut self, id: RequestId) {
        let sequence = self.queue.get(id).and_then(|entry| entry.request.sequence());
        if let Some((forwarder, signer, _)) = sequence
            && !self.queue.stale(forwarder, signer).is_empty()
        {
            self.suspects.insert((forwarder, signer));
        }
    }

    /// Adds an accepted request to the queue. Its user becomes a suspect if the nonce is used already.
    pub fn welcome(&mut self, entry: QueuedRequest) {
        let id = entry.request.id();
        self.queue.push(entry);
        self.suspect_if_stale(id);
    }

    /// Applies the weights of the policies in force.
    pub fn weigh_tenants(&mut self) {
        let changes = self.books.changes();
        if self.policy_changes.replace(changes) != Some(changes) {
            let queue = &mut self.queue;
            self.books.each_weight(&mut |tenant, weight| queue.set_weight(tenant, weight));
        }
    }

    /// Counts per tenant, at a new block, how many requests left since the last block while some waited.
    fn measure_paces(&mut self, now: Timestamp) {
        let Some(limits) = self.limits(now) else { return };
        let near = now.saturating_add(limits.urgent);
        let mut backlogs = Map::new();
        for (tenant, left, fresh) in self.queue.paces() {
            let pace = self.paces.entry(tenant.clone()).or_default();
            pace.block(left, fresh.until(near));
            if let Some(backlog) = Backlog::of(pace, fresh) {
                backlogs.insert(tenant.clone(), backlog);
            }
        }
        self.backlogs = std::sync::Arc::new(backlogs);
    }

    /// Remembers canonical blocks until they are final.
    fn keep_canonical(&mut self, head: u64, final_block: Option<u64>, canonical: &[(u64, B256)]) {
        self.canonical.extend(canonical.iter().copied());
        self.canonical.split_off(&head.saturating_add(1));
        let from = final_block.unwrap_or(0).max(head.saturating_sub(MAX_CANONICAL_BLOCKS));
        self.canonical = self.canonical.split_off(&from);
    }

    /// True if another block is canonical at the receipt's height.
    fn is_on_other_branch(&self, receipt: &TxReceipt) -> bool {
        self.canonical.get(&receipt.block_number).is_some_and(|known| *known != receipt.block_hash)
    }

    /// True if a receipt that should show an inclusion contradicts the known chain: its block is still to come, is final
    /// already, or is not canonical.
    fn is_odd(&self, receipt: &TxReceipt) -> bool {
        let Some(head) = self.head else { return false };
        let highest = head.number.saturating_add(self.around.head_tolerance);
        receipt.block_number > highest
            || Some(receipt.block_number) <= head.final_block
            || self.is_on_other_branch(receipt)
    }

    /// Passes an event to a lane.
    pub fn lane_event(&mut self, now: Timestamp, lane: usize, event: Event) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.machine.handle_event(now, event);
        }
        self.drain(lane);
    }

    /// Requests withdrawn elsewhere: those that wait go at once, the others once they would be sent.
    fn on_withdrawn(&mut self, ids: &[RequestId]) {
        for id in ids {
            if self.queue.is_waiting(*id) {
                self.queue.remove(*id, false);
            } else if self.queue.get(*id).is_some() {
                self.withdrawn.insert(*id);
            }
        }
    }

    /// Forgets a request that was withdrawn elsewhere.
    pub fn forget_withdrawn(&mut self, id: RequestId) {
        self.withdrawn.remove(&id);
        self.queue.remove(id, false);
    }

    /// Forgets withdrawn requests that wait again, whatever brought them back.
    pub fn forget_waiting_withdrawn(&mut self) {
        let queue = &mut self.queue;
        self.withdrawn.retain(|id| {
            if queue.is_waiting(*id) {
                queue.remove(*id, false);
            }
            queue.get(*id).is_some()
        });
    }

    /// Drives these lanes from now on.
    pub fn take_over(&mut self, open: Open) {
        let Open { queue, lanes, uncertain } = open;
        self.queue = queue;
        self.policy_changes = None;
        self.lanes = lanes;
        self.uncertain = uncertain;
    }

    /// Forgets everything about the lanes: the ledger has what counts, and another instance drives them.
    pub fn step_down(&mut self) {
        for (index, lane) in self.lanes.iter().enumerate() {
            lane.flights.keys().for_each(|nonce| self.pricing.forget(index, *nonce));
        }
        self.lanes.clear();
        self.settlements.clear();
        self.queue = Queue::new();
        self.held.clear();
        self.undecided.clear();
        self.suspects.clear();
        self.unread.clear();
        self.uncertain.clear();
        self.withdrawn.clear();
        self.committing.clear();
        self.under_way = UnderWay::default();
        drop(self.suspend_commands());
    }

    /// Sends nothing new from now on; what is decided is still written.
    pub const fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The lane at this index; `None` if the lanes are another instance's by now.
    pub fn lane(&self, index: usize) -> Option<&SenderLane> {
        self.lanes.get(index)
    }
}
