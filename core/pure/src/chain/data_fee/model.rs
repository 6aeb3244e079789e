//! The data fee model of one chain, with the parameters of one block.

use alloy_primitives::U256;

use super::{ArbitrumPoster, OpFork, OpL1Params, PosterGas, ScrollFork, ScrollL1Params, TxSize};

/// Data fee model of a chain, as of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DataFeeModel {
    /// No separate charge: none, or inside the gas price (Ethereum, Polygon, Linea, anvil) or inside the gas that nodes
    /// estimate (ZK Stack).
    #[default]
    None,
    /// OP Stack: wei beyond gas.
    OpStack(OpFork, OpL1Params),
    /// Arbitrum: gas.
    Arbitrum(ArbitrumPoster),
    /// Scroll: wei beyond gas.
    Scroll(ScrollFork, ScrollL1Params),
    /// A contract quotes each transaction: its newest quote, wei beyond gas.
    Quoted(U256),
}

impl DataFeeModel {
    /// Expected L1 data fee, wei beyond gas. On Scroll FastLZ stands for zstd, which compresses better.
    #[must_use]
    pub fn data_fee(&self, size: &TxSize) -> U256 {
        match self {
            Self::None | Self::Arbitrum(_) => U256::ZERO,
            Self::OpStack(fork, params) => params.l1_data_fee(*fork, size),
            Self::Scroll(fork, params) => params.data_fee(*fork, size, size.flz),
            Self::Quoted(wei) => *wei,
        }
    }

    /// Highest L1 data fee at these parameters, wei beyond gas: as [`Self::data_fee`] if the chain's own measure is
    /// known, otherwise without compression.
    #[must_use]
    pub fn data_fee_bound(&self, size: &TxSize) -> U256 {
        match self {
            Self::Scroll(fork, params) => params.data_fee_bound(*fork, size),
            Self::None | Self::Arbitrum(_) | Self::OpStack(..) | Self::Quoted(_) => self.data_fee(size),
        }
    }

    /// Operator fee for `gas`, wei beyond gas.
    #[must_use]
    pub fn operator_fee(&self, gas: u64) -> U256 {
        match self {
            Self::OpStack(fork, params) => params.operator_fee(*fork, gas),
            Self::None | Self::Arbitrum(_) | Self::Scroll(..) | Self::Quoted(_) => U256::ZERO,
        }
    }

    /// Gas for Arbitrum's poster, to add to the execution gas.
    #[must_use]
    pub fn poster_gas(&self, size: &TxSize) -> PosterGas {
        match self {
            Self::Arbitrum(poster) => poster.gas_guess(size),
            Self::None | Self::OpStack(..) | Self::Scroll(..) | Self::Quoted(_) => PosterGas::default(),
        }
    }
}
