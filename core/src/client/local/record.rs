//! Stored records and their keys.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    chain::{Fees, decimal},
    lane::{AttemptKey, AttemptKind, Plan},
    request::{Reason, RequestId, Status, VerifiedRequest, vehicle::Payload},
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

impl End {
    pub(super) const fn new(status: Status, reason: Option<Reason>, at: Timestamp) -> Self {
        Self { status, reason, detail: None, tx_hash: None, block_number: None, cost_wei: None, at }
    }
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
    request: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

/// A request as it is stored.
#[derive(Debug, Clone)]
pub(super) struct RequestRecord {
    pub(super) accepted_at: Timestamp,
    pub(super) ceiling_wei_per_gas: u128,
    pub(super) batch_failures: u32,
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
        end: Option<&End>,
    ) -> String {
        let request = String::from_utf8(request.to_stored()).ok().and_then(|text| RawValue::from_string(text).ok());
        let request = request.unwrap_or_else(|| unreachable!("a stored request is JSON"));
        text(&RequestForm { version: VERSION, accepted_at, ceiling, batch_failures, request, end: end.cloned() })
    }

    pub(super) fn decode(key: &str, text: &str) -> Option<Self> {
        let form: RequestForm = serde_json::from_slice(text.as_bytes()).ok()?;
        let request = VerifiedRequest::from_stored(form.request.get().as_bytes()).ok()?;
        (form.version == VERSION && request_key(request.id()) == key).then_some(Self {
            accepted_at: form.accepted_at,
            ceiling_wei_per_gas: form.ceiling,
            batch_failures: form.batch_failures,
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
    pub(super) fn new(members: Vec<RequestId>, weights: Vec<u64>, plan: &Plan, planned_block: u64) -> Self {
        let Payload { to, value, data, gas_limit } = plan.payload.clone();
        let (deadline, ceiling, extra) = (plan.deadline, plan.ceiling_wei_per_gas, plan.extra_wei);
        Self { members, weights, to, value, data, gas_limit, deadline, ceiling, extra, planned_block }
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
pub(super) struct AttemptRecord {
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

impl AttemptRecord {
    pub(super) const fn new(kind: AttemptKind, fees: Fees, hash: B256, raw: Bytes, batch: Option<BatchForm>) -> Self {
        let (max_fee, max_priority_fee) = (fees.max_fee_per_gas, fees.max_priority_fee_per_gas);
        Self { version: VERSION, kind, max_fee, max_priority_fee, hash, raw, batch }
    }

    pub(super) const fn fees(&self) -> Fees {
        Fees::new(self.max_fee, self.max_priority_fee)
    }

    pub(super) fn encode(&self) -> String {
        text(self)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let record: Self = serde_json::from_slice(text.as_bytes()).ok()?;
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
        let record: Self = serde_json::from_slice(text.as_bytes()).ok()?;
        (record.version == VERSION).then_some(record)
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("a record is always JSON: {error}"))
}
