//! Published fee vectors: `tests/vectors/fees.json`. L1 data fees have their own test.

use std::str::FromStr;

use serde_json::Value;
use slackwater_core::chain::{
    BaseFeeParams, BaseFeeRule, BlobParams, FeeHeader, GasTarget, LineaPricing, Metering, NextBaseFee, OpBaseFeeParams,
    arbitrum, fake_exponential, next_base_fee, next_excess_blob_gas,
};

/// Rows of one section; never none, so that a renamed section fails.
fn rows(section: &str, count: usize) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/fees.json")).expect("the vectors parse");
    let rows = file[section].as_array().expect(section).clone();
    assert_eq!(rows.len(), count, "{section}: rows may be added, with this number; none may go");
    rows
}

/// A number or a decimal string.
#[track_caller]
fn number<T: FromStr>(row: &Value, key: &str) -> T {
    let text = row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
    text.parse().ok().unwrap_or_else(|| panic!("{key} of {row}"))
}

fn bytes(row: &Value, key: &str) -> Vec<u8> {
    hex::decode(row[key].as_str().expect(key)).expect(key)
}

fn base_fee_row(row: &Value) -> (FeeHeader, BaseFeeParams, u128) {
    let header = FeeHeader {
        base_fee_per_gas: number(row, "parent_base_fee"),
        gas_limit: number(row, "parent_gas_limit"),
        gas_used: number(row, "parent_gas_metered"),
        ..FeeHeader::default()
    };
    let params = BaseFeeParams {
        min_base_fee: number(row, "min_base_fee"),
        ..BaseFeeParams::new(number(row, "denominator"), number(row, "elasticity"))
    };
    (header, params, number(row, "next_base_fee"))
}

#[test]
fn eip1559_next_base_fee() {
    for row in rows("eip1559_next_base_fee", 20) {
        let (header, params, expect) = base_fee_row(&row);
        assert_eq!(next_base_fee(&header, &params), Ok(expect), "{row}");

        // The same gas as DA footprint counts alike under Jovian metering, and not at all before.
        let footprint = FeeHeader { gas_used: 0, blob_gas_used: Some(header.gas_used), ..header };
        let jovian = BaseFeeParams { metering: Metering::GasOrDaFootprint, ..params };
        assert_eq!(next_base_fee(&footprint, &jovian), Ok(expect), "{row}");
        let idle = FeeHeader { gas_used: 0, ..header };
        assert_eq!(next_base_fee(&footprint, &params), next_base_fee(&idle, &params), "{row}");
    }
}

#[test]
fn op_stack_rule_reads_the_header() {
    let rule = BaseFeeRule::OpStack { fallback: BaseFeeParams::new(250, 6) };
    for row in rows("eip1559_next_base_fee", 20) {
        let (header, params, expect) = base_fee_row(&row);
        let GasTarget::Elasticity(elasticity) = params.target else { panic!("{row}") };
        let mut extra = vec![1];
        extra.extend(u32::try_from(params.denominator).expect("fits").to_be_bytes());
        extra.extend(u32::try_from(elasticity).expect("fits").to_be_bytes());
        extra.extend(u64::try_from(params.min_base_fee).expect("fits").to_be_bytes());
        assert_eq!(rule.next(&header, &extra), Ok(NextBaseFee::Exact(expect)), "{row}");
    }
}

#[test]
fn op_extra_data() {
    for row in rows("op_extra_data", 2) {
        let parsed = OpBaseFeeParams::parse(&bytes(&row, "hex")).expect("parses");
        let expect = OpBaseFeeParams {
            denominator: number(&row, "denominator"),
            elasticity: number(&row, "elasticity"),
            min_base_fee: (!row["min_base_fee"].is_null()).then(|| number(&row, "min_base_fee")),
        };
        assert_eq!(parsed, expect, "{row}");
    }
}

#[test]
fn eip4844_fake_exponential() {
    for row in rows("fake_exponential", 15) {
        let (factor, numerator, denominator) =
            (number(&row, "factor"), number(&row, "numerator"), number(&row, "denominator"));
        assert_eq!(fake_exponential(factor, numerator, denominator), number(&row, "value"), "{row}");
    }
}

#[test]
fn eip7918_excess_blob_gas() {
    for row in rows("excess_blob_gas", 4) {
        let parent = FeeHeader {
            base_fee_per_gas: number(&row, "parent_base_fee"),
            excess_blob_gas: Some(number(&row, "parent_excess")),
            blob_gas_used: Some(number(&row, "parent_used")),
            ..FeeHeader::default()
        };
        let params = BlobParams {
            target_blobs: number(&row, "target_blobs"),
            max_blobs: number(&row, "max_blobs"),
            update_fraction: number(&row, "update_fraction"),
            has_reserve_price: true,
        };
        assert_eq!(next_excess_blob_gas(&parent, &params), Ok(number(&row, "excess")), "{row}");
    }
}

#[test]
fn arbitrum_exponential() {
    for row in rows("arbitrum_approx_exp_bips", 6) {
        assert_eq!(arbitrum::approx_exp_bps(number(&row, "bips")), number::<u64>(&row, "value"), "{row}");
    }
}

#[test]
fn linea_extra_data() {
    for row in rows("linea_extra_data", 2) {
        let mut extra = bytes(&row, "hex_prefix");
        let expect = LineaPricing {
            fixed_cost_wei: number(&row, "fixed_cost_wei"),
            variable_cost_wei: number(&row, "variable_cost_wei"),
            eth_gas_price_wei: number(&row, "eth_gas_price_wei"),
        };
        assert_eq!(LineaPricing::parse(&extra), Ok(expect), "{row}");
        assert!(LineaPricing::parse(&extra[..12]).is_err(), "{row}");
        extra.resize(32, 0);
        assert_eq!(LineaPricing::parse(&extra), Ok(expect), "{row}: padded as in headers");
        extra[0] = 2;
        assert!(LineaPricing::parse(&extra).is_err(), "{row}: unknown version");
    }
}
