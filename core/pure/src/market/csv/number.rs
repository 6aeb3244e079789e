//! Parsing of numbers in cells.

/// Longest text quoted in an error, characters.
const MAX_SHOWN: usize = 80;
/// Largest exponent worth reading: 2^128 has 39 digits.
const MAX_EXPONENT: i32 = 60;
/// Most digits of a number.
const MAX_DIGITS: usize = 80;

/// Unit of a column's amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Wei,
    Gwei,
}

/// `text` for an error: bounded, without control characters.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    if text.chars().count() > MAX_SHOWN {
        short.push('…');
    }
    short
}

/// A whole number; `12.0` counts, since some tools write integers so.
pub(super) fn parse_whole(text: &str) -> Option<u64> {
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|b| b == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    // `parse` would take a plus sign.
    whole.bytes().all(|b| b.is_ascii_digit()).then(|| whole.parse().ok())?
}

/// Gas used over gas limit.
pub(super) fn parse_ratio(text: &str) -> Option<f64> {
    let ratio: f64 = text.parse().ok()?;
    (ratio.is_finite() && (0.0..=1.0).contains(&ratio)).then_some(ratio)
}

/// A decimal number with or without exponent, exactly, in wei; a fraction of a wei is rounded half up. `None` for anything
/// else: signs, hex, NaN, infinity, more than 2^128 wei.
pub(super) fn parse_amount(text: &str, scale: Scale) -> Option<u128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let count = whole.len() + fraction.len();
    if count == 0 || count > MAX_DIGITS || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    if exponent.abs() > MAX_EXPONENT {
        return None;
    }
    // Digits after which the point stands, in wei.
    let shift = if scale == Scale::Gwei { 9 } else { 0 };
    let point = i32::try_from(whole.len()).ok()? + exponent + shift;
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|b| u128::from(b - b'0'));
    let mut value: u128 = 0;
    for _ in 0..point.max(0) {
        value = value.checked_mul(10)?.checked_add(digits.next().unwrap_or(0))?;
    }
    // With the point before the first digit, the first fraction digit is a zero.
    let first_fraction = if point < 0 { 0 } else { digits.next().unwrap_or(0) };
    value.checked_add(u128::from(first_fraction >= 5))
}
