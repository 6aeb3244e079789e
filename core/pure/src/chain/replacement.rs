//! Replacement rules: the least fees of a second transaction with the same nonce (invariant I6).
//!
//! The rule is data of the chain. Its result must be accepted by every client that could stand behind the endpoint,
//! because a load balancer hides the client; `ClientRule` models each of them for the tests.

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use super::decimal;
use super::fees::{BlobFees, Fees};
use crate::protection::Protection;

/// Basis points in a whole.
const WHOLE_BPS: u128 = 10_000;

/// Prices that a chain's pools compare for a replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceComparison {
    /// Both caps of the old and the new transaction (geth, reth, erigon and their forks).
    Caps,
    /// Both caps, and also `min(cap, base + tip)` at the current base fee (besu, linea, nethermind). Use it where the
    /// client behind an endpoint is unknown. At base fee 20 gwei a tip of 1 gwei must then become 3.1 gwei.
    CapsAndEffective,
}

/// Replacement rule of a chain for a pending transaction.
///
/// Source: geth `core/txpool/legacypool`, reth `transaction-pool/src/config.rs`, besu
/// `TransactionReplacementByFeeMarketRule`, nethermind `CompareReplacedTxByFee`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", from = "ReplacementRuleInput")]
pub enum ReplacementRule {
    /// No pool, hence nothing to replace (Arbitrum): send the same bytes again.
    NoPool,
    /// Any same-nonce transaction overwrites a pending one without a price rule (ZK Stack). Treated as no replacement: a
    /// second variant would race the first instead of outbidding it.
    SilentOverwrite,
    /// Both caps must rise.
    Bump {
        /// Least increase of each price, basis points: 1000 is 10 %. The raised price is rounded up.
        bump_bps: u32,
        /// Added after rounding; 1 also satisfies clients that demand "strictly more than" the bumped price.
        #[serde(with = "decimal")]
        extra_wei_per_gas: u128,
        /// Least increase of all three prices of a blob transaction: 10000 doubles.
        blob_bump_bps: u32,
        /// Prices that the pools compare.
        compares: PriceComparison,
    },
}

/// [`ReplacementRule`] as read: serde refuses unknown keys only beside variants with braces.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum ReplacementRuleInput {
    NoPool {},
    SilentOverwrite {},
    Bump {
        bump_bps: u32,
        #[serde(with = "decimal")]
        extra_wei_per_gas: u128,
        blob_bump_bps: u32,
        compares: PriceComparison,
    },
}

impl From<ReplacementRuleInput> for ReplacementRule {
    fn from(input: ReplacementRuleInput) -> Self {
        use ReplacementRuleInput as In;
        match input {
            In::NoPool {} => Self::NoPool,
            In::SilentOverwrite {} => Self::SilentOverwrite,
            In::Bump { bump_bps, extra_wei_per_gas, blob_bump_bps, compares } => {
                Self::Bump { bump_bps, extra_wei_per_gas, blob_bump_bps, compares }
            }
        }
    }
}

/// Reasons why no replacement exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplacementError {
    /// The chain replaces nothing: rebroadcast the same bytes. A property of the chain, not a fault.
    #[error("this chain has no replacement of pending transactions")]
    NotSupported,
    /// The bumped price does not fit 128 bits: a bug of ours or a false claim of the source, since no real fee is near
    /// it.
    #[error("replacing a fee cap of {max_fee_per_gas} wei per gas overflows 128 bits")]
    Overflow {
        /// Cap of the transaction to be replaced.
        max_fee_per_gas: u128,
    },
}

impl ReplacementRule {
    /// +10 % and 1 wei on both caps: accepted by every geth-like pool.
    pub const CAPS: Self =
        Self::Bump { bump_bps: 1_000, extra_wei_per_gas: 1, blob_bump_bps: 10_000, compares: PriceComparison::Caps };

    /// [`Self::CAPS`], and the same on effective prices: accepted by every known client.
    pub const SAFE_EVERYWHERE: Self = Self::Bump {
        bump_bps: 1_000,
        extra_wei_per_gas: 1,
        blob_bump_bps: 10_000,
        compares: PriceComparison::CapsAndEffective,
    };

    /// True if a pending transaction can be outbid at all.
    #[must_use]
    pub const fn is_supported(&self) -> bool {
        matches!(self, Self::Bump { .. })
    }

    /// This rule restricted to the caps: the additional demands of other pools may not fit under a ceiling.
    #[must_use]
    pub const fn by_caps(self) -> Self {
        match self {
            Self::Bump { bump_bps, extra_wei_per_gas, blob_bump_bps, compares: _ } => {
                Self::Bump { bump_bps, extra_wei_per_gas, blob_bump_bps, compares: PriceComparison::Caps }
            }
            other => other,
        }
    }

    /// Smallest fees that every pool of this chain accepts in place of `old`; `None` when the chain has no replacement
    /// or the price would overflow. [`Self::replacement`] tells the two apart.
    ///
    /// `base_fee`, wei per gas, should be the *highest* that the receiving node may hold (the bound on the next block's):
    /// the answer is then accepted at every lower base fee too, but not at a higher one where effective prices count.
    /// `old` must be the highest fees that a node may hold for the nonce; after a definite refusal pass the same `old`
    /// again, or prices ratchet.
    #[must_use]
    pub fn min_replacement(&self, old: Fees, base_fee: u128) -> Option<Fees> {
        self.replacement(old, base_fee).ok()
    }

    /// Smallest fees that every pool of this chain accepts in place of `old`. See [`Self::min_replacement`].
    ///
    /// `cap' = ⌈cap·(1+b)⌉ + e`, `tip' = ⌈tip·(1+b)⌉ + e`; where effective prices count also
    /// `tip' ≥ ⌈tip·(1+b) + base·b⌉ + e` and `cap' ≥ base + tip'`. At a tip of 100 gwei and no effective prices the bump
    /// is 110 gwei and 1 wei. The tip never exceeds the cap.
    ///
    /// # Errors
    /// [`ReplacementError::NotSupported`] on chains without a pool; [`ReplacementError::Overflow`] near 2^128.
    pub fn replacement(&self, old: Fees, base_fee: u128) -> Result<Fees, ReplacementError> {
        let Self::Bump { bump_bps, extra_wei_per_gas, compares, .. } = *self else {
            return Err(ReplacementError::NotSupported);
        };
        bump(old, base_fee, bump_bps, extra_wei_per_gas, compares)
            .ok_or(ReplacementError::Overflow { max_fee_per_gas: old.max_fee_per_gas })
    }

    /// Smallest fees that replace a pending blob transaction: all three prices rise by `blob_bump_bps` (2·old + 1).
    ///
    /// # Errors
    /// As [`Self::replacement`].
    pub fn blob_replacement(&self, old: BlobFees, base_fee: u128) -> Result<BlobFees, ReplacementError> {
        let Self::Bump { blob_bump_bps, extra_wei_per_gas, compares, .. } = *self else {
            return Err(ReplacementError::NotSupported);
        };
        let fees = bump(old.fees, base_fee, blob_bump_bps, extra_wei_per_gas, compares);
        let blob = raise(old.max_fee_per_blob_gas, blob_bump_bps, extra_wei_per_gas);
        match (fees, blob) {
            (Some(fees), Some(max_fee_per_blob_gas)) => Ok(BlobFees { fees, max_fee_per_blob_gas }),
            _ => Err(ReplacementError::Overflow { max_fee_per_gas: old.fees.max_fee_per_gas }),
        }
    }
}

fn bump(old: Fees, base_fee: u128, bump_bps: u32, extra: u128, compares: PriceComparison) -> Option<Fees> {
    let mut tip = raise(old.max_priority_fee_per_gas, bump_bps, extra)?;
    let mut cap = raise(old.max_fee_per_gas, bump_bps, extra)?;
    if compares == PriceComparison::CapsAndEffective {
        // base + tip' ≥ (1+b)·(base + tip) ≥ (1+b)·min(cap, base + tip); the cap must not cut it off.
        let factor = U256::from(WHOLE_BPS + u128::from(bump_bps));
        let wanted = U256::from(old.max_priority_fee_per_gas) * factor + U256::from(base_fee) * U256::from(bump_bps);
        let wanted = u128::try_from(wanted.div_ceil(U256::from(WHOLE_BPS))).ok()?.checked_add(extra)?;
        tip = tip.max(wanted);
        cap = cap.max(base_fee.checked_add(tip)?);
    }
    // Only a malformed `old` (tip above cap) needs this.
    cap = cap.max(tip);
    Some(Fees::new(cap, tip))
}

/// `⌈price·(1 + bump)⌉ + extra`; `None` beyond 128 bits.
fn raise(price: u128, bump_bps: u32, extra: u128) -> Option<u128> {
    let factor = U256::from(WHOLE_BPS + u128::from(bump_bps));
    if !Protection::CeilReplacement.is_on() {
        return u128::try_from(U256::from(price) * factor / U256::from(WHOLE_BPS)).ok();
    }
    let raised = (U256::from(price) * factor).div_ceil(U256::from(WHOLE_BPS));
    u128::try_from(raised).ok()?.checked_add(extra)
}

/// One client's rule for replacing a pending transaction. Models for tests and the simulator; the relayer itself
/// follows [`ReplacementRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ClientRule {
    /// geth, op-geth, bor: both prices strictly greater, and each at least `old·110 // 100`.
    Geth,
    /// reth, op-reth: cap at least `⌈old·1.1⌉`, and the tip where both tips are non-zero.
    Reth,
    /// Early reth: as [`Self::Reth`] with "more than" instead of "at least", rounded down.
    RethOld,
    /// erigon: both prices at least `old·110 // 100`.
    Erigon,
    /// besu, linea: effective price bumped by 10 % and the effective tip no lower; or equal effective price and the
    /// effective tip bumped.
    Besu,
    /// nethermind comparing both caps with `old + old // 10`, equality counting only if the increase is not 0.
    Nethermind,
    /// nethermind comparing the "gas bottleneck", the effective price, in the same way.
    NethermindOld,
    /// ethrex: both prices strictly greater.
    Ethrex,
    /// anvil 1.7.1: cap strictly greater.
    Anvil,
    /// ZK Stack: always, while the old one is not in a block.
    ZkStack,
    /// Arbitrum: never, there is no pool.
    Arbitrum,
}

impl ClientRule {
    /// All clients' rules that compare prices.
    pub const PRICED: [Self; 9] = [
        Self::Geth,
        Self::Reth,
        Self::RethOld,
        Self::Erigon,
        Self::Besu,
        Self::Nethermind,
        Self::NethermindOld,
        Self::Ethrex,
        Self::Anvil,
    ];

    /// True if this client's pool accepts `new` in place of `old` at `base_fee` (wei per gas).
    #[must_use]
    pub fn accepts(self, old: Fees, new: Fees, base_fee: u128) -> bool {
        if !new.is_well_formed() {
            return false;
        }
        let (cap, tip) = (new.max_fee_per_gas, new.max_priority_fee_per_gas);
        let (old_cap, old_tip) = (old.max_fee_per_gas, old.max_priority_fee_per_gas);
        let (price, old_price) = (new.effective_gas_price(base_fee), old.effective_gas_price(base_fee));
        let floor = |old: u128| U256::from(old) * U256::from(110) / U256::from(100);
        let at_least = |new: u128, bound: U256| U256::from(new) >= bound;
        // Besu: `old·110 <= new·100`, which rounds up; reth's `⌈old·1.1⌉` is the same condition.
        let bumped = |new: u128, old: u128| U256::from(old) * U256::from(110) <= U256::from(new) * U256::from(100);
        let tenth_more = |new: u128, old: u128| {
            let bound = U256::from(old) + U256::from(old / 10);
            U256::from(new) > bound || (U256::from(new) == bound && old / 10 > 0)
        };
        match self {
            Self::Geth => {
                cap > old_cap && tip > old_tip && at_least(cap, floor(old_cap)) && at_least(tip, floor(old_tip))
            }
            Self::Reth => bumped(cap, old_cap) && (tip == 0 || old_tip == 0 || bumped(tip, old_tip)),
            Self::RethOld => {
                U256::from(cap) > floor(old_cap) && (tip == 0 || old_tip == 0 || U256::from(tip) > floor(old_tip))
            }
            Self::Erigon => at_least(cap, floor(old_cap)) && at_least(tip, floor(old_tip)),
            Self::Besu => {
                let (effective, old_effective) = (new.effective_tip(base_fee), old.effective_tip(base_fee));
                if bumped(price, old_price) {
                    effective >= old_effective
                } else {
                    price == old_price && bumped(effective, old_effective)
                }
            }
            Self::Nethermind => old_cap == 0 || (tenth_more(cap, old_cap) && tenth_more(tip, old_tip)),
            Self::NethermindOld => old_cap == 0 || tenth_more(price, old_price),
            Self::Ethrex => cap > old_cap && tip > old_tip,
            Self::Anvil => cap > old_cap,
            Self::ZkStack => true,
            Self::Arbitrum => false,
        }
    }

    /// True if this client's blob pool accepts `new` in place of `old`: all three prices at least doubled (geth
    /// `core/txpool/blobpool`), and the ordinary rule besides.
    #[must_use]
    pub fn accepts_blob(self, old: BlobFees, new: BlobFees, base_fee: u128) -> bool {
        let doubled = |new: u128, old: u128| U256::from(new) >= U256::from(old) * U256::from(2);
        self.accepts(old.fees, new.fees, base_fee)
            && (matches!(self, Self::Anvil | Self::ZkStack)
                || (doubled(new.fees.max_fee_per_gas, old.fees.max_fee_per_gas)
                    && doubled(new.fees.max_priority_fee_per_gas, old.fees.max_priority_fee_per_gas)
                    && doubled(new.max_fee_per_blob_gas, old.max_fee_per_blob_gas)))
    }
}

#[cfg(test)]
mod tests;
