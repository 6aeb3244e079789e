//! From what is written to what is used: everything present, in range, and consistent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    time::Duration,
};

use alloy_primitives::{Address, FixedBytes, U256, hex};
use slackwater::{
    chain::{ChainSpec, preset_for_chain_id},
    ledger::{GroupCommitConfig, SqliteConfig},
    market::{BenchRule, BookConfig},
    policy::{Budget, KindName, TargetRule, TenantPolicy},
    relay::{ChainTuning, ClusterConfig, ForwarderSetup, TimingMode},
};

use super::{
    ChainConfig, Config, ConfigError, EndpointConfig, Entry, LogConfig, Origin, RawBudget, RawChain, RawConfig,
    RawForwarder, RawKind, RawLedger, RawLog, RawLogFormat, RawMetrics, RawRequest, RawRpc, RawServer, RawTenant,
    SharedLedger, TenantConfig, UrlText,
    layers::{Layers, join, merge},
    secret::{REFERENCE_FORMS, SecretError, SecretRef, SecretText},
};
use crate::{
    http::{HttpLimits, MetricsAccess, auth::KeyHash},
    scalar::Uint,
};

/// Where the API listens unless told otherwise: this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:7700";
/// Where the database is unless told otherwise.
const DEFAULT_PATH: &str = "slackwater.db";
/// Length of a budget's period unless told otherwise: a day.
const DEFAULT_PERIOD_S: u64 = 86_400;
/// Deadline of a request that names none.
const DEFAULT_WITHIN: Duration = Duration::from_secs(60);
/// Furthest deadline.
const DEFAULT_MAX_WITHIN: Duration = Duration::from_secs(24 * 3_600);

impl RawConfig {
    /// The built-in values of the sections that do not depend on a chain or tenant. Taken from the types that use
    /// them, so that the reference can't drift.
    pub fn defaults() -> Self {
        let http = HttpLimits::default();
        let sqlite = SqliteConfig::new(DEFAULT_PATH);
        let shared = SharedLedger::default();
        let group = GroupCommitConfig::default();
        let log = LogConfig::default();
        Self {
            server: RawServer {
                listen: Some(DEFAULT_LISTEN.to_owned()),
                allow_anonymous: Some(false),
                max_body_bytes: Some(http.max_body_bytes as u64),
                max_batch_body_bytes: Some(http.max_batch_body_bytes as u64),
                max_batch_items: Some(http.max_batch_items as u64),
                max_import_body_bytes: Some(http.max_import_body_bytes as u64),
                body_timeout_ms: Some(millis(http.body_timeout)),
                header_timeout_ms: Some(millis(http.header_timeout)),
                max_connections: Some(http.max_connections as u64),
                max_streams: Some(http.max_streams as u64),
                keep_alive_ms: Some(millis(http.keep_alive)),
                shutdown_grace_ms: Some(millis(http.shutdown_grace)),
                rate_per_ip_per_s: Some(http.rate_per_ip_per_s.unwrap_or(0)),
                cors_origins: Some(http.cors_origins),
                metrics: Some(RawMetrics::Open),
            },
            ledger: RawLedger {
                path: Some(DEFAULT_PATH.to_owned()),
                busy_timeout_ms: Some(sqlite.busy_timeout_ms),
                read_connections: Some(sqlite.read_connections),
                cache_kib: Some(sqlite.cache_kib),
                checkpoint_pages: Some(sqlite.checkpoint_pages),
                check_at_start: Some(sqlite.check_at_start),
                queue_len: Some(group.queue_len as u64),
                max_group: Some(group.max_group as u64),
                event_backlog: Some(group.event_backlog as u64),
                url: None,
                schema: Some(shared.schema),
                instance: None,
                lease_ms: Some(millis(shared.cluster.lease)),
                follow_interval_ms: Some(millis(shared.cluster.follow_interval)),
                accept_timeout_ms: Some(millis(shared.cluster.accept_timeout)),
                connect_timeout_ms: Some(millis(shared.connect_timeout)),
                statement_timeout_ms: Some(millis(shared.statement_timeout)),
                idle_timeout_ms: Some(millis(shared.idle_timeout)),
            },
            request: RawRequest {
                default_within_ms: Some(millis(DEFAULT_WITHIN)),
                max_within_ms: Some(millis(DEFAULT_MAX_WITHIN)),
            },
            log: RawLog { format: Some(RawLogFormat::Text), level: Some(log.filter) },
            ..Self::default()
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn size(value: Option<u64>, default: usize) -> usize {
    value.map_or(default, |value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn span(value: Option<u64>, default: Duration) -> Duration {
    value.map_or(default, Duration::from_millis)
}

/// Whether `text` could be the URL of a node.
pub(super) fn is_http_url(text: &str) -> bool {
    is_url(text, ["https://", "http://"])
}

/// Whether `text` could be the WebSocket URL of a node.
pub(super) fn is_ws_url(text: &str) -> bool {
    is_url(text, ["wss://", "ws://"])
}

fn is_url(text: &str, schemes: [&str; 2]) -> bool {
    let host = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with('/') && !text.contains(char::is_whitespace))
}

/// Collects errors with the origins of the values at fault.
struct Check<'a> {
    layers: &'a Layers,
    errors: &'a mut Vec<ConfigError>,
    allow_inline: bool,
}

impl Check<'_> {
    fn fail(&mut self, key: &str, value: Option<&str>, problem: impl Into<String>, fix: impl Into<String>) {
        let fix: String = fix.into();
        let mut error = ConfigError::new(self.layers.origin(key).cloned(), key, problem).value(value);
        if !fix.is_empty() {
            error = error.fix(fix);
        }
        self.errors.push(error);
    }

    fn secret(&mut self, key: &str, text: &SecretText) -> Option<SecretRef> {
        match SecretRef::parse(&text.0) {
            Ok(reference) if reference.is_inline() && !self.allow_inline => {
                self.fail(key, None, "a secret must not stand in the configuration (hidden)", REFERENCE_FORMS);
                None
            }
            Ok(reference) => Some(reference),
            Err(SecretError::Unsupported(scheme)) => {
                self.fail(key, None, format!("{scheme}: is not supported by this version"), REFERENCE_FORMS);
                None
            }
            Err(error) => {
                self.fail(key, None, error.to_string(), REFERENCE_FORMS);
                None
            }
        }
    }

    fn address(&mut self, key: &str, text: &str) -> Option<Address> {
        let mut bytes = [0u8; 20];
        match text.strip_prefix("0x") {
            Some(digits) if hex::decode_to_slice(digits, &mut bytes).is_ok() => Some(Address::from(bytes)),
            _ => {
                self.fail(key, Some(text), "is not an address", "write 0x and 40 hexadecimal digits");
                None
            }
        }
    }

    /// A price or fee of at most 128 bits.
    fn narrow(&mut self, key: &str, amount: Option<Uint>, default: u128) -> u128 {
        let Some(Uint(amount)) = amount else { return default };
        u128::try_from(amount).unwrap_or_else(|_| {
            self.fail(key, Some(&amount.to_string()), "is above 2^128 - 1", "");
            default
        })
    }
}

pub(super) fn validate(
    raw: RawConfig,
    layers: &Layers,
    allow_inline: bool,
    errors: &mut Vec<ConfigError>,
) -> Option<Config> {
    let mut check = Check { layers, errors, allow_inline };
    let RawConfig { server, ledger, identity, request, log, chain, tenant } = raw;

    let listen_text = &server.listen.clone().unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    let listen: Option<SocketAddr> = listen_text.parse().ok();
    if listen.is_none() {
        check.fail(
            "server.listen",
            Some(listen_text),
            "is not an address with port",
            "write 127.0.0.1:7700 or [::]:7700",
        );
    }
    let allow_anonymous = server.allow_anonymous.unwrap_or(false);
    if allow_anonymous && listen.is_some_and(|listen| !super::is_loopback(listen.ip())) {
        check.fail(
            "server.allow_anonymous",
            Some("true"),
            format!("anybody who reaches {listen_text} could spend your money"),
            "listen on 127.0.0.1, or give every tenant an API key",
        );
    }
    if allow_anonymous && !tenant.is_empty() && !tenant.iter().any(|tenant| tenant.id.as_deref() == Some("default")) {
        check.fail(
            "server.allow_anonymous",
            Some("true"),
            "callers without key are the tenant `default`, which is not among the tenants",
            "add a [[tenant]] with id = \"default\", or remove the others",
        );
    }
    let http = http_limits(&mut check, server);
    let shared = shared_ledger(&mut check, &ledger, listen_text);
    let (sqlite, group_commit) = storage(&mut check, ledger);

    let default_within = span(request.default_within_ms, DEFAULT_WITHIN);
    let max_within = span(request.max_within_ms, DEFAULT_MAX_WITHIN);
    if default_within > max_within {
        check.fail(
            "request.default_within_ms",
            Some(&millis(default_within).to_string()),
            format!("is above `request.max_within_ms` = {}", millis(max_within)),
            "lower the first or raise the second",
        );
    }
    let log_defaults = LogConfig::default();
    let log =
        LogConfig { is_json: log.format == Some(RawLogFormat::Json), filter: log.level.unwrap_or(log_defaults.filter) };
    if let Err(problem) = check_filter(&log.filter) {
        check.fail("log.level", Some(&log.filter), problem, "write error, warn, info, debug, trace or a filter");
    }
    let identity = identity.key.as_ref().and_then(|key| check.secret("identity.key", key));

    let mut chains = Vec::new();
    let mut presets = Vec::new();
    for (index, raw) in chain.into_iter().enumerate() {
        presets.push(raw.preset.clone());
        if let Some(chain) = chain_config(&mut check, &format!("chain.{index}"), raw) {
            if chains.iter().any(|other: &ChainConfig| other.spec.chain_id == chain.spec.chain_id) {
                let id = chain.spec.chain_id.to_string();
                check.fail(
                    &format!("chain.{index}.chain_id"),
                    Some(&id),
                    "is configured twice",
                    "merge the two tables",
                );
            }
            chains.push(chain);
        }
    }
    if presets.is_empty() {
        check.fail(
            "chain",
            None,
            "is missing: there is nothing to serve",
            "add a [[chain]]; see `slackwater config example`",
        );
    }

    let mut tenants = Vec::new();
    for (index, raw) in tenant.into_iter().enumerate() {
        if let Some(tenant) = tenant_config(&mut check, &format!("tenant.{index}"), raw, allow_anonymous) {
            if tenants.iter().any(|other: &TenantConfig| other.policy.id == tenant.policy.id) {
                let id = tenant.policy.id.clone();
                check.fail(&format!("tenant.{index}.id"), Some(&id), "is used twice", "choose another id");
            }
            tenants.push(tenant);
        }
    }
    if tenants.is_empty() && !allow_anonymous && check.errors.is_empty() {
        check.fail(
            "tenant",
            None,
            "is missing: nobody could call",
            "add a [[tenant]] with a key from `slackwater keys api`, or set server.allow_anonymous = true on a loopback address",
        );
    }
    if shared.is_some() {
        check_periods(&mut check, &tenants);
    }
    let mut config = Config {
        listen: listen?,
        allow_anonymous,
        http,
        sqlite,
        shared,
        group_commit,
        identity,
        default_within,
        max_within,
        log,
        chains,
        tenants,
        entries: Vec::new(),
    };
    config.entries = entries(&config, layers, &presets);
    Some(config)
}

/// A word alone would be taken for a module that logs everything, and silence the rest: it must be a level.
fn check_filter(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    if let Some(word) = filter.split(',').find(|part| !part.contains('=') && !is_level(part.trim())) {
        return Err(format!("{word:?} is no level"));
    }
    filter.parse::<tracing_subscriber::filter::Targets>().map(|_| ()).map_err(|error| error.to_string())
}

fn http_limits(check: &mut Check<'_>, raw: RawServer) -> HttpLimits {
    let defaults = HttpLimits::default();
    let cors_origins = raw.cors_origins.unwrap_or_default();
    for (index, origin) in cors_origins.iter().enumerate() {
        let is_plain = is_http_url(origin) && origin.matches('/').count() == 2;
        if origin != "*" && !is_plain {
            let key = format!("server.cors_origins.{index}");
            check.fail(
                &key,
                Some(origin),
                "is not an origin",
                "write scheme and host, such as https://app.example.org",
            );
        }
    }
    HttpLimits {
        max_body_bytes: size(raw.max_body_bytes, defaults.max_body_bytes),
        max_batch_body_bytes: size(raw.max_batch_body_bytes, defaults.max_batch_body_bytes),
        max_batch_items: size(raw.max_batch_items, defaults.max_batch_items),
        max_import_body_bytes: size(raw.max_import_body_bytes, defaults.max_import_body_bytes),
        body_timeout: span(raw.body_timeout_ms, defaults.body_timeout),
        header_timeout: span(raw.header_timeout_ms, defaults.header_timeout),
        max_connections: size(raw.max_connections, defaults.max_connections),
        max_streams: size(raw.max_streams, defaults.max_streams),
        keep_alive: span(raw.keep_alive_ms, defaults.keep_alive),
        shutdown_grace: span(raw.shutdown_grace_ms, defaults.shutdown_grace),
        rate_per_ip_per_s: raw.rate_per_ip_per_s.filter(|rate| *rate > 0),
        cors_origins,
        metrics: match raw.metrics {
            None | Some(RawMetrics::Open) => MetricsAccess::Open,
            Some(RawMetrics::Operator) => MetricsAccess::Operator,
            Some(RawMetrics::Off) => MetricsAccess::Off,
        },
    }
}

fn shared_ledger(check: &mut Check<'_>, raw: &RawLedger, listen: &str) -> Option<SharedLedger> {
    let text = raw.url.as_ref()?;
    let url = if is_postgres_url(&text.0) {
        Some(SecretRef::Inline(super::Secret::new(&text.0)))
    } else {
        SecretRef::parse(&text.0).ok().filter(|reference| matches!(reference, SecretRef::Env(_) | SecretRef::File(_)))
    };
    if url.is_none() {
        check.fail(
            "ledger.url",
            None,
            "is neither a postgres:// URL nor a reference (hidden)",
            "write postgres://user@host/database, env:NAME or file:PATH",
        );
    }
    if is_postgres_url(&text.0) && has_password(&text.0) && !check.allow_inline {
        check.fail("ledger.url", None, "a password must not stand in the configuration (hidden)", REFERENCE_FORMS);
    }
    let defaults = SharedLedger::default();
    let schema = raw.schema.clone().unwrap_or(defaults.schema);
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty() || schema.len() > 63 || !schema.chars().all(is_name) {
        check.fail("ledger.schema", Some(&schema), "is no name of a schema", "use at most 63 of a-z, 0-9 and _");
    }
    let lease = span(raw.lease_ms, defaults.cluster.lease);
    let idle_timeout = span(raw.idle_timeout_ms, defaults.idle_timeout.min(lease / 2));
    if idle_timeout >= lease {
        check.fail(
            "ledger.idle_timeout_ms",
            Some(&millis(idle_timeout).to_string()),
            format!("is not below `ledger.lease_ms` = {}", millis(lease)),
            "an instance that stands still would hold up whoever takes over",
        );
    }
    let instance = raw.instance.clone().unwrap_or_else(|| format!("{listen}#{}", std::process::id()));
    Some(SharedLedger {
        url: url?,
        schema,
        read_connections: raw.read_connections.unwrap_or(defaults.read_connections),
        connect_timeout: span(raw.connect_timeout_ms, defaults.connect_timeout),
        statement_timeout: span(raw.statement_timeout_ms, defaults.statement_timeout),
        idle_timeout,
        cluster: ClusterConfig {
            instance,
            lease,
            follow_interval: span(raw.follow_interval_ms, defaults.cluster.follow_interval),
            accept_timeout: span(raw.accept_timeout_ms, defaults.cluster.accept_timeout),
        },
    })
}

/// Before the host, or among the parameters.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || rest.contains("password=")
}

fn is_postgres_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// A shared ledger sums what tenants spend by the hour.
fn check_periods(check: &mut Check<'_>, tenants: &[TenantConfig]) {
    for (index, tenant) in tenants.iter().enumerate() {
        let period = tenant.policy.budget.as_ref().map_or(0, |budget| budget.period.as_secs());
        if period % 3_600 != 0 {
            check.fail(
                &format!("tenant.{index}.budget.period_s"),
                Some(&period.to_string()),
                "is not a multiple of 3600, by which a shared ledger counts",
                "choose whole hours, or a ledger without `ledger.url`",
            );
        }
    }
}

fn storage(check: &mut Check<'_>, raw: RawLedger) -> (SqliteConfig, GroupCommitConfig) {
    let path = raw.path.unwrap_or_else(|| DEFAULT_PATH.to_owned());
    if path.is_empty() || path == ":memory:" {
        check.fail("ledger.path", Some(&path), "would lose what was accepted", "name a file on a disk that survives");
    }
    let defaults = SqliteConfig::new(&path);
    let sqlite = SqliteConfig {
        busy_timeout_ms: raw.busy_timeout_ms.unwrap_or(defaults.busy_timeout_ms),
        read_connections: raw.read_connections.unwrap_or(defaults.read_connections),
        cache_kib: raw.cache_kib.unwrap_or(defaults.cache_kib),
        checkpoint_pages: raw.checkpoint_pages.unwrap_or(defaults.checkpoint_pages),
        check_at_start: raw.check_at_start.unwrap_or(defaults.check_at_start),
        ..defaults
    };
    let defaults = GroupCommitConfig::default();
    let group = GroupCommitConfig {
        queue_len: size(raw.queue_len, defaults.queue_len),
        max_group: size(raw.max_group, defaults.max_group),
        event_backlog: size(raw.event_backlog, defaults.event_backlog),
    };
    (sqlite, group)
}

fn chain_config(check: &mut Check<'_>, key: &str, raw: RawChain) -> Option<ChainConfig> {
    let spec = chain_spec(check, key, &raw);
    let endpoints = endpoints(check, key, &raw.rpc);
    let signers: Vec<_> = raw
        .signers
        .iter()
        .enumerate()
        .filter_map(|(index, text)| check.secret(&format!("{key}.signers.{index}"), text))
        .collect();
    if raw.signers.is_empty() {
        check.fail(
            &join(key, "signers"),
            None,
            "is missing: nobody would pay for gas",
            "name at least one key by reference",
        );
    }
    for (index, signer) in signers.iter().enumerate() {
        if signers[..index].contains(signer) {
            check.fail(
                &format!("{key}.signers.{index}"),
                None,
                "is listed twice",
                "two lanes would fight over its nonces",
            );
        }
    }
    let forwarders = forwarders(check, key, &raw.forwarders);
    let spec = spec?;
    let tuning = tuning(check, key, &raw, &spec);
    Some(ChainConfig { spec, tuning, endpoints, signers, forwarders })
}

/// The preset with the operator's facts over it.
fn chain_spec(check: &mut Check<'_>, key: &str, raw: &RawChain) -> Option<ChainSpec> {
    let mut table = toml::Table::new();
    match &raw.preset {
        Some(name) => match ChainSpec::preset(name) {
            Ok(spec) => match toml::Table::try_from(&spec) {
                Ok(preset) => table = preset,
                Err(error) => check.fail(&join(key, "preset"), Some(name), error.to_string(), ""),
            },
            Err(error) => {
                check.fail(&join(key, "preset"), Some(&format!("{name:?}")), error.to_string(), "");
                return None;
            }
        },
        None if raw.spec.is_none() => {
            let known = raw.chain_id.and_then(preset_for_chain_id);
            let fix = match known {
                Some(spec) => format!("write preset = {:?}", spec.name),
                None => "name a preset, or give all facts in [chain.spec]".to_owned(),
            };
            check.fail(&join(key, "preset"), None, "is missing: nothing is known about the chain", fix);
            return None;
        }
        None => {}
    }
    if let Some(over) = &raw.spec {
        // A rule of another kind has other keys: it replaces the preset's as a whole.
        for (name, value) in over {
            if let (Some(toml::Value::Table(below)), toml::Value::Table(above)) = (table.get(name), value)
                && above.contains_key("kind")
                && below.get("kind") != above.get("kind")
            {
                table.remove(name);
            }
        }
        merge(&mut table, over.clone());
    }
    if let Some(chain_id) = raw.chain_id {
        table.insert("chain_id".to_owned(), toml::Value::Integer(i64::try_from(chain_id).unwrap_or(i64::MAX)));
    }
    if let Some(name) = &raw.name {
        table.insert("name".to_owned(), toml::Value::String(name.clone()));
    }
    let spec_key = join(key, "spec");
    let spec: ChainSpec = match serde_path_to_error::deserialize(toml::Value::Table(table)) {
        Ok(spec) => spec,
        Err(error) => {
            let path = error.path().to_string();
            let at = if path == "." { spec_key } else { join(&spec_key, &path) };
            let message = error.into_inner().to_string();
            check.fail(&at, None, message.lines().next().unwrap_or_default(), "see core/presets for the keys");
            return None;
        }
    };
    if let Err(errors) = spec.validate() {
        for error in errors {
            check.fail(&spec_key, None, error.to_string(), "");
        }
        return None;
    }
    Some(spec)
}

fn endpoints(check: &mut Check<'_>, key: &str, raw: &[RawRpc]) -> Vec<EndpointConfig> {
    if raw.is_empty() {
        check.fail(
            &join(key, "rpc"),
            None,
            "is missing: the chain can't be reached",
            "add rpc = [{ url = \"https://…\" }]",
        );
    }
    let mut names = BTreeSet::new();
    let mut endpoints = Vec::new();
    for (index, rpc) in raw.iter().enumerate() {
        let key = format!("{key}.rpc.{index}");
        let name = rpc.name.clone().unwrap_or_else(|| format!("rpc-{index}"));
        if !names.insert(name.clone()) {
            check.fail(&join(&key, "name"), Some(&name), "is used twice", "give each endpoint its own name");
        }
        let Some(url) = &rpc.url else {
            check.fail(&join(&key, "url"), None, "is missing", "write the node's https:// URL, or env:NAME");
            continue;
        };
        let ws_url = rpc.ws_url.as_ref().and_then(|text| {
            let reference = url_reference(text, is_ws_url);
            if reference.is_none() {
                check.fail(
                    &join(&key, "ws_url"),
                    None,
                    "is neither a WebSocket URL nor a reference (hidden)",
                    "write wss://…, env:NAME or file:PATH",
                );
            }
            reference
        });
        match url_reference(url, is_http_url) {
            Some(url) => {
                let rate_limit_per_s = rpc.rate_limit_per_s.unwrap_or(0);
                endpoints.push(EndpointConfig { name, url, ws_url, rate_limit_per_s });
            }
            None => check.fail(
                &join(&key, "url"),
                None,
                "is neither an http(s) URL nor a reference (hidden)",
                "write https://…, env:NAME or file:PATH; a WebSocket URL belongs in ws_url, beside it",
            ),
        }
    }
    endpoints
}

/// A URL that stands there itself, or says where it is.
fn url_reference(text: &UrlText, is_url: impl Fn(&str) -> bool) -> Option<SecretRef> {
    if is_url(&text.0) {
        return Some(SecretRef::Inline(super::Secret::new(&text.0)));
    }
    SecretRef::parse(&text.0).ok().filter(|reference| matches!(reference, SecretRef::Env(_) | SecretRef::File(_)))
}

fn forwarders(check: &mut Check<'_>, key: &str, raw: &[RawForwarder]) -> Vec<ForwarderSetup> {
    let mut setups: Vec<ForwarderSetup> = Vec::new();
    for (index, forwarder) in raw.iter().enumerate() {
        let key = format!("{key}.forwarders.{index}");
        let address_key = join(&key, "address");
        let Some(text) = &forwarder.address else {
            check.fail(&address_key, None, "is missing", "name the contract");
            continue;
        };
        let Some(address) = check.address(&address_key, text) else { continue };
        if setups.iter().any(|setup| setup.address == address) {
            check.fail(&address_key, Some(text), "is listed twice", "remove one");
        }
        let allow_unknown_code = forwarder.allow_unknown_code.unwrap_or(false);
        setups.push(ForwarderSetup { address, allow_unknown_code });
    }
    setups
}

fn tuning(check: &mut Check<'_>, key: &str, raw: &RawChain, spec: &ChainSpec) -> ChainTuning {
    let (defaults, block) = (ChainTuning::for_spec(spec), spec.block_time());
    let ceiling_key = join(key, "max_fee_ceiling_wei_per_gas");
    let tip_key = join(key, "tip_ceiling_wei_per_gas");
    let urgent_within = span(raw.urgent_within_ms, defaults.urgent_within);
    let spans = |given: &Option<Vec<u64>>, default: Vec<Duration>| {
        given.as_ref().map_or(default, |given| given.iter().copied().map(Duration::from_millis).collect())
    };
    let poll_interval = span(raw.poll_interval_ms, defaults.poll_interval);
    let subscribed_poll = ChainTuning::usual_subscribed_poll(poll_interval, block);
    let max_slack_blocks = raw.max_slack_blocks.unwrap_or(defaults.max_slack_blocks);
    // Without `..`: a new field must get its key.
    let tuning = ChainTuning {
        poll_interval,
        subscribed_poll_interval: span(raw.subscribed_poll_interval_ms, subscribed_poll),
        subscription_silence: span(raw.subscription_silence_ms, defaults.subscription_silence),
        rpc_timeout: span(raw.rpc_timeout_ms, defaults.rpc_timeout),
        hedge_floor: span(raw.hedge_floor_ms, defaults.hedge_floor),
        hedge_budget_percent: raw.hedge_budget_percent.unwrap_or(defaults.hedge_budget_percent),
        rate_limit_pause: span(raw.rate_limit_pause_ms, defaults.rate_limit_pause),
        max_batch: size(raw.max_batch, defaults.max_batch),
        max_batch_gas: raw.max_batch_gas.unwrap_or(defaults.max_batch_gas),
        linger: span(raw.linger_ms, defaults.linger),
        waiting_cost_percent: raw.waiting_cost_percent.unwrap_or(defaults.waiting_cost_percent),
        max_in_flight: size(raw.max_in_flight, defaults.max_in_flight),
        bump_after_blocks: raw.bump_after_blocks.unwrap_or(defaults.bump_after_blocks),
        rebroadcast_after_blocks: raw.rebroadcast_after_blocks.unwrap_or(defaults.rebroadcast_after_blocks),
        max_attempts: raw.max_attempts.unwrap_or(defaults.max_attempts),
        max_fee_ceiling_wei_per_gas: check.narrow(
            &ceiling_key,
            raw.max_fee_ceiling_wei_per_gas,
            defaults.max_fee_ceiling_wei_per_gas,
        ),
        budget_headroom_percent: raw.budget_headroom_percent.unwrap_or(defaults.budget_headroom_percent),
        l1_fee_margin_percent: raw.l1_fee_margin_percent.unwrap_or(defaults.l1_fee_margin_percent),
        forward_overhead_gas: raw.forward_overhead_gas.unwrap_or(defaults.forward_overhead_gas),
        fee_history_blocks: raw.fee_history_blocks.unwrap_or(defaults.fee_history_blocks),
        market: market(raw, defaults.market),
        timing: raw.timing.map_or(defaults.timing, TimingMode::from),
        patience_percentile: raw.patience_percentile.unwrap_or(defaults.patience_percentile),
        urgent_within,
        guard_time_floor: span(raw.guard_time_floor_ms, defaults.guard_time_floor),
        guard_time_ceiling: span(raw.guard_time_ceiling_ms, defaults.guard_time_ceiling.max(urgent_within)),
        tip_target_permille: raw.tip_target_permille.unwrap_or(defaults.tip_target_permille),
        tip_within_blocks: raw.tip_within_blocks.unwrap_or(defaults.tip_within_blocks),
        tip_window_blocks: size(raw.tip_window_blocks, defaults.tip_window_blocks),
        tip_ceiling_wei_per_gas: check.narrow(&tip_key, raw.tip_ceiling_wei_per_gas, defaults.tip_ceiling_wei_per_gas),
        cap_target_permille: raw.cap_target_permille.unwrap_or(defaults.cap_target_permille),
        forecast_blocks: raw.forecast_blocks.clone().unwrap_or(defaults.forecast_blocks),
        forecast_times: spans(&raw.forecast_times_ms, defaults.forecast_times),
        slack_classes: spans(&raw.slack_classes_ms, ChainTuning::usual_slacks(block, max_slack_blocks)),
        max_slack_blocks,
        learned_save: span(raw.learned_save_ms, defaults.learned_save),
        learned_max_bytes: size(raw.learned_max_bytes, defaults.learned_max_bytes),
        max_nonce_gap: raw.max_nonce_gap.unwrap_or(defaults.max_nonce_gap),
        nonce_lookup: span(raw.nonce_lookup_ms, defaults.nonce_lookup),
        max_simulations: raw.max_simulations.unwrap_or(defaults.max_simulations),
        guard: span(raw.guard_ms, defaults.guard),
        simulate: raw.simulate.unwrap_or(defaults.simulate),
        cancel_gas: raw.cancel_gas.unwrap_or(defaults.cancel_gas),
    };
    let pace = tuning.pace_problem().map(|problem| ("subscribed_poll_interval_ms", problem));
    for (name, problem) in tuning.problems(block).into_iter().chain(pace) {
        check.fail(&join(key, name), None, problem, "see docs/configuration.md for the range");
    }
    tuning
}

/// Longest time on the bench, in times of the first.
const LONGEST_BENCH: u32 = 60;

fn market(raw: &RawChain, defaults: BookConfig) -> BookConfig {
    let first = span(raw.source_bench_ms, defaults.bench.first);
    BookConfig {
        window_blocks: size(raw.fee_window_blocks, defaults.window_blocks),
        max_lag_blocks: raw.source_max_lag_blocks.unwrap_or(defaults.max_lag_blocks),
        tolerance_bps: raw.source_tolerance_bps.unwrap_or(defaults.tolerance_bps),
        bench: BenchRule { first, longest: first.saturating_mul(LONGEST_BENCH), ..defaults.bench },
        ..defaults
    }
}

/// The values of a tuning by key, for `config show`.
fn tuning_values(tuning: &ChainTuning) -> Vec<(&'static str, String)> {
    let ms = |duration: Duration| millis(duration).to_string();
    let ChainTuning {
        poll_interval,
        subscribed_poll_interval,
        subscription_silence,
        rpc_timeout,
        hedge_floor,
        hedge_budget_percent,
        rate_limit_pause,
        max_batch,
        max_batch_gas,
        linger,
        waiting_cost_percent,
        max_in_flight,
        bump_after_blocks,
        rebroadcast_after_blocks,
        max_attempts,
        max_fee_ceiling_wei_per_gas,
        budget_headroom_percent,
        l1_fee_margin_percent,
        forward_overhead_gas,
        fee_history_blocks,
        market,
        timing,
        patience_percentile,
        urgent_within,
        guard_time_floor,
        guard_time_ceiling,
        tip_target_permille,
        tip_within_blocks,
        tip_window_blocks,
        tip_ceiling_wei_per_gas,
        cap_target_permille,
        forecast_blocks,
        forecast_times,
        slack_classes,
        max_slack_blocks,
        learned_save,
        learned_max_bytes,
        max_nonce_gap,
        nonce_lookup,
        max_simulations,
        guard,
        simulate,
        cancel_gas,
    } = tuning;
    let list = |times: &[Duration]| format!("{:?}", times.iter().map(|time| millis(*time)).collect::<Vec<_>>());
    vec![
        ("poll_interval_ms", ms(*poll_interval)),
        ("subscribed_poll_interval_ms", ms(*subscribed_poll_interval)),
        ("subscription_silence_ms", ms(*subscription_silence)),
        ("rpc_timeout_ms", ms(*rpc_timeout)),
        ("hedge_floor_ms", ms(*hedge_floor)),
        ("hedge_budget_percent", hedge_budget_percent.to_string()),
        ("rate_limit_pause_ms", ms(*rate_limit_pause)),
        ("max_batch", max_batch.to_string()),
        ("max_batch_gas", max_batch_gas.to_string()),
        ("linger_ms", ms(*linger)),
        ("waiting_cost_percent", waiting_cost_percent.to_string()),
        ("max_in_flight", max_in_flight.to_string()),
        ("bump_after_blocks", bump_after_blocks.to_string()),
        ("rebroadcast_after_blocks", rebroadcast_after_blocks.to_string()),
        ("max_attempts", max_attempts.to_string()),
        ("max_fee_ceiling_wei_per_gas", max_fee_ceiling_wei_per_gas.to_string()),
        ("budget_headroom_percent", budget_headroom_percent.to_string()),
        ("l1_fee_margin_percent", l1_fee_margin_percent.to_string()),
        ("forward_overhead_gas", forward_overhead_gas.to_string()),
        ("fee_history_blocks", fee_history_blocks.to_string()),
        ("fee_window_blocks", market.window_blocks.to_string()),
        ("source_max_lag_blocks", market.max_lag_blocks.to_string()),
        ("source_tolerance_bps", market.tolerance_bps.to_string()),
        ("source_bench_ms", ms(market.bench.first)),
        ("timing", timing.as_str().to_owned()),
        ("patience_percentile", patience_percentile.to_string()),
        ("urgent_within_ms", ms(*urgent_within)),
        ("guard_time_floor_ms", ms(*guard_time_floor)),
        ("guard_time_ceiling_ms", ms(*guard_time_ceiling)),
        ("tip_target_permille", tip_target_permille.to_string()),
        ("tip_within_blocks", tip_within_blocks.to_string()),
        ("tip_window_blocks", tip_window_blocks.to_string()),
        ("tip_ceiling_wei_per_gas", tip_ceiling_wei_per_gas.to_string()),
        ("cap_target_permille", cap_target_permille.to_string()),
        ("forecast_blocks", format!("{forecast_blocks:?}")),
        ("forecast_times_ms", list(forecast_times)),
        ("slack_classes_ms", list(slack_classes)),
        ("max_slack_blocks", max_slack_blocks.to_string()),
        ("learned_save_ms", ms(*learned_save)),
        ("learned_max_bytes", learned_max_bytes.to_string()),
        ("max_nonce_gap", max_nonce_gap.to_string()),
        ("nonce_lookup_ms", ms(*nonce_lookup)),
        ("max_simulations", max_simulations.to_string()),
        ("guard_ms", ms(*guard)),
        ("simulate", simulate.to_string()),
        ("cancel_gas", cancel_gas.to_string()),
    ]
}

fn tenant_config(check: &mut Check<'_>, key: &str, raw: RawTenant, allow_anonymous: bool) -> Option<TenantConfig> {
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

fn budget_of(check: &mut Check<'_>, key: &str, raw: &RawBudget) -> Option<Budget> {
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

fn target_rules(
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

/// Every effective value with its origin.
fn entries(config: &Config, layers: &Layers, presets: &[Option<String>]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let schema = super::schema::json_schema();
    let given = toml::Value::Table(layers.tree.clone());
    flatten(&given, "", &mut |path, value| {
        let origin = layers.origin(path).cloned().unwrap_or(Origin::Default);
        entries.push(Entry { key: path.to_owned(), value: shown(&schema, path, value), origin });
    });
    let is_given = |entries: &[Entry], key: &str| {
        entries
            .iter()
            .any(|entry| entry.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    if let Ok(defaults) = toml::Value::try_from(RawConfig::defaults()) {
        flatten(&defaults, "", &mut |path, value| {
            if !is_given(&entries, path) {
                entries.push(Entry { key: path.to_owned(), value: value.to_string(), origin: Origin::Default });
            }
        });
    }
    for (index, chain) in config.chains.iter().enumerate() {
        for (name, value) in tuning_values(&chain.tuning) {
            let key = format!("chain.{index}.{name}");
            if !is_given(&entries, &key) {
                entries.push(Entry { key, value, origin: Origin::Default });
            }
        }
        let origin = match presets.get(index) {
            Some(Some(name)) => Origin::Preset(name.clone()),
            _ => Origin::Default,
        };
        if let Ok(spec) = toml::Value::try_from(&chain.spec) {
            flatten(&spec, &format!("chain.{index}.spec"), &mut |path, value| {
                if !is_given(&entries, path) {
                    entries.push(Entry { key: path.to_owned(), value: value.to_string(), origin: origin.clone() });
                }
            });
        }
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

fn flatten(value: &toml::Value, path: &str, visit: &mut impl FnMut(&str, &toml::Value)) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                flatten(value, &join(path, key), visit);
            }
        }
        toml::Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                flatten(value, &join(path, &index.to_string()), visit);
            }
        }
        other => visit(path, other),
    }
}

fn shown(schema: &serde_json::Value, path: &str, value: &toml::Value) -> String {
    let toml::Value::String(text) = value else { return value.to_string() };
    let leaf = super::schema::leaf(schema, path);
    let format = leaf.and_then(|leaf| leaf.get("format")).and_then(serde_json::Value::as_str);
    match format {
        Some("secret") => SecretText(text.clone()).shown().into_owned(),
        Some("secret-url") => super::UrlText(text.clone()).shown(),
        _ => value.to_string(),
    }
}
