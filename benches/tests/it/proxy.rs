//! The fault-injecting proxy.

use std::time::Duration;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, Signature, TxKind, U256};
use slackwater_benches::{
    Anvil, BenchError, Node, Proxy, Result,
    proxy::{Fault, ReceiptLie, Rule, StrictPool},
    wallet::Account,
};
use slackwater_core::chain::{ClientRule, RpcErrorClass, classify};

const GWEI: u128 = 1_000_000_000;

fn transfer(account: &Account, nonce: u64, max_fee: u128, tip: u128) -> Bytes {
    let transaction = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: max_fee,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    let signature = Signature::from_raw(&account.sign(transaction.signature_hash())).expect("a signature");
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into()
}

/// A node that does not mine by itself, a proxy before it, and a funded account.
async fn setup() -> Result<(Anvil, Proxy, Node, Account)> {
    let anvil = Anvil::builder().spawn().await?;
    anvil.node().set_automine(false).await?;
    let account = Account::derive("proxy", 0);
    anvil.node().set_balance(account.address, U256::from(10_u64.pow(18))).await?;
    let proxy = Proxy::spawn(anvil.url(), 7).await?;
    let node = Node::new(proxy.url())?;
    Ok((anvil, proxy, node, account))
}

#[tokio::test]
async fn a_strict_pool_wants_ten_percent() -> Result<()> {
    let (anvil, proxy, node, account) = setup().await?;
    proxy.strict(Some(StrictPool { replacement: ClientRule::Geth, client: "geth".to_owned(), max_tx_gas: None }));
    node.send_raw(transfer(&account, 0, 10 * GWEI, GWEI)).await?;
    let refused = node.send_raw(transfer(&account, 0, 10 * GWEI + 1, GWEI + 1)).await;
    let Err(BenchError::Rpc { code, message, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(classify(code, &message, None), RpcErrorClass::ReplacementUnderpriced);
    let better = node.send_raw(transfer(&account, 0, 11 * GWEI, 11 * GWEI / 10)).await?;
    anvil.node().mine(1).await?;
    assert!(node.receipt(better).await?.is_some());
    let injected = proxy.injected();
    assert_eq!((injected.replacements_refused, injected.replacements_taken, injected.taken.len()), (1, 1, 2));
    Ok(())
}

#[tokio::test]
async fn the_node_took_it_but_nobody_heard() -> Result<()> {
    let (anvil, proxy, node, account) = setup().await?;
    proxy.add(Rule::always(Fault::DropAfter).on("eth_sendRawTransaction").times(1));
    let raw = transfer(&account, 0, 10 * GWEI, GWEI);
    let lost = node.send_raw(raw.clone()).await;
    assert!(matches!(&lost, Err(error) if error.is_ambiguous()), "{lost:?}");
    assert_eq!(anvil.node().pool().await?, (1, 0));
    let again = node.send_raw(raw).await;
    let Err(BenchError::Rpc { code, message, .. }) = again else { panic!("{again:?}") };
    assert_eq!(classify(code, &message, None), RpcErrorClass::AlreadyKnown);

    proxy.add(Rule::always(Fault::DropBefore).on("eth_sendRawTransaction").times(1));
    assert!(node.send_raw(transfer(&account, 1, 10 * GWEI, GWEI)).await.is_err());
    assert_eq!(anvil.node().pool().await?, (1, 0));
    assert_eq!(proxy.injected().faults[&"drop_before"], 1);
    Ok(())
}

#[tokio::test]
async fn a_stale_node_and_a_lying_one() -> Result<()> {
    let (anvil, proxy, node, account) = setup().await?;
    anvil.node().mine(5).await?;
    let hash = node.send_raw(transfer(&account, 0, 10 * GWEI, GWEI)).await?;
    anvil.node().mine(1).await?;
    let head = anvil.node().block_number().await?;
    let stale = proxy.add(Rule::always(Fault::StaleHead { blocks: 2 }));
    assert_eq!(node.block_number().await?, head - 2);
    assert_eq!(node.nonce(account.address).await?, 0);
    assert!(node.receipt(hash).await?.is_none());
    assert!(node.block(head).await?.is_none());
    proxy.remove(stale);
    assert_eq!(node.nonce(account.address).await?, 1);
    proxy.add(Rule::always(Fault::Receipt(ReceiptLie::Failed)).times(1));
    assert_eq!(node.receipt(hash).await?.map(|receipt| receipt.status.to::<u64>()), Some(0));
    assert_eq!(node.receipt(hash).await?.map(|receipt| receipt.status.to::<u64>()), Some(1));
    let slow = Fault::Delay { min: Duration::from_millis(400), max: Duration::from_millis(400) };
    proxy.add(Rule::always(slow));
    assert!(node.with_timeout(Duration::from_millis(100)).block_number().await.is_err());
    Ok(())
}
