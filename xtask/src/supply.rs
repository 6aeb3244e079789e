//! Supply chain: licences, sources and known vulnerabilities of crates and npm packages.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::steps::{Done, say};
use crate::test::{cargo, target_dir};
use crate::tools::{repo_root, run};

/// Version that is installed if there is none.
const CARGO_DENY: &str = "0.20.2";

/// Allowed licences of npm packages: as in `deny.toml` for crates, and similar ones common on npm.
const NPM_LICENCES: [&str; 7] =
    ["MIT", "MIT OR Apache-2.0", "Apache-2.0", "ISC", "0BSD", "BSD-3-Clause", "(MIT OR Apache-2.0)"];

/// Further licences of npm packages that are used only to build or test, and are part of nothing that is published.
const NPM_TOOL_LICENCES: [&str; 2] = ["MPL-2.0", "BlueOak-1.0.0"];

/// npm packages whose licence is in their files, not in their metadata: checked by hand.
const NPM_LICENSED_IN_FILES: [&str; 1] = ["node_modules/memorystream"];

/// cargo-deny, built once.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", "cargo-deny", CARGO_DENY, &[])
}

/// Checks licences, banned crates and sources.
pub(crate) fn deny() -> Result<Done> {
    let deny = cargo_deny()?;
    run(Command::new(deny).args(["--locked", "check", "licenses", "bans", "sources"]).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Checks for known vulnerabilities, if their database can be fetched.
pub(crate) fn advisories() -> Result<Done> {
    let deny = cargo_deny()?;
    let fetched = Command::new(&deny).args(["fetch", "db"]).current_dir(repo_root()).output()?;
    if !fetched.status.success() {
        return Ok(Done::Skipped("the advisory database can't be fetched from here".to_owned()));
    }
    let mut check = Command::new(deny);
    run(check.args(["--locked", "check", "--disable-fetch", "advisories"]).current_dir(repo_root()))?;
    Ok(Done::Passed)
}

/// Checks that every npm package is pinned by a hash, runs no install script, and has an allowed licence.
pub(crate) fn npm_locks() -> Result<Done> {
    let mut faults = Vec::new();
    let mut packages = 0;
    for lock in lock_files()? {
        let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", lock.display()))?;
        let entries = value["packages"].as_object().with_context(|| format!("{} has no packages", lock.display()))?;
        let npmrc = lock.with_file_name(".npmrc");
        let runs_scripts =
            !fs::read_to_string(npmrc).is_ok_and(|text| text.lines().any(|line| line.trim() == "ignore-scripts=true"));
        // Our own packages are listed by their folder.
        for (name, entry) in entries.iter().filter(|(name, _)| name.contains("node_modules/")) {
            if entry["link"] == Value::Bool(true) {
                continue;
            }
            packages += 1;
            faults.extend(
                npm_faults(name, entry, runs_scripts)
                    .into_iter()
                    .map(|what| format!("{}: {name} {what}", lock.display())),
            );
        }
    }
    ensure!(packages > 0, "no npm package was found");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    say(&format!("{packages} npm packages"))?;
    Ok(Done::Passed)
}

fn npm_faults(name: &str, entry: &Value, runs_scripts: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if !entry["integrity"].as_str().is_some_and(|hash| hash.starts_with("sha512-")) {
        faults.push("has no sha512 hash".to_owned());
    }
    if runs_scripts && entry["hasInstallScript"] == Value::Bool(true) {
        faults.push("runs a script when it is installed, and no `.npmrc` says ignore-scripts=true".to_owned());
    }
    if entry.get("resolved").is_some() {
        faults.push("is bound to an address: npm config set omit-lockfile-registry-resolved true".to_owned());
    }
    match entry["license"].as_str() {
        Some(licence) if NPM_LICENCES.contains(&licence) => {}
        Some(licence) if entry["dev"] == Value::Bool(true) && NPM_TOOL_LICENCES.contains(&licence) => {}
        None if NPM_LICENSED_IN_FILES.contains(&name) => {}
        licence => faults.push(format!("has the licence {licence:?}")),
    }
    faults
}

/// Checks npm packages for known vulnerabilities, if the registry answers.
pub(crate) fn npm_advisories() -> Result<Done> {
    let mut counted = 0;
    for lock in lock_files()? {
        let dir = lock.parent().context("a lock file lies in a folder")?;
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        let answer = Command::new(npm).args(["audit", "--json"]).current_dir(dir).stderr(Stdio::null()).output();
        let answer = answer.with_context(|| format!("{npm} is not on the PATH: install Node.js 20 or later"))?;
        let report: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let Some(total) = report["metadata"]["vulnerabilities"]["total"].as_u64() else {
            return Ok(Done::Skipped("the registry does not tell npm advisories".to_owned()));
        };
        let names: Vec<&String> =
            report["vulnerabilities"].as_object().into_iter().flat_map(|all| all.keys()).collect();
        ensure!(total == 0, "{}: {total} known vulnerabilities: {names:?}", lock.display());
        counted += 1;
    }
    ensure!(counted > 0, "no npm package was found");
    Ok(Done::Passed)
}

/// The lock files that the repository tracks.
fn lock_files() -> Result<Vec<PathBuf>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "--", "package-lock.json", "**/package-lock.json"]).current_dir(repo_root());
    let listed = list.output().context("cannot start git")?;
    ensure!(listed.status.success(), "git ls-files failed: {}", listed.status);
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.lines().map(|path| repo_root().join(path)).collect())
}

/// Program `name` of a crate that cargo installs with `args`: the one on the path if its version is right, else one
/// built (minutes, once) in a folder that all clones share.
pub(crate) fn cargo_tool(name: &str, package: &str, version: &str, args: &[&str]) -> Result<PathBuf> {
    let is_it = |program: &PathBuf| {
        let said = Command::new(program).arg("--version").stderr(Stdio::null()).output();
        said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).split_whitespace().nth(1) == Some(version))
    };
    let on_path = PathBuf::from(name);
    if is_it(&on_path) {
        return Ok(on_path);
    }
    let root = tools_dir().join(format!("{name}-{version}"));
    let program = root.join("bin").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    if !is_it(&program) {
        say(&format!("installing {name} {version}, which takes some minutes"))?;
        // Unoptimised and without debug info: it builds in half the time and runs for a second.
        let version = format!("={version}");
        let mut install =
            cargo(&["install", package, "--version", &version, "--locked", "--debug", "--force", "--root"]);
        install
            .arg(&root)
            .args(args)
            .env("CARGO_TARGET_DIR", root.join("build"))
            .env("CARGO_PROFILE_DEV_DEBUG", "false");
        run(&mut install)?;
        let _ = fs::remove_dir_all(root.join("build"));
    }
    ensure!(is_it(&program), "{} is not {name} {version}", program.display());
    Ok(program)
}

/// Folder of built tools: in the user's cache, or in the target folder if there is none.
fn tools_dir() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.filter(|dir| dir.is_absolute()).map_or_else(|| target_dir().join("tools"), |dir| dir.join("slackwater-tools"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_with_an_npm_package() {
        let good = json!({ "integrity": "sha512-abc", "license": "MIT" });
        assert!(npm_faults("node_modules/good", &good, true).is_empty());
        let bad = json!({ "integrity": "sha1-abc", "license": "GPL-3.0", "hasInstallScript": true, "resolved": "x" });
        assert_eq!(npm_faults("node_modules/bad", &bad, true).len(), 4);
        assert_eq!(npm_faults("node_modules/bad", &bad, false).len(), 3);
        let tool = json!({ "integrity": "sha512-abc", "license": "MPL-2.0", "dev": true });
        assert!(npm_faults("node_modules/tool", &tool, true).is_empty());
        let shipped = json!({ "integrity": "sha512-abc", "license": "MPL-2.0" });
        assert_eq!(npm_faults("node_modules/shipped", &shipped, true), ["has the licence Some(\"MPL-2.0\")"]);
        let silent = json!({ "integrity": "sha512-abc" });
        assert_eq!(npm_faults("node_modules/silent", &silent, true), ["has the licence None"]);
        assert!(npm_faults(NPM_LICENSED_IN_FILES[0], &silent, true).is_empty());
    }
}
