use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, Bytes, U256, keccak256};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    CallAsk, ForwardBuilder, HttpAnswer, KeySigner, Method, RetryPolicy, SignDigest as _, Submit, TransportError,
    TransportErrorKind,
    request::{Forward, ForwarderDomain, Promise, Status},
};

const START: Timestamp = Timestamp(1_000_000);

fn submit(user: u8, nonce: u64, deadline_s: u64) -> Submit {
    Submit::forward(
        31_337,
        Forward {
            forwarder: Address::repeat_byte(0xF0),
            from: Address::repeat_byte(user),
            to: Address::repeat_byte(7),
            value: U256::ZERO,
            gas: U256::from(50_000),
            nonce: U256::from(nonce),
            deadline: deadline_s,
            data: Bytes::new(),
            signature: Bytes::from(vec![user; 65]),
        },
    )
}

/// Id assigned to a request by the model server.
fn id_of(key: &str) -> RequestId {
    RequestId(keccak256(key.as_bytes()))
}

fn accepted_json(key: &str, is_duplicate: bool) -> Value {
    let id = id_of(key);
    json!({
        "id": id, "status": "queued", "chainId": 31_337, "deadlineAtMs": 1, "acceptedAtMs": 1, "duplicate": is_duplicate,
        "promise": { "requestHash": id, "chainId": 31_337, "deadline": 1, "relayer": Address::ZERO, "signature": "0x" },
        "newMember": { "of": "a newer relayer" },
    })
}

fn problem_json(status: u16, code: &str) -> Value {
    json!({ "type": format!("urn:slackwater:problem:{code}"), "title": "x", "status": status, "detail": "x", "code": code,
            "retryable": status == 429 || status == 503, "ambiguous": code == "storage_unavailable" })
}

fn answer(status: u16, body: &Value) -> HttpAnswer {
    HttpAnswer { status, headers: Vec::new(), body: body.to_string().into_bytes() }
}

fn broken() -> Result<HttpAnswer, TransportError> {
    Err(TransportError::new(TransportErrorKind::Broken, "x"))
}

/// Key of a relayer.
fn relayer(seed: u8) -> KeySigner {
    KeySigner::from_bytes(&[seed; 32]).unwrap()
}

/// An acceptance with `signer`'s promise.
fn promised_json(key: &str, signer: &KeySigner) -> Value {
    promised(id_of(key), 31_337, START.as_secs() + 60, signer)
}

fn promised(id: RequestId, chain_id: u64, deadline_s: u64, signer: &KeySigner) -> Value {
    let promise = Promise { request_hash: id, chain_id, deadline: deadline_s, relayer: signer.address() };
    json!({
        "id": id, "status": "queued", "chainId": chain_id, "deadlineAtMs": deadline_s * 1_000, "acceptedAtMs": 1,
        "duplicate": false,
        "promise": {
            "requestHash": promise.request_hash, "chainId": promise.chain_id, "deadline": promise.deadline,
            "relayer": promise.relayer, "signature": Bytes::from(signer.sign_digest(promise.digest()).unwrap()),
        },
    })
}

fn outbox_for(url: &str, identities: &[&KeySigner]) -> Outbox {
    let identities = identities.iter().map(|signer| signer.address());
    Outbox::new(quick()).addressed_to(Addressee::new(url, identities))
}

/// Content of the storage after all commands.
fn records(outbox: &mut Outbox) -> BTreeMap<String, String> {
    let mut records = BTreeMap::new();
    while let Some(command) = outbox.next_command() {
        match command {
            Command::Store { key, record, revision } => {
                records.insert(key.to_string(), record);
                outbox.stored(START, &key, revision);
            }
            Command::Remove { key } => drop(records.remove(key.as_str())),
            Command::Send { .. } | Command::Report { .. } => {}
        }
    }
    records
}

#[test]
fn only_pinned_identities_accept() {
    let (old, new, stranger) = (relayer(1), relayer(2), relayer(3));
    for (signer, is_good) in [(&old, true), (&new, true), (&stranger, false)] {
        let mut outbox = outbox_for("http://a", &[&old, &new]);
        let key = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
        let (sends, _) = settle(&mut outbox, START);
        outbox.answered(START, sends[0].0, Ok(answer(202, &promised_json(key.as_str(), signer))), 0);
        let (sends, reports) = settle(&mut outbox, START);
        assert!(sends.is_empty(), "a stranger's word about itself is worth nothing");
        match &reports[0].1 {
            Outcome::Accepted { accepted } => {
                assert!(is_good);
                assert_eq!(accepted.promise.relayer.0, signer.address());
            }
            Outcome::Refused { code, problem: Some(problem), may_be_accepted: true } => {
                assert!(!is_good && code == "bad_promise" && problem.ambiguous);
                assert!(problem.detail.contains(&stranger.address().to_string()), "{}", problem.detail);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_resumed_is_checked_against_the_pin_too() {
    let (pinned, stranger) = (relayer(1), relayer(2));
    let mut outbox = outbox_for("http://a", &[]);
    let key = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
    let waiting = records(&mut outbox);
    outbox.timeout(START);
    let bad = |reports: &Reports| matches!(&reports[0].1, Outcome::Refused { code, .. } if code == "bad_promise");
    // It was waiting when the page was closed.
    let mut again = outbox_for("http://a", &[&pinned]);
    assert_eq!(again.load(START, &waiting).loaded, 1);
    let (sends, _) = settle(&mut again, START);
    again.answered(START, sends[0].0, Ok(answer(202, &promised_json(key.as_str(), &stranger))), 0);
    assert!(bad(&settle(&mut again, START).1));
    // It had been accepted without a check of the identity.
    let mut former = outbox_for("http://a", &[]);
    former.load(START, &waiting);
    let (sends, _) = settle(&mut former, START);
    former.answered(START, sends[0].0, Ok(answer(202, &promised_json(key.as_str(), &stranger))), 0);
    let ended = records(&mut former);
    let mut again = outbox_for("http://a", &[&pinned]);
    again.load(START, &ended);
    assert!(bad(&settle(&mut again, START).1));
}

#[test]
fn entries_go_to_the_relayer_that_they_are_for() {
    let (old, new, other) = (relayer(1), relayer(2), relayer(3));
    let taken = |records: &BTreeMap<String, String>, url: &str, identities: &[&KeySigner]| {
        let mut outbox = outbox_for(url, identities);
        let report = outbox.load(START, records);
        assert_eq!((report.loaded + report.foreign.len(), report.damaged.len()), (1, 0));
        let (sends, _) = settle(&mut outbox, START.saturating_add(Duration::from_secs(1)));
        assert_eq!(sends.len(), report.loaded, "what is another's is not sent");
        (report.loaded == 1, outbox)
    };
    let stored = |url: &str, identities: &[&KeySigner]| {
        let mut outbox = outbox_for(url, identities);
        enqueue(&mut outbox, &submit(1, 0, 9_000_000));
        records(&mut outbox)
    };
    // By address, if no identity is known.
    let by_url = stored("http://a/", &[]);
    assert!(taken(&by_url, "http://a", &[]).0 && !taken(&by_url, "http://b", &[]).0);
    assert!(taken(&by_url, "http://a", &[&old]).0 && !taken(&by_url, "http://b", &[&old]).0);
    // By identity, regardless of the address; through a rotation, in which both are pinned.
    let by_identity = stored("http://a", &[&old]);
    assert!(taken(&by_identity, "http://b", &[&new, &old]).0);
    assert!(!taken(&by_identity, "http://a", &[&other]).0, "another relayer took its place");
    let mut rotating = outbox_for("http://a", &[&old, &new]);
    rotating.load(START, &by_identity);
    let rotated = records(&mut rotating);
    assert!(taken(&rotated, "http://c", &[&new]).0, "what is loaded is stored with the identities of now");
    // A foreign entry is not replaced, nor is the same request sent twice under its key.
    let (is_taken, mut outbox) = taken(&by_identity, "http://b", &[&other]);
    assert!(!is_taken);
    let refused = outbox.enqueue(START, &submit(1, 0, 9_000_000), Enqueue::default());
    assert!(matches!(refused, Err(OutboxError::OtherRelayer(_))));
    // An outbox without an addressee can't tell.
    assert_eq!(Outbox::new(quick()).load(START, &by_url).foreign, ["http://a"]);
    // Records of an earlier version state no relayer.
    let mut nameless = Outbox::new(quick());
    enqueue(&mut nameless, &submit(1, 0, 9_000_000));
    assert!(taken(&records(&mut nameless), "http://a", &[&old]).0);
}

/// Outcome of a submission answered with `accepted`, `later` after it was sent.
fn outcome_of(submit: &Submit, accepted: &Value, later: Duration) -> Outcome {
    let mut outbox = outbox_for("http://a", &[&relayer(1)]);
    outbox.enqueue(START, submit, Enqueue::default()).unwrap();
    let (sends, _) = settle(&mut outbox, START);
    let now = START.saturating_add(later);
    outbox.answered(now, sends[0].0, Ok(answer(202, accepted)), 0);
    settle(&mut outbox, now).1.remove(0).1
}

fn call(salt: &[u8]) -> Submit {
    let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 60_000, data: Bytes::new(), any_sender: true };
    Submit::call(31_337, ask, salt)
}

fn is_bad(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Accepted { .. } => false,
        Outcome::Refused { code, may_be_accepted: true, .. } if code == "bad_promise" => true,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_promise_is_held_against_the_time_that_was_asked_for() {
    let (signer, id, asked_s) = (relayer(1), id_of("x"), START.as_secs());
    let (soon, late) = (Duration::from_secs(1), Duration::from_secs(600));
    let answered = |submit: &Submit, deadline_s, is_duplicate, later| {
        let mut accepted = promised(id, 31_337, deadline_s, &signer);
        accepted["duplicate"] = json!(is_duplicate);
        is_bad(&outcome_of(submit, &accepted, later))
    };
    let within = call(b"1").within(Duration::from_secs(30));
    assert!(!answered(&within, asked_s + 30, false, soon));
    assert!(!answered(&within, asked_s + 31 + 3_600, false, soon), "as far as clocks can tell");
    assert!(answered(&within, asked_s + 32 + 3_600, false, soon), "later than asked");
    assert!(!answered(&within, asked_s + 300, false, late), "it may have arrived late");
    let by = call(b"1").deadline(Timestamp::from_secs(asked_s + 700));
    assert!(!answered(&by, asked_s + 700, false, late));
    assert!(answered(&by, asked_s + 4_301, false, late), "later than asked, whenever it arrived");
    let any = call(b"1");
    assert!(!answered(&any, asked_s + 1_000_000, false, soon), "no time was asked for");
    // A repeated earlier answer.
    assert!(!answered(&within, asked_s - 500, true, soon));
    assert!(!answered(&within, asked_s + 9_000, true, soon), "it was asked for with another time");
}

#[test]
fn a_promise_for_a_call_is_about_its_chain_and_no_other_submission() {
    let (signer, deadline_s) = (relayer(1), START.as_secs() + 60);
    let soon = Duration::from_secs(1);
    assert!(!is_bad(&outcome_of(&call(b"1"), &promised(id_of("x"), 31_337, deadline_s, &signer), soon)));
    assert!(is_bad(&outcome_of(&call(b"1"), &promised(id_of("x"), 1, deadline_s, &signer), soon)));
    // One request for three submissions would leave two that nobody executes.
    let mut outbox = outbox_for("http://a", &[&signer]);
    let forward = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
    let (mine, other) = (call(b"1"), call(b"2"));
    for call in [&mine, &other] {
        outbox.enqueue(START, call, Enqueue::default()).unwrap();
    }
    let (sends, _) = settle(&mut outbox, START);
    let by_path = |single: bool| sends.iter().filter(move |(_, http)| bodies(http).len() == 1 && single).count();
    assert_eq!(by_path(true), 3, "each in a call of its own");
    let of_forward = promised(id_of(forward.as_str()), 31_337, deadline_s, &signer);
    let of_call = promised(id_of("x"), 31_337, deadline_s, &signer);
    let mut ended = BTreeMap::new();
    for (send, http) in &sends {
        let key = key_in(&bodies(http)[0]);
        let is_mine = key == mine.key().as_str();
        let accepted = if is_mine || key == forward.as_str() { &of_forward } else { &of_call };
        outbox.answered(START, *send, Ok(answer(202, accepted)), 0);
        ended.extend(settle(&mut outbox, START).1);
    }
    assert!(!is_bad(&ended[&forward]) && !is_bad(&ended[&other.key()]));
    assert!(is_bad(&ended[&mine.key()]));
}

/// Bodies in a call, as sent.
fn bodies(http: &HttpCall) -> Vec<Value> {
    let Some(body) = &http.body else { return Vec::new() };
    let body: Value = serde_json::from_str(body).unwrap();
    match body.get("requests") {
        Some(requests) => requests.as_array().unwrap().clone(),
        None => vec![body],
    }
}

fn key_in(body: &Value) -> String {
    body["idempotencyKey"].as_str().unwrap().to_owned()
}

fn quick() -> OutboxConfig {
    OutboxConfig { linger: Duration::ZERO, ..OutboxConfig::default() }
}

type Sends = Vec<(u64, HttpCall)>;
type Reports = Vec<(IdempotencyKey, Outcome)>;

/// Carries out all storage commands; returns calls and reports.
fn settle(outbox: &mut Outbox, now: Timestamp) -> (Sends, Reports) {
    let (mut sends, mut reports) = (Vec::new(), Vec::new());
    while let Some(command) = outbox.next_command() {
        match command {
            Command::Store { key, revision, .. } => outbox.stored(now, &key, revision),
            Command::Remove { .. } => {}
            Command::Send { send, http } => sends.push((send, http)),
            Command::Report { key, outcome } => reports.push((key, outcome)),
        }
    }
    (sends, reports)
}

fn enqueue(outbox: &mut Outbox, submit: &Submit) -> IdempotencyKey {
    let request_id = Some(id_of(submit.key().as_str()));
    outbox.enqueue(START, submit, Enqueue { expires_at: None, request_id }).unwrap()
}

/// The nonce that user 1 would get now, with an outbox that has only read `records`.
fn next_nonce(outbox: &mut Outbox, now: Timestamp, elsewhere: &[Place]) -> u64 {
    let domain = ForwarderDomain::new("Slackwater", 31_337, Address::repeat_byte(0xF0));
    let builder = ForwardBuilder::new(domain, Address::repeat_byte(1), Address::repeat_byte(7)).deadline_s(9_000_000);
    let assigned = outbox.nonces().assign(now, builder, Some(U256::ZERO), elsewhere).unwrap();
    outbox.nonces().free(assigned.id());
    assigned.forward().nonce.to()
}

#[test]
fn entries_and_what_was_accepted_hold_their_nonces() {
    let make = || Outbox::new(quick()).counting_nonces();
    let mut outbox = make();
    let keys: Vec<_> = (0..5).map(|nonce| enqueue(&mut outbox, &submit(1, nonce, 9_000_000))).collect();
    let far = submit(1, 5, 9_000_000);
    assert!(outbox.enqueue(START, &far, Enqueue { expires_at: Some(START), request_id: None }).is_err());
    assert_eq!(next_nonce(&mut outbox, START, &[]), 5, "what was not taken holds nothing");
    let stored = records(&mut outbox);
    let (mut other, elsewhere) = (make(), outbox.reload_nonces(START, &stored));
    assert!(elsewhere.is_empty(), "they are its own");
    let elsewhere = other.reload_nonces(START, &stored);
    assert_eq!(next_nonce(&mut other, START, &elsewhere), 5, "another one on the same storage sees them");

    let mut outbox = make();
    outbox.load(START, &stored);
    let (sends, _) = settle(&mut outbox, START);
    let mut accepted = accepted_json(keys[0].as_str(), false);
    accepted["validUntilMs"] = json!(2_000_000);
    let refused = |code| json!({ "status": 409, "problem": problem_json(409, code) });
    let results = json!({ "results": [
        { "status": 202, "accepted": accepted }, refused("nonce_conflict"), refused("policy_denied"),
        refused("already_submitted"), refused("policy_denied"),
    ] });
    outbox.answered(START, sends[0].0, Ok(answer(207, &results)), 0);
    let mut stored = records(&mut outbox);
    // They were loaded, so they may have been sent before, and are looked up.
    outbox.timeout(START);
    for send in 2..=3 {
        outbox.answered(START, send, Ok(answer(404, &problem_json(404, "not_found"))), 0);
    }
    stored.extend(records(&mut outbox));
    let names: Vec<&String> = stored.keys().filter(|key| key.starts_with("nonce:")).collect();
    let nonces: Vec<&str> = names.iter().map(|key| key.rsplit(':').next().unwrap()).collect();
    assert_eq!(nonces, ["0", "3"], "what was accepted, and what may have been");
    assert_eq!(stored[names[0]], format!("2060000 {}", id_of(keys[0].as_str())));
    assert_eq!(next_nonce(&mut outbox, START, &[]), 2, "refused for another reason than its nonce");

    // Without the entries, after a reload.
    stored.retain(|key, _| key.starts_with("nonce:"));
    let mut again = make();
    again.load(START, &stored);
    assert_eq!(next_nonce(&mut again, START, &[]), 1);
    again.nonces().told(START, id_of(keys[0].as_str()), Status::Expired);
    assert_eq!(next_nonce(&mut again, START, &[]), 0);
    assert!(matches!(again.next_command(), Some(Command::Remove { key }) if key.as_str().ends_with(":0")));
    // An outbox that does not count keeps none.
    let mut plain = Outbox::new(quick());
    enqueue(&mut plain, &submit(1, 0, 9_000_000));
    assert_eq!(next_nonce(&mut plain, START, &[]), 0);
}

#[test]
fn a_burst_shares_calls_and_each_gets_its_own_answer() {
    let mut outbox = Outbox::new(OutboxConfig { max_batch_items: 3, max_calls: 1, ..OutboxConfig::default() });
    let keys: Vec<_> = (1..=5).map(|user| enqueue(&mut outbox, &submit(user, 0, 9_000_000))).collect();
    let (sends, _) = settle(&mut outbox, START);
    assert_eq!(sends.len(), 1, "full at once, and no second call at a time");
    let (send, http) = &sends[0];
    assert_eq!((http.method, http.path.as_str(), bodies(http).len()), (Method::Post, "/v1/requests/batch", 3));
    let results = json!({ "results": [
        { "status": 202, "accepted": accepted_json(keys[0].as_str(), false) },
        { "status": 422, "problem": problem_json(422, "invalid_signature") },
        { "status": 503, "problem": problem_json(503, "chain_unavailable") },
    ] });
    outbox.answered(START, *send, Ok(answer(207, &results)), u64::MAX);
    let (sends, reports) = settle(&mut outbox, START.saturating_add(Duration::from_millis(10)));
    assert_eq!(bodies(&sends[0].1).len(), 2, "the rest, while the third waits");
    assert!(matches!(&reports[0], (key, Outcome::Accepted { accepted }) if *key == keys[0] && !accepted.duplicate));
    assert!(matches!(&reports[1], (key, Outcome::Refused { code, may_be_accepted: false, .. })
        if *key == keys[1] && code == "invalid_signature"));
    let third = outbox.entry(&keys[2]).unwrap();
    assert_eq!((third.state, third.last_error_code.as_deref()), (EntryState::Waiting, Some("chain_unavailable")));
}

#[test]
fn later_nonces_go_behind_earlier_ones() {
    let mut outbox = Outbox::new(OutboxConfig { max_batch_items: 2, ..quick() });
    // Enqueued in the wrong order, and stored before anything is sent.
    for nonce in [2, 0, 1] {
        enqueue(&mut outbox, &submit(1, nonce, 9_000_000));
    }
    let stores: Vec<_> = std::iter::from_fn(|| outbox.next_command()).collect();
    for command in stores.iter().rev() {
        let Command::Store { key, revision, .. } = command else { panic!("{command:?}") };
        outbox.stored(START, key, *revision);
    }
    let nonces = |http: &HttpCall| -> Vec<String> {
        bodies(http).iter().map(|body| body["forward"]["nonce"].as_str().unwrap().to_owned()).collect()
    };
    let (sends, _) = settle(&mut outbox, START);
    // Nonce 1 was stored first and could not be sent: 0 was not there yet. Then 0 went alone immediately, without
    // lingering.
    let sent: Vec<_> = sends.iter().map(|(_, http)| nonces(http)).collect();
    assert_eq!(sent, [["0", "1"]]);
    let (send, http) = &sends[0];
    let busy: Vec<_> =
        bodies(http).iter().map(|_| json!({ "status": 429, "problem": problem_json(429, "rate_limited") })).collect();
    outbox.answered(START, *send, Ok(answer(207, &json!({ "results": busy }))), 0);
    let later = START.saturating_add(Duration::from_secs(1));
    outbox.timeout(later);
    let (sends, _) = settle(&mut outbox, later);
    assert_eq!(sends.iter().map(|(_, http)| nonces(http)).collect::<Vec<_>>(), [["0", "1"]], "again, in order");
}

#[test]
fn a_batch_that_is_too_large_is_halved() {
    let mut outbox = Outbox::new(OutboxConfig { max_batch_items: 4, max_calls: 4, ..OutboxConfig::default() });
    for user in 1..=4 {
        enqueue(&mut outbox, &submit(user, 0, 9_000_000));
    }
    let (sends, _) = settle(&mut outbox, START);
    outbox.answered(START, sends[0].0, Ok(HttpAnswer { status: 413, ..HttpAnswer::default() }), 0);
    let (sends, _) = settle(&mut outbox, START);
    assert_eq!(sends.iter().map(|(_, http)| bodies(http).len()).collect::<Vec<_>>(), [2, 2]);
    // A refusal of a batch as a whole: each is sent alone.
    outbox.answered(START, sends[0].0, Ok(answer(400, &problem_json(400, "malformed_json"))), 0);
    let (sends, _) = settle(&mut outbox, START);
    assert_eq!(sends.iter().map(|(_, http)| http.path.as_str()).collect::<Vec<_>>(), ["/v1/requests"; 2]);
}

#[test]
fn what_may_be_accepted_is_looked_up_before_it_ends() {
    let mut outbox = Outbox::new(quick());
    let key = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
    let (sends, _) = settle(&mut outbox, START);
    outbox.answered(START, sends[0].0, broken(), 0);
    let later = START.saturating_add(Duration::from_secs(60));
    outbox.timeout(later);
    let (sends, _) = settle(&mut outbox, later);
    assert!(outbox.entry(&key).unwrap().may_be_accepted);
    // The price has risen since: refused now, accepted then.
    outbox.answered(later, sends[0].0, Ok(answer(402, &problem_json(402, "max_cost_too_low"))), 0);
    let (sends, reports) = settle(&mut outbox, later);
    assert!(reports.is_empty());
    assert_eq!(sends[0].1.path, format!("/v1/requests/{}", id_of(key.as_str())));
    let mut detail = accepted_json(key.as_str(), false);
    let more = json!({ "kind": "forward", "target": Address::ZERO, "updatedAtMs": 1, "reason": "some_new_reason" });
    detail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    outbox.answered(later, sends[0].0, Ok(answer(200, &detail)), 0);
    let (_, reports) = settle(&mut outbox, later);
    assert!(matches!(&reports[0].1, Outcome::Accepted { accepted } if accepted.duplicate));
}

/// A gateway has codes of its own, and may have forwarded a call before it timed out.
#[test]
fn a_gateways_code_proves_nothing() {
    let not_there = answer(404, &problem_json(404, "not_found"));
    let unknown_path = answer(404, &problem_json(404, "unknown_path"));
    for (status, code, is_passed_on) in [
        (504, "FST_REPLY_FROM_GATEWAY_TIMEOUT", true),
        (501, "E_UPSTREAM", true),
        (302, "moved", true),
        (500, "internal", true),
        (503, "overloaded", false),
        (403, "policy_denied", false),
    ] {
        let mut outbox = Outbox::new(quick());
        let key = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
        let (sends, _) = settle(&mut outbox, START);
        let body = json!({ "statusCode": status, "code": code, "error": "x" });
        outbox.answered(START, sends[0].0, Ok(answer(status, &body)), 0);
        let (again, _) = settle(&mut outbox, START);
        let may_be_accepted = outbox.entry(&key).unwrap().may_be_accepted;
        assert_eq!(may_be_accepted, is_passed_on, "{status} {code}");
        if status != 302 {
            continue;
        }
        // A request that can't be sent again is looked up; a missing path says nothing about the request.
        assert_eq!(again[0].1.method, Method::Get);
        for (found, in_doubt) in [(&unknown_path, true), (&not_there, false)] {
            let mut outbox = Outbox::new(quick());
            enqueue(&mut outbox, &submit(1, 0, 9_000_000));
            let (sends, _) = settle(&mut outbox, START);
            outbox.answered(START, sends[0].0, Ok(answer(status, &body)), 0);
            let (sends, _) = settle(&mut outbox, START);
            outbox.answered(START, sends[0].0, Ok(found.clone()), 0);
            let (_, reports) = settle(&mut outbox, START);
            assert!(
                matches!(&reports[0].1, Outcome::Refused { may_be_accepted, .. } if *may_be_accepted == in_doubt),
                "{reports:?}"
            );
        }
    }
}

#[test]
fn what_another_tenant_has_submitted_is_accepted() {
    let mut outbox = Outbox::new(quick());
    enqueue(&mut outbox, &submit(1, 0, 9_000_000));
    let (sends, _) = settle(&mut outbox, START);
    outbox.answered(START, sends[0].0, Ok(answer(409, &problem_json(409, "already_submitted"))), 0);
    let (sends, reports) = settle(&mut outbox, START);
    assert!(sends.is_empty(), "whose it is not is told that there is nothing");
    assert!(
        matches!(&reports[0].1, Outcome::Refused { code, may_be_accepted: true, .. } if code == "already_submitted")
    );
}

#[test]
fn expiry_ends_what_nobody_answers() {
    let mut outbox = Outbox::new(quick());
    let known = enqueue(&mut outbox, &submit(1, 0, START.as_secs() + 10));
    let unknown = outbox.enqueue(START, &submit(2, 0, START.as_secs() + 10), Enqueue::default()).unwrap();
    let (mut now, mut ended) = (START, BTreeMap::new());
    for round in 0..2_000 {
        let (sends, reports) = settle(&mut outbox, now);
        ended.extend(reports);
        for (send, http) in sends {
            assert!(http.method == Method::Get || now.as_secs() < START.as_secs() + 10, "sent after its expiry");
            outbox.answered(now, send, broken(), u64::MAX - round);
        }
        if let Some(next) = outbox.next_timeout() {
            now = now.max(next);
            outbox.timeout(now);
        }
    }
    let in_doubt = Outcome::Expired { may_be_accepted: true };
    assert_eq!(ended, BTreeMap::from([(known, in_doubt.clone()), (unknown, in_doubt)]));
    assert!(now.since(START) < Duration::from_secs(10 + 600 + 20), "{now}");
}

#[test]
fn records_come_back_and_damaged_ones_are_named() {
    let mut outbox = Outbox::new(quick());
    let key = enqueue(&mut outbox, &submit(1, 3, 9_000_000));
    let Some(Command::Store { record, .. }) = outbox.next_command() else { panic!("stored first") };
    let mut again = Outbox::new(quick());
    let newer = record.replace("\"version\":1", "\"version\":2");
    let records = [(key.as_str(), record.as_str()), ("x", "{"), ("y", record.as_str()), ("z", newer.as_str())];
    let report = again.load(START, records);
    let damaged = vec!["x".to_owned(), "y".to_owned(), "z".to_owned()];
    assert_eq!(report, LoadReport { loaded: 1, damaged, foreign: Vec::new() });
    let (sends, _) = settle(&mut again, START);
    assert_eq!(sends[0].1.body, Some(submit(1, 3, 9_000_000).body()), "the same bytes");
    assert!(!again.withdraw(START, &key), "it may have been sent");
    assert_eq!(enqueue(&mut again, &submit(1, 3, 9_000_000)), key, "the same request is the same entry");
    assert_eq!(again.len(), 1);
}

#[test]
fn an_entry_says_whose_nonce_it_holds_also_after_a_crash() {
    let mut outbox = Outbox::new(quick());
    enqueue(&mut outbox, &submit(3, 41, 9_000_000));
    let Some(Command::Store { key, record, .. }) = outbox.next_command() else { panic!("stored first") };
    let mut again = Outbox::new(quick());
    again.load(START, [(key.as_str(), record.as_str())]);
    let user = User { chain_id: 31_337, forwarder: Address::repeat_byte(0xF0), from: Address::repeat_byte(3) };
    let place = Some(Place { user, nonce: U256::from(41) });
    for outbox in [&outbox, &again] {
        assert!(outbox.entries().map(|entry| entry.place).eq([place]));
    }
    let shown = serde_json::to_value(place).unwrap();
    assert_eq!(shown["nonce"], "41", "decimal digits");
}

#[test]
fn what_is_not_taken() {
    let mut outbox = Outbox::new(OutboxConfig { max_entries: 1, ..quick() });
    let mine = IdempotencyKey::new("order-7").unwrap();
    let first = submit(1, 0, 9_000_000).idempotency_key(mine.clone());
    enqueue(&mut outbox, &first);
    let other = submit(1, 1, 9_000_000).idempotency_key(mine.clone());
    let refuse = |outbox: &mut Outbox, submit: &Submit| outbox.enqueue(START, submit, Enqueue::default()).unwrap_err();
    assert_eq!(refuse(&mut outbox, &other), OutboxError::KeyConflict(mine.clone()));
    let full = refuse(&mut outbox, &submit(1, 1, 9_000_000));
    assert_eq!(full, OutboxError::Full { entries: 1, limit: 1 });
    assert!(outbox.withdraw(START, &mine) && outbox.is_empty());
    assert!(matches!(refuse(&mut outbox, &submit(1, 1, 1_000)), OutboxError::Expired { .. }));
}

#[test]
fn a_write_of_a_forgotten_entry_is_not_its_successors() {
    let mut outbox = Outbox::new(quick());
    let request = submit(1, 0, 9_000_000);
    let key = enqueue(&mut outbox, &request);
    let Some(Command::Store { revision, .. }) = outbox.next_command() else { panic!("stored first") };
    assert!(outbox.withdraw(START, &key));
    enqueue(&mut outbox, &request);
    outbox.stored(START, &key, revision);
    let sent = std::iter::from_fn(|| outbox.next_command()).any(|command| matches!(command, Command::Send { .. }));
    assert!(!sent, "the second record is not stored");
}

#[test]
fn an_acceptance_of_another_request_is_none() {
    let mut outbox = Outbox::new(quick());
    let key = enqueue(&mut outbox, &submit(1, 0, 9_000_000));
    let (sends, _) = settle(&mut outbox, START);
    outbox.answered(START, sends[0].0, Ok(answer(202, &accepted_json("another", false))), u64::MAX);
    let view = outbox.entry(&key).unwrap();
    assert_eq!((view.state, view.last_error_code.as_deref()), (EntryState::Waiting, Some("unreadable_answer")));
}

/// A relayer as seen by the outbox.
#[derive(Default)]
struct Server {
    /// First body seen for each key. Two bodies for one key, or two keys for one request, are a fault.
    bodies: BTreeMap<String, Value>,
    accepted: BTreeSet<String>,
    keys_of: BTreeMap<String, String>,
}

impl Server {
    fn take(&mut self, body: &Value, now: Timestamp, refusal: Option<&str>) -> Value {
        let key = key_in(body);
        let first = self.bodies.entry(key.clone()).or_insert_with(|| body.clone());
        assert_eq!(first, body, "one key, two bodies");
        let first_key = self.keys_of.entry(body["forward"].to_string()).or_insert_with(|| key.clone());
        assert_eq!(*first_key, key, "one request, two keys");
        // Like the real one: time and prices are checked before the request is recognised as a duplicate.
        if now.as_secs() >= body["forward"]["deadline"].as_u64().unwrap() {
            return json!({ "status": 422, "problem": problem_json(422, "deadline_expired") });
        }
        if let Some(code) = refusal {
            let status = if code == "rate_limited" { 429 } else { 402 };
            return json!({ "status": status, "problem": problem_json(status, code) });
        }
        let is_duplicate = !self.accepted.insert(key.clone());
        json!({ "status": 202, "accepted": accepted_json(&key, is_duplicate) })
    }

    fn call(&mut self, http: &HttpCall, now: Timestamp, refuse: impl Fn(usize) -> Option<&'static str>) -> HttpAnswer {
        if http.method == Method::Get {
            let known = self.accepted.iter().find(|key| http.path.ends_with(&id_of(key).to_string()));
            return match known {
                Some(key) => {
                    let mut detail = accepted_json(key, true);
                    let more = json!({ "kind": "forward", "target": Address::ZERO, "updatedAtMs": 1 });
                    detail.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                    answer(200, &detail)
                }
                None => answer(404, &problem_json(404, "not_found")),
            };
        }
        let results: Vec<Value> =
            bodies(http).iter().enumerate().map(|(at, body)| self.take(body, now, refuse(at))).collect();
        if http.path.ends_with("batch") {
            return answer(207, &json!({ "results": results }));
        }
        let status = u16::try_from(results[0]["status"].as_u64().unwrap()).unwrap();
        answer(status, results[0].get("accepted").or_else(|| results[0].get("problem")).unwrap())
    }
}

/// A program with an outbox that may crash anywhere, on unreliable storage and network.
struct World {
    outbox: Outbox,
    config: OutboxConfig,
    now: Timestamp,
    rng: u64,
    storage: BTreeMap<String, String>,
    writes: Vec<Command>,
    sends: Vec<(u64, HttpCall)>,
    server: Server,
    durable: BTreeSet<String>,
    reported: BTreeMap<String, Outcome>,
    acknowledged: BTreeSet<String>,
    requests: BTreeMap<String, Submit>,
    has_refusals: bool,
}

impl World {
    fn new(seed: u64, has_refusals: bool) -> Self {
        let retry =
            RetryPolicy { base: Duration::from_millis(50), cap: Duration::from_secs(2), ..RetryPolicy::default() };
        let config = OutboxConfig { retry, max_batch_items: 4, max_calls: 2, ..OutboxConfig::default() };
        Self {
            outbox: Outbox::new(config),
            config,
            now: START,
            rng: seed | 1,
            storage: BTreeMap::new(),
            writes: Vec::new(),
            sends: Vec::new(),
            server: Server::default(),
            durable: BTreeSet::new(),
            reported: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            requests: BTreeMap::new(),
            has_refusals,
        }
    }

    fn random(&mut self) -> u64 {
        // splitmix64
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn pick(&mut self, n: usize) -> usize {
        usize::try_from(self.random() % n as u64).unwrap()
    }

    /// Collects the outbox's commands and checks the invariants of each.
    fn collect(&mut self) {
        while let Some(command) = self.outbox.next_command() {
            match command {
                Command::Store { .. } | Command::Remove { .. } => self.writes.push(command),
                Command::Send { send, http } => {
                    self.check_call(&http);
                    self.sends.push((send, http));
                }
                Command::Report { key, outcome } => {
                    let key = key.as_str().to_owned();
                    assert!(
                        self.storage.get(&key).is_some_and(|record| record.contains("\"outcome\"")),
                        "reported, not stored"
                    );
                    let first = self.reported.entry(key.clone()).or_insert_with(|| outcome.clone());
                    assert_eq!(*first, outcome, "two ends");
                    if self.random().is_multiple_of(2) {
                        self.acknowledge(&key);
                    }
                }
            }
        }
    }

    fn acknowledge(&mut self, key: &str) {
        if self.outbox.acknowledge(&IdempotencyKey::new(key).unwrap()) {
            self.acknowledged.insert(key.to_owned());
        }
    }

    fn check_call(&self, http: &HttpCall) {
        let bodies = bodies(http);
        let in_call: Vec<String> = bodies.iter().map(key_in).collect();
        assert!(bodies.len() <= self.config.max_batch_items);
        for (at, body) in bodies.iter().enumerate() {
            let key = &in_call[at];
            assert!(self.storage.contains_key(key), "sent before it was stored");
            assert_eq!(serde_json::from_str::<Value>(&self.requests[key].body()).unwrap(), *body, "other bytes");
            let forward = |body: &Value| {
                let nonce: u64 = body["forward"]["nonce"].as_str().unwrap().parse().unwrap();
                (body["forward"]["from"].clone(), nonce)
            };
            let (user, nonce) = forward(body);
            for entry in self.outbox.entries() {
                let is_open = !matches!(entry.state, EntryState::Ending | EntryState::Ended);
                let other = entry.key.as_str();
                let (other_user, other_nonce) = forward(&serde_json::from_str(&self.requests[other].body()).unwrap());
                if is_open && other_user == user && other_nonce < nonce {
                    assert!(in_call[..at].iter().any(|earlier| earlier == other), "nonce {other_nonce} overtaken");
                }
            }
        }
    }

    fn step(&mut self) {
        match self.pick(12) {
            0 | 1 => {
                let (user, nonce) = (u8::try_from(1 + self.pick(3)).unwrap(), self.pick(6) as u64);
                let seconds = if self.pick(3) == 0 { 2 } else { 10_000 };
                let first = self.requests.values().find(|request| {
                    request
                        .kind()
                        .sequence()
                        .is_some_and(|(_, from, at)| from == Address::repeat_byte(user) && at == U256::from(nonce))
                });
                // A user signs one request per nonce; it may be enqueued again.
                let request = first.cloned().unwrap_or_else(|| submit(user, nonce, self.now.as_secs() + seconds));
                let key = request.key().as_str().to_owned();
                if self.acknowledged.contains(&key) {
                    return;
                }
                self.requests.insert(key.clone(), request.clone());
                let request_id = Some(id_of(&key));
                let _ = self.outbox.enqueue(self.now, &request, Enqueue { expires_at: None, request_id });
            }
            2..=4 => self.write(),
            5..=8 => self.answer(),
            9 | 10 => {
                let wait = self.pick(400) as u64;
                self.now = self.now.saturating_add(Duration::from_millis(wait));
                self.outbox.timeout(self.now);
            }
            _ => self.crash(),
        }
        self.collect();
    }

    /// The oldest write succeeds, or fails, or fails although it was applied.
    fn write(&mut self) {
        if self.writes.is_empty() {
            return;
        }
        let command = self.writes.remove(0);
        let luck = self.pick(8);
        if luck != 0 {
            self.apply(&command);
        }
        if let Command::Store { key, revision, .. } = command {
            let entropy = self.random();
            if luck < 2 {
                self.outbox.store_failed(self.now, &key, revision, entropy);
            } else {
                self.durable.insert(key.as_str().to_owned());
                self.outbox.stored(self.now, &key, revision);
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        match command {
            Command::Store { key, record, .. } => {
                self.storage.insert(key.as_str().to_owned(), record.clone());
            }
            Command::Remove { key } => {
                self.storage.remove(key.as_str());
            }
            Command::Send { .. } | Command::Report { .. } => {}
        }
    }

    /// Ends a random call, with a random result.
    fn answer(&mut self) {
        if self.sends.is_empty() {
            return;
        }
        let at = self.pick(self.sends.len());
        let (send, http) = self.sends.remove(at);
        let entropy = self.random();
        let result = match self.pick(8) {
            0 => Err(TransportError::new(TransportErrorKind::Unreachable, "x")),
            1 => broken(),
            2 => {
                self.server.call(&http, self.now, |_| None);
                broken()
            }
            3 => {
                // Executed, but answered by a proxy's error page.
                self.server.call(&http, self.now, |_| None);
                Ok(HttpAnswer { status: 502, body: b"<html>".to_vec(), ..HttpAnswer::default() })
            }
            4 => Ok(answer(503, &problem_json(503, "shutting_down"))),
            5 if self.has_refusals => {
                let (odd, code) = (self.pick(2), if self.pick(2) == 0 { "max_cost_too_low" } else { "rate_limited" });
                Ok(self.server.call(&http, self.now, |at| (at % 2 == odd).then_some(code)))
            }
            _ => Ok(self.server.call(&http, self.now, |_| None)),
        };
        self.outbox.answered(self.now, send, result, entropy);
    }

    /// Loses everything in memory; writes and calls under way may have arrived.
    fn crash(&mut self) {
        let arrived = self.pick(self.writes.len() + 1);
        for command in std::mem::take(&mut self.writes).into_iter().take(arrived) {
            self.apply(&command);
        }
        for (_, http) in std::mem::take(&mut self.sends) {
            if self.random().is_multiple_of(2) {
                self.server.call(&http, self.now, |_| None);
            }
        }
        self.outbox = Outbox::new(self.config);
        let report = self.outbox.load(self.now, &self.storage);
        assert_eq!((report.loaded, report.damaged.len()), (self.storage.len(), 0));
    }

    /// From now on everything works.
    fn calm_down(&mut self) {
        for _ in 0..100_000 {
            self.collect();
            if let Some(command) = (!self.writes.is_empty()).then(|| self.writes.remove(0)) {
                self.apply(&command);
                if let Command::Store { key, revision, .. } = command {
                    self.durable.insert(key.as_str().to_owned());
                    self.outbox.stored(self.now, &key, revision);
                }
            } else if let Some((send, http)) = self.sends.pop() {
                let answer = self.server.call(&http, self.now, |_| None);
                self.outbox.answered(self.now, send, Ok(answer), 7);
            } else if let Some(next) = self.outbox.next_timeout() {
                self.now = self.now.max(next);
                self.outbox.timeout(self.now);
            } else {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.outbox.entries().collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_nothing_is_doubled_everything_ends_once(seed: u64, steps in 1_usize..400, has_refusals: bool) {
        let mut world = World::new(seed, has_refusals);
        for _ in 0..steps {
            world.step();
        }
        world.calm_down();
        for key in &world.durable {
            let outcome = world.reported.get(key);
            prop_assert!(outcome.is_some(), "{} was durable and has no end", key);
            let is_accepted = matches!(outcome, Some(Outcome::Accepted { .. }));
            prop_assert_eq!(is_accepted, world.server.accepted.contains(key), "{}: {:?}", key, outcome);
        }
        prop_assert!(world.outbox.entries().all(|entry| entry.state == EntryState::Ended));
    }
}
