//! A request in the queue.

use std::sync::Arc;

use alloy_primitives::U256;

use crate::{
    request::{
        VerifiedRequest,
        settlement::{price_of, with_price},
        vehicle::Company,
    },
    time::Timestamp,
};

/// An accepted request, with the data that the composer needs.
#[derive(Debug, Clone)]
pub struct QueuedRequest {
    /// The request.
    pub request: Arc<VerifiedRequest>,
    /// Tenant of the request.
    pub tenant: Arc<str>,
    /// Order of acceptance.
    pub seq: u64,
    /// Time of acceptance; age and original slack are measured from it.
    pub accepted_at: Timestamp,
    /// Gas it adds to a transaction, upper bound.
    pub gas: u64,
    /// Bytes it adds to a transaction.
    pub bytes: usize,
    /// Highest gas price covered by its reservation, wei per gas. It falls with the amount spent on transactions that
    /// did not complete it.
    pub ceiling_wei_per_gas: u128,
    /// The ceiling before anything was spent, wei per gas.
    pub first_ceiling_wei_per_gas: u128,
    /// Reserved maximum cost, wei, without mark-up.
    pub reserved_wei: U256,
    /// Part of the reservation spent in final transactions, wei.
    pub spent_wei: U256,
    /// Price charged to its tenant, percent of its cost.
    pub price_percent: u32,
    /// Rule for sharing a transaction with other requests.
    pub company: Company,
    /// Number of simulations that it failed.
    pub simulations: u32,
    /// Number of transactions with it that failed as a whole; each one makes its next batch smaller.
    pub batch_failures: u32,
    /// Time by which it should be in a block: the promised time, or, once that was missed, a newly planned one.
    pub due: Timestamp,
    /// True once its promise was missed. It stays in the queue until [`VerifiedRequest::valid_until`].
    pub is_late: bool,
    /// Refusals, by the nodes, of transactions with it.
    pub refusals: Refusals,
}

impl QueuedRequest {
    /// Bytes of its payload in memory; 0 for an outline.
    pub(super) fn payload_bytes(&self) -> usize {
        if self.request.is_outline() { 0 } else { self.bytes }
    }

    /// Amount that its tenant's budget holds for it, wei.
    pub fn budget_wei(&self) -> U256 {
        with_price(self.reserved_wei, self.price_percent)
    }

    /// Amount that its tenant's budget counts if the final cost is `cost_wei`: the larger of cost and price, wei.
    pub fn counted_wei(&self, cost_wei: U256) -> U256 {
        price_of(cost_wei, self.price_percent, self.budget_wei()).max(cost_wei)
    }
}

/// Record of a request's transactions that every node refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Most members of a transaction with it; `None`: no limit of its own.
    pub company: Option<u32>,
    /// Number of refusals of a transaction with this request alone.
    pub alone: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A million requests in blocks fit into a gigabyte: each is stored in these types, rounded up to the allocator's
    /// size classes.
    #[test]
    fn what_is_remembered_of_a_request_is_small() {
        assert!(size_of::<VerifiedRequest>() + 2 * size_of::<usize>() <= 384, "{}", size_of::<VerifiedRequest>());
        assert!(size_of::<QueuedRequest>() <= 192, "{}", size_of::<QueuedRequest>());
    }
}
