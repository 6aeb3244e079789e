//! Server, ledger, storage.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use slackwater::{
    ledger::{GroupCommitConfig, SqliteConfig},
    relay::ClusterConfig,
};

use super::{Check, DEFAULT_PATH, is_http_url, millis, size, span};
use crate::{
    config::{
        RawLedger, RawMetrics, RawPageKey, RawServer, SharedLedger, TenantConfig, plain,
        secret::{REFERENCE_FORMS, SecretRef},
    },
    http::{HttpLimits, MetricsAccess, page::PageLimits, peer::Cidr, web::Origins},
};

/// Scheme and host, perhaps a port or `:*`.
pub(super) fn is_origin(text: &str) -> bool {
    is_http_url(text.strip_suffix(":*").unwrap_or(text)) && text.matches('/').count() == 2
}

fn page_limits(raw: &RawPageKey, max_within: Duration) -> PageLimits {
    let defaults = PageLimits::default();
    PageLimits {
        rate_per_ip_per_s: raw.rate_per_ip_per_s.and_then(NonZeroU32::new).unwrap_or(defaults.rate_per_ip_per_s),
        burst_per_ip: raw.burst_per_ip.and_then(NonZeroU32::new).unwrap_or(defaults.burst_per_ip),
        max_requests_per_hour: raw.max_requests_per_hour.unwrap_or(defaults.max_requests_per_hour),
        hourly_budget_percent: raw.hourly_budget_percent.unwrap_or(defaults.hourly_budget_percent),
        budget_percent: raw.budget_percent.unwrap_or(defaults.budget_percent),
        max_cost_wei: raw.max_cost_wei.map(|wei| wei.0),
        max_within,
    }
}

pub(super) fn http_limits(
    check: &mut Check<'_>,
    raw: RawServer,
    page_key: &RawPageKey,
    default_expiry: Duration,
) -> HttpLimits {
    let defaults = HttpLimits::default();
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
    HttpLimits {
        max_body_bytes: size(raw.max_body_bytes, defaults.max_body_bytes),
        max_batch_body_bytes: size(raw.max_batch_body_bytes, defaults.max_batch_body_bytes),
        max_batch_items: size(raw.max_batch_items, defaults.max_batch_items),
        max_import_body_bytes: size(raw.max_import_body_bytes, defaults.max_import_body_bytes),
        body_timeout: span(raw.body_timeout_ms, defaults.body_timeout),
        header_timeout: span(raw.header_timeout_ms, defaults.header_timeout),
        max_header_bytes: size(raw.max_header_bytes, defaults.max_header_bytes),
        write_timeout: span(raw.write_timeout_ms, defaults.write_timeout),
        max_connections: size(raw.max_connections, defaults.max_connections),
        max_connections_per_ip: size(raw.max_connections_per_ip, defaults.max_connections_per_ip),
        max_waiting_connections: size(raw.max_waiting_connections, defaults.max_waiting_connections),
        probe_listen,
        max_body_memory_bytes: size(raw.max_body_memory_bytes, defaults.max_body_memory_bytes),
        max_streams: size(raw.max_streams, defaults.max_streams),
        keep_alive: span(raw.keep_alive_ms, defaults.keep_alive),
        shutdown_grace: span(raw.shutdown_grace_ms, defaults.shutdown_grace),
        rate_per_ip_per_s: raw.rate_per_ip_per_s.map_or(defaults.rate_per_ip_per_s, |rate| (rate > 0).then_some(rate)),
        trusted_proxies,
        cors_origins: Origins::new(cors_origins),
        hosts,
        metrics: match raw.metrics {
            None | Some(RawMetrics::Open) => MetricsAccess::Open,
            Some(RawMetrics::Operator) => MetricsAccess::Operator,
            Some(RawMetrics::Off) => MetricsAccess::Off,
        },
        page_key: page_limits(page_key, default_expiry),
    }
}

pub(super) fn shared_ledger(check: &mut Check<'_>, raw: &RawLedger, listen: &str) -> Option<SharedLedger> {
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
    let defaults = SharedLedger::default();
    let schema = raw.schema.clone().unwrap_or(defaults.schema);
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if schema.is_empty() || schema.len() > 63 || !schema.chars().all(is_name) {
        check.fail("ledger.schema", Some(&schema), "is no name of a schema", "use at most 63 of a-z, 0-9 and _");
    }
    if let Some(instance) = &raw.instance {
        check.name("ledger.instance", instance);
    }
    check.name("ledger.schema", &schema);
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
        is_insecure: raw.insecure.unwrap_or(false),
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

pub(super) fn storage(check: &mut Check<'_>, raw: RawLedger) -> (SqliteConfig, GroupCommitConfig) {
    let path = raw.path.unwrap_or_else(|| DEFAULT_PATH.to_owned());
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
        log_head_interval: span(raw.log_head_interval_ms, defaults.log_head_interval),
        max_refusal_sums: size(raw.max_refusal_sums, defaults.max_refusal_sums),
    };
    (sqlite, group)
}

/// Labels of letters, digits and hyphens, of at most 63 characters (RFC 1123).
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && is_plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
