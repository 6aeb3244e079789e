//! `cargo xtask soak`: long runs in which processes are killed under load.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::demo::build;
use crate::steps::Done;
use crate::test::program;
use crate::tools::{ANVIL_VAR, anvil, repo_root};

/// Kill relayers under load, again and again, and count on the chain the outcome of every request
/// (docs/reliability.md).
///
/// `kills`: one relayer on SQLite, `kill -9` in every round. `cluster`: three on one PostgreSQL, one killed in every
/// round, mostly the one that drives the lanes. `outage`: the only node is frozen for 75 s. Callers submit in open
/// loop and repeat the same bytes when an answer is lost; a proxy injects faults into a share of all calls to the
/// node. The exit code is 0 only if every accepted request was executed exactly once. Arguments after the name are
/// passed to `slackwater-soak`: `--help` there lists all.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind of run.
    #[arg(value_parser = ["kills", "cluster", "outage"])]
    run: String,
    /// Options of the run, such as `--rounds 30 --rate 200 --seed 7`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Runs `cargo xtask soak`.
pub(crate) fn run_soak(args: &Args) -> Result<()> {
    let options = args.options.iter().map(String::as_str);
    run(&[args.run.as_str()].into_iter().chain(options).collect::<Vec<_>>()).map(drop)
}

/// One run: its kind and its options.
pub(crate) fn run(args: &[&str]) -> Result<Done> {
    let anvil = anvil()?;
    build("release")?;
    let status = Command::new(program("release", "slackwater-soak")?)
        .args(args)
        .env(ANVIL_VAR, anvil)
        .current_dir(repo_root())
        .status()?;
    // The program has printed its error.
    ensure!(status.success(), "{} failed: {status}", args.join(" "));
    Ok(Done::Passed)
}
