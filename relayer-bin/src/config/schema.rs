//! The JSON Schema of the configuration, and the checks that are driven by it: unknown keys, types, ranges, choices.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Schema;
use toml::Value;

use super::{
    ConfigError,
    layers::{ENV_PREFIX, Layers, join},
    plain,
    raw::RawConfig,
};

/// What a key was called before, in its schema: the old name is still read.
pub(super) const OLD_NAME: &str = "x-was";

/// Largest edit distance that still makes a suggestion, for a name of this length.
const fn max_distance(len: usize) -> usize {
    if len <= 4 { 1 } else { 3 }
}

/// The schema, with everything inline.
pub fn json_schema() -> Schema {
    schema().clone()
}

/// The same, made once.
pub(super) fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(generate);
    &SCHEMA
}

fn generate() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<RawConfig>().into()
}

fn types(schema: &Schema) -> Vec<&str> {
    match schema.get("type") {
        Some(Schema::String(name)) => vec![name],
        Some(Schema::Array(names)) => names.iter().filter_map(Schema::as_str).filter(|name| *name != "null").collect(),
        _ => Vec::new(),
    }
}

/// The schema without a wrapper that only says "or null".
fn unwrap(schema: &Schema) -> &Schema {
    for key in ["anyOf", "oneOf"] {
        if let Some(Schema::Array(options)) = schema.get(key) {
            let mut real = options.iter().filter(|option| option.get("type").and_then(Schema::as_str) != Some("null"));
            if let (Some(only), None) = (real.next(), real.next()) {
                return unwrap(only);
            }
        }
    }
    schema
}

/// The allowed texts, if the schema is a choice.
pub(super) fn choices(schema: &Schema) -> Vec<&str> {
    let schema = unwrap(schema);
    if let Some(Schema::Array(values)) = schema.get("enum") {
        return values.iter().filter_map(Schema::as_str).collect();
    }
    match schema.get("oneOf") {
        Some(Schema::Array(options)) => options.iter().filter_map(|option| option.get("const")?.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Type for people, with choices.
pub(super) fn type_name(schema: &Schema) -> String {
    let choices = choices(schema);
    if !choices.is_empty() {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    let schema = unwrap(schema);
    match schema.get("format").and_then(Schema::as_str) {
        Some("secret") => return "secret reference".to_owned(),
        Some("secret-url") => return "URL or reference".to_owned(),
        Some("uint256") => return "integer, or digits as text".to_owned(),
        _ => {}
    }
    match types(schema).as_slice() {
        ["string"] => "text".to_owned(),
        ["integer"] => "integer".to_owned(),
        ["boolean"] => "`true` or `false`".to_owned(),
        ["array"] => match schema.get("items") {
            Some(items) => format!("list of {}", type_name(items)),
            None => "list".to_owned(),
        },
        ["object"] => "table".to_owned(),
        _ => "value".to_owned(),
    }
}

fn bound(schema: &Schema, key: &str) -> Option<i128> {
    let bound = unwrap(schema).get(key).or_else(|| schema.get(key))?;
    bound.as_u64().map(i128::from).or_else(|| bound.as_i64().map(i128::from))
}

/// Range for people.
pub(super) fn range_name(schema: &Schema) -> Option<String> {
    if types(unwrap(schema)) != ["integer"] {
        return None;
    }
    match (bound(schema, "minimum"), bound(schema, "maximum")) {
        (Some(min), Some(max)) => Some(format!("{min} to {max}")),
        (Some(min), None) => Some(format!("from {min}")),
        (None, Some(max)) => Some(format!("up to {max}")),
        (None, None) => None,
    }
}

/// The name nearest to `wrong`, if one is near.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: String = wrong.chars().take(100).collect();
    names
        .map(|name| (strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= max_distance(wrong.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Checks the whole tree and removes what is wrong from it, so that the rest can be read. Every problem is reported.
pub(super) fn check(layers: &mut Layers, schema: &Schema, errors: &mut Vec<ConfigError>) {
    let mut tree = Value::Table(std::mem::take(&mut layers.tree));
    Checker { layers, root: schema, errors }.check(&mut tree, schema, "");
    if let Value::Table(tree) = tree {
        layers.tree = tree;
    }
}

struct Checker<'a> {
    layers: &'a Layers,
    root: &'a Schema,
    errors: &'a mut Vec<ConfigError>,
}

impl Checker<'_> {
    fn fail(&mut self, path: &str, value: Option<&Value>, schema: &Schema, problem: String, fix: Option<String>) {
        let origin = self.layers.origin(path).cloned();
        let shown = value.map(|value| shown(path, value, schema));
        let mut error = ConfigError::new(origin, path, problem).value(shown.as_deref());
        if let Some(fix) = fix {
            error = error.fix(fix);
        }
        self.errors.push(error);
    }

    /// Returns whether `value` may stay.
    fn check(&mut self, value: &mut Value, schema: &Schema, path: &str) -> bool {
        let inner = unwrap(schema);
        let expected = types(inner);
        let is_right = match value {
            Value::Table(table) if expected.contains(&"object") => {
                self.check_table(table, inner, path);
                return true;
            }
            Value::Array(items) if expected.contains(&"array") => {
                let anything = Schema::Bool(true);
                let item_schema = inner.get("items").unwrap_or(&anything);
                let mut index = 0;
                items.retain_mut(|item| {
                    index += 1;
                    self.check(item, item_schema, &join(path, &(index - 1).to_string()))
                });
                return true;
            }
            Value::String(text) => {
                let choices = choices(schema);
                if !choices.is_empty() && !choices.contains(&text.as_str()) {
                    let fix = nearest(text, choices.iter().copied()).map(|near| format!("did you mean {near:?}?"));
                    let problem = format!("must be one of {}", choices.join(", "));
                    self.fail(path, Some(value), schema, problem, fix);
                    return false;
                }
                !choices.is_empty() || expected.contains(&"string") || expected.is_empty()
            }
            Value::Integer(number) => {
                let number = i128::from(*number);
                let is_low = bound(schema, "minimum").is_some_and(|min| number < min);
                let is_high = bound(schema, "maximum").is_some_and(|max| number > max);
                if expected.contains(&"integer") && (is_low || is_high || number < 0) {
                    let range = range_name(schema).unwrap_or_else(|| "from 0".to_owned());
                    self.fail(path, Some(value), schema, format!("allowed is {range}"), None);
                    return false;
                }
                expected.contains(&"integer") || expected.is_empty()
            }
            Value::Boolean(_) => expected.contains(&"boolean") || expected.is_empty(),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => expected.is_empty(),
        };
        if !is_right {
            let name = type_name(schema);
            self.fail(path, Some(value), schema, format!("expected {name}"), None);
        }
        is_right
    }

    fn check_table(&mut self, table: &mut toml::Table, schema: &Schema, path: &str) {
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Schema::as_object).unwrap_or(&empty);
        let additional = schema.get("additionalProperties").filter(|more| **more != Schema::Bool(false));
        let keys: Vec<String> = table.keys().cloned().collect();
        for key in keys {
            let here = join(path, &key);
            let sub = properties.get(&key).or(additional);
            let keep = match sub {
                Some(sub) => table.get_mut(&key).is_some_and(|value| self.check(value, sub, &here)),
                None => {
                    self.unknown(&here, &key, properties);
                    false
                }
            };
            if !keep {
                table.remove(&key);
            }
        }
    }

    fn unknown(&mut self, here: &str, key: &str, properties: &serde_json::Map<String, Schema>) {
        let near = nearest(key, properties.keys().map(String::as_str));
        let elsewhere = || {
            let all = paths(self.root);
            all.into_iter().find(|path| path.rsplit('.').next() == Some(key)).map(|path| path.replace(".0", ""))
        };
        let now = properties.iter().find(|(_, sub)| sub.get(OLD_NAME).and_then(Schema::as_str) == Some(key));
        let fix = match (now, near) {
            (Some((now, _)), _) => Some(format!("`{now}` is there too, its new name")),
            (None, Some(near)) => Some(format!("did you mean `{near}`?")),
            (None, None) => elsewhere().map(|path| format!("there is a `{path}`")),
        };
        let fix = fix.or_else(|| {
            let known: Vec<_> = properties.keys().map(String::as_str).collect();
            (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")))
        });
        self.fail(here, None, &Schema::Null, "is not a key".to_owned(), fix);
    }
}

/// Calls keys in `value` by their new names; `renamed` gets the old path and the new one.
pub(super) fn rename(value: &mut Value, schema: &Schema, path: &str, renamed: &mut Vec<(String, String)>) {
    let schema = unwrap(schema);
    match value {
        Value::Table(table) => {
            for (key, sub) in schema.get("properties").and_then(Schema::as_object).into_iter().flatten() {
                if let Some(old) = sub.get(OLD_NAME).and_then(Schema::as_str)
                    && !table.contains_key(key)
                    && let Some(value) = table.remove(old)
                {
                    table.insert(key.clone(), value);
                    renamed.push((join(path, old), join(path, key)));
                }
                if let Some(value) = table.get_mut(key) {
                    rename(value, sub, &join(path, key), renamed);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                rename(item, schema, &join(path, &index.to_string()), renamed);
            }
        }
        _ => {}
    }
}

/// A value that is wrong, as far as it can't be a secret that was put in the wrong place.
fn shown(path: &str, value: &Value, schema: &Schema) -> String {
    let expected = types(unwrap(schema));
    let is_number = expected.iter().any(|name| matches!(*name, "integer" | "number" | "boolean"));
    match value {
        Value::String(text) => {
            let choices = choices(schema);
            let is_near_choice = nearest(text, choices.iter().copied()).is_some();
            if is_near_choice || plain::is_plain(path) && expected.contains(&"string") && !plain::looks_secret(text) {
                format!("{text:?}")
            } else {
                plain::hidden(text)
            }
        }
        Value::Array(_) => "(a list)".to_owned(),
        Value::Table(_) => "(a table)".to_owned(),
        Value::Boolean(flag) => flag.to_string(),
        number if is_number => number.to_string(),
        _ => "(a number)".to_owned(),
    }
}

/// Every path to a leaf; list items have index 0.
pub(super) fn paths(schema: &Schema) -> Vec<String> {
    let mut out = Vec::new();
    walk(schema, "", &mut |path, _| out.push(path.to_owned()));
    out
}

/// Visits every leaf with its path, in order.
pub(super) fn walk(schema: &Schema, path: &str, visit: &mut impl FnMut(&str, &Schema)) {
    let inner = unwrap(schema);
    if let Some(properties) = inner.get("properties").and_then(Schema::as_object) {
        for (key, sub) in properties {
            walk(sub, &join(path, key), visit);
        }
    } else if let Some(items) = inner.get("items").filter(|items| unwrap(items).get("properties").is_some()) {
        walk(items, &join(path, "0"), visit);
    } else {
        visit(path, schema);
    }
}

/// Names of all environment variables; list items have index 0.
pub(super) fn variables(schema: &Schema) -> Vec<String> {
    paths(schema).into_iter().map(|path| variable(&path)).collect()
}

/// The environment variable of the key at `path`.
pub(super) fn variable(path: &str) -> String {
    format!("{ENV_PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// Path and schema of the key that a variable (without prefix) names.
pub(super) fn path_of_variable(schema: &Schema, rest: &str) -> Option<(String, Schema)> {
    let inner = unwrap(schema);
    if let Some(properties) = inner.get("properties").and_then(Schema::as_object) {
        return properties.iter().find_map(|(key, sub)| {
            let old = sub.get(OLD_NAME).and_then(Schema::as_str).filter(|old| rest == old.to_uppercase());
            let after = rest.strip_prefix(&old.unwrap_or(key).to_uppercase())?;
            if after.is_empty() {
                let is_leaf = unwrap(sub).get("properties").is_none();
                return is_leaf.then(|| (key.clone(), sub.clone()));
            }
            let (path, leaf) = path_of_variable(sub, after.strip_prefix('_')?)?;
            Some((join(key, &path), leaf))
        });
    }
    if let Some(items) = inner.get("items") {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (index, after) = rest.split_at(digits);
        let index: usize = index.parse().ok()?;
        if after.is_empty() {
            return Some((index.to_string(), items.clone()));
        }
        let (path, leaf) = path_of_variable(items, after.strip_prefix('_')?)?;
        return Some((join(&index.to_string(), &path), leaf));
    }
    None
}

/// Reads a text from the environment or the command line as what `schema` expects; lists are separated by commas.
pub(super) fn value_of_text(schema: &Schema, text: &str) -> Option<Value> {
    let inner = unwrap(schema);
    if !choices(schema).is_empty() {
        return Some(Value::String(text.to_owned()));
    }
    match types(inner).as_slice() {
        ["integer"] => text.trim().replace('_', "").parse().ok().map(Value::Integer),
        ["boolean"] => match text.trim() {
            "true" | "1" | "yes" | "on" => Some(Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Some(Value::Boolean(false)),
            _ => None,
        },
        ["array"] => {
            let item = inner.get("items")?;
            let is_table = unwrap(item).get("properties").is_some() && !types(unwrap(item)).contains(&"string");
            if is_table {
                return inline_toml(text);
            }
            // A comma inside an item, as in a keystore reference, needs the TOML form.
            if text.trim_start().starts_with('[') {
                return inline_toml(text);
            }
            let items = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            items.map(|part| value_of_text(item, part)).collect::<Option<_>>().map(Value::Array)
        }
        ["object"] => inline_toml(text),
        _ => Some(Value::String(text.to_owned())),
    }
}

fn inline_toml(text: &str) -> Option<Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    table.remove("value")
}

/// The schema of the key at `path`.
pub(super) fn leaf<'a>(schema: &'a Schema, path: &str) -> Option<&'a Schema> {
    let mut at = unwrap(schema);
    for part in path.split('.') {
        let next = match at.get("properties") {
            Some(properties) => properties.get(part),
            None => at.get("items").or_else(|| at.get("additionalProperties")),
        };
        at = unwrap(next?);
    }
    Some(at)
}

/// Whether the table at `path` has keys of ours, and not names of the operator's.
pub(super) fn has_keys(schema: &Schema, path: &str) -> bool {
    leaf(schema, path).is_none_or(|leaf| leaf.get("properties").is_some())
}
