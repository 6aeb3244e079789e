//! What nodes do not take: too dear, too large, for too small a tip. Everything gets in all the same, and no cancel is paid for.

use slackwater_benches::{
    Result,
    proxy::{NodeLimits, TipWords},
    wallet::{Crowd, SignedRequest},
};

use crate::stage::{Pace, Stage};

const GWEI: u128 = 1_000_000_000;

/// Cancels among the transactions that came to be sent: transfers to oneself have no data.
fn cancels(stage: &Stage) -> usize {
    stage.proxy().arrivals().iter().filter(|arrival| arrival.raw.len() < 200).count()
}

async fn all_land(stage: Stage, requests: &[SignedRequest]) -> Result<()> {
    stage.submit(requests).await?;
    stage.settle().await?;
    let truth = stage.check(requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert!(stage.proxy().injected().limits_refused > 0, "the limit was met");
    assert_eq!(cancels(&stage), 0);
    stage.close().await
}

#[tokio::test]
async fn batches_above_the_nodes_fee_cap_are_made_smaller() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
    // A transaction of a million gas at twice the base fee.
    let base_fee = stage.node().head().await?.base_fee_per_gas.to::<u128>().max(GWEI / 10);
    stage.proxy().limits(NodeLimits { max_fee_wei: Some(2 * 1_000_000 * base_fee), ..NodeLimits::default() });
    let mut crowd = Crowd::new(&stage.world, 60);
    let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i, "60s")).collect();
    all_land(stage, &requests).await
}

#[tokio::test]
async fn batches_above_the_gas_limit_that_nodes_take_are_made_smaller() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
    stage.proxy().limits(NodeLimits { max_gas: Some(1_500_000), ..NodeLimits::default() });
    let mut crowd = Crowd::new(&stage.world, 60);
    let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i, "60s")).collect();
    all_land(stage, &requests).await
}

#[tokio::test]
async fn a_block_gas_limit_bounds_a_batch_before_anybody_refuses_it() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
    stage.set_block_gas_limit(6_000_000).await?;
    stage.follow().await?;
    let mut crowd = Crowd::new(&stage.world, 80);
    let requests: Vec<_> = (0..80).map(|i| crowd.mark_within(i, "60s")).collect();
    stage.submit(&requests).await?;
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(cancels(&stage), 0);
    stage.close().await
}

#[tokio::test]
async fn a_least_tip_is_offered_however_nodes_ask_for_it() -> Result<()> {
    for tip_words in [TipWords::Geth, TipWords::Other, TipWords::Bare] {
        let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
        stage.proxy().limits(NodeLimits { min_tip_wei: Some(2 * GWEI), tip_words, ..NodeLimits::default() });
        let mut crowd = Crowd::new(&stage.world, 3);
        let requests: Vec<_> = (0..3).map(|i| crowd.mark_within(i, "40s")).collect();
        all_land(stage, &requests).await?;
    }
    Ok(())
}
