//! The API over a real connection: keys, scopes, problems, streams, shutdown.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use slackwater_relayer::{
    config::Sources,
    http::{App, Server, auth::KeyHash},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::node;

const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
const BANK: &str = "sw_bank_9ZkQpTnVbY6Lsc";
const ADMIN: &str = "sw_admin_5HfGrEwCtD8Mva";

struct Api {
    url: String,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Api {
    async fn start(server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tenant = |id: &str, key: &str, more: &str| {
            format!(
                "[[tenant]]\nid = \"{id}\"\napi_keys = [\"{}\"]\nkinds = [\"forward\", \"call\"]\n{more}\n",
                KeyHash::of(key)
            )
        };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nkeep_alive_ms = 200\nmax_body_bytes = 4096\n{server}\n[ledger]\npath = {:?}\n\
             [[chain]]\npreset = \"anvil\"\nrpc = [{{ url = \"{}\" }}]\nsigners = [\"inline:{}\"]\nlinger_ms = 3600000\nwaiting_cost_percent = 0\ntiming = \"percentile\"\n{}{}{}",
            dir.path().join("test.db"),
            node::start().await,
            "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
            tenant("shop", SHOP, ""),
            tenant("bank", BANK, ""),
            tenant("admin", ADMIN, "operator = true"),
        );
        let sources = Sources { allow_inline_secrets: true, ..Sources::default() };
        let config = sources.load_text(Some(("test".to_owned(), text))).unwrap();
        let relay = config.relay_builder(config.resolve().unwrap()).start().await.unwrap();
        let server = Server::bind(config.listen).unwrap();
        let url = format!("http://{}", server.address());
        let app = Arc::new(App::new(relay.clone(), config.keys(), config.http.clone(), None));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            server
                .run(app, async {
                    let _ = stopped.await;
                })
                .await;
            relay.shutdown().await;
        });
        Self { url, client: Client::new(), stop: Some(stop), task: Some(task), _dir: dir }
    }

    fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url)).timeout(Duration::from_secs(20));
        if key.is_empty() { request } else { request.bearer_auth(key) }
    }

    async fn get(&self, path: &str, key: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path, key)).await
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
        let body = body.to_string();
        answer(self.request(Method::POST, path, key).header(header::CONTENT_TYPE, "application/json").body(body)).await
    }

    async fn shutdown(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(Duration::from_secs(20), self.task.take().unwrap()).await.unwrap().unwrap();
    }
}

async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).cloned();
    let bytes = response.bytes().await.unwrap();
    if !status.is_success() {
        assert_eq!(kind.unwrap(), "application/problem+json", "{status} {bytes:?}");
    }
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn call(to: u8) -> Value {
    let to = format!("0x{}", format!("{to:02x}").repeat(20));
    json!({ "chainId": 31_337, "kind": "call", "call": { "to": to, "gas": "50000" }, "within": "1h" })
}

/// Reads from a stream until `is_enough` of the events so far, or its end.
async fn events(response: reqwest::Response, is_enough: impl Fn(&[Value], &str) -> bool) -> (Vec<Value>, String) {
    let mut response = response;
    let (mut text, mut events) = (String::new(), Vec::new());
    let mut taken = 0;
    while !is_enough(&events, &text) {
        let chunk = tokio::time::timeout(Duration::from_secs(20), response.chunk()).await.expect("the stream goes on");
        let Some(chunk) = chunk.unwrap() else { break };
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some(at) = text[taken..].find("\n\n") {
            let message = &text[taken..taken + at];
            if let Some(data) = message.lines().find_map(|line| line.strip_prefix("data: ")) {
                let event: Value = serde_json::from_str(data).unwrap();
                let id = message.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
                assert_eq!(id, event["seq"].to_string());
                events.push(event);
            }
            taken += at + 2;
        }
    }
    (events, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_open_their_own_tenant_only() {
    let api = Api::start("").await;
    for (method, path) in [
        (Method::POST, "/v1/requests"),
        (Method::POST, "/v1/requests/batch"),
        (Method::GET, "/v1/requests"),
        (Method::GET, "/v1/requests/0x00"),
        (Method::DELETE, "/v1/requests/0x00"),
        (Method::GET, "/v1/requests/0x00/events"),
        (Method::GET, "/v1/events"),
        (Method::POST, "/v1/quotes"),
        (Method::GET, "/v1/chains"),
        (Method::GET, "/v1/chains/31337/fees"),
        (Method::GET, "/v1/lanes"),
        (Method::GET, "/v1/counts"),
        (Method::GET, "/v1/batches/x"),
    ] {
        for key in ["", "sw_shop_wrong", "sw_nobody_x", "x"] {
            let (status, problem) = answer(api.request(method.clone(), path, key)).await;
            assert_eq!((status.as_u16(), &problem["code"]), (401, &json!("unauthorized")), "{method} {path} {key:?}");
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs", "/"] {
        let response = api.request(Method::GET, path, "").send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }

    let (status, mine) = api.post("/v1/requests", SHOP, &call(1)).await;
    assert_eq!(status, 202, "{mine}");
    let id = mine["id"].as_str().unwrap();
    let (_, theirs) = api.post("/v1/requests", BANK, &call(1)).await;
    assert_ne!(theirs["id"], mine["id"], "the same call of another tenant is another request");

    let path = format!("/v1/requests/{id}");
    assert_eq!(api.get(&path, SHOP).await.0, 200);
    assert_eq!(api.get(&path, ADMIN).await.0, 200);
    for (method, path) in [(Method::GET, &path), (Method::DELETE, &path), (Method::GET, &format!("{path}/events"))] {
        let (status, problem) = answer(api.request(method, path, BANK)).await;
        assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("not_found")));
    }
    let ids = |page: &Value| -> Vec<String> {
        page["requests"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&api.get("/v1/requests", SHOP).await.1), [id]);
    assert_eq!(ids(&api.get("/v1/requests", ADMIN).await.1).len(), 2);
    assert_eq!(ids(&api.get("/v1/requests?tenant=shop", ADMIN).await.1), [id]);
    assert_eq!(api.get("/v1/requests?tenant=bank", SHOP).await.0, 403);
    assert_eq!(api.get("/v1/counts", SHOP).await.0, 403);
    // The models decide for everybody: only operators change them or take them away.
    let version = json!({ "version": 1 });
    for what in ["promote", "pin", "unpin", "rollback", "import"] {
        let (status, problem) = api.post(&format!("/v1/models/31337/{what}"), SHOP, &version).await;
        assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("operator_only")), "{what}");
    }
    assert_eq!(api.get("/v1/models/31337/export", SHOP).await.0, 403);
    assert_eq!(api.get("/v1/models", SHOP).await, (StatusCode::OK, json!({ "models": [] })));
    let (status, export) = api.get("/v1/models/31337/export", ADMIN).await;
    assert_eq!((status.as_u16(), &export["chainId"]), (200, &json!(31_337)));
    for (path, body, code, name) in [
        ("31337/promote", &version, 404, "not_found"),
        ("31337/pin", &json!({ "versions": 1 }), 422, "invalid_field"),
        ("31337/rollback", &Value::Null, 409, "no_earlier_model"),
        ("1/unpin", &Value::Null, 404, "not_found"),
        ("x/unpin", &Value::Null, 400, "malformed_id"),
        ("31337/import", &json!({}), 422, "invalid_models"),
        ("31337/import", &json!({ "format": 1, "chainId": 5, "registry": export["registry"] }), 422, "invalid_models"),
    ] {
        let (status, problem) = api.post(&format!("/v1/models/{path}"), ADMIN, body).await;
        assert_eq!((status.as_u16(), &problem["code"]), (code, &json!(name)), "{path}: {problem}");
    }
    assert_eq!(api.post("/v1/models/31337/import", ADMIN, &export).await.0, 200);
    assert_eq!(api.post("/v1/models/31337/unpin", ADMIN, &Value::Null).await.0, 200);
    let (_, counts) = api.get("/v1/counts", ADMIN).await;
    assert_eq!(counts["counts"], json!([{ "chainId": 31_337, "status": "queued", "count": 2 }]));
    assert!(api.get("/v1/chains", ADMIN).await.1["chains"][0]["endpoints"].is_array());
    assert!(api.get("/v1/chains", SHOP).await.1["chains"][0]["endpoints"].is_null());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_a_problem() {
    let api = Api::start("").await;
    let json_type = (header::CONTENT_TYPE, "application/json");
    let post = |body: &str| {
        api.request(Method::POST, "/v1/requests", SHOP).header(json_type.0.clone(), json_type.1).body(body.to_owned())
    };
    let check = async |request: RequestBuilder, status: u16, code: &str| {
        let (actual, problem) = answer(request).await;
        assert_eq!((actual.as_u16(), problem["code"].as_str().unwrap_or_default()), (status, code), "{problem}");
        assert_eq!(problem["status"], status);
        problem
    };
    let problem = check(post("{\n  \"chainId\": }"), 400, "malformed_json").await;
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(14)));
    let problem = check(post("{\"chainId\":-1}"), 422, "invalid_field").await;
    assert_eq!(problem["field"], "chainId");
    check(post(&" ".repeat(5_000)), 413, "body_too_large").await;
    // Without a length the body is cut off while it is read.
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(" ".repeat(1_000))));
    let streamed = api.request(Method::POST, "/v1/requests", SHOP).header(json_type.0.clone(), json_type.1);
    check(streamed.body(reqwest::Body::wrap_stream(chunks)), 413, "body_too_large").await;
    let plain = api.request(Method::POST, "/v1/requests", SHOP).header(header::CONTENT_TYPE, "text/plain").body("{}");
    check(plain, 415, "unsupported_media_type").await;
    check(api.request(Method::PUT, "/v1/requests", SHOP), 405, "method_not_allowed").await;
    check(api.request(Method::GET, "/v1/nothing", SHOP), 404, "not_found").await;
    check(api.request(Method::GET, "/v1/requests/0x12", SHOP), 400, "malformed_id").await;
    check(api.request(Method::GET, &format!("/v1/requests/0x{}", "00".repeat(32)), SHOP), 404, "not_found").await;
    check(api.request(Method::GET, "/v1/requests?limit=0", SHOP), 400, "invalid_query").await;
    check(api.request(Method::GET, "/v1/requests?statuss=x", SHOP), 400, "invalid_query").await;
    check(api.request(Method::GET, "/v1/batches/1:2", SHOP), 400, "malformed_id").await;
    check(api.request(Method::GET, "/v1/chains/1/fees", SHOP), 404, "not_found").await;
    check(api.request(Method::GET, "/v1/events", SHOP).header("Last-Event-ID", "x"), 400, "invalid_header").await;
    check(post(&call(1).to_string()).header("Idempotency-Key", "k".repeat(256)), 422, "invalid_field").await;
    check(post(&call(1).to_string().replace("31337", "5")), 422, "wrong_chain").await;
    let many = json!({ "requests": vec![1; 1_001] }).to_string();
    let batch = api.request(Method::POST, "/v1/requests/batch", SHOP).header(json_type.0.clone(), json_type.1);
    check(batch.body(many), 413, "batch_too_large").await;
    check(api.request(Method::GET, "/metrics", ""), 404, "not_found").await;
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_gives_the_first_answer() {
    let api = Api::start("").await;
    let post = |body: Value, key: &str| {
        let body = body.to_string();
        let request = api.request(Method::POST, "/v1/requests", SHOP).header("Idempotency-Key", key.to_owned());
        answer(request.header(header::CONTENT_TYPE, "application/json").body(body))
    };
    let (status, first) = post(call(1), "order-1").await;
    assert_eq!((status.as_u16(), &first["duplicate"]), (202, &json!(false)));
    let (status, again) = post(call(1), "order-1").await;
    assert_eq!(status, 202);
    for member in ["id", "acceptedAtMs", "deadlineAtMs", "promise", "quote"] {
        assert_eq!(first[member], again[member], "{member}");
    }
    assert_eq!(again["duplicate"], true);
    let (status, problem) = post(call(2), "order-1").await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("idempotency_conflict")));
    assert_eq!(problem["existing"], first["id"]);
    // Without a key, equal calls are different requests.
    let ids = [api.post("/v1/requests", SHOP, &call(1)).await.1, api.post("/v1/requests", SHOP, &call(1)).await.1];
    assert_ne!(ids[0]["id"], ids[1]["id"]);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_each_in_order() {
    let api = Api::start("").await;
    let mut keyed = call(3);
    keyed["idempotencyKey"] = json!("b");
    let body = json!({ "requests": [call(1), { "chainId": "x" }, call(2), call(2).to_string(), keyed, keyed] });
    let (status, answer) = api.post("/v1/requests/batch", SHOP, &body).await;
    assert_eq!(status, 207);
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 422, 202, 422, 202, 202]);
    assert_eq!(results[1]["problem"]["field"], "chainId");
    assert_eq!(results[4]["accepted"]["id"], results[5]["accepted"]["id"]);
    // Newest first, page by page, nothing twice and nothing left out.
    let mut seen = Vec::new();
    let mut path = "/v1/requests?limit=2".to_owned();
    loop {
        let (_, page) = api.get(&path, SHOP).await;
        let requests = page["requests"].as_array().unwrap();
        assert!(requests.len() <= 2);
        seen.extend(requests.iter().map(|request| request["seq"].as_u64().unwrap()));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/requests?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, [3, 2, 1]);
    let (status, empty) = api.post("/v1/requests/batch", SHOP, &json!({ "requests": [] })).await;
    assert_eq!((status.as_u16(), empty), (207, json!({ "results": [] })));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_replay_go_on_live_and_stay_in_their_tenant() {
    let api = Api::start("").await;
    let (_, first) = api.post("/v1/requests", SHOP, &call(1)).await;
    api.post("/v1/requests", BANK, &call(1)).await;

    let open = async |path: &str, key: &str, last: Option<&str>| {
        let mut request = api.client.get(format!("{}{path}", api.url)).bearer_auth(key);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        request.send().await.unwrap()
    };
    let stream = open("/v1/events?after=0", SHOP, None).await;
    assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
    let all = open("/v1/events?after=0", ADMIN, None).await;
    let from_now = open("/v1/events", SHOP, None).await;
    let third = api.post("/v1/requests", SHOP, &call(2)).await.1;

    let (mine, _) = events(stream, |events, _| events.len() >= 2).await;
    let ids: Vec<_> = mine.iter().map(|event| event["requestId"].clone()).collect();
    assert_eq!(ids[..2], [first["id"].clone(), third["id"].clone()]);
    assert!(mine.iter().all(|event| event["tenant"] == "shop"));
    let (everybody, _) = events(all, |events, _| events.len() >= 3).await;
    let seqs: Vec<_> = everybody.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs[..3], [1, 2, 3]);
    let (late, _) = events(from_now, |events, _| !events.is_empty()).await;
    assert_eq!(late[0]["requestId"], third["id"]);
    let (rest, text) = events(open("/v1/events", ADMIN, Some("2")).await, |events, text| {
        !events.is_empty() && text.contains(": keep-alive")
    })
    .await;
    assert_eq!(rest[0]["seq"], 3);
    assert!(text.starts_with("retry: "), "{text}");

    // One request: from its beginning to its end, then nothing more.
    let path = format!("/v1/requests/{}/events", first["id"].as_str().unwrap());
    let one = open(&path, SHOP, None).await;
    let (status, cancelled) =
        answer(api.request(Method::DELETE, &format!("/v1/requests/{}", first["id"].as_str().unwrap()), SHOP)).await;
    assert_eq!((status.as_u16(), &cancelled["status"]), (200, &json!("cancelled")), "{cancelled}");
    let (story, _) = events(one, |_, _| false).await;
    let statuses: Vec<_> = story.iter().map(|event| event["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["queued", "cancelled"], "the stream ends by itself");
    let last = story[1]["seq"].to_string();
    assert_eq!(open(&path, SHOP, Some(&last)).await.status(), 204);
    let (status, problem) =
        answer(api.request(Method::DELETE, &format!("/v1/requests/{}", first["id"].as_str().unwrap()), SHOP)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("too_late")));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_streams_and_the_next_start_goes_on() {
    let api = Api::start("").await;
    api.post("/v1/requests", SHOP, &call(1)).await;
    let stream = api.client.get(format!("{}/v1/events?after=0", api.url)).bearer_auth(SHOP).send().await.unwrap();
    let reading = tokio::spawn(events(stream, |_, _| false));
    let url = api.url.clone();
    api.shutdown().await;
    let (seen, _) = reading.await.unwrap();
    assert_eq!(seen[0]["status"], "queued");
    assert!(Client::new().get(format!("{url}/healthz")).send().await.unwrap_err().is_connect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_kept() {
    let api = Api::start("max_streams = 1\nrate_per_ip_per_s = 5\ncors_origins = [\"https://app.example.org\"]").await;
    let open = || api.client.get(format!("{}/v1/events", api.url)).bearer_auth(SHOP).send();
    let first = open().await.unwrap();
    assert_eq!(first.status(), 200);
    let (status, problem) = answer(api.request(Method::GET, "/v1/events", SHOP)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("overloaded")));

    let mut limited = None;
    for _ in 0..20 {
        let response = api.request(Method::GET, "/v1/lanes", SHOP).send().await.unwrap();
        if response.status() == 429 {
            limited = Some(response);
            break;
        }
    }
    let limited = limited.expect("20 calls at once are more than 5 a second");
    assert_eq!(limited.headers()[header::RETRY_AFTER], "1");
    // Probes are never limited.
    for _ in 0..20 {
        assert_eq!(api.request(Method::GET, "/healthz", "").send().await.unwrap().status(), 200);
    }
    let preflight = |origin: &'static str| {
        let request = api.request(Method::OPTIONS, "/v1/requests", "").header("Origin", origin);
        request.header("Access-Control-Request-Method", "POST").send()
    };
    let allowed = "access-control-allow-origin";
    assert_eq!(preflight("https://app.example.org").await.unwrap().headers()[allowed], "https://app.example.org");
    assert!(preflight("https://evil.example.org").await.unwrap().headers().get(allowed).is_none());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_describes_every_route() {
    let api = Api::start("").await;
    let (_, document) = api.get("/openapi.json", "").await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            operations += 1;
            let real = path.replace("{id}", "x");
            let method: Method = method.to_uppercase().parse().unwrap();
            let response = api.request(method.clone(), &real, "").send().await.unwrap();
            let status = response.status().as_u16();
            let is_there = status != 405 && (status != 404 || path == "/metrics");
            assert!(is_there, "{method} {path} is documented, but answers {status}");
        }
    }
    assert_eq!(operations, 26);
    // Nothing refers to what is not there.
    let text = document.to_string();
    let names = document["components"]["schemas"].as_object().unwrap();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = &part[..part.find('"').unwrap()];
        assert!(names.contains_key(name), "{name} is not defined");
    }
    api.shutdown().await;
}
