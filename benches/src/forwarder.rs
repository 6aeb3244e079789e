//! A TCP forwarder that can be cut and stopped, for connections that are more than calls and answers, such as
//! WebSockets.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::error::{BenchError, Result};

/// State of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Bytes are passed on.
    Open,
    /// Bytes are held back; connections stay open.
    Stalled,
    /// Connections are closed, new ones at once.
    Cut,
}

/// A running forwarder. Ends when dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    line: Arc<watch::Sender<Line>>,
    task: AbortHandle,
}

impl Forwarder {
    /// A forwarder to `upstream`, an address of this machine.
    ///
    /// # Errors
    /// If `upstream` is not on this machine, or no port is free.
    pub async fn spawn(upstream: SocketAddr) -> Result<Self> {
        if !upstream.ip().is_loopback() {
            return Err(BenchError::unexpected(upstream.to_string(), "not a loopback address"));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("forwarder"))?;
        let address = listener.local_addr().map_err(BenchError::io("forwarder"))?;
        let line = Arc::new(watch::Sender::new(Line::Open));
        let task = tokio::spawn(accept(listener, upstream, line.clone())).abort_handle();
        Ok(Self { address, line, task })
    }

    /// Its listening address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the state of existing and new connections.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, line: Arc<watch::Sender<Line>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { return };
        let mut line = line.subscribe();
        connections.spawn(async move {
            if *line.borrow_and_update() == Line::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            let mut cut = line.clone();
            // Whichever ends first ends the connection in both directions.
            tokio::select! {
                () = pass(from_near, to_far, line.clone()) => {}
                () = pass(from_far, to_near, line) => {}
                _ = cut.wait_for(|line| *line == Line::Cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1_024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if line.wait_for(|line| *line == Line::Open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server.
    async fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::io("echo"))?;
        let address = listener.local_addr().map_err(BenchError::io("echo"))?;
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (from, to) = stream.into_split();
                    pass(from, to, watch::Sender::new(Line::Open).subscribe()).await;
                });
            }
        });
        Ok(address)
    }

    #[tokio::test]
    async fn open_stalled_and_cut() -> Result<()> {
        let forwarder = Forwarder::spawn(echo().await?).await?;
        let mut stream = TcpStream::connect(forwarder.address()).await.map_err(BenchError::io("connect"))?;
        let mut back = [0; 3];
        stream.write_all(b"one").await.expect("written");
        stream.read_exact(&mut back).await.expect("sent back");
        assert_eq!(&back, b"one");
        forwarder.set(Line::Stalled);
        stream.write_all(b"two").await.expect("written");
        let held = tokio::time::timeout(std::time::Duration::from_millis(100), stream.read_exact(&mut back)).await;
        assert!(held.is_err(), "passed on");
        forwarder.set(Line::Open);
        stream.read_exact(&mut back).await.expect("passed on now");
        assert_eq!(&back, b"two");
        forwarder.set(Line::Cut);
        assert!(matches!(stream.read(&mut back).await, Ok(0) | Err(_)));
        let mut another = TcpStream::connect(forwarder.address()).await.map_err(BenchError::io("connect"))?;
        assert!(matches!(another.read(&mut back).await, Ok(0) | Err(_)));
        Ok(())
    }
}
