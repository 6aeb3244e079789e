//! The presets' ceilings against fees that the chains have charged.

use serde_json::Value;
use slackwater_core::chain::{ChainSpec, preset_names};

const GWEI: u128 = 1_000_000_000;

#[test]
fn no_fee_cap_ceiling_is_below_what_a_chain_has_charged() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/recorded_maxima.json")).unwrap();
    let rows = vectors["rows"].as_array().unwrap();
    assert!(rows.len() >= 6);
    for row in rows {
        let spec = ChainSpec::preset(row["preset"].as_str().unwrap()).unwrap();
        let recorded: u128 = row["base_fee_wei_per_gas"].as_str().unwrap().parse().unwrap();
        let ceiling = spec.max_fee_ceiling_wei_per_gas;
        assert!(ceiling >= recorded, "{}: {ceiling} is below {recorded} of {}", spec.name, row["date"]);
    }
}

#[test]
fn tip_ceilings_are_a_few_times_what_is_usual() {
    for name in preset_names() {
        let spec = ChainSpec::preset(name).unwrap();
        let expected = match name {
            "ethereum" => 20 * GWEI,
            "polygon" => 300 * GWEI,
            "anvil" => 200 * GWEI,
            _ => GWEI,
        };
        assert_eq!(spec.tip_ceiling_wei_per_gas, expected, "{name}");
        assert!(spec.tip_ceiling_wei_per_gas >= 4 * spec.min_priority_fee_wei_per_gas, "{name}");
        assert_eq!(spec.validate(), Ok(()), "{name}");
        // A chain whose minimum tip equals the ceiling is refused.
        let dear = ChainSpec { min_priority_fee_wei_per_gas: expected, ..spec };
        assert!(dear.validate().is_err(), "{name}");
    }
}
