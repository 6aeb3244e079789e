//! Connections: accepted within limits, cut when they stall, closed in order at shutdown.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, header},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use slackwater_ledger::LedgerError;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
};
use tower_service::Service;

use super::{
    App, Connection,
    connection::{Crowd, Guarded, Presence, WaitingRoom, probe_comes},
    peer::Network,
    probes, router,
};

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: u32 = 4_096;
/// Send buffer of a connection, bytes: data that the system holds for a peer that does not read. The system doubles it
/// for its own needs.
const SEND_BUFFER: u32 = 64 << 10;
/// Most that is read ahead of a connection, bytes; with [`super::events::PIECE_BYTES`] the most that waits for its
/// peer.
const BUFFER: usize = 32 << 10;
/// Time limit for a probe's connection while others wait, and idle timeout on the probes' own listener.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for sending a refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Most connections to the probes' own listener (`server.probe_listen`).
const MAX_PROBES: usize = 64;

/// Reason why the server could not start. The fault of the configuration, the machine or the storage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is taken, or the address is not of this machine (`server.listen`, `server.probe_listen`).
    #[error("can't listen on {listen}: {source} (`{key}`)")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The key that names it.
        key: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The usage of page keys could not be counted: their caps (`page_key.*`) would start from zero.
    #[error("the ledger can't tell what page keys have used, so their caps (`page_key.*`) would begin anew: {0}")]
    Recall(LedgerError),
}

/// A listening server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    probes: Option<TcpListener>,
}

fn listen(address: SocketAddr, key: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Inherited by accepted connections.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|source| ServeError::Listen { listen: address, key, source })
}

impl Server {
    /// Listens on `listen`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let (listener, address) = listen(address, "server.listen")?;
        Ok(Self { listener, address, probes: None })
    }

    /// Answers probes, and nothing else, on `address` too: independently of the API's connections.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn with_probes(mut self, address: SocketAddr) -> Result<Self, ServeError> {
        self.probes = Some(listen(address, "server.probe_listen")?.0);
        Ok(self)
    }

    /// The address that it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the probes' own listener, if there is one.
    pub fn probe_address(&self) -> Option<SocketAddr> {
        self.probes.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves `app` until `stop` resolves; then stops accepting, ends event streams, and waits for calls in progress
    /// for at most `server.shutdown_grace_ms`.
    ///
    /// # Errors
    /// [`ServeError::Recall`]; no call was answered then.
    pub async fn run(self, app: Arc<App>, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let door = Arc::new(Door::new(Arc::clone(&app)));
        let graceful = GracefulShutdown::new();
        let mut connections = tokio::task::JoinSet::new();
        let events = app.relay.subscribe();
        tokio::pin!(stop);
        {
            let recalled = super::page::recall(&app);
            tokio::pin!(recalled);
            loop {
                tokio::select! {
                    () = &mut stop => {
                        app.close();
                        return Ok(());
                    }
                    recalled = &mut recalled => match recalled {
                        Ok(()) => break,
                        Err(error) => {
                            app.close();
                            return Err(ServeError::Recall(error));
                        }
                    },
                    // Counting a long history takes time: the process is alive meanwhile.
                    accepted = accept(self.probes.as_ref()) => if let Ok((stream, peer)) = accepted {
                        let (door, watcher) = (Arc::clone(&door), graceful.watcher());
                        connections.spawn(async move { door.answer_probes(stream, peer, watcher).await });
                    },
                }
            }
        }
        connections.spawn(super::page::follow(Arc::clone(&app), events));
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted.map(|(stream, peer)| (stream, peer, false)),
                accepted = accept(self.probes.as_ref()) => accepted.map(|(stream, peer)| (stream, peer, true)),
            };
            while let Some(ended) = connections.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            let (stream, peer, is_for_probes) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, usually: other connections will be closed soon.
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (door, watcher) = (Arc::clone(&door), graceful.watcher());
            if is_for_probes {
                connections.spawn(async move { door.answer_probes(stream, peer, watcher).await });
            } else {
                // Counted here, in the order of arrival.
                let presence = door.enter(peer);
                connections.spawn(async move {
                    match presence {
                        Ok(presence) => door.attend(stream, peer, presence, watcher).await,
                        Err(TooMany) => refuse(&stream, PER_IP).await,
                    }
                });
            }
        }
        drop((self.listener, self.probes));
        app.close();
        let grace = app.limits.shutdown_grace;
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            let open = connections.len();
            tracing::warn!(open, grace_ms = grace.as_millis(), "connections cut off (`server.shutdown_grace_ms`)");
        }
        connections.shutdown().await;
        Ok(())
    }
}

/// Never resolves without a listener.
async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The address has its maximum of connections (`server.max_connections_per_ip`).
struct TooMany;

/// Admission of connections, and those that wait.
struct Door {
    app: Arc<App>,
    router: Router,
    probes: Router,
    http: http1::Builder,
    places: Arc<Semaphore>,
    crowd: Arc<Crowd<Network>>,
    waiting: Arc<WaitingRoom>,
    probing: Arc<WaitingRoom>,
}

impl Door {
    fn new(app: Arc<App>) -> Self {
        let limits = &app.limits;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_header_size(limits.max_header_bytes)
            // One byte more than the headers, so that the limit on headers is hit first.
            .max_buf_size(BUFFER.max(limits.max_header_bytes + 1));
        Self {
            router: router(Arc::clone(&app)),
            probes: probes(Arc::clone(&app)),
            http,
            places: Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS))),
            crowd: Arc::clone(&app.crowd),
            waiting: WaitingRoom::new(limits.max_waiting_connections),
            probing: WaitingRoom::new(MAX_PROBES),
            app,
        }
    }

    /// Counts a connection by its address. A trusted proxy has many clients: its calls are counted by the client's
    /// address instead.
    fn enter(&self, peer: SocketAddr) -> Result<Option<Presence<Network>>, TooMany> {
        let limits = &self.app.limits;
        if limits.trusted_proxies.iter().any(|range| range.contains(peer.ip())) {
            return Ok(None);
        }
        self.crowd.enter(Network::of(peer.ip()), limits.max_connections_per_ip).map(Some).ok_or(TooMany)
    }

    /// Serves a connection as soon as it has a place. While it waits, it is answered if it is a probe.
    async fn attend(&self, stream: TcpStream, peer: SocketAddr, presence: Option<Presence<Network>>, watcher: Watcher) {
        let place = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let seat = self.waiting.enter(Network::of(peer.ip()));
                let place = tokio::select! {
                    place = self.place_for(&stream) => place,
                    () = probe_comes(&stream) => {
                        let probe = self.serve_probes(stream, peer, watcher);
                        tokio::select! {
                            _ = tokio::time::timeout(PROBE_TIMEOUT, probe) => {}
                            () = seat.taken() => {}
                        }
                        return;
                    }
                    () = seat.taken() => return refuse(&stream, OVERLOADED).await,
                    () = self.app.closing.cancelled() => return,
                };
                let Ok(place) = place else { return };
                place
            }
        };
        let service = service_fn(|request| call(self.router.clone(), request, peer));
        let io = TokioIo::new(Guarded::new(stream, self.app.limits.write_timeout));
        if let Err(error) = watcher.watch(self.http.serve_connection(io, service)).await {
            tracing::debug!(%peer, %error, "connection ended");
        }
        drop((place, presence));
    }

    /// A place, once the peer has sent something: silent peers take no place from others.
    async fn place_for(&self, stream: &TcpStream) -> Result<OwnedSemaphorePermit, AcquireError> {
        // Only peeked. A readiness event alone may be spurious.
        let _ = stream.peek(&mut [0]).await;
        Arc::clone(&self.places).acquire_owned().await
    }

    /// Serves a connection to the probes' own listener.
    async fn answer_probes(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let seat = self.probing.enter(Network::of(peer.ip()));
        let probes = self.serve_probes(stream, peer, watcher);
        tokio::select! {
            () = probes => {}
            () = seat.taken() => {}
        }
    }

    /// Answers probes only, one for each connection.
    async fn serve_probes(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let mut http = self.http.clone();
        http.keep_alive(false).header_read_timeout(PROBE_TIMEOUT);
        let service = service_fn(|request| call(self.probes.clone(), request, peer));
        let io = TokioIo::new(Guarded::new(stream, PROBE_TIMEOUT));
        if let Err(error) = watcher.watch(http.serve_connection(io, service)).await {
            tracing::debug!(%peer, %error, "probe ended");
        }
    }
}

/// Answer to a connection that gets no place.
macro_rules! refusal {
    ($detail:literal) => {
        concat!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\n",
            "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
            r#"{"type":"urn:slackwater:problem:overloaded","title":"Too much at a time","status":503,"#,
            r#""detail":""#,
            $detail,
            r#"","code":"overloaded","retryAfterMs":5000,"retryable":true}"#,
        )
    };
}
const OVERLOADED: &str = refusal!("all connections are taken (`server.max_connections`)");
const PER_IP: &str = refusal!("this address has too many connections (`server.max_connections_per_ip`)");

/// Sends the reason if the peer can take it at once, and closes.
async fn refuse(stream: &TcpStream, answer: &str) {
    metrics::counter!("slackwater_http_refused_connections_total").increment(1);
    if let Ok(Ok(())) = tokio::time::timeout(REFUSAL_TIMEOUT, stream.writable()).await {
        let _ = stream.try_write(answer.as_bytes());
    }
}

async fn call(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<axum::response::Response, std::convert::Infallible> {
    request.extensions_mut().insert(Connection(peer.ip()));
    let mut response = router.call(request.map(Body::new)).await?;
    // Content that is no script must not be taken for one.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}
