//! Tenants at run time: policies, budgets, rates, open requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, U256};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};

use crate::relay::handle::{config::ChainSetup, error::SubmitError, setup::unbound_callers};
use crate::{
    policy::{BudgetBook, Claim, LineKey, OpenBook, OpenError, OpenLimits, TenantPolicy},
    protection::Protection,
    request::RequestId,
    schedule::Callers,
    sender::Pending,
    time::Timestamp,
};

/// Burst allowance of a rate limit, in seconds of the rate.
const BURST_S: u32 = 10;

/// Gap timeout of a tenant no longer configured: the wait for a missing nonce.
const USUAL_GAP_TIMEOUT: Duration = Duration::from_secs(60);

/// One tenant with its counters.
#[derive(Debug)]
pub(in crate::relay) struct Tenant {
    pub(in crate::relay) policy: TenantPolicy,
    pub(in crate::relay) name: Arc<str>,
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
    lookups: Option<Arc<DefaultDirectRateLimiter>>,
    /// Open requests of all instances that share the ledger.
    open: Arc<AtomicU64>,
}

/// Budget reservations and open requests.
#[derive(Debug, Default)]
struct Books {
    budgets: BudgetBook,
    open: OpenBook,
}

/// All tenants and their books.
#[derive(Debug)]
pub(in crate::relay) struct Tenants {
    tenants: RwLock<BTreeMap<String, Arc<Tenant>>>,
    books: Mutex<Books>,
    /// Number of policy changes.
    changes: AtomicU64,
    /// By chain: the tenants whose calls each sender account makes, as configured.
    callers: Vec<(u64, BTreeMap<Address, BTreeSet<String>>)>,
    limits: OpenLimits,
    /// True if other instances accept too: the ledger then holds the budgets and the open requests.
    is_shared: bool,
}

fn limiter(rate: Option<u32>) -> Option<Arc<DefaultDirectRateLimiter>> {
    let rate = rate.and_then(NonZeroU32::new)?;
    let burst = rate.saturating_mul(NonZeroU32::new(BURST_S)?);
    Some(Arc::new(RateLimiter::direct(Quota::per_second(rate).allow_burst(burst))))
}

impl Tenant {
    fn new(policy: TenantPolicy) -> Self {
        Self {
            name: policy.id.as_str().into(),
            limiter: limiter(policy.rate_per_s),
            lookups: limiter(policy.nonce_lookups_per_s),
            policy,
            open: Arc::default(),
        }
    }
}

impl Tenants {
    pub(in crate::relay) fn new(policies: BTreeMap<String, TenantPolicy>, limits: OpenLimits, is_shared: bool) -> Self {
        let tenants = policies.into_iter().map(|(id, policy)| (id, Arc::new(Tenant::new(policy)))).collect();
        let books = Books { open: OpenBook::new(limits), ..Books::default() };
        Self {
            tenants: RwLock::new(tenants),
            books: Mutex::new(books),
            changes: AtomicU64::new(0),
            callers: Vec::new(),
            limits,
            is_shared,
        }
    }

    /// Sets the chains of the relay.
    pub(in crate::relay) fn on_chains(self, chains: &[ChainSetup]) -> Self {
        let callers = chains.iter().map(|setup| (setup.spec.chain_id, setup.callers.clone())).collect();
        Self { callers, ..self }
    }

    /// The first tenant that would make calls without a bound account if `added` joined; a lone tenant owns all
    /// accounts.
    pub(in crate::relay) fn unbound_beside(&self, added: &[TenantPolicy]) -> Option<String> {
        let here: Vec<_> = self.iter().collect();
        let new = added.iter().filter(|policy| self.get(&policy.id).is_none());
        let all: Vec<&TenantPolicy> = here.iter().map(|tenant| &tenant.policy).chain(new).collect();
        let unbound = |(chain_id, callers): &(u64, _)| unbound_callers(*chain_id, callers, all.iter().copied());
        self.callers.iter().flat_map(unbound).next().map(str::to_owned)
    }

    /// Number of policy changes so far.
    pub(in crate::relay) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Applies changed policies, and new tenants unknown to the ledger; accepted requests stay accepted. Only changes
    /// that pass [`TenantPolicy::needs_restart`].
    pub(in crate::relay) fn set_policies(&self, policies: impl IntoIterator<Item = TenantPolicy>) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        for policy in policies {
            let Some(tenant) = tenants.get_mut(&policy.id) else {
                tenants.insert(policy.id.clone(), Arc::new(Tenant::new(policy)));
                continue;
            };
            if tenant.policy == policy {
                continue;
            }
            // An unchanged rate limiter keeps its state.
            let paced = |limit: fn(&TenantPolicy) -> Option<u32>, known: &Option<Arc<_>>| {
                if limit(&policy) == limit(&tenant.policy) { known.clone() } else { limiter(limit(&policy)) }
            };
            let changed = Tenant {
                name: tenant.name.clone(),
                limiter: paced(|policy| policy.rate_per_s, &tenant.limiter),
                lookups: paced(|policy| policy.nonce_lookups_per_s, &tenant.lookups),
                open: tenant.open.clone(),
                policy,
            };
            *tenant = Arc::new(changed);
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The tenants whose calls each lane of the chain makes; `None` for a lone tenant without bindings, which has all
    /// lanes.
    pub(in crate::relay) fn callers(&self, setup: &ChainSetup) -> Option<Callers> {
        let bound = |sender: Address| -> BTreeSet<Arc<str>> {
            let names = setup.callers.get(&sender);
            names.into_iter().flatten().filter_map(|id| Some(self.get(id)?.name.clone())).collect()
        };
        if self.iter().len() <= 1 && setup.callers.is_empty() {
            return None;
        }
        Some(setup.signers.iter().map(|signer| (signer.address(), bound(signer.address()))).collect())
    }

    pub(in crate::relay) const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Sets the numbers of open requests from the shared ledger.
    pub(in crate::relay) fn set_open(&self, open: &[(String, u64)]) {
        for tenant in self.iter() {
            let count = open.iter().find(|(other, _)| *other == tenant.policy.id).map_or(0, |(_, count)| *count);
            tenant.open.store(count, Ordering::Relaxed);
        }
    }

    /// Counts a request accepted by any instance.
    pub(in crate::relay) fn count_open(&self, tenant: &str) {
        if let Some(tenant) = self.get(tenant) {
            tenant.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(in crate::relay) fn get(&self, id: &str) -> Option<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A snapshot of all tenants.
    pub(in crate::relay) fn iter(&self) -> std::vec::IntoIter<Arc<Tenant>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// The sum of all weights.
    pub(in crate::relay) fn weights(&self) -> u64 {
        self.iter().map(|tenant| u64::from(tenant.policy.weight)).sum()
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, tenant: &str) -> Arc<str> {
        self.get(tenant).map_or_else(|| tenant.into(), |tenant| tenant.name.clone())
    }

    /// Reserves a place among the open requests, and the worst-case cost in the tenant's budget, if it has one.
    pub(in crate::relay) fn reserve(
        &self,
        tenant: &Tenant,
        claim: &Claim,
        chain_next: Option<u64>,
        now: Timestamp,
    ) -> Result<(), SubmitError> {
        if self.is_shared {
            self.check_shared(tenant)?;
        }
        let mut books = self.books();
        books.open.take(&tenant.policy, claim, chain_next)?;
        if let Some(budget) = tenant.policy.budget.as_ref().filter(|_| !self.is_shared)
            && let Err(error) = books.budgets.reserve(claim, budget, tenant.policy.budget_shares, now)
        {
            books.open.release(&claim.tenant, claim.id);
            return Err(error.into());
        }
        Ok(())
    }

    /// Checks the open requests of all instances against the tenant's limit.
    fn check_shared(&self, tenant: &Tenant) -> Result<(), OpenError> {
        let (open, limit) = (tenant.open.load(Ordering::Relaxed), tenant.policy.max_open_requests);
        if open >= limit {
            return Err(OpenError::TenantRequests { open, limit });
        }
        let all = self.iter().fold(0_u64, |sum, other| sum.saturating_add(other.open.load(Ordering::Relaxed)));
        let limit = self.limits.max_requests;
        if all >= limit {
            return Err(OpenError::ServerRequests { open: all, limit });
        }
        Ok(())
    }

    /// Turns a reservation into an accepted request's.
    pub(in crate::relay) fn accepted(&self, tenant: &Tenant, id: RequestId) {
        let mut books = self.books();
        books.open.accept(&tenant.name, id);
        if tenant.policy.budget.is_some() && !self.is_shared {
            books.budgets.accept(&tenant.name, id);
        }
    }

    /// Releases the reservation of a submission that did not become a request.
    pub(in crate::relay) fn release(&self, tenant: &Tenant, id: RequestId) {
        let mut books = self.books();
        books.open.release(&tenant.name, id);
        if tenant.policy.budget.is_some() && !self.is_shared {
            books.budgets.release(&tenant.name, id);
        }
    }

    /// Counts an open request restored at start.
    pub(in crate::relay) fn restore_open(&self, claim: Claim, is_included: bool, accepted_at: Timestamp) {
        let Some(tenant) = self.get(&claim.tenant).filter(|_| !self.is_shared) else { return };
        let mut books = self.books();
        if let Some(budget) = &tenant.policy.budget
            && Protection::RestoreReservations.is_on()
        {
            books.budgets.restore_reserved(&claim, tenant.policy.budget_shares, budget.period_start(accepted_at));
        }
        if !is_included {
            books.open.restore(claim);
        }
    }

    /// Restores the amount spent in the current period before the start.
    pub(in crate::relay) fn restore_spent(&self, tenant: &Tenant, chain_id: u64, period: Timestamp, wei: U256) {
        self.books().budgets.restore_spent(&tenant.name, chain_id, period, wei);
    }

    /// Restores the cost of one signer's requests to one target in the current period before the start.
    pub(in crate::relay) fn restore_shares(
        &self,
        tenant: &Tenant,
        chain_id: u64,
        parties: (Option<Address>, Address),
        wei: U256,
    ) {
        let shares = tenant.policy.budget_shares;
        self.books().budgets.restore_shares(&tenant.name, chain_id, parties, shares, wei);
    }

    /// Requests are included: they no longer count as open, and their nonces are used.
    pub(in crate::relay) fn included(&self, ids: impl IntoIterator<Item = (Arc<str>, RequestId)>) {
        let mut books = self.books();
        for (tenant, id) in ids {
            books.open.close(&tenant, id, true);
        }
    }

    /// A reorg put requests back: they count as open again, regardless of limits.
    pub(in crate::relay) fn reopened(&self, claims: impl IntoIterator<Item = Claim>) {
        if self.is_shared {
            return;
        }
        let mut books = self.books();
        claims.into_iter().for_each(|claim| books.open.restore(claim));
    }

    /// Charges an amount to the tenant's budget.
    pub(in crate::relay) fn spend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) {
        let Some(tenant) = self.get(tenant).filter(|_| !self.is_shared) else { return };
        if let Some(budget) = &tenant.policy.budget {
            self.books().budgets.spend(&tenant.name, chain_id, budget, wei, now);
        }
    }

    /// Reserves a charge to the tenant's account for an included, unsettled transaction, so that the same money pays
    /// for no other. `None` if the ledger holds the budgets.
    pub(in crate::relay) fn pend(&self, tenant: &str, chain_id: u64, wei: U256, now: Timestamp) -> Option<Pending> {
        let tenant = self.get(tenant).filter(|_| !self.is_shared && !wei.is_zero())?;
        let budget = tenant.policy.budget.as_ref()?;
        let period = self.books().budgets.spend(&tenant.name, chain_id, budget, wei, now);
        Some(Pending { tenant: Arc::clone(&tenant.name), chain_id, period, wei })
    }

    /// Releases a pending charge: the transaction is settled, or in no block any more.
    pub(in crate::relay) fn unpend(&self, pending: &Pending) {
        let Pending { tenant, chain_id, period, wei } = pending;
        self.books().budgets.unspend(tenant, *chain_id, *period, *wei);
    }

    /// Budget of a tenant beyond its requests' reservations, wei; `U256::MAX` without a budget, zero if only the ledger
    /// knows.
    pub(in crate::relay) fn free(&self, tenant: &str, chain_id: u64, now: Timestamp) -> U256 {
        let Some(tenant) = self.get(tenant) else { return U256::MAX };
        match &tenant.policy.budget {
            None => U256::MAX,
            Some(_) if self.is_shared => U256::ZERO,
            Some(budget) => self.books().budgets.free(&tenant.name, chain_id, budget, now),
        }
    }

    /// Tenants that have overspent their budgets. Empty if only the ledger knows.
    pub(in crate::relay) fn debtors(&self, chain_id: u64, now: Timestamp) -> BTreeSet<Arc<str>> {
        if self.is_shared {
            return BTreeSet::new();
        }
        let tenants = self.iter();
        let books = self.books();
        let is_overdrawn = |tenant: &Arc<Tenant>| {
            let budget = tenant.policy.budget.as_ref();
            budget.is_some_and(|budget| books.budgets.is_overdrawn(&tenant.name, chain_id, budget, now))
        };
        tenants.filter(is_overdrawn).map(|tenant| tenant.name.clone()).collect()
    }

    /// Closes an ended request and counts its final amount: the larger of cost and price.
    pub(in crate::relay) fn settled(&self, tenant: &str, id: RequestId, counted_wei: U256) {
        let name = self.name_of(tenant);
        let mut books = self.books();
        books.open.close(&name, id, false);
        if !self.is_shared
            && let Some(reserved) = books.budgets.settle(&name, id, counted_wei)
            && counted_wei > reserved
        {
            drop(books);
            tracing::error!(%id, %counted_wei, %reserved, "a request cost more than was reserved for it");
            metrics::counter!("slackwater_budget_overruns_total").increment(1);
        }
    }

    /// A request accepted by this instance is included or has ended, by the shared ledger.
    pub(in crate::relay) fn told_closed(&self, tenant: &str, id: RequestId, is_consumed: bool) {
        self.books().open.close(&self.name_of(tenant), id, is_consumed);
    }

    /// Requests counted as open by this instance.
    pub(in crate::relay) fn counted(&self) -> Vec<(Arc<str>, RequestId)> {
        self.books().open.accepted()
    }

    /// Sets a signer's newly read forwarder nonce.
    pub(in crate::relay) fn set_chain_nonce(&self, line: LineKey, nonce: u64) {
        self.books().open.set_chain_nonce(line, nonce);
    }

    /// Time limit for which a tenant's requests wait for a missing nonce.
    pub(in crate::relay) fn gap_timeout(&self, tenant: &str) -> Duration {
        self.get(tenant).map_or(USUAL_GAP_TIMEOUT, |tenant| tenant.policy.gap_timeout)
    }

    /// Sets the nonces of a signer used by requests of other instances.
    pub(in crate::relay) fn set_elsewhere(&self, line: LineKey, nonces: Vec<u64>) {
        self.books().open.set_elsewhere(line, nonces);
    }
}

impl Tenant {
    /// Checks the rate limit for one more request; `ahead` others were refused just before it.
    pub(in crate::relay) fn admit(&self, ahead: u32) -> Result<(), SubmitError> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let rate = self.policy.rate_per_s.unwrap_or(1).max(1);
        limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(governor::clock::DefaultClock::default().now());
            SubmitError::RateLimited {
                what: format!("more than {rate} requests per second (`tenant.rate_per_s`)"),
                retry_after: wait.saturating_add(Duration::from_secs(ahead.into()) / rate),
            }
        })
    }

    /// True if the tenant's rate limit allows `count` more nonce lookups at the nodes now.
    pub(in crate::relay) fn may_look_up(&self, count: usize) -> bool {
        let Some(limiter) = &self.lookups else { return true };
        let count = u32::try_from(count).ok().and_then(NonZeroU32::new);
        count.is_none_or(|count| matches!(limiter.check_n(count), Ok(Ok(()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(policy: TenantPolicy) -> Tenants {
        Tenants::new(BTreeMap::from([(policy.id.clone(), policy)]), OpenLimits::default(), false)
    }

    #[test]
    fn a_policy_changes_and_counters_and_rates_go_on() {
        let before = TenantPolicy::new("shop").with(|it| it.rate_per_s = Some(1));
        let tenants = tenants(before.clone());
        tenants.count_open("shop");
        let old = tenants.get("shop").unwrap();
        (0..10).for_each(|_| old.admit(0).unwrap());
        assert!(old.admit(0).is_err());
        tenants.set_policies([before.clone().with(|it| it.max_gas = 21_000), TenantPolicy::new("newcomer")]);
        let new = tenants.get("shop").unwrap();
        assert_eq!((new.policy.max_gas, new.open.load(Ordering::Relaxed)), (21_000, 1));
        assert!(new.admit(0).is_err(), "a reload gives nobody a new burst");
        assert!(tenants.get("newcomer").is_some());
        tenants.set_policies([before.with(|it| it.rate_per_s = Some(2))]);
        assert!(tenants.get("shop").unwrap().admit(0).is_ok());
    }
}
