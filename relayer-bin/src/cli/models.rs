//! `slackwater models`: the forecast models of a relayer.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use slackwater_core::wire::{ModelScores, ModelVersion, Models};

use super::{
    client::{Client, RelayerArgs},
    error::CliError,
    printable::printable_lines,
};

/// Largest export that is read from standard input or a file, bytes: more than any relayer accepts.
const MAX_EXPORT_BYTES: u64 = 1 << 28;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the models of all chains, or of one.
    List {
        /// Only of this chain.
        #[arg(long, value_name = "ID")]
        chain: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// Put a version in force, until the next is fitted.
    Promote(Version),
    /// Put a version in force and keep it there.
    Pin(Version),
    /// Let the next version that is fitted come into force.
    Unpin(Chain),
    /// Go back to the version that was in force before.
    Rollback(Chain),
    /// Write all models of a chain, with scores and pin, as one JSON.
    Export {
        /// EIP-155 chain id.
        chain: u64,
        /// Output file; standard output by default.
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        relayer: RelayerArgs,
    },
    /// Replace a chain's models by those of an export.
    Import {
        /// EIP-155 chain id.
        chain: u64,
        /// The export; `-` is standard input.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Chain {
    /// EIP-155 chain id.
    chain: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Version {
    /// EIP-155 chain id.
    chain: u64,
    /// As listed.
    version: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(args: ModelsArgs) -> Result<(), CliError> {
    match args.command {
        ModelsCommand::List { chain, common } => {
            let client = Client::new(&common.relayer)?;
            let mut answer = client.get("/v1/models").await?;
            if let (Some(chain), Some(models)) = (chain, answer["models"].as_array_mut()) {
                models.retain(|model| model["chainId"] == chain);
            }
            show(&client, &answer, common.json)
        }
        ModelsCommand::Promote(Version { chain, version, common }) => {
            post(chain, "promote", json!(ModelVersion { version }).to_string(), &common).await
        }
        ModelsCommand::Pin(Version { chain, version, common }) => {
            post(chain, "pin", json!(ModelVersion { version }).to_string(), &common).await
        }
        ModelsCommand::Unpin(Chain { chain, common }) => post(chain, "unpin", String::new(), &common).await,
        ModelsCommand::Rollback(Chain { chain, common }) => post(chain, "rollback", String::new(), &common).await,
        ModelsCommand::Export { chain, out, relayer } => {
            // Unparsed: numbers must come back to the bit.
            let text = Client::new(&relayer)?.get_text(&format!("/v1/models/{chain}/export")).await?;
            write(out.as_deref(), &text)
        }
        ModelsCommand::Import { chain, file, common } => post(chain, "import", read(&file)?, &common).await,
    }
}

async fn post(chain: u64, what: &str, body: String, common: &Common) -> Result<(), CliError> {
    let client = Client::new(&common.relayer)?;
    let answer = client.post(&format!("/v1/models/{chain}/{what}"), body, None).await?;
    show(&client, &answer, common.json)
}

fn read(file: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| CliError::usage(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let size = if file == Path::new("-") {
        std::io::stdin().take(MAX_EXPORT_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(MAX_EXPORT_BYTES).read_to_string(&mut text))
    };
    if size.map_err(failed)? as u64 == MAX_EXPORT_BYTES {
        return Err(CliError::usage(format!("{}: more than {MAX_EXPORT_BYTES} bytes", file.display())));
    }
    Ok(text)
}

fn write(out: Option<&Path>, text: &str) -> Result<(), CliError> {
    match out {
        Some(path) => fs::write(path, text).map_err(|error| CliError::failed(format!("{}: {error}", path.display()))),
        None => {
            let mut out = std::io::stdout().lock();
            out.write_all(printable_lines(text).as_bytes())
                .and_then(|()| out.write_all(b"\n"))
                .map_err(|error| CliError::failed(format!("standard output: {error}")))
        }
    }
}

fn show(client: &Client, answer: &Value, is_json: bool) -> Result<(), CliError> {
    if is_json {
        println!("{answer}");
        return Ok(());
    }
    let Models { models } = client.read(answer)?;
    if models.is_empty() {
        println!("no models yet");
        return Ok(());
    }
    println!(
        "{:>10}  {:>7}  {:8}  {:66}  {:>21}  error against a fee that stays",
        "chain", "version", "", "content hash", "blocks"
    );
    for model in models {
        let state = match (model.is_active, model.is_pinned) {
            (true, true) => "pinned",
            (true, _) => "in force",
            _ => "",
        };
        let score =
            |(blocks, scores): (&u32, &ModelScores)| format!("{blocks}: {:.4}/{:.4}", scores.ridge, scores.persistence);
        println!(
            "{:>10}  {:>7}  {state:8}  {:66}  {:>21}  {}",
            model.chain_id,
            model.version,
            model.id.to_string(),
            format!("{}..{}", model.first_block, model.last_block),
            model.scores.iter().map(score).collect::<Vec<_>>().join("  "),
        );
    }
    Ok(())
}
