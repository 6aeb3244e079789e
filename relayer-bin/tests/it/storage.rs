//! Storage faults: the relayer stops accepting and reports the reason, once; sends nothing that is not durable; resumes
//! by itself when the fault is gone; and every acknowledged request is executed exactly once.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use slackwater_benches::{
    Relayer, Result,
    client::Submitted,
    count,
    http::{get, post_json},
    postgres::PostgresServer,
    wallet::{Crowd, SignedRequest},
};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;

use crate::stage::{PATIENCE, Pace, Stage, submit_all, until};

const USERS: usize = 20;
/// Too small for the relayer's test write, large enough for its log.
const NO_ROOM: u64 = 64 * 1_024;
/// Text of the health's alert.
const ALERT: &str = "the ledger takes no writes";
const BACK: &str = "the ledger takes writes again";

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Lines of the log that contain `text`.
fn lines(relayer: &Relayer, text: &str) -> usize {
    relayer.log().lines().filter(|line| line.contains(text)).count()
}

impl Stage {
    /// While the storage is unavailable: the refusal, the probe, the metric and the lanes report it.
    async fn is_away(&self, request: &SignedRequest, kinds: &[&str]) -> Result<()> {
        let client = self.client().clone().with_timeout(Duration::from_secs(20));
        let refused = async || {
            let answer = client.send(post_json("/v1/requests", request.body.clone())).await?;
            Ok((answer.status == 503).then_some(answer))
        };
        let answer = until("a refusal", PATIENCE, refused).await?;
        let problem: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(problem["code"], "storage_unavailable", "{problem}");
        assert!(answer.headers.get("retry-after").is_some(), "{:?}", answer.headers);
        let probe = async || {
            let answer = client.send(get("/readyz")).await?;
            let probe: Value = serde_json::from_slice(&answer.body).expect("JSON");
            Ok(kinds.iter().any(|kind| probe["storage"] == **kind).then_some((answer.status, probe)))
        };
        let (status, probe) = until("the probe to say why", PATIENCE, probe).await?;
        assert_eq!((status, probe["status"].as_str()), (503, Some("not_ready")));
        assert_eq!(self.metric("slackwater_ledger_available", &[]).await?, 0.0);
        assert!(self.metric("slackwater_ledger_faults_total", &[]).await? >= 1.0);
        assert_eq!(self.lane_state(0).await?["paused"], "storage");
        // It accepts this very request once it is ready again; until then it refuses it.
        assert!(matches!(client.submit(&request.body).await?, Submitted::Refused(_)));
        Ok(())
    }

    async fn is_back(&self) -> Result<()> {
        until("the relayer to be ready again", PATIENCE, async || Ok(self.client().is_ready().await.then_some(())))
            .await?;
        assert_eq!(self.metric("slackwater_ledger_available", &[]).await?, 1.0);
        Ok(())
    }

    /// The common course of all faults, with requests in progress when the fault strikes and when it ends.
    async fn survives(
        mut self,
        kinds: &[&str],
        mut strike: impl AsyncFnMut(&Self),
        mut mend: impl AsyncFnMut(&Self),
    ) -> Result<()> {
        let mut crowd = Crowd::new(&self.world, USERS);
        let mut all: Vec<SignedRequest> = (0..200).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
        self.submit(&all).await?;
        for outage in 1..=2 {
            let more: Vec<SignedRequest> = (0..200).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
            let (client, load) = (self.client().clone().with_timeout(Duration::from_secs(30)), more.clone());
            let callers = tokio::spawn(async move {
                for chunk in load.chunks(10) {
                    submit_all(&client, chunk).await?;
                }
                Ok::<(), slackwater_benches::BenchError>(())
            });
            until("some of the load to be accepted", PATIENCE, async || {
                Ok((self.client().request(more[20].id).await.is_ok()).then_some(()))
            })
            .await?;
            strike(&self).await;
            let late = crowd.mark_within(0, "10m");
            self.is_away(&late, kinds).await?;
            // Health checks and refusals continue meanwhile, and are not reported again.
            for _ in 0..20 {
                let refused = self.client().clone().with_timeout(Duration::from_secs(20)).submit(&late.body).await?;
                assert_eq!(refused.refused_with(), Some("storage_unavailable"));
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            let told = lines(&self.relayer, ALERT);
            assert!((outage..=outage * kinds.len()).contains(&told), "told {told} times in {outage} outages");
            mend(&self).await;
            self.is_back().await?;
            assert_eq!(lines(&self.relayer, BACK), outage);
            callers.await.expect("no panic")?;
            self.submit(std::slice::from_ref(&late)).await?;
            all.extend(more);
            all.push(late);
        }
        let process = self.relayer.pid();
        assert!(self.relayer.is_alive(), "it went on by itself");
        assert_eq!(self.relayer.pid(), process);
        let counts = self.settle().await?;
        println!("{counts:?}");
        let truth = self.check(&all).await?;
        assert_eq!(truth.count("finalized", None), all.len());
        assert_eq!(truth.summaries.len(), all.len());
        self.close().await
    }
}

#[tokio::test]
async fn files_that_may_not_grow() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let strike = async |stage: &Stage| stage.relayer.limit_files(Some(NO_ROOM)).expect("a limit");
    let mend = async |stage: &Stage| stage.relayer.limit_files(None).expect("no limit");
    stage.survives(&["io_error"], strike, mend).await
}

#[tokio::test]
async fn killed_with_files_that_may_not_grow() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all: Vec<SignedRequest> = (0..200).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    stage.submit(&all).await?;
    stage.relayer.limit_files(Some(NO_ROOM)).expect("a limit");
    let late = crowd.mark_within(0, "10m");
    stage.is_away(&late, &["io_error"]).await?;
    // Blocks pass; everything sent meanwhile must be known after a crash.
    let head = stage.node().block_number().await?;
    until("more blocks", PATIENCE, async || Ok((stage.node().block_number().await? > head + 3).then_some(()))).await?;
    stage.relayer.restart().await?;
    stage.submit(std::slice::from_ref(&late)).await?;
    all.push(late);
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// A small file system, which is unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts it; `None` if mounting is not permitted.
    fn mount(mebibytes: u32) -> Option<Self> {
        let dir = TempDir::with_prefix("slackwater-disk-").expect("temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                println!("SKIPPED, no mount: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED, no mount: {error}");
                None
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast()).expect("a file");
        let mut bytes = vec![1_u8; 64 * 1_024];
        while !bytes.is_empty() {
            match file.write(&bytes) {
                Ok(0) | Err(_) => bytes.truncate(bytes.len() / 2),
                Ok(_) => {}
            }
        }
    }

    fn clear(&self) {
        fs::remove_file(self.ballast()).expect("our own file");
    }

    /// Remounts it `ro` or `rw`. Nothing may be open for writing.
    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.0.path()).status();
        assert!(status.expect("mount runs").success(), "remount,{how}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk() -> Result<()> {
    let Some(disk) = SmallDisk::mount(32) else { return Ok(()) };
    let stage = Stage::at(Pace::Quarter).database(disk.0.path().join("ledger.db")).raise().await?;
    // The log's index may be the file that finds no room, and then the commit is in doubt for a moment.
    let strike = async |_: &Stage| disk.fill();
    let mend = async |_: &Stage| disk.clear();
    stage.survives(&["full", "io_error", "in_doubt"], strike, mend).await
}

/// Files that can't be changed, not even through open handles, until this is dropped.
struct Immutable(Vec<PathBuf>);

impl Immutable {
    /// Makes the files of `database` immutable; `None` if that is not permitted, or not supported by the file system.
    fn make(database: &Path) -> Option<Self> {
        let files = [database.to_owned(), beside(database, "-wal")];
        let made = Self(files.into_iter().filter(|file| file.exists()).collect());
        match made.change("+i") {
            Ok(output) if output.status.success() => Some(made),
            Ok(output) => {
                println!("SKIPPED, no immutable files: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED, no immutable files: {error}");
                None
            }
        }
    }

    fn change(&self, to: &str) -> std::io::Result<std::process::Output> {
        Command::new("chattr").arg(to).args(&self.0).output()
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = self.change("-i");
    }
}

#[tokio::test]
async fn files_that_become_read_only() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let database = stage.relayer.database().to_owned();
    let Some(probe) = Immutable::make(&database) else { return Ok(()) };
    drop(probe);
    let held = std::cell::RefCell::new(None);
    let strike = async |_: &Stage| *held.borrow_mut() = Immutable::make(&database);
    let mend = async |_: &Stage| *held.borrow_mut() = None;
    stage.survives(&["io_error", "read_only", "in_doubt"], strike, mend).await
}

#[tokio::test]
async fn a_start_on_a_read_only_file_system_is_refused() -> Result<()> {
    let Some(disk) = SmallDisk::mount(32) else { return Ok(()) };
    let mut stage = Stage::at(Pace::Quarter).database(disk.0.path().join("ledger.db")).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let all: Vec<SignedRequest> = (0..100).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    stage.submit(&all).await?;
    stage.relayer.kill();
    disk.remount("ro");
    let refused = stage.relayer.start().await.expect_err("does not start");
    let told = stage.relayer.log();
    assert!(
        told.contains("can't start") && told.contains("ledger.db") && told.contains("Read-only"),
        "{refused}\n{told}"
    );
    assert!(!told.contains("panicked"), "{told}");
    disk.remount("rw");
    stage.relayer.start().await?;
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

#[tokio::test]
async fn another_program_holds_the_lock() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).ledger_key("busy_timeout_ms", 300).raise().await?;
    let url = format!("sqlite://{}", stage.relayer.database().display());
    let other = tokio::sync::Mutex::new(SqliteConnection::connect(&url).await.expect("a connection"));
    let strike = async |_: &Stage| {
        let mut other = other.lock().await;
        other.execute("PRAGMA busy_timeout = 60000").await.expect("a setting");
        other.execute("BEGIN IMMEDIATE").await.expect("the lock");
    };
    let mend = async |_: &Stage| {
        other.lock().await.execute("ROLLBACK").await.expect("no lock");
    };
    stage.survives(&["busy"], strike, mend).await
}

/// Overwrites bytes of a file.
fn spoil(path: &Path, from: u64, to: u64) {
    let mut file = File::options().read(true).write(true).open(path).expect("opens");
    let at = from + (to - from) / 2;
    let mut bytes = [0; 64];
    file.seek(SeekFrom::Start(at)).expect("seeks");
    let count = file.read(&mut bytes).expect("reads");
    bytes.iter_mut().for_each(|byte| *byte ^= 0xa5);
    file.seek(SeekFrom::Start(at)).expect("seeks");
    file.write_all(&bytes[..count]).expect("writes");
}

/// State after a power cut on a disk that lied about its syncs: the end of the log is missing, or differs from what was
/// written.
async fn the_end_of_the_log_is_lost(is_cut: bool) -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let kept: Vec<SignedRequest> = (0..100).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    stage.submit(&kept).await?;
    let log = beside(stage.relayer.database(), "-wal");
    let acknowledged = size(&log);
    let lost: Vec<SignedRequest> = (0..100).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    stage.submit(&lost).await?;
    stage.relayer.kill();
    let end = size(&log);
    assert!(end > acknowledged, "{end} bytes of log after {acknowledged}");
    match is_cut {
        // In the middle of a frame.
        true => File::options().write(true).open(&log).expect("opens").set_len(end - 2_000).expect("cuts"),
        false => spoil(&log, acknowledged, end),
    }
    stage.relayer.start().await?;
    for request in &kept {
        stage.client().request(request.id).await.expect("acknowledged before the damage, and there");
    }
    // Callers submit again what the relayer lost; nonces that the chain has executed are reported as used.
    for request in &lost {
        let answer = stage.client().submit(&request.body).await?;
        assert!(matches!(answer.refused_with(), None | Some("nonce_used")), "{answer:?}");
    }
    stage.settle().await?;
    let all: Vec<SignedRequest> = kept.into_iter().chain(lost).collect();
    let executions = count::executions(stage.node(), &stage.world, &all).await?;
    assert!(executions.is_exactly_once(), "{executions:?}");
    for summary in stage.summaries().await?.values() {
        let is_true = summary.status == "finalized" || summary.reason.as_deref() == Some("nonce_used_elsewhere");
        assert!(is_true, "{summary:?}");
    }
    stage.close().await
}

#[tokio::test]
async fn a_log_that_is_cut_off() -> Result<()> {
    the_end_of_the_log_is_lost(true).await
}

#[tokio::test]
async fn a_log_with_a_damaged_end() -> Result<()> {
    the_end_of_the_log_is_lost(false).await
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_restored() -> Result<()> {
    let mut stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let mut all: Vec<SignedRequest> = (0..200).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    stage.submit(&all).await?;
    stage.settle().await?;
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);
    let database = stage.relayer.database().to_owned();
    let dir = TempDir::new().expect("a directory");
    let backup = dir.path().join("backup.db");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let run = |relayer: &Relayer, args: &[&str]| relayer.command(args).output().expect("slackwater runs");
    let made = run(&stage.relayer, &["backup", &text(&database), "--out", &text(&backup)]);
    assert!(made.status.success(), "{made:?}");
    // A whole page in the middle of the file; the first one is left, so that it looks like a ledger.
    let pages = size(&database) / 4_096;
    let page = vec![0x5a_u8; 4_096];
    let mut file = File::options().write(true).open(&database).expect("opens");
    for number in [pages / 3, pages / 2, pages - 2] {
        file.seek(SeekFrom::Start(number * 4_096)).expect("seeks");
        file.write_all(&page).expect("writes");
    }
    drop(file);
    let damaged = fs::read(&database).expect("reads");
    let refused = stage.relayer.start().await.expect_err("does not start");
    let told = stage.relayer.log();
    assert!(told.contains("is corrupt") && told.contains("slackwater restore"), "{refused}\n{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert_eq!(fs::read(&database).expect("reads"), damaged, "nothing was changed");
    let broken = run(&stage.relayer, &["backup", &text(&database), "--out", &text(&dir.path().join("broken.db"))]);
    assert_eq!(broken.status.code(), Some(1), "a damaged ledger makes no backup: {broken:?}");
    assert!(!dir.path().join("broken.db").exists());
    let restored = run(&stage.relayer, &["restore", &text(&backup), "--database", &text(&database)]);
    assert!(restored.status.success(), "{restored:?}");
    stage.relayer.start().await?;
    let more: Vec<SignedRequest> = (0..20).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&more).await?;
    stage.settle().await?;
    all.extend(more);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// One instance on a server of its own.
async fn on_postgres() -> Result<(PostgresServer, Stage)> {
    let server = PostgresServer::start().unwrap_or_else(|missing| panic!("{missing}"));
    let stage = Stage::at(Pace::Quarter)
        .ledger_key("url", json!("env:RELAYER_DATABASE"))
        .ledger_key("lease_ms", 2_000)
        .env("RELAYER_DATABASE", server.url())
        .raise()
        .await?;
    Ok((server, stage))
}

const CUT: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'slackwater'";

#[tokio::test]
async fn a_server_that_is_restarted() -> Result<()> {
    let (server, stage) = on_postgres().await?;
    let server = std::cell::RefCell::new(server);
    // Like a power cut: a commit in progress is in doubt.
    let strike = async |_: &Stage| server.borrow_mut().crash().expect("stops");
    let mend = async |_: &Stage| server.borrow_mut().launch().expect("starts");
    stage.survives(&["unreachable", "in_doubt"], strike, mend).await
}

/// Reads are answered all the while, so they do not reveal the state of the storage.
#[tokio::test]
async fn a_server_that_takes_no_writes() -> Result<()> {
    let (server, stage) = on_postgres().await?;
    let set = |value: &str| {
        server.sql(&format!("ALTER ROLE slackwater SET default_transaction_read_only = {value}")).expect("a setting");
        server.client("psql", &["-qAtX", "-c", CUT]).expect("cuts");
    };
    let strike = async |_: &Stage| set("on");
    // A session of ours may be read-only, too. Connections made meanwhile may write already, and are not cut: that
    // would be another outage.
    let mend = async |_: &Stage| {
        let since = server.sql("SELECT clock_timestamp()").expect("a time");
        let own = "SET default_transaction_read_only = off";
        let all = "ALTER ROLE slackwater SET default_transaction_read_only = off";
        server.client("psql", &["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", own, "-c", all]).expect("a setting");
        let cut = format!("{CUT} AND backend_start < '{}'", since.trim());
        server.client("psql", &["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", &cut]).expect("cuts");
    };
    // The cut itself may be seen first.
    stage.survives(&["read_only", "unreachable", "in_doubt", "other"], strike, mend).await
}

#[tokio::test]
async fn connections_are_cut_in_the_middle_of_commits() -> Result<()> {
    let (server, stage) = on_postgres().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let all: Vec<SignedRequest> = (0..600).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    let (client, load) = (stage.client().clone().with_timeout(Duration::from_secs(30)), all.clone());
    let callers = tokio::spawn(async move {
        for chunk in load.chunks(10) {
            submit_all(&client, chunk).await?;
        }
        Ok::<(), slackwater_benches::BenchError>(())
    });
    let mut cuts = 0;
    while !callers.is_finished() {
        let cut = server.sql(CUT).expect("cuts");
        cuts += cut.trim().parse::<u32>().unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    callers.await.expect("no panic")?;
    println!("{cuts} connections cut");
    assert!(cuts > 0);
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// Payloads of waiting requests are read when they are sent. One that can't be read keeps no other back, and is sent once it
/// is mended.
#[tokio::test]
async fn payloads_wait_in_the_ledger() -> Result<()> {
    const SELECT: &str = "SELECT payload FROM payloads WHERE request = (SELECT seq FROM requests WHERE id = ?)";
    const UPDATE: &str = "UPDATE payloads SET payload = ? WHERE request = (SELECT seq FROM requests WHERE id = ?)";
    let stage =
        Stage::at(Pace::Quarter).chain_key("payload_memory_bytes", 0).chain_key("linger_ms", 5_000).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let all: Vec<SignedRequest> = (0..USERS).map(|user| crowd.mark_within(user, "10m")).collect();
    stage.submit(&all).await?;
    stage.administer("pause").await;
    let url = format!("sqlite://{}", stage.relayer.database().display());
    let mut ledger = SqliteConnection::connect(&url).await.expect("a connection");
    let damaged = &all[USERS / 2];
    assert_eq!(stage.client().request(damaged.id).await?.status, "queued");
    let id = damaged.id.as_slice();
    let whole: Vec<u8> = sqlx::query_scalar(SELECT).bind(id).fetch_one(&mut ledger).await.expect("its payload");
    let half = &whole[..whole.len() / 2];
    sqlx::query(UPDATE).bind(half).bind(id).execute(&mut ledger).await.expect("half of it");
    stage.administer("resume").await;
    let others_end = async || {
        let summaries = stage.summaries().await?;
        let ended = summaries.values().filter(|summary| summary.status == "finalized").count();
        Ok((ended == USERS - 1).then_some(()))
    };
    until("the others' end", PATIENCE, others_end).await?;
    assert_eq!(stage.client().request(damaged.id).await?.status, "queued");
    assert!(lines(&stage.relayer, "can't be read back") > 0, "{}", stage.relayer.log());
    sqlx::query(UPDATE).bind(&whole).bind(id).execute(&mut ledger).await.expect("all of it");
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), USERS);
    stage.close().await
}
