//! What callers send.

use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use slackwater::{
    relay::SubmitItem,
    request::{Call, Deadline, Forward, Submission, SubmissionKind},
};
use utoipa::ToSchema;

use crate::{
    http::{body, problem::Problem},
    scalar::{Account, Count, Excerpt, HexBytes, Instant, Span, Uint},
};

/// Longest idempotency key, bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// An ERC-2771 request: what the user signed for OpenZeppelin's `ERC2771Forwarder`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a forward object")]
#[schema(as = Forward)]
pub struct ForwardBody {
    /// The forwarder contract; one of the chain's `forwarders`.
    pub forwarder: Account,
    /// The user who signed, and whom the target sees as sender.
    pub from: Account,
    /// The target contract.
    pub to: Account,
    /// Wei passed along, paid by the relayer. Default 0.
    #[serde(default)]
    pub value: Uint,
    /// Gas given to the target.
    pub gas: Uint,
    /// The user's nonce at the forwarder: `nonces(from)`.
    pub nonce: Uint,
    /// Last valid block timestamp, Unix seconds (`uint48`).
    pub deadline: Count,
    /// Calldata. Default empty.
    #[serde(default)]
    pub data: HexBytes,
    /// 65 bytes `r ‖ s ‖ v` over the EIP-712 hash.
    pub signature: HexBytes,
}

impl From<ForwardBody> for Forward {
    fn from(body: ForwardBody) -> Self {
        Self {
            forwarder: body.forwarder.0,
            from: body.from.0,
            to: body.to.0,
            value: body.value.0,
            gas: body.gas.0,
            nonce: body.nonce.0,
            deadline: body.deadline.0,
            data: body.data.0,
            signature: body.signature.0,
        }
    }
}

impl From<Forward> for ForwardBody {
    fn from(forward: Forward) -> Self {
        Self {
            forwarder: Account(forward.forwarder),
            from: Account(forward.from),
            to: Account(forward.to),
            value: Uint(forward.value),
            gas: Uint(forward.gas),
            nonce: Uint(forward.nonce),
            deadline: Count(forward.deadline),
            data: HexBytes(forward.data),
            signature: HexBytes(forward.signature),
        }
    }
}

/// A trusted backend's own call, made by the relayer's account. Needs `call` in the tenant's `kinds`.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a call object")]
#[schema(as = Call)]
pub struct CallBody {
    /// The called contract or account.
    pub to: Account,
    /// Wei sent along, paid by the relayer. Default 0.
    #[serde(default)]
    pub value: Uint,
    /// Gas given to the call.
    pub gas: Uint,
    /// Calldata. Default empty.
    #[serde(default)]
    pub data: HexBytes,
    /// The target does not look at `msg.sender`, so that the call may share a transaction through Multicall3.
    #[serde(default)]
    pub any_sender: bool,
}

/// Which of the kinds a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = Kind, rename_all = "camelCase")]
pub enum KindBody {
    /// ERC-2771; the content is in `forward`.
    Forward,
    /// A trusted backend's own call; the content is in `call`.
    Call,
}

impl<'de> Deserialize<'de> for KindBody {
    /// By hand: serde_json calls a number in an enum's place a syntax error.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = KindBody;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`forward` or `call`")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<KindBody, E> {
                match name {
                    "forward" => Ok(KindBody::Forward),
                    "call" => Ok(KindBody::Call),
                    other => Err(E::custom(format_args!("{}: expected `forward` or `call`", Excerpt(other)))),
                }
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// One request to be relayed.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a request object")]
#[schema(as = Submit)]
pub struct SubmitBody<'a> {
    /// EIP-155 chain id.
    pub chain_id: Count,
    /// Kind of request.
    pub kind: KindBody,
    /// For kind `forward`.
    #[serde(default)]
    pub forward: Option<ForwardBody>,
    /// For kind `call`.
    #[serde(default)]
    pub call: Option<CallBody>,
    /// How long it may take, from now. Not together with `deadline`.
    #[serde(default)]
    pub within: Option<Span>,
    /// Latest acceptable inclusion. Not together with `within`.
    #[serde(default)]
    pub deadline: Option<Instant>,
    /// The most that it may cost in total, wei.
    #[serde(default)]
    pub max_cost: Option<Uint>,
    /// Same key with the same body gets the first answer. At most 255 bytes. Use it in batches; the header
    /// `Idempotency-Key` does the same for a single request.
    #[serde(default, borrow)]
    pub idempotency_key: Option<Cow<'a, str>>,
}

impl SubmitBody<'_> {
    /// The domain's form of this body.
    ///
    /// # Errors
    /// `invalid_field` where members contradict each other, `internal` if there is no randomness for a salt.
    pub fn into_item(self, header_key: Option<&str>) -> Result<SubmitItem, Problem> {
        let field = |path: &'static str, detail: &'static str| Problem::new("invalid_field", detail).field(path);
        let idempotency_key = match (self.idempotency_key, header_key) {
            (Some(member), Some(header)) if member != header => {
                return Err(field("idempotencyKey", "differs from the Idempotency-Key header"));
            }
            (Some(key), _) => Some(key.into_owned()),
            (None, key) => key.map(str::to_owned),
        };
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES) {
            return Err(field("idempotencyKey", "must have 1 to 255 bytes"));
        }
        let deadline = match (self.within, self.deadline) {
            (Some(_), Some(_)) => return Err(field("within", "`within` and `deadline` exclude each other")),
            (Some(Span(within_ms)), None) => Some(Deadline::Within(Duration::from_millis(within_ms))),
            (None, deadline) => deadline.map(|instant| Deadline::At(instant.0)),
        };
        let kind = match (self.kind, self.forward, self.call) {
            (KindBody::Forward, Some(forward), None) => SubmissionKind::Forward(forward.into()),
            (KindBody::Call, None, Some(call)) => {
                let salt = match &idempotency_key {
                    Some(key) => key.clone(),
                    None => random_salt().map_err(|_| Problem::new("internal", "no randomness for the call's salt"))?,
                };
                SubmissionKind::Call(Call {
                    to: call.to.0,
                    value: call.value.0,
                    gas: call.gas.0,
                    data: call.data.0,
                    any_sender: call.any_sender,
                    salt,
                })
            }
            (KindBody::Forward, None, _) => return Err(field("forward", "missing: kind is `forward`")),
            (KindBody::Forward, _, Some(_)) => return Err(field("call", "must be absent: kind is `forward`")),
            (KindBody::Call, _, None) => return Err(field("call", "missing: kind is `call`")),
            (KindBody::Call, Some(_), _) => return Err(field("forward", "must be absent: kind is `call`")),
        };
        Ok(SubmitItem {
            submission: Submission {
                chain_id: self.chain_id.0,
                kind,
                deadline,
                max_cost_wei: self.max_cost.map(|wei| wei.0),
            },
            idempotency_key,
            submitted_by: None,
        })
    }
}

fn random_salt() -> Result<String, getrandom::Error> {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt)?;
    Ok(alloy_primitives::hex::encode(salt))
}

/// Several requests, each on its own: one that is refused harms no other.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = SubmitBatch)]
pub struct SubmitBatchBody<'a> {
    /// The requests; answered in the same order.
    #[serde(borrow)]
    pub requests: Vec<SubmitBody<'a>>,
}

/// The same, with the requests left out: for what is wrong with the whole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object with `requests`")]
struct BatchForm {
    #[serde(rename = "requests")]
    _requests: Uncollected,
}

/// A list whose items are read and forgotten.
#[derive(Debug)]
struct Uncollected;

impl<'de> Deserialize<'de> for Uncollected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AtMost::<IgnoredAny> { max_items: 0, items: PhantomData }.deserialize(deserializer).map(|_| Self)
    }
}

/// Reads a list. Items beyond `max_items` are counted and not kept: then there is their number instead of the items.
struct AtMost<T> {
    max_items: usize,
    items: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for AtMost<T> {
    type Value = Result<Vec<T>, usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
    type Value = Result<Vec<T>, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.max_items {
            match list.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(Ok(items)),
            }
        }
        let mut count = items.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(if count > self.max_items { Err(count) } else { Ok(items) })
    }
}

/// Reads `{"requests": […]}`, each request as `T`.
struct BatchOf<T>(AtMost<T>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum BatchField {
    Requests,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for BatchOf<T> {
    type Value = Result<Vec<T>, usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `requests`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let Some(BatchField::Requests) = object.next_key()? else {
            return Err(serde::de::Error::missing_field("requests"));
        };
        let requests = object.next_value_seed(self.0)?;
        match object.next_key()? {
            Some(BatchField::Requests) => Err(serde::de::Error::duplicate_field("requests")),
            None => Ok(requests),
        }
    }
}

/// The requests of a batch, or how many there are if that is more than `max_items`.
fn batch_of<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    max_items: usize,
) -> Result<Result<Vec<T>, usize>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let requests = deserializer.deserialize_map(BatchOf(AtMost { max_items, items: PhantomData }))?;
    deserializer.end()?;
    Ok(requests)
}

/// Parses a batch. Only if it does not parse as a whole, every request is looked at alone, so that a wrong one has its
/// own problem and the others go on. Requests beyond `max_items` are counted, but nothing is made of them.
///
/// # Errors
/// If the body is not JSON, is not of the form `{"requests": […]}`, or has more than `max_items` requests.
pub fn parse_batch(bytes: &[u8], max_items: usize) -> Result<Vec<Result<SubmitBody<'_>, Problem>>, Problem> {
    let too_large = |len: usize| {
        let detail = format!("the batch has {len} requests, limit {max_items} (`server.max_batch_items`)");
        Problem::new("batch_too_large", detail)
    };
    if let Ok(batch) = batch_of::<SubmitBody<'_>>(bytes, max_items) {
        return Ok(batch.map_err(too_large)?.into_iter().map(Ok).collect());
    }
    let batch = batch_of::<&RawValue>(bytes, max_items).map_err(|error| body::explain::<BatchForm>(bytes, error))?;
    Ok(batch.map_err(too_large)?.into_iter().map(|raw| body::parse(raw.get().as_bytes())).collect())
}

/// A price question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a quote object")]
#[schema(as = QuoteRequest)]
pub struct QuoteBody {
    /// EIP-155 chain id.
    pub chain_id: Count,
    /// Gas given to the target.
    pub gas: Count,
    /// How long it may wait, such as `5m`: then `wait` in the answer says what that is worth.
    pub within: Option<Span>,
}
