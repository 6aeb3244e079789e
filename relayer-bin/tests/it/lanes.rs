//! A lane's nonces when others use its key, and when its ledger is lost (scenario S4).

use std::fs;

use alloy_primitives::{Address, B256, U64, U256};
use serde_json::json;
use slackwater_benches::{Result, count, node::TestTransaction, wallet::Crowd};

use crate::stage::{Pace, Stage};

impl Stage {
    /// Somebody else sends from the lane's account, and wins. The node must impersonate the account already: it does
    /// not have the key.
    async fn use_key(&self, nonce: u64) -> Result<B256> {
        self.use_key_for(nonce, self.lane(), 0).await
    }

    /// As [`Self::use_key`], transferring money too.
    async fn use_key_for(&self, nonce: u64, to: Address, value: u64) -> Result<B256> {
        let gwei = 10_u64.pow(9);
        let transaction = json!({
            "from": self.lane(), "to": to, "gas": U64::from(21_000), "nonce": U64::from(nonce), "value": U64::from(value),
            "maxFeePerGas": U64::from(1_000 * gwei), "maxPriorityFeePerGas": U64::from(500 * gwei),
        });
        self.node().call("eth_sendTransaction", json!([transaction])).await
    }
}

#[tokio::test]
async fn somebody_else_uses_the_key() -> Result<()> {
    let stage = Stage::at(Pace::Manual).chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<_> = (0..20).map(|i| crowd.mark_within(i, "5m")).collect();
    stage.submit(&requests).await?;
    stage.pooled(4).await?;
    stage.node().impersonate(stage.lane()).await?;
    // The first of our four loses its nonce.
    let foreign = stage.use_key(0).await?;
    stage.mine(1).await?;
    assert!(stage.node().receipt(foreign).await?.is_some());
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    let back = truth
        .story
        .iter()
        .filter(|event| event.reason.as_ref().is_some_and(|reason| *reason == "lane_nonce_taken"))
        .count();
    assert_eq!(back, 5, "the members of the lost batch were sent again, and only they");
    assert_eq!(stage.node().nonce(stage.lane()).await?, 5);

    // While the relayer is idle, three at once.
    for nonce in 5..8 {
        stage.use_key(nonce).await?;
    }
    stage.mine(1).await?;
    stage.mine(3).await?;
    let more = crowd.marks(5);
    stage.submit(&more).await?;
    stage.settle_mining().await?;
    assert!(stage.metric("slackwater_lane_alerts_total", &["foreign_nonce"]).await? >= 1.0);
    let all: Vec<_> = requests.into_iter().chain(more).collect();
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The cost of somebody else's transactions with the lane's nonces is in the accounts, to the wei, and charged to
/// nobody.
#[tokio::test]
async fn what_a_stranger_took_is_on_the_books() -> Result<()> {
    let stage = Stage::at(Pace::Manual).chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let requests: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
    stage.submit(&requests).await?;
    stage.pooled(2).await?;
    stage.node().impersonate(stage.lane()).await?;
    let value = 123_456_789_012_345_678;
    let paid = stage.use_key_for(0, Address::repeat_byte(0xee), value).await?;
    let to_itself = stage.use_key_for(1, stage.lane(), value).await?;
    stage.mine(1).await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    let mut taken = U256::from(value);
    for hash in [paid, to_itself] {
        taken += stage.node().receipt(hash).await?.expect("it is in a block").cost_wei();
    }
    let (spent, borne) = stage.spent_and_borne().await?;
    assert_eq!(borne, taken, "what the strangers took is the operator's");
    assert_eq!(stage.costs(&requests).await? + borne, spent);
    assert!(stage.metric("slackwater_account_gwei_total", &["foreign"]).await? >= 123_456_789.0);
    assert_eq!(stage.metric("slackwater_foreign_unbooked_total", &[]).await?, 0.0);
    stage.close().await
}

#[tokio::test]
async fn the_key_was_used_while_we_were_away() -> Result<()> {
    let mut stage = Stage::at(Pace::Manual).chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let requests: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
    stage.submit(&requests).await?;
    stage.pooled(2).await?;
    stage.relayer.kill();
    stage.node().drop_all_transactions().await?;
    stage.node().impersonate(stage.lane()).await?;
    for nonce in 0..3 {
        stage.use_key(nonce).await?;
    }
    stage.node().mine(1).await?;
    stage.relayer.start().await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(stage.node().nonce(stage.lane()).await?, 5);
    stage.close().await
}

#[tokio::test]
async fn the_database_is_lost_with_transactions_in_the_pool() -> Result<()> {
    let mut stage = Stage::at(Pace::Manual).chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = crowd.marks(10);
    stage.submit(&all).await?;
    stage.settle_mining().await?;
    let more: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
    stage.submit(&more).await?;
    stage.pooled(2).await?;
    stage.relayer.kill();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", stage.relayer.database().display());
        if fs::exists(&path).expect("a path") {
            fs::remove_file(&path).expect("our own file");
        }
    }
    // The callers still have their requests, and submit them again; the old transactions are still in the pool.
    stage.relayer.start().await?;
    stage.submit(&more).await?;
    stage.settle_mining().await?;
    // With the new ledger the relayer never saw the first ten.
    stage.check(&more).await?;
    all.extend(more);
    let counted = count::executions(stage.node(), &stage.world, &all).await?;
    assert!(counted.is_exactly_once(), "{counted:?}");
    let last = crowd.marks(5);
    stage.submit(&last).await?;
    stage.settle_mining().await?;
    for request in &last {
        assert_eq!(stage.client().request(request.id).await?.status, "finalized", "the lane goes on");
    }
    stage.close().await
}

/// Third-party transactions between ours change nothing.
#[tokio::test]
async fn a_busy_chain() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(3).chain_key("max_batch", 10).raise().await?;
    let accounts = stage.node().accounts().await?;
    let mut crowd = Crowd::new(&stage.world, 30);
    let mut all = Vec::new();
    for round in 0..5 {
        let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i % 30, "60s")).collect();
        for (to, from) in accounts.iter().zip(accounts.iter().cycle().skip(round + 1)) {
            let transfer = TestTransaction { to: Some(*to), gas: 21_000, ..TestTransaction::default() };
            stage.node().send(*from, &transfer).await?;
        }
        stage.submit(&requests).await?;
        all.extend(requests);
    }
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}
