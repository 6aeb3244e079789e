//! `cargo xtask sim`: runs the relay in a simulated world with many seeds.

use std::process::Command;

use anyhow::Result;

use crate::steps::Done;
use crate::test::{built, cargo};
use crate::tools::{repo_root, run};

/// Run the shipped relay against scripted chains, nodes, storage and crashes (docs/simulation.md).
///
/// Every second seed mixes all faults, the others take the named scenarios in turn; each seed then runs the page's
/// relay too. Prints the injected faults, and the timeline of a seed that violated an invariant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this scenario (random, crash, reorg, …; `page` for the page's relay), or `all`: the hostile ones too.
    #[arg(long)]
    scenario: Option<String>,
    /// Print the timeline of every seed.
    #[arg(long)]
    show: bool,
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
    command.args(args.show.then_some("--show"));
    run(&mut command)
}

/// Arguments for the simulated world within the workspace: with the features, and so the dependencies, of all other
/// tests. (For one package alone, cargo would build most of them again.)
pub(crate) const WORLD: [&str; 3] = ["--workspace", "--features", "slackwater-simulation/world"];

/// Runs the tests of file `name` with the simulator's switches. Our own crates are optimised a little, as thousands of
/// runs need it (more takes longer to build than it saves); dependencies are those of all other tests. Unlike in a
/// release, overflow checks are on.
pub(crate) fn tests(name: &str) -> Command {
    let mut tests = cargo(&["test", "--config", "profile.dev.opt-level = 1", "--config", "profile.dev.debug = false"]);
    tests.args(WORLD).args(["--locked", "--test", name]);
    tests
}

/// Runs the seeds of every check, in the program that is built with the tests.
pub(crate) fn check() -> Result<Done> {
    run(tests("scenarios").arg("--no-run"))?;
    run(Command::new(built("slackwater-sim")?).args(["--seeds", "500", "--first", "1"]).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Every second seed mixes all faults, the others take all scenarios in turn.
pub(crate) fn all_scenarios() -> Result<Done> {
    run_sim(&Args { seeds: 20_000, first: 1_000_001, seed: None, scenario: Some("all".to_owned()), show: false })?;
    Ok(Done::Passed)
}
