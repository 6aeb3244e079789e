//! What one tenant may ask for.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, FixedBytes, U256, fixed_bytes};
use serde::{Deserialize, Serialize};

use super::Budget;
use crate::request::{RequestKind, VerifiedRequest};

/// `multicall(bytes[])`: with an ERC-2771 recipient older than OpenZeppelin 4.9.4 / 5.0.1 it lets the caller forge the
/// sender (advisory GHSA-g4vp-m682-qqmp).
const MULTICALL_SELECTOR: FixedBytes<4> = fixed_bytes!("ac9650d8");

/// Name of a request kind in policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KindName {
    /// ERC-2771 requests.
    Forward,
    /// The tenant's own calls, made by the relayer's account.
    Call,
}

impl KindName {
    /// The kind of `request`.
    pub const fn of(request: &VerifiedRequest) -> Self {
        match request.kind() {
            RequestKind::Forward(_) => Self::Forward,
            RequestKind::Call(_) => Self::Call,
        }
    }
}

/// What may be called on one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct TargetRule {
    /// Allowed function selectors; `None` allows all but `multicall(bytes[])` on forwards.
    pub selectors: Option<BTreeSet<FixedBytes<4>>>,
}

/// Everything a tenant's requests must satisfy. Limits are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPolicy {
    /// The tenant's name; also scopes idempotency keys, lists and events.
    pub id: String,
    /// Kinds it may use. `call` acts with the relayer's own account: only for trusted backends.
    pub kinds: BTreeSet<KindName>,
    /// Allowed targets per chain; a chain without an entry, or `None`, allows any target.
    pub targets: Option<BTreeMap<u64, BTreeMap<Address, TargetRule>>>,
    /// Highest inner gas of one request (`max_gas`).
    pub max_gas: u64,
    /// Highest wei sent along with one request (`max_value_wei`).
    pub max_value_wei: U256,
    /// Longest calldata of one request (`max_calldata_bytes`).
    pub max_calldata_bytes: usize,
    /// Most requests that may be open at a time (`max_open_requests`).
    pub max_open_requests: u64,
    /// Share of the sending capacity when tenants compete; 1 is normal.
    pub weight: u32,
    /// Accepted requests per second, sustained; `None` is unlimited (`rate_per_s`).
    pub rate_per_s: Option<u32>,
    /// Money; `None` is unlimited.
    pub budget: Option<Budget>,
}

impl TenantPolicy {
    /// A tenant with safe defaults: `forward` only, no value, 2 000 000 gas, 16 KiB of calldata, no budget.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            kinds: BTreeSet::from([KindName::Forward]),
            targets: None,
            max_gas: 2_000_000,
            max_value_wei: U256::ZERO,
            max_calldata_bytes: 16_384,
            max_open_requests: 1_000_000,
            weight: 1,
            rate_per_s: None,
            budget: None,
        }
    }

    /// Whether the policy allows `request`. Budget and rates are separate decisions.
    ///
    /// # Errors
    /// The first [`PolicyDenial`], with both numbers and the key that would change it.
    pub fn check(&self, request: &VerifiedRequest) -> Result<(), PolicyDenial> {
        let kind = KindName::of(request);
        if !self.kinds.contains(&kind) {
            return Err(PolicyDenial::Kind { kind: request.kind_name() });
        }
        if request.gas() > self.max_gas {
            return Err(PolicyDenial::Gas { gas: request.gas(), limit: self.max_gas });
        }
        if request.value() > self.max_value_wei {
            return Err(PolicyDenial::Value { value_wei: request.value(), limit_wei: self.max_value_wei });
        }
        let bytes = request.data().len();
        if bytes > self.max_calldata_bytes {
            return Err(PolicyDenial::Calldata { bytes, limit: self.max_calldata_bytes });
        }
        let target = request.target();
        let selector = request.selector().map(FixedBytes);
        let rule = match self.targets.as_ref().and_then(|chains| chains.get(&request.chain_id())) {
            None => None,
            Some(targets) => Some(targets.get(&target).ok_or(PolicyDenial::Target { target })?),
        };
        match rule.and_then(|rule| rule.selectors.as_ref()) {
            Some(selectors) => {
                if !selector.is_some_and(|selector| selectors.contains(&selector)) {
                    return Err(PolicyDenial::Selector { target, selector });
                }
            }
            None => {
                if kind == KindName::Forward && selector == Some(MULTICALL_SELECTOR) {
                    return Err(PolicyDenial::Multicall { target });
                }
            }
        }
        Ok(())
    }
}

/// Why a tenant's policy refuses a request. The tenant's or the operator's to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyDenial {
    /// `tenant.kinds`.
    #[error("kind `{kind}` is not allowed for this tenant (`tenant.kinds`)")]
    Kind {
        /// The request's kind.
        kind: &'static str,
    },
    /// `tenant.max_gas`.
    #[error("gas {gas} is above the tenant's limit {limit} (`tenant.max_gas`)")]
    Gas {
        /// Asked for.
        gas: u64,
        /// Allowed.
        limit: u64,
    },
    /// `tenant.max_value_wei`.
    #[error("value {value_wei} wei is above the tenant's limit {limit_wei} wei (`tenant.max_value_wei`)")]
    Value {
        /// Asked for.
        value_wei: U256,
        /// Allowed.
        limit_wei: U256,
    },
    /// `tenant.max_calldata_bytes`.
    #[error(
        "calldata has {bytes} bytes, limit {limit} (`tenant.max_calldata_bytes`); keep large data off chain and relay its hash"
    )]
    Calldata {
        /// Given.
        bytes: usize,
        /// Allowed.
        limit: usize,
    },
    /// `tenant.targets`.
    #[error("target {target} is not on the tenant's allowlist (`tenant.targets`)")]
    Target {
        /// The target.
        target: Address,
    },
    /// `tenant.targets.selectors`.
    #[error("selector {selector:?} of target {target} is not on the tenant's allowlist (`tenant.targets.selectors`)")]
    Selector {
        /// The target.
        target: Address,
        /// The selector; `None` when the calldata is shorter than 4 bytes.
        selector: Option<FixedBytes<4>>,
    },
    /// `multicall(bytes[])` could forge the sender; allow it explicitly by selector.
    #[error("multicall(bytes[]) on {target} could forge the sender through ERC-2771; allow it explicitly by selector")]
    Multicall {
        /// The target.
        target: Address,
    },
}
