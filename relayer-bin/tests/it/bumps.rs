//! Replacements: accepted by every client's pool, and never assumed to be the only attempt that may be mined.

use std::time::Duration;

use alloy_primitives::{Bytes, U64};
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    proxy::{Fault, ReceiptLie, Rule, StrictPool},
    wallet::Crowd,
};
use slackwater_core::chain::ClientRule;

use crate::{
    attempts::{Attempt, next_base_fee},
    stage::{PATIENCE, Pace, Stage, Via, until},
};

#[track_caller]
fn check_pair(old: &Attempt, new: &Attempt, base_fee: u128) {
    assert_ne!(old.tx_hash, new.tx_hash);
    for rule in ClientRule::PRICED {
        assert!(
            rule.accepts(old.fees(), new.fees(), base_fee),
            "{rule:?} refuses {new:?} in place of {old:?} at base fee {base_fee}"
        );
    }
}

/// A client's replacement rule, and its name in the error corpus.
const POOLS: [(ClientRule, &str); 9] = [
    (ClientRule::Geth, "geth"),
    (ClientRule::Reth, "reth"),
    (ClientRule::RethOld, "reth"),
    (ClientRule::Erigon, "erigon"),
    (ClientRule::Besu, "besu"),
    (ClientRule::Nethermind, "nethermind"),
    (ClientRule::NethermindOld, "nethermind"),
    (ClientRule::Ethrex, "geth"),
    (ClientRule::Anvil, "anvil"),
];

#[tokio::test]
async fn every_client_takes_the_replacement() -> Result<()> {
    let stage = Stage::at(Pace::Manual).proxied().chain_key("bump_after_blocks", 1).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 3);
    let mut all = Vec::new();
    for (replacement, client) in POOLS {
        let pool = StrictPool { replacement, client: client.to_owned(), max_tx_gas: Some(1 << 24) };
        stage.proxy().strict(Some(pool));
        let requests = crowd.marks(3);
        stage.submit(&requests).await?;
        stage.pooled(1).await?;
        let before = stage.proxy().injected();
        let base_fee = next_base_fee(stage.node()).await?;
        stage.mine_tight(base_fee * 15 / 10).await?;
        let base_fee = next_base_fee(stage.node()).await?;
        let attempts = stage.wait_attempts(&requests[0], 2).await?;
        until("the pool's answer", PATIENCE, async || {
            let now = stage.proxy().injected();
            assert_eq!(now.replacements_refused, 0, "{replacement:?} refuses {attempts:?} at {base_fee}");
            Ok((now.replacements_taken > before.replacements_taken).then_some(()))
        })
        .await?;
        check_pair(&attempts[0], &attempts[1], base_fee);
        stage.settle_mining().await?;
        all.extend(requests);
    }
    assert_eq!(stage.proxy().injected().gas_refused, 0);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn a_base_fee_jump_with_many_in_flight() -> Result<()> {
    let stage = Stage::at(Pace::Manual).lanes(2).chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 60);
    let requests = crowd.marks(60);
    stage.submit(&requests).await?;
    // Only one transaction per lane leaves at a time; all leave without a block in between.
    stage.pooled(12).await?;
    let base_fee = next_base_fee(stage.node()).await?;
    stage.node().set_next_base_fee(base_fee * 20).await?;
    stage.node().mine(1).await?;
    assert_eq!(stage.node().head().await?.transactions.len(), 0, "at this price nothing can be mined");
    let base_fee = next_base_fee(stage.node()).await?;
    for request in &requests {
        let attempts = stage.wait_attempts(request, 2).await?;
        assert_eq!((attempts[0].kind.as_str(), attempts[1].kind.as_str()), ("payload", "payload"));
        assert!(attempts[0].fees().max_fee_per_gas < base_fee);
        check_pair(&attempts[0], &attempts[1], base_fee);
    }
    stage.pooled(12).await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(truth.relayed.transactions.len(), 12);
    assert!(stage.metric("slackwater_replacements_total", &[]).await? >= 12.0);
    stage.close().await
}

/// Cause for the node to mine the first attempt although there is a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    /// The replacement never reaches the node.
    Withheld,
    /// The same, and the relayer is killed and started in between.
    Restarted,
    /// The node accepts the replacement, drops it, and gets the first attempt again.
    Forgotten,
    /// The replacement never reaches the node, and one of two endpoints denies all receipts for a while.
    Denied,
}

/// Scenario S2: one execution, under the first attempt's hash, and no new nonce.
async fn first_attempt_wins(twist: Twist) -> Result<()> {
    let mut builder = Stage::at(Pace::Manual).chain_key("bump_after_blocks", 1);
    builder = match twist {
        Twist::Denied => builder.endpoints(&[Via::Proxy, Via::Proxy, Via::Node]),
        _ => builder.proxied(),
    };
    let mut stage = builder.raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let requests = crowd.marks(5);
    stage.submit(&requests).await?;
    stage.pooled(1).await?;
    let first = stage.batch_of(&requests[0]).await?.attempts[0].tx_hash;
    let raw: Bytes = stage.node().call("eth_getRawTransactionByHash", json!([first])).await?;

    let send = "eth_sendRawTransaction";
    if twist == Twist::Denied {
        // The direct endpoint sends, so the pool would replace: take the replacement out again below.
        stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getTransactionReceipt"));
        stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getBlockReceipts"));
    } else if twist != Twist::Forgotten {
        stage.proxy().add(Rule::always(Fault::DropBefore).on(send));
    }
    let base_fee = next_base_fee(stage.node()).await?;
    stage.mine_tight(base_fee * 15 / 10).await?;
    let attempts = stage.wait_attempts(&requests[0], 2).await?;
    let second = attempts[1].tx_hash;
    match twist {
        Twist::Withheld | Twist::Restarted => {
            until("the replacement to be sent", PATIENCE, async || {
                Ok(stage.proxy().injected().faults.contains_key("drop_before").then_some(()))
            })
            .await?;
        }
        Twist::Forgotten | Twist::Denied => {
            until("the replacement in the pool", PATIENCE, async || {
                let found: Value = stage.node().call("eth_getTransactionByHash", json!([second])).await?;
                Ok((!found.is_null()).then_some(()))
            })
            .await?;
            // It is sent through each endpoint, and the last copy may arrive late and replace the first attempt again.
            for _ in 0..25 {
                let found: Value = stage.node().call("eth_getTransactionByHash", json!([second])).await?;
                if !found.is_null() {
                    stage.node().drop_transaction(second).await?;
                    stage.node().send_raw(raw.clone()).await?;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    if twist == Twist::Restarted {
        stage.relayer.restart().await?;
    }
    stage.mine(1).await?;
    let receipt = stage.node().receipt(first).await?.expect("the first attempt is mined");
    assert_eq!(receipt.status, U64::from(1));
    if twist == Twist::Denied {
        // More blocks pass than finality needs: still nothing may be concluded.
        stage.mine(6).await?;
        let state = stage.client().request(requests[0].id).await?;
        assert!(!state.is_terminal(), "a minority's receipt decided: {state:?}");
    }
    stage.proxy().clear();
    if twist != Twist::Denied {
        for request in &requests {
            let state = stage.wait_status(request.id, "included").await?;
            assert_eq!(state.tx_hash, Some(first));
        }
    }
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    let batch = stage.batch_of(&requests[0]).await?;
    assert_eq!((batch.state.as_str(), batch.included_hash), ("finalized", Some(first)));
    assert_eq!(truth.relayed.transactions.len(), 1, "no other nonce was used");
    stage.close().await
}

#[tokio::test]
async fn the_first_attempt_is_mined_while_the_second_is_withheld() -> Result<()> {
    first_attempt_wins(Twist::Withheld).await
}

#[tokio::test]
async fn the_first_attempt_is_mined_after_a_restart() -> Result<()> {
    first_attempt_wins(Twist::Restarted).await
}

#[tokio::test]
async fn the_first_attempt_is_mined_after_the_node_forgot_the_second() -> Result<()> {
    first_attempt_wins(Twist::Forgotten).await
}

#[tokio::test]
async fn the_first_attempt_is_mined_and_most_endpoints_deny_it() -> Result<()> {
    first_attempt_wins(Twist::Denied).await
}
