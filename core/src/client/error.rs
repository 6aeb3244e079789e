//! Why a call did not give what was asked for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    http::{TransportError, TransportErrorKind, excerpt},
    verify::PromiseFault,
};
use crate::request::RequestId;

/// Longest problem that is read, bytes.
const MAX_PROBLEM_BYTES: usize = 64 << 10;

/// Codes by which a relayer says that it has taken nothing, at statuses that do not say so. Where it is not sure, it says that
/// too: [`Problem::ambiguous`].
const TOOK_NOTHING: [&str; 6] =
    ["body_timeout", "chain_unavailable", "overloaded", "paused", "shutting_down", "storage_unavailable"];

/// An error answer of the relayer (RFC 9457). Switch on `code`; `title` and `detail` are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Stable code.
    pub code: String,
    /// HTTP status.
    #[serde(default)]
    pub status: u16,
    /// Short text for people.
    #[serde(default)]
    pub title: String,
    /// What happened this time.
    #[serde(default)]
    pub detail: String,
    /// Path of the field at fault; of a batch, relative to its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The request that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<RequestId>,
    /// The value that would have been right, such as the signer's next nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// When to come back, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The same submission may succeed later, unchanged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
    /// It may have been accepted all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ambiguous: bool,
}

impl Problem {
    /// Reads a problem; `None` if it is none of ours, such as a proxy's page.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > MAX_PROBLEM_BYTES {
            return None;
        }
        let problem: Self = serde_json::from_slice(body).ok()?;
        Some(problem.bounded())
    }

    pub(super) fn bounded(mut self) -> Self {
        for text in [&mut self.code, &mut self.title, &mut self.detail] {
            *text = excerpt(text);
        }
        self.field = self.field.map(|field| excerpt(&field));
        self
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The relayer refused, and says why.
    #[error("{} ({}): {}", .0.title, .0.code, .0.detail)]
    Problem(Box<Problem>),
    /// Something answered that is no relayer: a proxy, a load balancer, another program.
    #[error("the answer has status {status} and no explanation")]
    Status {
        /// HTTP status.
        status: u16,
        /// When to come back, ms.
        retry_after_ms: Option<u64>,
    },
    /// A success whose body can't be read: another program, another version, or a cut answer.
    #[error("the answer with status {status} can't be read: {detail}")]
    Unreadable {
        /// HTTP status.
        status: u16,
        /// The parser's words.
        detail: String,
    },
    /// An answer beyond what is read.
    #[error("the answer has {bytes} bytes or more, limit {limit}")]
    TooLarge {
        /// Bytes seen.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It was accepted by a promise that is not worth anything: by an identity that is not pinned, or about something else.
    /// Whoever made it may execute the request all the same.
    #[error(transparent)]
    Promise(#[from] PromiseFault),
    /// The call can't be made from what was given. Caller.
    #[error("{field}: {detail}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// How.
        detail: String,
    },
}

impl ClientError {
    /// Code of [`Self::Promise`].
    pub(super) const BAD_PROMISE: &'static str = "bad_promise";
    /// The relayer's code for a request that it has accepted from another tenant.
    pub(super) const ALREADY_SUBMITTED: &'static str = "already_submitted";

    pub(super) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { field, detail: detail.into() }
    }

    /// The stable code: the relayer's own, or one of `unexpected_status`, `unreadable_answer`, `answer_too_large`,
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

    /// The same call may succeed later, unchanged.
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

    /// The relayer may have done what was asked all the same.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            // A relayer that failed has not said that it kept nothing; what gateways answer may have a code as well; and what
            // was submitted for somebody else is accepted.
            Self::Problem(problem) => {
                problem.ambiguous
                    || problem.code == Self::ALREADY_SUBMITTED
                    || (is_unclear(problem.status) && !TOOK_NOTHING.contains(&problem.code.as_str()))
            }
            Self::Status { status, .. } => is_unclear(*status),
            Self::Unreadable { .. } | Self::TooLarge { .. } | Self::Promise(_) => true,
            Self::Transport(error) => error.kind != TransportErrorKind::Unreachable,
            Self::Invalid { .. } => false,
        }
    }

    /// When to come back, where that was said.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after_ms,
            Self::Status { retry_after_ms, .. } => *retry_after_ms,
            _ => None,
        }
        .map(Duration::from_millis)
    }

    /// The relayer's explanation.
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// Statuses that say nothing against the request itself.
const fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Statuses of which it is not known who answered, nor what it had passed on before.
const fn is_unclear(status: u16) -> bool {
    status >= 500 || status == 408 || (status >= 200 && status < 400)
}
