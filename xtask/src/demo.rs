//! `cargo xtask demo`: demonstrates the main job.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};

use crate::js;
use crate::steps::say;
use crate::test::{cargo, program, without_paths};
use crate::tools::{ANVIL_VAR, anvil, repo_root, run};

/// Relay real meta-transactions on a local chain and show what happens.
///
/// Fetches a local chain (anvil, from npm by lock file), builds the relayer, starts both, lets users sign ERC-2771
/// requests, submits them as a service would, follows them to finality and compares with sending them one by one.
/// Everything it started is stopped at the end. The exit code is 0 only if each request was executed exactly once on
/// the chain.
///
/// With `--keep` the example dApp of `bindings/js` is built and served too, so that a browser can continue where the
/// demonstration ends. If WebAssembly can't be built, everything else is served and the missing tool is named.
///
/// The build is not optimised, so that it takes less than half the time; `--release` shows the speed of a release.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave chain and relayer running until Ctrl-C, and serve the example dApp with them.
    #[arg(long)]
    keep: bool,
    /// Build with the release profile.
    #[arg(long)]
    release: bool,
    /// Number of requests.
    #[arg(long, default_value_t = 200)]
    requests: u32,
    /// Number of users who sign them.
    #[arg(long, default_value_t = 40)]
    users: u32,
}

/// Runs `cargo xtask demo`.
pub(crate) fn run_demo(args: &Args) -> Result<()> {
    ensure!(args.requests >= 1 && args.users >= 1, "at least one request and one user");
    prerequisites()?;
    let anvil = anvil()?;
    let profile = if args.release { "release" } else { "dev" };
    build(profile)?;
    let page = args.keep.then(example);
    let mut demo = Command::new(program(profile, "slackwater-demo")?);
    demo.args(["--requests", &args.requests.to_string(), "--users", &args.users.to_string()]);
    if args.keep {
        demo.arg("--keep");
    }
    match page {
        Some(Ok(folder)) => {
            demo.arg("--page").arg(folder);
        }
        None => {}
        Some(Err(why)) => say(&format!("The example dApp is not served: {why:#}"))?,
    }
    let status = demo.env(ANVIL_VAR, anvil).current_dir(repo_root()).status()?;
    // The demonstration has printed its error.
    std::process::exit(status.code().unwrap_or(1));
}

/// Builds the example dApp. Optional: the demonstration runs without it if the build fails.
fn example() -> Result<PathBuf> {
    say("building the example dApp; the first time takes some minutes")?;
    match js::package()? {
        Some(missing) => bail!(missing),
        None => js::example(),
    }
}

/// Builds relayer, demonstration and load generator.
pub(crate) fn build(profile: &str) -> Result<()> {
    say(&format!("building ({profile} profile); the first time takes some minutes"))?;
    let packages = ["-p", "slackwater-relayer", "-p", "slackwater-benches", "--bins"];
    let mut build = cargo(&["build", "--profile", profile, "--locked"]);
    build.args(packages);
    // Only what may be passed on is built without the names of folders; that needs flags with which all is built anew.
    if profile == "dev" {
        return run(&mut build);
    }
    run(without_paths(&mut build))
}

/// Reports missing programs before anything takes long.
pub(crate) fn prerequisites() -> Result<()> {
    let has = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // libsecp256k1, SQLite and jemalloc are C.
    if !["cc", "clang", "gcc"].into_iter().any(has) && std::env::var_os("CC").is_none() {
        bail!("a C compiler is needed: install gcc or clang (Debian: `apt-get install build-essential`), or set CC");
    }
    if cfg!(unix) && !["make", "gmake"].into_iter().any(has) {
        bail!("make is needed: install it (Debian: `apt-get install build-essential`)");
    }
    let anvil_is_set = std::env::var_os(ANVIL_VAR).is_some_and(|path| !path.is_empty());
    let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
    if !anvil_is_set && !has(npm) {
        bail!(
            "npm is needed to fetch a local chain: install Node.js 20 or later, or install Foundry and set {ANVIL_VAR} \
             to its anvil"
        );
    }
    Ok(())
}
