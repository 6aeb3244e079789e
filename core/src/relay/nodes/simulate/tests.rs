//! Simulation verdicts of nodes, and the calls made to them: nodes are scripted, and tokio's clock is paused.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use async_trait::async_trait;
use serde_json::{Value, json};
use slackwater_contracts::forwarder::{ExecutedForwardRequest, noncesCall, verifyCall};

use super::{At, Question, Simulation, agreed_nonces, forwarder_nonces, simulate};
use crate::{
    chain::{ChainSpec, TransportFailure},
    relay::rpc::{RpcEndpoint, RpcPool, RpcReply, RpcTransport},
    request::{
        RequestId, VerifiedRequest,
        gate::Word,
        simulation::{Ahead, Environment},
        vehicle::{Contracts, VehicleKey, VehicleParams},
    },
    sender::tuning::ChainTuning,
};

pub(in crate::relay) const FORWARDER: Address = Address::repeat_byte(0xf0);
/// A target that reverts.
const POISON: Address = Address::repeat_byte(0xbb);
/// A target that runs out of gas.
const GLUTTON: Address = Address::repeat_byte(0xcc);
const GOOD: Address = Address::repeat_byte(0xaa);

/// A node's answer to `eth_simulateV1`.
#[derive(Debug, Clone, PartialEq)]
enum Simulates {
    /// The true outcomes.
    Truly,
    /// The first member fails, all others execute.
    FirstFails,
    /// All execute.
    AllExecute,
    /// The first member is skipped, which takes little gas; all others execute.
    FirstSkipped,
    /// An error.
    Error(i64, &'static str),
    /// No answer.
    Never,
}

#[derive(Debug)]
struct Node {
    latency_ms: u64,
    simulates: Simulates,
    /// True if it answers `eth_call` too.
    calls: bool,
    members: Vec<Arc<VerifiedRequest>>,
    /// Most parameters accepted in a call.
    most_params: AtomicUsize,
    asked: Mutex<Vec<String>>,
    /// Calls received: (method, parameters).
    params: Mutex<Vec<(String, Vec<Value>)>>,
}

impl Node {
    /// The block override in calls of `method`, for the calls that have one.
    fn told(&self, method: &str) -> Vec<Value> {
        let params = self.params.lock().unwrap();
        let block = |params: &Vec<Value>| match method {
            "eth_simulateV1" => Some(params[0]["blockStateCalls"][0]["blockOverrides"].clone()),
            _ => params.get(3).cloned(),
        };
        params.iter().filter(|(asked, _)| asked == method).filter_map(|(_, params)| block(params)).collect()
    }

    fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == method).count()
    }

    fn simulated(&self, fails: impl Fn(usize, &VerifiedRequest) -> bool) -> Value {
        let log = |(place, member): (usize, &Arc<VerifiedRequest>)| {
            let (_, signer, nonce) = member.sequence().unwrap();
            let event = ExecutedForwardRequest { signer, nonce: U256::from(nonce), success: !fails(place, member) };
            let log = event.encode_log_data();
            json!({ "address": FORWARDER, "topics": log.topics(), "data": log.data })
        };
        let call = |member| json!({ "status": "0x1", "gasUsed": "0x186a0", "returnData": "0x", "logs": [log(member)] });
        let calls: Vec<Value> = self.members.iter().enumerate().map(call).collect();
        json!([{ "calls": calls }])
    }

    fn called(&self, call: &Value) -> Result<Value, Value> {
        let to: Address = serde_json::from_value(call["to"].clone()).unwrap();
        let input: Bytes = serde_json::from_value(call["input"].clone()).unwrap();
        let word = |value: u64| json!(B256::from(U256::from(value)));
        if to == FORWARDER {
            return match verifyCall::abi_decode(&input) {
                Ok(_) => Ok(word(1)),
                Err(_) if noncesCall::abi_decode(&input).is_ok() => Ok(word(0)),
                Err(_) => Err(json!({ "code": 3, "message": "execution reverted" })),
            };
        }
        match to {
            POISON => Err(json!({ "code": 3, "message": "execution reverted: guest list is closed" })),
            GLUTTON => Err(json!({ "code": -32_000, "message": "out of gas" })),
            GOOD => Ok(json!("0x")),
            // No Multicall3 there.
            _ => Ok(json!("0x")),
        }
    }
}

#[async_trait]
impl RpcTransport for Node {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).unwrap();
        let method = call["method"].as_str().unwrap().to_owned();
        self.asked.lock().unwrap().push(method.clone());
        let params = call["params"].as_array().cloned().unwrap_or_default();
        self.params.lock().unwrap().push((method.clone(), params.clone()));
        tokio::time::sleep(Duration::from_millis(self.latency_ms)).await;
        let answer = match method.as_str() {
            "eth_simulateV1" => match self.simulates {
                Simulates::Truly => Ok(self.simulated(|_, member| member.target() != GOOD)),
                Simulates::FirstFails => Ok(self.simulated(|place, _| place == 0)),
                Simulates::AllExecute => Ok(self.simulated(|_, _| false)),
                Simulates::FirstSkipped => {
                    let mut blocks = self.simulated(|_, _| false);
                    let first = &mut blocks[0]["calls"][0];
                    (first["logs"], first["gasUsed"]) = (json!([]), json!("0x8000"));
                    Ok(blocks)
                }
                Simulates::Error(code, message) => Err(json!({ "code": code, "message": message })),
                Simulates::Never => std::future::pending().await,
            },
            "eth_call" if params.len() > self.most_params.load(Ordering::Relaxed) => {
                Err(json!({ "code": -32_602, "message": "too many arguments, want at most 3" }))
            }
            "eth_call" if self.calls => self.called(&call["params"][0]),
            _ => Err(json!({ "code": -32_601, "message": "the method does not exist" })),
        };
        let mut reply = json!({ "jsonrpc": "2.0", "id": call["id"] });
        match answer {
            Ok(result) => reply["result"] = result,
            Err(error) => reply["error"] = error,
        }
        Ok(RpcReply::new(200, reply.to_string().into_bytes()))
    }
}

/// A request of user `user` to `to`, parsed as from the ledger.
pub(in crate::relay) fn request(user: u8, nonce: u64, to: Address) -> Arc<VerifiedRequest> {
    let stored = json!({
        "id": RequestId(B256::repeat_byte(user.wrapping_mul(16).wrapping_add(u8::try_from(nonce).unwrap()))),
        "chainId": 1, "gas": 100_000, "nonce": nonce,
        "deadline": 2_000_000_000_000_u64, "chainDeadlineS": 2_000_000_000, "maxCostWei": null,
        "kind": { "forward": {
            "forwarder": FORWARDER, "from": Address::repeat_byte(user), "to": to, "value": "0x0", "gas": "0x186a0",
            "nonce": U256::from(nonce), "deadline": 2_000_000_000, "data": "0x12345678", "signature": "0x",
        } },
    });
    Arc::new(VerifiedRequest::from_stored(stored.to_string().as_bytes()).expect("it is well formed"))
}

struct World {
    nodes: Vec<Arc<Node>>,
    pool: RpcPool,
    members: Vec<Arc<VerifiedRequest>>,
    params: VehicleParams,
    environment: Environment,
}

impl World {
    /// A batch with `targets`, one user each, and nodes given as (answer, answers calls); each is 20 ms slower than the
    /// one before.
    fn new(targets: &[Address], nodes: &[(Simulates, bool)]) -> Self {
        let users = 1..=u8::try_from(targets.len()).unwrap();
        let members: Vec<_> = users.zip(targets).map(|(user, to)| request(user, 0, *to)).collect();
        let nodes: Vec<Arc<Node>> = nodes
            .iter()
            .zip(1..)
            .map(|((simulates, calls), place)| {
                Arc::new(Node {
                    latency_ms: place * 20,
                    simulates: simulates.clone(),
                    calls: *calls,
                    members: members.clone(),
                    most_params: AtomicUsize::new(4),
                    asked: Mutex::default(),
                    params: Mutex::default(),
                })
            })
            .collect();
        let named = nodes.iter().enumerate();
        let endpoints = named.map(|(place, node)| RpcEndpoint::over(format!("node-{place}"), node.clone())).collect();
        let spec = ChainSpec::preset("ethereum").unwrap();
        let pool = RpcPool::of_chain(endpoints, &ChainTuning::for_spec(&spec).rpc, Duration::from_secs(12));
        let params = VehicleParams {
            sender: Address::repeat_byte(1),
            multicall3: Some(Address::repeat_byte(0x33)),
            has_capped_calls: true,
            schedule: *spec.gas_schedule(),
            forward_overhead_gas: 45_000,
        };
        Self { nodes, pool, members, params, environment: Environment::default() }
    }

    async fn ask(&self, is_wary: bool) -> Simulation {
        let key = VehicleKey::of_members(&self.members, Contracts::all(true));
        let question = Question {
            key,
            members: &self.members,
            ahead: &Ahead::new(),
            is_known_forwarder: true,
            params: &self.params,
            environment: self.environment,
            multicall3: None,
            block: 100,
            patience: Duration::from_millis(100),
            is_wary,
        };
        simulate(&self.pool, &question).await
    }
}

fn texts(found: &Simulation) -> Vec<String> {
    let text = |word: &Word| match word {
        Word::Executes => "yes".to_owned(),
        Word::Reverts(text) | Word::Skipped(text) => text.clone().unwrap_or_default(),
        Word::Unknown => "?".to_owned(),
    };
    found.words.iter().map(text).collect()
}

/// Errors of real nodes in place of a simulation.
const NO_SIMULATIONS: [(i64, &str); 8] = [
    (-32_603, "method handler crashed"),
    (-32_600, "eth_simulateV1 is not available on the Free tier - upgrade to Pay As You Go"),
    (-32_604, "Method not enabled"),
    (-32_601, "the method eth_simulateV1 does not exist/is not available"),
    (-32_000, "unsupported method: eth_simulateV1"),
    (-32_005, "daily request count exceeded, request limit reached"),
    (-32_602, "invalid params: unknown field"),
    (0, "?"),
];

/// A target that inspects its environment sees the including block, not the previous one or an empty default.
#[tokio::test(start_paused = true)]
async fn nodes_are_told_of_the_block_that_is_to_come() {
    let proposer = Address::repeat_byte(0x9b);
    let environment = Environment {
        number: Some(101),
        timestamp_s: Some(1_800_000_012),
        fee_recipient: Some(proposer),
        ..Environment::default()
    };
    let is_it = |block: &Value| {
        block["number"] == json!("0x65")
            && block["time"] == json!("0x6b49d20c")
            && block["feeRecipient"] == json!(proposer)
    };
    let simulates = World { environment, ..World::new(&[GOOD, GOOD], &[(Simulates::Truly, false)]) };
    assert_eq!(simulates.ask(false).await.words, [Word::Executes, Word::Executes]);
    let told = simulates.nodes[0].told("eth_simulateV1");
    assert!(told.len() == 1 && told.iter().all(is_it), "{told:?}");

    let lacks = || Simulates::Error(-32_601, "the method eth_simulateV1 does not exist/is not available");
    let calls = World { environment, ..World::new(&[GOOD, GOOD], &[(lacks(), true)]) };
    assert_eq!(calls.ask(false).await.words, [Word::Executes, Word::Executes]);
    let told = calls.nodes[0].told("eth_call");
    assert!(told.len() == 2 && told.iter().all(is_it), "{told:?}");

    // A node without block overrides is called without them, and is not tried in vain for ever.
    let simple = World { environment, ..World::new(&[GOOD, GOOD], &[(lacks(), true)]) };
    simple.nodes[0].most_params.store(3, Ordering::Relaxed);
    for _ in 0..8 {
        assert_eq!(simple.ask(false).await.words, [Word::Executes, Word::Executes]);
    }
    let told = simple.nodes[0].told("eth_call");
    assert!((2..8).contains(&told.len()), "{}", told.len());
}

/// A member's own gas is its use where it executes. A node that reports it as skipped would shift its cost to the
/// others.
#[tokio::test(start_paused = true)]
async fn whoever_skips_a_member_does_not_know_what_it_uses() {
    for nodes in [[Simulates::FirstSkipped, Simulates::AllExecute], [Simulates::AllExecute, Simulates::FirstSkipped]] {
        let found = World::new(&[GOOD, GOOD], &nodes.map(|simulates| (simulates, false))).ask(true).await;
        assert_eq!((found.words, found.used), (vec![Word::Executes; 2], vec![Some(100_000); 2]));
    }
    let found = World::new(&[GOOD, GOOD], &[(Simulates::FirstSkipped, false)]).ask(false).await;
    assert_eq!(found.used, [None, Some(100_000)]);
}

/// A failure of the whole transaction is reported by one node or by two.
#[tokio::test(start_paused = true)]
async fn who_says_that_a_batch_fails_as_a_whole_is_counted() {
    let fails = || Simulates::Error(3, "execution reverted");
    for (nodes, words) in [
        (vec![(fails(), false)], 1),
        (vec![(fails(), false), (Simulates::Never, false)], 1),
        (vec![(fails(), false), (fails(), false)], 2),
    ] {
        let found = World::new(&[GOOD, GOOD], &nodes).ask(false).await;
        assert_eq!((found.whole.is_some(), found.whole_words), (true, words), "{nodes:?}");
    }
    let found = World::new(&[GOOD, GOOD], &[(fails(), false), (Simulates::Truly, false)]).ask(false).await;
    assert_eq!((found.whole, found.words), (None, vec![Word::Executes; 2]));
}

#[tokio::test(start_paused = true)]
async fn whatever_is_no_simulation_never_means_send() {
    for (code, message) in NO_SIMULATIONS {
        let world = World::new(&[GOOD, POISON, GLUTTON, GOOD], &[(Simulates::Error(code, message), true)]);
        let found = world.ask(false).await;
        if message.contains("request limit") {
            // Rate-limited: the node is backed off, and the outcome stays unknown.
            assert_eq!(found.words, vec![Word::Unknown; 4], "{message}");
            continue;
        }
        let texts = texts(&found);
        assert_eq!((texts[0].as_str(), texts[3].as_str()), ("yes", "yes"), "{message}: {texts:?}");
        assert!(texts[1].contains("guest list is closed"), "{message}: {texts:?}");
        assert!(texts[2].contains("out of gas"), "{message}: {texts:?}");
        assert_eq!(found.against, [vec![], vec![0], vec![0], vec![]]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_no_simulation_is_not_asked_for_it_each_time() {
    for (code, message, most) in [(-32_601, "method not found", 1), (-32_603, "method handler crashed", 3)] {
        let world = World::new(&[GOOD], &[(Simulates::Error(code, message), true)]);
        for _ in 0..10 {
            assert_eq!(world.ask(false).await.words, [Word::Executes]);
        }
        assert_eq!(world.nodes[0].asked("eth_simulateV1"), most, "{message}");
        let status = &world.pool.status()[0];
        assert!(status.is_healthy && status.failures == 0, "{message}: {status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_node_answers_nothing_is_known() {
    let lacks = || (Simulates::Error(-32_601, "method not found"), false);
    let world = World::new(&[GOOD, POISON], &[lacks(), lacks()]);
    assert_eq!(world.ask(false).await.words, vec![Word::Unknown; 2]);
}

#[tokio::test(start_paused = true)]
async fn one_nodes_no_is_asked_of_another() {
    // The fastest node lies.
    let world =
        World::new(&[GOOD, GOOD], &[(Simulates::FirstFails, true), (Simulates::Truly, true), (Simulates::Truly, true)]);
    let found = world.ask(false).await;
    assert_eq!(found.words, vec![Word::Executes; 2]);
    assert_eq!(found.contradicted, [(world.members[0].id(), 1, 0)]);
    assert_eq!(world.nodes[2].asked("eth_simulateV1"), 0, "two are enough");
    // A true no comes from both nodes, with its reason.
    let world = World::new(&[POISON, GOOD], &[(Simulates::Truly, true), (Simulates::Truly, true)]);
    let found = world.ask(false).await;
    assert!(texts(&found)[0].contains("guest list is closed"), "{found:?}");
    assert_eq!(found.against, [vec![0, 1], vec![]]);
    assert!(found.contradicted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_yes_is_asked_of_another_only_where_two_are_wanted() {
    let nodes = [(Simulates::AllExecute, true), (Simulates::Truly, true)];
    let world = World::new(&[POISON], &nodes);
    assert_eq!(world.ask(false).await.words, [Word::Executes]);
    assert_eq!(world.nodes[1].asked("eth_simulateV1"), 0);
    let found = world.ask(true).await;
    assert_eq!(found.words, [Word::Executes], "an acceptance needs one");
    assert_eq!(found.contradicted, [(world.members[0].id(), 0, 1)], "and the receipt will tell who was right");
    // The node that was wrong is asked last.
    world.pool.demote(0);
    assert!(texts(&world.ask(false).await)[0] != "yes" || world.nodes[1].asked("eth_simulateV1") > 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_holds_up_no_batch() {
    let world = World::new(&[GOOD], &[(Simulates::Never, true), (Simulates::Truly, true)]);
    let started = tokio::time::Instant::now();
    assert_eq!(world.ask(false).await.words, [Word::Executes]);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nonces_are_asked_for_one_by_one_where_multicall_gives_nothing() {
    let truly = || (Simulates::Truly, true);
    let world = World::new(&[GOOD, GOOD], &[truly(), truly(), truly()]);
    let signers: Vec<_> = (1..=2).map(|user| (FORWARDER, Address::repeat_byte(user))).collect();
    let nonces = agreed_nonces(&world.pool, &signers, Some(Address::repeat_byte(0x33)), At::Head).await;
    assert_eq!(nonces.iter().map(|nonce| nonce.map(|nonce| nonce.at_least)).collect::<Vec<_>>(), [Some(0), Some(0)]);
}

#[tokio::test(start_paused = true)]
async fn a_forwarder_that_reverts_keeps_no_other_from_being_asked() {
    let world = World::new(&[GOOD], &[(Simulates::Truly, true)]);
    let users = (1..=3).map(Address::repeat_byte);
    let signers: Vec<_> = users.flat_map(|user| [(POISON, user), (GLUTTON, user), (FORWARDER, user)]).collect();
    let nonces = forwarder_nonces(&world.pool, &signers, None, &json!("latest")).await.expect("the node is well");
    let expected: Vec<_> = signers.iter().map(|(forwarder, _)| (*forwarder == FORWARDER).then_some(0)).collect();
    assert_eq!(nonces, expected);
    assert_eq!(world.nodes[0].asked("eth_call"), 5, "each broken one once");
}
