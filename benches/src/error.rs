//! Errors of the test support, as opposed to failures of the tested relayer.

use std::{io, path::PathBuf, time::Duration};

use serde_json::Value;

/// Result with a [`BenchError`].
pub type Result<T, E = BenchError> = std::result::Result<T, E>;

/// An error around the relayer, not in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A program is not where it should be.
    #[error("{what} is not at {}: {hint}", path.display())]
    Missing {
        /// Name of the program.
        what: &'static str,
        /// Path at which it was expected.
        path: PathBuf,
        /// Instructions for getting it.
        hint: &'static str,
    },
    /// A program ended, or did not come up in time.
    #[error("{what}: {detail}")]
    Process {
        /// Name of the program.
        what: &'static str,
        /// Description, with the end of its output.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation or path.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// No answer over HTTP: the connection was refused or cut off.
    #[error("{what}: {detail}")]
    Http {
        /// Method and address.
        what: String,
        /// Cause.
        detail: String,
    },
    /// No answer in time.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// The awaited event.
        what: String,
        /// Time waited.
        after: Duration,
    },
    /// The node answered with an error.
    #[error("{method} answers {code}: {message}")]
    Rpc {
        /// The called method.
        method: String,
        /// The JSON-RPC error code.
        code: i64,
        /// The error message.
        message: String,
        /// The `data` member, such as revert data.
        data: Option<Value>,
    },
    /// The relayer answered with a problem.
    #[error("relayer answers {status} {code}: {detail}")]
    Problem {
        /// HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// Explanation for people.
        detail: String,
    },
    /// An answer does not have the expected form.
    #[error("{what} is not as expected: {detail}")]
    Unexpected {
        /// The examined value.
        what: String,
        /// Its actual form.
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

    /// True if no answer came: the other side may or may not have acted.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Http { .. } | Self::Timeout { .. })
    }
}
