//! What a final transaction means for each of its members.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, U256};

use super::{
    dispatch::MAX_BATCH_FAILURES,
    flight::{Content, Evidence, Flight, Spent},
    host::{Books, Host},
    input::{Command, Inspection, Notice},
    settlement::{Case, Settlement, Waiting},
    state::{Sender, batch_hash},
};
use crate::{
    lane::AttemptKind,
    ordered::{Map, Set},
    protection::Protection,
    provenance::Decision,
    record::{AccountEntry, BatchState, Bill, Reach, RequestChange, Write},
    request::{
        BatchId, Reason, RequestId, Status, VerifiedRequest,
        outcome::{MemberOutcome, TxReceipt, shares},
        settlement::{
            CostAccount, Payer, attribute, attribute_cancel, ceiling_left, has_culprit, lone_culprit, value_moved,
            with_price,
        },
        vehicle::decode,
    },
    time::Timestamp,
};

/// Limit of pending culprit searches per tenant: searches of all tenants run one after another.
const MAX_SEARCHES_OF_TENANT: usize = 4;

/// Time limit for which a final transaction waits for an earlier one that is final too but has no receipt yet. Each
/// cost is right in any order, but a request's end reports its whole cost only if it is settled last.
const WAIT_FOR_EARLIER: Duration = Duration::from_secs(30);

/// Gas used by each member; `None` for an untouched one.
fn gas_of_each(outcomes: &[MemberOutcome], weights: &[u64], gas_used: Option<u64>) -> Vec<Option<u64>> {
    let active = outcomes.iter().zip(weights).filter(|(outcome, _)| **outcome != MemberOutcome::Untouched);
    let active: Vec<u64> = active.map(|(_, weight)| *weight).collect();
    let mut parts = shares(U256::from(gas_used.unwrap_or(0)), &active).into_iter();
    let part = |outcome: &MemberOutcome| {
        (*outcome != MemberOutcome::Untouched).then(|| parts.next()).flatten().and_then(|gas| u64::try_from(gas).ok())
    };
    outcomes.iter().map(part).collect()
}

/// Accumulated results for members that left a transaction before it was final.
#[derive(Default)]
struct LeftEarly {
    changes: Vec<RequestChange>,
    /// (tenant, request, amount counted against the tenant's budget in wei).
    costs_wei: Vec<(Arc<str>, RequestId, U256)>,
    ended: Map<(Status, Option<Reason>), u64>,
    /// Cost shares that no reservation covers, wei.
    unbooked_wei: U256,
}

impl<H: Host> Sender<H> {
    /// The tenant of these requests; `None` if there are several tenants or none.
    pub fn tenant_of(&self, members: &[Arc<VerifiedRequest>]) -> Option<Arc<str>> {
        let mut tenants = members.iter().filter_map(|member| self.queue.get(member.id())).map(|entry| &entry.tenant);
        let first = tenants.next()?;
        tenants.all(|tenant| tenant == first).then(|| Arc::clone(first))
    }

    /// Settles a final transaction, after all transactions planned earlier that hold requests now in this one.
    pub fn settle(&mut self, now: Timestamp, settlement: Settlement) {
        let order = settlement.flight.order();
        self.settlements.insert(order, Waiting { settlement, is_asked: false, is_searched: false, since: now });
        self.settle_in_order(now);
    }

    /// Settles the pending settlements that wait for nothing more.
    pub fn settle_in_order(&mut self, now: Timestamp) {
        let mut after = None;
        loop {
            let next = self.settlements.iter().find(|(order, waiting)| {
                after.is_none_or(|after| **order > after)
                    && !waiting.is_asked
                    && (now.since(waiting.since) >= WAIT_FOR_EARLIER || !self.has_earlier(**order, waiting))
            });
            let Some(order) = next.map(|(order, _)| *order) else { return };
            after = Some(order);
            self.inspect(now, order);
        }
    }

    /// True if an unsettled final transaction, planned earlier, holds requests that left it for this one.
    fn has_earlier(&self, order: (Timestamp, BatchId), waiting: &Waiting) -> bool {
        let flight = &waiting.settlement.flight;
        let final_block = self.head.and_then(|head| head.final_block);
        let is_final = |flight: &&Flight| flight.record.block.is_some_and(|(number, _)| Some(number) <= final_block);
        let in_lanes = self.lanes.iter().flat_map(|lane| lane.flights.values()).filter(is_final);
        let settling = self.settlements.values().map(|waiting| &waiting.settlement.flight);
        in_lanes.chain(settling).any(|other| {
            !other.gone.is_empty() && other.order() < order && other.gone.iter().any(|id| flight.holds(*id))
        })
    }

    /// Settles at once if the receipt is sufficient; otherwise reads the users' nonces and the targets' code first.
    fn inspect(&mut self, now: Timestamp, order: (Timestamp, BatchId)) {
        let Some(Waiting { settlement, .. }) = self.settlements.get(&order) else { return };
        let untouched: Vec<(Address, Address)> = settlement
            .outcomes
            .iter()
            .zip(&settlement.flight.members)
            .filter(|(outcome, member)| {
                **outcome == MemberOutcome::Untouched && !settlement.flight.gone.contains(&member.id())
            })
            .filter_map(|(_, member)| member.sequence())
            .map(|(forwarder, signer, _)| (forwarder, signer))
            .collect();
        let unproven = settlement.flight.shown.unproven.clone();
        // A tenant above the limit goes without a search: the result only decides which of its own requests shows the
        // cost.
        let case = self.case(order).filter(|_| self.searched_for(order) < MAX_SEARCHES_OF_TENANT);
        if untouched.is_empty() && unproven.is_empty() && case.is_none() {
            self.on_inspected(now, order, Inspection::default());
            return;
        }
        if let Some(waiting) = self.settlements.get_mut(&order) {
            (waiting.is_asked, waiting.is_searched) = (true, case.is_some());
        }
        let final_block = self.head.and_then(|head| head.final_block);
        self.command(Command::Inspect {
            order,
            users: untouched,
            targets: unproven,
            case: case.map(Box::new),
            final_block,
        });
    }

    /// Number of other transactions of the same tenant with a pending culprit search.
    fn searched_for(&self, order: (Timestamp, BatchId)) -> usize {
        let tenant_of = |waiting: &Waiting| waiting.settlement.flight.tenant.clone();
        let Some(tenant) = self.settlements.get(&order).and_then(tenant_of) else { return 0 };
        let others = self.settlements.iter().filter(|(other, waiting)| **other != order && waiting.is_searched);
        others.filter(|(_, waiting)| tenant_of(waiting).as_ref() == Some(&tenant)).count()
    }

    /// The culprit search for a final transaction that cost more than its members' known costs; `None` if none is
    /// needed.
    fn case(&self, order: (Timestamp, BatchId)) -> Option<Case> {
        if !H::HAS_MAJORITY {
            return None;
        }
        let settlement = &self.settlements.get(&order)?.settlement;
        let receipt = settlement.receipt.as_deref()?;
        let is_payload = settlement.kind == Some(AttemptKind::Payload) && settlement.earlier.is_none();
        let flight = &settlement.flight;
        let lacks_contract = flight.key.lacks_contract(&self.facts.params);
        // A lone member is the culprit.
        if !is_payload || settlement.outcomes.len() < 2 || lacks_contract {
            return None;
        }
        let lane = self.lanes.iter().find(|lane| lane.machine.id() == settlement.id.lane)?;
        let payers = self.payers(&flight.content(), &flight.drawn, &settlement.outcomes, receipt);
        let has_culprit = has_culprit(receipt, lane.params.schedule.tx_base_gas, &payers);
        let (key, contract, members) = (flight.key, flight.record.to, flight.members.clone());
        has_culprit.then(|| Case { key, contract, members, payers, receipt: receipt.clone(), params: lane.params })
    }

    /// Settles a transaction whose users' nonces are now known, then the transactions that waited for it.
    pub fn on_inspected(&mut self, now: Timestamp, order: (Timestamp, BatchId), found: Inspection) {
        if let Some(waiting) = self.settlements.remove(&order) {
            let Inspection { nonces, contracts, culprit } = found;
            self.conclude(now, Settlement { culprit, ..waiting.settlement }, &nonces, &contracts);
            self.settle_in_order(now);
        }
    }

    /// Informs the other transactions that also hold `executed`: in those not earlier on chain than `block` these
    /// members are skipped at no charge, and the amount drawn for the skip is returned.
    ///
    /// `gone`: the members that left the settled transaction. No request is in two transactions without having left
    /// one.
    fn tell_others(&mut self, executed: &[RequestId], gone: &Set<RequestId>, block: u64) {
        let came: Vec<RequestId> = executed.iter().filter(|id| gone.contains(*id)).copied().collect();
        let settling = self.settlements.values_mut().map(|waiting| {
            let settlement = &mut waiting.settlement;
            let own = settlement.receipt.as_ref().map(|receipt| receipt.block_number);
            (own, &mut settlement.flight)
        });
        let in_lanes = self.lanes.iter_mut().flat_map(|lane| lane.flights.values_mut());
        let in_lanes = in_lanes.map(|flight| (flight.record.block.map(|(number, _)| number), flight));
        let mut given_back = Vec::new();
        for (own, flight) in in_lanes.chain(settling) {
            if own.is_some_and(|own| own < block) {
                continue;
            }
            for content in &mut flight.earlier {
                let held: Vec<RequestId> = executed.iter().copied().filter(|id| content.holds(*id)).collect();
                content.elsewhere.extend(held);
            }
            let has_lost = !flight.gone.is_empty() || !flight.earlier.is_empty();
            for id in if has_lost { executed } else { &came } {
                if flight.holds(*id) {
                    flight.elsewhere.insert(*id);
                    given_back.extend(flight.drawn.remove(id).map(|drawn_wei| (*id, drawn_wei)));
                }
            }
        }
        for (id, drawn_wei) in given_back {
            self.draw(id, drawn_wei, U256::ZERO);
        }
    }

    /// Records every member's end (or return to the queue) and updates the queue accordingly.
    pub fn conclude(
        &mut self,
        now: Timestamp,
        settlement: Settlement,
        nonces: &Map<(Address, Address), u64>,
        contracts: &[Address],
    ) {
        let Settlement { id, mut flight, kind, receipt, outcomes, culprit, earlier } = settlement;
        flight.pending.take().iter().for_each(|pending| self.books.unpend(pending));
        self.is_loosened = true;
        let shown = std::mem::replace(&mut flight.shown, Evidence::NOTHING);
        self.show_for_good(now, shown, &flight.members, &outcomes, nonces, contracts);
        let state = match kind {
            Some(AttemptKind::Payload) => BatchState::Finalized,
            Some(AttemptKind::Cancel) => BatchState::Cancelled,
            None => BatchState::Lost,
        };
        let has_failed = receipt.as_ref().is_some_and(|receipt| !receipt.is_success);
        // Cost of the foreign transaction that used the nonce, if there was one.
        let taken = flight.stranger.and_then(|(stranger, _)| stranger.taken).filter(|_| kind.is_none());
        let cost = receipt.as_ref().map(|receipt| receipt.cost_wei()).or(taken.map(|taken| taken.cost_wei));
        let gas_used = receipt.as_ref().map(|receipt| receipt.gas_used).or(taken.map(|taken| taken.gas_used));
        let content = flight.content();
        let has_run = |(member, outcome): (&Arc<VerifiedRequest>, &MemberOutcome)| {
            (*outcome != MemberOutcome::Untouched).then(|| member.id())
        };
        let executed: Vec<RequestId> = content.members.iter().zip(&outcomes).filter_map(has_run).collect();
        if let Some(receipt) = &receipt {
            self.tell_others(&executed, &flight.gone, receipt.block_number);
        }
        let gas = gas_of_each(&outcomes, &content.weights, gas_used);
        let (charged, mut bill) = match earlier {
            Some(_) => (vec![U256::ZERO; content.members.len()], None),
            None => {
                let mined = kind.zip(receipt.as_deref());
                let mined = mined.map(|(kind, receipt)| Spent { kind, receipt, outcomes: &outcomes, culprit });
                self.attribute(now, id, &content, &flight.drawn, mined)
            }
        };
        if let Some(taken) = taken {
            bill = Some(Box::new(taken.bill()));
        }
        // For the present members, the nonce was taken by another transaction.
        let own = kind.filter(|_| earlier.is_none());
        let mut early = LeftEarly::default();
        let mut decisions = Vec::new();
        let mut back = Vec::new();
        if let Some((earlier, receipt)) = earlier.and_then(|place| flight.earlier.get(place)).zip(receipt.as_deref()) {
            let outcomes = match kind {
                Some(AttemptKind::Payload) => decode(earlier.key, &earlier.members, receipt.is_success, &receipt.logs),
                _ => vec![MemberOutcome::Untouched; earlier.members.len()],
            };
            // All members of an earlier content had left.
            let executed: Vec<RequestId> = earlier.members.iter().zip(&outcomes).filter_map(has_run).collect();
            self.tell_others(&executed, &executed.iter().copied().collect(), receipt.block_number);
            let mined = kind.map(|kind| Spent { kind, receipt, outcomes: &outcomes, culprit: None });
            let (parts, its_bill) = self.attribute(now, id, earlier, &Map::new(), mined);
            let gas = gas_of_each(&outcomes, &earlier.weights, gas_used);
            for (((member, outcome), part), gas) in earlier.members.iter().zip(&outcomes).zip(parts).zip(gas) {
                self.end_early(&mut early, member.id(), (*outcome, gas), part, U256::ZERO, Some(receipt));
            }
            bill = its_bill;
        }
        for (((member, outcome), part), gas) in content.members.iter().zip(&outcomes).zip(&charged).zip(&gas) {
            if flight.gone.contains(&member.id()) {
                let drawn = flight.drawn.get(&member.id()).copied().unwrap_or_default();
                self.end_early(&mut early, member.id(), (*outcome, *gas), *part, drawn, receipt.as_deref());
                if let Some(percent) = flight.uncounted.get(&member.id())
                    && let Some(tenant) = &flight.tenant
                {
                    self.books.spend(tenant, id.lane.chain_id, with_price(*part, *percent), now);
                }
            }
        }
        let LeftEarly { mut changes, mut costs_wei, mut ended, unbooked_wei } = early;
        let mut unread = Vec::new();
        if let Some(bill) = bill.as_mut().filter(|_| !unbooked_wei.is_zero()) {
            bill.accounts.push(AccountEntry { account: CostAccount::Replan, tenant: None, wei: unbooked_wei });
        }
        for (((member, outcome), charged_wei), gas) in content.members.iter().zip(&outcomes).zip(charged).zip(gas) {
            let request = member.id();
            // A charge for the other content is not an end.
            let has_ended =
                || changes.iter().any(|change: &RequestChange| change.id == request && change.to.is_terminal());
            if flight.gone.contains(&request) || (earlier.is_some() && has_ended()) {
                continue;
            }
            if *outcome == MemberOutcome::Untouched && self.queue.get(request).is_none() {
                // Executed by another transaction of ours.
                let mut change = RequestChange::to(request, Status::Queued);
                (change.charged_wei, change.reach) = (charged_wei, Reach::Cost);
                changes.push(change);
                continue;
            }
            // Cost of this attempt without execution reduces the reservation for the next one.
            let drawn_wei = flight.drawn.get(&request).copied().unwrap_or_default();
            let pays_another = self.draw(request, drawn_wei, charged_wei);
            let mut change = match outcome {
                MemberOutcome::Executed => RequestChange::to(request, Status::Finalized),
                MemberOutcome::Failed => RequestChange::to(request, Status::Reverted).because(Reason::TargetReverted),
                MemberOutcome::Untouched => {
                    let nonce = member
                        .sequence()
                        .and_then(|(forwarder, signer, nonce)| Some((*nonces.get(&(forwarder, signer))?, nonce)));
                    let failures = self.queue.get(request).map_or(0, |entry| entry.batch_failures);
                    match nonce {
                        // Another transaction of ours may execute it; the settlement of that one decides.
                        _ if self.is_entangled(request) => {
                            RequestChange::to(request, Status::Queued).because(Reason::SkippedByForwarder)
                        }
                        Some((on_chain, used)) if on_chain > used => {
                            RequestChange::to(request, Status::Rejected).because(Reason::NonceUsedElsewhere)
                        }
                        _ if member.valid_until() <= now => {
                            RequestChange::to(request, Status::Expired).because(Reason::DeadlinePassed)
                        }
                        _ if !pays_another => {
                            RequestChange::to(request, Status::Rejected).because(Reason::ReservationSpent)
                        }
                        _ if own == Some(AttemptKind::Cancel) && self.is_refused_for_good(request) => {
                            RequestChange::to(request, Status::Rejected).because(Reason::RefusedByNodes)
                        }
                        _ if own == Some(AttemptKind::Payload) && failures + 1 >= MAX_BATCH_FAILURES => {
                            RequestChange::to(request, Status::Rejected).because(Reason::BatchFailed)
                        }
                        _ => RequestChange::to(request, Status::Queued).because(match own {
                            Some(AttemptKind::Payload) if has_failed => Reason::BatchFailed,
                            Some(AttemptKind::Payload) => Reason::SkippedByForwarder,
                            Some(AttemptKind::Cancel) => Reason::BatchCancelled,
                            None => Reason::LaneNonceTaken,
                        }),
                    }
                }
            };
            if *outcome == MemberOutcome::Untouched && change.to.is_terminal() && member.payment().is_some() {
                // Another transaction may have made the payment.
                unread.push((request, change.to, change.reason.unwrap_or(Reason::BatchFailed)));
                change = RequestChange::to(request, Status::Queued).because(Reason::BatchFailed);
            }
            if let Some(receipt) = &receipt
                && *outcome != MemberOutcome::Untouched
            {
                change.tx_hash = Some(receipt.hash);
                change.block_number = Some(receipt.block_number);
                change.gas_used = gas;
            }
            change.charged_wei = charged_wei;
            if change.to == Status::Queued {
                change.batch_failed = own == Some(AttemptKind::Payload);
                decisions.extend(Self::logged(|| {
                    let reason = change.reason.map_or("", Reason::as_str).to_owned();
                    [Decision::Requeued { request: request.0, batch: batch_hash(id), reason }]
                }));
                back.push((request, change.batch_failed));
            } else {
                *ended.entry((change.to, change.reason)).or_default() += 1;
                let is_consumed = *outcome != MemberOutcome::Untouched;
                if let Some(entry) = self.queue.remove(request, is_consumed) {
                    let counted_wei = entry.counted_wei(entry.spent_wei);
                    costs_wei.push((entry.tenant, request, counted_wei));
                }
            }
            changes.push(change);
        }
        for ((status, reason), count) in ended {
            self.count_ended(status, reason, count);
        }
        for (request, has_failed) in back {
            if has_failed && let Some(entry) = self.queue.get_mut(request) {
                entry.batch_failures += 1;
            }
            self.put_back(request);
        }
        if let Some(bill) = &bill {
            self.book(now, id, bill);
        }
        let write = Write::Batch {
            id,
            state,
            included_hash: receipt.as_ref().map(|receipt| receipt.hash),
            block: receipt.as_ref().map(|receipt| (receipt.block_number, receipt.block_hash)),
            gas_used,
            cost_wei: cost,
            changes,
            bill,
            at: now,
        };
        let writes = std::iter::once(write).chain(self.target_changes()).collect();
        self.write(writes, decisions, costs_wei);
        for (request, to, reason) in unread {
            self.end_waiting(now, &[request], to, reason, None);
        }
        for ((forwarder, signer), nonce) in nonces {
            self.learn_nonce(*forwarder, *signer, *nonce);
        }
        let executed =
            content.members.iter().zip(&outcomes).filter(|(_, outcome)| **outcome != MemberOutcome::Untouched);
        let executed: Vec<_> = executed.map(|(member, _)| member.clone()).collect();
        self.remember_nonces(&executed);
        self.dispatch(now);
    }

    /// Settles a request that left the transaction early. `drawn_wei`: amount drawn from its reservation when it left.
    fn end_early(
        &mut self,
        early: &mut LeftEarly,
        request: RequestId,
        (outcome, gas_used): (MemberOutcome, Option<u64>),
        charged_wei: U256,
        drawn_wei: U256,
        receipt: Option<&TxReceipt>,
    ) {
        let to = match outcome {
            MemberOutcome::Executed => RequestChange::to(request, Status::Finalized),
            MemberOutcome::Failed => RequestChange::to(request, Status::Reverted).because(Reason::TargetReverted),
            MemberOutcome::Untouched => {
                // The drawn amount stays charged to the request; more only if its reservation is still open.
                let is_open = self.queue.get(request).is_some();
                let own_wei = if is_open { charged_wei } else { charged_wei.min(drawn_wei) };
                self.draw(request, drawn_wei, own_wei);
                early.unbooked_wei += charged_wei - own_wei;
                let mut change = RequestChange::to(request, Status::Queued);
                (change.charged_wei, change.reach) = (own_wei, Reach::Cost);
                early.changes.push(change);
                return;
            }
        };
        // Already ended if another transaction of ours was final first.
        let Some(entry) = self.queue.remove(request, true) else {
            early.unbooked_wei += charged_wei;
            return;
        };
        let mut change = to;
        change.gas_used = gas_used;
        if let Some(receipt) = receipt {
            (change.tx_hash, change.block_number) = (Some(receipt.hash), Some(receipt.block_number));
        }
        (change.charged_wei, change.reach) = (charged_wei, Reach::Anywhere);
        *early.ended.entry((change.to, change.reason)).or_default() += 1;
        let before_wei = entry.spent_wei.saturating_sub(drawn_wei);
        let spent_wei = before_wei.saturating_add(charged_wei);
        let counted_wei = entry.counted_wei(spent_wei);
        early.costs_wei.push((entry.tenant, request, counted_wei));
        early.changes.push(change);
    }

    /// Attributes a transaction's cost: each member's share, and the amounts booked to accounts (invariant I12). A
    /// member that left and has ended pays the amount `drawn` for it, wei. If another transaction of ours had executed
    /// all members before, the operator pays.
    pub fn attribute(
        &self,
        now: Timestamp,
        id: BatchId,
        flight: &Content,
        drawn: &Map<RequestId, U256>,
        mined: Option<Spent<'_>>,
    ) -> (Vec<U256>, Option<Box<Bill>>) {
        let nothing = vec![U256::ZERO; flight.members.len()];
        // A foreign transaction has no payer here: [`super::stranger`] books its cost.
        let Some(Spent { kind, receipt, outcomes, culprit }) = mined else { return (nothing, None) };
        let chain_id = id.lane.chain_id;
        let payers = self.payers(flight, drawn, outcomes, receipt);
        let is_for_nothing = flight.members.iter().all(|member| flight.elsewhere.contains(&member.id()));
        let tenant = flight.tenant.as_ref().filter(|_| !is_for_nothing);
        let free = tenant.map_or(U256::MAX, |tenant| self.books.free(tenant, chain_id, now));
        let (parts, value_wei, account, owner) = match kind {
            AttemptKind::Payload => {
                // Where each one's gas is capped, being skipped says nothing about it.
                let is_telling = outcomes.len() == 1 || !flight.key.caps_members();
                let lone = || lone_culprit(outcomes, receipt.is_success).filter(|_| is_telling);
                let culprit = culprit.or_else(lone);
                let base_gas = self.facts.params.schedule.tx_base_gas;
                let parts = attribute(receipt, base_gas, &payers, culprit, free);
                let account = match tenant {
                    Some(_) => CostAccount::Overrun,
                    None if is_for_nothing => CostAccount::Replan,
                    None => CostAccount::Unfound,
                };
                (parts, value_moved(&payers), account, tenant)
            }
            AttemptKind::Cancel => {
                // With several tenants, the one with the most urgent request pays.
                let entries = flight.members.iter().filter_map(|member| self.queue.get(member.id()));
                let urgent = entries.min_by_key(|entry| entry.request.deadline());
                let owner = tenant.or_else(|| urgent.map(|entry| &entry.tenant));
                let account = if owner.is_some() { CostAccount::Cancel } else { CostAccount::GapFill };
                (attribute_cancel(receipt, &payers, free), U256::ZERO, account, owner)
            }
        };
        let mut bill = Bill { value_wei, accounts: Vec::new() };
        if H::HAS_TENANTS && !parts.rest_wei.is_zero() && Protection::EveryWei.is_on() {
            let tenant = owner.map(|owner| owner.to_string());
            bill.accounts.push(AccountEntry { account, tenant, wei: parts.rest_wei });
        }
        (parts.members, Some(Box::new(bill)))
    }

    /// Payer record of each member of a mined transaction: its own cost factors and its remaining reservation.
    fn payers(
        &self,
        flight: &Content,
        drawn: &Map<RequestId, U256>,
        outcomes: &[MemberOutcome],
        receipt: &TxReceipt,
    ) -> Vec<Payer> {
        let params = &self.facts.params;
        let payer = |(index, member): (usize, &Arc<VerifiedRequest>)| {
            let is_data_charged = !receipt.extra_fee_wei.is_zero();
            let size = flight.sizes.get(index).copied();
            let size = size.unwrap_or_else(|| self.facts.size_of(flight.key, member, is_data_charged));
            Payer {
                own_gas: flight.weights.get(index).copied().unwrap_or_else(|| params.member_gas(member)),
                skip_gas: size.skip_gas,
                data_bytes: size.data_bytes,
                value_wei: member.value(),
                left_wei: {
                    let here = drawn.get(&member.id()).copied().unwrap_or_default();
                    self.queue
                        .get(member.id())
                        .map_or(here, |entry| entry.reserved_wei.saturating_sub(entry.spent_wei.saturating_sub(here)))
                },
                outcome: outcomes[index],
            }
        };
        flight.members.iter().enumerate().map(payer).collect()
    }

    /// Reserves, in the tenant's budget, the cost of a mined transaction that no member bears (invariant I8), so that
    /// nothing else spends it before settlement.
    pub fn pend(&mut self, now: Timestamp, index: usize, nonce: u64) {
        if !H::HAS_TENANTS {
            return;
        }
        let Some(flight) = self.lanes.get(index).and_then(|lane| lane.flights.get(&nonce)) else { return };
        let Some(mined) = &flight.mined else { return };
        let known =
            flight.weights.iter().fold(self.facts.params.schedule.tx_base_gas, |sum, gas| sum.saturating_add(*gas));
        let is_usual = mined.kind == AttemptKind::Payload
            && mined.receipt.gas_used <= known
            && !mined.outcomes.contains(&MemberOutcome::Untouched);
        if is_usual {
            return;
        }
        let (id, content) = (flight.record.id, flight.content());
        let (_, bill) = self.attribute(now, id, &content, &flight.drawn, Some(mined.spent()));
        let accounts = bill.into_iter().flat_map(|bill| bill.accounts);
        let owed: Vec<_> = accounts.filter_map(|entry| Some((entry.tenant?, entry.wei))).collect();
        // A transaction is booked to at most one account.
        let pending = owed.first().and_then(|(tenant, wei)| self.books.pend(tenant, id.lane.chain_id, *wei, now));
        if let Some(flight) = self.lanes[index].flights.get_mut(&nonce) {
            flight.pending = pending;
        }
    }

    /// Releases the amount reserved by [`Self::pend`].
    pub fn unpend(&mut self, index: usize, nonce: u64) {
        let flight = self.lanes.get_mut(index).and_then(|lane| lane.flights.get_mut(&nonce));
        flight.and_then(|flight| flight.pending.take()).iter().for_each(|pending| self.books.unpend(pending));
    }

    /// Deducts the account entries of a final transaction from tenants' budgets.
    fn book(&mut self, now: Timestamp, id: BatchId, bill: &Bill) {
        if !H::HAS_TENANTS {
            return;
        }
        for AccountEntry { account, tenant, wei } in &bill.accounts {
            let account = account.as_str();
            self.notice(Notice::AccountBears { batch: id, account, tenant: tenant.clone(), wei: *wei });
            if let Some(tenant) = tenant {
                self.books.spend(tenant, id.lane.chain_id, *wei, now);
            }
        }
    }

    /// Draws a transaction's charge from a request's reservation, replacing the `drawn_wei` drawn before. Returns true
    /// if the rest pays for another transaction.
    pub fn draw(&mut self, id: RequestId, drawn_wei: U256, charged_wei: U256) -> bool {
        let price = self.price.map_or(0, |price| price.quote.effective_gas_price(price.next_base_fee));
        let Some(entry) = self.queue.get(id) else { return true };
        if !Protection::SpentReservation.is_on() {
            return true;
        }
        let mut ceiling = entry.ceiling_wei_per_gas;
        if drawn_wei != charged_wei {
            let spent_wei = entry.spent_wei.saturating_sub(drawn_wei).saturating_add(charged_wei);
            let gas = self.facts.params.reserved_gas(entry.gas);
            ceiling = ceiling_left(entry.first_ceiling_wei_per_gas, gas, spent_wei);
            self.queue.reprice(id, spent_wei, ceiling);
        }
        charged_wei.is_zero() || ceiling >= price
    }

    /// Updates admission's nonce cache.
    pub fn remember_nonces(&mut self, executed: &[Arc<VerifiedRequest>]) {
        if !H::HAS_TENANTS {
            return;
        }
        let mut newest: Map<(Address, Address), u64> = Map::new();
        for (forwarder, signer, nonce) in executed.iter().filter_map(|member| member.sequence()) {
            let next = newest.entry((forwarder, signer)).or_default();
            *next = (*next).max(nonce.saturating_add(1));
        }
        if !newest.is_empty() {
            self.command(Command::NoncesRaised(newest));
        }
    }
}
