//! Blob gas price (EIP-4844, 7691, 7892, 7918).

use alloy_primitives::U256;

use super::base_fee::{FeeError, FeeHeader};

/// Blob gas of one blob (EIP-4844).
pub const GAS_PER_BLOB: u64 = 131_072;
/// Least blob base fee, wei per blob gas (EIP-4844).
const MIN_BLOB_BASE_FEE: u128 = 1;
/// Execution gas that a blob is held to be worth (EIP-7918).
const BLOB_BASE_COST: u64 = 8_192;

/// Blob constants between two forks (EIP-7892).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobParams {
    /// Blobs per block at which the price stays the same.
    pub target_blobs: u64,
    /// Most blobs per block.
    pub max_blobs: u64,
    /// Denominator of the price exponent; larger moves slower.
    pub update_fraction: u64,
    /// EIP-7918 (from Osaka): while execution gas is expensive, excess does not fall, so the blob fee keeps to 1/16 of
    /// the base fee.
    pub has_reserve_price: bool,
}

impl BlobParams {
    /// Cancun.
    pub const CANCUN: Self =
        Self { target_blobs: 3, max_blobs: 6, update_fraction: 3_338_477, has_reserve_price: false };
    /// Prague (EIP-7691).
    pub const PRAGUE: Self =
        Self { target_blobs: 6, max_blobs: 9, update_fraction: 5_007_716, has_reserve_price: false };
    /// Osaka: Prague's numbers with the reserve price.
    pub const OSAKA: Self = Self { has_reserve_price: true, ..Self::PRAGUE };
    /// First blob-parameter-only fork.
    pub const BPO1: Self =
        Self { target_blobs: 10, max_blobs: 15, update_fraction: 8_346_193, has_reserve_price: true };
    /// Second blob-parameter-only fork.
    pub const BPO2: Self =
        Self { target_blobs: 14, max_blobs: 21, update_fraction: 11_684_671, has_reserve_price: true };
}

/// Blob constants by activation time (Unix seconds), ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobSchedule<'a>(&'a [(u64, BlobParams)]);

impl BlobSchedule<'static> {
    /// Ethereum mainnet as of BPO2. Prefer `eth_config` (EIP-7910) where a node serves it: later forks are not here.
    ///
    /// Source: EIP-7607, EIP-7892, geth `params/config.go`.
    pub const ETHEREUM: Self = Self(&[
        (1_710_338_135, BlobParams::CANCUN),
        (1_746_612_311, BlobParams::PRAGUE),
        (1_764_798_551, BlobParams::OSAKA),
        (1_765_290_071, BlobParams::BPO1),
        (1_767_747_671, BlobParams::BPO2),
    ]);
}

impl<'a> BlobSchedule<'a> {
    /// A schedule read from a chain; `None` unless activation times strictly ascend.
    #[must_use]
    pub fn new(forks: &'a [(u64, BlobParams)]) -> Option<Self> {
        forks.is_sorted_by(|a, b| a.0 < b.0).then_some(Self(forks))
    }

    /// Constants of a block at `timestamp` (Unix seconds); `None` before blobs. The first block of a fork already uses the
    /// fork's own, also for its excess.
    #[must_use]
    pub fn at(&self, timestamp: u64) -> Option<BlobParams> {
        self.0.iter().rev().find(|(activation, _)| *activation <= timestamp).map(|(_, params)| *params)
    }
}

/// `factor × e^(numerator / denominator)`, rounded down as EIP-4844 prescribes (Taylor series in integers).
///
/// Saturates at `u128::MAX`, which also stands for a denominator of 0 with a factor and numerator above 0.
///
/// Source: EIP-4844. Vectors: `tests/vectors/fees.json`.
#[must_use]
pub fn fake_exponential(factor: u128, numerator: u128, denominator: u128) -> u128 {
    if factor == 0 || numerator == 0 {
        return factor;
    }
    if denominator == 0 {
        return u128::MAX;
    }
    let (numerator, denominator) = (U256::from(numerator), U256::from(denominator));
    let mut output = U256::ZERO;
    let mut accumulator = U256::from(factor) * denominator;
    let mut i = U256::ONE;
    // Ends: a term either shrinks to 0 once i passes numerator/denominator, or overflows.
    while !accumulator.is_zero() {
        let sum = output.checked_add(accumulator);
        let product = accumulator.checked_mul(numerator);
        let (Some(sum), Some(product)) = (sum, product) else { return u128::MAX };
        output = sum;
        accumulator = product / (denominator * i);
        i += U256::ONE;
    }
    u128::try_from(output / denominator).unwrap_or(u128::MAX)
}

/// Blob base fee of a block with `excess_blob_gas`, wei per blob gas. Saturates.
#[must_use]
pub fn blob_base_fee(excess_blob_gas: u64, params: &BlobParams) -> u128 {
    fake_exponential(MIN_BLOB_BASE_FEE, excess_blob_gas.into(), params.update_fraction.into())
}

/// Excess blob gas of the block after `parent`; `params` are those of the *new* block.
///
/// `max(0, excess + used − target)`; under EIP-7918, when the base fee is above 16 times the blob fee,
/// `excess + used × (max − target) // max` instead. Below target it is 0 either way.
///
/// Source: EIP-4844, EIP-7918. Vectors: `tests/vectors/fees.json`.
///
/// # Errors
/// [`FeeError::MissingBlobFields`] for a header before blobs.
pub fn next_excess_blob_gas(parent: &FeeHeader, params: &BlobParams) -> Result<u64, FeeError> {
    let missing = FeeError::MissingBlobFields { number: parent.number };
    let (excess, used) = parent.excess_blob_gas.zip(parent.blob_gas_used).ok_or(missing)?;
    // Saturating: only a false answer of a node is near the limit, and a higher excess errs on the expensive side.
    let sum = excess.saturating_add(used);
    let target = params.target_blobs.saturating_mul(GAS_PER_BLOB);
    if sum < target {
        return Ok(0);
    }
    if params.has_reserve_price {
        let reserve = U256::from(BLOB_BASE_COST) * U256::from(parent.base_fee_per_gas);
        let price = U256::from(GAS_PER_BLOB) * U256::from(blob_base_fee(excess, params));
        if reserve > price {
            let above_target = params.max_blobs.saturating_sub(params.target_blobs);
            let kept = (u128::from(used) * u128::from(above_target)).checked_div(params.max_blobs.into());
            let kept = u64::try_from(kept.unwrap_or(0)).unwrap_or(u64::MAX);
            return Ok(excess.saturating_add(kept));
        }
    }
    Ok(sum - target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancun_thresholds() {
        for (excess, fee) in [(0, 1), (2_314_057, 1), (2_314_058, 2), (10_485_760, 23)] {
            assert_eq!(blob_base_fee(excess, &BlobParams::CANCUN), fee, "{excess}");
        }
    }

    #[test]
    fn schedule_by_time() {
        let schedule = BlobSchedule::ETHEREUM;
        assert_eq!(schedule.at(0), None);
        assert_eq!(schedule.at(1_764_798_550), Some(BlobParams::PRAGUE));
        assert_eq!(schedule.at(1_764_798_551), Some(BlobParams::OSAKA));
        assert_eq!(schedule.at(u64::MAX), Some(BlobParams::BPO2));
        assert_eq!(BlobSchedule::new(&[(2, BlobParams::OSAKA), (2, BlobParams::BPO1)]), None);
    }

    #[test]
    fn absurd_excess_saturates() {
        assert_eq!(blob_base_fee(u64::MAX, &BlobParams::CANCUN), u128::MAX);
        assert_eq!(fake_exponential(u128::MAX, u128::MAX, 1), u128::MAX);
        assert_eq!(fake_exponential(1, u128::MAX, u128::MAX), 2);
        assert_eq!(fake_exponential(1, 1, 0), u128::MAX);
    }

    #[test]
    fn header_without_blobs_is_an_error() {
        let parent = FeeHeader { number: 7, ..FeeHeader::default() };
        let result = next_excess_blob_gas(&parent, &BlobParams::OSAKA);
        assert_eq!(result, Err(FeeError::MissingBlobFields { number: 7 }));
    }
}
