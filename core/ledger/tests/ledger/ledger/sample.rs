//! Sample records, and shorthands for writing them.

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use slackwater_core::{
    Timestamp,
    chain::Fees,
    request::{BatchId, LaneId, RequestId, Status},
};
use slackwater_ledger::{
    AcceptOutcome, AttemptKind, AttemptRecord, BatchMember, BatchRecord, BatchState, EventRecord, Idempotency, Ledger,
    NewRequest, PlannedBatch, RequestChange, RequestRecord, Write, WriteOutcome,
};

pub(crate) const CHAIN: u64 = 31_337;
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);

pub(crate) fn hash(n: u64) -> B256 {
    keccak256(n.to_be_bytes())
}

pub(crate) fn id(n: u64) -> RequestId {
    RequestId(hash(n))
}

pub(crate) fn lane() -> LaneId {
    LaneId { chain_id: CHAIN, sender: Address::repeat_byte(0x5e) }
}

pub(crate) fn batch_id(nonce: u64) -> BatchId {
    BatchId { lane: lane(), nonce }
}

/// Request `n`: signer `n`, nonce 0, no idempotency key.
pub(crate) fn new(n: u64) -> NewRequest {
    NewRequest {
        id: id(n),
        tenant: "acme".to_owned(),
        chain_id: CHAIN,
        kind: "forward",
        sequence: Some((Address::repeat_byte(0xf0), Address::from_word(hash(n)), 0)),
        target: Address::repeat_byte(0x7a),
        deadline: Timestamp(NOW.0 + 30_000),
        valid_until: Timestamp(NOW.0 + 90_000),
        accepted_at: NOW,
        reserved_wei: U256::from(1_000),
        price_percent: 100,
        ceiling_wei_per_gas: 50_000_000_000,
        payload: vec![0xaa; 40],
        promise_signature: Bytes::from(vec![0xbb; 65]),
        quote: r#"{"cost":"1"}"#.to_owned(),
        idempotency: None,
        submitted_by: Some("web-1".to_owned()),
        budget: None,
        takes_over: true,
    }
}

pub(crate) fn with_key(n: u64, key: &str, body: u64) -> NewRequest {
    NewRequest { idempotency: Some(Idempotency { key: key.to_owned(), body_hash: hash(body) }), ..new(n) }
}

pub(crate) fn with_sequence(n: u64, signer: u8, nonce: u64) -> NewRequest {
    let sequence = Some((Address::repeat_byte(0xf0), Address::repeat_byte(signer), nonce));
    NewRequest { sequence, ..new(n) }
}

pub(crate) fn accept(new: NewRequest) -> Write {
    Write::Accept(Box::new(new))
}

/// The stored form of `new` right after it was accepted.
pub(crate) fn stored(new: NewRequest, seq: u64) -> RequestRecord {
    RequestRecord {
        seq,
        id: new.id,
        tenant: new.tenant,
        chain_id: new.chain_id,
        kind: new.kind.to_owned(),
        sequence: new.sequence,
        target: new.target,
        status: Status::Queued,
        reason: None,
        deadline: new.deadline,
        valid_until: new.valid_until,
        late_at: None,
        accepted_at: new.accepted_at,
        updated_at: new.accepted_at,
        batch: None,
        reserved_wei: new.reserved_wei,
        price_percent: new.price_percent,
        ceiling_wei_per_gas: new.ceiling_wei_per_gas,
        cost_wei: None,
        gas_used: None,
        tx_hash: None,
        block_number: None,
        payload: new.payload,
        promise_signature: new.promise_signature,
        quote: new.quote,
        batch_failures: 0,
        submitted_by: new.submitted_by,
    }
}

pub(crate) fn attempt(nonce: u64, index: u32) -> AttemptRecord {
    AttemptRecord {
        batch: batch_id(nonce),
        index,
        kind: AttemptKind::Payload,
        fees: Fees { max_fee_per_gas: u128::MAX, max_priority_fee_per_gas: 1 },
        hash: hash(1_000_000 + nonce * 100 + u64::from(index)),
        raw: Bytes::from(vec![2; 9]),
        created_at: NOW,
    }
}

/// A member of a planned batch; the first request's own gas is not known.
pub(crate) fn member(n: u64) -> BatchMember {
    BatchMember { id: id(n), own_gas: (n > 0).then_some(40_000 + n) }
}

pub(crate) fn planned(nonce: u64, members: &[u64]) -> PlannedBatch {
    PlannedBatch {
        batch: BatchRecord {
            id: batch_id(nonce),
            state: BatchState::Signed,
            to: Address::repeat_byte(0xf0),
            value: U256::MAX,
            gas_limit: 200_000,
            deadline: NOW,
            ceiling_wei_per_gas: u128::MAX,
            trigger: "full".to_owned(),
            created_at: NOW,
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: None,
        },
        members: members.iter().copied().map(member).collect(),
        attempt: attempt(nonce, 0),
        left: Vec::new(),
        at: NOW,
    }
}

pub(crate) fn plan(nonce: u64, members: &[u64]) -> Write {
    Write::Plan(Box::new(planned(nonce, members)))
}

/// Moves the batch of `nonce` to `state`, without facts, and its `members` to `to`.
pub(crate) fn moved(nonce: u64, state: BatchState, members: &[u64], to: Status) -> Write {
    Write::Batch {
        id: batch_id(nonce),
        state,
        included_hash: None,
        block: None,
        gas_used: None,
        cost_wei: None,
        changes: members.iter().map(|n| RequestChange::to(id(*n), to)).collect(),
        bill: None,
        at: NOW,
    }
}

pub(crate) fn ended(members: &[u64], to: Status) -> Write {
    Write::Requests { changes: members.iter().map(|n| RequestChange::to(id(*n), to)).collect(), at: NOW }
}

pub(crate) async fn commit(ledger: &dyn Ledger, writes: Vec<Write>) -> Vec<WriteOutcome> {
    let count = writes.len();
    let outcomes = ledger.commit(writes).await.expect("commits");
    assert_eq!(outcomes.len(), count);
    outcomes.into_iter().map(|outcome| outcome.into_inner()).collect()
}

pub(crate) async fn one(ledger: &dyn Ledger, write: Write) -> WriteOutcome {
    commit(ledger, vec![write]).await.remove(0)
}

/// The event of a newly accepted request; panics on any other outcome.
#[track_caller]
pub(crate) fn accepted(outcome: &WriteOutcome) -> &EventRecord {
    match outcome {
        WriteOutcome::Accept(AcceptOutcome::Accepted { event, .. }) => event,
        other => panic!("not accepted: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn duplicate(outcome: &WriteOutcome) -> &RequestRecord {
    match outcome {
        WriteOutcome::Accept(AcceptOutcome::Duplicate(record)) => record,
        other => panic!("not a duplicate: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn applied(outcome: &WriteOutcome) -> &[EventRecord] {
    match outcome {
        WriteOutcome::Applied(events) => events,
        other => panic!("not applied: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn refused(outcome: &WriteOutcome, why: &str) {
    match outcome {
        WriteOutcome::Refused(text) => assert!(text.contains(why), "refused because `{text}`, expected `{why}`"),
        other => panic!("not refused: {other:?}"),
    }
}

/// Statuses of the outcome's events.
#[track_caller]
pub(crate) fn statuses(outcome: &WriteOutcome) -> Vec<Status> {
    applied(outcome).iter().map(|event| event.status).collect()
}

/// Accepts new requests with these numbers.
pub(crate) async fn accept_all(ledger: &dyn Ledger, numbers: impl IntoIterator<Item = u64>) {
    let writes = numbers.into_iter().map(|n| accept(new(n))).collect();
    for outcome in &commit(ledger, writes).await {
        accepted(outcome);
    }
}

pub(crate) async fn request(ledger: &dyn Ledger, n: u64) -> RequestRecord {
    ledger.request(id(n)).await.expect("reads").expect("exists")
}
