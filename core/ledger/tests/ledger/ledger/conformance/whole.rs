//! Commits, decisions, budgets, events, lists.

use super::*;

pub(crate) async fn refused_write_spares_its_neighbours(store: &impl Store) {
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

pub(crate) async fn decisions_are_a_sequence(store: &impl Store) {
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

pub(crate) async fn decisions_are_linked_in_the_commit(store: &impl Store) {
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

/// A send that belongs to a refused plan is not logged.
pub(crate) async fn of_a_refused_plan_nothing_is_told(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    let decide = |decision: Decision| Write::Decide { owner: "us".into(), at_ms: 1, decision: Box::new(decision) };
    let sent = |n: u64| decide(Decision::Sent { batch: B256::ZERO, attempt: attempt(n, 0).hash });
    let alert = || decide(Decision::Alert { code: "c".to_owned(), subject: String::new(), detail: String::new() });
    let outcomes =
        commit(&*ledger, vec![plan(5, &[99]), sent(5), alert(), plan(6, &[1]), sent(6), plan(6, &[1]), sent(6)]).await;
    refused(&outcomes[0], "is unknown");
    applied(&outcomes[3]);
    refused(&outcomes[5], "exists");
    let told = ledger.decisions(0, 10).await.unwrap();
    let told: Vec<Decision> = told.iter().map(|row| Decision::decode(&row.body).unwrap()).collect();
    assert!(
        matches!(&told[..], [Decision::Alert { .. }, Decision::Sent { attempt: hash, .. }] if *hash == attempt(6, 0).hash),
        "{told:?}"
    );
}

pub(crate) async fn budgets_are_checked_in_the_commit(store: &impl Store) {
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
    // A refused request leaves nothing behind: its nonce is free, and so is its key.
    applied(&one(&*ledger, ended(&[1], Status::Expired)).await);
    accepted(&one(&*ledger, limited(3)).await);
    assert_eq!(one(&*ledger, limited(4)).await, exhausted(500));
}

pub(crate) async fn writes_without_a_lease_are_fenced(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    let fence = Fence { chain_id: CHAIN, token: 7 };
    let outcomes = commit(&*ledger, vec![Write::Fenced(fence, Box::new(plan(0, &[1]))), plan(1, &[1])]).await;
    assert_eq!(outcomes[0], WriteOutcome::Fenced { token: 7, in_force: None });
    assert_eq!(statuses(&outcomes[1]), [Status::Batched]);
}

pub(crate) async fn meta_is_overwritten(store: &impl Store) {
    let ledger = store.open().await;
    let set = |key: &str, value: &str| Write::Meta { key: key.to_owned(), value: value.to_owned() };
    assert_eq!(ledger.meta("a").await.unwrap(), None);
    commit(&*ledger, vec![set("a", "1"), set("b", "2"), set("a", "3")]).await;
    assert_eq!(ledger.meta("a").await.unwrap().as_deref(), Some("3"));
    one(&*ledger, set("a", "")).await;
    assert_eq!(ledger.meta("a").await.unwrap().as_deref(), Some(""));
    assert_eq!(ledger.meta("b").await.unwrap().as_deref(), Some("2"));
}

pub(crate) async fn what_targets_showed_survives(store: &impl Store) {
    let ledger = store.open().await;
    assert!(ledger.targets(CHAIN).await.unwrap().is_empty());
    let record = |n: u8, seen_at: u64| TargetRecord {
        clean_runs: u64::from(n),
        surprises: 7,
        suspect_until: Timestamp(u64::MAX),
        shown_by: (n > 1).then_some(B256::repeat_byte(n)),
        ..TargetRecord::new(Address::repeat_byte(n), Timestamp(seen_at))
    };
    let set = |chain_id: u64, records: Vec<TargetRecord>| Write::Targets { chain_id, records };
    let writes = vec![
        set(CHAIN, vec![record(1, 30), record(2, 10), record(3, 20)]),
        set(1, vec![record(1, 5)]),
        // The same record again in the same commit, and one that is deleted before it was stored.
        set(CHAIN, vec![record(1, 40), TargetRecord::new(Address::repeat_byte(9), NOW)]),
    ];
    commit(&*ledger, writes).await;
    ledger.close().await;
    let ledger = store.open().await;
    assert_eq!(ledger.targets(CHAIN).await.unwrap(), [record(2, 10), record(3, 20), record(1, 40)], "the oldest first");
    assert_eq!(ledger.targets(1).await.unwrap(), [record(1, 5)]);
    // Many at a time: some changed, some deleted, some new.
    let gone = |n: u8| TargetRecord::new(Address::repeat_byte(n), NOW);
    let mut records = vec![gone(2), TargetRecord { clean_runs: 1, ..record(3, 60) }];
    records.extend((10..=210).map(|n| record(n, u64::from(n) + 100)));
    one(&*ledger, set(CHAIN, records)).await;
    let found = ledger.targets(CHAIN).await.unwrap();
    assert_eq!((found.len(), found[0], found[1].clean_runs), (203, record(1, 40), 1));
    let records = (10..=210).map(gone).collect();
    one(&*ledger, set(CHAIN, records)).await;
    assert_eq!(ledger.targets(CHAIN).await.unwrap().len(), 2);
    assert_eq!(ledger.targets(1).await.unwrap().len(), 1);
}

pub(crate) async fn events_have_no_gaps(store: &impl Store) {
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
    let of_one = read(EventFilter { request: Some(4), limit: 10, ..EventFilter::default() }).await;
    assert_eq!(of_one.iter().map(|event| event.request_seq).collect::<Vec<_>>(), [1, 2, 3]);
    let of_tenant = read(EventFilter { tenant: Some("zeta".into()), limit: 10, ..EventFilter::default() }).await;
    assert_eq!(of_tenant, of_one);
    let rest = read(EventFilter { after: u64::MAX, limit: 10, ..EventFilter::default() }).await;
    assert_eq!(rest, []);
    let unknown = read(EventFilter { request: Some(99), limit: 10, ..EventFilter::default() }).await;
    assert_eq!(unknown, []);
}

pub(crate) async fn requests_are_listed(store: &impl Store) {
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
        (RequestFilter { from: Some(4), ..base.clone() }, vec![5, 4]),
        (RequestFilter { from: Some(9), before: Some(3), ..base.clone() }, vec![]),
        (RequestFilter { skip: 1, ..base.clone() }, vec![4, 3, 2, 1]),
        (RequestFilter { skip: 1, limit: 2, before: Some(5), from: Some(2), ..base.clone() }, vec![3, 2]),
        (RequestFilter { skip: 1, status: Some(Status::Cancelled), ..base.clone() }, vec![2]),
        (RequestFilter { skip: 5, ..base.clone() }, vec![]),
        (RequestFilter { limit: 0, ..base }, vec![]),
    ] {
        let found = ledger.requests(&filter).await.unwrap();
        assert_eq!(found.iter().map(|record| record.seq).collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let newest = &ledger.requests(&RequestFilter { limit: 1, ..RequestFilter::default() }).await.unwrap()[0];
    assert_eq!(newest.payload, new(5).payload);
}

/// However few rows match, a page scans a limited number of rows; page by page all are found, once each.
pub(crate) async fn a_list_of_few_ends_early_and_goes_on(store: &impl Store) {
    let ledger = store.open().await;
    let zeta = |n| accept(NewRequest { tenant: "zeta".into(), ..new(n) });
    for n in 1..=12 {
        accepted(&one(&*ledger, if n % 3 == 0 { zeta(n) } else { accept(new(n)) }).await);
    }
    one(&*ledger, ended(&[1, 2, 3, 11], Status::Cancelled)).await;
    let status = Some(Status::Cancelled);
    let acme = RequestFilter { tenant: Some("acme".to_owned()), ..RequestFilter::default() };
    let all = RequestFilter { limit: 10, ..RequestFilter::default() };
    for (filter, rows, expected) in [
        // Of the tenant's own eight, three at a time.
        (RequestFilter { status, limit: 10, ..acme.clone() }, 3, vec![vec![11], vec![], vec![2, 1]]),
        (RequestFilter { status, limit: 10, ..acme.clone() }, 8, vec![vec![11, 2, 1]]),
        (RequestFilter { status, limit: 10, ..acme.clone() }, 4, vec![vec![11], vec![2, 1]]),
        (RequestFilter { status, limit: 1, ..acme }, 7, vec![vec![11], vec![2], vec![1]]),
        (RequestFilter { chain_id: Some(7), ..all.clone() }, 5, vec![vec![], vec![], vec![]]),
        (
            RequestFilter { chain_id: Some(CHAIN), ..all.clone() },
            6,
            vec![(7..=12).rev().collect(), (1..=6).rev().collect()],
        ),
        (RequestFilter { chain_id: Some(CHAIN), status, ..all }, 3, vec![vec![11, 3, 2], vec![1]]),
    ] {
        let mut pages = Vec::new();
        let mut filter = filter;
        loop {
            let beyond = filter.beyond(rows).expect("it is looked through");
            let next = ledger.requests(&beyond).await.unwrap().first().map(|record| record.seq);
            filter.from = next.map(|seq| seq + 1);
            let page = ledger.requests(&filter).await.unwrap();
            let seqs: Vec<_> = page.iter().map(|record| record.seq).collect();
            let is_full = seqs.len() == filter.limit;
            filter.before = if is_full { seqs.last().copied() } else { filter.from };
            if !seqs.is_empty() || !is_full {
                pages.push(seqs);
            }
            if filter.before.is_none() {
                break;
            }
            assert!(pages.len() < 10, "{pages:?}");
        }
        // After a full page the next may be empty.
        while pages.len() > expected.len() && pages.last().is_some_and(Vec::is_empty) {
            pages.pop();
        }
        assert_eq!(pages, expected, "{filter:?}");
    }
    for filter in [
        RequestFilter::default(),
        RequestFilter { status, ..RequestFilter::default() },
        RequestFilter { tenant: Some("acme".to_owned()), ..RequestFilter::default() },
    ] {
        assert_eq!(filter.beyond(1), None, "all that it looks at matches");
    }
}

pub(crate) async fn requests_are_found_by_id(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1_100).await;
    one(&*ledger, ended(&[2], Status::Cancelled)).await;
    let (unknown, known) = (new(2_000).id, new(1).id);
    let found = ledger.requests_by_id(&[unknown, known]).await.unwrap();
    assert_eq!(found, [stored(new(1), 1)], "with its payload");
    assert!(ledger.requests_by_id(&[]).await.unwrap().is_empty());
    // More than one query can name; what has ended is among them.
    let all: Vec<_> = (1..=1_100).map(|n| new(n).id).collect();
    let found: BTreeSet<_> = ledger.requests_by_id(&all).await.unwrap().iter().map(|record| record.id).collect();
    assert_eq!(found, all.into_iter().collect());
}

pub(crate) async fn open_requests_are_paged(store: &impl Store) {
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

pub(crate) async fn running_numbers_agree(store: &impl Store) {
    let ledger = store.open().await;
    assert_eq!(ledger.counts().await.unwrap(), []);
    assert_eq!(ledger.spent(0).await.unwrap(), []);
    // Up and back to zero, in two commits, leaves no zero rows.
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
    // Inclusion is not the end: still the whole reservation.
    assert_eq!(ledger.spent(0).await.unwrap(), [row("acme", CHAIN, 4_000, 0), zeta.clone()]);
    let writes = vec![included(BatchState::Finalized, Status::Finalized, 5), ended(&[3], Status::Cancelled)];
    commit(&*ledger, writes).await;
    assert_eq!(ledger.spent(0).await.unwrap(), [row("acme", CHAIN, 2_000, 700), zeta.clone()]);
    // Whole hours: rounded down, so that it is never too little.
    assert_eq!(ledger.spent(NOW.0).await.unwrap(), [row("acme", CHAIN, 2_000, 700), zeta]);
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

pub(crate) async fn large_commits_cross_chunks(store: &impl Store) {
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
    assert_eq!(stored_members, members.iter().copied().map(member).collect::<Vec<_>>());
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
    assert_eq!(ledger.open_batches(lane(), 0, usize::MAX).await.unwrap().len(), 101);
    assert_eq!(ledger.open_requests(CHAIN, 0, usize::MAX).await.unwrap().len(), 700);
}

pub(crate) async fn reopening_changes_nothing(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=5).await;
    commit(&*ledger, vec![plan(0, &[1, 2]), Write::Decision(decision(1)), ended(&[3], Status::Expired)]).await;
    one(&*ledger, moved(0, BatchState::Broadcast, &[1, 2], Status::Broadcast)).await;
    let before = snapshot(&*ledger).await;
    ledger.close().await;
    drop(ledger);
    let ledger = store.open().await;
    assert_eq!(snapshot(&*ledger).await, before);
    // Numbers continue where they stopped.
    let outcomes = commit(&*ledger, vec![accept(new(6)), plan(1, &[6]), Write::Decision(decision(2))]).await;
    assert!(matches!(&outcomes[0], WriteOutcome::Accept(AcceptOutcome::Accepted { seq: 6, event }) if event.seq == 11));
    applied(&outcomes[1]);
    applied(&outcomes[2]);
    duplicate(&one(&*ledger, accept(new(1))).await);
}

pub(crate) async fn empty_commit_is_nothing(store: &impl Store) {
    let ledger = store.open().await;
    assert_eq!(commit(&*ledger, vec![]).await, []);
    assert_eq!(commit(&*ledger, vec![ended(&[], Status::Expired)]).await, [WriteOutcome::Applied(vec![])]);
    assert_eq!(ledger.last_event_seq().await.unwrap(), 0);
}

pub(crate) async fn closed_ledger_refuses(store: &impl Store) {
    use slackwater_ledger::LedgerError;

    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    ledger.close().await;
    ledger.close().await;
    assert!(matches!(ledger.commit(vec![accept(new(2))]).await, Err(LedgerError::Closed)));
    assert!(matches!(ledger.request(id(1)).await, Err(LedgerError::Closed)));
    assert!(matches!(ledger.open_batches(lane(), 0, usize::MAX).await, Err(LedgerError::Closed)));
    // Its storage can be opened again at once.
    assert_eq!(store.open().await.last_event_seq().await.unwrap(), 1);
}
