//! `cargo xtask fuzz`: feeds arbitrary input for longer than the tests do.

use std::process::Command;

use anyhow::Result;

use crate::steps::Done;
use crate::test::cargo;
use crate::tools;

/// Feed arbitrary input to everything that is read from outside.
///
/// The tests do the same with 20 000 inputs each. An input that makes a target panic is kept under `fuzz/artifacts`;
/// put it into `fuzz/corpus` with the fix.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of targets; all if there are none.
    targets: Vec<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the inputs: the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    let mut fuzz = program(args.seconds);
    fuzz.args(["--seed", &args.seed.to_string()]).args(&args.targets);
    tools::run(&mut fuzz)
}

/// All targets, for `seconds` each.
pub(crate) fn run(seconds: u64) -> Result<Done> {
    tools::run(&mut program(seconds))?;
    Ok(Done::Passed)
}

fn program(seconds: u64) -> Command {
    let mut fuzz = cargo(&["run", "--release", "--locked", "-p", "slackwater-fuzz", "--"]);
    fuzz.args(["--seconds", &seconds.to_string()]);
    fuzz
}
