//! S4: nonce counters that drifted.

use super::*;

#[test]
fn s4_every_slot_of_a_long_region_is_occupied() {
    let slots = (67..700).map(|nonce| restored(nonce, &[AttemptKind::Payload], false)).collect();
    let mut rig = Rig::with(Lane::restore(config(), Some(700), slots), 67);
    let commands = rig.head(100);
    assert_eq!(signs(&commands), [], "nothing is replaced before it had a chance");
    assert_eq!(sends(&commands).len(), 633);
    assert_eq!(rig.lane.next_nonce(), Some(700));
    assert!(matches!(rig.lane.submit(rig.now, plan(10_000)), Err(LaneError::Full { in_flight: 633, .. })));
    for nonce in 67..700 {
        rig.taken(key(nonce, 0));
    }
    // All are mined: one poll and one report each, then room again.
    let polls = rig.event(Event::AccountNonce { latest: 700, finalized: Some(67) });
    assert_eq!(polls.len(), 633);
    for nonce in 67..700 {
        rig.receipts(nonce, PollPurpose::Inclusion, Some(receipt(key(nonce, 0), 101, 0)), 101);
    }
    assert_eq!(rig.head(106).len(), 633);
    for nonce in 67..700 {
        let commands = rig.receipts(nonce, PollPurpose::Finality, Some(receipt(key(nonce, 0), 101, 0)), 106);
        assert!(matches!(commands[..], [Command::ReportFinal { .. }]));
    }
    assert_eq!(rig.send(plan(10_000)), 700);
}

#[test]
fn s4_holes_are_filled_once_they_are_certain() {
    // Ours are 3 and 5; the chain is at 2; 2 and 4 are unknown.
    let slots = vec![restored(3, &[AttemptKind::Payload], false), restored(5, &[AttemptKind::Payload], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(6), slots), 2);
    let (mut filled, mut said) = (Vec::new(), Vec::new());
    for number in 100..=104 {
        let commands = rig.head(number);
        filled.extend(signs(&commands));
        said.extend(alerts(&commands));
        for key in sends(&commands) {
            rig.taken(key);
        }
        if filled.is_empty() {
            assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled), "no new nonce above a hole");
        }
    }
    filled.retain(|key| key.nonce == 2 || key.nonce == 4);
    assert_eq!(filled, [key(2, 0), key(4, 0)], "only empty slots, once each");
    for key in filled {
        assert_eq!(rig.kind(key), AttemptKind::Cancel);
        assert!(sends(&rig.commit(key)).contains(&key));
    }
    assert!(rig.lane.ready() != Err(LaneError::NotReconciled));
    assert_eq!(said, ["nonce_gap"]);
}

#[test]
fn s4_a_lagging_first_answer_fills_nothing() {
    let mut rig = Rig::with(Lane::restore(config(), Some(6), Vec::new()), 4);
    assert_eq!(rig.head(100), []);
    assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled));
    assert_eq!(rig.event(Event::AccountNonce { latest: 6, finalized: None }), []);
    assert_eq!(rig.head(101), []);
    assert_eq!(rig.send(plan(10_000)), 6);
}

/// A final nonce stays used, whatever a lagging node reports.
#[test]
fn s4_a_node_that_fell_behind_reopens_nothing_that_is_final() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let found = Some(receipt(key(0, 0), 101, 0));
    rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101);
    rig.head(106);
    assert!(matches!(rig.receipts(0, PollPurpose::Finality, found, 106)[..], [Command::ReportFinal { .. }]));
    for number in 107..130 {
        assert_eq!(rig.event(Event::AccountNonce { latest: 0, finalized: None }), []);
        assert_eq!(rig.head(number), []);
    }
    assert_eq!(rig.send(plan(10_000)), 1);
}

#[test]
fn s4_strangers_push_us_up_and_are_named() {
    let mut rig = Rig::new(3);
    rig.head(100);
    assert_eq!(rig.send(plan(10_000)), 3);
    rig.taken(key(3, 0));
    let commands = rig.event(Event::AccountNonce { latest: 6, finalized: Some(3) });
    assert_eq!(commands[0], Command::Alert(LaneAlert::ForeignNonce { ours: 4, chain: 6 }));
    assert!(matches!(commands[1], Command::Poll { nonce: 3, .. }), "ours may be among them");
    assert_eq!(rig.head(101), []);
    assert_eq!(rig.event(Event::AccountNonce { latest: 6, finalized: Some(3) }), [], "named once");
    assert_eq!(rig.send(plan(10_000)), 6, "the strangers' nonces are never used");
}

/// A node reports a nonce far too high once: the nonces in between were never ours, so they are given back, not filled.
#[test]
fn s4_one_lie_leaves_no_gap() {
    let mut rig = Rig::new(3);
    rig.head(100);
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    assert_eq!(rig.lane.next_nonce(), Some(1_000_000));
    let mut signed = Vec::new();
    for number in 101..110 {
        rig.event(Event::AccountNonce { latest: 3, finalized: None });
        signed.extend(signs(&rig.head(number)));
    }
    assert_eq!(signed, []);
    assert_eq!(rig.send(plan(10_000)), 3);
}

/// The lie, and a batch that relied on it: a million cancels would be worse than a lane that stops and alerts.
#[test]
fn s4_a_gap_without_end_is_not_paid_for() {
    let mut rig = Rig::new(3);
    rig.head(100);
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    rig.send(plan(1_000_000));
    rig.taken(key(1_000_000, 0));
    let mut all = Vec::new();
    for number in 101..140 {
        rig.event(Event::AccountNonce { latest: 3, finalized: None });
        let commands = rig.head(number);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
        for key in signs(&commands) {
            assert_eq!(key.nonce, 1_000_000);
            rig.commit(key);
            rig.taken(key);
        }
        all.extend(alerts(&commands));
    }
    assert_eq!(all, ["nonce_gap", "attempts_exhausted"]);
    assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled));
    // The chain was lagging after all: the lane resumes.
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    rig.head(140);
    assert_eq!(rig.lane.ready(), Ok(()));
}

#[test]
fn s4_a_store_that_was_reset_starts_above_the_chain() {
    let mut rig = Rig::new(41);
    assert_eq!(rig.head(100), []);
    assert_eq!(rig.send(plan(10_000)), 41);
}

/// The chain was reset while the ledger stayed.
#[test]
fn s4_a_chain_that_was_reset_is_filled_a_few_at_a_time() {
    let mut rig = Rig::with(Lane::restore(config(), Some(30), Vec::new()), 0);
    let mut account = 0;
    let mut number = 100;
    while rig.lane.ready().is_err() {
        assert!(number < 300, "no end");
        rig.event(Event::AccountNonce { latest: account, finalized: Some(account) });
        let commands = rig.head(number);
        assert!(signs(&commands).len() <= 4, "no more than may be in flight");
        for key in signs(&commands) {
            rig.commit(key);
            rig.taken(key);
            account = account.max(key.nonce + 1);
        }
        for command in rig.event(Event::AccountNonce { latest: account, finalized: Some(account) }) {
            if let Command::Poll { nonce, purpose, .. } = command {
                rig.receipts(nonce, purpose, Some(receipt(key(nonce, 0), number - 6, 0)), number);
            }
        }
        number += 1;
    }
    assert_eq!(account, 30);
    assert_eq!(rig.send(plan(100_000)), 30);
}
