//! Trust in fee sources, and the prices made from them.

use std::{fs, time::Duration};

use alloy_primitives::U256;
use serde_json::Value;
use slackwater_benches::{
    Result,
    proxy::{FALSE_TIP_WEI, Fault, Rule},
    wallet::Crowd,
};
use slackwater_ledger::{Ledger as _, SqliteConfig, SqliteLedger};

use crate::stage::{PATIENCE, Pace, Stage, Via, until};

impl Stage {
    async fn get(&self, path: &str) -> Result<Value> {
        self.client().get_json(path).await
    }

    /// The sources' standings, in the order of the endpoints.
    async fn standings(&self) -> Result<Vec<(String, u64)>> {
        let answer = self.get("/v1/sources").await?;
        let sources = answer["sources"].as_array().expect("a list");
        let of = |source: &Value| {
            (source["standing"].as_str().expect("text").to_owned(), source["deviations"].as_u64().expect("a number"))
        };
        Ok(sources.iter().map(of).collect())
    }
}

fn wei(value: &Value) -> U256 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().expect("decimal")
}

/// One of three endpoints reports fees a hundred times too high: nothing is priced by it, and it loses its vote.
#[tokio::test]
async fn a_node_that_lies_about_fees_changes_nothing() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).endpoints(&[Via::Proxy, Via::Node, Via::Node]).raise().await?;
    assert_eq!(stage.standings().await?.iter().filter(|(standing, _)| standing == "active").count(), 3);
    stage.proxy().add(Rule::always(Fault::Fees { times: 100 }).on("eth_feeHistory"));
    stage.proxy().add(Rule::always(Fault::Fees { times: 100 }).on("eth_getBlockByNumber"));
    let mut crowd = Crowd::new(&stage.world, 5);
    let mut all = Vec::new();
    until("a benched liar", PATIENCE, async || {
        let request = crowd.mark_within(all.len() % 5, "60s");
        stage.submit(std::slice::from_ref(&request)).await?;
        all.push(request);
        let fees = stage.get("/v1/chains/31337/fees").await?;
        let told = wei(&fees["nextBaseFeeWeiPerGas"]);
        let real = stage.node().head().await?.base_fee_per_gas;
        // There may be some blocks between the two readings, each at most an eighth dearer.
        assert!(told < real * U256::from(10), "{told} instead of {real}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok((stage.standings().await?[0].0 == "benched").then_some(()))
    })
    .await?;
    let standings = stage.standings().await?;
    assert!(standings[0].1 >= 3, "{standings:?}");
    assert!(
        standings[1..].iter().all(|(standing, deviations)| standing == "active" && *deviations == 0),
        "{standings:?}"
    );
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The node whose heads are followed reports the right base fees, and lies about gas, tips and the next base fee: the
/// relayer's values are to the wei those of the others.
#[tokio::test]
async fn half_a_truth_of_the_main_node_changes_nothing() -> Result<()> {
    let stage = Stage::at(Pace::Manual).endpoints(&[Via::Proxy, Via::Slow, Via::Slow]).raise().await?;
    stage.proxy().add(Rule::always(Fault::HalfTruth).on("eth_feeHistory"));
    stage.proxy().add(Rule::always(Fault::HalfTruth).on("eth_getBlockByNumber"));
    let mut told = Vec::new();
    for _ in 0..25 {
        stage.mine(1).await?;
        let fees = stage.get("/v1/chains/31337/fees").await?;
        told.push(wei(&fees["nextBaseFeeWeiPerGas"]));
        let tip = wei(&fees["priorityFeeWeiPerGas"]);
        assert!(tip < U256::from(FALSE_TIP_WEI / 10), "{fees}");
    }
    // The value predicted after a block is the next block's base fee.
    stage.mine(1).await?;
    let head = stage.node().block_number().await?;
    for (told, number) in told.iter().rev().zip((0..=head).rev()) {
        assert_eq!(*told, stage.node().block(number).await?.expect("a block").base_fee_per_gas, "block {number}");
    }
    let disbelieved = stage.metric("slackwater_heads_disbelieved_total", &[]).await?;
    assert!(disbelieved >= 20.0, "{disbelieved} heads were not believed");
    let standings = stage.standings().await?;
    assert!(standings[0].0 != "active" && standings[0].1 > 5, "{standings:?}");
    assert!(standings[1..].iter().all(|(standing, lies)| standing == "active" && *lies == 0), "{standings:?}");
    let mut crowd = Crowd::new(&stage.world, 3);
    let requests = crowd.marks(6);
    stage.submit(&requests).await?;
    stage.settle_mining().await?;
    assert_eq!(stage.check(&requests).await?.count("finalized", None), 6);
    stage.close().await
}

/// Inclusion times are measured, the guard time follows, and tips stay where they are if blocks require none.
#[tokio::test]
async fn the_guard_time_is_learned_from_inclusions() -> Result<()> {
    let stage = Stage::at(Pace::Quarter)
        .chain_key("linger_ms", 0)
        .chain_key("urgent_within_ms", 10_000)
        .chain_key("guard_time_ceiling_ms", 10_000)
        .raise()
        .await?;
    let chain = async || -> Result<Value> { Ok(stage.client().chains().await?["chains"][0].clone()) };
    let start = chain().await?;
    assert_eq!(
        (start["guardTimeMs"].as_u64(), start["inclusionsMeasured"].as_u64()),
        (Some(10_000), Some(0)),
        "{start}"
    );
    let mut crowd = Crowd::new(&stage.world, 5);
    let mut all = Vec::new();
    let learned = until("a guard time from a hundred inclusions", PATIENCE, async || {
        let request = crowd.mark(all.len() % 5);
        stage.submit(std::slice::from_ref(&request)).await?;
        all.push(request);
        let chain = chain().await?;
        Ok((chain["inclusionsMeasured"].as_u64() >= Some(100)).then_some(chain))
    })
    .await?;
    let guard_ms = learned["guardTimeMs"].as_u64().expect("a number");
    // Blocks come every 250 ms and a bump takes four of them: no less than that, and well below the initial value.
    assert!((1_000..9_000).contains(&guard_ms), "{learned}");
    let metric = stage.metric("slackwater_guard_time_seconds", &["chain_id=\"31337\""]).await?;
    assert!((1.0..9.0).contains(&metric), "{metric}");
    assert!(stage.metric("slackwater_tip_offers_total", &["outcome=\"included\""]).await? >= 90.0);
    assert!(stage.metric("slackwater_tip_wei_per_gas", &[]).await? < 2e9);
    stage.settle().await?;
    assert_eq!(stage.check(&all).await?.count("finalized", None), all.len());
    stage.close().await
}

/// A batch records the forecast by which it was composed, even if another block came while it was simulated.
#[tokio::test]
async fn a_decision_names_the_forecast_it_was_made_by() -> Result<()> {
    let stage =
        Stage::at(Pace::Manual).proxied().chain_key("timing", "\"forecast\"").chain_key("linger_ms", 0).raise().await?;
    stage.mine(3).await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    let slow = Fault::Delay { min: Duration::from_secs(2), max: Duration::from_secs(2) };
    stage.proxy().add(Rule::always(slow).on("eth_simulateV1"));
    let composed_by = stage.get("/v1/chains/31337/forecast").await?;
    let simulated = |stage: &Stage| stage.proxy().injected().calls.get("eth_simulateV1").copied().unwrap_or(0);
    let before = simulated(&stage);
    let requests = [crowd.mark_within(0, "60s")];
    stage.submit(&requests).await?;
    until("a simulation under way", PATIENCE, async || Ok((simulated(&stage) > before).then_some(()))).await?;
    stage.mine(1).await?;
    let signed_by = stage.get("/v1/chains/31337/forecast").await?;
    assert_ne!(composed_by["inputs"], signed_by["inputs"]);
    assert_eq!(stage.lane_state(0).await?["inFlight"], 0, "it is not signed yet");
    stage.proxy().clear();
    stage.pooled(1).await?;
    stage.settle_mining().await?;
    assert_eq!(stage.check(&requests).await?.count("finalized", None), 1);
    // The relayer holds its ledger: a copy is read.
    let copy = tempfile::tempdir().expect("a directory");
    for name in ["ledger.db", "ledger.db-wal"] {
        let _ = fs::copy(stage.relayer.database().with_file_name(name), copy.path().join(name));
    }
    stage.close().await?;
    let ledger = SqliteLedger::open(SqliteConfig::new(copy.path().join("ledger.db"))).await.expect("a ledger");
    let decisions = ledger.decisions(0, 1_000).await.expect("decisions");
    ledger.close().await;
    let planned: Vec<Value> = decisions
        .iter()
        .map(|row| serde_json::from_str::<Value>(&row.body).expect("JSON"))
        .filter(|body| body["kind"] == "planned")
        .collect();
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert_eq!((&planned[0]["inputs"], &planned[0]["model"]), (&composed_by["inputs"], &composed_by["model"]));
    assert!(planned[0]["threshold_wei_per_gas"].is_string(), "{planned:?}");
    Ok(())
}

/// With `timing = "forecast"` the relayer forecasts, reports the value of waiting, and keeps every deadline; its
/// decisions name the forecast.
#[tokio::test]
async fn requests_with_slack_are_timed_by_the_forecast() -> Result<()> {
    let stage = Stage::at(Pace::Quarter)
        .chain_key("timing", "\"forecast\"")
        .chain_key("urgent_within_ms", 2_000)
        .raise()
        .await?;
    let mut crowd = Crowd::new(&stage.world, 10);
    let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i % 10, ["5s", "8s", "12s"][i % 3])).collect();
    stage.submit(&requests).await?;
    let forecast = stage.get("/v1/chains/31337/forecast").await?;
    let horizons = forecast["horizons"].as_array().expect("a list");
    assert!(horizons.len() >= 7, "{forecast}");
    for horizon in horizons {
        let of = |name: &str| wei(&horizon[name]);
        assert!(of("q10WeiPerGas") <= of("q50WeiPerGas") && of("q50WeiPerGas") <= of("q90WeiPerGas"), "{horizon}");
    }
    assert_eq!(horizons[0]["blocks"], 1);
    assert!(forecast["nextIsExact"].as_bool().expect("a truth value"), "{forecast}");
    assert_eq!(wei(&horizons[0]["pointWeiPerGas"]), wei(&forecast["nextBaseFeeWeiPerGas"]));
    let near = stage.get("/v1/chains/31337/forecast?horizon=30s").await?;
    assert_eq!(near["horizons"].as_array().map(Vec::len), Some(1), "{near}");
    let body = serde_json::json!({ "chainId": 31_337, "gas": 50_000, "within": "5m" });
    let quote: Value = stage.client().quote(&body).await?;
    let wait = &quote["wait"];
    assert!(wei(&wait["q10WeiPerGas"]) <= wei(&wait["q90WeiPerGas"]), "{quote}");
    assert!(wait["sendNow"].is_boolean() && wei(&wait["expectedCostWei"]) <= wei(&quote["expectedCostWei"]), "{quote}");
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len(), "every deadline is kept");
    assert!(stage.metric("slackwater_forecasts_scored_total", &["steps=\"1\""]).await? > 0.0);
    stage.close().await
}
