//! Chain families: the fee components of a transaction.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of chain. Determines the fee components and the pool's behaviour, never a number: numbers are in
/// [`super::ChainSpec`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainFamily {
    /// Ethereum and plain EVM chains: base fee and tip.
    Ethereum,
    /// OP Stack: also an L1 data fee and an operator fee, in wei beyond `gas × price`.
    OpStack,
    /// Arbitrum Nitro: L1 poster fee as extra gas; no pool, no replacement, tips dropped.
    Arbitrum,
    /// ZK Stack: pubdata as extra gas; a same-nonce transaction replaces in silence.
    ZkStack,
    /// Scroll: also an L1 data fee, in wei beyond `gas × price`.
    Scroll,
    /// Linea: data cost hidden in the least profitable tip.
    Linea,
    /// Polygon PoS (bor): base fee within a bound, high minimum tip.
    Polygon,
    /// A local anvil node.
    Anvil,
}

impl ChainFamily {
    /// Stable name in configuration and API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ethereum => "ethereum",
            Self::OpStack => "op_stack",
            Self::Arbitrum => "arbitrum",
            Self::ZkStack => "zk_stack",
            Self::Scroll => "scroll",
            Self::Linea => "linea",
            Self::Polygon => "polygon",
            Self::Anvil => "anvil",
        }
    }

    /// True if a transaction's cost or gas limit depends on L1 prices, which must be read from the chain.
    #[must_use]
    pub const fn has_data_fee(self) -> bool {
        matches!(self, Self::OpStack | Self::Arbitrum | Self::Scroll)
    }
}

impl fmt::Display for ChainFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
