//! Linea's pricing state in a header's extra data.

/// Layout version this build knows.
const VERSION: u8 = 1;
/// Length of the parsed part: version and three `u32`; the rest of the 32 is padding.
const LEN: usize = 13;
/// The fields are in kwei.
const WEI_PER_KWEI: u128 = 1_000;

/// Inputs of the least profitable tip: `min_margin × (variable_cost × compressed_size / gas_used + fixed_cost)`, wei
/// per gas. Live margins are not in the header, so ask `linea_estimateGas` for the price and use this for forecasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LineaPricing {
    /// Fixed cost, wei.
    pub fixed_cost_wei: u128,
    /// Variable cost, wei.
    pub variable_cost_wei: u128,
    /// Ethereum gas price, wei per gas.
    pub eth_gas_price_wei: u128,
}

/// Errors of a Linea header's extra data: a newer layout, or no Linea node. Keep the last values and alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineaExtraDataError {
    /// Too few bytes.
    #[error("extra data has {len} bytes, expected at least {expected}")]
    TooShort {
        /// Length, bytes.
        len: usize,
        /// Least length, bytes.
        expected: usize,
    },
    /// A layout this build does not know; upgrade.
    #[error("extra data version {version} is unknown, expected {expected}")]
    UnknownVersion {
        /// Version found (first byte).
        version: u8,
        /// Supported version.
        expected: u8,
    },
}

impl LineaPricing {
    /// Parses a header's `extraData`: version 1, then fixed cost, variable cost and Ethereum gas price as big-endian
    /// `u32` in kwei; the rest is ignored.
    ///
    /// Source: Consensys/linea-monorepo `ts-libs/sdk`. Vectors: `tests/vectors/fees.json`.
    ///
    /// # Errors
    /// [`LineaExtraDataError`] for a short or unknown layout.
    pub fn parse(extra_data: &[u8]) -> Result<Self, LineaExtraDataError> {
        let too_short = LineaExtraDataError::TooShort { len: extra_data.len(), expected: LEN };
        let head: &[u8; LEN] = extra_data.first_chunk().ok_or(too_short)?;
        let [version, fields @ ..] = head;
        if *version != VERSION {
            return Err(LineaExtraDataError::UnknownVersion { version: *version, expected: VERSION });
        }
        let wei = |at: usize| {
            let kwei = fields[at..at + 4].iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
            kwei * WEI_PER_KWEI
        };
        Ok(Self { fixed_cost_wei: wei(0), variable_cost_wei: wei(4), eth_gas_price_wei: wei(8) })
    }
}
