//! Server, ledger, storage.

use std::{net::SocketAddr, time::Duration};

use slackwater::ClusterConfig;
use slackwater_ledger::{GroupCommitConfig, SqliteConfig};

use super::{Check, DEFAULT_PATH, DEFAULT_SCHEMA, is_http_url, layered, millis};
use crate::{
    config::{
        RawLedger, RawPageKey, RawServer, SharedLedger, SharedTimeouts, TenantConfig, plain,
        secret::{REFERENCE_FORMS, SecretRef},
    },
    http::{HttpLimits, page::PageLimits, peer::Cidr, web::Origins},
};

/// Scheme and host, perhaps a port or `:*`.
pub(super) fn is_origin(text: &str) -> bool {
    is_http_url(text.strip_suffix(":*").unwrap_or(text)) && text.matches('/').count() == 2
}

pub(super) fn http_limits(
    check: &mut Check<'_>,
    raw: RawServer,
    page_key: &RawPageKey,
    default_expiry: Duration,
) -> HttpLimits {
    let cors_origins = raw.cors_origins.unwrap_or_default();
    for (index, origin) in cors_origins.iter().enumerate() {
        if origin != "*" && !is_origin(origin) {
            let key = format!("server.cors_origins.{index}");
            check.fail(
                &key,
                Some(origin),
                "is not an origin",
                "write scheme and host, such as https://app.example.org",
            );
        }
    }
    let hosts = raw.hosts.unwrap_or_default();
    for (index, host) in hosts.iter().enumerate() {
        if !is_host_name(host) {
            let key = format!("server.hosts.{index}");
            check.fail(&key, Some(host), "is not a host's name", "write the name alone, such as relay.example.org");
        }
    }
    let mut trusted_proxies = Vec::new();
    for (index, text) in raw.trusted_proxies.unwrap_or_default().iter().enumerate() {
        match text.parse::<Cidr>() {
            Ok(range) => trusted_proxies.push(range),
            Err(error) => {
                let key = format!("server.trusted_proxies.{index}");
                check.fail(&key, Some(text), error.to_string(), "write an address, or a range such as 10.0.0.0/8");
            }
        }
    }
    let probe_listen = raw.probe_listen.and_then(|text| {
        let address: Option<SocketAddr> = text.parse().ok();
        if address.is_none() {
            check.fail("server.probe_listen", Some(&text), "is not an address with port", "write 127.0.0.1:7701");
        }
        address
    });
    let page_limits = PageLimits {
        max_cost_wei: page_key.max_cost_wei.map(|wei| wei.0),
        max_within: default_expiry,
        ..layered(check, "page_key", &page_key.given, PageLimits::default())
    };
    HttpLimits {
        probe_listen,
        trusted_proxies,
        cors_origins: Origins::new(cors_origins),
        hosts,
        page_key: page_limits,
        ..layered(check, "server", &raw.given, HttpLimits::default())
    }
}

pub(super) fn shared_ledger(
    check: &mut Check<'_>,
    raw: &RawLedger,
    sqlite: &SqliteConfig,
    listen: &str,
) -> Option<SharedLedger> {
    let text = raw.url.as_ref()?;
    let url = if is_postgres_url(&text.0) {
        Some(SecretRef::Inline(crate::config::Secret::new(&text.0)))
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
    let schema = raw.schema.clone().unwrap_or_else(|| DEFAULT_SCHEMA.to_owned());
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty() || schema.len() > 63 || !schema.chars().all(is_name) {
        check.fail("ledger.schema", Some(&schema), "is no name of a schema", "use at most 63 of a-z, 0-9 and _");
    }
    if let Some(instance) = &raw.instance {
        check.name("ledger.instance", instance);
    }
    check.name("ledger.schema", &schema);
    let instance = raw.instance.clone().unwrap_or_else(|| format!("{listen}#{}", std::process::id()));
    let cluster = layered(check, "ledger", &raw.given, ClusterConfig::default()).with(|it| it.instance = instance);
    let mut timeouts = layered(check, "ledger", &raw.given, SharedTimeouts::default());
    if !raw.given.contains_key("idle_timeout_ms") {
        timeouts.idle = timeouts.idle.min(cluster.lease / 2);
    }
    let (idle_timeout, lease) = (timeouts.idle, cluster.lease);
    if idle_timeout >= lease {
        check.fail(
            "ledger.idle_timeout_ms",
            Some(&millis(idle_timeout).to_string()),
            format!("is not below `ledger.lease_ms` = {}", millis(lease)),
            "an instance that stands still would hold up whoever takes over",
        );
    }
    Some(SharedLedger {
        url: url?,
        is_insecure: raw.insecure.unwrap_or(false),
        schema,
        read_connections: sqlite.read_connections,
        timeouts,
        cluster,
    })
}

/// Before the host, or among the parameters.
pub(super) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || rest.contains("password=")
}

pub(super) fn is_postgres_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// A shared ledger sums what tenants spend by the hour.
pub(super) fn check_periods(check: &mut Check<'_>, tenants: &[TenantConfig]) {
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

/// Nor does it sum what one signer or one target spends.
pub(super) fn check_shares(check: &mut Check<'_>, tenants: &[TenantConfig]) {
    for (index, tenant) in tenants.iter().enumerate() {
        let shares = tenant.policy.budget_shares;
        let percents =
            [("signer_budget_percent", shares.signer_percent), ("target_budget_percent", shares.target_percent)];
        for (key, percent) in percents.into_iter().filter(|(_, percent)| *percent < 100) {
            check.fail(
                &format!("tenant.{index}.{key}"),
                Some(&percent.to_string()),
                "is not counted across instances that share a ledger",
                "leave it at 100, or choose a ledger without `ledger.url`",
            );
        }
    }
}

pub(super) fn storage(check: &mut Check<'_>, raw: &RawLedger) -> (SqliteConfig, GroupCommitConfig) {
    let path = raw.path.clone().unwrap_or_else(|| DEFAULT_PATH.to_owned());
    if path.is_empty() || path == ":memory:" {
        check.fail("ledger.path", Some(&path), "would lose what was accepted", "name a file on a disk that survives");
    }
    if path.contains("://") {
        check.fail(
            "ledger.path",
            Some(&path),
            "is a URL, not a file",
            "the URL of a database belongs in ledger.url, by reference: env:NAME or file:PATH",
        );
    } else if plain::is_reference(&path) {
        check.fail("ledger.path", Some(&path), "is a reference to a secret, and paths are shown", "name a file");
    } else if !path.contains(['/', '.']) {
        check.name("ledger.path", &path);
    }
    (
        layered(check, "ledger", &raw.given, SqliteConfig::new(path)),
        layered(check, "ledger", &raw.given, GroupCommitConfig::default()),
    )
}

/// Labels of letters, digits and hyphens, of at most 63 characters (RFC 1123).
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
