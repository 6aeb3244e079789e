//! Anvil, contracts, wallets and counting.

use std::time::Duration;

use alloy_sol_types::SolCall;
use slackwater_benches::{
    Anvil, Result, World,
    count::{Relayed, entries, executions, nonces},
    node::TestTransaction,
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::forwarder::executeBatchCall;

const SOON: Duration = Duration::from_secs(20);

fn batch(world: &World, requests: &[SignedRequest]) -> TestTransaction {
    let data = executeBatchCall {
        requests: requests.iter().map(SignedRequest::data).collect(),
        refundReceiver: world.relayers[0].address,
    };
    let gas = 100_000 + requests.len() as u64 * 200_000;
    TestTransaction { to: Some(world.forwarder), data: data.abi_encode().into(), gas, ..TestTransaction::default() }
}

#[tokio::test]
async fn counts_what_was_executed() -> Result<()> {
    let anvil = Anvil::builder().spawn().await?;
    let node = anvil.node();
    let world = World::deploy(node, 1).await?;
    let sender = world.relayers[0].address;
    node.impersonate(sender).await?;
    let mut crowd = Crowd::new(&world, 3);
    let requests = crowd.marks(9);
    let from = node.block_number().await?;
    for part in requests[..8].chunks(4) {
        let hash = node.send(sender, &batch(&world, part)).await?;
        assert_eq!(node.wait_receipt(hash, SOON).await?.status.to::<u64>(), 1);
    }

    let counted = executions(node, &world, &requests).await?;
    assert_eq!((counted.once, counted.never.as_slice()), (8, &[requests[8].id][..]));
    assert!(!counted.is_exactly_once());
    let users: Vec<_> = crowd.users.iter().map(|user| user.account.address).collect();
    assert_eq!(nonces(node, &world, &users).await?, [3, 3, 2]);

    let head = node.block_number().await?;
    let relayed = Relayed::scan(node, &world, &[sender], from, head).await?;
    assert_eq!((relayed.batches().count(), relayed.requests(), relayed.requests_per_batch_x100()), (2, 8, 400));
    assert!(relayed.out_of_order().is_empty() && relayed.nonce_gaps().is_empty());
    let tags: Vec<_> = relayed.transactions.iter().flat_map(|transaction| &transaction.tags).collect();
    assert_eq!(tags, requests[..8].iter().map(|request| &request.tag).collect::<Vec<_>>());
    assert!((20_000..110_000).contains(&relayed.gas_per_request()), "{}", relayed.gas_per_request());
    let entries = entries(node, &world, from, head).await?;
    assert_eq!(entries.len(), 8);
    assert_eq!(entries[3], (users[0], 2, requests[3].tag));
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_the_chain() -> Result<()> {
    let mut anvil = Anvil::builder().block_time(1).spawn().await?;
    let world = World::deploy(anvil.node(), 1).await?;
    let sender = world.relayers[0].address;
    anvil.node().impersonate(sender).await?;
    let requests = Crowd::new(&world, 2).marks(4);
    let hash = anvil.node().send(sender, &batch(&world, &requests)).await?;
    let receipt = anvil.node().wait_receipt(hash, SOON).await?;

    let url = anvil.url().to_owned();
    anvil.restart_from_state().await?;
    assert_eq!(anvil.url(), url);
    assert_eq!(anvil.node().nonce(sender).await?, 1);
    assert!(anvil.node().block_number().await? >= receipt.block_number.to::<u64>());
    assert!(executions(anvil.node(), &world, &requests).await?.is_exactly_once());
    let again = anvil.node().receipt(hash).await?.map(|receipt| receipt.block_hash);
    assert_eq!(again, Some(receipt.block_hash));

    anvil.pause()?;
    let impatient = anvil.node().with_timeout(Duration::from_millis(200));
    // A signal takes effect with a delay in a process that runs on another core: the node may still answer once.
    let mut answers = 0;
    while impatient.block_number().await.is_ok() {
        answers += 1;
        assert!(answers < 50, "a paused node goes on answering");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(impatient.block_number().await.is_err());
    anvil.resume()?;
    anvil.node().block_number().await?;
    Ok(())
}
