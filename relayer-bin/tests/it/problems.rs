//! Every domain error has a stable, documented code and a fitting status.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use slackwater::{CancelError, SubmitError, WaitError};
use slackwater_core::{
    policy::{BudgetError, BudgetShare, PolicyDenial},
    request::{RequestId, SignatureError, Status, VerifyError},
};
use slackwater_ledger::LedgerError;
use slackwater_relayer::http::problem::{CODES, Problem};

#[track_caller]
fn check(problem: impl Into<Problem>, status: u16, code: &str) {
    let problem = problem.into();
    assert_eq!((problem.status().as_u16(), problem.code()), (status, code));
    assert!(CODES.iter().any(|info| info.code == code && info.status == status), "{code} is not in the table");
    let json = serde_json::to_value(problem.body()).unwrap();
    assert_eq!(json["type"], format!("urn:slackwater:problem:{code}"));
    assert_eq!(json["status"], status);
    assert!(json["title"].is_string() && json["detail"].is_string());
    // 429 and 503 must give a retry time.
    assert!(!matches!(status, 429 | 503) || json["retryAfterMs"].is_u64(), "{json}");
}

#[test]
fn submissions() {
    let id = RequestId(B256::repeat_byte(1));
    let one = U256::from(1);
    check(SubmitError::UnknownChain(5), 422, "wrong_chain");
    check(SubmitError::UnknownTenant("x".to_owned()), 403, "unknown_tenant");
    check(SubmitError::GasTooHigh { gas: 2, limit: 1 }, 422, "gas_out_of_range");
    check(SubmitError::TooLarge { bytes: 2, limit: 1 }, 413, "request_too_large");
    check(SubmitError::Policy(PolicyDenial::Gas { gas: 2, limit: 1 }), 403, "policy_denied");
    let budget = BudgetError { needed_wei: one, available_wei: one, limit_wei: one, share: BudgetShare::Tenant };
    check(SubmitError::Budget(budget), 402, "budget_exhausted");
    check(SubmitError::AboveNodeFeeCap { needed_wei: 2, cap_wei: 1 }, 422, "above_node_fee_cap");
    check(SubmitError::AboveLaneBalance { value_wei: one, balance_wei: one }, 422, "above_lane_balance");
    check(SubmitError::CeilingTooLow { needed_wei: one, max_cost_wei: one }, 402, "max_cost_too_low");
    check(SubmitError::IdempotencyConflict { existing: id }, 409, "idempotency_conflict");
    check(SubmitError::NonceConflict { existing: id }, 409, "nonce_conflict");
    check(SubmitError::NonceUsed { nonce: 1, expected: 2 }, 422, "nonce_used");
    check(SubmitError::NonceTooFar { nonce: 9, expected: 2, limit: 3 }, 422, "nonce_too_far");
    let soon = Duration::from_millis(1);
    check(SubmitError::RateLimited { what: "x".to_owned(), retry_after: soon }, 429, "rate_limited");
    let unavailable = SubmitError::ChainUnavailable { chain_id: 1, detail: "x".to_owned(), retry_after: soon };
    check(unavailable, 503, "chain_unavailable");
    check(SubmitError::Ledger(LedgerError::Closed), 503, "shutting_down");
    check(SubmitError::ShuttingDown, 503, "shutting_down");
}

#[test]
fn verification() {
    let check = |error: VerifyError, code: &str| check(SubmitError::Invalid(error), 422, code);
    let one = U256::from(1);
    check(VerifyError::WrongChain { requested: 1, served: 2 }, "wrong_chain");
    check(VerifyError::UnknownForwarder(Address::ZERO), "unknown_forwarder");
    check(VerifyError::Signature(SignatureError::HighS), "invalid_signature");
    check(VerifyError::WrongSigner { from: Address::ZERO, recovered: Address::ZERO }, "invalid_signature");
    check(VerifyError::GasOutOfRange(one), "gas_out_of_range");
    check(VerifyError::ZeroGas, "gas_out_of_range");
    check(VerifyError::NonceOutOfRange(one), "nonce_out_of_range");
    check(VerifyError::DeadlineOutOfRange(1), "deadline_out_of_range");
    check(VerifyError::DeadlineExpired { deadline_at_ms: 1, now_ms: 2 }, "deadline_expired");
    check(VerifyError::DeadlineUnreachable { slack_ms: 1, guard_ms: 2 }, "deadline_unreachable");
    check(VerifyError::DeadlineTooFar { slack_ms: 2, limit_ms: 1 }, "deadline_too_far");
}

#[test]
fn storage_cancel_and_wait() {
    let id = RequestId(B256::repeat_byte(1));
    check(LedgerError::Storage("/secret/path".to_owned().into()), 503, "storage_unavailable");
    check(LedgerError::InDoubt("x".to_owned()), 503, "storage_unavailable");
    check(LedgerError::Full { len: 1, limit: 1 }, 503, "storage_unavailable");
    check(LedgerError::Damaged { what: "quote", detail: "x".to_owned() }, 500, "internal");
    check(CancelError::Unknown(id), 404, "not_found");
    check(CancelError::TooLate { id, status: Status::Broadcast }, 409, "too_late");
    check(CancelError::ShuttingDown, 503, "shutting_down");
    check(WaitError::Unknown(id), 404, "not_found");
    check(WaitError::ShuttingDown, 503, "shutting_down");
    let told =
        serde_json::to_string(Problem::from(LedgerError::Storage("/secret/path".to_owned().into())).body()).unwrap();
    assert!(!told.contains("/secret"), "{told}");
    let json =
        serde_json::to_value(Problem::from(SubmitError::Ledger(LedgerError::InDoubt("x".to_owned()))).body()).unwrap();
    assert_eq!((json["ambiguous"].as_bool(), json["retryable"].as_bool()), (Some(true), Some(true)));
    let json = serde_json::to_value(Problem::from(SubmitError::NonceConflict { existing: id }).body()).unwrap();
    assert_eq!(json["existing"], id.to_string());
}

#[test]
fn the_page_lists_every_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    for info in CODES {
        let row = format!("| {} | `{}` | {} | {} |", info.status, info.code, info.title, info.remedy);
        assert!(page.contains(&row), "docs/api.md lacks the row\n{row}");
    }
}
