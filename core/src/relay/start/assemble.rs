//! Startup, from a configuration to a running relay: check the chains, restore from the ledger, reconcile, start the
//! tasks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use futures_util::{FutureExt as _, future::join_all};
use serde_json::json;
use slackwater_contracts::{capped_calls, forwarder, multicall3};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::restore::{self, restore};
use crate::{
    chain::data_fee::DataFeeModel,
    ledger::{GroupCommit, Ledger, LedgerError, SqliteLedger},
    policy::BudgetShares,
    relay::{
        admission::{
            admit::{Admission, Chains, NONCE_CACHE_LEN},
            log::{LogKeeper, RefusalSums},
            pause::{self, PauseBoard},
            tenants::Tenants,
        },
        chain::{
            health,
            host::{ChainFees, SharedBooks},
            journal::{Journal, JournalEntry},
            message::{Message, Restored},
            service::{ChainService, INBOX_LEN},
            shared::{ChainShared, ChainView},
            work::Turns,
        },
        clock,
        cluster::{
            instances::{self, InstanceConfig},
            keeper::{LeaseKeeper, count_open},
            membership::{ClusterConfig, Membership},
        },
        handle::{
            api::{Inner, Relay},
            config::{ChainSetup, LedgerSetup, RelayConfig},
            error::BuildError,
            status::{ChainHealth, ChainStatus, EndpointStatus, TokenStatus},
        },
        market::{
            forecast::ForecastService,
            header::{Header, prime},
            pace::PaceRule,
            saved::{self, Kept},
            sources::{ChainMarket, Histories},
            watcher::{HeadUpdate, Watcher},
        },
        nodes::data_fee,
        rpc::{RpcEndpoint, RpcError, RpcPool, standing::Place},
        signer::AccountKey,
        start::tokens,
    },
    request::{ForwarderDomain, Token, vehicle::VehicleParams},
    schedule::PercentileOutlook,
    sender::{ChainFacts, DoorLimits, Open, Pricing, Sender, Surroundings, tuning::TimingMode},
};

/// Cache time of the finding that a target has no code.
const CODE_KEPT: Duration = Duration::from_secs(600);

/// Blocks of fee history used by the percentile gate.
const OUTLOOK_BLOCKS: usize = 200;

/// Time limit of a shutdown for the last commits.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a start for a chain to answer; after that the chain joins later.
const CHAIN_START_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before an unreachable chain is retried.
const AWAITED_PAUSE: Duration = Duration::from_secs(2);

/// Pause before a panicked task is restarted.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Highest age of a node's newest block at which the node counts as synced.
const FRESH_HEAD: Duration = Duration::from_secs(600);

/// A head subscription is renewed after this multiple of `subscription_silence_ms` without a head, but not before
/// [`LEAST_SILENCE`], since a quiet chain has no heads to report.
const SILENCES: u32 = 8;

/// Costs of ended requests read from the ledger at a time.
const COSTS_PAGE: usize = 10_000;

/// Least silence before a head subscription is renewed; see [`SILENCES`].
const LEAST_SILENCE: Duration = Duration::from_secs(30);

/// Slack at which the percentile gate reaches the strictness of `patience_percentile`.
const PATIENCE_HORIZON: Duration = Duration::from_secs(3_600);

impl Relay {
    /// Starts a relay: opens the ledger, checks the chains, restores open requests, then accepts.
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

    /// For the simulator: as [`Self::start`], on an open ledger; the configured one is ignored.
    ///
    /// # Errors
    /// [`BuildError`]; nothing is left running then, and the ledger is closed.
    #[doc(hidden)]
    pub async fn start_on(config: RelayConfig, ledger: Arc<dyn Ledger>) -> Result<Self, BuildError> {
        let stop = CancellationToken::new();
        // A start dropped half way stops the tasks it has started.
        let unfinished = stop.clone().drop_guard();
        match assemble(config, ledger.clone(), stop.clone()).await {
            Ok(relay) => {
                unfinished.disarm();
                Ok(relay)
            }
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
    let tenants = Tenants::new(config.tenants, config.open_limits, is_shared).on_chains(&config.chains);
    let tenants = Arc::new(tenants);
    restore_spent(&ledger, &tenants).await?;
    let told = InstanceConfig::new(identity, &config.chains).with_tenants(&tenants);

    // Check every chain before anything runs. An unreachable one stops no other: it joins later.
    let mut checked = Vec::new();
    let mut awaited = Vec::new();
    let looks = config.chains.into_iter().map(|setup| {
        let ledger = ledger.clone();
        async move {
            let known = KnownFinal::read(ledger.as_ref(), setup.spec.chain_id).await?;
            Ok::<_, BuildError>((check_chain(setup.clone(), known).await, setup))
        }
    });
    for look in join_all(looks).await {
        match look? {
            (Ok(chain), _) => checked.push(chain),
            (Err(StartFault::Wrong(error)), _) => return Err(error),
            (Err(StartFault::Away(error)), setup) => {
                let chain_id = setup.spec.chain_id;
                tracing::error!(chain_id, %error, "the chain can't be reached; it is served as soon as it can");
                awaited.push((setup, error.to_string()));
            }
        }
    }

    if let Some(leases) = ledger.leases() {
        instances::join(leases, &config.cluster, &told).await?;
    }
    restore::take_notice(&ledger).await?;
    let pauses = PauseBoard::restore(&ledger).await?;
    let (group, group_task) =
        GroupCommit::spawn_logging(ledger.clone(), config.group_commit, identity.to_string().into());
    // Watched by one of the tasks, but not in their set: it would keep using the ledger if this start were dropped.
    let writing = AbortUnless(Some(group_task.abort_handle()));
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
    let refusals = Arc::new(RefusalSums::new(config.group_commit.max_refusal_sums));
    let keeper = LogKeeper {
        refusals: Arc::clone(&refusals),
        group: group.clone(),
        ledger: ledger.clone(),
        owner: identity.to_string().into(),
        head_interval: config.group_commit.log_head_interval,
    };
    let log_stop = stop.clone();
    tasks.spawn(async move {
        keeper.run(log_stop).await;
        Ended::Follower
    });

    let wiring = Wiring {
        ledger: ledger.clone(),
        group: group.clone(),
        tenants: tenants.clone(),
        journal: journal_sender,
        pauses: pauses.clone(),
        default_within: config.default_within,
        cluster: config.cluster.clone(),
        chains: Arc::default(),
        stop: stop.clone(),
    };
    for chain in checked {
        wiring.run_chain(chain, &mut tasks).await?;
    }
    for (setup, detail) in awaited {
        if !is_shared {
            // Its open requests hold their budget reservations all the same.
            restore::count_open(&ledger, &tenants, setup.spec.chain_id).await?;
        }
        wiring.chains.awaited(awaited_status(&setup, detail));
        tasks.spawn(wiring.clone().come_later(setup));
    }
    let chains = wiring.chains.clone();
    drop(wiring);
    if is_shared {
        let (follow_group, follow_stop) = (group.clone(), stop.clone());
        let interval = config.cluster.follow_interval;
        tasks.spawn(async move {
            follow_group.follow(newest, interval, follow_stop).await;
            Ended::Follower
        });
        let attending = instances::attend(ledger.clone(), config.cluster.clone(), told, tenants.clone(), stop.clone());
        tasks.spawn(async move {
            attending.await;
            Ended::Follower
        });
        let (board, pause_ledger, pause_stop) = (pauses.clone(), ledger.clone(), stop.clone());
        tasks.spawn(async move {
            pause::follow(board, pause_ledger, interval, pause_stop).await;
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
        pauses,
        group: group.clone(),
        ledger: ledger.clone(),
        identity: config.identity,
        hook: config.admission_hook,
        default_within: config.default_within,
        default_expiry: config.default_expiry,
        max_within: config.max_within,
        accept_timeout: config.cluster.accept_timeout,
        refusals,
    });
    let ended = CancellationToken::new();
    let failed = CancellationToken::new();
    let supervisor =
        tokio::spawn(supervise(tasks, group.clone(), ledger.clone(), stop.clone(), failed.clone(), ended.clone()));
    writing.keep();
    let inner = Arc::new(Inner::new(admission, group, ledger, stop, failed, ended, supervisor));
    let relay = Relay { inner };
    relay.wait_for_first_heads().await;
    Ok(relay)
}

/// Shared parts of the relay used by a chain's tasks.
#[derive(Clone)]
struct Wiring {
    ledger: Arc<dyn Ledger>,
    group: GroupCommit,
    tenants: Arc<Tenants>,
    journal: mpsc::Sender<JournalEntry>,
    pauses: Arc<PauseBoard>,
    default_within: Duration,
    cluster: ClusterConfig,
    chains: Arc<Chains>,
    stop: CancellationToken,
}

impl Wiring {
    /// Starts the tasks of a reachable chain, and serves it.
    async fn run_chain(&self, chain: CheckedChain, tasks: &mut JoinSet<Ended>) -> Result<(), BuildError> {
        let chain_id = chain.setup.spec.chain_id;
        let holder = self.ledger.leases().is_some().then(Arc::<Mutex<String>>::default);
        let signers = chain.setup.signers.clone();
        let (service, shared, inbox) = build_service(
            chain,
            &self.ledger,
            &self.tenants,
            &self.pauses,
            self.journal.clone(),
            holder.clone(),
            self.default_within,
        )
        .await?;
        let (updates, heads) = mpsc::channel::<Arc<HeadUpdate>>(16);
        let mut senders: Vec<Address> = signers.iter().map(AccountKey::address).collect();
        let watched = service.sender.lanes.iter().map(|lane| lane.machine.id().sender);
        senders.extend(watched.filter(|sender| !signers.iter().any(|signer| signer.address() == *sender)));
        if let Some(holder) = holder {
            let keeper = LeaseKeeper {
                ledger: self.ledger.clone(),
                group: self.group.clone(),
                config: self.cluster.clone(),
                chain: shared.clone(),
                tenants: self.tenants.clone(),
                signers,
                holder,
            };
            let keeper_stop = self.stop.clone();
            tasks.spawn(async move {
                keeper.run(keeper_stop).await;
                Ended::Chain(chain_id)
            });
        }
        let multicall3 = shared.multicall3();
        let (spec, pool) = (shared.spec.clone(), shared.pool.clone());
        let tuning = &shared.tuning;
        let (agreed, fee_history_blocks) = (service.agreed.clone(), tuning.fees.fee_history_blocks);
        let pace = PaceRule::new(&tuning.heads, spec.block_time());
        let silence = LEAST_SILENCE.max(tuning.heads.subscription_silence * SILENCES);
        for place in 0..pool.subscriptions(chain_id, silence).len() {
            let (pool, stop) = (pool.clone(), self.stop.clone());
            tasks.spawn(async move {
                restarted(chain_id, "subscription", &stop, || {
                    let subscription = pool.subscriptions(chain_id, silence).into_iter().nth(place);
                    let stop = stop.clone();
                    async move {
                        if let Some(subscription) = subscription {
                            subscription.run(stop).await;
                        }
                    }
                })
                .await;
                Ended::Chain(chain_id)
            });
        }
        let watch_stop = self.stop.clone();
        tasks.spawn(async move {
            restarted(chain_id, "watcher", &watch_stop, || {
                let (spec, pool, senders) = (spec.clone(), pool.clone(), senders.clone());
                let watcher = Watcher::new(spec, pool, senders, pace, multicall3, agreed.clone(), fee_history_blocks);
                watcher.run(updates.clone(), watch_stop.clone())
            })
            .await;
            Ended::Chain(chain_id)
        });
        let service_stop = self.stop.clone();
        tasks.spawn(async move {
            service.run(inbox, heads, service_stop).await;
            Ended::Chain(chain_id)
        });
        self.chains.up(shared);
        Ok(())
    }

    /// Retries a chain that was unreachable at the start, then serves it.
    async fn come_later(self, setup: ChainSetup) -> Ended {
        let chain_id = setup.spec.chain_id;
        let mut told = String::new();
        let checked = loop {
            let check = async {
                tokio::time::sleep(AWAITED_PAUSE).await;
                let known = KnownFinal::read(self.ledger.as_ref(), chain_id).await.unwrap_or_default();
                check_chain(setup.clone(), known).await
            };
            let checked = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ended::Chain(chain_id),
                checked = check => checked,
            };
            let error = match checked {
                Ok(checked) => break checked,
                Err(StartFault::Away(error) | StartFault::Wrong(error)) => error.to_string(),
            };
            if told != error {
                tracing::error!(chain_id, %error, "the chain is not served yet");
                self.chains.awaited(awaited_status(&setup, error.clone()));
                told = error;
            }
        };
        let checked = CheckedChain { is_counted: true, ..checked };
        let mut tasks = JoinSet::new();
        if let Err(error) = self.run_chain(checked, &mut tasks).await {
            return Ended::Failed(format!("chain {chain_id}: {error}"));
        }
        tracing::info!(chain_id, "the chain can be reached now and is served");
        let stop = self.stop.clone();
        // The journal ends with its last sender.
        drop(self);
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(_) if stop.is_cancelled() => {}
                Ok(ended) => return ended,
                Err(error) => return Ended::Failed(error.to_string()),
            }
        }
        Ended::Chain(chain_id)
    }
}

/// Runs a stateless task; if it panics, that is logged as an error and the task is restarted.
async fn restarted<F: Future<Output = ()>>(
    chain_id: u64,
    what: &'static str,
    stop: &CancellationToken,
    run: impl Fn() -> F,
) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() && !stop.is_cancelled() {
        tracing::error!(chain_id, what, "a task panicked; it is started anew");
        metrics::counter!("slackwater_task_panics_total", "chain_id" => chain_id.to_string()).increment(1);
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// The status of a chain without a reachable node so far.
fn awaited_status(setup: &ChainSetup, detail: String) -> ChainStatus {
    let names = |endpoint: &RpcEndpoint| EndpointStatus {
        name: endpoint.name().to_owned(),
        is_healthy: false,
        head: None,
        place: Place::default().as_str().to_owned(),
        false_simulations: 0,
        calls: 0,
        failures: 0,
        latency_ms: 0,
        last_error: None,
        is_subscribed: None,
    };
    ChainStatus {
        chain_id: setup.spec.chain_id,
        name: setup.spec.name.clone(),
        health: ChainHealth::Unavailable,
        detail: Some(format!("not reached since the start: {detail}")),
        head: None,
        head_timestamp_s: None,
        final_block: None,
        next_base_fee_wei_per_gas: None,
        quote: None,
        queued: 0,
        in_flight: 0,
        guard_ms: crate::time::millis(setup.tuning.admission.min_slack),
        guard_time_ms: crate::time::millis(setup.tuning.timing.urgent_within),
        inclusions_measured: 0,
        forwarders: setup.forwarders.iter().map(|forwarder| forwarder.address).collect(),
        forwarder_names: setup.forwarders.iter().map(|_| String::new()).collect(),
        tokens: setup.tokens.iter().map(tokens::unread).collect(),
        finality_stalled_since_ms: None,
        warnings: health::cost_of_few(setup.endpoints.len()).map(str::to_owned).into_iter().collect(),
        endpoints: setup.endpoints.iter().map(names).collect(),
    }
}

/// Aborts a task when dropped, unless disarmed.
struct AbortUnless(Option<AbortHandle>);

impl AbortUnless {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortUnless {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// The task that ended.
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

/// Watches all tasks: one that ends early stops everything, with an error in the log. On shutdown, closes the ledger
/// last.
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
        // The services have ended once only the group, and perhaps the journal, are left; the journal ends with its
        // senders.
        if stop.is_cancelled() && tasks.len() <= 1 && tokio::time::timeout(CLOSE_TIMEOUT, group.close()).await.is_err()
        {
            // A commit waits for an unavailable database: closing the ledger ends the wait, and the commit stays in
            // doubt.
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
                tenants.restore_spent(&tenant, row.chain_id, period, row.spent_wei);
            }
        }
        if tenant.policy.budget_shares != BudgetShares::default() {
            let mut after = 0;
            loop {
                let page = ledger.costs_of(&tenant.policy.id, period, after, COSTS_PAGE).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                for row in page {
                    tenants.restore_shares(&tenant, row.chain_id, (row.signer, row.target), row.counted_wei);
                }
            }
        }
    }
    Ok(())
}

/// A reachable chain, with the data read from it.
struct CheckedChain {
    setup: ChainSetup,
    pool: RpcPool,
    forwarders: BTreeMap<Address, ForwarderDomain>,
    known_forwarders: BTreeSet<Address>,
    tokens: Vec<(Token, TokenStatus)>,
    /// Address of Multicall3 if its known code is deployed.
    multicall3: Option<Address>,
    has_capped_calls: bool,
    market: ChainMarket,
    /// Newest block that a node reported; `None` if none did.
    head: Option<u64>,
    /// Data fee model; `None` if it could not be read yet, in which case the first head brings it.
    data_fee: Option<DataFeeModel>,
    /// True if the budget reservations of its open requests have been counted already.
    is_counted: bool,
}

/// Reason for not serving a chain.
pub(super) enum StartFault {
    /// No node answers, or too few do; a retry may succeed.
    Away(BuildError),
    /// The chain differs from the configuration or from the ledger; an operator must decide.
    Wrong(BuildError),
}

/// A block that was final when the relay last ran: a chain with another hash at this height is another chain.
#[derive(Debug, Clone, Copy, Default)]
struct KnownFinal(Option<(u64, B256)>);

impl KnownFinal {
    /// Reads it from the ledger.
    async fn read(ledger: &dyn Ledger, chain_id: u64) -> Result<Self, LedgerError> {
        let text = ledger.meta(&final_block_key(chain_id)).await?;
        let parsed = text.as_deref().and_then(|text| {
            let (number, hash) = text.split_once(' ')?;
            Some((number.parse().ok()?, hash.parse().ok()?))
        });
        Ok(Self(parsed))
    }

    /// Refuses a chain that has another block there, or none although its nodes are synced.
    async fn check(self, pool: &RpcPool, chain_id: u64, deadline: Instant) -> Result<(), StartFault> {
        let Some((number, hash)) = self.0 else { return Ok(()) };
        let away = |error: RpcError| StartFault::Away(BuildError::Chain { chain_id, detail: error.to_string() });
        let wrong = |found: String| {
            StartFault::Wrong(BuildError::Chain {
                chain_id,
                detail: format!(
                    "{found}, but the ledger knows block {number} as final with hash {hash}: it belongs to another chain with \
                     this id, perhaps one that was started anew. Use another `ledger.path` (or move the old file away) for this \
                     chain, or the endpoints of the old one"
                ),
            })
        };
        let params = json!([U64::from(number), false]);
        let mut header: Option<Header> = match ask(pool, "eth_getBlockByNumber", params.clone(), deadline).await {
            Err(error) if error.is_unknown_block() => None,
            answer => answer.map_err(away)?,
        };
        // A single node may be on a branch of its own.
        if header.as_ref().is_some_and(|header| header.hash != hash) {
            header = pool.call_agreed("eth_getBlockByNumber", params).await.map_err(away)?;
        }
        match header {
            Some(header) if header.hash == hash => Ok(()),
            Some(header) => Err(wrong(format!("block {number} of this chain is {}", header.hash))),
            None => {
                let newest: Option<Header> =
                    pool.call("eth_getBlockByNumber", json!(["latest", false])).await.map_err(away)?;
                let Some(newest) = newest else { return Ok(()) };
                let made_at = crate::time::Timestamp::from_secs(newest.timestamp.to());
                // Nodes that are still syncing will get it.
                if newest.number() < number && clock::now().since(made_at) <= FRESH_HEAD {
                    return Err(wrong(format!("this chain ends at block {}", newest.number())));
                }
                Ok(())
            }
        }
    }
}

/// Ledger key of the newest final block of a chain.
pub(in crate::relay) fn final_block_key(chain_id: u64) -> String {
    format!("final_block:{chain_id}")
}

async fn check_chain(setup: ChainSetup, known: KnownFinal) -> Result<CheckedChain, StartFault> {
    let chain_id = setup.spec.chain_id;
    let fault = |detail: String| StartFault::Wrong(BuildError::Chain { chain_id, detail });
    let away = |detail: String| StartFault::Away(BuildError::Chain { chain_id, detail });
    let pool = RpcPool::of_chain(setup.endpoints.clone(), &setup.tuning.rpc, setup.spec.block_time());
    let deadline = Instant::now() + CHAIN_START_TIMEOUT;
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
        if Instant::now() >= deadline {
            let last = answers.into_iter().find_map(|(_, answer)| answer.err());
            let detail = last.map_or_else(|| "no endpoint".to_owned(), |error| error.to_string());
            return Err(away(format!("no endpoint answered within {} s: {detail}", CHAIN_START_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    if let Some(cost) = health::cost_of_few(pool.len()) {
        tracing::warn!(chain_id, "{cost}");
    }
    // Unavailable nodes may belong to another chain.
    pool.expect_chain(chain_id);
    let unreachable = |error: RpcError| away(error.to_string());
    known.check(&pool, chain_id, deadline).await?;
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
    let mut served = Vec::new();
    for wanted in &setup.tokens {
        served.push(tokens::check(&pool, wanted, chain_id, deadline).await?);
    }
    let multicall3 = match setup.spec.multicall3 {
        None => None,
        Some(address) => {
            let code: Bytes =
                ask(&pool, "eth_getCode", json!([address, "latest"]), deadline).await.map_err(unreachable)?;
            let is_known = keccak256(&code) == multicall3::RUNTIME_CODE_HASH;
            if !is_known {
                let found = if code.is_empty() { "there is no contract" } else { "its code is not the known one" };
                tracing::warn!(chain_id, multicall3 = %address, found, "calls with anySender go alone, without Multicall3");
            }
            is_known.then_some(address)
        }
    };
    // The contract is of use for payments only.
    let has_capped_calls = !served.is_empty() && {
        let code: Bytes =
            ask(&pool, "eth_getCode", json!([capped_calls::ADDRESS, "latest"]), deadline).await.map_err(unreachable)?;
        keccak256(&code) == capped_calls::RUNTIME_CODE_HASH
    };
    if !served.is_empty() && !has_capped_calls {
        tracing::info!(chain_id, contract = %capped_calls::ADDRESS, "payments go alone: `CappedCalls` is not deployed");
    }
    let header: Option<Header> = pool.call("eth_getBlockByNumber", json!(["latest", false])).await.ok();
    let told = header.as_ref().map(Header::number);
    let tuning = &setup.tuning;
    let patience = tuning.heads.patience(setup.spec.block_time());
    let histories = Histories::read(&pool, tuning.fees.fee_history_blocks, told.unwrap_or_default(), patience).await;
    let mut market = ChainMarket::new(tuning.market.book(), pool.names());
    let blocks = market.absorb(clock::now(), &histories).len();
    if blocks == 0 {
        tracing::warn!(chain_id, "no fee history yet; it is asked for with every head");
    } else {
        tracing::info!(chain_id, blocks, "fee history read");
    }
    let head = told.max(market.book().newest().map(|point| point.number));
    let data_fee = match &header {
        Some(header) => {
            let common = pool.reference().map_or(header.number(), |reference| reference.min(header.number()));
            data_fee::read(&pool, setup.spec.family, multicall3, header, common).await.ok()
        }
        None => None,
    };
    let is_counted = false;
    Ok(CheckedChain {
        setup,
        pool,
        forwarders,
        known_forwarders,
        tokens: served,
        multicall3,
        has_capped_calls,
        market,
        head,
        data_fee,
        is_counted,
    })
}

/// Retries until a majority agrees or the deadline passes: one lost answer must not stop a start, nor one node that
/// lags or lies.
pub(super) async fn ask<T: serde::de::DeserializeOwned + PartialEq>(
    pool: &RpcPool,
    method: &'static str,
    params: serde_json::Value,
    deadline: Instant,
) -> Result<T, RpcError> {
    loop {
        match pool.call_agreed(method, params.clone()).await {
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
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
    pauses: &Arc<PauseBoard>,
    journal: mpsc::Sender<JournalEntry>,
    holder: Option<Arc<Mutex<String>>>,
    default_within: Duration,
) -> Result<(ChainService, Arc<ChainShared>, mpsc::Receiver<Message>), BuildError> {
    let CheckedChain {
        setup,
        pool,
        forwarders,
        known_forwarders,
        tokens,
        multicall3,
        has_capped_calls,
        market,
        head,
        data_fee,
        is_counted,
    } = chain;
    let callers = tenants.callers(&setup);
    let ChainSetup { spec, signers, tuning, .. } = setup;
    let chain_id = spec.chain_id;
    let params = VehicleParams {
        sender: signers[0].address(),
        multicall3,
        has_capped_calls,
        schedule: *spec.gas_schedule(),
        forward_overhead_gas: tuning.batch.forward_overhead_gas,
    };
    let mut gate = PercentileOutlook::new(
        OUTLOOK_BLOCKS,
        tuning.timing.patience_percentile,
        tuning.timing.urgent_within,
        PATIENCE_HORIZON,
    );
    let kept = Kept::read(ledger.as_ref(), chain_id, tuning.forecast.learned_max_bytes).await?;
    let mut pricing = Pricing::new(&spec, &tuning);
    if let Some(learned) = kept.learned.as_ref().filter(|learned| head.is_none_or(|head| learned.is_of(head))) {
        pricing.restore(&tuning, saved::delays(learned));
    }
    market.book().window().for_each(|point| pricing.block(point));
    let tip = pricing.quote(&spec, &tuning, 0, Bytes::new()).quote.max_priority_fee_per_gas;
    prime(&mut gate, market.book().window(), tip);
    let forecasts = match tuning.timing.mode {
        TimingMode::Immediate => None,
        TimingMode::Forecast | TimingMode::Percentile => {
            let mut forecasts = ForecastService::new(&spec, &tuning)
                .map_err(|error| BuildError::Chain { chain_id, detail: format!("no forecast: {error}") })?;
            forecasts.restore(kept.models, kept.learned);
            // Without a head it is not known yet whether the learned state belongs to this chain; the first head
            // decides.
            if let Some(head) = head {
                forecasts.observe(head, &market.book().window().copied().collect::<Vec<_>>());
            }
            Some(forecasts)
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
        guard_ms: crate::time::millis(tuning.admission.min_slack),
        guard_time_ms: crate::time::millis(pricing.guard()),
        inclusions_measured: pricing.measured() as u64,
        forwarders: forwarders.keys().copied().collect(),
        forwarder_names: forwarders.values().map(|domain| domain.name().to_owned()).collect(),
        tokens: tokens.iter().map(|(_, status)| status.clone()).collect(),
        finality_stalled_since_ms: None,
        warnings: health::cost_of_few(pool.len()).map(str::to_owned).into_iter().collect(),
        endpoints: pool.status(),
    };
    let contracts_len = tuning.targets.max_records as u64;
    let tokens = tokens.into_iter().map(|(token, status)| (status.address, token)).collect();
    let facts = Arc::new(ChainFacts { spec, tuning, forwarders, known_forwarders, tokens, params, default_within });
    let shared = Arc::new(ChainShared {
        facts: facts.clone(),
        pool,
        callers,
        inbox: inbox_sender,
        pauses: pauses.clone(),
        nonces: moka::future::Cache::new(NONCE_CACHE_LEN),
        agreed_at: moka::future::Cache::new(NONCE_CACHE_LEN),
        contracts: moka::future::Cache::builder().max_capacity(contracts_len).time_to_live(CODE_KEPT).build(),
        view: RwLock::new(ChainView {
            door: DoorLimits::default(),
            status,
            lanes: Vec::new(),
            price: None,
            priced_at: clock::now(),
            clock_ahead: Duration::ZERO,
            forecast: None,
            sources: Vec::new(),
            data_fee: None,
            data_fee_fault: None,
            backlogs: Arc::default(),
        }),
    });
    let (restored, membership) = match holder {
        None => (restore(ledger, &shared, tenants, signers, data_fee, is_counted).await?, None),
        // The holder of the lease reads them back.
        Some(holder) => {
            let senders = signers.iter().map(AccountKey::address).collect();
            let none = Restored { open: Open::default(), keys: Vec::new(), newest: 0 };
            (none, Some(Membership::new(holder, senders)))
        }
    };
    let now = clock::now();
    let fees = ChainFees::new(shared.tuning.timing.mode, gate, forecasts);
    let around = Surroundings {
        nodes: shared.pool.len(),
        head_tolerance: 0,
        fee_cap_wei: None,
        may_send: false,
        is_following: membership.is_some(),
        pauses: pauses.current(),
    };
    let Restored { open, keys, .. } = restored;
    let service = ChainService {
        sender: Sender::new(now, facts, (SharedBooks(tenants.clone()), fees), around, pricing, data_fee, open),
        keys,
        turns: Turns::new(shared.tuning.rpc.max_receipt_polls),
        shared: shared.clone(),
        ledger: ledger.clone(),
        tenants: tenants.clone(),
        journal,
        backlog: VecDeque::new(),
        agreed: Arc::new(AtomicU64::new(market.book().newest().map_or(0, |point| point.number))),
        market,
        data_fee_fault: None,
        clock_skew_ms: 0,
        final_kept_at: None,
        told_health: ChainHealth::Starting,
        kept_at: now,
        tasks: JoinSet::new(),
        waiters: BTreeMap::new(),
        membership,
    };
    Ok((service, shared, inbox))
}

#[cfg(test)]
pub(in crate::relay) mod tests;
