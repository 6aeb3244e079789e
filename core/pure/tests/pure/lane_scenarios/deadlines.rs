//! S7: deadlines.

use super::*;

#[test]
fn s7_the_deadline_passes_while_it_is_committed() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.lane.submit(rig.now, plan(202)).unwrap();
    rig.drain();
    rig.event(Event::Signed { key: key(0, 0), hash: hash(key(0, 0)) });
    rig.now = Timestamp::from_secs(202);
    assert_eq!(rig.event(Event::Persisted { key: key(0, 0) }), [], "I7");
    // The nonce is committed, so it is freed by a cancel.
    assert_eq!(signs(&rig.head(101)), [key(0, 1)]);
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
}

#[test]
fn s7_the_chain_clock_counts_too() {
    for ahead in [1, 15, 30] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(300));
        rig.taken(key(0, 0));
        // Our clock is behind the chain's.
        rig.lane
            .handle_event(Timestamp::from_secs(300 - ahead), Event::Head(HeadInfo { timestamp_s: 300, ..head(120) }));
        let commands = rig.drain();
        assert_eq!((sends(&commands), signs(&commands)), (vec![], vec![key(0, 1)]));
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    }
}

#[test]
fn s7_a_bump_that_was_under_way_is_not_sent_after_the_deadline() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(212));
    rig.taken(key(0, 0));
    rig.until_signed(101, 0, SendOutcome::Taken);
    rig.event(Event::Signed { key: key(0, 1), hash: hash(key(0, 1)) });
    assert_eq!(rig.head(106), [], "second 212: still being committed");
    assert_eq!(rig.event(Event::Persisted { key: key(0, 1) }), []);
    let commands = rig.head(107);
    assert_eq!((sends(&commands), signs(&commands)), (vec![], vec![key(0, 2)]));
    assert_eq!(rig.kind(key(0, 2)), AttemptKind::Cancel);
    for client in ClientRule::PRICED {
        assert!(client.accepts(rig.fees(key(0, 0)), rig.fees(key(0, 2)), 10 * GWEI), "{client:?}");
    }
}

#[test]
fn s7_neither_a_gap_nor_a_top_up_revives_an_expired_payload() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(203));
    rig.taken(key(0, 0));
    rig.send(plan(10_000));
    rig.now = Timestamp::from_secs(203);
    let commands = rig.sent(key(1, 0), SendOutcome::Refused(RpcErrorClass::NonceGap));
    assert_eq!(sends(&commands), [], "the lower one has expired");

    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(203));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InsufficientFunds));
    rig.now = Timestamp::from_secs(203);
    let commands = rig.event(Event::Balance(U256::MAX));
    assert_eq!((alerts(&commands), sends(&commands)), (vec!["resumed"], vec![]));
}

#[test]
fn s7_a_plan_past_its_deadline_gets_no_nonce() {
    let mut rig = Rig::new(0);
    rig.head(100);
    assert_eq!(rig.lane.submit(rig.now, plan(200)), Err(LaneError::DeadlinePassed));
    assert_eq!(rig.lane.next_nonce(), Some(0));
    assert!(rig.lane.submit(rig.now, plan(201)).is_ok());
}

/// An expired payload at the ceiling can't be outbid. If it could be mined and is not, no node holds it.
#[test]
fn s7_a_forgotten_payload_at_the_ceiling_does_not_block_the_lane() {
    let mut rig = Rig::new(0);
    let spike = |number| HeadInfo { next_base_fee: 900 * GWEI, quote: Fees::new(990 * GWEI, GWEI), ..head(number) };
    rig.head_with(spike(100));
    rig.send(Plan { ceiling_wei_per_gas: 1_000 * GWEI, ..plan(203) });
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    let commands = rig.head_with(spike(102));
    assert_eq!((signs(&commands), alerts(&commands)), (vec![], vec!["ceiling_reached"]));
    let number = rig.until_signed(103, 0, SendOutcome::Taken);
    assert!(number >= 100 + 2 * BUMP_AFTER, "not before it had its chance");
    assert_eq!((rig.kind(key(0, 1)), rig.fees(key(0, 1))), (AttemptKind::Cancel, head(number).quote));
}

/// If only pools that compare effective prices would require more than the ceiling, the others are outbid: both prices
/// rise.
#[test]
fn s7_a_forgotten_payload_is_outbid_by_its_caps_where_the_ceiling_holds_that() {
    let mut rig = Rig::new(0);
    let at = |number, base: u128, cap: u128| HeadInfo {
        next_base_fee: base * GWEI,
        quote: Fees::new(cap * GWEI, 50 * GWEI),
        ..head(number)
    };
    rig.head_with(at(100, 600, 875));
    rig.send(Plan { ceiling_wei_per_gas: 1_000 * GWEI, ..plan(203) });
    let held = rig.fees(key(0, 0));
    assert_eq!(held, Fees::new(875 * GWEI, 50 * GWEI));
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    let spike = 860;
    let signed = (102..140).find(|number| !signs(&rig.head_with(at(*number, spike, 990))).is_empty());
    assert!(signed.is_some_and(|number| number >= 100 + 2 * BUMP_AFTER), "{signed:?}");
    let (kind, fees) = (rig.kind(key(0, 1)), rig.fees(key(0, 1)));
    assert_eq!(kind, AttemptKind::Cancel);
    assert!(fees.max_fee_per_gas <= 1_000 * GWEI, "{fees:?}");
    for rule in [ClientRule::Geth, ClientRule::Reth, ClientRule::RethOld, ClientRule::Erigon, ClientRule::Nethermind] {
        assert!(rule.accepts(held, fees, spike * GWEI), "{rule:?}: {fees:?}");
    }
}
