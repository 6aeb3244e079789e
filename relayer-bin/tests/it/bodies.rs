//! Bodies: a refused body gets a problem, never a panic.

use proptest::prelude::*;
use serde_json::json;
use slackwater_core::request::Deadline;
use slackwater_relayer::http::{
    dto::{self, parse_batch},
    parse_body,
};

const CORPUS: &str = include_str!("../corpus/submit.json");

fn item(text: &str) -> Result<slackwater_core::request::Submission, slackwater_relayer::http::problem::Problem> {
    dto::submission(parse_body(text.as_bytes())?, None)
}

fn forward() -> serde_json::Value {
    json!({
        "chainId": 31_337, "kind": "forward", "within": "30s", "maxCost": "0x10",
        "forward": {
            "forwarder": "0x5FbDB2315678afecb367f032d93F642f64180aa3", "from": "0x1111111111111111111111111111111111111111",
            "to": "0x2222222222222222222222222222222222222222", "value": "0", "gas": 120_000, "nonce": "0x0",
            "deadline": 1_790_000_000u64, "data": "0xd09de08a", "signature": format!("0x{}", "11".repeat(65)),
        },
    })
}

#[test]
fn the_documented_body_is_read() {
    let item = item(&forward().to_string()).unwrap();
    assert_eq!(item.chain_id, 31_337);
    assert_eq!(item.deadline, Some(Deadline::Within(std::time::Duration::from_secs(30))));
    assert_eq!(item.max_cost_wei.unwrap().to_string(), "16");
    let forward = item.kind.as_forward().expect("a forward");
    assert_eq!(forward.gas.to_string(), "120000");
    assert_eq!(forward.signature.len(), 65);
}

#[test]
fn every_nasty_input_gets_its_problem() {
    let corpus: Vec<serde_json::Value> = serde_json::from_str(CORPUS).unwrap();
    assert!(corpus.len() > 40);
    for case in corpus {
        let name = case["name"].as_str().unwrap();
        let body = case["body"].as_str().unwrap();
        let problem = item(body).expect_err(name);
        assert_eq!(problem.code(), case["code"].as_str().unwrap(), "{name}: {}", problem.detail());
        assert_eq!(problem.field_path(), case["field"].as_str(), "{name}: {}", problem.detail());
        assert!(problem.detail().len() < 600, "{name}: the answer repeats the input: {}", problem.detail());
    }
}

#[test]
fn huge_inputs_are_refused_in_short_words() {
    let huge = "x".repeat(10 << 20);
    let deep = "[".repeat(200_000);
    for body in [
        huge.clone(),
        format!("\"{huge}\""),
        deep.clone(),
        format!("{{\"chainId\":{deep}"),
        format!("{{\"{huge}\":1}}"),
        forward().to_string().replace("120000", &"9".repeat(1 << 20)),
        forward().to_string().replace("\"0x10\"", &format!("\"{}\"", "9".repeat(1 << 20))),
        forward().to_string().replace("\"30s\"", &format!("\"{huge}\"")),
        forward().to_string().replace("\"forward\",", &format!("\"{huge}\",")),
        forward().to_string().replace("0xd09de08a", &format!("0x{huge}")),
    ] {
        let problem = item(&body).unwrap_err();
        assert!(problem.detail().len() < 1_000, "{} bytes of detail", problem.detail().len());
        assert!(parse_batch(body.as_bytes(), 1_000).is_err());
    }
}

#[test]
fn one_bad_request_harms_no_other_of_its_batch() {
    let mut bad = forward();
    bad["forward"]["gas"] = json!(-1);
    let body = json!({ "requests": [forward(), bad, forward(), 7] }).to_string();
    let parsed = parse_batch(body.as_bytes(), 10).unwrap();
    assert!(parsed[0].is_ok() && parsed[2].is_ok());
    let problem = parsed[1].as_ref().unwrap_err();
    assert_eq!((problem.code(), problem.field_path()), ("invalid_field", Some("forward.gas")));
    assert_eq!(parsed[3].as_ref().unwrap_err().code(), "invalid_field");
    assert_eq!(parse_batch(body.as_bytes(), 3).unwrap_err().code(), "batch_too_large");
    assert_eq!(parse_batch(b"[]", 3).unwrap_err().code(), "invalid_field");
    assert_eq!(parse_batch(b"{\"requests\":[", 3).unwrap_err().code(), "malformed_json");
    assert_eq!(parse_batch(b"{\"requests\":[]}", 3).unwrap().len(), 0);
    for (body, code, field) in [
        (&b"{}"[..], "invalid_field", Some("requests")),
        (b"{\"requests\":7}", "invalid_field", Some("requests")),
        (b"{\"requests\":[],\"more\":1}", "invalid_field", Some("more")),
        (b"{\"requests\":[],\"requests\":[]}", "invalid_field", Some("requests")),
        (b"{\"requests\":[]} x", "malformed_json", None),
        (b"{\"requests\":[\"\xff\"]}", "malformed_json", None),
        (b"{\"requests\":[1,2,3,4],\"more\":1}", "invalid_field", Some("more")),
        (b"{\"requests\":[1,2,3,4}", "malformed_json", None),
    ] {
        let problem = parse_batch(body, 3).unwrap_err();
        let text = String::from_utf8_lossy(body);
        assert_eq!((problem.code(), problem.field_path()), (code, field), "{text}: {}", problem.detail());
    }
}

/// Items beyond the limit are counted and reported; invalid ones among them get no problems of their own.
#[test]
fn a_batch_beyond_its_limit_is_counted_and_not_built() {
    for (item, count) in [(forward().to_string(), 3_001), ("null".to_owned(), 800_000), ("0".to_owned(), 1_001)] {
        let body = format!("{{\"requests\":[{}]}}", vec![item; count].join(","));
        let before = std::time::Instant::now();
        let problem = parse_batch(body.as_bytes(), 1_000).unwrap_err();
        assert_eq!(problem.code(), "batch_too_large");
        assert!(problem.detail().contains(&format!("has {count} requests, limit 1000")), "{}", problem.detail());
        println!("{count}: {:?}", before.elapsed());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_body(&bytes).and_then(|body| dto::submission(body, Some("key")));
        let _ = parse_batch(&bytes, 10);
    }

    #[test]
    fn damaged_bodies_never_panic(at in 0usize..700, with in any::<u8>(), cut in 0usize..700) {
        let mut bytes = forward().to_string().into_bytes();
        let len = bytes.len();
        bytes[at % len] = with;
        let _ = parse_body(&bytes).and_then(|body| dto::submission(body, None));
        bytes.truncate(cut % len);
        let _ = parse_body(&bytes).and_then(|body| dto::submission(body, None));
        let _ = parse_batch(&bytes, 10);
    }

    #[test]
    fn any_value_in_any_field_never_panics(field in 0usize..20, value in json_value()) {
        let mut body = forward();
        let top = ["chainId", "kind", "within", "deadline", "maxCost", "forward", "call", "idempotencyKey", "other"];
        let inner = ["forwarder", "from", "to", "value", "gas", "nonce", "deadline", "data", "signature", "other", "x"];
        match top.get(field) {
            Some(key) => body[*key] = value,
            None => body["forward"][inner[field - top.len()]] = value,
        }
        let _ = item(&body.to_string());
    }
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        "\\PC{0,40}".prop_map(|s| json!(s)),
        "0x[0-9a-fA-F]{0,140}".prop_map(|s| json!(s)),
        "[0-9]{1,90}(s|ms|m|h|d)?".prop_map(|s| json!(s)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}
