//! Deserialised forms of answers. `serde(flatten)` would first buffer each of them in memory in a form of its own, and
//! in WASM that is a tenth of the module.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::Deserialize;

use super::{
    answer::{Accepted, Attempt, Event, OfferedFees, Quote, RequestDetail, RequestSummary, SignedPromise},
    error::Problem,
    open::Open,
    outbox::Outcome,
};
use crate::{
    Timestamp,
    chain::decimal,
    request::{BatchId, Promise, Reason, RequestId, Status},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SignedPromiseJson {
    request_hash: RequestId,
    chain_id: u64,
    deadline: u64,
    relayer: Address,
    signature: Bytes,
}

impl From<SignedPromiseJson> for SignedPromise {
    fn from(json: SignedPromiseJson) -> Self {
        let SignedPromiseJson { request_hash, chain_id, deadline, relayer, signature } = json;
        Self { promise: Promise { request_hash, chain_id, deadline, relayer }, signature }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttemptJson {
    index: u32,
    kind: String,
    #[serde(with = "decimal")]
    max_fee_wei_per_gas: u128,
    #[serde(with = "decimal")]
    priority_fee_wei_per_gas: u128,
    tx_hash: B256,
    created_at_ms: Timestamp,
}

impl From<AttemptJson> for Attempt {
    fn from(json: AttemptJson) -> Self {
        let AttemptJson { index, kind, max_fee_wei_per_gas, priority_fee_wei_per_gas, tx_hash, created_at_ms } = json;
        let fees = OfferedFees { max_fee_wei_per_gas, priority_fee_wei_per_gas };
        Self { index, kind, fees, tx_hash, created_at_ms }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestDetailJson {
    id: RequestId,
    chain_id: u64,
    kind: String,
    status: Open<Status>,
    #[serde(default)]
    reason: Option<Open<Reason>>,
    target: Address,
    deadline_at_ms: Timestamp,
    #[serde(default)]
    valid_until_ms: Option<Timestamp>,
    #[serde(default)]
    late_at_ms: Option<Timestamp>,
    #[serde(default)]
    executable_until: Option<u64>,
    accepted_at_ms: Timestamp,
    updated_at_ms: Timestamp,
    #[serde(default)]
    batch: Option<BatchId>,
    #[serde(default)]
    tx_hash: Option<B256>,
    #[serde(default)]
    block_number: Option<u64>,
    #[serde(default)]
    gas_used: Option<u64>,
    #[serde(default, with = "decimal::option")]
    cost_wei: Option<U256>,
    #[serde(default, with = "decimal::option")]
    price_wei: Option<U256>,
    #[serde(default, with = "decimal::option")]
    reserved_wei: Option<U256>,
    #[serde(default)]
    submitted_by: Option<String>,
    promise: SignedPromise,
    #[serde(default)]
    quote: Option<Quote>,
    #[serde(default)]
    attempts: Vec<Attempt>,
    #[serde(default)]
    timeline: Vec<Event>,
}

impl From<RequestDetailJson> for RequestDetail {
    fn from(json: RequestDetailJson) -> Self {
        Self {
            summary: RequestSummary {
                id: json.id,
                chain_id: json.chain_id,
                kind: json.kind,
                status: json.status,
                reason: json.reason,
                target: json.target,
                deadline_at_ms: json.deadline_at_ms,
                valid_until_ms: json.valid_until_ms,
                late_at_ms: json.late_at_ms,
                executable_until: json.executable_until,
                accepted_at_ms: json.accepted_at_ms,
                updated_at_ms: json.updated_at_ms,
                batch: json.batch,
                tx_hash: json.tx_hash,
                block_number: json.block_number,
                gas_used: json.gas_used,
                cost_wei: json.cost_wei,
                price_wei: json.price_wei,
                reserved_wei: json.reserved_wei,
                submitted_by: json.submitted_by,
            },
            promise: json.promise,
            quote: json.quote,
            attempts: json.attempts,
            timeline: json.timeline,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OutcomeJson {
    kind: String,
    #[serde(default)]
    accepted: Option<Box<Accepted>>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    problem: Option<Box<Problem>>,
    #[serde(default)]
    may_be_accepted: Option<bool>,
}

impl TryFrom<OutcomeJson> for Outcome {
    type Error = &'static str;

    fn try_from(json: OutcomeJson) -> Result<Self, Self::Error> {
        match (json.kind.as_str(), json.accepted, json.code, json.may_be_accepted) {
            ("accepted", Some(accepted), _, _) => Ok(Self::Accepted { accepted }),
            ("refused", _, Some(code), Some(may_be_accepted)) => {
                Ok(Self::Refused { code, problem: json.problem, may_be_accepted })
            }
            ("expired", _, _, Some(may_be_accepted)) => Ok(Self::Expired { may_be_accepted }),
            _ => Err("no outcome of a submission"),
        }
    }
}
