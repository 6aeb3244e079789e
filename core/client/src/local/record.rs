//! Stored records and their keys.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chain::{Fees, decimal},
    json,
    lane::{AttemptKey, AttemptKind, Plan},
    record::{AttemptRecord, BatchRecord, BatchState, PlannedBatch},
    request::{BatchId, Reason, RequestId, Status, VerifiedRequest, vehicle::Payload},
    time::Timestamp,
};

/// Version of the record formats.
const VERSION: u32 = 1;

/// End of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct End {
    pub(super) status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// Human-readable detail, such as revert data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tx_hash: Option<B256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) block_number: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "decimal::option")]
    pub(super) cost_wei: Option<U256>,
    pub(super) at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestForm {
    version: u32,
    accepted_at: Timestamp,
    #[serde(with = "decimal")]
    ceiling: u128,
    #[serde(default)]
    batch_failures: u32,
    /// Absent in records of versions that did not count it.
    #[serde(default, skip_serializing_if = "U256::is_zero", with = "decimal")]
    spent: U256,
    request: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

/// A request as it is stored.
#[derive(Debug, Clone)]
pub(super) struct RequestRecord {
    pub(super) accepted_at: Timestamp,
    pub(super) ceiling_wei_per_gas: u128,
    pub(super) batch_failures: u32,
    /// Charged so far, wei.
    pub(super) spent_wei: U256,
    pub(super) request: VerifiedRequest,
    pub(super) end: Option<End>,
}

/// Key of a request's record.
pub(super) fn request_key(id: RequestId) -> String {
    format!("r:{id}")
}

impl RequestRecord {
    pub(super) fn encode(
        request: &VerifiedRequest,
        accepted_at: Timestamp,
        ceiling: u128,
        batch_failures: u32,
        spent: U256,
        end: Option<&End>,
    ) -> String {
        let request = serde_json::from_slice(&request.to_stored());
        let request = request.unwrap_or_else(|error| unreachable!("a stored request is JSON: {error}"));
        text(&RequestForm { version: VERSION, accepted_at, ceiling, batch_failures, spent, request, end: end.cloned() })
    }

    pub(super) fn decode(key: &str, text: &str) -> Option<Self> {
        let form: RequestForm = json::read(text.as_bytes()).ok()?;
        let request = VerifiedRequest::from_stored_value(form.request)?;
        (form.version == VERSION && request_key(request.id()) == key).then_some(Self {
            accepted_at: form.accepted_at,
            ceiling_wei_per_gas: form.ceiling,
            batch_failures: form.batch_failures,
            spent_wei: form.spent,
            request,
            end: form.end,
        })
    }
}

/// The batch, as stored in its first attempt's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BatchForm {
    pub(super) members: Vec<RequestId>,
    /// Gas of each member, for sharing the cost.
    pub(super) weights: Vec<u64>,
    to: Address,
    #[serde(with = "decimal")]
    value: U256,
    data: Bytes,
    gas_limit: u64,
    deadline: Timestamp,
    #[serde(with = "decimal")]
    ceiling: u128,
    #[serde(with = "decimal")]
    extra: U256,
    /// A block that was final at planning time: the nonce was still free there.
    pub(super) planned_block: u64,
}

impl BatchForm {
    pub(super) fn new(planned: &PlannedBatch, payload: Payload, planned_block: u64, extra: U256) -> Self {
        let Payload { to, value, data, gas_limit } = payload;
        let members = planned.members.iter().map(|member| member.id).collect();
        let weights = planned.members.iter().map(|member| member.own_gas.unwrap_or_default()).collect();
        let BatchRecord { deadline, ceiling_wei_per_gas: ceiling, .. } = planned.batch;
        Self { members, weights, to, value, data, gas_limit, deadline, ceiling, extra, planned_block }
    }

    /// The batch as the sender knows it.
    pub(super) fn record(&self, id: BatchId) -> BatchRecord {
        BatchRecord {
            id,
            state: BatchState::Broadcast,
            to: self.to,
            value: self.value,
            gas_limit: self.gas_limit,
            deadline: self.deadline,
            ceiling_wei_per_gas: self.ceiling,
            trigger: String::new(),
            // The time is not stored; batches of one lane are planned in the order of their nonces.
            created_at: Timestamp(id.nonce),
            included_hash: None,
            block: None,
            gas_used: None,
            cost_wei: None,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        Plan {
            payload: Payload { to: self.to, value: self.value, data: self.data.clone(), gas_limit: self.gas_limit },
            deadline: self.deadline,
            ceiling_wei_per_gas: self.ceiling,
            extra_wei: self.extra,
            // The nodes' answers about it are not stored.
            is_guarded: false,
            is_alone: self.members.len() == 1,
        }
    }
}

/// A signed attempt as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttemptForm {
    version: u32,
    pub(super) kind: AttemptKind,
    #[serde(with = "decimal")]
    max_fee: u128,
    #[serde(with = "decimal")]
    max_priority_fee: u128,
    pub(super) hash: B256,
    pub(super) raw: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<BatchForm>,
}

/// Key of an attempt's record.
pub(super) fn attempt_key(key: AttemptKey) -> String {
    format!("a:{}:{}", key.nonce, key.index)
}

/// Parses an [`attempt_key`].
pub(super) fn parse_attempt_key(text: &str) -> Option<AttemptKey> {
    let (nonce, index) = text.strip_prefix("a:")?.split_once(':')?;
    let key = AttemptKey { nonce: nonce.parse().ok()?, index: index.parse().ok()? };
    (attempt_key(key) == text).then_some(key)
}

impl AttemptForm {
    pub(super) fn new(attempt: &AttemptRecord, batch: Option<BatchForm>) -> Self {
        let AttemptRecord { kind, fees, hash, ref raw, .. } = *attempt;
        let (max_fee, max_priority_fee) = (fees.max_fee_per_gas, fees.max_priority_fee_per_gas);
        Self { version: VERSION, kind, max_fee, max_priority_fee, hash, raw: raw.clone(), batch }
    }

    /// The attempt as the sender knows it.
    pub(super) fn attempt(&self, batch: BatchId, index: u32) -> AttemptRecord {
        let (kind, fees, hash, raw) = (self.kind, self.fees(), self.hash, self.raw.clone());
        AttemptRecord { batch, index, kind, fees, hash, raw, created_at: Timestamp(batch.nonce) }
    }

    pub(super) const fn fees(&self) -> Fees {
        Fees::new(self.max_fee, self.max_priority_fee)
    }

    pub(super) fn encode(&self) -> String {
        text(self)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let record: Self = json::read(text.as_bytes()).ok()?;
        (record.version == VERSION).then_some(record)
    }
}

/// Key of the lane's record.
pub(super) const LANE_KEY: &str = "l";

/// The lane as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LaneRecord {
    version: u32,
    /// One more than the highest final nonce.
    pub(super) next_nonce: u64,
}

impl LaneRecord {
    pub(super) const fn new(next_nonce: u64) -> Self {
        Self { version: VERSION, next_nonce }
    }

    pub(super) fn encode(self) -> String {
        text(&self)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let record: Self = json::read(text.as_bytes()).ok()?;
        (record.version == VERSION).then_some(record)
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("a record is always JSON: {error}"))
}
