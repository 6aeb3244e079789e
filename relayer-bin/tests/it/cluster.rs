//! Several instances on one PostgreSQL: they share the load, and whatever happens to one of them, nothing is lost, doubled
//! or stuck.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256};
use hyper::Method;
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, Proxy, Relayer, RelayerClient, Result, World,
    client::is_terminal,
    count::{self, Relayed},
    http::get,
    postgres::PostgresServer,
    proxy::{Fault, Rule},
    relayer::KEY_VAR,
    rng::Rng,
    wallet::{Crowd, SignedRequest},
};

use crate::stage::{PATIENCE, seed, submit_all, until};

/// How long a lease lasts here.
const LEASE: Duration = Duration::from_secs(2);
const LANES: usize = 2;
const USERS: usize = 30;

/// Instances on one database and one chain. What is dropped first ends first.
struct Cluster {
    relayers: Vec<Relayer>,
    /// Before the node, one for each instance.
    proxies: Vec<Proxy>,
    world: World,
    anvil: Anvil,
    server: PostgresServer,
    born: u64,
    is_done: bool,
}

impl Cluster {
    async fn of(instances: usize) -> Result<Self> {
        Self::with(instances, "").await
    }

    /// With further tables of the configuration.
    async fn with(instances: usize, extra: &str) -> Result<Self> {
        let server = PostgresServer::start().unwrap_or_else(|missing| panic!("{missing}"));
        let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
        let world = World::deploy(anvil.node(), LANES).await?;
        let born = anvil.node().block_number().await?;
        let (mut relayers, mut proxies) = (Vec::new(), Vec::new());
        for index in 0..instances {
            let proxy = Proxy::spawn(anvil.url(), index as u64).await?;
            let relayer = Relayer::builder(&world)
                .binary(env!("CARGO_BIN_EXE_slackwater"))
                .rpc(proxy.url())
                .chain_key("spec", "{ block_time_ms = 250 }")
                .ledger_key("url", json!("env:RELAYER_DATABASE"))
                .ledger_key("lease_ms", LEASE.as_millis())
                .ledger_key("idle_timeout_ms", 500)
                .ledger_key("instance", json!(format!("relayer-{index}")))
                .env("RELAYER_DATABASE", server.url())
                .extra(extra)
                .prepare()?;
            relayers.push(relayer);
            proxies.push(proxy);
        }
        let mut cluster = Self { relayers, proxies, world, anvil, server, born, is_done: false };
        for relayer in &mut cluster.relayers {
            relayer.launch()?;
        }
        for relayer in &mut cluster.relayers {
            relayer.wait_ready(PATIENCE).await?;
        }
        Ok(cluster)
    }

    fn client(&self, index: usize) -> RelayerClient {
        self.relayers[index].client().clone().with_timeout(Duration::from_secs(10))
    }

    /// Who drives the lanes, as the instances other than `but` tell.
    async fn owner(&self, but: Option<usize>) -> Result<Option<usize>> {
        for (index, relayer) in self.relayers.iter().enumerate().filter(|(index, _)| Some(*index) != but) {
            let client = relayer.client().clone().with_timeout(Duration::from_secs(2));
            let Ok(lanes) = client.lanes().await else { continue };
            let is_following = |lane: &Value| lane["paused"].as_str().is_some_and(|why| why.starts_with("driven by"));
            let lanes = lanes["lanes"].as_array().cloned().unwrap_or_default();
            if !lanes.is_empty() && !lanes.iter().any(is_following) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    async fn wait_owner(&self) -> Result<usize> {
        until("an owner of the lanes", PATIENCE, async || self.owner(None).await).await
    }

    /// Waits until another instance than `old` drives the lanes; also tells after how long.
    async fn wait_other_owner(&self, old: usize) -> Result<(usize, Duration)> {
        let started = Instant::now();
        let next = until("another owner of the lanes", PATIENCE, async || self.owner(Some(old)).await).await?;
        Ok((next, started.elapsed()))
    }

    /// Submits to all living instances in turn, so that one user's requests arrive at different ones.
    async fn submit(&self, requests: &[SignedRequest], instances: &[usize]) -> Result<()> {
        for (chunk, index) in requests.chunks(20).zip(instances.iter().cycle()) {
            submit_all(&self.client(*index), chunk).await?;
        }
        Ok(())
    }

    /// Waits for the end of everything, and compares all with the chain.
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

    /// Every event that an instance tells, without a gap.
    async fn story(&self, index: usize) -> Result<Vec<(u64, B256, String)>> {
        let client = self.client(index);
        let counts: Value = client.get_json("/v1/counts").await?;
        let last = counts["lastEventSeq"].as_u64().expect("a number");
        let mut stream = client.events(0).await?;
        let mut story = Vec::new();
        while (story.len() as u64) < last {
            let event = stream.next().await?.expect("the stream ended early");
            assert_eq!(event.seq, story.len() as u64 + 1, "a gap in the events");
            story.push((event.seq, event.request_id, event.status));
        }
        Ok(story)
    }

    /// The end of a test that has passed: all stop in order, and the ledger tells one story that the chain confirms.
    async fn close(mut self) -> Result<()> {
        for relayer in &mut self.relayers {
            assert!(relayer.terminate(Duration::from_secs(30)).await?, "an instance ends with an error");
        }
        let keys = self.world.relayers.iter().enumerate();
        let mut audit = Command::new(env!("CARGO_BIN_EXE_slackwater"));
        audit
            .envs(keys.map(|(i, account)| (format!("{KEY_VAR}{i}"), account.secret_hex())))
            .env("RELAYER_DATABASE", self.server.url())
            .args(["audit", "verify", "--chain", "--config"])
            .arg(self.relayers[0].config_path());
        let output = tokio::task::spawn_blocking(move || audit.output()).await.expect("no panic");
        let output = output.expect("slackwater runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "audit: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        for (index, relayer) in self.relayers.iter().enumerate() {
            println!("the end of the log of instance {index}:");
            let log = relayer.log();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(25)..] {
                println!("| {}", line.chars().take(300).collect::<String>());
            }
        }
    }
}

#[tokio::test]
async fn three_instances_share_the_load() -> Result<()> {
    let cluster = Cluster::of(3).await?;
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let requests = crowd.marks(600);
    // An instance that does not drive the lanes streams what the one that does commits.
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
    assert_eq!(again.id, requests[0].id);
    for index in 0..3 {
        let metrics = cluster.client(index).metrics().await?;
        let accepted = metrics.get("slackwater_requests_accepted_total").copied().unwrap_or(0.0);
        assert_eq!(accepted, 200.0, "instance {index}");
    }
    cluster.close().await
}

#[tokio::test]
async fn a_request_is_cancelled_at_any_instance() -> Result<()> {
    let cluster = Cluster::of(2).await?;
    let owner = cluster.wait_owner().await?;
    let mut crowd = Crowd::new(&cluster.world, 1);
    let first = crowd.mark(0);
    let rest: Vec<SignedRequest> = (0..3).map(|_| crowd.mark(0)).collect();
    // Without its predecessor nobody can send them.
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
    // Those behind it end with it, by the hand of the owner.
    for request in &rest[1..] {
        let state = client.wait_terminal(request.id, PATIENCE).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("rejected", Some("predecessor_failed")));
    }
    submit_all(&client, std::slice::from_ref(&first)).await?;
    assert_eq!(client.wait_terminal(first.id, PATIENCE).await?.status, "finalized");
    assert_eq!(delete(&first).await?.status, 409);
    cluster.close().await
}

#[tokio::test]
async fn a_killed_owner_is_replaced() -> Result<()> {
    rounds(1).await
}

/// The long run: `cargo test -p slackwater-relayer --test it -- --ignored ten_rounds_of_three_with_one_killed`.
#[tokio::test]
#[ignore = "minutes"]
async fn ten_rounds_of_three_with_one_killed() -> Result<()> {
    rounds(10).await
}

/// In each round an instance dies under load, mostly the owner, and comes back when another has taken over.
async fn rounds(rounds: usize) -> Result<()> {
    let mut cluster = Cluster::of(3).await?;
    let mut rng = Rng::new(seed());
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let mut all = Vec::new();
    for round in 0..rounds {
        let requests: Vec<SignedRequest> = (0..400).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
        let owner = cluster.wait_owner().await?;
        // Now and then one that only accepts.
        let victim = if round > 0 && rng.chance_bps(2_500) { (owner + 1) % 3 } else { owner };
        let clients: Vec<RelayerClient> = (0..3).map(|index| cluster.client(index)).collect();
        let load = tokio::spawn({
            let requests = requests.clone();
            async move {
                for (chunk, client) in requests.chunks(20).zip(clients.iter().cycle()) {
                    // A caller whose instance is dead goes to another, with the same bytes.
                    let started = Instant::now();
                    let mut others = clients.iter().cycle();
                    let mut client = client;
                    while submit_within(client, chunk).await.is_err() {
                        assert!(started.elapsed() < PATIENCE, "nobody takes requests");
                        client = others.next().unwrap_or(client);
                    }
                }
                Ok::<(), slackwater_benches::BenchError>(())
            }
        });
        tokio::time::sleep(Duration::from_millis(200 + rng.below(1_000))).await;
        cluster.relayers[victim].kill();
        if victim == owner {
            let (next, after) = cluster.wait_other_owner(owner).await?;
            println!(
                "round {round}: instance {victim} killed, instance {next} took over after {} ms",
                after.as_millis()
            );
            assert!(after <= LEASE * 2, "took over after {after:?}");
        }
        cluster.relayers[victim].launch()?;
        cluster.relayers[victim].wait_ready(PATIENCE).await?;
        load.await.expect("no panic")?;
        all.extend(requests);
    }
    let ask = cluster.wait_owner().await?;
    cluster.check(&all, ask).await?;
    cluster.close().await
}

/// [`submit_all`], unless the instance dies.
async fn submit_within(client: &RelayerClient, chunk: &[SignedRequest]) -> Result<()> {
    let timeout = Duration::from_secs(3);
    match tokio::time::timeout(timeout, submit_all(client, chunk)).await {
        Ok(result) => result,
        Err(_) => Err(slackwater_benches::BenchError::Timeout { what: "submission".to_owned(), after: timeout }),
    }
}

#[tokio::test]
async fn an_owner_that_slept_past_its_lease_neither_writes_nor_sends() -> Result<()> {
    let cluster = Cluster::of(2).await?;
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let owner = cluster.wait_owner().await?;
    let other = 1 - owner;
    let first = crowd.marks(100);
    cluster.submit(&first, &[owner]).await?;
    // In the middle of its work.
    tokio::time::sleep(Duration::from_millis(150)).await;
    cluster.relayers[owner].pause()?;
    let (next, after) = cluster.wait_other_owner(owner).await?;
    assert_eq!(next, other);
    assert!(after <= LEASE * 2, "took over after {after:?}");
    let second = crowd.marks(100);
    cluster.submit(&second, &[other]).await?;
    let all: Vec<SignedRequest> = first.into_iter().chain(second).collect();
    cluster.check(&all, other).await?;
    // It wakes up, and finds work in its memory that is another's.
    let sent = |proxy: &Proxy| proxy.injected().calls.get("eth_sendRawTransaction").copied().unwrap_or(0);
    let taken = cluster.proxies[owner].injected().taken;
    let before = sent(&cluster.proxies[owner]);
    let story = cluster.story(other).await?.len();
    cluster.relayers[owner].resume()?;
    let stepped_down = async || {
        let log = cluster.relayers[owner].log();
        Ok(log.contains("not driving the chain's lanes any more").then_some(()))
    };
    until("the sleeper to notice", PATIENCE, stepped_down).await?;
    tokio::time::sleep(LEASE).await;
    // What was on its way when it was stopped, at most one transaction of each lane, can't be called back: it is stored,
    // and the nonce is used. Nothing else is sent, and the node takes nothing.
    let late = sent(&cluster.proxies[owner]) - before;
    assert!(late <= LANES as u64, "it sent {late} times after its lease was over");
    assert_eq!(cluster.proxies[owner].injected().taken, taken, "the node took what it sent after its lease was over");
    assert_eq!(cluster.story(other).await?.len(), story, "it wrote after its lease was over");
    assert_eq!(cluster.wait_owner().await?, other);
    // It works on as one that accepts.
    let third = crowd.marks(40);
    cluster.submit(&third, &[owner]).await?;
    let all: Vec<SignedRequest> = all.into_iter().chain(third).collect();
    cluster.check(&all, owner).await?;
    cluster.close().await
}

#[tokio::test]
async fn a_restart_of_the_database_is_survived() -> Result<()> {
    let mut cluster = Cluster::of(2).await?;
    let mut crowd = Crowd::new(&cluster.world, USERS);
    let requests: Vec<SignedRequest> = (0..600).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    let clients = [cluster.client(0), cluster.client(1)];
    let load = tokio::spawn({
        let requests = requests.clone();
        async move {
            for (chunk, client) in requests.chunks(10).zip(clients.iter().cycle()) {
                submit_all(client, chunk).await?;
            }
            Ok::<(), slackwater_benches::BenchError>(())
        }
    });
    for crash in [false, true] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if crash { cluster.server.crash() } else { cluster.server.stop() }.expect("stops");
        // Told to come back, within the time that a caller may be kept waiting.
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
    // Room for some requests, whoever accepts them.
    let tenant = "[[tenant]]\nid = \"default\"\noperator = true\nbudget = { limit_wei = \"30000000000000000\", period_s = 3600 }\n";
    let cluster = Cluster::with(2, tenant).await?;
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
    // What was spent is within the limit.
    let senders = cluster.world.relayer_addresses();
    let head = cluster.anvil.node().block_number().await?;
    let relayed = Relayed::scan(cluster.anvil.node(), &cluster.world, &senders, cluster.born, head).await?;
    assert!(relayed.cost_wei() <= alloy_primitives::U256::from(30_000_000_000_000_000_u64));
    cluster.close().await
}

/// Another instance of the same cluster with other keys; what it says when it is started.
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
    let cluster = Cluster::of(1).await?;
    cluster.wait_owner().await?;
    // Another first signer is another identity, where no key is named for it.
    let swapped = [(format!("{KEY_VAR}0"), 1), (format!("{KEY_VAR}1"), 0)];
    let swapped: Vec<(&str, usize)> = swapped.iter().map(|(name, account)| (name.as_str(), *account)).collect();
    let (code, told) = tokio::task::block_in_place(|| refused(&cluster, &swapped));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("identity.key") && told.contains("`relayer-0`"), "{told}");
    // Open batches of a sender whose key it lacks.
    let stranger = Address::repeat_byte(0x77);
    let open = format!(
        "INSERT INTO slackwater.batches (seq, chain_id, sender, nonce, state, recipient, value_wei, gas_limit, deadline_ms, \
         ceiling_wei_per_gas, trigger, created_at_ms) VALUES (999999, 31337, decode('{}', 'hex'), 0, 0, \
         decode(repeat('00', 20), 'hex'), '0', 1, 1, '1', 'deadline', 1)",
        alloy_primitives::hex::encode(stranger)
    );
    cluster.server.sql(&open).expect("a batch");
    let (code, told) = tokio::task::block_in_place(|| refused(&cluster, &[]));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("chain.signers") && told.contains(&stranger.to_string()), "{told}");
    let mut doctor = cluster.relayers[0].command(&["doctor", "--config"]);
    doctor.arg(cluster.relayers[0].config_path());
    let doctor = tokio::task::spawn_blocking(move || doctor.output()).await.expect("no panic").expect("runs");
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && told.contains(&stranger.to_string()), "{told}");
    cluster.server.sql("DELETE FROM slackwater.batches WHERE seq = 999999").expect("deletes");
    cluster.close().await
}
