//! `slackwater pause` and `resume`: a running relayer accepts nothing new for a while.

use clap::Args;
use serde_json::json;
use slackwater_core::wire::{Count, PauseBody, Pauses};

use super::{
    client::{Client, RelayerArgs},
    error::CliError,
};

/// Options of `slackwater pause` and `slackwater resume`.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Scope {
    /// Everything.
    #[arg(long)]
    all: bool,
    /// One chain.
    #[arg(long, value_name = "ID")]
    chain: Option<u64>,
    /// One tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

pub(super) async fn run(args: PauseArgs, what: &str) -> Result<(), CliError> {
    let Scope { all, chain, tenant } = args.scope;
    let body = PauseBody { all: all.then_some(true), chain_id: chain.map(Count), tenant };
    let client = Client::new(&args.relayer)?;
    let answer = client.post(&format!("/v1/admin/{what}"), json!(body).to_string(), None).await?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let Pauses { pauses } = client.read(&answer)?;
    if pauses.is_empty() {
        println!("nothing is paused");
    }
    for pause in pauses {
        let scope = match (pause.chain_id, pause.tenant) {
            (Some(chain), _) => format!("chain {chain}"),
            (_, Some(tenant)) => format!("tenant {tenant}"),
            _ => "everything".to_owned(),
        };
        println!("paused: {scope}, by {}", pause.by);
    }
    Ok(())
}
