//! Numbers, bytes and instants as they are written in JSON and TOML.
//!
//! Integers go out as decimal strings, because a JSON number loses precision above 2^53; they come in as decimal
//! digits, as `0x` hex, or as a JSON integer up to 2^53. Bytes are `0x` hex. Nothing here allocates except for the
//! value itself.

use std::{borrow::Cow, fmt};

use alloy_primitives::{Address, Bytes, U256, hex};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};
use slackwater::Timestamp;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// Largest integer that every JSON implementation reads exactly.
const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Values above this are taken for milliseconds instead of Unix seconds: the year 5138.
const MAX_UNIX_SECONDS: u64 = 100_000_000_000;

/// A non-negative integer below 2^256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uint(pub U256);

impl Uint {
    /// Reads decimal digits or `0x` hex.
    ///
    /// # Errors
    /// A description of the error in the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err("not a hexadecimal integer");
            }
            return U256::from_str_radix(digits, 16).map(Self).map_err(|_| "above 2^256 - 1");
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err("not a non-negative integer");
        }
        if text.len() <= 19 {
            // Fits u64: the common case, without wide arithmetic.
            return text.parse().map(|n: u64| Self(U256::from(n))).map_err(|_| "not a non-negative integer");
        }
        if text.len() > 100 {
            return Err("above 2^256 - 1");
        }
        U256::from_str_radix(text, 10).map(Self).map_err(|_| "above 2^256 - 1")
    }
}

impl fmt::Display for Uint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Uint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct UintVisitor;

impl Visitor<'_> for UintVisitor {
    type Value = Uint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a non-negative integer as decimal or 0x-hex string, or a JSON integer up to 2^53")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Uint, E> {
        if n > MAX_SAFE_INTEGER {
            return Err(E::custom(format_args!(
                "{n} is above 2^53: write it as a string, JSON numbers lose precision"
            )));
        }
        Ok(Uint(U256::from(n)))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Uint, E> {
        match u64::try_from(n) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::custom(format_args!("{n} is negative"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Uint, E> {
        Uint::parse(text).map_err(|problem| E::custom(format_args!("{}: {problem}", Excerpt(text))))
    }
}

impl<'de> Deserialize<'de> for Uint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UintVisitor)
    }
}

/// A non-negative integer below 2^64, written like [`Uint`], answered as a JSON number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Uint(wide) = Uint::deserialize(deserializer)?;
        u64::try_from(wide).map(Self).map_err(|_| D::Error::custom(format_args!("{wide} is above 2^64 - 1")))
    }
}

/// Bytes as `0x` hex.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HexBytes(pub Bytes);

struct HexVisitor;

impl Visitor<'_> for HexVisitor {
    type Value = HexBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes as a 0x-hex string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HexBytes, E> {
        let Some(digits) = text.strip_prefix("0x") else {
            return Err(E::invalid_value(Unexpected::Other("a string without 0x"), &self));
        };
        match hex::decode(digits) {
            Ok(bytes) => Ok(HexBytes(bytes.into())),
            Err(error) => Err(E::custom(format_args!("{}: {error}", Excerpt(text)))),
        }
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor)
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// An address: any case in, checksummed (EIP-55) out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Account(pub Address);

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.to_checksum_buffer(None).as_str())
    }
}

struct AccountVisitor;

impl Visitor<'_> for AccountVisitor {
    type Value = Account;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address: 0x and 40 hexadecimal digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Account, E> {
        let mut bytes = [0u8; 20];
        match text.strip_prefix("0x") {
            Some(digits) if hex::decode_to_slice(digits, &mut bytes).is_ok() => Ok(Account(Address::from(bytes))),
            _ => Err(E::custom(format_args!("{} is not an address: 0x and 40 hexadecimal digits", Excerpt(text)))),
        }
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(AccountVisitor)
    }
}

/// An instant: RFC 3339 (`2026-01-31T12:00:00Z`) or Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(pub Timestamp);

impl Instant {
    /// Reads RFC 3339, or Unix seconds in decimal digits.
    ///
    /// # Errors
    /// A description of the error in the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Self::from_seconds(text.parse().unwrap_or(u64::MAX));
        }
        let instant: jiff::Timestamp = text.parse().map_err(|_| "neither RFC 3339 nor Unix seconds")?;
        let millis = u64::try_from(instant.as_millisecond()).map_err(|_| "before 1970")?;
        Ok(Self(Timestamp(millis)))
    }

    const fn from_seconds(seconds: u64) -> Result<Self, &'static str> {
        if seconds > MAX_UNIX_SECONDS {
            return Err("too large for Unix seconds; milliseconds?");
        }
        Ok(Self(Timestamp::from_secs(seconds)))
    }
}

struct InstantVisitor;

impl Visitor<'_> for InstantVisitor {
    type Value = Instant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an instant as RFC 3339 text or Unix seconds")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<Instant, E> {
        Instant::from_seconds(n).map_err(|problem| E::custom(format_args!("{n}: {problem}")))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<Instant, E> {
        match u64::try_from(n) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::custom(format_args!("{n}: before 1970"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Instant, E> {
        Instant::parse(text).map_err(|problem| E::custom(format_args!("{}: {problem}", Excerpt(text))))
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InstantVisitor)
    }
}

/// A span of time in milliseconds, written `500ms`, `30s`, `5m`, `2h` or `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub u64);

impl Span {
    /// Reads a whole number with a unit.
    ///
    /// # Errors
    /// A description of the error in the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const PROBLEM: &str = "not a span of time such as 500ms, 30s, 5m, 2h or 1d";
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(PROBLEM)?;
        let (digits, unit) = text.split_at(unit_at);
        let number: u64 = digits.parse().map_err(|_| PROBLEM)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(PROBLEM),
        };
        number.checked_mul(factor).map(Self).ok_or("too long")
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a span of time such as \"30s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        Span::parse(text).map_err(|problem| E::custom(format_args!("{}: {problem}", Excerpt(text))))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor)
    }
}

/// The beginning of a text from outside, quoted and escaped, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Excerpt<'a>(pub &'a str);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LIMIT: usize = 48;
        match self.0.char_indices().nth(LIMIT) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

macro_rules! text_schema {
    ($($type:ty, $name:literal, $description:literal, $example:literal;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some($description))
                    .examples([serde_json::Value::from($example)])
                    .into()
            }
        }

        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    )+};
}

text_schema! {
    Uint, "Uint", "Non-negative integer below 2^256. Out: decimal string. In: decimal or 0x-hex string, or a JSON integer up to 2^53.", "1000000000000000";
    HexBytes, "HexBytes", "Bytes as 0x-hex.", "0xd09de08a";
    Account, "Account", "Address; any case in, checksummed out.", "0xcA11bde05977b3631167028862bE2a173976CA11";
    Instant, "Instant", "RFC 3339 text, or Unix seconds as a number or digits.", "2026-01-31T12:00:00Z";
    Span, "Span", "Whole number with unit: ms, s, m, h or d.", "30s";
}

impl PartialSchema for Count {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("Non-negative integer below 2^64. In: also a decimal or 0x-hex string."))
            .minimum(Some(0))
            .into()
    }
}

impl ToSchema for Count {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Count")
    }
}

impl JsonSchema for Uint {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn uint(json: &str, expect: Option<U256>) {
        assert_eq!(serde_json::from_str::<Uint>(json).ok().map(|n| n.0), expect, "{json}");
    }

    #[test]
    fn integers_in_every_spelling() {
        uint("7", Some(U256::from(7)));
        uint("\"7\"", Some(U256::from(7)));
        uint("\"0x1f\"", Some(U256::from(31)));
        uint("9007199254740992", Some(U256::from(1u64 << 53)));
        uint("9007199254740993", None);
        uint(&format!("\"{}\"", U256::MAX), Some(U256::MAX));
        uint("\"115792089237316195423570985008687907853269984665640564039457584007913129639936\"", None);
        for bad in
            ["-1", "\"-1\"", "1.5", "1e3", "\"\"", "\"0x\"", "\"1_000\"", "\"+1\"", "null", "[]", "\" 1\"", "true"]
        {
            uint(bad, None);
        }
    }

    #[test]
    fn spans_and_instants() {
        assert_eq!(Span::parse("30s"), Ok(Span(30_000)));
        assert_eq!(Span::parse("500ms"), Ok(Span(500)));
        assert_eq!(Span::parse("2h"), Ok(Span(7_200_000)));
        for bad in ["", "s", "30", "1.5s", "-1s", "30 s", "30S", "99999999999999999999s", "18446744073709551615d"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Instant::parse("1970-01-01T00:00:01.5Z"), Ok(Instant(Timestamp(1_500))));
        assert_eq!(Instant::parse("1790000000"), Ok(Instant(Timestamp(1_790_000_000_000))));
        assert!(Instant::parse("1790000000000").is_err(), "milliseconds");
        assert!(Instant::parse("1969-01-01T00:00:00Z").is_err());
        assert!(Instant::parse("tomorrow").is_err());
    }

    #[test]
    fn addresses_go_out_checksummed() {
        let lower = "\"0xca11bde05977b3631167028862be2a173976ca11\"";
        let account: Account = serde_json::from_str(lower).unwrap();
        assert_eq!(serde_json::to_string(&account).unwrap(), "\"0xcA11bde05977b3631167028862bE2a173976CA11\"");
        assert!(serde_json::from_str::<Account>("\"ca11bde05977b3631167028862be2a173976ca11\"").is_err());
    }

    proptest! {
        #[test]
        fn integers_round_trip(limbs in any::<[u64; 4]>()) {
            let n = Uint(U256::from_limbs(limbs));
            prop_assert_eq!(serde_json::from_str::<Uint>(&serde_json::to_string(&n).unwrap()).unwrap(), n);
            prop_assert_eq!(Uint::parse(&format!("{:#x}", n.0)), Ok(n));
        }

        #[test]
        fn texts_never_panic(text in "\\PC*") {
            let _ = (Uint::parse(&text), Span::parse(&text), Instant::parse(&text));
            prop_assert!(Excerpt(&text).to_string().len() < 1_000);
        }
    }
}
