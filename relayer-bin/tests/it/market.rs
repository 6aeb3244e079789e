//! What fees are believed, and what is made of them.

use std::time::Duration;

use alloy_primitives::U256;
use serde_json::Value;
use slackwater_benches::{
    Result,
    proxy::{Fault, Rule},
    wallet::Crowd,
};

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

/// One of three endpoints tells fees of a hundred times: nothing is priced by it, and it loses its vote.
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
        // Some blocks may lie between the two looks, each at most an eighth dearer.
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

/// With `timing = "forecast"` the relayer forecasts, says what waiting is worth, and keeps every deadline; its decisions
/// name the forecast.
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
