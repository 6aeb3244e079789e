//! `slackwater-soak`: kills processes under load; no request may be lost, executed twice or stuck.

#![allow(clippy::print_stdout, reason = "a command line program")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use slackwater_benches::{BenchError, Result, soak};

/// Kill relayers under load, again and again, and count on the chain the outcome of every request.
///
/// Starts a chain, proxies before it and the relayers, and stops them at the end. Exits with 0 only if every accepted
/// request was executed exactly once and its status was reported truthfully.
#[derive(Debug, Parser)]
#[command(name = "slackwater-soak", version)]
struct Cli {
    #[command(subcommand)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// One relayer on SQLite; `kill -9` in every round, sometimes again during startup.
    Kills(Options),
    /// Three relayers on one PostgreSQL; one of them killed in every round, mostly the one that drives the lanes.
    Cluster(Options),
    /// One relayer whose only node is frozen for a while in every round; callers name no deadline.
    Outage(OutageOptions),
}

#[derive(Debug, Args)]
struct Options {
    /// Number of rounds; by default 30, or 10 for a cluster.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// Requests per second, in open loop.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Number of users who sign them in turn.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// Sender accounts of the relayer.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    senders: u32,
    /// Share of the calls between relayer and node that suffer a fault, in basis points.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    faults_bps: u32,
    /// Longest time between readiness and the next kill, ms.
    #[arg(long, default_value_t = 3_000)]
    calm_ms: u64,
    /// Duration of a lease in a cluster, ms.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(500..=3_600_000))]
    lease_ms: u64,
    /// Seed of all random choices; the time of day if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// A `slackwater` program; the one beside this program by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct OutageOptions {
    /// Number of rounds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Requests per second, in open loop.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Number of users who sign them in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    users: u32,
    /// Duration of each outage of the node, s.
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    outage_s: u64,
    /// A `slackwater` program; the one beside this program by default.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl OutageOptions {
    fn plan(&self) -> soak::Plan {
        soak::Plan {
            binary: self.binary.clone(),
            rounds: self.rounds,
            rate_per_s: self.rate,
            users: usize::try_from(self.users).unwrap_or(1),
            outage: Duration::from_secs(self.outage_s),
            ..soak::Plan::of_outage()
        }
    }
}

impl Options {
    fn plan(&self, rounds: u32) -> soak::Plan {
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        soak::Plan {
            binary: self.binary.clone(),
            rounds: self.rounds.unwrap_or(rounds),
            rate_per_s: self.rate,
            users: usize::try_from(self.users).unwrap_or(1),
            lanes: usize::try_from(self.senders).unwrap_or(1),
            faults_bps: self.faults_bps,
            calm: Duration::from_millis(self.calm_ms),
            lease: Duration::from_millis(self.lease_ms),
            seed: self.seed.unwrap_or_else(now),
            ..soak::Plan::default()
        }
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&Cli::parse().run)),
        Err(error) => Err(BenchError::Io { what: "runtime".to_owned(), source: error }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("slackwater-soak: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(run: &Run) -> Result<bool> {
    let is_json = match run {
        Run::Kills(options) | Run::Cluster(options) => options.json,
        Run::Outage(options) => options.json,
    };
    let mut progress = |line: String| {
        if !is_json {
            println!("{line}");
        }
    };
    let report = match run {
        Run::Kills(options) => soak::kills(&options.plan(30), &mut progress).await?,
        Run::Cluster(options) => soak::takeovers(&options.plan(10), &mut progress).await?,
        Run::Outage(options) => soak::outages(&options.plan(), &mut progress).await?,
    };
    if is_json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(report.is_good())
}
