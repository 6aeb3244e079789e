//! `cargo xtask contracts`: generates the embedded data of `slackwater-contracts` from the pinned npm packages.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::tools::{anvil, npm_tools, repo_root, run_node};

/// Regenerate contract artifacts and EIP-712 vectors from the pinned npm packages.
///
/// Writes `bindings/contracts/artifacts` (compiled with the pinned solc, compared with what
/// OpenZeppelin publishes) and `core/pure/tests/vectors/{eip712,eip3009}.json` (signed by viem and ethers).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a committed file differs from what would be written.
    #[arg(long)]
    check: bool,
    /// Also deploy everything on a local anvil and run signed batches through each forwarder.
    #[arg(long)]
    prove: bool,
}

/// Runs `cargo xtask contracts --check`.
pub(crate) fn check() -> Result<()> {
    run(&Args { check: true, prove: false })
}

/// Committed files of the artifact directory that are not generated.
const KEPT: [&str; 6] = [
    "README.md",
    "Multicall3.creation.hex",
    "GasPriceOracle.runtime.hex",
    "L1Block.runtime.hex",
    "FiatTokenV2_2.creation.hex",
    "SignatureChecker.creation.hex",
];

/// Runs `cargo xtask contracts`.
pub(crate) fn run(args: &Args) -> Result<()> {
    check_lock()?;
    let root = repo_root();
    let artifacts = root.join("bindings/contracts/artifacts");
    let vectors = root.join("core/pure/tests/vectors");
    let fresh = root.join("target/xtask/contracts");
    let fresh_artifacts = fresh.join("artifacts");
    let fresh_vectors = fresh.join("vectors");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    run_node("compile.mjs", &[&fresh_artifacts])?;
    run_node("vectors.mjs", &[&fresh_vectors.join("eip712.json")])?;
    run_node("authorization_vectors.mjs", &[&fresh_vectors.join("eip3009.json")])?;

    let mut files: Vec<(PathBuf, PathBuf)> =
        names(&fresh_artifacts)?.iter().map(|name| (fresh_artifacts.join(name), artifacts.join(name))).collect();
    files.extend(names(&fresh_vectors)?.iter().map(|name| (fresh_vectors.join(name), vectors.join(name))));
    let unknown: Vec<_> = names(&artifacts)?
        .difference(&names(&fresh_artifacts)?)
        .filter(|name| !KEPT.contains(&name.as_str()))
        .cloned()
        .collect();
    ensure!(unknown.is_empty(), "not generated, delete: {}", unknown.join(", "));

    let mut changed = Vec::new();
    for (fresh, committed) in &files {
        let content = fs::read(fresh).with_context(|| format!("cannot read {}", fresh.display()))?;
        if fs::read(committed).ok().as_ref() != Some(&content) {
            changed.push(committed.strip_prefix(&root)?.display().to_string());
            if !args.check {
                fs::create_dir_all(committed.parent().unwrap_or(&root))?;
                fs::write(committed, content).with_context(|| format!("cannot write {}", committed.display()))?;
            }
        }
    }
    ensure!(!args.check || changed.is_empty(), "out of date, run `cargo xtask contracts`: {}", changed.join(", "));
    if args.prove {
        run_node("prove.mjs", &[&anvil()?])?;
    }
    let mut out = io::stdout();
    if changed.is_empty() {
        writeln!(out, "{} files are up to date", files.len())?;
    }
    for path in changed {
        writeln!(out, "wrote {path}")?;
    }
    Ok(())
}

/// The lock file pins content by hash and must not record a developer's download addresses.
fn check_lock() -> Result<()> {
    let lock = fs::read_to_string(npm_tools()?.join("package-lock.json"))?;
    ensure!(
        !lock.contains("\"resolved\""),
        "tools/npm/package-lock.json records download addresses: recreate it with the .npmrc beside it"
    );
    Ok(())
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
