//! Chain data that vehicles need.

use alloy_primitives::Address;

use crate::chain::GasSchedule;

/// Chain data that vehicles need.
#[derive(Debug, Clone, Copy)]
pub struct VehicleParams {
    /// Refund receiver of `executeBatch`: the lane's sender.
    pub sender: Address,
    /// Multicall3 on this chain; `None` unless its known code was seen.
    pub multicall3: Option<Address>,
    /// True if `CappedCalls` is at its address on this chain: its known code was seen.
    pub has_capped_calls: bool,
    /// Intrinsic gas and calldata floor.
    pub schedule: GasSchedule,
    /// Overhead of the forwarder per request, gas: recovery, nonce write, trust check, event.
    pub forward_overhead_gas: u64,
}

/// Gas beyond the members: dispatch, refund call, loop. A call that travels alone needs none of it.
pub const BATCH_MARGIN_GAS: u64 = 30_000;

impl VehicleParams {
    /// Gas of a transaction that may be shared, before its first member.
    pub const fn base_gas(&self) -> u64 {
        self.schedule.tx_base_gas + BATCH_MARGIN_GAS
    }

    /// Gas reserved for a request that adds `member_gas`: a transaction of its own, and an empty one that may have to
    /// replace it.
    pub const fn reserved_gas(&self, member_gas: u64) -> u64 {
        self.base_gas().saturating_add(member_gas).saturating_add(self.schedule.tx_base_gas)
    }
}
