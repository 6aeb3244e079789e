//! What every ledger must do.

use std::sync::Arc;

use alloy_primitives::{Address, U256};
use slackwater::{
    Timestamp,
    ledger::{
        AcceptOutcome, AttemptKind, AttemptRecord, BatchRecord, BatchState, BudgetLimit, DecisionRow, EventFilter,
        EventRecord, Fence, Ledger, NewRequest, PlannedBatch, RequestChange, RequestFilter, RequestRecord, SpentRow,
        Write, WriteOutcome,
    },
    provenance::{Decision, Entry, Head, verify_chain_from},
    request::{BatchId, LaneId, Reason, Status},
};

use crate::{Store, sample::*};

/// Runs every check against a new store of each kind.
macro_rules! conformance {
    ($($check:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::sqlite::TempStore::new()).await;
            })*
        }

        #[cfg(feature = "simulation")]
        mod on_memory {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::MemoryKept::new()).await;
            })*
        }

        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(#[tokio::test]
            async fn $check() {
                super::checks::$check(&crate::postgres::TempSchema::new()).await;
            })*
        }
    };
}

conformance! {
    new_request_reads_back
    same_id_is_a_duplicate_for_ever
    idempotency_key_answers_first
    sequence_has_one_holder
    sequence_is_released_and_taken_in_one_commit
    plan_binds_members
    plan_is_refused
    nonces_skip_and_holes_are_filled
    attempts_are_appended
    batch_moves_its_members
    batch_write_repeated_is_harmless
    batch_state_never_goes_back
    reorganisation_takes_back_inclusion
    members_go_back_to_the_queue
    old_batch_cannot_touch_new_membership
    changes_outside_batches
    refused_write_spares_its_neighbours
    decisions_are_a_sequence
    decisions_are_linked_in_the_commit
    budgets_are_checked_in_the_commit
    writes_without_a_lease_are_fenced
    meta_is_overwritten
    events_have_no_gaps
    requests_are_listed
    open_requests_are_paged
    running_numbers_agree
    large_commits_cross_chunks
    reopening_changes_nothing
    empty_commit_is_nothing
    closed_ledger_refuses
}

mod checks {
    use super::*;

    pub(super) async fn new_request_reads_back(store: &impl Store) {
        let ledger = store.open().await;
        let plain = NewRequest {
            kind: "call",
            sequence: None,
            deadline: Timestamp(u64::MAX),
            chain_id: u64::MAX,
            reserved_wei: U256::MAX,
            ceiling_wei_per_gas: u128::MAX,
            payload: Vec::new(),
            quote: String::new(),
            ..new(2)
        };
        let most = NewRequest { sequence: Some((Address::ZERO, Address::ZERO, u64::MAX)), ..new(3) };
        let requests = [new(1), plain, most];
        let outcomes = commit(&*ledger, requests.iter().cloned().map(accept).collect()).await;
        for (seq, (request, outcome)) in (1..).zip(requests.into_iter().zip(&outcomes)) {
            let expected = EventRecord {
                seq,
                request_id: request.id,
                request_seq: 1,
                tenant: "acme".to_owned(),
                chain_id: request.chain_id,
                status: Status::Queued,
                reason: None,
                detail: None,
                batch: None,
                tx_hash: None,
                block_number: None,
                at_ms: NOW.0,
            };
            assert_eq!(*outcome, WriteOutcome::Accept(AcceptOutcome::Accepted { seq, event: expected.clone() }));
            let read = ledger.request(request.id).await.unwrap();
            assert_eq!(read, Some(stored(request, seq)));
            let filter = EventFilter { after: seq - 1, limit: 1, ..EventFilter::default() };
            assert_eq!(ledger.events(&filter).await.unwrap(), [expected]);
        }
        assert_eq!(ledger.request(id(4)).await.unwrap(), None);
    }

    pub(super) async fn same_id_is_a_duplicate_for_ever(store: &impl Store) {
        let ledger = store.open().await;
        let outcomes =
            commit(&*ledger, vec![accept(new(1)), accept(NewRequest { quote: "other".into(), ..new(1) })]).await;
        accepted(&outcomes[0]);
        assert_eq!(*duplicate(&outcomes[1]), stored(new(1), 1));
        assert_eq!(*duplicate(&one(&*ledger, accept(new(1))).await), stored(new(1), 1));
        // Not even after it ended: the same signed bytes are never executed again.
        let outcomes = commit(&*ledger, vec![ended(&[1], Status::Rejected), accept(new(1))]).await;
        assert_eq!(duplicate(&outcomes[1]).status, Status::Rejected);
        assert_eq!(duplicate(&one(&*ledger, accept(new(1))).await), &request(&*ledger, 1).await);
        assert_eq!(ledger.last_event_seq().await.unwrap(), 2);
    }

    pub(super) async fn idempotency_key_answers_first(store: &impl Store) {
        let ledger = store.open().await;
        accepted(&one(&*ledger, accept(with_key(1, "k", 100))).await);
        // Same key and body: the first answer, even where the content came out different.
        assert_eq!(duplicate(&one(&*ledger, accept(with_key(2, "k", 100))).await).id, id(1));
        let conflict = WriteOutcome::Accept(AcceptOutcome::IdempotencyConflict { existing: id(1) });
        assert_eq!(one(&*ledger, accept(with_key(2, "k", 101))).await, conflict);
        // The key is looked at before the id.
        assert_eq!(one(&*ledger, accept(with_key(1, "k", 101))).await, conflict);
        // Scoped to the tenant.
        let other = NewRequest { tenant: "zeta".into(), ..with_key(2, "k", 101) };
        accepted(&one(&*ledger, accept(other)).await);
        // A new key that comes with a known id belongs to that request from then on.
        assert_eq!(duplicate(&one(&*ledger, accept(with_key(1, "l", 100))).await).id, id(1));
        assert_eq!(one(&*ledger, accept(with_key(3, "l", 101))).await, conflict);
        // Within one commit.
        let writes = vec![accept(with_key(3, "m", 1)), accept(with_key(4, "m", 1)), accept(with_key(4, "m", 2))];
        let outcomes = commit(&*ledger, writes).await;
        accepted(&outcomes[0]);
        assert_eq!(duplicate(&outcomes[1]).id, id(3));
        assert_eq!(outcomes[2], WriteOutcome::Accept(AcceptOutcome::IdempotencyConflict { existing: id(3) }));
        // A refusal leaves no key behind.
        let taken = NewRequest { sequence: new(3).sequence, ..with_key(5, "n", 1) };
        let conflict = WriteOutcome::Accept(AcceptOutcome::NonceConflict { existing: id(3) });
        assert_eq!(one(&*ledger, accept(taken)).await, conflict);
        accepted(&one(&*ledger, accept(with_key(6, "n", 2))).await);
        refused(&one(&*ledger, accept(with_key(7, &"k".repeat(256), 1))).await, "256 bytes, limit 255");
        accepted(&one(&*ledger, accept(with_key(7, &"k".repeat(255), 1))).await);
    }

    pub(super) async fn sequence_has_one_holder(store: &impl Store) {
        let ledger = store.open().await;
        let held_by = |n| WriteOutcome::Accept(AcceptOutcome::NonceConflict { existing: id(n) });
        let outcomes = commit(&*ledger, vec![accept(with_sequence(1, 9, 0)), accept(with_sequence(2, 9, 0))]).await;
        accepted(&outcomes[0]);
        assert_eq!(outcomes[1], held_by(1));
        assert_eq!(one(&*ledger, accept(with_sequence(2, 9, 0))).await, held_by(1));
        // Another nonce, signer, forwarder or chain is another sequence.
        let forwarder = Some((Address::repeat_byte(0xf1), Address::repeat_byte(9), 0));
        let others = vec![
            accept(with_sequence(3, 9, 1)),
            accept(with_sequence(4, 8, 0)),
            accept(NewRequest { sequence: forwarder, ..new(5) }),
            accept(NewRequest { chain_id: 1, ..with_sequence(6, 9, 0) }),
        ];
        for outcome in &commit(&*ledger, others).await {
            accepted(outcome);
        }
        // It stays taken until the request ends without having consumed it …
        one(&*ledger, plan(0, &[1, 3])).await;
        assert_eq!(one(&*ledger, accept(with_sequence(2, 9, 0))).await, held_by(1));
        one(&*ledger, moved(0, BatchState::Broadcast, &[1, 3], Status::Broadcast)).await;
        assert_eq!(one(&*ledger, accept(with_sequence(2, 9, 0))).await, held_by(1));
        // … and for ever if it has.
        one(&*ledger, moved(0, BatchState::Finalized, &[1], Status::Finalized)).await;
        one(&*ledger, moved(0, BatchState::Finalized, &[3], Status::Reverted)).await;
        assert_eq!(one(&*ledger, accept(with_sequence(2, 9, 0))).await, held_by(1));
        assert_eq!(one(&*ledger, accept(with_sequence(2, 9, 1))).await, held_by(3));
        for (n, to) in (10..).zip([Status::Rejected, Status::Expired, Status::Cancelled]) {
            accepted(&one(&*ledger, accept(with_sequence(n, 7, 0))).await);
            assert_eq!(one(&*ledger, accept(with_sequence(n + 1, 7, 0))).await, held_by(n));
            assert_eq!(statuses(&one(&*ledger, ended(&[n], to)).await), [to]);
        }
    }

    pub(super) async fn sequence_is_released_and_taken_in_one_commit(store: &impl Store) {
        let ledger = store.open().await;
        accepted(&one(&*ledger, accept(with_sequence(1, 9, 0))).await);
        let outcomes = commit(
            &*ledger,
            vec![
                ended(&[1], Status::Cancelled),
                accept(with_sequence(2, 9, 0)),
                accept(with_sequence(3, 9, 0)),
                ended(&[2], Status::Cancelled),
                accept(with_sequence(3, 9, 0)),
            ],
        )
        .await;
        accepted(&outcomes[1]);
        assert_eq!(outcomes[2], WriteOutcome::Accept(AcceptOutcome::NonceConflict { existing: id(2) }));
        accepted(&outcomes[4]);
        assert_eq!(request(&*ledger, 2).await.status, Status::Cancelled);
        assert_eq!(request(&*ledger, 3).await.status, Status::Queued);
    }

    pub(super) async fn plan_binds_members(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=3).await;
        assert_eq!(ledger.next_nonce(lane()).await.unwrap(), None);
        let outcome = one(&*ledger, plan(7, &[3, 1])).await;
        let events = applied(&outcome);
        assert_eq!(events.iter().map(|event| event.request_id).collect::<Vec<_>>(), [id(3), id(1)]);
        assert!(events.iter().all(|event| event.batch == Some(batch_id(7)) && event.request_seq == 2));
        assert_eq!(ledger.next_nonce(lane()).await.unwrap(), Some(8));

        let PlannedBatch { batch, members, attempt, .. } = planned(7, &[3, 1]);
        let expected = (batch.clone(), vec![attempt.clone()], members.clone());
        assert_eq!(ledger.batch(batch_id(7)).await.unwrap(), Some(expected));
        assert_eq!(ledger.batch(batch_id(6)).await.unwrap(), None);
        let open = ledger.open_batches(lane()).await.unwrap();
        assert_eq!(open.len(), 1);
        assert_eq!((&open[0].0, open[0].1[0].get(), &open[0].2), (&batch, &attempt, &members));
        let record = request(&*ledger, 3).await;
        assert_eq!((record.status, record.batch), (Status::Batched, Some(batch_id(7))));

        // Planned in the commit that accepted it; without members; on another lane.
        let outcomes = commit(&*ledger, vec![accept(new(4)), plan(8, &[4]), plan(9, &[])]).await;
        assert_eq!(statuses(&outcomes[1]), [Status::Batched]);
        assert_eq!(applied(&outcomes[2]), []);
        let other = LaneId { sender: Address::repeat_byte(1), ..lane() };
        let mut elsewhere = planned(0, &[2]);
        elsewhere.batch.id = BatchId { lane: other, nonce: 0 };
        elsewhere.attempt.batch = elsewhere.batch.id;
        applied(&one(&*ledger, Write::Plan(Box::new(elsewhere))).await);
        assert_eq!(ledger.next_nonce(other).await.unwrap(), Some(1));
        assert_eq!(ledger.next_nonce(lane()).await.unwrap(), Some(10));
    }

    pub(super) async fn plan_is_refused(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=3).await;
        accepted(&one(&*ledger, accept(NewRequest { chain_id: 1, ..new(4) })).await);
        one(&*ledger, plan(5, &[1])).await;
        let before = snapshot(&*ledger).await;

        let edited = |edit: fn(&mut PlannedBatch)| {
            let mut plan = planned(6, &[2, 3]);
            edit(&mut plan);
            Write::Plan(Box::new(plan))
        };
        for (write, why) in [
            (plan(6, &[2, 1]), "is batched, not queued"),
            (plan(6, &[2, 99]), "is unknown"),
            (plan(6, &[2, 2]), "twice"),
            (plan(6, &[2, 4]), "is for chain 1, lane for 31337"),
            (plan(4, &[2]), "is not above 5 (I4)"),
            (plan(5, &[2]), "exists"),
            (edited(|plan| plan.attempt.hash = attempt(5, 0).hash), "belongs to batch"),
            (edited(|plan| plan.attempt.index = 1), "index 1"),
            (edited(|plan| plan.attempt.batch = batch_id(7)), "says batch"),
            (edited(|plan| plan.batch.state = BatchState::Broadcast), "expected Signed"),
        ] {
            refused(&one(&*ledger, write).await, why);
        }
        assert_eq!(snapshot(&*ledger).await, before);
        // Two plans of one commit see each other.
        let outcomes = commit(&*ledger, vec![plan(6, &[2]), plan(6, &[3]), plan(7, &[2]), plan(7, &[3])]).await;
        applied(&outcomes[0]);
        refused(&outcomes[1], "exists");
        refused(&outcomes[2], "not queued");
        applied(&outcomes[3]);
    }

    pub(super) async fn nonces_skip_and_holes_are_filled(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=3).await;
        // A stranger consumed 6 to 8; a hole below is filled with a batch that carries nothing.
        let outcomes = commit(&*ledger, vec![plan(5, &[1]), plan(9, &[2]), plan(7, &[]), plan(8, &[3])]).await;
        for outcome in &outcomes[..3] {
            applied(outcome);
        }
        refused(&outcomes[3], "is not above 9 (I4)");
        assert_eq!(ledger.next_nonce(lane()).await.unwrap(), Some(10));
        let open = ledger.open_batches(lane()).await.unwrap();
        assert_eq!(open.iter().map(|(batch, _, _)| batch.id.nonce).collect::<Vec<_>>(), [5, 7, 9]);
        applied(&one(&*ledger, plan(6, &[])).await);
        refused(&one(&*ledger, plan(9, &[3])).await, "exists");
        applied(&one(&*ledger, plan(10, &[3])).await);
    }

    pub(super) async fn attempts_are_appended(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=2).await;
        let write = |attempt: AttemptRecord| Write::Attempt(Box::new(attempt));
        refused(&one(&*ledger, write(attempt(0, 1))).await, "unknown");
        commit(&*ledger, vec![plan(0, &[1]), plan(1, &[2])]).await;
        let cancel = AttemptRecord { kind: AttemptKind::Cancel, ..attempt(0, 3) };
        for attempt in [attempt(0, 1), cancel.clone(), cancel.clone()] {
            assert_eq!(applied(&one(&*ledger, write(attempt)).await), []);
        }
        refused(&one(&*ledger, write(attempt(0, 2))).await, "index 2");
        let stolen = AttemptRecord { hash: cancel.hash, ..attempt(1, 1) };
        refused(&one(&*ledger, write(stolen)).await, "belongs to batch");
        let (_, attempts, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
        assert_eq!(attempts, [attempt(0, 0), attempt(0, 1), cancel]);
        one(&*ledger, moved(0, BatchState::Lost, &[1], Status::Queued)).await;
        refused(&one(&*ledger, write(attempt(0, 4))).await, "is final");
        // Known bytes stay known.
        assert_eq!(applied(&one(&*ledger, write(attempt(0, 1))).await), []);
        // Attempts of one commit see each other.
        let outcomes = commit(&*ledger, vec![write(attempt(1, 1)), write(attempt(1, 1)), write(attempt(1, 2))]).await;
        outcomes.iter().for_each(|outcome| assert_eq!(applied(outcome), []));
        assert_eq!(ledger.batch(batch_id(1)).await.unwrap().unwrap().1.len(), 3);
    }

    /// A [`Write::Batch`] with every fact.
    fn included(state: BatchState, to: Status, block: u64) -> Write {
        Write::Batch {
            id: batch_id(0),
            state,
            included_hash: Some(attempt(0, 0).hash),
            block: Some((block, hash(block))),
            gas_used: Some(90_000),
            cost_wei: Some(U256::from(700)),
            changes: vec![RequestChange {
                detail: Some("fine".to_owned()),
                tx_hash: Some(attempt(0, 0).hash),
                block_number: Some(block),
                gas_used: Some(45_000),
                cost_wei: Some(U256::from(350)),
                ..RequestChange::to(id(1), to)
            }],
            at: Timestamp(NOW.0 + block),
        }
    }

    pub(super) async fn batch_moves_its_members(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=2).await;
        refused(&one(&*ledger, moved(0, BatchState::Broadcast, &[1], Status::Broadcast)).await, "unknown");
        one(&*ledger, plan(0, &[1, 2])).await;
        let outcome = one(&*ledger, moved(0, BatchState::Broadcast, &[1, 2], Status::Broadcast)).await;
        assert_eq!(statuses(&outcome), [Status::Broadcast; 2]);
        let outcome = one(&*ledger, included(BatchState::Included, Status::Included, 5)).await;
        let event = &applied(&outcome)[0];
        assert_eq!((event.block_number, event.tx_hash), (Some(5), Some(attempt(0, 0).hash)));
        assert_eq!((event.detail.as_deref(), event.at_ms), (Some("fine"), NOW.0 + 5));
        let (batch, _, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
        let expected = BatchRecord {
            state: BatchState::Included,
            included_hash: Some(attempt(0, 0).hash),
            block: Some((5, hash(5))),
            gas_used: Some(90_000),
            cost_wei: Some(U256::from(700)),
            ..planned(0, &[]).batch
        };
        assert_eq!(batch, expected);
        let record = request(&*ledger, 1).await;
        let expected = RequestRecord {
            status: Status::Included,
            batch: Some(batch_id(0)),
            updated_at: Timestamp(NOW.0 + 5),
            cost_wei: Some(U256::from(350)),
            gas_used: Some(45_000),
            tx_hash: Some(attempt(0, 0).hash),
            block_number: Some(5),
            ..stored(new(1), 1)
        };
        assert_eq!(record, expected);
        // What is known need not be said again at the end.
        one(&*ledger, moved(0, BatchState::Finalized, &[1], Status::Finalized)).await;
        let finalized = request(&*ledger, 1).await;
        assert_eq!((finalized.status, finalized.updated_at), (Status::Finalized, NOW));
        let expected = RequestRecord { status: Status::Finalized, updated_at: NOW, ..expected };
        assert_eq!(finalized, expected);
        assert!(ledger.open_batches(lane()).await.unwrap().is_empty());
    }

    pub(super) async fn batch_write_repeated_is_harmless(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=2).await;
        one(&*ledger, plan(0, &[1, 2])).await;
        for write in [
            moved(0, BatchState::Broadcast, &[1, 2], Status::Broadcast),
            included(BatchState::Included, Status::Included, 5),
            included(BatchState::Finalized, Status::Finalized, 5),
        ] {
            assert!(!applied(&one(&*ledger, write.clone()).await).is_empty());
            let once = snapshot(&*ledger).await;
            assert_eq!(applied(&one(&*ledger, write.clone()).await), []);
            assert_eq!(commit(&*ledger, vec![write.clone(), write]).await, vec![WriteOutcome::Applied(vec![]); 2]);
            assert_eq!(snapshot(&*ledger).await, once);
        }
        // A final batch keeps its facts, and may still bring its last members home.
        let late = moved(0, BatchState::Finalized, &[2], Status::Reverted);
        assert_eq!(statuses(&one(&*ledger, late).await), [Status::Reverted]);
        let (batch, _, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
        assert_eq!(batch.cost_wei, Some(U256::from(700)));
    }

    pub(super) async fn batch_state_never_goes_back(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=6).await;
        for (n, from) in (0..).zip(BatchState::ALL) {
            one(&*ledger, plan(n, &[n + 1])).await;
            if from != BatchState::Signed {
                applied(&one(&*ledger, moved(n, from, &[], Status::Queued)).await);
            }
            for to in BatchState::ALL {
                if to != from && !from.can_become(to) {
                    refused(&one(&*ledger, moved(n, to, &[n + 1], Status::Queued)).await, "cannot become");
                    assert_eq!(request(&*ledger, n + 1).await.status, Status::Batched);
                }
            }
            assert_eq!(from.is_final(), BatchState::ALL.iter().all(|to| !from.can_become(*to)));
        }
    }

    pub(super) async fn reorganisation_takes_back_inclusion(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=1).await;
        one(&*ledger, plan(0, &[1])).await;
        one(&*ledger, included(BatchState::Included, Status::Included, 5)).await;
        // Straight into another block: the same status, so no event, but the facts are new.
        assert_eq!(applied(&one(&*ledger, included(BatchState::Included, Status::Included, 6)).await), []);
        assert_eq!(request(&*ledger, 1).await.block_number, Some(6));
        let outcome = one(&*ledger, moved(0, BatchState::Broadcast, &[1], Status::Broadcast)).await;
        assert_eq!(statuses(&outcome), [Status::Broadcast]);
        let record = request(&*ledger, 1).await;
        let facts = (record.tx_hash, record.block_number, record.gas_used, record.cost_wei);
        assert_eq!(facts, (None, None, None, None));
        let (batch, _, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
        assert_eq!((batch.block, batch.cost_wei, batch.gas_used, batch.included_hash), (None, None, None, None));
        assert_eq!(ledger.open_batches(lane()).await.unwrap().len(), 1);
    }

    /// Batch `nonce` is lost and its member goes back to the queue, with a failure counted.
    fn lost(nonce: u64, member: u64) -> Write {
        let mut write = moved(nonce, BatchState::Lost, &[], Status::Queued);
        if let Write::Batch { changes, .. } = &mut write {
            let change = RequestChange::to(id(member), Status::Queued).because(Reason::LaneNonceTaken);
            changes.push(RequestChange { batch_failed: true, ..change });
        }
        write
    }

    pub(super) async fn members_go_back_to_the_queue(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=1).await;
        one(&*ledger, plan(0, &[1])).await;
        let outcome = one(&*ledger, lost(0, 1)).await;
        let event = &applied(&outcome)[0];
        assert_eq!((event.status, event.batch), (Status::Queued, Some(batch_id(0))));
        assert_eq!(event.reason, Some(Reason::LaneNonceTaken));
        assert_eq!(applied(&one(&*ledger, lost(0, 1)).await), []);
        let record = request(&*ledger, 1).await;
        assert_eq!((record.status, record.batch, record.batch_failures), (Status::Queued, None, 1));
        assert_eq!(record.reason, Some(Reason::LaneNonceTaken));
        // The history stays.
        assert_eq!(ledger.batch(batch_id(0)).await.unwrap().unwrap().2, [id(1)]);
        applied(&one(&*ledger, plan(1, &[1])).await);
        assert_eq!(request(&*ledger, 1).await.reason, None);
    }

    pub(super) async fn old_batch_cannot_touch_new_membership(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=2).await;
        one(&*ledger, plan(0, &[1])).await;
        one(&*ledger, lost(0, 1)).await;
        one(&*ledger, plan(1, &[1])).await;
        // A repeated write about batch 0 must not free a request that batch 1 has signed (I1).
        assert_eq!(applied(&one(&*ledger, lost(0, 1)).await), []);
        // Nor may a batch move what was never in it.
        assert_eq!(applied(&one(&*ledger, moved(1, BatchState::Signed, &[2], Status::Rejected)).await), []);
        let record = request(&*ledger, 1).await;
        assert_eq!((record.status, record.batch, record.batch_failures), (Status::Batched, Some(batch_id(1)), 1));
        assert_eq!(request(&*ledger, 2).await.status, Status::Queued);
    }

    pub(super) async fn changes_outside_batches(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=4).await;
        one(&*ledger, plan(0, &[4])).await;
        for (n, to) in (1..).zip([Status::Rejected, Status::Expired, Status::Cancelled]) {
            let change = RequestChange {
                detail: Some("because".to_owned()),
                ..RequestChange::to(id(n), to).because(Reason::DeadlinePassed)
            };
            let write = Write::Requests { changes: vec![change], at: Timestamp(NOW.0 + 1) };
            let outcome = one(&*ledger, write.clone()).await;
            let event = &applied(&outcome)[0];
            assert_eq!((event.status, event.reason, event.batch), (to, Some(Reason::DeadlinePassed), None));
            assert_eq!((event.detail.as_deref(), event.at_ms), (Some("because"), NOW.0 + 1));
            assert_eq!(applied(&one(&*ledger, write).await), []);
            let record = request(&*ledger, n).await;
            assert_eq!((record.status, record.reason), (to, Some(Reason::DeadlinePassed)));
        }
        // Unknown, ended, in a batch by now, or not a change that this write can make: skipped.
        let writes = vec![
            ended(&[99], Status::Rejected),
            ended(&[1], Status::Expired),
            ended(&[4], Status::Expired),
            ended(&[4], Status::Queued),
        ];
        assert_eq!(commit(&*ledger, writes).await, vec![WriteOutcome::Applied(vec![]); 4]);
        accept_all(&*ledger, 5..=5).await;
        assert_eq!(applied(&one(&*ledger, ended(&[5], Status::Batched)).await), []);
        assert_eq!(applied(&one(&*ledger, ended(&[5], Status::Finalized)).await), []);
        assert_eq!(request(&*ledger, 5).await.status, Status::Queued);
        // One change that is skipped does not stop the others.
        assert_eq!(statuses(&one(&*ledger, ended(&[4, 5, 99], Status::Expired)).await), [Status::Expired]);
    }

    pub(super) async fn refused_write_spares_its_neighbours(store: &impl Store) {
        let ledger = store.open().await;
        let outcomes = commit(
            &*ledger,
            vec![
                accept(new(1)),
                plan(0, &[99]),
                accept(new(1)),
                moved(5, BatchState::Broadcast, &[1], Status::Broadcast),
                plan(0, &[1]),
                Write::Attempt(Box::new(attempt(9, 1))),
                Write::Decision(decision(5)),
                moved(0, BatchState::Broadcast, &[1], Status::Broadcast),
                accept(new(2)),
            ],
        )
        .await;
        accepted(&outcomes[0]);
        for (at, why) in [(1, "unknown"), (3, "unknown"), (5, "unknown"), (6, "not the next one")] {
            refused(&outcomes[at], why);
        }
        duplicate(&outcomes[2]);
        assert_eq!(statuses(&outcomes[4]), [Status::Batched]);
        assert_eq!(statuses(&outcomes[7]), [Status::Broadcast]);
        assert_eq!(accepted(&outcomes[8]).seq, 4);
        assert_eq!(request(&*ledger, 1).await.status, Status::Broadcast);
    }

    fn decision(seq: u64) -> DecisionRow {
        DecisionRow { seq, at_ms: seq, prev: hash(seq - 1), hash: hash(seq), body: format!("decision {seq}") }
    }

    pub(super) async fn decisions_are_a_sequence(store: &impl Store) {
        let ledger = store.open().await;
        assert_eq!(ledger.last_decision().await.unwrap(), None);
        refused(&one(&*ledger, Write::Decision(decision(2))).await, "not the next one, 1");
        let outcomes = commit(&*ledger, (1..=4).map(|seq| Write::Decision(decision(seq))).collect()).await;
        outcomes.iter().for_each(|outcome| assert_eq!(applied(outcome), []));
        refused(&one(&*ledger, Write::Decision(decision(4))).await, "not the next one, 5");
        assert_eq!(ledger.last_decision().await.unwrap(), Some(decision(4)));
        assert_eq!(ledger.decisions(1, 2).await.unwrap(), [decision(2), decision(3)]);
        assert_eq!(ledger.decisions(4, 10).await.unwrap(), []);
    }

    pub(super) async fn decisions_are_linked_in_the_commit(store: &impl Store) {
        let ledger = store.open().await;
        let decide = |n: u64| Write::Decide {
            owner: "us".into(),
            at_ms: n,
            decision: Box::new(Decision::Alert { code: "c".to_owned(), subject: n.to_string(), detail: String::new() }),
        };
        for outcome in commit(&*ledger, vec![decide(1), accept(new(1)), decide(2)]).await.into_iter().step_by(2) {
            applied(&outcome);
        }
        ledger.close().await;
        let ledger = store.open().await;
        applied(&one(&*ledger, decide(3)).await);
        refused(&one(&*ledger, Write::Decision(decision(3))).await, "not the next one, 4");
        let rows = ledger.decisions(0, 10).await.unwrap();
        let entries =
            rows.into_iter().map(|DecisionRow { seq, at_ms, prev, hash, body }| Entry { seq, at_ms, prev, hash, body });
        let head = verify_chain_from(Head::genesis("us"), entries.collect::<Vec<_>>()).expect("one chain");
        assert_eq!(head.seq, 3);
    }

    pub(super) async fn budgets_are_checked_in_the_commit(store: &impl Store) {
        let ledger = store.open().await;
        let limited = |n: u64| {
            let budget = Some(BudgetLimit { limit_wei: U256::from(2_500), since: NOW });
            accept(NewRequest { budget, ..new(n) })
        };
        // Each reserves 1 000.
        let outcomes = commit(&*ledger, vec![limited(1), limited(1), accept(new(2)), limited(3)]).await;
        accepted(&outcomes[0]);
        duplicate(&outcomes[1]);
        accepted(&outcomes[2]);
        let (needed_wei, limit_wei) = (U256::from(1_000), U256::from(2_500));
        let exhausted = |left: u64| {
            let available_wei = U256::from(left);
            WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { needed_wei, available_wei, limit_wei })
        };
        assert_eq!(outcomes[3], exhausted(500), "also what comes without a limit counts");
        assert_eq!(one(&*ledger, limited(4)).await, exhausted(500));
        // Nothing is left of a refused request: its nonce is free, and so is its key.
        applied(&one(&*ledger, ended(&[1], Status::Expired)).await);
        accepted(&one(&*ledger, limited(3)).await);
        assert_eq!(one(&*ledger, limited(4)).await, exhausted(500));
    }

    pub(super) async fn writes_without_a_lease_are_fenced(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=1).await;
        let fence = Fence { chain_id: CHAIN, token: 7 };
        let outcomes = commit(&*ledger, vec![Write::Fenced(fence, Box::new(plan(0, &[1]))), plan(1, &[1])]).await;
        assert_eq!(outcomes[0], WriteOutcome::Fenced { token: 7, in_force: None });
        assert_eq!(statuses(&outcomes[1]), [Status::Batched]);
    }

    pub(super) async fn meta_is_overwritten(store: &impl Store) {
        let ledger = store.open().await;
        let set = |key: &str, value: &str| Write::Meta { key: key.to_owned(), value: value.to_owned() };
        assert_eq!(ledger.meta("a").await.unwrap(), None);
        commit(&*ledger, vec![set("a", "1"), set("b", "2"), set("a", "3")]).await;
        assert_eq!(ledger.meta("a").await.unwrap().as_deref(), Some("3"));
        one(&*ledger, set("a", "")).await;
        assert_eq!(ledger.meta("a").await.unwrap().as_deref(), Some(""));
        assert_eq!(ledger.meta("b").await.unwrap().as_deref(), Some("2"));
    }

    pub(super) async fn events_have_no_gaps(store: &impl Store) {
        let ledger = store.open().await;
        assert_eq!(ledger.last_event_seq().await.unwrap(), 0);
        accept_all(&*ledger, 1..=3).await;
        accepted(&one(&*ledger, accept(NewRequest { tenant: "zeta".into(), ..new(4) })).await);
        one(&*ledger, plan(0, &[1, 2, 3, 4])).await;
        one(&*ledger, moved(0, BatchState::Broadcast, &[4, 1], Status::Broadcast)).await;
        let read = |filter: EventFilter| {
            let ledger = Arc::clone(&ledger);
            async move { ledger.events(&filter).await.unwrap() }
        };
        let all = read(EventFilter { limit: usize::MAX, ..EventFilter::default() }).await;
        assert_eq!(all.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        assert_eq!(ledger.last_event_seq().await.unwrap(), 10);
        let page = read(EventFilter { after: 3, limit: 2, ..EventFilter::default() }).await;
        assert_eq!(page, all[3..5]);
        let of_one = read(EventFilter { request: Some(id(4)), limit: 10, ..EventFilter::default() }).await;
        assert_eq!(of_one.iter().map(|event| event.request_seq).collect::<Vec<_>>(), [1, 2, 3]);
        let of_tenant = read(EventFilter { tenant: Some("zeta".into()), limit: 10, ..EventFilter::default() }).await;
        assert_eq!(of_tenant, of_one);
        let rest = read(EventFilter { after: u64::MAX, limit: 10, ..EventFilter::default() }).await;
        assert_eq!(rest, []);
        let unknown = read(EventFilter { request: Some(id(99)), limit: 10, ..EventFilter::default() }).await;
        assert_eq!(unknown, []);
    }

    pub(super) async fn requests_are_listed(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=4).await;
        accepted(&one(&*ledger, accept(NewRequest { tenant: "zeta".into(), chain_id: 1, ..new(5) })).await);
        one(&*ledger, ended(&[2, 3], Status::Cancelled)).await;
        let base = RequestFilter { limit: 10, ..RequestFilter::default() };
        let zeta = Some("zeta".to_owned());
        for (filter, expected) in [
            (base.clone(), vec![5, 4, 3, 2, 1]),
            (RequestFilter { limit: 2, ..base.clone() }, vec![5, 4]),
            (RequestFilter { before: Some(4), ..base.clone() }, vec![3, 2, 1]),
            (RequestFilter { status: Some(Status::Cancelled), ..base.clone() }, vec![3, 2]),
            (RequestFilter { tenant: zeta.clone(), ..base.clone() }, vec![5]),
            (RequestFilter { chain_id: Some(CHAIN), before: Some(2), ..base.clone() }, vec![1]),
            (RequestFilter { tenant: zeta, status: Some(Status::Cancelled), ..base.clone() }, vec![]),
            (RequestFilter { limit: 0, ..base }, vec![]),
        ] {
            let found = ledger.requests(&filter).await.unwrap();
            assert_eq!(found.iter().map(|record| record.seq).collect::<Vec<_>>(), expected, "{filter:?}");
        }
        let newest = &ledger.requests(&RequestFilter { limit: 1, ..RequestFilter::default() }).await.unwrap()[0];
        assert_eq!(newest.payload, new(5).payload);
    }

    pub(super) async fn open_requests_are_paged(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=5).await;
        accepted(&one(&*ledger, accept(NewRequest { chain_id: 1, ..new(6) })).await);
        one(&*ledger, ended(&[2], Status::Cancelled)).await;
        commit(&*ledger, vec![plan(0, &[3, 4]), moved(0, BatchState::Included, &[3], Status::Included)]).await;
        one(&*ledger, moved(0, BatchState::Finalized, &[3], Status::Finalized)).await;
        let seqs = |records: Vec<RequestRecord>| records.iter().map(|record| record.seq).collect::<Vec<_>>();
        assert_eq!(seqs(ledger.open_requests(CHAIN, 0, 2).await.unwrap()), [1, 4]);
        assert_eq!(seqs(ledger.open_requests(CHAIN, 4, 2).await.unwrap()), [5]);
        assert_eq!(seqs(ledger.open_requests(1, 0, 9).await.unwrap()), [6]);
        assert_eq!(ledger.open_requests(CHAIN, 0, 1).await.unwrap()[0], stored(new(1), 1));
    }

    pub(super) async fn running_numbers_agree(store: &impl Store) {
        let ledger = store.open().await;
        assert_eq!(ledger.counts().await.unwrap(), []);
        assert_eq!(ledger.spent(0).await.unwrap(), []);
        // Up and back to nothing, in two commits, leaves no zeros.
        accept_all(&*ledger, 9..=9).await;
        one(&*ledger, ended(&[9], Status::Expired)).await;
        assert_eq!(ledger.spent(0).await.unwrap(), []);
        accept_all(&*ledger, 1..=3).await;
        let later = Timestamp(NOW.0 + HOUR_MS);
        let writes = vec![
            accept(NewRequest { accepted_at: later, ..new(4) }),
            accept(NewRequest { tenant: "zeta".into(), chain_id: 1, reserved_wei: U256::MAX, ..new(5) }),
        ];
        commit(&*ledger, writes).await;
        commit(&*ledger, vec![plan(0, &[1, 2]), included(BatchState::Included, Status::Included, 5)]).await;
        let row = |tenant: &str, chain_id, reserved, spent| SpentRow {
            tenant: tenant.to_owned(),
            chain_id,
            reserved_wei: U256::from(reserved),
            spent_wei: U256::from(spent),
        };
        let zeta = SpentRow { reserved_wei: U256::MAX, ..row("zeta", 1, 0, 0) };
        // Included is not the end: still the whole reservation.
        assert_eq!(ledger.spent(0).await.unwrap(), [row("acme", CHAIN, 4_000, 0), zeta.clone()]);
        let writes = vec![included(BatchState::Finalized, Status::Finalized, 5), ended(&[3], Status::Cancelled)];
        commit(&*ledger, writes).await;
        assert_eq!(ledger.spent(0).await.unwrap(), [row("acme", CHAIN, 2_000, 350), zeta.clone()]);
        // Whole hours: rounded down, so that never too little is counted.
        assert_eq!(ledger.spent(NOW.0).await.unwrap(), [row("acme", CHAIN, 2_000, 350), zeta]);
        assert_eq!(ledger.spent(later.0).await.unwrap(), [row("acme", CHAIN, 1_000, 0)]);
        assert_eq!(
            ledger.counts().await.unwrap(),
            [
                (1, Status::Queued, 1),
                (CHAIN, Status::Queued, 1),
                (CHAIN, Status::Batched, 1),
                (CHAIN, Status::Finalized, 1),
                (CHAIN, Status::Expired, 1),
                (CHAIN, Status::Cancelled, 1),
            ]
        );
    }

    pub(super) async fn large_commits_cross_chunks(store: &impl Store) {
        let ledger = store.open().await;
        // Not a power of two, more than any chunk.
        let writes = (0..700).map(|n| accept(with_key(n, &n.to_string(), n))).collect();
        let outcomes = commit(&*ledger, writes).await;
        for (n, outcome) in (0..).zip(&outcomes) {
            assert_eq!(accepted(outcome).seq, n + 1);
        }
        let members: Vec<u64> = (0..300).rev().collect();
        assert_eq!(applied(&one(&*ledger, plan(0, &members)).await).len(), 300);
        let (_, _, stored_members) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
        assert_eq!(stored_members, members.iter().copied().map(id).collect::<Vec<_>>());
        // 400 sequences released and taken again, 100 batches (the first 90 empty), 700 duplicates: in one commit.
        let released: Vec<u64> = (300..700).collect();
        let mut writes = vec![ended(&released, Status::Rejected)];
        writes.extend(released.iter().map(|n| accept(NewRequest { sequence: new(*n).sequence, ..new(n + 1_000) })));
        writes.extend((1..=90).map(|nonce| plan(nonce, &[])));
        writes.extend((91..=100).map(|nonce| {
            let members: Vec<u64> = (0..40).map(|member| 1_300 + (nonce - 91) * 40 + member).collect();
            plan(nonce, &members)
        }));
        writes.extend((0..700).map(|n| accept(with_key(n, &n.to_string(), n))));
        let outcomes = commit(&*ledger, writes).await;
        assert_eq!(applied(&outcomes[0]).len(), 400);
        for outcome in &outcomes[1..401] {
            accepted(outcome);
        }
        for outcome in &outcomes[401..501] {
            applied(outcome);
        }
        for (n, outcome) in (0..).zip(&outcomes[501..]) {
            assert_eq!(duplicate(outcome).id, id(n));
        }
        assert_eq!(ledger.last_event_seq().await.unwrap(), 700 + 300 + 400 + 400 + 400);
        let counts = [(CHAIN, Status::Batched, 700), (CHAIN, Status::Rejected, 400)];
        assert_eq!(ledger.counts().await.unwrap(), counts);
        let events = ledger.events(&EventFilter { limit: usize::MAX, ..EventFilter::default() }).await.unwrap();
        assert!(events.iter().map(|event| event.seq).eq(1..=2_200));
        assert_eq!(ledger.open_batches(lane()).await.unwrap().len(), 101);
        assert_eq!(ledger.open_requests(CHAIN, 0, usize::MAX).await.unwrap().len(), 700);
    }

    pub(super) async fn reopening_changes_nothing(store: &impl Store) {
        let ledger = store.open().await;
        accept_all(&*ledger, 1..=5).await;
        commit(&*ledger, vec![plan(0, &[1, 2]), Write::Decision(decision(1)), ended(&[3], Status::Expired)]).await;
        one(&*ledger, moved(0, BatchState::Broadcast, &[1, 2], Status::Broadcast)).await;
        let before = snapshot(&*ledger).await;
        ledger.close().await;
        drop(ledger);
        let ledger = store.open().await;
        assert_eq!(snapshot(&*ledger).await, before);
        // Numbers go on where they stopped.
        let outcomes = commit(&*ledger, vec![accept(new(6)), plan(1, &[6]), Write::Decision(decision(2))]).await;
        assert!(
            matches!(&outcomes[0], WriteOutcome::Accept(AcceptOutcome::Accepted { seq: 6, event }) if event.seq == 11)
        );
        applied(&outcomes[1]);
        applied(&outcomes[2]);
        duplicate(&one(&*ledger, accept(new(1))).await);
    }

    pub(super) async fn empty_commit_is_nothing(store: &impl Store) {
        let ledger = store.open().await;
        assert_eq!(commit(&*ledger, vec![]).await, []);
        assert_eq!(commit(&*ledger, vec![ended(&[], Status::Expired)]).await, [WriteOutcome::Applied(vec![])]);
        assert_eq!(ledger.last_event_seq().await.unwrap(), 0);
    }

    pub(super) async fn closed_ledger_refuses(store: &impl Store) {
        use slackwater::ledger::LedgerError;

        let ledger = store.open().await;
        accept_all(&*ledger, 1..=1).await;
        ledger.close().await;
        ledger.close().await;
        assert!(matches!(ledger.commit(vec![accept(new(2))]).await, Err(LedgerError::Closed)));
        assert!(matches!(ledger.request(id(1)).await, Err(LedgerError::Closed)));
        assert!(matches!(ledger.open_batches(lane()).await, Err(LedgerError::Closed)));
        // What it held can be opened again at once.
        assert_eq!(store.open().await.last_event_seq().await.unwrap(), 1);
    }
}

/// Everything that can be read of the test chain, to compare.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    requests: Vec<RequestRecord>,
    open: Vec<RequestRecord>,
    events: Vec<EventRecord>,
    decisions: Vec<DecisionRow>,
    batches: Vec<(BatchRecord, Vec<AttemptRecord>, Vec<slackwater::request::RequestId>)>,
    open_batches: Vec<BatchId>,
    counts: Vec<(u64, Status, u64)>,
    spent: Vec<SpentRow>,
}

pub(crate) async fn snapshot(ledger: &dyn Ledger) -> Snapshot {
    let limit = usize::MAX;
    let mut batches = Vec::new();
    for nonce in 0..ledger.next_nonce(lane()).await.unwrap().unwrap_or_default() {
        batches.extend(ledger.batch(batch_id(nonce)).await.unwrap());
    }
    Snapshot {
        requests: ledger.requests(&RequestFilter { limit, ..RequestFilter::default() }).await.unwrap(),
        open: ledger.open_requests(CHAIN, 0, limit).await.unwrap(),
        events: ledger.events(&EventFilter { limit, ..EventFilter::default() }).await.unwrap(),
        decisions: ledger.decisions(0, limit).await.unwrap(),
        batches,
        open_batches: ledger.open_batches(lane()).await.unwrap().into_iter().map(|(batch, _, _)| batch.id).collect(),
        counts: ledger.counts().await.unwrap(),
        spent: ledger.spent(0).await.unwrap(),
    }
}
