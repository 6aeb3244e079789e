//! What a final transaction means for each of its members.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};

use super::{
    chain_service::{ChainService, Done, batch_hash, count_ended},
    dispatch::MAX_BATCH_FAILURES,
    lane_shell::Flight,
    simulate::agreed_nonces,
};
use crate::{
    lane::AttemptKind,
    ledger::{BatchState, RequestChange, Write},
    provenance::Decision,
    request::{
        BatchId, Reason, RequestId, Status,
        outcome::{MemberOutcome, TxReceipt, decode, shares},
    },
    time::Timestamp,
};

/// A nonce that is final, with what it carried.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) id: BatchId,
    pub(super) flight: Flight,
    /// What was mined; `None` if it was not ours.
    pub(super) kind: Option<AttemptKind>,
    pub(super) receipt: Option<Box<TxReceipt>>,
}

impl Settlement {
    fn outcomes(&self) -> Vec<MemberOutcome> {
        match (&self.receipt, self.kind) {
            (Some(receipt), Some(AttemptKind::Payload)) => {
                decode(self.flight.key, &self.flight.members, receipt.is_success, &receipt.logs)
            }
            _ => vec![MemberOutcome::Untouched; self.flight.members.len()],
        }
    }
}

impl ChainService {
    /// Settles at once where the receipt says everything; otherwise looks at the users' nonces first.
    pub(super) fn settle(&mut self, now: Timestamp, settlement: Settlement) {
        let untouched: Vec<(Address, Address)> = settlement
            .outcomes()
            .iter()
            .zip(&settlement.flight.members)
            .filter(|(outcome, _)| **outcome == MemberOutcome::Untouched)
            .filter_map(|(_, member)| member.sequence())
            .map(|(forwarder, signer, _)| (forwarder, signer))
            .collect();
        if untouched.is_empty() {
            self.conclude(now, settlement, &BTreeMap::new());
            return;
        }
        let shared = self.shared.clone();
        let block = self.head.and_then(|head| head.final_block);
        self.tasks.spawn(async move {
            // Without a majority's answer nothing can be said about them, so ask until there is one.
            let nonces = loop {
                let nonces = agreed_nonces(&shared.pool, &untouched, shared.has_multicall, block).await;
                if nonces.iter().all(Option::is_some) {
                    break nonces;
                }
                tracing::warn!("too few nodes tell the users' nonces; settlement waits");
                tokio::time::sleep(shared.tuning.poll_interval).await;
            };
            let nonces = untouched
                .into_iter()
                .zip(nonces)
                .filter_map(|(signer, nonce)| Some((signer, nonce?.at_least)))
                .collect();
            Done::Inspected { settlement: Box::new(settlement), nonces }
        });
    }

    /// Writes every member's end (or return to the queue) and updates the queue accordingly.
    pub(super) fn conclude(
        &mut self,
        now: Timestamp,
        settlement: Settlement,
        nonces: &BTreeMap<(Address, Address), u64>,
    ) {
        let outcomes = settlement.outcomes();
        let Settlement { id, flight, kind, receipt } = settlement;
        let state = match kind {
            Some(AttemptKind::Payload) => BatchState::Finalized,
            Some(AttemptKind::Cancel) => BatchState::Cancelled,
            None => BatchState::Lost,
        };
        let has_failed = receipt.as_ref().is_some_and(|receipt| !receipt.is_success);
        let cost = receipt.as_ref().map(|receipt| receipt.cost_wei());
        let gas_used = receipt.as_ref().map(|receipt| receipt.gas_used);
        let is_paid = outcomes.iter().any(|outcome| *outcome != MemberOutcome::Untouched);
        // Only those who executed pay; a transaction that did nothing is the operator's loss.
        let weights: Vec<u64> = outcomes
            .iter()
            .zip(&flight.weights)
            .filter(|(outcome, _)| **outcome != MemberOutcome::Untouched)
            .map(|(_, weight)| *weight)
            .collect();
        let mut costs = shares(cost.unwrap_or(U256::ZERO), &weights).into_iter();
        let mut gases = shares(U256::from(gas_used.unwrap_or(0)), &weights).into_iter();
        if !is_paid && let Some(cost) = cost {
            tracing::warn!(batch = %id, cost_wei = %cost, "a transaction was paid for nothing");
            metrics::counter!("slackwater_unattributed_transactions_total").increment(1);
        }
        let mut changes = Vec::with_capacity(outcomes.len());
        let mut decisions = Vec::new();
        let mut costs_wei = Vec::new();
        let mut back = Vec::new();
        let mut failed: Vec<RequestId> = Vec::new();
        let mut ended: BTreeMap<(Status, Option<Reason>), u64> = BTreeMap::new();
        for (member, outcome) in flight.members.iter().zip(&outcomes) {
            let request = member.id();
            let mut change = match outcome {
                MemberOutcome::Executed => RequestChange::to(request, Status::Finalized),
                MemberOutcome::Failed => RequestChange::to(request, Status::Reverted).because(Reason::TargetReverted),
                MemberOutcome::Untouched => {
                    let nonce = member
                        .sequence()
                        .and_then(|(forwarder, signer, nonce)| Some((*nonces.get(&(forwarder, signer))?, nonce)));
                    let failures = self.queue.get(request).map_or(0, |entry| entry.batch_failures);
                    match nonce {
                        Some((on_chain, own)) if on_chain > own => {
                            RequestChange::to(request, Status::Rejected).because(Reason::NonceUsedElsewhere)
                        }
                        _ if member.deadline() <= now => {
                            RequestChange::to(request, Status::Expired).because(Reason::DeadlinePassed)
                        }
                        _ if kind == Some(AttemptKind::Payload) && failures + 1 >= MAX_BATCH_FAILURES => {
                            RequestChange::to(request, Status::Rejected).because(Reason::BatchFailed)
                        }
                        _ => RequestChange::to(request, Status::Queued).because(match kind {
                            Some(AttemptKind::Payload) if has_failed => Reason::BatchFailed,
                            Some(AttemptKind::Payload) => Reason::SkippedByForwarder,
                            Some(AttemptKind::Cancel) => Reason::BatchCancelled,
                            None => Reason::LaneNonceTaken,
                        }),
                    }
                }
            };
            if let Some(receipt) = &receipt
                && *outcome != MemberOutcome::Untouched
            {
                change.tx_hash = Some(receipt.hash);
                change.block_number = Some(receipt.block_number);
                change.gas_used = gases.next().and_then(|gas| u64::try_from(gas).ok());
                let value = if *outcome == MemberOutcome::Executed { member.value() } else { U256::ZERO };
                change.cost_wei = costs.next().map(|cost| cost.saturating_add(value));
            }
            if change.to == Status::Queued {
                change.batch_failed = kind == Some(AttemptKind::Payload);
                decisions.push(Decision::Requeued {
                    request: request.0,
                    batch: batch_hash(id),
                    reason: change.reason.map_or("", Reason::as_str).to_owned(),
                });
                back.push((request, change.batch_failed));
            } else {
                *ended.entry((change.to, change.reason)).or_default() += 1;
                let is_consumed = *outcome != MemberOutcome::Untouched;
                if !is_consumed && change.reason != Some(Reason::NonceUsedElsewhere) {
                    failed.extend(self.queue.successors(request));
                }
                if let Some(entry) = self.queue.remove(request, is_consumed) {
                    costs_wei.push((entry.tenant, request, change.cost_wei.unwrap_or(U256::ZERO)));
                }
            }
            changes.push(change);
        }
        for ((status, reason), count) in ended {
            count_ended(status, reason, count);
        }
        for (request, has_failed) in back {
            if has_failed && let Some(entry) = self.queue.get_mut(request) {
                entry.batch_failures += 1;
            }
            self.queue.put_back(request);
        }
        let write = Write::Batch {
            id,
            state,
            included_hash: receipt.as_ref().map(|receipt| receipt.hash),
            block: receipt.as_ref().map(|receipt| (receipt.block_number, receipt.block_hash)),
            gas_used,
            cost_wei: cost,
            changes,
            at: now,
        };
        let written = self.write(vec![write], decisions);
        let settled = self.settled(written, costs_wei);
        self.tasks.spawn(async move {
            settled.await;
            Done::Noted
        });
        for ((forwarder, signer), nonce) in nonces {
            self.learn_nonce(*forwarder, *signer, *nonce);
        }
        self.remember_nonces(&flight, &outcomes);
        self.end_waiting(now, &failed, Status::Rejected, Reason::PredecessorFailed, None);
        self.dispatch(now);
    }

    /// Keeps the nonce cache of admission fresh.
    fn remember_nonces(&mut self, flight: &Flight, outcomes: &[MemberOutcome]) {
        let mut newest: BTreeMap<(Address, Address), u64> = BTreeMap::new();
        for (member, outcome) in flight.members.iter().zip(outcomes) {
            if *outcome != MemberOutcome::Untouched
                && let Some((forwarder, signer, nonce)) = member.sequence()
            {
                let next = newest.entry((forwarder, signer)).or_default();
                *next = (*next).max(nonce + 1);
            }
        }
        if newest.is_empty() {
            return;
        }
        let cache = self.shared.nonces.clone();
        self.tasks.spawn(async move {
            for (signer, nonce) in newest {
                let known = cache.get(&signer).await.unwrap_or(0);
                if known < nonce {
                    cache.insert(signer, nonce).await;
                }
            }
            Done::Noted
        });
    }
}
