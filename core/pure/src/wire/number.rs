//! Numbers, bytes, addresses and instants as they are written in JSON and TOML.
//!
//! Integers go out as decimal strings, because a JSON number loses precision above 2^53; they come in as decimal
//! digits, as `0x` hex, or as a JSON integer up to 2^53. Bytes are `0x` hex. Nothing here allocates except for the
//! value itself.

use std::{fmt, ops::Range};

use alloy_primitives::{Address, Bytes, U256, hex};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Unexpected, Visitor},
};

use super::macros::from_text;
use crate::time::Timestamp;

/// Largest integer that every JSON implementation reads exactly.
const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// Values above this are taken for milliseconds instead of Unix seconds: the year 5138.
const MAX_UNIX_SECONDS: u64 = 100_000_000_000;

/// A non-negative integer, below 2^256 unless `T` has less room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uint<T = U256>(pub T);

/// An amount of wei per gas.
pub type Price = Uint<u128>;

impl<T: TryFrom<U256>> Uint<T> {
    /// Reads decimal digits or `0x` hex.
    ///
    /// # Errors
    /// The fault of the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Self::narrow(wide(text)?).ok_or("too large")
    }

    fn narrow(wide: U256) -> Option<Self> {
        T::try_from(wide).ok().map(Self)
    }
}

fn wide(text: &str) -> Result<U256, &'static str> {
    const TOO_LARGE: &str = "above 2^256 - 1";
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("not a hexadecimal integer");
        }
        return U256::from_str_radix(digits, 16).map_err(|_| TOO_LARGE);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a non-negative integer");
    }
    if text.len() <= 19 {
        // Fits u64: the common case, without wide arithmetic.
        return text.parse().map(|n: u64| U256::from(n)).map_err(|_| "not a non-negative integer");
    }
    if text.len() > 100 {
        return Err(TOO_LARGE);
    }
    U256::from_str_radix(text, 10).map_err(|_| TOO_LARGE)
}

impl<T: fmt::Display> fmt::Display for Uint<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: fmt::Display> Serialize for Uint<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct UintVisitor;

impl Visitor<'_> for UintVisitor {
    type Value = U256;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a non-negative integer as decimal or 0x-hex string, or a JSON integer up to 2^53")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<U256, E> {
        if n > MAX_SAFE_INTEGER {
            return Err(E::custom(format_args!(
                "{n} is above 2^53: write it as a string, JSON numbers lose precision"
            )));
        }
        Ok(U256::from(n))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<U256, E> {
        match u64::try_from(n) {
            Ok(n) => self.visit_u64(n),
            Err(_) => Err(E::custom(format_args!("{n} is negative"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<U256, E> {
        wide(text).map_err(|problem| E::custom(format_args!("{}: {problem}", Excerpt(text))))
    }
}

impl<'de, T: TryFrom<U256>> Deserialize<'de> for Uint<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wide = deserializer.deserialize_any(UintVisitor)?;
        Self::narrow(wide).ok_or_else(|| D::Error::custom(format_args!("{wide} is too large")))
    }
}

/// A non-negative integer below 2^64, written like [`Uint`], answered as a JSON number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wide = deserializer.deserialize_any(UintVisitor)?;
        u64::try_from(wide).map(Self).map_err(|_| D::Error::custom(format_args!("{wide} is above 2^64 - 1")))
    }
}

/// Bytes as `0x` hex.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HexBytes(pub Bytes);

from_text! {
    HexBytes, "bytes as a 0x-hex string", |text| match text.strip_prefix("0x").map(hex::decode) {
        None => Err(E::invalid_value(Unexpected::Other("a string without 0x"), &Self::EXPECTED)),
        Some(Ok(bytes)) => Ok(HexBytes(bytes.into())),
        Some(Err(error)) => Err(E::custom(format_args!("{}: {error}", Excerpt(text)))),
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

from_text! {
    Account, "an address: 0x and 40 hexadecimal digits", |text| {
        let mut bytes = [0u8; 20];
        match text.strip_prefix("0x") {
            Some(digits) if hex::decode_to_slice(digits, &mut bytes).is_ok() => Ok(Account(Address::from(bytes))),
            _ => Err(E::custom(format_args!("{} is not {}", Excerpt(text), Self::EXPECTED))),
        }
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
        let millis = rfc3339_ms(text).ok_or("neither RFC 3339 nor Unix seconds")?;
        u64::try_from(millis).map(|millis| Self(Timestamp(millis))).map_err(|_| "before 1970")
    }

    const fn from_seconds(seconds: u64) -> Result<Self, &'static str> {
        if seconds > MAX_UNIX_SECONDS {
            return Err("too large for Unix seconds; milliseconds?");
        }
        Ok(Self(Timestamp::from_secs(seconds)))
    }
}

/// Unix milliseconds of an instant as RFC 3339 writes it.
fn rfc3339_ms(text: &str) -> Option<i64> {
    let number = |range: Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let [_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't' | b' ', _, _, b':', _, _, b':', ..] = text.as_bytes() else {
        return None;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut millis, mut zone) = (0, text.get(19..)?);
    if let Some(fraction) = zone.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).filter(|end| *end > 0)?;
        let digits = fraction[..end].bytes().chain([b'0'; 3]).take(3);
        millis = digits.fold(0, |millis, digit| 10 * millis + i64::from(digit - b'0'));
        zone = &fraction[end..];
    }
    let offset_min = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let (hours, minutes) = (number(at..at + 2)?, number(at + 3..at + 5)?);
            let east = 60 * hours + minutes;
            (hours < 24 && minutes < 60).then_some(if *sign == b'+' { east } else { -east })?
        }
        _ => return None,
    };
    // Years begin in March, so that the leap day is the last (Howard Hinnant's `days_from_civil`).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = 365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    // A leap second is the last of its minute.
    let seconds = ((24 * days + hour) * 60 + minute - offset_min) * 60 + second.min(59);
    Some(1_000 * seconds + millis)
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

impl Serialize for Instant {
    /// Unix seconds, rounded down.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_secs())
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

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0))
    }
}

from_text! {
    Span, "a span of time such as \"30s\"",
    |text| Span::parse(text).map_err(|problem| E::custom(format_args!("{}: {problem}", Excerpt(text))))
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
        for (text, seconds) in [
            ("2026-01-31T12:00:00Z", 1_769_860_800),
            ("2024-02-29t23:59:60.9z", 1_709_251_199),
            ("2000-03-01 01:30:00+02:00", 951_867_000),
            ("2100-12-31T22:00:00-02:30", 4_133_982_600),
        ] {
            assert_eq!(Instant::parse(text).unwrap().0.as_secs(), seconds, "{text}");
        }
        let out_of_range =
            ["2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z", "1969-01-01T00:00:00Z"];
        let misshapen =
            ["tomorrow", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00:00.Z", "2026-01-31T12:00:00+2:00"];
        for bad in out_of_range.into_iter().chain(misshapen) {
            assert!(Instant::parse(bad).is_err(), "{bad}");
        }
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
            let _ = (<Uint>::parse(&text), Span::parse(&text), Instant::parse(&text));
            prop_assert!(Excerpt(&text).to_string().len() < 1_000);
        }
    }
}
