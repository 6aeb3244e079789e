//! A PostgreSQL server for tests: of its own, in a temporary directory, on loopback.
//!
//! Uses no other module of this crate: the ledger's tests and `xtask` include this file too.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Environment variable with the directory of `postgres` and `initdb` to use instead of the newest under
/// `/usr/lib/postgresql` or on `PATH`. It lacks our prefix because that is for configuration keys.
pub const BIN_VAR: &str = "TEST_POSTGRES_BIN";

/// Environment variable with the URL of a running server to use instead of starting one: `postgres://…/database`,
/// where schemas may be created.
pub const URL_VAR: &str = "TEST_POSTGRES_URL";

/// Time limit for any action of the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server's one user.
const USER: &str = "slackwater";

/// A running server. Ends when dropped.
#[derive(Debug)]
pub struct PostgresServer {
    bin: PathBuf,
    /// User and group that the server runs as if this process is root: PostgreSQL refuses to run as root.
    account: Option<(u32, u32)>,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    keeper: Option<Child>,
}

impl PostgresServer {
    /// Makes a new, empty database and starts a server on it.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn start() -> Result<Self, String> {
        let bin = bin_dir()?;
        let account = account()?;
        let dir =
            TempDir::with_prefix("slackwater-postgres-").map_err(|error| format!("temporary directory: {error}"))?;
        if let Some((uid, gid)) = account {
            let chown = std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid));
            chown.map_err(|error| format!("{}: {error}", dir.path().display()))?;
        }
        let mut server = Self { bin, account, dir, port: 0, child: None, keeper: None };
        let mut initdb = server.command("initdb");
        initdb.args(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(server.data());
        let made = initdb.output().map_err(|error| format!("initdb: {error}"))?;
        if !made.status.success() {
            return Err(format!("initdb: {}: {}", made.status, String::from_utf8_lossy(&made.stderr)));
        }
        server.port = free_port()?;
        server.launch()?;
        Ok(server)
    }

    /// URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops it by a fast shutdown: connections are cut, transactions rolled back.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<(), String> {
        self.signal_and_wait("-INT")
    }

    /// Stops it like a power cut, as far as a process can: nothing is finished, and the next start recovers.
    ///
    /// # Errors
    /// If it does not end.
    pub fn crash(&mut self) -> Result<(), String> {
        self.signal_and_wait("-QUIT")
    }

    /// Runs one of PostgreSQL's client programs (`psql`, `pg_dump`, `pg_restore`) against the server's database, and
    /// returns its output.
    ///
    /// # Errors
    /// The program's error output.
    pub fn client(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let mut client = self.command(program);
        client.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-d", "postgres"]).args(args);
        let output = client.output().map_err(|error| format!("{program}: {error}"))?;
        if !output.status.success() {
            return Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs SQL by `psql`, and returns the rows, unaligned.
    ///
    /// # Errors
    /// The server's error message.
    pub fn sql(&self, text: &str) -> Result<String, String> {
        self.client("psql", &["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text])
    }

    /// A directory that the server's programs may write to.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn signal_and_wait(&mut self, signal: &str) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.end_keeper();
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        sent.map_err(|error| format!("kill: {error}"))?;
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("postgres does not end within {PATIENCE:?}"))
    }

    /// Starts it on its existing data, and waits until it answers.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn launch(&mut self) -> Result<(), String> {
        let log = self.dir.path().join("log");
        let out = fs::File::options().create(true).append(true).open(&log).map_err(|error| error.to_string())?;
        let mut postgres = self.command("postgres");
        postgres
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.dir.path())
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-c", "max_connections=200", "-c", "shared_buffers=64MB"])
            .stdout(Stdio::null())
            .stderr(out);
        let mut child = postgres.spawn().map_err(|error| format!("postgres: {error}"))?;
        let started = Instant::now();
        loop {
            let mut ready = self.command("pg_isready");
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status().is_ok_and(|status| status.success()) {
                self.keeper = Some(self.keep(child.id())?);
                self.child = Some(child);
                return Ok(());
            }
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("postgres does not start: {ended:?}\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Starts a process that stops the server and removes its directory when this process is gone, however it ended:
    /// it waits for the end of a pipe that only this process holds. A test may keep its server in a static, or be
    /// killed.
    fn keep(&self, server: u32) -> Result<Child, String> {
        use std::os::unix::process::CommandExt as _;
        const KEEP: &str = r#"read -r _
            kill -QUIT "$1" || exit
            for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" && sleep 1 || break; done
            rm -rf "$2""#;
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEP, "keeper", &server.to_string()]).arg(self.dir.path());
        // Not in our process group: a signal to the whole group must not end the keeper first.
        keeper.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        keeper.spawn().map_err(|error| format!("sh: {error}"))
    }

    /// Ends the keeper: the server's process id may soon belong to another process.
    fn end_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.account {
            use std::os::unix::process::CommandExt as _;
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.end_keeper();
        if let Some(child) = &mut self.child {
            // Its processes notice that their parent is gone.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// True if the machine has a PostgreSQL server.
pub fn is_installed() -> bool {
    bin_dir().is_ok()
}

/// Directory of `postgres` and `initdb`.
fn bin_dir() -> Result<PathBuf, String> {
    let has_all = |dir: &Path| ["postgres", "initdb", "pg_isready"].iter().all(|name| dir.join(name).is_file());
    if let Some(dir) = env::var_os(BIN_VAR).filter(|dir| !dir.is_empty()).map(PathBuf::from) {
        return if has_all(&dir) { Ok(dir) } else { Err(format!("{BIN_VAR}: no postgres in {}", dir.display())) };
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, dir): &(u32, PathBuf)| has_all(dir))
        .collect();
    versions.sort();
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).find(|dir| has_all(dir)));
    let found = versions.pop().map(|(_, dir)| dir).or_else(|| on_path.flatten());
    found.ok_or_else(|| {
        format!("PostgreSQL is missing: `apt-get install postgresql`, or name its directory in {BIN_VAR}")
    })
}

/// User and group for the server to run as; `None` unless this process is root.
fn account() -> Result<Option<(u32, u32)>, String> {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of our own `/proc` entry is the effective user.
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(account) => Ok(Some(account)),
        None => Err("PostgreSQL refuses root, and there is neither a user `postgres` nor `nobody`".to_owned()),
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| format!("a free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}
