//! Requests: events, states, batches.

use std::borrow::Cow;

use slackwater::{BatchView, Quote};
use slackwater_core::{
    Timestamp,
    request::{Promise, RequestId, VerifiedRequest},
    wire::{Account, Attempt, Batch, Event, Request, RequestSummary, Uint},
};
use slackwater_ledger::{AttemptRecord, EventRecord, RequestRecord};

use super::{
    answer::{promise, quote},
    name,
};

/// The event.
pub fn event(event: &EventRecord) -> Event<'_> {
    Event {
        seq: event.seq,
        request_id: event.request_id,
        request_seq: event.request_seq,
        tenant: Cow::Borrowed(&event.tenant),
        chain_id: event.chain_id,
        status: event.status.into(),
        reason: event.reason.map(Into::into),
        detail: event.detail.as_deref().map(Cow::Borrowed),
        batch: event.batch,
        tx_hash: event.tx_hash,
        block_number: event.block_number,
        at_ms: Timestamp(event.at_ms),
    }
}

/// The request without its content.
pub fn summary(record: &RequestRecord) -> RequestSummary {
    RequestSummary {
        id: record.id,
        seq: record.seq,
        tenant: record.tenant.clone(),
        chain_id: record.chain_id,
        kind: record.kind.clone(),
        status: record.status.into(),
        reason: record.reason.map(Into::into),
        target: Account(record.target),
        deadline_at_ms: record.deadline,
        valid_until_ms: Some(record.valid_until),
        late_at_ms: record.late_at,
        executable_until: record.executable_until_s(),
        accepted_at_ms: record.accepted_at,
        updated_at_ms: record.updated_at,
        batch: record.batch,
        tx_hash: record.tx_hash,
        block_number: record.block_number,
        gas_used: record.gas_used,
        cost_wei: record.cost_wei.map(Uint),
        price_wei: record.price_wei().map(Uint),
        reserved_wei: Some(Uint(record.reserved_wei)),
        submitted_by: record.submitted_by.clone(),
    }
}

/// All about the request.
pub fn request<'a>(
    record: &RequestRecord,
    promised: &Promise,
    attempts: &[AttemptRecord],
    timeline: &'a [EventRecord],
) -> Request<'a> {
    let stored = VerifiedRequest::from_stored(&record.payload).ok();
    let kind = stored.as_ref().map(VerifiedRequest::kind);
    let forward = kind.and_then(|kind| kind.as_forward()).map(|forward| forward.clone().into());
    let call = kind.and_then(|kind| kind.as_call()).map(|call| call.clone().into());
    let authorization = kind.and_then(|kind| kind.as_authorization()).map(|paid| paid.clone().into());
    let quoted: Option<Quote> = serde_json::from_str(&record.quote).ok();
    let last = timeline.last().filter(|event| event.status == record.status && event.reason == record.reason);
    Request {
        summary: summary(record),
        detail: last.and_then(|event| event.detail.as_deref()).map(Cow::Borrowed),
        forward,
        call,
        authorization,
        max_cost_wei: stored.as_ref().and_then(VerifiedRequest::max_cost_wei).map(Uint),
        ceiling_wei_per_gas: Uint(record.ceiling_wei_per_gas),
        promise: promise(promised, &record.promise_signature),
        quote: quoted.as_ref().map(quote),
        batch_failures: record.batch_failures,
        attempts: attempts.iter().map(attempt).collect(),
        timeline: timeline.iter().map(event).collect(),
    }
}

fn attempt(attempt: &AttemptRecord) -> Attempt {
    Attempt {
        index: attempt.index,
        kind: name(attempt.kind),
        fees: attempt.fees.into(),
        tx_hash: attempt.hash,
        created_at_ms: attempt.created_at,
    }
}

/// All about the batch, with the members that may be seen.
pub fn batch(view: &BatchView, members: Vec<RequestId>) -> Batch {
    let batch = &view.batch;
    Batch {
        id: batch.id,
        chain_id: batch.id.lane.chain_id,
        sender: Account(batch.id.lane.sender),
        nonce: batch.id.nonce,
        state: name(batch.state),
        to: Account(batch.to),
        value_wei: Uint(batch.value),
        gas_limit: batch.gas_limit,
        deadline_at_ms: batch.deadline,
        ceiling_wei_per_gas: Uint(batch.ceiling_wei_per_gas),
        trigger: batch.trigger.clone(),
        created_at_ms: batch.created_at,
        included_hash: batch.included_hash,
        block_number: batch.block.map(|(number, _)| number),
        block_hash: batch.block.map(|(_, hash)| hash),
        gas_used: batch.gas_used,
        cost_wei: batch.cost_wei.map(Uint),
        attempts: view.attempts.iter().map(attempt).collect(),
        member_count: view.members.len(),
        members,
    }
}
