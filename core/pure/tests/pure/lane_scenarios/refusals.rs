//! Refusals by every node, transactions that no node holds, and the release of their nonces.

use super::*;

/// A forward request's plan: its replay guard is on chain.
fn guarded(deadline_s: u64) -> Plan {
    Plan { is_guarded: true, ..plan(deadline_s) }
}

fn terms(edit: impl FnOnce(&mut NodeTerms)) -> Event {
    let mut terms = NodeTerms { tip_bound_wei_per_gas: 20 * GWEI, ..NodeTerms::default() };
    edit(&mut terms);
    Event::Terms(terms)
}

fn refused(nonce: u64, class: Option<RpcErrorClass>) -> Command {
    Command::ReportRefused { nonce, class }
}

#[test]
fn what_no_node_took_makes_way_without_a_cancel() {
    use RpcErrorClass as C;
    for class in [C::GasTooLow, C::GasTooHigh, C::BadTransaction, C::Reverted, C::ConditionNotMet] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(guarded(100_000));
        let commands = rig.sent(key(0, 0), SendOutcome::Refused(class));
        assert_eq!((alerts(&commands), signs(&commands)), (vec!["refused"], vec![]), "{class}");
        assert!(commands.contains(&refused(0, Some(class))));
        assert_eq!((rig.lane.in_flight(), rig.lane.ready()), (0, Ok(())));
        assert_eq!(rig.head(101), [], "nobody waits behind it");
        // The next plan has the nonce, and counts its attempts on.
        let smaller = Plan { payload: Payload { gas_limit: 50_000, ..plan(0).payload }, ..guarded(100_000) };
        assert_eq!(rig.lane.submit(rig.now, smaller).unwrap().nonce, 0);
        assert_eq!(signs(&rig.drain()), [key(0, 1)]);
        assert_eq!(rig.signed.last().unwrap().1.payload.gas_limit, 50_000);
        let sent = [Command::ReportBroadcast { nonce: 0 }, Command::Broadcast { key: key(0, 1) }];
        assert_eq!(rig.commit(key(0, 1)), sent);
        rig.taken(key(0, 1));
        assert_eq!(rig.lane.next_nonce(), Some(1));
        // All hashes ever signed for it are asked for.
        let hashes = vec![hash(key(0, 0)), hash(key(0, 1))];
        let commands = rig.event(Event::AccountNonce { latest: 1, finalized: None });
        assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    }
}

#[test]
fn a_nonce_whose_every_content_is_refused_is_cancelled() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    let most = config().max_refused_plans;
    for index in 0..most {
        let commands = rig.sent(key(0, index), SendOutcome::Refused(RpcErrorClass::GasTooHigh));
        if index + 1 == most {
            // Its members wait for the cancel.
            assert!(!commands.contains(&refused(0, Some(RpcErrorClass::GasTooHigh))), "{commands:?}");
            assert_eq!(signs(&commands), [key(0, most)]);
            assert_eq!(rig.signed.last().unwrap().1.payload.gas_limit, config().cancel_gas);
            break;
        }
        assert!(commands.contains(&refused(0, Some(RpcErrorClass::GasTooHigh))), "{index}: {commands:?}");
        // An attempt that could not be committed was not refused.
        rig.lane.submit(rig.now, guarded(100_000)).unwrap();
        rig.drain();
        rig.event(Event::Abandoned { key: key(0, index + 1) });
        assert_eq!(rig.lane.submit(rig.now, guarded(100_000)).unwrap().nonce, 0);
        rig.drain();
        rig.commit(key(0, index + 1));
    }
}

#[test]
fn what_somebody_may_hold_does_not_make_way() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    for number in 101..110 {
        let commands = rig.head(number);
        assert!(!commands.iter().any(|command| matches!(command, Command::ReportRefused { .. })));
        for key in signs(&commands) {
            rig.commit(key);
        }
        for key in sends(&commands) {
            let commands = rig.sent(key, SendOutcome::Refused(RpcErrorClass::GasTooHigh));
            assert!(!commands.iter().any(|command| matches!(command, Command::ReportRefused { .. })));
        }
    }
    assert_eq!(rig.lane.in_flight(), 1);
}

#[test]
fn a_plan_that_could_not_be_committed_leaves_the_nonce_vacant() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::GasTooHigh));
    rig.lane.submit(rig.now, guarded(100_000)).unwrap();
    rig.drain();
    assert_eq!(rig.event(Event::Abandoned { key: key(0, 1) }), []);
    assert_eq!((rig.lane.in_flight(), rig.lane.next_nonce(), rig.lane.holds(0)), (0, Some(1), true));
    assert_eq!(rig.lane.submit(rig.now, guarded(100_000)).unwrap().nonce, 0);
}

#[test]
fn younger_ones_do_not_wait_for_a_vacant_nonce_for_ever() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.send(guarded(100_000));
    rig.taken(key(1, 0));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::GasTooHigh));
    let mut closed = Vec::new();
    for number in 101..101 + BUMP_AFTER + 1 {
        let commands = rig.head(number);
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
        closed.extend(signs(&commands).into_iter().filter(|key| key.nonce == 0));
    }
    assert_eq!((closed, rig.kind(key(0, 1))), (vec![key(0, 1)], AttemptKind::Cancel));
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
}

/// The outcome of a request whose attempts had the nonce is known only once the nonce is used.
#[test]
fn a_vacant_nonce_is_used_up_where_somebody_waits_to_know() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.event(Event::Fill { nonce: 0 });
    assert_eq!((rig.head(101), rig.lane.in_flight()), (vec![], 1), "it is not vacant");
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::GasTooHigh));
    assert_eq!(rig.head(102), [], "nobody waits for it");
    rig.event(Event::Fill { nonce: 0 });
    rig.event(Event::Fill { nonce: 7 });
    assert_eq!((signs(&rig.head(103)), rig.kind(key(0, 1))), (vec![key(0, 1)], AttemptKind::Cancel));
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
    rig.taken(key(0, 1));
    rig.event(Event::Fill { nonce: 0 });
    assert_eq!(signs(&rig.head(104)), [], "once");
}

#[test]
fn what_no_node_took_ends_with_its_time_and_costs_nothing() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(220));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::PoolFull));
    for number in 101..110 {
        let commands = rig.head(number);
        assert_eq!(signs(&commands), []);
        let full = SendOutcome::Refused(RpcErrorClass::PoolFull);
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, full)));
    }
    assert_eq!(rig.lane.blockage(), Some(Blockage { nonce: 0, trouble: Trouble::Refused(RpcErrorClass::PoolFull) }));
    assert_eq!(rig.head(110), [refused(0, Some(RpcErrorClass::PoolFull))]);
    // Its deadline passed before it was sent at all.
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.lane.submit(rig.now, guarded(202)).unwrap();
    rig.drain();
    rig.event(Event::Signed { key: key(0, 0), hash: hash(key(0, 0)) });
    rig.now = Timestamp::from_secs(202);
    assert_eq!(rig.event(Event::Persisted { key: key(0, 0) }), []);
    assert_eq!(rig.head(101), [refused(0, None)]);
}

/// Answers every broadcast as a node that requires this tip; returns the tips offered.
fn bargain(rig: &mut Rig, least_tip: u128, first: AttemptKey, until: u64) -> Vec<u128> {
    let mut tips = Vec::new();
    let mut coming = vec![first];
    let mut number = 100;
    while let Some(key) = coming.pop() {
        let tip = rig.fees(key).max_priority_fee_per_gas;
        tips.push(tip);
        if tip >= least_tip {
            rig.taken(key);
            return tips;
        }
        let commands = rig.sent(key, SendOutcome::Refused(RpcErrorClass::Underpriced));
        for key in signs(&commands) {
            coming.extend(sends(&rig.commit(key)));
        }
        if coming.is_empty() && number < until {
            number += 1;
            coming.extend(sends(&rig.head(number)));
        }
    }
    tips
}

#[test]
fn a_tip_that_nodes_refuse_is_raised_until_it_does() {
    for (least, base_fee) in [(2 * GWEI, 10 * GWEI), (3 * GWEI, 0), (19 * GWEI, 10 * GWEI)] {
        let mut rig = Rig::new(0);
        let quote = Fees::new(2 * base_fee + 1, 1);
        rig.head_with(HeadInfo { next_base_fee: base_fee, quote, ..head(100) });
        rig.event(terms(|_| {}));
        rig.send(guarded(100_000));
        let tips = bargain(&mut rig, least, key(0, 0), 100);
        assert!(*tips.last().unwrap() >= least && *tips.last().unwrap() < 2 * least.max(GWEI), "{tips:?}");
        assert!(tips.len() <= 12, "{tips:?}");
        assert!(tips.is_sorted());
    }
    // Nodes report the tip that they require.
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(terms(|_| {}));
    rig.send(guarded(100_000));
    rig.event(terms(|terms| terms.least_tip_wei_per_gas = 2 * GWEI));
    assert_eq!(bargain(&mut rig, 2 * GWEI, key(0, 0), 100), [GWEI, 2 * GWEI]);
    // A known requirement is offered at once, and only for the tip.
    rig.lane.submit(rig.now, guarded(100_000)).unwrap();
    rig.drain();
    assert_eq!(rig.fees(key(1, 0)), Fees::new(22 * GWEI, 2 * GWEI));
}

#[test]
fn a_tip_above_the_bound_is_not_offered_and_the_request_ends_with_that_reason() {
    for cap in [u128::MAX, 12 * GWEI] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.event(terms(|_| {}));
        rig.send(Plan { ceiling_wei_per_gas: cap.min(500 * GWEI), ..guarded(260) });
        let tips = bargain(&mut rig, 50 * GWEI, key(0, 0), 110);
        assert!(tips.iter().all(|tip| *tip <= 20 * GWEI && *tip <= cap), "{tips:?}");
        assert!(rig.lane.attempts(0) <= 10);
        assert_eq!(rig.head(130).last(), Some(&refused(0, Some(RpcErrorClass::Underpriced))));
    }
}

#[test]
fn a_tip_that_nobody_takes_moves_by_amounts_that_matter() {
    let wanted = 15_000_000;
    for suggested in [0, wanted] {
        let config = LaneConfig { replacement: ReplacementRule::CAPS, max_attempts: 32, ..config() };
        let mut rig =
            Rig { lane: Lane::restore(config, None, Vec::new()), now: Timestamp::from_secs(200), signed: vec![] };
        rig.event(Event::AccountNonce { latest: 0, finalized: None });
        let at = |number| HeadInfo { quote: Fees::new(20 * GWEI + 1, 1), ..head(number) };
        rig.head_with(at(100));
        rig.event(terms(|terms| terms.suggested_tip_wei_per_gas = suggested));
        rig.send(guarded(100_000));
        rig.taken(key(0, 0));
        let (mut number, mut last) = (100, key(0, 0));
        while rig.fees(last).max_priority_fee_per_gas < wanted {
            number += 1;
            let commands = rig.head_with(at(number));
            sends(&commands).into_iter().for_each(|key| rig.taken(key));
            for key in signs(&commands) {
                rig.commit(key);
                rig.taken(key);
                last = key;
            }
            assert!(number <= 100 + 2 * BUMP_AFTER, "the first bump does it");
        }
        let fees = rig.fees(last);
        assert!(fees.max_fee_per_gas < 25 * GWEI && fees.max_priority_fee_per_gas < 2 * wanted, "{fees:?}");
    }
}

#[test]
fn attempts_that_nobody_holds_are_not_used_up() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(terms(|_| {}));
    rig.send(guarded(100_000));
    let tips = bargain(&mut rig, 15 * GWEI, key(0, 0), 100);
    assert!(tips.len() > 4, "{tips:?}");
    // Five attempts are allowed, one is held: four bumps are left.
    let last = u32::try_from(tips.len() - 1).unwrap();
    let mut bumps = 0;
    for number in 101..101 + 5 * BUMP_AFTER {
        let commands = rig.head(number);
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
        for key in signs(&commands) {
            assert!(key.index > last);
            rig.commit(key);
            rig.taken(key);
            bumps += 1;
        }
    }
    assert_eq!(bumps, 4);
}

/// All attempts may be held, and nodes require one wei more than the last: it is offered after a restart, too.
#[test]
fn a_lane_whose_attempts_are_used_up_goes_on_at_the_markets_price() {
    let slots = vec![restored(0, &[AttemptKind::Payload; 5], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    let sent = sends(&rig.head(100));
    assert_eq!(sent, [key(0, 4)]);
    rig.sent(key(0, 4), SendOutcome::Refused(RpcErrorClass::Underpriced));
    let number = rig.until_signed(101, 0, SendOutcome::Refused(RpcErrorClass::Underpriced));
    assert!(number >= 100 + 2 * BUMP_AFTER, "slowly");
    assert_eq!(rig.lane.blockage(), Some(Blockage { nonce: 0, trouble: Trouble::AttemptsExhausted }));
    let last = Fees::new(61 * GWEI, 13 * GWEI);
    for client in ClientRule::PRICED {
        assert!(client.accepts(last, rig.fees(key(0, 5)), 10 * GWEI), "{client:?}");
    }
}

#[test]
fn a_cancel_is_raised_when_the_price_leaves_it_behind() {
    let slots = vec![restored(0, &[AttemptKind::Payload; 5], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    rig.head(100);
    rig.taken(key(0, 4));
    rig.now = Timestamp::from_secs(10_000);
    let late = |number, base_fee| HeadInfo {
        timestamp_s: 10_000,
        next_base_fee: base_fee,
        quote: Fees::new(2 * base_fee, GWEI),
        ..head(number)
    };
    assert_eq!(signs(&rig.head_with(late(101, 10 * GWEI))), [key(0, 5)]);
    rig.commit(key(0, 5));
    rig.taken(key(0, 5));
    let mut raised = Vec::new();
    for number in 102..120 {
        let commands = rig.head_with(late(number, 300 * GWEI));
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
        raised.extend(signs(&commands));
        for key in signs(&commands) {
            rig.commit(key);
            rig.taken(key);
        }
    }
    assert_eq!(raised.first(), Some(&key(0, 6)));
    assert_eq!(rig.kind(key(0, 6)), AttemptKind::Cancel);
    assert!(rig.fees(key(0, 6)).max_fee_per_gas >= 300 * GWEI);
}

#[test]
fn nothing_is_offered_above_the_nodes_fee_cap() {
    // 100 000 gas at 24 gwei.
    let cap = 100_000 * 24 * GWEI;
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(terms(|terms| terms.fee_cap_wei = Some(cap)));
    rig.send(guarded(100_000));
    rig.taken(key(0, 0));
    for number in 101..140 {
        let dearer = HeadInfo { quote: Fees::new(60 * GWEI, GWEI), ..head(number) };
        let commands = rig.head_with(dearer);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
        for key in signs(&commands) {
            assert!(rig.fees(key).max_fee_per_gas <= 24 * GWEI);
            rig.commit(key);
            rig.taken(key);
        }
    }
    assert_eq!(rig.lane.attempts(0), 2);
}

#[test]
fn a_single_request_that_is_too_dear_offers_less_and_a_batch_is_made_smaller() {
    let cap = 100_000 * 15 * GWEI;
    let mut alone = Rig::new(0);
    alone.head(100);
    alone.send(guarded(100_000));
    alone.event(terms(|terms| terms.fee_cap_wei = Some(cap)));
    let commands = alone.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InvalidFees));
    assert_eq!(signs(&commands), [key(0, 1)]);
    assert_eq!(alone.fees(key(0, 1)), Fees::new(15 * GWEI, GWEI));
    let mut batch = Rig::new(0);
    batch.head(100);
    batch.send(Plan { is_alone: false, ..guarded(100_000) });
    batch.event(terms(|terms| terms.fee_cap_wei = Some(cap)));
    let commands = batch.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InvalidFees));
    assert_eq!(signs(&commands), []);
    assert!(commands.contains(&refused(0, Some(RpcErrorClass::InvalidFees))));
}

#[test]
fn what_no_node_takes_at_the_price_that_it_needs_makes_way_for_younger_ones() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.taken(key(0, 0));
    rig.send(guarded(100_000));
    rig.taken(key(1, 0));
    // The price rises above what the nodes hold, and the replacement of the first one costs more than they allow.
    let dear = |number| HeadInfo { next_base_fee: 40 * GWEI, quote: Fees::new(45 * GWEI, GWEI), ..head(number) };
    let commands = rig.head_with(dear(101));
    assert!(signs(&commands).contains(&key(0, 1)), "{commands:?}");
    rig.commit(key(0, 1));
    rig.event(terms(|terms| terms.fee_cap_wei = Some(100_000 * 42 * GWEI)));
    rig.sent(key(0, 1), SendOutcome::Refused(RpcErrorClass::InvalidFees));
    let told: Vec<_> = (102..108).flat_map(|number| rig.head_with(dear(number))).collect();
    assert!(alerts(&told).contains(&"priced_out"), "{told:?}");
    let cancel = signs(&told).into_iter().find(|key| key.nonce == 0).expect("a cancel frees the nonce");
    assert_eq!(rig.kind(cancel), AttemptKind::Cancel);
}

#[test]
fn an_earlier_attempt_goes_again_while_its_replacement_is_too_dear() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(guarded(100_000));
    rig.taken(key(0, 0));
    let mut number = 100;
    let mut next = |rig: &mut Rig| {
        number += 1;
        let commands = rig.head(number);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
        commands
    };
    let is_replaced = (0..20).any(|_| signs(&next(&mut rig)).contains(&key(0, 1)));
    assert!(is_replaced, "no block takes it");
    rig.commit(key(0, 1));
    rig.sent(key(0, 1), SendOutcome::Refused(RpcErrorClass::InvalidFees));
    // The node that had taken the first one may have dropped it.
    let again: Vec<_> = (0..20).flat_map(|_| sends(&next(&mut rig))).collect();
    assert!(!again.is_empty() && again.iter().all(|sent| *sent == key(0, 0)), "{again:?}");
}
