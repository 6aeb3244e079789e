//! Subscriptions against a WebSocket server on this machine.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, U64};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinSet,
};
use tokio_tungstenite::{accept_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

use super::{HeadFeed, RpcEndpoint, RpcPool, SubscriptionError};
use crate::chain::RpcErrorClass;

/// Time limit for expected events. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server's action on all its connections.
#[derive(Debug, Clone)]
enum Does {
    Head(u64, B256),
    Text(String),
    Ping,
    Cut,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    pongs: AtomicU64,
    methods: Mutex<Vec<String>>,
}

/// A node's WebSocket. Ends when dropped.
struct Server {
    url: String,
    seen: Arc<Seen>,
    does: broadcast::Sender<Does>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn of_chain(chain_id: u64) -> Self {
        Self::answering(json!({ "result": U64::from(chain_id) }), json!({ "result": "0xa1" })).await
    }

    /// Starts a server with these answers to `eth_chainId` and `eth_subscribe`.
    async fn answering(chain_id: Value, subscribe: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://user:s3cr3t@{}/v3/s3cr3t", listener.local_addr().unwrap());
        let (seen, does) = (Arc::<Seen>::default(), broadcast::channel(64).0);
        let mut tasks = JoinSet::new();
        let (all_seen, all_do) = (seen.clone(), does.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, does) = (all_seen.clone(), all_do.clone());
                connections.spawn(serve(stream, seen, does, chain_id.clone(), subscribe.clone()));
            }
        });
        Self { url, seen, does, _tasks: tasks }
    }

    fn make(&self, does: Does) {
        self.does.send(does).expect("somebody is connected");
    }

    fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>, does: broadcast::Sender<Does>, chain_id: Value, subscribe: Value) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    seen.connections.fetch_add(1, Ordering::Relaxed);
    let mut does = does.subscribe();
    loop {
        let message = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let call: Value = serde_json::from_str(&text).unwrap();
                    let method = call["method"].as_str().unwrap().to_owned();
                    let mut answer = if method == "eth_chainId" { chain_id.clone() } else { subscribe.clone() };
                    answer["id"] = call["id"].clone();
                    seen.methods.lock().unwrap().push(method);
                    Message::text(answer.to_string())
                }
                Some(Ok(Message::Pong(_))) => {
                    seen.pongs.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Some(Ok(_)) => continue,
                _ => return,
            },
            does = does.recv() => match does.unwrap() {
                Does::Head(number, hash) => Message::text(notice("0xa1", number, hash)),
                Does::Text(text) => Message::text(text),
                Does::Ping => Message::Ping(vec![1, 2, 3].into()),
                Does::Cut => return,
            },
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

fn notice(subscription: &str, number: u64, hash: B256) -> String {
    let head = json!({ "number": U64::from(number), "hash": hash, "parentHash": B256::ZERO, "logsBloom": "0x00" });
    let params = json!({ "subscription": subscription, "result": head });
    json!({ "jsonrpc": "2.0", "method": "eth_subscription", "params": params }).to_string()
}

/// A pool whose subscriptions run. Ends when dropped.
struct Running {
    pool: RpcPool,
    _tasks: JoinSet<()>,
}

fn run(servers: &[&Server], longest_silence: Duration) -> Running {
    let named = servers.iter().enumerate();
    // No server listens at the HTTP side: nothing is read there.
    let endpoints = named.map(|(place, server)| {
        RpcEndpoint::new(format!("node-{place}"), "http://127.0.0.1:9").heads(server.url.as_str())
    });
    let pool = RpcPool::new(endpoints.collect(), PATIENCE);
    let mut tasks = JoinSet::new();
    for subscription in pool.subscriptions(1, longest_silence) {
        tasks.spawn(subscription.run(CancellationToken::new()));
    }
    Running { pool, _tasks: tasks }
}

impl Running {
    fn is_up(&self, place: usize) -> bool {
        self.pool.status()[place].is_subscribed == Some(true)
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut(&HeadFeed) -> bool) {
        let waiting = async {
            while !is_so(&self.pool.feed().borrow()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain: {what}");
    }
}

const fn hash(byte: u8) -> B256 {
    B256::repeat_byte(byte)
}

#[tokio::test]
async fn heads_are_told_and_pings_answered() {
    let server = Server::of_chain(1).await;
    let running = run(&[&server], PATIENCE);
    running.until("a subscription", |_| running.is_up(0)).await;
    assert!(running.pool.feed().borrow().heard().is_none(), "up, but nothing was told yet");
    server.make(Does::Ping);
    running.until("a pong", |_| server.seen.pongs.load(Ordering::Relaxed) == 1).await;
    // A head of another subscription, and other messages that are not heads.
    server.make(Does::Text(notice("0xb2", 99, hash(9))));
    server.make(Does::Text(json!({ "jsonrpc": "2.0", "id": 77, "result": [1, 2] }).to_string()));
    server.make(Does::Head(7, hash(7)));
    running.until("a head", |feed| feed.told() == Some((7, hash(7)))).await;
    server.make(Does::Head(8, hash(8)));
    running.until("the next head", |feed| feed.told() == Some((8, hash(8))) && feed.highest() == Some(8)).await;
    // A repeated head is neither new nor a sign of life.
    let heard = running.pool.feed().borrow().heard();
    server.make(Does::Head(8, hash(8)));
    server.make(Does::Ping);
    running.until("another pong", |_| server.seen.pongs.load(Ordering::Relaxed) == 2).await;
    assert_eq!(running.pool.feed().borrow().heard(), heard);
    assert_eq!(server.connections(), 1);
    assert_eq!(*server.seen.methods.lock().unwrap(), ["eth_chainId", "eth_subscribe"]);
}

#[tokio::test]
async fn a_subscription_that_breaks_is_made_anew() {
    let (first, second) = (Server::of_chain(1).await, Server::of_chain(1).await);
    let running = run(&[&first, &second], PATIENCE);
    running.until("both subscriptions", |_| running.is_up(0) && running.is_up(1)).await;
    first.make(Does::Head(7, hash(7)));
    running.until("a head", |feed| feed.highest() == Some(7)).await;
    second.make(Does::Head(6, hash(6)));
    running.until("another head", |feed| feed.told() == Some((6, hash(6)))).await;
    first.make(Does::Cut);
    running.until("the loss", |feed| feed.highest() == Some(6)).await;
    assert!(running.is_up(1));
    running.until("the first subscription again", |_| first.connections() == 2 && running.is_up(0)).await;
    first.make(Does::Head(8, hash(8)));
    running.until("a head again", |feed| feed.highest() == Some(8)).await;
    assert_eq!(second.connections(), 1);
}

#[tokio::test]
async fn another_chain_is_refused() {
    let server = Server::of_chain(2).await;
    let endpoint = RpcEndpoint::new("node", "http://127.0.0.1:9").heads(server.url.as_str());
    let refused = endpoint.try_heads(1, PATIENCE).await;
    assert_eq!(refused, Some(Err(SubscriptionError::WrongChain { served: 2, expected: 1 })));
    assert_eq!(endpoint.try_heads(2, PATIENCE).await, Some(Ok(())));
    server.seen.methods.lock().unwrap().clear();
    let running = run(&[&server], PATIENCE);
    running.until("another try", |_| server.connections() >= 4).await;
    assert!(!running.is_up(0));
    assert!(server.seen.methods.lock().unwrap().iter().all(|method| method == "eth_chainId"), "never subscribed");
}

#[tokio::test]
async fn nonsense_and_endless_messages_end_the_connection() {
    let long = format!("\"{}\"", "x".repeat(300_000));
    for nonsense in [long, "<html>".to_owned(), notice("0xa1", 7, hash(7)).replace("0x7", "seven")] {
        let server = Server::of_chain(1).await;
        let running = run(&[&server], PATIENCE);
        running.until("a subscription", |_| running.is_up(0)).await;
        server.make(Does::Text(nonsense));
        running.until("a new connection", |_| server.connections() == 2 && running.is_up(0)).await;
        server.make(Does::Head(9, hash(9)));
        running.until("a head", |feed| feed.told() == Some((9, hash(9)))).await;
    }
}

#[tokio::test]
async fn a_subscription_that_falls_silent_is_made_anew() {
    let server = Server::of_chain(1).await;
    let running = run(&[&server], Duration::from_millis(300));
    running.until("a subscription", |_| running.is_up(0)).await;
    server.make(Does::Head(7, hash(7)));
    running.until("a head", |feed| feed.heard().is_some()).await;
    running.until("its end", |feed| feed.heard().is_none()).await;
    running.until("a new connection", |_| server.connections() >= 2).await;
}

#[tokio::test]
async fn why_there_is_no_subscription() {
    let tried = async |url: &str, timeout: Duration| {
        let endpoint = RpcEndpoint::new("node", "http://127.0.0.1:9").heads(url);
        let error = endpoint.try_heads(1, timeout).await.expect("it has a WebSocket").expect_err("no subscription");
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        error
    };
    let refusal = json!({ "error": { "code": -32_601, "message": "the method eth_subscribe does not exist" } });
    let server = Server::answering(json!({ "result": "0x1" }), refusal).await;
    let expected = SubscriptionError::Call { method: "eth_subscribe", class: RpcErrorClass::EndpointUnusable };
    assert_eq!(tried(&server.url, PATIENCE).await, expected);
    let server = Server::answering(json!({ "result": "one" }), json!({ "result": "0xa1" })).await;
    assert_eq!(tried(&server.url, PATIENCE).await, SubscriptionError::Nonsense);
    // A server with HTTP only.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        let _ = stream.read(&mut request).await;
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut request).await;
        // It switches protocols, but with a wrong handshake.
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut request).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-accept: AAAA\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _ = stream.read(&mut request).await;
        // And one that never answers.
        let (_stream, _) = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    let url = format!("ws://{address}/s3cr3t");
    assert_eq!(tried(&url, PATIENCE).await, SubscriptionError::Refused(404));
    assert_eq!(tried(&url, PATIENCE).await, SubscriptionError::Nonsense);
    assert_eq!(tried(&url, Duration::from_millis(200)).await, SubscriptionError::TimedOut(200));
    drop(tasks);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(tried(&format!("ws://{free}/s3cr3t"), PATIENCE).await, SubscriptionError::NotConnected);
    assert_eq!(tried("http://127.0.0.1/s3cr3t", PATIENCE).await, SubscriptionError::NotAWebSocket);
    assert_eq!(RpcEndpoint::new("node", "http://127.0.0.1:9").try_heads(1, PATIENCE).await, None);
}

#[test]
fn waits_double_up_to_a_bound() {
    let waits: Vec<_> =
        (1..=8).map(|failures| crate::relay::rpc::subscription::wait_after(failures).as_millis()).collect();
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    assert_eq!(crate::relay::rpc::subscription::wait_after(u32::MAX), crate::relay::rpc::subscription::wait_after(100));
}
