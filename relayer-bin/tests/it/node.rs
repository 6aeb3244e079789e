//! A stub node that accepts everything and mines nothing.

use alloy_primitives::{B256, Bytes, hex, keccak256};
use axum::{Json, Router, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Number of the head block, which never changes.
const HEAD: u64 = 100;

/// Starts the node; it ends with the test's runtime.
pub(crate) async fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });
    url
}

async fn answer(body: String) -> Json<Value> {
    let call: Value = serde_json::from_str(&body).unwrap();
    let params = &call["params"];
    let result = match call["method"].as_str().unwrap() {
        "eth_chainId" => json!("0x7a69"),
        "eth_blockNumber" => json!(format!("{HEAD:#x}")),
        "eth_getBlockByNumber" => block(params[0].as_str().unwrap()),
        "eth_feeHistory" => json!({
            // It was cheaper before: requests with slack wait.
            "oldestBlock": "0x5b", "baseFeePerGas": ([vec!["0x1dcd6500"; 10], vec!["0x3b9aca00"]].concat()),
            "gasUsedRatio": vec![0.5; 10], "reward": vec![["0x3b9aca00"]; 10],
        }),
        "eth_getBalance" => json!("0x21e19e0c9bab2400000"),
        "eth_getTransactionCount" => json!("0x0"),
        "eth_getTransactionReceipt" => Value::Null,
        "eth_sendRawTransaction" => {
            let raw: Bytes = params[0].as_str().unwrap().parse().unwrap();
            json!(keccak256(raw))
        }
        _ => json!("0x"),
    };
    Json(json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }))
}

fn block(tag: &str) -> Value {
    let number = tag.strip_prefix("0x").map_or(HEAD, |digits| u64::from_str_radix(digits, 16).unwrap());
    let hash = |number: u64| keccak256(number.to_be_bytes());
    let now_s = jiff::Timestamp::now().as_second();
    json!({
        "number": format!("{number:#x}"), "hash": hash(number), "parentHash": hash(number.saturating_sub(1)),
        "timestamp": format!("{now_s:#x}"), "gasUsed": "0xe4e1c0", "gasLimit": "0x1c9c380",
        "baseFeePerGas": "0x3b9aca00", "extraData": "0x", "transactions": [],
        "miner": hex::encode_prefixed([0u8; 20]), "stateRoot": B256::ZERO,
    })
}
