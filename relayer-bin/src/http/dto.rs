//! Types of the API from and to those of the relay.

use std::borrow::Cow;

use serde::Serialize;

mod answer;
mod operations;
mod story;
mod submit;

pub use answer::{accepted, batch_result, quote, wait};
pub use operations::{chain, fees, forecast, lane, models, source};
pub use story::{batch, event, request, summary};
pub use submit::{parse_batch, submission};

/// Name of an enumeration's value.
pub fn name(value: impl Serialize) -> Cow<'static, str> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name.into(),
        other => unreachable!("a value without content is written as its name: {other:?}"),
    }
}
