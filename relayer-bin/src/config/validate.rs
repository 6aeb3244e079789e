//! From what is written to what is used: everything present, in range, and consistent.

mod chain;
mod entries;
mod server;
mod tenant;

use std::{net::SocketAddr, time::Duration};

use alloy_primitives::{Address, hex};
use serde::{Serialize, de::DeserializeOwned};
use slackwater::internal::{UrlFault, check_http_url, check_ws_url};
use slackwater_core::{policy::OpenLimits, tuning::Group};
use toml::Table;

use self::{
    chain::chain_config,
    entries::entries,
    server::{check_periods, check_shares, http_limits, shared_ledger, storage},
    tenant::tenant_config,
};
use super::{
    ChainConfig, Config, ConfigError, LogConfig, RawConfig, RawLogFormat, RequestLimits, TenantConfig,
    layers::{Layers, join},
    plain,
    secret::{REFERENCE_FORMS, SecretError, SecretRef, SecretText},
};

/// Address of the API unless told otherwise: this machine only.
pub(super) const DEFAULT_LISTEN: &str = "127.0.0.1:7700";
/// Place of the database unless told otherwise.
pub(super) const DEFAULT_PATH: &str = "slackwater.db";
/// Schema of the tables in PostgreSQL unless told otherwise.
pub(super) const DEFAULT_SCHEMA: &str = "slackwater";
/// Length of a budget's period unless told otherwise: a day.
const DEFAULT_PERIOD_S: u64 = 86_400;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `group` with the operator's keys over it, one by one, so that each that is wrong is told.
fn layered<T: Group + Serialize + DeserializeOwned>(
    check: &mut Check<'_>,
    key: &str,
    given: &Table,
    mut group: T,
) -> T {
    for (name, value) in given {
        let with = Table::try_from(&group).map_err(|error| error.to_string()).and_then(|mut table| {
            table.insert(name.clone(), value.clone());
            table.try_into().map_err(|error| error.message().to_owned())
        });
        match with {
            Ok(with) => group.take(with),
            Err(message) => check.fail(&join(key, name), None, plain::expectation(&message), ""),
        }
    }
    group
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
    let open_limits = layered(&mut check, "server", &server.given, OpenLimits::default());
    let (sqlite, group_commit) = storage(&mut check, &ledger);
    let shared = shared_ledger(&mut check, &ledger, &sqlite, listen_text);

    let mut request_limits = layered(&mut check, "request", &request.given, RequestLimits::default());
    let RequestLimits { default_within, default_expiry, max_within } = &mut request_limits;
    if !request.given.contains_key("default_expiry_ms") {
        *default_expiry = (*default_expiry).max(*default_within);
    }
    if default_within > max_within {
        check.fail(
            "request.default_within_ms",
            Some(&millis(*default_within).to_string()),
            format!("is above `request.max_within_ms` = {}", millis(*max_within)),
            "lower the first or raise the second",
        );
    }
    if default_expiry < default_within {
        check.fail(
            "request.default_expiry_ms",
            Some(&millis(*default_expiry).to_string()),
            format!("is below `request.default_within_ms` = {}", millis(*default_within)),
            "raise the first or lower the second",
        );
    }
    let http = http_limits(&mut check, server, &page_key, request_limits.default_expiry);
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
        request: request_limits,
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
