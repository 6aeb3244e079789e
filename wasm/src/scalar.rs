//! Conversion of numbers, addresses and bytes from and to JavaScript.

use std::{fmt, str::FromStr};

#[cfg(feature = "client")]
use alloy_primitives::B256;
use alloy_primitives::{Address, Bytes, U256};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};
use slackwater_core::{Timestamp, request::RequestId};
#[cfg(feature = "client")]
use wasm_bindgen::prelude::wasm_bindgen;

use crate::interop::Failure;

#[cfg(feature = "client")]
#[wasm_bindgen]
extern "C" {
    /// `Quantity` of `types.shared.d.ts`.
    #[wasm_bindgen(typescript_type = "Quantity")]
    #[derive(Debug)]
    pub type JsQuantity;
}

/// A whole number: decimal digits, `0x` hex, or a JSON integer. Written as decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quantity<T>(pub(crate) T);

fn wide(text: &str) -> Option<U256> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| char::from(byte).is_digit(radix));
    is_number.then(|| U256::from_str_radix(digits, u64::from(radix)).ok())?
}

/// One reader for all widths.
struct Wide;

impl Visitor<'_> for Wide {
    type Value = U256;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number in range: decimal digits, 0x hex, or a safe integer")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<U256, E> {
        // Above that a JavaScript number has lost digits on its way.
        if value >= 1 << 53 {
            return Err(E::invalid_value(Unexpected::Unsigned(value), &self));
        }
        Ok(U256::from(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<U256, E> {
        let shown: String = text.chars().take(80).collect();
        wide(text).ok_or_else(|| E::invalid_value(Unexpected::Str(&shown), &self))
    }
}

impl<'de, T: TryFrom<U256>> Deserialize<'de> for Quantity<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wide = deserializer.deserialize_any(Wide)?;
        T::try_from(wide).map(Self).map_err(|_| D::Error::invalid_value(Unexpected::Other("a larger number"), &Wide))
    }
}

impl<T: fmt::Display> Serialize for Quantity<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Parses a value from its string form.
fn text<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D, expected: &str) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let shown: String = text.chars().take(80).collect();
    text.parse().map_err(|_| D::Error::custom(format_args!("`{shown}` is not {expected}")))
}

/// An address, in any case; written with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account(pub(crate) Address);

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address").map(Self)
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// 32 bytes.
#[cfg(feature = "client")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash(pub(crate) B256);

#[cfg(feature = "client")]
impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a hash of 32 bytes").map(Self)
    }
}

/// Any bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HexBytes(pub(crate) Bytes);

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "hex bytes").map(Self)
    }
}

/// A timestamp from `Date.now()`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; no clock is near the ends")]
pub(crate) const fn instant(now_ms: f64) -> Timestamp {
    Timestamp(now_ms as u64)
}

/// A timestamp in the unit of `Date.now()`.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of our time are below 2^53")]
pub(crate) const fn number(at: Timestamp) -> f64 {
    at.0 as f64
}

/// Converts a counter of revisions or calls, which is far below 2⁵³.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; an unknown number is ignored")]
pub(crate) const fn whole(number: f64) -> u64 {
    number as u64
}

pub(crate) fn request_id(text: &str) -> Result<RequestId, Failure> {
    text.parse().map_err(|_| Failure::argument("id: not the id of a request"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<u128>) {
        let read = serde_json::from_str::<Quantity<u128>>(json).ok().map(|quantity| quantity.0);
        assert_eq!(read, expected, "{json}");
    }

    #[test]
    fn numbers_as_javascript_writes_them() {
        check("7", Some(7));
        check("9007199254740991", Some((1 << 53) - 1));
        check("9007199254740992", None);
        check("\"9007199254740993\"", Some(9_007_199_254_740_993));
        check("\"0x10\"", Some(16));
        check("\"340282366920938463463374607431768211455\"", Some(u128::MAX));
        check("\"340282366920938463463374607431768211456\"", None);
        for bad in
            ["-1", "1.5", "1e3", "\"\"", "\"0x\"", "\"0x1g\"", "\"1_0\"", "\" 1\"", "\"+1\"", "null", "[]", "true"]
        {
            check(bad, None);
        }
    }
}
