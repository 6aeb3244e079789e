//! Checks of a setup before anything starts, for the binary's configuration and for embedders alike.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;

use super::config::ChainSetup;
use crate::policy::TenantPolicy;
use crate::relay::rpc::url::UrlFault;

/// A fault of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupFault {
    /// The key at fault, below the chain's or the tenant's table, such as `rpc.1.name`.
    pub key: String,
    /// The problem. Never contains a secret.
    pub detail: String,
    /// The remedy.
    pub fix: String,
}

impl SetupFault {
    fn new(key: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { key: key.into(), detail: detail.into(), fix: fix.into() }
    }
}

/// Problem and remedy of [`UrlFault::ClearText`].
const CLEAR_TEXT: (&str, &str) = (
    "goes in clear text to another machine: whoever is in between reads its access key and decides what the chain looks like",
    "use https:// or wss://, or write insecure = true beside it",
);

impl ChainSetup {
    /// All faults of endpoints, signers, forwarders and timing.
    pub fn problems(&self) -> Vec<SetupFault> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.name().is_empty() {
                faults.push(SetupFault::new(format!("rpc.{index}.name"), "is empty", "give each endpoint a name"));
            } else if !names.insert(endpoint.name()) {
                let detail = format!("`{}` is used twice", endpoint.name());
                faults.push(SetupFault::new(format!("rpc.{index}.name"), detail, "give each endpoint its own name"));
            }
            let (http, heads) = endpoint.url_faults();
            let told = [(http, "url", "http:// or https://"), (heads, "ws_url", "ws:// or wss://")];
            for (fault, key, schemes) in told {
                let key = format!("rpc.{index}.{key}");
                match fault {
                    None => {}
                    Some(UrlFault::Malformed) => {
                        let detail = format!("is not a {schemes} URL (hidden)");
                        faults.push(SetupFault::new(key, detail, "write the node's URL"));
                    }
                    Some(UrlFault::ClearText) => faults.push(SetupFault::new(key, CLEAR_TEXT.0, CLEAR_TEXT.1)),
                }
            }
        }
        let mut senders = BTreeSet::new();
        for (index, signer) in self.signers.iter().enumerate() {
            if !senders.insert(signer.address()) {
                let detail = format!("{} is listed twice: two lanes would fight over its nonces", signer.address());
                faults.push(SetupFault::new(format!("signers.{index}"), detail, "remove one"));
            }
        }
        if let Some(stranger) = self.callers.keys().find(|sender| !senders.contains(*sender)) {
            let detail = format!("tenants are bound to {stranger}, which is no signer of the chain");
            faults.push(SetupFault::new("signers", detail, "add its key, or unbind the tenants"));
        }
        let mut forwarders = BTreeSet::new();
        for (index, forwarder) in self.forwarders.iter().enumerate() {
            let key = format!("forwarders.{index}.address");
            if forwarder.address == Address::ZERO {
                faults.push(SetupFault::new(key, "is the zero address", "name the contract"));
            } else if !forwarders.insert(forwarder.address) {
                faults.push(SetupFault::new(key, format!("{} is listed twice", forwarder.address), "remove one"));
            }
        }
        let mut tokens = BTreeSet::new();
        for (index, token) in self.tokens.iter().enumerate() {
            let key = format!("tokens.{index}.address");
            if token.address == Address::ZERO {
                faults.push(SetupFault::new(key, "is the zero address", "name the contract"));
            } else if !tokens.insert(token.address) {
                faults.push(SetupFault::new(key, format!("{} is listed twice", token.address), "remove one"));
            }
        }
        faults.extend(self.tuning_faults());
        faults
    }

    fn tuning_faults(&self) -> Vec<SetupFault> {
        let has_heads = self.endpoints.iter().any(crate::relay::rpc::RpcEndpoint::has_heads);
        let pace = self.tuning.pace_problem().filter(|_| has_heads);
        let pace = pace.map(|detail| ("subscribed_poll_interval_ms", detail));
        let out_of_range = self.tuning.problems(self.spec.block_time()).into_iter().chain(pace);
        let mut faults: Vec<SetupFault> = out_of_range
            .map(|(key, detail)| SetupFault::new(key, detail, "see docs/configuration.md for the range"))
            .collect();
        let (ceiling, least) = (self.tuning.fees.tip_ceiling_wei_per_gas, self.spec.min_priority_fee_wei_per_gas);
        if ceiling < least.saturating_mul(4) {
            let detail = format!("{ceiling} is below four times the chain's least tip, {least}");
            faults.push(SetupFault::new("tip_ceiling_wei_per_gas", detail, "raise it, or leave it to the preset"));
        }
        faults
    }
}

/// Faults of tenants without a signer for their calls: on a chain with several tenants each signer makes `call`
/// requests only for the tenants bound to it. Pairs of (chain id, fault of the chain's table).
pub fn call_problems(chains: &[ChainSetup], tenants: &BTreeMap<String, TenantPolicy>) -> Vec<(u64, SetupFault)> {
    let mut faults = Vec::new();
    for setup in chains {
        let chain_id = setup.spec.chain_id;
        let bound: BTreeSet<&str> = setup.callers.values().flatten().map(String::as_str).collect();
        for stranger in bound.iter().filter(|id| !tenants.contains_key(**id)) {
            let detail = format!("a signer is bound to `{stranger}`, which is no tenant");
            faults.push((chain_id, SetupFault::new("signers", detail, "correct the tenant's id")));
        }
        for id in unbound_callers(chain_id, &setup.callers, tenants.values()) {
            let detail = format!("tenant `{id}` may make calls here, but no signer is bound to it");
            let fix = format!(
                "write signers = [{{ key = …, tenants = [{id:?}] }}]: a contract that trusts the account for one tenant must not be called by another"
            );
            faults.push((chain_id, SetupFault::new("signers", detail, fix)));
        }
    }
    faults
}

/// Tenants that make calls on the chain and have no signer bound to them there. A lone tenant needs none.
pub(in crate::relay) fn unbound_callers<'a>(
    chain_id: u64,
    callers: &BTreeMap<Address, BTreeSet<String>>,
    tenants: impl ExactSizeIterator<Item = &'a TenantPolicy>,
) -> Vec<&'a str> {
    if tenants.len() <= 1 && callers.is_empty() {
        return Vec::new();
    }
    let is_open = |policy: &TenantPolicy| {
        policy.others.contains_key(&chain_id)
            || policy.targets.as_ref().is_some_and(|chains| chains.contains_key(&chain_id))
    };
    let is_bound = |policy: &TenantPolicy| callers.values().any(|ids| ids.contains(&policy.id));
    tenants
        .filter(|policy| policy.kinds.iter().any(|kind| kind.acts_as_relayer()) && is_open(policy) && !is_bound(policy))
        .map(|policy| policy.id.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::ChainSpec,
        policy::{KindName, TargetRule},
        relay::{LocalSigner, RpcEndpoint},
    };

    fn signer(byte: u8) -> LocalSigner {
        LocalSigner::from_bytes(&[byte; 32]).unwrap()
    }

    fn setup() -> ChainSetup {
        ChainSetup::new(ChainSpec::preset("anvil").unwrap()).rpc("http://127.0.0.1:8545").signer(signer(1))
    }

    #[track_caller]
    fn wrong(setup: &ChainSetup, key: &str) {
        let faults = setup.problems();
        assert_eq!(faults.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), [key], "{faults:?}");
    }

    #[test]
    fn what_is_listed_twice_is_refused() {
        assert!(setup().problems().is_empty());
        wrong(&setup().signer(signer(2)).signer(signer(1)), "signers.2");
        let mut twice = setup();
        twice.endpoints.push(RpcEndpoint::new("rpc-0", "https://example.org"));
        wrong(&twice, "rpc.1.name");
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        wrong(&setup().forwarder(one).forwarder(other).forwarder(one), "forwarders.2.address");
        wrong(&setup().forwarder(Address::ZERO), "forwarders.0.address");
        let mut bound = setup();
        bound.callers.insert(other, BTreeSet::from(["shop".to_owned()]));
        wrong(&bound, "signers");
    }

    #[test]
    fn the_builder_refuses_what_the_configuration_refuses() {
        let build = |setup: ChainSetup| crate::relay::Relay::builder().chain(setup).database("nowhere").build();
        assert!(build(setup()).is_ok());
        let told = build(setup().signer(signer(1))).unwrap_err().to_string();
        assert!(told.starts_with("chain 31337: signers.1: ") && told.contains("listed twice"), "{told}");
        let open = crate::relay::Relay::builder().chain(setup()).database("nowhere").tenant(TenantPolicy::new("shop"));
        let told = open.build().unwrap_err().to_string();
        assert!(told.starts_with("tenant shop: targets: ") && told.contains("`open = true`"), "{told}");
        let slip = TenantPolicy::new("shop").with(|it| {
            it.is_open = true;
            it.price_percent = 1_001;
        });
        let told = crate::relay::Relay::builder().chain(setup()).database("nowhere").tenant(slip).build();
        let told = told.unwrap_err().to_string();
        assert!(told.starts_with("tenant shop: price_percent: ") && told.contains("at most 1000"), "{told}");
    }

    #[test]
    fn urls_are_checked_before_anybody_waits_for_them() {
        for url in ["not a url", "ftp://example.org", "https://", "http:///x", "wss://example.org"] {
            wrong(&ChainSetup { endpoints: vec![RpcEndpoint::new("a", url)], ..setup() }, "rpc.0.url");
        }
        let heads = RpcEndpoint::new("a", "https://example.org").heads("https://example.org");
        wrong(&ChainSetup { endpoints: vec![heads], ..setup() }, "rpc.0.ws_url");
    }

    #[test]
    fn clear_text_to_another_machine_must_be_wanted() {
        let of = |endpoint: RpcEndpoint| ChainSetup { endpoints: vec![endpoint], ..setup() };
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://192.0.2.1"] {
            assert!(of(RpcEndpoint::new("a", url)).problems().is_empty(), "{url}");
        }
        for url in ["http://192.0.2.1:8545", "http://node:8545", "http://127.0.0.1.example.org", "HTTP://node"] {
            wrong(&of(RpcEndpoint::new("a", url)), "rpc.0.url");
            assert!(of(RpcEndpoint::new("a", url).insecure(true)).problems().is_empty(), "{url}");
        }
        wrong(&of(RpcEndpoint::new("a", "https://node").heads("ws://node")), "rpc.0.ws_url");
    }

    #[test]
    fn calls_of_several_tenants_need_signers_of_their_own() {
        let policy = |id: &str, kind: KindName| {
            let targets = BTreeMap::from([(31_337, BTreeMap::from([(Address::ZERO, TargetRule::default())]))]);
            let policy = TenantPolicy::new(id).with(|it| {
                it.kinds = [kind].into();
                it.targets = Some(targets);
            });
            (id.to_owned(), policy)
        };
        let one = BTreeMap::from([policy("shop", KindName::Call)]);
        let two = BTreeMap::from([policy("shop", KindName::Call), policy("bank", KindName::Forward)]);
        assert!(call_problems(&[setup()], &one).is_empty());
        let faults = call_problems(&[setup()], &two);
        assert!(faults.len() == 1 && faults[0].1.detail.contains("`shop`"), "{faults:?}");
        let bound = |id: &str| setup().signer_for(signer(2), [id]);
        assert!(call_problems(&[bound("shop")], &two).is_empty());
        assert_eq!(call_problems(&[bound("nobody")], &two).len(), 2);
        // Forwards need no binding.
        let forwards = BTreeMap::from([policy("shop", KindName::Forward), policy("bank", KindName::Forward)]);
        assert!(call_problems(&[setup()], &forwards).is_empty());
    }
}
