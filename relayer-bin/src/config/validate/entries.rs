//! Every value in force, and where it comes from.

use slackwater::ClusterConfig;
use toml::Table;

use crate::{
    config::{
        Config, Entry, Mark, Origin, SharedTimeouts, UrlText,
        layers::{Layers, join},
        plain,
        reference::is_toml,
        schema,
        secret::SecretText,
    },
    http::auth::KeyHash,
};

/// Every effective value with its origin.
pub(super) fn entries(config: &Config, layers: &Layers, presets: &[Option<String>]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let schema = schema::schema();
    let given = toml::Value::Table(layers.tree.clone());
    flatten(&given, "", &mut |path, value| {
        // An empty table of keys says nothing. An empty one of an operator's own names, such as contracts, names none.
        let is_nothing = value.as_table().is_some_and(|_| schema::has_keys(schema, path));
        if is_nothing {
            return;
        }
        let origin = layers.origin(path).cloned().unwrap_or(Origin::Default);
        entries.push(Entry {
            key: path.to_owned(),
            value: shown(schema, path, value),
            mark: Mark::of(&value.to_string()),
            origin,
        });
    });
    let is_given = |entries: &[Entry], key: &str| {
        entries
            .iter()
            .any(|entry| entry.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let shared = config.shared.as_ref();
    let cluster = shared.map_or_else(ClusterConfig::default, |shared| shared.cluster.clone());
    let timeouts = shared.map_or_else(SharedTimeouts::default, |shared| shared.timeouts);
    let mut groups: Vec<_> = [
        ("server", Table::try_from(&config.http)),
        ("server", Table::try_from(config.open_limits)),
        ("page_key", Table::try_from(&config.http.page_key)),
        ("request", Table::try_from(config.request)),
        ("ledger", Table::try_from(&config.sqlite)),
        ("ledger", Table::try_from(config.group_commit)),
        ("ledger", Table::try_from(cluster)),
        ("ledger", Table::try_from(timeouts)),
    ]
    .map(|(section, values)| (section.to_owned(), values))
    .into();
    groups.extend(
        config
            .chains
            .iter()
            .enumerate()
            .map(|(index, chain)| (format!("chain.{index}"), Table::try_from(&chain.tuning))),
    );
    for (section, values) in groups {
        for (name, value) in values.unwrap_or_default() {
            let key = join(&section, &name);
            if !is_given(&entries, &key) {
                entries.push(Entry::plain(key, value.to_string(), Origin::Default));
            }
        }
    }
    schema::walk(schema, "", &mut |path, leaf| {
        let default = leaf.get("x-default").and_then(serde_json::Value::as_str).filter(|text| is_toml(text));
        if let Some(default) = default.filter(|_| !path.contains(".0.") && !is_given(&entries, path)) {
            entries.push(Entry::plain(path.to_owned(), default.to_owned(), Origin::Default));
        }
    });
    for (index, chain) in config.chains.iter().enumerate() {
        let origin = match presets.get(index) {
            Some(Some(name)) => Origin::Preset(name.clone()),
            _ => Origin::Default,
        };
        if let Ok(spec) = toml::Value::try_from(&chain.spec) {
            flatten(&spec, &format!("chain.{index}.spec"), &mut |path, value| {
                if !value.is_table() && !is_given(&entries, path) {
                    entries.push(Entry::plain(path.to_owned(), value.to_string(), origin.clone()));
                }
            });
        }
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

/// Visits every value with its path, in order; empty tables and lists too.
pub(super) fn flatten(value: &toml::Value, path: &str, visit: &mut impl FnMut(&str, &toml::Value)) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
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

pub(super) fn shown(schema: &serde_json::Value, path: &str, value: &toml::Value) -> String {
    let toml::Value::String(text) = value else { return value.to_string() };
    let leaf = schema::leaf(schema, path);
    let format = leaf.and_then(|leaf| leaf.get("format")).and_then(serde_json::Value::as_str);
    match format {
        Some("secret") => SecretText(text.clone()).shown().into_owned(),
        Some("secret-url") => UrlText(text.clone()).shown(),
        _ if plain::looks_secret(text) && !is_hash(text) => plain::hidden(text),
        _ => value.to_string(),
    }
}

/// Whether this is the hash of an API key, which opens nothing.
fn is_hash(text: &str) -> bool {
    KeyHash::parse(text).is_some()
}
