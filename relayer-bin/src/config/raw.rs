//! The configuration as it is written: everything optional, nothing checked.
//!
//! These types are the single source of names, texts, types and ranges: the JSON Schema, the example file and the
//! reference page are generated from them, and values are checked against that schema before they are read.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slackwater::{
    relay::ChainTuning,
    tuning::{Key, Kind},
    wire::Uint,
};

use super::{schema::OLD_NAME, secret::SecretText, url::UrlText};

/// Schema of a [`Uint`].
struct Amount;

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Uint")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "integer"], "format": "uint256" })
    }
}

/// Configuration of the Slackwater relayer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// The HTTP API.
    pub server: RawServer,
    /// The database: a file of one relayer, or one that several instances share.
    pub ledger: RawLedger,
    /// Caps of API keys that stand in web pages.
    pub page_key: RawPageKey,
    /// Who signs promises.
    pub identity: RawIdentity,
    /// Deadlines.
    pub request: RawRequest,
    /// Logs, on standard error.
    pub log: RawLog,
    /// Chains to serve, at least one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<RawChain>,
    /// Who may ask for what. Without any tenant, `server.allow_anonymous` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tenant: Vec<RawTenant>,
}

/// The HTTP API.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawServer {
    /// Address and port to listen on. TLS belongs to a proxy in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Serve callers without API key, as tenant `default` with an operator's view: a `[[tenant]]` with that id must say what they
    /// may. Refused unless `listen` is a loopback address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_anonymous: Option<bool>,
    /// Largest body of a single request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 67_108_864))]
    pub max_body_bytes: Option<u64>,
    /// Largest body of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 268_435_456))]
    pub max_batch_body_bytes: Option<u64>,
    /// Most requests in a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_batch_items: Option<u64>,
    /// Largest body of an import of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 268_435_456))]
    pub max_import_body_bytes: Option<u64>,
    /// Longest time that a body may take to arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub body_timeout_ms: Option<u64>,
    /// Longest time that a call's headers may take to arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub header_timeout_ms: Option<u64>,
    /// Longest start line and headers of a call, bytes; `431` beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4_096, max = 1_048_576))]
    pub max_header_bytes: Option<u64>,
    /// Longest time that a caller may read nothing while an answer or event waits for it; its connection is closed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub write_timeout_ms: Option<u64>,
    /// Most connections at a time; further ones wait. Probes are answered all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u64>,
    /// Most connections from one address (IPv6: from one /64); further ones are refused. Of a trusted proxy, most calls at a
    /// time for one of its clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_ip: Option<u64>,
    /// Most connections that wait for a place. Beyond, the one that has waited longest is refused, of the address with most
    /// of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 100_000))]
    pub max_waiting_connections: Option<u64>,
    /// Address and port of a second listener that answers `/healthz` and `/readyz` only. They are answered on `listen` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "none"))]
    pub probe_listen: Option<String>,
    /// Most memory for bodies of all calls together, and as much for large answers until they are sent; `503 overloaded` beyond.
    /// One tenant holds at most three times what stays free, its page keys a third of what stays free, or one body. Bodies and answers up to
    /// 16 KiB are not counted. Answers of `/metrics` have a sixteenth of it for themselves, at least 4 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 68_719_476_736_u64))]
    pub max_body_memory_bytes: Option<u64>,
    /// Most event streams at a time; `429 too_many_streams` beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_streams: Option<u64>,
    /// Longest silence of an event stream: a comment is sent then. Clients take a stream that is silent for 60 s for lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub keep_alive_ms: Option<u64>,
    /// Longest wait for calls in progress at shutdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 600_000))]
    pub shutdown_grace_ms: Option<u64>,
    /// Most calls per second from one address (IPv6: from one /64) without a valid API key; 0 is unlimited. Calls with a key
    /// count for `tenant.rate_per_s` instead. Programs on this machine are exempt unless they pass calls on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rate_per_ip_per_s: Option<u32>,
    /// Proxies in front, as addresses or ranges such as `10.0.0.0/8`. From these, the last address in `X-Forwarded-For` that
    /// is none of them counts as the caller's; from others the header is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<String>>,
    /// Names that the relayer answers to, besides addresses and `localhost`, such as `relay.example.org`. Without API keys
    /// others are refused, so that no page can call by a name of its own; with keys they are refused if this names any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Web origins whose pages may call, such as `https://app.example.org`, or `http://localhost:*` for every port; `*` is
    /// all. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors_origins: Option<Vec<String>>,
    /// Most requests of all tenants that may be open at a time, not in a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_open_requests: Option<u64>,
    /// Most bytes of calldata in open requests of all tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024))]
    pub max_open_bytes: Option<u64>,
    /// Who may read `/metrics`: `open`, `operator` (by API key) or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<RawMetrics>,
}

/// Caps of API keys that stand in web pages (`tenant.keys.origins`). Whoever reads the page has the key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPageKey {
    /// Calls per second of one address (IPv6: of one /64).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub rate_per_ip_per_s: Option<u32>,
    /// Calls that one address may make at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst_per_ip: Option<u32>,
    /// Requests that one key may submit in an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub max_requests_per_hour: Option<u64>,
    /// Percent of the tenant's budget that requests of its page keys may hold and spend in an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub hourly_budget_percent: Option<u32>,
    /// Percent of the tenant's budget that they may hold and spend in its period, and of its open requests that may be theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub budget_percent: Option<u32>,
    /// Most wei that one of them may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "unlimited"))]
    #[schemars(with = "Option<Amount>")]
    pub max_cost_wei: Option<Uint>,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawMetrics {
    /// Everybody who reaches the port.
    Open,
    /// Operators' API keys.
    Operator,
    /// Nobody.
    Off,
}

/// The database: a file of one relayer, or one that several instances share.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLedger {
    /// The database file, created if absent; put it on a local disk that survives. Without effect with `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Longest wait for a lock that another program holds on the file, such as a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 600_000))]
    pub busy_timeout_ms: Option<u64>,
    /// Connections for reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub read_connections: Option<u32>,
    /// Page cache of the writing connection, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 16_777_216))]
    pub cache_kib: Option<u32>,
    /// Pages of 4 KiB in the write-ahead log after which it is copied into the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1_000_000))]
    pub checkpoint_pages: Option<u32>,
    /// Read the whole file at start, and refuse to start on one that does not hold together. The time grows with its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_at_start: Option<bool>,
    /// Most writes that wait; beyond, callers wait or get `storage_unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue_len: Option<u64>,
    /// Most writes that share one commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_group: Option<u64>,
    /// How often the head of the decision log is told in a log line and a metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000, max = 604_800_000))]
    pub log_head_interval_ms: Option<u64>,
    /// Most sums of refusals of one minute that name key and tenant in the decision log; further ones name the code alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_refusal_sums: Option<u64>,
    /// PostgreSQL instead of a file, for several instances: `postgres://user@host/database?sslmode=verify-full`, or a
    /// reference (`env:NAME`, `file:PATH`) if it holds a password. See `docs/scaling.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlText>,
    /// Allow a PostgreSQL server on another machine without `sslmode=verify-full` or `verify-ca` in its URL: whoever is in
    /// between reads and changes what is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure: Option<bool>,
    /// Schema of the tables in PostgreSQL, created if absent: a-z, 0-9 and `_`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// This instance's name in leases and logs; address and process id by default. With `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// How long the lease on a chain's lanes lasts. Another instance takes over after it, at the earliest. With `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 500, max = 600_000))]
    pub lease_ms: Option<u64>,
    /// How often an instance looks for what others have committed. With `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 10_000))]
    pub follow_interval_ms: Option<u64>,
    /// Longest wait of a caller for the commit of what it submits; then it gets `storage_unavailable`. With `url`, and
    /// while the storage is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub accept_timeout_ms: Option<u64>,
    /// Longest wait for a connection to PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub connect_timeout_ms: Option<u64>,
    /// Longest time that a statement may take in PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub statement_timeout_ms: Option<u64>,
    /// PostgreSQL ends a transaction whose writer is silent for so long, so that an instance that stands still holds nobody
    /// up. Must be below `lease_ms`; half of it where that is less than the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub idle_timeout_ms: Option<u64>,
    /// Committed groups that a slow event stream may lag behind before it reads from the database again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub event_backlog: Option<u64>,
}

/// Who signs promises.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawIdentity {
    /// The key that signs inclusion promises, by reference. It pays nothing. By default the first chain's first signer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
}

/// Deadlines.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRequest {
    /// Time to the promised inclusion of a request that names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000_000_u64))]
    pub default_within_ms: Option<u64>,
    /// How long such a request is valid, as far as it is signed. When its promise is missed it goes on, late, until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000_000_u64))]
    pub default_expiry_ms: Option<u64>,
    /// Furthest deadline that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000_000_u64))]
    pub max_within_ms: Option<u64>,
}

/// Logs, on standard error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `text` for people, `json` for machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<RawLogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,slackwater::lane=debug`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawLogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

/// A chain to serve.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawChain {
    /// What is known about the chain: one of the presets (`slackwater config presets`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// EIP-155 chain id, if it differs from the preset's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub chain_id: Option<u64>,
    /// Name for people and logs, if it differs from the preset's: a-z, 0-9 and `-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// RPC endpoints, at least one; two of different providers are safer.
    pub rpc: Vec<RawRpc>,
    /// Keys of the sender accounts, by reference; each is a lane with its own nonces and balance. With several tenants a signer
    /// makes calls (kind `call`) only for those that it is bound to: `{ key = "env:NAME", tenants = ["shop"] }`; forward
    /// requests go on any.
    pub signers: Vec<RawSigner>,
    /// ERC-2771 forwarders to serve. None is fine for `call` requests.
    pub forwarders: Vec<RawForwarder>,
    /// Facts of the chain that differ from the preset, or all of them without a preset; the keys are those of
    /// `core/presets/*.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub spec: Option<toml::Table>,
    /// Keys of [`ChainTuning`].
    #[serde(flatten)]
    #[schemars(with = "TuningKeys")]
    pub tuning: toml::Table,
}

/// The schema of [`ChainTuning`]'s keys.
struct TuningKeys;

impl JsonSchema for TuningKeys {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Tuning")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let properties: serde_json::Map<String, Value> =
            ChainTuning::keys().into_iter().map(|key| (key.name.to_owned(), key_schema(&key))).collect();
        schemars::json_schema!({ "type": "object", "properties": properties })
    }
}

fn key_schema(key: &Key) -> Value {
    let mut number = json!({ "type": "integer" });
    if let Some(range) = key.range {
        number["minimum"] = range.min.into();
        if let Some(max) = range.max {
            number["maximum"] = max.into();
        }
    }
    let mut schema = match key.kind {
        Kind::Integer => number,
        Kind::Integers => json!({ "type": "array", "items": number }),
        Kind::Amount => json!({ "type": ["string", "integer"], "format": "uint128" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Choice(choices) => json!({ "type": "string", "enum": choices }),
    };
    schema["description"] = key.text.into();
    schema["x-default"] = key.default.as_str().into();
    if let Some(was) = key.was {
        schema[OLD_NAME] = was.into();
    }
    schema
}

/// A sender account: its key, or a table with the key and the tenants whose calls it makes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum RawSigner {
    /// Forward requests of all tenants; calls only if there is one tenant.
    Key(SecretText),
    /// Calls of some tenants too.
    Bound(RawBoundSigner),
}

impl RawSigner {
    /// The key.
    pub const fn key(&self) -> Option<&SecretText> {
        match self {
            Self::Key(key) => Some(key),
            Self::Bound(bound) => bound.key.as_ref(),
        }
    }
}

/// A sender account with tenants of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBoundSigner {
    /// The account's key, by reference. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretText>,
    /// Tenants whose calls this account makes. A contract that trusts the account trusts all of them.
    pub tenants: Vec<String>,
}

impl JsonSchema for RawSigner {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Signer")
    }

    /// One schema with both forms, which the checks of written values can follow.
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = RawBoundSigner::json_schema(generator);
        schema.insert("type".to_owned(), serde_json::json!(["string", "object"]));
        schema.insert("format".to_owned(), serde_json::json!("secret"));
        schema
    }
}

/// An RPC endpoint.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRpc {
    /// Name in logs, metrics and the API; `rpc-0`, `rpc-1`, … by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// HTTP(S) URL, or a reference (`env:NAME`, `file:PATH`) if it holds an access key. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlText>,
    /// WebSocket URL (`wss://…`) of the same node, or a reference, at which it tells new heads: they are seen at once, and polled
    /// less often (`subscribed_poll_interval_ms`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ws_url: Option<UrlText>,
    /// Allow `http://` and `ws://` to another machine: whoever is in between reads the access key and decides what the chain
    /// looks like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "false"))]
    pub insecure: Option<bool>,
    /// Calls per second that the provider allows; 0 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "0"))]
    pub rate_limit_per_s: Option<u32>,
}

/// A forwarder to serve.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawForwarder {
    /// The contract. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Serve it even if its code is not a known version of OpenZeppelin's `ERC2771Forwarder`. Its semantics are yours
    /// to check.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "false"))]
    pub allow_unknown_code: Option<bool>,
}

/// A tenant: who asks, what for, and how much it may cost.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTenant {
    /// Its name: a-z, 0-9, `-` and `_`, at most 64. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Hashes of its API keys, `sha256:<hex>`; `slackwater keys api --tenant NAME` makes one. Required, or `keys`.
    pub api_keys: Vec<String>,
    /// API keys with a name and scopes of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<RawKey>,
    /// Its `api_keys`, and `keys` without `scopes`, have all scopes: with `operate` they see every tenant's requests, numbers
    /// and endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "false"))]
    pub operator: Option<bool>,
    /// Kinds of request that it may use: `forward`, `call`. `call` acts with the relayer's own account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "[\"forward\"]"))]
    pub kinds: Option<Vec<RawKind>>,
    /// Named targets: chain id → contract → function selectors (`[]` is all). Everything else is closed, a chain that is not
    /// named too. `"*"` in the place of a contract allows the others on that chain. With `"*"`, or without this key, `budget`
    /// or `open = true` is needed. Kind `call` needs it, and takes `"*"` only with `open = true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "any target, with a budget"))]
    pub targets: Option<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
    /// Spend without a budget on targets that are not named, and make calls to any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "false"))]
    pub open: Option<bool>,
    /// Highest gas of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-default" = "2000000"))]
    pub max_gas: Option<u64>,
    /// Most wei that one request may send along.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "0"))]
    #[schemars(with = "Option<Amount>")]
    pub max_value_wei: Option<Uint>,
    /// Longest calldata of one request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_048_576), extend("x-default" = "16384"))]
    pub max_calldata_bytes: Option<u64>,
    /// Most requests that may be open at a time, not in a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-default" = "50000"))]
    pub max_open_requests: Option<u64>,
    /// Most bytes of calldata in open requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024), extend("x-default" = "134217728"))]
    pub max_open_bytes: Option<u64>,
    /// Most open requests of one signer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-default" = "10000"))]
    pub max_open_per_signer: Option<u64>,
    /// Most open requests of one signer that wait behind a nonce which nobody has brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("x-default" = "64"))]
    pub max_gapped_per_signer: Option<u64>,
    /// Share of the budget that all such requests together may hold, percent. Beyond it each signer may still have 8, as long
    /// as its own hold less than 1 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("x-default" = "10"))]
    pub gapped_budget_percent: Option<u32>,
    /// How long a request waits behind a missing nonce while the chain is well; then it ends `predecessor_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 86_400_000), extend("x-default" = "60000"))]
    pub gap_timeout_ms: Option<u64>,
    /// Share of the sending capacity when tenants compete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000), extend("x-default" = "1"))]
    pub weight: Option<u32>,
    /// Most event streams at a time, by all its keys together, half of them by page keys; `429 too_many_streams` beyond.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "128"))]
    pub max_streams: Option<u64>,
    /// Requests per second, sustained, with bursts of ten seconds' worth; in each instance. 0 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "1000"))]
    pub rate_per_s: Option<u32>,
    /// Questions per second about the nonces of signers that are new here, or whose nonce seems to be used or to leave a gap, with
    /// bursts of ten seconds' worth; in each instance. 0 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "100"))]
    pub nonce_lookups_per_s: Option<u32>,
    /// What it is charged for a request, percent of what the request costs: above 100 adds a margin, below 100 leaves the rest to
    /// the operator. Its budget counts the larger of cost and price; `maxCost` bounds both. What was accepted keeps its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000), extend("x-default" = "100"))]
    pub price_percent: Option<u32>,
    /// Share of the budget that one signer's requests may hold and spend, percent; 100 is no limit. Not with `ledger.url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("x-default" = "100"))]
    pub signer_budget_percent: Option<u32>,
    /// Share of the budget that requests to one target may hold and spend, percent; 100 is no limit. Not with `ledger.url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100), extend("x-default" = "100"))]
    pub target_budget_percent: Option<u32>,
    /// Money, per chain; unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<RawBudget>,
}

/// An API key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKey {
    /// Its name in logs and records, one of its own in the tenant: a-z, 0-9, `-` and `_`, at most 64. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its hash, `sha256:<hex>`; `slackwater keys api --tenant NAME` makes a key and its hash. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// It is a page key, for web pages of these origins, such as `https://app.example.org`. It is public, has no scopes, and the
    /// caps of `page_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
    /// What it may do: `submit`, `read`, `cancel`, `operate`, `metrics`; see `docs/api.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-default" = "[\"submit\", \"read\", \"cancel\"]"))]
    pub scopes: Option<Vec<RawScope>>,
}

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawScope {
    /// Submit requests.
    Submit,
    /// See the tenant's requests.
    Read,
    /// Withdraw the tenant's requests.
    Cancel,
    /// Run the relayer.
    Operate,
    /// Read `/metrics`.
    Metrics,
}

impl From<RawScope> for crate::http::auth::Scope {
    fn from(scope: RawScope) -> Self {
        match scope {
            RawScope::Submit => Self::Submit,
            RawScope::Read => Self::Read,
            RawScope::Cancel => Self::Cancel,
            RawScope::Operate => Self::Operate,
            RawScope::Metrics => Self::Metrics,
        }
    }
}

/// Kinds of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawKind {
    /// ERC-2771 requests.
    Forward,
    /// The tenant's own calls.
    Call,
}

/// A budget.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBudget {
    /// Wei per period and chain. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Amount>")]
    pub limit_wei: Option<Uint>,
    /// Length of a period, aligned to the Unix epoch; 0 is once and for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000), extend("x-default" = "86400"))]
    pub period_s: Option<u64>,
}
