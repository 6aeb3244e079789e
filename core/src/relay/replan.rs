//! Requests that leave a transaction before it is final.
//!
//! What a transaction skipped, or a cancel left out, need not wait for finality: a forward's nonce guards it on chain. So once a
//! majority shows the block, `replan_after_blocks` deep, and the user's nonce unused, the request may enter a second transaction
//! (the exception in invariant I3). If a reorganisation turns things round, only one of the two executes it; that one ends it.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, U64};
use serde_json::json;

use super::{
    chain_service::{ChainService, Done, batch_hash},
    company::is_surprise,
    dispatch::MAX_BATCH_FAILURES,
    lane_shell::Flight,
    receipts::says_the_same,
    settle::Spent,
    simulate::{At, agreed_nonces},
    stow::Stowed,
};
use crate::{
    lane::AttemptKind,
    ledger::{BatchState, RequestChange, Write},
    provenance::Decision,
    request::{
        Reason, RequestId, Status,
        outcome::{MemberOutcome, TxReceipt},
        receipt::RpcReceipt,
    },
    time::Timestamp,
};

/// What a nonce's block is believed to hold, while it is not final.
#[derive(Debug, Clone)]
pub(super) struct Mined {
    pub(super) kind: AttemptKind,
    pub(super) receipt: TxReceipt,
    /// Of the present members, in their order.
    pub(super) outcomes: Vec<MemberOutcome>,
    /// The head at which a majority is asked about it; `None` while it is, and when there is nothing left to ask.
    pub(super) ask_at: Option<u64>,
}

impl Mined {
    /// Its cost, as far as it is known before it is final.
    pub(super) fn spent(&self) -> Spent<'_> {
        Spent { kind: self.kind, receipt: &self.receipt, outcomes: &self.outcomes, culprit: None }
    }
}

/// What a majority says of a transaction that is not final.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) lane: usize,
    pub(super) nonce: u64,
    /// The block that was asked about: after a reorganisation the same transaction is in another one, less deep.
    pub(super) block_hash: B256,
    /// It is in that block, and did there what is believed of it.
    pub(super) is_shown: bool,
    /// Users whose nonce is unused, at most so far.
    pub(super) unused: Vec<((Address, Address), u64)>,
}

impl ChainService {
    /// Asks about transactions that are deep enough and left somebody out.
    pub(super) fn look_at_left_out(&mut self, now: Timestamp) {
        let Some(head) = self.head.map(|head| head.number) else { return };
        if self.is_stopping {
            return;
        }
        for index in 0..self.lanes.len() {
            for (nonce, flight) in &mut self.lanes[index].flights {
                let Some(mined) = &mut flight.mined else { continue };
                if mined.ask_at.is_none_or(|at| head < at) {
                    continue;
                }
                mined.ask_at = None;
                let left_out = flight.members.iter().zip(&mined.outcomes).filter(|(member, outcome)| {
                    // Who left before is looked at again only for what its target showed.
                    **outcome == MemberOutcome::Untouched
                        && member.valid_until() > now
                        && (flight.shown.open().is_some() || !flight.gone.contains(&member.id()))
                });
                let users: Vec<(Address, Address)> = left_out
                    .filter_map(|(member, _)| member.sequence())
                    .map(|(forwarder, signer, _)| (forwarder, signer))
                    .collect();
                if users.is_empty() {
                    continue;
                }
                let (shared, nonce) = (self.shared.clone(), *nonce);
                let believed = mined.receipt.clone();
                let deep = believed.block_number.saturating_add(shared.tuning.replan_after_blocks.saturating_sub(1));
                self.tasks.spawn(async move {
                    let (pool, hash) = (&shared.pool, believed.hash);
                    // Whoever has not come so far may be on a branch that was left: there it is less deep. Asked first: the other way
                    // round a node could change branches in between.
                    let heads = pool.call_all::<U64>("eth_blockNumber", json!([])).await;
                    let told = pool.call_all::<Option<RpcReceipt>>("eth_getTransactionReceipt", json!([hash])).await;
                    let told = heads
                        .into_iter()
                        .zip(told)
                        .filter(|(head, _)| head.as_ref().is_ok_and(|head| head.to::<u64>() >= deep));
                    let told = told.filter_map(|(_, told)| told.ok().flatten()).filter_map(RpcReceipt::into_receipt);
                    // Not only its block: what is drawn for it is money too (I15).
                    let shown = told.filter(|told| told.hash == hash && says_the_same(told, &believed));
                    let is_shown = pool.is_majority(shown.count());
                    let nonces = agreed_nonces(pool, &users, shared.multicall3(), At::Head).await;
                    let unused = users.into_iter().zip(nonces).filter_map(|(user, nonce)| Some((user, nonce?.at_most)));
                    let block_hash = believed.block_hash;
                    Done::Shown(Shown { lane: index, nonce, block_hash, is_shown, unused: unused.collect() })
                });
            }
        }
    }

    /// Lets those go that a transaction left out, each with its part of the cost drawn from what it may still spend.
    pub(super) fn on_shown(&mut self, now: Timestamp, shown: &Shown) {
        let Shown { lane: index, nonce, block_hash, is_shown, unused } = shown;
        let Some(flight) = self.lanes.get_mut(*index).and_then(|lane| lane.flights.get_mut(nonce)) else { return };
        // A block that the lane knows is gone: only bytes are waited for.
        if flight.stowed.as_ref().is_some_and(Stowed::has_commands) {
            return;
        }
        let Some(mined) = flight.mined.as_mut().filter(|mined| mined.receipt.block_hash == *block_hash) else { return };
        if !is_shown {
            // Asked again at the next head.
            mined.ask_at = Some(0);
            return;
        }
        // Whose nonce no majority tells may be told later. Each pause is twice as long as the one before, so there are few
        // until it is final.
        let is_told = |user| unused.iter().any(|(told, _)| *told == user);
        let mut left_out =
            flight.members.iter().zip(&mined.outcomes).filter(|(member, outcome)| {
                **outcome == MemberOutcome::Untouched && !flight.gone.contains(&member.id())
            });
        let is_open = left_out
            .any(|(member, _)| member.sequence().is_some_and(|(forwarder, signer, _)| !is_told((forwarder, signer))));
        if let Some(head) = self.head.map(|head| head.number).filter(|_| is_open) {
            let depth = head.saturating_sub(mined.receipt.block_number).saturating_add(1);
            mined.ask_at = Some(head.saturating_add(depth));
        }
        let (mined, drawn, gone) = (mined.clone(), flight.drawn.clone(), flight.gone.clone());
        let (content, id) = (flight.content(), flight.record.id);
        let shown = flight.shown.clone();
        if let Some(accused) = shown.open() {
            let members = content.members.iter().map(|member| &**member).zip(mined.outcomes.iter().copied());
            let next =
                |forwarder, signer| unused.iter().find(|(user, _)| *user == (forwarder, signer)).map(|(_, next)| *next);
            if accused.has_failed || is_surprise(members, next) {
                self.accuse(now, accused, shown.hash);
                if let Some(flight) = self.lanes[*index].flights.get_mut(nonce) {
                    flight.shown.is_noted = true;
                }
            }
        }
        let kind = mined.kind;
        self.unpend(*index, *nonce);
        let (parts, _) = self.attribute(now, id, &content, &drawn, Some(mined.spent()));
        let reason = match kind {
            AttemptKind::Payload if !mined.receipt.is_success => Reason::BatchFailed,
            AttemptKind::Payload => Reason::SkippedByForwarder,
            AttemptKind::Cancel => Reason::BatchCancelled,
        };
        let is_payload = kind == AttemptKind::Payload;
        let (mut changes, mut decisions, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for ((member, outcome), part) in content.members.iter().zip(&mined.outcomes).zip(parts) {
            let Some((forwarder, signer, own)) = member.sequence() else { continue };
            let request = member.id();
            // Who left is elsewhere by now, though its user is asked for because of another request.
            if gone.contains(&request) {
                continue;
            }
            let is_unused = unused.iter().any(|(user, next)| *user == (forwarder, signer) && *next <= own);
            let failures = self.queue.get(request).map(|entry| entry.batch_failures);
            let may = failures.is_some_and(|failures| match is_payload {
                true => failures + 1 < MAX_BATCH_FAILURES,
                false => !self.is_refused_for_good(request),
            });
            if *outcome != MemberOutcome::Untouched || !is_unused || !may || member.valid_until() <= now {
                continue;
            }
            let drawn_wei = drawn.get(&request).copied().unwrap_or_default();
            let pays_another = self.draw(request, drawn_wei, part);
            back.push((request, part, pays_another));
            if !pays_another {
                continue;
            }
            let mut change = RequestChange::to(request, Status::Queued).because(reason);
            change.batch_failed = is_payload;
            changes.push(change);
            let (batch, reason) = (batch_hash(id), reason.as_str().to_owned());
            decisions.push(Decision::Requeued { request: request.0, batch, reason });
        }
        let targets = self.target_changes();
        if back.is_empty() {
            self.pend(now, *index, *nonce);
            if let Some(write) = targets {
                self.note(vec![write], Vec::new());
            }
            return;
        }
        let lane = &mut self.lanes[*index];
        if let Some(flight) = lane.flights.get_mut(nonce) {
            for (request, part, pays_another) in &back {
                flight.drawn.insert(*request, *part);
                if *pays_another {
                    flight.gone.insert(*request);
                }
            }
        }
        self.pend(now, *index, *nonce);
        for (request, _, _) in back.into_iter().filter(|(_, _, pays_another)| *pays_another) {
            if is_payload && let Some(entry) = self.queue.get_mut(request) {
                entry.batch_failures += 1;
            }
            self.queue.put_back(request);
        }
        metrics::counter!("slackwater_replanned_requests_total").increment(changes.len() as u64);
        let write = Write::Batch {
            id,
            state: BatchState::Included,
            included_hash: Some(mined.receipt.hash),
            block: Some((mined.receipt.block_number, mined.receipt.block_hash)),
            gas_used: Some(mined.receipt.gas_used),
            cost_wei: Some(mined.receipt.cost_wei()),
            changes,
            bill: None,
            at: now,
        };
        self.note(std::iter::once(write).chain(targets).collect(), decisions);
        self.dispatch(now);
    }

    /// Draws anew what those who left a transaction owe for it, which is in a block, perhaps in another one than before.
    pub(super) fn draw_for_gone(&mut self, now: Timestamp, index: usize, nonce: u64) {
        let Some(flight) = self.lanes.get(index).and_then(|lane| lane.flights.get(&nonce)) else { return };
        let Some(mined) = flight.mined.clone().filter(|_| !flight.gone.is_empty()) else { return };
        let (content, id, gone) = (flight.content(), flight.record.id, flight.gone.clone());
        let drawn = flight.drawn.clone();
        let (parts, _) = self.attribute(now, id, &content, &drawn, Some(mined.spent()));
        for (request, part) in content.members.iter().map(|member| member.id()).zip(parts) {
            if !gone.contains(&request) || self.queue.get(request).is_none() {
                continue;
            }
            self.draw(request, drawn.get(&request).copied().unwrap_or_default(), part);
            if let Some(flight) = self.lanes[index].flights.get_mut(&nonce) {
                flight.drawn.insert(request, part);
            }
        }
    }

    /// Whether another transaction of ours that is not settled may have executed the request, or may yet: one that a node kept
    /// although all refused it, or one that a reorganisation may bring back. What became of the request is known when that is.
    pub(super) fn is_entangled(&self, id: RequestId) -> bool {
        self.unsettled()
            .any(|flight| flight.gone.contains(&id) || flight.earlier.iter().any(|content| content.holds(id)))
    }

    /// Which of these [are entangled](Self::is_entangled): one look at all transactions, however many are asked for.
    pub(super) fn entangled_among(&self, ids: &[RequestId]) -> BTreeSet<RequestId> {
        if ids.is_empty() {
            return BTreeSet::new();
        }
        let asked: BTreeSet<RequestId> = ids.iter().copied().collect();
        self.unsettled().flat_map(Flight::bound).filter(|id| asked.contains(id)).collect()
    }

    /// Transactions of ours that are not settled.
    fn unsettled(&self) -> impl Iterator<Item = &Flight> {
        let settling = self.settlements.values().map(|waiting| &waiting.settlement.flight);
        self.lanes.iter().flat_map(|lane| lane.flights.values()).chain(settling)
    }
}

#[cfg(test)]
mod tests;
