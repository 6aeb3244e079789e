//! `cargo xtask fuzz`: arbitrary input, for longer than the tests do it.

use anyhow::Result;

use crate::test::cargo;
use crate::tools::run;

/// Feed arbitrary input to everything that is read from outside.
///
/// The tests do the same with 20 000 inputs each. An input that makes a target panic is kept under `fuzz/artifacts`; put it
/// into `fuzz/corpus` with the fix.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Targets; all without.
    targets: Vec<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the inputs start: the same seed makes the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    let mut fuzz = cargo(&["run", "--release", "--locked", "-p", "slackwater-fuzz", "--"]);
    fuzz.args(["--seconds", &args.seconds.to_string(), "--seed", &args.seed.to_string()]).args(&args.targets);
    run(&mut fuzz)
}
