//! Digests equal those that wallets compute: `core/pure/tests/vectors/eip712.json`.

use alloy_primitives::{Address, Bytes, U256, aliases::U48};
use alloy_sol_types::{Eip712Domain, SolStruct};
use serde_json::Value;
use slackwater_contracts::forwarder::{DOMAIN_VERSION, ForwardRequest};

#[test]
fn digests_match_wallets() {
    let rows: Vec<Value> =
        serde_json::from_str(include_str!("../../../../core/pure/tests/vectors/eip712.json")).unwrap();
    assert!(rows.len() >= 24);
    for row in rows {
        let (domain, message) = (&row["domain"], &row["message"]);
        assert_eq!(domain["version"], DOMAIN_VERSION);
        let domain = Eip712Domain::new(
            Some(text(domain, "name").to_owned().into()),
            Some(DOMAIN_VERSION.into()),
            Some(uint(domain, "chainId")),
            Some(address(domain, "verifyingContract")),
            None,
        );
        let request = ForwardRequest {
            from: address(message, "from"),
            to: address(message, "to"),
            value: uint(message, "value"),
            gas: uint(message, "gas"),
            nonce: uint(message, "nonce"),
            deadline: U48::from(uint(message, "deadline")),
            data: text(message, "data").parse::<Bytes>().unwrap(),
        };
        assert_eq!(
            request.eip712_signing_hash(&domain).to_string(),
            row["digest"],
            "{} ({})",
            row["title"],
            row["source"]
        );
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap()
}

fn uint(object: &Value, field: &str) -> U256 {
    text(object, field).parse().unwrap()
}

fn address(object: &Value, field: &str) -> Address {
    text(object, field).parse().unwrap()
}
