//! Sizes of a transaction that determine data fees.

/// EIP-2718 type byte of OP Stack deposits, which pay nothing.
const DEPOSIT_TYPE: u8 = 0x7E;

/// Bytes around the calldata of a signed type-2 transaction. Before it: type 1, list header 4, chain id 5, nonce 4, two
/// prices and the value of up to 8 bytes 27, gas limit 5, recipient 21, data header 4. Behind it: access list and signature.
const ENVELOPE_BYTES: [usize; 2] = [71, SIGNATURE_BYTES];
/// Empty access list, parity, `r` and `s`.
const SIGNATURE_BYTES: usize = 68;

/// Longest FastLZ literal run; each costs one control byte.
const LITERAL_RUN: u64 = 32;

/// Sizes of one transaction's EIP-2718 encoding, signature included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TxSize {
    /// Number of bytes.
    pub bytes: u64,
    /// Number of zero bytes.
    pub zeros: u64,
    /// Compressed length after FastLZ level 1, bytes.
    pub flz: u64,
    /// True if it pays no data fee: a deposit, or an empty encoding.
    pub is_exempt: bool,
}

impl TxSize {
    /// Exact sizes of `raw`, a signed EIP-2718 encoding.
    #[must_use]
    pub fn of_signed(raw: &[u8]) -> Self {
        let is_exempt = raw.first().is_none_or(|first| *first == DEPOSIT_TYPE);
        Self { is_exempt, ..Self::measure(raw) }
    }

    /// Sizes, before signing, of a type-2 transaction with this calldata: the longest usual envelope, of incompressible
    /// bytes. The signed transaction is seldom larger; compressed lengths are not additive, so a few bytes more are
    /// possible and belong to the margin.
    #[must_use]
    pub fn of_unsigned(calldata: &[u8]) -> Self {
        Self::measure(&Self::sketch(calldata))
    }

    /// The bytes that [`Self::of_unsigned`] measures, for an oracle that takes bytes. Not a transaction.
    #[must_use]
    pub fn sketch(calldata: &[u8]) -> Vec<u8> {
        let [head, tail] = ENVELOPE_BYTES;
        let mut raw = Vec::with_capacity(head + calldata.len() + tail);
        // A multiplicative sequence: never zero, no repeats of three bytes within the envelope.
        let mut state = 0x9E37_79B9_u32;
        let mut filler = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 | 1
        };
        raw.extend(core::iter::repeat_with(&mut filler).take(head));
        raw.extend_from_slice(calldata);
        raw.extend(core::iter::repeat_with(&mut filler).take(tail));
        raw
    }

    /// Upper bound for any transaction whose encoding has at most `bytes` bytes, signature included.
    #[must_use]
    pub const fn bound(bytes: u64) -> Self {
        Self { bytes, zeros: 0, flz: flz_bound(bytes), is_exempt: false }
    }

    /// Upper bound for any transaction whose encoding without signature has at most `bytes` bytes.
    #[must_use]
    pub const fn bound_unsigned(bytes: u64) -> Self {
        Self::bound(bytes.saturating_add(SIGNATURE_BYTES as u64))
    }

    fn measure(raw: &[u8]) -> Self {
        // More than `u32::MAX` bytes cannot be a transaction; the compressor counts in `u32`.
        let flz = if u32::try_from(raw.len()).is_ok() {
            u64::from(op_alloy_flz::flz_compress_len(raw))
        } else {
            flz_bound(raw.len() as u64)
        };
        let zeros = raw.iter().filter(|byte| **byte == 0).count() as u64;
        Self { bytes: raw.len() as u64, zeros, flz, is_exempt: false }
    }
}

/// Longest FastLZ output for `bytes` bytes: all literals, `n + ⌈n / 32⌉`. A match never costs more than it covers.
///
/// The `GasPriceOracle`'s `getL1FeeUpperBound` uses `n + n/255 + 16`, the bound of another format: above 549 bytes random
/// data compresses to more than that.
#[must_use]
pub const fn flz_bound(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(LITERAL_RUN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_and_deposits_are_exempt() {
        assert!(TxSize::of_signed(&[]).is_exempt);
        assert!(TxSize::of_signed(&[0x7E, 1]).is_exempt);
        assert!(!TxSize::of_signed(&[2, 0]).is_exempt);
    }

    #[test]
    fn the_filler_does_not_compress() {
        let empty = TxSize::of_unsigned(&[]);
        assert_eq!((empty.bytes, empty.zeros, empty.flz), (139, 0, flz_bound(139)));
    }

    proptest! {
        #[test]
        fn compression_stays_below_the_bound(data in prop::collection::vec(any::<u8>(), 0..4_000)) {
            let size = TxSize::of_signed(&data);
            prop_assert!(size.flz <= flz_bound(size.bytes), "{} > {}", size.flz, flz_bound(size.bytes));
        }

        #[test]
        fn repetitive_data_stays_below_the_bound(data in prop::collection::vec(0_u8..3, 0..4_000)) {
            let size = TxSize::of_signed(&data);
            prop_assert!(size.flz <= flz_bound(size.bytes));
        }

        /// Compares the sketch of an unsigned transaction with the signed one: at most slightly below.
        #[test]
        fn the_sketch_covers_the_signed(
            words in prop::collection::vec(prop_oneof![Just([0_u8; 32]), any::<[u8; 32]>()], 0..60),
            head in prop::collection::vec(any::<u8>(), 45..71),
            tail in prop::collection::vec(any::<u8>(), 65..68),
        ) {
            let calldata = words.concat();
            let signed = TxSize::of_signed(&[&[2_u8][..], &head[1..], &calldata, &tail].concat());
            let sketch = TxSize::of_unsigned(&calldata);
            prop_assert!(signed.bytes <= sketch.bytes && signed.flz <= sketch.flz + 16, "{signed:?} {sketch:?}");
        }
    }
}
