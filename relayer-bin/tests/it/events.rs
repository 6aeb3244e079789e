//! One sequence of events, from any starting point, across restarts (invariant I10).

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::B256;
use slackwater_benches::{RelayerClient, Result, client::Event, http::get, rng::Rng, wallet::Crowd};
use slackwater_core::request::RequestId;

use crate::stage::{PATIENCE, Pace, Stage};

/// Reads until `count` requests have ended, and reconnects wherever the stream breaks, or at random.
async fn follow(client: RelayerClient, count: usize, mut rng: Rng) -> Result<Vec<Event>> {
    let mut story: Vec<Event> = Vec::new();
    let mut ended = 0;
    while ended < count {
        let after = story.last().map_or(0, |event| event.seq);
        let Ok(mut stream) = client.events(after).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut patience = rng.between(20, 400);
        while ended < count && patience > 0 {
            let Ok(Some(event)) = stream.next().await else { break };
            ended += usize::from(event.status.is_terminal());
            story.push(event);
            patience -= 1;
        }
    }
    Ok(story)
}

fn essence(story: &[Event]) -> Vec<(u64, RequestId, u32, &str)> {
    story.iter().map(|event| (event.seq, event.request_id, event.request_seq, event.status.as_str())).collect()
}

#[tokio::test]
async fn the_same_story_from_everywhere() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).lanes(2).raise().await?;
    let mut rng = Rng::new(stage.seed);
    let mut crowd = Crowd::new(&stage.world, 20);
    let requests: Vec<_> = (0..400).map(|i| crowd.mark_within(i % 20, "5m")).collect();
    let followers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(follow(stage.client().clone(), requests.len(), Rng::new(rng.next_u64()))))
        .collect();
    for part in requests.chunks(100) {
        stage.submit(part).await?;
        tokio::time::sleep(Duration::from_millis(rng.below(400))).await;
        stage.relayer.restart().await?;
    }
    stage.settle().await?;
    let whole = stage.story().await?;
    for follower in followers {
        let told = tokio::time::timeout(PATIENCE, follower).await.expect("a follower that ends").expect("no panic")?;
        assert_eq!(essence(&told), essence(&whole), "a follower was told another story");
    }
    // From random starting points.
    for _ in 0..5 {
        let after = rng.below(whole.len() as u64);
        let mut stream = stage.client().events(after).await?;
        for event in whole.iter().skip_while(|event| event.seq <= after).take(50) {
            let told = stream.next().await?.expect("an event");
            assert_eq!((told.seq, told.at_ms, told.status), (event.seq, event.at_ms, event.status.clone()));
        }
    }
    // One request's own stream ends with it, and then there is nothing more to send.
    let mut by_request: BTreeMap<B256, Vec<&Event>> = BTreeMap::new();
    for event in &whole {
        by_request.entry(event.request_id.0).or_default().push(event);
    }
    for request in requests.iter().take(5) {
        let path = format!("/v1/requests/{}/events", request.id);
        let answer = stage.client().send(get(&path)).await?;
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body.to_vec()).expect("text");
        let told: Vec<Event> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|json| serde_json::from_str(json).expect("an event"))
            .collect();
        let expected: Vec<Event> = by_request[&request.id].iter().map(|event| (*event).clone()).collect();
        assert_eq!(essence(&told), essence(&expected));
        let last = told.last().expect("events").seq;
        let mut rest = get(&path);
        rest.headers_mut().insert("last-event-id", last.to_string().parse().expect("a header"));
        assert_eq!(stage.client().send(rest).await?.status, 204);
    }
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    println!("{} events of {} requests", truth.story.len(), requests.len());
    stage.close().await
}
