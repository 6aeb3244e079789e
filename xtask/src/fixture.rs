//! `cargo xtask fixture`: a ledger written by one version of the relayer, for later versions to open.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::test::cargo;
use crate::tools::{ANVIL_VAR, anvil, run};

/// Make ledgers with requests in every status, as a relayer of another version writes them.
///
/// Runs that relayer on a local chain, kills it in the middle of its work, and keeps its ledger, the chain's state,
/// the configuration and the list of requests: under OUT/sqlite a file of the embedded ledger, under OUT/postgres a
/// dump of the shared one. `relayer-bin/tests/it/upgrade.rs` opens the files in `relayer-bin/tests/fixtures`. Needs
/// `sqlite3`, and PostgreSQL's server and client programs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the relayer, such as a build of the last release.
    #[arg(long)]
    binary: PathBuf,
    /// Output folder, such as `relayer-bin/tests/fixtures/<version>`.
    #[arg(long)]
    out: PathBuf,
}

/// Runs `cargo xtask fixture`.
pub(crate) fn make(args: &Args) -> Result<()> {
    let binary = args.binary.canonicalize().with_context(|| format!("no relayer at {}", args.binary.display()))?;
    let out = std::path::absolute(&args.out)?;
    for (name, extra) in [("sqlite", None), ("postgres", Some("--postgres"))] {
        let mut fixture = cargo(&["run", "--locked", "-p", "slackwater-benches", "--bin", "slackwater-fixture", "--"]);
        fixture.arg("--binary").arg(&binary).arg("--out").arg(out.join(name)).args(extra);
        run(fixture.env(ANVIL_VAR, anvil()?))?;
    }
    Ok(())
}
