//! Every error that the API answers, as RFC 9457 `application/problem+json`.
//!
//! This is the one place where domain errors become HTTP statuses and stable codes. SDKs switch on `code`; titles and
//! details are for people and may change.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use slackwater::{CancelError, ModelError, PauseError, PolicyError, SubmitError, WaitError};
use slackwater_core::{forecast::RegistryError, wire};
use slackwater_ledger::LedgerError;

use super::reload::ReloadError;

/// A stable code: its HTTP status, its title, and the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The stable code.
    pub code: &'static str,
    /// The same as `type` of a problem.
    pub urn: &'static str,
    /// HTTP status that it is answered with.
    pub status: u16,
    /// Short text for people.
    pub title: &'static str,
    /// The remedy for the caller.
    pub remedy: &'static str,
}

macro_rules! codes {
    ($($code:literal $status:literal $title:literal => $remedy:literal;)+) => {
        /// Every code, sorted by status and code. `docs/api.md` has the same table.
        pub const CODES: &[CodeInfo] =
            &[$(CodeInfo {
                code: $code,
                urn: concat!("urn:slackwater:problem:", $code),
                status: $status,
                title: $title,
                remedy: $remedy,
            },)+];
    };
}

codes! {
    "invalid_header" 400 "A header can't be used" => "see the detail";
    "invalid_query" 400 "The query string can't be used" => "see the detail";
    "malformed_body" 400 "The body could not be read" => "send the whole body";
    "malformed_id" 400 "The id in the path is malformed" => "use the id as it was answered";
    "malformed_json" 400 "The body is not JSON" => "mend the JSON at `line` and `column`";
    "unauthorized" 401 "A valid API key is needed" => "send `Authorization: Bearer sw_…` or `X-Api-Key`";
    "budget_exhausted" 402 "The tenant's budget does not cover the worst case" => "raise `tenant.budget`, wait for the next period, or ask for less gas";
    "max_cost_too_low" 402 "The request's maxCost is below its worst case now" => "raise `maxCost`, or try when gas is cheaper";
    "signer_budget_exhausted" 402 "The signer's share of the tenant's budget does not cover the worst case" => "raise `tenant.signer_budget_percent`, or wait for the next period";
    "target_budget_exhausted" 402 "The target's share of the tenant's budget does not cover the worst case" => "raise `tenant.target_budget_percent`, or wait for the next period";
    "denied_by_hook" 403 "The operator's own check refused it" => "the detail has its reason";
    "host_refused" 403 "The relayer has no such name" => "name it in `server.hosts`, or use an address";
    "operator_only" 403 "This needs an operator's API key" => "use a key with the scope `operate`";
    "origin_refused" 403 "Pages of this origin may not call" => "name the origin in `server.cors_origins`";
    "policy_denied" 403 "The tenant's policy does not allow it" => "the detail names the policy key";
    "proxy_refused" 403 "A proxy is there, and no keys" => "give every tenant an API key";
    "scope_missing" 403 "The API key may not do this" => "use a key with one of the scopes in the detail";
    "signature_needed" 403 "The user must sign this" => "send a signed withdrawal";
    "unknown_tenant" 403 "The tenant is not known" => "add it to the configuration";
    "not_found" 404 "There is nothing here" => "check the id, and whose API key it is";
    "unknown_path" 404 "There is no such path" => "check the path, and the base address";
    "method_not_allowed" 405 "The path does not take this method" => "see the `Allow` header";
    "body_timeout" 408 "The body took too long to arrive" => "send it again";
    "already_submitted" 409 "Another tenant has submitted the same signed request" => "ask its tenant, or wait until it has ended";
    "idempotency_conflict" 409 "The idempotency key came with another body before" => "use a new key for a new request";
    "needs_restart" 409 "This can only be changed by a restart" => "restart the relayer, or take the change back";
    "no_earlier_model" 409 "There is no earlier model to go back to" => "promote one of `GET /v1/models`";
    "nonce_conflict" 409 "Another live request holds this nonce" => "ask about `existing`, or sign the next nonce";
    "nonce_gap" 409 "Too many requests wait behind a missing nonce" => "submit nonce `missing` first; come back after `retryAfterMs`";
    "too_late" 409 "It is too late for that" => "watch the request instead";
    "batch_too_large" 413 "Too many requests in one batch" => "split the batch";
    "body_too_large" 413 "The body is too large" => "send less; relay the hash of large data instead of the data";
    "request_too_large" 413 "The transaction would be too large for the chain" => "send less calldata; relay the hash of large data";
    "unsupported_media_type" 415 "The body must be JSON" => "send `Content-Type: application/json`";
    "above_lane_balance" 422 "No lane has the value that it sends" => "send less value, or fund a lane";
    "above_node_fee_cap" 422 "Nodes refuse a transaction with it for what it may cost, at the usual price too" => "ask for less gas, or use nodes with a higher cap (geth: `--rpc.txfeecap`)";
    "deadline_expired" 422 "The deadline has passed" => "sign again with a later deadline";
    "deadline_out_of_range" 422 "The on-chain deadline does not fit uint48" => "use Unix seconds, not milliseconds";
    "deadline_too_far" 422 "The deadline is too far away" => "ask for an earlier one";
    "deadline_unreachable" 422 "There is too little time to be included" => "allow more time";
    "gas_out_of_range" 422 "The gas can't be used" => "ask for more than 0 and less than a transaction can carry";
    "invalid_configuration" 422 "The configuration has errors" => "mend what the detail names; the old one is in force";
    "invalid_field" 422 "A field has a wrong value" => "mend `field`";
    "invalid_models" 422 "These models can't be used" => "import what `export` wrote, for the same chain";
    "invalid_signature" 422 "The signature does not fit" => "check the EIP-712 domain (name, version, chain id, contract) and the nonce";
    "nonce_out_of_range" 422 "The nonce is out of range" => "use the forwarder's `nonces(from)`";
    "nonce_too_far" 422 "The nonce is too far ahead" => "send the earlier nonces first";
    "nonce_used" 422 "The nonce is used" => "sign again with nonce `expected`";
    "not_valid_in_time" 422 "It is not valid before its deadline" => "ask for a later deadline, or sign with an earlier `validAfter`";
    "unknown_forwarder" 422 "The forwarder is not served" => "use one of the chain's `forwarders` in `GET /v1/chains`";
    "unknown_token" 422 "The token is not served" => "use one of the chain's `tokens` in `GET /v1/chains`";
    "wrong_chain" 422 "The chain is not served" => "use one of the chains in `GET /v1/chains`";
    "rate_limited" 429 "Too fast" => "come back after `Retry-After`";
    "too_many_open" 429 "Too many requests are open" => "come back after `Retry-After`; the detail names the limit";
    "too_many_streams" 429 "Too many event streams" => "come back after `Retry-After`, or ask for the request now and then";
    "internal" 500 "The relayer failed" => "report it with the time of the request";
    "chain_unavailable" 503 "The chain can't be served now" => "come back after `Retry-After`";
    "hook_unavailable" 503 "The operator's own check can't be made now" => "come back after `Retry-After`; nothing is lost";
    "identity_unavailable" 503 "The promise can't be signed now" => "come back after `Retry-After`; nothing is lost";
    "overloaded" 503 "Too much at a time" => "come back after `Retry-After`";
    "paused" 503 "An operator has paused this" => "come back after `Retry-After`; nothing is lost";
    "shutting_down" 503 "The relayer is shutting down" => "try again; what was accepted is durable";
    "storage_unavailable" 503 "The storage could not answer" => "send the same bytes again, that is safe";
}

/// The entry of `code`; `internal` for an unknown one.
pub fn code_info(code: &str) -> CodeInfo {
    const INTERNAL: CodeInfo = CodeInfo {
        code: "internal",
        urn: "urn:slackwater:problem:internal",
        status: 500,
        title: "The relayer failed",
        remedy: "report it",
    };
    CODES.iter().copied().find(|info| info.code == code).unwrap_or(INTERNAL)
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    info: CodeInfo,
    body: wire::Problem<'static>,
}

impl Problem {
    /// A problem with this code, which must be one of [`CODES`].
    pub fn new(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let info = code_info(code);
        let body = wire::Problem {
            kind: info.urn.into(),
            title: info.title.into(),
            status: info.status,
            detail: detail.into(),
            code: info.code.into(),
            ..wire::Problem::default()
        };
        Self(Box::new(Inner { info, body }))
    }

    /// The same problem, to be retried after `after`.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.body.retry_after_ms = Some(millis(after));
        self.0.body.retryable = true;
        self
    }

    /// The same problem, at a field.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>) -> Self {
        self.0.body.field = Some(Cow::Owned(path.into()));
        self
    }

    /// The same problem, at a place in the body.
    #[must_use]
    pub fn position(mut self, line: usize, column: usize) -> Self {
        self.0.body.line = Some(line);
        self.0.body.column = Some(column);
        self
    }

    /// Its stable code.
    pub fn code(&self) -> &'static str {
        self.0.info.code
    }

    /// True if the call may have taken effect nevertheless.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.0.body.ambiguous
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.info.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The field at fault.
    pub fn field_path(&self) -> Option<&str> {
        self.0.body.field.as_deref()
    }

    /// Description of this occurrence.
    pub fn detail(&self) -> &str {
        &self.0.body.detail
    }

    /// The body as it is written.
    pub fn body(&self) -> &wire::Problem<'static> {
        &self.0.body
    }
}

fn millis(after: Duration) -> u64 {
    u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let bytes =
            serde_json::to_vec(self.body()).unwrap_or_else(|error| unreachable!("a problem is always JSON: {error}"));
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after_ms) = self.0.body.retry_after_ms {
            // Whole seconds, rounded up: coming back too early is refused again.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after_ms.div_ceil(1_000).max(1)));
        }
        if self.0.info.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"slackwater\""));
        }
        response
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        if let SubmitError::Ledger(error) = error {
            return error.into();
        }
        let mut problem = Self::new(error.code(), error.to_string());
        problem.0.body.retry_after_ms = error.retry_after().map(millis);
        problem.0.body.retryable = error.is_retryable();
        problem.0.body.ambiguous = error.is_ambiguous();
        match error {
            SubmitError::IdempotencyConflict { existing } | SubmitError::NonceConflict { existing } => {
                problem.0.body.existing = Some(existing);
            }
            SubmitError::NonceUsed { expected, .. } | SubmitError::NonceTooFar { expected, .. } => {
                problem.0.body.expected = Some(expected);
            }
            SubmitError::AlreadySubmitted { id } => problem.0.body.existing = Some(id),
            SubmitError::Open(error) => problem.0.body.missing = error.missing(),
            _ => {}
        }
        problem
    }
}

impl From<LedgerError> for Problem {
    /// Storage errors are logged in full and answered in general terms: their text may contain paths of this machine.
    fn from(error: LedgerError) -> Self {
        match &error {
            // Alerted once, when the fault began: see the ledger's health.
            LedgerError::Storage(_) | LedgerError::Full { .. } => tracing::debug!(%error, "storage failed"),
            _ => tracing::error!(%error, "storage failed"),
        }
        let mut problem = match &error {
            LedgerError::Damaged { .. } => Self::new("internal", "a stored record could not be read"),
            LedgerError::Closed => Self::new("shutting_down", "the relayer is shutting down"),
            LedgerError::InDoubt(_) => {
                Self::new("storage_unavailable", "the commit is in doubt; submitting the same bytes again is safe")
            }
            _ => Self::new("storage_unavailable", "nothing was stored"),
        };
        if problem.code() != "internal" {
            problem = problem.retry_after(Duration::from_secs(1));
        }
        problem.0.body.ambiguous = error.is_ambiguous();
        problem
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::Unknown(_) => Self::new("not_found", error.to_string()),
            CancelError::TooLate { .. } => Self::new("too_late", error.to_string()),
            CancelError::Ledger(error) => error.into(),
            CancelError::ShuttingDown => Self::shutting_down(),
            _ => Self::new("internal", "the request could not be cancelled"),
        }
    }
}

impl From<ModelError> for Problem {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::UnknownChain(_)
            | ModelError::NoModels(_)
            | ModelError::Registry(RegistryError::Unknown { .. }) => Self::new("not_found", error.to_string()),
            ModelError::Registry(RegistryError::NoEarlier) => Self::new("no_earlier_model", error.to_string()),
            ModelError::Registry(_) | ModelError::Import(_) | ModelError::OtherChain { .. } => {
                Self::new("invalid_models", error.to_string())
            }
            ModelError::TooLarge { .. } => Self::new("body_too_large", error.to_string()),
            // Like an unreachable chain: the same call succeeds elsewhere, or here after the lease has changed hands.
            ModelError::Elsewhere { .. } => Self::new("chain_unavailable", error.to_string()),
            ModelError::ShuttingDown => Self::shutting_down(),
            _ => Self::new("internal", "the models could not be changed"),
        }
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Invalid(errors) => Self::new("invalid_configuration", errors.to_string()),
            ReloadError::Policy(PolicyError::Ledger(error)) => error.into(),
            ReloadError::Unsupported | ReloadError::NeedsRestart(_) | ReloadError::Policy(_) => {
                Self::new("needs_restart", error.to_string())
            }
        }
    }
}

impl From<PauseError> for Problem {
    fn from(error: PauseError) -> Self {
        match error {
            PauseError::UnknownChain(_) | PauseError::UnknownTenant(_) => Self::new("not_found", error.to_string()),
            PauseError::Ledger(error) => error.into(),
            _ => Self::new("internal", "the pause could not be changed"),
        }
    }
}

impl From<WaitError> for Problem {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Unknown(_) => Self::new("not_found", error.to_string()),
            WaitError::Ledger(error) => error.into(),
            WaitError::ShuttingDown => Self::shutting_down(),
            _ => Self::new("internal", "waiting failed"),
        }
    }
}

impl Problem {
    /// The relayer is shutting down.
    pub fn shutting_down() -> Self {
        Self::new("shutting_down", "the relayer is shutting down").retry_after(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_sorted_and_have_statuses() {
        for pair in CODES.windows(2) {
            assert!(
                (pair[0].status, pair[0].code) < (pair[1].status, pair[1].code),
                "{} {}",
                pair[0].code,
                pair[1].code
            );
        }
        for info in CODES {
            assert!(StatusCode::from_u16(info.status).is_ok());
            assert_eq!(code_info(info.code), *info);
        }
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let response = Problem::new("rate_limited", "x").retry_after(Duration::from_millis(1_001)).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
