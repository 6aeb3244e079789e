//! Several instances on one PostgreSQL: they share the load, and if one of them fails, nothing is lost, doubled or
//! stuck.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall as _;
use hyper::Method;
use serde_json::Value;
use slackwater_benches::{
    BenchError, Cluster, Result,
    client::is_terminal,
    cluster::ClusterBuilder,
    count::{self, Relayed},
    http::get,
    proxy::{Arrival, Fault, Rule},
    relayer::KEY_VAR,
    rng::Rng,
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::guestbook::IGuestbook::{markCall, marksCall};
use slackwater_core::wire::Counts;

use crate::stage::{PATIENCE, seed, submit_all, until};

/// Duration of a lease.
const LEASE: Duration = Duration::from_secs(2);
const LANES: usize = 2;
const USERS: usize = 30;

fn cluster(instances: usize) -> ClusterBuilder {
    Cluster::of(instances).binary(env!("CARGO_BIN_EXE_slackwater")).lanes(LANES).lease(LEASE).patience(PATIENCE)
}

/// Test operations on a [`Cluster`].
trait Scene {
    async fn submit(&self, requests: &[SignedRequest], instances: &[usize]) -> Result<()>;
    async fn check(&self, requests: &[SignedRequest], ask: usize) -> Result<()>;
    async fn story(&self, index: usize) -> Result<Vec<(u64, B256, String)>>;
}

impl Scene for Cluster {
    /// Submits to all living instances in turn, so that one user's requests arrive at different ones.
    async fn submit(&self, requests: &[SignedRequest], instances: &[usize]) -> Result<()> {
        for (chunk, index) in requests.chunks(20).zip(instances.iter().cycle()) {
            submit_all(&self.client(*index), chunk).await?;
        }
        Ok(())
    }

    /// Waits until all requests have ended, and compares them with the chain.
    async fn check(&self, requests: &[SignedRequest], ask: usize) -> Result<()> {
        let client = self.client(ask);
        let counts = until("the end of all requests", PATIENCE, async || {
            let Ok(counts) = client.counts().await else { return Ok(None) };
            Ok(counts.keys().all(|status| is_terminal(status)).then_some(counts))
        });
        let counts = match counts.await {
            Ok(counts) => counts,
            Err(error) => panic!("{error}: {:?} {}", client.counts().await, client.lanes().await?),
        };
        assert_eq!(counts, BTreeMap::from([("finalized".to_owned(), requests.len() as u64)]));
        let node = self.anvil.node();
        let executions = count::executions(node, &self.world, requests).await?;
        assert!(executions.is_exactly_once(), "{executions:?}");
        let head = node.block_number().await?;
        let senders: Vec<Address> = self.world.relayer_addresses();
        let relayed = Relayed::scan(node, &self.world, &senders, self.born, head).await?;
        assert_eq!(relayed.nonce_gaps(), [], "gaps in the senders' nonces");
        assert_eq!(relayed.out_of_order(), [] as [Address; 0], "users' requests out of order");
        Ok(())
    }

    /// All events as one instance reports them, without a gap.
    async fn story(&self, index: usize) -> Result<Vec<(u64, B256, String)>> {
        let client = self.client(index);
        let Counts { last_event_seq: last, .. } = client.get_json("/v1/counts").await?;
        let mut stream = client.events(0).await?;
        let mut story = Vec::new();
        while (story.len() as u64) < last {
            let event = stream.next().await?.expect("the stream ended early");
            assert_eq!(event.seq, story.len() as u64 + 1, "a gap in the events");
            story.push((event.seq, event.request_id.0, event.status.to_string()));
        }
        Ok(story)
    }
}

#[tokio::test]
async fn three_instances_share_the_load() -> Result<()> {
    let cluster = cluster(3).raise().await?;
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let requests = crowd.marks(600);
    // An instance that does not drive the lanes streams the owner's commits.
    let owner = cluster.wait_owner().await?;
    let other = (owner + 1) % 3;
    cluster.submit(&requests, &[0, 1, 2]).await?;
    cluster.check(&requests, other).await?;
    let stories = (cluster.story(0).await?, cluster.story(1).await?, cluster.story(2).await?);
    assert_eq!(stories.0, stories.1);
    assert_eq!(stories.0, stories.2);
    assert_eq!(cluster.wait_owner().await?, owner, "the lease did not change hands");
    // The same request is known everywhere, and accepted once.
    let again = cluster.client(other).submit(&requests[0].body).await?.accepted()?;
    assert_eq!(again.id.0, requests[0].id);
    for index in 0..3 {
        let metrics = cluster.client(index).metrics().await?;
        let accepted = metrics.get("slackwater_requests_accepted_total").copied().unwrap_or(0.0);
        assert_eq!(accepted, 200.0, "instance {index}");
    }
    cluster.close().await
}

#[tokio::test]
async fn a_request_is_cancelled_at_any_instance() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\ngap_timeout_ms = 1000\n";
    let cluster = cluster(2).extra(tenant).raise().await?;
    let owner = cluster.wait_owner().await?;
    let mut crowd = Crowd::new(&cluster.world, 1);
    let first = crowd.mark(0);
    let rest: Vec<SignedRequest> = (0..3).map(|_| crowd.mark(0)).collect();
    // Without its predecessor it can't be sent by any instance.
    submit_all(&cluster.client(owner), &rest).await?;
    let client = cluster.client(1 - owner);
    let delete = async |request: &SignedRequest| {
        let mut call = get(&format!("/v1/requests/{}", request.id));
        *call.method_mut() = Method::DELETE;
        client.send(call).await
    };
    let answer = delete(&rest[0]).await?;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let state = client.request(rest[0].id).await?;
    assert_eq!((state.status.as_str(), state.reason.as_deref()), ("cancelled", Some("cancelled_by_owner")));
    // The requests behind it end with it; the owner ends them.
    for request in &rest[1..] {
        let state = client.wait_terminal(request.id, PATIENCE).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("predecessor_failed")));
    }
    submit_all(&client, std::slice::from_ref(&first)).await?;
    assert_eq!(client.wait_terminal(first.id, PATIENCE).await?.status, "finalized");
    assert_eq!(delete(&first).await?.status, 409);
    cluster.close().await
}

/// A request that is queued again after a transaction left it out may yet be executed by that transaction.
#[tokio::test]
async fn who_left_a_transaction_is_withdrawn_at_no_instance_until_that_is_final() -> Result<()> {
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\ngap_timeout_ms = 60000\n";
    let cluster = cluster(2).extra(tenant).raise().await?;
    cluster.wait_owner().await?;
    let mut crowd = Crowd::new(&cluster.world, 1);
    let requests: Vec<SignedRequest> = (0..3).map(|_| crowd.mark(0)).collect();
    // Without the first, the others wait.
    submit_all(&cluster.client(0), &requests[1..]).await?;
    let delete = async |index: usize, request: &SignedRequest| {
        let mut call = get(&format!("/v1/requests/{}", request.id));
        *call.method_mut() = Method::DELETE;
        cluster.client(index).send(call).await
    };
    // As if the second one had been in a transaction.
    let (sender, id) = (Address::repeat_byte(0x77), requests[1].id);
    let hex = |bytes: &[u8]| format!("decode('{}', 'hex')", alloy_primitives::hex::encode(bytes));
    let was_in = |sender: &str, nonce: &str| {
        let its = hex(id.as_slice());
        format!("UPDATE slackwater.events SET batch_sender = {sender}, batch_nonce = {nonce} WHERE request_id = {its}")
    };
    cluster.server.sql(&open_batch_of(sender)).expect("a batch");
    cluster.server.sql(&was_in(&hex(sender.as_slice()), "0")).expect("updates");
    for index in [0, 1] {
        let answer = delete(index, &requests[1]).await?;
        let problem: Value = serde_json::from_slice(&answer.body).expect("a problem");
        assert_eq!((answer.status, problem["code"].as_str()), (409, Some("too_late")), "{problem}");
        assert_eq!(cluster.client(index).request(id).await?.status, "queued");
    }
    assert_eq!(delete(1, &requests[2]).await?.status, 200, "another one's is no concern of it");
    cluster.server.sql(&was_in("NULL", "NULL")).expect("updates");
    cluster.server.sql(NO_OPEN_BATCH).expect("deletes");
    // The predecessor arrives.
    submit_all(&cluster.client(1), &requests[..1]).await?;
    assert_eq!(cluster.client(1).wait_terminal(id, PATIENCE).await?.status, "finalized");
    cluster.close().await
}

/// Two equal calls without an idempotency key are two calls, even if two instances get them at the same time.
#[tokio::test]
async fn equal_calls_without_a_key_are_two_on_two_instances_too() -> Result<()> {
    let cluster = cluster(2).extra(crate::calls::TENANT).raise().await?;
    cluster.wait_owner().await?;
    let tag = crate::calls::tag("equal", 0);
    let body =
        hyper::body::Bytes::from(crate::calls::call(cluster.world.guestbook, &markCall { tag }, false).to_string());
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let clients = (cluster.client(0), cluster.client(1));
        let (a, b) = tokio::join!(clients.0.submit(&body), clients.1.submit(&body));
        ids.extend([a?.accepted()?.id, b?.accepted()?.id]);
    }
    assert_eq!(ids.len(), 6);
    for id in ids {
        assert_eq!(cluster.client(0).wait_terminal(id.0, PATIENCE).await?.status, "finalized");
    }
    let word = cluster.anvil.node().read(cluster.world.guestbook, marksCall { tag }.abi_encode()).await?;
    assert_eq!(U256::from_be_slice(&word), U256::from(6));
    cluster.close().await
}

/// Number of times that the owner is stopped, each time at another moment of its work.
const SLEEPS: usize = 3;

#[tokio::test]
async fn an_owner_that_slept_past_its_lease_neither_writes_nor_sends() -> Result<()> {
    // Small transactions, and many of them, so that it is sending most of the time.
    let cluster = cluster(2).chain_key("max_batch", 4).raise().await?;
    let mut rng = Rng::new(seed());
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let mut all = Vec::new();
    for sleep in 0..SLEEPS {
        let owner = cluster.wait_owner().await?;
        let (other, proxy) = (1 - owner, &cluster.proxies[owner]);
        let sent = proxy.arrivals().len();
        let requests: Vec<SignedRequest> = (0..240).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
        cluster.submit(&requests, &[owner]).await?;
        // In the middle of its work: as soon as it sends.
        let is_sending = async || Ok((proxy.arrivals().len() > sent).then_some(()));
        until("the owner to send", PATIENCE, is_sending).await?;
        tokio::time::sleep(Duration::from_millis(rng.below(400))).await;
        cluster.relayers[owner].pause()?;
        let (next, after) = cluster.wait_other_owner(owner).await?;
        assert_eq!(next, other);
        assert!(after <= LEASE * 2, "took over after {after:?}");
        let more: Vec<SignedRequest> = (0..60).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
        cluster.submit(&more, &[other]).await?;
        all.extend(requests);
        all.extend(more);
        cluster.check(&all, other).await?;
        // It wakes up with work in memory that another instance has taken over.
        let (story, taken) = (cluster.story(other).await?.len(), proxy.injected().taken);
        let steps_down = || cluster.relayers[owner].log().matches("not driving the chain's lanes any more").count();
        let before = steps_down();
        let woken = Instant::now();
        cluster.relayers[owner].resume()?;
        until("the sleeper to notice", PATIENCE, async || Ok((steps_down() > before).then_some(()))).await?;
        tokio::time::sleep(LEASE / 2).await;
        // A transaction that a thread was about to send when it was stopped, between the check of the lease and the
        // socket, can't be called back. Its outcome is stored, its nonce is used, and the node accepts none of it.
        let late: Vec<Arrival> = proxy.arrivals().into_iter().filter(|arrival| arrival.at >= woken).collect();
        println!("sleep {sleep}: {} sends before it, {} after", proxy.arrivals().len() - late.len() - sent, late.len());
        assert!(late.len() <= LANES, "it sent {} times after its lease was over", late.len());
        for Arrival { hash, sender, nonce, .. } in &late {
            let batch = format!("/v1/batches/{}:{sender}:{nonce}", cluster.world.chain_id);
            let batch: Value = cluster.client(other).get_json(&batch).await?;
            let is_it = |attempt: &Value| attempt["txHash"].as_str().and_then(|text| text.parse().ok()) == Some(*hash);
            assert!(batch["attempts"].as_array().is_some_and(|attempts| attempts.iter().any(is_it)), "{hash}: {batch}");
        }
        assert_eq!(proxy.injected().taken, taken, "the node took what it sent after its lease was over");
        assert_eq!(cluster.story(other).await?.len(), story, "it wrote after its lease was over");
        assert_eq!(cluster.wait_owner().await?, other);
    }
    // Both continue: one drives, one only accepts.
    let requests = crowd.marks(40);
    let owner = cluster.wait_owner().await?;
    cluster.submit(&requests, &[1 - owner]).await?;
    all.extend(requests);
    cluster.check(&all, 1 - owner).await?;
    cluster.close().await
}

#[tokio::test]
async fn a_restart_of_the_database_is_survived() -> Result<()> {
    let mut cluster = cluster(2).raise().await?;
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let requests: Vec<SignedRequest> = (0..600).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    let clients = [cluster.client(0), cluster.client(1)];
    let load = tokio::spawn({
        let requests = requests.clone();
        async move {
            for (chunk, client) in requests.chunks(10).zip(clients.iter().cycle()) {
                submit_all(client, chunk).await?;
            }
            Ok::<(), BenchError>(())
        }
    });
    for crash in [false, true] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if crash { cluster.server.crash() } else { cluster.server.stop() }.expect("stops");
        // Refused with a retry time, within the time that a caller may be kept waiting.
        let late = crowd.mark_within(0, "10m");
        let client = cluster.client(0);
        let refused =
            async || Ok((client.submit(&late.body).await?.refused_with() == Some("storage_unavailable")).then_some(()));
        until("a refusal", PATIENCE, refused).await?;
        cluster.server.launch().expect("starts");
        submit_all(&client, std::slice::from_ref(&late)).await?;
    }
    load.await.expect("no panic")?;
    let ids: BTreeSet<B256> = requests.iter().map(|request| request.id).collect();
    let client = cluster.client(1);
    until("the end of all requests", PATIENCE, async || {
        let Ok(counts) = client.counts().await else { return Ok(None) };
        Ok(counts.keys().all(|status| is_terminal(status)).then_some(()))
    })
    .await?;
    let counts = client.counts().await?;
    assert_eq!(counts, BTreeMap::from([("finalized".to_owned(), ids.len() as u64 + 2)]));
    let executions = count::executions(cluster.anvil.node(), &cluster.world, &requests).await?;
    assert!(executions.is_exactly_once(), "{executions:?}");
    for relayer in &mut cluster.relayers {
        assert!(relayer.is_alive());
    }
    cluster.close().await
}

#[tokio::test]
async fn a_budget_is_shared() -> Result<()> {
    // Budget for a few requests, whichever instance accepts them.
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nbudget = { limit_wei = \"30000000000000000\", period_s = 3600 }\n";
    let cluster = cluster(2).extra(tenant).raise().await?;
    // So that nothing is settled while they are counted.
    for proxy in &cluster.proxies {
        proxy.add(Rule::always(Fault::Delay { min: Duration::from_millis(1), max: Duration::from_millis(2) }));
    }
    let mut crowd = Crowd::new(&cluster.world, 200);
    let requests: Vec<SignedRequest> = (0..200).map(|i| crowd.mark(i)).collect();
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for (pair, _) in requests.chunks(2).zip(0..) {
        let (a, b) = (cluster.client(0), cluster.client(1));
        let (a, b) = tokio::join!(a.submit(&pair[0].body), b.submit(&pair[1].body));
        for (request, answer) in pair.iter().zip([a?, b?]) {
            match answer.refused_with() {
                None => accepted.push(request.clone()),
                Some("budget_exhausted") => refused += 1,
                Some(other) => panic!("refused with {other}"),
            }
        }
    }
    println!("{} accepted, {refused} refused", accepted.len());
    assert!(refused > 0 && !accepted.is_empty());
    cluster.check(&accepted, 0).await?;
    // The amount spent is within the limit.
    let senders = cluster.world.relayer_addresses();
    let head = cluster.anvil.node().block_number().await?;
    let relayed = Relayed::scan(cluster.anvil.node(), &cluster.world, &senders, cluster.born, head).await?;
    assert!(relayed.cost_wei() <= alloy_primitives::U256::from(30_000_000_000_000_000_u64));
    cluster.close().await
}

/// Starts another instance of the same cluster with other keys; returns its exit code and output.
fn refused(cluster: &Cluster, swap: &[(&str, usize)]) -> (Option<i32>, String) {
    let mut command = cluster.relayers[0].command(&["serve", "--config"]);
    command.arg(cluster.relayers[0].config_path());
    command.args(["--set", "ledger.instance=stranger", "--listen", "127.0.0.1:0"]);
    for (name, account) in swap {
        command.env(name, cluster.world.relayers[*account].secret_hex());
    }
    let output = command.output().expect("slackwater runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_fit_is_refused() -> Result<()> {
    let cluster = cluster(1).raise().await?;
    cluster.wait_owner().await?;
    // If no identity key is configured, another first signer means another identity.
    let swapped = [(format!("{KEY_VAR}0"), 1), (format!("{KEY_VAR}1"), 0)];
    let swapped: Vec<(&str, usize)> = swapped.iter().map(|(name, account)| (name.as_str(), *account)).collect();
    let (code, told) = tokio::task::block_in_place(|| refused(&cluster, &swapped));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("identity.key") && told.contains("`relayer-0`"), "{told}");
    // Open batches of a sender whose key it lacks.
    let stranger = Address::repeat_byte(0x77);
    cluster.server.sql(&open_batch_of(stranger)).expect("a batch");
    let (code, told) = tokio::task::block_in_place(|| refused(&cluster, &[]));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("chain.signers") && told.contains(&stranger.to_string()), "{told}");
    let mut doctor = cluster.relayers[0].command(&["doctor", "--config"]);
    doctor.arg(cluster.relayers[0].config_path());
    let doctor = tokio::task::spawn_blocking(move || doctor.output()).await.expect("no panic").expect("runs");
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && told.contains(&stranger.to_string()), "{told}");
    cluster.server.sql(NO_OPEN_BATCH).expect("deletes");
    cluster.close().await
}

#[tokio::test]
async fn lanes_are_left_to_an_instance_that_has_their_keys() -> Result<()> {
    let mut cluster = cluster(2).raise().await?;
    let owner = cluster.wait_owner().await?;
    let heir = 1 - owner;
    // As if the owner had got and used a key that the other instance lacks.
    cluster.server.sql(&open_batch_of(Address::repeat_byte(0x77))).expect("a batch");
    let count = async |cluster: &Cluster, name: &str| {
        let metrics = cluster.client(heir).metrics().await?;
        let of_chain = metrics.iter().filter(|(key, _)| key.starts_with(name));
        Ok::<f64, BenchError>(of_chain.map(|(_, value)| value).sum())
    };
    assert_eq!(count(&cluster, "slackwater_leases_declined_total").await?, 0.0);
    cluster.relayers[owner].kill();
    until("the lease to be declined twice", PATIENCE, async || {
        Ok((count(&cluster, "slackwater_leases_declined_total").await? >= 2.0).then_some(()))
    })
    .await?;
    assert_eq!(count(&cluster, "slackwater_leases_taken_total").await?, 0.0);
    // It accepts nevertheless: the next owner of the lanes will find the requests.
    let requests = Crowd::new(&cluster.world, USERS).marks(30);
    cluster.submit(&requests, &[heir]).await?;
    cluster.server.sql(NO_OPEN_BATCH).expect("deletes");
    cluster.check(&requests, heir).await?;
    assert_eq!(count(&cluster, "slackwater_leases_taken_total").await?, 1.0);
    cluster.close().await
}

/// SQL that creates an open batch of a sender whose key no instance has.
fn open_batch_of(sender: Address) -> String {
    format!(
        "INSERT INTO slackwater.batches (seq, chain_id, sender, nonce, state, recipient, value_wei, gas_limit, deadline_ms, \
         ceiling_wei_per_gas, trigger, created_at_ms) VALUES (999999, 31337, decode('{}', 'hex'), 0, 0, \
         decode(repeat('00', 20), 'hex'), '0', 1, 1, '1', 'deadline', 1)",
        alloy_primitives::hex::encode(sender)
    )
}

/// SQL that deletes the batch of [`open_batch_of`].
const NO_OPEN_BATCH: &str = "DELETE FROM slackwater.batches WHERE seq = 999999";
