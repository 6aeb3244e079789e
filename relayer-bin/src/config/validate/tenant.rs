//! Tenants, budgets, rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::{Address, FixedBytes, U256, hex};
use slackwater_core::{
    policy::{Budget, BudgetShares, KindName, TargetRule, TenantPolicy},
    wire::Uint,
};

use super::{Check, DEFAULT_PERIOD_S, layered, server::is_origin};
use crate::{
    config::{RawBudget, RawKind, RawTenant, TenantConfig, layers::join, plain},
    http::{
        auth::{ApiKey, KeyHash, Scope, Scopes, TenantDoor},
        page::{Functions, PageTenant},
        web::Origins,
    },
};

pub(super) fn tenant_config(
    check: &mut Check<'_>,
    key: &str,
    raw: RawTenant,
    allow_anonymous: bool,
) -> Option<TenantConfig> {
    let id_key = join(key, "id");
    let Some(id) = raw.id.clone() else {
        check.fail(&id_key, None, "is missing", "name the tenant");
        return None;
    };
    if !is_name(&id) {
        let shown = format!("{:?}", plain::shown(&id));
        check.fail(&id_key, Some(&shown), "must be 1 to 64 of a-z, 0-9, '-' and '_'", "choose another id");
    } else {
        check.name(&id_key, &id);
    }
    let who = if plain::looks_secret(&id) { "NAME" } else { id.as_str() };
    let keys = api_keys(check, key, who, &raw);
    if keys.is_empty() && raw.api_keys.is_empty() && raw.keys.is_empty() && !allow_anonymous {
        check.fail(
            &join(key, "api_keys"),
            None,
            "is missing: the tenant could not call",
            format!("`slackwater keys api --tenant {who}`"),
        );
    }
    let mut policy = layered(check, key, &raw.given, TenantPolicy::new(&id));
    policy.budget_shares = layered(check, key, &raw.given, BudgetShares::default());
    if let Some(kinds) = &raw.kinds {
        policy.kinds = kinds
            .iter()
            .map(|kind| match kind {
                RawKind::Forward => KindName::Forward,
                RawKind::Call => KindName::Call,
                RawKind::Authorization => KindName::Authorization,
            })
            .collect();
        if policy.kinds.is_empty() {
            check.fail(&join(key, "kinds"), Some("[]"), "the tenant could ask for nothing", "name a kind");
        }
    }
    if let Some(targets) = &raw.targets {
        let (named, others) = target_rules(check, &join(key, "targets"), targets);
        (policy.targets, policy.others) = (Some(named), others);
    }
    policy.is_open = raw.open.unwrap_or(false);
    policy.max_value_wei = raw.max_value_wei.map_or(policy.max_value_wei, |wei| wei.0);
    policy.budget = raw.budget.and_then(|budget| budget_of(check, &join(key, "budget"), &budget));
    for (name, problem, fix) in policy.problems() {
        check.fail(&join(key, name), None, problem, fix);
    }
    let max_streams = TenantDoor::default().max_streams;
    let max_streams = raw.max_streams.map_or(max_streams, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let page = page_tenant(&policy);
    if keys.iter().any(|key| key.page.is_some()) {
        if page.budget.is_none() {
            let fix = "set `budget`: whoever reads the page can spend a share of it";
            check.fail(&join(key, "budget"), None, "is missing, and the tenant has a page key", fix);
        }
        if page.functions.is_empty() {
            let fix = "name contracts with their function selectors: a page key may call no others";
            check.fail(&join(key, "targets"), None, "names no function, and the tenant has a page key", fix);
        }
    }
    let door = TenantDoor { max_streams, rate_per_s: policy.rate_per_s, keys, page };
    Some(TenantConfig { policy, door })
}

/// The origins of a page key.
fn page_origins(check: &mut Check<'_>, key: &str, origins: &[String]) -> Origins {
    let key = join(key, "origins");
    if origins.is_empty() {
        check.fail(&key, Some("[]"), "no page could use the key", "name the origin of your pages");
    }
    for (index, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            let key = join(&key, &index.to_string());
            check.fail(
                &key,
                Some(origin),
                "is not an origin",
                "write scheme and host, such as https://app.example.org",
            );
        }
    }
    Origins::new(origins.to_vec())
}

/// What page keys of a tenant with this policy are held to.
fn page_tenant(policy: &TenantPolicy) -> PageTenant {
    let mut functions = Functions::new();
    for (chain_id, targets) in policy.targets.iter().flatten() {
        for (target, rule) in targets {
            if let Some(selectors) = &rule.selectors {
                functions.entry(*chain_id).or_default().insert(*target, selectors.clone());
            }
        }
    }
    PageTenant {
        functions,
        budget: policy.budget.clone(),
        max_open_requests: policy.max_open_requests,
        price_percent: policy.price_percent,
    }
}

/// 1 to 64 of a-z, 0-9, `-` and `_`.
fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_part)
}

/// The keys of tenant `id`, those without a name first.
fn api_keys(check: &mut Check<'_>, key: &str, id: &str, raw: &RawTenant) -> Vec<ApiKey> {
    let all = if raw.operator.unwrap_or(false) { Scopes::ALL } else { Scopes::TENANT };
    let mut keys = Vec::<ApiKey>::new();
    let hash_of = |check: &mut Check<'_>, key: &str, text: &str| {
        let hash = KeyHash::parse(text);
        if hash.is_none() {
            check.fail(
                key,
                None,
                "is not a hash `sha256:<64 hexadecimal digits>` (hidden: it may be a key)",
                format!("make a key and its hash with `slackwater keys api --tenant {id}`"),
            );
        }
        hash
    };
    for (index, text) in raw.api_keys.iter().enumerate() {
        let key = join(&join(key, "api_keys"), &index.to_string());
        if let Some(hash) = hash_of(check, &key, text) {
            keys.push(ApiKey { id: hash.short_name(), hash, scopes: all, page: None });
        }
    }
    for (index, raw) in raw.keys.iter().enumerate() {
        let key = join(&join(key, "keys"), &index.to_string());
        let (id_key, hash_key) = (join(&key, "id"), join(&key, "hash"));
        let hash = match &raw.hash {
            Some(text) => hash_of(check, &hash_key, text),
            None => {
                check.fail(&hash_key, None, "is missing", format!("`slackwater keys api --tenant {id}`"));
                None
            }
        };
        let name = raw.id.as_deref().unwrap_or_default();
        if !is_name(name) || keys.iter().any(|other| other.id == name) {
            // Hidden: somebody may have put the key itself here.
            check.fail(
                &id_key,
                None,
                "must be a name of its own in the tenant, 1 to 64 of a-z, 0-9, '-' and '_' (hidden)",
                "name who has the key, such as \"web\"",
            );
            continue;
        }
        let page = raw.origins.as_ref().map(|origins| page_origins(check, &key, origins));
        if page.is_some() && raw.scopes.is_some() {
            check.fail(&join(&key, "scopes"), None, "a page key has no scopes", "leave out `scopes` or `origins`");
        }
        let scopes = raw.scopes.as_ref().map_or(all, |scopes| scopes.iter().copied().map(Scope::from).collect());
        if scopes == Scopes::NONE {
            check.fail(&join(&key, "scopes"), Some("[]"), "the key could do nothing", "name a scope");
        }
        if let Some(hash) = hash {
            if keys.iter().any(|other| other.hash == hash) {
                check.fail(&hash_key, None, "is listed twice (hidden)", "give every user of the API a key of its own");
            }
            keys.push(ApiKey { id: name.to_owned(), hash, scopes, page });
        }
    }
    keys
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

type TargetRules = (BTreeMap<u64, BTreeMap<Address, TargetRule>>, BTreeMap<u64, TargetRule>);

/// In the place of a contract: all that are not named.
const OTHERS: &str = "*";

pub(super) fn target_rules(
    check: &mut Check<'_>,
    key: &str,
    raw: &BTreeMap<String, BTreeMap<String, Vec<String>>>,
) -> TargetRules {
    let (mut named, mut others) = TargetRules::default();
    for (chain, targets) in raw {
        let key = join(key, chain);
        let Ok(chain_id) = chain.parse::<u64>() else {
            check.fail(&key, Some(chain), "is not a chain id", "write the decimal EIP-155 id in quotes");
            continue;
        };
        // A chain without contracts is closed, as if it were not named.
        named.entry(chain_id).or_default();
        for (text, selectors) in targets {
            let key = join(&key, text);
            let address = match text.as_str() {
                OTHERS => None,
                _ => match check.address(&key, text) {
                    Some(address) => Some(address),
                    None => continue,
                },
            };
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
            match address {
                Some(address) => drop(named.entry(chain_id).or_default().insert(address, rule)),
                None => drop(others.insert(chain_id, rule)),
            }
        }
    }
    (named, others)
}
