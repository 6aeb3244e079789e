//! OP Stack L1 fee parameters: from the attributes transaction that opens each block, or from `L1Block`'s storage.

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use super::NONZERO_BYTE_GAS;

/// OP Stack forks that changed a transaction's cost beyond gas. Canyon and Delta price like Regolith, Granite and
/// Holocene like Fjord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpFork {
    /// Calldata gas, 68 bytes counted twice.
    Bedrock,
    /// Calldata gas.
    Regolith,
    /// Blob prices.
    Ecotone,
    /// FastLZ sizes.
    Fjord,
    /// Operator fee.
    Isthmus,
    /// Operator fee in larger units, DA footprint.
    Jovian,
}

/// L1 prices as known to the L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OpL1Params {
    /// L1 base fee, wei per gas.
    pub l1_base_fee: U256,
    /// Bedrock: gas added to every transaction.
    pub overhead: U256,
    /// Bedrock: multiplier, six decimals.
    pub scalar: U256,
    /// Ecotone: weight of the L1 base fee, six decimals.
    pub base_fee_scalar: u32,
    /// Ecotone: L1 blob base fee, wei per blob gas.
    pub blob_base_fee: U256,
    /// Ecotone: weight of the blob base fee, six decimals.
    pub blob_base_fee_scalar: u32,
    /// Isthmus: wei per gas, in the fork's unit.
    pub operator_fee_scalar: u32,
    /// Isthmus: wei per transaction.
    pub operator_fee_constant: u64,
    /// Jovian: gas per byte of DA footprint; 0 stands for the default.
    pub da_footprint_gas_scalar: u16,
}

/// The words of `L1Block`'s storage that hold fee parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct L1BlockSlots {
    /// L1 base fee.
    pub slot1: U256,
    /// Ecotone scalars.
    pub slot3: U256,
    /// Bedrock overhead.
    pub slot5: U256,
    /// Bedrock scalar.
    pub slot6: U256,
    /// Blob base fee.
    pub slot7: U256,
    /// Operator fee and DA footprint.
    pub slot8: U256,
}

impl L1BlockSlots {
    /// The slots' numbers, in the order of the fields.
    pub const NUMBERS: [u64; 6] = [1, 3, 5, 6, 7, 8];
}

impl From<L1BlockSlots> for OpL1Params {
    /// Source: `L1Block.sol`; op-revm `constants.rs`. Offsets count bytes from the most significant.
    fn from(slots: L1BlockSlots) -> Self {
        let (scalars, operator) = (slots.slot3.to_be_bytes::<32>(), slots.slot8.to_be_bytes::<32>());
        Self {
            l1_base_fee: slots.slot1,
            overhead: slots.slot5,
            scalar: slots.slot6,
            base_fee_scalar: integer(&scalars[16..20]) as u32,
            blob_base_fee: slots.slot7,
            blob_base_fee_scalar: integer(&scalars[20..24]) as u32,
            operator_fee_scalar: integer(&operator[20..24]) as u32,
            operator_fee_constant: integer(&operator[24..32]),
            da_footprint_gas_scalar: integer(&operator[18..20]) as u16,
        }
    }
}

/// At most eight big-endian bytes.
fn integer(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Errors of parsing an L1 attributes transaction. The chain has forked beyond this build, or is no OP Stack: keep the
/// last parameters and alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum L1AttributesError {
    /// Fewer than four bytes.
    #[error("attributes have {len} bytes, not even a selector")]
    TooShort {
        /// Length, bytes.
        len: usize,
    },
    /// A function this build does not know; upgrade.
    #[error("attributes selector {selector:#010x} is unknown")]
    UnknownSelector {
        /// Selector found (first four bytes).
        selector: u32,
    },
    /// A known function with the wrong number of bytes.
    #[error("attributes {selector:#010x} have {len} bytes, expected {expected}")]
    WrongLength {
        /// Selector found (first four bytes).
        selector: u32,
        /// Length, bytes.
        len: usize,
        /// Length of this function's calldata, bytes.
        expected: usize,
    },
}

/// Selectors and lengths of the attributes transaction.
const BEDROCK: (u32, usize) = (0x015d_8eb9, 4 + 8 * 32);
const ECOTONE: (u32, usize) = (0x440a_5e20, 164);
const ISTHMUS: (u32, usize) = (0x0989_99be, 176);
const JOVIAN: (u32, usize) = (0x3db6_be2b, 178);

impl OpL1Params {
    /// Parses the calldata of a block's first transaction, `L1Block.setL1BlockValues…`. Also returns the *least* fork
    /// that writes this layout: Bedrock's is also Regolith's, Ecotone's also Fjord's.
    ///
    /// Source: OP Stack specs, `deposits` and each fork's `l1-attributes`.
    ///
    /// # Errors
    /// [`L1AttributesError`] for anything else; nothing is guessed.
    pub fn parse_attributes(calldata: &[u8]) -> Result<(OpFork, Self), L1AttributesError> {
        let len = calldata.len();
        let selector = calldata.first_chunk::<4>().ok_or(L1AttributesError::TooShort { len })?;
        let selector = u32::from_be_bytes(*selector);
        let (fork, expected) = match selector {
            s if s == BEDROCK.0 => (OpFork::Bedrock, BEDROCK.1),
            s if s == ECOTONE.0 => (OpFork::Ecotone, ECOTONE.1),
            s if s == ISTHMUS.0 => (OpFork::Isthmus, ISTHMUS.1),
            s if s == JOVIAN.0 => (OpFork::Jovian, JOVIAN.1),
            _ => return Err(L1AttributesError::UnknownSelector { selector }),
        };
        if len != expected {
            return Err(L1AttributesError::WrongLength { selector, len, expected });
        }
        let word = |at: usize| U256::from_be_slice(&calldata[at..at + 32]);
        if fork == OpFork::Bedrock {
            // number, timestamp, base fee, hash, sequence number, batcher, overhead, scalar
            let word = |index: usize| word(4 + 32 * index);
            return Ok((fork, Self { l1_base_fee: word(2), overhead: word(6), scalar: word(7), ..Self::default() }));
        }
        let mut params = Self {
            base_fee_scalar: integer(&calldata[4..8]) as u32,
            blob_base_fee_scalar: integer(&calldata[8..12]) as u32,
            l1_base_fee: word(36),
            blob_base_fee: word(68),
            ..Self::default()
        };
        if fork >= OpFork::Isthmus {
            params.operator_fee_scalar = integer(&calldata[164..168]) as u32;
            params.operator_fee_constant = integer(&calldata[168..176]);
        }
        if fork >= OpFork::Jovian {
            params.da_footprint_gas_scalar = integer(&calldata[176..178]) as u16;
        }
        Ok((fork, params))
    }

    /// `16 × l1_base_fee × base_fee_scalar + blob_base_fee × blob_base_fee_scalar`: wei per compressed byte, six decimals.
    pub(super) fn price_per_byte_e6(&self) -> U256 {
        let calldata = self.l1_base_fee.saturating_mul(U256::from(NONZERO_BYTE_GAS * u64::from(self.base_fee_scalar)));
        let blob = self.blob_base_fee.saturating_mul(U256::from(self.blob_base_fee_scalar));
        calldata.saturating_add(blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: OpL1Params = OpL1Params {
        l1_base_fee: U256::from_limbs([1_055_991_687, 0, 0, 0]),
        overhead: U256::ZERO,
        scalar: U256::ZERO,
        base_fee_scalar: 5_227,
        blob_base_fee: U256::from_limbs([1, 0, 0, 0]),
        blob_base_fee_scalar: 1_014_213,
        operator_fee_scalar: 7,
        operator_fee_constant: 11,
        da_footprint_gas_scalar: 400,
    };

    /// Packed attributes as `L1Block.setL1BlockValuesJovian` takes them.
    fn jovian(params: &OpL1Params) -> Vec<u8> {
        let mut data = JOVIAN.0.to_be_bytes().to_vec();
        data.extend(params.base_fee_scalar.to_be_bytes());
        data.extend(params.blob_base_fee_scalar.to_be_bytes());
        data.extend([0xAA; 24]);
        data.extend(params.l1_base_fee.to_be_bytes::<32>());
        data.extend(params.blob_base_fee.to_be_bytes::<32>());
        data.extend([0xBB; 64]);
        data.extend(params.operator_fee_scalar.to_be_bytes());
        data.extend(params.operator_fee_constant.to_be_bytes());
        data.extend(params.da_footprint_gas_scalar.to_be_bytes());
        data
    }

    #[test]
    fn attributes_of_each_fork() {
        let data = jovian(&SAMPLE);
        assert_eq!(OpL1Params::parse_attributes(&data), Ok((OpFork::Jovian, SAMPLE)));
        let mut isthmus = data[..176].to_vec();
        isthmus[..4].copy_from_slice(&ISTHMUS.0.to_be_bytes());
        let expect = OpL1Params { da_footprint_gas_scalar: 0, ..SAMPLE };
        assert_eq!(OpL1Params::parse_attributes(&isthmus), Ok((OpFork::Isthmus, expect)));
        let mut ecotone = data[..164].to_vec();
        ecotone[..4].copy_from_slice(&ECOTONE.0.to_be_bytes());
        let expect = OpL1Params { operator_fee_scalar: 0, operator_fee_constant: 0, ..expect };
        assert_eq!(OpL1Params::parse_attributes(&ecotone), Ok((OpFork::Ecotone, expect)));

        let mut bedrock = BEDROCK.0.to_be_bytes().to_vec();
        for word in 0..8_u64 {
            bedrock.extend(U256::from(word).to_be_bytes::<32>());
        }
        let expect = OpL1Params {
            l1_base_fee: U256::from(2),
            overhead: U256::from(6),
            scalar: U256::from(7),
            ..OpL1Params::default()
        };
        assert_eq!(OpL1Params::parse_attributes(&bedrock), Ok((OpFork::Bedrock, expect)));
    }

    #[test]
    fn unknown_attributes_are_refused() {
        use L1AttributesError as E;
        assert_eq!(OpL1Params::parse_attributes(&[1, 2, 3]), Err(E::TooShort { len: 3 }));
        assert_eq!(OpL1Params::parse_attributes(&[0; 200]), Err(E::UnknownSelector { selector: 0 }));
        let mut data = jovian(&SAMPLE);
        data.push(0);
        let selector = JOVIAN.0;
        assert_eq!(OpL1Params::parse_attributes(&data), Err(E::WrongLength { selector, len: 179, expected: 178 }));
    }

    #[test]
    fn storage_says_the_same_as_the_attributes() {
        let slots = L1BlockSlots {
            slot1: SAMPLE.l1_base_fee,
            slot3: (U256::from(SAMPLE.base_fee_scalar) << 96)
                | (U256::from(SAMPLE.blob_base_fee_scalar) << 64)
                | U256::from(9),
            slot7: SAMPLE.blob_base_fee,
            slot8: (U256::from(SAMPLE.da_footprint_gas_scalar) << 96)
                | (U256::from(SAMPLE.operator_fee_scalar) << 64)
                | U256::from(SAMPLE.operator_fee_constant),
            ..L1BlockSlots::default()
        };
        assert_eq!(OpL1Params::from(slots), SAMPLE);
    }
}
