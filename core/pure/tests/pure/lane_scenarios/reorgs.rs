//! S6: reorgs.

use super::*;

#[test]
fn s6_a_reorg_of_any_depth_below_finality_is_taken_back_and_found_again() {
    for depth in 1..=5 {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(10_000));
        rig.taken(key(0, 0));
        rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
        rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 0)), 101);
        rig.head(100 + depth);
        // Another block at that height.
        let commands = rig.event(Event::Canonical { number: 101, hash: block_hash(101, 1) });
        let poll = |purpose| Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose };
        assert_eq!(commands, [Command::ReportUnincluded { nonce: 0 }, poll(PollPurpose::Inclusion)]);
        assert_eq!(rig.event(Event::Canonical { number: 101, hash: block_hash(101, 1) }), [], "said once");
        // It is in the other branch, this time reverted.
        let mut other = receipt(key(0, 0), 102, 1);
        other.is_success = false;
        let commands = rig.receipts(0, PollPurpose::Inclusion, Some(other.clone()), 102);
        let kind = AttemptKind::Payload;
        assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: other }], "a revert is not terminal");
        // Back to the first branch.
        let commands = rig.event(Event::Canonical { number: 102, hash: block_hash(102, 2) });
        assert_eq!(commands[0], Command::ReportUnincluded { nonce: 0 });
        // Absent in the third branch: it is pending, and rebroadcast.
        let later = (100 + depth).max(102) + 2;
        assert_eq!(rig.receipts(0, PollPurpose::Inclusion, None, later), []);
        rig.event(Event::AccountNonce { latest: 0, finalized: Some(0) });
        let commands = rig.head(later);
        assert_eq!(sends(&commands), [key(0, 0)]);
        assert!(!commands.contains(&Command::ReportBroadcast { nonce: 0 }), "it was broadcast before");
    }
}

#[test]
fn s6_what_vanished_at_finality_is_pending_again_not_lost() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 0)), 101);
    rig.head(106);
    // No hash of that height was ever reported; the quorum does not know the transaction.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 106), [Command::ReportUnincluded { nonce: 0 }]);
    assert!(rig.lane.holds(0));
}
