//! S2 and S3: earlier attempts, cancels, and wrong reads.

use super::*;

#[test]
fn s2_an_earlier_attempt_mines_after_a_bump() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.until_signed(101, 0, SendOutcome::Taken);
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
    rig.sent(key(0, 1), SendOutcome::Maybe(RpcErrorClass::Timeout));
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let hashes = vec![hash(key(0, 0)), hash(key(0, 1))];
    assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    let found = receipt(key(0, 0), 104, 0);
    let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 104);
    let kind = AttemptKind::Payload;
    assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: found.clone() }]);
    assert_eq!(rig.lane.next_nonce(), Some(1), "no new nonce");
    rig.head(110);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 110);
    assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind, receipt: found }]);
}

#[test]
fn s2_the_original_beats_the_cancel_and_the_other_way_round() {
    for winner in [key(0, 0), key(0, 1)] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(203));
        rig.taken(key(0, 0));
        // Second 204: the deadline has passed.
        assert_eq!(signs(&rig.head(102)), [key(0, 1)]);
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
        rig.commit(key(0, 1));
        rig.taken(key(0, 1));
        rig.event(Event::AccountNonce { latest: 1, finalized: None });
        let kind = rig.kind(winner);
        let found = receipt(winner, 103, 0);
        let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 103);
        assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: found.clone() }]);
        rig.head(109);
        let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 109);
        assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind, receipt: found }]);
    }
}

#[test]
fn s2_a_restart_between_two_attempts_forgets_neither() {
    let slots = vec![restored(0, &[AttemptKind::Payload; 2], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    // The same bytes again, not a higher price: restarts must not ratchet.
    assert_eq!(rig.head(100), [Command::Broadcast { key: key(0, 1) }]);
    rig.taken(key(0, 1));
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let hashes = vec![hash(key(0, 0)), hash(key(0, 1))];
    assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    let found = receipt(key(0, 0), 90, 0);
    let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 100);
    assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind: AttemptKind::Payload, receipt: found }]);
}

#[test]
fn s2_a_given_up_payload_stays_given_up_after_a_restart() {
    let slots = vec![restored(0, &[AttemptKind::Payload, AttemptKind::Cancel], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    assert_eq!(sends(&rig.head(100)), [key(0, 1)]);
    rig.sent(key(0, 1), SendOutcome::Taken);
    rig.until_signed(101, 0, SendOutcome::Taken);
    assert_eq!(rig.kind(key(0, 2)), AttemptKind::Cancel);
}

#[test]
fn a_restart_restores_what_was_included_or_takes_it_back() {
    let mut rig = Rig::with(Lane::restore(config(), Some(1), vec![restored(0, &[AttemptKind::Payload], true)]), 0);
    let commands = rig.head(100);
    assert_eq!(commands, [Command::ReportUnincluded { nonce: 0 }, Command::Broadcast { key: key(0, 0) }]);
}

#[test]
fn s3_no_sequence_of_bad_reads_makes_a_second_payload() {
    // Every possible answer of a node for 50 heads; the nonce is never consumed by a stranger at finality.
    let mut state = 0x5_1ce_u64;
    for _ in 0..300 {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        rig.taken(key(0, 0));
        for number in 101..151 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let roll = state >> 33;
            let mut commands = match roll % 5 {
                0 => rig.event(Event::AccountNonce { latest: roll % 2, finalized: Some(0) }),
                1 => rig.receipts(0, PollPurpose::Inclusion, None, number - roll % 7),
                2 => rig.event(Event::Receipts {
                    nonce: 0,
                    purpose: PollPurpose::Finality,
                    found: None,
                    is_complete: roll.is_multiple_of(3),
                    at_block: number,
                }),
                3 => rig.event(Event::Canonical { number: number - roll % 7, hash: block_hash(number, roll % 3) }),
                _ => rig.receipts(
                    0,
                    PollPurpose::Inclusion,
                    Some(receipt(key(0, 0), number - roll % 4, roll % 3)),
                    number,
                ),
            };
            commands.extend(rig.head(number));
            for command in commands {
                match command {
                    Command::ReportLost { .. } => panic!("nobody else used the nonce"),
                    Command::ReportFinal { .. } => panic!("no quorum said so"),
                    Command::Sign { key, tx } => {
                        assert_eq!((key.nonce, tx.kind), (0, AttemptKind::Payload), "an error cancels nothing");
                        rig.commit(key);
                        rig.taken(key);
                    }
                    Command::Broadcast { key } => rig.taken(key),
                    _ => {}
                }
            }
        }
        assert!(rig.lane.holds(0));
        assert_eq!(rig.lane.next_nonce(), Some(1));
    }
}

/// The quorum answered a question from before the nonce was used up: that proves nothing.
#[test]
fn s3_a_late_answer_loses_nothing() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: None });
    // A lagging node reports it in a removed block; that height becomes final later, and the quorum is asked.
    rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 9)), 101);
    let commands = rig.head(106);
    assert!(matches!(commands[..], [Command::Poll { purpose: PollPurpose::Finality, .. }]), "{commands:?}");
    let commands = rig.event(Event::Canonical { number: 101, hash: block_hash(101, 0) });
    assert_eq!(commands[0], Command::ReportUnincluded { nonce: 0 });
    // Meanwhile the payload is mined in 107, and final.
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 106), [], "asked at 106, before it was mined");
    rig.head(113);
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    let found = receipt(key(0, 0), 107, 0);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 113);
    assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind: AttemptKind::Payload, receipt: found }]);
}
