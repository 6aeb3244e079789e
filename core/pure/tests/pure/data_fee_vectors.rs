//! Published vectors of data fees (`tests/vectors/fees.json`), and the results of op-revm for generated transactions
//! (`tests/vectors/op_revm.json`).

use std::str::FromStr;

use alloy_primitives::U256;
use serde_json::Value;
use slackwater_core::chain::{
    Fees,
    data_fee::{
        DataFeeModel, OpFork, OpL1Params, ScrollFork, ScrollL1Params, TransactionCost, TxShape, TxSize,
        bedrock_data_gas, da_footprint_gas, da_usage_bytes, ecotone_data_gas, fjord_data_gas, flz_bound,
    },
};

fn parse(file: &str) -> Value {
    serde_json::from_str(file).expect("the vectors parse")
}

/// Rows of one section; never none, so that a renamed section fails.
fn rows(section: &str, count: usize) -> Vec<Value> {
    let file = parse(include_str!("../vectors/fees.json"));
    let rows = file[section].as_array().expect(section).clone();
    assert_eq!(rows.len(), count, "{section}: rows may be added, with this number; none may go");
    rows
}

/// A number or a decimal string; 0 if the row has none.
#[track_caller]
fn number<T: FromStr>(row: &Value, key: &str) -> T {
    let text = match &row[key] {
        Value::Null => "0".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.parse().ok().unwrap_or_else(|| panic!("{key} of {row}"))
}

fn fork<T: serde::de::DeserializeOwned>(row: &Value) -> T {
    serde_json::from_value(row["fork"].clone()).expect("fork")
}

/// The row's input, if it has one.
fn input(row: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = row["input"].as_str() {
        return Some(hex::decode(hex).expect("hex"));
    }
    if let Some([byte, count]) = row["input_repeat"].as_array().map(Vec::as_slice) {
        let byte = hex::decode(byte.as_str().expect("hex")).expect("hex");
        return Some(byte.repeat(count.as_u64().expect("count") as usize));
    }
    let name = row["input_ref"].as_str()?;
    let named = rows("flz_length", 10).into_iter().find(|row| row["name"] == name).expect(name);
    input(&named)
}

fn size(row: &Value) -> TxSize {
    if let Some(raw) = input(row) {
        return TxSize::of_signed(&raw);
    }
    let (zeros, nonzeros): (u64, u64) = (number(row, "zero_bytes"), number(row, "nonzero_bytes"));
    TxSize { bytes: zeros + nonzeros, zeros, flz: number(row, "flz"), is_exempt: false }
}

fn op_params(row: &Value) -> OpL1Params {
    OpL1Params {
        l1_base_fee: number(row, "l1_base_fee"),
        overhead: number(row, "overhead"),
        scalar: number(row, "scalar"),
        base_fee_scalar: number(row, "base_fee_scalar"),
        blob_base_fee: number(row, "blob_base_fee"),
        blob_base_fee_scalar: number(row, "blob_base_fee_scalar"),
        ..OpL1Params::default()
    }
}

fn op_data_gas(fork: OpFork, size: &TxSize) -> u64 {
    match fork {
        OpFork::Bedrock | OpFork::Regolith => bedrock_data_gas(size, fork),
        OpFork::Ecotone => ecotone_data_gas(size),
        OpFork::Fjord | OpFork::Isthmus | OpFork::Jovian => fjord_data_gas(size.flz),
    }
}

#[test]
fn fastlz_lengths() {
    for row in rows("flz_length", 10) {
        let raw = input(&row).expect("input");
        let size = TxSize::of_signed(&raw);
        assert_eq!((size.bytes, size.flz), (number(&row, "len"), number(&row, "flz")), "{row}");
        assert!(size.flz <= flz_bound(size.bytes), "{row}");
    }
}

#[test]
fn op_l1_data_fee() {
    for row in rows("op_l1_data_fee", 15) {
        let (fork, size, params): (OpFork, _, _) = (fork(&row), size(&row), op_params(&row));
        assert_eq!(params.l1_data_fee(fork, &size), number::<U256>(&row, "fee"), "{row}");
        if !row["data_gas"].is_null() {
            // op-geth counts the overhead as data gas.
            let overhead = number::<u64>(&row, "overhead");
            assert_eq!(op_data_gas(fork, &size) + overhead, number::<u64>(&row, "data_gas"), "{row}");
        }
        if !row["flz"].is_null() {
            assert_eq!(size.flz, number::<u64>(&row, "flz"), "{row}");
        }
        if fork == OpFork::Fjord {
            for later in [OpFork::Isthmus, OpFork::Jovian] {
                assert_eq!(params.l1_data_fee(later, &size), number::<U256>(&row, "fee"), "{later:?} {row}");
            }
        }
    }
}

/// The fork's first block: the new scalars are not set yet.
#[test]
fn ecotone_without_scalars_is_bedrock() {
    for row in rows("op_l1_data_fee", 15).iter().filter(|row| row["fork"] == "regolith") {
        let (size, params) = (size(row), op_params(row));
        assert_eq!(params.l1_data_fee(OpFork::Ecotone, &size), number::<U256>(row, "fee"), "{row}");
    }
}

#[test]
fn gas_price_oracle() {
    let rows = rows("op_gas_price_oracle", 2);
    let row = &rows[0];
    let zeros = vec![0; number(row, "zero_bytes")];
    // The oracle adds 68 bytes for the signature to the compressed length.
    let flz = TxSize::of_signed(&zeros).flz + 68;
    assert_eq!(flz, number::<u64>(row, "flz"));
    let fee = op_params(row).l1_data_fee(OpFork::Fjord, &TxSize { flz, ..TxSize::default() });
    assert_eq!(fee, number::<U256>(row, "fee"));

    let row = &rows[1];
    let bytes = number::<u64>(row, "size") + 68;
    let flz = bytes + bytes / 255 + 16;
    let fee = op_params(row).l1_data_fee(OpFork::Fjord, &TxSize { flz, ..TxSize::default() });
    assert_eq!(fee, number::<U256>(row, "fee"));
    // Our bound covers incompressible data as well, hence it is above the oracle's.
    assert!(op_params(row).l1_data_fee(OpFork::Fjord, &TxSize::bound_unsigned(number(row, "size"))) > fee);
}

#[test]
fn op_operator_fee() {
    let params = |row: &Value| OpL1Params {
        operator_fee_scalar: number(row, "scalar"),
        operator_fee_constant: number(row, "constant"),
        ..OpL1Params::default()
    };
    for row in rows("op_operator_fee", 2) {
        assert_eq!(params(&row).operator_fee(fork(&row), number(&row, "gas")), number::<U256>(&row, "fee"), "{row}");
        assert_eq!(params(&row).operator_fee(OpFork::Fjord, number(&row, "gas")), U256::ZERO);
    }
    for row in rows("op_operator_fee_refund", 1) {
        let fee = |key| params(&row).operator_fee(fork(&row), number(&row, key));
        assert_eq!(fee("gas_limit") - fee("gas_used"), number::<U256>(&row, "refund"), "{row}");
    }
}

#[test]
fn da_footprint() {
    let size = |flz| TxSize { bytes: 1, flz, ..TxSize::default() };
    assert_eq!(da_usage_bytes(&size(170)), 100, "the least");
    assert_eq!(da_usage_bytes(&size(1_000)), 793, "(836 500 × 1000 − 42 585 600) / 10^6");
    assert_eq!(da_footprint_gas(&size(1_000), 0), 793 * 400);
    assert_eq!(da_footprint_gas(&size(1_000), 7), 793 * 7);
    assert_eq!(da_footprint_gas(&TxSize::of_signed(&[0x7E, 1]), 400), 0, "deposits are not counted");
}

fn scroll_params(row: &Value) -> ScrollL1Params {
    ScrollL1Params {
        l1_base_fee: number(row, "l1_base_fee"),
        overhead: number(row, "overhead"),
        scalar: number(row, "scalar"),
        l1_blob_base_fee: number(row, "l1_blob_base_fee"),
        commit_scalar: number::<U256>(row, "commit_scalar") + number::<U256>(row, "exec_scalar"),
        blob_scalar: number(row, "blob_scalar"),
        penalty_threshold: number(row, "penalty_threshold"),
        penalty_factor: number(row, "penalty_factor"),
    }
}

#[test]
fn scroll_l1_fee() {
    for row in rows("scroll_l1_fee", 4) {
        let size = match input(&row) {
            Some(raw) => TxSize::of_signed(&raw),
            None => TxSize { bytes: number(&row, "bytes"), ..TxSize::default() },
        };
        // An input that starts with 0 is no transaction, but no deposit either.
        let (fork, params): (ScrollFork, _) = (fork(&row), scroll_params(&row));
        let fee = params.data_fee(fork, &size, number(&row, "zstd"));
        assert_eq!(fee, number::<U256>(&row, "fee"), "{row}");
        assert!(params.data_fee_bound(fork, &size) >= fee, "{row}");
    }
}

#[test]
fn scroll_galileo_l1_fee() {
    for row in rows("scroll_galileo_l1_fee", 5) {
        let compressed: u64 = number(&row, "compressed_size");
        let (params, expect) = (scroll_params(&row), number::<U256>(&row, "fee"));
        let size = |bytes| TxSize { bytes, ..TxSize::default() };
        assert_eq!(params.data_fee(ScrollFork::Galileo, &size(compressed * 3), compressed), expect, "{row}");
        assert_eq!(
            params.data_fee(ScrollFork::Galileo, &size(compressed), compressed * 2),
            expect,
            "{row}: never more"
        );
        assert_eq!(params.data_fee_bound(ScrollFork::Galileo, &size(compressed)), expect, "{row}");
    }
    let dear = ScrollL1Params { l1_base_fee: U256::MAX, commit_scalar: U256::MAX, ..ScrollL1Params::default() };
    let size = TxSize { bytes: 1_000, ..TxSize::default() };
    for fork in [ScrollFork::Curie, ScrollFork::Feynman, ScrollFork::Galileo] {
        assert!(dear.data_fee_bound(fork, &size) <= U256::from(u64::MAX), "{fork:?}");
    }
}

/// Bytes from a seed: half of them new, half copied from before, a share of zeros. Any change of this function needs
/// new vectors.
fn generated(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut bytes = vec![2];
    while bytes.len() < len {
        match next() % 4 {
            0 => bytes.extend(std::iter::repeat_n(0, next() % 40 + 1)),
            1 if bytes.len() > 8 => {
                let from = next() % (bytes.len() - 4);
                let count = (next() % 60 + 3).min(bytes.len() - from);
                bytes.extend_from_within(from..from + count);
            }
            _ => {
                for _ in 0..next() % 32 + 1 {
                    bytes.push(next() as u8);
                }
            }
        }
    }
    bytes.truncate(len.max(1));
    bytes
}

#[test]
fn op_revm_says_the_same() {
    let file = parse(include_str!("../vectors/op_revm.json"));
    let rows = file["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 300);
    for row in rows {
        let fork: OpFork = fork(row);
        let params = OpL1Params {
            operator_fee_scalar: number(row, "operator_fee_scalar"),
            operator_fee_constant: number(row, "operator_fee_constant"),
            ..op_params(row)
        };
        let size = TxSize::of_signed(&generated(number(row, "seed"), number(row, "bytes")));
        assert_eq!(params.l1_data_fee(fork, &size), number::<U256>(row, "l1_fee"), "{row}");
        assert_eq!(op_data_gas(fork, &size), number::<u64>(row, "data_gas"), "{row}");
        let gas: u64 = number(row, "gas");
        assert_eq!(params.operator_fee(fork, gas), number::<U256>(row, "operator_fee"), "{row}");
    }
}

#[test]
fn a_cost_adds_up() {
    let params = OpL1Params {
        l1_base_fee: U256::from(1_055_991_687_u64),
        base_fee_scalar: 5_227,
        blob_base_fee: U256::from(1),
        blob_base_fee_scalar: 1_014_213,
        operator_fee_scalar: 1_000,
        operator_fee_constant: 10,
        ..OpL1Params::default()
    };
    let size = TxSize { bytes: 1_176, zeros: 0, flz: 385, is_exempt: false };
    let shape = TxShape { gas_used: 50_000, gas_limit: 100_001, size: &size, value: U256::from(7) };
    let model = DataFeeModel::OpStack(OpFork::Isthmus, params);
    let cost = TransactionCost::of(&shape, Fees::new(30, 2), 10, &model, 50);
    assert_eq!((cost.execution.expected, cost.execution.max), (U256::from(600_000), U256::from(3_000_030)));
    let l1 = 24_681_034_813_u64;
    assert_eq!(cost.data.expected, U256::from(l1));
    assert_eq!(cost.data.max, U256::from((l1 * 3).div_ceil(2)), "rounded up: it is reserved");
    assert_eq!((cost.operator.expected, cost.operator.max), (U256::from(60), U256::from(110)));
    assert_eq!(cost.total_expected(), U256::from(600_000 + l1 + 60 + 7));
    assert_eq!(cost.total_max(), U256::from(3_000_030 + (l1 * 3).div_ceil(2) + 110 + 7));

    let plain = TransactionCost::of(&shape, Fees::new(30, 2), 10, &DataFeeModel::None, 50);
    assert_eq!(plain.total_expected(), U256::from(600_007));
    assert_eq!(plain.total_max(), U256::from(3_000_037));
}
