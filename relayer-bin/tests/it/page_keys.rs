//! Page keys: their permissions, their limits, and the withdrawal of their requests.

use std::{collections::BTreeMap, fs, time::Duration};

use alloy_primitives::{B256, Bytes, U256, hex};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    wallet::{Account, Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_core::{
    provenance::Decision,
    request::{RequestId, Withdrawal},
};
use slackwater_ledger::{Ledger as _, SqliteConfig, SqliteLedger};
use slackwater_relayer::http::auth::KeyHash;

use crate::stage::{Pace, Stage};

const ORIGIN: &str = "https://app.example.org";

fn key(tenant: &str, name: &str) -> String {
    format!("sw_{tenant}_{name}{}", "a".repeat(40))
}

/// `boss` is an operator; `shop` has a server key and a page key, `bank` a server key.
async fn raise() -> Result<Stage> {
    let boss = format!(
        "[[tenant]]\nid = \"boss\"\napi_keys = [\"{}\"]\noperator = true\nopen = true\n",
        KeyHash::of(&key("boss", "own"))
    );
    let mut stage = Stage::at(Pace::Manual)
        .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
        .extra(&boss)
        .api_key(&key("boss", "own"))
        .raise()
        .await?;
    let path = stage.relayer.config_path().to_owned();
    let tenant = |id: &str, more: &str| {
        let (target, own) = (stage.world.guestbook, KeyHash::of(&key(id, "own")));
        format!(
            "[[tenant]]\nid = \"{id}\"\napi_keys = [\"{own}\"]\nkinds = [\"forward\", \"call\"]\nmax_value_wei = 5\n\
             budget = {{ limit_wei = \"1000000000000000000\" }}\n\
             targets.31337 = {{ \"{target}\" = [\"0xd09de08a\"] }}\n{more}\n"
        )
    };
    let page = format!(
        "max_streams = 4\n[[tenant.keys]]\nid = \"web\"\nhash = \"{}\"\norigins = [\"{ORIGIN}\"]\n",
        KeyHash::of(&key("shop", "page"))
    );
    let more = [tenant("bank", ""), tenant("shop", &page)].concat();
    let limits = "[page_key]\nrate_per_ip_per_s = 1000\nburst_per_ip = 1000\nmax_requests_per_hour = 6\n";
    let text = fs::read_to_string(&path).expect("the configuration");
    // The only signer sends the calls of both.
    let text = text.replace("\"env:RELAYER_KEY_0\"", "{ key = \"env:RELAYER_KEY_0\", tenants = [\"bank\", \"shop\"] }");
    fs::write(&path, format!("{text}\n{more}\n{limits}")).expect("the configuration");
    stage.relayer.restart().await?;
    Ok(stage)
}

/// A request that the page may submit.
fn mark_of(stage: &Stage) -> Ask {
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

struct Page {
    client: Client,
    url: String,
    key: String,
}

impl Page {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        request.header("origin", ORIGIN).timeout(Duration::from_secs(20))
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).header("content-type", "application/json").body(body.to_string())
    }

    async fn submit(&self, request: &SignedRequest, change: impl FnOnce(&mut Value)) -> (u16, Value) {
        let mut body: Value = serde_json::from_slice(&request.body).expect("our own JSON");
        change(&mut body);
        answer(self.post("/v1/requests", &body)).await
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.expect("a body")).unwrap_or_default())
}

/// The text that a stream has sent by the end of a second.
async fn heard(mut stream: reqwest::Response) -> String {
    let mut text = String::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(Duration::from_secs(1), stream.chunk()).await {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

#[track_caller]
fn refused((status, problem): (u16, Value), expect: u16, code: &str, what: &str) {
    assert_eq!((status, problem["code"].as_str().unwrap_or_default()), (expect, code), "{problem}");
    assert!(problem["detail"].as_str().unwrap_or_default().contains(what), "{problem}");
}

#[tokio::test]
async fn a_page_key_submits_and_follows_and_takes_back_with_the_users_signature() -> Result<()> {
    let stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let user = Account::derive("a page's visitor", 0);
    let ask = |data: &'static [u8], value: u64| Ask {
        to: stage.world.guestbook,
        value: U256::from(value),
        gas: 100_000,
        data: Bytes::from_static(data),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    const MARK: &[u8] = &[0xd0, 0x9d, 0xe0, 0x8a];
    let page = Page { client: Client::new(), url: stage.relayer.url().to_owned(), key: key("shop", "page") };
    let bank = Page { key: key("bank", "own"), client: Client::new(), url: page.url.clone() };
    let nothing = |_: &mut Value| {};

    // Allowed: submit what the tenant's policy names, get it by id, follow it, and read prices.
    let mark = crowd.sign_at(&user, 0, &ask(MARK, 0));
    let (status, accepted) = page.submit(&mark, nothing).await;
    assert_eq!(status, 202, "{accepted}");
    let response = page.request(Method::GET, &format!("/v1/requests/{}", mark.id)).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN);
    // The tenant sees the key that submitted, and visitors do not.
    let shop = Page { key: key("shop", "own"), client: Client::new(), url: page.url.clone() };
    let path = format!("/v1/requests/{}", mark.id);
    assert_eq!(answer(shop.request(Method::GET, &path)).await.1["submittedBy"], "web");
    assert_eq!(answer(page.request(Method::GET, &path)).await.1.get("submittedBy"), None);
    for path in ["/v1/chains", "/v1/chains/31337/fees"] {
        assert_eq!(answer(page.request(Method::GET, path)).await.0, 200, "{path}");
    }
    assert_eq!(answer(page.post("/v1/quotes", &json!({ "chainId": 31_337, "gas": 100_000 }))).await.0, 200);

    // Two requests on one stream; a second stream of the same client is one too many.
    let gapped = crowd.sign_at(&user, 2, &ask(MARK, 0));
    assert_eq!(page.submit(&gapped, nothing).await.0, 202);
    let both = format!("/v1/events?after=0&requests={},{}", mark.id, gapped.id);
    let mut stream = page.request(Method::GET, &both).send().await.expect("an answer");
    assert_eq!(stream.status(), 200);
    let mut text = String::new();
    while !(text.contains(&mark.id.to_string()) && text.contains(&gapped.id.to_string())) {
        let chunk = stream.chunk().await.expect("a stream").expect("goes on");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    refused(answer(page.request(Method::GET, &both)).await, 429, "too_many_streams", "page key");
    refused(answer(page.request(Method::GET, "/v1/events?after=0")).await, 403, "scope_missing", "requests=");
    // The tenant's places for streams are shared by all its keys.
    let mut of_server = Vec::new();
    for _ in 0..3 {
        of_server.push(shop.request(Method::GET, "/v1/events").send().await.expect("an answer"));
    }
    assert!(of_server.iter().all(|stream| stream.status() == 200));
    refused(answer(shop.request(Method::GET, "/v1/events")).await, 429, "too_many_streams", "tenant.max_streams");
    drop(of_server);

    // Not allowed.
    for (method, path) in [
        (Method::GET, "/v1/requests"),
        (Method::GET, "/v1/lanes"),
        (Method::GET, "/v1/counts"),
        (Method::GET, "/v1/admin/pauses"),
    ] {
        refused(answer(page.request(method, path)).await, 403, "scope_missing", "page key");
    }
    let elsewhere = page.client.get(format!("{}/v1/chains", page.url)).bearer_auth(&page.key);
    refused(answer(elsewhere.header("origin", "https://evil.example")).await, 403, "origin_refused", "web");
    let call = json!({ "chainId": 31_337, "kind": "call", "call": { "to": stage.world.guestbook, "gas": "50000", "data": "0xd09de08a" } });
    refused(answer(page.post("/v1/requests", &call)).await, 403, "policy_denied", "forward");
    let valued = crowd.sign_at(&user, 1, &ask(MARK, 1));
    refused(page.submit(&valued, nothing).await, 403, "policy_denied", "value");
    let unnamed = crowd.sign_at(&user, 1, &ask(&[1, 2, 3, 4], 0));
    refused(page.submit(&unnamed, nothing).await, 403, "policy_denied", "tenant.targets");
    let next = crowd.sign_at(&user, 1, &ask(MARK, 0));
    refused(page.submit(&next, |body| body["within"] = json!("2h")).await, 422, "deadline_too_far", "page key");

    // Only the user can withdraw it, through any tenant.
    let path = format!("/v1/requests/{}", gapped.id);
    let sign = |account: &Account, id: B256| {
        let digest = Withdrawal { request_hash: RequestId(id), chain_id: 31_337 }.digest();
        json!({ "signature": hex::encode_prefixed(account.sign(digest)) })
    };
    let take_back = |page: &Page, body: &Value| {
        page.request(Method::DELETE, &path).header("content-type", "application/json").body(body.to_string())
    };
    refused(answer(page.request(Method::DELETE, &path)).await, 403, "signature_needed", "signed");
    let stranger = Account::derive("a page's visitor", 1);
    refused(answer(take_back(&page, &sign(&stranger, gapped.id))).await, 422, "invalid_signature", "not signed");
    refused(answer(take_back(&page, &sign(&user, mark.id))).await, 422, "invalid_signature", "not signed");
    refused(answer(bank.request(Method::DELETE, &path)).await, 404, "not_found", "");
    let (status, cancelled) = answer(take_back(&bank, &sign(&user, gapped.id))).await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")), "{cancelled}");

    // Its own caps: two were accepted, four more fit into the hour. The server key still works.
    let mut accepted = 0;
    let mut last = (0, Value::Null);
    for nonce in 1..=6 {
        // Not the withdrawn one.
        let other = Ask { gas: 90_000, ..ask(MARK, 0) };
        last = page.submit(&crowd.sign_at(&user, nonce, &other), nothing).await;
        accepted += u64::from(last.0 == 202);
    }
    assert_eq!(accepted, 4);
    refused(last, 429, "rate_limited", "page_key.max_requests_per_hour");
    let own = Page { key: key("shop", "own"), client: Client::new(), url: page.url.clone() };
    assert_eq!(own.submit(&crowd.sign_at(&stranger, 0, &ask(MARK, 0)), nothing).await.0, 202);
    drop(stream);
    stage.settle_mining().await?;
    stage.close().await
}

/// The usage of page keys survives a restart of the relayer.
#[tokio::test]
async fn the_caps_of_page_keys_outlive_a_restart() -> Result<()> {
    let mut stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let mark = mark_of(&stage);
    let of = |user: u64| crowd.sign_at(&Account::derive("one of many visitors", user), 0, &mark);
    let page =
        |stage: &Stage| Page { client: Client::new(), url: stage.relayer.url().to_owned(), key: key("shop", "page") };
    let nothing = |_: &mut Value| {};
    for user in 0..4 {
        let (status, accepted) = page(&stage).submit(&of(user), nothing).await;
        assert_eq!(status, 202, "{accepted}");
    }
    stage.relayer.restart().await?;
    for user in 4..6 {
        let (status, accepted) = page(&stage).submit(&of(user), nothing).await;
        assert_eq!(status, 202, "{accepted}");
    }
    let last = page(&stage).submit(&of(6), nothing).await;
    refused(last, 429, "rate_limited", "page_key.max_requests_per_hour");
    stage.relayer.restart().await?;
    let last = page(&stage).submit(&of(7), nothing).await;
    refused(last, 429, "rate_limited", "page_key.max_requests_per_hour");
    stage.close().await
}

/// The same signed request through another tenant is refused while the first one has it. Once that has ended untried,
/// it is an ordinary request of the other tenant; until then the refusal names the time until which the signature is
/// usable.
#[tokio::test]
async fn what_ended_untried_another_tenant_may_submit() -> Result<()> {
    let stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let user = Account::derive("a user of two services", 0);
    let deadline_s = unix_seconds() + 3_600;
    let mark = Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas: 100_000,
        data: Bytes::from_static(&[0xd0, 0x9d, 0xe0, 0x8a]),
        deadline_s,
        within: None,
        max_cost_wei: None,
    };
    let of =
        |tenant: &str| Page { client: Client::new(), url: stage.relayer.url().to_owned(), key: key(tenant, "own") };
    let (shop, bank) = (of("shop"), of("bank"));
    let nothing = |_: &mut Value| {};
    // It waits for the nonce before it.
    let second = crowd.sign_at(&user, 1, &mark);
    let path = format!("/v1/requests/{}", second.id);
    assert_eq!(shop.submit(&second, nothing).await.0, 202);
    refused(bank.submit(&second, nothing).await, 409, "already_submitted", "");
    let (_, open) = answer(shop.request(Method::GET, &path)).await;
    assert!(open["executableUntil"].is_null(), "{open}");
    // One stream shows all events, the other starts after the end that is to come.
    let (_, counts) = answer(of("boss").request(Method::GET, "/v1/counts")).await;
    let last = counts["lastEventSeq"].as_u64().expect("a number");
    let follow = async |after: u64| {
        let stream = shop.request(Method::GET, &format!("{path}/events?after={after}")).send().await;
        stream.expect("a stream")
    };
    let (told, after_the_end) = (follow(0).await, follow(last + 1).await);
    assert_eq!(answer(shop.request(Method::DELETE, &path)).await.0, 200);
    let (_, ended) = answer(shop.request(Method::GET, &path)).await;
    assert_eq!((&ended["status"], &ended["executableUntil"]), (&json!("cancelled"), &json!(deadline_s)), "{ended}");

    let (status, accepted) = bank.submit(&second, nothing).await;
    assert_eq!((status, &accepted["duplicate"]), (202, &json!(false)), "{accepted}");
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::GET, format!("{path}/events?after=0")),
        (Method::GET, format!("/v1/events?after=0&requests={}", second.id)),
    ] {
        refused(answer(shop.request(method, &path)).await, 404, "not_found", "");
    }
    refused(shop.submit(&second, nothing).await, 409, "already_submitted", "");
    assert_eq!(shop.submit(&crowd.sign_at(&user, 0, &mark), nothing).await.0, 202);
    stage.settle_mining().await?;
    let (_, executed) = answer(bank.request(Method::GET, &path)).await;
    assert_eq!((&executed["status"], &executed["tenant"]), (&json!("finalized"), &json!("bank")), "{executed}");
    assert!(executed["executableUntil"].is_null(), "{executed}");
    // The stream of the first request reports its own end, and nothing of the other tenant's.
    let (told, after_the_end) = (heard(told).await, heard(after_the_end).await);
    assert!(told.contains("cancelled") && !told.contains("bank"), "{told}");
    assert!(!after_the_end.contains("data:"), "{after_the_end}");
    stage.close().await
}

/// Refused calls are counted, by key if one is known: guessed keys, missing permissions, meaningless bodies.
#[tokio::test]
async fn what_is_refused_at_the_door_is_counted_with_who_asked() -> Result<()> {
    let mut stage = raise().await?;
    let url = stage.relayer.url().to_owned();
    let of = |key: String| Page { client: Client::new(), url: url.clone(), key };
    let (wrong, page, shop) = (of(key("shop", "wrong")), of(key("shop", "page")), of(key("shop", "own")));
    for _ in 0..3 {
        refused(answer(wrong.request(Method::GET, "/v1/lanes")).await, 401, "unauthorized", "API key");
    }
    refused(answer(page.request(Method::GET, "/v1/lanes")).await, 403, "scope_missing", "page key");
    let call = json!({ "chainId": 31_337, "kind": "call", "call": { "to": stage.world.guestbook, "gas": "50000", "data": "0xd09de08a" } });
    refused(answer(page.post("/v1/requests", &call)).await, 403, "policy_denied", "forward");
    refused(answer(shop.post("/v1/requests", &json!({ "chainId": 31_337 }))).await, 422, "invalid_field", "kind");
    let batch = json!({ "requests": [{ "chainId": 31_337 }, { "chainId": 31_337 }] });
    assert_eq!(answer(shop.post("/v1/requests/batch", &batch)).await.0, 207);
    for (code, count) in [("unauthorized", 3.0), ("scope_missing", 1.0), ("policy_denied", 1.0), ("invalid_field", 3.0)]
    {
        assert_eq!(stage.metric("slackwater_refusals_total", &[code]).await?, count, "{code}");
    }
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);

    let ledger = SqliteLedger::open(SqliteConfig::new(stage.relayer.database())).await.expect("the ledger");
    let rows = ledger.decisions(0, 1_000).await.expect("the log");
    let refusals = rows.iter().filter_map(|row| match Decision::decode(&row.body).expect("a decision") {
        Decision::Refused { key, tenant, code, count } => Some((tenant, key, code, count)),
        _ => None,
    });
    let mut sums = BTreeMap::new();
    refusals.for_each(|(tenant, key, code, count)| {
        *sums.entry((tenant, key.unwrap_or_default(), code)).or_default() += count
    });
    let own = KeyHash::of(&key("shop", "own")).short_name();
    let expect = [
        (("", "", "unauthorized"), 3_u64),
        (("shop", own.as_str(), "invalid_field"), 3),
        (("shop", "web", "policy_denied"), 1),
        (("shop", "web", "scope_missing"), 1),
    ];
    let named = |((tenant, key, code), count): ((&str, &str, &str), u64)| {
        ((tenant.to_owned(), key.to_owned(), code.to_owned()), count)
    };
    assert_eq!(sums, expect.map(named).into());
    drop(ledger);
    stage.close().await
}

/// A budget that was too small is raised, or one that was too large is lowered, without a restart.
#[tokio::test]
async fn the_limit_of_a_budget_is_taken_over_while_the_relayer_runs() -> Result<()> {
    let stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let of = |key: String| Page { client: Client::new(), url: stage.relayer.url().to_owned(), key };
    let (boss, shop, bank) = (of(key("boss", "own")), of(key("shop", "own")), of(key("bank", "own")));
    let mark = mark_of(&stage);
    let of = |user: u64| crowd.sign_at(&Account::derive("one whose tenant has little", user), 0, &mark);
    let nothing = |_: &mut Value| {};
    let path = stage.relayer.config_path().to_owned();
    let first = fs::read_to_string(&path).expect("the configuration");
    let limited = |limit: &str| {
        // The last tenant is `shop`.
        let (before, after) = first.rsplit_once("limit_wei = \"1000000000000000000\"").expect("a budget");
        format!("{before}limit_wei = \"{limit}\"{after}")
    };
    assert_eq!(shop.submit(&of(0), nothing).await.0, 202);
    fs::write(&path, limited("1")).expect("the configuration");
    let (status, changed) = answer(boss.post("/v1/admin/reload", &json!({}))).await;
    assert_eq!((status, &changed["changed"][0]["key"]), (200, &json!("tenant.2.budget.limit_wei")), "{changed}");
    refused(shop.submit(&of(1), nothing).await, 402, "budget_exhausted", "tenant.budget");
    assert_eq!(bank.submit(&of(2), nothing).await.0, 202);
    fs::write(&path, &first).expect("the configuration");
    assert_eq!(answer(boss.post("/v1/admin/reload", &json!({}))).await.0, 200);
    assert_eq!(shop.submit(&of(1), nothing).await.0, 202);
    // A change of the period needs a restart: usage is counted by it.
    fs::write(&path, limited("1\", period_s = 60 } # \"")).expect("the configuration");
    refused(answer(boss.post("/v1/admin/reload", &json!({}))).await, 409, "needs_restart", "tenant.2.budget.period_s");
    stage.settle_mining().await?;
    stage.close().await
}

/// An attacker who read the page's key sends the longest calldata, one call with many requests, and hangs up: the
/// tenant's own server keeps its part of the budget, and other visitors keep theirs of the key's caps.
#[tokio::test]
async fn what_a_page_holds_is_what_is_reserved_and_comes_back() -> Result<()> {
    let stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let of = |key: String| Page { client: Client::new(), url: stage.relayer.url().to_owned(), key };
    let (boss, page, shop) = (of(key("boss", "own")), of(key("shop", "page")), of(key("shop", "own")));
    let mut data = vec![0xd0, 0x9d, 0xe0, 0x8a];
    data.resize(16_384, 0xff);
    let large = Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas: 30_000,
        data: data.into(),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    let mark = Ask { data: Bytes::from_static(&[0xd0, 0x9d, 0xe0, 0x8a]), gas: 100_000, ..large.clone() };
    let body = |request: &SignedRequest| serde_json::from_slice::<Value>(&request.body).expect("our own JSON");
    let reserved = |answer: &Value| answer["quote"]["maxCostWei"].as_str().expect("wei").parse::<U256>().expect("wei");

    // The reservation of one of them. The tenant's own server is not limited by the page's caps.
    let sign = |user: u64, ask: &Ask| crowd.sign_at(&Account::derive("who reads the page's key", user), 0, ask);
    let (status, accepted) = shop.submit(&sign(0, &large), |_| {}).await;
    assert_eq!(status, 202, "{accepted}");
    let each = reserved(&accepted);

    // The page's tenth of the hour allows one and a half of them. All in one call: one is accepted.
    let path = stage.relayer.config_path().to_owned();
    let first = fs::read_to_string(&path).expect("the configuration");
    let (before, after) = first.rsplit_once("limit_wei = \"1000000000000000000\"").expect("a budget");
    fs::write(&path, format!("{before}limit_wei = \"{}\"{after}", each * U256::from(15))).expect("the configuration");
    assert_eq!(answer(boss.post("/v1/admin/reload", &json!({}))).await.0, 200);
    let batch = |asks: &[Value]| json!({ "requests": asks });
    let codes = |answer: &Value| -> Vec<String> {
        let results = answer["results"].as_array().expect("results");
        results.iter().map(|result| result["problem"]["code"].as_str().unwrap_or("accepted").to_owned()).collect()
    };
    let many: Vec<Value> = (1..=4).map(|user| body(&sign(user, &large))).collect();
    let (status, answered) = answer(page.post("/v1/requests/batch", &batch(&many))).await;
    assert_eq!(status, 207, "{answered}");
    assert_eq!(codes(&answered), ["accepted", "budget_exhausted", "budget_exhausted", "budget_exhausted"]);
    // Repeating the first answer takes nothing from the caps.
    let (status, again) = answer(page.post("/v1/requests", &many[0])).await;
    assert_eq!((status, &again["id"]), (202, &answered["results"][0]["accepted"]["id"]), "{again}");

    // Refused requests do not use up the hour (six requests) for others, whether the client hung up or not.
    let unsigned = |user: u64| {
        let mut body = body(&sign(user, &mark));
        body["forward"]["signature"] = json!(format!("0x{}", "11".repeat(65)));
        body
    };
    let many: Vec<Value> = (10..20).map(unsigned).collect();
    let (_, answered) = answer(page.post("/v1/requests/batch", &batch(&many))).await;
    assert_eq!(codes(&answered), vec!["invalid_signature"; 10], "{answered}");
    for user in 20..30 {
        let call = page.post("/v1/requests", &unsigned(user)).timeout(Duration::from_millis(1));
        let _ = call.send().await;
    }
    let (status, accepted) = page.submit(&sign(30, &mark), |_| {}).await;
    assert_eq!(status, 202, "{accepted}");
    stage.settle_mining().await?;
    stage.close().await
}

/// A visitor who guesses the server's idempotency keys takes none of them, and learns about no request.
#[tokio::test]
async fn idempotency_keys_of_visitors_are_their_own() -> Result<()> {
    let stage = raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let of = |key: String| Page { client: Client::new(), url: stage.relayer.url().to_owned(), key };
    let (page, shop) = (of(key("shop", "page")), of(key("shop", "own")));
    let mark = mark_of(&stage);
    let sign = |user: u64| crowd.sign_at(&Account::derive("who guesses", user), 0, &mark);
    let keyed = |name: &'static str| move |body: &mut Value| body["idempotencyKey"] = json!(name);
    let (visitor, other, server) = (sign(0), sign(1), sign(2));
    assert_eq!(page.submit(&visitor, keyed("order-1")).await.0, 202);
    let (status, accepted) = shop.submit(&server, keyed("order-1")).await;
    assert_eq!(status, 202, "{accepted}");
    let (status, accepted) = page.submit(&other, keyed("order-1")).await;
    assert_eq!(status, 202, "{accepted}");
    // Each is still limited by its own.
    let next = crowd.sign_at(&Account::derive("who guesses", 0), 1, &mark);
    let (status, problem) = page.submit(&next, keyed("order-1")).await;
    assert_eq!((status, &problem["existing"]), (409, &json!(visitor.id)), "{problem}");
    stage.settle_mining().await?;
    stage.close().await
}
