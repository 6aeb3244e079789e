//! EIP-1559 fee fields of a transaction, and the price that follows at a base fee.

use serde::{Deserialize, Serialize};

use super::decimal;

/// The two per-gas prices that a type-2 (or later) transaction signs, in wei per gas.
///
/// A legacy transaction has both equal to its gas price. Serialised as decimal strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fees {
    /// The fee cap: highest price per gas, base fee and tip together.
    #[serde(with = "decimal")]
    pub max_fee_per_gas: u128,
    /// The priority fee (tip) offered per gas; a chain refuses a tip above the fee cap.
    #[serde(with = "decimal")]
    pub max_priority_fee_per_gas: u128,
}

impl Fees {
    /// Fees with cap `max_fee_per_gas` and tip `max_priority_fee_per_gas`, both wei per gas.
    #[must_use]
    pub const fn new(max_fee_per_gas: u128, max_priority_fee_per_gas: u128) -> Self {
        Self { max_fee_per_gas, max_priority_fee_per_gas }
    }

    /// Effective gas price in a block with `base_fee`: `min(cap, base + tip)`.
    #[must_use]
    pub const fn effective_gas_price(&self, base_fee: u128) -> u128 {
        // Saturating: a sum beyond u128 is above any cap, and the minimum then picks the cap.
        let offered = base_fee.saturating_add(self.max_priority_fee_per_gas);
        if offered < self.max_fee_per_gas { offered } else { self.max_fee_per_gas }
    }

    /// Tip that the block producer receives per gas at `base_fee`; 0 when the cap does not reach the base fee.
    #[must_use]
    pub const fn effective_tip(&self, base_fee: u128) -> u128 {
        self.effective_gas_price(base_fee).saturating_sub(base_fee)
    }

    /// True if a block with `base_fee` may include the transaction: `cap ≥ base fee` and `cap ≥ tip`.
    #[must_use]
    pub const fn is_includable(&self, base_fee: u128) -> bool {
        self.max_fee_per_gas >= base_fee && self.is_well_formed()
    }

    /// True if the tip does not exceed the cap; every node refuses a higher tip.
    #[must_use]
    pub const fn is_well_formed(&self) -> bool {
        self.max_priority_fee_per_gas <= self.max_fee_per_gas
    }

    /// The larger of both caps and the larger of both tips: the baseline for the next bump when a node may hold either.
    #[must_use]
    pub fn max_of_each(self, other: Self) -> Self {
        Self {
            max_fee_per_gas: self.max_fee_per_gas.max(other.max_fee_per_gas),
            max_priority_fee_per_gas: self.max_priority_fee_per_gas.max(other.max_priority_fee_per_gas),
        }
    }
}

/// Fees of a blob (type-3) transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobFees {
    /// Prices of ordinary gas.
    pub fees: Fees,
    /// Cap on the blob base fee, wei per unit of blob gas.
    #[serde(with = "decimal")]
    pub max_fee_per_blob_gas: u128,
}

/// [`Fees::effective_gas_price`] as a function.
#[must_use]
pub const fn effective_gas_price(fees: Fees, base_fee: u128) -> u128 {
    fees.effective_gas_price(base_fee)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_price_is_capped() {
        let fees = Fees::new(30, 2);
        assert_eq!(fees.effective_gas_price(10), 12);
        assert_eq!(fees.effective_gas_price(29), 30);
        assert_eq!(fees.effective_tip(29), 1);
        assert_eq!(fees.effective_tip(31), 0);
        assert!(fees.is_includable(30) && !fees.is_includable(31));
        assert_eq!(Fees::new(u128::MAX, u128::MAX).effective_gas_price(u128::MAX), u128::MAX);
    }

    #[test]
    fn json_uses_decimal_strings_and_reads_numbers() {
        let fees = Fees::new(u128::MAX, 1);
        let json = serde_json::to_string(&fees).expect("serialises");
        assert_eq!(json, format!(r#"{{"max_fee_per_gas":"{}","max_priority_fee_per_gas":"1"}}"#, u128::MAX));
        assert_eq!(serde_json::from_str::<Fees>(&json).expect("reads back"), fees);
        let numbers = r#"{"max_fee_per_gas":7,"max_priority_fee_per_gas":1}"#;
        assert_eq!(serde_json::from_str::<Fees>(numbers).expect("reads numbers"), Fees::new(7, 1));
        for bad in ["-1", "\"\"", "\"+1\"", "\"01\"", "\"1e9\"", "1.5", "\"0x1\""] {
            let json = format!(r#"{{"max_fee_per_gas":{bad},"max_priority_fee_per_gas":"1"}}"#);
            assert!(serde_json::from_str::<Fees>(&json).is_err(), "{bad}");
        }
    }
}
