//! The API over a real connection: keys, scopes, problems, streams, shutdown.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};
use slackwater::Relay;
use slackwater_relayer::{
    config::Sources,
    http::{
        App, Server,
        auth::{KeyHash, Scope},
        scopes::{self, Need},
    },
};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::node;

const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
const BANK: &str = "sw_bank_9ZkQpTnVbY6Lsc";
const ADMIN: &str = "sw_admin_5HfGrEwCtD8Mva";
const SLOW: &str = "sw_slow_2NcBvMxKjH4Pqt";

struct Api {
    url: String,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    dir: tempfile::TempDir,
}

impl Api {
    /// Three tenants with keys; `admin` is an operator.
    async fn start(server: &str) -> Self {
        Self::start_with(server, "").await
    }

    /// The same with further tables of the configuration.
    async fn start_with(server: &str, more: &str) -> Self {
        Self::with(server, true, more).await
    }

    /// A server that needs no keys.
    async fn anonymous(server: &str) -> Self {
        Self::with(&format!("allow_anonymous = true\n{server}"), false, "").await
    }

    async fn with(server: &str, has_keys: bool, more: &str) -> Self {
        Self::serve(Self::raise(server, has_keys, more, None).await)
    }

    fn serve((relay, server, app, dir): (Relay, Server, Arc<App>, tempfile::TempDir)) -> Self {
        let url = format!("http://{}", server.address());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            server
                .run(app, async {
                    let _ = stopped.await;
                })
                .await
                .expect("it serves");
            relay.shutdown().await;
        });
        Self { url, client: Client::new(), stop: Some(stop), task: Some(task), dir }
    }

    async fn raise(
        server: &str,
        has_keys: bool,
        more: &str,
        metrics: Option<PrometheusHandle>,
    ) -> (Relay, Server, Arc<App>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let tenant = |id: &str, key: &str, more: &str| {
            format!(
                "[[tenant]]\nid = \"{id}\"\napi_keys = [\"{}\"]\nkinds = [\"forward\", \"call\"]\nopen = true\n\
                 targets = {{ \"31337\" = {{ \"*\" = [] }} }}\n{more}\n",
                KeyHash::of(key)
            )
        };
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nkeep_alive_ms = 200\nmax_body_bytes = 4096\n{server}\n[ledger]\npath = {:?}\n\
             [[chain]]\npreset = \"anvil\"\nrpc = [{{ url = \"{}\" }}]\nsigners = [{{ key = \"inline:{}\", tenants = [\"{}\", \"bank\", \"admin\", \"slow\"] }}]\nlinger_ms = 3600000\nwaiting_cost_percent = 0\ntiming = \"percentile\"\n{}{}{}{}{more}",
            dir.path().join("test.db"),
            node::start().await,
            "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
            if has_keys { "shop" } else { "default" },
            if has_keys { tenant("shop", SHOP, "max_streams = 2") } else { tenant("default", SHOP, "") },
            tenant("bank", BANK, ""),
            tenant("admin", ADMIN, "operator = true"),
            tenant("slow", SLOW, "rate_per_s = 2"),
        );
        let sources = Sources { allow_inline_secrets: true, ..Sources::default() };
        let config = sources.load_text(Some(("test".to_owned(), text))).unwrap();
        let relay = config.relay_builder(config.resolve().unwrap()).start().await.unwrap();
        let server = Server::bind(config.listen).unwrap();
        let app = Arc::new(App::new(relay.clone(), config.access(), config.http.clone(), metrics));
        (relay, server, app, dir)
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

/// If the ledger can't report the usage of page keys, no call is answered: their caps would be open.
#[tokio::test]
async fn without_what_page_keys_have_used_nothing_is_served() {
    let (key, target) = (KeyHash::of("sw_pages_4WbTnMkLpQ7Rxd"), "0x11".to_owned() + &"11".repeat(19));
    let page = format!(
        "[[tenant]]\nid = \"pages\"\nbudget = {{ limit_wei = \"1000000\" }}\n\
         targets.31337 = {{ \"{target}\" = [\"0xd09de08a\"] }}\n\
         [[tenant.keys]]\nid = \"web\"\nhash = \"{key}\"\norigins = [\"https://app.example.org\"]\n"
    );
    let (relay, server, app, _dir) = Api::raise("", true, &page, None).await;
    // Its ledger is closed.
    relay.shutdown().await;
    let address = server.address();
    let served = tokio::time::timeout(Duration::from_secs(20), server.run(app, std::future::pending())).await;
    let refused = served.expect("it ends at once").unwrap_err().to_string();
    assert!(refused.contains("page_key.*") && refused.contains("ledger is closed"), "{refused}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens");
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

/// Reads from a stream until `is_enough` accepts the events so far, or to its end.
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
    // Models affect everybody: only operators change or export them.
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
    // A body without a length is cut off while it is read.
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(" ".repeat(1_000))));
    let streamed = api.request(Method::POST, "/v1/requests", SHOP).header(json_type.0.clone(), json_type.1);
    check(streamed.body(reqwest::Body::wrap_stream(chunks)), 413, "body_too_large").await;
    let plain = api.request(Method::POST, "/v1/requests", SHOP).header(header::CONTENT_TYPE, "text/plain").body("{}");
    check(plain, 415, "unsupported_media_type").await;
    check(api.request(Method::PUT, "/v1/requests", SHOP), 405, "method_not_allowed").await;
    check(api.request(Method::GET, "/v1/nothing", SHOP), 404, "unknown_path").await;
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

/// A filter with few matches scans a limited part of a long history; the next page continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_few_goes_on_from_page_to_page() {
    let api = Api::start("").await;
    let first = api.post("/v1/requests", SHOP, &call(1)).await.1["id"].as_str().unwrap().to_owned();
    let (status, _) = answer(api.request(Method::DELETE, &format!("/v1/requests/{first}"), SHOP)).await;
    assert_eq!(status, 200);
    api.post("/v1/requests", SHOP, &call(2)).await;
    // 50 000 more like the second.
    let mut raw =
        SqliteConnection::connect(&format!("sqlite://{}", api.dir.path().join("test.db").display())).await.unwrap();
    for (table, own) in [("requests", &["seq", "id"][..]), ("payloads", &["request"])] {
        let columns: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pragma_table_info($1)").bind(table).fetch_all(&mut raw).await.unwrap();
        let others: String =
            columns.iter().filter(|name| !own.contains(&name.as_str())).map(|name| format!(", {name}")).collect();
        let values = if table == "requests" { "n.i, randomblob(32)" } else { "n.i" };
        let insert = format!(
            "WITH RECURSIVE n (i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < 50002) \
             INSERT INTO {table} ({}{others}) SELECT {values}{others} FROM n, {table} WHERE {} = 2",
            own.join(", "),
            own[0]
        );
        raw.execute(sqlx::AssertSqlSafe(insert)).await.unwrap();
    }
    for filter in ["status=cancelled", "status=cancelled&chainId=31337", "status=cancelled&tenant=shop"] {
        let mut path = format!("/v1/requests?{filter}");
        let mut pages = Vec::new();
        loop {
            let (status, page) = api.get(&path, SHOP).await;
            assert_eq!(status, 200, "{page}");
            pages.push(page["requests"].as_array().unwrap().len());
            match page["nextCursor"].as_str() {
                Some(cursor) => path = format!("/v1/requests?{filter}&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(pages, [0, 0, 1], "{filter}");
    }
    // A filter that all match fills the page as far as asked for.
    let (_, page) = api.get("/v1/requests?limit=500&status=queued", SHOP).await;
    assert_eq!(page["requests"].as_array().unwrap().len(), 500);
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

    // One request: from its first event to its end, then nothing more.
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
async fn streams_are_limited_by_tenant_and_in_all() {
    let api = Api::start("max_streams = 3\n").await;
    let open =
        async |key: &str| api.client.get(format!("{}/v1/events", api.url)).bearer_auth(key).send().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = open(SHOP).await;
        assert_eq!(stream.status(), 200);
        held.push(stream);
    }
    // It fills its own share; the others' places are not touched.
    let refused = open(SHOP).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
    let (status, problem) = answer(api.request(Method::GET, "/v1/events", SHOP)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (429, &json!("too_many_streams")));
    assert!(problem["detail"].as_str().unwrap().contains("tenant.max_streams"), "{problem}");
    let bank = open(BANK).await;
    assert_eq!(bank.status(), 200);
    let (status, problem) = answer(api.request(Method::GET, "/v1/events", ADMIN)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (429, &json!("too_many_streams")));
    assert!(problem["detail"].as_str().unwrap().contains("server.max_streams"), "{problem}");
    // A stream that ends frees its place.
    drop(held);
    let started = std::time::Instant::now();
    while open(SHOP).await.status() != 200 {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.shutdown().await;
}

/// A call over a connection whose client has a small receive buffer.
async fn send(api: &Api, head: &str, body: &[u8]) -> TcpStream {
    send_from(1, api, head, body).await
}

/// The same from `last` of 127.0.0.0/24.
async fn send_from(last: u8, api: &Api, head: &str, body: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(api.url.trim_start_matches("http://").parse().unwrap()).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

fn batch_head(key: &str, length: usize) -> String {
    format!(
        "POST /v1/requests/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// A batch of invalid requests, whose answer has about a megabyte.
fn wrong_batch() -> String {
    json!({ "requests": vec![json!({ "x".repeat(250): 1 }); 1_000] }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_until_its_last_byte_is_sent() {
    let api = Api::start("max_body_memory_bytes = 8388608\nwrite_timeout_ms = 60000\n").await;
    let body = wrong_batch();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..16 {
        let mut stream = send(&api, &batch_head(SHOP, body.len()), body.as_bytes()).await;
        let mut start = [0; 12];
        tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut start)).await.unwrap().unwrap();
        match &start {
            b"HTTP/1.1 207" => waiting.push(stream),
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    // Three quarters of 8 MiB have room for this many; one tenant's slow readers leave the rest to another's.
    assert!((5..=12).contains(&waiting.len()) && refused >= 4, "{} answers, {refused} refused", waiting.len());
    let (status, problem) = answer(batch(&api, SHOP, &body)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("overloaded")));
    assert!(problem["detail"].as_str().unwrap().contains("server.max_body_memory_bytes"), "{problem}");
    assert_eq!(answer(batch(&api, BANK, &body)).await.0, 207);
    // Partly read answers are still held; fully read or abandoned ones are not.
    for stream in &mut waiting {
        stream.read_exact(&mut [0; 10_000]).await.unwrap();
    }
    assert_eq!(answer(batch(&api, SHOP, &body)).await.0, 503);
    let mut first = waiting.pop().unwrap();
    let whole = async {
        let mut bytes = vec![0; 1 << 16];
        let mut end = Vec::new();
        while !end.ends_with(b"]}") {
            let length = first.read(&mut bytes).await.unwrap();
            assert!(length > 0, "it ends before its end");
            end.extend_from_slice(&bytes[..length]);
            let from = end.len().saturating_sub(2);
            end.drain(..from);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), whole).await.unwrap();
    assert_eq!(answer(batch(&api, SHOP, &body)).await.0, 207);
    drop(waiting);
    let started = std::time::Instant::now();
    // There is room for as many concurrent answers as before.
    loop {
        let calls = futures_util::future::join_all((0..4).map(|_| answer(batch(&api, SHOP, &body)))).await;
        if calls.iter().all(|(status, _)| *status == 207) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.shutdown().await;
}

fn batch(api: &Api, key: &str, body: &str) -> RequestBuilder {
    api.request(Method::POST, "/v1/requests/batch", key)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_owned())
}

/// Unread answers of `/metrics`, which may need no key, only fill memory of their own, and leave some of it to other
/// addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_that_nobody_reads_leave_room_for_others() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for n in 0..600 {
            metrics::gauge!("test", "label" => format!("{n}{}", "x".repeat(1_000))).set(1.0);
        }
    });
    let api = Api::serve(Api::raise("write_timeout_ms = 60000\n", true, "", Some(recorder.handle())).await);
    let mut waiting = Vec::new();
    let mut ask = async |last: u8| {
        let mut stream = send_from(last, &api, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n", b"").await;
        let mut start = [0; 12];
        tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut start)).await.unwrap().unwrap();
        waiting.push(stream);
        String::from_utf8_lossy(&start[9..]).into_owned()
    };
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(ask(1).await);
    }
    assert_eq!(answers[..4], ["200"; 4]);
    assert_eq!(answers[6..], ["503"; 4], "three quarters of 4 MiB are five times 600 KB");
    assert_eq!(ask(2).await, "200", "another address");
    let (status, problem) = answer(api.request(Method::GET, "/metrics", "")).await;
    assert!(status == 503 && problem["detail"].as_str().unwrap().contains("server.metrics"), "{problem}");
    assert_eq!(answer(batch(&api, SHOP, &wrong_batch())).await.0, 207, "it is none of the others' memory");
    drop(waiting);
    let started = std::time::Instant::now();
    while api.request(Method::GET, "/metrics", "").send().await.unwrap().status() != 200 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.shutdown().await;
}

/// Callers that send bodies and stall take a share of the free memory: a page key a small one, a tenant not all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_bodies_leave_room_for_others() {
    const PAGES: &str = "sw_pages_4WbTnMkLpQ7Rxd";
    const OWN: &str = "sw_pages_8SsTrNcPvF3Kdw";
    let page = format!(
        "[[tenant]]\nid = \"pages\"\napi_keys = [\"{}\"]\nbudget = {{ limit_wei = \"1000000\" }}\n\
         targets.31337 = {{ \"0x1111111111111111111111111111111111111111\" = [\"0xd09de08a\"] }}\n\
         [[tenant.keys]]\nid = \"web\"\nhash = \"{}\"\norigins = [\"https://app.example.org\"]\n",
        KeyHash::of(OWN),
        KeyHash::of(PAGES)
    );
    let api = Api::start_with("max_body_memory_bytes = 1048576\nbody_timeout_ms = 60000\n", &page).await;
    let mut stalled = Vec::new();
    let mut stall = async |key: &str, count: usize| {
        for _ in 0..count {
            stalled.push(send(&api, &batch_head(key, 200_000), &[b' '; 48_000]).await);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let body = json!({ "requests": [], "filler": " ".repeat(150_000) }).to_string();
    stall(PAGES, 16).await;
    assert_eq!(answer(batch(&api, PAGES, &body)).await.0, 503, "page keys have had theirs");
    assert_eq!(answer(batch(&api, OWN, &body)).await.0, 422, "its own server gets through");
    stall(OWN, 30).await;
    assert_eq!(answer(batch(&api, OWN, &body)).await.0, 503);
    let small = json!({ "requests": [], "filler": " ".repeat(30_000) }).to_string();
    assert_eq!(answer(batch(&api, BANK, &small)).await.0, 422, "another tenant gets through");
    drop(stalled);
    let started = std::time::Instant::now();
    while answer(batch(&api, OWN, &body)).await.0 == 503 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_are_by_address_without_a_key_and_by_tenant_with_one() {
    let api = Api::start(
        "rate_per_ip_per_s = 5\ntrusted_proxies = [\"127.0.0.1\"]\ncors_origins = [\"https://app.example.org\"]",
    )
    .await;
    let ask = async |client: &str, key: &str| {
        api.request(Method::GET, "/v1/lanes", key).header("X-Forwarded-For", client).send().await.unwrap()
    };
    let refused_of = async |client: &str, key: &str, calls: usize| {
        let mut refused = 0;
        for _ in 0..calls {
            let answer = ask(client, key).await;
            if answer.status() == 429 {
                assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
                refused += 1;
            }
        }
        refused
    };
    assert!(refused_of("203.0.113.1", "", 20).await >= 10, "20 calls at once are more than 5 a second");
    assert_eq!(refused_of("203.0.113.2", "sw_shop_wrong", 4).await, 0, "another address");
    assert!(
        refused_of("198.51.100.9, 203.0.113.1", "", 20).await >= 10,
        "what the client writes itself does not count"
    );
    let mut refused = 0;
    for last in 0..20 {
        refused += refused_of(&format!("2001:db8:1:2::{last}"), "", 1).await;
    }
    assert!(refused >= 10, "{refused}: a /64 is one caller");
    assert_eq!(refused_of("203.0.113.1", SHOP, 30).await, 0, "a valid key counts for its tenant");
    assert!(refused_of("203.0.113.3", SLOW, 30).await >= 5, "two a second, in bursts of twenty");
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
async fn programs_of_this_machine_are_not_limited_unless_they_speak_for_others() {
    let api = Api::start("rate_per_ip_per_s = 5").await;
    let refused_of = async |header: &'static str| {
        let mut refused = 0;
        for _ in 0..30 {
            let answer =
                api.request(Method::GET, "/openapi.json", "").header(header, "203.0.113.1").send().await.unwrap();
            refused += usize::from(answer.status() == 429);
        }
        refused
    };
    assert_eq!(refused_of("accept").await, 0);
    assert!(refused_of("x-forwarded-for").await >= 20);
    assert!(refused_of("forwarded").await >= 20);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_proxys_client_count_like_connections() {
    let api = Api::start("max_connections_per_ip = 2\ntrusted_proxies = [\"127.0.0.0/8\"]").await;
    let open = async |client: &'static str| {
        let request = api.client.get(format!("{}/v1/events", api.url)).bearer_auth(BANK);
        request.header("X-Forwarded-For", client).send().await.unwrap()
    };
    let held = [open("203.0.113.1").await, open("203.0.113.1").await];
    assert!(held.iter().all(|stream| stream.status() == 200));
    let refused = open("203.0.113.1").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.text().await.unwrap().contains("server.max_connections_per_ip"));
    assert_eq!(open("203.0.113.2").await.status(), 200);
    api.shutdown().await;
}

/// Every operation of the document with its method.
async fn operations(api: &Api) -> Vec<(Method, String)> {
    let (_, document) = api.get("/openapi.json", "").await;
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&String, &Value)| {
        let methods: Vec<String> = methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        methods.into_iter().map(|method| (method.parse().unwrap(), path.clone())).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_never_taken_for_scripts_and_pages_run_only_their_own() {
    let api = Api::start("").await;
    for (method, path) in operations(&api).await {
        for key in ["", ADMIN] {
            let request = api.request(method.clone(), &path.replace("{id}", "x"), key);
            let answer = request.header("Last-Event-ID", "x").send().await.unwrap();
            assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{method} {path}");
        }
    }
    for path in ["/", "/docs"] {
        let page = api.request(Method::GET, path, "").send().await.unwrap();
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("script-src 'sha256-") && policy.contains("style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_named_to_operators_only() {
    let api = Api::start("").await;
    let named = async |path: &str, key: &str| api.get(path, key).await.1.to_string().contains("rpc-0");
    for path in ["/v1/sources", "/v1/chains"] {
        assert!(named(path, ADMIN).await, "{path}");
        assert!(!named(path, SHOP).await, "{path}");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_no_web_page_and_no_proxy_gets_in() {
    let api = Api::anonymous("hosts = [\"relay.lan\"]\ncors_origins = [\"https://app.example.org\"]").await;
    let ask = async |pairs: &[(&'static str, &str)], has_type: bool| {
        let mut request = api.request(Method::POST, "/v1/requests", "").body(call(1).to_string());
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        if has_type {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let (status, body) = answer(request).await;
        (status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned())
    };
    let accepted = (202, String::new());
    let refused = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(ask(&[], true).await, accepted);
    assert_eq!(ask(&[("host", "relay.lan:7700")], true).await, accepted);
    assert_eq!(ask(&[("origin", "https://app.example.org"), ("sec-fetch-site", "cross-site")], true).await, accepted);
    assert_eq!(ask(&[("host", "evil.example:27710")], true).await, refused(403, "host_refused"));
    assert_eq!(ask(&[("origin", "https://evil.example")], true).await, refused(403, "origin_refused"));
    assert_eq!(ask(&[("sec-fetch-site", "cross-site")], true).await, refused(403, "origin_refused"));
    for proxy in ["x-forwarded-for", "x-forwarded-proto", "forwarded"] {
        assert_eq!(ask(&[(proxy, "203.0.113.1")], true).await, refused(403, "proxy_refused"));
    }
    // Requests that a page can send without a preflight.
    assert_eq!(ask(&[], false).await, refused(415, "unsupported_media_type"));
    assert_eq!(ask(&[("content-type", "text/plain")], false).await, refused(415, "unsupported_media_type"));
    // On every operation, not only those that spend money.
    for (method, path) in operations(&api).await {
        for (name, value) in
            [("host", "evil.example"), ("origin", "https://evil.example"), ("x-forwarded-for", "1.2.3.4")]
        {
            let request = api.request(method.clone(), &path.replace("{id}", "1"), "").header(name, value);
            assert_eq!(request.send().await.unwrap().status(), 403, "{method} {path} {name}");
        }
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_keys_only_named_hosts_are_checked() {
    let api = Api::start("hosts = [\"relay.example.org\"]").await;
    let ask = async |host: &str| api.request(Method::GET, "/v1/lanes", SHOP).header("host", host).send().await.unwrap();
    assert_eq!(ask("relay.example.org").await.status(), 200);
    assert_eq!(ask("evil.example").await.status(), 403);
    api.shutdown().await;
    let api = Api::start("").await;
    let request =
        api.request(Method::GET, "/v1/lanes", SHOP).header("host", "any.example").header("origin", "https://x.example");
    assert_eq!(request.header("x-forwarded-for", "1.2.3.4").send().await.unwrap().status(), 200);
    // A body needs a content type, whoever sends it.
    let (status, problem) = answer(api.request(Method::POST, "/v1/requests", SHOP).body("{}")).await;
    assert_eq!((status.as_u16(), &problem["code"]), (415, &json!("unsupported_media_type")));
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
    assert_eq!(operations, 31);
    // No reference is dangling.
    let text = document.to_string();
    let names = document["components"]["schemas"].as_object().unwrap();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = &part[..part.find('"').unwrap()];
        assert!(names.contains_key(name), "{name} is not defined");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_open_to_the_scopes_of_the_table_and_to_no_others() {
    let key = |scope: Scope| format!("sw_scoped_{}", scope.as_str());
    let keys: String = Scope::ALL
        .into_iter()
        .map(|scope| {
            let (name, hash) = (scope.as_str(), KeyHash::of(&key(scope)));
            format!("[[tenant.keys]]\nid = \"{name}\"\nhash = \"{hash}\"\nscopes = [\"{name}\"]\n")
        })
        .collect();
    let page_key = "sw_scoped_page";
    let page = format!(
        "[[tenant.keys]]\nid = \"page\"\nhash = \"{}\"\norigins = [\"https://app.example.org\"]\n",
        KeyHash::of(page_key)
    );
    let named = "targets.31337 = { \"0x0101010101010101010101010101010101010101\" = [\"0x01020304\"] }";
    let tenant = format!("[[tenant]]\nid = \"scoped\"\nbudget = {{ limit_wei = 1000 }}\n{named}\n{keys}{page}");
    let limits = "[page_key]\nrate_per_ip_per_s = 1000\nburst_per_ip = 1000\n";
    let api = Api::start_with("metrics = \"operator\"", &format!("{tenant}{limits}")).await;
    let documented = operations(&api).await;
    // The pages for people are in the table, but not in the document.
    assert_eq!(
        documented.len() + 2,
        scopes::OPERATIONS.len(),
        "an operation is missing in the table or in the document"
    );
    for (method, path) in documented {
        let operation =
            scopes::OPERATIONS.iter().find(|operation| operation.method == method && operation.path == path);
        let operation = operation.unwrap_or_else(|| panic!("{method} {path} is not in the table"));
        let of_scope = |scope| match operation.need {
            Need::Nothing => true,
            Need::OneOf(scopes) => scopes.has(scope),
            Need::Metrics => scope == Scope::Metrics,
        };
        let columns = Scope::ALL.map(|scope| (key(scope), of_scope(scope)));
        for (key, is_allowed) in columns.into_iter().chain([(page_key.to_owned(), operation.is_for_pages)]) {
            // A malformed header ends streams before they begin; for every other operation the call is malformed
            // enough.
            let request = api.request(method.clone(), &path.replace("{id}", "x"), &key).header("Last-Event-ID", "x");
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let code =
                serde_json::from_slice::<Value>(&response.bytes().await.unwrap()).unwrap_or_default()["code"].clone();
            let is_refused = matches!(code.as_str(), Some("scope_missing" | "operator_only"));
            assert_eq!(
                (is_refused, status == 403),
                (!is_allowed, !is_allowed),
                "{method} {path} {key}: {status} {code}"
            );
        }
        let status = api.request(method.clone(), &path.replace("{id}", "x"), "").send().await.unwrap().status();
        assert_eq!(status == 401, operation.need != Need::Nothing, "{method} {path} without a key: {status}");
    }
    api.shutdown().await;
}

#[test]
fn the_page_has_the_table_of_scopes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let (begin, end) = ("<!-- begin: scopes -->\n", "<!-- end: scopes -->");
    let between = page.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map_or("", |(between, _)| between);
    assert_eq!(between, scopes::table(), "put the right side between the markers in {path}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_accepts_nothing_until_it_is_resumed() {
    let api = Api::start("").await;
    let pause = async |what: &str, body: Value| api.post(&format!("/v1/admin/{what}"), ADMIN, &body).await;
    let refused = async |key: &str| {
        let (status, problem) = api.post("/v1/requests", key, &call(1)).await;
        if status == 503 {
            assert_eq!((&problem["code"], &problem["retryable"]), (&json!("paused"), &json!(true)));
            assert!(problem["retryAfterMs"].is_u64(), "{problem}");
        }
        status == 503
    };
    let (status, pauses) = pause("pause", json!({ "tenant": "shop" })).await;
    assert_eq!((status.as_u16(), &pauses["pauses"][0]["tenant"]), (200, &json!("shop")), "{pauses}");
    assert!(pauses["pauses"][0]["by"].as_str().unwrap().starts_with("admin/key-"), "{pauses}");
    assert_eq!((refused(SHOP).await, refused(BANK).await), (true, false));
    let batch = json!({ "requests": [call(1), { "chainId": 5 }] });
    let (_, answer) = api.post("/v1/requests/batch", SHOP, &batch).await;
    assert_eq!((&answer["results"][0]["status"], &answer["results"][1]["status"]), (&json!(503), &json!(422)));
    pause("pause", json!({ "chainId": 31_337 })).await;
    pause("resume", json!({ "tenant": "shop" })).await;
    assert_eq!((refused(SHOP).await, refused(BANK).await), (true, true));
    pause("pause", json!({ "all": true })).await;
    let (_, pauses) = pause("resume", json!({ "chainId": 31_337 })).await;
    assert_eq!(pauses["pauses"].as_array().unwrap().len(), 1);
    assert_eq!((refused(SHOP).await, refused(BANK).await), (true, true));
    assert_eq!(pause("resume", json!({ "all": true })).await.1, json!({ "pauses": [] }));
    assert_eq!((refused(SHOP).await, refused(BANK).await), (false, false));
    for (body, code, name) in [
        (json!({ "chainId": 5 }), 404, "not_found"),
        (json!({ "tenant": "nobody" }), 404, "not_found"),
        (json!({}), 422, "invalid_field"),
        (json!({ "all": true, "chainId": 1 }), 422, "invalid_field"),
    ] {
        let (status, problem) = pause("pause", body).await;
        assert_eq!((status.as_u16(), &problem["code"]), (code, &json!(name)), "{problem}");
    }
    let (status, _) = api.post("/v1/admin/pause", SHOP, &json!({ "all": true })).await;
    assert_eq!(status, 403);
    api.shutdown().await;
}
