//! OP Stack EIP-1559 parameters in a header's extra data (Holocene, Jovian).

/// Version byte and length of the Holocene layout: version, denominator `u32`, elasticity `u32`.
const HOLOCENE: (u8, usize) = (0, 9);
/// Version byte and length of the Jovian layout: Holocene's, then the minimum base fee `u64`.
const JOVIAN: (u8, usize) = (1, 17);

/// Base fee parameters that an OP Stack header carries for its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpBaseFeeParams {
    /// Change denominator; not 0.
    pub denominator: u32,
    /// Elasticity; not 0.
    pub elasticity: u32,
    /// Minimum base fee, wei per gas; `None` before Jovian.
    pub min_base_fee: Option<u64>,
}

/// Errors of an OP Stack header's extra data. The chain has forked beyond this build or the node is not OP Stack: keep
/// the last known parameters and alert; never guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpExtraDataError {
    /// No extra data: the header is older than Holocene.
    #[error("extra data is empty")]
    Empty,
    /// A layout this build does not know; upgrade.
    #[error("extra data version {version} is unknown, {len} bytes")]
    UnknownVersion {
        /// Version found (first byte).
        version: u8,
        /// Length, bytes.
        len: usize,
    },
    /// A known version with the wrong number of bytes.
    #[error("extra data version {version} has {len} bytes, expected {expected}")]
    WrongLength {
        /// Version found (first byte).
        version: u8,
        /// Length, bytes.
        len: usize,
        /// Length of this version, bytes.
        expected: usize,
    },
    /// A header must hold resolved, non-zero values.
    #[error("extra data has denominator {denominator} and elasticity {elasticity}, neither may be 0")]
    ZeroParameter {
        /// Denominator found.
        denominator: u32,
        /// Elasticity found.
        elasticity: u32,
    },
}

impl OpBaseFeeParams {
    /// Parses a header's `extraData`.
    ///
    /// Version 0 (Holocene) is 9 bytes, version 1 (Jovian) 17; integers are big-endian.
    ///
    /// Source: OP Stack specs, Holocene and Jovian `exec-engine`. Vectors: `tests/vectors/fees.json`.
    ///
    /// # Errors
    /// [`OpExtraDataError`] for anything else; nothing is guessed.
    pub fn parse(extra_data: &[u8]) -> Result<Self, OpExtraDataError> {
        let len = extra_data.len();
        let &version = extra_data.first().ok_or(OpExtraDataError::Empty)?;
        let expected = match version {
            v if v == HOLOCENE.0 => HOLOCENE.1,
            v if v == JOVIAN.0 => JOVIAN.1,
            _ => return Err(OpExtraDataError::UnknownVersion { version, len }),
        };
        let wrong_length = OpExtraDataError::WrongLength { version, len, expected };
        if len != expected {
            return Err(wrong_length);
        }
        let u32_at = |at: usize| -> Result<u32, OpExtraDataError> {
            let bytes = extra_data.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(wrong_length)?;
            Ok(u32::from_be_bytes(bytes))
        };
        let (denominator, elasticity) = (u32_at(1)?, u32_at(5)?);
        if denominator == 0 || elasticity == 0 {
            return Err(OpExtraDataError::ZeroParameter { denominator, elasticity });
        }
        let min_base_fee = match version {
            v if v == JOVIAN.0 => {
                let bytes = extra_data.get(9..17).and_then(|b| b.try_into().ok()).ok_or(wrong_length)?;
                Some(u64::from_be_bytes(bytes))
            }
            _ => None,
        };
        Ok(Self { denominator, elasticity, min_base_fee })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_layouts_are_refused() {
        use OpExtraDataError as E;
        assert_eq!(OpBaseFeeParams::parse(&[]), Err(E::Empty));
        assert_eq!(OpBaseFeeParams::parse(&[2; 9]), Err(E::UnknownVersion { version: 2, len: 9 }));
        assert_eq!(OpBaseFeeParams::parse(&[0; 8]), Err(E::WrongLength { version: 0, len: 8, expected: 9 }));
        assert_eq!(OpBaseFeeParams::parse(&[0; 17]), Err(E::WrongLength { version: 0, len: 17, expected: 9 }));
        assert_eq!(OpBaseFeeParams::parse(&[1; 9]), Err(E::WrongLength { version: 1, len: 9, expected: 17 }));
        assert_eq!(OpBaseFeeParams::parse(&[0; 9]), Err(E::ZeroParameter { denominator: 0, elasticity: 0 }));
    }
}
