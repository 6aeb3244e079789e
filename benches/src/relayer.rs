//! The relayer as its own process: started, killed, started again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    anvil::{end, tail, terminate},
    client::RelayerClient,
    error::{BenchError, Result},
    world::World,
};

/// Environment variable with the path of a `slackwater` binary to use instead of the one beside this program.
pub const BINARY_VAR: &str = "SLACKWATER_BIN";

/// Prefix of the environment variable with the key of the world's `i`-th relayer account: this name and `i`.
pub const KEY_VAR: &str = "RELAYER_KEY_";

/// Path of the `slackwater` binary: `$SLACKWATER_BIN` if set and not empty, else the one beside the running program (or
/// one directory above, where test programs live).
///
/// Tests of the crate that builds it use `env!("CARGO_BIN_EXE_slackwater")` instead.
///
/// # Errors
/// If there is none; says how to build it.
pub fn binary_path() -> Result<PathBuf> {
    let hint = "run `cargo build -p slackwater-relayer` with the same profile, or set SLACKWATER_BIN";
    let missing = |path: PathBuf| BenchError::Missing { what: "slackwater", path, hint };
    if let Some(path) = env::var_os(BINARY_VAR).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(missing(path)) };
    }
    let program = env::current_exe().map_err(BenchError::io("the running program's path"))?;
    let name = format!("slackwater{}", env::consts::EXE_SUFFIX);
    let beside = program.with_file_name(&name);
    let above = program.parent().and_then(Path::parent).map(|dir| dir.join(&name));
    [Some(beside.clone()), above].into_iter().flatten().find(|path| path.is_file()).ok_or_else(|| missing(beside))
}

/// Settings of a [`Relayer`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct RelayerBuilder {
    world: World,
    binary: Option<PathBuf>,
    /// URLs of each endpoint and of its WebSocket.
    rpcs: Vec<(String, Option<String>)>,
    senders: usize,
    server: BTreeMap<String, String>,
    chain: BTreeMap<String, String>,
    ledger: BTreeMap<String, String>,
    extra: String,
    config: Option<String>,
    environment: Vec<(OsString, OsString)>,
    database: Option<PathBuf>,
    listen: Option<SocketAddr>,
    is_older: bool,
}

impl RelayerBuilder {
    /// Allows an older program: keys that its schema lacks are left out of the configuration, and named on stderr.
    pub const fn may_be_older(mut self) -> Self {
        self.is_older = true;
        self
    }

    /// The program; [`binary_path`] by default.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Adds an RPC endpoint.
    pub fn rpc(mut self, url: impl Into<String>) -> Self {
        self.rpcs.push((url.into(), None));
        self
    }

    /// Adds an RPC endpoint with a WebSocket for heads.
    pub fn rpc_with_heads(mut self, url: impl Into<String>, ws_url: impl Into<String>) -> Self {
        self.rpcs.push((url.into(), Some(ws_url.into())));
        self
    }

    /// Number of the world's relayer accounts that send; all by default.
    pub const fn senders(mut self, senders: usize) -> Self {
        self.senders = senders;
        self
    }

    /// Sets a key of the server's table, as TOML: `("cors_origins", r#"["http://127.0.0.1:7701"]"#)`.
    pub fn server_key(mut self, key: &str, value: impl ToString) -> Self {
        self.server.insert(key.to_owned(), value.to_string());
        self
    }

    /// Sets a key of the chain's table, as TOML: `("max_batch", "50")`.
    pub fn chain_key(mut self, key: &str, value: impl ToString) -> Self {
        self.chain.insert(key.to_owned(), value.to_string());
        self
    }

    /// Sets a key of the ledger's table, as TOML: `("lease_ms", "2000")`.
    pub fn ledger_key(mut self, key: &str, value: impl ToString) -> Self {
        self.ledger.insert(key.to_owned(), value.to_string());
        self
    }

    /// TOML appended to the configuration: further tables.
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// The whole configuration, instead of the generated one. `{listen}`, `{database}` and `{rpc}` (the first endpoint)
    /// are replaced; the keys are in the environment under [`KEY_VAR`].
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The database file; a temporary one by default.
    pub fn database(mut self, path: impl Into<PathBuf>) -> Self {
        self.database = Some(path.into());
        self
    }

    /// The API's address; a free port of this machine by default.
    pub const fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If there is no binary, or it is not ready within 60 s.
    pub async fn spawn(self) -> Result<Relayer> {
        let mut relayer = self.prepare()?;
        relayer.start().await?;
        Ok(relayer)
    }

    /// Writes the configuration, but starts nothing.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn prepare(self) -> Result<Relayer> {
        let binary = match &self.binary {
            Some(path) => path.clone(),
            None => binary_path()?,
        };
        let dir = TempDir::with_prefix("slackwater-relayer-").map_err(BenchError::io("temporary directory"))?;
        let database = self.database.clone().unwrap_or_else(|| dir.path().join("ledger.db"));
        // Chooses an address that the relayer keeps over restarts, and keeps others from it until the first start.
        let wanted = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(wanted).map_err(BenchError::io(format!("port of {wanted}")))?;
        let listen = listener.local_addr().map_err(BenchError::io("a free port"))?;
        let config_path = dir.path().join("slackwater.toml");
        let mut config = self.toml(&listen.to_string(), &database);
        if self.is_older {
            let (kept, left_out) = known_to(&config, &schema_of(&binary)?);
            if !left_out.is_empty() {
                eprintln!("left out of the configuration, unknown to {}: {}", binary.display(), left_out.join(", "));
            }
            config = kept;
        }
        fs::write(&config_path, config).map_err(BenchError::io(config_path.display().to_string()))?;
        let url = format!("http://{listen}");
        let client = RelayerClient::new(&url)?;
        let keys = self.world.relayers.iter().enumerate();
        let mut environment: Vec<(OsString, OsString)> =
            keys.map(|(i, account)| (format!("{KEY_VAR}{i}").into(), account.secret_hex().into())).collect();
        environment.extend(self.environment);
        Ok(Relayer {
            binary,
            environment,
            config_path,
            database,
            log_path: dir.path().join("slackwater.log"),
            url,
            client,
            child: None,
            reserved: Some(listener),
            _dir: dir,
        })
    }

    fn toml(&self, listen: &str, database: &Path) -> String {
        let database = database.display().to_string();
        if let Some(config) = &self.config {
            let rpc = self.rpcs.first().map_or("", |(url, _)| url.as_str());
            return config.replace("{listen}", listen).replace("{database}", &database).replace("{rpc}", rpc);
        }
        let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
        let rpcs = list(&mut self.rpcs.iter().map(|(url, ws_url)| {
            let heads = ws_url.as_ref().map_or_else(String::new, |ws_url| format!(", ws_url = {ws_url:?}"));
            format!("{{ url = {url:?}{heads} }}")
        }));
        let signers =
            list(&mut (0..self.senders.min(self.world.relayers.len())).map(|i| format!("\"env:{KEY_VAR}{i}\"")));
        let keys = |table: &BTreeMap<String, String>| -> String {
            table.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
        };
        let mut chain = self.chain.clone();
        let spec = chain.entry("spec".to_owned()).or_insert_with(|| "{ }".to_owned());
        if !spec.contains("multicall3") {
            let members = spec.trim().trim_start_matches('{').trim_end_matches('}').trim();
            let comma = if members.is_empty() { "" } else { ", " };
            *spec = format!("{{ multicall3 = \"{}\"{comma}{members} }}", self.world.multicall3);
        }
        let (server, ledger, chain) = (keys(&self.server), keys(&self.ledger), keys(&chain));
        let tenant = if self.extra.contains("[[tenant]]") { String::new() } else { default_tenant(&self.world) };
        format!(
            "[server]\nlisten = {listen:?}\nallow_anonymous = true\n{server}\n[ledger]\npath = {database:?}\n{ledger}\n\
             [[chain]]\npreset = \"anvil\"\nrpc = [{rpcs}]\nsigners = [{signers}]\n\
             forwarders = [{{ address = \"{}\" }}]\n{chain}\n{}\n{tenant}",
            self.world.forwarder, self.extra,
        )
    }
}

/// The tenant of callers without key, with the world's targets by name: their users share transactions.
pub fn default_tenant(world: &World) -> String {
    let targets = [world.guestbook, world.nasty].into_iter().filter(|target| !target.is_zero());
    let targets: Vec<String> = targets.map(|target| format!("\"{target}\" = []")).collect();
    let (chain, targets) = (world.chain_id, targets.join(", "));
    format!("[[tenant]]\nid = \"default\"\noperator = true\ntargets = {{ {chain} = {{ {targets} }} }}\n")
}

/// Output of `slackwater config schema` of `binary`.
fn schema_of(binary: &Path) -> Result<Value> {
    let mut command = Command::new(binary);
    command.args(["config", "schema"]).stdin(Stdio::null()).env_remove(BINARY_VAR);
    let output = command.output().map_err(BenchError::io(format!("cannot start {}", binary.display())))?;
    let failed = |detail: String| BenchError::Process { what: "slackwater config schema", detail };
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// `config` without the lines `key = …` whose key is in no table of `schema`, and the removed keys.
fn known_to(config: &str, schema: &Value) -> (String, Vec<String>) {
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::Object(properties)) = members.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                members.values().for_each(|member| names(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut known = BTreeSet::new();
    names(schema, &mut known);
    let mut left_out = Vec::new();
    let mut kept = String::with_capacity(config.len());
    for line in config.lines() {
        let key = line.split_once('=').map(|(key, _)| key.trim().trim_matches('"').to_owned());
        match key.filter(|key| !known.contains(key)) {
            Some(key) => left_out.push(key),
            None => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (kept, left_out)
}

/// A relayer process. Ends when dropped.
#[derive(Debug)]
pub struct Relayer {
    binary: PathBuf,
    environment: Vec<(OsString, OsString)>,
    config_path: PathBuf,
    database: PathBuf,
    log_path: PathBuf,
    url: String,
    client: RelayerClient,
    child: Option<Child>,
    /// Holds its address until the first start.
    reserved: Option<TcpListener>,
    _dir: TempDir,
}

impl Relayer {
    /// A relayer of `world` with all its relayer accounts, without API keys.
    pub fn builder(world: &World) -> RelayerBuilder {
        RelayerBuilder {
            world: world.clone(),
            binary: None,
            rpcs: Vec::new(),
            senders: usize::MAX,
            server: BTreeMap::new(),
            chain: BTreeMap::new(),
            ledger: BTreeMap::new(),
            extra: String::new(),
            config: None,
            environment: Vec::new(),
            database: None,
            listen: None,
            is_older: false,
        }
    }

    /// Its address, the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of it.
    pub const fn client(&self) -> &RelayerClient {
        &self.client
    }

    /// Its configuration file.
    pub fn config_path(&self) -> &Path {
        &self.config_path
    }

    /// Its database file.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Its process id; `None` while stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its log over all its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it is not ready within 60 s, or ends.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready(Duration::from_secs(60)).await
    }

    /// Starts it without waiting.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn launch(&mut self) -> Result<()> {
        self.kill();
        let log = OpenOptions::new().create(true).append(true).open(&self.log_path);
        let log: File = log.map_err(BenchError::io(self.log_path.display().to_string()))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config_path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(BenchError::io("log file"))?)
            .stderr(log)
            // A variable of ours: the relayer would take it for a misspelt key.
            .env_remove(BINARY_VAR);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        self.reserved = None;
        let child = command.spawn().map_err(BenchError::io(format!("cannot start {}", self.binary.display())))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it is not ready within `within`, or ends.
    pub async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let started = Instant::now();
        let client = self.client.clone().with_timeout(Duration::from_secs(2));
        while !client.is_ready().await {
            let ended = match &mut self.child {
                Some(child) => child.try_wait().map_err(BenchError::io("slackwater"))?.map(|status| status.to_string()),
                None => Some("was not started".to_owned()),
            };
            if ended.is_some() || started.elapsed() > within {
                let why =
                    ended.map_or_else(|| format!("not ready after {within:?}"), |status| format!("ended: {status}"));
                let detail = format!("{why}\n{}", tail(&self.log()));
                return Err(BenchError::Process { what: "slackwater", detail });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// `kill -9`: anything not durable is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    /// Sends `SIGTERM` and waits for the end; returns true if the exit code was 0.
    ///
    /// # Errors
    /// If it does not end within `within`; it is then killed.
    pub async fn terminate(&mut self, within: Duration) -> Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(true) };
        if let Err(error) = terminate(&mut child, "slackwater", within).await {
            end(&mut child);
            return Err(error);
        }
        Ok(child.wait().map_err(BenchError::io("slackwater"))?.success())
    }

    /// `kill -9` and start.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.start().await
    }

    /// Runs `slackwater audit verify --chain` with this configuration: checks that the ledger is consistent and
    /// confirmed by the chain.
    ///
    /// # Errors
    /// [`BenchError::Process`] with the audit's output, if it finds a fault.
    pub async fn audit(&self) -> Result<()> {
        let mut audit = self.command(&["audit", "verify", "--chain", "--config"]);
        audit.arg(&self.config_path);
        // Not in a thread of the runtime: a proxy may run there.
        let output = tokio::task::spawn_blocking(move || audit.output()).await;
        let failed = |detail: String| BenchError::Process { what: "slackwater audit", detail };
        let output = output.map_err(|error| failed(error.to_string()))?.map_err(BenchError::io("slackwater audit"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))))
    }

    /// The last lines of its log, each cut to a readable length.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        let mut text = String::new();
        for line in &all[all.len().saturating_sub(lines)..] {
            text.push_str("| ");
            text.extend(line.chars().take(400));
            text.push('\n');
        }
        text
    }

    /// Freezes the process.
    ///
    /// # Errors
    /// If it is not running.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends [`Self::pause`].
    ///
    /// # Errors
    /// If it is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Limits the size of its files to `bytes` (`RLIMIT_FSIZE`), or lifts the limit with `None`: simulates a full disk
    /// on any machine.
    ///
    /// # Errors
    /// If it is not running, or the system refuses.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let failed = |detail: String| BenchError::Process { what: "slackwater", detail };
        let child = self.child.as_ref().ok_or_else(|| failed("is not running".to_owned()))?;
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current: bytes.or(maximum), maximum };
        let set = prlimit(Some(Pid::from_child(child)), Resource::Fsize, limit);
        set.map(drop).map_err(|error| failed(format!("cannot limit its files: {error}")))
    }

    /// Another command of the program, with this relayer's environment: `["audit", "verify"]`. Files for the command
    /// to read must be named in `args`.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).env_remove(BINARY_VAR);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// True while the process runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Memory in use, bytes; `None` where `/proc` has no answer.
    pub fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.pid()?)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let failed = |detail: String| BenchError::Process { what: "slackwater", detail };
        let child = self.child.as_ref().ok_or_else(|| failed("is not running".to_owned()))?;
        kill_process(Pid::from_child(child), signal).map_err(|error| failed(format!("cannot signal: {error}")))
    }
}

impl Drop for Relayer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resident memory of a process, bytes; `None` where `/proc` has no answer.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// Highest resident memory that a process ever had, bytes; `None` where `/proc` has no answer.
pub fn peak_resident_bytes(pid: u32) -> Option<u64> {
    memory(pid, "VmHWM:")
}

/// CPU time that a process has used in all its threads; `None` where `/proc` has no answer.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so count from its closing bracket: the 14th and 15th fields are the 12th and 13th
    // after.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis((user + system) * 1_000 / ticks_per_second))
}

fn memory(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_older_program_gets_the_keys_that_it_knows() {
        let schema = json!({ "properties": {
            "server": { "properties": { "listen": {} } },
            "chain": { "items": { "properties": { "rpc": {}, "signers": {} } } },
        } });
        let config = "[server]\nlisten = \"a=b\"\nprobe = 1\n\n[[chain]]\nrpc = [{ url = \"x\" }]\nnewer = 2\n";
        let (kept, left_out) = known_to(config, &schema);
        assert_eq!(kept, "[server]\nlisten = \"a=b\"\n\n[[chain]]\nrpc = [{ url = \"x\" }]\n");
        assert_eq!(left_out, ["probe", "newer"]);
    }
}
