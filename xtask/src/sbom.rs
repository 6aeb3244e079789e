//! `cargo xtask sbom`: bill of materials of the binary and the crates.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::steps::say;
use crate::test::{cargo, target_dir};
use crate::tools::{repo_root, run};

/// Write a software bill of materials (CycloneDX, JSON) for the binary and the core crate to `target/sbom`.
///
/// Installs cargo-cyclonedx into `target/tools` first (minutes, once).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Output folder.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Published crates, with their folders.
const SHIPPED: [(&str, &str); 3] =
    [("slackwater-relayer", "relayer-bin"), ("slackwater", "core"), ("slackwater-client", "core/client")];

/// Pinned version of the tool: its output must not change from one day to the next.
const CYCLONEDX: &str = "0.5.9";

/// Name of the file that the tool writes, without its extension.
const NAME: &str = "slackwater-sbom";

/// Runs `cargo xtask sbom`.
pub(crate) fn write(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("sbom"));
    fs::create_dir_all(&out)?;
    let tool = cyclonedx()?;
    let mut sbom = Command::new(&tool);
    sbom.args(["cyclonedx", "--format", "json", "--override-filename", NAME, "--manifest-path"]);
    run(sbom.arg(repo_root().join("Cargo.toml")).current_dir(repo_root()))?;
    // The tool writes its file beside each member's manifest.
    for folder in members()? {
        let written = folder.join(format!("{NAME}.json"));
        let Ok(text) = fs::read_to_string(&written) else { continue };
        fs::remove_file(&written)?;
        let Some((name, _)) = SHIPPED.iter().find(|(_, shipped)| folder == repo_root().join(shipped)) else { continue };
        let parsed: serde_json::Value = serde_json::from_str(&text)?;
        let parts = parsed["components"].as_array().map_or(0, Vec::len);
        ensure!(parts > 0, "the bill of {name} is empty");
        let path = out.join(format!("{name}.cdx.json"));
        fs::write(&path, text)?;
        say(&format!("{}: {parts} components", path.display()))?;
    }
    Ok(())
}

/// Folders of the workspace's members.
fn members() -> Result<Vec<PathBuf>> {
    let answer = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]).output()?;
    ensure!(answer.status.success(), "cargo metadata failed: {}", answer.status);
    let metadata: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifests = packages.filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.filter_map(|manifest| Some(PathBuf::from(manifest).parent()?.to_path_buf())).collect())
}

fn cyclonedx() -> Result<PathBuf> {
    let root = target_dir().join(format!("tools/cargo-cyclonedx-{CYCLONEDX}"));
    let program = root.join("bin").join(format!("cargo-cyclonedx{}", env::consts::EXE_SUFFIX));
    let works =
        Command::new(&program).args(["cyclonedx", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        say(&format!("installing cargo-cyclonedx {CYCLONEDX}, which takes some minutes"))?;
        let version = format!("={CYCLONEDX}");
        let mut install =
            cargo(&["install", "cargo-cyclonedx", "--version", &version, "--locked", "--debug", "--root"]);
        run(install.arg(&root))?;
    }
    Ok(program)
}
