//! Batches and their members.

use super::*;

pub(crate) async fn plan_binds_members(store: &impl Store) {
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
    let open = ledger.open_batches(lane(), 0, usize::MAX).await.unwrap();
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

pub(crate) async fn plan_is_refused(store: &impl Store) {
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

/// The refusal names the ended members, so that the others can be planned without them at once.
pub(crate) async fn a_plan_names_its_members_that_have_ended(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=4).await;
    applied(&one(&*ledger, ended(&[2], Status::Cancelled)).await);
    let before = snapshot(&*ledger).await;
    let gone = |members: &[u64]| WriteOutcome::MembersEnded(members.iter().copied().map(id).collect());
    assert_eq!(one(&*ledger, plan(5, &[1, 2, 3])).await, gone(&[2]));
    assert_eq!(snapshot(&*ledger).await, before);
    // Errors in the plan itself take precedence.
    refused(&one(&*ledger, plan(5, &[1, 2, 99])).await, "is unknown");
    let outcomes =
        commit(&*ledger, vec![ended(&[3, 4], Status::Cancelled), plan(5, &[3, 2, 1, 4]), plan(5, &[1])]).await;
    assert_eq!(outcomes[1], gone(&[3, 2, 4]));
    applied(&outcomes[2]);
}

/// A batch that no node can hold gets new content under the same nonce, once its members have left it.
pub(crate) async fn what_every_node_refused_makes_way(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=4).await;
    applied(&one(&*ledger, plan(5, &[1, 2, 3])).await);
    applied(&one(&*ledger, plan(6, &[4])).await);
    let again = |index: u32, members: &[u64], left: &[u64]| {
        let mut plan = planned(5, members);
        (plan.attempt, plan.left) = (attempt(5, index), left.iter().copied().map(id).collect());
        plan.batch.gas_limit = 100_000;
        Write::Plan(Box::new(plan))
    };
    refused(&one(&*ledger, again(1, &[], &[1, 2, 3])).await, "is in it");
    applied(&one(&*ledger, moved(5, BatchState::Signed, &[1, 2, 3], Status::Queued)).await);
    refused(&one(&*ledger, again(2, &[1], &[1, 2, 3])).await, "index 2");
    let outcome = one(&*ledger, again(1, &[1, 2], &[1, 2, 3])).await;
    assert_eq!(statuses(&outcome), [Status::Batched, Status::Batched]);
    let (batch, attempts, members) = ledger.batch(batch_id(5)).await.unwrap().unwrap();
    assert_eq!((batch.gas_limit, attempts.len(), members), (100_000, 2, vec![member(1), member(2)]));
    ledger.close().await;
    let ledger = store.open().await;
    let open = ledger.open_batches(lane(), 0, usize::MAX).await.unwrap();
    assert_eq!((open.len(), &open[0].2), (2, &vec![member(1), member(2)]), "as after a restart");
    let earlier = ledger.earlier_members(batch_id(5)).await.unwrap();
    assert_eq!(earlier, [(1, vec![member(1), member(2), member(3)])], "a node may have kept it");
    assert_eq!(ledger.earlier_members(batch_id(6)).await.unwrap(), []);
    assert_eq!(request(&*ledger, 3).await.batch, None);
    applied(&one(&*ledger, Write::Attempt(Box::new(attempt(5, 2)))).await);
    // A request that left is executed by the kept transaction: only its batch may report that, and only explicitly.
    let mut kept = RequestChange::to(id(3), Status::Finalized);
    kept.tx_hash = Some(attempt(5, 0).hash);
    let told = |change: &RequestChange, at| Write::Batch {
        id: at,
        state: BatchState::Signed,
        included_hash: None,
        block: None,
        gas_used: None,
        cost_wei: None,
        bill: None,
        changes: vec![change.clone()],
        at: NOW,
    };
    assert_eq!(applied(&one(&*ledger, told(&kept, batch_id(5))).await), []);
    kept.reach = slackwater_ledger::Reach::Anywhere;
    assert_eq!(statuses(&one(&*ledger, told(&kept, batch_id(5))).await), [Status::Finalized]);
    // A batch in a block keeps its content.
    applied(&one(&*ledger, moved(5, BatchState::Included, &[1, 2], Status::Included)).await);
    refused(&one(&*ledger, again(3, &[3], &[1, 2])).await, "index 3");
}

/// A member that expired when every node refused its batch is not moved, and the nonce gets new content all the same.
pub(crate) async fn who_ended_with_a_refused_plan_keeps_no_nonce(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=3).await;
    applied(&one(&*ledger, plan(5, &[1, 2])).await);
    applied(&one(&*ledger, moved(5, BatchState::Signed, &[1], Status::Queued)).await);
    applied(&one(&*ledger, moved(5, BatchState::Signed, &[2], Status::Expired)).await);
    let mut next = planned(5, &[3]);
    (next.attempt, next.left) = (attempt(5, 1), vec![id(1), id(2)]);
    assert_eq!(statuses(&one(&*ledger, Write::Plan(Box::new(next))).await), [Status::Batched]);
    assert_eq!(ledger.batch(batch_id(5)).await.unwrap().unwrap().2, [member(3)]);
    assert_eq!(request(&*ledger, 2).await.status, Status::Expired);
}

pub(crate) async fn nonces_skip_and_holes_are_filled(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=3).await;
    // A stranger consumed 6 to 8; a hole below is filled with an empty batch.
    let outcomes = commit(&*ledger, vec![plan(5, &[1]), plan(9, &[2]), plan(7, &[]), plan(8, &[3])]).await;
    for outcome in &outcomes[..3] {
        applied(outcome);
    }
    refused(&outcomes[3], "is not above 9 (I4)");
    assert_eq!(ledger.next_nonce(lane()).await.unwrap(), Some(10));
    let open = ledger.open_batches(lane(), 0, usize::MAX).await.unwrap();
    assert_eq!(open.iter().map(|(batch, _, _)| batch.id.nonce).collect::<Vec<_>>(), [5, 7, 9]);
    applied(&one(&*ledger, plan(6, &[])).await);
    refused(&one(&*ledger, plan(9, &[3])).await, "exists");
    applied(&one(&*ledger, plan(10, &[3])).await);
}

pub(crate) async fn attempts_are_appended(store: &impl Store) {
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
    // Writing known bytes again changes nothing.
    assert_eq!(applied(&one(&*ledger, write(attempt(0, 1))).await), []);
    // Attempts of one commit see each other.
    let outcomes = commit(&*ledger, vec![write(attempt(1, 1)), write(attempt(1, 1)), write(attempt(1, 2))]).await;
    outcomes.iter().for_each(|outcome| assert_eq!(applied(outcome), []));
    assert_eq!(ledger.batch(batch_id(1)).await.unwrap().unwrap().1.len(), 3);
}

/// A [`Write::Batch`] with every fact.
pub(crate) async fn batch_moves_its_members(store: &impl Store) {
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
        gas_used: Some(45_000),
        tx_hash: Some(attempt(0, 0).hash),
        block_number: Some(5),
        ..stored(new(1), 1)
    };
    assert_eq!(record, expected);
    // Known facts need not be repeated at the end.
    one(&*ledger, moved(0, BatchState::Finalized, &[1], Status::Finalized)).await;
    let finalized = request(&*ledger, 1).await;
    assert_eq!((finalized.status, finalized.updated_at), (Status::Finalized, NOW));
    let expected = RequestRecord { status: Status::Finalized, updated_at: NOW, ..expected };
    assert_eq!(finalized, expected);
    assert!(ledger.open_batches(lane(), 0, usize::MAX).await.unwrap().is_empty());
}

pub(crate) async fn batch_write_repeated_is_harmless(store: &impl Store) {
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
    // The cost is borne once: by the charged member, and by the account.
    assert_eq!(request(&*ledger, 1).await.cost_wei, Some(U256::from(350)));
    let spent: U256 = ledger.spent(0).await.unwrap().into_iter().map(|row| row.spent_wei).sum();
    let accounts = ledger.accounts().await.unwrap();
    assert_eq!((spent, accounts.len()), (U256::from(700), 1));
    assert_eq!((accounts[0].account, accounts[0].wei), (CostAccount::Overrun, U256::from(350)));
    assert_eq!(accounts[0].tenant.as_deref(), Some("acme"));
    // A final batch keeps its facts, and may still settle its last members.
    let late = moved(0, BatchState::Finalized, &[2], Status::Reverted);
    assert_eq!(statuses(&one(&*ledger, late).await), [Status::Reverted]);
    let (batch, _, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
    assert_eq!(batch.cost_wei, Some(U256::from(700)));
}

pub(crate) async fn batch_state_never_goes_back(store: &impl Store) {
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

pub(crate) async fn reorganisation_takes_back_inclusion(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    one(&*ledger, plan(0, &[1])).await;
    one(&*ledger, included(BatchState::Included, Status::Included, 5)).await;
    // Directly into another block: the same status, so no event, but the facts are new.
    assert_eq!(applied(&one(&*ledger, included(BatchState::Included, Status::Included, 6)).await), []);
    assert_eq!(request(&*ledger, 1).await.block_number, Some(6));
    let outcome = one(&*ledger, moved(0, BatchState::Broadcast, &[1], Status::Broadcast)).await;
    assert_eq!(statuses(&outcome), [Status::Broadcast]);
    let record = request(&*ledger, 1).await;
    assert_eq!((record.tx_hash, record.block_number, record.gas_used), (None, None, None));
    let (batch, _, _) = ledger.batch(batch_id(0)).await.unwrap().unwrap();
    assert_eq!((batch.block, batch.cost_wei, batch.gas_used, batch.included_hash), (None, None, None, None));
    assert_eq!(ledger.open_batches(lane(), 0, usize::MAX).await.unwrap().len(), 1);
}

/// The cost of a final transaction must equal the amounts borne by requests and accounts, to the wei, or nothing is
/// written.
pub(crate) async fn a_bill_that_does_not_add_up_is_refused(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    one(&*ledger, plan(0, &[1])).await;
    for (charged, value) in [(349, 0), (351, 0), (350, 1)] {
        let mut write = included(BatchState::Finalized, Status::Finalized, 5);
        if let Write::Batch { changes, bill: Some(bill), .. } = &mut write {
            changes[0].charged_wei = U256::from(charged);
            bill.value_wei = U256::from(value);
        }
        refused(&one(&*ledger, write).await, "700 wei");
        assert_eq!(request(&*ledger, 1).await.status, Status::Batched);
    }
    applied(&one(&*ledger, included(BatchState::Finalized, Status::Finalized, 5)).await);
}

/// The cost of somebody else's transaction with a nonce of a lane is borne by the operator, once, and counts against no
/// budget.
pub(crate) async fn what_a_stranger_took_is_booked_once(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    one(&*ledger, plan(0, &[1])).await;
    let of = |value: u64| {
        let mut write = lost(0, 1);
        if let Write::Batch { cost_wei, gas_used, bill, .. } = &mut write {
            (*cost_wei, *gas_used) = (Some(U256::from(700)), Some(21_000));
            let entry = AccountEntry { account: CostAccount::Foreign, tenant: None, wei: U256::from(750) };
            *bill = Some(Box::new(Bill { value_wei: U256::from(value), accounts: vec![entry] }));
        }
        write
    };
    refused(&one(&*ledger, of(51)).await, "751 wei");
    assert_eq!(statuses(&one(&*ledger, of(50)).await), [Status::Queued]);
    let accounts = ledger.accounts().await.unwrap();
    assert_eq!(applied(&one(&*ledger, of(50)).await), []);
    assert_eq!(ledger.accounts().await.unwrap(), accounts);
    let row = AccountRow { chain_id: CHAIN, account: CostAccount::Foreign, tenant: None, wei: U256::from(750) };
    assert_eq!(accounts, [row]);
    let record = request(&*ledger, 1).await;
    assert_eq!((record.status, record.cost_wei), (Status::Queued, None));
    let spent: U256 = ledger.spent(0).await.unwrap().into_iter().map(|row| row.spent_wei).sum();
    assert_eq!(spent, U256::ZERO);
}

/// A price is a percentage of the cost. Budgets count the larger of the two, and the difference is on accounts of its
/// own.
pub(crate) async fn a_price_stands_beside_the_cost(store: &impl Store) {
    let ledger = store.open().await;
    let priced = |(n, price_percent)| accept(NewRequest { price_percent, ..new(n) });
    commit(&*ledger, [(1, 150), (2, 50), (3, 100), (4, 0), (5, 150)].map(priced).into()).await;
    one(&*ledger, plan(0, &[1, 2, 3, 4])).await;
    let mut settled = moved(0, BatchState::Finalized, &[1, 2, 3, 4], Status::Finalized);
    if let Write::Batch { changes, cost_wei, .. } = &mut settled {
        changes.iter_mut().for_each(|change| change.charged_wei = U256::from(101));
        *cost_wei = Some(U256::from(404));
    }
    commit(&*ledger, vec![settled, Write::Summary { owner: "owner".into(), at: NOW }]).await;
    let wei = |wei: [u64; 4]| wei.map(U256::from);
    for (n, price) in (1..).zip(wei([152, 51, 101, 0])) {
        let record = request(&*ledger, n).await;
        assert_eq!((record.cost_wei, record.price_wei()), (Some(U256::from(101)), Some(price)));
    }
    assert_eq!(request(&*ledger, 5).await.price_wei(), None);
    let spent = ledger.spent(0).await.unwrap();
    assert_eq!((spent[0].reserved_wei, spent[0].spent_wei), (U256::from(1_000), U256::from(455)));
    let costs = ledger.costs_of("acme", Timestamp(0), 0, 10).await.unwrap();
    assert_eq!(costs.iter().map(|row| row.counted_wei).collect::<Vec<_>>(), wei([152, 101, 101, 101]));
    let used = ledger.used_by_keys("acme", &[Arc::from("web-1")].into(), [Timestamp(0); 2]).await.unwrap();
    assert_eq!(used.ended[0].since, [(4, U256::from(455)); 2]);
    let (margin_wei, rebate_wei) = (U256::from(51), U256::from(50 + 101));
    let margins = [MarginRow { tenant: "acme".to_owned(), chain_id: CHAIN, margin_wei, rebate_wei }];
    assert_eq!(ledger.margins().await.unwrap(), margins);
    assert_eq!(ledger.accounts().await.unwrap(), [], "no part of what left the lanes");
    let rows = ledger.decisions(0, 10).await.unwrap();
    let Ok(Decision::Settled { requests: ended }) = Decision::decode(&rows.last().unwrap().body) else {
        panic!("{rows:?}");
    };
    let prices = ended.iter().map(|ended| (ended.request, (ended.cost_wei, ended.price_wei)));
    let expected = (1..).zip([Some(152), Some(51), None, Some(0)]).map(|(n, price)| (id(n).0, (101, price)));
    assert_eq!(prices.collect::<BTreeMap<_, _>>(), expected.collect());
    let limit_wei = U256::from(2_454);
    let budget = Some(BudgetLimit { limit_wei, since: Timestamp(0) });
    let (needed_wei, available_wei) = (U256::from(1_000), U256::from(999));
    let refused = AcceptOutcome::BudgetExhausted { needed_wei, available_wei, limit_wei };
    assert_eq!(one(&*ledger, accept(NewRequest { budget, ..new(6) })).await, WriteOutcome::Accept(refused));
}

/// Costs of transactions that did not end their members stay with the members.
pub(crate) async fn costs_add_up_over_transactions(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=1).await;
    for (nonce, state, to) in
        [(0, BatchState::Cancelled, Status::Queued), (1, BatchState::Finalized, Status::Finalized)]
    {
        one(&*ledger, plan(nonce, &[1])).await;
        let mut write = moved(nonce, state, &[1], to);
        if let Write::Batch { changes, cost_wei, .. } = &mut write {
            changes[0].charged_wei = U256::from(40 + nonce);
            *cost_wei = Some(U256::from(40 + nonce));
        }
        applied(&one(&*ledger, write).await);
    }
    assert_eq!(request(&*ledger, 1).await.cost_wei, Some(U256::from(81)));
    let spent = ledger.spent(0).await.unwrap();
    assert_eq!((spent[0].reserved_wei, spent[0].spent_wei), (U256::ZERO, U256::from(81)));
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

pub(crate) async fn members_go_back_to_the_queue(store: &impl Store) {
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
    // The batch's history stays.
    assert_eq!(ledger.batch(batch_id(0)).await.unwrap().unwrap().2, [member(1)]);
    applied(&one(&*ledger, plan(1, &[1])).await);
    assert_eq!(request(&*ledger, 1).await.reason, None);
}

pub(crate) async fn old_batch_cannot_touch_new_membership(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=2).await;
    one(&*ledger, plan(0, &[1])).await;
    one(&*ledger, lost(0, 1)).await;
    one(&*ledger, plan(1, &[1])).await;
    // A repeated write about batch 0 must not free a request that batch 1 has signed (I1).
    assert_eq!(applied(&one(&*ledger, lost(0, 1)).await), []);
    // Nor may a batch move a request that was never in it.
    assert_eq!(applied(&one(&*ledger, moved(1, BatchState::Signed, &[2], Status::Rejected)).await), []);
    let record = request(&*ledger, 1).await;
    assert_eq!((record.status, record.batch, record.batch_failures), (Status::Batched, Some(batch_id(1)), 1));
    assert_eq!(request(&*ledger, 2).await.status, Status::Queued);
}

pub(crate) async fn changes_outside_batches(store: &impl Store) {
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
    // Unknown, ended, in a batch by now, or a change that this write does not support: skipped.
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
    // A skipped change does not stop the others.
    assert_eq!(statuses(&one(&*ledger, ended(&[4, 5, 99], Status::Expired)).await), [Status::Expired]);
}

/// A request that left a transaction early may yet be executed by it, so its owner can't withdraw it until that is
/// final.
pub(crate) async fn what_a_transaction_may_yet_execute_is_not_withdrawn(store: &impl Store) {
    let ledger = store.open().await;
    accept_all(&*ledger, 1..=6).await;
    // Left out by a block; left after a refusal, with the nonce taken by another; planned and left in one commit.
    commit(&*ledger, vec![plan(5, &[1, 2]), plan(6, &[3])]).await;
    applied(&one(&*ledger, moved(5, BatchState::Included, &[1], Status::Queued)).await);
    applied(&one(&*ledger, moved(6, BatchState::Signed, &[3], Status::Queued)).await);
    let mut next = planned(6, &[4]);
    (next.attempt, next.left) = (attempt(6, 1), vec![id(3)]);
    applied(&one(&*ledger, Write::Plan(Box::new(next))).await);
    let withdrawn = |n: u64| ended(&[n], Status::Cancelled);
    let at_once = vec![plan(7, &[5]), moved(7, BatchState::Broadcast, &[5], Status::Queued), withdrawn(5)];
    assert_eq!(applied(&commit(&*ledger, at_once).await[2]), []);
    let before = snapshot(&*ledger).await;
    for n in [1, 3, 5] {
        assert_eq!(request(&*ledger, n).await.status, Status::Queued);
        assert_eq!(applied(&one(&*ledger, withdrawn(n)).await), []);
    }
    assert_eq!(snapshot(&*ledger).await, before);
    ledger.close().await;
    let ledger = store.open().await;
    assert_eq!(applied(&one(&*ledger, withdrawn(1)).await), [], "as after a restart");
    // They continue, some in another transaction.
    applied(&one(&*ledger, plan(8, &[1])).await);
    applied(&one(&*ledger, moved(8, BatchState::Lost, &[1], Status::Queued)).await);
    assert_eq!(applied(&one(&*ledger, withdrawn(1)).await), [], "the first one is not final");
    // The outcome is known at last: from before, or in the same commit.
    applied(&one(&*ledger, moved(5, BatchState::Finalized, &[2], Status::Finalized)).await);
    assert_eq!(statuses(&one(&*ledger, withdrawn(1)).await), [Status::Cancelled]);
    let outcomes =
        commit(&*ledger, vec![withdrawn(3), moved(6, BatchState::Cancelled, &[], Status::Queued), withdrawn(3)]).await;
    assert_eq!((applied(&outcomes[0]), statuses(&outcomes[2])), (&[][..], vec![Status::Cancelled]));
    // Other requests are not affected.
    assert_eq!(statuses(&one(&*ledger, withdrawn(6)).await), [Status::Cancelled]);
}
