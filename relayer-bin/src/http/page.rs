//! Keys for use in web pages: every visitor of the page can read them. So they have caps of their own within those of
//! their tenant, and the tenant's server always gets through.
//!
//! Each instance counts usage itself; at its start it reads the usage of this hour and of the budget's period from the
//! ledger, and answers no call before. The tenant's budget itself is kept by the ledger.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use alloy_primitives::{Address, FixedBytes, U256};
use slackwater::{Relay, Submission};
use slackwater_core::{
    Timestamp,
    policy::Budget,
    request::{Deadline, RequestId},
    tuning::keys,
};
use slackwater_ledger::{EndedByKey, EventRecord, KeyUse, LedgerError, OpenByKey};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{App, auth::Caller, problem::Problem};

mod submit;

pub(super) use submit::submit;

/// Period of the hourly caps on requests and money.
const HOUR_MS: u64 = 3_600_000;
/// Interval between checks of held requests, and the number checked each time: all at once would take so long that
/// events are missed.
const SWEEP: Duration = Duration::from_secs(2);
const SWEEP_LEN: usize = 100;
/// Time for which a submission whose commit is in doubt may still turn up.
const DOUBT: Duration = Duration::from_secs(600);

keys! {
    /// Caps of page keys, keys of `page_key`.
    pub struct PageLimits;

    /// Calls per second of one address (IPv6: of one /64).
    rate_per_ip_per_s: NonZeroU32 [1..=1_000_000] = NonZeroU32::MIN.saturating_add(1);
    /// Calls that one address may make at once.
    burst_per_ip: NonZeroU32 [1..=1_000_000] = NonZeroU32::MIN.saturating_add(19);
    /// Requests that one key may submit in an hour.
    max_requests_per_hour: u64 [0..=1_000_000_000] = 1_000;
    /// Percent of the tenant's budget that requests of its page keys may hold and spend in an hour.
    hourly_budget_percent: u32 [0..=100] = 10;
    /// Percent of the tenant's budget that they may hold and spend in its period, and of its open requests that may be theirs.
    budget_percent: u32 [0..=100] = 50;
    beside {
        /// Most wei that one of them may cost; `None` is unlimited (`max_cost_wei`).
        max_cost_wei: Option<U256> = None;
        /// Furthest deadline (`request.default_expiry_ms`).
        max_within: Duration = Duration::from_millis(HOUR_MS);
    }
}

/// Functions by contract and chain.
pub type Functions = BTreeMap<u64, BTreeMap<Address, BTreeSet<FixedBytes<4>>>>;

/// Settings of one tenant for its page keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageTenant {
    /// Functions that the tenant's policy names (`tenant.targets`); others need a secret key.
    pub functions: Functions,
    /// The tenant's budget.
    pub budget: Option<Budget>,
    /// The tenant's open requests (`tenant.max_open_requests`).
    pub max_open_requests: u64,
    /// Price charged to the tenant, percent of cost (`tenant.price_percent`).
    pub price_percent: u32,
}

/// The current time.
pub(super) fn now() -> Timestamp {
    let elapsed = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Checks that a page key may submit this at all.
///
/// # Errors
/// `policy_denied` or `deadline_too_far`.
pub(super) fn check(
    limits: &PageLimits,
    tenant: &PageTenant,
    submission: &mut Submission,
    now: Timestamp,
) -> Result<(), Problem> {
    let denied = |detail: String| Err(Problem::new("policy_denied", detail));
    let Some(forward) = submission.kind.as_forward() else {
        return denied("a page key may submit `forward` only: use a secret key on your server".to_owned());
    };
    if !forward.value.is_zero() {
        return denied(format!("a page key may send no value, and this sends {} wei: use a secret key", forward.value));
    }
    let selector = forward.data.get(..4).map(FixedBytes::<4>::from_slice);
    let named = tenant.functions.get(&submission.chain_id).and_then(|targets| targets.get(&forward.to));
    if !selector.is_some_and(|selector| named.is_some_and(|functions| functions.contains(&selector))) {
        let target = forward.to;
        return denied(format!(
            "a page key may call functions that `tenant.targets` names one by one, and this one of {target} is not named"
        ));
    }
    let slack = match submission.deadline {
        None => Duration::ZERO,
        Some(Deadline::Within(within)) => within,
        Some(Deadline::At(at)) => at.since(now),
    };
    if slack > limits.max_within {
        let (asked, limit) = (slack.as_millis(), limits.max_within.as_millis());
        let detail =
            format!("{asked} ms are more than a page key may ask for, limit {limit} (`request.default_expiry_ms`)");
        return Err(Problem::new("deadline_too_far", detail));
    }
    if let Some(most) = limits.max_cost_wei {
        submission.max_cost_wei = Some(submission.max_cost_wei.map_or(most, |asked| asked.min(most)));
    }
    Ok(())
}

/// Usage of page keys.
#[derive(Debug, Default)]
pub(super) struct PageBook(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    /// By key: the hour, and number of requests in it.
    keys: HashMap<(Arc<str>, Arc<str>), (u64, u64)>,
    /// By tenant: number of open requests.
    open: HashMap<Arc<str>, u64>,
    accounts: HashMap<(Arc<str>, u64), Account>,
    /// By tenant too: the same signed request may belong to another tenant later.
    held: HashMap<Held, Hold>,
}

/// Tenant and request.
type Held = (Arc<str>, RequestId);

/// Wei of a tenant's page keys on a chain.
#[derive(Debug, Default)]
struct Account {
    hour: u64,
    of_hour: U256,
    period: Timestamp,
    of_period: U256,
}

/// A request that has not ended, or a submission under way.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    tenant: Arc<str>,
    key: Arc<str>,
    chain_id: u64,
    hour: u64,
    period: Timestamp,
    wei: U256,
    /// Time until which it is held although the ledger does not have it: its commit is in doubt.
    doubted_until: Option<Timestamp>,
}

impl Account {
    /// Replaces the wei of `hold` by `more`, in the periods in which it still counts.
    fn change(&mut self, hold: &Hold, more: U256) {
        if self.hour == hold.hour {
            self.of_hour = self.of_hour.saturating_sub(hold.wei).saturating_add(more);
        }
        if self.period == hold.period {
            self.of_period = self.of_period.saturating_sub(hold.wei).saturating_add(more);
        }
    }
}

fn percent(of: U256, percent: u32) -> U256 {
    of / U256::from(100) * U256::from(percent) + of % U256::from(100) * U256::from(percent) / U256::from(100)
}

impl PageBook {
    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a place and `wei`, its worst case, for one request of `caller`.
    ///
    /// # Errors
    /// `rate_limited`, `budget_exhausted`, with the key of the cap.
    fn reserve(
        &self,
        limits: &PageLimits,
        tenant: &PageTenant,
        caller: &Caller,
        (chain_id, wei): (u64, U256),
        now: Timestamp,
    ) -> Result<Hold, Problem> {
        let mut books = self.lock();
        let hour = now.0 / HOUR_MS;
        let rest_of_hour = Duration::from_millis((hour + 1) * HOUR_MS - now.0);
        let key = (Arc::clone(&caller.tenant), Arc::clone(&caller.key));
        let submitted = books.keys.get(&key).filter(|(of, _)| *of == hour).map_or(0, |(_, count)| *count);
        if submitted >= limits.max_requests_per_hour {
            let limit = limits.max_requests_per_hour;
            let detail = format!(
                "page key `{}` has submitted {limit} requests this hour, limit {limit} (`page_key.max_requests_per_hour`)",
                caller.key
            );
            return Err(Problem::new("rate_limited", detail).retry_after(rest_of_hour));
        }
        let open = books.open.get(&caller.tenant).copied().unwrap_or(0);
        let limit = tenant.max_open_requests.saturating_mul(u64::from(limits.budget_percent)) / 100;
        if open >= limit {
            let detail = format!(
                "{open} requests of page keys are open, limit {limit} (`page_key.budget_percent` of `tenant.max_open_requests`)"
            );
            return Err(Problem::new("rate_limited", detail).retry_after(Duration::from_secs(1)));
        }
        if let Some(budget) = &tenant.budget {
            let account = books.account(&caller.tenant, chain_id, hour, budget.period_start(now));
            let caps = [
                (account.of_hour, limits.hourly_budget_percent, "page_key.hourly_budget_percent"),
                (account.of_period, limits.budget_percent, "page_key.budget_percent"),
            ];
            for (used, share, name) in caps {
                let limit = percent(budget.limit_wei, share);
                if used.saturating_add(wei) > limit {
                    let left = limit.saturating_sub(used);
                    let detail = format!("needs {wei} wei, {left} of {limit} wei are left for page keys (`{name}`)");
                    return Err(Problem::new("budget_exhausted", detail));
                }
            }
        }
        Ok(books.take(tenant, caller, (chain_id, wei), now))
    }

    /// Takes a place for a request that was accepted nevertheless. Its reservation follows with [`Self::accepted`].
    fn take(&self, tenant: &PageTenant, caller: &Caller, chain_id: u64, now: Timestamp) -> Hold {
        self.lock().take(tenant, caller, (chain_id, U256::ZERO), now)
    }

    /// The submission became request `id`, for which `wei` are reserved.
    fn accepted(&self, mut hold: Hold, id: RequestId, wei: U256) {
        let mut books = self.lock();
        let key = (Arc::clone(&hold.tenant), id);
        if books.held.contains_key(&key) {
            // A duplicate submission of the same request.
            return books.give_back(&hold);
        }
        if let Some(account) = books.accounts.get_mut(&(Arc::clone(&hold.tenant), hold.chain_id)) {
            account.change(&hold, wei);
        }
        hold.wei = wei;
        books.held.insert(key, hold);
    }

    /// The submission was refused.
    fn released(&self, hold: &Hold) {
        self.lock().give_back(hold);
    }

    /// The submission may have become request `id`: its commit is in doubt.
    fn doubted(&self, hold: Hold, id: RequestId, now: Timestamp) {
        let mut books = self.lock();
        let key = (Arc::clone(&hold.tenant), id);
        if books.held.contains_key(&key) {
            return books.give_back(&hold);
        }
        books.held.insert(key, Hold { doubted_until: Some(now.saturating_add(DOUBT)), ..hold });
    }

    /// True while the commit of a held request is in doubt.
    fn may_come(&self, key: &Held, now: Timestamp) -> bool {
        self.lock().held.get(key).and_then(|hold| hold.doubted_until).is_some_and(|until| now < until)
    }

    /// A request has ended with this counted cost.
    fn settled(&self, key: &Held, cost: U256) {
        let mut books = self.lock();
        if let Some(hold) = books.held.remove(key) {
            books.end(&hold, cost);
        }
    }

    /// Counts the usage by page keys of `tenant` before this start, as read from the ledger.
    fn recall(&self, tenant: &Arc<str>, page: &PageTenant, used: KeyUse, now: Timestamp) {
        let mut books = self.lock();
        let of_now = now.0 / HOUR_MS;
        for EndedByKey { key, chain_id, since: [(requests, hour_wei), (_, period_wei)] } in used.ended {
            books.count(tenant, key.into(), of_now, requests);
            let Some(budget) = &page.budget else { continue };
            let account = books.account(tenant, chain_id, of_now, budget.period_start(now));
            account.of_hour = account.of_hour.saturating_add(hour_wei);
            account.of_period = account.of_period.saturating_add(period_wei);
        }
        for OpenByKey { key, id, chain_id, accepted_at, reserved_wei } in used.open {
            let hour = accepted_at.0 / HOUR_MS;
            let key: Arc<str> = key.into();
            if hour == of_now {
                books.count(tenant, Arc::clone(&key), of_now, 1);
            }
            let period = page.budget.as_ref().map_or(Timestamp(0), |budget| budget.period_start(accepted_at));
            let tenant_id = Arc::clone(tenant);
            let mut hold =
                Hold { tenant: tenant_id, key, chain_id, hour, period, wei: U256::ZERO, doubted_until: None };
            if let Some(budget) = &page.budget {
                // `hold` has no wei yet, so this only adds.
                books.account(tenant, chain_id, of_now, budget.period_start(now)).change(&hold, reserved_wei);
                hold.wei = reserved_wei;
            }
            *books.open.entry(Arc::clone(tenant)).or_default() += 1;
            books.held.insert((Arc::clone(tenant), id), hold);
        }
    }

    fn holds(&self, key: &Held) -> bool {
        self.lock().held.contains_key(key)
    }

    fn held(&self) -> Vec<Held> {
        self.lock().held.keys().cloned().collect()
    }
}

impl Books {
    /// Adds to the number of requests of a key in the current hour.
    fn count(&mut self, tenant: &Arc<str>, key: Arc<str>, hour: u64, requests: u64) {
        let count = self.keys.entry((Arc::clone(tenant), key)).or_default();
        *count = (hour, if count.0 == hour { count.1.saturating_add(requests) } else { requests });
    }

    /// A tenant's account on a chain, for this hour and period.
    fn account(&mut self, tenant: &Arc<str>, chain_id: u64, hour: u64, period: Timestamp) -> &mut Account {
        let account = self.accounts.entry((Arc::clone(tenant), chain_id)).or_default();
        if account.hour != hour {
            (account.hour, account.of_hour) = (hour, U256::ZERO);
        }
        if account.period != period {
            (account.period, account.of_period) = (period, U256::ZERO);
        }
        account
    }

    /// Takes a place and `wei`, regardless of the caps.
    fn take(&mut self, tenant: &PageTenant, caller: &Caller, (chain_id, wei): (u64, U256), now: Timestamp) -> Hold {
        let (hour, key) = (now.0 / HOUR_MS, Arc::clone(&caller.key));
        let mut period = Timestamp(0);
        if let Some(budget) = &tenant.budget {
            period = budget.period_start(now);
            let account = self.account(&caller.tenant, chain_id, hour, period);
            account.of_hour = account.of_hour.saturating_add(wei);
            account.of_period = account.of_period.saturating_add(wei);
        }
        *self.open.entry(Arc::clone(&caller.tenant)).or_default() += 1;
        self.count(&caller.tenant, Arc::clone(&key), hour, 1);
        Hold { tenant: Arc::clone(&caller.tenant), key, chain_id, hour, period, wei, doubted_until: None }
    }

    /// Undoes [`Self::take`].
    fn give_back(&mut self, hold: &Hold) {
        if let Some(count) = self.keys.get_mut(&(Arc::clone(&hold.tenant), Arc::clone(&hold.key)))
            && count.0 == hold.hour
        {
            count.1 = count.1.saturating_sub(1);
        }
        self.end(hold, U256::ZERO);
    }

    fn end(&mut self, hold: &Hold, cost: U256) {
        if let Some(account) = self.accounts.get_mut(&(Arc::clone(&hold.tenant), hold.chain_id)) {
            account.change(hold, cost);
        }
        if let Some(open) = self.open.get_mut(&hold.tenant) {
            *open = open.saturating_sub(1);
        }
    }
}

/// Counts what page keys submitted, held and spent before this start, from the ledger. Before any call is answered:
/// otherwise their caps would start from zero.
pub(super) async fn recall(app: &App) -> Result<(), LedgerError> {
    let now = now();
    let hour = Timestamp(now.0 - now.0 % HOUR_MS);
    for (tenant, keys, page) in app.access().page_doors() {
        let period = page.budget.as_ref().map_or(hour, |budget| budget.period_start(now));
        let used = app.relay.history().used_by_keys(&tenant, &keys, [hour, period]).await?;
        app.pages.recall(&tenant, &page, used, now);
    }
    Ok(())
}

/// Releases the holds of requests of page keys when these end. Runs as long as the API.
pub(super) async fn follow(app: Arc<App>, mut events: Receiver<Arc<[EventRecord]>>) {
    let (mut sweep, mut swept) = (tokio::time::interval(SWEEP), 0);
    loop {
        let received = tokio::select! {
            () = app.closing.cancelled() => return,
            received = events.recv() => received,
            // The request may have ended before its hold was entered, or while the ledger could not be read.
            _ = sweep.tick() => {
                let held = app.pages.held();
                swept = if swept < held.len() { swept } else { 0 };
                for key in held.iter().skip(swept).take(SWEEP_LEN) {
                    settle(&app.relay, &app.pages, key).await;
                }
                swept += SWEEP_LEN;
                continue;
            }
        };
        let ended: Vec<Held> = match received {
            Ok(group) => {
                let ended = group.iter().filter(|event| event.status.is_terminal());
                let held = ended.map(|event| (Arc::from(event.tenant.as_str()), event.request_id));
                held.filter(|key| app.pages.holds(key)).collect()
            }
            Err(RecvError::Lagged(_)) => app.pages.held(),
            Err(RecvError::Closed) => return,
        };
        for key in ended {
            settle(&app.relay, &app.pages, &key).await;
        }
    }
}

async fn settle(relay: &Relay, pages: &PageBook, key: &Held) {
    let (tenant, id) = key;
    match relay.request(*id).await {
        Ok(Some(record)) if record.tenant == **tenant && !record.status.is_terminal() => {}
        Ok(Some(record)) if record.tenant == **tenant => pages.settled(key, record.counted_wei()),
        Ok(_) if pages.may_come(key, now()) => {}
        // It belongs to another tenant now: it ended untried, at no cost.
        Ok(_) => pages.settled(key, U256::ZERO),
        // Held until the next check: rather too much is counted than too little.
        Err(error) => tracing::warn!(%id, %error, "what a page key's request cost could not be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::auth::Scopes;

    fn caller() -> Caller {
        Caller { tenant: "shop".into(), key: "web".into(), scopes: Scopes::NONE, is_known: true, is_page: true }
    }

    fn tenant(limit_wei: u64, period_s: u64) -> PageTenant {
        let budget = Budget { limit_wei: U256::from(limit_wei), period: Duration::from_secs(period_s) };
        PageTenant { functions: Functions::new(), budget: Some(budget), max_open_requests: 10, price_percent: 100 }
    }

    fn id(n: u8) -> RequestId {
        RequestId(alloy_primitives::B256::repeat_byte(n))
    }

    fn held(tenant: &str, n: u8) -> Held {
        (tenant.into(), id(n))
    }

    const T0: Timestamp = Timestamp(HOUR_MS * 1_000);

    #[test]
    fn an_hour_and_a_period_have_their_share() {
        let (book, limits, tenant) = (PageBook::default(), PageLimits::default(), tenant(1_000, 86_400));
        let reserve = |wei: u64, at: Timestamp| book.reserve(&limits, &tenant, &caller(), (1, U256::from(wei)), at);
        let first = reserve(90, T0).unwrap();
        let problem = reserve(11, T0).unwrap_err();
        assert_eq!(problem.code(), "budget_exhausted");
        assert!(problem.detail().contains("page_key.hourly_budget_percent"), "{}", problem.detail());
        // First the real reservation counts, then the real cost.
        book.accepted(first, id(1), U256::from(60));
        let second = reserve(40, T0).unwrap();
        book.released(&second);
        book.settled(&held("shop", 1), U256::from(20));
        let second = reserve(80, T0).unwrap();
        book.accepted(second, id(2), U256::from(80));
        // In the next hours, up to half of the budget.
        for hour in 1..=4 {
            let hold = reserve(100, Timestamp(T0.0 + hour * HOUR_MS)).unwrap();
            book.accepted(hold, id(10 + hour as u8), U256::from(100));
        }
        let problem = reserve(1, Timestamp(T0.0 + 5 * HOUR_MS)).unwrap_err();
        assert!(problem.detail().contains("page_key.budget_percent"), "{}", problem.detail());
    }

    /// Submitted through another tenant's page before this instance learns that the first tenant's request has ended.
    #[test]
    fn the_same_signed_request_is_held_for_each_tenant_that_has_it() {
        let (book, limits, tenant) = (PageBook::default(), PageLimits::default(), tenant(1_000, 86_400));
        let reserve = |tenant_id: &str| {
            let caller = Caller { tenant: tenant_id.into(), ..caller() };
            book.reserve(&limits, &tenant, &caller, (1, U256::from(90)), T0).unwrap()
        };
        book.accepted(reserve("shop"), id(1), U256::from(90));
        book.accepted(reserve("bank"), id(1), U256::from(90));
        book.settled(&held("shop", 1), U256::ZERO);
        assert_eq!(book.lock().open[&*held("bank", 1).0], 1);
        assert_eq!(book.lock().open[&*held("shop", 1).0], 0);
        book.settled(&held("bank", 1), U256::from(80));
        assert_eq!(book.lock().accounts[&("bank".into(), 1)].of_hour, U256::from(80));
        assert_eq!(book.lock().accounts[&("shop".into(), 1)].of_hour, U256::ZERO);
    }

    #[test]
    fn what_the_ledger_counted_goes_on_after_a_start() {
        let limits = PageLimits { max_requests_per_hour: 4, ..PageLimits::default() };
        let (book, tenant) = (PageBook::default(), tenant(1_000, 86_400));
        let ended = |key: &str, requests, hour: u64, period: u64| EndedByKey {
            key: key.to_owned(),
            chain_id: 1,
            since: [(requests, U256::from(hour)), (requests + 9, U256::from(period))],
        };
        let open = |n: u8, at: u64| OpenByKey {
            key: "web".to_owned(),
            id: id(n),
            chain_id: 1,
            accepted_at: Timestamp(at),
            reserved_wei: U256::from(20),
        };
        let used = KeyUse { open: vec![open(1, T0.0), open(2, T0.0 - 1)], ended: vec![ended("web", 1, 30, 400)] };
        book.recall(&"shop".into(), &tenant, used, T0);
        // The hour has 30 spent and 20 held, the period 400 and 40.
        let reserve = |wei: u64, at: Timestamp| book.reserve(&limits, &tenant, &caller(), (1, U256::from(wei)), at);
        assert!(reserve(51, T0).unwrap_err().detail().contains("50 of 100 wei"));
        let hold = reserve(50, T0).unwrap();
        // The fourth of the hour was the second submitted in it, plus one that has ended.
        book.accepted(hold, id(3), U256::from(50));
        reserve(0, T0).unwrap();
        assert!(reserve(0, T0).unwrap_err().detail().contains("page_key.max_requests_per_hour"));
        // Later in the day 500 - 400 - 40 - 50 are left, and holds are released.
        let later = Timestamp(T0.0 + HOUR_MS);
        assert!(reserve(11, later).unwrap_err().detail().contains("10 of 500 wei"));
        book.settled(&held("shop", 1), U256::ZERO);
        book.settled(&held("shop", 2), U256::from(5));
        assert!(reserve(46, later).unwrap_err().detail().contains("45 of 500 wei"));
        reserve(45, later).unwrap();
    }

    #[test]
    fn open_requests_and_requests_per_hour_have_their_share() {
        let limits = PageLimits { max_requests_per_hour: 7, ..PageLimits::default() };
        let (book, tenant) = (PageBook::default(), PageTenant { budget: None, ..tenant(0, 0) });
        let reserve = |at: Timestamp| book.reserve(&limits, &tenant, &caller(), (1, U256::from(5)), at);
        for n in 0..5 {
            book.accepted(reserve(T0).unwrap(), id(n), U256::ZERO);
        }
        let problem = reserve(T0).unwrap_err();
        assert!(problem.detail().contains("page_key.budget_percent"), "{}", problem.detail());
        for n in 0..5 {
            book.settled(&held("shop", n), U256::ZERO);
            book.settled(&held("shop", n), U256::ZERO);
        }
        book.accepted(reserve(T0).unwrap(), id(6), U256::ZERO);
        // A duplicate takes one place, and a refused submission takes none.
        book.accepted(reserve(T0).unwrap(), id(6), U256::ZERO);
        book.released(&reserve(T0).unwrap());
        assert_eq!(book.lock().open[&*caller().tenant], 1);
        // A submission in doubt is held until it turns up, or no longer can.
        book.doubted(reserve(T0).unwrap(), id(7), T0);
        assert!(book.may_come(&held("shop", 7), T0) && !book.may_come(&held("shop", 6), T0));
        assert!(!book.may_come(&held("shop", 7), T0.saturating_add(DOUBT)));
        let problem = reserve(T0).unwrap_err();
        assert!(problem.detail().contains("page_key.max_requests_per_hour"), "{}", problem.detail());
        assert!(reserve(Timestamp(T0.0 + HOUR_MS)).is_ok());
    }
}
