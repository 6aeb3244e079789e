//! The sender's surroundings in a relay: forecast and gate behind one view of fees, and the tenants' books.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use alloy_primitives::U256;

use crate::{
    forecast::Forecast,
    market::FeePoint,
    policy::Claim,
    relay::{
        admission::tenants::Tenants,
        market::forecast::{ForecastService, ForecastView, Outlook},
    },
    request::RequestId,
    schedule::PercentileOutlook,
    sender::{Books, FeeView, ForecastRef, Host, Pending, Price, tuning::TimingMode},
    time::Timestamp,
};

/// A relay.
#[derive(Debug)]
pub(in crate::relay) struct RelayHost;

impl Host for RelayHost {
    type Fees = ChainFees;
    type Books = SharedBooks;

    const NONCES_AT_ONCE: usize = 200;
    const HAS_LEDGER: bool = true;
    const HAS_TENANTS: bool = true;
    const HAS_MAJORITY: bool = true;
    const HAS_RESERVATIONS: bool = true;
}

/// One chain's view of fees, by `chain.timing`.
#[derive(Debug)]
pub(in crate::relay) struct ChainFees {
    mode: TimingMode,
    gate: PercentileOutlook,
    /// `None` where requests go at once.
    pub(in crate::relay) forecasts: Option<ForecastService>,
    outlook: Outlook,
    view: Option<Arc<ForecastView>>,
}

impl ChainFees {
    pub(in crate::relay) const fn new(
        mode: TimingMode,
        gate: PercentileOutlook,
        forecasts: Option<ForecastService>,
    ) -> Self {
        Self { mode, gate, forecasts, outlook: Outlook::NOW, view: None }
    }

    /// The newest forecast for the outside.
    pub(in crate::relay) fn view(&self) -> Option<Arc<ForecastView>> {
        self.view.clone()
    }

    /// Renews [`Self::view`] after a change of the models.
    pub(in crate::relay) fn refresh_view(&mut self) {
        self.view = self.forecasts.as_ref().and_then(ForecastService::view).map(Arc::new);
    }
}

impl FeeView for ChainFees {
    type Outlook = Outlook;

    fn observe(&mut self, head: u64, points: &[FeePoint], price: Price) {
        let tip = price.quote.max_priority_fee_per_gas;
        for point in points {
            self.gate.record(point.base_fee.saturating_add(tip));
        }
        self.gate.set_price(price.next_base_fee.saturating_add(tip));
        if let Some(forecasts) = &mut self.forecasts {
            forecasts.observe(head, points);
            self.refresh_view();
        }
        self.outlook = match (self.mode, &self.forecasts) {
            (TimingMode::Forecast, Some(forecasts)) => forecasts.outlook(),
            (TimingMode::Forecast | TimingMode::Percentile, _) => Outlook::of(&self.gate),
            (TimingMode::Immediate, _) => Outlook::NOW,
        };
    }

    fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    fn forecast(&self) -> Option<&Forecast> {
        self.view.as_ref().map(|view| &view.forecast)
    }

    fn forecast_ref(&self, slack: Duration) -> Option<ForecastRef> {
        let view = self.view.as_ref()?;
        let threshold = view.wait(slack)?.reservation;
        Some(ForecastRef { model: view.forecast.model.0, inputs: view.inputs, threshold })
    }
}

/// Books of all tenants, which the chains share.
#[derive(Debug)]
pub(in crate::relay) struct SharedBooks(pub(in crate::relay) Arc<Tenants>);

impl Books for SharedBooks {
    fn changes(&self) -> u64 {
        Tenants::changes(&self.0)
    }

    fn each_weight(&self, each: &mut dyn FnMut(&Arc<str>, u32)) {
        self.0.iter().for_each(|tenant| each(&tenant.name, tenant.policy.weight));
    }

    fn weights(&self) -> u64 {
        Tenants::weights(&self.0)
    }

    fn weight(&self, tenant: &str) -> u32 {
        self.0.get(tenant).map_or(1, |tenant| tenant.policy.weight)
    }

    fn gap_timeout(&self, tenant: &str) -> Duration {
        Tenants::gap_timeout(&self.0, tenant)
    }

    fn debtors(&self, chain_id: u64, now: Timestamp) -> BTreeSet<Arc<str>> {
        Tenants::debtors(&self.0, chain_id, now)
    }

    fn free(&self, tenant: &str, chain_id: u64, now: Timestamp) -> U256 {
        Tenants::free(&self.0, tenant, chain_id, now)
    }

    fn pend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) -> Option<Pending> {
        Tenants::pend(&self.0, tenant, chain_id, wei, now)
    }

    fn unpend(&self, pending: &Pending) {
        Tenants::unpend(&self.0, pending);
    }

    fn spend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) {
        Tenants::spend(&self.0, tenant, chain_id, wei, now);
    }

    fn included(&self, requests: Vec<(Arc<str>, RequestId)>) {
        Tenants::included(&self.0, requests);
    }

    fn reopened(&self, claims: Vec<Claim>) {
        Tenants::reopened(&self.0, claims);
    }
}
