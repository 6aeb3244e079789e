//! Restores a chain's queue and lanes from the ledger.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, Bytes, U64, U256};
use serde_json::json;

use crate::{
    chain::data_fee::{DataFeeModel, TxSize},
    lane::{AttemptKey, AttemptKind, Lane, LaneConfig, Plan, RestoredSlot},
    ledger::{
        AttemptRecord, BatchMember, BatchRecord, BatchState, Durable, Ledger, LedgerError, MARK_KEY, RequestFilter,
        RequestRecord, UNCERTAIN_KEY, Write,
    },
    policy::Claim,
    protection::Protection,
    relay::{
        admission::tenants::Tenants,
        chain::{keys::LaneKey, message::Restored, shared::ChainShared},
        clock,
        signer::AccountKey,
    },
    request::{
        LaneId, RequestId, Status, VerifiedRequest,
        settlement::{ceiling_left, cost_within},
        vehicle::{Company, Contracts, Payload, VehicleKey, VehicleParams},
    },
    schedule::{Queue, QueuedRequest, Refusals},
    sender::{Content, Flight, MemberSize, Open, SenderLane, Stowed, beyond_gas, without_bytes},
    time::Timestamp,
};

/// Open requests read from the ledger at a time; each may have a hundred kilobytes.
const RESTORE_PAGE: usize = 250;

/// Least time without inclusion before a transaction is abandoned.
const LEAST_PATIENCE: Duration = Duration::from_secs(12);

/// Open batches read from the ledger at a time.
const BATCHES_PAGE: usize = 50;

/// If the ledger was restored from a backup, records the newest request for which later sends are unknown. Runs before
/// anything is read back.
pub(in crate::relay) async fn take_notice(ledger: &Arc<dyn Ledger>) -> Result<(), LedgerError> {
    let Some(taken_at_ms) = ledger.meta(MARK_KEY).await?.filter(|mark| !mark.is_empty()) else { return Ok(()) };
    let newest = ledger.requests(&RequestFilter { limit: 1, ..RequestFilter::default() }).await?;
    let through = newest.first().map_or(0, |record| record.seq).max(uncertain_through(ledger).await?);
    tracing::warn!(
        taken_at_ms,
        through,
        "the ledger was put back from a backup: what was sent since is found on the chain, as far as it can be"
    );
    metrics::counter!("slackwater_ledger_rollbacks_total").increment(1);
    let meta = |key: &str, value: String| Write::Meta { key: key.to_owned(), value };
    ledger.commit(vec![meta(UNCERTAIN_KEY, through.to_string()), meta(MARK_KEY, String::new())]).await.map(drop)
}

async fn uncertain_through(ledger: &Arc<dyn Ledger>) -> Result<u64, LedgerError> {
    let value = ledger.meta(UNCERTAIN_KEY).await?;
    Ok(value.and_then(|through| through.parse().ok()).unwrap_or(0))
}

/// Calls among the open requests that may have been executed without the ledger's knowledge: those in a ledger restored
/// from a backup, or all if a lane's account has sent more than the ledger knows. Requests with a user's nonce are safe:
/// the chain executes them once.
async fn find_uncertain(
    ledger: &Arc<dyn Ledger>,
    chain: &ChainShared,
    senders: &[Address],
    open: &Unplaced,
) -> Result<BTreeSet<RequestId>, LedgerError> {
    let calls: Vec<&QueuedRequest> =
        open.values().map(|opened| &*opened.entry).filter(|entry| !entry.request.is_guarded()).collect();
    if calls.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut through = uncertain_through(ledger).await?;
    for &sender in senders {
        let id = LaneId { chain_id: chain.spec.chain_id, sender };
        let Some(ours) = ledger.next_nonce(id).await? else { continue };
        for block in ["latest", "pending"] {
            let told = chain.pool.call_all::<U64>("eth_getTransactionCount", json!([sender, block])).await;
            let told: Vec<u64> = told.into_iter().flatten().map(|nonce| nonce.to()).collect();
            // A majority decides, so that no single node makes us give up calls.
            if let Some(theirs) = chain.pool.reached(told).filter(|theirs| *theirs > ours) {
                tracing::error!(lane = %id, ours, theirs, "the account has sent transactions that the ledger does not know: an older backup, or another user of the key");
                through = u64::MAX;
            }
        }
    }
    let uncertain: BTreeSet<RequestId> =
        calls.into_iter().filter(|entry| entry.seq <= through).map(|entry| entry.request.id()).collect();
    if !uncertain.is_empty() {
        tracing::error!(
            chain_id = chain.spec.chain_id,
            calls = uncertain.len(),
            "calls may have been executed without the ledger's knowledge: they are not sent again (`outcome_unknown`)"
        );
    }
    Ok(uncertain)
}

/// Restores the open requests and batches of a chain.
pub(in crate::relay) async fn restore(
    ledger: &Arc<dyn Ledger>,
    chain: &ChainShared,
    tenants: &Tenants,
    signers: Vec<AccountKey>,
    data_fee: Option<DataFeeModel>,
    is_counted: bool,
) -> Result<Restored, LedgerError> {
    let (spec, tuning) = (&chain.spec, &chain.tuning);
    let chain_id = spec.chain_id;
    let mut queue = Queue::new();
    queue.set_contracts(chain.params.contracts());
    queue.set_payload_memory(tuning.queue.payload_memory_bytes);
    if let Some(callers) = &chain.callers {
        queue.bind_calls(callers.clone());
    }
    let rule = tuning.targets;
    queue.recall_targets(rule, ledger.targets(chain_id).await?);
    for tenant in tenants.iter() {
        queue.set_weight(&tenant.name, tenant.policy.weight);
    }
    // By id; in-flight requests are placed by their batches, the others wait.
    let mut open = load_open(ledger, chain, tenants).await?;
    let newest = open.values().map(|opened| opened.entry.seq).max().unwrap_or(0);
    for Opened { status, entry, .. } in open.values().filter(|_| !is_counted) {
        let claim = Claim::of(&entry.tenant, &entry.request, entry.budget_wei());
        tenants.restore_open(claim, *status == Status::Included, entry.accepted_at);
    }
    let senders: Vec<Address> = signers.iter().map(AccountKey::address).collect();
    let uncertain = find_uncertain(ledger, chain, &senders, &open).await?;
    // Transactions of a signer no longer configured are still followed to their end, which needs no key.
    let in_batches = open.values().filter(|opened| opened.status != Status::Queued);
    let removed: BTreeSet<Address> = in_batches
        .filter_map(|opened| opened.batch.map(|(sender, _)| sender))
        .filter(|sender| !senders.contains(sender) && Protection::WatchRemoved.is_on())
        .collect();
    for sender in &removed {
        tracing::warn!(
            chain_id,
            %sender,
            "a sender has open transactions and is not configured: they are watched to their end, but neither replaced nor \
             cancelled; add its signer again for that"
        );
    }
    let (mut lanes, mut keys) = (Vec::new(), Vec::new());
    let configured = signers.into_iter().map(|signer| (signer.address(), Some(signer)));
    for (sender, signer) in configured.chain(removed.into_iter().map(|sender| (sender, None))) {
        let id = LaneId { chain_id, sender };
        let lane_config = LaneConfig {
            id,
            max_in_flight: tuning.lane.max_in_flight,
            replacement: spec.replacement,
            bump_after_blocks: tuning.lane.bump_after_blocks,
            rebroadcast_after_blocks: tuning.lane.rebroadcast_after_blocks,
            abandon_after_blocks: abandon_after(tuning.retry.abandon_after_blocks, spec.block_time()),
            max_attempts: tuning.lane.max_attempts,
            max_refused_plans: tuning.lane.max_refused_plans,
            max_fee_ceiling_wei_per_gas: tuning.fees.max_fee_ceiling_wei_per_gas,
            cancel_gas: tuning.lane.cancel_gas,
        };
        let extra = |payload: &Payload| {
            let model = data_fee.unwrap_or_default();
            let size = TxSize::of_unsigned(&payload.data);
            beyond_gas(&model, &size, payload.gas_limit, None, tuning.fees.l1_fee_margin_percent)
        };
        let mut lane = restore_lane(ledger, chain, lane_config, signer.is_some(), &mut open, &mut queue, extra).await?;
        for flight in lane.flights.values_mut() {
            pend(flight, tenants, &chain.params, clock::now());
        }
        lanes.push(lane);
        keys.push(LaneKey::new(signer));
    }
    let mut rest: Vec<Opened> = open.0.into_iter().filter_map(|(_, opened)| opened).collect();
    rest.sort_by_key(|opened| opened.entry.seq);
    let waiting = rest.len();
    for Opened { status, batch, entry, .. } in rest {
        if status != Status::Queued {
            tracing::error!(id = %entry.request.id(), %status, ?batch, "request is in a batch that the ledger does not have as open");
            continue;
        }
        queue.push(*entry);
    }
    if waiting > 0 {
        tracing::info!(chain_id, waiting, "requests read back from the ledger");
    }
    Ok(Restored { open: Open { queue, lanes, uncertain }, keys, newest })
}

/// The queue entry of a stored request.
pub(in crate::relay) fn queued(
    params: &VehicleParams,
    tenants: &Tenants,
    tenant: Arc<str>,
    record: &RequestRecord,
    request: VerifiedRequest,
) -> QueuedRequest {
    let gas = params.member_gas(&request);
    let spent_wei = record.cost_wei.unwrap_or_default();
    let company = tenants.get(&record.tenant).map_or(Company::Unnamed, |tenant| tenant.policy.company(&request));
    QueuedRequest {
        tenant,
        seq: record.seq,
        accepted_at: record.accepted_at,
        gas,
        bytes: params.member_bytes(&request),
        ceiling_wei_per_gas: ceiling_left(record.ceiling_wei_per_gas, params.reserved_gas(gas), spent_wei),
        first_ceiling_wei_per_gas: record.ceiling_wei_per_gas,
        reserved_wei: cost_within(record.reserved_wei, record.price_percent),
        spent_wei,
        price_percent: record.price_percent,
        company,
        simulations: 0,
        batch_failures: record.batch_failures,
        due: record.deadline,
        is_late: record.late_at.is_some(),
        refusals: Refusals::default(),
        request: Arc::new(request),
    }
}

/// Counts the budget reservations of a chain's open requests, before the chain can be reached.
pub(in crate::relay) async fn count_open(
    ledger: &Arc<dyn Ledger>,
    tenants: &Tenants,
    chain_id: u64,
) -> Result<(), LedgerError> {
    let mut after = 0;
    loop {
        let page = ledger.open_requests(chain_id, after, RESTORE_PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for record in &page {
            let request = parse(record)?;
            let claim = Claim::of(&record.tenant.as_str().into(), &request, record.reserved_wei);
            tenants.restore_open(claim, record.status == Status::Included, record.accepted_at);
        }
    }
}

/// An open request as read from the ledger.
struct Opened {
    entry: Box<QueuedRequest>,
    /// Sender and nonce of its batch.
    batch: Option<(Address, u64)>,
    status: Status,
    /// [`MemberSize::data_bytes`] of a request whose bytes stay in the ledger.
    data_bytes: u64,
}

/// Open requests not yet placed, ordered by id. There may be a million, and a map would take twice the memory.
struct Unplaced(Vec<(RequestId, Option<Opened>)>);

impl Unplaced {
    fn new(mut requests: Vec<(RequestId, Option<Opened>)>) -> Self {
        // If a second tenant took over a request between two pages, the later acceptance counts.
        let newest_first = |opened: &Option<Opened>| Reverse(opened.as_ref().map(|opened| opened.entry.seq));
        requests.sort_unstable_by_key(|(id, opened)| (*id, newest_first(opened)));
        requests.dedup_by_key(|(id, _)| *id);
        Self(requests)
    }

    fn slot(&mut self, id: RequestId) -> Option<&mut Option<Opened>> {
        let place = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.0[place].1)
    }

    fn get(&self, id: RequestId) -> Option<&Opened> {
        let place = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.0[place].1.as_ref()
    }

    fn values(&self) -> impl Iterator<Item = &Opened> {
        self.0.iter().filter_map(|(_, opened)| opened.as_ref())
    }
}

/// All open requests of a chain; included ones as outlines, since their bytes would not fit into memory.
async fn load_open(ledger: &Arc<dyn Ledger>, chain: &ChainShared, tenants: &Tenants) -> Result<Unplaced, LedgerError> {
    let (chain_id, params) = (chain.spec.chain_id, &chain.params);
    let mut open = Vec::new();
    let mut after = 0;
    let mut names: BTreeMap<String, Arc<str>> = BTreeMap::new();
    loop {
        let page = ledger.open_requests(chain_id, after, RESTORE_PAGE).await?;
        let Some(last) = page.last() else { return Ok(Unplaced::new(open)) };
        after = last.seq;
        for record in page {
            let request = parse(&record)?;
            let tenant = names.entry(record.tenant.clone()).or_insert_with(|| record.tenant.as_str().into()).clone();
            let mut entry = queued(params, tenants, tenant, &record, request);
            let mut data_bytes = 0;
            if record.status == Status::Included {
                let key = params.vehicle(&entry.request);
                data_bytes = chain.size_of(key, &entry.request, chain.spec.family.has_data_fee()).data_bytes;
                entry.request = Arc::new(entry.request.outline());
            }
            let batch = record.batch.map(|batch| (batch.lane.sender, batch.nonce));
            let opened = Opened { entry: Box::new(entry), batch, status: record.status, data_bytes };
            open.push((record.id, Some(opened)));
        }
    }
}

/// Blocks without inclusion after which a transaction is abandoned; with fast blocks, at least those of
/// [`LEAST_PATIENCE`]. 0 means never.
fn abandon_after(blocks: u64, block_time: Duration) -> u64 {
    let least = LEAST_PATIENCE.as_millis().div_ceil(block_time.as_millis().max(1));
    if blocks == 0 { 0 } else { blocks.max(u64::try_from(least).unwrap_or(u64::MAX)) }
}

/// Reserves, in the tenant's budget, a mined transaction's cost beyond its members' known costs, until its receipt is
/// read again and gives the exact amount.
fn pend(flight: &mut Flight, tenants: &Tenants, params: &VehicleParams, now: Timestamp) {
    let BatchRecord { id, state: BatchState::Included, gas_used: Some(gas_used), cost_wei: Some(cost_wei), .. } =
        &flight.record
    else {
        return;
    };
    let known = flight.weights.iter().fold(params.schedule.tx_base_gas, |sum, gas| sum.saturating_add(*gas));
    let beyond = U256::from(gas_used.saturating_sub(known));
    let beyond_wei = cost_wei.saturating_mul(beyond) / U256::from((*gas_used).max(1));
    let tenant = flight.tenant.as_ref().filter(|_| Protection::EveryWei.is_on());
    flight.pending = tenant.and_then(|tenant| tenants.pend(tenant, id.lane.chain_id, beyond_wei, now));
}

/// Calldata of an attempt.
fn calldata(attempt: &Durable<AttemptRecord>) -> Result<Bytes, LedgerError> {
    let envelope = TxEnvelope::decode_2718(&mut attempt.get().raw.as_ref());
    let damaged =
        |error: alloy_eips::eip2718::Eip2718Error| LedgerError::Damaged { what: "attempt", detail: error.to_string() };
    envelope.map(|envelope| envelope.input().clone()).map_err(damaged)
}

/// An open request, still unplaced or already in the queue.
fn known<'a>(open: &'a mut Unplaced, queue: &'a mut Queue, id: RequestId) -> Option<&'a mut QueuedRequest> {
    match open.slot(id).and_then(Option::as_mut) {
        Some(opened) => Some(&mut opened.entry),
        None => queue.get_mut(id),
    }
}

/// Calldata of the newest and of the oldest payload among a batch's attempts: an earlier content that every node
/// refused may differ.
pub(in crate::relay) fn newest_calldata(attempts: &[Durable<AttemptRecord>]) -> Result<(Bytes, Bytes), LedgerError> {
    let mut payloads = attempts.iter().filter(|attempt| attempt.get().kind == AttemptKind::Payload);
    let oldest = payloads.next().map(calldata).transpose()?.unwrap_or_default();
    let newest = payloads.next_back().map_or(Ok(oldest.clone()), calldata)?;
    Ok((newest, oldest))
}

/// The only tenant; `None` if there are several or none.
fn only(tenants: &BTreeSet<Arc<str>>) -> Option<Arc<str>> {
    tenants.first().filter(|_| tenants.len() == 1).cloned()
}

/// The request with its bytes, read from the ledger if it is an outline.
async fn whole(ledger: &dyn Ledger, request: Arc<VerifiedRequest>) -> Result<Arc<VerifiedRequest>, LedgerError> {
    if !request.is_outline() {
        return Ok(request);
    }
    stored(ledger, request.id()).await.map(Arc::new)
}

/// Reads a request from the ledger.
pub(in crate::relay) async fn stored(ledger: &dyn Ledger, id: RequestId) -> Result<VerifiedRequest, LedgerError> {
    let missing = || LedgerError::Damaged { what: "request", detail: format!("{id} is not there") };
    parse(&ledger.request(id).await?.ok_or_else(missing)?)
}

/// Parses the request in a record.
pub(in crate::relay) fn parse(record: &RequestRecord) -> Result<VerifiedRequest, LedgerError> {
    VerifiedRequest::from_stored(&record.payload)
        .map_err(|error| LedgerError::Damaged { what: "request payload", detail: error.to_string() })
}

/// Reads a request that has ended; `None` if it has not.
async fn ended(ledger: &dyn Ledger, id: RequestId) -> Result<Option<(RequestRecord, VerifiedRequest)>, LedgerError> {
    let stored = ledger.request(id).await?.filter(|stored| stored.status.is_terminal());
    stored.map(|stored| parse(&stored).map(|request| (stored, request))).transpose()
}

/// True if an executed request was executed no later than the batch's block, or the batch has none.
fn was_first(batch: &BatchRecord, stored: &RequestRecord) -> bool {
    batch.state != BatchState::Included || stored.block_number <= batch.block.map(|(number, _)| number)
}

const fn is_executed(stored: &RequestRecord) -> bool {
    matches!(stored.status, Status::Finalized | Status::Reverted)
}

async fn restore_lane(
    ledger: &Arc<dyn Ledger>,
    chain: &ChainShared,
    config: LaneConfig,
    has_signer: bool,
    open: &mut Unplaced,
    queue: &mut Queue,
    extra: impl Fn(&Payload) -> U256,
) -> Result<SenderLane, LedgerError> {
    let id = config.id;
    let params = VehicleParams { sender: id.sender, ..chain.params };
    let next_nonce = ledger.next_nonce(id).await?;
    let mut flights = BTreeMap::new();
    let mut durable = BTreeMap::new();
    let mut slots = Vec::new();
    let (mut from, mut page) = (0, VecDeque::new());
    loop {
        if page.is_empty() {
            page = ledger.open_batches(id, from, BATCHES_PAGE).await?.into();
        }
        let Some((record, attempts, members)) = page.pop_front() else { break };
        from = record.id.nonce.saturating_add(1);
        let nonce = record.id.nonce;
        let (data, oldest) = newest_calldata(&attempts)?;
        let earlier = match data == oldest {
            true => Vec::new(),
            false => ledger.earlier_members(record.id).await?,
        };
        let refused_plans = u32::try_from(earlier.len()).unwrap_or(u32::MAX);
        let own = Some((record.id.lane.sender, record.id.nonce));
        let is_in_it = |open: &Unplaced, id: RequestId| open.get(id).is_some_and(|opened| opened.batch == own);
        // Every node refused it, or a reorg removed its block after all members had left.
        let has_left = record.state != BatchState::Included
            && !members.is_empty()
            && !members.iter().any(|member| is_in_it(open, member.id));
        let until = attempts.iter().map(|attempt| attempt.get().index.saturating_add(1)).max().unwrap_or(0);
        let newest = has_left.then(|| (until, members.clone()));
        let mut contents = Vec::new();
        for (until, members) in earlier.into_iter().chain(newest) {
            let (mut requests, mut weights, mut tenants) = (Vec::new(), Vec::new(), BTreeSet::new());
            let mut elsewhere = BTreeSet::new();
            for BatchMember { id, own_gas } in members {
                if let Some(entry) = known(open, queue, id) {
                    weights.push(own_gas.unwrap_or(entry.gas));
                    tenants.insert(entry.tenant.clone());
                    let request = entry.request.clone();
                    requests.push(whole(&**ledger, request).await?);
                } else if let Some((stored, request)) = ended(&**ledger, id).await? {
                    weights.push(own_gas.unwrap_or_else(|| params.member_gas(&request)));
                    tenants.insert(stored.tenant.as_str().into());
                    requests.push(Arc::new(request));
                    if is_executed(&stored) && was_first(&record, &stored) {
                        elsewhere.insert(id);
                    }
                }
            }
            // Keep a content without members too: the attempts that carried it must stay known.
            let key = VehicleKey::of_members(&requests, Contracts::all(false));
            let (sizes, tenant) = (Vec::new(), only(&tenants));
            contents.push(Content { until, key, members: requests, weights, sizes, tenant, elsewhere });
        }
        let earlier = contents;
        let (mut requests, mut weights, mut tenants) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut sizes = Vec::new();
        let (mut gone, mut drawn) = (BTreeSet::new(), BTreeMap::new());
        let (mut elsewhere, mut uncounted) = (BTreeSet::new(), BTreeMap::new());
        // Its whole cost, until its receipt gives each member's share: better to reserve too much for a moment than too
        // little.
        let is_included = record.state == BatchState::Included;
        let cost_wei = record.cost_wei.filter(|_| is_included).unwrap_or_default();
        let (mut flying, mut skipped) = (Vec::new(), Vec::new());
        for &BatchMember { id: member, own_gas } in &members {
            if let Some(opened) = is_in_it(open, member).then(|| open.slot(member)?.take()).flatten() {
                let Opened { entry, data_bytes, status, .. } = opened;
                let called = entry.request.gas().saturating_add(entry.request.gas() / 63);
                let skip_gas = entry.gas.saturating_sub(called);
                sizes.push(entry.request.is_outline().then_some(MemberSize { skip_gas, data_bytes }));
                requests.push(entry.request.clone());
                weights.push(own_gas.unwrap_or(entry.gas));
                tenants.insert(entry.tenant.clone());
                // The block that includes or skipped it has freed its place.
                if is_included && status == Status::Included {
                    queue.push_in_block(entry, id);
                } else if is_included {
                    skipped.push(member);
                    flying.push(entry);
                } else {
                    flying.push(entry);
                }
                continue;
            }
            if has_left {
                continue;
            }
            // It left early because a block skipped it; a reorg may have removed that block since.
            if let Some(entry) = known(open, queue, member) {
                weights.push(own_gas.unwrap_or(entry.gas));
                tenants.insert(entry.tenant.clone());
                gone.insert(member);
                let drawn_wei = cost_wei.min(entry.reserved_wei.saturating_sub(entry.spent_wei));
                drawn.insert(member, drawn_wei);
                entry.spent_wei = entry.spent_wei.saturating_add(drawn_wei);
                let gas = params.reserved_gas(entry.gas);
                entry.ceiling_wei_per_gas = ceiling_left(entry.first_ceiling_wei_per_gas, gas, entry.spent_wei);
                let request = entry.request.clone();
                requests.push(whole(&**ledger, request).await?);
                sizes.push(None);
                continue;
            }
            // It has ended since. A request still bound to this batch by a crash between two writes stays ended.
            let stored = ended(&**ledger, member).await?.filter(|(stored, _)| stored.batch != Some(record.id));
            let Some((stored, request)) = stored else { continue };
            sizes.push(None);
            weights.push(own_gas.unwrap_or_else(|| params.member_gas(&request)));
            requests.push(Arc::new(request));
            tenants.insert(stored.tenant.as_str().into());
            gone.insert(member);
            if is_executed(&stored) && was_first(&record, &stored) {
                elsewhere.insert(member);
            } else {
                let most_wei = cost_within(stored.reserved_wei, stored.price_percent);
                let left_wei = most_wei.saturating_sub(stored.cost_wei.unwrap_or_default());
                drawn.insert(member, cost_wei.min(left_wei));
                uncounted.insert(member, stored.price_percent);
            }
        }
        queue.push_in_flight(flying, id, params.base_gas());
        skipped.into_iter().for_each(|member| queue.passed_over(member));
        // The transaction's target shows the vehicle used, whatever would be chosen today.
        let first = requests.first();
        let key = VehicleKey::of_members(
            &requests,
            Contracts::all(first.is_some_and(|request| record.to != request.target())),
        );
        let payload = Payload { to: record.to, value: record.value, data, gas_limit: record.gas_limit };
        let extra_wei = extra(&payload);
        // The bytes of an included transaction stay in the ledger.
        let is_stowed = requests.iter().any(|request| request.is_outline());
        let payload = if is_stowed { Payload { data: Bytes::new(), ..payload } } else { payload };
        let is_data_charged = chain.spec.family.has_data_fee();
        let size = |(size, member): (Option<MemberSize>, _)| {
            size.unwrap_or_else(|| chain.size_of(key, member, is_data_charged))
        };
        let sizes = if is_stowed { sizes.into_iter().zip(&requests).map(size).collect() } else { Vec::new() };
        let is_guarded = !requests.is_empty() && requests.iter().all(|request| request.is_guarded());
        slots.push(RestoredSlot {
            nonce,
            plan: Plan {
                extra_wei,
                payload,
                // An abandoned content is not sent again.
                deadline: if has_left { Timestamp(0) } else { record.deadline },
                ceiling_wei_per_gas: record.ceiling_wei_per_gas,
                is_guarded,
                is_alone: requests.len() == 1,
            },
            attempts: attempts
                .iter()
                .map(|attempt| (attempt.get().kind, attempt.get().fees, attempt.get().hash))
                .collect(),
            refused_plans,
            was_broadcast: record.state != BatchState::Signed,
            was_included: record.state == BatchState::Included,
        });
        for attempt in attempts {
            let key = AttemptKey { nonce, index: attempt.get().index };
            durable.insert(key, if is_stowed { without_bytes(attempt) } else { attempt });
        }
        let left = if has_left { members.iter().map(|member| member.id).collect() } else { Vec::new() };
        // If the chain still shows it as included, the lane reports that again.
        let flight = Flight::new(key, requests, weights, record);
        let tenant = only(&tenants);
        let stowed = is_stowed.then(Stowed::default);
        let flight = Flight { is_planned: true, left, earlier, tenant, gone, drawn, elsewhere, uncounted, ..flight };
        let flight = Flight { sizes, stowed, ..flight };
        flights.insert(nonce, flight);
    }
    if !slots.is_empty() {
        tracing::info!(lane = %id, batches = slots.len(), "open batches read back; the chain will tell what became of them");
    }
    Ok(SenderLane::new(Lane::restore(config, next_nonce, slots), has_signer, params, flights, durable))
}
