//! The command line.

#![allow(clippy::print_stdout, reason = "a command's answer belongs on standard output; logs go to standard error")]

mod audit;
mod backtest;
mod backup;
mod client;
mod config;
mod dev;
mod doctor;
mod error;
mod fees;
mod forecast;
mod headers;
mod history;
mod keys;
mod models;
mod pause;
mod printable;
mod send;
mod serve;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use error::{CliError, Exit};

use crate::config::{Sources, hidden, looks_secret};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  relayer or node not reachable
  4  refused, or the request ended badly (reverted, rejected, expired, cancelled)";

/// Gas-aware meta-transaction relayer.
#[derive(Debug, Parser)]
#[command(name = "slackwater", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API, as configured.
    Serve(ServeArgs),
    /// Start everything for local development: a chain, contracts, funded lanes, the API.
    Dev(dev::DevArgs),
    /// Submit a request to a relayer.
    Send(send::SendArgs),
    /// Say what became of a request, or how the relayer is.
    Status(watch::StatusArgs),
    /// Follow a request, or all of them.
    Watch(watch::WatchArgs),
    /// Withdraw a request that is still queued.
    Cancel(watch::CancelArgs),
    /// Forecast a chain's gas price, from a node or a file.
    Forecast(forecast::ForecastArgs),
    /// Say what forecasts and timing would have been worth on recorded fees.
    Backtest(backtest::BacktestArgs),
    /// The forecast models of a relayer: list, pin, roll back, carry elsewhere.
    Models(models::ModelsArgs),
    /// Let a running relayer accept nothing and send nothing new, at all, on a chain or for a tenant.
    Pause(pause::PauseArgs),
    /// End a pause of exactly this scope.
    Resume(pause::PauseArgs),
    /// Record a chain's fees.
    Fees(fees::FeesArgs),
    /// Account keys in encrypted files, and API keys.
    Keys(keys::KeysArgs),
    /// Check, show and explain the configuration.
    Config(config::ConfigCommand),
    /// Check that everything is there, and that the chains are what the presets say.
    Doctor(doctor::DoctorArgs),
    /// Prove that a database is consistent.
    Audit(audit::AuditArgs),
    /// Copy the ledger's file while the relayer runs, and check the copy.
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the ledger's file.
    Restore(backup::RestoreArgs),
}

/// Source of the configuration.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", env = "SLACKWATER_CONFIG")]
    config: Option<PathBuf>,
    /// Set one key, such as `server.listen=127.0.0.1:7701` or `chain.0.max_batch=50`. Wins over file and environment.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl ConfigArgs {
    fn sources(&self) -> Sources {
        let mut sources = Sources::of_process(self.config.clone());
        for (key, value) in &self.set {
            sources = sources.flag("--set", key, Some(value.clone()));
        }
        sources
    }
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address and port to listen on (`server.listen`).
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Level or filter of the logs (`log.level`).
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// `text` or `json` (`log.format`).
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Parses the command line, runs the command, and returns its exit code.
pub fn run() -> ExitCode {
    keep_memory_private();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => without_secrets(error).exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return CliError::new(Exit::Failed, format!("can't start the runtime: {error}")).report();
        }
    };
    match runtime.block_on(cli.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Disables core files and reading of this process' memory by other processes of the same user: keys are in it. On
/// systems without such protection it does nothing.
fn keep_memory_private() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// The error about the command line, without any value that may be a secret put in the wrong place. The value of
/// `--set` may be a secret anywhere.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let is_set =
        matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(name)) if name.starts_with("--set"));
    let hide = |text: &str, is_value: bool| match is_value && is_set || looks_secret(text) {
        true => hidden(text),
        false => text.to_owned(),
    };
    let contexts: Vec<(ContextKind, ContextValue)> =
        error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in contexts {
        let is_value = kind == ContextKind::InvalidValue;
        let value = match value {
            ContextValue::String(text) => ContextValue::String(hide(&text, is_value)),
            ContextValue::Strings(texts) => {
                ContextValue::Strings(texts.iter().map(|text| hide(text, is_value)).collect())
            }
            _ => continue,
        };
        error.insert(kind, value);
    }
    error
}

impl Command {
    async fn run(self) -> Result<(), CliError> {
        match self {
            Self::Serve(args) => {
                let sources = args
                    .config
                    .sources()
                    .flag("--listen", "server.listen", args.listen)
                    .flag("--log-level", "log.level", args.log_level)
                    .flag("--log-format", "log.format", args.log_format);
                serve::run(sources).await
            }
            Self::Dev(args) => dev::run(args).await,
            Self::Send(args) => send::run(args).await,
            Self::Status(args) => watch::status(args).await,
            Self::Watch(args) => watch::watch(args).await,
            Self::Cancel(args) => watch::cancel(args).await,
            Self::Forecast(args) => forecast::run(args).await,
            Self::Backtest(args) => backtest::run(args).await,
            Self::Models(args) => models::run(args).await,
            Self::Pause(args) => pause::run(args, "pause").await,
            Self::Resume(args) => pause::run(args, "resume").await,
            Self::Fees(args) => fees::run(args).await,
            Self::Keys(args) => keys::run(args),
            Self::Config(command) => config::run(command),
            Self::Doctor(args) => doctor::run(args).await,
            Self::Audit(args) => audit::run(args).await,
            Self::Backup(args) => backup::backup(args).await,
            Self::Restore(args) => backup::restore(args).await,
        }
    }
}
