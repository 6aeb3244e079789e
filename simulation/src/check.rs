//! Invariants, checked after every step, and at the end against the chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use slackwater::{LaneStatus, LocalSigner};
use slackwater_core::{
    Timestamp,
    chain::ClientRule,
    contracts::capped_calls,
    request::{BatchId, Forward, LaneId, Reason, RequestId, Status, VerifiedRequest, settlement::CostAccount},
};
use slackwater_ledger::{BatchState, MemoryStore, RequestRecord};

use crate::{
    chain::{self, Block, Content, GOOD, Item, Receipt, Tx, op_of},
    hostile::{self, HostileTarget, Lie},
    payments,
    plan::Operation,
    run::Landing,
    world::{World, short},
};

/// Highest fee cap of any attempt, wei per gas: the tuning's default.
const CEILING: u128 = 1_000_000_000_000;

/// The tuning's default.
const REPLAN_AFTER_BLOCKS: u64 = 3;
/// Depth from which the relay must know of an unexpected outcome: it queries outcomes at [`REPLAN_AFTER_BLOCKS`].
const SUSPECT_BLOCKS: u64 = REPLAN_AFTER_BLOCKS + 5;
/// Upper bound on the tip of replacements that start from an honest tip, wei per gas.
const MOST_TIP: u128 = 100_000_000_000;

/// Upper bound on the gas of an honest request in a transaction of its own.
const LARGEST_ALONE_GAS: u128 = 250_000;

/// Largest lead of a chain's clock over ours in scenarios without a wrong clock.
const CLOCK_LEAD: Duration = Duration::from_secs(4);

/// Upper bound on a request's reservation at the simulated L1 fees: [`CEILING`] for a million gas, wei.
const MOST_RESERVED: u64 = 1_000_000_000_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// True once a transaction failed as a whole, in any block, or a payment in it.
    has_failed: bool,
    /// Transactions that some node accepted.
    pub(crate) taken: BTreeSet<B256>,
    /// Payloads that were sent, with the number of sends for which the relay heard no clear refusal.
    unrefused: BTreeMap<B256, (Arc<Tx>, u32)>,
    /// Lanes that the relay reported as underfunded.
    underfunded: BTreeSet<Address>,
    events: usize,
    /// Last status and number of events.
    requests: BTreeMap<RequestId, (Status, u32)>,
    /// Time of the last change of status.
    since: BTreeMap<RequestId, u64>,
    ops: BTreeMap<RequestId, u64>,
    /// Payload of each nonce: target and calldata.
    payloads: BTreeMap<(Address, u64), (Address, Bytes)>,
    /// Nonces with which an operation was sent.
    carried: BTreeMap<u64, BTreeSet<(Address, u64)>>,
    /// By lane, the next account nonce as of a block deep enough that forwards left out below it may be sent again, at
    /// any time.
    deep: BTreeMap<Address, u64>,
    /// Operations whose records were lost with the ledger: their outcome is unknown to it.
    pub(crate) forgotten: BTreeSet<u64>,
    /// Blocks whose timestamp is far ahead, as (time of mining, timestamp): a branch that replaces many blocks takes
    /// one second for each.
    hurried: Vec<(Timestamp, Timestamp)>,
}

impl Checker {
    /// Records a block's timestamp `clock` at time `now`.
    pub(crate) fn see_clock(&mut self, now: Timestamp, clock: Timestamp) {
        if clock > now.saturating_add(CLOCK_LEAD) {
            self.hurried.push((now, clock));
        }
    }

    /// True if the request expired because its validity ended by the chain's clock well before it ended by the wall
    /// clock: it must not be sent then (I7).
    fn was_cut_short(&self, record: &RequestRecord) -> bool {
        let is_between =
            |(now, clock): &(Timestamp, Timestamp)| *now < record.valid_until && record.valid_until <= *clock;
        record.status == Status::Expired && self.hurried.iter().any(is_between)
    }

    /// Handles the restoration of an older ledger.
    pub(crate) fn restored(&mut self, store: &MemoryStore) {
        let open: Vec<u64> = self.ops.values().copied().collect();
        self.forgotten.extend(open);
        self.events = 0;
        self.requests.clear();
        self.payloads.clear();
        self.carried.clear();
        for event in store.events_from(0) {
            self.events += 1;
            self.requests.insert(event.request_id, (event.status, event.request_seq));
        }
    }
}

impl World {
    pub(crate) fn op_of_request(&mut self, id: RequestId) -> Option<u64> {
        if let Some(op) = self.checker.ops.get(&id) {
            return Some(*op);
        }
        let record = self.store.request(id)?;
        let request = VerifiedRequest::from_stored(&record.payload).ok()?;
        let op =
            request.payment().map_or_else(|| op_of(&request.data()), |payment| payments::op_of_nonce(payment.nonce));
        self.checker.ops.insert(id, op);
        Some(op)
    }

    /// Successes of the executions of an operation on the chain up to block `last`, newest first.
    fn executions(&self, op: u64, last: u64) -> Vec<bool> {
        let Some(from) = self.head.at(last.min(self.head.number)) else { return Vec::new() };
        let mut found = Vec::new();
        for block in from.back() {
            for (_, receipt) in &block.txs {
                found.extend(receipt.executed.iter().filter(|(other, _)| *other == op).map(|(_, success)| *success));
            }
        }
        found
    }

    /// I1 on the chain.
    pub(crate) fn check_block(&mut self, block: &Arc<Block>) {
        let Some(parent) = &block.parent else { return };
        // A payment may fail alone in its transaction, and its payer may burn its gas then.
        let has_failed = |(tx, receipt): &(Arc<Tx>, Receipt)| {
            let is_partial = matches!(tx.content, Content::Payments(_)) && receipt.executed.len() < tx.ops().len();
            !receipt.is_success || (is_partial && !tx.is_stranger)
        };
        self.checker.has_failed |= block.txs.iter().any(has_failed);
        for (tx, receipt) in &block.txs {
            for (op, _) in &receipt.executed {
                let is_double = parent.back().any(|block| {
                    block.txs.iter().any(|(_, receipt)| receipt.executed.iter().any(|(other, _)| other == op))
                });
                if is_double && !self.checker.forgotten.contains(op) {
                    self.violate(format!(
                        "I1: op #{op} is executed twice, now by {} nonce={}",
                        short(tx.hash),
                        tx.nonce
                    ));
                }
            }
        }
    }

    /// Checks bytes that are about to be sent.
    pub(crate) fn check_send(&mut self, raw: &Bytes) {
        let hash = keccak256(raw);
        let now = self.now();
        let Some(tx) = chain::decode(raw, &self.signatures) else {
            return self.violate(format!("I2: bytes that no node can read are sent: {raw}"));
        };
        let Some(batch) = self.store.attempt(hash) else {
            return self.violate(format!("I2: {} nonce={} is sent before it is durable", short(hash), tx.nonce));
        };
        if batch.nonce != tx.nonce || batch.lane.sender != tx.sender {
            return self.violate(format!(
                "I3: {} of batch nonce={} carries nonce={}",
                short(hash),
                batch.nonce,
                tx.nonce
            ));
        }
        let ops: Vec<String> = tx.ops().iter().map(|op| format!("#{op}")).collect();
        let what = if tx.is_payload() { "payload" } else { "cancel" };
        self.note(format_args!(
            "send {what} nonce={} {} cap {} tip {} {}",
            tx.nonce,
            short(hash),
            tx.fees.max_fee_per_gas,
            tx.fees.max_priority_fee_per_gas,
            ops.join(" ")
        ));
        if self.plan.hostility.lie == Lie::Tip && tx.fees.max_priority_fee_per_gas > MOST_TIP {
            let tip = tx.fees.max_priority_fee_per_gas;
            return self.violate(format!("I15: {} offers a tip of {tip}, which one node alone says", short(hash)));
        }
        if tx.to == capped_calls::ADDRESS && !self.plan.has_capped_calls {
            return self.violate(format!("I1: {} goes to `CappedCalls`, where there is no contract", short(hash)));
        }
        if tx.gas_limit > self.block_gas() {
            let gas = tx.gas_limit;
            return self
                .violate(format!("I14: {} has {gas} gas, more than a block, as every header says", short(hash)));
        }
        if tx.is_payload() {
            self.check_payload(batch, &tx, now);
            self.checker.unrefused.entry(hash).or_insert_with(|| (Arc::new(tx), 0)).1 += 1;
        }
    }

    /// Notes that the relay received a node's refusal of these bytes.
    pub(crate) fn note_refusal(&mut self, raw: &Bytes) {
        if let Some((_, count)) = self.checker.unrefused.get_mut(&keccak256(raw)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Updates, after a new block, the nonces that are `replan_after_blocks` deep now.
    pub(crate) fn note_depth(&mut self) {
        let Some(block) = self.head.at(self.head.number.saturating_sub(REPLAN_AFTER_BLOCKS - 1)).cloned() else {
            return;
        };
        let senders: Vec<Address> = self.keys.iter().map(LocalSigner::address).collect();
        for sender in senders {
            let deepest = self.checker.deep.entry(sender).or_default();
            *deepest = block.state.nonce(sender).max(*deepest);
        }
    }

    fn is_payment(&self, op: u64) -> bool {
        self.operations.iter().any(|operation| operation.op == op && operation.item.kind.payment().is_some())
    }

    /// I13: a payment that was in no transaction of ours costs nothing.
    fn check_unsent(&mut self, record: &RequestRecord, op: u64) {
        let cost = record.cost_wei.unwrap_or_default();
        let mut events = self.store.events_from(0).into_iter().filter(|event| event.request_id == record.id);
        if !cost.is_zero() && !events.any(|event| event.status == Status::Batched) {
            self.violate(format!("I13: payment op #{op} was in no transaction, and costs {cost} wei"));
        }
    }

    fn is_forward(&self, op: u64) -> bool {
        let mut operations = self.operations.iter().filter(|operation| operation.op == op);
        operations.all(|operation| operation.item.kind.as_forward().is_some())
    }

    /// True if a node accepted, or may have accepted, a payload with this nonce, and with `op` if given.
    fn was_taken(&self, (sender, nonce): (Address, u64), op: Option<u64>) -> bool {
        let is_it = |tx: &&Arc<Tx>| {
            tx.sender == sender && tx.nonce == nonce && tx.is_payload() && op.is_none_or(|op| tx.ops().contains(&op))
        };
        // A call whose answer was lost, or that arrives late, counts as one that arrived.
        let mut unrefused = self.checker.unrefused.values().filter(|(_, count)| *count > 0).map(|(tx, _)| tx);
        unrefused.any(|tx| is_it(&tx))
            || self.known.values().filter(is_it).any(|tx| self.checker.taken.contains(&tx.hash))
    }

    fn check_payload(&mut self, id: BatchId, tx: &Tx, now: u64) {
        let deadline = self.store.batch(id).map_or(0, |(batch, _)| batch.deadline.0);
        if now >= deadline {
            return self.violate(format!(
                "I7: payload {} nonce={} is sent {} ms after its deadline",
                short(tx.hash),
                tx.nonce,
                now - deadline
            ));
        }
        let place = (tx.sender, tx.nonce);
        // A payload that no node accepted may be replaced by another one, and its members move to other transactions.
        let is_other = self.checker.payloads.get(&place).is_some_and(|said| *said != (tx.to, tx.data.clone()));
        if is_other && !self.was_taken(place, None) {
            self.count("refused by all nodes, replaced");
            self.checker.payloads.remove(&place);
        }
        let is_new = !self.checker.payloads.contains_key(&place);
        let said = self.checker.payloads.entry(place).or_insert_with(|| (tx.to, tx.data.clone()));
        if *said != (tx.to, tx.data.clone()) {
            return self.violate(format!("I3: nonce={} carries two payloads", tx.nonce));
        }
        if is_new {
            self.check_company(tx);
        }
        let last = self.final_number();
        let Some(settled) = self.head.at(last).cloned() else { return };
        for op in tx.ops() {
            let before: Vec<(Address, u64)> = self.checker.carried.get(&op).into_iter().flatten().copied().collect();
            // Already sent under this nonce: a replacement changes nothing.
            let is_known = before.contains(&place);
            for (sender, nonce) in before {
                if is_known || !self.was_taken((sender, nonce), Some(op)) {
                    continue;
                }
                // A forward is guarded on chain and need not wait for finality (the exception of I3).
                let is_deep = self.checker.deep.get(&sender).is_some_and(|next| *next > nonce);
                if settled.state.nonce(sender) <= nonce && !(is_deep && self.is_forward(op)) {
                    return self.violate(format!(
                        "I3: op #{op} is sent under nonce={} although nonce={nonce} is not used at finality",
                        tx.nonce
                    ));
                }
                if !self.executions(op, last).is_empty() && !self.checker.forgotten.contains(&op) {
                    return self.violate(format!(
                        "I1: op #{op} is sent again under nonce={} although it is executed for good",
                        tx.nonce
                    ));
                }
            }
            self.checker.carried.entry(op).or_default().insert(place);
        }
        // I4: no new batch under a nonce that is used for good, if every node tells the truth at once.
        let faults = &self.plan.faults;
        let is_plain = faults.lag + faults.lies + faults.slow + faults.late + faults.errors == 0 && faults.outages == 0;
        if is_plain && is_new && settled.state.nonce(tx.sender) > tx.nonce {
            self.violate(format!("I4: a payload is sent under nonce={}, which is used for good", tx.nonce));
        }
        // I4: every lower nonce is used, or ours.
        let used = self.head.state.nonce(tx.sender).max(settled.state.nonce(tx.sender));
        if self.faults.strangers == 0
            && self.plan.faults.strangers == 0
            && !self.plan.faults.restores_backup
            && self.plan.faults.lies == 0
        {
            let lane = LaneId { chain_id: self.spec.chain_id, sender: tx.sender };
            if let Some(hole) =
                (used..tx.nonce).find(|nonce| self.store.batch(BatchId { lane, nonce: *nonce }).is_none())
            {
                self.violate(format!("I4: nonce={} is sent, and nothing is committed for nonce={hole}", tx.nonce));
            }
        }
    }

    /// Checks a refusal by a pool that compares fee caps: it must not be of a deliberate replacement (I6).
    pub(crate) fn check_replacement(&mut self, node: usize, held: &Tx, raw: &Bytes) {
        let Some(new) = self.fees_of(raw) else { return };
        let compares_caps = matches!(
            self.nodes[node].rule,
            ClientRule::Geth
                | ClientRule::Erigon
                | ClientRule::Nethermind
                | ClientRule::Reth
                | ClientRule::RethOld
                | ClientRule::Ethrex
                | ClientRule::Anvil
        );
        // If the ceiling leaves no room to outbid, a cancel is tried all the same, in case no pool holds the
        // transaction any more.
        let is_remembered = self.store.attempt(held.hash).is_some();
        let has_room = held.fees.max_fee_per_gas / 10 * 11 + 20 <= CEILING;
        if compares_caps
            && has_room
            && is_remembered
            && !held.is_stranger
            && new.max_fee_per_gas > held.fees.max_fee_per_gas
        {
            let (old, rule) = (held.fees, self.nodes[node].rule);
            self.violate(format!(
                "I6: {rule:?} refuses cap {} tip {} in place of cap {} tip {} of nonce={}",
                new.max_fee_per_gas,
                new.max_priority_fee_per_gas,
                old.max_fee_per_gas,
                old.max_priority_fee_per_gas,
                held.nonce
            ));
        }
    }

    /// Checks a commit: I10, and I1 for each end in it.
    pub(crate) fn check_commit(&mut self) {
        let events = self.store.events_from(self.checker.events);
        for event in events {
            self.checker.events += 1;
            let id = event.request_id;
            let op = self.op_of_request(id).unwrap_or(u64::MAX);
            let reason = event.reason.map_or("", Reason::as_str);
            self.note(format_args!(
                "event {} #{op} {} {reason} {}",
                event.seq,
                event.status,
                event.detail.as_deref().unwrap_or("")
            ));
            if event.seq != self.checker.events as u64 {
                self.violate(format!("I10: event {} comes as number {}", event.seq, self.checker.events));
            }
            let before = self.checker.requests.insert(id, (event.status, event.request_seq));
            let is_next = match before {
                None => event.status == Status::Queued && event.request_seq == 1,
                Some((status, seq)) => {
                    let is_late = event.reason == Some(Reason::PromiseMissed) && status == event.status;
                    (is_late || status.can_become(event.status)) && event.request_seq == seq + 1
                }
            };
            if !is_next {
                self.violate(format!(
                    "I10: op #{op} goes from {before:?} to {} as event {}",
                    event.status, event.request_seq
                ));
            }
            if before.is_none() && self.plan.hostility.lie == Lie::DataFee {
                let reserved = self.store.request(id).map_or(U256::ZERO, |record| record.reserved_wei);
                if reserved > U256::from(MOST_RESERVED) {
                    self.violate(format!(
                        "I15: {reserved} wei are reserved for op #{op}, as one node alone says of L1"
                    ));
                }
            }
            if event.status.is_terminal() {
                self.check_end(id, op, event.status, event.reason);
            }
            let now = self.now();
            let since = self.checker.since.insert(id, now).unwrap_or(now);
            // A request in a transaction waits for the chain, not for the relay.
            let was_waiting = before.is_some_and(|(status, _)| status == Status::Queued);
            if event.status == Status::Expired && was_waiting && self.plan.is_strict {
                self.check_starved(id, op, now - since);
            }
        }
        self.check_budget();
    }

    /// I8 at every moment: reservations and costs fit the budget, except for the cost of one cancel beyond it.
    fn check_budget(&mut self) {
        let Some(limit) = self.plan.budget.filter(|_| !self.plan.faults.restores_backup) else { return };
        let mut sum = U256::ZERO;
        for record in self.store.requests().iter().filter(|record| record.tenant == "alpha") {
            sum += if record.status.is_terminal() { record.counted_wei() } else { record.reserved_wei };
        }
        for row in self.store.accounts().iter().filter(|row| row.tenant.as_deref() == Some("alpha")) {
            sum += row.wei;
        }
        let cancel = || {
            let batches = self.store.batches();
            let cancelled = batches.iter().filter(|batch| batch.state == BatchState::Cancelled);
            cancelled.filter_map(|batch| batch.cost_wei).max().unwrap_or_default()
        };
        if sum > limit && sum > limit.saturating_add(cancel()) {
            self.violate(format!("I8: {sum} wei are reserved and spent of a budget of {limit}"));
        }
    }

    /// Checks a request that expired: something must have kept it from being executed.
    fn check_starved(&mut self, id: RequestId, op: u64, waited_ms: u64) {
        const PATIENCE_BLOCKS: u64 = 14;
        let Some((_, user, nonce)) = self.store.request(id).and_then(|record| record.sequence) else { return };
        let head = self.head.clone();
        let is_payable = |block: &Arc<Block>| block.base_fee <= CEILING / 2;
        let is_free = |block: &&Arc<Block>| block.state.user(user) == nonce && is_payable(block);
        let free = head.back().take_while(is_free).count() as u64;
        if free > PATIENCE_BLOCKS && waited_ms > PATIENCE_BLOCKS * self.spec.block_time_ms {
            self.violate(format!("op #{op} expired although its forwarder nonce {nonce} was free for {free} blocks"));
        }
    }

    /// Checks a request that has ended: the final chain must agree.
    fn check_end(&mut self, id: RequestId, op: u64, status: Status, reason: Option<Reason>) {
        if self.checker.forgotten.contains(&op) {
            return;
        }
        let last = self.final_number();
        if self.is_payment(op) {
            if let Some(problem) = self.payment_problem((id, op), (status, reason), last, false) {
                self.violate(problem);
            }
            return;
        }
        let (settled, all) = (self.executions(op, last), self.executions(op, self.head.number));
        let agrees = match status {
            Status::Finalized => settled == [true],
            Status::Reverted => settled == [false],
            _ => all.is_empty(),
        };
        if !agrees {
            return self.violate(format!(
                "I1: op #{op} ends as {status} ({reason:?}); executed for good: {settled:?}, in any block: {all:?}"
            ));
        }
        if reason == Some(Reason::NonceUsedElsewhere)
            && let Some((_, user, nonce)) = self.store.request(id).and_then(|record| record.sequence)
            && self.head.at(last).is_none_or(|block| block.state.user(user) <= nonce)
        {
            self.violate(format!(
                "I9: op #{op} ends as {status} ({reason:?}), and its forwarder nonce {nonce} is free at finality"
            ));
        }
    }

    /// I12: the cost of final transactions to the lanes equals the sum borne by requests and accounts, to the wei. And
    /// the part that honest tenants do not bear is at most the hostile tenant's budget and one cancel.
    fn check_conservation(&mut self) {
        if self.plan.faults.restores_backup {
            return;
        }
        let head = self.head.clone();
        let (mut taken, mut dearest, mut strangers) = (U256::ZERO, U256::ZERO, U256::ZERO);
        for batch in self.store.batches() {
            let Some((tx, receipt)) = head.spender(batch.id.lane.sender, batch.id.nonce) else { continue };
            if batch.state == BatchState::Lost && tx.is_stranger {
                strangers += receipt.cost();
            }
            if matches!(batch.state, BatchState::Finalized | BatchState::Cancelled) && !tx.is_stranger {
                taken += receipt.cost();
                let cancel = U256::from(21_000) * U256::from(receipt.price) + receipt.data_fee;
                dearest = dearest.max(cancel);
            }
        }
        let (mut borne, mut honest) = (U256::ZERO, U256::ZERO);
        for record in self.store.requests() {
            let cost = record.cost_wei.unwrap_or_default();
            borne += cost;
            honest += if record.tenant == hostile::TENANT { U256::ZERO } else { cost };
        }
        let mut foreign = U256::ZERO;
        for row in self.store.accounts() {
            if row.account == CostAccount::Foreign {
                foreign += row.wei;
                continue;
            }
            borne += row.wei;
            let is_honest = row.tenant.as_ref().is_some_and(|tenant| tenant != hostile::TENANT);
            honest += if is_honest { row.wei } else { U256::ZERO };
        }
        if taken != borne {
            self.violate(format!("I12: final transactions took {taken} wei, requests and accounts bear {borne}"));
        }
        if foreign > strangers || (foreign < strangers && !self.store.has_alert("foreign_unbooked")) {
            self.violate(format!("I12: strangers took {strangers} wei with nonces of ours, {foreign} are booked"));
        }
        if !foreign.is_zero() {
            self.count("stranger booked");
        }
        if self.plan.hostility.operations > 0 {
            let budget = self.plan.hostile_budget();
            let loss = taken.saturating_sub(honest);
            if loss > budget + dearest {
                self.violate(format!("loss: a tenant with a budget of {budget} wei cost others {loss} wei"));
            }
        }
    }

    /// I3: a transaction is the operator's cost (`replan`) only if all its members were executed before by other
    /// transactions.
    fn check_replans(&mut self) {
        if self.plan.faults.restores_backup {
            return;
        }
        let rows = self.store.accounts().into_iter().filter(|row| row.account == CostAccount::Replan);
        let borne = rows.fold(U256::ZERO, |sum, row| sum + row.wei);
        let head = self.head.clone();
        let mut blocks: Vec<_> = head.back().collect();
        blocks.reverse();
        let (mut executed, mut most) = (BTreeSet::new(), U256::ZERO);
        for (tx, receipt) in blocks.into_iter().flat_map(|block| &block.txs) {
            let is_guarded = matches!(tx.content, Content::Batch(_) | Content::Payments(_));
            if is_guarded && !tx.is_stranger && tx.ops().iter().all(|op| executed.contains(op)) {
                most += receipt.cost();
            }
            executed.extend(receipt.executed.iter().map(|(op, _)| *op));
        }
        if borne > most {
            self.violate(format!("I3: the operator bears {borne} wei of transactions for nothing, which took {most}"));
        }
    }

    /// True if a request was accepted before the L1 data fee rose above its reservation, and was in no block then: it
    /// must not be sent for the first time then, unless other members of its transaction pay.
    fn has_seen_rise(&self, record: &RequestRecord) -> bool {
        let Some(fee) = &self.plan.data_fee else { return false };
        // From the block on at whose price it was accepted: the relay may have been two blocks behind.
        let since = record.accepted_at.as_secs().saturating_sub((3 * self.spec.block_time_ms).div_ceil(1_000) + 1);
        let life = since..=record.updated_at.as_secs();
        let end = record.block_number.unwrap_or(u64::MAX);
        let blocks = self.head.back().filter(|block| block.number < end && life.contains(&block.timestamp_s));
        let (mut is_dear, mut was_cheap) = (false, false);
        for block in blocks {
            let is_risen = fee.rise.contains(&(block.number - 1_000));
            (is_dear, was_cheap) = (is_dear || is_risen, !is_risen);
        }
        is_dear && was_cheap
    }

    /// Operations for which data became too expensive and whose status satisfies `is_end`, and operations of the same
    /// users behind them.
    fn held_by_data(&self, is_end: impl Fn(Status) -> bool) -> BTreeSet<u64> {
        let forwards =
            self.operations.iter().filter_map(|operation| Some((operation, operation.item.kind.as_forward()?)));
        let record_of = |operation: &Operation| operation.accepted.first().and_then(|id| self.store.request(*id));
        let is_too_dear = |operation: &Operation| {
            record_of(operation).is_some_and(|record| is_end(record.status) && self.has_seen_rise(&record))
        };
        // By user, the nonces of held requests, and the time until which each was held.
        let mut held: BTreeMap<Address, Vec<(U256, u64)>> = BTreeMap::new();
        for (operation, forward) in forwards.clone().filter(|(operation, _)| is_too_dear(operation)) {
            let block = record_of(operation).and_then(|record| self.head.at(record.block_number?));
            let until = block.map_or(u64::MAX, |block| block.timestamp_s);
            held.entry(forward.from).or_default().push((forward.nonce, until));
        }
        let is_behind = |(operation, forward): &(&Operation, &Forward)| {
            let Some(held) = held.get(&forward.from) else { return false };
            let since = record_of(operation).map_or(u64::MAX, |record| record.accepted_at.as_secs());
            held.iter().any(|(nonce, until)| *nonce < forward.nonce && since <= *until)
        };
        let behind = forwards.filter(is_behind).map(|(operation, _)| operation.op);
        behind.chain(self.operations.iter().filter(|operation| is_too_dear(operation)).map(|it| it.op)).collect()
    }

    /// Outcome of honest tenants' operations, except those that may be held because of the data fee.
    pub(crate) fn landed(&self) -> BTreeMap<u64, Landing> {
        let honest = self.operations.iter().filter(|operation| operation.op < hostile::FIRST_OP);
        let held = self.held_by_data(|_| true);
        honest
            .filter(|operation| !held.contains(&operation.op))
            .map(|operation| {
                let record = operation.accepted.first().and_then(|id| self.store.request(*id));
                let mut landing =
                    Landing { status: record.as_ref().map(|record| record.status), block: None, charged_gas: 0 };
                let executes = |receipt: &Receipt| receipt.executed.iter().any(|(op, _)| *op == operation.op);
                let found = self.head.back().find_map(|block| {
                    block.txs.iter().find(|(_, receipt)| executes(receipt)).map(|(_, receipt)| (block.number, receipt))
                });
                if let Some((block, receipt)) = found {
                    landing.block = Some(block);
                    let cost = record.and_then(|record| record.cost_wei).unwrap_or_default();
                    landing.charged_gas = (cost / U256::from(receipt.price.max(1))).saturating_to();
                }
                (operation.op, landing)
            })
            .collect()
    }

    /// I14: faults and hostile tenants make no honest request fail.
    fn check_landed(&mut self) {
        if !self.plan.must_land {
            return;
        }
        // Above the ceilings, or if a single request costs more than nodes accept, no request can land.
        let cap = self.plan.hostility.fee_cap_wei;
        let most = if cap == 0 { CEILING / 2 } else { cap / LARGEST_ALONE_GAS };
        if self.head.back().any(|block| block.base_fee > most) {
            return;
        }
        // If no lane has money for one more, requests may wait for it, unless a hostile tenant caused the spending.
        let needed = U256::from(LARGEST_ALONE_GAS).saturating_mul(U256::from(self.plan.base_fee.saturating_mul(3)));
        let is_poor = self.plan.hostility.operations == 0;
        if is_poor && self.keys.iter().all(|key| self.head.state.balance(key.address()) < needed) {
            return;
        }
        let held = self.held_by_data(|status| status == Status::Expired);
        // Users with an earlier request that may have ended otherwise: their later requests wait for it.
        let mut behind: BTreeSet<Address> = BTreeSet::new();
        for place in 0..self.operations.len() {
            let operation = &self.operations[place];
            let record = operation.accepted.first().and_then(|id| self.store.request(*id));
            let target = operation.item.kind.target();
            let op = operation.op;
            if let Some(forward) = operation.item.kind.as_forward() {
                if target != GOOD {
                    behind.insert(forward.from);
                }
                if behind.contains(&forward.from) {
                    continue;
                }
            }
            if op >= hostile::FIRST_OP || target != GOOD {
                continue;
            }
            match record {
                None => {
                    let why = operation.end.clone().unwrap_or_default();
                    self.violate(format!("I14: op #{op} is refused: {why}"));
                }
                Some(record) if self.checker.was_cut_short(&record) => {}
                Some(record) if record.status != Status::Finalized && !held.contains(&op) => {
                    self.violate(format!("I14: op #{op} ends as {} ({:?})", record.status, record.reason));
                }
                Some(_) => {}
            }
        }
    }

    /// Notes the lanes that the relay reports as underfunded: those whose transaction was refused for lack of funds.
    pub(crate) fn look_at_lanes(&mut self, lanes: &[LaneStatus]) {
        for lane in lanes.iter().filter(|lane| lane.paused.as_deref() == Some("underfunded")) {
            if self.checker.underfunded.insert(lane.sender) {
                self.count("lane says that it lacks money");
            }
        }
    }

    /// True if a request to `target` had a transaction of its own that did not execute it, so deep that every node has
    /// shown it.
    fn is_suspect(&self, target: Address) -> bool {
        let is_alone =
            |tx: &Tx| matches!(&tx.content, Content::Batch(items) if items.len() == 1 && items[0].to == target);
        let is_deep = |block: &Arc<Block>| block.number + SUSPECT_BLOCKS <= self.head.number;
        self.head
            .back()
            .filter(|block| is_deep(block))
            .any(|block| block.txs.iter().any(|(tx, receipt)| is_alone(tx) && receipt.executed.is_empty()))
    }

    /// Checks the members of a transaction with a target that its tenant does not name: they are of one signer, or all
    /// for that target and of at most one further signer per clean run. And a target that depends on fees must be
    /// found out in the simulation: it behaves there as on chain.
    fn check_company(&mut self, tx: &Tx) {
        let Content::Batch(items) = &tx.content else { return };
        if !items.iter().any(|item| HostileTarget::at(item.to).is_some()) {
            return;
        }
        let signers: BTreeSet<Address> = items.iter().map(|item| item.user).collect();
        if let Some(target) = self.plan.hostility.named_target() {
            if signers.len() > 1 && self.is_suspect(target) {
                let (nonce, count) = (tx.nonce, signers.len());
                self.violate(format!("I14: nonce={nonce} holds {count} signers' requests beside a suspect's"));
            }
            return;
        }
        let targets: BTreeSet<Address> = items.iter().map(|item| item.to).collect();
        let mut runs = 0;
        for block in self.head.back() {
            for (tx, receipt) in &block.txs {
                let Content::Batch(items) = &tx.content else { continue };
                runs += usize::from(receipt.is_success && items.iter().any(|item| targets.contains(&item.to)));
            }
        }
        if signers.len() > 1 && (targets.len() > 1 || signers.len() > 1 + runs) {
            self.violate(format!(
                "I11: nonce={} holds {} signers' requests to {} targets that nobody names, with {runs} clean runs",
                tx.nonce,
                signers.len(),
                targets.len()
            ));
        }
        let shown = |item: &Item| HostileTarget::at(item.to).is_some_and(|(kind, _)| kind.shows_in_simulation());
        if items.iter().any(shown) {
            self.violate(format!("I11: nonce={} holds a target that a simulation in its surroundings shows", tx.nonce));
        }
    }

    /// Final checks, when nothing is left to happen.
    pub(crate) fn check_final(&mut self) {
        self.check_conservation();
        self.check_replans();
        if self.store.has_alert("ignored") {
            self.count("given up: no block takes it");
        }
        self.check_landed();
        let last = self.head.number;
        let chain_id = self.spec.chain_id;
        let mut spent = U256::ZERO;
        for record in self.store.requests() {
            let op = self.op_of_request(record.id).unwrap_or(u64::MAX);
            if !record.status.is_terminal() {
                self.violate(format!("I1: op #{op} is stuck as {}", record.status));
            }
            if self.checker.forgotten.contains(&op) {
                continue;
            }
            let executed = self.executions(op, last);
            let agrees = match record.status {
                _ if self.is_payment(op) => true,
                Status::Finalized => executed == [true],
                Status::Reverted => executed == [false],
                _ => executed.is_empty(),
            };
            if self.is_payment(op) {
                let end = (record.status, record.reason);
                if let Some(problem) = self.payment_problem((record.id, op), end, last, true) {
                    self.violate(problem);
                }
                self.check_unsent(&record, op);
            }
            if !agrees {
                let status = record.status;
                self.violate(format!(
                    "I1: op #{op} has ended as {status} ({:?}), the chain says {executed:?}",
                    record.reason
                ));
            }
            let cost = record.cost_wei.unwrap_or_default();
            let (price, counted) = (record.price_wei().unwrap_or_default(), record.counted_wei());
            if counted > record.reserved_wei {
                self.violate(format!("I8: op #{op} counts {counted} wei, reserved {}", record.reserved_wei));
            }
            let percent = if record.tenant == "alpha" { self.plan.price_percent() } else { 100 };
            if price != (cost * U256::from(percent)).div_ceil(U256::from(100)) {
                self.violate(format!("I12: op #{op} cost {cost} wei, and is charged {price} at {percent} %"));
            }
            if record.tenant == "alpha" {
                spent += counted;
            }
        }
        // Cost of transactions beyond their members' shares: unless a transaction failed, the shares cover everything.
        let overrun = self.store.accounts().into_iter().filter(|row| row.account == CostAccount::Overrun);
        let overrun = overrun.fold(U256::ZERO, |sum, row| sum + row.wei);
        // If most nodes lag by more than finality, settled transactions may not be final.
        let is_honest = self.plan.hostility.operations == 0;
        if is_honest && !overrun.is_zero() && !self.checker.has_failed && self.plan.behind_ms == 0 {
            self.violate(format!("I13: {overrun} wei were not reserved, and no transaction failed"));
        }
        if let Some(budget) = self.plan.budget
            && spent > budget
        {
            self.violate(format!("I8: a tenant spent {spent} wei of {budget}"));
        }
        let operations = self.operations.clone();
        for operation in &operations {
            let op = operation.op;
            if operation.accepted.len() > 1 {
                self.violate(format!("I1: op #{op} is accepted as {} requests", operation.accepted.len()));
            }
            for id in &operation.accepted {
                if self.store.request(*id).is_none() {
                    self.violate(format!("I2: op #{op} was acknowledged and is lost"));
                }
            }
            if operation.accepted.is_empty() && operation.end.is_none() {
                self.violate(format!("op #{op} got no answer"));
            }
        }
        for batch in self.store.batches() {
            let lane = LaneId { chain_id, sender: batch.id.lane.sender };
            if self.plan.faults.restores_backup || lane != batch.id.lane {
                continue;
            }
            let head = self.head.clone();
            let Some((tx, receipt)) = head.spender(lane.sender, batch.id.nonce) else {
                if batch.state.is_final() {
                    self.violate(format!("I9: batch nonce={} is {:?}, its nonce is free", batch.id.nonce, batch.state));
                }
                continue;
            };
            let is_ours = !tx.is_stranger;
            let agrees = match batch.state {
                BatchState::Finalized => is_ours && (tx.is_payload() || batch.to == lane.sender),
                BatchState::Cancelled => is_ours && !tx.is_payload(),
                BatchState::Lost => !is_ours,
                _ => true,
            };
            if !agrees {
                self.violate(format!(
                    "I3: batch nonce={} is {:?}, the chain has {}",
                    batch.id.nonce,
                    batch.state,
                    short(tx.hash)
                ));
            }
            if batch.state == BatchState::Finalized && batch.cost_wei != Some(receipt.cost()) {
                self.violate(format!(
                    "I8: batch nonce={} cost {} wei, told {:?}",
                    batch.id.nonce,
                    receipt.cost(),
                    batch.cost_wei
                ));
            }
        }
    }
}
