//! From a configuration to a running relay: check the chains, read the ledger back, reconcile, start the tasks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Duration,
};

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
    api::{Inner, Relay},
    builder::{ChainSetup, LedgerSetup, RelayConfig},
    chain_service::{ChainService, INBOX_LEN, Message},
    clock,
    cluster::{Keeper, Membership, count_open},
    data_fee,
    error::BuildError,
    fees::{Header, prime},
    foresight::{Foresight, Outlook},
    journal::{Journal, JournalEntry},
    learned::{self, Kept},
    market::{ChainMarket, Histories},
    members::{self, Told},
    pace::PaceRule,
    pricing::{DoorLimits, Pricing},
    restore::{self, restore},
    rpc::RpcPool,
    signer::LocalSigner,
    status::{ChainHealth, ChainStatus},
    tenants::Tenants,
    tuning::TimingMode,
    watcher::{HeadUpdate, Watcher},
};
use crate::{
    chain::data_fee::DataFeeModel,
    ledger::{GroupCommit, Ledger, LedgerError, SqliteLedger},
    request::{ForwarderDomain, vehicle::VehicleParams},
    schedule::{PercentileOutlook, Queue},
};

/// Blocks of fee history behind the percentile gate.
const OUTLOOK_BLOCKS: usize = 200;

/// How long a shutdown waits for the last commits.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a start waits for a chain to answer.
const CHAIN_START_TIMEOUT: Duration = Duration::from_secs(30);

/// A subscription to heads is made anew after so many times `subscription_silence_ms` without one, but not before
/// [`LEAST_SILENCE`]: on a quiet chain there is nothing to tell.
const SILENCES: u32 = 8;

/// See [`SILENCES`].
const LEAST_SILENCE: Duration = Duration::from_secs(30);

/// Slack at which the percentile gate is as strict as `patience_percentile` says.
const PATIENCE_HORIZON: Duration = Duration::from_secs(3_600);

impl Relay {
    /// Starts a relay: opens the ledger, checks the chains, reads back what is open, then accepts.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left running then.
    pub async fn start(config: RelayConfig) -> Result<Self, BuildError> {
        let ledger: Arc<dyn Ledger> = match &config.ledger {
            LedgerSetup::Sqlite(sqlite) => Arc::new(SqliteLedger::open(sqlite.clone()).await?),
            #[cfg(feature = "postgres")]
            LedgerSetup::Postgres(postgres) => {
                Arc::new(crate::ledger::PostgresLedger::open(postgres.as_ref().clone()).await?)
            }
        };
        Self::start_on(config, ledger).await
    }

    /// As [`Self::start`], on a ledger that is open already; the configured one is left alone.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left running then, and the ledger is closed.
    pub async fn start_on(config: RelayConfig, ledger: Arc<dyn Ledger>) -> Result<Self, BuildError> {
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
    let is_shared = ledger.leases().is_some();
    let tenants = Arc::new(Tenants::new(config.tenants, is_shared));
    restore_spent(&ledger, &tenants).await?;
    let told = Told::new(identity, &config.chains).with_tenants(&tenants);

    // Check every chain before anything runs.
    let mut checked = Vec::new();
    for setup in config.chains {
        checked.push(check_chain(setup).await?);
    }

    if let Some(leases) = ledger.leases() {
        members::join(leases, &config.cluster, &told).await?;
    }
    restore::take_notice(&ledger).await?;
    let (group, group_task) = GroupCommit::spawn(ledger.clone(), config.group_commit);
    group.submit(crate::ledger::Write::Meta { key: "identity".to_owned(), value: identity.to_string() }).await?;
    let (journal, journal_sender) = Journal::open(group.clone(), &identity.to_string());
    let newest = ledger.last_event_seq().await?;

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
        let holder = is_shared.then(Arc::<Mutex<String>>::default);
        let signers = chain.setup.signers.clone();
        let (service, shared, inbox) =
            build_service(chain, &ledger, &tenants, journal_sender.clone(), holder.clone()).await?;
        let (updates, heads) = mpsc::channel::<Arc<HeadUpdate>>(16);
        let senders = signers.iter().map(LocalSigner::address).collect();
        if let Some(holder) = holder {
            let keeper = Keeper {
                ledger: ledger.clone(),
                group: group.clone(),
                config: config.cluster.clone(),
                chain: shared.clone(),
                tenants: tenants.clone(),
                signers,
                holder,
            };
            let keeper_stop = stop.clone();
            tasks.spawn(async move {
                keeper.run(keeper_stop).await;
                Ended::Chain(chain_id)
            });
        }
        let multicall3 = shared.has_multicall.then_some(shared.params.multicall3);
        let (spec, pool) = (shared.spec.clone(), shared.pool.clone());
        let tuning = &shared.tuning;
        let (believed, fee_history_blocks) = (service.believed.clone(), tuning.fee_history_blocks);
        let pace = PaceRule::new(tuning, spec.block_time());
        for subscription in pool.subscriptions(chain_id, LEAST_SILENCE.max(tuning.subscription_silence * SILENCES)) {
            let stop = stop.clone();
            tasks.spawn(async move {
                subscription.run(stop).await;
                Ended::Chain(chain_id)
            });
        }
        let watcher = Watcher::new(spec, pool, senders, pace, multicall3, believed, fee_history_blocks);
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
    if is_shared {
        let (follow_group, follow_stop) = (group.clone(), stop.clone());
        let interval = config.cluster.follow_interval;
        tasks.spawn(async move {
            follow_group.follow(newest, interval, follow_stop).await;
            Ended::Follower
        });
        let attending = members::attend(ledger.clone(), config.cluster.clone(), told, stop.clone());
        tasks.spawn(async move {
            attending.await;
            Ended::Follower
        });
        let counting = count_open(ledger.clone(), group.clone(), tenants.clone(), interval, stop.clone());
        tasks.spawn(async move {
            counting.await;
            Ended::Follower
        });
    }

    let admission = Arc::new(Admission {
        chains,
        tenants,
        group: group.clone(),
        ledger: ledger.clone(),
        identity: config.identity,
        default_within: config.default_within,
        max_within: config.max_within,
        salt: AtomicU64::new(0),
        accept_timeout: config.cluster.accept_timeout,
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
    Follower,
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
            Ok(Ended::Chain(_) | Ended::Journal | Ended::Group | Ended::Follower) if stop.is_cancelled() => None,
            Ok(Ended::Chain(chain_id)) => Some(format!("service or watcher of chain {chain_id}")),
            Ok(Ended::Follower) => Some("reader of the others' work".to_owned()),
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
        if stop.is_cancelled() && tasks.len() <= 1 && tokio::time::timeout(CLOSE_TIMEOUT, group.close()).await.is_err()
        {
            // A commit waits for a database that is away: closing the ledger ends that, and the commit stays in doubt.
            tracing::error!("the ledger does not answer; what is not committed yet is decided anew at the next start");
            break;
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
    let pool = RpcPool::of_chain(setup.endpoints.clone(), &setup.tuning);
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
    let patience = tuning.patience(setup.spec.block_time());
    let histories = Histories::read(&pool, tuning.fee_history_blocks, told.unwrap_or_default(), patience).await;
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

/// Asks until most nodes agree or the deadline is over: one lost answer must not stop a start, nor one node that lags or lies.
async fn ask<T: serde::de::DeserializeOwned + PartialEq>(
    pool: &RpcPool,
    method: &'static str,
    params: serde_json::Value,
    deadline: tokio::time::Instant,
) -> Result<T, super::rpc::RpcError> {
    loop {
        match pool.call_agreed(method, params.clone()).await {
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
    holder: Option<Arc<Mutex<String>>>,
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
        queued: 0,
        in_flight: 0,
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
            door: DoorLimits::default(),
            status,
            lanes: Vec::new(),
            price: None,
            forecast: None,
            sources: Vec::new(),
            data_fee: None,
            data_fee_fault: None,
        }),
    });
    let (queue, lanes, uncertain, membership) = match holder {
        None => {
            let restored = restore(ledger, &shared, tenants, signers, data_fee).await?;
            (restored.queue, restored.lanes, restored.uncertain, None)
        }
        // Whoever holds the lease reads them back.
        Some(holder) => {
            let senders = signers.iter().map(LocalSigner::address).collect();
            (Queue::new(), Vec::new(), BTreeSet::new(), Some(Membership::new(holder, senders)))
        }
    };
    let now = clock::now();
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
        uncertain,
        is_looking_up: false,
        is_at_gaps: false,
        gaps_after: None,
        is_confirming: false,
        is_stopping: false,
        membership,
    };
    Ok((service, shared, inbox))
}
