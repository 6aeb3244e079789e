//! Tenants at run time: policies, budgets, rates, open requests.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::U256;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};

use super::error::SubmitError;
use crate::{
    policy::{BudgetBook, TenantPolicy},
    protection::Protection,
    request::RequestId,
    time::Timestamp,
};

/// One tenant with its counters.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) policy: TenantPolicy,
    pub(super) name: Arc<str>,
    limiter: Option<DefaultDirectRateLimiter>,
    open: AtomicU64,
}

/// All tenants and the book of budgets.
#[derive(Debug)]
pub(super) struct Tenants {
    tenants: BTreeMap<String, Arc<Tenant>>,
    book: Mutex<BudgetBook>,
    /// Other instances accept too: the ledger keeps the budgets, and tells what is open.
    is_shared: bool,
}

impl Tenants {
    pub(super) fn new(policies: BTreeMap<String, TenantPolicy>, is_shared: bool) -> Self {
        let tenants = policies
            .into_iter()
            .map(|(id, policy)| {
                let limiter = policy
                    .rate_per_s
                    .and_then(NonZeroU32::new)
                    .map(|rate| RateLimiter::direct(Quota::per_second(rate)));
                let tenant = Tenant { name: id.as_str().into(), policy, limiter, open: AtomicU64::new(0) };
                (id, Arc::new(tenant))
            })
            .collect();
        Self { tenants, book: Mutex::default(), is_shared }
    }

    pub(super) const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Numbers of open requests, as the shared ledger has them.
    pub(super) fn set_open(&self, open: &[(String, u64)]) {
        for (id, tenant) in &self.tenants {
            let count = open.iter().find(|(other, _)| other == id).map_or(0, |(_, count)| *count);
            tenant.open.store(count, Ordering::Relaxed);
        }
    }

    /// A request was accepted, or has ended, somewhere.
    pub(super) fn count_open(&self, tenant: &str, is_new: bool) {
        let Some(tenant) = self.tenants.get(tenant) else { return };
        let change = |open: u64| Some(if is_new { open.saturating_add(1) } else { open.saturating_sub(1) });
        let _ = tenant.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        self.tenants.get(id).cloned()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, BudgetBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the worst case of a request from the tenant's budget, if it has one.
    pub(super) fn reserve(
        &self,
        tenant: &Tenant,
        id: RequestId,
        chain_id: u64,
        wei: U256,
        now: Timestamp,
    ) -> Result<(), SubmitError> {
        match tenant.policy.budget.as_ref().filter(|_| !self.is_shared) {
            Some(budget) => Ok(self.book().reserve(id, &tenant.policy.id, chain_id, budget, wei, now)?),
            None => Ok(()),
        }
    }

    /// A reservation became a request's.
    pub(super) fn accepted(&self, tenant: &Tenant, id: RequestId) {
        if tenant.policy.budget.is_some() && !self.is_shared {
            self.book().accept(id);
        }
    }

    /// Gives a reservation back that did not become a request.
    pub(super) fn release(&self, tenant: &Tenant, id: RequestId) {
        if tenant.policy.budget.is_some() && !self.is_shared {
            self.book().release(id);
        }
    }

    /// Counts what the ledger remembers at start.
    pub(super) fn restore_open(&self, tenant: &str, id: RequestId, chain_id: u64, wei: U256, accepted_at: Timestamp) {
        let Some(tenant) = self.tenants.get(tenant).filter(|_| !self.is_shared) else { return };
        tenant.open.fetch_add(1, Ordering::Relaxed);
        if let Some(budget) = &tenant.policy.budget
            && Protection::RestoreReservations.is_on()
        {
            let period = budget.period_start(accepted_at);
            self.book().restore_reserved(id, &tenant.policy.id, chain_id, period, wei);
        }
    }

    /// Counts what was spent in the current period before the start.
    pub(super) fn restore_spent(&self, tenant: &str, chain_id: u64, period: Timestamp, wei: U256) {
        self.book().restore_spent(tenant, chain_id, period, wei);
    }

    pub(super) fn opened(&self, tenant: &Tenant, count: u64) {
        tenant.open.fetch_add(count, Ordering::Relaxed);
    }

    /// What an account of the tenant bears, from now on.
    pub(super) fn spend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) {
        let Some(tenant) = self.tenants.get(tenant).filter(|_| !self.is_shared) else { return };
        if let Some(budget) = &tenant.policy.budget {
            self.book().spend(&tenant.policy.id, chain_id, budget, wei, now);
        }
    }

    /// What a tenant's account may bear without taking anything from what its requests hold, wei. Nothing where only the
    /// ledger knows.
    pub(super) fn free(&self, tenant: &str, chain_id: u64, now: Timestamp) -> U256 {
        let Some(tenant) = self.tenants.get(tenant) else { return U256::MAX };
        match &tenant.policy.budget {
            None => U256::MAX,
            Some(_) if self.is_shared => U256::ZERO,
            Some(budget) => self.book().free(&tenant.policy.id, chain_id, budget, now),
        }
    }

    /// A request has ended with this cost.
    pub(super) fn settled(&self, tenant: &str, id: RequestId, cost_wei: U256) {
        let Some(tenant) = self.tenants.get(tenant).filter(|_| !self.is_shared) else { return };
        // Saturating: a tenant that was reconfigured may have fewer counted than open.
        let _ = tenant.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| Some(open.saturating_sub(1)));
        if tenant.policy.budget.is_some()
            && let Some(reserved) = self.book().settle(id, cost_wei)
            && cost_wei > reserved
        {
            tracing::error!(%id, %cost_wei, %reserved, "a request cost more than was reserved for it");
            metrics::counter!("slackwater_budget_overruns_total").increment(1);
        }
    }
}

impl Tenant {
    /// Room for `count` more requests now?
    pub(super) fn admit(&self, count: usize) -> Result<(), SubmitError> {
        let open = self.open.load(Ordering::Relaxed);
        let limit = self.policy.max_open_requests;
        if open.saturating_add(count as u64) > limit {
            return Err(SubmitError::RateLimited {
                what: format!("{open} requests are open, limit {limit} (`tenant.max_open_requests`)"),
                retry_after: Duration::from_secs(1),
            });
        }
        let (Some(limiter), Some(count)) = (&self.limiter, u32::try_from(count).ok().and_then(NonZeroU32::new)) else {
            return Ok(());
        };
        let rate = self.policy.rate_per_s.unwrap_or(0);
        match limiter.check_n(count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(SubmitError::RateLimited {
                what: format!("more than {rate} requests per second (`tenant.rate_per_s`)"),
                retry_after: not_until.wait_time_from(governor::clock::DefaultClock::default().now()),
            }),
            Err(_) => Err(SubmitError::RateLimited {
                what: format!("{count} requests at once are more than {rate} per second allow (`tenant.rate_per_s`)"),
                retry_after: Duration::from_secs(1),
            }),
        }
    }
}
