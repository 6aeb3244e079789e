//! Nodes whose receipts, and old states, are gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy_primitives::{Address, B256, U64, U256, keccak256};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::rebuild;
use crate::relay::chain::keys::Scans;
use crate::{
    chain::{ChainSpec, TransportFailure},
    lane::PollPurpose,
    relay::{
        nodes::{
            foreign::look,
            receipts,
            spender::{Spender, find},
        },
        rpc::{RpcEndpoint, RpcPool, RpcReply, RpcTransport},
    },
    sender::{ForeignTransaction, Taken, tuning::ChainTuning},
};

const SENDER: Address = Address::repeat_byte(0x5e);
const FORWARDER: Address = Address::repeat_byte(0xf0);
const OURS: B256 = B256::repeat_byte(0x0a);
const NONCE: u64 = 7;
/// The block with our transaction, and the newest final one.
const MINED: u64 = 2_000;
const LAST: u64 = 3_000;
/// Blocks before the newest final one for which nodes keep the state.
const STATES: u64 = 100;

/// Data that a node still has besides its blocks.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    block_receipts: bool,
    /// Success flag in its receipt.
    is_success: bool,
    /// Amount added falsely to the reported value, wei.
    more_value: u64,
    /// Reported L1 data fee, wei; 0 means none.
    data_fee: u64,
}

#[derive(Debug)]
struct Node {
    kept: Kept,
    asked: Mutex<BTreeMap<String, u64>>,
}

fn hash_of(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

impl Node {
    fn answer(&self, method: &str, params: &Value) -> Result<Value, Value> {
        let number = |value: &Value| value.as_str().unwrap().parse::<U64>().unwrap().to::<u64>();
        let pruned = || json!({ "code": -32_000, "message": "missing trie node" });
        match method {
            "eth_getTransactionCount" if number(&params[1]) + STATES < LAST => Err(pruned()),
            "eth_getTransactionCount" => Ok(json!(U64::from(NONCE + 1))),
            "eth_getBlockByNumber" => {
                let number = number(&params[0]);
                let transaction = json!({
                    "hash": OURS, "from": SENDER, "nonce": U64::from(NONCE), "gas": U64::from(90_000), "gasPrice": "0x64",
                    "to": FORWARDER, "value": U64::from(7 + self.kept.more_value),
                });
                let other = json!({
                    "hash": hash_of(number + 1), "from": FORWARDER, "nonce": "0x0", "gas": "0x5208", "gasPrice": "0x64",
                });
                let transactions = if number == MINED { vec![other, transaction] } else { vec![other] };
                Ok(json!({ "hash": hash_of(number), "gasUsed": U64::from(71_000), "transactions": transactions }))
            }
            "eth_getTransactionReceipt" => Ok(Value::Null),
            "eth_getBlockReceipts" if self.kept.block_receipts => Ok(json!([{
                "transactionHash": OURS, "blockNumber": U64::from(MINED), "blockHash": hash_of(MINED),
                "status": U64::from(self.kept.is_success),
                "gasUsed": U64::from(50_000), "effectiveGasPrice": "0x64", "logs": [], "l1Fee": U64::from(self.kept.data_fee),
            }])),
            _ => Err(json!({ "code": -32_601, "message": "the method does not exist" })),
        }
    }

    fn asked(&self, method: &str) -> u64 {
        self.asked.lock().unwrap().get(method).copied().unwrap_or(0)
    }
}

#[async_trait]
impl RpcTransport for Node {
    async fn exchange(&self, body: String) -> Result<RpcReply, TransportFailure> {
        let call: Value = serde_json::from_str(&body).unwrap();
        let method = call["method"].as_str().unwrap();
        *self.asked.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        let mut reply = json!({ "jsonrpc": "2.0", "id": call["id"] });
        match self.answer(method, &call["params"]) {
            Ok(result) => reply["result"] = result,
            Err(error) => reply["error"] = error,
        }
        Ok(RpcReply::new(200, reply.to_string().into_bytes()))
    }
}

fn world(kept: &[Kept]) -> (Vec<Arc<Node>>, RpcPool) {
    let nodes: Vec<_> = kept.iter().map(|kept| Arc::new(Node { kept: *kept, asked: Mutex::default() })).collect();
    let named = nodes.iter().zip(0..);
    let endpoints = named.map(|(node, place)| RpcEndpoint::over(format!("node-{place}"), node.clone())).collect();
    let tuning = ChainTuning::for_spec(&ChainSpec::preset("ethereum").unwrap());
    let pool = RpcPool::of_chain(endpoints, &tuning.rpc, Duration::from_secs(12));
    pool.note_final(nodes.iter().map(|_| Some(LAST)));
    (nodes, pool)
}

#[tokio::test(start_paused = true)]
async fn a_search_through_blocks_goes_on_where_it_stopped() {
    let (nodes, pool) = world(&[Kept::default(); 1]);
    let (scans, mut turns) = (Scans::default(), 0);
    let found = receipts::find(&pool, &[OURS], PollPurpose::Finality, Some(LAST)).await;
    assert!(found.receipt.is_none() && found.is_complete, "no receipt is what they say");
    loop {
        let before = nodes[0].asked("eth_getBlockByNumber");
        let used = find(&pool, SENDER, NONCE, LAST, &scans, 128).await;
        let read = nodes[0].asked("eth_getBlockByNumber") - before;
        assert!(read <= 129, "{read}");
        turns += 1;
        match used {
            Spender::Unknown => {}
            Spender::Known { hash, block, .. } => break assert_eq!((hash, block), (OURS, MINED)),
            Spender::Nobody => panic!("it is used"),
        }
    }
    // Each block once, and the one with the transaction once more from all nodes.
    assert_eq!(turns, 8);
    assert!(nodes[0].asked("eth_getBlockByNumber") < LAST - MINED);
    // After that its block is known.
    let before = nodes[0].asked("eth_getBlockByNumber");
    let known = Spender::Known { hash: OURS, block: MINED, value_wei: Some(U256::from(7)) };
    assert_eq!(find(&pool, SENDER, NONCE, LAST, &scans, 128).await, known);
    assert_eq!(nodes[0].asked("eth_getBlockByNumber") - before, 2);
}

#[tokio::test(start_paused = true)]
async fn the_receipts_of_its_block_tell_what_a_transaction_did() {
    let told = async |kept: [bool; 3]| {
        let (_, pool) = world(&kept.map(|block_receipts| Kept { block_receipts, ..Kept::default() }));
        let receipt = rebuild(&pool, OURS, MINED, LAST).await?;
        assert_eq!((receipt.hash, receipt.block_number, receipt.block_hash), (OURS, MINED, hash_of(MINED)));
        Some((receipt.is_success, receipt.cost_wei()))
    };
    assert_eq!(told([true; 3]).await, Some((false, U256::from(50_000 * 100))));
    assert_eq!(told([true, false, false]).await, None, "one node alone is not believed");
    assert_eq!(told([false; 3]).await, None, "without a receipt nobody knows what it cost");
}

/// Receipt and value of a foreign transaction: by a majority, or not at all.
#[tokio::test(start_paused = true)]
async fn what_a_stranger_took_is_what_a_majority_tells() {
    let told = async |kept: [Kept; 3]| {
        let (_, pool) = world(&kept);
        let scans = Scans::default();
        let Spender::Known { hash, block, value_wei } = find(&pool, SENDER, NONCE, LAST, &scans, 2_000).await else {
            panic!("it is known who used it");
        };
        let ForeignTransaction { hash, taken, .. } = look(&pool, hash, block, value_wei, LAST).await;
        assert_eq!(hash, OURS);
        taken
    };
    let whole = Kept { block_receipts: true, is_success: true, ..Kept::default() };
    let (failed, boasts, gone) =
        (Kept { is_success: false, ..whole }, Kept { more_value: 1, ..whole }, Kept { block_receipts: false, ..whole });
    let taken = |value: u64| {
        let (gas_used, cost_wei, value_wei) = (50_000, U256::from(5_000_000), U256::from(value));
        Some(Taken { gas_used, cost_wei, value_wei })
    };
    assert_eq!(told([whole; 3]).await, taken(7));
    assert_eq!(told([failed; 3]).await, taken(0), "it moved nothing");
    assert_eq!(told([whole, boasts, whole]).await, taken(7));
    assert_eq!(told([boasts, whole, Kept { more_value: 2, ..whole }]).await, None);
    assert_eq!(told([gone, whole, whole]).await, taken(7));
    assert_eq!(told([gone, gone, whole]).await, None);
    assert_eq!(told([failed, whole, gone]).await, None);
    // The lower median of the reported fees beyond gas counts: a node that invents one, or leaves it out, changes
    // nothing.
    let (true_fee, dear) = (Kept { data_fee: 5, ..whole }, Kept { data_fee: 1_000_000, ..whole });
    for kept in [[dear, true_fee, true_fee], [true_fee, true_fee, dear], [whole, true_fee, true_fee]] {
        let cost = told(kept).await.map(|taken| taken.cost_wei);
        assert_eq!(cost, Some(U256::from(5_000_005)));
    }
}
