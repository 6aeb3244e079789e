//! Configuration of a relay and its chains.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_primitives::Address;

use crate::{
    chain::ChainSpec,
    ledger::{GroupCommitConfig, SqliteConfig},
    policy::{OpenLimits, TenantPolicy},
    relay::{
        cluster::membership::ClusterConfig,
        rpc::RpcEndpoint,
        signer::{IdentityKey, LocalSigner},
    },
    sender::tuning::ChainTuning,
};

/// One chain to serve.
#[derive(Debug, Clone)]
pub struct ChainSetup {
    /// Properties of the chain; see [`ChainSpec::preset`].
    pub spec: ChainSpec,
    /// RPC endpoints. Every transaction goes to all, reads go to the healthiest.
    pub endpoints: Vec<RpcEndpoint>,
    /// Sender accounts, one lane each.
    pub signers: Vec<LocalSigner>,
    /// Forwarders to serve. Empty is fine for `call` requests only.
    pub forwarders: Vec<ForwarderSetup>,
    /// Tenants whose calls each sender makes; see [`Self::signer_for`].
    pub callers: BTreeMap<Address, BTreeSet<String>>,
    /// Limits and intervals.
    pub tuning: ChainTuning,
}

impl ChainSetup {
    /// A chain with default tuning and no forwarder.
    pub fn new(spec: ChainSpec) -> Self {
        let tuning = ChainTuning::for_spec(&spec);
        Self {
            spec,
            endpoints: Vec::new(),
            signers: Vec::new(),
            forwarders: Vec::new(),
            callers: BTreeMap::new(),
            tuning,
        }
    }

    /// Adds an RPC endpoint by URL, named `rpc-0`, `rpc-1`, ….
    #[must_use]
    pub fn rpc(mut self, url: impl Into<String>) -> Self {
        let name = format!("rpc-{}", self.endpoints.len());
        self.endpoints.push(RpcEndpoint::new(name, url));
        self
    }

    /// Adds a sender account.
    #[must_use]
    pub fn signer(mut self, signer: LocalSigner) -> Self {
        self.signers.push(signer);
        self
    }

    /// Adds a sender account that also makes the calls of these tenants. With several tenants, all other accounts send
    /// forward requests only: a contract that trusts an account on behalf of one tenant must not be called for another.
    #[must_use]
    pub fn signer_for(mut self, signer: LocalSigner, tenants: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let tenants = tenants.into_iter().map(Into::into);
        self.callers.entry(signer.address()).or_default().extend(tenants);
        self.signer(signer)
    }

    /// Adds a forwarder whose code must be a known version.
    #[must_use]
    pub fn forwarder(mut self, address: Address) -> Self {
        self.forwarders.push(ForwarderSetup { address, allow_unknown_code: false });
        self
    }

    /// Replaces the tuning.
    #[must_use]
    pub fn tuning(mut self, tuning: ChainTuning) -> Self {
        self.tuning = tuning;
        self
    }
}

/// A forwarder to serve. Its EIP-712 name is read from the chain at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwarderSetup {
    /// The contract.
    pub address: Address,
    /// Serve it even if its code is not one of the known versions.
    pub allow_unknown_code: bool,
}

/// Storage of the ledger.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LedgerSetup {
    /// A SQLite file, owned by one process.
    Sqlite(SqliteConfig),
    /// A PostgreSQL database that several instances share.
    #[cfg(feature = "postgres")]
    Postgres(Box<crate::ledger::PostgresConfig>),
}

/// Complete configuration of a relay.
#[derive(Debug)]
pub struct RelayConfig {
    /// Chains to serve.
    pub chains: Vec<ChainSetup>,
    /// Tenant policies by tenant id.
    pub tenants: BTreeMap<String, TenantPolicy>,
    /// Limits of open requests over all tenants.
    pub open_limits: OpenLimits,
    /// Storage of the ledger.
    pub ledger: LedgerSetup,
    /// Settings for several instances on one ledger; unused with SQLite.
    pub cluster: ClusterConfig,
    /// Settings of the group commit.
    pub group_commit: GroupCommitConfig,
    /// Key that signs inclusion promises.
    pub identity: IdentityKey,
    /// Time to promised inclusion for a request without a deadline (`request.default_within_ms`).
    pub default_within: Duration,
    /// Validity of such a request, at most to its signed deadline (`request.default_expiry_ms`).
    pub default_expiry: Duration,
    /// Furthest accepted deadline, from now (`request.max_within_ms`).
    pub max_within: Duration,
}
