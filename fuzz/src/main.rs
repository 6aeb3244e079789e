//! `slackwater-fuzz`: see `--help`.

use std::time::Duration;

use clap::Parser;
use slackwater_fuzz::{TARGETS, Until, corpus, keep, run};

/// Feeds arbitrary input to everything that Slackwater reads.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Names of targets; all if there are none.
    targets: Vec<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seed of the inputs: the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[allow(clippy::print_stdout, reason = "a command line tool")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for name in &args.targets {
        let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
        anyhow::ensure!(TARGETS.iter().any(|target| target.name == name), "no target `{name}`; there are {}", known());
    }
    // One line per crash is enough: the default hook would report it a second time.
    std::panic::set_hook(Box::new(|_| ()));
    let mut crashes = 0;
    for target in
        TARGETS.iter().filter(|target| args.targets.is_empty() || args.targets.iter().any(|name| name == target.name))
    {
        match run(target, &corpus(target)?, args.seed, Until::Passed(Duration::from_secs(args.seconds))) {
            Ok(seen) => println!("{:<12} {} inputs, {} understood", target.name, seen.inputs, seen.understood),
            Err(crash) => {
                crashes += 1;
                println!("{crash}\nkept as {}", keep(target, &crash)?.display());
            }
        }
    }
    anyhow::ensure!(crashes == 0, "{crashes} targets failed");
    Ok(())
}
