//! Outcome of each member: read from the receipt's events, never from its status alone.

use alloy_primitives::{B256, Log, U256};

/// A mined transaction's receipt, reduced to the fields that decisions use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxReceipt {
    /// Transaction hash.
    pub hash: B256,
    /// Block number.
    pub block_number: u64,
    /// Block hash.
    pub block_hash: B256,
    /// True for status 1.
    pub is_success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Effective gas price, wei per gas.
    pub effective_gas_price: u128,
    /// Wei beyond `gas × price` (L1 data fee and operator fee of OP-stack and Scroll chains).
    pub extra_fee_wei: U256,
    /// Event logs.
    pub logs: Vec<Log>,
}

impl TxReceipt {
    /// Total cost in wei, without value: `gas used × effective price + extra fees`.
    pub fn cost_wei(&self) -> U256 {
        U256::from(self.gas_used)
            .saturating_mul(U256::from(self.effective_gas_price))
            .saturating_add(self.extra_fee_wei)
    }
}

/// Outcome of a transaction for one of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberOutcome {
    /// Executed; the target succeeded.
    Executed,
    /// The target failed; the user's nonce is consumed, or the call had a transaction of its own. Not retried.
    Failed,
    /// Not executed by this transaction: skipped by the forwarder, or the whole transaction reverted.
    Untouched,
}

/// Splits `total` in proportion to `weights`; the parts add up to `total` exactly. Zero weights count as one.
pub fn shares(total: U256, weights: &[u64]) -> Vec<U256> {
    let sum = weights.iter().fold(U256::ZERO, |sum, weight| sum + U256::from((*weight).max(1)));
    let mut rest = total;
    let mut parts: Vec<U256> = weights
        .iter()
        .map(|weight| {
            // Rounded down; the remainder goes to the first part below. Totals are far below 2^192, so no overflow.
            let part = total.saturating_mul(U256::from((*weight).max(1))) / sum;
            rest -= part;
            part
        })
        .collect();
    if let Some(first) = parts.first_mut() {
        *first += rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(U256::from(10), &[1, 1, 1]), [4, 3, 3].map(U256::from).to_vec());
        assert_eq!(shares(U256::from(7), &[0]), vec![U256::from(7)]);
        assert!(shares(U256::from(7), &[]).is_empty());
    }
}
