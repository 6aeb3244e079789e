//! Policy of one tenant: its permitted requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::{Address, FixedBytes, U256, fixed_bytes};
use serde::{Deserialize, Serialize};

use super::{Budget, BudgetShares};
use crate::{
    request::{KindName, VerifiedRequest, vehicle::Company},
    tuning::keys,
};

/// `multicall(bytes[])`: with an ERC-2771 recipient older than OpenZeppelin 4.9.4 / 5.0.1 it lets the caller forge the
/// sender (advisory GHSA-g4vp-m682-qqmp).
const MULTICALL_SELECTOR: FixedBytes<4> = fixed_bytes!("ac9650d8");

/// Permitted calls on one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct TargetRule {
    /// Allowed function selectors; `None` allows all but `multicall(bytes[])` on forwards.
    pub selectors: Option<BTreeSet<FixedBytes<4>>>,
}

/// Highest price for a tenant, percent of cost (`tenant.price_percent`).
const MAX_PRICE_PERCENT: u32 = 1_000;

keys! {
    /// Everything a tenant's requests must satisfy. Limits are inclusive.
    #[non_exhaustive]
    pub struct TenantPolicy;

    /// Highest gas of one request.
    max_gas: u64 [1..] = 2_000_000;
    /// Longest calldata of one request.
    max_calldata_bytes: usize [0..=1_048_576] = 16_384;
    /// Most requests that may be open at a time, not in a block.
    max_open_requests: u64 [1..] = 50_000;
    /// Most bytes of calldata in open requests.
    max_open_bytes: u64 [1_024..] = 134_217_728;
    /// Most open requests of one signer.
    max_open_per_signer: u64 [1..] = 10_000;
    /// Most open requests of one signer that wait behind a nonce which nobody has brought.
    max_gapped_per_signer: u64 [0..] = 64;
    /// Share of the budget that all such requests together may hold, percent. Beyond it each signer may still have 8, as long
    /// as its own hold less than 1 %.
    gapped_budget_percent: u32 [0..=100] = 10;
    /// Time that a request waits behind a missing nonce while the chain is well; then it ends `predecessor_failed`.
    gap_timeout "gap_timeout_ms": Duration [100..=86_400_000] = Duration::from_secs(60);
    /// Share of the sending capacity when tenants compete.
    weight: u32 [1..=1_000] = 1;
    /// Requests per second, sustained, with bursts of ten seconds' worth; in each instance. 0 is unlimited.
    rate_per_s: Option<u32> [0..=1_000_000] = Some(1_000);
    /// Questions per second about the nonces of signers that are new here, or whose nonce seems to be used or to leave a gap, with
    /// bursts of ten seconds' worth; in each instance. 0 is unlimited.
    nonce_lookups_per_s: Option<u32> [0..=1_000_000] = Some(100);
    /// Charge for a request, percent of what the request costs: above 100 adds a margin, below 100 leaves the rest to
    /// the operator. Its budget counts the larger of cost and price; `maxCost` bounds both. What was accepted keeps its own.
    price_percent: u32 [0..=1_000] = 100;
    beside {
        /// The tenant's name; also scopes idempotency keys, lists and events.
        id: String = String::new();
        /// Kinds it may use. `call` acts with the relayer's own account: only for trusted backends.
        kinds: BTreeSet<KindName> = BTreeSet::from([KindName::Forward]);
        /// Named targets per chain (`targets`); everything else is closed, a chain without an entry too, unless [`Self::others`]
        /// opens it. `None` allows any target of any chain, none of them named.
        targets: Option<BTreeMap<u64, BTreeMap<Address, TargetRule>>> = None;
        /// Chains on which targets that are not named are allowed too (`"*"` in `targets`), with what may be called there.
        others: BTreeMap<u64, TargetRule> = BTreeMap::new();
        /// Money for any target is meant to be unlimited, and calls to any target to be made (`open`).
        is_open: bool = false;
        /// Highest wei sent along with one request (`max_value_wei`).
        max_value_wei: U256 = U256::ZERO;
        /// Money; `None` is unlimited.
        budget: Option<Budget> = None;
        /// What one signer, and one target, may hold and spend of it.
        budget_shares: BudgetShares = BudgetShares::default();
    }
}

impl TenantPolicy {
    /// A tenant with safe defaults: `forward` only, no value, 2 000 000 gas, 16 KiB of calldata. It names no targets
    /// and has no budget: [`Self::problems`] demands one of them, or [`Self::is_open`].
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// The first key in which `other` differs and that can't change while a relay runs; `None` if every difference can.
    pub fn needs_restart(&self, other: &Self) -> Option<&'static str> {
        let (shares, others) = (&self.budget_shares, &other.budget_shares);
        // Spending is counted by period from the start on; the limit is read each time.
        let period = |policy: &Self| policy.budget.as_ref().map(|budget| budget.period);
        let fixed = [
            ("id", self.id != other.id),
            ("kinds", self.kinds != other.kinds),
            ("budget", period(self) != period(other)),
            ("signer_budget_percent", shares.signer_percent != others.signer_percent),
            ("target_budget_percent", shares.target_percent != others.target_percent),
        ];
        fixed.into_iter().find(|(_, differs)| *differs).map(|(key, _)| key)
    }

    /// Sharing rule for `request`: its target is named by the policy or not.
    pub fn company(&self, request: &VerifiedRequest) -> Company {
        // Payments share only through a contract that caps each one's gas, so that no payer can reach another's.
        let is_capped = request.payment().is_some();
        if is_capped || self.names(request.chain_id(), request.target()) { Company::Named } else { Company::Unnamed }
    }

    /// True if the policy names `target` on that chain: its operator knows the contract. Targets permitted by `"*"` are
    /// not named.
    pub fn names(&self, chain_id: u64, target: Address) -> bool {
        let named = self.targets.as_ref().and_then(|chains| chains.get(&chain_id));
        named.is_some_and(|targets| targets.contains_key(&target))
    }

    /// Settings that make the policy a faucet or a trap: the key of the tenant's table, the problem, and the
    /// correction.
    pub fn problems(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut problems = Vec::new();
        let allows_any = self.targets.is_none() || !self.others.is_empty();
        if allows_any && self.budget.is_none() && !self.is_open {
            problems.push((
                "targets",
                "anybody who may ask could spend without limit, on any contract",
                "name the contracts in `targets`, set a `budget`, or write `open = true`",
            ));
        }
        if self.kinds.iter().any(|kind| kind.acts_as_relayer()) {
            if self.targets.is_none() {
                problems.push((
                    "targets",
                    "kind `call` acts with the relayer's own account: its targets must be named",
                    "write targets = { \"CHAIN_ID\" = { \"0x…\" = [] } }",
                ));
            } else if !self.others.is_empty() && !self.is_open {
                problems.push((
                    "targets",
                    "kind `call` acts with the relayer's own account: \"*\" lets it call any contract",
                    "name the contracts, or write `open = true`",
                ));
            }
        }
        if self.price_percent > MAX_PRICE_PERCENT {
            problems.push((
                "price_percent",
                "more than ten times its cost is taken for a slip",
                "write at most 1000, which is ten times the cost",
            ));
        }
        problems
    }

    /// Checks `request` against the policy. Budget and rates are separate decisions.
    ///
    /// # Errors
    /// The first [`PolicyDenial`], with both numbers and the key that would change it.
    pub fn check(&self, request: &VerifiedRequest) -> Result<(), PolicyDenial> {
        let kind = request.kind().name();
        if !self.kinds.contains(&kind) {
            return Err(PolicyDenial::Kind { kind: kind.as_str() });
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
        let rule = match &self.targets {
            None => None,
            Some(chains) => {
                let named = chains.get(&request.chain_id()).and_then(|targets| targets.get(&target));
                Some(named.or_else(|| self.others.get(&request.chain_id())).ok_or(PolicyDenial::Target { target })?)
            }
        };
        match rule.and_then(|rule| rule.selectors.as_ref()) {
            Some(selectors) => {
                if !selector.is_some_and(|selector| selectors.contains(&selector)) {
                    return Err(PolicyDenial::Selector { target, selector });
                }
            }
            None => {
                if kind.appends_user() && selector == Some(MULTICALL_SELECTOR) {
                    return Err(PolicyDenial::Multicall { target });
                }
            }
        }
        Ok(())
    }
}

/// Reason for refusing a request by policy. For the tenant or the operator to change.
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
        /// Requested gas.
        gas: u64,
        /// Permitted gas.
        limit: u64,
    },
    /// `tenant.max_value_wei`.
    #[error("value {value_wei} wei is above the tenant's limit {limit_wei} wei (`tenant.max_value_wei`)")]
    Value {
        /// Requested value, wei.
        value_wei: U256,
        /// Permitted value, wei.
        limit_wei: U256,
    },
    /// `tenant.max_calldata_bytes`.
    #[error(
        "calldata has {bytes} bytes, limit {limit} (`tenant.max_calldata_bytes`); keep large data off chain and relay its hash"
    )]
    Calldata {
        /// Length of the calldata, bytes.
        bytes: usize,
        /// Permitted length, bytes.
        limit: usize,
    },
    /// `tenant.targets`.
    #[error("target {target} is not among the tenant's targets on this chain (`tenant.targets`)")]
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

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, Bytes};
    use serde_json::json;

    use super::*;
    use crate::request::{Call, Forward};

    const TARGET: Address = Address::repeat_byte(0x70);

    fn request(chain_id: u64, gas: u64, value: u64, data: &[u8], kind: KindName) -> VerifiedRequest {
        let (value, data) = (U256::from(value), Bytes::copy_from_slice(data));
        let kind = match kind {
            KindName::Forward => {
                let (forwarder, from) = (Address::repeat_byte(1), Address::repeat_byte(2));
                let gas = U256::from(gas);
                let (nonce, deadline, signature) = (U256::ZERO, 1, Bytes::new());
                json!({ "forward": Forward { forwarder, from, to: TARGET, value, gas, nonce, deadline, data, signature } })
            }
            KindName::Call => {
                let (gas, salt) = (U256::from(gas), String::new());
                json!({ "call": Call { to: TARGET, value, gas, data, any_sender: false, salt } })
            }
            KindName::Authorization => unreachable!("it has no calldata of its own"),
        };
        let stored = json!({
            "id": B256::ZERO, "chainId": chain_id, "gas": gas, "nonce": 0, "deadline": 1,
            "chainDeadlineS": null, "maxCostWei": null, "kind": kind,
        });
        VerifiedRequest::from_stored(stored.to_string().as_bytes()).unwrap()
    }

    fn forward(data: &[u8]) -> VerifiedRequest {
        request(1, 100_000, 0, data, KindName::Forward)
    }

    fn call(data: &[u8]) -> VerifiedRequest {
        request(1, 100_000, 0, data, KindName::Call)
    }

    /// Both kinds; on chain 1 only `TARGET`, with these selectors.
    fn allowing(selectors: Option<&[[u8; 4]]>) -> TenantPolicy {
        let selectors = selectors.map(|list| list.iter().copied().map(FixedBytes).collect());
        TenantPolicy {
            kinds: BTreeSet::from([KindName::Forward, KindName::Call]),
            targets: Some(BTreeMap::from([(1, BTreeMap::from([(TARGET, TargetRule { selectors })]))])),
            ..TenantPolicy::new("t")
        }
    }

    #[track_caller]
    fn refused(policy: &TenantPolicy, request: &VerifiedRequest, denial: PolicyDenial) {
        assert_eq!(policy.check(request), Err(denial));
    }

    #[test]
    fn limits_are_inclusive() {
        let policy = TenantPolicy { max_value_wei: U256::from(5), max_calldata_bytes: 3, ..TenantPolicy::new("t") };
        let with = |gas, value, data: &[u8]| request(1, gas, value, data, KindName::Forward);
        assert_eq!(policy.check(&with(2_000_000, 5, &[1, 2, 3])), Ok(()));
        let gas = PolicyDenial::Gas { gas: 2_000_001, limit: 2_000_000 };
        refused(&policy, &with(2_000_001, 5, &[]), gas);
        let value = PolicyDenial::Value { value_wei: U256::from(6), limit_wei: U256::from(5) };
        refused(&policy, &with(1, 6, &[]), value);
        refused(&policy, &with(1, 0, &[0; 4]), PolicyDenial::Calldata { bytes: 4, limit: 3 });
    }

    #[test]
    fn safe_defaults() {
        let policy = TenantPolicy::new("t");
        assert_eq!(policy.check(&forward(&[1, 2, 3, 4])), Ok(()));
        refused(&policy, &call(&[]), PolicyDenial::Kind { kind: "call" });
        let none = TenantPolicy { kinds: BTreeSet::new(), ..TenantPolicy::new("t") };
        refused(&none, &forward(&[]), PolicyDenial::Kind { kind: "forward" });
        let paid = request(1, 1, 1, &[], KindName::Forward);
        refused(&policy, &paid, PolicyDenial::Value { value_wei: U256::from(1), limit_wei: U256::ZERO });
    }

    #[test]
    fn targets_and_selectors() {
        let some = [1, 2, 3, 4];
        let policy = allowing(Some(&[some]));
        for request in [forward(&some), forward(&[1, 2, 3, 4, 5]), call(&some)] {
            assert_eq!(policy.check(&request), Ok(()));
        }
        let denial =
            |selector: Option<[u8; 4]>| PolicyDenial::Selector { target: TARGET, selector: selector.map(FixedBytes) };
        refused(&policy, &forward(&[1, 2, 3, 5]), denial(Some([1, 2, 3, 5])));
        // Calldata shorter than a selector reaches the fallback function, which is on no list of functions.
        refused(&policy, &forward(&[1, 2, 3]), denial(None));
        refused(&policy, &forward(&[]), denial(None));
        refused(&allowing(Some(&[])), &forward(&some), denial(Some(some)));
        // Without a list of functions every one is permitted.
        for data in [&some[..], &[], &[9]] {
            assert_eq!(allowing(None).check(&forward(data)), Ok(()));
        }
        let mut elsewhere = allowing(None);
        elsewhere.targets = Some(BTreeMap::from([(1, BTreeMap::new())]));
        refused(&elsewhere, &forward(&some), PolicyDenial::Target { target: TARGET });
    }

    #[test]
    fn a_chain_that_is_not_named_is_closed() {
        let policy = allowing(None);
        assert_eq!(policy.check(&forward(&[1])), Ok(()));
        refused(&policy, &request(2, 1, 0, &[1], KindName::Forward), PolicyDenial::Target { target: TARGET });
        let empty = TenantPolicy { targets: Some(BTreeMap::new()), ..TenantPolicy::new("t") };
        refused(&empty, &forward(&[1]), PolicyDenial::Target { target: TARGET });
    }

    #[test]
    fn a_star_allows_the_others_on_its_chain_without_naming_them() {
        let mut policy = allowing(Some(&[[1, 2, 3, 4]]));
        policy.others = BTreeMap::from([(2, TargetRule::default())]);
        assert_eq!(policy.check(&request(2, 1, 0, &[9], KindName::Forward)), Ok(()));
        assert!(policy.names(1, TARGET) && !policy.names(2, TARGET));
        refused(&policy, &request(3, 1, 0, &[9], KindName::Forward), PolicyDenial::Target { target: TARGET });
        // A named target keeps its own rule.
        policy.others.insert(1, TargetRule::default());
        assert!(policy.check(&forward(&[9])).is_err());
    }

    #[test]
    fn a_tenant_for_any_target_needs_a_budget_or_says_that_it_is_open() {
        let budget = Some(Budget { limit_wei: U256::from(1), period: std::time::Duration::ZERO });
        let faults = |policy: &TenantPolicy| policy.problems().len();
        assert_eq!(faults(&TenantPolicy::new("t")), 1);
        assert_eq!(faults(&TenantPolicy { is_open: true, ..TenantPolicy::new("t") }), 0);
        assert_eq!(faults(&TenantPolicy { budget: budget.clone(), ..TenantPolicy::new("t") }), 0);
        // Both kinds, named targets.
        assert_eq!(faults(&allowing(None)), 0);
        // Calls to any target.
        let star = BTreeMap::from([(1, TargetRule::default())]);
        assert_eq!(faults(&TenantPolicy { others: star.clone(), budget: budget.clone(), ..allowing(None) }), 1);
        assert_eq!(faults(&TenantPolicy { others: star, is_open: true, ..allowing(None) }), 0);
        assert_eq!(faults(&TenantPolicy { targets: None, is_open: true, budget, ..allowing(None) }), 1);
    }

    #[test]
    fn multicall_through_a_forwarder_must_be_named() {
        let data = [0xac, 0x96, 0x50, 0xd8, 0];
        let denial = PolicyDenial::Multicall { target: TARGET };
        refused(&TenantPolicy::new("t"), &forward(&data), denial.clone());
        refused(&allowing(None), &forward(&data), denial);
        assert_eq!(allowing(Some(&[MULTICALL_SELECTOR.0])).check(&forward(&data)), Ok(()));
        // The relayer's own account has no user to impersonate.
        assert_eq!(allowing(None).check(&call(&data)), Ok(()));
    }

    #[test]
    fn the_first_denial_is_the_cheapest_to_understand() {
        let policy = TenantPolicy { max_gas: 1, max_calldata_bytes: 0, ..allowing(Some(&[])) };
        let all_wrong = request(1, 2, 1, &[1], KindName::Forward);
        refused(&policy, &all_wrong, PolicyDenial::Gas { gas: 2, limit: 1 });
    }
}
