//! S5: replacements and ceilings.

use super::*;

#[test]
fn s5_bumps_at_the_boundaries_satisfy_every_client() {
    let gwei = [0, 1, 9, 10, 11, 15, 297, 156, GWEI, GWEI + 1, 1_000_000_007 * GWEI];
    for tip in gwei {
        for base_fee in gwei {
            let mut rig = Rig { lane: lane_without_ceiling(), now: Timestamp::from_secs(200), signed: Vec::new() };
            rig.event(Event::AccountNonce { latest: 0, finalized: None });
            let quote = Fees::new(base_fee * 2 + tip, tip);
            let at = |number| HeadInfo { next_base_fee: base_fee, quote, ..head(number) };
            rig.head_with(at(100));
            let nonce = rig.send(Plan { ceiling_wei_per_gas: u128::MAX, ..plan(100_000) });
            rig.taken(key(nonce, 0));
            for index in 1..4 {
                let mut number = 100 + u64::from(index) * 10;
                let mut signed = Vec::new();
                while signed.is_empty() {
                    number += 1;
                    let commands = rig.head_with(at(number));
                    sends(&commands).into_iter().for_each(|key| rig.taken(key));
                    signed = signs(&commands);
                }
                assert_eq!(signed, [key(0, index)]);
                let (old, new) = (rig.fees(key(0, index - 1)), rig.fees(key(0, index)));
                for client in ClientRule::PRICED {
                    assert!(client.accepts(old, new, base_fee), "{client:?}: {old:?} → {new:?} at {base_fee}");
                }
                rig.commit(key(0, index));
                rig.taken(key(0, index));
            }
        }
    }
}

fn lane_without_ceiling() -> Lane {
    Lane::restore(LaneConfig { max_fee_ceiling_wei_per_gas: u128::MAX, ..config() }, None, Vec::new())
}

#[test]
fn s5_prices_that_can_not_be_outbid_wait() {
    let mut rig = Rig { lane: lane_without_ceiling(), now: Timestamp::from_secs(200), signed: Vec::new() };
    rig.event(Event::AccountNonce { latest: 0, finalized: None });
    let at = |number| HeadInfo { quote: Fees::new(u128::MAX - 5, u128::MAX - 5), ..head(number) };
    rig.head_with(at(100));
    let nonce = rig.send(Plan { ceiling_wei_per_gas: u128::MAX, ..plan(100_000) });
    rig.taken(key(nonce, 0));
    for number in 101..130 {
        let commands = rig.head_with(at(number));
        assert_eq!(signs(&commands), []);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
    }
}

#[test]
fn s5_a_refused_bump_leaves_the_baseline() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let number = rig.until_signed(101, 0, SendOutcome::Taken);
    let first = rig.fees(key(0, 1));
    rig.commit(key(0, 1));
    let refused = SendOutcome::Refused(RpcErrorClass::ReplacementUnderpriced);
    rig.sent(key(0, 1), refused);
    // A pool may compare prices at the base fee of an earlier block: the price that it would require is tried once.
    let least = |rig: &Rig, base_fee| {
        let least = |base_fee| ReplacementRule::SAFE_EVERYWHERE.min_replacement(rig.fees(key(0, 0)), base_fee).unwrap();
        least(base_fee).max_of_each(least(base_fee + base_fee / 7))
    };
    let number = rig.until_signed(number + 1, 0, refused);
    let second = rig.fees(key(0, 2));
    assert!(second.max_priority_fee_per_gas > first.max_priority_fee_per_gas);
    rig.commit(key(0, 2));
    rig.sent(key(0, 2), refused);
    // At the same prices the next bump would have the same bytes: they are sent again, nothing is signed.
    for number in number + 1..number + 30 {
        let commands = rig.head(number);
        assert_eq!(signs(&commands), []);
        assert_eq!(sends(&commands), [key(0, 2)]);
        rig.sent(key(0, 2), refused);
    }
    // At a higher base fee the bump starts from the attempt that is held, not from the refused one.
    let dearer = HeadInfo { next_base_fee: 20 * GWEI, quote: Fees::new(30 * GWEI, GWEI), ..head(number + 30) };
    assert_eq!(signs(&rig.head_with(dearer)), [key(0, 3)]);
    let expect = least(&rig, 20 * GWEI);
    assert_eq!(rig.fees(key(0, 3)), expect.max_of_each(dearer.quote));
    assert!(first != expect);
}

/// A send that timed out may have arrived; a later refusal of the same bytes does not disprove that.
#[test]
fn s5_a_refusal_does_not_undo_a_doubt() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    rig.until_signed(101, 0, SendOutcome::Refused(RpcErrorClass::RateLimited));
    let (old, new) = (rig.fees(key(0, 0)), rig.fees(key(0, 1)));
    for client in ClientRule::PRICED {
        assert!(client.accepts(old, new, 10 * GWEI), "{client:?}: {old:?} → {new:?}");
    }
}

/// A batch may offer a price other than the quote, never above its ceiling; replacements follow the quote and the rule.
#[test]
fn an_offer_of_its_own_stays_under_the_ceiling() {
    let mut rig = Rig::new(0);
    rig.head(100);
    let own = Fees::new(17 * GWEI, 2 * GWEI);
    rig.lane.submit_offering(rig.now, plan(100_000), Some(own)).unwrap();
    rig.drain();
    rig.commit(key(0, 0));
    rig.taken(key(0, 0));
    assert_eq!(rig.fees(key(0, 0)), own);
    let capped = Plan { ceiling_wei_per_gas: 15 * GWEI, ..plan(100_000) };
    rig.lane.submit_offering(rig.now, capped, Some(Fees::new(900 * GWEI, 800 * GWEI))).unwrap();
    rig.drain();
    assert_eq!(rig.fees(key(1, 0)), Fees::new(15 * GWEI, 15 * GWEI));
    rig.commit(key(1, 0));
    rig.taken(key(1, 0));
    let low = rig.lane.submit_offering(rig.now, plan(100_000), Some(Fees::new(9 * GWEI, GWEI)));
    assert!(matches!(low, Err(LaneError::AboveCeiling { quote_wei_per_gas, .. }) if quote_wei_per_gas == 10 * GWEI));
    let number = rig.until_signed(101, 0, SendOutcome::Taken);
    let least = config().replacement.min_replacement(own, head(number).next_base_fee).unwrap();
    assert_eq!(rig.fees(key(0, 1)), least.max_of_each(head(number).quote));
}

#[test]
fn s5_under_a_ceiling_below_the_quote() {
    let mut rig = Rig::new(0);
    rig.head(100);
    // The quote is 21 gwei; 15 would do for the next block.
    let nonce = rig.send(Plan { ceiling_wei_per_gas: 15 * GWEI, ..plan(100_000) });
    let first = rig.fees(key(nonce, 0));
    assert_eq!(first, Fees::new(13_125_000_000, GWEI), "room for one bump is left");
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::Underpriced));
    let mut bumps = Vec::new();
    for number in 101..120 {
        let commands = rig.head(number);
        bumps.extend(signs(&commands));
        for key in signs(&commands) {
            rig.commit(key);
            rig.taken(key);
        }
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
    }
    assert_eq!(bumps, [key(0, 1)], "and used; afterwards the same bytes");
    let second = rig.fees(key(0, 1));
    assert!(second.max_fee_per_gas <= 15 * GWEI);
    for client in ClientRule::PRICED {
        assert!(client.accepts(first, second, 10 * GWEI), "{client:?}");
    }
    // Below the next block's fee a nonce is not worth it.
    let refused = rig.lane.submit(rig.now, Plan { ceiling_wei_per_gas: 9 * GWEI, ..plan(100_000) });
    assert!(matches!(refused, Err(LaneError::AboveCeiling { .. })));
    assert_eq!(rig.lane.next_nonce(), Some(1));
}
