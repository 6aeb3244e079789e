//! `slackwater-load`: measures how many requests a relayer accepts and settles, and its response times.
//!
//! A separate process with one thread; it calls this machine only. Everything is signed before the clock starts.

#![allow(clippy::print_stdout, reason = "a command line program")]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, BenchError, Node, Relayer, RelayerClient, Result, World,
    count::{Relayed, executions, executions_by_event},
    http::Http,
    relayer::{BINARY_VAR, cpu_time, default_tenant, peak_resident_bytes, resident_bytes},
    report::{Latencies, duration, ether, grouped, mebibytes},
    wallet::{Crowd, SignedRequest, batch_body},
};
use slackwater_contracts::guestbook::IGuestbook::totalCall;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Load a relayer with pre-signed ERC-2771 requests and measure it.
///
/// Without --url it starts a chain and a relayer of its own, and stops them at the end. Closed loop by default: every
/// connection sends its next call when the last is answered. With --rate, open loop: calls are due at fixed times, and
/// latency counts from a call's due time, so that a stall is not hidden by the calls that it delayed.
#[derive(Debug, Parser)]
#[command(name = "slackwater-load", version)]
struct Args {
    /// A running relayer; needs --rpc, --forwarder and --guestbook.
    #[arg(long, requires_all = ["rpc", "forwarder", "guestbook"])]
    url: Option<String>,
    /// The node behind the relayer.
    #[arg(long, requires = "url")]
    rpc: Option<String>,
    /// The forwarder that the relayer serves.
    #[arg(long, requires = "url")]
    forwarder: Option<Address>,
    /// A guest book that trusts the forwarder.
    #[arg(long, requires = "url")]
    guestbook: Option<Address>,
    /// API key.
    #[arg(long, requires = "url")]
    key: Option<String>,
    /// Process id of the running relayer, to read its memory.
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// Number of requests.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    requests: u64,
    /// Number of users who sign them in turn.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    users: u64,
    /// The call of each request: `mark` writes two storage words, `sign` only counts the user's visits.
    #[arg(long, default_value = "mark", value_parser = ["mark", "sign"])]
    call: String,
    /// Name from which the users' keys are derived; another name gives users who never signed before.
    #[arg(long, default_value = "load")]
    crowd: String,
    /// Connections, each with one call in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    connections: u64,
    /// Requests per call: above 1, the batch endpoint is used.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    batch: u64,
    /// Open loop: requests per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// Continue until every accepted request is on the chain, and count them there.
    #[arg(long)]
    settle: bool,
    /// Give the relayer's accounts no money until everything is accepted, so that everything stays queued.
    #[arg(long, conflicts_with = "url")]
    hold: bool,
    /// Number of the relayer's sender accounts.
    #[arg(long, default_value_t = 1, conflicts_with = "url", value_parser = clap::value_parser!(u64).range(1..=64))]
    senders: u64,
    /// Seconds between blocks.
    #[arg(long, default_value_t = 1, conflicts_with = "url")]
    block_time: u64,
    /// A key of the relayer's chain table as KEY=VALUE; may be repeated.
    #[arg(long = "chain-key", value_name = "KEY=VALUE", conflicts_with = "url")]
    chain_keys: Vec<String>,
    /// A deadline for each request, such as 30s.
    #[arg(long, default_value = "1h")]
    within: String,
    /// Give up after so many seconds of load, and again of settling.
    #[arg(long, default_value_t = 300)]
    max_seconds: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&args)),
        Err(error) => Err(BenchError::Io { what: "runtime".to_owned(), source: error }),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("slackwater-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The relayer under load and its chain; processes that we started end when it is dropped.
struct Place {
    world: World,
    node: Node,
    url: String,
    pid: Option<u32>,
    senders: Vec<Address>,
    _relayer: Option<Relayer>,
    _anvil: Option<Anvil>,
}

impl Place {
    /// CPU time that the relayer has used.
    fn cpu(&self) -> Option<Duration> {
        self.pid.and_then(cpu_time)
    }
}

async fn place(args: &Args) -> Result<Place> {
    if let (Some(url), Some(rpc), Some(forwarder), Some(guestbook)) =
        (&args.url, &args.rpc, args.forwarder, args.guestbook)
    {
        let node = Node::new(rpc)?;
        let world = World::find(&node, forwarder, guestbook).await?;
        let mut client = RelayerClient::new(url)?;
        if let Some(key) = &args.key {
            client = client.with_key(key);
        }
        let senders = client.senders().await?;
        let url = url.clone();
        return Ok(Place { world, node, url, pid: args.pid, senders, _relayer: None, _anvil: None });
    }
    let anvil = Anvil::builder().block_time(args.block_time).spawn().await?;
    let node = anvil.node().clone();
    let world = World::deploy(&node, usize::try_from(args.senders).unwrap_or(1)).await?;
    // One tenant makes all the calls, as fast as it gets answers: raise its rate limit.
    let tenant = format!("{}rate_per_s = 1000000", default_tenant(&world));
    let mut builder = Relayer::builder(&world).rpc(anvil.url()).extra("[log]\nlevel = \"warn\"").extra(&tenant);
    // All connections come from one address; the program's own calls need some too. Limits are set only where the
    // defaults do not suffice, so an older relayer starts as well.
    let connections = args.connections + 64;
    if connections > 256 {
        builder = builder.server_key("max_connections", connections.max(1_024));
        builder = builder.server_key("max_connections_per_ip", connections);
    }
    for pair in &args.chain_keys {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| BenchError::Unexpected { what: pair.clone(), detail: "not KEY=VALUE".into() })?;
        builder = builder.chain_key(key, value);
    }
    if std::env::var_os(BINARY_VAR).is_some_and(|path| !path.is_empty()) {
        builder = builder.may_be_older();
    }
    let relayer = builder.spawn().await?;
    let senders = world.relayer_addresses();
    Ok(Place {
        url: relayer.url().to_owned(),
        pid: relayer.pid(),
        world,
        node,
        senders,
        _relayer: Some(relayer),
        _anvil: Some(anvil),
    })
}

async fn run(args: &Args) -> Result<bool> {
    let place = place(args).await?;
    let requests = sign(args, &place.world)?;
    let calls = encode(args, &place, &requests)?;
    let from_block = place.node.block_number().await?;
    let total_before = total(&place.node, &place.world).await?;
    if args.hold {
        fund(&place, U256::ZERO).await?;
        tokio::time::sleep(Duration::from_secs(2 * args.block_time.max(1))).await;
    }

    let memory = MemorySampler::start(place.pid);
    let cpu_before = place.cpu();
    let started = Instant::now();
    let load = load(args, &place, calls).await?;
    let cpu = place.cpu().map(|now| now.saturating_sub(cpu_before.unwrap_or_default()));
    let mut report = Report { load, cpu, cpu_settled: None, memory: memory.sample(), settled: None };
    if args.hold {
        // Memory with 100 000 queued requests is read a moment later, after buffers are released.
        tokio::time::sleep(Duration::from_secs(1)).await;
        report.memory.queued = place.pid.and_then(resident_bytes);
        fund(&place, U256::from(10_000) * U256::from(10_u64.pow(18))).await?;
    }
    let settle_started = if args.hold { Instant::now() } else { started };
    if args.settle {
        report.settled = Some(
            settle(args, &place, &requests, &report.load, Since { started: settle_started, from_block, total_before })
                .await?,
        );
        report.cpu_settled = place.cpu().map(|now| now.saturating_sub(cpu_before.unwrap_or_default()));
    }
    report.memory = MemoryUse { queued: report.memory.queued, ..memory.sample() };
    if args.json {
        println!("{}", report.json(args));
    } else {
        println!("{}", report.table(args));
    }
    Ok(report.is_good())
}

fn sign(args: &Args, world: &World) -> Result<Vec<SignedRequest>> {
    let users = usize::try_from(args.users.min(args.requests)).unwrap_or(usize::MAX);
    let mut crowd = Crowd::named(world, &args.crowd, users);
    let count = usize::try_from(args.requests).unwrap_or(usize::MAX);
    let sign = |i: usize| match args.call.as_str() {
        "sign" => crowd.message_within(i % users, &format!("{} {i}", args.crowd), &args.within),
        _ => crowd.mark_within(i % users, &args.within),
    };
    Ok((0..count).map(sign).collect())
}

/// Calls as raw bytes: head and body in one piece.
fn encode(args: &Args, place: &Place, requests: &[SignedRequest]) -> Result<Vec<(Bytes, u64)>> {
    let host = Http::new(&place.url)?.address();
    let authorization = args.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
    let call = |path: &str, body: &[u8]| {
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{authorization}content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Bytes::from(bytes)
    };
    if args.batch == 1 {
        return Ok(requests.iter().map(|request| (call("/v1/requests", &request.body), 1)).collect());
    }
    let size = usize::try_from(args.batch).unwrap_or(1);
    let chunks = requests.chunks(size);
    Ok(chunks
        .map(|chunk| {
            let body = batch_body(chunk.iter().map(|request| &request.body));
            (call("/v1/requests/batch", &body), chunk.len() as u64)
        })
        .collect())
}

async fn fund(place: &Place, wei: U256) -> Result<()> {
    for &sender in &place.senders {
        place.node.set_balance(sender, wei).await?;
    }
    Ok(())
}

async fn total(node: &Node, world: &World) -> Result<u64> {
    let answer = node.read(world.guestbook, totalCall {}.abi_encode()).await?;
    Ok(u64::try_from(U256::try_from_be_slice(&answer).unwrap_or_default()).unwrap_or(u64::MAX))
}

/// Result of the load phase.
#[derive(Debug, Default)]
struct Load {
    took: Duration,
    accepted: u64,
    refused: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Load {
    fn merge(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.latencies.merge(&other.latencies);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }
}

/// State shared by all connections.
struct Shared {
    calls: Vec<(Bytes, u64)>,
    next: AtomicUsize,
    started: Instant,
    /// Time between two calls in open loop; `None` in closed loop.
    interval: Option<Duration>,
    deadline: Instant,
    is_late: AtomicBool,
}

async fn load(args: &Args, place: &Place, calls: Vec<(Bytes, u64)>) -> Result<Load> {
    let address = Http::new(&place.url)?.address();
    let interval = args.rate.map(|rate| Duration::from_secs(1).mul_f64(args.batch as f64 / rate as f64));
    let mut connections = Vec::new();
    for _ in 0..args.connections.min(calls.len() as u64) {
        connections.push(Connection::open(address).await?);
    }
    let started = Instant::now();
    let deadline = started + Duration::from_secs(args.max_seconds);
    let shared = Arc::new(Shared {
        calls,
        next: AtomicUsize::new(0),
        started,
        interval,
        deadline,
        is_late: AtomicBool::new(false),
    });
    let mut workers = JoinSet::new();
    for connection in connections {
        workers.spawn(worker(Arc::clone(&shared), connection));
    }
    let mut load = Load::default();
    while let Some(done) = workers.join_next().await {
        load.merge(done.map_err(|error| BenchError::Unexpected { what: "worker".into(), detail: error.to_string() })??);
    }
    load.took = started.elapsed();
    if shared.is_late.load(Ordering::Relaxed) {
        return Err(BenchError::Timeout { what: "the load".into(), after: Duration::from_secs(args.max_seconds) });
    }
    Ok(load)
}

async fn worker(shared: Arc<Shared>, mut connection: Connection) -> Result<Load> {
    let mut load = Load::default();
    loop {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some((call, requests)) = shared.calls.get(index) else { return Ok(load) };
        let due = match shared.interval {
            None => Instant::now(),
            Some(interval) => {
                let due = shared.started + interval.mul_f64(index as f64);
                tokio::time::sleep_until(due.into()).await;
                due
            }
        };
        if Instant::now() > shared.deadline {
            shared.is_late.store(true, Ordering::Relaxed);
            return Ok(load);
        }
        let status = connection.exchange(call).await?;
        load.latencies.record(due.elapsed());
        match status {
            202 => load.accepted += requests,
            207 => {
                for code in codes_of_batch(connection.body())? {
                    match code {
                        None => load.accepted += 1,
                        Some(code) => *load.refused.entry(code).or_default() += 1,
                    }
                }
            }
            _ => {
                let code = code_of_problem(connection.body()).unwrap_or_else(|| status.to_string());
                *load.refused.entry(code).or_default() += requests;
            }
        }
    }
}

/// One kept connection, with as little work per call as possible: it shares the cores with what it measures.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body_start: usize,
}

impl Connection {
    async fn open(address: std::net::SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.map_err(io_error)?;
        stream.set_nodelay(true).map_err(io_error)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10), body_start: 0 })
    }

    /// Writes a call and reads the answer; returns its status.
    async fn exchange(&mut self, call: &[u8]) -> Result<u16> {
        self.stream.write_all(call).await.map_err(io_error)?;
        self.buffer.clear();
        let mut length = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await.map_err(io_error)? == 0 {
                let detail = "the relayer closed the connection".to_owned();
                return Err(BenchError::Http { what: "load".to_owned(), detail });
            }
            if length.is_none()
                && let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")
            {
                self.body_start = end + 4;
                length = Some(content_length(&self.buffer[..end])?);
            }
            if length.is_some_and(|length| self.buffer.len() >= self.body_start + length) {
                let status = self.buffer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                return status.ok_or_else(|| unexpected("status line", &self.buffer));
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.buffer[self.body_start..]
    }
}

fn content_length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head).map_err(|_| unexpected("answer's head", head))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    });
    length.ok_or_else(|| unexpected("answer without content-length", head))
}

fn io_error(source: std::io::Error) -> BenchError {
    BenchError::Io { what: "connection to the relayer".to_owned(), source }
}

fn unexpected(what: &str, bytes: &[u8]) -> BenchError {
    BenchError::Unexpected { what: what.to_owned(), detail: String::from_utf8_lossy(bytes).chars().take(300).collect() }
}

fn code_of_problem(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    serde_json::from_slice::<Problem>(body).ok().map(|problem| problem.code)
}

/// For each request of a batch, `None` if it was accepted, else the problem's code.
fn codes_of_batch(body: &[u8]) -> Result<Vec<Option<String>>> {
    #[derive(Deserialize)]
    struct Results {
        results: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        problem: Option<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    let results: Results = serde_json::from_slice(body).map_err(|_| unexpected("batch answer", body))?;
    Ok(results.results.into_iter().map(|item| item.problem.map(|problem| problem.code)).collect())
}

/// Result of the settling phase.
#[derive(Debug)]
struct Settled {
    took: Duration,
    once: u64,
    never: u64,
    repeated: u64,
    transactions: u64,
    requests_per_transaction_x100: u64,
    gas_per_request: u64,
    cost_wei: U256,
    is_ordered: bool,
}

struct Since {
    started: Instant,
    from_block: u64,
    total_before: u64,
}

async fn settle(args: &Args, place: &Place, requests: &[SignedRequest], load: &Load, since: Since) -> Result<Settled> {
    let Since { started, from_block, total_before } = since;
    let deadline = Instant::now() + Duration::from_secs(args.max_seconds);
    let mut executed_at = started.elapsed();
    let mut executed = 0;
    while executed < load.accepted && Instant::now() < deadline {
        let now = total(&place.node, &place.world).await?.saturating_sub(total_before);
        if now > executed {
            executed = now;
            executed_at = started.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let head = place.node.block_number().await?;
    let counted = match args.call.as_str() {
        "sign" => executions_by_event(&place.node, &place.world, requests, from_block + 1, head).await?,
        _ => executions(&place.node, &place.world, requests).await?,
    };
    let relayed = Relayed::scan(&place.node, &place.world, &place.senders, from_block + 1, head).await?;
    Ok(Settled {
        took: executed_at,
        once: counted.once as u64,
        never: counted.never.len() as u64,
        repeated: counted.repeated.len() as u64,
        transactions: relayed.batches().count() as u64,
        requests_per_transaction_x100: relayed.requests_per_batch_x100() as u64,
        gas_per_request: relayed.gas_per_request(),
        cost_wei: relayed.cost_wei(),
        is_ordered: relayed.out_of_order().is_empty() && relayed.nonce_gaps().is_empty(),
    })
}

/// Memory of the relayer, bytes.
#[derive(Debug, Clone, Copy, Default)]
struct MemoryUse {
    queued: Option<u64>,
    highest_sample: u64,
    peak: Option<u64>,
}

struct MemorySampler {
    pid: Option<u32>,
    highest: Arc<AtomicU64>,
    task: tokio::task::AbortHandle,
}

impl MemorySampler {
    fn start(pid: Option<u32>) -> Self {
        let highest = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&highest);
        let task = tokio::spawn(async move {
            while let Some(bytes) = pid.and_then(resident_bytes) {
                seen.fetch_max(bytes, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { pid, highest, task: task.abort_handle() }
    }

    fn sample(&self) -> MemoryUse {
        let highest_sample = self.highest.load(Ordering::Relaxed);
        MemoryUse { queued: None, highest_sample, peak: self.pid.and_then(peak_resident_bytes) }
    }
}

impl Drop for MemorySampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Report {
    load: Load,
    /// CPU time of the relayer during the load, for whatever work.
    cpu: Option<Duration>,
    /// CPU time of the relayer until everything was on the chain.
    cpu_settled: Option<Duration>,
    memory: MemoryUse,
    settled: Option<Settled>,
}

fn per_second(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64().max(1e-9)).round() as u64
}

impl Report {
    /// True if everything was accepted and, if it was followed, executed once and in order.
    fn is_good(&self) -> bool {
        let settled = self.settled.as_ref();
        self.load.refused.is_empty()
            && self.load.accepted > 0
            && settled.is_none_or(|s| s.never == 0 && s.repeated == 0 && s.is_ordered)
    }

    fn cpu_per_request(&self) -> Option<Duration> {
        let accepted = u32::try_from(self.load.accepted).ok().filter(|accepted| *accepted > 0)?;
        self.cpu.map(|cpu| cpu / accepted)
    }

    /// All of the relayer's CPU time, from the first call to the last execution, per settled request.
    fn cpu_per_settled(&self, settled: &Settled) -> Option<Duration> {
        let once = u32::try_from(settled.once).ok().filter(|once| *once > 0)?;
        self.cpu_settled.map(|cpu| cpu / once)
    }

    fn json(&self, args: &Args) -> Value {
        let load = &self.load;
        let settled = self.settled.as_ref().map(|settled| {
            json!({
                "seconds": settled.took.as_secs_f64(),
                "per_second": per_second(settled.once, settled.took),
                "executed_once": settled.once,
                "never_executed": settled.never,
                "repeated": settled.repeated,
                "in_order": settled.is_ordered,
                "transactions": settled.transactions,
                "requests_per_transaction": settled.requests_per_transaction_x100 as f64 / 100.0,
                "gas_per_request": settled.gas_per_request,
                "cost_wei": settled.cost_wei.to_string(),
                "relayer_cpu_us_per_request": self.cpu_per_settled(settled).map(|cpu| cpu.as_micros()),
            })
        });
        json!({
            "requests": args.requests,
            "users": args.users,
            "connections": args.connections,
            "batch": args.batch,
            "rate": args.rate,
            "accepted": load.accepted,
            "refused": load.refused,
            "seconds": load.took.as_secs_f64(),
            "accepted_per_second": per_second(load.accepted, load.took),
            "latency": load.latencies.json(),
            "relayer_cpu_us_per_request": self.cpu_per_request().map(|cpu| cpu.as_micros()),
            "queued_rss_bytes": self.memory.queued,
            "sampled_rss_bytes": self.memory.highest_sample,
            "peak_rss_bytes": self.memory.peak,
            "settled": settled,
        })
    }

    fn table(&self, args: &Args) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED.with_rounded_corners());
        let mut row = |name: &str, value: String| {
            table.add_row(vec![name.to_owned(), value]);
        };
        let load = &self.load;
        let mode = match args.rate {
            Some(rate) => format!("open loop, {}/s, {} connections", grouped(rate), args.connections),
            None => format!("closed loop, {} connections", args.connections),
        };
        row("load", if args.batch > 1 { format!("{mode}, batches of {}", args.batch) } else { mode });
        row("accepted", format!("{} of {}", grouped(load.accepted), grouped(args.requests)));
        for (code, count) in &load.refused {
            row(&format!("refused {code}"), grouped(*count));
        }
        row("accepted per second", grouped(per_second(load.accepted, load.took)));
        let latency = |percent| duration(load.latencies.percentile(percent));
        let call = if args.batch > 1 { "call (batch)" } else { "call" };
        row(&format!("{call} p50 / p90 / p99 / p99.9"), [50.0, 90.0, 99.0, 99.9].map(latency).join(" / "));
        row(&format!("{call} longest"), duration(load.latencies.max()));
        if let Some(cpu) = self.cpu_per_request() {
            row("relayer CPU per request", duration(cpu));
        }
        if let Some(bytes) = self.memory.queued {
            row("relayer memory, all queued", mebibytes(bytes));
        }
        if let Some(bytes) = self.memory.peak {
            row("relayer memory, peak", mebibytes(bytes));
        }
        if let Some(settled) = &self.settled {
            row("executed exactly once", format!("{} of {}", grouped(settled.once), grouped(args.requests)));
            if settled.never + settled.repeated > 0 {
                row("NEVER / REPEATEDLY executed", format!("{} / {}", settled.never, settled.repeated));
            }
            if !settled.is_ordered {
                row("ORDER", "a user's nonces or a sender's are out of order".to_owned());
            }
            row("settled per second", grouped(per_second(settled.once, settled.took)));
            let ratio = settled.requests_per_transaction_x100;
            row(
                "transactions",
                format!("{}, {}.{:02} requests each", grouped(settled.transactions), ratio / 100, ratio % 100),
            );
            if let Some(cpu) = self.cpu_per_settled(settled) {
                row("relayer CPU per settled request", duration(cpu));
            }
            row("gas per request", grouped(settled.gas_per_request));
            row("cost", ether(settled.cost_wei));
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
