//! `status`, `watch`, `cancel`: the outcome of a request.

use std::{io::IsTerminal, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{
    client::{Client, RelayerArgs},
    error::{CliError, Exit},
    printable::printable_json,
};

/// First wait before a broken stream is resumed; doubled up to [`MAX_RECONNECT`].
const RECONNECT: Duration = Duration::from_millis(500);
/// Longest wait before a broken stream is resumed.
const MAX_RECONNECT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The request's id; without it, the relayer's chains and lanes.
    id: Option<String>,
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// The request's id.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<String>,
    /// Follow every request, for ever.
    #[arg(long)]
    all: bool,
    /// With `--all`: start after this event instead of now.
    #[arg(long, value_name = "SEQ", requires = "all")]
    after: Option<u64>,
    /// Status at which to stop.
    #[arg(long, value_enum, default_value_t = Until::Terminal)]
    until: Until,
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// The request's id.
    id: String,
    #[command(flatten)]
    relayer: RelayerArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Point up to which a request is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Until {
    /// In a block, which a reorganisation may still take back.
    Included,
    /// Final, or ended for a reason.
    Terminal,
}

/// Unix milliseconds in readable form.
pub(super) fn instant(at_ms: u64) -> String {
    let instant = i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    instant.map_or_else(|| format!("{at_ms} ms"), |instant| instant.to_string())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("-")
}

fn is_terminal(status: &str) -> bool {
    matches!(status, "finalized" | "reverted" | "rejected" | "expired" | "cancelled")
}

/// Success only for a request that was executed.
fn verdict(status: &str, reason: &str) -> Result<(), CliError> {
    if is_terminal(status) && status != "finalized" {
        return Err(CliError::new(Exit::Refused, format!("the request is {status} ({reason})")));
    }
    Ok(())
}

pub(super) async fn status(args: StatusArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    let Some(id) = args.id else { return overview(&client, args.json).await };
    let request = client.get(&format!("/v1/requests/{id}")).await?;
    if args.json {
        println!("{request}");
    } else {
        println!("{}  {}", text(&request, "id"), text(&request, "status"));
        for (name, key) in [
            ("reason", "reason"),
            ("kind", "kind"),
            ("target", "target"),
            ("batch", "batch"),
            ("transaction", "txHash"),
            ("cost, wei", "costWei"),
            ("price, wei", "priceWei"),
            ("reserved, wei", "reservedWei"),
        ] {
            if request[key].is_string() {
                println!("  {name:<14} {}", text(&request, key));
            }
        }
        for (name, key) in [("accepted", "acceptedAtMs"), ("deadline", "deadlineAtMs")] {
            println!("  {name:<14} {}", instant(request[key].as_u64().unwrap_or_default()));
        }
        for attempt in request["attempts"].as_array().into_iter().flatten() {
            println!(
                "  attempt {:<6} {} {} max fee {}, tip {} wei/gas",
                attempt["index"],
                text(attempt, "kind"),
                text(attempt, "txHash"),
                text(attempt, "maxFeeWeiPerGas"),
                text(attempt, "priorityFeeWeiPerGas")
            );
        }
        for event in request["timeline"].as_array().into_iter().flatten() {
            print_event(event);
        }
    }
    verdict(text(&request, "status"), text(&request, "reason"))
}

async fn overview(client: &Client, is_json: bool) -> Result<(), CliError> {
    let (chains, lanes) = (client.get("/v1/chains").await?, client.get("/v1/lanes").await?);
    if is_json {
        println!(
            "{}",
            serde_json::json!({ "relayer": chains["relayer"], "chains": chains["chains"], "lanes": lanes["lanes"] })
        );
        return Ok(());
    }
    println!("relayer {}", text(&chains, "relayer"));
    for chain in chains["chains"].as_array().into_iter().flatten() {
        println!(
            "chain {} {}: {}, head {}, final {}, next base fee {} wei/gas, {} queued, {} in flight",
            chain["chainId"],
            text(chain, "name"),
            text(chain, "health"),
            chain["head"],
            chain["finalBlock"],
            text(chain, "nextBaseFeeWeiPerGas"),
            chain["queued"],
            chain["inFlight"]
        );
        if chain["detail"].is_string() {
            println!("  {}", text(chain, "detail"));
        }
        for forwarder in chain["forwarders"].as_array().into_iter().flatten() {
            println!("  forwarder {} {:?}", text(forwarder, "address"), text(forwarder, "name"));
        }
    }
    for lane in lanes["lanes"].as_array().into_iter().flatten() {
        println!(
            "lane {}:{}: nonce {}, {} of {} in flight, balance {} wei{}",
            lane["chainId"],
            text(lane, "sender"),
            lane["nextNonce"],
            lane["inFlight"],
            lane["maxInFlight"],
            text(lane, "balanceWei"),
            lane["paused"].as_str().map(|why| format!(", paused: {why}")).unwrap_or_default()
        );
    }
    Ok(())
}

pub(super) async fn cancel(args: CancelArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    let request = client.delete(&format!("/v1/requests/{}", args.id)).await?;
    if args.json {
        println!("{request}");
    } else {
        println!("{}  {}", text(&request, "id"), text(&request, "status"));
    }
    Ok(())
}

pub(super) async fn watch(args: WatchArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    match args.id {
        Some(id) => follow(&client, &id, args.until, args.json).await,
        None => follow_all(&client, args.after, args.json).await,
    }
}

/// Follows one request through broken connections.
pub(super) async fn follow(client: &Client, id: &str, until: Until, is_json: bool) -> Result<(), CliError> {
    let path = format!("/v1/requests/{id}/events");
    let mut after = None;
    let mut last = (String::new(), String::new());
    let mut wait = RECONNECT;
    loop {
        match client.events(&path, after).await {
            Ok(None) => return verdict(&last.0, &last.1),
            Ok(Some(mut stream)) => {
                while let Some(event) = next_event(&mut stream, is_json, &mut after).await? {
                    wait = RECONNECT;
                    last = (text(&event, "status").to_owned(), text(&event, "reason").to_owned());
                    if is_terminal(&last.0) || (until == Until::Included && last.0 == "included") {
                        return verdict(&last.0, &last.1);
                    }
                }
            }
            // The first connection must succeed; later ones may break, since the request continues without them.
            Err(error) if after.is_none() || error.exit() != Exit::Unreachable => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RECONNECT);
    }
}

async fn follow_all(client: &Client, after: Option<u64>, is_json: bool) -> Result<(), CliError> {
    let mut seen = after;
    let mut is_first = true;
    let mut wait = RECONNECT;
    loop {
        match client.events("/v1/events", seen).await {
            Ok(None) => return Ok(()),
            Ok(Some(mut stream)) => {
                is_first = false;
                while next_event(&mut stream, is_json, &mut seen).await?.is_some() {
                    wait = RECONNECT;
                }
            }
            Err(error) if is_first || error.exit() != Exit::Unreachable => return Err(error),
            Err(_) => {}
        }
        eprintln!("slackwater: connection lost, resuming in {} ms", wait.as_millis());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_RECONNECT);
    }
}

/// Prints the next event unless it was printed before: delivery is at least once.
async fn next_event(
    stream: &mut super::client::EventStream,
    is_json: bool,
    seen: &mut Option<u64>,
) -> Result<Option<Value>, CliError> {
    while let Some(data) = stream.next().await? {
        // Its texts may hold control characters as JSON escapes.
        let Ok(event) = serde_json::from_str::<Value>(&data).map(printable_json) else { continue };
        let seq = event["seq"].as_u64();
        if seq.is_some() && seq <= *seen {
            continue;
        }
        *seen = seq.or(*seen);
        if is_json {
            println!("{data}");
        } else {
            print_event(&event);
        }
        return Ok(Some(event));
    }
    Ok(None)
}

fn print_event(event: &Value) {
    let status = text(event, "status");
    let (colour, plain) = match (std::io::stdout().is_terminal(), status) {
        (false, _) => ("", ""),
        (true, "finalized") => ("\x1b[32m", "\x1b[0m"),
        (true, "included") => ("\x1b[36m", "\x1b[0m"),
        (true, "reverted" | "rejected" | "expired" | "cancelled") => ("\x1b[31m", "\x1b[0m"),
        (true, _) => ("\x1b[33m", "\x1b[0m"),
    };
    let mut line = format!(
        "  {}  {}  {colour}{status:<9}{plain}",
        instant(event["atMs"].as_u64().unwrap_or_default()),
        short(text(event, "requestId"))
    );
    if event["blockNumber"].is_u64() {
        line.push_str(&format!(" block {}", event["blockNumber"]));
    }
    for key in ["txHash", "reason", "detail"] {
        if let Some(value) = event[key].as_str() {
            line.push(' ');
            line.push_str(value);
        }
    }
    println!("{line}");
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        assert!(verdict("finalized", "-").is_ok());
        assert!(verdict("queued", "-").is_ok());
        for bad in ["reverted", "rejected", "expired", "cancelled"] {
            assert_eq!(verdict(bad, "x").unwrap_err().exit(), Exit::Refused);
        }
        assert_eq!(instant(0), "1970-01-01T00:00:00Z");
    }
}
