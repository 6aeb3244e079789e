//! S9: balances, and what a lane can not pay.

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
    // The same balance again and again: no flapping, and what is in flight is kept alive.
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
fn s9_a_plan_that_is_too_dear_does_not_block_the_lane_for_ever() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(Event::Balance(U256::from(10u128.pow(18))));
    let dear = Plan { payload: Payload { value: U256::from(10u128.pow(19)), ..plan(0).payload }, ..plan(220) };
    assert!(matches!(rig.lane.submit(rig.now, dear), Err(LaneError::Underfunded { .. })));
    assert_eq!(alerts(&rig.drain()), ["underfunded"]);
    assert_eq!(rig.head(109), []);
    assert!(rig.lane.ready().is_err());
    assert_eq!(alerts(&rig.head(110)), ["resumed"], "second 220: nobody needs it any more");
    assert_eq!(rig.send(plan(100_000)), 0);
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

/// What is left beside everything in flight.
fn available(rig: &mut Rig) -> U256 {
    let dear = Plan { extra_wei: U256::MAX, ..plan(100_000) };
    let Err(LaneError::Underfunded { available_wei, .. }) = rig.lane.submit(rig.now, dear) else {
        panic!("nobody can pay that");
    };
    available_wei
}

/// Where L1 has to be paid, a filler and a cancel must be able to pay it: what they need is not given to others.
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

    // A payload that expired: the cancel is dearer than what it replaces.
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

#[test]
fn s9_above_the_ceiling_it_waits_and_says_so_once() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let mut said = Vec::new();
    for number in 101..141 {
        let spike = HeadInfo { next_base_fee: 1_000 * GWEI, quote: Fees::new(2_000 * GWEI, GWEI), ..head(number) };
        let commands = rig.head_with(spike);
        assert_eq!(signs(&commands), []);
        said.extend(alerts(&commands));
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
    }
    assert_eq!(said, ["ceiling_reached"]);
    assert_eq!(rig.lane.attempts(0), 1);
}
