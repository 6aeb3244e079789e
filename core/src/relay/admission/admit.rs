//! Admission: from a submission to a durable, promised request.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, RwLock},
    time::Duration,
};

use alloy_primitives::{Address, Bytes, ChainId, U256, keccak256};
use futures_util::{StreamExt as _, stream};

use super::{
    hook::{AdmissionRequest, HookSetup},
    log::RefusalSums,
    pause::PauseBoard,
    tenants::{Tenant, Tenants},
};
use crate::{
    chain::{
        Fees,
        data_fee::{DataFeeModel, TransactionCost, TxShape, TxSize, with_margin},
    },
    ledger::{
        AcceptOutcome, BudgetLimit, Durable, GroupCommit, Idempotency, Ledger, LedgerError, NewRequest, RequestRecord,
        Write, WriteOutcome,
    },
    policy::{BudgetError, BudgetShare, Claim, OpenError},
    protection::Protection,
    relay::{
        chain::{health, message::Message, shared::ChainShared},
        chance, clock,
        handle::{
            error::SubmitError,
            status::{Acceptance, ChainStatus, Quote},
        },
        market::forecast::WaitQuote,
        nodes::simulate::{AgreedNonce, At, agreed_nonces, forwarder_nonces},
        signer::AccountKey,
    },
    request::{
        Deadline, MAX_IDEMPOTENCY_KEY_BYTES, Promise, RequestId, Status, Submission, VerifiedRequest, VerifyContext,
        VerifyError, identify,
        settlement::{cost_within, data_needed, with_price},
        verify,
    },
    schedule::{QueuedRequest, Refusals},
    sender::{DoorLimits, Price, usual_forward},
    time::Timestamp,
};

/// Most promises of one submission that an identity elsewhere signs at a time.
const PROMISES_AT_ONCE: usize = 64;

/// Number of requests verified together on a blocking thread.
const VERIFY_CHUNK: usize = 128;

/// Capacity of the cache of users' forwarder nonces.
pub(in crate::relay) const NONCE_CACHE_LEN: u64 = 200_000;

/// (forwarder, user).
type User = (Address, Address);

impl ChainShared {
    /// Number of the newest head.
    fn head(&self) -> Option<u64> {
        self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).status.head
    }

    /// Prices of gas and data as of the newest head.
    fn prices(&self) -> Result<(Price, DataFeeModel), SubmitError> {
        let view = self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let unavailable = |detail: &str| SubmitError::ChainUnavailable {
            chain_id: self.spec.chain_id,
            detail: detail.to_owned(),
            retry_after: self.spec.block_time().max(Duration::from_secs(1)),
        };
        let Some(price) = view.price else {
            return Err(unavailable(view.status.detail.as_deref().unwrap_or("no block has been seen yet")));
        };
        let now = clock::now();
        if health::is_stale(now, view.priced_at, self.tuning.heads.max_head_age) {
            let (age, limit) = (now.since(view.priced_at).as_secs(), self.tuning.heads.max_head_age.as_millis());
            return Err(unavailable(&format!("no new block for {age} s (`chain.max_head_age_ms` {limit})")));
        }
        let fault = view.data_fee_fault.as_deref().unwrap_or("L1 fee parameters have not been read yet");
        Ok((price, view.data_fee.ok_or_else(|| unavailable(fault))?))
    }

    /// Refuses a deadline that the chain's clock, being ahead, reaches before a transaction can be included.
    fn check_clock(&self, now: Timestamp, deadline: Timestamp) -> Result<(), SubmitError> {
        let ahead = self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).clock_ahead;
        if ahead.is_zero() || deadline > now.saturating_add(ahead).saturating_add(self.tuning.admission.min_slack) {
            return Ok(());
        }
        let (deadline_ms, ahead_ms) = (deadline.0, crate::time::millis(ahead));
        Err(SubmitError::ChainClockAhead { chain_id: self.spec.chain_id, deadline_ms, ahead_ms })
    }

    fn door(&self) -> DoorLimits {
        self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner).door
    }

    /// Refuses a value above every lane's balance: gas can wait for a top-up, but balances are not sized for a single
    /// transfer.
    fn check_value(&self, value_wei: U256) -> Result<(), SubmitError> {
        if value_wei.is_zero() {
            return Ok(());
        }
        let view = self.view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let balances: Option<Vec<U256>> = view.lanes.iter().map(|lane| lane.balance_wei).collect();
        match balances.and_then(|balances| balances.into_iter().max()) {
            Some(balance_wei) if balance_wei < value_wei => {
                Err(SubmitError::AboveLaneBalance { value_wei, balance_wei })
            }
            // Balances are not read yet, or the lanes are driven by another instance.
            _ => Ok(()),
        }
    }

    /// Cost of a request in a transaction of its own: worst case at `ceiling`, and expected in the next block.
    fn cost(&self, prices: (Price, DataFeeModel), shape: &TxShape<'_>, ceiling: u128) -> TransactionCost {
        let (price, model) = prices;
        let fees = Fees::new(ceiling, price.quote.max_priority_fee_per_gas);
        TransactionCost::of(shape, fees, price.next_base_fee, &model, self.tuning.fees.l1_fee_margin_percent)
    }

    /// Highest gas price reserved from a budget when `now` is offered for the next block, wei per gas.
    fn budgeted_ceiling(&self, now: u128) -> u128 {
        let percent = u128::from(self.tuning.admission.budget_headroom_percent) + 100;
        self.tuning.fees.max_fee_ceiling_wei_per_gas.min(now.saturating_mul(percent) / 100)
    }

    /// Gas of a transaction with a single member of `member_gas`.
    fn gas_alone(&self, member_gas: u64) -> u64 {
        self.params.base_gas().saturating_add(member_gas)
    }

    /// Expected cost now, and worst-case cost at `ceiling` wei per gas, of a request of this shape.
    fn quote(&self, prices: (Price, DataFeeModel), shape: &TxShape<'_>, ceiling: u128) -> Quote {
        let (price, model) = prices;
        let cost = self.cost(prices, shape, ceiling);
        Quote {
            base_fee_wei_per_gas: price.next_base_fee,
            priority_fee_wei_per_gas: price.quote.max_priority_fee_per_gas,
            gas: shape.gas_used.saturating_add(model.poster_gas(shape.size).expected),
            l1_data_fee_wei: cost.data.expected,
            operator_fee_wei: cost.operator.expected,
            expected_cost_wei: cost.total_expected(),
            max_cost_wei: if Protection::ReserveWorstCase.is_on() { cost.total_max() } else { cost.total_expected() },
        }
    }
}

/// All configured chains: those that are up, and those not reached yet.
#[derive(Debug, Default)]
pub(in crate::relay) struct Chains(RwLock<BTreeMap<ChainId, Served>>);

/// State of a configured chain.
#[derive(Debug, Clone)]
enum Served {
    Up(Arc<ChainShared>),
    /// No node has been reached since the start.
    Awaited(Box<ChainStatus>),
}

impl Chains {
    fn read<T>(&self, read: impl FnOnce(&BTreeMap<ChainId, Served>) -> T) -> T {
        read(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn put(&self, chain_id: ChainId, served: Served) {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(chain_id, served);
    }

    /// Marks a chain as reachable: it is served from now on.
    pub(in crate::relay) fn up(&self, chain: Arc<ChainShared>) {
        self.put(chain.spec.chain_id, Served::Up(chain));
    }

    /// Marks a chain as not reached yet, with its status until then.
    pub(in crate::relay) fn awaited(&self, status: ChainStatus) {
        self.put(status.chain_id, Served::Awaited(Box::new(status)));
    }

    /// The chain, if it is up.
    pub(in crate::relay) fn get(&self, chain_id: ChainId) -> Option<Arc<ChainShared>> {
        self.read(|chains| match chains.get(&chain_id) {
            Some(Served::Up(chain)) => Some(chain.clone()),
            _ => None,
        })
    }

    /// True if the chain is configured, reachable or not.
    pub(in crate::relay) fn is_served(&self, chain_id: ChainId) -> bool {
        self.read(|chains| chains.contains_key(&chain_id))
    }

    /// The chain if it is up, or the reason why it can't be used.
    pub(in crate::relay) fn served(&self, chain_id: ChainId) -> Result<Arc<ChainShared>, SubmitError> {
        self.read(|chains| match chains.get(&chain_id) {
            Some(Served::Up(chain)) => Ok(chain.clone()),
            Some(Served::Awaited(status)) => Err(SubmitError::ChainUnavailable {
                chain_id,
                detail: status.detail.clone().unwrap_or_default(),
                retry_after: Duration::from_secs(5),
            }),
            None => Err(SubmitError::UnknownChain(chain_id)),
        })
    }

    /// All chains that are up, by id.
    pub(in crate::relay) fn all(&self) -> Vec<Arc<ChainShared>> {
        let up = |served: &Served| match served {
            Served::Up(chain) => Some(chain.clone()),
            Served::Awaited(_) => None,
        };
        self.read(|chains| chains.values().filter_map(up).collect())
    }

    /// Status of every chain, by id.
    pub(in crate::relay) fn statuses(&self) -> Vec<ChainStatus> {
        let status = |served: Served| match served {
            Served::Up(chain) => chain.view().status,
            Served::Awaited(status) => *status,
        };
        self.read(|chains| chains.values().cloned().collect::<Vec<_>>()).into_iter().map(status).collect()
    }
}

/// Admission of requests for all chains.
#[derive(Debug)]
pub(in crate::relay) struct Admission {
    pub(in crate::relay) chains: Arc<Chains>,
    pub(in crate::relay) tenants: Arc<Tenants>,
    pub(in crate::relay) pauses: Arc<PauseBoard>,
    pub(in crate::relay) group: GroupCommit,
    pub(in crate::relay) ledger: Arc<dyn Ledger>,
    pub(in crate::relay) identity: AccountKey,
    pub(in crate::relay) hook: Option<HookSetup>,
    pub(in crate::relay) default_within: Duration,
    pub(in crate::relay) default_expiry: Duration,
    pub(in crate::relay) max_within: Duration,
    /// Longest wait for a commit if the ledger is shared or its storage is unavailable.
    pub(in crate::relay) accept_timeout: Duration,
    /// Sums of refusals for the decision log.
    pub(in crate::relay) refusals: Arc<RefusalSums>,
}

/// Reason of a refused submission, and the request's id if it is known.
struct Refused {
    error: Box<SubmitError>,
    id: Option<RequestId>,
}

impl<E: Into<SubmitError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self { error: Box::new(error.into()), id: None }
    }
}

impl Refused {
    /// True if the same submission may have been accepted before, under an earlier deadline check, chain state or
    /// policy.
    fn may_be_known(&self) -> bool {
        !matches!(
            *self.error,
            SubmitError::Invalid(
                VerifyError::Signature(_)
                    | VerifyError::WrongSigner { .. }
                    | VerifyError::WrongChain { .. }
                    | VerifyError::ReceiveAuthorization
                    | VerifyError::UnknownForwarder(_)
                    | VerifyError::UnknownToken(_)
            ) | SubmitError::IdempotencyKey { .. }
        )
    }
}

/// Refuses a request that passed so far.
fn refuse(item: &mut Undecided, error: Option<SubmitError>) {
    if let (Ok(prepared), Some(error)) = (&*item, error) {
        *item = Err(Refused { error: Box::new(error), id: Some(prepared.request.id()) });
    }
}

/// A submission that passed the checks so far, or its refusal.
type Undecided = Result<Prepared, Refused>;

/// Key of a signer's nonce sequence: (chain, forwarder, signer).
type Line = (ChainId, Address, Address);

/// Nonce sequences with a request refused for a limit (rate, open requests, budget): later nonces would wait behind a
/// gap.
#[derive(Debug, Default)]
struct Halted(HashMap<Line, SubmitError>);

impl Halted {
    fn error(&self, line: Option<Line>) -> Option<SubmitError> {
        self.0.get(&line?).cloned()
    }

    fn note(&mut self, line: Option<Line>, error: &SubmitError) {
        if let Some(line) = line
            && matches!(
                error,
                SubmitError::RateLimited { .. }
                    | SubmitError::Open(_)
                    | SubmitError::Budget(_)
                    | SubmitError::Denied { .. }
                    | SubmitError::HookUnavailable { .. }
                    | SubmitError::Unsigned
            )
        {
            self.0.entry(line).or_insert_with(|| error.clone());
        }
    }
}

/// Order of decision for these submissions: as submitted, except that each signer's are sorted by nonce among the
/// positions they occupy.
fn in_order(lines: &[Option<(Line, U256)>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    let mut places: HashMap<Line, Vec<usize>> = HashMap::new();
    for (index, line) in lines.iter().enumerate() {
        if let Some((line, _)) = line {
            places.entry(*line).or_default().push(index);
        }
    }
    for places in places.into_values() {
        if places.is_sorted_by_key(|index| lines[*index].map(|(_, nonce)| nonce)) {
            continue;
        }
        let mut sorted = places.clone();
        sorted.sort_by_key(|index| lines[*index].map(|(_, nonce)| nonce));
        for (place, index) in places.into_iter().zip(sorted) {
            order[place] = index;
        }
    }
    order
}

/// A submission that passed all checks without I/O.
struct Prepared {
    chain: Arc<ChainShared>,
    request: Arc<VerifiedRequest>,
    member_gas: u64,
    bytes: usize,
    ceiling: u128,
    quote: Quote,
    price_percent: u32,
    idempotency: Option<Idempotency>,
    promise_signature: Bytes,
    payload: Vec<u8>,
    submitted_by: Option<Arc<str>>,
}

impl Admission {
    /// Current cost of a request of `tenant` with `gas` inner gas and typical calldata on a chain.
    pub(in crate::relay) fn quote(&self, tenant: &str, chain_id: ChainId, gas: u64) -> Result<Quote, SubmitError> {
        let tenant = self.tenants.get(tenant).ok_or_else(|| SubmitError::UnknownTenant(tenant.to_owned()))?;
        let chain = self.chains.served(chain_id)?;
        let prices = chain.prices()?;
        let member_gas = gas.saturating_add(chain.tuning.batch.forward_overhead_gas);
        let size = if prices.1 == DataFeeModel::None { TxSize::default() } else { usual_forward() };
        let gas_limit = chain.reserved_gas(member_gas);
        let shape = TxShape { gas_used: member_gas, gas_limit, size: &size, value: U256::ZERO };
        let now = prices.0.quote.max_fee_per_gas;
        let ceiling = if tenant.policy.budget.is_some() { chain.budgeted_ceiling(now) } else { now };
        let quote = chain.quote(prices, &shape, ceiling);
        Ok(Quote { max_cost_wei: with_price(quote.max_cost_wei, tenant.policy.price_percent), ..quote })
    }

    /// The id that `item` would have, and its current quote, which includes the amount reserved from the tenant's
    /// budget. Runs every check of an acceptance that needs no I/O.
    pub(in crate::relay) fn assess(
        &self,
        tenant: &str,
        submission: Submission,
    ) -> Result<(RequestId, Quote), SubmitError> {
        let tenant = self.tenants.get(tenant).ok_or_else(|| SubmitError::UnknownTenant(tenant.to_owned()))?;
        let prepared = self.prepare(&tenant, submission, clock::now()).map_err(|refused| *refused.error)?;
        Ok((prepared.request.id(), prepared.quote))
    }

    /// Value of waiting on a chain.
    pub(in crate::relay) fn quote_wait(
        &self,
        chain_id: ChainId,
        slack: Duration,
    ) -> Result<Option<WaitQuote>, SubmitError> {
        let chain = self.chains.served(chain_id)?;
        let cap = chain.prices()?.0.quote.max_fee_per_gas;
        Ok(chain.view().forecast.and_then(|view| view.quote(slack, cap)))
    }

    /// Submits `items` in one commit; answers in order.
    ///
    /// Runs to its end even if the caller goes away: committed requests must reach the queue.
    pub(in crate::relay) async fn submit(
        self: Arc<Self>,
        tenant: &str,
        items: Vec<Submission>,
        submitted_by: Option<Arc<str>>,
    ) -> Vec<Result<Acceptance, SubmitError>> {
        let count = items.len();
        let Some(tenant) = self.tenants.get(tenant) else {
            return vec![Err(SubmitError::UnknownTenant(tenant.to_owned())); count];
        };
        // For the commit; hook and identity have limits of their own.
        let limit = self.accept_timeout.saturating_add(self.asking_time(count));
        let (is_shared, group) = (self.tenants.is_shared(), self.group.clone());
        let mut submitted = tokio::spawn(self.submit_to_end(tenant, items, submitted_by));
        let answered = loop {
            match tokio::time::timeout(limit, &mut submitted).await {
                Ok(answered) => break answered,
                // An unshared file that takes long is merely busy, unless its storage is known to be unavailable.
                Err(_) if !is_shared && group.fault().is_none() => {}
                Err(_) => {
                    let limit = limit.as_millis();
                    let detail = format!("no answer within {limit} ms (`ledger.accept_timeout_ms`)");
                    return vec![Err(LedgerError::InDoubt(detail).into()); count];
                }
            }
        };
        answered.unwrap_or_else(|_| vec![Err(SubmitError::ShuttingDown); count])
    }

    async fn submit_to_end(
        self: Arc<Self>,
        tenant: Arc<Tenant>,
        items: Vec<Submission>,
        submitted_by: Option<Arc<str>>,
    ) -> Vec<Result<Acceptance, SubmitError>> {
        let now = clock::now();
        let lines: Vec<_> = items.iter().map(line_of).collect();
        let order = in_order(&lines);
        let line = |index: usize| lines[index].map(|(line, _)| line);
        let mut answers: Vec<Option<Result<Acceptance, SubmitError>>> = items.iter().map(|_| None).collect();
        let mut halted = Halted::default();
        let mut refused = 0;
        for &index in &order {
            let error = halted.error(line(index)).map_or_else(|| tenant.admit(refused), Err).err();
            if let Some(error) = error {
                refused = refused.saturating_add(1);
                halted.note(line(index), &error);
                answers[index] = Some(Err(error));
            }
        }
        let admitted: Vec<usize> = (0..items.len()).filter(|index| answers[*index].is_none()).collect();
        let items = items.into_iter().enumerate().filter(|(index, _)| answers[*index].is_none()).map(|(_, item)| item);
        let mut prepared = self.clone().prepare_all(&tenant, items.collect(), now).await;
        let seen = self.check_nonces(&tenant, &mut prepared).await;
        self.ask_hook(&tenant, submitted_by.as_ref(), &mut prepared).await;
        self.sign_promises(&mut prepared).await;
        let now = self.check_time(&tenant, &mut prepared, now);
        let mut writes = Vec::with_capacity(prepared.len());
        let mut waiting = Vec::with_capacity(prepared.len());
        let mut undecided: Vec<Option<Undecided>> = lines.iter().map(|_| None).collect();
        for (index, item) in admitted.into_iter().zip(prepared) {
            undecided[index] = Some(item);
        }
        for index in order {
            let Some(item) = undecided[index].take() else { continue };
            let reserved = match item {
                Ok(item) => self.reserve(&tenant, item, &seen, halted.error(line(index)), now).await,
                Err(refused) => Err(refused),
            };
            match reserved {
                Ok(item) => {
                    let item = Prepared { submitted_by: submitted_by.clone(), ..item };
                    writes.push(Write::Accept(Box::new(self.new_request(&tenant, &item, now))));
                    waiting.push((index, item));
                }
                Err(refused) => {
                    let answer = self.recall(&tenant, refused).await;
                    if let Err(error) = &answer {
                        halted.note(line(index), error);
                    }
                    answers[index] = Some(answer);
                }
            }
        }
        match self.group.try_submit_all(writes).await {
            Ok(outcomes) => {
                let mut accepted: BTreeMap<ChainId, Vec<QueuedRequest>> = BTreeMap::new();
                for ((index, item), outcome) in waiting.into_iter().zip(outcomes) {
                    answers[index] = Some(self.answer(&tenant, item, outcome, now, &mut accepted));
                }
                for (chain_id, entries) in accepted {
                    if self.tenants.is_shared() {
                        // The leader learns of them from the ledger.
                        continue;
                    }
                    if let Some(chain) = self.chains.get(chain_id) {
                        // A service that has ended is restarted with the process, and then reads them from the ledger.
                        let _ = chain.inbox.send(Message::Accepted(entries)).await;
                    }
                }
            }
            Err(error) => {
                for (index, item) in waiting {
                    // If in doubt the reservation stays, since the request may be durable.
                    if !error.is_ambiguous() {
                        self.tenants.release(&tenant, item.request.id());
                    }
                    answers[index] = Some(Err(error.clone().into()));
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(SubmitError::ShuttingDown))).collect()
    }

    /// Reserves an open slot and budget for a request; if its signer seems to have a nonce gap, only after a new
    /// lookup.
    async fn reserve(
        &self,
        tenant: &Tenant,
        item: Prepared,
        seen: &BTreeMap<(ChainId, User), u64>,
        halted: Option<SubmitError>,
        now: Timestamp,
    ) -> Result<Prepared, Refused> {
        let id = item.request.id();
        let refused = |error| Refused { error: Box::new(error), id: Some(id) };
        if let Some(error) = halted {
            return Err(refused(error));
        }
        let chain_id = item.chain.spec.chain_id;
        let user = item.request.sequence().map(|(forwarder, signer, _)| (forwarder, signer));
        let next = user.and_then(|user| seen.get(&(chain_id, user)).copied());
        let claim = Claim::of(&tenant.name, &item.request, item.quote.max_cost_wei);
        match self.tenants.reserve(tenant, &claim, next, now) {
            Ok(()) => return Ok(item),
            Err(SubmitError::Open(OpenError::Gapped { .. } | OpenError::GappedBudget { .. })) => {}
            Err(error) => return Err(refused(error)),
        }
        if let Some(user) = user {
            self.look_at_gap(tenant, &item.chain, user).await;
        }
        self.tenants.reserve(tenant, &claim, None, now).map_err(refused)?;
        Ok(item)
    }

    /// Looks up a signer's seemingly missing nonces at the nodes and in a shared ledger, so that no request is refused
    /// for a gap that does not exist.
    async fn look_at_gap(&self, tenant: &Tenant, chain: &ChainShared, (forwarder, signer): User) {
        let line = (chain.spec.chain_id, forwarder, signer);
        if let Some(head) = chain.head()
            && chain.agreed_at.get(&(forwarder, signer)).await != Some(head)
            && tenant.may_look_up(1)
        {
            let block = serde_json::json!("latest");
            let users = [(forwarder, signer)];
            let lookup = forwarder_nonces(&chain.pool, &users, chain.multicall3(), &block);
            if let Ok(Ok(nonces)) = tokio::time::timeout(chain.tuning.admission.nonce_lookup, lookup).await
                && let Some(nonce) = nonces.first().copied().flatten()
            {
                chain.agreed_at.insert((forwarder, signer), head).await;
                let known = chain.nonces.get(&(forwarder, signer)).await;
                if known.is_none_or(|known| known < nonce) {
                    chain.nonces.insert((forwarder, signer), nonce).await;
                    self.tenants.set_chain_nonce(line, nonce);
                }
            }
        }
        if self.tenants.is_shared()
            && let Ok(nonces) = self.ledger.nonces_of(line.0, forwarder, signer).await
        {
            self.tenants.set_elsewhere(line, nonces);
        }
    }

    /// Asks the hook about the requests that passed so far.
    async fn ask_hook(&self, tenant: &Tenant, submitted_by: Option<&Arc<str>>, prepared: &mut [Undecided]) {
        let Some(hook) = &self.hook else { return };
        let asked = prepared.iter().flatten().map(|item| AdmissionRequest {
            tenant: tenant.name.clone(),
            submitted_by: submitted_by.cloned(),
            id: item.request.id(),
            chain_id: item.chain.spec.chain_id,
            kind: item.request.kind().clone(),
            deadline: item.request.deadline(),
            quote: item.quote.clone(),
        });
        let answers = hook.ask(asked.collect()).await;
        for (item, answer) in prepared.iter_mut().filter(|item| item.is_ok()).zip(answers) {
            refuse(item, answer.err());
        }
    }

    /// Longest time that hook and identity may take for `count` requests.
    fn asking_time(&self, count: usize) -> Duration {
        let rounds = |at_once: usize| u32::try_from(count.div_ceil(at_once)).unwrap_or(u32::MAX);
        let hook = self.hook.as_ref().map_or(Duration::ZERO, |hook| hook.longest(count));
        hook.saturating_add(self.identity.time_limit().saturating_mul(rounds(PROMISES_AT_ONCE)))
    }

    /// Refuses requests for which hook and identity took too long, or during whose wait acceptance was paused. Returns the
    /// time.
    fn check_time(&self, tenant: &Tenant, prepared: &mut [Undecided], before: Timestamp) -> Timestamp {
        if self.hook.is_none() && self.identity.local().is_some() {
            return before;
        }
        let (now, pauses) = (clock::now(), self.pauses.current());
        for item in prepared.iter_mut() {
            let Ok(prepared) = &*item else { continue };
            let (deadline, guard) = (prepared.request.deadline(), prepared.chain.tuning.admission.min_slack);
            let paused = pauses.of(&tenant.policy.id, prepared.chain.spec.chain_id).map(SubmitError::Paused);
            let is_late = deadline < now.saturating_add(guard);
            let late = is_late.then(|| {
                let (slack_ms, guard_ms) = (crate::time::millis(deadline.since(now)), crate::time::millis(guard));
                VerifyError::DeadlineUnreachable { slack_ms, guard_ms }.into()
            });
            refuse(item, paused.or(late));
        }
        now
    }

    /// Has the promises signed by an identity that is not in memory.
    async fn sign_promises(&self, prepared: &mut [Undecided]) {
        if self.identity.local().is_some() {
            return;
        }
        let digests: Vec<_> = prepared.iter().flatten().map(|item| self.promise(&item.request).digest()).collect();
        let signed = stream::iter(digests).map(|digest| self.identity.sign(digest));
        let signed: Vec<_> = signed.buffered(PROMISES_AT_ONCE).collect().await;
        for (item, signed) in prepared.iter_mut().filter(|item| item.is_ok()).zip(signed) {
            match (&mut *item, signed) {
                (Ok(item), Ok(signature)) => item.promise_signature = signature.as_bytes().into(),
                (_, Err(error)) => {
                    tracing::warn!(identity = %self.identity.address(), %error, "a promise was not signed");
                    metrics::counter!("slackwater_unsigned_promises_total").increment(1);
                    refuse(item, Some(SubmitError::Unsigned));
                }
                (Err(_), Ok(_)) => {}
            }
        }
    }

    /// Repeats the first answer for a request accepted before, whatever the reason to refuse it now.
    async fn recall(&self, tenant: &Tenant, refused: Refused) -> Result<Acceptance, SubmitError> {
        let Some(id) = refused.id.filter(|_| refused.may_be_known()) else { return Err(*refused.error) };
        match self.ledger.request(id).await {
            Ok(Some(record)) if record.tenant == tenant.policy.id => self.record_acceptance(Box::new(record)),
            _ => Err(*refused.error),
        }
    }

    async fn prepare_all(
        self: Arc<Self>,
        tenant: &Arc<Tenant>,
        items: Vec<Submission>,
        now: Timestamp,
    ) -> Vec<Undecided> {
        if items.len() < VERIFY_CHUNK / 8 {
            return items.into_iter().map(|item| self.prepare(tenant, item, now)).collect();
        }
        // Each signature recovery costs tens of microseconds, so many of them run on blocking threads.
        let mut chunks = Vec::new();
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let chunk: Vec<Submission> = items.by_ref().take(VERIFY_CHUNK).collect();
            let (this, tenant) = (self.clone(), tenant.clone());
            let count = chunk.len();
            let task = tokio::spawn(clock::run_blocking(move || {
                chunk.into_iter().map(|item| this.prepare(&tenant, item, now)).collect::<Vec<_>>()
            }));
            chunks.push((count, task));
        }
        let mut prepared = Vec::new();
        for (count, chunk) in chunks {
            match chunk.await {
                Ok(Ok(results)) => prepared.extend(results),
                Ok(Err(_)) | Err(_) => prepared.extend((0..count).map(|_| Err(SubmitError::ShuttingDown.into()))),
            }
        }
        prepared
    }

    /// Runs all checks without I/O, and signs the promise.
    fn prepare(&self, tenant: &Tenant, mut submission: Submission, now: Timestamp) -> Undecided {
        let idempotency_key = submission.idempotency_key.take();
        let chain_id = submission.chain_id;
        let chain = self.chains.served(chain_id)?;
        if let Some(salt) = submission.kind.salt()
            && salt.is_empty()
        {
            // Without an idempotency key every call is a new request.
            *salt = match &idempotency_key {
                Some(key) => key.clone(),
                None => chance::salt().map_err(|error| SubmitError::Randomness(error.to_string()))?,
            };
        }
        let idempotency = match idempotency_key {
            Some(key) if key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES => {
                return Err(SubmitError::IdempotencyKey { bytes: key.len(), limit: MAX_IDEMPOTENCY_KEY_BYTES }.into());
            }
            Some(key) => Some(Idempotency { body_hash: body_hash(&submission), key }),
            None => None,
        };
        let context = VerifyContext {
            tenant: &tenant.policy.id,
            chain_id,
            forwarders: &chain.forwarders,
            tokens: &chain.tokens,
            default_within: self.default_within,
            default_expiry: self.default_expiry,
            max_within: self.max_within,
            guard: chain.tuning.admission.min_slack,
            skew: Duration::from_secs(chain.spec.deadline_skew_s),
        };
        // The id is computed only after a refusal: a copy costs less than three digests.
        let copy = submission.clone();
        self.judge(tenant, &chain, submission, idempotency, &context, now)
            .map_err(|error| Refused { error: Box::new(error), id: identify(&copy, &context) })
    }

    fn judge(
        &self,
        tenant: &Tenant,
        chain: &Arc<ChainShared>,
        submission: Submission,
        idempotency: Option<Idempotency>,
        context: &VerifyContext<'_>,
        now: Timestamp,
    ) -> Result<Prepared, SubmitError> {
        let chain = chain.clone();
        let is_named = submission.deadline.is_some();
        let request = verify(submission, context, now)?;
        chain.check_clock(now, request.valid_until())?;
        tenant.policy.check(&request)?;
        let request = reachable(&chain, tenant, request, is_named, now)?;
        let member_gas = chain.params.member_gas(&request);
        let gas_alone = chain.gas_alone(member_gas);
        let door = chain.door();
        let limit = chain.tuning.batch.max_batch_gas.min(door.block_gas.unwrap_or(u64::MAX));
        if gas_alone > limit {
            return Err(SubmitError::GasTooHigh { gas: gas_alone, limit });
        }
        let bytes = chain.params.member_bytes(&request);
        let limit = chain.max_payload_bytes();
        if bytes > limit {
            return Err(SubmitError::TooLarge { bytes, limit });
        }
        let prices = chain.prices()?;
        check_node_fee_cap(door, prices.0, gas_alone)?;
        chain.check_value(request.value())?;
        let request = Arc::new(request);
        let size = match prices.1 {
            DataFeeModel::None => TxSize::default(),
            _ => TxSize::of_unsigned(
                &chain.params.payload(chain.params.vehicle(&request), std::slice::from_ref(&request)).data,
            ),
        };
        // A cancel may replace it, at the cost of an empty transaction at the same price.
        let gas_limit = chain.reserved_gas(member_gas);
        let shape = TxShape { gas_used: member_gas, gas_limit, size: &size, value: request.value() };
        let ceiling = ceiling(&chain, tenant, prices, &request, &shape)?;
        let mut quote = chain.quote(prices, &shape, ceiling);
        let percent = tenant.policy.price_percent;
        if let Some(max_cost_wei) = request.max_cost_wei() {
            // If `maxCost` covers less than the usual reservation for the data fee, no more than `maxCost` is reserved.
            quote.max_cost_wei = quote.max_cost_wei.min(cost_within(max_cost_wei, percent));
        }
        // A budget holds the larger of cost and price.
        quote.max_cost_wei = with_price(quote.max_cost_wei, percent);
        let promise_signature = match self.identity.local() {
            Some(identity) => identity.sign(self.promise(&request).digest()).as_bytes().into(),
            // Asked for later, for many requests together.
            None => Bytes::new(),
        };
        let payload = request.to_stored();
        Ok(Prepared {
            chain,
            request,
            member_gas,
            bytes,
            ceiling,
            quote,
            price_percent: percent,
            idempotency,
            promise_signature,
            payload,
            submitted_by: None,
        })
    }

    fn promise(&self, request: &VerifiedRequest) -> Promise {
        Promise {
            request_hash: request.id(),
            chain_id: request.chain_id(),
            deadline: request.deadline().as_secs(),
            relayer: self.identity.address(),
        }
    }

    /// Refuses nonces that the forwarder has consumed, as far as lookups within `nonce_lookup` and the tenant's
    /// `nonce_lookups_per_s` show. Returns the known next nonces.
    async fn check_nonces(&self, tenant: &Tenant, prepared: &mut [Undecided]) -> BTreeMap<(ChainId, User), u64> {
        let mut unseen: BTreeMap<ChainId, (Arc<ChainShared>, BTreeSet<User>)> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for item in prepared.iter().flatten() {
            let Some((forwarder, signer, _)) = item.request.sequence() else { continue };
            let chain_id = item.chain.spec.chain_id;
            let key = (forwarder, signer);
            if seen.contains_key(&(chain_id, key)) {
                continue;
            }
            match item.chain.nonces.get(&key).await {
                Some(nonce) => {
                    seen.insert((chain_id, key), nonce);
                }
                None => {
                    unseen.entry(chain_id).or_insert_with(|| (item.chain.clone(), BTreeSet::new())).1.insert(key);
                }
            }
        }
        for (chain_id, (chain, signers)) in unseen {
            // A tenant that uses a new signer for each request must not exhaust the nodes' quotas. Beyond its limit,
            // nonces are accepted unseen, and checked before sending.
            if !tenant.may_look_up(chain.multicall3().map_or(signers.len(), |_| 1)) {
                metrics::counter!("slackwater_nonce_lookups_skipped_total").increment(1);
                continue;
            }
            let signers: Vec<_> = signers.into_iter().collect();
            let block = serde_json::json!("latest");
            let lookup = forwarder_nonces(&chain.pool, &signers, chain.multicall3(), &block);
            let Ok(Ok(nonces)) = tokio::time::timeout(chain.tuning.admission.nonce_lookup, lookup).await else {
                // Acceptance never waits for a chain: the nonce is accepted unseen, and checked before sending.
                metrics::counter!("slackwater_nonce_lookups_skipped_total").increment(1);
                continue;
            };
            for (signer, nonce) in signers.into_iter().zip(nonces) {
                if let Some(nonce) = nonce {
                    chain.nonces.insert(signer, nonce).await;
                    seen.insert((chain_id, signer), nonce);
                }
            }
        }
        let unsure = self.look_again(tenant, prepared, &mut seen).await;
        for slot in prepared.iter_mut() {
            let Ok(item) = slot else { continue };
            let Some((forwarder, signer, nonce)) = item.request.sequence() else { continue };
            let key = (item.chain.spec.chain_id, (forwarder, signer));
            let Some(expected) = seen.get(&key).copied() else { continue };
            let limit = item.chain.tuning.admission.max_nonce_gap;
            // A resubmitted request that we executed ourselves gets its first answer again, from the ledger.
            let id = Some(item.request.id());
            if nonce > expected.saturating_add(limit) {
                *slot = Err(Refused { error: Box::new(SubmitError::NonceTooFar { nonce, expected, limit }), id });
            } else if nonce < expected {
                let error = if unsure.contains(&key) {
                    SubmitError::RateLimited {
                        what: "too many signers' nonces had to be looked up again (`tenant.nonce_lookups_per_s`)"
                            .to_owned(),
                        retry_after: Duration::from_secs(1),
                    }
                } else {
                    SubmitError::NonceUsed { nonce, expected }
                };
                *slot = Err(Refused { error: Box::new(error), id });
            }
        }
        seen
    }

    /// Reads nonces again before a refusal, because a reorg may have taken a remembered one back. All nodes are asked,
    /// once per block and signer. Returns the signers not looked up because the tenant exceeded its rate limit.
    async fn look_again(
        &self,
        tenant: &Tenant,
        prepared: &[Undecided],
        seen: &mut BTreeMap<(ChainId, User), u64>,
    ) -> BTreeSet<(ChainId, User)> {
        let mut doubtful: BTreeMap<ChainId, (Arc<ChainShared>, BTreeSet<User>)> = BTreeMap::new();
        let mut unsure = BTreeSet::new();
        for item in prepared.iter().flatten() {
            let Some((forwarder, signer, nonce)) = item.request.sequence() else { continue };
            let (chain_id, user) = (item.chain.spec.chain_id, (forwarder, signer));
            let is_below = seen.get(&(chain_id, user)).is_some_and(|expected| nonce < *expected);
            let is_queued = doubtful.get(&chain_id).is_some_and(|(_, users)| users.contains(&user));
            if !is_below || is_queued || unsure.contains(&(chain_id, user)) {
                continue;
            }
            let head = item.chain.head();
            if head.is_some() && item.chain.agreed_at.get(&user).await == head {
                continue;
            }
            if matches!(self.ledger.request(item.request.id()).await, Ok(Some(_))) {
                continue;
            }
            if tenant.may_look_up(1) {
                doubtful.entry(chain_id).or_insert_with(|| (item.chain.clone(), BTreeSet::new())).1.insert(user);
            } else {
                unsure.insert((chain_id, user));
            }
        }
        for (chain_id, (chain, signers)) in doubtful {
            let signers: Vec<_> = signers.into_iter().collect();
            let head = chain.head();
            let lookup = agreed_nonces(&chain.pool, &signers, chain.multicall3(), At::Head);
            let Ok(nonces) = tokio::time::timeout(chain.tuning.admission.nonce_lookup, lookup).await else { continue };
            for (signer, nonce) in signers.into_iter().zip(nonces) {
                let Some(AgreedNonce { at_most, .. }) = nonce else { continue };
                if let Some(head) = head {
                    chain.agreed_at.insert(signer, head).await;
                }
                if seen.get(&(chain_id, signer)).is_some_and(|known| at_most < *known) {
                    chain.nonces.insert(signer, at_most).await;
                    self.tenants.set_chain_nonce((chain_id, signer.0, signer.1), at_most);
                    seen.insert((chain_id, signer), at_most);
                }
            }
        }
        unsure
    }

    fn answer(
        &self,
        tenant: &Tenant,
        item: Prepared,
        outcome: Durable<WriteOutcome>,
        now: Timestamp,
        accepted: &mut BTreeMap<ChainId, Vec<QueuedRequest>>,
    ) -> Result<Acceptance, SubmitError> {
        let id = item.request.id();
        match outcome.into_inner() {
            WriteOutcome::Accept(AcceptOutcome::Accepted { seq, .. }) => {
                self.tenants.accepted(tenant, id);
                metrics::counter!("slackwater_requests_accepted_total").increment(1);
                accepted.entry(item.chain.spec.chain_id).or_default().push(QueuedRequest {
                    request: item.request.clone(),
                    tenant: tenant.name.clone(),
                    seq,
                    accepted_at: now,
                    gas: item.member_gas,
                    bytes: item.bytes,
                    ceiling_wei_per_gas: item.ceiling,
                    first_ceiling_wei_per_gas: item.ceiling,
                    reserved_wei: cost_within(item.quote.max_cost_wei, item.price_percent),
                    spent_wei: U256::ZERO,
                    price_percent: item.price_percent,
                    company: tenant.policy.company(&item.request),
                    simulations: 0,
                    batch_failures: 0,
                    due: item.request.deadline(),
                    is_late: false,
                    refusals: Refusals::default(),
                });
                let promise = self.promise(&item.request);
                let promise_signature = item.promise_signature.clone();
                let record = Box::new(fresh_record(tenant, item.request.as_ref(), &item, seq, now));
                Ok(Acceptance { record, promise, promise_signature, quote: item.quote, is_duplicate: false })
            }
            WriteOutcome::Accept(AcceptOutcome::Duplicate(record)) => {
                self.tenants.release(tenant, id);
                if record.tenant != tenant.policy.id {
                    // Another tenant's request: its id is returned, but not the record.
                    return Err(SubmitError::AlreadySubmitted { id: record.id });
                }
                metrics::counter!("slackwater_requests_repeated_total").increment(1);
                self.record_acceptance(record)
            }
            WriteOutcome::Accept(AcceptOutcome::IdempotencyConflict { existing }) => {
                self.tenants.release(tenant, id);
                Err(SubmitError::IdempotencyConflict { existing })
            }
            WriteOutcome::Accept(AcceptOutcome::NonceConflict { existing }) => {
                self.tenants.release(tenant, id);
                Err(SubmitError::NonceConflict { existing })
            }
            WriteOutcome::Accept(AcceptOutcome::BudgetExhausted { needed_wei, available_wei, limit_wei }) => {
                self.tenants.release(tenant, id);
                let share = BudgetShare::Tenant;
                Err(BudgetError { needed_wei, available_wei, limit_wei, share }.into())
            }
            WriteOutcome::Applied(_)
            | WriteOutcome::Refused(_)
            | WriteOutcome::MembersEnded(_)
            | WriteOutcome::Fenced { .. } => {
                unreachable!("an acceptance has an acceptance's outcome")
            }
        }
    }

    fn new_request(&self, tenant: &Tenant, item: &Prepared, now: Timestamp) -> NewRequest {
        // A single instance has reserved it in its own books.
        let budget = tenant.policy.budget.as_ref().filter(|_| self.tenants.is_shared());
        let budget = budget.map(|budget| BudgetLimit { limit_wei: budget.limit_wei, since: budget.period_start(now) });
        NewRequest {
            id: item.request.id(),
            tenant: tenant.policy.id.clone(),
            chain_id: item.chain.spec.chain_id,
            kind: item.request.kind_name(),
            sequence: item.request.slot(),
            target: item.request.target(),
            deadline: item.request.deadline(),
            valid_until: item.request.valid_until(),
            accepted_at: now,
            reserved_wei: item.quote.max_cost_wei,
            price_percent: item.price_percent,
            ceiling_wei_per_gas: item.ceiling,
            payload: item.payload.clone(),
            promise_signature: item.promise_signature.clone(),
            quote: serde_json::to_string(&item.quote).unwrap_or_default(),
            idempotency: item.idempotency.clone(),
            submitted_by: item.submitted_by.as_deref().map(str::to_owned),
            budget,
            takes_over: !self.tenants.is_shared(),
        }
    }

    /// Rebuilds the first answer from the stored record.
    fn record_acceptance(&self, record: Box<RequestRecord>) -> Result<Acceptance, SubmitError> {
        let quote = serde_json::from_str(&record.quote)
            .map_err(|error| crate::ledger::LedgerError::Damaged { what: "quote", detail: error.to_string() })?;
        let promise = Promise {
            request_hash: record.id,
            chain_id: record.chain_id,
            deadline: record.deadline.as_secs(),
            relayer: self.identity.address(),
        };
        let promise_signature = record.promise_signature.clone();
        Ok(Acceptance { record, promise, promise_signature, quote, is_duplicate: true })
    }
}

/// Checks the deadline against the tenant's own backlog: an unreachable deadline is refused if the caller named it,
/// else replaced by the earliest reachable one.
fn reachable(
    chain: &ChainShared,
    tenant: &Tenant,
    request: VerifiedRequest,
    is_named: bool,
    now: Timestamp,
) -> Result<VerifiedRequest, VerifyError> {
    let view = chain.view.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(backlog) = view.backlogs.get(&tenant.name) else { return Ok(request) };
    let (slack, guard) = (request.deadline().since(now), chain.tuning.admission.min_slack);
    let needed = backlog.wait(request.deadline(), chain.spec.block_time()).saturating_add(guard);
    if needed <= slack {
        return Ok(request);
    }
    if is_named {
        let (slack_ms, guard_ms) = (crate::time::millis(slack), crate::time::millis(needed));
        return Err(VerifyError::DeadlineUnreachable { slack_ms, guard_ms });
    }
    // Requests of the tenant due before that new deadline wait as well, so the wait is computed once more.
    let needed = backlog.wait(now.saturating_add(needed), chain.spec.block_time()).saturating_add(guard).max(needed);
    Ok(request.promised_by(now.saturating_add(needed)))
}

/// The nonce sequence and nonce that a submission claims; `None` for calls.
fn line_of(submission: &Submission) -> Option<(Line, U256)> {
    let (forwarder, signer, nonce) = submission.kind.sequence()?;
    Some(((submission.chain_id, forwarder, signer), nonce))
}

/// Refuses requests above the nodes' fee cap even at the usual price. Requests above it only at the current price wait.
fn check_node_fee_cap(door: DoorLimits, price: Price, gas: u64) -> Result<(), SubmitError> {
    let Some(cap_wei) = door.fee_cap_wei else { return Ok(()) };
    let worst_wei =
        |base_fee: u128| u128::from(gas).saturating_mul(base_fee.saturating_add(price.quote.max_priority_fee_per_gas));
    let usual = door.usual_base_fee.unwrap_or(price.next_base_fee).min(price.next_base_fee);
    let needed_wei = worst_wei(usual);
    if needed_wei > cap_wei { Err(SubmitError::AboveNodeFeeCap { needed_wei, cap_wei }) } else { Ok(()) }
}

/// Highest gas price at which this request may be sent, wei per gas (invariant I8).
fn ceiling(
    chain: &ChainShared,
    tenant: &Tenant,
    prices: (Price, DataFeeModel),
    request: &VerifiedRequest,
    shape: &TxShape<'_>,
) -> Result<u128, SubmitError> {
    let (price, model) = prices;
    let mut ceiling = match tenant.policy.budget {
        // A reservation at the absolute ceiling would eat the whole budget.
        Some(_) => chain.budgeted_ceiling(price.quote.max_fee_per_gas),
        None => chain.tuning.fees.max_fee_ceiling_wei_per_gas,
    };
    if let Some(max_cost_wei) = request.max_cost_wei() {
        let percent = tenant.policy.price_percent;
        let most_wei = cost_within(max_cost_wei, percent);
        let gas = shape.gas_limit.saturating_add(model.poster_gas(shape.size).padded).max(1);
        // Costs independent of the gas price.
        let fixed = chain.cost(prices, shape, 0).beyond_gas().max.saturating_add(request.value());
        let data_wei = model.data_fee_bound(shape.size);
        let margin = chain.tuning.fees.l1_fee_margin_percent;
        let spared = with_margin(data_wei, margin).saturating_sub(data_needed(data_wei, margin));
        let affordable = most_wei.saturating_sub(fixed) / U256::from(gas);
        let effective = price.quote.effective_gas_price(price.next_base_fee);
        let affordable = u128::try_from(affordable).unwrap_or(u128::MAX);
        // With a ceiling that leaves no room for one bump, the transaction could only be cancelled when the price
        // moves.
        let offer = Fees::new(effective, price.quote.max_priority_fee_per_gas.min(effective));
        let bumped = chain.spec.replacement.min_replacement(offer, price.next_base_fee);
        let least = bumped.map_or(effective, |bumped| bumped.max_fee_per_gas.max(effective));
        let needed_wei = U256::from(gas).saturating_mul(U256::from(least)).saturating_add(fixed.saturating_sub(spared));
        if needed_wei > most_wei {
            let needed_wei = with_price(needed_wei, percent);
            return Err(SubmitError::CeilingTooLow { needed_wei, max_cost_wei });
        }
        // Gas may use the rest of the data fee's margin.
        ceiling = ceiling.min(affordable.max(least));
    }
    Ok(ceiling)
}

/// Hash that defines "the same body": all fields of the submission, as submitted.
fn body_hash(submission: &Submission) -> alloy_primitives::B256 {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&submission.chain_id.to_be_bytes());
    match submission.deadline {
        None => bytes.push(0),
        Some(Deadline::At(at)) => {
            bytes.push(1);
            bytes.extend_from_slice(&at.0.to_be_bytes());
        }
        Some(Deadline::Within(within)) => {
            bytes.push(2);
            bytes.extend_from_slice(&crate::time::millis(within).to_be_bytes());
        }
    }
    match submission.max_cost_wei {
        None => bytes.push(0),
        Some(wei) => {
            bytes.push(1);
            bytes.extend_from_slice(&wei.to_be_bytes::<32>());
        }
    }
    submission.kind.write_body(&mut bytes);
    keccak256(bytes)
}

fn fresh_record(
    tenant: &Tenant,
    request: &VerifiedRequest,
    item: &Prepared,
    seq: u64,
    now: Timestamp,
) -> RequestRecord {
    RequestRecord {
        seq,
        id: request.id(),
        tenant: tenant.policy.id.clone(),
        chain_id: request.chain_id(),
        kind: request.kind_name().to_owned(),
        sequence: request.slot(),
        target: request.target(),
        status: Status::Queued,
        reason: None,
        deadline: request.deadline(),
        valid_until: request.valid_until(),
        late_at: None,
        accepted_at: now,
        updated_at: now,
        batch: None,
        reserved_wei: item.quote.max_cost_wei,
        price_percent: item.price_percent,
        ceiling_wei_per_gas: item.ceiling,
        cost_wei: None,
        gas_used: None,
        tx_hash: None,
        block_number: None,
        payload: item.payload.clone(),
        promise_signature: item.promise_signature.clone(),
        quote: String::new(),
        batch_failures: 0,
        submitted_by: item.submitted_by.as_deref().map(str::to_owned),
    }
}
