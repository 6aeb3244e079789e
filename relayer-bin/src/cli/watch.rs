//! `status`, `watch`, `cancel`: the outcome of a request.

use std::{io::IsTerminal, time::Duration};

use clap::{Args, ValueEnum};
use slackwater_client::{Follow, RetryPolicy};
use slackwater_core::{
    Timestamp,
    request::{RequestId, Status},
    wire::{Attempt, Chains, Event, Lanes, Open, OpenReason, OpenStatus, Request, RequestSummary},
};

use super::{
    client::{Client, RelayerArgs},
    error::{CliError, Exit},
    printable::printable,
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

/// End of following a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    /// In a block, which a reorganisation may still take back.
    Included,
    /// Final, or ended for a reason.
    Terminal,
}

impl From<Until> for slackwater_client::Until {
    fn from(until: Until) -> Self {
        match until {
            Until::Included => Self::Included,
            Until::Terminal => Self::Terminal,
        }
    }
}

/// Unix milliseconds for people.
pub(super) fn instant(at: Timestamp) -> String {
    let instant = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    instant.map_or_else(|| at.to_string(), |instant| instant.to_string())
}

/// A value, or a dash.
fn or_dash<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}

/// A value as JSON has it.
fn or_null<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "null".to_owned(), T::to_string)
}

/// Success only for a request that was executed.
fn verdict(status: &OpenStatus, reason: &Option<OpenReason>) -> Result<(), CliError> {
    if status.is_terminal() && *status != Open::Known(Status::Finalized) {
        return Err(CliError::new(Exit::Refused, format!("the request is {status} ({})", or_dash(reason))));
    }
    Ok(())
}

pub(super) async fn status(args: StatusArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    let Some(id) = args.id else { return overview(&client, args.json).await };
    let answer = client.get(&format!("/v1/requests/{id}")).await?;
    if args.json {
        println!("{answer}");
    }
    let request: Request<'_> = client.read(&answer)?;
    let summary = &request.summary;
    if !args.json {
        println!("{}  {}", summary.id, summary.status);
        for (name, value) in [
            ("reason", summary.reason.as_ref().map(ToString::to_string)),
            ("kind", Some(summary.kind.clone())),
            ("target", Some(summary.target.to_string())),
            ("batch", summary.batch.map(|batch| batch.to_string())),
            ("transaction", summary.tx_hash.map(|hash| hash.to_string())),
            ("cost, wei", summary.cost_wei.map(|wei| wei.to_string())),
            ("price, wei", summary.price_wei.map(|wei| wei.to_string())),
            ("reserved, wei", summary.reserved_wei.map(|wei| wei.to_string())),
            ("accepted", Some(instant(summary.accepted_at_ms))),
            ("deadline", Some(instant(summary.deadline_at_ms))),
        ] {
            if let Some(value) = value {
                println!("  {name:<14} {value}");
            }
        }
        for Attempt { index, kind, tx_hash, fees, .. } in &request.attempts {
            let (cap, tip) = (fees.max_fee_wei_per_gas, fees.priority_fee_wei_per_gas);
            println!("  attempt {index:<6} {kind} {tx_hash} max fee {cap}, tip {tip} wei/gas");
        }
        for event in &request.timeline {
            print_event(event);
        }
    }
    verdict(&summary.status, &summary.reason)
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
    let (Chains { relayer, chains }, Lanes { lanes }) = (client.read(&chains)?, client.read(&lanes)?);
    println!("relayer {relayer}");
    for chain in chains {
        println!(
            "chain {} {}: {}, head {}, final {}, next base fee {} wei/gas, {} queued, {} in flight",
            chain.chain_id,
            chain.name,
            chain.health,
            or_null(&chain.head),
            or_null(&chain.final_block),
            or_dash(&chain.next_base_fee_wei_per_gas),
            chain.queued,
            chain.in_flight
        );
        if let Some(detail) = chain.detail {
            println!("  {detail}");
        }
        for forwarder in chain.forwarders {
            println!("  forwarder {} {:?}", forwarder.address, forwarder.name);
        }
    }
    for lane in lanes {
        println!(
            "lane {}:{}: nonce {}, {} of {} in flight, balance {} wei{}",
            lane.chain_id,
            lane.sender,
            or_null(&lane.next_nonce),
            lane.in_flight,
            lane.max_in_flight,
            or_dash(&lane.balance_wei),
            lane.paused.map(|why| format!(", paused: {why}")).unwrap_or_default()
        );
    }
    Ok(())
}

pub(super) async fn cancel(args: CancelArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    let answer = client.delete(&format!("/v1/requests/{}", args.id)).await?;
    if args.json {
        println!("{answer}");
    } else {
        let request: RequestSummary = client.read(&answer)?;
        println!("{}  {}", request.id, request.status);
    }
    Ok(())
}

pub(super) async fn watch(args: WatchArgs) -> Result<(), CliError> {
    let client = Client::new(&args.relayer)?;
    match args.id {
        Some(id) => {
            // In the relayer's words.
            let malformed =
                "The id in the path is malformed (malformed_id): a request's id is 0x and 64 hexadecimal digits";
            let id = id.parse().map_err(|_| CliError::new(Exit::Refused, malformed))?;
            follow(&client, id, args.until.into(), args.json).await
        }
        None => follow_all(&client, args.after, args.json).await,
    }
}

/// Follows one request through broken connections.
pub(super) async fn follow(
    client: &Client,
    id: RequestId,
    until: slackwater_client::Until,
    is_json: bool,
) -> Result<(), CliError> {
    // The first connection must work; later ones may break, since the request goes on by itself.
    let once = RetryPolicy { base: RECONNECT, cap: MAX_RECONNECT, max_attempts: 1, ..RetryPolicy::default() };
    let mut following = client.relayer().follow_with(Follow::new(id).until(until).retry(once));
    while let Some(change) = following.next().await.map_err(|error| client.error(error))? {
        following.retry(RetryPolicy { max_attempts: 0, ..once });
        tell(&change.event, is_json);
    }
    following.machine().state().map_or(Ok(()), |last| verdict(&last.status, &last.reason))
}

async fn follow_all(client: &Client, after: Option<u64>, is_json: bool) -> Result<(), CliError> {
    let mut seen = after;
    let mut is_first = true;
    let mut wait = RECONNECT;
    loop {
        match client.relayer().events(seen).await.map_err(|error| client.error(error)) {
            Ok(None) => return Ok(()),
            Ok(Some(mut events)) => {
                is_first = false;
                while let Some(event) = events.next().await.map_err(|error| CliError::failed(error.to_string()))? {
                    // Delivery is at least once.
                    if seen.is_none_or(|seen| event.seq > seen) {
                        seen = Some(event.seq);
                        tell(&event, is_json);
                    }
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

fn tell(event: &Event<'_>, is_json: bool) {
    if is_json {
        let text =
            serde_json::to_string(event).unwrap_or_else(|error| unreachable!("an event is always JSON: {error}"));
        println!("{}", printable(&text));
    } else {
        print_event(event);
    }
}

fn print_event(event: &Event<'_>) {
    let (colour, plain) = match (std::io::stdout().is_terminal(), event.status.known()) {
        (false, _) => ("", ""),
        (true, Some(Status::Finalized)) => ("\x1b[32m", "\x1b[0m"),
        (true, Some(Status::Included)) => ("\x1b[36m", "\x1b[0m"),
        (true, Some(status)) if status.is_terminal() => ("\x1b[31m", "\x1b[0m"),
        (true, _) => ("\x1b[33m", "\x1b[0m"),
    };
    let (at, id) = (instant(event.at_ms), event.request_id.to_string());
    let mut line = format!("  {at}  {}  {colour}{:<9}{plain}", short(&id), printable(event.status.as_str()));
    if let Some(number) = event.block_number {
        line.push_str(&format!(" block {number}"));
    }
    let hash = event.tx_hash.map(|hash| hash.to_string());
    let texts = [hash.as_deref(), event.reason.as_ref().map(Open::as_str), event.detail.as_deref()];
    for text in texts.into_iter().flatten() {
        line.push(' ');
        line.push_str(&printable(text));
    }
    println!("{line}");
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use slackwater_core::request::Reason;

    use super::*;

    #[test]
    fn verdicts() {
        assert!(verdict(&Status::Finalized.into(), &None).is_ok());
        assert!(verdict(&Status::Queued.into(), &None).is_ok());
        for bad in [Status::Reverted, Status::Rejected, Status::Expired, Status::Cancelled] {
            let failed = verdict(&bad.into(), &Some(Reason::TargetReverted.into())).unwrap_err();
            assert_eq!(failed.exit(), Exit::Refused);
        }
        assert_eq!(instant(Timestamp(0)), "1970-01-01T00:00:00Z");
    }
}
