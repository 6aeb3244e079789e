//! A lane without money waits, and reports it (scenario S9).

use std::time::Duration;

use alloy_primitives::U256;
use slackwater_benches::{Result, wallet::Crowd};

use crate::stage::{PATIENCE, Pace, Stage, until};

/// Less than anything costs, wei.
const CRUMBS: U256 = U256::from_limbs([1_000_000, 0, 0, 0]);
/// More than everything costs, wei: 10 000 ether.
const PLENTY: U256 = U256::from_limbs([1_864_712_049_423_024_128, 542, 0, 0]);

impl Stage {
    /// Takes the lane's money, and waits until the relayer has noticed.
    async fn impoverish(&self) -> Result<()> {
        self.node().set_balance(self.lane(), CRUMBS).await?;
        until("the relayer to see the balance", PATIENCE, async || {
            Ok((self.lane_state(0).await?["balanceWei"] == CRUMBS.to_string()).then_some(()))
        })
        .await
    }

    async fn wait_paused(&self, paused: Option<&str>) -> Result<()> {
        until(&format!("the lane to be paused for {paused:?}"), PATIENCE, async || {
            Ok((self.lane_state(0).await?["paused"].as_str() == paused).then_some(()))
        })
        .await
    }
}

#[tokio::test]
async fn pauses_and_resumes_by_itself() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = crowd.marks(10);
    stage.submit(&all).await?;
    stage.settle().await?;

    stage.impoverish().await?;
    let requests: Vec<_> = (0..50).map(|i| crowd.mark_within(i % 10, "5m")).collect();
    stage.submit(&requests).await?;
    all.extend(requests);
    stage.wait_paused(Some("underfunded")).await?;
    // The low balance is known before a batch runs into it.
    let alerts = until("an alert", PATIENCE, async || {
        let alerts = stage.metric("slackwater_lane_alerts_total", &["underfunded"]).await?;
        Ok((alerts >= 1.0).then_some(alerts))
    })
    .await?;
    let (nonce, next) = (stage.node().nonce(stage.lane()).await?, stage.lane_state(0).await?["nextNonce"].clone());
    let head = stage.node().block_number().await?;
    until("eight more blocks", PATIENCE, async || Ok((stage.node().block_number().await? >= head + 8).then_some(())))
        .await?;
    assert_eq!(stage.node().nonce(stage.lane()).await?, nonce);
    assert_eq!(stage.lane_state(0).await?["nextNonce"], next, "a nonce was burnt");
    assert_eq!(stage.client().counts().await?["queued"], 50);
    assert_eq!(stage.metric("slackwater_lane_alerts_total", &["underfunded"]).await?, alerts, "alerts repeat");
    // Not stuck: it still accepts.
    let more = crowd.mark_within(0, "5m");
    stage.submit(std::slice::from_ref(&more)).await?;
    all.push(more);

    stage.node().set_balance(stage.lane(), PLENTY).await?;
    stage.settle().await?;
    stage.wait_paused(None).await?;
    assert!(stage.metric("slackwater_lane_alerts_total", &["resumed"]).await? >= 1.0);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn money_that_leaves_while_transactions_are_in_flight() -> Result<()> {
    let stage = Stage::at(Pace::Manual).chain_key("max_batch", 5).chain_key("bump_after_blocks", 1).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<_> = (0..20).map(|i| crowd.mark_within(i, "5m")).collect();
    stage.submit(&requests).await?;
    stage.pooled(4).await?;
    // The node drops transactions that the account can't pay.
    stage.node().set_balance(stage.lane(), CRUMBS).await?;
    stage.node().drop_all_transactions().await?;
    for _ in 0..6 {
        stage.mine(1).await?;
    }
    stage.wait_paused(Some("underfunded")).await?;
    let batch = stage.client().request(requests[0].id).await?;
    let attempts = batch.attempts.len();
    for _ in 0..6 {
        stage.mine(1).await?;
    }
    let state = stage.client().request(requests[0].id).await?;
    assert_eq!(state.attempts.len(), attempts, "failed sends raised the price");
    assert_eq!(stage.node().nonce(stage.lane()).await?, 0);

    stage.node().set_balance(stage.lane(), PLENTY).await?;
    stage.settle_mining().await?;
    stage.wait_paused(None).await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(truth.relayed.transactions.len(), 4);
    stage.close().await
}

#[tokio::test]
async fn another_lane_goes_on() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    stage.impoverish().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let requests: Vec<_> = (0..100).map(|i| crowd.mark_within(i % 10, "60s")).collect();
    stage.submit(&requests).await?;
    stage.settle().await?;
    let summaries = stage.summaries().await?;
    assert!(summaries.values().all(|summary| summary.status == "finalized"), "one rich lane is enough");
    assert_eq!(stage.node().nonce(stage.lane()).await?, 0);
    stage.node().set_balance(stage.lane(), PLENTY).await?;
    stage.wait_paused(None).await?;
    stage.check(&requests).await?;
    tokio::time::timeout(Duration::from_secs(60), stage.close()).await.expect("an end in time")
}
