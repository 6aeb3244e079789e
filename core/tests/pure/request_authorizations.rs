//! Digests, signatures and calldata of authorizations as wallets make them (`tests/vectors/eip3009.json`).

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde_json::Value;
use slackwater::request::{Authorization, RequestId, SignatureError, TokenDomain};

struct Row {
    title: String,
    domain: TokenDomain,
    authorization: Authorization,
    value: Value,
}

#[track_caller]
fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value, key: &str) -> T {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}")).parse().unwrap()
}

fn rows() -> Vec<Row> {
    let file: Vec<Value> = serde_json::from_str(include_str!("../vectors/eip3009.json")).unwrap();
    assert_eq!(file.len(), 7, "rows may be added, with this number; none may go");
    let rows = file.into_iter().map(|value| {
        let (domain, message) = (&value["domain"], &value["message"]);
        let token = parse(domain, "verifyingContract");
        let (name, version): (String, String) = (parse(domain, "name"), parse(domain, "version"));
        Row {
            title: parse(&value, "title"),
            domain: TokenDomain::new(&name, &version, parse(domain, "chainId"), token),
            authorization: Authorization {
                token,
                from: parse(message, "from"),
                to: parse(message, "to"),
                value: parse(message, "value"),
                valid_after: parse(message, "validAfter"),
                valid_before: parse(message, "validBefore"),
                nonce: parse(message, "nonce"),
                signature: parse(&value, "signature"),
            },
            value,
        }
    });
    rows.collect()
}

#[test]
fn digests_signatures_and_calldata_are_the_wallets() {
    for Row { title, domain, authorization, value } in rows() {
        let digest: B256 = parse(&value, "digest");
        assert_eq!(domain.separator(), parse::<B256>(&value, "separator"), "{title}");
        assert_eq!(domain.digest(&authorization), digest, "{title}");
        assert_eq!(domain.id(&authorization), RequestId(digest), "{title}");
        assert_eq!(domain.recover(&authorization), Ok(authorization.from), "{title}");
        assert_eq!(authorization.calldata().unwrap(), *parse::<Bytes>(&value, "calldata"), "{title}");
        let with_bytes = parse::<Bytes>(&value, "calldataWithBytes");
        assert_eq!(authorization.calldata_with_bytes(), *with_bytes, "{title}");
    }
}

/// Separators that tokens on chain answer `DOMAIN_SEPARATOR()` with.
#[test]
fn usdc_on_ethereum() {
    let token = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48".parse().unwrap();
    let separator = hex!("06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335");
    assert_eq!(TokenDomain::new("USD Coin", "2", 1, token).separator(), B256::from(separator));
}

#[test]
fn any_other_content_has_another_signer_and_id() {
    let Row { domain, authorization, .. } = rows().swap_remove(0);
    let id = domain.id(&authorization);
    let one = U256::ONE;
    let original = || authorization.clone();
    let changed = [
        Authorization { from: Address::repeat_byte(1), ..original() },
        Authorization { to: Address::repeat_byte(1), ..original() },
        Authorization { value: authorization.value + one, ..original() },
        Authorization { valid_after: authorization.valid_after + one, ..original() },
        Authorization { valid_before: authorization.valid_before + one, ..original() },
        Authorization { nonce: B256::repeat_byte(1), ..original() },
    ];
    for other in changed {
        assert_ne!(domain.id(&other), id);
        assert_ne!(domain.recover(&other), Ok(authorization.from));
    }
    // The signature is no part of it: a payer with code may have several.
    let other = Authorization { signature: Bytes::from_static(&[1; 64]), ..original() };
    assert_eq!(domain.id(&other), id);
    assert_eq!(domain.recover(&other), Err(SignatureError::Length(64)));
    assert_eq!(other.calldata(), None);
    let elsewhere = TokenDomain::with_separator(domain.separator(), 1, domain.token());
    assert_eq!(elsewhere.id(&authorization), id);
}

#[test]
fn validity_excludes_both_bounds() {
    let authorization = rows().swap_remove(0).authorization;
    let valid = [1_740_672_089, 1_740_672_090, 1_740_672_153, 1_740_672_154].map(|at| authorization.is_valid_at(at));
    assert_eq!(valid, [false, true, true, false]);
}
