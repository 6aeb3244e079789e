//! Effects of a pause, and its limits.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    proxy::{Fault, Rule},
    wallet::Crowd,
};

use crate::stage::{PATIENCE, Pace, Stage, until};

const SIMULATE: &str = "eth_simulateV1";

impl Stage {
    /// Pauses, or resumes, the chain.
    pub(crate) async fn administer(&self, action: &str) {
        let url = format!("{}/v1/admin/{action}", self.relayer.url());
        let body = json!({ "chainId": 31_337 }).to_string();
        let call = reqwest::Client::new().post(url).header("content-type", "application/json").body(body).send();
        let response = call.await.expect("an answer");
        assert_eq!(response.status().as_u16(), 200);
    }

    /// Number of nonces for which transactions were sent, and number of sends.
    fn sends(&self) -> (usize, usize) {
        let arrivals = self.proxy().arrivals();
        let nonces: std::collections::BTreeSet<u64> = arrivals.iter().map(|arrival| arrival.nonce).collect();
        (nonces.len(), arrivals.len())
    }
}

/// Two requests are in flight when the chain is paused, and a third is being simulated. One is bumped and lands, one
/// reaches its deadline and is cancelled, both are settled; the third is sent when the pause is over.
#[tokio::test]
async fn what_is_in_flight_goes_on_and_nothing_new_starts() -> Result<()> {
    const SLOW: Duration = Duration::from_millis(1_500);
    let stage = Stage::at(Pace::Manual)
        .proxied()
        .spec("finality = { kind = \"depth\", blocks = 4 }")
        .chain_key("poll_interval_ms", 25)
        .chain_key("bump_after_blocks", 3)
        .chain_key("urgent_within_ms", 0)
        .raise()
        .await?;
    let mut crowd = Crowd::new(&stage.world, 3);
    let (long, short, third) = (crowd.mark(0), crowd.mark_within(1, "5s"), crowd.mark(2));
    stage.submit(std::slice::from_ref(&long)).await?;
    stage.pooled(1).await?;
    stage.submit(std::slice::from_ref(&short)).await?;
    stage.pooled(2).await?;
    let deadline_ms = stage.client().submit(&short.body).await?.accepted()?.deadline_at_ms;
    let before = stage.proxy().injected().calls.get(SIMULATE).copied().unwrap_or(0);
    stage.proxy().add(Rule::always(Fault::Delay { min: SLOW, max: SLOW }).on(SIMULATE));
    stage.submit(std::slice::from_ref(&third)).await?;
    let is_simulated = async || {
        let calls = stage.proxy().injected().calls.get(SIMULATE).copied().unwrap_or(0);
        Ok((calls > before).then_some(()))
    };
    until("the third to be simulated", PATIENCE, is_simulated).await?;
    stage.administer("pause").await;
    assert_eq!(stage.client().submit(&crowd.mark(2).body).await?.refused_with(), Some("paused"));
    crowd.users[2].next_nonce -= 1;
    tokio::time::sleep(SLOW + Duration::from_millis(500)).await;
    stage.proxy().clear();
    assert_eq!(stage.sends().0, 2, "the third was not sent");
    assert_eq!(stage.client().request(third.id).await?.status, "queued");

    // No block has room for them: they are bumped, and the one with the short deadline runs out of time.
    stage.set_block_gas_limit(30_000).await?;
    stage.mine(4).await?;
    stage.wait_attempts(&long, 2).await?;
    let now_ms = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    until("the deadline", PATIENCE, async || Ok((now_ms() > u128::from(deadline_ms.0)).then_some(()))).await?;
    stage.mine(1).await?;
    until("the cancel", PATIENCE, async || {
        let attempts = stage.batch_of(&short).await?.attempts;
        Ok(attempts.iter().any(|attempt| attempt.kind == "cancel").then_some(()))
    })
    .await?;
    stage.set_block_gas_limit(400_000_000).await?;
    for (request, status) in [(&long, "finalized"), (&short, "expired")] {
        let ended = until("the end of what was in flight", PATIENCE, async || {
            stage.mine(1).await?;
            Ok(Some(stage.client().request(request.id).await?).filter(|state| state.is_terminal()))
        });
        assert_eq!(ended.await?.status, status);
    }
    assert_eq!(stage.sends().0, 2, "still nothing new");
    let state = stage.client().request(third.id).await?;
    let told: Vec<&str> = state.timeline.iter().map(|event| event.status.as_str()).collect();
    assert_eq!(told, ["queued"], "it waits");
    stage.administer("resume").await;
    stage.settle_mining().await?;
    let truth = stage.check(&[long, short, third]).await?;
    assert_eq!((truth.count("finalized", None), stage.sends().0), (2, 3));
    let lanes: Value = stage.client().lanes().await?;
    assert_eq!(lanes["lanes"][0]["inFlight"], 0);
    stage.close().await
}
