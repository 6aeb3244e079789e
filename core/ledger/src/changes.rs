//! Rows that a commit changes.

use std::collections::HashMap;

use alloy_primitives::{Bytes, U256};

use super::{
    apply::{BatchEntry, NewAccount, RequestEntry, WorkingSet, holds_nonce},
    needs::{HOUR_MS, SpentKey},
};
use crate::request::{Status, TargetRecord};

/// A chain's id with a record there.
type OnChain<T> = (u64, T);

/// The body of a new request.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) request: u64,
    pub(super) payload: Vec<u8>,
    pub(super) promise_signature: Bytes,
    pub(super) quote: String,
}

/// Changes of requests, by kind.
#[derive(Debug, Default)]
pub(super) struct RequestChanges {
    /// Row numbers of requests that make way.
    pub(super) replaced: Vec<u64>,
    pub(super) new: Vec<RequestEntry>,
    pub(super) payloads: Vec<Payload>,
    /// Changed and still live.
    pub(super) moved: Vec<RequestEntry>,
    /// Ended; their nonces stay used.
    pub(super) ended: Vec<RequestEntry>,
    /// Ended, and their nonces are free.
    pub(super) released: Vec<RequestEntry>,
}

impl WorkingSet {
    /// Changes of requests; takes them out of the set.
    pub(super) fn request_changes(&mut self) -> RequestChanges {
        let mut changes = RequestChanges::default();
        for mut entry in std::mem::take(&mut self.requests) {
            let record = &mut entry.record;
            if entry.is_replaced {
                changes.replaced.push(record.seq);
            }
            match entry.stored {
                _ if !entry.changed => {}
                None => {
                    changes.payloads.push(Payload {
                        request: record.seq,
                        payload: std::mem::take(&mut record.payload),
                        promise_signature: std::mem::take(&mut record.promise_signature),
                        quote: std::mem::take(&mut record.quote),
                    });
                    changes.new.push(entry);
                }
                Some(_) if !record.status.is_terminal() => changes.moved.push(entry),
                Some(_) if holds_nonce(record.status) => changes.ended.push(entry),
                Some(_) => changes.released.push(entry),
            }
        }
        changes
    }

    /// New batches, and changed ones.
    pub(super) fn batch_changes(&mut self) -> (Vec<BatchEntry>, Vec<BatchEntry>) {
        let batches = std::mem::take(&mut self.batches).into_iter().filter(|batch| batch.is_new || batch.changed);
        batches.partition(|batch| batch.is_new)
    }

    /// Target records by chain: empty ones, to be deleted, and the others.
    pub(super) fn target_changes(&mut self) -> (Vec<OnChain<TargetRecord>>, Vec<OnChain<TargetRecord>>) {
        let targets =
            std::mem::take(&mut self.new_targets).into_iter().map(|((chain_id, _), record)| (chain_id, record));
        targets.partition(|(_, record)| record.is_empty())
    }

    /// Changes of the request counters by (chain, status).
    pub(super) fn count_changes(&self) -> HashMap<(u64, Status), i64> {
        let mut changes = HashMap::new();
        for RequestEntry { record, stored, is_replaced, .. } in &self.requests {
            let before = stored.map(|stored| stored.status);
            if let Some(before) = before.filter(|_| *is_replaced) {
                *changes.entry((record.chain_id, before)).or_default() -= 1;
            } else if before != Some(record.status) {
                *changes.entry((record.chain_id, record.status)).or_default() += 1;
                if let Some(before) = before {
                    *changes.entry((record.chain_id, before)).or_default() -= 1;
                }
            }
        }
        changes.retain(|_, change| *change != 0);
        changes
    }

    /// Changes of the sums of (reserved, spent) wei. Modulo 2²⁵⁶, so that additions and subtractions always cancel out;
    /// real amounts of wei stay far below.
    pub(super) fn spent_changes(&self) -> HashMap<SpentKey, (U256, U256)> {
        let mut changes: HashMap<SpentKey, (U256, U256)> = HashMap::new();
        for RequestEntry { record, stored, .. } in &self.requests {
            let share = |status: Status, cost: Option<U256>| match status.is_terminal() {
                true => (U256::ZERO, record.counted_of(cost)),
                false => (record.reserved_wei, U256::ZERO),
            };
            let before = stored.map_or((U256::ZERO, U256::ZERO), |stored| share(stored.status, stored.cost_wei));
            let after = share(record.status, record.cost_wei);
            if before != after {
                let key = (record.accepted_at.0 / HOUR_MS, record.tenant.clone(), record.chain_id);
                let sums = changes.entry(key).or_default();
                sums.0 = sums.0.wrapping_add(after.0).wrapping_sub(before.0);
                sums.1 = sums.1.wrapping_add(after.1).wrapping_sub(before.1);
            }
        }
        for NewAccount { chain_id, at, entry, .. } in &self.new_accounts {
            let Some(tenant) = &entry.tenant else { continue };
            let sums = changes.entry((at.0 / HOUR_MS, tenant.clone(), *chain_id)).or_default();
            sums.1 = sums.1.wrapping_add(entry.wei);
        }
        changes
    }
}
