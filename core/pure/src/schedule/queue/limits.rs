//! Limits of a transaction.

use std::time::Duration;

use alloy_primitives::U256;

use super::entry::QueuedRequest;
use crate::{
    request::vehicle::{BATCH_MARGIN_GAS, VehicleKey},
    time::Timestamp,
};

/// Limits of a transaction, and the prices that it would offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComposeLimits {
    /// Most members of a batch.
    pub max_batch: usize,
    /// Most gas, base gas included.
    pub max_gas: u64,
    /// Most bytes.
    pub max_bytes: usize,
    /// Gas of an empty transaction that may be shared ([`VehicleParams::base_gas`](crate::request::vehicle::VehicleParams::base_gas)).
    pub base_gas: u64,
    /// Expected cost of a transaction before its first member, wei: its base gas at the next block's price, and its
    /// envelope's L1 data. Each request that joins saves it. 0: company saves nothing and is not waited for.
    pub setup_wei: u128,
    /// Expected gas price in the next block, wei per gas.
    pub price_wei_per_gas: u128,
    /// Expected cost of one more byte beyond gas, wei.
    pub data_wei_per_byte: u128,
    /// Cost of waiting for company through all of a request's slack, percent of its cost alone. 0: waiting costs
    /// nothing and lasts [`Self::linger`].
    pub waiting_cost_percent: u32,
    /// Longest wait for company since acceptance, whatever the saving; never more than a quarter of a request's slack.
    pub linger: Duration,
    /// Slack below which no request waits for price or fairness. It still waits for company: a chain whose requests are
    /// all urgent would never batch otherwise.
    pub urgent: Duration,
    /// Base fee of the next block, lower bound, wei per gas.
    pub next_base_fee: u128,
    /// Highest fee that an attempt would offer, wei per gas.
    pub quote_max_fee: u128,
    /// Most transactions of the lane in flight: the capacity shared by tenants.
    pub slots: usize,
    /// Lowest price of inclusion in the next block, tip included, wei per gas.
    pub next_price: u128,
    /// Most gas limit × fee cap that nodes accept, wei; `None` if unknown.
    pub fee_cap_wei: Option<u128>,
    /// Balance of the lane less everything in flight, wei; `None` if unknown.
    pub available_wei: Option<U256>,
    /// Gas of a block, which tenants share like slots; `None` if unknown.
    pub block_gas: Option<u64>,
}

/// Room for two bumps of a tenth each that a batch leaves under the nodes' fee cap, as a factor: 121 %.
const BUMP_ROOM_PERCENT: u128 = 121;

/// Safety factor for data costs: the balance must hold this multiple of the expected cost.
const DATA_ROOM: u128 = 4;

/// Size of one whole transaction; its members have parts of it.
pub(super) const WHOLE: u64 = 1_000_000;

impl ComposeLimits {
    /// These limits for transactions of kind `key`.
    pub(super) fn of_vehicle(&self, key: VehicleKey) -> Self {
        // Without the margin for shared ones: the balance need not cover gas that is never offered.
        let spare = if key.is_lone() { BATCH_MARGIN_GAS } else { 0 };
        Self { base_gas: self.base_gas.saturating_sub(spare), ..*self }
    }

    /// Highest fee that a transaction under `ceiling` may offer, bumps included, wei per gas.
    pub(super) fn bumped_fee(&self, ceiling: u128) -> u128 {
        (self.quote_max_fee.saturating_mul(BUMP_ROOM_PERCENT) / 100).max(self.next_price).min(ceiling)
    }

    /// Size of a transaction in millionths of a slot: one slot, or, if larger, its share of the gas available to all
    /// slots together.
    pub(super) fn size(&self, gas: u64) -> u64 {
        let Some(block_gas) = self.block_gas.filter(|gas| *gas > 0) else { return WHOLE };
        // Twice a block's gas: one block fills while the next is sent.
        let part = u128::from(gas) * u128::from(WHOLE) * (self.slots as u128) / (2 * u128::from(block_gas));
        u64::try_from(part).unwrap_or(u64::MAX).max(WHOLE)
    }

    /// True if `gas` at the next block's price exceeds the nodes' fee cap.
    pub fn is_too_dear(&self, gas: u64) -> bool {
        self.fee_cap_wei.is_some_and(|cap| u128::from(gas).saturating_mul(self.next_price) > cap)
    }

    /// True if the lane's balance does not cover `needed_wei`.
    pub(super) fn is_short(&self, needed_wei: U256) -> bool {
        self.available_wei.is_some_and(|available| needed_wei > available)
    }

    /// Shortfall of the balance for `entry` alone; `None` if the balance covers it or the base fee exceeds its ceiling.
    pub(super) fn short_of(&self, entry: &QueuedRequest) -> Option<Short> {
        let ceiling = entry.ceiling_wei_per_gas;
        let gas = self.base_gas.saturating_add(entry.gas);
        let needed_wei = self.worst_wei(gas, entry.bytes, entry.request.value(), ceiling);
        let is_short = ceiling >= self.next_base_fee && self.is_short(needed_wei);
        is_short.then(|| Short { needed_wei, until: entry.request.valid_until() })
    }

    /// True if price and balance let `entry` go in a transaction of its own.
    pub(super) fn can_go_alone(&self, entry: &QueuedRequest) -> bool {
        entry.ceiling_wei_per_gas >= self.next_base_fee
            && !self.is_too_dear(self.base_gas.saturating_add(entry.gas))
            && self.short_of(entry).is_none()
    }

    /// Balance needed for a transaction, wei.
    pub(super) fn worst_wei(&self, gas: u64, bytes: usize, value: U256, ceiling: u128) -> U256 {
        let price = U256::from(self.quote_max_fee.min(ceiling));
        let data = self.data_wei_per_byte.saturating_mul(bytes as u128).saturating_mul(DATA_ROOM);
        U256::from(gas).saturating_mul(price).saturating_add(value).saturating_add(U256::from(data))
    }

    /// Expected cost of a request besides its transaction's setup, wei.
    pub(in crate::schedule) fn own_wei(&self, entry: &QueuedRequest) -> u128 {
        let gas = u128::from(entry.gas).saturating_mul(self.price_wei_per_gas);
        gas.saturating_add((entry.bytes as u128).saturating_mul(self.data_wei_per_byte))
    }
}

/// Shortage of money found by the last composition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Smallest balance that one of the requests needs, wei.
    pub needed_wei: U256,
    /// Latest of their deadlines.
    pub until: Timestamp,
}

impl Short {
    pub(super) fn and(self, other: Self) -> Self {
        Self { needed_wei: self.needed_wei.min(other.needed_wei), until: self.until.max(other.until) }
    }
}
