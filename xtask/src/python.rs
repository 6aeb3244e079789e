//! The Python package: built as a wheel, installed into an environment of its own, type-checked and tested there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::steps::{Done, Harness, run_tests, say};
use crate::test::{built, target_dir};
use crate::tools::{ANVIL_VAR, anvil, repo_root, run};

/// Names of interpreters, the usual ones first.
const INTERPRETERS: [&str; 2] = ["python3", "python"];

/// Ends with an error unless it is new enough, and can make environments with pip.
const IS_FIT: &str = "import sys, venv, ensurepip; assert sys.version_info >= (3, 9)";

/// Builds the wheel and runs its tests.
pub(crate) fn check() -> Result<Done> {
    let is_fit = |name: &&str| {
        let mut ask = Command::new(name);
        ask.args(["-c", IS_FIT]).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    };
    let Some(interpreter) = INTERPRETERS.into_iter().find(is_fit) else {
        return Ok(Done::Skipped("there is no Python from 3.9 on with venv and ensurepip".to_owned()));
    };
    let package = repo_root().join("bindings/python");
    let bin = environment(interpreter, &package)?;
    let wheels = target_dir().join("python/wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    let mut build = Command::new(bin.join("maturin"));
    // With the profile, and so with the dependencies, of all the other tests.
    build.args(["build", "--profile", "dev", "--locked", "--out"]).arg(&wheels).current_dir(&package);
    run(&mut build)?;
    let wheel = fs::read_dir(&wheels)?.next().context("maturin built no wheel")??.path();
    let mut install = Command::new(bin.join("python"));
    install.args(["-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps"]).arg(wheel);
    run(&mut install)?;
    run(Command::new(bin.join("mypy")).arg("python/slackwater").current_dir(&package))?;
    let mut tests = Command::new(bin.join("python"));
    tests.args(["-m", "pytest"]).current_dir(&package);
    tests.env("SLACKWATER_BIN", built("slackwater")?).env(ANVIL_VAR, anvil()?);
    run_tests(Harness::Pytest, &mut tests)
}

/// The directory of programs of an environment with everything that `requirements-test.txt` pins.
fn environment(interpreter: &str, package: &Path) -> Result<PathBuf> {
    let dir = target_dir().join("python/venv");
    let bin = dir.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let wanted = fs::read_to_string(package.join("requirements-test.txt"))?;
    let marker = dir.join("requirements-installed.txt");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    say("installing Python packages into target/python/venv")?;
    run(Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&dir))?;
    let mut install = Command::new(bin.join("python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements-test.txt"]);
    run(install.current_dir(package))?;
    ensure!(bin.is_dir(), "{} is missing", bin.display());
    fs::write(marker, wanted)?;
    Ok(bin)
}
