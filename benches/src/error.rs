//! What can go wrong around a test, as opposed to in it.

use std::{io, path::PathBuf, time::Duration};

use serde_json::Value;

/// Shorthand.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// Why something around the relayer did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A program is not where it should be.
    #[error("{what} is not at {}: {hint}", path.display())]
    Missing {
        /// Which.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// How to get it.
        hint: &'static str,
    },
    /// A program ended, or did not come up in time.
    #[error("{what}: {detail}")]
    Process {
        /// Which.
        what: &'static str,
        /// What happened, with the end of its output.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// No answer over HTTP: the connection was refused or cut off.
    #[error("{what}: {detail}")]
    Http {
        /// Method and address.
        what: String,
        /// Why.
        detail: String,
    },
    /// No answer in time.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The node answered with an error.
    #[error("{method} answers {code}: {message}")]
    Rpc {
        /// The method.
        method: String,
        /// The JSON-RPC code.
        code: i64,
        /// The text.
        message: String,
        /// The data member, such as revert data.
        data: Option<Value>,
    },
    /// The relayer answered with a problem.
    #[error("relayer answers {status} {code}: {detail}")]
    Problem {
        /// HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// For people.
        detail: String,
    },
    /// An answer has another form than it should.
    #[error("{what} is not as expected: {detail}")]
    Unexpected {
        /// What was looked at.
        what: String,
        /// What it is.
        detail: String,
    },
}

impl BenchError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn unexpected(what: impl Into<String>, detail: impl ToString) -> Self {
        Self::Unexpected { what: what.into(), detail: detail.to_string() }
    }

    /// No answer came: the other side may or may not have acted.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Http { .. } | Self::Timeout { .. })
    }
}
