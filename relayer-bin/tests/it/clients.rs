//! The client library against the real program: lost answers, crashed relayers, crashed clients, and a relayer that
//! lies.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    http::Http,
    rng::Rng,
    wallet::{Crowd, SignedRequest},
};
use slackwater_client::{
    Accepted, DurableOutbox, Enqueue, IdempotencyKey, OutboxConfig, Outcome, RelayerClient, RetryPolicy, Submit, Until,
    verify::{
        Binding, ExpectedPromise, InclusionCheck, InclusionClaim, Mismatch, PromiseFault, Verdict, verify_accepted,
    },
};
use slackwater_core::{
    chain::FinalityRule,
    request::{RequestId, Status},
};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::stage::{PATIENCE, Pace, Stage};

/// Set for the process that acts as the client: the outbox file, the relayer's URL, the requests.
const CHILD_VAR: &str = "SLACKWATER_TEST_CLIENT";

fn submit(request: &SignedRequest) -> Submit {
    Submit::forward(31_337, request.forward.clone()).within(Duration::from_secs(600))
}

fn id(request: &SignedRequest) -> RequestId {
    RequestId(request.id)
}

fn quick() -> OutboxConfig {
    let retry =
        RetryPolicy { base: Duration::from_millis(20), cap: Duration::from_millis(500), ..RetryPolicy::default() };
    OutboxConfig { retry, max_batch_items: 10, max_calls: 2, ..OutboxConfig::default() }
}

/// Manipulation of answers by the front server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    /// Some calls never reach the relayer, and some answers are lost.
    Lose,
    /// Transaction hashes are replaced by that of another transaction.
    OtherTransaction(B256),
    /// An accepted request is reported as final.
    SayFinal(B256),
    /// The promise is changed to a later deadline.
    LaterPromise,
}

/// A server in front of the relayer that manipulates answers.
struct Front {
    url: String,
    lost: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    async fn spawn(upstream: &str, trick: Trick, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let upstream = Http::new(upstream)?;
        let lost = Arc::new(AtomicUsize::new(0));
        let (rng, counted) = (Arc::new(Mutex::new(Rng::new(seed))), Arc::clone(&lost));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, rng, lost) = (upstream.clone(), Arc::clone(&rng), Arc::clone(&counted));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (upstream, rng, lost) = (upstream.clone(), Arc::clone(&rng), Arc::clone(&lost));
                        async move { pass(request, &upstream, trick, &rng, &lost).await }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { url, lost, task: task.abort_handle() })
    }
}

async fn pass(
    request: Request<hyper::body::Incoming>,
    upstream: &Http,
    trick: Trick,
    rng: &Mutex<Rng>,
    lost: &AtomicUsize,
) -> io::Result<Response<Full<Bytes>>> {
    let dice = rng.lock().map(|mut rng| rng.below(10)).unwrap_or(9);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if trick == Trick::Lose && dice < 3 {
        lost.fetch_add(1, Ordering::Relaxed);
        return Err(io::Error::other("lost before the relayer"));
    }
    let mut onward =
        Request::builder().method(parts.method).uri(parts.uri).body(Full::new(body)).map_err(io::Error::other)?;
    if let Some(kind) = parts.headers.get("content-type") {
        onward.headers_mut().insert("content-type", kind.clone());
    }
    let answer = upstream.send(onward).await.map_err(io::Error::other)?;
    if trick == Trick::Lose && dice < 6 {
        lost.fetch_add(1, Ordering::Relaxed);
        return Err(io::Error::other("lost after the relayer"));
    }
    let body = match serde_json::from_slice::<Value>(&answer.body) {
        Ok(mut body) => {
            lie(&mut body, trick);
            body.to_string().into()
        }
        Err(_) => answer.body,
    };
    Response::builder().status(answer.status).body(Full::new(body)).map_err(io::Error::other)
}

fn lie(body: &mut Value, trick: Trick) {
    match trick {
        Trick::Lose => {}
        Trick::OtherTransaction(hash) if body["txHash"].is_string() => body["txHash"] = json!(hash),
        Trick::SayFinal(hash) if body["status"].is_string() => {
            (body["status"], body["txHash"], body["blockNumber"]) = (json!("finalized"), json!(hash), json!(1));
        }
        Trick::LaterPromise if body["promise"].is_object() => {
            let deadline = body["promise"]["deadline"].as_u64().unwrap_or_default();
            body["promise"]["deadline"] = json!(deadline + 60);
        }
        _ => {}
    }
}

/// Takes outcomes from the outbox until every request has one.
async fn drain(
    outbox: &DurableOutbox,
    outcomes: &mut slackwater_client::Outcomes,
    count: usize,
) -> BTreeMap<IdempotencyKey, Outcome> {
    let mut ended = BTreeMap::new();
    while ended.len() < count {
        let next = tokio::time::timeout(PATIENCE, outcomes.recv()).await;
        let (key, outcome) = next.expect("an outcome in time").expect("an open outbox");
        outbox.acknowledge(key.clone()).await.expect("an open outbox");
        ended.insert(key, outcome);
    }
    ended
}

fn accepted(outcome: &Outcome) -> &Accepted {
    match outcome {
        Outcome::Accepted { accepted } => accepted,
        other => panic!("not accepted: {other:?}"),
    }
}

#[tokio::test]
async fn a_burst_survives_lost_answers_and_a_dead_relayer() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    let front = Front::spawn(stage.relayer.url(), Trick::Lose, stage.seed).await?;
    let client = RelayerClient::new(&front.url).expect("a URL").timeout(Duration::from_secs(5));
    let directory = tempfile::tempdir().expect("a directory");
    let (outbox, mut outcomes) =
        DurableOutbox::open(directory.path().join("outbox"), &client, quick()).expect("a new file");
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<SignedRequest> = (0..200).map(|n| crowd.mark_within(n % 20, "10m")).collect();
    for request in &requests {
        let options = Enqueue { request_id: Some(id(request)), ..Enqueue::default() };
        outbox.enqueue(submit(request), options).await.expect("room");
    }
    stage.relayer.kill();
    stage.relayer.launch()?;
    stage.relayer.wait_ready(PATIENCE).await?;
    let ended = drain(&outbox, &mut outcomes, requests.len()).await;
    println!("{} of the calls were lost, seed {}", front.lost.load(Ordering::Relaxed), stage.seed);
    assert!(front.lost.load(Ordering::Relaxed) > 0);
    let direct = RelayerClient::new(stage.relayer.url()).expect("a URL");
    let relayer = direct.chains().await.expect("chains").relayer.0;
    for request in &requests {
        let accepted = accepted(&ended[&submit(request).key()]);
        let expected = ExpectedPromise { request: id(request), chain_id: 31_337, relayer, not_after: None };
        verify_accepted(accepted, &expected).expect("a promise about this request");
    }
    assert!(outbox.entries().await.expect("an open outbox").is_empty());
    outbox.close().await;
    let last = requests.last().expect("one");
    let mut following = direct.follow(id(last), Until::Terminal);
    while let Some(change) = following.next().await.expect("a stream") {
        println!("{} {:?}", change.event.status, change.event.tx_hash);
    }
    let end = following.machine().state().expect("an end").status.known();
    assert_eq!(end, Some(Status::Finalized));
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    stage.close().await
}

/// Not a test by itself: the process that [`a_client_that_is_killed_loses_nothing`] kills.
#[tokio::test]
async fn the_client_that_is_killed() {
    let Ok(directory) = env::var(CHILD_VAR) else { return };
    let directory = Path::new(&directory);
    let url = fs::read_to_string(directory.join("url")).expect("a URL");
    let lines = fs::read_to_string(directory.join("requests")).expect("requests");
    let client = RelayerClient::new(&url).expect("a URL").timeout(Duration::from_secs(5));
    let (outbox, mut outcomes) = DurableOutbox::open(directory.join("outbox"), &client, quick()).expect("a whole file");
    let done = directory.join("done");
    fs::create_dir_all(&done).expect("a directory");
    let mut open = 0;
    for line in lines.lines() {
        let submit = Submit::from_json(line, None).expect("what `body` wrote");
        // A finished request may have been acknowledged; sending it again would be answered as a duplicate.
        if !done.join(submit.key().as_str()).exists() {
            outbox.enqueue(submit, Enqueue::default()).await.expect("room");
            open += 1;
        }
    }
    while open > 0 {
        let (key, outcome) = outcomes.recv().await.expect("an open outbox");
        accepted(&outcome);
        let path = done.join(key.as_str());
        if !path.exists() {
            // Written atomically: a kill in between must not look like an end.
            let beside = directory.join("outcome");
            fs::write(&beside, serde_json::to_vec(&outcome).expect("JSON")).expect("a disk");
            fs::rename(&beside, path).expect("a disk");
            open -= 1;
        }
        outbox.acknowledge(key).await.expect("an open outbox");
    }
    outbox.close().await;
}

#[tokio::test]
async fn a_client_that_is_killed_loses_nothing() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    let front = Front::spawn(stage.relayer.url(), Trick::Lose, stage.seed).await?;
    let directory = tempfile::tempdir().expect("a directory");
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<SignedRequest> = (0..200).map(|n| crowd.mark_within(n % 20, "10m")).collect();
    let lines: Vec<String> = requests.iter().map(|request| submit(request).body()).collect();
    fs::write(directory.path().join("requests"), lines.join("\n")).expect("a disk");
    fs::write(directory.path().join("url"), &front.url).expect("a disk");
    let mut rng = Rng::new(stage.seed);
    let started = Instant::now();
    let mut kills = 0;
    loop {
        let mut child = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", "clients::the_client_that_is_killed"])
            .env(CHILD_VAR, directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("this program runs");
        let life = Duration::from_millis(20 + rng.below(130));
        let born = Instant::now();
        // At first it is killed at a random point; in the end it may finish.
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            if kills < 8 && born.elapsed() > life {
                child.kill().expect("a child");
                child.wait().expect("a child");
                break None;
            }
            assert!(started.elapsed() < PATIENCE * 2, "the client does not come to its end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        match status {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => kills += 1,
        }
    }
    println!("{kills} kills, {} calls lost, seed {}", front.lost.load(Ordering::Relaxed), stage.seed);
    for request in &requests {
        let path = directory.path().join("done").join(submit(request).key().as_str());
        let outcome: Outcome = serde_json::from_slice(&fs::read(path).expect("an outcome")).expect("an outcome");
        assert_eq!(accepted(&outcome).id, id(request));
    }
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!((truth.summaries.len(), truth.count("finalized", None)), (requests.len(), requests.len()));
    stage.close().await
}

/// Checks the claim of the relayer at `url` about `request` against the node.
async fn verdict(stage: &Stage, url: &str, request: &SignedRequest) -> Result<Verdict> {
    let detail = RelayerClient::new(url).expect("a URL").request(id(request)).await.expect("a state");
    let claim = InclusionClaim::of_summary(&detail.summary).expect("a claim of execution");
    let rule = FinalityRule::Depth { blocks: 2 };
    let mut check = InclusionCheck::new(stage.world.domain(), request.forward.clone(), claim, rule);
    let node = Http::new(stage.anvil.url())?;
    while let Some(body) = check.next_body() {
        let answer = node.send(slackwater_benches::http::post_json("/", body)).await?;
        check.answer(&answer.body);
    }
    Ok(check.verdict().expect("a verdict").clone())
}

#[tokio::test]
async fn a_lying_relayer_is_caught() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let client = RelayerClient::new(stage.relayer.url()).expect("a URL");
    let relayer = client.chains().await.expect("chains").relayer.0;
    let mut crowd = Crowd::new(&stage.world, 3);
    let (first, second) = (crowd.mark(0), crowd.mark(1));
    let mut hashes = Vec::new();
    for request in [&first, &second] {
        client.submit(&submit(request)).await.expect("accepted");
        let mut following = client.follow(id(request), Until::Terminal);
        while following.next().await.expect("a stream").is_some() {}
        hashes.push(following.machine().state().and_then(|event| event.tx_hash).expect("executed"));
    }
    assert_ne!(hashes[0], hashes[1], "one after the other");
    let truth = verdict(&stage, stage.relayer.url(), &first).await?;
    assert!(
        matches!(truth, Verdict::Confirmed { is_final: true, is_success: true, binding: Binding::Content, .. }),
        "{truth:?}"
    );

    let front = Front::spawn(stage.relayer.url(), Trick::OtherTransaction(hashes[1]), 1).await?;
    assert_eq!(verdict(&stage, &front.url, &first).await?, Verdict::Mismatch(Mismatch::NotInTransaction));

    // Reported as final although it was never sent: the node has no receipt, and the nonce is unused.
    let _never_sent = crowd.mark(2);
    let waiting = crowd.mark(2);
    client.submit(&submit(&waiting)).await.expect("accepted, behind a nonce that does not come");
    let front = Front::spawn(stage.relayer.url(), Trick::SayFinal(B256::repeat_byte(9)), 1).await?;
    let lie = verdict(&stage, &front.url, &waiting).await?;
    assert!(matches!(lie, Verdict::Mismatch(Mismatch::NeverExecuted { .. })), "{lie:?}");

    // A promise that was changed in transit.
    let front = Front::spawn(stage.relayer.url(), Trick::LaterPromise, 1).await?;
    let liar = RelayerClient::new(&front.url).expect("a URL");
    let third = crowd.mark(0);
    let pinned = liar.clone().identities([Address::repeat_byte(1), relayer]);
    let refused = pinned.submit(&submit(&third)).await.expect_err("no promise of who is pinned");
    assert!(refused.code() == "bad_promise" && refused.is_ambiguous() && !refused.is_retryable(), "{refused}");
    let accepted = liar.submit(&submit(&third)).await.expect("accepted");
    let expected = ExpectedPromise { request: id(&third), chain_id: 31_337, relayer, not_after: None };
    assert_eq!(verify_accepted(&accepted, &expected), Err(PromiseFault::NotSigned(relayer)));
    let again = client.submit(&submit(&third)).await.expect("accepted");
    assert!(again.duplicate, "the same key and bytes");
    assert_eq!(verify_accepted(&again, &expected), Ok(()));
    client.cancel(id(&waiting)).await.expect("still queued");
    stage.settle().await?;
    stage.close().await
}
