//! Budgets: reserve the worst case at acceptance, settle with the real cost (invariant I8).

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::U256;

use crate::{request::RequestId, time::Timestamp};

/// A limit on what a tenant may spend, per chain, in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Wei per period and chain.
    pub limit_wei: U256,
    /// Length of a period, aligned to the Unix epoch; zero means once and for all.
    pub period: Duration,
}

impl Budget {
    /// Start of the period that `at` lies in.
    pub fn period_start(&self, at: Timestamp) -> Timestamp {
        let period = crate::time::millis(self.period);
        if period == 0 { Timestamp(0) } else { Timestamp(at.0 - at.0 % period) }
    }
}

/// A budget can't cover the worst case of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs {needed_wei} wei, {available_wei} of {limit_wei} wei are left in this period (`tenant.budget`)")]
pub struct BudgetError {
    /// Worst case of the request.
    pub needed_wei: U256,
    /// What is left.
    pub available_wei: U256,
    /// The whole limit.
    pub limit_wei: U256,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Account {
    period: Timestamp,
    reserved: U256,
    spent: U256,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reservation {
    tenant: String,
    chain_id: u64,
    period: Timestamp,
    wei: U256,
    /// It belongs to a request, not only to submissions that are under way.
    is_accepted: bool,
}

/// What every tenant has reserved and spent, per chain.
///
/// **Invariant I8:** at every moment `reserved + spent ≤ limit` for every period, because `reserve` checks it and
/// `settle` never adds more than was reserved. A reservation made in an old period stays with that period.
#[derive(Debug, Clone, Default)]
pub struct BudgetBook {
    accounts: BTreeMap<(String, u64), Account>,
    reservations: BTreeMap<RequestId, Reservation>,
    /// Further submissions of the same request that are under way: only the last one may give the reservation back.
    repeated: BTreeMap<RequestId, u32>,
}

impl BudgetBook {
    /// An empty book.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts back what the ledger remembers: `spent_wei` in the current period.
    pub fn restore_spent(&mut self, tenant: &str, chain_id: u64, period: Timestamp, spent_wei: U256) {
        let account = self.accounts.entry((tenant.to_owned(), chain_id)).or_default();
        account.period = period;
        account.spent = account.spent.saturating_add(spent_wei);
    }

    /// Puts back the reservation of a live request, without checking the limit (it was checked at acceptance).
    pub fn restore_reserved(&mut self, id: RequestId, tenant: &str, chain_id: u64, period: Timestamp, wei: U256) {
        let reservation = Reservation { tenant: tenant.to_owned(), chain_id, period, wei, is_accepted: true };
        if self.reservations.insert(id, reservation).is_none() {
            let account = self.accounts.entry((tenant.to_owned(), chain_id)).or_default();
            if account.period <= period {
                if account.period < period {
                    *account = Account { period, ..Account::default() };
                }
                account.reserved = account.reserved.saturating_add(wei);
            }
        }
    }

    /// Reserves `wei` of `budget` for request `id`.
    ///
    /// Reserving again for the same id takes nothing twice, and needs a [`Self::release`] of its own. Of two submissions that
    /// are both under way the dearer may become the request, so the larger amount is held.
    ///
    /// # Errors
    /// [`BudgetError`] if less than `wei` is left in the period of `now`; nothing is reserved then.
    pub fn reserve(
        &mut self,
        id: RequestId,
        tenant: &str,
        chain_id: u64,
        budget: &Budget,
        wei: U256,
        now: Timestamp,
    ) -> Result<(), BudgetError> {
        if let Some(held) = self.reservations.get_mut(&id) {
            let more = if held.is_accepted { U256::ZERO } else { wei.saturating_sub(held.wei) };
            if !more.is_zero()
                && let Some(account) = self.accounts.get_mut(&(held.tenant.clone(), held.chain_id))
                && account.period == held.period
            {
                let available = budget.limit_wei.saturating_sub(account.reserved).saturating_sub(account.spent);
                if more > available {
                    let available_wei = available.saturating_add(held.wei);
                    return Err(BudgetError { needed_wei: wei, available_wei, limit_wei: budget.limit_wei });
                }
                account.reserved += more;
                held.wei = wei;
            }
            *self.repeated.entry(id).or_default() += 1;
            return Ok(());
        }
        let period = budget.period_start(now);
        let account = self.accounts.entry((tenant.to_owned(), chain_id)).or_default();
        if account.period < period {
            *account = Account { period, ..Account::default() };
        }
        // A clock that stepped back over the boundary: what counts here must be released here.
        let period = account.period;
        let available = budget.limit_wei.saturating_sub(account.reserved).saturating_sub(account.spent);
        if wei > available {
            return Err(BudgetError { needed_wei: wei, available_wei: available, limit_wei: budget.limit_wei });
        }
        account.reserved += wei;
        let reservation = Reservation { tenant: tenant.to_owned(), chain_id, period, wei, is_accepted: false };
        self.reservations.insert(id, reservation);
        Ok(())
    }

    /// A submission of `id` became a request: what others quote for it does not count any more.
    pub fn accept(&mut self, id: RequestId) {
        if let Some(held) = self.reservations.get_mut(&id) {
            held.is_accepted = true;
        }
    }

    /// A submission of `id` did not become a request, or was one already. The reservation goes with the last that holds it.
    pub fn release(&mut self, id: RequestId) {
        match self.repeated.get_mut(&id) {
            Some(1) => drop(self.repeated.remove(&id)),
            Some(others) => *others -= 1,
            None => drop(self.settle(id, U256::ZERO)),
        }
    }

    /// Ends the reservation of `id` with what it really cost (zero if it never executed).
    ///
    /// Returns the reserved amount, `None` if nothing was reserved. A cost above the reservation is counted in full, so
    /// that the limit errs on the safe side; the caller reports it.
    pub fn settle(&mut self, id: RequestId, cost_wei: U256) -> Option<U256> {
        self.repeated.remove(&id);
        let Reservation { tenant, chain_id, period, wei: reserved, .. } = self.reservations.remove(&id)?;
        if let Some(account) = self.accounts.get_mut(&(tenant, chain_id))
            && account.period == period
        {
            account.reserved = account.reserved.saturating_sub(reserved);
            account.spent = account.spent.saturating_add(cost_wei);
        }
        Some(reserved)
    }

    /// Counts what an account of the tenant bears: it belongs to no request, and is paid already.
    pub fn spend(&mut self, tenant: &str, chain_id: u64, budget: &Budget, wei: U256, now: Timestamp) {
        let period = budget.period_start(now);
        let account = self.accounts.entry((tenant.to_owned(), chain_id)).or_default();
        if account.period < period {
            *account = Account { period, ..Account::default() };
        }
        account.spent = account.spent.saturating_add(wei);
    }

    /// What of `budget` is neither reserved nor spent in the period of `now`, wei.
    pub fn free(&self, tenant: &str, chain_id: u64, budget: &Budget, now: Timestamp) -> U256 {
        match self.accounts.get(&(tenant.to_owned(), chain_id)) {
            Some(account) if account.period >= budget.period_start(now) => {
                budget.limit_wei.saturating_sub(account.reserved).saturating_sub(account.spent)
            }
            _ => budget.limit_wei,
        }
    }

    /// (reserved, spent) of a tenant on a chain, wei.
    pub fn totals(&self, tenant: &str, chain_id: u64) -> (U256, U256) {
        self.accounts
            .get(&(tenant.to_owned(), chain_id))
            .map_or((U256::ZERO, U256::ZERO), |account| (account.reserved, account.spent))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> RequestId {
        RequestId(B256::from(U256::from(n)))
    }

    #[test]
    fn a_reservation_is_released_by_settlement() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let mut book = BudgetBook::new();
        let now = Timestamp(5);
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        let error = book.reserve(id(2), "a", 1, &budget, U256::from(60), now).unwrap_err();
        assert_eq!(error.available_wei, U256::from(40));
        // Another chain and another tenant have their own.
        book.reserve(id(3), "a", 2, &budget, U256::from(100), now).unwrap();
        book.reserve(id(4), "b", 1, &budget, U256::from(100), now).unwrap();
        assert_eq!(book.settle(id(1), U256::from(10)), Some(U256::from(60)));
        assert_eq!(book.settle(id(1), U256::from(10)), None);
        book.reserve(id(2), "a", 1, &budget, U256::from(90), now).unwrap();
        assert_eq!(book.totals("a", 1), (U256::from(90), U256::from(10)));
    }

    /// Two submissions of one request at once, quoted at different prices: whichever becomes the request is covered.
    #[test]
    fn the_dearer_of_two_quotes_is_held() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let (mut book, now) = (BudgetBook::new(), Timestamp(5));
        book.reserve(id(1), "a", 1, &budget, U256::from(40), now).unwrap();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), now).unwrap();
        assert_eq!(book.totals("a", 1).0, U256::from(60));
        let error = book.reserve(id(1), "a", 1, &budget, U256::from(101), now).unwrap_err();
        assert_eq!(error.available_wei, U256::from(100));
        assert_eq!(
            book.reserve(id(2), "a", 1, &budget, U256::from(41), now).unwrap_err().available_wei,
            U256::from(40)
        );
        // The cheaper one met a full disk, the dearer one is accepted; later repetitions are answered, whatever they quote.
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
        let mut book = BudgetBook::new();
        book.reserve(id(1), "a", 1, &budget, U256::from(60), Timestamp(5)).unwrap();
        assert_eq!(book.free("a", 1, &budget, Timestamp(6)), U256::from(40));
        book.spend("a", 1, &budget, U256::from(30), Timestamp(6));
        assert_eq!(book.free("a", 1, &budget, Timestamp(6)), U256::from(10));
        assert!(book.reserve(id(2), "a", 1, &budget, U256::from(11), Timestamp(7)).is_err());
        // The next period has its own.
        assert_eq!(book.free("a", 1, &budget, Timestamp(1_000)), U256::from(100));
        assert_eq!(book.free("b", 1, &budget, Timestamp(0)), U256::from(100));
    }

    /// Two submissions of one request at once, and the first meets a full disk: the second keeps the reservation.
    #[test]
    fn a_failed_twin_releases_nothing() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::ZERO };
        let mut book = BudgetBook::new();
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
        let mut book = BudgetBook::new();
        book.reserve(id(1), "a", 1, &budget, U256::from(100), Timestamp(999)).unwrap();
        book.reserve(id(2), "a", 1, &budget, U256::from(100), Timestamp(1_000)).unwrap();
        // The old period's settlement does not touch the new one.
        book.settle(id(1), U256::from(100));
        assert_eq!(book.totals("a", 1), (U256::from(100), U256::ZERO));
    }

    #[test]
    fn a_clock_that_steps_back_leaks_nothing() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = BudgetBook::new();
        book.reserve(id(1), "a", 1, &budget, U256::from(10), Timestamp(1_000)).unwrap();
        book.reserve(id(2), "a", 1, &budget, U256::from(90), Timestamp(999)).unwrap();
        book.settle(id(2), U256::ZERO);
        assert_eq!(book.totals("a", 1), (U256::from(10), U256::ZERO));
    }

    #[test]
    fn a_restart_counts_the_same() {
        let budget = Budget { limit_wei: U256::from(100), period: Duration::from_secs(1) };
        let mut book = BudgetBook::new();
        let period = budget.period_start(Timestamp(5_700));
        book.restore_spent("a", 1, period, U256::from(30));
        book.restore_reserved(id(1), "a", 1, period, U256::from(50));
        book.restore_reserved(id(1), "a", 1, period, U256::from(50));
        // Reserved in a period that is over: it is settled there, not here.
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
            let mut book = BudgetBook::new();
            let mut held = BTreeMap::new();
            for (n, wei, settle) in ops {
                if settle {
                    if let Some(reserved) = held.remove(&n) {
                        book.settle(id(n), U256::from(reserved / 2));
                    }
                } else if !held.contains_key(&n)
                    && book.reserve(id(n), "t", 1, &budget, U256::from(wei), Timestamp(0)).is_ok() {
                    held.insert(n, wei);
                }
                let (reserved, spent) = book.totals("t", 1);
                prop_assert!(reserved + spent <= budget.limit_wei);
                prop_assert_eq!(reserved, U256::from(held.values().sum::<u64>()));
            }
        }
    }
}
