//! Requests: accepted once, in order.

use super::*;

pub(crate) async fn new_request_reads_back(store: &impl Store) {
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

pub(crate) async fn same_id_is_a_duplicate_for_ever(store: &impl Store) {
    let ledger = store.open().await;
    let outcomes = commit(&*ledger, vec![accept(new(1)), accept(NewRequest { quote: "other".into(), ..new(1) })]).await;
    accepted(&outcomes[0]);
    assert_eq!(*duplicate(&outcomes[1]), stored(new(1), 1));
    assert_eq!(*duplicate(&one(&*ledger, accept(new(1))).await), stored(new(1), 1));
    // Not even after it ended: the same signed bytes are never executed again.
    let outcomes = commit(&*ledger, vec![ended(&[1], Status::Rejected), accept(new(1))]).await;
    assert_eq!(duplicate(&outcomes[1]).status, Status::Rejected);
    assert_eq!(duplicate(&one(&*ledger, accept(new(1))).await), &request(&*ledger, 1).await);
    assert_eq!(ledger.last_event_seq().await.unwrap(), 2);
}

/// The same signed request, submitted by another tenant: refused while the first tenant has it, and if it ever was in a
/// transaction; otherwise accepted as a request of its own, with nothing of the first one's.
pub(crate) async fn what_ended_untried_is_anothers_to_submit(store: &impl Store) {
    let ledger = store.open().await;
    let anothers = |n: u64| NewRequest { tenant: "zeta".into(), accepted_at: Timestamp(NOW.0 + 60_000), ..new(n) };
    accepted(&one(&*ledger, accept(with_key(1, "k", 1))).await);
    assert_eq!(duplicate(&one(&*ledger, accept(anothers(1))).await).tenant, "acme");
    one(&*ledger, ended(&[1], Status::Cancelled)).await;
    // If another instance drives the lanes, that one may not know about the end yet.
    let early = NewRequest { takes_over: false, ..anothers(1) };
    assert_eq!(duplicate(&one(&*ledger, accept(early)).await).tenant, "acme");
    // The first tenant still gets its first answer.
    assert_eq!(duplicate(&one(&*ledger, accept(new(1))).await).status, Status::Cancelled);
    let events = ledger.last_event_seq().await.unwrap();
    accepted(&one(&*ledger, accept(anothers(1))).await);
    assert_eq!(request(&*ledger, 1).await, stored(anothers(1), 2));
    assert_eq!(ledger.last_event_seq().await.unwrap(), events + 1);
    assert_eq!(ledger.counts().await.unwrap(), [(CHAIN, Status::Queued, 1)]);
    let spent = ledger.spent(0).await.unwrap();
    let held: Vec<_> = spent.iter().filter(|row| !row.reserved_wei.is_zero()).map(|row| &*row.tenant).collect();
    assert_eq!(held, ["zeta"]);
    let told = EventFilter { tenant: Some("acme".into()), limit: 9, ..EventFilter::default() };
    assert_eq!(ledger.events(&told).await.unwrap().len(), 2, "what happened to the first one's stays told");
    assert_eq!(duplicate(&one(&*ledger, accept(new(1))).await).tenant, "zeta");
    // Each has its own events, under the number of its acceptance.
    let of = async |seq: u64| {
        let events =
            ledger.events(&EventFilter { request: Some(seq), limit: 9, ..EventFilter::default() }).await.unwrap();
        events.into_iter().map(|event| (event.tenant, event.status)).collect::<Vec<_>>()
    };
    let told = |tenant: &str, status| (tenant.to_owned(), status);
    assert_eq!(of(1).await, [told("acme", Status::Queued), told("acme", Status::Cancelled)]);
    assert_eq!(of(2).await, [told("zeta", Status::Queued)]);
    // The first tenant's idempotency key belongs to no request any more: it is free for another body, and not bound to
    // the other tenant's request.
    assert_eq!(duplicate(&one(&*ledger, accept(with_key(1, "k", 1))).await).tenant, "zeta");
    assert_eq!(accepted(&one(&*ledger, accept(with_key(3, "k", 3))).await).request_id, id(3));

    // Late, and never in a transaction.
    accepted(&one(&*ledger, accept(new(4))).await);
    one(&*ledger, Write::Late { requests: vec![id(4)], at: Timestamp(NOW.0 + 30_000) }).await;
    one(&*ledger, ended(&[4], Status::Expired)).await;
    accepted(&one(&*ledger, accept(anothers(4))).await);

    // A request that was in a transaction may have to pay for it.
    accepted(&one(&*ledger, accept(new(2))).await);
    commit(&*ledger, vec![plan(0, &[2]), moved(0, BatchState::Broadcast, &[2], Status::Broadcast)]).await;
    commit(&*ledger, vec![moved(0, BatchState::Broadcast, &[2], Status::Queued), ended(&[2], Status::Expired)]).await;
    assert_eq!(request(&*ledger, 2).await.status, Status::Expired);
    assert_eq!(duplicate(&one(&*ledger, accept(anothers(2))).await).tenant, "acme");
}

/// A refused attempt leaves its idempotency key free: the same body under the same key is accepted once the other
/// tenant's request has ended.
pub(crate) async fn a_key_belongs_to_its_own_tenants_request(store: &impl Store) {
    let ledger = store.open().await;
    let anothers = |n: u64, body: u64| NewRequest { tenant: "zeta".into(), ..with_key(n, "z", body) };
    accepted(&one(&*ledger, accept(new(1))).await);
    assert_eq!(duplicate(&one(&*ledger, accept(anothers(1, 1))).await).tenant, "acme");
    one(&*ledger, ended(&[1], Status::Cancelled)).await;
    // In one commit, right after a key for the first tenant's request, and right before another body under that key.
    let writes = vec![accept(with_key(1, "k", 1)), accept(anothers(1, 1)), accept(with_key(2, "k", 2))];
    let outcomes = commit(&*ledger, writes).await;
    assert_eq!(duplicate(&outcomes[0]).status, Status::Cancelled);
    assert_eq!(accepted(&outcomes[1]).tenant, "zeta");
    assert_eq!(accepted(&outcomes[2]).request_id, id(2));
    assert_eq!(duplicate(&one(&*ledger, accept(anothers(1, 1))).await).tenant, "zeta");
    assert_eq!(duplicate(&one(&*ledger, accept(with_key(2, "k", 2))).await).id, id(2));
}

pub(crate) async fn a_missed_promise_is_told_once(store: &impl Store) {
    let ledger = store.open().await;
    commit(&*ledger, vec![accept(new(1)), accept(new(2)), ended(&[2], Status::Rejected)]).await;
    let late = |at: u64| Write::Late { requests: vec![id(1), id(2), id(3)], at: Timestamp(at) };
    let told = one(&*ledger, late(NOW.0 + 30_000)).await;
    let WriteOutcome::Applied(events) = told else { panic!("{told:?}") };
    let one_event = events.first().map(|event| (event.request_id, event.request_seq, event.status, event.reason));
    assert_eq!((events.len(), one_event), (1, Some((id(1), 2, Status::Queued, Some(Reason::PromiseMissed)))));
    assert_eq!(one(&*ledger, late(NOW.0 + 60_000)).await, WriteOutcome::Applied(Vec::new()));
    let expected = Timestamp(NOW.0 + 30_000);
    assert_eq!(
        request(&*ledger, 1).await,
        RequestRecord { late_at: Some(expected), updated_at: expected, ..stored(new(1), 1) }
    );
    // It continues, and stays late.
    one(&*ledger, ended(&[1], Status::Expired)).await;
    assert_eq!(request(&*ledger, 1).await.late_at, Some(expected));
}

pub(crate) async fn idempotency_key_answers_first(store: &impl Store) {
    let ledger = store.open().await;
    accepted(&one(&*ledger, accept(with_key(1, "k", 100))).await);
    // Same key and body: the first answer, even if the content came out different.
    assert_eq!(duplicate(&one(&*ledger, accept(with_key(2, "k", 100))).await).id, id(1));
    let conflict = WriteOutcome::Accept(AcceptOutcome::IdempotencyConflict { existing: id(1) });
    assert_eq!(one(&*ledger, accept(with_key(2, "k", 101))).await, conflict);
    // The key is checked before the id.
    assert_eq!(one(&*ledger, accept(with_key(1, "k", 101))).await, conflict);
    // Keys are scoped to the tenant.
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

pub(crate) async fn sequence_has_one_holder(store: &impl Store) {
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

pub(crate) async fn sequence_is_released_and_taken_in_one_commit(store: &impl Store) {
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

/// Usage by some keys, without reading every request: open requests one by one, ended ones as sums.
pub(crate) async fn use_of_keys_is_counted(store: &impl Store) {
    let ledger = store.open().await;
    let large = U256::from(10).pow(U256::from(70));
    let at = |n: u64, key: &str, ago_ms: u64| NewRequest {
        submitted_by: Some(key.to_owned()),
        accepted_at: Timestamp(NOW.0 - ago_ms),
        ..new(n)
    };
    let others = NewRequest { tenant: "zeta".into(), ..at(9, "web-1", 0) };
    let elsewhere = NewRequest { chain_id: 1, ..at(10, "web-1", 0) };
    let writes = [
        at(7, "web-1", 5 * HOUR_MS),
        at(1, "web-1", 4 * HOUR_MS),
        at(2, "web-1", HOUR_MS),
        at(3, "web-1", 10),
        at(4, "web-1", 10),
        at(5, "web-2", 10),
        at(6, "own", 10),
        NewRequest { submitted_by: None, ..at(8, "", 10) },
        others,
        elsewhere,
    ];
    for outcome in &commit(&*ledger, writes.into_iter().map(accept).collect()).await {
        accepted(outcome);
    }
    one(&*ledger, plan(0, &[1, 2, 3])).await;
    let mut settled = moved(0, BatchState::Finalized, &[1, 2, 3], Status::Finalized);
    if let Write::Batch { changes, cost_wei, .. } = &mut settled {
        let costs = [U256::from(5), large, large + U256::from(999_999_999)];
        changes.iter_mut().zip(costs).for_each(|(change, cost)| change.charged_wei = cost);
        *cost_wei = Some(costs.into_iter().sum());
    }
    applied(&one(&*ledger, settled).await);
    one(&*ledger, ended(&[6, 8, 9, 10], Status::Cancelled)).await;
    let keys = ["web-1", "web-2", "none"].map(std::sync::Arc::from).into();
    let since = |hours: u64| Timestamp(NOW.0 - hours * HOUR_MS);
    let used = ledger.used_by_keys("acme", &keys, [since(0), since(2)]).await.unwrap();
    let open = |n: u64, key: &str, ago_ms: u64| OpenByKey {
        key: key.to_owned(),
        id: id(n),
        chain_id: CHAIN,
        accepted_at: Timestamp(NOW.0 - ago_ms),
        reserved_wei: U256::from(1_000),
    };
    let both = large + large + U256::from(999_999_999);
    let ended = |chain_id: u64, since: [(u64, U256); 2]| EndedByKey { key: "web-1".to_owned(), chain_id, since };
    let expected = KeyUse {
        open: vec![open(7, "web-1", 5 * HOUR_MS), open(4, "web-1", 10), open(5, "web-2", 10)],
        ended: vec![ended(1, [(1, U256::ZERO), (1, U256::ZERO)]), ended(CHAIN, [(0, U256::ZERO), (2, both)])],
    };
    assert_eq!(used, expected);
    // Each instant separately, and from the beginning.
    let used = ledger.used_by_keys("acme", &keys, [since(3), Timestamp(0)]).await.unwrap();
    assert_eq!(used.ended[1].since, [(2, both), (3, both + U256::from(5))]);
    assert_eq!(ledger.used_by_keys("acme", &Default::default(), [since(0); 2]).await.unwrap(), KeyUse::default());
}
