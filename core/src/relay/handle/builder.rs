//! Configuration and construction of a relay.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{
    api::{DEFAULT_TENANT, Relay},
    config::{ChainSetup, LedgerSetup, RelayConfig},
    error::BuildError,
    setup::{SetupFault, call_problems},
};
use crate::{
    ledger::{GroupCommitConfig, SqliteConfig},
    policy::{OpenLimits, TenantPolicy},
    relay::{
        admission::hook::{AdmissionHook, HookSetup},
        cluster::membership::ClusterConfig,
        signer::AccountKey,
    },
};

/// Builds a [`Relay`]. Methods are named after the field; [`Self::start`] validates.
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `start`"]
pub struct RelayBuilder {
    chains: Vec<ChainSetup>,
    tenants: BTreeMap<String, TenantPolicy>,
    ledger: Option<LedgerSetup>,
    cluster: ClusterConfig,
    group_commit: GroupCommitConfig,
    identity: Option<AccountKey>,
    admission_hook: Option<HookSetup>,
    default_within: Option<Duration>,
    default_expiry: Option<Duration>,
    max_within: Option<Duration>,
    open_limits: OpenLimits,
}

impl RelayBuilder {
    /// Adds a chain.
    pub fn chain(mut self, setup: ChainSetup) -> Self {
        self.chains.push(setup);
        self
    }

    /// Adds a tenant. If none is added, there is one tenant `default` with safe defaults.
    pub fn tenant(mut self, policy: TenantPolicy) -> Self {
        self.tenants.insert(policy.id.clone(), policy);
        self
    }

    /// Path of the SQLite ledger, created if absent.
    pub fn database(self, path: impl Into<PathBuf>) -> Self {
        self.sqlite(SqliteConfig::new(path))
    }

    /// A SQLite ledger with all its settings.
    pub fn sqlite(mut self, config: SqliteConfig) -> Self {
        self.ledger = Some(LedgerSetup::Sqlite(config));
        self
    }

    /// A PostgreSQL ledger that several instances share.
    #[cfg(feature = "postgres")]
    pub fn postgres(mut self, config: crate::ledger::PostgresConfig) -> Self {
        self.ledger = Some(LedgerSetup::Postgres(Box::new(config)));
        self
    }

    /// Settings for several instances on one ledger, with [`Self::postgres`].
    pub fn cluster(mut self, config: ClusterConfig) -> Self {
        self.cluster = config;
        self
    }

    /// Settings of the group commit.
    pub fn group_commit(mut self, config: GroupCommitConfig) -> Self {
        self.group_commit = config;
        self
    }

    /// Key that signs inclusion promises; by default the key of the first chain's first signer.
    pub fn identity(mut self, key: impl Into<AccountKey>) -> Self {
        self.identity = Some(key.into());
        self
    }

    /// A second opinion before each acceptance: `hook` must answer within `within`, else the request is refused.
    pub fn admission_hook(mut self, hook: impl AdmissionHook, within: Duration) -> Self {
        self.admission_hook = Some(HookSetup { hook: Arc::new(hook), within });
        self
    }

    /// Time to promised inclusion for a request without a deadline; 60 s by default.
    pub fn default_within(mut self, within: Duration) -> Self {
        self.default_within = Some(within);
        self
    }

    /// Validity of a request without a deadline, at most to its signed deadline; an hour by default. After a missed
    /// promise the request is still tried, late, until then.
    pub fn default_expiry(mut self, expiry: Duration) -> Self {
        self.default_expiry = Some(expiry);
        self
    }

    /// Furthest accepted deadline, from now; 24 h by default.
    pub fn max_within(mut self, within: Duration) -> Self {
        self.max_within = Some(within);
        self
    }

    /// Limits of open requests over all tenants; 200 000 requests and 256 MiB of calldata by default.
    pub fn open_limits(mut self, limits: OpenLimits) -> Self {
        self.open_limits = limits;
        self
    }

    /// Validates the configuration.
    ///
    /// # Errors
    /// [`BuildError`] names the missing or contradictory setting.
    pub fn build(self) -> Result<RelayConfig, BuildError> {
        if self.chains.is_empty() {
            return Err(BuildError::NoChain);
        }
        let mut seen = std::collections::BTreeSet::new();
        for setup in &self.chains {
            let chain_id = setup.spec.chain_id;
            if !seen.insert(chain_id) {
                return Err(BuildError::DuplicateChain(chain_id));
            }
            if setup.endpoints.is_empty() {
                return Err(BuildError::Missing { chain_id, what: "rpc" });
            }
            if setup.signers.is_empty() {
                return Err(BuildError::Missing { chain_id, what: "signer" });
            }
            if let Err(errors) = setup.spec.validate() {
                return Err(BuildError::Config {
                    key: format!("chain {chain_id}"),
                    detail: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
                });
            }
            if let Some(fault) = setup.problems().into_iter().next() {
                return Err(fault_of(format!("chain {chain_id}"), fault));
            }
        }
        let mut tenants = self.tenants;
        if tenants.is_empty() {
            // An embedder without tenants is the only caller.
            let policy = TenantPolicy::new(DEFAULT_TENANT).with(|it| it.is_open = true);
            tenants.insert(DEFAULT_TENANT.to_owned(), policy);
        }
        for (id, policy) in &tenants {
            if let Some((key, detail, fix)) = policy.problems().into_iter().next() {
                return Err(BuildError::Config {
                    key: format!("tenant {id}: {key}"),
                    detail: format!("{detail}; {fix}"),
                });
            }
        }
        if let Some((chain_id, fault)) = call_problems(&self.chains, &tenants).into_iter().next() {
            return Err(fault_of(format!("chain {chain_id}"), fault));
        }
        let identity = match self.identity {
            Some(identity) => identity,
            None => self.chains[0].signers[0].clone(),
        };
        let ledger = self.ledger.ok_or_else(|| BuildError::Config {
            key: "database".to_owned(),
            detail: "no path is set; a relay without a ledger could lose what it accepted".to_owned(),
        })?;
        Ok(RelayConfig {
            chains: self.chains,
            tenants,
            open_limits: self.open_limits,
            ledger,
            cluster: self.cluster,
            group_commit: self.group_commit,
            identity,
            admission_hook: self.admission_hook,
            default_within: self.default_within.unwrap_or(Duration::from_secs(60)),
            default_expiry: self.default_expiry.unwrap_or(Duration::from_secs(3_600)),
            max_within: self.max_within.unwrap_or(Duration::from_secs(24 * 3_600)),
        })
    }

    /// Builds and starts: opens the ledger, checks the chains, reconciles every lane, then accepts.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left running in that case.
    pub async fn start(self) -> Result<Relay, BuildError> {
        Relay::start(self.build()?).await
    }
}

fn fault_of(whose: String, fault: SetupFault) -> BuildError {
    let SetupFault { key, detail, fix } = fault;
    BuildError::Config { key: format!("{whose}: {key}"), detail: format!("{detail}; {fix}") }
}

impl Relay {
    /// Creates a builder; see [`RelayBuilder::start`].
    pub fn builder() -> RelayBuilder {
        RelayBuilder::default()
    }
}
