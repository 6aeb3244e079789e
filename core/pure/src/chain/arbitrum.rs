//! Arbitrum's backlog price (ArbOS): the part that can be computed without state.

/// Cap of the pricing exponent, basis points (ArbOS 50).
pub const MAX_EXPONENT_BPS: u64 = 85_000;

/// One in Arbitrum's fixed point.
const ONE_BPS: u64 = 10_000;

/// Terms of the Taylor series.
const ACCURACY: u64 = 4;

/// `e^(bips / 10000)` in basis points, by the degree-4 Taylor polynomial that ArbOS uses (not the true exponential: e² is
/// given as 7.0). A negative argument gives the reciprocal. Saturates.
///
/// Source: OffchainLabs/nitro `util/arbmath` `ApproxExpBasisPoints`. Vectors: `tests/vectors/fees.json`.
#[must_use]
pub const fn approx_exp_bps(bips: i64) -> u64 {
    let x = bips.unsigned_abs();
    let mut result = ONE_BPS.saturating_add(x / ACCURACY);
    let mut i = ACCURACY - 1;
    while i > 0 {
        result = ONE_BPS.saturating_add(result.saturating_mul(x) / (i * ONE_BPS));
        i -= 1;
    }
    // `result` is at least one, so the division is sound.
    if bips < 0 { ONE_BPS * ONE_BPS / result } else { result }
}

/// Highest base fee the pricing curve can reach above a floor of `min_base_fee`, wei per gas: the exponent is capped.
/// About 366 times the floor. Saturates.
#[must_use]
pub const fn max_base_fee(min_base_fee: u128) -> u128 {
    let factor = approx_exp_bps(MAX_EXPONENT_BPS as i64) as u128;
    let one = ONE_BPS as u128;
    // Quotient and remainder apart, so that the product overflows only where the result does; rounded up.
    (min_base_fee / one).saturating_mul(factor).saturating_add(((min_base_fee % one) * factor).div_ceil(one))
}
