//! Slow nodes, and overloaded nodes.

use std::time::Duration;

use slackwater_benches::{
    Result,
    proxy::{Fault, Rule},
    wallet::Crowd,
};

use crate::stage::{PATIENCE, Pace, Stage, Via, until};

/// Longer than the relayer's timeout.
const STUCK: Fault = Fault::Delay { min: Duration::from_secs(60), max: Duration::from_secs(60) };

const SIMULATE: &str = "eth_simulateV1";

/// The node that is asked first no longer answers simulations: the other one is asked too, and nothing waits for a
/// timeout.
#[tokio::test]
async fn a_read_that_is_stuck_is_asked_of_the_next_node() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Proxy, Via::Slow]).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = crowd.marks(20);
    stage.submit(&all).await?;
    stage.settle().await?;
    stage.proxy().add(Rule::always(STUCK).on(SIMULATE));
    let stuck = || stage.proxy().injected().faults.get("delay").copied().unwrap_or(0);
    // The proxy is asked first again once its other answers have proved it fast.
    until("two simulations that are stuck", PATIENCE, async || {
        let requests: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
        Ok((stuck() >= 2).then_some(()))
    })
    .await?;
    let hedges = stage.metric("slackwater_rpc_hedges_total", &["rpc-1"]).await?;
    let won = stage.metric("slackwater_rpc_hedges_won_total", &["rpc-1"]).await?;
    assert!(won >= 2.0 && hedges >= won, "{won} of {hedges}");
    // Every stuck simulation was overtaken by a hedge: none had to time out, and none counts as a failure.
    let failures = stage.metric("slackwater_rpc_failures_total", &["rpc-0", "timeout"]).await?;
    assert_eq!(failures, 0.0);
    // Ten at once, and a tenth of the reads.
    let calls: u64 = stage.proxy().injected().calls.values().sum();
    let hedges = stage.metric("slackwater_rpc_hedges_total", &[]).await?;
    assert!(hedges <= 10.0 + calls as f64 * 0.2, "{hedges} hedges, some {calls} calls per node");
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// Without a hedge budget nothing is asked twice: then the timeout decides.
#[tokio::test]
async fn without_a_budget_nobody_is_asked_twice() -> Result<()> {
    let stage = Stage::at(Pace::Quarter)
        .endpoints(&[Via::Proxy, Via::Slow])
        .chain_key("hedge_budget_percent", 0)
        .chain_key("rpc_timeout_ms", 1_000)
        .raise()
        .await?;
    stage.proxy().add(Rule::always(STUCK).on(SIMULATE));
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = Vec::new();
    until("a simulation that times out", PATIENCE, async || {
        let requests: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
        let timeouts = stage.metric("slackwater_rpc_failures_total", &["rpc-0", "timeout"]).await?;
        Ok((timeouts >= 1.0).then_some(()))
    })
    .await?;
    assert_eq!(stage.metric("slackwater_rpc_hedges_total", &[]).await?, 0.0);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// One of three providers reports that its quota is used up: it is backed off, longer and longer, and the others carry
/// on.
#[tokio::test]
async fn a_node_that_is_asked_too_often_is_left_alone() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Proxy, Via::Node, Via::Node]).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = crowd.marks(20);
    stage.submit(&all).await?;
    stage.settle().await?;
    let asked = || stage.proxy().injected().calls.get("eth_feeHistory").copied().unwrap_or(0);
    let quota = stage.proxy().add(Rule::always(Fault::HttpStatus(429)));
    let (before, head) = (asked(), stage.node().block_number().await?);
    until("forty blocks", PATIENCE, async || {
        let requests: Vec<_> = (0..10).map(|i| crowd.mark_within(i, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
        Ok((stage.node().block_number().await? >= head + 40).then_some(()))
    })
    .await?;
    // Each node is asked for its fee history at least once per block: 40 blocks without back-off would be 40 calls.
    assert!(asked() - before <= 10, "asked {} times in 40 blocks", asked() - before);
    let pauses = stage.metric("slackwater_rpc_pauses_total", &["rpc-0"]).await?;
    assert!(pauses >= 2.0, "{pauses}");
    // Once it has quota again it is asked again.
    stage.proxy().remove(quota);
    let before = asked();
    until("it to be asked again", PATIENCE, async || Ok((asked() > before + 2).then_some(()))).await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The node that is asked first is stuck at a head, and answers as fast as ever: the others' heads are followed.
#[tokio::test]
async fn a_fast_node_that_stands_still_holds_up_nothing() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Proxy, Via::Slow, Via::Slow]).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 4);
    let mut all = crowd.marks(4);
    stage.submit(&all).await?;
    stage.settle().await?;
    let block = stage.node().block_number().await?;
    stage.proxy().add(Rule::always(Fault::FrozenAt { block }));
    let requests: Vec<_> = (0..8).map(|user| crowd.mark_within(user % 4, "20s")).collect();
    stage.submit(&requests).await?;
    all.extend(requests);
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    until("the node to be known to stand still", PATIENCE, async || {
        let chains: serde_json::Value = stage.client().chains().await?;
        Ok((chains["chains"][0]["endpoints"][0]["place"] == "frozen").then_some(()))
    })
    .await?;
    assert!(stage.metric("slackwater_rpc_heads_astray_total", &["rpc-0"]).await? >= 1.0);
    stage.close().await
}

/// The only node is stuck at a head: nothing is promised by old prices, and that ends when it moves again.
#[tokio::test]
async fn nothing_is_accepted_while_the_chain_can_not_be_followed() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).proxied().chain_key("max_head_age_ms", 3_000).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    let block = stage.node().block_number().await?;
    let frozen = stage.proxy().add(Rule::always(Fault::FrozenAt { block }));
    let mut all = Vec::new();
    until("a refusal", PATIENCE, async || {
        let request = crowd.mark_within(0, "5m");
        let answer = stage.client().submit(&request.body).await?;
        match answer.refused_with() {
            Some(code) => {
                assert_eq!(code, "chain_unavailable");
                Ok(Some(()))
            }
            None => {
                all.push(request);
                Ok(None)
            }
        }
    })
    .await?;
    stage.proxy().remove(frozen);
    // The refused request's nonce is still unused.
    crowd.users[0].next_nonce -= 1;
    until("acceptance", PATIENCE, async || {
        let mut next = crowd.clone();
        let request = next.mark_within(0, "5m");
        let is_accepted = stage.client().submit(&request.body).await?.refused_with().is_none();
        if is_accepted {
            all.push(request);
        }
        Ok(is_accepted.then_some(()))
    })
    .await?;
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}
