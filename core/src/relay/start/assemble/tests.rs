//! Starts with an unreachable chain, on a ledger of another chain, and dropped half way.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{KnownFinal, build_service, check_chain};
use crate::{
    chain::{ChainSpec, TransportFailure},
    ledger::{Ledger, SqliteConfig, SqliteLedger},
    policy::{KindName, OpenLimits, TargetRule, TenantPolicy},
    relay::{
        BuildError, ChainHealth, ChainSetup, LocalSigner, PolicyError, Relay, RelayBuilder, RpcEndpoint, RpcReply,
        RpcTransport, SubmitError,
        admission::{pause::PauseBoard, tenants::Tenants},
        chain::{
            journal::JournalEntry,
            service::{ChainService, Done},
        },
        clock,
    },
    request::{Call, Submission},
    sender::Input,
};

const BLOCK: Duration = Duration::from_millis(50);

/// A node of a chain with a block every 50 ms, without contracts.
#[derive(Debug)]
struct Node {
    chain_id: u64,
    /// Distinguishes chains of the same id.
    salt: AtomicU64,
    is_away: AtomicBool,
    /// True if accounts have no balance.
    is_poor: AtomicBool,
    started: Instant,
}

impl Node {
    fn of_chain(chain_id: u64) -> Arc<Self> {
        let (salt, is_away, is_poor) = Default::default();
        Arc::new(Self { chain_id, salt, is_away, is_poor, started: Instant::now() })
    }

    fn hash(&self, number: u64) -> B256 {
        keccak256([self.salt.load(Ordering::Relaxed).to_be_bytes(), number.to_be_bytes()].concat())
    }

    fn answer(&self, method: &str, params: &Value) -> Value {
        let head = 1_000 + u64::try_from(self.started.elapsed().as_millis() / BLOCK.as_millis()).unwrap();
        match method {
            "eth_chainId" => json!(U64::from(self.chain_id)),
            "eth_blockNumber" => json!(U64::from(head)),
            "eth_getBlockByNumber" => {
                let number = params[0].as_str().unwrap().parse::<U64>().map_or(head, |number| number.to());
                if number > head {
                    return Value::Null;
                }
                json!({
                    "number": U64::from(number), "hash": self.hash(number), "parentHash": self.hash(number - 1),
                    "timestamp": U64::from(clock::now().as_secs()), "gasUsed": "0x0", "gasLimit": U64::from(30_000_000),
                    "baseFeePerGas": U64::from(1_000_000_000),
                })
            }
            "eth_feeHistory" => {
                let blocks: U64 = serde_json::from_value(params[0].clone()).unwrap();
                let blocks = blocks.to::<u64>().min(64);
                let count = usize::try_from(blocks).unwrap();
                json!({
                    "oldestBlock": U64::from(head + 1 - blocks),
                    "baseFeePerGas": vec![U64::from(1_000_000_000); count + 1],
                    "gasUsedRatio": vec![0.5; count], "reward": vec![["0x1", "0x1", "0x1"]; count],
                })
            }
            "eth_getTransactionCount" => json!("0x0"),
            "eth_getBalance" if self.is_poor.load(Ordering::Relaxed) => json!("0x0"),
            "eth_getBalance" => json!("0xde0b6b3a7640000"),
            _ => json!("0x"),
        }
    }
}

#[async_trait]
impl RpcTransport for Node {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(TransportFailure::NotConnected);
        }
        let call: Value = serde_json::from_str(&body).unwrap();
        let result = self.answer(call["method"].as_str().unwrap(), &call["params"]);
        let reply = json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
        Ok(RpcReply::new(200, reply.to_string().into_bytes()))
    }
}

fn chain(node: &Arc<Node>) -> ChainSetup {
    let mut spec = ChainSpec::preset("anvil").unwrap();
    spec.chain_id = node.chain_id;
    spec.block_time_ms = 50;
    let mut setup = ChainSetup::new(spec).signer(LocalSigner::from_bytes(&[7; 32]).unwrap());
    setup.endpoints.push(RpcEndpoint::over("node", node.clone()));
    setup
}

/// The service of chain 1 by itself, with one lane, and the receiver of its journal entries.
pub(in crate::relay) async fn service(
    ledger: &Path,
    tenants: &Arc<Tenants>,
) -> (ChainService, mpsc::Receiver<JournalEntry>) {
    let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(SqliteConfig::new(ledger)).await.unwrap());
    let Ok(checked) = check_chain(chain(&Node::of_chain(1)), KnownFinal::default()).await else { panic!("a node") };
    let (sender, journal) = mpsc::channel(64);
    let pauses = PauseBoard::restore(&ledger).await.unwrap();
    let within = Duration::from_secs(60);
    let (service, ..) = build_service(checked, &ledger, tenants, &pauses, sender, None, within).await.unwrap();
    (service, journal)
}

fn relay(nodes: &[&Arc<Node>], ledger: &Path) -> RelayBuilder {
    nodes.iter().fold(Relay::builder().database(ledger), |builder, node| builder.chain(chain(node)))
}

fn health(relay: &Relay, chain_id: u64) -> ChainHealth {
    relay.chains().iter().find(|chain| chain.chain_id == chain_id).expect("a chain").health
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_chain_that_is_away_at_start_stops_no_other_and_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let (here, away) = (Node::of_chain(1_001), Node::of_chain(1_002));
    away.is_away.store(true, Ordering::Relaxed);
    let relay = relay(&[&here, &away], &dir.path().join("ledger.db")).start().await.expect("it starts");
    assert_eq!((health(&relay, 1_001), health(&relay, 1_002)), (ChainHealth::Healthy, ChainHealth::Unavailable));
    assert!(relay.tenant("default").quote(1_001, 100_000).is_ok());
    let refused = relay.tenant("default").quote(1_002, 100_000);
    assert!(matches!(refused, Err(SubmitError::ChainUnavailable { chain_id: 1_002, .. })), "{refused:?}");
    away.is_away.store(false, Ordering::Relaxed);
    until("the chain", || health(&relay, 1_002) == ChainHealth::Healthy).await;
    assert!(relay.tenant("default").quote(1_002, 100_000).is_ok());
    relay.shutdown().await;
    assert!(!relay.has_failed());
    // A stopped relay reports nothing but that.
    assert_eq!(health(&relay, 1_001), ChainHealth::Unavailable);
    assert!(matches!(relay.tenant("default").quote(1_001, 100_000), Err(SubmitError::ShuttingDown)));
}

#[tokio::test]
async fn a_chain_whose_signers_have_no_money_is_not_called_healthy() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::of_chain(1_005);
    node.is_poor.store(true, Ordering::Relaxed);
    let relay = relay(&[&node], &dir.path().join("ledger.db")).start().await.expect("it starts");
    let [chain] = relay.chains().try_into().expect("one chain");
    assert_eq!(chain.health, ChainHealth::Impaired, "{:?}", chain.detail);
    assert!(chain.detail.as_ref().is_some_and(|detail| detail.contains("no lane can send")), "{:?}", chain.detail);
    node.is_poor.store(false, Ordering::Relaxed);
    until("money", || health(&relay, 1_005) == ChainHealth::Healthy).await;
    relay.shutdown().await;
}

#[tokio::test]
async fn a_task_that_panics_ends_as_if_its_call_had_failed() {
    let dir = tempfile::tempdir().unwrap();
    let tenants = Arc::new(Tenants::new(BTreeMap::new(), OpenLimits::default(), false));
    let (mut service, _journal) = service(&dir.path().join("ledger.db"), &tenants).await;
    service.ask(async |_| panic!("a task"), || Input::Suggested(Some(7)));
    let done = service.tasks.join_next().await.expect("a task").expect("what it brings back");
    assert!(matches!(done, Done::Input(Input::Suggested(Some(7)))), "{done:?}");
}

#[tokio::test]
async fn a_ledger_of_another_chain_with_this_id_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (node, ledger) = (Node::of_chain(1_003), dir.path().join("ledger.db"));
    for _ in 0..2 {
        let relay = relay(&[&node], &ledger).start().await.expect("the same chain");
        until("a final block", || relay.chains()[0].final_block.is_some_and(|block| block > 1_010)).await;
        relay.shutdown().await;
    }
    node.salt.store(1, Ordering::Relaxed);
    let refused = relay(&[&node], &ledger).start().await;
    let Err(BuildError::Chain { chain_id: 1_003, detail }) = refused else { panic!("{refused:?}") };
    assert!(detail.contains("another chain") && detail.contains("ledger.path"), "{detail}");
    // Nothing is left running, and nothing was changed.
    node.salt.store(0, Ordering::Relaxed);
    relay(&[&node], &ledger).start().await.expect("the old chain").shutdown().await;
}

#[tokio::test]
async fn a_tenant_comes_while_the_relay_runs_if_the_ledger_has_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (node, ledger) = (Node::of_chain(1_006), dir.path().join("ledger.db"));
    let open = |id: &str| TenantPolicy::new(id).with(|it| it.is_open = true);
    let target = BTreeMap::from([(Address::repeat_byte(1), TargetRule::default())]);
    let targets = Some(BTreeMap::from([(1_006, target)]));
    let kinds = BTreeSet::from([KindName::Call]);
    let calls = |id: &str| {
        TenantPolicy::new(id).with(|it| {
            it.kinds = kinds.clone();
            it.targets = targets.clone();
        })
    };
    let first = relay(&[&node], &ledger).tenant(calls("old")).start().await.unwrap();
    let call = Call {
        to: Address::repeat_byte(1),
        value: U256::ZERO,
        gas: U256::from(50_000),
        data: Bytes::new(),
        any_sender: false,
        salt: String::new(),
    };
    first.tenant("old").submit(Submission::call(1_006, call)).await.expect("a call");
    let refused = first.set_policies(vec![open("club")]).await;
    assert!(matches!(&refused, Err(PolicyError::UnboundCalls(id)) if id == "old"), "{refused:?}");
    first.shutdown().await;

    let relay = relay(&[&node], &ledger).tenant(open("shop")).start().await.unwrap();
    assert!(matches!(relay.tenant("club").quote(1_006, 50_000), Err(SubmitError::UnknownTenant(_))));
    let refused = relay.set_policies(vec![open("club"), open("old")]).await;
    assert!(matches!(&refused, Err(PolicyError::Returns(id)) if id == "old"), "{refused:?}");
    let refused = relay.set_policies(vec![open("club"), calls("bot")]).await;
    assert!(matches!(&refused, Err(PolicyError::UnboundCalls(id)) if id == "bot"), "{refused:?}");
    assert!(relay.tenant("club").quote(1_006, 50_000).is_err(), "all or nothing");
    let heavy = open("shop").with(|it| it.weight = 3);
    relay.set_policies(vec![heavy, open("club")]).await.expect("a new tenant");
    assert!(relay.tenant("club").quote(1_006, 50_000).is_ok());
    relay.shutdown().await;
}

#[tokio::test]
async fn a_start_that_is_dropped_half_way_frees_its_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::of_chain(1_004);
    for millis in [1, 5, 10, 15, 20, 25, 30, 40, 60] {
        let ledger = dir.path().join(format!("ledger-{millis}.db"));
        let dropped = tokio::time::timeout(Duration::from_millis(millis), relay(&[&node], &ledger).start()).await;
        let was_dropped = dropped.is_err();
        drop(dropped);
        let relay = relay(&[&node], &ledger).start().await;
        assert!(relay.is_ok(), "after {millis} ms (dropped: {was_dropped}): {relay:?}");
        relay.unwrap().shutdown().await;
    }
}
