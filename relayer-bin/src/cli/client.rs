//! HTTP client of a relayer.

use std::time::Duration;

use clap::Args;
use reqwest::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    error::{CliError, Exit},
    printable::{printable, printable_json},
};
use crate::config::{Secret, SecretRef};

/// Timeout of an answer that is not a stream.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest line of an event stream, bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Largest answer that is read, bytes: an export of models is the largest there is.
const MAX_ANSWER_BYTES: usize = 288 << 20;
/// Largest explanation of a refusal that is read, bytes.
const MAX_PROBLEM_BYTES: usize = 1 << 20;

/// The relayer to call, and the API key to call it with.
#[derive(Debug, Clone, Args)]
pub(super) struct RelayerArgs {
    /// The relayer.
    #[arg(long, value_name = "URL", env = "SLACKWATER_URL", default_value = "http://127.0.0.1:7700")]
    url: String,
    /// Reference to the API key: `env:NAME` or `file:PATH`. Otherwise `$SLACKWATER_API_KEY`, if set.
    #[arg(long, value_name = "REF")]
    api_key: Option<String>,
}

/// An answer other than success, with the relayer's explanation.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) problem: Value,
}

impl From<Refusal> for CliError {
    fn from(refusal: Refusal) -> Self {
        let text = |key: &str| refusal.problem.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (code, title, detail) = (text("code"), text("title"), text("detail"));
        let message = if code.is_empty() {
            format!("the relayer answered {}", refusal.status)
        } else {
            let field = text("field");
            let at = if field.is_empty() { String::new() } else { format!(" at `{field}`") };
            format!("{title} ({code}){at}: {detail}")
        };
        let exit = if refusal.status.is_server_error() { Exit::Failed } else { Exit::Refused };
        Self::new(exit, message)
    }
}

/// A client of one relayer.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Secret>,
}

impl Client {
    pub(super) fn new(args: &RelayerArgs) -> Result<Self, CliError> {
        let key = match &args.api_key {
            Some(text) => {
                let reference =
                    SecretRef::parse(text).map_err(|error| CliError::usage(format!("--api-key: {error}")))?;
                Some(reference.resolve().map_err(|error| CliError::usage(format!("--api-key: {error}")))?)
            }
            None => std::env::var("SLACKWATER_API_KEY").ok().filter(|key| !key.is_empty()).map(Secret::new),
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| CliError::failed(error.to_string()))?;
        Ok(Self { http, base: args.url.trim_end_matches('/').to_owned(), key })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let what = if error.is_connect() {
            "can't be reached"
        } else if error.is_timeout() {
            "did not answer in time"
        } else {
            "broke the connection"
        };
        CliError::new(Exit::Unreachable, format!("{} {what}", self.base))
    }

    async fn read(&self, mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > limit {
                return Err(CliError::failed(format!("{} sent an answer of more than {limit} bytes", self.base)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, CliError> {
        let response = request.timeout(TIMEOUT).send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let limit = if status.is_success() { MAX_ANSWER_BYTES } else { MAX_PROBLEM_BYTES };
        let bytes = self.read(response, limit).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes)
                .map_err(|error| CliError::failed(format!("{} is no Slackwater relayer: {error}", self.base)));
        }
        let problem = serde_json::from_slice(&bytes).map_or(Value::Null, printable_json);
        Err(Refusal { status, problem }.into())
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.answer(self.request(Method::GET, path)).await.map(printable_json)
    }

    /// The answer as raw text: to be written to a file, not interpreted.
    pub(super) async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let answer: Box<serde_json::value::RawValue> = self.answer(self.request(Method::GET, path)).await?;
        Ok(answer.get().to_owned())
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.answer(self.request(Method::DELETE, path)).await.map(printable_json)
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: String,
        idempotency_key: Option<&str>,
    ) -> Result<Value, CliError> {
        let mut request = self.request(Method::POST, path).header(header::CONTENT_TYPE, "application/json").body(body);
        if let Some(key) = idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        self.answer(request).await.map(printable_json)
    }

    /// Opens an event stream after event `after`; `None` if it has ended for good.
    pub(super) async fn events(&self, path: &str, after: Option<u64>) -> Result<Option<EventStream>, CliError> {
        let mut request = self.request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after.to_string());
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            StatusCode::OK => Ok(Some(EventStream { response, parser: SseParser::default() })),
            status => {
                let bytes = self.read(response, MAX_PROBLEM_BYTES).await.ok();
                let problem = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).map(printable_json);
                Err(Refusal { status, problem: problem.unwrap_or(Value::Null) }.into())
            }
        }
    }
}

/// An open event stream.
#[derive(Debug)]
pub(super) struct EventStream {
    response: reqwest::Response,
    parser: SseParser,
}

impl EventStream {
    /// The next event's data; `None` when the connection has ended.
    pub(super) async fn next(&mut self) -> Result<Option<String>, CliError> {
        loop {
            if let Some(data) = self.parser.next_event() {
                return Ok(Some(printable(&data).into_owned()));
            }
            // A broken connection counts as its end: the caller resumes after the last event.
            let Ok(Some(chunk)) = self.response.chunk().await else { return Ok(None) };
            if !self.parser.push(&chunk) {
                return Err(CliError::failed("the relayer sent an endless line"));
            }
        }
    }
}

/// Splits a byte stream into server-sent events (WHATWG HTML, 9.2.6); only `data` is of interest.
#[derive(Debug, Default)]
pub(super) struct SseParser {
    buffer: Vec<u8>,
    data: Option<String>,
    ready: std::collections::VecDeque<String>,
}

impl SseParser {
    /// Takes more bytes; `false` if a line exceeds [`MAX_LINE_BYTES`].
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(at) = self.buffer[start..].iter().position(|byte| *byte == b'\n') {
            let end = start + at;
            let line = self.buffer[start..end].strip_suffix(b"\r").unwrap_or(&self.buffer[start..end]);
            let line = String::from_utf8_lossy(line).into_owned();
            self.line(&line);
            start = end + 1;
        }
        self.buffer.drain(..start);
        self.buffer.len() <= MAX_LINE_BYTES && self.data.as_ref().is_none_or(|data| data.len() <= MAX_LINE_BYTES)
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.ready.extend(self.data.take());
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
    }

    /// The next complete event's data.
    pub(super) fn next_event(&mut self) -> Option<String> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_however_they_are_cut() {
        let stream = b": hello\nretry: 1000\n\nid: 1\ndata: {\"a\":1}\n\n: keep-alive\n\nid: 2\r\ndata:two\r\ndata: lines\r\n\r\n";
        for size in 1..stream.len() {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for chunk in stream.chunks(size) {
                assert!(parser.push(chunk));
                while let Some(data) = parser.next_event() {
                    events.push(data);
                }
            }
            assert_eq!(events, ["{\"a\":1}", "two\nlines"], "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        assert!(!parser.push(&vec![b'x'; MAX_LINE_BYTES + 1]));
    }

    proptest! {
        #[test]
        fn never_panics(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut parser = SseParser::default();
            for chunk in chunks {
                parser.push(&chunk);
                while parser.next_event().is_some() {}
            }
        }
    }
}
