use proptest::prelude::*;

use super::*;

const GWEI: u128 = 1_000_000_000;

fn header(base_fee_per_gas: u128, gas_used: u64, gas_limit: u64) -> FeeHeader {
    FeeHeader { base_fee_per_gas, gas_used, gas_limit, ..FeeHeader::default() }
}

#[test]
fn a_small_fee_stops_falling() {
    for (base, next) in [(9, 8), (8, 7), (7, 7), (1, 1), (0, 0)] {
        assert_eq!(next_base_fee(&header(base, 0, 30_000_000), &BaseFeeParams::ETHEREUM), Ok(next), "{base}");
    }
    // … and still rises by at least one wei.
    assert_eq!(next_base_fee(&header(0, 30_000_000, 30_000_000), &BaseFeeParams::ETHEREUM), Ok(1));
}

#[test]
fn malformed_headers_are_errors() {
    let params = BaseFeeParams::ETHEREUM;
    assert_eq!(next_base_fee(&header(1, 0, 0), &params), Err(FeeError::ZeroTarget { gas_limit: 0 }));
    assert_eq!(next_base_fee(&header(1, 0, 1), &params), Err(FeeError::ZeroTarget { gas_limit: 1 }));
    let above = FeeError::GasAboveLimit { metered: 11, gas_limit: 10 };
    assert_eq!(next_base_fee(&header(1, 11, 10), &params), Err(above));
    let no_elasticity = BaseFeeParams::new(8, 0);
    assert_eq!(next_base_fee(&header(1, 0, 10), &no_elasticity), Err(FeeError::ZeroTarget { gas_limit: 10 }));
    assert_eq!(next_base_fee(&header(1, 0, 10), &BaseFeeParams::new(0, 2)), Err(FeeError::ZeroDenominator));
    let overflow = FeeError::Overflow { base_fee: u128::MAX };
    assert_eq!(next_base_fee(&header(u128::MAX, 10, 10), &params), Err(overflow));
    assert_eq!(next_base_fee(&header(u128::MAX, 5, 10), &params), Ok(u128::MAX));
}

#[test]
fn target_in_basis_points() {
    // Polygon PoS: 65 % of the limit, denominator 64; a full block moves the fee by 35/65/64, under 1 %.
    let params = BaseFeeParams { target: GasTarget::Bps(6_500), ..BaseFeeParams::new(64, 2) };
    assert_eq!(next_base_fee(&header(GWEI, 19_500_000, 30_000_000), &params), Ok(GWEI));
    assert_eq!(next_base_fee(&header(GWEI, 30_000_000, 30_000_000), &params), Ok(1_008_413_461));
    assert_eq!(next_base_fee(&header(GWEI, 0, 30_000_000), &params), Ok(984_375_000));
    assert_eq!(max_base_fee_after(GWEI, 1, &params), 1_008_413_461);
}

#[test]
fn upper_bound_is_the_recursion_of_full_blocks() {
    let params = BaseFeeParams::ETHEREUM;
    assert_eq!(max_base_fee_after(GWEI, 0, &params), GWEI);
    assert_eq!(max_base_fee_after(GWEI, 1, &params), 1_125_000_000);
    assert_eq!(max_base_fee_after(GWEI, 2, &params), 1_265_625_000);
    assert_eq!(max_base_fee_after(0, 3, &params), 3);
    assert_eq!(max_base_fee_after(GWEI, 10_000, &params), u128::MAX);
    assert_eq!(max_base_fee_after(1, u64::MAX, &params), u128::MAX);
    assert_eq!(max_base_fee_after(GWEI, 5, &BaseFeeParams::new(8, 1)), GWEI, "the target is the limit");
    assert_eq!(max_base_fee_after(GWEI, 5, &BaseFeeParams::new(8, 0)), u128::MAX);
    let floor = BaseFeeParams { min_base_fee: 2 * GWEI, ..params };
    assert_eq!(max_base_fee_after(GWEI, 0, &floor), 2 * GWEI);
}

#[test]
fn bounded_rule_clamps_the_estimate() {
    let estimate = BaseFeeParams::new(8, 2);
    let rule = BaseFeeRule::Bounded { max_change_bps: 500, estimate };
    let full = header(100 * GWEI, 30_000_000, 30_000_000);
    assert_eq!(rule.next(&full, &[]), Ok(NextBaseFee::Estimate(105 * GWEI)));
    let empty = FeeHeader { gas_used: 0, ..full };
    assert_eq!(rule.next(&empty, &[]), Ok(NextBaseFee::Estimate(95 * GWEI)));
    assert_eq!(rule.max_after(100 * GWEI, 2, &[]), Some(110_250_000_000));
    assert_eq!(rule.max_after(1, 2, &[]), Some(3), "at least one wei a block");
    assert_eq!(rule.max_after(u128::MAX, 2, &[]), Some(u128::MAX));
}

#[test]
fn rules_without_recursion() {
    let parent = header(5, 0, 1 << 50);
    let operator = BaseFeeRule::Operator { min_base_fee_wei_per_gas: 7 };
    assert_eq!(operator.next(&parent, &[]), Ok(NextBaseFee::Estimate(7)));
    assert_eq!(operator.max_after(7, 1, &[]), None);
    let backlog = BaseFeeRule::Backlog { min_base_fee_wei_per_gas: 20_000_000 };
    assert_eq!(backlog.next(&parent, &[]), Ok(NextBaseFee::Estimate(20_000_000)));
    let most = backlog.max_after(20_000_000, 1, &[]).expect("bounded by the curve");
    assert!((300..400).contains(&(most / 20_000_000)), "{most}");
    assert_eq!(backlog.max_after(u128::MAX, 1, &[]), Some(u128::MAX));
    assert_eq!((operator.floor(), backlog.floor()), (7, 20_000_000));
}

#[test]
fn op_stack_falls_back_only_without_extra_data() {
    let fallback = BaseFeeParams::new(250, 6);
    let rule = BaseFeeRule::OpStack { fallback };
    let parent = header(GWEI, 10_000_000, 30_000_000);
    assert_eq!(rule.next(&parent, &[]), Ok(NextBaseFee::Exact(1_004_000_000)));
    let unknown = OpExtraDataError::UnknownVersion { version: 9, len: 1 };
    assert_eq!(rule.next(&parent, &[9]), Err(FeeError::ExtraData(unknown)));
    assert_eq!(rule.max_after(GWEI, 1, &[9]), None);
    let holocene = [0, 0, 0, 0, 50, 0, 0, 0, 6];
    assert_eq!(rule.next(&parent, &holocene), Ok(NextBaseFee::Exact(1_020_000_000)));
    assert_eq!(rule.max_after(GWEI, 1, &holocene), Some(1_100_000_000));
}

#[test]
fn serde_form() {
    let rule = BaseFeeRule::Eip1559(BaseFeeParams::ETHEREUM);
    let json = serde_json::json!({ "kind": "eip1559", "denominator": 8, "target": { "elasticity": 2 } });
    assert_eq!(serde_json::from_value::<BaseFeeRule>(json).expect("reads"), rule);
    let back = serde_json::to_value(rule).expect("serialises");
    assert_eq!(serde_json::from_value::<BaseFeeRule>(back).expect("reads back"), rule);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_above_the_bound(
        bits in 0_u32..128, x in any::<u128>(), target in 1_u64..100_000_000, used_bps in 0_u64..=10_000,
        denominator in 1_u64..1_000, elasticity in 1_u64..20, floor in 0_u128..10_000_000_000,
    ) {
        let gas_limit = target * elasticity;
        let parent = header(x >> bits, gas_limit / 10_000 * used_bps, gas_limit);
        let params = BaseFeeParams { min_base_fee: floor, ..BaseFeeParams::new(denominator, elasticity) };
        if let Ok(next) = next_base_fee(&parent, &params) {
            prop_assert!(next <= max_base_fee_after(parent.base_fee_per_gas, 1, &params));
            prop_assert!(next >= floor);
        }
        let full = FeeHeader { gas_used: gas_limit, ..parent };
        let exact = next_base_fee(&full, &BaseFeeParams { min_base_fee: 0, ..params });
        let bound = max_base_fee_after(parent.base_fee_per_gas, 1, &BaseFeeParams { min_base_fee: 0, ..params });
        prop_assert_eq!(exact.unwrap_or(u128::MAX), bound, "exact for a full block");
    }

    #[test]
    fn extra_data_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(params) = OpBaseFeeParams::parse(&bytes) {
            prop_assert!(params.denominator > 0 && params.elasticity > 0);
        }
    }
}
