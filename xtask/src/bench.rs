//! `cargo xtask bench`: measures the figures of the README on this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::compare;
use crate::demo::build;
use crate::steps::say;
use crate::test::{cargo, program};
use crate::tools::{ANVIL_VAR, anvil, repo_root, run};

/// Measure: components by criterion, the whole process by the load generator.
///
/// Each run of the load generator starts its own chain and relayer and stops them. Close other programs first: load
/// generator, relayer, chain and database share the cores.
///
/// With `--compare BIN` only the comparison is measured: BIN and the release build of this tree take turns under the
/// same load, and each figure is printed as the two medians, and the median, minimum and maximum of the pairs' ratios
/// (this tree over BIN): rates, latencies, processor time and gas per request. Below 1 is less. BIN is an older
/// `slackwater`; configuration keys that it does not know are left out, and named.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Measure only the whole process, not the components.
    #[arg(long)]
    skip_components: bool,
    /// Measure only the components, not the whole process.
    #[arg(long, conflicts_with = "skip_components")]
    skip_process: bool,
    /// Compare this relayer program with the release build of this tree.
    #[arg(long, value_name = "BIN", conflicts_with_all = ["skip_components", "skip_process"])]
    compare: Option<PathBuf>,
    /// Pairs of runs; their order changes from pair to pair.
    #[arg(long, requires = "compare", default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..=99))]
    pairs: u64,
    /// Requests of each run, percent of the usual number: fewer for a quick look.
    #[arg(long, requires = "compare", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    scale_percent: u64,
}

/// Runs of the load generator: title and arguments. In "held" runs the relayer's accounts have no money, so that
/// nothing is sent and the whole machine accepts.
const RUNS: [(&str, &str); 5] = [
    ("accept one by one, 64 connections, held", "--hold --connections 64 --requests 60000 --users 2000"),
    (
        "accept in batches of 100, 100 000 queued, held",
        "--hold --connections 8 --batch 100 --requests 100000 --users 2000",
    ),
    ("accept at 2 000 a second, held", "--hold --rate 2000 --connections 64 --requests 40000 --users 2000"),
    ("accept one by one and settle", "--settle --senders 4 --call sign --connections 64 --requests 30000 --users 1000"),
    ("settle", "--settle --senders 4 --call sign --connections 8 --batch 100 --requests 30000 --users 1000"),
];

/// Runs `cargo xtask bench`.
pub(crate) fn run_all(args: &Args) -> Result<()> {
    if let Some(before) = &args.compare {
        return compare::run(before, args.pairs, args.scale_percent);
    }
    if !args.skip_components {
        run(&mut cargo(&["bench", "--locked", "-p", "slackwater-benches"]))?;
    }
    if args.skip_process {
        return Ok(());
    }
    let anvil = anvil()?;
    build("release")?;
    for (title, arguments) in RUNS {
        say(&format!("\n=== {title}"))?;
        let mut load = Command::new(program("release", "slackwater-load")?);
        run(load.args(arguments.split_whitespace()).env(ANVIL_VAR, &anvil).current_dir(repo_root()))?;
    }
    Ok(())
}
