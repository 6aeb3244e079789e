//! HTTP/1.1 over plain TCP with kept connections: cheap enough not to dominate a measurement.

use std::{net::SocketAddr, sync::Arc, sync::Mutex, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::{BenchError, Result};

/// A client of one server on this machine. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct Http {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    timeout: Duration,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: header::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Http {
    /// A client of `url`, which must be `http://` and an address of this machine.
    ///
    /// # Errors
    /// If it is anything else: nothing here may reach beyond this machine.
    pub fn new(url: &str) -> Result<Self> {
        let rest = url.trim_end_matches('/').strip_prefix("http://");
        let text = rest.unwrap_or_default().replace("localhost", "127.0.0.1");
        let address: SocketAddr =
            text.parse().map_err(|_| BenchError::unexpected(url, "not http://ADDRESS:PORT without a path"))?;
        if !address.ip().is_loopback() {
            return Err(BenchError::unexpected(url, "not a loopback address: only this machine may be loaded"));
        }
        Ok(Self { inner: Arc::new(Inner { address, timeout: Duration::from_secs(30), idle: Mutex::default() }) })
    }

    /// The same server, with another limit on the time of one answer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { inner: Arc::new(Inner { address: self.inner.address, timeout, idle: Mutex::default() }) }
    }

    /// Address of the server.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Sends and reads the whole answer.
    ///
    /// A kept connection that turns out to be closed before anything was written is replaced; anything later is an
    /// error, because the server may have acted.
    ///
    /// # Errors
    /// [`BenchError::Http`] and [`BenchError::Timeout`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let what = format!("{} {}{}", request.method(), self.inner.address, request.uri());
        let exchange = async {
            let (response, connection) = self.exchange(request, &what).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| http_error(&what, error))?.to_bytes();
            if let Ok(mut idle) = self.inner.idle.lock() {
                idle.push(connection);
            }
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        match tokio::time::timeout(self.inner.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(BenchError::Timeout { what: what.clone(), after: self.inner.timeout }),
        }
    }

    /// Sends, and returns once the headers are there; the body is streamed.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn stream(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let what = format!("{} {}{}", request.method(), self.inner.address, request.uri());
        match tokio::time::timeout(self.inner.timeout, self.exchange(request, &what)).await {
            Ok(result) => result.map(|(response, _)| response),
            Err(_) => Err(BenchError::Timeout { what, after: self.inner.timeout }),
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
        what: &str,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>)> {
        let host = self.inner.address.to_string();
        let host = host.parse().map_err(|error| http_error(what, error))?;
        request.headers_mut().insert(header::HOST, host);
        loop {
            let kept = self.inner.idle.lock().ok().and_then(|mut idle| idle.pop());
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect(what).await?,
            };
            if connection.ready().await.is_err() {
                if is_kept {
                    continue;
                }
                return Err(http_error(what, "the connection was closed at once"));
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => return Err(http_error(what, error.into_error())),
                },
            }
        }
    }

    async fn connect(&self, what: &str) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.inner.address).await.map_err(|error| http_error(what, error))?;
        stream.set_nodelay(true).map_err(|error| http_error(what, error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| http_error(what, error))?;
        // Ends with the connection; its error is also the answer's.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// A request with a JSON body.
///
/// # Panics
/// If `path` is not a path: a mistake in the test.
pub fn post_json(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.into()))
        .expect("the path is a path")
}

/// A request without a body.
///
/// # Panics
/// If `path` is not a path: a mistake in the test.
pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).expect("the path is a path")
}

fn http_error(what: &str, error: impl std::fmt::Display + std::fmt::Debug) -> BenchError {
    let detail = format!("{error} ({error:?})");
    BenchError::Http { what: what.to_owned(), detail }
}
