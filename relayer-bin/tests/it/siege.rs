//! Peers that exhaust resources: connections, memory, time. The relayer's own process is measured.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use slackwater_relayer::http::auth::KeyHash;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::node;

pub(crate) const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
const MIB: u64 = 1 << 20;

/// The program as its own process.
pub(crate) struct Fort {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Fort {
    /// Its configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("slackwater.toml")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Base URL of its API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts it with these lines in `[server]`; its node accepts everything and mines nothing.
    pub(crate) async fn raise(server: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = format!(
            "[server]\nlisten = \"{address}\"\n{server}\n[ledger]\npath = {:?}\n\
             [[chain]]\npreset = \"anvil\"\nrpc = [{{ url = \"{}\" }}]\nsigners = [{{ key = \"env:KEY\", tenants = [\"shop\"] }}]\n\
             linger_ms = 3600000\nwaiting_cost_percent = 0\ntiming = \"percentile\"\n\
             [[tenant]]\nid = \"shop\"\napi_keys = [\"{}\"]\nkinds = [\"forward\", \"call\"]\n\
             targets = {{ \"31337\" = {{ \"0x0101010101010101010101010101010101010101\" = [] }} }}\n",
            dir.path().join("test.db"),
            node::start().await,
            KeyHash::of(SHOP),
        );
        let path = dir.path().join("slackwater.toml");
        fs::write(&path, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_slackwater"))
            .args([Path::new("serve"), Path::new("--config"), &path])
            .env("KEY", "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let fort = Self { child, address, dir };
        let started = Instant::now();
        while !fort.is_alive(Duration::from_secs(1)).await {
            let log = fs::read_to_string(fort.dir.path().join("log")).unwrap_or_default();
            assert!(started.elapsed() < Duration::from_secs(60), "{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fort
    }

    /// Resident memory, bytes.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1_024
    }

    /// A connection from `last` of 127.0.0.0/24.
    async fn connect(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// True if `/healthz` is answered in time, over a new connection.
    async fn is_alive(&self, within: Duration) -> bool {
        let probe = async {
            let mut stream = TcpStream::connect(self.address).await.ok()?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            answer.starts_with(b"HTTP/1.1 200").then_some(())
        };
        matches!(tokio::time::timeout(within, probe).await, Ok(Some(())))
    }

    /// One request submitted over a new connection.
    pub(crate) async fn submit(&self) -> StatusCode {
        let client = reqwest::Client::new();
        let body = json!({ "chainId": 31_337, "kind": "call", "call": { "to": "0x0101010101010101010101010101010101010101", "gas": "50000" }, "within": "1h" });
        let request = client.post(format!("http://{}/v1/requests", self.address)).bearer_auth(SHOP);
        let request = request.header("content-type", "application/json").body(body.to_string());
        request.timeout(Duration::from_secs(60)).send().await.unwrap().status()
    }
}

impl Drop for Fort {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Raises the limit of open files as far as the system allows.
fn open_many_files() {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).unwrap();
}

/// Sends without reading, until the connection is closed or nothing more fits.
async fn pour(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(bytes)).await;
}

/// Resolves when the other side has closed; reads nothing that was sent before.
async fn closed(stream: &TcpStream) {
    loop {
        // An error is pending, or our bytes are refused.
        match stream.take_error() {
            Ok(None) => {}
            _ => return,
        }
        if matches!(stream.try_write(b"x"), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_calls_whose_answers_nobody_reads_take_no_memory_and_are_cut() {
    let fort = Fort::raise("write_timeout_ms = 3000").await;
    for path in ["/openapi.json", "/metrics", "/v1/chains"] {
        let before = fort.resident();
        let calls = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").repeat(50_000);
        let mut stream = fort.connect(1).await;
        let started = Instant::now();
        pour(&mut stream, calls.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let grown = fort.resident().saturating_sub(before);
        assert!(grown < 64 * MIB, "{path}: {} MiB", grown / MIB);
        assert!(fort.is_alive(Duration::from_secs(1)).await);
        tokio::time::timeout(Duration::from_secs(15), closed(&stream)).await.expect("who reads nothing is cut");
        println!("{path}: {} KiB more, cut after {:?}", grown / 1_024, started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_leave_memory_probes_and_honest_callers_alone() {
    open_many_files();
    let fort = Fort::raise("write_timeout_ms = 4000\nheader_timeout_ms = 4000").await;
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    let before = fort.resident();
    let mut held = Vec::new();
    let started = Instant::now();
    // The most that are admitted, each with more answers than fit into the system's buffers; and 100 more.
    let calls = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200);
    for index in 0..1_124_u32 {
        let stream = fort.connect(u8::try_from(2 + index / 256).unwrap()).await;
        let _ = stream.writable().await;
        let _ = stream.try_write(calls.as_bytes());
        held.push(stream);
    }
    // Headers without end.
    for index in 0..1_000_u32 {
        let stream = fort.connect(u8::try_from(20 + index / 250).unwrap()).await;
        let _ = stream.writable().await;
        let _ = stream.try_write(format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(15_000)).as_bytes());
        held.push(stream);
    }
    let mut most = 0;
    for _ in 0..4 {
        most = most.max(fort.resident().saturating_sub(before));
        assert!(fort.is_alive(Duration::from_secs(1)).await, "probes are answered while others wait");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = Instant::now();
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    println!(
        "{} KiB more; {} connections within {:?}; an honest caller waited {:?}",
        most / 1_024,
        held.len(),
        started.elapsed(),
        asked.elapsed()
    );
    assert!(asked.elapsed() < Duration::from_millis(4_000 + 1_000), "{:?}", asked.elapsed());
    most = most.max(fort.resident().saturating_sub(before));
    assert!(most < 128 * MIB, "{} MiB", most / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_bodies_take_bounded_memory_and_small_ones_get_through() {
    let fort = Fort::raise("max_body_memory_bytes = 33554432\nmax_connections_per_ip = 1000").await;
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    let before = fort.resident();
    let mut held = Vec::new();
    let head = format!(
        "POST /v1/requests/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SHOP}\r\ncontent-type: application/json\r\ncontent-length: 4194304\r\n\r\n"
    );
    let most_of_it = vec![b' '; 4_194_303];
    for _ in 0..30 {
        let mut stream = fort.connect(1).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        pour(&mut stream, &most_of_it).await;
        held.push(stream);
    }
    let grown = fort.resident().saturating_sub(before);
    println!("{} KiB more", grown / 1_024);
    assert!(grown < 80 * MIB, "{} MiB", grown / MIB);
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    // Callers without room are told so, as soon as the rest of their bodies has had its time.
    let mut told = 0;
    let answers = held.iter_mut().map(async |stream| {
        let mut answer = vec![0; 4_096];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
        (read, answer)
    });
    for (read, answer) in futures_util::future::join_all(answers).await {
        if let Ok(Ok(length)) = read
            && answer.starts_with(b"HTTP/1.1 503")
        {
            let text = String::from_utf8_lossy(&answer[..length]).to_lowercase();
            assert!(text.contains("retry-after: ") && text.contains("\"code\":\"overloaded\""), "{text}");
            assert!(text.contains("server.max_body_memory_bytes"), "{text}");
            told += 1;
        }
    }
    assert!(told > 10, "{told}");
    // Held memory is released.
    drop(held);
    let batch = json!({ "requests": vec![json!(null); 900], "filler": " ".repeat(200_000) });
    let client = reqwest::Client::new();
    let answered = async || {
        let request = client.post(format!("http://{}/v1/requests/batch", fort.address)).bearer_auth(SHOP);
        request.header("content-type", "application/json").body(batch.to_string()).send().await.unwrap().status()
    };
    let started = Instant::now();
    while answered().await == StatusCode::SERVICE_UNAVAILABLE {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_beyond_the_limit_are_refused() {
    let fort = Fort::raise("").await;
    let ask = async |bytes: usize| {
        let mut stream = fort.connect(1).await;
        let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: ";
        let head = format!("{head}{}\r\n\r\n", "y".repeat(bytes - head.len() - 4));
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned()
    };
    assert_eq!(ask(16_000).await, "HTTP/1.1 200");
    assert_eq!(ask(16_500).await, "HTTP/1.1 431");
    let mut stream = fort.connect(1).await;
    let many: String = (0..200).map(|index| format!("x{index}: y\r\n")).collect();
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_when_all_places_are_taken_waits_and_probes_do_not() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let limits =
        "max_connections = 4\nmax_connections_per_ip = 3\nmax_waiting_connections = 16\nheader_timeout_ms = 3000";
    let fort = Fort::raise(&format!("{limits}\nprobe_listen = \"{port}\"")).await;
    let silent = [fort.connect(2).await, fort.connect(2).await, fort.connect(3).await, fort.connect(3).await];
    tokio::time::sleep(Duration::from_millis(100)).await;
    // One address may have three; the fourth is refused at once, with the reason.
    let third = fort.connect(2).await;
    let mut fourth = fort.connect(2).await;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(2), fourth.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("server.max_connections_per_ip"), "{answer}");
    let problem: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(problem["code"], "overloaded");
    // Many silent connections don't hold up a probe, however slowly it is written.
    let mut crowd = Vec::new();
    for index in 0..60 {
        crowd.push(fort.connect(10 + index / 3).await);
    }
    for _ in 0..5 {
        assert!(fort.is_alive(Duration::from_secs(1)).await);
    }
    let mut slow = fort.connect(1).await;
    for piece in [&b"GET /r"[..], b"eadyz HTTP/1.1\r\nho", b"st: localhost\r\n\r\n"] {
        slow.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut start = [0; 9];
    tokio::time::timeout(Duration::from_secs(1), slow.read_exact(&mut start)).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 ");
    // The second listener answers probes and nothing else.
    let client = reqwest::Client::new();
    let status = async |path: &str| client.get(format!("http://{port}{path}")).send().await.unwrap().status().as_u16();
    assert_eq!((status("/healthz").await, status("/readyz").await), (200, 200));
    assert_eq!((status("/v1/chains").await, status("/metrics").await, status("/").await), (404, 404, 404));
    // A caller that sends data is served once the silent ones have timed out.
    let asked = Instant::now();
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    drop((silent, third, crowd));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_is_cut_and_holds_little() {
    let fort = Fort::raise("write_timeout_ms = 2000").await;
    let client = reqwest::Client::new();
    let call = json!({ "chainId": 31_337, "kind": "call", "call": { "to": "0x0101010101010101010101010101010101010101", "gas": "50000" }, "within": "1h" });
    let batch = json!({ "requests": vec![call; 1_000] }).to_string();
    for _ in 0..10 {
        let request = client.post(format!("http://{}/v1/requests/batch", fort.address)).bearer_auth(SHOP);
        let answer = request.header("content-type", "application/json").body(batch.clone()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::MULTI_STATUS);
        let _ = answer.bytes().await;
    }
    let before = fort.resident();
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = fort.connect(1).await;
        let ask = format!("GET /v1/events?after=0 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SHOP}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        held.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let grown = fort.resident().saturating_sub(before);
    println!("{} KiB more", grown / 1_024);
    assert!(grown < 64 * 256 * 1_024, "{} KiB for 64 streams of 3 MB", grown / 1_024);
    for stream in &held {
        tokio::time::timeout(Duration::from_secs(15), closed(stream)).await.expect("who reads nothing is cut");
    }
}

/// Many callers that submit batches of invalid requests and read nothing hold no more than the limit for answers, and
/// no metrics from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_take_bounded_memory() {
    let fort = Fort::raise("max_body_memory_bytes = 16777216\nwrite_timeout_ms = 60000").await;
    let body = json!({ "requests": vec![json!({ "x".repeat(250): 1 }); 1_000] }).to_string();
    let head = format!(
        "POST /v1/requests/batch HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SHOP}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut held = Vec::new();
    let mut ask = async |last: u8, call: &[u8]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into()).unwrap();
        let mut stream = socket.connect(fort.address).await.unwrap();
        stream.write_all(call).await.unwrap();
        let mut start = [0; 12];
        let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut start)).await.unwrap();
        held.push(stream);
        start
    };
    let before = fort.resident();
    let batch = [head.as_bytes(), body.as_bytes()].concat();
    let mut answered = 0;
    for _ in 0..100 {
        answered += usize::from(&ask(1, &batch).await == b"HTTP/1.1 207");
    }
    let grown = fort.resident().saturating_sub(before);
    println!("{answered} of 100 answered, {} KiB more", grown / 1_024);
    assert!((8..=20).contains(&answered), "{answered}");
    assert!(grown < 64 * MIB, "{} MiB", grown / MIB);
    assert!(fort.is_alive(Duration::from_secs(1)).await);
    assert_eq!(fort.submit().await, StatusCode::ACCEPTED);
    // Metrics have memory of their own, of which one address takes no more than it leaves to others.
    let metrics = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20);
    for _ in 0..150 {
        ask(2, &metrics).await;
    }
    assert_eq!(&ask(3, &metrics[..]).await, b"HTTP/1.1 200");
    println!("{} KiB more with metrics", fort.resident().saturating_sub(before) / 1_024);
}
