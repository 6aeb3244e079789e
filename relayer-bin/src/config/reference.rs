//! The example file and the reference page, generated from the types. Tests fail when the committed ones differ.

use std::fmt::Write as _;

use serde_json::Value as Schema;

use super::schema::{json_schema, range_name, type_name, variable};

/// Values of the example that are required or worth showing, instead of a default.
const EXAMPLES: &[(&str, &str)] = &[
    ("identity.key", "\"env:RELAYER_IDENTITY_KEY\""),
    ("chain.0.preset", "\"base\""),
    (
        "chain.0.rpc",
        "[\n  { name = \"primary\", url = \"env:BASE_RPC_URL\", rate_limit_per_s = 50 },\n  { name = \"fallback\", url = \"https://mainnet.base.org\" },\n]",
    ),
    ("chain.0.signers", "[\"env:RELAYER_KEY_0\", \"keystore:keys/lane1.json,password=env:RELAYER_KEY_1_PASSWORD\"]"),
    ("chain.0.forwarders", "[{ address = \"0x1111111111111111111111111111111111111111\" }]"),
    ("tenant.0.id", "\"shop\""),
    ("tenant.0.api_keys", "[\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"]"),
    ("tenant.0.targets", "{ \"8453\" = { \"0x2222222222222222222222222222222222222222\" = [] } }"),
    ("tenant.0.budget", "{ limit_wei = \"50000000000000000\", period_s = 86400 }"),
];

/// Sections in the order of the file.
const SECTIONS: &[&str] = &["server", "page_key", "ledger", "identity", "request", "log", "chain", "tenant"];

/// Keys of the example in a better order than the alphabet's: these first.
const FIRST: &[&str] = &[
    "preset",
    "id",
    "api_keys",
    "operator",
    "chain_id",
    "name",
    "rpc",
    "signers",
    "forwarders",
    "tokens",
    "listen",
    "path",
];

fn description(schema: &Schema) -> String {
    schema.get("description").and_then(Schema::as_str).unwrap_or_default().replace('\n', " ")
}

struct Section<'a> {
    name: &'a str,
    schema: &'a Schema,
    is_list: bool,
}

fn sections(schema: &Schema) -> Vec<Section<'_>> {
    let properties = schema.get("properties");
    SECTIONS
        .iter()
        .filter_map(|name| {
            let section = properties?.get(name)?;
            let items = section.get("items");
            Some(Section { name, schema: items.unwrap_or(section), is_list: items.is_some() })
        })
        .collect()
}

fn keys<'a>(section: &Section<'a>) -> Vec<(&'a str, &'a Schema)> {
    let Some(properties) = section.schema.get("properties").and_then(Schema::as_object) else { return Vec::new() };
    let mut keys: Vec<_> = properties.iter().map(|(key, schema)| (key.as_str(), schema)).collect();
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    keys.sort_by_key(|(key, _)| (rank(key), *key));
    keys
}

fn default_of(schema: &Schema) -> Option<String> {
    schema.get("x-default").and_then(Schema::as_str).map(str::to_owned)
}

/// Keys below a key that holds a table or a list of tables.
fn children(schema: &Schema) -> Option<&serde_json::Map<String, Schema>> {
    let direct = schema.get("properties");
    let in_list = schema.get("items").and_then(|items| items.get("properties"));
    let optional = schema
        .get("anyOf")
        .and_then(Schema::as_array)
        .and_then(|options| options.iter().find_map(|option| option.get("properties")));
    direct.or(in_list).or(optional).and_then(Schema::as_object)
}

/// `slackwater.example.toml`: every key with its meaning, range and default.
pub fn example() -> String {
    let schema = json_schema();
    let mut out = String::from(
        "# Configuration of the Slackwater relayer. Made by `slackwater config example`; check with `slackwater config check`.\n\
         # Values that are commented out are the defaults. Every key can also be set in the environment: `server.listen` is\n\
         # SLACKWATER_SERVER_LISTEN, `max_batch` of the first chain SLACKWATER_CHAIN_0_MAX_BATCH. Secrets stand elsewhere:\n\
         # env:NAME, file:PATH, or keystore:PATH,password=env:NAME.\n",
    );
    for section in sections(&schema) {
        let brackets = if section.is_list { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(out, "\n# {}\n{}{}{}\n", description(section.schema), brackets.0, section.name, brackets.1);
        for (key, schema) in keys(&section) {
            for line in wrap(&description(schema), 116) {
                let _ = writeln!(out, "# {line}");
            }
            if let Some(range) = range_name(schema) {
                let _ = writeln!(out, "# Range: {range}.");
            }
            let path =
                if section.is_list { format!("{}.0.{key}", section.name) } else { format!("{}.{key}", section.name) };
            let example = EXAMPLES.iter().find(|(at, _)| *at == path).map(|(_, example)| *example);
            let _ = match (example, default_of(schema)) {
                (Some(example), _) => writeln!(out, "{key} = {example}"),
                (None, Some(default)) if is_toml(&default) => writeln!(out, "# {key} = {default}"),
                (None, Some(default)) => writeln!(out, "# {key}: default is {default}"),
                (None, None) => writeln!(out, "# {key} ="),
            };
        }
    }
    out
}

pub(super) fn is_toml(text: &str) -> bool {
    toml::from_str::<toml::Table>(&format!("value = {text}")).is_ok()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The tables of `docs/configuration.md`.
pub fn reference() -> String {
    let schema = json_schema();
    let mut out = String::new();
    for section in sections(&schema) {
        let brackets = if section.is_list { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(
            out,
            "### `{}{}{}`\n\n{}\n\n| key | type | range | default | meaning |\n|---|---|---|---|---|\n",
            brackets.0,
            section.name,
            brackets.1,
            description(section.schema)
        );
        for (key, schema) in keys(&section) {
            row(&mut out, key, schema, default_of(schema));
            for (child, schema) in children(schema).into_iter().flatten() {
                row(&mut out, &format!("{key}.{child}"), schema, default_of(schema));
            }
        }
        let example = keys(&section).first().map(|(key, _)| {
            if section.is_list { format!("{}.0.{key}", section.name) } else { format!("{}.{key}", section.name) }
        });
        if let Some(path) = example {
            let _ = write!(out, "\nEnvironment: `{path}` is `{}`.\n\n", variable(&path));
        }
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn row(out: &mut String, key: &str, schema: &Schema, default: Option<String>) {
    let kind = if children(schema).is_some() { "table".to_owned() } else { type_name(schema) };
    let is_text_too = schema.get("items").is_some_and(|items| items.get("format").is_some());
    let kind = if schema.get("items").is_some() && children(schema).is_some() {
        if is_text_too { "list of secret references or tables" } else { "list of tables" }.to_owned()
    } else {
        kind
    };
    let range = range_name(schema).unwrap_or_default();
    let default = default.map(|default| if is_toml(&default) { format!("`{default}`") } else { default });
    let _ = writeln!(
        out,
        "| `{key}` | {} | {range} | {} | {} |",
        kind.replace('|', "\\|"),
        default.unwrap_or_default(),
        description(schema).replace('|', "\\|")
    );
}
