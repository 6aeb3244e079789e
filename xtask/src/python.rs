//! The Python package: built as a wheel, installed into its own environment, type-checked and tested there; and built
//! for release.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps::{Done, Harness, run_tests, say};
use crate::test::{built, target_dir};
use crate::tools::{ANVIL_VAR, anvil, repo_root, run};

/// Build the release files for PyPI, and try them.
///
/// Builds wheel (release profile) and source distribution into `target/python/dist`, installs the wheel alone into a
/// fresh environment, and runs the README's example there, with the real relayer and a real chain.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build the wheel a second time, in another folder, and compare: the same sources must give the same bytes.
    #[arg(long)]
    twice: bool,
}

/// Names of interpreters, in order of preference.
const INTERPRETERS: [&str; 2] = ["python3", "python"];

/// Python program that fails unless the interpreter is new enough and can make environments with pip.
const IS_FIT: &str = "import sys, venv, ensurepip; assert sys.version_info >= (3, 9)";

/// Reason for skipping if there is no usable interpreter.
const NO_PYTHON: &str = "there is no Python from 3.9 on with venv and ensurepip";

fn interpreter() -> Option<&'static str> {
    let is_fit = |name: &&str| {
        let mut ask = Command::new(name);
        ask.args(["-c", IS_FIT]).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    };
    INTERPRETERS.into_iter().find(is_fit)
}

fn package() -> PathBuf {
    repo_root().join("bindings/python")
}

/// Folder of an environment's programs.
fn programs(environment: &Path) -> PathBuf {
    environment.join(if cfg!(windows) { "Scripts" } else { "bin" })
}

/// Builds the wheel and runs its tests.
pub(crate) fn check() -> Result<Done> {
    let Some(interpreter) = interpreter() else { return Ok(Done::Skipped(NO_PYTHON.to_owned())) };
    let bin = environment(interpreter)?;
    let wheels = empty(&target_dir().join("python/wheels"))?;
    let mut build = Command::new(bin.join("maturin"));
    // With the profile, and so the dependencies, of all other tests.
    build.args(["build", "--profile", "dev", "--locked", "--out"]).arg(&wheels).current_dir(package());
    run(&mut build)?;
    install(&bin, &only_file(&wheels, "whl")?)?;
    run(Command::new(bin.join("mypy")).args(["python/slackwater", "examples"]).current_dir(package()))?;
    run_tests(Harness::Pytest, &mut pytest(&bin, &[])?)
}

/// Runs `cargo xtask python`.
pub(crate) fn run_python(args: &Args) -> Result<()> {
    let Some(interpreter) = interpreter() else { bail!(NO_PYTHON) };
    let bin = environment(interpreter)?;
    let dist = empty(&target_dir().join("python/dist"))?;
    maturin(&bin, &["build", "--release"], &dist, "release")?;
    maturin(&bin, &["sdist"], &dist, "release")?;
    let wheel = only_file(&dist, "whl")?;
    source_resolves(&only_file(&dist, "gz")?)?;
    if args.twice {
        let again = empty(&target_dir().join("python/again"))?;
        maturin(&bin, &["build", "--release"], &again, "release-again")?;
        ensure!(
            fs::read(&wheel)? == fs::read(only_file(&again, "whl")?)?,
            "two builds of {} differ: compare them in {} and {}",
            wheel.display(),
            dist.display(),
            again.display()
        );
        say("two builds in different folders gave the same bytes")?;
    }
    let fresh = target_dir().join("python/fresh");
    run(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&fresh))?;
    let fresh = programs(&fresh);
    install(&fresh, &wheel)?;
    // The tests' own environment runs the test; the example runs with the wheel and nothing else, as a user has it.
    install(&bin, &wheel)?;
    run(pytest(&bin, &["tests/test_readme.py"])?.env("SLACKWATER_README_PYTHON", fresh.join("python")))?;
    for file in fs::read_dir(&dist)? {
        let file = file?;
        say(&format!("{} bytes  {}", file.metadata()?.len(), file.path().display()))?;
    }
    Ok(())
}

/// Runs maturin so that its output depends only on the sources and the compiler: timestamps are the commit's, and
/// paths of this machine are not written.
fn maturin(bin: &Path, args: &[&str], out: &Path, folder: &str) -> Result<()> {
    let mut git = Command::new("git");
    let committed = git.args(["log", "-1", "--format=%ct"]).current_dir(repo_root()).output()?;
    let at = String::from_utf8(committed.stdout)?;
    let target = target_dir().join("python").join(folder);
    let root = repo_root();
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=/slackwater", root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    // At the end, since the last match counts.
    flags.push(format!("--remap-path-prefix={}=/target", target.display()));
    let mut build = Command::new(bin.join("maturin"));
    build.args(args).arg("--out").arg(out).current_dir(package()).env("CARGO_TARGET_DIR", &target);
    if args.contains(&"build") {
        build.arg("--locked").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
    run(build.env("SOURCE_DATE_EPOCH", at.trim()))
}

/// Checks that the source distribution holds everything needed to build it, in the versions of our lock file. (It has
/// fewer crates than the workspace, so its lock file shrinks in use.)
fn source_resolves(archive: &Path) -> Result<()> {
    let folder = empty(&target_dir().join("python/source"))?;
    run(Command::new("tar").arg("xzf").arg(archive).args(["--strip-components", "1", "-C"]).arg(&folder))?;
    let manifest = folder.join("bindings/python/Cargo.toml");
    let mut resolve = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    resolve.args(["metadata", "--format-version", "1", "--manifest-path"]).arg(manifest);
    run(resolve.current_dir(&folder).stdout(Stdio::null())).context("the source distribution is not whole")?;
    let pinned = locked(&repo_root())?;
    let others: Vec<_> = locked(&folder)?.into_iter().filter(|package| !pinned.contains(package)).collect();
    ensure!(others.is_empty(), "the source distribution would be built with other crates: {others:?}");
    Ok(())
}

/// Name, version and checksum of each crate in a folder's lock file.
fn locked(folder: &Path) -> Result<BTreeSet<Vec<String>>> {
    let text = fs::read_to_string(folder.join("Cargo.lock"))?;
    let of_package = |block: &str| {
        let is_identity = |line: &&str| ["name", "version", "checksum"].iter().any(|key| line.starts_with(key));
        block.lines().filter(is_identity).map(str::to_owned).collect()
    };
    Ok(text.split("[[package]]").skip(1).map(of_package).collect())
}

fn pytest(bin: &Path, args: &[&str]) -> Result<Command> {
    let mut tests = Command::new(bin.join("python"));
    tests.args(["-m", "pytest"]).args(args).current_dir(package());
    tests.env("SLACKWATER_BIN", built("slackwater")?).env(ANVIL_VAR, anvil()?);
    Ok(tests)
}

fn install(bin: &Path, wheel: &Path) -> Result<()> {
    let mut install = Command::new(bin.join("python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps"]);
    run(install.arg(wheel))
}

fn empty(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    Ok(dir.to_owned())
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension));
    let file = found.next().with_context(|| format!("maturin wrote no .{extension} into {}", dir.display()))?;
    ensure!(found.next().is_none(), "several .{extension} files in {}", dir.display());
    Ok(file)
}

/// Program directory of an environment with all packages pinned by `requirements-test.txt`.
fn environment(interpreter: &str) -> Result<PathBuf> {
    let dir = target_dir().join("python/venv");
    let bin = programs(&dir);
    let wanted = fs::read_to_string(package().join("requirements-test.txt"))?;
    let marker = dir.join("requirements-installed.txt");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    say("installing Python packages into target/python/venv")?;
    run(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&dir))?;
    let mut install = Command::new(bin.join("python"));
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        "requirements-test.txt",
    ]);
    run(install.current_dir(package()))?;
    ensure!(bin.is_dir(), "{} is missing", bin.display());
    fs::write(marker, wanted)?;
    Ok(bin)
}
