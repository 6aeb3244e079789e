//! Heads by WebSocket subscription: seen at once, and polled if the subscription fails.

use std::process::Command;

use serde_json::Value;
use slackwater_benches::{
    Anvil, Result,
    forwarder::Line,
    proxy::{Fault, Rule},
    relayer::KEY_VAR,
    wallet::{Crowd, SignedRequest},
};

use crate::stage::{PATIENCE, Pace, Stage, until};

/// Longer than any test, ms: something that waits for a poll waits forever.
const NEVER_MS: u64 = 600_000;

const HEADS: &str = "slackwater_heads_total";

impl Stage {
    /// Subscription state of the first endpoint according to `/v1/chains`.
    async fn is_subscribed(&self) -> Result<Option<bool>> {
        let chains: Value = self.client().chains().await?;
        Ok(chains["chains"][0]["endpoints"][0]["subscribed"].as_bool())
    }

    async fn wait_subscribed(&self, is_up: bool) -> Result<()> {
        until(&format!("the subscription to be up: {is_up}"), PATIENCE, async || {
            Ok((self.is_subscribed().await? == Some(is_up)).then_some(()))
        })
        .await
    }

    /// Number of heads found through a subscription.
    async fn told(&self) -> Result<f64> {
        self.metric(HEADS, &["source=\"subscription\""]).await
    }

    /// Submits some requests, and waits for their end.
    async fn serve(&self, crowd: &mut Crowd, all: &mut Vec<SignedRequest>) -> Result<()> {
        let requests: Vec<_> = (0..20).map(|i| crowd.mark_within(i % 10, "5m")).collect();
        self.submit(&requests).await?;
        all.extend(requests);
        self.settle().await.map(drop)
    }

    /// Every request was executed once and is final.
    async fn all_final(&self, all: &[SignedRequest]) -> Result<()> {
        let truth = self.check(all).await?;
        assert_eq!(truth.count("finalized", None), all.len());
        Ok(())
    }

    /// `slackwater doctor --json` on this stage's configuration.
    async fn doctor(&self) -> Value {
        let keys = self.world.relayers.iter().enumerate();
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        doctor
            .envs(keys.map(|(i, account)| (format!("{KEY_VAR}{i}"), account.secret_hex())))
            .args(["doctor", "--json", "--config"])
            .arg(self.relayer.config_path());
        let output = tokio::task::spawn_blocking(move || doctor.output()).await.expect("no panic");
        let output = output.expect("slackwater runs");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
    }
}

/// The doctor's grade and finding on an ability of an endpoint, such as `heads`.
fn finding(report: &Value, ability: &str) -> (String, String) {
    fn search<'a>(value: &'a Value, ability: &str) -> Option<&'a Value> {
        match value {
            Value::Object(map) if map.get("subject")?.as_str()?.ends_with(&format!(" {ability}")) => Some(value),
            Value::Array(items) => items.iter().find_map(|item| search(item, ability)),
            _ => None,
        }
    }
    let found =
        search(report, ability).or_else(|| report.as_object()?.values().find_map(|value| search(value, ability)));
    let found = found.unwrap_or_else(|| panic!("no finding: {report}"));
    let text = |key: &str| found[key].as_str().expect("text").to_owned();
    (text("grade"), text("finding"))
}

/// An endpoint's missing features, and their consequences, are reported before they do harm.
#[tokio::test]
async fn the_doctor_tells_what_an_endpoint_can() -> Result<()> {
    let stage = Stage::at(Pace::Manual).proxied().raise().await?;
    let report = stage.doctor().await;
    assert_eq!(finding(&report, "simulation"), ("ok".to_owned(), "batches at once, on an assumed state".to_owned()));
    let (grade, text) = finding(&report, "final state");
    assert!(grade == "ok" && text.starts_with("is kept of block "), "{text}");
    for method in ["eth_simulateV1", "eth_getTransactionCount"] {
        stage.proxy().add(Rule::always(Fault::HttpStatus(400)).on(method));
    }
    let report = stage.doctor().await;
    for ability in ["simulation", "final state"] {
        let (grade, text) = finding(&report, ability);
        assert!(grade == "warn" && text.contains("400"), "{ability}: {text}");
    }
    stage.close().await
}

/// Nothing is polled for ten minutes: every head seen came by subscription.
#[tokio::test]
async fn heads_come_by_subscription() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).subscribed().chain_key("poll_interval_ms", NEVER_MS).raise().await?;
    stage.wait_subscribed(true).await?;
    let (mut crowd, mut all) = (Crowd::new(&stage.world, 10), Vec::new());
    for _ in 0..3 {
        stage.serve(&mut crowd, &mut all).await?;
    }
    assert!(stage.told().await? >= 3.0, "{}", stage.told().await?);
    let polled = stage.metric(HEADS, &["source=\"poll\""]).await?;
    assert!(polled <= 1.0, "{polled} heads by polling");
    assert_eq!(stage.metric("slackwater_head_subscription_up", &["rpc-0"]).await?, 1.0);
    let (grade, text) = finding(&stage.doctor().await, "heads");
    assert_eq!((grade.as_str(), text.as_str()), ("ok", "told by subscription"));
    stage.all_final(&all).await?;
    stage.close().await
}

/// While the subscription delivers, nothing is polled; when it is cut or falls silent, polling takes over; when it is
/// back, it is used again.
#[tokio::test]
async fn polling_takes_over_from_a_subscription_that_is_lost() -> Result<()> {
    let stage = Stage::at(Pace::Quarter)
        .subscribed()
        .chain_key("poll_interval_ms", 200)
        .chain_key("subscribed_poll_interval_ms", NEVER_MS)
        .chain_key("subscription_silence_ms", 2_000)
        .raise()
        .await?;
    let (mut crowd, mut all) = (Crowd::new(&stage.world, 10), Vec::new());
    stage.wait_subscribed(true).await?;
    stage.serve(&mut crowd, &mut all).await?;
    for lost in [Line::Cut, Line::Stalled] {
        stage.forwarder().set(lost);
        if lost == Line::Cut {
            stage.wait_subscribed(false).await?;
            assert_eq!(stage.metric("slackwater_head_subscription_up", &[]).await?, 0.0);
        }
        let polled = stage.metric(HEADS, &["source=\"poll\""]).await?;
        stage.serve(&mut crowd, &mut all).await?;
        assert!(stage.metric(HEADS, &["source=\"poll\""]).await? > polled, "{lost:?}");
        let told = stage.told().await?;
        stage.forwarder().set(Line::Open);
        stage.wait_subscribed(true).await?;
        until("heads by subscription again", PATIENCE, async || Ok((stage.told().await? > told + 3.0).then_some(())))
            .await?;
        stage.serve(&mut crowd, &mut all).await?;
    }
    let reconnects = stage.metric("slackwater_head_subscription_reconnects_total", &["rpc-0"]).await?;
    assert!(reconnects >= 1.0, "{reconnects}");
    stage.all_final(&all).await?;
    stage.close().await
}

/// A copied line of configuration: the WebSocket belongs to another chain. It is ignored.
#[tokio::test]
async fn a_websocket_of_another_chain_is_refused() -> Result<()> {
    let other = Anvil::builder().arg("--chain-id").arg("31338").arg("--block-time").arg("0.25").spawn().await?;
    let ws_url = other.url().replace("http://", "ws://");
    let stage = Stage::at(Pace::Quarter).subscribed_at(&ws_url).raise().await?;
    let (mut crowd, mut all) = (Crowd::new(&stage.world, 10), Vec::new());
    until("several tries", PATIENCE, async || {
        let tries = stage.metric("slackwater_head_subscription_reconnects_total", &["rpc-0"]).await?;
        Ok((tries >= 2.0).then_some(()))
    })
    .await?;
    stage.serve(&mut crowd, &mut all).await?;
    assert_eq!(stage.is_subscribed().await?, Some(false));
    assert_eq!(stage.told().await?, 0.0);
    assert_eq!(stage.metric("slackwater_heads_told_total", &[]).await?, 0.0);
    let log = stage.relayer.log();
    assert!(log.contains("serves chain 31338, not 31337"), "{log}");
    let (grade, text) = finding(&stage.doctor().await, "heads");
    assert_eq!((grade.as_str(), text.as_str()), ("fail", "serves chain 31338, not 31337"));
    stage.all_final(&all).await?;
    stage.close().await
}
