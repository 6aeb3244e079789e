//! Connections: limits per address, the queue for a place, and the cut of peers that read nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use super::peer::Network;

/// Longest beginning of a call that is needed to recognise a probe, bytes.
const PROBE_BYTES: usize = 32;
/// Pause before too short a beginning is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters by key `K`, each up to a limit. Keys with a count of 0 have no entry.
#[derive(Debug)]
pub(crate) struct Crowd<K: Eq + Hash>(Mutex<HashMap<K, usize>>);

impl<K: Eq + Hash> Default for Crowd<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    /// Counts one more of `key`; `None` if there are `limit` already.
    pub(crate) fn enter(self: &Arc<Self>, key: K, limit: usize) -> Option<Presence<K>> {
        let mut counts = lock(&self.0);
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= limit {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Presence { crowd: Arc::clone(self), key })
    }
}

/// One entry in a [`Crowd`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Presence<K: Eq + Hash> {
    crowd: Arc<Crowd<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Presence<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.crowd.0);
        let is_last = counts.get_mut(&self.key).is_some_and(|count| {
            *count -= 1;
            *count == 0
        });
        if is_last {
            counts.remove(&self.key);
        }
    }
}

/// A body with a value that is kept until all of the body is sent or abandoned.
///
/// The server takes a body's data long before the peer does, and drops the body then: so every piece of data keeps the
/// value too.
#[derive(Debug)]
pub(crate) struct Escorted<T> {
    body: Body,
    escort: Arc<T>,
}

impl<T> Escorted<T> {
    pub(crate) fn new(body: Body, escort: T) -> Self {
        Self { body, escort: Arc::new(escort) }
    }
}

struct Piece<T> {
    data: Bytes,
    _escort: Arc<T>,
}

impl<T> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<T: Send + Sync + 'static> hyper::body::Body for Escorted<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let kept = |data| Bytes::from_owner(Piece { data, _escort: Arc::clone(&self.escort) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(kept))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Connections that wait for a place. When it is full, the longest-waiting one of the network with most seats is
/// evicted.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    limit: usize,
    seats: Mutex<(u64, VecDeque<Waiting>)>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    network: Network,
    leave: CancellationToken,
}

impl WaitingRoom {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), seats: Mutex::default() })
    }

    /// Takes a seat; evicts another connection if none is free.
    pub(crate) fn enter(self: &Arc<Self>, network: Network) -> Seat {
        let mut seats = lock(&self.seats);
        if seats.1.len() >= self.limit {
            let mut counts = BTreeMap::<Network, usize>::new();
            for waiting in &seats.1 {
                *counts.entry(waiting.network).or_default() += 1;
            }
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(network, _)| network);
            if let Some(at) = seats.1.iter().position(|waiting| Some(waiting.network) == most)
                && let Some(waiting) = seats.1.remove(at)
            {
                waiting.leave.cancel();
            }
        }
        let (number, leave) = (seats.0, CancellationToken::new());
        seats.0 += 1;
        seats.1.push_back(Waiting { number, network, leave: leave.clone() });
        Seat { room: Arc::clone(self), number, leave }
    }
}

/// A seat in a [`WaitingRoom`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    room: Arc<WaitingRoom>,
    number: u64,
    leave: CancellationToken,
}

impl Seat {
    /// Resolves when the seat's connection is evicted.
    pub(crate) async fn taken(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.room.seats).1.retain(|waiting| waiting.number != self.number);
    }
}

/// True if the bytes `start` that a peer has sent so far begin a probe; `None` while undecided.
fn is_probe(start: &[u8]) -> Option<bool> {
    const STARTS: [&[u8]; 4] = [b"GET /healthz", b"GET /readyz", b"HEAD /healthz", b"HEAD /readyz"];
    let mut is_open = false;
    for probe in STARTS {
        match start.strip_prefix(probe) {
            Some([]) => is_open = true,
            Some([b' ' | b'?', ..]) => return Some(true),
            Some(_) => {}
            None => is_open |= probe.starts_with(start),
        }
    }
    (!is_open).then_some(false)
}

/// Resolves once the peer has begun to send a probe; never if it sends something else or nothing.
pub(crate) async fn probe_comes(stream: &TcpStream) {
    let mut start = [0; PROBE_BYTES];
    loop {
        // Only peeked: the data stays in the system's buffer until the connection has a place.
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => break,
            Ok(length) => match is_probe(&start[..length]) {
                Some(true) => return,
                Some(false) => break,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            },
        }
    }
    std::future::pending().await
}

/// A stream whose peer is disconnected when it has read nothing for a while although data waits for it.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    timeout: Duration,
    /// Running since the first write that had to wait.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(crate) const fn new(stream: TcpStream, timeout: Duration) -> Self {
        Self { stream, timeout, stalled: None }
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timeout = self.timeout;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout))).as_mut().poll(cx));
        metrics::counter!("slackwater_http_cut_connections_total").increment(1);
        let text = format!("the peer read nothing for {} ms (`server.write_timeout_ms`)", timeout.as_millis());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_room_again_when_somebody_leaves() {
        let crowd = Arc::new(Crowd::default());
        let (first, second) = (crowd.enter("a", 2), crowd.enter("a", 2));
        assert!(first.is_some() && second.is_some() && crowd.enter("a", 2).is_none());
        assert!(crowd.enter("b", 2).is_some());
        drop(first);
        assert!(crowd.enter("a", 2).is_some());
        drop(second);
        assert!(lock(&crowd.0).is_empty(), "nothing is kept of who has left");
    }

    /// The server takes all data of a body at once and drops the body, however slowly the peer reads.
    #[tokio::test]
    async fn who_escorts_a_body_stays_until_its_data_is_gone() {
        let escort = Arc::new(());
        let body = Body::from("text");
        let mut escorted = Escorted::new(body, Arc::clone(&escort));
        assert_eq!(hyper::body::Body::size_hint(&escorted).exact(), Some(4));
        let frame = http_body_util::BodyExt::frame(&mut escorted).await.unwrap().unwrap();
        drop(escorted);
        let mut data = frame.into_data().unwrap();
        assert_eq!(data, "text");
        let rest = data.split_off(3);
        drop(data);
        assert_eq!(Arc::strong_count(&escort), 2, "a part waits");
        drop(rest);
        assert_eq!(Arc::strong_count(&escort), 1);
    }

    #[test]
    fn a_full_room_sends_away_the_one_who_takes_most_seats() {
        let network = |last: u8| Network::of([10, 0, 0, last].into());
        let room = WaitingRoom::new(3);
        let honest = room.enter(network(1));
        let (greedy, more) = (room.enter(network(2)), room.enter(network(2)));
        let probe = room.enter(network(3));
        assert!(greedy.leave.is_cancelled(), "its first");
        assert!(!honest.leave.is_cancelled() && !more.leave.is_cancelled() && !probe.leave.is_cancelled());
        drop(greedy);
        assert_eq!(lock(&room.seats).1.len(), 3);
        drop((honest, more, probe));
        assert!(lock(&room.seats).1.is_empty());
    }

    #[test]
    fn probes_are_known_by_their_start() {
        for probe in ["GET /healthz HTTP/1.1\r\n", "GET /readyz?x", "HEAD /healthz ", "HEAD /readyz HTTP/1.0"] {
            assert_eq!(is_probe(probe.as_bytes()), Some(true), "{probe}");
        }
        for other in ["POST /healthz ", "GET /v1/chains", "GET /healthzz ", "GET / ", "\r\n", "GET /healthz/x"] {
            assert_eq!(is_probe(other.as_bytes()), Some(false), "{other}");
        }
        for open in ["G", "GET /", "GET /healthz", "HEAD /r"] {
            assert_eq!(is_probe(open.as_bytes()), None, "{open}");
        }
    }
}
