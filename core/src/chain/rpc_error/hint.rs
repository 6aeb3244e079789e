//! Numbers that nodes put into their error texts.

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
    /// Least tip or gas price that the node takes, wei per gas.
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

/// The number that an error of `class` carries in its text or `data`, if any. Revert text is never read.
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
