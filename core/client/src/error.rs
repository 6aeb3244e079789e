//! Failures of calls.

use std::{convert::Infallible, time::Duration};

use super::{
    Problem,
    http::{TransportError, TransportErrorKind, excerpt},
    verify::PromiseFault,
};
use crate::json;

/// Largest problem body that is parsed, bytes.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// Codes that state that the relayer accepted nothing, for statuses that leave it open. If it is unsure, it says so:
/// [`Problem::ambiguous`].
const TOOK_NOTHING: [&str; 8] = [
    "body_timeout",
    "chain_unavailable",
    "hook_unavailable",
    "identity_unavailable",
    "overloaded",
    "paused",
    "shutting_down",
    "storage_unavailable",
];

impl From<Infallible> for ClientError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Parses a problem; `None` if the body is not one of ours, such as a proxy's page.
pub(super) fn parse_problem(body: &[u8]) -> Option<Problem> {
    if body.len() > MAX_PROBLEM_BYTES {
        return None;
    }
    let problem: Problem = json::read(body).ok()?;
    Some(bounded(problem))
}

/// The problem with texts of limited length.
pub(super) fn bounded(mut problem: Problem) -> Problem {
    for text in [&mut problem.code, &mut problem.title, &mut problem.detail].into_iter().chain(&mut problem.field) {
        *text = excerpt(text).into();
    }
    problem
}

/// Failure of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The relayer refused, with an explanation.
    #[error("{} ({}): {}", .0.title, .0.code, .0.detail)]
    Problem(Box<Problem>),
    /// The answer came from something other than a relayer: a proxy, a load balancer, another program.
    #[error("the answer has status {status} and no explanation")]
    Status {
        /// HTTP status.
        status: u16,
        /// Suggested wait before a retry, ms.
        retry_after_ms: Option<u64>,
    },
    /// A success whose body can't be parsed: another program, another version, or a truncated answer.
    #[error("the answer with status {status} can't be read: {detail}")]
    Unreadable {
        /// HTTP status.
        status: u16,
        /// The parser's message.
        detail: String,
    },
    /// The answer exceeds the size limit.
    #[error("the answer has {bytes} bytes or more, limit {limit}")]
    TooLarge {
        /// Bytes received.
        bytes: usize,
        /// Size limit, bytes.
        limit: usize,
    },
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It was accepted with a worthless promise: by an identity that is not pinned, or about something else. Its issuer
    /// may execute the request nevertheless.
    #[error(transparent)]
    Promise(#[from] PromiseFault),
    /// The arguments are invalid. Cause: caller.
    #[error("{field}: {detail}")]
    Invalid {
        /// Name of the invalid argument.
        field: &'static str,
        /// Description of the error.
        detail: String,
    },
}

impl ClientError {
    /// Code of [`Self::Promise`].
    pub(super) const BAD_PROMISE: &'static str = "bad_promise";
    /// The relayer's code for a request that it has already accepted from another tenant.
    pub(super) const ALREADY_SUBMITTED: &'static str = "already_submitted";

    pub(super) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { field, detail: detail.into() }
    }

    /// Stable code: the relayer's own, or one of `unexpected_status`, `unreadable_answer`, `answer_too_large`,
    /// `unreachable`, `timeout`, `connection_broken`, `bad_promise`, `invalid_argument`.
    pub fn code(&self) -> &str {
        match self {
            Self::Problem(problem) => &problem.code,
            Self::Status { .. } => "unexpected_status",
            Self::Unreadable { .. } => "unreadable_answer",
            Self::TooLarge { .. } => "answer_too_large",
            Self::Transport(error) => match error.kind {
                TransportErrorKind::Unreachable => "unreachable",
                TransportErrorKind::Timeout => "timeout",
                TransportErrorKind::Broken => "connection_broken",
            },
            Self::Promise(_) => Self::BAD_PROMISE,
            Self::Invalid { .. } => "invalid_argument",
        }
    }

    /// True if the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Problem(problem) => {
                problem.retryable || problem.ambiguous || is_passing(problem.status) || problem.retry_after_ms.is_some()
            }
            Self::Status { status, retry_after_ms } => is_passing(*status) || retry_after_ms.is_some(),
            Self::Unreadable { .. } | Self::Transport(_) => true,
            Self::TooLarge { .. } | Self::Promise(_) | Self::Invalid { .. } => false,
        }
    }

    /// True if the relayer may have executed the call nevertheless.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            // A failed relayer has not stated that it kept nothing; a gateway's answer may have a code as well; and a
            // request submitted by another tenant is accepted.
            Self::Problem(problem) => {
                problem.ambiguous
                    || problem.code == Self::ALREADY_SUBMITTED
                    || (is_unclear(problem.status) && !TOOK_NOTHING.contains(&&*problem.code))
            }
            Self::Status { status, .. } => is_unclear(*status),
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Promise(_) => true,
            Self::Transport(error) => error.kind != TransportErrorKind::Unreachable,
            Self::Invalid { .. } => false,
        }
    }

    /// Suggested wait before a retry; `None` if the answer has none.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after_ms,
            Self::Status { retry_after_ms, .. } => *retry_after_ms,
            _ => None,
        }
        .map(Duration::from_millis)
    }

    /// The relayer's explanation; `None` for other failures.
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// True for statuses that say nothing against the request itself.
const fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// True for statuses with an unknown origin, where the call may have been forwarded before.
const fn is_unclear(status: u16) -> bool {
    status >= 500 || status == 408 || (status >= 200 && status < 400)
}
