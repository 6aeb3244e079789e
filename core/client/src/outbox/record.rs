//! Stored form of an entry.

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{
    chain::decimal,
    json,
    request::RequestId,
    submit::{IdempotencyKey, MAX_SUBMIT_BYTES, Submit},
    time::Timestamp,
};

/// Version of the record format.
const VERSION: u32 = 1;

/// Largest record that is read, bytes: an escaped body and an outcome.
const MAX_RECORD_BYTES: usize = 3 * MAX_SUBMIT_BYTES;

/// A user at a forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The forwarder that counts the user's nonces.
    pub forwarder: Address,
    /// The user's account.
    pub from: Address,
}

/// A position in a user's sequence of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// The user whose sequence it is.
    pub user: User,
    /// The forwarder nonce used by the request.
    #[serde(with = "decimal")]
    pub nonce: U256,
}

impl Place {
    pub(super) fn of(submit: &Submit) -> Option<Self> {
        let (forwarder, from, nonce) = submit.kind().sequence()?;
        Some(Self { user: User { chain_id: submit.chain_id(), forwarder, from }, nonce })
    }

    /// Key of its record in storage, and of the lock on it: `nonce:chainId:forwarder:from:nonce`, in lower case.
    pub fn key(&self) -> String {
        let User { chain_id, forwarder, from } = self.user;
        format!("nonce:{chain_id}:{forwarder:#x}:{from:#x}:{}", self.nonce)
    }

    /// Parses a key; `None` if it is none of a place.
    pub fn from_key(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix("nonce:")?.split(':');
        let chain_id = parts.next()?.parse().ok()?;
        let (forwarder, from) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let place = Self { user: User { chain_id, forwarder, from }, nonce: parts.next()?.parse().ok()? };
        parts.next().is_none().then_some(place)
    }
}

/// The destination relayer of entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addressee {
    /// Base URL, without a trailing slash.
    pub url: String,
    /// Identities known from another source: only their promises count. Several while one is rotated. Empty: any
    /// promise counts.
    pub identities: Vec<Address>,
}

impl Addressee {
    /// The relayer at `url` with these identities.
    pub fn new(url: &str, identities: impl IntoIterator<Item = Address>) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), identities: identities.into_iter().collect() }
    }

    /// Stored form: address and identities, one per line. In WASM a text is smaller than the code that parses a
    /// structure.
    pub(super) fn encode(&self) -> String {
        let mut text = self.url.clone();
        for identity in &self.identities {
            text.push('\n');
            text.push_str(&identity.to_string());
        }
        text
    }

    pub(super) fn decode(text: &str) -> Self {
        let mut lines = text.split('\n');
        let url = lines.next().unwrap_or_default().to_owned();
        Self { url, identities: lines.filter_map(|line| line.parse().ok()).collect() }
    }

    /// True if both are the same relayer: they share an identity or, if one of them has none, the address.
    pub fn is_same(&self, other: &Self) -> bool {
        if self.identities.is_empty() || other.identities.is_empty() {
            return self.url == other.url;
        }
        self.identities.iter().any(|identity| other.identities.contains(identity))
    }
}

/// A stored entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) key: IdempotencyKey,
    /// Order of arrival.
    pub(super) order: u64,
    /// The bytes to send, always the same.
    pub(super) body: String,
    pub(super) expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<RequestId>,
    /// Encoded by [`Addressee::encode`]. Absent in records of versions without it, and of outboxes without an
    /// addressee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) addressee: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<Outcome>,
}

impl Record {
    pub(super) fn new(
        submit: &Submit,
        key: IdempotencyKey,
        body: String,
        order: u64,
        expires_at: Timestamp,
        request_id: Option<RequestId>,
    ) -> Self {
        let place = Place::of(submit);
        Self { version: VERSION, key, order, body, expires_at, place, request_id, addressee: None, outcome: None }
    }

    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| unreachable!("a record is always JSON: {error}"))
    }

    /// Parses a record; `None` if this build does not understand it.
    pub(super) fn decode(key: &str, text: &str) -> Option<Self> {
        if text.len() > MAX_RECORD_BYTES {
            return None;
        }
        let record: Self = json::read(text.as_bytes()).ok()?;
        (record.version == VERSION && record.key.as_str() == key && record.body.len() <= MAX_SUBMIT_BYTES)
            .then_some(record)
    }
}
