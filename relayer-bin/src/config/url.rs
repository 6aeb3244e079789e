//! URLs of nodes and databases as they are written.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// A URL whose path or user part may hold an access key: only scheme and host are shown.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct UrlText(pub String);

impl UrlText {
    /// The part that may be shown.
    pub fn shown(&self) -> String {
        if self.0.starts_with("env:") || self.0.starts_with("file:") {
            return self.0.clone();
        }
        let Some((scheme, rest)) = self.0.split_once("://") else { return "(hidden)".to_owned() };
        let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
        let has_more = rest.len() > host_end + 1 || host.len() != host_end;
        format!("{scheme}://{host}{}", if has_more { "/…" } else { "" })
    }
}

impl fmt::Debug for UrlText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for UrlText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
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
