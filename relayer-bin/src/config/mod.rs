//! Configuration: `defaults < chain preset < file < environment < flags`, checked as a whole, every error reported.
//!
//! [`Sources::load`] parses into [`RawConfig`] and validates into [`Config`]; [`Config::resolve`] then fetches the
//! secrets. Code sees only [`Config`].

mod layers;
mod plain;
mod raw;
mod readers;
mod reference;
mod schema;
mod secret;
mod url;
mod validate;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use alloy_primitives::{B256, keccak256};
use slackwater::{
    ChainSetup, ClusterConfig, ForwarderSetup, IdentityKey, LocalSigner, Relay, RelayBuilder, RpcEndpoint, TokenSetup,
    internal::call_problems, tuning::ChainTuning,
};
use slackwater_core::{
    chain::ChainSpec,
    policy::{OpenLimits, TenantPolicy},
    tuning::keys,
};
use slackwater_ledger::{GroupCommitConfig, PostgresConfig, SqliteConfig};

pub use layers::Origin;
pub(crate) use plain::{hidden, looks_secret};
pub use raw::{
    RawBoundSigner, RawBudget, RawChain, RawConfig, RawForwarder, RawIdentity, RawKey, RawKind, RawLedger, RawLog,
    RawLogFormat, RawPageKey, RawRequest, RawRpc, RawScope, RawServer, RawSigner, RawTenant, RawToken,
};
pub use readers::{Exposed, Readers};
pub use reference::{example, reference};
pub use schema::json_schema;
pub use secret::{Secret, SecretError, SecretRef, SecretText};
pub use url::UrlText;

use crate::http::{
    HttpLimits,
    auth::{Access, TenantDoor},
};

/// One error in the configuration: its origin, the problem, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Origin of the value; `None` if it is missing.
    pub origin: Option<Origin>,
    /// The key, such as `chain.0.max_batch`; empty for an error of the whole source.
    pub key: String,
    /// The value, unless it may be a secret.
    pub value: Option<String>,
    /// The problem, with the allowed range.
    pub problem: String,
    /// The remedy, if one is known.
    pub fix: Option<String>,
}

impl ConfigError {
    fn new(origin: Option<Origin>, key: &str, problem: impl Into<String>) -> Self {
        Self { origin, key: plain::path(key), value: None, problem: problem.into(), fix: None }
    }

    fn value(mut self, value: Option<&str>) -> Self {
        self.value = value.map(str::to_owned);
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}` ", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, "= {value}: ")?;
        }
        f.write_str(&self.problem)?;
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

/// All errors in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} error{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

/// Sources of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those without our prefix are ignored.
    pub env: BTreeMap<String, String>,
    /// `key=value` pairs of the command line, with the flag that set them.
    pub flags: Vec<(String, String, String)>,
    /// Allow `inline:` secrets: local development only.
    pub allow_inline_secrets: bool,
}

impl Sources {
    /// The file (if any) and the environment of this process.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let is_ours = |name: &str| name.starts_with(layers::ENV_PREFIX);
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| is_ours(name))
            .collect();
        Self { file, env, ..Self::default() }
    }

    /// Sets `key` as flag `flag`, above everything else.
    #[must_use]
    pub fn flag(mut self, flag: &str, key: &str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.flags.push((flag.to_owned(), key.to_owned(), value));
        }
        self
    }

    /// Loads, merges and validates. Secrets are not fetched yet.
    ///
    /// # Errors
    /// All errors, not only the first one.
    pub fn load(self) -> Result<Config, ConfigErrors> {
        let text = match &self.file {
            None => None,
            Some(path) => {
                let name = layers::file_name(path);
                let text = std::fs::read_to_string(path).map_err(|error| {
                    let problem = format!("can't read {name}: {error}");
                    ConfigErrors(vec![ConfigError::new(None, "", problem).fix("see `slackwater config example`")])
                })?;
                Some((name, text))
            }
        };
        let file = self.file.clone();
        let mut config = self.load_text(text)?;
        config.file = file;
        Ok(config)
    }

    /// As [`Self::load`], with the file's name and content instead of a path.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_text(self, file: Option<(String, String)>) -> Result<Config, ConfigErrors> {
        let schema = schema::schema();
        let mut errors = Vec::new();
        let mut layers = layers::Layers::default();
        if let Some((name, text)) = &file {
            layers.add_toml(name, text, schema, &mut errors);
        }
        layers.add_env(&self.env, schema, &mut errors);
        for (flag, key, text) in &self.flags {
            let origin = Origin::Flag(flag.clone());
            let rest = key.replace('.', "_").to_uppercase();
            match schema::path_of_variable(schema, &rest) {
                None => {
                    let paths = schema::paths(schema);
                    let mut error = ConfigError::new(Some(origin), key, "is not a key");
                    if let Some(near) = schema::nearest(key, paths.iter().map(String::as_str)) {
                        error = error.fix(format!("did you mean `{near}`?"));
                    }
                    errors.push(error);
                }
                Some((path, leaf)) => match schema::value_of_text(&leaf, text) {
                    Some(value) => layers.set(&path, value, origin, &mut errors),
                    None => errors.push(
                        ConfigError::new(Some(origin), &path, format!("expected {}", schema::type_name(&leaf)))
                            .value(Some(&plain::hidden(text))),
                    ),
                },
            }
        }
        schema::check(&mut layers, schema, &mut errors);
        let raw = match serde_path_to_error::deserialize(toml::Value::Table(layers.tree.clone())) {
            Ok(raw) => raw,
            Err(error) => {
                // The schema has let something through that the types refuse, such as text that is no number.
                let path = error.path().to_string().replace('[', ".").replace(']', "");
                let origin = layers.origin(&path).cloned();
                let message = error.into_inner().to_string();
                errors.push(ConfigError::new(origin, &path, plain::expectation(&message)));
                return Err(ConfigErrors(errors));
            }
        };
        let config = validate::validate(raw, &layers, self.allow_inline_secrets, &mut errors);
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }
}

/// Form of the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// One JSON object a line, instead of text.
    pub is_json: bool,
    /// Level or filter.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { is_json: false, filter: "info".to_owned() }
    }
}

/// An RPC endpoint: its URL is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Name.
    pub name: String,
    /// The URL, or a reference to it.
    pub url: SecretRef,
    /// The WebSocket URL, or a reference to it.
    pub ws_url: Option<SecretRef>,
    /// Allows clear text to another machine.
    pub is_insecure: bool,
    /// Calls per second; 0 is unlimited.
    pub rate_limit_per_s: u32,
}

/// One sender account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerConfig {
    /// Reference to its key.
    pub key: SecretRef,
    /// Tenants whose calls it sends.
    pub tenants: Vec<String>,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainConfig {
    /// Properties of the chain.
    pub spec: ChainSpec,
    /// Limits and pace.
    pub tuning: ChainTuning,
    /// Its nodes.
    pub endpoints: Vec<EndpointConfig>,
    /// Sender accounts: a reference to the key, and the tenants served.
    pub signers: Vec<SignerConfig>,
    /// Forwarders to serve.
    pub forwarders: Vec<ForwarderSetup>,
    /// Tokens whose payments are made.
    pub tokens: Vec<TokenSetup>,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantConfig {
    /// Limits on its requests.
    pub policy: TenantPolicy,
    /// Its keys and their scopes.
    pub door: TenantDoor,
}

keys! {
    /// Patience with PostgreSQL, keys of `ledger`.
    #[derive(Copy)]
    pub struct SharedTimeouts;

    /// Longest wait for a connection to PostgreSQL.
    connect "connect_timeout_ms": Duration [100..=600_000] = Duration::from_secs(5);
    /// Longest time that a statement may take in PostgreSQL.
    statement "statement_timeout_ms": Duration [100..=600_000] = Duration::from_secs(10);
    /// PostgreSQL ends a transaction whose writer is silent for so long, so that an instance that stands still holds nobody
    /// up. Must be below `lease_ms`; half of it where that is less than the default.
    idle "idle_timeout_ms": Duration [100..=600_000] = Duration::from_secs(2);
}

keys! {
    /// Deadlines, keys of `request`.
    #[derive(Copy)]
    pub struct RequestLimits;

    /// Time to the promised inclusion of a request that names none.
    default_within "default_within_ms": Duration [1..=31_536_000_000] = Duration::from_secs(60);
    /// Time that such a request is valid, as far as it is signed. When its promise is missed it goes on, late, until then.
    default_expiry "default_expiry_ms": Duration [1..=31_536_000_000] = Duration::from_secs(3_600);
    /// Furthest deadline that is accepted.
    max_within "max_within_ms": Duration [1..=31_536_000_000] = Duration::from_secs(24 * 3_600);
}

/// A database that several instances share. Its URL is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLedger {
    /// The URL, or a reference to it.
    pub url: SecretRef,
    /// Allows a server on another machine whose certificate is not verified.
    pub is_insecure: bool,
    /// Schema of the tables.
    pub schema: String,
    /// Connections for reading.
    pub read_connections: u32,
    /// Patience.
    pub timeouts: SharedTimeouts,
    /// Pace of the instances.
    pub cluster: ClusterConfig,
}

impl SharedLedger {
    /// The settings with the URL fetched.
    ///
    /// # Errors
    /// If the URL is missing or invalid; never shows it.
    pub fn resolve(&self) -> Result<PostgresConfig, ConfigErrors> {
        let fail = |problem: String| ConfigErrors(vec![ConfigError::new(None, "ledger.url", problem)]);
        let url = self.url.resolve().map_err(|error| fail(error.to_string()))?;
        let mut config = PostgresConfig::new(url.expose()).map_err(|error| fail(error.to_string()))?;
        if !config.is_private() && !self.is_insecure {
            let problem =
                "the way to the database is not checked: somebody in between could read and change what it stores";
            return Err(fail(format!(
                "{problem}; add sslmode=verify-full to the URL, or write ledger.insecure = true"
            )));
        }
        config.schema.clone_from(&self.schema);
        config.read_connections = self.read_connections;
        config.connect_timeout = self.timeouts.connect;
        config.statement_timeout = self.timeouts.statement;
        config.idle_timeout = self.timeouts.idle;
        Ok(config)
    }
}

/// One effective value, for `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; hidden if it may be a secret.
    pub value: String,
    /// Distinguishes values that are displayed alike.
    pub(crate) mark: Mark,
    /// Its origin.
    pub origin: Origin,
}

/// Hash of a value. Not shown itself: some values are easily guessed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(B256);

impl Mark {
    pub(crate) fn of(value: &str) -> Self {
        Self(keccak256(value))
    }
}

impl Entry {
    /// An entry whose value is shown in full.
    fn plain(key: String, value: String, origin: Origin) -> Self {
        Self { key, mark: Mark::of(&value), value, origin }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// The validated configuration: everything present and consistent, secrets still references.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Serve callers without API key.
    pub allow_anonymous: bool,
    /// Limits of the HTTP side.
    pub http: HttpLimits,
    /// The database file.
    pub sqlite: SqliteConfig,
    /// The database that several instances share, instead of the file.
    pub shared: Option<SharedLedger>,
    /// Pace of the group commit.
    pub group_commit: GroupCommitConfig,
    /// Reference to the identity key; `None` for the first chain's first signer.
    pub identity: Option<SecretRef>,
    /// Deadlines.
    pub request: RequestLimits,
    /// What all tenants together may have open.
    pub open_limits: OpenLimits,
    /// Logs.
    pub log: LogConfig,
    /// The chains.
    pub chains: Vec<ChainConfig>,
    /// The tenants.
    pub tenants: Vec<TenantConfig>,
    /// Variables with our prefix that are not configuration keys: Kubernetes made them for a Service `slackwater`.
    pub of_services: Vec<String>,
    /// Every value with its origin.
    pub entries: Vec<Entry>,
}

/// The configuration with its secrets: ready to start.
#[derive(Debug)]
pub struct Resolved {
    /// Chains with keys and URLs.
    pub chains: Vec<ChainSetup>,
    /// The identity key, if it is a key of its own.
    pub identity: Option<IdentityKey>,
    /// The shared database, if there is one.
    pub postgres: Option<PostgresConfig>,
}

impl Config {
    /// Fetches every secret.
    ///
    /// # Errors
    /// All secrets that are missing or unusable; never shows a secret.
    pub fn resolve(&self) -> Result<Resolved, ConfigErrors> {
        let mut errors = Vec::new();
        let mut fail = |key: String, problem: String| errors.push(ConfigError::new(None, &key, problem));
        let mut chains = Vec::new();
        for (index, chain) in self.chains.iter().enumerate() {
            let mut setup = ChainSetup::new(chain.spec.clone()).tuning(chain.tuning.clone());
            for (at, endpoint) in chain.endpoints.iter().enumerate() {
                let key = |name| format!("chain.{index}.rpc.{at}.{name}");
                let heads = match endpoint.ws_url.as_ref().map(SecretRef::resolve) {
                    Some(Err(error)) => {
                        fail(key("ws_url"), error.to_string());
                        None
                    }
                    Some(Ok(url)) => Some(url),
                    None => None,
                };
                match endpoint.url.resolve() {
                    Err(error) => fail(key("url"), error.to_string()),
                    Ok(url) => {
                        let limit = endpoint.rate_limit_per_s;
                        let endpoint = RpcEndpoint::new(&endpoint.name, url.expose())
                            .rate_limit_per_s(limit)
                            .insecure(endpoint.is_insecure);
                        setup.endpoints.push(match heads {
                            Some(heads) => endpoint.heads(heads.expose()),
                            None => endpoint,
                        });
                    }
                }
            }
            for (at, signer) in chain.signers.iter().enumerate() {
                let key = format!("chain.{index}.signers.{at}");
                let resolved = signer
                    .key
                    .resolve()
                    .map_err(|error| error.to_string())
                    .and_then(|secret| LocalSigner::from_hex(secret.expose()).map_err(|error| error.to_string()));
                match resolved {
                    Err(problem) => fail(key, problem),
                    Ok(local) if signer.tenants.is_empty() => setup.signers.push(local.into()),
                    Ok(local) => setup = setup.signer_for(local, &signer.tenants),
                }
            }
            setup.forwarders.clone_from(&chain.forwarders);
            setup.tokens.clone_from(&chain.tokens);
            // Only now can this be checked; the library's builder would refuse it too.
            for fault in setup.problems() {
                fail(format!("chain.{index}.{}", fault.key), format!("{}; {}", fault.detail, fault.fix));
            }
            chains.push(setup);
        }
        let mut identity = None;
        if let Some(reference) = &self.identity {
            match reference
                .resolve()
                .map_err(|error| error.to_string())
                .and_then(|secret| IdentityKey::from_hex(secret.expose()).map_err(|error| error.to_string()))
            {
                Err(problem) => fail("identity.key".to_owned(), problem),
                Ok(key) => identity = Some(key),
            }
        }
        let mut postgres = None;
        match self.shared.as_ref().map(SharedLedger::resolve) {
            None => {}
            Some(Ok(config)) => postgres = Some(config),
            Some(Err(more)) => errors.extend(more.0),
        }
        let tenants = self.tenants.iter().map(|tenant| (tenant.policy.id.clone(), tenant.policy.clone())).collect();
        for (chain_id, fault) in call_problems(&chains, &tenants) {
            let index = chains.iter().position(|chain| chain.spec.chain_id == chain_id).unwrap_or_default();
            let problem = format!("{}; {}", fault.detail, fault.fix);
            errors.push(ConfigError::new(None, &format!("chain.{index}.{}", fault.key), problem));
        }
        if errors.is_empty() { Ok(Resolved { chains, identity, postgres }) } else { Err(ConfigErrors(errors)) }
    }

    /// Files with secrets, the configuration and the ledger, if other users may read them.
    pub fn exposed(&self) -> Vec<Exposed> {
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        files.extend(self.file.clone().map(|path| ("the configuration".to_owned(), path)));
        let mut add = |key: String, reference: &SecretRef| {
            files.extend(reference.files().into_iter().map(|path| (format!("the secret of `{key}`"), path)));
        };
        for (index, chain) in self.chains.iter().enumerate() {
            for (at, endpoint) in chain.endpoints.iter().enumerate() {
                add(format!("chain.{index}.rpc.{at}.url"), &endpoint.url);
                endpoint.ws_url.iter().for_each(|url| add(format!("chain.{index}.rpc.{at}.ws_url"), url));
            }
            for (at, signer) in chain.signers.iter().enumerate() {
                add(format!("chain.{index}.signers.{at}"), &signer.key);
            }
        }
        self.identity.iter().for_each(|key| add("identity.key".to_owned(), key));
        match &self.shared {
            Some(shared) => add("ledger.url".to_owned(), &shared.url),
            None => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut path = self.sqlite.path.clone().into_os_string();
                    path.push(suffix);
                    files.push(("the ledger, with requests that have not run yet".to_owned(), path.into()));
                }
            }
        }
        let exposed = |(what, path): (String, PathBuf)| Some(Exposed { what, readers: readers::readers(&path)?, path });
        files.into_iter().filter_map(exposed).collect()
    }

    /// A relay builder with this configuration.
    pub fn relay_builder(&self, resolved: Resolved) -> RelayBuilder {
        let mut builder = Relay::builder()
            .sqlite(self.sqlite.clone())
            .group_commit(self.group_commit)
            .default_within(self.request.default_within)
            .default_expiry(self.request.default_expiry)
            .max_within(self.request.max_within)
            .open_limits(self.open_limits);
        if let (Some(postgres), Some(shared)) = (resolved.postgres, &self.shared) {
            builder = builder.postgres(postgres).cluster(shared.cluster.clone());
        }
        for chain in resolved.chains {
            builder = builder.chain(chain);
        }
        for tenant in &self.tenants {
            builder = builder.tenant(tenant.policy.clone());
        }
        if let Some(identity) = resolved.identity {
            builder = builder.identity(identity);
        }
        builder
    }

    /// The API keys and tenants of the HTTP API.
    pub fn access(&self) -> Access {
        let mut access = if self.allow_anonymous { Access::open() } else { Access::by_keys() };
        for tenant in &self.tenants {
            access.insert(&tenant.policy.id, tenant.door.clone());
        }
        access
    }
}

/// True for a loopback address.
const fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback(),
    }
}
