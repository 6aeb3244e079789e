//! Nodes that freeze, forget, lag, lie, refuse and cut connections.

use std::time::Duration;

use slackwater_benches::{
    Anvil, Proxy, Result,
    proxy::{CLIENTS, Fault, ReceiptLie, Rule, SEND_REFUSALS},
    wallet::Crowd,
};

use crate::stage::{PATIENCE, Pace, Stage, Via, seed, until};

const SEND: &str = "eth_sendRawTransaction";

#[tokio::test]
async fn frozen_for_fifteen_seconds() -> Result<()> {
    let stage = Stage::at(Pace::Second).lanes(2).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 50);
    let mut all: Vec<_> = (0..200).map(|i| crowd.mark_within(i % 50, "5m")).collect();
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    stage.anvil.pause()?;
    let frozen = tokio::time::Instant::now();
    // Requests are accepted all the while, although no nonce can be looked up.
    let more: Vec<_> = (0..200).map(|i| crowd.mark_within(i % 50, "5m")).collect();
    stage.submit(&more).await?;
    assert!(frozen.elapsed() < Duration::from_secs(10), "acceptance waits for the node");
    all.extend(more);
    tokio::time::sleep_until(frozen + Duration::from_secs(15)).await;
    stage.anvil.resume()?;
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn connections_cut_before_and_after_the_node_took_it() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(2).proxied().chain_key("max_batch", 10).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 50);
    let proxy = stage.proxy();
    // First every answer is lost, then some, then some of everything.
    proxy.add(Rule::always(Fault::DropAfter).on(SEND).times(20));
    proxy.add(Rule::always(Fault::DropAfter).on(SEND).chance_bps(4_000));
    proxy.add(Rule::always(Fault::DropBefore).on(SEND).chance_bps(2_000));
    proxy.add(Rule::always(Fault::DropAfter).chance_bps(500));
    let mut all = Vec::new();
    for _ in 0..4 {
        let requests: Vec<_> = (0..100).map(|i| crowd.mark_within(i % 50, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
    }
    let injected = proxy.injected();
    println!("{:?}", injected.faults);
    assert!(injected.faults["drop_after"] >= 20, "{:?}", injected.faults);
    proxy.clear();
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn restarted_from_its_state_without_its_pool() -> Result<()> {
    let mut stage = Stage::at(Pace::Second).lanes(2).chain_key("max_batch", 20).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 50);
    let mut all = Vec::new();
    for _ in 0..3 {
        let requests: Vec<_> = (0..150).map(|i| crowd.mark_within(i % 50, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.pooled(1).await?;
        stage.anvil.restart_from_state().await?;
    }
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn late_doubled_and_reordered_calls() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(2).proxied().chain_key("max_batch", 10).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 50);
    let late = Fault::Delay { min: Duration::ZERO, max: Duration::from_millis(600) };
    stage.proxy().add(Rule::always(late).chance_bps(5_000));
    stage.proxy().add(Rule::always(Fault::Duplicate).on(SEND).chance_bps(5_000));
    let requests: Vec<_> = (0..300).map(|i| crowd.mark_within(i % 50, "5m")).collect();
    stage.submit(&requests).await?;
    stage.settle().await?;
    stage.proxy().clear();
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    stage.close().await
}

#[tokio::test]
async fn every_clients_words() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).lanes(2).proxied().chain_key("max_batch", 5).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 40);
    let mut all = Vec::new();
    for client in CLIENTS {
        for class in SEND_REFUSALS {
            let refusal = Fault::Refuse { client: client.to_owned(), class };
            stage.proxy().add(Rule::always(refusal).on(SEND).chance_bps(1_200).times(2));
        }
        stage.proxy().add(Rule::always(Fault::HttpStatus(502)).on(SEND).chance_bps(1_200).times(2));
        let requests: Vec<_> = (0..80).map(|i| crowd.mark_within(i % 40, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        if let Err(error) = stage.settle().await {
            panic!("{client}: {error}");
        }
        stage.proxy().clear();
    }
    println!("{:?}", stage.proxy().injected().faults);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn heads_that_go_back_and_forth() -> Result<()> {
    // As behind a load balancer: every other answer comes from a lagging node.
    let stage = Stage::at(Pace::Quarter).lanes(2).proxied().chain_key("max_batch", 10).raise().await?;
    stage.proxy().add(Rule::always(Fault::StaleHead { blocks: 2 }).chance_bps(3_000));
    stage.proxy().add(Rule::always(Fault::StaleHead { blocks: 1 }).chance_bps(3_000));
    let mut crowd = Crowd::new(&stage.world, 50);
    let mut all = Vec::new();
    for _ in 0..3 {
        let requests: Vec<_> = (0..100).map(|i| crowd.mark_within(i % 50, "5m")).collect();
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
    }
    stage.proxy().clear();
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn receipts_that_are_not_there_for_a_while() -> Result<()> {
    // The transactions are mined and final, and the account's nonce confirms it, but the only node has no receipts:
    // that does not prove that somebody else used the nonce.
    let stage = Stage::at(Pace::Manual).proxied().raise().await?;
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getTransactionReceipt"));
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getBlockReceipts"));
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<_> = (0..40).map(|i| crowd.mark_within(i % 20, "5m")).collect();
    stage.submit(&requests).await?;
    stage.pooled(1).await?;
    let polls = || stage.proxy().injected().calls.get("eth_getTransactionReceipt").copied().unwrap_or(0);
    for _ in 0..8 {
        // A block that arrives while answers about the last one are processed is not asked about separately.
        let before = polls();
        until("the relayer to ask for receipts", PATIENCE, async || {
            stage.mine(1).await?;
            Ok((polls() > before).then_some(()))
        })
        .await?;
    }
    let nonce = stage.node().nonce(stage.lane()).await?;
    for request in &requests {
        let state = stage.client().request(request.id).await?;
        assert!(!state.is_terminal(), "concluded without a receipt: {} {:?}", state.status, state.reason);
    }
    stage.proxy().clear();
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(stage.node().nonce(stage.lane()).await?, nonce, "nothing was sent again");
    stage.close().await
}

#[tokio::test]
async fn one_of_three_nodes_lies() -> Result<()> {
    for lie in [ReceiptLie::Failed, ReceiptLie::Null, ReceiptLie::OtherBlock] {
        let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Proxy, Via::Node, Via::Node]).raise().await?;
        stage.proxy().add(Rule::always(Fault::Receipt(lie)).on("eth_getTransactionReceipt"));
        stage.proxy().add(Rule::always(Fault::StaleHead { blocks: 1 }).chance_bps(2_000));
        let mut crowd = Crowd::new(&stage.world, 20);
        let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i % 20, "5m")).collect();
        stage.submit(&requests).await?;
        stage.settle().await?;
        let truth = stage.check(&requests).await?;
        assert_eq!(truth.count("finalized", None), requests.len(), "{lie:?}");
        stage.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_endpoint_of_another_chain_wakes_up_late() -> Result<()> {
    // A copied line of configuration: the third endpoint belongs to another chain, and is down while we start.
    let other = Anvil::builder().arg("--chain-id").arg("31338").arg("--block-time").arg("0.25").spawn().await?;
    other.node().mine(500).await?;
    let wrong = Proxy::spawn(other.url(), seed()).await?;
    let down = wrong.add(Rule::always(Fault::DropBefore));
    let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Node, Via::Node]).also(wrong.url()).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut all = crowd.marks(20);
    stage.submit(&all).await?;
    stage.settle().await?;
    wrong.remove(down);
    let calls = wrong.injected().calls.values().sum::<u64>();
    until("the relayer to look at it again", PATIENCE, async || {
        Ok((wrong.injected().calls.values().sum::<u64>() > calls).then_some(()))
    })
    .await?;
    for _ in 0..5 {
        let requests = crowd.marks(20);
        stage.submit(&requests).await?;
        all.extend(requests);
        stage.settle().await?;
    }
    assert_eq!(wrong.injected().calls.get(SEND).copied().unwrap_or(0), 0, "sent to another chain");
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    wrong.add(Rule::always(Fault::DropBefore));
    stage.close().await
}
