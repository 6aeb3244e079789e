//! Transitions out of each state of a nonce, and reports that are not believed.

use super::*;

#[test]
fn signing_leaves_by_persisted_or_abandoned_only() {
    let mut rig = Rig::new(5);
    rig.head(100);
    rig.lane.submit(rig.now, plan(10_000)).unwrap();
    assert_eq!(signs(&rig.drain()), [key(5, 0)]);
    assert_eq!(rig.lane.next_nonce(), Some(6));
    // I4: no other nonce is allocated meanwhile, and no event sends an uncommitted attempt (I2).
    assert_eq!(rig.lane.submit(rig.now, plan(10_000)), Err(LaneError::Busy { nonce: 5 }));
    for event in [
        Event::Sent { key: key(5, 0), outcome: SendOutcome::Refused(RpcErrorClass::NonceGap) },
        Event::Balance(U256::from(10u128.pow(20))),
        Event::Head(head(101)),
        Event::Head(head(120)),
        Event::Canonical { number: 101, hash: block_hash(101, 0) },
        Event::Persisted { key: key(5, 1) },
        Event::Persisted { key: key(6, 0) },
    ] {
        let commands = rig.event(event.clone());
        assert_eq!(commands, [], "{event:?}");
    }
    assert_eq!(
        rig.event(Event::Signed { key: key(5, 0), hash: hash(key(5, 0)) }),
        [Command::Persist { key: key(5, 0) }]
    );
    assert_eq!(rig.head(121), []);
    // Reported twice, it is committed once.
    assert_eq!(rig.event(Event::Signed { key: key(5, 0), hash: hash(key(5, 7)) }), []);
    // The commit definitely fails: the nonce is free again.
    assert_eq!(rig.event(Event::Abandoned { key: key(5, 0) }), []);
    assert_eq!((rig.lane.next_nonce(), rig.lane.holds(5)), (Some(5), false));
    assert_eq!(rig.event(Event::Persisted { key: key(5, 0) }), []);
    assert_eq!(rig.send(plan(10_000)), 5);
}

#[test]
fn pending_leaves_by_receipt_or_by_a_final_stranger_only() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    let absent = |is_complete| Event::Receipts {
        nonce: 0,
        purpose: PollPurpose::Inclusion,
        found: None,
        is_complete,
        at_block: 100,
    };
    for event in [absent(true), absent(false), Event::Abandoned { key: key(0, 0) }, Event::Persisted { key: key(0, 0) }]
    {
        assert_eq!(rig.event(event), []);
    }
    // The chain has passed the nonce: ask, don't act.
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    let poll = |purpose| Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose };
    assert_eq!(commands, [poll(PollPurpose::Inclusion)]);
    assert_eq!(rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) }), [], "one poll at a time");
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, None, 100), []);
    for number in 101..130 {
        assert_eq!(rig.head(number), [], "no bump, no cancel, no second nonce while another transaction is in a block");
    }
    // At finality, by quorum.
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    assert_eq!(commands, [poll(PollPurpose::Finality)]);
    let unsure =
        Event::Receipts { nonce: 0, purpose: PollPurpose::Finality, found: None, is_complete: false, at_block: 130 };
    assert_eq!(rig.event(unsure), [], "no quorum, no statement");
    assert_eq!(rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) }), [poll(PollPurpose::Finality)]);
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 131), [Command::ReportLost { nonce: 0 }]);
    // Late answers about it have no effect.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, Some(receipt(key(0, 0), 101, 0)), 132), []);
    assert_eq!(rig.sent(key(0, 0), SendOutcome::Taken), []);
}

#[test]
fn included_is_revocable_until_final() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    let included = |block, fork| Command::ReportIncluded {
        nonce: 0,
        kind: AttemptKind::Payload,
        receipt: receipt(key(0, 0), block, fork),
    };
    let found = Some(receipt(key(0, 0), 101, 0));
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101), [included(101, 0)]);
    assert_eq!((rig.lane.in_flight(), rig.lane.unfinal()), (0, 1));
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101), [], "known already");
    // A quorum about a block that is not final concludes nothing.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, found, 101), []);
    assert_eq!(rig.head(105), []);
    // Final: asked of a quorum once more.
    let finality = Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose: PollPurpose::Finality };
    assert_eq!(rig.head(106), std::slice::from_ref(&finality));
    assert_eq!(rig.head(107), [], "one at a time");
    let unsure =
        Event::Receipts { nonce: 0, purpose: PollPurpose::Finality, found: None, is_complete: false, at_block: 107 };
    assert_eq!(rig.event(unsure), []);
    assert_eq!(rig.head(108), [finality]);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(receipt(key(0, 0), 101, 0)), 108);
    let expect = Command::ReportFinal { nonce: 0, kind: AttemptKind::Payload, receipt: receipt(key(0, 0), 101, 0) };
    assert_eq!(commands, [expect]);
    assert!(!rig.lane.holds(0));
}

#[test]
fn permanent_refusals_free_the_nonce() {
    use RpcErrorClass as C;
    for class in [C::GasTooLow, C::GasTooHigh, C::BadTransaction, C::Reverted, C::ConditionNotMet] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        let commands = rig.sent(key(0, 0), SendOutcome::Refused(class));
        assert_eq!(alerts(&commands), ["refused"], "{class}");
        assert_eq!((signs(&commands), rig.kind(key(0, 1))), (vec![key(0, 1)], AttemptKind::Cancel));
        // If any node may hold it, the refusal proves nothing.
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        rig.sent(key(0, 0), SendOutcome::Maybe(C::Timeout));
        let number = rig.until_signed(101, 0, SendOutcome::Refused(class));
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Payload, "{class} at {number}");
    }
}

#[test]
fn a_used_nonce_is_looked_up_before_anything_else() {
    for outcome in [SendOutcome::Maybe, SendOutcome::Refused] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        let commands = rig.sent(key(0, 0), outcome(RpcErrorClass::NonceTooLow));
        let hashes = vec![hash(key(0, 0))];
        assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    }
}

#[test]
fn nothing_about_unknown_things_is_believed() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let stranger = key(0, 9);
    for event in [
        Event::Signed { key: stranger, hash: hash(stranger) },
        Event::Persisted { key: stranger },
        Event::Abandoned { key: stranger },
        Event::Sent { key: stranger, outcome: SendOutcome::Refused(RpcErrorClass::InsufficientFunds) },
        Event::Sent { key: key(77, 0), outcome: SendOutcome::Taken },
        Event::Receipts {
            nonce: 0,
            purpose: PollPurpose::Inclusion,
            found: Some(receipt(stranger, 100, 0)),
            is_complete: true,
            at_block: 100,
        },
        Event::Receipts { nonce: 77, purpose: PollPurpose::Finality, found: None, is_complete: true, at_block: 100 },
        Event::Canonical { number: 5, hash: B256::ZERO },
    ] {
        assert_eq!(rig.event(event.clone()), [], "{event:?}");
    }
    assert_eq!((rig.lane.attempts(0), rig.lane.is_underfunded()), (1, false));
}
