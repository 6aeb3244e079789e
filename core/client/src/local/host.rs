//! The sender's surroundings in a page: one payer, one node, and a gate by recent prices.

use std::{sync::Arc, time::Duration};

use alloy_primitives::U256;

use crate::{
    forecast::Forecast,
    market::FeePoint,
    ordered::Set,
    policy::Claim,
    request::RequestId,
    schedule::{FeeOutlook, PercentileOutlook},
    sender::{Books, FeeView, ForecastRef, Host, Pending, Price},
    time::Timestamp,
};

/// A page.
#[derive(Debug)]
pub(super) struct Page;

impl Host for Page {
    type Fees = Timing;
    type Books = Payer;

    const NONCES_AT_ONCE: usize = 20;
    const HAS_LEDGER: bool = false;
    const HAS_TENANTS: bool = false;
    const HAS_MAJORITY: bool = false;
    const HAS_RESERVATIONS: bool = false;
}

/// Send timing: at once, or gated by price.
#[derive(Debug)]
pub(super) enum Timing {
    Now,
    Gate(Box<PercentileOutlook>),
}

impl FeeOutlook for Timing {
    fn send_within(&self) -> Duration {
        match self {
            Self::Now => Duration::MAX,
            Self::Gate(gate) => gate.send_within(),
        }
    }

    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        match self {
            Self::Now => Duration::MAX,
            Self::Gate(gate) => gate.send_within_saving(saving_permille),
        }
    }
}

impl FeeView for Timing {
    type Outlook = Self;

    fn observe(&mut self, _head: u64, points: &[FeePoint], price: Price) {
        let Self::Gate(gate) = self else { return };
        let tip = price.quote.max_priority_fee_per_gas;
        points.iter().for_each(|point| gate.record(point.base_fee.saturating_add(tip)));
        gate.set_price(price.next_base_fee.saturating_add(tip));
    }

    fn outlook(&self) -> &Self {
        self
    }

    fn forecast(&self) -> Option<&Forecast> {
        None
    }

    fn forecast_ref(&self, _slack: Duration) -> Option<ForecastRef> {
        None
    }
}

/// The session key: it pays for everything, and has no budget but its balance.
#[derive(Debug)]
pub(super) struct Payer;

impl Books for Payer {
    fn changes(&self) -> u64 {
        0
    }

    fn each_weight(&self, _each: &mut dyn FnMut(&Arc<str>, u32)) {}

    fn weights(&self) -> u64 {
        1
    }

    fn weight(&self, _tenant: &str) -> u32 {
        1
    }

    /// A page knows all requests of its users: no request comes that would fill a gap.
    fn gap_timeout(&self, _tenant: &str) -> Duration {
        Duration::ZERO
    }

    fn debtors(&self, _chain_id: u64, _now: Timestamp) -> Set<Arc<str>> {
        Set::new()
    }

    fn free(&self, _tenant: &str, _chain_id: u64, _now: Timestamp) -> U256 {
        U256::MAX
    }

    fn pend(&self, _tenant: &str, _chain_id: u64, _wei: U256, _now: Timestamp) -> Option<Pending> {
        None
    }

    fn unpend(&self, _pending: &Pending) {}

    fn spend(&self, _tenant: &str, _chain_id: u64, _wei: U256, _now: Timestamp) {}

    fn included(&self, _requests: Vec<(Arc<str>, RequestId)>) {}

    fn reopened(&self, _claims: Vec<Claim>) {}
}
