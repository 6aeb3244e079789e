//! Calls of a trusted backend's own: no guard on chain, so executing once rests on the relayer alone.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    client::RequestState,
    http::post_json,
    proxy::{Fault, ReceiptLie, Rule},
    rng::Rng,
};
use slackwater_contracts::{
    guestbook::IGuestbook::{lastSenderCall, markCall, marksCall},
    nasty::INasty::{armCall, ifArmedRevertCall, requireMsgSenderCall, revertAlwaysCall},
};

use crate::{
    stage::{PATIENCE, Pace, Stage, StageBuilder, is_transient, until},
    truth::check_story,
};

/// The tenant of callers without key, with calls allowed.
pub(crate) const TENANT: &str = "[[tenant]]\nid = \"default\"\nkinds = [\"forward\", \"call\"]\noperator = true\nopen = true\n\
     targets = { \"31337\" = { \"*\" = [] } }\n";

fn stage(pace: Pace) -> StageBuilder {
    Stage::at(pace).extra(TENANT)
}

pub(crate) fn tag(text: &str, index: usize) -> B256 {
    keccak256(format!("call {text} {index}"))
}

pub(crate) fn call(to: Address, call: &impl SolCall, any_sender: bool) -> Value {
    json!({
        "chainId": 31_337, "kind": "call", "within": "5m",
        "call": { "to": to, "gas": "120000", "data": Bytes::from(call.abi_encode()), "anySender": any_sender },
    })
}

impl Stage {
    /// Submits a call under an idempotency key, retrying until there is an answer; returns its id.
    pub(crate) async fn submit_call(&self, body: &Value, key: &str) -> Result<B256> {
        loop {
            let mut request = post_json("/v1/requests", body.to_string());
            request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
            let answer = match self.client().send(request).await {
                Err(error) if is_transient(&error) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                answer => answer?,
            };
            if answer.status == 503 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let text = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, 202, "{text}");
            let accepted: Value = serde_json::from_str(&text).expect("JSON");
            return Ok(accepted["id"].as_str().and_then(|id| id.parse().ok()).expect("an id"));
        }
    }

    async fn word(&self, to: Address, call: &impl SolCall) -> Result<U256> {
        Ok(U256::from_be_slice(&self.node().read(to, call.abi_encode()).await?))
    }

    pub(crate) async fn marked(&self, tag: B256) -> Result<u64> {
        Ok(self.word(self.world.guestbook, &marksCall { tag }).await?.to())
    }

    async fn last_sender(&self, tag: B256) -> Result<Address> {
        let word = self.word(self.world.guestbook, &lastSenderCall { tag }).await?;
        Ok(Address::from_word(word.into()))
    }

    pub(crate) async fn finalized(&self, id: B256) -> Result<RequestState> {
        let state = self.client().request(id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("finalized", None), "{id}");
        Ok(state)
    }

    async fn check_calls(&self) -> Result<()> {
        let summaries = self.summaries().await?;
        check_story(&self.story().await?, &summaries);
        Ok(())
    }
}

/// A call that reverts on chain has failed: one transaction, charged to its tenant.
#[tokio::test]
async fn a_call_that_reverts_on_chain_is_paid_once() -> Result<()> {
    let stage = stage(Pace::Quarter).chain_key("simulate", false).raise().await?;
    let before = stage.node().balance(stage.lane()).await?;
    let bad = call(stage.world.nasty, &revertAlwaysCall { reason: "no such luck".to_owned() }, false);
    let id = stage.submit_call(&bad, "bad").await?;
    stage.settle().await?;
    let state: Value = stage.client().get_json(&format!("/v1/requests/{id}")).await?;
    assert_eq!((state["status"].as_str(), state["reason"].as_str()), (Some("reverted"), Some("target_reverted")));
    let lost = before - stage.node().balance(stage.lane()).await?;
    assert_eq!(state["costWei"].as_str(), Some(lost.to_string().as_str()));
    assert_eq!(stage.node().nonce(stage.lane()).await?, 1);
    stage.check_calls().await?;
    stage.close().await
}

#[tokio::test]
async fn alone_and_together() -> Result<()> {
    let stage = stage(Pace::Quarter).raise().await?;
    let guestbook = stage.world.guestbook;
    let alone = stage.submit_call(&call(guestbook, &markCall { tag: tag("alone", 0) }, false), "alone").await?;
    let expected = stage.lane();
    let direct = call(stage.world.nasty, &requireMsgSenderCall { expected }, false);
    let direct = stage.submit_call(&direct, "direct").await?;
    // The same content under two keys is two calls; under one key it is one.
    let twin = call(guestbook, &markCall { tag: tag("twin", 0) }, false);
    let twins = [stage.submit_call(&twin, "a").await?, stage.submit_call(&twin, "b").await?];
    assert_ne!(twins[0], twins[1]);
    assert_eq!(stage.submit_call(&twin, "a").await?, twins[0]);

    // One failing call among twenty that share transactions.
    let mut together = Vec::new();
    for i in 0..20 {
        let body = call(guestbook, &markCall { tag: tag("together", i) }, true);
        together.push(stage.submit_call(&body, &format!("together {i}")).await?);
    }
    let bad = call(stage.world.nasty, &revertAlwaysCall { reason: "no such luck".to_owned() }, true);
    let bad = stage.submit_call(&bad, "bad").await?;
    let bad_alone = call(stage.world.nasty, &revertAlwaysCall { reason: "nor here".to_owned() }, false);
    let bad_alone = stage.submit_call(&bad_alone, "bad alone").await?;

    stage.settle().await?;
    for id in [alone, direct, twins[0], twins[1]] {
        stage.finalized(id).await?;
    }
    assert_eq!((stage.marked(tag("alone", 0)).await?, stage.marked(tag("twin", 0)).await?), (1, 2));
    assert_eq!(stage.last_sender(tag("alone", 0)).await?, stage.lane(), "alone, the lane is the sender");
    let mut transactions = std::collections::BTreeSet::new();
    for (i, id) in together.into_iter().enumerate() {
        transactions.insert(stage.finalized(id).await?.tx_hash);
        assert_eq!(stage.marked(tag("together", i)).await?, 1);
        assert_eq!(stage.last_sender(tag("together", i)).await?, stage.world.multicall3);
    }
    println!("20 calls in {} transactions", transactions.len());
    // Multicall3 does not pass on the revert reason.
    for (id, detail) in [(bad, "call failed"), (bad_alone, "nor here")] {
        let state = stage.client().request(id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("simulation_reverted")));
        let told = state.timeline.last().and_then(|event| event.detail.clone()).unwrap_or_default();
        assert!(told.contains(detail), "{told:?} does not say why");
    }
    stage.check_calls().await?;
    stage.close().await
}

/// At an address without code every call succeeds and does nothing.
#[tokio::test]
async fn where_multicall_is_not_calls_go_alone_and_nothing_is_sent_there() -> Result<()> {
    let absent = Address::repeat_byte(0xab);
    let stage = stage(Pace::Quarter).spec(&format!("multicall3 = \"{absent}\"")).raise().await?;
    let mut ids = Vec::new();
    for i in 0..5 {
        let body = call(stage.world.guestbook, &markCall { tag: tag("absent", i) }, true);
        ids.push(stage.submit_call(&body, &format!("absent {i}")).await?);
    }
    stage.settle().await?;
    let mut transactions = std::collections::BTreeSet::new();
    for (i, id) in ids.into_iter().enumerate() {
        transactions.insert(stage.finalized(id).await?.tx_hash);
        assert_eq!(stage.marked(tag("absent", i)).await?, 1);
        assert_eq!(stage.last_sender(tag("absent", i)).await?, stage.lane());
    }
    assert_eq!(transactions.len(), 5);
    assert_eq!(stage.node().balance(absent).await?, U256::ZERO);
    stage.check_calls().await?;
    stage.close().await
}

#[tokio::test]
async fn one_fails_after_simulation() -> Result<()> {
    let stage = stage(Pace::Manual).raise().await?;
    let mut good = Vec::new();
    for i in 0..8 {
        let body = call(stage.world.guestbook, &markCall { tag: tag("good", i) }, true);
        good.push(stage.submit_call(&body, &format!("good {i}")).await?);
    }
    let bad = call(stage.world.nasty, &ifArmedRevertCall { tag: tag("bad", 0) }, true);
    let bad = stage.submit_call(&bad, "bad").await?;
    stage.pooled(1).await?;
    let from = stage.node().accounts().await?[0];
    let gwei = 10_u64.pow(9);
    let arm = json!({
        "from": from, "to": stage.world.nasty, "data": Bytes::from(armCall { on: true }.abi_encode()),
        "gas": U64::from(100_000), "maxFeePerGas": U64::from(1_000 * gwei), "maxPriorityFeePerGas": U64::from(500 * gwei),
    });
    let _: B256 = stage.node().call("eth_sendTransaction", json!([arm])).await?;
    stage.settle_mining().await?;
    for (i, id) in good.into_iter().enumerate() {
        stage.finalized(id).await?;
        assert_eq!(stage.marked(tag("good", i)).await?, 1, "good {i}");
    }
    let state = stage.client().request(bad).await?;
    println!("the bad one: {} {:?}", state.status, state.reason);
    assert_eq!(state.status, "rejected");
    stage.check_calls().await?;
    stage.close().await
}

#[tokio::test]
async fn once_through_kills_and_cut_connections() -> Result<()> {
    const CALLS: usize = 240;
    let mut stage = stage(Pace::Quarter).lanes(2).proxied().chain_key("max_batch", 10).raise().await?;
    let mut rng = Rng::new(stage.seed);
    stage.proxy().add(Rule::always(Fault::DropAfter).on("eth_sendRawTransaction").chance_bps(3_000));
    stage.proxy().add(Rule::always(Fault::Duplicate).on("eth_sendRawTransaction").chance_bps(2_000));
    let mut ids = Vec::new();
    for i in 0..CALLS {
        let body = call(stage.world.guestbook, &markCall { tag: tag("crash", i) }, i % 3 > 0);
        ids.push(stage.submit_call(&body, &format!("crash {i}")).await?);
        if i % 40 == 20 {
            let after = rng.below(600);
            println!("kill after {after} ms");
            tokio::time::sleep(Duration::from_millis(after)).await;
            stage.relayer.restart().await?;
        }
    }
    stage.settle().await?;
    stage.proxy().clear();
    for (i, id) in ids.into_iter().enumerate() {
        assert_eq!(stage.marked(tag("crash", i)).await?, 1, "call {i}");
        stage.finalized(id).await?;
    }
    stage.check_calls().await?;
    stage.close().await
}

#[tokio::test]
async fn once_although_receipts_are_missing() -> Result<()> {
    // Mined and final, and the only node has no receipts: sending again would execute it twice.
    let stage = stage(Pace::Manual).proxied().raise().await?;
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getTransactionReceipt"));
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Null)).on("eth_getBlockReceipts"));
    let mut ids = Vec::new();
    for i in 0..6 {
        let body = call(stage.world.guestbook, &markCall { tag: tag("missing", i) }, i % 2 == 0);
        ids.push(stage.submit_call(&body, &format!("missing {i}")).await?);
    }
    let calls = || stage.proxy().injected().calls.get("eth_getTransactionReceipt").copied().unwrap_or(0);
    stage.pooled(4).await?;
    for _ in 0..8 {
        // A block that arrives while answers about the last one are processed is not asked about separately.
        let before = calls();
        until("the relayer to ask for receipts", PATIENCE, async || {
            stage.mine(1).await?;
            Ok((calls() > before).then_some(()))
        })
        .await?;
    }
    stage.proxy().clear();
    stage.settle_mining().await?;
    for (i, id) in ids.into_iter().enumerate() {
        assert_eq!(stage.marked(tag("missing", i)).await?, 1, "call {i}");
        stage.finalized(id).await?;
    }
    stage.check_calls().await?;
    stage.close().await
}
