use super::super::{FinalityRule, PriceComparison};
use super::*;

fn spec() -> ChainSpec {
    ChainSpec {
        chain_id: 31_337,
        name: "test".to_owned(),
        family: ChainFamily::Ethereum,
        block_time_ms: 12_000,
        fork: Fork::Osaka,
        base_fee: BaseFeeRule::Eip1559(BaseFeeParams::ETHEREUM),
        replacement: ReplacementRule::SAFE_EVERYWHERE,
        finality: FinalityRule::Depth { blocks: 2 },
        tx_gas_cap_override: None,
        max_tx_bytes: DEFAULT_MAX_TX_BYTES,
        min_priority_fee_wei_per_gas: 1,
        rpc_tx_fee_cap_wei: Some(1_000_000_000_000_000_000),
        tip_ceiling_wei_per_gas: DEFAULT_TIP_CEILING,
        replan_after_blocks: DEFAULT_REPLAN_AFTER_BLOCKS,
        max_fee_ceiling_wei_per_gas: DEFAULT_FEE_CEILING,
        multicall3: None,
        has_mempool: true,
        deadline_skew_s: DEFAULT_DEADLINE_SKEW_S,
        explorer: None,
    }
}

#[test]
fn a_sound_spec_passes_and_survives_json() {
    assert_eq!(spec().validate(), Ok(()));
    let json = serde_json::to_string(&spec()).expect("serialises");
    assert_eq!(serde_json::from_str::<ChainSpec>(&json).expect("reads back"), spec());
    assert_eq!(spec().tx_gas_cap(), Some(1 << 24));
    assert_eq!(ChainSpec { tx_gas_cap_override: Some(9_000_000), ..spec() }.tx_gas_cap(), Some(9_000_000));
}

#[test]
fn unknown_keys_are_refused() {
    let mut json = serde_json::to_value(spec()).expect("serialises");
    json["block_time"] = 12.into();
    let error = serde_json::from_value::<ChainSpec>(json).expect_err("unknown key").to_string();
    assert!(error.contains("block_time"), "{error}");
    let mut json = serde_json::to_value(spec()).expect("serialises");
    json["base_fee"]["elasticity"] = 2.into();
    assert!(serde_json::from_value::<ChainSpec>(json).is_err(), "unknown key in a table");
}

#[test]
fn all_errors_are_reported_together() {
    let zero = BaseFeeParams { denominator: 0, target: GasTarget::Bps(0), ..BaseFeeParams::ETHEREUM };
    let bad = ChainSpec {
        chain_id: 0,
        name: "Two Words".to_owned(),
        block_time_ms: 0,
        base_fee: BaseFeeRule::Eip1559(zero),
        replacement: ReplacementRule::Bump {
            bump_bps: 999,
            extra_wei_per_gas: 0,
            blob_bump_bps: 10_000,
            compares: PriceComparison::Caps,
        },
        finality: FinalityRule::Depth { blocks: 0 },
        tx_gas_cap_override: Some(20_999),
        max_tx_bytes: 0,
        rpc_tx_fee_cap_wei: Some(0),
        multicall3: Some(Address::ZERO),
        has_mempool: false,
        deadline_skew_s: 3_601,
        explorer: Some("http://x/".to_owned()),
        ..spec()
    };
    let errors = bad.validate().expect_err("invalid");
    let keys: Vec<_> = errors
        .iter()
        .map(|e| match e {
            SpecError::OutOfRange { key, .. }
            | SpecError::Malformed { key, .. }
            | SpecError::Contradiction { key, .. } => *key,
        })
        .collect();
    let expect = [
        "chain_id",
        "block_time_ms",
        "max_tx_bytes",
        "deadline_skew_s",
        "tx_gas_cap_gas",
        "rpc_tx_fee_cap_wei",
        "finality.blocks",
        "replacement.bump_bps",
        "base_fee.denominator",
        "base_fee.target.bps",
        "name",
        "explorer",
        "multicall3",
        "replacement",
    ];
    assert_eq!(keys, expect);
    assert_eq!(errors[0].to_string(), "chain_id = 0 is outside 1..=18446744073709551615");
}

#[test]
fn family_and_rules_agree() {
    let op = ChainSpec { family: ChainFamily::OpStack, ..spec() };
    let arbitrum = ChainSpec { family: ChainFamily::Arbitrum, ..spec() };
    let pooled = ChainSpec { replacement: ReplacementRule::NoPool, ..spec() };
    for bad in [op, arbitrum, pooled] {
        assert_eq!(bad.validate().map_err(|errors| errors.len()), Err(1), "{bad:?}");
    }
    let zk = ChainSpec {
        family: ChainFamily::ZkStack,
        base_fee: BaseFeeRule::Operator { min_base_fee_wei_per_gas: 0 },
        replacement: ReplacementRule::SilentOverwrite,
        ..spec()
    };
    assert_eq!(zk.validate(), Ok(()));
}
