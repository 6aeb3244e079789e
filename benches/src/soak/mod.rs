//! Long runs in which processes die under load: nothing accepted may be lost, doubled or stuck.
//!
//! Callers submit in open loop, through thick and thin, and repeat the same bytes when an answer is lost. Relayers reach the
//! node through proxies that spoil a share of all calls. What came of it is counted on the chain, never taken from the
//! relayer's word. `cargo xtask soak` runs it long, the tests run it short.

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

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program; [`crate::relayer::binary_path`] if absent.
    pub binary: Option<PathBuf>,
    /// In each of them something is killed, or the node stands still.
    pub rounds: u32,
    /// Requests per second, whatever happens.
    pub rate_per_s: u32,
    /// How many users sign them, taking turns.
    pub users: usize,
    /// Sender accounts.
    pub lanes: usize,
    /// Share of all calls to the node that something happens to, basis points.
    pub faults_bps: u32,
    /// How long the node stands still in an outage.
    pub outage: Duration,
    /// How long it goes on between being ready and the next kill, at most; before and after an outage.
    pub calm: Duration,
    /// How long a lease lasts, where several instances share a database.
    pub lease: Duration,
    /// What chance decides follows from it. The timing of processes does not, so it repeats a run only roughly.
    pub seed: u64,
    /// How long anything may take that must happen.
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

/// One in so many kills strikes again while the relayer is still waking up.
const AGAIN_BPS: u32 = 2_500;

/// One in so many kills leaves it dead for a while, so that the chain goes on and becomes final without it.
const ABSENT_BPS: u32 = 2_500;

/// One in so many kills of a cluster takes an instance that only accepts.
const FOLLOWER_BPS: u32 = 2_500;

/// One relayer, killed in every round: `kill -9`, at a random moment.
///
/// # Errors
/// If something around it does not work, or a caller gets no answer for as long as the plan's patience. What the relayer
/// does wrong is in the report.
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

/// Three instances on one PostgreSQL, one of them killed in every round, mostly the one that drives the lanes; it comes
/// back when another has taken over.
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
        // The first round takes the owner in any case.
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
    // Not whoever drives the lanes: what the others tell is what was committed.
    let client = cluster.client((owner + 1) % INSTANCES).with_timeout(Duration::from_secs(30));
    settle(&client, plan.patience).await?;
    let faults: Vec<_> = cluster.proxies.iter().map(Proxy::injected).collect();
    cluster.proxies.iter().for_each(Proxy::clear);
    let verdict = judge(&client, cluster.anvil.node(), &cluster.world, cluster.born, &calls).await?;
    let audit = cluster.close().await.err().map(|error| error.to_string());
    Ok(Report::new("cluster", plan, calls, deaths, faults, verdict, audit))
}

/// Deaths and what followed.
#[derive(Debug, Default)]
struct Deaths {
    kills: u64,
    /// Times that the node stood still.
    outages: u64,
    /// From the start of the process to its being ready.
    ready: Latencies,
    /// From the death of who drove the lanes to another's driving them.
    takeovers: Latencies,
}

fn ended(relayer: &Relayer) -> BenchError {
    let detail = format!("ended by itself\n{}", relayer.log_tail(40));
    BenchError::Process { what: "slackwater", detail }
}

/// Ends it in order, and looks at what it leaves; what is wrong, if anything is.
async fn audit(relayer: &mut Relayer) -> Option<String> {
    match relayer.terminate(Duration::from_secs(30)).await {
        Ok(true) => relayer.audit().await.err().map(|error| error.to_string()),
        Ok(false) => Some("the relayer ends with an error".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
