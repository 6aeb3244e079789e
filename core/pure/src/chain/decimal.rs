//! Integers as decimal strings in JSON and TOML, because a JSON number loses precision above 2^53.
//!
//! Written as a string; read from a string or from a non-negative integer. Works inside internally tagged enums, where
//! serde's own `u128` support does not.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

/// Writes `value` as a decimal string.
pub fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A number where every JSON implementation reads it exactly, a string above.
pub fn number<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if *value <= 1 << 53 { serializer.serialize_u64(*value) } else { serializer.collect_str(value) }
}

/// Reads a decimal string or a non-negative integer.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr + TryFrom<u64>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(DecimalVisitor(PhantomData))
}

struct DecimalVisitor<T>(PhantomData<T>);

impl<T: FromStr + TryFrom<u64>> Visitor<'_> for DecimalVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a non-negative integer, or its decimal digits as a string")
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<T, E> {
        T::try_from(v).map_err(|_| E::custom(format_args!("{v} is too large")))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<T, E> {
        match u64::try_from(v) {
            Ok(v) => self.visit_u64(v),
            Err(_) => Err(E::custom(format_args!("{v} is negative"))),
        }
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<T, E> {
        // Digits only, without `+` and leading zeros: one value has one spelling.
        let digits = !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
        if !digits || (v.len() > 1 && v.starts_with('0')) {
            return Err(E::custom(format_args!("{v:?} is not a decimal integer")));
        }
        v.parse().map_err(|_| E::custom(format_args!("{v} is too large")))
    }
}

/// The same for an `Option`; use with `#[serde(default)]`.
pub mod option {
    use super::{Deserializer, FromStr, Serializer, fmt};
    use serde::Deserialize;

    /// Writes a decimal string, or null.
    pub fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(v) => s.collect_str(v),
            None => s.serialize_none(),
        }
    }

    /// Reads a decimal string, a non-negative integer, or null.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr + TryFrom<u64>,
        D: Deserializer<'de>,
    {
        struct One<T>(T);
        impl<'de, T: FromStr + TryFrom<u64>> Deserialize<'de> for One<T> {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                super::deserialize(d).map(One)
            }
        }
        Ok(Option::<One<T>>::deserialize(deserializer)?.map(|One(v)| v))
    }
}
