//! `slackwater-demo`: the main job on a local chain, with the numbers that matter.

#![allow(clippy::print_stdout, reason = "a command line program")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall as _;
use clap::Parser;
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use slackwater_benches::{
    Anvil, BenchError, Node, Relayer, RelayerClient, Result, World,
    client::Event,
    count::{Relayed, entries, executions_by_event, nonces},
    node::TestTransaction,
    page::{PageAddress, PageServer},
    report::{Latencies, duration, ether, grouped, percent},
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::forwarder::{executeBatchCall, executeCall};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// Relay real meta-transactions on a local chain and show what happens.
///
/// Starts anvil and a relayer (SQLite) of its own. Users sign ERC-2771 requests, which are submitted as a service
/// would, followed until they are final, and counted on the chain. Exits with 0 only if each was executed exactly
/// once.
#[derive(Debug, Parser)]
#[command(name = "slackwater-demo", version)]
struct Args {
    /// Number of requests.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    requests: u64,
    /// Number of users who sign them in turn.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    users: u64,
    /// Maximum number of concurrent calls.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=256))]
    connections: u64,
    /// Leave chain and relayer running until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Serve the example page from this folder too, while everything is left running.
    #[arg(long, requires = "keep", value_name = "FOLDER")]
    page: Option<PathBuf>,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 300)]
    max_seconds: u64,
}

/// Default port of the relayer, easy to remember; another is taken if it is in use.
const USUAL_PORT: u16 = 7_700;

/// Default port of the example page.
const USUAL_PAGE_PORT: u16 = 7_701;

/// Number of requests sent one by one, for comparison.
const ONE_BY_ONE: usize = 10;

/// Sample guest book messages.
const MESSAGES: [&str; 5] = [
    "slack water: the tide rests, and so does the gas price",
    "signed by me, carried by somebody else",
    "no ether in this wallet, and still here",
    "my agent asked, the relayer answered",
    "one signature, once on the chain",
];

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(interruptible(&args)),
        Err(error) => Err(BenchError::Io { what: "runtime".to_owned(), source: error }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nslackwater-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the demonstration; ends the processes it started also on an interrupt.
async fn interruptible(args: &Args) -> Result<bool> {
    let limit = Duration::from_secs(args.max_seconds);
    let mut stage = None;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(limit, show(args, &mut stage)) => {
            outcome.unwrap_or_else(|_| Err(BenchError::Timeout { what: "the demonstration".to_owned(), after: limit }))
        }
        signal = stop_signal() => {
            signal?;
            Err(BenchError::Process { what: "slackwater-demo", detail: "interrupted".to_owned() })
        }
    };
    if matches!(outcome, Ok(true))
        && args.keep
        && let Some(stage) = &stage
    {
        stage.invite();
        stop_signal().await?;
        println!("\nstopping");
    }
    if let Some(stage) = &mut stage {
        let _ = stage.relayer.terminate(Duration::from_secs(20)).await;
    }
    outcome
}

async fn stop_signal() -> Result<()> {
    let failed = |source| BenchError::Io { what: "signal handler".to_owned(), source };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The running processes; they end when it is dropped.
struct Stage {
    relayer: Relayer,
    world: World,
    anvil: Anvil,
    page: Option<PageServer>,
}

impl Stage {
    fn invite(&self) {
        let url = self.relayer.url();
        println!("Running until Ctrl-C.\n");
        if let Some(page) = &self.page {
            println!("  example dApp     {}", page.url());
        }
        println!("  dashboard        {url}/");
        println!("  API reference    {url}/docs");
        println!("  metrics          {url}/metrics");
        println!("  events           curl -N '{url}/v1/events?after=0'");
        println!("  chain (RPC)      {}", self.anvil.url());
        println!("  forwarder        {} ({})", self.world.forwarder, self.world.forwarder_name);
        println!("  guest book       {}", self.world.guestbook);
        println!("  database         {}", self.relayer.database().display());
    }
}

async fn show(args: &Args, stage: &mut Option<Stage>) -> Result<bool> {
    let bars = MultiProgress::new();
    let requests = usize::try_from(args.requests).unwrap_or(usize::MAX);
    let users = usize::try_from(args.users.min(args.requests)).unwrap_or(usize::MAX);

    let step = Step::begin(&bars, "starting a local chain (anvil, 1 s blocks)");
    let anvil = Anvil::builder().block_time(1).spawn().await?;
    let node = anvil.node().clone();
    step.end(anvil.url());

    let step = Step::begin(&bars, "deploying OpenZeppelin's ERC2771Forwarder and a guest book");
    let world = World::deploy(&node, 1).await?;
    step.end(&world.forwarder.to_string());

    let step = Step::begin(&bars, "starting the relayer on SQLite");
    let mut builder = Relayer::builder(&world).rpc(anvil.url()).listen(address()).extra("[log]\nlevel = \"warn\"");
    let page_address = if args.page.is_some() { Some(PageAddress::take(USUAL_PAGE_PORT).await?) } else { None };
    if let Some(page) = &page_address {
        // Browsers let the page call the relayer only if the relayer allows the page's origin (CORS).
        builder = builder.server_key("cors_origins", format!("[{:?}]", page.origin()));
    }
    let relayer = builder.spawn().await?;
    let client = relayer.client().clone();
    step.end(relayer.url());
    let page = match (page_address, &args.page) {
        (Some(address), Some(folder)) => {
            let identity = client.chains().await?["relayer"].as_str().unwrap_or_default().to_owned();
            Some(address.serve(folder, &page_query(&relayer, &anvil, &world, &identity))?)
        }
        _ => None,
    };
    let senders = world.relayer_addresses();
    let Stage { world, .. } = &*stage.insert(Stage { relayer, world, anvil, page });

    let step = Step::begin(&bars, "letting the users sign the book once, as returning users have");
    let mut people = People::new(world, users);
    let owner = *node.accounts().await?.first().ok_or_else(|| unexpected("eth_accounts", "no accounts"))?;
    people.first_visit(&node, owner).await?;
    step.end(&format!("{users} users"));

    let step = Step::begin(&bars, "signing ERC-2771 requests (EIP-712)");
    let signing = Instant::now();
    let signed: Vec<SignedRequest> = (0..requests).map(|i| people.sign(i % users, i)).collect();
    step.end(&format!("{requests} in {}", duration(signing.elapsed())));

    let from_block = node.block_number().await? + 1;
    let journey = relay(args, &bars, &client, &signed).await?;
    let last_block = journey.last_block.max(from_block);

    let step = Step::begin(&bars, "counting on the chain");
    let relayed = Relayed::scan(&node, world, &senders, from_block, last_block).await?;
    let truth = Truth::look(&node, world, &signed, from_block, last_block).await?;
    step.end(&format!("{} of {requests} executed exactly once", truth.once));

    let step = Step::begin(&bars, "sending some one by one, for comparison");
    let single_gas = people.one_by_one(&node, owner, ONE_BY_ONE.min(users)).await?;
    step.end(&format!("{} gas each", grouped(single_gas)));
    drop(bars);

    let is_good = journey.refused.is_empty()
        && journey.unhappy.is_empty()
        && truth.is_exactly_once(requests)
        && relayed.out_of_order().is_empty()
        && relayed.nonce_gaps().is_empty();
    println!("\n{}", table(users, requests, &journey, &relayed, &truth, single_gas));
    println!("{}", latency_table(&journey));
    for (code, count) in &journey.refused {
        println!("refused {code}: {count}");
    }
    for (id, status) in journey.unhappy.iter().take(10) {
        println!("{id} ended {status}");
    }
    if is_good && !args.keep {
        println!("Everything ran on this machine and is stopped again.");
        println!(
            "  cargo xtask demo --keep    leaves it running, at http://127.0.0.1:{USUAL_PORT}/ if that port is free"
        );
        println!("  slackwater dev             a chain and a relayer to try your own requests on");
        if cfg!(debug_assertions) {
            println!("  cargo xtask demo --release shows the speed of an optimised build");
        }
    }
    Ok(is_good)
}

/// The default address if its port is free, else one with any free port.
fn address() -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], USUAL_PORT));
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) }
}

/// Query string with the settings of the example page.
fn page_query(relayer: &Relayer, anvil: &Anvil, world: &World, identity: &str) -> String {
    let address = |url: &str| url.replace(':', "%3A").replace('/', "%2F");
    let (relayer, rpc, chain) = (address(relayer.url()), address(anvil.url()), world.chain_id);
    let (forwarder, book) = (world.forwarder, world.guestbook);
    format!(
        "relayer={relayer}&rpc={rpc}&chain={chain}&forwarder={forwarder}&guestbook={book}&identity={identity}&depth=2&blockTimeMs=1000"
    )
}

/// A line that turns while something happens.
struct Step(ProgressBar);

impl Step {
    fn begin(bars: &MultiProgress, text: &'static str) -> Self {
        let bar = bars.add(ProgressBar::new_spinner());
        bar.set_style(style("  {spinner:.cyan} {msg}"));
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(80));
        if bar.is_hidden() {
            println!("  {text}");
        }
        Self(bar)
    }

    fn end(self, result: &str) {
        let text = self.0.message();
        self.0.set_style(style("  {msg}"));
        self.0.finish_with_message(format!("\u{2714} {text}: {result}"));
        if self.0.is_hidden() {
            println!("    {result}");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template")
}

fn unexpected(what: &str, detail: &str) -> BenchError {
    BenchError::Unexpected { what: what.to_owned(), detail: detail.to_owned() }
}

/// Users of the guest book.
struct People {
    crowd: Crowd,
    world: World,
}

impl People {
    fn new(world: &World, users: usize) -> Self {
        Self { crowd: Crowd::named(world, "guest", users), world: world.clone() }
    }

    /// The `number`-th message, by `user`.
    fn sign(&mut self, user: usize, number: usize) -> SignedRequest {
        let text = format!("{:05} {}", number, MESSAGES[number % MESSAGES.len()]);
        self.crowd.message_within(user, &text, "60s")
    }

    /// Gives every user a first entry: the extra gas of a first entry is not the relayer's doing.
    async fn first_visit(&mut self, node: &Node, sender: Address) -> Result<()> {
        let users = self.crowd.users.len();
        let first: Vec<_> = (0..users).map(|user| self.sign(user, 99_000 + user)).collect();
        for part in first.chunks(100) {
            let requests = part.iter().map(SignedRequest::data).collect();
            let data = executeBatchCall { requests, refundReceiver: sender }.abi_encode();
            let hash = self.send(node, sender, data.into(), 200_000 * (part.len() as u64 + 1)).await?;
            if self.outcome(node, hash).await?.1 != part.len() {
                return Err(unexpected("first visit", "the forwarder skipped requests"));
            }
        }
        Ok(())
    }

    /// Average gas of returning users' requests, each in a transaction of its own.
    async fn one_by_one(&mut self, node: &Node, sender: Address, count: usize) -> Result<u64> {
        let mut hashes = Vec::new();
        for user in 0..count {
            let request = self.sign(user, user).data();
            hashes.push(self.send(node, sender, executeCall { request }.abi_encode().into(), 300_000).await?);
        }
        let mut gas = 0;
        for hash in hashes {
            let (used, executed) = self.outcome(node, hash).await?;
            if executed != 1 {
                return Err(unexpected("one by one", "the forwarder did not execute the request"));
            }
            gas += used;
        }
        Ok(gas.checked_div(count as u64).unwrap_or(0))
    }

    async fn send(&self, node: &Node, from: Address, data: Bytes, gas: u64) -> Result<B256> {
        let to = Some(self.world.forwarder);
        node.send(from, &TestTransaction { to, data, gas, ..TestTransaction::default() }).await
    }

    /// Gas used, and number of requests executed.
    async fn outcome(&self, node: &Node, hash: B256) -> Result<(u64, usize)> {
        let receipt = node.wait_receipt(hash, Duration::from_secs(30)).await?;
        let executed = receipt.logs.iter().filter(|log| log.address == self.world.guestbook).count();
        Ok((receipt.gas_used.to(), executed))
    }
}

/// Outcome of the requests, as the relayer reports it.
#[derive(Debug, Default)]
struct Journey {
    accepted: usize,
    refused: BTreeMap<String, u64>,
    accept: Latencies,
    included: Latencies,
    finalized: Latencies,
    unhappy: BTreeMap<B256, String>,
    last_block: u64,
    submitting: Duration,
}

/// Submits everything and follows it to its end.
async fn relay(args: &Args, bars: &MultiProgress, client: &RelayerClient, signed: &[SignedRequest]) -> Result<Journey> {
    let bar = |text: &'static str| {
        let bar = bars.add(ProgressBar::new(signed.len() as u64));
        bar.set_style(style("  {msg:10} {bar:40.cyan/blue} {pos}/{len}").progress_chars("\u{2588}\u{258c}\u{2591}"));
        bar.set_message(text);
        bar
    };
    let (accepted_bar, included_bar, final_bar) = (bar("accepted"), bar("included"), bar("final"));
    if accepted_bar.is_hidden() {
        println!("  relaying");
    }
    let mut stream = client.events(0).await?;
    let mut journey = Journey::default();
    let submitting = Instant::now();
    let mut accepted_at = BTreeMap::new();
    let mut calls = JoinSet::new();
    let mut waiting = signed.iter();
    loop {
        while calls.len() < usize::try_from(args.connections).unwrap_or(1)
            && let Some(request) = waiting.next()
        {
            let (client, body) = (client.clone(), request.body.clone());
            calls.spawn(async move {
                let started = Instant::now();
                (client.submit(&body).await, started.elapsed())
            });
        }
        let Some(done) = calls.join_next().await else { break };
        let (answer, took) = done.map_err(|error| unexpected("submission", &error.to_string()))?;
        journey.accept.record(took);
        match answer?.accepted() {
            Ok(accepted) => {
                journey.accepted += 1;
                accepted_at.insert(accepted.id.0, accepted.accepted_at_ms);
                accepted_bar.inc(1);
            }
            Err(BenchError::Problem { code, .. }) => *journey.refused.entry(code).or_default() += 1,
            Err(error) => return Err(error),
        }
    }
    journey.submitting = submitting.elapsed();
    accepted_bar.finish();

    let mut open: BTreeSet<B256> = accepted_at.keys().copied().collect();
    let mut included = BTreeSet::new();
    while !open.is_empty() {
        let Some(event) = stream.next().await? else {
            return Err(unexpected("GET /v1/events", "the stream ended before the requests did"));
        };
        let Event { status, at_ms, block_number, .. } = event;
        let request_id = event.request_id.0;
        let Some(accepted_at) = accepted_at.get(&request_id) else { continue };
        let since = at_ms.since(*accepted_at);
        if matches!(status.as_str(), "included" | "finalized") && included.insert(request_id) {
            journey.included.record(since);
            included_bar.inc(1);
        }
        journey.last_block = journey.last_block.max(block_number.unwrap_or(0));
        if status.is_terminal() && open.remove(&request_id) {
            final_bar.inc(1);
            if status == "finalized" {
                journey.finalized.record(since);
            } else {
                journey
                    .unhappy
                    .insert(request_id, event.reason.map_or(status.to_string(), |reason| reason.to_string()));
            }
        }
    }
    included_bar.finish();
    final_bar.finish();
    Ok(journey)
}

/// Outcome of the requests, as counted on the chain.
#[derive(Debug, Default)]
struct Truth {
    once: usize,
    strangers: usize,
    is_nonces_right: bool,
}

impl Truth {
    /// Counts the guest book's entries by user and message, and compares the forwarder's nonces.
    async fn look(node: &Node, world: &World, signed: &[SignedRequest], from: u64, to: u64) -> Result<Self> {
        let counted = executions_by_event(node, world, signed, from, to).await?;
        let all = entries(node, world, from, to).await?.len();
        let mut expected: BTreeMap<Address, u64> = BTreeMap::new();
        for request in signed {
            let next = request.forward.nonce.to::<u64>() + 1;
            let nonce = expected.entry(request.forward.from).or_default();
            *nonce = next.max(*nonce);
        }
        let users: Vec<Address> = expected.keys().copied().collect();
        let is_nonces_right = nonces(node, world, &users).await? == expected.into_values().collect::<Vec<_>>();
        // An entry that no request of its user explains was written in another user's name.
        Ok(Self { once: counted.once, strangers: all.saturating_sub(counted.once), is_nonces_right })
    }

    const fn is_exactly_once(&self, requests: usize) -> bool {
        self.once == requests && self.strangers == 0 && self.is_nonces_right
    }
}

fn table(users: usize, requests: usize, journey: &Journey, relayed: &Relayed, truth: &Truth, single_gas: u64) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    let good = |text: String, is_good: bool| {
        Cell::new(text).add_attribute(Attribute::Bold).fg(if is_good { Color::Green } else { Color::Red })
    };
    let accepted = format!("{} of {} from {users} users", grouped(journey.accepted as u64), grouped(requests as u64));
    table.add_row(vec![Cell::new("accepted"), good(accepted, journey.accepted == requests)]);
    let once = format!("{} of {}", grouped(truth.once as u64), grouped(requests as u64));
    table.add_row(vec![Cell::new("executed exactly once, on chain"), good(once, truth.is_exactly_once(requests))]);
    let ordered = relayed.out_of_order().is_empty();
    let seen = if truth.strangers == 0 && ordered { "yes" } else { "NO" };
    table.add_row(vec![
        Cell::new("target saw the users, nonces in order"),
        good(seen.to_owned(), truth.strangers == 0 && ordered),
    ]);
    let ratio = relayed.requests_per_batch_x100();
    let batches = format!("{}, {}.{:02} requests each", relayed.batches().count(), ratio / 100, ratio % 100);
    table.add_row(vec![Cell::new("transactions"), Cell::new(batches)]);
    let gas = relayed.gas_per_request();
    table.add_row(vec![Cell::new("gas per request, batched"), Cell::new(grouped(gas)).add_attribute(Attribute::Bold)]);
    table.add_row(vec![Cell::new("gas per request, one by one"), Cell::new(grouped(single_gas))]);
    let saved = format!("{} % (costs {} %)", 100 - percent(gas, single_gas).min(100), percent(gas, single_gas));
    table.add_row(vec![Cell::new("saved"), good(saved, gas < single_gas)]);
    table.add_row(vec![Cell::new("cost of all requests"), Cell::new(ether(relayed.cost_wei()))]);
    let rate = journey.accepted as f64 / journey.submitting.as_secs_f64().max(1e-9);
    table.add_row(vec![Cell::new("accepted in"), Cell::new(format!("{} ({rate:.0}/s)", duration(journey.submitting)))]);
    align_right(&mut table, 1..2);
    table
}

fn latency_table(journey: &Journey) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
    table.set_header(["time from submission to", "p50", "p90", "p99", "longest"]);
    let rows = [
        ("durable acceptance (answer)", &journey.accept),
        ("inclusion in a block", &journey.included),
        ("finality (2 blocks on top)", &journey.finalized),
    ];
    for (name, latencies) in rows {
        if latencies.is_empty() {
            continue;
        }
        let at = |percent| duration(latencies.percentile(percent));
        table.add_row([name.to_owned(), at(50.0), at(90.0), at(99.0), duration(latencies.max())]);
    }
    align_right(&mut table, 1..5);
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
