//! Reload of the configuration while the relayer runs: all or nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use alloy_primitives::{B256, Keccak256};
use slackwater::PolicyError;
use slackwater_core::wire::Change;
use slackwater_ledger::LedgerError;
use tokio::runtime::Handle;

use super::App;
use crate::config::{Config, ConfigErrors, Entry, Mark, Sources};

/// Keys below `tenant.N.` that can be changed while the relayer runs.
const RELOADABLE: &[&str] = &[
    "api_keys",
    "keys",
    "operator",
    "max_streams",
    "targets",
    "open",
    "max_gas",
    "max_value_wei",
    "max_calldata_bytes",
    "max_open_requests",
    "max_open_bytes",
    "max_open_per_signer",
    "max_gapped_per_signer",
    "gapped_budget_percent",
    "gap_timeout_ms",
    "rate_per_s",
    "nonce_lookups_per_s",
    "price_percent",
    "weight",
];

/// Sources of the configuration, and the values in force.
pub struct Reloader {
    sources: Sources,
    state: Mutex<State>,
}

/// A value in force.
#[derive(Clone, PartialEq, Eq)]
struct Shown {
    value: String,
    mark: Mark,
}

type Table = BTreeMap<String, Shown>;

struct State {
    entries: Table,
    /// Digest of the values that the decision log records as in force.
    recorded: B256,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reloader")
    }
}

/// Reason why nothing was applied. The operator has to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// This relayer was not started from a reloadable configuration.
    #[error("this relayer has no configuration that can be read again")]
    Unsupported,
    /// The configuration has errors.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// Something changed that needs a restart.
    #[error("{} can only be changed by a restart; nothing was taken over", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// The relay rejects a policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

fn table(entries: &[Entry]) -> Table {
    let shown = |entry: &Entry| Shown { value: entry.value.clone(), mark: entry.mark };
    entries.iter().map(|entry| (entry.key.clone(), shown(entry))).collect()
}

/// Hash of all values in force, as `config show` prints them: secrets are hidden there.
pub(crate) fn digest(entries: &[Entry]) -> B256 {
    digest_of(&table(entries))
}

fn digest_of(entries: &Table) -> B256 {
    let mut hasher = Keccak256::new();
    for (key, Shown { value, .. }) in entries {
        hasher.update(format!("{key} = {value}\n"));
    }
    hasher.finalize()
}

/// Differences in the order of the keys, including those that are displayed alike.
fn changes(before: &Table, now: &Table) -> Vec<Change> {
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let differs = |key: &&String| before.get(*key) != now.get(*key);
    let shown = |table: &Table, key: &String| table.get(key).map(|shown| shown.value.clone());
    let change = |key: &String| Change { key: key.clone(), was: shown(before, key), now: shown(now, key) };
    keys.into_iter().filter(differs).map(change).collect()
}

/// Index of the tenant that `key` belongs to.
fn tenant_of(key: &str) -> Option<usize> {
    key.strip_prefix("tenant.")?.split('.').next()?.parse().ok()
}

/// True if a running relayer with so many tenants can apply a change of `key`. A new tenant is added as a whole.
fn is_reloadable(key: &str, tenants: usize) -> bool {
    let Some(place) = tenant_of(key) else { return false };
    let mut parts = key.split('.').skip(2);
    match (parts.next(), parts.next()) {
        (Some(_), _) if place >= tenants => true,
        // Usage is counted by its period.
        (Some("budget"), key) => key == Some("limit_wei"),
        (name, _) => name.is_some_and(|name| RELOADABLE.contains(&name)),
    }
}

impl Reloader {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reloader of a relayer that was started with `config`, from `sources`.
    pub fn new(sources: Sources, config: &Config) -> Self {
        let entries = table(&config.entries);
        let recorded = digest_of(&entries);
        Self { sources, state: Mutex::new(State { entries, recorded }) }
    }
}

impl App {
    /// Reloads the configuration and applies all changes, or none. Event streams end, and reopen with the keys then in
    /// force. Blocks: call it on a thread of a tokio runtime that may block.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing is changed then.
    pub fn reload(&self) -> Result<Vec<Change>, ReloadError> {
        let reloader = self.reloader.as_ref().ok_or(ReloadError::Unsupported)?;
        // One at a time, so that the last configuration read is the last one applied.
        let mut state = reloader.state();
        let config = reloader.sources.clone().load()?;
        let now = table(&config.entries);
        let changes = changes(&state.entries, &now);
        let tenants = state.entries.keys().filter_map(|key| tenant_of(key)).max().map_or(0, |last| last + 1);
        let fixed: Vec<String> = changes
            .iter()
            .filter(|change| !is_reloadable(&change.key, tenants))
            .map(|change| format!("`{}`", change.key))
            .collect();
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        if !changes.is_empty() {
            let policies = config.tenants.iter().map(|tenant| tenant.policy.clone()).collect();
            Handle::current().block_on(self.relay.set_policies(policies))?;
            self.set_access(config.access());
            state.entries = now;
        }
        for Change { key, was, now } in &changes {
            tracing::warn!(key, was, now, "configuration changed");
        }
        Ok(changes)
    }

    /// Records in the decision log that `by` reloaded the configuration, and the digest of the values in force.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn record_reload(&self, by: &str, changed: usize) -> Result<(), LedgerError> {
        self.relay.record_action(by, "reload", &format!("{changed} keys changed")).await?;
        let Some(reloader) = &self.reloader else { return Ok(()) };
        // Compared with the recorded digest, not with this reload's changes: an earlier reload may not have been
        // recorded.
        let config = {
            let state = reloader.state();
            Some(digest_of(&state.entries)).filter(|config| *config != state.recorded)
        };
        if let Some(config) = config {
            self.relay.record_configuration(config, env!("CARGO_PKG_VERSION")).await?;
            reloader.state().recorded = config;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_and_limits_of_tenants_are_reloadable() {
        for key in [
            "tenant.0.api_keys.1",
            "tenant.12.keys.0.hash",
            "tenant.0.operator",
            "tenant.3.max_streams",
            "tenant.0.targets.1",
            "tenant.0.max_gas",
            "tenant.0.budget.limit_wei",
            "tenant.0.weight",
            "tenant.13.id",
            "tenant.13.budget.period_s",
        ] {
            assert!(is_reloadable(key, 13), "{key}");
        }
        for key in [
            "tenant.0.id",
            "tenant.0.kinds",
            "tenant.0.budget.period_s",
            "tenant.0.budget",
            "server.listen",
            "chain.0.keys",
            "tenant",
            "tenant.0",
        ] {
            assert!(!is_reloadable(key, 13), "{key}");
        }
    }

    #[test]
    fn what_changed_is_told() {
        let table = |pairs: &[(&str, &str, &str)]| {
            let shown = |value: &str, raw| Shown { value: value.to_owned(), mark: Mark::of(raw) };
            pairs.iter().map(|(key, value, raw)| ((*key).to_owned(), shown(value, raw))).collect::<Table>()
        };
        let found = changes(
            &table(&[("a", "1", "1"), ("b", "2", "2"), ("c", "3", "3"), ("url", "https://host/…", "https://host/one")]),
            &table(&[("b", "2", "2"), ("c", "4", "4"), ("d", "5", "5"), ("url", "https://host/…", "https://host/two")]),
        );
        let text = |value: &str| Some(value.to_owned());
        let hidden = || text("https://host/…");
        let expect =
            [("a", text("1"), None), ("c", text("3"), text("4")), ("d", None, text("5")), ("url", hidden(), hidden())];
        assert_eq!(found, expect.map(|(key, was, now)| Change { key: key.to_owned(), was, now }));
    }
}
