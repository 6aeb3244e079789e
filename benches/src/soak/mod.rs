//! Long runs in which processes are killed under load: no accepted request may be lost, executed twice or stuck.
//!
//! Callers submit in open loop, whatever happens, and repeat the same bytes when an answer is lost. Relayers reach the
//! node through proxies that inject faults into a share of all calls. Outcomes are counted on the chain, never taken
//! from the relayer's word. `cargo xtask soak` makes long runs, the tests short ones.

mod callers;
mod outage;
mod report;
mod verdict;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use self::{
    callers::{Callers, WITHIN},
    verdict::{judge, settle},
};
pub use self::{outage::outages, report::Report, verdict::Verdict};
use crate::{
    anvil::Anvil,
    client::RelayerClient,
    cluster::Cluster,
    error::{BenchError, Result},
    proxy::{Proxy, Storm},
    relayer::Relayer,
    report::Latencies,
    rng::Rng,
    wallet::Crowd,
    world::World,
};

/// Settings of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program; [`crate::relayer::binary_path`] if absent.
    pub binary: Option<PathBuf>,
    /// Number of rounds; in each, a process is killed or the node is frozen.
    pub rounds: u32,
    /// Requests per second, whatever happens.
    pub rate_per_s: u32,
    /// Number of users who sign them in turn.
    pub users: usize,
    /// Sender accounts.
    pub lanes: usize,
    /// Share of all calls to the node that suffer a fault, basis points.
    pub faults_bps: u32,
    /// Duration of an outage of the node.
    pub outage: Duration,
    /// Longest time between readiness and the next kill; also the time before and after an outage.
    pub calm: Duration,
    /// Duration of a lease, for several instances on one database.
    pub lease: Duration,
    /// Seed of all random choices. The timing of processes is not seeded, so a run is repeated only roughly.
    pub seed: u64,
    /// Time limit for anything that must happen.
    pub patience: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            binary: None,
            rounds: 30,
            rate_per_s: 200,
            users: 200,
            lanes: 2,
            faults_bps: 500,
            outage: Duration::from_secs(75),
            calm: Duration::from_secs(3),
            lease: Duration::from_secs(2),
            seed: 1,
            patience: Duration::from_secs(120),
        }
    }
}

/// Probability, in basis points, that a kill is followed by another while the relayer is still starting.
const AGAIN_BPS: u32 = 2_500;

/// Probability, in basis points, that a killed relayer stays down for a while, so that the chain advances and becomes
/// final without it.
const ABSENT_BPS: u32 = 2_500;

/// Probability, in basis points, that a kill in a cluster takes an instance that only accepts.
const FOLLOWER_BPS: u32 = 2_500;

/// One relayer, killed in every round: `kill -9`, at a random moment.
///
/// # Errors
/// If something around the relayer does not work, or a caller gets no answer for as long as the plan's patience. The
/// relayer's own faults are in the report.
pub async fn kills(plan: &Plan, progress: &mut dyn FnMut(String)) -> Result<Report> {
    let mut rng = Rng::new(plan.seed);
    let anvil = Anvil::builder().arg("--block-time").arg("0.25").spawn().await?;
    let world = World::deploy(anvil.node(), plan.lanes).await?;
    // A stale answer must not be from before the contracts: a relayer does not start without them.
    anvil.node().mine(Storm::STALE_BLOCKS + 1).await?;
    let born = anvil.node().block_number().await?;
    let proxy = Proxy::spawn(anvil.url(), rng.next_u64()).await?;
    let mut builder = Relayer::builder(&world)
        .rpc(proxy.url())
        .chain_key("spec", "{ block_time_ms = 250 }")
        .extra("[log]\nlevel = \"warn\"");
    if let Some(binary) = &plan.binary {
        builder = builder.binary(binary);
    }
    let mut relayer = builder.spawn().await?;
    proxy.storm(Storm::of(plan.faults_bps));
    let client = relayer.client().clone();
    let crowd = Crowd::named(&world, "soak", plan.users);
    let callers = Callers::start(vec![client.clone()], crowd, Some(WITHIN), plan.rate_per_s, plan.patience);
    let mut deaths = Deaths::default();
    for round in 1..=plan.rounds {
        tokio::time::sleep(plan.calm.mul_f64(rng.below(1_000) as f64 / 1_000.0)).await;
        if !relayer.is_alive() {
            return Err(ended(&relayer));
        }
        let mut killed = Instant::now();
        relayer.kill();
        deaths.kills += 1;
        if rng.chance_bps(ABSENT_BPS) {
            tokio::time::sleep(Duration::from_millis(rng.between(500, 2_000))).await;
        }
        let mut launched = Instant::now();
        relayer.launch()?;
        if rng.chance_bps(AGAIN_BPS) {
            tokio::time::sleep(Duration::from_millis(rng.below(300))).await;
            killed = Instant::now();
            relayer.kill();
            deaths.kills += 1;
            launched = Instant::now();
            relayer.launch()?;
        }
        relayer.wait_ready(plan.patience).await?;
        deaths.ready.record(launched.elapsed());
        let (away, waking) = (killed.elapsed().as_millis(), launched.elapsed().as_millis());
        progress(format!("round {round}: killed, ready {waking} ms after its start, {away} ms after its end"));
    }
    let calls = callers.stop().await?;
    settle(&client, plan.patience).await?;
    let faults = proxy.injected();
    proxy.clear();
    let verdict = judge(&client, anvil.node(), &world, born, &calls).await?;
    let audit = audit(&mut relayer).await;
    if !verdict.is_good() || audit.is_some() {
        eprintln!("the end of the relayer's log:\n{}", relayer.log_tail(60));
    }
    Ok(Report::new("kills", plan, calls, deaths, [faults], verdict, audit))
}

/// Three instances on one PostgreSQL, one of them killed in every round, mostly the one that drives the lanes; it is
/// restarted after another has taken over.
///
/// # Errors
/// As [`kills`].
pub async fn takeovers(plan: &Plan, progress: &mut dyn FnMut(String)) -> Result<Report> {
    const INSTANCES: usize = 3;
    let mut rng = Rng::new(plan.seed);
    let mut builder = Cluster::of(INSTANCES).lanes(plan.lanes).lease(plan.lease).patience(plan.patience);
    if let Some(binary) = &plan.binary {
        builder = builder.binary(binary);
    }
    let mut cluster = builder.raise().await?;
    for proxy in &cluster.proxies {
        proxy.storm(Storm::of(plan.faults_bps));
    }
    let targets: Vec<RelayerClient> = (0..INSTANCES).map(|index| cluster.client(index)).collect();
    let crowd = Crowd::named(&cluster.world, "soak", plan.users);
    let callers = Callers::start(targets, crowd, Some(WITHIN), plan.rate_per_s, plan.patience);
    let mut deaths = Deaths::default();
    for round in 1..=plan.rounds {
        tokio::time::sleep(plan.calm.mul_f64(rng.below(1_000) as f64 / 1_000.0)).await;
        let owner = cluster.wait_owner().await?;
        // The first round always takes the owner.
        let victim = if round > 1 && rng.chance_bps(FOLLOWER_BPS) { (owner + 1) % INSTANCES } else { owner };
        if !cluster.relayers[victim].is_alive() {
            return Err(ended(&cluster.relayers[victim]));
        }
        cluster.relayers[victim].kill();
        deaths.kills += 1;
        let mut line = format!("round {round}: instance {victim} killed");
        if victim == owner {
            let (next, after) = cluster.wait_other_owner(owner).await?;
            deaths.takeovers.record(after);
            line += &format!(", it drove the lanes; instance {next} does after {} ms", after.as_millis());
        }
        let launched = Instant::now();
        cluster.relayers[victim].launch()?;
        cluster.relayers[victim].wait_ready(plan.patience).await?;
        deaths.ready.record(launched.elapsed());
        progress(line);
    }
    let calls = callers.stop().await?;
    let owner = cluster.wait_owner().await?;
    // Not the instance that drives the lanes: the others report only committed state.
    let client = cluster.client((owner + 1) % INSTANCES).with_timeout(Duration::from_secs(30));
    settle(&client, plan.patience).await?;
    let faults: Vec<_> = cluster.proxies.iter().map(Proxy::injected).collect();
    cluster.proxies.iter().for_each(Proxy::clear);
    let verdict = judge(&client, cluster.anvil.node(), &cluster.world, cluster.born, &calls).await?;
    let audit = cluster.close().await.err().map(|error| error.to_string());
    Ok(Report::new("cluster", plan, calls, deaths, faults, verdict, audit))
}

/// Kills, outages and the recovery times after them.
#[derive(Debug, Default)]
struct Deaths {
    kills: u64,
    /// Number of outages of the node.
    outages: u64,
    /// Time from the start of the process to its readiness.
    ready: Latencies,
    /// Time from the death of the lanes' driver to the takeover by another instance.
    takeovers: Latencies,
}

fn ended(relayer: &Relayer) -> BenchError {
    let detail = format!("ended by itself\n{}", relayer.log_tail(40));
    BenchError::Process { what: "slackwater", detail }
}

/// Stops it in order and audits its ledger; returns the fault, if any.
async fn audit(relayer: &mut Relayer) -> Option<String> {
    match relayer.terminate(Duration::from_secs(30)).await {
        Ok(true) => relayer.audit().await.err().map(|error| error.to_string()),
        Ok(false) => Some("the relayer ends with an error".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
