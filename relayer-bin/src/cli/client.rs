//! HTTP client of a relayer.

use clap::Args;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slackwater_client::{
    ClientError, HttpCall, HttpTransport, Method, RelayerClient, Transport as _, TransportError, TransportErrorKind,
};
use slackwater_core::wire::Problem;

use super::{
    error::{CliError, Exit},
    printable::{printable, printable_json},
};
use crate::config::SecretRef;

/// Longest answer that is read: an export of models is the longest that there is.
const MAX_ANSWER_BYTES: usize = 288 << 20;

/// The relayer, and the API key.
#[derive(Debug, Clone, Args)]
pub(super) struct RelayerArgs {
    /// The relayer.
    #[arg(long, value_name = "URL", env = "SLACKWATER_URL", default_value = "http://127.0.0.1:7700")]
    url: String,
    /// Reference to the API key: `env:NAME` or `file:PATH`. Otherwise `$SLACKWATER_API_KEY`, if set.
    #[arg(long, value_name = "REF")]
    api_key: Option<String>,
}

/// A client of one relayer. It repeats nothing: whoever typed the command sees what came.
#[derive(Debug, Clone)]
pub(super) struct Client(RelayerClient);

impl Client {
    pub(super) fn new(args: &RelayerArgs) -> Result<Self, CliError> {
        let mut transport =
            HttpTransport::new(&args.url).map_err(|error| CliError::usage(format!("--url: {error}")))?;
        match &args.api_key {
            Some(text) => {
                let key = SecretRef::parse(text).and_then(|reference| reference.resolve());
                let key = key.map_err(|error| CliError::usage(format!("--api-key: {error}")))?;
                transport = transport.api_key(key.expose());
            }
            None => {
                if let Some(key) = std::env::var("SLACKWATER_API_KEY").ok().filter(|key| !key.is_empty()) {
                    transport = transport.api_key(key);
                }
            }
        }
        Ok(Self(RelayerClient::over(transport.max_answer_bytes(MAX_ANSWER_BYTES))))
    }

    /// The client behind it, for streams.
    pub(super) const fn relayer(&self) -> &RelayerClient {
        &self.0
    }

    async fn call(&self, call: &HttpCall) -> Result<Vec<u8>, CliError> {
        let transport = self.0.transport();
        let answer = transport.send(call).await.map_err(|error| self.no_answer(&error))?;
        if answer.body.len() > MAX_ANSWER_BYTES {
            let url = transport.url();
            return Err(CliError::failed(format!("{url} sent an answer of more than {MAX_ANSWER_BYTES} bytes")));
        }
        if answer.is_success() {
            Ok(answer.body)
        } else {
            Err(refusal(answer.status, serde_json::from_slice(&answer.body).ok()))
        }
    }

    async fn json(&self, call: &HttpCall) -> Result<Value, CliError> {
        let answer = self.call(call).await?;
        serde_json::from_slice(&answer).map(printable_json).map_err(|error| self.is_no_relayer(error))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.json(&call(Method::Get, path, None)).await
    }

    /// The answer as raw text: to be written to a file, not interpreted.
    pub(super) async fn get_text(&self, path: &str) -> Result<String, CliError> {
        let answer = self.call(&call(Method::Get, path, None)).await?;
        let answer: Box<serde_json::value::RawValue> =
            serde_json::from_slice(&answer).map_err(|error| self.is_no_relayer(error))?;
        Ok(answer.get().to_owned())
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.json(&call(Method::Delete, path, None)).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: String,
        idempotency_key: Option<&str>,
    ) -> Result<Value, CliError> {
        let mut call = call(Method::Post, path, Some(body));
        call.headers.extend(idempotency_key.map(|key| ("idempotency-key", key.to_owned())));
        self.json(&call).await
    }

    /// An error of the library's client, as the other calls tell it.
    pub(super) fn error(&self, error: ClientError) -> CliError {
        match error {
            ClientError::Problem(problem) => refusal(problem.status, Some(*problem)),
            ClientError::Status { status, .. } => refusal(status, None),
            ClientError::Transport(error) => self.no_answer(&error),
            error => self.is_no_relayer(error),
        }
    }

    fn no_answer(&self, error: &TransportError) -> CliError {
        let what = match error.kind {
            TransportErrorKind::Unreachable => "can't be reached",
            TransportErrorKind::Timeout => "did not answer in time",
            TransportErrorKind::Broken => "broke the connection",
        };
        CliError::new(Exit::Unreachable, format!("{} {what}", self.0.transport().url()))
    }

    /// The answer as the API has it.
    pub(super) fn read<T: DeserializeOwned>(&self, answer: &Value) -> Result<T, CliError> {
        T::deserialize(answer).map_err(|error| self.is_no_relayer(error))
    }

    fn is_no_relayer(&self, error: impl std::fmt::Display) -> CliError {
        CliError::failed(format!("{} is no Slackwater relayer: {error}", self.0.transport().url()))
    }
}

fn call(method: Method, path: &str, body: Option<String>) -> HttpCall {
    let headers = body.iter().map(|_| ("content-type", "application/json".to_owned())).collect();
    HttpCall { method, path: path.to_owned(), headers, body }
}

/// An answer other than success, as the relayer explained it.
fn refusal(status: u16, problem: Option<Problem<'_>>) -> CliError {
    let message = match problem {
        Some(Problem { title, code, detail, field, .. }) => {
            let at = field.map(|field| format!(" at `{}`", printable(&field))).unwrap_or_default();
            format!("{} ({}){at}: {}", printable(&title), printable(&code), printable(&detail))
        }
        None => {
            let known = StatusCode::from_u16(status).map(|status| status.to_string());
            format!("the relayer answered {}", known.unwrap_or_else(|_| status.to_string()))
        }
    };
    CliError::new(if status >= 500 { Exit::Failed } else { Exit::Refused }, message)
}
