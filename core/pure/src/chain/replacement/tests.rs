use proptest::prelude::*;

use super::*;

const GWEI: u128 = 1_000_000_000;

#[track_caller]
fn check(rule: ReplacementRule, old: Fees, base_fee: u128, expect: Fees) {
    assert_eq!(rule.min_replacement(old, base_fee), Some(expect));
}

#[test]
fn caps_round_up_and_add_one() {
    let rule = ReplacementRule::CAPS;
    check(rule, Fees::new(0, 0), 5, Fees::new(1, 1));
    check(rule, Fees::new(1, 1), 5, Fees::new(3, 3));
    check(rule, Fees::new(9, 9), 5, Fees::new(11, 11));
    check(rule, Fees::new(10, 10), 5, Fees::new(12, 12));
    check(rule, Fees::new(297_156, 15), 5, Fees::new(326_873, 18));
    check(rule, Fees::new(100 * GWEI, GWEI), 50 * GWEI, Fees::new(110 * GWEI + 1, 1_100_000_001));
}

#[test]
fn effective_price_clients_need_a_tenth_of_the_base_fee() {
    let old = Fees::new(50 * GWEI, GWEI);
    let base = 20 * GWEI;
    check(ReplacementRule::SAFE_EVERYWHERE, old, base, Fees::new(55 * GWEI + 1, 3_100_000_001));
    // The caps alone are refused by besu, which is the point of the second rule.
    let caps = ReplacementRule::CAPS.min_replacement(old, base).expect("fits");
    assert!(ClientRule::Geth.accepts(old, caps, base) && !ClientRule::Besu.accepts(old, caps, base));
}

#[test]
fn the_cap_makes_room_for_the_tip() {
    let old = Fees::new(20 * GWEI, 0);
    let new = ReplacementRule::SAFE_EVERYWHERE.min_replacement(old, 20 * GWEI).expect("fits");
    assert_eq!(new, Fees::new(22 * GWEI + 1, 2 * GWEI + 1));
}

#[test]
fn chains_without_replacement() {
    for rule in [ReplacementRule::NoPool, ReplacementRule::SilentOverwrite] {
        assert_eq!(rule.min_replacement(Fees::new(1, 1), 1), None);
        assert_eq!(rule.replacement(Fees::new(1, 1), 1), Err(ReplacementError::NotSupported));
        assert_eq!(rule.blob_replacement(BlobFees::default(), 1), Err(ReplacementError::NotSupported));
        assert!(!rule.is_supported());
    }
}

#[test]
fn near_the_end_it_overflows_instead_of_wrapping() {
    // ⌈1.1·x⌉ + 1 fits up to this x.
    let last = U256::from(u128::MAX - 1) * U256::from(10) / U256::from(11);
    let last = u128::try_from(last).expect("fits");
    assert!(ReplacementRule::CAPS.min_replacement(Fees::new(last, 0), 0).is_some());
    for max_fee_per_gas in [last + 1, u128::MAX - 1, u128::MAX] {
        let old = Fees::new(max_fee_per_gas, 0);
        let overflow = Err(ReplacementError::Overflow { max_fee_per_gas });
        assert_eq!(ReplacementRule::CAPS.replacement(old, 0), overflow);
        assert_eq!(ReplacementRule::CAPS.min_replacement(old, 0), None);
    }
    assert_eq!(ReplacementRule::SAFE_EVERYWHERE.min_replacement(Fees::new(1, 1), u128::MAX), None);
}

#[test]
fn blob_fees_double_and_one() {
    let old = BlobFees { fees: Fees::new(10, 3), max_fee_per_blob_gas: 1 };
    let expect = BlobFees { fees: Fees::new(21, 7), max_fee_per_blob_gas: 3 };
    assert_eq!(ReplacementRule::CAPS.blob_replacement(old, 0), Ok(expect));
}

#[test]
fn clients_refuse_what_they_should() {
    let old = Fees::new(100, 10);
    for client in ClientRule::PRICED {
        assert!(!client.accepts(old, old, 5), "{client:?} takes equal fees");
        assert!(!client.accepts(old, Fees::new(110, 111), 5), "{client:?} takes a tip above the cap");
    }
    assert!(ClientRule::Geth.accepts(Fees::new(15, 15), Fees::new(16, 16), 0), "16.5 rounds down in geth");
    assert!(!ClientRule::Reth.accepts(Fees::new(15, 15), Fees::new(16, 16), 0), "and up in reth");
    assert!(ClientRule::Anvil.accepts(old, Fees::new(101, 10), 0));
    assert!(!ClientRule::Besu.accepts(Fees::new(30, 1), Fees::new(60, 2), 20), "22 is below 1.1 times 21");
    assert!(ClientRule::Besu.accepts(Fees::new(10, 5), Fees::new(11, 11), 20), "caps below the base fee");
    assert!(!ClientRule::Arbitrum.accepts(old, Fees::new(1_000, 1_000), 0));
}

#[test]
fn serde_form() {
    let json = serde_json::to_value(ReplacementRule::SAFE_EVERYWHERE).expect("serialises");
    let expect = serde_json::json!({
        "kind": "bump", "bump_bps": 1000, "extra_wei_per_gas": "1", "blob_bump_bps": 10000,
        "compares": "caps_and_effective"
    });
    assert_eq!(json, expect);
    assert_eq!(serde_json::from_value::<ReplacementRule>(expect).expect("reads"), ReplacementRule::SAFE_EVERYWHERE);
    let unknown = serde_json::json!({ "kind": "no_pool", "bump": 1 });
    assert!(serde_json::from_value::<ReplacementRule>(unknown).is_err());
}

/// Fees of every order of magnitude, and values known for rounding bugs.
fn price() -> impl Strategy<Value = u128> {
    prop_oneof![
        prop::sample::select(vec![0, 1, 9, 10, 11, 15, 297_156, GWEI, GWEI + 1, u128::MAX - 1, u128::MAX]),
        (0_u32..128, any::<u128>()).prop_map(|(bits, x)| x >> bits),
    ]
}

fn fees() -> impl Strategy<Value = Fees> {
    (price(), price()).prop_map(|(a, b)| Fees::new(a.max(b), a.min(b)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_by_every_client(old in fees(), base in price(), lower in any::<u128>()) {
        // The base fee may have fallen by the time the node looks.
        let at = [base, lower % base.saturating_add(1), 0];
        match ReplacementRule::SAFE_EVERYWHERE.replacement(old, base) {
            Ok(new) => {
                prop_assert!(new.is_well_formed());
                for client in ClientRule::PRICED {
                    for base in at {
                        prop_assert!(client.accepts(old, new, base), "{client:?} at {base}: {old:?} -> {new:?}");
                    }
                }
            }
            Err(e) => {
                prop_assert_eq!(e, ReplacementError::Overflow { max_fee_per_gas: old.max_fee_per_gas });
                prop_assert!(old.max_fee_per_gas.max(base) > u128::MAX / 10 * 8, "refused without need");
            }
        }
    }

    #[test]
    fn caps_suffice_for_geth_like_pools(old in fees(), base in price()) {
        if let Ok(new) = ReplacementRule::CAPS.replacement(old, base) {
            use ClientRule::{Anvil, Erigon, Ethrex, Geth, Nethermind, Reth, RethOld};
            for client in [Geth, Reth, RethOld, Erigon, Nethermind, Ethrex, Anvil] {
                prop_assert!(client.accepts(old, new, base), "{client:?}: {old:?} -> {new:?}");
            }
        }
    }

    #[test]
    fn blobs_accepted_by_every_client(old in fees(), blob in price(), base in price()) {
        let old = BlobFees { fees: old, max_fee_per_blob_gas: blob };
        if let Ok(new) = ReplacementRule::SAFE_EVERYWHERE.blob_replacement(old, base) {
            for client in ClientRule::PRICED {
                prop_assert!(client.accepts_blob(old, new, base), "{client:?}: {old:?} -> {new:?}");
            }
        }
    }

    #[test]
    fn malformed_old_fees_still_give_a_well_formed_bump(cap in price(), tip in price(), base in price()) {
        if let Ok(new) = ReplacementRule::SAFE_EVERYWHERE.replacement(Fees::new(cap, tip), base) {
            prop_assert!(new.is_well_formed());
        }
    }
}
