//! Scroll's L1 data fee: before Curie, Curie, Feynman, Galileo.

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use super::{NONZERO_BYTE_GAS, TxSize, calldata_gas};

/// Scalars, penalties and ratios have nine decimals.
const PRECISION: U256 = U256::from_limbs([1_000_000_000, 0, 0, 0]);
/// Bytes added for a signature, which is already in the encoding.
const EXTRA_BYTES: u64 = 4;

/// Scroll forks that changed the L1 data fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrollFork {
    /// Calldata gas.
    PreCurie,
    /// Commitment and blob bytes.
    Curie,
    /// All bytes at blob price, and a penalty for those that compress badly.
    Feynman,
    /// Compressed bytes, at a price that rises with their number.
    Galileo,
}

/// L1 prices as known to the L2: the `L1GasPriceOracle`'s state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ScrollL1Params {
    /// L1 base fee, wei per gas.
    pub l1_base_fee: U256,
    /// Before Curie: gas added to every transaction.
    pub overhead: U256,
    /// Before Curie: multiplier.
    pub scalar: U256,
    /// Curie: L1 blob base fee, wei per blob gas.
    pub l1_blob_base_fee: U256,
    /// Curie's commitment scalar; from Feynman the execution scalar.
    pub commit_scalar: U256,
    /// Curie: weight of the blob base fee.
    pub blob_scalar: U256,
    /// Feynman: ratio of plain to compressed length from which there is no penalty.
    pub penalty_threshold: U256,
    /// Feynman: multiplier below the threshold, nine decimals. Galileo: divisor of the compressed length.
    pub penalty_factor: U256,
}

impl ScrollL1Params {
    /// L1 data fee of a transaction whose encoding zstd compresses to `zstd_bytes`, wei, rounded down and capped at
    /// `u64::MAX` as the chain does. If the node's zstd is not available, ask the oracle's `getL1Fee(bytes)`, or use
    /// [`Self::data_fee_bound`].
    ///
    /// Source: scroll-tech/scroll-revm `src/l1block.rs`. Vectors: `tests/vectors/fees.json`.
    #[must_use]
    pub fn data_fee(&self, fork: ScrollFork, size: &TxSize, zstd_bytes: u64) -> U256 {
        if size.is_exempt {
            return U256::ZERO;
        }
        let bytes = U256::from(size.bytes);
        let fee = match fork {
            ScrollFork::PreCurie => {
                let gas = calldata_gas(size).saturating_add(EXTRA_BYTES * NONZERO_BYTE_GAS);
                U256::from(gas)
                    .saturating_add(self.overhead)
                    .saturating_mul(self.l1_base_fee)
                    .saturating_mul(self.scalar)
                    / PRECISION
            }
            ScrollFork::Curie => {
                let commit = self.commit_scalar.saturating_mul(self.l1_base_fee);
                let blob = bytes.saturating_mul(self.l1_blob_base_fee).saturating_mul(self.blob_scalar);
                commit.saturating_add(blob) / PRECISION
            }
            ScrollFork::Feynman => {
                let ratio = bytes.saturating_mul(PRECISION) / U256::from(zstd_bytes.max(1));
                let penalty = if ratio >= self.penalty_threshold { PRECISION } else { self.penalty_factor };
                bytes.saturating_mul(self.price_per_byte()).saturating_mul(penalty) / PRECISION / PRECISION
            }
            ScrollFork::Galileo => {
                let compressed = U256::from(zstd_bytes.min(size.bytes));
                let plain = self.price_per_byte().saturating_mul(compressed);
                let penalty = plain.saturating_mul(compressed).checked_div(self.penalty_factor).unwrap_or_default();
                plain.saturating_add(penalty) / PRECISION
            }
        };
        fee.min(U256::from(u64::MAX))
    }

    /// Highest L1 data fee of a transaction of this size, however it compresses, wei.
    #[must_use]
    pub fn data_fee_bound(&self, fork: ScrollFork, size: &TxSize) -> U256 {
        // The uncompressed size is the most expensive, unless a penalty factor below one makes it cheaper.
        let plain = self.data_fee(fork, size, size.bytes);
        if fork == ScrollFork::Feynman { plain.max(self.data_fee(fork, size, 1)) } else { plain }
    }

    /// `exec_scalar × l1_base_fee + blob_scalar × l1_blob_base_fee`.
    fn price_per_byte(&self) -> U256 {
        let exec = self.commit_scalar.saturating_mul(self.l1_base_fee);
        exec.saturating_add(self.blob_scalar.saturating_mul(self.l1_blob_base_fee))
    }
}
