//! Hedged reads, pauses and turns, to the millisecond: nodes are scripted, and tokio's clock is paused.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    RpcEndpoint, RpcError, RpcPool, RpcReply, RpcTransport,
    backoff::PauseRule,
    hedge::{HedgeRule, UNMEASURED},
};
use crate::{
    chain::{Fees, RpcErrorClass, TransportFailure},
    lane::{AttemptKind, SendOutcome},
    ledger::{AttemptRecord, Durable},
    request::{BatchId, LaneId},
    time::Timestamp,
};

const TIMEOUT: Duration = Duration::from_secs(10);
const FLOOR: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(500);
const READ: &str = "eth_getBalance";

/// A scripted node's reaction to a call, after a delay.
#[derive(Debug, Clone)]
enum Does {
    Answer(u64),
    Revert,
    Break,
    Throttle(Option<Duration>),
    Never,
    /// Answers with this hash: it has accepted the transaction.
    Take(B256),
}

/// A scripted node: first the queued reactions, then `usual`.
#[derive(Debug)]
struct Script {
    chain_id: u64,
    queued: Mutex<VecDeque<(u64, Does)>>,
    usual: Mutex<(u64, Does)>,
    methods: Mutex<Vec<String>>,
    /// Number of answered calls.
    answered: AtomicU64,
}

impl Script {
    fn usually(after_ms: u64, does: Does) -> Arc<Self> {
        Arc::new(Self {
            chain_id: 1,
            queued: Mutex::default(),
            usual: Mutex::new((after_ms, does)),
            methods: Mutex::default(),
            answered: AtomicU64::new(0),
        })
    }

    fn of_chain(chain_id: u64, after_ms: u64, does: Does) -> Arc<Self> {
        let script = Arc::into_inner(Self::usually(after_ms, does)).expect("just made");
        Arc::new(Self { chain_id, ..script })
    }

    fn then(&self, after_ms: u64, does: Does) {
        self.queued.lock().unwrap().push_back((after_ms, does));
    }

    fn hereafter(&self, after_ms: u64, does: Does) {
        *self.usual.lock().unwrap() = (after_ms, does);
    }

    fn asked(&self) -> u64 {
        self.methods.lock().unwrap().iter().filter(|method| *method != "eth_chainId").count() as u64
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl RpcTransport for Script {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).unwrap();
        let (id, method) = (&call["id"], call["method"].as_str().unwrap());
        self.methods.lock().unwrap().push(method.to_owned());
        let reply = |value: Value| Ok(RpcReply::new(200, value.to_string().into_bytes()));
        if method == "eth_chainId" {
            return reply(json!({ "jsonrpc": "2.0", "id": id, "result": U64::from(self.chain_id) }));
        }
        let queued = self.queued.lock().unwrap().pop_front();
        let (after_ms, does) = queued.unwrap_or_else(|| self.usual.lock().unwrap().clone());
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        self.answered.fetch_add(1, Ordering::Relaxed);
        let error = |code: i64, message: &str| json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } });
        match does {
            Does::Answer(number) => reply(json!({ "jsonrpc": "2.0", "id": id, "result": U64::from(number) })),
            Does::Revert => reply(error(3, "execution reverted")),
            Does::Break => Err(TransportFailure::Interrupted),
            Does::Throttle(retry_after) => {
                let body = error(429, "too many requests").to_string().into_bytes();
                Ok(RpcReply { status: 429, body, retry_after })
            }
            Does::Never => std::future::pending().await,
            Does::Take(hash) => reply(json!({ "jsonrpc": "2.0", "id": id, "result": hash })),
        }
    }
}

fn endpoints(nodes: &[&Arc<Script>]) -> Vec<RpcEndpoint> {
    let named = nodes.iter().enumerate();
    named.map(|(place, node)| RpcEndpoint::over(format!("node-{place}"), (*node).clone())).collect()
}

fn hedged(endpoints: Vec<RpcEndpoint>, budget_percent: u32) -> RpcPool {
    let hedge = HedgeRule { floor: FLOOR, budget_percent };
    RpcPool::by_rules(endpoints, TIMEOUT, hedge, PauseRule { first: PAUSE })
}

fn pool(nodes: &[&Arc<Script>]) -> RpcPool {
    hedged(endpoints(nodes), 10)
}

async fn read(pool: &RpcPool) -> (Result<u64, RpcErrorClass>, u64) {
    ask(pool, READ).await
}

/// The answer, and the time to it in ms.
async fn ask(pool: &RpcPool, method: &'static str) -> (Result<u64, RpcErrorClass>, u64) {
    let start = Instant::now();
    let answer: Result<U64, RpcError> = pool.call(method, json!([])).await;
    let took = u64::try_from(start.elapsed().as_millis()).unwrap();
    (answer.map(|number| number.to()).map_err(|error| error.class), took)
}

/// Lets every node answer some calls, so that their usual times are known; the first node is the fastest.
async fn acquaint(pool: &RpcPool) {
    for _ in 0..30 {
        let answers = pool.call_all::<U64>(READ, json!([])).await;
        assert!(answers.iter().all(Result::is_ok));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_is_overtaken() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(30, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    acquaint(&pool).await;
    assert_eq!(read(&pool).await, (Ok(1), 10), "nothing is hedged where all is well");
    assert_eq!(second.asked(), 30);
    first.then(400, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(2), 50 + 30));
    assert_eq!((first.asked(), second.asked()), (32, 31));
    // The first one's call was dropped, which is no failure; but it was slow, so that the other one is asked first now.
    let status = pool.status();
    assert_eq!((first.answered(), status[0].failures, status[0].is_healthy), (31, 0, true));
    assert_eq!((status[0].latency_ms, status[0].last_error.as_deref()), (80, None));
    assert_eq!(read(&pool).await, (Ok(2), 30));
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_wins_also_if_it_is_the_first_node_s() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(40, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    acquaint(&pool).await;
    first.then(70, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(1), 70));
    assert_eq!(second.asked(), 31, "it was asked all the same");
    assert_eq!(second.answered(), 30);
    assert_eq!(pool.status()[1].failures, 0);
}

#[tokio::test(start_paused = true)]
async fn how_long_is_slow_is_learned() {
    let (first, second) = (Script::usually(0, Does::Answer(1)), Script::usually(500, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    // 100 ± 50 ms: an answer after 240 ms is not unusual.
    for turn in 0..60 {
        first.then(if turn % 2 == 0 { 50 } else { 150 }, Does::Answer(1));
    }
    for _ in 0..60 {
        assert!(pool.call_all::<U64>(READ, json!([])).await.iter().all(Result::is_ok));
    }
    first.then(240, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(1), 240));
    assert_eq!(second.asked(), 60);
    // A method never measured gets the default time.
    first.then(990, Does::Answer(1));
    assert_eq!(ask(&pool, "eth_gasPrice").await, (Ok(1), 990));
    assert_eq!(second.asked(), 60);
    first.then(5_000, Does::Answer(1));
    let unmeasured = u64::try_from(UNMEASURED.as_millis()).unwrap();
    assert_eq!(ask(&pool, "eth_maxPriorityFeePerGas").await, (Ok(2), unmeasured + 500));
}

#[tokio::test(start_paused = true)]
async fn a_revert_is_an_answer_and_an_error_is_none() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(30, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    acquaint(&pool).await;
    first.then(400, Does::Answer(1));
    second.then(20, Does::Revert);
    assert_eq!(read(&pool).await, (Err(RpcErrorClass::Reverted), 50 + 20));
    // The second is asked first now. It fails after the hedge went out: the hedge is awaited.
    second.then(60, Does::Break);
    first.then(25, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(1), 50 + 25));
    // An error moves on at once, without waiting for the time of a hedge.
    second.then(5, Does::Break);
    first.then(5, Does::Break);
    assert_eq!(read(&pool).await, (Err(RpcErrorClass::NodeUnavailable), 10));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_moves_on_to_the_third_node() {
    let nodes = [10, 20, 30].map(|ms| Script::usually(ms, Does::Answer(ms)));
    let pool = pool(&[&nodes[0], &nodes[1], &nodes[2]]);
    acquaint(&pool).await;
    nodes[0].then(0, Does::Never);
    nodes[1].then(5, Does::Break);
    assert_eq!(read(&pool).await, (Ok(30), 50 + 5 + 30));
    // Two hanging nodes: the third is asked after both had their time.
    let nodes = [10, 20, 30].map(|ms| Script::usually(ms, Does::Answer(ms)));
    let pool = pool_of(&nodes);
    acquaint(&pool).await;
    nodes[0].then(0, Does::Never);
    nodes[1].then(0, Does::Never);
    assert_eq!(read(&pool).await, (Ok(30), 50 + 50 + 30));
}

fn pool_of(nodes: &[Arc<Script>; 3]) -> RpcPool {
    pool(&[&nodes[0], &nodes[1], &nodes[2]])
}

#[tokio::test(start_paused = true)]
async fn everybody_hangs_until_the_timeout() {
    let nodes = [10, 20, 30].map(|ms| Script::usually(ms, Does::Answer(ms)));
    let pool = pool_of(&nodes);
    acquaint(&pool).await;
    nodes.iter().for_each(|node| node.hereafter(0, Does::Never));
    assert_eq!(read(&pool).await, (Err(RpcErrorClass::Timeout), 10_000 + 50 + 50));
    assert!(pool.status().iter().all(|node| node.failures == 1), "a timeout is a failure");
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_the_load() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = hedged(endpoints(&[&first, &second]), 5);
    acquaint(&pool).await;
    let before = first.asked() + second.asked();
    let (calls, mut overtaken) = (400, 0);
    for _ in 0..calls {
        // The node asked first hangs, in every read.
        let first_asked = if pool.ranked(READ)[0].endpoint.name() == "node-0" { &first } else { &second };
        first_asked.then(0, Does::Never);
        let (answer, took) = read(&pool).await;
        assert!(answer.is_ok());
        overtaken += u64::from(took < 10_000);
    }
    let timeouts: u64 = pool.status().iter().map(|node| node.failures).sum();
    let extra = first.asked() + second.asked() - before - calls - timeouts;
    assert_eq!((extra, timeouts), (overtaken, calls - overtaken), "a hedge or a timeout each");
    assert!((20..=10 + calls / 20).contains(&extra), "{extra} extra calls of {calls}");
    // And none without a budget.
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = hedged(endpoints(&[&first, &second]), 0);
    acquaint(&pool).await;
    first.then(3_000, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(1), 3_000));
    assert_eq!(second.asked(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_reads_at_once_at_a_node_that_hangs_do_not_double_the_load() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = hedged(endpoints(&[&first, &second]), 10);
    acquaint(&pool).await;
    first.hereafter(0, Does::Never);
    let reads = futures_util::future::join_all((0..100).map(|_| read(&pool))).await;
    assert!(reads.iter().all(|(answer, _)| *answer == Ok(2)));
    let quick = reads.iter().filter(|(_, took)| *took < 1_000).count();
    assert_eq!(quick, 10, "as many as the budget allows at once; the others wait for the timeout");
    assert_eq!((first.asked(), second.asked()), (130, 130));
    // The next read asks the other one first, and the budget grows again.
    assert_eq!(read(&pool).await, (Ok(2), 20));
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_turn_is_not_hedged_to() {
    let nodes = [10, 20, 30].map(|ms| Script::usually(ms, Does::Answer(ms)));
    let mut endpoints = endpoints(&[&nodes[0], &nodes[1], &nodes[2]]);
    // As many turns at once as the acquainting calls; another follows a thirtieth of a second later.
    endpoints[1] = endpoints[1].clone().rate_limit_per_s(30);
    let pool = hedged(endpoints, 10);
    acquaint(&pool).await;
    // Its turns are used up just now.
    let (asked, mut used) = (nodes[1].asked(), 0);
    while pool.nodes[1].try_turn() {
        used += 1;
    }
    assert!(used <= 30);
    nodes[0].then(0, Does::Never);
    // 50 ms later there is one turn again: taken away as well.
    let (answer, ()) = tokio::join!(read(&pool), async {
        tokio::time::sleep(Duration::from_millis(49)).await;
        while pool.nodes[1].try_turn() {}
    });
    assert_eq!(answer, (Ok(30), 50 + 30), "the third was asked instead");
    assert_eq!(nodes[1].asked(), asked);
    // A free turn is taken, and only one.
    tokio::time::sleep(Duration::from_secs(2)).await;
    nodes[0].hereafter(10, Does::Answer(10));
    acquaint_first(&pool, &nodes[0]).await;
    nodes[0].then(0, Does::Never);
    assert_eq!(read(&pool).await, (Ok(20), 50 + 20));
    let left = std::iter::repeat_with(|| pool.nodes[1].try_turn()).take_while(|has_turn| *has_turn).count();
    assert!((29..=30).contains(&left), "{left}: the hedge took one, and some came back meanwhile");
}

/// Makes `node`, the pool's first, the fastest again.
async fn acquaint_first(pool: &RpcPool, node: &Arc<Script>) {
    let before = node.asked();
    for _ in 0..60 {
        let answer: Result<U64, RpcError> = pool.nodes[0].call(READ, &json!([]), TIMEOUT).await;
        assert!(answer.is_ok());
    }
    assert_eq!(node.asked(), before + 60);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_to_no_node_of_another_chain() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::of_chain(2, 20, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    for _ in 0..30 {
        let _ = pool.call_all::<U64>(READ, json!([])).await;
    }
    pool.expect_chain(1);
    let before = second.asked();
    first.then(400, Does::Answer(1));
    assert_eq!(read(&pool).await, (Ok(1), 400), "the hedge failed, and the first one was waited for");
    assert_eq!(second.asked(), before, "only its chain id was asked for");
    assert_eq!(pool.status()[1].failures, 1);
    // The first node's chain id is verified once, not again with every hedge.
    let ids = |node: &Script| node.methods.lock().unwrap().iter().filter(|method| *method == "eth_chainId").count();
    assert_eq!(ids(&first), 1);
    for _ in 0..5 {
        read(&pool).await.0.unwrap();
    }
    assert_eq!(ids(&first), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_read_is_asked_once() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    acquaint(&pool).await;
    for method in ["eth_sendTransaction", "eth_sendRawTransaction", "evm_mine"] {
        first.then(9_000, Does::Answer(1));
        assert_eq!(ask(&pool, method).await, (Ok(1), 9_000));
        acquaint_first(&pool, &first).await;
    }
    assert_eq!(second.asked(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_nobody_waits_for_any_more_leaves_nothing_behind() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    acquaint(&pool).await;
    first.then(0, Does::Never);
    second.then(0, Does::Never);
    // Given up after the hedge went out.
    assert!(tokio::time::timeout(Duration::from_millis(60), read(&pool)).await.is_err());
    tokio::time::sleep(TIMEOUT * 2).await;
    let status = pool.status();
    assert!(status.iter().all(|node| node.failures == 0 && node.is_healthy), "{status:?}");
    assert_eq!((first.asked(), second.asked()), (31, 31));
    assert!(read(&pool).await.0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_asked_too_often_is_left_alone() {
    let (first, second) = (Script::usually(10, Does::Answer(1)), Script::usually(20, Does::Answer(2)));
    let pool = pool(&[&first, &second]);
    pool.expect_chain(1);
    acquaint(&pool).await;
    first.then(5, Does::Throttle(None));
    assert_eq!(read(&pool).await, (Ok(2), 25), "the next one is asked at once");
    let asked = first.asked();
    for _ in 0..20 {
        assert_eq!(read(&pool).await, (Ok(2), 20));
    }
    assert_eq!(first.asked(), asked, "not asked within its 500 ms: 400 have passed");
    // Nor if all nodes are asked; the missing answer is not a new failure of it.
    let answers = pool.call_all::<U64>(READ, json!([])).await;
    assert_eq!(answers[0].as_ref().unwrap_err().class, RpcErrorClass::RateLimited);
    assert_eq!((first.asked(), pool.status()[0].failures), (asked, 1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.then(0, Does::Throttle(None));
    assert_eq!(read(&pool).await, (Ok(2), 20), "asked again, and refused again: this time it is a second");
    assert_eq!(first.asked(), asked + 1);
    tokio::time::sleep(Duration::from_millis(970)).await;
    assert_eq!(read(&pool).await, (Ok(2), 20));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(read(&pool).await, (Ok(1), 10));
    // It was not unavailable: its chain id is not verified again.
    let ids = first.methods.lock().unwrap().iter().filter(|method| *method == "eth_chainId").count();
    assert_eq!(ids, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_asks_for_counts() {
    let only = Script::usually(10, Does::Answer(1));
    let pool = pool(&[&only]);
    only.then(0, Does::Throttle(Some(Duration::from_secs(7))));
    assert_eq!(read(&pool).await, (Err(RpcErrorClass::RateLimited), 0));
    tokio::time::sleep(Duration::from_millis(6_990)).await;
    assert_eq!(read(&pool).await, (Err(RpcErrorClass::RateLimited), 0), "told without asking");
    assert_eq!(only.asked(), 1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(read(&pool).await, (Ok(1), 10));
}

#[tokio::test(start_paused = true)]
async fn turns_come_by_tokio_s_clock() {
    let only = Script::usually(0, Does::Answer(1));
    let pool = RpcPool::new(vec![RpcEndpoint::over("only", only.clone()).rate_limit_per_s(10)], TIMEOUT);
    let start = Instant::now();
    for _ in 0..30 {
        read(&pool).await.0.unwrap();
    }
    // Ten at once, then one every tenth of a second.
    let took = start.elapsed().as_millis();
    assert!((2_000..2_100).contains(&took), "{took}");
}

#[test]
fn no_url_in_debug() {
    let endpoint = RpcEndpoint::new("main", "https://node.example/v2/s3cr3t").heads("wss://node.example/v2/s3cr3t");
    let pool = RpcPool::new(vec![endpoint.clone()], Duration::from_secs(1));
    for shown in [format!("{endpoint:?}"), format!("{pool:?}")] {
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_most_nodes_say_is_agreed() {
    let says = |after_ms, number| Script::usually(after_ms, Does::Answer(number));
    let agreed = async |nodes: &[&Arc<Script>]| {
        let start = Instant::now();
        let answer = pool(nodes).call_agreed::<U64>(READ, json!([])).await;
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        (answer.map(|number| number.to::<u64>()).map_err(|error| (error.class, error.is_retryable())), took)
    };
    let unclear = Err((RpcErrorClass::NodeUnavailable, true));
    // A node that lags or lies is outvoted, even if it is the fastest; the slowest is not awaited.
    assert_eq!(agreed(&[&says(1, 9), &says(20, 7), &says(30, 7)]).await, (Ok(7), 30));
    assert_eq!(agreed(&[&says(1, 7), &says(20, 7), &says(3_000, 9)]).await, (Ok(7), 20));
    // Unavailable nodes have no vote; nodes that refuse have one.
    let (broken, reverts) = (Script::usually(1, Does::Break), Script::usually(1, Does::Revert));
    assert_eq!(agreed(&[&broken, &says(5, 7), &broken]).await, (Ok(7), 5));
    assert_eq!(agreed(&[&reverts, &says(5, 7), &says(6, 7)]).await, (Ok(7), 6));
    assert_eq!(agreed(&[&reverts, &says(5, 7), &reverts]).await, (Err((RpcErrorClass::Reverted, false)), 5));
    assert_eq!(agreed(&[&broken, &broken]).await.0.map_err(|(_, is_retryable)| is_retryable), Err(true));
    // No majority is no answer.
    assert_eq!(agreed(&[&says(1, 9), &says(5, 7)]).await, (unclear, 5));
    assert_eq!(agreed(&[&says(1, 9), &says(5, 7), &says(9, 8)]).await, (unclear, 9));
    assert_eq!(agreed(&[&reverts, &says(5, 7), &broken]).await, (unclear, 5));
}

/// The last node's answer in [`RpcPool::call_all`], and the time to the whole result in ms.
async fn last_of_all(pool: &RpcPool) -> (Option<u64>, u64) {
    let start = Instant::now();
    let mut answers = pool.call_all::<U64>(READ, json!([])).await;
    assert!(answers.iter().rev().skip(1).all(Result::is_ok));
    let took = u64::try_from(start.elapsed().as_millis()).unwrap();
    (answers.pop().and_then(Result::ok).map(|number| number.to()), took)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_does_not_hold_up_what_the_others_agree_on() {
    let nodes = [10, 20, 30].map(|after_ms| Script::usually(after_ms, Does::Answer(after_ms)));
    let pool = pool(&[&nodes[0], &nodes[1], &nodes[2]]);
    acquaint(&pool).await;
    assert_eq!(last_of_all(&pool).await, (Some(30), 30), "one that is slower than the majority is heard all the same");
    nodes[2].hereafter(0, Does::Never);
    let mut calls = Vec::new();
    while calls.last() != Some(&50) || calls.len() == 1 {
        let (answer, took) = last_of_all(&pool).await;
        assert_eq!(answer, None);
        calls.push(took);
        assert!(calls.len() < 20, "{calls:?}");
    }
    // The floor at first, then longer and longer, until it fails three times; then the floor again.
    let (first, timeouts) = (calls[0], calls.iter().filter(|took| **took == 10_000).count());
    assert!(first == 50 && timeouts == 3 && calls.is_sorted_by(|a, b| a <= b || *b == 50), "{calls:?}");
    assert!(!pool.status()[2].is_healthy);
    nodes[2].hereafter(30, Does::Answer(30));
    assert_eq!(last_of_all(&pool).await, (Some(30), 30));
    assert!(pool.status()[2].is_healthy);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_became_slow_is_heard_again() {
    let nodes = [10, 20, 30].map(|after_ms| Script::usually(after_ms, Does::Answer(after_ms)));
    let pool = pool(&[&nodes[0], &nodes[1], &nodes[2]]);
    acquaint(&pool).await;
    nodes[2].hereafter(900, Does::Answer(30));
    let mut unheard = 0;
    while last_of_all(&pool).await != (Some(30), 900) {
        unheard += 1;
        assert!(unheard < 10);
    }
    assert!(unheard > 0);
    assert_eq!(pool.status()[2].failures, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_a_node_is_waited_for() {
    let nodes = [10, 30].map(|after_ms| Script::usually(after_ms, Does::Answer(after_ms)));
    let pool = pool(&[&nodes[0], &nodes[1]]);
    acquaint(&pool).await;
    nodes[1].hereafter(5_000, Does::Answer(30));
    assert_eq!(last_of_all(&pool).await, (Some(30), 5_000));
    // Unless it fails.
    nodes[1].hereafter(0, Does::Never);
    for _ in 0..3 {
        assert_eq!(last_of_all(&pool).await, (None, 10_000));
    }
    assert_eq!(last_of_all(&pool).await, (None, 50));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_waits_behind_no_read() {
    let node = Script::usually(1, Does::Answer(1));
    let limited = vec![RpcEndpoint::over("node-0", node.clone()).rate_limit_per_s(2)];
    let pool = hedged(limited, 0);
    let reads = async {
        futures_util::future::join_all((0..40).map(|_| read(&pool))).await;
    };
    let send = async {
        // While all of them wait.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let start = Instant::now();
        let params = json!(["0x02"]);
        let sent = pool.nodes[0].call_before::<U64>("eth_sendRawTransaction", &params, TIMEOUT, None).await;
        assert!(sent.is_ok());
        start.elapsed()
    };
    let ((), waited) = tokio::join!(reads, send);
    assert!(waited <= Duration::from_millis(1_100), "{waited:?}");
}

/// The reported outcome of a broadcast, the time to it, and the time until all nodes were heard, ms.
async fn send(pool: &RpcPool, hash: B256) -> (SendOutcome, u64, u64) {
    let lane = LaneId { chain_id: 1, sender: Address::repeat_byte(1) };
    let attempt = Durable::committed(AttemptRecord {
        batch: BatchId { lane, nonce: 0 },
        index: 0,
        kind: AttemptKind::Payload,
        fees: Fees::new(10, 1),
        hash,
        raw: Bytes::from_static(&[2]),
        created_at: Timestamp(0),
    });
    let (taken, told) = tokio::sync::oneshot::channel::<crate::sender::SendReport>();
    let start = Instant::now();
    let first = async { (told.await.unwrap().outcome, start.elapsed()) };
    let ((outcome, waited), ()) = tokio::join!(first, pool.broadcast(&attempt, 21_000, None, taken));
    (outcome, crate::time::millis(waited), crate::time::millis(start.elapsed()))
}

/// The lane goes on as soon as one node has accepted a transaction; a hanging node still gets its full time.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_does_not_hold_up_what_another_has_taken() {
    let hash = B256::repeat_byte(7);
    let (hangs, takes) = (Script::usually(0, Does::Never), Script::usually(20, Does::Take(hash)));
    assert_eq!(send(&pool(&[&hangs, &takes]), hash).await, (SendOutcome::Taken, 20, 10_000));
    assert_eq!((hangs.asked(), takes.asked()), (1, 1));
    // If no node confirms, all are heard first: the hanging one may have it.
    let fails = Script::usually(20, Does::Revert);
    let (outcome, told_ms, _) = send(&pool(&[&hangs, &fails]), hash).await;
    assert!(matches!(outcome, SendOutcome::Maybe(_)), "{outcome:?}");
    assert_eq!(told_ms, 10_000);
    // Another transaction's hash proves nothing.
    let lies = Script::usually(20, Does::Take(B256::repeat_byte(8)));
    let (outcome, ..) = send(&pool(&[&lies]), hash).await;
    assert!(matches!(outcome, SendOutcome::Maybe(_)), "{outcome:?}");
}

#[derive(Debug)]
struct Panics;

#[async_trait]
impl RpcTransport for Panics {
    async fn exchange(&self, _: String) -> Result<RpcReply, TransportFailure> {
        panic!("a transport that is not well made");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_panics_fails_the_call_and_nothing_else() {
    let good = Script::usually(10, Does::Answer(7));
    let endpoints = vec![RpcEndpoint::over("bad", Arc::new(Panics)), RpcEndpoint::over("good", good)];
    let pool = hedged(endpoints, 10);
    assert_eq!(read(&pool).await.0, Ok(7));
    let alone = hedged(vec![RpcEndpoint::over("bad", Arc::new(Panics))], 10);
    let error = alone.call::<U64>(READ, json!([])).await.unwrap_err();
    assert_eq!((error.class, error.taken), (RpcErrorClass::NodeUnavailable, crate::chain::Taken::Maybe));
}

#[derive(Debug)]
struct Lacks(AtomicU64);

#[async_trait]
impl RpcTransport for Lacks {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).unwrap();
        let answer = if call["method"] == READ {
            json!({ "jsonrpc": "2.0", "id": call["id"], "result": "0x1" })
        } else {
            self.0.fetch_add(1, Ordering::Relaxed);
            json!({ "jsonrpc": "2.0", "id": call["id"], "error": { "code": -32_601, "message": "Method not found" } })
        };
        Ok(RpcReply::new(200, answer.to_string().into_bytes()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_method_that_a_node_lacks_is_no_failure_and_is_asked_elsewhere() {
    let (lacks, has) = (Arc::new(Lacks(AtomicU64::new(0))), Script::usually(30, Does::Answer(5)));
    let endpoints = vec![RpcEndpoint::over("lacks", lacks.clone()), RpcEndpoint::over("has", has.clone())];
    let pool = hedged(endpoints, 10);
    for _ in 0..20 {
        assert_eq!(ask(&pool, "eth_simulateV1").await.0, Ok(5));
    }
    assert_eq!(lacks.0.load(Ordering::Relaxed), 1, "asked once");
    let status = &pool.status()[0];
    assert!(status.is_healthy && status.failures == 0, "{status:?}");
    // All other calls go to it as usual.
    assert_eq!(read(&pool).await.0, Ok(1));
}
