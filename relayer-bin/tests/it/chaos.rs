//! Everything at once, at random: kills, reorganisations, fee jumps, a forgetful node, cut and late connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::B256;
use slackwater_benches::{
    Node, Result,
    proxy::{Fault, Rule},
    rng::Rng,
    wallet::Crowd,
};

use slackwater_contracts::guestbook::IGuestbook::markCall;
use tokio::{sync::Mutex, task::AbortHandle};

use crate::{
    calls::{TENANT, call, tag},
    stage::{PATIENCE, Pace, Stage, submit_all, until},
};

const USERS: usize = 30;
/// Duration of the run.
const TIME: Duration = Duration::from_secs(20);
/// Deep enough that no reorganisation here reaches a final block.
const FINALITY: &str = "finality = { kind = \"depth\", blocks = 6 }";
const SEND: &str = "eth_sendRawTransaction";

/// Mines blocks, but never while `chain` is locked: the node does not support a reorganisation in the middle of a
/// block.
struct Miner(AbortHandle);

impl Miner {
    fn start(node: Node, chain: Arc<Mutex<()>>) -> Self {
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _guard = chain.lock().await;
                // A frozen node mines later.
                let _ = node.mine(1).await;
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn everything_at_once() -> Result<()> {
    let mut stage = Stage::at(Pace::Manual)
        .lanes(2)
        .proxied()
        .spec(FINALITY)
        .extra(TENANT)
        .chain_key("max_batch", 10)
        .raise()
        .await?;
    let mut rng = Rng::new(stage.seed);
    let chain = Arc::new(Mutex::new(()));
    let _miner = Miner::start(stage.node().clone(), Arc::clone(&chain));
    // No reorganisation may reach the contracts.
    let start = stage.born + 4;
    until("some blocks", PATIENCE, async || Ok((stage.node().block_number().await? >= start).then_some(()))).await?;
    stage.proxy().add(Rule::always(Fault::DropAfter).on(SEND).chance_bps(1_000));
    stage.proxy().add(Rule::always(Fault::DropBefore).chance_bps(200));
    stage.proxy().add(Rule::always(Fault::Duplicate).on(SEND).chance_bps(1_000));
    stage.proxy().add(Rule::always(Fault::StaleHead { blocks: 1 }).chance_bps(500));
    let late = Fault::Delay { min: Duration::ZERO, max: Duration::from_millis(300) };
    stage.proxy().add(Rule::always(late).chance_bps(1_000));

    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all = Vec::new();
    let mut ids: Vec<B256> = Vec::new();
    let mut done = Vec::new();
    let started = Instant::now();
    while started.elapsed() < TIME {
        let requests: Vec<_> = (0..rng.between(1, 40))
            .map(|_| crowd.mark_within(usize::try_from(rng.below(USERS as u64)).expect("small"), "10m"))
            .collect();
        submit_all(stage.client(), &requests).await?;
        all.extend(requests);
        // No nonce on chain guards these against a second execution.
        for i in ids.len()..ids.len() + usize::try_from(rng.below(6)).expect("small") {
            let body = call(stage.world.guestbook, &markCall { tag: tag("chaos", i) }, i % 3 > 0);
            ids.push(stage.submit_call(&body, &format!("chaos {i}")).await?);
        }
        match rng.below(10) {
            0 => {
                stage.relayer.restart().await?;
                done.push("kill".to_owned());
            }
            1 | 2 => {
                let depth = rng.between(1, 3);
                let _guard = chain.lock().await;
                stage.node().reorg(depth).await?;
                done.push(format!("reorg {depth}"));
            }
            3 => {
                let base_fee = stage.node().head().await?.base_fee_per_gas.to::<u128>().max(1_000_000);
                let factor = u128::from(rng.between(2, 8));
                stage.node().set_next_base_fee(base_fee * factor).await?;
                done.push(format!("fee x{factor}"));
            }
            4 => {
                stage.node().drop_all_transactions().await?;
                done.push("pool lost".to_owned());
            }
            5 => {
                stage.anvil.pause()?;
                tokio::time::sleep(Duration::from_millis(rng.below(800))).await;
                stage.anvil.resume()?;
                done.push("freeze".to_owned());
            }
            _ => tokio::time::sleep(Duration::from_millis(rng.below(400))).await,
        }
    }
    println!("{} requests and {} calls through {}", all.len(), ids.len(), done.join(", "));
    stage.proxy().clear();
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    let others: Vec<_> = truth.summaries.values().filter(|summary| summary.status != "finalized").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(truth.count("finalized", None), all.len() + ids.len());
    for i in 0..ids.len() {
        assert_eq!(stage.marked(tag("chaos", i)).await?, 1, "call {i}");
    }
    let taken_back = stage.metric("slackwater_reorged_batches_total", &[]).await?;
    println!("{} transactions, {taken_back} batches taken back since the last start", truth.relayed.transactions.len());
    stage.close().await
}
