//! S9: balances, and costs that a lane can't pay.

use super::*;

#[test]
fn s9_pause_and_resume_without_burning_a_nonce_or_a_price() {
    let mut rig = Rig::new(0);
    rig.head(100);
    let cost = |price: u128| U256::from(100_000u128 * price + 7);
    let worst = cost(21 * GWEI);
    rig.event(Event::Balance(worst * U256::from(2)));
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    rig.send(plan(100_000));
    rig.taken(key(1, 0));
    // 50 more are queued.
    for attempt in 0..50 {
        let refused = rig.lane.submit(rig.now, plan(100_000));
        let expect = LaneError::Underfunded { needed_wei: worst, available_wei: U256::ZERO };
        assert_eq!(refused, Err(expect));
        let said = alerts(&rig.drain());
        assert_eq!(said, if attempt == 0 { vec!["underfunded"] } else { vec![] }, "said once");
    }
    assert_eq!(rig.lane.next_nonce(), Some(2), "no nonce was burnt");
    assert!(rig.lane.is_underfunded());
    // The same balance again and again: no flapping, and transactions in flight are kept alive.
    let mut bumps = 0;
    for number in 101..120 {
        let mut commands = rig.event(Event::Balance(worst * U256::from(2)));
        commands.extend(rig.head(number));
        assert!(!alerts(&commands).iter().any(|name| ["underfunded", "resumed"].contains(name)));
        bumps += signs(&commands).len();
        for key in signs(&commands) {
            rig.commit(key);
            rig.sent(key, SendOutcome::Taken);
        }
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
    }
    assert!(bumps > 0);
    let commands = rig.event(Event::Balance(worst * U256::from(20)));
    assert_eq!(alerts(&commands), ["resumed"]);
    assert_eq!(rig.send(plan(100_000)), 2);
}

#[test]
fn s9_a_plan_that_is_too_dear_waits_alone() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(Event::Balance(U256::from(10u128.pow(18))));
    let dear = Plan { payload: Payload { value: U256::from(10u128.pow(19)), ..plan(0).payload }, ..plan(220) };
    assert!(matches!(rig.lane.submit(rig.now, dear), Err(LaneError::Underfunded { .. })));
    assert_eq!(alerts(&rig.drain()), ["underfunded"]);
    assert_eq!(rig.lane.ready(), Ok(()), "whoever can be paid for goes on");
    assert_eq!(rig.send(plan(100_000)), 0);
    rig.taken(key(0, 0));
    assert_eq!(alerts(&rig.head(101)), Vec::<&str>::new());
    assert!(rig.lane.is_underfunded());
    assert_eq!(alerts(&rig.head(110)), ["resumed"], "second 220: nobody needs it any more");
}

/// A node counts expenses that we do not know of: its refusal stands as long as the balance does, and is reported once.
#[test]
fn s9_a_node_that_sees_less_money_than_we_makes_no_noise() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    let refused = SendOutcome::Refused(RpcErrorClass::InsufficientFunds);
    let mut said = alerts(&rig.sent(key(0, 0), refused));
    let mut tries = 0;
    for number in 101..141 {
        let mut commands = rig.event(Event::Balance(U256::from(10u128.pow(20))));
        commands.extend(rig.head(number));
        said.extend(alerts(&commands));
        for key in sends(&commands) {
            tries += 1;
            said.extend(alerts(&rig.sent(key, refused)));
        }
    }
    assert_eq!(said, ["underfunded"]);
    assert!((10..=20).contains(&tries), "asked again now and then: {tries}");
    let commands = rig.event(Event::Balance(U256::from(10u128.pow(20))));
    assert_eq!(sends(&commands).len() + sends(&rig.head(142)).len(), 0, "not at every head");
    rig.event(Event::Balance(U256::from(10u128.pow(20))));
    assert_eq!(alerts(&rig.sent(key(0, 0), SendOutcome::Taken)), ["resumed"], "one took it");
}

#[test]
fn s9_a_try_that_nobody_answers_is_not_the_last() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.send(plan(100_000));
    let refused = SendOutcome::Refused(RpcErrorClass::InsufficientFunds);
    let silent = SendOutcome::Maybe(RpcErrorClass::NodeUnavailable);
    rig.taken(key(1, 0));
    rig.sent(key(0, 0), refused);
    let mut outcomes = [silent, refused, silent, SendOutcome::Taken].into_iter();
    for number in 101..120 {
        let mut commands = rig.event(Event::Balance(U256::from(10u128.pow(20))));
        commands.extend(rig.head(number));
        for key in sends(&commands).into_iter().filter(|key| key.nonce == 0) {
            if let Some(outcome) = outcomes.next() {
                rig.sent(key, outcome);
            }
        }
    }
    assert_eq!(outcomes.next(), None, "asked until one takes it");
    assert!(!rig.lane.is_underfunded());
}

#[test]
fn s9_failed_sends_do_not_ratchet() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InsufficientFunds));
    // A spike for 20 blocks, the lane has no money.
    for number in 101..121 {
        rig.event(Event::Balance(U256::from(5)));
        let spike = HeadInfo { next_base_fee: 1_000 * GWEI, quote: Fees::new(2_000 * GWEI, GWEI), ..head(number) };
        let commands = rig.head_with(spike);
        assert_eq!((signs(&commands), sends(&commands)), (vec![], vec![]));
    }
    assert_eq!(rig.lane.attempts(0), 1);
    let commands = rig.event(Event::Balance(U256::from(10u128.pow(20))));
    assert_eq!((alerts(&commands), sends(&commands)), (vec!["resumed"], vec![key(0, 0)]), "by itself, the same bytes");
}

/// A bump that the balance does not cover is refused, and the attempt that it was to replace is included: money is no
/// longer short (I14).
#[test]
fn s9_what_was_refused_pauses_the_lane_no_longer_than_it_is_there() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let number = rig.until_signed(100, 0, SendOutcome::Taken);
    rig.commit(key(0, 1));
    let refused = SendOutcome::Refused(RpcErrorClass::InsufficientFunds);
    assert_eq!(alerts(&rig.sent(key(0, 1), refused)), ["underfunded"]);
    let spent = Event::Balance(U256::from(10u128.pow(19)));
    assert_eq!(alerts(&rig.event(spent.clone())), [] as [&str; 0], "it is still there");
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), number, 0)), number);
    assert_eq!(alerts(&rig.event(spent)), ["resumed"], "no money came, and none is needed");
    assert_eq!(rig.lane.ready(), Ok(()));
}

/// Balance left beside everything in flight.
fn available(rig: &mut Rig) -> U256 {
    let dear = Plan { extra_wei: U256::MAX, ..plan(100_000) };
    let Err(LaneError::Underfunded { available_wei, .. }) = rig.lane.submit(rig.now, dear) else {
        panic!("nobody can pay that");
    };
    available_wei
}

/// If L1 has to be paid, a filler and a cancel must be able to pay it: their needs are held back.
#[test]
fn s9_cancels_hold_back_what_l1_costs() {
    let extra = U256::from(10u128.pow(17));
    // Nonce 0 is a hole, 1 is ours.
    let slots = vec![restored(1, &[AttemptKind::Payload], false)];
    let filled = |extra: U256| {
        let mut rig = Rig::with(Lane::restore(config(), Some(2), slots.clone()), 0);
        rig.event(Event::CancelExtra(extra));
        let mut number = 100;
        while rig.lane.attempts(0) == 0 {
            let commands = rig.head(number);
            sends(&commands).into_iter().for_each(|key| rig.sent(key, SendOutcome::Taken).clear());
            number += 1;
        }
        assert_eq!(rig.kind(key(0, 0)), AttemptKind::Cancel);
        rig.commit(key(0, 0));
        rig.taken(key(0, 0));
        rig
    };
    let (mut without, mut with) = (filled(U256::ZERO), filled(extra));
    let (left, less) = (available(&mut without), available(&mut with));
    assert_eq!(left - less, extra, "for the filler, and nothing for the payload");
    // L1 gets cheaper.
    let mut cheaper = filled(extra);
    cheaper.event(Event::CancelExtra(extra / U256::from(2)));
    assert_eq!(left - available(&mut cheaper), extra / U256::from(2));

    // A payload that expired: the cancel costs more than the payload.
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(Event::CancelExtra(extra));
    rig.send(plan(203));
    rig.taken(key(0, 0));
    let balance = U256::from(10u128.pow(20));
    let payload = U256::from(100_000 * 21 * GWEI + 7);
    let mut number = 101;
    while rig.lane.attempts(0) == 1 {
        rig.head(number);
        number += 1;
    }
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    let fees = rig.fees(key(0, 1));
    rig.commit(key(0, 1));
    rig.taken(key(0, 1));
    assert!(extra > payload);
    assert_eq!(balance - available(&mut rig), U256::from(21_000 * fees.max_fee_per_gas) + extra);
}

const fn spike(number: u64, base_fee: u128) -> HeadInfo {
    HeadInfo { next_base_fee: base_fee, quote: Fees::new(2 * base_fee, GWEI), ..head(number) }
}

#[test]
fn s9_above_the_ceiling_it_waits_and_says_so_once_while_nobody_else_does() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let mut said = Vec::new();
    for number in 101..141 {
        let commands = rig.head_with(spike(number, 900 * GWEI));
        assert_eq!(signs(&commands), []);
        said.extend(alerts(&commands));
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
    }
    assert_eq!(said, ["ceiling_reached"]);
    assert_eq!(rig.lane.attempts(0), 1);
    assert_eq!(rig.lane.blockage(), Some(Blockage { nonce: 0, trouble: Trouble::AboveCeiling }));
    // Other requests come: it makes way.
    rig.lane.submit(rig.now, Plan { ceiling_wei_per_gas: 2_000 * GWEI, ..plan(100_000) }).unwrap();
    rig.drain();
    rig.commit(key(1, 0));
    rig.taken(key(1, 0));
    let commands = rig.head_with(spike(141, 900 * GWEI));
    assert_eq!((signs(&commands), alerts(&commands)), (vec![key(0, 1)], vec!["priced_out"]));
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    assert!(rig.fees(key(0, 1)).max_fee_per_gas >= 900 * GWEI);
}

#[test]
fn s9_a_payload_is_given_up_while_its_members_can_pay_for_the_cancel() {
    let mut rig = Rig::new(0);
    rig.head(100);
    // The members can pay for 100 000 gas at 30 gwei: three quarters of that pay for 21 000 gas at 107 gwei.
    rig.send(Plan { ceiling_wei_per_gas: 30 * GWEI, ..plan(100_000) });
    rig.taken(key(0, 0));
    let commands = rig.head_with(spike(101, 100 * GWEI));
    assert_eq!(signs(&commands), [], "it may wait");
    let commands = rig.head_with(spike(102, 107 * GWEI));
    assert_eq!((signs(&commands), alerts(&commands)), (vec![key(0, 1)], vec!["priced_out"]));
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
}

/// Nodes have it, its price suffices, and no block includes it: requests behind it do not wait for its deadline (I14).
#[test]
fn what_no_block_takes_makes_way_for_those_behind_it() {
    for others in [0, 1] {
        let mut rig = Rig::new(0);
        rig.head(100);
        for nonce in 0..=others {
            rig.send(plan(100_000));
            rig.taken(key(nonce, 0));
        }
        let mut given_up = None;
        for number in 101..130 {
            let commands = rig.head(number);
            if alerts(&commands).contains(&"ignored") {
                given_up.get_or_insert(number);
            }
            for key in signs(&commands) {
                let commands = rig.commit(key);
                sends(&commands).into_iter().for_each(|key| rig.taken(key));
            }
            sends(&commands).into_iter().for_each(|key| rig.taken(key));
        }
        let newest = rig.signed.iter().rev().find(|(key, _)| key.nonce == 0).unwrap().0;
        let (when, kind) = if others == 0 { (None, AttemptKind::Payload) } else { (Some(113), AttemptKind::Cancel) };
        assert_eq!((given_up, rig.kind(newest)), (when, kind), "{others} behind it");
    }
}
