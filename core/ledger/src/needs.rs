//! Rows that a commit needs.

use alloy_primitives::{Address, B256};

use crate::{
    record::{BudgetLimit, NewRequest, Write},
    request::{BatchId, LaneId, RequestId, Status},
};

/// Width of the buckets of `spent`, milliseconds.
pub(super) const HOUR_MS: u64 = 3_600_000;

/// (tenant, idempotency key).
pub(super) type Key = (String, String);

/// (chain, forwarder, signer, nonce).
pub(super) type Sequence = (u64, Address, Address, u64);

/// (hour since the epoch, tenant, chain).
pub(super) type SpentKey = (u64, String, u64);

/// (tenant, chain, first hour of the period).
pub(super) type BudgetKey = (String, u64, u64);

/// Rows to be loaded before a commit's writes can be decided.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Requests to be changed.
    pub(super) requests: Vec<RequestId>,
    /// Requests to be cancelled, whose batches that are not final are needed.
    pub(super) cancelled: Vec<RequestId>,
    /// Requests that may be returned as a whole, so that their payload is needed too.
    pub(super) answers: Vec<RequestId>,
    pub(super) keys: Vec<Key>,
    pub(super) sequences: Vec<Sequence>,
    pub(super) lanes: Vec<LaneId>,
    pub(super) batches: Vec<BatchId>,
    pub(super) attempts: Vec<B256>,
    /// Chains whose lanes are written under a lease.
    pub(super) fences: Vec<u64>,
    pub(super) budgets: Vec<BudgetKey>,
}

impl Needs {
    pub(super) fn of(writes: &[Write]) -> Self {
        let mut needs = Self::default();
        for write in writes {
            let write = match write {
                Write::Fenced(fence, write) => {
                    if !needs.fences.contains(&fence.chain_id) {
                        needs.fences.push(fence.chain_id);
                    }
                    write
                }
                write => write,
            };
            match write {
                Write::Accept(new) => {
                    if let Some(budget) = &new.budget {
                        let key = budget_key(new, budget);
                        if !needs.budgets.contains(&key) {
                            needs.budgets.push(key);
                        }
                    }
                    needs.answers.push(new.id);
                    if let Some(key) = &new.idempotency {
                        needs.keys.push((new.tenant.clone(), key.key.clone()));
                    }
                    needs.sequences.extend(sequence_of(new.chain_id, new.sequence));
                }
                Write::Plan(plan) => {
                    needs.requests.extend(plan.members.iter().map(|member| member.id));
                    needs.requests.extend_from_slice(&plan.left);
                    needs.lanes.push(plan.batch.id.lane);
                    needs.batches.push(plan.batch.id);
                    needs.attempts.push(plan.attempt.hash);
                }
                Write::Attempt(attempt) => {
                    needs.batches.push(attempt.batch);
                    needs.attempts.push(attempt.hash);
                }
                Write::Batch { id, changes, .. } => {
                    needs.batches.push(*id);
                    needs.requests.extend(changes.iter().map(|change| change.id));
                }
                Write::Late { requests, .. } => needs.requests.extend_from_slice(requests),
                Write::Requests { changes, .. } => {
                    needs.requests.extend(changes.iter().map(|change| change.id));
                    let cancelled = changes.iter().filter(|change| change.to == Status::Cancelled);
                    needs.cancelled.extend(cancelled.map(|change| change.id));
                }
                Write::Decision(_)
                | Write::Decide { .. }
                | Write::Targets { .. }
                | Write::Meta { .. }
                | Write::Summary { .. }
                | Write::Fenced(..) => {}
            }
        }
        needs
    }
}

pub(super) fn budget_key(new: &NewRequest, budget: &BudgetLimit) -> BudgetKey {
    (new.tenant.clone(), new.chain_id, budget.since.0 / HOUR_MS)
}

pub(super) fn sequence_of(chain_id: u64, sequence: Option<(Address, Address, u64)>) -> Option<Sequence> {
    sequence.map(|(forwarder, signer, nonce)| (chain_id, forwarder, signer, nonce))
}
