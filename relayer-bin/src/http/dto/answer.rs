//! Answers to submissions and to questions about costs.

use alloy_primitives::{Bytes, U256};
use slackwater::{Quote, WaitQuote};
use slackwater_core::{
    request,
    wire::{self, Accepted, Account, BatchResult, HexBytes, Promise, Uint, Wait},
};

use crate::http::problem::Problem;

/// The price, without the worth of waiting.
pub fn quote(quote: &Quote) -> wire::Quote {
    wire::Quote {
        base_fee_wei_per_gas: Uint(quote.base_fee_wei_per_gas),
        priority_fee_wei_per_gas: Uint(quote.priority_fee_wei_per_gas),
        gas: quote.gas,
        l1_data_fee_wei: Uint(quote.l1_data_fee_wei),
        operator_fee_wei: Uint(quote.operator_fee_wei),
        expected_cost_wei: Uint(quote.expected_cost_wei),
        max_cost_wei: Uint(quote.max_cost_wei),
        wait: None,
    }
}

/// The worth of waiting.
pub fn wait(quote: &Quote, wait: &WaitQuote) -> Wait {
    let per_gas = wait.expected_base_fee_wei_per_gas.saturating_add(quote.priority_fee_wei_per_gas);
    Wait {
        send_now: wait.send_now,
        expected_cost_wei: Uint(U256::from(per_gas).saturating_mul(U256::from(quote.gas))),
        reservation_wei_per_gas: Uint(wait.reservation_wei_per_gas),
        q10_wei_per_gas: Uint(wait.interval_wei_per_gas.0),
        q90_wei_per_gas: Uint(wait.interval_wei_per_gas.1),
        expected_send_in_ms: u64::try_from(wait.expected_send_in.as_millis()).unwrap_or(u64::MAX),
        cap_covers: wait.cap_covers,
    }
}

pub(super) fn promise(promise: &request::Promise, signature: &Bytes) -> Promise {
    Promise {
        request_hash: promise.request_hash,
        chain_id: promise.chain_id,
        deadline: promise.deadline,
        relayer: Account(promise.relayer),
        signature: HexBytes(signature.clone()),
    }
}

/// The acceptance.
pub fn accepted(acceptance: &slackwater::Accepted) -> Accepted {
    let record = acceptance.record();
    Accepted {
        id: record.id,
        status: record.status.into(),
        chain_id: record.chain_id,
        deadline_at_ms: record.deadline,
        valid_until_ms: Some(record.valid_until),
        accepted_at_ms: record.accepted_at,
        promise: promise(acceptance.promise(), acceptance.promise_signature()),
        quote: Some(quote(acceptance.quote())),
        duplicate: acceptance.is_duplicate(),
    }
}

/// Result of one request of a batch.
pub fn batch_result(result: &Result<slackwater::Accepted, Problem>) -> BatchResult<'_> {
    match result {
        Ok(acceptance) => BatchResult { status: 202, accepted: Some(accepted(acceptance)), problem: None },
        Err(problem) => {
            BatchResult { status: problem.status().as_u16(), accepted: None, problem: Some(problem.body().clone()) }
        }
    }
}
