//! Costs equal the amount that left the account, and no budget is exceeded.

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_benches::{
    Result, World,
    client::Submitted,
    proxy::{Fault, Rule},
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::{
    guestbook::IGuestbook::markCall,
    nasty::INasty::{paidCall, payCall, revertAlwaysCall, setTrustCall},
};
use slackwater_core::chain::RpcErrorClass;

use crate::stage::{PATIENCE, Pace, Stage, until};

/// `isTrustedForwarder` of the target burns all the gas there is.
const BURN: u8 = 2;

/// Cost of a request according to the API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    cost_wei: Option<U256>,
    price_wei: Option<U256>,
    reserved_wei: U256,
}

impl Stage {
    pub(crate) async fn costs(&self, requests: &[SignedRequest]) -> Result<U256> {
        let each = self.cost_of_each(requests).await?;
        Ok(each.iter().filter_map(|cost| cost.cost_wei).sum())
    }

    async fn prices(&self, requests: &[SignedRequest]) -> Result<U256> {
        let each = self.cost_of_each(requests).await?;
        Ok(each.iter().filter_map(|cost| cost.price_wei).sum())
    }

    async fn cost_of_each(&self, requests: &[SignedRequest]) -> Result<Vec<Cost>> {
        let mut all = Vec::with_capacity(requests.len());
        for request in requests {
            all.push(self.client().get_json(&format!("/v1/requests/{}", request.id)).await?);
        }
        Ok(all)
    }
}

fn ask(stage: &Stage, data: Vec<u8>, value: U256) -> Ask {
    Ask {
        to: stage.world.nasty,
        value,
        gas: 150_000,
        data: Bytes::from(data),
        deadline_s: unix_seconds() + 3_600,
        within: Some("60s".to_owned()),
        max_cost_wei: None,
    }
}

#[tokio::test]
async fn costs_add_up_to_what_the_account_lost() -> Result<()> {
    let tenant =
        "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\nmax_value_wei = \"1000000000000000000\"\n";
    let stage = Stage::at(Pace::Quarter).chain_key("simulate", false).extra(tenant).raise().await?;
    let before = stage.node().balance(stage.lane()).await?;
    let mut crowd = Crowd::new(&stage.world, 12);
    let value = U256::from(123_456_789_012_345_678_u64);
    let mut all = crowd.marks(12);
    let paid: Vec<_> = (0..4)
        .map(|i| {
            let tag = keccak256(format!("paid {i}"));
            (tag, crowd.sign(i, &ask(&stage, payCall { tag }.abi_encode(), value)))
        })
        .collect();
    // The value of a failed call is returned.
    let failing: Vec<_> = (4..7)
        .map(|i| crowd.sign(i, &ask(&stage, revertAlwaysCall { reason: "no".to_owned() }.abi_encode(), value)))
        .collect();
    all.extend(paid.iter().map(|(_, request)| request.clone()));
    all.extend(failing.clone());
    stage.submit(&all).await?;
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("reverted", Some("target_reverted")), failing.len());
    assert_eq!(truth.count("finalized", None), all.len() - failing.len());
    for (tag, _) in &paid {
        let word = stage.node().read(stage.world.nasty, paidCall { tag: *tag }.abi_encode()).await?;
        assert_eq!(U256::from_be_slice(&word), value);
    }
    let after = stage.node().balance(stage.lane()).await?;
    assert_eq!(stage.costs(&all).await?, before - after, "the sum of all costs");
    stage.close().await
}

/// A target that burns all the gas there is, unseen by any simulation: the cost is charged to its tenant, to the wei,
/// and never exceeds the reservation.
#[tokio::test]
async fn a_burnt_transaction_is_paid_by_its_tenant() -> Result<()> {
    let limit = U256::from(10_u64).pow(U256::from(17));
    let tenant = format!(
        "[[tenant]]\nid = \"default\"\noperator = true\nbudget = {{ limit_wei = \"{limit}\", period_s = 0 }}\n"
    );
    let stage = Stage::at(Pace::Quarter).chain_key("simulate", false).extra(&tenant).raise().await?;
    let node = stage.node();
    let from = node.accounts().await?[0];
    let data = Bytes::from(setTrustCall { mode: BURN }.abi_encode());
    let burn = json!({ "from": from, "to": stage.world.nasty, "data": data });
    let hash: B256 = node.call("eth_sendTransaction", json!([burn])).await?;
    until("the target to burn", PATIENCE, async || Ok(node.receipt(hash).await?.map(drop))).await?;
    let before = node.balance(stage.lane()).await?;
    let mut crowd = Crowd::new(&stage.world, 8);
    let bad: Vec<_> = (0..8)
        .map(|i| crowd.sign(i, &ask(&stage, markCall { tag: keccak256("burnt") }.abi_encode(), U256::ZERO)))
        .collect();
    stage.submit(&bad).await?;
    stage.settle().await?;
    for request in &bad {
        let state = stage.client().request(request.id).await?;
        assert_eq!(state.status, "rejected");
        let reason = state.reason.unwrap_or_default();
        assert!(["batch_failed", "reservation_spent"].contains(&reason.as_str()), "{reason}");
    }
    let lost = before - node.balance(stage.lane()).await?;
    assert!(lost > U256::ZERO && lost <= limit, "{lost} of {limit}");
    assert_eq!(stage.costs(&bad).await?, lost, "what left the lane is what the requests cost");
    stage.close().await
}

/// One of three burns all of its batch's gas, in a block with a proposer. The others pay their own share, and it pays
/// the rest: it is identified by the trace, or, if no node serves traces, by simulating its block again.
#[tokio::test]
async fn who_burnt_a_transaction_shows_its_cost() -> Result<()> {
    const TARGET: Address = Address::repeat_byte(0x77);
    for has_traces in [true, false] {
        let tenant = |world: &World| {
            let (chain, guestbook) = (world.chain_id, world.guestbook);
            let targets = format!("{chain} = {{ \"{guestbook}\" = [], \"{TARGET}\" = [] }}");
            format!("[[tenant]]\nid = \"default\"\noperator = true\ntargets = {{ {targets} }}\n")
        };
        let stage = Stage::at(Pace::Manual).proxied().tenants(tenant).raise().await?;
        if !has_traces {
            let refusal = Fault::Refuse { client: "any".to_owned(), class: RpcErrorClass::EndpointUnusable };
            stage.proxy().add(Rule::always(refusal).on("debug_traceTransaction"));
        }
        // Trusts every forwarder; if the block has a proposer it burns all the gas it gets.
        let code: Bytes = "0x41600c5760015f5260205ff35bfe".parse().expect("hex");
        stage.node().set_code(TARGET, code).await?;
        let mut crowd = Crowd::new(&stage.world, 3);
        let bad = crowd.sign(0, &Ask { to: TARGET, ..ask(&stage, Vec::new(), U256::ZERO) });
        let all = [bad, crowd.mark(1), crowd.mark(2)];
        stage.submit(&all).await?;
        stage.pooled(1).await?;
        stage.node().call::<Value>("anvil_setCoinbase", json!([Address::repeat_byte(0xb0)])).await?;
        stage.mine(1).await?;
        let burnt = stage.node().head().await?.transactions[0].hash;
        let burnt = stage.node().receipt(burnt).await?.expect("mined");
        assert_eq!(burnt.status, U64::ZERO, "the whole batch is burnt");
        stage.settle_mining().await?;
        for good in &all[1..] {
            assert_eq!(stage.client().request(good.id).await?.status, "finalized");
        }
        let took = burnt.cost_wei();
        let paid = stage.costs(&all[..1]).await?;
        // Alone it has less gas to burn than in the whole batch, and its tenant bears the part that it is not seen to
        // burn.
        let part = U256::from(if has_traces { 2 } else { 4 });
        assert!(paid * part > took && paid <= took, "{paid} of {took}, traces: {has_traces}");
        assert!(stage.proxy().injected().calls.contains_key("debug_traceTransaction"));
        stage.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_budget_holds_under_pressure_and_over_a_kill() -> Result<()> {
    press_a_budget(100).await
}

/// The margin above cost counts against the budget, before and after a restart.
#[tokio::test]
async fn a_budget_holds_prices_above_cost() -> Result<()> {
    press_a_budget(150).await
}

async fn press_a_budget(percent: u32) -> Result<()> {
    // Budget for a little more than two reservations at the first block's price.
    let limit = U256::from(10_u64).pow(U256::from(16));
    let tenant = format!(
        "[[tenant]]\nid = \"default\"\noperator = true\nbudget = {{ limit_wei = \"{limit}\", period_s = 0 }}\n\
         price_percent = {percent}\n"
    );
    let mut stage = Stage::at(Pace::Manual).extra(&tenant).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 60);
    let mut all = Vec::new();
    let mut refusals = 0;
    for round in 0..4 {
        let requests: Vec<_> = (0..15).map(|i| crowd.mark(round * 15 + i)).collect();
        let spent = stage.prices(&all).await?;
        let callers: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let client = stage.client().clone();
                tokio::spawn(async move { (client.submit(&request.body).await, request) })
            })
            .collect();
        let mut reserved = U256::ZERO;
        for caller in callers {
            let (answer, request) = caller.await.expect("a caller that does not panic");
            match answer? {
                Submitted::Accepted(accepted) => {
                    let worst = accepted.quote.map(|quote| quote.max_cost_wei.0);
                    reserved += worst.expect("a worst case");
                    all.push(request);
                }
                Submitted::Refused(problem) => {
                    assert_eq!((problem.status, &*problem.code), (402, "budget_exhausted"));
                    refusals += 1;
                }
            }
        }
        println!("round {round}: {} accepted so far, {spent} spent and {reserved} reserved of {limit}", all.len());
        assert!(spent + reserved <= limit, "more is reserved than there is");
        if round % 2 == 0 {
            // With open reservations, and again with money spent.
            stage.relayer.restart().await?;
            let request = crowd.sign_at(&crowd.users[59].account.clone(), 0, &too_dear(&stage));
            let answer = stage.client().submit(&request.body).await?;
            assert_eq!(answer.refused_with(), Some("budget_exhausted"));
        }
        stage.settle_mining().await?;
    }
    assert!(refusals > 0, "the budget never was an obstacle");
    let (costs, prices) = (stage.costs(&all).await?, stage.prices(&all).await?);
    assert!(
        prices <= limit && prices >= costs * U256::from(percent) / U256::from(100),
        "{prices} for {costs} of {limit}"
    );
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The price charged to a tenant is a percentage of its cost; costs still equal the amount that left the lane, and
/// `maxCost` limits the price.
#[tokio::test]
async fn a_price_is_a_part_of_the_cost() -> Result<()> {
    for percent in [150, 50] {
        let tenant = format!("[[tenant]]\nid = \"default\"\noperator = true\nopen = true\nprice_percent = {percent}\n");
        let stage = Stage::at(Pace::Manual).extra(&tenant).raise().await?;
        let mut crowd = Crowd::new(&stage.world, 8);
        let mut all = crowd.marks(6);
        stage.submit(&all).await?;
        // The minimum named by the refusal is accepted; a wei less is not.
        let account = crowd.users[6].account.clone();
        let bounded = |most: U256| {
            let data = markCall { tag: keccak256("bounded") }.abi_encode();
            let ask = Ask { to: stage.world.guestbook, max_cost_wei: Some(most), ..ask(&stage, data, U256::ZERO) };
            crowd.sign_at(&account, 0, &ask)
        };
        let Submitted::Refused(problem) = stage.client().submit(&bounded(U256::from(1)).body).await? else {
            panic!("a wei pays for nothing");
        };
        assert_eq!(problem.code, "max_cost_too_low");
        let mut words = problem.detail.split(' ').filter_map(|word| word.parse::<U256>().ok());
        let needed = words.next().expect("what it would take");
        let answer = stage.client().submit(&bounded(needed - U256::from(1)).body).await?;
        assert_eq!(answer.refused_with(), Some("max_cost_too_low"));
        let last = bounded(needed);
        stage.submit(std::slice::from_ref(&last)).await?;
        all.push(last);
        stage.settle_mining().await?;
        let truth = stage.check(&all).await?;
        assert_eq!(truth.count("finalized", None), all.len());
        let each = stage.cost_of_each(&all).await?;
        for Cost { cost_wei, price_wei, reserved_wei } in &each {
            let (cost, price) = (cost_wei.expect("a cost"), price_wei.expect("a price"));
            assert_eq!(price, (cost * U256::from(percent)).div_ceil(U256::from(100)));
            assert!(price.max(cost) <= *reserved_wei, "{price} and {cost} of {reserved_wei}");
        }
        assert!(each.last().is_some_and(|cost| cost.reserved_wei <= needed));
        let (spent, borne) = stage.spent_and_borne().await?;
        assert_eq!(stage.costs(&all).await? + borne, spent, "a price is no part of what left the lane");
        stage.close().await?;
    }
    Ok(())
}

/// A request that exceeds the budget left once some requests are reserved.
fn too_dear(stage: &Stage) -> Ask {
    Ask { gas: 1_900_000, to: stage.world.guestbook, ..ask(stage, Vec::new(), U256::ZERO) }
}
