//! `cargo xtask test`: all checks that must pass before a change lands.

use std::env;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};

use crate::contracts;
use crate::demo::prerequisites;
use crate::fuzz;
use crate::js;
use crate::postgres::{self, PostgresServer, URL_VAR};
use crate::python;
use crate::sim;
use crate::soak;
use crate::steps::{Done, Harness, Steps, run_tests, say};
use crate::supply;
use crate::tools::{ANVIL_VAR, LocalChain, anvil, repo_root, run, run_node};
use crate::types;
use crate::wasm::{self, Built};

/// Check everything: format, lints, documentation, dependencies, contracts, tests, a short load.
///
/// With `--long` also what takes too long for every change: 20 000 seeds of all simulated scenarios, kills under load,
/// arbitrary input for a minute per target, the pure core's tests with the features of browsers.
///
/// Continues after a failure, sums up, and ends with a line `N passed, N failed`. Works on a fresh clone: it installs
/// its prerequisites (npm packages by lock file, cargo-deny, the wasm32 target, PostgreSQL).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only steps whose name contains one of these.
    only: Vec<String>,
    /// Also the long steps.
    #[arg(long)]
    long: bool,
    /// Install no system packages; steps that need one that is missing are skipped.
    #[arg(long)]
    no_install: bool,
}

/// Runs `cargo xtask test`.
pub(crate) fn run_all(args: Args) -> Result<()> {
    prerequisites()?;
    if args.no_install {
        wasm::forbid_apt();
    }
    let is_whole = args.only.is_empty();
    let mut ahead = None;
    let mut steps = Steps::new(args.only, args.long);
    steps.run("format", || passes(&["fmt", "--all", "--check"]))?;
    steps.run("contracts", || {
        contracts::check()?;
        Ok(Done::Passed)
    })?;
    steps.run("clippy", || passes(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    steps.run("clippy of the simulation", || {
        // Its library has no tests of its own.
        let targets = ["--bin", "slackwater-sim", "--test", "scenarios", "--test", "ledger"];
        run(cargo(&["clippy"]).args(sim::WORLD).args(targets).args(["--locked", "--", "-D", "warnings"]))?;
        Ok(Done::Passed)
    })?;
    steps.run("documentation", || {
        // With an example, so that dependencies have the same features as in the other steps.
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--lib", "--example", "embed", "--locked"]);
        run(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
        Ok(Done::Passed)
    })?;
    steps.run("tests", || {
        tests(|| {
            if is_whole {
                ahead = Ahead::start(args.no_install);
            }
        })
    })?;
    steps.run("generated types", types::check)?;
    steps.run("documentation tests", || {
        run_tests(Harness::Libtest, &mut cargo(&["test", "--workspace", "--doc", "--locked"]))
    })?;
    steps.run("simulation tests", || run_tests(Harness::Libtest, &mut sim::tests("scenarios")))?;
    steps.run("simulation", sim::check)?;
    steps.run("embed example", embed)?;
    steps.run("load check", load)?;
    steps.run("demonstration", demo)?;
    steps.run("python package", python::check)?;
    drop(ahead);
    steps.run("wasm32 build", wasm)?;
    steps.run("npm package", || Ok(js::package()?.map_or(Done::Passed, Done::Skipped)))?;
    steps.run("npm package in Node", js::node_tests)?;
    steps.run("npm package in Chromium", js::browser_tests)?;
    steps.run("licences and sources", supply::deny)?;
    steps.run("advisories", supply::advisories)?;
    steps.run("npm packages", supply::npm_locks)?;
    steps.run("npm advisories", supply::npm_advisories)?;
    // An embedder has no other crate of this workspace that switches features on.
    steps.run_long("crates alone", || {
        passes(&["check", "-p", "slackwater", "--lib", "--locked"])?;
        passes(&["check", "-p", "slackwater-client", "--lib", "--locked"])
    })?;
    steps.run_long("pure core tests", || {
        // Optimised, they run in a fraction of the time.
        let mut tests = cargo(&[
            "test",
            "--config",
            "profile.dev.opt-level = 1",
            "-p",
            "slackwater-core",
            "-p",
            "slackwater-client",
        ]);
        run_tests(
            Harness::Libtest,
            tests.args(["--no-default-features", "--features", "slackwater-core/presets", "--lib", "--locked"]),
        )
    })?;
    steps
        .run_long("ledger in memory", || run_tests(Harness::Libtest, sim::tests("ledger").args(["--", "on_memory"])))?;
    steps.run_long("all scenarios", sim::all_scenarios)?;
    steps.run_long("arbitrary input", || fuzz::run(60))?;
    steps.run_long("kills", || soak::run(&["kills", "--rounds", "10", "--rate", "200"]))?;
    steps.run_long("kills in a cluster", || soak::run(&["cluster", "--rounds", "5", "--rate", "200"]))?;
    steps.run_long("frozen node", || soak::run(&["outage"]))?;
    steps.finish()
}

/// Builds the tools and modules of later steps while tests wait for blocks, with the lowest priority.
#[derive(Debug, clap::Args)]
pub(crate) struct AheadArgs {
    /// Install no system packages.
    #[arg(long)]
    no_install: bool,
}

/// Runs `cargo xtask build-ahead`.
pub(crate) fn build_ahead(args: &AheadArgs) -> Result<()> {
    if args.no_install {
        wasm::forbid_apt();
    }
    let tools = supply::cargo_deny().map(drop);
    wasm::build_ahead().and(tools)
}

/// `cargo xtask build-ahead` in the background. What it can't build is built by the step that needs it, with its error.
struct Ahead(Child);

impl Ahead {
    fn start(no_install: bool) -> Option<Self> {
        let log = File::create(target_dir().join("build-ahead.log")).ok()?;
        let mut nice = Command::new("nice");
        nice.args(["-n", "19"])
            .arg(env::current_exe().ok()?)
            .arg("build-ahead")
            .args(no_install.then_some("--no-install"));
        nice.current_dir(repo_root()).stdin(Stdio::null()).stdout(log.try_clone().ok()?).stderr(log);
        nice.spawn().ok().map(Self)
    }
}

impl Drop for Ahead {
    /// Waits: two builds of one tool would disturb each other.
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// Runs every test of the workspace, with nextest if it is installed; `when_built` once they are built.
fn tests(when_built: impl FnOnce()) -> Result<Done> {
    let (harness, mut command) = if succeeds(&["nextest", "--version"]) {
        // Twice the number of cores, as in `.config/nextest.toml`.
        let threads = 2 * thread::available_parallelism().map_or(1, usize::from);
        let mut command = cargo(&["nextest", "run", "--profile", "check", "--test-threads", &threads.to_string()]);
        command.arg("--workspace");
        (Harness::Nextest, command)
    } else {
        (Harness::Libtest, cargo(&["test", "--workspace", "--tests"]))
    };
    command.args(["--locked", "--no-fail-fast"]);
    run(&mut cargo(&["test", "--workspace", "--tests", "--no-run", "--locked"]))?;
    // One server for all tests: each has a schema of its own.
    let postgres = PostgresServer::start().or_else(|missing| {
        if postgres::is_installed() {
            return Err(missing);
        }
        let _ = say("installing PostgreSQL");
        wasm::apt_install(&["postgresql"]);
        PostgresServer::start()
    });
    match &postgres {
        Ok(server) => {
            command.env(URL_VAR, server.url());
        }
        Err(missing) => say(&format!("tests of the shared ledger will fail: {missing}"))?,
    }
    let anvil = anvil()?;
    when_built();
    run_tests(harness, command.env(ANVIL_VAR, anvil))
}

/// Runs the example for embedders, on a real node.
fn embed() -> Result<Done> {
    // As the tests built it: with the same features.
    let program = built("examples/embed")?;
    let chain = LocalChain::start()?;
    run(Command::new(program).arg(chain.url()).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Runs a short load through the real binary, until everything is on the chain exactly once. Not a measurement of
/// speed.
fn load() -> Result<Done> {
    let mut load = Command::new(built("slackwater-load")?);
    load.args(["--requests", "1000", "--users", "50", "--connections", "16", "--settle"]);
    run(load.env(ANVIL_VAR, anvil()?).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Runs the demonstration, without optimisation.
fn demo() -> Result<Done> {
    run(Command::new(built("slackwater-demo")?).env(ANVIL_VAR, anvil()?).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Checks that the pure rooms build for browsers and give the same forecasts there, to the bit.
fn wasm() -> Result<Done> {
    match wasm::check()? {
        Built::In(dir) => run_node("wasm-check.mjs", &[&dir.join("debug/slackwater-wasm-check.wasm")])?,
        Built::Missing(why) => return Ok(Done::Skipped(why)),
    }
    Ok(Done::Passed)
}

fn passes(args: &[&str]) -> Result<Done> {
    run(&mut cargo(args))?;
    Ok(Done::Passed)
}

fn succeeds(args: &[&str]) -> bool {
    cargo(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Path of a program that the tests have built.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    // Always: an old program would be tested otherwise. After the tests it takes a second.
    run(&mut cargo(&["test", "--workspace", "--no-run", "--quiet", "--locked"]))?;
    program("dev", name)
}

/// The cargo that runs us, in the repository's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(repo_root());
    command
}

/// Keeps folders of the building machine out of the output of `build`: they contain the user's name, and two builds
/// would differ.
pub(crate) fn without_paths(build: &mut Command) -> &mut Command {
    let folders = private_folders();
    let flags = |name: &str, each: &dyn Fn(&str, &str) -> String| {
        let given = env::var(name).into_iter();
        given.chain(folders.iter().map(|(from, to)| each(from, to))).collect::<Vec<_>>().join(" ")
    };
    let rust = flags("RUSTFLAGS", &|from, to| format!("--remap-path-prefix={from}={to}"));
    // SQLite and secp256k1 are C.
    let c = flags("CFLAGS", &|from, to| format!("-ffile-prefix-map={from}={to}"));
    build.env("RUSTFLAGS", rust).env("CFLAGS", c)
}

/// Folders and their replacements. The last match counts.
fn private_folders() -> Vec<(String, &'static str)> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let set = |name: &str| env::var_os(name).map(PathBuf::from);
    let folders = [
        (home.clone(), "/home"),
        (set("RUSTUP_HOME").or_else(|| below_home(".rustup")), "/rustup"),
        (set("CARGO_HOME").or_else(|| below_home(".cargo")), "/cargo"),
        (Some(repo_root()), "/slackwater"),
    ];
    let told = |(path, name): (Option<PathBuf>, &'static str)| {
        // These variables can't hold a path with a space.
        let path = path?.to_str().filter(|path| path.len() > 1 && !path.contains(char::is_whitespace))?.to_owned();
        Some((path, name))
    };
    folders.into_iter().filter_map(told).collect()
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo_root().join("target"), |dir| repo_root().join(dir))
}

/// Path of a program that was built with this profile.
pub(crate) fn program(profile: &str, name: &str) -> Result<PathBuf> {
    let folder = if profile == "dev" { "debug" } else { profile };
    let path = target_dir().join(folder).join(format!("{name}{}", env::consts::EXE_SUFFIX));
    path.is_file().then_some(path).with_context(|| format!("{name} was not built"))
}
