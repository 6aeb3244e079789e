//! Development tasks: `cargo xtask --help`.

mod bench;
mod compare;
mod contracts;
mod demo;
mod fixture;
mod fuzz;
mod js;
#[path = "../../benches/src/postgres.rs"]
#[allow(unreachable_pub, dead_code, reason = "public in the crate that it belongs to")]
mod postgres;
mod python;
mod sbom;
mod sim;
mod soak;
mod steps;
mod supply;
mod test;
mod tools;
mod types;
mod wasm;

use clap::{Parser, Subcommand};

/// Development tasks of the Slackwater workspace.
///
/// Tasks that need npm packages (a local chain, the Solidity compiler, reference wallets) install
/// them into `tools/npm/node_modules` first, from the lock file.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Demo(demo::Args),
    Test(test::Args),
    #[command(hide = true)]
    BuildAhead(test::AheadArgs),
    Bench(bench::Args),
    Fixture(fixture::Args),
    Fuzz(fuzz::Args),
    Sbom(sbom::Args),
    Sim(sim::Args),
    Soak(soak::Args),
    Wasm(wasm::Args),
    Js(js::Args),
    Python(python::Args),
    Contracts(contracts::Args),
    Types(types::Args),
    AnvilPath(tools::AnvilPathArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo(args) => demo::run_demo(&args),
        Task::Test(args) => test::run_all(args),
        Task::BuildAhead(args) => test::build_ahead(&args),
        Task::Bench(args) => bench::run_all(&args),
        Task::Fixture(args) => fixture::make(&args),
        Task::Fuzz(args) => fuzz::run_all(&args),
        Task::Sbom(args) => sbom::write(&args),
        Task::Js(args) => js::run_js(&args),
        Task::Python(args) => python::run_python(&args),
        Task::Wasm(args) => wasm::run_wasm(&args),
        Task::Sim(args) => sim::run_sim(&args),
        Task::Soak(args) => soak::run_soak(&args),
        Task::Contracts(args) => contracts::run(&args),
        Task::Types(args) => types::run_types(&args),
        Task::AnvilPath(args) => tools::print_anvil_path(&args),
    }
}
