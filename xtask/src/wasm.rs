//! `cargo xtask wasm`: builds the core for browsers and checks its size. Also builds anything else of the workspace
//! for wasm32. There are two modules of one crate: `slackwater` for clients of a relayer, `page` for relaying in the
//! page.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::steps::say;
use crate::supply;
use crate::test::{cargo, target_dir};
use crate::tools::{repo_root, run, run_node};

/// Build the modules for browsers and Node, optimise them for size, and compare their sizes with `wasm/budget.json`.
///
/// Writes the output of `wasm-bindgen` and `wasm-opt` for `slackwater-wasm` into `bindings/js/wasm`, where the npm
/// package takes it from. The standard library for wasm32 comes from rustup, or else from Debian's compiler;
/// wasm-bindgen of the pinned version is built once for all clones, wasm-opt comes from npm by lock file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also list the size of each crate and each large function.
    #[arg(long)]
    parts: bool,
}

/// The target of browsers.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Runs `cargo xtask wasm`.
pub(crate) fn run_wasm(args: &Args) -> Result<()> {
    match modules(args.parts)? {
        Built::In(_) => Ok(()),
        Built::Missing(why) => bail!(why),
    }
}

/// Output folder of a build, or the reason why it can't be made here.
pub(crate) enum Built {
    /// The folder.
    In(PathBuf),
    /// Name of the missing tool.
    Missing(String),
}

/// The modules: name of the files, and feature of the crate.
const MODULES: [(&str, &str); 2] = [("slackwater", "client"), ("page", "page")];

/// Builds the modules into `bindings/js/wasm`, and checks their sizes.
pub(crate) fn modules(with_parts: bool) -> Result<Built> {
    let made = target_dir().join("wasm-module");
    let out = repo_root().join("bindings/js/wasm");
    for dir in [&made, &out] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
    }
    for (name, feature) in MODULES {
        let built = match module(feature)? {
            Built::In(dir) => dir.join("wasm"),
            missing => return Ok(missing),
        };
        let made = made.join(name);
        let mut bind = Command::new(wasm_bindgen()?);
        bind.args(["--target", "web", "--out-name", name, "--omit-default-module-path", "--keep-debug", "--out-dir"]);
        run(bind.arg(&made).arg(built.join("slackwater_wasm.wasm")))?;
        for file in ["interop.js", "interop.d.ts"] {
            fs::copy(repo_root().join("wasm/js").join(file), made.join(file))?;
        }
        // The script optimises, measures, and compares with the budget.
        let budget = repo_root().join("wasm/budget.json");
        run_node("wasm-size.mjs", &[Path::new(name), &made, &out, &budget])?;
        if with_parts {
            run_node("wasm-parts.mjs", &[&made.join(format!("{name}_bg.wasm"))])?;
        }
    }
    Ok(Built::In(out))
}

/// Builds the module with this feature, not yet made small.
fn module(feature: &str) -> Result<Built> {
    let args = ["-p", "slackwater-wasm", "--profile", "wasm", "--locked", "--no-default-features", "--features"];
    build(&[&args[..], &[feature]].concat())
}

/// Builds what checks the pure rooms in a browser's machine; the folder has `debug/slackwater-wasm-check.wasm`.
pub(crate) fn check() -> Result<Built> {
    build(&["-p", "slackwater-client", "-p", "slackwater-wasm-check", "--no-default-features", "--locked"])
}

/// Builds ahead what the steps for browsers need.
pub(crate) fn build_ahead() -> Result<()> {
    wasm_bindgen()?;
    check()?;
    // The second one differs in one crate.
    module(MODULES[0].1).map(drop)
}

/// Runs `cargo build` with `args` for wasm32, and returns the folder with one subfolder per profile. It uses rustup's
/// standard library if available, else Debian's compiler, which builds the library from its sources.
pub(crate) fn build(args: &[&str]) -> Result<Built> {
    if !has_std()? {
        let _ = Command::new("rustup").args(["target", "add", TARGET]).status();
    }
    // A folder of its own, so that these builds and those of the tests can run side by side.
    let dir = target_dir().join("wasm");
    if has_std()? {
        run(cargo(&["build", "--target", TARGET]).args(args).arg("--target-dir").arg(&dir))?;
        return Ok(Built::In(dir.join(TARGET)));
    }
    if !has_debian_wasm() {
        say("installing Debian's compiler for wasm32")?;
        apt_install(&DEBIAN_WASM);
    }
    if !has_debian_wasm() {
        return Ok(Built::Missing(format!(
            "neither `rustup target add {TARGET}` nor `apt-get install {}` worked",
            DEBIAN_WASM.join(" ")
        )));
    }
    let mut build = Command::new("/usr/bin/cargo");
    build.arg("build").args(args).args(["-Zbuild-std=std,panic_abort", "--target", TARGET, "--target-dir"]);
    build.arg(&dir).current_dir(repo_root());
    // Variables of the outer cargo would mislead this one.
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTDOC", "RUSTFLAGS"] {
        build.env_remove(name);
    }
    build.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    run(build.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-22"))?;
    Ok(Built::In(dir.join(TARGET)))
}

/// Debian's packages that build for wasm32.
const DEBIAN_WASM: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-22"];

static IS_APT_FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// Disables the installation of Debian packages.
pub(crate) fn forbid_apt() {
    IS_APT_FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Installs Debian packages if possible and allowed; the caller must check for them afterwards.
pub(crate) fn apt_install(packages: &[&str]) {
    if IS_APT_FORBIDDEN.load(Ordering::Relaxed) {
        return;
    }
    let _ = Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()).status();
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages).stdout(Stdio::null());
    let _ = install.env("DEBIAN_FRONTEND", "noninteractive").status();
}

fn has_debian_wasm() -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${db:Status-Status}\n"]).args(DEBIAN_WASM).stderr(Stdio::null());
    query.output().is_ok_and(|answer| {
        let text = String::from_utf8_lossy(&answer.stdout);
        text.lines().filter(|line| *line == "installed").count() == DEBIAN_WASM.len()
    })
}

fn has_std() -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let answer = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()?;
    let dir = PathBuf::from(String::from_utf8(answer.stdout)?.trim());
    Ok(fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()))
}

/// wasm-bindgen of the version that the workspace pins, without TLS, which only its test runner needs.
fn wasm_bindgen() -> Result<PathBuf> {
    let args = ["--no-default-features", "--bin", "wasm-bindgen"];
    supply::cargo_tool("wasm-bindgen", "wasm-bindgen-cli", &pinned_version()?, &args)
}

/// Version of wasm-bindgen in the lock file.
fn pinned_version() -> Result<String> {
    let lock = fs::read_to_string(repo_root().join("Cargo.lock"))?;
    let (_, rest) =
        lock.split_once("name = \"wasm-bindgen\"\nversion = \"").context("Cargo.lock has no wasm-bindgen")?;
    let (version, _) = rest.split_once('"').context("Cargo.lock is cut off")?;
    Ok(version.to_owned())
}
