//! Transactions that nodes refuse: fee too high, too large, tip too low. Everything is included nevertheless, and no
//! cancel is paid for.

use std::time::Duration;

use alloy_primitives::U256;
use slackwater_benches::{
    Result,
    client::Submitted,
    proxy::{Fault, NodeLimits, Rule, TipWords},
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_core::chain::RpcErrorClass;
use slackwater_relayer::http::auth::KeyHash;

use crate::stage::{PATIENCE, Pace, Stage, submit_all, until};

const GWEI: u128 = 1_000_000_000;

/// Number of cancels among the transactions sent: transfers to oneself have no data.
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

/// A request that nodes refuse permanently ends alone, and the next one gets its nonce.
#[tokio::test]
async fn what_is_refused_for_good_stops_nobody() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
    let refusal = Fault::Refuse { client: "geth".to_owned(), class: RpcErrorClass::GasTooHigh };
    let rule = stage.proxy().add(Rule::always(refusal).on("eth_sendRawTransaction"));
    let mut crowd = Crowd::new(&stage.world, 2);
    let refused = crowd.mark(0);
    stage.submit(std::slice::from_ref(&refused)).await?;
    let state = stage.ended(refused.id).await?;
    assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("refused_by_nodes")));
    stage.proxy().remove(rule);
    let next = crowd.mark(1);
    stage.submit(std::slice::from_ref(&next)).await?;
    assert_eq!(stage.ended(next.id).await?.status, "finalized");
    assert_eq!(stage.node().nonce(stage.lane()).await?, 1, "no cancel was paid for");
    stage.close().await
}

/// A request too large for any transaction is refused at submission, and the answer names the key.
#[tokio::test]
async fn a_request_that_needs_too_much_of_a_block_is_refused_with_the_keys_name() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).chain_key("max_block_share_percent", 60).raise().await?;
    stage.set_block_gas_limit(2_000_000).await?;
    // One odd block does not set the limit. The count is of heads that the relayer has reported: it may skip some.
    let mut last = stage.head().await?;
    for _ in 0..10 {
        last =
            until("another head", PATIENCE, async || Ok(Some(stage.head().await?).filter(|head| *head > last))).await?;
    }
    let mut crowd = Crowd::new(&stage.world, 1);
    let mark = crowd.mark(0);
    let ask = |gas: u64| Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas,
        data: mark.data().data,
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    let large = crowd.sign(0, &ask(1_200_000));
    let Submitted::Refused(problem) = stage.client().submit(&large.body).await? else { panic!("it is too large") };
    assert_eq!((problem.status, &*problem.code), (422, "gas_out_of_range"));
    assert!(
        problem.detail.contains("1200000") && problem.detail.contains("`chain.max_block_share_percent`"),
        "{problem:?}"
    );
    stage.submit(std::slice::from_ref(&mark)).await?;
    stage.ended(mark.id).await?;
    stage.close().await
}

/// Many requests that fail in simulation cause no more simulations per head than configured, and another tenant has its
/// turn.
#[tokio::test]
async fn simulations_at_a_head_are_shared() -> Result<()> {
    const MOST: u64 = 3;
    const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
    const MALLORY: &str = "sw_mallory_9vTz4KeRYb5Lnc";
    const BOSS: &str = "sw_boss_7pNq2XsGJd8Wmf";
    let tenant = |id: &str, key: &str, more: &str| {
        format!("[[tenant]]\nid = \"{id}\"\napi_keys = [\"{}\"]\nopen = true\n{more}\n", KeyHash::of(key))
    };
    let tenants = [tenant("shop", SHOP, ""), tenant("mallory", MALLORY, ""), tenant("boss", BOSS, "operator = true")];
    let stage = Stage::at(Pace::Manual)
        .proxied()
        .chain_key("simulations_per_head", MOST)
        .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
        .extra(&tenants.concat())
        .api_key(BOSS)
        .raise()
        .await?;
    let (shop, mallory) = (stage.client().clone().with_key(SHOP), stage.client().clone().with_key(MALLORY));
    let (mut users, mut others) = (Crowd::named(&stage.world, "shop", 1), Crowd::named(&stage.world, "mallory", 12));
    let simulated = || stage.proxy().injected().calls.get("eth_simulateV1").copied().unwrap_or_default();
    // No policy names the target, so each travels alone; the function does not exist.
    let ask = Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas: 100_000,
        data: vec![0xde, 0xad, 0xbe, 0xef].into(),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    let bad: Vec<_> = (0..12).map(|user| others.sign(user, &ask)).collect();
    let before = simulated();
    submit_all(&mallory, &bad).await?;
    until("the head's simulations", PATIENCE, async || Ok((simulated() >= before + MOST).then_some(()))).await?;
    let good = users.mark(0);
    submit_all(&shop, std::slice::from_ref(&good)).await?;
    let mut blocks = 0;
    let mut last = simulated();
    assert!(last - before <= MOST);
    while !shop.request(good.id).await?.is_terminal() {
        assert!(blocks < 20, "it has its turn");
        stage.mine(1).await?;
        // Time for more simulations, if there were no limit.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let now = simulated();
        assert!(now - last <= MOST, "{} at one head", now - last);
        (last, blocks) = (now, blocks + 1);
    }
    let state = shop.request(good.id).await?;
    assert_eq!(state.status, "finalized");
    let waited = state.block_number.expect("a block") - stage.born;
    println!("in block {waited} of the relayer's, with {} more simulations", last - before);
    assert!(stage.metric("slackwater_simulations_put_off_total", &[]).await? > 0.0);
    stage.settle_mining().await?;
    for request in &bad {
        let state = mallory.request(request.id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("simulation_reverted")));
    }
    stage.close().await
}

/// The receipts of many transactions that become final at once are requested a few at a time, so that a node's quota
/// holds.
#[tokio::test]
async fn where_many_become_final_at_once_receipts_are_asked_for_a_few_at_a_time() -> Result<()> {
    const MANY: usize = 24;
    let stage = Stage::at(Pace::Manual)
        .proxied()
        .chain_key("max_batch", 1)
        .chain_key("max_in_flight", MANY)
        .chain_key("max_receipt_polls", 3)
        .raise()
        .await?;
    let mut crowd = Crowd::new(&stage.world, MANY);
    let requests: Vec<_> = (0..MANY).map(|i| crowd.mark_within(i, "60s")).collect();
    stage.submit(&requests).await?;
    stage.pooled(MANY as u64).await?;
    stage.mine(1).await?;
    for request in &requests {
        stage.wait_status(request.id, "included").await?;
    }
    let delay = Fault::Delay { min: Duration::from_millis(100), max: Duration::from_millis(100) };
    stage.proxy().add(Rule::always(delay).on("eth_getTransactionReceipt"));
    let asked = || stage.proxy().injected().calls["eth_getTransactionReceipt"];
    let before = asked();
    stage.settle_mining().await?;
    assert!(asked() - before >= MANY as u64, "each is asked for again before it is final");
    assert_eq!(stage.proxy().injected().most_at_once["eth_getTransactionReceipt"], 3);
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    stage.close().await
}
