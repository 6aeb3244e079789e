//! `SIGTERM` in the middle of everything: an orderly shutdown, and no accepted request is lost.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy_primitives::B256;
use slackwater_benches::{Result, client::Submitted, rng::Rng, wallet::Crowd};

use crate::stage::{Pace, Stage, is_transient};

const CALLERS: usize = 8;

#[tokio::test]
async fn in_the_middle_of_a_burst() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    let mut rng = Rng::new(stage.seed);
    let mut crowd = Crowd::new(&stage.world, 40);
    let mut all = Vec::new();
    let mut accepted: BTreeSet<B256> = BTreeSet::new();
    for round in 0..3 {
        let requests: Vec<_> = (0..400).map(|i| crowd.mark_within(i % 40, "5m")).collect();
        let has_ended = Arc::new(AtomicBool::new(false));
        // Each user's requests go through one caller, in order, one by one, until the relayer is gone.
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let client = stage.client().clone().with_timeout(Duration::from_secs(20));
                let has_ended = Arc::clone(&has_ended);
                let mine: Vec<_> = requests.iter().skip(caller).step_by(CALLERS).cloned().collect();
                tokio::spawn(async move {
                    let mut accepted = Vec::new();
                    for request in mine {
                        if has_ended.load(Ordering::Relaxed) {
                            break;
                        }
                        match client.submit(&request.body).await {
                            Ok(Submitted::Accepted(answer)) => accepted.push(answer.id.0),
                            Ok(Submitted::Refused(problem)) => {
                                assert_eq!((problem.status, &*problem.code), (503, "shutting_down"));
                                break;
                            }
                            // A refused or cut connection is no promise.
                            Err(error) => {
                                assert!(is_transient(&error), "{error}");
                                break;
                            }
                        }
                    }
                    accepted
                })
            })
            .collect();
        let after = Duration::from_millis(rng.between(20, 600));
        tokio::time::sleep(after).await;
        let is_clean = stage.relayer.terminate(Duration::from_secs(30)).await?;
        assert!(is_clean, "round {round}: exit code is not 0");
        has_ended.store(true, Ordering::Relaxed);
        let before = accepted.len();
        for caller in callers {
            accepted.extend(caller.await.expect("a caller that does not panic"));
        }
        println!("round {round}: stopped after {} ms with {} accepted", after.as_millis(), accepted.len() - before);
        stage.relayer.start().await?;
        let known = stage.summaries().await?;
        let lost: Vec<_> = accepted.iter().filter(|id| !known.contains_key(*id)).collect();
        assert!(lost.is_empty(), "accepted and lost: {lost:?}");
        // The same bytes again, for requests without an answer.
        stage.submit(&requests).await?;
        all.extend(requests);
    }
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn with_a_frozen_node() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<_> = (0..60).map(|i| crowd.mark_within(i % 20, "5m")).collect();
    stage.submit(&requests).await?;
    stage.anvil.pause()?;
    assert!(stage.relayer.terminate(Duration::from_secs(20)).await?, "exit code is not 0");
    stage.anvil.resume()?;
    stage.relayer.start().await?;
    stage.settle().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    stage.close().await
}
