//! URLs of nodes and databases as they appear in the configuration.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::Deserialize;

use super::secret::SecretRef;

/// Schemes that are shown. Another one may be half of a secret.
const SCHEMES: &[&str] = &["http", "https", "ws", "wss", "postgres", "postgresql"];
/// Longest part of a host's name that is shown: some providers put the access key there.
const MAX_LABEL: usize = 24;

/// A URL whose path or user part may hold an access key: only scheme and host are shown.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct UrlText(pub String);

impl UrlText {
    /// The part that may be shown.
    pub fn shown(&self) -> String {
        if let Ok(reference @ (SecretRef::Env(_) | SecretRef::File(_))) = SecretRef::parse(&self.0) {
            return reference.to_string();
        }
        let Some((scheme, rest)) = self.0.split_once("://").filter(|(scheme, _)| SCHEMES.contains(scheme)) else {
            return "(hidden)".to_owned();
        };
        let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
        // An `@` further on: a password with an unescaped slash in it. The text before it is no host.
        if rest[host_end..].contains('@') || !is_host(host) {
            return format!("{scheme}://…");
        }
        let has_more = rest.len() > host_end + 1 || host.len() != host_end;
        format!("{scheme}://{host}{}", if has_more { "/…" } else { "" })
    }
}

/// True if `text` is a host with or without a port, and no part of it could be an access key.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (text, ""),
    };
    let is_port = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return is_port && inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        label.len() <= MAX_LABEL && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    is_port && !name.is_empty() && name.split('.').all(is_label)
}

impl fmt::Debug for UrlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl JsonSchema for UrlText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Url")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "secret-url" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, shown: &str) {
        assert_eq!(UrlText(url.to_owned()).shown(), shown);
    }

    #[test]
    fn only_scheme_and_host_are_shown() {
        check("https://user:hunter2@eth.example.org:8545/v3/deadbeef", "https://eth.example.org:8545/…");
        check("http://[::1]:8545/", "http://[::1]:8545");
        check("http://127.0.0.1:8545", "http://127.0.0.1:8545");
        check("env:BASE_RPC_URL", "env:BASE_RPC_URL");
    }

    #[test]
    fn what_is_no_url_shows_nothing() {
        // A password with a slash, a host that is an access key, a key behind `env:`, an invalid scheme.
        check("postgres://relay:hun/ter2@db/money", "postgres://…");
        check("postgres://relay:hunter2", "postgres://…");
        check("https://0123456789abcdef0123456789abcdef.example.org/", "https://…");
        check("hunter2://host", "(hidden)");
        check("hunter2", "(hidden)");
        let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
        for text in [format!("env:{key}"), format!("file:{key}")] {
            assert!(!UrlText(text).shown().contains("ac0974"));
        }
    }
}
