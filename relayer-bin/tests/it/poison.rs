//! One bad request harms only itself (scenario S8).

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::{
    forwarder::executeCall,
    nasty::INasty::{
        armCall, burnCall, ifArmedBurnCall, ifArmedRevertCall, marksCall, reenterCall, requireMsgSenderCall,
        requireSenderCall, returnBombCall, revertAlwaysCall, setTrustCall,
    },
};

use crate::stage::{PATIENCE, Pace, Stage, until};

/// Gas for the calls here.
const GAS: u64 = 150_000;

/// `isTrustedForwarder` of the target answers truthfully.
const HONEST: u8 = 0;
/// `isTrustedForwarder` of the target burns all the gas there is.
const BURN: u8 = 2;

/// A call of the nasty target.
fn ask(stage: &Stage, call: &impl SolCall) -> Ask {
    Ask {
        to: stage.world.nasty,
        value: U256::ZERO,
        gas: GAS,
        data: call.abi_encode().into(),
        deadline_s: unix_seconds() + 3_600,
        within: Some("60s".to_owned()),
        max_cost_wei: None,
    }
}

fn tag(text: &str) -> B256 {
    keccak256(text)
}

impl Stage {
    /// Sends a third-party transaction that comes first in the next block.
    pub(crate) async fn overtake(&self, to: Address, call: &impl SolCall) -> Result<B256> {
        let from = self.node().accounts().await?[0];
        let gwei = 10_u64.pow(9);
        let transaction = json!({
            "from": from, "to": to, "data": Bytes::from(call.abi_encode()), "gas": U64::from(1_000_000),
            "maxFeePerGas": U64::from(1_000 * gwei), "maxPriorityFeePerGas": U64::from(500 * gwei),
        });
        self.node().call("eth_sendTransaction", json!([transaction])).await
    }

    async fn nasty_marks(&self, tag: B256) -> Result<U256> {
        let answer = self.node().read(self.world.nasty, marksCall { tag }.abi_encode()).await?;
        Ok(U256::from_be_slice(&answer))
    }

    /// Checks the end of a request.
    async fn expect(&self, request: &SignedRequest, status: &str, reason: Option<&str>, what: &str) -> Result<()> {
        let state = self.client().request(request.id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), (status, reason), "{what}");
        Ok(())
    }
}

#[tokio::test]
async fn found_by_simulation() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\ngap_timeout_ms = 6000\n";
    let stage = Stage::at(Pace::Quarter).extra(tenant).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 12);
    let user = |crowd: &Crowd, i: usize| crowd.users[i].account.address;
    let mut good = crowd.marks(10);

    let reverting = crowd.sign(2, &ask(&stage, &revertAlwaysCall { reason: "no".to_owned() }));
    let behind_reverting = crowd.mark(2);
    let burning = crowd.sign(3, &ask(&stage, &burnCall {}));
    let bomb = crowd.sign(4, &ask(&stage, &returnBombCall { size: U256::from(20_000) }));
    // A user's second nonce without the first.
    crowd.users[10].next_nonce = 1;
    let disordered = crowd.mark_within(10, "4s");
    // Good requests among them: the target sees the user behind the forwarder, and the forwarder as its caller.
    let expected = user(&crowd, 5);
    good.push(crowd.sign(5, &ask(&stage, &requireSenderCall { expected })));
    good.push(crowd.sign(6, &ask(&stage, &requireMsgSenderCall { expected: stage.world.forwarder })));
    // A request that executes another user's request from within, which is also submitted itself.
    let inner = crowd.mark(8);
    let data = executeCall { request: inner.data() }.abi_encode().into();
    let outer = Ask { gas: 400_000, ..ask(&stage, &reenterCall { forwarder: stage.world.forwarder, data }) };
    let outer = crowd.sign(7, &outer);
    let bad = [
        (&reverting, "rejected", Some("simulation_reverted")),
        (&behind_reverting, "rejected", Some("predecessor_failed")),
        (&burning, "rejected", Some("simulation_reverted")),
        (&bomb, "rejected", Some("simulation_reverted")),
        (&disordered, "expired", Some("deadline_passed")),
    ];

    let mut all = good.clone();
    all.extend([outer.clone(), inner.clone()]);
    all.extend(bad.iter().map(|(request, ..)| (*request).clone()));
    stage.submit(&all).await?;
    stage.settle().await?;
    for (request, status, reason) in bad {
        stage.expect(request, status, reason, "a bad one").await?;
    }
    for request in &good {
        stage.expect(request, "finalized", None, "a good one").await?;
    }
    stage.expect(&outer, "finalized", None, "the one that calls back").await?;
    stage.expect(&inner, "finalized", None, "the one that is executed from within").await?;
    let truth = stage.check(&all).await?;
    assert!(truth.relayed.transactions.iter().all(|transaction| transaction.is_success));
    assert_eq!(truth.count("reverted", None), 0, "nothing was sent that simulation had found");
    stage.close().await
}

#[tokio::test]
async fn between_simulation_and_inclusion() -> Result<()> {
    let stage = Stage::at(Pace::Manual).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let mut good: Vec<_> = (0..8).map(|i| crowd.mark(i)).collect();
    let reverting = crowd.sign(0, &ask(&stage, &ifArmedRevertCall { tag: tag("reverts") }));
    let burning = crowd.sign(1, &ask(&stage, &ifArmedBurnCall { tag: tag("burns") }));
    // The failed ones consume their nonces: requests after them execute.
    good.extend([crowd.mark(0), crowd.mark(1)]);
    let overtaken = crowd.mark(8);
    let short =
        Ask { deadline_s: unix_seconds() + 5, within: None, ..ask(&stage, &ifArmedRevertCall { tag: tag("late") }) };
    let late = crowd.sign(9, &short);
    let mut all = good.clone();
    all.extend([reverting.clone(), burning.clone(), overtaken.clone(), late.clone()]);
    stage.submit(&all).await?;
    // A request with such a short deadline travels alone.
    stage.pooled(2).await?;
    let batch = stage.client().request(all[0].id).await?.batch;
    for request in all.iter().filter(|request| request.id != late.id) {
        assert_eq!(stage.client().request(request.id).await?.batch, batch, "all in one transaction");
    }
    assert_ne!(stage.client().request(late.id).await?.batch, batch);

    // Simulated and sent. Now the state changes before the block is made.
    stage.overtake(stage.world.nasty, &armCall { on: true }).await?;
    let front_run = stage.overtake(stage.world.forwarder, &executeCall { request: overtaken.data() }).await?;
    until("the deadline to pass", PATIENCE, async || Ok((unix_seconds() > short.deadline_s).then_some(()))).await?;
    stage.mine(1).await?;
    assert_eq!(stage.node().head().await?.transactions.len(), 4);
    assert_eq!(stage.node().receipt(front_run).await?.expect("mined").status, U64::from(1));
    stage.settle_mining().await?;

    stage.expect(&reverting, "reverted", Some("target_reverted"), "reverts").await?;
    stage.expect(&burning, "reverted", Some("target_reverted"), "burns its gas").await?;
    stage.expect(&overtaken, "rejected", Some("nonce_used_elsewhere"), "front-run").await?;
    stage.expect(&late, "expired", Some("deadline_passed"), "expired").await?;
    for request in &good {
        stage.expect(request, "finalized", None, "a good one").await?;
    }
    let burnt = stage.summaries().await?[&burning.id].gas_used.expect("it was paid for");
    let truth = stage.check(&all).await?;
    println!("the one that burnt its gas pays for {burnt}");
    assert_eq!(truth.relayed.transactions.len(), 2, "the others landed once, and the late one was skipped");
    assert!(truth.relayed.transactions.iter().all(|transaction| transaction.is_success));
    stage.close().await
}

#[tokio::test]
async fn a_target_that_burns_the_whole_batch() -> Result<()> {
    let stage = Stage::at(Pace::Manual).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 20);
    let good = crowd.marks(20);
    let bad: Vec<SignedRequest> =
        (0..2).map(|i| crowd.sign(i, &ask(&stage, &ifArmedRevertCall { tag: tag(&format!("trust {i}")) }))).collect();
    let mut all = good.clone();
    all.extend(bad.clone());
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    stage.overtake(stage.world.nasty, &setTrustCall { mode: BURN }).await?;
    stage.mine(1).await?;
    let block = stage.node().head().await?;
    let receipt = stage.node().receipt(block.transactions[1].hash).await?.expect("mined");
    assert_eq!(receipt.status, U64::ZERO, "the whole batch is burnt");
    stage.settle_mining().await?;
    for request in &good {
        stage.expect(request, "finalized", None, "a good one").await?;
    }
    for request in &bad {
        let state = stage.client().request(request.id).await?;
        println!("burns everything: {} {:?}", state.status, state.reason);
        assert_eq!(state.status, "rejected");
        let reason = state.reason.expect("a reason");
        assert!(["simulation_reverted", "invalid_on_chain", "batch_failed"].contains(&reason.as_str()), "{reason}");
        assert_eq!(stage.nasty_marks(request.tag).await?, U256::ZERO);
    }
    let truth = stage.check(&all).await?;
    let failed = truth.relayed.transactions.iter().filter(|transaction| !transaction.is_success).count();
    assert_eq!(failed, 1, "paid for the surprise, and for no more");
    // The target behaves again, and so does its user.
    stage.overtake(stage.world.nasty, &setTrustCall { mode: HONEST }).await?;
    stage.mine(1).await?;
    let nonce = bad[0].forward.nonce.to();
    let account = crowd.users[0].account.clone();
    let again = crowd.sign_at(&account, nonce, &ask(&stage, &ifArmedRevertCall { tag: tag("again") }));
    stage.submit(std::slice::from_ref(&again)).await?;
    stage.settle_mining().await?;
    stage.expect(&again, "finalized", None, "signed again").await?;
    assert_eq!(stage.nasty_marks(tag("again")).await?, U256::from(1));
    stage.close().await
}

/// A target trusts the forwarder depending on the block's number: it reverts in odd ones. A simulation is for the next
/// block, not the last one, so the request is sent for an even one.
#[tokio::test]
async fn a_target_that_looks_at_the_block_finds_the_block_that_takes_it() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\n";
    let stage = Stage::at(Pace::Manual).extra(tenant).raise().await?;
    let target = Address::repeat_byte(0x77);
    let even_only = "0x4360011615600b575f5ffd5b60015f5260205ff3";
    stage.node().call::<Value>("anvil_setCode", json!([target, even_only])).await?;
    let is_odd = |number: u64| number % 2 == 1;
    if is_odd(stage.node().block_number().await?) {
        stage.mine(1).await?;
    }
    let mut crowd = Crowd::new(&stage.world, 1);
    let request = crowd.sign(0, &Ask { to: target, data: Bytes::new(), ..ask(&stage, &burnCall {}) });
    stage.submit(std::slice::from_ref(&request)).await?;
    until("a simulation of the next block", PATIENCE, async || {
        let failed = stage.metric("slackwater_simulations_failed_total", &[]).await?;
        Ok((failed >= 1.0 || stage.node().pool().await?.0 > 0).then_some(()))
    })
    .await?;
    assert_eq!(stage.node().pool().await?.0, 0, "not for an odd block");
    stage.mine(1).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    let state = stage.wait_status(request.id, "included").await?;
    assert!(!is_odd(state.block_number.expect("a block")));
    stage.settle_mining().await?;
    stage.expect(&request, "finalized", None, "in an even block").await?;
    let truth = stage.check(std::slice::from_ref(&request)).await?;
    assert_eq!(truth.relayed.transactions.len(), 1, "and nothing else was sent");
    stage.close().await
}

#[tokio::test]
async fn without_simulation() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).chain_key("simulate", false).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 6);
    let good = crowd.marks(6);
    let bad = [
        crowd.sign(0, &ask(&stage, &revertAlwaysCall { reason: "no".to_owned() })),
        crowd.sign(1, &ask(&stage, &burnCall {})),
        crowd.sign(2, &ask(&stage, &returnBombCall { size: U256::from(20_000) })),
    ];
    // After a failure of its predecessor the next one of the same user still executes.
    let after: Vec<SignedRequest> = (0..3).map(|i| crowd.mark(i)).collect();
    let mut all = good.clone();
    all.extend(bad.clone());
    all.extend(after.clone());
    stage.submit(&all).await?;
    stage.settle().await?;
    for request in &bad {
        stage.expect(request, "reverted", Some("target_reverted"), "a bad one").await?;
    }
    for request in good.iter().chain(&after) {
        stage.expect(request, "finalized", None, "a good one").await?;
    }
    stage.check(&all).await?;
    stage.close().await
}

#[tokio::test]
async fn a_node_that_cannot_simulate_blocks() -> Result<()> {
    use slackwater_benches::proxy::{Fault, Rule};
    use slackwater_core::chain::RpcErrorClass;
    let stage = Stage::at(Pace::Quarter).proxied().raise().await?;
    let refusal = Fault::Refuse { client: "any".to_owned(), class: RpcErrorClass::EndpointUnusable };
    stage.proxy().add(Rule::always(refusal).on("eth_simulateV1"));
    let mut crowd = Crowd::new(&stage.world, 6);
    let good = crowd.marks(12);
    // One `eth_call` for each member reveals it before anything is paid.
    let bad = crowd.sign(0, &ask(&stage, &revertAlwaysCall { reason: "no".to_owned() }));
    let mut all = good.clone();
    all.push(bad.clone());
    stage.submit(&all).await?;
    stage.settle().await?;
    assert!(stage.proxy().injected().faults["refuse"] > 0, "the relayer never tried");
    stage.expect(&bad, "rejected", Some("simulation_reverted"), "the bad one").await?;
    let state: serde_json::Value = stage.client().get_json(&format!("/v1/requests/{}", bad.id)).await?;
    assert_eq!(state["detail"], "no", "beside the reason: {state}");
    for request in &good {
        stage.expect(request, "finalized", None, "a good one").await?;
    }
    stage.check(&all).await?;
    stage.close().await
}

/// Two requests for one nonce: exactly one can execute, and the relayer reports which.
#[tokio::test]
async fn overtaken_by_another_request_of_the_same_user() -> Result<()> {
    let stage = Stage::at(Pace::Manual).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let ours = crowd.mark(0);
    let follower = crowd.mark(0);
    let mut other = crowd.clone();
    other.users[0].next_nonce = 0;
    let theirs = other.sign(0, &ask(&stage, &ifArmedRevertCall { tag: tag("elsewhere") }));
    let all = vec![ours.clone(), follower.clone(), crowd.mark(1)];
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    stage.overtake(stage.world.forwarder, &executeCall { request: theirs.data() }).await?;
    stage.mine(1).await?;
    stage.settle_mining().await?;
    stage.expect(&ours, "rejected", Some("nonce_used_elsewhere"), "the overtaken one").await?;
    stage.expect(&follower, "finalized", None, "the next nonce").await?;
    stage.expect(&all[2], "finalized", None, "somebody else").await?;
    stage.check(&all).await?;
    tokio::time::timeout(Duration::from_secs(60), stage.close()).await.expect("an end in time")
}
