//! `kill -9` at any moment: nothing accepted is lost, nothing runs twice.

use std::time::{Duration, Instant};

use slackwater_benches::{
    BenchError, Result,
    rng::Rng,
    wallet::{Crowd, SignedRequest},
};

use crate::stage::{Pace, Stage, submit_all};

const USERS: usize = 50;
const REQUESTS: usize = 1_000;
const ROUNDS: usize = 10;
/// Concurrent callers.
const CALLERS: usize = 4;

#[tokio::test]
async fn ten_kills_in_ten_thousand_requests() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    let mut rng = Rng::new(stage.seed);
    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all: Vec<SignedRequest> = Vec::new();
    let started = Instant::now();
    let mut kills = 0;
    for round in 0..ROUNDS {
        let requests: Vec<SignedRequest> = (0..REQUESTS).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
        let client = stage.client().clone().with_timeout(Duration::from_secs(5));
        let callers: Vec<_> = requests
            .chunks(REQUESTS / CALLERS)
            .map(|share| {
                let (client, share) = (client.clone(), share.to_vec());
                // Small submissions: more moments in between.
                tokio::spawn(async move {
                    for chunk in share.chunks(25) {
                        submit_all(&client, chunk).await?;
                    }
                    Ok::<(), BenchError>(())
                })
            })
            .collect();
        // Sometimes again while it is still starting.
        let deaths = if rng.chance_bps(3_000) { 2 } else { 1 };
        for death in 0..deaths {
            let after = Duration::from_millis(if death == 0 { rng.below(1_500) } else { rng.below(400) });
            println!("round {round}: kill after {} ms", after.as_millis());
            tokio::time::sleep(after).await;
            stage.relayer.kill();
            kills += 1;
            // Sometimes the chain reaches finality before it is started again.
            if rng.chance_bps(4_000) {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
            }
            stage.relayer.launch()?;
        }
        stage.relayer.wait_ready(Duration::from_secs(60)).await?;
        for caller in callers {
            caller.await.expect("a caller that does not panic")?;
        }
        all.extend(requests);
    }
    let counts = stage.settle().await?;
    println!("{} requests through {kills} kills in {} ms: {counts:?}", all.len(), started.elapsed().as_millis());
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    assert_eq!(truth.summaries.len(), all.len());
    stage.close().await
}
