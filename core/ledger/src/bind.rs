//! Rows of records. Columns are written by position, in an order that is the same in every database.

use std::collections::HashMap;

use alloy_primitives::U256;

use super::{
    apply::{BatchEntry, NewAccount, NewKey, NewMember, RequestEntry, holds_nonce},
    changes::Payload,
    needs::{BudgetKey, Key, Sequence, SpentKey},
};
use crate::{
    record::{AttemptRecord, BatchRecord, DecisionRow, EventRecord},
    request::{BatchId, LaneId, RequestId, Status, TargetRecord},
};

/// Receives the values of a row, from left to right.
pub(super) trait Bind {
    /// An integer.
    fn int(&mut self, value: Option<i64>);
    /// Text.
    fn text(&mut self, value: Option<String>);
    /// Bytes.
    fn blob(&mut self, value: Option<Vec<u8>>);

    /// An unsigned number, stored as the signed one with the same bits.
    fn u64(&mut self, value: u64) {
        self.int(Some(value.cast_signed()));
    }

    fn optional_u64(&mut self, value: Option<u64>) {
        self.int(value.map(u64::cast_signed));
    }

    fn str(&mut self, value: impl Into<String>) {
        self.text(Some(value.into()));
    }

    fn bytes(&mut self, value: impl Into<Vec<u8>>) {
        self.blob(Some(value.into()));
    }

    fn optional_bytes(&mut self, value: Option<impl AsRef<[u8]>>) {
        self.blob(value.map(|value| value.as_ref().to_vec()));
    }

    /// A number beyond 64 bits, as decimal text.
    fn decimal(&mut self, value: impl ToString) {
        self.text(Some(value.to_string()));
    }

    /// The nullable (sender, nonce) of a batch.
    fn batch_on(&mut self, batch: Option<BatchId>) {
        self.optional_bytes(batch.map(|batch| batch.lane.sender));
        self.optional_u64(batch.map(|batch| batch.nonce));
    }
}

/// A new row of `requests`.
pub(super) fn bind_request(args: &mut impl Bind, entry: RequestEntry) {
    let record = &entry.record;
    args.u64(record.seq);
    args.bytes(record.id.0.as_slice());
    args.str(record.tenant.as_str());
    args.u64(record.chain_id);
    args.str(record.kind.as_str());
    args.optional_bytes(record.sequence.map(|(forwarder, _, _)| forwarder));
    args.optional_bytes(record.sequence.map(|(_, signer, _)| signer));
    args.optional_u64(record.sequence.map(|(_, _, nonce)| nonce));
    args.bytes(record.target.as_slice());
    args.int(Some(record.status as i64));
    args.text(record.reason.map(|reason| reason.as_str().to_owned()));
    args.u64(record.deadline.0);
    args.u64(record.valid_until.0);
    args.u64(record.accepted_at.0);
    args.u64(record.updated_at.0);
    args.batch_on(record.batch);
    args.decimal(record.reserved_wei);
    args.decimal(record.ceiling_wei_per_gas);
    bind_facts(args, &entry);
    args.int(Some(i64::from(!record.status.is_terminal())));
    args.int(Some(i64::from(holds_nonce(record.status))));
    args.text(record.submitted_by.clone());
    args.int(Some(i64::from(record.price_percent)));
}

/// `seq, status … events` of a changed request.
pub(super) fn bind_change(args: &mut impl Bind, entry: RequestEntry) {
    let record = &entry.record;
    args.u64(record.seq);
    args.int(Some(record.status as i64));
    args.text(record.reason.map(|reason| reason.as_str().to_owned()));
    args.u64(record.updated_at.0);
    args.batch_on(record.batch);
    bind_facts(args, &entry);
}

/// `cost_wei, price_wei, gas_used, tx_hash, block_number, batch_failures, events, late_at_ms`.
fn bind_facts(args: &mut impl Bind, entry: &RequestEntry) {
    let record = &entry.record;
    args.text(record.cost_wei.map(|cost| cost.to_string()));
    args.text(record.other_price_wei().map(|price| price.to_string()));
    args.optional_u64(record.gas_used);
    args.optional_bytes(record.tx_hash);
    args.optional_u64(record.block_number);
    args.int(Some(i64::from(record.batch_failures)));
    args.int(Some(i64::from(entry.events)));
    args.optional_u64(record.late_at.map(|at| at.0));
}

/// A new row of `batches`.
pub(super) fn bind_batch(args: &mut impl Bind, entry: BatchEntry) {
    let BatchEntry { record, seq, .. } = entry;
    args.u64(seq);
    args.u64(record.id.lane.chain_id);
    args.bytes(record.id.lane.sender.as_slice());
    args.u64(record.id.nonce);
    args.int(Some(record.state as i64));
    args.bytes(record.to.as_slice());
    args.decimal(record.value);
    args.u64(record.gas_limit);
    args.u64(record.deadline.0);
    args.decimal(record.ceiling_wei_per_gas);
    args.str(record.trigger.as_str());
    args.u64(record.created_at.0);
    bind_block(args, &record);
}

/// `seq, state, recipient … created_at_ms, included_hash … cost_wei` of a changed batch.
pub(super) fn bind_batch_change(args: &mut impl Bind, entry: BatchEntry) {
    let record = &entry.record;
    args.u64(entry.seq);
    args.int(Some(record.state as i64));
    args.bytes(record.to.as_slice());
    args.decimal(record.value);
    args.u64(record.gas_limit);
    args.u64(record.deadline.0);
    args.decimal(record.ceiling_wei_per_gas);
    args.str(record.trigger.as_str());
    args.u64(record.created_at.0);
    bind_block(args, record);
}

fn bind_block(args: &mut impl Bind, record: &BatchRecord) {
    args.optional_bytes(record.included_hash);
    args.optional_u64(record.block.map(|(number, _)| number));
    args.optional_bytes(record.block.map(|(_, hash)| hash));
    args.optional_u64(record.gas_used);
    args.text(record.cost_wei.map(|cost| cost.to_string()));
}

/// A row of `attempts` of the batch with this number.
pub(super) fn bind_attempt(args: &mut impl Bind, (batch, attempt): (u64, AttemptRecord)) {
    args.u64(batch);
    args.int(Some(i64::from(attempt.index)));
    args.int(Some(attempt.kind as i64));
    args.decimal(attempt.fees.max_fee_per_gas);
    args.decimal(attempt.fees.max_priority_fee_per_gas);
    args.bytes(attempt.hash.as_slice());
    args.bytes(attempt.raw);
    args.u64(attempt.created_at.0);
}

/// A row of `events` of the request with this number.
pub(super) fn bind_event(args: &mut impl Bind, (request, event): (u64, EventRecord)) {
    args.u64(event.seq);
    args.u64(request);
    args.int(Some(i64::from(event.request_seq)));
    args.bytes(event.request_id.0.as_slice());
    args.str(event.tenant);
    args.u64(event.chain_id);
    args.int(Some(event.status as i64));
    args.text(event.reason.map(|reason| reason.as_str().to_owned()));
    args.text(event.detail);
    args.batch_on(event.batch);
    args.optional_bytes(event.tx_hash);
    args.optional_u64(event.block_number);
    args.u64(event.at_ms);
}

/// A row of `batch_accounts`.
pub(super) fn bind_account(args: &mut impl Bind, new: NewAccount) {
    args.u64(new.batch);
    args.str(new.entry.account.as_str());
    args.str(new.entry.tenant.unwrap_or_default());
    args.u64(new.chain_id);
    args.decimal(new.entry.wei);
    args.u64(new.at.0);
}

/// A row of `decisions`.
pub(super) fn bind_decision(args: &mut impl Bind, row: DecisionRow) {
    args.u64(row.seq);
    args.u64(row.at_ms);
    args.bytes(row.prev.as_slice());
    args.bytes(row.hash.as_slice());
    args.str(row.body);
}

/// A row of `targets`.
pub(super) fn bind_target(args: &mut impl Bind, (chain_id, record): (u64, TargetRecord)) {
    args.u64(chain_id);
    args.bytes(record.target.as_slice());
    args.u64(record.clean_runs);
    args.int(Some(i64::from(record.surprises)));
    args.u64(record.suspect_until.0);
    args.optional_bytes(record.shown_by);
    args.u64(record.seen_at.0);
}

/// A row of `payloads`.
pub(super) fn bind_payload(args: &mut impl Bind, new: Payload) {
    args.u64(new.request);
    args.bytes(new.payload);
    args.bytes(new.promise_signature);
    args.str(new.quote);
}

/// A row of `batch_members`.
pub(super) fn bind_member(args: &mut impl Bind, new: NewMember) {
    args.u64(new.batch);
    args.u64(new.position);
    args.u64(new.request);
    args.optional_u64(new.own_gas);
}

/// A row of `idempotency`.
pub(super) fn bind_new_key(args: &mut impl Bind, new: NewKey) {
    let (tenant, key) = new.key;
    args.str(tenant);
    args.str(key);
    args.bytes(new.body_hash.as_slice());
    args.u64(new.request_seq);
}

/// A row of `meta`.
pub(super) fn bind_meta(args: &mut impl Bind, (key, value): (String, String)) {
    args.str(key);
    args.str(value);
}

/// A change of `request_counts`.
pub(super) fn bind_count(args: &mut impl Bind, ((chain_id, status), change): ((u64, Status), i64)) {
    args.u64(chain_id);
    args.int(Some(status as i64));
    args.int(Some(change));
}

/// A row of `spent`: the sums in `stored`, with the change added.
pub(super) fn bind_spent(
    args: &mut impl Bind,
    stored: &mut HashMap<SpentKey, (U256, U256)>,
    (key, (reserved, spent)): (SpentKey, (U256, U256)),
) {
    bind_spent_key(args, &key);
    let sums = stored.entry(key).or_default();
    *sums = (sums.0.wrapping_add(reserved), sums.1.wrapping_add(spent));
    args.decimal(sums.0);
    args.decimal(sums.1);
}

/// The key of a row of `targets`.
pub(super) fn bind_target_key(args: &mut impl Bind, (chain_id, record): (u64, TargetRecord)) {
    args.u64(chain_id);
    args.bytes(record.target.as_slice());
}

pub(super) fn bind_spent_key(args: &mut impl Bind, (hour, tenant, chain_id): &SpentKey) {
    args.u64(*hour);
    args.str(tenant.as_str());
    args.u64(*chain_id);
}

pub(super) fn bind_id(args: &mut impl Bind, id: &RequestId) {
    args.bytes(id.0.as_slice());
}

pub(super) fn bind_key(args: &mut impl Bind, (tenant, key): &Key) {
    args.str(tenant.as_str());
    args.str(key.as_str());
}

pub(super) fn bind_sequence(args: &mut impl Bind, (chain_id, forwarder, signer, nonce): &Sequence) {
    args.u64(*chain_id);
    args.bytes(forwarder.as_slice());
    args.bytes(signer.as_slice());
    args.u64(*nonce);
}

pub(super) fn bind_lane(args: &mut impl Bind, lane: &LaneId) {
    args.u64(lane.chain_id);
    args.bytes(lane.sender.as_slice());
}

pub(super) fn bind_batch_id(args: &mut impl Bind, id: &BatchId) {
    bind_lane(args, &id.lane);
    args.u64(id.nonce);
}

pub(super) fn bind_budget(args: &mut impl Bind, (tenant, chain_id, hour): &BudgetKey) {
    args.str(tenant.as_str());
    args.u64(*chain_id);
    args.u64(*hour);
}
