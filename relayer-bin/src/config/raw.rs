//! The configuration as it is written: everything optional, nothing checked.
//!
//! These types, and the groups of keys that they take, are the single source of names, texts, types and ranges: the JSON Schema,
//! the example file and the reference page are generated from them, and values are checked against that schema before they are
//! read.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use slackwater::{ClusterConfig, tuning::ChainTuning};
use slackwater_core::{
    policy::{BudgetShares, OpenLimits, TenantPolicy},
    tuning::{Group, Key, Kind},
    wire::Uint,
};
use slackwater_ledger::{GroupCommitConfig, SqliteConfig};
use toml::Table;

use super::{
    RequestLimits, SharedTimeouts,
    schema::OLD_NAME,
    secret::SecretText,
    url::UrlText,
    validate::{DEFAULT_LISTEN, DEFAULT_PATH, DEFAULT_SCHEMA},
};
use crate::http::{HttpLimits, page::PageLimits};

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
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
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
    pub chain: Vec<RawChain>,
    /// Who may ask for what. Without any tenant, `server.allow_anonymous` is needed.
    pub tenant: Vec<RawTenant>,
}

/// The HTTP API.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawServer {
    /// Address and port to listen on. TLS belongs to a proxy in front.
    #[schemars(extend("x-default" = format!("{DEFAULT_LISTEN:?}")))]
    pub listen: Option<String>,
    /// Serve callers without API key, as tenant `default` with an operator's view: a `[[tenant]]` with that id must say what they
    /// may. Refused unless `listen` is a loopback address.
    #[schemars(extend("x-default" = "false"))]
    pub allow_anonymous: Option<bool>,
    /// Address and port of a second listener that answers `/healthz` and `/readyz` only. They are answered on `listen` too.
    #[schemars(extend("x-default" = "none"))]
    pub probe_listen: Option<String>,
    /// Proxies in front, as addresses or ranges such as `10.0.0.0/8`. From these, the last address in `X-Forwarded-For` that
    /// is none of them counts as the caller's; from others the header is ignored.
    #[schemars(extend("x-default" = "[]"))]
    pub trusted_proxies: Option<Vec<String>>,
    /// Names that the relayer answers to, besides addresses and `localhost`, such as `relay.example.org`. Without API keys
    /// others are refused, so that no page can call by a name of its own; with keys they are refused if this names any.
    #[schemars(extend("x-default" = "[]"))]
    pub hosts: Option<Vec<String>>,
    /// Web origins whose pages may call, such as `https://app.example.org`, or `http://localhost:*` for every port; `*` is
    /// all. None by default.
    #[schemars(extend("x-default" = "[]"))]
    pub cors_origins: Option<Vec<String>>,
    /// Keys of [`HttpLimits`] and [`OpenLimits`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<(HttpLimits, OpenLimits)>")]
    pub given: Table,
}

/// Caps of API keys that stand in web pages (`tenant.keys.origins`). Whoever reads the page has the key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawPageKey {
    /// Most wei that one of them may cost.
    #[schemars(extend("x-default" = "unlimited"))]
    #[schemars(with = "Option<Amount>")]
    pub max_cost_wei: Option<Uint>,
    /// Keys of [`PageLimits`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<PageLimits>")]
    pub given: Table,
}

/// The database: a file of one relayer, or one that several instances share.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawLedger {
    /// The database file, created if absent; put it on a local disk that survives. Without effect with `url`.
    #[schemars(extend("x-default" = format!("{DEFAULT_PATH:?}")))]
    pub path: Option<String>,
    /// PostgreSQL instead of a file, for several instances: `postgres://user@host/database?sslmode=verify-full`, or a
    /// reference (`env:NAME`, `file:PATH`) if it holds a password. See `docs/scaling.md`.
    pub url: Option<UrlText>,
    /// Allow a PostgreSQL server on another machine without `sslmode=verify-full` or `verify-ca` in its URL: whoever is in
    /// between reads and changes what is stored.
    #[schemars(extend("x-default" = "false"))]
    pub insecure: Option<bool>,
    /// Schema of the tables in PostgreSQL, created if absent: a-z, 0-9 and `_`.
    #[schemars(extend("x-default" = format!("{DEFAULT_SCHEMA:?}")))]
    pub schema: Option<String>,
    /// This instance's name in leases and logs; address and process id by default. With `url`.
    pub instance: Option<String>,
    /// Keys of [`SqliteConfig`], [`GroupCommitConfig`], [`ClusterConfig`] and [`SharedTimeouts`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<((SqliteConfig, GroupCommitConfig), (ClusterConfig, SharedTimeouts))>")]
    pub given: Table,
}

/// Who signs promises.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawIdentity {
    /// The key that signs inclusion promises, by reference. It pays nothing. By default the first chain's first signer.
    pub key: Option<SecretText>,
}

/// Deadlines.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawRequest {
    /// Keys of [`RequestLimits`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<RequestLimits>")]
    pub given: Table,
}

/// Logs, on standard error.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `text` for people, `json` for machines.
    #[schemars(extend("x-default" = "\"text\""))]
    pub format: Option<RawLogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,slackwater_core::lane=debug`.
    #[schemars(extend("x-default" = "\"info\""))]
    pub level: Option<String>,
}

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawLogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

/// A chain to serve.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawChain {
    /// What is known about the chain: one of the presets (`slackwater config presets`).
    pub preset: Option<String>,
    /// EIP-155 chain id, if it differs from the preset's.
    #[schemars(range(min = 1))]
    pub chain_id: Option<u64>,
    /// Name for people and logs, if it differs from the preset's: a-z, 0-9 and `-`.
    pub name: Option<String>,
    /// RPC endpoints, at least one; two of different providers are safer.
    pub rpc: Vec<RawRpc>,
    /// Keys of the sender accounts, by reference; each is a lane with its own nonces and balance. With several tenants a signer
    /// makes calls (kind `call`) only for those that it is bound to: `{ key = "env:NAME", tenants = ["shop"] }`; forward
    /// requests go on any.
    pub signers: Vec<RawSigner>,
    /// ERC-2771 forwarders to serve. None is fine for `call` requests.
    pub forwarders: Vec<RawForwarder>,
    /// Tokens with EIP-3009 whose payments are made (kind `authorization`).
    pub tokens: Vec<RawToken>,
    /// Facts of the chain that differ from the preset, or all of them without a preset; the keys are those of
    /// `core/pure/presets/*.toml`.
    #[schemars(with = "Option<BTreeMap<String, serde_json::Value>>")]
    pub spec: Option<Table>,
    /// Keys of [`ChainTuning`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<ChainTuning>")]
    pub given: Table,
}

/// The schema of a group's keys.
struct KeysOf<T>(PhantomData<T>);

impl<T: Group> JsonSchema for KeysOf<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Keys")
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let properties: Map<String, Value> =
            T::keys().into_iter().map(|key| (key.name.to_owned(), key_schema(&key))).collect();
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
        Kind::Amount => json!({ "type": ["string", "integer"], "format": "uint256" }),
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
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBoundSigner {
    /// The account's key, by reference. Required.
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
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRpc {
    /// Name in logs, metrics and the API; `rpc-0`, `rpc-1`, … by default.
    pub name: Option<String>,
    /// HTTP(S) URL, or a reference (`env:NAME`, `file:PATH`) if it holds an access key. Required.
    pub url: Option<UrlText>,
    /// WebSocket URL (`wss://…`) of the same node, or a reference, at which it tells new heads: they are seen at once, and polled
    /// less often (`subscribed_poll_interval_ms`).
    pub ws_url: Option<UrlText>,
    /// Allow `http://` and `ws://` to another machine: whoever is in between reads the access key and decides what the chain
    /// looks like.
    #[schemars(extend("x-default" = "false"))]
    pub insecure: Option<bool>,
    /// Calls per second that the provider allows; 0 is unlimited.
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "0"))]
    pub rate_limit_per_s: Option<u32>,
}

/// A forwarder to serve.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawForwarder {
    /// The contract. Required.
    pub address: Option<String>,
    /// Serve it even if its code is not a known version of OpenZeppelin's `ERC2771Forwarder`. Its semantics are yours
    /// to check.
    #[schemars(extend("x-default" = "false"))]
    pub allow_unknown_code: Option<bool>,
}

/// A token with EIP-3009.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawToken {
    /// The contract. Required.
    pub address: Option<String>,
    /// Name of its EIP-712 domain.
    #[schemars(extend("x-default" = "as the token says"))]
    pub name: Option<String>,
    /// Version of its EIP-712 domain.
    #[schemars(extend("x-default" = "as the token says"))]
    pub version: Option<String>,
    /// Gas that one payment may use, without the transaction's own. What a payment needs beyond it fails; all of it is
    /// reserved.
    #[schemars(range(min = 30_000, max = 10_000_000), extend("x-default" = "110000"))]
    pub transfer_gas: Option<u64>,
}

/// A tenant: who asks, what for, and how much it may cost.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(deny_unknown_fields)]
pub struct RawTenant {
    /// Its name: a-z, 0-9, `-` and `_`, at most 64. Required.
    pub id: Option<String>,
    /// Hashes of its API keys, `sha256:<hex>`; `slackwater keys api --tenant NAME` makes one. Required, or `keys`.
    pub api_keys: Vec<String>,
    /// API keys with a name and scopes of their own.
    pub keys: Vec<RawKey>,
    /// Its `api_keys`, and `keys` without `scopes`, have all scopes: with `operate` they see every tenant's requests, numbers
    /// and endpoints.
    #[schemars(extend("x-default" = "false"))]
    pub operator: Option<bool>,
    /// Kinds of request that it may use: `forward`, `call`, `authorization`. `call` acts with the relayer's own account.
    #[schemars(extend("x-default" = "[\"forward\"]"))]
    pub kinds: Option<Vec<RawKind>>,
    /// Named targets: chain id → contract → function selectors (`[]` is all). Everything else is closed, a chain that is not
    /// named too. `"*"` in the place of a contract allows the others on that chain. With `"*"`, or without this key, `budget`
    /// or `open = true` is needed. Kind `call` needs it, and takes `"*"` only with `open = true`.
    #[schemars(extend("x-default" = "any target, with a budget"))]
    pub targets: Option<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
    /// Spend without a budget on targets that are not named, and make calls to any of them.
    #[schemars(extend("x-default" = "false"))]
    pub open: Option<bool>,
    /// Most wei that one request may send along.
    #[schemars(extend("x-default" = "0"))]
    #[schemars(with = "Option<Amount>")]
    pub max_value_wei: Option<Uint>,
    /// Most event streams at a time, by all its keys together, half of them by page keys; `429 too_many_streams` beyond.
    #[schemars(range(min = 0, max = 1_000_000), extend("x-default" = "128"))]
    pub max_streams: Option<u64>,
    /// Money, per chain; unlimited by default.
    pub budget: Option<RawBudget>,
    /// Keys of [`TenantPolicy`] and [`BudgetShares`].
    #[serde(flatten)]
    #[schemars(with = "KeysOf<(TenantPolicy, BudgetShares)>")]
    pub given: Table,
}

/// An API key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKey {
    /// Its name in logs and records, one of its own in the tenant: a-z, 0-9, `-` and `_`, at most 64. Required.
    pub id: Option<String>,
    /// Its hash, `sha256:<hex>`; `slackwater keys api --tenant NAME` makes a key and its hash. Required.
    pub hash: Option<String>,
    /// It is a page key, for web pages of these origins, such as `https://app.example.org`. It is public, has no scopes, and the
    /// caps of `page_key`.
    pub origins: Option<Vec<String>>,
    /// What it may do: `submit`, `read`, `cancel`, `operate`, `metrics`; see `docs/api.md`.
    #[schemars(extend("x-default" = "[\"submit\", \"read\", \"cancel\"]"))]
    pub scopes: Option<Vec<RawScope>>,
}

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RawKind {
    /// ERC-2771 requests.
    Forward,
    /// The tenant's own calls.
    Call,
    /// Token payments that payers authorized (EIP-3009).
    Authorization,
}

/// A budget.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBudget {
    /// Wei per period and chain. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Amount>")]
    pub limit_wei: Option<Uint>,
    /// Length of a period, aligned to the Unix epoch; 0 is once and for all.
    #[schemars(range(min = 0, max = 31_536_000), extend("x-default" = "86400"))]
    pub period_s: Option<u64>,
}
