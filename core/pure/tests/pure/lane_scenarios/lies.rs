//! Receipts reported by a single node.

use super::*;

/// A lane whose nonce 0 was sent, and is used according to a majority at the head, 101.
fn used() -> Rig {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.head(101);
    assert_eq!(rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) }), [poll(PollPurpose::Inclusion)]);
    rig
}

fn poll(purpose: PollPurpose) -> Command {
    Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose }
}

fn found(block: u64) -> Option<Box<TxReceipt>> {
    Some(receipt(key(0, 0), block, 0))
}

#[test]
fn a_block_that_is_not_there_yet_is_no_inclusion_and_asked_for_again() {
    for block in [150, 1 << 40] {
        let mut rig = used();
        assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found(block), 101), []);
        assert_eq!((rig.lane.in_flight(), rig.lane.unfinal()), (1, 0));
        let again = rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
        assert_eq!(again, [poll(PollPurpose::Inclusion)]);
        let commands = rig.receipts(0, PollPurpose::Inclusion, found(101), 102);
        assert!(matches!(commands[..], [Command::ReportIncluded { .. }]));
    }
}

#[test]
fn a_node_that_is_a_little_ahead_is_believed() {
    let mut rig = used();
    let commands = rig.receipts(0, PollPurpose::Inclusion, found(104), 101);
    assert!(matches!(commands[..], [Command::ReportIncluded { .. }]));
    // The report was wrong: a block of that height arrives, and is a different one.
    let commands = rig.event(Event::Canonical { number: 104, hash: block_hash(104, 1) });
    assert_eq!(commands, [Command::ReportUnincluded { nonce: 0 }, poll(PollPurpose::Inclusion)]);
}

#[test]
fn what_a_majority_counts_as_unused_is_in_no_block() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    let key = key(0, 0);
    let commands = rig.sent(key, SendOutcome::Maybe(RpcErrorClass::NonceTooLow));
    assert_eq!(commands, [poll(PollPurpose::Inclusion)]);
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found(100), 100), []);
    assert_eq!((rig.lane.in_flight(), rig.lane.unfinal()), (1, 0));
    // It is still rebroadcast.
    let sent: Vec<_> = (101..=103).flat_map(|number| sends(&rig.head(number))).collect();
    assert_eq!(sent, [key]);
}

#[test]
fn what_is_used_at_finality_is_settled_whatever_block_it_was_seen_in() {
    for seen in [100, 104, 117] {
        let mut rig = used();
        let commands = rig.receipts(0, PollPurpose::Inclusion, found(seen), 101);
        assert!(matches!(commands[..], [Command::ReportIncluded { .. }]));
        rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
        assert_eq!(rig.head(106), [poll(PollPurpose::Finality)]);
        // Too few nodes answer: asked again.
        let unknown = Event::Receipts {
            nonce: 0,
            purpose: PollPurpose::Finality,
            found: None,
            is_complete: false,
            at_block: 106,
        };
        assert_eq!(rig.event(unknown), []);
        assert_eq!(rig.head(107), [poll(PollPurpose::Finality)]);
        let commands = rig.receipts(0, PollPurpose::Finality, found(101), 107);
        assert!(matches!(commands[..], [Command::ReportFinal { .. }]));
        assert!(!rig.lane.holds(0));
    }
}

/// A node reports a block that would be long final. A majority reports the real one.
#[test]
fn a_block_too_low_settles_nothing_early() {
    let mut rig = used();
    let commands = rig.receipts(0, PollPurpose::Inclusion, found(3), 101);
    assert!(matches!(commands[..], [Command::ReportIncluded { .. }]));
    assert_eq!(rig.head(102), [poll(PollPurpose::Finality)]);
    let commands = rig.receipts(0, PollPurpose::Inclusion, found(101), 102);
    assert!(matches!(&commands[..], [Command::ReportIncluded { receipt, .. }] if receipt.block_number == 101));
    assert_eq!(rig.head(105), [], "not final yet");
    assert_eq!(rig.head(106), [poll(PollPurpose::Finality)]);
}
