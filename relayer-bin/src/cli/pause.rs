//! `slackwater pause` and `resume`: a running relayer accepts nothing new for a while.

use clap::Args;
use serde_json::{Value, json};

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
    let body = match (&args.scope.chain, &args.scope.tenant) {
        (Some(chain), _) => json!({ "chainId": chain }),
        (None, Some(tenant)) => json!({ "tenant": tenant }),
        (None, None) => json!({ "all": true }),
    };
    let answer = Client::new(&args.relayer)?.post(&format!("/v1/admin/{what}"), body.to_string(), None).await?;
    if args.json {
        println!("{answer}");
        return Ok(());
    }
    let pauses = answer["pauses"].as_array().map(Vec::as_slice).unwrap_or_default();
    if pauses.is_empty() {
        println!("nothing is paused");
    }
    for pause in pauses {
        let scope = match (&pause["chainId"], pause["tenant"].as_str()) {
            (Value::Number(chain), _) => format!("chain {chain}"),
            (_, Some(tenant)) => format!("tenant {tenant}"),
            _ => "everything".to_owned(),
        };
        println!("paused: {scope}, by {}", pause["by"].as_str().unwrap_or_default());
    }
    Ok(())
}
