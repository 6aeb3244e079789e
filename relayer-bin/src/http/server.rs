//! Connections: accepted within a limit, closed in order at shutdown.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};
use tower_service::Service;

use super::{App, Peer, router};

/// Connections that the system keeps for us while all tasks are busy.
const BACKLOG: u32 = 4_096;
/// How often quiet addresses are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Why the server could not listen. Configuration's or the machine's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The port is taken, or the address is not of this machine (`server.listen`).
    #[error("can't listen on {listen}: {source} (`server.listen`)")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A listening server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens on `listen`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn bind(listen: SocketAddr) -> Result<Self, ServeError> {
        let bind = || {
            let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(listen)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        bind().map_err(|source| ServeError::Listen { listen, source })
    }

    /// The address that it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `app` until `stop` resolves; then stops accepting, ends event streams, and waits for calls in progress
    /// for at most `server.shutdown_grace_ms`.
    pub async fn run(self, app: Arc<App>, stop: impl Future<Output = ()>) {
        let router = router(Arc::clone(&app));
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(app.limits.max_connections.min(Semaphore::MAX_PERMITS)));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(app.limits.header_timeout).pipeline_flush(true);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut connections = tokio::task::JoinSet::new();
        tokio::pin!(stop);
        loop {
            let place = tokio::select! {
                () = &mut stop => break,
                _ = sweep.tick() => {
                    app.sweep();
                    continue;
                }
                // Connections above the limit wait in the system's backlog.
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let Ok(place) = place else { break };
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, usually: others will be closed soon.
                    tracing::warn!(%error, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let router = router.clone();
            let service = service_fn(move |request| call(router.clone(), request, peer));
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
            while let Some(ended) = connections.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            connections.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                drop(place);
            });
        }
        drop(self.listener);
        app.close();
        let grace = app.limits.shutdown_grace;
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            let open = connections.len();
            tracing::warn!(open, grace_ms = grace.as_millis(), "connections cut off (`server.shutdown_grace_ms`)");
        }
        connections.shutdown().await;
    }
}

fn call(
    mut router: Router,
    mut request: Request<Incoming>,
    peer: SocketAddr,
) -> impl Future<Output = Result<axum::response::Response, std::convert::Infallible>> {
    request.extensions_mut().insert(Peer(peer.ip()));
    router.call(request.map(Body::new))
}
