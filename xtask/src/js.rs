//! `cargo xtask js`: the npm package, packed as it would be published, and its tests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps::{Done, say};
use crate::test::{built, target_dir};
use crate::tools::{ANVIL_VAR, anvil, npm_packages, repo_root, run};
use crate::wasm::{self, Built, apt_install};

/// Build and pack the npm package, and test the packed files: in Node, and in Chromium, with the real relayer and a
/// real chain.
///
/// The package is written to `target/js`, screenshots of the example to `target/js/screenshots`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pack only.
    #[arg(long)]
    no_tests: bool,
}

/// Runs `cargo xtask js`.
pub(crate) fn run_js(args: &Args) -> Result<()> {
    if let Some(why) = package()? {
        bail!(why);
    }
    if args.no_tests {
        return Ok(());
    }
    for (name, step) in [("in Node", node_tests as fn() -> Result<Done>), ("in Chromium", browser_tests)] {
        match step()? {
            Done::Skipped(why) => say(&format!("{name}: skipped: {why}"))?,
            Done::Noted(note) => say(&format!("{name}: {note}"))?,
            Done::Passed | Done::Counted(_) => {}
        }
    }
    Ok(())
}

fn folder() -> PathBuf {
    repo_root().join("bindings/js")
}

/// Builds and packs the package, and installs it for tests and examples. Returns the name of a missing tool if it
/// can't be built here.
pub(crate) fn package() -> Result<Option<String>> {
    let modules = npm_packages(&folder())?.join("node_modules");
    if let Built::Missing(why) = wasm::modules(false)? {
        return Ok(Some(why));
    }
    for (from, to) in [
        ("core/pure/src/forecast/prior.json", "wasm/prior.json"),
        ("LICENSE-APACHE", "LICENSE-APACHE"),
        ("LICENSE-MIT", "LICENSE-MIT"),
    ] {
        fs::copy(repo_root().join(from), folder().join(to)).with_context(|| format!("cannot copy {from}"))?;
    }
    node(&folder(), "node_modules/typescript/bin/tsc", &["-p", "tsconfig.json"])?;
    let out = target_dir().join("js");
    fs::create_dir_all(&out)?;
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    run(Command::new(npm).args(["pack", "--silent", "--pack-destination"]).arg(&out).current_dir(folder()))?;
    let installed = modules.join("slackwater");
    if installed.exists() {
        fs::remove_dir_all(&installed)?;
    }
    fs::create_dir_all(&installed)?;
    run(Command::new("tar").arg("xzf").arg(tarball()).args(["--strip-components", "1", "-C"]).arg(&installed))?;
    Ok(None)
}

/// Path of the packed package: its version is the workspace's.
fn tarball() -> PathBuf {
    target_dir().join("js").join(format!("slackwater-{}.tgz", env!("CARGO_PKG_VERSION")))
}

fn node(dir: &Path, script: &str, args: &[&str]) -> Result<()> {
    run(Command::new("node").arg(folder().join(script)).args(args).current_dir(dir))
}

fn tests(files: &[&str]) -> Result<()> {
    let mut node = Command::new("node");
    // Each file has chains and relayers of its own, and mostly waits for blocks.
    node.args(["--test", "--test-concurrency=2", "--test-force-exit", "--test-reporter=spec"]);
    node.args(files.iter().map(|file| format!("tests/{file}.test.mjs"))).current_dir(folder());
    node.env("SLACKWATER_TARBALL", tarball()).env("SLACKWATER_BIN", built("slackwater")?).env(ANVIL_VAR, anvil()?);
    node.env("SLACKWATER_DEMO", built("slackwater-demo")?).env("SLACKWATER_JS_OUT", target_dir().join("js"));
    run(&mut node)
}

/// Tests the packed package in Node. Needs [`package`].
pub(crate) fn node_tests() -> Result<Done> {
    ensure!(tarball().is_file(), "the package was not packed");
    tests(&["node", "package", "page", "relayer"])?;
    Ok(Done::Passed)
}

/// Tests the packed package and the example in Chromium, if that is installed or can be. Needs [`package`].
pub(crate) fn browser_tests() -> Result<Done> {
    ensure!(tarball().is_file(), "the package was not packed");
    let chromium = Path::new("/usr/bin/chromium");
    if env::var_os("SLACKWATER_CHROMIUM").is_none() && !chromium.is_file() {
        say("installing Chromium")?;
        apt_install(&["chromium", "fonts-dejavu-core"]);
        if !chromium.is_file() {
            let why = "no Chromium: `apt-get install chromium` did not work; name one with SLACKWATER_CHROMIUM";
            return Ok(Done::Skipped(why.to_owned()));
        }
    }
    example()?;
    let shots = screenshots();
    if shots.exists() {
        fs::remove_dir_all(&shots)?;
    }
    let outcome = tests(&["browser", "page-browser", "page-keys-browser"]);
    let named = named_screenshots(&shots);
    if outcome.is_err() {
        // Screenshots matter most after a failure.
        say(&named)?;
    }
    outcome.map(|()| Done::Noted(named))
}

/// Folder of the screenshots of the tests in Chromium.
pub(crate) fn screenshots() -> PathBuf {
    target_dir().join("js/screenshots")
}

/// Names of the screenshots, for the report.
fn named_screenshots(folder: &Path) -> String {
    let mut files: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => {
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect()
        }
        Err(_) => Vec::new(),
    };
    files.sort();
    format!("{} screenshots in {}: {}", files.len(), folder.display(), files.join(" "))
}

/// Builds the example page from the packed package, and returns its folder. Needs [`package`].
pub(crate) fn example() -> Result<PathBuf> {
    let source = folder().join("examples/sponsored");
    node(&source, "node_modules/typescript/bin/tsc", &["-p", "."])?;
    let out = target_dir().join("js/sponsored");
    let out_text = out.to_str().context("the target folder's name is no text")?;
    node(&source, "node_modules/vite/bin/vite.js", &["build", "--outDir", out_text, "--emptyOutDir"])?;
    Ok(out)
}
