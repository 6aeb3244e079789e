//! Budgets: reserve the worst case at acceptance, settle with the actual cost (invariant I8).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, U256};

use super::{Claim, claim::percent_of};
use crate::{request::RequestId, time::Timestamp, tuning::keys};

/// A tenant's spending limit per chain and period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Wei per period and chain.
    pub limit_wei: U256,
    /// Length of a period, aligned to the Unix epoch; zero means a single period without end.
    pub period: Duration,
}

impl Budget {
    /// Start of the period that `at` lies in.
    pub fn period_start(&self, at: Timestamp) -> Timestamp {
        let period = crate::time::millis(self.period);
        if period == 0 { Timestamp(0) } else { Timestamp(at.0 - at.0 % period) }
    }
}

/// The exhausted share of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetShare {
    /// The tenant's whole budget.
    Tenant,
    /// One signer's share (`tenant.signer_budget_percent`).
    Signer(Address),
    /// One target's share (`tenant.target_budget_percent`).
    Target(Address),
}

impl std::fmt::Display for BudgetShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant => write!(f, "`tenant.budget`"),
            Self::Signer(signer) => write!(f, "`tenant.signer_budget_percent`, signer {signer}"),
            Self::Target(target) => write!(f, "`tenant.target_budget_percent`, target {target}"),
        }
    }
}

/// A budget can't cover the worst case of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs {needed_wei} wei, {available_wei} of {limit_wei} wei are left in this period ({share})")]
pub struct BudgetError {
    /// Worst-case cost of the request, wei.
    pub needed_wei: U256,
    /// Amount available, wei.
    pub available_wei: U256,
    /// The whole limit, wei.
    pub limit_wei: U256,
    /// The share to which the limit applies.
    pub share: BudgetShare,
}

impl BudgetError {
    /// The stable code that SDKs switch on.
    pub const fn code(&self) -> &'static str {
        match self.share {
            BudgetShare::Tenant => "budget_exhausted",
            BudgetShare::Signer(_) => "signer_budget_exhausted",
            BudgetShare::Target(_) => "target_budget_exhausted",
        }
    }
}

keys! {
    /// Parts of a tenant's budget that one signer, and one target, may hold and spend.
    #[derive(Copy)]
    #[non_exhaustive]
    pub struct BudgetShares;

    /// Share of the budget that one signer's requests may hold and spend, percent; 100 is no limit. Not with `ledger.url`.
    signer_percent "signer_budget_percent": u32 [1..=100] = 100;
    /// Share of the budget that requests to one target may hold and spend, percent; 100 is no limit. Not with `ledger.url`.
    target_percent "target_budget_percent": u32 [1..=100] = 100;
}

impl BudgetShares {
    /// The parties of a request whose share is limited, with their percentage.
    fn parties(self, signer: Option<Address>, target: Address) -> impl Iterator<Item = (BudgetShare, u32)> {
        let signer = signer
            .filter(|_| self.signer_percent < 100)
            .map(|signer| (BudgetShare::Signer(signer), self.signer_percent));
        let target = (self.target_percent < 100).then_some((BudgetShare::Target(target), self.target_percent));
        signer.into_iter().chain(target)
    }
}

/// Amounts of an account, or of one party's share in it, wei.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    reserved: U256,
    spent: U256,
}

impl Sums {
    const fn left(&self, limit: U256) -> U256 {
        limit.saturating_sub(self.reserved).saturating_sub(self.spent)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    period: Timestamp,
    sums: Sums,
    signers: HashMap<Address, Sums>,
    targets: HashMap<Address, Sums>,
}

impl Account {
    fn party(&mut self, share: BudgetShare) -> &mut Sums {
        match share {
            BudgetShare::Tenant => &mut self.sums,
            BudgetShare::Signer(signer) => self.signers.entry(signer).or_default(),
            BudgetShare::Target(target) => self.targets.entry(target).or_default(),
        }
    }

    fn left_of(&self, share: BudgetShare, limit: U256) -> U256 {
        let sums = match share {
            BudgetShare::Tenant => Some(&self.sums),
            BudgetShare::Signer(signer) => self.signers.get(&signer),
            BudgetShare::Target(target) => self.targets.get(&target),
        };
        sums.copied().unwrap_or_default().left(limit)
    }

    fn hold(&mut self, parties: Parties, wei: U256) {
        for share in parties.shares() {
            let sums = self.party(share);
            sums.reserved = sums.reserved.saturating_add(wei);
        }
    }

    fn settle(&mut self, parties: Parties, reserved: U256, cost: U256) {
        for share in parties.shares() {
            let sums = self.party(share);
            sums.reserved = sums.reserved.saturating_sub(reserved);
            sums.spent = sums.spent.saturating_add(cost);
            if *sums == Sums::default() {
                match share {
                    BudgetShare::Tenant => {}
                    BudgetShare::Signer(signer) => drop(self.signers.remove(&signer)),
                    BudgetShare::Target(target) => drop(self.targets.remove(&target)),
                }
            }
        }
    }
}

/// Parties whose sums include a reservation, beside the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parties {
    signer: Option<Address>,
    target: Option<Address>,
}

impl Parties {
    fn of(claim: &Claim, shares: BudgetShares) -> Self {
        let signer = claim.signer.filter(|_| shares.signer_percent < 100);
        Self { signer, target: (shares.target_percent < 100).then_some(claim.target) }
    }

    fn shares(self) -> impl Iterator<Item = BudgetShare> {
        let signer = self.signer.map(BudgetShare::Signer);
        std::iter::once(BudgetShare::Tenant).chain(signer).chain(self.target.map(BudgetShare::Target))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reservation {
    chain_id: u64,
    period: Timestamp,
    wei: U256,
    parties: Parties,
    /// True once it belongs to a request, not only to pending submissions.
    is_accepted: bool,
    /// Number of further pending submissions of the same request: only the last one may release the reservation.
    repeated: u32,
}

/// Reserved and spent amounts of every tenant, per chain.
///
/// **Invariant I8:** at every moment `reserved + spent ≤ limit` for every period, because `reserve` checks it and
/// `settle` never adds more than was reserved. A reservation made in an old period stays with that period.
#[derive(Debug, Clone, Default)]
pub struct BudgetBook {
    accounts: BTreeMap<(Arc<str>, u64), Account>,
    /// By tenant and request: two tenants may submit the same signed request at once. Boxed: there may be a million,
    /// and a map of large values takes twice as much memory.
    reservations: HashMap<Arc<str>, HashMap<RequestId, Box<Reservation>>>,
}

impl BudgetBook {
    /// An empty book.
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&mut self, tenant: &Arc<str>, id: RequestId) -> Option<&mut Box<Reservation>> {
        self.reservations.get_mut(tenant)?.get_mut(&id)
    }

    fn hold(&mut self, claim: &Claim, reservation: Reservation) {
        self.reservations.entry(claim.tenant.clone()).or_default().insert(claim.id, Box::new(reservation));
    }

    /// Restores `spent_wei` of the current period from the ledger.
    pub fn restore_spent(&mut self, tenant: &Arc<str>, chain_id: u64, period: Timestamp, spent_wei: U256) {
        let account = self.accounts.entry((tenant.clone(), chain_id)).or_default();
        account.period = period;
        account.sums.spent = account.sums.spent.saturating_add(spent_wei);
    }

    /// Restores the cost, in the current period, of requests of one signer to one target, for their shares. Call after
    /// [`Self::restore_spent`], which has it in the tenant's own sum.
    pub fn restore_shares(
        &mut self,
        tenant: &Arc<str>,
        chain_id: u64,
        (signer, target): (Option<Address>, Address),
        shares: BudgetShares,
        spent_wei: U256,
    ) {
        let account = self.accounts.entry((tenant.clone(), chain_id)).or_default();
        for (share, _) in shares.parties(signer, target) {
            let sums = account.party(share);
            sums.spent = sums.spent.saturating_add(spent_wei);
        }
    }

    /// Restores the reservation of a live request, without checking the limit (it was checked at acceptance).
    pub fn restore_reserved(&mut self, claim: &Claim, shares: BudgetShares, period: Timestamp) {
        if self.held(&claim.tenant, claim.id).is_some() {
            return;
        }
        let parties = Parties::of(claim, shares);
        let account = self.accounts.entry((claim.tenant.clone(), claim.chain_id)).or_default();
        if account.period <= period {
            if account.period < period {
                *account = Account { period, ..Account::default() };
            }
            account.hold(parties, claim.wei);
        }
        let (chain_id, wei) = (claim.chain_id, claim.wei);
        self.hold(claim, Reservation { chain_id, period, wei, parties, is_accepted: true, repeated: 0 });
    }

    /// Reserves the worst case of a request from its tenant's budget, and from its signer's and target's shares of it.
    ///
    /// Idempotent in amount for the same tenant and request, but each call needs a [`Self::release`] of its own. Of two
    /// pending submissions the one with the higher quote may become the request, so the larger amount is held.
    ///
    /// # Errors
    /// [`BudgetError`] if less is available in the period of `now`; nothing is reserved then.
    pub fn reserve(
        &mut self,
        claim: &Claim,
        budget: &Budget,
        shares: BudgetShares,
        now: Timestamp,
    ) -> Result<(), BudgetError> {
        let wei = claim.wei;
        let limits = || {
            let parties = shares.parties(claim.signer, claim.target);
            let parties = parties.map(|(share, percent)| (share, percent_of(budget.limit_wei, percent)));
            std::iter::once((BudgetShare::Tenant, budget.limit_wei)).chain(parties)
        };
        let of_tenant = self.reservations.get_mut(&claim.tenant);
        if let Some(held) = of_tenant.and_then(|held| held.get_mut(&claim.id)) {
            let more = if held.is_accepted { U256::ZERO } else { wei.saturating_sub(held.wei) };
            if !more.is_zero()
                && let Some(account) = self.accounts.get_mut(&(claim.tenant.clone(), held.chain_id))
                && account.period == held.period
            {
                for (share, limit_wei) in limits() {
                    let available = account.left_of(share, limit_wei);
                    if more > available {
                        let available_wei = available.saturating_add(held.wei);
                        return Err(BudgetError { needed_wei: wei, available_wei, limit_wei, share });
                    }
                }
                account.hold(held.parties, more);
                held.wei = wei;
            }
            held.repeated += 1;
            return Ok(());
        }
        let period = budget.period_start(now);
        let account = self.accounts.entry((claim.tenant.clone(), claim.chain_id)).or_default();
        if account.period < period {
            *account = Account { period, ..Account::default() };
        }
        // The clock may have stepped back over the boundary: an amount counted here must be released here.
        let period = account.period;
        for (share, limit_wei) in limits() {
            let available_wei = account.left_of(share, limit_wei);
            if wei > available_wei {
                return Err(BudgetError { needed_wei: wei, available_wei, limit_wei, share });
            }
        }
        let parties = Parties::of(claim, shares);
        account.hold(parties, wei);
        let chain_id = claim.chain_id;
        self.hold(claim, Reservation { chain_id, period, wei, parties, is_accepted: false, repeated: 0 });
        Ok(())
    }

    /// Records that a submission became a request: quotes of other submissions no longer count.
    pub fn accept(&mut self, tenant: &Arc<str>, id: RequestId) {
        if let Some(held) = self.held(tenant, id) {
            held.is_accepted = true;
        }
    }

    /// Records that a submission did not become a request, or was one already. The last holder releases the
    /// reservation.
    pub fn release(&mut self, tenant: &Arc<str>, id: RequestId) {
        match self.held(tenant, id) {
            Some(held) if held.repeated > 0 => held.repeated -= 1,
            _ => drop(self.settle(tenant, id, U256::ZERO)),
        }
    }

    /// Ends the reservation of a request with its actual cost (zero if it never executed).
    ///
    /// Returns the reserved amount, `None` if nothing was reserved. A cost above the reservation is counted in full, so
    /// that the limit errs on the safe side; the caller reports it.
    pub fn settle(&mut self, tenant: &Arc<str>, id: RequestId, cost_wei: U256) -> Option<U256> {
        let held = self.reservations.get_mut(tenant)?.remove(&id)?;
        if let Some(account) = self.accounts.get_mut(&(tenant.clone(), held.chain_id))
            && account.period == held.period
        {
            account.settle(held.parties, held.wei, cost_wei);
        }
        Some(held.wei)
    }

    /// Adds the charge to an account of the tenant: it belongs to no request, and is already paid. Returns the period
    /// in which it counts.
    pub fn spend(&mut self, tenant: &Arc<str>, chain_id: u64, budget: &Budget, wei: U256, now: Timestamp) -> Timestamp {
        let period = budget.period_start(now);
        let account = self.accounts.entry((tenant.clone(), chain_id)).or_default();
        if account.period < period {
            *account = Account { period, ..Account::default() };
        }
        account.sums.spent = account.sums.spent.saturating_add(wei);
        account.period
    }

    /// Takes back an amount counted by [`Self::spend`] in `period`.
    pub fn unspend(&mut self, tenant: &Arc<str>, chain_id: u64, period: Timestamp, wei: U256) {
        if let Some(account) = self.accounts.get_mut(&(tenant.clone(), chain_id))
            && account.period == period
        {
            account.sums.spent = account.sums.spent.saturating_sub(wei);
        }
    }

    /// Part of `budget` neither reserved nor spent in the period of `now`, wei.
    pub fn free(&self, tenant: &Arc<str>, chain_id: u64, budget: &Budget, now: Timestamp) -> U256 {
        match self.accounts.get(&(tenant.clone(), chain_id)) {
            Some(account) if account.period >= budget.period_start(now) => account.sums.left(budget.limit_wei),
            _ => budget.limit_wei,
        }
    }

    /// True if the reserved and spent amounts exceed `budget` in the period of `now`: a cancel may cost more than was
    /// reserved.
    pub fn is_overdrawn(&self, tenant: &Arc<str>, chain_id: u64, budget: &Budget, now: Timestamp) -> bool {
        self.accounts.get(&(tenant.clone(), chain_id)).is_some_and(|account| {
            account.period >= budget.period_start(now)
                && account.sums.reserved.saturating_add(account.sums.spent) > budget.limit_wei
        })
    }

    /// (reserved, spent) of a tenant on a chain, wei.
    pub fn totals(&self, tenant: &str, chain_id: u64) -> (U256, U256) {
        self.accounts
            .get(&(Arc::from(tenant), chain_id))
            .map_or((U256::ZERO, U256::ZERO), |account| (account.sums.reserved, account.sums.spent))
    }
}

/// The sums that include a claim.
#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> RequestId {
        RequestId(B256::from(U256::from(n)))
    }

    fn claim(id: RequestId, tenant: &str, chain_id: u64, wei: U256) -> Claim {
        let signer = Address::repeat_byte(1);
        let sequence = Some((Address::ZERO, signer, 0));
        let (signer, target) = (Some(signer), Address::repeat_byte(2));
        Claim { tenant: tenant.into(), id, chain_id, sequence, signer, target, bytes: 0, wei }
    }

    /// The book, with everything by name.
    #[derive(Default)]
    struct Book(BudgetBook);

    impl Book {
        fn reserve(
            &mut self,
            id: RequestId,
            tenant: &str,
            chain_id: u64,
            budget: &Budget,
            wei: U256,
            now: Timestamp,
        ) -> Result<(), BudgetError> {
            self.0.reserve(&claim(id, tenant, chain_id, wei), budget, BudgetShares::default(), now)
        }

        fn accept(&mut self, id: RequestId) {
            self.0.accept(&"a".into(), id);
        }

        fn release(&mut self, id: RequestId) {
            self.0.release(&"a".into(), id);
        }

        fn settle(&mut self, id: RequestId, cost: U256) -> Option<U256> {
            self.0.settle(&"a".into(), id, cost)
        }

        fn totals(&self, tenant: &str, chain_id: u64) -> (U256, U256) {
            self.0.totals(tenant, chain_id)
        }

        fn restore_reserved(&mut self, id: RequestId, tenant: &str, chain_id: u64, period: Timestamp, wei: U256) {
            self.0.restore_reserved(&claim(id, tenant, chain_id, wei), BudgetShares::default(), period);
        }
    }

    #[test]
    fn one_signer_or_target_has_its_share_only() {
        let budget = Budget { limit_wei: U256::from(1_000), period: Duration::ZERO };
        let shares = BudgetShares { signer_percent: 10, target_percent: 30 };
        let mut book = BudgetBook::new();
        let of = |n: u64, signer: u8, wei: u64| Claim {
            sequence: Some((Address::ZERO, Address::repeat_byte(signer), n)),
            signer: Some(Address::repeat_byte(signer)),
            ..claim(id(n), "a", 1, U256::from(wei))
        };
        let tenant: Arc<str> = "a".into();
        book.reserve(&of(1, 1, 60), &budget, shares, Timestamp(0)).unwrap();
        let error = book.reserve(&of(2, 1, 41), &budget, shares, Timestamp(0)).unwrap_err();
        assert_eq!((error.code(), error.available_wei), ("signer_budget_exhausted", U256::from(40)));
        // Burnt gas counts.
        book.settle(&tenant, id(1), U256::from(50));
        assert!(book.reserve(&of(2, 1, 51), &budget, shares, Timestamp(0)).is_err());
        book.reserve(&of(2, 1, 50), &budget, shares, Timestamp(0)).unwrap();
        book.reserve(&of(3, 2, 100), &budget, shares, Timestamp(0)).unwrap();
        book.reserve(&of(4, 3, 100), &budget, shares, Timestamp(0)).unwrap();
        let error = book.reserve(&of(5, 4, 1), &budget, shares, Timestamp(0)).unwrap_err();
        assert_eq!(error.code(), "target_budget_exhausted");
        book.release(&tenant, id(4));
        book.reserve(&of(5, 4, 100), &budget, shares, Timestamp(0)).unwrap();
    }

    /// Two tenants submit the same signed request at once: each holds and releases its own reservation.
    #[test]
    fn a_request_of_two_tenants_is_reserved_by_each() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let (mut book, shares) = (BudgetBook::new(), BudgetShares::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        book.reserve(&claim(id(1), "a", 1, U256::from(60)), &budget, shares, Timestamp(0)).unwrap();
        book.reserve(&claim(id(1), "b", 1, U256::from(70)), &budget, shares, Timestamp(0)).unwrap();
        book.accept(&b, id(1));
        book.release(&a, id(1));
        assert_eq!((book.totals("a", 1).0, book.totals("b", 1).0), (U256::ZERO, U256::from(70)));
        assert_eq!(book.settle(&b, id(1), U256::from(9)), Some(U256::from(70)));
        assert_eq!((book.totals("a", 1).1, book.totals("b", 1).1), (U256::ZERO, U256::from(9)));
    }

    #[test]
    fn a_reservation_is_released_by_settlement() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let mut book = Book::default();
        let now = Timestamp(5);
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        let error = book.reserve(id(2), "a", 1, &budget, U256::from(60), now).unwrap_err();
        assert_eq!(error.available_wei, U256::from(40));
        // Another chain and another tenant have their own budgets.
        book.reserve(id(3), "a", 2, &budget, U256::from(100), now).unwrap();
        book.reserve(id(4), "b", 1, &budget, U256::from(100), now).unwrap();
        assert_eq!(book.settle(id(1), U256::from(10)), Some(U256::from(60)));
        assert_eq!(book.settle(id(1), U256::from(10)), None);
        book.reserve(id(2), "a", 1, &budget, U256::from(90), now).unwrap();
        assert_eq!(book.totals("a", 1), (U256::from(90), U256::from(10)));
    }

    /// Two submissions of one request at once, quoted at different prices: the reservation covers either.
    #[test]
    fn the_dearer_of_two_quotes_is_held() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let (mut book, now) = (Book::default(), Timestamp(5));
        book.reserve(id(1), "a", 1, &budget, U256::from(40), now).unwrap();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        assert_eq!(book.totals("a", 1).0, U256::from(60));
        let error = book.reserve(id(1), "a", 1, &budget, U256::from(101), now).unwrap_err();
        assert_eq!(error.available_wei, U256::from(100));
        assert_eq!(
            book.reserve(id(2), "a", 1, &budget, U256::from(41), now).unwrap_err().available_wei,
            U256::from(40)
        );
        // The cheaper submission failed on a full disk, the other one is accepted; later repetitions are answered,
        // whatever their quote.
        book.release(id(1));
        book.accept(id(1));
        book.reserve(id(1), "a", 1, &budget, U256::from(500), now).unwrap();
        book.release(id(1));
        assert_eq!(book.totals("a", 1).0, U256::from(60));
        assert_eq!(book.settle(id(1), U256::from(7)), Some(U256::from(60)));
        assert_eq!(book.totals("a", 1), (U256::ZERO, U256::from(7)));
    }

    #[test]
    fn what_an_account_bears_is_spent() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = Book::default();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), Timestamp(5)).unwrap();
        assert_eq!(book.0.free(&"a".into(), 1, &budget, Timestamp(6)), U256::from(40));
        book.0.spend(&"a".into(), 1, &budget, U256::from(30), Timestamp(6));
        assert_eq!(book.0.free(&"a".into(), 1, &budget, Timestamp(6)), U256::from(10));
        assert!(book.reserve(id(2), "a", 1, &budget, U256::from(11), Timestamp(7)).is_err());
        // The next period has its own budget.
        assert_eq!(book.0.free(&"a".into(), 1, &budget, Timestamp(1_000)), U256::from(100));
        assert_eq!(book.0.free(&"b".into(), 1, &budget, Timestamp(0)), U256::from(100));
    }

    /// Two submissions of one request at once, and the first fails on a full disk: the second keeps the reservation.
    #[test]
    fn a_cancel_beyond_the_budget_is_a_debt_until_the_period_ends() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = BudgetBook::new();
        let tenant: Arc<str> = "a".into();
        let is_overdrawn = |book: &BudgetBook, at| book.is_overdrawn(&tenant, 1, &budget, Timestamp(at));
        assert!(!is_overdrawn(&book, 1_500));
        book.spend(&tenant, 1, &budget, U256::from(100), Timestamp(1_500));
        assert!(!is_overdrawn(&book, 1_500), "just spent");
        book.spend(&tenant, 1, &budget, U256::from(1), Timestamp(1_600));
        assert!(is_overdrawn(&book, 1_999));
        assert!(!is_overdrawn(&book, 2_000));
    }

    #[test]
    fn a_failed_twin_releases_nothing() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let mut book = Book::default();
        for _ in 0..2 {
            book.reserve(id(1), "a", 1, &budget, U256::from(60), Timestamp(5)).unwrap();
        }
        book.release(id(1));
        assert_eq!(book.totals("a", 1).0, U256::from(60));
        book.release(id(1));
        assert_eq!(book.totals("a", 1).0, U256::ZERO);
    }

    #[test]
    fn a_new_period_starts_afresh() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = Book::default();
        book.reserve(id(1), "a", 1, &budget, U256::from(100), Timestamp(999)).unwrap();
        book.reserve(id(2), "a", 1, &budget, U256::from(100), Timestamp(1_000)).unwrap();
        // Settlement in the old period does not affect the new one.
        book.settle(id(1), U256::from(100));
        assert_eq!(book.totals("a", 1), (U256::from(100), U256::ZERO));
    }

    #[test]
    fn a_clock_that_steps_back_leaks_nothing() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = Book::default();
        book.reserve(id(1), "a", 1, &budget, U256::from(10), Timestamp(1_000)).unwrap();
        book.reserve(id(2), "a", 1, &budget, U256::from(90), Timestamp(999)).unwrap();
        book.settle(id(2), U256::ZERO);
        assert_eq!(book.totals("a", 1), (U256::from(10), U256::ZERO));
    }

    #[test]
    fn a_restart_counts_the_same() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = Book::default();
        let period = budget.period_start(Timestamp(5_700));
        book.0.restore_spent(&"a".into(), 1, period, U256::from(30));
        book.restore_reserved(id(1), "a", 1, period, U256::from(50));
        book.restore_reserved(id(1), "a", 1, period, U256::from(50));
        // A reservation of a past period is settled there, not here.
        book.restore_reserved(id(2), "a", 1, Timestamp(4_000), U256::from(90));
        assert_eq!(book.totals("a", 1), (U256::from(50), U256::from(30)));
        let error = book.reserve(id(3), "a", 1, &budget, U256::from(21), Timestamp(5_900)).unwrap_err();
        assert_eq!(error.available_wei, U256::from(20));
        assert_eq!(book.settle(id(2), U256::from(90)), Some(U256::from(90)));
        book.settle(id(1), U256::from(60));
        assert_eq!(book.totals("a", 1), (U256::ZERO, U256::from(90)), "a cost above the reservation counts in full");
        assert!(book.reserve(id(4), "a", 1, &budget, U256::from(11), Timestamp(5_999)).is_err());
        assert!(book.reserve(id(4), "a", 1, &budget, U256::from(100), Timestamp(6_000)).is_ok());
    }

    proptest! {
        #[test]
        fn never_overspent(ops in proptest::collection::vec((0u64..20, 0u64..60, any::<bool>()), 0..200)) {
            let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
            let mut book = Book::default();
            let mut held = BTreeMap::new();
            for (n, wei, settle) in ops {
                if settle {
                    if let Some(reserved) = held.remove(&n) {
                        book.settle(id(n), U256::from(reserved / 2));
                    }
                } else if !held.contains_key(&n)
                    && book.reserve(id(n), "a", 1, &budget, U256::from(wei), Timestamp(0)).is_ok() {
                    held.insert(n, wei);
                }
                let (reserved, spent) = book.totals("a", 1);
                prop_assert!(reserved + spent <= budget.limit_wei);
                prop_assert_eq!(reserved, U256::from(held.values().sum::<u64>()));
            }
        }
    }
}
