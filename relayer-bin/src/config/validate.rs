//! From what is written to what is used: everything present, in range, and consistent.

mod chain;
mod entries;
mod server;
mod tenant;

use std::{net::SocketAddr, time::Duration};

use alloy_primitives::{Address, hex};
use slackwater::{
    ledger::{GroupCommitConfig, SqliteConfig},
    policy::OpenLimits,
    relay::{UrlFault, check_http_url, check_ws_url},
};

use self::{
    chain::chain_config,
    entries::entries,
    server::{check_periods, check_shares, http_limits, shared_ledger, storage},
    tenant::tenant_config,
};
use super::{
    ChainConfig, Config, ConfigError, LogConfig, RawConfig, RawLedger, RawLog, RawLogFormat, RawMetrics, RawPageKey,
    RawRequest, RawServer, SharedLedger, TenantConfig,
    layers::Layers,
    plain,
    secret::{REFERENCE_FORMS, SecretError, SecretRef, SecretText},
};
use crate::http::HttpLimits;

/// Where the API listens unless told otherwise: this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:7700";
/// Where the database is unless told otherwise.
const DEFAULT_PATH: &str = "slackwater.db";
/// Length of a budget's period unless told otherwise: a day.
const DEFAULT_PERIOD_S: u64 = 86_400;
/// Deadline of a request that names none.
const DEFAULT_WITHIN: Duration = Duration::from_secs(60);
/// How long a request is valid that names no time.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(3_600);
/// Furthest deadline.
const DEFAULT_MAX_WITHIN: Duration = Duration::from_secs(24 * 3_600);

impl RawConfig {
    /// The built-in values of the sections that do not depend on a chain or tenant. Taken from the types that use
    /// them, so that the reference can't drift.
    pub fn defaults() -> Self {
        let http = HttpLimits::default();
        let open = OpenLimits::default();
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
                max_header_bytes: Some(http.max_header_bytes as u64),
                write_timeout_ms: Some(millis(http.write_timeout)),
                max_connections: Some(http.max_connections as u64),
                max_connections_per_ip: Some(http.max_connections_per_ip as u64),
                max_waiting_connections: Some(http.max_waiting_connections as u64),
                probe_listen: None,
                max_body_memory_bytes: Some(http.max_body_memory_bytes as u64),
                max_streams: Some(http.max_streams as u64),
                keep_alive_ms: Some(millis(http.keep_alive)),
                shutdown_grace_ms: Some(millis(http.shutdown_grace)),
                rate_per_ip_per_s: Some(http.rate_per_ip_per_s.unwrap_or(0)),
                trusted_proxies: Some(Vec::new()),
                hosts: Some(http.hosts),
                cors_origins: Some(Vec::new()),
                max_open_requests: Some(open.max_requests),
                max_open_bytes: Some(open.max_bytes),
                metrics: Some(RawMetrics::Open),
            },
            page_key: RawPageKey {
                rate_per_ip_per_s: Some(http.page_key.rate_per_ip_per_s.get()),
                burst_per_ip: Some(http.page_key.burst_per_ip.get()),
                max_requests_per_hour: Some(http.page_key.max_requests_per_hour),
                hourly_budget_percent: Some(http.page_key.hourly_budget_percent),
                budget_percent: Some(http.page_key.budget_percent),
                max_cost_wei: None,
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
                log_head_interval_ms: Some(millis(group.log_head_interval)),
                max_refusal_sums: Some(group.max_refusal_sums as u64),
                url: None,
                insecure: Some(false),
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
                default_expiry_ms: Some(millis(DEFAULT_EXPIRY)),
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
    !matches!(check_http_url(text), Err(UrlFault::Malformed))
}

/// Whether `text` could be the WebSocket URL of a node.
pub(super) fn is_ws_url(text: &str) -> bool {
    !matches!(check_ws_url(text), Err(UrlFault::Malformed))
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
        let value = value.map(plain::shown);
        let mut error = ConfigError::new(self.layers.origin(key).cloned(), key, problem).value(value.as_deref());
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

    /// A name that logs, metrics and the API show must be none that looks like a key.
    fn name(&mut self, key: &str, text: &str) {
        if plain::looks_secret(text) {
            self.fail(key, Some(text), "looks like a key or a URL, and names are shown", "choose another name");
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
}

pub(super) fn validate(
    raw: RawConfig,
    layers: &Layers,
    allow_inline: bool,
    errors: &mut Vec<ConfigError>,
) -> Option<Config> {
    let mut check = Check { layers, errors, allow_inline };
    let RawConfig { server, page_key, ledger, identity, request, log, chain, tenant } = raw;

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
    if allow_anonymous && !tenant.iter().any(|tenant| tenant.id.as_deref() == Some("default")) {
        check.fail(
            "server.allow_anonymous",
            Some("true"),
            "callers without key are the tenant `default`, which is not among the tenants",
            "add a [[tenant]] with id = \"default\" that says what they may: `targets`, or a `budget`",
        );
    }
    let usual = OpenLimits::default();
    let open_limits = OpenLimits {
        max_requests: server.max_open_requests.unwrap_or(usual.max_requests),
        max_bytes: server.max_open_bytes.unwrap_or(usual.max_bytes),
    };
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
    let default_expiry = span(request.default_expiry_ms, DEFAULT_EXPIRY.max(default_within));
    if default_expiry < default_within {
        check.fail(
            "request.default_expiry_ms",
            Some(&millis(default_expiry).to_string()),
            format!("is below `request.default_within_ms` = {}", millis(default_within)),
            "raise the first or lower the second",
        );
    }
    let http = http_limits(&mut check, server, &page_key, default_expiry);
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
    for (at, chain) in chains.iter().enumerate() {
        for (index, signer) in chain.signers.iter().enumerate() {
            for stranger in signer.tenants.iter().filter(|id| !tenants.iter().any(|tenant| tenant.policy.id == **id)) {
                let key = format!("chain.{at}.signers.{index}.tenants");
                check.fail(&key, Some(stranger), "is no tenant", "write the id of a [[tenant]]");
            }
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
        check_shares(&mut check, &tenants);
    }
    let mut config = Config {
        file: None,
        listen: listen?,
        allow_anonymous,
        http,
        sqlite,
        shared,
        group_commit,
        identity,
        default_within,
        max_within,
        default_expiry,
        open_limits,
        log,
        chains,
        tenants,
        of_services: layers.of_services.clone(),
        entries: Vec::new(),
    };
    config.entries = entries(&config, layers, &presets);
    Some(config)
}

/// A word alone would be taken for a module that logs everything, and silence the rest: it must be a level.
fn check_filter(filter: &str) -> Result<(), String> {
    let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    if let Some(word) = filter.split(',').find(|part| !part.contains('=') && !is_level(part.trim())) {
        return Err(format!("{:?} is no level", plain::shown(word)));
    }
    filter.parse::<tracing_subscriber::filter::Targets>().map(|_| ()).map_err(|_| "is no filter".to_owned())
}
