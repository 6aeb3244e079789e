//! What the sender needs of its surroundings: fees as they are forecast, and the books of the tenants. Both are asked, never
//! waited for.

use std::{fmt::Debug, sync::Arc, time::Duration};

use alloy_primitives::{B256, U256};

use super::price::Price;
use crate::{
    forecast::Forecast,
    market::FeePoint,
    ordered::Set,
    policy::{Claim, Pauses},
    request::RequestId,
    schedule::FeeOutlook,
    time::Timestamp,
};

/// Forecast reference of a batch for the decision log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastRef {
    /// Content hash of the models.
    pub model: B256,
    /// Content hash of the forecast.
    pub inputs: B256,
    /// Price up to which a request sends, wei per gas.
    pub threshold: u128,
}

/// The view of fees by which requests wait: a forecast, a percentile gate, or none.
pub trait FeeView: Debug {
    /// Answers of one block, for the composer.
    type Outlook: FeeOutlook;

    /// Takes in agreed blocks, oldest first, of a chain with the newest block `head`, and the price of the next block.
    fn observe(&mut self, head: u64, points: &[FeePoint], price: Price);

    /// Slack up to which the current price is good enough to send.
    fn outlook(&self) -> &Self::Outlook;

    /// The newest forecast; `None` where nothing is forecast.
    fn forecast(&self) -> Option<&Forecast>;

    /// The forecast by which a request with this slack waits or goes; `None` where nothing is forecast.
    fn forecast_ref(&self, slack: Duration) -> Option<ForecastRef>;
}

/// Part of a tenant's budget held for the cost of a transaction that no member bears.
#[derive(Debug)]
pub struct Pending {
    /// The tenant.
    pub tenant: Arc<str>,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Start of the budget's period.
    pub period: Timestamp,
    /// Held amount, wei.
    pub wei: U256,
}

/// Budgets and open requests of the tenants (invariants I8, I12).
pub trait Books: Debug {
    /// Number of changes of policies so far.
    fn changes(&self) -> u64;
    /// Calls `each` with every tenant and its weight.
    fn each_weight(&self, each: &mut dyn FnMut(&Arc<str>, u32));
    /// Sum of all weights.
    fn weights(&self) -> u64;
    /// Weight of one tenant; 1 if it is not configured.
    fn weight(&self, tenant: &str) -> u32;
    /// Wait of a tenant's requests for a missing nonce.
    fn gap_timeout(&self, tenant: &str) -> Duration;
    /// Tenants with a spend above their budget.
    fn debtors(&self, chain_id: u64, now: Timestamp) -> Set<Arc<str>>;
    /// Budget that is neither spent nor reserved, wei.
    fn free(&self, tenant: &str, chain_id: u64, now: Timestamp) -> U256;
    /// Holds a part of the budget until the transaction is settled; `None` where nothing is held.
    fn pend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) -> Option<Pending>;
    /// Releases what [`Self::pend`] held.
    fn unpend(&self, pending: &Pending);
    /// Takes the part of an account from the tenant's budget.
    fn spend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp);
    /// Counts requests as included: open no more, with used nonces.
    fn included(&self, requests: Vec<(Arc<str>, RequestId)>);
    /// Counts requests as open again after a reorg, whatever the limits are.
    fn reopened(&self, claims: Vec<Claim>);
}

/// Types that differ between a relayer and a page.
pub trait Host: Debug {
    /// The view of fees.
    type Fees: FeeView;
    /// The books.
    type Books: Books;

    /// Most users whose nonces are read at once.
    const NONCES_AT_ONCE: usize;
    /// True if there is a ledger with a decision log: bytes of included transactions leave memory, and are read back.
    const HAS_LEDGER: bool;
    /// True if requests belong to several tenants with budgets.
    const HAS_TENANTS: bool;
    /// True if several nodes are asked: a majority can show before finality that a transaction left a request out.
    const HAS_MAJORITY: bool;
    /// True if a request reserves its data fee when it is accepted; if not, its ceiling per gas falls as that fee rises.
    const HAS_RESERVATIONS: bool;
}

/// Facts about the surroundings that change without the sender, as of the input that follows.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Number of nodes.
    pub nodes: usize,
    /// Blocks by which a node may be ahead of the head that is followed.
    pub head_tolerance: u64,
    /// Highest gas limit × fee cap that nodes take, wei; `None` without a limit.
    pub fee_cap_wei: Option<u128>,
    /// True while transactions may be sent: this instance drives the lanes.
    pub may_send: bool,
    /// True while another instance drives the lanes.
    pub is_following: bool,
    /// Pauses in force.
    pub pauses: Arc<Pauses>,
}
