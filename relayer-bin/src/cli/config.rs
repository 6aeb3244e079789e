//! `config`: check, show, schema, example, presets.

use clap::{Args, Subcommand};
use serde_json::json;
use slackwater_core::chain::{ChainSpec, preset_names};

use super::{ConfigArgs, error::CliError};
use crate::config;

#[derive(Debug, Args)]
pub(super) struct ConfigCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check the configuration and that every secret is there. Starts nothing, calls nobody; see `doctor`.
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Do not look for the secrets.
        #[arg(long)]
        no_secrets: bool,
    },
    /// Print every value in force, with its origin. Secrets are hidden.
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the file.
    Schema,
    /// Print an example file with every key.
    Example,
    /// Print the tables of docs/configuration.md.
    Reference,
    /// List the chain presets.
    Presets {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: ConfigCommand) -> Result<(), CliError> {
    match command.what {
        What::Check { config, no_secrets } => {
            let config = config.sources().load()?;
            if !no_secrets {
                config.resolve()?;
            }
            println!("the configuration is valid: {} chains, {} tenants", config.chains.len(), config.tenants.len());
        }
        What::Show { config, json } => show(&config.sources().load()?, json),
        What::Schema => println!("{:#}", config::json_schema()),
        What::Example => print!("{}", config::example()),
        What::Reference => print!("{}", config::reference()),
        What::Presets { json } => presets(json)?,
    }
    Ok(())
}

fn show(config: &config::Config, is_json: bool) {
    if is_json {
        let rows: Vec<_> = config
            .entries
            .iter()
            .map(|entry| json!({ "key": entry.key, "value": entry.value, "origin": entry.origin.to_string() }))
            .collect();
        println!("{}", serde_json::Value::Array(rows));
        return;
    }
    let width = config.entries.iter().map(|entry| entry.key.len()).max().unwrap_or(0);
    for entry in &config.entries {
        println!("{:<width$}  {}  # {}", entry.key, entry.value, entry.origin);
    }
}

fn presets(is_json: bool) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for name in preset_names() {
        let spec = ChainSpec::preset(name).map_err(|error| CliError::failed(error.to_string()))?;
        if is_json {
            rows.push(json!(spec));
        } else {
            println!("{name:<14} chain {:<8} {:<9} a block each {} ms", spec.chain_id, spec.family, spec.block_time_ms);
        }
    }
    if is_json {
        println!("{}", serde_json::Value::Array(rows));
    }
    Ok(())
}
