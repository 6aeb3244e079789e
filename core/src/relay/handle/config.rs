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
    relay::{admission::hook::HookSetup, cluster::membership::ClusterConfig, rpc::RpcEndpoint, signer::AccountKey},
    sender::tuning::ChainTuning,
};

/// One chain to serve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChainSetup {
    /// Properties of the chain; see [`ChainSpec::preset`].
    pub spec: ChainSpec,
    /// RPC endpoints. Every transaction goes to all, reads go to the healthiest.
    pub endpoints: Vec<RpcEndpoint>,
    /// Sender accounts, one lane each.
    pub signers: Vec<AccountKey>,
    /// Forwarders to serve. Empty is fine for `call` requests only.
    pub forwarders: Vec<ForwarderSetup>,
    /// Tokens with EIP-3009 whose payments are made. Empty if there are no `authorization` requests.
    pub tokens: Vec<TokenSetup>,
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
            tokens: Vec::new(),
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
    pub fn signer(mut self, key: impl Into<AccountKey>) -> Self {
        self.signers.push(key.into());
        self
    }

    /// Adds a sender account that also makes the calls of these tenants. With several tenants, all other accounts send
    /// forward requests only: a contract that trusts an account on behalf of one tenant must not be called for another.
    #[must_use]
    pub fn signer_for(
        mut self,
        key: impl Into<AccountKey>,
        tenants: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let key = key.into();
        self.callers.entry(key.address()).or_default().extend(tenants.into_iter().map(Into::into));
        self.signer(key)
    }

    /// Adds a forwarder whose code must be a known version.
    #[must_use]
    pub fn forwarder(mut self, address: Address) -> Self {
        self.forwarders.push(ForwarderSetup { address, allow_unknown_code: false });
        self
    }

    /// Adds a token whose payments are made. Its EIP-712 domain is read from the chain.
    #[must_use]
    pub fn token(mut self, address: Address) -> Self {
        self.tokens.push(TokenSetup::new(address));
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
#[non_exhaustive]
pub struct ForwarderSetup {
    /// The contract.
    pub address: Address,
    /// Serve it even if its code is not one of the known versions.
    pub allow_unknown_code: bool,
}

impl ForwarderSetup {
    /// The forwarder at `address`, if its code is one of the known versions.
    pub const fn new(address: Address) -> Self {
        Self { address, allow_unknown_code: false }
    }

    /// Whether to serve it with code that is not known.
    #[must_use]
    pub const fn with_unknown_code(mut self, allow: bool) -> Self {
        self.allow_unknown_code = allow;
        self
    }
}

/// Default of [`TokenSetup::transfer_gas`]. Circle's `FiatTokenV2_2` uses up to 91 000, for a payee without balance.
pub const DEFAULT_TRANSFER_GAS: u64 = 110_000;

/// A token whose payments are made (EIP-3009).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenSetup {
    /// The contract.
    pub address: Address,
    /// Name of its EIP-712 domain; `None` reads it from the chain.
    pub name: Option<String>,
    /// Version of its EIP-712 domain; `None` reads it from the chain.
    pub version: Option<String>,
    /// Gas that one payment may use, without the transaction's own.
    pub transfer_gas: u64,
}

impl TokenSetup {
    /// The token at `address`, with its domain from the chain and the default gas.
    pub const fn new(address: Address) -> Self {
        Self { address, name: None, version: None, transfer_gas: DEFAULT_TRANSFER_GAS }
    }

    /// Name and version of its EIP-712 domain; `None` reads it from the chain.
    #[must_use]
    pub fn with_domain(mut self, name: Option<String>, version: Option<String>) -> Self {
        (self.name, self.version) = (name, version);
        self
    }

    /// Gas that one payment may use, without the transaction's own.
    #[must_use]
    pub const fn with_transfer_gas(mut self, gas: u64) -> Self {
        self.transfer_gas = gas;
        self
    }
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
#[non_exhaustive]
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
    pub identity: AccountKey,
    /// A second opinion before each acceptance.
    pub admission_hook: Option<HookSetup>,
    /// Time to promised inclusion for a request without a deadline (`request.default_within_ms`).
    pub default_within: Duration,
    /// Validity of such a request, at most to its signed deadline (`request.default_expiry_ms`).
    pub default_expiry: Duration,
    /// Furthest accepted deadline, from now (`request.max_within_ms`).
    pub max_within: Duration,
}
