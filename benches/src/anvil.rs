//! A local chain as its own process.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    error::{BenchError, Result},
    node::Node,
};

/// Environment variable with the path of an anvil binary to use instead of the one in `tools/npm`.
pub const ANVIL_VAR: &str = "SLACKWATER_ANVIL";

/// Path of the anvil binary: `$SLACKWATER_ANVIL` if set and not empty, else
/// `tools/npm/node_modules/@foundry-rs/anvil-<os>-<arch>/bin/anvil` under the repository's root.
///
/// # Errors
/// If there is none; says how to get it.
pub fn anvil_path() -> Result<PathBuf> {
    if let Some(path) = env::var_os(ANVIL_VAR).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let hint = "set SLACKWATER_ANVIL to an anvil binary, or unset it";
        return if path.is_file() { Ok(path) } else { Err(BenchError::Missing { what: "anvil", path, hint }) };
    }
    let os = match env::consts::OS {
        "macos" => "darwin",
        "windows" => "win32",
        other => other,
    };
    let arch = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."));
    let path = root
        .join("tools/npm/node_modules/@foundry-rs")
        .join(format!("anvil-{os}-{arch}"))
        .join("bin")
        .join(format!("anvil{}", env::consts::EXE_SUFFIX));
    let hint = "run `cargo xtask anvil-path`, or set SLACKWATER_ANVIL to an anvil binary";
    if path.is_file() { Ok(path) } else { Err(BenchError::Missing { what: "anvil", path, hint }) }
}

/// Settings of an [`Anvil`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct AnvilBuilder {
    block_time: Option<u64>,
    gas_limit: u64,
    accounts: u32,
    base_fee: Option<u64>,
    state: Option<PathBuf>,
    arguments: Vec<OsString>,
}

impl AnvilBuilder {
    /// A block every so many seconds. Without it, a block per transaction.
    pub const fn block_time(mut self, seconds: u64) -> Self {
        self.block_time = Some(seconds);
        self
    }

    /// Gas limit of a block; 400 000 000 by default.
    pub const fn gas_limit(mut self, gas: u64) -> Self {
        self.gas_limit = gas;
        self
    }

    /// Funded accounts whose keys the node holds; 10 by default.
    pub const fn accounts(mut self, accounts: u32) -> Self {
        self.accounts = accounts;
        self
    }

    /// Base fee of the first block, wei per gas; 1 gwei by default.
    pub const fn base_fee(mut self, wei_per_gas: u64) -> Self {
        self.base_fee = Some(wei_per_gas);
        self
    }

    /// Reads the state from this file at start and writes it there at a graceful end. By default a temporary file.
    pub fn state(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = Some(path.into());
        self
    }

    /// Any other argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it on a free port of this machine.
    ///
    /// # Errors
    /// If there is no anvil, or it does not come up within 30 s.
    pub async fn spawn(self) -> Result<Anvil> {
        let dir = TempDir::with_prefix("slackwater-anvil-").map_err(BenchError::io("temporary directory"))?;
        let state = self.state.clone().unwrap_or_else(|| dir.path().join("state.json"));
        let (child, port) = launch(&self, &state, dir.path(), 0).await?;
        let url = format!("http://127.0.0.1:{port}");
        let node = Node::new(&url)?;
        Ok(Anvil { builder: self, child: Some(child), port, url, node, state, dir })
    }
}

/// A running anvil. Ends when dropped.
#[derive(Debug)]
pub struct Anvil {
    builder: AnvilBuilder,
    child: Option<Child>,
    port: u16,
    url: String,
    node: Node,
    state: PathBuf,
    dir: TempDir,
}

impl Anvil {
    /// The defaults.
    pub const fn builder() -> AnvilBuilder {
        AnvilBuilder {
            block_time: None,
            gas_limit: 400_000_000,
            accounts: 10,
            base_fee: None,
            state: None,
            arguments: Vec::new(),
        }
    }

    /// Its RPC address, the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its RPC.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Its process id; `None` while stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The file with its state.
    pub fn state_path(&self) -> &Path {
        &self.state
    }

    /// Freezes the process: connections stay open, nothing answers.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends [`Self::pause`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Ends the process gracefully: the state is written, the pool is lost.
    ///
    /// # Errors
    /// If it does not end within 60 s.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let result = terminate(&mut child, "anvil", Duration::from_secs(60)).await;
        if result.is_err() {
            end(&mut child);
        }
        result
    }

    /// Kills the process: what was not written to the state file is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Starts it again on the same port from the state file.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(&mut self) -> Result<()> {
        self.kill();
        let (child, _) = launch(&self.builder, &self.state, self.dir.path(), self.port).await?;
        self.child = Some(child);
        Ok(())
    }

    /// Graceful end and new start on the same port: the chain is the same, the pool is empty.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart_from_state(&mut self) -> Result<()> {
        self.stop().await?;
        self.start().await
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let gone = || BenchError::Process { what: "anvil", detail: "is not running".to_owned() };
        let child = self.child.as_ref().ok_or_else(gone)?;
        kill_process(Pid::from_child(child), signal)
            .map_err(|error| BenchError::Process { what: "anvil", detail: format!("cannot signal: {error}") })
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn launch(builder: &AnvilBuilder, state: &Path, dir: &Path, port: u16) -> Result<(Child, u16)> {
    // A file, not a pipe: a pipe that nobody reads would block the node.
    let log_path = dir.join("anvil.log");
    let log = File::create(&log_path).map_err(BenchError::io(log_path.display().to_string()))?;
    let mut command = Command::new(anvil_path()?);
    command
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--gas-limit", &builder.gas_limit.to_string()])
        .args(["--accounts", &builder.accounts.to_string(), "--balance", "1000000"])
        .arg("--state")
        .arg(state)
        .args(&builder.arguments)
        .stdin(Stdio::null())
        .stderr(log.try_clone().map_err(BenchError::io("log file"))?)
        .stdout(log);
    if let Some(seconds) = builder.block_time {
        command.args(["--block-time", &seconds.to_string()]);
    }
    if let Some(base_fee) = builder.base_fee {
        command.args(["--base-fee", &base_fee.to_string()]);
    }
    let mut child = command.spawn().map_err(BenchError::io("cannot start anvil"))?;
    match listening(&mut child, &log_path).await {
        Ok(port) => {
            // One line per RPC call is too much under load.
            let _ = Node::new(&format!("http://127.0.0.1:{port}"))?
                .call::<serde_json::Value>("anvil_setLoggingEnabled", serde_json::json!([false]))
                .await;
            Ok((child, port))
        }
        Err(error) => {
            end(&mut child);
            Err(error)
        }
    }
}

async fn listening(child: &mut Child, log_path: &Path) -> Result<u16> {
    let started = Instant::now();
    loop {
        let log = fs::read_to_string(log_path).unwrap_or_default();
        let port = log.lines().find_map(|line| line.strip_prefix("Listening on 127.0.0.1:")?.trim().parse().ok());
        if let Some(port) = port {
            return Ok(port);
        }
        let ended = child.try_wait().map_err(BenchError::io("anvil"))?;
        let waited = started.elapsed() > Duration::from_secs(30);
        if ended.is_some() || waited {
            let why =
                ended.map_or_else(|| "does not listen after 30 s".to_owned(), |status| format!("ended: {status}"));
            return Err(BenchError::Process { what: "anvil", detail: format!("{why}\n{}", tail(&log)) });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks a process to end and waits for it.
pub(crate) async fn terminate(child: &mut Child, what: &'static str, within: Duration) -> Result<()> {
    // A frozen process would not handle the signal.
    let pid = Pid::from_child(child);
    let _ = kill_process(pid, Signal::TERM);
    let _ = kill_process(pid, Signal::CONT);
    let started = Instant::now();
    loop {
        if child.try_wait().map_err(BenchError::io(what))?.is_some() {
            return Ok(());
        }
        if started.elapsed() > within {
            return Err(BenchError::Timeout { what: format!("the end of {what}"), after: within });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kills a process that we started, and reaps it.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The last lines of an output.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
