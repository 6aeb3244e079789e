//! Followed head and finality: nodes are scripted, and tokio's clock is paused.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, U64, keccak256};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{HeadUpdate, Watcher};
use crate::{
    chain::{ChainSpec, FinalityRule, TransportFailure},
    relay::{
        clock,
        market::pace::PaceRule,
        rpc::{RpcEndpoint, RpcPool, RpcReply, RpcTransport},
    },
    sender::tuning::ChainTuning,
};

/// Height of the chain at the start.
const START: u64 = 1_000;

/// A node's answer for a tag.
#[derive(Debug, Clone, Copy)]
enum Tag {
    /// The block this far behind its head.
    Behind(u64),
    /// The tag is not served.
    None,
    /// An error.
    Fails,
}

/// Deviation of a node from the chain.
#[derive(Debug, Clone, Copy)]
struct Script {
    latency_ms: u64,
    /// Height at which it is stalled; `None` if it is not.
    frozen: Option<u64>,
    /// Blocks by which it lags (or leads, if negative).
    behind: i64,
    /// Seconds by which its newest block's time is ahead.
    future_s: u64,
    tag: Tag,
    balance: u64,
    /// True if its blocks have other hashes.
    is_on_other_branch: bool,
    /// First block with another hash; `None` if there is none.
    forks_at: Option<u64>,
}

const HONEST: Script = Script {
    latency_ms: 20,
    frozen: None,
    behind: 0,
    future_s: 0,
    tag: Tag::Behind(64),
    balance: 1_000,
    is_on_other_branch: false,
    forks_at: None,
};

/// One node's view of a chain with constant block time.
#[derive(Debug)]
struct Node {
    started: Instant,
    /// Time of block 0.
    genesis_s: u64,
    block: Duration,
    script: Mutex<Script>,
    calls: AtomicU64,
}

impl Node {
    fn is(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn head(&self, script: &Script) -> u64 {
        let made = self.started.elapsed().as_millis() / self.block.as_millis();
        let truth = START + u64::try_from(made).unwrap();
        script.frozen.unwrap_or_else(|| truth.saturating_add_signed(-script.behind))
    }

    fn header(&self, number: u64, future_s: u64, script: &Script) -> Value {
        let is_other = |number| script.is_on_other_branch || script.forks_at.is_some_and(|fork| number >= fork);
        let hash = |number: u64| if is_other(number) { hash(u64::MAX - number) } else { hash(number) };
        let time_s = self.genesis_s + number * u64::try_from(self.block.as_millis()).unwrap() / 1_000 + future_s;
        json!({
            "number": U64::from(number), "hash": hash(number), "parentHash": hash(number - 1),
            "timestamp": U64::from(time_s), "gasUsed": U64::from(15_000_000), "gasLimit": U64::from(30_000_000),
            "baseFeePerGas": U64::from(1_000_000_000),
        })
    }

    fn answer(&self, method: &str, params: &Value, script: &Script) -> Result<Value, (i64, &'static str)> {
        let head = self.head(script);
        Ok(match method {
            "eth_chainId" => json!("0x1"),
            "eth_getBlockByNumber" => match params[0].as_str().unwrap() {
                "latest" => self.header(head, script.future_s, script),
                "finalized" => match script.tag {
                    Tag::Behind(blocks) => self.header(head - blocks, 0, script),
                    Tag::None => return Err((-39_001, "unknown block")),
                    Tag::Fails => return Err((-32_603, "internal error")),
                },
                number => {
                    let number: U64 = number.parse().unwrap();
                    if number.to::<u64>() > head { Value::Null } else { self.header(number.to(), 0, script) }
                }
            },
            "eth_feeHistory" => {
                let blocks: U64 = serde_json::from_value(params[0].clone()).unwrap();
                let blocks: usize = blocks.to();
                json!({
                    "oldestBlock": U64::from(head + 1 - blocks as u64),
                    "baseFeePerGas": vec![U64::from(1_000_000_000); blocks + 1],
                    "gasUsedRatio": vec![0.5; blocks],
                    "reward": vec![["0x1", "0x1", "0x1"]; blocks],
                })
            }
            "eth_getTransactionCount" => json!("0x7"),
            "eth_getBalance" => json!(U64::from(script.balance)),
            other => panic!("{other} is not asked for"),
        })
    }
}

fn hash(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

#[async_trait]
impl RpcTransport for Node {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).unwrap();
        let script = *self.script.lock().unwrap();
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(script.latency_ms)).await;
        let mut reply = json!({ "jsonrpc": "2.0", "id": call["id"] });
        match self.answer(call["method"].as_str().unwrap(), &call["params"], &script) {
            Ok(result) => reply["result"] = result,
            Err((code, message)) => reply["error"] = json!({ "code": code, "message": message }),
        }
        Ok(RpcReply::new(200, reply.to_string().into_bytes()))
    }
}

struct World {
    nodes: Vec<Arc<Node>>,
    watcher: Watcher,
    interval: Duration,
}

/// A chain with block time `block`, final by its tag, else at depth 64.
fn world(block: Duration, scripts: &[Script]) -> World {
    let mut spec = ChainSpec::preset("ethereum").unwrap();
    spec.block_time_ms = u64::try_from(block.as_millis()).unwrap();
    spec.finality = FinalityRule::FinalizedTag { fallback_depth: 64 };
    // Old enough that no block is in the future, however long the test.
    let genesis_s = clock::now().as_secs() - 200_000;
    let node = |script: &Script| {
        let script = Mutex::new(*script);
        Arc::new(Node { started: Instant::now(), genesis_s, block, script, calls: AtomicU64::new(0) })
    };
    let nodes: Vec<Arc<Node>> = scripts.iter().map(node).collect();
    let named = nodes.iter().enumerate();
    let endpoints = named.map(|(place, node)| RpcEndpoint::over(format!("node-{place}"), node.clone())).collect();
    let tuning = ChainTuning::for_spec(&spec);
    let pool = RpcPool::of_chain(endpoints, &tuning.rpc, block);
    let pace = PaceRule::new(&tuning.heads, block);
    let watcher =
        Watcher::new(spec, pool, vec![Address::repeat_byte(1)], pace, None, Arc::new(AtomicU64::new(START)), 64);
    World { nodes, watcher, interval: tuning.heads.poll_interval }
}

const BLOCK: Duration = Duration::from_secs(12);

impl World {
    /// Polls at the usual interval for `blocks` blocks; returns the updates, in order.
    async fn follow(&mut self, blocks: u32) -> Vec<HeadUpdate> {
        let until = Instant::now() + self.nodes[0].block * blocks;
        let mut found = Vec::new();
        while Instant::now() < until {
            found.extend(self.watcher.poll().await.unwrap());
            tokio::time::sleep(self.interval).await;
        }
        found
    }

    fn truth(&self) -> u64 {
        self.nodes[0].head(&HONEST)
    }

    fn place(&self, node: usize) -> String {
        self.watcher.pool.status()[node].place.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_fastest_node_may_stand_still() {
    for honest in [1, 2] {
        let mut scripts = vec![Script { latency_ms: 1, ..HONEST }];
        scripts.extend(vec![HONEST; honest]);
        let mut world = world(BLOCK, &scripts);
        assert!(!world.follow(3).await.is_empty());
        let stopped = world.truth();
        world.nodes[0].is(Script { latency_ms: 1, frozen: Some(stopped), ..HONEST });
        let found = world.follow(12).await;
        let newest = found.last().expect("heads").header.number();
        assert!(newest + 1 >= world.truth(), "{newest} of {}", world.truth());
        assert!(found.len() >= 9, "{}", found.len());
        assert_eq!(world.place(0), "frozen");
        assert_eq!(world.place(1), "with_the_others");
        // It is asked first again once it advances.
        world.nodes[0].is(Script { latency_ms: 1, ..HONEST });
        world.follow(3).await;
        assert_eq!(world.place(0), "with_the_others");
    }
}

#[tokio::test(start_paused = true)]
async fn the_fastest_node_may_lag_by_minutes_and_move() {
    let lags = Script { latency_ms: 1, behind: 20, ..HONEST };
    let mut world = world(BLOCK, &[lags, HONEST]);
    let found = world.follow(10).await;
    let newest = found.last().expect("heads").header.number();
    assert!(newest + 1 >= world.truth(), "{newest} of {}", world.truth());
    assert_eq!(world.place(0), "behind");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_runs_ahead_is_not_followed() {
    let ahead = Script { latency_ms: 1, behind: -5_000, ..HONEST };
    let mut world = world(BLOCK, &[ahead, HONEST, HONEST]);
    let found = world.follow(6).await;
    assert!(found.len() >= 4, "{}", found.len());
    assert!(found.iter().all(|update| update.header.number() < START + 100));
    assert_eq!(world.place(0), "ahead");
}

/// The fastest node invents the next block and its ancestors.
#[tokio::test(start_paused = true)]
async fn a_branch_that_one_node_alone_is_on_is_not_followed() {
    let lies = Script { latency_ms: 1, behind: -1, is_on_other_branch: true, ..HONEST };
    for (from_the_start, honest) in [(true, 2), (false, 2), (true, 1), (false, 1)] {
        let mut scripts = vec![if from_the_start { lies } else { Script { latency_ms: 1, ..HONEST } }];
        scripts.extend(vec![HONEST; honest]);
        let mut world = world(BLOCK, &scripts);
        if !from_the_start {
            world.follow(3).await;
            world.nodes[0].is(lies);
        }
        let found = world.follow(8).await;
        assert!(found.len() >= 6, "{}", found.len());
        for (number, told) in found.iter().flat_map(|update| &update.canonical) {
            assert_eq!(*told, hash(*number), "{from_the_start}, {honest}");
        }
        // Once the others are on it too, it is the chain.
        world.nodes.iter().for_each(|node| node.is(Script { is_on_other_branch: true, ..HONEST }));
        let update = world.follow(3).await.pop().expect("a head");
        assert_eq!(update.header.hash, hash(u64::MAX - update.header.number()));
    }
}

/// It invents one block after the other, on top of the true chain.
#[tokio::test(start_paused = true)]
async fn a_branch_that_grows_on_one_node_alone_is_left_when_the_others_have_another_block() {
    let mut world = world(BLOCK, &[Script { latency_ms: 1, ..HONEST }, HONEST, HONEST]);
    world.follow(2).await;
    let forks_at = Some(world.truth() + 1);
    world.nodes[0].is(Script { latency_ms: 1, behind: -1, forks_at, ..HONEST });
    let found = world.follow(8).await;
    let last = found.iter().map(|update| update.header.number()).max().unwrap();
    let mut canonical = std::collections::BTreeMap::new();
    for update in &found {
        canonical.extend(update.canonical.iter().copied());
    }
    assert!(last + 2 >= world.truth());
    assert!(canonical.range(..last - 1).all(|(number, told)| *told == hash(*number)));
}

#[tokio::test(start_paused = true)]
async fn one_nodes_header_from_the_future_moves_no_time() {
    let future = Script { latency_ms: 1, future_s: 3_600, ..HONEST };
    for honest in [1, 2] {
        let mut scripts = vec![future];
        scripts.extend(vec![HONEST; honest]);
        let mut world = world(BLOCK, &scripts);
        for update in world.follow(5).await {
            let number = update.header.number();
            let true_s = world.nodes[0].genesis_s + number * 12;
            assert!(update.header.timestamp.to::<u64>() <= true_s + 24, "block {number}");
        }
    }
    // If all nodes report it, it is believed: a chain that travels in time.
    let mut world = world(BLOCK, &[future, future]);
    let update = world.follow(2).await.pop().expect("a head");
    let number = update.header.number();
    assert_eq!(update.header.timestamp.to::<u64>(), world.nodes[0].genesis_s + number * 12 + 3_600);
}

#[tokio::test(start_paused = true)]
async fn depth_stands_in_for_a_tag_only_where_a_majority_has_none() {
    let told = |tag| Script { tag, ..HONEST };
    // The tag lags by 200 blocks: a chain in trouble. A failed call must not make further blocks final.
    let lagging = told(Tag::Behind(200));
    for scripts in [vec![lagging], vec![lagging, lagging, lagging]] {
        let mut world = world(BLOCK, &scripts);
        let final_block = world.follow(2).await.last().and_then(|update| update.final_block).expect("a final block");
        assert!(final_block <= world.truth() - 200);
        world.nodes.iter().for_each(|node| node.is(told(Tag::Fails)));
        let found = world.follow(3).await;
        assert!(found.iter().all(|update| update.final_block.is_some_and(|block| block <= world.truth() - 200)));
        assert!(world.watcher.pool.conditions().no_majority_since.is_some());
        world.nodes.iter().for_each(|node| node.is(lagging));
        assert!(world.follow(2).await.last().and_then(|update| update.final_block).expect("one") > final_block);
        assert!(world.watcher.pool.conditions().no_majority_since.is_none());
    }
    // No node has the tag, or two of three lack it.
    for scripts in [vec![told(Tag::None)], vec![told(Tag::None), told(Tag::None), HONEST]] {
        let mut world = world(BLOCK, &scripts);
        let update = world.follow(2).await.pop().expect("a head");
        assert_eq!(update.final_block, Some(update.header.number() - 64));
    }
    // One of three lacks it, the others have it.
    let mut world = world(BLOCK, &[told(Tag::None), lagging, lagging]);
    let update = world.follow(2).await.pop().expect("a head");
    assert!(update.final_block.expect("one") <= update.header.number() - 199);
}

/// It is stored in the ledger, and a start on a chain without it is refused: one node's branch must not get there.
#[tokio::test(start_paused = true)]
async fn the_hash_of_a_final_block_is_what_most_nodes_say() {
    let other = Script { latency_ms: 1, is_on_other_branch: true, ..HONEST };
    let mut world = world(Duration::from_secs(1), &[other, HONEST, HONEST]);
    // Follow until blocks seen on the way are final.
    let found = world.follow(200).await;
    let told: Vec<(u64, B256)> = found.iter().filter_map(|update| update.final_block.zip(update.final_hash)).collect();
    assert!((2..=5).contains(&told.len()), "now and then: {}", told.len());
    for (number, found) in told {
        assert_eq!(found, hash(number), "block {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_faster_than_answers_are_followed() {
    let slow = Script { latency_ms: 400, ..HONEST };
    let mut world = world(Duration::from_millis(250), &[slow]);
    let found = world.follow(400).await;
    let mut known: Vec<u64> =
        found.iter().flat_map(|update| update.canonical.iter().map(|(number, _)| *number)).collect();
    known.dedup();
    let (first, last) = (known[0], *known.last().unwrap());
    assert!(known.iter().copied().eq(first..=last), "every block once, in order");
    assert!(last + 16 >= world.truth(), "{last} of {}", world.truth());
    assert!(found.len() > 30, "a head each few blocks: {}", found.len());
}

#[tokio::test(start_paused = true)]
async fn one_node_can_not_empty_an_account() {
    let lies = Script { latency_ms: 1, balance: 0, ..HONEST };
    let mut world = world(BLOCK, &[lies, HONEST, HONEST]);
    for update in world.follow(3).await {
        assert_eq!(update.accounts[0].balance, Some(alloy_primitives::U256::from(1_000)));
    }
    world.nodes.iter().for_each(|node| node.is(Script { balance: 400, ..HONEST }));
    let update = world.follow(2).await.pop().expect("a head");
    assert_eq!(update.accounts[0].balance, Some(alloy_primitives::U256::from(400)));
}

#[tokio::test(start_paused = true)]
async fn the_others_are_asked_only_when_there_is_news() {
    let mut world = world(BLOCK, &[Script { latency_ms: 1, ..HONEST }, HONEST]);
    world.follow(4).await;
    let calls = world.nodes[1].calls.load(Ordering::Relaxed);
    world.follow(10).await;
    let per_block = (world.nodes[1].calls.load(Ordering::Relaxed) - calls) / 10;
    assert!(per_block <= 8, "{per_block} calls per block to a node that is not asked first");
}
