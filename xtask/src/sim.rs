//! `cargo xtask sim`: the relay in a simulated world, many seeds.

use anyhow::Result;

use crate::steps::Done;
use crate::test::cargo;
use crate::tools::run;

/// Run the shipped relay against scripted chains, nodes, storage and crashes (docs/simulation.md).
///
/// Every second seed mixes all faults, the others take the named scenarios in turn. Prints what was injected, and for a
/// seed that broke something its timeline.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this scenario (random, crash, reorg, …).
    #[arg(long)]
    scenario: Option<String>,
}

/// Runs `cargo xtask sim`.
pub(crate) fn run_sim(args: &Args) -> Result<()> {
    let mut command = cargo(&[
        "run",
        "--profile",
        "simulation",
        "-p",
        "slackwater-simulation",
        "--features",
        "world",
        "--locked",
        "--",
    ]);
    command.args(["--seeds", &args.seeds.to_string(), "--first", &args.first.to_string()]);
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(scenario) = &args.scenario {
        command.args(["--scenario", scenario]);
    }
    run(&mut command)
}

/// The seeds of every check.
pub(crate) fn check() -> Result<Done> {
    run_sim(&Args { seeds: 2_000, first: 1, seed: None, scenario: None })?;
    Ok(Done::Passed)
}
