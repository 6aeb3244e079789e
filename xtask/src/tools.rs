//! External programs of the tasks: locating, installing and running them.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps::shown;

/// Environment variable with the path of an anvil binary to use instead of the one in `tools/npm`.
pub(crate) const ANVIL_VAR: &str = "SLACKWATER_ANVIL";

/// Print the path of the anvil binary, installing it first if needed.
///
/// That is `$SLACKWATER_ANVIL` if set, else
/// `tools/npm/node_modules/@foundry-rs/anvil-<os>-<arch>/bin/anvil`. The lock file has it for Linux
/// on x86-64 only: elsewhere, install Foundry and set the variable.
#[derive(Debug, clap::Args)]
pub(crate) struct AnvilPathArgs {}

/// Runs `cargo xtask anvil-path`.
pub(crate) fn print_anvil_path(_: &AnvilPathArgs) -> Result<()> {
    writeln!(io::stdout(), "{}", anvil()?.display())?;
    Ok(())
}

/// The root of the repository.
pub(crate) fn repo_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a directory of the repository").to_owned()
}

/// The directory `tools/npm`, with its packages installed from the lock file.
pub(crate) fn npm_tools() -> Result<PathBuf> {
    npm_packages(&repo_root().join("tools").join("npm"))
}

/// `dir`, with its npm packages installed from its lock file.
///
/// Runs `npm ci` only if `node_modules` is absent or older than the lock file. Safe to call from
/// several processes at once.
pub(crate) fn npm_packages(dir: &Path) -> Result<PathBuf> {
    let target = repo_root().join("target");
    fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let guard = File::create(target.join("npm-tools.lock"))?;
    guard.lock().context("cannot lock target/npm-tools.lock")?;
    if !is_installed(dir)? {
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        run(Command::new(npm).arg("ci").current_dir(dir))?;
    }
    Ok(dir.to_owned())
}

/// Path of the anvil binary.
///
/// The rule, which integration tests of other crates repeat without this crate:
/// 1. `$SLACKWATER_ANVIL`, if set and not empty;
/// 2. else `tools/npm/node_modules/@foundry-rs/anvil-<os>-<arch>/bin/anvil` under the repository's
///    root, with `<os>` one of `linux`, `darwin`, `win32`, `<arch>` one of `amd64`, `arm64`, and
///    `.exe` at the end on Windows. Installed by `cargo xtask anvil-path`; the lock file has
///    `linux-amd64` only, so other platforms need the variable.
pub(crate) fn anvil() -> Result<PathBuf> {
    if let Some(path) = env::var_os(ANVIL_VAR).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{ANVIL_VAR} is {}, which is not a file", path.display());
        return Ok(path);
    }
    let path = npm_tools()?.join("node_modules").join(anvil_in_modules()?);
    ensure!(
        path.is_file(),
        "{} is missing: tools/npm has anvil for Linux on x86-64 only; elsewhere install Foundry and set \
         {ANVIL_VAR} to its anvil. On that platform, delete tools/npm/node_modules and try again",
        path.display()
    );
    Ok(path)
}

/// Runs node on a script of `tools/npm`, with the packages installed.
pub(crate) fn run_node(script: &str, args: &[&Path]) -> Result<()> {
    let dir = npm_tools()?;
    run(Command::new("node").arg(dir.join(script)).args(args).current_dir(&dir))
}

/// Runs `command` to its end; an error names the command, and the package to install if it is missing.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = match command.status() {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let program = command.get_program().to_string_lossy().into_owned();
            match program.trim_end_matches(".cmd") {
                "node" | "npm" => bail!(
                    "{program} is not on the PATH: install Node.js 20 or later, which brings node and npm \
                     (needed for `{shown}`)"
                ),
                _ => bail!("{program} is not on the PATH (needed for `{shown}`)"),
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot start `{shown}`")),
    };
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

/// A local chain with one block per second, on a free port. Ends when dropped.
#[derive(Debug)]
pub(crate) struct LocalChain {
    child: Child,
    url: String,
}

impl LocalChain {
    /// Starts anvil.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(anvil()?);
        command.args(["--host", "127.0.0.1", "--port", "0", "--block-time", "1"]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start anvil")?;
        let mut lines = BufReader::new(child.stdout.take().context("anvil has no output")?).lines();
        let listening = lines.by_ref().find_map(|line| line.ok()?.strip_prefix("Listening on ").map(str::to_owned));
        let chain = Self { child, url: format!("http://{}", listening.context("anvil ended before it listened")?) };
        // Reads on, so that anvil never blocks on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Ok(chain)
    }

    /// Its RPC address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for LocalChain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True if `node_modules` is at least as new as the lock file: npm writes its own copy of the lock last.
fn is_installed(dir: &Path) -> Result<bool> {
    let lock = dir.join("package-lock.json");
    let locked_at = lock
        .metadata()
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("cannot read {}", lock.display()))?;
    let installed = dir.join("node_modules").join(".package-lock.json").metadata();
    Ok(installed.and_then(|metadata| metadata.modified()).is_ok_and(|installed_at| installed_at >= locked_at))
}

fn anvil_in_modules() -> Result<PathBuf> {
    let os = match env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        "windows" => "win32",
        other => bail!("npm has no anvil for {other}: set {ANVIL_VAR} to an anvil binary"),
    };
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("npm has no anvil for {other}: set {ANVIL_VAR} to an anvil binary"),
    };
    let binary = format!("anvil{}", env::consts::EXE_SUFFIX);
    let package = format!("anvil-{os}-{arch}");
    Ok(Path::new("@foundry-rs").join(package).join("bin").join(binary))
}
