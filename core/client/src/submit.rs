//! What is to be relayed, as the API reads it.

use std::{fmt, time::Duration};

use alloy_primitives::{Address, Bytes, U256, hex, keccak256};
use serde::{Deserialize, Serialize};

use super::{api::span, error::ClientError, http::excerpt, verify::CLOCK_TOLERANCE};
use crate::{
    chain::decimal,
    json,
    request::{Authorization, Call, Content, Deadline, Forward, MAX_IDEMPOTENCY_KEY_BYTES, RequestKind, Submission},
    time::Timestamp,
    wire::{self, Kind},
};

/// Longest body of one request that is built or read, bytes; the relayer's default limit (`server.max_body_bytes`).
pub const MAX_SUBMIT_BYTES: usize = 1 << 20;

/// Separates derived keys from every other hash.
const KEY_DOMAIN: &[u8] = b"slackwater/idempotency/v1\0";

/// A name of one submission: the same key with the same body gets the first answer, with another body a refusal.
///
/// Unless the caller gives one, it is a hash of the body (of a `call`: and of a salt, because two equal calls may both be
/// meant). Then the same key always means the same bytes: a submission that is repeated after a crash is recognised, and
/// `idempotency_conflict` can't happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// A key of the caller's own, such as an order's number.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] unless it has 1 to 255 visible ASCII characters.
    pub fn new(key: impl Into<String>) -> Result<Self, ClientError> {
        let key = key.into();
        if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::invalid(
                "idempotencyKey",
                format!("{} bytes; 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters are allowed", key.len()),
            ));
        }
        Ok(Self(key))
    }

    fn derived(body: &str, salt: &[u8]) -> Self {
        let preimage = [KEY_DOMAIN, &(salt.len() as u64).to_be_bytes(), salt, body.as_bytes()].concat();
        Self(format!("sw1-{}", hex::encode(keccak256(preimage))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IdempotencyKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A call of the tenant's own, made by the relayer's account. The tenant needs `kinds = ["call"]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallAsk {
    /// The called contract or account.
    pub to: Address,
    /// Wei sent along, paid by the relayer.
    #[serde(default, with = "decimal")]
    pub value: U256,
    /// Gas given to the call.
    #[serde(with = "decimal")]
    pub gas: u64,
    /// Calldata.
    #[serde(default)]
    pub data: Bytes,
    /// The target does not look at `msg.sender`, so that the call may share a transaction.
    #[serde(default)]
    pub any_sender: bool,
}

/// One request to be relayed.
///
/// ```
/// use std::time::Duration;
///
/// use alloy_primitives::{Address, U256};
/// use slackwater_client::{CallAsk, Submit, api};
///
/// let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 60_000, data: Default::default(), any_sender: true };
/// let submit = Submit::call(8453, ask, b"order 7").within(Duration::from_secs(30));
/// let call = api::submit(&submit);
/// assert_eq!((call.http().method.as_str(), call.http().path.as_str()), ("POST", "/v1/requests"));
/// assert!(submit.body().contains(submit.key().as_str()), "the key travels in the body");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    submission: Submission,
    salt: Vec<u8>,
    key: Option<IdempotencyKey>,
}

impl Submit {
    /// A request that a user signed.
    pub fn forward(chain_id: u64, forward: Forward) -> Self {
        Self { submission: Submission::forward(chain_id, forward), salt: Vec::new(), key: None }
    }

    /// A token payment that the payer authorized (EIP-3009).
    pub fn authorization(chain_id: u64, authorization: Authorization) -> Self {
        Self { submission: Submission::authorization(chain_id, authorization), salt: Vec::new(), key: None }
    }

    /// A call of the tenant's own. Equal calls with the same `salt` are one: give random bytes, or what names the
    /// business that this call belongs to.
    pub fn call(chain_id: u64, call: CallAsk, salt: &[u8]) -> Self {
        Self { submission: Submission::call(chain_id, call.into()), salt: salt.to_vec(), key: None }
    }

    /// How long it may take, from its arrival at the relayer.
    #[must_use]
    pub const fn within(mut self, within: Duration) -> Self {
        self.submission.deadline = Some(Deadline::Within(within));
        self
    }

    /// Latest acceptable inclusion, to whole seconds, rounded down.
    #[must_use]
    pub const fn deadline(mut self, at: Timestamp) -> Self {
        self.submission.deadline = Some(Deadline::At(at));
        self
    }

    /// The most that it may cost in total.
    #[must_use]
    pub const fn max_cost_wei(mut self, wei: U256) -> Self {
        self.submission.max_cost_wei = Some(wei);
        self
    }

    /// A key of the caller's own instead of the derived one.
    #[must_use]
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    /// EIP-155 chain id.
    pub const fn chain_id(&self) -> u64 {
        self.submission.chain_id
    }

    /// What is asked for.
    pub const fn kind(&self) -> &RequestKind {
        &self.submission.kind
    }

    /// The key under which it is sent.
    pub fn key(&self) -> IdempotencyKey {
        match &self.key {
            Some(key) => key.clone(),
            None => IdempotencyKey::derived(&self.write(None), &self.salt),
        }
    }

    /// The JSON that is sent, with the key in it: the same value gives the same bytes.
    pub fn body(&self) -> String {
        self.write(Some(&self.key()))
    }

    /// Last instant at which sending it can be of use, as far as the request itself says: the signed deadline, the asked
    /// one, or `within` counted from `now`.
    pub fn expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        let asked = self.asked(now);
        let signed = self.kind().chain_deadline_s().map(Timestamp::from_secs);
        asked.into_iter().chain(signed).min()
    }

    /// Latest deadline that a promise may name if it was answered at `now`, to be within what was asked; `None` where nothing
    /// was. The relayer counts `within` from the arrival, which was before the answer.
    pub fn promised_by(&self, now: Timestamp) -> Option<Timestamp> {
        Some(self.asked(now)?.saturating_add(CLOCK_TOLERANCE))
    }

    fn asked(&self, now: Timestamp) -> Option<Timestamp> {
        self.submission.deadline.map(|deadline| match deadline {
            Deadline::At(at) => at,
            Deadline::Within(within) => now.saturating_add(within),
        })
    }

    fn write(&self, key: Option<&IdempotencyKey>) -> String {
        let Submission { chain_id, kind, deadline, max_cost_wei: max_cost, .. } = &self.submission;
        let (within, deadline) = match *deadline {
            Some(Deadline::Within(within)) => (Some(span(within)), None),
            Some(Deadline::At(at)) => (None, Some(at.as_secs())),
            None => (None, None),
        };
        let (chain_id, content, max_cost) = (*chain_id, Content(kind), *max_cost);
        let out = SubmitOut { chain_id, content, within, deadline, max_cost, idempotency_key: key };
        serde_json::to_string(&out).unwrap_or_else(|error| unreachable!("a submission is always JSON: {error}"))
    }

    /// Reads a request from the API's JSON, as [`Self::body`] writes it. Without an `idempotencyKey` one is derived; a
    /// `call` needs one, or `salt`.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] says which member is wrong.
    pub fn from_json(text: &str, salt: Option<&[u8]>) -> Result<Self, ClientError> {
        if text.len() > MAX_SUBMIT_BYTES {
            return Err(ClientError::invalid("request", format!("{} bytes, limit {MAX_SUBMIT_BYTES}", text.len())));
        }
        let body: wire::Submit<'_> = json::read(text.as_bytes())
            .map_err(|error| ClientError::invalid("request", excerpt(&error.to_string())))?;
        let mut kind = match (body.kind, body.forward, body.call, body.authorization) {
            (Kind::Authorization, None, None, Some(authorization)) => Authorization::from(authorization).into(),
            (Kind::Forward, Some(forward), None, None) => RequestKind::from(Forward::from(forward)),
            (Kind::Call, None, Some(call), None) => {
                if u64::try_from(call.gas.0).is_err() {
                    return Err(ClientError::invalid("call", "gas is out of range"));
                }
                Call::from(call).into()
            }
            _ => {
                let kinds = "`forward`, `call` or `authorization`, with the member of that name only";
                return Err(ClientError::invalid("kind", kinds));
            }
        };
        let deadline = match (body.within, body.deadline) {
            (Some(_), Some(_)) => return Err(ClientError::invalid("within", "excludes `deadline`")),
            (Some(within), None) => Some(Deadline::Within(Duration::from_millis(within.0))),
            (None, at) => at.map(|at| Deadline::At(at.0)),
        };
        let key = body.idempotency_key.map(IdempotencyKey::new).transpose()?;
        if kind.salt().is_some() && key.is_none() && salt.is_none() {
            return Err(ClientError::invalid("idempotencyKey", "a call needs one, or a salt"));
        }
        let mut submission = Submission::new(body.chain_id.0, kind);
        (submission.deadline, submission.max_cost_wei) = (deadline, body.max_cost.map(|wei| wei.0));
        Ok(Self { submission, salt: salt.unwrap_or_default().to_vec(), key })
    }
}

impl TryFrom<Submission> for Submit {
    type Error = ClientError;

    /// The submission with its own key, or a derived one.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for a key that is empty, too long or not visible ASCII, and for a call without one: equal
    /// calls may both be meant.
    fn try_from(mut submission: Submission) -> Result<Self, ClientError> {
        let key = submission.idempotency_key.take().map(IdempotencyKey::new).transpose()?;
        if submission.kind.salt().is_some() && key.is_none() {
            return Err(ClientError::invalid("idempotencyKey", "a call needs one"));
        }
        Ok(Self { submission, salt: Vec::new(), key })
    }
}

impl From<&Self> for Submit {
    fn from(submit: &Self) -> Self {
        submit.clone()
    }
}

impl From<CallAsk> for Call {
    fn from(ask: CallAsk) -> Self {
        let CallAsk { to, value, gas, data, any_sender } = ask;
        Self { to, value, gas: U256::from(gas), data, any_sender, salt: String::new() }
    }
}

/// What is written. Members in a fixed order: keys are derived from these bytes, on every platform.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubmitOut<'a> {
    #[serde(serialize_with = "decimal::number")]
    chain_id: u64,
    #[serde(flatten)]
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", with = "decimal::option")]
    max_cost: Option<U256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a IdempotencyKey>,
}
