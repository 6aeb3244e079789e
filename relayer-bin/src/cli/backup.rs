//! `backup` and `restore`: a checked copy of the ledger's file, and putting it back.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use slackwater_ledger::{Leases, Ledger, MARK_KEY, PostgresLedger, SqliteConfig, SqliteLedger, Write};
use tempfile::NamedTempFile;

use super::{
    ConfigArgs,
    audit::{Findings, Summary, verify},
    error::{CliError, Exit},
};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The database file; without one, that of the configuration. A relayer may run on it.
    database: Option<PathBuf>,
    /// The copy. It appears when it is complete, checked and on disk; only its owner may read it.
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the copy if there is one already.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup. Without one, the ledger that is in place is taken for a backup that was put there by other means
    /// (`pg_restore`, a snapshot of the disk), checked, and marked as such.
    backup: Option<PathBuf>,
    /// The database file to replace; without one, that of the configuration.
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn backup(args: BackupArgs) -> Result<(), CliError> {
    let Place::File(source) = place(args.database, &args.config)? else {
        return Err(CliError::usage("the ledger is a PostgreSQL database: use pg_dump (see docs/storage.md)"));
    };
    if !args.force && args.out.exists() {
        return Err(CliError::usage(format!("{} exists; name another file, or add --force", args.out.display())));
    }
    let dir = parent(&args.out);
    // Readable for its owner only, from the first byte: it holds what users have signed.
    let copy = NamedTempFile::with_prefix_in(".slackwater-backup-", dir).map_err(|error| at(dir, &error))?;
    let now_ms = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    SqliteLedger::copy_into(&source, copy.path(), now_ms).await?;
    let (summary, findings) = check(copy.path()).await?;
    if findings.count > 0 {
        return Err(broken(&findings, "the copy"));
    }
    copy.as_file().sync_all().map_err(|error| at(copy.path(), &error))?;
    let bytes = copy.as_file().metadata().map_err(|error| at(copy.path(), &error))?.len();
    let persisted = if args.force { copy.persist(&args.out) } else { copy.persist_noclobber(&args.out) };
    persisted.map_err(|error| at(&args.out, &error.error))?;
    sync_dir(dir)?;
    tell(args.json, "backup", &args.out, bytes, &summary, None);
    Ok(())
}

pub(super) async fn restore(args: RestoreArgs) -> Result<(), CliError> {
    match (place(args.database, &args.config)?, args.backup) {
        (Place::File(target), Some(backup)) => put_back(&target, &backup, args.json).await,
        (Place::File(target), None) => {
            if !target.path.is_file() {
                return Err(CliError::usage(format!("there is no database {}", target.path.display())));
            }
            SqliteLedger::check_file(&target.path).await?;
            let ledger = SqliteLedger::open(target.clone()).await?;
            let bytes = fs::metadata(&target.path).map_err(|error| at(&target.path, &error))?.len();
            mark(&ledger, args.json, &target.path, bytes).await
        }
        (Place::Shared(_), Some(_)) => Err(CliError::usage(
            "the ledger is a PostgreSQL database: use pg_restore, then `slackwater restore` without a file",
        )),
        (Place::Shared(postgres), None) => {
            let place = PathBuf::from(postgres.place());
            let ledger = PostgresLedger::open(*postgres).await?;
            let leases = Leases::leases(&ledger).await?;
            if let Some(lease) = leases.iter().find(|lease| !lease.remaining.is_zero()) {
                let detail =
                    format!("instance `{}` drives chain {}: stop all first", lease.owner, lease.fence.chain_id);
                ledger.close().await;
                return Err(CliError::failed(detail));
            }
            mark(&ledger, args.json, &place, 0).await
        }
    }
}

/// Checks the ledger in place, and marks it so that the next start knows that it may be older than the chain.
async fn mark(ledger: &dyn Ledger, is_json: bool, path: &Path, bytes: u64) -> Result<(), CliError> {
    let marked = async {
        let (summary, findings) = verify(ledger, None, None).await?;
        if findings.count > 0 {
            return Err(broken(&findings, "the ledger"));
        }
        let value = jiff::Timestamp::now().as_millisecond().to_string();
        ledger.commit(vec![Write::Meta { key: MARK_KEY.to_owned(), value }]).await?;
        Ok(summary)
    };
    let marked = marked.await;
    ledger.close().await;
    tell(is_json, "restore", path, bytes, &marked?, None);
    Ok(())
}

/// Checks the backup first, holds the ledger's lock so that no relayer runs or starts, and keeps the old file.
async fn put_back(target: &SqliteConfig, backup: &Path, is_json: bool) -> Result<(), CliError> {
    if !backup.is_file() {
        return Err(CliError::usage(format!("there is no backup {}", backup.display())));
    }
    let dir = parent(&target.path);
    let lock = SqliteLedger::hold(target)?;
    let mut copy = NamedTempFile::with_prefix_in(".slackwater-restore-", dir).map_err(|error| at(dir, &error))?;
    let mut source = File::open(backup).map_err(|error| at(backup, &error))?;
    let bytes = std::io::copy(&mut source, &mut copy).map_err(|error| at(copy.path(), &error))?;
    let (summary, findings) = check(copy.path()).await?;
    if findings.count > 0 {
        return Err(broken(&findings, "the backup"));
    }
    // Every copy made by `backup` carries the mark; a copy made by other means gets it now.
    let marking = SqliteLedger::open(SqliteConfig::new(copy.path())).await?;
    if marking.meta(MARK_KEY).await?.is_none_or(|mark| mark.is_empty()) {
        let value = jiff::Timestamp::now().as_millisecond().to_string();
        marking.commit(vec![Write::Meta { key: MARK_KEY.to_owned(), value }]).await?;
    }
    marking.close().await;
    let _ = fs::remove_file(beside(copy.path(), ".lock"));
    copy.as_file().sync_all().map_err(|error| at(copy.path(), &error))?;
    let replaced = set_aside(target).await?;
    copy.persist(&target.path).map_err(|error| at(&target.path, &error.error))?;
    sync_dir(dir)?;
    drop(lock);
    tell(is_json, "restore", &target.path, bytes, &summary, replaced.as_deref());
    Ok(())
}

/// Renames the old file, and moves its write-ahead log away: SQLite would apply that to whatever file has the name.
async fn set_aside(target: &SqliteConfig) -> Result<Option<PathBuf>, CliError> {
    if !target.path.exists() {
        return Ok(None);
    }
    // So that the file alone is the whole ledger, if it can still be read.
    if let Err(error) = SqliteLedger::flush(target).await {
        tracing::warn!(%error, "the log of the old ledger stays beside it");
    }
    let name = format!(".replaced-{}", jiff::Timestamp::now().as_millisecond());
    let aside = beside(&target.path, &name);
    fs::hard_link(&target.path, &aside).map_err(|error| at(&aside, &error))?;
    let log = beside(&target.path, "-wal");
    if log.exists() {
        fs::rename(&log, beside(&aside, "-wal")).map_err(|error| at(&log, &error))?;
    }
    let index = beside(&target.path, "-shm");
    if index.exists() {
        fs::remove_file(&index).map_err(|error| at(&index, &error))?;
    }
    Ok(Some(aside))
}

/// Checks that a file that nobody writes is a complete and consistent ledger.
async fn check(path: &Path) -> Result<(Summary, Findings), CliError> {
    SqliteLedger::check_file(path).await?;
    let ledger = SqliteLedger::open_read_only(SqliteConfig::new(path)).await?;
    let result = verify(&ledger, None, None).await;
    ledger.close().await;
    result
}

/// Location of the ledger.
enum Place {
    File(SqliteConfig),
    Shared(Box<slackwater_ledger::PostgresConfig>),
}

fn place(database: Option<PathBuf>, config: &ConfigArgs) -> Result<Place, CliError> {
    if let Some(database) = database {
        return Ok(Place::File(SqliteConfig::new(database)));
    }
    let config = config.sources().load()?;
    match &config.shared {
        Some(shared) => {
            let postgres = shared.resolve().map_err(|error| CliError::failed(error.to_string()))?;
            Ok(Place::Shared(Box::new(postgres)))
        }
        None => Ok(Place::File(config.sqlite)),
    }
}

fn tell(is_json: bool, what: &str, path: &Path, bytes: u64, summary: &Summary, replaced: Option<&Path>) {
    if is_json {
        let summary: serde_json::Map<_, _> =
            summary.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        println!("{}", json!({ what: path, "bytes": bytes, "replaced": replaced, "summary": summary }));
        return;
    }
    println!("{what:<16} {}", path.display());
    if bytes > 0 {
        println!("{:<16} {bytes}", "bytes");
    }
    if let Some(replaced) = replaced {
        println!("{:<16} {}", "old ledger", replaced.display());
    }
    for (name, value) in summary {
        println!("{name:<16} {value}");
    }
}

fn broken(findings: &Findings, what: &str) -> CliError {
    let first = findings.problems.first().map_or("", String::as_str);
    CliError::new(Exit::Failed, format!("{what} is broken: {} problems, first: {first}", findings.count))
}

fn at(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file name is durable only once its directory is synced.
fn sync_dir(dir: &Path) -> Result<(), CliError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| at(dir, &error))
}
