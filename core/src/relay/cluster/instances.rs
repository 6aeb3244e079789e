//! Consistency among instances on one ledger: identity, signers, forwarders and tenants must agree. Each instance
//! publishes its configuration and compares it with the others'.
//!
//! A start is refused if it would strand requests or contradict promises: a lane with open batches whose key this
//! instance lacks (it could take the chain's lease and never finish them), or an identity different from that of a
//! running instance (callers would get promises of two relayers). Any other difference is only logged: a change of
//! signers, forwarders or tenants reaches one instance after the other, and must not stop them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, ChainId, keccak256};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::membership::ClusterConfig;
use crate::ledger::{InstanceRecord, Leases, Ledger, LedgerError};
use crate::relay::{
    admission::tenants::Tenants,
    handle::{config::ChainSetup, error::BuildError},
    signer::AccountKey,
};

/// Interval at which an instance publishes its configuration and checks the others.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// Silence after which an instance counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(90);

/// The configuration that instances must have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Address that signs promises.
    identity: Address,
    chains: BTreeMap<ChainId, InstanceChain>,
    /// Hash of each tenant's policy, by id.
    tenants: BTreeMap<String, B256>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InstanceChain {
    senders: BTreeSet<Address>,
    forwarders: BTreeSet<Address>,
    /// Absent in what an older version publishes.
    #[serde(default)]
    tokens: BTreeSet<Address>,
}

impl InstanceConfig {
    /// The configuration of an instance with this identity and these chains.
    pub fn new(identity: Address, chains: &[ChainSetup]) -> Self {
        let chain = |setup: &ChainSetup| {
            let senders = setup.signers.iter().map(AccountKey::address).collect();
            let forwarders = setup.forwarders.iter().map(|forwarder| forwarder.address).collect();
            let tokens = setup.tokens.iter().map(|token| token.address).collect();
            (setup.spec.chain_id, InstanceChain { senders, forwarders, tokens })
        };
        Self { identity, chains: chains.iter().map(chain).collect(), tenants: BTreeMap::new() }
    }

    pub(in crate::relay) fn with_tenants(mut self, tenants: &Tenants) -> Self {
        let hash = |policy: &crate::policy::TenantPolicy| keccak256(format!("{policy:?}"));
        self.tenants = tenants.iter().map(|tenant| (tenant.policy.id.clone(), hash(&tenant.policy))).collect();
        self
    }

    /// Human-readable differences from `other`. Tenants are compared only if both publish them.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.identity != other.identity {
            found.push(format!("its identity is {}, ours {}", other.identity, self.identity));
        }
        let chains: BTreeSet<_> = self.chains.keys().chain(other.chains.keys()).collect();
        for chain_id in chains {
            match (self.chains.get(chain_id), other.chains.get(chain_id)) {
                (Some(ours), Some(its)) => {
                    found.extend(missing(*chain_id, "signer of", &ours.senders, &its.senders));
                    found.extend(missing(*chain_id, "forwarder", &ours.forwarders, &its.forwarders));
                    found.extend(missing(*chain_id, "token", &ours.tokens, &its.tokens));
                }
                (Some(_), None) => found.push(format!("it does not serve chain {chain_id}")),
                (None, _) => found.push(format!("it serves chain {chain_id}, this instance does not")),
            }
        }
        if !self.tenants.is_empty() && !other.tenants.is_empty() {
            let tenants: BTreeSet<_> = self.tenants.keys().chain(other.tenants.keys()).collect();
            for tenant in tenants.into_iter().filter(|id| self.tenants.get(*id) != other.tenants.get(*id)) {
                found.push(format!("tenant `{tenant}` is not the same"));
            }
        }
        found
    }

    fn serves(&self, chain_id: ChainId) -> bool {
        self.chains.contains_key(&chain_id)
    }

    fn has_key(&self, chain_id: ChainId, sender: Address) -> bool {
        self.chains.get(&chain_id).is_some_and(|chain| chain.senders.contains(&sender))
    }
}

fn missing(chain_id: ChainId, what: &str, ours: &BTreeSet<Address>, its: &BTreeSet<Address>) -> Vec<String> {
    let lacks = its.difference(ours).map(|address| format!("chain {chain_id}: this instance lacks {what} {address}"));
    let more = ours.difference(its).map(|address| format!("chain {chain_id}: it lacks {what} {address}"));
    lacks.chain(more).collect()
}

/// Inconsistencies of an instance with the others.
#[derive(Debug, Default)]
pub struct ConfigMismatch {
    /// Reasons not to start: (configuration key, problem).
    pub refusals: Vec<(&'static str, String)>,
    /// Differences that do not prevent a start.
    pub warnings: Vec<String>,
}

/// Compares an instance's configuration with the ledger and the other instances.
///
/// # Errors
/// [`LedgerError::Storage`].
pub async fn compare(
    leases: &dyn Leases,
    instance: &str,
    told: &InstanceConfig,
) -> Result<ConfigMismatch, LedgerError> {
    let mut discord = ConfigMismatch::default();
    for (lane, batches) in leases.open_lanes().await? {
        if told.serves(lane.chain_id) && !told.has_key(lane.chain_id, lane.sender) {
            let detail = format!(
                "the ledger has {batches} open batches of sender {} on chain {}, and this instance lacks its key: if it \
                 took the chain's lease, they would never end. Add the signer, or wait until another instance has \
                 finished them",
                lane.sender, lane.chain_id
            );
            discord.refusals.push(("chain.signers", detail));
        }
    }
    for InstanceRecord { instance: name, text, age } in leases.members().await? {
        if name == instance || age >= GONE_AFTER {
            continue;
        }
        // An instance of another version may publish another form, which can't be compared.
        let Ok(its) = serde_json::from_str::<InstanceConfig>(&text) else { continue };
        if its.identity != told.identity {
            let detail = format!(
                "instance `{name}` signs promises as {}, this one would as {}: callers would see two relayers. Give all \
                 the same key, or stop that instance first ({} s after a crash it counts as gone)",
                its.identity,
                told.identity,
                GONE_AFTER.as_secs()
            );
            discord.refusals.push(("identity.key", detail));
        }
        let differences = told.differences(&its).into_iter();
        discord.warnings.extend(differences.map(|difference| format!("instance `{name}`: {difference}")));
    }
    Ok(discord)
}

/// At start: refuses harmful differences, logs the others, and publishes this instance's configuration.
pub(in crate::relay) async fn join(
    leases: &dyn Leases,
    config: &ClusterConfig,
    told: &InstanceConfig,
) -> Result<(), BuildError> {
    let ConfigMismatch { refusals, warnings } = compare(leases, &config.instance, told).await?;
    if let Some((key, detail)) = refusals.into_iter().next() {
        return Err(BuildError::Config { key: key.to_owned(), detail });
    }
    for difference in warnings {
        tracing::warn!(difference, "instances on one ledger are not configured the same");
    }
    leases.tell(&config.instance, &text(told)).await?;
    Ok(())
}

/// Publishes and compares periodically until `stop`.
pub(in crate::relay) async fn attend(
    ledger: Arc<dyn Ledger>,
    config: ClusterConfig,
    mut told: InstanceConfig,
    tenants: Arc<Tenants>,
    stop: CancellationToken,
) {
    let Some(leases) = ledger.leases() else { return };
    let mut known = BTreeSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TELL_INTERVAL) => {}
            () = stop.cancelled() => break,
        }
        // Policies may have changed.
        told = told.with_tenants(&tenants);
        if let Err(error) = leases.tell(&config.instance, &text(&told)).await {
            tracing::debug!(%error, "can't tell the other instances about this one");
        }
        let Ok(discord) = compare(leases, &config.instance, &told).await else { continue };
        // The owner of a lane may sign with a key configured after our start.
        let refusals = discord.refusals.into_iter().map(|(key, detail)| format!("{key}: {detail}"));
        for difference in discord.warnings.into_iter().chain(refusals) {
            if known.insert(difference.clone()) {
                tracing::warn!(difference, "instances on one ledger are not configured the same");
            }
        }
    }
    if let Err(error) = leases.tell(&config.instance, "").await {
        tracing::debug!(%error, "the other instances take this one for running for a while");
    }
}

fn text(told: &InstanceConfig) -> String {
    serde_json::to_string(told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(identity: u8, senders: &[u8], tenant: &str) -> InstanceConfig {
        let address = |byte: u8| Address::repeat_byte(byte);
        let chain = InstanceChain {
            senders: senders.iter().copied().map(address).collect(),
            forwarders: BTreeSet::new(),
            tokens: BTreeSet::new(),
        };
        InstanceConfig {
            identity: address(identity),
            chains: BTreeMap::from([(1, chain)]),
            tenants: BTreeMap::from([("shop".to_owned(), keccak256(tenant))]),
        }
    }

    #[test]
    fn differences_are_named() {
        let ours = told(1, &[7, 8], "a");
        assert_eq!(ours.differences(&ours), [] as [String; 0]);
        let found = ours.differences(&told(2, &[8, 9], "b"));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("identity"));
        assert!(found[1].contains("this instance lacks signer of 0x0909"));
        assert!(found[2].contains("it lacks signer of 0x0707"));
        assert!(found[3].contains("`shop`"));
        let mut other = ours.clone();
        other.chains.clear();
        other.tenants.clear();
        assert_eq!(ours.differences(&other), ["it does not serve chain 1"]);
        assert_eq!(serde_json::from_str::<InstanceConfig>(&text(&ours)).unwrap(), ours);
    }
}
