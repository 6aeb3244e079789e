//! What callers send.

use std::{fmt, marker::PhantomData, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use slackwater_core::{
    request::{self, Deadline, MAX_IDEMPOTENCY_KEY_BYTES, Submission},
    wire::{Kind, Span, Submit},
};

use crate::http::{body, problem::Problem};

/// The domain's form of a request.
///
/// # Errors
/// `invalid_field` where members contradict each other.
pub fn submission(body: Submit<'_>, header_key: Option<&str>) -> Result<Submission, Problem> {
    let field = |path: &'static str, detail: &'static str| Problem::new("invalid_field", detail).field(path);
    let idempotency_key = match (body.idempotency_key, header_key) {
        (Some(member), Some(header)) if member != header => {
            return Err(field("idempotencyKey", "differs from the Idempotency-Key header"));
        }
        (Some(key), _) => Some(key.into_owned()),
        (None, key) => key.map(str::to_owned),
    };
    if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES) {
        return Err(field("idempotencyKey", "must have 1 to 255 bytes"));
    }
    let deadline = match (body.within, body.deadline) {
        (Some(_), Some(_)) => return Err(field("within", "`within` and `deadline` exclude each other")),
        (Some(Span(within_ms)), None) => Some(Deadline::Within(Duration::from_millis(within_ms))),
        (None, deadline) => deadline.map(|instant| Deadline::At(instant.0)),
    };
    let kind = match (body.kind, body.forward, body.call, body.authorization) {
        (Kind::Forward, Some(forward), None, None) => request::Forward::from(forward).into(),
        (Kind::Authorization, None, None, Some(authorization)) => request::Authorization::from(authorization).into(),
        (Kind::Call, None, Some(call), None) => request::Call::from(call).into(),
        (Kind::Forward, None, ..) => return Err(field("forward", "missing: kind is `forward`")),
        (Kind::Forward, _, Some(_), _) => return Err(field("call", "must be absent: kind is `forward`")),
        (Kind::Forward, _, _, Some(_)) => return Err(field("authorization", "must be absent: kind is `forward`")),
        (Kind::Call, _, None, _) => return Err(field("call", "missing: kind is `call`")),
        (Kind::Call, Some(_), ..) => return Err(field("forward", "must be absent: kind is `call`")),
        (Kind::Call, _, _, Some(_)) => return Err(field("authorization", "must be absent: kind is `call`")),
        (Kind::Authorization, _, _, None) => {
            return Err(field("authorization", "missing: kind is `authorization`"));
        }
        (Kind::Authorization, Some(_), ..) => {
            return Err(field("forward", "must be absent: kind is `authorization`"));
        }
        (Kind::Authorization, _, Some(_), _) => return Err(field("call", "must be absent: kind is `authorization`")),
    };
    let mut submission = Submission::new(body.chain_id.0, kind);
    (submission.deadline, submission.max_cost_wei) = (deadline, body.max_cost.map(|wei| wei.0));
    submission.idempotency_key = idempotency_key;
    Ok(submission)
}
/// A batch with the requests left out: for faults of the whole.
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
pub fn parse_batch(bytes: &[u8], max_items: usize) -> Result<Vec<Result<Submit<'_>, Problem>>, Problem> {
    let too_large = |len: usize| {
        let detail = format!("the batch has {len} requests, limit {max_items} (`server.max_batch_items`)");
        Problem::new("batch_too_large", detail)
    };
    if let Ok(batch) = batch_of::<Submit<'_>>(bytes, max_items) {
        return Ok(batch.map_err(too_large)?.into_iter().map(Ok).collect());
    }
    let batch = batch_of::<&RawValue>(bytes, max_items).map_err(|error| body::explain::<BatchForm>(bytes, error))?;
    Ok(batch.map_err(too_large)?.into_iter().map(|raw| body::parse(raw.get().as_bytes())).collect())
}
