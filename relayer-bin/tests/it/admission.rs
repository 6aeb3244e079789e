//! Requests beyond a limit are refused, item by item, with the remedy; no other request is.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall;
use slackwater_benches::{
    Result,
    client::{Problem, Submitted},
    wallet::{Ask, Crowd, SignedRequest, batch_body, unix_seconds},
};
use slackwater_contracts::guestbook::IGuestBook::markCall;

use crate::stage::{Pace, Stage};

fn ask(stage: &Stage, gas: u64, tag: &str) -> Ask {
    Ask {
        to: stage.world.guestbook,
        value: U256::ZERO,
        gas,
        data: Bytes::from(markCall { tag: keccak256(tag) }.abi_encode()),
        deadline_s: unix_seconds() + 86_400,
        within: None,
        max_cost_wei: None,
    }
}

impl Stage {
    async fn submit_as_batch(&self, requests: &[SignedRequest]) -> Result<Vec<Submitted>> {
        self.client().submit_batch(batch_body(requests.iter().map(|request| &request.body))).await
    }
}

fn accepted(answers: &[Submitted], requests: &[SignedRequest]) -> Vec<SignedRequest> {
    let pairs = answers.iter().zip(requests);
    pairs.filter(|(answer, _)| answer.refused_with().is_none()).map(|(_, request)| request.clone()).collect()
}

fn refusals(answers: &[Submitted]) -> Vec<&Problem> {
    let refused = |answer: &'_ Submitted| matches!(answer, Submitted::Refused(_));
    answers
        .iter()
        .filter(|answer| refused(answer))
        .map(|answer| match answer {
            Submitted::Refused(problem) => problem,
            Submitted::Accepted(_) => unreachable!("filtered"),
        })
        .collect()
}

#[tokio::test]
async fn one_signers_missing_nonce_takes_nothing_from_the_others() -> Result<()> {
    // About two hundred reservations of typical requests.
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\n\
                  budget = { limit_wei = \"1000000000000000000\", period_s = 0 }\ngap_timeout_ms = 3000\n";
    let stage = Stage::at(Pace::Quarter).extra(tenant).raise().await?;
    let crowd = Crowd::new(&stage.world, 1);
    let hostile = crowd.users[0].account.clone();
    let gapped: Vec<_> =
        (1..=100).map(|nonce| crowd.sign_at(&hostile, nonce, &ask(&stage, 1_900_000, &format!("gap {nonce}")))).collect();
    let answers = stage.submit_as_batch(&gapped).await?;
    let held = accepted(&answers, &gapped);
    assert!(held.len() <= 64, "{} requests behind a gap", held.len());
    for problem in refusals(&answers) {
        assert_eq!((problem.status, problem.code.as_str()), (409, "nonce_gap"), "{problem:?}");
        assert_eq!((problem.extra["missing"].as_u64(), problem.extra["retryable"].as_bool()), (Some(0), Some(true)));
        assert!(problem.extra["retryAfterMs"].is_u64() && problem.detail.contains("(`tenant."), "{problem:?}");
    }
    let mut honest = Crowd::named(&stage.world, "honest", 40);
    let marks = honest.marks(40);
    let answers = stage.submit_as_batch(&marks).await?;
    assert_eq!(accepted(&answers, &marks).len(), marks.len(), "{:?}", refusals(&answers).first());
    for request in &marks {
        stage.ended(request.id).await?;
    }
    // Nobody submitted nonce 0: they end, and give that reason.
    for request in &held {
        let state = stage.ended(request.id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("predecessor_failed")));
        let detail = state.timeline.last().and_then(|event| event.detail.clone()).unwrap_or_default();
        assert!(detail.contains("nonce 0"), "{detail}");
    }
    let all: Vec<_> = marks.into_iter().chain(held).collect();
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), 40);
    stage.close().await
}

#[tokio::test]
async fn of_a_batch_as_many_as_fit_are_accepted() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\nrate_per_s = 1\n";
    let stage = Stage::at(Pace::Quarter).extra(tenant).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let mut open: Vec<SignedRequest> = (0..16).map(|i| crowd.mark(i % 2)).collect();
    // One user's requests come in the wrong order.
    open.swap(0, 14);
    let mut all = Vec::new();
    let mut rounds = 0;
    while !open.is_empty() {
        let answers = stage.submit_as_batch(&open).await?;
        let taken = accepted(&answers, &open);
        if rounds == 0 {
            assert!((10..=12).contains(&taken.len()), "{} of a burst of ten", taken.len());
        }
        for problem in refusals(&answers) {
            assert_eq!((problem.status, problem.code.as_str()), (429, "rate_limited"), "{problem:?}");
            assert!(problem.extra["retryAfterMs"].as_u64().is_some_and(|ms| ms <= 30_000), "{problem:?}");
        }
        let ids: BTreeSet<B256> = taken.iter().map(|request| request.id).collect();
        open.retain(|request| !ids.contains(&request.id));
        all.extend(taken);
        // A refused request takes all later ones of its user with it.
        for user in 0..2 {
            let next = crowd.users[user].next_nonce;
            let mine = |requests: &[SignedRequest]| -> Vec<u64> {
                let of_user = requests.iter().filter(|request| request.forward.from == crowd.users[user].account.address);
                of_user.map(|request| request.forward.nonce.to()).collect()
            };
            let (accepted, left) = (mine(&all), mine(&open));
            let lowest_left = left.iter().min().copied().unwrap_or(next);
            assert!(accepted.iter().all(|nonce| *nonce < lowest_left), "{accepted:?} were accepted, {left:?} not");
        }
        rounds += 1;
        assert!(rounds < 40, "a batch larger than the rate never gets through");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), 16);
    stage.close().await
}

#[tokio::test]
async fn limits_of_open_requests_name_their_keys() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\nmax_open_requests = 6\nmax_open_per_signer = 3\n";
    let stage = Stage::at(Pace::Manual).extra(tenant).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 4);
    let requests: Vec<_> = (0..4).flat_map(|_| (0..3).collect::<Vec<_>>()).map(|user| crowd.mark(user)).collect();
    let answers = stage.submit_as_batch(&requests).await?;
    assert_eq!(accepted(&answers, &requests).len(), 6);
    for problem in refusals(&answers) {
        assert_eq!((problem.status, problem.code.as_str()), (429, "too_many_open"));
        assert!(problem.detail.contains("(`tenant.max_open_requests`)"), "{problem:?}");
    }
    stage.settle_mining().await?;
    // Included requests free their places at once.
    let one: Vec<_> = (0..4).map(|_| crowd.mark(3)).collect();
    let answers = stage.submit_as_batch(&one).await?;
    assert_eq!(accepted(&answers, &one).len(), 3);
    let refused = refusals(&answers);
    assert!(refused[0].detail.contains("(`tenant.max_open_per_signer`)"), "{refused:?}");
    stage.settle_mining().await?;
    stage.close().await
}

#[tokio::test]
async fn the_first_answer_outlives_the_deadline() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    let request = crowd.mark_within(0, "3s");
    let first = stage.client().submit(&request.body).await?.accepted()?;
    assert_eq!(stage.ended(request.id).await?.status, "finalized");
    let data = request.forward.deadline;
    while u128::from(first.deadline_at_ms)
        > std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis())
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // As submitted: a span that started when the request arrived.
    let again = stage.client().submit(&request.body).await?.accepted()?;
    assert_eq!((again.duplicate, &again.promise, again.deadline_at_ms), (true, &first.promise, first.deadline_at_ms));
    // The same with a deadline that has passed.
    let mut body: serde_json::Value = serde_json::from_slice(&request.body).expect("a body of ours");
    body.as_object_mut().expect("an object").remove("within");
    body["deadline"] = serde_json::json!(first.deadline_at_ms / 1_000);
    let again = stage.client().submit(&hyper::body::Bytes::from(body.to_string())).await?.accepted()?;
    assert_eq!((again.duplicate, again.id), (true, first.id), "signed until {data}");
    stage.check(std::slice::from_ref(&request)).await?;
    stage.close().await
}

/// A user may submit with a used nonce any number of times: nodes are asked about it once per block, not each time.
#[tokio::test]
async fn a_used_nonce_is_looked_up_once_in_a_block() -> Result<()> {
    const TIMES: u64 = 30;
    let stage = Stage::at(Pace::Manual).proxied().raise().await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    stage.submit(&[crowd.mark(0)]).await?;
    stage.settle_mining().await?;
    stage.mine(1).await?;
    let account = crowd.users[0].account.clone();
    let calls = || stage.proxy().injected().calls.get("eth_call").copied().unwrap_or_default();
    let before = calls();
    for time in 0..TIMES {
        let again = crowd.sign_at(&account, 0, &ask(&stage, 100_000, &format!("again {time}")));
        let answer = stage.client().submit(&again.body).await?;
        assert!(matches!(answer, Submitted::Refused(_)), "{answer:?}");
    }
    let asked = calls() - before;
    assert!(asked < TIMES / 3, "{asked} calls for {TIMES} submissions");
    stage.close().await
}
