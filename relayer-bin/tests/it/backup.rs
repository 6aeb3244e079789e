//! Backups of a ledger that is being written, and the restore of an older one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::{Value, json};
use slackwater_benches::{
    Result, count,
    postgres::PostgresServer,
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::guestbook::IGuestbook::markCall;
use tempfile::TempDir;

use crate::{
    calls::{TENANT, call, tag},
    stage::{PATIENCE, Pace, Stage, StageBuilder, until},
};

const USERS: usize = 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Stage {
    async fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.relayer.command(args);
        // The node's proxy may run on this thread.
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        output.expect("slackwater runs")
    }

    async fn backup(&self, out: &Path) -> Value {
        let config = self.relayer.config_path();
        let made = self.cli(&["backup", "--config", text(config), "--out", text(out), "--json"]).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        serde_json::from_slice(&made.stdout).expect("JSON")
    }

    async fn restore(&self, args: &[&str]) -> Output {
        let config = self.relayer.config_path();
        self.cli(&[&["restore", "--config", text(config), "--json"], args].concat()).await
    }

    /// Every request has ended, its status agrees with the chain, and none was executed twice: `executed` are all that
    /// ran.
    async fn is_true(&self, known: &[SignedRequest], executed: &[SignedRequest]) -> Result<BTreeMap<String, usize>> {
        let counted = count::executions(self.node(), &self.world, executed).await?;
        assert!(counted.is_exactly_once(), "{counted:?}");
        let summaries = self.summaries().await?;
        let mut ends = BTreeMap::new();
        for request in known {
            let summary = &summaries[&request.id];
            let end = summary.reason.clone().unwrap_or_else(|| summary.status.clone());
            assert!(["finalized", "nonce_used_elsewhere"].contains(&end.as_str()), "{summary:?}");
            *ends.entry(end).or_default() += 1;
        }
        Ok(ends)
    }
}

fn stage() -> StageBuilder {
    Stage::at(Pace::Manual).chain_key("max_batch", 5).extra(TENANT)
}

#[tokio::test]
async fn a_backup_is_made_while_the_relayer_writes() -> Result<()> {
    let stage = Stage::at(Pace::Quarter).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let all: Vec<SignedRequest> = (0..400).map(|i| crowd.mark_within(i % USERS, "10m")).collect();
    let dir = TempDir::new().expect("a directory");
    let out = dir.path().join("ledger.backup");
    let (client, load) = (stage.client().clone(), all.clone());
    let load = tokio::spawn(async move {
        for chunk in load.chunks(10) {
            crate::stage::submit_all(&client, chunk).await?;
        }
        Ok::<(), slackwater_benches::BenchError>(())
    });
    until("some requests", PATIENCE, async || Ok(stage.client().request(all[50].id).await.is_ok().then_some(())))
        .await?;
    let made = stage.backup(&out).await;
    let requests: u64 = made["summary"]["requests"].as_str().and_then(|count| count.parse().ok()).expect("a number");
    assert!((51..=400).contains(&requests), "{made}");
    let file = fs::metadata(&out).expect("a copy");
    assert_eq!(made["bytes"], file.len());
    assert_eq!(file.permissions().mode() & 0o777, 0o600, "only for its owner");
    let names: Vec<_> =
        fs::read_dir(&dir).expect("a directory").map(|entry| entry.expect("a name").file_name()).collect();
    assert_eq!(names, ["ledger.backup"], "nothing is left beside it");
    // An existing copy is overwritten only on request.
    let config = text(stage.relayer.config_path()).to_owned();
    let again = ["backup", "--config", &config, "--out", text(&out)];
    assert_eq!(stage.cli(&again).await.status.code(), Some(2));
    assert!(stage.cli(&[&again[..], &["--force"]].concat()).await.status.success());
    // The ledger of a running relayer can't be replaced.
    let refused = stage.restore(&[text(&out)]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use"), "{refused:?}");
    load.await.expect("no panic")?;
    stage.settle().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    // The copy can be audited like any ledger, and says that it is a copy.
    let audit = stage.cli(&["audit", "verify", text(&out), "--json"]).await;
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stderr));
    let broken = dir.path().join("broken");
    let mut bytes = fs::read(&out).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4_096].fill(0x33);
    fs::write(&broken, bytes).expect("writes");
    let other = dir.path().join("other.db");
    let refused = stage.cli(&["restore", text(&broken), "--database", text(&other)]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!other.exists());
    stage.close().await
}

/// The way in which an older ledger is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `slackwater restore`.
    Restore,
    /// The file copied over the other, which one should not do.
    Copied,
    /// `pg_dump`, `pg_restore`, and `slackwater restore` without a file.
    Dump,
}

/// A backup with queued, in-flight and final requests; then more traffic; then the backup is restored.
async fn an_older_ledger(way: Way) -> Result<()> {
    let server = (way == Way::Dump).then(|| PostgresServer::start().unwrap_or_else(|missing| panic!("{missing}")));
    let mut builder = stage();
    if let Some(server) = &server {
        builder = builder
            .ledger_key("url", json!("env:RELAYER_DATABASE"))
            .ledger_key("lease_ms", 1_000)
            .env("RELAYER_DATABASE", server.url());
    }
    let mut stage = builder.raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let dir = TempDir::new().expect("a directory");
    let first: Vec<SignedRequest> = (0..10).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&first).await?;
    stage.settle_mining().await?;
    // In flight in the backup; and enough that some are queued.
    let second: Vec<SignedRequest> = (0..15).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&second).await?;
    stage.pooled(3).await?;
    let own = |name: &str| call(stage.world.guestbook, &markCall { tag: tag(name, 0) }, false);
    let flying = stage.submit_call(&own("flying"), "flying").await?;
    stage.pooled(4).await?;
    let backup = dir.path().join("backup.db");
    match &server {
        None => drop(stage.backup(&backup).await),
        Some(server) => {
            let dump = server.dir().join("dump");
            server.client("pg_dump", &["-Fc", "--schema=slackwater", "-f", text(&dump)]).expect("a dump");
        }
    }
    // Unknown to the backup: in the end some are final, some in flight.
    let third: Vec<SignedRequest> = (0..15).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&third).await?;
    stage.settle_mining().await?;
    assert_eq!(stage.marked(tag("flying", 0)).await?, 1);
    let fourth: Vec<SignedRequest> = (0..10).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&fourth).await?;
    stage.pooled(2).await?;
    stage.relayer.kill();
    let database = stage.relayer.database().to_owned();
    match way {
        Way::Restore => {
            let done = stage.restore(&[text(&backup)]).await;
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
            let replaced = PathBuf::from(done["replaced"].as_str().expect("a name"));
            let audit = stage.cli(&["audit", "verify", text(&replaced)]).await;
            assert!(audit.status.success(), "the old ledger is kept: {audit:?}");
        }
        Way::Copied => {
            for suffix in ["-wal", "-shm"] {
                let mut name = database.as_os_str().to_owned();
                name.push(suffix);
                let _ = fs::remove_file(name);
            }
            fs::copy(&backup, &database).expect("copies");
        }
        Way::Dump => {
            let server = server.as_ref().expect("a server");
            let dump = server.dir().join("dump");
            server.sql("DROP SCHEMA slackwater CASCADE").expect("drops");
            server.client("pg_restore", &[text(&dump)]).expect("restores");
            // The lease in the dump may not have expired yet.
            let marked = async || {
                let done = stage.restore(&[]).await;
                let told = String::from_utf8_lossy(&done.stderr).into_owned();
                assert!(done.status.success() || told.contains("drives chain"), "{told}");
                Ok(done.status.success().then_some(()))
            };
            until("the mark", PATIENCE, marked).await?;
        }
    }
    let before = stage.node().nonce(stage.lane()).await?;
    stage.relayer.start().await?;
    assert!(stage.relayer.log().contains("was put back from a backup"));
    assert_eq!(stage.node().pool().await?.0, 2, "nothing is sent before it has looked at the chain");
    // Callers of the lost requests submit them again.
    for request in third.iter().chain(&fourth) {
        let answer = stage.client().submit(&request.body).await?;
        assert!(matches!(answer.refused_with(), None | Some("nonce_used")), "{answer:?}");
    }
    stage.settle_mining().await?;
    let all: Vec<SignedRequest> = [&first[..], &second, &third, &fourth].concat();
    let known: Vec<SignedRequest> = [&first[..], &second].concat();
    let ends = stage.is_true(&known, &all).await?;
    println!("{way:?}: {ends:?}");
    // The call was in flight: its own transaction is found.
    let state = stage.client().request(flying).await?;
    assert_eq!((state.status.as_str(), stage.marked(tag("flying", 0)).await?), ("finalized", 1));
    // More traffic, on the nonces that the chain has reached.
    let more: Vec<SignedRequest> = (0..10).map(|i| crowd.mark_within(i, "10m")).collect();
    stage.submit(&more).await?;
    stage.settle_mining().await?;
    for request in &more {
        assert_eq!(stage.client().request(request.id).await?.status, "finalized");
    }
    assert!(stage.node().nonce(stage.lane()).await? > before);
    let _server = server;
    stage.close().await
}

#[tokio::test]
async fn an_older_file_is_restored() -> Result<()> {
    an_older_ledger(Way::Restore).await
}

#[tokio::test]
async fn an_older_file_is_copied() -> Result<()> {
    an_older_ledger(Way::Copied).await
}

#[tokio::test]
async fn an_older_dump_is_restored() -> Result<()> {
    an_older_ledger(Way::Dump).await
}

/// A call has no user nonce that would stop a second execution: a call that a backup has as queued may have been sent
/// since.
async fn calls_are_not_repeated(is_marked: bool) -> Result<()> {
    let mut stage = stage().chain_key("max_in_flight", 1).raise().await?;
    let mut crowd = Crowd::new(&stage.world, USERS);
    let dir = TempDir::new().expect("a directory");
    stage.submit(&crowd.marks(1)).await?;
    stage.settle_mining().await?;
    // One in flight blocks the rest.
    let own = |index: usize| call(stage.world.guestbook, &markCall { tag: tag("restored", index) }, false);
    let mut ids = Vec::new();
    for index in 0..4 {
        ids.push(stage.submit_call(&own(index), &format!("call {index}")).await?);
    }
    stage.pooled(1).await?;
    let backup = dir.path().join("backup.db");
    stage.backup(&backup).await;
    stage.settle_mining().await?;
    for index in 0..4 {
        assert_eq!(stage.marked(tag("restored", index)).await?, 1);
    }
    assert!(stage.relayer.terminate(Duration::from_secs(30)).await?);
    let done = stage.restore(&[text(&backup)]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    if !is_marked {
        // As with a snapshot of the disk: only the chain shows that it is old.
        use sqlx::{Connection as _, Executor as _};
        let url = format!("sqlite://{}", stage.relayer.database().display());
        let mut raw = sqlx::SqliteConnection::connect(&url).await.expect("a connection");
        raw.execute("DELETE FROM meta WHERE key = 'backup'").await.expect("deletes");
        raw.close().await.expect("closes");
    }
    stage.relayer.start().await?;
    stage.settle_mining().await?;
    let mut unknown = 0;
    for (index, id) in ids.iter().enumerate() {
        let state = stage.client().request(*id).await?;
        assert_eq!(stage.marked(tag("restored", index)).await?, 1, "executed once");
        match (state.status.as_str(), state.reason.as_deref()) {
            ("finalized", None) => {}
            ("rejected", Some("outcome_unknown")) => unknown += 1,
            other => panic!("{other:?}"),
        }
        // Its caller gets the first answer, and nothing is executed.
        assert_eq!(stage.submit_call(&own(index), &format!("call {index}")).await?, *id);
    }
    assert_eq!(unknown, 3, "the one in flight was found");
    // New ones go through.
    let fresh = stage.submit_call(&own(9), "fresh").await?;
    stage.settle_mining().await?;
    assert_eq!(stage.client().request(fresh).await?.status, "finalized");
    for index in 0..4 {
        assert_eq!(stage.marked(tag("restored", index)).await?, 1);
    }
    stage.close().await
}

#[tokio::test]
async fn calls_of_a_backup_are_not_repeated() -> Result<()> {
    calls_are_not_repeated(true).await
}

#[tokio::test]
async fn calls_of_a_snapshot_are_not_repeated() -> Result<()> {
    calls_are_not_repeated(false).await
}
