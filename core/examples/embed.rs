//! A backend service that embeds the relay: it takes a burst of signed requests and waits until they are final.
//!
//! Start a development node, then run it:
//! ```text
//! anvil --block-time 1 &
//! cargo run --example embed -- http://127.0.0.1:8545
//! ```

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, with a clock and a terminal"
)]

use std::{error::Error, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater::{
    ChainSetup, ChainSpec, Forward, ForwarderDomain, LocalSigner, Relay, RpcEndpoint, RpcPool, Status, Submission,
    WaitFor,
};
use slackwater_contracts::{forwarder, guestbook};

/// First account of every development node: it pays.
const SENDER: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const BURST: u64 = 25;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8545".to_owned());
    let node = RpcPool::new(vec![RpcEndpoint::new("node", &url)], Duration::from_secs(10));
    let forwarder_address = deploy(&node, forwarder::deploy_code("Embed")).await?;
    let guestbook_address = deploy(&node, guestbook::deploy_code(forwarder_address)).await?;

    // The ledger: everything accepted survives a crash of this process.
    let directory = std::env::temp_dir().join(format!("slackwater-embed-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let setup = ChainSetup::new(ChainSpec::preset("anvil")?)
        .rpc(&url)
        .signer(LocalSigner::from_hex(SENDER)?)
        .forwarder(forwarder_address);
    let relay = Relay::builder().chain(setup).database(directory.join("ledger.db")).start().await?;

    // One user signs a burst of messages; no RPC, no waiting.
    let user = LocalSigner::from_bytes(&[0x42; 32])?;
    let domain = ForwarderDomain::new("Embed", 31_337, forwarder_address);
    let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3_600;
    let items = (0..BURST)
        .map(|nonce| {
            let tag = B256::from(U256::from(nonce + 1));
            let mut forward = Forward {
                forwarder: forwarder_address,
                from: user.address(),
                to: guestbook_address,
                value: U256::ZERO,
                gas: U256::from(150_000),
                nonce: U256::from(nonce),
                deadline: expires,
                data: guestbook::IGuestbook::markCall { tag }.abi_encode().into(),
                signature: Bytes::new(),
            };
            forward.signature = user.identity().sign(domain.digest(&forward));
            Submission::forward(31_337, forward).within(Duration::from_secs(60))
        })
        .collect();

    // When this returns, all of them are on disk and promised.
    let mut accepted = Vec::new();
    for answer in relay.tenant("default").submit_many(items).await {
        match answer {
            Ok(request) => accepted.push(request),
            Err(error) => return Err(format!("{}: {error}", error.code()).into()),
        }
    }
    println!("{} requests accepted", accepted.len());
    for request in &accepted {
        let record = request.wait(WaitFor::Terminal).await?;
        if record.status != Status::Finalized {
            return Err(format!("{} ended {} ({:?})", request.id(), record.status, record.reason).into());
        }
    }
    let total: Bytes = call(&node, guestbook_address, guestbook::IGuestbook::totalCall {}.abi_encode()).await?;
    println!("all final; the guest book counts {}", U256::from_be_slice(&total));
    relay.shutdown().await;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Deploys from the node's own unlocked account.
async fn deploy(node: &RpcPool, code: Vec<u8>) -> Result<Address, Box<dyn Error>> {
    let accounts: Vec<Address> = node.call("eth_accounts", json!([])).await?;
    let from = accounts.last().ok_or("the node has no unlocked account")?;
    let hash: B256 = node.call("eth_sendTransaction", json!([{ "from": from, "data": Bytes::from(code) }])).await?;
    loop {
        let receipt: Value = node.call("eth_getTransactionReceipt", json!([hash])).await?;
        if let Some(address) = receipt["contractAddress"].as_str() {
            return Ok(address.parse()?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn call(node: &RpcPool, to: Address, data: Vec<u8>) -> Result<Bytes, Box<dyn Error>> {
    Ok(node.call("eth_call", json!([{ "to": to, "input": Bytes::from(data) }, "latest"])).await?)
}
