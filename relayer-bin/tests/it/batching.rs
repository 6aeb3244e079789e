//! Many requests share a transaction, and that pays.

use std::time::Instant;

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use slackwater_benches::{
    Result,
    node::TestTransaction,
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::forwarder::executeCall;

use crate::stage::{PATIENCE, Pace, Stage};

const USERS: usize = 50;
const REQUESTS: usize = 1_000;

/// So many requests that each leave a message, users taking turns.
fn messages(crowd: &mut Crowd, count: usize, what: &str) -> Vec<SignedRequest> {
    (0..count).map(|i| crowd.message(i % USERS, &format!("{what} {i}"))).collect()
}

/// Gas of each request in a transaction of its own, without us.
async fn one_by_one(stage: &Stage, requests: &[SignedRequest]) -> Result<u64> {
    let accounts = stage.node().accounts().await?;
    let mut hashes = Vec::new();
    for (request, from) in requests.iter().zip(accounts.iter().cycle()) {
        let transaction = TestTransaction {
            to: Some(stage.world.forwarder),
            data: executeCall { request: request.data() }.abi_encode().into(),
            gas: 400_000,
            ..TestTransaction::default()
        };
        hashes.push(stage.node().send(*from, &transaction).await?);
    }
    let mut gas = 0;
    for hash in hashes {
        let receipt = stage.node().wait_receipt(hash, PATIENCE).await?;
        assert_eq!(receipt.status.to::<u64>(), 1, "{hash}");
        gas += receipt.gas_used.to::<u64>();
    }
    Ok(gas.div_ceil(requests.len() as u64))
}

#[tokio::test]
async fn a_thousand_requests_of_fifty_users() -> Result<()> {
    let stage = Stage::at(Pace::Second).raise().await?;

    let mut alone = Crowd::named(&stage.world, "alone", USERS);
    one_by_one(&stage, &messages(&mut alone, USERS, "first")).await?;
    let gas_alone = one_by_one(&stage, &messages(&mut alone, USERS, "again")).await?;

    // Returning signers: everybody has been here once.
    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all = messages(&mut crowd, USERS, "first");
    stage.submit(&all).await?;
    stage.settle().await?;
    let from = stage.node().block_number().await? + 1;

    let requests = messages(&mut crowd, REQUESTS, "again");
    let started = Instant::now();
    stage.submit(&requests).await?;
    let accepted = started.elapsed();
    stage.settle().await?;
    let settled = started.elapsed();
    all.extend(requests);

    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    let mut relayed = truth.relayed;
    relayed.transactions.retain(|transaction| transaction.block >= from);
    assert_eq!(relayed.requests(), REQUESTS);
    let per_batch_x100 = relayed.requests_per_batch_x100();
    let gas = relayed.gas_per_request();
    println!(
        "{REQUESTS} requests of {USERS} users: accepted in {} ms, final in {} ms, {} transactions of {}.{:02} requests",
        accepted.as_millis(),
        settled.as_millis(),
        relayed.batches().count(),
        per_batch_x100 / 100,
        per_batch_x100 % 100,
    );
    println!("gas per request: {gas} in batches, {gas_alone} one by one: {} %", gas * 100 / gas_alone);
    assert!(per_batch_x100 >= 2_000, "{per_batch_x100} hundredths of a request per transaction");
    assert!(gas * 100 <= gas_alone * 45, "{gas} gas per request against {gas_alone} one by one");
    stage.close().await
}

#[tokio::test]
async fn a_user_who_also_goes_elsewhere() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    let mut ours = vec![crowd.mark(0)];
    stage.submit(&ours).await?;
    stage.settle().await?;

    // The same user's next request reaches the forwarder by another way; then the user comes back.
    let elsewhere = crowd.mark(0);
    one_by_one(&stage, &[elsewhere]).await?;
    let back = crowd.mark_within(0, "20s");
    stage.submit(std::slice::from_ref(&back)).await?;
    assert_eq!(back.forward.nonce, U256::from(2));
    let state = stage.ended(back.id).await?;
    assert_eq!((state.status.as_str(), state.reason), ("finalized", None));
    ours.push(back);
    stage.check(&ours).await?;
    stage.close().await
}
