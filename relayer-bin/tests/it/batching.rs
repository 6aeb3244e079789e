//! Many requests share a transaction, which saves gas.

use std::time::Instant;

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use slackwater_benches::{
    Result, World,
    node::TestTransaction,
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::{
    forwarder::executeCall,
    guestbook::IGuestbook::{incrementCall, totalCall},
};

use crate::stage::{PATIENCE, Pace, Stage};

const USERS: usize = 50;
const REQUESTS: usize = 1_000;

/// `count` requests that each add one to their user's counter, users taking turns.
fn increments(crowd: &mut Crowd, world: &World, count: usize) -> Vec<SignedRequest> {
    let ask = Ask {
        to: world.guestbook,
        value: U256::ZERO,
        gas: 80_000,
        data: incrementCall {}.abi_encode().into(),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    (0..count).map(|i| crowd.sign(i % USERS, &ask)).collect()
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
    one_by_one(&stage, &increments(&mut alone, &stage.world, USERS)).await?;
    let gas_alone = one_by_one(&stage, &increments(&mut alone, &stage.world, USERS)).await?;

    // Returning signers: each has executed a request before.
    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all = increments(&mut crowd, &stage.world, USERS);
    stage.submit(&all).await?;
    stage.settle().await?;
    let from = stage.node().block_number().await? + 1;

    let requests = increments(&mut crowd, &stage.world, REQUESTS);
    let started = Instant::now();
    stage.submit(&requests).await?;
    let accepted = started.elapsed();
    stage.settle().await?;
    let settled = started.elapsed();
    all.extend(requests);

    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    let total = stage.node().read(stage.world.guestbook, totalCall {}.abi_encode()).await?;
    assert_eq!(U256::from_be_slice(&total), U256::from(all.len() + 2 * USERS), "entries in the book");
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
    stage.submit(&[crowd.mark(0)]).await?;
    stage.settle().await?;

    // The same user's next request reaches the forwarder without the relayer; then the user submits here again.
    let elsewhere = crowd.mark(0);
    one_by_one(&stage, &[elsewhere]).await?;
    let back = crowd.mark_within(0, "20s");
    stage.submit(std::slice::from_ref(&back)).await?;
    assert_eq!(back.forward.nonce, U256::from(2));
    let state = stage.ended(back.id).await?;
    assert_eq!((state.status.as_str(), state.reason), ("finalized", None));
    stage.close().await
}
