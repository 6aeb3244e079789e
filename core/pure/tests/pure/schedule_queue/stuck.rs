//! A lane that can carry none of the waiting requests does not check them again before something changes, and misses
//! nothing by that.

use super::*;

/// A lane with this balance, wei.
fn with_wei(available_wei: u64) -> ComposeLimits {
    ComposeLimits { available_wei: Some(U256::from(available_wei)), ..limits() }
}

fn sized(from: u16, nonce: u64, gas: u64, seq: u64) -> QueuedRequest {
    QueuedRequest { gas, ..forward(from, nonce, 100_000 + 1_000 * seq, "t", seq) }
}

#[derive(Debug, Clone)]
enum Step {
    Push { from: u16, gas: u64, ceiling: u128, slack: u64 },
    Remove { pick: prop::sample::Index },
    Settle { pick: prop::sample::Index, executed: bool },
    Compose { lane: u8, wei: u64, within: u64 },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..6, prop_oneof![Just(50_000), Just(200_000), Just(900_000)], 5u128..60, 0u64..90_000)
            .prop_map(|(from, gas, ceiling, slack)| Step::Push { from, gas, ceiling, slack }),
        1 => any::<prop::sample::Index>().prop_map(|pick| Step::Remove { pick }),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(pick, executed)| Step::Settle { pick, executed }),
        6 => (0u8..2, prop_oneof![Just(0u64), Just(3_500_000), Just(8_000_000), Just(40_000_000)], 0u64..60_000)
            .prop_map(|(lane, wei, within)| Step::Compose { lane, wei, within }),
        2 => (1u64..30_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_is_what_a_fresh_look_would_find(steps in prop::collection::vec(step(), 1..120)) {
        let (mut queue, mut fresh, mut now) = (with_multicall(), with_multicall(), Timestamp(1_000_000));
        let (mut nonces, mut flying) = (BTreeMap::new(), Vec::<(u8, Selection)>::new());
        let mut waiting = BTreeMap::new();
        for (seq, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { from, gas, ceiling, slack } => {
                    let nonce = nonces.entry(from).or_insert(0u64);
                    let mut entry = forward(from, *nonce, now.0 + slack, "t", seq as u64);
                    (entry.gas, entry.ceiling_wei_per_gas, entry.accepted_at) = (gas, ceiling, now);
                    *nonce += 1;
                    for queue in [&mut queue, &mut fresh] {
                        queue.push(entry.clone());
                        queue.set_chain_nonce(FORWARDER, signer(from), 0);
                    }
                    waiting.insert(entry.seq, entry.request.id());
                }
                Step::Remove { pick } => {
                    if let Some(&seq) = waiting.keys().nth(pick.index(waiting.len().max(1))) {
                        let id = waiting.remove(&seq).unwrap();
                        for queue in [&mut queue, &mut fresh] { assert!(queue.remove(id, true).is_some()) }
                    }
                }
                Step::Settle { pick, executed } => {
                    if !flying.is_empty() {
                        let (_, selection) = flying.swap_remove(pick.index(flying.len()));
                        for queue in [&mut queue, &mut fresh] {
                            for id in &selection.members {
                                if executed { drop(queue.remove(*id, true)) } else { queue.put_back(*id) }
                            }
                        }
                    }
                }
                Step::Compose { lane: index, wei, within } => {
                    let within = Within(Duration::from_millis(within), Duration::ZERO);
                    let limits = with_wei(wei);
                    // A cap that is never reached: these limits never equal those of an earlier check.
                    let others = ComposeLimits { fee_cap_wei: Some(u128::MAX - seq as u128), ..limits };
                    let chosen = queue.compose(now, lane(index), &limits, &within);
                    let expected = fresh.compose(now, lane(index), &others, &within);
                    prop_assert_eq!(
                        chosen.as_ref().map(|chosen| (&chosen.members, chosen.trigger)),
                        expected.as_ref().map(|chosen| (&chosen.members, chosen.trigger))
                    );
                    prop_assert_eq!(queue.short().is_some(), fresh.short().is_some());
                    if let Some(chosen) = chosen {
                        waiting.retain(|_, id| !chosen.members.contains(id));
                        flying.push((index, chosen));
                    }
                }
                Step::Wait { ms } => now = now.saturating_add(Duration::from_millis(ms)),
            }
        }
    }
}

#[test]
fn thousands_who_are_too_dear_cost_one_look() {
    let mut queue = with_multicall();
    for from in 0..20_000u16 {
        queue.push(sized(from, 0, 900_000, u64::from(from)));
        queue.set_chain_nonce(FORWARDER, signer(from), 0);
    }
    // Checking a thousand at each of these would make forty million checks.
    let poor = with_wei(3_500_000);
    for from in 0..20_000u16 {
        queue.push(sized(from, 1, 900_000, 20_000 + u64::from(from)));
        assert!(queue.compose(Timestamp(1), lane(0), &poor, &ANY_PRICE).is_none());
        assert!(queue.compose(Timestamp(1), lane(0), &poor, &ANY_PRICE).is_none());
    }
    // A request that can be paid for is found all the same, although it is last.
    queue.push(QueuedRequest { due: Timestamp(2), ..sized(60_000, 0, 50_000, 40_001) });
    queue.set_chain_nonce(FORWARDER, signer(60_000), 0);
    assert_eq!(compose(&mut queue, 1, &poor).members.len(), 1);
    assert!(queue.compose(Timestamp(1), lane(0), &poor, &ANY_PRICE).is_none());
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 8);
}
