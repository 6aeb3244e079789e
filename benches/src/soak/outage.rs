//! Outages of the node.

use std::time::Duration;

use super::{
    Deaths, Plan, Report, audit,
    callers::Callers,
    verdict::{judge, settle},
};
use crate::{anvil::Anvil, error::Result, proxy::Injected, relayer::Relayer, wallet::Crowd, world::World};

/// One relayer whose only node is frozen in every round, for [`Plan::outage`], while callers go on without a `within`
/// of their own. [`Plan::calm`] passes before each outage; the time after the last is the longer of the two.
///
/// # Errors
/// As [`super::kills`].
pub async fn outages(plan: &Plan, progress: &mut dyn FnMut(String)) -> Result<Report> {
    let anvil = Anvil::builder().arg("--block-time").arg("1").spawn().await?;
    let world = World::deploy(anvil.node(), plan.lanes).await?;
    let born = anvil.node().block_number().await?;
    let mut builder = Relayer::builder(&world).rpc(anvil.url()).extra("[log]\nlevel = \"warn\"");
    if let Some(binary) = &plan.binary {
        builder = builder.binary(binary);
    }
    let mut relayer = builder.spawn().await?;
    let client = relayer.client().clone();
    let crowd = Crowd::named(&world, "soak", plan.users);
    let patience = plan.patience + plan.outage;
    let callers = Callers::start(vec![client.clone()], crowd, None, plan.rate_per_s, patience);
    let begun = tokio::time::Instant::now();
    let mut back = begun;
    for round in 1..=plan.rounds {
        tokio::time::sleep(plan.calm).await;
        anvil.pause()?;
        tokio::time::sleep(plan.outage).await;
        anvil.resume()?;
        back = tokio::time::Instant::now();
        progress(format!("round {round}: the node stood still for {} s", plan.outage.as_secs()));
    }
    tokio::time::sleep(plan.outage.max(plan.calm)).await;
    let mut calls = callers.stop().await?;
    let due = (back - begun).as_secs_f64() * f64::from(plan.rate_per_s);
    calls.before = calls.requests.len().min(due.ceil() as usize);
    settle(&client, patience).await?;
    let verdict = judge(&client, anvil.node(), &world, born, &calls).await?;
    let audit = audit(&mut relayer).await;
    if !verdict.is_good() || audit.is_some() {
        eprintln!("the end of the relayer's log:\n{}", relayer.log_tail(60));
    }
    let outages = Deaths { outages: plan.rounds.into(), ..Deaths::default() };
    Ok(Report::new("outage", plan, calls, outages, None::<Injected>, verdict, audit))
}

/// Largest share of the requests after an outage that may be late, percent.
pub(super) const LATE_PERCENT: usize = 5;

impl Plan {
    /// Default settings of an outage run: one signer, ten requests a second.
    pub fn of_outage() -> Self {
        Self {
            rounds: 1,
            rate_per_s: 10,
            users: 1,
            lanes: 1,
            faults_bps: 0,
            calm: Duration::from_secs(10),
            ..Self::default()
        }
    }
}
