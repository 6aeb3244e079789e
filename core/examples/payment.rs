//! A facilitator that embeds the relay: it makes a token payment that the payer only signed (EIP-3009, as in x402).
//!
//! Start a development node, then run it:
//! ```text
//! anvil --block-time 1 &
//! cargo run --example payment -- http://127.0.0.1:8545
//! ```

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, with a clock and a terminal"
)]

use std::{
    collections::BTreeSet,
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater::{
    Authorization, ChainSetup, ChainSpec, KindName, LocalSigner, Reason, Relay, RpcEndpoint, RpcPool, Status,
    Submission, TenantPolicy, TokenDomain, WaitFor,
};
use slackwater_contracts::fiat_token::{self, IFiatToken};

/// First account of every development node: it pays for gas.
const SENDER: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const PRICE: u64 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8545".to_owned());
    let node = RpcPool::new(vec![RpcEndpoint::new("node", &url)], Duration::from_secs(10));
    let payer = LocalSigner::from_bytes(&[0x42; 32])?;
    let token = deploy(&node, payer.address()).await?;
    let shop = Address::repeat_byte(0x70);

    let directory = std::env::temp_dir().join(format!("slackwater-payment-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let setup =
        ChainSetup::new(ChainSpec::preset("anvil")?).rpc(&url).signer(LocalSigner::from_hex(SENDER)?).token(token);
    let tenant = TenantPolicy::new("default").with(|it| {
        it.kinds = BTreeSet::from([KindName::Authorization]);
        it.is_open = true;
    });
    let relay = Relay::builder().chain(setup).tenant(tenant).database(directory.join("ledger.db")).start().await?;

    // The payer needs no ether: a signature is all that it gives.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut authorization = Authorization {
        token,
        from: payer.address(),
        to: shop,
        value: U256::from(PRICE),
        valid_after: U256::ZERO,
        valid_before: U256::from(now + 600),
        nonce: B256::from(U256::from(now)),
        signature: Bytes::new(),
    };
    let domain = TokenDomain::new("USD Coin", fiat_token::DOMAIN_VERSION, 31_337, token);
    authorization.signature = payer.identity().sign(domain.digest(&authorization));

    let submission = Submission::authorization(31_337, authorization).within(Duration::from_secs(60));
    let accepted = relay.submit(submission).await?;
    let record = accepted.wait(WaitFor::Terminal).await?;
    if record.status != Status::Finalized {
        return Err(format!("{} ended {} ({:?})", accepted.id(), record.status, record.reason).into());
    }
    // With the reason `executed_elsewhere` somebody else's transaction made the payment: it is made all the same.
    let sender = if record.reason == Some(Reason::ExecutedElsewhere) { "somebody else" } else { "the relay" };
    println!("paid in {}, sent by {sender}", record.tx_hash.unwrap_or_default());
    let call = json!({ "to": token, "input": Bytes::from(IFiatToken::balanceOfCall { account: shop }.abi_encode()) });
    let balance: Bytes = node.call("eth_call", json!([call, "latest"])).await?;
    println!("the shop has {}", U256::from_be_slice(&balance));
    relay.shutdown().await;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Deploys Circle's token from the node's own unlocked account, and gives the payer some of it.
async fn deploy(node: &RpcPool, payer: Address) -> Result<Address, Box<dyn Error>> {
    let accounts: Vec<Address> = node.call("eth_accounts", json!([])).await?;
    let admin = *accounts.last().ok_or("the node has no unlocked account")?;
    let library = send(node, admin, None, fiat_token::signature_checker_code().to_vec()).await?;
    let library = library.ok_or("no contract was created")?;
    let token = send(node, admin, None, fiat_token::deploy_code(library)).await?.ok_or("no contract was created")?;
    let mint = IFiatToken::mintCall { to: payer, amount: U256::from(PRICE) };
    for data in fiat_token::setup_calls(admin).into_iter().chain([mint.abi_encode()]) {
        send(node, admin, Some(token), data).await?;
    }
    Ok(token)
}

/// Sends a transaction and waits for it; returns the contract that it created.
async fn send(
    node: &RpcPool,
    from: Address,
    to: Option<Address>,
    data: Vec<u8>,
) -> Result<Option<Address>, Box<dyn Error>> {
    let mut transaction = json!({ "from": from, "data": Bytes::from(data), "gas": U64::from(8_000_000) });
    if let Some(to) = to {
        transaction["to"] = json!(to);
    }
    let hash: B256 = node.call("eth_sendTransaction", json!([transaction])).await?;
    loop {
        let receipt: Value = node.call("eth_getTransactionReceipt", json!([hash])).await?;
        if receipt["status"] == "0x0" {
            return Err(format!("{hash} failed").into());
        }
        if !receipt.is_null() {
            return Ok(receipt["contractAddress"].as_str().map(str::parse).transpose()?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
