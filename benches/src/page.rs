//! A folder of files as web pages, for browsers on this machine.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::AbortHandle, task::JoinSet};

use crate::error::{BenchError, Result};

/// Size limit of a served folder, bytes: it is held in memory.
const MAX_FOLDER_BYTES: u64 = 64 << 20;

/// A bound address, so that its origin is known before anything is served.
#[derive(Debug)]
pub struct PageAddress {
    listener: TcpListener,
    url: String,
}

impl PageAddress {
    /// A port of this machine: `usual`, or a free one if that is in use.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn take(usual: u16) -> Result<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let listener = match TcpListener::bind(local(usual)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(local(0)).await.map_err(BenchError::io("page server"))?,
        };
        let address = listener.local_addr().map_err(BenchError::io("page server"))?;
        Ok(Self { listener, url: format!("http://{address}") })
    }

    /// The address without a path (the origin, in browsers' terms).
    pub fn origin(&self) -> &str {
        &self.url
    }

    /// Serves the files of `folder` as they are now. A request for the folder itself is redirected to the index with
    /// `query`.
    ///
    /// # Errors
    /// If the folder has no `index.html`, can't be read, or is too large.
    pub fn serve(self, folder: &Path, query: &str) -> Result<PageServer> {
        let mut site = Site { files: BTreeMap::new(), query: query.to_owned() };
        let mut size = 0;
        read(folder, "/", &mut site.files, &mut size)?;
        if !site.files.contains_key(INDEX) {
            let (path, hint) = (folder.join("index.html"), "build the pages first");
            return Err(BenchError::Missing { what: "the page", path, hint });
        }
        let task = tokio::spawn(accept(self.listener, Arc::new(site))).abort_handle();
        Ok(PageServer { url: self.url, task })
    }
}

/// Pages that are being served. Ends when dropped.
#[derive(Debug)]
pub struct PageServer {
    url: String,
    task: AbortHandle,
}

impl PageServer {
    /// Address of the page for people to open.
    pub fn url(&self) -> String {
        format!("{}/", self.url)
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const INDEX: &str = "/index.html";

struct Site {
    /// Files by path. Nothing else is ever read.
    files: BTreeMap<String, (&'static str, Bytes)>,
    query: String,
}

fn read(
    folder: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, (&'static str, Bytes)>,
    size: &mut u64,
) -> Result<()> {
    let failed = |path: &Path| BenchError::io(path.display().to_string());
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path: PathBuf = entry.map_err(failed(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_dir() {
            read(&path, &format!("{prefix}{name}/"), files, size)?;
            continue;
        }
        *size += path.metadata().map_err(failed(&path))?.len();
        if *size > MAX_FOLDER_BYTES {
            let detail = format!("more than {MAX_FOLDER_BYTES} bytes");
            return Err(BenchError::unexpected(folder.display().to_string(), detail));
        }
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            Some("json") => "application/json",
            Some("wasm") => "application/wasm",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        };
        let content = fs::read(&path).map_err(failed(&path))?;
        files.insert(format!("{prefix}{name}"), (kind, content.into()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let site = Arc::clone(&site);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, std::convert::Infallible>(site.answer(&request)) }
            });
            // An error here is a browser that closed the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-cache"));
        let path = request.uri().path();
        if request.method() != Method::GET && request.method() != Method::HEAD {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return response;
        }
        let is_index = path == "/" || path == INDEX;
        if is_index
            && request.uri().query().is_none()
            && let Ok(to) = format!("/?{}", self.query).parse()
        {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(LOCATION, to);
            return response;
        }
        match self.files.get(if is_index { INDEX } else { path }) {
            Some((kind, content)) => {
                response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
                *response.body_mut() = Full::new(content.clone());
            }
            None => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Http;

    async fn get(http: &Http, path: &str) -> crate::http::Answer {
        let request = Request::builder().uri(path).header("host", "x").body(Full::default()).unwrap();
        http.send(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_folder_is_served_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("assets")).unwrap();
        fs::write(folder.path().join("index.html"), "<h1>here</h1>").unwrap();
        fs::write(folder.path().join("assets/core.wasm"), [0, 97]).unwrap();
        let server = PageAddress::take(0).await.unwrap().serve(folder.path(), "chain=1&rpc=http%3A%2F%2Fx").unwrap();
        let http = Http::new(&server.url()).unwrap();
        let answer = get(&http, "/").await;
        assert_eq!(
            (answer.status, answer.headers["location"].to_str().unwrap()),
            (302, "/?chain=1&rpc=http%3A%2F%2Fx")
        );
        let answer = get(&http, "/?chain=1").await;
        assert_eq!((answer.status, answer.body.as_ref()), (200, &b"<h1>here</h1>"[..]));
        assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
        assert_eq!(get(&http, "/assets/core.wasm").await.headers["content-type"], "application/wasm");
        for path in ["/../Cargo.toml", "/assets/", "/assets/../index.html", "/%2e%2e/x", "/other.html"] {
            assert_eq!(get(&http, path).await.status, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_left_alone_and_an_empty_folder_is_refused() {
        let first = PageAddress::take(0).await.unwrap();
        let port = first.origin().rsplit(':').next().unwrap().parse().unwrap();
        let second = PageAddress::take(port).await.unwrap();
        assert_ne!(first.origin(), second.origin());
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(second.serve(empty.path(), ""), Err(BenchError::Missing { .. })));
    }
}
