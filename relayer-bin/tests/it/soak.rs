//! Short versions of the long runs of `cargo xtask soak`: processes die under load, nothing is lost, doubled or stuck.

use std::time::Duration;

use slackwater_benches::{
    Result,
    soak::{self, Plan},
};

use crate::stage::{PATIENCE, seed};

fn plan(rounds: u32) -> Plan {
    Plan {
        binary: Some(env!("CARGO_BIN_EXE_slackwater").into()),
        rounds,
        calm: Duration::from_millis(1_500),
        seed: seed(),
        patience: PATIENCE,
        ..Plan::default()
    }
}

fn print(line: String) {
    println!("{line}");
}

#[tokio::test]
async fn killed_under_load_behind_a_bad_node() -> Result<()> {
    let report = soak::kills(&plan(3), &mut print).await?;
    println!("{report}");
    assert!(report.is_good(), "see the report");
    assert!(report.kills() >= 3 && report.injected() > 0, "nothing happened");
    Ok(())
}

#[tokio::test]
async fn one_of_three_instances_killed_under_load() -> Result<()> {
    let plan = Plan { rate_per_s: 100, ..plan(2) };
    let report = soak::takeovers(&plan, &mut print).await?;
    println!("{report}");
    assert!(report.is_good(), "see the report");
    assert!(!report.takeovers().is_empty(), "the owner was never killed");
    assert!(report.takeovers().max() <= plan.lease * 2, "took over after {:?}", report.takeovers().max());
    Ok(())
}
