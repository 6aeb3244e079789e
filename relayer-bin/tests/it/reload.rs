//! Reload of the configuration while the relayer runs.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use slackwater_relayer::http::auth::KeyHash;

use super::siege::{Fort, SHOP};

const ADMIN: &str = "sw_shop_operator";
const NEW: &str = "sw_shop_newcomer";
const CLUB: &str = "sw_club_secret";

async fn ask(fort: &Fort, path: &str, key: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("{}{path}", fort.url())).bearer_auth(key);
    request.timeout(Duration::from_secs(20)).send().await.unwrap().status().as_u16()
}

async fn reload(fort: &Fort) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}/v1/admin/reload", fort.url())).bearer_auth(ADMIN);
    let response = request.timeout(Duration::from_secs(20)).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

fn key(id: &str, key: &str, scopes: &str) -> String {
    format!("[[tenant.keys]]\nid = \"{id}\"\nhash = \"{}\"\nscopes = [{scopes}]\n", KeyHash::of(key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_and_go_without_a_restart_all_or_nothing() {
    let fort = Fort::raise("").await;
    let hang_up = || kill_process(fort.pid(), Signal::HUP).unwrap();
    let first = fs::read_to_string(fort.config()).unwrap();
    assert_eq!((ask(&fort, "/v1/lanes", SHOP).await, ask(&fort, "/v1/lanes", ADMIN).await), (200, 401));

    // By signal: one more key, with the scope `operate`.
    let admin = key("admin", ADMIN, "\"read\", \"operate\"");
    fs::write(fort.config(), format!("{first}{admin}")).unwrap();
    hang_up();
    let started = Instant::now();
    while ask(&fort, "/v1/lanes", ADMIN).await != 200 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reload(&fort).await, (200, json!({ "changed": [] })));

    // By call: one key is removed and one added. A stream of the removed one ends.
    let client = reqwest::Client::new();
    let mut stream = client.get(format!("{}/v1/events", fort.url())).bearer_auth(SHOP).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let without = first.replace(&KeyHash::of(SHOP).to_string(), &KeyHash::of(NEW).to_string());
    fs::write(fort.config(), format!("{without}{admin}")).unwrap();
    let (status, answer) = reload(&fort).await;
    assert_eq!((status, &answer["changed"][0]["key"]), (200, &json!("tenant.0.api_keys.0")), "{answer}");
    assert_eq!((ask(&fort, "/v1/lanes", SHOP).await, ask(&fort, "/v1/lanes", NEW).await), (401, 200));
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the stream of a revoked key ends");

    // Limits of tenants, and their allowed targets.
    let back = format!("{first}{admin}");
    for (change, status) in [("max_gas = 40000", 403), ("max_open_requests = 1", 202), ("max_open_requests = 1", 429)] {
        fs::write(fort.config(), back.replace("api_keys", &format!("{change}\napi_keys"))).unwrap();
        assert_eq!(reload(&fort).await.0, 200, "{change}");
        assert_eq!(fort.submit().await.as_u16(), status, "{change}");
    }
    // A tenant that is closed: an empty table is a change.
    let named = back.lines().find(|line| line.starts_with("targets")).unwrap();
    let closed = back.replace(named, "targets = {}");
    fs::write(fort.config(), &closed).unwrap();
    let (status, answer) = reload(&fort).await;
    let keys: Vec<_> = answer["changed"].as_array().unwrap().iter().map(|change| change["key"].clone()).collect();
    assert!(status == 200 && keys.contains(&json!("tenant.0.targets")), "{answer}");
    assert_eq!(fort.submit().await.as_u16(), 403);
    assert_eq!(reload(&fort).await, (200, json!({ "changed": [] })));
    fs::write(fort.config(), back.replace("\"forward\", \"call\"", "\"forward\"")).unwrap();
    let (status, problem) = reload(&fort).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("`tenant.0.kinds"), "{problem}");

    // One more tenant, at the end of the list; removing one needs a restart.
    let club = format!("[[tenant]]\nid = \"club\"\nweight = 3\n{named}\napi_keys = [\"{}\"]\n", KeyHash::of(CLUB));
    assert_eq!(ask(&fort, "/v1/lanes", CLUB).await, 401);
    fs::write(fort.config(), format!("{}{club}", back.replace("api_keys", "weight = 2\napi_keys"))).unwrap();
    assert_eq!(reload(&fort).await.0, 200);
    assert_eq!((ask(&fort, "/v1/lanes", CLUB).await, ask(&fort, "/v1/requests", CLUB).await), (200, 200));
    fs::write(fort.config(), &back).unwrap();
    let (status, problem) = reload(&fort).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("`tenant.1.id`"), "{problem}");

    // A change that needs a restart, or an error, leaves everything unchanged.
    let back = format!("{back}{club}");
    fs::write(fort.config(), back.replace("linger_ms = 3600000", "linger_ms = 3500000")).unwrap();
    let (status, problem) = reload(&fort).await;
    assert_eq!((status, &problem["code"]), (409, &json!("needs_restart")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("`chain.0.linger_ms`"), "{problem}");
    fs::write(fort.config(), back.replace("api_keys", "api_key")).unwrap();
    let (status, problem) = reload(&fort).await;
    assert_eq!((status, &problem["code"]), (422, &json!("invalid_configuration")), "{problem}");
    hang_up();
    assert_eq!((ask(&fort, "/v1/lanes", SHOP).await, ask(&fort, "/v1/lanes", NEW).await), (200, 401));
}
