//! Tenants, budgets, rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use alloy_primitives::{Address, FixedBytes, U256, hex};
use slackwater::policy::{Budget, KindName, TargetRule, TenantPolicy};

use super::{Check, DEFAULT_PERIOD_S, size};
use crate::{
    config::{RawBudget, RawKind, RawTenant, TenantConfig, layers::join},
    http::auth::KeyHash,
    scalar::Uint,
};

pub(super) fn tenant_config(
    check: &mut Check<'_>,
    key: &str,
    raw: RawTenant,
    allow_anonymous: bool,
) -> Option<TenantConfig> {
    let id_key = join(key, "id");
    let Some(id) = raw.id else {
        check.fail(&id_key, None, "is missing", "name the tenant");
        return None;
    };
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(is_name) {
        check.fail(&id_key, Some(&format!("{id:?}")), "must be 1 to 64 of a-z, 0-9, '-' and '_'", "choose another id");
    }
    let keys_key = join(key, "api_keys");
    let mut keys = Vec::new();
    for (index, text) in raw.api_keys.iter().enumerate() {
        match KeyHash::parse(text) {
            Some(hash) => keys.push(hash),
            None => check.fail(
                &join(&keys_key, &index.to_string()),
                None,
                "is not a hash `sha256:<64 hexadecimal digits>` (hidden: it may be a key)",
                format!("make a key and its hash with `slackwater keys api --tenant {id}`"),
            ),
        }
    }
    if raw.api_keys.is_empty() && !allow_anonymous {
        check.fail(
            &keys_key,
            None,
            "is missing: the tenant could not call",
            format!("`slackwater keys api --tenant {id}`"),
        );
    }
    let mut policy = TenantPolicy::new(&id);
    if let Some(kinds) = &raw.kinds {
        policy.kinds = kinds
            .iter()
            .map(|kind| match kind {
                RawKind::Forward => KindName::Forward,
                RawKind::Call => KindName::Call,
            })
            .collect();
        if policy.kinds.is_empty() {
            check.fail(&join(key, "kinds"), Some("[]"), "the tenant could ask for nothing", "name a kind");
        }
    }
    policy.targets = raw.targets.map(|targets| target_rules(check, &join(key, "targets"), &targets));
    policy.max_gas = raw.max_gas.unwrap_or(policy.max_gas);
    policy.max_value_wei = raw.max_value_wei.map_or(policy.max_value_wei, |wei| wei.0);
    policy.max_calldata_bytes = size(raw.max_calldata_bytes, policy.max_calldata_bytes);
    policy.max_open_requests = raw.max_open_requests.unwrap_or(policy.max_open_requests);
    policy.weight = raw.weight.unwrap_or(policy.weight);
    policy.rate_per_s = raw.rate_per_s.and_then(NonZeroU32::new).map(NonZeroU32::get);
    policy.budget = raw.budget.and_then(|budget| budget_of(check, &join(key, "budget"), &budget));
    Some(TenantConfig { policy, is_operator: raw.operator.unwrap_or(false), keys })
}

pub(super) fn budget_of(check: &mut Check<'_>, key: &str, raw: &RawBudget) -> Option<Budget> {
    let Some(Uint(limit_wei)) = raw.limit_wei else {
        check.fail(&join(key, "limit_wei"), None, "is missing", "name the most that may be spent, in wei");
        return None;
    };
    if limit_wei == U256::ZERO {
        check.fail(
            &join(key, "limit_wei"),
            Some("0"),
            "nothing could be sent",
            "name the most that may be spent, in wei",
        );
    }
    Some(Budget { limit_wei, period: Duration::from_secs(raw.period_s.unwrap_or(DEFAULT_PERIOD_S)) })
}

type TargetRules = BTreeMap<u64, BTreeMap<Address, TargetRule>>;

pub(super) fn target_rules(
    check: &mut Check<'_>,
    key: &str,
    raw: &BTreeMap<String, BTreeMap<String, Vec<String>>>,
) -> TargetRules {
    let mut rules = TargetRules::new();
    for (chain, targets) in raw {
        let key = join(key, chain);
        let Ok(chain_id) = chain.parse::<u64>() else {
            check.fail(&key, Some(chain), "is not a chain id", "write the decimal EIP-155 id in quotes");
            continue;
        };
        for (text, selectors) in targets {
            let key = join(&key, text);
            let Some(address) = check.address(&key, text) else { continue };
            let mut allowed = BTreeSet::new();
            for selector in selectors {
                let mut bytes = [0u8; 4];
                match selector.strip_prefix("0x") {
                    Some(digits) if hex::decode_to_slice(digits, &mut bytes).is_ok() => {
                        allowed.insert(FixedBytes(bytes));
                    }
                    _ => check.fail(&key, Some(selector), "is not a selector", "write 0x and 8 hexadecimal digits"),
                }
            }
            let rule = TargetRule { selectors: (!selectors.is_empty()).then_some(allowed) };
            rules.entry(chain_id).or_default().insert(address, rule);
        }
    }
    rules
}
