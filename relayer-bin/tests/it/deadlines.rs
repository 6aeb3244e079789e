//! Nothing is sent after its deadline, and no cancel is reported as a success (scenario S7).

use std::time::SystemTime;

use hyper::Method;
use slackwater_benches::{
    Result,
    client::{Event, Submitted, problem},
    http::get,
    proxy::{Fault, Rule},
    wallet::{Crowd, SignedRequest, unix_seconds},
};

use crate::{
    attempts::next_base_fee,
    stage::{PATIENCE, Pace, Stage, until},
};

impl Stage {
    /// Sends a batch, and lets its deadline pass while it waits in the pool.
    async fn overdue(&self, crowd: &mut Crowd) -> Result<Vec<SignedRequest>> {
        let requests: Vec<_> = (0..5).map(|i| crowd.mark_within(i, "3s")).collect();
        self.submit(&requests).await?;
        self.pooled(1).await?;
        let now_ms = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        let deadline_ms = self.client().submit(&requests[4].body).await?.accepted()?.deadline_at_ms;
        until("the deadline", PATIENCE, async || Ok((now_ms() > u128::from(deadline_ms.0)).then_some(()))).await?;
        Ok(requests)
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_pool() -> Result<()> {
    let stage = Stage::at(Pace::Manual).proxied().raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let requests = stage.overdue(&mut crowd).await?;
    let sent = stage.proxy().injected().taken;
    // It may still be executed, and its owner is told that the promise was missed.
    until("word of the missed promise", PATIENCE, async || {
        let state = stage.client().request(requests[0].id).await?;
        let is_told = |event: &Event| {
            event.reason.as_ref().is_some_and(|reason| *reason == "promise_missed") && event.status == "broadcast"
        };
        Ok((state.status == "broadcast" && state.timeline.iter().any(is_told)).then_some(()))
    })
    .await?;
    let missed = stage.client().metrics().await?.get("slackwater_promises_missed_total").copied();
    assert_eq!(missed.map(|missed| missed.to_string()).as_deref(), Some("5"), "each is counted, once");
    stage.mine_tight(next_base_fee(stage.node()).await?).await?;
    let attempts = stage.wait_attempts(&requests[0], 2).await?;
    assert_eq!((attempts[0].kind.as_str(), attempts[1].kind.as_str()), ("payload", "cancel"));
    until("the cancel in the pool", PATIENCE, async || {
        Ok(stage.proxy().injected().taken.contains(&attempts[1].tx_hash).then_some(()))
    })
    .await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("expired", Some("deadline_passed")), requests.len());
    assert_eq!(truth.relayed.transactions.len(), 1);
    assert_eq!(truth.relayed.transactions[0].hash, attempts[1].tx_hash);
    let batch = stage.batch_of(&requests[0]).await?;
    assert_eq!((batch.state.as_str(), batch.included_hash), ("cancelled", Some(attempts[1].tx_hash)));
    let late: Vec<_> = stage.proxy().injected().taken[sent.len()..].to_vec();
    assert!(!late.contains(&attempts[0].tx_hash), "the payload was sent after its deadline");
    // The users' nonces are unused.
    crowd.users.iter_mut().for_each(|user| user.next_nonce = 0);
    let again = crowd.marks(5);
    stage.submit(&again).await?;
    stage.settle_mining().await?;
    for request in &again {
        assert_eq!(stage.client().request(request.id).await?.status, "finalized");
    }
    stage.close().await
}

#[tokio::test]
async fn the_payload_is_mined_although_a_cancel_was_sent() -> Result<()> {
    let stage = Stage::at(Pace::Manual).proxied().raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let requests = stage.overdue(&mut crowd).await?;
    stage.proxy().add(Rule::always(Fault::DropBefore).on("eth_sendRawTransaction"));
    stage.mine_tight(next_base_fee(stage.node()).await?).await?;
    let attempts = stage.wait_attempts(&requests[0], 2).await?;
    assert_eq!(attempts[1].kind, "cancel");
    stage.mine(1).await?;
    stage.proxy().clear();
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    // Late, but correct.
    assert_eq!(truth.count("finalized", None), requests.len());
    assert_eq!(truth.relayed.transactions.len(), 1);
    assert_eq!(truth.relayed.transactions[0].hash, attempts[0].tx_hash);
    stage.close().await
}

#[tokio::test]
async fn withdrawn_by_its_owner() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\ngap_timeout_ms = 1000\n";
    let stage = Stage::at(Pace::Manual).extra(tenant).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let requests: Vec<_> = (0..3).map(|_| crowd.mark_within(0, "5m")).collect();
    // Without the first, the others wait.
    stage.submit(&requests[1..]).await?;
    let delete = async |request: &SignedRequest| {
        let mut call = get(&format!("/v1/requests/{}", request.id));
        *call.method_mut() = Method::DELETE;
        stage.client().send(call).await
    };
    let answer = delete(&requests[1]).await?;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    // Another request might take its nonce: for a while the next one waits.
    assert_eq!(stage.client().request(requests[2].id).await?.status, "queued");
    for _ in 0..30 {
        stage.mine(1).await?;
        if stage.client().request(requests[2].id).await?.is_terminal() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    for (request, status, reason) in
        [(&requests[1], "cancelled", "cancelled_by_owner"), (&requests[2], "rejected", "predecessor_failed")]
    {
        let state = stage.ended(request.id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), (status, Some(reason)));
    }
    stage.submit(&requests[..1]).await?;
    stage.pooled(1).await?;
    for request in &requests {
        let found = problem(&delete(request).await?)?;
        assert_eq!((found.status, &*found.code), (409, "too_late"));
    }
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), 1);
    stage.close().await
}

/// The chain's clock is a minute ahead of the machine's: a deadline that passes there before a transaction can land is
/// refused, with that reason.
#[tokio::test]
async fn where_the_chains_clock_is_ahead_deadlines_that_it_has_passed_are_refused() -> Result<()> {
    let stage = Stage::at(Pace::Manual).raise().await?;
    stage.node().set_next_timestamp(unix_seconds() + 60).await?;
    stage.mine(1).await?;
    let told = until("the clock to be told", PATIENCE, async || {
        let chains = stage.client().chains().await?;
        let detail = chains["chains"][0]["detail"].as_str().unwrap_or_default().to_owned();
        Ok(detail.contains("ahead of this machine's").then_some(detail))
    })
    .await?;
    assert!(told.contains("set the clock right"), "{told}");
    let mut crowd = Crowd::new(&stage.world, 2);
    let near = stage.client().submit(&crowd.mark_within(0, "20s").body).await?;
    let Submitted::Refused(problem) = near else { panic!("it can't be kept: {near:?}") };
    assert_eq!((problem.status, &*problem.code), (422, "deadline_unreachable"));
    assert!(problem.detail.contains("ahead of the relayer's"), "{problem:?}");
    let far = crowd.mark_within(1, "5m");
    stage.submit(std::slice::from_ref(&far)).await?;
    stage.settle_mining().await?;
    let truth = stage.check(std::slice::from_ref(&far)).await?;
    assert_eq!(truth.count("finalized", None), 1, "what has the time is sent as ever");
    stage.close().await
}
