//! Numbers in the error texts of nodes.

use alloy_primitives::B256;

use super::{RpcErrorClass as C, normalise};

/// A number found in an error.
///
/// It is one node's claim: a hint saves a round trip, but bounds and budgets still apply, and a nonce is confirmed by
/// reading the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hint {
    /// Nonce that the node expects next.
    ExpectedNonce(u64),
    /// Least tip or gas price that the node accepts, wei per gas.
    MinPrice(u128),
    /// The node's current base fee, wei per gas.
    BaseFee(u128),
    /// Least gas limit.
    MinGas(u64),
    /// Highest gas limit.
    MaxGas(u64),
    /// Hash of the transaction that the node holds but has not included.
    Hash(B256),
}

/// Number in the text or `data` of an error of `class`; `None` if there is none. Revert text is never read.
#[must_use]
pub fn hint(class: C, message: &str, data: Option<&str>) -> Option<Hint> {
    let text = normalise(message);
    let first = |prefixes: &[&str]| prefixes.iter().find_map(|prefix| number_after(&text, prefix));
    let narrow = |n: u128| u64::try_from(n).ok();
    match class {
        C::NonceTooLow | C::NonceGap => {
            // `current nonce` after `next nonce`: geth names both. ZK Stack gives the allowed range, lowest first.
            let prefixes = [
                "next nonce ",
                "gapped nonce ",
                "state: ",
                "expected nonce: ",
                "expected nonce ",
                "current nonce: ",
                "current nonce (",
                "nonce range: ",
                "expected ",
            ];
            let nonce = first(&prefixes).or_else(|| if class == C::NonceGap { number_in_data(data?) } else { None });
            nonce.and_then(narrow).map(Hint::ExpectedNonce)
        }
        C::Underpriced => {
            first(&["minimum needed ", "required priority fee ", "minimal: ", "tx.gasprice = "]).map(Hint::MinPrice)
        }
        C::FeeCapBelowBaseFee => first(&["basefee: "]).map(Hint::BaseFee),
        C::GasTooLow => first(&["minimum needed "]).and_then(narrow).map(Hint::MinGas),
        C::GasTooHigh => first(&["(cap: ", "cap of "]).and_then(narrow).map(Hint::MaxGas),
        C::Timeout => data?.trim().trim_matches('"').parse().ok().map(Hint::Hash),
        _ => None,
    }
}

/// Smallest number in a refusal's text that may be the demanded price: above `offered`, the refused tip, wei per gas.
/// Numbers may have decimals and a unit, `wei` (the default), `gwei` or `ether`.
///
/// For texts that [`hint`] does not know; the number is unverified, so the caller bounds it.
#[must_use]
pub fn least_price(message: &str, offered: u128) -> Option<u128> {
    amounts(&normalise(message)).filter(|price| *price > offered).min()
}

/// The node's cap on gas limit × fee cap, wei, from a refusal about it: outer `None` for any other refusal, inner `None`
/// if the cap is not named.
///
/// geth prints it in ether with two decimals, rounded.
#[must_use]
pub fn refused_fee_cap(message: &str) -> Option<Option<u128>> {
    let text = normalise(message);
    if let Some((_, named)) = text.split_once("configured cap") {
        return Some(amounts(named).next().filter(|cap| *cap > 0));
    }
    text.contains("fee cap exceeded").then_some(None)
}

/// Amounts in a text, in order, in wei. Digits inside words and hashes do not count.
fn amounts(text: &str) -> impl Iterator<Item = u128> {
    let mut words = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty())
        .peekable();
    std::iter::from_fn(move || {
        loop {
            let word = words.next()?;
            let split = word.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(word.len());
            let (number, unit) = word.split_at(split);
            let unit = if unit.is_empty() { words.peek().copied().unwrap_or("") } else { unit };
            let exponent = match unit {
                "gwei" => 9,
                "ether" | "eth" => 18,
                _ if split < word.len() && unit != "wei" => continue,
                _ => 0,
            };
            if let Some(amount) = scaled(number, exponent) {
                return Some(amount);
            }
        }
    })
}

/// A decimal number times 10^`exponent`, rounded down.
fn scaled(number: &str, exponent: usize) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.contains('.') || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let digits: String = whole.chars().chain(part.chars().chain(std::iter::repeat('0')).take(exponent)).collect();
    digits.parse().ok()
}

/// Decimal number directly after `prefix`; ends at any other character.
fn number_after(text: &str, prefix: &str) -> Option<u128> {
    let (_, rest) = text.split_once(prefix)?;
    let end = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A JSON number or hex string that fills the whole `data` member.
pub(super) fn number_in_data(data: &str) -> Option<u128> {
    let data = data.trim().trim_matches('"');
    match data.strip_prefix("0x") {
        Some(hex) if !hex.starts_with('+') => u128::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if data.bytes().all(|b| b.is_ascii_digit()) => data.parse().ok(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, data: Option<&str>, code: i64, expect: Option<Hint>) {
        let class = super::super::classify(code, message, data);
        assert_eq!(hint(class, message, data), expect, "{class}");
    }

    #[test]
    fn nonces() {
        let seven = Some(Hint::ExpectedNonce(7));
        for text in [
            "nonce too low: next nonce 7, tx nonce 5",
            "nonce too high: tx nonce 9, gapped nonce 7",
            "nonce too low: address 0x00000000000000000000000000000000000000aa, tx: 5 state: 7",
            "OldNonce, Current nonce: 7, nonce of rejected tx: 5.",
            "NonceGap, Future nonce. Expected nonce: 7",
            "nonce too low: address 0xaa current nonce (7) > tx nonce (5)",
            "nonce too low. allowed nonce range: 7 - 57, actual: 6",
            "invalid nonce; got 9, expected 7: invalid sequence: invalid sequence",
            "[Request ID: 1] Nonce too low. Provided nonce: 5, current nonce: 7",
        ] {
            check(text, None, -32_000, seven);
        }
        check("nonce too low", None, -32_000, None);
        check("nonce too low: next nonce 99999999999999999999999999", None, -32_000, None);
        check("gap", Some("\"0x7\""), 6, seven);
        check("gap", Some("7"), 6, seven);
    }

    #[test]
    fn prices_and_gas() {
        check("transaction underpriced: gas tip cap 0, minimum needed 1", None, 0, Some(Hint::MinPrice(1)));
        check("transaction priority fee below minimum required priority fee 9", None, 0, Some(Hint::MinPrice(9)));
        check("gas price too low: 1 wei, use at least tx.gasPrice = 2 wei", None, 0, Some(Hint::MinPrice(2)));
        let text = "max fee per gas less than block base fee: address 0xaa, maxFeePerGas: 1, baseFee: 2";
        check(text, None, 0, Some(Hint::BaseFee(2)));
        check("intrinsic gas too low: gas 20000, minimum needed 21000", None, 0, Some(Hint::MinGas(21_000)));
        let capped = Some(Hint::MaxGas(16_777_216));
        check("transaction gas limit too high (cap: 16777216, tx: 20000000)", None, 0, capped);
        check("TxGasLimitCapExceeded: Gas limit 20000000 exceeded cap of 16777216.", None, 0, capped);
    }

    #[test]
    fn prices_in_unknown_forms() {
        let gwei = 1_000_000_000;
        for text in [
            "transaction underpriced: tip 1200000000 is below 2000000000",
            "underpriced, want 2 gwei, got 1.2 gwei",
            "FeeTooLow: effective tip 1.2gwei, required 2.0gwei.",
            "fee too low for 0x12ab34cd5678ef9012ab34cd5678ef9012ab34cd: offered 1200000000 wei, least 2000000000 wei",
        ] {
            assert_eq!(least_price(text, 1_200_000_000), Some(2 * gwei), "{text}");
        }
        assert_eq!(least_price("transaction underpriced", 0), None);
        assert_eq!(least_price("underpriced 99999999999999999999999999999999999999999999", 0), None);
    }

    #[test]
    fn fee_caps() {
        let ether = 1_000_000_000_000_000_000;
        assert_eq!(refused_fee_cap("tx fee (1.50 ether) exceeds the configured cap (1.00 ether)"), Some(Some(ether)));
        let wei = "tx fee (1500000000000000000 wei) exceeds the configured cap (500000000000000000 wei)";
        assert_eq!(refused_fee_cap(wei), Some(Some(ether / 2)));
        assert_eq!(refused_fee_cap("Transaction fee cap exceeded"), Some(None));
        assert_eq!(refused_fee_cap("max priority fee per gas higher than max fee per gas"), None);
    }

    #[test]
    fn hashes() {
        let hash = format!("\"{}\"", B256::repeat_byte(0xab));
        check("timed out", Some(&hash), 4, Some(Hint::Hash(B256::repeat_byte(0xab))));
        check("timed out", Some("\"0x12\""), 4, None);
    }

    #[test]
    fn revert_text_gives_no_hint() {
        check("execution reverted: nonce too low: next nonce 7", None, 3, None);
    }
}
