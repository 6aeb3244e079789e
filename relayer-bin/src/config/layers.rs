//! Layers of configuration: files, environment and flags, each overriding the one before; every value remembers its
//! origin.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde_json::Value as Schema;
use toml::{Table, Value};

use super::{ConfigError, plain, schema};

/// Prefix of environment variables that are configuration keys.
pub(super) const ENV_PREFIX: &str = "SLACKWATER_";

/// Variables with that prefix that are not configuration keys.
pub(super) const OTHER_VARIABLES: &[&str] = &[
    "SLACKWATER_ANVIL",
    "SLACKWATER_API_KEY",
    "SLACKWATER_BIN",
    "SLACKWATER_CONFIG",
    "SLACKWATER_KEYSTORE",
    "SLACKWATER_KEYSTORE_PASSWORD",
    "SLACKWATER_URL",
];

/// True if Kubernetes made the variable named by our prefix and then `rest`: it gives every container of a namespace
/// the address of the Service `slackwater`.
fn is_of_service(rest: &str, text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match rest {
        "SERVICE_HOST" | "SERVICE_PORT" => true,
        // A misspelt key of ours would have a number here.
        "PORT" => ["tcp://", "udp://"].iter().any(|scheme| text.starts_with(scheme)),
        _ if rest.starts_with("SERVICE_PORT_") => rest.len() > "SERVICE_PORT_".len(),
        _ => {
            let mut parts = rest.strip_prefix("PORT_").unwrap_or_default().splitn(3, '_');
            let (port, protocol, what) = (parts.next(), parts.next(), parts.next());
            port.is_some_and(is_number)
                && matches!(protocol, Some("TCP" | "UDP"))
                && matches!(what, None | Some("ADDR" | "PORT" | "PROTO"))
        }
    }
}

/// Origin of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A chain preset.
    Preset(String),
    /// A file, at a line (from 1).
    File {
        /// Its name as given.
        name: Arc<str>,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(name) => write!(f, "preset {name}"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Env(name) => write!(f, "${}", plain::variable(name)),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// All layers merged: one tree, and the origin of every value in it by path (`chain.0.rpc.1.url`).
#[derive(Debug, Default)]
pub(super) struct Layers {
    pub(super) tree: Table,
    origins: BTreeMap<String, Origin>,
    /// Variables with our prefix that are ignored because Kubernetes made them.
    pub(super) of_services: Vec<String>,
}

impl Layers {
    /// Lays a TOML text over what is there, with old names of keys replaced by the new ones.
    pub(super) fn add_toml(&mut self, name: &str, text: &str, schema: &Schema, errors: &mut Vec<ConfigError>) {
        let name: Arc<str> = name.into();
        let document = match toml::de::DeTable::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                let origin = Origin::File { name, line };
                errors.push(ConfigError::new(Some(origin), "", plain::unquoted(error.message())).fix("mend the TOML"));
                return;
            }
        };
        let mut flat = Vec::new();
        let mut reader = Reader { text, name: &name, flat: &mut flat };
        let mut tree = Value::Table(reader.table(document.into_inner(), ""));
        self.origins.extend(flat);
        let mut renamed = Vec::new();
        schema::rename(&mut tree, schema, "", &mut renamed);
        for (old, new) in renamed {
            if let Some(origin) = self.origins.remove(&old) {
                self.origins.insert(new, origin);
            }
        }
        if let Value::Table(table) = tree {
            merge(&mut self.tree, table);
        }
    }

    /// Reads the environment. Unknown names with our prefix are errors, unless a reference names them as the place of a
    /// secret.
    pub(super) fn add_env(
        &mut self,
        variables: &BTreeMap<String, String>,
        schema: &Schema,
        errors: &mut Vec<ConfigError>,
    ) {
        let mut referenced = Vec::new();
        collect_references(&Value::Table(self.tree.clone()), &mut referenced);
        let mut unknown = Vec::new();
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
            if OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            match schema::path_of_variable(schema, rest) {
                Some((path, leaf)) => {
                    let origin = Origin::Env(name.clone());
                    if let Some(value) = schema::value_of_text(&leaf, text) {
                        collect_references(&value, &mut referenced);
                        self.set(&path, value, origin, errors);
                    } else {
                        errors.push(
                            ConfigError::new(Some(origin), &path, format!("expected {}", schema::type_name(&leaf)))
                                .value(Some(&plain::hidden(text))),
                        );
                    }
                }
                None if is_of_service(rest, text) => self.of_services.push(name.clone()),
                None => unknown.push(name.clone()),
            }
        }
        for name in unknown.into_iter().filter(|name| !referenced.contains(name)) {
            let known = schema::variables(schema);
            let nearest =
                schema::nearest(&name, known.iter().map(String::as_str).chain(OTHER_VARIABLES.iter().copied()));
            let mut error = ConfigError::new(Some(Origin::Env(name.clone())), "", "is no configuration key");
            if let Some(nearest) = nearest {
                error = error.fix(format!("did you mean {nearest}?"));
            }
            errors.push(error);
        }
    }

    /// Sets one value by path, such as `server.listen` or `chain.0.max_batch`. An error if a value of another kind
    /// blocks the path.
    pub(super) fn set(&mut self, path: &str, value: Value, origin: Origin, errors: &mut Vec<ConfigError>) {
        let mut parts = path.split('.').peekable();
        let mut at = Place::Table(&mut self.tree);
        // End, within `path`, of the part that is being resolved.
        let mut end = 0;
        let in_the_way = loop {
            let Some(part) = parts.next() else { return };
            let next_is_index = parts.peek().is_some_and(|next| next.bytes().all(|b| b.is_ascii_digit()));
            let slot = match at {
                Place::Table(table) => table.entry(part.to_owned()).or_insert_with(|| {
                    if next_is_index { Value::Array(Vec::new()) } else { Value::Table(Table::new()) }
                }),
                Place::Array(array) => {
                    let Ok(index) = part.parse::<usize>() else { break "a list" };
                    if index > array.len() {
                        let problem = format!("index {index} leaves a gap, there are {}", array.len());
                        errors.push(ConfigError::new(Some(origin), path, problem));
                        return;
                    }
                    if index == array.len() {
                        array.push(Value::Table(Table::new()));
                    }
                    &mut array[index]
                }
            };
            end += part.len() + usize::from(end > 0);
            if parts.peek().is_none() {
                *slot = value;
                let is_below =
                    |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                self.origins.retain(|known, _| !is_below(known));
                self.origins.insert(path.to_owned(), origin);
                return;
            }
            at = match slot {
                Value::Table(table) => Place::Table(table),
                Value::Array(array) => Place::Array(array),
                Value::String(_) => break "a text",
                Value::Integer(_) | Value::Float(_) => break "a number",
                Value::Boolean(_) => break "`true` or `false`",
                Value::Datetime(_) => break "a date",
            };
        };
        let there = &path[..end];
        let set_by = self.origin(there).map_or_else(String::new, |origin| format!(" ({origin})"));
        let problem = format!("can't be set: `{there}` is {in_the_way}{set_by}");
        let fix = format!("write `{there}` as a table there, or set `{there}` as a whole");
        errors.push(ConfigError::new(Some(origin), path, problem).fix(fix));
    }

    /// Origin of the value at `path`: its own, or that of the table or list that contains it.
    pub(super) fn origin(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(origin);
            }
            path = &path[..path.rfind('.')?];
        }
    }
}

enum Place<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

/// Adds `key` to `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
}

/// Reads spanned TOML into plain values, noting the line of each.
struct Reader<'a> {
    text: &'a str,
    name: &'a Arc<str>,
    flat: &'a mut Vec<(String, Origin)>,
}

impl Reader<'_> {
    fn table(&mut self, table: toml::de::DeTable<'_>, path: &str) -> Table {
        let mut out = Table::new();
        for (key, value) in table {
            let path = join(path, key.get_ref());
            let line = line_of(self.text, key.span().start);
            self.flat.push((path.clone(), Origin::File { name: Arc::clone(self.name), line }));
            out.insert(key.into_inner().into_owned(), self.value(value, &path));
        }
        out
    }

    fn value(&mut self, value: toml::Spanned<toml::de::DeValue<'_>>, path: &str) -> Value {
        use toml::de::DeValue;
        match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                // Too large for a TOML integer: kept as text, the form in which such amounts are written.
                Err(_) => Value::String(number.as_str().to_owned()),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => Value::String(number.as_str().to_owned()),
            },
            DeValue::Boolean(flag) => Value::Boolean(flag),
            DeValue::Datetime(datetime) => Value::Datetime(datetime),
            DeValue::Array(items) => {
                let mut out = Vec::new();
                for (index, item) in items.into_iter().enumerate() {
                    let path = join(path, &index.to_string());
                    let line = line_of(self.text, item.span().start);
                    self.flat.push((path.clone(), Origin::File { name: Arc::clone(self.name), line }));
                    out.push(self.value(item, &path));
                }
                Value::Array(out)
            }
            DeValue::Table(table) => Value::Table(self.table(table, path)),
        }
    }
}

/// Merges `over` into `under`: tables are merged, everything else is replaced.
pub(super) fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Names of variables that `env:` references in `value` point to.
fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            for part in [Some(text.as_str()), text.split_once(",password=").map(|(_, password)| password)] {
                names.extend(part.and_then(|part| part.strip_prefix("env:")).map(str::to_owned));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, names)),
        Value::Table(table) => table.iter().for_each(|(_, item)| collect_references(item, names)),
        _ => {}
    }
}

/// Name of a file for messages.
pub(super) fn file_name(path: &Path) -> String {
    path.display().to_string()
}
