//! Invalid input is refused with a problem and a stable code, and does no harm.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::{Value, json};
use slackwater_benches::{
    RelayerClient, Result,
    client::{Problem, Submitted, problem},
    http::{get, post_json},
    rng::Rng,
    wallet::{Ask, Crowd, SignedRequest, batch_body, unix_seconds},
};
use slackwater_relayer::http::auth::KeyHash;

use crate::stage::{Pace, Stage};

/// The order of the curve.
const CURVE_ORDER: &str = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

fn body(request: &SignedRequest) -> Value {
    serde_json::from_slice(&request.body).expect("our own JSON")
}

/// The same request with another signature.
fn resigned(request: &SignedRequest, signature: impl Into<Bytes>) -> Value {
    let mut body = body(request);
    body["forward"]["signature"] = json!(signature.into());
    body
}

/// The other `s` that recovers to the same signer: valid on the curve, refused by contracts since EIP-2.
fn with_high_s(signature: &[u8]) -> Vec<u8> {
    let order: U256 = CURVE_ORDER.parse().expect("hex");
    let s = order - U256::from_be_slice(&signature[32..64]);
    let mut other = signature.to_vec();
    other[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    other[64] = if signature[64] == 27 { 28 } else { 27 };
    other
}

/// Posts `body` and expects a problem.
async fn refused(client: &RelayerClient, body: impl Into<hyper::body::Bytes>) -> Result<Problem> {
    let answer = client.send(post_json("/v1/requests", body)).await?;
    let found = problem(&answer)?;
    assert_eq!(found.status, answer.status, "{found:?}");
    assert_eq!(found.kind, format!("urn:slackwater:problem:{}", found.code));
    assert!(!found.title.is_empty() && !found.detail.is_empty(), "{found:?}");
    Ok(found)
}

fn ask(stage: &Stage) -> Ask {
    Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas: 100_000,
        data: Bytes::from_static(&[0xd0, 0x9d, 0xe0, 0x8a]),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    }
}

#[tokio::test]
async fn every_refusal_has_its_code() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).chain_key("max_nonce_gap", 100).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 3);
    let user = crowd.users[0].account.clone();
    let executed = crowd.mark(1);
    stage.submit(std::slice::from_ref(&executed)).await?;
    stage.settle().await?;

    let good = crowd.sign_at(&user, 0, &ask(&stage));
    let with = |path: &str, value: Value| {
        let mut body = body(&good);
        let (last, parents) =
            path.split('.').collect::<Vec<_>>().split_last().map(|(l, p)| (*l, p.to_vec())).expect("a path");
        let target = parents.into_iter().fold(&mut body, |inner, name| &mut inner[name]);
        target[last] = value;
        body.to_string()
    };
    let signed = |change: &dyn Fn(&mut Ask)| {
        let mut ask = ask(&stage);
        change(&mut ask);
        String::from_utf8(crowd.sign_at(&user, 0, &ask).body.to_vec()).expect("JSON")
    };
    let at_nonce = |nonce: u64| {
        let request = crowd.sign_at(&crowd.users[1].account, nonce, &ask(&stage));
        String::from_utf8(request.body.to_vec()).expect("JSON")
    };
    let now = unix_seconds();
    let two_255 = U256::from(2).pow(U256::from(255)).to_string();
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("no body", String::new(), 400, "malformed_json"),
        ("not JSON", "{\"chainId\":31337,".to_owned(), 400, "malformed_json"),
        ("not an object", "[]".to_owned(), 422, "invalid_field"),
        ("two values", format!("{} {{}}", body(&good)), 400, "malformed_json"),
        ("deeply nested", "[".repeat(100_000), 400, "malformed_json"),
        ("unknown field", with("colour", json!("red")), 422, "invalid_field"),
        ("unknown kind", with("kind", json!("teleport")), 422, "invalid_field"),
        ("missing content", with("forward", Value::Null), 422, "invalid_field"),
        ("chain id as text", with("chainId", json!("mainnet")), 422, "invalid_field"),
        ("negative gas", with("forward.gas", json!("-1")), 422, "invalid_field"),
        ("gas with a fraction", with("forward.gas", json!(1.5)), 422, "invalid_field"),
        ("gas above 256 bits", with("forward.gas", json!(format!("0x1{}", "0".repeat(64)))), 422, "invalid_field"),
        ("odd hex", with("forward.data", json!("0x123")), 422, "invalid_field"),
        ("short address", with("forward.to", json!("0x1234")), 422, "invalid_field"),
        ("both deadlines", with("within", json!("30s")).replacen('{', "{\"deadline\":1790000000,", 1), 422, "invalid_field"),
        ("within nonsense", with("within", json!("soon")), 422, "invalid_field"),
        ("wrong chain", with("chainId", json!(1)), 422, "wrong_chain"),
        ("unknown forwarder", with("forward.forwarder", json!(Address::repeat_byte(7))), 422, "unknown_forwarder"),
        ("high s", resigned(&good, with_high_s(&good.forward.signature)).to_string(), 422, "invalid_signature"),
        ("short signature", resigned(&good, vec![1; 64]).to_string(), 422, "invalid_signature"),
        ("compact signature with 0", resigned(&good, vec![0; 65]).to_string(), 422, "invalid_signature"),
        ("somebody else's signature", resigned(&good, executed.forward.signature.clone()).to_string(), 422, "invalid_signature"),
        ("changed data", with("forward.data", json!("0x")), 422, "invalid_signature"),
        ("expired", signed(&|ask| ask.deadline_s = now - 10), 422, "deadline_expired"),
        ("expired wish", with("deadline", json!(now - 10)), 422, "deadline_expired"),
        ("too soon", signed(&|ask| ask.within = Some("1ms".to_owned())), 422, "deadline_unreachable"),
        ("too far", signed(&|ask| ask.within = Some("10000h".to_owned())), 422, "deadline_too_far"),
        ("beyond uint48", with("forward.deadline", json!(1_u64 << 48)), 422, "deadline_out_of_range"),
        ("a number that JSON can't hold", with("forward.deadline", json!(u64::MAX)), 422, "invalid_field"),
        ("gas 2^255", with("forward.gas", json!(two_255)), 422, "gas_out_of_range"),
        ("no gas", with("forward.gas", json!("0")), 422, "gas_out_of_range"),
        ("nonce 2^255", with("forward.nonce", json!(two_255)), 422, "nonce_out_of_range"),
        ("too much gas", signed(&|ask| ask.gas = 10_000_000), 403, "policy_denied"),
        ("value", signed(&|ask| ask.value = U256::from(1)), 403, "policy_denied"),
        ("too much calldata", signed(&|ask| ask.data = vec![1; 20_000].into()), 403, "policy_denied"),
        ("cheap", signed(&|ask| ask.max_cost_wei = Some(U256::from(1))), 402, "max_cost_too_low"),
        ("used nonce", at_nonce(0), 422, "nonce_used"),
        ("nonce far ahead", at_nonce(1_000), 422, "nonce_too_far"),
        ("call, which is not allowed", json!({
            "chainId": 31_337, "kind": "call", "call": { "to": stage.world.guestbook, "gas": "100000", "data": "0xd09de08a" },
        }).to_string(), 403, "policy_denied"),
    ];
    for (what, body, status, code) in cases {
        let found = refused(stage.client(), body).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((found.status, &*found.code), (status, code), "{what}: {}", found.detail);
        if code == "invalid_field" && what != "not an object" {
            assert!(found.field.is_some(), "{what} names no field: {found:?}");
        }
    }
    let used = refused(stage.client(), at_nonce(0)).await?;
    assert_eq!(used.expected, Some(1));

    // Headers, paths and methods.
    let send = async |request| problem(&stage.client().send(request).await?);
    let mut request = post_json("/v1/requests", good.body.clone());
    request.headers_mut().insert("content-type", "text/plain".parse().expect("a header"));
    let found = send(request).await?;
    assert_eq!((found.status, &*found.code), (415, "unsupported_media_type"));
    let mut request = post_json("/v1/requests", good.body.clone());
    request.headers_mut().insert("idempotency-key", "k".repeat(256).parse().expect("a header"));
    assert_eq!(send(request).await?.status, 422);
    for (path, status, code) in [
        ("/v1/requests/0x12", 400, "malformed_id"),
        ("/v1/requests/0x0000000000000000000000000000000000000000000000000000000000000001", 404, "not_found"),
        ("/v1/requests?limit=0", 400, "invalid_query"),
        ("/v1/requests?colour=red", 400, "invalid_query"),
        ("/v1/batches/nonsense", 400, "malformed_id"),
        ("/v1/events?after=x", 400, "invalid_query"),
        ("/nowhere", 404, "unknown_path"),
    ] {
        let found = send(get(path)).await?;
        assert_eq!((found.status, &*found.code), (status, code), "{path}");
    }
    let mut put = get("/v1/requests");
    *put.method_mut() = hyper::Method::PUT;
    assert_eq!(send(put).await?.code, "method_not_allowed");

    // The refused input leaves nothing behind, and the good request still goes through.
    assert_eq!(stage.summaries().await?.len(), 1);
    stage.submit(std::slice::from_ref(&good)).await?;
    stage.settle().await?;
    stage.check(&[executed, good]).await?;
    stage.close().await
}

#[tokio::test]
async fn ten_megabytes() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let before = stage.relayer.resident_bytes();
    let mut crowd = Crowd::new(&stage.world, 1);
    let good = crowd.mark(0);
    let mut large = body(&good);
    large["forward"]["data"] = json!(format!("0x{}", "00".repeat(5_000_000)));
    let large = hyper::body::Bytes::from(large.to_string());
    assert!(large.len() > 10_000_000);
    for path in ["/v1/requests", "/v1/requests/batch"] {
        for _ in 0..10 {
            let answer = stage.client().send(post_json(path, large.clone())).await?;
            let found = problem(&answer)?;
            assert_eq!((found.status, &*found.code), (413, "body_too_large"), "{}", found.detail);
        }
    }
    // More items than a batch may have.
    let body = batch_body(std::iter::repeat_n(&good.body, 1_001));
    let found = problem(&stage.client().send(post_json("/v1/requests/batch", body)).await?)?;
    assert_eq!((found.status, &*found.code), (413, "batch_too_large"));
    if let (Some(before), Some(after)) = (before, stage.relayer.resident_bytes()) {
        assert!(after < before + (64 << 20), "{before} bytes before, {after} after");
    }
    stage.submit(std::slice::from_ref(&good)).await?;
    stage.settle().await?;
    stage.check(&[good]).await?;
    stage.close().await
}

#[tokio::test]
async fn a_batch_with_bad_ones() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 3);
    let good = crowd.marks(3);
    let forged = resigned(&good[1], good[0].forward.signature.clone()).to_string();
    let bodies: Vec<hyper::body::Bytes> = vec![
        good[0].body.clone(),
        forged.into(),
        "{\"chainId\":\"x\"}".into(),
        good[1].body.clone(),
        "17".into(),
        good[2].body.clone(),
        good[0].body.clone(),
    ];
    let answers = stage.client().submit_batch(batch_body(&bodies)).await?;
    let codes: Vec<_> = answers.iter().map(|answer| answer.refused_with().unwrap_or("accepted")).collect();
    assert_eq!(
        codes,
        ["accepted", "invalid_signature", "invalid_field", "accepted", "invalid_field", "accepted", "accepted"]
    );
    let duplicate = answers[6].clone().accepted()?;
    assert!(duplicate.duplicate);
    assert_eq!(duplicate.id.0, good[0].id);
    stage.settle().await?;
    assert_eq!(stage.summaries().await?.len(), 3);
    stage.check(&good).await?;
    stage.close().await
}

#[tokio::test]
async fn the_same_again() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let client = stage.client();
    let mut crowd = Crowd::new(&stage.world, 4);
    let (first, second) = (crowd.mark_within(0, "60s"), crowd.mark_within(1, "60s"));

    // The same key with the same body gets the same answer; with another body it is refused.
    let one = client.submit_once(&first.body, "order-1").await?.accepted()?;
    let again = client.submit_once(&first.body, "order-1").await?.accepted()?;
    assert!(!one.duplicate && again.duplicate);
    assert_eq!((one.id, &one.promise, &one.quote), (again.id, &again.promise, &again.quote));
    assert_eq!((one.deadline_at_ms, one.accepted_at_ms), (again.deadline_at_ms, again.accepted_at_ms));
    let Submitted::Refused(other) = client.submit_once(&second.body, "order-1").await? else { panic!("taken") };
    assert_eq!((other.status, &*other.code), (409, "idempotency_conflict"));
    assert_eq!(other.existing.map(|id| id.0), Some(first.id));

    // Another request for the same nonce.
    let rival = crowd.sign_at(&crowd.users[0].account, 0, &ask(&stage));
    let Submitted::Refused(found) = client.submit(&rival.body).await? else { panic!("taken") };
    assert_eq!((found.status, &*found.code), (409, "nonce_conflict"));
    assert_eq!(found.existing.map(|id| id.0), Some(first.id));

    // Twenty callers with the same bytes at the same time: one request.
    let third = crowd.mark(2);
    let callers: Vec<_> = (0..20)
        .map(|i| {
            let (client, body) = (client.clone(), third.body.clone());
            tokio::spawn(async move {
                if i % 2 == 0 { client.submit(&body).await } else { client.submit_once(&body, "order-3").await }
            })
        })
        .collect();
    let mut promises = BTreeSet::new();
    let mut fresh = 0;
    for caller in callers {
        let accepted = caller.await.expect("a caller that does not panic")?.accepted()?;
        assert_eq!(accepted.id.0, third.id);
        promises.insert(accepted.promise.signature.0);
        fresh += usize::from(!accepted.duplicate);
    }
    assert_eq!((fresh, promises.len()), (1, 1));

    stage.settle().await?;
    // After the end, too: the first answer is repeated, and nothing is executed.
    let late = client.submit_once(&first.body, "order-1").await?.accepted()?;
    assert!(late.duplicate);
    assert_eq!((late.id, &late.promise), (one.id, &one.promise));
    let late = client.submit(&third.body).await?.accepted()?;
    assert_eq!((late.duplicate, late.status.as_str()), (true, "finalized"));
    let truth = stage.check(&[first, third]).await?;
    assert_eq!(truth.summaries.len(), 2);
    stage.close().await
}

#[tokio::test]
async fn keys_and_budgets() -> Result<()> {
    let key = |tenant: &str| format!("sw_{tenant}_{}", "a".repeat(43));
    let tenant = |id: &str, more: &str| {
        format!("[[tenant]]\nid = \"{id}\"\napi_keys = [\"{}\"]\n{more}\n", KeyHash::of(&key(id)))
    };
    let extra = [
        tenant("boss", "operator = true\nopen = true"),
        tenant("rich", "rate_per_s = 1\nopen = true"),
        tenant("poor", "budget = { limit_wei = \"1000\" }"),
    ]
    .concat();
    let stage = Stage::at(Pace::Quarter)
        .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
        .extra(&extra)
        .api_key(&key("boss"))
        .raise()
        .await?;
    let mut crowd = Crowd::new(&stage.world, 30);
    let client = RelayerClient::new(stage.relayer.url())?;
    let request = crowd.mark(0);
    let wrong = [
        client.clone(),
        client.clone().with_key("sw_rich_wrong"),
        client.clone().with_key(&key("nobody")),
        client.clone().with_key(&key("rich").replace('a', "b")),
    ];
    for client in wrong {
        let found = refused(&client, request.body.clone()).await?;
        assert_eq!((found.status, &*found.code), (401, "unauthorized"));
    }
    let (rich, poor) = (client.clone().with_key(&key("rich")), client.clone().with_key(&key("poor")));
    let found = refused(&poor, request.body.clone()).await?;
    assert_eq!((found.status, &*found.code), (402, "budget_exhausted"));
    let accepted = rich.submit(&request.body).await?.accepted()?;

    // Another tenant's request is not there, may not be listed, and can't be taken over.
    let found = poor.request(accepted.id.0).await.expect_err("hidden");
    assert!(found.to_string().contains("not_found"), "{found}");
    let found = refused(&poor, request.body.clone()).await?;
    assert!(["budget_exhausted", "already_submitted"].contains(&&*found.code), "{found:?}");
    let found = poor.counts().await.expect_err("not an operator");
    assert!(found.to_string().contains("operator_only"), "{found}");

    // Above the rate limit: the refusal gives a retry time.
    let mut limited = None;
    let mut all = vec![request];
    for i in 1..30 {
        let request = crowd.mark(i);
        match rich.submit(&request.body).await? {
            Submitted::Accepted(_) => all.push(request),
            Submitted::Refused(problem) => limited = Some(problem),
        }
    }
    let limited = limited.expect("thirty at once are more than ten seconds' worth of one per second");
    assert_eq!((limited.status, &*limited.code), (429, "rate_limited"));
    assert!(limited.retry_after_ms.is_some(), "{limited:?}");
    stage.settle().await?;
    stage.check(&all).await?;
    stage.close().await
}

#[tokio::test]
async fn bytes_that_were_damaged_on_the_way() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut rng = Rng::new(stage.seed);
    let mut crowd = Crowd::new(&stage.world, 1);
    let original = crowd.mark(0);
    let mut accepted = false;
    for _ in 0..400 {
        let mut bytes = original.body.to_vec();
        for _ in 0..rng.between(1, 4) {
            let at = usize::try_from(rng.below(bytes.len() as u64)).expect("small");
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, u8::try_from(rng.below(256)).expect("a byte")),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let answer = stage.client().send(post_json("/v1/requests", bytes.clone())).await?;
        let text = String::from_utf8_lossy(&bytes);
        if answer.status == 202 {
            // Harmless damage, such as a letter's case: it must still be the same request.
            let id: B256 =
                serde_json::from_value(serde_json::from_slice::<Value>(&answer.body).expect("JSON")["id"].clone())
                    .expect("an id");
            assert_eq!(id, original.id, "{text}");
            accepted = true;
        } else {
            let found = problem(&answer)?;
            assert!((400..500).contains(&found.status), "{found:?}: {text}");
        }
    }
    let summaries = stage.summaries().await?;
    assert_eq!(summaries.len(), usize::from(accepted));
    stage.submit(std::slice::from_ref(&original)).await?;
    stage.settle().await?;
    stage.check(&[original]).await?;
    tokio::time::timeout(Duration::from_secs(60), stage.close()).await.expect("an end in time")
}
