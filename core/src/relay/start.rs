//! From a configuration to a running relay: check the chains, read the ledger back, reconcile, start the tasks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, RwLock, atomic::AtomicU64},
    time::Duration,
};

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::json;
use slackwater_contracts::{forwarder, multicall3};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, ChainShared, ChainView, NONCE_CACHE_LEN},
    api::{ChainHealth, ChainStatus, Inner, Relay},
    builder::{ChainSetup, RelayConfig},
    chain_service::{ChainService, INBOX_LEN, Message},
    clock,
    data_fee::{self, beyond_gas},
    error::BuildError,
    fees::{Header, prime},
    foresight::{Foresight, Outlook, TimingMode},
    journal::{Journal, JournalEntry},
    lane_shell::{Flight, LaneShell},
    learned::{self, Kept},
    market::{ChainMarket, Histories},
    pricing::Pricing,
    rpc::RpcPool,
    tenants::Tenants,
    watcher::{HeadUpdate, Watcher},
};
use crate::{
    chain::data_fee::{DataFeeModel, TxSize},
    lane::{AttemptKey, AttemptKind, Lane, LaneConfig, Plan, RestoredSlot},
    ledger::{BatchState, GroupCommit, Ledger, LedgerError, RequestRecord, SqliteLedger},
    request::{
        ForwarderDomain, LaneId, RequestId, VerifiedRequest,
        vehicle::{Payload, VehicleKey, VehicleParams},
    },
    schedule::{PercentileOutlook, Queue, QueuedRequest},
};

/// Blocks of fee history behind the percentile gate.
const OUTLOOK_BLOCKS: usize = 200;

/// How long a start waits for a chain to answer.
const CHAIN_START_TIMEOUT: Duration = Duration::from_secs(30);

/// Open requests read from the ledger at a time.
const RESTORE_PAGE: usize = 2_000;

/// Slack at which the percentile gate is as strict as `patience_percentile` says.
const PATIENCE_HORIZON: Duration = Duration::from_secs(3_600);

impl Relay {
    /// Starts a relay: opens the ledger, checks the chains, reads back what is open, then accepts.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left running then.
    pub async fn start(config: RelayConfig) -> Result<Self, BuildError> {
        let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(config.sqlite.clone()).await?);
        let stop = CancellationToken::new();
        match assemble(config, ledger.clone(), stop.clone()).await {
            Ok(relay) => Ok(relay),
            Err(error) => {
                stop.cancel();
                ledger.close().await;
                Err(error)
            }
        }
    }
}

async fn assemble(config: RelayConfig, ledger: Arc<dyn Ledger>, stop: CancellationToken) -> Result<Relay, BuildError> {
    let identity = config.identity.address();
    if let Some(known) = ledger.meta("identity").await?
        && known != identity.to_string()
    {
        tracing::warn!(%known, %identity, "the identity key changed: promises given before were signed by another key");
    }
    let tenants = Arc::new(Tenants::new(config.tenants));
    restore_spent(&ledger, &tenants).await?;

    // Check every chain before anything runs.
    let mut checked = Vec::new();
    for setup in config.chains {
        checked.push(check_chain(setup).await?);
    }

    let (group, group_task) = GroupCommit::spawn(ledger.clone(), config.group_commit);
    group.submit(crate::ledger::Write::Meta { key: "identity".to_owned(), value: identity.to_string() }).await?;
    let (journal, journal_sender) = Journal::open(&ledger, group.clone(), &identity.to_string()).await?;

    let mut tasks: JoinSet<Ended> = JoinSet::new();
    let journal_stop = stop.clone();
    tasks.spawn(async move {
        match journal.run(journal_stop).await {
            Ok(()) => Ended::Journal,
            Err(error) => Ended::Failed(format!("journal: {error}")),
        }
    });
    tasks.spawn(watch_group(group_task));

    let mut chains = BTreeMap::new();
    for chain in checked {
        let chain_id = chain.setup.spec.chain_id;
        let (service, shared, inbox) = build_service(chain, &ledger, &tenants, journal_sender.clone()).await?;
        let (updates, heads) = mpsc::channel::<Arc<HeadUpdate>>(16);
        let senders = service.lanes.iter().map(|lane| lane.machine.id().sender).collect();
        let multicall3 = shared.has_multicall.then_some(shared.params.multicall3);
        let (spec, pool) = (shared.spec.clone(), shared.pool.clone());
        let tuning = &shared.tuning;
        let (believed, fee_history_blocks) = (service.believed.clone(), tuning.fee_history_blocks);
        let watcher = Watcher::new(spec, pool, senders, tuning.poll_interval, multicall3, believed, fee_history_blocks);
        let (watch_stop, service_stop) = (stop.clone(), stop.clone());
        tasks.spawn(async move {
            watcher.run(updates, watch_stop).await;
            Ended::Chain(chain_id)
        });
        tasks.spawn(async move {
            service.run(inbox, heads, service_stop).await;
            Ended::Chain(chain_id)
        });
        chains.insert(chain_id, shared);
    }
    drop(journal_sender);

    let admission = Arc::new(Admission {
        chains,
        tenants,
        group: group.clone(),
        ledger: ledger.clone(),
        identity: config.identity,
        default_within: config.default_within,
        max_within: config.max_within,
        salt: AtomicU64::new(0),
    });
    let ended = CancellationToken::new();
    let failed = CancellationToken::new();
    let supervisor =
        tokio::spawn(supervise(tasks, group.clone(), ledger.clone(), stop.clone(), failed.clone(), ended.clone()));
    let inner = Arc::new(Inner::new(admission, group, ledger, stop, failed, ended, supervisor));
    let relay = Relay { inner };
    relay.wait_for_first_heads().await;
    Ok(relay)
}

/// Why a task ended.
enum Ended {
    Chain(u64),
    Journal,
    Group,
    Failed(String),
}

async fn watch_group(task: JoinHandle<Result<(), LedgerError>>) -> Ended {
    match task.await {
        Ok(Ok(())) => Ended::Group,
        Ok(Err(error)) => Ended::Failed(format!("ledger: {error}")),
        Err(error) => Ended::Failed(format!("ledger task: {error}")),
    }
}

/// Watches all tasks: one that ends early stops everything, loudly. On shutdown, closes the ledger last.
async fn supervise(
    mut tasks: JoinSet<Ended>,
    group: GroupCommit,
    ledger: Arc<dyn Ledger>,
    stop: CancellationToken,
    failed: CancellationToken,
    ended: CancellationToken,
) {
    // A panic of this task must not leave others waiting for it.
    let _ended = ended.drop_guard();
    while let Some(result) = tasks.join_next().await {
        let what = match result {
            // These end in order after `stop`: watchers and services first, then the journal, then the group.
            Ok(Ended::Chain(_) | Ended::Journal | Ended::Group) if stop.is_cancelled() => None,
            Ok(Ended::Chain(chain_id)) => Some(format!("service or watcher of chain {chain_id}")),
            Ok(Ended::Journal) => Some("journal".to_owned()),
            Ok(Ended::Group) => Some("ledger".to_owned()),
            Ok(Ended::Failed(detail)) => Some(detail),
            Err(error) => Some(error.to_string()),
        };
        if let Some(what) = what {
            tracing::error!(%what, "a task of the relay ended early; stopping, nothing accepted is lost");
            failed.cancel();
            stop.cancel();
        }
        // The services are done when only group and perhaps journal are left; the journal ends with its senders.
        if stop.is_cancelled() && tasks.len() <= 1 {
            group.close().await;
        }
    }
    ledger.close().await;
}

async fn restore_spent(ledger: &Arc<dyn Ledger>, tenants: &Tenants) -> Result<(), LedgerError> {
    let now = clock::now();
    for tenant in tenants.iter() {
        let Some(budget) = &tenant.policy.budget else { continue };
        let period = budget.period_start(now);
        for row in ledger.spent(period.0).await? {
            if row.tenant == tenant.policy.id {
                tenants.restore_spent(&row.tenant, row.chain_id, period, row.spent_wei);
            }
        }
    }
    Ok(())
}

/// A chain that answered, with what was read from it.
struct CheckedChain {
    setup: ChainSetup,
    pool: RpcPool,
    forwarders: BTreeMap<Address, ForwarderDomain>,
    known_forwarders: BTreeSet<Address>,
    has_multicall: bool,
    market: ChainMarket,
    /// Newest block that a node told, if one did.
    head: Option<u64>,
    /// What L1 costs; `None` if it could not be read, which the first head tells.
    data_fee: Option<DataFeeModel>,
}

async fn check_chain(setup: ChainSetup) -> Result<CheckedChain, BuildError> {
    let chain_id = setup.spec.chain_id;
    let fault = |detail: String| BuildError::Chain { chain_id, detail };
    let pool = RpcPool::new(setup.endpoints.clone(), setup.tuning.rpc_timeout);
    let deadline = tokio::time::Instant::now() + CHAIN_START_TIMEOUT;
    loop {
        let answers = pool.chain_ids().await;
        for (name, answer) in &answers {
            if let Ok(id) = answer
                && *id != chain_id
            {
                return Err(fault(format!("endpoint `{name}` serves chain {id}")));
            }
        }
        if answers.iter().any(|(_, answer)| answer.is_ok()) {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            let last = answers.into_iter().find_map(|(_, answer)| answer.err());
            let detail = last.map_or_else(|| "no endpoint".to_owned(), |error| error.to_string());
            return Err(fault(format!("no endpoint answered within {} s: {detail}", CHAIN_START_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Those that are away may belong to another chain.
    pool.expect_chain(chain_id);
    let unreachable = |error: super::rpc::RpcError| fault(error.to_string());
    let mut forwarders = BTreeMap::new();
    let mut known_forwarders = BTreeSet::new();
    for wanted in &setup.forwarders {
        let code: Bytes =
            ask(&pool, "eth_getCode", json!([wanted.address, "latest"]), deadline).await.map_err(unreachable)?;
        if code.is_empty() {
            return Err(fault(format!("there is no contract at forwarder {}", wanted.address)));
        }
        match forwarder::forwarder_version(&code) {
            Some(_) => {
                known_forwarders.insert(wanted.address);
            }
            None if wanted.allow_unknown_code => {
                tracing::warn!(chain_id, forwarder = %wanted.address, "forwarder code is not a known version");
            }
            None => {
                return Err(fault(format!(
                    "code of forwarder {} is not a known version; check it, then set `allow_unknown_code = true`",
                    wanted.address
                )));
            }
        }
        let input: Bytes = forwarder::eip712DomainCall {}.abi_encode().into();
        let call = json!([{ "to": wanted.address, "input": input }, "latest"]);
        let output: Bytes = ask(&pool, "eth_call", call, deadline).await.map_err(unreachable)?;
        let domain = forwarder::eip712DomainCall::abi_decode_returns(&output)
            .map_err(|_| fault(format!("forwarder {} has no eip712Domain()", wanted.address)))?;
        let is_ours = domain.version == forwarder::DOMAIN_VERSION
            && domain.chainId == U256::from(chain_id)
            && domain.verifyingContract == wanted.address;
        if !is_ours {
            return Err(fault(format!(
                "forwarder {} says domain version {}, chain {}, contract {}",
                wanted.address, domain.version, domain.chainId, domain.verifyingContract
            )));
        }
        forwarders.insert(wanted.address, ForwarderDomain::new(domain.name, chain_id, wanted.address));
    }
    let multicall = setup.spec.multicall3.unwrap_or(multicall3::ADDRESS);
    let code: Bytes = ask(&pool, "eth_getCode", json!([multicall, "latest"]), deadline).await.map_err(unreachable)?;
    let has_multicall = !code.is_empty();
    let header: Option<Header> = pool.call("eth_getBlockByNumber", json!(["latest", false])).await.ok();
    let told = header.as_ref().map(Header::number);
    let tuning = &setup.tuning;
    let histories =
        Histories::read(&pool, tuning.fee_history_blocks, told.unwrap_or_default(), tuning.poll_interval).await;
    let mut market = ChainMarket::new(tuning.market, pool.names());
    let blocks = market.absorb(clock::now(), &histories).len();
    if blocks == 0 {
        tracing::warn!(chain_id, "no fee history yet; it is asked for with every head");
    } else {
        tracing::info!(chain_id, blocks, "fee history read");
    }
    let head = told.max(market.book().newest().map(|point| point.number));
    let data_fee = match &header {
        Some(header) => data_fee::read(&pool, setup.spec.family, has_multicall.then_some(multicall), header).await.ok(),
        None => None,
    };
    Ok(CheckedChain { setup, pool, forwarders, known_forwarders, has_multicall, market, head, data_fee })
}

/// Asks until there is an answer or the deadline is over: one lost answer must not stop a start.
async fn ask<T: serde::de::DeserializeOwned>(
    pool: &RpcPool,
    method: &'static str,
    params: serde_json::Value,
    deadline: tokio::time::Instant,
) -> Result<T, super::rpc::RpcError> {
    loop {
        match pool.call(method, params.clone()).await {
            Err(error) if error.is_retryable() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            answer => return answer,
        }
    }
}

async fn build_service(
    chain: CheckedChain,
    ledger: &Arc<dyn Ledger>,
    tenants: &Arc<Tenants>,
    journal: mpsc::Sender<JournalEntry>,
) -> Result<(ChainService, Arc<ChainShared>, mpsc::Receiver<Message>), BuildError> {
    let CheckedChain { setup, pool, forwarders, known_forwarders, has_multicall, market, head, data_fee } = chain;
    let ChainSetup { spec, signers, tuning, .. } = setup;
    let chain_id = spec.chain_id;
    let params = VehicleParams {
        sender: signers[0].address(),
        multicall3: spec.multicall3.unwrap_or(multicall3::ADDRESS),
        schedule: *spec.gas_schedule(),
        forward_overhead_gas: tuning.forward_overhead_gas,
    };
    let mut gate =
        PercentileOutlook::new(OUTLOOK_BLOCKS, tuning.patience_percentile, tuning.urgent_within, PATIENCE_HORIZON);
    let kept = Kept::read(ledger.as_ref(), chain_id, tuning.learned_max_bytes).await?;
    let mut pricing = Pricing::new(&spec, &tuning);
    if let Some(learned) = kept.learned.as_ref().filter(|learned| head.is_none_or(|head| learned.is_of(head))) {
        pricing.restore(&tuning, learned::delays(learned));
    }
    market.book().window().for_each(|point| pricing.block(point));
    let tip = pricing.quote(&spec, &tuning, 0, Bytes::new()).quote.max_priority_fee_per_gas;
    prime(&mut gate, market.book().window(), tip);
    let foresight = match tuning.timing {
        TimingMode::Immediate => None,
        TimingMode::Forecast | TimingMode::Percentile => {
            let mut foresight = Foresight::new(&spec, &tuning)
                .map_err(|error| BuildError::Chain { chain_id, detail: format!("no forecast: {error}") })?;
            foresight.restore(kept.models, kept.learned);
            // Without a head it is not known yet whether that was learned from this chain's blocks: the first head tells.
            if let Some(head) = head {
                foresight.observe(head, &market.book().window().copied().collect::<Vec<_>>());
            }
            Some(foresight)
        }
    };
    let mut queue = Queue::new();
    for tenant in tenants.iter() {
        queue.set_weight(&tenant.name, tenant.policy.weight);
    }

    // What is open, by id; the in-flight ones are placed by their batches, the rest waits.
    let mut open = load_open(ledger, chain_id, &params).await?;
    for (record, _) in open.values() {
        tenants.restore_open(&record.tenant, record.id, chain_id, record.reserved_wei, record.accepted_at);
    }
    let mut lanes = Vec::new();
    for signer in signers {
        let id = LaneId { chain_id, sender: signer.address() };
        let params = VehicleParams { sender: id.sender, ..params };
        let lane_config = LaneConfig {
            id,
            max_in_flight: tuning.max_in_flight,
            replacement: spec.replacement,
            bump_after_blocks: tuning.bump_after_blocks,
            rebroadcast_after_blocks: tuning.rebroadcast_after_blocks,
            max_attempts: tuning.max_attempts,
            max_fee_ceiling_wei_per_gas: tuning.max_fee_ceiling_wei_per_gas,
            cancel_gas: tuning.cancel_gas,
        };
        let extra = |payload: &Payload| {
            let model = data_fee.unwrap_or_default();
            let size = TxSize::of_unsigned(&payload.data);
            beyond_gas(&model, &size, payload.gas_limit, None, tuning.l1_fee_margin_percent)
        };
        lanes.push(restore_lane(ledger, lane_config, signer, params, &mut open, &mut queue, extra).await?);
    }
    let now = clock::now();
    let mut rest: Vec<_> = open.into_values().collect();
    rest.sort_by_key(|(record, _)| record.seq);
    let waiting = rest.len();
    for (record, entry) in rest {
        if record.status != crate::request::Status::Queued {
            // Its batch belongs to a sender that is not configured any more: only that key can say what became of it.
            tracing::error!(id = %record.id, status = %record.status, batch = ?record.batch, "request is in a batch of a sender that is not configured; add its signer again");
            continue;
        }
        queue.push(entry);
    }
    if waiting > 0 {
        tracing::info!(chain_id, waiting, "requests read back from the ledger");
    }

    let (inbox_sender, inbox) = mpsc::channel(INBOX_LEN);
    let status = ChainStatus {
        chain_id,
        name: spec.name.clone(),
        health: ChainHealth::Starting,
        detail: Some("no block has been seen yet".to_owned()),
        head: None,
        head_timestamp_s: None,
        final_block: None,
        next_base_fee_wei_per_gas: None,
        quote: None,
        queued: queue.waiting() as u64,
        in_flight: queue.in_flight() as u64,
        guard_ms: crate::time::millis(tuning.guard),
        guard_time_ms: crate::time::millis(pricing.guard()),
        inclusions_measured: pricing.measured() as u64,
        forwarders: forwarders.keys().copied().collect(),
        forwarder_names: forwarders.values().map(|domain| domain.name().to_owned()).collect(),
        endpoints: pool.status(),
    };
    let shared = Arc::new(ChainShared {
        spec,
        tuning,
        pool,
        forwarders,
        known_forwarders,
        has_multicall,
        params,
        inbox: inbox_sender,
        nonces: moka::future::Cache::new(NONCE_CACHE_LEN),
        view: RwLock::new(ChainView {
            status,
            lanes: Vec::new(),
            price: None,
            forecast: None,
            sources: Vec::new(),
            data_fee: None,
            data_fee_fault: None,
        }),
    });
    let service = ChainService {
        shared: shared.clone(),
        tenants: tenants.clone(),
        journal,
        backlog: VecDeque::new(),
        queue,
        outlook: Outlook::NOW,
        gate,
        believed: Arc::new(AtomicU64::new(market.book().newest().map_or(0, |point| point.number))),
        market,
        pricing,
        foresight,
        lanes,
        head: None,
        price: None,
        forecast: None,
        data_fee,
        data_fee_fault: None,
        head_at: now,
        kept_at: now,
        tasks: JoinSet::new(),
        held: Vec::new(),
        suspects: BTreeSet::new(),
        is_looking_up: false,
        is_at_gaps: false,
        gaps_after: None,
        is_confirming: false,
        is_stopping: false,
    };
    Ok((service, shared, inbox))
}

type Open = HashMap<RequestId, (RequestRecord, QueuedRequest)>;

async fn load_open(ledger: &Arc<dyn Ledger>, chain_id: u64, params: &VehicleParams) -> Result<Open, LedgerError> {
    let mut open = HashMap::new();
    let mut after = 0;
    let mut names: BTreeMap<String, Arc<str>> = BTreeMap::new();
    loop {
        let page = ledger.open_requests(chain_id, after, RESTORE_PAGE).await?;
        let Some(last) = page.last() else { return Ok(open) };
        after = last.seq;
        for mut record in page {
            let request = VerifiedRequest::from_stored(&record.payload)
                .map_err(|error| LedgerError::Damaged { what: "request payload", detail: error.to_string() })?;
            record.payload = Vec::new();
            let tenant = names.entry(record.tenant.clone()).or_insert_with(|| record.tenant.as_str().into()).clone();
            let entry = QueuedRequest {
                tenant,
                seq: record.seq,
                accepted_at: record.accepted_at,
                gas: params.member_gas(&request),
                bytes: params.member_bytes(&request),
                ceiling_wei_per_gas: record.ceiling_wei_per_gas,
                simulations: 0,
                batch_failures: record.batch_failures,
                request: Arc::new(request),
            };
            open.insert(record.id, (record, entry));
        }
    }
}

async fn restore_lane(
    ledger: &Arc<dyn Ledger>,
    config: LaneConfig,
    signer: super::signer::LocalSigner,
    params: VehicleParams,
    open: &mut Open,
    queue: &mut Queue,
    extra: impl Fn(&Payload) -> U256,
) -> Result<LaneShell, LedgerError> {
    let id = config.id;
    let next_nonce = ledger.next_nonce(id).await?;
    let mut flights = BTreeMap::new();
    let mut durable = BTreeMap::new();
    let mut slots = Vec::new();
    for (record, attempts, members) in ledger.open_batches(id).await? {
        let nonce = record.id.nonce;
        let first = attempts.iter().find(|attempt| attempt.get().kind == AttemptKind::Payload);
        let data = match first {
            Some(attempt) => TxEnvelope::decode_2718(&mut attempt.get().raw.as_ref())
                .map_err(|error| LedgerError::Damaged { what: "attempt", detail: error.to_string() })?
                .input()
                .clone(),
            None => Bytes::new(),
        };
        let mut requests = Vec::new();
        let mut weights = Vec::new();
        for member in &members {
            // A member that has ended already (a crash between two writes) stays ended.
            if let Some((_, entry)) = open.remove(member) {
                requests.push(entry.request.clone());
                weights.push(entry.gas);
                queue.push_in_flight(entry, id);
            }
        }
        let key = requests
            .first()
            .map_or(VehicleKey::Single(RequestId(alloy_primitives::B256::ZERO)), |request| VehicleKey::of(request));
        let payload = Payload { to: record.to, value: record.value, data, gas_limit: record.gas_limit };
        slots.push(RestoredSlot {
            nonce,
            plan: Plan {
                extra_wei: extra(&payload),
                payload,
                deadline: record.deadline,
                ceiling_wei_per_gas: record.ceiling_wei_per_gas,
            },
            attempts: attempts
                .iter()
                .map(|attempt| (attempt.get().kind, attempt.get().fees, attempt.get().hash))
                .collect(),
            was_broadcast: record.state != BatchState::Signed,
            was_included: record.state == BatchState::Included,
        });
        for attempt in attempts {
            let key = AttemptKey { nonce, index: attempt.get().index };
            durable.insert(key, attempt);
        }
        flights.insert(nonce, Flight { key, members: requests, weights, record, foreseen: None });
    }
    if !slots.is_empty() {
        tracing::info!(lane = %id, batches = slots.len(), "open batches read back; the chain will tell what became of them");
    }
    Ok(LaneShell {
        machine: Lane::restore(config, next_nonce, slots),
        signer,
        params,
        flights,
        signed: HashMap::new(),
        durable,
        is_simulating: false,
    })
}
